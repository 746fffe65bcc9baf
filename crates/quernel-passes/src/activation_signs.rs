//! `activation-signs`: bytes between operators become unsigned, words signed.
//!
//! `scale * (q - zero)` is the same number with `2^(bits - 1)` added to both or taken from both, and every operator on
//! integers sees nothing else of its operands. Byte products of x86-64 multiply unsigned activations with signed weights, and
//! products of words are signed on every CPU, so models that arrive with other activations meet the same kernels.
//! Inputs, outputs and what is read as plain integers keep their type; a table stands between.

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Def, Diagnostic, Elem, Graph, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Value};
use std::collections::{BTreeMap, BTreeSet};

pub struct ActivationSigns;

impl Pass for ActivationSigns {
    fn name(&self) -> &'static str {
        "activation-signs"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        // What stands for a value that keeps its type, and the former type of one that does not.
        let mut stands: BTreeMap<Value, Value> = BTreeMap::new();
        let mut was: BTreeMap<Value, Elem> = BTreeMap::new();
        let outputs: BTreeSet<Value> = g.outputs.iter().map(|(_, v)| *v).collect();
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            if let (Op::Requantize, &[a]) = (&node.op, &node.args[..]) {
                // A table that stands between already.
                let (from, to) = (&s.g.ty(a).elem, &s.g.ty(node.result()).elem);
                let between = if favoured(from).as_ref() == Some(to) {
                    Some((a, node.result()))
                } else {
                    (favoured(to).as_ref() == Some(from)).then_some((node.result(), a))
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
                let Some(elem) = favoured(&s.g.ty(*a).elem) else { continue };
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
            match favoured(&signed) {
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

/// The type with the sign that kernels read: unsigned of a signed type of 2 to 8 bits with one scale, signed of an unsigned one
/// of 9 to 16.
fn favoured(elem: &Elem) -> Option<Elem> {
    let q = elem.quant()?;
    let ((scale, zero), bits) = (q.tensor_params()?, q.storage().bits());
    let half = match (bits, q.storage().signed()) {
        (2..=8, true) => 1 << (bits - 1),
        (9..=16, false) => -(1 << (bits - 1)),
        _ => return None,
    };
    let scheme = Scheme::PerTensor { scale, zero_point: zero + half };
    Quant::new(Storage::new(bits, half < 0)?, q.min() + half, q.max() + half, scheme).ok().map(Into::into)
}

/// The constant under the other type.
fn constant(s: &mut Sweep<'_>, v: Value, elem: &Elem) -> Option<Value> {
    let tensor = s.g.tensor(v)?;
    let zero = |elem: &Elem| elem.quant()?.tensor_params().map(|(_, zero)| i64::from(zero));
    let half = zero(elem)? - zero(&tensor.ty.elem)?;
    let moved: Vec<i64> = tensor.to_ints()?.iter().map(|q| q + half).collect();
    let tensor = Tensor::from_ints(TensorTy::new(tensor.ty.dims.clone(), elem.clone()), moved);
    let name = match s.g.values[v].def {
        Def::Const(c) => format!("{}.sign", s.g.consts[c].name),
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
