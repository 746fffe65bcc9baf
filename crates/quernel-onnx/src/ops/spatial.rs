//! Images cut, put together and laid out on grids.

use super::transposed::spread;
use crate::{
    compose::Made,
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Op, ReduceKind, Value};

/// Axes cut or padded evenly on both sides; the odd element is cut or added at the end.
pub fn center_crop_pad(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let mut x = cx.arg(0)?;
    let dims = cx.dims(x);
    let axes = match cx.ints("axes")? {
        Some(axes) => {
            cx.axes(&axes, dims.len())?;
            axes.iter().map(|&a| cx.axis(a, dims.len())).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..dims.len()).collect(),
    };
    let wanted = cx.const_ints(1)?.unwrap_or_default();
    if wanted.len() != axes.len() {
        return Err(cx.misfit(format!("{} extents for {} axes", wanted.len(), axes.len())));
    }
    for (&axis, &want) in axes.iter().zip(&wanted) {
        let want = usize::try_from(want).ok().filter(|n| (1..=limits::ELEMENTS).contains(n));
        let want = want.ok_or_else(|| cx.bad_attribute(format!("extents are {wanted:?}")))?;
        let own = dims[axis];
        if want < own {
            x = cx.part(x, axis, (own - want) / 2, want)?;
        } else {
            let more = want - own;
            x = cx.padded(x, axis, (more / 2, more - more / 2), 0.0)?;
        }
    }
    Ok(vec![x])
}

/// `[N, C * block.., L] -> [N, C, image..]`: element `l` of a row is where the block stood at its `l`-th place; where blocks
/// overlap, they are added.
pub fn col2im(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let positive = |i: usize| -> Result<Vec<usize>, Diagnostic> {
        let ints = cx.const_ints(i)?.unwrap_or_default();
        let all: Option<Vec<usize>> = ints.iter().map(|n| usize::try_from(*n).ok().filter(|n| (1..=1 << 24).contains(n))).collect();
        all.ok_or_else(|| cx.bad_attribute(format!("operand {i} is {ints:?}")))
    };
    let (image, block) = (positive(1)?, positive(2)?);
    let rank = image.len();
    if rank == 0 || block.len() != rank || dims.len() != 3 || rank + 2 > limits::RANK {
        return Err(cx.misfit(format!("blocks {block:?} of an image {image:?} in an operand of dimensions {dims:?}")));
    }
    let window = super::convs::window(cx, &block, &image)?;
    let places: Option<Vec<usize>> = window.dims.iter().zip(&image).map(|(d, n)| d.outputs(*n)).collect();
    let taps = block.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|n| *n <= 1 << 12);
    let (Some(places), Some(taps)) = (places, taps) else {
        return Err(cx.misfit(format!("blocks {block:?} do not fit an image {image:?}")));
    };
    if dims[2] != places.iter().product() || !dims[1].is_multiple_of(taps) {
        return Err(cx.misfit(format!("an operand of dimensions {dims:?} does not hold {places:?} places of blocks {block:?}")));
    }
    let channels = dims[1] / taps;
    let split = cx.reshape(x, vec![dims[0], channels, taps, dims[2]])?;
    let mut sum: Option<Value> = None;
    for tap in 0..taps {
        let row = cx.part(split, 2, tap, 1)?;
        let mut y = cx.reshape(row, [&[dims[0], channels], &places[..]].concat())?;
        let mut rest = tap;
        for (i, d) in window.dims.iter().enumerate().rev() {
            y = spread(cx, y, 2 + i, d.stride)?;
            let offset = rest % block[i] * d.dilation;
            rest /= block[i];
            // The padded image, then the image alone.
            let extent = image[i] + d.before + d.after;
            let own = cx.dims(y)[2 + i];
            y = cx.padded(y, 2 + i, (offset, extent - own - offset), 0.0)?;
            y = cx.part(y, 2 + i, d.before, image[i])?;
        }
        sum = Some(match sum {
            Some(s) => cx.add(s, y)?,
            None => y,
        });
    }
    Ok(vec![sum.ok_or_else(|| cx.misfit("the blocks are empty"))?])
}

