//! Constants, copies and casts.

use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Code, Elem, Scalar, Tensor};

pub fn identity(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    Ok(vec![cx.arg(0)?])
}

pub fn dropout(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 3)?;
    if let Some(v) = cx.optional(2) {
        let training = cx.g.tensor(v).and_then(Tensor::to_ints);
        if training.as_deref() != Some(&[0]) {
            return Err(cx.unsupported("drops elements in training mode"));
        }
    }
    Ok(vec![cx.arg(0)?])
}

pub fn shape(cx: &mut NodeCx<'_>) -> Built {
    Err(cx.unsupported("takes the shape of nothing"))
}

/// A logical operator whose operands are not all constant integers: `integers.rs` evaluates the others.
pub fn decided(cx: &mut NodeCx<'_>) -> Built {
    Err(cx.unsupported("decides at run time; only what is known at compile time is supported"))
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
            if let Some(storage) = cx.narrow("value") {
                cx.stored.types.insert(v, storage);
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
    let n = tensor::count(&dims).map_err(|d| d.at(cx.label))?;
    if n > limits::SHAPE_ELEMENTS * 1024 {
        return Err(cx.err(Code::LimitExceeded, format!("makes a constant of {n} elements")));
    }
    let bytes = value.bytes().repeat(n);
    let mut ty = value.ty.clone();
    ty.dims = dims;
    let t = Tensor::new(ty, bytes).map_err(|e| cx.err(Code::Internal, e))?;
    let name = cx.proto.output.first().cloned().unwrap_or_default();
    Ok(vec![cx.g.constant(name, t)])
}

pub fn cast(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let to = i32::try_from(cx.int("to")?.unwrap_or(0)).unwrap_or(0);
    let x = cx.arg(0)?;
    match tensor::scalar(to) {
        Some(scalar) if to == 10 || to == 16 => {
            cx.remark(format!("casts to {}; computed in float instead", tensor::type_name(to)));
            Ok(vec![cx.cast(x, scalar)?])
        }
        Some(scalar @ Scalar::F32) | Some(scalar)
            if cx.g.ty(x).elem == Elem::Scalar(scalar) || cx.g.tensor(x).is_some() || scalar == Scalar::F32 =>
        {
            Ok(vec![cx.cast(x, scalar)?])
        }
        _ => Err(cx.err(Code::UnsupportedType, format!("casts to {}", tensor::type_name(to)))),
    }
}
