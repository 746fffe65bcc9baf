//! The largest elements of an axis, and where they are.

use crate::node::{Built, NodeCx};
use quernel_ir::{Code, Elem, Index, Op};

fn extreme(cx: &mut NodeCx<'_>, smallest: bool) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let mut dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(0), dims.len())?;
    let (keep, last) = (cx.flag("keepdims", true)?, cx.flag("select_last_index", false)?);
    let y = cx.push_as(Op::TopK { axis, k: 1, smallest, last }, &[x], Elem::I64)?;
    if keep {
        return Ok(vec![y]);
    }
    dims.remove(axis);
    Ok(vec![cx.reshape(y, dims)?])
}

pub fn arg_max(cx: &mut NodeCx<'_>) -> Built {
    extreme(cx, false)
}
pub fn arg_min(cx: &mut NodeCx<'_>) -> Built {
    extreme(cx, true)
}

/// The elements and their indices, always in order.
pub fn top_k(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(if cx.opset < 10 { 1 } else { 2 }, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), dims.len())?;
    let k = match cx.const_ints(1)?.as_deref() {
        Some(&[k]) => k,
        Some(k) => return Err(cx.err(Code::ShapeMismatch, format!("operand 1 has {} elements instead of 1", k.len()))),
        None => cx.int("k")?.ok_or_else(|| cx.bad_attribute("attribute `k` is missing"))?,
    };
    cx.flag("sorted", true)?;
    let smallest = !cx.flag("largest", true)?;
    let k = usize::try_from(k).ok().filter(|k| *k <= dims[axis]);
    let k = k.ok_or_else(|| cx.err(Code::ShapeMismatch, format!("takes more elements than axis {axis} of {dims:?} has")))?;
    if k == 0 {
        return Err(cx.unsupported("makes a tensor without elements"));
    }
    let at = cx.push_as(Op::TopK { axis, k, smallest, last: false }, &[x], Elem::I64)?;
    Ok(vec![cx.push(Op::Gather { index: Index::Elements { axis } }, &[x, at])?, at])
}
