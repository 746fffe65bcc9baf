//! What leaves quantized arrives again: the digits network, exported and read back.

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions, export,
    ir::{Code, Op, Tensor},
    parse_bits_and_scheme,
    quant::{SampleOptions, Samples, metrics::Noise},
};
use quernel_tests::{agree, fixture};
use std::{collections::BTreeMap, path::PathBuf};

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

/// Operators that stay floats between the layers, too: everything that can be exported means the same when it is read back.
#[test]
fn what_is_exported_of_the_fixtures_agrees_with_them() {
    let read = |folder| std::fs::read_dir(fixture(folder)).unwrap_or_else(|e| panic!("{e}"));
    let entries = ["features", "operators"].into_iter().flat_map(read);
    let mut files: Vec<PathBuf> = entries.map(|f| f.unwrap_or_else(|e| panic!("{e}")).path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    files.sort();
    let (mut wrong, mut agreed, mut refused) = (Vec::new(), 0, BTreeMap::new());
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let model = Model::read(&file, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let compiler = Compiler { calibration: Calibration::samples(file.with_extension("npz")), ..Compiler::default() };
        let exported = match export(&compiler, &model, false, &mut |_| ()) {
            Ok(exported) => exported,
            Err(why) => {
                assert!(why.0.iter().all(|d| d.code != Code::Internal), "{name}: {why}");
                refused.insert(name, why.to_string());
                continue;
            }
        };
        // A network without layers leaves in floats, and is one of floats again.
        let float = Compiler { bits: parse_bits_and_scheme("float", None).expect("a width"), ..Compiler::default() };
        let again = Model::from_bytes(exported.bytes, "returned.onnx", &ModelOptions::default()).and_then(|model| {
            let compiled = match Compiler::default().compile(&model, &mut |_| ()) {
                Err(f) if f.0.iter().any(|d| d.code == Code::NoSamples) => float.compile(&model, &mut |_| ()),
                other => other,
            };
            Ok((compiled?, model))
        });
        let (second, returned) = match again {
            Ok(both) => both,
            Err(why) => {
                wrong.push(format!("{name}: {why}"));
                continue;
            }
        };
        let samples = Samples::open_with(&file.with_extension("npz"), &returned.inputs(), &SampleOptions::default());
        let sample = samples.and_then(|s| s.get(0).map_err(|d| vec![d])).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let first = compile(&compiler, &model);
        let mut noise = Noise::default();
        for (a, b) in agree(&first, &sample).iter().zip(agree(&second, &sample)) {
            let numbers = |t: &Tensor| t.to_f64().expect("plain numbers").into_iter().map(|x| x as f32).collect::<Vec<_>>();
            noise.add(&numbers(a), &numbers(&b));
        }
        if noise.db() < 25.0 {
            wrong.push(format!("{name}: {:.1} dB", noise.db()));
        }
        agreed += 1;
    }
    assert!(wrong.is_empty(), "{agreed} agree, but\n{}", wrong.join("\n"));
    assert!(agreed >= 230, "only {agreed} are exported: {refused:#?}");
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
