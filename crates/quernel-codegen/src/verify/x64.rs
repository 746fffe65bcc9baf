//! Instructions of x86-64, decoded by iced.

use super::{
    file::Relocation,
    walk::{Decoded, Flow, Special, Stack},
};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::collections::BTreeMap;

/// Instructions on general registers that code consists of.
const GENERAL: &[&str] = &[
    "adc",
    "add",
    "and",
    "andn",
    "bextr",
    "blsi",
    "blsmsk",
    "blsr",
    "bsf",
    "bsr",
    "bswap",
    "bt",
    "btc",
    "btr",
    "bts",
    "bzhi",
    "cbw",
    "cdq",
    "cdqe",
    "cmp",
    "cqo",
    "cwd",
    "cwde",
    "dec",
    "div",
    "idiv",
    "imul",
    "inc",
    "lea",
    "lzcnt",
    "mov",
    "movsx",
    "movsxd",
    "movzx",
    "mul",
    "mulx",
    "neg",
    "nop",
    "not",
    "or",
    "pop",
    "popcnt",
    "prefetchnta",
    "prefetcht0",
    "prefetcht1",
    "prefetcht2",
    "push",
    "rol",
    "ror",
    "rorx",
    "sar",
    "sarx",
    "sbb",
    "shl",
    "shld",
    "shlx",
    "shr",
    "shrd",
    "shrx",
    "sub",
    "test",
    "tzcnt",
    "vzeroupper",
    "xchg",
    "xor",
];

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let i = decoder.decode();
    if i.is_invalid() || i.segment_prefix() != Register::None || i.has_lock_prefix() || i.has_rep_prefix() && i.mnemonic() != Mnemonic::Ret
    {
        return None;
    }
    let fields = decoder.get_constant_offsets(&i);
    let mut out = Decoded::plain(i.len() as u64);
    let near = i.op_count() > 0 && i.op0_kind() == OpKind::NearBranch64;
    let name = format!("{:?}", i.mnemonic()).to_lowercase();
    match i.mnemonic() {
        Mnemonic::Call if near => out.flow = Flow::Call(at + fields.immediate_offset() as u64),
        Mnemonic::Jmp if near => out.flow = Flow::Jump(i.near_branch_target()),
        Mnemonic::Call | Mnemonic::Jmp => out.flow = Flow::Indirect,
        Mnemonic::Ret => {
            out.flow = if i.op_count() == 0 { Flow::Return } else { Flow::Indirect };
        }
        Mnemonic::Ud2 => out.flow = Flow::Stop,
        Mnemonic::Cpuid | Mnemonic::Xgetbv => out.special = Special::Detection,
        Mnemonic::Stmxcsr | Mnemonic::Ldmxcsr | Mnemonic::Vstmxcsr | Mnemonic::Vldmxcsr => out.special = Special::Rounding,
        _ if near && name.starts_with('j') => out.flow = Flow::Branch(i.near_branch_target()),
        _ if near => out.flow = Flow::Indirect,
        _ if !computes(&i, &name) => out.special = Special::System,
        _ => {}
    }
    stack(&i, &mut out);
    if memory(&i) && i.is_ip_rel_memory_operand() {
        let field = at + fields.displacement_offset() as u64;
        if relocations.contains_key(&field) {
            out.relocated = Some(field)
        } else {
            out.beside = Some(i.memory_displacement64())
        }
        out.stores = i.op0_kind() == OpKind::Memory && writes_first(&i);
    }
    Some(out)
}

fn memory(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory)
}

/// Whether the first operand is written.
fn writes_first(i: &Instruction) -> bool {
    !matches!(
        i.mnemonic(),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push | Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Div | Mnemonic::Idiv
    ) && !format!("{:?}", i.mnemonic()).starts_with("Prefetch")
}

fn is(r: Register, first: Register, count: u32) -> bool {
    (r as u32).wrapping_sub(first as u32) < count
}

