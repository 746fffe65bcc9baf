//! Sliding window pooling over channels-last images.
//!
//! Results whose windows have the same valid taps form regions: the interior is one, every border row and column that
//! a window leaves is another. A region is a loop nest with constant extents, so nothing tests for edges at run time.

use super::{float_unary::Math, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Type, Value,
    condcodes::IntCC,
    types::{F32, F32X4, I8, I8X16, I32, I32X4},
};
use quernel_ir::{
    PoolKind,
    diag::Diagnostic,
    exact,
    op::WindowDim,
    program::{ByteQuant, Image, What},
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Pool { kind, input, output, window, from, to } => {
            let nest = Nest { kind: *kind, input: *input, output: *output, window: *window, width: 1 };
            nest.emit(e, &mut |e, w, x, y| bytes(e, &nest, w, *from, *to, x, y));
        }
        What::PoolFloat { kind, input, output, window } => {
            let nest = Nest { kind: *kind, input: *input, output: *output, window: *window, width: 4 };
            nest.emit(e, &mut |e, w, x, y| floats(e, &nest, w, x, y));
        }
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// Neighbouring results along one axis whose windows look alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Region {
    /// First result.
    at: usize,
    /// Results.
    count: usize,
    /// Operand position of the first valid tap of the first result.
    first: usize,
    /// Valid taps.
    taps: usize,
    /// Taps the divisor of an average counts.
    counted: usize,
}

fn regions(d: WindowDim, extent: usize, outputs: usize, include_pad: bool) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for o in 0..outputs {
        // In padded coordinates; tap t lies at `start + t * dilation`.
        let start = o * d.stride;
        let below = |end: usize| end.saturating_sub(start).div_ceil(d.dilation).min(d.kernel);
        let (skipped, end) = (below(d.before), below(d.before + extent));
        let first = (start + skipped * d.dilation).saturating_sub(d.before);
        let taps = end - skipped;
        let counted = if include_pad { below(d.before + extent + d.after) } else { taps };
        match all.last_mut() {
            Some(r) if (r.taps, r.counted) == (taps, counted) && first == r.first + r.count * d.stride => r.count += 1,
            _ => all.push(Region { at: o, count: 1, first, taps, counted }),
        }
    }
    all
}

/// The window of one region.
#[derive(Clone, Copy)]
struct Taps {
    rows: usize,
    columns: usize,
    divisor: usize,
}

/// Adds a tap to what a window has so far.
type TapStep<'a> = dyn FnMut(&mut Emitter, Ptr, &[Value]) -> Vec<Value> + 'a;

/// Geometry of a step.
struct Nest {
    kind: PoolKind,
    input: Image,
    output: Image,
    window: [WindowDim; 2],
    /// Bytes per element.
    width: usize,
}

impl Nest {
    /// Calls `pixel` for every result pixel, with the pointers of its first valid tap and of its result.
    fn emit(&self, e: &mut Emitter, pixel: &mut dyn FnMut(&mut Emitter, Taps, Ptr, Ptr)) {
        let include_pad = self.kind == PoolKind::Average { include_pad: true };
        let (x, y) = (self.input, self.output);
        let ys = regions(self.window[0], x.h, y.h, include_pad);
        let xs = regions(self.window[1], x.w, y.w, include_pad);
        let bytes = |elements: usize| (elements * self.width) as i64;
        let (from, to) = (e.read(0), e.write(0));
        e.walk(y.n, &[(from, bytes(x.batch)), (to, bytes(y.batch))], |e, p| {
            for r in &ys {
                let from = e.at(p[0], bytes(x.start + r.first * x.row));
                let to = e.at(p[1], bytes(y.start + r.at * y.row));
                e.walk(r.count, &[(from, bytes(self.window[0].stride * x.row)), (to, bytes(y.row))], |e, p| {
                    for c in &xs {
                        let from = e.at(p[0], bytes(c.first * x.pixel));
                        let to = e.at(p[1], bytes(c.at * y.pixel));
                        let taps = Taps { rows: r.taps, columns: c.taps, divisor: (r.counted * c.counted).max(1) };
                        e.walk(c.count, &[(from, bytes(self.window[1].stride * x.pixel)), (to, bytes(y.pixel))], |e, p| {
                            pixel(e, taps, p[0], p[1])
                        });
                    }
                });
            }
        });
    }

