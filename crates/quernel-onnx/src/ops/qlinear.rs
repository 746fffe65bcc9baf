//! Operators on stored integers: QLinearConv, ConvInteger and their like, and those of ONNX Runtime.

use super::{
    convs, elementwise, layout, norms, pools,
    quant::{Params, constant_reals, is_constant, params, per_tensor, raw, reals, round, storage, tensor_params, unit},
};
use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Binary, Code, Diagnostic, Elem, Op, Scalar, Storage, Tensor, Value};

/// Operand `i` with scale `i + 1` and zero point `i + 2`, as floats.
fn operand(cx: &mut NodeCx<'_>, i: usize, axis: i64) -> Result<Value, Diagnostic> {
    let x = cx.arg(i)?;
    let p = params(cx, i + 1, i + 2)?;
    let axis = if p.one().is_some() { 0 } else { cx.axis(axis, cx.g.ty(x).rank())? };
    // A row of scales, [1, N], is as good as a list of them.
    let p = Params { dims: if p.dims.last() == Some(&p.scale.len()) { vec![p.scale.len()] } else { p.dims }, ..p };
    reals(cx, x, p, axis, None)
}

/// Rounds a result under scale `i` and zero point `i + 1`.
fn result(cx: &mut NodeCx<'_>, y: Value, (p, storage): (Params, Storage)) -> Built {
    let one = p.one().ok_or_else(|| cx.unsupported("has one scale per channel for its result"))?;
    let elem = per_tensor(cx, storage, one)?;
    Ok(vec![round(cx, y, elem)?])
}

fn result_params(cx: &NodeCx<'_>, i: usize) -> Result<(Params, Storage), Diagnostic> {
    let p = params(cx, i, i + 1)?;
    let storage = p.storage.unwrap_or(Storage::U8);
    Ok((p, storage))
}

/// A bias of 32-bit integers in units of `x.scale * w.scale`, as floats.
fn bias(cx: &mut NodeCx<'_>, i: usize, x: usize, w: usize) -> Result<Option<Value>, Diagnostic> {
    let Some(b) = cx.optional(i) else { return Ok(None) };
    let (x, w) = (params(cx, x, usize::MAX)?, params(cx, w, usize::MAX)?);
    let (sx, _) = x.one().ok_or_else(|| cx.unsupported("has one scale per channel for its operand"))?;
    let scale: Vec<f32> = w.scale.iter().map(|sw| sx * sw).collect();
    let n = scale.len();
    constant_reals(cx, b, Params { zero: vec![0; n], dims: vec![n], scale, storage: None }, 0, None).map(Some)
}

/// Runs the builder of a float operator on other operands.
fn float(cx: &mut NodeCx<'_>, inputs: Vec<Option<Value>>, build: fn(&mut NodeCx<'_>) -> Built) -> Result<Value, Diagnostic> {
    let own = std::mem::replace(&mut cx.inputs, inputs);
    let built = build(cx);
    cx.inputs = own;
    built?.first().copied().ok_or_else(|| Diagnostic::bug("an operator without a result"))
}

pub fn conv(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(8, 9)?;
    let to = result_params(cx, 6)?;
    let (x, w) = (operand(cx, 0, 1)?, operand(cx, 3, 0)?);
    let b = bias(cx, 8, 1, 4)?;
    let y = float(cx, vec![Some(x), Some(w), b], convs::conv)?;
    result(cx, y, to)
}

pub fn matmul(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(8, 8)?;
    let to = result_params(cx, 6)?;
    let (a, b) = (operand(cx, 0, -2)?, operand(cx, 3, -1)?);
    let y = float(cx, vec![Some(a), Some(b)], convs::matmul)?;
    result(cx, y, to)
}

pub fn gemm(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(6, 9)?;
    let transposed = cx.flag("transB", false)?;
    let to = if cx.optional(7).is_some() { Some(result_params(cx, 7)?) } else { None };
    let (a, b) = (operand(cx, 0, 1)?, operand(cx, 3, if transposed { 0 } else { 1 })?);
    let alpha = cx.float("alpha", 1.0)?;
    let c = match bias(cx, 6, 1, 4)? {
        Some(c) if alpha != 1.0 => {
            let alpha = cx.scalar(alpha);
            Some(cx.push(Op::Binary(Binary::Mul), &[c, alpha])?)
        }
        c => c,
    };
    let y = float(cx, vec![Some(a), Some(b), c], convs::gemm)?;
    match to {
        Some(to) => result(cx, y, to),
        None => Ok(vec![y]),
    }
}

