//! Arithmetic lane by lane.

use super::Op;

/// The operation called `name` (without the `v` of VEX and EVEX forms) on lanes.
pub(super) fn find(name: &str, wide: bool) -> Option<Op> {
    integers(name).or_else(|| dots(name)).or_else(|| compares(name, wide)).or_else(|| floats(name)).or_else(|| fused(name))
}

macro_rules! clamp {
    ($v:expr, $t:ty) => {
        $v.clamp(<$t>::MIN as i64, <$t>::MAX as i64) as u64
    };
}

fn integers(name: &str) -> Option<Op> {
    use Op::{Lanes1, Lanes2};
    Some(match name {
        "paddb" => Lanes2(1, u64::wrapping_add),
        "paddw" => Lanes2(2, u64::wrapping_add),
        "paddd" => Lanes2(4, u64::wrapping_add),
        "paddq" => Lanes2(8, u64::wrapping_add),
        "psubb" => Lanes2(1, u64::wrapping_sub),
        "psubw" => Lanes2(2, u64::wrapping_sub),
        "psubd" => Lanes2(4, u64::wrapping_sub),
        "psubq" => Lanes2(8, u64::wrapping_sub),
        "paddsb" => Lanes2(1, |a, b| clamp!((a as i8 as i64 + b as i8 as i64), i8)),
        "paddsw" => Lanes2(2, |a, b| clamp!((a as i16 as i64 + b as i16 as i64), i16)),
        "paddusb" => Lanes2(1, |a, b| (a + b).min(0xff)),
        "paddusw" => Lanes2(2, |a, b| (a + b).min(0xffff)),
        "psubsb" => Lanes2(1, |a, b| clamp!((a as i8 as i64 - b as i8 as i64), i8)),
        "psubsw" => Lanes2(2, |a, b| clamp!((a as i16 as i64 - b as i16 as i64), i16)),
        "psubusb" | "psubusw" => {
            let w = if name == "psubusb" { 1 } else { 2 };
            Lanes2(w, u64::saturating_sub)
        }
        "pmullw" => Lanes2(2, u64::wrapping_mul),
        "pmulld" => Lanes2(4, u64::wrapping_mul),
        "pmullq" => Lanes2(8, u64::wrapping_mul),
        "pmulhw" => Lanes2(2, |a, b| ((a as i16 as i64 * b as i16 as i64) >> 16) as u64),
        "pmulhuw" => Lanes2(2, |a, b| (a * b) >> 16),
        "pmulhrsw" => Lanes2(2, |a, b| ((((a as i16 as i64 * b as i16 as i64) >> 14) + 1) >> 1) as u64),
        "pmuludq" => Lanes2(8, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
        "pmuldq" => Lanes2(8, |a, b| (a as i32 as i64 * b as i32 as i64) as u64),
        "pminsb" => Lanes2(1, |a, b| (a as i8).min(b as i8) as u64),
        "pminsw" => Lanes2(2, |a, b| (a as i16).min(b as i16) as u64),
        "pminsd" => Lanes2(4, |a, b| (a as i32).min(b as i32) as u64),
        "pminsq" => Lanes2(8, |a, b| (a as i64).min(b as i64) as u64),
        "pmaxsb" => Lanes2(1, |a, b| (a as i8).max(b as i8) as u64),
        "pmaxsw" => Lanes2(2, |a, b| (a as i16).max(b as i16) as u64),
        "pmaxsd" => Lanes2(4, |a, b| (a as i32).max(b as i32) as u64),
        "pmaxsq" => Lanes2(8, |a, b| (a as i64).max(b as i64) as u64),
        "pminub" => Lanes2(1, u64::min),
        "pminuw" => Lanes2(2, u64::min),
        "pminud" => Lanes2(4, u64::min),
        "pminuq" => Lanes2(8, u64::min),
        "pmaxub" => Lanes2(1, u64::max),
        "pmaxuw" => Lanes2(2, u64::max),
        "pmaxud" => Lanes2(4, u64::max),
        "pmaxuq" => Lanes2(8, u64::max),
        "pavgb" => Lanes2(1, |a, b| (a + b + 1) >> 1),
        "pavgw" => Lanes2(2, |a, b| (a + b + 1) >> 1),
        "pabsb" => Lanes1(1, |a| (a as i8).unsigned_abs().into()),
        "pabsw" => Lanes1(2, |a| (a as i16).unsigned_abs().into()),
        "pabsd" => Lanes1(4, |a| (a as i32).unsigned_abs().into()),
        "pabsq" => Lanes1(8, |a| (a as i64).unsigned_abs()),
        "popcntb" | "popcntw" | "popcntd" | "popcntq" => {
            let w = [1, 2, 4, 8]["bwdq".find(&name[6..])?];
            Lanes1(w, |a| a.count_ones().into())
        }
        "pand" | "pandq" | "andpd" => Lanes2(8, |a, b| a & b),
        "pandd" | "andps" => Lanes2(4, |a, b| a & b),
        "por" | "porq" | "orpd" => Lanes2(8, |a, b| a | b),
        "pord" | "orps" => Lanes2(4, |a, b| a | b),
        "pxor" | "pxorq" | "xorpd" => Lanes2(8, |a, b| a ^ b),
        "pxord" | "xorps" => Lanes2(4, |a, b| a ^ b),
        "pandn" | "pandnq" | "andnpd" => Lanes2(8, |a, b| !a & b),
        "pandnd" | "andnps" => Lanes2(4, |a, b| !a & b),
        "psllvw" => Lanes2(2, |a, n| if n < 16 { a << n } else { 0 }),
        "psllvd" => Lanes2(4, |a, n| if n < 32 { a << n } else { 0 }),
        "psllvq" => Lanes2(8, |a, n| if n < 64 { a << n } else { 0 }),
        "psrlvw" => Lanes2(2, |a, n| if n < 16 { a >> n } else { 0 }),
        "psrlvd" => Lanes2(4, |a, n| if n < 32 { a >> n } else { 0 }),
        "psrlvq" => Lanes2(8, |a, n| if n < 64 { a >> n } else { 0 }),
        "psravw" => Lanes2(2, |a, n| (a as i16 >> n.min(15)) as u64),
        "psravd" => Lanes2(4, |a, n| (a as i32 >> n.min(31)) as u64),
        "psravq" => Lanes2(8, |a, n| (a as i64 >> n.min(63)) as u64),
        _ => return None,
    })
}

fn byte(v: u64, i: u32) -> i64 {
    i64::from((v >> (8 * i)) as u8)
}

fn signed_byte(v: u64, i: u32) -> i64 {
    i64::from((v >> (8 * i)) as i8)
}

fn word(v: u64, i: u32) -> i64 {
    i64::from((v >> (16 * i)) as i16)
}

/// Unsigned bytes of `a` by signed ones of `b`.
fn bytes(a: u64, b: u64) -> i64 {
    (0..4).map(|i| byte(a, i) * signed_byte(b, i)).sum()
}

fn words(a: u64, b: u64) -> i64 {
    word(a, 0) * word(b, 0) + word(a, 1) * word(b, 1)
}

fn dots(name: &str) -> Option<Op> {
    use Op::{Lanes2, Lanes3};
    Some(match name {
        "pmaddwd" => Lanes2(4, |a, b| words(a, b) as u64),
        "pmaddubsw" => Lanes2(2, |a, b| clamp!((byte(a, 0) * signed_byte(b, 0) + byte(a, 1) * signed_byte(b, 1)), i16)),
        "pdpbusd" => Lanes3(4, |d, a, b| (d as i32 as i64 + bytes(a, b)) as u64),
        "pdpbusds" => Lanes3(4, |d, a, b| clamp!((d as i32 as i64 + bytes(a, b)), i32)),
        "pdpwssd" => Lanes3(4, |d, a, b| (d as i32 as i64 + words(a, b)) as u64),
        "pdpwssds" => Lanes3(4, |d, a, b| clamp!((d as i32 as i64 + words(a, b)), i32)),
        "psadbw" => Lanes2(8, |a, b| (0..8).map(|i| byte(a, i).abs_diff(byte(b, i))).sum()),
        _ => return None,
    })
}

fn compares(name: &str, wide: bool) -> Option<Op> {
    use Op::Compare;
    Some(match name {
        "pcmpeqb" => Compare(1, |a, b, _| a == b),
        "pcmpeqw" => Compare(2, |a, b, _| a == b),
        "pcmpeqd" => Compare(4, |a, b, _| a == b),
        "pcmpeqq" => Compare(8, |a, b, _| a == b),
        "pcmpgtb" => Compare(1, |a, b, _| a as i8 > b as i8),
        "pcmpgtw" => Compare(2, |a, b, _| a as i16 > b as i16),
        "pcmpgtd" => Compare(4, |a, b, _| a as i32 > b as i32),
        "pcmpgtq" => Compare(8, |a, b, _| a as i64 > b as i64),
        "pcmpub" | "pcmpuw" | "pcmpud" | "pcmpuq" => {
            let w = [1, 2, 4, 8]["bwdq".find(&name[5..])?];
            Compare(w, |a, b, p| ordered(a.cmp(&b), p))
        }
        "pcmpb" => Compare(1, |a, b, p| ordered((a as i8).cmp(&(b as i8)), p)),
        "pcmpw" => Compare(2, |a, b, p| ordered((a as i16).cmp(&(b as i16)), p)),
        "pcmpd" => Compare(4, |a, b, p| ordered((a as i32).cmp(&(b as i32)), p)),
        "pcmpq" => Compare(8, |a, b, p| ordered((a as i64).cmp(&(b as i64)), p)),
        "ptestmb" => Compare(1, |a, b, _| a & b != 0),
        "ptestmd" => Compare(4, |a, b, _| a & b != 0),
        "cmpps" => Compare(4, |a, b, p| floats_compare(single(a).into(), single(b).into(), p)),
        // The legacy and VEX forms of one lane are not in use.
        "cmppd" if wide => Compare(8, |a, b, p| floats_compare(f64::from_bits(a), f64::from_bits(b), p)),
        _ => return None,
    })
}

fn ordered(order: std::cmp::Ordering, predicate: u8) -> bool {
    match predicate & 3 {
        0 => order.is_eq() != (predicate & 4 != 0),
        1 => order.is_lt() != (predicate & 4 != 0),
        2 => order.is_le() != (predicate & 4 != 0),
        _ => predicate & 4 != 0,
    }
}

/// The thirty-two predicates: eight, eight with the other answer for NaN, and both again signalling.
pub(super) fn floats_compare(a: f64, b: f64, predicate: u8) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match predicate & 15 {
        0 => a == b,
        1 => a < b,
        2 => a <= b,
        3 => unordered,
        4 => a != b,
        5 => unordered || a >= b,
        6 => unordered || a > b,
        7 => !unordered,
        8 => unordered || a == b,
        9 => unordered || a < b,
        10 => unordered || a <= b,
        11 => false,
        12 => !unordered && a != b,
        13 => a >= b,
        14 => a > b,
        _ => true,
    }
}

