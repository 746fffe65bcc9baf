//! From options to a model and a compiler.

use crate::args::{CalibratorArg, Compiling, Sampling};
use quernel::{
    Calibration, Compiler, Failure, Model, ModelOptions,
    codegen::{Level, Target},
    ir::{Code, Diagnostic},
    quant::{Bits, Calibrator, Layout, SampleOptions, Transform},
};
use std::{io::Write, path::Path};

pub fn model(a: &Compiling) -> Result<Model, Failure> {
    Model::read(&a.model, &ModelOptions { dims: a.dims.iter().cloned().collect(), name: a.name.clone() })
}

pub fn samples(a: &Sampling) -> SampleOptions {
    SampleOptions {
        rename: a.arrays.iter().cloned().collect(),
        rows: a.rows.clone(),
        transform: Transform { subtract: a.subtract, multiply: a.multiply, layout: a.channels_last.then_some(Layout::ChannelsLast) },
    }
}

/// Samples used by `--calibrate random`.
const RANDOM_SAMPLES: usize = 16;

pub fn compiler(a: &Compiling) -> Result<Compiler, Failure> {
    let calibration = match &a.calibrate {
        None => Calibration::None,
        Some(path) if path.as_os_str() == "random" => Calibration::Random(RANDOM_SAMPLES),
        Some(path) => match Calibration::samples(path) {
            Calibration::Samples(path, _) => Calibration::Samples(path, samples(&a.samples)),
            other => other,
        },
    };
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
        calibrator: match a.calibrator {
            CalibratorArg::Minmax => Calibrator::MinMax,
            CalibratorArg::Mse => Calibrator::Mse,
        },
        bits: bits(&a.bits)?,
        bias_correct: !a.no_bias_correct,
        ..Compiler::default()
    })
}

/// A width, or the path of a bits.toml.
fn bits(text: &str) -> Result<Bits, Failure> {
    if let Ok(width) = text.parse() {
        return Ok(Bits::uniform(width));
    }
    let path = Path::new(text);
    if path.extension().is_none_or(|e| e != "toml") {
        return Err(Diagnostic::new(Code::BadOption, format!("{text:?} is not a bit width"))
            .help("8, 7, 6, 5, 4, 3, 2, float, or the path of a bits.toml")
            .into());
    }
    let toml = std::fs::read_to_string(path)
        .map_err(|e| Diagnostic::new(Code::FileNotFound, format!("cannot read the file: {e}")).in_file(text))?;
    Bits::from_toml(&toml).map_err(|d| d.in_file(text).into())
}

/// Writes data to standard output. A closed pipe ends the output quietly: the reader has seen enough.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
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
