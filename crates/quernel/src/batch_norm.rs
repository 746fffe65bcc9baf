//! Ranges without samples, from what batch norms remember of the training data.
//!
//! A batch norm holds the mean and variance that each channel of its operand had in training, so its results are known
//! to have mean `bias` and standard deviation `scale`. The network is run on noise as it ran in training, every batch
//! norm normalizing with the statistics of the batch at hand: whatever the noise was, what follows has the
//! distribution the network was trained on, correlations between layers included. The noise in front of the first batch
//! norm gets the mean and deviation under which the operand of that norm has the statistics it remembers.

use crate::Progress;
use quernel_interp::eval_node;
use quernel_ir::{Code, Def, Diagnostic, Graph, Id, Node, Op, Tensor, Value};
use quernel_quant::{Bound, Observed, Ranges, Samples};

/// Inputs of noise in a batch, and how many elements of input they may have together beyond eight inputs.
const BATCH: usize = 32;
const MOST_ELEMENTS: usize = 1 << 19;

/// Batch norms whose statistics are constants, in order.
fn norms(g: &Graph) -> Vec<Node> {
    let constant = |n: &Node| g.nodes[*n].args[1..].iter().all(|&v| g.tensor(v).is_some());
    g.order.iter().copied().filter(|n| matches!(g.nodes[*n].op, Op::BatchNorm { .. }) && constant(n)).collect()
}

/// Ranges of every tensor of an imported graph.
///
/// # Errors
/// `NoSamples` when the graph has no batch norm, or none that tells what its only input looks like.
pub fn ranges(g: &Graph, inputs: &[Bound], progress: &mut dyn FnMut(Progress)) -> Result<Ranges, Diagnostic> {
    let norms = norms(g);
    let Some(&first) = norms.first() else {
        let message = "the model has no batch norm whose statistics could stand in for samples";
        let help = "exporters often fold batch norms away: export in training mode without folding, or pass samples";
        return Err(Diagnostic::new(Code::NoSamples, message).help(help));
    };
    let elements: usize = inputs.iter().map(|i| i.dims.iter().product::<usize>()).sum();
    let count = (MOST_ELEMENTS / elements.max(1)).clamp(8, BATCH);
    let noise = noise(inputs, count)?;
    let (offset, factor) = moments(g, first, &noise)?;
    let data: Vec<Vec<Tensor>> = noise.iter().map(|x| x.iter().map(|t| affine(t, factor, offset)).collect()).collect();
    let mut observed = Observed::default();
    let steps = g.order.len();
    let mut done = 0;
    let mut failed = Ok(());
    Batch::new(g, data)?.run(None, &mut |v, batch| {
        for t in batch {
            if let (Some(data), Ok(()), false) = (t.to_f32(), &failed, g.values[v].name.is_empty()) {
                failed = observed.record(&g.values[v].name, &t.ty.dims, &data);
            }
        }
        done += 1;
        progress(Progress { what: "calibrating", done: done.min(steps), of: steps });
    })?;
    failed?;
    (0..count).for_each(|_| observed.end_sample());
    Ok(observed.finish())
}

/// Noise of mean 0 and deviation 1 whose neighbours resemble each other, as those of pictures and sounds do: equal
/// parts of noise that is constant over blocks of 1, 2, 4 .. elements of the spatial axes.
fn noise(inputs: &[Bound], count: usize) -> Result<Vec<Vec<Tensor>>, Diagnostic> {
    let white = Samples::random(inputs, count);
    let smooth = |t: Tensor| {
        let Some(data) = t.to_f32().filter(|_| t.ty.rank() >= 3) else { return t };
        let dims = t.ty.dims.clone();
        let (w, h) = (dims[dims.len() - 1], if dims.len() > 3 { dims[dims.len() - 2] } else { 1 });
        let levels = (0..).take_while(|l| 1 << l < w.max(h)).count().clamp(1, 5);
        let at = |i: usize, block: usize, shift: usize| {
            let (plane, y, x) = (i / (h * w), i / w % h, i % w);
            // A level of its own starts elsewhere in the same noise, so that levels are independent.
            data[(plane * h * w + y / block * block * w + x / block * block + shift * 7919) % data.len()]
        };
        let mixed = |i| (0..levels).map(|l| at(i, 1 << l, l)).sum::<f32>() / (levels as f32).sqrt();
        Tensor::f32(dims, &(0..data.len()).map(mixed).collect::<Vec<f32>>())
    };
    (0..count).map(|i| Ok(white.get(i)?.into_iter().map(smooth).collect())).collect()
}

fn affine(t: &Tensor, factor: f32, offset: f32) -> Tensor {
    match t.to_f32() {
        Some(data) => Tensor::f32(t.ty.dims.clone(), &data.iter().map(|x| factor * x + offset).collect::<Vec<f32>>()),
        None => t.clone(),
    }
}

/// Mean and variance per channel (axis 1) of a batch.
fn statistics(batch: &[Tensor]) -> Vec<(f64, f64)> {
    let dims = &batch[0].ty.dims;
    let (channels, inner) = (dims[1], dims[2..].iter().product::<usize>().max(1));
    let mut sums = vec![(0f64, 0f64, 0f64); channels];
    for t in batch {
        for (i, x) in t.to_f32().unwrap_or_default().into_iter().enumerate() {
            let (n, s, q) = &mut sums[i / inner % channels];
            (*n, *s, *q) = (*n + 1.0, *s + f64::from(x), *q + f64::from(x) * f64::from(x));
        }
    }
    sums.into_iter().map(|(n, s, q)| (s / n, (q / n - (s / n) * (s / n)).max(0.0))).collect()
}

