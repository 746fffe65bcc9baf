//! The functions of `quernel_ir::float::two`, operation by operation.

use crate::emit::Emitter;
use cranelift_codegen::ir::{
    InstBuilder, MemFlagsData, Value,
    condcodes::FloatCC,
    types::{F32, F64, I32, I64},
};
use quernel_ir::float::two;

fn less(e: &mut Emitter, a: Value, b: Value, x: Value, y: Value) -> Value {
    let c = e.b.ins().fcmp(FloatCC::LessThan, a, b);
    e.b.ins().select(c, x, y)
}

fn equal(e: &mut Emitter, a: Value, b: Value, x: Value, y: Value) -> Value {
    let c = e.b.ins().fcmp(FloatCC::Equal, a, b);
    e.b.ins().select(c, x, y)
}

fn k(e: &mut Emitter, v: f64) -> Value {
    e.b.ins().f64const(v)
}

fn horner(e: &mut Emitter, coefficients: &[f64], x: Value) -> Value {
    let mut p = k(e, coefficients[0]);
    for &c in &coefficients[1..] {
        p = e.b.ins().fmul(p, x);
        let c = k(e, c);
        p = e.b.ins().fadd(p, c);
    }
    p
}

/// `rne(x)` for small `x`.
fn rounded(e: &mut Emitter, x: Value) -> Value {
    let magic = k(e, two::MAGIC);
    let r = e.b.ins().fadd(x, magic);
    e.b.ins().fsub(r, magic)
}

/// [`two::pow`].
pub fn pow(e: &mut Emitter, a: Value, b: Value) -> Value {
    let magnitude = e.b.ins().fabs(a);
    let (size, exponent) = (e.b.ins().fpromote(F64, magnitude), e.b.ins().fpromote(F64, b));
    let bits = e.b.ins().bitcast(I64, MemFlagsData::new(), size);
    let base = e.i64(two::BASE as i64);
    let shifted = e.b.ins().isub(bits, base);
    let n = e.b.ins().sshr_imm_u(shifted, 52);
    let n = e.b.ins().fcvt_from_sint(F64, n);
    let mask = e.i64(two::MANTISSA as i64);
    let m = e.b.ins().band(shifted, mask);
    let m = e.b.ins().iadd(m, base);
    let m = e.b.ins().bitcast(F64, MemFlagsData::new(), m);
    let one = k(e, 1.0);
    let (below, above) = (e.b.ins().fsub(m, one), e.b.ins().fadd(m, one));
    let s = e.b.ins().fdiv(below, above);
    let z = e.b.ins().fmul(s, s);
    let l = horner(e, &two::LOG_SERIES, z);
    let l = e.b.ins().fmul(l, z);
    let l = e.b.ins().fmul(l, s);
    let l = e.b.ins().fadd(l, s);
    let l = e.b.ins().fadd(l, l);
    let ln2 = k(e, std::f64::consts::LN_2);
    let high = e.b.ins().fmul(n, ln2);
    let log = e.b.ins().fadd(high, l);
    let t = e.b.ins().fmul(log, exponent);
    let (limit, least) = (k(e, two::LIMIT), k(e, -two::LIMIT));
    let t = less(e, t, limit, t, limit);
    let t = less(e, least, t, t, least);
    let log2_e = k(e, std::f64::consts::LOG2_E);
    let n = e.b.ins().fmul(t, log2_e);
    // The integer lies in the low bits of the sum.
    let magic = k(e, two::MAGIC);
    let sum = e.b.ins().fadd(n, magic);
    let n = e.b.ins().fsub(sum, magic);
    let high = e.b.ins().fmul(n, ln2);
    let r = e.b.ins().fsub(t, high);
    let power = e.b.ins().bitcast(I64, MemFlagsData::new(), sum);
    let bias = e.i64((two::MAGIC.to_bits() as i64).wrapping_sub(1023));
    let power = e.b.ins().isub(power, bias);
    let power = e.b.ins().ishl_imm_u(power, 52);
    let power = e.b.ins().bitcast(F64, MemFlagsData::new(), power);
    let p = horner(e, &two::EXP_SERIES, r);
    let y = e.b.ins().fmul(p, power);
    let y = e.b.ins().fdemote(F32, y);

    let (zero, unit, infinite, nan) = (e.f32(0.0), e.f32(1.0), e.f32(f32::INFINITY), e.f32(f32::NAN));
    let end = less(e, zero, b, zero, infinite);
    let other_end = less(e, zero, b, infinite, zero);
    let y = equal(e, a, zero, end, y);
    let y = equal(e, magnitude, infinite, other_end, y);
    let (even, plain_two) = (e.f32(two::EVEN), k(e, 2.0));
    let b_size = e.b.ins().fabs(b);
    let small = less(e, b_size, even, exponent, plain_two);
    let nearest = rounded(e, small);
    let whole = e.b.ins().fcmp(FloatCC::Equal, nearest, small);
    let factor = k(e, 0.5);
    let half = e.b.ins().fmul(small, factor);
    let nearest = rounded(e, half);
    let half_whole = e.b.ins().fcmp(FloatCC::NotEqual, nearest, half);
    let odd = e.b.ins().band(whole, half_whole);
    let bits = e.b.ins().bitcast(I32, MemFlagsData::new(), a);
    let sign = e.b.ins().ushr_imm_u(bits, 31);
    let sign = e.b.ins().ireduce(cranelift_codegen::ir::types::I8, sign);
    let flips = e.b.ins().band(odd, sign);
    let negative = e.b.ins().fneg(y);
    let y = e.b.ins().select(flips, negative, y);
    let undefined = e.b.ins().select(whole, y, nan);
    let y_negative = less(e, a, zero, undefined, y);
    let least = e.f32(f32::NEG_INFINITY);
    let y = less(e, least, a, y_negative, y);
    let minus = e.f32(-1.0);
    let at_end = equal(e, b_size, infinite, unit, y);
    let y = equal(e, a, minus, at_end, y);
    let y = equal(e, a, a, y, nan);
    let y = equal(e, b, b, y, nan);
    let y = equal(e, b, zero, unit, y);
    equal(e, a, unit, unit, y)
}

