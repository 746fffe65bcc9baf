//! Leaf kernels: whole layers in machine code for x86-64 CPUs with wide vectors and AArch64 CPUs with matrices of bytes,
//! where 128-bit code leaves speed behind.
//!
//! A leaf function has the System V calling convention whatever the target (the one of all systems on AArch64), takes the addresses of the step's slots
//! (reads, then writes) as pointers, and is position independent. It keeps exactly the contract of
//! [`What`]: the same bytes as the interpreter. A step outside a family's
//! contract yields `None` and keeps its Cranelift kernel.

mod a64;
mod ahead;
pub(crate) mod asm;
mod bits;
mod codes;
pub(crate) mod conv;
pub(crate) mod cost;
mod cost_table;
mod depthwise;
mod depthwise_tiles;
mod epilogue;
mod float;
mod i8mm;
mod interleave;
mod lookup;
mod mixed;
mod narrow;
mod nest;
mod paired;
mod proof;
mod quads;
mod quantize;
mod softmax;
mod widened;
mod words;

pub use ahead::{Ahead, plan as ahead};
use depthwise_tiles::Form;
use iced_x86::{Decoder, DecoderOptions, FastFormatter, Mnemonic};
use proof::Bounds;
use quernel_ir::{
    Program,
    program::{Base, Slot, Step, WeightLayout, What},
};

/// Machine code of a step, and the name of its kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Position-independent machine code; equal steps give equal bytes.
    pub code: Vec<u8>,
    /// Family and tile, such as `conv_u8s8_12x32__avx512vnni`.
    pub kernel: String,
    /// Stack bytes of a call, return address included.
    pub frame: usize,
    /// Cycles the cost model predicts for a call on the core it was fitted on; `None` without a model.
    pub cycles: Option<u64>,
}

/// Alignment of leaf functions.
pub const LEAF_ALIGN: u64 = 64;

/// The AVX-512 VNNI leaf of a step, if a family covers it. `vbmi` says that the CPU permutes bytes across lanes; `ahead`, which
/// later weights the step asks for.
pub fn avx512_vnni(program: &Program, step: &Step, vbmi: bool, ahead: Option<Ahead>) -> Option<Leaf> {
    if let What::ConvWords { .. } = step.what {
        return words(step, Some(words::Vnni::Evex));
    }
    if let What::Lookup { .. } = step.what {
        return vbmi.then(|| lookup::leaf(step)).flatten();
    }
    if let What::Expand { .. } = step.what {
        return vbmi.then(|| codes::expand(step, true)).flatten();
    }
    if let Some(leaf) = floats(step, true) {
        return Some(leaf);
    }
    if !slack(step) {
        return None;
    }
    match &step.what {
        What::Conv { conv, .. } if conv.layout == WeightLayout::Depthwise => {
            depthwise::leaf(program, step).or_else(|| depthwise_tiles::leaf(program, step, Form::Wide))
        }
        What::Conv { .. } => conv::leaf(program, step, ahead),
        What::ConvBits { .. } => bits::leaf(program, step, vbmi),
        What::MatMulBytes { .. } => product(program, step, |layer, bounds| conv::within(layer, bounds, None, None).map(|(leaf, ..)| leaf)),
        What::ConvCodes { .. } => {
            codes::wide(program, step, vbmi).or_else(|| codes::narrow(program, step, narrow::Dot::Bytes { vex: false }))
        }
        _ => None,
    }
}

/// The AVX2 leaf of a step, if a family covers it.
pub fn avx2(program: &Program, step: &Step) -> Option<Leaf> {
    if let What::ConvWords { .. } = step.what {
        return words(step, None);
    }
    if let Some(leaf) = floats(step, false) {
        return Some(leaf);
    }
    if let Some(leaf) = coded(program, step, narrow::Dot::Sums) {
        return Some(leaf);
    }
    if depthwise(step) {
        let form = |dot| depthwise_tiles::leaf(program, step, Form::Narrow(dot));
        return form(narrow::Dot::Sums).or_else(|| form(narrow::Dot::Pairs));
    }
    if let What::MatMulBytes { .. } = step.what {
        // Nothing is known of weights that are computed.
        return slack(step).then(|| product(program, step, |layer, bounds| conv::exact(layer, bounds, None))).flatten();
    }
    if !matches!(step.what, What::Conv { .. }) {
        // Finding weights walks over all steps.
        return None;
    }
    let weights = quernel_ir::codes::weights(program, step)?;
    if narrow::sums_fit(&weights) {
        return narrow_leaf(program, step, narrow::Dot::Sums, None);
    }
    slack(step).then(|| conv::exact(step, conv::bounds(program, step)?, Some(&weights))).flatten()
}

