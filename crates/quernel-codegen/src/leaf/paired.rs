//! The 512-bit tile whose last panel has eight channels or fewer: there two pixels share a vector, the first in its lower
//! half and the second in its upper one, so that no lane multiplies by nothing.
//!
//! Accumulators of a pair of pixels: the full panels of the first, those of the second, the shared one.

use super::{
    asm::{Asm, Emitted, xmm, ymm, zmm},
    cost::Tile,
    epilogue::{CONSTANT, Epilogue, MAGIC, ORDER, Pointers},
    nest::{Nest, X, sum},
};
use iced_x86::code_asm::*;

/// Registers of accumulators, weights and two operands.
const REGISTERS: usize = 30;
/// Most pairs of a tile.
const MOST_PAIRS: usize = 12;

/// Most pixels of a tile, an even number.
pub fn most_pixels(panels: usize) -> usize {
    2 * ((REGISTERS - panels - 2) / (2 * panels - 1)).min(MOST_PAIRS)
}

/// The tile of an even number of pixels at the pointers. Mask k2 has the upper half of a vector, k1 the channels of the
/// last panel.
pub fn tile(e: &Epilogue, f: &mut Asm, n: &Nest, t: Tile, at: &Pointers) -> Emitted<()> {
    let p = Paired { e, full: t.panels - 1, pairs: t.pixels / 2, lanes: n.lanes };
    p.start(f)?;
    sum(f, n, &|f, u| p.block(f, n, u))?;
    p.residual(f, at)?;
    p.scale(f, at)?;
    p.store(f, at)
}

struct Paired<'a> {
    e: &'a Epilogue,
    /// Panels of sixteen channels.
    full: usize,
    pairs: usize,
    /// Channels of the last panel.
    lanes: usize,
}

