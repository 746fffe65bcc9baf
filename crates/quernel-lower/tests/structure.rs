//! What programs look like: which moves are absent, where margins and constants lie, what is refused.

use quernel_ir::{
    Act, Binary, Code, Elem, Graph, Multiplier, Op, Origin, PoolKind, Quant, Scheme, Stage, Storage, Tensor, TensorTy, Value, Window,
    WindowDim,
    program::{ALIGN, Base, READ_SLACK, WeightLayout, What},
    verify,
};
use quernel_lower::{Lowered, Options, lower};
use quernel_test::Net;

fn lowered(g: &Graph) -> Lowered {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}"));
    lower(&proof, &Options::default()).unwrap_or_else(|d| panic!("{d:?}"))
}

fn refused(g: &Graph) -> Vec<Code> {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}"));
    lower(&proof, &Options::default()).expect_err("is refused").into_iter().map(|d| d.code).collect()
}

fn kinds(l: &Lowered) -> Vec<&str> {
    l.program.steps.iter().map(|s| s.what.name()).collect()
}

fn u8_type(scale: f32) -> Elem {
    Quant::per_tensor(Storage::U8, scale, 3).unwrap().into()
}

fn square(kernel: usize, stride: usize, pad: usize) -> Window {
    Window { dims: vec![WindowDim { kernel, stride, dilation: 1, before: pad, after: pad }; 2] }
}

/// Quantized weights of a deterministic pattern, no activation, u8 result.
fn conv(g: &mut Graph, x: Value, dims: [usize; 4], groups: usize, window: Window, name: &str) -> Value {
    let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![0.01; dims[0]].into() }).unwrap();
    let count: usize = dims.iter().product();
    let w = g.constant(format!("{name}.w"), Tensor::from_ints(TensorTy::new(dims, q), (0..count as i64).map(|i| (i * 37) % 255 - 127)));
    let op = Op::Conv { window, groups, act: Act::Relu, residual: false, multiplier: Multiplier::F64 };
    let out = quernel_ir::infer::dims(&op, &[g.ty(x), g.ty(w)]).unwrap();
    g.push(op, &[x, w], TensorTy::new(out, u8_type(0.1)), Origin::new(name))
}

fn quantized_input(g: &mut Graph, dims: [usize; 4]) -> Value {
    let x = g.input("x", TensorTy::f32(dims));
    g.push(Op::Quantize, &[x], TensorTy::new(dims, u8_type(0.02)), Origin::new("q"))
}

fn dequantized_output(g: &mut Graph, v: Value) {
    let y = g.push(Op::Dequantize, &[v], TensorTy::f32(g.ty(v).dims.clone()), Origin::new("dq"));
    g.output("y", y);
}

#[test]
fn padded_convolutions_read_margins_and_see_no_edge() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 3, 8, 8]);
    let a = conv(&mut g, x, [16, 3, 3, 3], 1, square(3, 2, 1), "a");
    let b = conv(&mut g, a, [16, 1, 3, 3], 16, square(3, 1, 1), "b");
    let c = conv(&mut g, b, [24, 16, 1, 1], 1, square(1, 1, 0), "c");
    dequantized_output(&mut g, c);
    let l = lowered(&g);
    let convs: Vec<_> =
        l.program.steps.iter().filter_map(|s| if let What::Conv { conv, .. } = &s.what { Some((conv, &s.how)) } else { None }).collect();
    assert!(convs.iter().all(|(c, _)| !c.padded()), "{convs:?}");
    assert_eq!(
        convs.iter().map(|(_, how)| how.as_str()).collect::<Vec<_>>(),
        ["conv_u8s8_panels", "conv_u8s8_depthwise", "conv_u8s8_panels"]
    );
    // One move brings the input to channels last, one brings the result back; nothing in between.
    assert_eq!(kinds(&l).iter().filter(|k| **k == "move").count(), 2, "{:?}", kinds(&l));
    // `a` is written straight into the margin buffer that `b` reads.
    assert_eq!((convs[0].0.output.row, convs[1].0.input.row), (6 * 16, 6 * 16));
}

