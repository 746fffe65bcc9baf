//! Which of an object's variants a CPU can run: the one function that asks it.
//!
//! A multi-target object carries one body per variant. The first call asks the CPU and keeps the answer in one word of
//! the object, which is only ever written with the same value; every call compares it. Asking costs microseconds under
//! a hypervisor, which is why it is not done again.

use crate::leaf::asm::{Asm, Emitted};
use iced_x86::code_asm::*;

/// CPU names of the variants, in the order of the numbers the detector returns from 1 on. Every CPU has the first.
pub const VARIANTS: [&str; 4] = ["x86-64", "x86-64-v3", "avx-vnni", "icelake-server"];

/// Bits of CPUID leaf 1, ECX: SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, OSXSAVE, AVX.
const LEAF1_ECX: i32 = 1 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 27 | 1 << 28;
/// LZCNT, in ECX of leaf 0x80000001.
const EXTENDED_ECX: i32 = 1 << 5;
/// BMI1, AVX2, BMI2, in EBX of leaf 7.
const LEAF7_EBX: i32 = 1 << 3 | 1 << 5 | 1 << 8;
/// AVX512F, DQ, BW, VL, in EBX of leaf 7.
const LEAF7_EBX_512: i32 = (1u32 << 16 | 1 << 17 | 1 << 30 | 1 << 31) as i32;
/// AVX512 VBMI, VNNI, BITALG, in ECX of leaf 7.
const LEAF7_ECX_512: i32 = 1 << 1 | 1 << 11 | 1 << 12;
/// AVX-VNNI, in EAX of leaf 7, subleaf 1.
const LEAF7_1_EAX: i32 = 1 << 4;
/// State the operating system saves: XMM and YMM; and the mask and ZMM registers.
const XCR0_AVX: i32 = 0x06;
const XCR0_512: i32 = 0xe6;

/// Stack bytes of the detector, return address included.
pub const FRAME: usize = 16;

/// `() -> u32` in the calling convention of every system: the number of the fastest variant, from 1 on.
pub fn detector() -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    let a = &mut f.a;
    let (mut first, mut second, mut third, mut done) = (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.push(rbx)?;
    a.xor(eax, eax)?;
    a.cpuid()?;
    a.cmp(eax, 7)?;
    a.jb(first)?;
    a.mov(eax, 1)?;
    a.xor(ecx, ecx)?;
    a.cpuid()?;
    a.and(ecx, LEAF1_ECX)?;
    a.cmp(ecx, LEAF1_ECX)?;
    a.jne(first)?;
    a.xor(ecx, ecx)?;
    a.xgetbv()?;
    a.mov(r9d, eax)?;
    a.and(eax, XCR0_AVX)?;
    a.cmp(eax, XCR0_AVX)?;
    a.jne(first)?;
    a.mov(eax, 0x8000_0001u32)?;
    a.xor(ecx, ecx)?;
    a.cpuid()?;
    a.test(ecx, EXTENDED_ECX)?;
    a.jz(first)?;
    a.mov(eax, 7)?;
    a.xor(ecx, ecx)?;
    a.cpuid()?;
    a.mov(r8d, eax)?;
    a.mov(r10d, ebx)?;
    a.mov(r11d, ecx)?;
    a.and(ebx, LEAF7_EBX)?;
    a.cmp(ebx, LEAF7_EBX)?;
    a.jne(first)?;
    // AVX-512 before AVX-VNNI: a CPU with both is faster with the wider registers.
    a.and(r9d, XCR0_512)?;
    a.cmp(r9d, XCR0_512)?;
    a.jne(third)?;
    a.and(r10d, LEAF7_EBX_512)?;
    a.cmp(r10d, LEAF7_EBX_512)?;
    a.jne(third)?;
    a.and(r11d, LEAF7_ECX_512)?;
    a.cmp(r11d, LEAF7_ECX_512)?;
    a.jne(third)?;
    a.mov(eax, 4)?;
    a.jmp(done)?;
    a.set_label(&mut third)?;
    a.test(r8d, r8d)?;
    a.jz(second)?;
    a.mov(eax, 7)?;
    a.mov(ecx, 1)?;
    a.cpuid()?;
    a.test(eax, LEAF7_1_EAX)?;
    a.jz(second)?;
    a.mov(eax, 3)?;
    a.jmp(done)?;
    a.set_label(&mut second)?;
    a.mov(eax, 2)?;
    a.jmp(done)?;
    a.set_label(&mut first)?;
    a.mov(eax, 1)?;
    a.set_label(&mut done)?;
    a.pop(rbx)?;
    a.ret()?;
    f.finish()
}
