//! Sliding window pooling.

use crate::{conv::three, data};
use quernel_ir::{Diagnostic, Elem, PoolKind, Tensor, TensorTy, Window, WindowDim, exact};

/// Where elements `(n, c, z, y, x)` lie.
pub(crate) struct Layout {
    pub(crate) start: usize,
    pub(crate) batch: usize,
    pub(crate) channel: usize,
    pub(crate) axes: [usize; 3],
}

/// Extents and layouts of a pooling operator.
pub(crate) struct Geometry {
    pub(crate) n: usize,
    pub(crate) c: usize,
    pub(crate) extent: [usize; 3],
    pub(crate) out: [usize; 3],
    pub(crate) window: [WindowDim; 3],
    pub(crate) from: Layout,
    pub(crate) to: Layout,
}

/// The taps of one result along one axis.
struct Taps {
    /// Position of the first valid tap.
    first: usize,
    /// Valid taps.
    valid: usize,
    /// Taps within the padded extent.
    padded: usize,
}

fn taps(d: WindowDim, extent: usize, outputs: usize) -> Vec<Taps> {
    (0..outputs)
        .map(|o| {
            // In padded coordinates; tap t is at `at + t * dilation`.
            let at = o * d.stride;
            let below = |end: usize| end.saturating_sub(at).div_ceil(d.dilation).min(d.kernel);
            let (skipped, valid) = (below(d.before), below(d.before + extent));
            let first = if skipped < valid { at + skipped * d.dilation - d.before } else { 0 };
            Taps { first, valid: valid - skipped, padded: below(d.before + extent + d.after) }
        })
        .collect()
}

/// Calls `each(position of the result, valid elements in window order, divisor)`. The divisor of an average counts
/// valid taps, or those within the padded extent; it is at least 1.
pub(crate) fn windows<T: Copy>(g: &Geometry, x: &[T], include_pad: bool, mut each: impl FnMut(usize, &[T], usize)) {
    let axes: [Vec<Taps>; 3] = std::array::from_fn(|i| taps(g.window[i], g.extent[i], g.out[i]));
    let mut values = Vec::new();
    for n in 0..g.n {
        for (z, tz) in axes[0].iter().enumerate() {
            for (y, ty) in axes[1].iter().enumerate() {
                for (x_out, tx) in axes[2].iter().enumerate() {
                    let count = |t: &Taps| if include_pad { t.padded } else { t.valid };
                    let divisor = (count(tz) * count(ty) * count(tx)).max(1);
                    let base =
                        g.from.start + n * g.from.batch + [tz, ty, tx].iter().zip(g.from.axes).map(|(t, s)| t.first * s).sum::<usize>();
                    let step: [usize; 3] = std::array::from_fn(|i| g.window[i].dilation * g.from.axes[i]);
                    let result = g.to.start + n * g.to.batch + z * g.to.axes[0] + y * g.to.axes[1] + x_out * g.to.axes[2];
                    for c in 0..g.c {
                        let base = base + c * g.from.channel;
                        values.clear();
                        for kz in 0..tz.valid {
                            for ky in 0..ty.valid {
                                let line = base + kz * step[0] + ky * step[1];
                                values.extend((0..tx.valid).map(|kx| x[line + kx * step[2]]));
                            }
                        }
                        each(result + c * g.to.channel, &values, divisor);
                    }
                }
            }
        }
    }
}

/// The result of one f32 window.
pub(crate) fn float(kind: PoolKind, values: &[f32], divisor: usize) -> f32 {
    match kind {
        PoolKind::Max => values.iter().fold(f32::NEG_INFINITY, |m, &v| exact::max_first(v, m)),
        PoolKind::Average { .. } => values.iter().fold(0.0, |s, v| s + v) / divisor as f32,
    }
}

/// The wrapping sum of centered integers, which [`exact::average`] divides.
pub(crate) fn centered_sum(values: &[i32], zero: i32) -> i32 {
    values.iter().fold(0i32, |s, v| s.wrapping_add(v - zero))
}

fn planes(dims: &[usize]) -> Layout {
    let [z, y, x] = three(&dims[2..], 1);
    Layout { start: 0, batch: dims[1] * z * y * x, channel: z * y * x, axes: [y * x, x, 1] }
}

/// Graph-level pooling, `[N, C, s..]`.
pub(crate) fn pool(kind: PoolKind, window: &Window, x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let (d, o) = (&x.ty.dims, &result.dims);
    let g = Geometry {
        n: d[0],
        c: d[1],
        extent: three(&d[2..], 1),
        out: three(&o[2..], 1),
        window: three(&window.dims, WindowDim::new(1)),
        from: planes(d),
        to: planes(o),
    };
    let include_pad = kind == PoolKind::Average { include_pad: true };
    if x.ty.elem.is_f32() {
        let mut y = vec![0f32; result.count()];
        windows(&g, &data::floats(x)?, include_pad, |at, values, divisor| y[at] = float(kind, values, divisor));
        return data::float_tensor(result, &y);
    }
    if kind == PoolKind::Max {
        let mut y = vec![0i64; result.count()];
        let least = least(&result.elem);
        windows(&g, &data::integers(x)?, false, |at, values, _| y[at] = values.iter().copied().max().unwrap_or(least));
        return data::integer_tensor(result, y);
    }
    let (qx, qy) = (data::quant(&x.ty)?, data::quant(result)?);
    let ((sx, zx), (sy, zy)) = (data::params(qx)?, data::params(qy)?);
    let mut y = vec![0i32; result.count()];
    windows(&g, &data::stored(x, qx), include_pad, |at, values, divisor| {
        y[at] = exact::average(centered_sum(values, zx), divisor, sx, sy, zy, qy.min(), qy.max());
    });
    data::stored_tensor(result, y)
}

fn least(elem: &Elem) -> i64 {
    match elem {
        Elem::Quant(q) => i64::from(q.min()),
        Elem::Scalar(s) => s.range().map_or(0, |(lo, _)| lo as i64),
    }
}
