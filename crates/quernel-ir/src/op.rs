//! The closed set of graph operators.
//!
//! Every operator has ONE meaning, which `quernel-interp` executes; the comments here are its contract. Layouts are
//! ONNX's logical ones (`N C spatial..`); memory layout is a matter of lowering. Where an operator accepts
//! quantized operands its integer meaning is the one in [`crate::exact`].

use crate::index::Index;

/// One spatial axis of a sliding window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WindowDim {
    /// Taps.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Step between taps.
    pub dilation: usize,
    /// Padding before the first element.
    pub before: usize,
    /// Padding after the last element.
    pub after: usize,
}

impl WindowDim {
    /// A window of `kernel` taps, stride 1, no padding.
    pub fn new(kernel: usize) -> Self {
        Self { kernel, stride: 1, dilation: 1, before: 0, after: 0 }
    }
    /// Extent the taps span.
    pub fn span(self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
    /// Number of outputs over `extent` inputs; `None` when the window does not fit once.
    pub fn outputs(self, extent: usize) -> Option<usize> {
        let padded = extent.checked_add(self.before)?.checked_add(self.after)?;
        Some((padded.checked_sub(self.span())?) / self.stride + 1)
    }
}

/// A sliding window, one entry per spatial axis (1 to 3).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    /// Outermost axis first.
    pub dims: Vec<WindowDim>,
}

/// The activation a convolution or product ends with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    /// Identity.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, lo), hi)`.
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
}

impl Act {
    /// The real interval the activation maps to.
    pub fn bounds(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Clip { lo, hi } => (lo, hi),
        }
    }
}

/// In which precision the requantization multiplier is formed (see [`crate::exact::multiplier`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Multiplier {
    /// `f32(f64(sx) * f64(sw) / f64(sy))`: our own quantizer.
    F64,
    /// `f32(f32(sx * sw) / sy)`: imported QDQ and QOperator models.
    F32,
}

/// A function of one element.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Unary {
    /// `max(x, 0)`.
    Relu,
    /// `x >= 0 ? x : alpha x`.
    LeakyRelu {
        /// Slope of the negative side.
        alpha: f32,
    },
    /// `min(max(x, lo), hi)`.
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `min(max(alpha x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// `x min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// `x sigmoid(alpha x)`.
    Swish {
        /// 1 for SiLU.
        alpha: f32,
    },
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// Gauss error function.
    Erf,
    /// Natural exponential.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1 / x`.
    Reciprocal,
    /// Negation.
    Neg,
    /// Absolute value.
    Abs,
    /// The largest integer not above.
    Floor,
    /// The smallest integer not below.
    Ceil,
    /// The nearest integer, ties to even.
    Round,
    /// -1, 0 or 1.
    Sign,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Inverse sine.
    Asin,
    /// Inverse cosine.
    Acos,
    /// Inverse tangent.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// `gamma (x > 0 ? x : alpha (exp(beta x) - 1))`: ELU, CELU (`beta = 1 / alpha`), SELU.
    Elu {
        /// Depth of the negative side.
        alpha: f32,
        /// Scale of the exponent.
        beta: f32,
        /// Scale of the whole.
        gamma: f32,
    },
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `x / (1 + |x|)`.
    Softsign,
    /// `x tanh(softplus(x))`.
    Mish,
    /// `x > alpha ? x : 0`.
    ThresholdedRelu {
        /// Threshold.
        alpha: f32,
    },
    /// `x < -lambda ? x + bias : x > lambda ? x - bias : 0`.
    Shrink {
        /// Half the width of the interval that becomes 0.
        lambda: f32,
        /// How far the rest moves towards 0.
        bias: f32,
    },
}

