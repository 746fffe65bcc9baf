//! Sums of products of a layer's operands, in integers: exact, so that no order and no number of threads changes them.

use rayon::prelude::*;

/// Positions in a block of operands.
pub const BLOCK: usize = 256;
/// Largest magnitude of the quantized operand's integers.
pub const MOST_X: i16 = 255;
/// Largest magnitude of the integers that stand for real numbers: `BLOCK * MOST_X * MOST_F` fits 31 bits.
pub const MOST_F: i16 = 16383;

/// Rows of the sums that one task computes, and columns whose operands stay in the cache meanwhile.
const STRIPE: usize = 16;

/// What is summed over positions: `x` the operand in the quantized network, `f` the same in the float network, `r` the
/// lack of the residual (float minus quantized), each as integers times a unit.
#[derive(Clone, Debug)]
pub struct Gram {
    inputs: usize,
    outputs: usize,
    /// `sum x_i x_j`, lower triangle of `[inputs][inputs]`.
    pub(super) xx: Vec<i64>,
    /// `sum f_i x_j`, `[inputs][inputs]`.
    pub(super) fx: Vec<i64>,
    /// `sum r_o x_j`, `[outputs][inputs]`; empty without a residual.
    pub(super) rx: Vec<i64>,
    pub(super) x: Vec<i64>,
    pub(super) f: Vec<i64>,
    pub(super) r: Vec<i64>,
    pub(super) rows: u64,
    /// What an integer of `x`, `f` and `r` stands for.
    pub(super) units: [f64; 3],
}

/// Operands at up to [`BLOCK`] positions: `[rows][BLOCK]`, zeros behind the last position.
#[derive(Clone, Debug)]
pub struct Block {
    /// Operand of the quantized network, `inputs` rows.
    pub x: Vec<i16>,
    /// Operand of the float network, `inputs` rows.
    pub f: Vec<i16>,
    /// Lack of the residual, `outputs` rows or none.
    pub r: Vec<i16>,
    /// Positions that are filled.
    pub len: usize,
}

impl Gram {
    /// Sums of nothing, for `inputs` operands; `outputs` is 0 for layers without a residual. Without `products` only the
    /// means are summed.
    pub fn new(inputs: usize, outputs: usize, units: [f64; 3], products: bool) -> Self {
        let square = if products { inputs * inputs } else { 0 };
        Self {
            inputs,
            outputs,
            xx: vec![0; square],
            fx: vec![0; square],
            rx: vec![0; if products { outputs * inputs } else { 0 }],
            x: vec![0; inputs],
            f: vec![0; inputs],
            r: vec![0; outputs],
            rows: 0,
            units,
        }
    }

    /// Operands of the layer.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Positions summed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a block.
    pub fn add(&mut self, b: &Block) {
        let n = self.inputs;
        if n == 0 || b.len == 0 {
            return;
        }
        let row = |m: &[i16], i: usize| -> std::ops::Range<usize> {
            debug_assert!((i + 1) * BLOCK <= m.len());
            i * BLOCK..(i + 1) * BLOCK
        };
        let product = |sums: &mut Vec<i64>, left: &[i16], lower: bool| {
            // Without products there are no sums.
            sums.par_chunks_mut(STRIPE * n).enumerate().for_each(|(stripe, sums)| {
                let first = stripe * STRIPE;
                let rows = sums.len() / n;
                let end = if lower { first + rows } else { n };
                for j0 in (0..end).step_by(STRIPE) {
                    for i in 0..rows {
                        let a = &left[row(left, first + i)];
                        let last = if lower { (first + i + 1).min(j0 + STRIPE) } else { n.min(j0 + STRIPE) };
                        for j in j0..last.max(j0) {
                            sums[i * n + j] += i64::from(dot(a, &b.x[row(&b.x, j)]));
                        }
                    }
                }
            });
        };
        product(&mut self.xx, &b.x, true);
        product(&mut self.fx, &b.f, false);
        if self.outputs > 0 {
            product(&mut self.rx, &b.r, false);
        }
        for (sums, m) in [(&mut self.x, &b.x), (&mut self.f, &b.f), (&mut self.r, &b.r)] {
            for (sum, row) in sums.iter_mut().zip(m.chunks_exact(BLOCK)) {
                *sum += row.iter().map(|v| i64::from(*v)).sum::<i64>();
            }
        }
        self.rows += b.len as u64;
    }

    /// Means of the operand in the quantized and in the float network, and of the lack of the residual.
    pub fn means(&self) -> [Vec<f64>; 3] {
        let mean = |sums: &[i64], unit: f64| sums.iter().map(|s| *s as f64 * unit / self.rows.max(1) as f64).collect();
        [mean(&self.x, self.units[0]), mean(&self.f, self.units[1]), mean(&self.r, self.units[2])]
    }
}

/// Adds a block to each of the sums.
pub fn add_all(grams: &mut [Gram], blocks: &[Block]) {
    grams.par_iter_mut().zip(blocks).for_each(|(g, b)| g.add(b));
}

/// Fills blocks side by side.
pub fn each_block(blocks: &mut [Block], fill: impl Fn(usize, &mut Block) + Sync) {
    blocks.par_iter_mut().enumerate().for_each(|(i, b)| fill(i, b));
}

/// The form compilers turn into instructions that add pairs of 16-bit products.
fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (a, b)| sum.wrapping_add(i32::from(*a) * i32::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition_at_the_largest_magnitudes() {
        let (inputs, outputs) = (19, 5);
        let fill = |rows: usize, most: i16, salt: usize| -> Vec<i16> {
            (0..rows * BLOCK).map(|i| [most, -most, most / 3, 0, most][(i * 7 + i / BLOCK + salt) % 5]).collect()
        };
        let b = Block { x: fill(inputs, MOST_X, 0), f: fill(inputs, MOST_F, 1), r: fill(outputs, MOST_F, 2), len: BLOCK };
        let mut g = Gram::new(inputs, outputs, [1.0; 3], true);
        g.add(&b);
        g.add(&b);
        let at = |m: &[i16], i: usize, p: usize| i64::from(m[i * BLOCK + p]);
        for i in 0..inputs {
            for j in 0..inputs {
                let sum = |m: &[i16]| 2 * (0..BLOCK).map(|p| at(m, i, p) * at(&b.x, j, p)).sum::<i64>();
                assert_eq!(g.fx[i * inputs + j], sum(&b.f));
                assert_eq!(g.xx[i * inputs + j], if j <= i { sum(&b.x) } else { 0 }, "{i} {j}");
            }
        }
        assert_eq!(g.rx[inputs + 2], 2 * (0..BLOCK).map(|p| at(&b.r, 1, p) * at(&b.x, 2, p)).sum::<i64>());
        assert_eq!((g.rows(), g.means()[0][3]), (512, (0..BLOCK).map(|p| at(&b.x, 3, p)).sum::<i64>() as f64 / 256.0));
    }
}
