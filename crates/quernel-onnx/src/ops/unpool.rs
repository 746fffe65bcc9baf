//! Where the largest elements of windows lie, and the way back.

use super::{convs, volumes};
use crate::{
    compose::Made,
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Index, Op, Scalar, Tensor, TensorTy, Value, Window};

/// The i64 places of the largest elements in the whole operand, counted in row-major order, or with the columns first.
pub fn places(cx: &mut NodeCx<'_>, x: Value, window: &Window, columns_first: bool) -> Made {
    let dims = cx.dims(x);
    let (space, rank) = (&dims[2..], window.dims.len());
    let outputs: Option<Vec<usize>> = window.dims.iter().zip(space).map(|(d, n)| d.outputs(*n)).collect();
    let outputs = outputs.ok_or_else(|| cx.misfit("a window does not fit its operand"))?;
    let (taps, points): (usize, usize) = (window.dims.iter().map(|d| d.kernel).product(), outputs.iter().product());
    let cells = taps.checked_mul(points).filter(|n| taps <= 1 << 10 && *n <= 1 << 24);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("finds the largest of {taps} elements in {points} windows")))?;
    // One slice per tap, side by side.
    let mut padded = x;
    for (i, d) in window.dims.iter().enumerate() {
        padded = cx.padded(padded, 2 + i, (d.before, d.after), f32::NEG_INFINITY)?;
    }
    let mut parts = Vec::with_capacity(taps);
    let mut table = vec![0i64; cells];
    for tap in 0..taps {
        let (mut part, mut rest, mut at) = (padded, tap, vec![0; rank]);
        for i in (0..rank).rev() {
            let d = window.dims[i];
            at[i] = rest % d.kernel * d.dilation;
            rest /= d.kernel;
            part = cx.strided(part, 2 + i, at[i], d.stride as isize, outputs[i])?;
        }
        parts.push(cx.reshape(part, vec![dims[0], dims[1], points, 1])?);
        for p in 0..points {
            let mut rest = p;
            let mut cell = vec![0i64; rank];
            for i in (0..rank).rev() {
                let d = window.dims[i];
                cell[i] = (rest % outputs[i] * d.stride + at[i]) as i64 - d.before as i64;
                rest /= outputs[i];
            }
            let order: Vec<usize> = if columns_first { (0..rank).rev().collect() } else { (0..rank).collect() };
            // Padding is never the largest; what stands for it here is not read.
            table[p * taps + tap] = order.iter().fold(0, |sum, &i| sum * space[i] as i64 + cell[i].clamp(0, space[i] as i64 - 1));
        }
    }
    let side_by_side = cx.concat(&parts, 3)?;
    let best = cx.push_as(Op::TopK { axis: 3, k: 1, smallest: false, last: false }, &[side_by_side], Scalar::I64.into())?;
    let best = cx.reshape(best, vec![dims[0], dims[1], points])?;
    let rows = integers(cx, vec![points], (0..points).map(|p| (p * taps) as i64))?;
    let index = cx.add(best, rows)?;
    let table = integers(cx, vec![cells], table)?;
    let within = cx.push(Op::Gather { index: Index::Slices { axis: 0 } }, &[table, index])?;
    let plane = space.iter().product::<usize>();
    let planes = integers(cx, vec![dims[0], dims[1], 1], (0..dims[0] * dims[1]).map(|c| (c * plane) as i64))?;
    let places = cx.add(within, planes)?;
    cx.reshape(places, [&dims[..2], &outputs].concat())
}

fn integers(cx: &mut NodeCx<'_>, dims: Vec<usize>, values: impl IntoIterator<Item = i64>) -> Made {
    let tensor = Tensor::from_ints(TensorTy::new(dims, Scalar::I64), values);
    cx.take_bytes(tensor.bytes().len())?;
    Ok(cx.g.constant("places", tensor))
}

/// Elements put back where they came from, with zeros between them.
pub fn max_unpool(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (x, places) = (cx.arg(0)?, cx.arg(1)?);
    let dims = cx.dims(x);
    let kernel = cx.ints("kernel_shape")?.ok_or_else(|| cx.bad_attribute("attribute `kernel_shape` is missing"))?;
    let kernel: Option<Vec<usize>> = kernel.iter().map(|k| usize::try_from(*k).ok().filter(|k| (1..=1 << 24).contains(k))).collect();
    let kernel = kernel.ok_or_else(|| cx.bad_attribute("attribute `kernel_shape` has an extent outside 1..2^24"))?;
    if dims.len() != kernel.len() + 2 || cx.dims(places) != dims {
        return Err(cx.misfit(format!("places of dimensions {:?} for an operand of dimensions {dims:?}", cx.dims(places))));
    }
    volumes::at_most_three(cx, "the inverse of a pool", kernel.len())?;
    let window = convs::window(cx, &kernel, &dims[2..])?;
    let mut inner = dims[..2].to_vec();
    for (d, n) in window.dims.iter().zip(&dims[2..]) {
        let extent = ((n - 1) * d.stride + d.kernel).checked_sub(d.before + d.after).filter(|n| *n > 0);
        inner.push(extent.ok_or_else(|| cx.misfit("the padding leaves nothing"))?);
    }
    let count = inner.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|n| *n <= limits::ELEMENTS >> 3);
    let count = count.ok_or_else(|| cx.err(Code::LimitExceeded, format!("makes a tensor of dimensions {inner:?}")))?;
    let zero = cx.scalar(0.0);
    let zeros = cx.expand(zero, vec![count])?;
    let n = dims.iter().product();
    let (index, elements) = (cx.reshape(places, vec![n])?, cx.reshape(x, vec![n])?);
    let y = cx.push(Op::Scatter { index: Index::Elements { axis: 0 }, reduce: None }, &[zeros, index, elements])?;
    let mut y = cx.reshape(y, inner.clone())?;
    if let Some(wanted) = cx.const_ints(2)? {
        let wanted: Option<Vec<usize>> = wanted.iter().map(|n| usize::try_from(*n).ok().filter(|n| *n <= limits::ELEMENTS)).collect();
        let wanted = wanted.filter(|w| w.len() == inner.len() && w.iter().zip(&inner).all(|(w, n)| w >= n));
        let wanted = wanted.ok_or_else(|| cx.misfit(format!("the shape asked for is smaller than {inner:?}")))?;
        for (axis, (w, n)) in wanted.iter().zip(&inner).enumerate() {
            y = cx.padded(y, axis, (0, w - n), 0.0)?;
        }
    }
    Ok(vec![y])
}
