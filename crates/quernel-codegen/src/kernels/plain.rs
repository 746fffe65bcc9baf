//! Steps on plain numbers of any type: `quernel_ir::plain`, operation by operation.
//!
//! In registers, integers of up to 32 bits are an i32, extended as their type says; 16-bit floats are an f32.

use super::{elementwise, strided::Space, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, MemFlagsData, Type, Value,
    condcodes::{FloatCC, IntCC},
    types::{F32, F64, I8, I16, I32, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    op::{Binary, Comparison, Unary},
    program::{Strided, What},
    ty::Scalar,
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::UnaryDouble { op, count } => {
            let op = *op;
            let (x, y) = (e.read(0), e.write(0));
            e.walk(*count, &[(x, 8), (y, 8)], |e, p| {
                let v = e.load(F64, p[0], 0);
                let v = match op {
                    Unary::Sqrt => e.b.ins().sqrt(v),
                    Unary::Neg => e.b.ins().fneg(v),
                    _ => e.b.ins().fabs(v),
                };
                e.store(v, p[1], 0);
            });
        }
        What::BinaryPlain { op, scalar, over } => {
            let (op, s) = (*op, *scalar);
            each(e, over, &[s.bytes(), s.bytes(), s.bytes()], |e, p| {
                let (a, b) = (e.load_plain(p[0], s), e.load_plain(p[1], s));
                let v = if s == Scalar::F64 { double(e, op, a, b) } else { integer(e, op, s, a, b) };
                e.store_plain(v, p[2], s);
            });
        }
        What::Compare { op, scalar, over } => {
            let (op, s) = (*op, *scalar);
            each(e, over, &[s.bytes(), s.bytes(), 1], |e, p| {
                let (a, b) = (e.load_plain(p[0], s), e.load_plain(p[1], s));
                let v = compare(e, op, s, a, b);
                e.store(v, p[2], 0);
            });
        }
        What::Select { width, over } => {
            let width = *width;
            let ty = integer_of(width);
            each(e, over, &[1, width, width, width], |e, p| {
                let (c, a, b) = (e.load(I8, p[0], 0), e.load(ty, p[1], 0), e.load(ty, p[2], 0));
                let v = e.b.ins().select(c, a, b);
                e.store(v, p[3], 0);
            });
        }
        What::Cast { from, to, count } => {
            let (from, to) = (*from, *to);
            let (x, y) = (e.read(0), e.write(0));
            e.walk(*count, &[(x, from.bytes() as i64), (y, to.bytes() as i64)], |e, p| {
                let v = e.load_plain(p[0], from);
                let v = cast(e, v, from, to);
                e.store_plain(v, p[1], to);
            });
        }
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// Calls `body` with the operands' pointers for every element; `widths` are bytes per element.
fn each(e: &mut Emitter, over: &Strided, widths: &[usize], mut body: impl FnMut(&mut Emitter, &[Ptr])) {
    let space = Space::new(over);
    let last = widths.len() - 1;
    let operands: Vec<Ptr> = (0..last).map(|i| e.read(i)).chain([e.write(0)]).collect();
    let widths: Vec<i64> = widths.iter().map(|w| *w as i64).collect();
    space.nest(e, &operands, &widths, 0, &mut body);
}

fn integer_of(width: usize) -> Type {
    match width {
        1 => I8,
        2 => I16,
        4 => I32,
        _ => I64,
    }
}

/// The type of a number in registers.
fn register(s: Scalar) -> Type {
    match s {
        Scalar::F64 => F64,
        Scalar::F32 | Scalar::F16 | Scalar::BF16 => F32,
        Scalar::I64 | Scalar::U64 => I64,
        _ => I32,
    }
}

impl Emitter<'_> {
    /// Loads a number.
    pub(super) fn load_plain(&mut self, p: Ptr, s: Scalar) -> Value {
        match s {
            Scalar::F64 | Scalar::F32 | Scalar::I64 | Scalar::U64 | Scalar::I32 | Scalar::U32 => self.load(register(s), p, 0),
            Scalar::I8 => self.load_byte(p, 0, true),
            Scalar::U8 | Scalar::Bool => self.load_byte(p, 0, false),
            Scalar::I16 => self.load_i16(p, 0),
            Scalar::U16 | Scalar::F16 | Scalar::BF16 => {
                let p = self.at(p, 0);
                let flags = self.flags(p);
                let bits = self.b.ins().uload16(I32, flags, p.base, p.offset);
                match s {
                    Scalar::F16 => widen_half(self, bits),
                    Scalar::BF16 => {
                        let bits = self.b.ins().ishl_imm_u(bits, 16);
                        let x = self.b.ins().bitcast(F32, MemFlagsData::new(), bits);
                        plain_nan(self, x, x)
                    }
                    _ => bits,
                }
            }
        }
    }

    /// Stores a number.
    pub(super) fn store_plain(&mut self, v: Value, p: Ptr, s: Scalar) {
        match s {
            Scalar::I8 | Scalar::U8 | Scalar::Bool => self.store_byte(v, p, 0),
            Scalar::I16 | Scalar::U16 | Scalar::F16 | Scalar::BF16 => {
                let v = match s {
                    Scalar::F16 => narrow_half(self, v),
                    Scalar::BF16 => narrow_brain(self, v),
                    _ => v,
                };
                let flags = self.flags(p);
                self.b.ins().istore16(flags, v, p.base, p.offset);
            }
            _ => self.store(v, p, 0),
        }
    }

    fn integer_k(&mut self, ty: Type, v: i64) -> Value {
        if ty == I64 { self.i64(v) } else { self.i32(v as i32) }
    }
}

/// `x`, or the quiet NaN without sign and payload where `of` is a NaN.
fn plain_nan(e: &mut Emitter, x: Value, of: Value) -> Value {
    let nan = match e.b.func.dfg.value_type(x) {
        F64 => e.b.ins().f64const(f64::NAN),
        _ => e.f32(f32::NAN),
    };
    let c = e.b.ins().fcmp(FloatCC::Equal, of, of);
    e.b.ins().select(c, x, nan)
}

/// binary16 bits as an f32.
fn widen_half(e: &mut Emitter, bits: Value) -> Value {
    let mask = |e: &mut Emitter, v: Value, m: i32| {
        let m = e.i32(m);
        e.b.ins().band(v, m)
    };
    let float = |e: &mut Emitter, v: Value| e.b.ins().bitcast(F32, MemFlagsData::new(), v);
    let (magnitude, exponent) = (mask(e, bits, 0x7fff), mask(e, bits, 0x7c00));
    let raised = e.b.ins().ishl_imm_u(magnitude, 13);
    let normal = e.b.ins().iadd_imm_s(raised, 112 << 23);
    let normal = float(e, normal);
    // Subnormals: with an implicit one, which is then taken away.
    let one = e.i32(113 << 23);
    let small = e.b.ins().iadd(raised, one);
    let (small, one) = (float(e, small), float(e, one));
    let small = e.b.ins().fsub(small, one);
    let special = e.b.ins().iadd_imm_s(raised, 224 << 23);
    let special = float(e, special);
    let (zero, most) = (e.i32(0), e.i32(0x7c00));
    let is_small = e.b.ins().icmp(IntCC::Equal, exponent, zero);
    let x = e.b.ins().select(is_small, small, normal);
    let is_special = e.b.ins().icmp(IntCC::Equal, exponent, most);
    let x = e.b.ins().select(is_special, special, x);
    let x = with_sign(e, x, bits, 16);
    plain_nan(e, x, x)
}

/// `x` with the sign that lies `up` bits below its place in `bits`.
fn with_sign(e: &mut Emitter, x: Value, bits: Value, up: u8) -> Value {
    let sign = if up == 0 { bits } else { e.b.ins().ishl_imm_u(bits, i64::from(up)) };
    let mask = e.i32(i32::MIN);
    let sign = e.b.ins().band(sign, mask);
    let x = e.b.ins().bitcast(I32, MemFlagsData::new(), x);
    let x = e.b.ins().bor(x, sign);
    e.b.ins().bitcast(F32, MemFlagsData::new(), x)
}

/// The nearest binary16 of an f32, as bits.
fn narrow_half(e: &mut Emitter, x: Value) -> Value {
    let bits = e.b.ins().bitcast(I32, MemFlagsData::new(), x);
    let rest = e.i32(i32::MAX);
    let a = e.b.ins().band(bits, rest);
    // Half of the last place kept, and one more where that is odd.
    let odd = e.b.ins().ushr_imm_u(a, 13);
    let one = e.i32(1);
    let odd = e.b.ins().band(odd, one);
    let normal = e.b.ins().iadd_imm_s(a, 0xfff - (112 << 23));
    let normal = e.b.ins().iadd(normal, odd);
    let normal = e.b.ins().ushr_imm_u(normal, 13);
    // Subnormals: the addition rounds to their spacing.
    let magnitude = e.b.ins().bitcast(F32, MemFlagsData::new(), a);
    let half = e.f32(0.5);
    let small = e.b.ins().fadd(magnitude, half);
    let small = e.b.ins().bitcast(I32, MemFlagsData::new(), small);
    let small = e.b.ins().iadd_imm_s(small, -i64::from(0.5f32.to_bits()));
    let least = e.i32(113 << 23);
    let is_small = e.b.ins().icmp(IntCC::UnsignedLessThan, a, least);
    let y = e.b.ins().select(is_small, small, normal);
    // From 65520 on.
    let end = e.i32(0x477f_f000);
    let infinite = e.i32(0x7c00);
    let is_large = e.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, a, end);
    let y = e.b.ins().select(is_large, infinite, y);
    signed_or_nan(e, x, bits, y, 0x7e00)
}

