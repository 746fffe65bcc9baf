//! The slow, exact executor of graphs and programs: the definition of every operator.
//!
//! [`run_graph`] executes a [`quernel_ir::Graph`] at any stage, [`run_program`] a [`quernel_ir::Program`]; both share
//! the cores below, so a lowered program has the bytes of its graph, floats included. Single roundings come from
//! [`quernel_ir::exact`] and [`quernel_ir::float`]; what remains to be said is said here, once:
//!
//! * Convolution, dense: integers accumulate in wrapping i32; floats from +0 in the order of the taps (rows, columns,
//!   channels), then bias, residual, activation. An f32 residual on an integer layer is added after scaling, before
//!   the activation.
//! * An infinite bound of an f32 activation is not applied ([`quernel_ir::float::bound`]), so a NaN passes `act = None`.
//! * Largest and smallest of f32 start from the infinity and keep the earlier on ties; a NaN is skipped.
//! * A pooling window without a valid element (dilation can make one) yields the smallest value of the type for the
//!   maximum and zero for the average.
//! * A quantized mean with a quantized result is [`quernel_ir::exact::average`]. Every other reduction of quantized
//!   values, softmax over more than 8 bits and log-softmax dequantize, compute in f32 and quantize if the result is
//!   quantized.
//! * Padding of a quantized type is the real value quantized with the parameters and range of the type.
//! * Batch norm: `((x - mean) / sqrt(var + epsilon)) * scale + bias`, each step rounded.
//! * Integer `Binary` wraps; division truncates, by zero it is an error; a negative power truncates like a quotient.
//! * `Cast` from f32 truncates towards zero and saturates, NaN becomes 0; to bool it tests for non-zero; between
//!   integers it wraps.
//!
//! **What is absent:** threads, `unsafe`, host-dependent arithmetic. No input makes it panic; sizes are checked before
//! memory is taken.

mod access;
mod conv;
mod data;
mod elementwise;
mod graph;
mod index;
mod layers;
mod matmul;
mod moves;
mod pool;
mod program;
mod reduce;
mod strided;
mod verify;

pub use graph::{eval_node, run_graph, run_graph_with};
pub use program::{run_program, run_program_with};
pub use verify::verify_program;
