//! Steps other than convolutions.

use crate::common::{Operand, Rng};
use quernel_ir::{
    Binary, PoolKind, ReduceKind, Unary, exact,
    op::WindowDim,
    program::{ByteQuant, Image, Strided, Strides, What},
};

/// A step, its operands, and the bytes it makes.
pub struct Line {
    pub name: &'static str,
    pub what: What,
    pub operands: Vec<Operand>,
    pub result: usize,
    pub float: bool,
}

fn transpose(width: usize, rows: usize, columns: usize) -> What {
    let dims = vec![columns, rows];
    let from = Strides { start: 0, steps: vec![1, columns as isize] };
    What::Move { width, over: Strided { operands: vec![from, Strides::dense(&dims)], dims } }
}

/// Steps of the sizes that networks have.
pub fn lines(rng: &mut Rng) -> Vec<Line> {
    let q = |scale: f32, zero: i32| ByteQuant { signed: false, scale, zero, lo: 0, hi: 255 };
    let mut all = Vec::new();
    let mut add = |name, what, operands: Vec<Vec<u8>>, table: Option<Vec<u8>>, result, float| {
        let operands = operands.into_iter().map(Operand::Data).chain(table.map(Operand::Constant)).collect();
        all.push(Line { name, what, operands, result, float });
    };
    let n = 56 * 56 * 64;
    add("quantize 200k", What::Quantize { count: n, to: q(0.02, 128), width: 1 }, vec![rng.floats(n)], None, n, false);
    add("dequantize 200k", What::Dequantize { count: n, from: q(0.02, 128), width: 1 }, vec![rng.bytes(n)], None, 4 * n, true);
    add("lookup 200k", What::Lookup { count: n }, vec![rng.bytes(n)], Some(rng.bytes(256)), n, false);
    let dense = |dims: &[usize], operands: usize| Strided { dims: dims.to_vec(), operands: vec![Strides::dense(dims); operands] };
    for (name, op) in [("add 200k", Binary::Add), ("mul 200k", Binary::Mul)] {
        let what = What::BinaryBytes { op, over: dense(&[n], 3), a: q(0.02, 100), b: q(0.03, 7), to: q(0.04, 3) };
        add(name, what, vec![rng.bytes(n), rng.bytes(n)], None, n, false);
    }
    // Squeeze and excite: one factor per channel.
    let channel = Strides { start: 0, steps: vec![0, 1] };
    let dims = vec![28 * 28, 72];
    let over = Strided { operands: vec![Strides::dense(&dims), channel, Strides::dense(&dims)], dims };
    let what = What::BinaryBytes { op: Binary::Mul, over, a: q(0.02, 100), b: q(0.03, 7), to: q(0.04, 3) };
    add("mul by channel 28x28x72", what, vec![rng.bytes(28 * 28 * 72), rng.bytes(72)], None, 28 * 28 * 72, false);
    let what = What::BinaryFloat { op: Binary::Add, over: dense(&[n], 3), lo: 0.0, hi: f32::INFINITY };
    add("add f32 200k", what, vec![rng.floats(n), rng.floats(n)], None, 4 * n, true);
    for (name, size, kernel, stride, c, kind) in [
        ("max pool 3x3 s2 112x112x64", 112, 3, 2, 64, PoolKind::Max),
        ("max pool 2x2 s2 32x32x24", 32, 2, 2, 24, PoolKind::Max),
        ("average pool 2x2 s2 56x56x64", 56, 2, 2, 64, PoolKind::Average { include_pad: false }),
        ("average 7x7x1280", 7, 7, 1, 1280, PoolKind::Average { include_pad: false }),
        ("average 7x7x1000", 7, 7, 1, 1000, PoolKind::Average { include_pad: false }),
    ] {
        let out = (size - kernel) / stride + 1;
        let window = [WindowDim { kernel, stride, dilation: 1, before: 0, after: 0 }; 2];
        let (input, output) = (Image::dense(1, size, size, c), Image::dense(1, out, out, c));
        let what = What::Pool { kind, input, output, window, from: q(0.02, 0), to: q(0.02, 0) };
        add(name, what, vec![rng.bytes(size * size * c)], None, out * out * c, false);
    }
    add("transpose 50176x3 u8", transpose(1, 3, 50176), vec![rng.bytes(3 * 50176)], None, 3 * 50176, false);
    add("transpose 3x50176 u8", transpose(1, 50176, 3), vec![rng.bytes(3 * 50176)], None, 3 * 50176, false);
    add("transpose 256x3136 u8", transpose(1, 256, 3136), vec![rng.bytes(256 * 3136)], None, 256 * 3136, false);
    add("transpose 3x50176 f32", transpose(4, 3, 50176), vec![rng.floats(3 * 50176)], None, 12 * 50176, true);
    add("transpose 197x64 f32", transpose(4, 197, 64), vec![rng.floats(197 * 64)], None, 4 * 197 * 64, true);
    add("copy 200k", What::Move { width: 1, over: dense(&[n], 2) }, vec![rng.bytes(n)], None, n, false);
    let dims = vec![56 * 56, 24];
    let wide = Strides { start: 0, steps: vec![48, 1] };
    let over = Strided { operands: vec![Strides::dense(&dims), wide], dims };
    add("concat 24 of 48 channels", What::Move { width: 1, over }, vec![rng.bytes(56 * 56 * 24)], None, 56 * 56 * 48, false);
    let dims = vec![28, 2, 28, 2, 64];
    let up = Strides { start: 0, steps: vec![28 * 64, 0, 64, 0, 1] };
    let over = Strided { operands: vec![up, Strides::dense(&dims)], dims };
    add("upsample 28x28x64 twice", What::Move { width: 1, over }, vec![rng.bytes(28 * 28 * 64)], None, 56 * 56 * 64, false);
    let table: Vec<u8> = exact::softmax_table(0.1).iter().flat_map(|e| e.to_le_bytes()).collect();
    for (name, outer, len, to) in [
        ("softmax 1000", 1, 1000, Some(q(1.0 / 256.0, 0))),
        ("softmax 12x197x197", 2364, 197, Some(q(1.0 / 256.0, 0))),
        ("softmax 1000 to f32", 1, 1000, None),
    ] {
        let what = What::SoftmaxBytes { outer, len, inner: 1, from: q(0.1, 0), to };
        add(name, what, vec![rng.bytes(outer * len)], Some(table.clone()), outer * len * if to.is_some() { 1 } else { 4 }, to.is_none());
    }
    let what = What::SoftmaxFloat { outer: 2364, len: 197, inner: 1, log: false };
    add("softmax f32 12x197x197", what, vec![rng.floats(2364 * 197)], None, 4 * 2364 * 197, true);
    for (name, op) in [("gelu f32 200k", Unary::Gelu), ("sigmoid f32 200k", Unary::Sigmoid)] {
        add(name, What::UnaryFloat { op, count: n }, vec![rng.floats(n)], None, 4 * n, true);
    }
    let what = What::ReduceFloat { kind: ReduceKind::Mean, outer: 197, len: 768, inner: 1 };
    add("mean 197x768", what, vec![rng.floats(197 * 768)], None, 4 * 197, true);
    let what = What::MatMulFloat { batch: 12, m: 197, k: 64, n: 197, a_batch: 197 * 64, b_batch: 197 * 64 };
    add("matmul 12x197x64x197", what, vec![rng.floats(12 * 197 * 64), rng.floats(12 * 197 * 64)], None, 4 * 12 * 197 * 197, true);
    all
}
