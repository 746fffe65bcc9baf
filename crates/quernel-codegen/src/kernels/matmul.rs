//! Products of two computed f32 matrices.

use super::unsupported;
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32, F32X4},
};
use quernel_ir::{diag::Diagnostic, program::What};

/// Rows of a register tile.
const ROWS: usize = 3;
/// Vectors of four columns of a register tile.
const VECTORS: usize = 3;

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::MatMulFloat { batch, m, k, n, a_batch, b_batch } = what else { return Err(unsupported(what)) };
    let shape = Shape { k: *k, n: *n };
    let (a, b, y) = (e.read(0), e.read(1), e.write(0));
    e.walk(*batch, &[(a, 4 * *a_batch as i64), (b, 4 * *b_batch as i64), (y, 4 * (m * n) as i64)], |e, p| {
        let (a, b, y) = (p[0], p[1], p[2]);
        let rows = |e: &mut Emitter, a: Ptr, y: Ptr, count: usize, rows: usize| {
            let (a_step, y_step) = (4 * (rows * k) as i64, 4 * (rows * n) as i64);
            e.walk(count, &[(a, a_step), (y, y_step)], |e, p| shape.band(e, p[0], b, p[1], rows));
        };
        rows(e, a, y, m / ROWS, ROWS);
        let done = m / ROWS * ROWS;
        let (a, y) = (e.at(a, 4 * (done * k) as i64), e.at(y, 4 * (done * n) as i64));
        rows(e, a, y, m % ROWS, 1);
    });
    Ok(())
}

#[derive(Clone, Copy)]
struct Shape {
    k: usize,
    n: usize,
}

impl Shape {
    /// All columns of `rows` rows.
    fn band(self, e: &mut Emitter, a: Ptr, b: Ptr, y: Ptr, rows: usize) {
        let mut done = 0;
        if e.vectors() {
            for vectors in [VECTORS, 1] {
                let columns = 4 * vectors;
                let count = (self.n - done) / columns;
                let (b, y) = (e.at(b, 4 * done as i64), e.at(y, 4 * done as i64));
                e.walk(count, &[(b, 4 * columns as i64), (y, 4 * columns as i64)], |e, p| self.tile(e, a, p[0], p[1], rows, Some(vectors)));
                done += count * columns;
            }
        }
        let (b, y) = (e.at(b, 4 * done as i64), e.at(y, 4 * done as i64));
        e.walk(self.n - done, &[(b, 4), (y, 4)], |e, p| self.tile(e, a, p[0], p[1], rows, None));
    }

    /// `rows` by `vectors` of four columns, or by one column: from +0, in order of k.
    fn tile(self, e: &mut Emitter, a: Ptr, b: Ptr, y: Ptr, rows: usize, vectors: Option<usize>) {
        let (ty, columns, width) = match vectors {
            Some(v) => (F32X4, v, 16),
            None => (F32, 1, 4),
        };
        let zero = if vectors.is_some() { e.splat_f32(0.0) } else { e.f32(0.0) };
        let sums = e.fold(self.k, &[(a, 4), (b, 4 * self.n as i64)], &vec![zero; rows * columns], |e, p, sums| {
            let right: Vec<Value> = (0..columns).map(|j| e.load(ty, p[1], width * j as i64)).collect();
            let mut out = Vec::with_capacity(sums.len());
            for i in 0..rows {
                let left = e.load_f32(p[0], 4 * (i * self.k) as i64);
                let left = if vectors.is_some() { e.b.ins().splat(F32X4, left) } else { left };
                for (j, &right) in right.iter().enumerate() {
                    let product = e.b.ins().fmul(left, right);
                    out.push(e.b.ins().fadd(sums[i * columns + j], product));
                }
            }
            out
        });
        for (i, &sum) in sums.iter().enumerate() {
            e.store(sum, y, (4 * (i / columns * self.n)) as i64 + width * (i % columns) as i64);
        }
    }
}
