//! The surfaces that bytes from strangers reach.

use crate::{
    differential, models,
    oracle::{self, Fault},
};
use quernel::{
    Calibration, Compiler, Emit, Failure, Model, ModelOptions, artifacts, codegen, interp,
    ir::{Graph, Program, Quant, Scalar, Stage, Storage, Tensor, text, verify},
    lower, onnx,
    passes::{Activations, Cx, cleanup_pipeline, fold_pipeline},
    quant::{Bits, Bound, Calibrator, Method, Ranges, Samples, Width},
};
use quernel_test::Rng;
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// One surface.
#[derive(Debug)]
pub struct Target {
    /// Its name, that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// What the bytes become.
    pub what: &'static str,
    /// Hands an input over. Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All surfaces.
pub const TARGETS: &[Target] = &[
    Target { name: "onnx_bytes", what: "the bytes of a model file, imported", run: onnx_bytes, seeds: model_files },
    Target { name: "onnx_model", what: "a damaged model, imported, folded and interpreted", run: onnx_model, seeds: choices },
    Target { name: "compile", what: "a damaged model, compiled to an object for some target", run: compile, seeds: choices },
    Target { name: "qir", what: "text IR, parsed, verified, folded, lowered and interpreted", run: qir, seeds: texts },
    Target { name: "side_files", what: "ranges.json and bits.toml", run: side_files, seeds: side_file_seeds },
    Target { name: "samples", what: ".npy and .npz", run: samples, seeds: sample_files },
    Target { name: "objects", what: "an object file and its header, verified", run: objects, seeds: object_files },
    Target { name: "graphs", what: "a random network, executed in every way", run: graphs, seeds: choices },
];

fn onnx_bytes(bytes: &[u8]) {
    match onnx::import(bytes, &onnx::Options::default()) {
        Ok(imported) => oracle::sound(&imported.graph, Stage::Imported),
        // The library names the file.
        Err(all) => oracle::refused(&Failure(all).in_file("model.onnx").0),
    }
}

fn onnx_model(bytes: &[u8]) {
    let model = models::model(&mut Rng::from_bytes(bytes));
    let imported = match onnx::import(&onnx::proto::encode(&model), &onnx::Options::default()) {
        Ok(imported) => imported,
        Err(all) => return oracle::refused(&Failure(all).in_file("model.onnx").0),
    };
    oracle::sound(&imported.graph, Stage::Imported);
    folded(imported.graph);
}

/// Folding keeps a graph sound, and the interpreter runs it.
fn folded(mut g: Graph) {
    let small = oracle::work(&g) < oracle::MOST_WORK;
    if small {
        interpreted(&g);
    }
    match fold_pipeline().run(&mut g, &mut Cx::default(), &mut |_, _| ()) {
        Ok(_) => oracle::sound(&g, Stage::Folded),
        Err(all) => return oracle::refused(&Failure(all).in_file("model.onnx").0),
    }
    if small && oracle::work(&g) < oracle::MOST_WORK {
        interpreted(&g);
    }
}

fn interpreted(g: &Graph) {
    if let Err(d) = interp::run_graph(g, &quernel_test::inputs(g, 1)) {
        oracle::refused(&[d.in_file("model.onnx")]);
    }
}

fn compile(bytes: &[u8]) {
    let rng = &mut Rng::from_bytes(bytes);
    let model = onnx::proto::encode(&models::model(rng));
    let target = match rng.below(4) {
        0 => {
            let info = &codegen::targets()[rng.below(codegen::targets().len())];
            codegen::Target::parse(Some(info.triple), Some(rng.pick(info.cpus).name))
        }
        1 => codegen::Target::host(),
        _ => codegen::Target::parse(None, None),
    };
    let mut compiler = Compiler { target: target.unwrap_or_else(|d| panic!("{d}")), ..Compiler::default() };
    match rng.below(6) {
        0 => compiler.bits = Bits::uniform(Width::Float),
        1 => compiler.activations = Activations::DynamicRows,
        2 => {
            compiler.bits = Bits::uniform(Width::Int(4));
            compiler.calibration = Calibration::Random(2);
            compiler.integer_io = true;
        }
        3 => compiler.calibration = Calibration::BatchNorm,
        _ => compiler.calibration = Calibration::Random(2),
    }
    if let Err(Failure(all)) = compiled(model, &compiler) {
        oracle::refused(&all);
    }
}

fn compiled(bytes: Vec<u8>, compiler: &Compiler) -> Result<(), Failure> {
    let model = Model::from_bytes(bytes, "model.onnx", &ModelOptions::default())?;
    if oracle::work(&model.imported.graph) > oracle::MOST_WORK {
        return Ok(());
    }
    let whole = compiler.compile(&model, &mut |_| ()).map_err(|f| f.in_file("model.onnx"))?;
    let kinds = [Emit::Object, Emit::Header, Emit::Report, Emit::Qir, Emit::Program];
    artifacts::make(&whole, Path::new("m.o"), &kinds).map_err(|f| f.in_file("model.onnx"))?;
    let inputs = [quernel_test::inputs(&whole.graph, 1), oracle::wild_inputs(&whole.graph, 2)];
    if let Err(Fault::Differs(why)) = oracle::executions_agree(&whole.graph, whole.program()?, &inputs) {
        panic!("{why}\n{}", whole.graph);
    }
    Ok(())
}

fn qir(bytes: &[u8]) {
    let mut g = match text::parse(&String::from_utf8_lossy(bytes)) {
        Ok(g) => g,
        Err(d) => return oracle::refused(&[d]),
    };
    let elements: f64 = g.values.iter().map(|(_, v)| v.ty.dims.iter().map(|d| *d as f64).product::<f64>()).sum();
    if elements > 1e6 {
        return;
    }
    oracle::reads_back(&g);
    if verify(&g, Stage::Imported).is_err() || oracle::work(&g) > oracle::MOST_WORK {
        return;
    }
    folded(g.clone());
    // Lowering passes over what no output needs, faults of it included; the interpreter of graphs does not.
    cleanup_pipeline().run(&mut g, &mut Cx::default(), &mut |_, _| ()).unwrap_or_else(|all| panic!("{}\n{g}", all[0]));
    let Ok(proof) = verify(&g, Stage::Quantized) else { return };
    match lower::lower(&proof, &lower::Options::default()) {
        Ok(lowered) => {
            let inputs = [quernel_test::inputs(&g, 1)];
            oracle::interpreters_agree(&g, &lowered.program, &inputs).unwrap_or_else(|why| panic!("{why}\n{g}"));
        }
        Err(all) => oracle::refused(&all),
    }
}

fn side_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Ranges::from_json(&text) {
        Ok(ranges) => {
            let again = ranges.to_json();
            let read = Ranges::from_json(&again).unwrap_or_else(|d| panic!("its own text: {d}"));
            assert_eq!(read.to_json(), again, "ranges read back as others");
            if let Err(d) = ranges.clone().merge(&read).and_then(|r| r.merge(&ranges)) {
                oracle::refused(&[d.in_file("ranges.json")]);
            }
            for name in ranges.tensors() {
                for method in [Method::MinMax, Method::Mean, Method::Percentile(100), Method::Entropy, Method::Mse] {
                    let calibrator = Calibrator { method, ..Calibrator::default() };
                    let legal = |(scale, zero): (f32, i32)| Quant::per_tensor(Storage::U8, scale, zero).is_ok();
                    assert!(ranges.params(name, Storage::U8, calibrator).is_none_or(legal), "{name} by {method:?}");
                }
            }
        }
        Err(d) => oracle::refused(&[d.in_file("ranges.json")]),
    }
    match Bits::from_toml(&text) {
        Ok(bits) => assert_eq!(Bits::from_toml(&bits.to_toml()).unwrap_or_else(|d| panic!("its own text: {d}")), bits),
        Err(d) => oracle::refused(&[d.in_file("bits.toml")]),
    }
}

