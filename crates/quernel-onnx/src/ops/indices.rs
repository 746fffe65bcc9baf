//! Elements that indices name. Constant indices are checked here; computed ones are clamped at run time.

use super::layout::{push_slice, tensor_axis};
use crate::{
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Comparison, Diagnostic, Elem, Index, Op, Scalar, Tensor, TensorTy, Value};

/// Most runs of neighbours that are cut out one by one; more are gathered.
const RUNS: usize = 16;

/// The integers of a constant of any shape.
pub(super) fn known(cx: &NodeCx<'_>, t: &Tensor) -> Result<Vec<i64>, Diagnostic> {
    t.to_ints().ok_or_else(|| cx.err(Code::UnsupportedType, "indices have to be integers"))
}

/// Those of an operand; `None` when it is computed.
fn constant(cx: &NodeCx<'_>, v: Value) -> Result<Option<Vec<i64>>, Diagnostic> {
    cx.g.tensor(v).map(|t| known(cx, t)).transpose()
}

/// Indices of `x` as i32 or i64. Constant ones that name no element are an error; `extents` are those of the axes of their
/// coordinates.
fn indices(cx: &mut NodeCx<'_>, i: Value, extents: &[usize]) -> Result<Value, Diagnostic> {
    if let Some(ints) = constant(cx, i)? {
        let outside = |(at, v): (usize, &i64)| !in_axis(*v, extents[at % extents.len()]);
        if let Some((at, v)) = ints.iter().enumerate().find(|p| outside(*p)) {
            return Err(cx.err(Code::ShapeMismatch, format!("the index {v} names no element of {}", extents[at % extents.len()])));
        }
    }
    match cx.g.ty(i).elem {
        Elem::I32 | Elem::I64 => Ok(i),
        _ => Err(cx.err(Code::UnsupportedType, "indices have to be 32-bit or 64-bit integers")),
    }
}

fn in_axis(i: i64, extent: usize) -> bool {
    let n = extent as i64;
    (-n..n).contains(&i)
}

/// A constant of indices. Its size follows from extents of the model, which may be anything.
pub(super) fn counting(cx: &mut NodeCx<'_>, dims: &[usize], each: impl Fn(usize) -> i64) -> Result<Value, Diagnostic> {
    let n = dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n <= limits::SHAPE_ELEMENTS * 1024);
    let n = n.ok_or_else(|| cx.err(Code::LimitExceeded, format!("needs a constant of {dims:?} indices")))?;
    let ty = TensorTy::new(dims, Scalar::I64);
    Ok(cx.g.constant("indices", Tensor::from_ints(ty, (0..n).map(each))))
}

pub fn gather(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, i) = (cx.arg(0)?, cx.arg(1)?);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(0), cx.dims(x).len())?;
    Ok(vec![slices(cx, x, i, axis)?])
}

/// Slices of an axis. Few runs of constant indices become slices, joined.
pub fn slices(cx: &mut NodeCx<'_>, x: Value, i: Value, axis: usize) -> Result<Value, Diagnostic> {
    let (dims, shape) = (cx.dims(x), cx.dims(i));
    let i = indices(cx, i, &dims[axis..=axis])?;
    let runs = constant(cx, i)?.and_then(|picks| runs(&picks, dims[axis]));
    let Some(runs) = runs else {
        return cx.push(Op::Gather { index: Index::Slices { axis } }, &[x, i]);
    };
    if runs.is_empty() {
        return Err(cx.err(Code::ShapeMismatch, "gathers no element"));
    }
    let slices = runs.iter().map(|&(at, n)| push_slice(cx, x, &[(axis, at, 1, n)])).collect::<Result<Vec<_>, _>>()?;
    let joined = if let [one] = slices[..] { one } else { cx.push(Op::Concat { axis }, &slices)? };
    let result: Vec<usize> = dims[..axis].iter().chain(&shape).chain(&dims[axis + 1..]).copied().collect();
    if result.len() > limits::RANK {
        return Err(cx.err(Code::LimitExceeded, format!("the result has {} axes; the limit is {}", result.len(), limits::RANK)));
    }
    cx.reshape(joined, result)
}

/// First element and length of every run of neighbours; `None` when there are many.
fn runs(picks: &[i64], extent: usize) -> Option<Vec<(usize, usize)>> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for p in picks {
        let at = quernel_ir::exact::index(*p, extent);
        let full = runs.len() == RUNS;
        match runs.last_mut() {
            Some((first, n)) if *first + *n == at => *n += 1,
            _ if full => return None,
            _ => runs.push((at, 1)),
        }
    }
    Some(runs)
}

