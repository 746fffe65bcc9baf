//! Exact arithmetic: the one definition of every quantized result.
//!
//! The interpreter calls these functions; the code generator emits instruction sequences that give the same bits.
//! Every step is IEEE-754 binary32, round to nearest even, without contraction; integer accumulation is wrapping i32
//! whose FINAL value is proven to fit when a program is lowered. Rust never contracts `a * b + c`, so plain
//! expressions are the definition.

use crate::{
    float::two,
    op::{Binary, Multiplier, Unary},
    ty::Scalar,
};

/// Smallest multiplier of [`requantize`]: below it every result is the zero point.
pub const MIN_MULTIPLIER: f32 = 2.328_306_4e-10; // 2^-32
/// Multipliers of [`requantize`] are below this.
pub const MAX_MULTIPLIER: f32 = 256.0;
/// Residual factors satisfy `|R| < 2^15` so that one 16-bit multiply-add applies them.
pub const MAX_RESIDUAL: i32 = (1 << 15) - 1;

/// R8 (and R16): `clamp(rne(f32(acc) * m), lo - zero, hi - zero) + zero`.
///
/// Clamping before rounding equals clamping after it because the bounds are integers.
pub fn requantize(acc: i32, m: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let p = acc as f32 * m;
    let p = min_first(p, (hi - zero) as f32);
    let p = max_first(p, (lo - zero) as f32);
    p.round_ties_even() as i32 + zero
}

/// The scaled sum of a layer that ends in f32: `f32(acc) * s`, then the activation bounds.
pub fn scale_to_float(acc: i32, s: f32, lo: f32, hi: f32) -> f32 {
    clip(acc as f32 * s, lo, hi)
}

/// `min(max(x, lo), hi)` with the operand order every target keeps: a NaN becomes `lo`.
pub fn clip(x: f32, lo: f32, hi: f32) -> f32 {
    min_first(max_first(x, lo), hi)
}

