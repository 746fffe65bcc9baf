//! Convolutions and matrix products for AArch64 CPUs with matrices of bytes: an instruction adds the products of eight taps
//! for two pixels and two output channels.
//!
//! The loops are those of [`super::nest`]: panels, images, rows, tiles of pixels; inside a tile, kernel rows and steps of
//! eight taps. Weights are packed anew so that sixteen bytes are eight taps of two channels.
//!
//! Registers: x0, x4, x6 operand, residual and result of the tile; x1, x2, x3, x5 weights, biases, scales and factors of
//! the panel; x7 walks over the weights, x9 to x14 over the operands of up to six pixels; x15 to x17 and x19 to x21 count;
//! x22 to x24 and x25 to x27 are the row and the image of operand, result and residual. v0 to v23 hold sums.

use super::{
    Leaf,
    a64::{Asm, SP, V, Vv, Vvv, X},
    cost::split,
    nest::{self, Nest},
};
use quernel_ir::{
    Program, codes,
    program::{End, PANEL, Step, What},
};

/// Most pixels of a tile: three pairs by eight pairs of channels fill 24 registers.
const MOST_PIXELS: usize = 6;
/// Taps of one instruction, and bytes of a panel's weights for so many.
const TAPS: usize = 8;
const STEP: usize = TAPS * PANEL;
/// Stack bytes of a call: ten general registers and the lower halves of eight vectors.
const FRAME: usize = 144;

const X_TILE: X = 0;
const WEIGHTS: X = 1;
const BIAS: X = 2;
const SCALE: X = 3;
const R_TILE: X = 4;
const FACTORS: X = 5;
const Y_TILE: X = 6;
const WALK: X = 7;
const TEMPORARY: X = 8;
const PIXEL: X = 9;
const STEPS: X = 15;
const SEGMENTS: X = 16;
const TILES: X = 17;
const ROWS: X = 19;
const IMAGES: X = 20;
const PANELS: X = 21;
/// Operand, residual and result: the tile, the row and the image.
const PLACES: [[X; 3]; 3] = [[X_TILE, 22, 25], [R_TILE, 24, 27], [Y_TILE, 23, 26]];

/// Registers behind the sums.
const FREE: V = 24;

/// A layer whose code is emitted.
struct Layer {
    nest: Nest,
    end: End,
    signed: bool,
    /// Whether a residual is added, and is signed.
    residual: Option<bool>,
}

/// The leaf of a convolution and its weights in their new order, if it is inside the contract: one group, no implicit
/// padding, more than one pixel in a row, taps of a kernel row contiguous (or one tap per row), panels of depth four.
pub fn leaf(program: &Program, step: &Step) -> Option<(Leaf, Vec<u8>)> {
    let What::Conv { conv, signed, residual_signed, end, .. } = &step.what else { return None };
    let width = if matches!(end, End::Float { .. }) { 4 } else { 1 };
    let nest = nest::geometry(conv, 4, [1, 1, width])?;
    if nest.pixels < 2 {
        return None;
    }
    let weights = pack(&nest, &codes::weights(program, step)?)?;
    let layer = Layer { nest, end: *end, signed: *signed, residual: conv.residual.map(|_| *residual_signed) };
    let (pixels, ..) = split(nest.pixels, MOST_PIXELS);
    let kernel = format!("conv_{}8s8_{pixels}x{PANEL}__i8mm", if *signed { 's' } else { 'u' });
    Some((Leaf { code: layer.emit(), kernel, frame: FRAME, cycles: None }, weights))
}

/// `[panel][segment][taps / 8][16 channels][8 taps]`, from four taps.
fn pack(n: &Nest, weights: &[u8]) -> Option<Vec<u8>> {
    let steps = n.blocks.div_ceil(2);
    let mut out = vec![0; n.panels * n.segments * steps * STEP];
    for (run, to) in out.chunks_exact_mut(steps * STEP).enumerate() {
        let from = weights.get(run * n.blocks * 4 * PANEL..(run + 1) * n.blocks * 4 * PANEL)?;
        for (block, from) in from.chunks_exact(4 * PANEL).enumerate() {
            for (channel, from) in from.chunks_exact(4).enumerate() {
                let at = block / 2 * STEP + channel * TAPS + block % 2 * 4;
                to[at..at + 4].copy_from_slice(from);
            }
        }
    }
    Some(out)
}