impl Unary {
    /// Every function, parameters 0, for tables.
    pub const ALL: [Self; 38] = [
        Self::Relu,
        Self::LeakyRelu { alpha: 0.0 },
        Self::Clip { lo: 0.0, hi: 0.0 },
        Self::Sigmoid,
        Self::Tanh,
        Self::HardSigmoid { alpha: 0.0, beta: 0.0 },
        Self::HardSwish,
        Self::Swish { alpha: 0.0 },
        Self::Gelu,
        Self::GeluTanh,
        Self::Erf,
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Reciprocal,
        Self::Neg,
        Self::Abs,
        Self::Floor,
        Self::Ceil,
        Self::Round,
        Self::Sign,
        Self::Sin,
        Self::Cos,
        Self::Tan,
        Self::Asin,
        Self::Acos,
        Self::Atan,
        Self::Sinh,
        Self::Cosh,
        Self::Asinh,
        Self::Acosh,
        Self::Atanh,
        Self::Elu { alpha: 0.0, beta: 0.0, gamma: 0.0 },
        Self::Softplus,
        Self::Softsign,
        Self::Mish,
        Self::ThresholdedRelu { alpha: 0.0 },
        Self::Shrink { lambda: 0.0, bias: 0.0 },
    ];
    /// The mnemonic in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Clip { .. } => "clip",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::HardSigmoid { .. } => "hard_sigmoid",
            Self::HardSwish => "hard_swish",
            Self::Swish { .. } => "swish",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Erf => "erf",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Reciprocal => "reciprocal",
            Self::Neg => "neg",
            Self::Abs => "abs",
            Self::Floor => "floor",
            Self::Ceil => "ceil",
            Self::Round => "round",
            Self::Sign => "sign",
            Self::Sin => "sin",
            Self::Cos => "cos",
            Self::Tan => "tan",
            Self::Asin => "asin",
            Self::Acos => "acos",
            Self::Atan => "atan",
            Self::Sinh => "sinh",
            Self::Cosh => "cosh",
            Self::Asinh => "asinh",
            Self::Acosh => "acosh",
            Self::Atanh => "atanh",
            Self::Elu { .. } => "elu",
            Self::Softplus => "softplus",
            Self::Softsign => "softsign",
            Self::Mish => "mish",
            Self::ThresholdedRelu { .. } => "thresholded_relu",
            Self::Shrink { .. } => "shrink",
        }
    }
}

/// A function of two elements, with ONNX (numpy) broadcasting. Integers follow [`crate::plain::integer`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// `a` to the power `b`.
    Pow,
    /// The remainder of a division that truncates, with the sign of `a` (C's `fmod`).
    Remainder,
    /// The remainder of a division that rounds down, with the sign of `b` (Python's `%`).
    Modulo,
    /// Bits of both; integers and bools.
    And,
    /// Bits of either; integers and bools.
    Or,
    /// Bits of one alone; integers and bools.
    Xor,
    /// `a 2^b`; integers.
    ShiftLeft,
    /// `a / 2^b`, rounded down; integers.
    ShiftRight,
}

impl Binary {
    /// Every function, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Min,
        Self::Max,
        Self::Pow,
        Self::Remainder,
        Self::Modulo,
        Self::And,
        Self::Or,
        Self::Xor,
        Self::ShiftLeft,
        Self::ShiftRight,
    ];
    /// The mnemonic in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Min => "min",
            Self::Max => "max",
            Self::Pow => "pow",
            Self::Remainder => "remainder",
            Self::Modulo => "modulo",
            Self::And => "and",
            Self::Or => "or",
            Self::Xor => "xor",
            Self::ShiftLeft => "shift_left",
            Self::ShiftRight => "shift_right",
        }
    }
    /// Whether the function treats an operand as bits, which real numbers do not have.
    pub fn bitwise(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Xor | Self::ShiftLeft | Self::ShiftRight)
    }
}

/// A relation of two elements, with ONNX (numpy) broadcasting. A NaN is in none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Comparison {
    /// `a = b`.
    Equal,
    /// `a < b`.
    Less,
    /// `a <= b`.
    LessEqual,
}

impl Comparison {
    /// Every relation, for tables and tests.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Less, Self::LessEqual];
    /// The mnemonic in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Less => "less",
            Self::LessEqual => "less_equal",
        }
    }
}

/// What a pooling window yields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    /// The largest valid element.
    Max,
    /// The mean over valid elements, or over the whole window when padding counts.
    Average {
        /// Whether padding counts as zeros (ONNX `count_include_pad`).
        include_pad: bool,
    },
}

/// What a reduction yields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceKind {
    /// Arithmetic mean.
    Mean,
    /// Sum.
    Sum,
    /// Largest.
    Max,
    /// Smallest.
    Min,
    /// Product.
    Prod,
}

impl ReduceKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 5] = [Self::Mean, Self::Sum, Self::Max, Self::Min, Self::Prod];
    /// The mnemonic in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "reduce_mean",
            Self::Sum => "reduce_sum",
            Self::Max => "reduce_max",
            Self::Min => "reduce_min",
            Self::Prod => "reduce_prod",
        }
    }
}

