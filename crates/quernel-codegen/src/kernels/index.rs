//! Elements at computed places.

use super::{moves::copy_within, plain, strided::Space, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use quernel_ir::{
    diag::Diagnostic,
    op::Binary,
    program::{Places, Strided, What},
    ty::Scalar,
};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Gather { width, places, over } => gather(e, *width, places, over),
        What::Scatter { width, places, over, reduce } => scatter(e, *width, places, over, *reduce),
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// Splits a space where operand `index` stops moving: loops over indices, and what one index moves.
fn split(space: &Space, index: usize) -> (usize, Space) {
    let still = space.steps[index].iter().rev().take_while(|s| **s == 0).count();
    let at = space.dims.len() - still;
    let inner = Space {
        dims: if still == 0 { vec![1] } else { space.dims[at..].to_vec() },
        steps: space.steps.iter().map(|s| if still == 0 { vec![0] } else { s[at..].to_vec() }).collect(),
        starts: vec![0; space.starts.len()],
    };
    (still, inner)
}

/// Bytes from the operand's own position to the place that the indices at `p` name.
fn place(e: &mut Emitter, p: Ptr, places: &Places, width: usize) -> Value {
    let bytes = if places.wide { 8 } else { 4 };
    let mut sum: Option<Value> = None;
    for (c, &(extent, step)) in places.axes.iter().enumerate() {
        let off = c as i64 * places.apart as i64 * bytes;
        let i = e.load_wide(p, off, bytes as usize, true);
        let zero = e.i64(0);
        let last = e.i64(extent as i64 - 1);
        let from_end = e.b.ins().iadd_imm_s(i, extent as i64);
        let negative = e.b.ins().icmp(IntCC::SignedLessThan, i, zero);
        let i = e.b.ins().select(negative, from_end, i);
        let below = e.b.ins().icmp(IntCC::SignedLessThan, i, zero);
        let i = e.b.ins().select(below, zero, i);
        let above = e.b.ins().icmp(IntCC::SignedGreaterThan, i, last);
        let i = e.b.ins().select(above, last, i);
        let i = e.b.ins().imul_imm_s(i, step as i64 * width as i64);
        sum = Some(sum.map_or(i, |s| e.b.ins().iadd(s, i)));
    }
    sum.unwrap_or_else(|| e.i64(0))
}

fn gather(e: &mut Emitter, width: usize, places: &Places, over: &Strided) {
    let space = Space::new(over);
    let (still, mut inner) = split(&space, 1);
    inner.steps.remove(1);
    inner.starts.remove(1);
    let operands = [e.read(0), e.read(1), e.write(0)];
    let widths = [width as i64, if places.wide { 8 } else { 4 }, width as i64];
    space.nest(e, &operands, &widths, still, &mut |e, p| {
        let at = place(e, p[1], places, width);
        let from = e.plus(p[0], at);
        copy_within(e, width, &inner, [from, p[2]]);
    });
}

fn scatter(e: &mut Emitter, width: usize, places: &Places, over: &Strided, reduce: Option<(Binary, Scalar)>) {
    let space = Space::new(over);
    let (still, mut inner) = split(&space, 0);
    inner.steps.remove(0);
    inner.starts.remove(0);
    let operands = [e.read(0), e.read(1), e.write(0)];
    let widths = [if places.wide { 8 } else { 4 }, width as i64, width as i64];
    space.nest(e, &operands, &widths, still, &mut |e, p| {
        let at = place(e, p[0], places, width);
        let to = e.plus(p[2], at);
        let Some((f, s)) = reduce else { return copy_within(e, width, &inner, [p[1], to]) };
        inner.nest(e, &[p[1], to], &widths[1..], 0, &mut |e, p| {
            let (u, y) = (e.load_plain(p[0], s), e.load_plain(p[1], s));
            let v = plain::apply(e, f, s, y, u);
            e.store_plain(v, p[1], s);
        });
    });
}
