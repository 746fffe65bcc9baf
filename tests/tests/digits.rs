//! The network of the repository on a thousand inputs: compiled code at every level of this machine, the interpreter of
//! the program and, on some, the interpreter of the graph.

use quernel::{
    Calibration, Compiler, Model, ModelOptions,
    codegen::{Jit, Level, Options},
    encode_for, interp,
    ir::Tensor,
    quant::{Bits, Samples, Width},
};
use quernel_tests::fixture;

/// Test images, then the same images as negatives that reach past the calibrated range.
fn images(model: &Model) -> Vec<Tensor> {
    let samples = Samples::open(&fixture("digits_test.npz"), &model.inputs()).expect("test samples");
    let plain: Vec<Tensor> = (0..samples.len()).map(|i| samples.get(i).expect("a sample")[0].clone()).collect();
    let negative = |t: &Tensor| Tensor::f32(t.ty.dims.clone(), &t.to_f32().expect("f32").iter().map(|x| 1.5 - 2.0 * x).collect::<Vec<_>>());
    plain.iter().cloned().chain(plain.iter().map(negative)).collect()
}

#[test]
fn a_thousand_inputs_give_equal_bytes() {
    let model = Model::read(&fixture("digits.onnx"), &ModelOptions::default()).expect("digits imports");
    let images = images(&model);
    assert!(images.len() >= 1000);
    let calibration = Calibration::samples(fixture("digits_calib.npz"));
    for (bits, integer_io) in [(Bits::default(), false), (Bits::default(), true), (Bits::uniform(Width::Float), false)] {
        let compiler = Compiler { calibration: calibration.clone(), bits, integer_io, ..Compiler::default() };
        let compiled = compiler.compile(&model, &mut |_| ()).expect("digits compiles");
        let program = compiled.program().expect("lowered");
        let images: Vec<Tensor> = images.iter().map(|t| encode_for(program, std::slice::from_ref(t)).expect("encodes").remove(0)).collect();
        let want: Vec<_> = images.iter().map(|t| interp::run_program(program, &[t.bytes()]).expect("interprets")).collect();
        for (t, w) in images.iter().zip(&want).step_by(50) {
            let graph = interp::run_graph(&compiled.graph, std::slice::from_ref(t)).expect("interprets");
            assert_eq!(graph[0].bytes(), w[0]);
        }
        for level in Level::host() {
            let mut jit = Jit::new(program, &Options { level: Some(level), ..compiled.codegen_options() }).expect("code");
            for (i, (t, w)) in images.iter().zip(&want).enumerate() {
                assert!(jit.run(&[t.bytes()]).expect("runs") == *w, "level {}, image {i}", level.name());
            }
        }
    }
}

/// The network's own batch norms stand in for samples: nearly the accuracy, where noise alone gives none.
#[test]
fn batch_norms_stand_in_for_samples() {
    let model = Model::read(&fixture("digits.onnx"), &ModelOptions::default()).expect("digits imports");
    let samples = Samples::open(&fixture("digits_test.npz"), &model.inputs()).expect("test samples");
    let labels = samples.labels().expect("labels");
    let right = |calibration: Calibration| {
        let compiled = Compiler { calibration, ..Compiler::default() }.compile(&model, &mut |_| ()).expect("digits compiles");
        let mut jit = compiled.jit().expect("code");
        let hit = |i: usize| {
            let y = jit.run(&[samples.get(i).expect("a sample")[0].bytes()]).expect("runs").remove(0);
            let logits: Vec<f32> = y.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])) == usize::try_from(labels[i]).ok()
        };
        (0..samples.len()).map(hit).filter(|h| *h).count() * 100 / samples.len()
    };
    let (norms, noise) = (right(Calibration::BatchNorm), right(Calibration::Random(16)));
    assert!(norms >= 97 && noise < 60, "{norms} % from batch norms, {noise} % from noise");
}

#[test]
fn without_batch_norms_there_is_nothing_to_calibrate_on() {
    let model = Model::read(&fixture("operators/conv_sigmoid.onnx"), &ModelOptions::default()).expect("imports");
    let compiler = Compiler { calibration: Calibration::BatchNorm, ..Compiler::default() };
    let failure = compiler.compile(&model, &mut |_| ()).expect_err("no statistics");
    assert!(failure.0[0].message.contains("no batch norm"), "{failure:?}");
}
