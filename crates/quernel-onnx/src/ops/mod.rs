//! One builder per ONNX operator.

pub mod attention;
mod convs;
mod cumulative;
mod einsum;
mod elementwise;
mod grid;
mod indices;
mod layout;
mod logic;
mod losses;
mod masks;
mod nbits;
mod norms;
mod order;
mod padding;
mod pools;
mod qlinear;
mod qonnx;
mod quant;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod rotary;
mod selection;
mod signal;
mod small_floats;
mod spatial;
mod transposed;
mod unpool;
mod values;
mod volumes;

pub use layout::slice_axis;

use crate::{
    NEWEST_OPSET, OLDEST_OPSET,
    node::{Built, NodeCx},
};
use std::collections::BTreeMap;

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
    /// The first operator set that has it.
    pub fn since(&self) -> i64 {
        match self.name {
            "Acos" | "Asin" | "Atan" | "Cos" | "Multinomial" | "Sin" | "Tan" => 7,
            "Expand" => 8,
            "Acosh"
            | "Asinh"
            | "Atanh"
            | "Compress"
            | "ConstantOfShape"
            | "Cosh"
            | "Erf"
            | "EyeLike"
            | "IsNaN"
            | "MaxUnpool"
            | "MeanVarianceNormalization"
            | "NonZero"
            | "OneHot"
            | "Scatter"
            | "Shrink"
            | "Sign"
            | "Sinh"
            | "Where" => 9,
            "NonMaxSuppression" | "ReverseSequence" | "RoiAlign" | "ThresholdedRelu" => 10,
            "BitShift"
            | "CumSum"
            | "Det"
            | "DynamicQuantizeLinear"
            | "GatherElements"
            | "GatherND"
            | "Range"
            | "Round"
            | "ScatterElements"
            | "ScatterND"
            | "Unique" => 11,
            "Celu" | "Einsum" | "GreaterOrEqual" | "LessOrEqual" | "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => 12,
            "HardSwish" | "Trilu" => 14,
            "Bernoulli" | "CastLike" => 15,
            "GridSample" => 16,
            "BlackmanWindow" | "DFT" | "HammingWindow" | "HannWindow" | "LayerNormalization" | "MelWeightMatrix" | "STFT" => 17,
            "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "CenterCropPad" | "Col2Im" | "GroupNormalization" | "Mish" => 18,
            "DeformConv" => 19,
            "AffineGrid" | "Gelu" => 20,
            "Attention" | "RMSNormalization" | "RotaryEmbedding" => 23,
            "Swish" | "TensorScatter" => 24,
            "BitCast" | "CumProd" => 26,
            "CausalConvWithState" | "LinearAttention" => 27,
            "SwiGLU" => 28,
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
    "AffineGrid" spatial::affine_grid ["align_corners"] "constant size";
    "And" logic::and [] "";
    "ArgMax" order::arg_max ["axis" "keepdims" "select_last_index"] "";
    "ArgMin" order::arg_min ["axis" "keepdims" "select_last_index"] "";
    "Asin" elementwise::asin [] "";
    "Asinh" elementwise::asinh [] "";
    "Atan" elementwise::atan [] "";
    "Atanh" elementwise::atanh [] "";
    "Attention" attention::attention ["is_causal" "kv_num_heads" "left_window_size" "q_num_heads" "qk_matmul_output_mode" "right_window_size" "scale" "softcap" "softmax_precision"] "";
    "AveragePool" pools::average ["auto_pad" "ceil_mode" "count_include_pad" "dilations" "kernel_shape" "pads" "strides"] "1-D to 3-D";
    "BatchNormalization" norms::batch ["epsilon" "momentum" "spatial" "training_mode"] "";
    "Bernoulli" random::bernoulli ["dtype" "seed"] "numbers are drawn at compile time";
    "BitCast" values::bit_cast ["to"] "";
    "BitShift" logic::shift ["direction"] "";
    "BitwiseAnd" logic::bitwise_and [] "";
    "BitwiseNot" logic::not [] "";
    "BitwiseOr" logic::bitwise_or [] "";
    "BitwiseXor" logic::bitwise_xor [] "";
    "BlackmanWindow" signal::blackman ["output_datatype" "periodic"] "constant size";
    "Cast" values::cast ["to" "saturate" "round_mode"] "";
    "CastLike" values::cast_like ["saturate" "round_mode"] "";
    "CausalConvWithState" rotary::causal_conv ["activation"] "";
    "Ceil" elementwise::ceil [] "";
    "Celu" elementwise::celu ["alpha"] "";
    "CenterCropPad" spatial::center_crop_pad ["axes"] "constant shape";
    "Clip" elementwise::clip ["min" "max"] "";
    "Col2Im" spatial::col2im ["dilations" "pads" "strides"] "constant shapes";
    "Compress" selection::compress ["axis"] "constant condition";
    "Concat" layout::concat ["axis"] "";
    "Constant" values::constant ["value" "value_float" "value_floats" "value_int" "value_ints" "value_string" "value_strings" "sparse_value"] "dense numbers";
    "ConstantOfShape" values::constant_of_shape ["value"] "constant shape";
    "Conv" convs::conv ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D to 3-D";
    "ConvInteger" qlinear::conv_integer ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D and 2-D; sums as floats, exact up to 2^24";
    "ConvTranspose" transposed::conv_transpose ["auto_pad" "dilations" "group" "kernel_shape" "output_padding" "output_shape" "pads" "strides"] "1-D to 3-D, constant weights";
    "Cos" elementwise::cos [] "";
    "Cosh" elementwise::cosh [] "";
    "CumProd" cumulative::product ["exclusive" "reverse"] "constant axis";
    "CumSum" cumulative::sum ["exclusive" "reverse"] "constant axis";
    "DFT" signal::dft ["axis" "inverse" "onesided"] "constant length and axis";
    "DeformConv" grid::deform_conv ["dilations" "group" "kernel_shape" "offset_group" "pads" "strides"] "2-D";
    "DepthToSpace" layout::depth_to_space ["blocksize" "mode"] "";
    "DequantizeLinear" quant::dequantize ["axis" "block_size" "output_dtype"] "";
    "Det" spatial::determinant [] "up to 16 rows";
    "Div" elementwise::div [] "";
    "Dropout" values::dropout ["ratio" "seed" "is_test"] "inference only";
    "DynamicQuantizeLinear" quant::dynamic [] "";
    "Einsum" einsum::einsum ["equation"] "";
    "Elu" elementwise::elu ["alpha"] "";
    "Equal" logic::equal [] "";
    "Erf" elementwise::erf [] "";
    "Exp" elementwise::exp [] "";
    "Expand" layout::expand [] "constant shape";
    "EyeLike" values::eye_like ["dtype" "k"] "";
    "Flatten" layout::flatten ["axis"] "";
    "Floor" elementwise::floor [] "";
    "GRU" recurrent::gru ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout" "linear_before_reset"] "unrolled over time; sequences of one length";
    "Gather" indices::gather ["axis"] "computed indices are clamped";
    "GatherElements" indices::gather_elements ["axis"] "computed indices are clamped";
    "GatherND" indices::gather_nd ["batch_dims"] "computed indices are clamped";
    "Gelu" elementwise::gelu ["approximate"] "";
    "Gemm" convs::gemm ["alpha" "beta" "transA" "transB"] "";
    "GlobalAveragePool" pools::global_average [] "";
    "GlobalLpPool" pools::global_lp ["p"] "";
    "GlobalMaxPool" pools::global_max [] "";
    "Greater" logic::greater [] "";
    "GreaterOrEqual" logic::greater_or_equal [] "";
    "GridSample" grid::grid_sample ["align_corners" "mode" "padding_mode"] "1-D to 3-D";
    "GroupNormalization" norms::group ["epsilon" "num_groups" "stash_type"] "";
    "HammingWindow" signal::hamming ["output_datatype" "periodic"] "constant size";
    "HannWindow" signal::hann ["output_datatype" "periodic"] "constant size";
    "HardSigmoid" elementwise::hard_sigmoid ["alpha" "beta"] "";
    "HardSwish" elementwise::hard_swish [] "";
    "Hardmax" masks::hardmax ["axis"] "";
    "Identity" values::identity [] "";
    "InstanceNormalization" norms::instance ["epsilon"] "";
    "IsInf" logic::is_inf ["detect_negative" "detect_positive"] "";
    "IsNaN" logic::is_nan [] "";
    "LRN" norms::local_response ["alpha" "beta" "bias" "size"] "";
    "LSTM" recurrent::lstm ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout" "input_forget"] "unrolled over time; sequences of one length";
    "LayerNormalization" norms::layer ["axis" "epsilon" "stash_type"] "";
    "LeakyRelu" elementwise::leaky_relu ["alpha"] "";
    "Less" logic::less [] "";
    "LessOrEqual" logic::less_or_equal [] "";
    "LinearAttention" rotary::linear_attention ["chunk_size" "kv_num_heads" "q_num_heads" "scale" "update_rule"] "unrolled over the tokens";
    "Log" elementwise::log [] "";
    "LogSoftmax" norms::log_softmax ["axis"] "";
    "LpNormalization" norms::lp ["axis" "p"] "";
    "LpPool" pools::lp ["auto_pad" "ceil_mode" "dilations" "kernel_shape" "p" "pads" "strides"] "1-D to 3-D";
    "MatMul" convs::matmul [] "";
    "MatMulInteger" qlinear::matmul_integer [] "sums as floats, exact up to 2^24";
    "Max" elementwise::max [] "";
    "MaxPool" pools::max ["auto_pad" "ceil_mode" "dilations" "kernel_shape" "pads" "storage_order" "strides"] "1-D to 3-D";
    "MaxRoiPool" grid::max_roi_pool ["pooled_shape" "spatial_scale"] "constant regions";
    "MaxUnpool" unpool::max_unpool ["kernel_shape" "pads" "strides"] "constant shape";
    "Mean" elementwise::mean [] "";
    "MeanVarianceNormalization" norms::mean_variance ["axes"] "";
    "MelWeightMatrix" signal::mel_weights ["output_datatype"] "constant operands";
    "Min" elementwise::min [] "";
    "Mish" elementwise::mish [] "";
    "Mod" elementwise::modulo ["fmod"] "";
    "Mul" elementwise::mul [] "";
    "Multinomial" random::multinomial ["dtype" "sample_size" "seed"] "numbers are drawn at compile time";
    "Neg" elementwise::neg [] "";
    "NegativeLogLikelihoodLoss" losses::negative_log_likelihood ["ignore_index" "reduction"] "";
    "NonMaxSuppression" selection::non_max_suppression ["center_point_box"] "constant operands";
    "NonZero" selection::non_zero [] "constant operand";
    "Not" logic::not [] "";
    "OneHot" masks::one_hot ["axis"] "constant depth";
    "Or" logic::or [] "";
    "PRelu" elementwise::prelu [] "";
    "Pad" padding::pad ["mode" "pads" "value"] "constant pads";
    "Pow" elementwise::pow [] "";
    "QLinearConv" qlinear::conv ["auto_pad" "dilations" "group" "kernel_shape" "pads" "strides"] "1-D and 2-D";
    "QLinearMatMul" qlinear::matmul [] "";
    "QuantizeLinear" quant::quantize ["axis" "block_size" "output_dtype" "precision" "saturate"] "";
    "RMSNormalization" norms::rms ["axis" "epsilon" "stash_type"] "";
    "RNN" recurrent::rnn ["activation_alpha" "activation_beta" "activations" "clip" "direction" "hidden_size" "layout"] "unrolled over time; sequences of one length";
    "RandomNormal" random::normal ["dtype" "mean" "scale" "seed" "shape"] "numbers are drawn at compile time";
    "RandomNormalLike" random::normal_like ["dtype" "mean" "scale" "seed"] "numbers are drawn at compile time";
    "RandomUniform" random::uniform ["dtype" "high" "low" "seed" "shape"] "numbers are drawn at compile time";
    "RandomUniformLike" random::uniform_like ["dtype" "high" "low" "seed"] "numbers are drawn at compile time";
    "Range" values::range ["stash_type"] "constant operands";
    "Reciprocal" elementwise::reciprocal [] "";
    "ReduceL1" reduce::l1 ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceL2" reduce::l2 ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceLogSum" reduce::log_sum ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceLogSumExp" reduce::log_sum_exp ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMax" reduce::max ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMean" reduce::mean ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceMin" reduce::min ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceProd" reduce::prod ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceSum" reduce::sum ["axes" "keepdims" "noop_with_empty_axes"] "";
    "ReduceSumSquare" reduce::sum_square ["axes" "keepdims" "noop_with_empty_axes"] "";
    "Relu" elementwise::relu [] "";
    "Reshape" layout::reshape ["allowzero"] "constant shape";
    "Resize" resize::resize ["antialias" "axes" "coordinate_transformation_mode" "cubic_coeff_a" "exclude_outside" "extrapolation_value" "keep_aspect_ratio_policy" "mode" "nearest_mode"] "";
    "ReverseSequence" indices::reverse_sequence ["batch_axis" "time_axis"] "lengths are clamped";
    "RoiAlign" grid::roi_align ["coordinate_transformation_mode" "mode" "output_height" "output_width" "sampling_ratio" "spatial_scale"] "a number of samples";
    "RotaryEmbedding" rotary::rotary_embedding ["interleaved" "num_heads" "rotary_embedding_dim"] "";
    "Round" elementwise::round [] "";
    "STFT" signal::stft ["onesided"] "constant window";
    "Scatter" indices::scatter_elements ["axis"] "computed indices are clamped";
    "ScatterElements" indices::scatter_elements ["axis" "reduction"] "computed indices are clamped";
    "ScatterND" indices::scatter_nd ["reduction"] "computed indices are clamped";
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
    "SoftmaxCrossEntropyLoss" losses::softmax_cross_entropy ["ignore_index" "reduction"] "";
    "Softplus" elementwise::softplus [] "";
    "Softsign" elementwise::softsign [] "";
    "SpaceToDepth" layout::space_to_depth ["blocksize" "mode"] "";
    "Split" layout::split ["axis" "num_outputs" "split"] "constant parts";
    "Sqrt" elementwise::sqrt [] "";
    "Squeeze" layout::squeeze ["axes"] "";
    "Sub" elementwise::sub [] "";
    "Sum" elementwise::sum [] "";
    "SwiGLU" rotary::swiglu ["alpha"] "";
    "Swish" elementwise::swish ["alpha"] "";
    "Tan" elementwise::tan [] "";
    "Tanh" elementwise::tanh [] "";
    "TensorScatter" indices::tensor_scatter ["axis" "mode"] "computed places are clamped";
    "ThresholdedRelu" elementwise::thresholded_relu ["alpha"] "";
    "Tile" indices::tile [] "constant repeats";
    "TopK" order::top_k ["axis" "k" "largest" "sorted"] "constant k";
    "Transpose" layout::transpose ["perm"] "";
    "Trilu" masks::trilu ["upper"] "";
    "Unique" selection::unique ["axis" "sorted"] "constant operand";
    "Unsqueeze" layout::unsqueeze ["axes"] "";
    "Upsample" resize::upsample ["mode" "scales"] "";
    "Where" logic::choose [] "";
    "Xor" logic::xor [] "";
}

operators! {
    /// Every supported operator of the domain `com.microsoft`, by name.
    MICROSOFT:
    "DequantizeLinear" quant::dequantize ["axis" "block_size" "output_dtype"] "as in the default domain";
    "MatMulNBits" nbits::matmul ["K" "N" "accuracy_level" "bits" "block_size"] "2, 4 and 8 bits, constant weights; computed in floats";
    "QGemm" qlinear::gemm ["alpha" "transA" "transB"] "";
    "QLinearAdd" qlinear::add [] "";
    "QLinearAveragePool" qlinear::average_pool ["auto_pad" "ceil_mode" "channels_last" "count_include_pad" "kernel_shape" "pads" "strides"] "1-D and 2-D";
    "QLinearConcat" qlinear::concat ["axis"] "";
    "QLinearGlobalAveragePool" qlinear::global_average_pool ["channels_last"] "";
    "QLinearLeakyRelu" qlinear::leaky_relu ["alpha"] "";
    "QLinearMul" qlinear::mul [] "";
    "QLinearSigmoid" qlinear::sigmoid [] "";
    "QLinearSoftmax" qlinear::softmax ["axis" "opset"] "";
    "QuantizeLinear" quant::quantize ["axis" "block_size" "output_dtype" "precision" "saturate"] "as in the default domain";
}

operators! {
    /// Every supported operator of QONNX, by name.
    QONNX:
    "BipolarQuant" qonnx::bipolar [] "one scale";
    "IntQuant" qonnx::quant ["narrow" "rounding_mode" "signed"] "as Quant";
    "Quant" qonnx::quant ["narrow" "rounding_mode" "signed"] "constant parameters; computed values round to the nearest, down, or half up";
    "Trunc" qonnx::trunc ["rounding_mode"] "one scale, no zero point; saturates";
}

/// The domains QONNX was written in over time.
const QONNX_DOMAINS: [&str; 3] = ["onnx.brevitas", "finn.custom_op.general", "qonnx.custom_op.general"];

/// The operator of that name in a domain.
pub fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    let table = match domain {
        "" | "ai.onnx" => SUPPORTED,
        "com.microsoft" => MICROSOFT,
        _ if QONNX_DOMAINS.contains(&domain) => QONNX,
        _ => return None,
    };
    table.binary_search_by(|o| o.name.cmp(name)).ok().map(|i| &table[i])
}

