//! What all integer convolution kernels share: choice, rearranged constants, ends.

use super::{Argument, Kernel, Plan, constant, conv_depthwise};
use crate::emit::{BytesEnd, Dot, Emitter, FloatEnd, Machine, Ptr, Stored};
use crate::target::Level;
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32X4, I8X16, I16X8},
};
use quernel_ir::codes;
use quernel_ir::program::{Base, Conv, End, Program, Step, WeightLayout};

/// Slots of a convolution's function.
pub const X: usize = 0;
/// Weights.
pub const W: usize = 1;
/// Bias i32.
pub const BIAS: usize = 2;
/// Scale f32.
pub const SCALE: usize = 3;
/// Residual bytes.
pub const RESIDUAL: usize = 4;
/// Residual factors i16.
pub const FACTOR: usize = 5;

/// An integer convolution.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// Geometry.
    pub conv: &'a Conv,
    /// Operand, residual and integer result are words of 16 bits.
    pub words: bool,
    /// Stored zero point of the operand.
    pub zero: i32,
    /// Two's complement operand.
    pub signed: bool,
    /// Two's complement residual.
    pub residual_signed: bool,
    /// How sums end.
    pub end: End,
}

impl Layer<'_> {
    /// Bytes per result element.
    pub fn out_bytes(&self) -> i64 {
        match self.end {
            End::Requantize { .. } => self.width() as i64,
            End::Float { .. } => 4,
        }
    }
    /// Bytes per element of the operand.
    pub fn width(&self) -> usize {
        if self.words { 2 } else { 1 }
    }
    /// Elements of the operand.
    pub fn operand(&self) -> Stored {
        Stored { words: self.words, signed: self.signed }
    }
    /// Elements of the residual.
    pub fn residual(&self) -> Stored {
        Stored { words: self.words, signed: self.residual_signed }
    }
}

/// Chooses the kernel and rearranges constants for it.
pub fn plan(program: &Program, step: &Step, conv: &Conv, x: Stored, machine: &Machine, derived: &mut Vec<Vec<u8>>, plan: &mut Plan) {
    plan.kernel = Kernel::Plain;
    // Callers' buffers have no slack behind them and no promise of padding inside.
    let slack = |i: usize| step.reads.get(i).is_none_or(|s| !matches!(s.base, Base::Input(_) | Base::Output(_)));
    if conv.padded() || !slack(X) || !slack(RESIDUAL) {
        return;
    }
    let (Some(weights), Some(bias)) = (codes::weights(program, step), constant(program, &step.reads[BIAS])) else { return };
    let dims = conv.weight_dims();
    // Pairs of words multiply as signed ones.
    let flip = if x.words { machine.level > Level::Scalar && !x.signed } else { flips(machine, x.signed) };
    match conv.layout {
        WeightLayout::Panels { depth, contiguous } if depth == if x.words { 2 } else { 4 } => {
            // Taps of a kernel row follow each other in memory only when pixels do.
            if contiguous && !(conv.input.pixel == dims.i && dims.groups == 1 && conv.window[1].dilation == 1) && dims.kw > 1 {
                return;
            }
            plan.kernel = Kernel::Panels { flip };
        }
        WeightLayout::Depthwise if machine.level > Level::Scalar && conv_depthwise::fits(conv) => {
            plan.kernel = Kernel::Depthwise { flip };
            plan.arguments[W] = derive(derived, conv_depthwise::pack(dims, &weights, machine, x.words));
        }
        _ => return,
    }
    if flip {
        // The kernel sees x + 128 (or x - 128 for unsigned operands): take 128 sum(w) back; of words, 2^15 times.
        let half = if x.words { 1 << 15 } else { 128 };
        let corrected = corrected_bias(conv, &weights, bias, if x.signed { -half } else { half });
        plan.arguments[BIAS] = derive(derived, corrected);
    }
}

/// Whether the machine's dot product wants operands of the other signedness.
pub fn flips(machine: &Machine, signed: bool) -> bool {
    machine.level >= Level::V128Dot
        && match machine.dot {
            Dot::Unsigned => signed,
            Dot::Signed => !signed,
            Dot::Both => false,
        }
}

/// Adds constants made for a kernel. Equal ones are one, as those of the strips of a layer.
pub fn derive(derived: &mut Vec<Vec<u8>>, bytes: Vec<u8>) -> Argument {
    let known = derived.iter().position(|d| *d == bytes);
    Argument::Derived(known.unwrap_or_else(|| {
        derived.push(bytes);
        derived.len() - 1
    }))
}

