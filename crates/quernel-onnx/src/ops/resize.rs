//! Resize and Upsample. A repetition by a whole factor is a move; every other mapping is a product with a constant matrix
//! along the axis, one axis after the other.

use crate::{
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Act, Code, Diagnostic, Multiplier, Op, Tensor, Value};

/// Which operand coordinate a result coordinate stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    HalfPixelForNearest,
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
    Cubic { a: f64, exclude_outside: bool },
}

/// One axis that changes.
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
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
        Some("cubic") => Mode::Cubic { a: cx.float("cubic_coeff_a", -0.75)?.into(), exclude_outside: cx.flag("exclude_outside", false)? },
        Some(other) => return Err(cx.bad_attribute(format!("attribute `mode` is {other:?}"))),
    };
    if cx.flag("antialias", false)? {
        return Err(cx.unsupported("filters against aliasing"));
    }
    if !matches!(cx.text("keep_aspect_ratio_policy")?.as_deref(), None | Some("stretch")) {
        return Err(cx.unsupported("keeps the aspect ratio"));
    }
    let axes = match cx.ints("axes")? {
        Some(axes) => {
            cx.axes(&axes, dims.len())?;
            axes.iter().map(|&a| cx.axis(a, dims.len())).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..dims.len()).collect(),
    };
    let scales = floats(cx, if old { 1 } else { 2 })?.filter(|s| !s.is_empty());
    let sizes = if old { None } else { cx.const_ints(3)?.filter(|s| !s.is_empty()) };
    let changed = match (scales, sizes) {
        (Some(scales), None) => by_scales(cx, &dims, &axes, &scales)?,
        (None, Some(sizes)) => by_sizes(cx, &dims, &axes, &sizes)?,
        _ => return Err(cx.err(Code::BadGraph, "needs either scales or sizes")),
    };
    apply(cx, x, &changed, mode, coordinates)
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
    apply(cx, x, &changed, mode, Coordinates::Asymmetric)
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
        changed.push(Axis { axis, from: dims[axis], to: to as usize, scale: scale.into() });
    }
    Ok(changed)
}

fn by_sizes(cx: &NodeCx<'_>, dims: &[usize], axes: &[usize], sizes: &[i64]) -> Result<Vec<Axis>, Diagnostic> {
    if sizes.len() != axes.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("{} sizes for {} axes", sizes.len(), axes.len())));
    }
    let mut changed = Vec::new();
    for (&axis, &size) in axes.iter().zip(sizes) {
        let to = usize::try_from(size).ok().filter(|n| (1..=limits::ELEMENTS).contains(n));
        let to = to.ok_or_else(|| cx.bad_attribute(format!("sizes are {sizes:?}")))?;
        changed.push(Axis { axis, from: dims[axis], to, scale: to as f64 / dims[axis] as f64 });
    }
    Ok(changed)
}

fn apply(cx: &mut NodeCx<'_>, x: Value, changed: &[Axis], mode: Mode, coordinates: Coordinates) -> Built {
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, "the operand has to be float"));
    }
    let mut y = x;
    for a in changed {
        if a.from == a.to && a.scale == 1.0 {
            continue;
        }
        let taps: Vec<Vec<(usize, f64)>> = (0..a.to).map(|i| row(a, i, mode, coordinates)).collect();
        y = match repetition(&taps, a) {
            Some(factor) => repeat(cx, y, a.axis, factor)?,
            None => product(cx, y, a, &taps)?,
        };
    }
    Ok(vec![y])
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
        Coordinates::AlignCorners => {
            if a.to > 1 {
                i * (from - 1.0) / (to - 1.0)
            } else {
                0.0
            }
        }
        Coordinates::Asymmetric => i / s,
        Coordinates::HalfPixelForNearest => (i + 0.5) / s,
    })
}

/// Operand elements and weights of result element `i`.
fn row(a: &Axis, i: usize, mode: Mode, c: Coordinates) -> Vec<(usize, f64)> {
    let x = coordinate(a, i, c);
    let clamp = |i: f64| i.clamp(0.0, (a.from - 1) as f64) as usize;
    match mode {
        Mode::Nearest(n) => {
            let at = match n {
                Nearest::PreferFloor => (x - 0.5).ceil(),
                Nearest::PreferCeil => (x + 0.5).floor(),
                Nearest::Floor => x.floor(),
                Nearest::Ceil => x.ceil(),
            };
            vec![(clamp(at), 1.0)]
        }
        Mode::Linear => {
            let (base, fraction) = (x.floor(), x - x.floor());
            vec![(clamp(base), 1.0 - fraction), (clamp(base + 1.0), fraction)]
        }
        Mode::Cubic { a: k, exclude_outside } => {
            let (base, t) = (x.floor(), x - x.floor());
            let near = |d: f64| ((k + 2.0) * d - (k + 3.0)) * d * d + 1.0;
            let far = |d: f64| ((k * d - 5.0 * k) * d + 8.0 * k) * d - 4.0 * k;
            let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
            let mut taps: Vec<(f64, f64)> = weights.iter().enumerate().map(|(j, w)| (base + j as f64 - 1.0, *w)).collect();
            if exclude_outside {
                taps.retain(|(at, _)| (0.0..a.from as f64).contains(at));
                let sum: f64 = taps.iter().map(|t| t.1).sum();
                taps.iter_mut().for_each(|t| t.1 /= sum);
            }
            taps.into_iter().map(|(at, w)| (clamp(at), w)).collect()
        }
    }
}

/// The factor, when every element is repeated that often.
fn repetition(taps: &[Vec<(usize, f64)>], a: &Axis) -> Option<usize> {
    let factor = a.to / a.from;
    let whole = a.to == a.from * factor && factor > 0;
    let plain = taps.iter().enumerate().all(|(i, t)| matches!(t[..], [(at, 1.0)] if at == i / factor.max(1)));
    (whole && plain).then_some(factor)
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
fn product(cx: &mut NodeCx<'_>, x: Value, a: &Axis, taps: &[Vec<(usize, f64)>]) -> Result<Value, Diagnostic> {
    let cells = a.from.checked_mul(a.to).filter(|n| *n <= 1 << 24);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("resizes an axis from {} to {} elements", a.from, a.to)))?;
    let mut matrix = vec![0f64; cells];
    for (i, taps) in taps.iter().enumerate() {
        for &(at, w) in taps {
            matrix[i * a.from + at] += w;
        }
    }
    let matrix: Vec<f32> = matrix.iter().map(|w| *w as f32).collect();
    let w = cx.g.constant("resize", Tensor::f32([a.to, a.from], &matrix));
    let rank = cx.g.ty(x).rank();
    let mut perm: Vec<usize> = (0..rank).filter(|&i| i != a.axis).collect();
    perm.push(a.axis);
    let mut back: Vec<usize> = (0..rank - 1).collect();
    back.insert(a.axis, rank - 1);
    let dense = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
    if a.axis + 1 == rank {
        return cx.push(dense, &[x, w]);
    }
    let moved = cx.push(Op::Transpose { perm }, &[x])?;
    let resized = cx.push(dense, &[moved, w])?;
    cx.push(Op::Transpose { perm: back }, &[resized])
}