/// `a > b ? a : b`, the meaning of x86 `maxps a, b`: a NaN in either operand yields `b`.
pub fn max_first(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `a < b ? a : b`, the meaning of x86 `minps a, b`: a NaN in either operand yields `b`.
pub fn min_first(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// QuantizeLinear: `sat(rne(x / scale) + zero)` with IEEE division; NaN becomes `lo`.
pub fn quantize(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let p = max_first(x / scale, (lo - zero) as f32);
    let p = min_first(p, (hi - zero) as f32);
    p.round_ties_even() as i32 + zero
}

/// DequantizeLinear: `f32(q - zero) * scale`.
pub fn dequantize(q: i32, scale: f32, zero: i32) -> f32 {
    (q - zero) as f32 * scale
}

/// The requantization multiplier of one output channel.
pub fn multiplier(order: Multiplier, sx: f32, sw: f32, sy: f32) -> f32 {
    match order {
        Multiplier::F64 => (f64::from(sx) * f64::from(sw) / f64::from(sy)) as f32,
        Multiplier::F32 => (sx * sw) / sy,
    }
}

/// The scale of an accumulator that ends in f32.
pub fn accumulator_scale(order: Multiplier, sx: f32, sw: f32) -> f32 {
    match order {
        Multiplier::F64 => (f64::from(sx) * f64::from(sw)) as f32,
        Multiplier::F32 => sx * sw,
    }
}

/// A bias in units of the accumulator: `rne(b / (sx * sw))`; `None` when it does not fit an i32.
pub fn quantize_bias(b: f32, sx: f32, sw: f32) -> Option<i32> {
    let q = (f64::from(b) / (f64::from(sx) * f64::from(sw))).round_ties_even();
    (q >= f64::from(i32::MIN) && q <= f64::from(i32::MAX)).then_some(q as i32)
}

/// The integer factor of a residual operand with scale `sr`: `rne(sr / (sx * sw))`.
///
/// The quantizer snaps `sw` so that the quotient IS (nearly) this integer; the factor defines the result.
/// `None` when it is 0 or does not fit 16 bits.
pub fn residual_factor(sr: f32, sx: f32, sw: f32) -> Option<i32> {
    let r = (f64::from(sr) / (f64::from(sx) * f64::from(sw))).round_ties_even();
    (r >= 1.0 && r <= f64::from(MAX_RESIDUAL)).then_some(r as i32)
}

/// Integer bounds `(lo, hi)` of an output type under a real clamp `[a, b]`:
/// the images of the clamp, within the range of the type.
pub fn clamp_bounds(a: f32, b: f32, scale: f32, zero: i32, min: i32, max: i32) -> (i32, i32) {
    let image = |x: f32| {
        if x == f32::NEG_INFINITY {
            min
        } else if x == f32::INFINITY {
            max
        } else {
            quantize(x, scale, zero, min, max)
        }
    };
    let (lo, hi) = (image(a), image(b));
    (lo, hi.max(lo))
}

/// The place that an index names on an axis of `extent` elements, which is not 0: negative ones count from the end, and
/// what is outside then is clamped.
pub fn index(i: i64, extent: usize) -> usize {
    let n = extent as i64;
    (if i < 0 { i + n } else { i }).clamp(0, n - 1) as usize
}

/// A key by which elements compare as integers: numbers by value, zeros of both signs alike, NaN above everything. `bits`
/// are those of the element, sign-extended unless it is an unsigned integer.
pub fn order_key(s: Scalar, bits: i64) -> i64 {
    match s {
        Scalar::F64 => float_key(bits, i64::MAX, 0x7ff0 << 48),
        Scalar::F32 => float_key(bits, 0x7fff_ffff, 0x7f80_0000),
        Scalar::F16 => float_key(bits, 0x7fff, 0x7c00),
        Scalar::BF16 => float_key(bits, 0x7fff, 0x7f80),
        Scalar::U64 => bits ^ i64::MIN,
        _ => bits,
    }
}

/// `magnitude` masks the sign off, `infinity` is the largest magnitude that is not NaN.
fn float_key(bits: i64, magnitude: i64, infinity: i64) -> i64 {
    let m = bits & magnitude;
    if m > infinity {
        magnitude
    } else if bits < 0 {
        -m
    } else {
        m
    }
}

/// Average of `n` elements with centered sum `sum`.
///
/// With equal parameters of operand and result, `rne(f32(sum) / f32(n)) + zero` (IEEE division); otherwise
/// [`requantize`] with `m = f32(sx / (sy n))`.
pub fn average(sum: i32, n: usize, sx: f32, sy: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    if sx.to_bits() == sy.to_bits() {
        let q = (sum as f32 / n as f32).round_ties_even() as i32;
        (q + zero).clamp(lo, hi)
    } else {
        requantize(sum, average_multiplier(n, sx, sy), zero, lo, hi)
    }
}

/// The multiplier of an average whose parameters change.
pub fn average_multiplier(n: usize, sx: f32, sy: f32) -> f32 {
    (f64::from(sx) / (f64::from(sy) * n as f64)) as f32
}

/// A binary function on plain f32.
pub fn binary(op: Binary, a: f32, b: f32) -> f32 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Min => min_first(a, b),
        Binary::Max => max_first(a, b),
        Binary::Pow => two::pow(a, b),
        Binary::Remainder => two::remainder(a, b),
        Binary::Modulo => two::modulo(a, b),
        // Real numbers have no bits.
        Binary::And | Binary::Or | Binary::Xor | Binary::ShiftLeft | Binary::ShiftRight => f32::NAN,
    }
}

/// Strict quantized binary function: dequantize both, operate, quantize. Parameters are `(scale, zero point)`.
pub fn binary_quantized(op: Binary, (a, pa): (i32, (f32, i32)), (b, pb): (i32, (f32, i32)), (sy, zy): (f32, i32), lo: i32, hi: i32) -> i32 {
    quantize(binary(op, dequantize(a, pa.0, pa.1), dequantize(b, pb.0, pb.1)), sy, zy, lo, hi)
}

