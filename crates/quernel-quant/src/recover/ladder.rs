//! Levels in ascending order.

use crate::weights::Levels;

/// Levels in ascending order with their codes.
pub struct Ladder {
    pub(super) values: Vec<f64>,
    pub(super) codes: Vec<i32>,
    /// Borders between neighbours.
    borders: Vec<f64>,
    /// Smallest level, where levels are all integers of a range.
    integers: Option<f64>,
}

impl Ladder {
    pub fn new(levels: &Levels) -> Self {
        let mut pairs: Vec<(f64, i32)> = match levels {
            Levels::Linear { min, max } => (*min..=*max).map(|q| (f64::from(q), q)).collect(),
            Levels::Table(t) => t.iter().enumerate().map(|(code, v)| (f64::from(*v), code as i32)).collect(),
        };
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        pairs.dedup_by(|a, b| a.0 == b.0);
        let (values, codes): (Vec<f64>, Vec<i32>) = pairs.into_iter().unzip();
        let borders = values.windows(2).map(|w| 0.5 * (w[0] + w[1])).collect();
        let integers = matches!(levels, Levels::Linear { .. }).then(|| values[0]);
        Self { values, codes, borders, integers }
    }
    /// Number of the level nearest to `t`.
    pub fn nearest(&self, t: f64) -> usize {
        match self.integers {
            Some(least) => (t - least).round_ties_even().clamp(0.0, (self.values.len() - 1) as f64) as usize,
            None => self.borders.partition_point(|b| *b < t),
        }
    }
    pub fn largest(&self) -> f64 {
        self.values.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()))
    }
    /// The smallest and the largest level.
    pub fn ends(&self) -> (f64, f64) {
        (self.values.first().copied().unwrap_or(0.0), self.values.last().copied().unwrap_or(0.0))
    }
    /// Mean distance of neighbours.
    pub fn gap(&self) -> f64 {
        (self.ends().1 - self.ends().0) / (self.values.len().max(2) - 1) as f64
    }
    pub fn value(&self, level: usize) -> f64 {
        self.values[level]
    }
    pub fn code(&self, level: usize) -> i32 {
        self.codes[level]
    }
}
