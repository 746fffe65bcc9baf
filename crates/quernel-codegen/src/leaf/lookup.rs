//! Bytes through a table of 256: the table lives in four registers, two permutations look up 64 bytes.

use super::{
    Leaf,
    asm::{Asm, Emitted, zmm},
};
use iced_x86::code_asm::*;
use quernel_ir::program::{Step, What};

/// Bytes of one vector.
const VECTOR: usize = 64;
/// Vectors of one round.
const ROUND: usize = 4;
/// First register of the table.
const TABLE: usize = 16;

/// The leaf of a lookup of any length. The tail is masked, so nothing behind the slots is read.
pub fn leaf(step: &Step) -> Option<Leaf> {
    let What::Lookup { count } = step.what else { return None };
    (count < 1 << 30).then_some(())?;
    let code = emit(count).ok()?;
    Some(Leaf { code, kernel: "lookup_u8__avx512vbmi".to_owned(), frame: 8, cycles: None })
}

/// Arguments: operand in rdi, table in rsi, result in rdx.
fn emit(count: usize) -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    for i in 0..4 {
        f.a.vmovdqu8(zmm(TABLE + i), zmmword_ptr(rsi + VECTOR * i))?;
    }
    let rounds = count / (ROUND * VECTOR);
    if rounds > 0 {
        f.a.mov(rcx, rounds as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        for i in 0..ROUND {
            f.a.vmovdqu8(zmm(i), zmmword_ptr(rdi + VECTOR * i))?;
            entries(&mut f, i)?;
            f.a.vmovdqu8(zmmword_ptr(rdx + VECTOR * i), zmm(i))?;
        }
        f.a.add(rdi, (ROUND * VECTOR) as i32)?;
        f.a.add(rdx, (ROUND * VECTOR) as i32)?;
        f.a.dec(rcx)?;
        f.a.jnz(top)?;
    }
    let rest = count % (ROUND * VECTOR);
    for i in 0..rest / VECTOR {
        f.a.vmovdqu8(zmm(i), zmmword_ptr(rdi + VECTOR * i))?;
        entries(&mut f, i)?;
        f.a.vmovdqu8(zmmword_ptr(rdx + VECTOR * i), zmm(i))?;
    }
    let (done, tail) = (rest / VECTOR * VECTOR, rest % VECTOR);
    if tail > 0 {
        f.a.mov(rax, (1u64 << tail) - 1)?;
        f.a.kmovq(k2, rax)?;
        f.a.vmovdqu8(zmm(0).k2().z(), zmmword_ptr(rdi + done))?;
        entries(&mut f, 0)?;
        f.a.vmovdqu8(zmmword_ptr(rdx + done).k2(), zmm(0))?;
    }
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Replaces the bytes of register `i` by their entries: the low seven bits select in each half of the table, the top
/// bit selects the half.
fn entries(f: &mut Asm, i: usize) -> Emitted<()> {
    let (v, upper) = (zmm(i), zmm(ROUND + i));
    f.a.vpmovb2m(k1, v)?;
    f.a.vmovdqa64(upper, v)?;
    f.a.vpermi2b(upper, zmm(TABLE + 2), zmm(TABLE + 3))?;
    f.a.vpermi2b(v, zmm(TABLE), zmm(TABLE + 1))?;
    f.a.vmovdqu8(v.k1(), upper)
}
