//! AVX2 layers whose weights exclude saturation in most places: where [`Dot::Sums`] is exact it is used, and [`Dot::Pairs`]
//! elsewhere.
//!
//! Sums do not depend on the order of their terms, so a tile takes the blocks of four taps of the first kind, then those
//! of the second. A table behind the code says which they are: per panel, kernel row and [`CHUNK`] of blocks a bit for
//! each, set for the first kind, then the same for the second.

use super::{
    asm::{Asm, Emitted},
    conv::{Body, MASKS, Nest, SPILLED, X},
    cost::Tile,
    narrow::{Dot, Narrow, Place, sums_fit},
};
use iced_x86::code_asm::*;

/// Blocks of a chunk: bits of a general register.
const CHUNK: usize = 64;
/// Bytes of a block of operands and of weights.
const TAPS: usize = 4;
const BLOCK: usize = 64;
/// Bytes of a chunk in the table.
const ENTRY: usize = 16;
/// Cycles of starting and leaving the loop over the blocks of one kind.
const PASS: f64 = 6.0;

/// A tile's arithmetic, and the table.
#[derive(Clone, Debug)]
pub struct Mixed {
    narrow: Narrow,
    table: Vec<u8>,
    chunks: usize,
    /// Blocks of all panels and those of them where sums fit.
    blocks: [usize; 2],
}

impl Mixed {
    /// The tile of a layer with these panels; `narrow` is that of [`Dot::Pairs`]. `None` for a single pixel, whose panels lie
    /// side by side.
    pub fn new(narrow: Narrow, n: &Nest, weights: &[u8]) -> Option<Self> {
        if n.one_pixel() || weights.len() != n.panels() * n.panel_bytes() || n.panel_bytes() == 0 {
            return None;
        }
        let mut m = Self { narrow, table: Vec::new(), chunks: n.blocks.div_ceil(CHUNK), blocks: [0; 2] };
        for segment in weights.chunks_exact(n.blocks * BLOCK) {
            for chunk in segment.chunks(CHUNK * BLOCK) {
                let bit = |(i, block): (usize, &[u8])| u64::from(sums_fit(block)) << i;
                let fit = chunk.chunks_exact(BLOCK).enumerate().map(bit).fold(0, |all, bit| all | bit);
                let blocks = chunk.len() / BLOCK;
                m.table.extend(fit.to_le_bytes());
                m.table.extend((!fit & (u64::MAX >> (CHUNK - blocks))).to_le_bytes());
                m.blocks = [m.blocks[0] + blocks, m.blocks[1] + fit.count_ones() as usize];
            }
        }
        Some(m)
    }

    /// Cycles of a pixel and panel, as [`Dot::cycles`].
    pub fn cycles(&self, n: &Nest, pixels: usize) -> f64 {
        let share = self.blocks[1] as f64 / self.blocks[0] as f64;
        let blocks = n.segments() * n.blocks;
        let cycles = |dot: Dot| dot.cycles(blocks, pixels, self.residual());
        let passes = (2 * n.segments() * self.chunks) as f64;
        share * cycles(Dot::Sums) + (1.0 - share) * cycles(Dot::Pairs) + passes * PASS / pixels as f64
    }

    /// The blocks of a chunk whose bits are set at `rbp + at`.
    fn pass(&self, f: &mut Asm, n: &Nest, t: Tile, dot: Dot, at: i32) -> Emitted<()> {
        let (mut top, mut end) = (f.a.create_label(), f.a.create_label());
        f.a.mov(r14, qword_ptr(rbp + at))?;
        f.a.test(r14, r14)?;
        f.a.jz(end)?;
        if dot == Dot::Sums {
            self.narrow.ones(f, t)?;
        }
        f.a.set_label(&mut top)?;
        // The number of the lowest bit, which is taken out behind the products. CPUs without BMI1 read `bsf`, which does the
        // same where a bit is set.
        f.a.tzcnt(rax, r14)?;
        f.a.mov(r10, rax)?;
        f.a.shl(r10, BLOCK.trailing_zeros())?;
        let place = Place { x: &|m| r12 + rax * TAPS as i32 + (m * n.pixel[X]) as i32, w: &|_, part| r13 + r10 + (32 * part) as i32 };
        self.narrow.products(f, t, dot, &place)?;
        f.a.lea(r10, qword_ptr(r14 - 1))?;
        f.a.and(r14, r10)?;
        f.a.jnz(top)?;
        f.a.set_label(&mut end)?;
        f.a.zero_bytes()
    }

    fn sum(&self, f: &mut Asm, n: &Nest, t: Tile) -> Emitted<()> {
        let slot = |i: i32| qword_ptr(rsp + SPILLED + 8 * i);
        f.a.mov(slot(0), rax)?;
        f.a.mov(slot(1), r10)?;
        f.a.mov(r12, rdi)?;
        f.a.mov(r13, rsi)?;
        f.a.mov(rbp, qword_ptr(rsp + MASKS))?;
        let (mut segments, mut chunks) = (f.a.create_label(), f.a.create_label());
        if n.segments() > 1 {
            f.a.mov(slot(2), n.segments() as i32)?;
            f.a.set_label(&mut segments)?;
        }
        if self.chunks > 1 {
            f.a.mov(slot(3), self.chunks as i32)?;
            f.a.set_label(&mut chunks)?;
        }
        self.pass(f, n, t, Dot::Sums, 0)?;
        self.pass(f, n, t, Dot::Pairs, 8)?;
        f.a.add(rbp, ENTRY as i32)?;
        if self.chunks > 1 {
            f.a.add(r12, (CHUNK * TAPS) as i32)?;
            f.a.add(r13, (CHUNK * BLOCK) as i32)?;
            f.a.dec(slot(3))?;
            f.a.jnz(chunks)?;
        }
        if n.segments() > 1 {
            let walked = if self.chunks > 1 { self.chunks * CHUNK } else { 0 };
            f.a.add(r12, n.segment() as i32 - (walked * TAPS) as i32)?;
            f.a.add(r13, ((n.blocks as i32) - walked as i32) * BLOCK as i32)?;
            f.a.dec(slot(2))?;
            f.a.jnz(segments)?;
        }
        f.a.mov(rax, slot(0))?;
        f.a.mov(r10, slot(1))
    }
}

impl Body for Mixed {
    fn residual(&self) -> bool {
        self.narrow.residual()
    }
    fn width(&self) -> usize {
        Body::width(&self.narrow)
    }
    fn table(&self, n: &Nest) -> usize {
        self.table.len() / n.panels()
    }
    fn most_pixels(&self, panels: usize) -> usize {
        self.narrow.most_pixels(panels)
    }
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        let table = f.table(&self.table);
        f.a.lea(rax, qword_ptr(table))?;
        f.a.mov(qword_ptr(rsp + MASKS), rax)?;
        self.narrow.prologue(f, lanes)
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.narrow.start(f, t)?;
        self.sum(f, n, t)?;
        self.narrow.finish(f, n, t, masked)
    }
}
