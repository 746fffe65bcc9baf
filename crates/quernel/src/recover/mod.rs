//! Accuracy recovery: weights and biases of a rounded graph, chosen layer by layer against the float network.
//!
//! Layers are visited in order. Of each, the operand is known from both networks, as compiled code computes it on every
//! sample: in the quantized one with all layers before it already final. [`quernel_quant::recover`] finds the codes and
//! scales; the bias absorbs the mean error that is left.

mod blocks;
mod layer;
mod net;
mod operands;
mod probe;
mod staged;
mod store;

use crate::{Failure, Progress};
use layer::{MOST_OPERANDS, Outcome, Prepared, apply, rounds};
pub use probe::{Probe, probe};
use quernel_ir::{Graph, Node, Op, Tensor, Value};
use quernel_passes::{Cx, Pipeline};
use quernel_quant::{Samples, recover::Steps};
use staged::Staged;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
pub use store::Key;
use store::Store;

/// Which parts of accuracy recovery run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Factors move between the channels of neighbouring layers before anything is rounded.
    pub equalize: bool,
    /// Biases absorb the mean error of rounding.
    pub bias: bool,
    /// Codes of weights: error feedback, refit of scales, descent.
    pub steps: Steps,
    /// Blocks of layers are then tuned together, by gradients.
    pub blocks: bool,
    /// Weights of 8 bits take part, too; otherwise only those below.
    pub all: bool,
    /// Folder that remembers finished layers, so that an interrupted run goes on where it stopped.
    pub resume: Option<PathBuf>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { steps: Steps { feedback: true, refit: true, descent: true }, ..Self::bias_only() }
    }
}

impl Recovery {
    /// Weights round to nearest, biases stay.
    pub fn none() -> Self {
        Self { bias: false, ..Self::bias_only() }
    }
    /// Weights round to nearest, biases absorb the mean error.
    pub fn bias_only() -> Self {
        let steps = Steps { feedback: false, refit: false, descent: false };
        Self { equalize: false, bias: true, steps, blocks: false, all: false, resume: None }
    }
    /// Whether weights are rounded with their operands in view.
    pub fn weights(&self) -> bool {
        self.steps.feedback || self.steps.refit || self.steps.descent || self.blocks
    }
}

/// Names of the parts, for options and messages.
const PARTS: &str = "equalize, bias, feedback, refit, descent, blocks, all, none";

impl std::str::FromStr for Recovery {
    type Err = String;
    /// Parts joined by commas; `all` is the weights of 8 bits.
    fn from_str(s: &str) -> Result<Self, String> {
        let mut r = Self::none();
        for part in s.split(',').filter(|p| *p != "none") {
            match part {
                "equalize" => r.equalize = true,
                "bias" => r.bias = true,
                "feedback" => r.steps.feedback = true,
                "refit" => r.steps.refit = true,
                "descent" => r.steps.descent = true,
                "blocks" => r.blocks = true,
                "all" => r.all = true,
                _ => return Err(format!("{part:?} is no part of accuracy recovery: {PARTS}")),
            }
        }
        Ok(r)
    }
}

/// Bytes of values held between layers.
const MOST_HELD: usize = 2 << 30;

/// A layer to round.
pub struct Layer {
    node: Node,
    /// The integers of its operand and residual.
    x: Value,
    residual: Option<Value>,
    /// The same in the float graph.
    float_x: Value,
    float_residual: Option<Value>,
    /// The integers of its weights.
    weights: Value,
    float: Tensor,
}

/// What both networks are and where they stand.
struct Walk<'a> {
    float: &'a Graph,
    layers: Vec<Layer>,
    wanted: [BTreeSet<Value>; 2],
    rounded: Staged,
    real: Staged,
    integers: &'a dyn Fn() -> Pipeline,
}

impl<'a> Walk<'a> {
    /// The start once more: the same layers, on the same samples.
    fn again(self, g: &Graph, samples: &Samples) -> Result<Self, Failure> {
        let samples = samples.slice(0..held(self.float, samples));
        let (rounded, real) = (Staged::new(g, &samples)?, Staged::new(self.float, &samples)?);
        Ok(Self { rounded, real, ..self })
    }

    /// The start of both networks on as many samples as memory holds between two layers.
    fn new(g: &Graph, float: &'a Graph, cx: &Cx, samples: &Samples, integers: &'a dyn Fn() -> Pipeline) -> Result<Self, Failure> {
        let layers = layers(g, float, cx);
        let samples = samples.slice(0..held(float, samples));
        let both = |f: &dyn Fn(&Layer) -> [Option<Value>; 2]| layers.iter().flat_map(f).flatten().collect();
        let wanted = [both(&|l| [Some(l.x), l.residual]), both(&|l| [Some(l.float_x), l.float_residual])];
        let (rounded, real) = (Staged::new(g, &samples)?, Staged::new(float, &samples)?);
        Ok(Self { float, layers, wanted, rounded, real, integers })
    }

    /// Runs both networks up to the operands of a layer.
    fn reach(&mut self, g: &Graph, i: usize) -> Result<(), Failure> {
        let layer = &self.layers[i];
        for v in [Some(layer.x), layer.residual].into_iter().flatten() {
            self.rounded.advance(g, v, &self.wanted[0], self.integers)?;
        }
        let plain = quernel_passes::cleanup_pipeline;
        for v in [Some(layer.float_x), layer.float_residual].into_iter().flatten() {
            self.real.advance(self.float, v, &self.wanted[1], &plain)?;
        }
        Ok(())
    }
}

