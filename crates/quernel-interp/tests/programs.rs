//! Every kind of step against its graph operator, and the faults of wrong programs.

mod common;

use common::{Rng, per_tensor, u8_ty};
use quernel_interp::{eval_node, run_program, run_program_with, verify_program};
use quernel_ir::{
    Binary, Comparison, Elem, Multiplier, Op, PoolKind, Program, Quant, ReduceKind, Scalar, Tensor, TensorTy, Unary, Window, WindowDim,
    exact,
    graph::Origin,
    program::{ALIGN, Base, ByteProduct, ByteQuant, Conv, End, Image, Port, READ_SLACK, Slot, Step, Strided, Strides, WeightLayout, What},
};

fn byte_quant(q: &Quant) -> ByteQuant {
    let (scale, zero) = q.tensor_params().expect("per tensor");
    ByteQuant { signed: q.storage().signed(), scale, zero, lo: q.min(), hi: q.max() }
}

/// A program that reads its inputs whole, then constants, and writes its output whole.
fn program(what: What, inputs: &[&Tensor], constants: Vec<Vec<u8>>, output: TensorTy) -> Program {
    let mut p = Program { name: "p".into(), arena_bytes: ALIGN, ..Program::default() };
    let mut reads = vec![];
    for (i, t) in inputs.iter().enumerate() {
        p.inputs.push(Port { name: format!("x{i}"), ty: t.ty.clone() });
        reads.push(Slot { base: Base::Input(i as u32), offset: 0, bytes: t.ty.bytes() });
    }
    for (i, c) in constants.into_iter().enumerate() {
        reads.push(p.blob(format!("c{i}"), c));
    }
    let writes = vec![Slot { base: Base::Output(0), offset: 0, bytes: output.bytes() }];
    p.outputs.push(Port { name: "y".into(), ty: output });
    p.steps.push(Step { what, how: "any".into(), reads, writes, origin: Origin::default() });
    p
}

#[track_caller]
fn agree(op: Op, what: What, inputs: &[&Tensor], constants: Vec<Vec<u8>>, output: TensorTy) {
    let want = eval_node(&op, inputs, &output).expect("the graph runs");
    let p = program(what, inputs, constants, output);
    verify_program(&p).expect("sound");
    let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.bytes()).collect();
    assert_eq!(run_program(&p, &bytes).expect("the program runs")[0], want.bytes(), "{op:?}");
}

fn strided(dims: &[usize], steps: &[&[isize]]) -> Strided {
    Strided { dims: dims.to_vec(), operands: steps.iter().map(|s| Strides { start: 0, steps: s.to_vec() }).collect() }
}

#[test]
fn steps_on_plain_numbers() {
    let mut rng = Rng(6);
    let over = || strided(&[2, 3, 4], &[&[12, 4, 1], &[0, 1, 0], &[12, 4, 1]]);
    for s in Scalar::ALL {
        let cast = |t: &Tensor| eval_node(&Op::Cast, &[t], &t.ty.with_elem(s)).expect("casts");
        let ten = Tensor::f32([], &[10.0]);
        let (fa, fb) = (rng.floats(&[2, 3, 4]), rng.floats(&[3, 1]));
        let tenfold = |t: &Tensor| eval_node(&Op::Binary(Binary::Mul), &[t, &ten], &t.ty).expect("multiplies");
        let (a, b) = (cast(&tenfold(&fa)), cast(&tenfold(&fb)));
        for to in Scalar::ALL.into_iter().filter(|to| *to != s) {
            agree(Op::Cast, What::Cast { from: s, to, count: 24 }, &[&a], vec![], a.ty.with_elem(to));
        }
        let takes = |op: &Op, result: &TensorTy| quernel_ir::verify::elements(op, &[&a.ty, &b.ty], result).is_ok();
        for op in Binary::ALL.into_iter().filter(|op| s != Scalar::F32 && takes(&Op::Binary(*op), &a.ty)) {
            agree(Op::Binary(op), What::BinaryPlain { op, scalar: s, over: over() }, &[&a, &b], vec![], a.ty.clone());
        }
        let bools = a.ty.with_elem(Scalar::Bool);
        for op in Comparison::ALL.into_iter().filter(|op| takes(&Op::Compare(*op), &bools)) {
            agree(Op::Compare(op), What::Compare { op, scalar: s, over: over() }, &[&a, &b], vec![], bools.clone());
        }
        let c = Tensor::from_ints(TensorTy::new([4], Scalar::Bool), [1, 0, 0, 1]);
        let over = strided(&[2, 3, 4], &[&[0, 0, 1], &[12, 4, 1], &[0, 1, 0], &[12, 4, 1]]);
        agree(Op::Select, What::Select { width: s.bytes(), over }, &[&c, &a, &b], vec![], a.ty.clone());
    }
}

