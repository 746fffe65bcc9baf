//! `push-requantize`: turns float operators between roundings into integer operators.
//!
//! `quantize(op(dequantize(a), ..))` becomes `op(a, ..)` on integers with one rounding; a layer whose result is not
//! rounded hands out floats, and so does a product of two computed matrices; a move of dequantized integers becomes a move
//! of the integers. Biases become 32-bit integers in units of the accumulator. A layer or product whose sum might overflow
//! stays float, with a remark. Rounded constants that nothing integer took become plain ones.
//!
//! Words, integers of more than 8 bits, are operands and results of layers, and moved; everything else computes in floats
//! between their roundings, which is what such a model says.

use crate::{
    Cx, Pass, Sweep, fold_constants,
    insert_quantize::{Form, form},
    integer_layer, normalization,
    rounded::{rounded, rounded_tensor},
    wide,
};
use quernel_ir::{Binary, Def, Diagnostic, Graph, Id, Multiplier, Node, Op, PoolKind, Quant, TensorTy, Unary, Value, exact};

pub struct PushRequantize;

impl Pass for PushRequantize {
    fn name(&self) -> &'static str {
        "push-requantize"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        moves_after_rounding(g);
        clamp_after_rounding(g)?;
        moves_after_rounding(g);
        let readers = sole_quantize(g);
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            if node.op == Op::Quantize {
                return requantize(s, n);
            }
            let quantize = readers.get(node.result().index()).copied().flatten();
            let result = quantize.map(|q| s.g.nodes[q].result());
            let mut op = node.op.clone();
            let (args, quantize) = match integers(s, n, result, cx)? {
                Integer::Fused(fused, args) => {
                    op = fused;
                    (args, quantize)
                }
                Integer::Wide(args) => return wide::narrowed(s, n, args, quantize),
                Integer::No => {
                    s.keep(n);
                    return Ok(());
                }
                Integer::Moved => return moved(s, n),
                Integer::Floats(args) => (args, None),
                Integer::Rounded(args) => (args, quantize),
            };
            let Some(quantize) = quantize else {
                s.rewrite(n, op, args);
                return Ok(());
            };
            let q = s.g.nodes[quantize].result();
            if is_saturation(s, &op, &args, q) {
                s.kill(quantize);
                s.kill(n);
                s.alias(q, args[0]);
                return Ok(());
            }
            s.kill(quantize);
            if s.g.values[q].name.is_empty() {
                s.g.values[q].name = s.g.values[node.result()].name.clone();
            }
            s.g.values[q].def = Def::Result { node: n, slot: 0 };
            s.g.nodes[n].results = vec![q];
            s.rewrite(n, op, args);
            Ok(())
        })?;
        fold_constants::dequantize(g)
    }
}

/// What becomes of a node.
enum Integer {
    /// It stays float.
    No,
    /// The same move of the integers, dequantized after it.
    Moved,
    /// Integer operands, float result.
    Floats(Vec<Value>),
    /// Integer operands, and the rounding of its result.
    Rounded(Vec<Value>),
    /// Another operator, which stands for those before it, too; with the rounding of its result.
    Fused(Op, Vec<Value>),
    /// Words, and the rounding of its result to a byte.
    Wide(Vec<Value>),
}

/// For every value read by one quantize and nothing else, that node.
fn sole_quantize(g: &Graph) -> Vec<Option<Node>> {
    let mut found = vec![None; g.values.len()];
    for &n in &g.order {
        if g.nodes[n].op == Op::Quantize {
            found[g.nodes[n].args[0].index()] = Some(n);
        }
    }
    found.iter().zip(uses(g)).map(|(n, u)| n.filter(|_| u == 1)).collect()
}

/// How often every value is read, outputs of the graph included.
fn uses(g: &Graph) -> Vec<u32> {
    let mut uses = vec![0; g.values.len()];
    let read = g.order.iter().flat_map(|&n| &g.nodes[n].args);
    for v in read.chain(g.outputs.iter().map(|(_, v)| v)) {
        uses[v.index()] += 1;
    }
    uses
}

