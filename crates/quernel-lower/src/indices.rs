//! Steps over computed indices and over the order of elements.

use crate::{
    build::Build,
    rows::with_run,
    view::{Axis, Factor, View, iterate, merge},
};
use quernel_ir::{
    Binary, Code, Diagnostic, Elem, Index, Scalar, Value,
    index::Picks,
    program::{Places, Strided, Strides, What},
};

/// A view of the dimensions of picked elements: each axis walks an axis of `v`, or the start of one, or stands still.
/// `None` where an axis of several factors would be cut.
fn along(v: &View, axes: &[Option<usize>], dims: &[usize]) -> Option<View> {
    let axis = |(a, &extent): (&Option<usize>, &usize)| match a.map(|a| &v.axes[a]) {
        Some(axis) if View::extent(axis) == extent => Some(axis.clone()),
        Some(axis) => Some(merge([Factor { extent, step: step(axis)? }])),
        None => Some(merge([Factor { extent, step: 0 }])),
    };
    Some(View { buf: v.buf, start: v.start, axes: axes.iter().zip(dims).map(axis).collect::<Option<_>>()? })
}

/// Step of an axis of one factor; 0 for extent 1, where it does not matter.
fn step(axis: &Axis) -> Option<isize> {
    match axis.as_slice() {
        [] => Some(0),
        [f] => Some(f.step),
        _ => None,
    }
}

impl Build<'_> {
    fn picks(&self, index: Index, x: Value, i: Value) -> Result<Picks, Diagnostic> {
        index.picks(&self.g.ty(x).dims, &self.g.ty(i).dims).map_err(|e| self.fault(Code::Internal, e))
    }

    /// What the indices `i` name in a view of `x`; `None` where an axis they name has several factors.
    fn named_places(&self, picks: &Picks, x: Value, view: &View, i: Value, indices: &View) -> Option<Places> {
        let axes = picks.named.iter().map(|&a| Some((self.g.ty(x).dims[a], step(&view.axes[a])?))).collect::<Option<_>>()?;
        // Coordinates lie on the last axis, which no picked element walks.
        let last = indices.axes.len().checked_sub(1).filter(|l| !picks.index.contains(&Some(*l)));
        let apart = last.map_or(Some(1), |l| step(&indices.axes[l]))?;
        Some(Places { wide: self.g.ty(i).elem == Elem::I64, apart, axes })
    }

    pub fn gather(&mut self, index: Index, x: Value, i: Value, y: Value) -> Result<(), Diagnostic> {
        let picks = self.picks(index, x, i)?;
        let order: Vec<usize> = (0..picks.dims.len()).collect();
        let (mut from, indices) = (self.place(x), self.row_major(i));
        let mut to = self.result(y, &order);
        let walk = |view: &View, axes: &[Option<usize>]| along(view, axes, &picks.dims);
        let space = |from: &View, to: &View| iterate(&[&walk(from, &picks.data)?, &walk(&indices, &picks.index)?, to]);
        if self.named_places(&picks, x, &from, i, &indices).is_none() || space(&from, &to).is_none() {
            from = self.row_major(x);
            if space(&from, &to).is_none() {
                to = self.fresh(y, &order);
                self.places.insert(y, vec![to.clone()]);
            }
        }
        let (Some(places), Some(over)) = (self.named_places(&picks, x, &from, i, &indices), space(&from, &to)) else {
            return Err(self.fault(Code::Internal, "operands without a common iteration space"));
        };
        let (reads, writes) = (vec![self.whole(from.buf), self.whole(indices.buf)], vec![self.whole(to.buf)]);
        self.emit(What::Gather { width: self.width(x), places, over }, reads, writes);
        Ok(())
    }

    /// A copy of `x`, then what `u` changes in it. The order matters where indices name a place twice, so everything lies
    /// in logical order.
    pub fn scatter(&mut self, index: Index, reduce: Option<Binary>, args: &[Value], y: Value) -> Result<(), Diagnostic> {
        let (x, i, u) = (args[0], args[1], args[2]);
        let picks = self.picks(index, x, i)?;
        let reduce = match (reduce, &self.g.ty(x).elem) {
            (None, _) => None,
            (Some(f), Elem::Scalar(s)) => Some((f, *s)),
            (Some(_), elem) => return Err(self.fault(Code::UnsupportedType, format!("arithmetic on {elem} at computed places"))),
        };
        let from = self.place(x);
        let (indices, updates) = (self.row_major(i), self.row_major(u));
        let like = View::row_major(from.buf, &self.g.ty(y).dims);
        let to = self.result_like(y, &like);
        self.copy(&from, &to, self.width(x));
        let steps = |view: &View, axes: &[Option<usize>]| -> Option<Strides> {
            let steps = axes.iter().map(|a| a.map_or(Some(0), |a| step(&view.axes[a]))).collect::<Option<_>>()?;
            Some(Strides { start: view.start, steps })
        };
        let own: Vec<Option<usize>> = (0..picks.dims.len()).map(Some).collect();
        let operands = [steps(&indices, &picks.index), steps(&updates, &own), steps(&to, &picks.data)];
        let (Some(places), [Some(a), Some(b), Some(c)]) = (self.named_places(&picks, x, &to, i, &indices), operands) else {
            return Err(self.fault(Code::Internal, "operands without a common iteration space"));
        };
        let over = Strided { dims: picks.dims, operands: vec![a, b, c] };
        let all = self.whole(to.buf);
        let reads = vec![self.whole(indices.buf), self.whole(updates.buf), all];
        self.emit(What::Scatter { width: self.width(x), places, over, reduce }, reads, vec![all]);
        Ok(())
    }

    pub fn top_k(&mut self, axis: usize, k: usize, smallest: bool, last: bool, x: Value, y: Value) -> Result<(), Diagnostic> {
        let elem = self.storage(x)?;
        let (view, (outer, len, inner)) = self.run_place(x, &[axis], false)?;
        let result = self.result_like(y, &with_run(&view, axis, (len, inner), k));
        let (reads, writes) = (vec![self.dense_span(&view, elem.bytes())], vec![self.dense_span(&result, 8)]);
        self.emit(What::TopK { elem, outer, len, inner, k, smallest, last }, reads, writes);
        Ok(())
    }

    /// The plain type whose bytes and order the elements of `x` have: scales are positive.
    fn storage(&self, x: Value) -> Result<Scalar, Diagnostic> {
        match &self.g.ty(x).elem {
            Elem::Scalar(s) => Ok(*s),
            quantized => Ok(if self.byte_quant(quantized)?.signed { Scalar::I8 } else { Scalar::U8 }),
        }
    }
}
