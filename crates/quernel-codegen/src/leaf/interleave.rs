//! Quads of depthwise layers in 512-bit vectors: how they are put together, and the order of channels that makes.

use super::asm::{Asm, Emitted, ymm, zmm};
use iced_x86::code_asm::*;

/// Channel of lane `d` of vector `j` of a quad in 512-bit vectors, within a block: what [`interleave`] makes of natural order.
pub fn wide_channel(j: usize, d: usize) -> usize {
    16 * (d / 8) + 8 * j + d % 8
}

/// Loads the orders that 512-bit vectors need: that of [`interleave`], and that of dwords which makes two outputs of 32 channels
/// of four packed vectors.
pub fn wide_orders(f: &mut Asm, words: usize, dwords: usize) -> Emitted<()> {
    let order = f.dwords(std::array::from_fn(|d| (d | (d + 16) << 16) as u32));
    f.a.vmovdqu32(zmm(words), zmmword_ptr(order))?;
    let order = f.dwords([0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15]);
    f.a.vmovdqu32(zmm(dwords), zmmword_ptr(order))
}

/// Quads of 32 channels into vectors `a` and `b`: byte `i` of a channel comes from row `i`, of which the last two may be absent
/// (then the bytes are anything). `words` holds the order of [`wide_orders`]. That takes two shuffles per vector; a permutation of
/// the bytes of two registers counts as three on Intel's cores.
pub fn interleave(
    f: &mut Asm,
    [a, b, t]: [usize; 3],
    words: usize,
    rows: [AsmMemoryOperand; 2],
    behind: [Option<AsmMemoryOperand>; 2],
) -> Emitted<()> {
    for (r, (row, behind)) in [a, t].into_iter().zip(rows.into_iter().zip(behind)) {
        f.a.vmovdqu32(ymm(r), ymmword_ptr(row))?;
        if let Some(behind) = behind {
            f.a.vinserti64x4(zmm(r), zmm(r), ymmword_ptr(behind), 1)?;
        }
    }
    f.a.vpunpckhbw(zmm(b), zmm(a), zmm(t))?;
    f.a.vpunpcklbw(zmm(a), zmm(a), zmm(t))?;
    for r in [a, b] {
        f.a.vpermw(zmm(r), zmm(words), zmm(r))?;
    }
    Ok(())
}
