//! General registers, flags, control flow.

use super::{Cpu, NEAREST, Op, lane, offset, read, whole, write};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(super) fn find(name: &str) -> Option<Op> {
    Some(Op::Other(match name {
        "mov" | "movzx" => |c, s| {
            let v = c.get(&s.i, 1);
            c.put(&s.i, v);
        },
        "movsx" | "movsxd" => |c, s| {
            let v = signed(c.get(&s.i, 1), size(&s.i, 1));
            c.put(&s.i, v as u64);
        },
        "lea" => |c, s| {
            let v = c.address(&s.i);
            c.put(&s.i, v);
        },
        "xchg" => |c, s| {
            let (a, b) = (c.get(&s.i, 0), c.get(&s.i, 1));
            c.put(&s.i, b);
            c.set(whole(s.i.op1_register()), a, size(&s.i, 1));
        },
        "add" => |c, s| c.sum(&s.i, false, false),
        "adc" => |c, s| c.sum(&s.i, false, true),
        "sub" => |c, s| c.sum(&s.i, true, false),
        "sbb" => |c, s| c.sum(&s.i, true, true),
        "cmp" => |c, s| {
            let (a, b) = (c.get(&s.i, 0), c.get(&s.i, 1));
            c.difference(a, b, size(&s.i, 0), false);
        },
        "inc" | "dec" => |c, s| {
            // These leave the carry alone.
            let (carry, down) = (c.flags.carry, s.i.mnemonic() == Mnemonic::Dec);
            let a = c.get(&s.i, 0);
            let v = if down { c.difference(a, 1, size(&s.i, 0), false) } else { c.total(a, 1, size(&s.i, 0), false) };
            c.flags.carry = carry;
            c.put(&s.i, v);
        },
        "neg" => |c, s| {
            let a = c.get(&s.i, 0);
            let v = c.difference(0, a, size(&s.i, 0), false);
            c.put(&s.i, v);
        },
        "not" => |c, s| {
            let v = !c.get(&s.i, 0);
            c.put(&s.i, v);
        },
        "and" => |c, s| c.logic(&s.i, |a, b| a & b),
        "or" => |c, s| c.logic(&s.i, |a, b| a | b),
        "xor" => |c, s| c.logic(&s.i, |a, b| a ^ b),
        "test" => |c, s| {
            let v = c.get(&s.i, 0) & c.get(&s.i, 1);
            c.logical_flags(v, size(&s.i, 0));
        },
        "andn" => |c, s| {
            let v = !c.get(&s.i, 1) & c.get(&s.i, 2);
            c.logical_flags(v, size(&s.i, 0));
            c.put(&s.i, v);
        },
        "imul" => |c, s| c.product(&s.i),
        "mul" => |c, s| {
            let bytes = size(&s.i, 0);
            assert!(bytes >= 4, "a product of bytes");
            let p = u128::from(c.registers[0] & ones(bytes)) * u128::from(c.get(&s.i, 0));
            c.set(0, p as u64 & ones(bytes), bytes);
            c.set(2, (p >> (8 * bytes)) as u64, bytes);
            c.flags.carry = p >> (8 * bytes) != 0;
            c.flags.overflow = c.flags.carry;
        },
        "mulx" => |c, s| {
            let bytes = size(&s.i, 0);
            let p = u128::from(c.registers[2] & ones(bytes)) * u128::from(c.get(&s.i, 2));
            c.set(whole(s.i.op1_register()), p as u64 & ones(bytes), bytes);
            c.put(&s.i, (p >> (8 * bytes)) as u64);
        },
        "div" | "idiv" => |c, s| c.divide(&s.i),
        "cdq" => |c, _| {
            let v = (c.registers[0] as i32 >> 31) as u32;
            c.set(2, u64::from(v), 4);
        },
        "cqo" => |c, _| c.registers[2] = (c.registers[0] as i64 >> 63) as u64,
        "cdqe" => |c, _| c.registers[0] = c.registers[0] as i32 as i64 as u64,
        "shl" | "shr" | "sar" | "rol" | "ror" => |c, s| c.shift(&s.i),
        "shlx" | "shrx" | "sarx" | "rorx" => |c, s| {
            let (bytes, v) = (size(&s.i, 0), c.get(&s.i, 1));
            let n = (c.get(&s.i, 2) as u32) & (8 * bytes as u32 - 1);
            let v = match s.i.mnemonic() {
                Mnemonic::Shlx => v << n,
                Mnemonic::Shrx => v >> n,
                Mnemonic::Sarx => (signed(v, bytes) >> n) as u64,
                _ => v >> n | v << ((8 * bytes as u32 - n) % 64),
            };
            c.put(&s.i, v & ones(bytes));
        },
        "lzcnt" | "tzcnt" | "popcnt" => |c, s| {
            let (bytes, v) = (size(&s.i, 0), c.get(&s.i, 1));
            let n = match s.i.mnemonic() {
                Mnemonic::Popcnt => v.count_ones(),
                Mnemonic::Lzcnt => v.leading_zeros() - (64 - 8 * bytes as u32),
                _ => v.trailing_zeros().min(8 * bytes as u32),
            };
            c.flags.zero = n == 0;
            c.flags.carry = v == 0;
            c.put(&s.i, u64::from(n));
        },
        "bsr" | "bsf" => |c, s| {
            let v = c.get(&s.i, 1);
            c.flags.zero = v == 0;
            if v != 0 {
                let n = if s.i.mnemonic() == Mnemonic::Bsr { 63 - v.leading_zeros() } else { v.trailing_zeros() };
                c.put(&s.i, u64::from(n));
            }
        },
        "bt" => |c, s| {
            assert!(s.i.op0_kind() == OpKind::Register, "a bit of memory");
            let n = c.get(&s.i, 1) as usize % (8 * size(&s.i, 0));
            c.flags.carry = c.get(&s.i, 0) >> n & 1 == 1;
        },
        "push" => |c, s| {
            let v = c.get(&s.i, 0);
            c.push(v);
        },
        "pop" => |c, s| {
            let v = c.pop();
            c.put(&s.i, v);
        },
        "call" => |c, s| {
            let to = c.target(&s.i);
            c.enter(to);
        },
        "jmp" => |c, s| c.ip = c.target(&s.i),
        "ret" => |c, _| c.ip = c.pop(),
        "nop" | "prefetcht0" | "prefetcht1" | "prefetcht2" | "prefetchnta" | "prefetchw" => |_, _| (),
        "stmxcsr" => |c, s| write(c.address(&s.i), &c.mxcsr.to_le_bytes()),
        "ldmxcsr" => |c, s| c.mxcsr = lane(&read(c.address(&s.i), 4), 0, 4) as u32,
        "cpuid" => |c, _| {
            let a = c.answers;
            let (eax, ebx, ecx) = match (c.registers[0] as u32, c.registers[1] as u32) {
                (0, _) => (a.highest, 0, 0),
                (1, _) => (0, 0, a.leaf1_ecx),
                (7, 0) => (u32::from(a.leaf7_1_eax != 0), a.leaf7_ebx, a.leaf7_ecx),
                (7, 1) => (a.leaf7_1_eax, 0, 0),
                (0x8000_0001, _) => (0, 0, a.extended_ecx),
                (leaf, sub) => panic!("CPUID leaf {leaf:#x}, {sub}"),
            };
            [(0, eax), (1, ecx), (2, 0), (3, ebx)].into_iter().for_each(|(r, v)| c.registers[r] = u64::from(v));
        },
        "xgetbv" => |c, _| {
            assert!(c.registers[1] as u32 == 0 && c.answers.leaf1_ecx >> 27 & 1 == 1, "XGETBV without OSXSAVE");
            (c.registers[0], c.registers[2]) = (u64::from(c.answers.xcr0), 0);
        },
        _ => return conditional(name),
    }))
}

