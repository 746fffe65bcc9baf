//! Every model of `fixtures/features`, `fixtures/operators`, `fixtures/composites` and `fixtures/kinds`, float and int8, at every kernel level of this
//! machine.
//!
//! * float: the outputs agree with the expected ones of the ONNX reference (1e-4 relative to the largest);
//! * float and int8: compiled code equals the interpreter of the program, which equals the interpreter of the graph;
//! * int8, from samples and dynamic: the outputs carry the expected signal.

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions,
    ir::Tensor,
    passes::Activations,
    quant::{Bits, SampleOptions, Samples, Width, expected_outputs},
};
use quernel_tests::agree;
use std::path::Path;

/// Noise an 8-bit network of one or two layers may add. Ill-conditioned single-feature models stay above it by far.
const LEAST_SQNR_DB: f64 = 20.0;

fn model(path: &Path) -> Model {
    Model::read(path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn samples(path: &Path, model: &Model) -> Samples {
    Samples::open_with(&path.with_extension("npz"), &model.inputs(), &SampleOptions::default()).unwrap_or_else(|e| panic!("{e:?}"))
}

/// The compilation, once code could be generated.
fn generated(compiled: Compiled) -> Result<Compiled, quernel::Failure> {
    compiled.jit().map(|_| compiled)
}

/// The numbers of an output of any plain type.
fn numbers(t: &Tensor) -> Vec<f32> {
    t.to_f64().expect("plain numbers").into_iter().map(|x| x as f32).collect()
}

fn float(path: &Path) -> datatest_stable::Result<()> {
    let model = model(path);
    let samples = samples(path, &model);
    let compiled = Compiler { bits: Bits::uniform(Width::Float), ..Compiler::default() }.compile(&model, &mut |_| ()).and_then(generated);
    let compiled = compiled.unwrap_or_else(|e| panic!("{e}"));
    for i in 0..samples.len() {
        let got = agree(&compiled, &samples.get(i).unwrap_or_else(|e| panic!("{e}")));
        for ((name, _), tensor) in model.imported.graph.outputs.iter().zip(got) {
            let want = expected_outputs(&path.with_extension("npz"), name).expect("the output is in the file");
            let got = numbers(&tensor);
            let want = &want[i * got.len()..(i + 1) * got.len()];
            let largest = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            for (a, b) in got.iter().zip(want) {
                assert!((a - b).abs() <= 1e-4 * largest, "sample {i}, output {name}: {a} instead of {b}");
            }
        }
    }
    Ok(())
}

fn int8(path: &Path) -> datatest_stable::Result<()> {
    let calibration = Calibration::Samples(path.with_extension("npz"), SampleOptions::default());
    integers(path, &Compiler { calibration, ..Compiler::default() })
}

fn dynamic(path: &Path) -> datatest_stable::Result<()> {
    integers(path, &Compiler { activations: Activations::DynamicRows, ..Compiler::default() })
}

fn integers(path: &Path, compiler: &Compiler) -> datatest_stable::Result<()> {
    let model = model(path);
    let samples = samples(path, &model);
    let compiled = compiler.compile(&model, &mut |_| ()).and_then(generated);
    let compiled = compiled.unwrap_or_else(|e| panic!("{e}"));
    let (mut signal, mut noise) = (0f64, 0f64);
    for i in 0..samples.len() {
        let got = agree(&compiled, &samples.get(i).unwrap_or_else(|e| panic!("{e}")));
        for ((name, _), tensor) in model.imported.graph.outputs.iter().zip(got) {
            let want = expected_outputs(&path.with_extension("npz"), name).expect("the output is in the file");
            let got = numbers(&tensor);
            for (a, b) in got.iter().zip(&want[i * got.len()..]) {
                signal += f64::from(*b) * f64::from(*b);
                noise += (f64::from(*a) - f64::from(*b)).powi(2);
            }
        }
    }
    let sqnr = 10.0 * (signal / noise.max(1e-30)).log10();
    assert!(sqnr >= LEAST_SQNR_DB, "output SQNR {sqnr:.1} dB");
    Ok(())
}

datatest_stable::harness! {
    { test = float, root = "../fixtures/features", pattern = r"\.onnx$" },
    { test = int8, root = "../fixtures/features", pattern = r"\.onnx$" },
    { test = float, root = "../fixtures/operators", pattern = r"\.onnx$" },
    { test = int8, root = "../fixtures/operators", pattern = r"\.onnx$" },
    { test = dynamic, root = "../fixtures/features", pattern = r"\.onnx$" },
    { test = dynamic, root = "../fixtures/operators", pattern = r"\.onnx$" },
    { test = float, root = "../fixtures/composites", pattern = r"\.onnx$" },
    { test = int8, root = "../fixtures/composites", pattern = r"\.onnx$" },
    { test = float, root = "../fixtures/kinds", pattern = r"\.onnx$" },
    { test = int8, root = "../fixtures/kinds", pattern = r"\.onnx$" },
}
