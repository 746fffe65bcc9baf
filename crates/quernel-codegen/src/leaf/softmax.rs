//! Softmax of contiguous f32 rows: the largest, the exponentials and their sum, the quotients. The sixteen partial sums of
//! [`quernel_ir::float::sum16`] are the lanes of one register of 512 bits, or of two of 256.

use super::{
    Leaf,
    asm::{Asm, Emitted, xmm, ymm, zmm},
};
use iced_x86::code_asm::*;
use quernel_ir::{
    float::{EXP_LO, EXP_POLY, LN2_HI, LN2_LO, LOG2_E, ROUND_MAGIC},
    program::{Step, What},
};

/// Registers: the element, what is made of it, sums, the largest; constants from 16 on where there are so many.
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

/// The leaf of a softmax along the last axis, not of the logarithmic form, in 512 bits (`wide`) or 256. Tails are masked:
/// nothing behind the slots is read.
pub fn leaf(step: &Step, wide: bool) -> Option<Leaf> {
    let What::SoftmaxFloat { outer, len, inner: 1, log: false } = step.what else { return None };
    if outer.saturating_mul(len) >= 1 << 28 || outer * len == 0 {
        return None;
    }
    let code = if wide { emit(outer, len) } else { narrow(outer, len) };
    let kernel = if wide { "softmax_f32__avx512" } else { "softmax_f32__avx2" };
    Some(Leaf { code: code.ok()?, kernel: kernel.to_owned(), frame: 8, cycles: None })
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
    next_row(f, len, rows)
}