/// Instructions on vectors and masks, and those of the list.
fn computes(i: &Instruction, name: &str) -> bool {
    let vector = |n: u32| {
        let r = i.op_register(n);
        [Register::XMM0, Register::YMM0, Register::ZMM0].iter().any(|f| is(r, *f, 32)) || is(r, Register::K0, 8)
    };
    let odd = ["maskmovdqu", "vmaskmovdqu", "movnt", "vmovnt"].iter().any(|s| name.starts_with(s));
    // Segments, control and debug registers are operands of moves, too.
    let known = |n: u32| i.op_kind(n) != OpKind::Register || vector(n) || is(i.op_register(n), Register::AL, Register::R15 as u32);
    (0..i.op_count()).all(known)
        && (GENERAL.binary_search(&name).is_ok()
            || name.starts_with("cmov")
            || name.starts_with("set") && i.op_count() == 1
            || (0..i.op_count()).any(vector) && !odd)
}

/// The 64-bit register that `r` is the whole or a part of.
fn whole(r: Register) -> Option<u32> {
    let general = [Register::RAX, Register::EAX, Register::AX].into_iter().find(|f| is(r, *f, 16)).map(|f| r as u32 - f as u32);
    // SPL and BPL.
    general.or(match r {
        Register::SPL => Some(4),
        Register::BPL => Some(5),
        _ => None,
    })
}

const SP: u32 = 4;
const BP: u32 = 5;

fn stack(i: &Instruction, out: &mut Decoded) {
    let first = (i.op_count() > 0 && i.op0_kind() == OpKind::Register).then(|| whole(i.op0_register())).flatten();
    let full = i.op_count() > 0 && [Register::RSP, Register::RBP].contains(&i.op0_register());
    let from_memory = |r: Register| i.memory_base() == r && i.memory_index() == Register::None;
    let displacement = i.memory_displacement64() as i64;
    out.stack = match i.mnemonic() {
        Mnemonic::Push => Stack::Grow(8),
        Mnemonic::Pop => match first {
            Some(SP) | None => Stack::Unknown,
            _ => Stack::Grow(-8),
        },
        Mnemonic::Sub if first == Some(SP) && full && i.op1_kind() != OpKind::Register && i.op1_kind() != OpKind::Memory => {
            Stack::Grow(i.immediate(1) as i64)
        }
        Mnemonic::Add if first == Some(SP) && full && i.op1_kind() != OpKind::Register && i.op1_kind() != OpKind::Memory => {
            Stack::Grow(-(i.immediate(1) as i64))
        }
        Mnemonic::Mov if i.op0_register() == Register::RBP && i.op1_kind() == OpKind::Register && i.op1_register() == Register::RSP => {
            Stack::Frame(0)
        }
        Mnemonic::Mov if i.op0_register() == Register::RSP && i.op1_kind() == OpKind::Register && i.op1_register() == Register::RBP => {
            Stack::ToFrame(0)
        }
        Mnemonic::Lea if i.op0_register() == Register::RSP && from_memory(Register::RSP) => Stack::Grow(-displacement),
        Mnemonic::Lea if i.op0_register() == Register::RSP && from_memory(Register::RBP) => Stack::ToFrame(displacement),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Call | Mnemonic::Jmp => Stack::Same,
        Mnemonic::Xchg if (0..i.op_count()).any(|n| whole(i.op_register(n)) == Some(SP)) => Stack::Unknown,
        _ if first == Some(SP) => Stack::Unknown,
        _ if first == Some(BP) => Stack::NoFrame,
        _ => Stack::Same,
    };
    // A frame pointer that is popped is the caller's again; where the stack is stays known.
    if memory(i)
        && i.op0_kind() == OpKind::Memory
        && writes_first(i)
        && i.memory_base() == Register::RSP
        && i.memory_index() == Register::None
    {
        out.stack_store = Some(displacement);
    }
}
