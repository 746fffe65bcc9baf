//! Widths under limits: the assignment of least loss whose size, time, arena and accuracy stay within what the user allows.
//!
//! 1. Every layer is tried at every width in real forward passes (`recover::probe`): its loss at the network's output.
//! 2. Times come from a table: every layer at every width, timed on this machine.
//! 3. A multiple-choice knapsack adds losses, sizes and times up. Real losses exceed the sum by up to a few times, but keep
//!    its order.
//! 4. The best assignments are compiled, their weights rounded in sequence, and judged by their real loss.
//! 5. Exchanges between pairs of layers go on while the real loss falls.

mod limits;
mod loss;
mod search;
mod times;

pub use limits::Budget;
pub use loss::{Loss, first_outputs};
pub use search::{Choice, Chosen, search};
pub use times::Times;
