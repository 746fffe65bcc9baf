//! What stands beside attention in language models: rotary positions, linear attention, causal convolutions, gated units.

use super::indices;
use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Act, Binary, Code, Multiplier, Op, Unary, Value, Window, WindowDim};

/// Pairs of elements turned by an angle that hangs on the position: `(c x1 - s x2, s x1 + c x2)`.
pub fn rotary_embedding(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 4)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    // [batch, heads, length, size] or, from [batch, length, hidden], [batch, length, heads, size].
    let (split, length_axis) = match (dims.len(), cx.count_or_none("num_heads")?) {
        (4, _) => (x, 2),
        (3, Some(h)) if dims[2].is_multiple_of(h) => (cx.reshape(x, vec![dims[0], dims[1], h, dims[2] / h])?, 1),
        (3, None) => return Err(cx.bad_attribute("attribute `num_heads` is missing")),
        _ => return Err(cx.misfit(format!("an operand of dimensions {dims:?} does not divide into heads"))),
    };
    let shape = cx.dims(split);
    let size = shape[3];
    let turned = cx.count_or_none("rotary_embedding_dim")?.unwrap_or(size);
    if turned > size || !turned.is_multiple_of(2) {
        return Err(cx.bad_attribute(format!("turns {turned} of {size} elements")));
    }
    let half = turned / 2;
    let mut angle = [cx.arg(1)?, cx.arg(2)?];
    let mut per_place = vec![shape[0], 1, 1, half];
    per_place[length_axis] = shape[length_axis];
    for a in &mut angle {
        if let Some(ids) = cx.optional(3) {
            *a = indices::slices(cx, *a, ids, 0)?;
        }
        if cx.dims(*a) != [shape[0], shape[length_axis], half] {
            return Err(cx.misfit(format!("a cache of dimensions {:?} for {half} pairs", cx.dims(*a))));
        }
        *a = cx.reshape(*a, per_place.clone())?;
    }
    let [cos, sin] = angle;
    let interleaved = cx.flag("interleaved", false)?;
    let pair = |cx: &mut NodeCx<'_>, second: bool| {
        if interleaved {
            cx.strided(split, 3, usize::from(second), 2, half)
        } else {
            cx.part(split, 3, if second { half } else { 0 }, half)
        }
    };
    let (a, b) = (pair(cx, false)?, pair(cx, true)?);
    let product = |cx: &mut NodeCx<'_>, f: Binary, [p, q]: [Value; 2], [r, s]: [Value; 2]| {
        let (left, right) = (cx.mul(p, q)?, cx.mul(r, s)?);
        cx.binary(f, left, right)
    };
    let real = product(cx, Binary::Sub, [cos, a], [sin, b])?;
    let imaginary = product(cx, Binary::Add, [sin, a], [cos, b])?;
    let mut parts = if interleaved {
        let mut one = cx.dims(real);
        one.push(1);
        let apart = [cx.reshape(real, one.clone())?, cx.reshape(imaginary, one.clone())?];
        let pairs = cx.concat(&apart, 4)?;
        one.pop();
        one[3] = turned;
        vec![cx.reshape(pairs, one)?]
    } else {
        vec![real, imaginary]
    };
    if turned < size {
        parts.push(cx.part(split, 3, turned, size - turned)?);
    }
    let y = cx.concat(&parts, 3)?;
    Ok(vec![cx.reshape(y, dims)?])
}

/// What the state of a linear attention does per token.
struct Rule {
    /// It fades by `exp(decay)`.
    gated: bool,
    /// What it already holds under the key is taken off the value, times `beta`.
    delta: bool,
}

