//! Scales and codes of weights.

use quernel_ir::exact;

/// The integers a code can mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Levels {
    /// Every integer in the range.
    Linear {
        /// Smallest, negative.
        min: i32,
        /// Largest, positive.
        max: i32,
    },
    /// The entries of a table; codes are indices.
    Table(Vec<i8>),
}

impl Levels {
    /// Signed levels of a width: symmetric at 8 bits (so that 16-bit pair products are exact), the whole range below.
    pub fn signed(bits: u8) -> Self {
        let half = 1 << (bits - 1);
        Self::Linear { min: if bits == 8 { 1 - half } else { -half }, max: half - 1 }
    }

    fn largest(&self) -> f32 {
        match self {
            Self::Linear { min, max } => min.unsigned_abs().max(max.unsigned_abs()) as f32,
            Self::Table(t) => t.iter().map(|x| f32::from(x.unsigned_abs())).fold(1.0, f32::max),
        }
    }
}

/// Candidates of a scale, as fractions of `max|w| / max|level|`.
const FRACTIONS: u32 = 60;
const FIRST: f32 = 0.15;
const LAST: f32 = 1.1;

/// Adding and subtracting it rounds to the nearest even integer, in a form that vectorizes.
const ROUND: f32 = quernel_ir::float::ROUND_MAGIC;

/// The scale of every row of `w` (`rows` rows of equal length) that minimises the squared error over a grid. A row of
/// zeros gets 1.
pub fn mse_scales(w: &[f32], rows: usize, levels: &Levels) -> Vec<f32> {
    let len = w.len() / rows.max(1);
    (0..rows).map(|r| row_scale(&w[r * len..(r + 1) * len], levels)).collect()
}

