//! f32 functions from separate multiplies and adds, so that interpreter and compiled code agree bit for bit.
//!
//! The coefficients are public because the code generator emits the same Horner steps.

/// `log2 e`.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// High part of `ln 2`: 9 trailing zero bits, so `n * LN2_HI` is exact for `|n| < 2^9`.
pub const LN2_HI: f32 = 0.693_359_375;
/// `ln 2 - LN2_HI`.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// `1.5 * 2^23`: adding and subtracting it rounds `|x| < 2^22` to the nearest even integer.
pub const ROUND_MAGIC: f32 = 12_582_912.0;
/// Below this `exp` is 0.
pub const EXP_LO: f32 = -87.336_54;
/// Above this `exp` is infinite.
pub const EXP_HI: f32 = 88.376_26;
/// Polynomial of `(exp(r) - 1 - r) / r^2` on `|r| <= ln 2 / 2`, highest power first (Cephes `expf`).
pub const EXP_POLY: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1];

/// `exp(x)`; relative error at most 2^-22 where the result is normal; 0 below [`EXP_LO`], infinity above
/// [`EXP_HI`], NaN for NaN.
pub fn exp(x: f32) -> f32 {
    let n = (x * LOG2_E + ROUND_MAGIC) - ROUND_MAGIC;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = EXP_POLY[0];
    for c in &EXP_POLY[1..] {
        p = p * r + c;
    }
    let y = (p * (r * r) + r) + 1.0;
    // 2^n by exponent bits; n is in -126..=127 where the result is used.
    let power = f32::from_bits((((n as i32).wrapping_add(127)) as u32) << 23);
    if x < EXP_LO {
        0.0
    } else if x > EXP_HI {
        f32::INFINITY
    } else if x == x {
        y * power
    } else {
        x
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
}
