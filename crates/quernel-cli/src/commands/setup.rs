//! From options to a model and a compiler.

use crate::{
    args::{ActivationsArg, Compiling, IoArg, Sampling},
    tables::{bytes, one_line},
};
use quernel::{
    Compiler, Failure, Model, ModelOptions, Recovery, artifacts,
    codegen::{Level, Target},
    ir::{Code, Diagnostic, Graph, text},
    onnx::Limits,
    passes::Activations,
    quant::{Calibrator, Fit, ImageOptions, Layout, SampleOptions, Transform},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

pub fn model(a: &Compiling) -> Result<Model, Failure> {
    let (dims, pins) = (a.dims.iter().cloned().collect(), a.pins.iter().cloned().collect());
    let mut limits = Limits::default();
    for (name, number) in &a.limits {
        limits.set(name, *number).map_err(|e| Diagnostic::new(Code::BadOption, e))?;
    }
    Model::read(&a.model, &ModelOptions { dims, pins, name: a.name.clone(), limits })
}

pub fn samples(a: &Sampling) -> Result<SampleOptions, Failure> {
    let per_channel = |option: &str, values: &[f32]| match *values {
        [one] => Ok([one; 3]),
        [r, g, b] => Ok([r, g, b]),
        _ => Err(Diagnostic::new(Code::BadOption, format!("{option} takes one number or three"))),
    };
    let (mean, std) = (per_channel("--mean", &a.mean)?, per_channel("--std", &a.std)?);
    if !mean.iter().chain(&std).all(|x| x.is_finite()) || std.contains(&0.0) {
        return Err(Diagnostic::new(Code::BadOption, "--mean and --std take finite numbers, and --std no zero").into());
    }
    Ok(SampleOptions {
        rename: a.arrays.iter().cloned().collect(),
        labels: a.labels.clone(),
        rows: a.rows.clone(),
        transform: Transform { subtract: a.subtract, multiply: a.multiply, layout: a.channels_last.then_some(Layout::ChannelsLast) },
        images: ImageOptions { mean, std, bgr: a.bgr, fit: if a.stretch { Fit::Stretch } else { Fit::Crop } },
    })
}

pub fn compiler(a: &Compiling) -> Result<Compiler, Failure> {
    let options = samples(&a.samples)?;
    let calibration = quernel::parse_calibration(&a.calibrate, &options);
    let level = match &a.level {
        None => None,
        Some(name) => Some(Level::parse(name).ok_or_else(|| {
            let known: Vec<&str> = Level::ALL.iter().map(|l| l.name()).collect();
            Diagnostic::new(Code::BadOption, format!("no kernel level `{name}`")).help(format!("the levels are {}", known.join(", ")))
        })?),
    };
    Ok(Compiler {
        target: Target::parse(a.target.as_deref(), a.target_cpu.as_deref())?,
        level,
        calibration,
        calibrator: Calibrator { method: a.calibrator, symmetric: a.symmetric },
        activations: match a.activations {
            ActivationsArg::Static | ActivationsArg::Sixteen | ActivationsArg::Four | ActivationsArg::Two | ActivationsArg::One => {
                Activations::Static
            }
            ActivationsArg::Dynamic => Activations::DynamicRows,
            ActivationsArg::DynamicTensor => Activations::DynamicTensors,
            ActivationsArg::Float => Activations::Float,
        },
        activation_bits: match a.activations {
            ActivationsArg::Sixteen => 16,
            ActivationsArg::Four => 4,
            ActivationsArg::Two => 2,
            ActivationsArg::One => 1,
            _ => 8,
        },
        group: a.group,
        bits: quernel::parse_bits_and_scheme(&a.bits, a.scheme.as_deref())?,
        recovery: Recovery { resume: a.resume.clone(), ..a.recover.clone() },
        budget: a.budget,
        integer_io: a.io == IoArg::Int8,
        ..Compiler::default()
    })
}

/// Prints a graph for reading, or writes it with all of its data, and what belongs beside it.
pub fn graph(graph: &Graph, out: Option<&Path>, beside: Option<(&Path, String)>) -> Result<(), Failure> {
    let Some(out) = out else { return print(&graph.to_string()) };
    let whole = text::print_full(graph);
    if out.as_os_str() == "-" {
        return print_bytes(whole.as_bytes());
    }
    let mut files = vec![(out, whole.as_bytes())];
    files.extend(beside.as_ref().map(|(path, text)| (*path, text.as_bytes())));
    artifacts::save(&files)?;
    print(&format!("wrote {} ({})\n", out.display(), bytes(whole.len())))
}

/// Writes data to standard output. A closed pipe ends the output quietly: the reader has seen enough.
pub fn print(text: &str) -> Result<(), Failure> {
    // Names of a model are a stranger's text. The escapes are those of JSON, which may be what is printed.
    let out: Vec<String> = text.split('\n').map(one_line).collect();
    print_bytes(out.join("\n").as_bytes())
}

/// Every file that a compilation reads.
pub fn read(a: &Compiling, model: &Model, compiler: &Compiler) -> Vec<PathBuf> {
    let bits = Some(PathBuf::from(&a.bits)).filter(|p| p.extension().is_some_and(|e| e == "toml"));
    model.files().into_iter().chain(compiler.calibration.files()).chain(bits).collect()
}

/// Writes bytes to standard output.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Diagnostic::new(Code::OutputNotWritable, format!("cannot write to standard output: {e}")).into())
        }
        _ => Ok(()),
    }
}
