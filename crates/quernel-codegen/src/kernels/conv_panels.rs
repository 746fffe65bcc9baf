//! Integer convolution over weight panels: sixteen output channels by a few pixels in registers, straight from
//! channels-last memory.
//!
//! Loops: groups, panels, images, rows, tiles of pixels; inside a tile, kernel rows (and columns), blocks of four
//! taps. A block is one 32-bit word of each pixel, broadcast, against four vectors of weights. Pixels of a 1x1 layer
//! over dense images form one long row.

use super::conv::{BIAS, FACTOR, Layer, RESIDUAL, SCALE, W, X, finish_panel, finish_scalar, panel_lanes, scalar_end, vector_end};
use crate::{
    emit::{Emitter, Ptr},
    target::Level,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8X16, I32, I32X4},
};
use quernel_ir::program::{PANEL, WeightLayout};

/// Blocks of four taps per round of the inner loop.
const UNROLL: usize = 4;
/// Longest sum, in blocks, without any loop.
const STRAIGHT: usize = 8;
/// Bytes of one block of weights: 16 channels, four taps.
const BLOCK: usize = 64;

/// Positions of a tile in the step's slots.
#[derive(Clone, Copy)]
struct Place {
    x: Ptr,
    w: Ptr,
    bias: Ptr,
    scale: Ptr,
    /// Residual operand and factors.
    residual: Option<(Ptr, Ptr)>,
    out: Ptr,
}

/// Bytes from one position to the next.
#[derive(Clone, Copy, Default)]
struct Stride {
    x: usize,
    w: usize,
    /// Output channels.
    o: usize,
    residual: usize,
    out: usize,
}

/// What a tile's code depends on.
struct Tiles<'a> {
    layer: &'a Layer<'a>,
    flip: bool,
    /// Most pixels of a tile.
    most: usize,
    /// Kernel rows, kernel columns counted one by one, blocks in a run of contiguous taps.
    rows: usize,
    columns: usize,
    blocks: usize,
    /// Bytes between kernel rows and columns of the operand.
    row: usize,
    column: usize,
    /// Bytes between pixels of operand, residual, result.
    pixel: Stride,
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer, flip: bool) {
    let conv = layer.conv;
    let WeightLayout::Panels { contiguous, .. } = conv.layout else { return super::conv_plain::emit(e, layer) };
    let (d, width) = (conv.weight_dims(), layer.out_bytes() as usize);
    let (taps, segments) = WeightLayout::segments(contiguous, d);
    let (view, out, [wy, wx]) = (conv.input, conv.output, conv.window);
    let t = Tiles {
        layer,
        flip,
        most: match (e.level(), e.machine().x86) {
            (Level::Scalar, _) => 1,
            (Level::V128, true) => 2,
            (Level::V128Dot | Level::V512Dot, true) => 3,
            (Level::V128, false) => 4,
            (Level::V128Dot | Level::V512Dot, false) => 6,
        },
        rows: d.kh,
        columns: if contiguous { 1 } else { d.kw },
        blocks: taps.div_ceil(4),
        row: wy.dilation * view.row,
        column: wx.dilation * view.pixel,
        pixel: Stride { x: wx.stride * view.pixel, residual: conv.residual.map_or(0, |r| r.pixel), out: out.pixel * width, ..Stride::default() },
    };
    let (x, w, bias, scale, y) = (e.read(X), e.read(W), e.read(BIAS), e.read(SCALE), e.write(0));
    let residual = conv.residual.map(|r| (e.at(e.read(RESIDUAL), r.start as i64), e.read(FACTOR)));
    let place = Place { x: e.at(x, view.start as i64), w, bias, scale, residual, out: e.at(y, (out.start * width) as i64) };

    let per_group = d.o / d.groups;
    let panel_bytes = segments * t.blocks * BLOCK;
    let panels = WeightLayout::panels_per_group(d);
    let group = Stride { x: d.i, w: panels * panel_bytes, o: per_group, residual: per_group, out: per_group * width };
    let panel = Stride { x: 0, w: panel_bytes, o: PANEL, residual: PANEL, out: PANEL * width };
    let image = Stride { x: view.batch, residual: conv.residual.map_or(0, |r| r.batch), out: out.batch * width, ..Stride::default() };
    let line = Stride {
        x: wy.stride * view.row,
        residual: conv.residual.map_or(0, |r| r.row),
        out: out.row * width,
        ..Stride::default()
    };
    // A 1x1 layer over dense images is one row of pixels.
    let one = d.kh == 1 && d.kw == 1 && wy.stride == 1 && wx.stride == 1;
    let flat = one && view.flat() && out.flat() && conv.residual.is_none_or(|r| r.flat());
    let (images, lines, pixels) = if flat { (1, 1, out.n * out.h * out.w) } else { (out.n, out.h, out.w) };

    walk(e, d.groups, place, group, &|e, place| {
        let rows = |e: &mut Emitter, place: Place, lanes: usize| {
            walk(e, images, place, image, &|e, place| walk(e, lines, place, line, &|e, place| t.line(e, place, pixels, lanes)));
        };
        let full = per_group / PANEL;
        walk(e, full, place, panel, &|e, place| rows(e, place, PANEL));
        if per_group % PANEL > 0 {
            let place = displace(e, place, panel, full);
            rows(e, place, panel_lanes(per_group, full));
        }
    });
}

