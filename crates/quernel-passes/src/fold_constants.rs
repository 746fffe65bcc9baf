//! `fold-constants`: evaluates nodes whose operands are all constant, in the reference interpreter.
//!
//! A dequantized constant counts as one, but stays what it is: the weights of a model that arrived quantized keep their
//! integers, also through moves. `push-requantize` evaluates those that no integer operator took.

use crate::{Cx, Pass, Sweep, rounded};
use quernel_ir::{Code, Diagnostic, Graph, Op, Tensor, TensorTy};

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
            let known = |v| s.g.tensor(v).is_some() || rounded::rounded_constant(s.g, v).is_some();
            if node.op == Op::Dequantize || node.args.is_empty() || !node.args.iter().all(|&a| known(a)) {
                s.keep(n);
                return Ok(());
            }
            made = made.saturating_add(s.g.ty(node.result()).bytes());
            if made > MAX_BYTES {
                let message = format!("constant arithmetic makes more than {MAX_BYTES} bytes");
                return Err(Diagnostic::new(Code::LimitExceeded, message).at(s.g.describe(n)));
            }
            if let [x] = node.args[..]
                && let Some(v) = rounded::moved(s, &node.op, x, node.origin.clone())?
            {
                s.replace(n, v);
                return Ok(());
            }
            evaluate(s, n)
        })
    }
}

/// Puts the value of a node on constants in its place.
fn evaluate(s: &mut Sweep<'_>, n: quernel_ir::Node) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let place = s.g.describe(n);
    let mut args = Vec::new();
    for &a in &node.args {
        args.push(match (s.g.tensor(a), rounded::rounded_constant(s.g, a)) {
            (Some(t), _) => t.clone(),
            (None, Some(q)) => quernel_interp::eval_node(&Op::Dequantize, &[q], &TensorTy::f32(q.ty.dims.clone()))?,
            (None, None) => return Err(Diagnostic::bug("an operand is not constant").at(place)),
        });
    }
    let ty = s.g.ty(node.result()).clone();
    let tensor = quernel_interp::eval_node(&node.op, &args.iter().collect::<Vec<&Tensor>>(), &ty).map_err(|d| d.at(&place))?;
    // The result's name, else the operand's, else that of the integers behind it.
    let named = [Some(node.result()), Some(node.args[0]), rounded::rounded(s.g, node.args[0])];
    let name = named.into_iter().flatten().map(|v| s.g.values[v].name.clone()).find(|n| !n.is_empty()).unwrap_or_default();
    let v = s.constant(&name, tensor);
    s.replace(n, v);
    Ok(())
}

/// Evaluates the dequantized constants that something reads.
pub(crate) fn dequantize(g: &mut Graph) -> Result<(), Diagnostic> {
    Sweep::run(g, |s, n| {
        let node = &s.g.nodes[n];
        if node.op == Op::Dequantize && s.g.tensor(node.args[0]).is_some() && s.uses(node.result()) > 0 {
            return evaluate(s, n);
        }
        s.keep(n);
        Ok(())
    })
}
