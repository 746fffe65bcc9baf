//! The float network and the compiled code side by side.

use crate::{Compiled, Failure, Model, Progress};
use quernel_codegen::Jit;
use quernel_float::FloatModel;
use quernel_ir::{Code, Diagnostic, Graph, Op, Program, Stage, Tensor, TensorTy, verify};
use quernel_quant::{Samples, metrics};
use serde::Serialize;

/// Float against compiled on the same samples.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Samples run.
    pub samples: usize,
    /// Share of labels that the float network's largest output hits, or its only one where that is a whole number, in percent;
    /// without labels `None`.
    pub float_top1: Option<f64>,
    /// The same of the compiled code.
    pub compiled_top1: Option<f64>,
    /// Share of labels among the float network's five largest outputs, in percent; `None` without labels or with fewer than
    /// six outputs.
    pub float_top5: Option<f64>,
    /// The same of the compiled code.
    pub compiled_top5: Option<f64>,
    /// Mean divergence of the softmax of the compiled code's first output from that of the float network, in nats.
    pub kl: f64,
    /// Samples on which both have the same largest output, in percent; the same output, where it is of whole numbers.
    pub agreement: f64,
    /// Signal to noise of the first output over all samples, in dB.
    pub sqnr_db: f64,
    /// The same before the softmax that ends the network, against our own float code; `None` where there is none.
    pub logits_sqnr_db: Option<f64>,
    /// Largest absolute difference of the first output.
    pub max_abs: f64,
    /// Why there is no accuracy although the file has an array of labels.
    pub labels_unused: Option<String>,
    /// Samples on which compiled code and the reference interpreter were compared, and gave equal bytes.
    pub equal_to_interpreter: usize,
}

impl Evaluation {
    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the compiled code is measured against: the float engine, or, for a model it does not know, the interpreter on the
/// graph as it was imported.
enum Reference<'a> {
    Engine(FloatModel),
    Graph(&'a Graph),
}

impl<'a> Reference<'a> {
    fn of(model: &'a Model) -> Result<Self, Failure> {
        let graph = &model.imported.graph;
        // The engine hands out f32 only.
        if graph.outputs.iter().any(|(_, v)| !graph.ty(*v).elem.is_f32()) {
            return Ok(Self::Graph(graph));
        }
        match FloatModel::load(&model.bytes, &model.dims, &model.pins) {
            Ok(engine) => Ok(Self::Engine(engine)),
            Err(d) if d.code == Code::FloatRunFailed => Ok(Self::Graph(graph)),
            Err(d) => Err(d.in_file(&model.file).into()),
        }
    }

    fn run(&self, inputs: &[Tensor]) -> Result<Option<Tensor>, Failure> {
        let all = match self {
            Self::Engine(engine) => engine.run(inputs)?,
            Self::Graph(graph) => quernel_interp::run_graph(graph, inputs)?,
        };
        Ok(all.into_iter().next().map(decode).transpose()?)
    }
}

/// Both networks without the softmax at their end.
struct Logits {
    float: (Program, Jit),
    quantized: (Program, Jit),
    noise: metrics::Noise,
}

impl Logits {
    fn of(compiled: &Compiled) -> Result<Option<Self>, Failure> {
        // A network that arrived quantized has no float form to compile: its weights are integers that are dequantized.
        let rounds = |g: &Graph| g.order.iter().any(|&n| matches!(g.nodes[n].op, Op::Quantize | Op::Dequantize));
        let Some(float) = compiled.folded.as_ref().filter(|g| !rounds(g)).and_then(open_end) else { return Ok(None) };
        let Some(quantized) = open_end(&compiled.graph) else { return Ok(None) };
        let code = |g: &Graph| -> Result<(Program, Jit), Failure> {
            let verified = verify(g, Stage::Folded)
                .map_err(|faults| Failure(faults.iter().map(|f| Diagnostic::bug(f.message.clone()).at(f.place.clone())).collect()))?;
            let program = quernel_lower::lower(&verified, &quernel_lower::Options::default()).map_err(Failure)?.program;
            let jit = Jit::new(&program, &quernel_codegen::Options::default())?;
            Ok((program, jit))
        };
        Ok(Some(Self { float: code(&float)?, quantized: code(&quantized)?, noise: metrics::Noise::default() }))
    }

