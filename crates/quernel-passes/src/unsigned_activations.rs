//! `unsigned-activations`: integers between operators become unsigned.
//!
//! `scale * (q - zero)` is the same number with `2^(bits - 1)` added to both, and every operator on integers sees nothing
//! else of its operands. Byte products of x86-64 multiply unsigned activations with signed weights, so models that arrive
//! with signed activations meet the kernels of the others. Inputs, outputs and what is read as plain integers keep
//! their type; a table stands between.

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Def, Diagnostic, Elem, Graph, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Value};
use std::collections::{BTreeMap, BTreeSet};

pub struct UnsignedActivations;

impl Pass for UnsignedActivations {
    fn name(&self) -> &'static str {
        "unsigned-activations"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        // What stands for a value that keeps its signed type, and the signed type of one that does not.
        let mut stands: BTreeMap<Value, Value> = BTreeMap::new();
        let mut was: BTreeMap<Value, Elem> = BTreeMap::new();
        let outputs: BTreeSet<Value> = g.outputs.iter().map(|(_, v)| *v).collect();
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            if let (Op::Requantize, &[a]) = (&node.op, &node.args[..]) {
                // A table that stands between already.
                let (from, to) = (&s.g.ty(a).elem, &s.g.ty(node.result()).elem);
                let between = if unsigned(from).as_ref() == Some(to) {
                    Some((a, node.result()))
                } else {
                    (unsigned(to).as_ref() == Some(from)).then_some((node.result(), a))
                };
                if let Some((signed, stand)) = between {
                    stands.insert(signed, stand);
                    s.keep(n);
                    return Ok(());
                }
            }
            let mut args = node.args.clone();
            for (i, a) in args.iter_mut().enumerate() {
                if node.op == Op::Bitcast {
                    if let Some(signed) = was.get(a) {
                        *a = s.push(Op::Requantize, &[*a], signed.clone(), node.origin.clone())?;
                    }
                    continue;
                }
                let weights = i == 1 && matches!(node.op, Op::Conv { .. } | Op::Dense { .. });
                if weights {
                    continue;
                }
                let Some(elem) = unsigned(&s.g.ty(*a).elem) else { continue };
                let stand = match stands.get(a) {
                    Some(v) => *v,
                    None => match constant(s, *a, &elem) {
                        Some(v) => v,
                        None => s.push(Op::Requantize, &[*a], elem, node.origin.clone())?,
                    },
                };
                stands.insert(*a, stand);
                *a = stand;
            }
            let result = node.result();
            let signed = s.g.ty(result).elem.clone();
            s.rewrite(n, node.op.clone(), args);
            match unsigned(&signed) {
                Some(elem) if node.op != Op::Bitcast => {
                    if outputs.contains(&result) {
                        let v = s.push(Op::Requantize, &[result], signed, node.origin.clone())?;
                        exchange(s.g, n, v, elem);
                        stands.insert(result, v);
                    } else {
                        s.g.values[result].ty.elem = elem;
                        was.insert(result, signed);
                    }
                }
                _ => {}
            }
            Ok(())
        })
    }
}

/// The unsigned form of a signed type of 2 to 8 bits with one scale.
fn unsigned(elem: &Elem) -> Option<Elem> {
    let q = elem.quant()?;
    let ((scale, zero), bits) = (q.tensor_params()?, q.storage().bits());
    if !q.storage().signed() || !(2..=8).contains(&bits) {
        return None;
    }
    let half = 1 << (bits - 1);
    let scheme = Scheme::PerTensor { scale, zero_point: zero + half };
    Quant::new(Storage::new(bits, false)?, q.min() + half, q.max() + half, scheme).ok().map(Into::into)
}

/// The constant with unsigned integers.
fn constant(s: &mut Sweep<'_>, v: Value, elem: &Elem) -> Option<Value> {
    let tensor = s.g.tensor(v)?;
    let half = elem.quant().map_or(0, |q| 1 << (q.storage().bits() - 1));
    let moved: Vec<i64> = tensor.to_ints()?.iter().map(|q| q + half).collect();
    let tensor = Tensor::from_ints(TensorTy::new(tensor.ty.dims.clone(), elem.clone()), moved);
    let name = match s.g.values[v].def {
        Def::Const(c) => format!("{}.unsigned", s.g.consts[c].name),
        _ => return None,
    };
    Some(s.constant(&name, tensor))
}

/// Node `n` computes `v` with elements `elem` from now on, and what computed `v` computes the result of `n` from it.
fn exchange(g: &mut Graph, n: Node, v: Value, elem: Elem) {
    let (result, Some(after)) = (g.nodes[n].result(), g.producer(v)) else { return };
    g.values[v].ty.elem = elem;
    g.values[v].def = Def::Result { node: n, slot: 0 };
    g.values[result].def = Def::Result { node: after, slot: 0 };
    g.nodes[n].results = vec![v];
    g.nodes[after].results = vec![result];
    g.nodes[after].args = vec![v];
}
