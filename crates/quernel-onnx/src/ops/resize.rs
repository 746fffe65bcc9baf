//! Resize and Upsample. A repetition by a whole factor is a move; every other mapping is a product with a constant matrix
//! along the axis, one axis after the other.

use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Act, Code, Diagnostic, Multiplier, Op, Value};

/// Which operand coordinate a result coordinate stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    HalfPixelForNearest,
    /// A region of the operand, in shares of its extent.
    Crop,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Nearest {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Nearest(Nearest),
    Linear,
    Cubic { a: f64 },
}

/// How elements of the operand are weighed.
#[derive(Clone, Copy)]
struct Filter {
    mode: Mode,
    coordinates: Coordinates,
    /// Where the operand shrinks, the filter grows.
    antialias: bool,
    /// Elements beyond the edge are left out instead of repeating the edge.
    exclude_outside: bool,
    /// What lies beyond a region.
    beyond: f32,
}

/// One axis that changes.
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    /// Start and end of the region.
    region: (f64, f64),
}

pub fn resize(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 4)?;
    let old = cx.opset < 11;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let coordinates = match cx.text("coordinate_transformation_mode")?.as_deref() {
        None if old => Coordinates::Asymmetric,
        None | Some("half_pixel") => Coordinates::HalfPixel,
        Some("half_pixel_symmetric") => Coordinates::HalfPixelSymmetric,
        Some("pytorch_half_pixel") => Coordinates::PytorchHalfPixel,
        Some("align_corners") => Coordinates::AlignCorners,
        Some("asymmetric") => Coordinates::Asymmetric,
        Some("tf_half_pixel_for_nn") => Coordinates::HalfPixelForNearest,
        Some("tf_crop_and_resize") => Coordinates::Crop,
        Some(other) => return Err(cx.unsupported(format!("maps coordinates by {other:?}"))),
    };
    let nearest = match cx.text("nearest_mode")?.as_deref() {
        None if old => Nearest::Floor,
        None | Some("round_prefer_floor") => Nearest::PreferFloor,
        Some("round_prefer_ceil") => Nearest::PreferCeil,
        Some("floor") => Nearest::Floor,
        Some("ceil") => Nearest::Ceil,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `nearest_mode` is {other:?}"))),
    };
    let mode = match cx.text("mode")?.as_deref() {
        None | Some("nearest") => Mode::Nearest(nearest),
        Some("linear" | "bilinear") => Mode::Linear,
        Some("cubic") => Mode::Cubic { a: cx.float("cubic_coeff_a", -0.75)?.into() },
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    let filter = Filter {
        mode,
        coordinates,
        antialias: cx.flag("antialias", false)? && !matches!(mode, Mode::Nearest(_)),
        exclude_outside: cx.flag("exclude_outside", false)?,
        beyond: cx.float("extrapolation_value", 0.0)?,
    };
    let axes = match cx.ints("axes")? {
        Some(axes) => {
            cx.axes(&axes, dims.len())?;
            axes.iter().map(|&a| cx.axis(a, dims.len())).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..dims.len()).collect(),
    };
    let scales = floats(cx, if old { 1 } else { 2 })?.filter(|s| !s.is_empty());
    let sizes = if old { None } else { cx.const_ints(3)?.filter(|s| !s.is_empty()) };
    let mut changed = match (scales, sizes) {
        (Some(scales), None) => by_scales(cx, &dims, &axes, &scales)?,
        (None, Some(sizes)) => by_sizes(cx, &dims, &axes, &sizes)?,
        _ => return Err(cx.err(Code::BadGraph, "needs either scales or sizes")),
    };
    if coordinates == Coordinates::Crop {
        let region = floats(cx, 1)?.filter(|r| r.len() == 2 * changed.len() && r.iter().all(|x| x.is_finite()));
        let region = region.ok_or_else(|| cx.misfit(format!("the region does not have two numbers for each of {} axes", changed.len())))?;
        let n = changed.len();
        for (i, a) in changed.iter_mut().enumerate() {
            a.region = (region[i].into(), region[n + i].into());
        }
    }
    apply(cx, x, &changed, filter)
}

