//! Padding: with a constant, and with elements of the tensor itself, which are slices put beside it.

use crate::{
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Op, Quant, Value, exact};

/// Where padding takes its elements from.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Mirrored at the edge element, which is not repeated.
    Reflect,
    /// The edge element.
    Edge,
    /// The opposite end.
    Wrap,
}

pub fn pad(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 4)?;
    let x = cx.arg(0)?;
    let rank = cx.dims(x).len();
    let mode = match cx.text("mode")?.as_deref() {
        None | Some("constant") => None,
        Some("reflect") => Some(Mode::Reflect),
        Some("edge") => Some(Mode::Edge),
        Some("wrap") => Some(Mode::Wrap),
        Some(mode) => return Err(cx.bad_attribute(format!("attribute `mode` is {mode:?}"))),
    };
    let (pads, value) = match mode {
        _ if cx.opset < 11 => (cx.ints("pads")?, cx.float("value", 0.0)?),
        None => (cx.const_ints(1)?, pad_value(cx, x)?),
        Some(_) => (cx.const_ints(1)?, 0.0),
    };
    let pads = pads.ok_or_else(|| cx.bad_attribute("has no pads"))?;
    let axes = match cx.const_ints(3)? {
        Some(axes) => {
            cx.axes(&axes, rank)?;
            axes.iter().map(|&a| cx.axis(a, rank)).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let x = crop(cx, x, &pads, &axes)?;
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        let extent = |p: i64| {
            let p = usize::try_from(p.max(0)).ok().filter(|p| *p <= limits::ELEMENTS);
            p.ok_or_else(|| cx.err(Code::LimitExceeded, format!("pads by {pads:?}")))
        };
        (before[axis], after[axis]) = (extent(pads[i])?, extent(pads[i + axes.len()])?);
    }
    if before.iter().chain(&after).all(|p| *p == 0) {
        return Ok(vec![x]);
    }
    let Some(mode) = mode else { return Ok(vec![cx.push(Op::Pad { before, after, value }, &[x])?]) };
    let mut y = x;
    for axis in axes {
        y = extend(cx, y, axis, mode, before[axis], after[axis])?;
    }
    Ok(vec![y])
}

/// Negative pads remove elements.
fn crop(cx: &mut NodeCx<'_>, x: Value, pads: &[i64], axes: &[usize]) -> Result<Value, Diagnostic> {
    if pads.iter().all(|p| *p >= 0) {
        return Ok(x);
    }
    let mut len = cx.dims(x);
    let (mut start, step) = (vec![0; len.len()], vec![1; len.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        let cut = |p: i64| usize::try_from(p.min(0).unsigned_abs()).unwrap_or(usize::MAX);
        let (first, last) = (cut(pads[i]), cut(pads[i + axes.len()]));
        start[axis] = first;
        let left = len[axis].checked_sub(first).and_then(|l| l.checked_sub(last)).filter(|l| *l > 0);
        len[axis] = left.ok_or_else(|| cx.unsupported("crops a tensor to nothing"))?;
    }
    cx.push(Op::Slice { start, step, len }, &[x])
}

/// One axis with elements of the tensor on both sides.
fn extend(cx: &mut NodeCx<'_>, x: Value, axis: usize, mode: Mode, before: usize, after: usize) -> Result<Value, Diagnostic> {
    if before == 0 && after == 0 {
        return Ok(x);
    }
    let dims = cx.dims(x);
    let extent = dims[axis];
    // More than one period or reflection would need slices of slices.
    let most = if mode == Mode::Reflect { extent.saturating_sub(1) } else { extent };
    if mode != Mode::Edge && before.max(after) > most {
        return Err(cx.unsupported(format!("pads {} elements from {extent}", before.max(after))));
    }
    let mut side = |n: usize, first: usize, by: isize| -> Result<Option<Value>, Diagnostic> {
        if n == 0 {
            return Ok(None);
        }
        let (mut start, mut step, mut len) = (vec![0; dims.len()], vec![1; dims.len()], dims.clone());
        (start[axis], step[axis], len[axis]) = (first, by, if mode == Mode::Edge { 1 } else { n });
        let part = cx.push(Op::Slice { start, step, len: len.clone() }, &[x])?;
        if mode != Mode::Edge || n == 1 {
            return Ok(Some(part));
        }
        len[axis] = n;
        Ok(Some(cx.push(Op::Expand { dims: len }, &[part])?))
    };
    let (left, right) = match mode {
        Mode::Reflect => (side(before, before, -1)?, side(after, extent.saturating_sub(2), -1)?),
        Mode::Edge => (side(before, 0, 1)?, side(after, extent - 1, 1)?),
        Mode::Wrap => (side(before, extent - before.min(extent), 1)?, side(after, 0, 1)?),
    };
    let parts: Vec<Value> = left.into_iter().chain([x]).chain(right).collect();
    cx.push(Op::Concat { axis }, &parts)
}

/// The real number that operand 2 of a padding means; stored integers are padded with a stored integer.
fn pad_value(cx: &NodeCx<'_>, x: Value) -> Result<f32, Diagnostic> {
    let Some((scale, zero)) = cx.g.ty(x).elem.quant().and_then(Quant::tensor_params) else { return Ok(cx.const_f32(2)?.unwrap_or(0.0)) };
    let stored = cx.const_ints(2)?.and_then(|v| v.first().copied()).unwrap_or(0);
    Ok(exact::dequantize(i32::try_from(stored).unwrap_or(zero), scale, zero))
}