#[test]
fn element_wise_steps() {
    let mut rng = Rng(5);
    let (qa, qb, qy) = (per_tensor(8, true, 0.03, -7), per_tensor(8, false, 0.02, 99), per_tensor(8, false, 0.05, 13));
    let (a, b) = (rng.quantized(&[2, 3, 4], &qa), rng.quantized(&[3, 1], &qb));
    let (fa, fb) = (rng.floats(&[2, 3, 4]), rng.floats(&[3, 1]));
    let f32s = || TensorTy::f32([2, 3, 4]);
    let bytes = || TensorTy::new([2, 3, 4], qy.clone());
    agree(Op::Quantize, What::Quantize { count: 24, to: byte_quant(&qy), width: 1 }, &[&fa], vec![], bytes());
    agree(Op::Dequantize, What::Dequantize { count: 24, from: byte_quant(&qa), width: 1 }, &[&a], vec![], f32s());
    for signed in [false, true] {
        let qw = per_tensor(16, signed, 0.000_7, 1234);
        let w = rng.quantized(&[2, 3, 4], &qw);
        let to = TensorTy::new([2, 3, 4], qw.clone());
        agree(Op::Quantize, What::Quantize { count: 24, to: byte_quant(&qw), width: 2 }, &[&fa], vec![], to);
        agree(Op::Dequantize, What::Dequantize { count: 24, from: byte_quant(&qw), width: 2 }, &[&w], vec![], f32s());
    }
    let over = || strided(&[2, 3, 4], &[&[12, 4, 1], &[0, 1, 0], &[12, 4, 1]]);
    for op in Binary::ALL.into_iter().filter(|op| !op.bitwise()) {
        let what = What::BinaryBytes { op, over: over(), a: byte_quant(&qa), b: byte_quant(&qb), to: byte_quant(&qy) };
        agree(Op::Binary(op), what, &[&a, &b], vec![], bytes());
        let what = What::BinaryFloat { op, over: over(), lo: f32::NEG_INFINITY, hi: f32::INFINITY };
        agree(Op::Binary(op), what, &[&fa, &fb], vec![], f32s());
    }
    for f in [Unary::Gelu, Unary::LeakyRelu { alpha: 0.1 }, Unary::Log, Unary::Tanh, Unary::Reciprocal] {
        agree(Op::Unary(f), What::UnaryFloat { op: f, count: 24 }, &[&fa], vec![], f32s());
        let entry = |v| exact::unary_entry(f, v, qa.tensor_params().expect("a"), qy.tensor_params().expect("y"), 0, 255);
        agree(Op::Unary(f), What::Lookup { count: 24 }, &[&a], vec![exact::byte_table(true, entry).to_vec()], bytes());
    }
    let entry = |v| exact::requantize_entry(v, qa.tensor_params().expect("a"), qy.tensor_params().expect("y"), 0, 255);
    agree(Op::Requantize, What::Lookup { count: 24 }, &[&a], vec![exact::byte_table(true, entry).to_vec()], bytes());
}