pub fn upsample(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let scales = match floats(cx, 1)? {
        Some(s) => s,
        None => cx.floats("scales")?.ok_or_else(|| cx.bad_attribute("has no scales"))?,
    };
    let mode = match cx.text("mode")?.as_deref() {
        None | Some("nearest") => Mode::Nearest(Nearest::Floor),
        Some("linear" | "bilinear") => Mode::Linear,
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    let axes: Vec<usize> = (0..dims.len()).collect();
    let changed = by_scales(cx, &dims, &axes, &scales)?;
    let filter = Filter { mode, coordinates: Coordinates::Asymmetric, antialias: false, exclude_outside: false, beyond: 0.0 };
    apply(cx, x, &changed, filter)
}

fn floats(cx: &NodeCx<'_>, i: usize) -> Result<Option<Vec<f32>>, Diagnostic> {
    let Some(v) = cx.optional(i) else { return Ok(None) };
    let tensor = cx.g.tensor(v).ok_or_else(|| cx.unsupported(format!("operand {i} ({:?}) has to be a constant", cx.g.values[v].name)))?;
    tensor.to_f32().map(Some).ok_or_else(|| cx.err(Code::UnsupportedType, format!("operand {i} has to be float")))
}

fn by_scales(cx: &NodeCx<'_>, dims: &[usize], axes: &[usize], scales: &[f32]) -> Result<Vec<Axis>, Diagnostic> {
    if scales.len() != axes.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("{} scales for {} axes", scales.len(), axes.len())));
    }
    let mut changed = Vec::new();
    for (&axis, &scale) in axes.iter().zip(scales) {
        let to = (dims[axis] as f64 * f64::from(scale)).floor();
        if !(scale.is_finite() && scale > 0.0 && (1.0..=limits::ELEMENTS as f64).contains(&to)) {
            return Err(cx.bad_attribute(format!("scales {} elements by {scale}", dims[axis])));
        }
        changed.push(Axis { axis, from: dims[axis], to: to as usize, scale: scale.into(), region: (0.0, 1.0) });
    }
    Ok(changed)
}

fn by_sizes(cx: &NodeCx<'_>, dims: &[usize], axes: &[usize], sizes: &[i64]) -> Result<Vec<Axis>, Diagnostic> {
    if sizes.len() != axes.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("{} sizes for {} axes", sizes.len(), axes.len())));
    }
    let size = |n: f64| (1.0..=limits::ELEMENTS as f64).contains(&n).then_some(n as usize);
    let bad = || cx.bad_attribute(format!("sizes are {sizes:?}"));
    let scale = |axis: usize, n: i64| n as f64 / dims[axis] as f64;
    let scales = axes.iter().zip(sizes).map(|(a, n)| scale(*a, *n));
    // One scale for all keeps the aspect ratio.
    let one = match cx.text("keep_aspect_ratio_policy")?.as_deref() {
        None | Some("stretch") => None,
        Some("not_larger") => scales.reduce(f64::min),
        Some("not_smaller") => scales.reduce(f64::max),
        Some(other) => return Err(cx.bad_attribute(format!("attribute `keep_aspect_ratio_policy` is {other:?}"))),
    };
    let mut changed = Vec::new();
    for (&axis, &n) in axes.iter().zip(sizes) {
        let to = match one {
            Some(s) => size((s * dims[axis] as f64 + 0.5).floor()),
            None => size(n as f64),
        };
        let (to, scale) = (to.ok_or_else(bad)?, one.unwrap_or_else(|| scale(axis, n)));
        changed.push(Axis { axis, from: dims[axis], to, scale, region: (0.0, 1.0) });
    }
    Ok(changed)
}

fn apply(cx: &mut NodeCx<'_>, x: Value, changed: &[Axis], filter: Filter) -> Built {
    // Before any row is computed.
    let mut dims = cx.dims(x);
    changed.iter().for_each(|a| dims[a.axis] = a.to);
    tensor::count(&dims).map_err(|d| d.at(cx.label))?;
    let mut y = x;
    for a in changed {
        if a.from == a.to && a.scale == 1.0 && a.region == (0.0, 1.0) {
            continue;
        }
        if filter.antialias {
            matrix_size(cx, a)?;
        }
        y = match repetition(a, filter) {
            Some(factor) => repeat(cx, y, a.axis, factor)?,
            None => product(cx, y, a, filter)?,
        };
    }
    Ok(vec![y])
}

fn matrix_size(cx: &NodeCx<'_>, a: &Axis) -> Result<usize, Diagnostic> {
    let cells = a.from.checked_mul(a.to).filter(|n| *n <= 1 << 24);
    cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("resizes an axis from {} to {} elements", a.from, a.to)))
}

/// In binary32, as runtimes compute it: which element is nearest hangs on the last bit.
fn coordinate(a: &Axis, i: usize, c: Coordinates) -> f64 {
    let (i, from, to, s) = (i as f32, a.from as f32, a.to as f32, a.scale as f32);
    f64::from(match c {
        Coordinates::HalfPixel => (i + 0.5) / s - 0.5,
        Coordinates::HalfPixelSymmetric => {
            let adjustment = to / (s * from);
            let center = from / 2.0;
            center * (1.0 - adjustment) + (i + 0.5) / s - 0.5
        }
        Coordinates::PytorchHalfPixel => {
            if a.to > 1 {
                (i + 0.5) / s - 0.5
            } else {
                0.0
            }
        }
        // The extent of the result before it was rounded.
        Coordinates::AlignCorners => {
            if a.to > 1 {
                i * (from - 1.0) / (s * from - 1.0)
            } else {
                0.0
            }
        }
        Coordinates::Asymmetric => i / s,
        Coordinates::HalfPixelForNearest => (i + 0.5) / s,
        Coordinates::Crop => {
            let (start, end) = (a.region.0 as f32, a.region.1 as f32);
            let width = (end - start) * (from - 1.0);
            start * (from - 1.0) + if a.to > 1 { i * width / (to - 1.0) } else { width / 2.0 }
        }
    })
}

