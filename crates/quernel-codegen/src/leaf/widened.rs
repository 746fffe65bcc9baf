//! AVX2 layers whose operands are widened once per strip of pixels, in place of once per panel of channels.
//!
//! A strip is a few tiles of one row of output. Its operand bytes go to the stack as two planes of 16-bit words, the even
//! taps in one and the odd taps in the other, at the places that they have in memory; all panels then read those. What is
//! left beside the products is widening the weights, which the pixels of a tile share.

use super::{
    asm::{Asm, Emitted, xmm, ymm},
    cost::Tile,
    mixed::{Kinds, Walk},
    narrow::{Dot, Narrow, PARTS, Place},
    nest::{Body, FRAME, Nest, R, X, Y, called, enter, leave, rows, run, sum},
};
use iced_x86::code_asm::*;
use quernel_ir::program::PANEL;

/// Most pixels of a tile: beside the accumulators there are two weights, an operand and a product.
const MOST: usize = 6;
/// Fewest pixels that may share the widened weights of a layer whose rows have more.
const FEWEST: usize = 3;
/// Bytes of words that a strip of several tiles may take, half of a first cache, and most that any may take.
const STRIP: usize = 1 << 14;
const LIMIT: usize = 1 << 15;
/// Weights so large are far from the core: longer strips pass over them less often.
const FAR: usize = 1 << 18;
/// Bytes of a vector.
const VECTOR: usize = 32;

/// Slots of the frame behind those of the loops: the arguments that panels walk over, the words, counters, and what a row
/// keeps.
const WEIGHTS: i32 = FRAME;
const BIAS: i32 = FRAME + 8;
const SCALE: i32 = FRAME + 16;
const FACTORS: i32 = FRAME + 24;
const WORDS: i32 = FRAME + 32;
const STRIPS: i32 = FRAME + 40;
const PANELS: i32 = FRAME + 48;
const STRIP_OF: [i32; 3] = [FRAME + 56, FRAME + 64, FRAME + 72];
const ROW_OF: [i32; 3] = [FRAME + 80, FRAME + 88, FRAME + 96];
/// What layers of two kinds of blocks have: the panel's table, from words to bytes of the operand, counters.
const TABLE: i32 = FRAME + 104;
const BYTES: i32 = FRAME + 112;
const COUNTERS: [i32; 2] = [FRAME + 120, FRAME + 128];
const SLOTS: i32 = FRAME + 136;

/// What a panel of eight channels saves of one of sixteen.
const HALF: f64 = 0.4;

/// Tiles of equal pixels: how many pixels, how many tiles.
type Run = (usize, usize);

/// A layer's arithmetic, and how its rows are cut.
#[derive(Clone, Debug)]
pub struct Widened {
    narrow: Narrow,
    /// Strips of a row: how often, and the tiles of one.
    strips: Vec<(usize, Vec<Run>)>,
    /// Bytes of a plane of words.
    plane: usize,
    /// Blocks that multiply bytes, if any do.
    kinds: Option<Kinds>,
}

/// Cuts `n` pixels into tiles of at most `most`, as equal as possible.
fn tiles(n: usize, most: usize) -> Vec<Run> {
    let count = n.div_ceil(most).max(1);
    let (len, longer) = (n / count, n % count);
    [(len + 1, longer), (len, count - longer)].into_iter().filter(|(pixels, count)| pixels * count > 0).collect()
}

fn pixels(runs: &[Run]) -> usize {
    runs.iter().map(|(pixels, count)| pixels * count).sum()
}

/// Bytes of a kernel row under so many pixels: at least a block.
fn operand_bytes(n: &Nest, pixels: usize) -> usize {
    (pixels - 1) * n.pixel[X] + 4 * n.blocks
}

/// Kernel rows of words; those that are the same memory are there once.
fn kept(n: &Nest) -> usize {
    if n.segment() == 0 { 1 } else { n.segments() }
}

