//! How sums leave the registers: residual, requantization, packing, stores.

use super::{
    asm::{Asm, Emitted, xmm, ymm, zmm},
    cost::Tile,
    proof::Bounds,
};
use iced_x86::code_asm::*;
use quernel_ir::program::End;

/// `2^23` as f32 bits: an integer `0 <= n < 2^23` added to it is the float `2^23 + n`.
pub const MAGIC: u32 = 0x4B00_0000;
/// Register that holds the order of dwords after packing.
pub const ORDER: usize = 31;
/// Register for constants that live within one tile.
pub const CONSTANT: usize = 30;

/// The end of a layer, with what was proven of its sums.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    end: End,
    /// Sums stay within `-2^23 < acc < 2^23` and the output is `max(0, ..)`: one fused multiply-add rounds exactly.
    fused: bool,
    /// Scaled sums may exceed the i32 conversion, so the upper bound is applied before it.
    clamp_high: bool,
    /// Bytes between output pixels.
    pub out_pixel: usize,
    /// Bytes between residual pixels and the residual's signedness.
    pub residual: Option<(usize, bool)>,
}

impl Epilogue {
    /// Chooses the cheapest exact form.
    pub fn new(end: End, bounds: Bounds, out_pixel: usize, residual: Option<(usize, bool)>) -> Self {
        let limit = 1i64 << 23;
        let small = bounds.lo > -limit && bounds.hi < limit;
        let fused = matches!(end, End::Requantize { zero: 0, lo: 0, signed: false, .. }) && small;
        let clamp_high = bounds.scaled * (1.0 + 2f64.powi(-22)) >= 2f64.powi(31);
        Self { end, fused: fused && !clamp_high, clamp_high, out_pixel, residual }
    }

    /// Bytes of one output element.
    pub fn width(&self) -> usize {
        match self.end {
            End::Requantize { .. } => 1,
            End::Float { .. } => 4,
        }
    }

