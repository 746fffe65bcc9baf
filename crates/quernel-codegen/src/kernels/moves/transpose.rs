//! Transposes of bytes and words, block by block in registers.

use super::{copy_steps, element};
use crate::{
    emit::{Emitter, Ptr},
    kernels::strided::Space,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8X16, I64X2},
};

/// A move of two axes: `columns` elements follow each other in the operand, `rows` in the result.
#[derive(Clone, Copy, Debug)]
pub struct Transpose {
    /// Bytes per element.
    width: usize,
    /// Extent of the axis that is contiguous in the result.
    rows: usize,
    /// Extent of the axis that is contiguous in the operand.
    columns: usize,
    /// Operand elements between rows.
    from: isize,
    /// Result elements between columns.
    to: isize,
    shape: Shape,
}

/// What is transposed at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    /// Two, three or four rows of bytes that make up the result's pixels: sixteen columns.
    Pixels,
    /// Eight rows and sixteen columns of bytes.
    Bytes,
    /// Four rows and four columns of 32-bit words.
    Words,
}

impl Shape {
    fn extents(self, rows: usize) -> (usize, usize) {
        match self {
            Self::Pixels => (rows, 16),
            Self::Bytes => (8, 16),
            Self::Words => (4, 4),
        }
    }
}

/// Splits a space into outer axes and a transpose worth doing in registers.
pub fn split(e: &Emitter, space: &Space, width: usize) -> Option<(Space, Transpose)> {
    if !e.vectors() {
        return None;
    }
    let [from, to] = [&space.steps[0], &space.steps[1]];
    let row = to.iter().position(|&s| s == 1)?;
    let column = from.iter().position(|&s| s == 1)?;
    if row == column {
        return None;
    }
    let (rows, columns) = (space.dims[row], space.dims[column]);
    let dense = to[column] == rows as isize;
    let shape = match width {
        1 if dense && columns >= 16 && (rows == 2 || rows == 4 || rows == 3 && e.machine().shuffles) => Shape::Pixels,
        1 if rows >= 8 && columns >= 16 => Shape::Bytes,
        4 if rows >= 4 && columns >= 4 => Shape::Words,
        _ => return None,
    };
    let keep = |axis: &usize| *axis != row && *axis != column;
    let axes: Vec<usize> = (0..space.dims.len()).filter(keep).collect();
    let outer = Space {
        dims: axes.iter().map(|&a| space.dims[a]).collect(),
        steps: space.steps.iter().map(|s| axes.iter().map(|&a| s[a]).collect()).collect(),
        starts: space.starts.clone(),
    };
    Some((outer, Transpose { width, rows, columns, from: from[row], to: to[column], shape }))
}

impl Transpose {
    /// Emits the loops: blocks of columns outside, so that lines of the result fill while they are in cache.
    pub fn emit(self, e: &mut Emitter, x: Ptr, y: Ptr) {
        let (tall, wide) = self.shape.extents(self.rows);
        let bytes = self.width as i64;
        let (from, to) = (self.from as i64 * bytes, self.to as i64 * bytes);
        let (row_blocks, rows_left) = (self.rows / tall, self.rows % tall);
        let column_blocks = self.columns / wide;
        e.walk(column_blocks, &[(x, wide as i64 * bytes), (y, wide as i64 * to)], |e, p| {
            let (x, y) = (p[0], p[1]);
            e.walk(row_blocks, &[(x, tall as i64 * from), (y, tall as i64 * bytes)], |e, p| self.block(e, p[0], p[1]));
            let done = (row_blocks * tall) as i64;
            let (x, y) = (e.at(x, done * from), e.at(y, done * bytes));
            e.walk(rows_left, &[(x, from), (y, bytes)], |e, p| copy_steps(e, self.width, [p[0], p[1]], [1, self.to], wide));
        });
        let done = (column_blocks * wide) as i64;
        let (x, y) = (e.at(x, done * bytes), e.at(y, done * to));
        e.walk(self.columns - done as usize, &[(x, bytes), (y, to)], |e, p| {
            copy_steps(e, self.width, [p[0], p[1]], [self.from, 1], self.rows);
        });
    }

    fn block(self, e: &mut Emitter, x: Ptr, y: Ptr) {
        debug_assert!(self.width == 1 || element(self.width).bytes() == 4);
        let (tall, _) = self.shape.extents(self.rows);
        let from = (self.from * self.width as isize) as i64;
        let to = (self.to * self.width as isize) as i64;
        let rows: Vec<Value> = (0..tall as i64).map(|r| e.load(I8X16, x, r * from)).collect();
        match self.shape {
            Shape::Pixels if tall == 3 => {
                for (k, v) in thirds(e, &rows).into_iter().enumerate() {
                    e.store(v, y, 16 * k as i64);
                }
            }
            Shape::Pixels => {
                for (k, v) in interleaved(e, rows, 1).into_iter().enumerate() {
                    e.store(v, y, 16 * k as i64);
                }
            }
            Shape::Bytes => {
                for (k, v) in interleaved(e, rows, 1).into_iter().enumerate() {
                    let halves = e.cast(I64X2, v);
                    for half in 0..2 {
                        let column = e.b.ins().extractlane(halves, half);
                        e.store(column, y, (2 * k as i64 + i64::from(half)) * to);
                    }
                }
            }
            Shape::Words => {
                for (k, v) in interleaved(e, rows, 4).into_iter().enumerate() {
                    e.store(v, y, k as i64 * to);
                }
            }
        }
    }
}

/// Elements of `width` bytes of a power of two of vectors side by side: first elements of all, second elements, ...
fn interleaved(e: &mut Emitter, mut rows: Vec<Value>, mut width: usize) -> Vec<Value> {
    // Neighbours join into runs of two, those into runs of four, ...: `run[i]` are the vectors of the i-th run.
    let mut runs: Vec<Vec<Value>> = rows.drain(..).map(|r| vec![r]).collect();
    while runs.len() > 1 {
        runs = runs
            .chunks(2)
            .map(|pair| {
                let both = pair[0].iter().zip(&pair[1]);
                both.flat_map(|(&a, &b)| [false, true].map(|high| e.interleave(a, b, width, high))).collect()
            })
            .collect();
        width *= 2;
    }
    runs.swap_remove(0)
}

/// Bytes of three vectors side by side.
fn thirds(e: &mut Emitter, rows: &[Value]) -> [Value; 3] {
    std::array::from_fn(|k| {
        let place = |j: usize| ((16 * k + j) / 3, (16 * k + j) % 3);
        if e.machine().x86 && e.machine().shuffles {
            // An order with its highest bit set takes a zero: five cheap instructions, where two permutations of two vectors are
            // twelve operations of Intel's cores.
            let mut of = |row: usize| {
                let order = std::array::from_fn(|j| if place(j).1 == row { place(j).0 as u8 } else { 0x80 });
                let order = e.vconst(I8X16, order);
                e.b.ins().x86_pshufb(rows[row], order)
            };
            let [a, b, c] = [of(0), of(1), of(2)];
            let two = e.b.ins().bor(a, b);
            return e.b.ins().bor(two, c);
        }
        let two = e.shuffle(
            rows[0],
            rows[1],
            std::array::from_fn(|j| match place(j) {
                (pixel, 1) => 16 + pixel as u8,
                (pixel, _) => pixel as u8,
            }),
        );
        e.shuffle(
            two,
            rows[2],
            std::array::from_fn(|j| match place(j) {
                (pixel, 2) => 16 + pixel as u8,
                _ => j as u8,
            }),
        )
    })
}
