//! Tensor types. Quantization is part of the element type, so a value cannot be read with the wrong scale.

use std::{fmt, sync::Arc};

/// A plain element type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scalar {
    /// IEEE-754 binary64.
    F64,
    /// IEEE-754 binary32.
    F32,
    /// IEEE-754 binary16. Computed in [`Self::F32`]; kept, moved and cast.
    F16,
    /// The upper half of a binary32. Computed in [`Self::F32`]; kept, moved and cast.
    BF16,
    /// 64-bit two's complement; shapes and indices of ONNX.
    I64,
    /// 32-bit two's complement; accumulators and biases.
    I32,
    /// 16-bit two's complement.
    I16,
    /// 8-bit two's complement.
    I8,
    /// 64-bit unsigned.
    U64,
    /// 32-bit unsigned.
    U32,
    /// 16-bit unsigned.
    U16,
    /// 8-bit unsigned.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Scalar {
    /// Every scalar, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }
    /// Whether elements are integers; bool is none.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != Self::Bool
    }
    /// Whether elements are two's complement integers.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::I16 | Self::I8)
    }
    /// Smallest and largest integer; `None` for floats.
    pub fn range(self) -> Option<(i128, i128)> {
        let bits = 8 * self.bytes();
        match self {
            Self::Bool => Some((0, 1)),
            _ if self.is_float() => None,
            _ if self.is_signed() => Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1)),
            _ => Some((0, (1 << bits) - 1)),
        }
    }
}

/// Integer storage of a quantized element: `u8`, `i4`, `i16`, ... 1 to 16 bits; or `i32`, which only constants have
/// (biases of imported models).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Storage {
    bits: u8,
    signed: bool,
}

impl Storage {
    /// Unsigned bytes: activations.
    pub const U8: Self = Self { bits: 8, signed: false };
    /// Signed bytes: weights.
    pub const I8: Self = Self { bits: 8, signed: true };
    /// Signed 16-bit activations.
    pub const I16: Self = Self { bits: 16, signed: true };
    /// Signed 32-bit biases.
    pub const I32: Self = Self { bits: 32, signed: true };

    /// `None` unless `1 <= bits <= 16`, or 32 bits are signed.
    pub fn new(bits: u8, signed: bool) -> Option<Self> {
        ((1..=16).contains(&bits) || bits == 32 && signed).then_some(Self { bits, signed })
    }
    /// Bits of one element.
    pub fn bits(self) -> u8 {
        self.bits
    }
    /// Whether elements are two's complement.
    pub fn signed(self) -> bool {
        self.signed
    }
    /// Smallest and largest stored integer.
    pub fn range(self) -> (i32, i32) {
        if self.bits == 32 {
            (i32::MIN, i32::MAX)
        } else if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        }
    }
    /// The plain type with the same bits, for 8, 16 and 32 of them.
    pub fn scalar(self) -> Option<Scalar> {
        match (self.bits, self.signed) {
            (8, false) => Some(Scalar::U8),
            (8, true) => Some(Scalar::I8),
            (16, false) => Some(Scalar::U16),
            (16, true) => Some(Scalar::I16),
            (32, _) => Some(Scalar::I32),
            _ => None,
        }
    }
    /// The plain type that holds an element in memory, with its sign extended.
    pub fn held(self) -> Scalar {
        match (self.bytes(), self.signed) {
            (1, false) => Scalar::U8,
            (1, true) => Scalar::I8,
            (2, false) => Scalar::U16,
            (2, true) => Scalar::I16,
            _ => Scalar::I32,
        }
    }
    /// Bytes of one element in memory (constants of the graph are not bit-packed; lowering packs).
    pub fn bytes(self) -> usize {
        match self.bits {
            1..=8 => 1,
            9..=16 => 2,
            _ => 4,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.signed { 'i' } else { 'u' }, self.bits)
    }
}

/// How stored integers mean real numbers.
#[derive(Clone, PartialEq, Debug)]
pub enum Scheme {
    /// `real = scale * (q - zero_point)`.
    PerTensor {
        /// Finite and positive.
        scale: f32,
        /// Within the storage range.
        zero_point: i32,
    },
    /// `real = scales[index along axis] * q`. Symmetric by construction.
    PerAxis {
        /// The axis that indexes `scales`.
        axis: u8,
        /// One finite positive scale per slice.
        scales: Arc<[f32]>,
    },
    /// `real = scales[index along axis] * table[q]`: every low-bit code (ternary, binary, power of two, codebook).
    Table {
        /// The axis that indexes `scales`.
        axis: u8,
        /// One finite positive scale per slice.
        scales: Arc<[f32]>,
        /// `2^bits` entries.
        table: Arc<[i8]>,
    },
    /// `real = scales[i / group] * q` for element `i` in row-major order: weights of float layers, with several scales in a
    /// row. Symmetric by construction.
    Grouped {
        /// Elements under one scale.
        group: u32,
        /// One finite positive scale per group.
        scales: Arc<[f32]>,
    },
}

/// A quantized element type. Build with [`Quant::new`], which refuses illegal states.
#[derive(Clone, PartialEq, Debug)]
pub struct Quant {
    storage: Storage,
    min: i32,
    max: i32,
    scheme: Scheme,
}

