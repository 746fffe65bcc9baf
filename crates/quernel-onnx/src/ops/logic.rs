//! Relations, logic, bits and choices.

use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Comparison, Diagnostic, Elem, Op, Scalar, Value};

fn compare(cx: &mut NodeCx<'_>, f: Comparison, a: Value, b: Value) -> Result<Value, Diagnostic> {
    cx.push_as(Op::Compare(f), &[a, b], Elem::BOOL)
}

fn relation(cx: &mut NodeCx<'_>, f: Comparison, swapped: bool) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    Ok(vec![if swapped { compare(cx, f, b, a)? } else { compare(cx, f, a, b)? }])
}

pub fn equal(cx: &mut NodeCx<'_>) -> Built {
    relation(cx, Comparison::Equal, false)
}
pub fn less(cx: &mut NodeCx<'_>) -> Built {
    relation(cx, Comparison::Less, false)
}
pub fn less_or_equal(cx: &mut NodeCx<'_>) -> Built {
    relation(cx, Comparison::LessEqual, false)
}
pub fn greater(cx: &mut NodeCx<'_>) -> Built {
    relation(cx, Comparison::Less, true)
}
pub fn greater_or_equal(cx: &mut NodeCx<'_>) -> Built {
    relation(cx, Comparison::LessEqual, true)
}

fn bits(cx: &mut NodeCx<'_>, f: Binary, boolean: bool) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    if (cx.g.ty(a).elem == Elem::BOOL) != boolean {
        let wanted = if boolean { "bool" } else { "an integer type" };
        return Err(cx.err(Code::UnsupportedType, format!("operands of type {}; they have to be of {wanted}", cx.g.ty(a).elem)));
    }
    Ok(vec![cx.push(Op::Binary(f), &[a, b])?])
}

pub fn and(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::And, true)
}
pub fn or(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::Or, true)
}
pub fn xor(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::Xor, true)
}
pub fn bitwise_and(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::And, false)
}
pub fn bitwise_or(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::Or, false)
}
pub fn bitwise_xor(cx: &mut NodeCx<'_>) -> Built {
    bits(cx, Binary::Xor, false)
}

/// `not x`, for bool and for all bits of an integer.
pub fn not(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    Ok(vec![inverted(cx, x)?])
}

fn inverted(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, Diagnostic> {
    let ones = match cx.g.ty(x).elem.scalar() {
        Some(Scalar::Bool) => cx.number(1, Scalar::Bool),
        Some(s) if s.is_integer() => cx.number(-1, s),
        _ => return Err(cx.err(Code::UnsupportedType, format!("inverts the bits of {}", cx.g.ty(x).elem))),
    };
    cx.push(Op::Binary(Binary::Xor), &[x, ones])
}

pub fn shift(cx: &mut NodeCx<'_>) -> Built {
    let f = match cx.text("direction")?.as_deref() {
        Some("LEFT") => Binary::ShiftLeft,
        Some("RIGHT") => Binary::ShiftRight,
        other => return Err(cx.bad_attribute(format!("attribute `direction` is {}", other.unwrap_or("missing")))),
    };
    bits(cx, f, false)
}

/// `c ? a : b`.
pub fn choose(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let (c, a, b) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let elem = cx.g.ty(a).elem.clone();
    Ok(vec![cx.push_as(Op::Select, &[c, a, b], elem)?])
}

/// A NaN is the only number that does not equal itself.
pub fn is_nan(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let same = compare(cx, Comparison::Equal, x, x)?;
    Ok(vec![inverted(cx, same)?])
}

pub fn is_inf(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let (negative, positive) = (cx.flag("detect_negative", true)?, cx.flag("detect_positive", true)?);
    let s = cx.g.ty(x).elem.scalar().filter(|s| s.is_float());
    let s = s.ok_or_else(|| cx.err(Code::UnsupportedType, format!("{} is never infinite", cx.g.ty(x).elem)))?;
    let mut found = Vec::new();
    for bound in [negative.then_some(f64::NEG_INFINITY), positive.then_some(f64::INFINITY)].into_iter().flatten() {
        let bound = cx.real(bound, s);
        found.push(compare(cx, Comparison::Equal, x, bound)?);
    }
    match found[..] {
        [one] => Ok(vec![one]),
        [a, b] => Ok(vec![cx.push(Op::Binary(Binary::Or), &[a, b])?]),
        // Nothing is asked for.
        _ => {
            let same = compare(cx, Comparison::Equal, x, x)?;
            Ok(vec![cx.push(Op::Binary(Binary::Xor), &[same, same])?])
        }
    }
}
