//! The quantized network as an ONNX model.

use crate::{Compiler, Failure, Model, Progress, calibrate};
use quernel_ir::{Stage, diag::Remark};
use quernel_passes::{Cx, QuantizeOptions, fake_quantize_pipeline};
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
    let stop_after = if fake { Stage::Folded } else { Stage::Quantized };
    let compiler = Compiler { stop_after, ..compiler.clone() };
    let mut compiled = compiler.compile(model, progress)?;
    let mut floats = BTreeMap::new();
    if fake {
        compiler.check_ranges(model)?;
        let ranges = calibrate(model, &compiler.calibration, &mut compiled.remarks, progress)?;
        let options = QuantizeOptions {
            ranges,
            calibrator: compiler.calibrator,
            bits: compiler.bits.clone(),
            integer_io: compiler.integer_io,
            ..QuantizeOptions::default()
        };
        let mut cx = Cx::default();
        fake_quantize_pipeline(options).run(&mut compiled.graph, &mut cx, &mut |_, _| ())?;
        compiled.remarks.append(&mut cx.remarks);
        floats = cx.float_weights;
    }
    let bytes = quernel_onnx::export(&compiled.graph, &floats).map_err(|d| d.in_file(&model.file))?;
    Ok(Exported { bytes, remarks: compiled.remarks })
}
