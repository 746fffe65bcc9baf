//! Images read at places that are computed: on grids, in regions, and under kernels whose taps move.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Binary, Code, Diagnostic, Index, Op, PoolKind, ReduceKind, Scalar, Tensor, Unary, Value, Window, WindowDim};

/// Adding and taking it away rounds `|x| < 2^22` to the nearest even integer.
const ROUND: f32 = 12_582_912.0;
/// Coordinates are kept within this, so that they round as above.
const FAR: f32 = 4_000_000.0;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// What lies beyond the edges.
#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    Zeros,
    /// The edge, repeated.
    Border,
    /// The image, mirrored.
    Reflection,
}

/// One axis of the image, and where each point lies on it: `[N, P]`.
struct Axis {
    extent: usize,
    at: Value,
    /// Where the image begins and ends.
    ends: (f32, f32),
}

/// An element that a point reads on one axis, and how much of it; `None` is all.
#[derive(Clone, Copy)]
struct Tap {
    index: Value,
    weight: Option<Value>,
}

fn rounded(cx: &mut NodeCx<'_>, x: Value) -> Made {
    let up = cx.plus(x, ROUND)?;
    cx.plus(up, -ROUND)
}

/// Mirrored at both ends: the distance to the nearest multiple of twice the range.
fn mirrored(cx: &mut NodeCx<'_>, x: Value, (lo, hi): (f32, f32)) -> Made {
    let range = hi - lo;
    if range <= 0.0 {
        return cx.times(x, 0.0);
    }
    let from = cx.plus(x, -lo)?;
    let periods = cx.times(from, 0.5 / range)?;
    let whole = rounded(cx, periods)?;
    let start = cx.times(whole, 2.0 * range)?;
    let apart = cx.sub(from, start)?;
    let apart = cx.unary(Unary::Abs, apart)?;
    cx.plus(apart, lo)
}

/// 1 where `lo <= x <= hi`, else 0; `x` is a whole number, and the bounds are.
fn within(cx: &mut NodeCx<'_>, x: Value, lo: f32, hi: f32) -> Made {
    let above = cx.plus(x, 1.0 - lo)?;
    let above = cx.clamp(above, 0.0, 1.0)?;
    let below = cx.unary(Unary::Neg, x)?;
    let below = cx.plus(below, 1.0 + hi)?;
    let below = cx.clamp(below, 0.0, 1.0)?;
    cx.mul(above, below)
}

/// The taps of all points on one axis.
fn taps(cx: &mut NodeCx<'_>, a: &Axis, mode: Mode, beyond: Beyond) -> Result<Vec<Tap>, Diagnostic> {
    let last = (a.extent - 1) as f32;
    let mut at = cx.clamp(a.at, -FAR, FAR)?;
    if mode == Mode::Nearest {
        at = rounded(cx, at)?;
    }
    match beyond {
        Beyond::Zeros => {}
        Beyond::Reflection => at = mirrored(cx, at, a.ends)?,
        Beyond::Border => {
            // Points beyond the ends move to the edge; those between edge and end stay.
            let (lo, hi) = (cx.scalar(a.ends.0), cx.scalar(a.ends.1));
            let edge = cx.clamp(at, 0.0, last)?;
            let (under, over) = (cx.less(at, lo)?, cx.less(hi, at)?);
            at = cx.select(under, edge, at)?;
            at = cx.select(over, edge, at)?;
        }
    }
    let mut taps = Vec::new();
    if mode == Mode::Nearest {
        taps.push(Tap { index: at, weight: None });
    } else {
        // Whole numbers may round down to the one before: then the next tap has all the weight.
        let low = cx.plus(at, -0.5)?;
        let base = rounded(cx, low)?;
        let t = cx.sub(at, base)?;
        let offsets: &[f32] = if mode == Mode::Linear { &[0.0, 1.0] } else { &[-1.0, 0.0, 1.0, 2.0] };
        for &offset in offsets {
            let index = cx.plus(base, offset)?;
            let apart = cx.plus(t, -offset)?;
            let apart = cx.unary(Unary::Abs, apart)?;
            let weight = if mode == Mode::Linear { linear(cx, apart)? } else { cubic(cx, apart, !(0.0..=1.0).contains(&offset))? };
            taps.push(Tap { index, weight: Some(weight) });
        }
    }
    for tap in &mut taps {
        if beyond == Beyond::Reflection {
            tap.index = mirrored(cx, tap.index, a.ends)?;
        }
        if beyond == Beyond::Zeros {
            let inside = within(cx, tap.index, 0.0, last)?;
            tap.weight = Some(match tap.weight {
                Some(w) => cx.mul(w, inside)?,
                None => inside,
            });
        }
        tap.index = cx.clamp(tap.index, 0.0, last)?;
    }
    Ok(taps)
}

