//! Moves and fills over strided spaces.

mod transpose;

use super::{strided::Space, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Type, Value,
    types::{I8, I8X16, I16, I32, I64},
};
use quernel_ir::{
    diag::Diagnostic,
    program::{Strided, What},
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Fill { width, over, bits } => fill(e, *width, over, *bits),
        What::Move { width, over } => copy(e, *width, over),
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// The integer type of an element of `width` bytes.
fn element(width: usize) -> Type {
    match width {
        1 => I8,
        2 => I16,
        4 => I32,
        _ => I64,
    }
}

fn fill(e: &mut Emitter, width: usize, over: &Strided, bits: u64) {
    let ty = element(width);
    let space = Space::new(over);
    let (n, steps) = space.inner();
    let bits = if width == 8 { bits } else { bits & ((1 << (8 * width)) - 1) };
    let value = e.b.ins().iconst(ty, bits as i64);
    let to = e.write(0);
    let wide = if e.vectors() && steps[0] == 1 { n * width / 16 } else { 0 };
    let pattern: [u8; 16] = std::array::from_fn(|i| bits.to_le_bytes()[i % width]);
    space.nest(e, &[to], &[width as i64], 1, &mut |e, p| {
        if wide > 0 {
            let v = e.vconst(I8X16, pattern);
            e.walk(wide, &[(p[0], 16)], |e, p| e.store(v, p[0], 0));
        }
        let rest = e.at(p[0], 16 * wide as i64);
        e.walk(n - 16 * wide / width, &[(rest, steps[0] as i64 * width as i64)], |e, p| e.store(value, p[0], 0));
    });
}

/// Copies. Runs that are contiguous on both sides move as vectors; where another axis is contiguous on each side, blocks
/// are transposed in registers; the rest goes element by element in the order of the result.
fn copy(e: &mut Emitter, width: usize, over: &Strided) {
    let operands = [e.read(0), e.write(0)];
    copy_within(e, width, &Space::new(over), operands);
}

/// The same over a space of two operands that lie elsewhere.
pub fn copy_within(e: &mut Emitter, width: usize, space: &Space, operands: [Ptr; 2]) {
    let (n, steps) = space.inner();
    let bytes = width as i64;
    // Bytes have no order: words of them are read and written in one.
    let [from, to] = operands;
    let operands = [from, if width == 1 { Ptr { order: from.order, ..to } } else { to }];
    // Between memory of different byte orders elements move one by one: in longer words they would change places.
    let words = operands[0].order == operands[1].order;
    if words && steps == [1, 1] {
        let total = n * width;
        return space.nest(e, &operands, &[bytes; 2], 1, &mut |e, p| copy_run(e, p[0], p[1], total));
    }
    if words && let Some((outer, t)) = transpose::split(e, space, width) {
        return outer.nest(e, &operands, &[bytes; 2], 0, &mut |e, p| t.emit(e, p[0], p[1]));
    }
    space.nest(e, &operands, &[bytes; 2], 1, &mut |e, p| copy_steps(e, width, [p[0], p[1]], [steps[0], steps[1]], n));
}

/// `n` elements, `steps` elements apart on each side.
fn copy_steps(e: &mut Emitter, width: usize, p: [Ptr; 2], steps: [isize; 2], n: usize) {
    let ty = element(width);
    const ROUND: usize = 4;
    let step = steps.map(|s| s as i64 * width as i64);
    let one = |e: &mut Emitter, p: &[Ptr], i: i64| {
        let v: Value = e.load(ty, p[0], i * step[0]);
        e.store(v, p[1], i * step[1]);
    };
    e.walk(n / ROUND, &[(p[0], step[0] * ROUND as i64), (p[1], step[1] * ROUND as i64)], |e, p| {
        for i in 0..ROUND {
            one(e, p, i as i64);
        }
    });
    let done = (n / ROUND * ROUND) as i64;
    let rest = [e.at(p[0], done * step[0]), e.at(p[1], done * step[1])];
    for i in 0..n % ROUND {
        one(e, &rest, i as i64);
    }
}

/// A contiguous run, vectors first.
fn copy_run(e: &mut Emitter, from: Ptr, to: Ptr, bytes: usize) {
    let wide = if e.vectors() { bytes / 16 } else { 0 };
    e.walk(wide, &[(from, 16), (to, 16)], |e, p| {
        let v = e.load(I8X16, p[0], 0);
        e.store(v, p[1], 0);
    });
    let mut done = 16 * wide;
    let words = (bytes - done) / 8;
    let (a, b) = (e.at(from, done as i64), e.at(to, done as i64));
    e.walk(words, &[(a, 8), (b, 8)], |e, p| {
        let v = e.load(I64, p[0], 0);
        e.store(v, p[1], 0);
    });
    done += 8 * words;
    for (size, ty) in [(4, I32), (2, I16), (1, I8)] {
        if bytes - done >= size {
            let v = e.load(ty, from, done as i64);
            e.store(v, to, done as i64);
            done += size;
        }
    }
}