/// The 256-bit VNNI leaf of a step, if a family covers it: in the encoding of AVX-VNNI (`vex`), or in that of AVX-512; `ahead` as
/// above.
pub fn avx_vnni(program: &Program, step: &Step, vex: bool, ahead: Option<Ahead>) -> Option<Leaf> {
    if let What::ConvWords { .. } = step.what {
        return words(step, Some(if vex { words::Vnni::Vex } else { words::Vnni::Evex }));
    }
    if let Some(leaf) = floats(step, false) {
        return Some(leaf);
    }
    let dot = narrow::Dot::Bytes { vex };
    if let Some(leaf) = coded(program, step, dot) {
        return Some(leaf);
    }
    if depthwise(step) { depthwise_tiles::leaf(program, step, Form::Narrow(dot)) } else { narrow_leaf(program, step, dot, ahead) }
}

/// The AArch64 leaf of a step for CPUs with 8-bit matrix products, if a family covers it, and its weights, which take the
/// place of the step's.
pub fn matrices(program: &Program, step: &Step) -> Option<(Leaf, Vec<u8>)> {
    slack(step).then(|| i8mm::leaf(program, step)).flatten()
}

/// The leaf of a layer over words.
fn words(step: &Step, vnni: Option<words::Vnni>) -> Option<Leaf> {
    slack(step).then(|| words::leaf(step, vnni)).flatten()
}

/// The leaf of a step over floats; they read nothing behind their operands.
fn floats(step: &Step, wide: bool) -> Option<Leaf> {
    match step.what {
        What::Quantize { .. } => quantize::leaf(step, wide),
        What::SoftmaxFloat { .. } => softmax::leaf(step, wide),
        What::ConvFloat { .. } => float::conv(step, wide),
        What::MatMulFloat { .. } => float::matmul(step, wide),
        _ => None,
    }
}

/// The leaf in 256 bits of a step that reads codes.
fn coded(program: &Program, step: &Step, dot: narrow::Dot) -> Option<Leaf> {
    match step.what {
        What::Expand { .. } => codes::expand(step, false),
        What::ConvBits { .. } if slack(step) => bits::leaf(program, step, false),
        What::ConvCodes { .. } if slack(step) => codes::narrow(program, step, dot),
        _ => None,
    }
}

/// Whether a step is a depthwise layer that leaves may compute.
fn depthwise(step: &Step) -> bool {
    slack(step) && matches!(&step.what, What::Conv { conv, .. } if conv.layout == WeightLayout::Depthwise)
}

fn narrow_leaf(program: &Program, step: &Step, dot: narrow::Dot, ahead: Option<Ahead>) -> Option<Leaf> {
    match step.what {
        What::Conv { .. } if slack(step) => conv::narrow(step, conv::bounds(program, step)?, dot, ahead),
        What::MatMulBytes { .. } if slack(step) => product(program, step, |layer, bounds| conv::narrow(layer, bounds, dot, None)),
        _ => None,
    }
}

/// The leaf of one of the products of a step, as that of a layer whose sums are within bounds.
fn product(program: &Program, step: &Step, leaf: impl Fn(&Step, Bounds) -> Option<Leaf>) -> Option<Leaf> {
    let What::MatMulBytes { product, signed, end, largest } = &step.what else { return None };
    let what = What::Conv { conv: product.layer(), zero: 0, signed: *signed, residual_signed: false, end: *end };
    let scales = constant(program, step.reads.get(3)?)?.as_chunks::<4>().0.iter().map(|s| f64::from(f32::from_le_bytes(*s)));
    let largest = i64::from(*largest);
    let bounds = Bounds { lo: -largest, hi: largest, scaled: largest as f64 * scales.fold(0.0, f64::max) };
    leaf(&Step { what, ..step.clone() }, bounds)
}

/// Leaves may read behind the ends of their operands, which callers' buffers do not allow.
fn slack(step: &Step) -> bool {
    [0, 4].into_iter().all(|i| step.reads.get(i).is_none_or(|s| !matches!(s.base, Base::Input(_) | Base::Output(_))))
}

/// The instructions of an x86-64 leaf as text, up to its one return; the literals behind that as bytes.
pub fn disassemble(code: &[u8]) -> String {
    let (mut text, mut line) = (String::new(), String::new());
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    while decoder.can_decode() {
        let at = decoder.position();
        let instruction = decoder.decode();
        line.clear();
        formatter.format(&instruction, &mut line);
        text.push_str(&format!("  {at:04x}: {line}\n"));
        if instruction.mnemonic() == Mnemonic::Ret {
            break;
        }
    }
    let start = decoder.position();
    for (i, line) in code[start..].chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        text.push_str(&format!("  {:04x}: {}\n", start + 16 * i, hex.join(" ")));
    }
    text
}

/// The constant bytes behind a slot.
fn constant<'p>(program: &'p Program, slot: &Slot) -> Option<&'p [u8]> {
    let Base::Blob(blob) = slot.base else { return None };
    program.blobs.get(blob)?.bytes.get(slot.offset..slot.offset + slot.bytes)
}
