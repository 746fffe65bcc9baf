//! Operators whose results have as many elements as their operands' contents say: evaluated, where those are constant.

use super::indices::{counting, known};
use crate::{
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Elem, Index, Op, Tensor, TensorTy, Value, exact};
use std::cmp::Ordering;

/// A constant operand.
fn constant(cx: &NodeCx<'_>, i: usize) -> Result<Tensor, Diagnostic> {
    let v = cx.arg(i)?;
    let constant = cx.g.tensor(v).cloned();
    constant.ok_or_else(|| {
        cx.unsupported(format!("operand {i} ({:?}) decides how many elements the result has, and is not a constant", cx.g.values[v].name))
            .help("compiled code has tensors of fixed extents; cut the model before this node, or pin the input with `--pin`")
    })
}

fn integers(cx: &mut NodeCx<'_>, dims: &[usize], data: &[i64]) -> Result<Value, Diagnostic> {
    if dims.contains(&0) {
        return Err(cx.unsupported("makes a tensor without elements"));
    }
    counting(cx, dims, |i| data[i])
}

/// Keys that order elements, and are equal where they are.
fn keys(cx: &NodeCx<'_>, t: &Tensor) -> Result<Vec<i64>, Diagnostic> {
    let Elem::Scalar(s) = t.ty.elem else {
        return Err(cx.err(Code::UnsupportedType, "operands have to be plain numbers"));
    };
    let unused = if s.is_signed() || s.is_float() { 64 - 8 * s.bytes() as u32 } else { 0 };
    let raw = |b: &[u8]| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    Ok(t.bytes().chunks_exact(s.bytes()).map(|b| exact::order_key(s, ((raw(b) << unused) as i64) >> unused)).collect())
}

/// The elements for which a constant condition holds, of an axis or of all.
pub fn compress(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (mut x, mut axis) = (cx.arg(0)?, 0);
    match cx.int("axis")? {
        Some(a) => axis = cx.axis(a, cx.g.ty(x).rank())?,
        None => x = cx.reshape(x, vec![cx.g.ty(x).count()])?,
    }
    let condition = constant(cx, 1)?;
    let condition = known(cx, &condition)?;
    let extent = cx.g.ty(x).dims[axis];
    let picks: Vec<i64> = (0..condition.len().min(extent)).filter(|&i| condition[i] != 0).map(|i| i as i64).collect();
    let i = integers(cx, &[picks.len()], &picks)?;
    Ok(vec![cx.push(Op::Gather { index: Index::Slices { axis } }, &[x, i])?])
}

/// The places of all elements that are not 0, one column each.
pub fn non_zero(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = constant(cx, 0)?;
    let found: Vec<usize> = keys(cx, &x)?.iter().enumerate().filter(|(_, k)| **k != 0).map(|(i, _)| i).collect();
    let dims = &x.ty.dims;
    let mut data = Vec::with_capacity(found.len() * dims.len());
    for axis in 0..dims.len() {
        let inner: usize = dims[axis + 1..].iter().product();
        data.extend(found.iter().map(|i| (i / inner % dims[axis]) as i64));
    }
    Ok(vec![integers(cx, &[dims.len(), found.len()], &data)?])
}

/// Different elements, or slices along an axis; where each occurs first, which of them each is, and how often it occurs.
pub fn unique(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = constant(cx, 0)?;
    let sorted = cx.flag("sorted", true)?;
    let axis = cx.int("axis")?.map(|a| cx.axis(a, x.ty.rank())).transpose()?;
    // `[outer][n][inner]`: the n slices are compared.
    let dims = axis.map_or_else(|| vec![x.ty.count()], |_| x.ty.dims.clone());
    let at = axis.unwrap_or(0);
    let (n, inner) = (dims[at], dims[at + 1..].iter().product::<usize>());
    let outer: usize = dims[..at].iter().product();
    let keys = keys(cx, &x)?;
    let slice = |i: usize| (0..outer).flat_map(move |o| (0..inner).map(move |k| (o * n + i) * inner + k));
    let compare = |a: usize, b: usize| -> Ordering { slice(a).map(|i| keys[i]).cmp(slice(b).map(|i| keys[i])) };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
    // Groups of equal slices, each in order of occurrence.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], i) == Ordering::Equal => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    if !sorted {
        groups.sort_by_key(|g| g[0]);
    }
    let first: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|g| g.len() as i64).collect();
    let mut inverse = vec![0; n];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&i| inverse[i] = number as i64);
    }
    let width = x.ty.elem.bytes();
    let mut bytes = Vec::with_capacity(outer * groups.len() * inner * width);
    for o in 0..outer {
        for group in &groups {
            bytes.extend_from_slice(&x.bytes()[(o * n + group[0]) * inner * width..][..inner * width]);
        }
    }
    let mut out = dims;
    out[at] = groups.len();
    cx.take_bytes(bytes.len())?;
    let y = Tensor::new(TensorTy::new(out, x.ty.elem.clone()), bytes).map_err(Diagnostic::bug)?;
    let y = cx.g.constant("unique", y);
    Ok(vec![y, integers(cx, &[first.len()], &first)?, integers(cx, &[n], &inverse)?, integers(cx, &[counts.len()], &counts)?])
}

