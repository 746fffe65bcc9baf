//! The search for widths under a budget.

use super::{Budget, Loss, Times, first_outputs};
use crate::{Calibration, Compiled, Compiler, Failure, Model, Progress, Recovery, recover::Probe, report::stored_weights};
use quernel_ir::{Code, Diagnostic, Tensor, program::Step};
use quernel_quant::{Bits, Samples, Width, knapsack};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Widths a layer may get. Codes of 3 bits take the room of 4, those of 5 to 7 the room of 8.
const WIDTHS: [Width; 3] = [Width::Int(8), Width::Auto(4), Width::Auto(2)];
/// Samples that judge: more tell little more.
const MOST_SAMPLES: usize = 128;
/// Share of the budget of each of the first candidates: losses add up only roughly.
const SHARES: [f64; 4] = [1.0, 0.97, 0.93, 0.88];
/// Exchanges that are tried on the real network.
const EXCHANGES: usize = 12;
/// Halvings of the interval of sizes when only the drop is limited.
const HALVINGS: usize = 6;
/// Time to measure a network of one width.
const MEASURE: Duration = Duration::from_millis(400);

/// One layer of the answer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Choice {
    /// ONNX node.
    pub layer: String,
    /// Its width.
    pub width: String,
    /// Bytes of its weights in the object at that width.
    pub bytes: u64,
    /// Loss of the network's output with this layer at that width and all others at 8 bits.
    pub loss_alone: f64,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Widths of all layers.
    pub bits: Bits,
    /// The same, with what they cost.
    pub layers: Vec<Choice>,
    /// Bytes of all weights, and at 8 bits.
    pub bytes: (u64, u64),
    /// Predicted nanoseconds of a run, where latency was limited.
    pub predicted_ns: Option<f64>,
    /// Loss of the network's output on the samples.
    pub loss: f64,
    /// Drop on the samples, in points or percent of answers.
    pub drop: f64,
    /// Assignments that were compiled and judged.
    pub tried: usize,
}

fn infeasible(what: String, least: String) -> Failure {
    Diagnostic::new(Code::BadOption, format!("the budget cannot be met: {what}")).help(least).into()
}

/// Everything the search knows.
struct Search<'a> {
    compiler: Compiler,
    model: &'a Model,
    samples: Samples,
    labels: Option<Vec<i64>>,
    loss: Loss,
    probes: Vec<Probe>,
    /// Bytes of a layer's weights in the object, by width.
    sizes: Vec<BTreeMap<String, u64>>,
    /// By width.
    times: Option<Vec<Times>>,
    /// Real loss and drop of what was tried.
    known: BTreeMap<Vec<usize>, (f64, f64)>,
}

