//! `fold-batch-norm`: moves per-channel factors and offsets into the weights before them.
//!
//! `a (W x + b) + c = (a W) x + (a b + c)`, computed in f64 and rounded once. Factors come from batch norms and from
//! products and quotients with a constant per channel. A batch norm that follows no layer becomes a depthwise 1x1
//! convolution, which quantizes like every other layer.
//!
//! Weights that are rounded stay the integers they are: the factor joins their scales, and its sign the integers.

use crate::{Cx, Pass, Sweep, canonicalize::channel_axis, rounded::rounded_constant, sweep::along_axis};
use quernel_ir::{
    Act, Binary, Diagnostic, Elem, Graph, Multiplier, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Value, Window, WindowDim,
};

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
    let channels = affine.factor.len();
    let bias = match old.args.get(2) {
        Some(v) => match s.floats(*v).map(|b| b.into_iter().map(f64::from).collect()).or_else(|| rounded_bias(s, *v)) {
            Some(b) => b,
            None => return false,
        },
        None => vec![0.0; channels],
    };
    let bias: Vec<f32> = (0..channels).map(|c| (bias[c] * affine.factor[c] + affine.offset[c]) as f32).collect();
    let name = s.g.values[old.args[1]].name.clone();
    let dims = s.g.ty(old.args[1]).dims.clone();
    if !bias.iter().all(|x| x.is_finite()) {
        return false;
    }
    let w = if let Some(w) = s.floats(old.args[1]) {
        let row = w.len() / channels.max(1);
        let weights: Vec<f32> = w.iter().enumerate().map(|(i, x)| (f64::from(*x) * affine.factor[i / row.max(1)]) as f32).collect();
        if !weights.iter().all(|x| x.is_finite()) {
            return false;
        }
        s.constant(&name, Tensor::f32(dims, &weights))
    } else {
        let Some(tensor) = rounded_constant(s.g, old.args[1]).and_then(|t| rescaled(t, &affine.factor)) else { return false };
        let q = s.constant(&name, tensor);
        let Ok(w) = s.push(Op::Dequantize, &[q], Elem::F32, old.origin.clone()) else { return false };
        w
    };
    let bias_name = old.args.get(2).map_or_else(|| format!("{name}.bias"), |v| s.g.values[*v].name.clone());
    let b = s.constant(&bias_name, Tensor::f32([channels], &bias));
    s.absorb(n, layer);
    s.rewrite(n, old.op, vec![old.args[0], w, b]);
    s.kill(layer);
    true
}

/// A bias of stored integers as the numbers it means.
fn rounded_bias(s: &Sweep<'_>, v: Value) -> Option<Vec<f64>> {
    let tensor = rounded_constant(s.g, v)?;
    let quant = tensor.ty.elem.quant().filter(|q| matches!(q.axis(), None | Some(0)))?;
    let real = |(c, q): (usize, i64)| Some(f64::from(quant.centered(i32::try_from(q).ok()?)) * f64::from(quant.scale_at(c)));
    tensor.to_ints()?.into_iter().enumerate().map(real).collect()
}

/// Rounded weights times one factor per output channel: the same integers, or their negatives, under other scales. `None`
/// where no type holds them.
fn rescaled(tensor: &Tensor, factor: &[f64]) -> Option<Tensor> {
    let quant = tensor.ty.elem.quant()?;
    let one = |c: usize| if quant.axis() == Some(0) || quant.axis().is_none() { quant.scale_at(c) } else { quant.scale_at(0) };
    // Scales along another axis than that of output channels are as good where they are all equal.
    if let Scheme::PerAxis { scales, .. } | Scheme::Table { scales, .. } = quant.scheme()
        && quant.axis() != Some(0)
        && scales.iter().any(|s| *s != scales[0])
    {
        return None;
    }
    // A channel times 0 holds zeros, under any scale.
    let scale = |c: usize| if factor[c] == 0.0 { 1.0 } else { (f64::from(one(c)) * factor[c].abs()) as f32 };
    let scales: Vec<f32> = (0..factor.len()).map(scale).collect();
    let codes = tensor.to_ints()?;
    let row = codes.len() / factor.len().max(1);
    let signs = codes.iter().enumerate().map(|(i, q)| (*q as i32, factor[i / row.max(1)]));
    if let Scheme::Table { table, .. } = quant.scheme() {
        let code_of = |value: i32| (0..table.len()).find(|&c| i32::from(table[c]) == value).map(|c| c as i64);
        let value = |(q, f): (i32, f64)| if f == 0.0 { 0 } else { quant.centered(q) * if f < 0.0 { -1 } else { 1 } };
        let codes = signs.map(|s| code_of(value(s))).collect::<Option<Vec<i64>>>()?;
        let scheme = Scheme::Table { axis: 0, scales: scales.into(), table: table.clone() };
        let quant = Quant::new(quant.storage(), quant.min(), quant.max(), scheme).ok()?;
        return Some(Tensor::from_ints(TensorTy::new(tensor.ty.dims.clone(), quant), codes));
    }
    let value = |(q, f): (i32, f64)| {
        i64::from(quant.centered(q))
            * if f == 0.0 {
                0
            } else if f < 0.0 {
                -1
            } else {
                1
            }
    };
    let codes: Vec<i64> = signs.map(value).collect();
    let (low, high) = codes.iter().fold((0, 0), |(lo, hi), q| (*q.min(&lo), *q.max(&hi)));
    let fits = |s: &Storage| i64::from(s.range().0) <= low && high <= i64::from(s.range().1);
    let storage = (quant.storage().bits()..=16).filter_map(|b| Storage::new(b, true)).find(fits)?;
    let (lo, hi) = storage.range();
    let lo = if low > i64::from(lo) { -hi } else { lo };
    let quant = Quant::new(storage, lo.min(hi - 1), hi, Scheme::PerAxis { axis: 0, scales: scales.into() }).ok()?;
    Some(Tensor::from_ints(TensorTy::new(tensor.ty.dims.clone(), quant), codes))
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
