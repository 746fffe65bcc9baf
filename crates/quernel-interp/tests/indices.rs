//! Computed indices, orders, folds of plain numbers, on small operands with expectations worked out by hand.

use quernel_interp::eval_node;
use quernel_ir::{Binary, Elem, Index, Op, Quant, ReduceKind, Scalar, Storage, Tensor, TensorTy, plain::Number};

fn run(op: Op, args: &[&Tensor], ty: TensorTy) -> Tensor {
    eval_node(&op, args, &ty).unwrap_or_else(|d| panic!("{op:?}: {d}"))
}
fn floats(op: Op, args: &[&Tensor], dims: &[usize]) -> Vec<f32> {
    run(op, args, TensorTy::f32(dims)).to_f32().expect("f32")
}
fn ints(op: Op, args: &[&Tensor], dims: &[usize], s: Scalar) -> Vec<i64> {
    run(op, args, TensorTy::new(dims, s)).to_ints().expect("integers")
}
fn top(axis: usize, k: usize, smallest: bool, last: bool) -> Op {
    Op::TopK { axis, k, smallest, last }
}
fn of(s: Scalar, dims: &[usize], data: &[i64]) -> Tensor {
    Tensor::from_ints(TensorTy::new(dims, s), data.iter().copied())
}

#[test]
fn indices_count_from_the_end_and_are_clamped() {
    let x = Tensor::f32([2, 3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    let columns = |i: &[i64]| floats(Op::Gather { index: Index::Slices { axis: 1 } }, &[&x, &Tensor::i64([i.len()], i)], &[2, i.len()]);
    assert_eq!(columns(&[2, 0]), [2.0, 0.0, 12.0, 10.0]);
    assert_eq!(columns(&[-1, -3]), [2.0, 0.0, 12.0, 10.0]);
    assert_eq!(columns(&[i64::MAX, i64::MIN, 3, -4]), [2.0, 0.0, 2.0, 0.0, 12.0, 10.0, 12.0, 10.0]);
    // A scalar index takes the axis away.
    let row = floats(Op::Gather { index: Index::Slices { axis: 0 } }, &[&x, &Tensor::i32([], &[1])], &[3]);
    assert_eq!(row, [10.0, 11.0, 12.0]);
}

#[test]
fn elements_have_an_index_each() {
    let x = Tensor::f32([2, 3], &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    let op = |axis| Op::Gather { index: Index::Elements { axis } };
    assert_eq!(floats(op(1), &[&x, &Tensor::i64([2, 2], &[2, 0, 1, 1])], &[2, 2]), [2.0, 0.0, 11.0, 11.0]);
    // Fewer columns than the operand has, more rows.
    assert_eq!(floats(op(0), &[&x, &Tensor::i64([3, 2], &[0, 1, 1, 0, -1, -2])], &[3, 2]), [0.0, 11.0, 10.0, 1.0, 10.0, 1.0]);
}

#[test]
fn coordinates_name_elements_and_slices() {
    let x = of(Scalar::U8, &[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let op = |batch| Op::Gather { index: Index::Coordinates { batch } };
    assert_eq!(ints(op(0), &[&x, &Tensor::i64([2, 2], &[0, 1, 1, 0])], &[2, 2], Scalar::U8), [2, 3, 4, 5]);
    assert_eq!(ints(op(0), &[&x, &Tensor::i64([3], &[1, -1, 0])], &[], Scalar::U8), [6]);
    assert_eq!(ints(op(1), &[&x, &Tensor::i64([2, 1], &[1, 0])], &[2, 2], Scalar::U8), [2, 3, 4, 5]);
    assert!(eval_node(&op(2), &[&x, &Tensor::i64([2, 1], &[1, 0])], &TensorTy::new([2], Scalar::U8)).is_err());
}

#[test]
fn scattered_elements_replace_or_combine_in_order() {
    let x = Tensor::f32([4], &[1.0, 2.0, 3.0, 4.0]);
    let (i, u) = (Tensor::i64([3], &[1, -1, 1]), Tensor::f32([3], &[10.0, 20.0, 0.5]));
    let op = |reduce| Op::Scatter { index: Index::Elements { axis: 0 }, reduce };
    let scatter = |reduce| floats(op(reduce), &[&x, &i, &u], &[4]);
    assert_eq!(scatter(None), [1.0, 0.5, 3.0, 20.0]);
    assert_eq!(scatter(Some(Binary::Add)), [1.0, 12.5, 3.0, 24.0]);
    assert_eq!(scatter(Some(Binary::Mul)), [1.0, 10.0, 3.0, 80.0]);
    assert_eq!(scatter(Some(Binary::Max)), [1.0, 10.0, 3.0, 20.0]);
    assert_eq!(scatter(Some(Binary::Min)), [1.0, 0.5, 3.0, 4.0]);
    assert!(eval_node(&op(Some(Binary::Sub)), &[&x, &i, &u], &TensorTy::f32([4])).is_err());
    // Slices: both rows of the update land on the last row, one after the other.
    let bytes = of(Scalar::I8, &[2, 2], &[1, 2, 3, 4]);
    let rows = of(Scalar::I8, &[2, 2], &[100, 1, 100, 2]);
    let nd = Op::Scatter { index: Index::Coordinates { batch: 0 }, reduce: Some(Binary::Add) };
    assert_eq!(ints(nd, &[&bytes, &Tensor::i32([2, 1], &[1, 9]), &rows], &[2, 2], Scalar::I8), [1, 2, -53, 7]);
}

#[test]
fn halves_are_combined_in_f32_and_rounded() {
    let half = |x: f32| Number::Real(x.into()).bits(Scalar::F16).to_le_bytes()[..2].to_vec();
    let tensor =
        |x: &[f32]| Tensor::new(TensorTy::new([x.len()], Scalar::F16), x.iter().flat_map(|x| half(*x)).collect::<Vec<u8>>()).unwrap();
    let op = Op::Scatter { index: Index::Elements { axis: 0 }, reduce: Some(Binary::Add) };
    // 2048 + 1 is no half; it rounds to 2048 every time.
    let y = run(op, &[&tensor(&[2048.0]), &Tensor::i64([1], &[0]), &tensor(&[1.0])], TensorTy::new([1], Scalar::F16));
    assert_eq!(y.bytes(), half(2048.0));
}

#[test]
fn equal_elements_come_in_order_of_their_indices() {
    let x = Tensor::f32([2, 4], &[1.0, 3.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]);
    let at = |op| ints(op, &[&x], &[2, 3], Scalar::I64);
    assert_eq!(at(top(1, 3, false, false)), [1, 2, 3, 0, 1, 2]);
    assert_eq!(at(top(1, 3, false, true)), [2, 1, 3, 3, 2, 1]);
    assert_eq!(at(top(1, 3, true, false)), [0, 3, 1, 0, 1, 2]);
    assert_eq!(ints(top(0, 1, true, false), &[&x], &[1, 4], Scalar::I64), [0, 0, 0, 0]);
}

#[test]
fn nan_is_above_everything_and_zeros_are_equal() {
    let x = Tensor::f32([6], &[f32::INFINITY, -f32::NAN, 0.0, -0.0, f32::NEG_INFINITY, f32::NAN]);
    let all = |smallest| ints(top(0, 6, smallest, false), &[&x], &[6], Scalar::I64);
    assert_eq!(all(false), [1, 5, 0, 2, 3, 4]);
    assert_eq!(all(true), [4, 2, 3, 0, 1, 5]);
}

#[test]
fn every_type_has_its_order() {
    let largest = |x: &Tensor| ints(top(0, 1, false, false), &[x], &[1], Scalar::I64)[0];
    for (s, bits, want) in [
        (Scalar::I8, [0x80u64, 0x7f], 1),
        (Scalar::U8, [0x80, 0x7f], 0),
        (Scalar::I16, [0x8000, 1], 1),
        (Scalar::U64, [u64::MAX, 1], 0),
        (Scalar::I64, [u64::MAX, 1], 1),
        (Scalar::F64, [(-1.0f64).to_bits(), 1], 1),
        (Scalar::F16, [0xfbff, 0xfc00], 0),
        (Scalar::BF16, [0x3f80, 0x7f81], 1),
    ] {
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()[..s.bytes()].to_vec()).collect();
        assert_eq!(largest(&Tensor::new(TensorTy::new([2], s), bytes).unwrap()), want, "{s:?}");
    }
    // Stored integers have the order of the numbers they mean.
    let q: Elem = Quant::per_tensor(Storage::I8, 0.5, 3).unwrap().into();
    assert_eq!(largest(&Tensor::from_ints(TensorTy::new([3], q), [-5, 7, 7])), 1);
}

#[test]
fn folds_of_integers_wrap() {
    let x = of(Scalar::I32, &[2, 2], &[i64::from(i32::MAX), 1, -3, 4]);
    let reduce = |kind| ints(Op::Reduce { kind, axes: vec![1], keep: false }, &[&x], &[2], Scalar::I32);
    assert_eq!(reduce(ReduceKind::Sum), [i64::from(i32::MIN), 1]);
    assert_eq!(reduce(ReduceKind::Prod), [i64::from(i32::MAX), -12]);
    assert_eq!(reduce(ReduceKind::Max), [i64::from(i32::MAX), 4]);
    assert_eq!(reduce(ReduceKind::Min), [1, -3]);
    let mean = Op::Reduce { kind: ReduceKind::Mean, axes: vec![1], keep: false };
    assert!(eval_node(&mean, &[&x], &TensorTy::new([2], Scalar::I32)).is_err());
    let flags = of(Scalar::Bool, &[3], &[0, 1, 0]);
    let flag = |kind| ints(Op::Reduce { kind, axes: vec![0], keep: true }, &[&flags], &[1], Scalar::Bool);
    assert_eq!((flag(ReduceKind::Max), flag(ReduceKind::Min)), (vec![1], vec![0]));
}

#[test]
fn running_totals() {
    let x = Tensor::f32([1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let run = |op, exclusive, reverse| floats(Op::Cumulative { op, axis: 1, exclusive, reverse }, &[&x], &[1, 4]);
    assert_eq!(run(Binary::Add, false, false), [1.0, 3.0, 6.0, 10.0]);
    assert_eq!(run(Binary::Add, true, false), [0.0, 1.0, 3.0, 6.0]);
    assert_eq!(run(Binary::Add, false, true), [10.0, 9.0, 7.0, 4.0]);
    assert_eq!(run(Binary::Mul, true, true), [24.0, 12.0, 4.0, 1.0]);
    let bytes = of(Scalar::U8, &[3], &[200, 100, 1]);
    let op = Op::Cumulative { op: Binary::Add, axis: 0, exclusive: false, reverse: false };
    assert_eq!(ints(op, &[&bytes], &[3], Scalar::U8), [200, 44, 45]);
}
