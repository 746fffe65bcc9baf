//! The listing of a program, and of graphs that are broken.

use quernel_ir::{
    Arena, Binary, Graph, Id, Op, Origin, PoolKind, Program, Storage, Tensor, TensorTy, Value, Window, WindowDim,
    graph::Node,
    program::{Base, Blob, ByteQuant, Conv, End, Image, Port, Slot, Step, Strided, Strides, WeightLayout, What},
    ty::Quant,
};

fn slot(base: Base, offset: usize, bytes: usize) -> Slot {
    Slot { base, offset, bytes }
}

#[test]
fn programs_list_their_steps() {
    let quant = ByteQuant { signed: false, scale: 0.0235, zero: 114, lo: 0, hi: 255 };
    let mut p = Program {
        name: "stem".into(),
        inputs: vec![Port { name: "x".into(), ty: TensorTy::f32([1, 3, 8, 8]) }],
        outputs: vec![Port {
            name: "a \"b\"".into(),
            ty: TensorTy::new([1, 4, 4, 4], Quant::per_tensor(Storage::U8, 0.5, 0).expect("legal")),
        }],
        arena_bytes: 4096,
        arena_lower_bound: 1024,
        ..Program::default()
    };
    let w = p.blob("stem.w", vec![1u8; 432]);
    let step = |what, reads: &[Slot], writes: &[Slot], origin| Step {
        what,
        how: "k".into(),
        reads: reads.to_vec(),
        writes: writes.to_vec(),
        origin,
    };
    let arena = |offset, bytes| slot(Base::Arena, offset, bytes);
    p.steps.push(step(
        What::Quantize { count: 192, to: quant, width: 1 },
        &[slot(Base::Input(0), 0, 768)],
        &[arena(64, 192)],
        Origin::new("/q"),
    ));
    let d = WindowDim { stride: 2, before: 1, after: 1, ..WindowDim::new(3) };
    let conv = Conv {
        input: Image { start: 33, batch: 300, row: 30, ..Image::dense(1, 8, 8, 3) },
        output: Image::dense(1, 4, 4, 4),
        window: [d, d],
        groups: 1,
        layout: WeightLayout::Panels { contiguous: true, depth: 4 },
        residual: None,
    };
    let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let what = What::Conv { conv: conv.clone(), zero: 114, signed: false, residual_signed: false, end };
    p.steps.push(step(what, &[arena(64, 300), w], &[slot(Base::Output(0), 0, 64)], Origin::new("/stem/Conv").union(&Origin::new("a+b"))));
    let what = What::ConvFloat { conv: Conv { groups: 4, layout: WeightLayout::Depthwise, ..conv }, lo: 0.0, hi: f32::INFINITY };
    p.steps.push(step(what, &[], &[], Origin::default()));
    let strides = Strides { start: 3, steps: vec![4, -1] };
    let over = Strided { dims: vec![2, 4], operands: vec![strides, Strides::dense(&[2, 4])] };
    p.steps.push(step(What::Move { width: 1, over: over.clone() }, &[arena(0, 8)], &[arena(64, 8)], Origin::default()));
    p.steps.push(step(What::BinaryFloat { op: Binary::Add, over, lo: f32::NEG_INFINITY, hi: f32::INFINITY }, &[], &[], Origin::default()));
    p.steps.push(step(
        What::SoftmaxBytes { outer: 1, len: 10, inner: 1, from: quant, to: None },
        &[slot(Base::Blob(Blob::new(9)), 0, 1)],
        &[],
        Origin::default(),
    ));
    let expected = r#"program stem {
  arena 4096 bytes (at least 1024), constants 432 bytes
  input in0: 1x3x8x8xf32 "x"
  output out0: 1x4x4x4xq<u8, 0.5:0> "a \"b\""
  blob @stem.w: 432 bytes #HASH
  0 quantize [k] (in0+0x0:768) -> (arena+0x40:192) {count=192, to=u8[0:255]:0.0235:114}  ; /q
  1 conv [k] (arena+0x40:300, @stem.w+0x0:432) -> (out0+0x0:64) {1x8x8x3 at 33+[300, 30, 3], to 1x4x4x4, kernel=3x3, stride=2x2, pad=[1, 1, 1, 1], panels(depth=4, contiguous), zero=114:u8, end=u8[0:255]:0}  ; /stem/Conv+"a+b"
  2 conv_f32 [k] () -> () {1x8x8x3 at 33+[300, 30, 3], to 1x4x4x4, kernel=3x3, stride=2x2, pad=[1, 1, 1, 1], groups=4, depthwise, end=f32[0.0:inf]}
  3 move [k] (arena+0x0:8) -> (arena+0x40:8) {width=1, over 2x4, 3+[4, -1], 0+[4, 1]}
  4 binary_f32 [k] () -> () {add, over 2x4, 3+[4, -1], 0+[4, 1], end=f32}
  5 softmax [k] (@?9+0x0:1) -> () {1x10x1, from=u8[0:255]:0.0235:114, to=f32}
}
"#;
    let hash = format!("{:016x}", quernel_ir::tensor::fnv1a(&[1; 432]));
    assert_eq!(p.to_string(), expected.replace("HASH", &hash));
}

/// What `verify` would refuse prints all the same: that is when one needs to see it.
#[test]
fn broken_graphs_print() {
    let mut g = Graph::new("broken");
    let ty = TensorTy::f32([2]);
    let x = g.input("", ty.clone());
    g.inputs.push(x);
    let v = g.push(Op::Binary(Binary::Add), &[x, Value::new(77)], ty.clone(), Origin::default());
    let node = g.producer(v).expect("a node");
    g.order.push(Node::new(55));
    let later = g.push(Op::Concat { axis: 0 }, &[], ty.clone(), Origin::default());
    g.nodes[node].args.push(later);
    let window = Window { dims: vec![WindowDim { kernel: 0, ..WindowDim::new(1) }] };
    let p = g.push(Op::Pool { kind: PoolKind::Max, window }, &[v], ty.clone(), Origin::default());
    let node = g.producer(p).expect("a node");
    g.nodes[node].results = vec![];
    let c = g.constant("c", Tensor::i32([1], &[1]));
    g.consts = Arena::default();
    g.output("", c);
    g.output("gone", p);
    let expected = r#"graph broken(%0: 2xf32, %0: 2xf32) {
  %2 = add %0, %?77, %3 : 2xf32
  %3 = concat {axis=0} : 2xf32
   = max_pool %2 {kernel=[0]} : 
  return %?4, %?3 "gone"
}
"#;
    assert_eq!(g.to_string(), expected);
}
