//! Arithmetic of `quernel_ir::exact`, as instruction sequences with the same bits.
//!
//! Rounding to an integer never uses a conversion: `p + 1.5 * 2^23` has the rounded integer in its low mantissa bits
//! (exactly so for `|p| < 2^22`, and every clamped `p` here is far below), and the separate addition is never
//! contracted by this code generator. The same three operations serve scalars and vectors of every target.

use super::{Emitter, Stored};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use quernel_ir::float::ROUND_MAGIC;
use quernel_ir::program::ByteQuant;

/// Constants of a byte result, in registers: `clamp(round(p), lo - zero, hi - zero) + zero`. Scalar or vector,
/// depending on how it was made.
#[derive(Clone, Copy, Debug)]
pub struct BytesEnd {
    lo: Value,
    hi: Value,
    magic: Value,
    /// `zero` minus the bits of the magic constant.
    bias: Value,
}

/// Bounds of a float result, in registers.
#[derive(Clone, Copy, Debug)]
pub struct FloatEnd {
    /// Lower bound, unless it is infinite.
    lo: Option<Value>,
    /// Upper bound, unless it is infinite.
    hi: Option<Value>,
}

fn bias_bits(zero: i32) -> i32 {
    zero.wrapping_sub(ROUND_MAGIC.to_bits() as i32)
}