impl Widened {
    /// The strips of a layer; `None` where they would take too much stack, pixels are not whole words apart, too few share a
    /// tile, or there is one only.
    pub fn new(narrow: Narrow, n: &Nest, kinds: Option<Kinds>) -> Option<Self> {
        if n.one_pixel() || !n.pixel[X].is_multiple_of(2) {
            return None;
        }
        let plane = |pixels: usize| operand_bytes(n, pixels).next_multiple_of(VECTOR);
        let bytes = |pixels: usize| 2 * kept(n) * plane(pixels);
        let row = n.row_pixels();
        let most = (FEWEST.min(row)..=MOST).rev().find(|&most| bytes(most) <= LIMIT)?;
        let strips = if row <= 2 * most && bytes(row) <= LIMIT || bytes(row) <= STRIP {
            vec![(1, tiles(row, most))]
        } else {
            let room = if n.panels() * n.panel_bytes() > FAR { LIMIT } else { STRIP };
            let fit = (2..=row / most).take_while(|t| bytes(t * most) <= room).last().unwrap_or(1);
            let count = row.div_ceil(fit * most);
            let per_strip = row.div_ceil(count * most);
            let (full, rest) = (row / (per_strip * most), row % (per_strip * most));
            let strips = [(full, vec![(most, per_strip)]), (usize::from(rest > 0), tiles(rest, most))];
            strips.into_iter().filter(|(times, _)| *times > 0).collect()
        };
        let longest = strips.iter().map(|(_, runs)| pixels(runs)).max()?;
        Some(Self { narrow, strips, plane: plane(longest), kinds })
    }

    /// Pixels of the first tile.
    pub fn pixels(&self) -> usize {
        self.strips[0].1[0].0
    }

    /// Bytes of the frame: slots, and words at a multiple of a line.
    fn size(&self, n: &Nest) -> i32 {
        SLOTS + 64 + (2 * kept(n) * self.plane) as i32
    }

    /// Stack bytes of a call.
    pub fn frame(&self, n: &Nest) -> usize {
        called(self.size(n))
    }

    /// Whether the last panel is half empty.
    fn half(&self, n: &Nest) -> bool {
        n.lanes <= PANEL / PARTS
    }

    /// Bytes between kernel rows of words.
    fn words(&self, n: &Nest) -> usize {
        if kept(n) > 1 { 2 * self.plane } else { 0 }
    }

    /// Cycles of the layer.
    pub fn cycles(&self, n: &Nest) -> u64 {
        let blocks = n.segments() * n.blocks;
        let strip = |runs: &[Run]| {
            let vectors = kept(n) * operand_bytes(n, pixels(runs)).div_ceil(VECTOR);
            let tile = |&(pixels, count): &Run| {
                let words = 2.55 * pixels as f64 + 1.2;
                let block = self.kinds.as_ref().map_or(words, |kinds| {
                    let sums = Dot::Sums.of_block(pixels) * pixels as f64;
                    kinds.share() * sums + (1.0 - kinds.share()) * words + kinds.passes(n) / blocks as f64
                });
                let end = if self.narrow.residual() { 6.0 } else { 3.5 } * pixels as f64 + 8.0;
                count as f64 * (blocks as f64 * block + end)
            };
            let panels = n.panels() as f64 - if self.half(n) { HALF } else { 0.0 };
            2.2 * vectors as f64 + 20.0 + panels * (runs.iter().map(tile).sum::<f64>() + 5.0)
        };
        let row: f64 = self.strips.iter().map(|(times, runs)| *times as f64 * strip(runs)).sum();
        (n.all_rows() as f64 * row).round() as u64
    }

    /// The operand bytes of a strip at rdi as words. Nothing is read behind them: the last vector overlaps the one before.
    fn widen(&self, f: &mut Asm, n: &Nest, pixels: usize) -> Emitted<()> {
        let bytes = operand_bytes(n, pixels);
        let (whole, left) = (bytes / VECTOR, bytes % VECTOR);
        let even = f.splat16(0xff);
        f.a.vmovdqu(ymm(2), ymmword_ptr(even))?;
        f.a.mov(r13, rdi)?;
        f.a.mov(r14, qword_ptr(rsp + WORDS))?;
        let (mut segments, mut top) = (f.a.create_label(), f.a.create_label());
        if kept(n) > 1 {
            f.a.mov(rbp, kept(n) as u64)?;
            f.a.set_label(&mut segments)?;
        }
        if whole > 1 {
            f.a.mov(r12, whole as u64)?;
            f.a.set_label(&mut top)?;
        }
        if whole > 0 {
            self.vector(f, VECTOR, 0)?;
            f.a.add(r13, VECTOR as i32)?;
            f.a.add(r14, VECTOR as i32)?;
        }
        if whole > 1 {
            f.a.dec(r12)?;
            f.a.jnz(top)?;
        }
        if left > 0 && whole > 0 {
            self.vector(f, VECTOR, left as i32 - VECTOR as i32)?;
        } else if left > 0 {
            let size = 1 << left.ilog2();
            self.vector(f, size, 0)?;
            if left > size {
                self.vector(f, size, (left - size) as i32)?;
            }
        }
        if kept(n) > 1 {
            let walked = (whole * VECTOR) as i32;
            f.a.add(r13, n.segment() as i32 - walked)?;
            f.a.add(r14, 2 * self.plane as i32 - walked)?;
            f.a.dec(rbp)?;
            f.a.jnz(segments)?;
        }
        Ok(())
    }

