//! QONNX: rounding to any number of bits, as Brevitas and QKeras export it.
//!
//! `Quant` rounds and stands for the rounded number: a quantize and a dequantize in one. Constants become dequantized
//! codes, so that products with them are products of integers.

use super::quant;
use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Diagnostic, Elem, Op, Quant, Scheme, Storage, Tensor, TensorTy, Unary, Value};

/// How a quotient becomes an integer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    /// To the nearest, ties to even.
    Even,
    Floor,
    Ceil,
    /// Away from zero.
    Up,
    /// Towards zero.
    Down,
    /// To the nearest, ties upwards.
    HalfUp,
    /// To the nearest, ties towards zero.
    HalfDown,
}

impl Rounding {
    fn of(cx: &NodeCx<'_>, default: &str) -> Result<Self, Diagnostic> {
        let name = cx.text("rounding_mode")?.unwrap_or_else(|| default.into());
        Ok(match name.to_ascii_uppercase().as_str() {
            "ROUND" | "HALF_EVEN" => Self::Even,
            "FLOOR" => Self::Floor,
            "CEIL" => Self::Ceil,
            "UP" => Self::Up,
            "DOWN" | "ROUND_TO_ZERO" => Self::Down,
            "HALF_UP" => Self::HalfUp,
            "HALF_DOWN" => Self::HalfDown,
            _ => return Err(cx.bad_attribute(format!("`rounding_mode` is {name:?}"))),
        })
    }

    fn of_constant(self, x: f32) -> f32 {
        match self {
            Self::Even => x.round_ties_even(),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Up => x.signum() * x.abs().ceil(),
            Self::Down => x.trunc(),
            Self::HalfUp => (x + 0.5).floor(),
            Self::HalfDown => x.signum() * (x.abs() - 0.5).ceil(),
        }
    }
}

/// The one number of a constant operand, of any type; `None` when it is left out.
fn number(cx: &NodeCx<'_>, i: usize) -> Result<Option<f64>, Diagnostic> {
    let Some(v) = cx.optional(i) else { return Ok(None) };
    let Some(t) = cx.g.tensor(v) else { return Err(cx.unsupported(format!("computes operand {i} at run time"))) };
    let floats = t.to_f32().map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
    match floats.or_else(|| t.to_ints().map(|x| x.iter().map(|x| *x as f64).collect())).as_deref() {
        Some([x]) => Ok(Some(*x)),
        Some(x) => Err(cx.unsupported(format!("has {} numbers for operand {i}", x.len()))),
        None => Err(cx.err(Code::UnsupportedType, format!("operand {i} has to be numbers"))),
    }
}

fn width(cx: &NodeCx<'_>, i: usize) -> Result<u8, Diagnostic> {
    let bits = number(cx, i)?.ok_or_else(|| cx.err(Code::BadGraph, format!("operand {i} is left out, but required")))?;
    if bits.fract() == 0.0 && (1.0..=32.0).contains(&bits) {
        Ok(bits as u8)
    } else {
        Err(cx.unsupported(format!("rounds to {bits} bits; 1 to 32 are supported")))
    }
}

/// Integers of some bits, and the smallest and largest that occur.
struct Levels {
    bits: u8,
    signed: bool,
    lo: i64,
    hi: i64,
}

impl Levels {
    /// `narrow` leaves out one end: the lowest of signed integers, the highest of unsigned ones.
    fn of(cx: &NodeCx<'_>, bits: u8) -> Result<Self, Diagnostic> {
        let (signed, narrow) = (cx.flag("signed", true)?, i64::from(cx.flag("narrow", false)?));
        let half = 1i64 << (bits - 1);
        let (lo, hi) = if signed { (narrow - half, half - 1) } else { (0, 2 * half - 1 - narrow) };
        if lo < hi { Ok(Self { bits, signed, lo, hi }) } else { Err(cx.unsupported("rounds to a single number")) }
    }

    /// The type of these integers under a scale and a zero point, if there is one.
    fn elem(&self, scale: f32, zero: i64) -> Option<Quant> {
        let storage = Storage::new(self.bits, self.signed)?;
        let (lo, hi, zero_point) = (i32::try_from(self.lo).ok()?, i32::try_from(self.hi).ok()?, i32::try_from(zero).ok()?);
        Quant::new(storage, lo, hi, Scheme::PerTensor { scale, zero_point }).ok()
    }
}

