//! A graph that runs piece by piece over all samples, every node once per sample.
//!
//! Between pieces only the values are held that later nodes read, so a layer's weights may still change when its operand
//! is known. A dequantized value is held as its integers.

use crate::Failure;
use quernel_codegen::Jit;
use quernel_ir::{Def, Diagnostic, Graph, Id, Node, Op, Stage, Tensor, Value, verify};
use quernel_passes::{Cx, Pipeline};
use quernel_quant::Samples;
use std::collections::{BTreeMap, BTreeSet};

/// Where a run over the samples stands.
pub struct Staged {
    /// Nodes of the graph's order that have run.
    done: usize,
    /// Values by sample.
    held: BTreeMap<Value, Vec<Tensor>>,
    samples: usize,
}

/// A value and what it is held as.
fn stored(g: &Graph, v: Value) -> Value {
    match g.producer(v) {
        Some(n) if g.nodes[n].op == Op::Dequantize => g.nodes[n].args[0],
        _ => v,
    }
}

impl Staged {
    /// The inputs of all samples, as the graph takes them.
    pub fn new(g: &Graph, samples: &Samples) -> Result<Self, Failure> {
        let mut held: BTreeMap<Value, Vec<Tensor>> = g.inputs.iter().map(|&v| (v, Vec::new())).collect();
        for i in 0..samples.len() {
            for (&v, t) in g.inputs.iter().zip(samples.get(i)?) {
                held.entry(v).or_default().push(t);
            }
        }
        Ok(Self { done: 0, held, samples: samples.len() })
    }

    /// The samples' tensors of a value that was wanted and has been computed; integers where it is dequantized.
    pub fn get(&self, g: &Graph, v: Value) -> Option<&[Tensor]> {
        self.held.get(&stored(g, v)).map(Vec::as_slice)
    }

    /// Runs until `goal` is known. `wanted` are the values that will be asked for now or later; `pipeline` makes a piece
    /// fit for lowering.
    pub fn advance(&mut self, g: &Graph, goal: Value, wanted: &BTreeSet<Value>, pipeline: &dyn Fn() -> Pipeline) -> Result<(), Failure> {
        if self.held.contains_key(&stored(g, goal)) {
            return Ok(());
        }
        let Some(end) = g.producer(stored(g, goal)).and_then(|n| g.order.iter().position(|&o| o == n)).filter(|&at| at >= self.done) else {
            return Err(Diagnostic::bug(format!("value {:?} is not ahead", g.values[goal].name)).into());
        };
        let piece = self.done..end + 1;
        let later: BTreeSet<Value> = g.order[piece.end..]
            .iter()
            .flat_map(|&n| g.nodes[n].args.iter().copied())
            .chain(wanted.iter().copied())
            .chain(g.outputs.iter().take(1).map(|&(_, v)| v))
            .map(|v| stored(g, v))
            .collect();
        let defined: BTreeSet<Value> = g.order[piece.clone()].iter().map(|&n| g.nodes[n].result()).collect();
        let outputs: Vec<Value> = defined.iter().copied().filter(|v| later.contains(v)).collect();
        let (sub, inputs) = self.part(g, &g.order[piece.clone()], &outputs, &defined);
        let mut code = Code::new(sub, &pipeline())?;
        let mut results: Vec<Vec<Tensor>> = vec![Vec::with_capacity(self.samples); outputs.len()];
        for i in 0..self.samples {
            let args: Vec<&Tensor> = inputs.iter().filter_map(|v| self.held.get(v)?.get(i)).collect();
            for (all, t) in results.iter_mut().zip(code.run(&args)?) {
                all.push(t);
            }
        }
        self.held.retain(|v, _| later.contains(v));
        self.held.extend(outputs.into_iter().zip(results));
        self.done = piece.end;
        Ok(())
    }

    /// The first output of every sample, from what is held on; nothing held changes.
    pub fn finish(&self, g: &Graph, pipeline: &dyn Fn() -> Pipeline) -> Result<Vec<Tensor>, Failure> {
        let Some(&(_, v)) = g.outputs.first() else { return Ok(Vec::new()) };
        if let Some(known) = self.get(g, v) {
            return Ok(known.to_vec());
        }
        let nodes = &g.order[self.done..];
        let defined: BTreeSet<Value> = nodes.iter().map(|&n| g.nodes[n].result()).collect();
        let (sub, inputs) = self.part(g, nodes, &[v], &defined);
        let mut code = Code::new(sub, &pipeline())?;
        let mut results = Vec::with_capacity(self.samples);
        for i in 0..self.samples {
            let args: Vec<&Tensor> = inputs.iter().filter_map(|v| self.held.get(v)?.get(i)).collect();
            results.extend(code.run(&args)?.into_iter().next());
        }
        Ok(results)
    }

    /// The nodes as a graph of its own, and the held values that are its inputs.
    fn part(&self, g: &Graph, nodes: &[Node], outputs: &[Value], defined: &BTreeSet<Value>) -> (Graph, Vec<Value>) {
        let mut sub = g.clone();
        let mut inputs: BTreeSet<Value> = BTreeSet::new();
        // Dequantizations of an earlier piece that this one reads.
        let mut again: BTreeSet<Node> = BTreeSet::new();
        for &n in nodes {
            for &a in &g.nodes[n].args {
                if defined.contains(&a) || g.tensor(a).is_some() {
                    continue;
                }
                let source = stored(g, a);
                if source != a {
                    again.extend(g.producer(a));
                }
                if !defined.contains(&source) && g.tensor(source).is_none() {
                    inputs.insert(source);
                }
            }
        }
        let inputs: Vec<Value> = inputs.into_iter().collect();
        for (i, &v) in inputs.iter().enumerate() {
            sub.values[v].def = Def::Input(i as u32);
        }
        sub.inputs.clone_from(&inputs);
        sub.outputs = outputs.iter().map(|&v| (format!("v{}", v.index()), v)).collect();
        sub.order = again.into_iter().chain(nodes.iter().copied()).collect();
        (sub, inputs)
    }
}

/// Compiled code of a piece, or, where there is none, the interpreter.
struct Code {
    graph: Graph,
    jit: Option<Jit>,
}

impl Code {
    fn new(mut graph: Graph, pipeline: &Pipeline) -> Result<Self, Failure> {
        for pipeline in [&quernel_passes::cleanup_pipeline(), pipeline] {
            pipeline.run(&mut graph, &mut Cx::default(), &mut |_, _| ())?;
        }
        let verified = verify(&graph, Stage::Imported)
            .map_err(|faults| Failure(faults.iter().map(|f| Diagnostic::bug(f.message.clone()).at(f.place.clone())).collect()))?;
        let jit = quernel_lower::lower(&verified, &quernel_lower::Options::default())
            .ok()
            .and_then(|lowered| Jit::new(&lowered.program, &quernel_codegen::Options::default()).ok());
        Ok(Self { graph, jit })
    }

    fn run(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Failure> {
        let g = &self.graph;
        let Some(jit) = &mut self.jit else {
            let inputs: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
            return Ok(quernel_interp::run_graph(g, &inputs)?);
        };
        let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.bytes()).collect();
        let results = jit.run(&bytes)?;
        let tensor = |(&(_, v), bytes): (&(String, Value), Vec<u8>)| Tensor::new(g.ty(v).clone(), bytes).map_err(Diagnostic::bug);
        Ok(g.outputs.iter().zip(results).map(tensor).collect::<Result<_, _>>()?)
    }
}