/// `quantize(move(x))` becomes `move(quantize(x))` where the move keeps elements or takes the larger, so that what
/// computes `x` meets its rounding: exporters put transpositions between a layer and the rounding of its result.
fn moves_after_rounding(g: &mut Graph) {
    let uses = uses(g);
    for i in (0..g.order.len()).rev() {
        let quantize = g.order[i];
        let elem = g.ty(g.nodes[quantize].result()).elem.clone();
        if g.nodes[quantize].op != Op::Quantize || elem.quant().is_none_or(|q| q.tensor_params().is_none()) {
            continue;
        }
        let mut moves = Vec::new();
        let mut from = g.producer(g.nodes[quantize].args[0]);
        while let Some(m) = from.filter(|&m| {
            let moves = matches!(g.nodes[m].op, Op::Reshape { .. } | Op::Transpose { .. } | Op::Pool { kind: PoolKind::Max, .. });
            moves && uses[g.nodes[m].result().index()] == 1
        }) {
            moves.push(m);
            from = g.producer(g.nodes[m].args[0]);
        }
        let Some(from) = from.filter(|&m| uses[g.nodes[m].result().index()] == 1) else { continue };
        let pooled = moves.iter().any(|&m| matches!(g.nodes[m].op, Op::Pool { .. }));
        if pooled && wide::is_wide(&elem) {
            continue;
        }
        // What is rounded already moves as it is; and of a NaN, which no sum of integers is, the larger is none.
        if g.nodes[from].op == Op::Dequantize || pooled && form(g, from) != Form::Layer {
            continue;
        }
        let mut n = quantize;
        for m in moves {
            let (from, to) = (g.nodes[m].args[0], g.nodes[m].result());
            g.values[to].ty = TensorTy { elem: elem.clone(), ..g.ty(from).clone() };
            g.values[to].name = g.values[from].name.clone();
            g.nodes[n].op = std::mem::replace(&mut g.nodes[m].op, Op::Quantize);
            let origin = g.nodes[n].origin.clone();
            g.nodes[n].origin = std::mem::replace(&mut g.nodes[m].origin, origin);
            n = m;
        }
    }
}

/// `quantize(clamp(x))` becomes a clamp of `quantize(x)`, so that what computes `x` meets its rounding. Rounding is
/// monotone, so both are the same; and where the type holds nothing beyond the bounds, its saturation is the clamp.
fn clamp_after_rounding(g: &mut Graph) -> Result<(), Diagnostic> {
    let readers = sole_quantize(g);
    Sweep::run(g, |s, n| {
        let node = s.g.nodes[n].clone();
        let quantize = readers.get(node.result().index()).copied().flatten();
        let (Op::Unary(Unary::Relu | Unary::Clip { .. }), Some(quantize)) = (&node.op, quantize) else {
            s.keep(n);
            return Ok(());
        };
        let x = node.args[0];
        let elementwise = s.g.producer(x).is_some_and(|p| matches!(form(s.g, p), Form::Elementwise | Form::Mean | Form::Move));
        let q = s.g.nodes[quantize].result();
        let to = s.g.ty(q).elem.clone();
        if !elementwise || s.uses(x) != 1 || to.quant().is_none_or(|t| t.storage().bits() > 8) {
            s.keep(n);
            return Ok(());
        }
        let before = s.push(Op::Quantize, &[x], to, node.origin.clone())?;
        s.g.values[before].name = s.g.values[x].name.clone();
        s.kill(quantize);
        if is_saturation(s, &node.op, &[before], q) {
            s.kill(n);
            s.alias(q, before);
            return Ok(());
        }
        s.g.values[q].def = Def::Result { node: n, slot: 0 };
        s.g.nodes[n].results = vec![q];
        s.rewrite(n, node.op, vec![before]);
        Ok(())
    })
}

/// `quantize(dequantize(q))` is `q`, or a table.
fn requantize(s: &mut Sweep<'_>, n: Node) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    match rounded_tensor(s.g, node.args[0]) {
        Some(q) if s.g.ty(q).elem == s.g.ty(node.result()).elem => s.replace(n, q),
        Some(q) if s.g.tensor(q).is_none() && ![q, node.result()].iter().any(|v| wide::is_wide(&s.g.ty(*v).elem)) => {
            s.rewrite(n, Op::Requantize, vec![q]);
        }
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
    let image = |x: f32| exact::quantize(x, scale, zero, q.min(), q.max());
    s.g.ty(args[0]).elem == s.g.ty(result).elem && image(bounds.0) == q.min() && image(bounds.1) == q.max()
}

