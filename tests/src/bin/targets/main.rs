//! Whole networks as linked programs for every target, run natively or under an emulator of the CPU: the hash of all
//! outputs equals that of the interpreter. `cargo xtask targets` starts this program.
//!
//! Usage: `targets [--fast] [--require] [--integers] [--target X]... [--dim NAME=N]... [--json FILE] [--graphs N] [--seed S]
//! MODEL.onnx...`. Each model is compiled in float and in integers, or in integers alone; `--graphs` adds random networks, and
//! shrinks those that differ; a target is its name, or part of the names of several. Prints one line per target and per difference; ends with 1 when there was
//! one, or with `--require` when a target could not be run.

mod program;
mod random;

use quernel::{
    Calibration, Compiled, Compiler, Model, ModelOptions, artifacts,
    codegen::{self, Level, Target},
    encode_for, interp,
    ir::Tensor,
    parse_bits,
    quant::Samples,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// One way to run code: what is compiled, the C compiler, and what stands before the program to run it.
struct Place {
    name: &'static str,
    triple: &'static str,
    cpu: &'static str,
    level: Level,
    cc: &'static str,
    run: &'static [&'static str],
    /// Part of the fast subset.
    fast: bool,
}

const X86: &str = "x86_64-unknown-linux-gnu";
const ARM: &str = "aarch64-unknown-linux-gnu";
const RISCV: &str = "riscv64gc-unknown-linux-gnu";
const S390X: &str = "s390x-unknown-linux-gnu";
const WINDOWS: &str = "x86_64-pc-windows-gnu";
const SSE2: &[&str] = &["qemu-x86_64", "-cpu", "qemu64,-pni,-ssse3,-sse4.1,-sse4.2"];
const ARM_CC: &str = "aarch64-linux-gnu-gcc";
const RISCV_CC: &str = "riscv64-linux-gnu-gcc";
const S390X_CC: &str = "s390x-linux-gnu-gcc";
const WINDOWS_CC: &str = "x86_64-w64-mingw32-gcc";

/// The emulated CPU has exactly what the code may use, where the emulator knows such a CPU.
const PLACES: &[Place] = &[
    place("x86-64-scalar", X86, "x86-64", Level::Scalar, "gcc", SSE2, false),
    place("x86-64", X86, "x86-64", Level::V128, "gcc", SSE2, true),
    place("x86-64-v2", X86, "x86-64-v2", Level::V128, "gcc", &["qemu-x86_64", "-cpu", "Nehalem"], false),
    place("x86-64-v3", X86, "x86-64-v3", Level::V256, "gcc", &["qemu-x86_64", "-cpu", "max"], false),
    place("x86-64-multi", X86, "multi", Level::V512Dot, "gcc", SSE2, false),
    place("aarch64-scalar", ARM, "generic", Level::Scalar, ARM_CC, &["qemu-aarch64", "-cpu", "cortex-a53"], false),
    place("aarch64", ARM, "generic", Level::V128, ARM_CC, &["qemu-aarch64", "-cpu", "cortex-a53"], true),
    place("aarch64-dotprod", ARM, "dotprod", Level::V128Dot, ARM_CC, &["qemu-aarch64", "-cpu", "cortex-a76"], false),
    place("aarch64-i8mm", ARM, "i8mm", Level::V128Dot, ARM_CC, &["qemu-aarch64", "-cpu", "max"], true),
    place("riscv64", RISCV, "generic", Level::Scalar, RISCV_CC, &["qemu-riscv64", "-cpu", "rv64"], true),
    place("riscv64-v", RISCV, "rv64gcv", Level::V128, RISCV_CC, &["qemu-riscv64", "-cpu", "rv64,v=true,vlen=128"], false),
    place("riscv64-v512", RISCV, "rv64gcv", Level::V128, RISCV_CC, &["qemu-riscv64", "-cpu", "rv64,v=true,vlen=512"], false),
    place("s390x", S390X, "generic", Level::Scalar, S390X_CC, &["qemu-s390x", "-cpu", "max"], true),
    place("windows", WINDOWS, "x86-64", Level::V128, WINDOWS_CC, &["wine"], true),
    place("windows-multi", WINDOWS, "multi", Level::V512Dot, WINDOWS_CC, &["wine"], false),
];

const fn place(
    name: &'static str,
    triple: &'static str,
    cpu: &'static str,
    level: Level,
    cc: &'static str,
    run: &'static [&'static str],
    fast: bool,
) -> Place {
    Place { name, triple, cpu, level, cc, run, fast }
}

