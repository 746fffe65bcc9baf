//! The second IR: a list of steps over byte-exact slots, channels last, weights packed.
//!
//! A step says `what` it computes, completely, in terms of memory: the interpreter runs that and ignores `how`, so a
//! program can be checked without any code generation. `how` names the kernel family lowering had in mind.
//!
//! **Memory.** Integers are little-endian. A slot is a byte range of the arena, of a caller's buffer or of a
//! constant blob. A step never writes outside the views it names; it may READ up to [`What::overread`] bytes past the
//! end of an arena slot or blob (vector tails), which the arena plan and the object reserve.

mod layer;

pub use layer::{ByteProduct, Conv, Image, WeightDims, WeightLayout, panel_set};

use crate::{
    arena::{Arena, Id},
    graph::Origin,
    op::{Binary, Comparison, PoolKind, ReduceKind, Unary, WindowDim},
    ty::{Scalar, TensorTy},
};
use std::sync::Arc;

crate::ids! {
    /// A constant blob.
    Blob = "@";
}

/// Bytes a kernel may read past the end of an arena slot or blob.
pub const READ_SLACK: usize = 64;
/// Alignment of the arena, of its slots and of every blob, in bytes.
pub const ALIGN: usize = 64;
/// Channels per weight panel; biases, scales and factors are padded to a multiple of it.
pub const PANEL: usize = 16;

/// A network ready for code generation.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Name of the model; prefix of every symbol.
    pub name: String,
    /// Inputs in call order, with the types the caller sees (row-major, ONNX's logical layout).
    pub inputs: Vec<Port>,
    /// Outputs in call order.
    pub outputs: Vec<Port>,
    /// Constants.
    pub blobs: Arena<Blob, BlobData>,
    /// In execution order.
    pub steps: Vec<Step>,
    /// Bytes of the arena, slack included; a multiple of [`ALIGN`].
    pub arena_bytes: usize,
    /// The largest sum of simultaneously live slots: no plan can be smaller.
    pub arena_lower_bound: usize,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// ONNX name.
    pub name: String,
    /// What the caller passes.
    pub ty: TensorTy,
}

/// Constant bytes.
#[derive(Clone, Debug)]
pub struct BlobData {
    /// Unique name, for symbols and dumps.
    pub name: String,
    /// The data; the object appends [`READ_SLACK`] zero bytes after the last blob.
    pub bytes: Arc<[u8]>,
}

/// What a slot is part of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Base {
    /// The caller's scratch memory.
    Arena,
    /// The caller's input number.
    Input(u32),
    /// The caller's output number.
    Output(u32),
    /// A constant.
    Blob(Blob),
}

/// A byte range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    /// What it is part of.
    pub base: Base,
    /// Bytes from the start of the base.
    pub offset: usize,
    /// Length in bytes, without slack.
    pub bytes: usize,
}

/// A stored integer's quantization: `real = scale * (q - zero)`, limited to `lo..=hi`. A byte's, where a step does not say
/// that elements are words of 16 bits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ByteQuant {
    /// Two's complement storage.
    pub signed: bool,
    /// Scale.
    pub scale: f32,
    /// Zero point.
    pub zero: i32,
    /// Smallest stored value.
    pub lo: i32,
    /// Largest stored value.
    pub hi: i32,
}

/// How a layer's sum ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum End {
    /// [`crate::exact::requantize`] to bytes, or to words in a step over words.
    Requantize {
        /// Output zero point.
        zero: i32,
        /// Smallest output, activation included.
        lo: i32,
        /// Largest output, activation included.
        hi: i32,
        /// Two's complement output.
        signed: bool,
    },
    /// [`crate::exact::scale_to_float`].
    Float {
        /// Lower bound of the activation.
        lo: f32,
        /// Upper bound of the activation.
        hi: f32,
    },
}

