//! Registers that a call keeps, by the calling conventions of C.

use super::file::File;
use object::{Architecture, BinaryFormat};

/// Registers as bits: general ones by their numbers, behind them those of floats, of which vector registers are wider forms.
pub type Set = u64;

/// The number of a float or vector register in a [`Set`].
pub const FLOAT: u32 = 32;

/// The set of one register.
pub const fn one(register: u32) -> Set {
    1 << register
}

/// What a convention says.
#[derive(Clone, Copy, Debug)]
pub struct Convention {
    /// Registers that hold at the return what they held at the call: the stack pointer, which is counted otherwise, is not
    /// among them.
    pub kept: Set,
    /// Those of them that functions inside an object may change all the same: their callers do not count on them.
    pub free_inside: Set,
    /// The stack pointer.
    pub stack: u32,
    /// The frame pointer, where a function has one.
    pub frame: u32,
    /// The register that holds the address of the return at the call; on the stack otherwise.
    pub link: Option<u32>,
    /// Bytes of the stack that hold the address of the return.
    pub first: i64,
    /// Bytes above the stack pointer at the call that are the called function's to save registers in.
    pub save_area: i64,
    /// Bytes that are kept of a float or vector register.
    pub float: i64,
}

impl Convention {
    /// Bytes that are kept of a register.
    pub fn bytes(&self, register: u32) -> i64 {
        if register < FLOAT { 8 } else { self.float }
    }
}

const fn range(from: u32, to: u32) -> Set {
    let mut set = 0;
    let mut i = from;
    while i <= to {
        set |= one(i);
        i += 1;
    }
    set
}

/// System V and Microsoft x64; the procedure call standards of Arm (with the platform's register, which nobody may touch) and
/// of RISC-V (with the global and thread pointers); the s390x ELF ABI.
pub fn convention(file: &File) -> Convention {
    match file.architecture {
        Architecture::X86_64 => {
            // Kernels follow System V everywhere.
            let free_inside = if file.format == BinaryFormat::Coff { one(6) | one(7) | range(FLOAT + 6, FLOAT + 15) } else { 0 };
            let kept = one(3) | one(5) | range(12, 15) | free_inside;
            Convention { kept, free_inside, stack: 4, frame: 5, link: None, first: 8, save_area: 0, float: 16 }
        }
        Architecture::Aarch64 => {
            let kept = range(18, 30) | range(FLOAT + 8, FLOAT + 15);
            Convention { kept, free_inside: 0, stack: 31, frame: 29, link: Some(30), first: 0, save_area: 0, float: 8 }
        }
        Architecture::Riscv64 => {
            let saved = |x: u32| range(x + 8, x + 9) | range(x + 18, x + 27);
            let kept = one(1) | range(3, 4) | saved(0) | saved(FLOAT);
            Convention { kept, free_inside: one(FLOAT + 9), stack: 2, frame: 8, link: Some(1), first: 0, save_area: 0, float: 8 }
        }
        _ => {
            let kept = range(6, 14) | range(FLOAT + 8, FLOAT + 15);
            Convention { kept, free_inside: 0, stack: 15, frame: 11, link: Some(14), first: 0, save_area: 160, float: 8 }
        }
    }
}

/// How a disassembler calls registers.
pub fn names(architecture: Architecture, set: Set) -> String {
    const X86: [&str; 8] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
    let (general, float) = match architecture {
        Architecture::X86_64 => ("r", "xmm"),
        Architecture::S390x => ("r", "f"),
        Architecture::Riscv64 => ("x", "f"),
        _ => ("x", "d"),
    };
    let name = |i: u32| match (i, architecture) {
        (0..8, Architecture::X86_64) => X86[i as usize].to_owned(),
        (0..32, _) => format!("{general}{i}"),
        _ => format!("{float}{}", i - FLOAT),
    };
    (0..64).filter(|i| set & one(*i) != 0).map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_names() {
        assert_eq!(names(Architecture::X86_64, one(3) | one(12) | one(FLOAT + 6)), "rbx, r12, xmm6");
        assert_eq!(names(Architecture::Riscv64, one(9) | one(FLOAT + 9)), "x9, f9");
        assert_eq!(names(Architecture::Aarch64, range(18, 19)), "x18, x19");
    }
}
