//! Reductions and running totals of plain numbers along one axis.

use super::{plain, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{InstBuilder, Value};
use quernel_ir::{ReduceKind, diag::Diagnostic, fold::identity, op::Binary, program::What, ty::Scalar};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Reduce { kind, elem, outer, len, inner } => {
            let axis = Axis { elem: *elem, len: *len, stride: (inner * elem.bytes()) as i64 };
            rows(e, (*outer, *inner), axis.stride * *len as i64, axis.stride, axis.width(), |e, x, y| {
                let v = axis.reduce(e, *kind, x);
                e.store_plain(v, y, axis.elem);
            });
        }
        What::Cumulative { op, elem, outer, len, inner, exclusive, reverse } => {
            let axis = Axis { elem: *elem, len: *len, stride: (inner * elem.bytes()) as i64 };
            let block = axis.stride * *len as i64;
            rows(e, (*outer, *inner), block, block, axis.width(), |e, x, y| axis.running(e, *op, *exclusive, *reverse, x, y));
        }
        _ => return Err(unsupported(what)),
    }
    Ok(())
}

/// `outer` times `inner` rows; `from` and `to` are the bytes of a block of `inner` rows.
fn rows(e: &mut Emitter, (outer, inner): (usize, usize), from: i64, to: i64, width: i64, mut row: impl FnMut(&mut Emitter, Ptr, Ptr)) {
    let (x, y) = (e.read(0), e.write(0));
    e.walk(outer, &[(x, from), (y, to)], |e, p| {
        e.walk(inner, &[(p[0], width), (p[1], width)], |e, p| row(e, p[0], p[1]));
    });
}

/// Elements `stride` bytes apart.
#[derive(Clone, Copy)]
struct Axis {
    elem: Scalar,
    len: usize,
    stride: i64,
}

impl Axis {
    fn width(self) -> i64 {
        self.elem.bytes() as i64
    }
    fn constant(self, e: &mut Emitter, f: Binary) -> Value {
        plain::constant(e, self.elem, identity(f, self.elem))
    }

    fn reduce(self, e: &mut Emitter, kind: ReduceKind, x: Ptr) -> Value {
        match kind {
            ReduceKind::Sum => self.lanes(e, Binary::Add, x),
            ReduceKind::Prod => self.lanes(e, Binary::Mul, x),
            ReduceKind::Mean => {
                let sum = self.lanes(e, Binary::Add, x);
                let n = e.b.ins().f64const(self.len as f64);
                e.b.ins().fdiv(sum, n)
            }
            ReduceKind::Min => self.extreme(e, Binary::Min, x),
            ReduceKind::Max => self.extreme(e, Binary::Max, x),
        }
    }

    fn extreme(self, e: &mut Emitter, f: Binary, x: Ptr) -> Value {
        let start = self.constant(e, f);
        e.fold(self.len, &[(x, self.stride)], &[start], |e, p, best| {
            let v = e.load_plain(p[0], self.elem);
            vec![plain::apply(e, f, self.elem, v, best[0])]
        })[0]
    }

    /// [`quernel_ir::fold::fold16`]; integers need no lanes for that.
    fn lanes(self, e: &mut Emitter, f: Binary, x: Ptr) -> Value {
        let n = if self.elem.is_float() { 16 } else { 1 };
        let start = self.constant(e, f);
        let add = |e: &mut Emitter, lane: Value, x: Ptr, i: usize| {
            let at = e.at(x, i as i64 * self.stride);
            let v = e.load_plain(at, self.elem);
            plain::apply(e, f, self.elem, lane, v)
        };
        let mut lanes = e.fold(self.len / n, &[(x, n as i64 * self.stride)], &vec![start; n], |e, p, lanes| {
            lanes.iter().enumerate().map(|(i, &lane)| add(e, lane, p[0], i)).collect()
        });
        let rest = e.at(x, (self.len / n * n) as i64 * self.stride);
        for (i, lane) in lanes.iter_mut().enumerate().take(self.len % n) {
            *lane = add(e, *lane, rest, i);
        }
        let mut width = n;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] = plain::apply(e, f, self.elem, lanes[i], lanes[i + width]);
            }
        }
        lanes[0]
    }

    fn running(self, e: &mut Emitter, f: Binary, exclusive: bool, reverse: bool, x: Ptr, y: Ptr) {
        let end = (self.len as i64 - 1) * self.stride;
        let (x, y, step) = if reverse { (e.at(x, end), e.at(y, end), -self.stride) } else { (x, y, self.stride) };
        let first = e.load_plain(x, self.elem);
        let before = if exclusive { self.constant(e, f) } else { first };
        e.store_plain(before, y, self.elem);
        let (x, y) = (e.at(x, step), e.at(y, step));
        e.fold(self.len - 1, &[(x, step), (y, step)], &[first], |e, p, total| {
            if exclusive {
                e.store_plain(total[0], p[1], self.elem);
            }
            let v = e.load_plain(p[0], self.elem);
            let sum = plain::apply(e, f, self.elem, total[0], v);
            if !exclusive {
                e.store_plain(sum, p[1], self.elem);
            }
            vec![sum]
        });
    }
}
