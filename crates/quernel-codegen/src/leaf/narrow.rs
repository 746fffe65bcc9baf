//! The register tile in 256-bit vectors: sixteen registers, no masks.
//!
//! * [`Dot::Bytes`]: `vpdpbusd`, two accumulators of eight channels per pixel and panel.
//! * [`Dot::Pairs`] (AVX2): operands and weights widen to 16 bits and `vpmaddwd` adds exact products of two taps, so an
//!   accumulator holds four channels in two halves each, and four make a panel.
//! * [`Dot::Sums`] (AVX2): `vpmaddubsw` adds two products in 16 bits, which saturate on ordinary 8-bit weights. A layer
//!   takes this form only if its real weights exclude that; with weights of 7 bits or fewer they always do.

use super::{
    asm::{Asm, Emitted, xmm, ymm},
    conv::{Body, Nest, X, sum},
    cost::Tile,
    proof::Bounds,
};
use iced_x86::code_asm::*;
use quernel_ir::program::End;

/// How four taps of a channel are multiplied and added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dot {
    /// Two 16-bit multiply-adds.
    Pairs,
    /// Sums of two products in 16 bits, then of two of those; [`sums_fit`] is the condition.
    Sums,
    /// One byte dot product, in the encoding of AVX-VNNI (`vex`) or of AVX-512.
    Bytes {
        /// VEX encoding.
        vex: bool,
    },
}

impl Dot {
    /// Instruction set, as in a kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "avx2",
            Self::Sums => "avx2_sums",
            Self::Bytes { .. } => "avxvnni",
        }
    }
    /// Accumulators of a pixel and panel.
    fn accumulators(self) -> usize {
        if self == Self::Pairs { 4 } else { 2 }
    }
    /// Panels side by side where there is one pixel only.
    pub fn panels_of_one_pixel(self) -> usize {
        if self == Self::Pairs { 2 } else { 4 }
    }
}

/// Whether no sum of two neighbouring products of a byte and a weight leaves 16 bits, for operands up to 255: the positive
/// parts of a pair of weights add up to at most 128, and the negative ones.
pub fn sums_fit(weights: &[u8]) -> bool {
    weights.as_chunks::<2>().0.iter().all(|pair| {
        let [a, b] = pair.map(|w| i32::from(w as i8));
        a.max(0) + b.max(0) <= 128 && a.min(0) + b.min(0) >= -128
    })
}

/// Register of sixteen words 1.
const ONES: usize = 15;

/// A tile's arithmetic and its end.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    dot: Dot,
    end: End,
    /// Scaled sums may exceed the i32 conversion, so the upper bound is applied before it.
    clamp_high: bool,
    /// Bytes between output pixels.
    out_pixel: usize,
    /// Bytes between residual pixels and the residual's signedness.
    residual: Option<(usize, bool)>,
}

impl Narrow {
    /// The tile of a layer.
    pub fn new(dot: Dot, end: End, bounds: Bounds, out_pixel: usize, residual: Option<(usize, bool)>) -> Self {
        let clamp_high = bounds.scaled * (1.0 + 2f64.powi(-22)) >= 2f64.powi(31);
        Self { dot, end, clamp_high, out_pixel, residual }
    }

    /// First accumulator of a pixel and panel.
    fn first(&self, t: Tile, pixel: usize, panel: usize) -> usize {
        (pixel * t.panels + panel) * self.dot.accumulators()
    }

