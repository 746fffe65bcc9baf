//! f32 functions from separate multiplies and adds, so that interpreter and compiled code agree bit for bit.
//!
//! Every function is a fixed sequence of IEEE-754 binary32 `+ - * / sqrt`, comparisons with selects and bit
//! operations on the representation: no branches, no contraction, no table, so vector code reproduces it lane by
//! lane. The coefficients are public because the code generator emits the same Horner steps. [`unary`] is the meaning
//! of every element-wise operator on f32. Powers and remainders ([`two`]) go through f64 and have no vector form.
//!
//! Error bounds are relative where not said otherwise; the tests measure them against f64 over all exponents.

pub mod functions;
pub mod two;

use crate::{
    exact::{max_first, min_first},
    op::Unary,
};

/// `log2 e`.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// High part of `ln 2`: 9 trailing zero bits, so `n * LN2_HI` is exact for `|n| < 2^9`.
pub const LN2_HI: f32 = 355.0 / 512.0;
/// `ln 2 - LN2_HI`.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// `1.5 * 2^23`: adding and subtracting it rounds `|x| < 2^22` to the nearest even integer.
pub const ROUND_MAGIC: f32 = 12_582_912.0;
/// Below this `exp` is 0.
pub const EXP_LO: f32 = -87.336_54;
/// Above this `exp` is infinite.
pub const EXP_HI: f32 = 88.376_26;
/// Polynomial of `(exp(r) - 1 - r) / r^2` on `|r| <= ln 2 / 2`, highest power first (Cephes `expf`).
pub const EXP_POLY: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `exp(r) - 1` and `2^n` with `x = n ln 2 + r`; of use between [`EXP_LO`] and [`EXP_HI`].
pub fn exp_parts(x: f32) -> (f32, f32) {
    let n = (x * LOG2_E + ROUND_MAGIC) - ROUND_MAGIC;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = EXP_POLY[0];
    for c in &EXP_POLY[1..] {
        p = p * r + c;
    }
    // 2^n by exponent bits; n is in -126..=127 where the result is used.
    (p * (r * r) + r, f32::from_bits((((n as i32).wrapping_add(127)) as u32) << 23))
}

/// `exp(x)`; relative error at most 2^-22 where the result is normal; 0 below [`EXP_LO`], infinity above
/// [`EXP_HI`], NaN for NaN.
pub fn exp(x: f32) -> f32 {
    let (part, power) = exp_parts(x);
    if x < EXP_LO {
        0.0
    } else if x > EXP_HI {
        f32::INFINITY
    } else if x.is_nan() {
        x
    } else {
        (part + 1.0) * power
    }
}

/// Below this an angle needs no reduction.
pub const QUARTER: f32 = std::f32::consts::FRAC_PI_4;
/// `2 / pi` in binary: 26 zero bits, then the digits behind the point.
pub const TWO_OVER_PI: [u64; 5] =
    [0x0000_0028_be60_db93, 0x9105_4a7f_09d5_f47d, 0x4d37_7036_d8a5_664f, 0x10e4_107f_9458_eaf7, 0xaef1_586d_c91b_8e90];
/// A quadrant in units of 2^-62.
pub const QUADRANT: f32 = (std::f64::consts::FRAC_PI_2 / 4_611_686_018_427_387_904.0) as f32;