impl Place {
    /// Whether `text` is the name, or part of it and nobody's name.
    fn is(&self, text: &str) -> bool {
        if PLACES.iter().any(|p| p.name == text) { self.name == text } else { self.name.contains(text) }
    }
}

/// A network, bytes for its inputs, and the hash of what the interpreter makes of them.
struct Network {
    label: String,
    compiled: Compiled,
    inputs: Vec<Vec<u8>>,
    want: u64,
    /// The seed of a random network.
    graph: Option<u64>,
}

/// Objects of at most so many bytes, and so many of them, are linked into one program.
const MOST_TOGETHER: usize = 48 << 20;
const MOST_OBJECTS: usize = 100;

/// Random networks that are made small at each place where some differ.
const MOST_SHRUNK: usize = 3;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut models, mut fast, mut require, mut integers, mut only, mut json) = (Vec::new(), false, false, false, Vec::new(), None);
    let (mut graphs, mut seed, mut dims) = (0, 1, BTreeMap::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--fast" => fast = true,
            "--require" => require = true,
            "--target" => only.extend(arguments.next()),
            "--dim" => {
                let text = arguments.next().unwrap_or_default();
                let (name, extent) = text.split_once('=').expect("NAME=N");
                dims.insert(name.to_owned(), number(Some(extent.to_owned())) as usize);
            }
            "--integers" => integers = true,
            "--json" => json = arguments.next(),
            "--graphs" => graphs = number(arguments.next()),
            "--seed" => seed = number(arguments.next()),
            _ => models.push(PathBuf::from(argument)),
        }
    }
    let mut networks: Vec<Network> = models.iter().enumerate().flat_map(|(i, path)| networks(i, path, &dims, integers)).collect();
    eprintln!("{} networks of {} models", networks.len(), models.len());
    networks.extend(random::networks(seed, graphs));
    let (mut wrong, mut lines) = (0, Vec::new());
    for place in PLACES.iter().filter(|p| (p.fast || !fast) && (only.is_empty() || only.iter().any(|o| p.is(o)))) {
        let start = std::time::Instant::now();
        match run(place, &networks) {
            Ok(hashes) => {
                let differ: Vec<&Network> = networks.iter().zip(&hashes).filter(|(n, h)| n.want != **h).map(|(n, _)| n).collect();
                println!(
                    "{}: {} of {} equal, {:.0} s",
                    place.name,
                    networks.len() - differ.len(),
                    networks.len(),
                    start.elapsed().as_secs_f64()
                );
                for (i, n) in differ.iter().enumerate() {
                    let smallest = if i < MOST_SHRUNK { random::shrunk(place, n) } else { String::new() };
                    println!("{}: DIFFERS: {}{smallest}", place.name, n.label);
                }
                wrong += differ.len();
                lines.push((place.name, networks.len() - differ.len(), differ.len()));
            }
            Err(why) => {
                println!("{}: {}: {why}", place.name, if require { "FAILED" } else { "SKIPPED" });
                wrong += usize::from(require || !why.starts_with("not installed"));
            }
        }
    }
    if let Some(path) = json {
        let all: Vec<String> = networks.iter().map(|n| format!("    {:?}: \"{:016x}\"", n.label, n.want)).collect();
        let places: Vec<String> = lines.iter().map(|(name, equal, differ)| format!("    {name:?}: [{equal}, {differ}]")).collect();
        let text = format!("{{\n  \"hashes\": {{\n{}\n  }},\n  \"targets\": {{\n{}\n  }}\n}}\n", all.join(",\n"), places.join(",\n"));
        fs::write(path, text).expect("the results are written");
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(text: Option<String>) -> u64 {
    text.and_then(|t| t.parse().ok()).expect("a number")
}

/// A model in float and in integers; a form that does not compile is left out, with a line that says so.
fn networks(number: usize, path: &Path, dims: &BTreeMap<String, usize>, integers: bool) -> Vec<Network> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = Vec::new();
    for (form, bits) in [("int8", "8"), ("float", "float")].into_iter().take(if integers { 1 } else { 2 }) {
        let label = format!("{stem} {form}");
        match network(number, path, dims, form, bits) {
            Ok(network) => all.push(Network { label, ..network }),
            Err(why) => eprintln!("{label}: left out: {why}"),
        }
    }
    all
}

