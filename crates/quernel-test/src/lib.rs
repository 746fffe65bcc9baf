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
//! A case is a graph in text form. [`check_pass`] parses it, runs the pass, and checks that
//!
//! * the graph verifies before and after, and its text form parses to the same graph;
//! * the printed result and the remarks are those of the snapshot beside the case (`a_case.snap`);
//! * a second run changes nothing;
//! * on random inputs in the reference interpreter the outputs keep the [`Promise`];
//! * every integer operator of the result is its float operator, rounded ([`check_integers`]).
//!
//! A line `; promise noise 25` in a case replaces the promise for that case. `INSTA_UPDATE=always` rewrites snapshots.
//!
//! Random graphs for tests of everything behind import come from [`Net`].
//!
//! Every function panics on failure, as tests do.

mod chain;
mod draw;
mod exported;
mod integers;
mod net;
mod random;

pub use draw::Rng;
pub use exported::quantize_options;
pub use integers::check_integers;
pub use net::Net;
pub use random::{inputs, ranges};

use quernel_interp::run_graph;
use quernel_ir::{Graph, Node, Stage, Tensor, text, verify};
use quernel_passes::{Cx, Pass};
use quernel_quant::{Width, metrics::Noise};
use std::{collections::BTreeMap, path::Path, str::FromStr};

/// What a pass keeps of the outputs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Promise {
    /// `exact`: every bit.
    Exact,
    /// `close 1e-5`: every element up to this multiple of the output's largest magnitude, or of 0.01 where all are
    /// smaller: sums in another order.
    Close(f32),
    /// `noise 30`: a signal to noise of this many dB: rounding to few bits.
    Noise(f64),
    /// `nothing`: the types of the outputs change; nothing is compared.
    Nothing,
}

impl FromStr for Promise {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let number = |x: &str| x.parse::<f64>().map_err(|e| format!("{x}: {e}"));
        match s.split_whitespace().collect::<Vec<_>>()[..] {
            ["exact"] => Ok(Self::Exact),
            ["close", bound] => Ok(Self::Close(number(bound)? as f32)),
            ["noise", least] => Ok(Self::Noise(number(least)?)),
            ["nothing"] => Ok(Self::Nothing),
            _ => Err(format!("`{s}` is none of: exact, close BOUND, noise DECIBEL, nothing")),
        }
    }
}

/// Random inputs that are tried.
const TRIALS: u64 = 4;

/// Reads and verifies a case.
pub fn load(case: &Path) -> Graph {
    let graph = text::parse(&read(case)).unwrap_or_else(|d| panic!("{}", d.in_file(case.display().to_string())));
    sound(&graph, "before the pass");
    graph
}

fn read(case: &Path) -> String {
    std::fs::read_to_string(case).unwrap_or_else(|e| panic!("{}: {e}", case.display()))
}

/// Panics with every fault.
fn sound(g: &Graph, when: &str) {
    if let Err(faults) = verify(g, Stage::Imported) {
        let listed: Vec<String> = faults.iter().map(ToString::to_string).collect();
        panic!("{when}:\n{}\n{g}", listed.join("\n"));
    }
}

/// Tests one case of a pass.
pub fn check_pass(pass: &dyn Pass, case: &Path, promise: Promise) {
    check_pass_after(&[], pass, case, promise);
}

