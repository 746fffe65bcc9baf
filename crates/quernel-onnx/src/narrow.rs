//! Element types of the standard that the IR does not have: floats of 8 and 4 bits, integers of 4 and 2 bits. Each element is
//! held in a byte of its own, a float as its code, an integer with its sign extended.
//!
//! Nothing is computed with such numbers: they are cast, moved, and scaled by `QuantizeLinear` and `DequantizeLinear`. A
//! code is read from a table of all codes, and made by a table over the leading bits of the f32.

use crate::generated::tensor_proto::DataType;
use quernel_ir::{Scalar, Storage};

/// An element type of a file that is held in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Narrow {
    /// An integer of 2 or 4 bits.
    Integer(Storage),
    /// A float of at most 8 bits.
    Float(Small),
}

/// A float of at most 8 bits, of the forms in the ONNX standard: sign, exponent, mantissa from the highest bit down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Small {
    /// 4 bits of exponent, 3 of mantissa, NaN where all of them are set, no infinity.
    E4M3Fn,
    /// The same with a bias of 8; the code of -0 is NaN.
    E4M3Fnuz,
    /// 5 bits of exponent, 2 of mantissa; infinities and NaN as in IEEE-754.
    E5M2,
    /// The same with a bias of 16; the code of -0 is NaN.
    E5M2Fnuz,
    /// 2 bits of exponent, 1 of mantissa; neither infinities nor NaN.
    E2M1,
    /// 8 bits of exponent and nothing else: powers of two from 2^-127 on; the last code is NaN.
    E8M0,
}

/// What becomes of numbers between two neighbours and beyond the largest one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounding {
    /// What is too large becomes the largest number, not an infinity or NaN.
    pub saturate: bool,
    /// Of [`Small::E8M0`] alone: the others round to the nearest, ties to even.
    pub toward: Toward,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Toward {
    Up,
    Down,
    Nearest,
}

impl Narrow {
    /// The type of that number in the standard; `None` for those that are no narrow type.
    pub fn of(data_type: i32) -> Option<Self> {
        let integer = |bits, signed| Storage::new(bits, signed).map(Self::Integer);
        match DataType::try_from(data_type).ok()? {
            DataType::Uint4 => integer(4, false),
            DataType::Int4 => integer(4, true),
            DataType::Uint2 => integer(2, false),
            DataType::Int2 => integer(2, true),
            DataType::Float8e4m3fn => Some(Self::Float(Small::E4M3Fn)),
            DataType::Float8e4m3fnuz => Some(Self::Float(Small::E4M3Fnuz)),
            DataType::Float8e5m2 => Some(Self::Float(Small::E5M2)),
            DataType::Float8e5m2fnuz => Some(Self::Float(Small::E5M2Fnuz)),
            DataType::Float4e2m1 => Some(Self::Float(Small::E2M1)),
            DataType::Float8e8m0 => Some(Self::Float(Small::E8M0)),
            _ => None,
        }
    }
    /// The type of the bytes.
    pub fn scalar(self) -> Scalar {
        match self {
            Self::Integer(s) if s.signed() => Scalar::I8,
            _ => Scalar::U8,
        }
    }
    /// Bits of an element in a file.
    pub fn bits(self) -> usize {
        match self {
            Self::Integer(s) => s.bits().into(),
            Self::Float(Small::E2M1) => 4,
            Self::Float(_) => 8,
        }
    }
    /// Elements as they are held, `n` of them, from those of a file, which are packed from the lowest bits up.
    pub fn unpack(self, raw: &[u8], n: usize) -> Vec<u8> {
        let bits = self.bits();
        let element = |i: usize| {
            let code = raw[i * bits / 8] << (8 - bits - i * bits % 8);
            if self.scalar() == Scalar::I8 { (code as i8 >> (8 - bits)) as u8 } else { code >> (8 - bits) }
        };
        (0..n).map(element).collect()
    }
}