/// A constant operand expanded to `dims`.
fn expanded(cx: &mut NodeCx<'_>, i: usize, dims: &[usize]) -> Result<Vec<f32>, Diagnostic> {
    let v = cx.arg(i)?;
    let Some(t) = cx.g.tensor(v).cloned() else { return Err(cx.unsupported(format!("computes operand {i} at run time"))) };
    let floats = t.to_f32().or_else(|| t.to_ints().map(|x| x.iter().map(|x| *x as f32).collect()));
    let floats = floats.ok_or_else(|| cx.err(Code::UnsupportedType, format!("operand {i} has to be numbers")))?;
    cx.take_bytes(dims.iter().product::<usize>().saturating_mul(4))?;
    let operand = Tensor::f32(t.ty.dims.clone(), &floats);
    let expand = Op::Expand { dims: dims.to_vec() };
    quernel_ir::infer::dims(&expand, &[&operand.ty]).map_err(|e| cx.err(Code::ShapeMismatch, e))?;
    quant::spread(&floats, &t.ty.dims, dims).ok_or_else(|| cx.err(Code::ShapeMismatch, format!("operand {i} does not fit operand 0")))
}

/// `x, scale, zero point, bits`: `s (round(clip(x / s + z)) - z)`.
pub fn quant(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(4, 4)?;
    let levels = Levels::of(cx, width(cx, 3)?)?;
    let rounding = Rounding::of(cx, "ROUND")?;
    let x = cx.arg(0)?;
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, format!("rounds {}", cx.g.ty(x).elem)));
    }
    if let Some(data) = cx.g.tensor(x).and_then(Tensor::to_f32) {
        return Ok(vec![constant(cx, x, &data, &levels, rounding)?]);
    }
    let scales = quant::scales(cx, 1)?;
    let zero = number(cx, 2)?.unwrap_or(0.0);
    let direct = match scales[..] {
        [scale] if zero.fract() == 0.0 && rounding == Rounding::Even => levels.elem(scale, zero as i64),
        _ => None,
    };
    if let Some(elem) = direct {
        let q = cx.push_as(Op::Quantize, &[x], elem.into())?;
        return Ok(vec![cx.push_as(Op::Dequantize, &[q], Elem::F32)?]);
    }
    let scale = cx.arg(1)?;
    let mut ratio = cx.push(Op::Binary(Binary::Div), &[x, scale])?;
    let zero = if zero == 0.0 { None } else { Some(cx.scalar(zero as f32)) };
    if let Some(zero) = zero {
        ratio = cx.push(Op::Binary(Binary::Add), &[ratio, zero])?;
    }
    let mut q = integers(cx, ratio, &levels, rounding)?;
    if let Some(zero) = zero {
        q = cx.push(Op::Binary(Binary::Sub), &[q, zero])?;
    }
    Ok(vec![cx.push(Op::Binary(Binary::Mul), &[q, scale])?])
}

/// `round(clip(ratio))` as floats.
fn integers(cx: &mut NodeCx<'_>, ratio: Value, levels: &Levels, rounding: Rounding) -> Result<Value, Diagnostic> {
    let Some(elem) = levels.elem(1.0, 0) else {
        cx.remark(format!("rounds to {} bits: computed in floats, within the range of the integers", levels.bits));
        return cx.push(Op::Unary(Unary::Clip { lo: levels.lo as f32, hi: levels.hi as f32 }), &[ratio]);
    };
    let nearest = |cx: &mut NodeCx<'_>, v: Value| -> Result<Value, Diagnostic> {
        let q = cx.push_as(Op::Quantize, &[v], elem.clone().into())?;
        cx.push_as(Op::Dequantize, &[q], Elem::F32)
    };
    match rounding {
        Rounding::Even => nearest(cx, ratio),
        Rounding::Floor => floor(cx, ratio, levels, &nearest),
        Rounding::HalfUp => {
            let half = cx.scalar(0.5);
            let up = cx.push(Op::Binary(Binary::Add), &[ratio, half])?;
            floor(cx, up, levels, &nearest)
        }
        _ => Err(cx.unsupported("rounds computed values in a direction other than to the nearest or down")),
    }
}