/// The file a process reads its samples from.
fn sample_file(suffix: &str) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap_or_else(|e| panic!("a folder: {e}")));
    // Tests run targets on several threads.
    folder.path().join(format!("{:?}.{suffix}", std::thread::current().id()))
}

fn samples(bytes: &[u8]) {
    let (suffix, magic) = if bytes.starts_with(b"PK") { ("npz", true) } else { ("npy", bytes.starts_with(b"\x93NUMPY")) };
    let path = sample_file(suffix);
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    // Whole numbers as well as floats.
    let scalar = Scalar::ALL[usize::from(bytes.last().copied().unwrap_or(1)) % Scalar::ALL.len()];
    let bounds = [Bound { name: "image".into(), dims: vec![1, 1, 8, 8], scalar }];
    match Samples::open(&path, &bounds) {
        Ok(samples) => {
            assert!(magic, "samples without a head");
            for i in 0..samples.len().min(4) {
                if let Err(d) = samples.get(i) {
                    oracle::refused(&[d]);
                }
            }
        }
        Err(all) => oracle::refused(&all),
    }
}

/// The length of an object in four bytes, the object, its header.
fn objects(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (object, header) = rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize));
    let header = String::from_utf8_lossy(header);
    for header in [None, Some(&*header)] {
        match codegen::verify(object, header) {
            Ok(v) => assert!(v.stack_found <= v.stack_promised && v.writable_bytes <= 4, "accepted: {v:?}"),
            Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|f| !f.message.is_empty()), "refused without a reason"),
        }
    }
}

