//! How long every layer takes at every width: a table measured on this machine.

use crate::{Compiled, Failure, encode_for};
use quernel_ir::Tensor;
use quernel_quant::{Bound, Samples};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Nanoseconds of a run by layer. A layer is named by its first ONNX node; steps without one are together under "".
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Times(pub BTreeMap<String, f64>);

/// Runs at least, whatever the time.
const LEAST_RUNS: usize = 30;

impl Times {
    /// Times the steps of compiled code one by one for about `time`: the least of every step, less what reading the clock
    /// costs.
    ///
    /// # Errors
    /// Code for another machine.
    pub fn measure(compiled: &Compiled, inputs: &[Bound], time: Duration) -> Result<Self, Failure> {
        let program = compiled.program()?;
        let mut jit = compiled.timed_jit()?;
        let sample = encode_for(program, &Samples::random(inputs, 1).get(0)?)?;
        let bytes: Vec<&[u8]> = sample.iter().map(Tensor::bytes).collect();
        let mut least = vec![u64::MAX; program.steps.len()];
        let (start, mut runs) = (Instant::now(), 0);
        while runs < LEAST_RUNS || start.elapsed() < time {
            least.iter_mut().zip(jit.run_timed(&bytes)?).for_each(|(l, t)| *l = t.min(*l));
            runs += 1;
        }
        let clock = clock_ns();
        let mut all = BTreeMap::new();
        for (step, ns) in program.steps.iter().zip(least) {
            let name = step.origin.names().first().cloned().unwrap_or_default();
            *all.entry(name).or_insert(0.0) += (ns as f64 - clock).max(0.0);
        }
        Ok(Self(all))
    }

    /// Sum over all layers.
    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

/// Least nanoseconds between two readings of the clock.
fn clock_ns() -> f64 {
    let one = || {
        let start = Instant::now();
        start.elapsed().as_nanos() as f64
    };
    (0..10_000).map(|_| one()).fold(f64::INFINITY, f64::min)
}
