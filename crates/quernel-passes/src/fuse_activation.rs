//! `fuse-activation`: moves clamping activations (ReLU, Clip) into the layer before them.

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Act, Def, Diagnostic, Graph, Op, Unary};

pub struct FuseActivation;

impl Pass for FuseActivation {
    fn name(&self) -> &'static str {
        "fuse-activation"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            let activation = match node.op {
                Op::Unary(Unary::Relu) => Some(Act::Relu),
                Op::Unary(Unary::Clip { lo, hi }) => Some(Act::Clip { lo, hi }),
                _ => None,
            };
            let layer = match s.g.values[node.args.first().copied().unwrap_or(node.result())].def {
                Def::Result { node: layer, .. } if activation.is_some() && s.uses(node.args[0]) == 1 => Some(layer),
                _ => None,
            };
            let open = layer.filter(|&l| matches!(s.g.nodes[l].op.epilogue(), Some((Act::None, _))) && s.g.ty(node.args[0]).elem.is_f32());
            let (Some(layer), Some(activation)) = (open, activation) else {
                s.keep(n);
                return Ok(());
            };
            let mut op = s.g.nodes[layer].op.clone();
            if let Op::Conv { act, .. } | Op::Dense { act, .. } = &mut op {
                *act = activation;
            }
            let args = s.g.nodes[layer].args.clone();
            s.absorb(n, layer);
            s.rewrite(n, op, args);
            s.kill(layer);
            Ok(())
        })
    }
}