impl Quant {
    /// `Err` says which rule is broken: range within storage, scales finite and positive, zero point within
    /// the range of the storage (0 for 32 bits), one table entry per code.
    pub fn new(storage: Storage, min: i32, max: i32, scheme: Scheme) -> Result<Self, String> {
        let (lo, hi) = storage.range();
        if !(lo <= min && min < max && max <= hi) {
            return Err(format!("range [{min}:{max}] does not fit {storage}"));
        }
        let scales: &[f32] = match &scheme {
            Scheme::PerTensor { scale, zero_point } => {
                if !(lo..=hi).contains(zero_point) || storage.bits == 32 && *zero_point != 0 {
                    return Err(format!("zero point {zero_point} does not fit {storage}"));
                }
                std::slice::from_ref(scale)
            }
            Scheme::PerAxis { scales, .. } => scales,
            Scheme::Grouped { group: 0, .. } => return Err("groups of no elements".into()),
            Scheme::Grouped { scales, .. } => scales,
            Scheme::Table { scales, table, .. } => {
                if storage.signed || storage.bits > 8 || table.len() != 1 << storage.bits {
                    return Err(format!("a table of {} entries does not fit {storage} codes", table.len()));
                }
                scales
            }
        };
        match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            Some(bad) => Err(format!("scale {bad:?} is not finite and positive")),
            None => Ok(Self { storage, min, max, scheme }),
        }
    }

    /// An 8-bit per-tensor type over the whole storage range.
    pub fn per_tensor(storage: Storage, scale: f32, zero_point: i32) -> Result<Self, String> {
        let (lo, hi) = storage.range();
        Self::new(storage, lo, hi, Scheme::PerTensor { scale, zero_point })
    }

    /// Integer storage.
    pub fn storage(&self) -> Storage {
        self.storage
    }
    /// Smallest value that occurs.
    pub fn min(&self) -> i32 {
        self.min
    }
    /// Largest value that occurs.
    pub fn max(&self) -> i32 {
        self.max
    }
    /// How integers mean real numbers.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }
    /// Scale and zero point of a per-tensor type.
    pub fn tensor_params(&self) -> Option<(f32, i32)> {
        match self.scheme {
            Scheme::PerTensor { scale, zero_point } => Some((scale, zero_point)),
            _ => None,
        }
    }
    /// The scale of slice `index` along the axis, of group `index`, or of the tensor.
    pub fn scale_at(&self, index: usize) -> f32 {
        match &self.scheme {
            Scheme::PerTensor { scale, .. } => *scale,
            Scheme::PerAxis { scales, .. } | Scheme::Table { scales, .. } | Scheme::Grouped { scales, .. } => scales[index],
        }
    }
    /// The integer that multiplies in kernels: `q - zero_point`, `q`, or `table[q]`.
    pub fn centered(&self, q: i32) -> i32 {
        match &self.scheme {
            Scheme::PerTensor { zero_point, .. } => q - zero_point,
            Scheme::PerAxis { .. } | Scheme::Grouped { .. } => q,
            Scheme::Table { table, .. } => i32::from(table[q as usize]),
        }
    }
    /// The axis of per-axis scales.
    pub fn axis(&self) -> Option<usize> {
        match self.scheme {
            Scheme::PerTensor { .. } | Scheme::Grouped { .. } => None,
            Scheme::PerAxis { axis, .. } | Scheme::Table { axis, .. } => Some(axis as usize),
        }
    }
}

/// Element type of a tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum Elem {
    /// Plain numbers.
    Scalar(Scalar),
    /// Quantized numbers.
    Quant(Arc<Quant>),
}

impl Elem {
    /// Plain binary32.
    pub const F32: Self = Self::Scalar(Scalar::F32);
    /// Plain i32.
    pub const I32: Self = Self::Scalar(Scalar::I32);
    /// Plain i64.
    pub const I64: Self = Self::Scalar(Scalar::I64);
    /// Plain bool.
    pub const BOOL: Self = Self::Scalar(Scalar::Bool);

    /// Bytes of one element in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Scalar(s) => s.bytes(),
            Self::Quant(q) => q.storage.bytes(),
        }
    }
    /// The quantized type, if it is one.
    pub fn quant(&self) -> Option<&Quant> {
        match self {
            Self::Quant(q) => Some(q),
            Self::Scalar(_) => None,
        }
    }
    /// The plain type, if it is one.
    pub fn scalar(&self) -> Option<Scalar> {
        match self {
            Self::Scalar(s) => Some(*s),
            Self::Quant(_) => None,
        }
    }
    /// Whether this is plain f32.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

impl From<Scalar> for Elem {
    fn from(s: Scalar) -> Self {
        Self::Scalar(s)
    }
}

impl From<Quant> for Elem {
    fn from(q: Quant) -> Self {
        Self::Quant(Arc::new(q))
    }
}

/// Type of a tensor: static dimensions and an element type. No dimensions means a scalar.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorTy {
    /// Extent of each axis, outermost first.
    pub dims: Vec<usize>,
    /// Element type.
    pub elem: Elem,
}

impl TensorTy {
    /// A tensor type.
    pub fn new(dims: impl Into<Vec<usize>>, elem: impl Into<Elem>) -> Self {
        Self { dims: dims.into(), elem: elem.into() }
    }
    /// A plain f32 tensor type.
    pub fn f32(dims: impl Into<Vec<usize>>) -> Self {
        Self::new(dims, Scalar::F32)
    }
    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }
    /// Number of elements. Import limits keep the product within `usize`.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.count() * self.elem.bytes()
    }
    /// The same dimensions with another element type.
    pub fn with_elem(&self, elem: impl Into<Elem>) -> Self {
        Self { dims: self.dims.clone(), elem: elem.into() }
    }
}
