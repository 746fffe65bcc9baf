//! `canonicalize`: one spelling for each meaning, so that later passes have one case to know.
//!
//! * moves that change nothing vanish; reshape of reshape and transpose of transpose become one
//! * a transpose that only moves axes of extent 1 is a reshape
//! * clamp of clamp becomes one clamp
//! * a product with a constant matrix on the right is a dense layer
//! * constants stand on the right of a sum or product; subtracting one is adding its negative
//! * a layer or product on dequantized integers forms its multipliers as models that arrive quantized do
//! * a constant per channel, added right after a layer of floats, joins the layer's bias; the bias of integers is integers

use crate::{Cx, Pass, Sweep, rounded, sweep::along_axis};
use quernel_ir::{Act, Binary, Diagnostic, Graph, Multiplier, Node, Op, Tensor, TensorTy, Unary, Value};

pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        Sweep::run(g, |s, n| {
            let node = s.g.nodes[n].clone();
            match &node.op {
                Op::Reshape { .. }
                | Op::Transpose { .. }
                | Op::Slice { .. }
                | Op::Pad { .. }
                | Op::Expand { .. }
                | Op::Concat { .. }
                | Op::Cast => {
                    moves(s, n);
                    Ok(())
                }
                Op::Unary(Unary::Relu | Unary::Clip { .. }) => {
                    clamps(s, n);
                    Ok(())
                }
                Op::MatMul { .. } => product(s, n),
                Op::Conv { .. } | Op::Dense { .. } => {
                    layer(s, n);
                    Ok(())
                }
                Op::Binary(f) => binary(s, n, *f),
                _ => {
                    s.keep(n);
                    Ok(())
                }
            }
        })
    }
}

fn producer(s: &Sweep<'_>, v: Value) -> Option<(Op, Vec<Value>)> {
    let node = s.g.producer(v)?;
    Some((s.g.nodes[node].op.clone(), s.g.nodes[node].args.clone()))
}

fn moves(s: &mut Sweep<'_>, n: Node) {
    let node = s.g.nodes[n].clone();
    let to = s.g.ty(node.result()).clone();
    let (mut op, mut args) = (node.op, node.args);
    // Every turn takes one move off, so that another run of the pass finds nothing left.
    loop {
        let x = args[0];
        let from = s.g.ty(x);
        if *from == to && changes_nothing(&op, args.len()) {
            return s.replace(n, x);
        }
        match (&op, producer(s, x)) {
            (Op::Reshape { .. }, Some((Op::Reshape { .. }, inner))) => args = inner,
            (Op::Transpose { perm }, Some((Op::Transpose { perm: first }, inner))) => {
                op = Op::Transpose { perm: perm.iter().map(|&p| first[p]).collect() };
                args = inner;
            }
            (Op::Transpose { perm }, _) if perm.iter().filter(|&&p| from.dims[p] != 1).is_sorted() => {
                op = Op::Reshape { dims: to.dims.clone() };
            }
            _ => return s.rewrite(n, op, args),
        }
    }
}

/// Whether a move of `operands` tensors, whose result has the type of the first, is the identity.
fn changes_nothing(op: &Op, operands: usize) -> bool {
    match op {
        Op::Reshape { .. } | Op::Expand { .. } | Op::Cast => true,
        Op::Concat { .. } => operands == 1,
        Op::Transpose { perm } => perm.iter().enumerate().all(|(i, p)| i == *p),
        Op::Slice { start, step, .. } => start.iter().all(|x| *x == 0) && step.iter().all(|x| *x == 1),
        Op::Pad { before, after, .. } => before.iter().chain(after).all(|x| *x == 0),
        _ => false,
    }
}

fn bounds(f: Unary) -> Option<(f32, f32)> {
    match f {
        Unary::Relu => Some((0.0, f32::INFINITY)),
        Unary::Clip { lo, hi } => Some((lo, hi)),
        _ => None,
    }
}

fn clamps(s: &mut Sweep<'_>, n: Node) {
    let node = s.g.nodes[n].clone();
    let Op::Unary(outer) = node.op else { return s.keep(n) };
    let Some((lo, hi)) = bounds(outer) else { return s.keep(n) };
    if lo == f32::NEG_INFINITY && hi == f32::INFINITY {
        return s.replace(n, node.args[0]);
    }
    if let Some((Op::Unary(inner), args)) = producer(s, node.args[0])
        && let Some((a, b)) = bounds(inner)
        && lo <= hi
        && a <= b
    {
        let (a, b) = (a.clamp(lo, hi), b.clamp(lo, hi));
        let f = if a == 0.0 && b == f32::INFINITY { Unary::Relu } else { Unary::Clip { lo: a, hi: b } };
        return s.rewrite(n, Op::Unary(f), args);
    }
    s.keep(n);
}