    /// Folds over the valid taps, rows first: `body` gets the pointer of a tap.
    fn taps(&self, e: &mut Emitter, w: Taps, x: Ptr, start: &[Value], body: &mut TapStep) -> Vec<Value> {
        let row = (self.input.row * self.window[0].dilation * self.width) as i64;
        let column = (self.input.pixel * self.window[1].dilation * self.width) as i64;
        // Small windows are straight-line code.
        if w.rows * w.columns <= 9 {
            let mut now = start.to_vec();
            for ky in 0..w.rows as i64 {
                for kx in 0..w.columns as i64 {
                    let p = e.at(x, ky * row + kx * column);
                    now = body(e, p, &now);
                }
            }
            return now;
        }
        e.fold(w.rows, &[(x, row)], start, |e, p, now| e.fold(w.columns, &[(p[0], column)], now, |e, p, now| body(e, p[0], now)))
    }

    /// Channels in vectors of `lanes`, then one by one: `body` gets the type to load.
    fn channels(
        &self,
        e: &mut Emitter,
        x: Ptr,
        y: Ptr,
        (lanes, wide, narrow): (usize, Type, Type),
        body: &mut dyn FnMut(&mut Emitter, Ptr, Ptr, Type),
    ) {
        let count = if e.vectors() { self.output.c / lanes } else { 0 };
        let step = (lanes * self.width) as i64;
        e.walk(count, &[(x, step), (y, step)], |e, p| body(e, p[0], p[1], wide));
        let (x, y) = (e.at(x, count as i64 * step), e.at(y, count as i64 * step));
        let one = self.width as i64;
        e.walk(self.output.c - count * lanes, &[(x, one), (y, one)], |e, p| body(e, p[0], p[1], narrow));
    }
}

fn bytes(e: &mut Emitter, nest: &Nest, w: Taps, from: ByteQuant, to: ByteQuant, x: Ptr, y: Ptr) {
    nest.channels(e, x, y, (16, I8X16, I8), &mut |e, x, y, ty| match (nest.kind, ty == I8X16) {
        (PoolKind::Max, true) => {
            let least = e.splat_i8(least(w, from) as u8);
            let largest = nest.taps(e, w, x, &[least], &mut |e, p, best| {
                let v = e.load(I8X16, p, 0);
                vec![if from.signed {
                    let more = e.b.ins().icmp(IntCC::SignedGreaterThan, v, best[0]);
                    e.b.ins().bitselect(more, v, best[0])
                } else {
                    e.b.ins().umax(v, best[0])
                }]
            });
            e.store(largest[0], y, 0);
        }
        (PoolKind::Max, false) => {
            let least = e.i32(least(w, from));
            let largest = nest.taps(e, w, x, &[least], &mut |e, p, best| {
                let v = e.load_byte(p, 0, from.signed);
                let more = e.b.ins().icmp(IntCC::SignedGreaterThan, v, best[0]);
                vec![e.b.ins().select(more, v, best[0])]
            });
            e.store_byte(largest[0], y, 0);
        }
        (PoolKind::Average { .. }, true) => {
            let zero = e.splat_i32(-from.zero * (w.rows * w.columns) as i32);
            let sums = nest.taps(e, w, x, &[zero; 4], &mut |e, p, sums| {
                let v = e.load(I8X16, p, 0);
                let parts = e.widen_bytes_i32(v, from.signed);
                sums.iter().zip(parts).map(|(&s, v)| e.b.ins().iadd(s, v)).collect()
            });
            let end = e.bytes_end_of_v(to);
            let rounded = std::array::from_fn(|i| average(e, sums[i], w.divisor, from, to, &end));
            let packed = e.narrow_bytes(rounded, to.signed);
            e.store(packed, y, 0);
        }
        (PoolKind::Average { .. }, false) => {
            let zero = e.i32(-from.zero * (w.rows * w.columns) as i32);
            let sum = nest.taps(e, w, x, &[zero], &mut |e, p, sum| {
                let v = e.load_byte(p, 0, from.signed);
                vec![e.b.ins().iadd(sum[0], v)]
            });
            let end = e.bytes_end_of(to);
            let v = average(e, sum[0], w.divisor, from, to, &end);
            e.store_byte(v, y, 0);
        }
    });
}

