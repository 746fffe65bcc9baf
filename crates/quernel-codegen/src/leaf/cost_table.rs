//! Written by `cargo xtask costs`; do not edit.

use super::cost::PARTS;

/// Cycles of each part of a layer's time, fitted to measurements on a core of znver4.
pub const CYCLES: [f64; PARTS] = [1.0, 18.29, 1.04, 1.35, 1.46, 1.09, 0.25, 1.1, 0.41, 0.0];
