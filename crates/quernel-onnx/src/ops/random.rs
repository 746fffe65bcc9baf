//! Random tensors. They are drawn at compile time: a compiled network gives the same result every time.
//!
//! The generator is SplitMix64, started with the bits of the `seed` attribute, or, without one, with a hash of the name of
//! the result, so that two nodes differ. Uniform numbers have 24 random bits.

use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Binary, Code, Comparison, Diagnostic, Elem, Op, ReduceKind, Scalar, Unary, Value, float, tensor::fnv1a};

struct Generator(u64);

impl Generator {
    fn new(cx: &NodeCx<'_>) -> Result<Self, Diagnostic> {
        let name = cx.proto.output.first().map_or("", String::as_str);
        Ok(Self(if cx.has("seed") { cx.float("seed", 0.0)?.to_bits().into() } else { fnv1a(name.as_bytes()) }))
    }
    /// G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In `[0, 1)`.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 * f32::from_bits(0x3380_0000)
    }
    /// Standard normal, by G. Marsaglia's polar method.
    fn normal(&mut self) -> f32 {
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                return u * (-2.0 * float::log(s) / s).sqrt();
            }
        }
    }
}

/// The dimensions of attribute `shape`, or those of operand 0.
fn shape(cx: &NodeCx<'_>, like: bool) -> Result<Vec<usize>, Diagnostic> {
    let dims = if like {
        cx.arity(1, 1)?;
        cx.dims(cx.arg(0)?)
    } else {
        cx.arity(0, 0)?;
        let dims = cx.ints("shape")?.ok_or_else(|| cx.bad_attribute("attribute `shape` is missing"))?;
        tensor::dimensions(&dims).map_err(|d| d.at(cx.label))?
    };
    let n = dims.iter().product::<usize>();
    if n > limits::SHAPE_ELEMENTS * 1024 {
        return Err(cx.err(Code::LimitExceeded, format!("makes a constant of {n} elements")));
    }
    Ok(dims)
}

/// The element type of attribute `dtype`, or that of operand 0, or float.
fn typed(cx: &mut NodeCx<'_>, v: Value) -> Result<Value, Diagnostic> {
    let to = match (cx.int("dtype")?, cx.optional(0)) {
        (Some(t), _) => tensor::scalar(i32::try_from(t).unwrap_or(0)),
        (None, Some(x)) => match cx.g.ty(x).elem {
            Elem::Scalar(s) => Some(s),
            Elem::Quant(_) => None,
        },
        (None, None) => Some(Scalar::F32),
    };
    let to = to.ok_or_else(|| cx.err(Code::UnsupportedType, "draws numbers of a type that is not supported"))?;
    cx.cast(v, to)
}

fn drawn(cx: &mut NodeCx<'_>, like: bool, draw: impl Fn(&mut Generator) -> f32) -> Built {
    let dims = shape(cx, like)?;
    let mut generator = Generator::new(cx)?;
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| draw(&mut generator)).collect();
    cx.remark("its random numbers are drawn at compile time");
    let v = cx.table("random", dims, &values)?;
    Ok(vec![typed(cx, v)?])
}

fn normal_numbers(cx: &mut NodeCx<'_>, like: bool) -> Built {
    let (mean, scale) = (cx.float("mean", 0.0)?, cx.float("scale", 1.0)?);
    drawn(cx, like, |g| g.normal() * scale + mean)
}
fn uniform_numbers(cx: &mut NodeCx<'_>, like: bool) -> Built {
    let (low, high) = (cx.float("low", 0.0)?, cx.float("high", 1.0)?);
    drawn(cx, like, |g| g.uniform() * (high - low) + low)
}

pub fn normal(cx: &mut NodeCx<'_>) -> Built {
    normal_numbers(cx, false)
}
pub fn normal_like(cx: &mut NodeCx<'_>) -> Built {
    normal_numbers(cx, true)
}
pub fn uniform(cx: &mut NodeCx<'_>) -> Built {
    uniform_numbers(cx, false)
}
pub fn uniform_like(cx: &mut NodeCx<'_>) -> Built {
    uniform_numbers(cx, true)
}

/// 1 with the probability that the operand says, else 0: `u < p`, for fixed `u` of 24 bits.
pub fn bernoulli(cx: &mut NodeCx<'_>) -> Built {
    let dims = shape(cx, true)?;
    let p = cx.arg(0)?;
    let mut generator = Generator::new(cx)?;
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| generator.uniform()).collect();
    cx.remark("its random numbers are drawn at compile time");
    let thresholds = cx.table("random", dims, &values)?;
    let p = cx.cast(p, Scalar::F32)?;
    let over = cx.binary(Binary::Sub, p, thresholds)?;
    // Any positive difference is 1: the least difference of a probability and a threshold is a subnormal number.
    let over = cx.unary(Unary::HardSigmoid { alpha: f32::MAX, beta: 0.0 }, over)?;
    let over = cx.unary(Unary::HardSigmoid { alpha: f32::MAX, beta: 0.0 }, over)?;
    Ok(vec![typed(cx, over)?])
}

/// The number of a class for every sample, with the probabilities of a softmax over the operand: how many of the running
/// totals are at most `u`, for fixed `u` of 24 bits.
pub fn multinomial(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let &[batch, classes] = &cx.dims(x)[..] else { return Err(cx.misfit(format!("operand of dimensions {:?}", cx.dims(x)))) };
    let samples = cx.count("sample_size")?.unwrap_or(1);
    let n = batch.checked_mul(samples).filter(|n| *n <= limits::SHAPE_ELEMENTS * 1024);
    let n = n.ok_or_else(|| cx.err(Code::LimitExceeded, format!("draws {samples} numbers per row of {batch}")))?;
    let mut generator = Generator::new(cx)?;
    let values: Vec<f32> = (0..n).map(|_| generator.uniform()).collect();
    cx.remark("its random numbers are drawn at compile time");
    let u = cx.table("random", vec![batch, samples, 1], &values)?;
    let p = cx.push(Op::Softmax { axis: 1, log: false }, &[x])?;
    let totals = cx.push(Op::Cumulative { op: Binary::Add, axis: 1, exclusive: false, reverse: false }, &[p])?;
    let totals = cx.reshape(totals, vec![batch, 1, classes])?;
    let passed = cx.push_as(Op::Compare(Comparison::LessEqual), &[totals, u], Scalar::Bool.into())?;
    let passed = cx.cast(passed, Scalar::I32)?;
    let class = cx.push(Op::Reduce { kind: ReduceKind::Sum, axes: vec![2], keep: false }, &[passed])?;
    // The last total may be a little less than 1.
    let last = cx.number(classes.saturating_sub(1) as i128, Scalar::I32);
    let class = cx.binary(Binary::Min, class, last)?;
    match cx.int("dtype")?.unwrap_or(6) {
        6 => Ok(vec![class]),
        7 => Ok(vec![cx.cast(class, Scalar::I64)?]),
        other => Err(cx.bad_attribute(format!("attribute `dtype` is {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::Generator;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut g = Generator(1);
        let n = 100_000;
        let moments = |x: Vec<f32>| {
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            (mean, x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let (mean, variance) = moments((0..n).map(|_| g.uniform()).collect());
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.01, "{mean} {variance}");
        let (mean, variance) = moments((0..n).map(|_| g.normal()).collect());
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
