//! Layer normalizations spelled with several operators, for `push-requantize`.
//!
//! `d = x - mean(x); d / sqrt(mean(d^2) + epsilon) * scale + bias`, and `x / sqrt(mean(x^2) + epsilon) * scale`. Means are over the
//! last axes, which scale and bias (which may be missing) cover.

use crate::{Sweep, rounded::rounded};
use quernel_ir::{Binary, Node, Op, ReduceKind, Tensor, Unary, Value, exact};

/// The operator of 8-bit integers that node `n` ends, its operand, and its parameters.
pub(crate) struct Norm {
    pub op: Op,
    pub x: Value,
    pub scale: Tensor,
    pub bias: Option<Tensor>,
}

pub(crate) fn ends(s: &Sweep<'_>, n: Node) -> Option<Norm> {
    let y = s.g.nodes[n].result();
    // With a bias the product is its operand.
    let (product, bias) = match with_constant(s, y, Binary::Add) {
        Some((product, bias)) => (product, Some(bias)),
        None => (y, None),
    };
    let (quotient, scale) = with_constant(s, product, Binary::Mul)?;
    let (centered, root) = binary(s, quotient, Binary::Div)?;
    let variance = unary(s, root, Unary::Sqrt)?;
    let (mean, epsilon) = with_constant(s, variance, Binary::Add)?;
    let epsilon = match s.floats(epsilon)?[..] {
        [epsilon] => epsilon,
        _ => return None,
    };
    let (squared, axis) = mean_from(s, mean)?;
    if binary(s, squared, Binary::Mul)? != (centered, centered) {
        return None;
    }
    // The mean may already be one of the integers.
    let whole = binary(s, centered, Binary::Sub).and_then(|(x, mean)| {
        let (of, from) = mean_from(s, mean)?;
        (from == axis && (of == x || rounded(s.g, x) == Some(of))).then_some(x)
    });
    let (x, rms) = whole.map_or((centered, true), |x| (x, false));
    let own = s.g.ty(x).dims.get(axis..)?.to_vec();
    if s.g.ty(y).dims != s.g.ty(x).dims || own.iter().product::<usize>() > exact::MOST_NORM {
        return None;
    }
    let parameter = |v: Value| -> Option<Tensor> {
        let (data, ty) = (s.floats(v)?, s.g.ty(v));
        // Leading extents of 1 change nothing.
        let lead = ty.rank().checked_sub(own.len())?;
        (ty.dims[..lead].iter().all(|d| *d == 1) && ty.dims[lead..] == own[..]).then(|| Tensor::f32(own.clone(), &data))
    };
    let bias = match bias {
        Some(bias) => Some(parameter(bias)?),
        None => None,
    };
    Some(Norm { op: Op::LayerNorm { axis, epsilon, rms }, x, scale: parameter(scale)?, bias })
}

fn binary(s: &Sweep<'_>, v: Value, op: Binary) -> Option<(Value, Value)> {
    let node = &s.g.nodes[s.g.producer(v)?];
    (node.op == Op::Binary(op)).then(|| (node.args[0], node.args[1]))
}

/// The other operand of a sum or product with a constant, and the constant.
fn with_constant(s: &Sweep<'_>, v: Value, op: Binary) -> Option<(Value, Value)> {
    let (a, b) = binary(s, v, op)?;
    match (s.floats(a).is_some(), s.floats(b).is_some()) {
        (false, true) => Some((a, b)),
        (true, false) => Some((b, a)),
        _ => None,
    }
}

fn unary(s: &Sweep<'_>, v: Value, f: Unary) -> Option<Value> {
    let node = &s.g.nodes[s.g.producer(v)?];
    (node.op == Op::Unary(f)).then(|| node.args[0])
}

/// The operand of a mean over its last axes, which stay, and the first of them.
fn mean_from(s: &Sweep<'_>, v: Value) -> Option<(Value, usize)> {
    let node = &s.g.nodes[s.g.producer(v)?];
    let Op::Reduce { kind: ReduceKind::Mean, axes, keep: true } = &node.op else { return None };
    let (x, first) = (node.args[0], *axes.first()?);
    axes.iter().copied().eq(first..s.g.ty(x).rank()).then_some((x, first))
}
