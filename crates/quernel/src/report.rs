//! The JSON report.

use crate::{Compiled, Energy, Failure, LayerError};
use quernel_codegen::Object;
use quernel_ir::{
    Graph, Quant, Scheme,
    program::{Base, Slot, Step, What},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// What a weight's code means: `linear`, or the table; `None` for floats and for layers without weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Bits that a weight takes in the object, of every run of panels that differs from the one before it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stored_bits: Vec<u8>,
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
        let quants = weight_types(&compiled.graph);
        let layers = compiled
            .layers
            .iter()
            .map(|layer| {
                let steps: Vec<&Step> = layer.steps.iter().filter_map(|i| program.steps.get(*i)).collect();
                let weight = |i: &usize| (steps[*i].what.macs(), !matches!(steps[*i].what, What::Move { .. } | What::Fill { .. }));
                let heaviest = (0..steps.len()).max_by_key(weight);
                let function =
                    |i: usize| layer.steps.get(i).and_then(|i| object.step_functions.get(*i)).and_then(|f| object.functions.get(*f));
                let leaf =
                    |i: usize| function(i).filter(|f| !f.kernel.is_empty()).map_or_else(|| steps[i].how.clone(), |f| f.kernel.clone());
                LayerReport {
                    name: layer.name.clone(),
                    kind: layer.kind.to_string(),
                    kernel: heaviest.map(leaf).unwrap_or_default(),
                    predicted_cycles: predicted(&|i| function(i).and_then(|f| f.cycles), &steps),
                    integer: layer.integer,
                    macs: layer.macs,
                    weight_bytes: stored_weights(steps.iter().copied()),
                    weight_bits: quants.get(&layer.name).map(|q| q.storage().bits()),
                    scheme: quants.get(&layer.name).map(|q| scheme(q)),
                    stored_bits: stored_bits(&steps),
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

/// Type of the weights of every layer that has quantized ones, by the layer's name.
fn weight_types(g: &Graph) -> BTreeMap<String, &Quant> {
    let quantized = |&n: &quernel_ir::Node| {
        let node = &g.nodes[n];
        let quant = g.ty(*node.args.get(1)?).elem.quant()?;
        node.op.epilogue().map(|_| (g.describe(n), quant))
    };
    g.order.iter().filter_map(quantized).collect()
}

/// Cycles of a layer by the cost model; `None` where a step that multiplies has no model.
fn predicted(cycles: &dyn Fn(usize) -> Option<u64>, steps: &[&Step]) -> Option<u64> {
    let heavy: Option<Vec<u64>> = (0..steps.len()).filter(|i| steps[*i].what.macs() > 0).map(cycles).collect();
    heavy.filter(|c| !c.is_empty()).map(|c| c.iter().sum())
}

/// What codes mean, as `--scheme` calls it where a table says so.
fn scheme(q: &Quant) -> String {
    match q.scheme() {
        Scheme::PerTensor { .. } | Scheme::PerAxis { .. } => "linear".into(),
        Scheme::Grouped { group, .. } => format!("linear, groups of {group}"),
        Scheme::Table { table, .. } => match table[..] {
            [-1, 1] => "binary".into(),
            [-1, 0, 1, 0] => "ternary".into(),
            _ => format!("table of {}", table.len()),
        },
    }
}

/// Bits of weights in memory, step by step, without repetition of neighbours.
fn stored_bits(steps: &[&Step]) -> Vec<u8> {
    let constant = |s: &Step| s.reads.get(1).is_some_and(|r| matches!(r.base, Base::Blob(_)));
    let mut bits: Vec<u8> = (steps.iter())
        .filter_map(|s| match s.what {
            What::ConvCodes { bits, .. } | What::Expand { bits, .. } | What::ExpandFloat { bits, .. } => Some(bits),
            What::ConvBits { .. } => Some(1),
            What::Conv { .. } | What::ConvWords { .. } if constant(s) => Some(8),
            What::ConvFloat { .. } if constant(s) => Some(32),
            _ => None,
        })
        .collect();
    bits.dedup();
    bits
}

/// Bytes of the weights of steps in the object. Steps of strips read the same ones.
pub(crate) fn stored_weights<'s>(steps: impl IntoIterator<Item = &'s Step>) -> usize {
    let slots: BTreeSet<(Base, usize, usize)> =
        steps.into_iter().flat_map(weight_slots).filter(|s| matches!(s.base, Base::Blob(_))).map(|s| (s.base, s.offset, s.bytes)).collect();
    slots.iter().map(|(.., bytes)| bytes).sum()
}

/// Where the weights of a step lie.
fn weight_slots(step: &Step) -> &[Slot] {
    match step.what {
        What::Conv { .. } | What::ConvWords { .. } | What::ConvCodes { .. } | What::ConvBits { .. } | What::ConvFloat { .. } => {
            step.reads.get(1..2).unwrap_or_default()
        }
        What::Expand { .. } => step.reads.get(..1).unwrap_or_default(),
        What::ExpandFloat { .. } => step.reads.get(..2).unwrap_or_default(),
        _ => &[],
    }
}
