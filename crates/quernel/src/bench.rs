//! Time per step of compiled code in this process.

use crate::{Compiled, Counters, Energy, Failure};
use quernel_codegen::Jit;
use quernel_ir::{Program, Tensor};
use quernel_quant::{Bound, Samples};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Times of one network.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// Whole runs that were timed.
    pub runs: usize,
    /// Median nanoseconds of a whole run.
    pub median_ns: u64,
    /// The fastest run.
    pub min_ns: u64,
    /// Multiply-accumulates of a run.
    pub macs: u64,
    /// Multiply-accumulates per nanosecond that this machine reaches over registers at this level; `None` where that
    /// cannot be measured.
    pub limit: Option<f64>,
    /// Energy of a run by the machine's own counters, with everything else that ran meanwhile, in microjoules; `None` where
    /// they cannot be read.
    pub measured_uj: Option<f64>,
    /// Energy of a run by the model.
    pub energy_model: Energy,
    /// Clock in GHz, from the same measurement; `None` where it cannot be told.
    pub clock: Option<f64>,
    /// Steps in order of execution. Those of one layer that are alike, as of layers that run in strips of rows, are one.
    pub steps: Vec<StepTime>,
}

/// One step. Steps are timed one by one, so their sum exceeds the whole by the cost of the clock.
#[derive(Clone, Debug, Serialize)]
pub struct StepTime {
    /// ONNX nodes it came from.
    pub layer: String,
    /// What it computes.
    pub what: &'static str,
    /// The kernel that does.
    pub kernel: String,
    /// Times it is called in a run, on different parts of the layer.
    pub calls: usize,
    /// Median nanoseconds.
    pub median_ns: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Cycles that the cost model predicted when it chose the kernel's tile, for the core it was fitted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_cycles: Option<u64>,
    /// Cycles of the median time at this machine's clock, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles: Option<u64>,
}

impl Bench {
    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Runs for about `time` on random inputs: half of it whole networks, half step by step.
pub fn bench(compiled: &Compiled, inputs: &[Bound], time: Duration) -> Result<Bench, Failure> {
    let program = compiled.program()?;
    let mut jit = compiled.timed_jit()?;
    let sample = crate::encode_for(program, &Samples::random(inputs, 1).get(0)?)?;
    let bytes: Vec<&[u8]> = sample.iter().map(Tensor::bytes).collect();
    let mut whole = Vec::new();
    jit.run(&bytes)?;
    let counters = Counters::start();
    let start = Instant::now();
    while whole.len() < 5 || start.elapsed() < time / 2 {
        let one = Instant::now();
        jit.run(&bytes)?;
        whole.push(one.elapsed().as_nanos() as u64);
    }
    let measured_uj = counters.and_then(|c| c.elapsed_uj()).map(|uj| uj / whole.len() as f64);
    let energy_model = Energy::modelled(program);
    let mut single: Vec<Vec<u64>> = Vec::new();
    let start = Instant::now();
    while single.len() < 5 || start.elapsed() < time / 2 {
        single.push(jit.run_timed(&bytes)?);
    }
    let runs = whole.len();
    let min_ns = whole.iter().copied().min().unwrap_or(0);
    let best = if compiled.target.is_multi() { quernel_codegen::Target::host()?.level() } else { compiled.target.level() };
    let limit = quernel_codegen::register_limit(compiled.level.unwrap_or(best))?;
    let clock = quernel_codegen::clock()?;
    let steps = steps(program, &jit, &single, clock);
    Ok(Bench { runs, limit, clock, median_ns: median(whole), min_ns, macs: program.macs(), measured_uj, energy_model, steps })
}

fn steps(program: &Program, jit: &Jit, times: &[Vec<u64>], clock: Option<f64>) -> Vec<StepTime> {
    let kernels = jit.kernels();
    let kernel = |i: usize, how: &str| kernels.get(i).filter(|k| !k.is_empty()).map_or_else(|| how.to_owned(), Clone::clone);
    let step = |(i, s): (usize, &quernel_ir::program::Step)| {
        let median_ns = median(times.iter().map(|t| t[i]).collect());
        StepTime {
            layer: s.origin.names().join("+"),
            what: s.what.name(),
            kernel: kernel(i, &s.how),
            calls: 1,
            median_ns,
            macs: s.what.macs(),
            predicted_cycles: jit.predicted_cycles().get(i).copied().flatten(),
            cycles: clock.map(|ghz| (median_ns as f64 * ghz).round() as u64),
        }
    };
    let mut all: Vec<StepTime> = Vec::new();
    for one in program.steps.iter().enumerate().map(step) {
        match all.iter_mut().find(|s| !s.layer.is_empty() && (&s.layer, s.what, &s.kernel) == (&one.layer, one.what, &one.kernel)) {
            Some(same) => same.join(&one),
            None => all.push(one),
        }
    }
    all
}

impl StepTime {
    /// Adds what another call of the same layer takes.
    fn join(&mut self, other: &Self) {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        self.calls += other.calls;
        self.median_ns += other.median_ns;
        self.macs += other.macs;
        self.predicted_cycles = sum(self.predicted_cycles, other.predicted_cycles);
        self.cycles = sum(self.cycles, other.cycles);
    }
}

fn median(mut x: Vec<u64>) -> u64 {
    x.sort_unstable();
    x.get(x.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_layer_add_up() {
        let one = |ns: u64, predicted_cycles| StepTime {
            layer: "a".into(),
            what: "conv",
            kernel: "k".into(),
            calls: 1,
            median_ns: ns,
            macs: 10 * ns,
            predicted_cycles,
            cycles: Some(3 * ns),
        };
        let mut sum = one(5, Some(20));
        sum.join(&one(7, Some(30)));
        assert_eq!((sum.calls, sum.median_ns, sum.macs, sum.predicted_cycles, sum.cycles), (2, 12, 120, Some(50), Some(36)));
        sum.join(&one(1, None));
        assert_eq!((sum.calls, sum.predicted_cycles, sum.cycles), (3, None, Some(39)));
    }
}