#[test]
fn pooling_steps() {
    let mut rng = Rng(6);
    // Channels last with one channel is ONNX's layout.
    let q = per_tensor(8, true, 0.03, -7);
    let other = per_tensor(8, false, 0.05, 100);
    for _ in 0..200 {
        let (h, w) = (1 + rng.below(7), 1 + rng.below(7));
        let mut dim = || WindowDim {
            kernel: 1 + rng.below(3),
            stride: 1 + rng.below(2),
            dilation: 1 + rng.below(2),
            before: rng.below(2),
            after: rng.below(2),
        };
        let dims = [dim(), dim()];
        let (Some(oh), Some(ow)) = (dims[0].outputs(h), dims[1].outputs(w)) else { continue };
        let (input, output) = (Image::dense(2, h, w, 1), Image::dense(2, oh, ow, 1));
        let (x, f) = (rng.quantized(&[2, 1, h, w], &q), rng.floats(&[2, 1, h, w]));
        for kind in [PoolKind::Max, PoolKind::Average { include_pad: false }, PoolKind::Average { include_pad: true }] {
            let op = Op::Pool { kind, window: Window { dims: dims.to_vec() } };
            if dims.iter().any(|d| d.before >= d.span()) {
                continue;
            }
            agree(op.clone(), What::PoolFloat { kind, input, output, window: dims }, &[&f], vec![], TensorTy::f32([2, 1, oh, ow]));
            for to in [&q, &other] {
                if kind == PoolKind::Max && to == &other {
                    continue;
                }
                let what = What::Pool { kind, input, output, window: dims, from: byte_quant(&q), to: byte_quant(to) };
                agree(op.clone(), what, &[&x], vec![], TensorTy::new([2, 1, oh, ow], to.clone()));
            }
        }
    }
}

#[test]
fn steps_along_an_axis() {
    let mut rng = Rng(7);
    let f = rng.floats(&[3, 37, 2]);
    for kind in ReduceKind::ALL {
        let what = What::ReduceFloat { kind, outer: 3, len: 37, inner: 2 };
        agree(Op::Reduce { kind, axes: vec![1], keep: false }, what, &[&f], vec![], TensorTy::f32([3, 2]));
    }
    for log in [false, true] {
        let what = What::SoftmaxFloat { outer: 3, len: 37, inner: 2, log };
        agree(Op::Softmax { axis: 1, log }, what, &[&f], vec![], f.ty.clone());
    }
    for (bits, signed) in [(8, true), (8, false), (5, false)] {
        let q = per_tensor(bits, signed, 0.11, 3);
        let x = rng.quantized(&[3, 37, 2], &q);
        let table: Vec<u8> = exact::softmax_table(0.11).iter().flat_map(|e| e.to_le_bytes()).collect();
        let to = per_tensor(8, false, 1.0 / 256.0, 0);
        let step = |to| What::SoftmaxBytes { outer: 3, len: 37, inner: 2, from: byte_quant(&q), to };
        let op = Op::Softmax { axis: 1, log: false };
        agree(op.clone(), step(Some(byte_quant(&to))), &[&x], vec![table.clone()], TensorTy::new([3, 37, 2], to));
        agree(op, step(None), &[&x], vec![table], TensorTy::f32([3, 37, 2]));
    }
    let (a, b) = (rng.floats(&[2, 3, 5]), rng.floats(&[5, 4]));
    let what = What::MatMulFloat { batch: 2, m: 3, k: 5, n: 4, a_batch: 15, b_batch: 0 };
    agree(Op::MatMul { multiplier: Multiplier::F64 }, what, &[&a, &b], vec![], TensorTy::f32([2, 3, 4]));
}

#[test]
fn moving_steps() {
    let mut rng = Rng(8);
    for (width, elem) in [(1, u8_ty(&[1], 1.0, 0).elem), (2, per_tensor(16, true, 1.0, 0).into()), (4, Elem::F32), (8, Elem::I64)] {
        let x = Tensor::new(TensorTy::new([2, 3, 4], elem.clone()), (0..24 * width).map(|_| rng.next() as u8).collect::<Vec<u8>>())
            .expect("sized");
        let what = What::Move { width, over: strided(&[4, 2, 3], &[&[1, 12, 4], &[6, 3, 1]]) };
        agree(Op::Transpose { perm: vec![2, 0, 1] }, what, &[&x], vec![], TensorTy::new([4, 2, 3], elem));
    }
    // A border of zero points, then the interior.
    let x = common::u8s(&[2, 2], 1.0, 9, &[1, 2, 3, 4]);
    let want = eval_node(&Op::Pad { before: vec![1, 0], after: vec![0, 1], value: 0.0 }, &[&x], &u8_ty(&[3, 3], 1.0, 9)).expect("runs");
    let mut over = strided(&[2, 2], &[&[2, 1], &[3, 1]]);
    over.operands[1].start = 3;
    let mut p = program(What::Move { width: 1, over }, &[&x], vec![], want.ty.clone());
    let writes = p.steps[0].writes.clone();
    let fill = What::Fill { width: 1, over: strided(&[9], &[&[1]]), bits: 9 };
    p.steps.insert(0, Step { what: fill, how: String::new(), reads: vec![], writes, origin: Origin::default() });
    verify_program(&p).expect("sound");
    let mut seen = vec![];
    let y = run_program_with(&p, &[x.bytes()], &mut |i, b| seen.push((i, b.to_vec()))).expect("runs");
    assert_eq!(y[0], want.bytes());
    assert_eq!(seen, [(0, vec![9; 9]), (1, want.bytes().to_vec())]);
}