impl Operator {
    /// Whether it takes stored integers for what they are. Others would read them without their scale.
    pub(crate) fn takes_integers(&self) -> bool {
        let quantized = self.name.starts_with('Q') || self.name.ends_with("Integer") || self.name == "DequantizeLinear";
        let others = ["ArgMax", "ArgMin", "Dropout", "MaxPool", "Pad", "Shape", "Size", "TopK"];
        quantized || self.moves() || others.contains(&self.name)
    }
    /// Whether it moves the elements of its first operand and does nothing else, whatever they mean.
    pub(crate) fn moves(&self) -> bool {
        let all = [
            "Compress",
            "Concat",
            "DepthToSpace",
            "Expand",
            "Flatten",
            "Gather",
            "GatherElements",
            "GatherND",
            "Identity",
            "Reshape",
            "ReverseSequence",
            "Slice",
            "SpaceToDepth",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        ];
        all.contains(&self.name)
    }
    /// Whether it takes the codes of floats of at most 8 bits for what they mean.
    pub(crate) fn takes_codes(&self) -> bool {
        self.moves() || matches!(self.name, "Cast" | "CastLike" | "DequantizeLinear" | "QuantizeLinear" | "Shape" | "Size")
    }
}

/// Why an operator of the standard is none that a network of tensors needs; `None` for those that are missing for no such reason.
pub fn out_of_scope(domain: &str, name: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    match domain {
        "ai.onnx.ml" => Some("operators of classical machine learning (ai.onnx.ml) are out of scope"),
        "ai.onnx.training" | "ai.onnx.preview.training" => Some("training is out of scope"),
        "" | "ai.onnx" if starts(&["Sequence", "SplitToSequence", "ConcatFromSequence"]) => Some("sequences are out of scope"),
        "" | "ai.onnx" if starts(&["Optional"]) => Some("optional values are out of scope"),
        "" | "ai.onnx" if starts(&["String", "RegexFullMatch", "TfIdfVectorizer"]) => Some("texts are out of scope"),
        "" | "ai.onnx" if starts(&["ImageDecoder"]) => Some("files of pictures are out of scope"),
        _ => None,
    }
}