/// The real function in f64, from the pure-Rust `libm`, so tables do not depend on the host.
pub fn unary_f64(f: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
    match f {
        Unary::Relu => x.max(0.0),
        Unary::LeakyRelu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                f64::from(alpha) * x
            }
        }
        Unary::Clip { lo, hi } => x.max(f64::from(lo)).min(f64::from(hi)),
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => libm::tanh(x),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::Swish { alpha } => x * sigmoid(f64::from(alpha) * x),
        Unary::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => 0.5 * x * (1.0 + libm::tanh(0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x))),
        Unary::Erf => libm::erf(x),
        Unary::Exp => libm::exp(x),
        Unary::Log => libm::log(x),
        Unary::Sqrt => libm::sqrt(x),
        Unary::Reciprocal => 1.0 / x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        Unary::Sin => libm::sin(x),
        Unary::Cos => libm::cos(x),
        Unary::Tan => libm::tan(x),
        Unary::Asin => libm::asin(x),
        Unary::Acos => libm::acos(x),
        Unary::Atan => libm::atan(x),
        Unary::Sinh => libm::sinh(x),
        Unary::Cosh => libm::cosh(x),
        Unary::Asinh => libm::asinh(x),
        Unary::Acosh => libm::acosh(x),
        Unary::Atanh => libm::atanh(x),
        Unary::Elu { alpha, beta, gamma } => {
            f64::from(gamma) * if x > 0.0 { x } else { f64::from(alpha) * libm::expm1(f64::from(beta) * x) }
        }
        Unary::Softplus => softplus(x),
        Unary::Softsign => x / (1.0 + x.abs()),
        Unary::Mish => x * libm::tanh(softplus(x)),
        Unary::ThresholdedRelu { alpha } => {
            if x > f64::from(alpha) {
                x
            } else {
                0.0
            }
        }
        Unary::Shrink { lambda, bias } => {
            if x < -f64::from(lambda) {
                x + f64::from(bias)
            } else if x > f64::from(lambda) {
                x - f64::from(bias)
            } else {
                0.0
            }
        }
    }
}

/// One entry of a unary table: `sat(rne(f(sx (q - zx)) / sy) + zy)` in f64; NaN becomes `lo`.
pub fn unary_entry(f: Unary, q: i32, (sx, zx): (f32, i32), (sy, zy): (f32, i32), lo: i32, hi: i32) -> i32 {
    let y = unary_f64(f, f64::from(sx) * f64::from(q - zx)) / f64::from(sy);
    saturate_f64(y, zy, lo, hi)
}

/// One entry of a requantization table: `sat(rne(sx (q - zx) / sy) + zy)` in f64.
pub fn requantize_entry(q: i32, (sx, zx): (f32, i32), (sy, zy): (f32, i32), lo: i32, hi: i32) -> i32 {
    saturate_f64(f64::from(sx) * f64::from(q - zx) / f64::from(sy), zy, lo, hi)
}

fn saturate_f64(y: f64, zero: i32, lo: i32, hi: i32) -> i32 {
    // `max` of a NaN is the other operand: it becomes `lo`.
    let y = y.max(f64::from(lo - zero)).min(f64::from(hi - zero));
    y.round_ties_even() as i32 + zero
}

/// The 256-byte table of an 8-bit unary function, indexed by the operand's byte.
pub fn byte_table(signed: bool, entry: impl Fn(i32) -> i32) -> [u8; 256] {
    std::array::from_fn(|byte| {
        let q = if signed { i32::from(byte as u8 as i8) } else { byte as i32 };
        entry(q) as u8
    })
}

/// Softmax over 8-bit logits: `E[d] = rne(2^23 exp(-sx d))` for `d = max - x` in 0..=255.
pub fn softmax_table(sx: f32) -> [u32; 256] {
    std::array::from_fn(|d| (8_388_608.0 * libm::exp(-f64::from(sx) * d as f64)).round_ties_even() as u32)
}

/// The factor of a softmax row with exact sum `sum` of table entries: `fl(1 / sy) / f32(sum)` for an 8-bit result
/// of scale `sy`, `1 / f32(sum)` for an f32 result (`sy` = 1).
pub fn softmax_factor(sum: u64, sy: f32) -> f32 {
    (1.0 / sy) / sum as f32
}

/// An 8-bit softmax result from its table entry and row factor.
pub fn softmax_quantized(e: u32, factor: f32, zy: i32, lo: i32, hi: i32) -> i32 {
    let p = min_first(e as f32 * factor, (hi - zy) as f32);
    (p.round_ties_even() as i32 + zy).clamp(lo, hi)
}

/// Elements of a row that is normalized: with more, its sums might leave 64 bits.
pub const MOST_NORM: usize = 1 << 23;

