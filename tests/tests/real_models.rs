//! Real models and data, sampled. `QUERNEL_MODELS` names their folder; without it the tests say so and pass.

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions, check_against_interpreter,
    codegen::Level,
    encode_for, evaluate,
    float::FloatModel,
    interp,
    ir::Tensor,
    outputs,
    quant::{Bits, Layout, SampleOptions, Samples, Transform, Width, metrics, to_npz},
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
fn float_layers(compiled: &Compiled) -> Vec<String> {
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

/// Where inputs of a float file come from.
enum Data {
    /// Rows of array `x` of a file; array `y` of the other file holds the outputs of one.
    Rows(&'static str, Range<usize>, Transform, Option<&'static str>),
    /// Made up: smooth pictures and sounds from 0 to that number, bytes where the input takes bytes.
    Made(f32),
    /// Drawn faces of several sizes.
    Faces,
}

/// A float file of the folder.
struct FloatFile {
    file: &'static str,
    /// Extents of symbolic dimensions.
    dims: &'static [(&'static str, usize)],
    data: Data,
}

const PLAIN: Transform = Transform { subtract: 0.0, multiply: 1.0, layout: None };
const IMAGES_LAST: Transform = Transform { layout: Some(Layout::ChannelsLast), ..PLAIN };

const FLOAT_FILES: [FloatFile; 11] = [
    FloatFile { file: "mnist/mnist_cntk_op8.onnx", dims: &[], data: Data::Rows("mnist/mnist_test_5000.npz", 0..16, PLAIN, None) },
    FloatFile {
        file: "cifar10_resnet8/ic_resnet8_fp32.onnx",
        dims: &[],
        data: Data::Rows("cifar10_resnet8/cifar10_4000.npz", 0..16, IMAGES_LAST, None),
    },
    FloatFile {
        file: "kws_dscnn/kws_dscnn_float.onnx",
        dims: &[],
        data: Data::Rows("kws_dscnn/kws_500.npz", 0..16, Transform { subtract: 83.0, multiply: 0.584_702_9, layout: None }, None),
    },
    FloatFile {
        file: "conv1d_autoencoder/conv1d_autoencoder.onnx",
        dims: &[],
        data: Data::Rows("conv1d_autoencoder/inputs.npz", 0..1, PLAIN, Some("conv1d_autoencoder/outputs.npz")),
    },
    FloatFile {
        file: "vit/cct2_opset20.onnx",
        dims: &[],
        data: Data::Rows("vit/cct2_opset20_inputs.npz", 0..1, PLAIN, Some("vit/cct2_opset20_outputs.npz")),
    },
    FloatFile {
        file: "vit/tinyvit.onnx",
        dims: &[],
        data: Data::Rows("vit/tinyvit_inputs.npz", 0..1, PLAIN, Some("vit/tinyvit_outputs.npz")),
    },
    FloatFile { file: "vww_mobilenet/vww_mobilenetv1_025_fp32.onnx", dims: &[], data: Data::Made(1.0) },
    FloatFile { file: "micro_kws/micro_kws_m_static_fp32.onnx", dims: &[], data: Data::Made(1.0) },
    FloatFile { file: "fastvit/fastvit_like_food101_192.onnx", dims: &[], data: Data::Made(1.0) },
    FloatFile { file: "yunet/yunet_n_320_320.onnx", dims: &[], data: Data::Faces },
    FloatFile { file: "lstm/byte_sb_bidi_lstm.onnx", dims: &[("batch", 1), ("length", 32)], data: Data::Made(1.0) },
];

/// Samples of an input that change slowly along its axes, as pictures do, with a little noise.
fn made(model: &Model, largest: f32, count: usize) -> Vec<Vec<Tensor>> {
    let noise = Samples::random(&model.inputs(), count);
    let smooth = |x: &Tensor, seed: usize| {
        let Some(data) = x.to_f32() else { return x.clone() };
        let width = x.ty.dims.last().copied().unwrap_or(1);
        let value = |(i, n): (usize, &f32)| {
            let (row, column) = ((i / width) as f32, (i % width) as f32);
            let wave = (column * 0.11 + seed as f32).sin() + (row * 0.07 + 1.7 * seed as f32).cos() + 0.2 * n;
            (wave / 4.0 + 0.5).clamp(0.0, 1.0) * largest
        };
        Tensor::f32(x.ty.dims.clone(), &data.iter().enumerate().map(value).collect::<Vec<_>>())
    };
    (0..count).map(|i| noise.get(i).expect("a sample").iter().map(|x| smooth(x, i)).collect()).collect()
}

