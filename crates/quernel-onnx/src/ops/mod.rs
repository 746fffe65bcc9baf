//! One builder per ONNX operator.

mod convs;
mod elementwise;
mod layout;
mod logic;
mod norms;
mod padding;
mod pools;
mod quant;
mod recurrent;
mod reduce;
mod resize;
mod transposed;
mod values;

pub use layout::slice_axis;

use crate::{
    NEWEST_OPSET, OLDEST_OPSET,
    node::{Built, NodeCx},
};

/// A supported operator.
#[derive(Debug)]
pub struct Operator {
    /// Its name.
    pub name: &'static str,
    /// What is not supported of it; empty when all is.
    pub note: &'static str,
    /// Attributes of any version; every other one is an error.
    pub(crate) attributes: &'static [&'static str],
    pub(crate) build: fn(&mut NodeCx<'_>) -> Built,
}

impl Operator {
    /// The first operator set that has it; those that are older than everything understood count as version 1.
    pub fn since(&self) -> i64 {
        match self.name {
            "Expand" => 8,
            "ConstantOfShape" | "Erf" | "EyeLike" | "IsNaN" | "Where" => 9,
            "Acosh" | "Asinh" | "Atanh" | "Cosh" | "Shrink" | "Sign" | "Sinh" => 9,
            "MatMulInteger" | "ConvInteger" | "QLinearConv" | "QLinearMatMul" | "QuantizeLinear" | "DequantizeLinear" | "IsInf" | "Mod"
            | "ThresholdedRelu" => 10,
            "DynamicQuantizeLinear" => 11,
            "BitShift" | "Range" | "Round" => 11,
            "Celu" | "GreaterOrEqual" | "LessOrEqual" => 12,
            "HardSwish" => 14,
            "CastLike" => 15,
            "LayerNormalization" => 17,
            "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "Mish" => 18,
            "Gelu" => 20,
            "Swish" => 24,
            "BitCast" => 26,
            _ => 1,
        }
    }
}

