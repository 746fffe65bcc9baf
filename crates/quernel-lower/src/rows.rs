//! Operators along axes: reductions and distributions.

use crate::{
    build::Build,
    view::{Factor, View, merge},
};
use quernel_ir::{Code, Diagnostic, PoolKind, ReduceKind, Value, exact, program::What};

/// `[outer][len][inner]` of a dense view whose `axes`, in logical order, form one run in memory.
fn run(v: &View, axes: &[usize]) -> Option<(usize, usize, usize)> {
    if !v.is_dense() {
        return None;
    }
    let reduced = merge(axes.iter().flat_map(|&a| v.axes[a].iter().copied()));
    let count = v.count();
    match reduced.as_slice() {
        [] => Some((1, 1, count)),
        [f] if f.step > 0 => {
            let inner = f.step as usize;
            Some((count / (f.extent * inner), f.extent, inner))
        }
        _ => None,
    }
}

impl Build<'_> {
    /// A place of `x` where `axes` form one run, copied with them innermost if need be.
    fn run_place(&mut self, x: Value, axes: &[usize]) -> Result<(View, (usize, usize, usize)), Diagnostic> {
        let order: Vec<usize> = (0..self.g.ty(x).rank()).filter(|a| !axes.contains(a)).chain(axes.iter().copied()).collect();
        let view = self.place_where(x, |_, p| run(p, axes).is_some(), |s, _| s.fresh(x, &order));
        let shape = run(&view, axes).ok_or_else(|| self.fault(Code::Internal, "axes without a run"))?;
        Ok((view, shape))
    }

    pub fn reduce(&mut self, kind: ReduceKind, axes: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        let (from, to) = (&self.g.ty(x).elem, &self.g.ty(y).elem);
        if from.quant().is_some() {
            let same = from == to;
            return match kind {
                ReduceKind::Mean if to.quant().is_some() => self.reduce_bytes(PoolKind::Average { include_pad: false }, axes, x, y),
                ReduceKind::Max if same => self.reduce_bytes(PoolKind::Max, axes, x, y),
                _ => Err(self
                    .fault(Code::UnsupportedForm, format!("{} of quantized values to {to}", kind.name()))
                    .help("keep this operator in float")),
            };
        }
        let (view, (outer, len, inner)) = self.run_place(x, axes)?;
        // What remains keeps its memory order: factors outside the run move closer by its length.
        let axes_left = (0..view.axes.len())
            .map(|a| {
                if axes.contains(&a) {
                    return vec![];
                }
                let closer = |f: &Factor| if f.step as usize >= inner * len { f.step / len as isize } else { f.step };
                view.axes[a].iter().map(|f| Factor { extent: f.extent, step: closer(f) }).collect()
            })
            .collect();
        let kept = View { buf: view.buf, start: 0, axes: axes_left };
        let kept = View { axes: kept.axes.into_iter().map(merge).collect(), ..kept };
        let like = kept.reshape(&self.g.ty(y).dims).ok_or_else(|| self.fault(Code::Internal, "the shape of a reduction"))?;
        let to = self.result_like(y, &like);
        let (reads, writes) = (vec![self.dense_span(&view, 4)], vec![self.dense_span(&to, 4)]);
        self.emit(What::ReduceFloat { kind, outer, len, inner }, reads, writes);
        Ok(())
    }

    pub fn softmax(&mut self, axis: usize, log: bool, x: Value, y: Value) -> Result<(), Diagnostic> {
        let g = self.g;
        let bytes = g.ty(x).elem.quant().is_some();
        if bytes && log {
            return Err(self
                .fault(Code::UnsupportedForm, "the logarithm of a softmax of quantized values")
                .help("keep this operator in float"));
        }
        let quants = match bytes {
            true => Some((
                self.byte_quant(&g.ty(x).elem)?,
                match g.ty(y).elem.quant() {
                    Some(q) => Some(self.byte(q)?),
                    None => None,
                },
            )),
            false => None,
        };
        let (view, (outer, len, inner)) = self.run_place(x, &[axis])?;
        let to_view = self.result_like(y, &view);
        let mut reads = vec![self.dense_span(&view, self.width(x))];
        let writes = vec![self.dense_span(&to_view, self.width(y))];
        let what = match quants {
            None => What::SoftmaxFloat { outer, len, inner, log },
            Some((from, to)) => {
                let table: Vec<u8> = exact::softmax_table(from.scale).iter().flat_map(|e| e.to_le_bytes()).collect();
                reads.push(self.blob("softmax", table));
                What::SoftmaxBytes { outer, len, inner, from, to }
            }
        };
        self.emit(what, reads, writes);
        Ok(())
    }
}
