//! Scaled dot-product attention, spelled out in products, additions and a softmax.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Diagnostic, Elem, Op, ReduceKind, Scalar, Unary, Value};

/// What stands for minus infinity in front of a softmax: rows without any key stay numbers.
const LOWEST: f32 = -3e38;

/// Extents of one attention.
pub struct Shape {
    batch: usize,
    /// Heads of queries; a multiple of `shared`.
    heads: usize,
    /// Heads of keys and values.
    shared: usize,
    queries: usize,
    /// Keys with those of the past.
    keys: usize,
}

/// What is added to the scores: 0 where a query sees a key, minus infinity where it does not, or numbers of the file.
#[derive(Default)]
struct Bias {
    value: Option<Value>,
    /// Whether a row may hold minus infinity alone.
    empty_rows: bool,
}

impl Shape {
    /// Of `[batch, heads, length, size]` each.
    fn of(cx: &NodeCx<'_>, q: Value, k: Value, v: Value) -> Result<Self, Diagnostic> {
        let (qd, kd, vd) = (cx.dims(q), cx.dims(k), cx.dims(v));
        let fits = [&qd, &kd, &vd].iter().all(|d| d.len() == 4)
            && (kd[0], kd[3]) == (qd[0], qd[3])
            && vd[..3] == kd[..3]
            && kd[1] > 0
            && qd[1].is_multiple_of(kd[1]);
        if fits {
            Ok(Self { batch: qd[0], heads: qd[1], shared: kd[1], queries: qd[2], keys: kd[2] })
        } else {
            Err(cx.misfit(format!("queries {qd:?}, keys {kd:?} and values {vd:?} do not fit each other")))
        }
    }
    /// Heads that share a key are rows of one product.
    fn rows(&self, last: usize) -> Vec<usize> {
        vec![self.batch, self.shared, self.heads / self.shared * self.queries, last]
    }
}

impl Bias {
    fn add(&mut self, cx: &mut NodeCx<'_>, term: Value) -> Result<(), Diagnostic> {
        self.value = Some(match self.value {
            Some(v) => cx.add(v, term)?,
            None => term,
        });
        Ok(())
    }
}

pub fn attention(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 7)?;
    let flat = cx.g.ty(cx.arg(0)?).rank() == 3;
    let q = by_heads(cx, 0, "q_num_heads")?;
    let (mut k, mut v) = (by_heads(cx, 1, "kv_num_heads")?, by_heads(cx, 2, "kv_num_heads")?);
    let past = match (cx.optional(4), cx.optional(5)) {
        (Some(key), Some(value)) => {
            let past = cx.dims(key).get(2).copied().unwrap_or(0);
            (k, v) = (cx.concat(&[key, k], 2)?, cx.concat(&[value, v], 2)?);
            Some(past)
        }
        (None, None) => None,
        _ => return Err(cx.err(Code::BadGraph, "has a past of keys or of values, not of both")),
    };
    if past.is_some() && cx.optional(6).is_some() {
        return Err(cx.err(Code::BadGraph, "has both a past and lengths of a cache (`nonpad_kv_seqlen`)"));
    }
    let s = Shape::of(cx, q, k, v)?;
    let softcap = cx.float("softcap", 0.0)?;
    let scores = raw_scores(cx, &s, q, k)?;
    let capped = if softcap > 0.0 {
        let small = cx.by(Binary::Div, scores, softcap)?;
        let bent = cx.unary(Unary::Tanh, small)?;
        cx.times(bent, softcap)?
    } else {
        scores
    };
    let bias = bias(cx, &s, past)?;
    let biased = match bias.value {
        Some(b) => cx.add(capped, b)?,
        None => capped,
    };
    if cx.dims(biased) != cx.dims(scores) {
        return Err(cx.misfit(format!("the mask does not fit scores of dimensions {:?}", cx.dims(scores))));
    }
    let weights = weights(cx, biased, &bias)?;
    let mut y = values(cx, &s, weights, v)?;
    if flat {
        let size = cx.dims(y)[3];
        y = cx.transpose(y, &[0, 2, 1, 3])?;
        y = cx.reshape(y, vec![s.batch, s.queries, s.heads * size])?;
    }
    let shown = match cx.int("qk_matmul_output_mode")?.unwrap_or(0) {
        0 => scores,
        1 => capped,
        2 => biased,
        3 => weights,
        mode => return Err(cx.bad_attribute(format!("attribute `qk_matmul_output_mode` is {mode}"))),
    };
    match cx.int("softmax_precision")?.unwrap_or(1) {
        1 => {}
        10 | 11 | 16 => cx.remark("asks for a softmax in another precision; computed in float"),
        other => return Err(cx.bad_attribute(format!("attribute `softmax_precision` is {other}"))),
    }
    Ok(vec![y, k, v, shown])
}

