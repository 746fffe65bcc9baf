//! `bias-correct`: takes the mean error of rounded weights out of the bias.
//!
//! Rounding changes a channel's mean output by `sum_k (wq_k - w_k) E[x_k]`; the calibration measured `E[x]` per
//! channel, so the bias can absorb it (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias
//! Correction, 2019, section 4.2).

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Diagnostic, Graph, Op, Tensor};
use quernel_quant::Ranges;
use std::sync::Arc;

pub struct BiasCorrect {
    pub ranges: Option<Arc<Ranges>>,
}

impl Pass for BiasCorrect {
    fn name(&self) -> &'static str {
        "bias-correct"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        let Some(ranges) = &self.ranges else { return Ok(()) };
        Sweep::run(g, |s, n| {
            if let Some(bias) = corrected(s, n, cx, ranges) {
                let mut node = s.g.nodes[n].clone();
                // Taken out once.
                cx.float_weights.remove(&node.args[1]);
                let residual = node.op.epilogue().is_some_and(|(_, r)| r);
                let has_bias = node.args.len() > 2 + usize::from(residual);
                let name = if has_bias { s.g.values[node.args[2]].name.clone() } else { format!("{}.bias", s.g.describe(n)) };
                let v = s.constant(&name, Tensor::f32([bias.len()], &bias));
                if has_bias {
                    node.args[2] = v;
                } else {
                    node.args.insert(2, v);
                }
                s.rewrite(n, node.op, node.args);
            } else {
                s.keep(n);
            }
            Ok(())
        })
    }
}

fn corrected(s: &Sweep<'_>, n: quernel_ir::Node, cx: &Cx, ranges: &Ranges) -> Option<Vec<f32>> {
    let node = &s.g.nodes[n];
    let (_, residual) = node.op.epilogue()?;
    let float = cx.float_weights.get(&node.args[1])?;
    let q = s.g.tensor(crate::rounded::rounded(s.g, node.args[1])?)?;
    let quant = q.ty.elem.quant()?;
    let dims = &float.ty.dims;
    let (w, codes) = (float.to_f32()?, q.to_ints()?);
    let x = s.g.ty(node.args[0]);
    let means = ranges.channel_means(&s.g.values[node.args[0]].name)?;
    let (groups, channels) = match node.op {
        Op::Conv { groups, .. } => (groups, x.dims[1]),
        _ if x.rank() == 2 => (1, x.dims[1]),
        _ => return None,
    };
    if means.len() != channels || !means.iter().all(|m| m.is_finite()) {
        return None;
    }
    let rows = dims[0];
    let row = w.len() / rows.max(1);
    let per_group = dims[1];
    let taps = row / per_group.max(1);
    let bias = if node.args.len() > 2 + usize::from(residual) { s.floats(node.args[2])? } else { vec![0.0; rows] };
    let correct = |o: usize| {
        let first = o / (rows / groups) * per_group;
        let shift: f64 = (0..row)
            .map(|k| {
                let real = f64::from(quant.centered(codes[o * row + k] as i32)) * f64::from(quant.scale_at(o));
                (real - f64::from(w[o * row + k])) * means[first + k / taps.max(1)]
            })
            .sum();
        (f64::from(bias[o]) - shift) as f32
    };
    Some((0..rows).map(correct).collect())
}