/// A box by its corners.
type Corners = [f32; 4];

/// Shared area over joined area.
fn overlap(a: Corners, b: Corners) -> f32 {
    let area = |c: Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let side = |lo: usize, hi: usize| (a[hi].min(b[hi]) - a[lo].max(b[lo])).max(0.0);
    let shared = side(0, 2) * side(1, 3);
    let joined = area(a) + area(b) - shared;
    if area(a) <= 0.0 || area(b) <= 0.0 || joined <= 0.0 { 0.0 } else { shared / joined }
}

/// Boxes by descending score, without those that overlap a better one of their class.
pub fn non_max_suppression(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 5)?;
    let center = cx.flag("center_point_box", false)?;
    let (boxes, scores) = (constant(cx, 0)?, constant(cx, 1)?);
    let (&[batches, n, 4], &[b, classes, m]) = (&boxes.ty.dims[..], &scores.ty.dims[..]) else {
        return Err(cx.err(Code::ShapeMismatch, format!("boxes {:?} and scores {:?}", boxes.ty.dims, scores.ty.dims)));
    };
    if (b, m) != (batches, n) {
        return Err(cx.err(Code::ShapeMismatch, format!("boxes {:?} and scores {:?}", boxes.ty.dims, scores.ty.dims)));
    }
    let most = match cx.const_ints(2)?.as_deref() {
        None => 0,
        Some(&[most]) => usize::try_from(most).unwrap_or(0),
        Some(_) => return Err(cx.err(Code::ShapeMismatch, "operand 2 is not one number")),
    };
    let (overlaps, least) = (cx.const_f32(3)?.unwrap_or(0.0), cx.const_f32(4)?);
    let (Some(boxes), Some(scores)) = (boxes.to_f32(), scores.to_f32()) else {
        return Err(cx.err(Code::UnsupportedType, "operands have to be float"));
    };
    // Every box is compared with those that were kept.
    let work = [batches, classes, n, most.min(n).max(1)].iter().try_fold(1usize, |a, d| a.checked_mul(*d));
    if work.is_none_or(|w| w > limits::SHAPE_ELEMENTS << 16) {
        return Err(cx.err(Code::LimitExceeded, format!("suppresses {n} boxes of {classes} classes at compile time")));
    }
    let corners = |i: usize| -> Corners {
        let c = &boxes[4 * i..][..4];
        if center {
            [c[0] - c[2] / 2.0, c[1] - c[3] / 2.0, c[0] + c[2] / 2.0, c[1] + c[3] / 2.0]
        } else {
            [c[0].min(c[2]), c[1].min(c[3]), c[0].max(c[2]), c[1].max(c[3])]
        }
    };
    let mut data = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let row = &scores[(batch * classes + class) * n..][..n];
            let mut order: Vec<usize> = (0..n).filter(|&i| least.is_none_or(|l| row[i] > l)).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() == most {
                    break;
                }
                if kept.iter().all(|&k| overlap(corners(batch * n + k), corners(batch * n + i)) <= overlaps) {
                    kept.push(i);
                }
            }
            data.extend(kept.into_iter().flat_map(|i| [batch as i64, class as i64, i as i64]));
        }
    }
    Ok(vec![integers(cx, &[data.len() / 3, 3], &data)?])
}