/// Operand `i` as `[batch, heads, length, head size]`.
fn by_heads(cx: &mut NodeCx<'_>, i: usize, attribute: &str) -> Made {
    let x = cx.arg(i)?;
    let dims = cx.dims(x);
    let heads = cx.count(attribute)?;
    match (dims.len(), heads) {
        (4, None) => Ok(x),
        (4, Some(h)) if h == dims[1] => Ok(x),
        (3, Some(h)) if dims[2].is_multiple_of(h) => {
            let split = cx.reshape(x, vec![dims[0], dims[1], h, dims[2] / h])?;
            cx.transpose(split, &[0, 2, 1, 3])
        }
        (3, None) => Err(cx.bad_attribute(format!("attribute `{attribute}` is missing"))),
        _ => Err(cx.misfit(format!("operand {i} of dimensions {dims:?} does not divide into heads"))),
    }
}

/// `scale q k'`, `[batch, heads, queries, keys]`.
fn raw_scores(cx: &mut NodeCx<'_>, s: &Shape, q: Value, k: Value) -> Made {
    let size = cx.dims(q)[3];
    let scale = if cx.has("scale") { cx.float("scale", 1.0)? } else { 1.0 / (size as f32).sqrt() };
    let q = cx.times(q, scale)?;
    let rows = cx.reshape(q, s.rows(size))?;
    let columns = cx.swapped(k)?;
    let scores = cx.matmul(rows, columns)?;
    cx.reshape(scores, vec![s.batch, s.heads, s.queries, s.keys])
}

/// The values, weighted: `[batch, heads, queries, size]`.
fn values(cx: &mut NodeCx<'_>, s: &Shape, weights: Value, v: Value) -> Made {
    let size = cx.dims(v)[3];
    let rows = cx.reshape(weights, s.rows(s.keys))?;
    let y = cx.matmul(rows, v)?;
    cx.reshape(y, vec![s.batch, s.heads, s.queries, size])
}

/// The scores of `FlexAttention`, before what the file does to them.
pub fn flexible_scores(cx: &mut NodeCx<'_>) -> Result<(Shape, Value), Diagnostic> {
    cx.arity(3, 3)?;
    let (q, k) = (cx.arg(0)?, cx.arg(1)?);
    let s = Shape::of(cx, q, k, cx.arg(2)?)?;
    let scores = raw_scores(cx, &s, q, k)?;
    Ok((s, scores))
}

/// The result of `FlexAttention`.
pub fn weighted(cx: &mut NodeCx<'_>, s: &Shape, weights: Value) -> Made {
    let v = cx.arg(2)?;
    values(cx, s, weights, v)
}

fn bias(cx: &mut NodeCx<'_>, s: &Shape, past: Option<usize>) -> Result<Bias, Diagnostic> {
    let mut bias = Bias::default();
    if let Some(mask) = cx.optional(3) {
        let term = mask_bias(cx, mask, s.keys)?;
        bias.add(cx, term)?;
        bias.empty_rows = true;
    }
    let side = |name: &str| match cx.int(name)?.unwrap_or(-1) {
        -1 => Ok(None),
        n if n >= 0 => Ok(Some(n as f32)),
        n => Err(cx.bad_attribute(format!("attribute `{name}` is {n}"))),
    };
    let (left, right) = (side("left_window_size")?, side("right_window_size")?);
    let right = if cx.flag("is_causal", false)? { Some(right.unwrap_or(0.0).min(0.0)) } else { right };
    let lengths = match cx.optional(6) {
        Some(n) => {
            let n = cx.cast(n, Scalar::F32)?;
            Some(cx.reshape(n, vec![s.batch, 1, 1, 1])?)
        }
        None => None,
    };
    if left.is_some() || right.is_some() {
        window_bias(cx, s, &mut bias, (left, right), past.unwrap_or(0), lengths)?;
    }
    if let Some(n) = lengths {
        // Key j is there if j < n.
        let back: Vec<f32> = (0..s.keys).map(|j| -(j as f32)).collect();
        let back = cx.table("keys", vec![s.keys], &back)?;
        let left = cx.add(n, back)?;
        let term = seen(cx, left)?;
        bias.add(cx, term)?;
        bias.empty_rows = true;
    }
    Ok(bias)
}

