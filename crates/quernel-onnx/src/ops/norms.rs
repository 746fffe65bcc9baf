//! Normalizations and distributions.

use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Diagnostic, Op, ReduceKind, Unary, Value};

pub fn batch(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(5, 5)?;
    if cx.flag("training_mode", false)? {
        return Err(cx.unsupported("normalizes by the batch (training mode)").help("export the model in evaluation mode"));
    }
    if !cx.flag("spatial", true)? {
        return Err(cx.unsupported("normalizes every element on its own (`spatial` is 0)"));
    }
    let epsilon = cx.float("epsilon", 1e-5)?;
    let args = (0..5).map(|i| cx.arg(i)).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![cx.push(Op::BatchNorm { epsilon }, &args)?])
}

fn distribution(cx: &mut NodeCx<'_>, log: bool) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let rank = dims.len();
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?;
        return Ok(vec![cx.push(Op::Softmax { axis, log }, &[x])?]);
    }
    // Before opset 13 the distribution was over all axes from `axis` on.
    let axis = cx.int("axis")?.unwrap_or(1);
    let axis = if axis == rank as i64 { rank } else { cx.axis(axis, rank)? };
    if axis + 1 == rank {
        return Ok(vec![cx.push(Op::Softmax { axis, log }, &[x])?]);
    }
    let flat = cx.reshape(x, vec![dims[..axis].iter().product(), dims[axis..].iter().product()])?;
    let y = cx.push(Op::Softmax { axis: 1, log }, &[flat])?;
    Ok(vec![cx.reshape(y, dims)?])
}

pub fn softmax(cx: &mut NodeCx<'_>) -> Built {
    distribution(cx, false)
}
pub fn log_softmax(cx: &mut NodeCx<'_>) -> Built {
    distribution(cx, true)
}

/// `(x - mean) / sqrt(var + epsilon)` over `axes`.
fn standardize(cx: &mut NodeCx<'_>, x: Value, axes: Vec<usize>, epsilon: f32) -> Result<Value, Diagnostic> {
    let reduce = || Op::Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep: true };
    let mean = cx.push(reduce(), &[x])?;
    let centered = cx.push(Op::Binary(Binary::Sub), &[x, mean])?;
    let squared = cx.push(Op::Binary(Binary::Mul), &[centered, centered])?;
    let variance = cx.push(reduce(), &[squared])?;
    let epsilon = cx.scalar(epsilon);
    let shifted = cx.push(Op::Binary(Binary::Add), &[variance, epsilon])?;
    let deviation = cx.push(Op::Unary(Unary::Sqrt), &[shifted])?;
    cx.push(Op::Binary(Binary::Div), &[centered, deviation])
}

pub fn layer(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let x = cx.arg(0)?;
    let rank = cx.g.ty(x).rank();
    let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let standard = standardize(cx, x, (axis..rank).collect(), epsilon)?;
    let scale = cx.arg(1)?;
    let mut y = cx.push(Op::Binary(Binary::Mul), &[standard, scale])?;
    if let Some(bias) = cx.optional(2) {
        y = cx.push(Op::Binary(Binary::Add), &[y, bias])?;
    }
    Ok(vec![y])
}

pub fn instance(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    if dims.len() < 3 {
        return Err(cx.err(Code::ShapeMismatch, format!("operand of rank {} has no spatial axes", dims.len())));
    }
    let epsilon = cx.float("epsilon", 1e-5)?;
    let standard = standardize(cx, x, (2..dims.len()).collect(), epsilon)?;
    let mut per_channel = vec![dims[1]];
    per_channel.resize(dims.len() - 1, 1);
    let (scale, bias) = (cx.arg(1)?, cx.arg(2)?);
    let (scale, bias) = (cx.reshape(scale, per_channel.clone())?, cx.reshape(bias, per_channel)?);
    let scaled = cx.push(Op::Binary(Binary::Mul), &[standard, scale])?;
    Ok(vec![cx.push(Op::Binary(Binary::Add), &[scaled, bias])?])
}
