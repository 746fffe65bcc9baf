//! How fast the interpreter is: multiply-accumulates and elements per second of typical layers, one line each.
//!
//! `cargo run --release -p quernel-interp --example speed`

use quernel_interp::eval_node;
use quernel_ir::{Act, Binary, Elem, Multiplier, Op, Quant, Scheme, Storage, Tensor, TensorTy, Unary, Window, WindowDim};
use std::time::Instant;

fn seconds(mut f: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn bytes(ty: TensorTy) -> Tensor {
    let n = ty.bytes();
    Tensor::new(ty, (0..n).map(|i| (i * 37 % 251) as u8).collect::<Vec<u8>>()).expect("sized")
}

fn floats(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::f32(dims, &(0..n).map(|i| (i * 37 % 251) as f32 / 50.0 - 2.5).collect::<Vec<f32>>())
}

fn main() {
    let activation = |scale: f32| Elem::from(Quant::per_tensor(Storage::U8, scale, 3).expect("legal"));
    for (name, c, o, size, kernel, groups) in [
        ("conv 3x3, 3 to 16, 32x32", 3, 16, 32, 3, 1),
        ("conv 3x3, 16 to 16, 32x32", 16, 16, 32, 3, 1),
        ("conv 3x3, 64 to 64, 8x8", 64, 64, 8, 3, 1),
        ("conv 1x1, 128 to 128, 14x14", 128, 128, 14, 1, 1),
        ("depthwise 3x3, 128, 28x28", 128, 128, 28, 3, 128),
    ] {
        let pad = kernel / 2;
        let window = Window { dims: vec![WindowDim { before: pad, after: pad, ..WindowDim::new(kernel) }; 2] };
        let op = Op::Conv { window, groups, act: Act::Relu, residual: false, multiplier: Multiplier::F64 };
        let (x, w, y) = ([1, c, size, size], [o, c / groups, kernel, kernel], [1, o, size, size]);
        let macs = (o * size * size * (c / groups) * kernel * kernel) as f64;
        let scheme = Scheme::PerAxis { axis: 0, scales: vec![0.01; o].into() };
        let (qx, qw) =
            (bytes(TensorTy::new(x, activation(0.1))), bytes(TensorTy::new(w, Quant::new(Storage::I8, -128, 127, scheme).expect("legal"))));
        let qy = TensorTy::new(y, activation(1.0));
        let integer = seconds(|| drop(eval_node(&op, &[&qx, &qw], &qy).expect("runs")));
        let (fx, fw, fy) = (floats(&x), floats(&w), TensorTy::f32(y));
        let float = seconds(|| drop(eval_node(&op, &[&fx, &fw], &fy).expect("runs")));
        println!("{name:32} integer {:6.2} GMAC/s   f32 {:6.2} GMAC/s", macs / integer / 1e9, macs / float / 1e9);
    }
    let dims = [1usize, 64, 32, 32];
    let count = dims.iter().product::<usize>() as f64;
    let (q, f) = (bytes(TensorTy::new(dims, activation(0.1))), floats(&dims));
    let (qy, fy) = (TensorTy::new(dims, activation(0.2)), TensorTy::f32(dims));
    let square = |kernel| Window { dims: vec![WindowDim { stride: kernel, ..WindowDim::new(kernel) }; 2] };
    let pooled = TensorTy::new([1, 64, 16, 16], activation(0.1));
    let max = Op::Pool { kind: quernel_ir::PoolKind::Max, window: square(2) };
    let cases: [(&str, Op, Vec<&Tensor>, &TensorTy); 9] = [
        ("quantize", Op::Quantize, vec![&f], &qy),
        ("dequantize", Op::Dequantize, vec![&q], &fy),
        ("sigmoid, quantized", Op::Unary(Unary::Sigmoid), vec![&q], &qy),
        ("sigmoid, f32", Op::Unary(Unary::Sigmoid), vec![&f], &fy),
        ("gelu, f32", Op::Unary(Unary::Gelu), vec![&f], &fy),
        ("add, quantized", Op::Binary(Binary::Add), vec![&q, &q], &qy),
        ("add, f32", Op::Binary(Binary::Add), vec![&f, &f], &fy),
        ("softmax, f32", Op::Softmax { axis: 3, log: false }, vec![&f], &fy),
        ("max pool 2x2, quantized", max, vec![&q], &pooled),
    ];
    for (name, op, args, ty) in cases {
        let time = seconds(|| drop(eval_node(&op, &args, ty).expect("runs")));
        println!("{name:32} {:6.1} ns/element", time / count * 1e9);
    }
}