/// Biases plus `sign` times the sum of each channel's weights.
pub fn corrected_bias(conv: &Conv, weights: &[u8], bias: &[u8], sign: i32) -> Vec<u8> {
    let dims = conv.weight_dims();
    let mut out = bias.to_vec();
    for (o, word) in out.chunks_exact_mut(4).enumerate().take(dims.o) {
        let mut sum = 0i32;
        for ky in 0..dims.kh {
            for kx in 0..dims.kw {
                for i in 0..dims.i {
                    sum = sum.wrapping_add(i32::from(weights[conv.layout.index(dims, o, ky, kx, i)] as i8));
                }
            }
        }
        let old = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        word.copy_from_slice(&old.wrapping_add(sum.wrapping_mul(sign)).to_le_bytes());
    }
    out
}

/// Constants of a layer's end, in registers.
#[derive(Clone, Copy)]
pub enum Ends {
    /// Bytes or words.
    Integers(BytesEnd, Stored),
    /// Floats.
    Floats(FloatEnd),
}

/// Scalar constants of an end.
pub fn scalar_end(e: &mut Emitter, layer: &Layer) -> Ends {
    match layer.end {
        End::Requantize { zero, lo, hi, signed } => Ends::Integers(e.bytes_end(zero, lo, hi), Stored { words: layer.words, signed }),
        End::Float { lo, hi } => Ends::Floats(e.float_end(lo, hi)),
    }
}

/// Vector constants of an end.
pub fn vector_end(e: &mut Emitter, layer: &Layer) -> Ends {
    match layer.end {
        End::Requantize { zero, lo, hi, signed } => {
            let stored = Stored { words: layer.words, signed };
            Ends::Integers(e.integers_end_v(zero, lo, hi, stored), stored)
        }
        End::Float { lo, hi } => Ends::Floats(e.float_end_v(lo, hi)),
    }
}

/// Ends one sum and stores it: scale and factor (an i32) are the channel's, `residual` points to its operand.
pub fn finish_scalar(e: &mut Emitter, acc: Value, scale: Value, residual: Option<(Ptr, Stored, Value)>, ends: &Ends, to: Ptr) {
    let acc = match residual {
        Some((p, stored, factor)) => {
            let r = e.load_stored(p, 0, stored);
            let r = e.b.ins().imul(r, factor);
            e.b.ins().iadd(acc, r)
        }
        None => acc,
    };
    match ends {
        Ends::Integers(end, stored) => {
            let q = e.requantize(acc, scale, end);
            e.store_stored(q, to, 0, stored.words);
        }
        Ends::Floats(end) => {
            let y = e.scale_to_float(acc, scale, end);
            e.store(y, to, 0);
        }
    }
}

/// Ends sixteen sums (four i32x4) of one pixel, of which the first `lanes` exist. `scale` and `factor` point to the
/// panel's constants, `residual` to the pixel's first operand element of the panel.
pub fn finish_panel(
    e: &mut Emitter,
    acc: [Value; 4],
    scale: Ptr,
    residual: Option<(Ptr, Stored, Ptr)>,
    ends: &Ends,
    to: Ptr,
    lanes: usize,
) {
    let mut acc = acc;
    if let Some((p, stored, factor)) = residual {
        let halves = if stored.words {
            [e.load(I16X8, p, 0), e.load(I16X8, p, 16)]
        } else {
            let r = e.load(I8X16, p, 0);
            e.widen_bytes(r, stored.signed)
        };
        // Bytes are non-negative words.
        let signed = stored.signed || !stored.words;
        for (h, &half) in halves.iter().enumerate() {
            let f = e.load(I16X8, factor, 16 * h as i64);
            let (r, f) = (e.widen_words(half, signed), e.widen_words(f, true));
            for i in 0..2 {
                let product = e.b.ins().imul(r[i], f[i]);
                acc[2 * h + i] = e.b.ins().iadd(acc[2 * h + i], product);
            }
        }
    }
    match ends {
        Ends::Integers(end, stored) => {
            let q = std::array::from_fn(|j| {
                let m = e.load(F32X4, scale, 16 * j as i64);
                e.requantize_v(acc[j], m, end)
            });
            if stored.words {
                let halves = e.narrow_words(q, stored.signed);
                for (half, v) in halves.into_iter().enumerate().take(lanes.div_ceil(8)) {
                    e.store_low_bytes(v, (2 * lanes - 16 * half).min(16), to, 16 * half as i64);
                }
                return;
            }
            let bytes = e.narrow_bytes(q, stored.signed);
            e.store_low_bytes(bytes, lanes, to, 0);
        }
        Ends::Floats(end) => {
            let y: Vec<Value> = (0..4)
                .map(|j| {
                    let s = e.load(F32X4, scale, 16 * j as i64);
                    e.scale_to_float_v(acc[j as usize], s, end)
                })
                .collect();
            e.store_panel_floats(&y, lanes, to, 0);
        }
    }
}