fn conditional(name: &str) -> Option<Op> {
    // The condition is read again from the mnemonic at run time: `Op` is a plain function.
    let known = |prefix: &str| name.strip_prefix(prefix).is_some_and(|c| condition(c, Default::default()).is_some());
    if known("cmov") {
        return Some(Op::Other(|c, s| {
            // The upper half of a 32-bit destination is cleared even when nothing moves.
            let v = if c.holds(&s.i, 4) { c.get(&s.i, 1) } else { c.get(&s.i, 0) };
            c.put(&s.i, v);
        }));
    }
    if known("set") {
        return Some(Op::Other(|c, s| {
            let v = u64::from(c.holds(&s.i, 3));
            c.put(&s.i, v);
        }));
    }
    known("j").then_some(Op::Other(|c, s| {
        if c.holds(&s.i, 1) {
            c.ip = s.i.near_branch_target();
        }
    }))
}

fn condition(name: &str, f: super::Flags) -> Option<bool> {
    Some(match name {
        "o" => f.overflow,
        "no" => !f.overflow,
        "b" => f.carry,
        "ae" => !f.carry,
        "e" => f.zero,
        "ne" => !f.zero,
        "be" => f.carry || f.zero,
        "a" => !(f.carry || f.zero),
        "s" => f.sign,
        "ns" => !f.sign,
        "p" => f.parity,
        "np" => !f.parity,
        "l" => f.sign != f.overflow,
        "ge" => f.sign == f.overflow,
        "le" => f.zero || f.sign != f.overflow,
        "g" => !f.zero && f.sign == f.overflow,
        _ => return None,
    })
}

