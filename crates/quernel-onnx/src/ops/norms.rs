//! Normalizations and distributions.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Diagnostic, Op, PoolKind, ReduceKind, Unary, Value, Window, WindowDim};

pub fn batch(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(5, 5)?;
    if !cx.flag("spatial", true)? {
        return Err(cx.unsupported("normalizes every element on its own (`spatial` is 0)"));
    }
    let epsilon = cx.float("epsilon", 1e-5)?;
    let args = (0..5).map(|i| cx.arg(i)).collect::<Result<Vec<_>, _>>()?;
    let training = cx.flag("training_mode", false)?;
    let dims = cx.dims(args[0]);
    if !training && args[1..].iter().all(|&p| cx.g.tensor(p).is_some()) {
        if dims.len() > 4 {
            // Where the elements of a channel lie does not matter.
            let flat = cx.reshape(args[0], vec![dims[0], dims[1], dims[2..].iter().product()])?;
            let y = cx.push(Op::BatchNorm { epsilon }, &[&[flat], &args[1..]].concat())?;
            return Ok(vec![cx.reshape(y, dims)?]);
        }
        return Ok(vec![cx.push(Op::BatchNorm { epsilon }, &args)?]);
    }
    if dims.len() < 2 || args[1..].iter().any(|&p| cx.dims(p) != [dims[1]]) {
        return Err(cx.misfit(format!("the parameters do not fit an operand of dimensions {dims:?}")));
    }
    let mut per_channel = vec![dims[1]];
    per_channel.resize(dims.len() - 1, 1);
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|i: usize| args[i]);
    let [scale, bias] = [cx.reshape(scale, per_channel.clone())?, cx.reshape(bias, per_channel.clone())?];
    if !training {
        let (mean, variance) = (cx.reshape(mean, per_channel.clone())?, cx.reshape(variance, per_channel)?);
        let centered = cx.sub(args[0], mean)?;
        let deviation = deviation(cx, variance, epsilon)?;
        let standard = cx.div(centered, deviation)?;
        return Ok(vec![affine(cx, standard, scale, Some(bias))?]);
    }
    let momentum = cx.float("momentum", 0.9)?;
    let axes: Vec<usize> = (0..dims.len()).filter(|a| *a != 1).collect();
    let own = moments(cx, args[0], &axes)?;
    let standard = own.standard(cx, epsilon)?;
    let y = affine(cx, standard, scale, Some(bias))?;
    let mut results = vec![y];
    for (running, own) in [(mean, own.mean), (variance, own.variance)] {
        let own = cx.reshape(own, vec![dims[1]])?;
        let (old, new) = (cx.times(running, momentum)?, cx.times(own, 1.0 - momentum)?);
        results.push(cx.add(old, new)?);
    }
    Ok(results)
}

fn distribution(cx: &mut NodeCx<'_>, log: bool) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let rank = dims.len();
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?;
        return Ok(vec![cx.push(Op::Softmax { axis, log }, &[x])?]);
    }
    // Before opset 13 the distribution was over all axes from `axis` on.
    let axis = cx.int("axis")?.unwrap_or(1);
    let axis = if axis == rank as i64 { rank } else { cx.axis(axis, rank)? };
    if axis + 1 == rank {
        return Ok(vec![cx.push(Op::Softmax { axis, log }, &[x])?]);
    }
    let flat = cx.reshape(x, vec![dims[..axis].iter().product(), dims[axis..].iter().product()])?;
    let y = cx.push(Op::Softmax { axis: 1, log }, &[flat])?;
    Ok(vec![cx.reshape(y, dims)?])
}

pub fn softmax(cx: &mut NodeCx<'_>) -> Built {
    distribution(cx, false)
}
pub fn log_softmax(cx: &mut NodeCx<'_>) -> Built {
    distribution(cx, true)
}

/// Mean and variance over axes, which stay with extent 1, and what is left of the operand.
struct Moments {
    mean: Value,
    centered: Value,
    variance: Value,
}

