//! `fuse-residual`: moves the addition of a tensor into the layer before it.
//!
//! Of two layers that are added, the later one takes the other as its addend. Where scales are given, an addition is
//! what the model says: fused, its addend would be a multiple of the sum's unit.

use crate::{Cx, Pass, Sweep, rounded::rounded};
use quernel_ir::{Binary, Diagnostic, Graph, Id, Op};

pub struct FuseResidual;

impl Pass for FuseResidual {
    fn name(&self) -> &'static str {
        "fuse-residual"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        let mut position = vec![0usize; g.nodes.len()];
        for (i, n) in g.order.iter().enumerate() {
            position[n.index()] = i;
        }
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &node.args[..]) else {
                s.keep(n);
                return Ok(());
            };
            let fits = a != b && s.g.ty(a) == s.g.ty(b) && s.g.tensor(a).is_none() && s.g.tensor(b).is_none();
            let candidates = [(a, b), (b, a)].into_iter().filter(|_| fits).filter_map(|(v, other)| Some((s.open_layer(v)?, other)));
            let latest = candidates.max_by_key(|(layer, _)| position.get(layer.index()).copied());
            let given = |layer| rounded(s.g, s.g.nodes[layer].args[1]).is_some();
            let Some((layer, other)) = latest.filter(|(layer, _)| !given(*layer)) else {
                s.keep(n);
                return Ok(());
            };
            let mut op = s.g.nodes[layer].op.clone();
            if let Op::Conv { residual, .. } | Op::Dense { residual, .. } = &mut op {
                *residual = true;
            }
            let mut args = s.g.nodes[layer].args.clone();
            args.push(other);
            s.absorb(n, layer);
            s.rewrite(n, op, args);
            s.kill(layer);
            Ok(())
        })
    }
}
