//! What quantization costs, layer by layer: the quantized graph against the float graph it was made from.
//!
//! Three figures per layer, all in the reference interpreter. **Local**: the layer computes on the float network's values,
//! rounded to its operand types, so only its own rounding shows. **Accumulated**: the layer's value in the quantized
//! network, everything before it included. **Alone**: the float network with this layer's rounding and no other, judged
//! at the network's output; the lowest names the layer to blame.

use crate::{Compiled, Failure, Progress};
use quernel_interp::{eval_node, run_graph_with};
use quernel_ir::{Def, Diagnostic, Graph, Id, Node, Op, Tensor, TensorTy, Value, exact};
use quernel_quant::{Distribution, Moments, Samples, metrics::Noise};
use serde::Serialize;
use std::collections::BTreeMap;

/// What rounding does to one layer. Ratios of signal to noise in dB; infinite where nothing differs.
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
    /// Of the network's outputs, if this layer alone were quantized; `None` where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alone_db: Option<f64>,
    /// Cosine of the angle between the layer's value in both networks.
    pub cosine: f64,
    /// Share of the float network's values outside the range of the result's type.
    pub clipped_percent: f64,
    /// Class of the float weights; `None` for layers without weights.
    pub weights: Option<Distribution>,
    /// Class of the float network's values.
    pub values: Distribution,
}

/// What was summed over the samples for a layer.
#[derive(Default)]
struct Sums {
    local: Noise,
    accumulated: Noise,
    alone: Noise,
    clipped: u64,
    elements: u64,
    moments: Moments,
    seen: bool,
}

