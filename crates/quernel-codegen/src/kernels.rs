//! Kernels: which code computes a step on a machine, and the constants it wants rearranged.

mod bits;
mod conv;
mod conv_codes;
mod conv_depthwise;
mod conv_float;
mod conv_panels;
mod conv_plain;
mod elementwise;
mod expand;
mod float_binary;
mod float_unary;
mod folds;
mod index;
mod layer_norm;
mod matmul;
mod matmul_bytes;
mod moves;
mod order;
mod panels;
mod plain;
mod pool;
mod reduce;
mod softmax;
mod strided;

pub use matmul_bytes::Calls;

use crate::emit::{Emitter, Machine, Stored};
use quernel_ir::{
    diag::{Code, Diagnostic},
    program::{Base, PANEL, Program, Slot, Step, What},
};

/// The code of a step. Together with the step's [`What`] it determines the machine function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// The one kernel of this kind of step.
    Only,
    /// Convolution over panels; `flip` when the top bit of operand bytes is inverted.
    Panels {
        /// Invert the top bit of operand bytes.
        flip: bool,
    },
    /// Depthwise convolution by dot products or 16-bit multiplies over rearranged weights.
    Depthwise {
        /// Invert the top bit of operand bytes.
        flip: bool,
    },
    /// Scalar convolution of any form.
    Plain,
}

impl Kernel {
    /// Whether the code generator may reorder what the kernel emits. Kernels with a hand-made register tile keep
    /// their order: hoisted loads would spill the tile.
    pub fn scheduled(self) -> bool {
        !matches!(self, Self::Panels { .. } | Self::Depthwise { .. })
    }
}

/// Where the address of an argument comes from.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A slot of the program.
    Slot(Slot),
    /// Constants made for this kernel, by index of [`Plan`]'s list.
    Derived(usize),
}

/// How a step is computed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kernel.
    pub kernel: Kernel,
    /// Addresses in the order of the step's reads, then writes.
    pub arguments: Vec<Argument>,
}

impl Plan {
    /// A plan that passes the step's slots as they are.
    pub fn direct(step: &Step) -> Self {
        Self { kernel: Kernel::Only, arguments: step.reads.iter().chain(&step.writes).map(|s| Argument::Slot(*s)).collect() }
    }
}

/// A layer's arguments with other weights.
pub fn with_weights(step: &Step, weights: Vec<u8>, derived: &mut Vec<Vec<u8>>) -> Vec<Argument> {
    let mut arguments = Plan::direct(step).arguments;
    arguments[conv::W] = conv::derive(derived, weights);
    arguments
}

/// Chooses the kernel of a step; appends constants it needs to `derived`.
pub fn plan(program: &Program, step: &Step, machine: &Machine, derived: &mut Vec<Vec<u8>>) -> Plan {
    let mut plan = Plan::direct(step);
    match &step.what {
        What::Conv { conv, signed, .. } | What::ConvWords { conv, signed, .. } => {
            let x = Stored { words: matches!(step.what, What::ConvWords { .. }), signed: *signed };
            conv::plan(program, step, conv, x, machine, derived, &mut plan);
        }
        What::ConvCodes { conv, signed, .. } => conv_codes::plan(program, step, conv, *signed, machine, derived, &mut plan),
        What::ConvFloat { conv, .. } => plan.kernel = conv_float::choose(conv, step, machine),
        What::MatMulBytes { product, signed, .. } => {
            let flip = conv::flips(machine, *signed);
            plan.kernel = Kernel::Panels { flip };
            if let (true, Argument::Slot(biases)) = (flip, &mut plan.arguments[conv::BIAS]) {
                // Those of the other form.
                let first = 4 * product.n.next_multiple_of(PANEL);
                (biases.offset, biases.bytes) = (biases.offset + first, biases.bytes - first);
            }
        }
        _ => {}
    }
    plan
}