fn moments(cx: &mut NodeCx<'_>, x: Value, axes: &[usize]) -> Result<Moments, Diagnostic> {
    let mean = cx.reduced(ReduceKind::Mean, x, axes)?;
    let centered = cx.sub(x, mean)?;
    let squared = cx.square(centered)?;
    let variance = cx.reduced(ReduceKind::Mean, squared, axes)?;
    Ok(Moments { mean, centered, variance })
}

impl Moments {
    /// `(x - mean) / sqrt(variance + epsilon)`.
    fn standard(&self, cx: &mut NodeCx<'_>, epsilon: f32) -> Made {
        let deviation = deviation(cx, self.variance, epsilon)?;
        cx.div(self.centered, deviation)
    }
}

fn deviation(cx: &mut NodeCx<'_>, variance: Value, epsilon: f32) -> Made {
    let epsilon = cx.scalar(epsilon);
    let shifted = cx.add(variance, epsilon)?;
    cx.unary(Unary::Sqrt, shifted)
}

/// `scale x + bias`, neither of which may be larger than `x`.
fn affine(cx: &mut NodeCx<'_>, x: Value, scale: Value, bias: Option<Value>) -> Made {
    let dims = cx.dims(x);
    let mut y = cx.mul(x, scale)?;
    if let Some(bias) = bias {
        y = cx.add(y, bias)?;
    }
    if cx.dims(y) == dims { Ok(y) } else { Err(cx.misfit(format!("scale or bias do not fit an operand of dimensions {dims:?}"))) }
}

/// The axes from attribute `axis` on.
fn trailing(cx: &NodeCx<'_>, x: Value) -> Result<Vec<usize>, Diagnostic> {
    let rank = cx.g.ty(x).rank();
    Ok((cx.axis(cx.int("axis")?.unwrap_or(-1), rank)?..rank).collect())
}

pub fn layer(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (x, scale, bias) = (cx.arg(0)?, cx.arg(1)?, cx.optional(2));
    let axes = trailing(cx, x)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let own = moments(cx, x, &axes)?;
    let standard = own.standard(cx, epsilon)?;
    let mut results = vec![affine(cx, standard, scale, bias)?, own.mean];
    if cx.wants(2) {
        let deviation = deviation(cx, own.variance, epsilon)?;
        results.push(cx.unary(Unary::Reciprocal, deviation)?);
    }
    Ok(results)
}

/// `x / sqrt(mean(x^2) + epsilon) scale`.
pub fn rms(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, scale) = (cx.arg(0)?, cx.arg(1)?);
    let axes = trailing(cx, x)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let squared = cx.square(x)?;
    let mean = cx.reduced(ReduceKind::Mean, squared, &axes)?;
    let root = deviation(cx, mean, epsilon)?;
    let standard = cx.div(x, root)?;
    Ok(vec![affine(cx, standard, scale, None)?])
}

/// The dimensions of an operand with channels and at least one spatial axis.
fn spatial(cx: &NodeCx<'_>, x: Value) -> Result<Vec<usize>, Diagnostic> {
    let dims = cx.dims(x);
    if dims.len() < 3 {
        return Err(cx.err(Code::ShapeMismatch, format!("operand of rank {} has no spatial axes", dims.len())));
    }
    Ok(dims)
}

pub fn instance(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let x = cx.arg(0)?;
    let dims = spatial(cx, x)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let axes: Vec<usize> = (2..dims.len()).collect();
    let standard = moments(cx, x, &axes)?.standard(cx, epsilon)?;
    let mut per_channel = vec![dims[1]];
    per_channel.resize(dims.len() - 1, 1);
    let (scale, bias) = (cx.arg(1)?, cx.arg(2)?);
    let (scale, bias) = (cx.reshape(scale, per_channel.clone())?, cx.reshape(bias, per_channel)?);
    Ok(vec![affine(cx, standard, scale, Some(bias))?])
}

