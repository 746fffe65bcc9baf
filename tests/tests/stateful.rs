//! A network with state in and out: voice activity frame by frame, the state of one run fed to the next.
//! `QUERNEL_MODELS` names the folder of real models; without it the test says so and passes.

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions,
    ir::Tensor,
    quant::{Bits, Width, to_npz},
};
use quernel_tests::{agree, real_model};

/// New samples per frame, and the samples before them that a frame starts with.
const HOP: usize = 512;
const CONTEXT: usize = 64;

/// Mono 16-bit samples of a .wav file, as the model wants them.
fn wave(path: &std::path::Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a readable file");
    let start = bytes.windows(4).position(|w| w == b"data").expect("a data chunk") + 8;
    bytes[start..].as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32768.0).collect()
}

/// Frames with their context.
fn frames(wave: &[f32]) -> Vec<Tensor> {
    let mut before = vec![0.0; CONTEXT];
    let frame = |hop: &[f32]| {
        let data = [&before[..], hop].concat();
        before = hop[HOP - CONTEXT..].to_vec();
        Tensor::f32([1, HOP + CONTEXT], &data)
    };
    wave.chunks_exact(HOP).map(frame).collect()
}

/// Probabilities of all frames, and the inputs of every run.
fn listen(compiled: &Compiled, frames: &[Tensor]) -> (Vec<f32>, Vec<Vec<(String, Tensor)>>) {
    let mut jit = compiled.jit().expect("code");
    let mut state = Tensor::f32([2, 1, 128], &[0.0; 256]);
    let (mut heard, mut fed) = (Vec::new(), Vec::new());
    for frame in frames {
        fed.push(vec![("input".to_owned(), frame.clone()), ("state".to_owned(), state.clone())]);
        let out = jit.run(&[frame.bytes(), state.bytes()]).expect("runs");
        heard.push(f32::from_ne_bytes(out[0][..4].try_into().expect("a float")));
        state = Tensor::new(state.ty.clone(), out[1].clone()).expect("a state");
    }
    (heard, fed)
}

#[test]
fn voice_activity_frame_by_frame() {
    let (Some(path), Some(sound)) = (real_model("silero_vad/silero_vad_op18_ifless.onnx"), real_model("silero_vad/test.wav")) else {
        return;
    };
    let options = ModelOptions {
        dims: [("batch".to_owned(), 1), ("sequence".to_owned(), HOP + CONTEXT)].into(),
        pins: [("sr".to_owned(), vec![16000.0])].into(),
        ..ModelOptions::default()
    };
    let model = Model::read(&path, &options).unwrap_or_else(|e| panic!("{e}"));
    let frames = frames(&wave(&sound));
    let float = Compiler { bits: Bits::uniform(Width::Float), ..Compiler::default() };
    let float = float.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let (want, fed) = listen(&float, &frames);
    assert!(want.iter().any(|p| *p > 0.9) && want.iter().any(|p| *p < 0.1), "both speech and silence");

    let folder = tempfile::tempdir().expect("a folder");
    let samples = folder.path().join("frames.npz");
    let some: Vec<_> = fed.iter().step_by(4).cloned().collect();
    std::fs::write(&samples, to_npz(&some).expect("an archive")).expect("written");
    // The spectrum and the layer that reads it span too many orders of magnitude for eight bits, and get sixteen unless asked.
    let integers = "[layers]\n\"node_Conv_29\" = 8\n\"node_conv1d_1\" = 8\n";
    for (bits, wide, least) in [(Bits::default(), 2, 99.5), (Bits::from_toml(integers).expect("widths"), 0, 98.0)] {
        let compiler = Compiler { calibration: Calibration::samples(&samples), bits, ..Compiler::default() };
        let compiled = compiler.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let drowned = compiled.remarks.iter().filter(|r| r.by == "choose-bits").count();
        assert_eq!(drowned, wide, "{:?}", compiled.remarks);
        for inputs in fed.iter().step_by(100) {
            agree(&compiled, &inputs.iter().map(|(_, t)| t.clone()).collect::<Vec<_>>());
        }
        let (got, _) = listen(&compiled, &frames);
        let same = want.iter().zip(&got).filter(|(a, b)| (**a > 0.5) == (**b > 0.5)).count() as f64 * 100.0 / want.len() as f64;
        eprintln!("same decision as float in {same:.2} % of {} frames", want.len());
        assert!(same >= least, "{same:.2} %");
    }
}

/// Every copy of a layer in the body of a `Scan` is integer, and its weights are in the object once.
#[test]
fn a_recurrent_layer_in_a_body() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/operators/scan_layer.onnx");
    let model = Model::read(&path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let compiler = Compiler { calibration: Calibration::samples(path.with_extension("npz")), ..Compiler::default() };
    let compiled = compiler.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let program = compiled.program().unwrap_or_else(|e| panic!("{e}"));
    let layers: Vec<_> = program.steps.iter().filter(|s| s.what.macs() > 0).collect();
    let integer = |name: &str| ["conv", "conv_words"].contains(&name);
    assert!(layers.iter().all(|s| integer(s.what.name())), "{:?}", layers.iter().map(|s| s.what.name()).collect::<Vec<_>>());
    // Five steps read the state: the first one is zero. The product with the inputs is a layer of every step, too.
    let weights: std::collections::BTreeSet<_> = layers.iter().map(|s| format!("{:?}", s.reads[1])).collect();
    assert_eq!((layers.len(), weights.len()), (6 + 5 + 1, 3), "{weights:?}");
}
