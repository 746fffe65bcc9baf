//! Instructions of aarch64: where they go, what they do to registers and the stack, and which reach beyond registers and
//! memory. The encodings are those of the Arm Architecture Reference Manual, C4 and C6; what is not listed here is no
//! instruction that code may have, and scalable vectors and the extensions that tag memory or sign addresses are not. Of
//! arithmetic on floats and vectors, whose encodings are a page of their own, no more is told than which register changes.

use super::{
    file::{Kind, Relocation},
    registers::{FLOAT, Set, one},
    walk::{Access, Decoded, Flow, Special, Stack},
};
use std::collections::BTreeMap;

/// The number of the stack pointer, where an encoding has it; it is that of the register of zeros elsewhere.
const SP: u32 = 31;
const FP: u32 = 29;

/// `bits` of `w` from `at`, as a number.
fn field(w: u32, at: u32, bits: u32) -> u32 {
    w >> at & ((1 << bits) - 1)
}

fn signed(w: u32, at: u32, bits: u32) -> i64 {
    i64::from((field(w, at, bits) << (32 - bits)) as i32 >> (32 - bits))
}

/// A general register, where 31 stands for zeros; where it stands for the stack pointer, [`one`].
fn general(r: u32) -> Set {
    if r == SP { 0 } else { one(r) }
}

/// `count` vector registers. Calls keep some of the first half.
fn vectors(first: u32, count: u32) -> Set {
    (first..first + count).map(|r| r % 32).fold(0, |set, r| set | one(FLOAT + r))
}

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let w = u32::from_le_bytes(code.get(..4)?.try_into().ok()?);
    let mut out = Decoded::plain(4);
    let to = |words: i64| at.wrapping_add_signed(4 * words);
    match field(w, 25, 4) {
        0 if w >> 16 == 0 => out.flow = Flow::Stop,
        0b1010 | 0b1011 => branch(w, at, &to, &mut out),
        0b1000 | 0b1001 => immediate(w, at, relocations, &mut out)?,
        n if n & 0b0101 == 0b0100 => memory(w, &to, &mut out)?,
        n if n & 0b0111 == 0b0101 => out.writes = arithmetic(w)?,
        n if n & 0b0111 == 0b0111 => out.writes = vector(w)?,
        _ => return None,
    }
    Some(out)
}

fn branch(w: u32, at: u64, to: &dyn Fn(i64) -> u64, out: &mut Decoded) {
    if w & 0x7c00_0000 == 0x1400_0000 {
        out.flow = if w >> 31 == 1 { Flow::Call(at) } else { Flow::Jump(to(signed(w, 0, 26))) };
    } else if w & 0xff00_0010 == 0x5400_0000 || w & 0x7e00_0000 == 0x3400_0000 {
        out.flow = Flow::Branch(to(signed(w, 5, 19)));
    } else if w & 0x7e00_0000 == 0x3600_0000 {
        out.flow = Flow::Branch(to(signed(w, 5, 14)));
    } else if w == 0xd65f_03c0 {
        out.flow = Flow::Return;
    } else if w & 0xfe00_0000 == 0xd600_0000 {
        out.flow = Flow::Indirect;
    } else if w & 0xffdf_ffe0 == 0xd51b_4400 {
        // MSR and MRS of FPCR.
        out.special = Special::Rounding;
        out.writes = if field(w, 21, 1) == 1 { general(field(w, 0, 5)) } else { 0 };
    } else if w & 0xffff_ff3f == 0xd503_241f || w == 0xd503_201f {
        // NOP and BTI.
    } else {
        out.special = Special::System;
    }
}