#[test]
fn flattening_before_a_product_permutes_weights_instead_of_moving() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 3, 6, 6]);
    let a = conv(&mut g, x, [4, 3, 3, 3], 1, square(3, 1, 0), "a");
    let flat = g.push(Op::Reshape { dims: vec![1, 64] }, &[a], TensorTy::new([1, 64], g.ty(a).elem.clone()), Origin::new("flat"));
    let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![0.01; 10].into() }).unwrap();
    let w = g.constant("w", Tensor::from_ints(TensorTy::new([10, 64], q), (0..640).map(|i| (i * 31) % 255 - 127)));
    let op = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let y = g.push(op, &[flat, w], TensorTy::f32([1, 10]), Origin::new("fc"));
    g.output("y", y);
    let l = lowered(&g);
    assert_eq!(kinds(&l), ["quantize", "move", "conv", "conv"]);
    // The last layer writes the caller's output itself.
    assert_eq!(l.program.steps[3].writes[0].base, Base::Output(0));
    let What::Conv { conv, .. } = &l.program.steps[3].what else { panic!() };
    let blob = |i: usize| if let Base::Blob(b) = l.program.steps[3].reads[i].base { &l.program.blobs[b].bytes } else { panic!() };
    // Memory column 1 is channel 1 of pixel 0: logical column 16.
    assert_eq!(blob(1)[conv.layout.index(conv.weight_dims(), 0, 0, 0, 1)] as i8, ((16 * 31) % 255 - 127) as i8);
}

#[test]
fn operands_are_written_into_their_concatenation() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 8, 5, 5]);
    let a = conv(&mut g, x, [16, 8, 1, 1], 1, square(1, 1, 0), "a");
    let b = conv(&mut g, x, [8, 8, 3, 3], 1, square(3, 1, 1), "b");
    let cat = g.push(Op::Concat { axis: 1 }, &[a, b], TensorTy::new([1, 24, 5, 5], g.ty(a).elem.clone()), Origin::new("cat"));
    let c = conv(&mut g, cat, [4, 24, 3, 3], 1, square(3, 1, 1), "c");
    dequantized_output(&mut g, c);
    let l = lowered(&g);
    assert_eq!(kinds(&l).iter().filter(|k| **k == "move").count(), 2, "{:?}", kinds(&l));
    let pixels: Vec<usize> =
        l.program.steps.iter().filter_map(|s| if let What::Conv { conv, .. } = &s.what { Some(conv.output.pixel) } else { None }).collect();
    assert_eq!(pixels, [24, 24, 4]);
}

#[test]
fn element_wise_results_take_the_place_of_dying_operands() {
    let mut g = Graph::new("net");
    let x = g.input("x", TensorTy::f32([1000]));
    let y = g.input("y", TensorTy::f32([1000]));
    let mut v = g.push(Op::Binary(Binary::Mul), &[x, y], TensorTy::f32([1000]), Origin::new("mul"));
    for i in 0..4 {
        v = g.push(Op::Binary(Binary::Add), &[v, y], TensorTy::f32([1000]), Origin::new(format!("add{i}")));
    }
    let r =
        g.push(Op::Reduce { kind: quernel_ir::ReduceKind::Sum, axes: vec![0], keep: false }, &[v], TensorTy::f32([]), Origin::new("sum"));
    g.output("y", r);
    let l = lowered(&g);
    assert_eq!(l.program.arena_bytes, 4032 + READ_SLACK);
    let apart = lower(&verify(&g, Stage::Quantized).unwrap(), &Options { in_place: false, ..Options::default() }).unwrap();
    assert_eq!(apart.program.arena_bytes, 2 * 4032 + READ_SLACK);
}

/// Arena bytes over the lower bound, in percent.
fn arena_percent(l: &Lowered) -> usize {
    100 * l.program.arena_bytes / l.program.arena_lower_bound
}

