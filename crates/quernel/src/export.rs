//! The quantized network as an ONNX model.

use crate::{Compiler, Failure, Model, Progress};
use quernel_ir::{Stage, diag::Remark};
use std::collections::BTreeMap;

/// An ONNX model in memory.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// Everything worth knowing that stopped nothing.
    pub remarks: Vec<Remark>,
}

/// Quantizes a model as [`Compiler::compile`] does and writes the result as ONNX: rounded weights as integers, roundings as
/// `QuantizeLinear` and `DequantizeLinear`. With `fake`, weights stay floats that the model rounds, as training needs them.
pub fn export(compiler: &Compiler, model: &Model, fake: bool, progress: &mut dyn FnMut(Progress)) -> Result<Exported, Failure> {
    let (graph, floats, remarks) = if fake {
        compiler.check_ranges(model)?;
        let (graph, _, cx) = compiler.rounded(model, progress)?;
        (graph, cx.float_weights, [model.imported.remarks.clone(), cx.remarks].concat())
    } else {
        let compiled = Compiler { stop_after: Stage::Quantized, ..compiler.clone() }.compile(model, progress)?;
        (compiled.graph, BTreeMap::new(), compiled.remarks)
    };
    let bytes = quernel_onnx::export(&graph, &floats).map_err(|d| d.in_file(&model.file))?;
    Ok(Exported { bytes, remarks })
}