/// `conv 1x1, 2 to 2 channels` into the arena, then a table in place, then a copy to the output.
fn chain() -> Program {
    let ty = |c| u8_ty(&[1, c, 1, 3], 1.0, 0);
    let mut p = Program { name: "chain".into(), arena_bytes: 2 * ALIGN + READ_SLACK, ..Program::default() };
    p.inputs.push(Port { name: "x".into(), ty: ty(2) });
    p.outputs.push(Port { name: "y".into(), ty: ty(2) });
    let image = Image::dense(1, 1, 3, 2);
    let layout = WeightLayout::Panels { contiguous: true, depth: 4 };
    let conv = Conv { input: image, output: image, window: [WindowDim::new(1); 2], groups: 1, layout, residual: None };
    let mut w = vec![0u8; layout.len(conv.weight_dims())];
    for (o, i, v) in [(0, 0, 1u8), (0, 1, 2), (1, 0, 255), (1, 1, 3)] {
        w[layout.index(conv.weight_dims(), o, 0, 0, i)] = v;
    }
    let blobs = [
        p.blob("w", w),
        p.blob("b", vec![0; 64]),
        p.blob("s", 1f32.to_le_bytes().repeat(16)),
        p.blob("t", (0..=255u8).map(|b| b ^ 1).collect::<Vec<u8>>()),
    ];
    let slot = |base, offset| Slot { base, offset, bytes: 6 };
    let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let what = What::Conv { conv, zero: 0, signed: false, residual_signed: false, end };
    let mut step =
        |what, reads, write| p.steps.push(Step { what, how: String::new(), reads, writes: vec![write], origin: Origin::default() });
    let arena = slot(Base::Arena, ALIGN);
    step(what, vec![slot(Base::Input(0), 0), blobs[0], blobs[1], blobs[2]], arena);
    step(What::Lookup { count: 6 }, vec![arena, blobs[3]], arena);
    step(What::Move { width: 1, over: strided(&[6], &[&[1], &[1]]) }, vec![arena], slot(Base::Output(0), 0));
    p
}

#[test]
fn a_chain_of_steps() {
    let p = chain();
    verify_program(&p).expect("sound");
    let y = run_program(&p, &[&[1, 2, 3, 4, 5, 6]]).expect("runs");
    assert_eq!(y, [[5 ^ 1, 5 ^ 1, 11 ^ 1, 9 ^ 1, 17 ^ 1, 13 ^ 1]]);
    assert!(run_program(&p, &[&[1, 2, 3]]).is_err());
    assert!(run_program(&p, &[]).is_err());
}

/// What is wrong, and one word of the message that must say so.
type Fault = (&'static str, fn(&mut Program), &'static str);