#[test]
fn a_depthwise_network_has_no_inner_moves_and_a_tight_arena() {
    let mut g = Graph::new("net");
    let mut v = quantized_input(&mut g, [1, 3, 96, 96]);
    v = conv(&mut g, v, [8, 3, 3, 3], 1, square(3, 2, 1), "stem");
    let mut c = 8;
    for (i, (o, stride)) in
        [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1)].into_iter().enumerate()
    {
        v = conv(&mut g, v, [c, 1, 3, 3], c, square(3, stride, 1), &format!("dw{i}"));
        v = conv(&mut g, v, [o, c, 1, 1], 1, square(1, 1, 0), &format!("pw{i}"));
        c = o;
    }
    let elem = g.ty(v).elem.clone();
    let mean = Op::Pool { kind: PoolKind::Average { include_pad: false }, window: square(3, 1, 0) };
    v = g.push(mean, &[v], TensorTy::new([1, 256, 1, 1], elem.clone()), Origin::new("gap"));
    v = g.push(Op::Reshape { dims: vec![1, 256] }, &[v], TensorTy::new([1, 256], elem), Origin::new("flat"));
    dequantized_output(&mut g, v);
    let l = lowered(&g);
    assert_eq!(kinds(&l).iter().filter(|k| **k == "move").count(), 1, "{:?}", kinds(&l));
    assert!(arena_percent(&l) <= 101, "{} over {}", l.program.arena_bytes, l.program.arena_lower_bound);
}

#[test]
fn a_residual_network_has_no_inner_moves_and_a_tight_arena() {
    let mut g = Graph::new("net");
    let mut v = quantized_input(&mut g, [1, 3, 32, 32]);
    v = conv(&mut g, v, [16, 3, 3, 3], 1, square(3, 1, 1), "stem");
    let mut c = 16;
    for (i, (o, stride)) in [(16, 1), (32, 2), (64, 2), (64, 1)].into_iter().enumerate() {
        let short = if o == c { v } else { conv(&mut g, v, [o, c, 1, 1], 1, square(1, stride, 0), &format!("short{i}")) };
        let a = conv(&mut g, v, [o, c, 3, 3], 1, square(3, stride, 1), &format!("a{i}"));
        // sr / (sx sw) = 0.1 / (0.1 * 0.01) = 100.
        let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![0.01; o].into() }).unwrap();
        let w = Tensor::from_ints(TensorTy::new([o, o, 3, 3], q), (0..(o * o * 9) as i64).map(|i| (i * 41) % 255 - 127));
        let w = g.constant(format!("b{i}.w"), w);
        let op = Op::Conv { window: square(3, 1, 1), groups: 1, act: Act::Relu, residual: true, multiplier: Multiplier::F64 };
        v = g.push(op, &[a, w, short], g.ty(short).clone(), Origin::new(format!("b{i}")));
        c = o;
    }
    dequantized_output(&mut g, v);
    let l = lowered(&g);
    // Input to channels last, output back.
    assert_eq!(kinds(&l).iter().filter(|k| **k == "move").count(), 2, "{:?}", kinds(&l));
    assert!(arena_percent(&l) <= 101, "{} over {}", l.program.arena_bytes, l.program.arena_lower_bound);
}

#[test]
fn layers_cover_all_steps_and_tell_weights_and_sums() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 3, 8, 8]);
    let a = conv(&mut g, x, [16, 3, 3, 3], 1, square(3, 1, 1), "a");
    let p = g.push(
        Op::Pool { kind: PoolKind::Max, window: square(2, 2, 0) },
        &[a],
        TensorTy::new([1, 16, 4, 4], g.ty(a).elem.clone()),
        Origin::new("p"),
    );
    dequantized_output(&mut g, p);
    let l = lowered(&g);
    let steps: Vec<usize> = l.layers.iter().flat_map(|l| l.steps.iter().copied()).collect();
    assert_eq!(steps, (0..l.program.steps.len()).collect::<Vec<_>>());
    let a = l.layers.iter().find(|l| l.name == "a").unwrap();
    assert_eq!((a.macs, a.weight_bytes, a.integer), (16 * 64 * 27, 16 * 27, true));
    // At most 27 products of magnitude 255 * 127 and the folded zero point.
    assert!(a.largest_sum.unwrap() > 27 * 20 * 255 && a.largest_sum.unwrap() < 27 * 258 * 127 && a.headroom_bits().unwrap() >= 10);
}

