//! `recognize-activations`: functions that exporters spell with several nodes become the one operator they mean.
//!
//! | spelling | operator |
//! |---|---|
//! | `x sigmoid(x)` | `swish` |
//! | `x hard_sigmoid(x)` with slope 1/6 and offset 1/2, `x clip(x + 3, 0, 6) / 6` | `hard_swish` |
//! | `x (1 + erf(x / sqrt 2)) / 2` | `gelu` |
//! | `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2` | `gelu_tanh` |
//!
//! Products may be written in any order, with constants anywhere. On bytes one operator is one table, and one rounding.

use crate::{Cx, Pass, Sweep};
use quernel_ir::{Binary, Diagnostic, Graph, Op, Unary, Value};

pub struct RecognizeActivations;

/// How far a constant may be from its meaning, relative to it: exporters write four to nine digits.
const NEAR: f64 = 2e-4;
/// Nested products that are looked through.
const DEPTH: usize = 6;

impl Pass for RecognizeActivations {
    fn name(&self) -> &'static str {
        "recognize-activations"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        Sweep::run(g, |s, n| {
            let node = &s.g.nodes[n];
            let product = matches!(node.op, Op::Binary(Binary::Mul | Binary::Div));
            match product.then(|| activation(s, node.result())).flatten() {
                Some((f, x)) => s.rewrite(n, Op::Unary(f), vec![x]),
                None => s.keep(n),
            }
            Ok(())
        })
    }
}

/// A product: its factors that are not constant scalars, and the product of those that are.
#[derive(Default)]
struct Product {
    factors: Vec<Value>,
    scale: f64,
}

fn near(x: f64, y: f64) -> bool {
    (x - y).abs() <= NEAR * y.abs()
}

fn scalar(s: &Sweep<'_>, v: Value) -> Option<f64> {
    let tensor = s.g.tensor(v)?;
    match tensor.to_f32().as_deref() {
        Some(&[x]) => Some(f64::from(x)),
        _ => None,
    }
}

fn product(s: &Sweep<'_>, v: Value) -> Product {
    let mut p = Product { factors: Vec::new(), scale: 1.0 };
    collect(s, v, DEPTH, &mut p);
    p
}

fn collect(s: &Sweep<'_>, v: Value, depth: usize, p: &mut Product) {
    if let Some(x) = scalar(s, v) {
        p.scale *= x;
        return;
    }
    let node = s.g.producer(v).map(|n| &s.g.nodes[n]).filter(|_| depth > 0);
    match node.map(|n| (&n.op, &n.args[..])) {
        Some((Op::Binary(Binary::Mul), &[a, b])) => {
            collect(s, a, depth - 1, p);
            collect(s, b, depth - 1, p);
        }
        Some((Op::Binary(Binary::Div), &[a, b])) => match scalar(s, b) {
            Some(x) if x != 0.0 => {
                p.scale /= x;
                collect(s, a, depth - 1, p);
            }
            _ => p.factors.push(v),
        },
        _ => p.factors.push(v),
    }
}

/// `a + constant`, in either order.
fn shifted(s: &Sweep<'_>, v: Value) -> Option<(Value, f64)> {
    let node = &s.g.nodes[s.g.producer(v)?];
    let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &node.args[..]) else { return None };
    scalar(s, b).map(|c| (a, c)).or_else(|| scalar(s, a).map(|c| (b, c)))
}

fn unary(s: &Sweep<'_>, v: Value) -> Option<(Unary, Value)> {
    let node = &s.g.nodes[s.g.producer(v)?];
    match node.op {
        Op::Unary(f) => Some((f, node.args[0])),
        _ => None,
    }
}

fn activation(s: &Sweep<'_>, result: Value) -> Option<(Unary, Value)> {
    let p = product(s, result);
    let &[a, b] = &p.factors[..] else { return None };
    let found = [(a, b), (b, a)].into_iter().find_map(|(x, gate)| gated(s, x, gate, p.scale).map(|f| (f, x)))?;
    (s.g.ty(found.1) == s.g.ty(result) && s.g.ty(result).elem.is_f32()).then_some(found)
}

/// The function that `scale * x * gate` is of `x`.
fn gated(s: &Sweep<'_>, x: Value, gate: Value, scale: f64) -> Option<Unary> {
    if let Some((f, of)) = unary(s, gate) {
        return match f {
            Unary::Sigmoid if of == x && near(scale, 1.0) => Some(Unary::Swish { alpha: 1.0 }),
            Unary::HardSigmoid { alpha, beta } if of == x && near(scale, 1.0) => {
                (near(alpha.into(), 1.0 / 6.0) && near(beta.into(), 0.5)).then_some(Unary::HardSwish)
            }
            Unary::Clip { lo, hi } if lo == 0.0 && hi == 6.0 && near(scale, 1.0 / 6.0) => {
                let (of, c) = shifted(s, of)?;
                (of == x && near(c, 3.0)).then_some(Unary::HardSwish)
            }
            _ => None,
        };
    }
    let (f, one) = shifted(s, gate)?;
    if !near(one, 1.0) || !near(scale, 0.5) {
        return None;
    }
    let (f, inner) = unary(s, f)?;
    let inner = product(s, inner);
    let &[of] = &inner.factors[..] else { return None };
    match f {
        Unary::Erf => (of == x && near(inner.scale, std::f64::consts::FRAC_1_SQRT_2)).then_some(Unary::Gelu),
        Unary::Tanh => (near(inner.scale, (2.0 / std::f64::consts::PI).sqrt()) && is_cubic(s, of, x)).then_some(Unary::GeluTanh),
        _ => None,
    }
}

/// `x + 0.044715 x^3`.
fn is_cubic(s: &Sweep<'_>, v: Value, x: Value) -> bool {
    let Some(node) = s.g.producer(v).map(|n| &s.g.nodes[n]) else { return false };
    let (Op::Binary(Binary::Add), &[a, b]) = (&node.op, &node.args[..]) else { return false };
    let cube = |v: Value| {
        let p = product(s, v);
        p.factors == [x, x, x] && near(p.scale, 0.044_715)
    };
    a == x && cube(b) || b == x && cube(a)
}
