//! The loops around register tiles: layers over weight panels, sixteen output channels by a few pixels at a time,
//! straight from channels-last memory.
//!
//! Groups, panels, images, rows, tiles of pixels; inside a tile, kernel rows (and columns), blocks. A block is one
//! 32-bit word of each pixel (four bytes, or one f32) against 64 bytes of weights (sixteen channels of them). Pixels
//! of a 1x1 layer over dense images form one long row.

use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::Value;
use quernel_ir::program::{Conv, PANEL, WeightLayout};

/// Blocks per round of the inner loop.
const UNROLL: usize = 4;
/// Longest sum, in blocks, without any loop.
const STRAIGHT: usize = 8;
/// Bytes of one block of weights, but for layers over words.
pub const BLOCK: usize = 64;

/// Positions of a tile in the step's slots.
#[derive(Clone, Copy)]
pub struct Place {
    /// Operand of the first pixel.
    pub x: Ptr,
    /// The panel's weights.
    pub w: Ptr,
    /// The panel's biases.
    pub bias: Ptr,
    /// The panel's scales; the same as `bias` where there are none.
    pub scale: Ptr,
    /// Residual operand of the first pixel, and factors of the panel (the biases where there are none).
    pub residual: Option<(Ptr, Ptr)>,
    /// Result of the first pixel.
    pub out: Ptr,
}

/// Bytes from one position to the next; `o` in output channels.
#[derive(Clone, Copy, Default)]
pub struct Stride {
    /// Operand.
    pub x: usize,
    /// Weights.
    pub w: usize,
    /// Output channels.
    pub o: usize,
    /// Residual operand.
    pub residual: usize,
    /// Result.
    pub out: usize,
}

/// Adds a block to sums: `(e, x, w, block, sums)`.
type BlockStep<'a> = dyn Fn(&mut Emitter, Ptr, Ptr, usize, Vec<Value>) -> Vec<Value> + 'a;

/// What a layer passes to the loops.
pub struct Panels<'a> {
    /// Geometry.
    pub conv: &'a Conv,
    /// Bytes per element of operand, residual, result.
    pub widths: [usize; 3],
    /// Most pixels of a tile.
    pub most: usize,
    /// Bytes between the pixels of a tile.
    pub pixel: Stride,
    /// Bytes of one block of weights.
    pub block: usize,
    /// Bytes of the weights of a panel.
    pub panel_bytes: usize,
    rows: usize,
    columns: usize,
    blocks: usize,
    /// Bytes between kernel rows and columns of the operand.
    row: usize,
    column: usize,
}

impl<'a> Panels<'a> {
    /// The loops of a convolution whose layout is `Panels`; `None` for other layouts.
    pub fn new(conv: &'a Conv, widths: [usize; 3], most: usize) -> Option<Self> {
        let WeightLayout::Panels { contiguous, depth } = conv.layout else { return None };
        let d = conv.weight_dims();
        let (taps, _) = WeightLayout::segments(contiguous, d);
        let (view, [wy, wx]) = (conv.input, conv.window);
        let [wide_x, wide_r, wide_y] = widths;
        // Words meet weights of a byte.
        let block = if depth == 2 { BLOCK / 2 } else { BLOCK };
        Some(Self {
            conv,
            widths,
            most,
            block,
            pixel: Stride {
                x: wx.stride * view.pixel * wide_x,
                residual: conv.residual.map_or(0, |r| r.pixel * wide_r),
                out: conv.output.pixel * wide_y,
                ..Stride::default()
            },
            panel_bytes: d.kh * if contiguous { 1 } else { d.kw } * taps.div_ceil(depth) * block,
            rows: d.kh,
            columns: if contiguous { 1 } else { d.kw },
            blocks: taps.div_ceil(depth),
            row: wy.dilation * view.row * wide_x,
            column: wx.dilation * view.pixel * wide_x,
        })
    }

    /// Blocks of a whole sum.
    pub fn total(&self) -> usize {
        self.rows * self.columns * self.blocks
    }