impl Emitter<'_> {
    /// Scalar constants of a byte result.
    pub fn bytes_end(&mut self, zero: i32, lo: i32, hi: i32) -> BytesEnd {
        BytesEnd {
            lo: self.f32((lo - zero) as f32),
            hi: self.f32((hi - zero) as f32),
            magic: self.f32(ROUND_MAGIC),
            bias: self.i32(bias_bits(zero)),
        }
    }
    /// Vector constants of a byte result.
    pub fn bytes_end_v(&mut self, zero: i32, lo: i32, hi: i32) -> BytesEnd {
        BytesEnd {
            lo: self.splat_f32((lo - zero) as f32),
            hi: self.splat_f32((hi - zero) as f32),
            magic: self.splat_f32(ROUND_MAGIC),
            bias: self.splat_i32(bias_bits(zero)),
        }
    }
    /// Vector constants of a byte or word result; unsigned words come out 2^15 lower, for [`Self::narrow_words`].
    pub fn integers_end_v(&mut self, zero: i32, lo: i32, hi: i32, stored: Stored) -> BytesEnd {
        let down = if stored.words && !stored.signed { 1 << 15 } else { 0 };
        self.bytes_end_v(zero - down, lo - down, hi - down)
    }
    /// [`BytesEnd`] of a quantized result, scalar.
    pub fn bytes_end_of(&mut self, to: ByteQuant) -> BytesEnd {
        self.bytes_end(to.zero, to.lo, to.hi)
    }
    /// [`BytesEnd`] of a quantized result, vector.
    pub fn bytes_end_of_v(&mut self, to: ByteQuant) -> BytesEnd {
        self.bytes_end_v(to.zero, to.lo, to.hi)
    }

    /// [`quernel_ir::exact::requantize`]: i32 sum, f32 multiplier to an i32 within the bounds.
    pub fn requantize(&mut self, acc: Value, m: Value, end: &BytesEnd) -> Value {
        let t = self.b.ins().fcvt_from_sint(types::F32, acc);
        let p = self.b.ins().fmul(t, m);
        let p = self.min_first(p, end.hi);
        let p = self.max_first(p, end.lo);
        self.rounded_bits(p, end)
    }
    /// [`Self::requantize`] on i32x4 and f32x4.
    pub fn requantize_v(&mut self, acc: Value, m: Value, end: &BytesEnd) -> Value {
        let t = self.b.ins().fcvt_from_sint(types::F32X4, acc);
        let p = self.b.ins().fmul(t, m);
        let p = self.min_first_v(p, end.hi);
        let p = self.max_first_v(p, end.lo);
        self.rounded_bits_v(p, end)
    }
    /// The end of [`quernel_ir::exact::quantize`] after the division: f32 quotient to an i32 within the bounds; NaN
    /// becomes the lower one.
    pub fn quantize(&mut self, quotient: Value, end: &BytesEnd) -> Value {
        let p = self.max_first(quotient, end.lo);
        let p = self.min_first(p, end.hi);
        self.rounded_bits(p, end)
    }
    /// [`Self::quantize`] on f32x4.
    pub fn quantize_v(&mut self, quotient: Value, end: &BytesEnd) -> Value {
        let p = self.max_first_v(quotient, end.lo);
        let p = self.min_first_v(p, end.hi);
        self.rounded_bits_v(p, end)
    }
    /// `round_ties_even(p) + zero` as an i32, for `|p| < 2^22`.
    fn rounded_bits(&mut self, p: Value, end: &BytesEnd) -> Value {
        let r = self.b.ins().fadd(p, end.magic);
        let bits = self.b.ins().bitcast(types::I32, MemFlagsData::new(), r);
        self.b.ins().iadd(bits, end.bias)
    }
    fn rounded_bits_v(&mut self, p: Value, end: &BytesEnd) -> Value {
        let r = self.b.ins().fadd(p, end.magic);
        let bits = self.cast(types::I32X4, r);
        self.b.ins().iadd(bits, end.bias)
    }
    /// `round_ties_even` of an f32 with `|x| < 2^22`, as an f32.
    pub fn round_even(&mut self, x: Value) -> Value {
        let magic = self.f32(ROUND_MAGIC);
        let r = self.b.ins().fadd(x, magic);
        self.b.ins().fsub(r, magic)
    }
    /// `round_ties_even` of f32x4 lanes with `|x| < 2^22`, as f32x4.
    pub fn round_even_v(&mut self, x: Value) -> Value {
        let magic = self.splat_f32(ROUND_MAGIC);
        let r = self.b.ins().fadd(x, magic);
        self.b.ins().fsub(r, magic)
    }
    /// An f32 that is an integer with `|x| < 2^22` as an i32, and the same for f32x4 (by the type of `x`).
    pub fn float_to_int(&mut self, x: Value) -> Value {
        if self.b.func.dfg.value_type(x) == types::F32X4 {
            let magic = self.splat_f32(ROUND_MAGIC);
            let r = self.b.ins().fadd(x, magic);
            let bits = self.cast(types::I32X4, r);
            let bias = self.splat_i32(bias_bits(0));
            self.b.ins().iadd(bits, bias)
        } else {
            let magic = self.f32(ROUND_MAGIC);
            let r = self.b.ins().fadd(x, magic);
            let bits = self.b.ins().bitcast(types::I32, MemFlagsData::new(), r);
            let bias = self.i32(bias_bits(0));
            self.b.ins().iadd(bits, bias)
        }
    }

    /// Bounds of a float result, scalar.
    pub fn float_end(&mut self, lo: f32, hi: f32) -> FloatEnd {
        let (below, above) = (lo > f32::NEG_INFINITY, hi < f32::INFINITY);
        FloatEnd { lo: below.then(|| self.f32(lo)), hi: above.then(|| self.f32(hi)) }
    }
    /// Bounds of a float result, vector.
    pub fn float_end_v(&mut self, lo: f32, hi: f32) -> FloatEnd {
        let (below, above) = (lo > f32::NEG_INFINITY, hi < f32::INFINITY);
        FloatEnd { lo: below.then(|| self.splat_f32(lo)), hi: above.then(|| self.splat_f32(hi)) }
    }
    /// [`quernel_ir::float::bound`].
    pub fn bound(&mut self, x: Value, end: &FloatEnd) -> Value {
        let x = end.lo.map_or(x, |lo| self.max_first(x, lo));
        end.hi.map_or(x, |hi| self.min_first(x, hi))
    }
    /// [`Self::bound`] on f32x4.
    pub fn bound_v(&mut self, x: Value, end: &FloatEnd) -> Value {
        let x = end.lo.map_or(x, |lo| self.max_first_v(x, lo));
        end.hi.map_or(x, |hi| self.min_first_v(x, hi))
    }
    /// [`quernel_ir::exact::scale_to_float`], whose sum is a number, so that an infinite bound changes nothing.
    pub fn scale_to_float(&mut self, acc: Value, scale: Value, end: &FloatEnd) -> Value {
        let t = self.b.ins().fcvt_from_sint(types::F32, acc);
        let p = self.b.ins().fmul(t, scale);
        self.bound(p, end)
    }
    /// [`Self::scale_to_float`] on i32x4 and f32x4.
    pub fn scale_to_float_v(&mut self, acc: Value, scale: Value, end: &FloatEnd) -> Value {
        let t = self.b.ins().fcvt_from_sint(types::F32X4, acc);
        let p = self.b.ins().fmul(t, scale);
        self.bound_v(p, end)
    }
}