/// The mask of the file as an addend, padded to all keys.
fn mask_bias(cx: &mut NodeCx<'_>, mask: Value, keys: usize) -> Made {
    let dims = cx.dims(mask);
    let Some(&own) = dims.last().filter(|n| **n <= keys) else {
        return Err(cx.misfit(format!("a mask of dimensions {dims:?} for {keys} keys")));
    };
    let logical = cx.g.ty(mask).elem == Elem::Scalar(Scalar::Bool);
    let mut term = cx.cast(mask, Scalar::F32)?;
    if logical {
        // ln 1 = 0, ln 0 = -infinity.
        term = cx.unary(Unary::Log, term)?;
    }
    cx.padded(term, dims.len() - 1, (0, keys - own), f32::NEG_INFINITY)
}

/// 0 where `left`, a whole number, is positive, else minus infinity.
fn seen(cx: &mut NodeCx<'_>, left: Value) -> Made {
    let flag = cx.clamp(left, 0.0, 1.0)?;
    cx.unary(Unary::Log, flag)
}

/// Query `i` stands at place `p = offset + i` and sees keys from `p - left` to `p + right`. The offset is the length of
/// the past, or, with lengths of a cache, what they leave beyond the queries.
fn window_bias(
    cx: &mut NodeCx<'_>,
    s: &Shape,
    bias: &mut Bias,
    (left, right): (Option<f32>, Option<f32>),
    past: usize,
    lengths: Option<Value>,
) -> Result<(), Diagnostic> {
    let cells = s.queries.checked_mul(s.keys).filter(|n| *n <= 1 << 28);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("a mask of {} by {} elements", s.queries, s.keys)))?;
    // p - j, but for the length of the cache.
    let offset = if lengths.is_some() { -(s.queries as f32) } else { past as f32 };
    let ahead = |at: usize| (at / s.keys) as f32 + offset - (at % s.keys) as f32;
    let Some(n) = lengths else {
        let sees = |d: f32| left.is_none_or(|l| d <= l) && right.is_none_or(|r| -d <= r);
        let table: Vec<f32> = (0..cells).map(|at| if sees(ahead(at)) { 0.0 } else { f32::NEG_INFINITY }).collect();
        bias.empty_rows |= table.chunks(s.keys).any(|row| row.iter().all(|x| *x != 0.0));
        let term = cx.table("window", vec![s.queries, s.keys], &table)?;
        return bias.add(cx, term);
    };
    bias.empty_rows = true;
    let table: Vec<f32> = (0..cells).map(ahead).collect();
    let table = cx.table("window", vec![s.queries, s.keys], &table)?;
    let distance = cx.add(n, table)?;
    if let Some(r) = right {
        let room = cx.plus(distance, r + 1.0)?;
        let term = seen(cx, room)?;
        bias.add(cx, term)?;
    }
    if let Some(l) = left {
        let back = cx.unary(Unary::Neg, distance)?;
        let room = cx.plus(back, l + 1.0)?;
        let term = seen(cx, room)?;
        bias.add(cx, term)?;
    }
    Ok(())
}

/// The distribution over keys; rows that see none are zero.
fn weights(cx: &mut NodeCx<'_>, biased: Value, bias: &Bias) -> Made {
    let softmax = |cx: &mut NodeCx<'_>, x: Value| cx.push(Op::Softmax { axis: 3, log: false }, &[x]);
    let Some(b) = bias.value.filter(|_| bias.empty_rows) else { return softmax(cx, biased) };
    let bounded = cx.by(Binary::Max, biased, LOWEST)?;
    let all = softmax(cx, bounded)?;
    let axis = cx.g.ty(b).rank() - 1;
    let best = cx.reduced(ReduceKind::Max, b, &[axis])?;
    // 0 below -2e38, else 1.
    let any = cx.unary(Unary::HardSigmoid { alpha: 1e-37, beta: 20.0 }, best)?;
    cx.mul(all, any)
}
