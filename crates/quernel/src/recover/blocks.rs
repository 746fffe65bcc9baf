//! Blocks of layers tuned together ([`quernel_quant::tune`]), the float network as the teacher.
//!
//! A block is a run of nodes whose gradients are known. It grows until its work is large and then ends where one value
//! alone goes on: small networks are one block, large ones a block per few layers. What later blocks read, and what several
//! nodes read, should be what it is in the float network.

use super::{
    Recovery, Rounding, Walk,
    layer::{Outcome, apply, float_bias, rounds, scale},
    net::{Block, blocks},
    store::Store,
};
use crate::{Failure, Progress};
use quernel_interp::eval_node;
use quernel_ir::{Diagnostic, Graph, Op, Scheme, Tensor, TensorTy};
use quernel_quant::{
    Width,
    tune::{Sample, Tuned, tune},
    weights::{Levels, legal_scale},
};

/// Gradient steps of a block, and products all of them may take; a few steps in any case.
const STEPS: usize = 900;
const LEAST_STEPS: usize = 100;
const WORK: usize = 1 << 40;

/// Weight of the divergence of probabilities at the end of a network, beside noise over signal of every goal.
const DIVERGENCE: f32 = 2.0;

/// Tunes the blocks of a graph whose layers are rounded. `walk` stands at the start.
pub fn reconstruct(
    r: Rounding<'_>,
    mut walk: Walk<'_>,
    options: &Recovery,
    store: &Store,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let Rounding { g, float, cx, integers } = r;
    let mut all = blocks(g, float, &walk.layers);
    let wanted = |f: &dyn Fn(&Block) -> Vec<_>| all.iter().flat_map(f).collect();
    walk.wanted = [wanted(&|b| b.inputs.clone()), wanted(&|b| b.wanted.clone())];
    let (count, layers) = (all.len(), walk.layers.len());
    for (at, block) in all.iter_mut().enumerate() {
        progress(Progress { what: "reconstructing blocks", done: at, of: count });
        let current: Vec<Option<Tuned>> =
            block.layers.iter().map(|&l| tuned(g, &walk, l, cx.widths.get(&walk.layers[l].node), options)).collect();
        let Some(current) = current.into_iter().collect::<Option<Vec<Tuned>>>() else { continue };
        if !current.iter().any(|t| t.moves) {
            continue;
        }
        // Behind those of the layers alone.
        let number = |l: usize| layers + l;
        let fits = |l: &usize| store.load(number(*l)).filter(|r| r.fits(&walk.layers[*l].float.ty.dims));
        let done: Option<Vec<Outcome>> = block.layers.iter().map(fits).collect();
        let outcomes = match done {
            Some(done) => done,
            None => {
                let found = tuned_block(g, float, &mut walk, block, &current, integers, progress)?;
                let outcomes: Vec<Outcome> = found.unwrap_or(current).into_iter().map(Outcome::from).collect();
                for (l, outcome) in block.layers.iter().zip(&outcomes) {
                    store.save(number(*l), outcome)?;
                }
                outcomes
            }
        };
        for (&l, outcome) in block.layers.iter().zip(outcomes) {
            apply(g, &walk.layers[l], outcome)?;
        }
    }
    progress(Progress { what: "reconstructing blocks", done: count, of: count });
    Ok(())
}

/// A layer as it stands in the graph.
fn tuned(g: &Graph, walk: &Walk<'_>, layer: usize, width: Option<&Width>, options: &Recovery) -> Option<Tuned> {
    let layer = &walk.layers[layer];
    let stored = g.tensor(layer.weights)?;
    let quant = stored.ty.elem.quant()?;
    let levels = match quant.scheme() {
        Scheme::Table { table, .. } => Levels::Table(table.to_vec()),
        _ => Levels::Linear { min: quant.min(), max: quant.max() },
    };
    let rows = *stored.ty.dims.first()?;
    let bias = float_bias(g, layer.node);
    Some(Tuned {
        levels,
        codes: stored.to_ints()?.into_iter().map(|q| q as i32).collect(),
        scales: (0..rows).map(|o| quant.scale_at(o)).collect(),
        bias: if bias.is_empty() { vec![0.0; rows] } else { bias },
        // Panels of several widths stay as they were rounded.
        moves: rounds(options, quant.storage().bits()) && !matches!(width, Some(Width::Panels(..))),
    })
}