/// Data processing with an immediate.
fn immediate(w: u32, at: u64, relocations: &BTreeMap<u64, Relocation>, out: &mut Decoded) -> Option<()> {
    let (rd, rn) = (field(w, 0, 5), field(w, 5, 5));
    out.writes = general(rd);
    match field(w, 23, 3) {
        0b000 | 0b001 => {
            // ADRP only with a relocation; ADR beside the code.
            let near = signed(w, 5, 19) << 2 | i64::from(field(w, 29, 2));
            match (relocations.get(&at).map(|r| r.kind), w >> 31) {
                (Some(Kind::Page), 1) | (Some(Kind::Distance), 0) => out.relocated = Some(at),
                (_, 0) => out.beside = Some(at.wrapping_add_signed(near)),
                _ => out.beside = Some(u64::MAX),
            }
        }
        0b010 => {
            let relocated = w & 0xffc0_0000 == 0x9100_0000 && relocations.get(&at).is_some_and(|r| r.kind == Kind::Low);
            if relocated {
                out.relocated = Some(at);
            }
            let amount = i64::from(field(w, 10, 12) << if field(w, 22, 1) == 1 { 12 } else { 0 });
            let amount = if field(w, 30, 1) == 1 { -amount } else { amount };
            let (flags, whole) = (field(w, 29, 1) == 1, w >> 31 == 1);
            if !flags {
                out.writes = one(rd);
            }
            out.stack = match (rd, rn) {
                // The linker has the last word about a number that is relocated.
                _ if flags || !whole || relocated => Stack::Same,
                (SP, SP) => Stack::Grow(-amount),
                (SP, FP) => Stack::ToFrame(amount),
                (FP, SP) => Stack::Frame(amount),
                _ => Stack::Same,
            };
        }
        // AND, ORR, EOR may have the stack pointer as their result, ANDS not.
        0b100 if field(w, 29, 2) != 3 => out.writes = one(rd),
        0b100 => {}
        // Moves of 16 bits; fields of bits; extraction.
        0b101 if field(w, 29, 2) != 1 => {}
        0b110 if field(w, 29, 2) != 3 => {}
        0b111 if field(w, 29, 2) == 0 && field(w, 21, 1) == 0 => {}
        _ => return None,
    }
    Some(())
}

/// Data processing of registers: what it writes.
fn arithmetic(w: u32) -> Option<Set> {
    let rd = field(w, 0, 5);
    let operation = field(w, 21, 4);
    match (field(w, 28, 1), operation) {
        // Logical; sums of a shifted or extended register. The last may have the stack pointer as their result.
        (0, 0..=7) => Some(general(rd)),
        (0, _) if operation & 1 == 0 => Some(general(rd)),
        (0, 0b1001) if field(w, 29, 1) == 0 => Some(one(rd)),
        (0, 0b1001) => Some(general(rd)),
        // With carry; conditional comparison; conditional selection; three sources.
        (1, 0) if field(w, 10, 6) == 0 => Some(general(rd)),
        (1, 2) => Some(0),
        (1, 4) if field(w, 29, 1) == 0 => Some(general(rd)),
        (1, 8..=15) => Some(general(rd)),
        // Division and shifts; reversals and counts.
        (1, 6) if field(w, 29, 1) == 0 => {
            let known =
                if field(w, 30, 1) == 0 { matches!(field(w, 10, 6), 2 | 3 | 8..=11) } else { field(w, 16, 5) == 0 && field(w, 10, 6) <= 5 };
            known.then(|| general(rd))
        }
        _ => None,
    }
}

/// Scalar floats and vectors: what they write.
fn vector(w: u32) -> Option<Set> {
    let rd = field(w, 0, 5);
    let number = vectors(rd, 1);
    let (rounding, operation) = (field(w, 19, 2), field(w, 16, 3));
    Some(if w & 0x5f20_fc00 == 0x1e20_0000 {
        // Conversions between floats and integers, moves of bits.
        match (rounding, operation) {
            (_, 0 | 1) | (0, 4 | 5) | (0 | 1, 6) => general(rd),
            (0, 2 | 3) | (0 | 1, 7) => number,
            _ => return None,
        }
    } else if w & 0x5f20_0000 == 0x1e00_0000 {
        // The same of fixed point.
        match (rounding, operation) {
            (3, 0 | 1) => general(rd),
            (0, 2 | 3) => number,
            _ => return None,
        }
    } else if w & 0x5f20_3c00 == 0x1e20_2000 || w & 0x5f20_0c00 == 0x1e20_0400 {
        // Comparisons.
        0
    } else if w & 0xbfe0_8400 == 0x0e00_0400 && matches!(field(w, 11, 4), 5 | 7) {
        // SMOV, UMOV.
        general(rd)
    } else {
        number
    })
}

