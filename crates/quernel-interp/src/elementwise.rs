//! Functions of one or two elements, and changes of type.

use crate::{data, strided};
use quernel_ir::{Binary, Code, Comparison, Diagnostic, Elem, Quant, Scalar, Tensor, TensorTy, Unary, exact, float, plain};

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
    if let quernel_ir::Scheme::Grouped { group, scales } = q.scheme() {
        let group = *group as usize;
        if scales.len() * group != values.len() {
            return Err(Diagnostic::new(Code::BadIr, format!("{} scales of {group} elements of {}", scales.len(), x.ty)));
        }
        return Ok(values.into_iter().enumerate().map(|(i, v)| exact::dequantize(v, scales[i / group], 0)).collect());
    }
    let axis = q.axis().unwrap_or(0);
    let slices = match q.scheme() {
        quernel_ir::Scheme::PerAxis { scales, .. } | quernel_ir::Scheme::Table { scales, .. } => scales.len(),
        quernel_ir::Scheme::PerTensor { .. } | quernel_ir::Scheme::Grouped { .. } => 1,
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
    if x.ty.elem == Elem::Scalar(Scalar::F64) {
        return data::tensor(result, data::f64s(x.bytes()).into_iter().flat_map(|v| plain::double_unary(f, v).to_le_bytes()).collect());
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
    if let Elem::Scalar(s) = result.elem
        && s != Scalar::F32
    {
        return elements(a, b, result, |x, y, out| put(out, plain::binary(f, s, x, y), s.bytes()));
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

/// Applies `each(a, b, out)` to the bytes of elements of two plain tensors, broadcasting.
fn elements(a: &Tensor, b: &Tensor, result: &TensorTy, each: impl Fn(&[u8], &[u8], &mut Vec<u8>)) -> Result<Tensor, Diagnostic> {
    let width = a.ty.elem.bytes();
    let mut out = Vec::with_capacity(result.bytes());
    pairs(&a.ty, &b.ty, result, |i, j| each(&a.bytes()[i * width..][..width], &b.bytes()[j * width..][..width], &mut out));
    data::tensor(result, out)
}

fn put(out: &mut Vec<u8>, bits: u64, width: usize) {
    out.extend_from_slice(&bits.to_le_bytes()[..width]);
}

/// The plain type of an operand.
fn scalar(ty: &TensorTy) -> Result<Scalar, Diagnostic> {
    ty.elem.scalar().ok_or_else(|| Diagnostic::bug("a quantized type where a plain one is expected"))
}

/// A relation of two elements with broadcasting.
pub(crate) fn compare(f: Comparison, a: &Tensor, b: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let s = scalar(&a.ty)?;
    elements(a, b, result, |x, y, out| out.push(plain::compare(f, s, x, y).into()))
}

/// `c ? a : b` with broadcasting.
pub(crate) fn select(args: &[&Tensor], result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let [c, a, b] = args else { return Err(Diagnostic::bug("a selection takes three operands")) };
    let width = result.elem.bytes();
    let mut out = Vec::with_capacity(result.bytes());
    let steps = [c, a, b].map(|t| strided::broadcast(&t.ty.dims, &result.dims));
    strided::rows(&result.dims, [0; 3], [&steps[0], &steps[1], &steps[2]], |at, step, len| {
        for k in 0..len as isize {
            let [c_at, a_at, b_at]: [usize; 3] = std::array::from_fn(|i| (at[i] + k * step[i]) as usize);
            let (from, at) = if c.bytes()[c_at] != 0 { (a, a_at) } else { (b, b_at) };
            out.extend_from_slice(&from.bytes()[at * width..][..width]);
        }
    });
    data::tensor(result, out)
}

/// Between plain scalar types.
pub(crate) fn cast(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    data::tensor(result, plain::cast(scalar(&x.ty)?, scalar(result)?, x.bytes()))
}
