//! From a histogram to a range.
//!
//! | method | range | good for |
//! |---|---|---|
//! | [`Method::MinMax`] | all that was seen | values without outliers |
//! | [`Method::Mean`] | mean of the extremes of the samples | batches with a few strange samples |
//! | [`Method::Percentile`] | all but a share of the values on each side | 4 bits and fewer |
//! | [`Method::Entropy`] | the clipping whose distribution diverges least from the original | symmetric bells |
//! | [`Method::Mse`] | the clipping with the least expected squared error | everything; the default |

use crate::histogram::{Bucket, Histogram};
use std::{fmt, str::FromStr};

/// How a range is chosen from a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// Smallest and largest value seen.
    MinMax,
    /// Mean over the samples of their smallest and of their largest value.
    Mean,
    /// The values between two quantiles: so many parts of a million lie beyond each.
    Percentile(u32),
    /// The clipping of least Kullback-Leibler divergence (S. Migacz, 8-bit Inference with TensorRT, 2017).
    Entropy,
    /// The clipping that minimises the squared error over the histogram.
    #[default]
    Mse,
}

/// Parts of a million beyond each end of `percentile` without a number: 99.99 % of the values remain.
const PARTS: u32 = 100;

impl FromStr for Method {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not a calibrator: minmax, mean, percentile, percentile=99.9, entropy, mse");
        Ok(match s {
            "minmax" => Self::MinMax,
            "mean" => Self::Mean,
            "percentile" => Self::Percentile(PARTS),
            "entropy" => Self::Entropy,
            "mse" => Self::Mse,
            _ => {
                let percent: f64 = s.strip_prefix("percentile=").and_then(|p| p.parse().ok()).ok_or_else(bad)?;
                if !(percent > 50.0 && percent <= 100.0) {
                    return Err(format!("percentile={percent}: more than 50, and at most 100"));
                }
                Self::Percentile(((100.0 - percent) * 1e4).round() as u32)
            }
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("minmax"),
            Self::Mean => f.write_str("mean"),
            Self::Percentile(parts) => write!(f, "percentile={}", 100.0 - f64::from(*parts) / 1e4),
            Self::Entropy => f.write_str("entropy"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

/// A method, and whether zero lies in the middle of the range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Calibrator {
    /// How the ends are chosen.
    pub method: Method,
    /// Both ends are equally far from zero, also of values of one sign.
    pub symmetric: bool,
}

impl From<Method> for Calibrator {
    fn from(method: Method) -> Self {
        Self { method, symmetric: false }
    }
}

/// What is known of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Counts of its values.
    pub histogram: &'a Histogram,
    /// Smallest and largest value, widened to hold 0.
    pub extremes: (f64, f64),
    /// Means over the samples of both, widened to hold 0.
    pub means: (f64, f64),
}

impl Calibrator {
    /// The interval, which holds 0, for codes from `levels.0` to `levels.1`.
    pub fn range(self, seen: Seen<'_>, levels: (i32, i32)) -> (f64, f64) {
        let (min, max) = seen.extremes;
        let buckets = || seen.histogram.buckets();
        let (lo, hi) = match self.method {
            Method::MinMax => (min, max),
            Method::Mean => seen.means,
            Method::Percentile(parts) => percentile(&buckets(), f64::from(parts) * 1e-6, (min, max)),
            Method::Entropy => entropy(&buckets(), (min, max), levels, self.symmetric),
            Method::Mse => return least_squares(&buckets(), (min, max), levels, self.symmetric),
        };
        if self.symmetric { symmetric(hi.max(-lo), levels) } else { (lo.clamp(min, 0.0), hi.clamp(0.0, max)) }
    }
}

/// The interval that reaches `reach` on both sides of a zero in the middle of the codes.
fn symmetric(reach: f64, (least, most): (i32, i32)) -> (f64, f64) {
    // With one code more on the negative side, the positive one sets the step.
    let positive = f64::from((most - least) / 2);
    (-reach * f64::from(most - least - (most - least) / 2) / positive, reach)
}

/// Scale and zero point of the interval, which holds 0.
pub fn affine(lo: f64, hi: f64, (least, most): (i32, i32)) -> (f32, i32) {
    let steps = f64::from(most - least);
    let scale = ((hi - lo) / steps) as f32;
    // A tensor that is always zero, or nearly, has no range of its own; any scale represents it.
    if !(scale.is_normal() && scale > 1e-30) {
        return (1.0, if lo < 0.0 { most } else { least });
    }
    let zero = f64::from(least) - lo / f64::from(scale);
    (scale, (zero.round_ties_even() as i32).clamp(least, most))
}

/// The values beyond which `share` of all lie, on each side. Within a bucket values are spread evenly.
fn percentile(buckets: &[Bucket], share: f64, (min, max): (f64, f64)) -> (f64, f64) {
    let mut sorted = buckets.to_vec();
    sorted.sort_by(|a, b| a.center.total_cmp(&b.center));
    let total: f64 = sorted.iter().map(|b| b.count).sum();
    let end = |buckets: &mut dyn Iterator<Item = &Bucket>, sign: f64| -> Option<f64> {
        let mut rest = share * total;
        for b in buckets {
            if rest <= b.count {
                return Some(b.center - sign * b.width * (0.5 - rest / b.count));
            }
            rest -= b.count;
        }
        None
    };
    let lo = end(&mut sorted.iter(), 1.0).unwrap_or(min);
    let hi = end(&mut sorted.iter().rev(), -1.0).unwrap_or(max);
    (lo.clamp(min, 0.0), hi.clamp(0.0, max))
}

/// Bins of the histogram of magnitudes that `entropy` looks at, and the thresholds it tries.
const BINS: usize = 2048;
const THRESHOLDS: usize = 64;

/// The interval within `+-t` that, quantized, keeps most of the distribution of magnitudes.
fn entropy(buckets: &[Bucket], (min, max): (f64, f64), levels: (i32, i32), symmetric: bool) -> (f64, f64) {
    let reach = max.max(-min);
    if reach <= 0.0 {
        return (min, max);
    }
    let bins = magnitudes(buckets, reach);
    let codes = (levels.1 - levels.0 + 1) as usize;
    // Both signs share the codes, unless one of them is absent and zero sits at the end.
    let codes = if symmetric || min < 0.0 && max > 0.0 { codes.div_ceil(2) } else { codes }.clamp(2, BINS / 2);
    let mut best = (f64::INFINITY, BINS);
    for i in 0..THRESHOLDS {
        let kept = BINS - (BINS - codes) * i / THRESHOLDS;
        let divergence = divergence(&bins, kept, codes);
        if divergence < best.0 {
            best = (divergence, kept);
        }
    }
    let t = reach * best.1 as f64 / BINS as f64;
    (min.max(-t), max.min(t))
}

/// The logarithmic buckets on an even grid of magnitudes.
fn magnitudes(buckets: &[Bucket], reach: f64) -> Vec<f64> {
    let mut bins = vec![0f64; BINS];
    let per = BINS as f64 / reach;
    for b in buckets {
        let middle = b.center.abs();
        let (from, to) = ((middle - b.width / 2.0).max(0.0) * per, (middle + b.width / 2.0) * per);
        let (first, last) = ((from as usize).min(BINS - 1), (to as usize).min(BINS - 1));
        if first == last {
            bins[first] += b.count;
            continue;
        }
        for (i, bin) in bins.iter_mut().enumerate().take(last + 1).skip(first) {
            let end = if i == last { to } else { (i + 1) as f64 };
            *bin += b.count * ((end - from.max(i as f64)) / (to - from)).max(0.0);
        }
    }
    bins
}

/// Divergence of the quantized distribution of the first `kept` bins from the clipped one.
fn divergence(bins: &[f64], kept: usize, codes: usize) -> f64 {
    let beyond: f64 = bins[kept..].iter().sum();
    let total: f64 = bins.iter().sum();
    let inside: f64 = total - beyond;
    if inside <= 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for code in 0..codes {
        let part = code * kept / codes..(code + 1) * kept / codes;
        let filled = bins[part.clone()].iter().filter(|b| **b > 0.0).count();
        if filled == 0 {
            continue;
        }
        let mean = bins[part.clone()].iter().sum::<f64>() / filled as f64;
        for i in part {
            // What is clipped lands in the last bin of the reference.
            let p = (bins[i] + if i + 1 == kept { beyond } else { 0.0 }) / total;
            if p > 0.0 {
                let q = if bins[i] > 0.0 { mean / inside } else { 1e-9 };
                sum += p * libm::log(p / q);
            }
        }
    }
    sum
}

/// The interval within the extremes whose quantization has the least expected squared error.
fn least_squares(buckets: &[Bucket], (min, max): (f64, f64), levels: (i32, i32), balanced: bool) -> (f64, f64) {
    /// Candidates per side.
    const STEPS: u32 = 48;
    let fractions =
        |x: f64| -> Vec<f64> { if x == 0.0 { vec![0.0] } else { (1..=STEPS).map(|i| x * f64::from(i) / f64::from(STEPS)).collect() } };
    let error = |lo: f64, hi: f64| squared_error(buckets, affine(lo, hi, levels), levels);
    if balanced {
        let candidates = fractions(max.max(-min)).into_iter().map(|t| symmetric(t, levels));
        let scored = candidates.map(|(lo, hi)| (error(lo, hi), (lo, hi)));
        return scored.fold((f64::INFINITY, (min, max)), |best, c| if c.0 <= best.0 { c } else { best }).1;
    }
    let mut best = (f64::INFINITY, (min, max));
    let (lows, highs) = (fractions(min), fractions(max));
    // Both sides shrink together first; then each moves alone around the best.
    for i in 0..lows.len().max(highs.len()) {
        let (lo, hi) = (lows[i.min(lows.len() - 1)], highs[i.min(highs.len() - 1)]);
        let e = error(lo, hi);
        if e <= best.0 {
            best = (e, (lo, hi));
        }
    }
    if lows.len() > 1 && highs.len() > 1 {
        for _ in 0..2 {
            for &lo in &lows {
                let e = error(lo, best.1.1);
                if e < best.0 {
                    best = (e, (lo, best.1.1));
                }
            }
            for &hi in &highs {
                let e = error(best.1.0, hi);
                if e < best.0 {
                    best = (e, (best.1.0, hi));
                }
            }
        }
    }
    best.1
}

/// Expected squared error of all values under a scale and zero point.
fn squared_error(buckets: &[Bucket], (scale, zero): (f32, i32), levels: (i32, i32)) -> f64 {
    let s = f64::from(scale);
    let (low, high) = (s * f64::from(levels.0 - zero), s * f64::from(levels.1 - zero));
    let one = |b: &Bucket| {
        let x = b.center;
        let e = if x < low {
            (x - low) * (x - low) + b.width * b.width / 12.0
        } else if x > high {
            (x - high) * (x - high) + b.width * b.width / 12.0
        } else if b.width > s / 2.0 {
            // The values of the bucket fall anywhere between two levels.
            s * s / 12.0
        } else {
            let e = x - s * (x / s).round_ties_even();
            e * e
        };
        e * b.count
    };
    buckets.iter().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTE: (i32, i32) = (0, 255);
    const NIBBLE: (i32, i32) = (0, 15);

    fn uniform(n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| (i as f64 + 0.5) / n as f64)
    }

    /// Quantiles of the logistic distribution: a bell.
    fn bell(n: usize) -> Vec<f32> {
        uniform(n).map(|u| (u / (1.0 - u)).ln() as f32).collect()
    }

    fn range(values: &[f32], calibrator: Calibrator, levels: (i32, i32)) -> (f64, f64) {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        let fold = |f: fn(f32, f32) -> f32| f64::from(values.iter().copied().fold(0.0, f));
        let extremes = (fold(f32::min), fold(f32::max));
        calibrator.range(Seen { histogram: &histogram, extremes, means: (extremes.0 / 2.0, extremes.1 / 2.0) }, levels)
    }

    /// Signal to noise in dB of values under the range a calibrator chose.
    fn sqnr(values: &[f32], calibrator: Calibrator, levels: (i32, i32)) -> f64 {
        let (lo, hi) = range(values, calibrator, levels);
        let (scale, zero) = affine(lo, hi, levels);
        let (mut signal, mut noise) = (0.0, 0.0);
        for &x in values {
            let q = quernel_ir::exact::quantize(x, scale, zero, levels.0, levels.1);
            let d = f64::from(x) - f64::from(quernel_ir::exact::dequantize(q, scale, zero));
            signal += f64::from(x) * f64::from(x);
            noise += d * d;
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn names_round_trip() {
        for m in [Method::MinMax, Method::Mean, Method::Percentile(1000), Method::Entropy, Method::Mse] {
            assert_eq!(m.to_string().parse(), Ok(m));
        }
        assert_eq!("percentile".parse(), Ok(Method::Percentile(100)));
        for bad in ["cubic", "percentile=40", "percentile=101", "percentile="] {
            assert!(bad.parse::<Method>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentiles_cut_what_they_say() {
        let flat: Vec<f32> = uniform(100_000).map(|u| (2.0 * u - 1.0) as f32).collect();
        let (lo, hi) = range(&flat, Method::Percentile(10_000).into(), BYTE);
        assert!((lo + 0.98).abs() < 2e-3 && (hi - 0.98).abs() < 2e-3, "{lo} {hi}");
        assert_eq!(range(&flat, Method::Percentile(0).into(), BYTE), range(&flat, Method::MinMax.into(), BYTE));
        // Zero stays representable where all values lie beyond it.
        assert_eq!(range(&[5.0, 6.0, 7.0], Method::Percentile(10_000).into(), BYTE).0, 0.0);
    }

    #[test]
    fn symmetric_ranges_put_zero_in_the_middle() {
        let positive: Vec<f32> = bell(4096).into_iter().map(|x| x.max(0.0)).collect();
        for method in [Method::MinMax, Method::Mean, Method::Percentile(100), Method::Entropy, Method::Mse] {
            for values in [&positive, &bell(4096)] {
                let (lo, hi) = range(values, Calibrator { method, symmetric: true }, BYTE);
                assert_eq!(affine(lo, hi, BYTE).1, 128, "{method}");
            }
            assert_eq!(affine_zero(&positive, method), 0, "{method}");
        }
    }

    fn affine_zero(values: &[f32], method: Method) -> i32 {
        let (lo, hi) = range(values, method.into(), BYTE);
        affine(lo, hi, BYTE).1
    }

    /// Orders that measurements on held-out data show as well (docs/quantization.md).
    #[test]
    fn the_squared_error_is_least_under_its_own_calibrator() {
        let mut outliers = bell(50_000);
        for (i, x) in outliers.iter_mut().enumerate() {
            if i % 1000 == 7 {
                *x *= 20.0;
            }
        }
        let skewed: Vec<f32> = bell(50_000).into_iter().map(f32::exp).map(|x| x.min(1e3)).collect();
        for (name, values) in [("bell", &bell(50_000)), ("outliers", &outliers), ("skewed", &skewed)] {
            for levels in [BYTE, NIBBLE] {
                let mse = sqnr(values, Method::Mse.into(), levels);
                for method in [Method::MinMax, Method::Percentile(1000), Method::Percentile(100), Method::Entropy] {
                    let other = sqnr(values, method.into(), levels);
                    assert!(mse > other - 0.3, "{name} {levels:?}: mse {mse:.2}, {method} {other:.2}");
                }
            }
        }
    }

    #[test]
    fn entropy_clips_outliers() {
        let mut values = bell(20_000);
        values.push(500.0);
        let (_, hi) = range(&values, Method::Entropy.into(), BYTE);
        assert!(hi < 100.0 && hi > 3.0, "{hi}");
    }

    #[test]
    fn nothing_but_zeros_has_a_range() {
        for method in [Method::MinMax, Method::Mean, Method::Percentile(100), Method::Entropy, Method::Mse] {
            assert_eq!(range(&[0.0, 0.0], method.into(), BYTE), (0.0, 0.0), "{method}");
        }
    }
}