/// What a step computes. `reads` and `writes` are the step's slots, in the order given here.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// reads x f32; writes bytes or words: [`crate::exact::quantize`] of `count` contiguous elements.
    Quantize {
        /// Elements.
        count: usize,
        /// Parameters of the result.
        to: ByteQuant,
        /// Bytes of an element of the result: 1 or 2.
        width: usize,
    },
    /// reads bytes or words; writes f32: [`crate::exact::dequantize`] of `count` contiguous elements.
    Dequantize {
        /// Elements.
        count: usize,
        /// Parameters of the operand.
        from: ByteQuant,
        /// Bytes of an element of the operand: 1 or 2.
        width: usize,
    },
    /// reads x bytes, weights i8, bias `i32[O16]`, scale `f32[O16]`, (residual bytes, factors `i16[O16]`); writes bytes or
    /// f32. `acc = bias + sum (x as stored) * w + r * factor` in wrapping i32, then `end` with the channel's scale.
    /// Zero points are folded into the bias; a padded position reads as `zero`. O16 is O rounded up to 16.
    Conv {
        /// Geometry and packing.
        conv: Conv,
        /// Stored zero point of the operand.
        zero: i32,
        /// Whether the operand is two's complement.
        signed: bool,
        /// Whether the residual operand is two's complement.
        residual_signed: bool,
        /// How sums end.
        end: End,
    },
    /// The same over words of 16 bits: operand, residual and, where it is not f32, result. Weights are i8; in `Panels` of
    /// depth 2.
    ConvWords {
        /// Geometry and packing.
        conv: Conv,
        /// Stored zero point of the operand.
        zero: i32,
        /// Whether the operand is two's complement.
        signed: bool,
        /// Whether the residual operand is two's complement.
        residual_signed: bool,
        /// How sums end.
        end: End,
    },
    /// The layer over bytes without padding or residual over weights in codes: reads x bytes, codes, bias `i32[O16]`, scale
    /// `f32[O16]`, table `i8[16]`; writes bytes or f32. A weight is `table[code]`. Packing is `Panels` of depth 4 with one
    /// segment; each panel's codes are packed by themselves ([`crate::codes`]).
    ConvCodes {
        /// Geometry and packing.
        conv: Conv,
        /// Bits of a code: 4, 2 or 1.
        bits: u8,
        /// Whether the operand is two's complement.
        signed: bool,
        /// How sums end.
        end: End,
    },
    /// A layer of operands 0 and 1 over weights -1 and 1, as bits: reads x bits, weight bits, bias `i32[O16]`, scale
    /// `f32[O16]`; writes bytes or f32. `acc = bias - popcount(x ^ w)` over all bits of a window, then `end`. The geometry
    /// counts bytes of eight bits. Packing is `Panels` of depth 4 of one group; no padding, no residual.
    ///
    /// With weight bits `v`, `sum x (2 v - 1) = sum v - popcount(x ^ v)`: the number of ones is part of the bias (Rastegari et
    /// al., XNOR-Net, 2016, section 3, for operands -1 and 1).
    ConvBits {
        /// Geometry and packing.
        conv: Conv,
        /// How sums end.
        end: End,
    },
    /// reads bytes `[rows][k]`; writes `[rows]` runs of `4 ceil(k / 32)` bytes: bit `i % 8` of byte `i / 8` is the lowest bit of
    /// element `i`, bits behind the last are 0.
    PackBits {
        /// Rows.
        rows: usize,
        /// Elements of a row.
        k: usize,
    },
    /// reads codes ([`crate::codes`]), table `i8[16]`; writes i8: `table[code]`, `count` contiguous elements.
    Expand {
        /// Elements, a multiple of [`crate::codes::UNIT`].
        count: usize,
        /// Bits of a code: 4, 2 or 1.
        bits: u8,
    },
    /// reads codes, scales `f32[panels][taps / group][16]`, and with fewer than 8 bits table `i8[16]`; writes f32
    /// `[panels][taps][16]`, the weights of a float layer: `fl(f32(table[code]) scale)`. With 8 bits a code is the signed byte
    /// itself. Each panel's codes are packed by themselves ([`crate::codes`]), in the order of the result.
    ExpandFloat {
        /// Panels of sixteen output channels.
        panels: usize,
        /// Weights of an output channel.
        taps: usize,
        /// Taps under one scale: all of them, or a number that divides them and is whole units of codes.
        group: usize,
        /// Bits of a code: 8, 4, 2 or 1.
        bits: u8,
    },
    /// reads x f32, weights f32, bias `f32[O16]`, (residual f32); writes f32. From +0, taps in order `ky, kx, i`:
    /// `acc = fl(acc + fl(x w))`; then `fl(acc + bias)`, `fl(. + r)`, clip.
    ConvFloat {
        /// Geometry and packing.
        conv: Conv,
        /// Lower bound of the activation.
        lo: f32,
        /// Upper bound of the activation.
        hi: f32,
    },
    /// reads x bytes; writes bytes: largest or average valid element. `Average` of bytes:
    /// [`crate::exact::average`] of `q - from.zero`, dividing by the valid positions, or by the whole window clipped
    /// to the padded extent when padding counts (which adds the zero point, so nothing to the sum).
    Pool {
        /// What the window yields.
        kind: PoolKind,
        /// Operand view.
        input: Image,
        /// Result view.
        output: Image,
        /// Rows, then columns.
        window: [WindowDim; 2],
        /// Parameters of the operand.
        from: ByteQuant,
        /// Parameters of the result.
        to: ByteQuant,
    },
    /// reads x f32; writes f32: like `Pool`; the average is the sum in window order (rows, then columns) from +0,
    /// divided by the count.
    PoolFloat {
        /// What the window yields.
        kind: PoolKind,
        /// Operand view.
        input: Image,
        /// Result view.
        output: Image,
        /// Rows, then columns.
        window: [WindowDim; 2],
    },
    /// reads bytes, table `u8[256]`; writes bytes: `table[byte]`, `count` contiguous elements.
    Lookup {
        /// Elements.
        count: usize,
    },
    /// reads f32; writes f32: [`crate::float`]'s function of `count` contiguous elements.
    UnaryFloat {
        /// The function.
        op: Unary,
        /// Elements.
        count: usize,
    },
    /// reads a, b bytes; writes bytes: [`crate::exact::binary_quantized`] over a strided iteration space.
    BinaryBytes {
        /// The function.
        op: Binary,
        /// Iteration space and the strides of a, b and the result.
        over: Strided,
        /// Parameters of a.
        a: ByteQuant,
        /// Parameters of b.
        b: ByteQuant,
        /// Parameters of the result.
        to: ByteQuant,
    },
    /// reads a, b f32; writes f32 over a strided iteration space, then clips to `lo..=hi` (infinite for none).
    BinaryFloat {
        /// The function.
        op: Binary,
        /// Iteration space and the strides of a, b and the result.
        over: Strided,
        /// Lower bound of a fused activation.
        lo: f32,
        /// Upper bound of a fused activation.
        hi: f32,
    },
    /// reads x f64; writes f64: [`crate::plain::double_unary`] of `count` contiguous elements.
    UnaryDouble {
        /// The function.
        op: Unary,
        /// Elements.
        count: usize,
    },
    /// reads a, b; writes the same type: [`crate::plain::binary`] over a strided iteration space.
    BinaryPlain {
        /// The function.
        op: Binary,
        /// Type of operands and result: an integer, bool or f64.
        scalar: Scalar,
        /// Iteration space and the strides of a, b and the result.
        over: Strided,
    },
    /// reads a, b; writes bool: [`crate::plain::compare`] over a strided iteration space.
    Compare {
        /// The relation.
        op: Comparison,
        /// Type of the operands.
        scalar: Scalar,
        /// Iteration space and the strides of a, b and the result.
        over: Strided,
    },
    /// reads c bool, a, b; writes `c != 0 ? a : b`, elements of `width` bytes over a strided iteration space.
    Select {
        /// Bytes per element: 1, 2, 4 or 8.
        width: usize,
        /// Iteration space and the strides of c, a, b and the result.
        over: Strided,
    },
    /// reads x; writes y: [`crate::plain::cast`] of `count` contiguous elements.
    Cast {
        /// Type of the operand.
        from: Scalar,
        /// Type of the result, another one.
        to: Scalar,
        /// Elements.
        count: usize,
    },
    /// reads a f32 `[batch][m][k]`, b f32 `[batch][k][n]`; writes f32 `[batch][m][n]`: from +0, in order of k,
    /// `acc = fl(acc + fl(a b))`. A batch stride of 0 repeats an operand.
    MatMulFloat {
        /// Independent products.
        batch: usize,
        /// Rows.
        m: usize,
        /// Depth.
        k: usize,
        /// Columns.
        n: usize,
        /// Elements between the batches of a.
        a_batch: usize,
        /// Elements between the batches of b.
        b_batch: usize,
    },
    /// reads b bytes; writes for each matrix `[k][n]` of it the panels of [`ByteProduct`], then for each its biases
    /// `i32[2][N16]`. `over` has the axes of the matrices, then `k` and `n`, and one operand.
    ///
    /// What multiplies is `b - zero` of b. `b - center` fits 8 signed bits; `rest` adds up to what is left, `center - zero`, and is
    /// the same for all elements. Segment 0 of a panel is `b - center`, segment `i + 1` is `rest[i]`; taps behind `k` and lanes
    /// behind `n` are 0. A bias is `-left` times the sum of a column's weights; the second one is that for a left operand with its
    /// top bit inverted, whose zero point is 128 more or less.
    PackPanels {
        /// Iteration space and the strides of b.
        over: Strided,
        /// What is taken from a byte.
        center: i32,
        /// What else is added to it, in parts of 8 signed bits.
        rest: Vec<i8>,
        /// Zero point of the left operand as stored.
        left: i32,
        /// Whether the left operand is two's complement.
        signed: bool,
    },
    /// reads a bytes, panels i8, biases `i32[sets][2][N16]`, scale `f32[N16]`; writes bytes or f32: for every product
    /// `acc = bias + sum (a as stored) * w` in wrapping i32, then `end` with the column's scale.
    MatMulBytes {
        /// Geometry.
        product: ByteProduct,
        /// Whether a is two's complement.
        signed: bool,
        /// How sums end.
        end: End,
        /// Proven bound of the magnitude of every sum.
        largest: u32,
    },
    /// reads f32 `[outer][len][inner]`; writes f32 `[outer][inner]`: mean and sum by [`crate::float::sum16`] along
    /// `len`.
    ReduceFloat {
        /// What it yields.
        kind: ReduceKind,
        /// Elements before the axis.
        outer: usize,
        /// Reduced elements.
        len: usize,
        /// Elements after the axis.
        inner: usize,
    },
    /// reads f32 `[outer][len][inner]`; writes the same shape: along `len`, `m = max`, `e = exp(x - m)`,
    /// `s = sum16(e)`, `e / s`; the logarithmic form is `(x - m) - log(s)`.
    SoftmaxFloat {
        /// Elements before the axis.
        outer: usize,
        /// Length of the distribution.
        len: usize,
        /// Elements after the axis.
        inner: usize,
        /// Logarithmic form.
        log: bool,
    },
    /// reads bytes `[outer][len][inner]`, table `u32[256]` of [`crate::exact::softmax_table`]; writes bytes, or f32
    /// when `to` is `None`.
    SoftmaxBytes {
        /// Elements before the axis.
        outer: usize,
        /// Length of the distribution.
        len: usize,
        /// Elements after the axis.
        inner: usize,
        /// Parameters of the operand.
        from: ByteQuant,
        /// Parameters of the result.
        to: Option<ByteQuant>,
    },
    /// reads bytes `[rows][len]`, scale `f32[len]`, bias `f32[len]`, both in steps of the result; writes bytes of the same shape:
    /// [`crate::exact::norm_row`] of each row, [`crate::exact::norm_element`] of each element.
    LayerNorm {
        /// Rows.
        rows: usize,
        /// Elements of a row, at most [`crate::exact::MOST_NORM`].
        len: usize,
        /// Added to the variance.
        epsilon: f32,
        /// The mean counts as 0.
        rms: bool,
        /// Parameters of the operand.
        from: ByteQuant,
        /// Parameters of the result.
        to: ByteQuant,
    },
    /// reads x, indices; writes y: over the space of the strides of x, indices and y, `y = x` at the place that the index
    /// there names.
    Gather {
        /// Bytes per element: 1, 2, 4 or 8.
        width: usize,
        /// What an index names in x.
        places: Places,
        /// Iteration space and the strides of x, indices and y.
        over: Strided,
    },
    /// reads indices, u, y; writes y, which is combined with u: over the space of the strides of indices, u and y, in
    /// order, `y = f(y, u)` or `y = u` at the place that the index there names.
    Scatter {
        /// Bytes per element: 1, 2, 4 or 8.
        width: usize,
        /// What an index names in y.
        places: Places,
        /// Iteration space and the strides of indices, u and y.
        over: Strided,
        /// `Add`, `Mul`, `Min` or `Max` of two such elements; `None` replaces.
        reduce: Option<(Binary, Scalar)>,
    },
    /// reads x `[outer][len][inner]`; writes `[outer][inner]` of the same type: sum, product and mean by
    /// [`crate::fold::fold16`] along `len`, extremes in order from the end of the range.
    Reduce {
        /// What it yields; a mean of f64 alone.
        kind: ReduceKind,
        /// Type of the elements: f64, an integer or bool.
        elem: Scalar,
        /// Elements before the axis.
        outer: usize,
        /// Reduced elements.
        len: usize,
        /// Elements after the axis.
        inner: usize,
    },
    /// reads x `[outer][len][inner]`; writes the same: along `len`, `y[0] = x[0]` and `y[i] = y[i-1] op x[i]`.
    Cumulative {
        /// `Add` or `Mul`.
        op: Binary,
        /// Type of the elements: f64, f32 or an integer.
        elem: Scalar,
        /// Elements before the axis.
        outer: usize,
        /// Elements of the axis.
        len: usize,
        /// Elements after the axis.
        inner: usize,
        /// Results one further, the first is 0 or 1.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// reads x `[outer][len][inner]`; writes `i64 [outer][k][inner]`: the indices along `len` of the `k` largest elements in
    /// the order of [`crate::exact::order_key`], the largest first; of equal ones the first.
    TopK {
        /// Type of the elements.
        elem: Scalar,
        /// Elements before the axis.
        outer: usize,
        /// Elements to choose from.
        len: usize,
        /// Elements after the axis.
        inner: usize,
        /// Elements to choose.
        k: usize,
        /// The smallest.
        smallest: bool,
        /// Of equal ones the last.
        last: bool,
    },
    /// reads x; writes y: moves elements of `width` bytes over a strided iteration space (strides of x, y). Serves
    /// transpose, slice, concat, expand and the interior of padding.
    Move {
        /// Bytes per element: 1, 2, 4 or 8.
        width: usize,
        /// Iteration space and the strides of the operand and the result.
        over: Strided,
    },
    /// writes y: elements of `width` bytes over a strided iteration space (strides of y), all equal to the low bytes
    /// of `bits`. Serves the border of padded images.
    Fill {
        /// Bytes per element: 1, 2, 4 or 8.
        width: usize,
        /// Iteration space and the strides of the result.
        over: Strided,
        /// The pattern.
        bits: u64,
    },
}