    fn add(&mut self, inputs: &[Tensor]) -> Result<(), Failure> {
        let run = |(program, jit): &mut (Program, Jit)| -> Result<Vec<f32>, Failure> {
            let all = outputs(program, run_jit(jit, &encode_for(program, inputs)?)?)?;
            Ok(all.first().and_then(|(_, t)| t.to_f32()).unwrap_or_default())
        };
        let (want, got) = (run(&mut self.float)?, run(&mut self.quantized)?);
        self.noise.add(&want, &got);
        Ok(())
    }
}

/// The graph whose first output is the operand of the softmax that computes it.
fn open_end(g: &Graph) -> Option<Graph> {
    let node = g.producer(g.outputs.first()?.1)?;
    let operand = matches!(g.nodes[node].op, Op::Softmax { .. }).then(|| g.nodes[node].args[0])?;
    let mut g = g.clone();
    g.outputs = vec![("logits".into(), operand)];
    g.order.retain(|&n| n != node);
    Some(g)
}

/// Runs all samples through the float engine and through compiled code in this process.
pub fn evaluate(model: &Model, compiled: &Compiled, samples: &Samples, progress: &mut dyn FnMut(Progress)) -> Result<Evaluation, Failure> {
    let mut labels = samples.whole_labels()?;
    let mut unused = samples.label_fault().map(|d| d.message.clone());
    let program = compiled.program()?;
    let mut jit = compiled.jit()?;
    let float = Reference::of(model)?;
    let mut logits = Logits::of(compiled)?;
    let (mut signal, mut noise, mut max_abs) = (0f64, 0f64, 0f64);
    let (mut float_hits, mut compiled_hits, mut agree) = ([0usize; 2], [0usize; 2], 0usize);
    let (mut kl, mut classes) = (0f64, 0);
    let whole = program.outputs.first().and_then(|o| o.ty.elem.scalar()).is_some_and(|s| !s.is_float());
    let outputs_of = program.outputs.first().map_or(0, |o| o.ty.count());
    let class = |l: &i64| usize::try_from(*l).is_ok_and(|l| l < outputs_of);
    if let (Some(label), false) = (labels.iter().flatten().find(|l| !class(l)), whole) {
        unused = Some(format!("label {label}, but the output has {outputs_of} elements"));
        labels = None;
    }
    for i in 0..samples.len() {
        let inputs = samples.get(i)?;
        let want = first_numbers(float.run(&inputs)?.as_ref(), &model.file)?;
        let got = outputs(program, run_jit(&mut jit, &encode_for(program, &inputs)?)?)?;
        let got = first_numbers(got.first().map(|(_, t)| t), &model.file)?;
        if want.len() != got.len() {
            return Err(Diagnostic::bug(format!("the compiled output has {} elements, the float one {}", got.len(), want.len())).into());
        }
        if let Some(logits) = &mut logits {
            logits.add(&inputs)?;
        }
        for (w, g) in want.iter().zip(&got) {
            let d = f64::from(*w) - f64::from(*g);
            signal += f64::from(*w) * f64::from(*w);
            noise += d * d;
            max_abs = max_abs.max(d.abs());
        }
        agree += usize::from(if whole { want == got } else { metrics::argmax(&want) == metrics::argmax(&got) });
        let label = labels.as_ref().map(|l| l[i]);
        if let (Some(label), true) = (label, whole) {
            float_hits[0] += usize::from(want == [label as f32]);
            compiled_hits[0] += usize::from(got == [label as f32]);
        } else if let Some(label) = label {
            let label = usize::try_from(label).unwrap_or(usize::MAX);
            for (k, at) in [1, 5].into_iter().zip(0..) {
                float_hits[at] += usize::from(metrics::in_top(&want, label, k));
                compiled_hits[at] += usize::from(metrics::in_top(&got, label, k));
            }
        }
        if !whole {
            kl += metrics::kl(&want, &got);
            classes = want.len();
        }
        progress(Progress { what: "evaluating", done: i + 1, of: samples.len() });
    }
    let percent = |n: usize| 100.0 * n as f64 / samples.len().max(1) as f64;
    Ok(Evaluation {
        samples: samples.len(),
        labels_unused: unused,
        float_top1: labels.as_ref().map(|_| percent(float_hits[0])),
        compiled_top1: labels.as_ref().map(|_| percent(compiled_hits[0])),
        float_top5: labels.as_ref().filter(|_| classes > 5).map(|_| percent(float_hits[1])),
        compiled_top5: labels.as_ref().filter(|_| classes > 5).map(|_| percent(compiled_hits[1])),
        kl: kl / samples.len().max(1) as f64,
        agreement: percent(agree),
        sqnr_db: 10.0 * (signal / noise.max(f64::MIN_POSITIVE)).log10(),
        logits_sqnr_db: logits.map(|l| l.noise.db()),
        max_abs,
        equal_to_interpreter: 0,
    })
}

/// Runs samples through compiled code and the reference interpreter of the program and compares every output byte.
/// Returns the number of samples compared; the first difference is an internal bug.
pub fn check_against_interpreter(compiled: &Compiled, samples: &Samples, progress: &mut dyn FnMut(Progress)) -> Result<usize, Failure> {
    let program = compiled.program()?;
    let mut jit = compiled.jit()?;
    for i in 0..samples.len() {
        let inputs = encode_for(program, &samples.get(i)?)?;
        let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
        let want = quernel_interp::run_program(program, &bytes)?;
        let got = jit.run(&bytes)?;
        for (o, (w, g)) in want.iter().zip(&got).enumerate() {
            if let Some(at) = w.iter().zip(g).position(|(a, b)| a != b) {
                let name = &program.outputs[o].name;
                return Err(Diagnostic::bug(format!("compiled code and interpreter differ at byte {at} of output {name:?}"))
                    .at(format!("sample {i}"))
                    .into());
            }
        }
        progress(Progress { what: "comparing", done: i + 1, of: samples.len() });
    }
    Ok(samples.len())
}

fn run_jit(jit: &mut Jit, inputs: &[Tensor]) -> Result<Vec<Vec<u8>>, Failure> {
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    Ok(jit.run(&bytes)?)
}

fn first_numbers(output: Option<&Tensor>, file: &str) -> Result<Vec<f32>, Failure> {
    let first = output.and_then(Tensor::to_f64);
    let first =
        first.ok_or_else(|| Diagnostic::new(Code::BadGraph, "evaluation compares the first output; there is none").in_file(file))?;
    Ok(first.into_iter().map(|x| x as f32).collect())
}

/// Real inputs as a network of input types `types` takes them: rounded where those are integers.
pub fn encode<'a>(types: impl IntoIterator<Item = &'a TensorTy>, inputs: &[Tensor]) -> Result<Vec<Tensor>, Failure> {
    let one = |(ty, t): (&TensorTy, &Tensor)| match ty.elem.quant() {
        Some(_) => Ok(quernel_interp::eval_node(&Op::Quantize, &[t], ty)?),
        None if t.ty.elem == ty.elem => Ok(t.clone()),
        None => Ok(quernel_interp::eval_node(&Op::Cast, &[t], ty)?),
    };
    types.into_iter().zip(inputs).map(one).collect()
}

/// The same for a program's inputs.
pub fn encode_for(program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>, Failure> {
    encode(program.inputs.iter().map(|p| &p.ty), inputs)
}

/// The real numbers of an output.
fn decode(t: Tensor) -> Result<Tensor, Diagnostic> {
    if t.ty.elem.quant().is_none() {
        return Ok(t);
    }
    quernel_interp::eval_node(&Op::Dequantize, &[&t], &TensorTy::f32(t.ty.dims.clone()))
}

/// Output tensors of a program from the bytes of one run, as real numbers.
pub fn outputs(program: &Program, bytes: Vec<Vec<u8>>) -> Result<Vec<(String, Tensor)>, Failure> {
    let tensor = |(port, bytes): (&quernel_ir::program::Port, Vec<u8>)| {
        let ty: TensorTy = port.ty.clone();
        let t = Tensor::new(ty, bytes).map_err(Diagnostic::bug).and_then(decode)?;
        Ok((port.name.clone(), t))
    };
    program.outputs.iter().zip(bytes).map(tensor).collect()
}
