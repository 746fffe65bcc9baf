//! `fold-batch-norm`: moves per-channel factors and offsets into the weights before them.
//!
//! `a (W x + b) + c = (a W) x + (a b + c)`, computed in f64 and rounded once. Factors come from batch norms and from
//! products and quotients with a constant per channel. A batch norm that follows no layer becomes a depthwise 1x1
//! convolution, which quantizes like every other layer.

use crate::{Cx, Pass, Sweep, canonicalize::channel_axis, sweep::along_axis};
use quernel_ir::{Act, Binary, Diagnostic, Elem, Graph, Multiplier, Node, Op, Tensor, Value, Window, WindowDim};

pub struct FoldBatchNorm;

/// `x -> factor x + offset` per channel.
struct Affine {
    x: Value,
    factor: Vec<f64>,
    offset: Vec<f64>,
}

impl Pass for FoldBatchNorm {
    fn name(&self) -> &'static str {
        "fold-batch-norm"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        Sweep::run(g, |s, n| {
            if let Some(affine) = batch_norm(s, n) {
                if !fold(s, n, &affine) {
                    standalone(s, n, &affine)?;
                }
                return Ok(());
            }
            let folded = scaled(s, n).is_some_and(|affine| fold(s, n, &affine));
            if !folded {
                s.keep(n);
            }
            Ok(())
        })
    }
}

fn batch_norm(s: &Sweep<'_>, n: Node) -> Option<Affine> {
    let node = &s.g.nodes[n];
    let Op::BatchNorm { epsilon } = node.op else { return None };
    let parameters = node.args[1..].iter().map(|&v| s.floats(v)).collect::<Option<Vec<_>>>()?;
    let [scale, bias, mean, variance] = &parameters[..] else { return None };
    let wide = |x: &[f32], i: usize| f64::from(x[i]);
    let factor: Vec<f64> = (0..scale.len()).map(|i| wide(scale, i) / (wide(variance, i) + f64::from(epsilon)).sqrt()).collect();
    let offset = (0..scale.len()).map(|i| wide(bias, i) - wide(mean, i) * factor[i]).collect();
    // A variance below -epsilon has no square root; the float network would say NaN, too, so leave it as it is.
    factor.iter().all(|f| f.is_finite()).then_some(Affine { x: node.args[0], factor, offset })
}

/// A product or quotient with a constant per channel, a sum with one, or the difference from one.
fn scaled(s: &Sweep<'_>, n: Node) -> Option<Affine> {
    let node = &s.g.nodes[n];
    let Op::Binary(f @ (Binary::Mul | Binary::Div | Binary::Add | Binary::Sub)) = node.op else { return None };
    // `canonicalize` leaves only differences whose left side is constant.
    let (x, constant) = if f == Binary::Sub { (node.args[1], node.args[0]) } else { (node.args[0], node.args[1]) };
    let layer = s.open_layer(x)?;
    let dims = &s.g.ty(x).dims;
    if *dims != s.g.ty(node.result()).dims {
        return None;
    }
    let c = along_axis(s.g.tensor(constant)?, dims, channel_axis(&s.g.nodes[layer].op, dims.len()))?;
    let c: Vec<f64> = c.iter().map(|x| f64::from(*x)).collect();
    let zero = vec![0.0; c.len()];
    let (factor, offset) = match f {
        Binary::Mul => (c, zero),
        Binary::Div => (c.iter().map(|x| 1.0 / x).collect(), zero),
        Binary::Sub => (vec![-1.0; c.len()], c),
        _ => (vec![1.0; c.len()], c),
    };
    factor.iter().all(|f| f.is_finite()).then_some(Affine { x, factor, offset })
}

/// Into the layer that computes `x`, if nothing else reads it and its weights are constant.
fn fold(s: &mut Sweep<'_>, n: Node, affine: &Affine) -> bool {
    let Some(layer) = s.open_layer(affine.x) else { return false };
    let old = s.g.nodes[layer].clone();
    if affine.factor.len() != s.g.ty(old.args[1]).dims[0]
        || channel_axis(&old.op, s.g.ty(affine.x).rank()) != 1 && matches!(s.g.nodes[n].op, Op::BatchNorm { .. })
    {
        return false;
    }
    let Some(w) = s.floats(old.args[1]) else { return false };
    let channels = affine.factor.len();
    let bias = match old.args.get(2) {
        Some(v) => match s.floats(*v) {
            Some(b) => b,
            None => return false,
        },
        None => vec![0.0; channels],
    };
    let row = w.len() / channels.max(1);
    let weights: Vec<f32> = w.iter().enumerate().map(|(i, x)| (f64::from(*x) * affine.factor[i / row.max(1)]) as f32).collect();
    let bias: Vec<f32> = (0..channels).map(|c| (f64::from(bias[c]) * affine.factor[c] + affine.offset[c]) as f32).collect();
    if !weights.iter().chain(&bias).all(|x| x.is_finite()) {
        return false;
    }
    let name = s.g.values[old.args[1]].name.clone();
    let dims = s.g.ty(old.args[1]).dims.clone();
    let w = s.constant(&name, Tensor::f32(dims, &weights));
    let bias_name = old.args.get(2).map_or_else(|| format!("{name}.bias"), |v| s.g.values[*v].name.clone());
    let b = s.constant(&bias_name, Tensor::f32([channels], &bias));
    s.absorb(n, layer);
    s.rewrite(n, old.op, vec![old.args[0], w, b]);
    s.kill(layer);
    true
}

/// A depthwise 1x1 convolution. Ranks without one are seen as [N, C, rest].
fn standalone(s: &mut Sweep<'_>, n: Node, affine: &Affine) -> Result<(), Diagnostic> {
    let dims = s.g.ty(affine.x).dims.clone();
    let channels = dims[1];
    let direct = (3..=5).contains(&dims.len());
    let spatial = if direct { dims.len() - 2 } else { 1 };
    let name = s.g.values[s.g.nodes[n].args[1]].name.clone();
    let factor: Vec<f32> = affine.factor.iter().map(|x| *x as f32).collect();
    let offset: Vec<f32> = affine.offset.iter().map(|x| *x as f32).collect();
    let mut shape = vec![channels, 1];
    shape.resize(2 + spatial, 1);
    let w = s.constant(&name, Tensor::f32(shape, &factor));
    let b = s.constant(&format!("{name}.bias"), Tensor::f32([channels], &offset));
    let window = Window { dims: vec![WindowDim::new(1); spatial] };
    let op = Op::Conv { window, groups: channels, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    if direct {
        s.rewrite(n, op, vec![affine.x, w, b]);
        return Ok(());
    }
    let origin = s.g.nodes[n].origin.clone();
    let inner = vec![dims[0], channels, dims[2..].iter().product()];
    let x = s.push(Op::Reshape { dims: inner }, &[affine.x], Elem::F32, origin.clone())?;
    let y = s.push(op, &[x, w, b], Elem::F32, origin)?;
    s.rewrite(n, Op::Reshape { dims }, vec![y]);
    Ok(())
}
