//! Operators along axes: reductions and distributions.

use crate::{
    build::Build,
    view::{Factor, View, merge},
};
use quernel_ir::{
    Binary, Code, Diagnostic, PoolKind, ReduceKind, Scalar, Value, exact,
    program::{ByteQuant, What},
};

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

/// All axes, with `axes` last.
fn innermost(rank: usize, axes: &[usize]) -> Vec<usize> {
    (0..rank).filter(|a| !axes.contains(a)).chain(axes.iter().copied()).collect()
}

/// What remains of a view without a run: factors outside the run move closer by its length.
fn without_run(v: &View, axes: &[usize], (len, inner): (usize, usize)) -> View {
    resized_run(v, axes, (len, inner), 1)
}

/// The factors outside a run that has `k` elements instead of `len`.
fn resized_run(v: &View, axes: &[usize], (len, inner): (usize, usize), k: usize) -> View {
    let closer = |f: &Factor| if f.step as usize >= inner * len { f.step / len as isize * k as isize } else { f.step };
    let rest = |a: usize| merge(v.axes[a].iter().map(|f| Factor { extent: f.extent, step: closer(f) }));
    let axes = (0..v.axes.len()).map(|a| if axes.contains(&a) { vec![] } else { rest(a) }).collect();
    View { buf: v.buf, start: 0, axes }
}

/// A view with a run along `axis` when the run has `k` elements instead.
pub(crate) fn with_run(v: &View, axis: usize, (len, inner): (usize, usize), k: usize) -> View {
    let mut out = resized_run(v, &[axis], (len, inner), k);
    out.axes[axis] = merge([Factor { extent: k, step: inner as isize }]);
    out
}