    /// Loads what stays in registers through the whole function; `lanes` is the number of channels of the last panel.
    pub fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        let order = f.dwords(std::array::from_fn(|i| (4 * (i % 4) + i / 4) as u32));
        f.a.vmovdqu32(zmm(ORDER), zmmword_ptr(order))?;
        if lanes < 16 {
            f.a.mov(eax, (1 << lanes) - 1)?;
            f.a.kmovd(k1, eax)?;
        }
        if lanes <= 8 {
            f.a.mov(eax, 0xff00)?;
            f.a.kmovd(k2, eax)?;
        }
        Ok(())
    }

    /// Starts the accumulators of a tile with the biases at `bias`.
    pub fn start(&self, f: &mut Asm, tile: Tile, bias: AsmRegister64) -> Emitted<()> {
        if self.fused {
            let magic = f.splat32(MAGIC);
            f.a.vmovdqu32(zmm(CONSTANT), zmmword_ptr(magic))?;
        }
        for j in 0..tile.panels {
            let at = zmmword_ptr(bias + 64 * j);
            if self.fused { f.a.vpaddd(zmm(j), zmm(CONSTANT), at)? } else { f.a.vmovdqu32(zmm(j), at)? }
        }
        for m in 1..tile.pixels {
            for j in 0..tile.panels {
                f.a.vmovdqa32(zmm(m * tile.panels + j), zmm(j))?;
            }
        }
        Ok(())
    }

    /// Ends a tile: accumulator `pixel * panels + panel` goes to its place. The registers behind the accumulators are
    /// free. `masked` says that the last panel is the layer's last and not full.
    pub fn finish(&self, f: &mut Asm, tile: Tile, at: &Pointers, masked: bool) -> Emitted<()> {
        let free = tile.pixels * tile.panels;
        let acc = |m: usize, j: usize| zmm(m * tile.panels + j);
        if let Some((stride, signed)) = self.residual {
            let temporary = free + tile.panels;
            for j in 0..tile.panels {
                f.a.vpmovsxwd(zmm(free + j), ymmword_ptr(at.factors + 32 * j))?;
            }
            for m in 0..tile.pixels {
                for j in 0..tile.panels {
                    let from = xmmword_ptr(at.residual + (m * stride + 16 * j));
                    if signed {
                        f.a.vpmovsxbd(zmm(temporary), from)?
                    } else {
                        f.a.vpmovzxbd(zmm(temporary), from)?
                    }
                    f.a.vpdpwssd(acc(m, j), zmm(temporary), zmm(free + j))?;
                }
            }
        }
        match self.end {
            End::Float { lo, hi } => self.finish_float(f, tile, at, masked, lo, hi),
            End::Requantize { .. } => {
                self.scale(f, tile, at)?;
                let all: Vec<(usize, usize)> = (0..tile.pixels).flat_map(|m| (0..tile.panels).map(move |j| (m, j))).collect();
                for group in all.chunks(4) {
                    // The last group may be short: its last accumulator then stands in for the missing ones.
                    let reg = |i: usize| {
                        let (m, j) = group[i.min(group.len() - 1)];
                        m * tile.panels + j
                    };
                    self.pack(f, [reg(0), reg(1), reg(2), reg(3)], free)?;
                    let packed = zmm(reg(0));
                    f.a.vpermd(packed, zmm(ORDER), packed)?;
                    self.store(f, group, reg(0), free, tile, at, masked)?;
                }
                Ok(())
            }
        }
    }

    /// Saturates four registers of rounded integers to bytes in the first of them, zero point and bounds applied. Lane
    /// by lane: four dwords of each, in order. `temporary` is free.
    pub fn pack(&self, f: &mut Asm, r: [usize; 4], temporary: usize) -> Emitted<()> {
        let End::Requantize { zero, lo, hi, signed } = self.end else { return Ok(()) };
        let (packed, second) = (zmm(r[0]), zmm(temporary));
        // The first register may stand in for others, so it is written last.
        f.a.vpackssdw(second, zmm(r[2]), zmm(r[3]))?;
        f.a.vpackssdw(packed, packed, zmm(r[1]))?;
        if zero != 0 {
            let words = f.splat16(zero as i16 as u16);
            f.a.vpaddsw(packed, packed, zmmword_ptr(words))?;
            f.a.vpaddsw(second, second, zmmword_ptr(words))?;
        }
        let (least, most) = if signed { (-128, 127) } else { (0, 255) };
        if signed {
            f.a.vpacksswb(packed, packed, second)?
        } else {
            f.a.vpackuswb(packed, packed, second)?
        }
        if lo > least {
            let bytes = f.splat8(lo as u8);
            if signed { f.a.vpmaxsb(packed, packed, zmmword_ptr(bytes))? } else { f.a.vpmaxub(packed, packed, zmmword_ptr(bytes))? }
        }
        if hi < most {
            let bytes = f.splat8(hi as u8);
            if signed { f.a.vpminsb(packed, packed, zmmword_ptr(bytes))? } else { f.a.vpminub(packed, packed, zmmword_ptr(bytes))? }
        }
        Ok(())
    }

    /// A register of sums to rounded integers, without the zero point. `shift` holds `-2^23 M` when [`Self::fused`].
    pub fn round(&self, f: &mut Asm, r: AsmRegisterZmm, scale: AsmMemoryOperand, shift: AsmRegisterZmm) -> Emitted<()> {
        if self.fused {
            // One rounding of the exact (2^23 + acc) * M - 2^23 * M.
            f.a.vfmadd132ps(r, shift, scale)?;
            return f.a.vcvtps2dq(r, r);
        }
        f.a.vcvtdq2ps(r, r)?;
        f.a.vmulps(r, r, scale)?;
        self.integers(f, r)
    }

    /// The same with the scales in a register, for sums without [`MAGIC`].
    pub fn round_by(&self, f: &mut Asm, r: AsmRegisterZmm, scale: AsmRegisterZmm) -> Emitted<()> {
        f.a.vcvtdq2ps(r, r)?;
        f.a.vmulps(r, r, scale)?;
        self.integers(f, r)
    }

    fn integers(&self, f: &mut Asm, r: AsmRegisterZmm) -> Emitted<()> {
        if let Some(bound) = self.upper() {
            let bound = f.splat32(bound.to_bits());
            f.a.vminps(r, r, zmmword_ptr(bound))?;
        }
        f.a.vcvtps2dq(r, r)
    }

    /// The bound that scaled sums need before they are rounded, so that the conversion does not overflow.
    pub fn upper(&self) -> Option<f32> {
        match self.end {
            End::Requantize { zero, hi, .. } if self.clamp_high => Some((hi - zero) as f32),
            _ => None,
        }
    }

    /// Whether sums start at [`MAGIC`] and end in one fused multiply-add.
    pub fn fused(&self) -> bool {
        self.fused
    }

    /// Whether the output is bytes.
    pub fn bytes(&self) -> bool {
        matches!(self.end, End::Requantize { .. })
    }

    fn scale(&self, f: &mut Asm, tile: Tile, at: &Pointers) -> Emitted<()> {
        let free = tile.pixels * tile.panels;
        if self.fused {
            let magic = f.splat32((-(2f32.powi(23))).to_bits());
            f.a.vmovdqu32(zmm(CONSTANT), zmmword_ptr(magic))?;
            for j in 0..tile.panels {
                f.a.vmulps(zmm(free + j), zmm(CONSTANT), zmmword_ptr(at.scale + 64 * j))?;
            }
        }
        for m in 0..tile.pixels {
            for j in 0..tile.panels {
                self.round(f, zmm(m * tile.panels + j), zmmword_ptr(at.scale + 64 * j), zmm(free + j))?;
            }
        }
        Ok(())
    }

    fn finish_float(&self, f: &mut Asm, tile: Tile, at: &Pointers, masked: bool, lo: f32, hi: f32) -> Emitted<()> {
        for m in 0..tile.pixels {
            for j in 0..tile.panels {
                let r = zmm(m * tile.panels + j);
                f.a.vcvtdq2ps(r, r)?;
                f.a.vmulps(r, r, zmmword_ptr(at.scale + 64 * j))?;
                if lo > f32::NEG_INFINITY {
                    let bound = f.splat32(lo.to_bits());
                    f.a.vmaxps(r, r, zmmword_ptr(bound))?;
                }
                if hi < f32::INFINITY {
                    let bound = f.splat32(hi.to_bits());
                    f.a.vminps(r, r, zmmword_ptr(bound))?;
                }
                let to = zmmword_ptr(at.out + (m * self.out_pixel + 64 * j));
                if masked && j + 1 == tile.panels { f.a.vmovups(to.k1(), r)? } else { f.a.vmovups(to, r)? }
            }
        }
        Ok(())
    }

    /// Stores the 16-byte chunks of a packed register; neighbours in memory go together.
    #[allow(clippy::too_many_arguments)]
    fn store(
        &self,
        f: &mut Asm,
        group: &[(usize, usize)],
        packed: usize,
        free: usize,
        tile: Tile,
        at: &Pointers,
        masked: bool,
    ) -> Emitted<()> {
        let place = |i: usize| group[i].0 * self.out_pixel + 16 * group[i].1;
        let partial = |i: usize| masked && group[i].1 + 1 == tile.panels;
        let joined = |a: usize, b: usize| b < group.len() && (a..b).all(|i| place(i + 1) == place(i) + 16) && !(a..=b).any(partial);
        if joined(0, 3) {
            return f.a.vmovdqu32(zmmword_ptr(at.out + place(0)), zmm(packed));
        }
        let mut i = 0;
        while i < group.len() {
            if i % 2 == 0 && joined(i, i + 1) {
                let to = ymmword_ptr(at.out + place(i));
                if i == 0 {
                    f.a.vmovdqu32(to, ymm(packed))?
                } else {
                    f.a.vextracti64x4(to, zmm(packed), 1)?
                }
                i += 2;
                continue;
            }
            let to = xmmword_ptr(at.out + place(i));
            if partial(i) {
                let source = if i == 0 {
                    packed
                } else {
                    f.a.vextracti32x4(xmm(free), zmm(packed), i as i32)?;
                    free
                };
                f.a.vmovdqu8(to.k1(), xmm(source))?;
            } else if i == 0 {
                f.a.vmovdqu32(to, xmm(packed))?;
            } else {
                f.a.vextracti32x4(to, zmm(packed), i as i32)?;
            }
            i += 1;
        }
        Ok(())
    }
}

/// Registers that point at the current tile.
#[derive(Clone, Copy, Debug)]
pub struct Pointers {
    /// Output of the tile's first pixel and panel.
    pub out: AsmRegister64,
    /// Residual of the same.
    pub residual: AsmRegister64,
    /// Scales of the first panel.
    pub scale: AsmRegister64,
    /// Residual factors of the first panel.
    pub factors: AsmRegister64,
}
