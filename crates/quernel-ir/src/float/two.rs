//! Functions of two f32 that are computed in f64, where products of f32 are exact: powers and remainders.

/// The bits of `sqrt(1/2)`: the mantissa of [`pow`]'s logarithm lies in `[sqrt(1/2), sqrt 2)`.
pub const BASE: u64 = 0x3fe6_a09e_667f_3bcd;
/// The stored bits of an f64's mantissa.
pub const MANTISSA: u64 = (1 << 52) - 1;
/// `1.5 * 2^52`: adding and subtracting it rounds `|x| < 2^51` to the nearest even integer.
pub const MAGIC: f64 = 6_755_399_441_055_744.0;
/// Every f32 from here on is an even integer.
pub const EVEN: f32 = 16_777_216.0;
/// Beyond this the exponential is no finite f32, or 0.
pub const LIMIT: f64 = 150.0;
/// `(ln((1 + s) / (1 - s)) - 2 s) / (2 s^3)` as a series in `s^2`, highest power first.
pub const LOG_SERIES: [f64; 9] = [1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0];
/// `exp(r)` as a series, highest power first.
pub const EXP_SERIES: [f64; 13] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

fn horner(coefficients: &[f64], x: f64) -> f64 {
    let mut p = coefficients[0];
    for c in &coefficients[1..] {
        p = p * x + c;
    }
    p
}

/// `a` to the power `b` with the special cases of IEEE-754 `pow`; the result is that of exact arithmetic, rounded, but
/// for errors of 2^-40 before the rounding.
pub fn pow(a: f32, b: f32) -> f32 {
    let (size, exponent) = (f64::from(a.abs()), f64::from(b));
    let shifted = size.to_bits().wrapping_sub(BASE);
    let e = ((shifted as i64) >> 52) as f64;
    let m = f64::from_bits((shifted & MANTISSA) + BASE);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let log = e * std::f64::consts::LN_2 + ((horner(&LOG_SERIES, z) * z) * s + s) * 2.0;
    let t = log * exponent;
    let t = if t < LIMIT { t } else { LIMIT };
    let t = if t > -LIMIT { t } else { -LIMIT };
    let n = (t * std::f64::consts::LOG2_E + MAGIC) - MAGIC;
    let r = t - n * std::f64::consts::LN_2;
    let two = f64::from_bits((n as i64 + 1023) as u64 * (1 << 52));
    let y = (horner(&EXP_SERIES, r) * two) as f32;

    let (end, other_end) = if b > 0.0 { (0.0, f32::INFINITY) } else { (f32::INFINITY, 0.0) };
    let y = if a == 0.0 { end } else { y };
    let y = if a.abs() == f32::INFINITY { other_end } else { y };
    // Whether the exponent is an integer, and an odd one.
    let small = if b.abs() < EVEN { exponent } else { 2.0 };
    let whole = (small + MAGIC) - MAGIC == small;
    let half = small * 0.5;
    let odd = whole && (half + MAGIC) - MAGIC != half;
    let y = if odd && a.to_bits() >> 31 == 1 { -y } else { y };
    let y = if a < 0.0 && a > f32::NEG_INFINITY && !whole { f32::NAN } else { y };
    let y = if a == -1.0 && b.abs() == f32::INFINITY { 1.0 } else { y };
    let y = if a.is_nan() || b.is_nan() { f32::NAN } else { y };
    if a == 1.0 || b == 0.0 { 1.0 } else { y }
}

/// The exact remainder of a division that truncates, with the sign of `a`; NaN where there is none.
pub fn remainder(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() || a.is_infinite() || b == 0.0 { f32::NAN } else { a % b }
}

/// The remainder of a division that rounds down, with the sign of `b`.
pub fn modulo(a: f32, b: f32) -> f32 {
    let r = remainder(a, b);
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_nearly_rounded_once() {
        let (mut worst, mut bits) = (0f64, 1u32);
        for base in (1..f32::INFINITY.to_bits()).step_by(1_000_003) {
            for _ in 0..40 {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (a, b) = (f32::from_bits(base), (f64::from(bits as i32) / f64::from(1u32 << 24)) as f32);
                let want = libm::pow(f64::from(a), f64::from(b));
                if want >= f64::from(f32::MIN_POSITIVE) && want <= f64::from(f32::MAX) {
                    worst = worst.max((f64::from(pow(a, b)) / want - 1.0).abs());
                }
            }
        }
        assert!(worst <= 2f64.powi(-24) + 2f64.powi(-40), "2^{:.3}", worst.log2());
    }

    #[test]
    fn special_cases_of_powers() {
        let values = [
            0.0f32,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -0.5,
            2.0,
            -2.0,
            3.0,
            -3.0,
            2.5,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e-45,
            1.7e7,
            -1.7e7,
        ];
        for a in values {
            for b in values {
                let (got, want) = (pow(a, b), libm::powf(a, b));
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same || (f64::from(got) / f64::from(want) - 1.0).abs() < 2f64.powi(-22), "{a} ^ {b}: {got}, {want}");
            }
        }
    }

    #[test]
    fn remainders() {
        assert_eq!((remainder(-7.5, 2.0), modulo(-7.5, 2.0), modulo(7.5, -2.0)), (-1.5, 0.5, -0.5));
        assert_eq!((remainder(1e38, 3.0), modulo(6.0, -3.0)), (1e38 % 3.0, 0.0));
        assert!(remainder(1.0, 0.0).is_nan() && remainder(f32::INFINITY, 1.0).is_nan() && modulo(f32::NAN, 1.0).is_nan());
        assert_eq!(remainder(1.0, f32::INFINITY), 1.0);
    }
}