impl Layer {
    fn emit(&self) -> Vec<u8> {
        let (mut a, n) = (Asm::default(), &self.nest);
        let saved = |a: &mut Asm, load: bool| {
            (0..5).for_each(|i| a.pair_at_sp(load, 19 + 2 * i, 20 + 2 * i, 16 * i));
            (0..4).for_each(|i| a.halves_at_sp(load, 8 + 2 * i, 9 + 2 * i, 80 + 16 * i));
        };
        a.add(SP, SP, -(FRAME as i64), TEMPORARY);
        saved(&mut a, false);
        // Without a residual the result is the fifth argument.
        let result = if self.residual.is_some() { Y_TILE } else { R_TILE };
        for (place, from) in self.places().into_iter().zip([X_TILE, result, R_TILE]) {
            a.add(PLACES[place][2], from, n.start[place] as i64, TEMPORARY);
        }
        let (full, rest) = if n.lanes == PANEL { (n.panels, 0) } else { (n.panels - 1, n.lanes) };
        if full > 0 {
            a.constant(PANELS, full as u64);
            let top = a.label();
            self.panel(&mut a, PANEL);
            self.next_panel(&mut a);
            a.again(PANELS, top);
        }
        if rest > 0 {
            self.panel(&mut a, rest);
        }
        saved(&mut a, true);
        a.add(SP, SP, FRAME as i64, TEMPORARY);
        a.ret();
        a.finish()
    }

    /// Operand, result and, where there is one, residual: indices of [`PLACES`].
    fn places(&self) -> Vec<usize> {
        if self.residual.is_some() { vec![nest::X, nest::Y, nest::R] } else { vec![nest::X, nest::Y] }
    }

    fn next_panel(&self, a: &mut Asm) {
        let n = &self.nest;
        let mut by = vec![
            (WEIGHTS, n.segments * n.blocks.div_ceil(2) * STEP),
            (BIAS, 4 * PANEL),
            (SCALE, 4 * PANEL),
            (PLACES[nest::Y][2], PANEL * self.width()),
        ];
        if self.residual.is_some() {
            by.extend([(FACTORS, 2 * PANEL), (PLACES[nest::R][2], PANEL)]);
        }
        by.into_iter().for_each(|(x, bytes)| a.add(x, x, bytes as i64, TEMPORARY));
    }

    /// Bytes of an output element.
    fn width(&self) -> usize {
        if matches!(self.end, End::Float { .. }) { 4 } else { 1 }
    }

    /// All pixels of a panel of which `lanes` channels exist.
    fn panel(&self, a: &mut Asm, lanes: usize) {
        let n = &self.nest;
        let step = |a: &mut Asm, level: usize, by: [i64; 3]| {
            self.places().into_iter().for_each(|p| a.add(PLACES[p][level], PLACES[p][level], by[p], TEMPORARY));
        };
        let enter = |a: &mut Asm, level: usize| self.places().into_iter().for_each(|p| a.mov(PLACES[p][level], PLACES[p][level + 1]));
        let times = |by: [usize; 3], n: i64| by.map(|b| b as i64 * n);
        looped(a, n.images, IMAGES, |a| {
            enter(a, 1);
            looped(a, n.rows, ROWS, |a| {
                enter(a, 0);
                let (len, count, tail) = split(n.pixels, MOST_PIXELS);
                for (pixels, count) in [(len, count), (tail, 1)].into_iter().filter(|r| r.0 > 0) {
                    looped(a, count, TILES, |a| {
                        self.tile(a, pixels, lanes);
                        step(a, 0, times(n.pixel, pixels as i64));
                    });
                }
                step(a, 1, times(n.row, 1));
            });
            step(a, 2, times(n.image, 1));
        });
        step(a, 2, times(n.image, -(n.images as i64)));
    }

