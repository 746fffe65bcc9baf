//! Integer depthwise convolution: sixteen channels of one pixel at a time.
//!
//! Taps are taken in groups whose bytes are interleaved per channel: four to a 32-bit lane for dot products, two to a
//! 16-bit pair for multiply-adds. Weights are rearranged the same way when the program is compiled.

use super::conv::{BIAS, FACTOR, Layer, RESIDUAL, SCALE, W, X, finish_panel, vector_end};
use crate::{
    emit::{Emitter, Machine, Ptr},
    target::Level,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8X16, I16X8, I32X4},
};
use quernel_ir::program::{Conv, PANEL, WeightDims, WeightLayout};

/// Most taps emitted in a straight line.
const MOST_TAPS: usize = 64;
/// Bytes of rearranged weights per group of taps and sixteen channels, in both forms.
const GROUP_BYTES: usize = 64;

/// Whether the kernel covers a convolution without padding.
pub fn fits(conv: &Conv) -> bool {
    let d = conv.weight_dims();
    d.i == 1 && d.groups == d.o && d.kh * d.kw <= MOST_TAPS
}

/// Taps in one group.
fn depth(level: Level, words: bool) -> usize {
    if level >= Level::V128Dot && !words { 4 } else { 2 }
}

/// Rearranges weights: `[block of 16 channels][group][channel][tap]`, bytes for dot products, else i16. Taps missing
/// in the last group are 0.
pub fn pack(d: WeightDims, weights: &[u8], machine: &Machine, words: bool) -> Vec<u8> {
    let depth = depth(machine.level, words);
    let taps = d.kh * d.kw;
    let mut out = Vec::new();
    for block in 0..d.o.div_ceil(PANEL) {
        for group in 0..taps.div_ceil(depth) {
            for lane in 0..PANEL {
                for tap in group * depth..(group + 1) * depth {
                    let o = block * PANEL + lane;
                    let inside = tap < taps && o < d.o;
                    let w = if inside { weights[WeightLayout::Depthwise.index(d, o, tap / d.kw, tap % d.kw, 0)] as i8 } else { 0 };
                    if depth == 4 { out.push(w as u8) } else { out.extend(i16::from(w).to_le_bytes()) }
                }
            }
        }
    }
    out
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer, flip: bool) {
    let conv = layer.conv;
    let (view, out, d) = (conv.input, conv.output, conv.weight_dims());
    let [wy, wx] = conv.window;
    let width = layer.out_bytes() as usize;
    let (depth, wide_x) = (depth(e.level(), layer.words), layer.width());
    let groups = (d.kh * d.kw).div_ceil(depth);
    // Displacement of every tap; the last group repeats its last tap, against zero weights.
    let taps: Vec<i64> = (0..groups * depth)
        .map(|t| t.min(d.kh * d.kw - 1))
        .map(|t| (((t / d.kw) * wy.dilation * view.row + (t % d.kw) * wx.dilation * view.pixel) * wide_x) as i64)
        .collect();
    let (x, w, bias, scale, y) = (e.read(X), e.read(W), e.read(BIAS), e.read(SCALE), e.write(0));
    let mut start = vec![e.at(x, (view.start * wide_x) as i64), e.at(y, (out.start * width) as i64), w, bias, scale];
    if let Some(r) = conv.residual {
        start.extend([e.at(e.read(RESIDUAL), (r.start * wide_x) as i64), e.read(FACTOR)]);
    }
    let residual = conv.residual.unwrap_or(out);
    let step = |ptrs: &[Ptr], x: usize, y: usize, w: usize, channels: usize, r: usize| {
        let by = [x * wide_x, y * width, w, 4 * channels, 4 * channels, r * wide_x, 2 * channels];
        ptrs.iter().copied().zip(by.map(|b| b as i64)).collect::<Vec<_>>()
    };
    let line = |e: &mut Emitter, ptrs: &[Ptr], lanes: usize| {
        e.walk(out.n, &step(ptrs, view.batch, out.batch, 0, 0, residual.batch), |e, ptrs| {
            e.walk(out.h, &step(ptrs, wy.stride * view.row, out.row, 0, 0, residual.row), |e, ptrs| {
                e.walk(out.w, &step(ptrs, wx.stride * view.pixel, out.pixel, 0, 0, residual.pixel), |e, p| {
                    let bias: [Value; 4] = std::array::from_fn(|j| e.load(I32X4, p[3], 16 * j as i64));
                    let acc = match layer.words {
                        true => word_sums(e, flip, p[0], p[2], &taps, bias),
                        false => sums(e, layer.signed, flip, p[0], p[2], &taps, bias),
                    };
                    let residual = conv.residual.map(|_| (p[5], layer.residual(), p[6]));
                    let ends = vector_end(e, layer);
                    finish_panel(e, acc, p[4], residual, &ends, p[1], lanes);
                });
            });
        });
    };
    let full = d.o / PANEL;
    let block = step(&start, PANEL, PANEL, groups * GROUP_BYTES, PANEL, PANEL);
    e.walk(full, &block, |e, ptrs| line(e, ptrs, PANEL));
    if d.o % PANEL > 0 {
        let last: Vec<Ptr> = block.iter().map(|&(p, by)| e.at(p, full as i64 * by)).collect();
        line(e, &last, d.o % PANEL);
    }
}

