//! Spectra as products with constant matrices, and the windows and filter banks that go with them.

use crate::{
    compose::Made,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Act, Code, Diagnostic, Multiplier, Op, Unary, Value, Window, WindowDim, exact};

/// Largest number of elements of a matrix that stands for a transform.
const MATRIX: usize = 1 << 26;

/// `(cos, sin)` of `2 pi k / n`, the same on every host: the angle is brought into an eighth of the circle in integers, and
/// the series end below 2^-60.
fn circle(k: usize, n: usize) -> (f64, f64) {
    let eighths = (k % n) as u128 * 8;
    let (octant, rest) = ((eighths / n as u128) as usize, eighths % n as u128);
    // Odd octants run backwards from the next multiple of a quarter.
    let part = if octant % 2 == 0 { rest } else { n as u128 - rest };
    let x = part as f64 / n as f64 * std::f64::consts::FRAC_PI_4;
    let series = |first: f64, from: i32| {
        let (mut term, mut sum) = (first, first);
        for i in 0..12 {
            let at = f64::from(2 * i + from);
            term *= -x * x / (at * (at + 1.0));
            sum += term;
        }
        sum
    };
    let (c, s) = (series(1.0, 1), series(x, 2));
    match octant {
        0 => (c, s),
        1 => (s, c),
        2 => (-s, c),
        3 => (-c, s),
        4 => (-c, -s),
        5 => (-s, -c),
        6 => (s, -c),
        _ => (c, -s),
    }
}

/// A transform between `from` and `to` elements, the result first.
struct Dft {
    length: usize,
    inverse: bool,
}

impl Dft {
    /// Real and imaginary part of the factor of element `n` in result `k`.
    fn factor(&self, k: usize, n: usize) -> (f64, f64) {
        let at = (k as u128 * n as u128 % self.length as u128) as usize;
        let (c, s) = circle(at, self.length);
        if self.inverse { (c / self.length as f64, s / self.length as f64) } else { (c, -s) }
    }
}

/// The integer of operand `i`.
fn integer(cx: &NodeCx<'_>, i: usize) -> Result<Option<i64>, Diagnostic> {
    match cx.const_ints(i)?.as_deref() {
        None => Ok(None),
        Some(&[x]) => Ok(Some(x)),
        Some(x) => Err(cx.misfit(format!("operand {i} has {} elements instead of 1", x.len()))),
    }
}

fn length(cx: &NodeCx<'_>, x: i64) -> Result<usize, Diagnostic> {
    usize::try_from(x).ok().filter(|n| (1..=1 << 24).contains(n)).ok_or_else(|| cx.bad_attribute(format!("a length of {x} elements")))
}

/// `[.., n, .., 1 or 2] -> [.., k, .., 2]`: real and imaginary parts lie on the last axis.
pub fn dft(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 3)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let rank = dims.len();
    if rank < 2 || !(1..=2).contains(&dims[rank - 1]) {
        return Err(cx.misfit(format!("an operand of dimensions {dims:?} has no real and imaginary parts")));
    }
    let axis = match cx.opset {
        ..20 => cx.int("axis")?.unwrap_or(1),
        _ => integer(cx, 2)?.unwrap_or(-2),
    };
    let axis = cx.axis(axis, rank)?;
    if axis + 1 == rank {
        return Err(cx.bad_attribute("transforms the axis of real and imaginary parts"));
    }
    let (inverse, one_sided) = (cx.flag("inverse", false)?, cx.flag("onesided", false)?);
    let to_real = inverse && one_sided;
    let whole = match integer(cx, 1)? {
        Some(n) => length(cx, n)?,
        None if to_real => 2 * (dims[axis] - 1).max(1),
        None => dims[axis],
    };
    let (used, parts) = (dims[axis].min(if to_real { whole / 2 + 1 } else { whole }), dims[rank - 1]);
    let results = if one_sided && !inverse { whole / 2 + 1 } else { whole };
    let result_parts = if to_real { 1 } else { 2 };
    let cells = [used, parts, results, result_parts].iter().try_fold(1usize, |a, b| a.checked_mul(*b)).filter(|n| *n <= MATRIX);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("a transform of {whole} elements")))?;
    let dft = Dft { length: whole, inverse };
    let mut matrix = Vec::with_capacity(cells);
    for k in 0..results {
        for part in 0..result_parts {
            for n in 0..used {
                let (re, im) = dft.factor(k, n);
                // The half that is left out mirrors this one, but for its ends.
                let twice = if to_real && n > 0 && 2 * n != whole { 2.0 } else { 1.0 };
                let row = if part == 0 { [re, -im] } else { [im, re] };
                matrix.extend(row[..parts].iter().map(|f| (twice * f) as f32));
            }
        }
    }
    let matrix = cx.table("dft", vec![results * result_parts, used * parts], &matrix)?;
    let mut perm: Vec<usize> = (0..rank).filter(|a| *a != axis && *a + 1 != rank).collect();
    perm.extend([axis, rank - 1]);
    let x = cx.part(x, axis, 0, used)?;
    let rows = cx.transpose(x, &perm)?;
    let mut shape: Vec<usize> = perm[..rank - 2].iter().map(|a| dims[*a]).collect();
    let flat = [&shape[..], &[used * parts]].concat();
    let rows = cx.reshape(rows, flat)?;
    let y = cx.dense(rows, matrix)?;
    shape.extend([results, result_parts]);
    let y = cx.reshape(y, shape)?;
    let mut back = vec![0; rank];
    for (i, p) in perm.iter().enumerate() {
        back[*p] = i;
    }
    Ok(vec![cx.transpose(y, &back)?])
}

