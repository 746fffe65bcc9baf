//! Elements at computed places, and the order of elements.

use crate::{data, strided};
use quernel_ir::{
    Binary, Diagnostic, Elem, Index, Scalar, Tensor, TensorTy, exact, fold,
    program::{Places, Strided},
};

/// Calls `each(operand, pick)` with the place that an index names and the position of the picked element, in row-major
/// order. `steps` are those of the operand, the indices and the picked elements along `dims`.
fn walk(dims: &[usize], starts: [isize; 3], steps: [&[isize]; 3], indices: &[i64], places: &Places, mut each: impl FnMut(usize, usize)) {
    strided::rows(dims, starts, steps, |at, by, len| {
        for t in 0..len as isize {
            let [x, i, pick]: [isize; 3] = std::array::from_fn(|k| at[k] + t * by[k]);
            let coordinates = places
                .axes
                .iter()
                .zip(0..)
                .map(|(&(extent, step), c)| exact::index(indices[(i + c * places.apart) as usize], extent) as isize * step);
            each((x + coordinates.sum::<isize>()) as usize, pick as usize);
        }
    });
}

/// The same for tensors: operand of extents `x`, dense picked elements.
fn walk_tensors(index: Index, x: &[usize], indices: &Tensor, each: impl FnMut(usize, usize)) -> Result<(), Diagnostic> {
    let picks = index.picks(x, &indices.ty.dims).map_err(Diagnostic::bug)?;
    let (own, of_index, dense) = (strided::dense(x), strided::dense(&indices.ty.dims), strided::dense(&picks.dims));
    let along = |axes: &[Option<usize>], steps: &[isize]| axes.iter().map(|a| a.map_or(0, |a| steps[a])).collect::<Vec<isize>>();
    let steps = [&along(&picks.data, &own)[..], &along(&picks.index, &of_index), &dense];
    let axes = picks.named.iter().map(|&a| (x[a], own[a])).collect();
    walk(&picks.dims, [0; 3], steps, &data::integers(indices)?, &Places { wide: true, apart: 1, axes }, each);
    Ok(())
}

/// The elements that indices name.
pub(crate) fn gather(index: Index, x: &Tensor, indices: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let (width, bytes) = (x.ty.elem.bytes(), x.bytes());
    let mut out = vec![0u8; result.bytes()];
    walk_tensors(index, &x.ty.dims, indices, |from, to| {
        out[to * width..][..width].copy_from_slice(&bytes[from * width..][..width]);
    })?;
    data::tensor(result, out)
}

/// `x` with the elements that indices name replaced by, or combined with, those of `updates`.
pub(crate) fn scatter(
    index: Index,
    reduce: Option<Binary>,
    [x, indices, updates]: [&Tensor; 3],
    result: &TensorTy,
) -> Result<Tensor, Diagnostic> {
    let (width, from) = (x.ty.elem.bytes(), updates.bytes());
    let mut out = x.bytes().to_vec();
    let function = match x.ty.elem {
        Elem::Scalar(s) => reduce.map(|f| (f, s)),
        Elem::Quant(_) => None,
    };
    walk_tensors(index, &x.ty.dims, indices, |to, at| combine(function, &mut out[to * width..][..width], &from[at * width..][..width]))?;
    data::tensor(result, out)
}

/// `y = f(y, u)`, or `y = u`.
fn combine(reduce: Option<(Binary, Scalar)>, y: &mut [u8], u: &[u8]) {
    match reduce {
        None => y.copy_from_slice(u),
        Some((f, s)) => {
            y.copy_from_slice(&fold::combine(f, s, data::bits(y.len(), y)[0], data::bits(u.len(), u)[0]).to_le_bytes()[..y.len()])
        }
    }
}

/// A step's [`gather`].
pub(crate) fn gather_step(width: usize, places: &Places, over: &Strided, [x, indices]: [&[u8]; 2], out: &mut [u8]) {
    let [a, i, y] = [&over.operands[0], &over.operands[1], &over.operands[2]];
    let starts = [a.start as isize, i.start as isize, y.start as isize];
    walk(&over.dims, starts, [&a.steps, &i.steps, &y.steps], &read(places, indices), places, |from, to| {
        out[to * width..][..width].copy_from_slice(&x[from * width..][..width]);
    });
}

/// A step's [`scatter`] into what `out` holds.
pub(crate) fn scatter_step(
    width: usize,
    places: &Places,
    over: &Strided,
    reduce: Option<(Binary, Scalar)>,
    [indices, updates]: [&[u8]; 2],
    out: &mut [u8],
) {
    let [i, u, y] = [&over.operands[0], &over.operands[1], &over.operands[2]];
    let starts = [y.start as isize, i.start as isize, u.start as isize];
    walk(&over.dims, starts, [&y.steps, &i.steps, &u.steps], &read(places, indices), places, |to, from| {
        combine(reduce, &mut out[to * width..][..width], &updates[from * width..][..width]);
    });
}

fn read(places: &Places, bytes: &[u8]) -> Vec<i64> {
    if places.wide { data::i64s(bytes) } else { data::i32s(bytes).into_iter().map(i64::from).collect() }
}

/// Graph-level selection.
pub(crate) fn top_k(axis: usize, k: usize, smallest: bool, last: bool, x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let dims = &x.ty.dims;
    let shape = (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product());
    let keys: Vec<i64> = match &x.ty.elem {
        Elem::Scalar(s) => keys(*s, x.bytes()),
        Elem::Quant(_) => data::integers(x)?,
    };
    data::integer_tensor(result, best(&keys, shape, k, smallest, last))
}

/// The indices of the best elements of `[outer][len][inner]`.
fn best(keys: &[i64], (outer, len, inner): (usize, usize, usize), k: usize, smallest: bool, last: bool) -> Vec<i64> {
    let mut out = vec![0; outer * k * inner];
    for o in 0..outer {
        for i in 0..inner {
            let key = |j: usize| keys[(o * len + j) * inner + i];
            let mut order: Vec<usize> = (0..len).collect();
            if last {
                order.reverse();
            }
            // Stable: of equal elements the first of `order` stays first.
            if smallest {
                order.sort_by_key(|&j| key(j))
            } else {
                order.sort_by_key(|&j| std::cmp::Reverse(key(j)))
            }
            for (rank, j) in order.into_iter().take(k).enumerate() {
                out[(o * k + rank) * inner + i] = j as i64;
            }
        }
    }
    out
}

/// The keys of elements in memory.
fn keys(s: Scalar, bytes: &[u8]) -> Vec<i64> {
    let shift = if s.is_signed() || s.is_float() { 64 - 8 * s.bytes() as u32 } else { 0 };
    data::bits(s.bytes(), bytes).into_iter().map(|b| exact::order_key(s, (b << shift) as i64 >> shift)).collect()
}

/// A step's [`top_k`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn top_k_step(elem: Scalar, shape: (usize, usize, usize), k: usize, (smallest, last): (bool, bool), x: &[u8], out: &mut [u8]) {
    let found = best(&keys(elem, &x[..shape.0 * shape.1 * shape.2 * elem.bytes()]), shape, k, smallest, last);
    for (y, v) in out.as_chunks_mut::<8>().0.iter_mut().zip(found) {
        *y = v.to_le_bytes();
    }
}
