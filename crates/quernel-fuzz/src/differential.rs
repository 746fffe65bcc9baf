//! Random networks: the interpreter of graphs, that of programs, and compiled code at every level of this machine give
//! the same bytes.

use crate::{
    oracle::{self, Fault},
    shrink,
};
use quernel::{
    ir::{Code, Graph, Stage, text, verify},
    passes::{Cx, fold_pipeline, quantize_pipeline},
};
use quernel_test::{Net, Rng, quantize_options};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How a network was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Quantized operators with parameters as a quantizer chooses them.
    Integer,
    /// Quantized operators with parameters at the ends of their types, and functions that leave the real numbers.
    Extreme,
    /// Float operators as exporters write them, through folding and quantization.
    Pipeline,
    /// The same through folding only.
    Float,
    /// Layers that follow each other, which lowering may cut into strips of rows.
    Chain,
}

/// What came of a network that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// All executions gave the same bytes.
    Agrees,
    /// Lowering or generating said that it cannot, and why.
    Refused(Code),
}

/// The network of a seed.
pub fn graph(seed: u64) -> (Kind, Graph) {
    let kinds = [Kind::Integer, Kind::Extreme, Kind::Pipeline, Kind::Float, Kind::Integer, Kind::Extreme];
    // Odd seeds: code is generated from the program in strips.
    let kind = if seed % 12 == 11 { Kind::Chain } else { kinds[(seed % 6) as usize] };
    (kind, graph_of(kind, Rng::new(seed), seed))
}

/// A network of that kind. `seed` chooses the options of quantization.
pub fn graph_of(kind: Kind, rng: Rng, seed: u64) -> Graph {
    let mut net = Net::with(rng);
    match kind {
        Kind::Integer | Kind::Extreme => {
            net.extreme = kind == Kind::Extreme;
            let ops = 4 + net.rng.below(20);
            net.grown(ops)
        }
        Kind::Chain => net.chained(),
        Kind::Pipeline | Kind::Float => {
            let mut g = net.imported_graph();
            let run = |pipeline: quernel::passes::Pipeline, g: &mut Graph| {
                pipeline
                    .run(g, &mut Cx::default(), &mut |_, _| ())
                    .unwrap_or_else(|faults| panic!("{}\n{g}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")));
            };
            run(fold_pipeline(), &mut g);
            if kind == Kind::Pipeline {
                run(quantize_pipeline(quantize_options(seed, &g)), &mut g);
            }
            g
        }
    }
}

/// Executes a network in every way on inputs of this seed. `Err` says what differs, or where it panicked.
pub fn check(g: &Graph, seed: u64) -> Result<Verdict, String> {
    catch_unwind(AssertUnwindSafe(|| executed(g, seed))).unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))))
}

fn executed(g: &Graph, seed: u64) -> Result<Verdict, String> {
    if let Err(faults) = verify(g, Stage::Quantized) {
        return Err(format!("unsound: {faults:?}"));
    }
    let programs = match oracle::lowered(g) {
        Ok(programs) => programs,
        Err(all) => {
            oracle::refused(&all);
            return Ok(Verdict::Refused(all[0].code));
        }
    };
    let inputs = [quernel_test::inputs(g, seed), quernel_test::inputs(g, seed ^ 0xabcd), oracle::wild_inputs(g, seed)];
    for (program, in_place) in programs.iter().zip([true, false]) {
        // Both are lowered and interpreted; half the code is generated from each.
        if seed.is_multiple_of(2) == in_place {
            match oracle::executions_agree(g, program, &inputs) {
                Ok(()) => {}
                Err(Fault::NoCode(code)) => return Ok(Verdict::Refused(code)),
                Err(Fault::Differs(why)) => return Err(why),
            }
        } else {
            oracle::interpreters_agree(g, program, &inputs[..1])?;
        }
    }
    Ok(Verdict::Agrees)
}

/// What a panic said.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

/// Counts of what was compared.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Networks by kind and verdict.
    pub verdicts: BTreeMap<(Kind, Verdict), u64>,
    /// Networks in which an operator occurs, those that were refused left out.
    pub operators: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        for (k, n) in &other.verdicts {
            *self.verdicts.entry(*k).or_default() += n;
        }
        for (k, n) in &other.operators {
            *self.operators.entry(k).or_default() += n;
        }
    }
    /// Networks that all executions agree on.
    pub fn agreed(&self) -> u64 {
        self.verdicts.iter().filter(|((_, v), _)| *v == Verdict::Agrees).map(|(_, n)| n).sum()
    }
}

/// A network on which executions differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What differs.
    pub why: String,
    /// The network, as small as it still fails, with its seed as a comment: a file for [`replay`].
    pub qir: String,
}

/// Checks the network of a seed, counts it, and shrinks it if it fails.
pub fn run(seed: u64, tally: &mut Tally) -> Result<(), Failure> {
    let made = catch_unwind(|| graph(seed));
    let (kind, g) = made.map_err(|panic| Failure { why: format!("no network: {}", message(&*panic)), qir: format!("; seed {seed}\n") })?;
    match check(&g, seed) {
        Ok(verdict) => {
            *tally.verdicts.entry((kind, verdict)).or_default() += 1;
            if verdict == Verdict::Agrees {
                let names: std::collections::BTreeSet<&str> = g.order.iter().map(|&n| g.nodes[n].op.mnemonic()).collect();
                for name in names {
                    *tally.operators.entry(name).or_default() += 1;
                }
            }
            Ok(())
        }
        Err(why) => {
            let small = shrink(&g, &|g| check(g, seed).is_err());
            let why = check(&small, seed).err().unwrap_or(why);
            let comment: String = why.lines().take(4).map(|l| format!("; {l}\n")).collect();
            Err(Failure { qir: format!("; seed {seed}\n{comment}{}", text::print_full(&small)), why })
        }
    }
}

/// Checks a network that [`run`] wrote.
pub fn replay(qir: &str) -> Result<Verdict, String> {
    let seed = qir.lines().find_map(|l| l.strip_prefix("; seed ")).and_then(|s| s.trim().parse().ok());
    let seed: u64 = seed.ok_or("no line `; seed N`")?;
    let g = text::parse(qir).map_err(|d| d.to_string())?;
    check(&g, seed)
}
