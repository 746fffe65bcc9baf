//! `dynamic-quantize`: activations that are rounded with scales found at run time.
//!
//! A layer `act(W x + b)` becomes `act(s (W q) + b)`, where `s` is the largest magnitude of `x` over the levels of a byte
//! and `q = round(x / s)`. The scale of the integer operand itself is 1, so everything after this pass treats the layer
//! like any other, and no samples are needed. Operands that cannot be negative use all 255 levels, others 127.
//!
//! Symmetric ranges keep the zero point out of the sums, at the price of a bit where values lean to one side.

use crate::{Cx, Pass, Sweep, rounded::rounded_tensor};
use quernel_ir::{
    Act, Binary, Diagnostic, Elem, Graph, Id, Node, Op, Origin, PoolKind, Quant, ReduceKind, Scheme, Storage, Tensor, Unary, Value,
};
use quernel_quant::Width;
use std::collections::BTreeMap;

/// Where the scales of activations come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activations {
    /// From ranges observed on samples.
    #[default]
    Static,
    /// From each input at run time: a scale per row of a product, per tensor of a convolution.
    DynamicRows,
    /// From each input at run time: a scale per tensor.
    DynamicTensors,
    /// There are none: activations stay f32, and weights alone are quantized.
    Float,
}

pub struct DynamicQuantize {
    /// Where scales come from; nothing happens for `Static` and `Float`.
    pub activations: Activations,
}

/// Stands for the peak of a tensor of zeros, whose quotients have to be zeros, too.
const LEAST_PEAK: f32 = 1e-30;

impl Pass for DynamicQuantize {
    fn name(&self) -> &'static str {
        "dynamic-quantize"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        if matches!(self.activations, Activations::Static | Activations::Float) {
            return Ok(());
        }
        let positive = never_negative(g);
        // Layers that read one value share its rounding.
        let mut known: BTreeMap<(Value, bool), (Value, Value)> = BTreeMap::new();
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            if !wanted(s, n, cx) {
                s.keep(n);
                return Ok(());
            }
            let x = node.args[0];
            let rows = self.activations == Activations::DynamicRows && matches!(node.op, Op::Dense { .. });
            let (q, scale) = match known.get(&(x, rows)) {
                Some(pair) => *pair,
                None => {
                    let sign = positive.get(x.index()).copied().unwrap_or(false);
                    *known.entry((x, rows)).or_insert(round(s, x, rows, sign, &node.origin)?)
                }
            };
            rescale(s, n, q, scale, cx)
        })
    }
}

/// Layers of f32 operands with constant weights that are to become integers.
fn wanted(s: &Sweep<'_>, n: Node, cx: &Cx) -> bool {
    let node = &s.g.nodes[n];
    node.op.epilogue().is_some()
        && cx.widths.get(&n) != Some(&Width::Float)
        && s.g.ty(node.args[0]).elem.is_f32()
        && rounded_tensor(s.g, node.args[0]).is_none()
        && s.floats(node.args[1]).is_some_and(|w| w.iter().all(|x| x.is_finite()))
}

/// Values that are 0 or more, whatever the input.
fn never_negative(g: &Graph) -> Vec<bool> {
    let mut positive = vec![false; g.values.len()];
    for &n in &g.order {
        let node = &g.nodes[n];
        let of = |i: usize| node.args.get(i).is_some_and(|a| positive[a.index()]);
        let all = || node.data().all(|a| positive[a.index()]);
        positive[node.result().index()] = match &node.op {
            op if op.epilogue().is_some_and(|(act, _)| act.bounds().0 >= 0.0) => true,
            Op::Unary(Unary::Relu | Unary::Sigmoid | Unary::HardSigmoid { .. } | Unary::Exp | Unary::Abs | Unary::Sqrt) => true,
            Op::Unary(Unary::Clip { lo, .. }) => *lo >= 0.0,
            Op::Softmax { log: false, .. } => true,
            Op::Pool { kind: PoolKind::Average { .. }, .. } | Op::Reduce { .. } => of(0),
            Op::Binary(Binary::Add | Binary::Mul | Binary::Max) => of(0) && of(1),
            Op::Pad { value, .. } => *value >= 0.0 && of(0),
            op if op.moves_only() => all(),
            _ => false,
        };
    }
    positive
}

