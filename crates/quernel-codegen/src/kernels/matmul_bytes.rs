//! Products of two computed matrices of bytes: the panels of the right ones, and the layers over them.

use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8, I8X16, I16X8, I32, I32X4},
};
use quernel_ir::program::{ByteProduct, End, PANEL, Strided, panel_set};

/// Bytes of a block of weights.
const BLOCK: i64 = 64;

/// What a step's function is called for: extents, outermost first, with the bytes between neighbours in each argument; and
/// where each argument starts.
pub struct Calls {
    /// Extents and distances.
    pub axes: Vec<(usize, Vec<i64>)>,
    /// Displacements of the arguments.
    pub starts: Vec<i64>,
}

impl Calls {
    /// Those of a product, whose function computes one.
    pub fn of(p: &ByteProduct, end: End) -> Self {
        let wide = if matches!(end, End::Float { .. }) { 4 } else { 1 };
        let (set, biases) = (p.set_bytes() as i64, 8 * p.n.next_multiple_of(PANEL) as i64);
        let [a, b, y] = [0, 1, 2].map(|i| &p.over.operands[i]);
        // a, panels, biases, scales, result.
        let bytes = |a: i64, b: i64, y: i64| vec![a, b * set, b * biases, 0, y * wide];
        let axis = |(i, d): (usize, &usize)| (*d, bytes(a.steps[i] as i64, b.steps[i] as i64, y.steps[i] as i64));
        Self { axes: p.over.dims.iter().enumerate().map(axis).collect(), starts: bytes(a.start as i64, b.start as i64, y.start as i64) }
    }
}

/// Parameters of [`quernel_ir::program::What::PackPanels`].
pub struct Pack<'a> {
    /// The matrices, their rows and columns.
    pub over: &'a Strided,
    /// What is taken from a byte.
    pub center: i32,
    /// What else is added.
    pub rest: &'a [i8],
    /// Zero point of the left operand.
    pub left: i32,
    /// Whether that is two's complement.
    pub signed: bool,
}

/// Emits the body of the function that packs.
pub fn emit_pack(e: &mut Emitter, p: &Pack) {
    let ([sets @ .., k, n], operand) = (&p.over.dims[..], &p.over.operands[0]) else { return };
    let [steps @ .., row, column] = &operand.steps[..] else { return };
    let flipped = p.left + if p.signed { 128 } else { -128 };
    let (set, count) = (panel_set(*k, *n, 1 + p.rest.len()) as i64, sets.iter().product::<usize>() as i64);
    let m = Matrix { k: *k, n: *n, row: *row as i64, column: *column as i64, center: p.center, rest: p.rest, left: p.left, flipped };
    let (b, out) = (e.read(0), e.write(0));
    let (b, biases) = (e.at(b, operand.start as i64), e.at(out, set * count));
    each(e, sets, steps, [b, out, biases], [set, 8 * n.next_multiple_of(PANEL) as i64], &|e, at| m.emit(e, at));
}

/// Calls `one` for every matrix, with its operand, panels and biases.
fn each(
    e: &mut Emitter,
    dims: &[usize],
    steps: &[isize],
    [b, panels, biases]: [Ptr; 3],
    by: [i64; 2],
    one: &dyn Fn(&mut Emitter, [Ptr; 3]),
) {
    let Some((first, dims)) = dims.split_first() else { return one(e, [b, panels, biases]) };
    let inner = dims.iter().product::<usize>() as i64;
    e.walk(*first, &[(b, steps[0] as i64), (panels, inner * by[0]), (biases, inner * by[1])], |e, at| {
        each(e, dims, &steps[1..], [at[0], at[1], at[2]], by, one);
    });
}

struct Matrix<'a> {
    k: usize,
    n: usize,
    /// Elements between rows and between columns.
    row: i64,
    column: i64,
    center: i32,
    rest: &'a [i8],
    /// What a bias takes from every weight, in both forms.
    left: i32,
    flipped: i32,
}

