//! The proof that a channel's final 32-bit sum fits.
//!
//! Wrapping addition is associative, so only the final value matters. It is bounded exactly for independent operands:
//! every activation takes the end of its range that the sign of its weight asks for.

/// Smallest and largest final sum of one output channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sums {
    pub lo: i64,
    pub hi: i64,
}

impl Sums {
    /// `bias` plus nothing yet.
    pub fn new(bias: i64) -> Self {
        Self { lo: bias, hi: bias }
    }
    /// Adds weights with positive sum `positive` and negative sum `negative` times operands in `lo..=hi`.
    #[must_use]
    pub fn weights(self, positive: i64, negative: i64, (lo, hi): (i32, i32)) -> Self {
        let (lo, hi) = (i64::from(lo), i64::from(hi));
        Self { lo: self.lo + positive * lo + negative * hi, hi: self.hi + positive * hi + negative * lo }
    }
    /// Whether both ends fit an i32.
    pub fn fits(self) -> bool {
        self.lo >= i64::from(i32::MIN) && self.hi <= i64::from(i32::MAX)
    }
    /// The larger magnitude.
    pub fn largest(self) -> i64 {
        self.hi.abs().max(self.lo.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_attained_and_tight() {
        let w = [3i64, -5, 127, -127];
        let (lo, hi) = (10, 255);
        let s = Sums::new(7).weights(130, -132, (lo, hi));
        let extreme = |top: bool| 7 + w.iter().map(|&w| w * i64::from(if (w > 0) == top { hi } else { lo })).sum::<i64>();
        assert_eq!((s.lo, s.hi), (extreme(false), extreme(true)));
    }

    #[test]
    fn the_edge_of_i32_fits_and_one_more_does_not() {
        let at = |bias| Sums::new(bias).weights(1, 0, (0, 255)).fits();
        assert!(at(i64::from(i32::MAX) - 255) && !at(i64::from(i32::MAX) - 254));
        assert!(at(i64::from(i32::MIN)) && !at(i64::from(i32::MIN) - 1));
    }
}