#[test]
fn every_fault_is_found() {
    let faults: &[Fault] = &[
        ("a slot past the arena", |p| p.steps[0].writes[0].offset = 8 * ALIGN, "outside"),
        ("no slack", |p| p.arena_bytes -= ALIGN, "past its end"),
        ("an overflowing slot", |p| p.steps[0].writes[0].offset = usize::MAX - ALIGN + 1, "outside"),
        ("a misaligned slot", |p| p.steps[0].writes[0].offset = ALIGN + 4, "aligned"),
        ("an arena of odd size", |p| p.arena_bytes += 1, "multiple"),
        ("an arena without end", |p| p.arena_bytes = usize::MAX / ALIGN * ALIGN, "multiple"),
        ("a write to an input", |p| p.steps[2].writes[0].base = Base::Input(0), "writes to"),
        ("a write to a constant", |p| p.steps[1].writes[0] = p.steps[1].reads[1], "writes to"),
        ("an unknown port", |p| p.steps[0].reads[0].base = Base::Input(7), "no such memory"),
        ("a view beyond its slot", |p| p.steps[1].what = What::Lookup { count: 7 }, "leaves the slot"),
        ("a missing operand", |p| p.steps[0].reads.truncate(3), "reads"),
        ("a short bias", |p| p.steps[0].reads[2].bytes = 60, "slot"),
        ("weights with a tail", |p| p.steps[0].reads[1] = p.steps[1].reads[1], "packed"),
        ("a read of nothing", |p| drop(p.steps.remove(0)), "nothing wrote"),
        ("an output left open", |p| p.steps.truncate(2), "never written"),
        ("an element written twice", |p| p.steps[2].what = What::Move { width: 1, over: strided(&[6], &[&[1], &[0]]) }, "more than once"),
        ("an endless loop", |p| p.steps[2].what = What::Move { width: 1, over: strided(&[usize::MAX], &[&[0], &[0]]) }, "more than once"),
        ("a shifted in-place step", |p| p.steps[2].writes[0] = p.steps[2].reads[0], "overwrites"),
        ("elements of 3 bytes", |p| p.steps[2].what = What::Move { width: 3, over: strided(&[2], &[&[1], &[1]]) }, "3 bytes"),
        ("a missing operand of a walk", |p| p.steps[2].what = What::Move { width: 1, over: strided(&[6], &[&[1]]) }, "strides"),
        ("a zero point outside a byte", |p| conv(p, |_, zero, _| *zero = 256), "zero point"),
        ("reversed bounds", |p| conv(p, |_, _, end| *end = End::Requantize { zero: 0, lo: 9, hi: 8, signed: false }), "reversed"),
        ("bounds that are not numbers", |p| conv(p, |_, _, end| *end = End::Float { lo: f32::NAN, hi: 1.0 }), "interval"),
        ("groups that do not divide", |p| conv(p, |c, _, _| c.groups = 3), "groups"),
        ("a window without taps", |p| conv(p, |c, _, _| c.window[0].kernel = 0), "out of range"),
        ("too many results", |p| conv(p, |c, _, _| c.window[1].kernel = 2), "results of a window"),
        ("an image without columns", |p| conv(p, |c, _, _| c.input.pixel = 0), "coincide"),
        ("an empty image", |p| conv(p, |c, _, _| c.output.c = 0), "groups"),
        ("a depthwise packing of a full convolution", |p| conv(p, |c, _, _| c.layout = WeightLayout::Depthwise), "does not fit"),
        ("a residual that is not there", |p| conv(p, |c, _, _| c.residual = Some(c.output)), "instead of"),
        ("a residual of other extents", |p| conv(p, |c, _, _| c.residual = Some(Image::dense(1, 1, 1, 2))), "extents"),
    ];
    for (name, break_it, word) in faults {
        let mut p = chain();
        break_it(&mut p);
        let found = verify_program(&p).expect_err(name);
        assert!(found.iter().any(|f| f.contains(word)), "{name}: {found:?}");
    }
}

fn conv(p: &mut Program, change: fn(&mut Conv, &mut i32, &mut End)) {
    if let What::Conv { conv, zero, end, .. } = &mut p.steps[0].what {
        change(conv, zero, end);
    }
}

#[test]
fn interleaved_writes_do_not_overlap() {
    // The second convolution of a dense block: reads channel 0 of a buffer, writes channel 1.
    let mut p = Program { name: "block".into(), arena_bytes: ALIGN + READ_SLACK, ..Program::default() };
    p.inputs.push(Port { name: "x".into(), ty: u8_ty(&[3], 1.0, 0) });
    p.outputs.push(Port { name: "y".into(), ty: u8_ty(&[6], 1.0, 0) });
    let slot = |base, bytes| Slot { base, offset: 0, bytes };
    let walk = |from: isize, start: usize, to: isize| {
        let mut over = strided(&[3], &[&[from], &[to]]);
        over.operands[1].start = start;
        What::Move { width: 1, over }
    };
    let steps = [
        (walk(1, 0, 2), slot(Base::Input(0), 3), slot(Base::Arena, 6)),
        (walk(2, 1, 2), slot(Base::Arena, 6), slot(Base::Arena, 6)),
        (What::Move { width: 1, over: strided(&[6], &[&[1], &[1]]) }, slot(Base::Arena, 6), slot(Base::Output(0), 6)),
    ];
    for (what, read, write) in steps {
        p.steps.push(Step { what, how: String::new(), reads: vec![read], writes: vec![write], origin: Origin::default() });
    }
    verify_program(&p).expect("sound");
    assert_eq!(run_program(&p, &[&[1, 2, 3]]).expect("runs"), [[1, 1, 2, 2, 3, 3]]);
    p.steps[1].what = walk(2, 2, 1);
    assert!(verify_program(&p).expect_err("overlaps").iter().any(|f| f.contains("overwrites")));
    // Without the first step channel 0 is unwritten; without the second, channel 1.
    p.steps.remove(1);
    assert!(verify_program(&p).expect_err("unwritten").iter().any(|f| f.contains("byte 1")));
}

