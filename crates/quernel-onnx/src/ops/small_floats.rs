//! Numbers of the types in [`crate::narrow`]: casts, and scaling of 8-bit and 4-bit floats.

use super::quant::block_size;
use crate::{
    compose::Made,
    narrow::{Narrow, Rounding, Small, Toward},
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Diagnostic, Index, Op, Scalar, Storage, Tensor, TensorTy, Value};

/// The numbers that codes mean, in f32.
pub fn decoded(cx: &mut NodeCx<'_>, x: Value, s: Small) -> Made {
    if let Some(t) = cx.g.tensor(x).cloned() {
        let numbers: Vec<f32> = t.bytes().iter().map(|c| s.decode(*c)).collect();
        let name = cx.g.values[x].name.clone();
        return cx.table(&name, t.ty.dims, &numbers);
    }
    let all: Vec<f32> = (0..=255).map(|c| s.decode(c)).collect();
    let table = cx.table("numbers", vec![256], &all)?;
    lookup(cx, table, x)
}

/// The codes of numbers: of each the leading bits of the f32, and whether any lower one is set, are looked up.
pub fn encoded(cx: &mut NodeCx<'_>, x: Value, s: Small, how: Rounding) -> Made {
    let x = cx.cast(x, Scalar::F32)?;
    let y = if let Some((dims, numbers)) = cx.g.tensor(x).and_then(|t| Some((t.ty.dims.clone(), t.to_f32()?))) {
        codes(cx, dims, numbers.iter().map(|x| s.encode(*x, how)).collect())?
    } else {
        let table = s.table(how);
        let table = codes(cx, vec![table.len()], table)?;
        let rest = 32 - s.leading();
        let bits = cx.push_as(Op::Bitcast, &[x], Scalar::U32.into())?;
        let (by, mask, one) = (cx.number(rest.into(), Scalar::U32), cx.number((1 << rest) - 1, Scalar::U32), cx.number(1, Scalar::U32));
        let leading = cx.binary(Binary::ShiftRight, bits, by)?;
        let lower = cx.binary(Binary::And, bits, mask)?;
        let any = cx.binary(Binary::Min, lower, one)?;
        let at = cx.binary(Binary::Or, leading, any)?;
        lookup(cx, table, at)?
    };
    cx.stored.types.insert(y, Narrow::Float(s));
    Ok(y)
}

fn codes(cx: &mut NodeCx<'_>, dims: Vec<usize>, bytes: Vec<u8>) -> Made {
    cx.take_bytes(bytes.len())?;
    let t = Tensor::new(TensorTy::new(dims, Scalar::U8), bytes).map_err(Diagnostic::bug)?;
    Ok(cx.g.constant("codes", t))
}

fn lookup(cx: &mut NodeCx<'_>, table: Value, at: Value) -> Made {
    let at = cx.cast(at, Scalar::I32)?;
    cx.push(Op::Gather { index: Index::Slices { axis: 0 } }, &[table, at])
}

/// The low bits of a number that was cast to a signed byte first.
pub fn low_bits(cx: &mut NodeCx<'_>, x: Value, storage: Storage) -> Made {
    let held = storage.held();
    let mut byte = cx.cast(x, Scalar::I8)?;
    if !storage.signed() {
        byte = cx.push_as(Op::Bitcast, &[byte], held.into())?;
    }
    let y = if storage.signed() {
        let unused = cx.number(i128::from(8 - storage.bits()), held);
        let up = cx.binary(Binary::ShiftLeft, byte, unused)?;
        cx.binary(Binary::ShiftRight, up, unused)?
    } else {
        let mask = cx.number(i128::from(storage.range().1), held);
        cx.binary(Binary::And, byte, mask)?
    };
    cx.stored.types.insert(y, Narrow::Integer(storage));
    Ok(y)
}