fn memory(w: u32, to: &dyn Fn(i64) -> u64, out: &mut Decoded) -> Option<()> {
    let (rt, rn) = (field(w, 0, 5), field(w, 5, 5));
    let vector = field(w, 26, 1) == 1;
    // The register of zeros keeps nothing.
    let whole = |r: u32, at: i64| (vector || r != SP).then_some((if vector { FLOAT + r } else { r }, at));
    let set = |r: u32| if vector { vectors(r, 1) } else { general(r) };
    if w & 0xbf00_0000 == 0x0c00_0000 || w & 0xbf00_0000 == 0x0d00_0000 {
        // Vectors of structures, whole or single lanes; some move their base.
        let count = match (field(w, 24, 1), field(w, 12, 4)) {
            (0, 0 | 2) => 4,
            (0, 4 | 6) => 3,
            (0, 7) => 1,
            (0, 8 | 10) => 2,
            (0, _) => return None,
            _ => (field(w, 13, 1) << 1 | field(w, 21, 1)) + 1,
        };
        if field(w, 22, 1) == 1 {
            out.writes |= vectors(rt, count);
        }
        let bytes = i64::from(count) * if field(w, 24, 1) == 0 && field(w, 30, 1) == 1 { 16 } else { 8 };
        stack(rn, 2, 0, Access { bytes, store: field(w, 22, 1) == 0, ..Access::default() }, out);
        if field(w, 23, 1) == 1 {
            out.writes |= one(rn);
        }
    } else if w & 0x3f00_0000 == 0x0800_0000 || w & 0x3b20_0c00 == 0x3820_0000 {
        // Exclusive and atomic accesses.
        out.special = Special::System;
    } else if w & 0x3b00_0000 == 0x1800_0000 {
        // The last kind only fetches.
        if vector || w >> 30 != 3 {
            out.writes = set(rt);
        }
        out.beside = Some(to(signed(w, 5, 19)));
    } else if w & 0x3a00_0000 == 0x2800_0000 {
        let opc = field(w, 30, 2);
        let load = field(w, 22, 1) == 1;
        // The size is 4 or 8 bytes of general registers, 4 to 16 of vectors; one kind of load extends the sign.
        let size = match (vector, opc, load) {
            (true, 0..=2, _) => 4 << opc,
            (false, 0, _) | (false, 1, true) => 4,
            (false, 2, _) => 8,
            _ => return None,
        };
        let second = field(w, 10, 5);
        let index = field(w, 23, 2);
        // Two loads of one register, or a load of a base that moves, have no defined result.
        if load && (rt == second || index & 1 == 1 && !vector && rn != SP && [rt, second].contains(&rn)) {
            return None;
        }
        if load {
            out.writes = set(rt) | set(second);
        }
        let kept = if size >= 8 { whole(rt, 0).into_iter().chain(whole(second, size)).collect() } else { vec![] };
        stack(rn, index, signed(w, 15, 7) * size, Access { bytes: 2 * size, store: !load, registers: kept, ..Access::default() }, out);
    } else if w & 0x3a00_0000 == 0x3800_0000 {
        let (opc, size) = (field(w, 22, 2), w >> 30);
        // A general register's third kind of the largest size fetches; 16 bytes of a vector are a kind of the smallest.
        let (bytes, load, fetches) = match (vector, opc, size) {
            (true, 2 | 3, 0) => (16, opc == 3, false),
            (true, 0 | 1, _) | (false, 0 | 1, _) => (1 << size, opc == 1, false),
            (false, 2, 3) => (8, true, true),
            (false, 2, _) | (false, 3, 0 | 1) => (1 << size, true, false),
            _ => return None,
        };
        if load && !fetches {
            out.writes = set(rt);
        }
        let complete = bytes >= 8 && !fetches && (vector || opc < 2);
        let kept = if complete { whole(rt, 0).into_iter().collect() } else { vec![] };
        let access = Access { bytes, store: !load, registers: kept, ..Access::default() };
        match (field(w, 24, 1), field(w, 21, 1), field(w, 10, 2)) {
            (1, ..) => stack(rn, 2, i64::from(field(w, 10, 12)) * bytes, access, out),
            (0, 0, 0) => stack(rn, 2, signed(w, 12, 9), access, out),
            (0, 0, index @ (1 | 3)) if !fetches && (vector || rn == SP || rt != rn) => stack(rn, index, signed(w, 12, 9), access, out),
            // An index in a register.
            (0, 1, 2) => {}
            _ => return None,
        }
    } else {
        return None;
    }
    Some(())
}

/// An access at a distance from a register, which moves the register afterwards (1) or before (3) or not at all.
fn stack(base: u32, index: u32, distance: i64, access: Access, out: &mut Decoded) {
    let moves = index & 1 == 1;
    if moves {
        out.writes |= one(base);
        if base == SP {
            out.stack = Stack::Grow(-distance);
        }
    }
    if base == SP || base == FP {
        out.access = Some(Access { frame: base == FP, above: if index == 1 { 0 } else { distance }, ..access });
    }
}