/// Number of slots a step must have: reads, writes.
pub fn arity(what: &What) -> (usize, usize) {
    let reads = match what {
        What::Fill { .. } => 0,
        What::Quantize { .. }
        | What::Dequantize { .. }
        | What::Pool { .. }
        | What::PoolFloat { .. }
        | What::UnaryFloat { .. }
        | What::UnaryDouble { .. }
        | What::Cast { .. }
        | What::ReduceFloat { .. }
        | What::SoftmaxFloat { .. }
        | What::TopK { .. }
        | What::Reduce { .. }
        | What::Cumulative { .. }
        | What::PackBits { .. }
        | What::PackPanels { .. }
        | What::Move { .. } => 1,
        What::Lookup { .. }
        | What::BinaryBytes { .. }
        | What::BinaryFloat { .. }
        | What::BinaryPlain { .. }
        | What::Compare { .. }
        | What::MatMulFloat { .. }
        | What::Gather { .. }
        | What::SoftmaxBytes { .. }
        | What::Expand { .. } => 2,
        What::Select { .. } | What::Scatter { .. } | What::LayerNorm { .. } => 3,
        What::ConvBits { .. } | What::MatMulBytes { .. } => 4,
        What::ConvCodes { .. } => 5,
        What::ExpandFloat { bits, .. } => 2 + usize::from(*bits < 8),
        What::Conv { conv, .. } | What::ConvWords { conv, .. } => 4 + if conv.residual.is_some() { 2 } else { 0 },
        What::ConvFloat { conv, .. } => 3 + usize::from(conv.residual.is_some()),
    };
    (reads, 1)
}

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, kernel: Kernel, what: &What) -> Result<(), Diagnostic> {
    match what {
        What::Conv { conv, zero, signed, residual_signed, end } | What::ConvWords { conv, zero, signed, residual_signed, end } => {
            let words = matches!(what, What::ConvWords { .. });
            let layer = conv::Layer { conv, words, zero: *zero, signed: *signed, residual_signed: *residual_signed, end: *end };
            match kernel {
                Kernel::Panels { flip } => conv_panels::emit(e, &layer, flip),
                Kernel::Depthwise { flip } => conv_depthwise::emit(e, &layer, flip),
                Kernel::Only | Kernel::Plain => conv_plain::emit(e, &layer),
            }
            Ok(())
        }
        What::ConvCodes { conv, bits, signed, end } => {
            let layer = conv::Layer { conv, words: false, zero: 0, signed: *signed, residual_signed: false, end: *end };
            conv_codes::emit(e, kernel, &layer, *bits);
            Ok(())
        }
        What::ConvBits { conv, end } => {
            let layer = conv::Layer { conv, words: false, zero: 0, signed: false, residual_signed: false, end: *end };
            bits::emit(e, &layer);
            Ok(())
        }
        What::PackBits { .. } => bits::emit_pack(e, what),
        What::Expand { .. } => expand::emit(e, what),
        What::ExpandFloat { .. } => expand::emit_float(e, what),
        What::ConvFloat { conv, lo, hi } => {
            conv_float::emit(e, kernel, conv, *lo, *hi);
            Ok(())
        }
        What::Quantize { .. } | What::Dequantize { .. } | What::Lookup { .. } | What::BinaryBytes { .. } | What::BinaryFloat { .. } => {
            elementwise::emit(e, what)
        }
        What::UnaryFloat { .. } => float_unary::emit(e, what),
        What::UnaryDouble { .. } | What::BinaryPlain { .. } | What::Compare { .. } | What::Select { .. } | What::Cast { .. } => {
            plain::emit(e, what)
        }
        What::Pool { .. } | What::PoolFloat { .. } => pool::emit(e, what),
        What::MatMulFloat { .. } => matmul::emit(e, what),
        What::PackPanels { over, center, rest, left, signed } => {
            matmul_bytes::emit_pack(e, &matmul_bytes::Pack { over, center: *center, rest, left: *left, signed: *signed });
            Ok(())
        }
        What::MatMulBytes { product, signed, end, .. } => {
            let layer = conv::Layer { conv: &product.layer(), zero: 0, signed: *signed, words: false, residual_signed: false, end: *end };
            conv_panels::emit(e, &layer, kernel == Kernel::Panels { flip: true });
            Ok(())
        }
        What::ReduceFloat { .. } => reduce::emit(e, what),
        What::SoftmaxFloat { .. } | What::SoftmaxBytes { .. } => softmax::emit(e, what),
        What::LayerNorm { .. } => layer_norm::emit(e, what),
        What::Gather { .. } | What::Scatter { .. } => index::emit(e, what),
        What::TopK { .. } => order::emit(e, what),
        What::Reduce { .. } | What::Cumulative { .. } => folds::emit(e, what),
        What::Move { .. } | What::Fill { .. } => moves::emit(e, what),
    }
}

/// A step that no kernel covers yet.
fn unsupported(what: &What) -> Diagnostic {
    Diagnostic::new(Code::UnsupportedForm, format!("no code for this form of a {} step", what.name()))
}

/// The constant bytes behind a slot.
fn constant<'p>(program: &'p Program, slot: &Slot) -> Option<&'p [u8]> {
    let Base::Blob(blob) = slot.base else { return None };
    program.blobs.get(blob)?.bytes.get(slot.offset..slot.offset + slot.bytes)
}