/// Factor and offset of a row of `n` elements: `fl32(s r)` and `fl32(-mean s r)` with `r = 1 / sqrt(s^2 variance + epsilon)`.
/// `sum` and `squares` are those of the centered integers; mean and variance are formed in f64, the numerator
/// `n squares - sum^2` in 64-bit integers. For `rms` the mean counts as 0.
pub fn norm_row(sum: i64, squares: i64, n: usize, scale: f32, epsilon: f32, rms: bool) -> (f32, f32) {
    let (count, s) = (n as f64, f64::from(scale));
    let variance = if rms { squares as f64 / count } else { (n as i64 * squares - sum * sum) as f64 / (count * count) };
    let factor = s / ((s * s) * variance + f64::from(epsilon)).sqrt();
    let offset = if rms { 0.0 } else { -(sum as f64 / count) * factor };
    (factor as f32, offset as f32)
}

/// A parameter of a norm in steps of the result: `fl32(p / sy)`.
pub fn norm_parameter(p: f32, sy: f32) -> f32 {
    (f64::from(p) / f64::from(sy)) as f32
}

/// A normalized element: `clamp(rne(fl(fl(fl(fl(c a) + b) g) + h)))`; NaN becomes `lo`. `c` is the centered integer, `a` and `b`
/// are its row's, `g` and `h` parameters by [`norm_parameter`].
pub fn norm_element(c: i32, (a, b): (f32, f32), (g, h): (f32, f32), zero: i32, lo: i32, hi: i32) -> i32 {
    quantize((c as f32 * a + b) * g + h, 1.0, zero, lo, hi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamp_before_round_equals_round_before_clamp() {
        for acc in (-(1 << 17)..1 << 17).step_by(37).chain([i32::MIN, i32::MAX, (1 << 24) + 1, -(1 << 30)]) {
            for m in [1.0 / 3.0, 0.1, 2f32.powi(-8), MIN_MULTIPLIER, 255.99] {
                for zero in [-128, -1, 0, 1, 127] {
                    let wide = (f64::from(acc as f32 * m)).round_ties_even() + f64::from(zero);
                    assert_eq!(f64::from(requantize(acc, m, zero, -128, 127)), wide.clamp(-128.0, 127.0), "{acc} {m} {zero}");
                }
            }
        }
    }

    #[test]
    fn quantize_sends_nan_to_the_lower_bound_and_saturates() {
        assert_eq!(quantize(f32::NAN, 0.1, 7, 0, 255), 0);
        assert_eq!(quantize(f32::INFINITY, 0.1, 7, 0, 255), 255);
        assert_eq!(quantize(f32::NEG_INFINITY, 0.1, 7, 0, 255), 0);
        assert_eq!(quantize(0.5, 1.0, 0, 0, 255), 0);
        assert_eq!(quantize(1.5, 1.0, 0, 0, 255), 2);
    }

    #[test]
    fn a_normalized_row_has_mean_0_and_variance_1() {
        let row = [-128, 127, 3, 3, -7, 60, 0, 12];
        let sums = |c: &[i32]| (c.iter().map(|c| i64::from(*c)).sum(), c.iter().map(|c| i64::from(*c).pow(2)).sum());
        let (sum, squares) = sums(&row);
        let (a, b) = norm_row(sum, squares, row.len(), 0.02, 0.0, false);
        let y: Vec<f64> = row.iter().map(|c| f64::from(*c as f32 * a + b)).collect();
        let (mean, variance) = (y.iter().sum::<f64>() / 8.0, y.iter().map(|y| y * y).sum::<f64>() / 8.0);
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{mean} {variance}");
        // The largest sums there are do not wrap.
        let n = MOST_NORM as i64;
        let (a, b) = norm_row(-255 * n, 255 * 255 * n, MOST_NORM, 1.0, 1.0, false);
        assert_eq!((a, b), (1.0, 255.0));
        // A row without variance: NaN takes the lower bound.
        let row = norm_row(8 * 5, 8 * 25, 8, 0.02, 0.0, false);
        assert_eq!(norm_element(5, row, (1.0, 0.0), 3, -128, 127), -128);
    }

    #[test]
    fn equal_scale_average_rounds_half_to_even_exactly() {
        for n in 1..=196_i32 {
            for sum in (-128 * n..=127 * n).step_by(7) {
                let (q, r) = (sum.div_euclid(n), sum.rem_euclid(n));
                let even = match (2 * r).cmp(&n) {
                    std::cmp::Ordering::Less => q,
                    std::cmp::Ordering::Greater => q + 1,
                    std::cmp::Ordering::Equal => q + (q & 1),
                };
                assert_eq!(average(sum, n as usize, 0.3, 0.3, 0, -128, 127), even, "{sum}/{n}");
            }
        }
    }
}