    /// So many operand bytes at `r13 + at` as words.
    fn vector(&self, f: &mut Asm, size: usize, at: i32) -> Emitted<()> {
        match size {
            VECTOR => f.a.vmovdqu(ymm(0), ymmword_ptr(r13 + at))?,
            16 => f.a.vmovdqu(xmm(0), xmmword_ptr(r13 + at))?,
            8 => f.a.vmovq(xmm(0), qword_ptr(r13 + at))?,
            _ => f.a.vmovd(xmm(0), dword_ptr(r13 + at))?,
        }
        f.a.vpand(ymm(1), ymm(0), ymm(2))?;
        f.a.vpsrlw(ymm(0), ymm(0), 8)?;
        for (v, to) in [(1, at), (0, at + self.plane as i32)] {
            match size {
                VECTOR => f.a.vmovdqu(ymmword_ptr(r14 + to), ymm(v))?,
                16 => f.a.vmovdqu(xmmword_ptr(r14 + to), xmm(v))?,
                8 => f.a.vmovq(qword_ptr(r14 + to), xmm(v))?,
                _ => f.a.vmovd(dword_ptr(r14 + to), xmm(v))?,
            }
        }
        Ok(())
    }

    /// Products of a block of words; `odd` words are a plane behind those of `x`.
    fn block(&self, f: &mut Asm, t: Tile, at: &Place<'_>) -> Emitted<()> {
        let used = t.pixels * PARTS;
        let (w, x, product) = (used, used + PARTS, used + PARTS + 1);
        for odd in [false, true] {
            for part in 0..t.parts() {
                let w = ymm(w + part);
                f.a.vmovdqu(w, ymmword_ptr((at.w)(0, part)))?;
                if !odd {
                    f.a.vpsllw(w, w, 8)?;
                }
                f.a.vpsraw(w, w, 8)?;
            }
            for m in 0..t.pixels {
                let plane = if odd { self.plane } else { 0 };
                f.a.vpbroadcastd(ymm(x), dword_ptr((at.x)(m) + plane))?;
                for part in 0..t.parts() {
                    let acc = ymm(PARTS * m + part);
                    f.a.vpmaddwd(ymm(product), ymm(w + part), ymm(x))?;
                    f.a.vpaddd(acc, acc, ymm(product))?;
                }
            }
        }
        Ok(())
    }

    /// Adds all products of a tile.
    fn sum(&self, f: &mut Asm, n: &Nest, t: Tile) -> Emitted<()> {
        let words = n.with_segment(self.words(n));
        let Some(kinds) = &self.kinds else {
            return sum(f, &words, &|f, u| {
                let place = Place { x: &|m| r12 + (4 * u + m * n.pixel[X]), w: &|_, part| r13 + (64 * u + VECTOR * part) };
                self.block(f, t, &place)
            });
        };
        f.a.mov(r12, rdi)?;
        f.a.mov(rax, qword_ptr(rsp + BYTES))?;
        f.a.add(rax, rdi)?;
        f.a.mov(r13, rsi)?;
        f.a.mov(rbp, qword_ptr(rsp + TABLE))?;
        let weight = |_: usize, part: usize| r13 + r11 + (VECTOR * part) as i32;
        let sums =
            |f: &mut Asm| self.narrow.products(f, t, Dot::Sums, &Place { x: &|m| rax + r10 * 4 + (m * n.pixel[X]) as i32, w: &weight });
        let products = |f: &mut Asm| self.block(f, t, &Place { x: &|m| r12 + r10 * 4 + (m * n.pixel[X]) as i32, w: &weight });
        kinds.sum(f, n, self.words(n), &Walk { counters: COUNTERS, sums: &sums, words: &products })
    }

