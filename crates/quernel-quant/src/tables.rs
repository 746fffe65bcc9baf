//! Tables that codes of few bits can mean: the schemes of weights beside plain integers.
//!
//! A scheme is a rule that gives [`Levels`]: the `2^bits` signed bytes a code stands for. `real = scale * table[code]`
//! with one scale per output channel, so every scheme runs on the same kernels.
//!
//! Entries stay within -64..=64 where nothing forces more: sums of two products of a byte and such a weight fit 16 bits
//! whatever the weights are, which CPUs without byte dot products need.

use crate::weights::{Levels, mse_scales};
use std::{fmt, str::FromStr};

/// How a weight code of few bits means a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TableScheme {
    /// A table per layer, found by k-means on the layer's weights.
    Codebook,
    /// `0`, and powers of two of both signs.
    PowerOfTwo,
    /// `-1, 0, 1`: two bits.
    Ternary,
    /// `-1, 1`: one bit.
    Binary,
    /// Quantiles of a normal distribution, zero among them.
    Normal,
}

/// Largest entry of tables whose entries are rounded from real numbers.
const LARGEST: f64 = 64.0;
/// Rounds of k-means, and weights it looks at.
const ROUNDS: usize = 30;
const SAMPLE: usize = 1 << 16;

impl TableScheme {
    /// Every scheme, for messages and tests.
    pub const ALL: [Self; 5] = [Self::Codebook, Self::PowerOfTwo, Self::Ternary, Self::Binary, Self::Normal];

    /// The name in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codebook => "codebook",
            Self::PowerOfTwo => "power-of-two",
            Self::Ternary => "ternary",
            Self::Binary => "binary",
            Self::Normal => "normal",
        }
    }

    /// The bits of its codes when a layer asks for `wanted`; `None` when the scheme has no such table.
    pub fn bits(self, wanted: u8) -> Option<u8> {
        match self {
            Self::Ternary => Some(2),
            Self::Binary => Some(1),
            Self::Codebook => (1..=4).contains(&wanted).then_some(wanted),
            Self::PowerOfTwo | Self::Normal => (2..=4).contains(&wanted).then_some(wanted),
        }
    }

    /// The levels of codes of `bits` bits for `w`, `rows` rows of equal length. `bits` is one that [`Self::bits`] gave.
    pub fn levels(self, bits: u8, w: &[f32], rows: usize) -> Levels {
        Levels::Table(match self {
            Self::Ternary => vec![-1, 0, 1, 0],
            Self::Binary => vec![-1, 1],
            Self::PowerOfTwo => powers(bits),
            Self::Normal => normal(bits),
            Self::Codebook => codebook(bits, w, rows),
        })
    }
}

impl fmt::Display for TableScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TableScheme {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|t| t.name() == s).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|t| t.name()).collect();
            format!("{s:?} is not a scheme: linear, {}", names.join(", "))
        })
    }
}

/// Every set of levels of `bits` bits, integers first; the ternary ones among those of 2 bits, the binary ones alone of 1.
pub fn schemes(bits: u8, w: &[f32], rows: usize) -> Vec<(u8, Levels)> {
    let tables = TableScheme::ALL.into_iter().filter(|t| t.bits(bits) == Some(bits)).map(|t| (bits, t.levels(bits, w, rows)));
    (bits >= 2).then(|| (bits, Levels::signed(bits))).into_iter().chain(tables).collect()
}

/// `0`, then `+-` the powers of two up to 64 that fit `2^bits` entries: the positive side has the odd one.
fn powers(bits: u8) -> Vec<i8> {
    let entries = 1usize << bits;
    let positive = entries / 2;
    let mut table: Vec<i8> = (0..positive.min(7)).map(|i| 64i8 >> i).collect();
    table.extend((0..(entries - 1 - positive).min(7)).map(|i| -(64i8 >> i)));
    table.resize(entries, 0);
    table.sort_unstable();
    table
}

/// Quantiles of the standard normal distribution, half of them on each side of zero, scaled so that the outermost are
/// `-64` and `64`: equally many weights of a bell-shaped layer fall to every code.
fn normal(bits: u8) -> Vec<i8> {
    let half = 1usize << (bits - 1);
    // The negative side has `half` levels, zero is one, the positive side has the rest.
    let side = |n: usize| (1..=n).map(move |i| quantile(0.5 + 0.46 * i as f64 / n as f64)).collect::<Vec<f64>>();
    let (low, high) = (side(half - 1), side(half));
    let scaled = |v: f64, most: f64| (LARGEST * v / most).round_ties_even() as i8;
    let largest = |v: &[f64]| v.last().copied().unwrap_or(1.0);
    let mut table: Vec<i8> = low.iter().map(|v| -scaled(*v, largest(&low))).collect();
    table.push(0);
    table.extend(high.iter().map(|v| scaled(*v, largest(&high))));
    table.sort_unstable();
    table
}

/// The inverse of the normal distribution function, by bisection of `erf`.
fn quantile(p: f64) -> f64 {
    let (mut lo, mut hi) = (-8f64, 8f64);
    for _ in 0..60 {
        let middle = 0.5 * (lo + hi);
        if 0.5 * (1.0 + libm::erf(middle * std::f64::consts::FRAC_1_SQRT_2)) < p { lo = middle } else { hi = middle }
    }
    0.5 * (lo + hi)
}