#[test]
fn no_program_makes_it_panic() {
    let mut rng = Rng(9);
    let numbers = [0, 1, 2, 3, 6, 7, 16, 64, 1 << 20, 1 << 31, 1 << 62, usize::MAX / 2, usize::MAX - 63, usize::MAX];
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..50_000 {
        let mut p = chain();
        for _ in 0..1 + rng.below(3) {
            mutate(&mut p, &mut rng, &numbers);
        }
        // Alarming sizes are refused by the verifier, so nothing here can take long or much memory.
        let verified = verify_program(&p).is_ok();
        let bytes = p.inputs[0].ty.dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n < 1 << 16).unwrap_or(6);
        let outcome = run_program(&p, &[&vec![7; bytes]]);
        assert!(!verified || outcome.is_ok() || bytes != p.inputs[0].ty.bytes(), "verified but refused");
        if outcome.is_ok() { ran += 1 } else { refused += 1 }
    }
    assert!(ran > 1000 && refused > 1000, "{ran} ran, {refused} were refused");
}

fn mutate(p: &mut Program, rng: &mut Rng, numbers: &[usize]) {
    let n = rng.pick(numbers);
    let step = rng.below(p.steps.len());
    if rng.below(4) == 0 {
        p.steps[step].what = other_step(rng, numbers);
        return;
    }
    let bases =
        [Base::Arena, Base::Input(0), Base::Output(0), Base::Input(n as u32), p.steps[step].reads.last().map_or(Base::Arena, |s| s.base)];
    let base = rng.pick(&bases);
    let operand = rng.below(p.steps[step].reads.len().max(1));
    match rng.below(9) {
        0 => p.steps[step].writes[0].offset = n,
        1 => p.steps[step].writes[0].bytes = n,
        2 => p.steps[step].writes[0].base = base,
        3 => p.steps[step].reads[operand].bytes = n,
        4 => p.steps[step].reads[operand].offset = n,
        5 => p.steps[step].reads[operand].base = base,
        6 => p.arena_bytes = rng.pick(&[0, 64, 192, 1 << 16]),
        7 => p.outputs[0].ty.dims[rng.below(4)] = rng.pick(&[0, 1, 2, 3, 1 << 40, usize::MAX]),
        _ => {
            if let What::Conv { conv, .. } = &mut p.steps[step].what {
                let image = if rng.coin() { &mut conv.input } else { &mut conv.output };
                let fields = [
                    &mut image.n,
                    &mut image.h,
                    &mut image.w,
                    &mut image.c,
                    &mut image.start,
                    &mut image.batch,
                    &mut image.row,
                    &mut image.pixel,
                ];
                let [w0, w1] = &mut conv.window;
                let window = if rng.coin() { w0 } else { w1 };
                let more =
                    [&mut window.kernel, &mut window.stride, &mut window.dilation, &mut window.before, &mut window.after, &mut conv.groups];
                let which = rng.below(14);
                if let Some(field) = fields.into_iter().chain(more).nth(which) {
                    *field = n;
                }
            }
        }
    }
}

