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
    compiler.calibration = Calibration::Given(compiled.ranges.clone().expect("ranges"));
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
