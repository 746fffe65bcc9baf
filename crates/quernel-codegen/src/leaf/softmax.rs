//! Softmax of contiguous f32 rows in 512-bit vectors: the largest, the exponentials and their sum, the quotients. The
//! sixteen partial sums of [`quernel_ir::float::sum16`] are the lanes of one register.

use super::{
    Leaf,
    asm::{Asm, Emitted, xmm, ymm, zmm},
};
use iced_x86::code_asm::*;
use quernel_ir::{
    float::{EXP_LO, EXP_POLY, LN2_HI, LN2_LO, LOG2_E, ROUND_MAGIC},
    program::{Step, What},
};

/// Registers: the element, what is made of it, sums, the largest; constants from 16 on.
const X: usize = 0;
const N: usize = 1;
const R: usize = 2;
const P: usize = 3;
const T: usize = 4;
const SUM: usize = 5;
const LARGEST: usize = 6;
const LOG2: usize = 16;
const MAGIC: usize = 17;
const HIGH: usize = 18;
const LOW: usize = 19;
const ONE: usize = 20;
const LEAST: usize = 21;
const EXPONENT: usize = 22;
const POLY: usize = 23;

/// The leaf of a softmax along the last axis, not of the logarithmic form. Tails are masked: nothing behind the slots is
/// read.
pub fn leaf(step: &Step) -> Option<Leaf> {
    let What::SoftmaxFloat { outer, len, inner: 1, log: false } = step.what else { return None };
    if outer.saturating_mul(len) >= 1 << 28 || outer * len == 0 {
        return None;
    }
    let code = emit(outer, len).ok()?;
    Some(Leaf { code, kernel: "softmax_f32__avx512".to_owned(), frame: 8, cycles: None })
}