fn linear(cx: &mut NodeCx<'_>, d: Value) -> Made {
    let near = cx.unary(Unary::Neg, d)?;
    cx.plus(near, 1.0)
}

/// R. Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.75: `d <= 1`, or `1 <= d <= 2`.
fn cubic(cx: &mut NodeCx<'_>, d: Value, far: bool) -> Made {
    let a = -0.75;
    let steps: &[f32] = if far { &[a, -5.0 * a, 8.0 * a, -4.0 * a] } else { &[a + 2.0, -(a + 3.0), 0.0, 1.0] };
    let mut p = cx.times(d, steps[0])?;
    p = cx.plus(p, steps[1])?;
    for s in &steps[2..] {
        p = cx.mul(p, d)?;
        p = cx.plus(p, *s)?;
    }
    Ok(p)
}

/// `x [N, C, extents..]` at points: `[N, P, C]`. `join` puts the taps together: their sum, or the largest.
fn sample(cx: &mut NodeCx<'_>, x: Value, axes: &[Axis], (mode, beyond): (Mode, Beyond), join: Binary) -> Made {
    let dims = cx.dims(x);
    let pixels: usize = dims[2..].iter().product();
    if pixels > 1 << 24 {
        return Err(cx.err(Code::LimitExceeded, format!("reads an image of {pixels} elements at computed places; the limit is 2^24")));
    }
    let flat = cx.reshape(x, vec![dims[0], dims[1], pixels])?;
    let flat = cx.transpose(flat, &[0, 2, 1])?;
    // Of the axes so far: the place in memory and the weight, for every choice of taps.
    let mut all: Vec<Tap> = Vec::new();
    for a in axes {
        let own = taps(cx, a, mode, beyond)?;
        if all.is_empty() {
            all = own;
            continue;
        }
        let mut next = Vec::with_capacity(all.len() * own.len());
        for outer in &all {
            let row = cx.times(outer.index, a.extent as f32)?;
            for inner in &own {
                let index = cx.add(row, inner.index)?;
                let weight = match (outer.weight, inner.weight) {
                    (Some(v), Some(w)) => Some(cx.mul(v, w)?),
                    (v, w) => v.or(w),
                };
                next.push(Tap { index, weight });
            }
        }
        all = next;
    }
    let mut sum: Option<Value> = None;
    for tap in all {
        let points = cx.dims(tap.index);
        let index = cx.cast(tap.index, Scalar::I32)?;
        let index = cx.reshape(index, vec![points[0], points[1], 1])?;
        let mut y = cx.push(Op::Gather { index: Index::Coordinates { batch: 1 } }, &[flat, index])?;
        if let Some(w) = tap.weight {
            let w = cx.reshape(w, vec![points[0], points[1], 1])?;
            y = cx.mul(y, w)?;
        }
        sum = Some(match sum {
            Some(s) => cx.binary(join, s, y)?,
            None => y,
        });
    }
    sum.ok_or_else(|| cx.misfit("the image has no spatial axes"))
}

/// `[N, P, C]` as `[N, C, extents..]`.
fn image(cx: &mut NodeCx<'_>, y: Value, extents: &[usize]) -> Made {
    let dims = cx.dims(y);
    let y = cx.transpose(y, &[0, 2, 1])?;
    cx.reshape(y, [&[dims[0], dims[2]], extents].concat())
}