/// `round(x / s)` as dequantized bytes, and `s`.
fn round(s: &mut Sweep<'_>, x: Value, rows: bool, positive: bool, origin: &Origin) -> Result<(Value, Value), Diagnostic> {
    let rank = s.g.ty(x).rank();
    let first = if rows { rank.saturating_sub(1) } else { 0 };
    let push = |s: &mut Sweep<'_>, op: Op, args: &[Value]| s.push(op, args, Elem::F32, origin.clone());
    let size = if positive { x } else { push(s, Op::Unary(Unary::Abs), &[x])? };
    let peak = push(s, Op::Reduce { kind: ReduceKind::Max, axes: (first..rank).collect(), keep: true }, &[size])?;
    let least = s.constant("least_peak", Tensor::f32([], &[LEAST_PEAK]));
    let peak = push(s, Op::Binary(Binary::Max), &[peak, least])?;
    let (levels, storage, zero) = if positive { (255.0, Storage::U8, 0) } else { (127.0, Storage::U8, 128) };
    let step = s.constant("levels", Tensor::f32([], &[1.0 / levels]));
    let scale = push(s, Op::Binary(Binary::Mul), &[peak, step])?;
    let quotient = push(s, Op::Binary(Binary::Div), &[x, scale])?;
    let quant = Quant::new(storage, 0, 255, Scheme::PerTensor { scale: 1.0, zero_point: zero }).map_err(Diagnostic::bug)?;
    let q = s.push(Op::Quantize, &[quotient], quant.into(), origin.clone())?;
    let d = push(s, Op::Dequantize, &[q])?;
    Ok((d, scale))
}

/// The layer on the rounded operand, its scale, bias, residual and activation apart.
fn rescale(s: &mut Sweep<'_>, n: Node, q: Value, scale: Value, cx: &mut Cx) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let Some((activation, residual)) = node.op.epilogue() else { return Err(Diagnostic::bug("a layer without an end")) };
    let mut op = node.op.clone();
    let spatial = match &mut op {
        Op::Conv { act, residual, window, .. } => {
            (*act, *residual) = (Act::None, false);
            window.dims.len()
        }
        Op::Dense { act, residual, .. } => {
            (*act, *residual) = (Act::None, false);
            0
        }
        _ => return Err(Diagnostic::bug("a layer that is neither a convolution nor a product")),
    };
    let origin = node.origin.clone();
    let sums = s.push(op, &[q, node.args[1]], Elem::F32, origin.clone())?;
    if let (Some(width), Some(product)) = (cx.widths.get(&n).copied(), s.g.producer(sums)) {
        cx.widths.insert(product, width);
    }
    // The steps that follow the product, the last of which takes the place of the node.
    let mut steps: Vec<(Op, Option<Value>)> = vec![(Op::Binary(Binary::Mul), Some(scale))];
    if node.args.len() > 2 + usize::from(residual) {
        let mut dims = s.g.ty(node.args[2]).dims.clone();
        dims.extend(vec![1; spatial]);
        let bias = s.push(Op::Reshape { dims }, &[node.args[2]], Elem::F32, origin.clone())?;
        steps.push((Op::Binary(Binary::Add), Some(bias)));
    }
    if residual {
        steps.push((Op::Binary(Binary::Add), node.args.last().copied()));
    }
    match activation {
        Act::None => {}
        Act::Relu => steps.push((Op::Unary(Unary::Relu), None)),
        Act::Clip { lo, hi } => steps.push((Op::Unary(Unary::Clip { lo, hi }), None)),
    }
    let mut y = sums;
    let last = steps.len() - 1;
    for (i, (op, operand)) in steps.into_iter().enumerate() {
        let args: Vec<Value> = [y].into_iter().chain(operand).collect();
        if i == last {
            s.rewrite(n, op, args);
        } else {
            y = s.push(op, &args, Elem::F32, origin.clone())?;
        }
    }
    Ok(())
}
