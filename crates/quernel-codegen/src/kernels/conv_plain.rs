//! Integer convolution of any form, one sum at a time: every grouping, dilation, padding and packing. It is the
//! kernel of last resort, small rather than fast.

use super::conv::{BIAS, FACTOR, Layer, RESIDUAL, SCALE, W, X, finish_scalar, scalar_end};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::I64};
use quernel_ir::program::{Conv, PANEL, WeightDims, WeightLayout};

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer) {
    let conv = layer.conv;
    let (x, w) = (e.read(X), e.read(W));
    let ends = scalar_end(e, layer);
    let zero = e.i32(layer.zero);
    outputs(e, conv, layer.out_bytes(), |e, at| {
        let bias = e.read(BIAS);
        let bias = e.index(bias, at.o, 4);
        let acc = e.load_i32(bias, 0);
        let acc = taps(e, conv, &at, acc, |e, ok, x_index, w_index, acc| {
            let p = e.index(x, x_index, layer.width() as i64);
            let v = e.load_stored(p, 0, layer.operand());
            let v = e.b.ins().select(ok, v, zero);
            let p = e.plus(w, w_index);
            let k = e.load_byte(p, 0, true);
            let product = e.b.ins().imul(v, k);
            e.b.ins().iadd(acc, product)
        });
        let scale = e.read(SCALE);
        let scale = e.index(scale, at.o, 4);
        let scale = e.load_f32(scale, 0);
        let residual = conv.residual.map(|_| {
            let (r, f) = (e.read(RESIDUAL), e.read(FACTOR));
            let r = e.index(r, at.residual, layer.width() as i64);
            let f = e.index(f, at.o, 2);
            let f = e.load_i16(f, 0);
            (r, layer.residual(), f)
        });
        finish_scalar(e, acc, scale, residual, &ends, at.to);
    });
}

/// One output element inside the loops of [`outputs`]; values are i64.
pub struct At {
    /// Image, row, column.
    pub n: Value,
    /// Output row.
    pub y: Value,
    /// Output column.
    pub x: Value,
    /// Group.
    pub group: Value,
    /// Output channel within its group.
    pub lane: Value,
    /// Output channel.
    pub o: Value,
    /// Elements from the start of the residual slot.
    pub residual: Value,
    /// Where the result goes.
    pub to: Ptr,
}

/// Loops over all output elements of `conv`, whose elements have `width` bytes.
pub fn outputs(e: &mut Emitter, conv: &Conv, width: i64, body: impl FnOnce(&mut Emitter, At)) {
    let (y, d) = (conv.output, conv.weight_dims());
    let per_group = d.o / d.groups;
    e.repeat(y.n, |e, n| {
        e.repeat(y.h, |e, row| {
            e.repeat(y.w, |e, column| {
                e.repeat(d.groups, |e, group| {
                    e.repeat(per_group, |e, lane| {
                        let first = e.b.ins().imul_imm_s(group, per_group as i64);
                        let o = e.b.ins().iadd(first, lane);
                        let place = |e: &mut Emitter, v: quernel_ir::program::Image| {
                            sum(e, &[(n, v.batch), (row, v.row), (column, v.pixel), (o, 1)], v.start)
                        };
                        let residual = match conv.residual {
                            Some(r) => place(e, r),
                            None => o,
                        };
                        let to = place(e, y);
                        let out = e.write(0);
                        let to = e.index(out, to, width);
                        body(e, At { n, y: row, x: column, group, lane, o, residual, to });
                    });
                });
            });
        });
    });
}

