//! Integer convolution over weight panels.

use super::{conv::Layer, conv_plain};
use crate::emit::Emitter;

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer, _: bool) {
    conv_plain::emit(e, layer);
}