impl Small {
    /// The name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::E4M3Fn => "float8e4m3fn",
            Self::E4M3Fnuz => "float8e4m3fnuz",
            Self::E5M2 => "float8e5m2",
            Self::E5M2Fnuz => "float8e5m2fnuz",
            Self::E2M1 => "float4e2m1",
            Self::E8M0 => "float8e8m0",
        }
    }
    /// Bits of mantissa, bias of the exponent, code of the largest number.
    fn parts(self) -> (u32, i32, u8) {
        match self {
            Self::E4M3Fn => (3, 7, 0x7e),
            Self::E4M3Fnuz => (3, 8, 0x7f),
            Self::E5M2 => (2, 15, 0x7b),
            Self::E5M2Fnuz => (2, 16, 0x7f),
            Self::E2M1 => (1, 1, 0x07),
            Self::E8M0 => (0, 127, 0xfe),
        }
    }
    /// The bit of the sign; 0 where there is none.
    fn sign(self) -> u8 {
        match self {
            Self::E2M1 => 0x08,
            Self::E8M0 => 0,
            _ => 0x80,
        }
    }
    /// Whether the code of -0 means NaN.
    fn unsigned_zero(self) -> bool {
        matches!(self, Self::E4M3Fnuz | Self::E5M2Fnuz)
    }

    /// The number a code means. Bits that are no part of it are ignored.
    pub fn decode(self, code: u8) -> f32 {
        let (mantissa, bias, most) = self.parts();
        let code = if self == Self::E2M1 { code & 15 } else { code };
        let magnitude = code & !self.sign();
        if self.unsigned_zero() && code == 0x80 {
            return f32::NAN;
        }
        if magnitude > most {
            let infinite = self == Self::E5M2 && magnitude == 0x7c;
            return if !infinite {
                f32::NAN
            } else if code == magnitude {
                f32::INFINITY
            } else {
                f32::NEG_INFINITY
            };
        }
        let (exponent, fraction) = (i32::from(magnitude >> mantissa), u32::from(magnitude) & ((1 << mantissa) - 1));
        let value = match self {
            Self::E8M0 => two(exponent - bias),
            _ if exponent == 0 => f64::from(fraction) * two(1 - bias - mantissa as i32),
            _ => f64::from(fraction + (1 << mantissa)) * two(exponent - bias - mantissa as i32),
        };
        if code == magnitude { value as f32 } else { -value as f32 }
    }

    /// The code of a number.
    pub fn encode(self, x: f32, how: Rounding) -> u8 {
        if self == Self::E8M0 {
            return power(x, how);
        }
        let (mantissa, bias, most) = self.parts();
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        let not_a_number = match self {
            Self::E2M1 => return if x.is_nan() { 0x08 } else { finite(x, mantissa, bias).min(most) | sign },
            Self::E4M3Fnuz | Self::E5M2Fnuz => 0x80,
            Self::E4M3Fn => sign | 0x7f,
            Self::E5M2 => sign | 0x7e,
            Self::E8M0 => 0xff,
        };
        if x.is_nan() {
            return not_a_number;
        }
        let code = finite(x, mantissa, bias);
        match (code > most, self) {
            (false, _) if code == 0 && self.unsigned_zero() => 0,
            (false, _) => code | sign,
            (true, _) if how.saturate => most | sign,
            (true, Self::E5M2) => 0x7c | sign,
            (true, _) => not_a_number,
        }
    }

    /// How many of the leading bits of an f32 decide about its code, if the last of them is set where any lower one is: those of
    /// sign, exponent and mantissa, and two that tell a half, less, and more; one more where subnormal operands count.
    pub fn leading(self) -> u32 {
        9 + self.parts().0 + if self == Self::E8M0 { 3 } else { 2 }
    }
    /// The codes of all f32 by their leading bits.
    pub fn table(self, how: Rounding) -> Vec<u8> {
        (0..1u32 << self.leading()).map(|i| self.encode(f32::from_bits(i << (32 - self.leading())), how)).collect()
    }
}

