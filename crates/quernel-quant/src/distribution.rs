//! What a tensor's values look like: moments, and the class they suggest.

use serde::Serialize;

/// Sums of powers, from which the moments follow. Adding tensors in any order gives nearly the same moments.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Moments {
    count: f64,
    zeros: f64,
    /// Sums of `x`, `x^2`, `x^3`, `x^4`.
    powers: [f64; 4],
    min: f64,
    max: f64,
}

/// The shape of a distribution, by its moments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// No value, or one only.
    Constant,
    /// A few exact values at most, as after a table of few levels: kurtosis near that of two equal spikes.
    TwoSided,
    /// Flat: a linear grid wastes nothing.
    Uniform,
    /// A bell: the default assumption of range choice.
    Gaussian,
    /// More in the middle and in the tails than a bell: clipping pays.
    HeavyTailed,
    /// Mostly on one side of its mean: an asymmetric grid pays.
    Skewed,
    /// Zeros and positive values, as after a ReLU.
    Rectified,
}

impl Distribution {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::TwoSided => "two-sided",
            Self::Uniform => "uniform",
            Self::Gaussian => "gaussian",
            Self::HeavyTailed => "heavy-tailed",
            Self::Skewed => "skewed",
            Self::Rectified => "rectified",
        }
    }
}

impl Moments {
    /// Adds values; those that are not finite are left out.
    pub fn add(&mut self, values: &[f32]) {
        for x in values.iter().map(|x| f64::from(*x)).filter(|x| x.is_finite()) {
            if self.count == 0.0 {
                (self.min, self.max) = (x, x);
            }
            (self.min, self.max) = (self.min.min(x), self.max.max(x));
            self.count += 1.0;
            self.zeros += f64::from(u8::from(x == 0.0));
            let mut power = 1.0;
            for sum in &mut self.powers {
                power *= x;
                *sum += power;
            }
        }
    }

    /// Mean, variance, skewness and excess kurtosis (0 for a Gaussian, -1.2 for a uniform, 3 for a Laplace distribution);
    /// `None` without variance.
    pub fn moments(&self) -> Option<[f64; 4]> {
        let [a, b, c, d] = self.powers.map(|p| p / self.count);
        let variance = b - a * a;
        let noise = 1e-12 * b.abs();
        if !(self.count > 1.0 && variance > noise) {
            return None;
        }
        let third = c - 3.0 * a * b + 2.0 * a * a * a;
        let fourth = d - 4.0 * a * c + 6.0 * a * a * b - 3.0 * a * a * a * a;
        Some([a, variance, third / variance.powf(1.5), fourth / (variance * variance) - 3.0])
    }

    /// The class the moments suggest. The limits lie between those of the pure distributions: excess kurtosis -2 for two
    /// spikes, -1.2 uniform, 0 Gaussian, 3 Laplace; skewness 0 for all of them and 2 for an exponential one.
    pub fn class(&self) -> Distribution {
        let Some([_, _, skewness, kurtosis]) = self.moments() else { return Distribution::Constant };
        match () {
            () if self.min >= 0.0 && self.zeros > 0.1 * self.count => Distribution::Rectified,
            () if skewness.abs() > 1.0 => Distribution::Skewed,
            () if kurtosis < -1.6 => Distribution::TwoSided,
            () if kurtosis < -0.6 => Distribution::Uniform,
            () if kurtosis < 1.5 => Distribution::Gaussian,
            () => Distribution::HeavyTailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of a distribution by its inverse cumulative function.
    fn class(inverse: impl Fn(f64) -> f64) -> Distribution {
        let values: Vec<f32> = (0..10_000).map(|i| inverse((f64::from(i) + 0.5) / 10_000.0) as f32).collect();
        let mut m = Moments::default();
        m.add(&values);
        m.class()
    }

    #[test]
    fn pure_distributions_are_recognized() {
        let logit = |u: f64| (u / (1.0 - u)).ln();
        let laplace = |u: f64| if u < 0.5 { (2.0 * u).ln() } else { -(2.0 * (1.0 - u)).ln() };
        assert_eq!(class(|_| 3.0), Distribution::Constant);
        assert_eq!(class(|u| u), Distribution::Uniform);
        // The logistic distribution has excess kurtosis 1.2: a bell.
        assert_eq!(class(logit), Distribution::Gaussian);
        assert_eq!(class(laplace), Distribution::HeavyTailed);
        assert_eq!(class(|u| -(1.0 - u).ln()), Distribution::Skewed);
        assert_eq!(class(|u| logit(u).max(0.0)), Distribution::Rectified);
        assert_eq!(class(|u| if u < 0.5 { -1.0 } else { 1.0 }), Distribution::TwoSided);
    }
}
