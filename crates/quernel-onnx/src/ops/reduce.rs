//! Reductions over axes.

use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Op, ReduceKind, Unary, Value};

fn reduce(
    cx: &mut NodeCx<'_>,
    kind: ReduceKind,
    before: impl Fn(&mut NodeCx<'_>, Value) -> Result<Value, quernel_ir::Diagnostic>,
) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let rank = cx.g.ty(x).rank();
    let given = match cx.const_ints(1)? {
        Some(axes) => Some(axes),
        None => cx.ints("axes")?,
    };
    let keep = cx.flag("keepdims", true)?;
    let x = before(cx, x)?;
    let axes = match given.filter(|a| !a.is_empty()) {
        Some(axes) => cx.axes(&axes, rank)?,
        None if cx.flag("noop_with_empty_axes", false)? => return Ok(vec![x]),
        None => (0..rank).collect(),
    };
    Ok(vec![cx.push(Op::Reduce { kind, axes, keep }, &[x])?])
}

fn plain(cx: &mut NodeCx<'_>, kind: ReduceKind) -> Built {
    reduce(cx, kind, |_, x| Ok(x))
}

pub fn mean(cx: &mut NodeCx<'_>) -> Built {
    plain(cx, ReduceKind::Mean)
}
pub fn sum(cx: &mut NodeCx<'_>) -> Built {
    plain(cx, ReduceKind::Sum)
}
pub fn max(cx: &mut NodeCx<'_>) -> Built {
    plain(cx, ReduceKind::Max)
}
pub fn min(cx: &mut NodeCx<'_>) -> Built {
    plain(cx, ReduceKind::Min)
}
pub fn sum_square(cx: &mut NodeCx<'_>) -> Built {
    reduce(cx, ReduceKind::Sum, |cx, x| cx.push(Op::Binary(Binary::Mul), &[x, x]))
}
pub fn l2(cx: &mut NodeCx<'_>) -> Built {
    let sum = sum_square(cx)?;
    Ok(vec![cx.push(Op::Unary(Unary::Sqrt), &sum)?])
}
