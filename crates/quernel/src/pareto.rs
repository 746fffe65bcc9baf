//! What fewer bits save and cost: one compilation per width, measured on the same samples.

use crate::{Calibration, Compiler, Emit, Energy, Failure, Model, Progress, artifacts, bench, evaluate};
use quernel_quant::{Bits, Samples, Width};
use serde::Serialize;
use std::{path::Path, sync::Arc, time::Duration};

/// One compilation.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Width of the weights.
    pub bits: String,
    /// Bytes of weights in the object.
    pub weight_bytes: usize,
    /// Bytes of code and constants.
    pub object_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Median nanoseconds of a run on this machine.
    pub median_ns: u64,
    /// Energy of a run by the model, in microjoules.
    pub model_uj: f64,
    /// Share of right answers in percent, if there are labels.
    pub top1: Option<f64>,
    /// Signal to noise of the first output against the float network; infinite for floats.
    pub sqnr_db: f64,
    /// No other point is as good in accuracy, size and time, and better in one.
    pub on_front: bool,
}

impl Point {
    /// Accuracy if known, else the signal to noise; size; time. The first is better when larger, the others when smaller.
    fn measures(&self) -> [f64; 3] {
        [-self.top1.unwrap_or(self.sqnr_db), self.object_bytes as f64, self.median_ns as f64]
    }
    fn dominates(&self, other: &Self) -> bool {
        let ([a, b, c], [x, y, z]) = (self.measures(), other.measures());
        // Times closer than this do not tell two programs apart.
        let (no_slower, faster) = (c <= 1.02 * z, 1.02 * c < z);
        a <= x && b <= y && no_slower && (a < x || b < y || faster)
    }
}

/// Compiles for each width, measures, and marks the front.
///
/// # Errors
/// Those of compilation and evaluation.
pub fn pareto(
    compiler: &Compiler,
    model: &Model,
    samples: &Samples,
    widths: &[Width],
    time: Duration,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Point>, Failure> {
    let original = compiler.calibration.clone();
    let mut compiler = Compiler { budget: None, ..compiler.clone() };
    let mut points = Vec::new();
    for &width in widths {
        compiler.bits = Bits::uniform(width);
        let compiled = compiler.compile(model, progress)?;
        // Ranges are measured once.
        if let Some(ranges) = &compiled.ranges {
            let source = Box::new(original.clone());
            compiler.calibration = Calibration::Given { ranges: Arc::clone(ranges), source };
        }
        let (_, report) = artifacts::make(&compiled, Path::new("-"), &[Emit::Report])?;
        let measured = evaluate(model, &compiled, samples, progress)?;
        let program = compiled.program()?;
        points.push(Point {
            bits: width.to_string(),
            weight_bytes: report.as_ref().map_or(0, |r| r.layers.iter().map(|l| l.weight_bytes).sum()),
            object_bytes: report.as_ref().map_or(0, |r| r.code_bytes + r.constant_bytes),
            arena_bytes: program.arena_bytes,
            median_ns: bench(&compiled, &model.inputs(), time)?.median_ns,
            model_uj: Energy::modelled(program).total_uj(),
            top1: measured.compiled_top1,
            sqnr_db: if width == Width::Float { f64::INFINITY } else { measured.sqnr_db },
            on_front: false,
        });
    }
    for i in 0..points.len() {
        points[i].on_front = !points.iter().any(|p| p.dominates(&points[i]));
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_dominates_only_what_is_nowhere_better() {
        let point = |top1: f64, object_bytes, median_ns| Point {
            bits: String::new(),
            weight_bytes: 0,
            object_bytes,
            arena_bytes: 0,
            median_ns,
            model_uj: 0.0,
            top1: Some(top1),
            sqnr_db: 0.0,
            on_front: false,
        };
        let a = point(90.0, 100, 10);
        assert!(a.dominates(&point(89.0, 100, 10)) && a.dominates(&point(90.0, 101, 11)));
        assert!(!a.dominates(&a) && !a.dominates(&point(91.0, 200, 20)) && !a.dominates(&point(80.0, 90, 10)));
    }
}
