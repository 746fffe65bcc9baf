//! Element-wise steps over contiguous elements and over strides.

use super::{float_binary, float_unary::Math, strided::Space, unsupported};
use crate::emit::{Emitter, Ptr, Stored};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32, F32X4, I8X16, I16X8, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    op::Binary,
    program::{ByteQuant, Strided, What},
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Quantize { count, to, width } => quantize(e, *count, *to, *width == 2),
        What::Dequantize { count, from, width } => dequantize(e, *count, *from, *width == 2),
        What::Lookup { count } => lookup(e, *count),
        What::BinaryBytes { op, .. } | What::BinaryFloat { op, .. } if op.bitwise() => return Err(unsupported(what)),
        What::BinaryBytes { op, over, a, b, to } => binary_bytes(e, *op, over, [*a, *b, *to]),
        What::BinaryFloat { op, over, lo, hi } => binary_float(e, *op, over, *lo, *hi),
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// f32 to bytes or words: sixteen at a time where there are vectors, then one by one.
fn quantize(e: &mut Emitter, count: usize, to: ByteQuant, words: bool) {
    let (x, y) = (e.read(0), e.write(0));
    let (stored, width) = (Stored { words, signed: to.signed }, if words { 2 } else { 1 });
    let wide = if e.vectors() { count / 16 } else { 0 };
    if wide > 0 {
        let end = e.integers_end_v(to.zero, to.lo, to.hi, stored);
        let scale = e.splat_f32(to.scale);
        e.walk(wide, &[(x, 64), (y, 16 * width)], |e, p| {
            let integers = std::array::from_fn(|i| {
                let v = e.load(F32X4, p[0], 16 * i as i64);
                let quotient = e.b.ins().fdiv(v, scale);
                e.quantize_v(quotient, &end)
            });
            if words {
                for (half, v) in e.narrow_words(integers, to.signed).into_iter().enumerate() {
                    e.store(v, p[1], 16 * half as i64);
                }
                return;
            }
            let packed = e.narrow_bytes(integers, to.signed);
            e.store(packed, p[1], 0);
        });
    }
    let (x, y) = (e.at(x, 64 * wide as i64), e.at(y, 16 * width * wide as i64));
    let end = e.bytes_end_of(to);
    let scale = e.f32(to.scale);
    e.walk(count - 16 * wide, &[(x, 4), (y, width)], |e, p| {
        let v = e.load_f32(p[0], 0);
        let quotient = e.b.ins().fdiv(v, scale);
        let q = e.quantize(quotient, &end);
        e.store_stored(q, p[1], 0, words);
    });
}

/// `f32(q - zero) * scale` of one byte, as f32.
fn real(e: &mut Emitter, p: Ptr, q: ByteQuant) -> Value {
    let byte = e.load_byte(p, 0, q.signed);
    real_of(e, byte, q)
}

/// The same of an integer.
fn real_of(e: &mut Emitter, stored: Value, q: ByteQuant) -> Value {
    let centered = e.b.ins().iadd_imm_s(stored, -i64::from(q.zero));
    let x = e.b.ins().fcvt_from_sint(F32, centered);
    let scale = e.f32(q.scale);
    e.b.ins().fmul(x, scale)
}

/// The same of sixteen bytes.
fn real_v(e: &mut Emitter, bytes: Value, q: ByteQuant) -> [Value; 4] {
    let integers = e.widen_bytes_i32(bytes, q.signed);
    reals_of(e, integers, q)
}

fn reals_of(e: &mut Emitter, integers: [Value; 4], q: ByteQuant) -> [Value; 4] {
    let zero = e.splat_i32(q.zero);
    let scale = e.splat_f32(q.scale);
    integers.map(|v| {
        let centered = e.b.ins().isub(v, zero);
        let x = e.b.ins().fcvt_from_sint(F32X4, centered);
        e.b.ins().fmul(x, scale)
    })
}

fn dequantize(e: &mut Emitter, count: usize, from: ByteQuant, words: bool) {
    let (x, y) = (e.read(0), e.write(0));
    let (stored, width) = (Stored { words, signed: from.signed }, if words { 2 } else { 1 });
    let wide = if e.vectors() { count / 16 } else { 0 };
    e.walk(wide, &[(x, 16 * width), (y, 64)], |e, p| {
        let reals = if words {
            let [a, b] = [e.load(I16X8, p[0], 0), e.load(I16X8, p[0], 16)].map(|v| e.widen_words(v, from.signed));
            reals_of(e, [a[0], a[1], b[0], b[1]], from)
        } else {
            let bytes = e.load(I8X16, p[0], 0);
            real_v(e, bytes, from)
        };
        for (i, v) in reals.into_iter().enumerate() {
            e.store(v, p[1], 16 * i as i64);
        }
    });
    let (x, y) = (e.at(x, 16 * width * wide as i64), e.at(y, 64 * wide as i64));
    e.walk(count - 16 * wide, &[(x, width), (y, 4)], |e, p| {
        let q = e.load_stored(p[0], 0, stored);
        let v = real_of(e, q, from);
        e.store(v, p[1], 0);
    });
}

/// Bytes through a table of 256, eight to a round.
fn lookup(e: &mut Emitter, count: usize) {
    const ROUND: usize = 8;
    let (x, table, y) = (e.read(0), e.read(1), e.write(0));
    let one = |e: &mut Emitter, p: &[Ptr], i: i64| {
        let byte = e.load_byte(p[0], i, false);
        let index = e.b.ins().uextend(I64, byte);
        let entry = e.plus(table, index);
        let v = e.load_byte(entry, 0, false);
        e.store_byte(v, p[1], i);
    };
    e.walk(count / ROUND, &[(x, ROUND as i64), (y, ROUND as i64)], |e, p| {
        for i in 0..ROUND {
            one(e, p, i as i64);
        }
    });
    let done = (count / ROUND * ROUND) as i64;
    let (x, y) = (e.at(x, done), e.at(y, done));
    e.walk(count % ROUND, &[(x, 1), (y, 1)], |e, p| one(e, p, 0));
}