/// An angle's distance to the nearest multiple of `pi / 2`, and the number of the multiple modulo 4, of `|x|`.
///
/// The product of the mantissa with 96 digits of `2 / pi`, chosen by the exponent so that higher ones are multiples of 4,
/// is exact to 2^-62 (Payne and Hanek's reduction). NaN for what is not finite.
pub fn reduce(x: f32) -> (f32, f32) {
    let bits = x.abs().to_bits();
    let mantissa = u64::from(bits & 0x007f_ffff | 0x0080_0000);
    let at = (bits >> 23).saturating_sub(126).min(128);
    let (word, shift) = ((at >> 6) as usize, at & 63);
    let window = |i: usize| TWO_OVER_PI[i] << shift | (TWO_OVER_PI[i + 1] >> 1) >> (63 - shift);
    let low = window(word + 1) >> 32;
    let product = mantissa.wrapping_mul(window(word)).wrapping_add((mantissa * low) >> 32);
    let quadrant = product.wrapping_add(1 << 61) >> 62;
    let rest = product.wrapping_sub(quadrant << 62) as i64;
    if x.abs() < QUARTER {
        (x.abs(), 0.0)
    } else if x.abs() < f32::INFINITY {
        (rest as f32 * QUADRANT, quadrant as f32)
    } else {
        (f32::NAN, 0.0)
    }
}

/// Horner's rule in separate multiplies and adds, highest power first.
pub fn horner(coefficients: &[f32], x: f32) -> f32 {
    let mut p = coefficients[0];
    for c in &coefficients[1..] {
        p = p * x + c;
    }
    p
}

/// `min(max(x, lo), hi)` in the operand order of [`crate::exact::clip`]; an infinite bound is not applied, so without
/// bounds a NaN stays a NaN, and with a lower bound it becomes that bound.
pub fn bound(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if lo == f32::NEG_INFINITY { x } else { max_first(x, lo) };
    if hi == f32::INFINITY { x } else { min_first(x, hi) }
}

/// `1 / (1 + exp(-x))`; error at most 2^-21 where the result is normal, absolute error at most 2^-23.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// From here on `tanh` goes through `exp`.
pub const TANH_SPLIT: f32 = 0.625;
/// Polynomial in `x^2` of `(tanh(x) - x) / x^3` below [`TANH_SPLIT`].
pub const TANH_POLY: [f32; 5] = [-5.691_985_6e-3, 2.062_629_2e-2, -5.373_532e-2, 1.333_138_2e-1, -3.333_328e-1];

/// Hyperbolic tangent; error at most 2^-22.
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let small = (horner(&TANH_POLY, z) * z) * x + x;
    let large = 1.0 - 2.0 / (exp(a + a) + 1.0);
    (if a >= TANH_SPLIT { large } else { small }).copysign(x)
}

/// From here on `erf` goes through `exp`.
pub const ERF_SPLIT: f32 = 1.0;
/// From here on `erf` rounds to 1.
pub const ERF_END: f32 = 4.0;
/// Polynomial in `x^2` of `erf(x) / x - 1` below [`ERF_SPLIT`].
pub const ERF_POLY: [f32; 7] =
    [7.847_259e-5, -8.008_189e-4, 5.188_099e-3, -2.685_369_2e-2, 1.128_358_24e-1, -3.761_262_6e-1, 1.283_791_7e-1];
/// Polynomial of `ln(1 - erf(x))` from [`ERF_SPLIT`] to [`ERF_END`].
pub const ERFC_POLY: [f32; 7] = [1.873_752_5e-4, -2.957_14e-3, 2.187_488_2e-2, -1.031_814_6e-1, -6.380_612e-1, -1.127_138_1, -3.297_907e-4];

/// Gauss error function; error at most 2^-22.
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let small = horner(&ERF_POLY, x * x) * x + x;
    let large = 1.0 - exp(horner(&ERFC_POLY, min_first(a, ERF_END)));
    (if a >= ERF_SPLIT { large } else { small }).copysign(x)
}

