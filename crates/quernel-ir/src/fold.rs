//! Folds of plain numbers: what reductions, running totals and combining writes share.

use crate::{
    exact,
    op::Binary,
    plain::{self, Number},
    ty::Scalar,
};

/// What leaves `b` as it is in `f(b, that)`; the end of the type's range for `Min` and `Max`.
pub fn identity(f: Binary, s: Scalar) -> u64 {
    let (lo, hi) = s.range().unwrap_or_default();
    let ends =
        if s.is_float() { [Number::Real(f64::NEG_INFINITY), Number::Real(f64::INFINITY)] } else { [Number::Int(lo), Number::Int(hi)] };
    let number = match f {
        Binary::Mul => Number::Int(1),
        Binary::Min => ends[1],
        Binary::Max => ends[0],
        _ => Number::Int(0),
    };
    number.bits(s)
}

/// [`plain::binary`] of elements of any type, as bits: f32 follows [`crate::exact::binary`], and 16-bit floats are computed in f32.
pub fn combine(f: Binary, s: Scalar, a: u64, b: u64) -> u64 {
    let real = |bits: u64| Number::read(s, &bits.to_le_bytes()).real() as f32;
    match s {
        Scalar::F32 => u64::from(exact::binary(f, f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits()),
        Scalar::F16 | Scalar::BF16 => Number::Real(exact::binary(f, real(a), real(b)).into()).bits(s),
        _ => plain::binary(f, s, &a.to_le_bytes(), &b.to_le_bytes()),
    }
}

/// Sum or product in sixteen lanes by index, which a tree joins, as in [`crate::float::sum16`].
pub fn fold16(f: Binary, s: Scalar, values: impl IntoIterator<Item = u64>) -> u64 {
    let mut lane = [identity(f, s); 16];
    for (i, v) in values.into_iter().enumerate() {
        lane[i % 16] = combine(f, s, lane[i % 16], v);
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lane[i] = combine(f, s, lane[i], lane[i + width]);
        }
    }
    lane[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_change_nothing() {
        for s in Scalar::ALL.into_iter().filter(|s| *s != Scalar::Bool) {
            for f in [Binary::Add, Binary::Mul, Binary::Min, Binary::Max] {
                let v = Number::Int(3).bits(s);
                assert_eq!(combine(f, s, v, identity(f, s)), v, "{f:?} {}", s.name());
            }
        }
    }

    #[test]
    fn lanes_meet_as_those_of_f32_do() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin()).collect();
        let bits = || values.iter().map(|v| u64::from(v.to_bits()));
        let sum = crate::float::sum16(values.iter().copied());
        assert_eq!(fold16(Binary::Add, Scalar::F32, bits()), u64::from(sum.to_bits()));
        let product = crate::float::prod16(values.iter().copied());
        assert_eq!(fold16(Binary::Mul, Scalar::F32, bits()), u64::from(product.to_bits()));
        assert_eq!(fold16(Binary::Add, Scalar::I8, [100, 100, 56]), 0);
    }
}
