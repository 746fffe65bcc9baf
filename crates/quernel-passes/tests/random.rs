//! Random graphs through the pipelines: folding keeps what they compute, and what quantization makes of them verifies,
//! lowers, and consists of operators that are their float form, rounded.
//!
//! `QUERNEL_PASSES_GRAPHS` asks for more graphs.

use quernel_interp::{run_graph, run_program};
use quernel_ir::{Graph, Op, Scalar, Stage, Tensor, text, verify};
use quernel_passes::{Cx, Pipeline, QuantizeOptions, by_name, fold_pipeline, quantize_pipeline};
use quernel_quant::{Width, metrics::Noise};
use quernel_test::{Net, Promise, check_integers, check_outputs, inputs, quantize_options};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

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

#[test]
fn folding_keeps_what_a_graph_computes() {
    each(0..graphs(1500), |seed| {
        let g = Net::imported(seed);
        let mut folded = g.clone();
        fold(&mut folded);
        check_outputs(&g, &folded, Promise::Close(1e-4));
    });
}

#[test]
fn quantized_graphs_verify_lower_and_round() {
    let (mut operators, mut layers, mut judged, mut worst) = (0, 0, 0, f64::INFINITY);
    let count = graphs(1500);
    each(0..count, |seed| {
        let mut g = Net::imported(seed);
        fold(&mut g);
        let float = g.clone();
        let options = quantize_options(seed, &g);
        quantize(&options, &mut g);
        let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}"));
        let program = quernel_lower::lower(&proof, &quernel_lower::Options::default()).unwrap_or_else(|d| panic!("{d:?}\n{g}")).program;
        let x = inputs(&g, seed);
        operators += check_integers(&g, &x);
        layers += g.order.iter().filter(|&&n| g.nodes[n].op.epilogue().is_some() && !g.ty(g.nodes[n].args[0]).elem.is_f32()).count();
        let bytes: Vec<&[u8]> = x.iter().map(Tensor::bytes).collect();
        let lowered = run_program(&program, &bytes).unwrap_or_else(|d| panic!("{d}"));
        assert!(outputs(&g, &x).iter().zip(&lowered).all(|(a, b)| a.bytes() == b), "graph and program differ\n{g}");
        // A cast to integers is a staircase: what noise before it becomes behind it has no bound.
        let staircase = float.order.iter().any(|&n| {
            let node = &float.nodes[n];
            node.op == Op::Cast
                && float.ty(node.args[0]).elem.is_f32()
                && float.ty(node.result()).elem.scalar().is_some_and(Scalar::is_integer)
        });
        if options.bits.default == Width::Int(8) && !options.integer_io && !staircase {
            judged += 1;
            let db = signal(&float, &g);
            assert!(db >= 20.0, "{db:.1} dB\n{float}\n{g}");
            worst = worst.min(db);
        }
    });
    println!("{operators} integer operators, {layers} of them layers; 8 bits keep {worst:.1} dB in {judged} networks");
    // A generator or a pipeline that stopped making integers would make this test say nothing about them.
    assert!(operators as u64 > 2 * count && layers as u64 > count && 8 * judged > count);
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
