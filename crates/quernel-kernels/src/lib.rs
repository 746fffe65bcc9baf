//! Catalogue of kernels: pure data, no code.
//!
//! A [`Family`] is one contract that every target implements at least once (the portable kernel) and some levels
//! implement faster. [`choose`] names the family of a step; lowering stores the name in the step's `how`, the code
//! generator picks the best implementation its level has, and the interpreter ignores it.
//!
//! **What is absent:** instruction selection, tiles of a particular level and measured cost: those live beside the
//! emitters.

use quernel_ir::{
    PoolKind, Scalar,
    program::{WeightDims, WeightLayout, What},
};

/// One contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Unique name, `operation_operands_packing`: u8, s8, f32 for element types. `u8` families serve two's
    /// complement operands too; the step says which.
    pub name: &'static str,
    /// What it computes and what it may assume, in a sentence.
    pub contract: &'static str,
    /// How its constant operand is packed; empty when it has none.
    pub packing: &'static str,
    /// Multiply-accumulates one inner instruction can do at best on 512 bits; 0 for kernels bound by memory.
    pub macs_per_vector: u32,
}

macro_rules! families {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $contract:literal, $packing:literal, $macs:literal;)*) => {
        $($(#[$doc])* pub const $id: Family = Family { name: $name, contract: $contract, packing: $packing, macs_per_vector: $macs };)*
        /// Every family.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    /// Integer convolution or product over packed panels.
    CONV_U8S8_PANELS = "conv_u8s8_panels", "8-bit convolution, wrapping i32 sums, one rounding; window inside the operand view", "[panel][segment][k/4][16][4] i8", 64;
    /// Integer depthwise convolution.
    CONV_U8S8_DEPTHWISE = "conv_u8s8_depthwise", "8-bit depthwise convolution, wrapping i32 sums, one rounding", "[ky][kx][channels to 16] i8", 64;
    /// Integer convolution with few channels per group.
    CONV_U8S8_PLAIN = "conv_u8s8_plain", "8-bit convolution of any grouping, wrapping i32 sums, one rounding", "[o][ky][kx][i] i8", 1;
    /// Convolution or product of words over packed panels.
    CONV_S16S8_PANELS = "conv_s16s8_panels", "convolution of 16-bit words by i8, wrapping i32 sums, one rounding; window inside the operand view", "[panel][segment][k/2][16][2] i8", 32;
    /// Depthwise convolution of words.
    CONV_S16S8_DEPTHWISE = "conv_s16s8_depthwise", "depthwise convolution of 16-bit words by i8, wrapping i32 sums, one rounding", "[ky][kx][channels to 16] i8", 64;
    /// Convolution of words with few channels per group.
    CONV_S16S8_PLAIN = "conv_s16s8_plain", "convolution of 16-bit words of any grouping, wrapping i32 sums, one rounding", "[o][ky][kx][i] i8", 1;
    /// Integer product over panels of codes.
    CONV_CODES = "conv_codes", "8-bit product by weights of 4, 2 or 1 bits through a table, wrapping i32 sums, one rounding", "[panel][k in units of codes] and i8[16]", 64;
    /// Product of bits.
    CONV_BITS = "conv_bits", "operands 0 and 1 by weights -1 and 1: popcounts of exclusive ors, one rounding", "[panel][segment][k/32][16] words of bits", 512;
    /// Bytes to bits.
    PACK_BITS = "pack_bits", "the lowest bit of each byte, 32 to a word", "", 0;
    /// Codes to bytes.
    EXPAND = "expand_codes", "codes of 4, 2 or 1 bits through a table of bytes", "units of 64 bytes of codes and i8[16]", 0;
    /// Codes to floats.
    EXPAND_F32 = "expand_codes_f32", "codes of 8, 4, 2 or 1 bits to f32, a scale per group of taps", "units of 64 bytes of codes, f32 scales and i8[16]", 0;
    /// Float convolution or product over packed panels.
    CONV_F32_PANELS = "conv_f32_panels", "f32 convolution, taps in order ky, kx, i, no contraction", "[panel][segment][k][16] f32", 16;
    /// Float depthwise convolution.
    CONV_F32_DEPTHWISE = "conv_f32_depthwise", "f32 depthwise convolution, taps in order ky, kx, no contraction", "[ky][kx][channels to 16] f32", 16;
    /// Float convolution with few channels per group.
    CONV_F32_PLAIN = "conv_f32_plain", "f32 convolution of any grouping, taps in order, no contraction", "[o][ky][kx][i] f32", 1;
    /// Largest byte of a window.
    POOL_MAX_U8 = "pool_max_u8", "largest valid byte of a window", "", 0;
    /// Average of a window of bytes.
    POOL_AVERAGE_U8 = "pool_average_u8", "exact sum of a window of bytes, one rounding", "", 0;
    /// Largest float of a window.
    POOL_MAX_F32 = "pool_max_f32", "largest valid f32 of a window", "", 0;
    /// Average of a window of floats.
    POOL_AVERAGE_F32 = "pool_average_f32", "sum of a window in order, divided by the count", "", 0;
    /// f32 to bytes.
    QUANTIZE_U8 = "quantize_u8", "f32 to bytes with IEEE division", "", 0;
    /// Bytes to f32.
    DEQUANTIZE_U8 = "dequantize_u8", "bytes to f32", "", 0;
    /// f32 to words.
    QUANTIZE_U16 = "quantize_u16", "f32 to words of 16 bits with IEEE division", "", 0;
    /// Words to f32.
    DEQUANTIZE_U16 = "dequantize_u16", "words of 16 bits to f32", "", 0;
    /// Function of one byte.
    LOOKUP_U8 = "lookup_u8", "table of 256 bytes", "u8[256]", 0;
    /// Function of one float.
    UNARY_F32 = "unary_f32", "f32 function by separate multiplies and adds", "", 0;
    /// Function of two bytes.
    BINARY_U8 = "binary_u8", "dequantize two bytes, operate, quantize, over strides", "", 0;
    /// Function of two floats.
    BINARY_F32 = "binary_f32", "function of two f32 over strides, then clip", "", 0;
    /// Function of one double.
    UNARY_F64 = "unary_f64", "function of one f64 that IEEE-754 rounds correctly", "", 0;
    /// Function of two doubles.
    BINARY_F64 = "binary_f64", "function of two f64 over strides", "", 0;
    /// Function of two integers.
    BINARY_INT = "binary_int", "wrapping function of two integers or bools over strides", "", 0;
    /// Relation of two elements.
    COMPARE = "compare", "relation of two plain elements over strides, to bool", "", 0;
    /// Choice between two elements.
    SELECT = "select", "choice between two elements by a bool over strides", "", 0;
    /// Change of a plain type.
    CAST = "cast", "between plain types", "", 0;
    /// Product of two computed matrices.
    MATMUL_F32 = "matmul_f32", "batched f32 product in order of k, no contraction", "", 16;
    /// Panels of a computed right operand.
    PACK_PANELS = "pack_panels", "bytes over strides to panels of signed weights, and the biases that their sums make", "", 0;
    /// Integer product of two computed matrices.
    MATMUL_U8S8 = "matmul_u8s8", "8-bit products over panels packed at run time, wrapping i32 sums, one rounding", "[set][panel][segment][k/4][16][4] i8", 64;
    /// Reduction of floats.
    REDUCE_F32 = "reduce_f32", "f32 reduction along one axis; sums by 16 lanes", "", 0;
    /// Softmax of floats.
    SOFTMAX_F32 = "softmax_f32", "f32 softmax along one axis; sum by 16 lanes", "", 0;
    /// Softmax of bytes.
    SOFTMAX_U8 = "softmax_u8", "softmax of bytes by table, exact sum, one division per row", "u32[256]", 0;
    /// Layer normalization of bytes.
    LAYER_NORM_U8 = "layer_norm_u8", "normalized rows of bytes: exact sums, mean and variance in f64, one rounding", "", 0;
    /// Elements that indices name.
    GATHER = "gather", "elements at computed places, clamped to their axes", "", 0;
    /// Writes to elements that indices name.
    SCATTER = "scatter", "combines elements at computed places, in order", "", 0;
    /// Reduction of doubles.
    REDUCE_F64 = "reduce_f64", "f64 reduction along one axis; sums by 16 lanes", "", 0;
    /// Reduction of integers.
    REDUCE_INT = "reduce_int", "wrapping reduction of integers or bools along one axis", "", 0;
    /// Running totals.
    CUMULATIVE = "cumulative", "running sums or products along one axis, in order", "", 0;
    /// Largest elements of an axis.
    TOP_K = "top_k", "indices of the largest elements by a heap", "", 0;
    /// Strided copy.
    MOVE = "move", "copies elements over strides", "", 0;
    /// Strided fill.
    FILL = "fill", "fills elements over strides", "", 0;
}

/// The family of a step.
pub fn choose(what: &What) -> &'static Family {
    match what {
        What::Conv { conv, .. } => match conv.layout {
            WeightLayout::Panels { .. } => &CONV_U8S8_PANELS,
            WeightLayout::Depthwise => &CONV_U8S8_DEPTHWISE,
            WeightLayout::Plain => &CONV_U8S8_PLAIN,
        },
        What::ConvWords { conv, .. } => match conv.layout {
            WeightLayout::Panels { .. } => &CONV_S16S8_PANELS,
            WeightLayout::Depthwise => &CONV_S16S8_DEPTHWISE,
            WeightLayout::Plain => &CONV_S16S8_PLAIN,
        },
        What::ConvCodes { .. } => &CONV_CODES,
        What::ConvBits { .. } => &CONV_BITS,
        What::PackBits { .. } => &PACK_BITS,
        What::Expand { .. } => &EXPAND,
        What::ExpandFloat { .. } => &EXPAND_F32,
        What::ConvFloat { conv, .. } => match conv.layout {
            WeightLayout::Panels { .. } => &CONV_F32_PANELS,
            WeightLayout::Depthwise => &CONV_F32_DEPTHWISE,
            WeightLayout::Plain => &CONV_F32_PLAIN,
        },
        What::Pool { kind: PoolKind::Max, .. } => &POOL_MAX_U8,
        What::Pool { kind: PoolKind::Average { .. }, .. } => &POOL_AVERAGE_U8,
        What::PoolFloat { kind: PoolKind::Max, .. } => &POOL_MAX_F32,
        What::PoolFloat { kind: PoolKind::Average { .. }, .. } => &POOL_AVERAGE_F32,
        What::Quantize { width: 2, .. } => &QUANTIZE_U16,
        What::Quantize { .. } => &QUANTIZE_U8,
        What::Dequantize { width: 2, .. } => &DEQUANTIZE_U16,
        What::Dequantize { .. } => &DEQUANTIZE_U8,
        What::Lookup { .. } => &LOOKUP_U8,
        What::UnaryFloat { .. } => &UNARY_F32,
        What::BinaryBytes { .. } => &BINARY_U8,
        What::BinaryFloat { .. } => &BINARY_F32,
        What::UnaryDouble { .. } => &UNARY_F64,
        What::BinaryPlain { scalar: Scalar::F64, .. } => &BINARY_F64,
        What::BinaryPlain { .. } => &BINARY_INT,
        What::Compare { .. } => &COMPARE,
        What::Select { .. } => &SELECT,
        What::Cast { .. } => &CAST,
        What::MatMulFloat { .. } => &MATMUL_F32,
        What::PackPanels { .. } => &PACK_PANELS,
        What::MatMulBytes { .. } => &MATMUL_U8S8,
        What::ReduceFloat { .. } => &REDUCE_F32,
        What::SoftmaxFloat { .. } => &SOFTMAX_F32,
        What::SoftmaxBytes { .. } => &SOFTMAX_U8,
        What::LayerNorm { .. } => &LAYER_NORM_U8,
        What::Gather { .. } => &GATHER,
        What::Scatter { .. } => &SCATTER,
        What::Reduce { elem: Scalar::F64, .. } => &REDUCE_F64,
        What::Reduce { .. } => &REDUCE_INT,
        What::Cumulative { .. } => &CUMULATIVE,
        What::TopK { .. } => &TOP_K,
        What::Move { .. } => &MOVE,
        What::Fill { .. } => &FILL,
    }
}

/// The family called `name`.
pub fn family(name: &str) -> Option<&'static Family> {
    ALL.iter().find(|f| f.name == name)
}