/// What an index in memory names: one coordinate for each of `axes`, as [`crate::exact::index`] reads it, counted from the
/// position that the iteration space gives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Places {
    /// Indices are i64, otherwise i32.
    pub wide: bool,
    /// Indices between the coordinates of one place.
    pub apart: isize,
    /// Extent of the axis of each coordinate, and elements of the operand between neighbours along it.
    pub axes: Vec<(usize, isize)>,
}

/// An iteration space with, per operand, a start and one stride per axis, counted in elements. Negative strides
/// reverse.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Strided {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// One per slot of the step that the operation names: reads, then writes.
    pub operands: Vec<Strides>,
}

/// Start and strides of one operand, in elements from the start of its slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Strides {
    /// First element.
    pub start: usize,
    /// Elements between neighbours along each axis of the iteration space.
    pub steps: Vec<isize>,
}

impl Strides {
    /// Dense row-major strides of `dims` from the start of a slot.
    pub fn dense(dims: &[usize]) -> Self {
        let mut steps = vec![1isize; dims.len()];
        for i in (1..dims.len()).rev() {
            steps[i - 1] = steps[i] * dims[i] as isize;
        }
        Self { start: 0, steps }
    }
}

impl What {
    /// How many bytes past the end of its slot number `read` a kernel of this step may read. Layers over panels take
    /// their operand in words of one block, so they stop at its end where the sum is a whole number of blocks.
    pub fn overread(&self, read: usize) -> usize {
        match self {
            Self::Conv { conv, .. }
            | Self::ConvWords { conv, .. }
            | Self::ConvCodes { conv, .. }
            | Self::ConvBits { conv, .. }
            | Self::ConvFloat { conv, .. }
                if read == 0 && conv.reads_whole_blocks() =>
            {
                0
            }
            Self::MatMulBytes { product, .. } if read == 0 && product.k.is_multiple_of(4) => 0,
            _ => READ_SLACK,
        }
    }
    /// Short name for listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Quantize { .. } => "quantize",
            Self::Dequantize { .. } => "dequantize",
            Self::Conv { .. } => "conv",
            Self::ConvWords { .. } => "conv_words",
            Self::ConvCodes { .. } => "conv_codes",
            Self::ConvBits { .. } => "conv_bits",
            Self::PackBits { .. } => "pack_bits",
            Self::Expand { .. } => "expand",
            Self::ExpandFloat { .. } => "expand_f32",
            Self::ConvFloat { .. } => "conv_f32",
            Self::Pool { .. } => "pool",
            Self::PoolFloat { .. } => "pool_f32",
            Self::Lookup { .. } => "lookup",
            Self::UnaryFloat { .. } => "unary_f32",
            Self::BinaryBytes { .. } => "binary",
            Self::BinaryFloat { .. } => "binary_f32",
            Self::UnaryDouble { .. } => "unary_f64",
            Self::BinaryPlain { scalar: Scalar::F64, .. } => "binary_f64",
            Self::BinaryPlain { .. } => "binary_int",
            Self::Compare { .. } => "compare",
            Self::Select { .. } => "select",
            Self::Cast { .. } => "cast",
            Self::MatMulFloat { .. } => "matmul_f32",
            Self::PackPanels { .. } => "pack_panels",
            Self::MatMulBytes { .. } => "matmul",
            Self::ReduceFloat { .. } => "reduce_f32",
            Self::SoftmaxFloat { .. } => "softmax_f32",
            Self::SoftmaxBytes { .. } => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Gather { .. } => "gather",
            Self::Scatter { .. } => "scatter",
            Self::TopK { .. } => "top_k",
            Self::Reduce { elem: Scalar::F64, .. } => "reduce_f64",
            Self::Reduce { .. } => "reduce_int",
            Self::Cumulative { .. } => "cumulative",
            Self::Move { .. } => "move",
            Self::Fill { .. } => "fill",
        }
    }
    /// Multiply-accumulates of one run.
    pub fn macs(&self) -> u64 {
        match self {
            Self::Conv { conv, .. } | Self::ConvWords { conv, .. } | Self::ConvCodes { conv, .. } | Self::ConvFloat { conv, .. } => {
                conv.macs()
            }
            Self::ConvBits { conv, .. } => 8 * conv.macs(),
            Self::MatMulFloat { batch, m, k, n, .. } => (batch * m * k) as u64 * *n as u64,
            Self::MatMulBytes { product: p, .. } => (p.over.dims.iter().product::<usize>() * p.m * p.k) as u64 * p.n as u64,
            _ => 0,
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it computes.
    pub what: What,
    /// The kernel family lowering chose, from the catalogue of `quernel-kernels`.
    pub how: String,
    /// Operand slots.
    pub reads: Vec<Slot>,
    /// Result slots.
    pub writes: Vec<Slot>,
    /// ONNX nodes it came from.
    pub origin: Origin,
}

impl Program {
    /// Adds a constant.
    pub fn blob(&mut self, name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Slot {
        let bytes = bytes.into();
        let len = bytes.len();
        let blob = self.blobs.push(BlobData { name: name.into(), bytes });
        Slot { base: Base::Blob(blob), offset: 0, bytes: len }
    }
    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.blobs.iter().map(|(_, b)| b.bytes.len()).sum()
    }
    /// Byte offset of every blob that is `used` in the one constant section, and the section's length with slack.
    pub fn blob_offsets(&self, used: impl Fn(Blob) -> bool) -> (Vec<usize>, usize) {
        let mut at = 0usize;
        let mut offsets = vec![0; self.blobs.len()];
        for (id, b) in self.blobs.iter().filter(|(id, _)| used(*id)) {
            offsets[id.index()] = at;
            at = (at + b.bytes.len()).next_multiple_of(ALIGN);
        }
        (offsets, at + READ_SLACK)
    }
    /// Multiply-accumulates of one run.
    pub fn macs(&self) -> u64 {
        self.steps.iter().map(|s| s.what.macs()).sum()
    }
}
