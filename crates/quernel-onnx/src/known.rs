//! Moves and casts of small constants, evaluated at once: their elements may be extents, indices or bounds of operators
//! behind them.

use crate::limits;
use quernel_ir::{Elem, Op, Scalar, Tensor, TensorTy, exact, float, plain};

/// Most floats that are moved here: bounds and scales, not weights, which passes fold.
const FLOATS: usize = 16;

/// The result of a move or a cast of constants, if it is a small one, or of a function of single floats: trip counts and
/// extents are computed with them.
pub fn moved(op: &Op, args: &[&Tensor], ty: &TensorTy) -> Option<Tensor> {
    let (Elem::Scalar(from), Elem::Scalar(to)) = (&args.first()?.ty.elem, &ty.elem) else { return None };
    if ty.count() > if to.is_float() { FLOATS } else { limits::SHAPE_ELEMENTS } {
        return None;
    }
    let width = from.bytes();
    let x = args[0];
    let bytes = match op {
        Op::Reshape { .. } => x.bytes().to_vec(),
        Op::Cast => plain::cast(*from, *to, x.bytes()),
        Op::Concat { axis } => {
            let rows: usize = ty.dims[..*axis].iter().product();
            let row = |t: &Tensor, i: usize| {
                let n = t.bytes().len() / rows.max(1);
                t.bytes()[i * n..(i + 1) * n].to_vec()
            };
            (0..rows).flat_map(|i| args.iter().flat_map(move |t| row(t, i))).collect()
        }
        Op::Slice { start, step, len } => {
            let element = |flat: usize| {
                let (mut rest, mut at, mut stride) = (flat, 0usize, 1usize);
                for i in (0..len.len()).rev() {
                    at += (start[i] as isize + (rest % len[i]) as isize * step[i]) as usize * stride;
                    rest /= len[i];
                    stride *= x.ty.dims[i];
                }
                x.bytes()[at * width..(at + 1) * width].to_vec()
            };
            (0..ty.count()).flat_map(element).collect()
        }
        Op::Unary(f) if single(args) => float::unary(*f, x.to_f32()?[0]).to_le_bytes().to_vec(),
        Op::Binary(f) if single(args) => exact::binary(*f, x.to_f32()?[0], args[1].to_f32()?[0]).to_le_bytes().to_vec(),
        _ => return None,
    };
    Tensor::new(ty.clone(), bytes).ok()
}

fn single(args: &[&Tensor]) -> bool {
    args.iter().all(|t| t.ty.count() == 1 && t.ty.elem == Scalar::F32.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_those_of_the_operators() {
        let x = Tensor::i64([2, 3], &[0, 1, 2, 3, 4, 5]);
        let ints = |op: &Op, args: &[&Tensor], dims: &[usize]| {
            moved(op, args, &TensorTy::new(dims, Scalar::I64)).and_then(|t| t.to_ints()).expect("a small move")
        };
        let slice = Op::Slice { start: vec![1, 2], step: vec![-1, -2], len: vec![2, 2] };
        assert_eq!(ints(&slice, &[&x], &[2, 2]), [5, 3, 2, 0]);
        assert_eq!(ints(&Op::Concat { axis: 1 }, &[&x, &x], &[2, 6]), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(ints(&Op::Concat { axis: 0 }, &[&x, &x], &[4, 3]), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
        let large = Tensor::f32([17], &[0.0; 17]);
        assert!(moved(&Op::Reshape { dims: vec![1, 17] }, &[&large], &TensorTy::f32([1, 17])).is_none());
    }
}
