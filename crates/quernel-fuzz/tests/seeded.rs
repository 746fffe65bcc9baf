//! Every target on seeds and on what fuzzing kept; random networks; the hostile files. More by `QUERNEL_FUZZ_INPUTS`
//! (inputs of each target) and `QUERNEL_FUZZ_GRAPHS`.

use quernel::{
    Calibration, Compiler, Emit, Failure, Model, ModelOptions, artifacts,
    ir::{Binary, Code, Unary},
};
use quernel_fuzz::{
    TARGETS,
    differential::{self, Tally, Verdict},
    hostile::{self, Expect},
    mutated,
};
use quernel_test::Rng;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    all.sort();
    all.into_iter().map(|p| (p.clone(), std::fs::read(&p).unwrap_or_else(|e| panic!("{}: {e}", p.display())))).collect()
}

/// A target on seeds and on its committed corpus.
fn target(name: &str, inputs: u64) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of that name");
    let committed = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name));
    assert!(!committed.is_empty(), "no corpus of {name}");
    let mut corpus = (target.seeds)();
    assert!(corpus.len() > 4, "{} seeds of {name}", corpus.len());
    let check = |what: &str, bytes: &[u8]| {
        let panicked = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err();
        assert!(!panicked, "{name}: {what}");
    };
    for (path, bytes) in committed {
        check(&path.display().to_string(), &bytes);
        corpus.push(bytes);
    }
    for (i, bytes) in corpus.iter().enumerate().take(inputs as usize) {
        check(&format!("seed {i}"), bytes);
    }
    for i in 0..setting("QUERNEL_FUZZ_INPUTS", inputs) {
        check(&format!("input {i}"), &mutated(&corpus, &mut Rng::new(i)));
    }
}

#[test]
fn onnx_bytes() {
    target("onnx_bytes", 20_000);
}

#[test]
fn onnx_model() {
    target("onnx_model", 3000);
}

#[test]
fn compile() {
    target("compile", 200);
}

#[test]
fn qir() {
    target("qir", 5000);
}

#[test]
fn side_files() {
    target("side_files", 3000);
}

#[test]
fn samples() {
    target("samples", 1000);
}

#[test]
fn objects() {
    target("objects", 3000);
}

#[test]
fn graphs() {
    target("graphs", 50);
}

#[test]
fn every_target_is_tested_and_wrapped() {
    let this = include_str!("seeded.rs");
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for t in TARGETS {
        assert!(this.contains(&format!("target(\"{}\"", t.name)), "{} is not tested here", t.name);
        assert!(manifest.contains(&format!("\"{}\"", t.name)), "{} is not in fuzz/Cargo.toml", t.name);
        let file = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{}.rs", t.name))).expect("its file");
        assert!(file.contains(&format!("\"{}\"", t.name)), "{} runs another target", t.name);
    }
}

#[test]
fn random_networks_agree_in_every_execution() {
    let count = setting("QUERNEL_FUZZ_GRAPHS", 600);
    let mut tally = Tally::default();
    let failures: Vec<String> = (0..count).filter_map(|seed| differential::run(seed, &mut tally).err()).map(|f| f.qir).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // A generator that is refused, or that stopped making some operator, says nothing.
    assert!(tally.agreed() * 10 > count * 9, "{tally:?}");
    let others = [
        "conv",
        "dense",
        "matmul",
        "max_pool",
        "average_pool",
        "reduce_mean",
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "softmax",
        "log_softmax",
        "reshape",
        "transpose",
        "concat",
        "slice",
        "pad",
        "expand",
        "gather",
        "gather_elements",
        "gather_nd",
        "scatter_elements",
        "top_k",
        "cast",
        "select",
        "quantize",
        "dequantize",
        "requantize",
    ];
    let functions = Unary::ALL.map(|f| f.name()).into_iter().chain(Binary::ALL.map(|f| f.name()));
    let missing: Vec<&str> = functions.chain(others).filter(|name| !tally.operators.contains_key(name)).collect();
    assert!(missing.is_empty(), "no network with {missing:?}: {:?}", tally.operators);
}

/// Networks on which executions differed once.
#[test]
fn networks_that_failed_once() {
    let all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential"));
    assert!(!all.is_empty());
    for (path, bytes) in all {
        let verdict = differential::replay(&String::from_utf8_lossy(&bytes)).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert_eq!(verdict, Verdict::Agrees, "{}", path.display());
    }
}

/// Every sixth of the hostile files in this process, or as `QUERNEL_FUZZ_SPARSE` says; `cargo xtask hostile` gives each its
/// own, with a limit of memory.
#[test]
fn hostile_files() {
    let folder = tempfile::tempdir().expect("a folder");
    hostile::write(folder.path()).expect("the cases are written");
    let mut wrong = Vec::new();
    let mut seen = [0; 2];
    // What is large when it is compiled runs in processes of its own: `cargo xtask hostile`.
    let sparse = setting("QUERNEL_FUZZ_SPARSE", 6) as usize;
    let cases: Vec<_> = hostile::cases().into_iter().filter(|c| !c.name.starts_with("bomb-")).step_by(sparse).collect();
    for case in &cases {
        let start = Instant::now();
        let path = folder.path().join(&case.name).join("model.onnx");
        let compiler =
            Compiler { activations: quernel::passes::Activations::DynamicRows, calibration: Calibration::None, ..Compiler::default() };
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<u8>, Failure> {
            let model = Model::read(&path, &ModelOptions { name: Some("m".into()), ..ModelOptions::default() })?;
            let compiled = compiler.compile(&model, &mut |_| ())?;
            let (files, _) = artifacts::make(&compiled, Path::new("m.o"), &[Emit::Object, Emit::Header, Emit::Report])?;
            Ok(files.into_iter().flat_map(|f| f.bytes).collect())
        }));
        let took = start.elapsed();
        let name = &case.name;
        if took > Duration::from_secs(30) {
            wrong.push(format!("{name}: took {took:?}"));
        }
        match outcome {
            Err(_) => wrong.push(format!("{name}: a panic")),
            Ok(Err(failure)) => {
                seen[0] += 1;
                if failure.0.iter().any(|d| d.code == Code::Internal || d.location.file.is_none() && d.location.place.is_none()) {
                    wrong.push(format!("{name}: {failure}"));
                }
                let unsupported = failure.0.iter().all(|d| d.code.class() == quernel::ir::Class::Unsupported);
                if case.expect == Expect::Ok && !unsupported {
                    wrong.push(format!("{name}: is legal, and refused: {failure}"));
                }
            }
            Ok(Ok(bytes)) => {
                seen[1] += 1;
                if case.expect == Expect::Error {
                    wrong.push(format!("{name}: compiles"));
                }
                if bytes.windows(4).any(|w| w == hostile::OUTSIDE.to_le_bytes()) {
                    wrong.push(format!("{name}: holds bytes of the file outside"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen[0] * 2 > cases.len() && seen[1] * 20 > cases.len(), "{seen:?} refused and compiled of {}", cases.len());
}