/// The state `S [key, value]` per head takes `k v'` in; the result is `scale q' S`. Unrolled over the tokens.
pub fn linear_attention(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 6)?;
    let rule = match cx.text("update_rule")?.as_deref() {
        None | Some("gated_delta") => Rule { gated: true, delta: true },
        Some("gated") => Rule { gated: true, delta: false },
        Some("delta") => Rule { gated: false, delta: true },
        Some("linear") => Rule { gated: false, delta: false },
        Some(other) => return Err(cx.bad_attribute(format!("attribute `update_rule` is {other:?}"))),
    };
    let count = |name: &str| cx.count(name)?.ok_or_else(|| cx.bad_attribute(format!("attribute `{name}` is missing")));
    let (heads, shared) = (count("q_num_heads")?, count("kv_num_heads")?);
    let (q, k, v) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let (qd, kd, vd) = (cx.dims(q), cx.dims(k), cx.dims(v));
    let fits = [&qd, &kd, &vd].iter().all(|d| d.len() == 3 && d[..2] == qd[..2])
        && heads.is_multiple_of(shared)
        && qd[2].is_multiple_of(heads)
        && vd[2].is_multiple_of(shared)
        && kd[2] == qd[2] / heads * shared;
    if !fits {
        return Err(cx.misfit(format!("queries {qd:?}, keys {kd:?} and values {vd:?} do not fit {heads} and {shared} heads")));
    }
    let (batch, tokens, key, value) = (qd[0], qd[1], qd[2] / heads, vd[2] / shared);
    let most = cx.options.limits.rounds;
    if tokens > most {
        return Err(cx.err(Code::LimitExceeded, format!("runs over {tokens} tokens; the limit is {most}")));
    }
    let gate = |cx: &NodeCx<'_>, i: usize, used: bool, widths: [usize; 2]| match cx.optional(i) {
        Some(g) if used => {
            let d = cx.dims(g);
            let fits = d.len() == 3 && d[..2] == [batch, tokens] && widths.contains(&d[2]);
            if fits { Ok(Some(g)) } else { Err(cx.misfit(format!("operand {i} has dimensions {d:?}"))) }
        }
        None if !used => Ok(None),
        _ => Err(cx.err(Code::BadGraph, format!("operand {i} does not fit the rule of update"))),
    };
    let decay = gate(cx, 4, rule.gated, [shared, shared * key])?;
    let beta = gate(cx, 5, rule.delta, [shared, 1])?;
    let scale = match cx.float("scale", 0.0)? {
        0.0 => 1.0 / (key as f32).sqrt(),
        s => s,
    };
    let mut state = match cx.optional(3) {
        Some(s) if cx.dims(s) == [batch, shared, key, value] => Some(s),
        Some(s) => return Err(cx.misfit(format!("a state of dimensions {:?}", cx.dims(s)))),
        None => None,
    };
    let mut rows = Vec::with_capacity(tokens);
    for t in 0..tokens {
        let at = |cx: &mut NodeCx<'_>, x: Value, shape: Vec<usize>| -> Made {
            let row = cx.part(x, 1, t, 1)?;
            cx.reshape(row, shape)
        };
        let column = at(cx, k, vec![batch, shared, key, 1])?;
        let mut new = at(cx, v, vec![batch, shared, 1, value])?;
        if let (Some(g), Some(s)) = (decay, state) {
            let width = cx.dims(g)[2] / shared;
            let g = at(cx, g, vec![batch, shared, width, 1])?;
            let fading = cx.unary(Unary::Exp, g)?;
            state = Some(cx.mul(s, fading)?);
        }
        if let Some(b) = beta {
            if let Some(s) = state {
                let row = cx.reshape(column, vec![batch, shared, 1, key])?;
                let held = cx.matmul(row, s)?;
                new = cx.sub(new, held)?;
            }
            let width = cx.dims(b)[2];
            let b = at(cx, b, vec![batch, width, 1, 1])?;
            new = cx.mul(new, b)?;
        }
        let written = cx.mul(column, new)?;
        let next = match state {
            Some(s) => cx.add(s, written)?,
            None => written,
        };
        state = Some(next);
        let asked = at(cx, q, vec![batch, shared, heads / shared, key])?;
        let asked = cx.times(asked, scale)?;
        let y = cx.matmul(asked, next)?;
        rows.push(cx.reshape(y, vec![batch, 1, heads * value])?);
    }
    let state = state.ok_or_else(|| cx.misfit("there are no tokens"))?;
    Ok(vec![cx.concat(&rows, 1)?, state])
}

/// A depthwise convolution over what came before, and the last elements for the next call.
pub fn causal_conv(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 4)?;
    let (x, w) = (cx.arg(0)?, cx.arg(1)?);
    let (xd, wd) = (cx.dims(x), cx.dims(w));
    if xd.len() != 3 || wd.len() != 3 || wd[..2] != [xd[1], 1] || wd[2] == 0 {
        return Err(cx.misfit(format!("weights {wd:?} do not fit an operand of dimensions {xd:?}")));
    }
    let (channels, taps) = (xd[1], wd[2]);
    let padded = match cx.optional(3) {
        Some(past) if taps > 1 => {
            if cx.dims(past) != [xd[0], channels, taps - 1] {
                return Err(cx.misfit(format!("a state of dimensions {:?} for {taps} taps", cx.dims(past))));
            }
            cx.concat(&[past, x], 2)?
        }
        _ => cx.padded(x, 2, (taps - 1, 0), 0.0)?,
    };
    let mut y = depthwise(cx, padded, w, cx.optional(2), xd[2])?;
    y = match cx.text("activation")?.as_deref() {
        None | Some("none") => y,
        Some("silu" | "swish") => cx.unary(Unary::Swish { alpha: 1.0 }, y)?,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `activation` is {other:?}"))),
    };
    let state = cx.part(padded, 2, xd[2], taps - 1)?;
    Ok(vec![y, state])
}

/// A layer, or, with weights computed at run time, the sum over its taps.
fn depthwise(cx: &mut NodeCx<'_>, x: Value, w: Value, bias: Option<Value>, outputs: usize) -> Made {
    let (channels, taps) = (cx.dims(x)[1], cx.dims(w)[2]);
    let constant = |v: Value| cx.g.tensor(v).is_some();
    if constant(w) && bias.is_none_or(constant) {
        let window = Window { dims: vec![WindowDim::new(taps)] };
        let op = Op::Conv { window, groups: channels, act: Act::None, residual: false, multiplier: Multiplier::F64 };
        let args: Vec<Value> = [Some(x), Some(w), bias].into_iter().flatten().collect();
        return cx.push(op, &args);
    }
    if taps > 1 << 10 {
        return Err(cx.unsupported(format!("computes {taps} weights per channel at run time")));
    }
    let w = cx.reshape(w, vec![channels, taps])?;
    let mut sum = None;
    for t in 0..taps {
        let (moved, weight) = (cx.part(x, 2, t, outputs)?, cx.part(w, 1, t, 1)?);
        let term = cx.mul(moved, weight)?;
        sum = Some(match sum {
            Some(s) => cx.add(s, term)?,
            None => term,
        });
    }
    let sum = sum.ok_or_else(|| cx.misfit("the weights have no taps"))?;
    match bias {
        Some(b) => {
            let b = cx.reshape(b, vec![channels, 1])?;
            cx.add(sum, b)
        }
        None => Ok(sum),
    }
}

/// `a sigmoid(alpha a) b`.
pub fn swiglu(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    if cx.dims(a) != cx.dims(b) {
        return Err(cx.misfit(format!("operands of dimensions {:?} and {:?}", cx.dims(a), cx.dims(b))));
    }
    let alpha = cx.float("alpha", 1.0)?;
    let gate = cx.unary(Unary::Swish { alpha }, a)?;
    Ok(vec![cx.mul(gate, b)?])
}