/// `x/2 (1 + erf(x / sqrt 2))`; absolute error at most `2^-22 max(|x|, 1)`.
pub fn gelu(x: f32) -> f32 {
    (0.5 * x) * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `sqrt(2 / pi)`.
pub const GELU_SCALE: f32 = 0.797_884_6;
/// The cubic coefficient of the tanh form of GELU.
pub const GELU_CUBIC: f32 = 0.044_715;

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`; absolute error at most `2^-22 max(|x|, 1)`.
pub fn gelu_tanh(x: f32) -> f32 {
    let u = GELU_SCALE * (((x * x) * x) * GELU_CUBIC + x);
    (0.5 * x) * (1.0 + tanh(u))
}

/// `x sigmoid(alpha x)`; error at most 2^-20 where `alpha x` is exact and at least -87; below that the result is within 2^-120 of 0.
pub fn swish(x: f32, alpha: f32) -> f32 {
    x * sigmoid(alpha * x)
}

/// The bits of `sqrt(1/2)`: the mantissa of [`log`] lies in `[sqrt(1/2), sqrt 2)`.
pub const LOG_BASE: u32 = 0x3f35_04f3;
/// Polynomial in `s^2` of `(ln((1 + s) / (1 - s)) - 2 s) / s^3`.
pub const LOG_POLY: [f32; 3] = [2.987_652e-1, 3.997_733_3e-1, 6.666_677_6e-1];

/// Natural logarithm; error at most 2^-22 (subnormal operands included); -infinity for 0, NaN below, infinity for
/// infinity.
pub fn log(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 8_388_608.0 } else { x };
    let shifted = y.to_bits().wrapping_sub(LOG_BASE);
    let e = ((shifted as i32) >> 23) as f32 + if tiny { -23.0 } else { 0.0 };
    let f = f32::from_bits((shifted & 0x007f_ffff) + LOG_BASE) - 1.0;
    let s = f / (f + 2.0);
    let z = s * s;
    let l = (horner(&LOG_POLY, z) * z) * s + (s + s);
    let r = e * LN2_HI + (e * LN2_LO + l);
    let r = if x < f32::INFINITY { r } else { x };
    let r = if x >= 0.0 { r } else { f32::NAN };
    if x == 0.0 { f32::NEG_INFINITY } else { r }
}

/// The element-wise function on f32.
pub fn unary(f: Unary, x: f32) -> f32 {
    match f {
        Unary::Relu => max_first(x, 0.0),
        Unary::LeakyRelu { alpha } => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        Unary::Clip { lo, hi } => bound(x, lo, hi),
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => tanh(x),
        Unary::HardSigmoid { alpha, beta } => bound(alpha * x + beta, 0.0, 1.0),
        Unary::HardSwish => x * bound(x / 6.0 + 0.5, 0.0, 1.0),
        Unary::Swish { alpha } => swish(x, alpha),
        Unary::Gelu => gelu(x),
        Unary::GeluTanh => gelu_tanh(x),
        Unary::Erf => erf(x),
        Unary::Exp => exp(x),
        Unary::Log => log(x),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        _ => functions::unary(&mut functions::Numbers, f, x).unwrap_or(f32::NAN),
    }
}

/// Sum with 16 partial sums by index mod 16, then a tree 8/4/2/1: one order for every vector width.
pub fn sum16(values: impl IntoIterator<Item = f32>) -> f32 {
    let mut lane = [0f32; 16];
    for (i, v) in values.into_iter().enumerate() {
        lane[i % 16] += v;
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lane[i] += lane[i + width];
        }
    }
    lane[0]
}

/// The product in the same order.
pub fn prod16(values: impl IntoIterator<Item = f32>) -> f32 {
    let mut lane = [1f32; 16];
    for (i, v) in values.into_iter().enumerate() {
        lane[i % 16] *= v;
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lane[i] *= lane[i + width];
        }
    }
    lane[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound_over_all_exponents() {
        let mut worst = 0f64;
        let mut bits = 0u32;
        while bits < 0x42b0_0000 {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if (EXP_LO..=EXP_HI).contains(&x) {
                    let want = libm::exp(f64::from(x));
                    worst = worst.max((f64::from(exp(x)) / want - 1.0).abs());
                }
            }
            bits += 4093;
        }
        assert!(worst <= 2f64.powi(-22), "{worst:e}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    /// The largest error of `f` over both signs of a sample of the bit patterns below `end`, as `error(got, want, x)`.
    fn worst(end: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, error: impl Fn(f64, f64, f64) -> f64) -> f64 {
        let mut worst = 0f64;
        for bits in (0x0080_0000..end.to_bits()).step_by(1021) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let want = exact(f64::from(x));
                if want.abs() >= f64::from(f32::MIN_POSITIVE) {
                    worst = worst.max(error(f64::from(f(x)), want, f64::from(x)));
                }
            }
        }
        worst
    }
    fn relative(got: f64, want: f64, _: f64) -> f64 {
        ((got - want) / want).abs()
    }
    fn by_operand(got: f64, want: f64, x: f64) -> f64 {
        (got - want).abs() / x.abs().max(1.0)
    }

    #[test]
    fn functions_are_within_their_bounds() {
        let real = |f: Unary| move |x: f64| crate::exact::unary_f64(f, x);
        let cases = [
            ("sigmoid", worst(200.0, sigmoid, real(Unary::Sigmoid), relative), -21),
            ("sigmoid absolute", worst(200.0, sigmoid, real(Unary::Sigmoid), |g, w, _| (g - w).abs()), -23),
            ("tanh", worst(100.0, tanh, real(Unary::Tanh), relative), -22),
            ("erf", worst(100.0, erf, real(Unary::Erf), relative), -22),
            ("gelu", worst(100.0, gelu, real(Unary::Gelu), by_operand), -22),
            ("gelu_tanh", worst(100.0, gelu_tanh, real(Unary::GeluTanh), by_operand), -22),
            ("swish", worst(87.0, |x| swish(x, 1.0), real(Unary::Swish { alpha: 1.0 }), relative), -20),
        ];
        for (name, error, bound) in cases {
            assert!(error <= 2f64.powi(bound), "{name}: 2^{:.2}", error.log2());
        }
    }

    #[test]
    fn functions_written_once_are_within_their_bounds() {
        let elu = Unary::Elu { alpha: 1.67, beta: 1.0, gamma: 1.05 };
        let all = f32::MAX;
        let cases = [
            (Unary::Sin, all, -21),
            (Unary::Cos, all, -21),
            (Unary::Tan, all, -20),
            (Unary::Asin, 1.0, -21),
            (Unary::Acos, 1.0, -21),
            (Unary::Atan, all, -22),
            (Unary::Sinh, 89.0, -20),
            (Unary::Cosh, 89.0, -20),
            (Unary::Asinh, all, -21),
            (Unary::Acosh, all, -21),
            (Unary::Atanh, 0.999_999, -21),
            (elu, 1e38, -21),
            (Unary::Softplus, 80.0, -21),
            (Unary::Softsign, all, -22),
            (Unary::Mish, 80.0, -20),
            (Unary::Floor, all, -60),
            (Unary::Ceil, all, -60),
            (Unary::Round, all, -60),
            (Unary::Sign, all, -60),
        ];
        let mut wrong = Vec::new();
        for (f, end, bound) in cases {
            let error = worst(end, |x| unary(f, x), |x| crate::exact::unary_f64(f, x), relative);
            if error > 2f64.powi(bound) {
                wrong.push(format!("{}: 2^{:.2}", f.name(), error.log2()));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn functions_written_once_at_their_ends() {
        let at = |f: Unary, x: f32| unary(f, x);
        for f in [Unary::Sin, Unary::Cos, Unary::Tan] {
            assert!(at(f, f32::INFINITY).is_nan() && at(f, f32::NAN).is_nan(), "{f:?}");
        }
        for f in [Unary::Asin, Unary::Acos, Unary::Atanh] {
            assert!(at(f, 1.5).is_nan() && at(f, -1.5).is_nan() && at(f, f32::NAN).is_nan(), "{f:?}");
        }
        assert!(at(Unary::Acosh, 0.5).is_nan() && at(Unary::Acosh, f32::NAN).is_nan());
        assert_eq!((at(Unary::Atanh, 1.0), at(Unary::Atanh, -1.0)), (f32::INFINITY, f32::NEG_INFINITY));
        assert_eq!((at(Unary::Atan, f32::INFINITY), at(Unary::Acos, 1.0)), (std::f32::consts::FRAC_PI_2, 0.0));
        assert_eq!((at(Unary::Sinh, f32::NEG_INFINITY), at(Unary::Cosh, f32::NEG_INFINITY)), (f32::NEG_INFINITY, f32::INFINITY));
        assert_eq!((at(Unary::Acosh, f32::INFINITY), at(Unary::Asinh, f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
        assert_eq!((at(Unary::Softplus, f32::INFINITY), at(Unary::Softplus, f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        let elu = Unary::Elu { alpha: 2.0, beta: 1.0, gamma: 1.0 };
        assert_eq!((at(elu, f32::NEG_INFINITY), at(elu, 3.0)), (-2.0, 3.0));
        for (f, x, want) in [
            (Unary::Round, 2.5, 2.0),
            (Unary::Round, -3.5, -4.0),
            (Unary::Floor, -0.25, -1.0),
            (Unary::Ceil, 0.25, 1.0),
            (Unary::Floor, 16_777_216.0, 16_777_216.0),
            (Unary::Sign, -7.0, -1.0),
            (Unary::ThresholdedRelu { alpha: 1.0 }, 1.0, 0.0),
            (Unary::Shrink { lambda: 1.0, bias: 0.5 }, -2.0, -1.5),
        ] {
            assert_eq!(at(f, x), want, "{f:?}");
        }
        assert_eq!(at(Unary::Round, -0.25).to_bits(), (-0f32).to_bits());
    }

    #[test]
    fn log_is_within_its_bound_and_exact_at_its_ends() {
        let mut worst = 0f64;
        for bits in (1..f32::INFINITY.to_bits()).step_by(1021).chain(0x3f7f_0000..0x3f81_0000) {
            let x = f32::from_bits(bits);
            if x != 1.0 {
                worst = worst.max((f64::from(log(x)) / libm::log(f64::from(x)) - 1.0).abs());
            }
        }
        assert!(worst <= 2f64.powi(-22), "2^{:.2}", worst.log2());
        assert_eq!(log(1.0).to_bits(), 0);
        assert_eq!(log(0.0), f32::NEG_INFINITY);
        assert_eq!(log(-0.0), f32::NEG_INFINITY);
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        assert!(log(-1.0).is_nan() && log(f32::NEG_INFINITY).is_nan() && log(f32::NAN).is_nan());
    }

    #[test]
    fn limits_and_nan() {
        for (f, low, high) in [(sigmoid as fn(f32) -> f32, 0.0, 1.0), (tanh, -1.0, 1.0), (erf, -1.0, 1.0)] {
            assert_eq!((f(f32::NEG_INFINITY), f(f32::INFINITY)), (low, high));
            assert_eq!((f(-f32::MAX), f(f32::MAX)), (low, high));
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!(tanh(-0.0).to_bits(), (-0f32).to_bits());
        assert_eq!((bound(9.0, -1.0, 6.0), bound(-9.0, -1.0, 6.0), bound(f32::NAN, 0.0, 6.0)), (6.0, -1.0, 0.0));
        assert!(bound(f32::NAN, f32::NEG_INFINITY, f32::INFINITY).is_nan());
    }

    #[test]
    fn sum16_adds_lanes_then_a_tree() {
        assert_eq!(sum16((1..=100).map(|i| i as f32)), 5050.0);
        // Lane 0 gets 2^24 and then 1, which is lost; lanes 1 and 3 meet before lane 0 and keep their sum of 2.
        let mut values = vec![0f32; 17];
        (values[0], values[16]) = (16_777_216.0, 1.0);
        assert_eq!(sum16(values.clone()), 16_777_216.0);
        values[1] = 1.0;
        values[3] = 1.0;
        assert_eq!(sum16(values), 16_777_218.0);
    }
}
