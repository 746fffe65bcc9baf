//! Reductions over axes.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Diagnostic, Op, ReduceKind, Unary, Value};

/// The operand, its axes (`None` where nothing is reduced), and whether they stay.
fn operands(cx: &NodeCx<'_>) -> Result<(Value, Option<Vec<usize>>, bool), Diagnostic> {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let rank = cx.g.ty(x).rank();
    let given = match cx.const_ints(1)? {
        Some(axes) => Some(axes),
        None => cx.ints("axes")?,
    };
    let keep = cx.flag("keepdims", true)?;
    Ok(match given.filter(|a| !a.is_empty()) {
        Some(axes) => (x, Some(cx.axes(&axes, rank)?), keep),
        None if cx.flag("noop_with_empty_axes", false)? => (x, None, keep),
        None => (x, Some((0..rank).collect()), keep),
    })
}

fn reduce(cx: &mut NodeCx<'_>, kind: ReduceKind, before: impl Fn(&mut NodeCx<'_>, Value) -> Made) -> Built {
    let (x, axes, keep) = operands(cx)?;
    let x = before(cx, x)?;
    let Some(axes) = axes else { return Ok(vec![x]) };
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
/// The sum of magnitudes.
pub fn l1(cx: &mut NodeCx<'_>) -> Built {
    reduce(cx, ReduceKind::Sum, |cx, x| cx.unary(Unary::Abs, x))
}
pub fn log_sum(cx: &mut NodeCx<'_>) -> Built {
    let sum = sum(cx)?;
    Ok(vec![cx.unary(Unary::Log, sum[0])?])
}
/// `max + ln(sum(exp(x - max)))`, with a finite number in the place of the largest.
pub fn log_sum_exp(cx: &mut NodeCx<'_>) -> Built {
    let (x, axes, keep) = operands(cx)?;
    let Some(axes) = axes else {
        return Ok(vec![x]);
    };
    let largest = cx.reduced(ReduceKind::Max, x, &axes)?;
    let largest = cx.clamp(largest, f32::MIN, f32::MAX)?;
    let below = cx.sub(x, largest)?;
    let powers = cx.unary(Unary::Exp, below)?;
    let sum = cx.reduced(ReduceKind::Sum, powers, &axes)?;
    let log = cx.unary(Unary::Log, sum)?;
    let y = cx.add(log, largest)?;
    let dims = cx.dims(y);
    let kept = |(i, d): (usize, &usize)| (keep || !axes.contains(&i)).then_some(*d);
    Ok(vec![cx.reshape(y, dims.iter().enumerate().filter_map(kept).collect())?])
}
