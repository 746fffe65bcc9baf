//! The frontend: ONNX bytes to a graph at stage `Imported`.
//!
//! ```text
//! bytes --prost--> messages --import--> Graph
//!                              |-- tensor.rs   initializers and constants, external data
//!                              |-- import/scopes.rs  functions, conditions, loops
//!                              |-- integers.rs shape arithmetic, evaluated here
//!                              |-- precision.rs    floats of other widths than f32
//!                              |-- narrow.rs       floats of 8 and 4 bits, integers of 4 and 2
//!                              |-- empty.rs        tensors without elements
//!                              |-- legacy.rs       forms before operator set 7
//!                              `-- ops/        one builder per operator
//! ```
//!
//! **A model file is untrusted.** Every size is checked before memory is taken for it, names are data, and every fault
//! becomes a located [`Diagnostic`](quernel_ir::Diagnostic). All unsupported operators of a file are listed at once.
//!
//! [`export`] goes the other way: a graph of any stage as an ONNX model with its quantization in it.
//!
//! **What is absent:** optimization. The graph says what the file said; only arithmetic on shapes is evaluated, because
//! the types of later operators depend on it.

mod compose;
mod empty;
mod export;
#[rustfmt::skip]
#[allow(missing_docs)]
mod generated;
mod import;
mod integers;
mod known;
mod legacy;
pub mod limits;
mod narrow;
mod node;
mod ops;
mod precision;
mod tensor;

pub use export::{EXPORTED_OPSET, export};
pub use import::import;
pub use limits::{Limits, limits_markdown};
pub use ops::{MICROSOFT, Operator, QONNX, SUPPORTED, Tested, supported_ops_markdown};

use quernel_ir::{Graph, diag::Remark};
use std::{collections::BTreeMap, path::PathBuf};

/// How a model is imported.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Extents of symbolic dimensions, by name.
    pub dims: BTreeMap<String, usize>,
    /// Inputs that become constants, by name: one number for every element, or one per element.
    pub pins: BTreeMap<String, Vec<f64>>,
    /// Name of the graph; by default the one in the file.
    pub name: Option<String>,
    /// The folder that external data may be read from. `None` refuses external data.
    pub external: Option<PathBuf>,
    /// What a file may ask for.
    pub limits: Limits,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The network at stage `Imported`.
    pub graph: Graph,
    /// Version of the default operator set.
    pub opset: i64,
    /// The program that wrote the file, if it says so.
    pub producer: Option<String>,
    /// Files beside the model that hold tensors, as the model names them; sorted.
    pub external: Vec<String>,
    /// What a user should know.
    pub remarks: Vec<Remark>,
}

/// Oldest operator set that is understood.
pub const OLDEST_OPSET: i64 = 1;
/// Newest operator set that is understood.
pub const NEWEST_OPSET: i64 = 28;

/// The messages of a file, for programs that write models or damage them.
pub mod proto {
    pub use crate::generated::*;
    use prost::Message;

    /// The message in a file; `None` when the bytes hold none.
    pub fn decode(bytes: &[u8]) -> Option<ModelProto> {
        ModelProto::decode(bytes).ok()
    }

    /// The bytes of a file.
    pub fn encode(model: &ModelProto) -> Vec<u8> {
        model.encode_to_vec()
    }
}
