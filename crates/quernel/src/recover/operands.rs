//! The operands of a layer's sums, gathered from its input tensors.

use quernel_ir::{Diagnostic, Op, Tensor, TensorTy, WindowDim};
use quernel_quant::recover::{BLOCK, Block, MOST_F, MOST_X, each_block};

/// How a layer reads its input: which elements meet which weights at an output position. `[N, C, spatial..]` under a window;
/// a dense layer has no spatial axes.
pub struct Geometry {
    /// Channel groups; every group has weights of its own.
    pub groups: usize,
    /// Operands of a sum.
    pub inputs: usize,
    /// Output channels of a group.
    pub rows: usize,
    /// Output positions of a sample.
    pub positions: usize,
    channels: usize,
    extents: Vec<usize>,
    outputs: Vec<usize>,
    window: Vec<WindowDim>,
}

/// Stands for an element of the padding.
const OUTSIDE: usize = usize::MAX;

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
    /// All of them, as sums of products take them.
    pub fn narrow(&self) -> Vec<i16> {
        let count = match self {
            Self::Bytes(b, ..) => b.len(),
            Self::Words(b, ..) => b.len() / 2,
            Self::Real(x, _) => x.len(),
        };
        (0..count).map(|i| self.at(i)).collect()
    }

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
                let (extents, outputs, window) = Default::default();
                Some(Self { groups: 1, inputs, rows: w.dims[0], positions, channels: inputs, extents, outputs, window })
            }
            Op::Conv { window, groups, .. } => {
                let outputs = y.dims.get(2..)?.to_vec();
                let positions = y.dims[0] * outputs.iter().product::<usize>();
                let (extents, window) = (x.dims[2..].to_vec(), window.dims.clone());
                Some(Self { groups: *groups, inputs, rows: w.dims[0] / groups, positions, channels: x.dims[1], extents, outputs, window })
            }
            _ => None,
        }
    }

    /// Channels and taps of a sum.
    fn sum(&self) -> (usize, usize) {
        let channels = self.channels / self.groups;
        (channels, self.inputs / channels.max(1))
    }

    fn plane(&self) -> usize {
        self.extents.iter().product()
    }

    /// For every tap at every position, `[taps][positions]`, the element of the first channel it reads, or [`OUTSIDE`].
    fn taps(&self, positions: &[usize]) -> Vec<usize> {
        let (taps, image) = (self.sum().1, self.outputs.iter().product::<usize>());
        let mut all = vec![OUTSIDE; taps * positions.len()];
        let mut at = vec![0usize; self.outputs.len()];
        for (column, position) in positions.iter().enumerate() {
            let mut rest = position % image;
            for axis in (0..at.len()).rev() {
                at[axis] = rest % self.outputs[axis];
                rest /= self.outputs[axis];
            }
            for tap in 0..taps {
                let (mut offset, mut stride, mut rest, mut inside) = (0, 1, tap, true);
                for (axis, d) in self.window.iter().enumerate().rev() {
                    let from = at[axis] * d.stride + rest % d.kernel * d.dilation;
                    rest /= d.kernel;
                    inside &= from >= d.before && from - d.before < self.extents[axis];
                    offset += stride * from.saturating_sub(d.before);
                    stride *= self.extents[axis];
                }
                if inside {
                    all[tap * positions.len() + column] = position / image * self.channels * stride + offset;
                }
            }
        }
        all
    }

    /// Calls `each(operand, element)` for the operands of group `group` at `position`: the input element it is, or padding.
    pub fn operands(&self, group: usize, position: usize, mut each: impl FnMut(usize, Option<usize>)) {
        let ((channels, taps), plane) = (self.sum(), self.plane());
        let elements = self.taps(&[position]);
        for c in 0..channels {
            for (tap, &at) in elements.iter().enumerate() {
                each(c * taps + tap, (at != OUTSIDE).then(|| (group * channels + c) * plane + at));
            }
        }
    }

    /// Index of output element `row` of `group` at `position`.
    pub fn result(&self, group: usize, row: usize, position: usize) -> usize {
        let plane: usize = self.outputs.iter().product();
        (position / plane * self.rows * self.groups + group * self.rows + row) * plane + position % plane
    }

    /// An empty block per group.
    pub fn blocks(&self, residual: bool) -> Vec<Block> {
        let rows = if residual { self.rows } else { 0 };
        let one = Block { x: vec![0; self.inputs * BLOCK], f: vec![0; self.inputs * BLOCK], r: vec![0; rows * BLOCK], len: 0 };
        vec![one; self.groups]
    }

    /// Adds positions, no more than there is room for, to the blocks of all groups. `lack` is the residual's lack in its units.
    pub fn fill(&self, blocks: &mut [Block], x: &[i16], f: &[i16], lack: Option<&[i16]>, positions: &[usize]) {
        let ((channels, taps), plane, elements) = (self.sum(), self.plane(), self.taps(positions));
        each_block(blocks, |group, b| {
            let columns = b.len..b.len + positions.len();
            for i in 0..self.inputs {
                let first = (group * channels + i / taps) * plane;
                let elements = &elements[i % taps * positions.len()..][..positions.len()];
                for (from, to) in [(x, &mut b.x), (f, &mut b.f)] {
                    for (to, &at) in to[i * BLOCK..][columns.clone()].iter_mut().zip(elements) {
                        *to = if at == OUTSIDE { 0 } else { from[first + at] };
                    }
                }
            }
            if let Some(lack) = lack {
                for row in 0..self.rows {
                    for (to, &position) in b.r[row * BLOCK..][columns.clone()].iter_mut().zip(positions) {
                        *to = lack[self.result(group, row, position)];
                    }
                }
            }
            b.len = columns.end;
        });
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
    use quernel_ir::{Act, Multiplier, Window, infer};

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
            let (data, weights) = (Values::Real(&numbers(x, 1), 1.0).narrow(), numbers(w, 5));
            let twice: Vec<i16> = data.iter().map(|x| 2 * x).collect();
            let places: Vec<i16> = (0..want.len() as i16).collect();
            let positions: Vec<usize> = (0..g.positions).rev().collect();
            assert!(positions.len() > 2 && positions.len() <= BLOCK);
            let mut blocks = g.blocks(true);
            // In two parts, the second behind the first.
            g.fill(&mut blocks, &data, &twice, Some(&places), &positions[..2]);
            g.fill(&mut blocks, &data, &twice, Some(&places), &positions[2..]);
            for (group, b) in blocks.iter().enumerate() {
                for (column, &position) in positions.iter().enumerate() {
                    for row in 0..g.rows {
                        let weight = |i: usize| weights[(group * g.rows + row) * g.inputs + i];
                        let sum: f32 = (0..g.inputs).map(|i| f32::from(b.x[i * BLOCK + column]) * weight(i)).sum();
                        let at = g.result(group, row, position);
                        assert_eq!(sum, want[at], "{op:?} {position}");
                        assert_eq!(usize::from(b.r[row * BLOCK + column] as u16), at, "{op:?} {position}");
                    }
                    assert!((0..g.inputs).all(|i| b.f[i * BLOCK + column] == 2 * b.x[i * BLOCK + column]), "{op:?} {position}");
                }
            }
        }
    }
}
