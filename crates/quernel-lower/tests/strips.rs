//! Chains in strips of rows: the same bytes from less memory.

use quernel_interp::{run_graph, run_program, verify_program};
use quernel_ir::{
    Act, Elem, Graph, Multiplier, Op, Origin, Quant, Scheme, Stage, Storage, Tensor, TensorTy, Value, Window, WindowDim,
    program::{Base, Program, Slot, Step, What},
    verify,
};
use quernel_lower::{Lowered, Options, Strips, lower};
use quernel_test::Net;

fn lowered(g: &Graph, strips: Option<Strips>) -> Lowered {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}\n{g}"));
    let l = lower(&proof, &Options { strips, ..Options::default() }).unwrap_or_else(|d| panic!("{d:?}\n{g}"));
    verify_program(&l.program).unwrap_or_else(|f| panic!("{f:?}\n{g}\n{}", l.program));
    l
}

fn outputs(p: &Program, inputs: &[Tensor]) -> Vec<Vec<u8>> {
    run_program(p, &inputs.iter().map(Tensor::bytes).collect::<Vec<_>>()).unwrap_or_else(|d| panic!("{d:?}\n{p}"))
}

/// Number of random chains; `QUERNEL_LOWER_GRAPHS` asks for more.
fn chains() -> u64 {
    std::env::var("QUERNEL_LOWER_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

#[test]
fn random_chains_give_the_same_bytes_in_strips_of_any_height() {
    let (mut cut, mut long, mut kept) = (0, 0, 0);
    for seed in 0..chains() {
        let g = Net::chain(seed);
        let inputs = quernel_test::inputs(&g, seed);
        let whole = lowered(&g, None);
        let want = outputs(&whole.program, &inputs);
        let graph: Vec<Vec<u8>> = run_graph(&g, &inputs).unwrap().iter().map(|t| t.bytes().to_vec()).collect();
        assert_eq!(graph, want, "seed {seed}");
        for most in [0, 600, 1 << 20] {
            let l = lowered(&g, Some(Strips::forced(most)));
            assert!(outputs(&l.program, &inputs) == want, "seed {seed}, {most} bytes\n{g}\n{}", l.program);
            let steps = |l: &Lowered| l.program.steps.len();
            cut += usize::from(steps(&l) > steps(&whole));
            long += usize::from(steps(&l) > 4 * steps(&whole));
            let moves = |l: &Lowered| l.program.steps.iter().filter(|s| matches!(s.what, What::Move { .. })).count();
            kept += usize::from(moves(&l) > moves(&whole));
        }
    }
    println!("{cut} programs in strips, {long} in many, {kept} that keep rows");
    let many = chains() as usize / 3;
    assert!(cut > 2 * many && long > many / 4 && kept > many / 2, "{cut} {long} {kept}");
}

fn u8_type(scale: f32) -> Elem {
    Quant::per_tensor(Storage::U8, scale, 3).unwrap().into()
}

fn conv(g: &mut Graph, x: Value, dims: [usize; 4], groups: usize, stride: usize, residual: Option<Value>, name: &str) -> Value {
    let scales = vec![0.01; dims[0]].into();
    let q = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales }).unwrap();
    let count: usize = dims.iter().product();
    let w = g.constant(format!("{name}.w"), Tensor::from_ints(TensorTy::new(dims, q), (0..count as i64).map(|i| (i * 37) % 255 - 127)));
    let pad = dims[2] / 2;
    let window = Window { dims: vec![WindowDim { kernel: dims[2], stride, dilation: 1, before: pad, after: pad }; 2] };
    let op = Op::Conv { window, groups, act: Act::Relu, residual: residual.is_some(), multiplier: Multiplier::F64 };
    let args: Vec<Value> = [x, w].into_iter().chain(residual).collect();
    let out = quernel_ir::infer::dims(&op, &args.iter().map(|v| g.ty(*v)).collect::<Vec<_>>()).unwrap();
    // A residual is a whole number of units of the sum: 0.1 / (0.1 * 0.01).
    g.push(op, &args, TensorTy::new(out, u8_type(0.1)), Origin::new(name))
}