/// `2^e`, for a normal f64.
fn two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// The magnitude of the nearest number, ties to even, as if exponents went on for ever; 255 at most.
fn finite(x: f32, mantissa: u32, bias: i32) -> u8 {
    let a = f64::from(x.abs());
    let exponent = ((a.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    let steps = (a / two(exponent - mantissa as i32)).round_ties_even();
    // A carry into the next exponent needs no care. An infinity saturates.
    (steps + f64::from((exponent + bias - 1) << mantissa)).min(255.0) as u8
}

/// The code of the power of two that is the magnitude of `x`, or one beside it; NaN for what is not finite. Ties go up.
fn power(x: f32, how: Rounding) -> u8 {
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 23 & 255) as u8, bits & 0x7f_ffff);
    // Below the smallest normal f32, code 0 is 2^-127, and nothing is less.
    let (below, middle) = if exponent == 0 { (0x40_0000, 0x60_0000) } else { (0, 0x40_0000) };
    let up = match how.toward {
        Toward::Down => false,
        Toward::Up => fraction > below,
        Toward::Nearest => fraction >= middle,
    };
    match exponent {
        0xff => 0xff,
        0xfe if how.saturate => 0xfe,
        _ => exponent + u8::from(up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [Small; 6] = [Small::E4M3Fn, Small::E4M3Fnuz, Small::E5M2, Small::E5M2Fnuz, Small::E2M1, Small::E8M0];
    const NEAREST: Rounding = Rounding { saturate: true, toward: Toward::Nearest };

    fn codes(s: Small) -> std::ops::RangeInclusive<u8> {
        0..=if s == Small::E2M1 { 15 } else { 255 }
    }

    #[test]
    fn every_number_is_its_own_code() {
        for s in FLOATS {
            for code in codes(s).filter(|c| !s.decode(*c).is_nan()) {
                let how = Rounding { saturate: false, ..NEAREST };
                assert_eq!(s.encode(s.decode(code), how), code, "{s:?} {code:#x}");
            }
            assert!(s == Small::E2M1 || s.decode(s.encode(f32::NAN, NEAREST)).is_nan());
        }
    }

    #[test]
    fn known_numbers() {
        let largest = |s: Small| codes(s).map(|c| s.decode(c)).filter(|x| x.is_finite()).fold(0.0, f32::max);
        assert_eq!(FLOATS.map(largest), [448.0, 240.0, 57344.0, 57344.0, 6.0, 2f32.powi(127)]);
        assert_eq!(Small::E8M0.decode(0), 2f32.powi(-126) / 2.0);
        let open = Rounding { saturate: false, ..NEAREST };
        for (s, x, saturated, other) in [
            (Small::E4M3Fn, 464.0, 0x7e, 0x7e),
            (Small::E4M3Fn, 465.0, 0x7e, 0x7f),
            (Small::E4M3Fn, f32::NEG_INFINITY, 0xfe, 0xff),
            (Small::E4M3Fnuz, 1e6, 0x7f, 0x80),
            (Small::E4M3Fnuz, -1e-9, 0, 0),
            (Small::E5M2, 61440.0, 0x7b, 0x7c),
            (Small::E5M2, f32::NEG_INFINITY, 0xfb, 0xfc),
            (Small::E5M2Fnuz, f32::NAN, 0x80, 0x80),
            (Small::E2M1, -1e9, 15, 15),
            (Small::E2M1, 0.25, 0, 0),
            (Small::E2M1, 3.5, 6, 6),
            (Small::E8M0, 1.5, 128, 128),
            (Small::E8M0, f32::MAX, 0xfe, 0xff),
        ] {
            assert_eq!((s.encode(x, NEAREST), s.encode(x, open)), (saturated, other), "{s:?} {x}");
        }
    }

    /// Random bits, the neighbourhoods of every code, and of the middle between two.
    fn numbers(s: Small) -> impl Iterator<Item = f32> {
        let near = codes(s).flat_map(move |c| {
            let (a, b) = (s.decode(c), s.decode(c.wrapping_add(1)));
            [a, a / 2.0 + b / 2.0].into_iter().flat_map(|x| [-1, 0, 1].map(|d: i32| f32::from_bits(x.to_bits().wrapping_add_signed(d))))
        });
        let any = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9)));
        near.chain(any)
    }

    #[test]
    fn no_other_code_is_nearer() {
        for s in FLOATS.into_iter().filter(|s| *s != Small::E8M0) {
            let finite: Vec<f64> = codes(s).map(|c| f64::from(s.decode(c))).filter(|x| x.is_finite()).collect();
            for x in numbers(s).filter(|x| x.is_finite()) {
                let got = f64::from(s.decode(s.encode(x, NEAREST)));
                let x = f64::from(x);
                assert!(finite.iter().all(|y| (x - got).abs() <= (x - y).abs()), "{s:?} {x:e} became {got:e}");
            }
        }
    }

    #[test]
    fn leading_bits_decide() {
        for s in FLOATS {
            for saturate in [false, true] {
                for toward in [Toward::Up, Toward::Down, Toward::Nearest] {
                    let how = Rounding { saturate, toward };
                    let (table, rest) = (s.table(how), 32 - s.leading());
                    for x in numbers(s) {
                        let bits = x.to_bits();
                        let at = bits >> rest | u32::from(bits & ((1 << rest) - 1) != 0);
                        assert_eq!(table[at as usize], s.encode(x, how), "{s:?} {how:?} {x:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn integers_keep_their_signs() {
        let of = |t: DataType| Narrow::of(t as i32).expect("narrow");
        assert_eq!(of(DataType::Int4).unpack(&[0x8f, 0x07], 3), [0xff, 0xf8, 0x07]);
        assert_eq!(of(DataType::Uint4).unpack(&[0x8f], 2), [0x0f, 0x08]);
        assert_eq!(of(DataType::Int2).unpack(&[0b1101_1000], 4), [0, 0xfe, 1, 0xff]);
        assert_eq!(of(DataType::Uint2).unpack(&[0b1101_1000], 4), [0, 2, 1, 3]);
        assert_eq!(of(DataType::Float8e5m2).unpack(&[0xd8], 1), [0xd8]);
    }
}