/// The nearest bfloat16 of an f32, as bits.
fn narrow_brain(e: &mut Emitter, x: Value) -> Value {
    let bits = e.b.ins().bitcast(I32, MemFlagsData::new(), x);
    let rest = e.i32(i32::MAX);
    let a = e.b.ins().band(bits, rest);
    let odd = e.b.ins().ushr_imm_u(a, 16);
    let one = e.i32(1);
    let odd = e.b.ins().band(odd, one);
    let y = e.b.ins().iadd_imm_s(a, 0x7fff);
    let y = e.b.ins().iadd(y, odd);
    let y = e.b.ins().ushr_imm_u(y, 16);
    signed_or_nan(e, x, bits, y, 0x7fc0)
}

/// A 16-bit magnitude with the sign of an f32, or `nan` where that is a NaN.
fn signed_or_nan(e: &mut Emitter, x: Value, bits: Value, magnitude: Value, nan: i32) -> Value {
    let sign = e.b.ins().ushr_imm_u(bits, 16);
    let mask = e.i32(0x8000);
    let sign = e.b.ins().band(sign, mask);
    let y = e.b.ins().bor(magnitude, sign);
    let nan = e.i32(nan);
    let c = e.b.ins().fcmp(FloatCC::Equal, x, x);
    e.b.ins().select(c, y, nan)
}

