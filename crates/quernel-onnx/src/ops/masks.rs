//! Elements chosen by a comparison of indices with places.

use super::indices::counting;
use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Comparison, Diagnostic, Elem, Op, Scalar, Tensor, TensorTy, Value};

/// The numbers from 0 along one axis of a tensor of rank `rank`.
fn places(cx: &mut NodeCx<'_>, rank: usize, axis: usize, extent: usize) -> Result<Value, Diagnostic> {
    let mut dims = vec![1; rank];
    dims[axis] = extent;
    counting(cx, &dims, |i| i as i64)
}

fn zero(cx: &mut NodeCx<'_>, elem: &Elem) -> Result<Value, Diagnostic> {
    let zero = Tensor::new(TensorTy::new([], elem.clone()), vec![0; elem.bytes()]).map_err(Diagnostic::bug)?;
    Ok(cx.g.constant("zero", zero))
}

/// 1 at the largest element of an axis, the first of equal ones.
pub fn hardmax(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let rank = dims.len();
    let Elem::Scalar(scalar) = cx.g.ty(x).elem else {
        return Err(cx.err(Code::UnsupportedType, "operands have to be float"));
    };
    // Before opset 13 the distribution was over all axes from `axis` on.
    let (x, axis) = if cx.opset >= 13 {
        (x, cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?)
    } else {
        let axis = cx.int("axis")?.unwrap_or(1);
        let axis = if axis == rank as i64 { rank } else { cx.axis(axis, rank)? };
        (cx.reshape(x, vec![dims[..axis].iter().product(), dims[axis..].iter().product()])?, 1)
    };
    let (rank, extent) = (cx.g.ty(x).rank(), cx.g.ty(x).dims[axis]);
    let at = cx.push_as(Op::TopK { axis, k: 1, smallest: false, last: false }, &[x], Elem::I64)?;
    let places = places(cx, rank, axis, extent)?;
    let hit = cx.push_as(Op::Compare(Comparison::Equal), &[at, places], Elem::BOOL)?;
    let y = cx.cast(hit, scalar)?;
    Ok(vec![cx.reshape(y, dims)?])
}

/// The one number of a constant operand, of whatever type.
fn number(cx: &NodeCx<'_>, i: usize) -> Result<i64, Diagnostic> {
    let v = cx.arg(i)?;
    let constant = cx.g.tensor(v);
    let constant = constant.ok_or_else(|| cx.unsupported(format!("operand {i} ({:?}) has to be a constant", cx.g.values[v].name)))?;
    let ints = constant.to_ints().or_else(|| constant.to_f32().map(|x| x.iter().map(|x| *x as i64).collect()));
    match ints.as_deref() {
        Some(&[n]) => Ok(n),
        _ => Err(cx.err(Code::ShapeMismatch, format!("operand {i} is not one number"))),
    }
}

/// One of two values, the second where the index is the place along the new axis.
pub fn one_hot(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let (indices, values) = (cx.arg(0)?, cx.arg(2)?);
    let mut dims = cx.dims(indices);
    let rank = dims.len() + 1;
    let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?;
    let depth = usize::try_from(number(cx, 1)?).ok().filter(|d| (1..1 << 31).contains(d));
    let depth = depth.ok_or_else(|| cx.err(Code::ShapeMismatch, "the depth is not a positive number"))?;
    if cx.dims(values) != [2] {
        return Err(cx.err(Code::ShapeMismatch, format!("values of shape {:?} instead of [2]", cx.dims(values))));
    }
    let i = cx.cast(indices, Scalar::I64)?;
    dims.insert(axis, 1);
    let i = cx.reshape(i, dims)?;
    let (none, n) = (counting(cx, &[], |_| 0)?, counting(cx, &[], |_| depth as i64)?);
    let negative = cx.push_as(Op::Compare(Comparison::Less), &[i, none], Elem::BOOL)?;
    let wrapped = cx.push(Op::Binary(Binary::Add), &[i, n])?;
    let elem = Elem::I64;
    let i = cx.push_as(Op::Select, &[negative, wrapped, i], elem)?;
    let places = places(cx, rank, axis, depth)?;
    let hit = cx.push_as(Op::Compare(Comparison::Equal), &[i, places], Elem::BOOL)?;
    let [off, on] = [0, 1].map(|at| {
        let part = cx.push(Op::Slice { start: vec![at], step: vec![1], len: vec![1] }, &[values])?;
        cx.reshape(part, vec![])
    });
    let elem = cx.g.ty(values).elem.clone();
    Ok(vec![cx.push_as(Op::Select, &[hit, on?, off?], elem)?])
}

/// The triangle on one side of a diagonal; 0 elsewhere.
pub fn trilu(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let upper = cx.flag("upper", true)?;
    let [.., rows, columns] = cx.g.ty(x).dims[..] else {
        return Err(cx.err(Code::ShapeMismatch, format!("a triangle of {:?}", cx.g.ty(x).dims)));
    };
    let (row, column) = (counting(cx, &[rows, 1], |i| i as i64)?, counting(cx, &[1, columns], |i| i as i64)?);
    let k = match cx.optional(1) {
        None => counting(cx, &[], |_| 0)?,
        Some(k) if cx.g.ty(k).count() == 1 => {
            let k = cx.cast(k, Scalar::I64)?;
            cx.reshape(k, vec![])?
        }
        Some(k) => return Err(cx.err(Code::ShapeMismatch, format!("the diagonal has the shape {:?}", cx.dims(k)))),
    };
    // Where the diagonal meets every row.
    let diagonal = cx.push(Op::Binary(Binary::Add), &[row, k])?;
    let args = if upper { [diagonal, column] } else { [column, diagonal] };
    let kept = cx.push_as(Op::Compare(Comparison::LessEqual), &args, Elem::BOOL)?;
    let elem = cx.g.ty(x).elem.clone();
    let zero = zero(cx, &elem)?;
    Ok(vec![cx.push_as(Op::Select, &[kept, x, zero], elem)?])
}