pub fn grid_sample(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, grid) = (cx.arg(0)?, cx.arg(1)?);
    let (xd, gd) = (cx.dims(x), cx.dims(grid));
    let d = xd.len().saturating_sub(2);
    if !(1..=3).contains(&d) || gd.len() != xd.len() || gd[0] != xd[0] || gd[d + 1] != d {
        return Err(cx.misfit(format!("a grid of dimensions {gd:?} for an image of dimensions {xd:?}")));
    }
    let mode = match cx.text("mode")?.as_deref() {
        None | Some("linear" | "bilinear") => Mode::Linear,
        Some("nearest") => Mode::Nearest,
        Some("cubic" | "bicubic") => Mode::Cubic,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    let beyond = match cx.text("padding_mode")?.as_deref() {
        None | Some("zeros") => Beyond::Zeros,
        Some("border") => Beyond::Border,
        Some("reflection") => Beyond::Reflection,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `padding_mode` is {other:?}"))),
    };
    let aligned = cx.flag("align_corners", false)?;
    let points: usize = gd[1..=d].iter().product();
    let flat = cx.reshape(grid, vec![gd[0], points, d])?;
    let mut axes = Vec::with_capacity(d);
    for (i, &extent) in xd[2..].iter().enumerate() {
        // Coordinates come innermost first.
        let at = cx.part(flat, 2, d - 1 - i, 1)?;
        let at = cx.reshape(at, vec![gd[0], points])?;
        let n = extent as f32;
        let shifted = cx.plus(at, 1.0)?;
        let (at, ends) = if aligned {
            (cx.times(shifted, (n - 1.0) / 2.0)?, (0.0, n - 1.0))
        } else {
            let scaled = cx.times(shifted, n)?;
            let scaled = cx.plus(scaled, -1.0)?;
            (cx.times(scaled, 0.5)?, (-0.5, n - 0.5))
        };
        axes.push(Axis { extent, at, ends });
    }
    let y = sample(cx, x, &axes, (mode, beyond), Binary::Add)?;
    Ok(vec![image(cx, y, &gd[1..=d])?])
}

/// Regions of images, cut into cells, each the mean or the largest of samples in it.
pub fn roi_align(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 3)?;
    let (x, rois, batch) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let (xd, rd) = (cx.dims(x), cx.dims(rois));
    if xd.len() != 4 || rd.len() != 2 || rd[1] != 4 || cx.dims(batch) != rd[..1] {
        return Err(cx.misfit(format!("regions of dimensions {rd:?} for an image of dimensions {xd:?}")));
    }
    let half = match cx.text("coordinate_transformation_mode")?.as_deref() {
        None if cx.opset < 16 => false,
        None | Some("half_pixel") => true,
        Some("output_half_pixel") => false,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `coordinate_transformation_mode` is {other:?}"))),
    };
    let largest = match cx.text("mode")?.as_deref() {
        None | Some("avg") => false,
        Some("max") => true,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    let cells = [cx.count("output_height")?.unwrap_or(1), cx.count("output_width")?.unwrap_or(1)];
    let samples = match cx.count_or_none("sampling_ratio")? {
        Some(n) => n,
        None => {
            return Err(cx.unsupported("takes as many samples as a region is large").help("set `sampling_ratio` to a number of samples"));
        }
    };
    let points = [cells[0], cells[1], samples, samples, rd[0]].iter().try_fold(1usize, |a, b| a.checked_mul(*b));
    if points.is_none_or(|n| n > 1 << 26) {
        return Err(cx.err(Code::LimitExceeded, format!("takes {samples} by {samples} samples of {cells:?} cells")));
    }
    let scale = cx.float("spatial_scale", 1.0)?;
    // One image per region.
    let index = cx.reshape(batch, vec![rd[0]])?;
    let x = cx.push(Op::Gather { index: Index::Slices { axis: 0 } }, &[x, index])?;
    let mut axes = Vec::new();
    let mut inside: Option<Value> = None;
    let mut places = Vec::new();
    for i in 0..2 {
        let (extent, cells) = (xd[2 + i], cells[i]);
        let corner = |cx: &mut NodeCx<'_>, at: usize| {
            let c = cx.part(rois, 1, at, 1)?;
            let c = cx.times(c, scale)?;
            cx.plus(c, if half { -0.5 } else { 0.0 })
        };
        let (start, end) = (corner(cx, 1 - i)?, corner(cx, 3 - i)?);
        let mut size = cx.sub(end, start)?;
        if !half {
            size = cx.by(Binary::Max, size, 1.0)?;
        }
        // Sample s of cell c lies at (c + (s + 1/2) / samples) / cells of the region.
        let shares: Vec<f32> = (0..cells * samples).map(|k| (k as f32 + 0.5) / (cells * samples) as f32).collect();
        let shares = cx.table("shares", vec![1, cells * samples], &shares)?;
        let along = cx.mul(size, shares)?;
        places.push((cx.add(start, along)?, extent, cells * samples));
    }
    let (h, w) = (places[0].2, places[1].2);
    for (i, (at, extent, own)) in places.into_iter().enumerate() {
        let shape = if i == 0 { vec![rd[0], own, 1] } else { vec![rd[0], 1, own] };
        let at = cx.reshape(at, shape)?;
        let at = cx.expand(at, vec![rd[0], h, w])?;
        let at = cx.reshape(at, vec![rd[0], h * w])?;
        let (lo, hi) = (cx.scalar(-1.0), cx.scalar(extent as f32));
        let (under, over) = (cx.less(at, lo)?, cx.less(hi, at)?);
        let (zero, one) = (cx.scalar(0.0), cx.scalar(1.0));
        let seen = cx.select(under, zero, one)?;
        let seen = cx.select(over, zero, seen)?;
        inside = Some(match inside {
            Some(v) => cx.mul(v, seen)?,
            None => seen,
        });
        let at = cx.clamp(at, 0.0, (extent - 1) as f32)?;
        axes.push(Axis { extent, at, ends: (0.0, (extent - 1) as f32) });
    }
    let inside = inside.ok_or_else(|| Diagnostic::bug("two axes"))?;
    let inside = cx.reshape(inside, vec![rd[0], h * w, 1])?;
    let join = if largest { Binary::Max } else { Binary::Add };
    let y = sample(cx, x, &axes, (Mode::Linear, Beyond::Border), join)?;
    let y = cx.mul(y, inside)?;
    let y = image(cx, y, &[h, w])?;
    let window = WindowDim { stride: samples, ..WindowDim::new(samples) };
    let kind = if largest { PoolKind::Max } else { PoolKind::Average { include_pad: false } };
    Ok(vec![cx.push(Op::Pool { kind, window: Window { dims: vec![window; 2] } }, &[y])?])
}

