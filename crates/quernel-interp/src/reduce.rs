//! Reductions and softmax.

use crate::{
    data, elementwise,
    strided::{self, Side},
};
use quernel_ir::{Binary, Code, Diagnostic, ReduceKind, Scalar, Tensor, TensorTy, exact, float, fold, plain};

/// The reduction of one run of f32.
pub(crate) fn float(kind: ReduceKind, values: &[f32]) -> f32 {
    match kind {
        ReduceKind::Sum => float::sum16(values.iter().copied()),
        ReduceKind::Mean => float::sum16(values.iter().copied()) / values.len() as f32,
        ReduceKind::Prod => float::prod16(values.iter().copied()),
        ReduceKind::Max => values.iter().fold(f32::NEG_INFINITY, |m, &v| exact::max_first(v, m)),
        ReduceKind::Min => values.iter().fold(f32::INFINITY, |m, &v| exact::min_first(v, m)),
    }
}

/// The reduction of one run of plain numbers but f32, all as bits.
pub(crate) fn plain(kind: ReduceKind, s: Scalar, values: &[u64]) -> u64 {
    let extreme = |f| values.iter().fold(fold::identity(f, s), |m, &v| fold::combine(f, s, v, m));
    let fold = |f| fold::fold16(f, s, values.iter().copied());
    match kind {
        ReduceKind::Sum => fold(Binary::Add),
        ReduceKind::Prod => fold(Binary::Mul),
        ReduceKind::Mean => fold::combine(Binary::Div, s, fold(Binary::Add), plain::Number::Int(values.len() as i128).bits(s)),
        ReduceKind::Min => extreme(Binary::Min),
        ReduceKind::Max => extreme(Binary::Max),
    }
}

/// Running totals of one run, all as bits.
pub(crate) fn running(f: Binary, s: Scalar, exclusive: bool, reverse: bool, values: &mut [u64]) {
    let mut before: Option<u64> = None;
    let n = values.len();
    for i in 0..n {
        let v = &mut values[if reverse { n - 1 - i } else { i }];
        let total = before.map_or(*v, |b| fold::combine(f, s, b, *v));
        *v = if exclusive { before.unwrap_or(fold::identity(f, s)) } else { total };
        before = Some(total);
    }
}

/// Graph-level running totals.
pub(crate) fn cumulative(
    f: Binary,
    axis: usize,
    exclusive: bool,
    reverse: bool,
    x: &Tensor,
    result: &TensorTy,
) -> Result<Tensor, Diagnostic> {
    let s = x.ty.elem.scalar().ok_or_else(|| Diagnostic::bug("running totals of a quantized type"))?;
    let dims = &x.ty.dims;
    let split = (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product());
    let mut values = data::bits(s.bytes(), x.bytes());
    along(&mut values, split, |run| running(f, s, exclusive, reverse, run));
    data::tensor(result, data::of_bits(s.bytes(), &values))
}

/// Graph-level reduction: elements of a run in row-major order of the reduced axes.
pub(crate) fn reduce(kind: ReduceKind, axes: &[usize], x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let kept = (0..x.ty.rank()).filter(|i| !axes.contains(i));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let own = strided::dense(&x.ty.dims);
    let dims: Vec<usize> = order.iter().map(|&i| x.ty.dims[i]).collect();
    let mut bytes = vec![0u8; x.bytes().len()];
    let from = Side { bytes: x.bytes(), start: 0, steps: order.iter().map(|&i| own[i]).collect() };
    strided::copy(x.ty.elem.bytes(), &dims, Side { bytes: &mut bytes[..], start: 0, steps: strided::dense(&dims) }, from);
    let runs = data::tensor(&TensorTy::new(dims, x.ty.elem.clone()), bytes)?;
    let (count, len) = (result.count(), axes.iter().map(|&a| x.ty.dims[a]).product::<usize>());

    if kind == ReduceKind::Mean
        && let (Some(qx), Some(qy)) = (x.ty.elem.quant(), result.elem.quant())
    {
        let ((sx, zx), (sy, zy)) = (data::params(qx)?, data::params(qy)?);
        let values = data::stored(&runs, qx);
        let mean = |i: usize| {
            let sum = crate::pool::centered_sum(&values[i * len..][..len], zx);
            exact::average(sum, len.max(1), sx, sy, zy, qy.min(), qy.max())
        };
        return data::stored_tensor(result, (0..count).map(mean));
    }
    if let Some(s) = x.ty.elem.scalar().filter(|s| *s != Scalar::F32) {
        let values = data::bits(s.bytes(), runs.bytes());
        let y: Vec<u64> = (0..count).map(|i| plain(kind, s, &values[i * len..][..len])).collect();
        return data::tensor(result, data::of_bits(s.bytes(), &y));
    }
    let values = elementwise::numbers(&runs)?;
    let y: Vec<f32> = (0..count).map(|i| float(kind, &values[i * len..][..len])).collect();
    elementwise::finish(result, &y)
}

/// Softmax of one run of f32, in place.
pub(crate) fn softmax_float(values: &mut [f32], log: bool) {
    let m = values.iter().fold(f32::NEG_INFINITY, |m, &v| exact::max_first(v, m));
    let sum = float::sum16(values.iter().map(|v| float::exp(v - m)));
    if log {
        let log_sum = float::log(sum);
        values.iter_mut().for_each(|v| *v = (*v - m) - log_sum);
    } else {
        values.iter_mut().for_each(|v| *v = float::exp(*v - m) / sum);
    }
}

