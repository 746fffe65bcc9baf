//! Rounding weights with the layer's operands in view: codes that bring the layer's sum near that of the float network.
//!
//! With `w` a row of float weights, `f` its operand in the float network, `x` the operand as the quantized network
//! computes it and `r` what the residual lacks, a row of rounded weights `q` should minimise
//!
//! ```text
//! E |w f + r - q x|^2 + d |w - q|^2  =  (q - t) A (q - t)' + constant
//! A = E[x x'] + d I        t = (w E[f x'] + E[r x'] + d w) A^-1
//! ```
//!
//! so the errors of earlier layers are made up for as far as this layer can. The codes are found in three steps:
//!
//! 1. **Error feedback** (GPTQ: Frantar et al. 2022): columns are rounded one after another, from the operand with the
//!    most energy to that with the least, and each takes over the errors made so far. With `A = L L'` this is
//!    Babai's nearest plane: column `i` aims at `t_i - sum_{k>i} L_ki e_k / L_ii`.
//! 2. **Refit**: the scale of the row that is best for the codes, in closed form.
//! 3. **Descent**: single codes move as long as the error falls.
//!
//! Everything is f64 in a fixed order; rows are independent, so threads change nothing.

mod factor;
mod gram;
mod ladder;
mod rows;

pub use gram::{BLOCK, Block, Gram, MOST_F, MOST_X, add_all, each_block};
pub(crate) use ladder::Ladder;
pub use rows::{Legal, Rounded, Solver, Steps, solvers};