fn network(number: usize, path: &Path, dims: &BTreeMap<String, usize>, form: &str, bits: &str) -> Result<Network, String> {
    let first = |f: quernel::Failure| f.0.first().map_or_else(String::new, |d| format!("{:?}: {}", d.code, d.message));
    let model = Model::read(path, &ModelOptions { dims: dims.clone(), ..ModelOptions::default() }).map_err(first)?;
    let mut compiler = Compiler { bits: parse_bits(bits).map_err(first)?, ..Compiler::default() };
    // A model that arrives quantized needs no ranges.
    let compiled = match compiler.compile(&model, &mut |_| ()) {
        Err(f) if f.0.iter().any(|d| d.code == quernel::ir::Code::NoSamples) => {
            compiler.calibration = Calibration::Random(1);
            compiler.compile(&model, &mut |_| ())
        }
        other => other,
    };
    let mut compiled = compiled.map_err(first)?;
    compiled.name = format!("m{number}_{form}");
    let program = compiled.program().map_err(first)?;
    let samples = Samples::random(&model.inputs(), 1).get(0).map_err(|d| d.message)?;
    let inputs = encode_for(program, &samples).map_err(first)?;
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|t: &Tensor| t.bytes().to_vec()).collect();
    let borrowed: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let outputs = interp::run_program(program, &borrowed).map_err(|d| d.message)?;
    let want = program::hash(program.outputs.iter().map(|p| &p.ty).zip(outputs.iter().map(Vec::as_slice)));
    Ok(Network { label: String::new(), compiled, inputs, want, graph: None })
}

/// FNV-1a, as in the C program.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x100_0000_01b3;

/// The hash of every network at a place.
fn run(place: &Place, networks: &[Network]) -> Result<Vec<u64>, String> {
    for tool in [place.cc, place.run[0]] {
        if Command::new(tool).arg("--version").output().is_err() {
            return Err(format!("not installed: {tool}"));
        }
    }
    let target = Target::parse(Some(place.triple), Some(place.cpu)).map_err(|d| d.message)?;
    let big = place.triple == S390X;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (mut hashes, mut at) = (Vec::new(), 0);
    while at < networks.len() {
        let (mut bytes, mut count, mut objects) = (0, 0, Vec::new());
        while at + count < networks.len() && count < MOST_OBJECTS && (count == 0 || bytes < MOST_TOGETHER) {
            let network = &networks[at + count];
            let level = if target.is_multi() { None } else { Some(place.level) };
            let compiled = Compiled { target: target.clone(), level, ..network.compiled.clone() };
            let path = folder.path().join(format!("{}.o", compiled.name));
            let (files, _) = artifacts::write(&compiled, &path, &[artifacts::Emit::Object, artifacts::Emit::Header])
                .map_err(|f| format!("{}: {f}", network.label))?;
            verified(&files).map_err(|fault| format!("{}: {fault}", network.label))?;
            bytes += files[0].bytes.len();
            count += 1;
            objects.push(path);
        }
        let batch = &networks[at..at + count];
        fs::write(folder.path().join("main.c"), program::source(batch)).map_err(|e| e.to_string())?;
        let data: Vec<u8> = batch.iter().flat_map(|n| program::data(n, big)).collect();
        fs::write(folder.path().join("data"), data).map_err(|e| e.to_string())?;
        let program = folder.path().join("main.exe");
        let mut link = Command::new(place.cc);
        link.current_dir(folder.path()).args(["-O1", "-static", "main.c", "-o", "main.exe"]).args(&objects);
        finish(&mut link)?;
        let mut start = Command::new(place.run[0]);
        start
            .args(&place.run[1..])
            .arg(program)
            .arg("data")
            .current_dir(folder.path())
            .env("WINEDEBUG", "-all")
            .env("WINEPREFIX", folder.path().join("wine"));
        let said = finish(&mut start)?;
        let found: Vec<u64> = said.split_whitespace().filter_map(|w| u64::from_str_radix(w, 16).ok()).collect();
        if found.len() != count {
            return Err(format!("{} hashes of {count} networks", found.len()));
        }
        hashes.extend(found);
        at += count;
        objects.iter().for_each(|o| drop(fs::remove_file(o)));
    }
    Ok(hashes)
}

/// Whether an object with its header keeps what it promises.
fn verified(files: &[artifacts::Artifact]) -> Result<(), String> {
    let header = std::str::from_utf8(&files[1].bytes).map_err(|e| e.to_string())?;
    let faults = codegen::verify(&files[0].bytes, Some(header)).err().unwrap_or_default();
    faults.first().map_or(Ok(()), |f| Err(format!("{} does not keep its promises ({}): {}", f.place, f.promise, f.message)))
}

fn finish(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!(
        "{} ended with {}: {}",
        command.get_program().to_string_lossy(),
        output.status,
        text.lines().take(5).collect::<Vec<_>>().join(" | ")
    ))
}
