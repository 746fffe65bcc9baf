//! Accuracy recovery and the choice of widths, on the network of the repository.

use quernel::{
    Budget, Calibration, Compiled, Compiler, Loss, Model, ModelOptions, Recovery, artifacts, evaluate, first_outputs,
    ir::{Act, Graph, Multiplier, Op, Origin, Tensor, TensorTy, Unary},
    quant::{Bits, SampleOptions, Samples, Width, to_npz},
};
use quernel_tests::{agree, fixture, succeed};
use std::{collections::BTreeMap, path::Path, process::Command};

fn digits() -> Model {
    Model::read(&fixture("digits.onnx"), &ModelOptions::default()).expect("digits imports")
}

fn calibration(rows: usize) -> Calibration {
    Calibration::Samples(fixture("digits_calib.npz"), SampleOptions { rows: Some(0..rows), ..SampleOptions::default() })
}

fn compile(model: &Model, bits: &str, scheme: Option<&str>, recovery: Recovery) -> Compiled {
    let bits = quernel::parse_bits_and_scheme(bits, scheme).expect("a width");
    Compiler { calibration: calibration(128), bits, recovery, ..Compiler::default() }.compile(model, &mut |_| ()).expect("compiles")
}

/// Every step of the ladder brings the output nearer to that of the float network, on samples it did not see; and the
/// compiled code still is what the interpreter says.
#[test]
fn recovery_lowers_the_noise_on_held_out_samples() {
    let model = digits();
    let test = Samples::open(&fixture("digits_test.npz"), &model.inputs()).expect("test samples");
    let sqnr = |bits: &str, scheme: Option<&str>, parts: &str| {
        let compiled = compile(&model, bits, scheme, parts.parse().expect("parts"));
        agree(&compiled, &test.get(0).expect("a sample"));
        evaluate(&model, &compiled, &test, &mut |_| ()).expect("evaluates").sqnr_db
    };
    for (bits, scheme, gain) in [("4", None, 3.0), ("3", None, 3.0), ("2", Some("codebook"), 3.0), ("8", Some("ternary"), 3.0)] {
        let (nearest, full) = (sqnr(bits, scheme, "bias"), sqnr(bits, scheme, "bias,feedback,refit,descent"));
        assert!(full > nearest + gain, "{bits} {scheme:?}: {nearest:.1} dB to nearest, {full:.1} dB recovered");
    }
    for (bits, scheme) in [("3", None), ("2", Some("codebook"))] {
        let (layers, blocks) =
            (sqnr(bits, scheme, "bias,feedback,refit,descent"), sqnr(bits, scheme, "bias,feedback,refit,descent,blocks"));
        assert!(blocks > layers, "{bits} {scheme:?}: {layers:.1} dB by layers, {blocks:.1} dB by blocks");
    }
    let (linear, auto) = (sqnr("3", Some("linear"), "bias,feedback,refit,descent"), sqnr("3", Some("auto"), "bias,feedback,refit,descent"));
    assert!(auto > linear, "auto {auto:.1} dB, linear {linear:.1} dB");
}

/// One thread or several, one run or two halves: the same object.
#[test]
fn recovery_gives_the_same_bytes_however_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = |name: &str, threads: &str, resume: bool| {
        let out = folder.path().join(name);
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["run", "-q", "--release", "--offline", "--", "compile", "fixtures/digits.onnx", "--bits", "3", "--name", "digits"]);
        command.args(["--recover", "bias,feedback,refit,descent,blocks"]);
        command.args(["--calibrate", "fixtures/digits_calib.npz", "-o"]).arg(&out).env("RAYON_NUM_THREADS", threads);
        if resume {
            command.arg("--resume").arg(folder.path().join("state"));
        }
        succeed(command.current_dir(quernel_tests::root()));
        std::fs::read(out).expect("written")
    };
    let one = object("one.o", "1", false);
    assert!(one == object("three.o", "3", false), "threads change the object");
    assert!(one == object("first.o", "2", true), "remembering layers changes the object");
    let mut state: Vec<_> = std::fs::read_dir(folder.path().join("state")).expect("a folder").map(|e| e.expect("entry").path()).collect();
    state.sort();
    assert!(state.len() >= 5, "{state:?}");
    // A layer that was lost and one that was cut off are computed again, the others are taken as they are.
    std::fs::remove_file(&state[0]).expect("removed");
    std::fs::write(&state[1], &std::fs::read(&state[1]).expect("readable")[..40]).expect("written");
    assert!(one == object("second.o", "2", true), "going on changes the object");
    let ours = std::fs::read_to_string(&state[2]).expect("readable");
    std::fs::write(&state[2], ours.replacen("\"scales\":[", "\"scales\":[1.5,", 1)).expect("written");
    assert!(one == object("third.o", "2", true), "a layer that does not fit is not computed again");
}

#[test]
fn ranges_alone_round_to_nearest_and_say_so() {
    let model = digits();
    let ranges = compile(&model, "4", None, Recovery::default()).ranges.expect("calibrated");
    let source = Box::new(Calibration::None);
    let compiler =
        Compiler { calibration: Calibration::Given { ranges, source }, bits: Bits::uniform(Width::Int(4)), ..Compiler::default() };
    let compiled = compiler.compile(&model, &mut |_| ()).expect("compiles");
    assert!(compiled.remarks.iter().any(|r| r.by == "recover" && r.message.contains("nearest")), "{:?}", compiled.remarks);
}

fn within(model: &Model, budget: &str, rows: usize) -> Result<Compiled, quernel::Failure> {
    let budget: Budget = budget.parse().expect("a budget");
    Compiler { calibration: calibration(rows), budget: Some(budget), ..Compiler::default() }.compile(model, &mut |_| ())
}