/// Walks `n` positions.
fn walk(e: &mut Emitter, n: usize, place: Place, by: Stride, body: &dyn Fn(&mut Emitter, Place)) {
    let mut ptrs = vec![
        (place.x, by.x as i64),
        (place.out, by.out as i64),
        (place.w, by.w as i64),
        (place.bias, 4 * by.o as i64),
        (place.scale, 4 * by.o as i64),
    ];
    if let Some((r, f)) = place.residual {
        ptrs.extend([(r, by.residual as i64), (f, 2 * by.o as i64)]);
    }
    e.walk(n, &ptrs, |e, p| {
        let residual = place.residual.map(|_| (p[5], p[6]));
        body(e, Place { x: p[0], out: p[1], w: p[2], bias: p[3], scale: p[4], residual });
    });
}

/// The position `n` strides further.
fn displace(e: &mut Emitter, p: Place, by: Stride, n: usize) -> Place {
    let n = n as i64;
    Place {
        x: e.at(p.x, n * by.x as i64),
        w: e.at(p.w, n * by.w as i64),
        bias: e.at(p.bias, 4 * n * by.o as i64),
        scale: e.at(p.scale, 4 * n * by.o as i64),
        residual: p.residual.map(|(r, f)| (e.at(r, n * by.residual as i64), e.at(f, 2 * n * by.o as i64))),
        out: e.at(p.out, n * by.out as i64),
    }
}

