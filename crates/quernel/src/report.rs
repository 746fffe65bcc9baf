//! The JSON report.

use crate::{Compiled, Energy, Failure, LayerError};
use quernel_codegen::Object;
use quernel_ir::{
    Graph,
    program::{Base, What},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was made, for people and tools. The same compilation gives the same report: no times, no paths.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this format.
    pub format: u32,
    /// Prefix of every symbol.
    pub name: String,
    /// Target triple and CPU.
    pub target: String,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Bytes of machine code.
    pub code_bytes: usize,
    /// Bytes of constants.
    pub constant_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// The largest sum of values alive at once: no arena can be smaller.
    pub arena_lower_bound: usize,
    /// Bytes of stack one call needs.
    pub stack_bytes: usize,
    /// Energy of a run by the model of [`crate::Energy`].
    pub energy_model: Energy,
    /// Inputs: name and type.
    pub inputs: Vec<(String, String)>,
    /// Outputs: name and type.
    pub outputs: Vec<(String, String)>,
    /// Layers in order of execution.
    pub layers: Vec<LayerReport>,
    /// Everything worth knowing that stopped nothing.
    pub remarks: Vec<String>,
}

/// A result as JSON text; infinite figures become null.
pub fn to_json(result: &impl Serialize) -> String {
    serde_json::to_string(result).unwrap_or_default()
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// ONNX nodes it came from.
    pub name: String,
    /// Operator.
    pub kind: String,
    /// Kernel of its heaviest step.
    pub kernel: String,
    /// Cycles of that kernel that the cost model predicts on the core it was fitted on (Zen 4), where it has a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_cycles: Option<u64>,
    /// Whether it computes in integers.
    pub integer: bool,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Bytes of the weights in the object, packed as its kernel reads them.
    pub weight_bytes: usize,
    /// Bits of a weight; `None` for floats and for layers without weights.
    pub weight_bits: Option<u8>,
    /// Unused bits above the largest possible sum, from the proof that it fits 32.
    pub headroom_bits: Option<u32>,
    /// What passes and lowering said of it.
    pub remarks: Vec<String>,
    /// What its rounding costs, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<LayerError>,
}

impl Report {
    /// As JSON text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
    /// The report of a compiled object.
    pub fn new(compiled: &Compiled, object: &Object) -> Result<Self, Failure> {
        let program = compiled.program()?;
        let ports = |ports: &[quernel_ir::program::Port]| ports.iter().map(|p| (p.name.clone(), p.ty.to_string())).collect();
        let bits = weight_bits(&compiled.graph);
        let layers = compiled
            .layers
            .iter()
            .map(|layer| {
                let steps = &program.steps[layer.steps.clone()];
                let weight = |i: &usize| (steps[*i].what.macs(), !matches!(steps[*i].what, What::Move { .. } | What::Fill { .. }));
                let heaviest = (0..steps.len()).max_by_key(weight);
                let function = |i: usize| object.step_functions.get(layer.steps.start + i).and_then(|f| object.functions.get(*f));
                let leaf =
                    |i: usize| function(i).filter(|f| !f.kernel.is_empty()).map_or_else(|| steps[i].how.clone(), |f| f.kernel.clone());
                LayerReport {
                    name: layer.name.clone(),
                    kind: layer.kind.to_string(),
                    kernel: heaviest.map(leaf).unwrap_or_default(),
                    predicted_cycles: heaviest.and_then(function).and_then(|f| f.cycles),
                    integer: layer.integer,
                    macs: layer.macs,
                    weight_bytes: steps.iter().filter_map(stored_weights).sum(),
                    weight_bits: bits.get(&layer.name).copied(),
                    headroom_bits: layer.headroom_bits(),
                    remarks: compiled.remarks.iter().filter(|r| r.at == layer.name).map(|r| r.message.clone()).collect(),
                    error: None,
                }
            })
            .collect();
        Ok(Self {
            format: 1,
            name: compiled.name.clone(),
            target: compiled.target.to_string(),
            macs: program.macs(),
            code_bytes: object.code_bytes,
            constant_bytes: object.rodata_bytes,
            arena_bytes: program.arena_bytes,
            arena_lower_bound: program.arena_lower_bound,
            stack_bytes: object.stack_bytes,
            energy_model: Energy::modelled(program),
            inputs: ports(&program.inputs),
            outputs: ports(&program.outputs),
            layers,
            remarks: compiled.remarks.iter().map(ToString::to_string).collect(),
        })
    }
}

/// Width of the weights of every layer that has quantized ones, by the layer's name.
fn weight_bits(g: &Graph) -> BTreeMap<String, u8> {
    let quantized = |&n: &quernel_ir::Node| {
        let node = &g.nodes[n];
        let quant = g.ty(*node.args.get(1)?).elem.quant()?;
        node.op.epilogue().map(|_| (g.describe(n), quant.storage().bits()))
    };
    g.order.iter().filter_map(quantized).collect()
}

/// Bytes of the weights of a step in the object.
fn stored_weights(step: &quernel_ir::program::Step) -> Option<usize> {
    match step.what {
        What::Conv { .. } | What::ConvCodes { .. } | What::ConvFloat { .. } => {
            step.reads.get(1).filter(|s| matches!(s.base, Base::Blob(_))).map(|s| s.bytes)
        }
        What::Expand { .. } => step.reads.first().map(|s| s.bytes),
        What::ExpandFloat { .. } => Some(step.reads.iter().take(2).map(|s| s.bytes).sum()),
        _ => None,
    }
}