/// What the maximum starts from. A window without a valid tap yields the smallest value of the type.
fn least(w: Taps, q: ByteQuant) -> i32 {
    match (w.rows * w.columns, q.signed) {
        (0, _) => q.lo,
        (_, true) => -128,
        (_, false) => 0,
    }
}

/// [`exact::average`] of a centered sum, before it is a byte.
fn average(e: &mut Emitter, sum: Value, n: usize, from: ByteQuant, to: ByteQuant, end: &crate::emit::BytesEnd) -> Value {
    let vector = e.b.func.dfg.value_type(sum) == I32X4;
    debug_assert!(vector || e.b.func.dfg.value_type(sum) == I32);
    let math = if vector { Math::VECTOR } else { Math::SCALAR };
    if from.scale.to_bits() != to.scale.to_bits() {
        let m = math.k(e, exact::average_multiplier(n, from.scale, to.scale));
        return if vector { e.requantize_v(sum, m, end) } else { e.requantize(sum, m, end) };
    }
    let sum = e.b.ins().fcvt_from_sint(if vector { F32X4 } else { F32 }, sum);
    let n = math.k(e, n as f32);
    let mean = e.b.ins().fdiv(sum, n);
    if vector { e.quantize_v(mean, end) } else { e.quantize(mean, end) }
}

fn floats(e: &mut Emitter, nest: &Nest, w: Taps, x: Ptr, y: Ptr) {
    nest.channels(e, x, y, (4, F32X4, F32), &mut |e, x, y, ty| {
        let math = if ty == F32X4 { Math::VECTOR } else { Math::SCALAR };
        let v = match nest.kind {
            PoolKind::Max => {
                let least = math.k(e, f32::NEG_INFINITY);
                nest.taps(e, w, x, &[least], &mut |e, p, best| {
                    let v = e.load(ty, p, 0);
                    vec![math.max_first(e, v, best[0])]
                })[0]
            }
            PoolKind::Average { .. } => {
                let zero = math.k(e, 0.0);
                let sum = nest.taps(e, w, x, &[zero], &mut |e, p, sum| {
                    let v = e.load(ty, p, 0);
                    vec![e.b.ins().fadd(sum[0], v)]
                })[0];
                let n = math.k(e, w.divisor as f32);
                e.b.ins().fdiv(sum, n)
            }
        };
        e.store(v, y, 0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_cover_every_result_in_order() {
        let d = WindowDim { kernel: 3, stride: 2, dilation: 1, before: 1, after: 1 };
        assert_eq!(
            regions(d, 8, 4, false),
            [Region { at: 0, count: 1, first: 0, taps: 2, counted: 2 }, Region { at: 1, count: 3, first: 1, taps: 3, counted: 3 }]
        );
        let padded = regions(WindowDim { stride: 1, ..d }, 3, 3, true);
        assert_eq!(padded.iter().map(|r| (r.count, r.taps, r.counted)).collect::<Vec<_>>(), [(1, 2, 3), (1, 3, 3), (1, 2, 3)]);
    }
}