/// Sums the taps of an output element in order `ky, kx, i`. `tap(e, inside, x index, weight index, acc)` gets indices
/// in elements from the start of the slots; outside the operand the x index is that of some valid element.
pub fn taps(
    e: &mut Emitter,
    conv: &Conv,
    at: &At,
    acc: Value,
    tap: impl FnOnce(&mut Emitter, Value, Value, Value, Value) -> Value,
) -> Value {
    let (view, d) = (conv.input, conv.weight_dims());
    let [wy, wx] = conv.window;
    let base = sum(e, &[(at.n, view.batch), (at.group, d.i)], view.start);
    let y0 = position(e, at.y, wy.stride, wy.before);
    let x0 = position(e, at.x, wx.stride, wx.before);
    let out = e.count_fold(d.kh, &[acc], |e, ky, acc| {
        let (in_y, y_ok) = inside(e, y0, ky, wy.dilation, view.h);
        e.count_fold(d.kw, acc, |e, kx, acc| {
            let (in_x, x_ok) = inside(e, x0, kx, wx.dilation, view.w);
            let ok = e.b.ins().band(y_ok, x_ok);
            let pixel = sum(e, &[(in_y, view.row), (in_x, view.pixel)], 0);
            let zero = e.i64(0);
            let pixel = e.b.ins().select(ok, pixel, zero);
            let pixel = e.b.ins().iadd(base, pixel);
            e.count_fold(d.i, acc, |e, i, acc| {
                let x_index = e.b.ins().iadd(pixel, i);
                let w_index = weight(e, conv.layout, d, at, ky, kx, i);
                vec![tap(e, ok, x_index, w_index, acc[0])]
            })
        })
    });
    out[0]
}

/// `out * stride - before`.
fn position(e: &mut Emitter, out: Value, stride: usize, before: usize) -> Value {
    let p = e.b.ins().imul_imm_s(out, stride as i64);
    e.b.ins().iadd_imm_s(p, -(before as i64))
}

/// `start + k * dilation`, and whether it is below `extent` and not negative.
fn inside(e: &mut Emitter, start: Value, k: Value, dilation: usize, extent: usize) -> (Value, Value) {
    let step = e.b.ins().imul_imm_s(k, dilation as i64);
    let p = e.b.ins().iadd(start, step);
    let limit = e.i64(extent as i64);
    (p, e.b.ins().icmp(IntCC::UnsignedLessThan, p, limit))
}

fn sum(e: &mut Emitter, terms: &[(Value, usize)], constant: usize) -> Value {
    let mut total = e.i64(constant as i64);
    for &(v, factor) in terms {
        debug_assert_eq!(e.b.func.dfg.value_type(v), I64);
        let term = e.b.ins().imul_imm_s(v, factor as i64);
        total = e.b.ins().iadd(total, term);
    }
    total
}

/// [`WeightLayout::index`] of computed positions.
fn weight(e: &mut Emitter, layout: WeightLayout, d: WeightDims, at: &At, ky: Value, kx: Value, i: Value) -> Value {
    match layout {
        WeightLayout::Plain => sum(e, &[(at.o, d.kh * d.kw * d.i), (ky, d.kw * d.i), (kx, d.i), (i, 1)], 0),
        WeightLayout::Depthwise => {
            let o16 = d.o.next_multiple_of(PANEL);
            sum(e, &[(ky, d.kw * o16), (kx, o16), (at.o, 1)], 0)
        }
        WeightLayout::Panels { contiguous, depth } => {
            let (len, count) = WeightLayout::segments(contiguous, d);
            let blocks = len.div_ceil(depth);
            let (segment, k) = if contiguous { (ky, sum(e, &[(kx, d.i), (i, 1)], 0)) } else { (sum(e, &[(ky, d.kw), (kx, 1)], 0), i) };
            let shift = i64::from(PANEL.trailing_zeros());
            let panel = e.b.ins().ushr_imm_u(at.lane, shift);
            let lane = e.b.ins().band_imm_s(at.lane, PANEL as i64 - 1);
            let panel = sum(e, &[(at.group, WeightLayout::panels_per_group(d)), (panel, 1)], 0);
            let block = e.b.ins().udiv_imm_u(k, depth as i64);
            let in_block = e.b.ins().urem_imm_u(k, depth as i64);
            let block = sum(e, &[(panel, count * blocks), (segment, blocks), (block, 1)], 0);
            sum(e, &[(block, PANEL * depth), (lane, depth), (in_block, 1)], 0)
        }
    }
}
