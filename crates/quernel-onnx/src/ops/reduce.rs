//! Reductions over axes.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Diagnostic, Op, ReduceKind, Scalar, Tensor, TensorTy, Unary, Value};

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

/// Of integers the quotient is truncated.
pub fn mean(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let ty = cx.g.ty(x).clone();
    if !ty.elem.scalar().is_some_and(Scalar::is_integer) {
        return plain(cx, ReduceKind::Mean);
    }
    let sum = sum(cx)?[0];
    let n = ty.count() / cx.g.ty(sum).count().max(1);
    let n = cx.g.constant("count", Tensor::from_ints(TensorTy::new([], ty.elem), [n as i64]));
    Ok(vec![cx.push(Op::Binary(Binary::Div), &[sum, n])?])
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
/// Of integers: computed in floats of type `by`, and truncated.
fn in_floats(cx: &mut NodeCx<'_>, by: Scalar, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let Some(own) = cx.g.ty(x).elem.scalar().filter(|s| s.is_integer()) else { return build(cx) };
    cx.inputs[0] = Some(cx.cast(x, by)?);
    let y = build(cx)?[0];
    Ok(vec![cx.cast(y, own)?])
}
pub fn l2(cx: &mut NodeCx<'_>) -> Built {
    in_floats(cx, Scalar::F64, |cx| {
        let sum = sum_square(cx)?;
        Ok(vec![cx.push(Op::Unary(Unary::Sqrt), &sum)?])
    })
}
pub fn prod(cx: &mut NodeCx<'_>) -> Built {
    plain(cx, ReduceKind::Prod)
}
/// The sum of magnitudes.
pub fn l1(cx: &mut NodeCx<'_>) -> Built {
    reduce(cx, ReduceKind::Sum, |cx, x| {
        let Some(s) = cx.g.ty(x).elem.scalar().filter(|s| s.is_integer()) else { return cx.unary(Unary::Abs, x) };
        let zero = cx.number(0, s);
        let negative = cx.push(Op::Binary(Binary::Sub), &[zero, x])?;
        if s.is_signed() { cx.push(Op::Binary(Binary::Max), &[x, negative]) } else { Ok(x) }
    })
}
pub fn log_sum(cx: &mut NodeCx<'_>) -> Built {
    in_floats(cx, Scalar::F32, |cx| {
        let sum = sum(cx)?;
        Ok(vec![cx.unary(Unary::Log, sum[0])?])
    })
}
/// `max + ln(sum(exp(x - max)))`, with a finite number in the place of the largest.
pub fn log_sum_exp(cx: &mut NodeCx<'_>) -> Built {
    in_floats(cx, Scalar::F32, log_sum_exp_of_floats)
}
fn log_sum_exp_of_floats(cx: &mut NodeCx<'_>) -> Built {
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
