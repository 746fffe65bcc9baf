//! Functions of one and of two elements.

use crate::{
    integers,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Diagnostic, Op, Scalar, Tensor, Unary, Value};

fn unary(cx: &mut NodeCx<'_>, f: Unary) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    Ok(vec![cx.push(Op::Unary(f), &[x])?])
}

macro_rules! unary {
    ($($name:ident $f:ident)*) => { $(pub fn $name(cx: &mut NodeCx<'_>) -> Built { unary(cx, Unary::$f) })* };
}
unary! {
    acos Acos  acosh Acosh  asin Asin  asinh Asinh  atan Atan  atanh Atanh  ceil Ceil  cos Cos  cosh Cosh  erf Erf  exp Exp
    floor Floor  hard_swish HardSwish  log Log  mish Mish  reciprocal Reciprocal  round Round  sigmoid Sigmoid  sin Sin
    sinh Sinh  softplus Softplus  softsign Softsign  sqrt Sqrt  tan Tan  tanh Tanh
}

pub fn elu(cx: &mut NodeCx<'_>) -> Built {
    let alpha = cx.float("alpha", 1.0)?;
    unary(cx, Unary::Elu { alpha, beta: 1.0, gamma: 1.0 })
}

pub fn celu(cx: &mut NodeCx<'_>) -> Built {
    let alpha = cx.float("alpha", 1.0)?;
    let beta = 1.0 / alpha;
    if !beta.is_finite() {
        return Err(cx.bad_attribute(format!("attribute `alpha` is {alpha}")));
    }
    unary(cx, Unary::Elu { alpha, beta, gamma: 1.0 })
}

pub fn selu(cx: &mut NodeCx<'_>) -> Built {
    let (alpha, gamma) = (cx.float("alpha", 1.673_263_2)?, cx.float("gamma", 1.050_701)?);
    unary(cx, Unary::Elu { alpha, beta: 1.0, gamma })
}

pub fn thresholded_relu(cx: &mut NodeCx<'_>) -> Built {
    let alpha = cx.float("alpha", 1.0)?;
    unary(cx, Unary::ThresholdedRelu { alpha })
}

pub fn shrink(cx: &mut NodeCx<'_>) -> Built {
    let (lambda, bias) = (cx.float("lambd", 0.5)?, cx.float("bias", 0.0)?);
    unary(cx, Unary::Shrink { lambda, bias })
}

pub fn sign(cx: &mut NodeCx<'_>) -> Built {
    let Some(s) = integer(cx) else { return unary(cx, Unary::Sign) };
    cx.arity(1, 1)?;
    let (x, one) = (cx.arg(0)?, cx.number(1, s));
    let mut y = cx.push(Op::Binary(Binary::Min), &[x, one])?;
    if s.is_signed() {
        let minus = cx.number(-1, s);
        y = cx.push(Op::Binary(Binary::Max), &[y, minus])?;
    }
    Ok(vec![y])
}

/// The integer type of the first operand, if it has one.
fn integer(cx: &NodeCx<'_>) -> Option<Scalar> {
    cx.optional(0).and_then(|x| cx.g.ty(x).elem.scalar()).filter(|s| s.is_integer())
}

/// `0 - x` of integers.
fn negated(cx: &mut NodeCx<'_>, s: Scalar) -> Result<Value, Diagnostic> {
    cx.arity(1, 1)?;
    let (x, zero) = (cx.arg(0)?, cx.number(0, s));
    cx.push(Op::Binary(Binary::Sub), &[zero, x])
}

pub fn neg(cx: &mut NodeCx<'_>) -> Built {
    match integer(cx) {
        Some(s) => Ok(vec![negated(cx, s)?]),
        None => unary(cx, Unary::Neg),
    }
}

pub fn abs(cx: &mut NodeCx<'_>) -> Built {
    match integer(cx) {
        Some(s) if s.is_signed() => {
            let (x, negative) = (cx.arg(0)?, negated(cx, s)?);
            Ok(vec![cx.push(Op::Binary(Binary::Max), &[x, negative])?])
        }
        Some(_) => Ok(vec![cx.arg(0)?]),
        None => unary(cx, Unary::Abs),
    }
}

pub fn relu(cx: &mut NodeCx<'_>) -> Built {
    match integer(cx) {
        Some(s) => {
            let (x, zero) = (cx.arg(0)?, cx.number(0, s));
            Ok(vec![cx.push(Op::Binary(Binary::Max), &[x, zero])?])
        }
        None => unary(cx, Unary::Relu),
    }
}

pub fn leaky_relu(cx: &mut NodeCx<'_>) -> Built {
    let alpha = cx.float("alpha", 0.01)?;
    unary(cx, Unary::LeakyRelu { alpha })
}

pub fn hard_sigmoid(cx: &mut NodeCx<'_>) -> Built {
    let (alpha, beta) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
    unary(cx, Unary::HardSigmoid { alpha, beta })
}

pub fn swish(cx: &mut NodeCx<'_>) -> Built {
    let alpha = cx.float("alpha", 1.0)?;
    unary(cx, Unary::Swish { alpha })
}

pub fn gelu(cx: &mut NodeCx<'_>) -> Built {
    match cx.text("approximate")?.as_deref() {
        None | Some("none") => unary(cx, Unary::Gelu),
        Some("tanh") => unary(cx, Unary::GeluTanh),
        Some(other) => Err(cx.bad_attribute(format!("attribute `approximate` is {other:?}"))),
    }
}

pub fn clip(cx: &mut NodeCx<'_>) -> Built {
    let computed = |i: usize| cx.optional(i).is_some_and(|v| cx.g.tensor(v).is_none());
    let x = cx.arg(0)?;
    if cx.opset >= 11 && (computed(1) || computed(2) || !cx.g.ty(x).elem.is_f32()) {
        cx.arity(1, 3)?;
        let mut y = x;
        for (i, f) in [(1, Binary::Max), (2, Binary::Min)] {
            if let Some(bound) = cx.optional(i) {
                y = cx.push(Op::Binary(f), &[y, bound])?;
            }
        }
        return Ok(vec![y]);
    }
    let (lo, hi) = if cx.opset < 11 {
        cx.arity(1, 1)?;
        (cx.float("min", f32::MIN)?, cx.float("max", f32::MAX)?)
    } else {
        cx.arity(1, 3)?;
        (cx.const_f32(1)?.unwrap_or(f32::NEG_INFINITY), cx.const_f32(2)?.unwrap_or(f32::INFINITY))
    };
    if lo.is_nan() || hi.is_nan() {
        return Err(cx.bad_attribute("a bound is not a number"));
    }
    let open = |x: f32| if x.abs() == f32::MAX { x * f32::INFINITY } else { x };
    // ONNX takes the upper bound last, so it wins where the two are crossed.
    let (lo, hi) = (open(lo).min(open(hi)), open(hi));
    let f = if lo == 0.0 && hi == f32::INFINITY { Unary::Relu } else { Unary::Clip { lo, hi } };
    Ok(vec![cx.push(Op::Unary(f), &[x])?])
}

fn binary(cx: &mut NodeCx<'_>, f: Binary) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    Ok(vec![cx.push(Op::Binary(f), &[a, b])?])
}

/// Integers are not divided by a constant that holds 0. One that is computed gives 0 where it is 0.
fn divisor(cx: &NodeCx<'_>) -> Result<(), Diagnostic> {
    let constant = cx.optional(1).and_then(|b| cx.g.tensor(b)).filter(|_| integer(cx).is_some());
    match constant.and_then(Tensor::to_ints) {
        Some(all) if all.contains(&0) => Err(integers::by_zero(cx)),
        _ => Ok(()),
    }
}

pub fn add(cx: &mut NodeCx<'_>) -> Built {
    binary(cx, Binary::Add)
}
pub fn sub(cx: &mut NodeCx<'_>) -> Built {
    binary(cx, Binary::Sub)
}
pub fn mul(cx: &mut NodeCx<'_>) -> Built {
    binary(cx, Binary::Mul)
}
pub fn div(cx: &mut NodeCx<'_>) -> Built {
    divisor(cx)?;
    binary(cx, Binary::Div)
}
/// The remainder of a division: truncating with `fmod`, else rounding down.
pub fn modulo(cx: &mut NodeCx<'_>) -> Built {
    divisor(cx)?;
    let truncates = cx.flag("fmod", false)?;
    binary(cx, if truncates { Binary::Remainder } else { Binary::Modulo })
}

pub fn pow(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    if let Some(s) = integer(cx) {
        if cx.g.ty(a).elem == cx.g.ty(b).elem {
            return binary(cx, Binary::Pow);
        }
        // Of different types: in f32, and the result has the type of the base.
        let (x, y) = (cx.cast(a, Scalar::F32)?, cx.cast(b, Scalar::F32)?);
        let power = cx.push(Op::Binary(Binary::Pow), &[x, y])?;
        return Ok(vec![cx.cast(power, s)?]);
    }
    let b = if cx.g.ty(a).elem.is_f32() { cx.cast(b, Scalar::F32)? } else { b };
    // Squares and roots are spelled as powers; as products they are exact and cheap.
    let exponent = cx.g.tensor(b).and_then(|t| t.to_f32()).filter(|e| e.len() == 1 && cx.g.ty(b).rank() <= cx.g.ty(a).rank()).map(|e| e[0]);
    Ok(vec![match exponent {
        Some(1.0) => a,
        Some(2.0) => cx.push(Op::Binary(Binary::Mul), &[a, a])?,
        Some(3.0) => {
            let square = cx.push(Op::Binary(Binary::Mul), &[a, a])?;
            cx.push(Op::Binary(Binary::Mul), &[square, a])?
        }
        Some(0.5) => cx.push(Op::Unary(Unary::Sqrt), &[a])?,
        Some(-1.0) => cx.push(Op::Unary(Unary::Reciprocal), &[a])?,
        _ => cx.push(Op::Binary(Binary::Pow), &[a, b])?,
    }])
}

fn variadic(cx: &mut NodeCx<'_>, f: Binary) -> Result<Value, Diagnostic> {
    cx.arity(1, 1 << 10)?;
    let mut x = cx.arg(0)?;
    for i in 1..cx.inputs.len() {
        let y = cx.arg(i)?;
        x = cx.push(Op::Binary(f), &[x, y])?;
    }
    Ok(x)
}

pub fn max(cx: &mut NodeCx<'_>) -> Built {
    Ok(vec![variadic(cx, Binary::Max)?])
}
pub fn min(cx: &mut NodeCx<'_>) -> Built {
    Ok(vec![variadic(cx, Binary::Min)?])
}
pub fn sum(cx: &mut NodeCx<'_>) -> Built {
    Ok(vec![variadic(cx, Binary::Add)?])
}
pub fn mean(cx: &mut NodeCx<'_>) -> Built {
    let total = variadic(cx, Binary::Add)?;
    let n = cx.scalar(cx.inputs.len() as f32);
    Ok(vec![cx.push(Op::Binary(Binary::Div), &[total, n])?])
}

/// `max(x, 0) + slope * min(x, 0)`; one slope is a leaky ReLU.
pub fn prelu(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, slope) = (cx.arg(0)?, cx.arg(1)?);
    if let Some([alpha]) = cx.g.tensor(slope).and_then(|t| t.to_f32()).as_deref()
        && cx.g.ty(slope).rank() <= cx.g.ty(x).rank()
    {
        let alpha = *alpha;
        return Ok(vec![cx.push(Op::Unary(Unary::LeakyRelu { alpha }), &[x])?]);
    }
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, "operands have to be float"));
    }
    let zero = cx.scalar(0.0);
    let positive = cx.push(Op::Unary(Unary::Relu), &[x])?;
    let negative = cx.push(Op::Binary(Binary::Min), &[x, zero])?;
    let scaled = cx.push(Op::Binary(Binary::Mul), &[negative, slope])?;
    Ok(vec![cx.push(Op::Binary(Binary::Add), &[positive, scaled])?])
}