impl Build<'_> {
    /// A place of `x` where `axes` form one run, copied with them innermost if need be. Quantized values are turned
    /// into f32 when `float` asks for it.
    pub(crate) fn run_place(&mut self, x: Value, axes: &[usize], float: bool) -> Result<(View, (usize, usize, usize)), Diagnostic> {
        let elem = &self.g.ty(x).elem;
        let order = innermost(self.g.ty(x).rank(), axes);
        let width = self.width(x);
        let fits = |s: &Self, p: &View| run(p, axes).is_some() && s.aligned(p, width);
        let view = if float && elem.quant().is_some() {
            let from = self.byte_quant(elem)?;
            let bytes = self.place_where(x, fits, |s, _| s.fresh(x, &order));
            let count = bytes.count();
            let view = View { buf: self.buffer(4 * count), start: 0, axes: bytes.axes.clone() };
            let (reads, writes) = (vec![self.dense_span(&bytes, 1)], vec![self.dense_span(&view, 4)]);
            self.emit(What::Dequantize { count, from, width: 1 }, reads, writes);
            view
        } else {
            self.place_where(x, fits, |s, _| s.fresh(x, &order))
        };
        let shape = run(&view, axes).ok_or_else(|| self.fault(Code::Internal, "axes without a run"))?;
        Ok((view, shape))
    }

    /// A place for an f32 result that lies like `like`: that of `y`, or a temporary one when `y` is quantized.
    fn float_result(&mut self, y: Value, like: &View) -> View {
        if self.g.ty(y).elem.is_f32() {
            return self.result_like(y, like);
        }
        View { buf: self.buffer(4 * like.count()), start: 0, axes: like.axes.clone() }
    }

    /// Quantizes a temporary f32 result into `y`, if it is one.
    fn settle(&mut self, y: Value, from: &View) -> Result<(), Diagnostic> {
        if self.g.ty(y).elem.is_f32() {
            return Ok(());
        }
        let to = self.byte_quant(&self.g.ty(y).elem)?;
        let view = self.result_like(y, from);
        let (reads, writes) = (vec![self.dense_span(from, 4)], vec![self.dense_span(&view, 1)]);
        self.emit(What::Quantize { count: from.count(), to, width: 1 }, reads, writes);
        Ok(())
    }

    pub fn reduce(&mut self, kind: ReduceKind, axes: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        let (from, to) = (&self.g.ty(x).elem, &self.g.ty(y).elem);
        if from.quant().is_some() && to.quant().is_some() {
            if kind == ReduceKind::Mean {
                return self.reduce_bytes(PoolKind::Average { include_pad: false }, axes, x, y);
            }
            if kind == ReduceKind::Max && from == to {
                return self.reduce_bytes(PoolKind::Max, axes, x, y);
            }
        }
        let plain = from.scalar().filter(|s| *s != Scalar::F32);
        let (view, (outer, len, inner)) = self.run_place(x, axes, plain.is_none())?;
        let kept = without_run(&view, axes, (len, inner));
        let like = kept.reshape(&self.g.ty(y).dims).ok_or_else(|| self.fault(Code::Internal, "the shape of a reduction"))?;
        if let Some(elem) = plain {
            let result = self.result_like(y, &like);
            let (reads, writes) = (vec![self.dense_span(&view, elem.bytes())], vec![self.dense_span(&result, elem.bytes())]);
            self.emit(What::Reduce { kind, elem, outer, len, inner }, reads, writes);
            return Ok(());
        }
        let result = self.float_result(y, &like);
        let (reads, writes) = (vec![self.dense_span(&view, 4)], vec![self.dense_span(&result, 4)]);
        self.emit(What::ReduceFloat { kind, outer, len, inner }, reads, writes);
        self.settle(y, &result)
    }

    pub fn cumulative(
        &mut self,
        op: Binary,
        axis: usize,
        (exclusive, reverse): (bool, bool),
        x: Value,
        y: Value,
    ) -> Result<(), Diagnostic> {
        let elem = self.g.ty(x).elem.scalar();
        let elem = elem.ok_or_else(|| self.fault(Code::UnsupportedType, "running totals of quantized numbers"))?;
        let (view, (outer, len, inner)) = self.run_place(x, &[axis], false)?;
        let result = self.result_like(y, &view);
        let (reads, writes) = (vec![self.dense_span(&view, elem.bytes())], vec![self.dense_span(&result, elem.bytes())]);
        self.emit(What::Cumulative { op, elem, outer, len, inner, exclusive, reverse }, reads, writes);
        Ok(())
    }

    pub fn softmax(&mut self, axis: usize, log: bool, x: Value, y: Value) -> Result<(), Diagnostic> {
        let g = self.g;
        if g.ty(x).elem.quant().is_some() && !log {
            return self.softmax_bytes(axis, x, y);
        }
        let (view, (outer, len, inner)) = self.run_place(x, &[axis], true)?;
        let result = self.float_result(y, &view);
        let (reads, writes) = (vec![self.dense_span(&view, 4)], vec![self.dense_span(&result, 4)]);
        self.emit(What::SoftmaxFloat { outer, len, inner, log }, reads, writes);
        self.settle(y, &result)
    }

    pub fn layer_norm(&mut self, axis: usize, (epsilon, rms): (f32, bool), args: &[Value], y: Value) -> Result<(), Diagnostic> {
        let (from, to) = (self.byte_quant(&self.g.ty(args[0]).elem)?, self.byte_quant(&self.g.ty(y).elem)?);
        let len: usize = self.g.ty(args[0]).dims[axis..].iter().product();
        if len > exact::MOST_NORM {
            return Err(self.fault(Code::LimitExceeded, format!("a norm of {len} elements, more than {}", exact::MOST_NORM)));
        }
        let parameter = |s: &mut Self, v: Option<&Value>, name: &str| {
            let values = match v {
                Some(v) => s.g.tensor(*v).and_then(|t| t.to_f32()),
                None => Some(vec![0.0; len]),
            };
            let values = values.ok_or_else(|| s.fault(Code::UnsupportedForm, "parameters of a norm are computed at run time"))?;
            let bytes = values.into_iter().flat_map(|p| exact::norm_parameter(p, to.scale).to_le_bytes()).collect::<Vec<u8>>();
            Ok::<_, Diagnostic>(s.blob(name, bytes))
        };
        let (scale, bias) = (parameter(self, args.get(1), "norm.scale")?, parameter(self, args.get(2), "norm.bias")?);
        let view = self.row_major(args[0]);
        let rows = view.count() / len;
        let result = self.result_like(y, &view);
        let (reads, writes) = (vec![self.dense_span(&view, 1), scale, bias], vec![self.dense_span(&result, 1)]);
        self.emit(What::LayerNorm { rows, len, epsilon, rms, from, to }, reads, writes);
        Ok(())
    }

    fn softmax_bytes(&mut self, axis: usize, x: Value, y: Value) -> Result<(), Diagnostic> {
        let g = self.g;
        let from = self.byte_quant(&g.ty(x).elem)?;
        let to: Option<ByteQuant> = match g.ty(y).elem.quant() {
            Some(q) => Some(self.byte(q)?),
            None => None,
        };
        let (view, (outer, len, inner)) = self.run_place(x, &[axis], false)?;
        let result = self.result_like(y, &view);
        let table: Vec<u8> = exact::softmax_table(from.scale).iter().flat_map(|e| e.to_le_bytes()).collect();
        let reads = vec![self.dense_span(&view, 1), self.blob("softmax", table)];
        let writes = vec![self.dense_span(&result, self.width(y))];
        self.emit(What::SoftmaxBytes { outer, len, inner, from, to }, reads, writes);
        Ok(())
    }
}