fn row_scale(w: &[f32], levels: &Levels) -> f32 {
    let largest = w.iter().fold(0f32, |m, x| m.max(x.abs()));
    let unit = largest / levels.largest();
    if !(unit.is_normal() && unit > 1e-30) {
        return 1.0;
    }
    let mut best = (f32::INFINITY, unit);
    for i in (0..FRACTIONS).rev() {
        let scale = unit * (FIRST + (LAST - FIRST) * i as f32 / (FRACTIONS - 1) as f32);
        let error = row_error(w, scale, levels, best.0);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// Squared error of a row under a scale; may stop once it exceeds `enough`. Sixteen partial sums keep one order for
/// every vector width.
fn row_error(w: &[f32], scale: f32, levels: &Levels, enough: f32) -> f32 {
    let inverse = 1.0 / scale;
    let mut total = 0f32;
    for block in w.chunks(1024) {
        let mut lanes = [0f32; 16];
        match levels {
            Levels::Linear { min, max } => {
                let (lo, hi) = (*min as f32, *max as f32);
                let mut chunks = block.chunks_exact(16);
                for chunk in &mut chunks {
                    for (lane, &x) in lanes.iter_mut().zip(chunk) {
                        let t = x * inverse;
                        let q = if t > lo { t } else { lo };
                        let q = if q < hi { q } else { hi };
                        let e = ((q + ROUND) - ROUND) * scale - x;
                        *lane += e * e;
                    }
                }
                for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
                    let e = nearest(x * inverse, levels).1 * scale - x;
                    *lane += e * e;
                }
            }
            Levels::Table(_) => {
                for (i, &x) in block.iter().enumerate() {
                    let e = nearest(x * inverse, levels).1 * scale - x;
                    lanes[i % 16] += e * e;
                }
            }
        }
        total += lanes.iter().sum::<f32>();
        if total >= enough {
            return total;
        }
    }
    total
}

/// Code and level nearest to `t`.
fn nearest(t: f32, levels: &Levels) -> (i32, f32) {
    match levels {
        Levels::Linear { min, max } => {
            let q = t.clamp(*min as f32, *max as f32).round_ties_even();
            (q as i32, q)
        }
        Levels::Table(table) => {
            let mut best = (f32::INFINITY, 0, 0f32);
            for (code, &level) in table.iter().enumerate() {
                let d = (t - f32::from(level)).abs();
                if d < best.0 {
                    best = (d, code as i32, f32::from(level));
                }
            }
            (best.1, best.2)
        }
    }
}

/// Codes of every element of `w`: the nearest level under the row's scale.
pub fn quantize_rows(w: &[f32], rows: usize, scales: &[f32], levels: &Levels) -> Vec<i32> {
    let len = w.len() / rows.max(1);
    w.iter().enumerate().map(|(i, &x)| nearest((f64::from(x) / f64::from(scales[i / len.max(1)])) as f32, levels).0).collect()
}

/// Squared error of all rows under their scales.
pub fn squared_error(w: &[f32], rows: usize, scales: &[f32], levels: &Levels) -> f64 {
    let len = w.len() / rows.max(1);
    scales.iter().enumerate().map(|(r, s)| f64::from(row_error(&w[r * len..(r + 1) * len], *s, levels, f32::INFINITY))).sum()
}

/// The weight scale nearest to `sw` for which a residual of scale `sr` has an integer factor `sr / (sx sw)`; `None` when
/// the factor would be 0 or would not fit 16 bits.
pub fn snap_scale(sw: f32, sr: f32, sx: f32) -> Option<f32> {
    let factor = exact::residual_factor(sr, sx, sw)?;
    let snapped = (f64::from(sr) / (f64::from(sx) * f64::from(factor))) as f32;
    (snapped.is_normal() && exact::residual_factor(sr, sx, snapped) == Some(factor)).then_some(snapped)
}

/// Largest bias in units of the accumulator; sums of products need the rest of the 31 bits.
const MAX_BIAS: f64 = (1u64 << 29) as f64;

/// The scale nearest to `wish` that an output channel may have: its bias fits, and with a residual of scale `sr` the factor
/// of that is an integer of 4 or more (a coarser one would move the scale by more than an eighth).
pub fn legal_scale(wish: f64, bias: f32, sx: f32, sr: Option<f32>) -> Option<f32> {
    let least = f64::from(bias.abs()) / (f64::from(sx) * MAX_BIAS);
    let scale = wish.max(least) as f32;
    if !(scale.is_normal() && scale > 0.0) {
        return None;
    }
    match sr {
        None => Some(scale),
        Some(sr) => snap_scale(scale, sr, sx).filter(|&s| exact::residual_factor(sr, sx, s).is_some_and(|factor| factor >= 4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_beat_the_extremes_where_there_is_an_outlier() {
        let mut w: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        w[3] = 4.0;
        let levels = Levels::signed(4);
        let scale = mse_scales(&w, 1, &levels)[0];
        let error = |s: f32| row_error(&w, s, &levels, f32::INFINITY);
        assert!(error(scale) < 0.7 * error(4.0 / 8.0), "{} {}", error(scale), error(0.5));
    }

    #[test]
    fn codes_are_the_nearest_levels() {
        assert_eq!(Levels::signed(8), Levels::Linear { min: -127, max: 127 });
        assert_eq!(quantize_rows(&[0.26, -9.0, 0.0, 0.74], 2, &[0.5, 0.25], &Levels::signed(4)), [1, -8, 0, 3]);
        assert_eq!(quantize_rows(&[0.9, -0.2, -3.0], 1, &[1.0], &Levels::Table(vec![-1, 0, 1, 0])), [2, 1, 0]);
        assert_eq!(mse_scales(&[0.0; 4], 2, &Levels::signed(8)), [1.0, 1.0]);
    }

    #[test]
    fn snapped_scales_give_integer_factors() {
        for (sw, sr, sx) in [(0.003, 0.07, 0.05), (0.01, 0.5, 0.02), (1e-3, 0.9, 0.05)] {
            let s = snap_scale(sw, sr, sx).expect("in range");
            let r = f64::from(sr) / (f64::from(sx) * f64::from(s));
            assert!((r - r.round()).abs() < 1e-3 * r.round().max(1.0) && (s / sw - 1.0).abs() < 0.05, "{r} {s}");
        }
        assert_eq!(snap_scale(1.0, 1e-6, 1.0), None);
        assert_eq!(snap_scale(1e-9, 1.0, 1.0), None);
    }
}