    fn block(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let used = t.pixels * t.panels * self.dot.accumulators();
        let weight = |j: usize, part: usize, bytes: usize| r13 + (64 * u + j * n.panel_bytes() + part * bytes);
        let operand = |m: usize| r12 + (4 * u + m * n.pixel[X]);
        match self.dot {
            Dot::Bytes { .. } => {
                let (x, w) = (used, used + 1);
                if t.pixels == 1 {
                    f.a.vpbroadcastd(ymm(x), dword_ptr(operand(0)))?;
                    for j in 0..t.panels {
                        for part in 0..2 {
                            f.a.vpdpbusd(ymm(self.first(t, 0, j) + part), ymm(x), ymmword_ptr(weight(j, part, 32)))?;
                        }
                    }
                    return Ok(());
                }
                for part in 0..2 {
                    f.a.vmovdqu(ymm(w + part), ymmword_ptr(weight(0, part, 32)))?;
                }
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(ymm(x), dword_ptr(operand(m)))?;
                    for part in 0..2 {
                        f.a.vpdpbusd(ymm(self.first(t, m, 0) + part), ymm(x), ymm(w + part))?;
                    }
                }
            }
            Dot::Sums => {
                let (x, w, product) = (used, used + 1, used + 3);
                let held = t.pixels > 1;
                for part in (0..2).filter(|_| held) {
                    f.a.vmovdqu(ymm(w + part), ymmword_ptr(weight(0, part, 32)))?;
                }
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(ymm(x), dword_ptr(operand(m)))?;
                    for (j, part) in (0..t.panels).flat_map(|j| [(j, 0), (j, 1)]) {
                        if held {
                            f.a.vpmaddubsw(ymm(product), ymm(x), ymm(w + part))?;
                        } else {
                            f.a.vpmaddubsw(ymm(product), ymm(x), ymmword_ptr(weight(j, part, 32)))?;
                        }
                        f.a.vpmaddwd(ymm(product), ymm(product), ymm(ONES))?;
                        let acc = ymm(self.first(t, m, j) + part);
                        f.a.vpaddd(acc, acc, ymm(product))?;
                    }
                }
            }
            Dot::Pairs => {
                let (x, w, product) = (used, used + t.pixels, used + t.pixels + 1);
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(xmm(x + m), dword_ptr(operand(m)))?;
                    f.a.vpmovzxbw(ymm(x + m), xmm(x + m))?;
                }
                for j in 0..t.panels {
                    for part in 0..4 {
                        f.a.vpmovsxbw(ymm(w), xmmword_ptr(weight(j, part, 16)))?;
                        for m in 0..t.pixels {
                            let acc = ymm(self.first(t, m, j) + part);
                            f.a.vpmaddwd(ymm(product), ymm(w), ymm(x + m))?;
                            f.a.vpaddd(acc, acc, ymm(product))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Final sums of a pixel and panel: registers of channels 0 to 7 and 8 to 15.
    fn sums(&self, f: &mut Asm, t: Tile, pixel: usize, panel: usize, free: usize) -> Emitted<[usize; 2]> {
        let first = self.first(t, pixel, panel);
        let halves = match self.dot {
            Dot::Bytes { .. } | Dot::Sums => [first, first + 1],
            Dot::Pairs => {
                for a in [first, first + 2] {
                    // Within 128-bit lanes: channels 0 1 4 5, 2 3 6 7; then in order.
                    f.a.vphaddd(ymm(a), ymm(a), ymm(a + 1))?;
                    f.a.vpermq(ymm(a), ymm(a), 0xD8)?;
                }
                [first, first + 2]
            }
        };
        for (h, v) in halves.into_iter().enumerate() {
            f.a.vpaddd(ymm(v), ymm(v), ymmword_ptr(rdx + (64 * panel + 32 * h)))?;
            if let Some((stride, signed)) = self.residual {
                // Factors are positive: the upper half of a lane contributes nothing.
                let from = qword_ptr(rbx + (pixel * stride + 16 * panel + 8 * h));
                if signed {
                    f.a.vpmovsxbd(ymm(free), from)?
                } else {
                    f.a.vpmovzxbd(ymm(free), from)?
                }
                f.a.vpmovsxwd(ymm(free + 1), xmmword_ptr(r9 + (32 * panel + 16 * h)))?;
                f.a.vpmaddwd(ymm(free), ymm(free), ymm(free + 1))?;
                f.a.vpaddd(ymm(v), ymm(v), ymm(free))?;
            }
            f.a.vcvtdq2ps(ymm(v), ymm(v))?;
            f.a.vmulps(ymm(v), ymm(v), ymmword_ptr(rcx + (64 * panel + 32 * h)))?;
        }
        Ok(halves)
    }

    /// Sixteen rounded words, zero point added, in channel order.
    fn words(&self, f: &mut Asm, [a, b]: [usize; 2], zero: i32, hi: i32) -> Emitted<usize> {
        for v in [a, b] {
            if self.clamp_high {
                let bound = f.splat32(((hi - zero) as f32).to_bits());
                f.a.vminps(ymm(v), ymm(v), ymmword_ptr(bound))?;
            }
            f.a.vcvtps2dq(ymm(v), ymm(v))?;
        }
        f.a.vpackssdw(ymm(a), ymm(a), ymm(b))?;
        f.a.vpermq(ymm(a), ymm(a), 0xD8)?;
        if zero != 0 {
            let words = f.splat16(zero as i16 as u16);
            f.a.vpaddsw(ymm(a), ymm(a), ymmword_ptr(words))?;
        }
        Ok(a)
    }

    /// The low sixteen bytes of a register, or the first `lanes` of them.
    fn store(&self, f: &mut Asm, v: usize, pixel: usize, panel: usize, lanes: usize) -> Emitted<()> {
        let at = |offset: usize| r8 + (pixel * self.out_pixel + 16 * panel + offset);
        if lanes == 16 {
            return f.a.vmovdqu(xmmword_ptr(at(0)), xmm(v));
        }
        let mut done = 0;
        for bytes in [8, 4, 2, 1] {
            if lanes & bytes == 0 {
                continue;
            }
            match bytes {
                8 => f.a.vmovq(qword_ptr(at(done)), xmm(v))?,
                4 => f.a.vmovd(dword_ptr(at(done)), xmm(v))?,
                2 => f.a.vpextrw(word_ptr(at(done)), xmm(v), 0)?,
                _ => f.a.vpextrb(byte_ptr(at(done)), xmm(v), 0)?,
            }
            f.a.vpsrldq(xmm(v), xmm(v), bytes as i32)?;
            done += bytes;
        }
        Ok(())
    }

    fn store_floats(&self, f: &mut Asm, halves: [usize; 2], pixel: usize, panel: usize, lanes: usize, free: usize) -> Emitted<()> {
        let End::Float { lo, hi } = self.end else { return Ok(()) };
        for (h, v) in halves.into_iter().enumerate() {
            let here = lanes.saturating_sub(8 * h).min(8);
            if lo > f32::NEG_INFINITY {
                let bound = f.splat32(lo.to_bits());
                f.a.vmaxps(ymm(v), ymm(v), ymmword_ptr(bound))?;
            }
            if hi < f32::INFINITY {
                let bound = f.splat32(hi.to_bits());
                f.a.vminps(ymm(v), ymm(v), ymmword_ptr(bound))?;
            }
            let to = ymmword_ptr(r8 + (pixel * self.out_pixel + 64 * panel + 32 * h));
            match here {
                0 => {}
                8 => f.a.vmovups(to, ymm(v))?,
                _ => {
                    let mask = f.dwords(std::array::from_fn(|i| if i < here { u32::MAX } else { 0 }));
                    f.a.vmovdqu(ymm(free), ymmword_ptr(mask))?;
                    f.a.vmaskmovps(to, ymm(free), ymm(v))?;
                }
            }
        }
        Ok(())
    }

    fn finish(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        let free = t.pixels * t.panels * self.dot.accumulators();
        let lanes = |panel: usize| if masked && panel + 1 == t.panels { n.lanes } else { 16 };
        let all: Vec<(usize, usize)> = (0..t.pixels).flat_map(|m| (0..t.panels).map(move |j| (m, j))).collect();
        for pair in all.chunks(2) {
            let mut packed = Vec::new();
            for &(m, j) in pair {
                let halves = self.sums(f, t, m, j, free)?;
                match self.end {
                    End::Float { .. } => self.store_floats(f, halves, m, j, lanes(j), free)?,
                    End::Requantize { zero, hi, .. } => packed.push(self.words(f, halves, zero, hi)?),
                }
            }
            let (End::Requantize { lo, hi, signed, .. }, Some(&a)) = (self.end, packed.first()) else { continue };
            let b = packed.last().copied().unwrap_or(a);
            if signed {
                f.a.vpacksswb(ymm(a), ymm(a), ymm(b))?
            } else {
                f.a.vpackuswb(ymm(a), ymm(a), ymm(b))?
            }
            f.a.vpermq(ymm(a), ymm(a), 0xD8)?;
            let (least, most) = if signed { (-128, 127) } else { (0, 255) };
            if lo > least {
                let bytes = f.splat8(lo as u8);
                if signed { f.a.vpmaxsb(ymm(a), ymm(a), ymmword_ptr(bytes))? } else { f.a.vpmaxub(ymm(a), ymm(a), ymmword_ptr(bytes))? }
            }
            if hi < most {
                let bytes = f.splat8(hi as u8);
                if signed { f.a.vpminsb(ymm(a), ymm(a), ymmword_ptr(bytes))? } else { f.a.vpminub(ymm(a), ymm(a), ymmword_ptr(bytes))? }
            }
            if let &[_, (m, j)] = pair {
                f.a.vextracti128(xmm(free), ymm(a), 1)?;
                self.store(f, free, m, j, lanes(j))?;
            }
            self.store(f, a, pair[0].0, pair[0].1, lanes(pair[0].1))?;
        }
        Ok(())
    }
}

impl Body for Narrow {
    fn residual(&self) -> bool {
        self.residual.is_some()
    }
    fn width(&self) -> usize {
        match self.end {
            End::Requantize { .. } => 1,
            End::Float { .. } => 4,
        }
    }
    fn most_pixels(&self, panels: usize) -> usize {
        // Beside the accumulators: operand, two weights (or operands, weight, product), two temporaries of the end.
        match self.dot {
            Dot::Pairs => (2 / panels).max(1),
            Dot::Sums => (5 / panels).max(1),
            Dot::Bytes { .. } => (6 / panels).max(1),
        }
    }
    fn prologue(&self, f: &mut Asm, _: usize) -> Emitted<()> {
        if self.dot == Dot::Sums {
            let ones = f.splat16(1);
            f.a.vmovdqu(ymm(ONES), ymmword_ptr(ones))?;
        }
        Ok(())
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        for i in 0..t.pixels * t.panels * self.dot.accumulators() {
            f.a.vpxor(xmm(i), xmm(i), xmm(i))?;
        }
        sum(f, n, &|f, u| self.block(f, n, t, u))?;
        self.finish(f, n, t, masked)
    }
}

#[cfg(test)]
mod tests {
    use super::sums_fit;

    #[test]
    fn the_edge_of_16_bits() {
        let fit = |a: i8, b: i8| {
            let fit = sums_fit(&[a as u8, b as u8]);
            let sums = [0, 255].into_iter().flat_map(|x| [0, 255].map(|y| x * i32::from(a) + y * i32::from(b)));
            assert_eq!(fit, sums.into_iter().all(|s| i16::try_from(s).is_ok()), "{a} {b}");
            fit
        };
        assert!(fit(127, 1) && !fit(127, 2) && fit(-127, -1) && !fit(-127, -2) && fit(127, -127) && fit(64, 64) && fit(-64, -64));
        for a in i8::MIN..=i8::MAX {
            for b in i8::MIN..=i8::MAX {
                fit(a, b);
            }
        }
    }
}
