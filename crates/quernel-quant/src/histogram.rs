//! Histograms with logarithmic buckets: constant memory, exact merging.

/// Mantissa bits that distinguish buckets: 32 buckets per octave.
const MANTISSA: u32 = 5;
/// Buckets of one sign: 8 exponent bits and [`MANTISSA`] bits.
const BUCKETS: usize = 1 << (8 + MANTISSA);

/// Counts of values by sign, exponent and leading mantissa bits. Merging is addition, so order does not matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    positive: Vec<u64>,
    negative: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { positive: vec![0; BUCKETS], negative: vec![0; BUCKETS] }
    }
}

/// A bucket that is not empty.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    /// Middle of the interval.
    pub center: f64,
    /// Length of the interval.
    pub width: f64,
    /// Values in it.
    pub count: f64,
}

fn index(x: f32) -> usize {
    ((x.to_bits() & 0x7fff_ffff) >> (23 - MANTISSA)) as usize
}

fn edge(index: usize) -> f64 {
    f64::from(f32::from_bits((index as u32) << (23 - MANTISSA)))
}

impl Histogram {
    /// Counts a finite value.
    pub fn record(&mut self, x: f32) {
        let side = if x.is_sign_negative() { &mut self.negative } else { &mut self.positive };
        side[index(x)] += 1;
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.positive.iter_mut().zip(&other.positive).chain(self.negative.iter_mut().zip(&other.negative)) {
            *a = a.saturating_add(*b);
        }
    }

    /// Buckets that are not empty, in a fixed order.
    pub fn buckets(&self) -> Vec<Bucket> {
        let side = |counts: &[u64], sign: f64| -> Vec<Bucket> {
            let filled = counts.iter().enumerate().filter(|(_, n)| **n > 0);
            filled
                .map(|(i, &n)| {
                    let (a, b) = (edge(i), if i + 1 < (255 << MANTISSA) { edge(i + 1) } else { f64::from(f32::MAX) });
                    Bucket { center: sign * (a + b) / 2.0, width: b - a, count: n as f64 }
                })
                .collect()
        };
        [side(&self.negative, -1.0), side(&self.positive, 1.0)].concat()
    }

    /// Non-empty buckets as `(index, count)`; negative values have indices below 0.
    pub fn to_pairs(&self) -> Vec<(i32, u64)> {
        let side = |counts: &[u64], f: fn(usize) -> i32| -> Vec<(i32, u64)> {
            counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| (f(i), *n)).collect()
        };
        [side(&self.negative, |i| -(i as i32) - 1), side(&self.positive, |i| i as i32)].concat()
    }

    /// The inverse of [`Self::to_pairs`]; `None` for an index out of range.
    pub fn from_pairs(pairs: &[(i32, u64)]) -> Option<Self> {
        let mut h = Self::default();
        for &(i, n) in pairs {
            let (side, i) = if i < 0 { (&mut h.negative, -(i64::from(i)) - 1) } else { (&mut h.positive, i64::from(i)) };
            let slot = side.get_mut(usize::try_from(i).ok()?)?;
            *slot = slot.checked_add(n)?;
        }
        Some(h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values_and_merge_exactly() {
        let values = [0.0, -0.0, 1.0, 1.01, -3.7, 1e-20, 5e8, f32::MAX, -f32::MIN_POSITIVE];
        let mut all = Histogram::default();
        let mut parts = [Histogram::default(), Histogram::default()];
        for (i, v) in values.into_iter().enumerate() {
            all.record(v);
            parts[i % 2].record(v);
            assert!(all.buckets().iter().any(|b| (f64::from(v) - b.center).abs() <= b.width / 2.0), "{v}");
        }
        let [mut a, b] = parts;
        a.merge(&b);
        assert_eq!(a, all);
        assert_eq!(Histogram::from_pairs(&all.to_pairs()), Some(all));
        assert_eq!(Histogram::from_pairs(&[(1 << 20, 1)]), None);
    }
}