    /// `pixels` by `lanes` results.
    fn tile(&self, a: &mut Asm, pixels: usize, lanes: usize) {
        let n = &self.nest;
        let t = Tile { pixels, quads: lanes.div_ceil(4) };
        for p in 0..pixels {
            a.add(PIXEL + p as X, X_TILE, (p * n.pixel[nest::X]) as i64, TEMPORARY);
        }
        a.mov(WALK, BIAS);
        for j in 0..t.channels() {
            a.load_twice_next(t.sum(0, j), WALK);
        }
        for pair in 1..t.pairs() {
            (0..t.channels()).for_each(|j| a.copy(t.sum(pair, j), t.sum(0, j)));
        }
        a.mov(WALK, WEIGHTS);
        let (steps, left) = (n.blocks.div_ceil(2) / 2, n.blocks.div_ceil(2) % 2);
        looped(a, n.segments, SEGMENTS, |a| {
            if steps > 0 {
                looped(a, steps, STEPS, |a| self.taps(a, t, 2));
            }
            if left > 0 {
                self.taps(a, t, 1);
            }
            if n.segments > 1 {
                let walked = (2 * steps + left) * TAPS;
                (0..pixels as X).for_each(|p| a.add(PIXEL + p, PIXEL + p, n.segment as i64 - walked as i64, TEMPORARY));
            }
        });
        for pair in 0..t.pairs() {
            for quad in 0..t.quads {
                // From two channels of two pixels to four channels of one.
                let (low, high) = (t.sum(pair, 2 * quad), t.sum(pair, 2 * quad + 1));
                a.vvv(Vvv::Zip1D, FREE, low, high);
                a.vvv(Vvv::Zip2D, high, low, high);
                a.copy(low, FREE);
            }
        }
        for p in 0..pixels {
            let sums: Vec<V> = (0..t.quads).map(|quad| t.sum(p / 2, 2 * quad + p % 2)).collect();
            if self.residual.is_some() {
                a.add(PIXEL, R_TILE, (p * n.pixel[nest::R]) as i64, TEMPORARY);
            }
            a.add(PIXEL + 1, Y_TILE, (p * n.pixel[nest::Y]) as i64, TEMPORARY);
            self.finish(a, &sums, lanes);
        }
    }

    /// `steps` (one or two) times eight taps of every pixel and channel.
    fn taps(&self, a: &mut Asm, t: Tile, steps: usize) {
        let operand = |pair: usize, step: usize| FREE + (2 * pair + step) as V;
        let multiply = if self.signed { Vvv::Smmla } else { Vvv::Usmmla };
        for pair in 0..t.pairs() {
            // A pixel without a partner is its own.
            let pixels = [2 * pair, (2 * pair + 1).min(t.pixels - 1)];
            let read = if pixels[0] == pixels[1] { [31, 31] } else { [31, 30] };
            for i in 0..if read[0] == read[1] { 1 } else { 2 } {
                let from = PIXEL + pixels[i] as X;
                if steps == 2 { a.load_next(read[i], from, 16) } else { a.load_half_next(read[i], from, 8) }
            }
            a.vvv(Vvv::Zip1D, operand(pair, 0), read[0], read[1]);
            if steps == 2 {
                a.vvv(Vvv::Zip2D, operand(pair, 1), read[0], read[1]);
            }
        }
        let mut weights = (operand(t.pairs(), 0)..31).step_by(2).cycle();
        for step in 0..steps {
            for j in (0..t.channels()).step_by(2) {
                let w = weights.next().unwrap_or(30);
                a.load_pair_next(w, w + 1, WALK);
                for pair in 0..t.pairs() {
                    a.vvv(multiply, t.sum(pair, j), operand(pair, step), w);
                    a.vvv(multiply, t.sum(pair, j + 1), operand(pair, step), w + 1);
                }
            }
            a.add(WALK, WALK, (STEP - 16 * t.channels()) as i64, TEMPORARY);
        }
    }