/// Finds widths for a model. `compiler` says everything but the widths.
///
/// # Errors
/// A budget that no assignment meets (with the least possible), no samples, and those of compilation.
pub fn search(compiler: &Compiler, budget: &Budget, model: &Model, progress: &mut dyn FnMut(Progress)) -> Result<Chosen, Failure> {
    let samples = compiler.calibration.open(model)?.ok_or_else(|| {
        Diagnostic::new(Code::NoSamples, "widths are chosen by what they do to samples, and there are none")
            .help("pass `--calibrate samples.npz`")
    })?;
    let samples = samples.slice(0..samples.len().min(MOST_SAMPLES));
    let mut compiler = Compiler { bits: Bits::default(), budget: None, ..compiler.clone() };
    let float = Compiler { bits: Bits::uniform(Width::Float), ..compiler.clone() }.compile(model, progress)?;
    let loss = Loss::new(first_outputs(&float, &samples)?)?;
    let first = compiler.compile(model, progress)?;
    if let Some(ranges) = &first.ranges {
        let source = Box::new(compiler.calibration.clone());
        compiler.calibration = Calibration::Given { ranges: Arc::clone(ranges), source };
    }
    let arena = first.program()?.arena_bytes as u64;
    if let Some(limit) = budget.arena.filter(|l| *l < arena) {
        let least = format!("the widths of weights do not change it; this network needs {arena}");
        return Err(infeasible(format!("an arena of {limit} bytes"), least));
    }
    let probes = compiler.probe(model, &samples, &WIDTHS, &|outputs: &[Tensor]| loss.of(outputs).unwrap_or(f64::INFINITY), progress)?;
    let uniform: Vec<Compiled> = WIDTHS.iter().map(|&w| compiler.uniform(model, &probes, w, progress)).collect::<Result<_, _>>()?;
    let sizes = uniform.iter().map(stored_bytes).collect::<Result<_, _>>()?;
    let times = match budget.latency_ns {
        None => None,
        Some(_) => Some(uniform.iter().map(|c| Times::measure(c, &model.inputs(), MEASURE)).collect::<Result<_, _>>()?),
    };
    let labels = samples.whole_labels()?;
    let classes = uniform.first().and_then(|c| c.program().ok()?.outputs.first()).map_or(0, |o| o.ty.count());
    let class = |l: &i64| classes == 1 || usize::try_from(*l).is_ok_and(|l| l < classes);
    if let Some(label) = labels.iter().flatten().find(|l| !class(l)) {
        let message = format!("label {label}, but the output has {classes} elements");
        return Err(Diagnostic::new(Code::SampleValue, message).in_file(samples.file()).into());
    }
    let mut s = Search { compiler, model, samples, labels, loss, probes, sizes, times, known: BTreeMap::new() };
    let limits = s.limits(budget)?;
    let whole = vec![0; s.probes.len()];
    let found = match (budget.drop, limits) {
        // Where no limit binds there is nothing to choose.
        (None, _) if s.fits(&whole, limits) => whole,
        (Some(drop), [None, None]) => s.smallest(drop, progress)?,
        _ => {
            let found = s.best(limits, progress)?;
            let (_, lost) = s.judge(&found, progress)?;
            if let Some(drop) = budget.drop.filter(|d| lost > *d) {
                let least = format!("the best assignment within the other limits loses {lost:.2}");
                return Err(infeasible(format!("a drop of {drop}"), least));
            }
            found
        }
    };
    s.answer(&found, progress)
}