pub fn gather_elements(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, i) = (cx.arg(0)?, cx.arg(1)?);
    let dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(0), dims.len())?;
    let i = indices(cx, i, &dims[axis..=axis])?;
    Ok(vec![cx.push(Op::Gather { index: Index::Elements { axis } }, &[x, i])?])
}

/// The operator, and the extents that its coordinates index.
fn coordinates(cx: &NodeCx<'_>, x: Value, i: Value, batch: usize) -> Result<(Index, Vec<usize>), Diagnostic> {
    let index = Index::Coordinates { batch };
    let (dims, picks) = (cx.dims(x), index.picks(&cx.g.ty(x).dims, &cx.g.ty(i).dims));
    let picks = picks.map_err(|e| cx.err(Code::ShapeMismatch, e))?;
    Ok((index, picks.named.iter().map(|&a| dims[a]).collect()))
}

pub fn gather_nd(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, i) = (cx.arg(0)?, cx.arg(1)?);
    let batch = cx.int("batch_dims")?.unwrap_or(0);
    let batch = usize::try_from(batch).map_err(|_| cx.bad_attribute(format!("attribute `batch_dims` is {batch}")))?;
    let (index, extents) = coordinates(cx, x, i, batch)?;
    let i = indices(cx, i, &extents)?;
    Ok(vec![cx.push(Op::Gather { index }, &[x, i])?])
}

fn reduction(cx: &NodeCx<'_>) -> Result<Option<Binary>, Diagnostic> {
    Ok(match cx.text("reduction")?.as_deref() {
        None | Some("none") => None,
        Some("add") => Some(Binary::Add),
        Some("mul") => Some(Binary::Mul),
        Some("min") => Some(Binary::Min),
        Some("max") => Some(Binary::Max),
        Some(other) => return Err(cx.bad_attribute(format!("attribute `reduction` is {other:?}"))),
    })
}

/// `Scatter` and `ScatterElements`.
pub fn scatter_elements(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let (x, i, u) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(0), dims.len())?;
    let reduce = reduction(cx)?;
    let i = indices(cx, i, &dims[axis..=axis])?;
    Ok(vec![cx.push(Op::Scatter { index: Index::Elements { axis }, reduce }, &[x, i, u])?])
}

pub fn scatter_nd(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let (x, i, u) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let reduce = reduction(cx)?;
    let (index, extents) = coordinates(cx, x, i, 0)?;
    let i = indices(cx, i, &extents)?;
    Ok(vec![cx.push(Op::Scatter { index, reduce }, &[x, i, u])?])
}

/// The order of axes with `first` in front of the others.
fn to_front(rank: usize, first: &[usize]) -> Vec<usize> {
    first.iter().copied().chain((0..rank).filter(|a| !first.contains(a))).collect()
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    (0..perm.len()).map(|i| perm.iter().position(|&p| p == i).unwrap_or(i)).collect()
}

/// The first elements of every sequence in reverse, as many as its length says.
pub fn reverse_sequence(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, lengths) = (cx.arg(0)?, cx.arg(1)?);
    let rank = cx.g.ty(x).rank();
    let time = tensor_axis(cx, "time_axis", 0, rank)?;
    let batch = tensor_axis(cx, "batch_axis", 1, rank)?;
    if time == batch {
        return Err(cx.bad_attribute("attributes `time_axis` and `batch_axis` are one axis"));
    }
    let (steps, n) = (cx.g.ty(x).dims[time], cx.g.ty(x).dims[batch]);
    if cx.dims(lengths) != [n] {
        return Err(cx.err(Code::ShapeMismatch, format!("{n} sequences have lengths of shape {:?}", cx.dims(lengths))));
    }
    let i = match constant(cx, lengths)? {
        Some(known) => {
            if let Some(bad) = known.iter().find(|l| !(0..=steps as i64).contains(l)) {
                return Err(cx.err(Code::ShapeMismatch, format!("a sequence of {steps} elements has the length {bad}")));
            }
            counting(cx, &[n, steps, 1], |at| {
                let (t, length) = ((at % steps) as i64, known[at / steps]);
                if t < length { length - 1 - t } else { t }
            })?
        }
        None => {
            let length = cx.cast(lengths, Scalar::I64)?;
            let length = cx.reshape(length, vec![n, 1, 1])?;
            let (t, one) = (counting(cx, &[1, steps, 1], |t| t as i64)?, counting(cx, &[], |_| 1)?);
            let inside = cx.push_as(Op::Compare(Comparison::Less), &[t, length], Elem::BOOL)?;
            let last = cx.push(Op::Binary(Binary::Sub), &[length, one])?;
            let turned = cx.push(Op::Binary(Binary::Sub), &[last, t])?;
            cx.push_as(Op::Select, &[inside, turned, t], Elem::I64)?
        }
    };
    let perm = to_front(rank, &[batch, time]);
    let back = inverse(&perm);
    let first = cx.push(Op::Transpose { perm }, &[x])?;
    let turned = cx.push(Op::Gather { index: Index::Coordinates { batch: 1 } }, &[first, i])?;
    Ok(vec![cx.push(Op::Transpose { perm: back }, &[turned])?])
}

