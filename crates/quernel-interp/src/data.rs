//! Between the bytes of tensors and slots and numbers.

use quernel_ir::{Code, Diagnostic, Elem, Quant, Scalar, Tensor, TensorTy};

/// Little-endian f32 numbers.
pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Little-endian f64 numbers.
pub(crate) fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
}

/// Little-endian i32 numbers.
pub(crate) fn i32s(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// Elements of `width` bytes as bits.
pub(crate) fn bits(width: usize, bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(width).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))).collect()
}

/// Bits as elements of `width` bytes.
pub(crate) fn of_bits(width: usize, bits: &[u64]) -> Vec<u8> {
    bits.iter().flat_map(|b| b.to_le_bytes().into_iter().take(width)).collect()
}

/// Little-endian i64 numbers.
pub(crate) fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

/// Little-endian i16 numbers.
pub(crate) fn i16s(bytes: &[u8]) -> Vec<i16> {
    bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect()
}

/// The value of a stored byte.
pub(crate) fn byte(signed: bool, b: u8) -> i32 {
    if signed { i32::from(b as i8) } else { i32::from(b) }
}

/// The value of a stored word of two bytes.
pub(crate) fn word(signed: bool, b: &[u8]) -> i32 {
    let word = u16::from_le_bytes([b[0], b[1]]);
    if signed { i32::from(word as i16) } else { i32::from(word) }
}

/// Stores the low bytes of an integer.
pub(crate) fn store(to: &mut [u8], v: i32) {
    to.copy_from_slice(&v.to_le_bytes()[..to.len()]);
}

/// The stored integers of a quantized tensor.
pub(crate) fn stored(t: &Tensor, q: &Quant) -> Vec<i32> {
    let wide = t.bytes().as_chunks::<2>().0;
    match (q.storage().bytes(), q.storage().signed()) {
        (1, signed) => t.bytes().iter().map(|&b| byte(signed, b)).collect(),
        (4, _) => i32s(t.bytes()),
        (_, false) => wide.iter().map(|b| i32::from(u16::from_le_bytes(*b))).collect(),
        (_, true) => wide.iter().map(|b| i32::from(i16::from_le_bytes(*b))).collect(),
    }
}

/// The integers of an integer, bool or quantized tensor.
pub(crate) fn integers(t: &Tensor) -> Result<Vec<i64>, Diagnostic> {
    t.to_ints().ok_or_else(|| Diagnostic::bug("a float tensor where integers are expected"))
}

/// The numbers of an f32 tensor.
pub(crate) fn floats(t: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    if t.ty.elem.is_f32() { Ok(f32s(t.bytes())) } else { Err(Diagnostic::bug("an integer tensor where floats are expected")) }
}

/// The quantized element type of an operand.
pub(crate) fn quant(ty: &TensorTy) -> Result<&Quant, Diagnostic> {
    ty.elem.quant().ok_or_else(|| Diagnostic::bug("a plain type where a quantized one is expected"))
}

/// Scale and zero point of a per-tensor type.
pub(crate) fn params(q: &Quant) -> Result<(f32, i32), Diagnostic> {
    q.tensor_params().ok_or_else(|| Diagnostic::bug("a per-axis type where one scale is expected"))
}

/// Stored integers as bytes, `width` bytes each.
pub(crate) fn encode(width: usize, values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    let values = values.into_iter();
    match width {
        1 => values.map(|v| v as u8).collect(),
        2 => values.flat_map(|v| (v as i16).to_le_bytes()).collect(),
        _ => values.flat_map(i32::to_le_bytes).collect(),
    }
}

/// A tensor of wide integers, wrapped to the element type.
pub(crate) fn integer_tensor(ty: &TensorTy, values: impl IntoIterator<Item = i64>) -> Result<Tensor, Diagnostic> {
    let values = values.into_iter();
    let bytes = match ty.elem.bytes() {
        1 if ty.elem == Elem::Scalar(Scalar::Bool) => values.map(|v| u8::from(v != 0)).collect(),
        1 => values.map(|v| v as u8).collect(),
        2 => values.flat_map(|v| (v as i16).to_le_bytes()).collect(),
        4 => values.flat_map(|v| (v as i32).to_le_bytes()).collect(),
        _ => values.flat_map(i64::to_le_bytes).collect::<Vec<u8>>(),
    };
    tensor(ty, bytes)
}

/// A tensor of stored integers of a quantized type.
pub(crate) fn stored_tensor(ty: &TensorTy, values: impl IntoIterator<Item = i32>) -> Result<Tensor, Diagnostic> {
    tensor(ty, encode(ty.elem.bytes(), values))
}

/// A tensor of f32.
pub(crate) fn float_tensor(ty: &TensorTy, values: &[f32]) -> Result<Tensor, Diagnostic> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    put_f32s(&mut bytes, values);
    tensor(ty, bytes)
}

/// Appends little-endian f32 numbers.
pub(crate) fn put_f32s(bytes: &mut Vec<u8>, values: &[f32]) {
    for v in values {
        bytes.extend_from_slice(&v.to_le_bytes());
    }
}

/// A tensor from bytes that an operator computed.
pub(crate) fn tensor(ty: &TensorTy, bytes: Vec<u8>) -> Result<Tensor, Diagnostic> {
    Tensor::new(ty.clone(), bytes).map_err(Diagnostic::bug)
}

/// Refuses a tensor whose stored integers leave their storage: narrow codes are bytes, and a byte may be anything.
pub(crate) fn check_codes(t: &Tensor) -> Result<(), Diagnostic> {
    let Some(q) = t.ty.elem.quant() else { return Ok(()) };
    if q.storage().bits().is_multiple_of(8) {
        return Ok(());
    }
    let (lo, hi) = q.storage().range();
    match stored(t, q).into_iter().find(|v| !(lo..=hi).contains(v)) {
        Some(v) => Err(Diagnostic::new(Code::BadTensor, format!("stored integer {v} is not a {}", q.storage()))),
        None => Ok(()),
    }
}