/// Windowed transforms of frames: a convolution over the signal whose channels are the results.
pub fn stft(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 4)?;
    let x = cx.arg(0)?;
    let mut dims = cx.dims(x);
    if dims.len() == 2 {
        dims.push(1);
    }
    if dims.len() != 3 || !(1..=2).contains(&dims[2]) {
        return Err(cx.misfit(format!("a signal of dimensions {dims:?}")));
    }
    let step = length(cx, integer(cx, 1)?.unwrap_or(0))?;
    let window = match cx.optional(2) {
        Some(w) => Some(cx.constant_f32(2, w)?),
        None => None,
    };
    let frame = match (integer(cx, 3)?, &window) {
        (Some(n), _) => length(cx, n)?,
        (None, Some(w)) => length(cx, w.len() as i64)?,
        (None, None) => dims[1],
    };
    if window.as_ref().is_some_and(|w| w.len() != frame) || frame > dims[1] {
        return Err(cx.misfit(format!("frames of {frame} elements fit neither window nor signal")));
    }
    let parts = dims[2];
    // A complex signal has both halves.
    let results = if cx.flag("onesided", true)? && parts == 1 { frame / 2 + 1 } else { frame };
    let cells = frame.checked_mul(2 * results * parts).filter(|n| *n <= MATRIX);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("transforms of {frame} elements")))?;
    let dft = Dft { length: frame, inverse: false };
    let mut weights = Vec::with_capacity(cells);
    for k in 0..results {
        for part in 0..2 {
            for input in 0..parts {
                for n in 0..frame {
                    let (re, im) = dft.factor(k, n);
                    let f = [[re, -im], [im, re]][part][input];
                    weights.push((f * window.as_ref().map_or(1.0, |w| f64::from(w[n]))) as f32);
                }
            }
        }
    }
    let weights = cx.table("stft", vec![2 * results, parts, frame], &weights)?;
    let signal = cx.reshape(x, dims.clone())?;
    let signal = cx.transpose(signal, &[0, 2, 1])?;
    let window = Window { dims: vec![WindowDim { stride: step, ..WindowDim::new(frame) }] };
    let layer = Op::Conv { window, groups: 1, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let y = cx.push(layer, &[signal, weights])?;
    let frames = cx.dims(y)[2];
    let y = cx.transpose(y, &[0, 2, 1])?;
    Ok(vec![cx.reshape(y, vec![dims[0], frames, results, 2])?])
}

/// `sum(a[i] cos(2 pi i n / N))` for the elements `n` of a window.
fn cosines(cx: &mut NodeCx<'_>, a: &[f64]) -> Built {
    cx.arity(1, 1)?;
    let n = length(cx, integer(cx, 0)?.unwrap_or(0))?;
    let period = if cx.flag("periodic", true)? { n } else { (n - 1).max(1) };
    let at = |i: usize| a.iter().enumerate().map(|(h, a)| a * circle(h * i, period).0).sum::<f64>();
    let values: Vec<f32> = (0..n).map(|i| at(i) as f32).collect();
    let table = cx.table("window", vec![n], &values)?;
    Ok(vec![as_asked(cx, table)?])
}

