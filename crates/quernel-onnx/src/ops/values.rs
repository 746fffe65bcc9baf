//! Constants, copies and casts.

use super::small_floats;
use crate::{
    narrow::{Narrow, Rounding, Toward},
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Code, Diagnostic, Elem, Op, Scalar, Tensor, TensorTy, Value, plain::Number};

pub fn identity(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    Ok(vec![cx.arg(0)?])
}

/// In inference, or when nothing is dropped: the operand, and a mask that keeps everything.
pub fn dropout(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 3)?;
    if let Some(v) = cx.optional(2) {
        let training = cx.g.tensor(v).and_then(Tensor::to_ints);
        let ratio = match cx.optional(1) {
            Some(v) => cx.g.tensor(v).and_then(Tensor::to_f32).and_then(|r| r.first().copied()),
            None => Some(0.5),
        };
        if training.as_deref() != Some(&[0]) && ratio != Some(0.0) {
            return Err(cx.unsupported("drops elements in training mode"));
        }
    }
    let x = cx.arg(0)?;
    if cx.proto.output.len() < 2 {
        return Ok(vec![x]);
    }
    // Before opset 10 the mask had the type of the operand.
    let scalar = cx.g.ty(x).elem.scalar().filter(|_| cx.opset < 10).unwrap_or(Scalar::Bool);
    let dims = cx.dims(x);
    let one = Number::Int(1).bits(scalar).to_le_bytes();
    let mask = filled(cx, dims, scalar, &one[..scalar.bytes()])?;
    Ok(vec![x, mask])
}

/// A constant of equal elements.
fn filled(cx: &mut NodeCx<'_>, dims: Vec<usize>, scalar: Scalar, element: &[u8]) -> Result<Value, Diagnostic> {
    let n = tensor::count(&dims).map_err(|d| d.at(cx.label))?;
    made(cx, dims, scalar, n, || element.repeat(n))
}

/// A constant of `n` elements, if it does not take too many bytes.
fn made(cx: &mut NodeCx<'_>, dims: Vec<usize>, scalar: Scalar, n: usize, bytes: impl FnOnce() -> Vec<u8>) -> Result<Value, Diagnostic> {
    cx.take_bytes(n.saturating_mul(scalar.bytes()))?;
    let t = Tensor::new(TensorTy::new(dims, scalar), bytes()).map_err(|e| cx.err(Code::Internal, e))?;
    let name = cx.proto.output.first().cloned().unwrap_or_default();
    Ok(cx.g.constant(name, t))
}

pub fn shape(cx: &mut NodeCx<'_>) -> Built {
    Err(cx.unsupported("takes the shape of nothing"))
}

pub fn constant(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(0, 0)?;
    let mut tensors = Vec::new();
    tensors.extend(cx.tensor("value")?);
    if cx.has("value_float") {
        tensors.push(Tensor::f32([], &[cx.float("value_float", 0.0)?]));
    }
    if let Some(x) = cx.floats("value_floats")? {
        tensors.push(Tensor::f32([x.len()], &x));
    }
    if let Some(x) = cx.int("value_int")? {
        tensors.push(Tensor::i64([], &[x]));
    }
    if let Some(x) = cx.ints("value_ints")? {
        tensors.push(Tensor::i64([x.len()], &x));
    }
    for other in ["value_string", "value_strings", "sparse_value"] {
        if cx.has(other) {
            return Err(cx.err(Code::UnsupportedType, format!("`{other}` is not supported")));
        }
    }
    match <[Tensor; 1]>::try_from(tensors) {
        Ok([t]) => {
            let name = cx.proto.output.first().cloned().unwrap_or_default();
            let v = cx.g.constant(name, t);
            if let Some(narrow) = cx.narrow("value") {
                cx.stored.types.insert(v, narrow);
            }
            Ok(vec![v])
        }
        Err(all) => Err(cx.bad_attribute(format!("has {} values instead of one", all.len()))),
    }
}

pub fn constant_of_shape(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let dims = cx.const_ints(0)?.unwrap_or_default();
    let dims = tensor::dimensions(&dims).map_err(|d| d.at(cx.label))?;
    let value = cx.tensor("value")?.unwrap_or_else(|| Tensor::f32([1], &[0.0]));
    if value.ty.count() != 1 {
        return Err(cx.bad_attribute("attribute `value` does not have one element"));
    }
    let Some(scalar) = value.ty.elem.scalar() else { return Err(cx.bad_attribute("attribute `value` is quantized")) };
    Ok(vec![filled(cx, dims, scalar, value.bytes())?])
}

