//! Every operator on small operands with expectations worked out by hand.

mod common;

use common::{per_tensor, u8_ty, u8s};
use quernel_interp::eval_node;
use quernel_ir::{
    Act, Binary, Comparison, Multiplier, Op, PoolKind, Quant, ReduceKind, Scalar, Scheme, Storage, Tensor, TensorTy, Unary, Window,
    WindowDim, exact, float,
};

fn run(op: Op, args: &[&Tensor], ty: TensorTy) -> Tensor {
    eval_node(&op, args, &ty).unwrap_or_else(|d| panic!("{op:?}: {d}"))
}
fn floats(op: Op, args: &[&Tensor], dims: &[usize]) -> Vec<f32> {
    run(op, args, TensorTy::f32(dims)).to_f32().expect("f32")
}
fn ints(op: Op, args: &[&Tensor], ty: TensorTy) -> Vec<i64> {
    run(op, args, ty).to_ints().expect("integers")
}
fn window(kernel: usize, stride: usize, dilation: usize, before: usize, after: usize) -> Window {
    Window { dims: vec![WindowDim { kernel, stride, dilation, before, after }] }
}
const AVERAGE: PoolKind = PoolKind::Average { include_pad: false };
const AVERAGE_PADDED: PoolKind = PoolKind::Average { include_pad: true };

