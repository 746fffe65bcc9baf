//! Weights in codes: expansion of a run of weights into memory, and products that expand each unit in registers.
//!
//! With AVX2 a code selects among sixteen bytes, so two or four codes of a nibble have tables of their own. Products of a byte
//! and a small table entry add up in 16 bits as often as the largest entry allows, which is proven from the table. With VBMI a
//! permutation by six bits ignores what lies above a code, and no code is masked. A table of 4 bits whose entries count up by
//! one is not looked up at all where a layer has one pixel: see [`CodedWide`].

use super::{
    Leaf,
    asm::{Asm, Emitted, ymm, zmm},
    constant,
    cost::Tile,
    epilogue::{Epilogue, Pointers},
    narrow::{Dot, Narrow, PARTS, sums_fit},
    nest::{self, Body, Nest, X},
    proof,
};
use iced_x86::code_asm::*;
use quernel_ir::{
    Program,
    codes::{UNIT, nibbles, packed_len, per_unit, weights},
    program::{End, PANEL, Step, What},
};

/// Units that one pass of an inner loop handles at most.
const UNROLL: usize = 4;

/// The leaf of an expansion: in 512 bits with VBMI, or in 256 bits.
pub fn expand(step: &Step, wide: bool) -> Option<Leaf> {
    let What::Expand { count, bits } = step.what else { return None };
    (count < 1 << 30).then_some(())?;
    let code = if wide { expand_wide(count, bits) } else { expand_narrow(count, bits) }.ok()?;
    let kernel = format!("expand_codes{bits}__{}", if wide { "avx512vbmi" } else { "avx2" });
    Some(Leaf { code, kernel, frame: 8, cycles: None })
}