impl Matrix<'_> {
    fn emit(&self, e: &mut Emitter, [b, panels, biases]: [Ptr; 3]) {
        let bytes = (1 + self.rest.len()) as i64 * self.segment();
        let full = self.n / PANEL;
        e.walk(full, &[(b, PANEL as i64 * self.column), (panels, bytes), (biases, BLOCK)], |e, at| {
            self.panel(e, [at[0], at[1], at[2]], PANEL);
        });
        if !self.n.is_multiple_of(PANEL) {
            let done = full as i64;
            let at = [e.at(b, done * PANEL as i64 * self.column), e.at(panels, done * bytes), e.at(biases, done * BLOCK)];
            self.panel(e, at, self.n % PANEL);
        }
    }

    /// Bytes of a segment.
    fn segment(&self) -> i64 {
        self.k.div_ceil(4) as i64 * BLOCK
    }

    /// Sixteen columns, of which `lanes` exist.
    fn panel(&self, e: &mut Emitter, [b, w, bias]: [Ptr; 3], lanes: usize) {
        if e.vectors() && (self.row == 1 || self.column == 1) {
            let none = e.splat_i32(0);
            let sums = if self.row == 1 { self.turned(e, b, w, lanes, [none; 4]) } else { self.straight(e, b, w, lanes, [none; 4]) };
            self.constants(e, w, lanes);
            for (j, sum) in sums.into_iter().enumerate() {
                let rest = self.rest_sum();
                let rest = e.vconst(I32X4, std::array::from_fn(|i| if 4 * j + i / 4 < lanes { rest.to_le_bytes()[i % 4] } else { 0 }));
                let sum = e.b.ins().iadd(sum, rest);
                for (left, to) in self.forms() {
                    let factor = e.splat_i32(-left);
                    let product = e.b.ins().imul(sum, factor);
                    e.store(product, bias, to + 16 * j as i64);
                }
            }
            return;
        }
        if lanes < PANEL || !self.k.is_multiple_of(4) {
            let zero = e.i64(0);
            e.walk(((1 + self.rest.len()) as i64 * self.segment() / 8) as usize, &[(w, 8)], |e, at| e.store(zero, at[0], 0));
            let zero = e.i32(0);
            (0..PANEL as i64).for_each(|lane| self.forms().into_iter().for_each(|(_, to)| e.store(zero, bias, to + 4 * lane)));
        }
        e.walk(lanes, &[(b, self.column), (w, 4), (bias, 4)], |e, at| self.scalar(e, [at[0], at[1], at[2]]));
    }

    /// Sum over a column of what is the same for all elements.
    fn rest_sum(&self) -> i32 {
        self.rest.iter().map(|r| i32::from(*r)).sum::<i32>().wrapping_mul(self.k as i32)
    }

    /// Zero points of the left operand in both forms, and bytes to the biases for them.
    fn forms(&self) -> [(i32, i64); 2] {
        [(self.left, 0), (self.flipped, 4 * self.n.next_multiple_of(PANEL) as i64)]
    }

    /// One column: `w` and `bias` are its own.
    fn scalar(&self, e: &mut Emitter, [b, w, bias]: [Ptr; 3]) {
        let zero = e.i32(0);
        let taps = |e: &mut Emitter, b: Ptr, w: Ptr, count: usize, mut sum: Value| {
            for tap in 0..count as i64 {
                let x = e.load_byte(b, tap * self.row, false);
                let x = e.b.ins().iadd_imm_s(x, -i64::from(self.center));
                e.store_byte(x, w, tap);
                let (low, segment) = (e.b.ins().ireduce(I8, x), self.segment());
                let low = e.b.ins().sextend(I32, low);
                sum = e.b.ins().iadd(sum, low);
                for (i, &rest) in self.rest.iter().enumerate() {
                    let rest = e.i32(rest.into());
                    e.store_byte(rest, w, tap + (i as i64 + 1) * segment);
                }
            }
            sum
        };
        let full = self.k / 4;
        let sum = e.fold(full, &[(b, 4 * self.row), (w, BLOCK)], &[zero], |e, at, sum| vec![taps(e, at[0], at[1], 4, sum[0])])[0];
        let (b, w) = (e.at(b, 4 * full as i64 * self.row), e.at(w, full as i64 * BLOCK));
        let sum = taps(e, b, w, self.k % 4, sum);
        let sum = e.b.ins().iadd_imm_s(sum, i64::from(self.rest_sum()));
        for (left, to) in self.forms() {
            let product = e.b.ins().imul_imm_s(sum, -i64::from(left));
            e.store(product, bias, to);
        }
    }

    /// Segments that are the same for all elements.
    fn constants(&self, e: &mut Emitter, w: Ptr, lanes: usize) {
        for (i, &rest) in self.rest.iter().enumerate() {
            let w = e.at(w, (i as i64 + 1) * self.segment());
            let block = |e: &mut Emitter, w: Ptr, taps: usize| {
                for j in 0..4 {
                    let exists = |byte: usize| 4 * j + byte / 4 < lanes && byte % 4 < taps;
                    let v = e.vconst(I8X16, std::array::from_fn(|byte| if exists(byte) { rest as u8 } else { 0 }));
                    e.store(v, w, 16 * j as i64);
                }
            };
            e.walk(self.k / 4, &[(w, BLOCK)], |e, at| block(e, at[0], 4));
            if !self.k.is_multiple_of(4) {
                let w = e.at(w, (self.k / 4) as i64 * BLOCK);
                block(e, w, self.k % 4);
            }
        }
    }

    /// Sixteen bytes as weights, of which the first `exist`.
    fn weights(&self, e: &mut Emitter, b: Ptr, offset: i64, exist: usize) -> Value {
        let x = e.load(I8X16, b, offset);
        let center = e.splat_i8(self.center as u8);
        let x = if self.center == 0 { x } else { e.b.ins().isub(x, center) };
        if exist >= 16 {
            return x;
        }
        let mask = e.vconst(I8X16, std::array::from_fn(|i| if i < exist { 0xff } else { 0 }));
        e.b.ins().band(x, mask)
    }

    /// Stores four lanes by four taps, and adds up their taps.
    fn put(&self, e: &mut Emitter, v: Value, w: Ptr, offset: i64, sum: Value) -> Value {
        e.store(v, w, offset);
        let ([even, odd], ones) = (e.split_bytes(v, true), e.splat_i16(1));
        let pairs = e.b.ins().iadd(even, odd);
        let pairs = e.cast(I16X8, pairs);
        let four = e.multiply_pairs(pairs, ones);
        e.b.ins().iadd(sum, four)
    }

    /// Columns side by side in memory: four rows at a time. Returns the sums of the columns' weights.
    fn straight(&self, e: &mut Emitter, b: Ptr, w: Ptr, lanes: usize, sums: [Value; 4]) -> [Value; 4] {
        let block = |e: &mut Emitter, b: Ptr, w: Ptr, taps: usize, sums: &[Value]| -> Vec<Value> {
            let none = e.splat_i8(0);
            let rows: Vec<Value> = (0..4).map(|r| if r < taps { self.weights(e, b, r as i64 * self.row, lanes) } else { none }).collect();
            let mut out = Vec::with_capacity(4);
            for high in [false, true] {
                let (first, second) = (e.interleave(rows[0], rows[1], 1, high), e.interleave(rows[2], rows[3], 1, high));
                out.extend([false, true].map(|high| e.interleave(first, second, 2, high)));
            }
            out.into_iter().zip(sums).enumerate().map(|(j, (v, &sum))| self.put(e, v, w, 16 * j as i64, sum)).collect()
        };
        let full = self.k / 4;
        let mut sums = e.fold(full, &[(b, 4 * self.row), (w, BLOCK)], &sums, |e, at, sums| block(e, at[0], at[1], 4, sums));
        if !self.k.is_multiple_of(4) {
            let (b, w) = (e.at(b, 4 * full as i64 * self.row), e.at(w, full as i64 * BLOCK));
            sums = block(e, b, w, self.k % 4, &sums);
        }
        std::array::from_fn(|j| sums[j])
    }

    /// Rows side by side in memory: sixteen rows of four columns at a time.
    fn turned(&self, e: &mut Emitter, b: Ptr, w: Ptr, lanes: usize, sums: [Value; 4]) -> [Value; 4] {
        let blocks = |e: &mut Emitter, b: Ptr, w: Ptr, taps: usize, sums: &[Value]| -> Vec<Value> {
            let none = e.splat_i8(0);
            let mut sums = sums.to_vec();
            for (quad, sum) in sums.iter_mut().enumerate() {
                let columns: Vec<Value> = (4 * quad..4 * quad + 4)
                    .map(|lane| if lane < lanes { self.weights(e, b, lane as i64 * self.column, taps) } else { none })
                    .collect();
                for block in 0..taps.div_ceil(4) {
                    let high = block >= 2;
                    let (first, second) = (e.interleave(columns[0], columns[1], 4, high), e.interleave(columns[2], columns[3], 4, high));
                    let v = e.interleave(first, second, 8, block % 2 == 1);
                    *sum = self.put(e, v, w, block as i64 * BLOCK + 16 * quad as i64, *sum);
                }
            }
            sums
        };
        let full = self.k / 16;
        let mut sums = e.fold(full, &[(b, 16), (w, 4 * BLOCK)], &sums, |e, at, sums| blocks(e, at[0], at[1], 16, sums));
        if !self.k.is_multiple_of(16) {
            let (b, w) = (e.at(b, 16 * full as i64), e.at(w, 4 * full as i64 * BLOCK));
            sums = blocks(e, b, w, self.k % 16, &sums);
        }
        std::array::from_fn(|j| sums[j])
    }
}
