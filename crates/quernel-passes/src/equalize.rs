//! `equalize`: factors move from the output channels of a layer to the operands of the next, so that one scale suits all
//! channels of the value between.
//!
//! A ReLU and the identity let a positive factor through: `w2 relu(w1 x + b) = (w2 s) relu((w1 x + b) / s)`. With `r1` the
//! largest weight of an output channel and `r2` the largest that multiplies it in the next layer, `s = sqrt(r1 / r2)` makes
//! both equal (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1).
//! Factors are rounded to powers of two, so that the float network computes the same numbers. Layers with a residual, and
//! values that several nodes or the caller read, stay.

use crate::{Cx, Pass};
use quernel_ir::{Act, Diagnostic, Graph, Node, Op, Tensor, Value};
use std::collections::BTreeMap;

/// Rounds over all pairs; a chain of layers settles in a few.
const ROUNDS: usize = 8;
/// Largest exponent of a factor.
const MOST: i32 = 12;

pub struct Equalize;

impl Pass for Equalize {
    fn name(&self) -> &'static str {
        "equalize"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        let pairs = pairs(g);
        // Constants may be shared: what changes becomes new.
        let mut changed: BTreeMap<Node, [Option<Vec<f32>>; 2]> = BTreeMap::new();
        let mut moved = vec![false; pairs.len()];
        for _ in 0..ROUNDS {
            let mut settled = true;
            for (pair, moved) in pairs.iter().zip(&mut moved) {
                for n in [pair.first, pair.second] {
                    changed.entry(n).or_insert_with(|| [floats(g, n, 1), floats(g, n, 2)]);
                }
                let (Some([Some(w1), _]), Some([Some(w2), _])) = (changed.get(&pair.first), changed.get(&pair.second)) else { continue };
                let exponents = pair.exponents(w1, w2);
                if exponents.iter().all(|e| *e == 0) {
                    continue;
                }
                (settled, *moved) = (false, true);
                if let Some([Some(w), b]) = changed.get_mut(&pair.first) {
                    let row = w.len() / pair.channels;
                    w.iter_mut().enumerate().for_each(|(i, w)| *w *= power(-exponents[i / row]));
                    b.iter_mut().for_each(|b| b.iter_mut().zip(&exponents).for_each(|(b, e)| *b *= power(-e)));
                }
                if let Some([Some(w), _]) = changed.get_mut(&pair.second) {
                    w.iter_mut().enumerate().for_each(|(i, w)| *w *= power(exponents[pair.channel(i)]));
                }
            }
            if settled {
                break;
            }
        }
        let touched = |n: Node| pairs.iter().zip(&moved).any(|(p, m)| *m && (p.first == n || p.second == n));
        for (n, parts) in changed.into_iter().filter(|(n, _)| touched(*n)) {
            for (i, part) in parts.into_iter().enumerate() {
                let Some(part) = part else { continue };
                let old = g.nodes[n].args[i + 1];
                let (name, dims) = (g.values[old].name.clone(), g.ty(old).dims.clone());
                g.nodes[n].args[i + 1] = g.constant(name, Tensor::f32(dims, &part));
            }
        }
        for (pair, _) in pairs.iter().zip(&moved).filter(|(_, m)| **m) {
            // It is not the tensor of the model any more.
            let name = &mut g.values[pair.between].name;
            if !name.is_empty() {
                name.push_str(EQUALIZED);
            }
        }
        Ok(())
    }
}

/// Ending of the names of values whose channels got other scales.
const EQUALIZED: &str = ".equalized";

/// Two layers with one value between.
struct Pair {
    first: Node,
    second: Node,
    between: Value,
    channels: usize,
    /// Channel groups of the second, rows of a group, operands per row, taps of a channel.
    groups: usize,
    rows: usize,
    depth: usize,
    taps: usize,
}

impl Pair {
    /// The channel between that weight `i` of the second layer multiplies.
    fn channel(&self, i: usize) -> usize {
        i / self.depth / self.rows * (self.channels / self.groups) + i % self.depth / self.taps
    }

    /// Exponents of the factors per channel.
    fn exponents(&self, w1: &[f32], w2: &[f32]) -> Vec<i32> {
        let row = w1.len() / self.channels;
        let mut most = vec![[0f32; 2]; self.channels];
        w1.iter().enumerate().for_each(|(i, w)| most[i / row][0] = most[i / row][0].max(w.abs()));
        w2.iter().enumerate().for_each(|(i, w)| most[self.channel(i)][1] = most[self.channel(i)][1].max(w.abs()));
        let exponent = |[r1, r2]: [f32; 2]| {
            let mut ratio = f64::from(r1) / f64::from(r2);
            let mut exponent = 0;
            // A channel that is zero on one side has no size there.
            while ratio.is_normal() && ratio >= 2.0 && exponent < MOST {
                (ratio, exponent) = (ratio / 4.0, exponent + 1);
            }
            while ratio.is_normal() && ratio < 0.5 && exponent > -MOST {
                (ratio, exponent) = (ratio * 4.0, exponent - 1);
            }
            exponent
        };
        most.into_iter().map(exponent).collect()
    }
}

fn power(exponent: i32) -> f32 {
    let size = (1u32 << exponent.unsigned_abs()) as f32;
    if exponent < 0 { 1.0 / size } else { size }
}

/// Operand `i` of a layer where it is a constant of floats; a residual is none.
fn floats(g: &Graph, n: Node, i: usize) -> Option<Vec<f32>> {
    g.tensor(*g.nodes[n].args.get(i)?).and_then(Tensor::to_f32)
}

/// The pairs of a graph, in order of the second.
fn pairs(g: &Graph) -> Vec<Pair> {
    let mut uses: BTreeMap<Value, usize> = BTreeMap::new();
    g.order.iter().flat_map(|&n| g.nodes[n].args.iter()).chain(g.outputs.iter().map(|(_, v)| v)).for_each(|v| {
        *uses.entry(*v).or_default() += 1;
    });
    let pair = |&second: &Node| {
        let node = &g.nodes[second];
        let between = *node.args.first()?;
        let first = g.producer(between).filter(|_| uses.get(&between) == Some(&1))?;
        let (act, residual) = g.nodes[first].op.epilogue()?;
        let (w1, w2) = (floats(g, first, 1)?, floats(g, second, 1)?);
        let (d1, d2) = (&g.ty(g.nodes[first].args[1]).dims, &g.ty(node.args[1]).dims);
        let groups = match (&g.nodes[first].op, &node.op) {
            (Op::Conv { .. }, Op::Conv { groups, .. }) => *groups,
            (Op::Dense { .. }, Op::Dense { .. }) => 1,
            _ => return None,
        };
        let open = matches!(act, Act::None | Act::Relu) && !residual && g.ty(between).elem.is_f32();
        let finite = w1.iter().chain(&w2).all(|w| w.is_finite()) && !w1.is_empty() && !w2.is_empty();
        let (channels, depth) = (d1[0], d2[1..].iter().product::<usize>());
        let taps = d2[2..].iter().product();
        (open && finite && d2[1] * groups == channels).then(|| Pair {
            first,
            second,
            between,
            channels,
            groups,
            rows: d2[0] / groups,
            depth,
            taps,
        })
    };
    g.order.iter().filter_map(pair).collect()
}