/// `theta [N, d, d + 1]` applied to the corners or centers of cells between -1 and 1.
pub fn affine_grid(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let theta = cx.arg(0)?;
    let size = cx.const_ints(1)?.unwrap_or_default();
    let extents: Option<Vec<usize>> = size.iter().map(|n| usize::try_from(*n).ok().filter(|n| (1..=1 << 24).contains(n))).collect();
    let extents = extents.filter(|e| (4..=5).contains(&e.len()));
    let extents = extents.ok_or_else(|| cx.bad_attribute(format!("a grid for an image of dimensions {size:?}")))?;
    let (batch, space) = (extents[0], &extents[2..]);
    let d = space.len();
    if cx.dims(theta) != [batch, d, d + 1] {
        return Err(cx.misfit(format!("matrices of dimensions {:?} for an image of dimensions {size:?}", cx.dims(theta))));
    }
    let aligned = cx.flag("align_corners", false)?;
    let points = space.iter().try_fold(1usize, |a, n| a.checked_mul(*n)).filter(|n| *n <= 1 << 26);
    let points = points.ok_or_else(|| cx.err(Code::LimitExceeded, format!("a grid of {space:?} points")))?;
    let at = |i: usize, n: usize| {
        let (i, n) = (i as f64, n as f64);
        if aligned { if n > 1.0 { 2.0 * i / (n - 1.0) - 1.0 } else { -1.0 } } else { (2.0 * i + 1.0) / n - 1.0 }
    };
    // Rows are the coordinates, the innermost axis first, and 1.
    let mut grid = Vec::with_capacity(points * (d + 1));
    let mut inner = 1;
    for &n in space.iter().rev() {
        grid.extend((0..points).map(|p| at(p / inner % n, n) as f32));
        inner *= n;
    }
    grid.extend(std::iter::repeat_n(1.0, points));
    let grid = cx.table("grid", vec![d + 1, points], &grid)?;
    let y = cx.matmul(theta, grid)?;
    let y = cx.swapped(y)?;
    Ok(vec![cx.reshape(y, [&[batch], space, &[d]].concat())?])
}

/// The determinant without divisions, by products of matrices: R. Bird, "A simple division-free algorithm for computing
/// determinants", 2011. `F_1 = A`, `F_{i+1} = m(F_i) A`, where `m` keeps what is above the diagonal and puts the negative sum
/// of the later diagonal elements on it; the result is the first element of `F_n` with the sign `(-1)^(n-1)`.
pub fn determinant(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let n = match dims[..] {
        [.., a, b] if a == b && a > 0 => a,
        _ => return Err(cx.misfit(format!("the determinant of a tensor of dimensions {dims:?}"))),
    };
    if n > 16 {
        return Err(cx.unsupported(format!("the determinant of matrices of {n} rows; 16 are supported")));
    }
    let batch: usize = dims[..dims.len() - 2].iter().product();
    let a = cx.reshape(x, vec![batch, n, n])?;
    let upper: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % n > i / n))).collect();
    let identity: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % n == i / n))).collect();
    let later: Vec<f32> = (0..n * n).map(|i| -f32::from(u8::from(i % n > i / n))).collect();
    let upper = cx.table("upper", vec![n, n], &upper)?;
    let identity = cx.table("identity", vec![n, n], &identity)?;
    let later = cx.table("later", vec![n, n], &later)?;
    let mut f = a;
    for _ in 1..n {
        let diagonal = diagonal(cx, f, identity)?;
        let sums = cx.dense(diagonal, later)?;
        let sums = cx.reshape(sums, vec![batch, n, 1])?;
        let sums = cx.mul(sums, identity)?;
        let above = cx.mul(f, upper)?;
        let m = cx.add(above, sums)?;
        f = cx.matmul(m, a)?;
    }
    let first = cx.part(f, 1, 0, 1)?;
    let first = cx.part(first, 2, 0, 1)?;
    let y = cx.times(first, if n % 2 == 0 { -1.0 } else { 1.0 })?;
    Ok(vec![cx.reshape(y, dims[..dims.len() - 2].to_vec())?])
}

/// The diagonals of `[batch, n, n]` as rows.
fn diagonal(cx: &mut NodeCx<'_>, f: Value, identity: Value) -> Made {
    let kept = cx.mul(f, identity)?;
    cx.push(Op::Reduce { kind: ReduceKind::Sum, axes: vec![2], keep: false }, &[kept])
}