/// The same for a pass that needs others before it; the snapshot shows what the last one made.
pub fn check_pass_after(before: &[&dyn Pass], pass: &dyn Pass, case: &Path, promise: Promise) {
    let mut graph = load(case);
    let promise = own_promise(case).unwrap_or(promise);
    let mut cx = Cx::default();
    let step = |pass: &dyn Pass, graph: &mut Graph, cx: &mut Cx| {
        pass.run(graph, cx).unwrap_or_else(|d| panic!("{}: {d}", pass.name()));
        sound(graph, &format!("after {}", pass.name()));
    };
    for pass in before {
        step(*pass, &mut graph, &mut cx);
    }
    let (old, known) = (graph.clone(), cx.widths.clone());
    cx.remarks.clear();
    step(pass, &mut graph, &mut cx);
    snapshot(case, &format!("{graph}{}", told(&graph, &cx, &known)));

    let whole = text::print_full(&graph);
    let read = text::parse(&whole).unwrap_or_else(|d| panic!("the text of the result does not parse: {d}\n{whole}"));
    assert!(text::print_full(&read) == whole, "the text of the result parses to another graph:\n{read}");

    check_outputs(&old, &graph, promise);
    for seed in 0..TRIALS {
        check_integers(&graph, &inputs(&graph, seed));
    }

    step(pass, &mut graph, &mut cx);
    assert!(text::print_full(&graph) == whole, "a second run of {} changes the graph to\n{graph}", pass.name());
}

/// What a pass said beside the graph: widths of layers that were not known before, then remarks, as comments.
fn told(g: &Graph, cx: &Cx, known: &BTreeMap<Node, Width>) -> String {
    let widths = cx.widths.iter().filter(|(n, w)| known.get(n) != Some(w));
    let widths = widths.map(|(&n, w)| match w {
        Width::Int(bits) => format!("; {}: {bits} bits\n", g.describe(n)),
        Width::Panels(least, most) => format!("; {}: {least} to {most} bits\n", g.describe(n)),
        Width::Code(scheme, bits) => format!("; {}: {bits} bits, {scheme}\n", g.describe(n)),
        Width::Auto(bits) => format!("; {}: {bits} bits, auto\n", g.describe(n)),
        Width::Float => format!("; {}: float\n", g.describe(n)),
    });
    widths.chain(cx.remarks.iter().map(|r| format!("; {r}\n"))).collect()
}

/// The promise a case makes for itself.
fn own_promise(case: &Path) -> Option<Promise> {
    let text = read(case);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("; promise "))?;
    Some(line.parse().unwrap_or_else(|e| panic!("{}: {e}", case.display())))
}

/// Runs both graphs, which have the same inputs, on the same random inputs: the outputs of `new` keep the promise beside
/// those of `old`.
pub fn check_outputs(old: &Graph, new: &Graph, promise: Promise) {
    if promise == Promise::Nothing {
        return;
    }
    let mut noise = vec![Noise::default(); old.outputs.len()];
    for seed in 0..TRIALS {
        let x = inputs(old, seed);
        let run = |g: &Graph| run_graph(g, &x).unwrap_or_else(|d| panic!("{d}\n{g}"));
        compare(&run(old), &run(new), promise, &mut noise);
    }
    if let Promise::Noise(least) = promise {
        for (i, noise) in noise.iter().enumerate() {
            assert!(noise.db() >= least, "output {i}: {:.1} dB", noise.db());
        }
    }
}

fn compare(want: &[Tensor], got: &[Tensor], promise: Promise, noise: &mut [Noise]) {
    assert_eq!(want.len(), got.len(), "number of outputs");
    for (i, (w, g)) in want.iter().zip(got).enumerate() {
        assert_eq!(w.ty, g.ty, "type of output {i}");
        let floats = w.to_f32().zip(g.to_f32());
        match (promise, floats) {
            (Promise::Close(bound), Some((w, g))) => {
                let largest = w.iter().fold(0.01f32, |m, x| m.max(x.abs()));
                for (a, b) in w.iter().zip(&g) {
                    let same = a == b || a.is_nan() && b.is_nan();
                    assert!(same || (a - b).abs() <= bound * largest, "output {i}: {b} instead of {a}");
                }
            }
            (Promise::Noise(_), Some((w, g))) => noise[i].add(&w, &g),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_read() {
        assert_eq!("noise 25".parse(), Ok(Promise::Noise(25.0)));
        assert_eq!(" close  1e-5 ".parse(), Ok(Promise::Close(1e-5)));
        assert!("noise".parse::<Promise>().is_err() && "close x".parse::<Promise>().is_err());
    }
}
