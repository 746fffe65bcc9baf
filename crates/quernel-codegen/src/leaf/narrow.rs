//! The register tile in 256-bit vectors: sixteen registers, no masks.
//!
//! * [`Dot::Bytes`]: `vpdpbusd`, two accumulators of eight channels per pixel and panel.
//! * [`Dot::Pairs`] (AVX2): even and odd taps of operands and weights widen to 16 bits, and `vpmaddwd` adds two exact
//!   products of each. Widening the weights costs as much as a pixel's products, so four pixels share it. Most layers
//!   are faster where operands widen only once ([`super::widened`]); these are single pixels, pixels an odd number of
//!   bytes apart, and operands too large for the stack.
//! * [`Dot::Sums`] (AVX2): `vpmaddubsw` adds two products in 16 bits, which saturate on ordinary 8-bit weights. A layer,
//!   or a block of it ([`super::mixed`]), takes this form only if its real weights exclude that; those of 7 bits or fewer do.

use super::{
    asm::{Asm, Emitted, xmm, ymm},
    cost::Tile,
    epilogue::{Epilogue, MAGIC},
    nest::{Body, Nest, X, sum},
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
    /// Cycles of a pixel and panel of sixteen channels in a tile of `pixels`: products and their operands, then the end.
    pub fn cycles(self, blocks: usize, pixels: usize, residual: bool) -> f64 {
        blocks as f64 * self.of_block(pixels) + if residual { 6.0 } else { 3.5 } + 8.0 / pixels as f64
    }
    /// Cycles of a block of four taps of a pixel and panel in a tile of `pixels`.
    pub fn of_block(self, pixels: usize) -> f64 {
        let share = 1.0 / pixels as f64;
        match self {
            Self::Bytes { .. } => 1.0 + 0.1 * share,
            Self::Sums => 2.0 + 0.2 * share,
            Self::Pairs => 2.9 + 2.0 * share,
        }
    }
    /// Instruction set, as in a kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "avx2",
            Self::Sums => "avx2_sums",
            Self::Bytes { .. } => "avxvnni",
        }
    }
}

/// Panels side by side where there is one pixel only.
pub const PANELS_OF_ONE_PIXEL: usize = 4;
/// Accumulators of a pixel and panel, of eight channels each.
pub const PARTS: usize = 2;

/// Whether no sum of two neighbouring products of a byte and a weight leaves 16 bits, for operands up to 255: the positive
/// parts of a pair of weights add up to at most 128, and the negative ones.
pub fn sums_fit(weights: &[u8]) -> bool {
    weights.as_chunks::<2>().0.iter().all(|pair| {
        let [a, b] = pair.map(|w| i32::from(w as i8));
        a.max(0) + b.max(0) <= 128 && a.min(0) + b.min(0) >= -128
    })
}

/// Register of sixteen equal words: 1 beside [`Dot::Sums`], 255 beside [`Dot::Pairs`].
const CONSTANT: usize = 15;

/// Where a block's operands and weights are.
pub struct Place<'a> {
    /// Four taps of a pixel.
    pub x: &'a dyn Fn(usize) -> AsmMemoryOperand,
    /// Weights of a panel, eight channels a part.
    pub w: &'a dyn Fn(usize, usize) -> AsmMemoryOperand,
}

/// A tile's arithmetic and its end.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    dot: Dot,
    end: End,
    /// What was proven of the sums.
    proven: Epilogue,
    /// Bytes between output pixels.
    out_pixel: usize,
    /// Bytes between residual pixels and the residual's signedness.
    residual: Option<(usize, bool)>,
}

impl Narrow {
    /// The tile of a layer.
    pub fn new(dot: Dot, end: End, bounds: Bounds, out_pixel: usize, residual: Option<(usize, bool)>) -> Self {
        Self { dot, end, proven: Epilogue::new(end, bounds, out_pixel, residual), out_pixel, residual }
    }

    /// First accumulator of a pixel and panel.
    pub fn first(&self, t: Tile, pixel: usize, panel: usize) -> usize {
        (pixel * t.panels + panel) * PARTS
    }

