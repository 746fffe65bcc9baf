//! Functions of one f32, written once over an abstract arithmetic: on numbers they are the definition, in the code
//! generator they emit the same operations in the same order.
//!
//! Polynomials are those of Cephes' single precision; the rest is by identities on [`super::exp`], [`super::log`] and
//! [`super::tanh`].

use crate::op::Unary;

/// Arithmetic on one shape of f32 values.
pub trait Arithmetic {
    /// One number, or a vector of them.
    type Value: Copy;
    /// A constant.
    fn k(&mut self, v: f32) -> Self::Value;
    /// `a + b`.
    fn add(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a - b`.
    fn sub(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a b`.
    fn mul(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a / b`.
    fn div(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Square root.
    fn sqrt(&mut self, x: Self::Value) -> Self::Value;
    /// Absolute value.
    fn abs(&mut self, x: Self::Value) -> Self::Value;
    /// Negation.
    fn neg(&mut self, x: Self::Value) -> Self::Value;
    /// The magnitude of one with the sign of another.
    fn copysign(&mut self, magnitude: Self::Value, sign: Self::Value) -> Self::Value;
    /// `a < b ? x : y`.
    fn less(&mut self, a: Self::Value, b: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `a <= b ? x : y`.
    fn at_most(&mut self, a: Self::Value, b: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `a == b ? x : y`.
    fn equal(&mut self, a: Self::Value, b: Self::Value, x: Self::Value, y: Self::Value) -> Self::Value;
    /// [`super::exp_parts`].
    fn exp_parts(&mut self, x: Self::Value) -> (Self::Value, Self::Value);
    /// [`super::exp`].
    fn exp(&mut self, x: Self::Value) -> Self::Value;
    /// [`super::log`].
    fn log(&mut self, x: Self::Value) -> Self::Value;
    /// [`super::tanh`].
    fn tanh(&mut self, x: Self::Value) -> Self::Value;
    /// [`super::reduce`].
    fn reduce(&mut self, x: Self::Value) -> (Self::Value, Self::Value);
}

/// The function on f32, for those of [`Unary`] that are written here; `None` for the others.
pub fn unary<A: Arithmetic>(a: &mut A, f: Unary, x: A::Value) -> Option<A::Value> {
    Some(match f {
        Unary::Floor => floor(a, x),
        Unary::Ceil => ceil(a, x),
        Unary::Round => round(a, x),
        Unary::Sign => sign(a, x),
        Unary::Sin => sin_cos(a, x).0,
        Unary::Cos => sin_cos(a, x).1,
        Unary::Tan => {
            let (s, c) = sin_cos(a, x);
            a.div(s, c)
        }
        Unary::Asin => asin(a, x),
        Unary::Acos => acos(a, x),
        Unary::Atan => atan(a, x),
        Unary::Sinh => sinh(a, x),
        Unary::Cosh => cosh(a, x),
        Unary::Asinh => asinh(a, x),
        Unary::Acosh => acosh(a, x),
        Unary::Atanh => atanh(a, x),
        Unary::Elu { alpha, beta, gamma } => elu(a, x, alpha, beta, gamma),
        Unary::Softplus => softplus(a, x),
        Unary::Softsign => {
            let (size, one) = (a.abs(x), a.k(1.0));
            let size = a.add(one, size);
            a.div(x, size)
        }
        Unary::Mish => {
            let y = softplus(a, x);
            let y = a.tanh(y);
            a.mul(x, y)
        }
        Unary::ThresholdedRelu { alpha } => {
            let (alpha, zero) = (a.k(alpha), a.k(0.0));
            a.less(alpha, x, x, zero)
        }
        Unary::Shrink { lambda, bias } => {
            let (least, most, bias, zero) = (a.k(-lambda), a.k(lambda), a.k(bias), a.k(0.0));
            let (up, down) = (a.add(x, bias), a.sub(x, bias));
            let y = a.less(most, x, down, zero);
            a.less(x, least, up, y)
        }
        _ => return None,
    })
}

fn horner<A: Arithmetic>(a: &mut A, coefficients: &[f32], x: A::Value) -> A::Value {
    let mut p = a.k(coefficients[0]);
    for &c in &coefficients[1..] {
        let c = a.k(c);
        p = a.mul(p, x);
        p = a.add(p, c);
    }
    p
}

/// `2^23`: every f32 from here on is an integer.
const WHOLE: f32 = 8_388_608.0;

/// The nearest integer, ties to even, with the sign of the operand.
fn round<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, whole) = (a.abs(x), a.k(WHOLE));
    let y = a.add(size, whole);
    let y = a.sub(y, whole);
    let y = a.less(size, whole, y, size);
    a.copysign(y, x)
}

fn floor<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (y, one) = (round(a, x), a.k(1.0));
    let below = a.sub(y, one);
    a.less(x, y, below, y)
}

fn ceil<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (y, one) = (round(a, x), a.k(1.0));
    let above = a.add(y, one);
    a.less(y, x, above, y)
}

/// -1, 0 or 1; a NaN stays one.
fn sign<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (zero, one, minus) = (a.k(0.0), a.k(1.0), a.k(-1.0));
    let y = a.less(x, zero, minus, x);
    a.less(zero, x, one, y)
}

/// Polynomial in `z = r^2` of `(sin(r) - r) / r^3` on `|r| <= pi/4`.
const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
/// Polynomial in `z = r^2` of `(cos(r) - 1 + z/2) / z^2` on `|r| <= pi/4`.
const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];

/// Sine and cosine.
fn sin_cos<A: Arithmetic>(a: &mut A, x: A::Value) -> (A::Value, A::Value) {
    let (r, quadrant) = a.reduce(x);
    let z = a.mul(r, r);
    let s = horner(a, &SIN, z);
    let s = a.mul(s, z);
    let s = a.mul(s, r);
    let s = a.add(s, r);
    let c = horner(a, &COS, z);
    let c = a.mul(c, z);
    let c = a.mul(c, z);
    let (half, one) = (a.k(0.5), a.k(1.0));
    let h = a.mul(z, half);
    let c = a.sub(c, h);
    let c = a.add(c, one);
    let (s_neg, c_neg) = (a.neg(s), a.neg(c));
    let sine = turned(a, quadrant, [s, c, s_neg, c_neg]);
    let cosine = turned(a, quadrant, [c, s_neg, c_neg, s]);
    // The sine is odd.
    let other = a.neg(sine);
    let zero = a.k(0.0);
    (a.less(x, zero, other, sine), cosine)
}

/// The value of a quadrant, of which there are four.
fn turned<A: Arithmetic>(a: &mut A, quadrant: A::Value, values: [A::Value; 4]) -> A::Value {
    let mut y = values[3];
    for i in (0..3).rev() {
        let number = a.k(i as f32);
        y = a.equal(quadrant, number, values[i], y);
    }
    y
}

/// Polynomial in `z = t^2` of `(asin(t) - t) / t^3` on `|t| <= 1/2`.
const ASIN: [f32; 5] = [4.216_32e-2, 2.418_131_2e-2, 4.547_002_6e-2, 7.495_300_3e-2, 1.666_675_3e-1];

fn asin_small<A: Arithmetic>(a: &mut A, t: A::Value, z: A::Value) -> A::Value {
    let y = horner(a, &ASIN, z);
    let y = a.mul(y, z);
    let y = a.mul(y, t);
    a.add(y, t)
}

/// `asin` of the magnitude up to 1/2, else of `sqrt((1 - |x|) / 2)`; the last is whether it was small, as 1 or 0.
fn asin_part<A: Arithmetic>(a: &mut A, x: A::Value) -> (A::Value, A::Value) {
    let (size, half, one, zero) = (a.abs(x), a.k(0.5), a.k(1.0), a.k(0.0));
    let rest = a.sub(one, size);
    let rest = a.mul(half, rest);
    let root = a.sqrt(rest);
    let square = a.mul(size, size);
    let z = a.at_most(size, half, square, rest);
    let t = a.at_most(size, half, size, root);
    (asin_small(a, t, z), a.at_most(size, half, one, zero))
}

/// NaN where the magnitude is above 1.
fn within_one<A: Arithmetic>(a: &mut A, x: A::Value, y: A::Value) -> A::Value {
    let (size, one, nan) = (a.abs(x), a.k(1.0), a.k(f32::NAN));
    a.at_most(size, one, y, nan)
}

fn asin<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (p, small) = asin_part(a, x);
    let (quarter, one) = (a.k(std::f32::consts::FRAC_PI_2), a.k(1.0));
    let twice = a.add(p, p);
    let large = a.sub(quarter, twice);
    let y = a.equal(small, one, p, large);
    let y = a.copysign(y, x);
    within_one(a, x, y)
}

fn acos<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (p, small) = asin_part(a, x);
    let (quarter, half, one, zero) = (a.k(std::f32::consts::FRAC_PI_2), a.k(std::f32::consts::PI), a.k(1.0), a.k(0.0));
    let signed = a.copysign(p, x);
    let middle = a.sub(quarter, signed);
    let twice = a.add(p, p);
    let left = a.sub(half, twice);
    let end = a.less(x, zero, left, twice);
    let y = a.equal(small, one, middle, end);
    within_one(a, x, y)
}

/// Polynomial in `z = t^2` of `(atan(t) - t) / t^3` on `|t| <= tan(pi/8)`.
const ATAN: [f32; 4] = [8.053_744_6e-2, -1.387_768_6e-1, 1.997_771e-1, -3.333_295e-1];

fn atan<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, one, zero) = (a.abs(x), a.k(1.0), a.k(0.0));
    // tan(pi/8) and tan(3 pi/8).
    let (near, far) = (a.k(0.414_213_57), a.k(2.414_213_7));
    let (eighth, quarter, minus) = (a.k(std::f32::consts::FRAC_PI_4), a.k(std::f32::consts::FRAC_PI_2), a.k(-1.0));
    let (below, above) = (a.sub(size, one), a.add(size, one));
    let middle = a.div(below, above);
    let end = a.div(minus, size);
    let t = a.less(near, size, middle, size);
    let t = a.less(far, size, end, t);
    let base = a.less(near, size, eighth, zero);
    let base = a.less(far, size, quarter, base);
    let z = a.mul(t, t);
    let y = horner(a, &ATAN, z);
    let y = a.mul(y, z);
    let y = a.mul(y, t);
    let y = a.add(y, t);
    let y = a.add(base, y);
    a.copysign(y, x)
}

/// `exp(x) - 1`.
fn expm1<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (t, power) = a.exp_parts(x);
    let (one, minus, infinite) = (a.k(1.0), a.k(-1.0), a.k(f32::INFINITY));
    let t = a.mul(t, power);
    let rest = a.sub(power, one);
    let y = a.add(t, rest);
    let y = a.equal(x, x, y, x);
    let (lo, hi) = (a.k(super::EXP_LO), a.k(super::EXP_HI));
    let y = a.less(x, lo, minus, y);
    a.less(hi, x, infinite, y)
}

/// `ln(1 + x)` for `x >= 0`: the logarithm of the rounded sum, corrected for the rounding.
fn log1p<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (one, infinite) = (a.k(1.0), a.k(f32::INFINITY));
    let w = a.add(one, x);
    let d = a.sub(w, one);
    let l = a.log(w);
    let correction = a.div(x, d);
    let y = a.mul(l, correction);
    let y = a.equal(w, one, x, y);
    a.equal(w, infinite, w, y)
}

/// From here on the smaller exponential does not count.
const LARGE: f32 = 9.5;

/// `exp(|x|) / 2` without overflow before its time.
fn half_exp<A: Arithmetic>(a: &mut A, size: A::Value) -> A::Value {
    let half = a.k(0.5);
    let e = a.mul(size, half);
    let e = a.exp(e);
    let h = a.mul(half, e);
    a.mul(h, e)
}

fn sinh<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, half, one, large) = (a.abs(x), a.k(0.5), a.k(1.0), a.k(LARGE));
    let e = expm1(a, size);
    let below = a.add(e, one);
    let ratio = a.div(e, below);
    let sum = a.add(e, ratio);
    let small = a.mul(half, sum);
    let end = half_exp(a, size);
    let y = a.less(size, large, small, end);
    a.copysign(y, x)
}

fn cosh<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, half, one, large) = (a.abs(x), a.k(0.5), a.k(1.0), a.k(LARGE));
    let e = a.exp(size);
    let inverse = a.div(one, e);
    let sum = a.add(e, inverse);
    let small = a.mul(half, sum);
    let end = half_exp(a, size);
    a.less(size, large, small, end)
}

/// From here on squares swallow the 1 beside them.
const FAR: f32 = 10_000.0;

/// `ln(2 x)`.
fn log_twice<A: Arithmetic>(a: &mut A, size: A::Value) -> A::Value {
    let (l, ln2) = (a.log(size), a.k(std::f32::consts::LN_2));
    a.add(l, ln2)
}

fn asinh<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, one, far) = (a.abs(x), a.k(1.0), a.k(FAR));
    let square = a.mul(size, size);
    let root = a.add(square, one);
    let root = a.sqrt(root);
    let root = a.add(one, root);
    let rest = a.div(square, root);
    let u = a.add(size, rest);
    let near = log1p(a, u);
    let end = log_twice(a, size);
    let y = a.less(size, far, near, end);
    a.copysign(y, x)
}

fn acosh<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (one, far, nan) = (a.k(1.0), a.k(FAR), a.k(f32::NAN));
    let t = a.sub(x, one);
    let (twice, square) = (a.add(t, t), a.mul(t, t));
    let root = a.add(twice, square);
    let root = a.sqrt(root);
    let u = a.add(t, root);
    let near = log1p(a, u);
    let end = log_twice(a, x);
    let y = a.less(x, far, near, end);
    a.at_most(one, x, y, nan)
}

fn atanh<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, one, half) = (a.abs(x), a.k(1.0), a.k(0.5));
    let (twice, rest) = (a.add(size, size), a.sub(one, size));
    let u = a.div(twice, rest);
    let y = log1p(a, u);
    let y = a.mul(half, y);
    let y = a.copysign(y, x);
    within_one(a, x, y)
}

/// `gamma (x > 0 ? x : alpha (exp(beta x) - 1))`.
fn elu<A: Arithmetic>(a: &mut A, x: A::Value, alpha: f32, beta: f32, gamma: f32) -> A::Value {
    let zero = a.k(0.0);
    let mut y = x;
    if beta != 1.0 {
        let beta = a.k(beta);
        y = a.mul(beta, y);
    }
    y = expm1(a, y);
    if alpha != 1.0 {
        let alpha = a.k(alpha);
        y = a.mul(alpha, y);
    }
    y = a.less(zero, x, x, y);
    if gamma != 1.0 {
        let gamma = a.k(gamma);
        y = a.mul(gamma, y);
    }
    y
}

/// `ln(1 + exp(x))`.
fn softplus<A: Arithmetic>(a: &mut A, x: A::Value) -> A::Value {
    let (size, zero) = (a.abs(x), a.k(0.0));
    let e = a.neg(size);
    let e = a.exp(e);
    let l = log1p(a, e);
    let positive = a.less(zero, x, x, zero);
    a.add(positive, l)
}

/// Numbers themselves.
pub struct Numbers;

impl Arithmetic for Numbers {
    type Value = f32;
    fn k(&mut self, v: f32) -> f32 {
        v
    }
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn sub(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn mul(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn div(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    fn sqrt(&mut self, x: f32) -> f32 {
        x.sqrt()
    }
    fn abs(&mut self, x: f32) -> f32 {
        x.abs()
    }
    fn neg(&mut self, x: f32) -> f32 {
        -x
    }
    fn copysign(&mut self, magnitude: f32, sign: f32) -> f32 {
        magnitude.copysign(sign)
    }
    fn less(&mut self, a: f32, b: f32, x: f32, y: f32) -> f32 {
        if a < b { x } else { y }
    }
    fn at_most(&mut self, a: f32, b: f32, x: f32, y: f32) -> f32 {
        if a <= b { x } else { y }
    }
    fn equal(&mut self, a: f32, b: f32, x: f32, y: f32) -> f32 {
        if a == b { x } else { y }
    }
    fn exp_parts(&mut self, x: f32) -> (f32, f32) {
        super::exp_parts(x)
    }
    fn exp(&mut self, x: f32) -> f32 {
        super::exp(x)
    }
    fn log(&mut self, x: f32) -> f32 {
        super::log(x)
    }
    fn tanh(&mut self, x: f32) -> f32 {
        super::tanh(x)
    }
    fn reduce(&mut self, x: f32) -> (f32, f32) {
        super::reduce(x)
    }
}
