//! Arithmetic on plain numbers of every type but f32, which has [`crate::float`]: casts, integer functions, f64
//! functions, comparisons. The one definition; nothing here traps.
//!
//! * A cast yields the nearest value of the target type, ties to even, where that is a float; an integer becomes a 16-bit
//!   float through f64. A float becomes an integer by truncation, saturating, NaN to 0. An integer becomes a narrower one
//!   by its low bits. Everything but 0 is true. A cast of a NaN is the quiet NaN without sign or payload.
//! * Integers wrap. Division truncates; `x / 0` and remainders by 0 are 0. A shift by the width or more, or by a negative
//!   number, leaves 0, or -1 of a negative number shifted right.

use crate::{
    op::{Binary, Comparison, Unary},
    ty::Scalar,
};

/// A number of any plain type, exactly.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub enum Number {
    /// An integer or a bool.
    Int(i128),
    /// A float.
    Real(f64),
}

impl Number {
    /// Decodes the little-endian bytes of one element.
    pub fn read(s: Scalar, bytes: &[u8]) -> Self {
        let raw = bytes[..s.bytes()].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        match s {
            Scalar::F64 => Self::Real(f64::from_bits(raw)),
            Scalar::F32 => Self::Real(f64::from(f32::from_bits(raw as u32))),
            Scalar::F16 => Self::Real(widen(raw as u16, 10)),
            Scalar::BF16 => Self::Real(widen(raw as u16, 7)),
            _ => Self::Int(wrap(s, i128::from(raw))),
        }
    }

    /// The bits of the number as another type: the meaning of a cast.
    pub fn bits(self, to: Scalar) -> u64 {
        match (to, self) {
            (Scalar::Bool, Self::Int(v)) => u64::from(v != 0),
            (Scalar::Bool, Self::Real(v)) => u64::from(v != 0.0),
            (Scalar::F64, Self::Int(v)) => (v as f64).to_bits(),
            (Scalar::F64, Self::Real(v)) => if v.is_nan() { f64::NAN } else { v }.to_bits(),
            (Scalar::F32, Self::Int(v)) => (v as f32).to_bits().into(),
            (Scalar::F32, Self::Real(v)) => if v.is_nan() { f32::NAN } else { v as f32 }.to_bits().into(),
            (Scalar::F16, _) => narrow(self.real(), 10).into(),
            (Scalar::BF16, _) => narrow(self.real(), 7).into(),
            (_, Self::Int(v)) => low(to, v),
            // `as` truncates, saturates and sends NaN to 0.
            (_, Self::Real(v)) => {
                let (lo, hi) = to.range().unwrap_or((0, 0));
                low(to, (v as i128).clamp(lo, hi))
            }
        }
    }

    /// The nearest f64.
    pub fn real(self) -> f64 {
        match self {
            Self::Int(v) => v as f64,
            Self::Real(v) => v,
        }
    }
}

/// The low bits of an integer.
fn low(s: Scalar, v: i128) -> u64 {
    v as u64 & (u64::MAX >> (64 - 8 * s.bytes()))
}

/// Casts elements one after another.
pub fn cast(from: Scalar, to: Scalar, bytes: &[u8]) -> Vec<u8> {
    if from == to {
        return bytes.to_vec();
    }
    bytes.chunks_exact(from.bytes()).flat_map(|b| Number::read(from, b).bits(to).to_le_bytes().into_iter().take(to.bytes())).collect()
}