/// Integers minus a zero point as floats: operand `i` with zero point `z`. The second value is what remains to be
/// subtracted, where the zero point is computed.
fn centered(cx: &mut NodeCx<'_>, i: usize, z: usize, axis: i64) -> Result<(Value, Option<Value>), Diagnostic> {
    let x = cx.arg(i)?;
    let zero = cx.optional(z);
    if cx.g.ty(x).elem.quant().is_none() && cx.g.tensor(x).is_none() {
        if is_constant(cx, z) && zero.is_none_or(|v| cx.g.ty(v).count() == 1) && storage(cx, x).is_some_and(|s| s.bits() < 32) {
            let own = zero.and_then(|v| storage(cx, v));
            let zero = if zero.is_some() { cx.const_ints(z)?.unwrap_or_default() } else { vec![0] };
            return Ok((reals(cx, x, Params { scale: vec![1.0], zero, dims: vec![], storage: own }, 0, None)?, None));
        }
        let mut y = raw(cx, x)?;
        if let Some(zero) = zero {
            let mut zero = raw(cx, zero)?;
            let (rank, n) = (cx.g.ty(x).rank(), cx.g.ty(zero).count());
            if n > 1 {
                let mut dims = vec![1; rank];
                dims[cx.axis(axis, rank)?] = n;
                zero = cx.reshape(zero, dims)?;
            } else {
                zero = cx.reshape(zero, vec![])?;
            }
            y = cx.push(Op::Binary(Binary::Sub), &[y, zero])?;
        }
        return Ok((y, None));
    }
    if cx.g.ty(x).elem.quant().is_none() {
        if !is_constant(cx, z) {
            return Err(cx.unsupported(format!("computes the zero point of operand {i}, a constant, at run time")));
        }
        let (zero, storage) = match zero {
            Some(v) => (cx.const_ints(z)?.unwrap_or_default(), storage(cx, v)),
            None => (vec![0], None),
        };
        let n = zero.len();
        let axis = if n == 1 { 0 } else { cx.axis(axis, cx.g.ty(x).rank())? };
        return Ok((constant_reals(cx, x, Params { scale: vec![1.0; n], zero, dims: vec![n], storage }, axis, None)?, None));
    }
    let x = unit(cx, x)?;
    let own = tensor_params(cx, x).map_or(0, |p| p.2);
    let y = cx.push_as(Op::Dequantize, &[x], Elem::F32)?;
    if !is_constant(cx, z) {
        let rest = raw(cx, cx.arg(z)?)?;
        if own == 0 {
            return Ok((y, Some(rest)));
        }
        let own = cx.scalar(own as f32);
        return Ok((y, Some(cx.push(Op::Binary(Binary::Sub), &[rest, own])?)));
    }
    let zero = match zero {
        Some(_) => cx.const_ints(z)?.unwrap_or_default(),
        None => vec![0],
    };
    match zero[..] {
        [z] if z == i64::from(own) => Ok((y, None)),
        [z] => {
            let rest = cx.scalar(z as f32 - own as f32);
            Ok((y, Some(rest)))
        }
        _ => Err(cx.unsupported(format!("has one zero point per row for operand {i}"))),
    }
}

/// Subtracts the operand's zero point after the product: `rest` times the product of ones.
fn without(cx: &mut NodeCx<'_>, y: Value, rest: Value, x: Value, w: Value, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    let dims = cx.dims(x);
    cx.take_bytes(tensor::count(&dims).map_err(|d| d.at(cx.label))?.saturating_mul(4))?;
    let ones = cx.g.constant("ones", Tensor::f32(dims.clone(), &vec![1.0; dims.iter().product()]));
    let sums = float(cx, vec![Some(ones), Some(w)], build)?;
    let scaled = cx.push(Op::Binary(Binary::Mul), &[sums, rest])?;
    Ok(vec![cx.push(Op::Binary(Binary::Sub), &[y, scaled])?])
}