/// A convolution over two axes whose taps are moved by computed offsets, and perhaps weighed by a computed mask.
pub fn deform_conv(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 5)?;
    let (x, w, offset) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let (xd, wd, od) = (cx.dims(x), cx.dims(w), cx.dims(offset));
    if xd.len() != 4 || wd.len() != 4 || od.len() != 4 {
        return Err(cx.unsupported("a deformed convolution over other than two spatial axes"));
    }
    let (groups, shared) = (cx.count("group")?.unwrap_or(1), cx.count("offset_group")?.unwrap_or(1));
    let window = super::convs::window(cx, &wd[2..], &xd[2..])?;
    let (kernel, points) = (wd[2] * wd[3], od[2] * od[3]);
    let outputs = [window.dims[0].outputs(xd[2]), window.dims[1].outputs(xd[3])];
    let fits = outputs == [Some(od[2]), Some(od[3])]
        && od[0] == xd[0]
        && od[1] == 2 * kernel * shared
        && xd[1] == wd[1] * groups
        && wd[0].is_multiple_of(groups)
        && xd[1].is_multiple_of(shared);
    if !fits {
        return Err(cx.misfit(format!("weights {wd:?} and offsets {od:?} do not fit an operand of dimensions {xd:?}")));
    }
    if kernel.saturating_mul(points).saturating_mul(shared) > 1 << 26 {
        return Err(cx.err(Code::LimitExceeded, format!("reads {kernel} taps at {points} places")));
    }
    let n = xd[0];
    let offsets = cx.reshape(offset, vec![n, shared, kernel, 2, points])?;
    let mask = match cx.optional(4) {
        Some(m) if cx.dims(m) == [n, shared * kernel, od[2], od[3]] => Some(cx.reshape(m, vec![n, shared, kernel * points, 1])?),
        Some(m) => return Err(cx.misfit(format!("a mask of dimensions {:?}", cx.dims(m)))),
        None => None,
    };
    // Where each tap of each place lies without its offset.
    let mut rest = Vec::new();
    for (i, d) in window.dims.iter().enumerate() {
        let mut places = Vec::with_capacity(kernel * points);
        for tap in 0..kernel {
            for p in 0..points {
                let (tap, place) = if i == 0 { (tap / wd[3], p / od[3]) } else { (tap % wd[3], p % od[3]) };
                places.push((place * d.stride + tap * d.dilation) as f32 - d.before as f32);
            }
        }
        rest.push(cx.table("places", vec![kernel, points], &places)?);
    }
    let each = xd[1] / shared;
    let mut columns = Vec::with_capacity(shared);
    for g in 0..shared {
        let own = cx.part(offsets, 1, g, 1)?;
        let mut axes = Vec::with_capacity(2);
        for i in 0..2 {
            let moved = cx.part(own, 3, i, 1)?;
            let moved = cx.reshape(moved, vec![n, kernel, points])?;
            let at = cx.add(moved, rest[i])?;
            let at = cx.reshape(at, vec![n, kernel * points])?;
            axes.push(Axis { extent: xd[2 + i], at, ends: (0.0, (xd[2 + i] - 1) as f32) });
        }
        let channels = cx.part(x, 1, g * each, each)?;
        let mut y = sample(cx, channels, &axes, (Mode::Linear, Beyond::Zeros), Binary::Add)?;
        if let Some(m) = mask {
            let m = cx.part(m, 1, g, 1)?;
            let m = cx.reshape(m, vec![n, kernel * points, 1])?;
            y = cx.mul(y, m)?;
        }
        columns.push(y);
    }
    // [N, taps * places, C], then a product per group.
    let columns = cx.concat(&columns, 2)?;
    let columns = cx.reshape(columns, vec![n, kernel, points, xd[1]])?;
    let mut results = Vec::with_capacity(groups);
    for g in 0..groups {
        let (inputs, results_each) = (wd[1], wd[0] / groups);
        let part = cx.part(columns, 3, g * inputs, inputs)?;
        let rows = cx.transpose(part, &[0, 2, 1, 3])?;
        let rows = cx.reshape(rows, vec![n, points, kernel * inputs])?;
        let weights = cx.part(w, 0, g * results_each, results_each)?;
        let weights = cx.transpose(weights, &[0, 2, 3, 1])?;
        let weights = cx.reshape(weights, vec![results_each, kernel * inputs])?;
        results.push(cx.dense(rows, weights)?);
    }
    let mut y = cx.concat(&results, 2)?;
    if let Some(bias) = cx.optional(3) {
        y = cx.add(y, bias)?;
    }
    Ok(vec![image(cx, y, &od[2..])?])
}