/// A block that widens its operand, filters each channel and narrows again.
fn block(g: &mut Graph, x: Value, (wide, narrow): (usize, usize), stride: usize, name: &str) -> Value {
    let c = g.ty(x).dims[1];
    let a = conv(g, x, [wide, c, 1, 1], 1, 1, None, &format!("{name}.a"));
    let b = conv(g, a, [wide, 1, 3, 3], wide, stride, None, &format!("{name}.b"));
    let residual = (stride == 1 && c == narrow).then_some(x);
    conv(g, b, [narrow, wide, 1, 1], 1, 1, residual, &format!("{name}.c"))
}

fn network(size: usize, channels: usize, blocks: &[((usize, usize), usize)]) -> Graph {
    let mut g = Graph::new("net");
    let dims = [1, channels, size, size];
    let x = g.input("x", TensorTy::f32(dims));
    let mut v = g.push(Op::Quantize, &[x], TensorTy::new(dims, u8_type(0.1)), Origin::new("q"));
    for (i, (widths, stride)) in blocks.iter().enumerate() {
        v = block(&mut g, v, *widths, *stride, &format!("b{i}"));
    }
    let y = g.push(Op::Dequantize, &[v], TensorTy::f32(g.ty(v).dims.clone()), Origin::new("dq"));
    g.output("y", y);
    g
}

/// One line per step: kind, layer, first byte and bytes of what it reads and writes, and rows of layers.
fn steps(p: &Program) -> Vec<String> {
    let slot = |slot: &Slot| if slot.base == Base::Arena { format!("{}:{}", slot.offset, slot.bytes) } else { "port".into() };
    let line = |s: &Step| {
        let mut parts = vec![s.what.name().to_owned(), s.origin.names().join("+")];
        parts.extend(s.reads.first().map(slot));
        parts.extend([">".into(), slot(&s.writes[0])]);
        if let What::Conv { conv, .. } = &s.what {
            let (x, y) = (conv.input, conv.output);
            parts.push(format!("{} rows at {} to {} at {}", x.h, x.start, y.h, y.start));
        }
        parts.join(" ")
    };
    p.steps.iter().map(line).collect()
}

#[test]
fn a_block_in_strips() {
    let g = network(8, 4, &[((16, 4), 1)]);
    let l = lowered(&g, Some(Strips::forced(1200)));
    // Margins of the buffer between a and b are filled once, its first row before the first strip and its last before the last.
    // Two rows of it stay from strip to strip; residuals and results move along.
    let expected = [
        "quantize q port > 0:256",
        "move b0.a 0:256 > 256:256",
        "fill b0.a > 512:640",
        "fill b0.a > 512:640",
        "fill b0.a > 512:640",
        "fill b0.a > 512:640",
        "conv b0.a 256:96 > 640:496 3 rows at 0 to 3 at 48",
        "conv b0.b 512:640 > 0:256 4 rows at 0 to 2 at 0",
        "conv b0.c 0:256 > 1152:64 2 rows at 0 to 2 at 0",
        "move b0.a 832:320 > 512:320",
        "conv b0.a 320:96 > 832:304 2 rows at 32 to 2 at 16",
        "conv b0.b 512:640 > 0:256 4 rows at 0 to 2 at 0",
        "conv b0.c 0:256 > 1216:64 2 rows at 0 to 2 at 0",
        "move b0.a 832:320 > 512:320",
        "conv b0.a 384:96 > 832:304 2 rows at 32 to 2 at 16",
        "conv b0.b 512:640 > 0:256 4 rows at 0 to 2 at 0",
        "conv b0.c 0:256 > 1280:64 2 rows at 0 to 2 at 0",
        "move b0.a 832:320 > 512:320",
        "fill b0.a > 512:640",
        "conv b0.a 448:64 > 832:144 1 rows at 32 to 1 at 16",
        "conv b0.b 512:640 > 0:256 4 rows at 0 to 2 at 0",
        "conv b0.c 0:256 > 1344:64 2 rows at 0 to 2 at 0",
        "dequantize dq 1152:256 > 0:1024",
        "move dq 0:1024 > port",
    ];
    assert_eq!(steps(&l.program), expected, "{}", steps(&l.program).join("\n"));
}

