//! Operators on floats of another width than f32.
//!
//! Moves, casts, relations and the exactly rounded functions of f64 take such numbers as they are. Everything else is
//! computed in f32. A 16-bit result is rounded where something reads it as 16 bits: an output, a cast, a move that begins
//! there. Operators one after another hand the f32 on, as runtimes do that fuse them, so that a network of 16-bit floats is
//! quantized like one of f32.

use crate::{
    empty,
    node::{Built, NodeCx},
    ops::Operator,
};
use quernel_ir::{Code, Diagnostic, Elem, Op, Scalar, Tensor, TensorTy, Value, plain};

fn other_float(cx: &NodeCx<'_>, v: Value) -> Option<Scalar> {
    cx.g.ty(v).elem.scalar().filter(|s| s.is_float() && *s != Scalar::F32)
}

/// Builds the node, in f32 where the operator does not take its operands as they are.
pub fn build(cx: &mut NodeCx<'_>, operator: &Operator) -> Built {
    empty::refuse(cx, operator.name)?;
    let given: Vec<Value> = cx.inputs.iter().flatten().copied().collect();
    if given.iter().all(|&v| other_float(cx, v).is_none()) {
        return (operator.build)(cx);
    }
    let scaled = matches!(operator.name, "QuantizeLinear" | "DequantizeLinear");
    if scaled && cx.optional(1).is_some_and(|v| other_float(cx, v) == Some(Scalar::F64)) {
        return Err(cx.err(Code::UnsupportedType, "its scale is a 64-bit float"));
    }
    let casts = matches!(operator.name, "Cast" | "CastLike" | "BitCast");
    let handed_on = given.iter().any(|&v| other_float(cx, v) != Some(Scalar::F64) && cx.stored.wide.contains_key(&v));
    if casts || !handed_on {
        let nodes = cx.g.order.len();
        match (operator.build)(cx) {
            Err(d) if d.code == Code::UnsupportedType && !casts => cx.g.order.truncate(nodes),
            built => return built,
        }
    }
    // Results are of the type of the first operand that is a float.
    let own = given.iter().find_map(|&v| cx.g.ty(v).elem.scalar().filter(|s| s.is_float())).unwrap_or(Scalar::F32);
    for i in 0..cx.inputs.len() {
        if let Some(v) = cx.inputs[i].filter(|&v| other_float(cx, v).is_some()) {
            cx.inputs[i] = Some(widen(cx, v)?);
        }
    }
    let values = (operator.build)(cx)?;
    if given.iter().any(|&v| other_float(cx, v) == Some(Scalar::F64)) {
        cx.remark("computes double in single precision");
    }
    if own == Scalar::F32 {
        return Ok(values);
    }
    let mut narrowed = Vec::with_capacity(values.len());
    for (slot, v) in values.into_iter().enumerate() {
        if !cx.g.ty(v).elem.is_f32() {
            narrowed.push(v);
            continue;
        }
        if let Some(name) = cx.proto.output.get(slot)
            && cx.g.values[v].name.is_empty()
        {
            cx.g.values[v].name.clone_from(name);
        }
        let y = cx.cast(v, own)?;
        cx.stored.wide.insert(y, v);
        narrowed.push(y);
    }
    Ok(narrowed)
}

/// The value in f32: what it was rounded from, or a cast. A constant is one again.
fn widen(cx: &mut NodeCx<'_>, v: Value) -> Result<Value, Diagnostic> {
    if let Some(&wide) = cx.stored.wide.get(&v) {
        return Ok(wide);
    }
    let name = cx.g.values[v].name.clone();
    let from = other_float(cx, v).unwrap_or(Scalar::F32);
    let wide = match cx.g.tensor(v) {
        Some(t) => {
            let tensor = Tensor::new(TensorTy::f32(t.ty.dims.clone()), plain::cast(from, Scalar::F32, t.bytes()));
            let tensor = tensor.map_err(Diagnostic::bug)?;
            cx.take_bytes(tensor.ty.bytes())?;
            cx.g.constant(name, tensor)
        }
        None => {
            let wide = cx.push_as(Op::Cast, &[v], Elem::F32)?;
            cx.g.values[wide].name = name;
            wide
        }
    };
    cx.stored.wide.insert(v, wide);
    Ok(wide)
}
