//! Running totals.

use crate::node::{Built, NodeCx};
use quernel_ir::{Binary, Code, Op};

fn cumulative(cx: &mut NodeCx<'_>, op: Binary) -> Built {
    cx.arity(2, 2)?;
    let x = cx.arg(0)?;
    let axis = match cx.const_ints(1)?.as_deref() {
        Some(&[axis]) => cx.axis(axis, cx.g.ty(x).rank())?,
        axes => return Err(cx.err(Code::ShapeMismatch, format!("operand 1 names the axes {axes:?} instead of one"))),
    };
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    Ok(vec![cx.push(Op::Cumulative { op, axis, exclusive, reverse }, &[x])?])
}

pub fn sum(cx: &mut NodeCx<'_>) -> Built {
    cumulative(cx, Binary::Add)
}
pub fn product(cx: &mut NodeCx<'_>) -> Built {
    cumulative(cx, Binary::Mul)
}
