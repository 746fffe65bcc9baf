//! AVX2 layers whose weights exclude saturation in most places: where [`Dot::Sums`] is exact it is used, and 16-bit products
//! of [`super::widened`] elsewhere.
//!
//! Sums do not depend on the order of their terms, so a tile takes the blocks of four taps of the first kind, then those
//! of the second. A table behind the code says which they are: per panel, kernel row and [`CHUNK`] of blocks a bit for
//! each, set for the first kind, then the same for the second.
//!
//! [`Dot::Sums`]: super::narrow::Dot::Sums

use super::{
    asm::{Asm, Emitted},
    narrow::sums_fit,
    nest::Nest,
};
use iced_x86::code_asm::*;

/// Blocks of a chunk: bits of a general register.
const CHUNK: usize = 64;
/// Bytes of a block of operands and of weights.
const TAPS: usize = 4;
const BLOCK: usize = 64;
/// Bytes of a chunk in the table.
const ENTRY: usize = 16;
/// Cycles of the loop over the blocks of one kind beside their products: its end is hard to foresee.
const PASS: f64 = 30.0;

/// Which blocks of a layer are of which kind.
#[derive(Clone, Debug)]
pub struct Kinds {
    /// The table, panel by panel.
    pub table: Vec<u8>,
    chunks: usize,
    /// Blocks of all panels and those of them where sums fit.
    blocks: [usize; 2],
}

/// Registers and slots of a walk over blocks: operands as bytes are at rax, as words at r12, weights at r13, and the table at
/// rbp; the walk moves them. r10, r11 and r14 change.
pub struct Walk<'a> {
    /// Slots of the counters of kernel rows and chunks.
    pub counters: [i32; 2],
    /// Products where sums fit; block number in r10, bytes of weights before it in r11.
    pub sums: &'a dyn Fn(&mut Asm) -> Emitted<()>,
    /// Products of words, the same way.
    pub words: &'a dyn Fn(&mut Asm) -> Emitted<()>,
}

impl Kinds {
    /// The kinds of the blocks of packed `weights`. `None` where they are not those of the layer.
    pub fn new(n: &Nest, weights: &[u8]) -> Option<Self> {
        if weights.len() != n.panels() * n.panel_bytes() || n.panel_bytes() == 0 {
            return None;
        }
        let mut kinds = Self { table: Vec::new(), chunks: n.blocks.div_ceil(CHUNK), blocks: [0; 2] };
        for segment in weights.chunks_exact(n.blocks * BLOCK) {
            for chunk in segment.chunks(CHUNK * BLOCK) {
                let bit = |(i, block): (usize, &[u8])| u64::from(sums_fit(block)) << i;
                let fit = chunk.chunks_exact(BLOCK).enumerate().map(bit).fold(0, |all, bit| all | bit);
                let blocks = chunk.len() / BLOCK;
                kinds.table.extend(fit.to_le_bytes());
                kinds.table.extend((!fit & (u64::MAX >> (CHUNK - blocks))).to_le_bytes());
                kinds.blocks = [kinds.blocks[0] + blocks, kinds.blocks[1] + fit.count_ones() as usize];
            }
        }
        Some(kinds)
    }

    /// The share of blocks where sums fit.
    pub fn share(&self) -> f64 {
        self.blocks[1] as f64 / self.blocks[0] as f64
    }

    /// Cycles of a tile beside its products.
    pub fn passes(&self, n: &Nest) -> f64 {
        (2 * n.segments() * self.chunks) as f64 * PASS
    }

    /// Bytes of the table per panel.
    pub fn panel(&self, n: &Nest) -> usize {
        n.segments() * self.chunks * ENTRY
    }

    /// The blocks of a chunk whose bits are set at `rbp + at`.
    fn pass(f: &mut Asm, at: i32, products: &dyn Fn(&mut Asm) -> Emitted<()>) -> Emitted<()> {
        let (mut top, mut end) = (f.a.create_label(), f.a.create_label());
        f.a.mov(r14, qword_ptr(rbp + at))?;
        f.a.test(r14, r14)?;
        f.a.jz(end)?;
        f.a.set_label(&mut top)?;
        // The number of the lowest bit, which is taken out behind the products. CPUs without BMI1 read `bsf`, which does the
        // same where a bit is set.
        f.a.tzcnt(r10, r14)?;
        f.a.mov(r11, r10)?;
        f.a.shl(r11, BLOCK.trailing_zeros())?;
        products(f)?;
        f.a.lea(r10, qword_ptr(r14 - 1))?;
        f.a.and(r14, r10)?;
        f.a.jnz(top)?;
        f.a.set_label(&mut end)?;
        f.a.zero_bytes()
    }

    /// All blocks of a tile. `words`: bytes between kernel rows of words.
    pub fn sum(&self, f: &mut Asm, n: &Nest, words: usize, w: &Walk<'_>) -> Emitted<()> {
        let slot = |i: usize| qword_ptr(rsp + w.counters[i]);
        let (mut segments, mut chunks) = (f.a.create_label(), f.a.create_label());
        if n.segments() > 1 {
            f.a.mov(slot(0), n.segments() as i32)?;
            f.a.set_label(&mut segments)?;
        }
        if self.chunks > 1 {
            f.a.mov(slot(1), self.chunks as i32)?;
            f.a.set_label(&mut chunks)?;
        }
        Self::pass(f, 0, w.sums)?;
        Self::pass(f, 8, w.words)?;
        f.a.add(rbp, ENTRY as i32)?;
        if self.chunks > 1 {
            f.a.add(rax, (CHUNK * TAPS) as i32)?;
            f.a.add(r12, (CHUNK * TAPS) as i32)?;
            f.a.add(r13, (CHUNK * BLOCK) as i32)?;
            f.a.dec(slot(1))?;
            f.a.jnz(chunks)?;
        }
        if n.segments() > 1 {
            let walked = if self.chunks > 1 { (self.chunks * CHUNK) as i32 } else { 0 };
            f.a.add(rax, n.segment() as i32 - walked * TAPS as i32)?;
            f.a.add(r12, words as i32 - walked * TAPS as i32)?;
            f.a.add(r13, (n.blocks as i32 - walked) * BLOCK as i32)?;
            f.a.dec(slot(0))?;
            f.a.jnz(segments)?;
        }
        Ok(())
    }
}