/// A face in front of a wall, 320 by 320 pixels, blue, green and red from 0 to 255; good enough for detectors of faces.
fn face(size: f32) -> Tensor {
    let skin = [150.0, 180.0, 220.0];
    let (white, iris, brow) = ([235.0; 3], [40.0, 30.0, 25.0], [50.0, 50.0, 60.0]);
    // Center and half axes in sizes, colour.
    let mut ellipses = vec![([0.0, -0.25, 0.95, 1.15], [30.0, 30.0, 40.0]), ([0.0, 0.05, 0.75, 1.0], skin)];
    for x in [-0.3, 0.3] {
        ellipses.extend([([x, -0.15, 0.17, 0.09], white), ([x, -0.15, 0.08, 0.09], iris), ([x, -0.36, 0.2, 0.05], brow)]);
    }
    ellipses.push(([0.0, 0.12, 0.1, 0.22], skin.map(|c| c * 0.88)));
    ellipses.extend([-0.07, 0.07].map(|x| ([x, 0.27, 0.04, 0.03], [70.0, 80.0, 110.0])));
    ellipses.extend([([0.0, 0.52, 0.28, 0.08], [90.0, 80.0, 170.0]), ([0.0, 0.52, 0.26, 0.02], [50.0, 40.0, 90.0])]);
    let pixel = |channel: usize, i: usize| {
        let (x, y) = ((i % 320) as f32, (i / 320) as f32);
        let wall = 90.0 + 10.0 * (x / 17.0 + y / 23.0).sin();
        ellipses.iter().fold(wall, |below, ([dx, dy, a, b], colour)| {
            let (u, v) = ((x - 160.0 - dx * size) / (a * size), (y - 160.0 - dy * size) / (b * size));
            let cover = 1.0 / (1.0 + ((u * u + v * v - 1.0) / 0.15).exp());
            below * (1.0 - cover) + colour[channel] * cover
        })
    };
    let data: Vec<f32> = (0..3 * 320 * 320).map(|i| pixel(i / (320 * 320), i % (320 * 320))).collect();
    Tensor::f32([1, 3, 320, 320], &data)
}

/// Outputs of compiled code as real numbers, with their names.
fn run(compiled: &Compiled, inputs: &[Tensor]) -> Vec<(String, Vec<f32>)> {
    let program = compiled.program().unwrap_or_else(|e| panic!("{e}"));
    let stored = encode_for(program, inputs).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<&[u8]> = stored.iter().map(Tensor::bytes).collect();
    let got = compiled.jit().and_then(|mut jit| Ok(jit.run(&bytes)?)).unwrap_or_else(|e| panic!("{e}"));
    let all = outputs(program, got).unwrap_or_else(|e| panic!("{e}"));
    all.into_iter().map(|(name, t)| (name, t.to_f32().expect("an f32 output"))).collect()
}