/// An f64 as an f32 whose last bit is set wherever digits were lost: rounding that again to 16 bits rounds once.
fn demote_odd(e: &mut Emitter, x: Value) -> Value {
    let y = e.b.ins().fdemote(F32, x);
    let back = e.b.ins().fpromote(F64, y);
    let bits = e.b.ins().bitcast(I32, MemFlagsData::new(), y);
    let one = e.i32(1);
    let odd = e.b.ins().band(bits, one);
    let (size, back_size) = (e.b.ins().fabs(x), e.b.ins().fabs(back));
    let above = e.b.ins().fcmp(FloatCC::GreaterThan, back_size, size);
    let (down, up) = (e.b.ins().iadd_imm_s(bits, -1), e.b.ins().iadd_imm_s(bits, 1));
    let other = e.b.ins().select(above, down, up);
    let exact = e.b.ins().fcmp(FloatCC::Equal, back, x);
    // A NaN is not equal either, and stays one.
    let nan = e.b.ins().fcmp(FloatCC::NotEqual, x, x);
    let y_odd = e.b.ins().select(odd, bits, other);
    let y = e.b.ins().select(exact, bits, y_odd);
    let y = e.b.ins().select(nan, bits, y);
    e.b.ins().bitcast(F32, MemFlagsData::new(), y)
}

