//! Functions of one or two elements, and changes of type.

use crate::{data, strided};
use quernel_ir::{Binary, Code, Diagnostic, Elem, Quant, Scalar, Tensor, TensorTy, Unary, exact, float};

/// f32 to the quantized result type.
pub(crate) fn quantize(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    quantized(result, &data::floats(x)?)
}

/// A tensor of the quantized type `ty` from real numbers.
pub(crate) fn quantized(ty: &TensorTy, values: &[f32]) -> Result<Tensor, Diagnostic> {
    let q = data::quant(ty)?;
    let (scale, zero) = data::params(q)?;
    data::stored_tensor(ty, values.iter().map(|&v| exact::quantize(v, scale, zero, q.min(), q.max())))
}

/// The real numbers of a quantized tensor.
pub(crate) fn reals(x: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    let q = data::quant(&x.ty)?;
    let values = data::stored(x, q);
    if let Some((scale, zero)) = q.tensor_params() {
        return Ok(values.into_iter().map(|v| exact::dequantize(v, scale, zero)).collect());
    }
    let axis = q.axis().unwrap_or(0);
    let slices = match q.scheme() {
        quernel_ir::Scheme::PerAxis { scales, .. } | quernel_ir::Scheme::Table { scales, .. } => scales.len(),
        quernel_ir::Scheme::PerTensor { .. } => 1,
    };
    if x.ty.dims.get(axis) != Some(&slices) {
        return Err(Diagnostic::new(Code::BadIr, format!("{slices} scales along axis {axis} of {}", x.ty)));
    }
    let inner: usize = x.ty.dims[axis + 1..].iter().product();
    Ok(values.into_iter().enumerate().map(|(i, v)| q.centered(v) as f32 * q.scale_at(i / inner.max(1) % slices)).collect())
}

/// The numbers of an f32 or quantized tensor.
pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    if x.ty.elem.is_f32() { data::floats(x) } else { reals(x) }
}

/// A result of the f32 or quantized type `ty`.
pub(crate) fn finish(ty: &TensorTy, values: &[f32]) -> Result<Tensor, Diagnostic> {
    if ty.elem.is_f32() { data::float_tensor(ty, values) } else { quantized(ty, values) }
}

/// Applies `entry` to every stored integer, through a table where that is less work.
fn map_stored(x: &Tensor, q: &Quant, result: &TensorTy, entry: impl Fn(i32) -> i32) -> Result<Tensor, Diagnostic> {
    if (q.storage().bytes(), result.elem.bytes()) == (1, 1) && x.bytes().len() > 256 {
        let table = exact::byte_table(q.storage().signed(), entry);
        return data::tensor(result, x.bytes().iter().map(|&b| table[b as usize]).collect());
    }
    data::stored_tensor(result, data::stored(x, q).into_iter().map(entry))
}

/// A function of one element.
pub(crate) fn unary(f: Unary, x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    if x.ty.elem.is_f32() {
        return data::float_tensor(result, &data::floats(x)?.into_iter().map(|v| float::unary(f, v)).collect::<Vec<f32>>());
    }
    let (qx, qy) = (data::quant(&x.ty)?, data::quant(result)?);
    let (px, py) = (data::params(qx)?, data::params(qy)?);
    map_stored(x, qx, result, |v| exact::unary_entry(f, v, px, py, qy.min(), qy.max()))
}

/// One per-tensor type to another.
pub(crate) fn requantize(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let (qx, qy) = (data::quant(&x.ty)?, data::quant(result)?);
    let (px, py) = (data::params(qx)?, data::params(qy)?);
    map_stored(x, qx, result, |v| exact::requantize_entry(v, px, py, qy.min(), qy.max()))
}

/// A function of two elements with broadcasting.
pub(crate) fn binary(f: Binary, a: &Tensor, b: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    if let Elem::Scalar(s) = &result.elem
        && *s != Scalar::F32
    {
        let (x, y) = (data::integers(a)?, data::integers(b)?);
        let mut out = Vec::with_capacity(result.count());
        let mut undefined = false;
        pairs(&a.ty, &b.ty, result, |i, j| {
            let y = integer(f, x[i], y[j], *s);
            undefined |= y.is_none();
            out.push(y.unwrap_or(0));
        });
        return if undefined {
            Err(Diagnostic::new(Code::UnsupportedForm, "integer division by zero"))
        } else {
            data::integer_tensor(result, out)
        };
    }
    let (x, y) = (numbers(a)?, numbers(b)?);
    let mut out = Vec::with_capacity(result.count());
    pairs(&a.ty, &b.ty, result, |i, j| out.push(exact::binary(f, x[i], y[j])));
    finish(result, &out)
}

/// Calls `pair` with the positions of both operands for every element of the result, in order.
fn pairs(a: &TensorTy, b: &TensorTy, result: &TensorTy, mut pair: impl FnMut(usize, usize)) {
    let steps = [&strided::broadcast(&a.dims, &result.dims)[..], &strided::broadcast(&b.dims, &result.dims)[..]];
    strided::rows(&result.dims, [0, 0], steps, |[i, j], [di, dj], len| {
        for k in 0..len as isize {
            pair((i + k * di) as usize, (j + k * dj) as usize);
        }
    });
}

/// A binary function on plain integers, wrapping to the type; `None` for a division by zero.
fn integer(f: Binary, a: i64, b: i64, s: Scalar) -> Option<i64> {
    let y = match f {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div if b == 0 => return None,
        Binary::Div => a.wrapping_div(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Pow => power(a, b)?,
    };
    Some(wrap(s, y))
}

/// The low bits of `v` as the type reads them.
fn wrap(s: Scalar, v: i64) -> i64 {
    match s {
        Scalar::I64 | Scalar::F32 => v,
        Scalar::I32 => i64::from(v as i32),
        Scalar::I8 => i64::from(v as i8),
        Scalar::U8 => i64::from(v as u8),
        Scalar::Bool => i64::from(v != 0),
    }
}

fn power(a: i64, b: i64) -> Option<i64> {
    if b < 0 {
        return match a {
            0 => None,
            1 => Some(1),
            -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
            _ => Some(0),
        };
    }
    let (mut y, mut base, mut e) = (1i64, a, b);
    while e > 0 {
        if e & 1 == 1 {
            y = y.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    Some(y)
}

/// Between plain scalar types.
pub(crate) fn cast(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let Elem::Scalar(to) = result.elem else { return Err(Diagnostic::bug("cast to a quantized type")) };
    match (x.ty.elem.is_f32(), to) {
        (true, Scalar::F32) => data::tensor(result, x.bytes().to_vec()),
        (true, _) => data::integer_tensor(result, data::floats(x)?.into_iter().map(|v| truncate(to, v))),
        (false, Scalar::F32) => data::float_tensor(result, &data::integers(x)?.into_iter().map(|v| v as f32).collect::<Vec<f32>>()),
        (false, _) => data::integer_tensor(result, data::integers(x)?),
    }
}

/// Towards zero, saturating, NaN to 0; bool tests for non-zero.
pub(crate) fn truncate(to: Scalar, v: f32) -> i64 {
    match to {
        Scalar::I64 | Scalar::F32 => v as i64,
        Scalar::I32 => i64::from(v as i32),
        Scalar::I8 => i64::from(v as i8),
        Scalar::U8 => i64::from(v as u8),
        Scalar::Bool => i64::from(v != 0.0),
    }
}
