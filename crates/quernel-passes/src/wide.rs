//! Words: integers of more than 8 bits.
//!
//! A layer's kernel reads bytes or words. Where its operands and result are both, the bytes become words under the same
//! scale and zero point, so that the sum is the same.

use crate::Sweep;
use quernel_ir::{Diagnostic, Elem, Node, Op, Origin, Quant, Storage, Value};

/// Whether elements are integers of 9 to 16 bits.
pub(crate) fn is_wide(elem: &Elem) -> bool {
    elem.quant().is_some_and(|q| (9..=16).contains(&q.storage().bits()))
}

/// The same numbers as words.
fn widened(elem: &Elem) -> Option<Elem> {
    let q = elem.quant().filter(|q| q.storage().bits() <= 8)?;
    Quant::new(Storage::I16, q.min(), q.max(), q.scheme().clone()).ok().map(Into::into)
}

/// `v` as words.
pub(crate) fn word(s: &mut Sweep<'_>, v: Value, origin: Origin) -> Result<Value, Diagnostic> {
    match widened(&s.g.ty(v).elem) {
        Some(elem) => s.push(Op::Requantize, &[v], elem, origin),
        None => Ok(v),
    }
}

/// Layer `n` over words, whose result `quantize` rounds to a byte: the rounding is the layer's, to a word that a byte holds.
pub(crate) fn narrowed(s: &mut Sweep<'_>, n: Node, args: Vec<Value>, quantize: Option<Node>) -> Result<(), Diagnostic> {
    let (op, r) = (s.g.nodes[n].op.clone(), s.g.nodes[n].result());
    if let Some(quantize) = quantize
        && let Some(elem) = widened(&s.g.ty(s.g.nodes[quantize].result()).elem)
    {
        s.g.values[r].ty.elem = elem;
        s.g.nodes[quantize].op = Op::Requantize;
    }
    s.rewrite(n, op, args);
    Ok(())
}
