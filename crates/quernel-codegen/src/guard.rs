//! The entry guard, in encoded machine words: saves the floating-point control register, sets round to nearest
//! without flushing, calls the body, restores. Cranelift has no instruction for these registers.
//!
//! The guard takes `(inputs, outputs, arena)` in registers, passes them on untouched and returns the body's result.

use crate::target::Target;
use cranelift_codegen::binemit::Reloc;
use quernel_ir::diag::Diagnostic;
use target_lexicon::{Architecture, OperatingSystem};

/// Machine code that calls one function.
pub struct Guard {
    /// The code.
    pub bytes: Vec<u8>,
    /// Where the call is to be patched.
    pub offset: u32,
    /// How.
    pub reloc: Reloc,
    /// Addend of the relocation.
    pub addend: i64,
    /// Stack bytes it uses, return address included.
    pub stack: usize,
}

/// The guard of a target.
pub fn guard(target: &Target) -> Result<Guard, Diagnostic> {
    let triple = target.lexicon();
    match triple.architecture {
        Architecture::X86_64 => Ok(if triple.operating_system == OperatingSystem::Windows { x64(32) } else { x64(0) }),
        Architecture::Aarch64(_) => Ok(aarch64()),
        Architecture::Riscv64(_) => Ok(riscv64()),
        Architecture::S390x => Ok(s390x()),
        _ => Err(Diagnostic::bug(format!("no entry guard for {}", target.triple()))),
    }
}

/// `shadow` bytes for the callee's register arguments (the Windows convention).
fn x64(shadow: u8) -> Guard {
    let frame = shadow + 24; // Keeps the stack 16-byte aligned across the call.
    let (saved, ours) = (shadow + 8, shadow + 12);
    let mut c = vec![];
    c.extend([0x48, 0x83, 0xec, frame]); // sub rsp, frame
    c.extend([0x0f, 0xae, 0x5c, 0x24, saved]); // stmxcsr [rsp + saved]
    c.extend([0xc7, 0x44, 0x24, ours, 0x80, 0x1f, 0, 0]); // mov dword [rsp + ours], 0x1f80
    c.extend([0x0f, 0xae, 0x54, 0x24, ours]); // ldmxcsr [rsp + ours]
    c.push(0xe8); // call body
    let offset = c.len() as u32;
    c.extend([0; 4]);
    c.extend([0x0f, 0xae, 0x54, 0x24, saved]); // ldmxcsr [rsp + saved]
    c.extend([0x48, 0x83, 0xc4, frame]); // add rsp, frame
    c.push(0xc3); // ret
    Guard { bytes: c, offset, reloc: Reloc::X86CallPCRel4, addend: -4, stack: usize::from(frame) + 8 }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn aarch64() -> Guard {
    let bytes = words(&[
        0xa9be_7bfd, // stp x29, x30, [sp, #-32]!
        0x9100_03fd, // mov x29, sp
        0xd53b_4409, // mrs x9, fpcr
        0xf900_0be9, // str x9, [sp, #16]
        0xd51b_441f, // msr fpcr, xzr
        0x9400_0000, // bl body
        0xf940_0be9, // ldr x9, [sp, #16]
        0xd51b_4409, // msr fpcr, x9
        0xa8c2_7bfd, // ldp x29, x30, [sp], #32
        0xd65f_03c0, // ret
    ]);
    Guard { bytes, offset: 20, reloc: Reloc::Arm64Call, addend: 0, stack: 32 }
}

/// Keeps `fs1` as well: the code generator takes it for a register that calls may change, the C convention does not.
fn riscv64() -> Guard {
    let bytes = words(&[
        0xfe01_0113, // addi sp, sp, -32
        0x0011_3c23, // sd ra, 24(sp)
        0x0091_3827, // fsd fs1, 16(sp)
        0x0020_52f3, // csrrwi t0, frm, 0
        0x0051_3423, // sd t0, 8(sp)
        0x0000_0097, // auipc ra, body
        0x0000_80e7, // jalr ra, body(ra)
        0x0081_3283, // ld t0, 8(sp)
        0x0022_9073, // csrw frm, t0
        0x0101_3487, // fld fs1, 16(sp)
        0x0181_3083, // ld ra, 24(sp)
        0x0201_0113, // addi sp, sp, 32
        0x0000_8067, // ret
    ]);
    Guard { bytes, offset: 20, reloc: Reloc::RiscvCallPlt, addend: 0, stack: 32 }
}

fn s390x() -> Guard {
    let mut c = vec![];
    c.extend([0xeb, 0xef, 0xf0, 0x70, 0x00, 0x24]); // stmg %r14, %r15, 112(%r15)
    c.extend([0xa7, 0xfb, 0xff, 0x50]); // aghi %r15, -176
    c.extend([0xb2, 0x9c, 0xf0, 0xa0]); // stfpc 160(%r15)
    c.extend([0xa7, 0x09, 0x00, 0x00]); // lghi %r0, 0
    c.extend([0xb3, 0x84, 0x00, 0x00]); // sfpc %r0
    let offset = c.len() as u32 + 2;
    c.extend([0xc0, 0xe5, 0, 0, 0, 0]); // brasl %r14, body
    c.extend([0xb2, 0x9d, 0xf0, 0xa0]); // lfpc 160(%r15)
    c.extend([0xeb, 0xef, 0xf1, 0x20, 0x00, 0x04]); // lmg %r14, %r15, 288(%r15)
    c.extend([0x07, 0xfe]); // br %r14
    Guard { bytes: c, offset, reloc: Reloc::S390xPLTRel32Dbl, addend: 2, stack: 176 }
}