/// A rounded graph with what is known of it.
pub struct Rounding<'a> {
    /// The graph; its layers are rounded to nearest.
    pub g: &'a mut Graph,
    /// The graph it was made from.
    pub float: &'a Graph,
    /// Widths and float weights; layers that are done are taken out of the latter.
    pub cx: &'a mut Cx,
    /// Makes a part of the graph fit for lowering.
    pub integers: &'a dyn Fn() -> Pipeline,
}

/// Rounds the layers again. What cannot be is a remark.
///
/// # Errors
/// Those of the samples and of running the networks.
pub fn recover(
    r: Rounding<'_>,
    samples: &Samples,
    options: &Recovery,
    key: Key,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let Rounding { g, float, cx, integers } = r;
    let mut walk = Walk::new(g, float, cx, samples, integers)?;
    let store = Store::open(options.resume.as_deref(), key)?;
    let count = walk.layers.len();
    for i in 0..count {
        progress(Progress { what: "rounding layers", done: i, of: count });
        walk.reach(g, i)?;
        let layer = &walk.layers[i];
        let bits = g.ty(layer.weights).elem.quant().map_or(8, |q| q.storage().bits());
        let done = store.load(i).filter(|r| r.fits(&layer.float.ty.dims));
        let outcome = match done {
            Some(done) => Some(done),
            None => {
                let prepared = Prepared::new(g, float, layer, &walk.rounded, &walk.real, rounds(options, bits))?;
                let width = cx.widths.get(&layer.node).copied();
                let outcome = prepared.and_then(|p| p.outcome(width, options.steps, options.bias));
                if let Some(outcome) = &outcome {
                    store.save(i, outcome)?;
                }
                outcome
            }
        };
        let operands: usize = layer.float.ty.dims[1..].iter().product();
        if rounds(options, bits) && operands > MOST_OPERANDS {
            let message = format!("its weights are rounded to nearest: sums of products of {operands} operands take too much memory");
            cx.remark("recover", g, layer.node, message);
        }
        match outcome {
            Some(outcome) => {
                cx.float_weights.remove(&g.nodes[layer.node].args[1]);
                apply(g, layer, outcome)?;
            }
            None => cx.remark("recover", g, layer.node, "its weights are rounded to nearest: no scale near the best is legal"),
        }
    }
    progress(Progress { what: "rounding layers", done: count, of: count });
    if options.blocks {
        let walk = walk.again(g, samples)?;
        blocks::reconstruct(Rounding { g, float, cx, integers }, walk, options, &store, progress)?;
    }
    Ok(())
}

/// Layers whose operands exist in both graphs.
fn layers(g: &Graph, float: &Graph, cx: &Cx) -> Vec<Layer> {
    let named: BTreeMap<&str, Value> = float
        .inputs
        .iter()
        .copied()
        .chain(float.order.iter().map(|&n| float.nodes[n].result()))
        .filter(|v| !float.values[*v].name.is_empty())
        .map(|v| (float.values[v].name.as_str(), v))
        .collect();
    let integers = |v: Value| {
        let n = g.producer(v).filter(|&n| g.nodes[n].op == Op::Dequantize)?;
        let q = g.nodes[n].args[0];
        let integer = g.ty(q).elem.quant().is_some_and(|t| t.tensor_params().is_some() && t.storage().bits() <= 16);
        (integer && g.tensor(q).is_none()).then_some(q)
    };
    let in_float = |v: Value| {
        // A value that the model itself rounded has no float form.
        let plain = |f: &Value| float.producer(*f).is_none_or(|n| float.nodes[n].op != Op::Dequantize);
        named
            .get(g.values[v].name.as_str())
            .copied()
            .filter(|f| plain(f) && float.ty(*f).elem.is_f32() && float.ty(*f).dims == g.ty(v).dims)
    };
    let layer = |&node: &Node| {
        let data = &g.nodes[node];
        let (_, residual) = data.op.epilogue()?;
        let last = residual.then(|| data.args.last().copied()).flatten();
        let weights = g.producer(data.args[1]).map(|n| g.nodes[n].args[0])?;
        g.tensor(weights)?;
        Some(Layer {
            node,
            x: integers(data.args[0])?,
            residual: match last {
                Some(r) => Some(integers(r)?),
                None => None,
            },
            float_x: in_float(data.args[0])?,
            float_residual: match last {
                Some(r) => Some(in_float(r)?),
                None => None,
            },
            weights,
            float: cx.float_weights.get(&data.args[1])?.clone(),
        })
    };
    g.order.iter().filter_map(layer).collect()
}

/// How many of the samples memory holds.
fn held(float: &Graph, samples: &Samples) -> usize {
    samples.len().min((MOST_HELD / held_bytes(float).max(1)).max(8))
}

/// The largest sum of bytes alive between two nodes: floats of this network and bytes of the quantized one.
fn held_bytes(g: &Graph) -> usize {
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, &n) in g.order.iter().enumerate() {
        g.nodes[n].args.iter().filter(|a| g.tensor(**a).is_none()).for_each(|a| {
            last.insert(*a, i);
        });
    }
    let (mut alive, mut most) = (0usize, 0usize);
    let size = |v: Value| g.ty(v).count() * 5;
    for (i, &n) in g.order.iter().enumerate() {
        alive += size(g.nodes[n].result());
        most = most.max(alive);
        let mut args = g.nodes[n].args.clone();
        args.sort_unstable();
        args.dedup();
        for a in args {
            if last.get(&a) == Some(&i) {
                alive = alive.saturating_sub(size(a));
            }
        }
    }
    most
}