/// What ONNX's own tests say of an operator: element types, cases passed and in all, what the code works on as it is and with 8 bits.
pub type Tested = BTreeMap<String, [String; 4]>;

/// The page `docs/supported-ops.md`; `cargo xtask docs` writes it.
pub fn supported_ops_markdown(tested: &Tested) -> String {
    let mut page = format!(
        "<!-- Written by `cargo xtask docs` from crates/quernel-onnx/src/ops/mod.rs; do not edit. -->\n\n# Supported ONNX operators\n\n\
         Operator sets {OLDEST_OPSET} to {NEWEST_OPSET} of the default domain. A model that holds anything else is refused with a list of\n\
         everything unsupported in it. What the columns say is measured by ONNX's backend test suite ([conformance.md](conformance.md)):\n\n\
         * *types*: element types of inputs and outputs in cases that pass;\n\
         * *cases*: those that pass, of those there are;\n\
         * *as it is*: what the code of the float case works on;\n\
         * *with 8 bits*: what becomes of a case on floats between integers, calibrated: where a network is quantized and what reads the\n  \
           result computes in integers. Several words are several forms.\n\n\
         | word | the operator is |\n| --- | --- |\n\
         | folded | evaluated at compile time |\n\
         | moves | bytes that are copied, or nothing but another way to read a value; elements of any type |\n\
         | table | a table of 256 bytes |\n\
         | integer | exact integer arithmetic, one rounding |\n\
         | integer layers | matrices and convolutions in integers, float operators around them |\n\
         | float | f32 (f64 on doubles), the same bits on every machine |\n\n\
         | operator | since | types | cases | as it is | with 8 bits | limits |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for o in SUPPORTED {
        let [types, cases, how, quantized] = tested.get(o.name).cloned().unwrap_or_default();
        page += &format!("| {} | {} | {types} | {cases} | {how} | {quantized} | {} |\n", o.name, o.since(), o.note);
    }
    let rows = |table: &[Operator]| -> String {
        table.iter().map(|o| format!("| {} | {} |\n", o.name, if o.note.is_empty() { "yes" } else { o.note })).collect()
    };
    page += "\nOf the domain `com.microsoft`, in which ONNX Runtime writes quantized models:\n\n| operator | supported |\n| --- | --- |\n";
    page += &rows(MICROSOFT);
    page += &format!("\nOf QONNX, in the domains `{}`:\n\n| operator | supported |\n| --- | --- |\n", QONNX_DOMAINS.join("`, `"));
    page += &rows(QONNX);
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_sorted() {
        assert!([super::SUPPORTED, super::MICROSOFT, super::QONNX].iter().all(|t| t.windows(2).all(|w| w[0].name < w[1].name)));
    }
}
