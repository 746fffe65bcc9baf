//! Running whole graphs: order, observation, errors.

mod common;

use quernel_interp::{eval_node, run_graph, run_graph_with};
use quernel_ir::{Act, Binary, Code, Graph, Multiplier, Op, Origin, Tensor, TensorTy, Unary, Value, Window, WindowDim};

/// `y = relu(x) + c`, and `x` itself as a second output, the constant as a third.
fn small() -> (Graph, Vec<Value>) {
    let mut g = Graph::new("small");
    let x = g.input("x", TensorTy::f32([2]));
    let c = g.constant("c", Tensor::f32([2], &[10.0, 20.0]));
    let r = g.push(Op::Unary(Unary::Relu), &[x], TensorTy::f32([2]), Origin::new("relu"));
    let y = g.push(Op::Binary(Binary::Add), &[r, c], TensorTy::f32([2]), Origin::new("add"));
    g.output("y", y);
    g.output("x", x);
    g.output("c", c);
    (g, vec![x, r, y])
}

#[test]
fn outputs_and_observations_come_in_order() {
    let (g, order) = small();
    let mut seen = vec![];
    let y = run_graph_with(&g, &[Tensor::f32([2], &[-1.0, 2.0])], &mut |v, t| seen.push((v, t.to_f32().expect("f32")))).expect("runs");
    assert_eq!(y.iter().map(|t| t.to_f32().expect("f32")).collect::<Vec<_>>(), [[10.0, 22.0], [-1.0, 2.0], [10.0, 20.0]]);
    assert_eq!(seen, [(order[0], vec![-1.0, 2.0]), (order[1], vec![0.0, 2.0]), (order[2], vec![10.0, 22.0])]);
}

#[test]
fn inputs_must_fit() {
    let (g, _) = small();
    assert_eq!(run_graph(&g, &[]).expect_err("no input").code, Code::SampleName);
    let wrong = run_graph(&g, &[Tensor::f32([3], &[0.0; 3])]).expect_err("wrong shape");
    assert_eq!(wrong.code, Code::SampleShape);
    assert_eq!(wrong.location.place.as_deref(), Some("input \"x\""));
}

#[test]
fn a_broken_graph_is_an_error_with_a_place() {
    let (mut g, _) = small();
    g.order.reverse();
    let fault = run_graph(&g, &[Tensor::f32([2], &[0.0; 2])]).expect_err("out of order");
    assert_eq!((fault.code, fault.location.place.as_deref()), (Code::BadIr, Some("add (add)")));
    let (mut g, values) = small();
    g.values[values[2]].ty = TensorTy::f32([3]);
    assert_eq!(run_graph(&g, &[Tensor::f32([2], &[0.0; 2])]).expect_err("wrong type").code, Code::BadIr);
    // Ids of a larger graph.
    let (mut g, _) = small();
    let mut other = Graph::new("other");
    let far = (0..9).map(|i| other.input(format!("i{i}"), TensorTy::f32([2]))).last().expect("nine");
    let n = g.order[0];
    g.nodes[n].args[0] = far;
    g.output("far", far);
    assert_eq!(run_graph(&g, &[Tensor::f32([2], &[0.0; 2])]).expect_err("unknown value").code, Code::BadIr);
}

#[test]
fn hostile_operators_are_errors() {
    let x = Tensor::f32([1, 1, 4], &[0.0; 4]);
    let huge = |d: WindowDim| Op::Pool { kind: quernel_ir::PoolKind::Max, window: Window { dims: vec![d] } };
    for d in [
        WindowDim { kernel: 0, ..WindowDim::new(1) },
        WindowDim { stride: 0, ..WindowDim::new(1) },
        WindowDim { kernel: usize::MAX, ..WindowDim::new(1) },
        WindowDim { before: usize::MAX, after: usize::MAX, stride: usize::MAX, ..WindowDim::new(1) },
        WindowDim { dilation: usize::MAX, ..WindowDim::new(2) },
    ] {
        assert!(eval_node(&huge(d), &[&x], &TensorTy::f32([1, 1, 4])).is_err(), "{d:?}");
    }
    let one = Tensor::f32([1], &[0.0]);
    let big = [1 << 40];
    assert_eq!(
        eval_node(&Op::Expand { dims: big.to_vec() }, &[&one], &TensorTy::f32(big)).expect_err("too large").code,
        Code::LimitExceeded
    );
    let pad = Op::Pad { before: vec![usize::MAX], after: vec![1], value: 0.0 };
    assert!(eval_node(&pad, &[&one], &TensorTy::f32([1])).is_err());
    // An empty tensor whose other extents overflow when multiplied.
    let empty = Tensor::new(TensorTy::f32([0, usize::MAX, usize::MAX]), vec![]).expect("no bytes");
    let dims = [usize::MAX, usize::MAX, 0];
    assert!(eval_node(&Op::Transpose { perm: vec![1, 2, 0] }, &[&empty], &TensorTy::f32(dims)).is_err());
    assert!(eval_node(&Op::Concat { axis: 1 }, &[&empty, &empty], &TensorTy::f32([0, 2, 2])).is_err());
    let softmax = eval_node(&Op::Softmax { axis: 1, log: false }, &[&empty], &empty.ty);
    assert!(softmax.is_ok_and(|t| t.bytes().is_empty()));
    let sum = Op::Reduce { kind: quernel_ir::ReduceKind::Sum, axes: vec![0, 1, 2], keep: false };
    assert_eq!(eval_node(&sum, &[&empty], &TensorTy::f32([])).expect("sums nothing").to_f32(), Some(vec![0.0]));
    let dense = Op::Dense { act: Act::None, residual: true, multiplier: Multiplier::F64 };
    assert!(eval_node(&dense, &[&one], &TensorTy::f32([1])).is_err());
}
