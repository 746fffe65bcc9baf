//! Chores of this repository: `cargo xtask COMMAND`.
//!
//! Depends on the light crates only, so that a chore starts in seconds and `check` reports bad formatting before
//! anything large is built.

mod bless;
mod check;
mod conformance;
mod docs;
mod figures;
mod hostile;
mod ort;
mod proto;
mod python;
mod quantization;
mod targets;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// A chore: its arguments in, a line about what went wrong out.
type Run = fn(&[String]) -> Result<(), String>;

/// Name, arguments and purpose for the usage text, function.
const COMMANDS: &[(&str, &str, Run)] = &[
    ("check", "everything a change must pass; stops at the first failure", check::run),
    ("bless [FILTER]", "rewrites snapshots that differ and lists what changed", bless::run),
    ("costs CPU", "fits the cost model of the AVX-512 layers to this machine and writes its table", costs),
    (
        "conformance [--check] [--filter X]",
        "runs ONNX's backend test suite and writes its results; --check fails where a case that passed does not",
        conformance::run,
    ),
    ("differential [--graphs N] [--seed S]", "executes random networks in every way and compares the bytes", differential),
    ("docs [--check]", "writes the generated pages of docs/; --check only says whether one is stale", docs::run),
    ("figures [quantization]", "measures what the README (or docs/quantization.md) claims and writes its tables", figures::run),
    (
        "hostile [CORPUS] [--fast] [--filter X] [--all] [--quernel PATH]",
        "compiles hostile files in limited processes and judges the answers",
        hostile::run,
    ),
    ("layers [--count N] [--seed S]", "compares random layers with the interpreter, between inaccessible pages", layers),
    (
        "targets [--fast] [--models DIR] [--graphs N] [--seed S]",
        "runs whole networks on every target, emulated, and compares their hashes with the interpreter's",
        targets::run,
    ),
    (
        "ort [--check] [--full] [--generated DIR]",
        "compares models that arrive or leave quantized with ONNX Runtime; --check passes where there is no package index",
        ort::run,
    ),
    ("proto [--check]", "makes the Rust form of the ONNX messages from their description", proto::run),
    ("qat", "trains the digits network at few bits on its exported form and says what that gains", ort::qat),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = |row: &(&'static str, &str, Run)| row.0.split(' ').next().unwrap_or_default();
    let Some(command) = COMMANDS.iter().find(|row| arguments.first().is_some_and(|a| a == name(row))) else {
        eprintln!("usage: cargo xtask COMMAND\n");
        for (form, purpose, _) in COMMANDS {
            eprintln!("  {form:<29} {purpose}");
        }
        return ExitCode::from(2);
    };
    match (command.2)(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask {}: {why}", name(command));
            ExitCode::FAILURE
        }
    }
}

fn costs(arguments: &[String]) -> Result<(), String> {
    let [cpu] = arguments else { return Err("takes the name of this CPU, such as znver4".to_owned()) };
    let table = root().join("crates/quernel-codegen/src/leaf/cost_table.rs");
    let mut run = command("cargo");
    run.args(["run", "--release", "-p", "quernel-codegen", "--example", "costs", "--"]).arg(cpu).arg(table);
    succeed(run, "costs")
}

fn layers(arguments: &[String]) -> Result<(), String> {
    let mut run = command("cargo");
    run.args(["run", "--release", "-p", "quernel-codegen", "--example", "check_layers", "--"]).args(arguments);
    succeed(run, "check_layers")
}

fn differential(arguments: &[String]) -> Result<(), String> {
    let mut run = command(&program("quernel-fuzz")?.to_string_lossy());
    run.arg("differential").args(arguments);
    succeed(run, "quernel-fuzz differential")
}

/// Builds a program of the workspace, and names it. The whole workspace decides on features of dependencies, so that no
/// chore builds them once more.
fn program(name: &str) -> Result<PathBuf, String> {
    let mut build = command("cargo");
    build.args(["build", "-q", "--release", "--workspace", "--bin", name]);
    succeed(build, &format!("cargo build --bin {name}"))?;
    Ok(root().join("target/release").join(name))
}

/// The folder of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `program` to be run in the workspace's folder; `cargo` is the one that runs this chore.
fn command(program: &str) -> Command {
    let cargo = std::env::var_os("CARGO").filter(|_| program == "cargo");
    let mut command = Command::new(cargo.unwrap_or_else(|| program.into()));
    command.current_dir(root());
    command
}

/// Runs to the end; a failure to start or an exit status other than 0 is an error.
fn succeed(mut command: Command, line: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(why) => Err(format!("`{line}` did not start: {why}")),
    }
}

fn no_arguments(arguments: &[String]) -> Result<(), String> {
    if arguments.is_empty() { Ok(()) } else { Err(format!("takes no arguments, not {:?}", arguments.join(" "))) }
}
