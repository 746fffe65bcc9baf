//! Everything about numbers that quantization needs: samples, observed ranges, weight scales, bit widths, measures.
//!
//! * [`Samples`]: inputs from .npz and .npy files.
//! * [`Observed`] gathers histograms while a float network runs; [`Ranges`] is the finished, mergeable file.
//! * [`recover`]: weights rounded so that the sums of a layer stay near those of the float network.
//! * [`tune`]: several layers together, by gradients.
//! * [`knapsack`]: one width per layer within limits.
//! * [`weights`]: per-channel scales that minimise the squared error.
//! * [`Moments`]: what values look like.
//! * [`tables`]: what codes of few bits can mean beside integers.
//! * [`Bits`]: widths and schemes per layer, a file as well.
//!
//! Sums are exact or in a fixed order, functions come from `libm`: **the same ranges give the same artifact on every
//! host**.

mod arrays;
mod bits;
mod calibrators;
mod distribution;
mod histogram;
mod images;
pub mod knapsack;
pub mod metrics;
mod ranges;
pub mod recover;
mod samples;
mod stream;
pub mod tables;
pub mod tune;
pub mod weights;

pub use bits::{Bits, Width, panel_bits};
pub use calibrators::{Calibrator, Method, affine};
pub use distribution::{Distribution, Moments};
pub use histogram::Histogram;
pub use images::{Fit, ImageOptions};
pub use ranges::{Observe, Observed, Ranges, Record, calibrate_with};
pub use samples::{Bound, Layout, SampleOptions, Samples, Transform, array, expected_outputs, to_npz};
pub use tables::{TableScheme, schemes};