/// [`quernel_ir::plain::cast`] of a number in registers. 16-bit results are the f32 that is rounded when it is stored.
fn cast(e: &mut Emitter, v: Value, from: Scalar, to: Scalar) -> Value {
    let (source, target) = (register(from), register(to));
    let half = matches!(to, Scalar::F16 | Scalar::BF16);
    if !from.is_float() {
        if to == Scalar::Bool {
            let zero = e.integer_k(source, 0);
            let c = e.b.ins().icmp(IntCC::NotEqual, v, zero);
            return e.b.ins().uextend(I32, c);
        }
        if to.is_float() {
            let wide = if half { F64 } else { target };
            // Narrow unsigned integers are positive as they lie in registers.
            let unsigned = matches!(from, Scalar::U32 | Scalar::U64);
            let x = if unsigned { e.b.ins().fcvt_from_uint(wide, v) } else { e.b.ins().fcvt_from_sint(wide, v) };
            return if half { demote_odd(e, x) } else { x };
        }
        return match (source, target) {
            (I32, I64) if from.is_signed() => e.b.ins().sextend(I64, v),
            (I32, I64) => e.b.ins().uextend(I64, v),
            (I64, I32) => e.b.ins().ireduce(I32, v),
            _ => v,
        };
    }
    match to {
        Scalar::Bool => {
            let zero = if source == F64 { e.b.ins().f64const(0.0) } else { e.f32(0.0) };
            let c = e.b.ins().fcmp(FloatCC::NotEqual, v, zero);
            e.b.ins().uextend(I32, c)
        }
        Scalar::F64 if source == F32 => {
            let y = e.b.ins().fpromote(F64, v);
            plain_nan(e, y, v)
        }
        Scalar::F32 if source == F64 => {
            let y = e.b.ins().fdemote(F32, v);
            plain_nan(e, y, v)
        }
        Scalar::F16 | Scalar::BF16 if source == F64 => demote_odd(e, v),
        Scalar::F64 | Scalar::F32 | Scalar::F16 | Scalar::BF16 => v,
        Scalar::U32 | Scalar::U64 => e.b.ins().fcvt_to_uint_sat(target, v),
        _ => {
            let y = e.b.ins().fcvt_to_sint_sat(target, v);
            match to.range() {
                Some((lo, hi)) if to.bytes() < 4 => {
                    let (lo, hi) = (e.i32(lo as i32), e.i32(hi as i32));
                    let y = pick(e, IntCC::SignedLessThan, y, lo, lo, y);
                    pick(e, IntCC::SignedGreaterThan, y, hi, hi, y)
                }
                _ => y,
            }
        }
    }
}

/// `cc(a, b) ? x : y`.
fn pick(e: &mut Emitter, cc: IntCC, a: Value, b: Value, x: Value, y: Value) -> Value {
    let c = e.b.ins().icmp(cc, a, b);
    e.b.ins().select(c, x, y)
}

/// A constant in a register.
pub(super) fn constant(e: &mut Emitter, s: Scalar, bits: u64) -> Value {
    let unused = 64 - 8 * s.bytes() as u32;
    match register(s) {
        F64 => e.b.ins().f64const(f64::from_bits(bits)),
        F32 => e.f32(f32::from_bits(bits as u32)),
        I64 => e.i64(bits as i64),
        _ if s.is_signed() => e.i32((((bits << unused) as i64) >> unused) as i32),
        _ => e.i32(bits as i32),
    }
}

/// [`quernel_ir::fold::combine`] of numbers in registers; high bits of integers, and the rounding to 16 bits, are left to
/// the store.
pub(super) fn apply(e: &mut Emitter, f: Binary, s: Scalar, a: Value, b: Value) -> Value {
    match register(s) {
        F64 => double(e, f, a, b),
        F32 => elementwise::apply(e, f, a, b),
        _ => integer(e, f, s, a, b),
    }
}

/// [`quernel_ir::plain::double`].
fn double(e: &mut Emitter, f: Binary, a: Value, b: Value) -> Value {
    match f {
        Binary::Add => e.b.ins().fadd(a, b),
        Binary::Sub => e.b.ins().fsub(a, b),
        Binary::Mul => e.b.ins().fmul(a, b),
        Binary::Div => e.b.ins().fdiv(a, b),
        Binary::Min => e.min_first(a, b),
        // The verifier admits no other.
        _ => e.max_first(a, b),
    }
}