/// Channels in groups, each normalized over its elements; parameters per group before opset 21, per channel since.
pub fn group(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let x = cx.arg(0)?;
    let dims = spatial(cx, x)?;
    let groups = cx.count("num_groups")?.ok_or_else(|| cx.bad_attribute("attribute `num_groups` is missing"))?;
    if !dims[1].is_multiple_of(groups) {
        return Err(cx.misfit(format!("{} channels do not divide into {groups} groups", dims[1])));
    }
    let epsilon = cx.float("epsilon", 1e-5)?;
    let each = dims[1] / groups;
    let split = cx.reshape(x, vec![dims[0], groups, each, dims[2..].iter().product()])?;
    let standard = moments(cx, split, &[2, 3])?.standard(cx, epsilon)?;
    let shape = if cx.opset < 21 { vec![groups, 1, 1] } else { vec![groups, each, 1] };
    let (scale, bias) = (cx.arg(1)?, cx.arg(2)?);
    let (scale, bias) = (cx.reshape(scale, shape.clone())?, cx.reshape(bias, shape)?);
    let y = affine(cx, standard, scale, Some(bias))?;
    Ok(vec![cx.reshape(y, dims)?])
}

/// `x / |x|` in the norm 1 or 2 along an axis; 0 where the norm is 0.
pub fn lp(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let axis = cx.axis(cx.int("axis")?.unwrap_or(-1), cx.g.ty(x).rank())?;
    let least = f32::from_bits(1);
    match cx.int("p")?.unwrap_or(2) {
        1 => {
            let magnitude = cx.unary(Unary::Abs, x)?;
            let norm = cx.reduced(ReduceKind::Sum, magnitude, &[axis])?;
            let norm = cx.by(Binary::Max, norm, least)?;
            Ok(vec![cx.div(x, norm)?])
        }
        2 => {
            let squared = cx.square(x)?;
            let sum = cx.reduced(ReduceKind::Sum, squared, &[axis])?;
            let norm = cx.unary(Unary::Sqrt, sum)?;
            // Squares may vanish where their roots do not: 1 where there is a norm, else 0.
            let some = cx.unary(Unary::HardSigmoid { alpha: 1e30, beta: 0.0 }, norm)?;
            let norm = cx.by(Binary::Max, norm, least)?;
            let y = cx.div(x, norm)?;
            Ok(vec![cx.mul(y, some)?])
        }
        p => Err(cx.bad_attribute(format!("attribute `p` is {p} instead of 1 or 2"))),
    }
}

/// `(x - mean) / (sqrt(variance) + 1e-9)` over `axes`.
pub fn mean_variance(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let axes = cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = cx.axes(&axes, cx.g.ty(x).rank())?;
    let own = moments(cx, x, &axes)?;
    let deviation = cx.unary(Unary::Sqrt, own.variance)?;
    let deviation = cx.plus(deviation, 1e-9)?;
    Ok(vec![cx.div(own.centered, deviation)?])
}

/// `x / (bias + alpha / size * sum)^beta` with the sum of squares over `size` neighbouring channels.
pub fn local_response(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = spatial(cx, x)?;
    let size = cx.count("size")?.ok_or_else(|| cx.bad_attribute("attribute `size` is missing"))?;
    if size > 1 << 20 {
        return Err(cx.err(Code::LimitExceeded, format!("a window of {size} channels")));
    }
    let (alpha, beta, bias) = (cx.float("alpha", 1e-4)?, cx.float("beta", 0.75)?, cx.float("bias", 1.0)?);
    // The pool runs along the channels, with pixels in the place of channels.
    let rest: usize = dims[2..].iter().product();
    let squared = cx.square(x)?;
    let rows = cx.reshape(squared, vec![dims[0], dims[1], rest])?;
    let rows = cx.transpose(rows, &[0, 2, 1])?;
    let window = WindowDim { before: (size - 1) / 2, after: size / 2, ..WindowDim::new(size) };
    let kind = PoolKind::Average { include_pad: true };
    let mean = cx.push(Op::Pool { kind, window: Window { dims: vec![window] } }, &[rows])?;
    let mean = cx.transpose(mean, &[0, 2, 1])?;
    let mean = cx.reshape(mean, dims)?;
    let scaled = cx.times(mean, alpha)?;
    let base = cx.plus(scaled, bias)?;
    let power = if beta == 0.75 {
        let root = cx.unary(Unary::Sqrt, base)?;
        let fourth = cx.unary(Unary::Sqrt, root)?;
        cx.mul(root, fourth)?
    } else {
        cx.power(base, beta)?
    };
    Ok(vec![cx.div(x, power)?])
}
