//! Real models and data, sampled. `QUERNEL_MODELS` names their folder; without it the tests say so and pass.

use quernel::{
    Calibration, Compiler, Model, ModelOptions, check_against_interpreter,
    codegen::Level,
    evaluate,
    quant::{Layout, SampleOptions, Samples, Transform},
};
use quernel_tests::real_model;
use std::{ops::Range, path::PathBuf};

struct Case {
    model: PathBuf,
    input: &'static str,
    calibration: (PathBuf, Range<usize>),
    test: (PathBuf, Range<usize>),
    transform: Transform,
}

fn check(case: &Case, least_top1: f64, most_drop: f64) {
    let options = |rows: &Range<usize>| SampleOptions {
        rename: [(case.input.to_owned(), "x".to_owned())].into(),
        rows: Some(rows.clone()),
        transform: case.transform.clone(),
        ..SampleOptions::default()
    };
    let model = Model::read(&case.model, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let samples = Samples::open_with(&case.test.0, &model.inputs(), &options(&case.test.1)).unwrap_or_else(|e| panic!("{e:?}"));
    let calibration = Calibration::Samples(case.calibration.0.clone(), options(&case.calibration.1));
    let mut compiler = Compiler { calibration, ..Compiler::default() };
    let compiled = compiler.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let e = evaluate(&model, &compiled, &samples, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let (float, int8) = (e.float_top1.expect("labels"), e.compiled_top1.expect("labels"));
    eprintln!("{}: float {float:.2} %, int8 {int8:.2} %, SQNR {:.1} dB on {} samples", case.model.display(), e.sqnr_db, e.samples);
    assert!(int8 >= least_top1 && float - int8 <= most_drop, "int8 {int8:.2} %, float {float:.2} %");
    // Levels share the ranges, so that only the code differs.
    let source = Box::new(compiler.calibration.clone());
    compiler.calibration = Calibration::Given { ranges: compiled.ranges.clone().expect("ranges"), source };
    for level in Level::host() {
        compiler.level = Some(level);
        let compiled = compiler.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        check_against_interpreter(&compiled, &samples.slice(0..samples.len().min(10)), &mut |_| ())
            .unwrap_or_else(|e| panic!("level {}: {e}", level.name()));
    }
}

#[test]
fn mnist() {
    let (Some(model), Some(train), Some(test)) =
        (real_model("mnist/mnist_cntk_op8.onnx"), real_model("mnist/mnist_train_20000.npz"), real_model("mnist/mnist_test_5000.npz"))
    else {
        return;
    };
    let case = Case { model, input: "Input3", calibration: (train, 0..256), test: (test, 0..500), transform: Transform::default() };
    check(&case, 97.0, 0.5);
}

#[test]
fn resnet8() {
    let (Some(model), Some(data)) = (real_model("cifar10_resnet8/ic_resnet8_fp32.onnx"), real_model("cifar10_resnet8/cifar10_4000.npz"))
    else {
        return;
    };
    let transform = Transform { layout: Some(Layout::ChannelsLast), ..Transform::default() };
    let case = Case { model, input: "input_1", calibration: (data.clone(), 0..64), test: (data, 1000..1300), transform };
    check(&case, 90.0, 1.5);
}

#[test]
fn keyword_spotting() {
    let (Some(model), Some(data)) = (real_model("kws_dscnn/kws_dscnn_float.onnx"), real_model("kws_dscnn/kws_500.npz")) else { return };
    let transform = Transform { subtract: 83.0, multiply: 0.584_702_9, layout: None };
    let case = Case { model, input: "input_1", calibration: (data.clone(), 0..100), test: (data, 100..500), transform };
    check(&case, 89.0, 1.0);
}

/// Layers with constant weights that did not become integer code.
fn float_layers(compiled: &quernel::Compiled) -> Vec<String> {
    compiled.layers.iter().filter(|l| matches!(l.kind, "conv" | "dense") && !l.integer).map(|l| l.name.clone()).collect()
}

/// A model that arrives quantized: nothing is measured, nothing stays float, and the answers are those of a float engine
/// that runs the file as it is written.
fn check_quantized(name: &str, data: &str, rows: Range<usize>, input: &str, transform: Transform, least_top1: f64) {
    let (Some(path), Some(data)) = (real_model(name), real_model(data)) else { return };
    let options =
        SampleOptions { rename: [(input.to_owned(), "x".to_owned())].into(), rows: Some(rows), transform, ..SampleOptions::default() };
    let model = Model::read(&path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let samples = Samples::open_with(&data, &model.inputs(), &options).unwrap_or_else(|e| panic!("{e:?}"));
    let compiled = Compiler::default().compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let floats = float_layers(&compiled);
    assert!(floats.is_empty(), "{floats:?}");
    let e = evaluate(&model, &compiled, &samples, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let top1 = e.compiled_top1.expect("labels");
    eprintln!("{name}: {top1:.2} %, same answer {:.2} %, SQNR {:.1} dB on {} samples", e.agreement, e.sqnr_db, e.samples);
    assert!(top1 >= least_top1 && e.agreement >= 99.0 && e.sqnr_db >= 40.0, "{top1:.2} %, {:.2} %, {:.1} dB", e.agreement, e.sqnr_db);
    check_against_interpreter(&compiled, &samples.slice(0..samples.len().min(10)), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn resnet8_arrives_quantized() {
    let name = "cifar10_resnet8/ic_resnet8_qdq_int8.onnx";
    check_quantized(name, "cifar10_resnet8/cifar10_4000.npz", 1000..1300, "input_1", Transform::default(), 91.0);
}

#[test]
fn keyword_spotting_arrives_quantized() {
    let transform = Transform { subtract: 83.0, multiply: 0.584_702_9, layout: None };
    check_quantized("kws_dscnn/kws_dscnn_qdq_int8.onnx", "kws_dscnn/kws_500.npz", 0..500, "input_1", transform, 90.0);
}

#[test]
fn files_that_arrive_quantized() {
    let folder = "micro_kws/micro_kws_m_";
    let variants = ["qdq", "static_qdq", "static_qoperator", "qoperator_add_shape", "qoperator_avg_pool", "qoperator_softmax"];
    let others = ["ad_autoencoder/ad_autoencoder_qdq_int8.onnx", "vww_mobilenet/vww_mobilenetv1_025_qdq_int8.onnx"];
    for name in variants.iter().map(|v| format!("{folder}{v}.onnx")).chain(others.map(String::from)) {
        let Some(path) = real_model(&name) else { continue };
        let model = Model::read(&path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let compiled = Compiler::default().compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let floats = float_layers(&compiled);
        assert!(floats.is_empty(), "{name}: {floats:?}");
        let samples = Samples::random(&model.inputs(), 3);
        check_against_interpreter(&compiled, &samples, &mut |_| ()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