/// In float every output is that beside the file, or that of the float engine; in integers it carries 20 dB.
fn check_float_file(f: &FloatFile) {
    let Some(path) = real_model(f.file) else { return };
    let dims = f.dims.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    let model = Model::read(&path, &ModelOptions { dims, ..ModelOptions::default() }).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = model.imported.graph.outputs.iter().map(|(name, _)| name.as_str()).collect();
    let mut beside = None;
    let samples: Vec<Vec<Tensor>> = match &f.data {
        Data::Made(largest) => made(&model, *largest, 4),
        Data::Faces => [30.0, 50.0, 80.0, 110.0].map(|size| vec![face(size)]).to_vec(),
        Data::Rows(file, rows, transform, expected) => {
            let Some(file) = real_model(file) else { return };
            let array = |x: &str| [(model.inputs()[0].name.clone(), x.to_owned())].into();
            let options =
                SampleOptions { rename: array("x"), rows: Some(rows.clone()), transform: transform.clone(), ..SampleOptions::default() };
            let all = Samples::open_with(&file, &model.inputs(), &options).unwrap_or_else(|e| panic!("{e:?}"));
            beside = expected.and_then(real_model).map(|path| quernel::quant::array(&path, "y").expect("array y"));
            (0..all.len()).map(|i| all.get(i).unwrap_or_else(|e| panic!("{e}"))).collect()
        }
    };
    let engine = FloatModel::load(&model.bytes, &model.dims, &model.pins).unwrap_or_else(|e| panic!("{e}"));
    let float = Compiler { bits: Bits::uniform(Width::Float), ..Compiler::default() };
    let float = float.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{}: {e}", f.file));
    // Largest value and largest difference of every output.
    let mut extremes = vec![(0f32, 0f32); names.len()];
    let mut wanted = Vec::new();
    for inputs in &samples {
        let want: Vec<Vec<f32>> = match &beside {
            Some(y) => vec![y.clone()],
            None => engine.run(inputs).unwrap_or_else(|e| panic!("{e}")).iter().map(|t| t.to_f32().expect("floats")).collect(),
        };
        let got = run(&float, inputs);
        assert_eq!(got.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), names, "{}: order of outputs", f.file);
        assert_eq!(want.len(), got.len());
        for (((name, got), want), (largest, apart)) in got.iter().zip(&want).zip(&mut extremes) {
            assert_eq!(got.len(), want.len(), "{}: {name}", f.file);
            *largest = want.iter().fold(*largest, |m, x| m.max(x.abs()));
            *apart = got.iter().zip(want).fold(*apart, |m, (a, b)| m.max((a - b).abs()));
        }
        wanted.push(want);
    }
    let worst = extremes.iter().fold(0f32, |w, (largest, apart)| w.max(apart / largest));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("samples.npz");
    let named = |inputs: &Vec<Tensor>| model.inputs().iter().zip(inputs).map(|(b, t)| (b.name.clone(), t.clone())).collect();
    std::fs::write(&file, to_npz(&samples.iter().map(named).collect::<Vec<_>>()).expect("an archive")).expect("written");
    let int8 = Compiler { calibration: Calibration::samples(&file), ..Compiler::default() };
    let int8 = int8.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{}: {e}", f.file));
    let mut noise = vec![metrics::Noise::default(); names.len()];
    for (inputs, want) in samples.iter().zip(&wanted) {
        for ((noise, (_, got)), want) in noise.iter_mut().zip(run(&int8, inputs)).zip(want) {
            noise.add(want, &got);
        }
    }
    let db: Vec<String> = noise.iter().map(|n| format!("{:.1}", n.db())).collect();
    let floats = float_layers(&int8);
    eprintln!(
        "{}: float differs by {worst:.1e}; int8 {} dB; {} of {} layers float",
        f.file,
        db.join(", "),
        floats.len(),
        int8.layers.iter().filter(|l| matches!(l.kind, "conv" | "dense")).count(),
    );
    assert!(worst <= 1e-4, "{}: float outputs differ by {worst:e}", f.file);
    assert!(floats.is_empty() && noise.iter().all(|n| n.db() >= 20.0), "{}: {}", f.file, db.join(", "));
    let program = int8.program().unwrap_or_else(|e| panic!("{e}"));
    let stored = encode_for(program, &samples[0]).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<&[u8]> = stored.iter().map(Tensor::bytes).collect();
    let want = interp::run_program(program, &bytes).unwrap_or_else(|e| panic!("{e}"));
    let got = int8.jit().and_then(|mut jit| Ok(jit.run(&bytes)?)).unwrap_or_else(|e| panic!("{e}"));
    assert!(want == got, "{}: compiled code differs from the interpreter", f.file);
}

#[test]
fn float_files() {
    FLOAT_FILES.iter().for_each(check_float_file);
}
