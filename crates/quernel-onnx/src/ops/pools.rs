//! Pooling over windows and over whole images.

use super::{convs::window, unpool, volumes};
use crate::{
    compose::Made,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Op, PoolKind, ReduceKind, Unary, Value, Window};

/// The window, and how many cells past the declared padding its last position reaches per axis (`ceil_mode`).
fn pool_window(cx: &NodeCx<'_>) -> Result<(Window, Vec<usize>), Diagnostic> {
    cx.arity(1, 1)?;
    let dims = cx.dims(cx.arg(0)?);
    let kernel = cx.ints("kernel_shape")?.ok_or_else(|| cx.bad_attribute("attribute `kernel_shape` is missing"))?;
    if dims.len() != kernel.len() + 2 {
        return Err(cx.err(Code::ShapeMismatch, format!("a window of {} axes over a tensor of rank {}", kernel.len(), dims.len())));
    }
    volumes::at_most_three(cx, "a pool", kernel.len())?;
    let kernel: Option<Vec<usize>> = kernel.iter().map(|k| usize::try_from(*k).ok().filter(|k| (1..=1 << 24).contains(k))).collect();
    let kernel = kernel.ok_or_else(|| cx.bad_attribute("attribute `kernel_shape` has an extent outside 1..2^24"))?;
    let mut window = window(cx, &kernel, &dims[2..])?;
    let ceil = cx.flag("ceil_mode", false)? && matches!(cx.text("auto_pad")?.as_deref(), None | Some("" | "NOTSET"));
    let mut overhang = vec![0; kernel.len()];
    if ceil {
        for ((d, extent), over) in window.dims.iter_mut().zip(&dims[2..]).zip(&mut overhang) {
            let padded = extent + d.before + d.after;
            let Some(room) = padded.checked_sub(d.span()) else { continue };
            let mut outputs = room.div_ceil(d.stride) + 1;
            // A window that starts in the padding at the end is left out.
            if (outputs - 1) * d.stride >= extent + d.before {
                outputs -= 1;
            }
            *over = ((outputs - 1) * d.stride + d.span()).saturating_sub(padded);
            d.after += *over;
        }
    }
    Ok((window, overhang))
}

pub fn max(cx: &mut NodeCx<'_>) -> Built {
    let (window, _) = pool_window(cx)?;
    let x = cx.arg(0)?;
    let columns_first = cx.flag("storage_order", false)?;
    let places = if cx.wants(1) { Some(unpool::places(cx, x, &window, columns_first)?) } else { None };
    let y = volumes::pool(cx, x, PoolKind::Max, window)?;
    Ok([Some(y), places].into_iter().flatten().collect())
}

pub fn average(cx: &mut NodeCx<'_>) -> Built {
    let (mut window, overhang) = pool_window(cx)?;
    let include_pad = cx.flag("count_include_pad", false)?;
    let mut x = cx.arg(0)?;
    if include_pad && overhang.iter().any(|o| *o > 0) {
        // Declared padding counts, the reach of `ceil_mode` past it does not: make the padding real.
        let (mut before, mut after) = (vec![0, 0], vec![0, 0]);
        for (d, over) in window.dims.iter_mut().zip(&overhang) {
            before.push(d.before);
            after.push(d.after - over);
            (d.before, d.after) = (0, *over);
        }
        x = cx.push(Op::Pad { before, after, value: 0.0 }, &[x])?;
        return Ok(vec![volumes::pool(cx, x, PoolKind::Average { include_pad: false }, window)?]);
    }
    Ok(vec![volumes::pool(cx, x, PoolKind::Average { include_pad }, window)?])
}

fn spatial_axes(cx: &NodeCx<'_>) -> Result<Vec<usize>, Diagnostic> {
    cx.arity(1, 1)?;
    let rank = cx.g.ty(cx.arg(0)?).rank();
    if rank < 3 {
        return Err(cx.err(Code::ShapeMismatch, format!("operand of rank {rank} has no spatial axes")));
    }
    Ok((2..rank).collect())
}

fn global(cx: &mut NodeCx<'_>, kind: ReduceKind) -> Built {
    let axes = spatial_axes(cx)?;
    let x = cx.arg(0)?;
    Ok(vec![cx.reduced(kind, x, &axes)?])
}

pub fn global_average(cx: &mut NodeCx<'_>) -> Built {
    global(cx, ReduceKind::Mean)
}
pub fn global_max(cx: &mut NodeCx<'_>) -> Built {
    global(cx, ReduceKind::Max)
}

/// The norm of a window, `(sum |x|^p)^(1 / p)`: the mean with its padding, times the number of taps.
pub fn lp(cx: &mut NodeCx<'_>) -> Built {
    let (window, _) = pool_window(cx)?;
    let x = cx.arg(0)?;
    norm(cx, x, |cx, powers| {
        let taps: f64 = window.dims.iter().map(|d| d.kernel as f64).product();
        let mean = volumes::pool(cx, powers, PoolKind::Average { include_pad: true }, window)?;
        cx.times(mean, taps as f32)
    })
}
pub fn global_lp(cx: &mut NodeCx<'_>) -> Built {
    let axes = spatial_axes(cx)?;
    let x = cx.arg(0)?;
    norm(cx, x, |cx, powers| cx.reduced(ReduceKind::Sum, powers, &axes))
}

fn norm(cx: &mut NodeCx<'_>, x: Value, sum: impl FnOnce(&mut NodeCx<'_>, Value) -> Made) -> Built {
    let p = cx.int("p")?.unwrap_or(2);
    let magnitude = cx.unary(Unary::Abs, x)?;
    Ok(vec![match p {
        1 => sum(cx, magnitude)?,
        2 => {
            let squares = cx.square(magnitude)?;
            let sum = sum(cx, squares)?;
            cx.unary(Unary::Sqrt, sum)?
        }
        3..=1024 => {
            let powers = cx.power(magnitude, p as f32)?;
            let sum = sum(cx, powers)?;
            cx.power(sum, 1.0 / p as f32)?
        }
        _ => return Err(cx.bad_attribute(format!("attribute `p` is {p}"))),
    }])
}