/// Operand elements and weights of result element `i`; `None` beyond the region.
fn row(a: &Axis, i: usize, f: Filter) -> Option<Vec<(usize, f64)>> {
    let x = coordinate(a, i, f.coordinates);
    let last = (a.from - 1) as f64;
    if f.coordinates == Coordinates::Crop && !(0.0..=last).contains(&x) {
        return None;
    }
    let clamp = |i: f64| i.clamp(0.0, last) as usize;
    if let Mode::Nearest(n) = f.mode {
        let at = match n {
            Nearest::PreferFloor => (x - 0.5).ceil(),
            Nearest::PreferCeil => (x + 0.5).floor(),
            Nearest::Floor => x.floor(),
            Nearest::Ceil => x.ceil(),
        };
        return Some(vec![(clamp(at), 1.0)]);
    }
    let (reach, weight): (f64, &dyn Fn(f64) -> f64) = match f.mode {
        Mode::Cubic { a: k } => (2.0, &move |d: f64| {
            if d <= 1.0 {
                ((k + 2.0) * d - (k + 3.0)) * d * d + 1.0
            } else if d < 2.0 {
                ((k * d - 5.0 * k) * d + 8.0 * k) * d - 4.0 * k
            } else {
                0.0
            }
        }),
        _ => (1.0, &|d: f64| (1.0 - d).max(0.0)),
    };
    let narrow = if f.antialias { a.scale.min(1.0) } else { 1.0 };
    let (first, end) = ((x - reach / narrow).floor(), (x + reach / narrow).ceil());
    let mut taps: Vec<(f64, f64)> = Vec::new();
    let mut at = first;
    while at <= end {
        taps.push((at, weight(((at - x) * narrow).abs())));
        at += 1.0;
    }
    if f.exclude_outside {
        taps.retain(|(at, _)| (0.0..=last).contains(at));
    }
    if f.exclude_outside || f.antialias {
        let sum: f64 = taps.iter().map(|t| t.1).sum();
        taps.iter_mut().for_each(|t| t.1 = if sum == 0.0 { 0.0 } else { t.1 / sum });
    }
    Some(taps.into_iter().filter(|t| t.1 != 0.0).map(|(at, w)| (clamp(at), w)).collect())
}

/// The factor, when every element is repeated that often.
fn repetition(a: &Axis, f: Filter) -> Option<usize> {
    let factor = a.to / a.from;
    let whole = a.to == a.from * factor && factor > 0;
    let plain = |i: usize| matches!(row(a, i, f).as_deref(), Some(&[(at, 1.0)]) if at == i / factor);
    (whole && (0..a.to).all(plain)).then_some(factor)
}

fn repeat(cx: &mut NodeCx<'_>, x: Value, axis: usize, factor: usize) -> Result<Value, Diagnostic> {
    let mut dims = cx.dims(x);
    dims.insert(axis + 1, 1);
    let split = cx.push(Op::Reshape { dims: dims.clone() }, &[x])?;
    dims[axis + 1] = factor;
    let expanded = cx.push(Op::Expand { dims: dims.clone() }, &[split])?;
    dims[axis] *= factor;
    dims.remove(axis + 1);
    cx.push(Op::Reshape { dims }, &[expanded])
}

/// `y[.., i, ..] = sum_k M[i, k] x[.., k, ..]` as a layer over the axis, which is brought to the end and back.
fn product(cx: &mut NodeCx<'_>, x: Value, a: &Axis, f: Filter) -> Result<Value, Diagnostic> {
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, "the operand has to be float"));
    }
    let mut matrix = vec![0f64; matrix_size(cx, a)?];
    let taps: Vec<Option<Vec<(usize, f64)>>> = (0..a.to).map(|i| row(a, i, f)).collect();
    for (i, taps) in taps.iter().enumerate() {
        for &(at, w) in taps.iter().flatten() {
            matrix[i * a.from + at] += w;
        }
    }
    let matrix: Vec<f32> = matrix.iter().map(|w| *w as f32).collect();
    let w = cx.table("resize", vec![a.to, a.from], &matrix)?;
    let rank = cx.g.ty(x).rank();
    let mut perm: Vec<usize> = (0..rank).filter(|&i| i != a.axis).collect();
    perm.push(a.axis);
    let mut back: Vec<usize> = (0..rank - 1).collect();
    back.insert(a.axis, rank - 1);
    let moved = cx.transpose(x, &perm)?;
    let mut args = vec![moved, w];
    if f.beyond != 0.0 && taps.iter().any(Option::is_none) {
        let outside: Vec<f32> = taps.iter().map(|t| if t.is_none() { f.beyond } else { 0.0 }).collect();
        args.push(cx.table("beyond", vec![a.to], &outside)?);
    }
    let resized = cx.push(Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 }, &args)?;
    cx.transpose(resized, &back)
}
