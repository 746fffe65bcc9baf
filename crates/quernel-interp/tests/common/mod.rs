//! Random numbers and small constructors for the tests.
#![allow(dead_code)]

use quernel_ir::{Elem, Quant, Storage, Tensor, TensorTy};

/// A linear congruential generator: the same cases on every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    /// A number from 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// A number from `lo` to `hi`, both included.
    pub fn within(&mut self, lo: i32, hi: i32) -> i32 {
        lo + self.below((hi - lo) as usize + 1) as i32
    }
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
    /// A float in -1..1.
    pub fn float(&mut self) -> f32 {
        self.within(-1 << 20, 1 << 20) as f32 / (1 << 20) as f32
    }
    pub fn pick<T: Copy>(&mut self, xs: &[T]) -> T {
        xs[self.below(xs.len())]
    }
    /// A tensor over the whole range of a quantized type.
    pub fn quantized(&mut self, dims: &[usize], q: &Quant) -> Tensor {
        let ty = TensorTy::new(dims, q.clone());
        let n = ty.count();
        Tensor::from_ints(ty, (0..n).map(|_| i64::from(self.within(q.min(), q.max()))))
    }
    pub fn floats(&mut self, dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        Tensor::f32(dims, &(0..n).map(|_| self.float()).collect::<Vec<f32>>())
    }
}

pub fn storage(bits: u8, signed: bool) -> Storage {
    Storage::new(bits, signed).expect("1 to 16 bits")
}

pub fn per_tensor(bits: u8, signed: bool, scale: f32, zero: i32) -> Quant {
    Quant::per_tensor(storage(bits, signed), scale, zero).expect("legal")
}

/// A u8 tensor of scale `scale` and zero point `zero`.
pub fn u8s(dims: &[usize], scale: f32, zero: i32, data: &[u8]) -> Tensor {
    Tensor::new(u8_ty(dims, scale, zero), data.to_vec()).expect("data fills dims")
}

pub fn u8_ty(dims: &[usize], scale: f32, zero: i32) -> TensorTy {
    TensorTy::new(dims, Elem::from(per_tensor(8, false, scale, zero)))
}