/// The largest integer below: that nearby, minus 1 where it lies above.
fn floor(
    cx: &mut NodeCx<'_>,
    v: Value,
    levels: &Levels,
    nearest: &dyn Fn(&mut NodeCx<'_>, Value) -> Result<Value, Diagnostic>,
) -> Result<Value, Diagnostic> {
    // Enough for the smallest number above 0, in two steps because one factor would be no f32.
    let large = cx.scalar(2f32.powi(100));
    let v = cx.push(Op::Unary(Unary::Clip { lo: levels.lo as f32, hi: levels.hi as f32 }), &[v])?;
    let q = nearest(cx, v)?;
    let mut above = cx.push(Op::Binary(Binary::Sub), &[q, v])?;
    for _ in 0..2 {
        above = cx.push(Op::Binary(Binary::Mul), &[above, large])?;
    }
    let above = cx.push(Op::Unary(Unary::Clip { lo: 0.0, hi: 1.0 }), &[above])?;
    cx.push(Op::Binary(Binary::Sub), &[q, above])
}

/// A constant as dequantized codes, or as floats where its scales do not lie along one axis.
fn constant(cx: &mut NodeCx<'_>, x: Value, data: &[f32], levels: &Levels, rounding: Rounding) -> Result<Value, Diagnostic> {
    let dims = cx.dims(x);
    let own = quant::scales(cx, 1)?;
    let (scales, zeros) = (expanded(cx, 1, &dims)?, expanded(cx, 2, &dims)?);
    let (lo, hi) = (levels.lo as f32, levels.hi as f32);
    let centered: Vec<f32> = (0..data.len())
        .map(|i| rounding.of_constant((data[i] / scales[i] + zeros[i]).clamp(lo, hi)) - zeros[i])
        .map(|q| if q.is_nan() { 0.0 } else { q })
        .collect();
    let name = cx.g.values[x].name.clone();
    let axis = quant::scale_axis(cx.g.ty(cx.arg(1)?), &dims);
    let whole = centered.iter().all(|q| q.fract() == 0.0);
    let scheme = match (&own[..], axis) {
        (&[scale], _) => Some(Scheme::PerTensor { scale, zero_point: 0 }),
        (_, Some(axis)) => Some(Scheme::PerAxis { axis: axis as u8, scales: own.clone().into() }),
        _ => None,
    };
    let codes: Vec<i64> = centered.iter().map(|q| *q as i64).collect();
    let quant = scheme.filter(|_| whole).and_then(|scheme| quant::held(&codes, levels.bits, scheme));
    cx.take_bytes(data.len().saturating_mul(4))?;
    let Some(quant) = quant else {
        let reals: Vec<f32> = centered.iter().zip(&scales).map(|(q, s)| q * s).collect();
        return Ok(cx.g.constant(name, Tensor::f32(dims, &reals)));
    };
    let q = cx.g.constant(name, Tensor::from_ints(TensorTy::new(dims, quant), codes));
    cx.push_as(Op::Dequantize, &[q], Elem::F32)
}

/// `x, scale`: `s` where `x >= 0`, else `-s`.
pub fn bipolar(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let x = cx.arg(0)?;
    let scale = match quant::scales(cx, 1)?[..] {
        [scale] => scale,
        _ => return Err(cx.unsupported("has one scale per channel")),
    };
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, format!("rounds {}", cx.g.ty(x).elem)));
    }
    let dims = cx.dims(x);
    if let Some(data) = cx.g.tensor(x).and_then(Tensor::to_f32) {
        let name = cx.g.values[x].name.clone();
        let Some(&rows) = dims.first() else {
            return Ok(vec![cx.g.constant(name, Tensor::f32(dims, &[if data[0] >= 0.0 { scale } else { -scale }]))]);
        };
        let bit = Storage::new(1, false).ok_or_else(|| Diagnostic::bug("codes of one bit"))?;
        let scheme = Scheme::Table { axis: 0, scales: vec![scale; rows].into(), table: [-1, 1].as_slice().into() };
        let quant = Quant::new(bit, 0, 1, scheme).map_err(|e| cx.err(Code::BadTensor, e))?;
        let q = cx.g.constant(name, Tensor::from_ints(TensorTy::new(dims, quant), data.iter().map(|x| i64::from(*x >= 0.0))));
        return Ok(vec![cx.push_as(Op::Dequantize, &[q], Elem::F32)?]);
    }
    // -1 where it is negative, however small, else 0; then 2 s times that, plus s.
    let (large, twice, once) = (cx.scalar(2f32.powi(100)), cx.scalar(2.0 * scale), cx.scalar(scale));
    let mut sign = x;
    for _ in 0..2 {
        sign = cx.push(Op::Binary(Binary::Mul), &[sign, large])?;
    }
    let sign = cx.push(Op::Unary(Unary::Clip { lo: -1.0, hi: 0.0 }), &[sign])?;
    let step = cx.push(Op::Binary(Binary::Mul), &[sign, twice])?;
    let y = cx.push(Op::Binary(Binary::Add), &[step, once])?;
    let two = Levels { bits: 2, signed: true, lo: -1, hi: 1 };
    let elem = two.elem(scale, 0).ok_or_else(|| cx.err(Code::BadTensor, format!("its scale is {scale}")))?;
    let q = cx.push_as(Op::Quantize, &[y], elem.into())?;
    Ok(vec![cx.push_as(Op::Dequantize, &[q], Elem::F32)?])
}

