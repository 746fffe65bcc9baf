//! Samples, observers, ranges, weight schemes and bit widths.