/// Most cells of a pooled region that are cut out one by one.
const MOST_CELLS: usize = 1 << 12;

/// The largest element of every cell of every region, whose corners are whole numbers; 0 where a cell lies outside.
pub fn max_roi_pool(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (x, rois) = (cx.arg(0)?, cx.arg(1)?);
    let scale = cx.float("spatial_scale", 1.0)?;
    let shape = cx.ints("pooled_shape")?.unwrap_or_default();
    let &[rows, columns] = &shape[..] else { return Err(cx.bad_attribute(format!("attribute `pooled_shape` is {shape:?}"))) };
    let dims = cx.dims(x);
    let (Some(regions), &[batch, channels, height, width]) = (cx.g.tensor(rois).and_then(Tensor::to_f32), &dims[..]) else {
        return Err(cx.unsupported("reads regions that are no constant, or an operand that is no batch of images"));
    };
    let &[count, 5] = &cx.dims(rois)[..] else { return Err(cx.misfit(format!("regions of dimensions {:?}", cx.dims(rois)))) };
    let cells = [rows, columns].map(|n| usize::try_from(n).ok().filter(|n| (1..=MOST_CELLS).contains(n)));
    let [Some(rows), Some(columns)] = cells else { return Err(cx.bad_attribute(format!("attribute `pooled_shape` is {shape:?}"))) };
    if count == 0 || count.saturating_mul(rows * columns) > MOST_CELLS {
        return Err(cx.unsupported(format!("{count} regions of {rows}x{columns} cells; 1 to {MOST_CELLS} cells are supported")));
    }
    let whole = |v: f32| (v * scale).round();
    // Where cell `i` of `n` along an axis begins and ends.
    let cell = |first: f32, last: f32, i: usize, n: usize, extent: usize| {
        let size = (last - first + 1.0).max(1.0) / n as f32;
        let bound = |v: f32| (v + first).clamp(0.0, extent as f32) as usize;
        (bound((i as f32 * size).floor()), bound(((i + 1) as f32 * size).ceil()))
    };
    let mut pooled = Vec::new();
    for r in regions.chunks_exact(5) {
        let image = r[0] as usize;
        if image >= batch || r[0] < 0.0 || r.iter().any(|v| !v.is_finite()) {
            return Err(cx.misfit(format!("a region {r:?} in a batch of {batch}")));
        }
        let image = cx.part(x, 0, image, 1)?;
        let mut lines = Vec::new();
        for i in 0..rows {
            let (top, bottom) = cell(whole(r[2]), whole(r[4]), i, rows, height);
            let mut line = Vec::new();
            for j in 0..columns {
                let (left, right) = cell(whole(r[1]), whole(r[3]), j, columns, width);
                line.push(if top < bottom && left < right {
                    let part = cx.part(image, 2, top, bottom - top)?;
                    let part = cx.part(part, 3, left, right - left)?;
                    cx.reduced(ReduceKind::Max, part, &[2, 3])?
                } else {
                    cx.table("outside", vec![1, channels, 1, 1], &vec![0.0; channels])?
                });
            }
            lines.push(cx.concat(&line, 3)?);
        }
        pooled.push(cx.concat(&lines, 2)?);
    }
    Ok(vec![cx.concat(&pooled, 0)?])
}