/// Bytes of an operand.
pub(super) fn size(i: &Instruction, operand: u32) -> usize {
    if i.op_kind(operand) != OpKind::Register {
        // Of memory: what the code says. An immediate is as large as what it meets.
        use iced_x86::MemorySize::*;
        return match i.memory_size() {
            UInt8 | Int8 => 1,
            UInt16 | Int16 => 2,
            UInt32 | Int32 | DwordOffset => 4,
            UInt64 | Int64 | QwordOffset => 8,
            other => panic!("an operand of {other:?} in {:?}", i.code()),
        };
    }
    let r = i.op_register(operand);
    let firsts = [(Register::RAX, 16, 8), (Register::EAX, 16, 4), (Register::AX, 16, 2), (Register::AL, 20, 1)];
    firsts.into_iter().find_map(|(f, n, bytes)| offset(r, f, n).map(|_| bytes)).unwrap_or_else(|| panic!("{r:?} in {:?}", i.code()))
}

fn ones(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

fn signed(v: u64, bytes: usize) -> i64 {
    let unused = 64 - 8 * bytes as u32;
    (v << unused) as i64 >> unused
}

impl Cpu {
    /// An operand, zero-extended; immediates as the instruction extends them.
    pub(super) fn get(&self, i: &Instruction, operand: u32) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => {
                let r = i.op_register(operand);
                assert!(offset(r, Register::AH, 4).is_none(), "a second byte: {:?}", i.code());
                self.registers[whole(r)] & ones(size(i, operand))
            }
            OpKind::Memory => read_scalar(self.address(i), size(i, operand)),
            _ if operand > 0 => i.immediate(operand) & ones(size(i, 0)),
            _ => i.immediate(operand),
        }
    }

    /// Stores in operand 0.
    pub(super) fn put(&mut self, i: &Instruction, v: u64) {
        let bytes = size(i, 0);
        if i.op0_kind() == OpKind::Register {
            assert!(offset(i.op0_register(), Register::AH, 4).is_none(), "a second byte: {:?}", i.code());
            self.set(whole(i.op0_register()), v & ones(bytes), bytes);
        } else {
            write(self.address(i), &v.to_le_bytes()[..bytes]);
        }
    }

    /// Sets the low bytes of a register; 32 bits clear the others.
    fn set(&mut self, register: usize, v: u64, bytes: usize) {
        let kept = if bytes >= 4 { 0 } else { self.registers[register] & !ones(bytes) };
        self.registers[register] = kept | v;
    }

    fn target(&self, i: &Instruction) -> u64 {
        if i.op0_kind() == OpKind::NearBranch64 { i.near_branch_target() } else { self.get(i, 0) }
    }

    fn holds(&self, i: &Instruction, prefix: usize) -> bool {
        let name = format!("{:?}", i.mnemonic()).to_lowercase();
        condition(&name[prefix..], self.flags).unwrap_or_else(|| panic!("condition of {name}"))
    }

    fn result_flags(&mut self, v: u64, bytes: usize) {
        self.flags.zero = v & ones(bytes) == 0;
        self.flags.sign = signed(v, bytes) < 0;
        self.flags.parity = (v as u8).count_ones().is_multiple_of(2);
    }

    fn logical_flags(&mut self, v: u64, bytes: usize) {
        self.result_flags(v, bytes);
        (self.flags.carry, self.flags.overflow) = (false, false);
    }

    fn logic(&mut self, i: &Instruction, f: fn(u64, u64) -> u64) {
        let v = f(self.get(i, 0), self.get(i, 1));
        self.logical_flags(v, size(i, 0));
        self.put(i, v);
    }

    fn total(&mut self, a: u64, b: u64, bytes: usize, carry: bool) -> u64 {
        let wide = u128::from(a) + u128::from(b) + u128::from(carry);
        let v = wide as u64 & ones(bytes);
        self.result_flags(v, bytes);
        self.flags.carry = wide > u128::from(ones(bytes));
        self.flags.overflow = signed((a ^ v) & (b ^ v), bytes) < 0;
        v
    }

    fn difference(&mut self, a: u64, b: u64, bytes: usize, borrow: bool) -> u64 {
        let v = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & ones(bytes);
        self.result_flags(v, bytes);
        self.flags.carry = u128::from(a) < u128::from(b) + u128::from(borrow);
        self.flags.overflow = signed((a ^ b) & (a ^ v), bytes) < 0;
        v
    }

    fn sum(&mut self, i: &Instruction, minus: bool, with_carry: bool) {
        let (a, b, carry) = (self.get(i, 0), self.get(i, 1), with_carry && self.flags.carry);
        let v = if minus { self.difference(a, b, size(i, 0), carry) } else { self.total(a, b, size(i, 0), carry) };
        self.put(i, v);
    }

    fn product(&mut self, i: &Instruction) {
        let bytes = size(i, 0);
        if i.op_count() == 1 {
            assert!(bytes >= 4, "a product of bytes");
            let p = i128::from(signed(self.registers[0], bytes)) * i128::from(signed(self.get(i, 0), bytes));
            self.set(0, p as u64 & ones(bytes), bytes);
            self.set(2, (p >> (8 * bytes)) as u64 & ones(bytes), bytes);
            return;
        }
        let first = i.op_count() - 2;
        let p = i128::from(signed(self.get(i, first), bytes)) * i128::from(signed(self.get(i, first + 1), bytes));
        let v = p as u64 & ones(bytes);
        self.flags.carry = i128::from(signed(v, bytes)) != p;
        self.flags.overflow = self.flags.carry;
        self.put(i, v);
    }

    fn divide(&mut self, i: &Instruction) {
        let bytes = size(i, 0);
        assert!(bytes >= 4, "a quotient of bytes");
        let high = u128::from(self.registers[2] & ones(bytes)) << (8 * bytes);
        let (n, d) = (high | u128::from(self.registers[0] & ones(bytes)), self.get(i, 0));
        let (q, r) = if i.mnemonic() == Mnemonic::Div {
            ((n / u128::from(d)) as u64, (n % u128::from(d)) as u64)
        } else {
            let unused = 128 - 16 * bytes as u32;
            let (n, d) = ((n << unused) as i128 >> unused, i128::from(signed(d, bytes)));
            ((n / d) as u64, (n % d) as u64)
        };
        self.set(0, q & ones(bytes), bytes);
        self.set(2, r & ones(bytes), bytes);
    }

    fn shift(&mut self, i: &Instruction) {
        let (bytes, v) = (size(i, 0), self.get(i, 0));
        let bits = 8 * bytes as u32;
        let n = if i.op_kind(1) == OpKind::Register { self.get(i, 1) as u32 } else { u32::from(i.immediate8()) };
        let n = n & if bytes == 8 { 63 } else { 31 };
        if n == 0 {
            return self.put(i, v);
        }
        assert!(n < bits, "a shift by {n} of {bits} bits");
        let (shifted, carry) = match i.mnemonic() {
            Mnemonic::Shl => (v << n, v >> (bits - n) & 1),
            Mnemonic::Shr => (v >> n, v >> (n - 1) & 1),
            Mnemonic::Sar => ((signed(v, bytes) >> n) as u64, (signed(v, bytes) >> (n - 1)) as u64 & 1),
            Mnemonic::Rol => (v << n | v >> (bits - n), v >> (bits - n) & 1),
            _ => (v >> n | v << (bits - n), v >> (n - 1) & 1),
        };
        let rotation = matches!(i.mnemonic(), Mnemonic::Rol | Mnemonic::Ror);
        if !rotation {
            self.result_flags(shifted & ones(bytes), bytes);
        }
        self.flags.carry = carry == 1;
        self.put(i, shifted & ones(bytes));
    }

    /// Arithmetic on floats is emulated in one mode only.
    pub(super) fn nearest(&self) {
        assert!(self.mxcsr & !0x3f == NEAREST, "floats are computed with MXCSR {:#x}", self.mxcsr);
    }
}

fn read_scalar(address: u64, bytes: usize) -> u64 {
    lane(&read(address, bytes), 0, bytes)
}