macro_rules! operators {
    ($(#[$doc:meta])* $table:ident: $($name:literal $build:path [$($attribute:literal)*] $note:literal;)*) => {
        $(#[$doc])*
        pub const $table: &[Operator] = &[
            $(Operator { name: $name, note: $note, attributes: &[$($attribute),*], build: $build }),*
        ];
    };
}

operators! {
    /// Every supported operator of the default domain, by name.
    SUPPORTED:
    "Abs" elementwise::abs [] "";
    "Acos" elementwise::acos [] "";
    "Acosh" elementwise::acosh [] "";
    "Add" elementwise::add [] "";
    "And" logic::and [] "";
    "Asin" elementwise::asin [] "";
    "Asinh" elementwise::asinh [] "";
    "Atan" elementwise::atan [] "";
    "Atanh" elementwise::atanh [] "";
    "AveragePool" pools::average ["auto_pad" "ceil_mode" "count_include_pad" "dilations" "kernel_shape" "pads" "strides"] "1-D and 2-D";
    "BatchNormalization" norms::batch ["epsilon" "momentum" "spatial" "training_mode"] "inference only";
    "BitCast" values::bit_cast ["to"] "";
    "BitShift" logic::shift ["direction"] "";
    "BitwiseAnd" logic::bitwise_and [] "";
    "BitwiseNot" logic::not [] "";
    "BitwiseOr" logic::bitwise_or [] "";
    "BitwiseXor" logic::bitwise_xor [] "";
    "Cast" values::cast ["to" "saturate" "round_mode"] "between plain types";
    "CastLike" values::cast_like ["saturate" "round_mode"] "";
    "Ceil" elementwise::ceil [] "";
    "Celu" elementwise::celu ["alpha"] "";
    "Clip" elementwise::clip ["min" "max"] "";
    "Concat" layout::concat ["axis"] "";
    "Constant" values::constant ["value" "value_float" "value_floats" "value_int" "value_ints" "value_string" "value_strings" "sparse_value"] "dense numbers";
    "ConstantOfShape" values::constant_of_shape ["value"] "constant shape";
    "Conv" convs::conv ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D and 2-D";
    "ConvInteger" quant::conv_integer ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D and 2-D; sums as floats, exact up to 2^24";
    "ConvTranspose" transposed::conv_transpose ["auto_pad" "dilations" "group" "kernel_shape" "output_padding" "output_shape" "pads" "strides"] "1-D and 2-D, constant weights";
    "Cos" elementwise::cos [] "";
    "Cosh" elementwise::cosh [] "";
    "DepthToSpace" layout::depth_to_space ["blocksize" "mode"] "";
    "DequantizeLinear" quant::dequantize ["axis" "block_size" "output_dtype"] "integers of up to 32 bits";
    "Div" elementwise::div [] "";
    "Dropout" values::dropout ["ratio" "seed" "is_test"] "inference only";
    "DynamicQuantizeLinear" quant::dynamic [] "";
    "Elu" elementwise::elu ["alpha"] "";
    "Equal" logic::equal [] "";
    "Erf" elementwise::erf [] "";
    "Exp" elementwise::exp [] "";
    "Expand" layout::expand [] "constant shape";
    "EyeLike" values::eye_like ["dtype" "k"] "";
    "Flatten" layout::flatten ["axis"] "";
    "Floor" elementwise::floor [] "";
    "GRU" recurrent::gru ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout" "linear_before_reset"] "unrolled over time; sequences of one length";
    "Gather" layout::gather ["axis"] "constant indices";
    "Gelu" elementwise::gelu ["approximate"] "";
    "Gemm" convs::gemm ["alpha" "beta" "transA" "transB"] "";
    "GlobalAveragePool" pools::global_average [] "";
    "GlobalMaxPool" pools::global_max [] "";
    "Greater" logic::greater [] "";
    "GreaterOrEqual" logic::greater_or_equal [] "";
    "HardSigmoid" elementwise::hard_sigmoid ["alpha" "beta"] "";
    "HardSwish" elementwise::hard_swish [] "";
    "Identity" values::identity [] "";
    "InstanceNormalization" norms::instance ["epsilon"] "";
    "IsInf" logic::is_inf ["detect_negative" "detect_positive"] "";
    "IsNaN" logic::is_nan [] "";
    "LSTM" recurrent::lstm ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout" "input_forget"] "unrolled over time; sequences of one length";
    "LayerNormalization" norms::layer ["axis" "epsilon" "stash_type"] "first result";
    "LeakyRelu" elementwise::leaky_relu ["alpha"] "";
    "Less" logic::less [] "";
    "LessOrEqual" logic::less_or_equal [] "";
    "Log" elementwise::log [] "";
    "LogSoftmax" norms::log_softmax ["axis"] "";
    "MatMul" convs::matmul [] "";
    "MatMulInteger" quant::matmul_integer [] "sums as floats, exact up to 2^24";
    "Max" elementwise::max [] "";
    "MaxPool" pools::max ["auto_pad" "ceil_mode" "dilations" "kernel_shape" "pads" "storage_order" "strides"] "1-D and 2-D, first result";
    "Mean" elementwise::mean [] "";
    "Min" elementwise::min [] "";
    "Mish" elementwise::mish [] "";
    "Mod" elementwise::modulo ["fmod"] "";
    "Mul" elementwise::mul [] "";
    "Neg" elementwise::neg [] "";
    "Not" logic::not [] "";
    "Or" logic::or [] "";
    "PRelu" elementwise::prelu [] "";
    "Pad" padding::pad ["mode" "pads" "value"] "constant pads";
    "Pow" elementwise::pow [] "";
    "QLinearConv" quant::conv ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D and 2-D";
    "QLinearMatMul" quant::matmul [] "";
    "QuantizeLinear" quant::quantize ["axis" "block_size" "output_dtype" "precision" "saturate"] "one scale per tensor; constants also per channel";
    "RNN" recurrent::rnn ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout"] "unrolled over time; sequences of one length";
    "Range" values::range ["stash_type"] "constant operands";
    "Reciprocal" elementwise::reciprocal [] "";
    "ReduceL2" reduce::l2 ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMax" reduce::max ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMean" reduce::mean ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMin" reduce::min ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceSum" reduce::sum ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceSumSquare" reduce::sum_square ["axes" "keepdims" "noop_with_empty_axes"] "";
    "Relu" elementwise::relu [] "";
    "Reshape" layout::reshape ["allowzero"] "constant shape";
    "Resize" resize::resize ["antialias" "axes" "coordinate_transformation_mode" "cubic_coeff_a" "exclude_outside" "extrapolation_value" "keep_aspect_ratio_policy" "mode" "nearest_mode"] "no cropping, no antialiasing";
    "Round" elementwise::round [] "";
    "Selu" elementwise::selu ["alpha" "gamma"] "";
    "Shape" values::shape ["start" "end"] "";
    "Shrink" elementwise::shrink ["bias" "lambd"] "";
    "Sigmoid" elementwise::sigmoid [] "";
    "Sign" elementwise::sign [] "";
    "Sin" elementwise::sin [] "";
    "Sinh" elementwise::sinh [] "";
    "Size" values::shape [] "";
    "Slice" layout::slice ["axes" "ends" "starts"] "constant bounds";
    "Softmax" norms::softmax ["axis"] "";
    "Softplus" elementwise::softplus [] "";
    "Softsign" elementwise::softsign [] "";
    "SpaceToDepth" layout::space_to_depth ["blocksize"] "";
    "Split" layout::split ["axis" "num_outputs" "split"] "constant parts";
    "Sqrt" elementwise::sqrt [] "";
    "Squeeze" layout::squeeze ["axes"] "";
    "Sub" elementwise::sub [] "";
    "Sum" elementwise::sum [] "";
    "Swish" elementwise::swish ["alpha"] "";
    "Tan" elementwise::tan [] "";
    "Tanh" elementwise::tanh [] "";
    "ThresholdedRelu" elementwise::thresholded_relu ["alpha"] "";
    "Transpose" layout::transpose ["perm"] "";
    "Unsqueeze" layout::unsqueeze ["axes"] "";
    "Upsample" resize::upsample ["mode" "scales"] "";
    "Where" logic::choose [] "";
    "Xor" logic::xor [] "";
}

operators! {
    /// Every supported operator of the domain `com.microsoft`, by name.
    MICROSOFT:
    "DequantizeLinear" quant::dequantize ["axis" "block_size" "output_dtype"] "as in the default domain";
    "QGemm" quant::gemm ["alpha" "transA" "transB"] "";
    "QLinearAdd" quant::add [] "";
    "QLinearAveragePool" quant::average_pool ["auto_pad" "ceil_mode" "channels_last" "count_include_pad" "kernel_shape" "pads" "strides"] "1-D and 2-D, channels first";
    "QLinearConcat" quant::concat ["axis"] "";
    "QLinearGlobalAveragePool" quant::global_average_pool ["channels_last"] "channels first";
    "QLinearLeakyRelu" quant::leaky_relu ["alpha"] "";
    "QLinearMul" quant::mul [] "";
    "QLinearSigmoid" quant::sigmoid [] "";
    "QLinearSoftmax" quant::softmax ["axis" "opset"] "";
    "QuantizeLinear" quant::quantize ["axis" "block_size" "output_dtype" "precision" "saturate"] "as in the default domain";
}

/// The operator of that name in a domain.
pub fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    let table = match domain {
        "" | "ai.onnx" => SUPPORTED,
        "com.microsoft" => MICROSOFT,
        _ => return None,
    };
    table.binary_search_by(|o| o.name.cmp(name)).ok().map(|i| &table[i])
}

impl Operator {
    /// Whether it takes stored integers for what they are. Others would read them without their scale.
    pub(crate) fn takes_integers(&self) -> bool {
        let quantized = self.name.starts_with('Q') || self.name.ends_with("Integer") || self.name == "DequantizeLinear";
        let moves = [
            "Concat",
            "DepthToSpace",
            "Dropout",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "MaxPool",
            "Pad",
            "Reshape",
            "Shape",
            "Size",
            "Slice",
            "SpaceToDepth",
            "Split",
            "Squeeze",
            "Transpose",
            "Unsqueeze",
        ];
        quantized || moves.contains(&self.name)
    }
}

/// The page `docs/supported-ops.md`; `cargo xtask docs` writes it.
pub fn supported_ops_markdown() -> String {
    let mut page = format!(
        "<!-- Written by `cargo xtask docs` from crates/quernel-onnx/src/ops/mod.rs; do not edit. -->\n\n# Supported ONNX operators\n\n\
         Operator sets {OLDEST_OPSET} to {NEWEST_OPSET} of the default domain. A model that holds anything else is refused with a list of\n\
         everything unsupported in it.\n\n| operator | supported |\n| --- | --- |\n"
    );
    let rows = |table: &[Operator]| -> String {
        table.iter().map(|o| format!("| {} | {} |\n", o.name, if o.note.is_empty() { "yes" } else { o.note })).collect()
    };
    page += &rows(SUPPORTED);
    page += "\nOf the domain `com.microsoft`, in which ONNX Runtime writes quantized models:\n\n| operator | supported |\n| --- | --- |\n";
    page += &rows(MICROSOFT);
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_sorted() {
        assert!([super::SUPPORTED, super::MICROSOFT].iter().all(|t| t.windows(2).all(|w| w[0].name < w[1].name)));
    }
}
