//! Histograms with logarithmic buckets: constant memory, exact merging.

/// Mantissa bits that distinguish buckets: 32 buckets per octave.
const MANTISSA: u32 = 5;
/// Octaves of one sign, by the exponent bits.
const OCTAVES: usize = 1 << 8;

/// The counts of one octave.
type Octave = [u64; 1 << MANTISSA];

/// Counts of values by sign, exponent and leading mantissa bits. Merging is addition, so order does not matter. Memory is
/// taken for the octaves that have values: a network has many tensors, and most of them live in few octaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    /// By the upper bits of the number: those of positive values, then those of negative ones.
    octaves: Box<[Option<Box<Octave>>; 2 * OCTAVES]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { octaves: Box::new([const { None }; 2 * OCTAVES]) }
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

fn edge(index: usize) -> f64 {
    f64::from(f32::from_bits((index as u32) << (23 - MANTISSA)))
}

impl Histogram {
    /// Counts a finite value.
    pub fn record(&mut self, x: f32) {
        let index = (x.to_bits() >> (23 - MANTISSA)) as usize;
        let octave = self.octaves[index >> MANTISSA].get_or_insert_with(|| Box::new([0; 1 << MANTISSA]));
        octave[index % (1 << MANTISSA)] += 1;
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, other) in self.octaves.iter_mut().zip(other.octaves.iter()) {
            match (mine, other) {
                (_, None) => {}
                (mine @ None, Some(_)) => mine.clone_from(other),
                (Some(mine), Some(other)) => mine.iter_mut().zip(other.iter()).for_each(|(a, b)| *a = a.saturating_add(*b)),
            }
        }
    }

    /// The numbers of buckets of one sign and their counts, where there are any.
    fn filled(&self, negative: bool) -> impl Iterator<Item = (usize, u64)> {
        let octaves = &self.octaves[usize::from(negative) * OCTAVES..][..OCTAVES];
        let octaves = octaves.iter().enumerate().filter_map(|(i, octave)| Some((i << MANTISSA, octave.as_ref()?)));
        octaves.flat_map(|(at, counts)| counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, n)| (at + i, *n)))
    }

    /// Buckets that are not empty, in a fixed order.
    pub fn buckets(&self) -> Vec<Bucket> {
        let side = |negative: bool| {
            let sign = if negative { -1.0 } else { 1.0 };
            self.filled(negative).map(move |(i, n)| {
                let (a, b) = (edge(i), if i + 1 < (255 << MANTISSA) { edge(i + 1) } else { f64::from(f32::MAX) });
                Bucket { center: sign * (a + b) / 2.0, width: b - a, count: n as f64 }
            })
        };
        side(true).chain(side(false)).collect()
    }

    /// Non-empty buckets as `(index, count)`; negative values have indices below 0.
    pub fn to_pairs(&self) -> Vec<(i32, u64)> {
        let negative = self.filled(true).map(|(i, n)| (-(i as i32) - 1, n));
        negative.chain(self.filled(false).map(|(i, n)| (i as i32, n))).collect()
    }

    /// The inverse of [`Self::to_pairs`]; `None` for an index out of range.
    pub fn from_pairs(pairs: &[(i32, u64)]) -> Option<Self> {
        let mut h = Self::default();
        for &(i, n) in pairs {
            let (side, i) = if i < 0 { (OCTAVES, -(i64::from(i)) - 1) } else { (0, i64::from(i)) };
            let i = usize::try_from(i).ok().filter(|i| *i < OCTAVES << MANTISSA)?;
            if n == 0 {
                continue;
            }
            let octave = h.octaves[side + (i >> MANTISSA)].get_or_insert_with(|| Box::new([0; 1 << MANTISSA]));
            let slot = &mut octave[i % (1 << MANTISSA)];
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
        assert_eq!(Histogram::from_pairs(&[(-(1 << 13) - 1, 0)]), None);
    }

    #[test]
    fn memory_is_taken_for_octaves_that_have_values() {
        let mut h = Histogram::default();
        [1.0, 1.5, 1.99, -1.0, 2.0].into_iter().for_each(|v| h.record(v));
        h.merge(&Histogram::default());
        assert_eq!(h.octaves.iter().flatten().count(), 3);
    }
}