#[test]
fn a_quantized_convolution_by_hand() {
    // x = 0.5 (q - 2): [[1, 2], [-1, 0]]; w = 0.25 q: 2x2 taps, one padded row above.
    let x = u8s(&[1, 1, 2, 2], 0.5, 2, &[4, 6, 0, 2]);
    let w = Tensor::from_ints(TensorTy::new([1, 1, 2, 2], per_tensor(8, true, 0.25, 0)), [4, -8, 12, 16]);
    let bias = Tensor::i32([1], &[3]);
    let dims = vec![WindowDim { before: 1, ..WindowDim::new(2) }, WindowDim::new(2)];
    let op = Op::Conv { window: Window { dims }, groups: 1, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    // Row 0 sees padding above: 2*12 + 4*16 + 3 = 91; row 1: 2*4 - 4*8 - 2*12 + 0 + 3 = -45; unit 1/8, result unit 1.
    assert_eq!(ints(op.clone(), &[&x, &w, &bias], u8_ty(&[1, 1, 2, 1], 1.0, 10)), [10 + 11, 10 - 6]);
    assert_eq!(floats(op, &[&x, &w, &bias], &[1, 1, 2, 1]), [91.0 / 8.0, -45.0 / 8.0]);
}

#[test]
fn table_weights_multiply_their_entries() {
    let table = Scheme::Table { axis: 0, scales: [1.0, 0.5].into(), table: [-3, 0, 5, 64].into() };
    let w =
        Tensor::from_ints(TensorTy::new([2, 2], Quant::new(Storage::new(2, false).expect("2"), 0, 3, table).expect("legal")), [0, 2, 3, 1]);
    let x = u8s(&[1, 2], 1.0, 0, &[10, 20]);
    let op = Op::Dense { act: Act::Relu, residual: false, multiplier: Multiplier::F64 };
    assert_eq!(floats(op.clone(), &[&x, &w], &[1, 2]), [70.0, 320.0]);
    // A byte beyond the table is refused, not indexed.
    let bad = Tensor::new(w.ty.clone(), vec![0, 2, 4, 1]).expect("4 bytes");
    assert!(eval_node(&op, &[&x, &bad], &TensorTy::f32([1, 2])).is_err());
}

#[test]
fn residuals_join_the_sum_before_rounding() {
    let x = u8s(&[1, 1], 0.5, 0, &[3]);
    let w = Tensor::from_ints(TensorTy::new([1, 1], per_tensor(8, true, 0.1, 0)), [7]);
    let r = u8s(&[1, 1], 0.5, 100, &[103]);
    // R = 0.5 / 0.05 = 10; 3*7 + 3*10 = 51 units of 0.05 = 2.55.
    let op = |act| Op::Dense { act, residual: true, multiplier: Multiplier::F64 };
    assert_eq!(ints(op(Act::None), &[&x, &w, &r], u8_ty(&[1, 1], 0.1, 1)), [1 + 26]); // 25.5 to even
    assert_eq!(ints(op(Act::Clip { lo: 0.0, hi: 1.0 }), &[&x, &w, &r], u8_ty(&[1, 1], 0.1, 1)), [1 + 10]);
}

#[test]
fn matrix_products_broadcast_batches() {
    let a = Tensor::f32([2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let b = Tensor::f32([2, 2], &[1.0, 10.0, 100.0, 1000.0]);
    assert_eq!(floats(Op::MatMul { multiplier: Multiplier::F64 }, &[&a, &b], &[2, 1, 2]), [201.0, 2010.0, 403.0, 4030.0]);
    let v = Tensor::f32([2], &[1.0, -1.0]);
    assert_eq!(floats(Op::MatMul { multiplier: Multiplier::F64 }, &[&b, &v], &[2]), [-9.0, -900.0]);
    assert_eq!(floats(Op::MatMul { multiplier: Multiplier::F64 }, &[&v, &b], &[2]), [-99.0, -990.0]);
    assert_eq!(floats(Op::MatMul { multiplier: Multiplier::F64 }, &[&v, &v], &[]), [2.0]);
    let c = Tensor::f32([3, 1, 1, 1], &[1.0, 2.0, 3.0]);
    let d = Tensor::f32([2, 1, 1], &[5.0, 7.0]);
    assert_eq!(floats(Op::MatMul { multiplier: Multiplier::F64 }, &[&c, &d], &[3, 2, 1, 1]), [5.0, 7.0, 10.0, 14.0, 15.0, 21.0]);
}

#[test]
fn products_of_computed_bytes_take_both_zero_points() {
    // (3 - 1, 0 - 1) by columns (5 - 4, 9 - 4), (4 - 4, 3 - 4): 2 - 5 and 0 + 1, in units of 0.5 * 0.25.
    let a = u8s(&[1, 2], 0.5, 1, &[3, 0]);
    let b = u8s(&[2, 2], 0.25, 4, &[5, 4, 9, 3]);
    let product = |multiplier| Op::MatMul { multiplier };
    assert_eq!(floats(product(Multiplier::F64), &[&a, &b], &[1, 2]), [-0.375, 0.125]);
    // In units of 0.25 about 10: -1.5 and 0.5, both to even.
    assert_eq!(ints(product(Multiplier::F32), &[&a, &b], u8_ty(&[1, 2], 0.25, 10)), [8, 10]);
}

#[test]
fn batch_norm_by_hand() {
    let x = Tensor::f32([1, 2, 2], &[1.0, 3.0, 5.0, 7.0]);
    let p = |a, b| Tensor::f32([2], &[a, b]);
    let y = floats(Op::BatchNorm { epsilon: 1.0 }, &[&x, &p(2.0, 1.0), &p(0.5, 0.0), &p(1.0, 5.0), &p(3.0, 0.0)], &[1, 2, 2]);
    assert_eq!(y, [0.5, 2.5, 0.0, 2.0]);
}

#[test]
fn unary_functions_on_floats_are_those_of_the_float_module() {
    let x = Tensor::f32([7], &[-3.0, -0.5, 0.0, 0.25, 1.0, 4.0, 9.0]);
    let all = [
        (Unary::Relu, [0.0, 0.0, 0.0, 0.25, 1.0, 4.0, 9.0]),
        (Unary::LeakyRelu { alpha: 0.5 }, [-1.5, -0.25, 0.0, 0.25, 1.0, 4.0, 9.0]),
        (Unary::Clip { lo: -1.0, hi: 2.0 }, [-1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 2.0]),
        (Unary::HardSigmoid { alpha: 0.25, beta: 0.5 }, [0.0, 0.375, 0.5, 0.5625, 0.75, 1.0, 1.0]),
        (Unary::Neg, [3.0, 0.5, 0.0, -0.25, -1.0, -4.0, -9.0]),
        (Unary::Abs, [3.0, 0.5, 0.0, 0.25, 1.0, 4.0, 9.0]),
    ];
    for (f, want) in all {
        assert_eq!(floats(Op::Unary(f), &[&x], &[7]), want, "{f:?}");
    }
    assert_eq!(floats(Op::Unary(Unary::HardSwish), &[&x], &[7])[..3], [0.0, -0.5 * (-0.5f32 / 6.0 + 0.5), 0.0]);
    let roots = floats(Op::Unary(Unary::Sqrt), &[&x], &[7]);
    assert!(roots[0].is_nan() && roots[3..] == [0.5, 1.0, 2.0, 3.0]);
    assert_eq!(floats(Op::Unary(Unary::Reciprocal), &[&x], &[7])[2..], [f32::INFINITY, 4.0, 1.0, 0.25, 1.0 / 9.0]);
    for f in [Unary::Sigmoid, Unary::Tanh, Unary::Gelu, Unary::GeluTanh, Unary::Erf, Unary::Exp, Unary::Swish { alpha: 2.0 }] {
        let want: Vec<f32> = x.to_f32().expect("f32").into_iter().map(|v| float::unary(f, v)).collect();
        assert_eq!(floats(Op::Unary(f), &[&x], &[7]), want, "{f:?}");
    }
    assert_eq!(floats(Op::Unary(Unary::Log), &[&x], &[7])[4..], [0.0, float::log(4.0), float::log(9.0)]);
}

#[test]
fn unary_functions_on_bytes_are_tables_and_wide_codes_agree() {
    let all: Vec<u8> = (0..=255).chain(0..=255).collect();
    let x = u8s(&[512], 0.05, 128, &all);
    let to = per_tensor(8, true, 1.0 / 128.0, -3);
    let y = ints(Op::Unary(Unary::Tanh), &[&x], TensorTy::new([512], to.clone()));
    for (q, y) in all.iter().zip(y) {
        let want = ((0.05f32 as f64 * f64::from(i32::from(*q) - 128)).tanh() * 128.0).round_ties_even() as i64 - 3;
        assert_eq!(y, want.clamp(-128, 127), "{q}");
    }
    // The same real numbers in 16 bits take the path without a table.
    let wide = Tensor::from_ints(TensorTy::new([3], per_tensor(16, true, 0.05, 0)), [-20, 0, 300]);
    let narrow = u8s(&[2], 0.05, 128, &[108, 128]);
    let tanh = |x: &Tensor| ints(Op::Unary(Unary::Tanh), &[x], TensorTy::new(x.ty.dims.clone(), to.clone()));
    assert_eq!(tanh(&wide)[..2], tanh(&narrow));
    assert_eq!(tanh(&wide)[2], 125);
}

#[test]
fn binary_functions_broadcast() {
    let a = Tensor::f32([2, 1], &[6.0, -8.0]);
    let b = Tensor::f32([3], &[1.0, 2.0, 4.0]);
    for (f, want) in [
        (Binary::Add, [7.0, 8.0, 10.0, -7.0, -6.0, -4.0]),
        (Binary::Sub, [5.0, 4.0, 2.0, -9.0, -10.0, -12.0]),
        (Binary::Mul, [6.0, 12.0, 24.0, -8.0, -16.0, -32.0]),
        (Binary::Div, [6.0, 3.0, 1.5, -8.0, -4.0, -2.0]),
        (Binary::Min, [1.0, 2.0, 4.0, -8.0, -8.0, -8.0]),
        (Binary::Max, [6.0, 6.0, 6.0, 1.0, 2.0, 4.0]),
        (Binary::Pow, [6.0, 36.0, 1296.0, -8.0, 64.0, 4096.0]),
    ] {
        assert_eq!(floats(Op::Binary(f), &[&a, &b], &[2, 3]), want, "{f:?}");
    }
}

#[test]
fn quantized_binary_functions_dequantize_operate_quantize() {
    let a = u8s(&[3], 0.5, 10, &[10, 12, 255]); // 0, 1, 122.5
    let b = u8s(&[1], 0.25, 0, &[3]); // 0.75
    assert_eq!(ints(Op::Binary(Binary::Add), &[&a, &b], u8_ty(&[3], 0.5, 1)), [1 + 2, 1 + 4, 1 + 246]); // 1.5, 3.5 and 246.5 to even
    assert_eq!(ints(Op::Binary(Binary::Mul), &[&a, &b], u8_ty(&[3], 0.25, 0)), [0, 3, 255]);
    let zero = u8s(&[1], 0.25, 3, &[3]);
    assert_eq!(ints(Op::Binary(Binary::Div), &[&a, &zero], u8_ty(&[3], 0.25, 7)), [0, 255, 255]); // 0/0 is the lower bound
}

#[test]
fn integer_binary_functions_wrap_and_never_trap() {
    let t = |v: &[i64]| Tensor::i64([v.len()], v);
    let ty = TensorTy::new([4], Scalar::I64);
    let (a, b) = (t(&[7, -7, i64::MAX, i64::MIN]), t(&[2, 2, 1, -1]));
    assert_eq!(ints(Op::Binary(Binary::Div), &[&a, &b], ty.clone()), [3, -3, i64::MAX, i64::MIN]);
    assert_eq!(ints(Op::Binary(Binary::Add), &[&a, &b], ty.clone()), [9, -5, i64::MIN, i64::MAX]);
    assert_eq!(ints(Op::Binary(Binary::Pow), &[&t(&[2, -1, 3, 2]), &t(&[10, -3, -1, 64])], ty.clone()), [1024, -1, 0, 0]);
    assert_eq!(ints(Op::Binary(Binary::Div), &[&a, &t(&[1, 1, 0, 1])], ty.clone()), [7, -7, 0, i64::MIN]);
    assert_eq!(ints(Op::Binary(Binary::Modulo), &[&a, &t(&[4, 4, 0, -1])], ty.clone()), [3, 1, 0, 0]);
    assert_eq!(ints(Op::Binary(Binary::Xor), &[&a, &t(&[-1])], ty.clone()), [-8, 6, i64::MIN, i64::MAX]);
    let (a, b) = (Tensor::i32([2], &[i32::MAX, i32::MIN]), Tensor::i32([1], &[-1]));
    let ty = TensorTy::new([2], Scalar::I32);
    assert_eq!(ints(Op::Binary(Binary::Sub), &[&a, &b], ty.clone()), [i64::from(i32::MIN), i64::from(i32::MIN) + 1]);
    assert_eq!(ints(Op::Binary(Binary::Div), &[&a, &b], ty), [-i64::from(i32::MAX), i64::from(i32::MIN)]);
}

#[test]
fn float_pooling() {
    let x = Tensor::f32([1, 1, 5], &[1.0, -2.0, 3.0, 4.0, -9.0]);
    let pool = |kind, w, n: usize| floats(Op::Pool { kind, window: w }, &[&x], &[1, 1, n]);
    assert_eq!(pool(PoolKind::Max, window(2, 2, 1, 0, 1), 3), [1.0, 4.0, -9.0]);
    assert_eq!(pool(AVERAGE, window(3, 2, 1, 1, 1), 3), [-0.5, 5.0 / 3.0, -2.5]);
    assert_eq!(pool(AVERAGE_PADDED, window(3, 2, 1, 1, 1), 3), [-1.0 / 3.0, 5.0 / 3.0, -5.0 / 3.0]);
    assert_eq!(pool(PoolKind::Max, window(2, 1, 2, 1, 0), 4), [-2.0, 3.0, 4.0, 3.0]);
    // Dilation over one element: no valid tap.
    let one = Tensor::f32([1, 1, 1], &[5.0]);
    let empty = |kind| floats(Op::Pool { kind, window: window(2, 1, 2, 1, 1) }, &[&one], &[1, 1, 1]);
    assert_eq!((empty(PoolKind::Max), empty(AVERAGE)), (vec![f32::NEG_INFINITY], vec![0.0]));
    // A NaN is skipped by the maximum.
    let nan = Tensor::f32([1, 1, 3], &[1.0, f32::NAN, 0.5]);
    assert_eq!(floats(Op::Pool { kind: PoolKind::Max, window: window(3, 1, 1, 0, 0) }, &[&nan], &[1, 1, 1]), [1.0]);
}

#[test]
fn quantized_pooling() {
    let x = u8s(&[1, 1, 4], 0.5, 10, &[11, 12, 20, 9]);
    assert_eq!(ints(Op::Pool { kind: PoolKind::Max, window: window(2, 2, 1, 1, 1) }, &[&x], u8_ty(&[1, 1, 3], 0.5, 10)), [11, 20, 9]);
    let average = |kind, ty| ints(Op::Pool { kind, window: window(2, 1, 1, 1, 0) }, &[&x], ty);
    // Centered: 1 | 1, 2 | 2, 10 | 10, -1.
    assert_eq!(average(AVERAGE, u8_ty(&[1, 1, 4], 0.5, 10)), [11, 12, 16, 14]); // 1.5 and 4.5 to even
    assert_eq!(average(AVERAGE_PADDED, u8_ty(&[1, 1, 4], 0.5, 10)), [10, 12, 16, 14]); // 0.5 to even
    assert_eq!(average(AVERAGE, u8_ty(&[1, 1, 4], 0.25, 0)), [2, 3, 12, 9]); // another scale: factor 1
}

#[test]
fn pooling_in_two_and_three_axes() {
    let x = Tensor::f32([1, 1, 2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let three = Window { dims: vec![WindowDim::new(2); 3] };
    assert_eq!(floats(Op::Pool { kind: AVERAGE, window: three }, &[&x], &[1, 1, 1, 1, 1]), [4.5]);
    let y = Tensor::f32([1, 2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let two = Window { dims: vec![WindowDim::new(1), WindowDim::new(2)] };
    assert_eq!(floats(Op::Pool { kind: PoolKind::Max, window: two }, &[&y], &[1, 2, 2, 1]), [2.0, 4.0, 6.0, 8.0]);
}

#[test]
fn reductions() {
    let x = Tensor::f32([2, 3], &[1.0, 2.0, 6.0, -4.0, 0.0, 1.0]);
    let reduce = |kind, axes: &[usize], keep, dims: &[usize]| floats(Op::Reduce { kind, axes: axes.to_vec(), keep }, &[&x], dims);
    assert_eq!(reduce(ReduceKind::Sum, &[1], true, &[2, 1]), [9.0, -3.0]);
    assert_eq!(reduce(ReduceKind::Mean, &[0], false, &[3]), [-1.5, 1.0, 3.5]);
    assert_eq!(reduce(ReduceKind::Max, &[0, 1], false, &[]), [6.0]);
    assert_eq!(reduce(ReduceKind::Min, &[1], false, &[2]), [1.0, -4.0]);
    assert_eq!(reduce(ReduceKind::Sum, &[], false, &[2, 3]), x.to_f32().expect("f32"));
    let q = u8s(&[2, 3], 0.5, 10, &[11, 12, 10, 20, 9, 10]); // centered 1 2 0 | 10 -1 0
    let quantized = |kind, ty| ints(Op::Reduce { kind, axes: vec![1], keep: false }, &[&q], ty);
    assert_eq!(quantized(ReduceKind::Mean, u8_ty(&[2], 0.5, 10)), [11, 13]);
    assert_eq!(quantized(ReduceKind::Sum, u8_ty(&[2], 0.25, 1)), [1 + 6, 1 + 18]);
    assert_eq!(quantized(ReduceKind::Max, u8_ty(&[2], 0.5, 10)), [12, 20]);
    assert_eq!(quantized(ReduceKind::Min, u8_ty(&[2], 0.5, 10)), [10, 9]);
    assert_eq!(floats(Op::Reduce { kind: ReduceKind::Mean, axes: vec![1], keep: false }, &[&q], &[2]), [0.5, 1.5]);
}

#[test]
fn softmax_of_floats() {
    let x = Tensor::f32([2, 2], &[0.0, 100.0, 0.0, 100.0]);
    assert_eq!(floats(Op::Softmax { axis: 0, log: false }, &[&x], &[2, 2]), [0.5; 4]);
    assert_eq!(floats(Op::Softmax { axis: 0, log: true }, &[&x], &[2, 2]), [-float::log(2.0); 4]);
    let y = floats(Op::Softmax { axis: 1, log: false }, &[&x], &[2, 2]);
    assert_eq!(y, [0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn softmax_of_bytes_is_the_table() {
    let x = u8s(&[1, 3], 0.5, 77, &[200, 198, 200]);
    let e = (8_388_608.0 * (-1f64).exp()).round_ties_even() as u32;
    let sum = u64::from(e) + 2 * 8_388_608;
    let y = floats(Op::Softmax { axis: 1, log: false }, &[&x], &[1, 3]);
    let factor = 1.0 / sum as f32;
    assert_eq!(y, [8_388_608.0 * factor, e as f32 * factor, 8_388_608.0 * factor]);
    // 0.4223, 0.1554 in units of 1/256.
    assert_eq!(ints(Op::Softmax { axis: 1, log: false }, &[&x], u8_ty(&[1, 3], 1.0 / 256.0, 0)), [108, 40, 108]);
    // The logarithm dequantizes: 0, -1, 0 less log(2 + 1/e) = 0.8620.
    let log = floats(Op::Softmax { axis: 1, log: true }, &[&x], &[1, 3]);
    assert!((log[0] + 0.8620).abs() < 1e-3 && (log[1] + 1.8620).abs() < 1e-3, "{log:?}");
    assert_eq!(exact::softmax_table(0.5)[2], e);
}

#[test]
fn moves() {
    let x = u8s(&[2, 3], 1.0, 0, &[1, 2, 3, 4, 5, 6]);
    let ty = |dims: &[usize]| u8_ty(dims, 1.0, 0);
    assert_eq!(ints(Op::Reshape { dims: vec![3, 2] }, &[&x], ty(&[3, 2])), [1, 2, 3, 4, 5, 6]);
    assert_eq!(ints(Op::Transpose { perm: vec![1, 0] }, &[&x], ty(&[3, 2])), [1, 4, 2, 5, 3, 6]);
    assert_eq!(ints(Op::Concat { axis: 1 }, &[&x, &x], ty(&[2, 6])), [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
    let slice = Op::Slice { start: vec![0, 2], step: vec![1, -2], len: vec![2, 2] };
    assert_eq!(ints(slice, &[&x], ty(&[2, 2])), [3, 1, 6, 4]);
    let arbitrary = Op::Slice { start: vec![1, 0], step: vec![isize::MAX, 1], len: vec![1, 3] };
    assert_eq!(ints(arbitrary, &[&x], ty(&[1, 3])), [4, 5, 6]);
    assert_eq!(ints(Op::Slice { start: vec![0, 0], step: vec![1, 1], len: vec![0, 3] }, &[&x], ty(&[0, 3])), [0i64; 0]);
    let row = u8s(&[3], 1.0, 0, &[7, 8, 9]);
    assert_eq!(ints(Op::Expand { dims: vec![2, 3] }, &[&row], ty(&[2, 3])), [7, 8, 9, 7, 8, 9]);
    let wide = Tensor::f32([2, 2], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(floats(Op::Transpose { perm: vec![1, 0] }, &[&wide], &[2, 2]), [1.0, 3.0, 2.0, 4.0]);
    let long = Tensor::i64([2, 1], &[-1, 5]);
    assert_eq!(ints(Op::Concat { axis: 0 }, &[&long, &long], TensorTy::new([4, 1], Scalar::I64)), [-1, 5, -1, 5]);
}

#[test]
fn padding_holds_the_real_value() {
    let pad = |value| Op::Pad { before: vec![1], after: vec![2], value };
    let x = u8s(&[1], 0.5, 10, &[3]);
    assert_eq!(ints(pad(0.0), &[&x], u8_ty(&[4], 0.5, 10)), [10, 3, 10, 10]);
    assert_eq!(ints(pad(1.25), &[&x], u8_ty(&[4], 0.5, 10)), [12, 3, 12, 12]); // 2.5 to even
    assert_eq!(ints(pad(-1e9), &[&x], u8_ty(&[4], 0.5, 10)), [0, 3, 0, 0]);
    assert_eq!(floats(pad(-1.5), &[&Tensor::f32([1], &[2.0])], &[4]), [-1.5, 2.0, -1.5, -1.5]);
    assert_eq!(ints(pad(-1.5), &[&Tensor::i64([1], &[2])], TensorTy::new([4], Scalar::I64)), [-1, 2, -1, -1]);
    let nibble = per_tensor(4, true, 1.0, 0);
    let n = Tensor::from_ints(TensorTy::new([1], nibble.clone()), [-8]);
    assert_eq!(ints(pad(100.0), &[&n], TensorTy::new([4], nibble)), [7, -8, 7, 7]);
}

#[test]
fn changes_of_type() {
    let x = Tensor::f32([5], &[-1.0, 0.25, 0.75, 1e9, f32::NAN]);
    let y = run(Op::Quantize, &[&x], u8_ty(&[5], 0.5, 1));
    assert_eq!(y.to_ints().expect("integers"), [0, 1, 3, 255, 0]);
    assert_eq!(floats(Op::Dequantize, &[&y], &[5]), [-0.5, 0.0, 1.0, 127.0, -0.5]);
    let narrow = Quant::new(Storage::I16, -1000, 999, Scheme::PerTensor { scale: 0.5, zero_point: -5 }).expect("legal");
    assert_eq!(ints(Op::Quantize, &[&x], TensorTy::new([5], narrow)), [-7, -5, -3, 999, -1000]); // 0.5 to 0, 1.5 to 2
    let per_axis = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 1, scales: [0.5, 2.0].into() }).expect("legal");
    let w = Tensor::from_ints(TensorTy::new([2, 2, 1], per_axis.clone()), [1, 1, -3, 4]);
    assert_eq!(floats(Op::Dequantize, &[&w], &[2, 2, 1]), [0.5, 2.0, -1.5, 8.0]);
    let misfit = Tensor::from_ints(TensorTy::new([2, 3], per_axis), [0; 6]);
    assert!(eval_node(&Op::Dequantize, &[&misfit], &TensorTy::f32([2, 3])).is_err());
    // 0.75 (q - 1) in units of 0.5 from 7: 0.75 is 1.5 units, to even.
    assert_eq!(ints(Op::Requantize, &[&u8s(&[3], 0.75, 1, &[1, 2, 255])], TensorTy::new([3], per_tensor(8, true, 0.5, 7))), [7, 9, 127]);
}

#[test]
fn casts() {
    let x = Tensor::f32([6], &[-1.9, 0.5, 300.0, f32::NAN, f32::INFINITY, -0.0]);
    let to = |s| ints(Op::Cast, &[&x], TensorTy::new([6], s));
    assert_eq!(to(Scalar::I64), [-1, 0, 300, 0, i64::MAX, 0]);
    assert_eq!(to(Scalar::I32), [-1, 0, 300, 0, i64::from(i32::MAX), 0]);
    assert_eq!(to(Scalar::I8), [-1, 0, 127, 0, 127, 0]);
    assert_eq!(to(Scalar::U8), [0, 0, 255, 0, 255, 0]);
    assert_eq!(to(Scalar::Bool), [1, 1, 1, 1, 1, 0]);
    let i = Tensor::i64([3], &[-1, 256, (1 << 24) + 1]);
    assert_eq!(ints(Op::Cast, &[&i], TensorTy::new([3], Scalar::U8)), [255, 0, 1]);
    assert_eq!(ints(Op::Cast, &[&i], TensorTy::new([3], Scalar::Bool)), [1, 1, 1]);
    assert_eq!(floats(Op::Cast, &[&i], &[3]), [-1.0, 256.0, 16_777_216.0]);
    let halves = eval_node(&Op::Cast, &[&x], &TensorTy::new([6], Scalar::F16)).expect("casts");
    assert_eq!(floats(Op::Cast, &[&halves], &[6])[1..3], [0.5, 300.0]);
    let bits = eval_node(&Op::Bitcast, &[&halves], &TensorTy::new([6], Scalar::U16)).expect("same bytes");
    assert_eq!(bits.to_ints().expect("integers")[1..4], [0x3800, 0x5cb0, 0x7e00]);
    assert!(eval_node(&Op::Bitcast, &[&halves], &TensorTy::new([6], Scalar::U8)).is_err());
}

#[test]
fn relations_and_choices_broadcast() {
    let a = Tensor::f32([2, 2], &[1.0, f32::NAN, -0.0, 2.0]);
    let b = Tensor::f32([2], &[1.0, 2.0]);
    let relation = |f| ints(Op::Compare(f), &[&a, &b], TensorTy::new([2, 2], Scalar::Bool));
    assert_eq!(relation(Comparison::Equal), [1, 0, 0, 1]);
    assert_eq!(relation(Comparison::Less), [0, 0, 1, 0]);
    assert_eq!(relation(Comparison::LessEqual), [1, 0, 1, 1]);
    let c = Tensor::from_ints(TensorTy::new([2, 1], Scalar::Bool), [0, 1]);
    assert_eq!(floats(Op::Select, &[&c, &b, &Tensor::f32([], &[9.0])], &[2, 2]), [9.0, 9.0, 1.0, 2.0]);
    let unsigned = |v: i64| Tensor::from_ints(TensorTy::new([1], Scalar::U64), [v]);
    assert_eq!(ints(Op::Compare(Comparison::Less), &[&unsigned(1), &unsigned(-1)], TensorTy::new([1], Scalar::Bool)), [1]);
    assert!(eval_node(&Op::Compare(Comparison::Less), &[&c, &c], &TensorTy::new([2, 1], Scalar::Bool)).is_err());
}