/// A graph operator.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// `x [N, C, s..], w [O, C/groups, k..], (b [O]), (r [N, O, t..]) -> [N, O, t..]`:
    /// `act(conv(x, w) + b + r)`. Quantized: exact integer sum, one rounding ([`crate::exact::requantize`]);
    /// with an f32 result the sum is only scaled.
    Conv {
        /// Sliding window.
        window: Window,
        /// Channel groups; equal to `C` for depthwise.
        groups: usize,
        /// Ends the operator.
        act: Act,
        /// Whether the last argument is a residual addend.
        residual: bool,
        /// How the requantization multiplier is formed.
        multiplier: Multiplier,
    },
    /// `x [.., K], w [N, K], (b [N]), (r [.., N]) -> [.., N]`: `act(x w' + b + r)`; quantized like `Conv`.
    Dense {
        /// Ends the operator.
        act: Act,
        /// Whether the last argument is a residual addend.
        residual: bool,
        /// How the requantization multiplier is formed.
        multiplier: Multiplier,
    },
    /// Batched matrix product with ONNX broadcasting, both operands computed at run time. Quantized operands of up to 8 bits
    /// with one scale each: the exact sum of `(a - za) (b - zb)`, then as `Conv` without activation.
    MatMul {
        /// How the requantization multiplier is formed.
        multiplier: Multiplier,
    },
    /// `x [N, C, ..], scale, bias, mean, var [C]`: `(x - mean) / sqrt(var + epsilon) * scale + bias`.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Element-wise function; on a quantized type the 256-entry table of [`crate::exact::unary_entry`].
    Unary(Unary),
    /// Element-wise function of two with broadcasting; quantized: dequantize, operate, quantize. Integers follow
    /// [`crate::plain::integer`], f64 [`crate::plain::double`].
    Binary(Binary),
    /// Element-wise relation of two plain tensors of one type, with broadcasting; the result is bool.
    Compare(Comparison),
    /// `c bool, a, b -> c ? a : b`, element-wise with broadcasting; `a`, `b` and the result have one type.
    Select,
    /// Sliding window pooling over the spatial axes. Quantized operand and result have equal parameters for
    /// `Max`; `Average` follows [`crate::exact::average`].
    Pool {
        /// What the window yields.
        kind: PoolKind,
        /// Sliding window.
        window: Window,
    },
    /// Reduction over `axes`. Sums and products in the order of [`crate::fold::fold16`]; integers wrap, and have no mean.
    Reduce {
        /// What it yields.
        kind: ReduceKind,
        /// Sorted, distinct.
        axes: Vec<usize>,
        /// Whether reduced axes stay with extent 1.
        keep: bool,
    },
    /// `exp(x - max) / sum` along `axis`, or its logarithm.
    Softmax {
        /// The axis of the distribution.
        axis: usize,
        /// Logarithm of the result.
        log: bool,
    },
    /// `x [.., n..], scale [n..], (bias [n..]) -> [.., n..]`: `(x - mean) / sqrt(variance + epsilon)
    /// scale + bias` over the axes from `axis` on ([`crate::exact::norm_row`], [`crate::exact::norm_element`]). In f32 it is
    /// the operators it stands for, as which it arrives: only the integer form is lowered.
    LayerNorm {
        /// First normalized axis.
        axis: usize,
        /// Added to the variance.
        epsilon: f32,
        /// Root mean square: the mean counts as 0.
        rms: bool,
    },
    /// The same elements in row-major order under other dimensions.
    Reshape {
        /// Result dimensions.
        dims: Vec<usize>,
    },
    /// Result axis `i` is operand axis `perm[i]`.
    Transpose {
        /// A permutation.
        perm: Vec<usize>,
    },
    /// Operands one after another along `axis`, equal elsewhere.
    Concat {
        /// The joined axis.
        axis: usize,
    },
    /// Every `step`-th element from `start`, `len` of them, per axis. Steps may be negative.
    Slice {
        /// First index per axis.
        start: Vec<usize>,
        /// Step per axis, not zero.
        step: Vec<isize>,
        /// Result extent per axis.
        len: Vec<usize>,
    },
    /// Constant padding with the real number `value`.
    Pad {
        /// Elements before, per axis.
        before: Vec<usize>,
        /// Elements after, per axis.
        after: Vec<usize>,
        /// The real value (quantized types hold it as the nearest integer).
        value: f32,
    },
    /// Repeats extent-1 axes up to `dims` (numpy broadcasting).
    Expand {
        /// Result dimensions.
        dims: Vec<usize>,
    },
    /// `x, i -> y`: the elements of `x` that the indices `i` (i32 or i64) name.
    Gather {
        /// What an index names.
        index: Index,
    },
    /// `x, i, u -> y`: `x`, in which the elements that `i` (i32 or i64) names are combined with those of `u`, one after
    /// another in row-major order of `u`: replaced by them, or added, multiplied, the smaller or the larger.
    Scatter {
        /// What an index names.
        index: Index,
        /// `None` replaces; otherwise `Add`, `Mul`, `Min` or `Max`.
        reduce: Option<Binary>,
    },
    /// The i64 indices of the `k` largest elements along `axis`, the largest first, in the order of
    /// [`crate::exact::order_key`]. Of equal elements the first comes first.
    TopK {
        /// The axis, of extent `k` in the result.
        axis: usize,
        /// Number of elements, at least 1.
        k: usize,
        /// The smallest elements, the smallest first.
        smallest: bool,
        /// Of equal elements the last comes first.
        last: bool,
    },
    /// Running totals along `axis`: element `i` combines the first `i + 1` elements, one after another. Plain numbers.
    Cumulative {
        /// `Add` or `Mul`.
        op: Binary,
        /// The axis.
        axis: usize,
        /// Element `i` combines the first `i` elements; the first is 0 or 1.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// f32 to the quantized type of the result ([`crate::exact::quantize`]).
    Quantize,
    /// Quantized to f32 ([`crate::exact::dequantize`]).
    Dequantize,
    /// One per-tensor quantized type to another: the table of the real identity.
    Requantize,
    /// Between plain scalar types: [`crate::plain::cast`].
    Cast,
    /// The same bits as another plain type of the same width; or between stored integers of one scale and plain ones.
    Bitcast,
}

