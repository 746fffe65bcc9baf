//! Softmax of floats and of bytes.

use super::{float_unary::Math, reduce, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    condcodes::IntCC,
    types::{F32, F32X4, I8X16, I32, I32X4, I64, I64X2},
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
    let lanes = Lanes { from, to, table };
    rows(e, (outer, len, inner), slots, (1, width), |e, x, y| {
        // Sixteen at a time along contiguous rows; what is left, and other rows, one by one.
        let wide = if e.vectors() && inner == 1 { len / 16 } else { 0 };
        let done = 16 * wide;
        let rest = e.at(x, done as i64);
        let start = if wide > 0 { lanes.largest(e, x, wide) } else { e.load_byte(x, 0, from.signed) };
        let largest = e.fold(len - done, &[(rest, stride)], &[start], |e, p, best| {
            let v = e.load_byte(p[0], 0, from.signed);
            let more = e.b.ins().icmp(IntCC::SignedGreaterThan, v, best[0]);
            vec![e.b.ins().select(more, v, best[0])]
        })[0];
        let zero = e.i64(0);
        let sum = e.fold(wide, &[(x, 16)], &[zero; 4], |e, p, sums| {
            let mut sums = sums.to_vec();
            for i in 0..16 {
                let at = e.at(p[0], i as i64);
                let v = entry(e, at, largest);
                let v = e.b.ins().uextend(I64, v);
                sums[i % 4] = e.b.ins().iadd(sums[i % 4], v);
            }
            sums
        });
        let sum = sum.into_iter().reduce(|a, b| e.b.ins().iadd(a, b)).unwrap_or(zero);
        let sum = e.fold(len - done, &[(rest, stride)], &[sum], |e, p, sum| {
            let v = entry(e, p[0], largest);
            let v = e.b.ins().uextend(I64, v);
            vec![e.b.ins().iadd(sum[0], v)]
        })[0];
        let sum = e.b.ins().fcvt_from_sint(F32, sum);
        let numerator = e.f32(1.0 / to.map_or(1.0, |q| q.scale));
        let factor = e.b.ins().fdiv(numerator, sum);
        if wide > 0 {
            let factor = e.b.ins().splat(F32X4, factor);
            e.walk(wide, &[(x, 16), (y, 16 * width)], |e, p| lanes.results(e, p[0], p[1], largest, factor));
        }
        let y = e.at(y, done as i64 * width);
        e.walk(len - done, &[(rest, stride), (y, stride * width)], |e, p| {
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

/// Rows of bytes in vectors.
#[derive(Clone, Copy)]
struct Lanes {
    from: ByteQuant,
    to: Option<ByteQuant>,
    table: Ptr,
}

impl Lanes {
    /// The largest of `n` times sixteen bytes, as an i32.
    fn largest(self, e: &mut Emitter, x: Ptr, n: usize) -> Value {
        // Signed bytes are compared as unsigned ones with the top bit inverted.
        let flip = |e: &mut Emitter, v: Value| {
            if !self.from.signed {
                return v;
            }
            let top = e.splat_i8(0x80);
            e.b.ins().bxor(v, top)
        };
        let zero = e.splat_i8(0);
        let mut best = e.fold(n, &[(x, 16)], &[zero], |e, p, best| {
            let v = e.load(I8X16, p[0], 0);
            let v = flip(e, v);
            vec![e.b.ins().umax(v, best[0])]
        })[0];
        let high = e.interleave(best, best, 8, true);
        best = e.b.ins().umax(best, high);
        for bits in [32, 16, 8] {
            let lanes = e.cast(I64X2, best);
            let down = e.b.ins().ushr_imm_u(lanes, bits);
            let down = e.cast(I8X16, down);
            best = e.b.ins().umax(best, down);
        }
        let best = flip(e, best);
        let byte = e.b.ins().extractlane(best, 0);
        if self.from.signed { e.b.ins().sextend(I32, byte) } else { e.b.ins().uextend(I32, byte) }
    }

    /// Sixteen results.
    fn results(self, e: &mut Emitter, x: Ptr, y: Ptr, largest: Value, factor: Value) {
        let quads: [Value; 4] = std::array::from_fn(|j| {
            let entry = |e: &mut Emitter, i: usize| {
                let v = e.load_byte(x, (4 * j + i) as i64, self.from.signed);
                let d = e.b.ins().isub(largest, v);
                let d = e.b.ins().uextend(I64, d);
                let at = e.index(self.table, d, 4);
                e.load_i32(at, 0)
            };
            let first = entry(e, 0);
            let quad = e.b.ins().scalar_to_vector(I32X4, first);
            (1..4).fold(quad, |quad, i| {
                let v = entry(e, i);
                e.b.ins().insertlane(quad, v, i as u8)
            })
        });
        match self.to {
            Some(q) => {
                let end = e.bytes_end_of_v(q);
                let bytes = quads.map(|v| e.requantize_v(v, factor, &end));
                let packed = e.narrow_bytes(bytes, q.signed);
                e.store(packed, y, 0);
            }
            None => {
                for (j, v) in quads.into_iter().enumerate() {
                    let v = e.b.ins().fcvt_from_sint(F32X4, v);
                    let v = e.b.ins().fmul(v, factor);
                    e.store(v, y, 16 * j as i64);
                }
            }
        }
    }
}
