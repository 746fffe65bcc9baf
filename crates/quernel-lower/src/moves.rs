//! Operators that only move elements: most of them change nothing but the view.

use crate::{
    build::{Build, MAX_LOOK},
    view::{View, iterate},
};
use quernel_ir::{Diagnostic, Elem, Node, Value, exact, plain::Number, program::What};

impl Build<'_> {
    /// The result lies where the operand does, seen through `map`; where no place allows that, in a copy.
    fn seen_through(&mut self, x: Value, y: Value, map: impl Fn(&View) -> Option<View>) {
        let mut views: Vec<View> = self.places(x).iter().filter_map(&map).collect();
        if views.is_empty() {
            views.extend(map(&self.row_major(x)));
        }
        self.places.insert(y, views);
    }

    pub fn reshape(&mut self, dims: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        self.seen_through(x, y, |v| v.reshape(dims));
        Ok(())
    }

    pub fn transpose(&mut self, perm: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        self.seen_through(x, y, |v| Some(v.transpose(perm)));
        Ok(())
    }

    pub fn slice(&mut self, start: &[usize], step: &[isize], len: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        self.seen_through(x, y, |v| v.slice(start, step, len));
        Ok(())
    }

    pub fn expand(&mut self, dims: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        self.seen_through(x, y, |v| Some(v.expand(dims)));
        Ok(())
    }

    /// Copies the operands that were not written in place.
    pub fn concat(&mut self, node: Node, axis: usize, y: Value) -> Result<(), Diagnostic> {
        let args = self.g.nodes[node].args.clone();
        let order = self.place(args[0]).order();
        let whole = self.assembled(y, &order, MAX_LOOK);
        let mut before = 0;
        for a in args {
            let from = self.place(a);
            let target = self.part(&whole, a, |i| if i == axis { before } else { 0 });
            before += self.g.ty(a).dims[axis];
            match target {
                Some(to) => self.copy(&from, &to, self.width(a)),
                // The whole lies in a place whose axis has several factors: it cannot be cut there.
                None => return self.concat_apart(node, axis, y),
            }
        }
        self.places.insert(y, vec![whole]);
        Ok(())
    }

    /// A concatenation in a buffer of its own.
    fn concat_apart(&mut self, node: Node, axis: usize, y: Value) -> Result<(), Diagnostic> {
        let whole = self.fresh(y, &(0..self.g.ty(y).rank()).collect::<Vec<_>>());
        let mut before = 0;
        for a in self.g.nodes[node].args.clone() {
            let from = self.place(a);
            let start = before;
            before += self.g.ty(a).dims[axis];
            if let Some(to) = self.part(&whole, a, |i| if i == axis { start } else { 0 }) {
                self.copy(&from, &to, self.width(a));
            }
        }
        self.places.insert(y, vec![whole]);
        Ok(())
    }

    /// The result of a padding with its border filled, allotted when its operand is.
    pub fn padded(&mut self, node: Node, before: &[usize], after: &[usize], value: f32, order: &[usize], look: usize) -> View {
        let y = self.g.nodes[node].result();
        if let Some(view) = self.planned.get(&y) {
            return view.clone();
        }
        let whole = self.assembled(y, order, look);
        self.fill_border(&whole, y, before, after, value);
        whole
    }

    fn fill_border(&mut self, whole: &View, y: Value, before: &[usize], after: &[usize], value: f32) {
        let ty = self.g.ty(y);
        let (width, bits) = (ty.elem.bytes(), real_bits(value, &ty.elem));
        let ones = vec![1isize; ty.rank()];
        // Axis by axis: its two slabs, within what earlier axes left.
        let mut start = vec![0; ty.rank()];
        let mut len = ty.dims.clone();
        for axis in 0..ty.rank() {
            let inner = ty.dims[axis] - before[axis] - after[axis];
            for (from, extent) in [(0, before[axis]), (before[axis] + inner, after[axis])] {
                if extent == 0 {
                    continue;
                }
                let (mut s, mut l) = (start.clone(), len.clone());
                (s[axis], l[axis]) = (from, extent);
                if let Some(over) = whole.slice(&s, &ones, &l).and_then(|slab| iterate(&[&slab])) {
                    let all = self.whole(whole.buf);
                    self.emit(What::Fill { width, over, bits }, vec![], vec![all]);
                }
            }
            (start[axis], len[axis]) = (before[axis], inner);
        }
    }

    pub fn pad(&mut self, node: Node, before: &[usize], after: &[usize], value: f32, y: Value) -> Result<(), Diagnostic> {
        let x = self.g.nodes[node].args[0];
        let from = self.place(x);
        let mut whole = self.padded(node, before, after, value, &from.order(), MAX_LOOK);
        if self.part(&whole, x, |i| before[i]).is_none() || whole.axes.iter().any(|a| a.len() > 1) {
            // A place whose axes have several factors cannot be cut: pad apart.
            whole = self.fresh(y, &from.order());
            self.fill_border(&whole, y, before, after, value);
        }
        if let Some(to) = self.part(&whole, x, |i| before[i]) {
            self.copy(&from, &to, self.width(x));
        }
        self.places.insert(y, vec![whole]);
        Ok(())
    }
}

/// A real number as an element: the nearest integer for quantized types.
fn real_bits(value: f32, elem: &Elem) -> u64 {
    let mask = |v: i64, bytes: usize| (v as u64) & (u64::MAX >> (64 - 8 * bytes));
    match elem {
        Elem::Scalar(s) => Number::Real(value.into()).bits(*s),
        Elem::Quant(q) => {
            let stored = q.tensor_params().map_or(0, |(scale, zero)| exact::quantize(value, scale, zero, q.min(), q.max()));
            mask(i64::from(stored), q.storage().bytes())
        }
    }
}