impl Tiles<'_> {
    /// A row of pixels, in tiles of nearly equal size.
    fn line(&self, e: &mut Emitter, place: Place, pixels: usize, lanes: usize) {
        let size = pixels.div_ceil(pixels.div_ceil(self.most));
        let by = Stride { x: size * self.pixel.x, residual: size * self.pixel.residual, out: size * self.pixel.out, ..Stride::default() };
        let full = pixels / size;
        walk(e, full, place, by, &|e, place| self.tile(e, place, size, lanes));
        if pixels % size > 0 {
            let place = displace(e, place, by, full);
            self.tile(e, place, pixels % size, lanes);
        }
    }

    fn tile(&self, e: &mut Emitter, place: Place, pixels: usize, lanes: usize) {
        if e.vectors() { self.vector_tile(e, place, pixels, lanes) } else { self.scalar_tile(e, place, lanes) }
    }

    /// `pixels` by sixteen sums in vectors.
    fn vector_tile(&self, e: &mut Emitter, place: Place, pixels: usize, lanes: usize) {
        let total = self.rows * self.columns * self.blocks;
        // One pixel alone would wait for its own sums: alternate between two sets of them.
        let sets = if pixels == 1 && total > 1 { 2 } else { 1 };
        let bias: Vec<Value> = (0..4).map(|j| e.load(I32X4, place.bias, 16 * j)).collect();
        let mut acc: Vec<Value> = (0..pixels).flat_map(|_| bias.iter().copied()).collect();
        if sets == 2 {
            let zero = e.splat_i32(0);
            acc.extend([zero; 4]);
        }
        let acc = self.sum(e, place.x, place.w, acc, &|e, x, w, block, acc| {
            let words: Vec<Value> = (0..pixels)
                .map(|p| {
                    let word = e.load(I32, x, (p * self.pixel.x + 4 * block) as i64);
                    e.splat_word(word)
                })
                .collect();
            let passed: Vec<Value> = acc.into_iter().chain(words).collect();
            let mut passed = e.cut(&passed);
            let words = passed.split_off(4 * pixels * sets);
            let first = if sets == 2 { 4 * (block % 2) } else { 0 };
            self.block(e, &words, w, block, &mut passed, first);
            passed
        });
        for p in 0..pixels {
            let sums: [Value; 4] =
                std::array::from_fn(|j| if sets == 2 { e.b.ins().iadd(acc[j], acc[4 + j]) } else { acc[4 * p + j] });
            let residual = place.residual.map(|(r, f)| {
                let r = e.at(r, (p * self.pixel.residual) as i64);
                (r, self.layer.residual_signed, f)
            });
            let to = e.at(place.out, (p * self.pixel.out) as i64);
            // Constants of the end are loaded here, not kept: the tile needs every register.
            let ends = vector_end(e, self.layer.end);
            finish_panel(e, sums, place.scale, residual, &ends, to, lanes);
        }
    }

    /// Four taps of each pixel (broadcast words) against four weight vectors.
    fn block(&self, e: &mut Emitter, words: &[Value], w: Ptr, block: usize, acc: &mut [Value], first: usize) {
        let mut words = words.to_vec();
        let mut signed = self.layer.signed;
        if self.flip {
            signed = !signed;
            for word in &mut words {
                let top = e.splat_i8(0x80);
                *word = e.b.ins().bxor(*word, top);
            }
        }
        if e.dots() {
            for j in 0..4 {
                let weights = e.load_constant(I8X16, w, (BLOCK * block + 16 * j) as i64);
                for (p, &word) in words.iter().enumerate() {
                    let a = &mut acc[first + 4 * p + j];
                    *a = e.dot(*a, word, signed, weights);
                }
            }
            return;
        }
        let split: Vec<[Value; 2]> = words.iter().map(|&word| e.split_bytes(word, signed)).collect();
        for j in 0..4 {
            let weights = e.load_constant(I8X16, w, (BLOCK * block + 16 * j) as i64);
            let weights = e.split_bytes(weights, true);
            for (p, word) in split.iter().enumerate() {
                for half in 0..2 {
                    let pairs = e.multiply_pairs(word[half], weights[half]);
                    let a = &mut acc[first + 4 * p + j];
                    *a = e.b.ins().iadd(*a, pairs);
                }
            }
        }
    }

    /// Passes sums through all blocks: `step(e, x, w, block, sums)` adds block number `block` behind the pointers.
    fn sum(&self, e: &mut Emitter, x: Ptr, w: Ptr, acc: Vec<Value>, step: &dyn Fn(&mut Emitter, Ptr, Ptr, usize, Vec<Value>) -> Vec<Value>) -> Vec<Value> {
        let run = |e: &mut Emitter, x: Ptr, w: Ptr, acc: Vec<Value>| {
            let looped = if self.blocks > STRAIGHT { self.blocks / UNROLL } else { 0 };
            let mut acc = e.fold(looped, &[(w, (UNROLL * BLOCK) as i64), (x, 4 * UNROLL as i64)], &acc, |e, p, acc| {
                (0..UNROLL).fold(acc.to_vec(), |acc, block| step(e, p[1], p[0], block, acc))
            });
            let (x, w) = (e.at(x, (4 * UNROLL * looped) as i64), e.at(w, (UNROLL * BLOCK * looped) as i64));
            for block in 0..self.blocks - UNROLL * looped {
                acc = step(e, x, w, block, acc);
            }
            acc
        };
        let segment = self.blocks * BLOCK;
        if self.rows * self.columns * self.blocks <= STRAIGHT {
            let mut acc = acc;
            for row in 0..self.rows {
                for column in 0..self.columns {
                    let x = e.at(x, (row * self.row + column * self.column) as i64);
                    let w = e.at(w, ((row * self.columns + column) * segment) as i64);
                    acc = run(e, x, w, acc);
                }
            }
            return acc;
        }
        e.fold(self.rows, &[(w, (self.columns * segment) as i64), (x, self.row as i64)], &acc, |e, p, acc| {
            e.fold(self.columns, &[(p[0], segment as i64), (p[1], self.column as i64)], acc, |e, p, acc| run(e, p[1], p[0], acc.to_vec()))
        })
    }

    /// One pixel, four channels at a time, without vectors.
    fn scalar_tile(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let quad = Stride { w: 16, o: 4, residual: 4, out: 4 * self.layer.out_bytes() as usize, ..Stride::default() };
        let full = lanes / 4;
        walk(e, full, place, quad, &|e, place| self.quad(e, place, 4));
        if lanes % 4 > 0 {
            let place = displace(e, place, quad, full);
            self.quad(e, place, lanes % 4);
        }
    }

    fn quad(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let acc: Vec<Value> = (0..lanes).map(|l| e.load_i32(place.bias, 4 * l as i64)).collect();
        let acc = self.sum(e, place.x, place.w, acc, &|e, x, w, block, mut acc| {
            for tap in 0..4 {
                let v = e.load_byte(x, (4 * block + tap) as i64, self.layer.signed);
                for (lane, a) in acc.iter_mut().enumerate() {
                    let k = e.load_byte(w, (BLOCK * block + 4 * lane + tap) as i64, true);
                    let product = e.b.ins().imul(v, k);
                    *a = e.b.ins().iadd(*a, product);
                }
            }
            acc
        });
        let ends = scalar_end(e, self.layer.end);
        for (lane, &a) in acc.iter().enumerate() {
            let scale = e.load_f32(place.scale, 4 * lane as i64);
            let residual = place.residual.map(|(r, f)| {
                let factor = e.load_i16(f, 2 * lane as i64);
                let r = e.at(r, lane as i64);
                (r, self.layer.residual_signed, factor)
            });
            let to = e.at(place.out, lane as i64 * self.layer.out_bytes());
            finish_scalar(e, a, scale, residual, &ends, to);
        }
    }
}
