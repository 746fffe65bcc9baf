//! Instructions of s390x: where they go, what they do to the stack, and which reach beyond registers and memory. The
//! encodings are those of the z/Architecture Principles of Operation, appendix B. Of the stack pointer the instructions of
//! entries and exits are known; nothing else is expected to write it.

use super::{
    file::{Kind, Relocation},
    walk::{Decoded, Flow, Special, Stack},
};
use std::collections::BTreeMap;

const SP: u8 = 15;
const FP: u8 = 11;
const LINK: u8 = 14;

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let length = match code.first()? >> 6 {
        0 => 2,
        1 | 2 => 4,
        _ => 6,
    };
    let b = code.get(..length)?;
    let mut out = Decoded::plain(length as u64);
    let half = |i: usize| i64::from(i16::from_be_bytes([b[i], b[i + 1]]));
    let word = |i: usize| i64::from(i32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]));
    let to = |halves: i64| at.wrapping_add_signed(2 * halves);
    let (r1, low) = (b[1] >> 4, b[1] & 15);
    match (b[0], length) {
        (0, _) if b[1] == 0 => out.flow = Flow::Stop,
        (0x07, _) => {
            out.flow = match (r1, low) {
                (15, LINK) => Flow::Return,
                (0, _) | (_, 0) => Flow::Next,
                _ => Flow::Indirect,
            }
        }
        // Branches to a register or an address, and those that save where they came from.
        (0x05 | 0x06 | 0x0b | 0x0c | 0x0d | 0x45 | 0x46 | 0x47 | 0x4d | 0x44 | 0x86 | 0x87, _) => out.flow = Flow::Indirect,
        (0x84 | 0x85, _) => out.flow = Flow::Indirect,
        (0xa7, _) => match low {
            4 => out.flow = conditional(r1, to(half(2))),
            // Over constants among the code.
            5 if r1 != LINK => out.flow = Flow::Jump(to(half(2))),
            5 => out.flow = Flow::Indirect,
            6 | 7 => out.flow = Flow::Branch(to(half(2))),
            0xb if r1 == SP => out.stack = Stack::Grow(-half(2)),
            0xb if r1 == FP => out.stack = Stack::NoFrame,
            _ => {}
        },
        (0xc0, _) => match low {
            0 => address(at, to(word(2)), relocations, &mut out),
            4 => out.flow = conditional(r1, to(word(2))),
            5 => out.flow = Flow::Call(at + 2),
            _ => {}
        },
        (0xc2, _) if r1 == SP => match low {
            8 => out.stack = Stack::Grow(-word(2)),
            4 => out.stack = Stack::Grow(word(2)),
            _ => {}
        },
        (0xc4, _) => {
            address(at, to(word(2)), relocations, &mut out);
            out.stores = matches!(low, 7 | 0xb | 0xf);
        }
        (0xc6, _) => match low {
            // Comparisons with memory beside the code; the first executes it.
            0 => out.flow = Flow::Indirect,
            _ => address(at, to(word(2)), relocations, &mut out),
        },
        (0xc7 | 0xc5, _) => out.special = Special::System,
        (0xcc, _) if low == 6 => out.flow = Flow::Branch(to(word(2))),
        (0xec, _) => match b[5] {
            0x44 | 0x45 | 0x64 | 0x65 | 0x76 | 0x77 | 0x7c..=0x7f => out.flow = Flow::Branch(to(half(2))),
            0xe4 | 0xe5 | 0xf6 | 0xf7 | 0xfc..=0xff => out.flow = Flow::Indirect,
            _ => {}
        },
        (0xeb, _) => {
            // LMG that ends with the stack pointer gives back what STMG saved at the entry.
            match b[5] {
                0x04 if low == SP || low < r1 => out.stack = Stack::Restore,
                0x44 | 0x45 => out.flow = Flow::Indirect,
                0x25 | 0x2f | 0x8a | 0x60..=0x62 => out.special = Special::System,
                0xd4 | 0xe4 | 0xe6..=0xe8 | 0xea | 0xf4 | 0xf6..=0xf8 | 0xfa | 0x14 | 0x30 | 0x31 | 0x3e => out.special = Special::System,
                _ => {}
            }
        }
        (0xe3, _) if r1 == SP => match (b[5], b[2] >> 4) {
            // LAY with a distance of twenty bits from the stack or the frame pointer.
            (0x71, base) => {
                let distance = i64::from(i32::from(b[4] as i8) << 12 | i32::from(b[2] & 15) << 8 | i32::from(b[3]));
                out.stack = match (base, low) {
                    (SP, 0) => Stack::Grow(-distance),
                    (FP, 0) => Stack::ToFrame(distance),
                    _ => Stack::Unknown,
                };
            }
            (0x04, SP) => out.stack = Stack::Restore,
            (0x24, _) => {}
            _ => out.stack = Stack::Unknown,
        },
        (0xe3, _) if r1 == FP && b[5] != 0x24 => out.stack = Stack::NoFrame,
        (0xb9, _) if b[1] == 0x04 && b[3] >> 4 == SP => out.stack = if b[3] & 15 == FP { Stack::ToFrame(0) } else { Stack::Unknown },
        (0xb9, _) if b[1] == 0x04 && b[3] == FP << 4 | SP => out.stack = Stack::Frame(0),
        // STFPC, LFPC, SFPC, EFPC; IPM and MSR compute; the others of this page belong to the system.
        (0xb2, _) => {
            out.special = match b[1] {
                0x9c | 0x9d => Special::Rounding,
                0x22 | 0x52 => Special::No,
                _ => Special::System,
            }
        }
        (0xb3, _) if matches!(b[1], 0x84 | 0x8c) => out.special = Special::Rounding,
        (0x0a | 0x01 | 0x04 | 0x80 | 0x82 | 0x83 | 0xac..=0xaf | 0xb1 | 0xb6 | 0xb7 | 0xba | 0xbb | 0xee | 0x99 | 0x93, _) => {
            out.special = Special::System;
        }
        (0xb9, _) if matches!(b[1], 0x8a | 0x8d | 0x8e | 0x9a..=0x9f | 0xa2 | 0xae | 0xaf | 0x28..=0x2f) => out.special = Special::System,
        // Moves and comparisons of immediates; what comes before them on this page belongs to the system.
        (0xe5, _) if b[1] < 0x40 => out.special = Special::System,
        _ => {}
    }
    if let Flow::Call(field) = out.flow
        && (r1 != LINK || relocations.get(&field).is_none_or(|r| r.kind == Kind::Low))
    {
        out.flow = Flow::Indirect;
    }
    Some(out)
}

fn conditional(mask: u8, to: u64) -> Flow {
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
