//! Instructions of riscv64 without compressed ones: where they go, what they do to registers and the stack, and which reach
//! beyond registers and memory. The encodings are those of the RISC-V Instruction Set Manual, volume I, chapter 34.

use super::{
    file::{Kind, Relocation},
    registers::{FLOAT, Set, one},
    walk::{Access, Decoded, Flow, Special, Stack},
};
use std::collections::BTreeMap;

const RA: u32 = 1;
const SP: u32 = 2;
const FP: u32 = 8;
const RETURN: u32 = 0x0000_8067;

/// A general register; the first is always zero.
fn general(r: u32) -> Set {
    if r == 0 { 0 } else { one(r) }
}

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let w = u32::from_le_bytes(code.get(..4)?.try_into().ok()?);
    let (opcode, rd, rs1, kind) = (w & 0x7f, w >> 7 & 31, w >> 15 & 31, w >> 12 & 7);
    let low = i64::from(w as i32 >> 20);
    let mut out = Decoded::plain(4);
    let float = one(FLOAT + rd);
    let low_part = relocations.get(&at).is_some_and(|r| r.kind == Kind::Low);
    out.writes = general(rd);
    match opcode {
        // AUIPC, alone for an address or with JALR for a call.
        0x17 => {
            let kind = relocations.get(&at).map(|r| r.kind);
            let next = code.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            match kind {
                Some(Kind::Call) if rd != 0 && next.is_some_and(|n| n & 0x7f == 0x67 && n >> 7 & 31 == RA && n >> 15 & 31 == rd) => {
                    out.length = 8;
                    out.flow = Flow::Call(at);
                }
                Some(Kind::Page) if rd != 0 => out.relocated = Some(at),
                _ => beside(w, next, at, &mut out),
            }
        }
        0x6f => {
            let distance = (w >> 31 & 1) << 20 | (w >> 12 & 0xff) << 12 | (w >> 20 & 1) << 11 | (w >> 21 & 0x3ff) << 1;
            let distance = i64::from((distance << 11) as i32 >> 11);
            out.flow = if rd == 0 { Flow::Jump(at.wrapping_add_signed(distance)) } else { Flow::Indirect };
        }
        0x67 => out.flow = if w == RETURN { Flow::Return } else { Flow::Indirect },
        0x63 => {
            let distance = (w >> 31 & 1) << 12 | (w >> 7 & 1) << 11 | (w >> 25 & 0x3f) << 5 | (w >> 8 & 0xf) << 1;
            out.flow = Flow::Branch(at.wrapping_add_signed(i64::from((distance << 19) as i32 >> 19)));
            out.writes = 0;
        }
        // CSRs of floats (1 to 3); UNIMP writes a counter and traps.
        0x73 if kind != 0 && (1..=3).contains(&(w >> 20)) => out.special = Special::Rounding,
        0x73 if w == 0xc000_1073 => out.flow = Flow::Stop,
        0x73 | 0x0f | 0x2f => out.special = Special::System,
        // Loads, of floats and of vectors.
        0x03 | 0x07 if opcode == 0x03 && kind != 7 || opcode == 0x07 && kind != 4 => {
            let vector = opcode == 0x07 && !matches!(kind, 1..=3);
            if opcode == 0x07 {
                out.writes = if vector { 0 } else { float };
            }
            if low_part {
                out.relocated = Some(at);
            } else if !vector {
                stack(rs1, low, 1 << (kind & 3), false, (kind == 3).then_some(if opcode == 0x03 { rd } else { FLOAT + rd }), &mut out);
            }
        }
        0x23 | 0x27 if opcode == 0x23 && kind <= 3 || opcode == 0x27 && kind != 4 => {
            out.writes = 0;
            if opcode == 0x27 && !matches!(kind, 1..=3) {
                // A vector register has 16 bytes or more.
                stack(rs1, 0, 16 * (i64::from(w >> 29) + 1), true, None, &mut out);
            } else {
                let distance = (w >> 25) << 5 | w >> 7 & 31;
                let distance = i64::from((distance << 20) as i32 >> 20);
                let from = w >> 20 & 31;
                stack(
                    rs1,
                    distance,
                    1 << (kind & 3),
                    true,
                    (kind == 3).then_some(if opcode == 0x23 { from } else { FLOAT + from }),
                    &mut out,
                );
            }
        }
        // With the first register as their result these are hints, of which one is to do nothing.
        0x13 if rd == 0 && w != 0x13 => out.special = Special::System,
        0x13 => {
            if low_part && kind == 0 {
                out.relocated = Some(at);
            }
            out.stack = match (rd, rs1) {
                // The linker has the last word about a number that is relocated.
                _ if low_part => Stack::Same,
                (SP, SP) if kind == 0 => Stack::Grow(-low),
                (SP, FP) if kind == 0 => Stack::ToFrame(low),
                (FP, SP) if kind == 0 => Stack::Frame(low),
                _ => Stack::Same,
            };
        }
        0x37 if ![0, SP].contains(&rd) => large(code, rd, &mut out),
        0x37 | 0x1b | 0x33 | 0x3b => {}
        0x43 | 0x47 | 0x4b | 0x4f => out.writes = float,
        // Comparisons, conversions to integers, moves of bits and classes of floats have general registers as results.
        0x53 => out.writes = if matches!(w >> 27, 0x14 | 0x18 | 0x1c) { general(rd) } else { float },
        // Of vectors: their lengths; what is taken out of one, or counted.
        0x57 => {
            out.writes = match (kind, w >> 26) {
                (7, _) | (2, 0x10) => general(rd),
                (1, 0x10) => float,
                _ => 0,
            };
        }
        _ if w == 0 => (out.flow, out.writes) = (Flow::Stop, 0),
        _ => return None,
    }
    Some(out)
}