/// The sums of a layer on integers, computed as floats: exact up to 2^24. What casts them to floats again reads those.
fn sums(cx: &mut NodeCx<'_>, weights_axis: i64, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    let all = real_sums(cx, weights_axis, build)?;
    let y = cx.cast(all[0], Scalar::I32)?;
    cx.stored.wide.insert(y, all[0]);
    Ok(vec![y])
}

fn real_sums(cx: &mut NodeCx<'_>, weights_axis: i64, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(2, 4)?;
    let (x, rest) = centered(cx, 0, 2, -2)?;
    let (mut w, weights_rest) = centered(cx, 1, 3, weights_axis)?;
    if let Some(rest) = weights_rest {
        w = cx.push(Op::Binary(Binary::Sub), &[w, rest])?;
    }
    let constant = cx.g.producer(w).is_some_and(|n| cx.g.tensor(cx.g.nodes[n].args[0]).is_some());
    match rest {
        None => Ok(vec![float(cx, vec![Some(x), Some(w)], build)?]),
        Some(rest) if constant => {
            let y = float(cx, vec![Some(x), Some(w)], build)?;
            without(cx, y, rest, x, w, build)
        }
        Some(rest) => {
            let x = cx.push(Op::Binary(Binary::Sub), &[x, rest])?;
            Ok(vec![float(cx, vec![Some(x), Some(w)], build)?])
        }
    }
}

pub fn conv_integer(cx: &mut NodeCx<'_>) -> Built {
    sums(cx, 0, convs::conv)
}
pub fn matmul_integer(cx: &mut NodeCx<'_>) -> Built {
    sums(cx, -1, convs::matmul)
}

/// One operand, then its result. Images with channels last are turned for the operator and back.
fn one(cx: &mut NodeCx<'_>, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(4, 5)?;
    let to = result_params(cx, 3)?;
    let mut x = operand(cx, 0, 1)?;
    let rank = cx.g.ty(x).rank();
    let last = cx.flag("channels_last", false)?;
    if last && rank < 3 {
        return Err(cx.err(Code::ShapeMismatch, format!("reads an image with channels last that has {rank} axes")));
    }
    if last {
        let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        x = cx.push(Op::Transpose { perm }, &[x])?;
    }
    let mut y = float(cx, vec![Some(x)], build)?;
    if last {
        let perm = [0].into_iter().chain(2..rank).chain([1]).collect();
        y = cx.push(Op::Transpose { perm }, &[y])?;
    }
    result(cx, y, to)
}

pub fn average_pool(cx: &mut NodeCx<'_>) -> Built {
    one(cx, pools::average)
}
pub fn global_average_pool(cx: &mut NodeCx<'_>) -> Built {
    one(cx, pools::global_average)
}
pub fn leaky_relu(cx: &mut NodeCx<'_>) -> Built {
    one(cx, elementwise::leaky_relu)
}
pub fn sigmoid(cx: &mut NodeCx<'_>) -> Built {
    one(cx, elementwise::sigmoid)
}
pub fn softmax(cx: &mut NodeCx<'_>) -> Built {
    cx.opset = cx.int("opset")?.unwrap_or(cx.opset);
    one(cx, norms::softmax)
}

fn two(cx: &mut NodeCx<'_>, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(7, 8)?;
    let to = result_params(cx, 6)?;
    let (a, b) = (operand(cx, 0, 1)?, operand(cx, 3, 1)?);
    let y = float(cx, vec![Some(a), Some(b)], build)?;
    result(cx, y, to)
}

pub fn add(cx: &mut NodeCx<'_>) -> Built {
    two(cx, elementwise::add)
}
pub fn mul(cx: &mut NodeCx<'_>) -> Built {
    two(cx, elementwise::mul)
}

pub fn concat(cx: &mut NodeCx<'_>) -> Built {
    let n = cx.inputs.len();
    if n < 5 || !(n - 2).is_multiple_of(3) || n > limits::SHAPE_ELEMENTS {
        return Err(cx.err(Code::BadGraph, format!("takes a scale, a zero point and triples of operands, not {n} operands")));
    }
    let to = result_params(cx, 0)?;
    let parts = (2..n).step_by(3).map(|i| operand(cx, i, 1).map(Some)).collect::<Result<Vec<_>, _>>()?;
    let y = float(cx, parts, layout::concat)?;
    result(cx, y, to)
}