impl Op {
    /// The name in the text form; unique per operator.
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::Dense { .. } => "dense",
            Self::MatMul { .. } => "matmul",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Unary(u) => u.name(),
            Self::Binary(b) => b.name(),
            Self::Compare(c) => c.name(),
            Self::Select => "select",
            Self::Pool { kind: PoolKind::Max, .. } => "max_pool",
            Self::Pool { kind: PoolKind::Average { .. }, .. } => "average_pool",
            Self::Reduce { kind, .. } => kind.name(),
            Self::Softmax { log: false, .. } => "softmax",
            Self::Softmax { log: true, .. } => "log_softmax",
            Self::LayerNorm { rms: false, .. } => "layer_norm",
            Self::LayerNorm { rms: true, .. } => "rms_norm",
            Self::Reshape { .. } => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Concat { .. } => "concat",
            Self::Slice { .. } => "slice",
            Self::Pad { .. } => "pad",
            Self::Expand { .. } => "expand",
            Self::Gather { index } => index.gather_name(),
            Self::Scatter { index, .. } => index.scatter_name(),
            Self::TopK { .. } => "top_k",
            Self::Cumulative { op: Binary::Mul, .. } => "cum_prod",
            Self::Cumulative { .. } => "cum_sum",
            Self::Quantize => "quantize",
            Self::Dequantize => "dequantize",
            Self::Requantize => "requantize",
            Self::Cast => "cast",
            Self::Bitcast => "bitcast",
        }
    }

    /// Whether the operator only moves elements, so that its operands, but for indices, and its result share one element
    /// type.
    pub fn moves_only(&self) -> bool {
        matches!(
            self,
            Self::Reshape { .. }
                | Self::Transpose { .. }
                | Self::Concat { .. }
                | Self::Slice { .. }
                | Self::Pad { .. }
                | Self::Expand { .. }
                | Self::Pool { kind: PoolKind::Max, .. }
                | Self::Gather { .. }
                | Self::Scatter { reduce: None, .. }
        )
    }

    /// Whether operand `i` holds indices: plain integers, whatever the elements are.
    pub fn is_index(&self, i: usize) -> bool {
        i == 1 && matches!(self, Self::Gather { .. } | Self::Scatter { .. })
    }

    /// Activation and residual flag of a convolution or product.
    pub fn epilogue(&self) -> Option<(Act, bool)> {
        match *self {
            Self::Conv { act, residual, .. } | Self::Dense { act, residual, .. } => Some((act, residual)),
            _ => None,
        }
    }
}