/// A step with wild numbers in it; slots stay those of the chain.
fn other_step(rng: &mut Rng, numbers: &[usize]) -> What {
    let mut n = || rng.pick(numbers);
    let [a, b, c, d, e, f] = [n(), n(), n(), n(), n(), n()];
    let quant = ByteQuant { signed: false, scale: 1.0, zero: 0, lo: 0, hi: 255 };
    let image = Image { n: 1, h: a, w: b, c: 2, start: 0, batch: c, row: d, pixel: e };
    let window = [WindowDim { kernel: f, stride: 1, dilation: a, before: b, after: c }; 2];
    let over = Strided { dims: vec![a, b], operands: vec![Strides { start: c, steps: vec![d as isize, e as isize] }; 3] };
    let four = Strided { operands: vec![over.operands[0].clone(); 4], ..over.clone() };
    match rng.below(19) {
        0 => What::Quantize { count: a, to: quant, width: b },
        1 => What::Dequantize { count: a, from: quant, width: c },
        2 => What::Pool { kind: PoolKind::Max, input: image, output: Image::dense(1, 1, 3, 2), window, from: quant, to: quant },
        3 => What::PoolFloat { kind: PoolKind::Average { include_pad: true }, input: image, output: image, window },
        4 => What::Lookup { count: a },
        5 => What::UnaryFloat { op: Unary::Exp, count: a },
        6 => What::BinaryBytes { op: Binary::Div, over, a: quant, b: quant, to: quant },
        7 => What::MatMulFloat { batch: a, m: b, k: c, n: d, a_batch: e, b_batch: f },
        8 => What::ReduceFloat { kind: ReduceKind::Sum, outer: a, len: b, inner: c },
        9 => What::SoftmaxFloat { outer: a, len: b, inner: c, log: true },
        10 => What::SoftmaxBytes { outer: a, len: b, inner: c, from: quant, to: None },
        11 => What::Move { width: 1 << (a % 5), over },
        12 => What::Select { width: 1 << (a % 5), over: four },
        17 => What::PackPanels { over, center: a as i32 & 0xff, rest: vec![1; b % 3], left: 0, signed: false },
        18 => {
            let end = End::Float { lo: 0.0, hi: 1.0 };
            let product = ByteProduct { m: a, k: b, n: c, segments: d, rows: [e, f], over };
            What::MatMulBytes { product, signed: false, end, largest: 1 }
        }
        13 => What::Cast { from: Scalar::U8, to: Scalar::F16, count: a },
        14 => What::BinaryPlain { op: Binary::Div, scalar: Scalar::I32, over },
        15 => What::Compare { op: Comparison::Less, scalar: Scalar::I8, over },
        _ => What::Fill { width: 1, over, bits: 3 },
    }
}

#[test]
fn unwritten_memory_is_not_zero() {
    let mut p = chain();
    p.steps.remove(0);
    // The verifier objects; executed anyway, the poison shows.
    assert!(verify_program(&p).is_err());
    let y = run_program(&p, &[&[0; 6]]).expect("statically sound");
    assert_eq!(y, [[0xa5 ^ 1; 6]]);
}

#[test]
fn a_residual_may_be_overwritten_in_place() {
    let image = Image::dense(1, 1, 3, 1);
    let conv =
        Conv { input: image, output: image, window: [WindowDim::new(1); 2], groups: 1, layout: WeightLayout::Plain, residual: Some(image) };
    let mut p = Program { name: "sum".into(), arena_bytes: ALIGN + READ_SLACK, ..Program::default() };
    let ty = u8_ty(&[1, 1, 1, 3], 1.0, 0);
    p.inputs.push(Port { name: "x".into(), ty: ty.clone() });
    p.outputs.push(Port { name: "y".into(), ty });
    let constants = [
        p.blob("w", vec![2u8]),
        p.blob("b", vec![0; 64]),
        p.blob("s", 1f32.to_le_bytes().repeat(16)),
        p.blob("f", 3i16.to_le_bytes().repeat(16)),
    ];
    let slot = |base| Slot { base, offset: 0, bytes: 3 };
    let step = |what, reads, write| Step { what, how: String::new(), reads, writes: vec![write], origin: Origin::default() };
    let copy = || What::Move { width: 1, over: strided(&[3], &[&[1], &[1]]) };
    p.steps.push(step(copy(), vec![slot(Base::Input(0))], slot(Base::Arena)));
    let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let what = What::Conv { conv, zero: 0, signed: false, residual_signed: false, end };
    let reads = vec![slot(Base::Input(0)), constants[0], constants[1], constants[2], slot(Base::Arena), constants[3]];
    p.steps.push(step(what, reads, slot(Base::Arena)));
    p.steps.push(step(copy(), vec![slot(Base::Arena)], slot(Base::Output(0))));
    verify_program(&p).expect("sound");
    assert_eq!(run_program(&p, &[&[1, 20, 60]]).expect("runs"), [[5, 100, 255]]);
    // The operand itself must not be overwritten.
    p.steps[1].reads[0] = slot(Base::Arena);
    p.steps[1].reads[4] = slot(Base::Input(0));
    assert!(verify_program(&p).is_err());
}