impl Search<'_> {
    fn bytes(&self, layer: usize, option: usize) -> u64 {
        self.sizes[option].get(&self.probes[layer].layer).copied().unwrap_or(0)
    }

    fn ns(&self, layer: usize, option: usize) -> f64 {
        let times = self.times.as_ref().and_then(|t| t[option].0.get(&self.probes[layer].layer));
        times.copied().unwrap_or(0.0)
    }

    /// Nanoseconds of everything that has no width.
    fn fixed_ns(&self) -> f64 {
        let Some(times) = &self.times else { return 0.0 };
        times[0].total() - (0..self.probes.len()).map(|l| self.ns(l, 0)).sum::<f64>()
    }

    fn total(&self, options: &[usize]) -> (u64, f64) {
        let all = || options.iter().enumerate();
        (all().map(|(l, &o)| self.bytes(l, o)).sum(), self.fixed_ns() + all().map(|(l, &o)| self.ns(l, o)).sum::<f64>())
    }

    /// The limits of size in bytes and of time in nanoseconds of the layers.
    fn limits(&self, budget: &Budget) -> Result<[Option<u64>; 2], Failure> {
        let whole = self.total(&vec![0; self.probes.len()]).0;
        let least = |cost: &dyn Fn(usize, usize) -> f64| -> f64 {
            let option = |l: usize| {
                (0..WIDTHS.len()).filter(|&o| self.probes[l].losses[o].is_finite()).map(|o| cost(l, o)).fold(f64::INFINITY, f64::min)
            };
            (0..self.probes.len()).map(option).sum()
        };
        let size = budget.size.map(|s| s.bytes(whole));
        let smallest = least(&|l, o| self.bytes(l, o) as f64);
        if let Some(limit) = size.filter(|&l| (l as f64) < smallest) {
            let help = format!("the least is {smallest:.0} bytes, with 2 bits for every weight; at 8 bits it is {whole}");
            return Err(infeasible(format!("weights of {limit} bytes"), help));
        }
        let fixed = self.fixed_ns();
        let fastest = fixed + least(&|l, o| self.ns(l, o));
        if let Some(limit) = budget.latency_ns.filter(|&l| (l as f64) < fastest) {
            return Err(infeasible(
                format!("a run in {:.1} us", limit as f64 / 1e3),
                format!("the least on this machine is {:.1} us", fastest / 1e3),
            ));
        }
        Ok([size, budget.latency_ns.map(|l| (l as f64 - fixed).max(0.0) as u64)])
    }

    fn fits(&self, options: &[usize], limits: [Option<u64>; 2]) -> bool {
        let (bytes, ns) = self.total(options);
        let finite = options.iter().zip(&self.probes).all(|(&o, p)| p.losses[o].is_finite());
        finite && limits[0].is_none_or(|l| bytes <= l) && limits[1].is_none_or(|l| ns - self.fixed_ns() <= l as f64)
    }

    fn knapsack(&self, limits: [Option<u64>; 2]) -> Option<Vec<usize>> {
        let choice = |l: usize, o: usize| knapsack::Choice {
            loss: self.probes[l].losses[o],
            costs: [self.bytes(l, o), self.ns(l, o).ceil() as u64],
        };
        let items: Vec<Vec<knapsack::Choice>> = (0..self.probes.len()).map(|l| (0..WIDTHS.len()).map(|o| choice(l, o)).collect()).collect();
        knapsack::choose(&items, limits)
    }

    /// Real loss and drop of an assignment.
    fn judge(&mut self, options: &[usize], progress: &mut dyn FnMut(Progress)) -> Result<(f64, f64), Failure> {
        if let Some(known) = self.known.get(options) {
            return Ok(*known);
        }
        let compiled = Compiler { bits: self.bits(options), ..self.compiler.clone() }.compile(self.model, progress)?;
        let outputs = first_outputs(&compiled, &self.samples)?;
        let result = (self.loss.of(&outputs)?, self.loss.drop(&outputs, self.labels.as_deref())?);
        self.known.insert(options.to_vec(), result);
        Ok(result)
    }

    /// The assignment of least real loss that was found within the limits.
    fn best(&mut self, limits: [Option<u64>; 2], progress: &mut dyn FnMut(Progress)) -> Result<Vec<usize>, Failure> {
        let mut best: Option<(f64, Vec<usize>)> = None;
        for share in SHARES {
            let Some(options) = self.knapsack(limits.map(|l| l.map(|l| (l as f64 * share) as u64))) else { continue };
            let (loss, _) = self.judge(&options, progress)?;
            if best.as_ref().is_none_or(|b| loss < b.0) {
                best = Some((loss, options));
            }
        }
        let Some((mut loss, mut options)) = best else {
            return Err(infeasible("size and latency together".into(), "each alone can be met; raise one of them".into()));
        };
        let mut left = EXCHANGES;
        while left > 0 {
            let mut better = false;
            for next in self.neighbours(&options, limits) {
                if left == 0 {
                    break;
                }
                if !self.known.contains_key(&next) {
                    left -= 1;
                }
                let (l, _) = self.judge(&next, progress)?;
                if l < loss {
                    (loss, options, better) = (l, next, true);
                    break;
                }
            }
            if !better {
                break;
            }
        }
        Ok(options)
    }

    /// Whether no wider option of the layer takes as little room and time.
    fn pays(&self, layer: usize, option: usize) -> bool {
        (0..option).all(|wider| self.bytes(layer, wider) > self.bytes(layer, option) || self.ns(layer, wider) > self.ns(layer, option))
    }

    /// Assignments that differ in one layer or in two and keep the limits, by rising predicted loss.
    fn neighbours(&self, options: &[usize], limits: [Option<u64>; 2]) -> Vec<Vec<usize>> {
        let predicted = |o: &[usize]| o.iter().zip(&self.probes).map(|(&o, p)| p.losses[o]).sum::<f64>();
        let mut all: Vec<Vec<usize>> = Vec::new();
        let mut push = |o: Vec<usize>| {
            if self.fits(&o, limits) {
                all.push(o);
            }
        };
        let change = |o: &[usize], l: usize, to: usize| {
            let mut o = o.to_vec();
            o[l] = to;
            o
        };
        for a in 0..options.len() {
            for to in (0..WIDTHS.len()).filter(|&to| to != options[a] && self.pays(a, to)) {
                let one = change(options, a, to);
                push(one.clone());
                for b in a + 1..options.len() {
                    // One gets more bits, the other fewer.
                    let other = |back: &usize| (*back > options[b]) != (to > options[a]) && *back != options[b] && self.pays(b, *back);
                    for back in (0..WIDTHS.len()).filter(other) {
                        push(change(&one, b, back));
                    }
                }
            }
        }
        all.sort_by(|a, b| predicted(a).total_cmp(&predicted(b)));
        all
    }

    /// The smallest assignment found whose real drop stays within the limit.
    fn smallest(&mut self, drop: f64, progress: &mut dyn FnMut(Progress)) -> Result<Vec<usize>, Failure> {
        let whole = vec![0; self.probes.len()];
        let (_, lost) = self.judge(&whole, progress)?;
        if lost > drop {
            return Err(infeasible(format!("a drop of {drop}"), format!("8 bits everywhere lose {lost:.2}")));
        }
        let most = self.total(&whole).0;
        let (mut low, mut high, mut best) = (0, most, whole);
        for _ in 0..HALVINGS {
            let middle = low + (high - low) / 2;
            let within = match self.knapsack([Some(middle), None]) {
                Some(options) if self.judge(&options, progress)?.1 <= drop => Some(options),
                _ => None,
            };
            match within {
                Some(options) => (high, best) = (self.total(&options).0, options),
                None => low = middle,
            }
        }
        Ok(best)
    }

    fn bits(&self, options: &[usize]) -> Bits {
        let layers = options.iter().zip(&self.probes).map(|(&o, p)| (p.layer.clone(), WIDTHS[o])).collect();
        Bits { layers, ..Bits::default() }
    }

    fn answer(&mut self, options: &[usize], progress: &mut dyn FnMut(Progress)) -> Result<Chosen, Failure> {
        let (loss, drop) = self.judge(options, progress)?;
        let (bytes, ns) = self.total(options);
        let whole = self.total(&vec![0; self.probes.len()]).0;
        let layer = |(l, &o): (usize, &usize)| Choice {
            layer: self.probes[l].layer.clone(),
            width: WIDTHS[o].to_string(),
            bytes: self.bytes(l, o),
            loss_alone: self.probes[l].losses[o],
        };
        Ok(Chosen {
            bits: self.bits(options),
            layers: options.iter().enumerate().map(layer).collect(),
            bytes: (bytes, whole),
            predicted_ns: self.times.as_ref().map(|_| ns),
            loss,
            drop,
            tried: self.known.len(),
        })
    }
}