/// One-dimensional k-means (Lloyd's rounds from the quantiles) over the weights in units of their row's largest useful
/// magnitude. With three entries or more, the one nearest to zero is zero: padding and pruned weights need it.
fn codebook(bits: u8, w: &[f32], rows: usize) -> Vec<i8> {
    let entries = 1usize << bits;
    let len = w.len() / rows.max(1);
    // The range of a row that quantizing it linearly would keep.
    let units = mse_scales(w, rows, &Levels::signed(bits.max(2)));
    let reach = f64::from(1u32 << (bits.max(2) - 1));
    let step = w.len().div_ceil(SAMPLE).max(1);
    let mut values: Vec<f64> =
        (0..w.len()).step_by(step).map(|i| (f64::from(w[i]) / (f64::from(units[i / len.max(1)]) * reach)).clamp(-1.0, 1.0)).collect();
    values.sort_unstable_by(f64::total_cmp);
    if values.is_empty() {
        return vec![0; entries];
    }
    // Prefix sums make a round linear in the number of entries.
    let mut sums = vec![0f64];
    for v in &values {
        sums.push(sums[sums.len() - 1] + v);
    }
    let pin = entries > 2;
    let mut centers: Vec<f64> = (0..entries).map(|i| values[(2 * i + 1) * values.len() / (2 * entries)]).collect();
    let zero = |centers: &[f64]| (0..centers.len()).min_by(|&a, &b| centers[a].abs().total_cmp(&centers[b].abs())).unwrap_or(0);
    for _ in 0..ROUNDS {
        let mut from = 0;
        for i in 0..entries {
            let to = match centers.get(i + 1) {
                Some(next) => {
                    let border = 0.5 * (centers[i] + next);
                    values.partition_point(|v| *v < border)
                }
                None => values.len(),
            };
            let to = to.max(from);
            if to > from {
                centers[i] = (sums[to] - sums[from]) / (to - from) as f64;
            }
            from = to;
        }
        if pin {
            let z = zero(&centers);
            centers[z] = 0.0;
        }
        centers.sort_unstable_by(f64::total_cmp);
    }
    let most = centers.iter().fold(0f64, |m, c| m.max(c.abs()));
    let unit = if most > 0.0 { LARGEST / most } else { 0.0 };
    centers.iter().map(|c| (c * unit).round_ties_even() as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::quantize_rows;

    fn table(l: Levels) -> Vec<i8> {
        match l {
            Levels::Table(t) => t,
            Levels::Linear { .. } => panic!("a table"),
        }
    }

    fn bell(n: usize) -> Vec<f32> {
        // Sums of four uniform numbers.
        let mut s = 7u64;
        let mut next = || {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (s >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() + next() + next() + next()).collect()
    }

    #[test]
    fn tables_have_all_entries_and_stay_small() {
        let w = bell(4096);
        for scheme in TableScheme::ALL {
            for bits in (1..=4).filter(|&b| scheme.bits(b) == Some(b)) {
                let t = table(scheme.levels(bits, &w, 8));
                assert_eq!(t.len(), 1 << bits, "{scheme} {bits}");
                assert!(t.iter().all(|e| e.unsigned_abs() <= 64), "{scheme} {bits}: {t:?}");
                assert_eq!(t.contains(&0), t.len() > 2, "{scheme} {bits}: {t:?}");
                assert_eq!(scheme.name().parse(), Ok(scheme));
            }
        }
        assert_eq!(powers(2), [-64, 0, 32, 64]);
        assert_eq!(powers(4), [-64, -32, -16, -8, -4, -2, -1, 0, 0, 1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(normal(2), [-64, 0, 22, 64]); // 64 * 0.6128 / 1.7507
        assert!("cubic".parse::<TableScheme>().is_err() && TableScheme::Codebook.bits(8).is_none());
    }

    #[test]
    fn a_codebook_beats_integers_of_as_many_bits() {
        let w = bell(1 << 14);
        let error = |levels: &Levels| {
            let scales = mse_scales(&w, 4, levels);
            let codes = quantize_rows(&w, 4, &scales, levels);
            let real = |c: i32| match levels {
                Levels::Linear { .. } => f64::from(c),
                Levels::Table(t) => f64::from(t[c as usize]),
            };
            let row = w.len() / 4;
            codes.iter().zip(&w).enumerate().map(|(i, (&c, &x))| (real(c) * f64::from(scales[i / row]) - f64::from(x)).powi(2)).sum::<f64>()
        };
        for bits in [2, 3, 4] {
            let (linear, book) = (error(&Levels::signed(bits)), error(&TableScheme::Codebook.levels(bits, &w, 4)));
            assert!(book < 0.9 * linear, "{bits}: {book} {linear}");
        }
        assert_eq!(codebook(2, &[], 1), [0; 4]);
        assert_eq!(codebook(1, &[0.5, -0.5, 0.5, -0.5], 1), [-64, 64]);
    }
}