/// The sums of sixteen channels.
fn sums(e: &mut Emitter, signed: bool, flip: bool, x: Ptr, w: Ptr, taps: &[i64], mut acc: [Value; 4]) -> [Value; 4] {
    let depth = depth(e.level(), false);
    for (group, taps) in taps.chunks(depth).enumerate() {
        let bytes: Vec<Value> = taps
            .iter()
            .map(|&t| {
                let v = e.load(I8X16, x, t);
                if flip {
                    let top = e.splat_i8(0x80);
                    e.b.ins().bxor(v, top)
                } else {
                    v
                }
            })
            .collect();
        let at = |j: usize| (GROUP_BYTES * group + 16 * j) as i64;
        if depth == 4 {
            let ab = [e.interleave(bytes[0], bytes[1], 1, false), e.interleave(bytes[0], bytes[1], 1, true)];
            let cd = [e.interleave(bytes[2], bytes[3], 1, false), e.interleave(bytes[2], bytes[3], 1, true)];
            for (j, acc) in acc.iter_mut().enumerate() {
                let v = e.interleave(ab[j / 2], cd[j / 2], 2, j % 2 == 1);
                let weights = e.load_constant(I8X16, w, at(j));
                *acc = e.dot(*acc, v, signed != flip, weights);
            }
        } else {
            for half in 0..2 {
                let pairs = e.interleave(bytes[0], bytes[1], 1, half == 1);
                for (quarter, v) in e.widen_bytes(pairs, signed).into_iter().enumerate() {
                    let j = 2 * half + quarter;
                    let weights = e.load_constant(I16X8, w, at(j));
                    let sum = e.multiply_pairs(v, weights);
                    acc[j] = e.b.ins().iadd(acc[j], sum);
                }
            }
        }
    }
    acc
}

/// The sums of sixteen channels of words.
fn word_sums(e: &mut Emitter, flip: bool, x: Ptr, w: Ptr, taps: &[i64], mut acc: [Value; 4]) -> [Value; 4] {
    for (group, taps) in taps.chunks(2).enumerate() {
        for half in 0..2 {
            let [a, b] = [0, 1].map(|t| {
                let v = e.load(I8X16, x, taps[t] + 16 * half as i64);
                if flip {
                    let (v, top) = (e.cast(I16X8, v), e.splat_i16(i16::MIN));
                    let v = e.b.ins().bxor(v, top);
                    e.cast(I8X16, v)
                } else {
                    v
                }
            });
            for quarter in 0..2 {
                let pairs = e.interleave(a, b, 2, quarter == 1);
                let pairs = e.cast(I16X8, pairs);
                let j = 2 * half + quarter;
                let weights = e.load_constant(I16X8, w, (GROUP_BYTES * group + 16 * j) as i64);
                let sum = e.multiply_pairs(pairs, weights);
                acc[j] = e.b.ins().iadd(acc[j], sum);
            }
        }
    }
    acc
}