impl Compiler {
    /// Every layer at every width alone, judged at the network's output.
    pub(crate) fn probe(
        &self,
        model: &Model,
        samples: &Samples,
        widths: &[Width],
        loss: &dyn Fn(&[Tensor]) -> f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Probe>, Failure> {
        let (mut rounded, float, mut cx) = self.rounded(model, progress)?;
        let integers = || self.pieces();
        let rounding = crate::recover::Rounding { g: &mut rounded, float: &float, cx: &mut cx, integers: &integers };
        crate::recover::probe(rounding, samples, widths, self.recovery.steps, loss, progress)
    }

    /// The network with weights of one width, rounded to nearest: what takes place and time as any other of that width.
    fn uniform(&self, model: &Model, probes: &[Probe], width: Width, progress: &mut dyn FnMut(Progress)) -> Result<Compiled, Failure> {
        let layers = probes.iter().map(|p| (p.layer.clone(), width)).collect();
        let bits = Bits { layers, ..Bits::uniform(width) };
        Self { bits, recovery: Recovery::bias_only(), ..self.clone() }.compile(model, progress)
    }
}

/// Bytes of the weights in the object by layer, which is named by its first ONNX node.
fn stored_bytes(compiled: &Compiled) -> Result<BTreeMap<String, u64>, Failure> {
    let mut all: BTreeMap<String, Vec<&Step>> = BTreeMap::new();
    for step in &compiled.program()?.steps {
        all.entry(step.origin.names().first().cloned().unwrap_or_default()).or_default().push(step);
    }
    Ok(all.into_iter().map(|(name, steps)| (name, stored_weights(steps) as u64)).collect())
}
