//! Constant tensors: a type and its bytes.

use crate::{
    plain::Number,
    ty::{Elem, Scalar, TensorTy},
};
use std::{fmt, sync::Arc};

/// A tensor with data, row-major, little-endian, one byte per element for quantized types up to 8 bits.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    /// Its type.
    pub ty: TensorTy,
    bytes: Arc<[u8]>,
}

impl Tensor {
    /// `Err` when the number of bytes does not fit the type.
    pub fn new(ty: TensorTy, bytes: impl Into<Arc<[u8]>>) -> Result<Self, String> {
        let bytes = bytes.into();
        if bytes.len() == ty.bytes() {
            Ok(Self { ty, bytes })
        } else {
            Err(format!("{} bytes of data for type {ty}, which has {}", bytes.len(), ty.bytes()))
        }
    }
    /// A plain f32 tensor. Panics when `data` does not fill `dims`.
    pub fn f32(dims: impl Into<Vec<usize>>, data: &[f32]) -> Self {
        Self::new(TensorTy::f32(dims), data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).expect("data fills dims")
    }
    /// A plain i32 tensor. Panics when `data` does not fill `dims`.
    pub fn i32(dims: impl Into<Vec<usize>>, data: &[i32]) -> Self {
        Self::new(TensorTy::new(dims, Scalar::I32), data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .expect("data fills dims")
    }
    /// A plain i64 tensor. Panics when `data` does not fill `dims`.
    pub fn i64(dims: impl Into<Vec<usize>>, data: &[i64]) -> Self {
        Self::new(TensorTy::new(dims, Scalar::I64), data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .expect("data fills dims")
    }
    /// A quantized or integer tensor from its stored integers. Panics when `data` does not fill the type or a
    /// number does not fit its storage.
    pub fn from_ints(ty: TensorTy, data: impl IntoIterator<Item = i64>) -> Self {
        let mut bytes = Vec::with_capacity(ty.bytes());
        for q in data {
            let width = ty.elem.bytes();
            let le = q.to_le_bytes();
            bytes.extend_from_slice(&le[..width]);
        }
        Self::new(ty, bytes).expect("data fills the type")
    }
    /// Raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Raw bytes, shared.
    pub fn shared(&self) -> Arc<[u8]> {
        self.bytes.clone()
    }
    /// The elements of a plain f32 tensor; `None` for other types.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        self.ty.elem.is_f32().then(|| self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
    /// The stored integers of an integer, bool or quantized tensor; `None` for floats, and for unsigned 64-bit numbers
    /// beyond `i64`.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        let (width, signed) = match &self.ty.elem {
            Elem::Scalar(s) if s.is_float() => return None,
            Elem::Scalar(s) => (s.bytes(), s.is_signed()),
            Elem::Quant(q) => (q.storage().bytes(), q.storage().signed()),
        };
        let unused = 64 - 8 * width as u32;
        let read = |b: &[u8]| {
            let raw = b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            if signed { Some(((raw << unused) as i64) >> unused) } else { i64::try_from(raw).ok() }
        };
        self.bytes.chunks_exact(width).map(read).collect()
    }
    /// The numbers of a plain tensor, each the nearest f64; `None` for quantized types.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let s = self.ty.elem.scalar()?;
        Some(self.bytes.chunks_exact(s.bytes()).map(|b| Number::read(s, b).real()).collect())
    }
    /// 64-bit FNV-1a over the data: the name of the contents in text dumps.
    pub fn hash(&self) -> u64 {
        fnv1a(&self.bytes)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{:016x}", self.ty, self.hash())
    }
}

/// 64-bit FNV-1a.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}