fn single(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn bits(v: f32) -> u64 {
    v.to_bits().into()
}

/// The smaller; the second where one is NaN or both are zero.
fn least(a: u64, b: u64) -> u64 {
    if single(a) < single(b) { a } else { b }
}

fn most(a: u64, b: u64) -> u64 {
    if single(a) > single(b) { a } else { b }
}

/// To the nearest, ties to even; 2^31 where it does not fit.
pub(super) fn integer(v: f64) -> u64 {
    let v = v.round_ties_even();
    if (-2147483648.0..=2147483647.0).contains(&v) { v as i32 as u32 as u64 } else { 0x8000_0000 }
}

fn truncated(v: f64) -> u64 {
    integer(v.trunc())
}

fn floats(name: &str) -> Option<Op> {
    use Op::{Lanes1, Lanes2, Lowest1, Lowest2};
    Some(match name {
        "addps" => Lanes2(4, |a, b| bits(single(a) + single(b))),
        "subps" => Lanes2(4, |a, b| bits(single(a) - single(b))),
        "mulps" => Lanes2(4, |a, b| bits(single(a) * single(b))),
        "divps" => Lanes2(4, |a, b| bits(single(a) / single(b))),
        "minps" => Lanes2(4, least),
        "maxps" => Lanes2(4, most),
        "sqrtps" => Lanes1(4, |a| bits(single(a).sqrt())),
        "addss" => Lowest2(4, |a, b| bits(single(a) + single(b))),
        "subss" => Lowest2(4, |a, b| bits(single(a) - single(b))),
        "mulss" => Lowest2(4, |a, b| bits(single(a) * single(b))),
        "divss" => Lowest2(4, |a, b| bits(single(a) / single(b))),
        "minss" => Lowest2(4, least),
        "maxss" => Lowest2(4, most),
        "sqrtss" => Lowest1(4, |a| bits(single(a).sqrt())),
        "addpd" => Lanes2(8, |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
        "subpd" => Lanes2(8, |a, b| (f64::from_bits(a) - f64::from_bits(b)).to_bits()),
        "mulpd" => Lanes2(8, |a, b| (f64::from_bits(a) * f64::from_bits(b)).to_bits()),
        "addsd" => Lowest2(8, |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
        "subsd" => Lowest2(8, |a, b| (f64::from_bits(a) - f64::from_bits(b)).to_bits()),
        "mulsd" => Lowest2(8, |a, b| (f64::from_bits(a) * f64::from_bits(b)).to_bits()),
        "divsd" => Lowest2(8, |a, b| (f64::from_bits(a) / f64::from_bits(b)).to_bits()),
        "cvtdq2ps" => Lanes1(4, |a| bits(a as i32 as f32)),
        "cvtudq2ps" => Lanes1(4, |a| bits(a as u32 as f32)),
        "cvtps2dq" => Lanes1(4, |a| integer(single(a).into())),
        "cvttps2dq" => Lanes1(4, |a| truncated(single(a).into())),
        _ => return None,
    })
}

/// `fmadd132ps` and its relatives: the digits say which operands are multiplied, the last is added.
fn fused(name: &str) -> Option<Op> {
    macro_rules! forms {
        ($f:ident) => {
            match &name[name.len() - 5..name.len() - 2] {
                "132" => |d, a, b| $f(d, b, a),
                "213" => |d, a, b| $f(a, d, b),
                _ => |d, a, b| $f(a, b, d),
            }
        };
    }
    fn add(a: u64, b: u64, c: u64) -> u64 {
        bits(single(a).mul_add(single(b), single(c)))
    }
    fn subtract(a: u64, b: u64, c: u64) -> u64 {
        bits(single(a).mul_add(single(b), -single(c)))
    }
    fn negate_add(a: u64, b: u64, c: u64) -> u64 {
        bits((-single(a)).mul_add(single(b), single(c)))
    }
    fn negate_subtract(a: u64, b: u64, c: u64) -> u64 {
        bits((-single(a)).mul_add(single(b), -single(c)))
    }
    let vector = name.ends_with("ps");
    if !(vector || name.ends_with("ss")) || name.len() < 10 {
        return None;
    }
    let f: fn(u64, u64, u64) -> u64 = match &name[..name.len() - 5] {
        "fmadd" => forms!(add),
        "fmsub" => forms!(subtract),
        "fnmadd" => forms!(negate_add),
        "fnmsub" => forms!(negate_subtract),
        _ => return None,
    };
    Some(if vector { Op::Lanes3(4, f) } else { Op::Lowest3(4, f) })
}
