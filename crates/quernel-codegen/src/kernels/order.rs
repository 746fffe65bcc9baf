//! The largest elements of an axis.

use super::unsupported;
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC, types::I64};
use quernel_ir::{diag::Diagnostic, program::What, ty::Scalar};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::TopK { elem, outer, len, inner, k, smallest, last } = what else { return Err(unsupported(what)) };
    let width = elem.bytes() as i64;
    let (x, y) = (e.read(0), e.write(0));
    e.walk(*outer, &[(x, (len * inner) as i64 * width), (y, (k * inner) as i64 * 8)], |e, p| {
        e.walk(*inner, &[(p[0], width), (p[1], 8)], |e, p| {
            let row = Row { elem: *elem, len: *len, k: *k, stride: *inner as i64, smallest: *smallest, last: *last, x: p[0], y: p[1] };
            if *k == 1 { row.extreme(e) } else { row.heap(e) }
        });
    });
    Ok(())
}

/// One row: `len` elements at `x`, `k` results at `y`, both `stride` elements apart.
#[derive(Clone, Copy)]
struct Row {
    elem: Scalar,
    len: usize,
    k: usize,
    stride: i64,
    smallest: bool,
    last: bool,
    x: Ptr,
    y: Ptr,
}

impl Row {
    /// The key of element `i`, an i64; larger is better.
    fn key(self, e: &mut Emitter, i: Value) -> Value {
        let at = e.index(self.x, i, self.stride * self.elem.bytes() as i64);
        self.key_at(e, at)
    }
    fn key_at(self, e: &mut Emitter, p: Ptr) -> Value {
        let key = order_key(e, self.elem, p);
        if self.smallest { e.b.ins().bnot(key) } else { key }
    }
    /// Whether `a` is better than `b`, both (key, index).
    fn better(self, e: &mut Emitter, a: (Value, Value), b: (Value, Value)) -> Value {
        let more = e.b.ins().icmp(IntCC::SignedGreaterThan, a.0, b.0);
        let equal = e.b.ins().icmp(IntCC::Equal, a.0, b.0);
        let order = if self.last { IntCC::SignedGreaterThan } else { IntCC::SignedLessThan };
        let first = e.b.ins().icmp(order, a.1, b.1);
        let tie = e.b.ins().band(equal, first);
        e.b.ins().bor(more, tie)
    }
    fn slot(self, e: &mut Emitter, i: Value) -> Ptr {
        e.index(self.y, i, 8 * self.stride)
    }

    /// The best of all: the first, or the last, that no other beats.
    fn extreme(self, e: &mut Emitter) {
        let step = self.stride * self.elem.bytes() as i64;
        let (best, zero) = (self.key_at(e, self.x), e.i64(0));
        let rest = e.at(self.x, step);
        let order = if self.last { IntCC::SignedGreaterThanOrEqual } else { IntCC::SignedGreaterThan };
        let found = e.fold(self.len - 1, &[(rest, step)], &[best, zero, zero], |e, p, v| {
            let key = self.key_at(e, p[0]);
            let i = e.b.ins().iadd_imm_s(v[2], 1);
            let more = e.b.ins().icmp(order, key, v[0]);
            vec![e.b.ins().select(more, key, v[0]), e.b.ins().select(more, i, v[1]), i]
        });
        e.store(found[1], self.y, 0);
    }