fn graphs(bytes: &[u8]) {
    let seed = bytes.iter().fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b)));
    let kind = [differential::Kind::Integer, differential::Kind::Extreme, differential::Kind::Pipeline, differential::Kind::Float]
        [(seed % 4) as usize];
    let g = differential::graph_of(kind, Rng::from_bytes(bytes), seed);
    differential::check(&g, seed).unwrap_or_else(|why| panic!("{why}\n{g}"));
}

fn model_files() -> Vec<Vec<u8>> {
    models::fixtures().iter().map(|(_, m)| onnx::proto::encode(m)).filter(|b| b.len() < 4096).collect()
}

/// Seeds of generators that draw from bytes.
fn choices() -> Vec<Vec<u8>> {
    (0..64u64).map(|i| Rng::new(i).bytes(8 + 4 * i as usize)).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quernel-passes/tests");
    let folders = std::fs::read_dir(&root).into_iter().flatten().filter_map(|e| std::fs::read_dir(e.ok()?.path()).ok());
    let mut paths: Vec<PathBuf> = folders.flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "qir"));
    paths.sort();
    let mut all: Vec<Vec<u8>> = paths.iter().filter_map(|p| std::fs::read(p).ok()).collect();
    let quantized = (0..20).map(|seed| differential::graph(6 * seed).1).map(|g| text::print_full(&g).into_bytes());
    all.extend(quantized.filter(|t| t.len() < 8192));
    all
}

/// Small objects of every architecture and container.
fn object_files() -> Vec<Vec<u8>> {
    let kinds = [
        ("x86_64-unknown-linux-gnu", "multi"),
        ("x86_64-pc-windows-gnu", "znver4"),
        ("aarch64-unknown-linux-gnu", "i8mm"),
        ("aarch64-apple-darwin", "apple-m1"),
        ("riscv64gc-unknown-linux-gnu", "rv64gcv"),
        ("s390x-unknown-linux-gnu", "generic"),
    ];
    let programs: Vec<_> = (0..40).filter_map(|seed| oracle::lowered(&differential::graph(6 * seed).1).ok()?.pop()).collect();
    let mut programs: Vec<_> = programs.iter().filter(|p| p.steps.len() > 2).collect();
    programs.sort_by_key(|p| p.steps.len());
    let make = |program: &Program, (triple, cpu): (&str, &str)| {
        let target = codegen::Target::parse(Some(triple), Some(cpu)).ok()?;
        let options = codegen::Options { name: "m".into(), ..codegen::Options::default() };
        let made = codegen::object(program, &target, &options).ok()?;
        let header = codegen::header(program, &target, &options, &made);
        Some([&(made.bytes.len() as u32).to_le_bytes()[..], &made.bytes, header.as_bytes()].concat())
    };
    programs.iter().take(2).flat_map(|p| kinds.iter().filter_map(move |kind| make(p, *kind))).collect()
}

fn side_file_seeds() -> Vec<Vec<u8>> {
    let bits = [
        "default = 8\n[layers]\n\"/stem/Conv\" = \"float\"\n\"a\\\"b\" = 4\n",
        "default = 4\nscheme = \"codebook\"\n[layers]\na = \"ternary\"\nb = { bits = 3, scheme = \"normal\" }\nc = { scheme = \"binary\" }\n",
    ];
    let ranges = (0..6).map(|seed| quernel_test::ranges(&differential::graph(6 * seed + 3).1).to_json());
    bits.iter().map(|b| (*b).to_owned()).chain(ranges).map(String::into_bytes).filter(|t| t.len() < 1 << 16).collect()
}

fn sample_files() -> Vec<Vec<u8>> {
    let npy = |dtype: &str, shape: &str, data: &[u8]| {
        let mut head = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + head.len() + 1) % 64 != 0 {
            head.push(' ');
        }
        head.push('\n');
        [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), data].concat()
    };
    let mut all = vec![
        npy("<f4", "(2, 1, 8, 8)", &[0; 512]),
        npy("|u1", "(3, 8, 8)", &[7; 192]),
        npy("<i8", "(1, 64)", &[1; 512]),
        npy("<f8", "(1, 1, 8, 8)", &[0; 512]),
    ];
    let sample = || vec![("image".to_owned(), Tensor::f32([1, 1, 8, 8], &[0.5; 64]))];
    all.extend(quernel::quant::to_npz(&[sample(), sample()]));
    all
}
