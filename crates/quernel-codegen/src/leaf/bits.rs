//! Products of bits: exclusive or, ones counted in bytes, bytes added up now and then.
//!
//! AVX2 counts the ones of a byte by a table of nibbles; with AVX-512, BITALG counts them. Every CPU with VNNI and VBMI has
//! BITALG.

use super::{
    Leaf,
    asm::{Asm, Emitted, ymm, zmm},
    constant,
    cost::Tile,
    epilogue::{Epilogue, Pointers},
    narrow::{Dot, Narrow, PARTS},
    nest::{self, Body, Nest, X, Y},
    proof::Bounds,
};
use iced_x86::code_asm::*;
use quernel_ir::{
    Program,
    program::{End, PANEL, Step, What},
};

/// Words whose ones a byte counts, eight of each, before bytes are added up; a multiple of [`UNROLL`].
const RUN: usize = 28;
const UNROLL: usize = 4;
/// Pixels times panels of a tile in 256 bits, and in 512.
const MOST: usize = 2;
const MOST_WIDE: usize = 8;

/// The leaf of a product of bits, in 512 bits or in 256.
pub fn leaf(program: &Program, step: &Step, wide: bool) -> Option<Leaf> {
    let What::ConvBits { conv, end } = &step.what else { return None };
    let nest = nest::geometry(conv, 4, [1, 1, if matches!(end, End::Float { .. }) { 4 } else { 1 }])?;
    let bounds = bounds(program, step, 8 * (nest.panel_bytes() / PANEL) as i64)?;
    let single = nest.one_pixel();
    let (code, pixels, width, level) = if wide {
        let body = Wide { epilogue: Epilogue::new(*end, bounds, nest.pixel[Y], None) };
        let width = if single { 4 } else { 2 }.min(nest.panels());
        (Asm::new().and_then(|f| nest::emit(f, &nest, &body, width)), body.most_pixels(width), width, "avx512bitalg")
    } else {
        let body = Bits { narrow: Narrow::new(Dot::Sums, *end, bounds, nest.pixel[Y], None) };
        let width = if single { MOST } else { 1 }.min(nest.panels());
        (Asm::vex().and_then(|f| nest::emit(f, &nest, &body, width)), body.most_pixels(width), width, "avx2")
    };
    let kernel = format!("conv_bits_{}x{}__{level}", nest.row_pixels().min(pixels), width * PANEL);
    Some(Leaf { code: code.ok()?, kernel, frame: nest::frame(), cycles: None })
}

/// Bounds of sums that take up to `bits` from the bias.
fn bounds(program: &Program, step: &Step, bits: i64) -> Option<Bounds> {
    let (bias, scale) = (constant(program, step.reads.get(2)?)?, constant(program, step.reads.get(3)?)?);
    let mut all = Bounds { lo: i64::MAX, hi: i64::MIN, scaled: 0.0 };
    for (b, s) in bias.as_chunks::<4>().0.iter().zip(scale.as_chunks::<4>().0) {
        let (b, s) = (i64::from(i32::from_le_bytes(*b)), f32::from_le_bytes(*s));
        all.lo = all.lo.min(b - bits);
        all.hi = all.hi.max(b);
        all.scaled = all.scaled.max((b - bits).unsigned_abs().max(b.unsigned_abs()) as f64 * f64::from(s));
    }
    Some(all)
}