/// How the weights of a convolution are packed, given the element width (1 for bytes, 2 for words, 4 for f32) and whether a
/// pixel's channels are followed directly by the next pixel's, with the kernel's columns undilated.
///
/// * one input channel per output channel: channels side by side;
/// * groups too narrow to fill half a panel: plain;
/// * everything else: panels, a whole kernel row as one segment where it is contiguous in memory.
pub fn packing(d: WeightDims, width: usize, contiguous: bool) -> WeightLayout {
    if d.groups > 1 && d.i == 1 && d.o == d.groups {
        WeightLayout::Depthwise
    } else if d.groups > 1 && d.o / d.groups < quernel_ir::program::PANEL / 2 {
        WeightLayout::Plain
    } else {
        WeightLayout::Panels { contiguous: contiguous && d.groups == 1, depth: 4 / width }
    }
}

/// Bytes a step reads and writes at least once, constants included: the floor of its cost where it has no
/// multiplications.
pub fn traffic(step: &quernel_ir::program::Step) -> usize {
    step.reads.iter().chain(&step.writes).map(|s| s.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<&str> = ALL.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(family("conv_u8s8_panels"), Some(&CONV_U8S8_PANELS));
        assert_eq!(family("conv_u8s8"), None);
    }

    #[test]
    fn packing_follows_the_shape() {
        let d = |o, i, groups| WeightDims { o, i, kh: 3, kw: 3, groups };
        assert_eq!(packing(d(32, 1, 32), 1, true), WeightLayout::Depthwise);
        assert_eq!(packing(d(8, 2, 4), 1, true), WeightLayout::Plain);
        assert_eq!(packing(d(32, 8, 2), 1, true), WeightLayout::Panels { contiguous: false, depth: 4 });
        assert_eq!(packing(d(8, 3, 1), 1, true), WeightLayout::Panels { contiguous: true, depth: 4 });
        assert_eq!(packing(d(1, 1, 1), 4, false), WeightLayout::Panels { contiguous: false, depth: 1 });
    }
}