impl From<Tuned> for Outcome {
    fn from(t: Tuned) -> Self {
        let (table, bits) = match t.levels {
            Levels::Table(table) => (table.clone(), table.len().trailing_zeros() as u8),
            Levels::Linear { max, .. } => (Vec::new(), (32 - max.leading_zeros() + 1) as u8),
        };
        Self { codes: t.codes, scales: t.scales, table, bits, bias: Some(t.bias) }
    }
}

/// The block's layers tuned; `None` where that does not help.
fn tuned_block(
    g: &Graph,
    float: &Graph,
    walk: &mut Walk<'_>,
    block: &mut Block,
    current: &[Tuned],
    integers: &dyn Fn() -> quernel_passes::Pipeline,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Vec<Tuned>>, Failure> {
    for v in &block.inputs {
        walk.rounded.advance(g, *v, &walk.wanted[0], integers)?;
    }
    let plain = quernel_passes::cleanup_pipeline;
    for v in &block.wanted {
        walk.real.advance(float, *v, &walk.wanted[1], &plain)?;
    }
    let missing = || Diagnostic::bug("a value of a block was not computed");
    let inputs: Vec<&[Tensor]> = block.inputs.iter().map(|v| walk.rounded.get(g, *v).ok_or_else(missing)).collect::<Result<_, _>>()?;
    let wanted: Vec<&[Tensor]> = block.wanted.iter().map(|v| walk.real.get(float, *v).ok_or_else(missing)).collect::<Result<_, _>>()?;
    let count = inputs.iter().chain(&wanted).map(|t| t.len()).min().unwrap_or(0);
    // Every goal counts by its energy.
    for (goal, tensors) in block.net.goals.iter_mut().zip(&wanted) {
        let energy: f64 = tensors.iter().flat_map(|t| t.to_f32().unwrap_or_default()).map(|x| f64::from(x) * f64::from(x)).sum();
        let weight = (count as f64 / energy) as f32;
        if !weight.is_normal() {
            return Ok(None);
        }
        goal.weight = weight;
        goal.divergence *= DIVERGENCE;
    }
    let sample = |i: usize| -> Option<Sample> {
        let inputs = inputs.iter().map(|t| real(&t[i])).collect::<Option<_>>()?;
        let wanted = wanted.iter().map(|t| t[i].to_f32()).collect::<Option<_>>()?;
        Some((inputs, wanted))
    };
    let scales: Vec<(f32, Option<f32>)> =
        block.layers.iter().map(|&l| (scale(g, walk.layers[l].x), walk.layers[l].residual.map(|r| scale(g, r)))).collect();
    let legal = |l: usize, _: usize, wish: f64, bias: f32| legal_scale(wish, bias, scales[l].0, scales[l].1);
    // A gradient takes two more products than the value.
    let steps = (WORK / (block.work * 3 * 16).max(1)).clamp(LEAST_STEPS, STEPS);
    Ok(tune(&block.net, current, count, &sample, &legal, steps, &mut |k| {
        progress(Progress { what: "tuning a block", done: k, of: steps });
    }))
}

/// Numbers of a tensor, dequantized where it is rounded.
fn real(t: &Tensor) -> Option<Vec<f32>> {
    match t.ty.elem.quant() {
        None => t.to_f32(),
        Some(_) => eval_node(&Op::Dequantize, &[t], &TensorTy::f32(t.ty.dims.clone())).ok()?.to_f32(),
    }
}