    /// All tiles of a strip and panel.
    fn panel(&self, f: &mut Asm, n: &Nest, runs: &[Run], masked: bool) -> Emitted<()> {
        let residual = self.narrow.residual();
        f.a.mov(rdi, qword_ptr(rsp + WORDS))?;
        f.a.mov(r8, qword_ptr(rsp + STRIP_OF[Y]))?;
        if residual {
            f.a.mov(rbx, qword_ptr(rsp + STRIP_OF[R]))?;
        }
        for &tiles in runs {
            let tile = Tile { pixels: tiles.0, panels: 1, half: masked && self.half(n) };
            run(f, n, residual, tiles, &|f| {
                self.narrow.start(f, tile)?;
                self.sum(f, n, tile)?;
                self.narrow.finish(f, n, tile, masked)
            })?;
        }
        Ok(())
    }

    /// A strip at rdi, rbx, r8, which then point behind it.
    fn strip(&self, f: &mut Asm, n: &Nest, runs: &[Run], table: Option<CodeLabel>) -> Emitted<()> {
        let slot = |slot: i32| qword_ptr(rsp + slot);
        let residual = self.narrow.residual();
        f.a.mov(slot(STRIP_OF[X]), rdi)?;
        f.a.mov(slot(STRIP_OF[Y]), r8)?;
        if residual {
            f.a.mov(slot(STRIP_OF[R]), rbx)?;
            f.a.mov(r9, slot(FACTORS))?;
        }
        if let Some(table) = table {
            f.a.mov(rax, rdi)?;
            f.a.sub(rax, slot(WORDS))?;
            f.a.mov(slot(BYTES), rax)?;
            f.a.lea(rax, qword_ptr(table))?;
            f.a.mov(slot(TABLE), rax)?;
        }
        self.widen(f, n, pixels(runs))?;
        f.a.mov(rsi, slot(WEIGHTS))?;
        f.a.mov(rdx, slot(BIAS))?;
        f.a.mov(rcx, slot(SCALE))?;
        let masked = n.lanes < PANEL;
        let full = n.panels() - usize::from(masked);
        let wide = [0, PANEL as i32, (PANEL * self.narrow.width()) as i32];
        let mut moved = 0;
        if full > 0 {
            let mut top = f.a.create_label();
            if full > 1 {
                f.a.mov(slot(PANELS), full as i32)?;
                f.a.set_label(&mut top)?;
            }
            self.panel(f, n, runs, false)?;
            if full > 1 || masked {
                moved = full as i32;
                f.a.add(rsi, n.panel_bytes() as i32)?;
                f.a.add(rdx, 4 * PANEL as i32)?;
                f.a.add(rcx, 4 * PANEL as i32)?;
                f.a.add(slot(STRIP_OF[Y]), wide[Y])?;
                if let Some(kinds) = &self.kinds {
                    f.a.add(slot(TABLE), kinds.panel(n) as i32)?;
                }
                if residual {
                    f.a.add(r9, 2 * PANEL as i32)?;
                    f.a.add(slot(STRIP_OF[R]), wide[R])?;
                }
            }
            if full > 1 {
                f.a.dec(slot(PANELS))?;
                f.a.jnz(top)?;
            }
        }
        if masked {
            self.panel(f, n, runs, true)?;
        }
        let behind = |at: usize| (pixels(runs) * n.pixel[at]) as i32 - moved * wide[at];
        f.a.mov(rdi, slot(STRIP_OF[X]))?;
        f.a.add(rdi, behind(X))?;
        f.a.mov(r8, slot(STRIP_OF[Y]))?;
        f.a.add(r8, behind(Y))?;
        if residual {
            f.a.mov(rbx, slot(STRIP_OF[R]))?;
            f.a.add(rbx, behind(R))?;
        }
        Ok(())
    }

