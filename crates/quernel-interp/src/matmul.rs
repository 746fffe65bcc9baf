//! Products of two operands computed at run time.

use crate::{data, strided};
use quernel_ir::{Diagnostic, Tensor, TensorTy, infer};

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

/// Batched product with broadcasting; a vector is a matrix of one row or column.
pub(crate) fn matmul(a: &Tensor, b: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let (ad, bd) = (&a.ty.dims, &b.ty.dims);
    let ad = if ad.len() == 1 { vec![1, ad[0]] } else { ad.clone() };
    let bd = if bd.len() == 1 { vec![bd[0], 1] } else { bd.clone() };
    let ((abatch, am), (bbatch, bm)) = (ad.split_at(ad.len() - 2), bd.split_at(bd.len() - 2));
    let (m, k, n) = (am[0], am[1], bm[1]);
    let batch = infer::broadcast(abatch, bbatch).ok_or_else(|| Diagnostic::bug("matrix batches do not broadcast"))?;
    let (x, y) = (data::floats(a)?, data::floats(b)?);
    let mut out = vec![0f32; result.count()];
    let mut done = 0;
    let steps = [&strided::broadcast(abatch, &batch)[..], &strided::broadcast(bbatch, &batch)[..]];
    strided::rows(&batch, [0, 0], steps, |[i, j], [di, dj], len| {
        for r in 0..len as isize {
            let (i, j) = ((i + r * di) as usize * m * k, (j + r * dj) as usize * k * n);
            product(m, k, n, &x[i..][..m * k], &y[j..][..k * n], &mut out[done..][..m * n]);
            done += m * n;
        }
    });
    data::float_tensor(result, &out)
}