/// What a tile does with words.
trait Words {
    /// Counts start at 0.
    fn clear(&self, f: &mut Asm, t: Tile) -> Emitted<()>;
    /// A word of each pixel and panel, `u` words ahead of r12 (operand) and r13 (weights).
    fn word(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()>;
    /// Takes the counts from the sums.
    fn flush(&self, f: &mut Asm, t: Tile) -> Emitted<()>;
}

/// All words of a tile, in runs that bytes can count.
fn sum(f: &mut Asm, n: &Nest, t: Tile, body: &dyn Words) -> Emitted<()> {
    f.a.mov(r12, rdi)?;
    f.a.mov(r13, rsi)?;
    let mut segments = f.a.create_label();
    if n.segments() > 1 {
        f.a.mov(rbp, n.segments() as u64)?;
        f.a.set_label(&mut segments)?;
    }
    let run = |f: &mut Asm, words: usize| -> Emitted<()> {
        body.clear(f, t)?;
        let (passes, rest) = (words / UNROLL, words % UNROLL);
        if passes > 0 {
            f.a.mov(r14, passes as u64)?;
            let mut top = f.a.create_label();
            f.a.set_label(&mut top)?;
            for u in 0..UNROLL {
                body.word(f, n, t, u)?;
            }
            f.a.add(r12, 4 * UNROLL as i32)?;
            f.a.add(r13, 64 * UNROLL as i32)?;
            f.a.dec(r14)?;
            f.a.jnz(top)?;
        }
        for u in 0..rest {
            body.word(f, n, t, u)?;
        }
        if rest > 0 {
            f.a.add(r12, 4 * rest as i32)?;
            f.a.add(r13, 64 * rest as i32)?;
        }
        body.flush(f, t)
    };
    let (full, rest) = (n.blocks / RUN, n.blocks % RUN);
    if full > 0 {
        // There are no residual factors, whose register this is.
        f.a.mov(r9, full as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        run(f, RUN)?;
        f.a.dec(r9)?;
        f.a.jnz(top)?;
    }
    if rest > 0 {
        run(f, rest)?;
    }
    if n.segments() > 1 {
        f.a.add(r12, n.segment() as i32 - 4 * n.blocks as i32)?;
        f.a.dec(rbp)?;
        f.a.jnz(segments)?;
    }
    Ok(())
}

/// A tile in 256 bits.
struct Bits {
    narrow: Narrow,
}

const TABLE: usize = 8;
const MASK: usize = 9;
const OPERAND: usize = 10;
const LOW: usize = 11;
const HIGH: usize = 12;
const WEIGHT: usize = 13;

impl Words for Bits {
    fn clear(&self, f: &mut Asm, t: Tile) -> Emitted<()> {
        let used = t.pixels * t.panels * PARTS;
        (used..2 * used).try_for_each(|c| f.a.vpxor(ymm(c), ymm(c), ymm(c)))
    }
    fn word(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let used = t.pixels * t.panels * PARTS;
        for panel in 0..t.panels {
            for part in 0..PARTS {
                f.a.vmovdqu(ymm(WEIGHT + part), ymmword_ptr(r13 + (64 * u + panel * n.panel_bytes() + 32 * part)))?;
            }
            for m in 0..t.pixels {
                f.a.vpbroadcastd(ymm(OPERAND), dword_ptr(r12 + (4 * u + m * n.pixel[X])))?;
                for part in 0..PARTS {
                    let count = ymm(used + self.narrow.first(t, m, panel) + part);
                    f.a.vpxor(ymm(LOW), ymm(OPERAND), ymm(WEIGHT + part))?;
                    f.a.vpsrlw(ymm(HIGH), ymm(LOW), 4)?;
                    f.a.vpand(ymm(LOW), ymm(LOW), ymm(MASK))?;
                    f.a.vpand(ymm(HIGH), ymm(HIGH), ymm(MASK))?;
                    f.a.vpshufb(ymm(LOW), ymm(TABLE), ymm(LOW))?;
                    f.a.vpshufb(ymm(HIGH), ymm(TABLE), ymm(HIGH))?;
                    f.a.vpaddb(count, count, ymm(LOW))?;
                    f.a.vpaddb(count, count, ymm(HIGH))?;
                }
            }
        }
        Ok(())
    }
    fn flush(&self, f: &mut Asm, t: Tile) -> Emitted<()> {
        let used = t.pixels * t.panels * PARTS;
        let (bytes, words) = (f.splat8(1), f.splat16(1));
        for acc in 0..used {
            let count = ymm(used + acc);
            f.a.vpmaddubsw(count, count, ymmword_ptr(bytes))?;
            f.a.vpmaddwd(count, count, ymmword_ptr(words))?;
            f.a.vpsubd(ymm(acc), ymm(acc), count)?;
        }
        Ok(())
    }
}

impl Body for Bits {
    fn residual(&self) -> bool {
        false
    }
    fn width(&self) -> usize {
        Body::width(&self.narrow)
    }
    fn most_pixels(&self, panels: usize) -> usize {
        (MOST / panels).max(1)
    }
    fn prologue(&self, _: &mut Asm, _: usize) -> Emitted<()> {
        Ok(())
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.narrow.start(f, t)?;
        let ones = f.literal(std::array::from_fn(|i| (i % 16).count_ones() as u8));
        f.a.vmovdqu(ymm(TABLE), ymmword_ptr(ones))?;
        let mask = f.splat8(15);
        f.a.vmovdqu(ymm(MASK), ymmword_ptr(mask))?;
        sum(f, n, t, self)?;
        self.narrow.finish(f, n, t, masked)
    }
}

/// A tile in 512 bits.
struct Wide {
    epilogue: Epilogue,
}

impl Words for Wide {
    fn clear(&self, f: &mut Asm, t: Tile) -> Emitted<()> {
        let used = t.pixels * t.panels;
        (used..2 * used).try_for_each(|c| f.a.vpxord(zmm(c), zmm(c), zmm(c)))
    }
    fn word(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let used = t.pixels * t.panels;
        let (weight, operand, ones) = (2 * used, 2 * used + t.panels, 2 * used + t.panels + 1);
        for j in 0..t.panels {
            f.a.vmovdqu32(zmm(weight + j), zmmword_ptr(r13 + (64 * u + j * n.panel_bytes())))?;
        }
        for m in 0..t.pixels {
            f.a.vpbroadcastd(zmm(operand), dword_ptr(r12 + (4 * u + m * n.pixel[X])))?;
            for j in 0..t.panels {
                let count = zmm(used + m * t.panels + j);
                f.a.vpxord(zmm(ones), zmm(operand), zmm(weight + j))?;
                f.a.vpopcntb(zmm(ones), zmm(ones))?;
                f.a.vpaddb(count, count, zmm(ones))?;
            }
        }
        Ok(())
    }
    fn flush(&self, f: &mut Asm, t: Tile) -> Emitted<()> {
        let used = t.pixels * t.panels;
        let (bytes, words) = (f.splat8(1), f.splat16(1));
        for acc in 0..used {
            let count = zmm(used + acc);
            f.a.vpmaddubsw(count, count, zmmword_ptr(bytes))?;
            f.a.vpmaddwd(count, count, zmmword_ptr(words))?;
            f.a.vpsubd(zmm(acc), zmm(acc), count)?;
        }
        Ok(())
    }
}

impl Body for Wide {
    fn residual(&self) -> bool {
        false
    }
    fn width(&self) -> usize {
        self.epilogue.width()
    }
    fn most_pixels(&self, panels: usize) -> usize {
        (MOST_WIDE / panels).clamp(1, 4)
    }
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        self.epilogue.prologue(f, lanes)
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.epilogue.start(f, t, rdx)?;
        sum(f, n, t, self)?;
        self.epilogue.finish(f, t, &Pointers { out: r8, residual: rbx, scale: rcx, factors: r9 }, masked)
    }
}
