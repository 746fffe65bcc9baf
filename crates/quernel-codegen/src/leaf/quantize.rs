//! f32 to bytes with IEEE division, without dividing: the divisor is a constant.
//!
//! With `y` the nearest float to `1 / s`, `t = x y`, one correction `q = t + (x - t s) y` is within one unit of the last
//! place of `x / s`, and a second correction of a value that close gives the correctly rounded quotient (Markstein,
//! Computation of elementary functions on the IBM RISC System/6000 processor, 1990, theorem 8), as long as nothing
//! underflows. Operands are clamped to 1024 steps first, far outside every range of bytes, which also keeps infinities
//! out; a NaN becomes the lower bound, as the definition wants.

use super::{
    Leaf,
    asm::{Asm, Emitted, xmm, ymm, zmm},
    epilogue::Epilogue,
    narrow::{bytes, store_first_bytes},
    proof::Bounds,
};
use iced_x86::code_asm::*;
use quernel_ir::program::{End, Step, What};

/// Elements of one round: four vectors become one.
const ROUND: usize = 64;
const LOW: usize = 16;
const HIGH: usize = 17;
const RECIPROCAL: usize = 18;
const SCALE: usize = 19;
const ORDER: usize = 20;
const TEMPORARY: usize = 21;

/// Scales whose quotients and remainders stay normal wherever they matter.
fn regular(scale: f32) -> bool {
    let limit = 2f32.powi(90);
    scale > 1.0 / limit && scale < limit
}

/// The leaf of a quantization of any length, in 512 bits (`wide`) or 256. The tail is masked, so nothing behind the slots is
/// read.
pub fn leaf(step: &Step, wide: bool) -> Option<Leaf> {
    let What::Quantize { count, to, width: 1 } = step.what else { return None };
    if count >= 1 << 28 || !regular(to.scale) {
        return None;
    }
    let end = End::Requantize { zero: to.zero, lo: to.lo, hi: to.hi, signed: to.signed };
    let epilogue = Epilogue::new(end, Bounds { lo: 0, hi: 0, scaled: 0.0 }, 0, None);
    let code = if wide { emit(count, to.scale, &epilogue) } else { narrow(count, to.scale, end) };
    let kernel = if wide { "quantize_u8__avx512" } else { "quantize_u8__avx2" };
    Some(Leaf { code: code.ok()?, kernel: kernel.to_owned(), frame: 8, cycles: None })
}

