//! Layers over words of 16 bits in 256-bit vectors: `vpmaddwd`, or `vpdpwssd` where there is VNNI, adds two exact products of
//! a word and a weight, which is widened from a byte as it is loaded. A panel of sixteen channels is two accumulators of a
//! pixel.

use super::{
    Leaf,
    asm::{Asm, Emitted, xmm, ymm},
    cost::{self, Tile},
    narrow::{PANELS_OF_ONE_PIXEL, PARTS, store_first_bytes, store_first_floats},
    nest::{self, Body, Nest, R, X, Y, sum},
};
use iced_x86::code_asm::*;
use quernel_ir::program::{End, PANEL, Step, What};

/// Encoding of VNNI instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vnni {
    /// AVX-VNNI.
    Vex,
    /// AVX-512.
    Evex,
}

/// A tile's arithmetic and its end.
#[derive(Clone, Copy, Debug)]
struct Words {
    /// Products are added to the sums in one instruction.
    vnni: bool,
    end: End,
    /// Bytes between output pixels.
    out_pixel: usize,
    /// Bytes between residual pixels.
    residual: Option<usize>,
}

/// The leaf of a layer, if it is inside the contract: signed words, one group, no implicit padding, taps of a kernel row
/// contiguous (or one tap per row), panels of depth two. `vnni`: the CPU has it, in the encoding of AVX-VNNI or of AVX-512.
pub fn leaf(step: &Step, vnni: Option<Vnni>) -> Option<Leaf> {
    let What::ConvWords { conv, signed: true, residual_signed, end, .. } = &step.what else { return None };
    let unsigned = matches!(end, End::Requantize { signed: false, .. }) || conv.residual.is_some() && !residual_signed;
    if unsigned {
        return None;
    }
    let nest = nest::geometry(conv, 2, [2, 2, if matches!(end, End::Float { .. }) { 4 } else { 2 }])?;
    let body = Words { vnni: vnni.is_some(), end: *end, out_pixel: nest.pixel[Y], residual: conv.residual.map(|_| nest.pixel[R]) };
    let width = if nest.one_pixel() { PANELS_OF_ONE_PIXEL.min(nest.panels()) } else { 1 };
    let (pixels, ..) = cost::split(nest.row_pixels(), body.most_pixels(width));
    let f = if vnni == Some(Vnni::Evex) { Asm::new() } else { Asm::vex() };
    let code = f.and_then(|f| nest::emit(f, &nest, &body, width)).ok()?;
    let isa = if vnni.is_some() { "avxvnni" } else { "avx2" };
    Some(Leaf { code, kernel: format!("conv_s16s8_{pixels}x{}__{isa}", width * PANEL), frame: nest::frame(), cycles: None })
}

impl Words {
    fn first(t: Tile, pixel: usize, panel: usize) -> usize {
        (pixel * t.panels + panel) * PARTS
    }

    /// Two taps of every pixel and panel of the tile, `u` blocks ahead of the pointers.
    fn block(self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let used = t.pixels * t.panels * PARTS;
        let (w, x, product) = (used, used + PARTS, used + PARTS + 1);
        for j in 0..t.panels {
            for part in 0..PARTS {
                f.a.vpmovsxbw(ymm(w + part), xmmword_ptr(r13 + (32 * u + j * n.panel_bytes() + 16 * part)))?;
            }
            for m in 0..t.pixels {
                f.a.vpbroadcastd(ymm(x), dword_ptr(r12 + (4 * u + m * n.pixel[X])))?;
                for part in 0..PARTS {
                    let acc = ymm(Self::first(t, m, j) + part);
                    if self.vnni {
                        f.a.vpdpwssd(acc, ymm(w + part), ymm(x))?;
                        continue;
                    }
                    f.a.vpmaddwd(ymm(product), ymm(w + part), ymm(x))?;
                    f.a.vpaddd(acc, acc, ymm(product))?;
                }
            }
        }
        Ok(())
    }