/// Every axis repeated.
pub fn tile(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let repeats = cx.const_ints(1)?.unwrap_or_default();
    let counts: Option<Vec<usize>> = repeats.iter().map(|r| usize::try_from(*r).ok()).collect();
    let counts = counts.filter(|c| c.len() == dims.len());
    let counts = counts.ok_or_else(|| cx.err(Code::ShapeMismatch, format!("repeats {dims:?} by {repeats:?}")))?;
    if counts.contains(&0) {
        return Err(cx.unsupported("makes a tensor without elements"));
    }
    // A repeated axis is one of the repetitions and one of the elements.
    let (mut split, mut wide, mut whole) = (vec![], vec![], vec![]);
    for (&d, &n) in dims.iter().zip(&counts) {
        if n > 1 {
            split.push(1);
            wide.push(n);
        }
        split.push(d);
        wide.push(d);
        whole.push(d.checked_mul(n).ok_or_else(|| cx.err(Code::LimitExceeded, format!("repeats {dims:?} by {repeats:?}")))?);
    }
    if whole == dims {
        return Ok(vec![x]);
    }
    crate::tensor::count(&whole).map_err(|d| d.at(cx.label))?;
    // Twice the axes, at most; those in between are no tensor of the model, and have no limit.
    let elem = cx.g.ty(x).elem.clone();
    let mut y = x;
    for (op, dims) in [(Op::Reshape { dims: split.clone() }, split), (Op::Expand { dims: wide.clone() }, wide)] {
        y = cx.g.push(op, &[y], TensorTy::new(dims, elem.clone()), cx.origin.clone());
    }
    Ok(vec![cx.reshape(y, whole)?])
}

/// A cache in which an update lies from a computed place on, for each sample; a circular one goes on at its start.
pub fn tensor_scatter(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (x, u) = (cx.arg(0)?, cx.arg(1)?);
    let (dims, update) = (cx.dims(x), cx.dims(u));
    let rank = dims.len();
    let axis = tensor_axis(cx, "axis", -2, rank)?;
    let fits = update.len() == rank && (0..rank).all(|a| a == axis || dims[a] == update[a]) && axis > 0 && update[axis] <= dims[axis];
    if !fits {
        return Err(cx.err(Code::ShapeMismatch, format!("an update {update:?} of a cache {dims:?} along axis {axis}")));
    }
    let circular = match cx.text("mode")?.as_deref() {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    let (n, steps) = (dims[0], update[axis]);
    let ahead = counting(cx, &[1, steps, 1], |t| t as i64)?;
    let mut i = match cx.optional(2) {
        None => cx.push(Op::Expand { dims: vec![n, steps, 1] }, &[ahead])?,
        Some(start) if cx.dims(start) == [n] => {
            let start = cx.cast(start, Scalar::I64)?;
            let start = cx.reshape(start, vec![n, 1, 1])?;
            cx.push(Op::Binary(Binary::Add), &[start, ahead])?
        }
        Some(start) => return Err(cx.err(Code::ShapeMismatch, format!("{n} samples start at places of shape {:?}", cx.dims(start)))),
    };
    if circular {
        let extent = counting(cx, &[], |_| dims[axis] as i64)?;
        i = cx.push(Op::Binary(Binary::Modulo), &[i, extent])?;
    }
    let perm = to_front(rank, &[0, axis]);
    let back = inverse(&perm);
    let (first, update) = (cx.push(Op::Transpose { perm: perm.clone() }, &[x])?, cx.push(Op::Transpose { perm }, &[u])?);
    let y = cx.push(Op::Scatter { index: Index::Coordinates { batch: 1 }, reduce: None }, &[first, i, update])?;
    Ok(vec![cx.push(Op::Transpose { perm: back }, &[y])?])
}