#[test]
fn large_blocks_take_the_memory_of_their_strips() {
    let g = network(64, 8, &[((96, 8), 1), ((96, 16), 2)]);
    let (whole, l) = (lowered(&g, None), lowered(&g, Options::default().strips));
    // Operands and results of the blocks are 32 KiB and less, what lies between them is 12 times as much.
    assert!(whole.program.arena_bytes > 780_000, "{}", whole.program.arena_bytes);
    assert!(l.program.arena_bytes < 240_000, "{}", l.program.arena_bytes);
    // No product is computed twice, and every layer has its own.
    assert_eq!(l.program.macs(), whole.program.macs());
    let macs = |l: &Lowered| l.layers.iter().map(|l| (l.name.clone(), l.macs)).collect::<Vec<_>>();
    assert_eq!(macs(&l), macs(&whole));
    let mut all: Vec<usize> = l.layers.iter().flat_map(|l| l.steps.iter().copied()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..l.program.steps.len()).collect::<Vec<_>>());
    for layer in l.layers.iter().filter(|l| l.macs > 0) {
        for i in &layer.steps {
            let names = l.program.steps[*i].origin.names();
            assert!(names.contains(&layer.name), "{names:?} in {}", layer.name);
        }
    }
    // Steps of one shape are the same step elsewhere.
    let mut kinds: Vec<&What> = Vec::new();
    for s in l.program.steps.iter().filter(|s| s.what.macs() > 0) {
        if !kinds.contains(&&s.what) {
            kinds.push(&s.what);
        }
    }
    let convs = l.program.steps.iter().filter(|s| s.what.macs() > 0).count();
    assert!(convs > 24 && kinds.len() <= 16, "{} kinds of {convs} steps", kinds.len());
}

#[test]
fn what_saves_nothing_stays_whole() {
    // Small tensors, and layers of many products whose operand and result are as large as what lies between.
    for g in [network(24, 8, &[((96, 8), 1)]), network(40, 160, &[((160, 160), 1)])] {
        let (whole, l) = (lowered(&g, None), lowered(&g, Options::default().strips));
        assert_eq!(whole.program.to_string(), l.program.to_string());
    }
}

#[test]
fn a_long_chain_is_several() {
    let mut g = Graph::new("net");
    let x = g.input("x", TensorTy::f32([1, 2, 12, 6]));
    let mut v = g.push(Op::Quantize, &[x], TensorTy::new([1, 2, 12, 6], u8_type(0.1)), Origin::new("q"));
    for i in 0..40 {
        v = conv(&mut g, v, [2, 2, 3, 3], 1, 1, None, &format!("c{i}"));
    }
    let y = g.push(Op::Dequantize, &[v], TensorTy::f32([1, 2, 12, 6]), Origin::new("dq"));
    g.output("y", y);
    let (whole, l) = (lowered(&g, None), lowered(&g, Some(Strips::forced(0))));
    let inputs = quernel_test::inputs(&g, 1);
    assert_eq!(outputs(&l.program, &inputs), outputs(&whole.program, &inputs));
    // Parts have 16, 16 and 8 layers, whose steps take turns.
    let first: Vec<usize> = (0..40).map(|i| l.layers.iter().find(|l| l.name == format!("c{i}")).unwrap().steps[0]).collect();
    let last = |i: usize| *l.layers.iter().find(|l| l.name == format!("c{i}")).unwrap().steps.last().unwrap();
    assert!(first[15] < last(0) && last(15) < first[16] && first[31] < last(16) && last(31) < first[32] && first[39] < last(32));
}
