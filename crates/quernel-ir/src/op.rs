//! The closed set of graph operators.
//!
//! Every operator has ONE meaning, which `quernel-interp` executes; the comments here are its contract. Layouts are
//! ONNX's logical ones (`N C spatial..`); memory layout is a matter of lowering. Where an operator accepts
//! quantized operands its integer meaning is the one in [`crate::exact`].

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
}

/// A function of two elements, with ONNX (numpy) broadcasting.
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
}

impl Binary {
    /// Every function, for tables and tests.
    pub const ALL: [Self; 7] = [Self::Add, Self::Sub, Self::Mul, Self::Div, Self::Min, Self::Max, Self::Pow];
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
}

impl ReduceKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Mean, Self::Sum, Self::Max, Self::Min];
    /// The mnemonic in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "reduce_mean",
            Self::Sum => "reduce_sum",
            Self::Max => "reduce_max",
            Self::Min => "reduce_min",
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
    /// Batched matrix product with ONNX broadcasting, both operands computed at run time.
    MatMul,
    /// `x [N, C, ..], scale, bias, mean, var [C]`: `(x - mean) / sqrt(var + epsilon) * scale + bias`.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Element-wise function; on a quantized type the 256-entry table of [`crate::exact::unary_entry`].
    Unary(Unary),
    /// Element-wise function of two with broadcasting; quantized: dequantize, operate, quantize.
    Binary(Binary),
    /// Sliding window pooling over the spatial axes. Quantized operand and result have equal parameters for
    /// `Max`; `Average` follows [`crate::exact::average`].
    Pool {
        /// What the window yields.
        kind: PoolKind,
        /// Sliding window.
        window: Window,
    },
    /// Reduction over `axes`.
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
    /// f32 to the quantized type of the result ([`crate::exact::quantize`]).
    Quantize,
    /// Quantized to f32 ([`crate::exact::dequantize`]).
    Dequantize,
    /// One per-tensor quantized type to another: the table of the real identity.
    Requantize,
    /// Between plain scalar types.
    Cast,
}

impl Op {
    /// The name in the text form; unique per operator.
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::Dense { .. } => "dense",
            Self::MatMul => "matmul",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Unary(u) => match u {
                Unary::Relu => "relu",
                Unary::LeakyRelu { .. } => "leaky_relu",
                Unary::Clip { .. } => "clip",
                Unary::Sigmoid => "sigmoid",
                Unary::Tanh => "tanh",
                Unary::HardSigmoid { .. } => "hard_sigmoid",
                Unary::HardSwish => "hard_swish",
                Unary::Swish { .. } => "swish",
                Unary::Gelu => "gelu",
                Unary::GeluTanh => "gelu_tanh",
                Unary::Erf => "erf",
                Unary::Exp => "exp",
                Unary::Log => "log",
                Unary::Sqrt => "sqrt",
                Unary::Reciprocal => "reciprocal",
                Unary::Neg => "neg",
                Unary::Abs => "abs",
            },
            Self::Binary(b) => b.name(),
            Self::Pool { kind: PoolKind::Max, .. } => "max_pool",
            Self::Pool { kind: PoolKind::Average { .. }, .. } => "average_pool",
            Self::Reduce { kind, .. } => kind.name(),
            Self::Softmax { log: false, .. } => "softmax",
            Self::Softmax { log: true, .. } => "log_softmax",
            Self::Reshape { .. } => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Concat { .. } => "concat",
            Self::Slice { .. } => "slice",
            Self::Pad { .. } => "pad",
            Self::Expand { .. } => "expand",
            Self::Quantize => "quantize",
            Self::Dequantize => "dequantize",
            Self::Requantize => "requantize",
            Self::Cast => "cast",
        }
    }

    /// Whether the operator only moves elements, so that operand and result share one element type.
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
        )
    }

    /// Activation and residual flag of a convolution or product.
    pub fn epilogue(&self) -> Option<(Act, bool)> {
        match *self {
            Self::Conv { act, residual, .. } | Self::Dense { act, residual, .. } => Some((act, residual)),
            _ => None,
        }
    }
}