/// [`two::remainder`]: takes the divisor away, shifted as far as it goes, until less than it is left. Every difference
/// is exact.
pub fn remainder(e: &mut Emitter, a: Value, b: Value) -> Value {
    let infinite = e.f32(f32::INFINITY);
    let zero = e.f32(0.0);
    let (a_size, b_size) = (e.b.ins().fabs(a), e.b.ins().fabs(b));
    let finite = e.b.ins().fcmp(FloatCC::LessThan, a_size, infinite);
    let positive = e.b.ins().fcmp(FloatCC::LessThan, zero, b_size);
    let defined = e.b.ins().band(finite, positive);
    let one = e.f32(1.0);
    let (x, y) = (e.b.ins().select(defined, a_size, zero), e.b.ins().select(defined, b_size, one));
    let (x, y) = (e.b.ins().fpromote(F64, x), e.b.ins().fpromote(F64, y));
    let mask = e.i64(two::MANTISSA as i64);
    let y_bits = e.b.ins().bitcast(I64, MemFlagsData::new(), y);
    let mantissa = e.b.ins().band(y_bits, mask);
    let half = k(e, 0.5);

    let (head, body, exit) = (e.b.create_block(), e.b.create_block(), e.b.create_block());
    e.b.append_block_param(head, F64);
    e.b.ins().jump(head, &[x.into()]);
    e.b.switch_to_block(head);
    let rest = e.b.block_params(head)[0];
    let more = e.b.ins().fcmp(FloatCC::GreaterThanOrEqual, rest, y);
    e.b.ins().brif(more, body, &[], exit, &[]);
    e.b.seal_block(body);
    e.b.seal_block(exit);
    e.b.switch_to_block(body);
    let bits = e.b.ins().bitcast(I64, MemFlagsData::new(), rest);
    let exponent = e.b.ins().band_not(bits, mask);
    let multiple = e.b.ins().bor(exponent, mantissa);
    let multiple = e.b.ins().bitcast(F64, MemFlagsData::new(), multiple);
    let halved = e.b.ins().fmul(multiple, half);
    let multiple = less(e, rest, multiple, halved, multiple);
    let next = e.b.ins().fsub(rest, multiple);
    e.b.ins().jump(head, &[next.into()]);
    e.b.seal_block(head);
    e.b.switch_to_block(exit);

    let r = e.b.ins().fdemote(F32, rest);
    let r = e.b.ins().fcopysign(r, a);
    let nan = e.f32(f32::NAN);
    e.b.ins().select(defined, r, nan)
}

/// [`two::modulo`].
pub fn modulo(e: &mut Emitter, a: Value, b: Value) -> Value {
    let r = remainder(e, a, b);
    let zero = e.f32(0.0);
    let moved = e.b.ins().fadd(r, b);
    let (low, b_low) = (e.b.ins().fcmp(FloatCC::LessThan, r, zero), e.b.ins().fcmp(FloatCC::LessThan, b, zero));
    let differ = e.b.ins().bxor(low, b_low);
    let y = e.b.ins().select(differ, moved, r);
    equal(e, r, zero, r, y)
}