#[test]
fn a_budget_is_kept_or_refused_with_the_least() {
    let model = digits();
    let compiled = within(&model, "size=60%", 64).expect("feasible");
    let chosen = compiled.chosen.as_ref().expect("chosen");
    let (bytes, whole) = chosen.bytes;
    assert!(bytes as f64 <= 0.6 * whole as f64 && bytes as f64 > 0.4 * whole as f64, "{bytes} of {whole}");
    // The file says what was compiled.
    let again = Bits::from_toml(&chosen.bits.to_toml()).expect("own output");
    assert_eq!(again, chosen.bits);
    let by_hand =
        Compiler { calibration: calibration(64), bits: again, ..Compiler::default() }.compile(&model, &mut |_| ()).expect("compiles");
    let object = |c: &Compiled| artifacts::make(c, "x.o".as_ref(), &[quernel::Emit::Object]).expect("an object").0.remove(0).bytes;
    assert!(object(&by_hand) == object(&compiled), "the widths of the file give another object");
    for (budget, least) in [("size=10%", "the least is"), ("arena=1", "needs"), ("latency=1ns", "the least on this machine")] {
        let d = within(&model, budget, 16).expect_err(budget).0.remove(0);
        assert!(d.help.as_deref().is_some_and(|h| h.contains(least)), "{budget}: {d:?}");
    }
    let chosen = within(&model, "drop=2%", 64).expect("feasible").chosen.expect("chosen");
    assert!(chosen.drop <= 2.0 && chosen.bytes.0 < chosen.bytes.1 / 2, "{} {:?}", chosen.drop, chosen.bytes);
}

/// Four products in a row with weights and samples of noise, small enough to try every assignment.
fn small(folder: &Path) -> (Model, Calibration) {
    let mut state = 11u64;
    let mut bell = |n: usize, size: f32| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (next() + next() + next() + next()) * size).collect()
    };
    let widths = [96, 64, 80, 48, 48];
    let mut g = Graph::new("small");
    let mut x = g.input("x", TensorTy::f32([1, widths[0]]));
    for (i, pair) in widths.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        let w = g.constant(format!("w{i}"), Tensor::f32([to, from], &bell(to * from, 2.0 / (from as f32).sqrt())));
        let dense = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
        x = g.push(dense, &[x, w], TensorTy::f32([1, to]), Origin::new(format!("fc{i}")));
        if i + 2 < widths.len() {
            x = g.push(Op::Unary(Unary::Relu), &[x], TensorTy::f32([1, to]), Origin::new(format!("relu{i}")));
        }
    }
    g.output("y", x);
    let samples: Vec<_> = (0..64).map(|_| vec![("x".to_owned(), Tensor::f32([1, widths[0]], &bell(widths[0], 1.0)))]).collect();
    let (model, data) = (folder.join("small.onnx"), folder.join("small.npz"));
    std::fs::write(&model, quernel::onnx::export(&g, &BTreeMap::new()).expect("exports")).expect("written");
    std::fs::write(&data, to_npz(&samples).expect("floats")).expect("written");
    let model = Model::read(&model, &ModelOptions::default()).expect("imports");
    (model, Calibration::Samples(data, SampleOptions::default()))
}

/// All assignments of four layers: the chosen one's real loss is within 1 % of the least that fits.
#[test]
fn the_chosen_assignment_is_nearly_the_best_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, calibration) = small(folder.path());
    let compiler = |bits: Bits| Compiler { bits, calibration: calibration.clone(), ..Compiler::default() };
    let compile = |bits: Bits| compiler(bits).compile(&model, &mut |_| ()).expect("compiles");
    let samples = calibration.open(&model).expect("opens").expect("samples");
    let loss = Loss::new(first_outputs(&compile(Bits::uniform(Width::Float)), &samples).expect("runs")).expect("floats");
    let budget = |text: &str| {
        let budget: Budget = text.parse().expect("a budget");
        let compiler = Compiler { budget: Some(budget), ..compiler(Bits::default()) };
        compiler.compile(&model, &mut |_| ()).expect("feasible").chosen.expect("chosen")
    };
    let chosen = ["size=40%", "size=60%"].map(budget);
    let widths = [Width::Int(8), Width::Auto(4), Width::Auto(2)];
    let mut all = Vec::new();
    for n in 0..widths.len().pow(4) {
        let option = |l: usize| widths[n / widths.len().pow(l as u32) % widths.len()];
        let layers: BTreeMap<String, Width> = chosen[0].layers.iter().enumerate().map(|(l, c)| (c.layer.clone(), option(l))).collect();
        let compiled = compile(Bits { default: Width::Int(8), layers, ..Bits::default() });
        let (_, report) = artifacts::make(&compiled, "x.o".as_ref(), &[quernel::Emit::Report]).expect("a report");
        let bytes: usize = report.expect("asked for").layers.iter().map(|l| l.weight_bytes).sum();
        all.push((bytes as u64, loss.of(&first_outputs(&compiled, &samples).expect("runs")).expect("floats")));
    }
    for (chosen, share) in chosen.iter().zip([0.4, 0.6]) {
        assert_eq!(chosen.layers.len(), 4);
        let limit = (chosen.bytes.1 as f64 * share) as u64;
        let fit: Vec<f64> = all.iter().filter(|a| a.0 <= limit).map(|a| a.1).collect();
        let best = fit.iter().copied().fold(f64::INFINITY, f64::min);
        eprintln!("chosen {} after {} compilations, best {best} of {} that fit", chosen.loss, chosen.tried, fit.len());
        assert!(fit.len() > 10 && chosen.bytes.0 <= limit, "{} {}", fit.len(), chosen.bytes.0);
        assert!(chosen.loss <= 1.01 * best, "chosen {}, best {best}", chosen.loss);
    }
}
