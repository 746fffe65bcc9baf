//! Reconstruction of blocks: codes, scales and biases of several layers move together until what the block computes is near
//! what the float network computes there. No labels: the float network is the teacher.
//!
//! A block is a [`Net`]: its layers with rounded weights, and the roundings of values between them, as steps over f32. The
//! loss is the squared difference at values that the float network knows, each relative to its energy. Gradients pass a
//! rounding as if it were not there, and stop where it clips (Bengio, Leonard and Courville 2013; blocks after BRECQ: Li et
//! al. 2021). A code is held as a real number that starts at its level and stands for the nearest level, so it changes only
//! where gradients agree over many steps.
//!
//! Sums have a fixed order, and samples are added in a fixed grouping: threads change nothing.

mod net;
mod product;
mod train;

pub use net::{Buffer, Goal, Map, Net, OUTSIDE, Shape, Step, Weights};
pub use train::{LegalIn, Sample, SampleOf, Tuned, tune};
