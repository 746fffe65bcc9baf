//! Instructions of aarch64: where they go, what they do to the stack, and which reach beyond registers and memory. The
//! encodings are those of the Arm Architecture Reference Manual, C4 and C6; scalable vectors are not allowed.

use super::{
    file::{Kind, Relocation},
    walk::{Decoded, Flow, Special, Stack},
};
use std::collections::BTreeMap;

/// The number of the stack pointer, where an encoding has it; and of the frame pointer.
const SP: u32 = 31;
const FP: u32 = 29;
const LINK: u32 = 30;

/// `bits` of `w` from `at`, as a number.
fn field(w: u32, at: u32, bits: u32) -> u32 {
    w >> at & ((1 << bits) - 1)
}

fn signed(w: u32, at: u32, bits: u32) -> i64 {
    i64::from((field(w, at, bits) << (32 - bits)) as i32 >> (32 - bits))
}

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let w = u32::from_le_bytes(code.get(..4)?.try_into().ok()?);
    let mut out = Decoded::plain(4);
    let to = |words: i64| at.wrapping_add_signed(4 * words);
    match field(w, 25, 4) {
        0 if w >> 16 == 0 => out.flow = Flow::Stop,
        0..=3 => return None,
        0b1010 | 0b1011 => branch(w, at, &to, &mut out),
        0b1000 | 0b1001 => immediate(w, at, relocations, &mut out),
        n if n & 0b0101 == 0b0100 => memory(w, &to, &mut out),
        // ADD and SUB of an extended register may have the stack pointer as their result.
        _ if w & 0x3fe0_0000 == 0x0b20_0000 && field(w, 0, 5) == SP => out.stack = Stack::Unknown,
        _ => {}
    }
    // The address of the return comes from a call, or from where the frame kept it: arithmetic does not make one.
    let general = matches!(field(w, 25, 4), 0b1000 | 0b1001 | 0b0101 | 0b1101);
    if general && field(w, 0, 5) == LINK {
        out.flow = Flow::Indirect;
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
        // MRS and MSR of FPCR.
        out.special = Special::Rounding;
    } else if w & 0xffff_ff3f == 0xd503_241f || w == 0xd503_201f {
        // NOP and BTI.
    } else {
        out.special = Special::System;
    }
}

/// Data processing with an immediate.
fn immediate(w: u32, at: u64, relocations: &BTreeMap<u64, Relocation>, out: &mut Decoded) {
    let (rd, rn) = (field(w, 0, 5), field(w, 5, 5));
    if w & 0x1f00_0000 == 0x1000_0000 {
        // ADRP only with a relocation; ADR beside the code.
        let near = signed(w, 5, 19) << 2 | i64::from(field(w, 29, 2));
        match (relocations.contains_key(&at), w >> 31) {
            (true, _) => out.relocated = Some(at),
            (_, 0) => out.beside = Some(at.wrapping_add_signed(near)),
            _ => out.beside = Some(u64::MAX),
        }
        if rd == FP {
            out.stack = Stack::NoFrame;
        }
    } else if w & 0x1f80_0000 == 0x1100_0000 {
        if relocations.get(&at).is_some_and(|r| r.kind == Kind::Low) {
            out.relocated = Some(at);
        }
        let amount = i64::from(field(w, 10, 12) << if field(w, 22, 1) == 1 { 12 } else { 0 });
        let amount = if field(w, 30, 1) == 1 { -amount } else { amount };
        let flags = field(w, 29, 1) == 1;
        out.stack = match (rd, rn) {
            _ if flags => Stack::Same,
            (SP, SP) => Stack::Grow(-amount),
            (SP, FP) => Stack::ToFrame(amount),
            (SP, _) => Stack::Unknown,
            (FP, SP) => Stack::Frame(amount),
            (FP, _) => Stack::NoFrame,
            _ => Stack::Same,
        };
    } else if w & 0x1f80_0000 == 0x1200_0000 && field(w, 29, 2) != 3 && rd == SP {
        out.stack = Stack::Unknown;
    } else if rd == FP {
        out.stack = Stack::NoFrame;
    }
}

fn memory(w: u32, to: &dyn Fn(i64) -> u64, out: &mut Decoded) {
    let base = field(w, 5, 5) == SP;
    // Loads of one general register, of two from outside the frame; vectors that move their base.
    let one = w & 0x3b00_0000 == 0x3800_0000 || w & 0x3b00_0000 == 0x3900_0000 || w & 0x3b00_0000 == 0x1800_0000;
    let loads = w & 0x3b00_0000 == 0x1800_0000 || field(w, 22, 2) != 0;
    let pair = w & 0x3a00_0000 == 0x2800_0000 && field(w, 22, 1) == 1;
    let vector = field(w, 26, 1) == 1;
    if !vector && (one && loads && field(w, 0, 5) == LINK || pair && [field(w, 0, 5), field(w, 10, 5)].contains(&LINK)) && !base {
        out.flow = Flow::Indirect;
    }
    if w & 0xbe80_0000 == 0x0c80_0000 && base {
        out.stack = Stack::Unknown;
    }
    if w & 0x3f00_0000 == 0x0800_0000 || w & 0x3b20_0c00 == 0x3820_0000 {
        // Exclusive and atomic accesses.
        out.special = Special::System;
    } else if w & 0x3b00_0000 == 0x1800_0000 {
        out.beside = Some(to(signed(w, 5, 19)));
    } else if w & 0x3a00_0000 == 0x2800_0000 {
        // Pairs: the size is 4 or 8 bytes of general registers, 4 to 16 of vectors.
        let vector = field(w, 26, 1) == 1;
        let size = if vector { 4 << field(w, 30, 2) } else { 4 << field(w, 31, 1) };
        let distance = signed(w, 15, 7) * size;
        let index = field(w, 23, 2);
        if base && index & 1 == 1 {
            out.stack = Stack::Grow(-distance);
        } else if base && field(w, 22, 1) == 0 {
            out.stack_store = Some(distance);
        }
    } else if w & 0x3b20_0000 == 0x3800_0000 {
        let distance = signed(w, 12, 9);
        if base && field(w, 10, 1) == 1 {
            out.stack = Stack::Grow(-distance);
        } else if base && field(w, 22, 1) == 0 {
            out.stack_store = Some(distance);
        }
    } else if w & 0x3b00_0000 == 0x3900_0000 && base && field(w, 22, 1) == 0 {
        let quad = field(w, 26, 1) == 1 && field(w, 23, 1) == 1;
        let signed_load = field(w, 26, 1) == 0 && field(w, 23, 1) == 1;
        let scale = if quad { 4 } else { field(w, 30, 2) };
        out.stack_store = (!signed_load).then(|| i64::from(field(w, 10, 12)) << scale);
    }
}