pub fn apply(e: &mut Emitter, op: Binary, a: Value, b: Value) -> Value {
    let vector = e.b.func.dfg.value_type(a) == F32X4;
    match (op, vector) {
        (Binary::Add, _) => e.b.ins().fadd(a, b),
        (Binary::Sub, _) => e.b.ins().fsub(a, b),
        (Binary::Mul, _) => e.b.ins().fmul(a, b),
        (Binary::Div, _) => e.b.ins().fdiv(a, b),
        (Binary::Min, false) => e.min_first(a, b),
        (Binary::Min, true) => e.min_first_v(a, b),
        (Binary::Max, false) => e.max_first(a, b),
        (Binary::Max, true) => e.max_first_v(a, b),
        (Binary::Pow, _) => float_binary::pow(e, a, b),
        (Binary::Remainder, _) => float_binary::remainder(e, a, b),
        (Binary::Modulo, _) => float_binary::modulo(e, a, b),
        // Refused before any code is emitted.
        (Binary::And | Binary::Or | Binary::Xor | Binary::ShiftLeft | Binary::ShiftRight, _) => a,
    }
}

/// Whether the innermost axis suits vectors: the result is contiguous, operands are contiguous or constant along it, and
/// the function has a vector form.
fn vectorizes(e: &Emitter, op: Binary, space: &Space, lanes: usize) -> bool {
    let (n, steps) = space.inner();
    !matches!(op, Binary::Pow | Binary::Remainder | Binary::Modulo)
        && e.vectors()
        && n >= lanes
        && steps[2] == 1
        && steps[..2].iter().all(|s| matches!(s, 0 | 1))
}

fn binary_bytes(e: &mut Emitter, op: Binary, over: &Strided, q: [ByteQuant; 3]) {
    let space = Space::new(over);
    let (n, steps) = space.inner();
    let operands = [e.read(0), e.read(1), e.write(0)];
    let wide = if vectorizes(e, op, &space, 16) { n / 16 } else { 0 };
    space.nest(e, &operands, &[1, 1, 1], 1, &mut |e, p| {
        let advance = |lanes: i64| [(p[0], steps[0] as i64 * lanes), (p[1], steps[1] as i64 * lanes), (p[2], steps[2] as i64 * lanes)];
        if wide > 0 {
            let end = e.bytes_end_of_v(q[2]);
            let scale = e.splat_f32(q[2].scale);
            e.walk(wide, &advance(16), |e, p| {
                let [a, b] = [0, 1].map(|i| {
                    let bytes = if steps[i] == 0 { e.splat_byte_at(p[i], 0) } else { e.load(I8X16, p[i], 0) };
                    real_v(e, bytes, q[i])
                });
                let y = std::array::from_fn(|i| {
                    let v = apply(e, op, a[i], b[i]);
                    let quotient = e.b.ins().fdiv(v, scale);
                    e.quantize_v(quotient, &end)
                });
                let packed = e.narrow_bytes(y, q[2].signed);
                e.store(packed, p[2], 0);
            });
        }
        let rest: Vec<(Ptr, i64)> = advance(1).iter().map(|&(p, step)| (e.at(p, step * 16 * wide as i64), step)).collect();
        e.walk(n - 16 * wide, &rest, |e, p| {
            let (a, b) = (real(e, p[0], q[0]), real(e, p[1], q[1]));
            let v = apply(e, op, a, b);
            let scale = e.f32(q[2].scale);
            let quotient = e.b.ins().fdiv(v, scale);
            let end = e.bytes_end_of(q[2]);
            let y = e.quantize(quotient, &end);
            e.store_byte(y, p[2], 0);
        });
    });
}

fn binary_float(e: &mut Emitter, op: Binary, over: &Strided, lo: f32, hi: f32) {
    let space = Space::new(over);
    let (n, steps) = space.inner();
    let operands = [e.read(0), e.read(1), e.write(0)];
    let wide = if vectorizes(e, op, &space, 4) { n / 4 } else { 0 };
    space.nest(e, &operands, &[4, 4, 4], 1, &mut |e, p| {
        let advance =
            |lanes: i64| [(p[0], 4 * steps[0] as i64 * lanes), (p[1], 4 * steps[1] as i64 * lanes), (p[2], 4 * steps[2] as i64 * lanes)];
        e.walk(wide, &advance(4), |e, p| {
            let [a, b] = [0, 1].map(|i| {
                if steps[i] == 0 {
                    let v = e.load_f32(p[i], 0);
                    e.b.ins().splat(F32X4, v)
                } else {
                    e.load(F32X4, p[i], 0)
                }
            });
            let v = apply(e, op, a, b);
            let v = Math::VECTOR.bound(e, v, lo, hi);
            e.store(v, p[2], 0);
        });
        let rest: Vec<(Ptr, i64)> = advance(1).iter().map(|&(p, step)| (e.at(p, step * 4 * wide as i64), step)).collect();
        e.walk(n - 4 * wide, &rest, |e, p| {
            let (a, b) = (e.load_f32(p[0], 0), e.load_f32(p[1], 0));
            let v = apply(e, op, a, b);
            let v = Math::SCALAR.bound(e, v, lo, hi);
            e.store(v, p[2], 0);
        });
    });
}