/// `start, start + delta, ..` below (or above) `limit`.
pub fn range(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let mut numbers = Vec::new();
    let mut scalar = Scalar::I64;
    for i in 0..3 {
        let v = cx.arg(i)?;
        let t =
            cx.g.tensor(v).ok_or_else(|| cx.unsupported(format!("operand {i} has to be a constant: it decides how long the result is")))?;
        scalar =
            t.ty.elem
                .scalar()
                .filter(|s| *s != Scalar::Bool && t.ty.count() == 1)
                .ok_or_else(|| cx.bad_attribute(format!("operand {i} is no number")))?;
        numbers.push(Number::read(scalar, t.bytes()));
    }
    let (n, at): (f64, Box<dyn Fn(usize) -> Number>) = match numbers[..] {
        [Number::Int(start), Number::Int(limit), Number::Int(delta)] if delta != 0 => {
            // Both signs of the step; the numbers are of 64 bits.
            let (span, step) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
            (((span + step - 1).div_euclid(step)).max(0) as f64, Box::new(move |i| Number::Int(start + i as i128 * delta)))
        }
        [Number::Real(start), Number::Real(limit), Number::Real(delta)] if [start, limit, delta].iter().any(|x| !x.is_finite()) => {
            return Err(cx.bad_attribute("the bounds and the step have to be finite"));
        }
        [Number::Real(start), Number::Real(limit), Number::Real(delta)] if delta != 0.0 => {
            (((limit - start) / delta).ceil().max(0.0), Box::new(move |i| Number::Real(start + i as f64 * delta)))
        }
        _ => return Err(cx.bad_attribute("the step is 0, or operands differ in type")),
    };
    let n = n as usize;
    let width = scalar.bytes();
    Ok(vec![made(cx, vec![n], scalar, n, || (0..n).flat_map(|i| at(i).bits(scalar).to_le_bytes().into_iter().take(width)).collect())?])
}

/// Ones on a diagonal.
pub fn eye_like(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let &[_, columns] = &dims[..] else { return Err(cx.bad_attribute(format!("a diagonal of {} axes", dims.len()))) };
    let scalar = match cx.int("dtype")? {
        None => cx.g.ty(x).elem.scalar(),
        Some(t) => target(t),
    };
    let scalar = scalar.ok_or_else(|| cx.err(Code::UnsupportedType, "a diagonal of elements that are no plain numbers"))?;
    let k = cx.int("k")?.unwrap_or(0);
    let n = tensor::count(&dims).map_err(|d| d.at(cx.label))?;
    let on = |i: usize| (i / columns) as i64 == (i % columns) as i64 - k;
    let bits = |i: usize| Number::Int(on(i).into()).bits(scalar).to_le_bytes();
    Ok(vec![made(cx, dims.clone(), scalar, n, || (0..n).flat_map(|i| bits(i).into_iter().take(scalar.bytes())).collect())?])
}

/// The plain type of an attribute.
fn target(t: i64) -> Option<Scalar> {
    i32::try_from(t).ok().and_then(tensor::scalar)
}

/// The type attribute `to` names.
fn named_type(cx: &NodeCx<'_>) -> Result<i32, Diagnostic> {
    let to = cx.int("to")?.unwrap_or(0);
    i32::try_from(to).map_err(|_| cx.bad_attribute(format!("attribute `to` is {to}")))
}

fn no_cast(cx: &NodeCx<'_>, to: i32) -> Diagnostic {
    cx.err(Code::UnsupportedType, format!("casts to {}", tensor::type_name(to)))
}

/// Casts to a plain type or to a narrow one.
fn cast_to(cx: &mut NodeCx<'_>, x: Value, plain: Option<Scalar>, narrow: Option<Narrow>) -> Result<Value, Diagnostic> {
    let toward = match cx.text("round_mode")?.as_deref() {
        None | Some("up") => Toward::Up,
        Some("down") => Toward::Down,
        Some("nearest") => Toward::Nearest,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `round_mode` is {other:?}"))),
    };
    let how = Rounding { saturate: cx.flag("saturate", true)?, toward };
    let x = match cx.small(x) {
        Some(s) => small_floats::decoded(cx, x, s)?,
        None => x,
    };
    match (narrow, plain) {
        (Some(Narrow::Float(s)), _) => small_floats::encoded(cx, x, s, how),
        (Some(Narrow::Integer(storage)), _) => small_floats::low_bits(cx, x, storage),
        // Integers that are exact floats.
        (None, Some(Scalar::F32)) if cx.g.ty(x).elem == Elem::I32 && cx.stored.wide.contains_key(&x) => Ok(cx.stored.wide[&x]),
        // The same bytes, of another type.
        (None, Some(s)) if cx.g.ty(x).elem == s.into() && cx.stored.types.contains_key(&x) => cx.push_as(Op::Bitcast, &[x], s.into()),
        (None, Some(s)) => cx.cast(x, s),
        (None, None) => Err(cx.err(Code::UnsupportedType, "casts to a quantized type")),
    }
}

pub fn cast(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let (x, to) = (cx.arg(0)?, named_type(cx)?);
    let (plain, narrow) = (tensor::scalar(to), Narrow::of(to));
    if plain.is_none() && narrow.is_none() {
        return Err(no_cast(cx, to));
    }
    Ok(vec![cast_to(cx, x, plain, narrow)?])
}

pub fn cast_like(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, like) = (cx.arg(0)?, cx.arg(1)?);
    let (plain, narrow) = (cx.g.ty(like).elem.scalar(), cx.stored.types.get(&like).copied());
    Ok(vec![cast_to(cx, x, plain, narrow)?])
}

pub fn bit_cast(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let (x, to) = (cx.arg(0)?, named_type(cx)?);
    let to = tensor::scalar(to).ok_or_else(|| no_cast(cx, to))?;
    Ok(vec![if cx.g.ty(x).elem == Elem::Scalar(to) { x } else { cx.push_as(Op::Bitcast, &[x], to.into())? }])
}
