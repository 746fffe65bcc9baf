//! Instructions of x86-64, decoded by iced.

use super::{
    file::Relocation,
    registers::{FLOAT, Set, one},
    walk::{Access, Decoded, Flow, Special, Stack},
};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
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

/// Bytes before an opcode: repetition, lock, segments, sizes of operands and addresses.
const LEGACY_PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];

pub fn decode(code: &[u8], at: u64, relocations: &BTreeMap<u64, Relocation>) -> Option<Decoded> {
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let i = decoder.decode();
    // Prefixes of strings start transactions as well.
    let prefixed = i.has_lock_prefix() || i.has_rep_prefix() || i.has_repne_prefix() || i.has_xacquire_prefix() || i.has_xrelease_prefix();
    if i.is_invalid() || i.segment_prefix() != Register::None || prefixed {
        return None;
    }
    // Nothing lies at an address that is a number.
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if memory && i.memory_base() == Register::None && i.memory_index() == Register::None && i.mnemonic() != Mnemonic::Lea {
        return None;
    }
    // What makes a jump or a return of another size differs between makers of CPUs.
    let flows = i.flow_control() != FlowControl::Next;
    if flows && LEGACY_PREFIXES.contains(code.first()?) || i.memory_base() == Register::EIP {
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
    // Calls and returns balance each other.
    if !matches!(out.flow, Flow::Call(_) | Flow::Return) {
        effects(&i, &mut out);
    }
    if i.is_ip_rel_memory_operand() {
        let field = at + fields.displacement_offset() as u64;
        // An immediate behind the distance would move what it counts from.
        let last = fields.displacement_offset() + 4 == i.len();
        if last && relocations.contains_key(&field) { out.relocated = Some(field) } else { out.beside = Some(i.memory_displacement64()) }
    }
    Some(out)
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
    // Stores past the caches, keys that are the CPU's, registers that are those of x87.
    const ODD: [&str; 12] = [
        "cvtpi2",
        "maskmovdqu",
        "vmaskmovdqu",
        "movnt",
        "vmovnt",
        "loadiwkey",
        "aesenc128",
        "aesenc256",
        "aesdec128",
        "aesdec256",
        "aesencwide",
        "aesdecwide",
    ];
    let odd = ODD.iter().any(|s| name.starts_with(s));
    // Segments, control and debug registers are operands of moves, too.
    let known = |n: u32| i.op_kind(n) != OpKind::Register || vector(n) || is(i.op_register(n), Register::AL, Register::R15 as u32);
    (0..i.op_count()).all(known)
        && (GENERAL.binary_search(&name).is_ok()
            || name.starts_with("cmov")
            || name.starts_with("set") && i.op_count() == 1
            || (0..i.op_count()).any(vector) && !odd)
}

/// The register that `r` is the whole or a part of.
fn whole(r: Register) -> Option<u32> {
    let full = r.full_register();
    if full.is_gpr() {
        Some(full.number() as u32)
    } else {
        // There are 32 vector registers; calls keep some of the first 16 at most.
        (full.is_vector_register() && full.number() < 16).then(|| FLOAT + full.number() as u32)
    }
}

/// What an instruction does to registers, to the stack, and to memory.
fn effects(i: &Instruction, out: &mut Decoded) {
    let writes = |access: OpAccess| matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(i);
    // VZEROUPPER leaves what calls keep of vector registers as it is.
    if i.mnemonic() != Mnemonic::Vzeroupper {
        let written = info.used_registers().iter().filter(|r| writes(r.access())).filter_map(|r| whole(r.register()));
        out.writes = written.fold(0, |set: Set, r| set | one(r));
    }
    out.stack = stack(i);
    for memory in info.used_memory() {
        let stores = writes(memory.access());
        if i.is_ip_rel_memory_operand() {
            out.stores = if stores { memory.memory_size().size() as u64 } else { out.stores };
        }
        let base = memory.base();
        if [Register::RSP, Register::RBP].contains(&base) && memory.index() == Register::None {
            let bytes = memory.memory_size().size() as i64;
            // Conditional stores count as stores.
            let mut access =
                Access { frame: base == Register::RBP, above: memory.displacement() as i64, bytes, store: stores, registers: vec![] };
            access.registers.extend(moved(i, stores).filter(|r| *r >= FLOAT && bytes >= 16 || *r < FLOAT && bytes == 8).map(|r| (r, 0)));
            // PUSH and POP of memory have two accesses; only the store can break a promise.
            if out.access.as_ref().is_none_or(|a| !a.store) {
                out.access = Some(access);
            }
        }
    }
}

/// The register that a move brings to memory, or from there, as it is.
fn moved(i: &Instruction, store: bool) -> Option<u32> {
    use Mnemonic::{Mov, Movapd, Movaps, Movdqa, Movdqu, Movupd, Movups, Pop, Push, Vmovapd, Vmovaps, Vmovdqa, Vmovdqu, Vmovupd, Vmovups};
    let operand = match i.mnemonic() {
        Push | Pop => 0,
        Mov | Movapd | Movaps | Movdqa | Movdqu | Movupd | Movups | Vmovapd | Vmovaps | Vmovdqa | Vmovdqu | Vmovupd | Vmovups => {
            u32::from(store)
        }
        _ => return None,
    };
    (!i.has_op_mask() && i.op_kind(operand) == OpKind::Register).then(|| whole(i.op_register(operand))).flatten()
}

fn stack(i: &Instruction) -> Stack {
    let from_memory = |r: Register| i.memory_base() == r && i.memory_index() == Register::None;
    let displacement = i.memory_displacement64() as i64;
    let register = |n: u32, r: Register| i.op_count() > n && i.op_kind(n) == OpKind::Register && i.op_register(n) == r;
    let (to_stack, to_frame) = (register(0, Register::RSP), register(0, Register::RBP));
    let immediate = i.op_count() == 2 && !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
    match i.mnemonic() {
        Mnemonic::Pop if i.op0_kind() == OpKind::Register && i.op0_register().full_register() == Register::RSP => Stack::Same,
        Mnemonic::Push | Mnemonic::Pop => Stack::Grow(-i64::from(i.stack_pointer_increment())),
        Mnemonic::Sub if to_stack && immediate => Stack::Grow(i.immediate(1) as i64),
        Mnemonic::Add if to_stack && immediate => Stack::Grow((i.immediate(1) as i64).wrapping_neg()),
        Mnemonic::Mov if to_frame && register(1, Register::RSP) => Stack::Frame(0),
        Mnemonic::Mov if to_stack && register(1, Register::RBP) => Stack::ToFrame(0),
        Mnemonic::Lea if to_stack && from_memory(Register::RSP) => Stack::Grow(displacement.wrapping_neg()),
        Mnemonic::Lea if to_stack && from_memory(Register::RBP) => Stack::ToFrame(displacement),
        _ => Stack::Same,
    }
}