    /// Scaled sums of eight channels, within the bounds of the result. Two registers from `free` on are free.
    fn bounded(self, f: &mut Asm, v: usize, (pixel, panel, h): (usize, usize, usize), free: usize) -> Emitted<()> {
        if let Some(stride) = self.residual {
            // Factors are positive: the upper half of a lane contributes nothing.
            f.a.vpmovsxwd(ymm(free), xmmword_ptr(rbx + (pixel * stride + 32 * panel + 16 * h)))?;
            f.a.vpmovsxwd(ymm(free + 1), xmmword_ptr(r9 + (32 * panel + 16 * h)))?;
            f.a.vpmaddwd(ymm(free), ymm(free), ymm(free + 1))?;
            f.a.vpaddd(ymm(v), ymm(v), ymm(free))?;
        }
        f.a.vcvtdq2ps(ymm(v), ymm(v))?;
        f.a.vmulps(ymm(v), ymm(v), ymmword_ptr(rcx + (64 * panel + 32 * h)))?;
        let (lo, hi) = match self.end {
            End::Requantize { zero, lo, hi, .. } => ((lo - zero) as f32, (hi - zero) as f32),
            End::Float { lo, hi } => (lo, hi),
        };
        if hi < f32::INFINITY {
            let bound = f.splat32(hi.to_bits());
            f.a.vminps(ymm(v), ymm(v), ymmword_ptr(bound))?;
        }
        if lo > f32::NEG_INFINITY {
            let bound = f.splat32(lo.to_bits());
            f.a.vmaxps(ymm(v), ymm(v), ymmword_ptr(bound))?;
        }
        Ok(())
    }

    /// Rounds the sums of a pixel and panel and stores the first `lanes` of them.
    fn store_words(self, f: &mut Asm, [a, b]: [usize; 2], zero: i32, to: usize, lanes: usize) -> Emitted<()> {
        for v in [a, b] {
            f.a.vcvtps2dq(ymm(v), ymm(v))?;
            if zero != 0 {
                let zero = f.splat32(zero as u32);
                f.a.vpaddd(ymm(v), ymm(v), ymmword_ptr(zero))?;
            }
        }
        // Quarters of both alternate: in order again.
        f.a.vpackssdw(ymm(a), ymm(a), ymm(b))?;
        f.a.vpermq(ymm(a), ymm(a), 0b11_01_10_00)?;
        let at = |done: usize| r8 + (to + done);
        if lanes == PANEL {
            return f.a.vmovdqu(ymmword_ptr(at(0)), ymm(a));
        }
        let mut done = 0;
        if lanes >= 8 {
            f.a.vmovdqu(xmmword_ptr(at(0)), xmm(a))?;
            f.a.vextracti128(xmm(a), ymm(a), 1)?;
            done = 16;
        }
        store_first_bytes(f, a, at(done), 2 * lanes % 16)
    }
}

impl Body for Words {
    fn residual(&self) -> bool {
        self.residual.is_some()
    }
    fn residual_width(&self) -> usize {
        2
    }
    fn width(&self) -> usize {
        match self.end {
            End::Requantize { .. } => 2,
            End::Float { .. } => 4,
        }
    }
    fn most_pixels(&self, panels: usize) -> usize {
        // Beside the accumulators: two weights, operand and product.
        (6 / panels).max(1)
    }
    fn prologue(&self, _: &mut Asm, _: usize) -> Emitted<()> {
        Ok(())
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        let of_a_pixel = t.panels * PARTS;
        for i in 0..of_a_pixel {
            f.a.vmovdqu(ymm(i), ymmword_ptr(rdx + 32 * i))?;
        }
        for i in of_a_pixel..t.pixels * of_a_pixel {
            f.a.vmovaps(ymm(i), ymm(i % of_a_pixel))?;
        }
        sum(f, n, &|f, u| self.block(f, n, t, u))?;
        let free = t.pixels * of_a_pixel;
        for (m, j) in (0..t.pixels).flat_map(|m| (0..t.panels).map(move |j| (m, j))) {
            let lanes = if masked && j + 1 == t.panels { n.lanes } else { PANEL };
            let halves = [0, 1].map(|h| Self::first(t, m, j) + h);
            for (h, v) in halves.into_iter().enumerate() {
                self.bounded(f, v, (m, j, h), free)?;
            }
            let to = m * self.out_pixel + j * PANEL * self.width();
            match self.end {
                End::Requantize { zero, .. } => self.store_words(f, halves, zero, to, lanes)?,
                End::Float { .. } => {
                    for (h, v) in halves.into_iter().enumerate() {
                        store_first_floats(f, v, r8 + (to + 32 * h), lanes.saturating_sub(8 * h).min(8), free)?;
                    }
                }
            }
        }
        Ok(())
    }
}