    /// Emits all loops from the starts of the slots; `tile(e, place, pixels, lanes)` computes `pixels` by `lanes`
    /// results.
    pub fn emit(&self, e: &mut Emitter, slots: Place, tile: &dyn Fn(&mut Emitter, Place, usize, usize)) {
        let (conv, d) = (self.conv, self.conv.weight_dims());
        let [wide_x, wide_r, wide_y] = self.widths;
        let (view, out, [wy, wx]) = (conv.input, conv.output, conv.window);
        let place = Place {
            x: e.at(slots.x, (view.start * wide_x) as i64),
            residual: slots.residual.map(|(r, f)| (e.at(r, conv.residual.map_or(0, |v| v.start * wide_r) as i64), f)),
            out: e.at(slots.out, (out.start * wide_y) as i64),
            ..slots
        };
        let per_group = d.o / d.groups;
        let panel_bytes = self.panel_bytes;
        let group = Stride {
            x: d.i * wide_x,
            w: WeightLayout::panels_per_group(d) * panel_bytes,
            o: per_group,
            residual: per_group * wide_r,
            out: per_group * wide_y,
        };
        let panel = Stride { x: 0, w: panel_bytes, o: PANEL, residual: PANEL * wide_r, out: PANEL * wide_y };
        let residual = conv.residual.unwrap_or(out);
        let outer = |x: usize, r: usize, y: usize| Stride { x: x * wide_x, residual: r * wide_r, out: y * wide_y, ..Stride::default() };
        let image = outer(view.batch, residual.batch, out.batch);
        let line = outer(wy.stride * view.row, residual.row, out.row);
        let one = d.kh == 1 && d.kw == 1 && wy.stride == 1 && wx.stride == 1;
        let flat = one && view.flat() && out.flat() && conv.residual.is_none_or(|r| r.flat());
        let (images, lines, pixels) = if flat { (1, 1, out.n * out.h * out.w) } else { (out.n, out.h, out.w) };

        walk(e, d.groups, place, group, &|e, place| {
            let rows = |e: &mut Emitter, place: Place, lanes: usize| {
                walk(e, images, place, image, &|e, place| {
                    walk(e, lines, place, line, &|e, place| self.line(e, place, pixels, &|e, place, pixels| tile(e, place, pixels, lanes)));
                });
            };
            let full = per_group / PANEL;
            walk(e, full, place, panel, &|e, place| rows(e, place, PANEL));
            if per_group % PANEL > 0 {
                let place = displace(e, place, panel, full);
                rows(e, place, per_group % PANEL);
            }
        });
    }

    /// A row of pixels, in tiles of nearly equal size.
    fn line(&self, e: &mut Emitter, place: Place, pixels: usize, tile: &dyn Fn(&mut Emitter, Place, usize)) {
        let size = pixels.div_ceil(pixels.div_ceil(self.most));
        let by = Stride { x: size * self.pixel.x, residual: size * self.pixel.residual, out: size * self.pixel.out, ..Stride::default() };
        let full = pixels / size;
        walk(e, full, place, by, &|e, place| tile(e, place, size));
        if !pixels.is_multiple_of(size) {
            let place = displace(e, place, by, full);
            tile(e, place, pixels % size);
        }
    }

    /// Passes sums through all blocks in order: `step(e, x, w, block, sums)` adds block number `block` behind the
    /// pointers; its parity is that of the number within the run of contiguous taps.
    pub fn sum(&self, e: &mut Emitter, x: Ptr, w: Ptr, acc: Vec<Value>, step: &BlockStep) -> Vec<Value> {
        let run = |e: &mut Emitter, x: Ptr, w: Ptr, acc: Vec<Value>| {
            let looped = if self.blocks > STRAIGHT { self.blocks / UNROLL } else { 0 };
            let mut acc = e.fold(looped, &[(w, (UNROLL * self.block) as i64), (x, 4 * UNROLL as i64)], &acc, |e, p, acc| {
                (0..UNROLL).fold(acc.to_vec(), |acc, block| step(e, p[1], p[0], block, acc))
            });
            let (x, w) = (e.at(x, (4 * UNROLL * looped) as i64), e.at(w, (UNROLL * self.block * looped) as i64));
            for block in 0..self.blocks - UNROLL * looped {
                acc = step(e, x, w, block, acc);
            }
            acc
        };
        let segment = self.blocks * self.block;
        if self.total() <= STRAIGHT {
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

    /// Passes sums through all blocks in runs of at most `most`: `run(e, x, w, blocks, sums)` adds so many behind the pointers.
    pub fn runs(&self, e: &mut Emitter, x: Ptr, w: Ptr, acc: Vec<Value>, most: usize, run: &BlockStep) -> Vec<Value> {
        let segment = (self.blocks * self.block) as i64;
        let (full, rest) = (self.blocks / most, self.blocks % most);
        e.fold(self.rows, &[(w, self.columns as i64 * segment), (x, self.row as i64)], &acc, |e, p, acc| {
            e.fold(self.columns, &[(p[0], segment), (p[1], self.column as i64)], acc, |e, p, acc| {
                let by = [(p[0], most.min(self.blocks) as i64 * self.block as i64), (p[1], 4 * most.min(self.blocks) as i64)];
                let acc = e.fold(full, &by, acc, |e, q, acc| run(e, q[1], q[0], most, acc.to_vec()));
                if rest == 0 {
                    return acc;
                }
                let (w, x) = (e.at(p[0], full as i64 * by[0].1), e.at(p[1], full as i64 * by[1].1));
                run(e, x, w, rest, acc)
            })
        })
    }
}

/// Walks `n` positions.
pub fn walk(e: &mut Emitter, n: usize, place: Place, by: Stride, body: &dyn Fn(&mut Emitter, Place)) {
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
pub fn displace(e: &mut Emitter, p: Place, by: Stride, n: usize) -> Place {
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