/// Calls `unit` for every unit of codes at rdi, the last perhaps with fewer parts; it leaves the pointers alone.
fn each_unit(f: &mut Asm, count: usize, bits: u8, unit: &dyn Fn(&mut Asm, usize) -> Emitted<()>) -> Emitted<()> {
    let (full, rest) = (count / per_unit(bits), count % per_unit(bits) / UNIT);
    if full > 0 {
        f.a.mov(rcx, full as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        unit(f, per_unit(bits) / UNIT)?;
        f.a.add(rdi, UNIT as i32)?;
        f.a.add(rdx, per_unit(bits) as i32)?;
        f.a.dec(rcx)?;
        f.a.jnz(top)?;
    }
    if rest > 0 { unit(f, rest) } else { Ok(()) }
}

/// Arguments: codes in rdi, table in rsi, result in rdx.
fn expand_narrow(count: usize, bits: u8) -> Emitted<Vec<u8>> {
    let mut f = Asm::vex()?;
    let (low, high, entry, table) = (0, 1, 2, 4);
    nibble_tables(&mut f, bits, rsi, table)?;
    each_unit(&mut f, count, bits, &|f, parts| {
        for half in 0..2 {
            split(f, bits, parts, ymmword_ptr(rdi + 32 * half), [low, high], None)?;
            for part in 0..parts {
                let (nibble, order) = place(bits, part);
                f.a.vpshufb(ymm(entry), ymm(table + order), ymm(if nibble == 0 { low } else { high }))?;
                f.a.vmovdqu(ymmword_ptr(rdx + (UNIT * part + 32 * half)), ymm(entry))?;
            }
        }
        Ok(())
    })?;
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

fn expand_wide(count: usize, bits: u8) -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    let table = 31;
    wide_table(&mut f, bits, rsi, table)?;
    each_unit(&mut f, count, bits, &|f, parts| {
        f.a.vmovdqu32(zmm(0), zmmword_ptr(rdi))?;
        for part in 0..parts {
            if part > 0 {
                f.a.vpsrlw(zmm(0), zmm(0), i32::from(bits))?;
            }
            f.a.vpermb(zmm(1), zmm(0), zmm(table))?;
            f.a.vmovdqu32(zmmword_ptr(rdx + UNIT * part), zmm(1))?;
        }
        Ok(())
    })?;
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Which half of a byte code number `part` lies in, and which of the codes there it is.
fn place(bits: u8, part: usize) -> (usize, usize) {
    let first = part * usize::from(bits);
    (first / 4, first % 4 / usize::from(bits))
}

/// Loads the tables of a nibble's codes into registers from `first` on.
fn nibble_tables(f: &mut Asm, bits: u8, at: AsmRegister64, first: usize) -> Emitted<()> {
    let orders = nibbles(bits);
    for (i, order) in orders.iter().enumerate() {
        let r = ymm(first + i);
        f.a.vbroadcasti128(r, xmmword_ptr(at))?;
        if orders.len() > 1 {
            let order = f.literal(std::array::from_fn(|b| order[b % 16]));
            f.a.vpshufb(r, r, ymmword_ptr(order))?;
        }
    }
    Ok(())
}

/// Loads the table of the low `bits` of six into a register.
fn wide_table(f: &mut Asm, bits: u8, at: AsmRegister64, r: usize) -> Emitted<()> {
    let order = f.literal(std::array::from_fn(|i| i as u8 & ((1 << bits) - 1)));
    f.a.vbroadcasti32x4(zmm(r), xmmword_ptr(at))?;
    f.a.vpshufb(zmm(r), zmm(r), zmmword_ptr(order))
}

/// The nibbles of 32 bytes of codes; the high ones only where `parts` reach them.
/// The mask of a nibble is in a register where there is one.
fn split(f: &mut Asm, bits: u8, parts: usize, from: AsmMemoryOperand, [low, high]: [usize; 2], mask: Option<usize>) -> Emitted<()> {
    let and = |f: &mut Asm, r: usize| match mask {
        Some(mask) => f.a.vpand(ymm(r), ymm(r), ymm(mask)),
        None => {
            let mask = f.splat8(15);
            f.a.vpand(ymm(r), ymm(r), ymmword_ptr(mask))
        }
    };
    f.a.vmovdqu(ymm(low), from)?;
    if parts * usize::from(bits) > 4 {
        f.a.vpsrlw(ymm(high), ymm(low), 4)?;
        and(f, high)?;
    }
    and(f, low)
}

/// The geometry of a product over codes, and what was proven of its sums.
fn geometry(program: &Program, step: &Step) -> Option<(Nest, u8, End, proof::Bounds)> {
    let What::ConvCodes { conv, bits, signed: false, end } = &step.what else { return None };
    let nest = nest::geometry(conv, 4, [1, 1, if matches!(end, End::Float { .. }) { 4 } else { 1 }])?;
    let nest = nest.with_panel_bytes(packed_len(nest.blocks * UNIT, *bits));
    Some((nest, *bits, *end, proof::bounds(program, step, conv, false)?))
}

/// The product in 256 bits.
pub fn narrow(program: &Program, step: &Step, dot: Dot) -> Option<Leaf> {
    let (nest, bits, end, bounds) = geometry(program, step)?;
    let depth = match dot {
        Dot::Bytes { .. } => None,
        _ => {
            sums_fit(&weights(program, step)?).then_some(())?;
            let table = constant(program, step.reads.get(4)?)?;
            let largest = table.iter().take(1 << bits).map(|e| i32::from(*e as i8).abs()).max()?;
            Some((i32::from(i16::MAX) / (2 * 255 * largest.max(1))).max(1) as usize)
        }
    };
    let body = Coded { narrow: Narrow::new(dot, end, bounds, nest.pixel[nest::Y], None), bits, depth };
    let width = if nest.one_pixel() { MOST.min(nest.panels()) } else { 1 };
    let f = if dot == (Dot::Bytes { vex: false }) { Asm::new() } else { Asm::vex() };
    let code = f.and_then(|f| nest::emit(f, &nest, &body, width)).ok()?;
    let pixels = nest.row_pixels().min(body.most_pixels(width));
    let level = if depth.is_some() { "avx2" } else { dot.name() };
    let kernel = format!("conv_codes{bits}_{pixels}x{}__{level}", width * PANEL);
    Some(Leaf { code, kernel, frame: nest::frame(), cycles: None })
}

/// The product in 512 bits; with a table only where there is VBMI.
pub fn wide(program: &Program, step: &Step, vbmi: bool) -> Option<Leaf> {
    let (nest, bits, end, bounds) = geometry(program, step)?;
    // Codes times sixteen add up apart, in 32 bits.
    let fits = (4 * nest.blocks).checked_mul(255 * 128).is_some_and(|most| i32::try_from(most).is_ok());
    let first = if bits == 4 && nest.one_pixel() && fits { counting(program, step) } else { None };
    (vbmi || first.is_some()).then_some(())?;
    let body = CodedWide { epilogue: Epilogue::new(end, bounds, nest.pixel[nest::Y], None), bits, first };
    let width = if nest.one_pixel() { MOST_WIDE } else { 2 }.min(nest.panels());
    let code = Asm::new().and_then(|f| nest::emit(f, &nest, &body, width)).ok()?;
    let pixels = nest.row_pixels().min(body.most_pixels(width));
    let form = if first.is_some() { "_counted" } else { "" };
    let kernel = format!("conv_codes{bits}_{pixels}x{}__avx512vnni{form}", width * PANEL);
    Some(Leaf { code, kernel, frame: nest::frame(), cycles: None })
}

/// The entry of code 0 in the table of a product over codes of 4 bits, if every entry that a code selects is one more than that
/// before it.
fn counting(program: &Program, step: &Step) -> Option<i8> {
    let (codes, table) = (constant(program, step.reads.get(1)?)?, constant(program, step.reads.get(4)?)?);
    let last = codes.iter().map(|byte| (byte & 15).max(byte >> 4)).max()?;
    let first = *table.first()? as i8;
    let counts = |code: u8| table.get(usize::from(code)).is_some_and(|e| i32::from(*e as i8) == i32::from(first) + i32::from(code));
    // What is added to sums of codes less 8 has to be a byte.
    ((0..=last).all(counts) && first <= 119).then_some(first)
}

/// Pixels times panels of a tile in 256 bits, and in 512.
const MOST: usize = 2;
const MOST_WIDE: usize = 8;

/// A tile in 256 bits.
struct Coded {
    narrow: Narrow,
    bits: u8,
    /// How many sums of two products 16 bits hold; `None` with byte dot products.
    depth: Option<usize>,
}

const OPERAND: usize = 12;
const LOW: usize = 13;
const HIGH: usize = 14;
const WEIGHT: usize = 15;
const TABLES: usize = 8;

impl Coded {
    /// Units `first` to `first + count` behind r12 (operand) and r13 (codes); of the last one `parts` blocks.
    fn units(&self, f: &mut Asm, n: &Nest, t: Tile, count: usize, parts: usize) -> Emitted<()> {
        let accumulators = t.pixels * t.panels * PARTS;
        let all = per_unit(self.bits) / UNIT;
        // Sums of products that the 16-bit half of each accumulator holds.
        let mut held = vec![0; accumulators];
        for unit in 0..count {
            let parts = if unit + 1 == count { parts } else { all };
            let operand = |part: usize, m: usize| dword_ptr(r12 + (4 * (all * unit + part) + m * n.pixel[X]));
            let kept = self.kept(t);
            for (part, r) in kept.iter().enumerate().take(parts) {
                f.a.vpbroadcastd(ymm(*r), operand(part, 0))?;
            }
            for (panel, half) in (0..t.panels).flat_map(|j| [(j, 0), (j, 1)]) {
                let from = ymmword_ptr(r13 + (UNIT * unit + panel * n.panel_bytes() + 32 * half));
                split(f, self.bits, parts, from, [LOW, HIGH], self.mask())?;
                for part in 0..parts {
                    let (nibble, order) = place(self.bits, part);
                    f.a.vpshufb(ymm(WEIGHT), ymm(TABLES + order), ymm(if nibble == 0 { LOW } else { HIGH }))?;
                    for m in 0..t.pixels {
                        let acc = self.narrow.first(t, m, panel) + half;
                        let r = match kept.get(part) {
                            Some(r) => *r,
                            None => {
                                f.a.vpbroadcastd(ymm(OPERAND), operand(part, m))?;
                                OPERAND
                            }
                        };
                        self.multiply(f, (acc, accumulators + acc), r, &mut held[acc])?;
                    }
                }
            }
        }
        for acc in (0..accumulators).filter(|a| held[*a] > 0) {
            self.widen(f, acc, accumulators + acc)?;
        }
        Ok(())
    }

    /// The register of the mask of a nibble, if one is left behind the tables.
    fn mask(&self) -> Option<usize> {
        Some(TABLES + nibbles(self.bits).len()).filter(|r| *r < OPERAND)
    }

    /// Registers that hold the operand's words of a unit, one per block, where there are enough for one pixel.
    fn kept(&self, t: Tile) -> Vec<usize> {
        let first = self.mask().map_or(OPERAND, |r| r + 1);
        let parts = per_unit(self.bits) / UNIT;
        if t.pixels == 1 && first + parts <= OPERAND { (first..first + parts).collect() } else { Vec::new() }
    }

    /// Adds the products of four taps of the word in register `x` to an accumulator, or to its 16-bit half.
    fn multiply(&self, f: &mut Asm, (acc, half): (usize, usize), x: usize, held: &mut usize) -> Emitted<()> {
        // A word that is kept must not be overwritten; the last use of weights may be.
        let to = if x == OPERAND { OPERAND } else { WEIGHT };
        match self.depth {
            None => f.a.vpdpbusd(ymm(acc), ymm(x), ymm(WEIGHT)),
            Some(1) => {
                f.a.vpmaddubsw(ymm(to), ymm(x), ymm(WEIGHT))?;
                self.widen(f, acc, to)
            }
            Some(depth) => {
                if *held == 0 {
                    f.a.vpmaddubsw(ymm(half), ymm(x), ymm(WEIGHT))?;
                } else {
                    f.a.vpmaddubsw(ymm(to), ymm(x), ymm(WEIGHT))?;
                    f.a.vpaddw(ymm(half), ymm(half), ymm(to))?;
                }
                *held += 1;
                if *held == depth {
                    self.widen(f, acc, half)?;
                    *held = 0;
                }
                Ok(())
            }
        }
    }

    /// Adds pairs of the words in `from`, which is lost, to an accumulator.
    fn widen(&self, f: &mut Asm, acc: usize, from: usize) -> Emitted<()> {
        let ones = f.splat16(1);
        f.a.vpmaddwd(ymm(from), ymm(from), ymmword_ptr(ones))?;
        f.a.vpaddd(ymm(acc), ymm(acc), ymm(from))
    }
}

/// Walks over the units of a panel's codes: r12 over the operand, r13 over the codes. `units(f, count, parts)` handles some,
/// the last of them with `parts` blocks.
fn walk(f: &mut Asm, n: &Nest, bits: u8, units: &dyn Fn(&mut Asm, usize, usize) -> Emitted<()>) -> Emitted<()> {
    let all = per_unit(bits) / UNIT;
    let (total, last) = (n.blocks.div_ceil(all), (n.blocks - 1) % all + 1);
    f.a.mov(r12, rdi)?;
    f.a.mov(r13, rsi)?;
    // The last units, one of which may be short, come behind the loop.
    let passes = (total - 1) / UNROLL;
    if passes > 0 {
        f.a.mov(r14, passes as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        units(f, UNROLL, all)?;
        f.a.add(r12, (4 * all * UNROLL) as i32)?;
        f.a.add(r13, (UNIT * UNROLL) as i32)?;
        f.a.dec(r14)?;
        f.a.jnz(top)?;
    }
    units(f, total - passes * UNROLL, last)
}

impl Body for Coded {
    fn residual(&self) -> bool {
        false
    }
    fn coded(&self) -> bool {
        true
    }
    fn width(&self) -> usize {
        Body::width(&self.narrow)
    }
    fn most_pixels(&self, panels: usize) -> usize {
        (MOST / panels).max(1)
    }
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        self.narrow.prologue(f, lanes)
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.narrow.start(f, t)?;
        nibble_tables(f, self.bits, r9, TABLES)?;
        if let Some(r) = self.mask() {
            let mask = f.splat8(15);
            f.a.vmovdqu(ymm(r), ymmword_ptr(mask))?;
        }
        walk(f, n, self.bits, &|f, count, parts| self.units(f, n, t, count, parts))?;
        self.narrow.finish(f, n, t, masked)
    }
}

/// A tile in 512 bits.
///
/// Where the entry of code `c` is `first + c`, a sum of products is `sum(x c) + first sum(x)`. Lower codes of a byte are cut out and
/// multiplied. Upper ones stay where they are: with its highest bit turned and its lower half cleared, the byte is
/// `16 (c - 8)`, and a sum of those, which has 32 bits of its own, is shifted at the end; there `first + 8` times `sum(x)` is missing.
/// What the sums over `x` alone add is the same for all panels.
struct CodedWide {
    epilogue: Epilogue,
    bits: u8,
    /// The entry of code 0, where entries count up by one and the tile is one pixel.
    first: Option<i8>,
}

impl CodedWide {
    fn units(&self, f: &mut Asm, n: &Nest, t: Tile, (count, parts): (usize, usize), apart: usize) -> Emitted<()> {
        let used = t.pixels * t.panels + apart;
        let (codes, operand, weight, table) = (used, used + t.panels, used + t.panels + t.pixels, used + t.panels + t.pixels + 1);
        let all = per_unit(self.bits) / UNIT;
        for unit in 0..count {
            let parts = if unit + 1 == count { parts } else { all };
            for j in 0..t.panels {
                f.a.vmovdqu32(zmm(codes + j), zmmword_ptr(r13 + (UNIT * unit + j * n.panel_bytes())))?;
            }
            for part in 0..parts {
                for m in 0..t.pixels {
                    f.a.vpbroadcastd(zmm(operand + m), dword_ptr(r12 + (4 * (all * unit + part) + m * n.pixel[X])))?;
                }
                let first = if part % 2 == 1 { apart } else { 0 };
                for j in 0..t.panels {
                    if part > 0 {
                        f.a.vpsrlw(zmm(codes + j), zmm(codes + j), i32::from(self.bits))?;
                    }
                    f.a.vpermb(zmm(weight), zmm(codes + j), zmm(table))?;
                    for m in 0..t.pixels {
                        f.a.vpdpbusd(zmm(first + m * t.panels + j), zmm(operand + m), zmm(weight))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The same for entries that count up from `first`.
    fn counted(&self, f: &mut Asm, n: &Nest, panels: usize, (count, parts): (usize, usize), first: i8) -> Emitted<()> {
        // Factors of the sums over the operand: of those that meet lower codes, and upper ones.
        let factors = [i32::from(first), i32::from(first) + 8].map(|c| (c != 0).then(|| f.splat8(c as i8 as u8)));
        for unit in 0..count {
            let parts = if unit + 1 == count { parts } else { 2 };
            for (part, factor) in factors.into_iter().enumerate().take(parts) {
                f.a.vpbroadcastd(zmm(OPERANDS + part), dword_ptr(r12 + 4 * (2 * unit + part)))?;
                if let Some(factor) = factor {
                    f.a.vpdpbusd(zmm(SHARED), zmm(OPERANDS + part), zmmword_ptr(factor))?;
                }
            }
            for j in 0..panels {
                let (codes, weight) = (zmm(CODES + j % 2), zmm(CODES + 2 + j % 2));
                f.a.vmovdqu32(codes, zmmword_ptr(r13 + (UNIT * unit + j * n.panel_bytes())))?;
                f.a.vpandd(weight, codes, zmm(LOWER))?;
                f.a.vpdpbusd(zmm(j), zmm(OPERANDS), weight)?;
                if parts == 2 {
                    // (codes ^ 0x80) & 0xf0.
                    f.a.vpternlogd(codes, zmm(HIGHEST), zmm(UPPER), 0x28)?;
                    f.a.vpdpbusd(zmm(panels + j), zmm(OPERANDS + 1), codes)?;
                }
            }
        }
        Ok(())
    }
}

/// Registers of a tile without a table: two words of the operand, codes and weights of two panels, sums that all panels share;
/// the highest bit of every byte, the lower half, the upper half.
const OPERANDS: usize = 16;
const CODES: usize = 18;
const SHARED: usize = 22;
const HIGHEST: usize = 23;
const LOWER: usize = 24;
const UPPER: usize = 25;

impl Body for CodedWide {
    fn residual(&self) -> bool {
        false
    }
    fn coded(&self) -> bool {
        true
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
        // Even and odd blocks sum apart: a dot product waits for the one before it.
        let used = t.pixels * t.panels;
        for i in used..2 * used {
            f.a.vpxord(zmm(i), zmm(i), zmm(i))?;
        }
        if let Some(first) = self.first {
            for (r, bits) in [(HIGHEST, 0x80), (LOWER, 0x0f), (UPPER, 0xf0)] {
                let bits = f.splat8(bits);
                f.a.vmovdqu32(zmm(r), zmmword_ptr(bits))?;
            }
            f.a.vpxord(zmm(SHARED), zmm(SHARED), zmm(SHARED))?;
            walk(f, n, self.bits, &|f, count, parts| self.counted(f, n, t.panels, (count, parts), first))?;
            for i in 0..used {
                f.a.vpsrad(zmm(used + i), zmm(used + i), 4)?;
                f.a.vpaddd(zmm(i), zmm(i), zmm(SHARED))?;
            }
        } else {
            wide_table(f, self.bits, r9, 2 * used + t.panels + t.pixels + 1)?;
            walk(f, n, self.bits, &|f, count, parts| self.units(f, n, t, (count, parts), used))?;
        }
        for i in 0..used {
            f.a.vpaddd(zmm(i), zmm(i), zmm(used + i))?;
        }
        self.epilogue.finish(f, t, &Pointers { out: r8, residual: rbx, scale: rcx, factors: r9 }, masked)
    }
}
