//! Models that arrive quantized: `fixtures/quantized` and those of `fixtures/operators`, without samples, at every kernel
//! level of this machine.
//!
//! * Layers and products compute in integers, except in models called `float_`, and where zero points of two operands are dynamic.
//! * Outputs are within one step of the expected ones; those that are no roundings are equal up to float rounding.
//! * Compiled code equals the interpreter of the program, which equals the interpreter of the graph.

use quernel::{
    Compiler, Model, ModelOptions,
    ir::{Graph, Op, Value},
    quant::{SampleOptions, Samples, expected_outputs},
};
use quernel_tests::agree;
use std::path::Path;

/// Share of elements that may be a step off: sums between two steps, and functions of them.
const MOST_OFF: f64 = 0.1;

/// The distance between neighbouring values of an output, looking through moves.
fn step(g: &Graph, mut v: Value) -> Option<f32> {
    loop {
        let node = &g.nodes[g.producer(v)?];
        if node.op == Op::Dequantize {
            return g.ty(node.args[0]).elem.quant()?.tensor_params().map(|p| p.0);
        }
        v = if node.op.moves_only() { node.args[0] } else { return None };
    }
}

fn arrives(path: &Path) -> datatest_stable::Result<()> {
    let model = Model::read(path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let file = path.with_extension("npz");
    let samples = Samples::open_with(&file, &model.inputs(), &SampleOptions::default()).unwrap_or_else(|e| panic!("{e:?}"));
    let compiled = Compiler::default().compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    assert!(compiled.remarks.iter().any(|r| r.message.contains("arrives quantized")), "{:?}", compiled.remarks);
    let floats = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("float_"));
    let dynamic = path.file_stem().is_some_and(|n| n == "dynamic_product");
    for layer in compiled.layers.iter().filter(|l| matches!(l.kind, "conv" | "dense" | "matmul")) {
        assert!(layer.integer || floats || dynamic, "{} stays float", layer.name);
    }
    let (mut off, mut count) = (0usize, 0usize);
    for i in 0..samples.len() {
        let got = agree(&compiled, &samples.get(i).unwrap_or_else(|e| panic!("{e}")));
        for ((name, v), tensor) in compiled.graph.outputs.iter().zip(got) {
            let want = expected_outputs(&file, name).expect("the output is in the file");
            // Bytes that leave the graph are compared as they are.
            let (got, step) = match tensor.to_ints() {
                Some(ints) => (ints.into_iter().map(|q| q as f32).collect(), Some(1.0)),
                None => (tensor.to_f32().expect("numbers"), step(&compiled.graph, *v)),
            };
            let want = &want[i * got.len()..(i + 1) * got.len()];
            let largest = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let (equal, allowed) = (1e-5 * largest, step.map_or(if floats { 0.01 } else { 1e-5 } * largest, |s| 1.001 * s));
            for (a, b) in got.iter().zip(want) {
                assert!((a - b).abs() <= allowed, "sample {i}, output {name}: {a} instead of {b}");
                off += usize::from((a - b).abs() > equal);
            }
            count += got.len();
        }
    }
    // Scales like 0.03 and 0.04 make ties of every fourth value; how they fall is no one's business.
    let ties = ["ms_add", "qdq_flatten"].iter().any(|n| path.file_stem().is_some_and(|s| s.to_string_lossy() == **n));
    assert!(floats || ties || off as f64 <= MOST_OFF * count as f64, "{off} of {count} elements are a step off");
    Ok(())
}

datatest_stable::harness! {
    { test = arrives, root = "../fixtures/quantized", pattern = r"\.onnx$" },
    { test = arrives, root = "../fixtures/operators", pattern = r"(^|/)(qdq|qlinear|integer|dynamic)_[a-z0-9_]*\.onnx$" },
}
