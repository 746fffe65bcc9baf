//! Losses of classifiers against whole-numbered labels.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Op, ReduceKind, Scalar, Unary, Value};

/// What becomes of the losses of single elements.
enum Reduction {
    None,
    Sum,
    Mean,
}

pub fn negative_log_likelihood(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let x = cx.arg(0)?;
    Ok(vec![loss(cx, x)?])
}

pub fn softmax_cross_entropy(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let x = cx.arg(0)?;
    let log = cx.push(Op::Softmax { axis: 1, log: true }, &[x])?;
    Ok(vec![loss(cx, log)?, log])
}

/// `-weight[label] x[label]` with the classes of `x [N, C, ..]` along axis 1 and labels `[N, ..]`.
fn loss(cx: &mut NodeCx<'_>, x: Value) -> Made {
    let reduction = match cx.text("reduction")?.as_deref() {
        None | Some("mean") => Reduction::Mean,
        Some("sum") => Reduction::Sum,
        Some("none") => Reduction::None,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `reduction` is {other:?}"))),
    };
    let (dims, labels) = (cx.dims(x), cx.arg(1)?);
    if dims.len() < 2 || cx.dims(labels) != [&dims[..1], &dims[2..]].concat() {
        return Err(cx.misfit(format!("labels of dimensions {:?} for an operand of dimensions {dims:?}", cx.dims(labels))));
    }
    if dims[1] > 1 << 24 {
        return Err(cx.err(Code::LimitExceeded, format!("{} classes", dims[1])));
    }
    let mut apart = dims.clone();
    apart[1] = 1;
    let labels = cx.cast(labels, Scalar::F32)?;
    let labels = cx.reshape(labels, apart)?;
    let mut classes = vec![1; dims.len() - 1];
    classes[0] = dims[1];
    let numbers = cx.ramp(classes.clone(), 0.0)?;
    let chosen = equal(cx, labels, numbers)?;
    // Elsewhere x may be minus infinity, which zero times would not remove.
    let finite = cx.by(Binary::Max, x, f32::MIN)?;
    let picked = cx.mul(chosen, finite)?;
    let picked = cx.push(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1], keep: false }, &[picked])?;
    let mut losses = cx.unary(Unary::Neg, picked)?;
    let mut weights = match cx.optional(2) {
        Some(w) if cx.dims(w) == [dims[1]] => {
            let w = cx.reshape(w, classes)?;
            let w = cx.mul(chosen, w)?;
            Some(cx.push(Op::Reduce { kind: ReduceKind::Sum, axes: vec![1], keep: false }, &[w])?)
        }
        Some(w) => return Err(cx.misfit(format!("weights of dimensions {:?} for {} classes", cx.dims(w), dims[1]))),
        None => None,
    };
    if let Some(ignored) = cx.int("ignore_index")? {
        let number = cx.scalar(ignored as f32);
        let out = equal(cx, labels, number)?;
        let out = cx.reshape(out, cx.dims(losses))?;
        let kept = cx.unary(Unary::Neg, out)?;
        let kept = cx.plus(kept, 1.0)?;
        losses = cx.mul(losses, kept)?;
        weights = Some(match weights {
            Some(w) => cx.mul(w, kept)?,
            None => kept,
        });
    }
    if let Some(w) = weights.filter(|_| cx.optional(2).is_some()) {
        losses = cx.mul(losses, w)?;
    }
    let total = |cx: &mut NodeCx<'_>, kind: ReduceKind, x: Value| {
        let axes = (0..cx.g.ty(x).rank()).collect();
        cx.push(Op::Reduce { kind, axes, keep: false }, &[x])
    };
    match (reduction, weights) {
        (Reduction::None, _) => Ok(losses),
        (Reduction::Sum, _) => total(cx, ReduceKind::Sum, losses),
        (Reduction::Mean, None) => total(cx, ReduceKind::Mean, losses),
        (Reduction::Mean, Some(w)) => {
            let (sum, all) = (total(cx, ReduceKind::Sum, losses)?, total(cx, ReduceKind::Sum, w)?);
            cx.div(sum, all)
        }
    }
}

/// 1 where whole numbers are equal, else 0.
fn equal(cx: &mut NodeCx<'_>, a: Value, b: Value) -> Made {
    let apart = cx.sub(a, b)?;
    let apart = cx.unary(Unary::Abs, apart)?;
    let near = cx.unary(Unary::Neg, apart)?;
    let near = cx.plus(near, 1.0)?;
    cx.unary(Unary::Relu, near)
}
