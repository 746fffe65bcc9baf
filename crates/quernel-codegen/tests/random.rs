//! Whole random programs: compiled code gives the interpreter's bytes for every kind of step, on every level.

mod common;
#[path = "../../quernel-lower/tests/support/mod.rs"]
mod support;

use common::differences;
use quernel_ir::{
    Stage,
    program::{Program, What},
    verify,
};
use quernel_lower::{Options, lower};
use std::collections::BTreeMap;

/// Number of random graphs; `QUERNEL_CASES` asks for more, `QUERNEL_FIRST` starts elsewhere.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The program of a random graph, and bytes for its inputs.
fn program(seed: u64, ops: usize) -> (Program, Vec<Vec<u8>>) {
    let g = support::Net::random(seed, ops);
    let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
    let lowered = lower(&proof, &Options { in_place: seed % 3 != 0 }).unwrap_or_else(|d| panic!("seed {seed}: {d:?}"));
    let inputs = support::inputs(&g, seed).iter().map(|t| t.bytes().to_vec()).collect();
    (lowered.program, inputs)
}

#[test]
fn random_programs_of_every_step() {
    let (first, count) = (setting("QUERNEL_FIRST", 0), setting("QUERNEL_CASES", 300));
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for seed in first..first + count {
        let (program, inputs) = program(seed, 8 + seed as usize % 16);
        for step in &program.steps {
            *seen.entry(step.what.name()).or_default() += 1;
            if let What::Conv { conv, .. } | What::ConvFloat { conv, .. } = &step.what
                && conv.residual.is_some()
            {
                *seen.entry("residual").or_default() += 1;
            }
        }
        if let Some(difference) = differences(&program, &inputs) {
            wrong.push(format!("seed {seed}: {difference}"));
            if wrong.len() >= 20 {
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let kinds = [
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
        "reduce_f32",
        "softmax_f32",
        "softmax",
        "move",
        "fill",
        "residual",
    ];
    for kind in kinds {
        assert!(count < 300 || seen.get(kind).is_some_and(|n| *n >= 20), "{kind} in {seen:?}");
    }
    println!("{seen:?}");
}
