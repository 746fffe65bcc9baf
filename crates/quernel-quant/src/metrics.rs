//! How far two outputs are apart.

/// Index of the largest element, the first of equals; 0 for an empty slice.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

/// Whether element `index` is among the `k` largest, earlier ones first among equals.
pub fn in_top(values: &[f32], index: usize, k: usize) -> bool {
    let Some(own) = values.get(index) else { return false };
    let before = values.iter().enumerate().filter(|(i, v)| **v > *own || **v == *own && *i < index).count();
    before < k
}

/// Signal to noise in dB: `10 log10(sum want^2 / sum (want - got)^2)`.
pub fn sqnr_db(want: &[f32], got: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0f64, 0f64);
    for (w, g) in want.iter().zip(got) {
        signal += f64::from(*w) * f64::from(*w);
        noise += (f64::from(*w) - f64::from(*g)).powi(2);
    }
    10.0 * libm::log10(signal / noise.max(f64::MIN_POSITIVE))
}

/// Kullback-Leibler divergence of the softmax of `got` from that of `want`, in nats.
pub fn kl(want: &[f32], got: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| -> Vec<f64> {
        let m = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
        let sum: f64 = x.iter().map(|v| libm::exp(f64::from(*v) - m)).sum();
        x.iter().map(|v| f64::from(*v) - m - libm::log(sum)).collect()
    };
    let (p, q) = (log_softmax(want), log_softmax(got));
    p.iter().zip(&q).map(|(p, q)| libm::exp(*p) * (p - q)).sum()
}

/// Signal and noise, summed over many comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    signal: f64,
    noise: f64,
    /// Sums of the products of both, and of the squares of the approximation.
    product: f64,
    approximation: f64,
}

impl Noise {
    /// Adds the elements of a tensor and of its approximation.
    pub fn add(&mut self, want: &[f32], got: &[f32]) {
        for (w, g) in want.iter().zip(got) {
            let d = f64::from(*w) - f64::from(*g);
            self.signal += f64::from(*w) * f64::from(*w);
            self.noise += d * d;
            self.product += f64::from(*w) * f64::from(*g);
            self.approximation += f64::from(*g) * f64::from(*g);
        }
    }
    /// Cosine of the angle between both; 1 where one of them is zero everywhere.
    pub fn cosine(&self) -> f64 {
        let norms = (self.signal * self.approximation).sqrt();
        if norms == 0.0 { 1.0 } else { (self.product / norms).clamp(-1.0, 1.0) }
    }
    /// Their ratio in dB; infinite without noise.
    pub fn db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert!(in_top(&[1.0, 3.0, 3.0], 1, 1) && !in_top(&[1.0, 3.0, 3.0], 2, 1) && in_top(&[1.0, 3.0, 3.0], 2, 2));
        assert!(!in_top(&[1.0], 1, 5));
        assert!((sqnr_db(&[10.0], &[9.0]) - 20.0).abs() < 1e-9);
        assert!(kl(&[1.0, 2.0], &[1.0, 2.0]).abs() < 1e-12);
        assert!(kl(&[1.0, 2.0], &[2.0, 1.0]) > 0.1);
    }
}