/// Compares every value that both graphs hold, over all samples. `blame` measures each layer alone, which runs the float
/// network once per layer.
///
/// # Errors
/// A compilation that kept no float graph (nothing was quantized, or it stopped early), or samples that do not fit.
pub fn compare(
    compiled: &Compiled,
    samples: &Samples,
    blame: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<LayerError>, Failure> {
    let Some(float) = &compiled.folded else {
        return Err(Diagnostic::bug("the compilation kept no float graph to compare with").into());
    };
    let quantized = &compiled.graph;
    let nodes: Vec<Node> = quantized.order.iter().copied().filter(|&n| is_layer(quantized, n)).collect();
    let in_float: BTreeMap<&str, Value> =
        float.order.iter().map(|&n| float.nodes[n].result()).map(|v| (&*float.values[v].name, v)).collect();
    let mut all: BTreeMap<Node, Sums> = BTreeMap::new();
    let steps = samples.len() * if blame { nodes.len().max(1) } else { 1 };
    for i in 0..samples.len() {
        let inputs = samples.get(i)?;
        let mut values: Vec<Option<Tensor>> = vec![None; float.values.len()];
        let mut want: BTreeMap<String, Tensor> = BTreeMap::new();
        run_graph_with(float, &inputs, &mut |v, t| {
            values[v.index()] = Some(t.clone());
            want.insert(float.values[v].name.clone(), t.clone());
        })?;
        let mut got: BTreeMap<Value, Tensor> = BTreeMap::new();
        let encoded = crate::encode(quantized.inputs.iter().map(|&v| quantized.ty(v)), &inputs)?;
        run_graph_with(quantized, &encoded, &mut |v, t| {
            got.insert(v, t.clone());
        })?;
        for (at, &n) in nodes.iter().enumerate() {
            let node = &quantized.nodes[n];
            let result = node.result();
            let name = &quantized.values[result].name;
            let Some(reference) = want.get(name).and_then(Tensor::to_f32) else { continue };
            let sums = all.entry(n).or_default();
            if let Some(value) = got.get(&result).map(real).transpose()? {
                sums.accumulated.add(&reference, &value);
                sums.seen = true;
            }
            sums.moments.add(&reference);
            sums.elements += reference.len() as u64;
            sums.clipped += clipped(quantized.ty(result), &reference);
            if let Some(value) = alone(quantized, n, &want)? {
                let value = real(&value)?;
                sums.local.add(&reference, &value);
                if let Some(&v) = in_float.get(name.as_str()).filter(|_| blame) {
                    let replaced = Tensor::f32(float.ty(v).dims.clone(), &value);
                    downstream(float, &values, v, replaced, &mut sums.alone)?;
                }
            }
            if blame {
                progress(Progress { what: "comparing", done: i * nodes.len() + at + 1, of: steps });
            }
        }
        if !blame {
            progress(Progress { what: "comparing", done: i + 1, of: steps });
        }
    }
    let report = |n: &Node| {
        let s = all.get(n).filter(|s| s.seen)?;
        Some(LayerError {
            layer: quantized.describe(*n),
            operator: quantized.nodes[*n].op.mnemonic().into(),
            local_db: s.local.db(),
            accumulated_db: s.accumulated.db(),
            alone_db: blame.then(|| s.alone.db()),
            cosine: s.accumulated.cosine(),
            clipped_percent: 100.0 * s.clipped as f64 / s.elements.max(1) as f64,
            weights: weights(float, in_float.get(quantized.values[quantized.nodes[*n].result()].name.as_str())),
            values: s.moments.class(),
        })
    };
    Ok(nodes.iter().filter_map(report).collect())
}

/// The class of the float weights of the layer that computes a value.
fn weights(float: &Graph, v: Option<&Value>) -> Option<Distribution> {
    let node = &float.nodes[float.producer(*v?)?];
    node.op.epilogue()?;
    let mut moments = Moments::default();
    moments.add(&float.tensor(*node.args.get(1)?)?.to_f32()?);
    Some(moments.class())
}

/// Values that the type saturates: beyond its ends by more than half a step.
fn clipped(ty: &TensorTy, values: &[f32]) -> u64 {
    let Some((q, (scale, zero))) = ty.elem.quant().and_then(|q| Some((q, q.tensor_params()?))) else { return 0 };
    let end = |x: i32| exact::dequantize(x, scale, zero);
    let (lo, hi) = (end(q.min()) - scale / 2.0, end(q.max()) + scale / 2.0);
    values.iter().filter(|x| **x < lo || **x > hi).count() as u64
}

/// Adds to `noise` what another tensor in place of one value changes at the float outputs of the network.
fn downstream(g: &Graph, values: &[Option<Tensor>], v: Value, replaced: Tensor, noise: &mut Noise) -> Result<(), Diagnostic> {
    let mut changed: BTreeMap<Value, Tensor> = [(v, replaced)].into();
    for &n in &g.order {
        let node = &g.nodes[n];
        if changed.contains_key(&node.result()) || !node.args.iter().any(|a| changed.contains_key(a)) {
            continue;
        }
        let find = |a: &Value| match (changed.get(a), g.values[*a].def) {
            (Some(t), _) => Some(t),
            (None, Def::Const(c)) => Some(&g.consts[c].tensor),
            (None, _) => values[a.index()].as_ref(),
        };
        let args: Option<Vec<&Tensor>> = node.args.iter().map(find).collect();
        let args = args.ok_or_else(|| Diagnostic::bug("a value of the float network is not held"))?;
        let y = eval_node(&node.op, &args, g.ty(node.result()))?;
        changed.insert(node.result(), y);
    }
    for &(_, v) in &g.outputs {
        if let Some(want) = values[v.index()].as_ref().and_then(Tensor::to_f32) {
            match changed.get(&v).and_then(Tensor::to_f32) {
                Some(got) => noise.add(&want, &got),
                None => noise.add(&want, &want),
            }
        }
    }
    Ok(())
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
        args.push(if g.ty(a).elem.quant().is_none() { t.clone() } else { eval_node(&Op::Quantize, &[t], g.ty(a))? });
    }
    eval_node(&node.op, &args.iter().collect::<Vec<_>>(), g.ty(node.result())).map(Some)
}

/// The real numbers of a tensor.
fn real(t: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    let floats = if t.ty.elem.quant().is_some() { &eval_node(&Op::Dequantize, &[t], &TensorTy::f32(t.ty.dims.clone()))? } else { t };
    floats.to_f32().ok_or_else(|| Diagnostic::bug(format!("a value of type {} is no real number", t.ty)))
}
