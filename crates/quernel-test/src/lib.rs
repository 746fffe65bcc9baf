//! Snapshot tests for passes: one call per case.
//!
//! ```no_run
//! use quernel_test::{Promise, check_pass};
//!
//! struct MyPass;
//! # use quernel_passes::{Cx, Pass};
//! # use quernel_ir::{Diagnostic, Graph};
//! impl Pass for MyPass {
//!     fn name(&self) -> &'static str {
//!         "my-pass"
//!     }
//!     fn run(&self, _: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
//!         Ok(())
//!     }
//! }
//! check_pass(&MyPass, "tests/my-pass/a_case.qir".as_ref(), Promise::Exact);
//! ```
//!
//! A case is a graph in text form. [`check_pass`] parses it, runs the pass, verifies the graph before and after, compares
//! the printed result and the remarks with the snapshot beside the case (`a_case.snap`), and runs both graphs in the
//! reference interpreter on random inputs: the pass has to keep the [`Promise`]. `INSTA_UPDATE=always` rewrites
//! snapshots.
//!
//! Every function panics on failure, as tests do.

use quernel_interp::{run_graph, run_graph_with};
use quernel_ir::{Graph, Scalar, Stage, Tensor, text, verify};
use quernel_passes::{Cx, Pass};
use quernel_quant::{Observed, Ranges, metrics::Noise};
use std::{path::Path, sync::Arc};

/// What a pass keeps of the outputs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Promise {
    /// Every bit.
    Exact,
    /// Every element up to this multiple of the output's largest magnitude: sums in another order.
    Close(f32),
    /// A signal to noise of this many dB: rounding to few bits.
    Noise(f64),
    /// The types of the outputs change; nothing is compared.
    Nothing,
}

/// Random inputs that are tried.
const TRIALS: u64 = 4;

/// Reads and verifies a case.
pub fn load(case: &Path) -> Graph {
    let source = std::fs::read_to_string(case).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    let graph = text::parse(&source).unwrap_or_else(|d| panic!("{}", d.in_file(case.display().to_string())));
    sound(&graph, "before the pass");
    graph
}

/// Panics with every fault.
fn sound(g: &Graph, when: &str) {
    if let Err(faults) = verify(g, Stage::Imported) {
        let listed: Vec<String> = faults.iter().map(ToString::to_string).collect();
        panic!("{when}:\n{}\n{g}", listed.join("\n"));
    }
}

/// Pseudo-random inputs in -2..2; the same seed gives the same.
pub fn inputs(g: &Graph, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    g.inputs
        .iter()
        .map(|&v| {
            let ty = g.ty(v).clone();
            if ty.elem.is_f32() {
                let data: Vec<f32> = (0..ty.count()).map(|_| 4.0 * uniform() - 2.0).collect();
                return Tensor::f32(ty.dims, &data);
            }
            let (lo, hi) = ty.elem.quant().map_or((-9, 9), |q| (q.min(), q.max()));
            let (lo, hi) = if ty.elem == Scalar::Bool.into() { (0, 1) } else { (lo, hi) };
            let count = ty.count();
            Tensor::from_ints(ty, (0..count).map(|_| i64::from(lo) + (uniform() * (hi - lo + 1) as f32) as i64).collect::<Vec<_>>())
        })
        .collect()
}

/// Ranges of every named value over the random inputs.
pub fn ranges(g: &Graph) -> Arc<Ranges> {
    let mut observed = Observed::default();
    for seed in 0..TRIALS {
        let mut record = |v, t: &Tensor| {
            let name: &str = &g.values[v].name;
            if let (false, Some(data)) = (name.is_empty(), t.to_f32()) {
                observed.record(name, &t.ty.dims, &data).unwrap_or_else(|d| panic!("{d}"));
            }
        };
        run_graph_with(g, &inputs(g, seed), &mut record).unwrap_or_else(|d| panic!("{d}"));
        observed.end_sample();
    }
    Arc::new(observed.finish())
}

/// Tests one case of a pass.
pub fn check_pass(pass: &dyn Pass, case: &Path, promise: Promise) {
    check_pass_after(&[], pass, case, promise);
}

/// The same for a pass that needs others before it; the snapshot shows what the last one made.
pub fn check_pass_after(before: &[&dyn Pass], pass: &dyn Pass, case: &Path, promise: Promise) {
    let mut graph = load(case);
    let mut cx = Cx::default();
    let step = |pass: &dyn Pass, graph: &mut Graph, cx: &mut Cx| {
        pass.run(graph, cx).unwrap_or_else(|d| panic!("{}: {d}", pass.name()));
        sound(graph, &format!("after {}", pass.name()));
    };
    for pass in before {
        step(*pass, &mut graph, &mut cx);
    }
    let old = graph.clone();
    cx.remarks.clear();
    step(pass, &mut graph, &mut cx);
    let remarks: String = cx.remarks.iter().map(|r| format!("; {r}\n")).collect();
    snapshot(case, &format!("{graph}{remarks}"));
    for seed in 0..TRIALS {
        let x = inputs(&old, seed);
        if promise != Promise::Nothing {
            let run = |g: &Graph| run_graph(g, &x).unwrap_or_else(|d| panic!("{d}\n{g}"));
            compare(&run(&old), &run(&graph), promise);
        }
    }
}

fn compare(want: &[Tensor], got: &[Tensor], promise: Promise) {
    assert_eq!(want.len(), got.len(), "number of outputs");
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        assert_eq!(w.ty, g.ty, "type of output {i}");
        let floats = w.to_f32().zip(g.to_f32());
        match (promise, floats) {
            (Promise::Close(bound), Some((w, g))) => {
                let largest = w.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (a, b) in w.iter().zip(&g) {
                    assert!((a - b).abs() <= bound * largest, "output {i}: {b} instead of {a}");
                }
            }
            (Promise::Noise(least), Some((w, g))) => {
                let mut noise = Noise::default();
                noise.add(&w, &g);
                assert!(noise.db() >= least, "output {i}: {:.1} dB", noise.db());
            }
            _ => assert_eq!(w.bytes(), g.bytes(), "bytes of output {i}"),
        }
    }
}

/// Compares text with `CASE.snap` beside the case.
fn snapshot(case: &Path, text: &str) {
    let case = case.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    let name = case.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(case.parent().unwrap_or(&case));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The page on adding a pass; its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/adding-a-pass.md")]
struct AddingAPass;
