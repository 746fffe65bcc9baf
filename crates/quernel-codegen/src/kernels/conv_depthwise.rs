//! Integer depthwise convolution over channels side by side.

use super::{conv::Layer, conv_plain};
use crate::emit::{Emitter, Machine};
use quernel_ir::program::{Conv, WeightDims};

/// Whether the kernel covers a convolution.
pub fn fits(_: &Conv) -> bool {
    false
}

/// Rearranges weights.
pub fn pack(_: WeightDims, weights: &[u8], _: &Machine) -> Vec<u8> {
    weights.to_vec()
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer, _: bool) {
    conv_plain::emit(e, layer);
}