    /// A heap of the `k` best so far, the worst of them on top, in the place of the result; then it is sorted.
    fn heap(self, e: &mut Emitter) {
        let (zero, k) = (e.i64(0), e.i64(self.k as i64));
        e.repeat(self.k, |e, i| {
            let to = self.slot(e, i);
            e.store(i, to, 0);
        });
        e.repeat(self.k / 2, |e, i| {
            let last = e.i64(self.k as i64 / 2 - 1);
            let at = e.b.ins().isub(last, i);
            let slot = self.slot(e, at);
            let item = e.load(I64, slot, 0);
            self.sink(e, at, k, item);
        });
        e.repeat(self.len - self.k, |e, i| {
            let i = e.b.ins().iadd(i, k);
            let key = self.key(e, i);
            let top = e.load(I64, self.y, 0);
            let least = self.key(e, top);
            let enters = self.better(e, (key, i), (least, top));
            e.when(enters, |e| self.sink(e, zero, k, i));
        });
        e.repeat(self.k - 1, |e, i| {
            let last = e.i64(self.k as i64 - 1);
            let end = e.b.ins().isub(last, i);
            let slot = self.slot(e, end);
            let item = e.load(I64, slot, 0);
            let top = e.load(I64, self.y, 0);
            e.store(top, slot, 0);
            self.sink(e, zero, end, item);
        });
    }

    /// Puts `item` in a heap of `n` whose place `at` is free: worse children rise until it is no better than they are.
    fn sink(self, e: &mut Emitter, at: Value, n: Value, item: Value) {
        let key = self.key(e, item);
        let child = self.below(e, at);
        let done = e.repeat_while(
            &[at, child],
            |e, v| e.b.ins().icmp(IntCC::SignedLessThan, v[1], n),
            |e, v| {
                // The worse of two children; a single one stands for both.
                let left = v[1];
                let right = e.b.ins().iadd_imm_s(left, 1);
                let exists = e.b.ins().icmp(IntCC::SignedLessThan, right, n);
                let right = e.b.ins().select(exists, right, left);
                let [a, b] = [left, right].map(|i| {
                    let slot = self.slot(e, i);
                    let index = e.load(I64, slot, 0);
                    (self.key(e, index), index)
                });
                let first = self.better(e, a, b);
                let child = e.b.ins().select(first, right, left);
                let worst = (e.b.ins().select(first, b.0, a.0), e.b.ins().select(first, b.1, a.1));
                let rises = self.better(e, (key, item), worst);
                e.choose(
                    rises,
                    |e| {
                        let to = self.slot(e, v[0]);
                        e.store(worst.1, to, 0);
                        vec![child, self.below(e, child)]
                    },
                    |_| vec![v[0], n],
                )
            },
        );
        let to = self.slot(e, done[0]);
        e.store(item, to, 0);
    }
    /// The first child of a place.
    fn below(self, e: &mut Emitter, at: Value) -> Value {
        let twice = e.b.ins().iadd(at, at);
        e.b.ins().iadd_imm_s(twice, 1)
    }
}

/// [`quernel_ir::exact::order_key`] of the element at `p`.
fn order_key(e: &mut Emitter, elem: Scalar, p: Ptr) -> Value {
    let float = |e: &mut Emitter, bits: Value, magnitude: i64, infinity: i64| {
        let (zero, magnitude, infinity) = (e.i64(0), e.i64(magnitude), e.i64(infinity));
        let m = e.b.ins().band(bits, magnitude);
        let below = e.b.ins().icmp(IntCC::SignedLessThan, bits, zero);
        let minus = e.b.ins().ineg(m);
        let key = e.b.ins().select(below, minus, m);
        let nan = e.b.ins().icmp(IntCC::SignedGreaterThan, m, infinity);
        e.b.ins().select(nan, magnitude, key)
    };
    let (magnitude, infinity) = match elem {
        Scalar::F64 => (i64::MAX, 0x7ff0 << 48),
        Scalar::F32 => (0x7fff_ffff, 0x7f80_0000),
        Scalar::F16 => (0x7fff, 0x7c00),
        Scalar::BF16 => (0x7fff, 0x7f80),
        Scalar::U64 => {
            let bits = e.load(I64, p, 0);
            let top = e.i64(i64::MIN);
            return e.b.ins().bxor(bits, top);
        }
        _ => return e.load_wide(p, 0, elem.bytes(), elem.is_signed()),
    };
    let bits = e.load_wide(p, 0, elem.bytes(), true);
    float(e, bits, magnitude, infinity)
}