    /// The block `u` blocks ahead of the pointers.
    fn block(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let panel_bytes = n.panel_bytes();
        let w = |j: usize, part: usize| r13 + (64 * u + j * panel_bytes + 32 * part);
        self.products(f, t, self.dot, &Place { x: &|m| r12 + (4 * u + m * n.pixel[X]), w: &w })
    }

    /// Adds the products of a block of four taps. [`Dot::Sums`] and [`Dot::Pairs`] take a constant from [`CONSTANT`] if `dot`
    /// is the layer's own; beside another, sums take theirs from memory.
    pub fn products(&self, f: &mut Asm, t: Tile, dot: Dot, at: &Place<'_>) -> Emitted<()> {
        let used = t.pixels * t.panels * PARTS;
        let x_dword = |m: usize| dword_ptr((at.x)(m));
        let weight = |j: usize, part: usize| ymmword_ptr((at.w)(j, part));
        match dot {
            Dot::Bytes { .. } => {
                let (x, w) = (used, used + 1);
                if t.pixels == 1 {
                    f.a.vpbroadcastd(ymm(x), x_dword(0))?;
                    for j in 0..t.panels {
                        for part in 0..2 {
                            f.a.vpdpbusd(ymm(self.first(t, 0, j) + part), ymm(x), weight(j, part))?;
                        }
                    }
                    return Ok(());
                }
                for part in 0..2 {
                    f.a.vmovdqu(ymm(w + part), weight(0, part))?;
                }
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(ymm(x), x_dword(m))?;
                    for part in 0..2 {
                        f.a.vpdpbusd(ymm(self.first(t, m, 0) + part), ymm(x), ymm(w + part))?;
                    }
                }
            }
            Dot::Sums => {
                let (x, w, product) = (used, used + 1, used + 3);
                let ones = f.splat16(1);
                let held = t.pixels > 1;
                for part in (0..t.parts()).filter(|_| held) {
                    f.a.vmovdqu(ymm(w + part), weight(0, part))?;
                }
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(ymm(x), x_dword(m))?;
                    for (j, part) in (0..t.panels).flat_map(|j| (0..t.parts()).map(move |part| (j, part))) {
                        if held {
                            f.a.vpmaddubsw(ymm(product), ymm(x), ymm(w + part))?;
                        } else {
                            f.a.vpmaddubsw(ymm(product), ymm(x), weight(j, part))?;
                        }
                        if self.dot == dot {
                            f.a.vpmaddwd(ymm(product), ymm(product), ymm(CONSTANT))?;
                        } else {
                            f.a.vpmaddwd(ymm(product), ymm(product), ymmword_ptr(ones))?;
                        }
                        let acc = ymm(self.first(t, m, j) + part);
                        f.a.vpaddd(acc, acc, ymm(product))?;
                    }
                }
            }
            Dot::Pairs => {
                // Even taps of an operand, odd ones, and a product.
                let (w, x, product) = (used, [used + 4, used + 5], used + 6);
                for j in 0..t.panels {
                    // Even and odd taps of both parts of a panel's weights.
                    for part in 0..2 {
                        let (even, odd) = (ymm(w + part), ymm(w + 2 + part));
                        f.a.vmovdqu(odd, weight(j, part))?;
                        f.a.vpsllw(even, odd, 8)?;
                        f.a.vpsraw(odd, odd, 8)?;
                        f.a.vpsraw(even, even, 8)?;
                    }
                    for m in 0..t.pixels {
                        f.a.vpbroadcastd(ymm(x[1]), x_dword(m))?;
                        f.a.vpand(ymm(x[0]), ymm(x[1]), ymm(CONSTANT))?;
                        f.a.vpsrlw(ymm(x[1]), ymm(x[1]), 8)?;
                        for (odd, part) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                            let acc = ymm(self.first(t, m, j) + part);
                            f.a.vpmaddwd(ymm(product), ymm(w + 2 * odd + part), ymm(x[odd]))?;
                            f.a.vpaddd(acc, acc, ymm(product))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Scaled sums of a pixel and panel: registers of channels 0 to 7 and 8 to 15, the first twice where there are no more. Two registers from `free` on are free,
    /// behind them lie the panel's [`Self::shift`]s.
    fn sums(&self, f: &mut Asm, t: Tile, pixel: usize, panel: usize, free: usize) -> Emitted<[usize; 2]> {
        let first = self.first(t, pixel, panel);
        let halves = [first, if t.half { first } else { first + 1 }];
        for (h, v) in halves.into_iter().enumerate().take(t.parts()) {
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
            let scale = ymmword_ptr(rcx + (64 * panel + 32 * h));
            if self.proven.fused() {
                f.a.vfmadd132ps(ymm(v), ymm(free + 2 + h), scale)?;
                continue;
            }
            f.a.vcvtdq2ps(ymm(v), ymm(v))?;
            f.a.vmulps(ymm(v), ymm(v), scale)?;
        }
        Ok(halves)
    }

    /// What takes [`MAGIC`] out of the scaled sums of a panel again, in two registers behind the first two free ones.
    fn shift(&self, f: &mut Asm, panel: usize, free: usize) -> Emitted<()> {
        for h in (0..PARTS).filter(|_| self.proven.fused()) {
            let magic = f.splat32((-(2f32.powi(23))).to_bits());
            let r = ymm(free + 2 + h);
            f.a.vmovups(r, ymmword_ptr(magic))?;
            f.a.vmulps(r, r, ymmword_ptr(rcx + (64 * panel + 32 * h)))?;
        }
        Ok(())
    }

    /// Sixteen rounded words, zero point added: channels 0 to 3, 8 to 11, 4 to 7, 12 to 15.
    fn words(&self, f: &mut Asm, [a, b]: [usize; 2], zero: i32) -> Emitted<usize> {
        for v in [a, b].into_iter().take(if a == b { 1 } else { 2 }) {
            if let Some(bound) = self.proven.upper() {
                let bound = f.splat32(bound.to_bits());
                f.a.vminps(ymm(v), ymm(v), ymmword_ptr(bound))?;
            }
            f.a.vcvtps2dq(ymm(v), ymm(v))?;
        }
        f.a.vpackssdw(ymm(a), ymm(a), ymm(b))?;
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
        store_first_bytes(f, v, at(0), lanes)
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
            store_first_floats(f, v, r8 + (pixel * self.out_pixel + 64 * panel + 32 * h), here, free)?;
        }
        Ok(())
    }

    /// Starts the sums of a tile with the biases.
    pub fn start(&self, f: &mut Asm, t: Tile) -> Emitted<()> {
        let of_a_pixel = t.panels * PARTS;
        for i in 0..of_a_pixel {
            f.a.vmovdqu(ymm(i), ymmword_ptr(rdx + 32 * i))?;
            if self.proven.fused() {
                let magic = f.splat32(MAGIC);
                f.a.vpaddd(ymm(i), ymm(i), ymmword_ptr(magic))?;
            }
        }
        for i in of_a_pixel..t.pixels * of_a_pixel {
            f.a.vmovaps(ymm(i), ymm(i % of_a_pixel))?;
        }
        Ok(())
    }

    /// Ends the sums of a tile; the registers behind them are free.
    pub fn finish(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        let free = t.pixels * t.panels * PARTS;
        let lanes = |panel: usize| if masked && panel + 1 == t.panels { n.lanes } else { 16 };
        let all: Vec<(usize, usize)> = (0..t.pixels).flat_map(|m| (0..t.panels).map(move |j| (m, j))).collect();
        if t.panels == 1 {
            self.shift(f, 0, free)?;
        }
        for pair in all.chunks(2) {
            let mut packed = Vec::new();
            for &(m, j) in pair {
                if t.panels > 1 {
                    self.shift(f, j, free)?;
                }
                let halves = self.sums(f, t, m, j, free)?;
                match self.end {
                    End::Float { .. } => self.store_floats(f, halves, m, j, lanes(j), free)?,
                    End::Requantize { zero, .. } => packed.push(self.words(f, halves, zero)?),
                }
            }
            let (End::Requantize { .. }, Some(&a)) = (self.end, packed.first()) else { continue };
            // In order again: one pixel in each half.
            bytes(f, self.end, [a, packed.last().copied().unwrap_or(a)], free)?;
            if let &[_, (m, j)] = pair {
                if lanes(j) == 16 {
                    f.a.vextracti128(xmmword_ptr(r8 + (m * self.out_pixel + 16 * j)), ymm(a), 1)?;
                } else {
                    f.a.vextracti128(xmm(free), ymm(a), 1)?;
                    self.store(f, free, m, j, lanes(j))?;
                }
            }
            self.store(f, a, pair[0].0, pair[0].1, lanes(pair[0].1))?;
        }
        Ok(())
    }
}

/// Packs the words of two registers, each packed from two registers of dwords, into bytes within the bounds of the result, in
/// the first one and in order: packing takes halves of registers in turn. `free` is lost.
pub fn bytes(f: &mut Asm, end: End, [a, b]: [usize; 2], free: usize) -> Emitted<()> {
    let End::Requantize { signed, .. } = end else { return Ok(()) };
    let (a, b) = (ymm(a), ymm(b));
    if signed {
        f.a.vpacksswb(a, a, b)?
    } else {
        f.a.vpackuswb(a, a, b)?
    }
    let order = f.dwords(std::array::from_fn(|i| [0, 4, 1, 5, 2, 6, 3, 7][i % 8]));
    f.a.vmovdqu(ymm(free), ymmword_ptr(order))?;
    f.a.vpermd(a, ymm(free), a)?;
    clamp(f, end, a)
}

/// Bytes within the bounds of the result, where those are not all bytes.
pub fn clamp(f: &mut Asm, end: End, a: AsmRegisterYmm) -> Emitted<()> {
    let End::Requantize { lo, hi, signed, .. } = end else { return Ok(()) };
    let (least, most) = if signed { (-128, 127) } else { (0, 255) };
    if lo > least {
        let bytes = f.splat8(lo as u8);
        if signed { f.a.vpmaxsb(a, a, ymmword_ptr(bytes))? } else { f.a.vpmaxub(a, a, ymmword_ptr(bytes))? }
    }
    if hi < most {
        let bytes = f.splat8(hi as u8);
        if signed { f.a.vpminsb(a, a, ymmword_ptr(bytes))? } else { f.a.vpminub(a, a, ymmword_ptr(bytes))? }
    }
    Ok(())
}

/// Stores the first `count` bytes, fewer than 16, of a register, which is lost.
pub fn store_first_bytes(f: &mut Asm, v: usize, to: AsmMemoryOperand, count: usize) -> Emitted<()> {
    let mut done = 0;
    for bytes in [8, 4, 2, 1] {
        if count & bytes == 0 {
            continue;
        }
        let at = to + done;
        match bytes {
            8 => f.a.vmovq(qword_ptr(at), xmm(v))?,
            4 => f.a.vmovd(dword_ptr(at), xmm(v))?,
            2 => f.a.vpextrw(word_ptr(at), xmm(v), 0)?,
            _ => f.a.vpextrb(byte_ptr(at), xmm(v), 0)?,
        }
        f.a.vpsrldq(xmm(v), xmm(v), bytes as i32)?;
        done += bytes;
    }
    Ok(())
}

/// Stores the first `count` of eight floats of a register; `free` is another one.
pub fn store_first_floats(f: &mut Asm, v: usize, to: AsmMemoryOperand, count: usize, free: usize) -> Emitted<()> {
    let to = ymmword_ptr(to);
    match count {
        0 => Ok(()),
        8 => f.a.vmovups(to, ymm(v)),
        _ => {
            let mask = f.dwords(std::array::from_fn(|i| if i < count { u32::MAX } else { 0 }));
            f.a.vmovdqu(ymm(free), ymmword_ptr(mask))?;
            f.a.vmaskmovps(to, ymm(free), ymm(v))
        }
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
        // Beside the accumulators: operand, two weights (sums: and product, constant; pairs: twice as many, and those).
        match self.dot {
            Dot::Pairs => (4 / panels).max(1),
            Dot::Sums => (5 / panels).max(1),
            Dot::Bytes { .. } => (6 / panels).max(1),
        }
    }
    fn prologue(&self, f: &mut Asm, _: usize) -> Emitted<()> {
        let word = match self.dot {
            Dot::Pairs => 0xff,
            Dot::Sums => 1,
            Dot::Bytes { .. } => return Ok(()),
        };
        let words = f.splat16(word);
        f.a.vmovdqu(ymm(CONSTANT), ymmword_ptr(words))
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.start(f, t)?;
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
