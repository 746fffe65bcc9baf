//! Quernel: from an ONNX model to quantized native code.
//!
//! ```no_run
//! use quernel::{Calibration, Compiler, Emit, Model, ModelOptions, artifacts};
//!
//! let model = Model::read("model.onnx".as_ref(), &ModelOptions::default())?;
//! let compiler = Compiler { calibration: Calibration::samples("samples.npz"), ..Compiler::default() };
//! let compiled = compiler.compile(&model, &mut |_| ())?;
//! artifacts::write(&compiled, "model.o".as_ref(), &[Emit::Object, Emit::Header])?;
//! # Ok::<(), quernel::Failure>(())
//! ```
//!
//! A [`Model`] is a file that was read and imported; a [`Compiler`] turns it into a [`Compiled`] program in memory;
//! [`artifacts`] writes files; [`evaluate`] compares the float network and the compiled code on labelled samples.
//! Every function that can fail on a user's input returns a [`Failure`]: all diagnostics at once, each located.
//!
//! **What is absent:** printing, colours, exit codes; those belong to the command line.

pub mod artifacts;
mod batch_norm;
mod bench;
mod budget;
mod calibration;
mod compare;
mod compiler;
mod energy;
mod evaluate;
mod export;
mod failure;
mod html;
mod model;
mod options;
mod pareto;
mod recover;
mod report;

pub use artifacts::Emit;
pub use bench::{Bench, StepTime, bench};
pub use budget::{Budget, Choice, Chosen, Loss, Times, first_outputs};
pub use calibration::{Calibration, Progress, calibrate, inspect_ranges};
pub use compare::{LayerError, compare};
pub use compiler::{Compiled, Compiler, Timing, opt};
pub use energy::{Counters, Energy};
pub use evaluate::{Evaluation, check_against_interpreter, encode, encode_for, evaluate, outputs};
pub use export::{Exported, export};
pub use failure::{Failure, diagnostic_json};
pub use html::page;
pub use model::{Model, ModelOptions, read_file, read_text, symbol_name};
pub use options::{parse_bits, parse_bits_and_scheme, parse_calibration};
pub use pareto::{Point, pareto};
pub use recover::Recovery;
pub use report::{LayerReport, Report, to_json};

pub use quernel_codegen as codegen;
pub use quernel_float as float;
pub use quernel_interp as interp;
pub use quernel_ir as ir;
pub use quernel_lower as lower;
pub use quernel_onnx as onnx;
pub use quernel_passes as passes;
pub use quernel_quant as quant;
