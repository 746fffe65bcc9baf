//! Random graphs through the pipelines: folding keeps what they compute, and what quantization makes of them verifies,
//! lowers, and consists of operators that are their float form, rounded.
//!
//! `QUERNEL_PASSES_GRAPHS` asks for more graphs.

#[path = "../../quernel-lower/tests/support/mod.rs"]
mod support;

use quernel_interp::{run_graph, run_program};
use quernel_ir::{Binary, Elem, Graph, Op, ReduceKind, Stage, Tensor, Unary, Value, text, verify};
use quernel_passes::{Cx, Pipeline, QuantizeOptions, by_name, fold_pipeline, quantize_pipeline};
use quernel_quant::{Bits, Method, TableScheme, Width, metrics::Noise};
use quernel_test::{Promise, check_integers, check_outputs, inputs, ranges};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use support::Net;

fn graphs(default: u64) -> u64 {
    std::env::var("QUERNEL_PASSES_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Calls `check` with every seed; a failure names it.
fn each(seeds: std::ops::Range<u64>, mut check: impl FnMut(u64)) {
    for seed in seeds {
        catch_unwind(AssertUnwindSafe(|| check(seed))).unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            resume_unwind(panic)
        });
    }
}

/// Runs a pipeline. Every pass, run again where it just ran, finds nothing left to do.
fn run(pipeline: &Pipeline, options: &QuantizeOptions, g: &mut Graph) {
    let mut last = g.clone();
    let mut cx = Cx::default();
    for name in pipeline.names() {
        let pass = by_name(name, options).expect("a pass of the pipeline");
        pass.run(&mut last, &mut cx).unwrap_or_else(|d| panic!("{name}: {d}"));
        let once = text::print_full(&last);
        pass.run(&mut last, &mut cx).unwrap_or_else(|d| panic!("{name} again: {d}"));
        assert!(text::print_full(&last) == once, "{name} again makes\n{last}\nof\n{once}");
    }
    pipeline
        .run(g, &mut Cx::default(), &mut |_, _| ())
        .unwrap_or_else(|faults| panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")));
    assert!(text::print_full(g) == text::print_full(&last), "twice each, the passes make\n{last}\ninstead of\n{g}");
}

fn fold(g: &mut Graph) {
    run(&fold_pipeline(), &QuantizeOptions::default(), g);
}

fn quantize(options: &QuantizeOptions, g: &mut Graph) {
    run(&quantize_pipeline(options.clone()), options, g);
}

/// Floats of one sign, away from 0.
fn positive(net: &mut Net, dims: &[usize]) -> Value {
    let data: Vec<f32> = (0..dims.iter().product()).map(|_| net.rng.real(0.3, 2.0)).collect();
    net.g.constant("p", Tensor::f32(dims, &data))
}

/// A step that exporters make and folding takes away; `None` when the draw does not fit.
fn exported(net: &mut Net, pool: &[Value]) -> Option<Value> {
    let x = if net.rng.chance(3) { net.rng.pick(pool) } else { *pool.last()? };
    let dims = net.dims(x);
    let rank = dims.len();
    // A constant per channel of images and of rows, or for all.
    let per_channel: Vec<usize> = match net.rng.below(3) {
        0 => vec![],
        _ if rank > 2 => [&[dims[1]][..], &vec![1; rank - 2]].concat(),
        _ if rank > 0 => vec![dims[rank - 1]],
        _ => vec![],
    };
    Some(match net.rng.below(12) {
        0 | 1 if rank > 1 => {
            let c = dims[1];
            let (scale, offset, mean, variance) = (net.floats(&[c]), net.floats(&[c]), net.floats(&[c]), positive(net, &[c]));
            net.op(Op::BatchNorm { epsilon: 1e-3 }, &[x, scale, offset, mean, variance], Elem::F32)
        }
        2..=4 => {
            let c = positive(net, &per_channel);
            let f = net.rng.pick(&[Binary::Mul, Binary::Add, Binary::Sub, Binary::Div, Binary::Min, Binary::Max]);
            let args = if f != Binary::Div && net.rng.chance(3) { [c, x] } else { [x, c] };
            net.op(Op::Binary(f), &args, Elem::F32)
        }
        5 if rank > 0 && dims[rank - 1] < 200 => {
            let width = 1 + net.rng.below(12);
            let w = net.floats(&[dims[rank - 1], width]);
            // As the transpose of a constant, or as the constant.
            let w = if net.rng.chance(2) {
                let turned = net.op(Op::Transpose { perm: vec![1, 0] }, &[w], Elem::F32);
                net.op(Op::Transpose { perm: vec![1, 0] }, &[turned], Elem::F32)
            } else {
                w
            };
            net.op(Op::MatMul, &[x, w], Elem::F32)
        }
        6 => net.op(Op::Unary(Unary::Relu), &[x], Elem::F32),
        7 => {
            let (lo, hi) = net.rng.pick(&[(0.0, 6.0), (-1.0, 1.5), (f32::NEG_INFINITY, 2.0), (0.0, f32::INFINITY)]);
            net.op(Op::Unary(Unary::Clip { lo, hi }), &[x], Elem::F32)
        }
        8 | 9 => {
            let same: Vec<Value> = pool.iter().copied().filter(|&v| v != x && net.dims(v) == dims).collect();
            if same.is_empty() {
                return None;
            }
            let other = net.rng.pick(&same);
            net.op(Op::Binary(Binary::Add), &[x, other], Elem::F32)
        }
        10 if rank > 1 => {
            let c = net.floats(&dims);
            let args = if net.rng.chance(2) { [x, c] } else { [c, x] };
            net.op(Op::Concat { axis: 1 }, &args, Elem::F32)
        }
        11 if rank > 2 => {
            let keep = net.rng.chance(2);
            net.op(Op::Reduce { kind: ReduceKind::Mean, axes: (2..rank).collect(), keep }, &[x], Elem::F32)
        }
        _ => return None,
    })
    .filter(|&y| net.g.ty(y).count() <= 8000)
}

/// A random float graph as a file would say it.
fn imported(seed: u64) -> Graph {
    let mut net = Net::new(seed);
    let ops = 3 + net.rng.below(14);
    let mut pool = Vec::new();
    for i in 0..1 + net.rng.below(2) {
        let mut dims = vec![1 + net.rng.below(2), 1 + net.rng.below(6)];
        dims.extend((0..net.rng.below(3)).map(|_| 3 + net.rng.below(5)));
        pool.push(net.g.input(format!("x{i}"), quernel_ir::TensorTy::f32(dims)));
    }
    for _ in 0..20 * ops {
        if pool.len() > ops {
            break;
        }
        let made = if net.rng.chance(2) { net.step(&pool) } else { exported(&mut net, &pool) };
        pool.extend(made.filter(|&v| net.g.ty(v).elem.is_f32()));
    }
    let outputs: Vec<Value> = (0..1 + net.rng.below(3)).map(|i| if i == 0 { pool[pool.len() - 1] } else { net.rng.pick(&pool) }).collect();
    for (i, v) in outputs.into_iter().enumerate() {
        net.g.output(format!("y{i}"), v);
    }
    for (i, v) in pool.into_iter().enumerate() {
        if net.g.producer(v).is_some() && !net.rng.chance(40) {
            net.g.values[v].name = format!("v{i}");
        }
    }
    net.g
}

fn options(seed: u64, folded: &Graph) -> QuantizeOptions {
    let code = |scheme| Width::Code(scheme, 3);
    let widths = [
        Width::Int(8),
        Width::Int(8),
        Width::Int(4),
        Width::Int(2),
        Width::Int(6),
        Width::Float,
        code(TableScheme::Codebook),
        Width::Code(TableScheme::Ternary, 2),
        code(TableScheme::PowerOfTwo),
        Width::Code(TableScheme::Binary, 1),
        code(TableScheme::Normal),
    ];
    let width = widths[(seed % 11) as usize];
    QuantizeOptions {
        ranges: Some(ranges(folded)),
        calibrator: if seed.is_multiple_of(2) { Method::Mse } else { Method::MinMax }.into(),
        activations: quernel_passes::Activations::Static,
        bits: Bits::uniform(width),
        bias_correct: seed % 5 != 1,
        integer_io: seed % 7 == 3,
    }
}

#[test]
fn folding_keeps_what_a_graph_computes() {
    each(0..graphs(1500), |seed| {
        let g = imported(seed);
        let mut folded = g.clone();
        fold(&mut folded);
        check_outputs(&g, &folded, Promise::Close(1e-4));
    });
}

#[test]
fn quantized_graphs_verify_lower_and_round() {
    let (mut operators, mut layers, mut worst) = (0, 0, f64::INFINITY);
    let count = graphs(1500);
    each(0..count, |seed| {
        let mut g = imported(seed);
        fold(&mut g);
        let float = g.clone();
        let options = options(seed, &g);
        quantize(&options, &mut g);
        let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}"));
        let program = quernel_lower::lower(&proof, &quernel_lower::Options::default()).unwrap_or_else(|d| panic!("{d:?}\n{g}")).program;
        let x = inputs(&g, seed);
        operators += check_integers(&g, &x);
        layers += g.order.iter().filter(|&&n| g.nodes[n].op.epilogue().is_some() && !g.ty(g.nodes[n].args[0]).elem.is_f32()).count();
        let bytes: Vec<&[u8]> = x.iter().map(Tensor::bytes).collect();
        let lowered = run_program(&program, &bytes).unwrap_or_else(|d| panic!("{d}"));
        assert!(outputs(&g, &x).iter().zip(&lowered).all(|(a, b)| a.bytes() == b), "graph and program differ\n{g}");
        if options.bits.default == Width::Int(8) && !options.integer_io {
            let db = signal(&float, &g);
            assert!(db >= 20.0, "{db:.1} dB\n{float}\n{g}");
            worst = worst.min(db);
        }
    });
    println!("{operators} integer operators, {layers} of them layers; 8 bits keep {worst:.1} dB");
    // A generator or a pipeline that stopped making integers would make this test say nothing about them.
    assert!(operators as u64 > 2 * count && layers as u64 > count);
}

/// Signal to noise in dB on the inputs the ranges were observed on.
fn signal(float: &Graph, rounded: &Graph) -> f64 {
    let mut noise = Noise::default();
    for seed in 0..4 {
        let x = inputs(float, seed);
        for (want, got) in outputs(float, &x).iter().zip(&outputs(rounded, &x)) {
            noise.add(&want.to_f32().unwrap_or_default(), &got.to_f32().unwrap_or_default());
        }
    }
    noise.db()
}

fn outputs(g: &Graph, x: &[Tensor]) -> Vec<Tensor> {
    run_graph(g, x).unwrap_or_else(|d| panic!("{d}\n{g}"))
}

#[test]
fn quantized_graphs_stay_what_they_are() {
    each(0..graphs(1000), |seed| {
        let g = Net::random(seed, 6 + (seed % 14) as usize);
        let mut after = g.clone();
        fold(&mut after);
        check_outputs(&g, &after, Promise::Close(1e-4));
        quantize(&QuantizeOptions::default(), &mut after);
        check_integers(&after, &inputs(&after, seed));
    });
}