/// The float type that `QuantizeLinear` rounds to: that of its zero point, or the one `output_dtype` names.
pub fn result(cx: &NodeCx<'_>) -> Result<Option<Small>, Diagnostic> {
    let zero = cx.optional(2).and_then(|v| cx.small(v));
    let named = match i32::try_from(cx.int("output_dtype")?.unwrap_or(0)).ok().and_then(Narrow::of) {
        Some(Narrow::Float(s)) => Some(s),
        _ => None,
    };
    match (zero, named, cx.optional(2)) {
        (Some(a), Some(b), _) if a != b => Err(cx.bad_attribute("`output_dtype` names another type than that of the zero point")),
        (None, Some(_), Some(_)) => Err(cx.bad_attribute("`output_dtype` names another type than that of the zero point")),
        _ => Ok(zero.or(named)),
    }
}

/// A scale or a zero point, of a tensor, of every slice of an axis, or of every block of one, so that it broadcasts to `dims`.
fn spread(cx: &mut NodeCx<'_>, v: Value, dims: &[usize]) -> Made {
    let own = cx.dims(v);
    if own.iter().product::<usize>() == 1 && own.len() <= 1 {
        return cx.reshape(v, vec![]);
    }
    let axis = cx.axis(cx.int("axis")?.unwrap_or(1), dims.len())?;
    let misfit = |cx: &NodeCx<'_>| cx.misfit(format!("scales {own:?} do not fit axis {axis} of {dims:?}"));
    let Some(block) = block_size(cx)? else {
        if own != [dims[axis]] {
            return Err(misfit(cx));
        }
        let mut wide = vec![1; dims.len()];
        wide[axis] = own[0];
        return cx.reshape(v, wide);
    };
    let others = own.len() == dims.len() && (0..dims.len()).all(|i| i == axis || own[i] == dims[i]);
    if !others || block == 0 || dims[axis].div_ceil(block) != own[axis] {
        return Err(misfit(cx));
    }
    let (mut one, mut many, mut whole) = (own.clone(), own.clone(), own.clone());
    one.insert(axis + 1, 1);
    many.insert(axis + 1, block);
    whole[axis] = own[axis].checked_mul(block).ok_or_else(|| misfit(cx))?;
    let v = cx.reshape(v, one)?;
    let v = cx.expand(v, many)?;
    let v = cx.reshape(v, whole)?;
    cx.part(v, axis, 0, dims[axis])
}

/// The numbers of operand 2, a zero point; `None` where all of them are 0.
fn zero_point(cx: &mut NodeCx<'_>, s: Small) -> Result<Option<Value>, Diagnostic> {
    let Some(v) = cx.optional(2) else { return Ok(None) };
    if cx.small(v) != Some(s) {
        return Err(cx.err(Code::BadGraph, "the zero point has another type than the codes"));
    }
    let numbers = decoded(cx, v, s)?;
    let silent = cx.g.tensor(numbers).and_then(Tensor::to_f32).is_some_and(|z| z.iter().all(|z| *z == 0.0));
    Ok((!silent).then_some(numbers))
}

/// `round(x / scale + zero)`.
pub fn quantize(cx: &mut NodeCx<'_>, s: Small) -> Built {
    let (x, scale, zero) = (cx.arg(0)?, cx.arg(1)?, zero_point(cx, s)?);
    let dims = cx.dims(x);
    let scale = spread(cx, scale, &dims)?;
    let mut y = cx.div(x, scale)?;
    if let Some(zero) = zero {
        let zero = spread(cx, zero, &dims)?;
        y = cx.add(y, zero)?;
    }
    let how = Rounding { saturate: cx.flag("saturate", true)?, toward: Toward::Nearest };
    Ok(vec![encoded(cx, y, s, how)?])
}

/// `(number - zero) scale`.
pub fn dequantize(cx: &mut NodeCx<'_>, s: Small) -> Built {
    let (x, scale, zero) = (cx.arg(0)?, cx.arg(1)?, zero_point(cx, s)?);
    let dims = cx.dims(x);
    let mut y = decoded(cx, x, s)?;
    if let Some(zero) = zero {
        let zero = spread(cx, zero, &dims)?;
        y = cx.sub(y, zero)?;
    }
    let scale = spread(cx, scale, &dims)?;
    Ok(vec![cx.mul(y, scale)?])
}