/// Operand in rdi, result in rsi, of the row; rcx rows left; rax and rdx positions in them, r8 vectors left.
fn emit(outer: usize, len: usize) -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    let (whole, tail) = (len / 16, len % 16);
    if tail > 0 {
        f.a.mov(eax, (1 << tail) - 1)?;
        f.a.kmovd(k1, eax)?;
    }
    let constants = [LOG2_E, ROUND_MAGIC, LN2_HI, LN2_LO, 1.0, EXP_LO, f32::from_bits(127)];
    for (i, c) in constants.into_iter().chain(EXP_POLY).enumerate() {
        let literal = f.splat32(c.to_bits());
        f.a.vmovups(zmm(LOG2 + i), zmmword_ptr(literal))?;
    }
    f.a.mov(rcx, outer as u64)?;
    let mut rows = f.a.create_label();
    f.a.set_label(&mut rows)?;

    let lowest = f.splat32(f32::NEG_INFINITY.to_bits());
    f.a.vmovups(zmm(LARGEST), zmmword_ptr(lowest))?;
    along(&mut f, whole, tail, &|f, masked| {
        // A NaN yields the second operand: it never becomes the largest.
        if masked {
            f.a.vmovups(zmm(X).k1().z(), zmmword_ptr(rax))?;
            f.a.vmaxps(zmm(LARGEST).k1(), zmm(X), zmm(LARGEST))
        } else {
            f.a.vmovups(zmm(X), zmmword_ptr(rax))?;
            f.a.vmaxps(zmm(LARGEST), zmm(X), zmm(LARGEST))
        }
    })?;
    halve(&mut f, LARGEST, &|f, width| match width {
        8 => f.a.vmaxps(ymm(LARGEST), ymm(LARGEST), ymm(T)),
        _ => f.a.vmaxps(xmm(LARGEST), xmm(LARGEST), xmm(T)),
    })?;
    f.a.vbroadcastss(zmm(LARGEST), xmm(LARGEST))?;

    f.a.vpxord(zmm(SUM), zmm(SUM), zmm(SUM))?;
    along(&mut f, whole, tail, &|f, masked| {
        if masked {
            f.a.vmovups(zmm(X).k1().z(), zmmword_ptr(rax))?
        } else {
            f.a.vmovups(zmm(X), zmmword_ptr(rax))?
        }
        f.a.vsubps(zmm(X), zmm(X), zmm(LARGEST))?;
        exponential(f)?;
        if masked {
            f.a.vaddps(zmm(SUM).k1(), zmm(SUM), zmm(X))?;
            f.a.vmovups(zmmword_ptr(rdx).k1(), zmm(X))
        } else {
            f.a.vaddps(zmm(SUM), zmm(SUM), zmm(X))?;
            f.a.vmovups(zmmword_ptr(rdx), zmm(X))
        }
    })?;
    halve(&mut f, SUM, &|f, width| match width {
        8 => f.a.vaddps(ymm(SUM), ymm(SUM), ymm(T)),
        _ => f.a.vaddps(xmm(SUM), xmm(SUM), xmm(T)),
    })?;
    f.a.vbroadcastss(zmm(SUM), xmm(SUM))?;

    along(&mut f, whole, tail, &|f, masked| {
        if masked {
            f.a.vmovups(zmm(X).k1().z(), zmmword_ptr(rdx))?;
            f.a.vdivps(zmm(X), zmm(X), zmm(SUM))?;
            f.a.vmovups(zmmword_ptr(rdx).k1(), zmm(X))
        } else {
            f.a.vmovups(zmm(X), zmmword_ptr(rdx))?;
            f.a.vdivps(zmm(X), zmm(X), zmm(SUM))?;
            f.a.vmovups(zmmword_ptr(rdx), zmm(X))
        }
    })?;
    f.a.add(rdi, 4 * len as i32)?;
    f.a.add(rsi, 4 * len as i32)?;
    f.a.dec(rcx)?;
    f.a.jnz(rows)?;
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Calls `body` for every vector of the row, at rax and rdx; the last one may be masked.
fn along(f: &mut Asm, whole: usize, tail: usize, body: &dyn Fn(&mut Asm, bool) -> Emitted<()>) -> Emitted<()> {
    f.a.mov(rax, rdi)?;
    f.a.mov(rdx, rsi)?;
    if whole > 0 {
        f.a.mov(r8, whole as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        body(f, false)?;
        f.a.add(rax, 64)?;
        f.a.add(rdx, 64)?;
        f.a.dec(r8)?;
        f.a.jnz(top)?;
    }
    if tail > 0 { body(f, true) } else { Ok(()) }
}

/// Joins the upper half of what is left of a register with its lower half, four times; `join` finds the upper half in `T`.
fn halve(f: &mut Asm, r: usize, join: &dyn Fn(&mut Asm, usize) -> Emitted<()>) -> Emitted<()> {
    f.a.vextractf64x4(ymm(T), zmm(r), 1)?;
    join(f, 8)?;
    f.a.vextractf32x4(xmm(T), ymm(r), 1)?;
    join(f, 4)?;
    f.a.vpshufd(xmm(T), xmm(r), 0b11_10_11_10)?;
    join(f, 2)?;
    f.a.vpshufd(xmm(T), xmm(r), 0b01_01_01_01)?;
    join(f, 1)
}

/// [`quernel_ir::float::exp`] of `X`, which is at most 0 or NaN, in the same operations.
fn exponential(f: &mut Asm) -> Emitted<()> {
    let (x, n, r, p, t) = (zmm(X), zmm(N), zmm(R), zmm(P), zmm(T));
    f.a.vmulps(n, x, zmm(LOG2))?;
    f.a.vaddps(n, n, zmm(MAGIC))?;
    f.a.vsubps(n, n, zmm(MAGIC))?;
    f.a.vmulps(t, n, zmm(HIGH))?;
    f.a.vsubps(r, x, t)?;
    f.a.vmulps(t, n, zmm(LOW))?;
    f.a.vsubps(r, r, t)?;
    f.a.vmulps(p, r, zmm(POLY))?;
    f.a.vaddps(p, p, zmm(POLY + 1))?;
    for i in 2..EXP_POLY.len() {
        f.a.vmulps(p, p, r)?;
        f.a.vaddps(p, p, zmm(POLY + i))?;
    }
    f.a.vmulps(t, r, r)?;
    f.a.vmulps(p, p, t)?;
    f.a.vaddps(p, p, r)?;
    f.a.vaddps(p, p, zmm(ONE))?;
    // The power of two; below LEAST, and for a NaN, it means nothing.
    f.a.vcvttps2dq(n, n)?;
    f.a.vpaddd(n, n, zmm(EXPONENT))?;
    f.a.vpslld(n, n, 23)?;
    // Not less than LEAST, or a NaN: the product; otherwise 0.
    f.a.vcmpps(k2, x, zmm(LEAST), 0x05)?;
    f.a.vmulps(x.k2().z(), p, n)
}