    /// Ends the sums of a pixel, four channels to a register; x9 and x10 point to its residual and result.
    fn finish(&self, a: &mut Asm, sums: &[V], lanes: usize) {
        if let Some(signed) = self.residual {
            let (low, high) = if signed { (Vv::Sxtl, Vv::Sxtl2) } else { (Vv::Uxtl, Vv::Uxtl2) };
            a.load(FREE, PIXEL, 0);
            a.vv(low, FREE + 1, FREE);
            a.vv(high, FREE + 2, FREE);
            for (quad, &sum) in sums.iter().enumerate() {
                if quad % 2 == 0 {
                    a.load(FREE + 3, FACTORS, 8 * quad as u32);
                }
                let multiply = if quad % 2 == 0 { Vvv::Smlal } else { Vvv::Smlal2 };
                a.vvv(multiply, sum, FREE + 1 + quad as V / 2, FREE + 3);
            }
        }
        for (quad, &sum) in sums.iter().enumerate() {
            a.load(FREE, SCALE, 16 * quad as u32);
            a.vv(Vv::Scvtf, sum, sum);
            a.vvv(Vvv::Fmul, sum, sum, FREE);
        }
        match self.end {
            End::Requantize { .. } => self.bytes(a, sums, lanes),
            End::Float { lo, hi } => {
                for (quad, &sum) in sums.iter().enumerate() {
                    // The order of operands is that of `exact::clip`: a bound stands in where the comparison fails.
                    for (bound, below) in [(lo, true), (hi, false)].into_iter().filter(|(b, _)| b.is_finite()) {
                        a.constant(TEMPORARY, bound.to_bits().into());
                        a.spread_32(FREE, TEMPORARY);
                        let (n, m) = if below { (sum, FREE) } else { (FREE, sum) };
                        a.vvv(Vvv::Fcmgt, FREE + 1, n, m);
                        a.vvv(Vvv::Bsl, FREE + 1, sum, FREE);
                        a.copy(sum, FREE + 1);
                    }
                    a.store_first(sum, PIXEL + 1, 4 * (lanes - 4 * quad).min(4));
                }
            }
        }
    }

    /// Rounds scaled sums to bytes and stores them. Conversions saturate, so the bounds of the result come last.
    fn bytes(&self, a: &mut Asm, sums: &[V], lanes: usize) {
        let End::Requantize { zero, lo, hi, signed } = self.end else { return };
        let (packed, bound) = (FREE, FREE + 2);
        for (quad, &sum) in sums.iter().enumerate() {
            a.vv(Vv::Fcvtns, sum, sum);
            a.vv(if quad % 2 == 0 { Vv::SqxtnH } else { Vv::Sqxtn2H }, packed + quad as V / 2, sum);
        }
        let halves = sums.len().div_ceil(2) as V;
        if zero != 0 {
            a.constant(TEMPORARY, u64::from(zero as u16));
            a.spread_16(bound, TEMPORARY);
            (0..halves).for_each(|h| a.vvv(Vvv::SqaddH, packed + h, packed + h, bound));
        }
        let narrow = if signed { [Vv::SqxtnB, Vv::Sqxtn2B] } else { [Vv::SqxtunB, Vv::Sqxtun2B] };
        (0..halves).for_each(|h| a.vv(narrow[h as usize], packed, packed + h));
        let (least, most) = if signed { (-128, 127) } else { (0, 255) };
        let [larger, smaller] = if signed { [Vvv::SmaxB, Vvv::SminB] } else { [Vvv::UmaxB, Vvv::UminB] };
        for (value, f, _) in [(lo, larger, lo > least), (hi, smaller, hi < most)].into_iter().filter(|b| b.2) {
            a.bytes(bound, value as u8);
            a.vvv(f, packed, packed, bound);
        }
        a.store_first(packed, PIXEL + 1, lanes);
    }
}

/// Pixels by groups of four channels, in pairs of both.
#[derive(Clone, Copy)]
struct Tile {
    pixels: usize,
    quads: usize,
}

impl Tile {
    fn pairs(self) -> usize {
        self.pixels.div_ceil(2)
    }
    /// Pairs of channels.
    fn channels(self) -> usize {
        2 * self.quads
    }
    fn sum(self, pair: usize, channels: usize) -> V {
        (self.channels() * pair + channels) as V
    }
}

/// `body` that often; `counter` counts, unless it is once.
fn looped(a: &mut Asm, times: usize, counter: X, body: impl FnOnce(&mut Asm)) {
    if times > 1 {
        a.constant(counter, times as u64);
    }
    let top = a.label();
    body(a);
    if times > 1 {
        a.again(counter, top);
    }
}