#[test]
fn an_unprovable_sum_and_every_other_fault_are_reported_together() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 4, 8, 8]);
    let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![0.01; 2].into() }).unwrap();
    let w = g.constant("w", Tensor::from_ints(TensorTy::new([2, 4, 1, 1], q), [1, 1, 1, 1, 127, 127, 127, 127]));
    let b = g.constant("b", Tensor::i32([2], &[0, i32::MAX - 1000]));
    let op = Op::Conv { window: square(1, 1, 0), groups: 1, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let y = g.push(op, &[x, w, b], TensorTy::new([1, 2, 8, 8], u8_type(0.1)), Origin::new("wide"));
    let tiny = conv(&mut g, y, [2, 2, 1, 1], 1, square(1, 1, 0), "fine");
    let q = Quant::per_tensor(Storage::U8, 1e-9, 0).unwrap();
    let q2 = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![0.01; 2].into() }).unwrap();
    let w = g.constant("w2", Tensor::from_ints(TensorTy::new([2, 2, 1, 1], q2), [1, 2, 3, 4]));
    let op = Op::Conv { window: square(1, 1, 0), groups: 1, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let z = g.push(op, &[tiny, w], TensorTy::new([1, 2, 8, 8], q), Origin::new("huge multiplier"));
    dequantized_output(&mut g, z);
    assert_eq!(refused(&g), [Code::OverflowUnproven, Code::UnsupportedForm]);
}

#[test]
fn tiny_multipliers_become_zero() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 1, 2, 2]);
    let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: vec![1e-12, 0.5].into() }).unwrap();
    let w = g.constant("w", Tensor::from_ints(TensorTy::new([2, 1, 1, 1], q), [100, 100]));
    let op = Op::Conv { window: square(1, 1, 0), groups: 1, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let y = g.push(op, &[x, w], TensorTy::new([1, 2, 2, 2], u8_type(0.1)), Origin::new("c"));
    dequantized_output(&mut g, y);
    let l = lowered(&g);
    let step = l.program.steps.iter().find(|s| matches!(s.what, What::Conv { .. })).unwrap();
    let Base::Blob(b) = step.reads[3].base else { panic!() };
    let scales: Vec<f32> = l.program.blobs[b].bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(scales.len(), 16);
    assert_eq!(scales[0], 0.0);
    assert!(scales[1] > 0.0);
}

#[test]
fn absurd_padding_keeps_the_window_padded_instead_of_filling_memory() {
    let mut g = Graph::new("net");
    let x = quantized_input(&mut g, [1, 1, 2, 2]);
    let window = Window { dims: vec![WindowDim { kernel: 2, stride: 1 << 30, dilation: 1, before: 1 << 40, after: 1 << 40 }; 2] };
    // 2049 x 2049 outputs over almost only padding.
    let a = conv(&mut g, x, [1, 1, 2, 2], 1, window, "a");
    dequantized_output(&mut g, a);
    let l = lowered(&g);
    assert!(l.program.arena_bytes < 64 << 20, "{}", l.program.arena_bytes);
    assert!(
        l.program.steps.iter().any(|s| matches!(&s.what, What::Conv { conv, .. } if conv.padded() && conv.layout != WeightLayout::Plain))
    );
}

#[test]
fn random_programs_stay_within_their_memory_and_are_reproducible() {
    let mut steps = 0;
    for seed in 0..500 {
        let g = Net::random(seed, 14);
        let l = lowered(&g);
        let p = &l.program;
        assert!(p.arena_bytes.is_multiple_of(ALIGN) && p.arena_bytes >= p.arena_lower_bound);
        for s in &p.steps {
            for slot in s.reads.iter().chain(&s.writes) {
                let size = match slot.base {
                    Base::Arena => p.arena_bytes,
                    Base::Input(i) => p.inputs[i as usize].ty.bytes(),
                    Base::Output(i) => p.outputs[i as usize].ty.bytes(),
                    Base::Blob(b) => p.blobs[b].bytes.len(),
                };
                assert!(slot.offset + slot.bytes <= size, "seed {seed}: {s:?}");
            }
            assert!(s.writes.iter().all(|w| !matches!(w.base, Base::Input(_) | Base::Blob(_))), "seed {seed}");
            assert_eq!(quernel_kernels::family(&s.how).map(|f| f.name), Some(s.how.as_str()));
        }
        assert_eq!(format!("{p:?}"), format!("{:?}", lowered(&g).program), "seed {seed}");
        steps += p.steps.len();
    }
    assert!(steps > 4000, "{steps} steps are too few to mean anything");
}