/// Replaces stored 8-bit integers of one run by their entries in [`exact::softmax_table`] and returns the exact sum.
pub(crate) fn softmax_entries(values: &mut [i32], table: &[u32]) -> u64 {
    let m = values.iter().copied().max().unwrap_or(0);
    let mut sum = 0u64;
    for v in values {
        let e = table[((m - *v) & 255) as usize];
        sum += u64::from(e);
        *v = e as i32;
    }
    sum
}

/// Calls `run(values)` for every run along the middle axis of `[outer][len][inner]` and writes back what it leaves.
pub(crate) fn along<T: Copy>(values: &mut [T], (outer, len, inner): (usize, usize, usize), mut run: impl FnMut(&mut [T])) {
    let mut buffer = Vec::with_capacity(len);
    for o in 0..outer {
        for i in 0..inner {
            let first = o * len * inner + i;
            buffer.clear();
            buffer.extend((0..len).map(|k| values[first + k * inner]));
            run(&mut buffer);
            for (k, v) in buffer.iter().enumerate() {
                values[first + k * inner] = *v;
            }
        }
    }
}

/// Graph-level softmax.
pub(crate) fn softmax(axis: usize, log: bool, x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let dims = &x.ty.dims;
    let split = (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product());
    if let Some(q) = x.ty.elem.quant()
        && q.storage().bits() <= 8
        && !log
    {
        let table = exact::softmax_table(data::params(q)?.0);
        let mut values = data::stored(x, q);
        let to = result.elem.quant().map(|q| data::params(q).map(|p| (p, q.min(), q.max()))).transpose()?;
        if let Some(((sy, zy), lo, hi)) = to {
            along(&mut values, split, |run| {
                let factor = exact::softmax_factor(softmax_entries(run, &table), sy);
                run.iter_mut().for_each(|v| *v = exact::softmax_quantized(*v as u32, factor, zy, lo, hi));
            });
            return data::stored_tensor(result, values);
        }
        // An f32 result travels through the same buffer as bits.
        along(&mut values, split, |run| {
            let factor = exact::softmax_factor(softmax_entries(run, &table), 1.0);
            run.iter_mut().for_each(|v| *v = softmax_real(*v as u32, factor).to_bits() as i32);
        });
        return data::float_tensor(result, &values.into_iter().map(|v| f32::from_bits(v as u32)).collect::<Vec<f32>>());
    }
    let mut values = elementwise::numbers(x)?;
    along(&mut values, split, |run| softmax_float(run, log));
    elementwise::finish(result, &values)
}

/// A normalized row of centered integers: scale of the operand, epsilon and whether the mean counts as 0; scale and bias in
/// steps of the result; its zero point and bounds.
pub(crate) fn norm<'a>(
    c: &'a [i32],
    (scale, epsilon, rms): (f32, f32, bool),
    g: &'a [f32],
    h: &'a [f32],
    (zero, lo, hi): (i32, i32, i32),
) -> impl Iterator<Item = i32> + 'a {
    let sum = c.iter().map(|c| i64::from(*c)).sum();
    let squares = c.iter().map(|c| i64::from(*c).pow(2)).sum();
    let row = exact::norm_row(sum, squares, c.len(), scale, epsilon, rms);
    c.iter().zip(g.iter().zip(h)).map(move |(c, (g, h))| exact::norm_element(*c, row, (*g, *h), zero, lo, hi))
}

/// Graph-level layer normalization.
pub(crate) fn layer_norm(args: &[&Tensor], axis: usize, (epsilon, rms): (f32, bool), result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let len: usize = args[0].ty.dims[axis..].iter().product();
    if args[0].ty.elem.is_f32() {
        let (x, g) = (data::floats(args[0])?, data::floats(args[1])?);
        let h = args.get(2).map_or_else(|| Ok(vec![0.0; len]), |t| data::floats(t))?;
        let row = |x: &[f32]| -> Vec<f32> {
            let mean = if rms { 0.0 } else { float(ReduceKind::Mean, x) };
            let centered: Vec<f32> = x.iter().map(|x| x - mean).collect();
            let squares: Vec<f32> = centered.iter().map(|d| d * d).collect();
            let root = (float(ReduceKind::Mean, &squares) + epsilon).sqrt();
            centered.iter().zip(g.iter().zip(&h)).map(|(d, (g, h))| d / root * g + h).collect()
        };
        return data::float_tensor(result, &x.chunks(len).flat_map(row).collect::<Vec<f32>>());
    }
    let (qx, qy) = (data::quant(&args[0].ty)?, data::quant(result)?);
    let ((sx, zx), (sy, zy)) = (data::params(qx)?, data::params(qy)?);
    if len > exact::MOST_NORM {
        return Err(Diagnostic::new(Code::LimitExceeded, format!("a norm of {len} elements, more than {}", exact::MOST_NORM)));
    }
    let parameter =
        |t: &Tensor| -> Result<Vec<f32>, Diagnostic> { Ok(data::floats(t)?.iter().map(|p| exact::norm_parameter(*p, sy)).collect()) };
    let (g, h) = (parameter(args[1])?, args.get(2).map_or_else(|| Ok(vec![0.0; len]), |t| parameter(t))?);
    let c: Vec<i32> = data::stored(args[0], qx).into_iter().map(|q| q - zx).collect();
    let y = c.chunks(len).flat_map(|row| norm(row, (sx, epsilon, rms), &g, &h, (zy, qy.min(), qy.max())).collect::<Vec<i32>>());
    data::stored_tensor(result, y)
}

/// An f32 softmax result from its table entry and row factor.
pub(crate) fn softmax_real(e: u32, factor: f32) -> f32 {
    e as f32 * factor
}
