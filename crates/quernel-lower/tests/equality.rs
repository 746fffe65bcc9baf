//! A lowered program computes the bytes of its graph, floats included.

use quernel_interp::{run_graph, run_program, verify_program};
use quernel_ir::{Graph, Stage, program::What, verify};
use quernel_lower::{Options, Strips, lower};
use quernel_test::Net;
use std::collections::BTreeMap;

/// Counts of what was compared: step kinds, details of them, and outputs that are not all one value.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    fn note(&mut self, what: &What) {
        let mut add = |name| *self.0.entry(name).or_default() += 1;
        add(what.name());
        if let What::Conv { conv, .. } | What::ConvFloat { conv, .. } = what {
            let k = quernel_kernels::choose(what).name;
            add(k);
            if conv.residual.is_some() {
                add(if matches!(what, What::Conv { .. }) { "integer residual" } else { "float residual" });
            }
            if conv.input.row > conv.input.w * conv.input.pixel || conv.input.pixel > conv.input.c {
                add("operand with margin or among others");
            }
            if conv.output.row > conv.output.w * conv.output.pixel || conv.output.pixel > conv.output.c {
                add("result with margin or among others");
            }
        }
    }
}

fn check(g: &Graph, seed: u64, seen: &mut Seen) {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
    let inputs = quernel_test::inputs(g, seed);
    let want = run_graph(g, &inputs).unwrap_or_else(|d| panic!("seed {seed}: {d:?}"));
    for in_place in [true, false] {
        // In strips as well: these graphs are too small for it to pay.
        let strips = if in_place { None } else { Some(Strips::forced(512)) };
        let program = lower(&proof, &Options { in_place, strips }).unwrap_or_else(|d| panic!("seed {seed}: {d:?}")).program;
        verify_program(&program).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
        program.steps.iter().for_each(|s| seen.note(&s.what));
        let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.bytes()).collect();
        let got = run_program(&program, &bytes).unwrap_or_else(|d| panic!("seed {seed}: {d:?}"));
        assert_eq!(want.len(), got.len());
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            assert_eq!(want.bytes().len(), got.len());
            let first = want.bytes().iter().zip(got).position(|(a, b)| a != b);
            if let Some(at) = first {
                let steps: Vec<String> =
                    program.steps.iter().map(|s| format!("{} {:?} <- {:?}", s.what.name(), s.writes, s.reads)).collect();
                panic!("seed {seed}, in place {in_place}: output {i} differs from byte {at}\n{g:?}\n{}", steps.join("\n"));
            }
            let width = want.ty.elem.bytes();
            if got.chunks(width).any(|c| c != &got[..width]) {
                *seen.0.entry("outputs that vary").or_default() += 1;
            }
        }
    }
}

/// Number of random graphs; `QUERNEL_LOWER_GRAPHS` asks for more.
fn graphs(default: u64) -> u64 {
    std::env::var("QUERNEL_LOWER_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn random_graphs_of_every_operator() {
    let mut seen = Seen::default();
    let count = graphs(1500);
    for seed in 0..count {
        check(&Net::random(seed, 8 + (seed as usize % 16)), seed, &mut seen);
    }
    // A generator that stopped making some operator would make this test say nothing about it.
    let everything = [
        "quantize",
        "dequantize",
        "conv",
        "conv_f32",
        "pool",
        "pool_f32",
        "lookup",
        "unary_f32",
        "binary",
        "binary_f32",
        "matmul_f32",
        "pack_panels",
        "matmul",
        "reduce_f32",
        "softmax_f32",
        "softmax",
        "move",
        "fill",
        "conv_u8s8_panels",
        "conv_u8s8_depthwise",
        "conv_u8s8_plain",
        "conv_f32_panels",
        "conv_f32_depthwise",
        "conv_f32_plain",
        "integer residual",
        "float residual",
        "operand with margin or among others",
        "result with margin or among others",
    ];
    for name in everything {
        assert!(seen.0.get(name).is_some_and(|n| *n >= 20), "{name} in {:?}", seen.0);
    }
    assert!(seen.0["outputs that vary"] > count as usize, "{:?}", seen.0);
    println!("{:?}", seen.0);
}

#[test]
fn long_random_graphs() {
    let mut seen = Seen::default();
    for seed in 10_000..10_000 + graphs(100) {
        check(&Net::random(seed, 60), seed, &mut seen);
    }
    println!("{:?}", seen.0);
}