    /// The function.
    pub fn emit(&self, mut f: Asm, n: &Nest) -> Emitted<Vec<u8>> {
        let slot = |slot: i32| qword_ptr(rsp + slot);
        let size = self.size(n);
        let table = self.kinds.as_ref().map(|kinds| f.table(&kinds.table));
        enter(&mut f, n, &self.narrow, size)?;
        f.a.mov(slot(WEIGHTS), rsi)?;
        f.a.mov(slot(BIAS), rdx)?;
        f.a.mov(slot(SCALE), rcx)?;
        if self.narrow.residual() {
            f.a.mov(slot(FACTORS), r9)?;
        }
        f.a.lea(rax, qword_ptr(rsp + (SLOTS + 63)))?;
        f.a.and(rax, -64)?;
        f.a.mov(slot(WORDS), rax)?;
        rows(&mut f, n, self.narrow.residual(), &|f| {
            f.a.mov(slot(ROW_OF[X]), rax)?;
            f.a.mov(slot(ROW_OF[Y]), r10)?;
            f.a.mov(slot(ROW_OF[R]), r11)?;
            for (times, runs) in &self.strips {
                let mut top = f.a.create_label();
                if *times > 1 {
                    f.a.mov(slot(STRIPS), *times as i32)?;
                    f.a.set_label(&mut top)?;
                }
                self.strip(f, n, runs, table)?;
                if *times > 1 {
                    f.a.dec(slot(STRIPS))?;
                    f.a.jnz(top)?;
                }
            }
            f.a.mov(rax, slot(ROW_OF[X]))?;
            f.a.mov(r10, slot(ROW_OF[Y]))?;
            f.a.mov(r11, slot(ROW_OF[R]))
        })?;
        leave(&mut f, size)?;
        f.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::narrow::Dot, super::proof::Bounds, LIMIT, MOST, Narrow, Nest, Widened, kept, operand_bytes, pixels, tiles};
    use quernel_ir::program::End;

    /// Rows of every length, pixels near and far from each other: strips cover the row and stay within the limit.
    #[test]
    fn strips_cover_every_row() {
        let end = End::Float { lo: 0.0, hi: 1.0 };
        let narrow = Narrow::new(Dot::Pairs, end, Bounds { lo: 0, hi: 0, scaled: 0.0 }, 64, None);
        let (mut several, mut fewer, mut none) = (0, 0, 0);
        for row in (1..60).chain([196, 784, 3136]) {
            for channels in [1usize, 2, 6, 16, 64, 130, 512, 768, 2048] {
                for (taps, segments) in [(1, 1), (3, 3), (7, 7), (1, 2)] {
                    let blocks = (taps * channels).div_ceil(4);
                    let n = Nest {
                        images: 1,
                        rows: 2,
                        pixels: row,
                        start: [0; 3],
                        image: [0; 3],
                        row: [row * channels; 3],
                        pixel: [channels; 3],
                        segments,
                        segment: if taps == 1 { 0 } else { row * channels },
                        blocks,
                        block: 64,
                        panel_bytes: 64 * blocks * segments,
                        panels: 1,
                        lanes: 16,
                        ahead: None,
                        asks: None,
                    };
                    let Some(w) = Widened::new(narrow, &n, None) else {
                        none += 1;
                        continue;
                    };
                    assert_eq!(w.strips.iter().map(|(times, runs)| times * pixels(runs)).sum::<usize>(), row, "{n:?}");
                    let longest = w.strips.iter().map(|(_, runs)| pixels(runs)).max().unwrap();
                    assert!(w.plane >= operand_bytes(&n, longest) && 2 * kept(&n) * w.plane <= LIMIT, "{n:?}");
                    assert!(w.strips.iter().flat_map(|(_, runs)| runs).all(|r| r.0 <= MOST), "{n:?}");
                    several += usize::from(w.strips[0].0 > 1);
                    fewer += usize::from(row >= MOST && w.strips[0].1[0].0 < MOST - 1);
                }
            }
        }
        assert!(several > 100 && fewer > 10 && none > 10, "{several} {fewer} {none}");
    }

    #[test]
    fn tiles_cover_every_pixel_and_differ_by_one() {
        for n in 1..200 {
            for most in 3..=6 {
                let runs = tiles(n, most);
                assert_eq!(pixels(&runs), n);
                assert!(runs.iter().all(|r| r.0 <= most) && runs.len() <= 2, "{runs:?}");
                assert!(runs.len() == 1 || runs[0].0 == runs[1].0 + 1, "{runs:?}");
            }
        }
    }
}