/// `x, scale, zero point, bits, bits that stay`: the integers of `x` without their lowest bits, under the same scale.
pub fn trunc(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(5, 5)?;
    let (from, to) = (width(cx, 3)?, width(cx, 4)?);
    let rounding = Rounding::of(cx, "FLOOR")?;
    if to > from || from > 22 {
        return Err(cx.unsupported(format!("shortens {from} bits to {to}; up to 22 bits are shortened")));
    }
    let scale = match quant::scales(cx, 1)?[..] {
        [scale] => scale,
        _ => return Err(cx.unsupported("has one scale per channel")),
    };
    let zero = number(cx, 2)?.unwrap_or(0.0);
    if zero != 0.0 {
        return Err(cx.unsupported(format!("has the zero point {zero}")));
    }
    let x = cx.arg(0)?;
    let divisor = 2f32.powi(i32::from(from - to));
    // The integers lie on a grid of `1 / divisor` after the division; half a grid step less than a half moves the next
    // smaller integer to where rounding finds it, and meets no tie.
    let shift = match rounding {
        Rounding::Floor => -(divisor - 1.0) / 2.0,
        Rounding::Ceil => (divisor - 1.0) / 2.0,
        Rounding::Even => 0.0,
        _ => return Err(cx.unsupported("shortens in a direction other than down, up or to the nearest")),
    };
    let (own, unit) = (cx.scalar(scale), cx.scalar(1.0 / divisor));
    let ratio = cx.push(Op::Binary(Binary::Div), &[x, own])?;
    let mut q = quant::nearest(cx, ratio)?;
    if shift != 0.0 {
        let shift = cx.scalar(shift);
        q = cx.push(Op::Binary(Binary::Add), &[q, shift])?;
    }
    let short = cx.push(Op::Binary(Binary::Mul), &[q, unit])?;
    let q = quant::nearest(cx, short)?;
    let y = cx.push(Op::Binary(Binary::Mul), &[q, own])?;
    // Where the operand is not negative the result needs no sign.
    let positive = quant::never_negative(cx.g, x);
    let half = 1i64 << (to - 1);
    let (lo, hi) = if positive { (0, 2 * half - 1) } else { (-half, half - 1) };
    let Some(elem) = (Levels { bits: to, signed: !positive, lo, hi }).elem(scale, 0).filter(|_| to <= 8) else { return Ok(vec![y]) };
    let q = cx.push_as(Op::Quantize, &[y], elem.into())?;
    Ok(vec![cx.push_as(Op::Dequantize, &[q], Elem::F32)?])
}
