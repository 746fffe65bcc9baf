//! Instructions of s390x: where they go, what they do to registers and the stack, and which reach beyond registers and
//! memory. The encodings are those of the z/Architecture Principles of Operation, appendix B. What is not in the lists is no
//! instruction that code may have: those are what the code generator has.

use super::{
    file::{Kind, Relocation},
    registers::{FLOAT, Set, one},
    walk::{Access, Decoded, Flow, Special, Stack},
};
use std::collections::BTreeMap;

const SP: u32 = 15;
const FP: u32 = 11;
const LINK: u32 = 14;

/// An operation's number: the first byte; where that names a family, twelve or sixteen bits of both parts.
type Code = u16;

/// No register changes: comparisons, with traps too, and stores of so many bytes.
const KEEPS: &[Code] = &[
    0x07, 0x15, 0x19, 0x49, 0x55, 0x59, 0xa7e, 0xa7f, 0xb309, 0xb319, 0xb920, 0xb921, 0xb930, 0xb931, 0xb960, 0xb961, 0xb972, 0xb973,
    0xc2c, 0xc2d, 0xc2e, 0xc2f, 0xc64, 0xc65, 0xc66, 0xc67, 0xc68, 0xc6a, 0xc6c, 0xc6d, 0xc6e, 0xc6f, 0xe320, 0xe321, 0xe330, 0xe331,
    0xe334, 0xe355, 0xe359, 0xe379, 0xe7cb, 0xe7d9, 0xe7db, 0xec70, 0xec71, 0xec72, 0xec73,
];
const STORES: &[(Code, i64)] = &[
    (0x40, 2),
    (0x42, 1),
    (0x50, 4),
    (0x60, 8),
    (0x70, 4),
    (0x92, 1),
    (0xc47, 2),
    (0xc4b, 8),
    (0xc4f, 4),
    (0xe324, 8),
    (0xe32f, 8),
    (0xe33e, 4),
    (0xe33f, 2),
    (0xe350, 4),
    (0xe370, 2),
    (0xe372, 1),
    (0xe544, 2),
    (0xe548, 8),
    (0xe54c, 4),
    (0xe609, 2),
    (0xe60a, 8),
    (0xe60b, 4),
    (0xe60e, 16),
    (0xe60f, 16),
    (0xe708, 1),
    (0xe709, 2),
    (0xe70a, 8),
    (0xe70b, 4),
    (0xe70e, 16),
    (0xeb52, 1),
    (0xed66, 4),
    (0xed67, 8),
];
/// The first general register changes.
const GENERAL: &[Code] = &[
    0x10, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1a, 0x1b, 0x1e, 0x1f, 0x41, 0x48, 0x4a, 0x4b, 0x4c, 0x54, 0x56, 0x57, 0x58, 0x5a, 0x5b, 0x5e,
    0x5f, 0x71, 0xa50, 0xa51, 0xa52, 0xa53, 0xa54, 0xa55, 0xa56, 0xa57, 0xa58, 0xa59, 0xa5a, 0xa5b, 0xa5c, 0xa5d, 0xa5e, 0xa5f, 0xa76,
    0xa78, 0xa79, 0xa7a, 0xa7b, 0xa7c, 0xa7d, 0xb252, 0xb3cd, 0xb900, 0xb903, 0xb904, 0xb906, 0xb907, 0xb908, 0xb909, 0xb90a, 0xb90b,
    0xb90c, 0xb90f, 0xb910, 0xb913, 0xb914, 0xb916, 0xb918, 0xb919, 0xb91a, 0xb91b, 0xb91c, 0xb91f, 0xb926, 0xb927, 0xb964, 0xb965, 0xb966,
    0xb967, 0xb968, 0xb969, 0xb974, 0xb975, 0xb976, 0xb977, 0xb980, 0xb981, 0xb982, 0xb984, 0xb985, 0xb994, 0xb995, 0xb9e1, 0xb9e2, 0xb9e4,
    0xb9e5, 0xb9e6, 0xb9e7, 0xb9e8, 0xb9e9, 0xb9ea, 0xb9eb, 0xb9ed, 0xb9f2, 0xb9f4, 0xb9f5, 0xb9f6, 0xb9f7, 0xb9f8, 0xb9f9, 0xb9fa, 0xb9fb,
    0xb9fd, 0xc00, 0xc01, 0xc06, 0xc07, 0xc08, 0xc09, 0xc0a, 0xc0b, 0xc0c, 0xc0d, 0xc0e, 0xc0f, 0xc20, 0xc21, 0xc24, 0xc25, 0xc28, 0xc29,
    0xc2a, 0xc2b, 0xc42, 0xc44, 0xc45, 0xc46, 0xc48, 0xc4c, 0xc4d, 0xc4e, 0xe304, 0xe308, 0xe309, 0xe30a, 0xe30b, 0xe30c, 0xe30f, 0xe314,
    0xe315, 0xe316, 0xe318, 0xe319, 0xe31a, 0xe31b, 0xe31c, 0xe31e, 0xe31f, 0xe338, 0xe339, 0xe33c, 0xe351, 0xe354, 0xe356, 0xe357, 0xe358,
    0xe35a, 0xe35b, 0xe35e, 0xe35f, 0xe371, 0xe376, 0xe377, 0xe378, 0xe37a, 0xe37b, 0xe37c, 0xe380, 0xe381, 0xe382, 0xe390, 0xe391, 0xe394,
    0xe395, 0xe721, 0xeb0a, 0xeb0c, 0xeb0d, 0xeb1c, 0xeb1d, 0xebdc, 0xebde, 0xebdf, 0xec42, 0xec46, 0xec54, 0xec56, 0xec57, 0xec59, 0xecd8,
    0xecd9,
];
/// The first and the next: products of twice the width, quotients with remainders, FLOGR.
const PAIR: &[Code] = &[0xb90d, 0xb91d, 0xb983, 0xb986, 0xb987, 0xb997, 0xb9ec];
/// The first register of floats changes.
const FLOATS: &[Code] = &[
    0x28, 0x38, 0x68, 0x78, 0xb300, 0xb301, 0xb303, 0xb304, 0xb30a, 0xb30b, 0xb30d, 0xb30e, 0xb30f, 0xb310, 0xb311, 0xb313, 0xb314, 0xb315,
    0xb317, 0xb31a, 0xb31b, 0xb31c, 0xb31d, 0xb31e, 0xb31f, 0xb344, 0xb357, 0xb35f, 0xb3c1, 0xed64, 0xed65,
];
/// The first vector register changes: the second byte of the families e6 and e7.
const LOADS_REVERSED: &[u8] = &[0x01, 0x02, 0x03, 0x05, 0x06, 0x07];
const VECTORS: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x22, 0x30, 0x33, 0x38, 0x3a, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x4d, 0x50, 0x52, 0x53,
    0x56, 0x60, 0x61, 0x62, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x74, 0x75, 0x7c, 0x7d, 0x7e, 0x7f, 0x84, 0x85, 0x88, 0x89,
    0x8c, 0x8d, 0x8e, 0x8f, 0x94, 0x95, 0x97, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xb0, 0xb1, 0xb2, 0xb3, 0xc0, 0xc1, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc7, 0xcc, 0xce, 0xd4, 0xd5, 0xd6, 0xd7, 0xde, 0xdf, 0xe2, 0xe3, 0xe5, 0xe7, 0xe8, 0xea, 0xeb, 0xee, 0xef, 0xf0, 0xf1,
    0xf2, 0xf3, 0xf5, 0xf7, 0xf8, 0xf9, 0xfb, 0xfc, 0xfd, 0xfe, 0xff,
];