fn multiplier(s: &Sweep<'_>, x: Value) -> Multiplier {
    if rounded::from_rounded(s.g, x) { Multiplier::F32 } else { Multiplier::F64 }
}

fn layer(s: &mut Sweep<'_>, n: Node) {
    let mut node = s.g.nodes[n].clone();
    let order = multiplier(s, node.args[0]);
    if let Op::Conv { multiplier, .. } | Op::Dense { multiplier, .. } = &mut node.op
        && order == Multiplier::F32
    {
        *multiplier = order;
    }
    s.rewrite(n, node.op, node.args);
}

fn product(s: &mut Sweep<'_>, n: Node) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let (a, b) = (node.args[0], node.args[1]);
    let dense = Op::Dense { act: Act::None, residual: false, multiplier: multiplier(s, a) };
    if s.g.ty(b).rank() == 2
        && let Some(w) = rounded::moved(s, &Op::Transpose { perm: vec![1, 0] }, b, node.origin.clone())?
    {
        s.rewrite(n, dense, vec![a, w]);
        return Ok(());
    }
    let Some(matrix) = s.g.tensor(b).filter(|t| t.ty.rank() == 2 && t.ty.elem.is_f32()) else {
        let both = rounded::from_rounded(s.g, a) && rounded::from_rounded(s.g, b);
        s.rewrite(n, if both { Op::MatMul { multiplier: Multiplier::F32 } } else { node.op }, vec![a, b]);
        return Ok(());
    };
    let transpose = Op::Transpose { perm: vec![1, 0] };
    let ty = TensorTy::f32([matrix.ty.dims[1], matrix.ty.dims[0]]);
    let weights = quernel_interp::eval_node(&transpose, &[matrix], &ty)?;
    let name = s.g.values[b].name.clone();
    let w = s.constant(&name, weights);
    s.rewrite(n, dense, vec![a, w]);
    Ok(())
}

fn binary(s: &mut Sweep<'_>, n: Node, f: Binary) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let (mut f, mut a, mut b) = (f, node.args[0], node.args[1]);
    if matches!(f, Binary::Add | Binary::Mul | Binary::Min | Binary::Max) && s.g.tensor(a).is_some() && s.g.tensor(b).is_none() {
        (a, b) = (b, a);
    }
    if f == Binary::Sub
        && let Some(c) = s.g.tensor(b).filter(|t| t.ty.elem.is_f32() && s.g.tensor(a).is_none())
    {
        let negative: Vec<f32> = c.to_f32().unwrap_or_default().iter().map(|x| -x).collect();
        let (name, tensor) = (s.g.values[b].name.clone(), Tensor::f32(c.ty.dims.clone(), &negative));
        (f, b) = (Binary::Add, s.constant(&name, tensor));
    }
    if f == Binary::Add
        && let Some(layer) = s.open_layer(a).filter(|&l| s.g.ty(s.g.nodes[l].args[0]).elem.is_f32())
        && let Some(offset) = s.g.tensor(b)
        && s.g.ty(a).dims == s.g.ty(node.result()).dims
    {
        let dims = s.g.ty(a).dims.clone();
        let axis = channel_axis(&s.g.nodes[layer].op, dims.len());
        let old = s.g.nodes[layer].args.clone();
        let bias = match old.get(2) {
            Some(v) => s.floats(*v),
            None => Some(vec![0.0; dims[axis]]),
        };
        if let (Some(offset), Some(bias)) = (along_axis(offset, &dims, axis), bias) {
            let sum: Vec<f32> = bias.iter().zip(&offset).map(|(x, y)| x + y).collect();
            let name = s.g.values[old.get(2).copied().unwrap_or(b)].name.clone();
            let bias = s.constant(&name, Tensor::f32([sum.len()], &sum));
            let op = s.g.nodes[layer].op.clone();
            s.absorb(n, layer);
            s.rewrite(n, op, vec![old[0], old[1], bias]);
            s.kill(layer);
            return Ok(());
        }
    }
    s.rewrite(n, Op::Binary(f), vec![a, b]);
    Ok(())
}

/// The axis of output channels.
pub(crate) fn channel_axis(op: &Op, rank: usize) -> usize {
    if matches!(op, Op::Dense { .. }) { rank - 1 } else { 1 }
}
