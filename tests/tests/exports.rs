//! What leaves quantized arrives again: the digits network, exported and read back.

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions, export,
    ir::{Op, Tensor},
    parse_bits_and_scheme,
    quant::{SampleOptions, Samples, metrics::Noise},
};
use quernel_tests::{agree, fixture};

fn compiler(bits: &str, scheme: Option<&str>) -> Compiler {
    let calibration = Calibration::samples(fixture("digits_calib.npz"));
    Compiler { calibration, bits: parse_bits_and_scheme(bits, scheme).unwrap_or_else(|e| panic!("{e}")), ..Compiler::default() }
}

fn digits() -> Model {
    Model::read(&fixture("digits.onnx"), &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn compile(compiler: &Compiler, model: &Model) -> Compiled {
    compiler.compile(model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Exports, reads back and compiles without samples.
fn returned(compiler: &Compiler, fake: bool) -> (Model, Compiled) {
    let exported = export(compiler, &digits(), fake, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::from_bytes(exported.bytes, "returned.onnx", &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let compiled = compile(&Compiler::default(), &model);
    (model, compiled)
}

#[test]
fn an_export_compiles_to_the_same_integers() {
    for (bits, scheme) in [("8", None), ("4", None), ("2", None), ("4", Some("codebook")), ("4", Some("power-of-two"))] {
        let compiler = compiler(bits, scheme);
        let (model, second) = returned(&compiler, false);
        let first = compile(&compiler, &digits());
        let floats: Vec<&str> =
            second.layers.iter().filter(|l| matches!(l.kind, "conv" | "dense") && !l.integer).map(|l| &*l.name).collect();
        assert!(floats.is_empty(), "{bits} bits: {floats:?}");
        let samples =
            Samples::open_with(&fixture("digits_test.npz"), &model.inputs(), &SampleOptions::default()).unwrap_or_else(|e| panic!("{e:?}"));
        let mut noise = Noise::default();
        for i in 0..8 {
            let x = samples.get(i).unwrap_or_else(|e| panic!("{e}"));
            let numbers = |all: Vec<Tensor>| all[0].to_f32().expect("floats");
            noise.add(&numbers(agree(&first, &x)), &numbers(agree(&second, &x)));
        }
        // A residual joins the sum here, and there the rounded result: single steps.
        assert!(noise.db() >= 30.0, "{bits} bits, {scheme:?}: {:.1} dB", noise.db());
    }
}

#[test]
fn a_fake_quantized_export_rounds_float_weights() {
    let (model, _) = returned(&compiler("4", None), true);
    let graph = &model.imported.graph;
    let rounds = graph.order.iter().filter(|&&n| graph.nodes[n].op == Op::Quantize).count();
    assert!(rounds >= 6, "{rounds} roundings");
}

#[test]
fn nothing_is_exported_without_ranges() {
    let all = Compiler::default();
    for fake in [false, true] {
        let failure = export(&all, &digits(), fake, &mut |_| ()).expect_err("no samples");
        assert!(failure.0.iter().any(|d| d.message.contains("need ranges")), "{failure}");
    }
}