/// Goes to the next row, if there is one, and returns behind the last.
fn next_row(mut f: Asm, len: usize, rows: CodeLabel) -> Emitted<Vec<u8>> {
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

/// The same function in 256 bits. Constants are in memory; a vector of sixteen elements is two halves.
fn narrow(outer: usize, len: usize) -> Emitted<Vec<u8>> {
    let mut f = Asm::vex()?;
    let (whole, tail) = (len / 16, len % 16);
    f.a.mov(rcx, outer as u64)?;
    let mut rows = f.a.create_label();
    f.a.set_label(&mut rows)?;

    let lowest = f.splat32(f32::NEG_INFINITY.to_bits());
    for h in 0..2 {
        f.a.vmovups(ymm(LARGEST + h), ymmword_ptr(lowest))?;
    }
    along(&mut f, whole, tail, &|f, masked| {
        for half in halves(f, tail, masked)? {
            half.load(f, rax)?;
            if half.mask {
                f.a.vblendvps(ymm(X), ymm(LARGEST), ymm(X), ymm(MASK))?;
            }
            f.a.vmaxps(ymm(LARGEST + half.number), ymm(X), ymm(LARGEST + half.number))?;
        }
        Ok(())
    })?;
    f.a.vmaxps(ymm(LARGEST), ymm(LARGEST), ymm(LARGEST + 1))?;
    quarter(&mut f, LARGEST, &|f| f.a.vmaxps(xmm(LARGEST), xmm(LARGEST), xmm(T)))?;
    f.a.vbroadcastss(ymm(LARGEST), xmm(LARGEST))?;

    for sum in SUM_OF.map(ymm) {
        f.a.vxorps(sum, sum, sum)?;
    }
    along(&mut f, whole, tail, &|f, masked| {
        for half in halves(f, tail, masked)? {
            half.load(f, rax)?;
            f.a.vsubps(ymm(X), ymm(X), ymm(LARGEST))?;
            exponential_narrow(f)?;
            half.store(f)?;
            if half.mask {
                // Adding 0 to a sum that is not negative leaves it as it is.
                f.a.vandps(ymm(X), ymm(X), ymm(MASK))?;
            }
            f.a.vaddps(ymm(SUM_OF[half.number]), ymm(SUM_OF[half.number]), ymm(X))?;
        }
        Ok(())
    })?;
    f.a.vaddps(ymm(SUM), ymm(SUM), ymm(SUM_OF[1]))?;
    quarter(&mut f, SUM, &|f| f.a.vaddps(xmm(SUM), xmm(SUM), xmm(T)))?;
    f.a.vbroadcastss(ymm(SUM), xmm(SUM))?;

    along(&mut f, whole, tail, &|f, masked| {
        for half in halves(f, tail, masked)? {
            half.load(f, rdx)?;
            f.a.vdivps(ymm(X), ymm(X), ymm(SUM))?;
            half.store(f)?;
        }
        Ok(())
    })?;
    next_row(f, len, rows)
}

/// Registers of 256 bits beside the shared ones: the second sum, which elements are there, the second largest.
const SUM_OF: [usize; 2] = [SUM, 8];
const MASK: usize = 9;

/// Eight of sixteen elements.
struct Half {
    number: usize,
    /// Some are not there.
    mask: bool,
}

/// The halves of a vector, or of the last `tail` elements of a row.
fn halves(f: &mut Asm, tail: usize, masked: bool) -> Emitted<Vec<Half>> {
    let left = if masked { tail } else { 16 };
    if left % 8 > 0 {
        let mask = f.dwords(std::array::from_fn(|i| if i < left % 8 { u32::MAX } else { 0 }));
        f.a.vmovups(ymm(MASK), ymmword_ptr(mask))?;
    }
    Ok((0..left.div_ceil(8)).map(|number| Half { number, mask: left < 8 * (number + 1) }).collect())
}

impl Half {
    fn load(&self, f: &mut Asm, from: AsmRegister64) -> Emitted<()> {
        let from = ymmword_ptr(from + 32 * self.number);
        if self.mask { f.a.vmaskmovps(ymm(X), ymm(MASK), from) } else { f.a.vmovups(ymm(X), from) }
    }
    fn store(&self, f: &mut Asm) -> Emitted<()> {
        let to = ymmword_ptr(rdx + 32 * self.number);
        if self.mask { f.a.vmaskmovps(to, ymm(MASK), ymm(X)) } else { f.a.vmovups(to, ymm(X)) }
    }
}

/// Joins the upper half of what is left of a 256-bit register with its lower half, three times.
fn quarter(f: &mut Asm, r: usize, join: &dyn Fn(&mut Asm) -> Emitted<()>) -> Emitted<()> {
    f.a.vextractf128(xmm(T), ymm(r), 1)?;
    join(f)?;
    for order in [0b11_10_11_10, 0b01_01_01_01] {
        f.a.vpshufd(xmm(T), xmm(r), order)?;
        join(f)?;
    }
    Ok(())
}

/// [`exponential`] in 256 bits.
fn exponential_narrow(f: &mut Asm) -> Emitted<()> {
    let (x, n, r, p, t) = (ymm(X), ymm(N), ymm(R), ymm(P), ymm(T));
    let constants = [LOG2_E, ROUND_MAGIC, LN2_HI, LN2_LO, 1.0, EXP_LO, f32::from_bits(127)];
    let [log2, magic, high, low, one, least, exponent] = constants.map(|c| f.splat32(c.to_bits())).map(ymmword_ptr);
    let poly = EXP_POLY.map(|c| f.splat32(c.to_bits())).map(ymmword_ptr);
    f.a.vmulps(n, x, log2)?;
    f.a.vaddps(n, n, magic)?;
    f.a.vsubps(n, n, magic)?;
    f.a.vmulps(t, n, high)?;
    f.a.vsubps(r, x, t)?;
    f.a.vmulps(t, n, low)?;
    f.a.vsubps(r, r, t)?;
    f.a.vmulps(p, r, poly[0])?;
    f.a.vaddps(p, p, poly[1])?;
    for c in &poly[2..] {
        f.a.vmulps(p, p, r)?;
        f.a.vaddps(p, p, *c)?;
    }
    f.a.vmulps(t, r, r)?;
    f.a.vmulps(p, p, t)?;
    f.a.vaddps(p, p, r)?;
    f.a.vaddps(p, p, one)?;
    f.a.vcvttps2dq(n, n)?;
    f.a.vpaddd(n, n, exponent)?;
    f.a.vpslld(n, n, 23)?;
    f.a.vmulps(p, p, n)?;
    f.a.vcmpps(t, x, least, 0x05)?;
    f.a.vandps(x, p, t)
}