/// An instruction's bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn half(&self) -> i64 {
        i64::from(i16::from_be_bytes([self.0[2], self.0[3]]))
    }

    fn word(&self) -> i64 {
        i64::from(i32::from_be_bytes([self.0[2], self.0[3], self.0[4], self.0[5]]))
    }

    /// The first four bits behind the first byte, and the next four.
    fn r1(&self) -> u32 {
        u32::from(self.0[1] >> 4)
    }

    fn low(&self) -> u32 {
        u32::from(self.0[1] & 15)
    }

    fn code(&self) -> Code {
        let (first, with) = (u16::from(self.0[0]), |byte: u8| u16::from(self.0[0]) << 8 | u16::from(byte));
        match self.0[0] {
            0xa5 | 0xa7 | 0xc0 | 0xc2 | 0xc4 | 0xc6 | 0xcc => first << 4 | u16::from(self.0[1] & 15),
            0xb2 | 0xb3 | 0xb9 | 0xe5 => with(self.0[1]),
            0xe3 | 0xe6 | 0xe7 | 0xeb | 0xec | 0xed => with(self.0[5]),
            _ => first,
        }
    }

    /// The register that an operation changes first: behind a code of two bytes it is in the last, or, where a sum is added to
    /// a product, in the third.
    fn first(&self) -> u32 {
        match self.code() {
            0xb30e | 0xb30f | 0xb31e | 0xb31f => u32::from(self.0[2] >> 4),
            _ if matches!(self.0[0], 0xb2 | 0xb3 | 0xb9) => u32::from(self.0[3] >> 4),
            _ => self.r1(),
        }
    }

    /// Base and distance of a memory operand: a register and twelve bits, or twenty in the long forms; `None` with an index.
    fn place(&self) -> Option<(u32, i64)> {
        let indexed = matches!(self.0[0], 0x40..=0x7f | 0xe3 | 0xe6 | 0xe7 | 0xed);
        let long = matches!(self.0[0], 0xe3 | 0xeb) || self.0[0] == 0xed && matches!(self.0[5], 0x64..=0x67);
        let near = i64::from(self.0[2] & 15) << 8 | i64::from(self.0[3]);
        let distance = if long { i64::from(self.0[4] as i8) << 12 | near } else { near };
        match (u32::from(self.0[2] >> 4), if indexed { self.low() } else { 0 }) {
            (base, 0) | (0, base) => Some((base, distance)),
            _ => None,
        }
    }
}

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let length = match code.first()? >> 6 {
        0 => 2,
        1 | 2 => 4,
        _ => 6,
    };
    let b = Bytes(code.get(..length)?);
    let mut out = Decoded::plain(length as u64);
    flow(&b, at, relocations, &mut out);
    if out.flow != Flow::Next || out.special != Special::No {
        return Some(out);
    }
    let (operation, r1) = (b.code(), b.first());
    // The fifth bit of a vector register's number is behind those of all.
    let vector = b.0.get(4).map_or(0, |rest| u32::from(rest >> 3 & 1)) << 4 | b.r1();
    if let Some((_, bytes)) = STORES.iter().find(|(code, _)| *code == operation) {
        let register = match operation {
            0xe324 => Some(r1),
            0x60 | 0xed67 => Some(FLOAT + r1),
            // The first element of a vector register is the register of floats.
            0xe70a if b.0[4] >> 4 == 0 && vector < 16 => Some(FLOAT + vector),
            _ => None,
        };
        access(&b, *bytes, true, register, &mut out);
    } else if GENERAL.contains(&operation) {
        out.writes = one(r1);
        match operation {
            0xe304 => access(&b, 8, false, Some(r1), &mut out),
            0x41 | 0xe371 | 0xa7b | 0xc28 | 0xc24 | 0xb904 => out.stack = stack(&b, operation),
            _ => {}
        }
    } else if PAIR.contains(&operation) {
        out.writes = one(r1) | one((r1 + 1) % 16);
    } else if FLOATS.contains(&operation) {
        out.writes = one(FLOAT + r1);
        if matches!(operation, 0x68 | 0xed65) {
            access(&b, 8, false, Some(FLOAT + r1), &mut out);
        }
    } else if b.0[0] == 0xe6 && LOADS_REVERSED.contains(&b.0[5]) || b.0[0] == 0xe7 && VECTORS.contains(&b.0[5]) {
        out.writes = if vector < 16 { one(FLOAT + vector) } else { 0 };
        if operation == 0xe702 && b.0[4] >> 4 == 0 && vector < 16 {
            access(&b, 8, false, Some(FLOAT + vector), &mut out);
        }
    } else if matches!(operation, 0xeb04 | 0xeb24) {
        // LMG and STMG of registers up to another, around the end.
        let count = (b.low() + 16 - r1) % 16 + 1;
        let registers: Vec<(u32, i64)> = (0..count).map(|i| ((r1 + i) % 16, 8 * i64::from(i))).collect();
        let store = operation == 0xeb24;
        if !store {
            out.writes = registers.iter().fold(0, |set: Set, (r, _)| set | one(*r));
        }
        if let Some((base @ (SP | FP), above)) = b.place() {
            out.access = Some(Access { frame: base == FP, above, bytes: 8 * i64::from(count), store, registers });
        }
    } else if !KEEPS.contains(&operation) {
        return None;
    }
    Some(out)
}

