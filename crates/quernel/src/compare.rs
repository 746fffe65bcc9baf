//! What quantization costs, layer by layer: the quantized graph against the float graph it was made from.
//!
//! Two figures per layer. **Local**: the layer computes on the float network's values, rounded to its operand types, so
//! only its own rounding shows. **Accumulated**: the layer's value in the quantized network, everything before it
//! included. Both run in the reference interpreter.

use crate::{Compiled, Failure, Progress};
use quernel_interp::{eval_node, run_graph_with};
use quernel_ir::{Diagnostic, Graph, Node, Op, Tensor, TensorTy, Value};
use quernel_quant::{Samples, metrics::Noise};
use serde::Serialize;
use std::collections::BTreeMap;

/// Signal to noise of one layer, in dB.
#[derive(Clone, Debug, Serialize)]
pub struct LayerError {
    /// ONNX nodes it came from.
    pub layer: String,
    /// Operator.
    pub operator: String,
    /// On the float network's values.
    pub local_db: f64,
    /// In the quantized network.
    pub accumulated_db: f64,
}

/// Compares every value that both graphs hold, over all samples.
///
/// # Errors
/// A compilation that kept no float graph (nothing was quantized, or it stopped early), or samples that do not fit.
pub fn compare(compiled: &Compiled, samples: &Samples, progress: &mut dyn FnMut(Progress)) -> Result<Vec<LayerError>, Failure> {
    let Some(float) = &compiled.folded else {
        return Err(Diagnostic::bug("the compilation kept no float graph to compare with").into());
    };
    let quantized = &compiled.graph;
    let nodes: Vec<Node> = quantized.order.iter().copied().filter(|&n| is_layer(quantized, n)).collect();
    let mut local: BTreeMap<Node, Noise> = BTreeMap::new();
    let mut accumulated: BTreeMap<Node, Noise> = BTreeMap::new();
    for i in 0..samples.len() {
        let inputs = samples.get(i)?;
        let mut want: BTreeMap<String, Tensor> = BTreeMap::new();
        run_graph_with(float, &inputs, &mut |v, t| {
            want.insert(float.values[v].name.clone(), t.clone());
        })?;
        let mut got: BTreeMap<Value, Tensor> = BTreeMap::new();
        let encoded = crate::encode(quantized.inputs.iter().map(|&v| quantized.ty(v)), &inputs)?;
        run_graph_with(quantized, &encoded, &mut |v, t| {
            got.insert(v, t.clone());
        })?;
        for &n in &nodes {
            let node = &quantized.nodes[n];
            let result = node.result();
            let Some(reference) = want.get(&quantized.values[result].name).and_then(Tensor::to_f32) else { continue };
            if let Some(value) = got.get(&result).map(real).transpose()? {
                accumulated.entry(n).or_default().add(&reference, &value);
            }
            if let Some(value) = alone(quantized, n, &want)? {
                local.entry(n).or_default().add(&reference, &real(&value)?);
            }
        }
        progress(Progress { what: "comparing", done: i + 1, of: samples.len() });
    }
    let db = |all: &BTreeMap<Node, Noise>, n: &Node| all.get(n).map_or(f64::NAN, Noise::db);
    Ok(nodes
        .iter()
        .filter(|n| accumulated.contains_key(n))
        .map(|n| LayerError {
            layer: quantized.describe(*n),
            operator: quantized.nodes[*n].op.mnemonic().into(),
            local_db: db(&local, n),
            accumulated_db: db(&accumulated, n),
        })
        .collect())
}

/// Operators that round on their own account.
fn is_layer(g: &Graph, n: Node) -> bool {
    let node = &g.nodes[n];
    let reads_integers = node.args.first().is_some_and(|a| g.ty(*a).elem.quant().is_some());
    reads_integers && !node.op.moves_only() && !matches!(node.op, Op::Dequantize | Op::Requantize)
}

/// The node on the float network's values; `None` where one of them is not known by name.
fn alone(g: &Graph, n: Node, want: &BTreeMap<String, Tensor>) -> Result<Option<Tensor>, Diagnostic> {
    let node = &g.nodes[n];
    let mut args = Vec::new();
    for &a in &node.args {
        if let Some(t) = g.tensor(a) {
            args.push(t.clone());
            continue;
        }
        let Some(t) = want.get(&g.values[a].name).filter(|t| t.ty.dims == g.ty(a).dims) else { return Ok(None) };
        args.push(if g.ty(a).elem.is_f32() { t.clone() } else { eval_node(&Op::Quantize, &[t], g.ty(a))? });
    }
    eval_node(&node.op, &args.iter().collect::<Vec<_>>(), g.ty(node.result())).map(Some)
}

/// The real numbers of a tensor.
fn real(t: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    let floats = if t.ty.elem.quant().is_some() { &eval_node(&Op::Dequantize, &[t], &TensorTy::f32(t.ty.dims.clone()))? } else { t };
    floats.to_f32().ok_or_else(|| Diagnostic::bug(format!("a value of type {} is no real number", t.ty)))
}
