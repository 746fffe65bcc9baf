//! How much the network's output suffers when one layer gets another width and all others keep 8 bits.

use super::{
    Rounding, Walk,
    layer::{Prepared, apply},
};
use crate::{Failure, Progress};
use quernel_ir::{Graph, Tensor};
use quernel_quant::{Samples, Width, recover::Steps};

/// A layer under every width that was tried.
#[derive(Clone, PartialEq, Debug)]
pub struct Probe {
    /// ONNX node that names it in a bits.toml.
    pub layer: String,
    /// Loss of the network's output by width; infinite where the layer cannot have it.
    pub losses: Vec<f64>,
}

/// Tries `widths` on every layer of a graph whose layers have 8 bits, each in a network that is otherwise final. The part
/// before the layer runs once; what follows it runs once per width. `loss` judges the first outputs of all samples.
///
/// # Errors
/// Those of running the networks.
pub fn probe(
    r: Rounding<'_>,
    samples: &Samples,
    widths: &[Width],
    steps: Steps,
    loss: &dyn Fn(&[Tensor]) -> f64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Probe>, Failure> {
    let Rounding { g, float, cx, integers } = r;
    let mut walk = Walk::new(g, float, cx, samples, integers)?;
    let count = walk.layers.len();
    let mut probes = Vec::new();
    for i in 0..count {
        walk.reach(g, i)?;
        let layer = &walk.layers[i];
        let prepared = Prepared::new(g, float, layer, &walk.rounded, &walk.real, true)?;
        let mut losses = Vec::new();
        for (at, &width) in widths.iter().enumerate() {
            progress(Progress { what: "trying widths", done: i * widths.len() + at, of: count * widths.len() });
            let outcome = prepared.as_ref().and_then(|p| p.outcome(Some(width), steps, true));
            losses.push(match outcome {
                None => f64::INFINITY,
                Some(outcome) => {
                    let mut tried: Graph = g.clone();
                    apply(&mut tried, layer, outcome)?;
                    loss(&walk.rounded.finish(&tried, integers)?)
                }
            });
        }
        let names = g.nodes[layer.node].origin.names();
        probes.push(Probe { layer: names.first().cloned().unwrap_or_else(|| g.describe(layer.node)), losses });
        // The means alone: what follows sees a layer without bias of its own.
        if let Some(outcome) = prepared.and_then(|p| p.outcome(Some(Width::Int(8)), steps, true)) {
            apply(g, layer, outcome)?;
        }
    }
    Ok(probes)
}