impl Paired<'_> {
    fn of_a_pair(&self) -> usize {
        2 * self.full + 1
    }
    /// First register behind the accumulators; `full + 3` are free there.
    fn free(&self) -> usize {
        self.pairs * self.of_a_pair()
    }
    /// Accumulator of a pixel's full panel.
    fn acc(&self, pixel: usize, panel: usize) -> usize {
        pixel / 2 * self.of_a_pair() + pixel % 2 * self.full + panel
    }
    /// Accumulator that a pair shares.
    fn shared(&self, pair: usize) -> usize {
        pair * self.of_a_pair() + 2 * self.full
    }

    /// Every accumulator starts with its channels' biases.
    fn start(&self, f: &mut Asm) -> Emitted<()> {
        if self.e.fused() {
            let magic = f.splat32(MAGIC);
            f.a.vmovdqu32(zmm(CONSTANT), zmmword_ptr(magic))?;
        }
        for j in 0..self.full {
            let r = zmm(self.acc(0, j));
            if self.e.fused() {
                f.a.vpaddd(r, zmm(CONSTANT), zmmword_ptr(rdx + 64 * j))?
            } else {
                f.a.vmovdqu32(r, zmmword_ptr(rdx + 64 * j))?
            }
        }
        let r = zmm(self.shared(0));
        f.a.vbroadcasti64x4(r, ymmword_ptr(rdx + 64 * self.full))?;
        if self.e.fused() {
            f.a.vpaddd(r, r, zmm(CONSTANT))?;
        }
        for m in 1..2 * self.pairs {
            for j in 0..self.full {
                f.a.vmovdqa32(zmm(self.acc(m, j)), zmm(self.acc(0, j)))?;
            }
        }
        for q in 1..self.pairs {
            f.a.vmovdqa32(zmm(self.shared(q)), zmm(self.shared(0)))?;
        }
        Ok(())
    }

    /// Four taps of everything, `u` blocks ahead of the pointers.
    fn block(&self, f: &mut Asm, n: &Nest, u: usize) -> Emitted<()> {
        let (weights, x) = (self.free(), self.free() + self.full + 1);
        let weight = |j: usize| r13 + (64 * u + j * n.panel_bytes());
        for j in 0..self.full {
            f.a.vmovdqu32(zmm(weights + j), zmmword_ptr(weight(j)))?;
        }
        f.a.vbroadcasti64x4(zmm(weights + self.full), ymmword_ptr(weight(self.full)))?;
        for q in 0..self.pairs {
            for i in 0..2 {
                f.a.vpbroadcastd(zmm(x + i), dword_ptr(r12 + (4 * u + (2 * q + i) * n.pixel[X])))?;
                for j in 0..self.full {
                    f.a.vpdpbusd(zmm(self.acc(2 * q + i, j)), zmm(x + i), zmm(weights + j))?;
                }
            }
            f.a.vmovdqa32(zmm(x).k2(), zmm(x + 1))?;
            f.a.vpdpbusd(zmm(self.shared(q)), zmm(x), zmm(weights + self.full))?;
        }
        Ok(())
    }

    fn residual(&self, f: &mut Asm, at: &Pointers) -> Emitted<()> {
        let Some((stride, signed)) = self.e.residual else { return Ok(()) };
        let (factors, temporary) = (self.free(), self.free() + self.full + 1);
        for j in 0..self.full {
            f.a.vpmovsxwd(zmm(factors + j), ymmword_ptr(at.factors + 32 * j))?;
        }
        f.a.vbroadcasti32x4(ymm(temporary), xmmword_ptr(at.factors + 32 * self.full))?;
        f.a.vpmovsxwd(zmm(factors + self.full), ymm(temporary))?;
        let t = zmm(temporary);
        for m in 0..2 * self.pairs {
            for j in 0..self.full {
                let from = xmmword_ptr(at.residual + (m * stride + 16 * j));
                if signed {
                    f.a.vpmovsxbd(t, from)?
                } else {
                    f.a.vpmovzxbd(t, from)?
                }
                f.a.vpdpwssd(zmm(self.acc(m, j)), t, zmm(factors + j))?;
            }
        }
        for q in 0..self.pairs {
            let from = |i: usize| qword_ptr(at.residual + ((2 * q + i) * stride + 16 * self.full));
            f.a.vmovq(xmm(temporary), from(0))?;
            f.a.vmovhps_3(xmm(temporary), xmm(temporary), from(1))?;
            if signed {
                f.a.vpmovsxbd(t, xmm(temporary))?
            } else {
                f.a.vpmovzxbd(t, xmm(temporary))?
            }
            f.a.vpdpwssd(zmm(self.shared(q)), t, zmm(factors + self.full))?;
        }
        Ok(())
    }

    /// Sums to rounded integers.
    fn scale(&self, f: &mut Asm, at: &Pointers) -> Emitted<()> {
        let (shift, scale) = (self.free(), zmm(self.free() + self.full + 1));
        f.a.vbroadcasti64x4(scale, ymmword_ptr(at.scale + 64 * self.full))?;
        if self.e.fused() {
            let magic = f.splat32((-(2f32.powi(23))).to_bits());
            f.a.vmovdqu32(zmm(CONSTANT), zmmword_ptr(magic))?;
            for j in 0..self.full {
                f.a.vmulps(zmm(shift + j), zmm(CONSTANT), zmmword_ptr(at.scale + 64 * j))?;
            }
            f.a.vmulps(zmm(shift + self.full), zmm(CONSTANT), scale)?;
        }
        for m in 0..2 * self.pairs {
            for j in 0..self.full {
                self.e.round(f, zmm(self.acc(m, j)), zmmword_ptr(at.scale + 64 * j), zmm(shift + j))?;
            }
        }
        for q in 0..self.pairs {
            let r = zmm(self.shared(q));
            if self.e.fused() {
                f.a.vfmadd132ps(r, zmm(shift + self.full), scale)?;
                f.a.vcvtps2dq(r, r)?;
            } else {
                self.e.round_by(f, r, scale)?;
            }
        }
        Ok(())
    }

    fn store(&self, f: &mut Asm, at: &Pointers) -> Emitted<()> {
        let free = self.free();
        let pixel = self.e.out_pixel;
        if self.full == 1 && self.lanes == 8 && pixel == 24 {
            // Both pixels of a pair are 48 bytes in a row.
            let order = f.dwords([0, 4, 8, 12, 2, 6, 1, 5, 9, 13, 10, 14, 3, 7, 11, 15]);
            f.a.vmovdqu32(zmm(CONSTANT), zmmword_ptr(order))?;
            for q in 0..self.pairs {
                let (a, b, s) = (self.acc(2 * q, 0), self.acc(2 * q + 1, 0), self.shared(q));
                self.e.pack(f, [a, b, s, s], free)?;
                f.a.vpermd(zmm(a), zmm(CONSTANT), zmm(a))?;
                f.a.vmovdqu32(ymmword_ptr(at.out + 48 * q), ymm(a))?;
                f.a.vextracti32x4(xmmword_ptr(at.out + (48 * q + 32)), zmm(a), 2)?;
            }
            return Ok(());
        }
        let full: Vec<(usize, usize)> = (0..2 * self.pairs).flat_map(|m| (0..self.full).map(move |j| (m, j))).collect();
        for group in full.chunks(4) {
            let reg = |i: usize| {
                let (m, j) = group[i.min(group.len() - 1)];
                self.acc(m, j)
            };
            self.e.pack(f, [reg(0), reg(1), reg(2), reg(3)], free)?;
            f.a.vpermd(zmm(reg(0)), zmm(ORDER), zmm(reg(0)))?;
            for (i, &(m, j)) in group.iter().enumerate() {
                let to = xmmword_ptr(at.out + (m * pixel + 16 * j));
                if i == 0 { f.a.vmovdqu32(to, xmm(reg(0)))? } else { f.a.vextracti32x4(to, zmm(reg(0)), i as i32)? }
            }
        }
        for first in (0..self.pairs).step_by(4) {
            let count = (self.pairs - first).min(4);
            let reg = |i: usize| self.shared(first + i.min(count - 1));
            self.e.pack(f, [reg(0), reg(1), reg(2), reg(3)], free)?;
            let packed = zmm(reg(0));
            f.a.vpermd(packed, zmm(ORDER), packed)?;
            let place = |i: usize, half: usize| at.out + ((2 * (first + i) + half) * pixel + 16 * self.full);
            if self.full == 0 && self.lanes == 8 && pixel == 8 && count == 4 {
                f.a.vmovdqu32(zmmword_ptr(place(0, 0)), packed)?;
                continue;
            }
            for i in 0..count {
                let mut from = xmm(reg(0));
                if i > 0 {
                    f.a.vextracti32x4(xmm(free), packed, i as i32)?;
                    from = xmm(free);
                }
                if self.lanes == 8 {
                    f.a.vmovq(qword_ptr(place(i, 0)), from)?;
                    f.a.vmovhps(qword_ptr(place(i, 1)), from)?;
                } else {
                    f.a.vmovdqu8(xmmword_ptr(place(i, 0)).k1(), from)?;
                    f.a.vpsrldq(xmm(free + 1), from, 8)?;
                    f.a.vmovdqu8(xmmword_ptr(place(i, 1)).k1(), xmm(free + 1))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_the_registers() {
        for panels in 1..=4 {
            let pairs = most_pixels(panels) / 2;
            assert!(pairs >= 1 && pairs * (2 * panels - 1) + panels + 2 <= REGISTERS);
        }
    }
}
