//! Layer normalization of bytes: exact sums, a few f64 operations per row, separate products and sums per element.

use super::unsupported;
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32, F32X4, F64, I8X16, I32X4, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    program::{ByteQuant, What},
};

/// Longest row whose sums fit 32-bit lanes: a quarter of its elements, squares up to 255^2.
const MOST_IN_LANES: usize = 1 << 16;

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::LayerNorm { rows, len, epsilon, rms, from, to } = *what else { return Err(unsupported(what)) };
    let (scale, bias) = (e.read(1), e.read(2));
    let ptrs = [(e.read(0), len as i64), (e.write(0), len as i64)];
    e.walk(rows, &ptrs, |e, p| {
        let wide = if e.vectors() && len <= MOST_IN_LANES { len / 16 } else { 0 };
        let (sum, squares) = sums(e, p[0], len, wide, from);
        let (a, b) = factors(e, sum, squares, len, (from.scale, epsilon, rms));
        if wide > 0 {
            let end = e.bytes_end_of_v(to);
            let (a, b) = (e.b.ins().splat(F32X4, a), e.b.ins().splat(F32X4, b));
            e.walk(wide, &[(p[0], 16), (scale, 64), (bias, 64), (p[1], 16)], |e, p| {
                let bytes = e.load(I8X16, p[0], 0);
                let c = centered(e, bytes, from);
                let q = std::array::from_fn(|i| {
                    let x = e.b.ins().fcvt_from_sint(F32X4, c[i]);
                    let (g, h) = (e.load(F32X4, p[1], 16 * i as i64), e.load(F32X4, p[2], 16 * i as i64));
                    let y = element(e, x, [a, b, g, h]);
                    e.quantize_v(y, &end)
                });
                let packed = e.narrow_bytes(q, to.signed);
                e.store(packed, p[3], 0);
            });
        }
        let done = 16 * wide as i64;
        let rest = [(e.at(p[0], done), 1), (e.at(scale, 4 * done), 4), (e.at(bias, 4 * done), 4), (e.at(p[1], done), 1)];
        let end = e.bytes_end_of(to);
        e.walk(len - 16 * wide, &rest, |e, p| {
            let c = one(e, p[0], from);
            let x = e.b.ins().fcvt_from_sint(F32, c);
            let (g, h) = (e.load_f32(p[1], 0), e.load_f32(p[2], 0));
            let y = element(e, x, [a, b, g, h]);
            let q = e.quantize(y, &end);
            e.store_byte(q, p[3], 0);
        });
    });
    Ok(())
}

/// `((x a) + b) g + h`, each operation rounded; scalars or vectors.
fn element(e: &mut Emitter, x: Value, [a, b, g, h]: [Value; 4]) -> Value {
    let t = e.b.ins().fmul(x, a);
    let t = e.b.ins().fadd(t, b);
    let t = e.b.ins().fmul(t, g);
    e.b.ins().fadd(t, h)
}

/// A byte without its zero point, as an i32.
fn one(e: &mut Emitter, p: Ptr, from: ByteQuant) -> Value {
    let q = e.load_byte(p, 0, from.signed);
    e.b.ins().iadd_imm_s(q, -i64::from(from.zero))
}

/// Sixteen of them.
fn centered(e: &mut Emitter, bytes: Value, from: ByteQuant) -> [Value; 4] {
    let zero = e.splat_i32(from.zero);
    e.widen_bytes_i32(bytes, from.signed).map(|v| e.b.ins().isub(v, zero))
}

/// Sum and sum of squares of a row, as i64.
fn sums(e: &mut Emitter, x: Ptr, len: usize, wide: usize, from: ByteQuant) -> (Value, Value) {
    let mut totals = [e.i64(0), e.i64(0)];
    if wide > 0 {
        let (none, ones) = (e.splat_i32(0), e.splat_i16(1));
        let zero = e.splat_i16(from.zero as i16);
        let lanes = e.fold(wide, &[(x, 16)], &[none, none], |e, p, sums| {
            let bytes = e.load(I8X16, p[0], 0);
            let mut sums = [sums[0], sums[1]];
            for half in e.widen_bytes(bytes, from.signed) {
                let c = e.b.ins().isub(half, zero);
                for (sum, by) in sums.iter_mut().zip([ones, c]) {
                    let pairs = e.multiply_pairs(c, by);
                    *sum = e.b.ins().iadd(*sum, pairs);
                }
            }
            sums.to_vec()
        });
        for (total, lanes) in totals.iter_mut().zip(lanes) {
            debug_assert_eq!(e.b.func.dfg.value_type(lanes), I32X4);
            for lane in 0..4 {
                let v = e.b.ins().extractlane(lanes, lane);
                let v = e.b.ins().sextend(I64, v);
                *total = e.b.ins().iadd(*total, v);
            }
        }
    }
    let rest = e.at(x, 16 * wide as i64);
    let totals = e.fold(len - 16 * wide, &[(rest, 1)], &totals, |e, p, sums| {
        let c = one(e, p[0], from);
        let square = e.b.ins().imul(c, c);
        [c, square]
            .into_iter()
            .zip(sums)
            .map(|(v, sum)| {
                let v = e.b.ins().sextend(I64, v);
                e.b.ins().iadd(*sum, v)
            })
            .collect()
    });
    (totals[0], totals[1])
}

/// [`quernel_ir::exact::norm_row`].
fn factors(e: &mut Emitter, sum: Value, squares: Value, len: usize, (scale, epsilon, rms): (f32, f32, bool)) -> (Value, Value) {
    let f64 = |e: &mut Emitter, v: f64| e.b.ins().f64const(v);
    let count = len as f64;
    let variance = if rms {
        let v = e.b.ins().fcvt_from_sint(F64, squares);
        let n = f64(e, count);
        e.b.ins().fdiv(v, n)
    } else {
        let all = e.b.ins().imul_imm_s(squares, len as i64);
        let own = e.b.ins().imul(sum, sum);
        let v = e.b.ins().isub(all, own);
        let v = e.b.ins().fcvt_from_sint(F64, v);
        let n = f64(e, count * count);
        e.b.ins().fdiv(v, n)
    };
    let s = f64::from(scale);
    let (square, epsilon) = (f64(e, s * s), f64(e, f64::from(epsilon)));
    let v = e.b.ins().fmul(square, variance);
    let v = e.b.ins().fadd(v, epsilon);
    let root = e.b.ins().sqrt(v);
    let s = f64(e, s);
    let factor = e.b.ins().fdiv(s, root);
    let a = e.b.ins().fdemote(F32, factor);
    if rms {
        return (a, e.f32(0.0));
    }
    let mean = e.b.ins().fcvt_from_sint(F64, sum);
    let n = f64(e, count);
    let mean = e.b.ins().fdiv(mean, n);
    let mean = e.b.ins().fneg(mean);
    let offset = e.b.ins().fmul(mean, factor);
    (a, e.b.ins().fdemote(F32, offset))
}