/// Arguments: operand in rdi, result in rsi.
fn emit(count: usize, scale: f32, e: &Epilogue) -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    for (register, value) in [(LOW, -1024.0 * scale), (HIGH, 1024.0 * scale), (RECIPROCAL, 1.0 / scale), (SCALE, scale)] {
        let literal = f.splat32(value.to_bits());
        f.a.vmovups(zmm(register), zmmword_ptr(literal))?;
    }
    let order = f.dwords(std::array::from_fn(|i| (4 * (i % 4) + i / 4) as u32));
    f.a.vmovdqu32(zmm(ORDER), zmmword_ptr(order))?;
    let rounds = count / ROUND;
    if rounds > 0 {
        f.a.mov(rcx, rounds as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        for i in 0..4 {
            f.a.vmovups(zmm(i), zmmword_ptr(rdi + 64 * i))?;
        }
        round(&mut f, e)?;
        f.a.vmovdqu32(zmmword_ptr(rsi), zmm(0))?;
        f.a.add(rdi, 4 * ROUND as i32)?;
        f.a.add(rsi, ROUND as i32)?;
        f.a.dec(rcx)?;
        f.a.jnz(top)?;
    }
    let tail = count % ROUND;
    if tail > 0 {
        for i in 0..4 {
            let lanes = tail.saturating_sub(16 * i).min(16);
            f.a.mov(eax, ((1u32 << lanes) - 1) as i32)?;
            f.a.kmovd(k1, eax)?;
            f.a.vmovups(zmm(i).k1().z(), zmmword_ptr(rdi + 64 * i))?;
        }
        round(&mut f, e)?;
        f.a.mov(rax, (1u64 << tail) - 1)?;
        f.a.kmovq(k1, rax)?;
        f.a.vmovdqu8(zmmword_ptr(rsi).k1(), zmm(0))?;
    }
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Registers 0 to 3 become 64 bytes in register 0.
fn round(f: &mut Asm, e: &Epilogue) -> Emitted<()> {
    let (x, q, r) = (|i: usize| zmm(i), |i: usize| zmm(4 + i), |i: usize| zmm(8 + i));
    for i in 0..4 {
        // A NaN yields the second operand.
        f.a.vmaxps(x(i), x(i), zmm(LOW))?;
        f.a.vminps(x(i), x(i), zmm(HIGH))?;
        f.a.vmulps(q(i), x(i), zmm(RECIPROCAL))?;
    }
    for _ in 0..2 {
        for i in 0..4 {
            f.a.vmovaps(r(i), q(i))?;
            f.a.vfnmadd132ps(r(i), x(i), zmm(SCALE))?;
        }
        for i in 0..4 {
            f.a.vfmadd231ps(q(i), r(i), zmm(RECIPROCAL))?;
        }
    }
    for i in 0..4 {
        f.a.vcvtps2dq(x(i), q(i))?;
    }
    e.pack(f, [0, 1, 2, 3], TEMPORARY)?;
    f.a.vpermd(zmm(0), zmm(ORDER), zmm(0))
}

/// Elements of a round of 256 bits: four vectors become one.
const NARROW_ROUND: usize = 32;

/// The same function in 256 bits. Elements are in registers 0 to 3, constants in memory.
fn narrow(count: usize, scale: f32, end: End) -> Emitted<Vec<u8>> {
    const MASK: usize = 15;
    let mut f = Asm::vex()?;
    let (rounds, tail) = (count / NARROW_ROUND, count % NARROW_ROUND);
    if rounds > 0 {
        f.a.mov(rcx, rounds as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        for i in 0..4 {
            f.a.vmovups(ymm(i), ymmword_ptr(rdi + 32 * i))?;
        }
        narrow_round(&mut f, scale, end)?;
        f.a.vmovdqu(ymmword_ptr(rsi), ymm(0))?;
        f.a.add(rdi, 4 * NARROW_ROUND as i32)?;
        f.a.add(rsi, NARROW_ROUND as i32)?;
        f.a.dec(rcx)?;
        f.a.jnz(top)?;
    }
    if tail > 0 {
        for i in 0..4 {
            let lanes = tail.saturating_sub(8 * i).min(8);
            let mask = f.dwords(std::array::from_fn(|i| if i < lanes { u32::MAX } else { 0 }));
            f.a.vmovups(ymm(MASK), ymmword_ptr(mask))?;
            f.a.vmaskmovps(ymm(i), ymm(MASK), ymmword_ptr(rdi + 32 * i))?;
        }
        narrow_round(&mut f, scale, end)?;
        if tail >= 16 {
            f.a.vmovdqu(xmmword_ptr(rsi), xmm(0))?;
            f.a.vextracti128(xmm(0), ymm(0), 1)?;
        }
        store_first_bytes(&mut f, 0, rsi + (tail & 16), tail % 16)?;
    }
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Registers 0 to 3 become 32 bytes in register 0.
fn narrow_round(f: &mut Asm, scale: f32, end: End) -> Emitted<()> {
    let (x, q, r) = (|i: usize| ymm(i), |i: usize| ymm(4 + i), |i: usize| ymm(8 + i));
    let constants = [-1024.0 * scale, 1024.0 * scale, 1.0 / scale, scale].map(f32::to_bits);
    let [low, high, reciprocal, scale] = constants.map(|c| f.splat32(c)).map(ymmword_ptr);
    for i in 0..4 {
        // A NaN yields the second operand.
        f.a.vmaxps(x(i), x(i), low)?;
        f.a.vminps(x(i), x(i), high)?;
        f.a.vmulps(q(i), x(i), reciprocal)?;
    }
    for _ in 0..2 {
        for i in 0..4 {
            f.a.vmovaps(r(i), q(i))?;
            f.a.vfnmadd132ps(r(i), x(i), scale)?;
        }
        for i in 0..4 {
            f.a.vfmadd231ps(q(i), r(i), reciprocal)?;
        }
    }
    for i in 0..4 {
        f.a.vcvtps2dq(x(i), q(i))?;
    }
    f.a.vpackssdw(x(0), x(0), x(1))?;
    f.a.vpackssdw(x(2), x(2), x(3))?;
    if let End::Requantize { zero, .. } = end
        && zero != 0
    {
        let words = f.splat16(zero as i16 as u16);
        f.a.vpaddsw(x(0), x(0), ymmword_ptr(words))?;
        f.a.vpaddsw(x(2), x(2), ymmword_ptr(words))?;
    }
    bytes(f, end, [0, 2], 4)
}
