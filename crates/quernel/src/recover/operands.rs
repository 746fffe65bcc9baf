//! The operands of a layer's sums, gathered from its input tensors.

use quernel_ir::{Diagnostic, Op, Tensor, TensorTy, Window};
use quernel_quant::recover::{BLOCK, Block, MOST_F, MOST_X};

/// How a layer reads its input: which elements meet which weights at an output position.
pub struct Geometry {
    /// Channel groups; every group has weights of its own.
    pub groups: usize,
    /// Operands of a sum.
    pub inputs: usize,
    /// Output channels of a group.
    pub rows: usize,
    /// Output positions of a sample.
    pub positions: usize,
    shape: Shape,
}

enum Shape {
    /// `[positions, inputs]`.
    Dense,
    /// `[N, C, spatial..]` under a window.
    Conv { channels: usize, extents: Vec<usize>, outputs: Vec<usize>, window: Window },
}

/// Steps of a word that sums of products count as one: the error of a sum needs no finer operands.
pub const COARSE: i32 = 32;
/// Largest magnitude of what words and the floats beside them count as: `BLOCK MOST_WORD^2` fits 31 bits.
pub const MOST_WORD: i16 = 2048;

/// Elements of a tensor, or of its padding.
pub enum Values<'a> {
    /// Integers around a zero point.
    Bytes(&'a [u8], i32, bool),
    /// Words around a zero point; they count in units of [`COARSE`] steps.
    Words(&'a [u8], i32, bool),
    /// Real numbers in steps of a unit.
    Real(&'a [f32], f64),
}

impl Values<'_> {
    fn at(&self, i: usize) -> i16 {
        match self {
            Self::Bytes(b, zero, signed) => {
                let q = if *signed { i32::from(b[i] as i8) } else { i32::from(b[i]) };
                (q - zero).clamp(-i32::from(MOST_X), i32::from(MOST_X)) as i16
            }
            Self::Words(b, zero, signed) => {
                let word = u16::from_le_bytes([b[2 * i], b[2 * i + 1]]);
                let q = if *signed { i32::from(word as i16) } else { i32::from(word) };
                ((q - zero + COARSE / 2).div_euclid(COARSE)) as i16
            }
            Self::Real(x, unit) => {
                let most = f64::from(MOST_F);
                (f64::from(x[i]) / unit).round_ties_even().clamp(-most, most) as i16
            }
        }
    }
}

impl Geometry {
    /// The geometry of a layer by its operator and the types of operand, weights and result.
    pub fn of(op: &Op, x: &TensorTy, w: &TensorTy, y: &TensorTy) -> Option<Self> {
        let inputs: usize = w.dims.get(1..)?.iter().product();
        match op {
            Op::Dense { .. } => {
                let positions = x.count() / inputs.max(1);
                Some(Self { groups: 1, inputs, rows: w.dims[0], positions, shape: Shape::Dense })
            }
            Op::Conv { window, groups, .. } => {
                let outputs = y.dims.get(2..)?.to_vec();
                let positions = y.dims[0] * outputs.iter().product::<usize>();
                let shape = Shape::Conv { channels: x.dims[1], extents: x.dims[2..].to_vec(), outputs, window: window.clone() };
                Some(Self { groups: *groups, inputs, rows: w.dims[0] / groups, positions, shape })
            }
            _ => None,
        }
    }

    /// Calls `each(operand, element)` for the operands of group `group` at `position`: the input element it is, or padding.
    pub fn operands(&self, group: usize, position: usize, mut each: impl FnMut(usize, Option<usize>)) {
        match &self.shape {
            Shape::Dense => (0..self.inputs).for_each(|i| each(i, Some(position * self.inputs + i))),
            Shape::Conv { channels, extents, outputs, window } => {
                let plane: usize = extents.iter().product();
                let (image, mut rest) = (position / outputs.iter().product::<usize>(), position % outputs.iter().product::<usize>());
                let mut at = vec![0usize; outputs.len()];
                for axis in (0..outputs.len()).rev() {
                    at[axis] = rest % outputs[axis];
                    rest /= outputs[axis];
                }
                let per_group = channels / self.groups;
                let taps = self.inputs / per_group.max(1);
                for tap in 0..taps {
                    let (mut offset, mut stride, mut rest, mut inside) = (0, 1, tap, true);
                    for axis in (0..extents.len()).rev() {
                        let d = window.dims[axis];
                        let from = at[axis] * d.stride + rest % d.kernel * d.dilation;
                        rest /= d.kernel;
                        inside &= from >= d.before && from - d.before < extents[axis];
                        offset += stride * from.saturating_sub(d.before);
                        stride *= extents[axis];
                    }
                    for c in 0..per_group {
                        let channel = image * channels + group * per_group + c;
                        each(c * taps + tap, inside.then_some(channel * plane + offset));
                    }
                }
            }
        }
    }

    /// Writes the operands of group `group` at `position` into column `column` of `[inputs][BLOCK]`.
    fn gather(&self, values: &Values<'_>, group: usize, position: usize, column: usize, to: &mut [i16]) {
        self.operands(group, position, |i, at| to[i * BLOCK + column] = at.map_or(0, |at| values.at(at)));
    }

    /// Index of output element `row` of `group` at `position`.
    pub fn result(&self, group: usize, row: usize, position: usize) -> usize {
        let channel = group * self.rows + row;
        match &self.shape {
            Shape::Dense => position * self.rows + channel,
            Shape::Conv { outputs, .. } => {
                let plane: usize = outputs.iter().product();
                (position / plane * self.rows * self.groups + channel) * plane + position % plane
            }
        }
    }

    /// An empty block per group.
    pub fn blocks(&self, residual: bool) -> Vec<Block> {
        let rows = if residual { self.rows } else { 0 };
        let one = Block { x: vec![0; self.inputs * BLOCK], f: vec![0; self.inputs * BLOCK], r: vec![0; rows * BLOCK], len: 0 };
        vec![one; self.groups]
    }

    /// Adds a position to the blocks of all groups. `lack` is the residual's lack in its units.
    pub fn fill(&self, blocks: &mut [Block], x: &Values<'_>, f: &Values<'_>, lack: Option<&Values<'_>>, position: usize) {
        for (group, b) in blocks.iter_mut().enumerate() {
            let column = b.len;
            self.gather(x, group, position, column, &mut b.x);
            self.gather(f, group, position, column, &mut b.f);
            if let Some(lack) = lack {
                for row in 0..self.rows {
                    b.r[row * BLOCK + column] = lack.at(self.result(group, row, position));
                }
            }
            b.len += 1;
        }
    }

    /// Makes full blocks empty again.
    pub fn clear(blocks: &mut [Block]) {
        for b in blocks {
            for m in [&mut b.x, &mut b.f, &mut b.r] {
                m.fill(0);
            }
            b.len = 0;
        }
    }
}

/// The integers of a quantized tensor of one scale.
pub fn integers(t: &Tensor) -> Result<Values<'_>, Diagnostic> {
    let q = t.ty.elem.quant().filter(|q| q.storage().bits() <= 16);
    let params = q.and_then(|q| Some((q.tensor_params()?.1, q.storage())));
    let (zero, storage) = params.ok_or_else(|| Diagnostic::bug(format!("an operand of type {} is no integer", t.ty)))?;
    let values = if storage.bytes() == 2 { Values::Words } else { Values::Bytes };
    Ok(values(t.bytes(), zero, storage.signed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_interp::eval_node;
    use quernel_ir::{Act, Multiplier, WindowDim, infer};

    /// Blocks of the largest words and floats beside them still sum in 32 bits.
    #[test]
    fn words_count_in_coarse_steps() {
        let ends: Vec<u8> = [i16::MIN, -17, -16, 15, 16, i16::MAX].into_iter().flat_map(i16::to_le_bytes).collect();
        let at = |zero: i32| -> Vec<i16> { (0..6).map(|i| Values::Words(&ends, zero, true).at(i)).collect() };
        assert_eq!(at(0), [-1024, -1, 0, 0, 1, 1024]);
        assert_eq!((at(32767)[0], at(-32768)[5]), (-2048, 2048));
        assert_eq!(Values::Words(&ends, 0, false).at(0), 1024);
        assert!(BLOCK as i64 * i64::from(MOST_WORD).pow(2) < 1 << 31);
    }

    /// Sums over gathered operands are the convolution.
    #[test]
    fn gathered_operands_times_weights_are_the_layer() {
        let dim = |kernel, stride, dilation, before, after| WindowDim { kernel, stride, dilation, before, after };
        let window = Window { dims: vec![dim(3, 2, 1, 1, 0), dim(2, 1, 2, 0, 2)] };
        let conv = |groups| Op::Conv { window: window.clone(), groups, act: Act::None, residual: false, multiplier: Multiplier::F64 };
        let dense = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
        let cases: [(Op, &[usize], &[usize]); 4] = [
            (conv(1), &[2, 4, 7, 5], &[6, 4, 3, 2]),
            (conv(2), &[1, 4, 7, 5], &[6, 2, 3, 2]),
            (conv(4), &[1, 4, 6, 5], &[4, 1, 3, 2]),
            (dense, &[2, 3, 5], &[4, 5]),
        ];
        for (op, x, w) in cases {
            let numbers = |dims: &[usize], salt: usize| -> Vec<f32> {
                (0..dims.iter().product::<usize>()).map(|i| ((i * 37 + salt) % 17) as f32 - 8.0).collect()
            };
            let (tx, tw) = (Tensor::f32(x, &numbers(x, 1)), Tensor::f32(w, &numbers(w, 5)));
            let ty = TensorTy::f32(infer::dims(&op, &[&tx.ty, &tw.ty]).expect("fits"));
            let want = eval_node(&op, &[&tx, &tw], &ty).expect("runs").to_f32().expect("floats");
            let g = Geometry::of(&op, &tx.ty, &tw.ty, &ty).expect("a layer");
            let (data, weights) = (numbers(x, 1), numbers(w, 5));
            for position in 0..g.positions {
                let mut blocks = g.blocks(false);
                g.fill(&mut blocks, &Values::Real(&data, 1.0), &Values::Real(&data, 1.0), None, position);
                for (group, b) in blocks.iter().enumerate() {
                    for row in 0..g.rows {
                        let weight = |i: usize| weights[(group * g.rows + row) * g.inputs + i];
                        let sum: f32 = (0..g.inputs).map(|i| f32::from(b.x[i * BLOCK]) * weight(i)).sum();
                        assert_eq!(sum, want[g.result(group, row, position)], "{op:?} {position}");
                    }
                }
            }
        }
    }
}