pub fn hann(cx: &mut NodeCx<'_>) -> Built {
    cosines(cx, &[0.5, -0.5])
}
pub fn hamming(cx: &mut NodeCx<'_>) -> Built {
    cosines(cx, &[25.0 / 46.0, -21.0 / 46.0])
}
pub fn blackman(cx: &mut NodeCx<'_>) -> Built {
    cosines(cx, &[0.42, -0.5, 0.08])
}

/// A float constant in the element type of attribute `output_datatype`.
fn as_asked(cx: &mut NodeCx<'_>, v: Value) -> Made {
    let to = i32::try_from(cx.int("output_datatype")?.unwrap_or(1)).unwrap_or(0);
    match tensor::scalar(to) {
        Some(scalar) => cx.cast(v, scalar),
        None => Err(cx.err(Code::UnsupportedType, format!("makes elements of type {}", tensor::type_name(to)))),
    }
}

/// Triangular filters, evenly spaced on the mel scale, over the bins of a spectrum.
pub fn mel_weights(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(5, 5)?;
    let whole = |i: usize| length(cx, integer(cx, i)?.unwrap_or(0));
    let (bins, size, rate) = (whole(0)?, whole(1)?, whole(2)?);
    let edge = |i: usize| Ok::<f64, Diagnostic>(cx.const_f32(i)?.unwrap_or(0.0).into());
    let edges = [edge(3)?, edge(4)?];
    let spectrum = size / 2 + 1;
    let cells = spectrum.checked_mul(bins).filter(|n| *n <= MATRIX);
    let cells = cells.ok_or_else(|| cx.err(Code::LimitExceeded, format!("{bins} filters over {spectrum} bins")))?;
    if edges.iter().any(|e| !(0.0..=1e9).contains(e)) || edges[0] > edges[1] {
        return Err(cx.bad_attribute(format!("filters from {} to {} Hz", edges[0], edges[1])));
    }
    let ln = |x: f64| exact::unary_f64(Unary::Log, x);
    let mel = |hertz: f64| 2595.0 * ln(1.0 + hertz / 700.0) / std::f64::consts::LN_10;
    let hertz = |mel: f64| 700.0 * (exact::unary_f64(Unary::Exp, mel / 2595.0 * std::f64::consts::LN_10) - 1.0);
    let step = (mel(edges[1]) - mel(edges[0])) / (bins + 2) as f64;
    let corner = |i: usize| ((size + 1) as f64 * hertz(i as f64 * step + mel(edges[0])) / rate as f64).floor() as usize;
    let corners: Vec<usize> = (0..bins + 2).map(corner).collect();
    if corners.iter().any(|c| *c > spectrum) || corners[bins] >= spectrum {
        return Err(cx.bad_attribute(format!("filters reach beyond the {spectrum} bins of the spectrum")));
    }
    let mut table = vec![0f32; cells];
    for i in 0..bins {
        let (low, center, high) = (corners[i], corners[i + 1], corners[i + 2]);
        let mut set = |bin: usize, x: f64| table[bin * bins + i] = x as f32;
        if low == center {
            set(center, 1.0);
        }
        for bin in low..=center {
            if center > low {
                set(bin, (bin - low) as f64 / (center - low) as f64);
            }
        }
        for bin in center..high {
            set(bin, (high - bin) as f64 / (high - center) as f64);
        }
    }
    let table = cx.table("mel", vec![spectrum, bins], &table)?;
    Ok(vec![as_asked(cx, table)?])
}

impl NodeCx<'_> {
    /// The floats of operand `i`, which has to be a constant.
    pub fn constant_f32(&self, i: usize, v: Value) -> Result<Vec<f32>, Diagnostic> {
        let t =
            self.g.tensor(v).ok_or_else(|| self.unsupported(format!("operand {i} ({:?}) has to be a constant", self.g.values[v].name)))?;
        t.to_f32().ok_or_else(|| self.err(Code::UnsupportedType, format!("operand {i} has to be float")))
    }
}

#[cfg(test)]
mod tests {
    use super::circle;

    #[test]
    fn the_circle_is_round() {
        for n in [1usize, 2, 3, 7, 8, 12, 400, 1023] {
            for k in 0..2 * n {
                let (c, s) = circle(k, n);
                let angle = 2.0 * std::f64::consts::PI * k as f64 / n as f64;
                assert!((c - angle.cos()).abs() < 1e-13 && (s - angle.sin()).abs() < 1e-13, "{k} of {n}");
            }
        }
        assert_eq!((circle(0, 5), circle(1, 4), circle(1, 2)), ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)));
    }
}