/// [`quernel_ir::plain::integer`], except that high bits are left to the store.
fn integer(e: &mut Emitter, f: Binary, s: Scalar, a: Value, b: Value) -> Value {
    let ty = register(s);
    let signed = s.is_signed();
    let less = if signed { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
    match f {
        Binary::Add => e.b.ins().iadd(a, b),
        Binary::Sub => e.b.ins().isub(a, b),
        Binary::Mul => e.b.ins().imul(a, b),
        Binary::Min => pick(e, less, a, b, a, b),
        Binary::Max => pick(e, less, b, a, a, b),
        Binary::And => e.b.ins().band(a, b),
        Binary::Or => e.b.ins().bor(a, b),
        Binary::Xor => e.b.ins().bxor(a, b),
        Binary::ShiftLeft => {
            let v = e.b.ins().ishl(a, b);
            let (bits, zero) = (e.integer_k(ty, 8 * s.bytes() as i64), e.integer_k(ty, 0));
            pick(e, IntCC::UnsignedLessThan, b, bits, v, zero)
        }
        Binary::ShiftRight => {
            let last = e.integer_k(ty, 8 * s.bytes() as i64 - 1);
            if signed {
                // The last bit is the sign already.
                let b = pick(e, IntCC::UnsignedLessThan, b, last, b, last);
                return e.b.ins().sshr(a, b);
            }
            let (v, zero) = (e.b.ins().ushr(a, b), e.integer_k(ty, 0));
            pick(e, IntCC::UnsignedLessThanOrEqual, b, last, v, zero)
        }
        Binary::Div | Binary::Remainder | Binary::Modulo => division(e, f, ty, signed, a, b),
        Binary::Pow => power(e, ty, signed, a, b),
    }
}

/// Quotients and remainders, with a harmless divisor in place of 0 and -1.
fn division(e: &mut Emitter, f: Binary, ty: Type, signed: bool, a: Value, b: Value) -> Value {
    let (zero, one, minus) = (e.integer_k(ty, 0), e.integer_k(ty, 1), e.integer_k(ty, -1));
    let mut divisor = pick(e, IntCC::Equal, b, zero, one, b);
    if signed {
        divisor = pick(e, IntCC::Equal, b, minus, one, divisor);
    }
    if f == Binary::Div {
        let mut q = if signed { e.b.ins().sdiv(a, divisor) } else { e.b.ins().udiv(a, divisor) };
        if signed {
            let negative = e.b.ins().isub(zero, a);
            q = pick(e, IntCC::Equal, b, minus, negative, q);
        }
        return pick(e, IntCC::Equal, b, zero, zero, q);
    }
    // The remainder by 1, which stands for 0 and -1, is 0.
    let r = if signed { e.b.ins().srem(a, divisor) } else { e.b.ins().urem(a, divisor) };
    if f == Binary::Remainder || !signed {
        return r;
    }
    let moved = e.b.ins().iadd(r, b);
    let signs = e.b.ins().bxor(r, b);
    let r_moved = pick(e, IntCC::SignedLessThan, signs, zero, moved, r);
    pick(e, IntCC::Equal, r, zero, zero, r_moved)
}

/// Square and multiply over the bits of the exponent.
fn power(e: &mut Emitter, ty: Type, signed: bool, a: Value, b: Value) -> Value {
    let (zero, one, minus) = (e.integer_k(ty, 0), e.integer_k(ty, 1), e.integer_k(ty, -1));
    let (head, body, exit) = (e.b.create_block(), e.b.create_block(), e.b.create_block());
    for _ in 0..3 {
        e.b.append_block_param(head, ty);
    }
    let start = if signed { pick(e, IntCC::SignedLessThan, b, zero, zero, b) } else { b };
    e.b.ins().jump(head, &[one.into(), a.into(), start.into()]);
    e.b.switch_to_block(head);
    let [y, base, rest] = [0, 1, 2].map(|i| e.b.block_params(head)[i]);
    let done = e.b.ins().icmp(IntCC::Equal, rest, zero);
    e.b.ins().brif(done, exit, &[], body, &[]);
    e.b.seal_block(body);
    e.b.seal_block(exit);
    e.b.switch_to_block(body);
    let bit = e.b.ins().band(rest, one);
    let product = e.b.ins().imul(y, base);
    let next = e.b.ins().select(bit, product, y);
    let square = e.b.ins().imul(base, base);
    let rest = e.b.ins().ushr_imm_u(rest, 1);
    e.b.ins().jump(head, &[next.into(), square.into(), rest.into()]);
    e.b.seal_block(head);
    e.b.switch_to_block(exit);
    if !signed {
        return y;
    }
    // Negative exponents: 0 but for bases 1 and -1.
    let bit = e.b.ins().band(b, one);
    let alternating = e.b.ins().select(bit, minus, one);
    let inverse = pick(e, IntCC::Equal, a, minus, alternating, zero);
    let inverse = pick(e, IntCC::Equal, a, one, one, inverse);
    pick(e, IntCC::SignedLessThan, b, zero, inverse, y)
}

/// [`quernel_ir::plain::compare`], as an i8.
fn compare(e: &mut Emitter, f: Comparison, s: Scalar, a: Value, b: Value) -> Value {
    if s.is_float() {
        let cc = match f {
            Comparison::Equal => FloatCC::Equal,
            Comparison::Less => FloatCC::LessThan,
            Comparison::LessEqual => FloatCC::LessThanOrEqual,
        };
        return e.b.ins().fcmp(cc, a, b);
    }
    let cc = match (f, s.is_signed()) {
        (Comparison::Equal, _) => IntCC::Equal,
        (Comparison::Less, true) => IntCC::SignedLessThan,
        (Comparison::Less, false) => IntCC::UnsignedLessThan,
        (Comparison::LessEqual, true) => IntCC::SignedLessThanOrEqual,
        (Comparison::LessEqual, false) => IntCC::UnsignedLessThanOrEqual,
    };
    e.b.ins().icmp(cc, a, b)
}