/// Mean and deviation of the input for which the operand of the first batch norm has the moments it remembers, in the
/// sense of least squares over its channels; exact where only linear operators stand between.
fn moments(g: &Graph, first: Node, noise: &[Vec<Tensor>]) -> Result<(f32, f32), Diagnostic> {
    let operand = g.nodes[first].args[0];
    let before = |offset: f32| -> Result<Vec<(f64, f64)>, Diagnostic> {
        let data = noise.iter().map(|x| x.iter().map(|t| affine(t, 1.0, offset)).collect()).collect();
        let mut found = None;
        Batch::new(g, data)?.run(Some(operand), &mut |v, batch| {
            if v == operand {
                found = Some(statistics(batch));
            }
        })?;
        found.ok_or_else(|| Diagnostic::bug("the operand of a batch norm was not computed"))
    };
    let (plain, raised) = (before(0.0)?, before(1.0)?);
    let remembered = |i: usize| g.tensor(g.nodes[first].args[i]).and_then(Tensor::to_f32).unwrap_or_default();
    let (mean, variance) = (remembered(3), remembered(4));
    let (mut num, mut den, mut gains) = (0.0, 0.0, Vec::new());
    for c in 0..plain.len().min(mean.len()) {
        let (m, v) = (f64::from(mean[c]), f64::from(variance[c]).max(1e-12));
        let slope = raised[c].0 - plain[c].0;
        num += slope * (m - plain[c].0) / v;
        den += slope * slope / v;
        if plain[c].1 > 0.0 {
            gains.push(v / plain[c].1);
        }
    }
    gains.sort_by(f64::total_cmp);
    let factor = gains.get(gains.len() / 2).copied().unwrap_or(1.0).sqrt();
    let offset = if den > 0.0 { num / den } else { 0.0 };
    Ok((offset as f32, factor as f32))
}

/// A graph that runs on several inputs side by side.
struct Batch<'a> {
    g: &'a Graph,
    held: Vec<Vec<Tensor>>,
    /// Position in the order after which a value is not needed.
    last: Vec<usize>,
}

impl<'a> Batch<'a> {
    fn new(g: &'a Graph, data: Vec<Vec<Tensor>>) -> Result<Self, Diagnostic> {
        let mut held = vec![Vec::new(); g.values.len()];
        for (i, &v) in g.inputs.iter().enumerate() {
            held[v.index()] = data.iter().map(|x| x[i].clone()).collect();
            if !g.ty(v).elem.is_f32() {
                let message = "noise stands in for f32 inputs only";
                return Err(Diagnostic::new(Code::NoSamples, message).at(format!("input {:?}", g.values[v].name)).help("pass samples"));
            }
        }
        let mut last = vec![0; g.values.len()];
        for (i, &n) in g.order.iter().enumerate() {
            g.nodes[n].args.iter().for_each(|a| last[a.index()] = i);
        }
        Ok(Self { g, held, last })
    }

    /// Runs everything, or until `stop` is known; `observe` sees every value of all inputs at once.
    fn run(mut self, stop: Option<Value>, observe: &mut dyn FnMut(Value, &[Tensor])) -> Result<(), Diagnostic> {
        let g = self.g;
        for &v in &g.inputs {
            observe(v, &self.held[v.index()]);
            if stop == Some(v) {
                return Ok(());
            }
        }
        let count = self.held[g.inputs.first().map_or(0, |v| v.index())].len().max(1);
        for (i, &n) in g.order.iter().enumerate() {
            let node = &g.nodes[n];
            let result = node.result();
            let batch_norm = matches!(node.op, Op::BatchNorm { .. }) && g.ty(node.args[0]).rank() >= 2;
            let own: Option<Vec<Tensor>> = batch_norm.then(|| self.statistics(node.args[0], &g.nodes[n].args[3..])).flatten();
            let mut batch = Vec::with_capacity(count);
            for sample in 0..count {
                let mut args: Vec<&Tensor> = Vec::new();
                for (at, &a) in node.args.iter().enumerate() {
                    let own = at.checked_sub(3).and_then(|at| own.as_ref()?.get(at));
                    args.push(match (own, g.values[a].def) {
                        (Some(t), _) => t,
                        (None, Def::Const(c)) => &g.consts[c].tensor,
                        (None, _) => self.held[a.index()].get(sample).ok_or_else(|| Diagnostic::bug(format!("{a} is not held")))?,
                    });
                }
                batch.push(eval_node(&node.op, &args, g.ty(result)).map_err(|d| d.at(g.describe(n)))?);
            }
            observe(result, &batch);
            if stop == Some(result) {
                return Ok(());
            }
            self.held[result.index()] = batch;
            for &a in &node.args {
                if self.last[a.index()] == i {
                    self.held[a.index()] = Vec::new();
                }
            }
        }
        Ok(())
    }

    /// Mean and variance of the batch as operands of a batch norm. A channel without variance keeps the remembered ones.
    fn statistics(&self, x: Value, remembered: &[Value]) -> Option<Vec<Tensor>> {
        let batch = self.held.get(x.index()).filter(|b| !b.is_empty())?;
        let known: Vec<Vec<f32>> = remembered.iter().map(|&v| self.g.tensor(v)?.to_f32()).collect::<Option<_>>()?;
        let found = statistics(batch);
        let pick = |c: usize, own: f64, which: usize| if found[c].1 > 0.0 { own as f32 } else { known[which][c] };
        let mean: Vec<f32> = found.iter().enumerate().map(|(c, s)| pick(c, s.0, 0)).collect();
        let variance: Vec<f32> = found.iter().enumerate().map(|(c, s)| pick(c, s.1, 1)).collect();
        Some(vec![Tensor::f32([mean.len()], &mean), Tensor::f32([variance.len()], &variance)])
    }
}