/// The integer form of node `n`, whose result is rounded to `result` and read by nothing else.
fn integers(s: &mut Sweep<'_>, n: Node, result: Option<Value>, cx: &mut Cx) -> Result<Integer, Diagnostic> {
    let node = s.g.nodes[n].clone();
    let form = form(s.g, n);
    if form == Form::Layer {
        return Ok(match integer_layer::operands(s, n, result, cx)? {
            None => Integer::No,
            Some(l) if l.rounded && l.wide => Integer::Wide(l.args),
            Some(l) if l.rounded => Integer::Rounded(l.args),
            Some(l) => Integer::Floats(l.args),
        });
    }
    if let Op::MatMul { multiplier } = node.op {
        return Ok(product(s, n, multiplier, result, cx));
    }
    let mut values = node.args.iter().filter_map(|&a| rounded_tensor(s.g, a)).chain(result);
    let wide = values.any(|v| wide::is_wide(&s.g.ty(v).elem));
    if wide && (form != Form::Move || matches!(node.op, Op::Pool { .. })) {
        return Ok(Integer::No);
    }
    if let Op::TopK { .. } = node.op {
        // Scales are positive: the integers have the order of the numbers.
        return Ok(rounded_tensor(s.g, node.args[0]).map_or(Integer::No, |q| Integer::Floats(vec![q])));
    }
    if let (Some(norm), Some(result)) = (normalization::ends(s, n), result)
        && let Some(x) = rounded_tensor(s.g, norm.x)
        && [x, result].iter().all(|v| s.g.ty(*v).elem.quant().is_some_and(|q| q.tensor_params().is_some() && q.storage().bits() <= 8))
    {
        let mut args = vec![x, s.constant("norm.scale", norm.scale)];
        args.extend(norm.bias.map(|bias| s.constant("norm.bias", bias)));
        return Ok(Integer::Fused(norm.op, args));
    }
    // Functions that are not rounded by choice, because they are ill-conditioned, are where the model says so.
    let table = matches!(node.op, Op::Unary(_) | Op::Softmax { log: false, .. } | Op::Binary(_));
    if form == Form::Float && (!table || matches!(node.op, Op::Binary(Binary::Pow))) {
        return Ok(Integer::No);
    }
    let integer = |(i, &a): (usize, &Value)| if node.op.is_index(i) { Some(a) } else { rounded_tensor(s.g, a) };
    let Some(mut args) = node.args.iter().enumerate().map(integer).collect::<Option<Vec<Value>>>() else {
        return Ok(Integer::No);
    };
    if form != Form::Move {
        return Ok(match result {
            Some(_) => Integer::Rounded(args),
            None if form == Form::Mean => Integer::Floats(args),
            None => Integer::No,
        });
    }
    let one = args.iter().enumerate().all(|(i, a)| node.op.is_index(i) || s.g.ty(*a).elem == s.g.ty(args[0]).elem);
    let to = result.map(|q| s.g.ty(q).elem.clone());
    match to {
        Some(to) if one && s.g.ty(args[0]).elem == to => Ok(Integer::Rounded(args)),
        Some(to) if !one && !wide => {
            for (i, a) in args.iter_mut().enumerate() {
                if s.g.ty(*a).elem != to && !node.op.is_index(i) {
                    *a = s.push(Op::Requantize, &[*a], to.clone(), node.origin.clone())?;
                }
            }
            Ok(Integer::Rounded(args))
        }
        _ if one && moves_exactly(s.g, &node.op, args[0]) => Ok(Integer::Moved),
        _ => Ok(Integer::No),
    }
}

/// The operands of a product of two computed matrices in integers, if its sums are proven to fit.
fn product(s: &Sweep<'_>, n: Node, order: Multiplier, result: Option<Value>, cx: &mut Cx) -> Integer {
    let bytes = |v: Value| {
        let q = rounded_tensor(s.g, v)?;
        let ty = s.g.ty(q).elem.quant().filter(|t| t.storage().bits() <= 8)?;
        Some((q, ty, ty.tensor_params()?))
    };
    let args = &s.g.nodes[n].args;
    let (Some((a, ta, (sa, za))), Some((b, tb, (sb, zb)))) = (bytes(args[0]), bytes(args[1])) else { return Integer::No };
    if !exact::accumulator_scale(order, sa, sb).is_finite() {
        cx.remark("push-requantize", s.g, n, "stays float: the scale of its sums is beyond f32");
        return Integer::No;
    }
    let reach = |t: &Quant, zero: i32| i64::from(t.storage().range().0 - zero).abs().max(i64::from(t.storage().range().1 - zero).abs());
    let depth = s.g.ty(a).dims.last().map_or(0, |k| *k as i64);
    if depth.saturating_mul(reach(ta, za) * reach(tb, zb)) > i64::from(i32::MAX) {
        cx.remark("push-requantize", s.g, n, "stays float: its sums are not proven to fit 32 bits");
        return Integer::No;
    }
    let fits = |q: Value| {
        let to = s.g.ty(q).elem.quant().filter(|t| t.storage().bits() <= 8)?;
        Some(exact::multiplier(order, sa, sb, to.tensor_params()?.0) < exact::MAX_MULTIPLIER)
    };
    if result.is_some_and(|q| fits(q) == Some(true)) { Integer::Rounded(vec![a, b]) } else { Integer::Floats(vec![a, b]) }
}

/// Whether a move of integers means the same as the move of the numbers: the type has to hold what padding adds.
fn moves_exactly(g: &Graph, op: &Op, q: Value) -> bool {
    let Op::Pad { value, .. } = op else { return true };
    let Some(ty) = g.ty(q).elem.quant() else { return false };
    let Some((scale, zero)) = ty.tensor_params() else { return false };
    exact::dequantize(exact::quantize(*value, scale, zero, ty.min(), ty.max()), scale, zero) == *value
}

/// The move on integers, then their numbers.
fn moved(s: &mut Sweep<'_>, n: Node) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let integer = |(i, &a): (usize, &Value)| if node.op.is_index(i) { Some(a) } else { rounded(s.g, a) };
    let args: Vec<Value> = node.args.iter().enumerate().filter_map(integer).collect();
    let elem = s.g.ty(args[0]).elem.clone();
    let q = s.push(node.op.clone(), &args, elem, node.origin.clone())?;
    s.g.values[q].name = s.g.values[node.result()].name.clone();
    s.rewrite(n, Op::Dequantize, vec![q]);
    Ok(())
}