/// An access at a distance from the stack pointer or the frame pointer, of a whole register where one is named.
fn stack(base: u32, above: i64, bytes: i64, store: bool, register: Option<u32>, out: &mut Decoded) {
    if base == SP || base == FP {
        let registers = register.map(|r| (r, 0)).into_iter().collect();
        out.access = Some(Access { frame: base == FP, above, bytes, store, registers });
    }
}

/// LUI with the instructions behind it that add a number of more than twelve bits to the stack pointer, for a frame or for the
/// address of a load or store: together they are one instruction. LUI by itself otherwise.
fn large(code: &[u8], rd: u32, out: &mut Decoded) {
    let word = |at: usize| code.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let high = word(0).map_or(0, |w| i64::from((w & 0xffff_f000) as i32));
    let (low, at) = match word(4) {
        Some(w) if w & 0xf_ffff == rd << 15 | rd << 7 | 0x13 => (i64::from(w as i32 >> 20), 8),
        _ => (0, 4),
    };
    match word(at) {
        Some(w) if w == rd << 20 | SP << 15 | SP << 7 | 0x33 => {
            (out.stack, out.length) = (Stack::Grow(-high - low), at as u64 + 4);
            out.writes |= one(SP);
        }
        Some(w) if w == SP << 20 | rd << 15 | rd << 7 | 0x33 => {
            let Some(w) = word(at + 4).filter(|w| w >> 15 & 31 == rd) else { return };
            match w & 0x7f {
                0x03 | 0x07 | 0x23 | 0x27 => {}
                _ => return,
            }
            // As if the stack pointer were the base, with the rest of the distance added.
            let near = decode(&(w & !(31 << 15) | SP << 15).to_le_bytes(), 0, &BTreeMap::new());
            let Some((writes, mut access)) = near.and_then(|n| Some((n.writes, n.access?))) else { return };
            out.writes |= writes;
            // The register of the address is no more what it was.
            access.registers.retain(|(register, _)| !access.store || *register != rd);
            out.access = Some(Access { above: access.above + high + low, ..access });
            out.length = at as u64 + 8;
        }
        _ => {}
    }
}

/// AUIPC without a relocation, with the instruction behind it that has the low part: a jump too far for one instruction, or
/// the address of a constant among the code.
fn beside(w: u32, next: Option<u32>, at: u64, out: &mut Decoded) {
    let high = at.wrapping_add_signed(i64::from((w & 0xffff_f000) as i32));
    match next {
        Some(n) if n >> 15 & 31 == w >> 7 & 31 && w >> 7 & 31 != 0 => {
            let to = high.wrapping_add_signed(i64::from(n as i32 >> 20));
            match n & 0x7f {
                0x67 if n >> 7 & 31 == 0 => (out.flow, out.length) = (Flow::Jump(to), 8),
                0x03 | 0x07 | 0x13 => {
                    (out.beside, out.length) = (Some(to), 8);
                    out.writes |= if n & 0x7f == 0x07 { one(FLOAT + (n >> 7 & 31)) } else { general(n >> 7 & 31) };
                }
                _ => out.beside = Some(u64::MAX),
            }
        }
        _ => out.beside = Some(u64::MAX),
    }
}
