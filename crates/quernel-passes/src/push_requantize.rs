//! `push-requantize`: turns float operators between roundings into integer operators.
//!
//! `quantize(op(dequantize(a), ..))` becomes `op(a, ..)` on integers with one rounding; a layer whose result is not
//! rounded hands out floats. Biases become 32-bit integers in units of the accumulator. A layer whose sum might
//! overflow stays float, with a remark.

use crate::{
    Cx, Pass, Sweep,
    insert_quantize::{Form, form},
    quantize_weights::rounded,
};
use quernel_ir::{Def, Diagnostic, Elem, Graph, Id, Node, Op, Quant, Tensor, Unary, Value, exact};

pub struct PushRequantize;

impl Pass for PushRequantize {
    fn name(&self) -> &'static str {
        "push-requantize"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        let readers = sole_quantize(g);
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            if node.op == Op::Quantize {
                return requantize(s, n);
            }
            let quantize = readers.get(node.result().index()).copied().flatten();
            let form = form(s.g, n);
            let Some(args) = integers(s, n, form, quantize.is_some(), cx)? else {
                s.keep(n);
                return Ok(());
            };
            let Some(quantize) = quantize else {
                s.rewrite(n, node.op, args);
                return Ok(());
            };
            let q = s.g.nodes[quantize].result();
            if is_saturation(s, &node.op, &args, q) {
                s.kill(quantize);
                s.kill(n);
                s.alias(q, args[0]);
                return Ok(());
            }
            // A move keeps the type of its operands; another type after it is one more step.
            let one_type = form == Form::Move && s.g.ty(args[0]).elem != s.g.ty(q).elem;
            if one_type {
                s.keep(n);
                return Ok(());
            }
            s.kill(quantize);
            if s.g.values[q].name.is_empty() {
                s.g.values[q].name = s.g.values[node.result()].name.clone();
            }
            s.g.values[q].def = Def::Result { node: n, slot: 0 };
            s.g.nodes[n].results = vec![q];
            s.rewrite(n, node.op, args);
            Ok(())
        })
    }
}

/// For every value read by one quantize and nothing else, that node.
fn sole_quantize(g: &Graph) -> Vec<Option<Node>> {
    let mut uses = vec![0u32; g.values.len()];
    let mut found = vec![None; g.values.len()];
    for &n in &g.order {
        for a in &g.nodes[n].args {
            uses[a.index()] += 1;
            if g.nodes[n].op == Op::Quantize {
                found[a.index()] = Some(n);
            }
        }
    }
    for (_, v) in &g.outputs {
        uses[v.index()] += 1;
    }
    found.iter().zip(&uses).map(|(n, u)| n.filter(|_| *u == 1)).collect()
}

/// `quantize(dequantize(q))` is `q`, or a table.
fn requantize(s: &mut Sweep<'_>, n: Node) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    match rounded(s.g, node.args[0]) {
        Some(q) if s.g.ty(q).elem == s.g.ty(node.result()).elem => s.replace(n, q),
        Some(q) if s.g.ty(q).elem.quant().is_some_and(|t| t.tensor_params().is_some()) => s.rewrite(n, Op::Requantize, vec![q]),
        _ => s.keep(n),
    }
    Ok(())
}

/// A clamp to what the type can hold anyway.
fn is_saturation(s: &Sweep<'_>, op: &Op, args: &[Value], result: Value) -> bool {
    let bounds = match *op {
        Op::Unary(Unary::Relu) => (0.0, f32::INFINITY),
        Op::Unary(Unary::Clip { lo, hi }) => (lo, hi),
        _ => return false,
    };
    let Some(q) = s.g.ty(result).elem.quant() else { return false };
    let Some((scale, zero)) = q.tensor_params() else { return false };
    // Half a step beyond the bound is what rounding allows.
    let inside = |q: i32, bound: f32, sign: f32| (exact::dequantize(q, scale, zero) - bound) * sign <= 0.5 * scale;
    s.g.ty(args[0]).elem == s.g.ty(result).elem && inside(q.min(), bounds.0, -1.0) && inside(q.max(), bounds.1, 1.0)
}

