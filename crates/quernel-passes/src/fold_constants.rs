//! `fold-constants`: evaluates nodes whose operands are all constant, in the reference interpreter.

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Code, Diagnostic, Graph, Tensor};

pub struct FoldConstants;

/// Constants that folding may make in all; more is an error, because a small file must not become a huge object.
const MAX_BYTES: usize = 1 << 30;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        let mut made = 0usize;
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            let args: Option<Vec<&Tensor>> = node.args.iter().map(|&a| s.g.tensor(a)).collect();
            let Some(args) = args.filter(|a| !a.is_empty()) else {
                s.keep(n);
                return Ok(());
            };
            let ty = s.g.ty(node.result()).clone();
            made = made.saturating_add(ty.bytes());
            let place = || s.g.describe(n);
            if made > MAX_BYTES {
                return Err(
                    Diagnostic::new(Code::LimitExceeded, format!("constant arithmetic makes more than {MAX_BYTES} bytes")).at(place())
                );
            }
            let tensor = quernel_interp::eval_node(&node.op, &args, &ty).map_err(|d| d.at(place()))?;
            let base = s.g.values[node.args[0]].name.clone();
            let name = if s.g.values[node.result()].name.is_empty() { base } else { s.g.values[node.result()].name.clone() };
            let v = s.constant(&name, tensor);
            s.replace(n, v);
            Ok(())
        })
    }
}