fn access(b: &Bytes, bytes: i64, store: bool, register: Option<u32>, out: &mut Decoded) {
    if !matches!(b.0[0], 0xc4)
        && let Some((base @ (SP | FP), above)) = b.place()
    {
        out.access = Some(Access { frame: base == FP, above, bytes, store, registers: register.map(|r| (r, 0)).into_iter().collect() });
    }
}

/// Sums of the stack and the frame pointer with a number, and moves between them.
fn stack(b: &Bytes, operation: Code) -> Stack {
    let moved = |to: u32, from: u32, distance: i64| match (to, from) {
        (SP, SP) => Stack::Grow(-distance),
        (SP, FP) => Stack::ToFrame(distance),
        (FP, SP) => Stack::Frame(distance),
        _ => Stack::Same,
    };
    match operation {
        0xb904 => moved(b.first(), u32::from(b.0[3] & 15), 0),
        0x41 | 0xe371 => b.place().map_or(Stack::Same, |(base, distance)| moved(b.r1(), base, distance)),
        _ if b.r1() != SP => Stack::Same,
        0xa7b => Stack::Grow(-b.half()),
        0xc24 => Stack::Grow(i64::from(b.word() as u32)),
        _ => Stack::Grow(-b.word()),
    }
}

/// Branches, addresses beside the code, and what belongs to the system.
fn flow(b: &Bytes, at: u64, relocations: &BTreeMap<u64, Relocation>, out: &mut Decoded) {
    let to = |halves: i64| at.wrapping_add_signed(2 * halves);
    let (r1, low) = (b.r1(), b.low());
    match (b.0[0], b.code()) {
        (0, _) if b.0[1] == 0 => out.flow = Flow::Stop,
        (0x07, _) => {
            out.flow = match (r1, low) {
                (15, LINK) => Flow::Return,
                (0, _) => Flow::Next,
                // It waits for stores.
                (_, 0) => {
                    out.special = Special::System;
                    Flow::Next
                }
                _ => Flow::Indirect,
            }
        }
        // Branches to a register or an address, and those that save where they came from.
        (0x05 | 0x06 | 0x0b | 0x0c | 0x0d | 0x44 | 0x45 | 0x46 | 0x47 | 0x4d | 0x84..=0x87, _) => out.flow = Flow::Indirect,
        (_, 0xa74) => out.flow = conditional(r1, to(b.half())),
        // Over constants among the code.
        (_, 0xa75) if r1 != LINK => {
            (out.flow, out.writes) = (Flow::Jump(to(b.half())), one(r1));
        }
        (_, 0xa75) => out.flow = Flow::Indirect,
        // These count a register down.
        (_, 0xa76 | 0xa77) => (out.flow, out.writes) = (Flow::Branch(to(b.half())), one(r1)),
        (_, 0xc00) => address(at, to(b.word()), relocations, out),
        (_, 0xc04) => out.flow = conditional(r1, to(b.word())),
        (_, 0xc05) => {
            let relocated = relocations.get(&(at + 2)).is_some_and(|r| r.kind != Kind::Low);
            out.flow = if r1 == LINK && relocated { Flow::Call(at + 2) } else { Flow::Indirect };
        }
        (0xc4, _) => {
            address(at, to(b.word()), relocations, out);
            out.stores = match low {
                7 => 2,
                0xb => 8,
                0xf => 4,
                _ => 0,
            };
        }
        // Comparisons with memory beside the code; the first executes it.
        (_, 0xc60) => out.flow = Flow::Indirect,
        (0xc6, _) => address(at, to(b.word()), relocations, out),
        (_, 0xcc6) => (out.flow, out.writes) = (Flow::Branch(to(b.word())), one(r1)),
        (_, 0xec64 | 0xec65 | 0xec76 | 0xec77 | 0xec7c..=0xec7f) => out.flow = Flow::Branch(to(b.half())),
        (_, 0xece4 | 0xece5 | 0xecf6 | 0xecf7 | 0xecfc..=0xecff) => out.flow = Flow::Indirect,
        // STFPC, LFPC, SFPC, EFPC.
        (_, 0xb29c | 0xb29d | 0xb384 | 0xb38c) => {
            out.special = Special::Rounding;
            if b.0[0] == 0xb2 {
                access(b, 4, b.code() == 0xb29c, None, out);
            }
            out.writes = if b.code() == 0xb38c { one(b.first()) } else { 0 };
        }
        // Of this page some instructions compute; the others belong to the system, as do those that call it.
        (0xb2, code) if code != 0xb252 => out.special = Special::System,
        (
            0x0a | 0x01 | 0x04 | 0x80 | 0x82 | 0x83 | 0xac..=0xaf | 0xb1 | 0xb6 | 0xb7 | 0xba | 0xbb | 0xc5 | 0xc7 | 0xc8 | 0x93 | 0x99,
            _,
        ) => {
            out.special = Special::System;
        }
        _ => {}
    }
}

fn conditional(mask: u32, to: u64) -> Flow {
    match mask {
        15 => Flow::Jump(to),
        0 => Flow::Next,
        _ => Flow::Branch(to),
    }
}

/// An address beside the code, relocated or not.
fn address(at: u64, to: u64, relocations: &BTreeMap<u64, Relocation>, out: &mut Decoded) {
    if relocations.contains_key(&(at + 2)) { out.relocated = Some(at + 2) } else { out.beside = Some(to) }
}
