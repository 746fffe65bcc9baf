//! Functions of one and of two elements.

use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Op, Unary, Value};

fn unary(cx: &mut NodeCx<'_>, f: Unary) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    Ok(vec![cx.push(Op::Unary(f), &[x])?])
}

macro_rules! unary {
    ($($name:ident $f:ident)*) => { $(pub fn $name(cx: &mut NodeCx<'_>) -> Built { unary(cx, Unary::$f) })* };
}
unary! { abs Abs  erf Erf  exp Exp  hard_swish HardSwish  log Log  neg Neg  reciprocal Reciprocal  relu Relu  sigmoid Sigmoid  sqrt Sqrt  tanh Tanh }

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
    let x = cx.arg(0)?;
    let f = if lo == 0.0 && hi == f32::INFINITY { Unary::Relu } else { Unary::Clip { lo, hi } };
    Ok(vec![cx.push(Op::Unary(f), &[x])?])
}

fn binary(cx: &mut NodeCx<'_>, f: Binary) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    Ok(vec![cx.push(Op::Binary(f), &[a, b])?])
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
    binary(cx, Binary::Div)
}
pub fn pow(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    let b = if cx.g.ty(a).elem.is_f32() { cx.cast(b, quernel_ir::Scalar::F32)? } else { b };
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

fn variadic(cx: &mut NodeCx<'_>, f: Binary) -> Result<Value, quernel_ir::Diagnostic> {
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