/// The integer operands of node `n`, if it has an integer form here.
fn integers(s: &mut Sweep<'_>, n: Node, form: Form, quantized_result: bool, cx: &mut Cx) -> Result<Option<Vec<Value>>, Diagnostic> {
    let node = s.g.nodes[n].clone();
    match form {
        Form::Float => Ok(None),
        Form::Elementwise | Form::Move if !quantized_result => Ok(None),
        Form::Mean | Form::Elementwise | Form::Move => {
            let args: Option<Vec<Value>> = node
                .args
                .iter()
                .map(|&a| rounded(s.g, a).filter(|q| s.g.ty(*q).elem.quant().is_some_and(|t| t.tensor_params().is_some())))
                .collect();
            let args = args.filter(|args| form != Form::Move || args.iter().all(|a| s.g.ty(*a).elem == s.g.ty(args[0]).elem));
            Ok(args)
        }
        Form::Layer => layer(s, n, cx),
    }
}

fn layer(s: &mut Sweep<'_>, n: Node, cx: &mut Cx) -> Result<Option<Vec<Value>>, Diagnostic> {
    let node = s.g.nodes[n].clone();
    let Some((_, residual)) = node.op.epilogue() else { return Ok(None) };
    let quant = |s: &Sweep<'_>, v: Value| -> Option<(Value, Quant)> {
        let q = rounded(s.g, v)?;
        let ty = s.g.ty(q).elem.quant()?.clone();
        Some((q, ty))
    };
    let (Some((x, tx)), Some((w, tw))) = (quant(s, node.args[0]), quant(s, node.args[1])) else { return Ok(None) };
    let Some((sx, zx)) = tx.tensor_params() else { return Ok(None) };
    let Some(weights) = s.g.tensor(w).cloned() else { return Ok(None) };
    let rows = weights.ty.dims[0];
    let has_bias = node.args.len() > 2 + usize::from(residual);
    let bias = if has_bias {
        match s.floats(node.args[2]) {
            Some(b) => b,
            None => return Ok(None),
        }
    } else {
        vec![0.0; rows]
    };
    let addend = match (residual, node.args.last()) {
        (true, Some(&r)) => match quant(s, r) {
            Some((v, ty)) if ty.tensor_params().is_some() => Some((v, ty)),
            _ => return Ok(None),
        },
        _ => None,
    };
    let codes = weights.to_ints().unwrap_or_default();
    let row = codes.len() / rows.max(1);
    let mut integers = Vec::with_capacity(rows);
    for o in 0..rows {
        let sw = tw.scale_at(o);
        let factor = match &addend {
            None => Some(0),
            Some((_, ty)) => ty.tensor_params().and_then(|(sr, _)| exact::residual_factor(sr, sx, sw)),
        };
        let (Some(b), Some(factor)) = (exact::quantize_bias(bias[o], sx, sw), factor) else {
            cx.remark(
                "push-requantize",
                s.g,
                n,
                format!("stays float: the bias or residual of channel {o} does not fit the units of the sum"),
            );
            return Ok(None);
        };
        let magnitude: i64 = codes[o * row..(o + 1) * row].iter().map(|q| i64::from(tw.centered(*q as i32).unsigned_abs())).sum();
        let reach = i64::from((tx.max() - zx).abs().max((zx - tx.min()).abs()));
        let residual_reach = addend.as_ref().map_or(0, |(_, t)| {
            let zero = t.tensor_params().map_or(0, |p| p.1);
            i64::from(factor) * i64::from((t.max() - zero).abs().max((zero - t.min()).abs()))
        });
        if magnitude * reach + i64::from(b).abs() + residual_reach > i64::from(i32::MAX) {
            cx.remark("push-requantize", s.g, n, format!("stays float: the sum of channel {o} is not proven to fit 32 bits"));
            return Ok(None);
        }
        integers.push(b);
    }
    let mut args = vec![x, w];
    if has_bias {
        let name = s.g.values[node.args[2]].name.clone();
        let b = s.constant(&name, Tensor::i32([rows], &integers));
        args.push(b);
    }
    args.extend(addend.map(|(v, _)| v));
    debug_assert!(s.g.ty(args[0]).elem != Elem::F32);
    Ok(Some(args))
}
