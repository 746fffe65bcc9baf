//! Products of two operands computed at run time.

use crate::{data, strided};
use quernel_ir::{
    Diagnostic, Multiplier, Tensor, TensorTy, exact, infer,
    program::{PANEL, Strided, WeightDims, WeightLayout, panel_set},
};

/// One product `[m][k] x [k][n]`: from +0, in order of k. `out` is overwritten.
pub(crate) fn product(m: usize, k: usize, n: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        for (kk, x) in a[i * k..][..k].iter().enumerate() {
            for (acc, y) in row.iter_mut().zip(&b[kk * n..][..n]) {
                *acc += x * y;
            }
        }
    }
}

/// The same in wrapping i32.
fn integer_product(m: usize, k: usize, n: usize, a: &[i32], b: &[i32], out: &mut [i32]) {
    out.fill(0);
    for i in 0..m {
        let row = &mut out[i * n..][..n];
        for (kk, x) in a[i * k..][..k].iter().enumerate() {
            for (acc, y) in row.iter_mut().zip(&b[kk * n..][..n]) {
                *acc = acc.wrapping_add(x.wrapping_mul(*y));
            }
        }
    }
}

/// Computes one product: `(m, k, n, a, b, out)`.
type One<T> = fn(usize, usize, usize, &[T], &[T], &mut [T]);

/// All products of two operands with broadcasting, one after another; a vector is a matrix of one row or column.
fn products<T: Copy + Default>([ad, bd]: [&[usize]; 2], count: usize, [a, b]: [&[T]; 2], one: One<T>) -> Result<Vec<T>, Diagnostic> {
    let ad = if ad.len() == 1 { vec![1, ad[0]] } else { ad.to_vec() };
    let bd = if bd.len() == 1 { vec![bd[0], 1] } else { bd.to_vec() };
    let ((abatch, am), (bbatch, bm)) = (ad.split_at(ad.len() - 2), bd.split_at(bd.len() - 2));
    let (m, k, n) = (am[0], am[1], bm[1]);
    let batch = infer::broadcast(abatch, bbatch).ok_or_else(|| Diagnostic::bug("matrix batches do not broadcast"))?;
    let mut out = vec![T::default(); count];
    let mut done = 0;
    let steps = [&strided::broadcast(abatch, &batch)[..], &strided::broadcast(bbatch, &batch)[..]];
    strided::rows(&batch, [0, 0], steps, |[i, j], [di, dj], len| {
        for r in 0..len as isize {
            let (i, j) = ((i + r * di) as usize * m * k, (j + r * dj) as usize * k * n);
            one(m, k, n, &a[i..][..m * k], &b[j..][..k * n], &mut out[done..][..m * n]);
            done += m * n;
        }
    });
    Ok(out)
}

/// Batched product of floats, or of quantized operands with one scale each.
pub(crate) fn matmul(a: &Tensor, b: &Tensor, multiplier: Multiplier, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let (dims, count) = ([&a.ty.dims[..], &b.ty.dims], result.count());
    if a.ty.elem.is_f32() {
        return data::float_tensor(result, &products(dims, count, [&data::floats(a)?, &data::floats(b)?], product)?);
    }
    let (qa, qb) = (data::quant(&a.ty)?, data::quant(&b.ty)?);
    let ((sa, _), (sb, _)) = (data::params(qa)?, data::params(qb)?);
    let centered = |t: &Tensor, q: &quernel_ir::Quant| -> Vec<i32> { data::stored(t, q).into_iter().map(|v| q.centered(v)).collect() };
    let sums = products(dims, count, [&centered(a, qa), &centered(b, qb)], integer_product)?;
    if result.elem.is_f32() {
        let scale = exact::accumulator_scale(multiplier, sa, sb);
        let real = |acc: &i32| exact::scale_to_float(*acc, scale, f32::NEG_INFINITY, f32::INFINITY);
        return data::float_tensor(result, &sums.iter().map(real).collect::<Vec<f32>>());
    }
    let q = data::quant(result)?;
    let (sy, zy) = data::params(q)?;
    let m = exact::multiplier(multiplier, sa, sb, sy);
    data::stored_tensor(result, sums.into_iter().map(|acc| exact::requantize(acc, m, zy, q.min(), q.max())))
}

/// [`quernel_ir::program::What::PackPanels`].
pub(crate) fn pack(over: &Strided, center: i32, rest: &[i8], left: [i32; 2], b: &[u8], out: &mut [u8]) {
    let [sets @ .., k, n] = &over.dims[..] else { return };
    let (k, n, segments, operand) = (*k, *n, 1 + rest.len(), &over.operands[0]);
    let dims = WeightDims { o: n, i: k, kh: segments, kw: 1, groups: 1 };
    let layout = WeightLayout::Panels { contiguous: false, depth: 4 };
    let (set, count) = (panel_set(k, n, segments), sets.iter().product::<usize>());
    let (panels, biases) = out.split_at_mut(set * count);
    panels.fill(0);
    biases.fill(0);
    let mut i = 0;
    strided::rows(&over.dims, [operand.start as isize], [&operand.steps], |[at], [step], len| {
        for t in 0..len as isize {
            let (number, tap, column) = (i / (k * n), i / n % k, i % n);
            let first = b[(at + t * step) as usize].wrapping_sub(center as u8) as i8;
            let parts = [first].into_iter().chain(rest.iter().copied());
            let mut sum = 0;
            for (segment, w) in parts.enumerate() {
                panels[number * set + layout.index(dims, column, segment, 0, tap)] = w as u8;
                sum += i32::from(w);
            }
            for (form, left) in left.iter().enumerate() {
                let bias = &mut biases[4 * ((2 * number + form) * n.next_multiple_of(PANEL) + column)..][..4];
                let old = i32::from_le_bytes([bias[0], bias[1], bias[2], bias[3]]);
                bias.copy_from_slice(&old.wrapping_sub(left.wrapping_mul(sum)).to_le_bytes());
            }
            i += 1;
        }
    });
}
