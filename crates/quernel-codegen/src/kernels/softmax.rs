//! Softmax of floats and of bytes.

use super::{float_unary::Math, reduce, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    condcodes::IntCC,
    types::{F32, F32X4, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    program::{ByteQuant, What},
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::SoftmaxFloat { outer, len, inner, log } => floats(e, *outer, *len, *inner, *log),
        What::SoftmaxBytes { outer, len, inner, from, to } => bytes(e, *outer, *len, *inner, *from, *to),
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// `outer` times `inner` rows of `len` elements that lie `inner` apart.
fn rows(
    e: &mut Emitter,
    (outer, len, inner): (usize, usize, usize),
    (x, y): (Ptr, Ptr),
    widths: (i64, i64),
    mut row: impl FnMut(&mut Emitter, Ptr, Ptr),
) {
    let block = (len * inner) as i64;
    e.walk(outer, &[(x, block * widths.0), (y, block * widths.1)], |e, p| {
        e.walk(inner, &[(p[0], widths.0), (p[1], widths.1)], |e, p| row(e, p[0], p[1]));
    });
}

fn floats(e: &mut Emitter, outer: usize, len: usize, inner: usize, log: bool) {
    let slots = (e.read(0), e.write(0));
    let stride = 4 * inner as i64;
    rows(e, (outer, len, inner), slots, (4, 4), |e, x, y| {
        let largest = reduce::extreme(e, true, x, len, stride, F32);
        // The result holds the exponentials until their sum is known.
        along(e, &[x, y], len, inner, &[largest], |e, p, k, ty| {
            let v = e.load(ty, p[0], 0);
            let v = e.b.ins().fsub(v, k[0]);
            let v = Math::of(e, v).exp(e, v);
            e.store(v, p[1], 0);
        });
        let sum = reduce::sum16(e, y, len, stride, F32);
        if log {
            let sum = Math::SCALAR.log(e, sum);
            along(e, &[x, y], len, inner, &[largest, sum], |e, p, k, ty| {
                let v = e.load(ty, p[0], 0);
                let v = e.b.ins().fsub(v, k[0]);
                let v = e.b.ins().fsub(v, k[1]);
                e.store(v, p[1], 0);
            });
        } else {
            along(e, &[y], len, inner, &[sum], |e, p, k, ty| {
                let v = e.load(ty, p[0], 0);
                let v = e.b.ins().fdiv(v, k[0]);
                e.store(v, p[0], 0);
            });
        }
    });
}

/// One row, four elements at a time where it is contiguous; `constants` are f32 and come broadcast.
fn along(
    e: &mut Emitter,
    ptrs: &[Ptr],
    len: usize,
    inner: usize,
    constants: &[Value],
    body: impl Fn(&mut Emitter, &[Ptr], &[Value], cranelift_codegen::ir::Type),
) {
    let wide = if e.vectors() && inner == 1 { len / 4 } else { 0 };
    if wide > 0 {
        let spread: Vec<Value> = constants.iter().map(|&k| e.b.ins().splat(F32X4, k)).collect();
        let moving: Vec<(Ptr, i64)> = ptrs.iter().map(|&p| (p, 16)).collect();
        e.walk(wide, &moving, |e, p| body(e, p, &spread, F32X4));
    }
    let moving: Vec<(Ptr, i64)> = ptrs.iter().map(|&p| (e.at(p, 16 * wide as i64), 4 * inner as i64)).collect();
    e.walk(len - 4 * wide, &moving, |e, p| body(e, p, constants, F32));
}

fn bytes(e: &mut Emitter, outer: usize, len: usize, inner: usize, from: ByteQuant, to: Option<ByteQuant>) {
    let slots = (e.read(0), e.write(0));
    let table = e.read(1);
    let width = if to.is_some() { 1 } else { 4 };
    let stride = inner as i64;
    // The entry of an element: `table[largest - x]`.
    let entry = move |e: &mut Emitter, x: Ptr, largest: Value| {
        let v = e.load_byte(x, 0, from.signed);
        let d = e.b.ins().isub(largest, v);
        let d = e.b.ins().uextend(I64, d);
        let at = e.index(table, d, 4);
        e.load_i32(at, 0)
    };
    rows(e, (outer, len, inner), slots, (1, width), |e, x, y| {
        let first = e.load_byte(x, 0, from.signed);
        let next = e.at(x, stride);
        let largest = e.fold(len - 1, &[(next, stride)], &[first], |e, p, best| {
            let v = e.load_byte(p[0], 0, from.signed);
            let more = e.b.ins().icmp(IntCC::SignedGreaterThan, v, best[0]);
            vec![e.b.ins().select(more, v, best[0])]
        })[0];
        let zero = e.i64(0);
        let sum = e.fold(len, &[(x, stride)], &[zero], |e, p, sum| {
            let v = entry(e, p[0], largest);
            let v = e.b.ins().uextend(I64, v);
            vec![e.b.ins().iadd(sum[0], v)]
        })[0];
        let sum = e.b.ins().fcvt_from_sint(F32, sum);
        let numerator = e.f32(1.0 / to.map_or(1.0, |q| q.scale));
        let factor = e.b.ins().fdiv(numerator, sum);
        e.walk(len, &[(x, stride), (y, stride * width)], |e, p| {
            let v = entry(e, p[0], largest);
            match to {
                Some(q) => {
                    let end = e.bytes_end_of(q);
                    let v = e.requantize(v, factor, &end);
                    e.store_byte(v, p[1], 0);
                }
                None => {
                    let v = e.b.ins().fcvt_from_sint(F32, v);
                    let v = e.b.ins().fmul(v, factor);
                    e.store(v, p[1], 0);
                }
            }
        });
    });
}