/// The value of a 16-bit float with `mantissa` stored bits of mantissa.
fn widen(bits: u16, mantissa: u32) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> mantissa) & ((1 << (15 - mantissa)) - 1), f64::from(bits & ((1 << mantissa) - 1)));
    let most = (1 << (15 - mantissa)) - 1;
    let bias = most / 2;
    let one = f64::from(1u32 << mantissa);
    let magnitude = if exponent == most {
        if fraction == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if exponent == 0 {
        fraction / one * power(1 - bias)
    } else {
        (1.0 + fraction / one) * power(exponent - bias)
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The nearest 16-bit float, ties to even.
fn narrow(x: f64, mantissa: u32) -> u16 {
    let most = (1u64 << (15 - mantissa)) - 1;
    let bias = (most / 2) as i32;
    if x.is_nan() {
        return (most << mantissa) as u16 | 1 << (mantissa - 1);
    }
    let a = x.abs();
    let exponent = ((a.to_bits() >> 52) as i32 - 1023).clamp(1 - bias, bias + 1);
    // Whole steps of the spacing at this exponent; a carry into the next exponent needs no care, nor does overflow.
    let steps = (a / power(exponent - mantissa as i32)).min(power(mantissa as i32 + 2)).round_ties_even() as u64;
    let bits = steps + (((exponent + bias - 1) as u64) << mantissa);
    let magnitude = bits.min(most << mantissa) as u16;
    if x.is_sign_negative() { magnitude | 0x8000 } else { magnitude }
}

/// `2^e`, for a normal result.
fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// The low bits of `v` as the type reads them; all bytes of a bool.
pub fn wrap(s: Scalar, v: i128) -> i128 {
    let bits = low(s, v);
    let unused = 64 - 8 * s.bytes() as u32;
    if s.is_signed() { i128::from(((bits << unused) as i64) >> unused) } else { i128::from(bits) }
}

/// A function of two integers of type `s`.
pub fn integer(f: Binary, s: Scalar, a: i128, b: i128) -> i128 {
    let bits = 8 * s.bytes() as i128;
    let y = match f {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => a.checked_div(b).unwrap_or(0),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Pow => integer_power(a, b),
        Binary::Remainder => a.checked_rem(b).unwrap_or(0),
        Binary::Modulo => {
            let r = a.checked_rem(b).unwrap_or(0);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::ShiftLeft if (0..bits).contains(&b) => a << b,
        Binary::ShiftLeft => 0,
        // What leaves the type to the left of an arithmetic shift is its sign.
        Binary::ShiftRight => a >> if (0..bits).contains(&b) { b } else { bits },
    };
    wrap(s, y)
}

/// Negative exponents truncate: 0 but for bases 1 and -1.
fn integer_power(a: i128, b: i128) -> i128 {
    if b < 0 {
        return match a {
            1 => 1,
            -1 => {
                if b & 1 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let (mut y, mut base, mut e) = (1i128, a, b);
    while e > 0 {
        if e & 1 == 1 {
            y = y.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    y
}

/// Whether f64 has the function: the others are computed in f32.
pub fn double_has(f: Binary) -> bool {
    matches!(f, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Min | Binary::Max)
}

/// A function of two f64, one of those [`double_has`] names; `Min` and `Max` as in [`crate::exact`].
pub fn double(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        Binary::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        _ => f64::NAN,
    }
}

/// Whether f64 has the function: the others are computed in f32.
pub fn double_has_unary(f: Unary) -> bool {
    matches!(f, Unary::Sqrt | Unary::Neg | Unary::Abs)
}

/// A function of one f64, one of those [`double_has_unary`] names.
pub fn double_unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Sqrt => x.sqrt(),
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        _ => f64::NAN,
    }
}

/// A function of two elements of type `s`, as bits: [`integer`] or [`double`].
pub fn binary(f: Binary, s: Scalar, a: &[u8], b: &[u8]) -> u64 {
    match (Number::read(s, a), Number::read(s, b)) {
        (Number::Int(a), Number::Int(b)) => low(s, integer(f, s, a, b)),
        (a, b) => double(f, a.real(), b.real()).to_bits(),
    }
}

/// Whether the relation holds; a NaN is in none.
pub fn compare(f: Comparison, s: Scalar, a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Number::read(s, a), Number::read(s, b));
    match f {
        Comparison::Equal => a == b,
        Comparison::Less => a < b,
        Comparison::LessEqual => a <= b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(s: Scalar, bits: u64) -> Vec<u8> {
        bits.to_le_bytes()[..s.bytes()].to_vec()
    }
    fn to(from: Scalar, to: Scalar, bits: u64) -> u64 {
        cast(from, to, &bytes(from, bits)).iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    #[test]
    fn halves_survive_a_wider_type() {
        for half in [Scalar::F16, Scalar::BF16] {
            for bits in 0..=u64::from(u16::MAX) {
                let nan = matches!(Number::read(half, &bytes(half, bits)), Number::Real(x) if x.is_nan());
                let want = if !nan {
                    bits
                } else if half == Scalar::F16 {
                    0x7e00
                } else {
                    0x7fc0
                };
                for wide in [Scalar::F32, Scalar::F64] {
                    assert_eq!(to(wide, half, to(half, wide, bits)), want, "{half} {bits:#x} {wide}");
                }
            }
        }
    }

    #[test]
    fn halves_are_the_nearest_ones() {
        let half = |x: f64| to(Scalar::F64, Scalar::F16, x.to_bits());
        let tiny = 2f64.powi(-24);
        for (x, want) in [
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (65504.0, 0x7bff),
            (65519.999, 0x7bff),
            (65520.0, 0x7c00),
            (1e300, 0x7c00),
            (f64::NEG_INFINITY, 0xfc00),
            (tiny, 1),
            (tiny * 0.5, 0),
            (tiny * 0.500_000_1, 1),
            (tiny * 1.5, 2),
            (-tiny * 0.25, 0x8000),
            (1.0 + 2f64.powi(-11), 0x3c00),
            (1.0 + 3.0 * 2f64.powi(-11), 0x3c02),
            // Rounding to f32 first would make a tie of this.
            (1.0 + 2f64.powi(-11) + 2f64.powi(-40), 0x3c01),
        ] {
            assert_eq!(half(x), want, "{x:e}");
        }
        assert_eq!(to(Scalar::F32, Scalar::BF16, 0x3f80_8000), 0x3f80);
        assert_eq!(to(Scalar::F32, Scalar::BF16, 0x3f81_8000), 0x3f82);
        assert_eq!(to(Scalar::F32, Scalar::BF16, 0x7f7f_ffff), 0x7f80);
        assert_eq!(to(Scalar::F32, Scalar::BF16, 0x0000_8001), 0x0001);
    }

    #[test]
    fn casts_to_integers_saturate_and_narrow_by_low_bits() {
        let real = |x: f32, s| to(Scalar::F32, s, u64::from(x.to_bits()));
        assert_eq!(real(-1.5, Scalar::I16), 0xffff);
        assert_eq!(real(-1.5, Scalar::U16), 0);
        assert_eq!(real(1e30, Scalar::U32), 0xffff_ffff);
        assert_eq!(real(1e30, Scalar::U64), u64::MAX);
        assert_eq!(real(f32::NAN, Scalar::I8), 0);
        assert_eq!(real(f32::NAN, Scalar::Bool), 1);
        assert_eq!(to(Scalar::I64, Scalar::U8, 0x1234), 0x34);
        assert_eq!(to(Scalar::I8, Scalar::U64, 0xff), u64::MAX);
        assert_eq!(to(Scalar::U64, Scalar::F32, u64::MAX), u64::from(1.844_674_4e19_f32.to_bits()));
        assert_eq!(to(Scalar::I32, Scalar::Bool, 0x100), 1);
    }

    #[test]
    fn integers_wrap_and_never_trap() {
        use Binary::{Div, Modulo, Mul, Pow, Remainder, ShiftLeft, ShiftRight};
        for (f, s, a, b, want) in [
            (Div, Scalar::I8, -128, -1, -128),
            (Div, Scalar::I64, i128::from(i64::MIN), -1, i128::from(i64::MIN)),
            (Div, Scalar::I32, 7, 0, 0),
            (Div, Scalar::I32, -7, 2, -3),
            (Modulo, Scalar::I32, -7, 3, 2),
            (Modulo, Scalar::I32, 7, -3, -2),
            (Modulo, Scalar::I32, 6, -3, 0),
            (Modulo, Scalar::I16, i128::from(i16::MIN), -1, 0),
            (Remainder, Scalar::I32, -7, 3, -1),
            (Remainder, Scalar::U8, 250, 0, 0),
            (Mul, Scalar::U64, i128::from(u64::MAX), i128::from(u64::MAX), 1),
            (Pow, Scalar::I8, 3, 5, -13),
            (Pow, Scalar::I32, 0, -1, 0),
            (Pow, Scalar::I32, -1, -3, -1),
            (ShiftLeft, Scalar::U8, 255, 1, 254),
            (ShiftLeft, Scalar::U8, 255, 8, 0),
            (ShiftRight, Scalar::U64, i128::from(u64::MAX), 63, 1),
            (ShiftRight, Scalar::U64, 1, 64, 0),
            (ShiftRight, Scalar::I8, -128, 3, -16),
            (ShiftRight, Scalar::I16, -5, 16, -1),
            (ShiftLeft, Scalar::I8, 3, -1, 0),
        ] {
            assert_eq!(integer(f, s, a, b), want, "{f:?} {s} {a} {b}");
        }
    }
}
