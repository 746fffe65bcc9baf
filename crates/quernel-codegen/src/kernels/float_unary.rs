//! The functions of `quernel_ir::float`, operation by operation, on scalars and vectors alike.

use super::unsupported;
use crate::emit::Emitter;
use cranelift_codegen::ir::{
    Endianness, InstBuilder, MemFlagsData, Value,
    condcodes::{FloatCC, IntCC},
    types::{F32, F32X4, I32, I32X4, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    float::{
        self,
        functions::{self, Arithmetic},
    },
    op::Unary,
    program::What,
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::UnaryFloat { op, count } = what else { return Err(unsupported(what)) };
    let (x, y) = (e.read(0), e.write(0));
    let wide = if e.vectors() { count / 4 } else { 0 };
    e.walk(wide, &[(x, 16), (y, 16)], |e, p| {
        let v = e.load(F32X4, p[0], 0);
        let v = Math::VECTOR.unary(e, *op, v);
        e.store(v, p[1], 0);
    });
    let (x, y) = (e.at(x, 16 * wide as i64), e.at(y, 16 * wide as i64));
    e.walk(count - 4 * wide, &[(x, 4), (y, 4)], |e, p| {
        let v = e.load_f32(p[0], 0);
        let v = Math::SCALAR.unary(e, *op, v);
        e.store(v, p[1], 0);
    });
    Ok(())
}

/// f32 arithmetic on one shape of values.
#[derive(Clone, Copy, Debug)]
pub struct Math {
    vector: bool,
}

const SIGN: u32 = 0x8000_0000;

impl Math {
    /// One f32.
    pub const SCALAR: Self = Self { vector: false };
    /// Four f32.
    pub const VECTOR: Self = Self { vector: true };

    /// The form of a value.
    pub fn of(e: &Emitter, v: Value) -> Self {
        Self { vector: e.b.func.dfg.value_type(v) == F32X4 }
    }
    /// A constant.
    pub fn k(self, e: &mut Emitter, v: f32) -> Value {
        if self.vector { e.splat_f32(v) } else { e.f32(v) }
    }
    fn bits(self, e: &mut Emitter, v: u32) -> Value {
        if self.vector { e.splat_i32(v as i32) } else { e.i32(v as i32) }
    }
    fn to_bits(self, e: &mut Emitter, v: Value) -> Value {
        let ty = if self.vector { I32X4 } else { I32 };
        e.b.ins().bitcast(ty, self.flags(), v)
    }
    fn of_bits(self, e: &mut Emitter, v: Value) -> Value {
        let ty = if self.vector { F32X4 } else { F32 };
        e.b.ins().bitcast(ty, self.flags(), v)
    }
    fn flags(self) -> MemFlagsData {
        if self.vector { MemFlagsData::new().with_endianness(Endianness::Little) } else { MemFlagsData::new() }
    }
    /// `cc(a, b) ? x : y`, all f32.
    fn pick(self, e: &mut Emitter, cc: FloatCC, (a, b): (Value, Value), x: Value, y: Value) -> Value {
        let c = e.b.ins().fcmp(cc, a, b);
        if self.vector {
            let c = e.b.ins().bitcast(F32X4, self.flags(), c);
            e.b.ins().bitselect(c, x, y)
        } else {
            e.b.ins().select(c, x, y)
        }
    }
    fn less(self, e: &mut Emitter, a: Value, b: Value, x: Value, y: Value) -> Value {
        self.pick(e, FloatCC::LessThan, (a, b), x, y)
    }
    fn at_most(self, e: &mut Emitter, a: Value, b: Value, x: Value, y: Value) -> Value {
        self.pick(e, FloatCC::LessThanOrEqual, (a, b), x, y)
    }
    fn add(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        e.b.ins().fadd(a, b)
    }
    fn sub(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        e.b.ins().fsub(a, b)
    }
    fn mul(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        e.b.ins().fmul(a, b)
    }
    fn div(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        e.b.ins().fdiv(a, b)
    }
    fn add_k(self, e: &mut Emitter, a: Value, k: f32) -> Value {
        let k = self.k(e, k);
        self.add(e, a, k)
    }
    fn mul_k(self, e: &mut Emitter, a: Value, k: f32) -> Value {
        let k = self.k(e, k);
        self.mul(e, a, k)
    }
    fn abs(self, e: &mut Emitter, x: Value) -> Value {
        let (bits, mask) = (self.to_bits(e, x), self.bits(e, !SIGN));
        let r = e.b.ins().band(bits, mask);
        self.of_bits(e, r)
    }
    fn neg(self, e: &mut Emitter, x: Value) -> Value {
        let (bits, mask) = (self.to_bits(e, x), self.bits(e, SIGN));
        let r = e.b.ins().bxor(bits, mask);
        self.of_bits(e, r)
    }
    fn copysign(self, e: &mut Emitter, magnitude: Value, sign: Value) -> Value {
        let (m, s) = (self.to_bits(e, magnitude), self.to_bits(e, sign));
        let (keep, take) = (self.bits(e, !SIGN), self.bits(e, SIGN));
        let m = e.b.ins().band(m, keep);
        let s = e.b.ins().band(s, take);
        let r = e.b.ins().bor(m, s);
        self.of_bits(e, r)
    }
    fn horner(self, e: &mut Emitter, coefficients: &[f32], x: Value) -> Value {
        let mut p = self.k(e, coefficients[0]);
        for &c in &coefficients[1..] {
            p = self.mul(e, p, x);
            p = self.add_k(e, p, c);
        }
        p
    }
    /// `a > b ? a : b`.
    pub fn max_first(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        if self.vector { e.max_first_v(a, b) } else { e.max_first(a, b) }
    }
    /// `a < b ? a : b`.
    pub fn min_first(self, e: &mut Emitter, a: Value, b: Value) -> Value {
        if self.vector { e.min_first_v(a, b) } else { e.min_first(a, b) }
    }
    /// [`float::bound`].
    pub fn bound(self, e: &mut Emitter, mut x: Value, lo: f32, hi: f32) -> Value {
        if lo != f32::NEG_INFINITY {
            let k = self.k(e, lo);
            x = self.max_first(e, x, k);
        }
        if hi != f32::INFINITY {
            let k = self.k(e, hi);
            x = self.min_first(e, x, k);
        }
        x
    }
    /// [`float::exp_parts`].
    fn exp_parts(self, e: &mut Emitter, x: Value) -> (Value, Value) {
        let n = self.mul_k(e, x, float::LOG2_E);
        let n = self.add_k(e, n, float::ROUND_MAGIC);
        let magic = self.k(e, float::ROUND_MAGIC);
        let n = self.sub(e, n, magic);
        let high = self.mul_k(e, n, float::LN2_HI);
        let r = self.sub(e, x, high);
        let low = self.mul_k(e, n, float::LN2_LO);
        let r = self.sub(e, r, low);
        let p = self.horner(e, &float::EXP_POLY, r);
        let rr = self.mul(e, r, r);
        let p = self.mul(e, p, rr);
        let part = self.add(e, p, r);
        // Where the result is used, n is an integer in -126..=127.
        let n = e.float_to_int(n);
        let bias = self.bits(e, 127);
        let n = e.b.ins().iadd(n, bias);
        let n = e.b.ins().ishl_imm_u(n, 23);
        (part, self.of_bits(e, n))
    }
    /// [`float::exp`].
    pub fn exp(self, e: &mut Emitter, x: Value) -> Value {
        let (part, power) = self.exp_parts(e, x);
        let y = self.add_k(e, part, 1.0);
        let y = self.mul(e, y, power);
        let y = self.pick(e, FloatCC::Equal, (x, x), y, x);
        let (hi, infinite) = (self.k(e, float::EXP_HI), self.k(e, f32::INFINITY));
        let y = self.less(e, hi, x, infinite, y);
        let (lo, zero) = (self.k(e, float::EXP_LO), self.k(e, 0.0));
        self.less(e, x, lo, zero, y)
    }
    /// [`float::reduce`]; the lanes of a vector one by one, through memory.
    fn reduce(self, e: &mut Emitter, x: Value) -> (Value, Value) {
        if !self.vector {
            return Self::reduce_one(e, x);
        }
        let place = e.scratch(32);
        for i in 0..4u8 {
            let lane = e.b.ins().extractlane(x, i);
            let (r, quadrant) = Self::reduce_one(e, lane);
            e.store(r, place, 4 * i64::from(i));
            e.store(quadrant, place, 16 + 4 * i64::from(i));
        }
        (e.load(F32X4, place, 0), e.load(F32X4, place, 16))
    }
    fn reduce_one(e: &mut Emitter, x: Value) -> (Value, Value) {
        let math = Self::SCALAR;
        let size = math.abs(e, x);
        let bits = math.to_bits(e, size);
        let fraction = math.bits(e, 0x007f_ffff);
        let fraction = e.b.ins().band(bits, fraction);
        let one = math.bits(e, 0x0080_0000);
        let mantissa = e.b.ins().bor(fraction, one);
        let mantissa = e.b.ins().uextend(I64, mantissa);
        let exponent = e.b.ins().ushr_imm_u(bits, 23);
        let (least, span, zero_bits) = (e.i32(126), e.i32(128), e.i32(0));
        let at = e.b.ins().isub(exponent, least);
        let small = e.b.ins().icmp(IntCC::UnsignedLessThan, exponent, least);
        let at = e.b.ins().select(small, zero_bits, at);
        let far = e.b.ins().icmp(IntCC::UnsignedGreaterThan, at, span);
        let at = e.b.ins().select(far, span, at);
        let at = e.b.ins().uextend(I64, at);
        let (first, second) = (e.i64(64), e.i64(128));
        let in_first = e.b.ins().icmp(IntCC::UnsignedLessThan, at, first);
        let in_second = e.b.ins().icmp(IntCC::UnsignedLessThan, at, second);
        // The word at the window's start, and the two behind it.
        let words: [Value; 3] = std::array::from_fn(|i| {
            let [a, b, c] = [i, i + 1, i + 2].map(|w| e.i64(float::TWO_OVER_PI[w] as i64));
            let later = e.b.ins().select(in_second, b, c);
            e.b.ins().select(in_first, a, later)
        });
        let mask = e.i64(63);
        let shift = e.b.ins().band(at, mask);
        let back = e.b.ins().isub(mask, shift);
        let windows: [Value; 2] = std::array::from_fn(|i| {
            let high = e.b.ins().ishl(words[i], shift);
            let low = e.b.ins().ushr_imm_u(words[i + 1], 1);
            let low = e.b.ins().ushr(low, back);
            e.b.ins().bor(high, low)
        });
        let low = e.b.ins().ushr_imm_u(windows[1], 32);
        let low = e.b.ins().imul(mantissa, low);
        let low = e.b.ins().ushr_imm_u(low, 32);
        let product = e.b.ins().imul(mantissa, windows[0]);
        let product = e.b.ins().iadd(product, low);
        let half = e.i64(1 << 61);
        let quadrant = e.b.ins().iadd(product, half);
        let quadrant = e.b.ins().ushr_imm_u(quadrant, 62);
        let whole = e.b.ins().ishl_imm_u(quadrant, 62);
        let rest = e.b.ins().isub(product, whole);
        let rest = e.b.ins().fcvt_from_sint(F32, rest);
        let rest = math.mul_k(e, rest, float::QUADRANT);
        let quadrant = e.b.ins().fcvt_from_sint(F32, quadrant);
        let (quarter, infinite, nan, zero) = (e.f32(float::QUARTER), e.f32(f32::INFINITY), e.f32(f32::NAN), e.f32(0.0));
        let r = math.less(e, size, infinite, rest, nan);
        let quadrant = math.less(e, size, infinite, quadrant, zero);
        (math.less(e, size, quarter, size, r), math.less(e, size, quarter, zero, quadrant))
    }
    /// [`float::sigmoid`].
    fn sigmoid(self, e: &mut Emitter, x: Value) -> Value {
        let x = self.neg(e, x);
        let y = self.exp(e, x);
        let one = self.k(e, 1.0);
        let y = self.add(e, one, y);
        self.div(e, one, y)
    }
    /// [`float::tanh`].
    fn tanh(self, e: &mut Emitter, x: Value) -> Value {
        let a = self.abs(e, x);
        let z = self.mul(e, x, x);
        let small = self.horner(e, &float::TANH_POLY, z);
        let small = self.mul(e, small, z);
        let small = self.mul(e, small, x);
        let small = self.add(e, small, x);
        let twice = self.add(e, a, a);
        let large = self.exp(e, twice);
        let large = self.add_k(e, large, 1.0);
        let (two, one) = (self.k(e, 2.0), self.k(e, 1.0));
        let large = self.div(e, two, large);
        let large = self.sub(e, one, large);
        let split = self.k(e, float::TANH_SPLIT);
        let y = self.at_most(e, split, a, large, small);
        self.copysign(e, y, x)
    }
    /// [`float::erf`].
    fn erf(self, e: &mut Emitter, x: Value) -> Value {
        let a = self.abs(e, x);
        let z = self.mul(e, x, x);
        let small = self.horner(e, &float::ERF_POLY, z);
        let small = self.mul(e, small, x);
        let small = self.add(e, small, x);
        let end = self.k(e, float::ERF_END);
        let bounded = self.min_first(e, a, end);
        let large = self.horner(e, &float::ERFC_POLY, bounded);
        let large = self.exp(e, large);
        let one = self.k(e, 1.0);
        let large = self.sub(e, one, large);
        let split = self.k(e, float::ERF_SPLIT);
        let y = self.at_most(e, split, a, large, small);
        self.copysign(e, y, x)
    }
    /// [`float::log`].
    pub fn log(self, e: &mut Emitter, x: Value) -> Value {
        let least = self.k(e, f32::MIN_POSITIVE);
        let scaled = self.mul_k(e, x, 8_388_608.0);
        let y = self.less(e, x, least, scaled, x);
        let bits = self.to_bits(e, y);
        let base = self.bits(e, float::LOG_BASE);
        let shifted = e.b.ins().isub(bits, base);
        let exponent = e.b.ins().sshr_imm_u(shifted, 23);
        let exponent = e.b.ins().fcvt_from_sint(if self.vector { F32X4 } else { F32 }, exponent);
        let (down, none) = (self.k(e, -23.0), self.k(e, 0.0));
        let correction = self.less(e, x, least, down, none);
        let exponent = self.add(e, exponent, correction);
        let mask = self.bits(e, 0x007f_ffff);
        let mantissa = e.b.ins().band(shifted, mask);
        let mantissa = e.b.ins().iadd(mantissa, base);
        let f = self.of_bits(e, mantissa);
        let one = self.k(e, 1.0);
        let f = self.sub(e, f, one);
        let s = self.add_k(e, f, 2.0);
        let s = self.div(e, f, s);
        let z = self.mul(e, s, s);
        let l = self.horner(e, &float::LOG_POLY, z);
        let l = self.mul(e, l, z);
        let l = self.mul(e, l, s);
        let twice = self.add(e, s, s);
        let l = self.add(e, l, twice);
        let high = self.mul_k(e, exponent, float::LN2_HI);
        let low = self.mul_k(e, exponent, float::LN2_LO);
        let low = self.add(e, low, l);
        let r = self.add(e, high, low);
        let infinite = self.k(e, f32::INFINITY);
        let r = self.less(e, x, infinite, r, x);
        let (zero, nan) = (self.k(e, 0.0), self.k(e, f32::NAN));
        let r = self.at_most(e, zero, x, r, nan);
        let least = self.k(e, f32::NEG_INFINITY);
        self.pick(e, FloatCC::Equal, (x, zero), least, r)
    }
    /// [`float::unary`].
    pub fn unary(self, e: &mut Emitter, f: Unary, x: Value) -> Value {
        match f {
            Unary::Relu => {
                let zero = self.k(e, 0.0);
                self.max_first(e, x, zero)
            }
            Unary::LeakyRelu { alpha } => {
                let zero = self.k(e, 0.0);
                let scaled = self.k(e, alpha);
                let scaled = self.mul(e, scaled, x);
                self.at_most(e, zero, x, x, scaled)
            }
            Unary::Clip { lo, hi } => self.bound(e, x, lo, hi),
            Unary::Sigmoid => self.sigmoid(e, x),
            Unary::Tanh => self.tanh(e, x),
            Unary::HardSigmoid { alpha, beta } => {
                let y = self.mul_k(e, x, alpha);
                let y = self.add_k(e, y, beta);
                self.bound(e, y, 0.0, 1.0)
            }
            Unary::HardSwish => {
                let six = self.k(e, 6.0);
                let y = self.div(e, x, six);
                let y = self.add_k(e, y, 0.5);
                let y = self.bound(e, y, 0.0, 1.0);
                self.mul(e, x, y)
            }
            Unary::Swish { alpha } => {
                let y = self.mul_k(e, x, alpha);
                let y = self.sigmoid(e, y);
                self.mul(e, x, y)
            }
            Unary::Gelu => {
                let y = self.mul_k(e, x, std::f32::consts::FRAC_1_SQRT_2);
                let y = self.erf(e, y);
                self.half_times_one_plus(e, x, y)
            }
            Unary::GeluTanh => {
                let cube = self.mul(e, x, x);
                let cube = self.mul(e, cube, x);
                let u = self.mul_k(e, cube, float::GELU_CUBIC);
                let u = self.add(e, u, x);
                let u = self.mul_k(e, u, float::GELU_SCALE);
                let y = self.tanh(e, u);
                self.half_times_one_plus(e, x, y)
            }
            Unary::Erf => self.erf(e, x),
            Unary::Exp => self.exp(e, x),
            Unary::Log => self.log(e, x),
            Unary::Sqrt => e.b.ins().sqrt(x),
            Unary::Reciprocal => {
                let one = self.k(e, 1.0);
                self.div(e, one, x)
            }
            Unary::Neg => self.neg(e, x),
            Unary::Abs => self.abs(e, x),
            _ => functions::unary(&mut Code { e, math: self }, f, x).unwrap_or(x),
        }
    }
    /// `(x / 2) (1 + y)`.
    fn half_times_one_plus(self, e: &mut Emitter, x: Value, y: Value) -> Value {
        let half = self.mul_k(e, x, 0.5);
        let y = self.add_k(e, y, 1.0);
        self.mul(e, half, y)
    }
}

/// Instructions for the functions that are written once.
struct Code<'e, 'f> {
    e: &'e mut Emitter<'f>,
    math: Math,
}

impl Arithmetic for Code<'_, '_> {
    type Value = Value;
    fn k(&mut self, v: f32) -> Value {
        self.math.k(self.e, v)
    }
    fn add(&mut self, a: Value, b: Value) -> Value {
        self.math.add(self.e, a, b)
    }
    fn sub(&mut self, a: Value, b: Value) -> Value {
        self.math.sub(self.e, a, b)
    }
    fn mul(&mut self, a: Value, b: Value) -> Value {
        self.math.mul(self.e, a, b)
    }
    fn div(&mut self, a: Value, b: Value) -> Value {
        self.math.div(self.e, a, b)
    }
    fn sqrt(&mut self, x: Value) -> Value {
        self.e.b.ins().sqrt(x)
    }
    fn abs(&mut self, x: Value) -> Value {
        self.math.abs(self.e, x)
    }
    fn neg(&mut self, x: Value) -> Value {
        self.math.neg(self.e, x)
    }
    fn copysign(&mut self, magnitude: Value, sign: Value) -> Value {
        self.math.copysign(self.e, magnitude, sign)
    }
    fn less(&mut self, a: Value, b: Value, x: Value, y: Value) -> Value {
        self.math.less(self.e, a, b, x, y)
    }
    fn at_most(&mut self, a: Value, b: Value, x: Value, y: Value) -> Value {
        self.math.at_most(self.e, a, b, x, y)
    }
    fn equal(&mut self, a: Value, b: Value, x: Value, y: Value) -> Value {
        self.math.pick(self.e, FloatCC::Equal, (a, b), x, y)
    }
    fn exp_parts(&mut self, x: Value) -> (Value, Value) {
        self.math.exp_parts(self.e, x)
    }
    fn exp(&mut self, x: Value) -> Value {
        self.math.exp(self.e, x)
    }
    fn log(&mut self, x: Value) -> Value {
        self.math.log(self.e, x)
    }
    fn tanh(&mut self, x: Value) -> Value {
        self.math.tanh(self.e, x)
    }
    fn reduce(&mut self, x: Value) -> (Value, Value) {
        self.math.reduce(self.e, x)
    }
}
