//! The cases of every pass: a folder per pass, a file per case. `cargo xtask bless` rewrites the snapshots.

use quernel_passes::{Activations, Pass, QuantizeOptions, by_name};
use quernel_quant::{Bits, Width};
use quernel_test::{Promise, check_pass_after, load, ranges};
use std::path::Path;

/// Runs the pass named by the folder after the passes `before`, with ranges observed on the case.
fn check(path: &Path, before: &[&str], promise: Promise) -> datatest_stable::Result<()> {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    // A bits.toml beside a case belongs to it.
    let bits = std::fs::read_to_string(path.with_extension("toml"))
        .map_or_else(|_| Bits::uniform(Width::Int(8)), |toml| Bits::from_toml(&toml).unwrap_or_else(|d| panic!("{d}")));
    let integer_io = folder == "integer-io";
    // Passes that fold ask for no ranges, and some of their cases compute what has none.
    let ranges = (folder == "choose-bits" || matches!(promise, Promise::Noise(_) | Promise::Nothing)).then(|| ranges(&load(path)));
    let activations = match &*folder {
        "dynamic-quantize" => Activations::DynamicRows,
        _ if alone(path) => Activations::Float,
        _ => Activations::Static,
    };
    let group = alone(path).then_some(8);
    let options = QuantizeOptions { integer_io, ranges, activations, group, bits, ..QuantizeOptions::default() };
    let pass = |name: &str| by_name(name, &options).unwrap_or_else(|| panic!("no pass {name}"));
    let before: Vec<Box<dyn Pass>> = before.iter().map(|name| pass(name)).collect();
    let before: Vec<&dyn Pass> = before.iter().map(AsRef::as_ref).collect();
    check_pass_after(&before, &*pass(&folder), path, promise);
    Ok(())
}

/// Whether a case is about weights whose layers read floats.
fn alone(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("alone_"))
}

const CLOSE: Promise = Promise::Close(1e-5);
const NOISE: Promise = Promise::Noise(30.0);

fn exact(path: &Path) -> datatest_stable::Result<()> {
    check(path, &[], Promise::Exact)
}
fn close(path: &Path) -> datatest_stable::Result<()> {
    check(path, &[], CLOSE)
}
fn rounded(path: &Path) -> datatest_stable::Result<()> {
    check(path, &["choose-bits"], NOISE)
}
fn weights(path: &Path) -> datatest_stable::Result<()> {
    if alone(path) {
        return check(path, &["choose-bits"], NOISE);
    }
    check(path, &["choose-bits", "insert-quantize"], NOISE)
}
fn biases(path: &Path) -> datatest_stable::Result<()> {
    check(path, &["choose-bits", "insert-quantize", "quantize-weights"], NOISE)
}
fn integers(path: &Path) -> datatest_stable::Result<()> {
    check(path, &["choose-bits", "insert-quantize", "quantize-weights"], NOISE)
}
fn interface(path: &Path) -> datatest_stable::Result<()> {
    check(path, &["choose-bits", "insert-quantize", "quantize-weights", "push-requantize", "dead-code"], Promise::Nothing)
}

datatest_stable::harness! {
    { test = exact, root = "tests/dead-code", pattern = r"\.qir$" },
    { test = exact, root = "tests/fold-constants", pattern = r"\.qir$" },
    { test = exact, root = "tests/fuse-residual", pattern = r"\.qir$" },
    { test = exact, root = "tests/fuse-activation", pattern = r"\.qir$" },
    { test = exact, root = "tests/activation-signs", pattern = r"\.qir$" },
    { test = exact, root = "tests/equalize", pattern = r"\.qir$" },
    { test = exact, root = "tests/choose-bits", pattern = r"\.qir$" },
    { test = close, root = "tests/canonicalize", pattern = r"\.qir$" },
    { test = close, root = "tests/recognize-activations", pattern = r"\.qir$" },
    { test = close, root = "tests/fold-batch-norm", pattern = r"\.qir$" },
    { test = rounded, root = "tests/insert-quantize", pattern = r"\.qir$" },
    { test = rounded, root = "tests/dynamic-quantize", pattern = r"\.qir$" },
    { test = weights, root = "tests/quantize-weights", pattern = r"\.qir$" },
    { test = biases, root = "tests/bias-correct", pattern = r"\.qir$" },
    { test = integers, root = "tests/push-requantize", pattern = r"\.qir$" },
    { test = interface, root = "tests/integer-io", pattern = r"\.qir$" },
}
