//! The whole path: fold, calibrate, quantize, lower, generate.

use crate::{
    Budget, Calibration, Chosen, Failure, Model, Progress,
    budget::search,
    calibrate,
    recover::{Key, Recovery, Rounding, recover},
};
use quernel_codegen::{Jit, Level, Target};
use quernel_ir::{Code, Diagnostic, Graph, Op, Program, Stage, Tensor, diag::Remark, verify};
use quernel_lower::Layer;
use quernel_passes::{Activations, Cx, Pipeline, QuantizeOptions, equalize_pipeline, fold_pipeline, integer_pipeline, round_pipeline};
use quernel_quant::{Bits, Calibrator, Ranges, Width};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What to make of a model.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Machine the code runs on.
    pub target: Target,
    /// Forces a kernel level below what the target allows.
    pub level: Option<Level>,
    /// Where activation ranges come from.
    pub calibration: Calibration,
    /// How a range is chosen from a histogram.
    pub calibrator: Calibrator,
    /// Where scales of activations come from.
    pub activations: Activations,
    /// Bits of activations with scales from samples: 16, 8, 4, 2 or 1.
    pub activation_bits: u8,
    /// Weights under one scale where activations stay float; `None` for a whole output channel.
    pub group: Option<u32>,
    /// Weight widths per layer.
    pub bits: Bits,
    /// How weights and biases make up for rounding.
    pub recovery: Recovery,
    /// Limits within which widths are chosen; `bits` then says nothing.
    pub budget: Option<Budget>,
    /// Whether inputs and outputs of the network are integers where they can be.
    pub integer_io: bool,
    /// Stop after this stage.
    pub stop_after: Stage,
    /// Passes whose result is kept as text.
    pub print_after: Vec<String>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            target: Target::default(),
            level: None,
            calibration: Calibration::None,
            calibrator: Calibrator::default(),
            activations: Activations::default(),
            activation_bits: 8,
            group: None,
            bits: Bits::default(),
            recovery: Recovery::default(),
            budget: None,
            integer_io: false,
            stop_after: Stage::Lowered,
            print_after: Vec::new(),
        }
    }
}

/// How long a step took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Name of the pass or stage.
    pub name: String,
    /// Wall time.
    pub took: Duration,
}

/// A model compiled as far as was asked.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Prefix of every symbol.
    pub name: String,
    /// The source file as the user named it.
    pub file: String,
    /// Hash of the source file.
    pub model_hash: u64,
    /// Machine the code runs on.
    pub target: Target,
    /// Forced kernel level.
    pub level: Option<Level>,
    /// Last stage reached.
    pub stage: Stage,
    /// The graph at `stage`, or at `Quantized` when it was lowered.
    pub graph: Graph,
    /// The float graph that was quantized.
    pub folded: Option<Graph>,
    /// The program, once lowered.
    pub program: Option<Program>,
    /// What lowering says of each layer.
    pub layers: Vec<Layer>,
    /// Ranges the quantization used.
    pub ranges: Option<Arc<Ranges>>,
    /// Widths chosen under a budget, and what they cost.
    pub chosen: Option<Chosen>,
    /// Everything worth knowing that stopped nothing.
    pub remarks: Vec<Remark>,
    /// Time per pass and stage.
    pub timings: Vec<Timing>,
    /// Text after the passes of `print_after`: pass and graph.
    pub prints: Vec<(String, String)>,
}

impl Compiler {
    /// Compiles a model up to `stop_after`.
    pub fn compile(&self, model: &Model, progress: &mut dyn FnMut(Progress)) -> Result<Compiled, Failure> {
        if let Some(budget) = &self.budget {
            return self.within(budget, model, progress);
        }
        let wants_integers = self.bits != Bits::uniform(Width::Float);
        let quantized = arrives_quantized(&model.imported.graph);
        let measured = self.activations == Activations::Static;
        if self.stop_after > Stage::Folded {
            self.check_ranges(model)?;
        }
        for pass in &self.print_after {
            if !quernel_passes::PASSES.iter().any(|(name, _)| name == pass) {
                return Err(unknown_pass(pass).into());
            }
        }
        let mut out = Compiled {
            name: model.name.clone(),
            file: model.file.clone(),
            model_hash: model.hash(),
            target: self.target.clone(),
            level: self.level,
            stage: Stage::Imported,
            graph: model.imported.graph.clone(),
            folded: None,
            program: None,
            layers: Vec::new(),
            ranges: None,
            chosen: None,
            remarks: model.imported.remarks.clone(),
            timings: Vec::new(),
            prints: Vec::new(),
        };
        if quantized && wants_integers && matches!(self.calibration, Calibration::None) {
            out.remarks.push(Remark {
                by: "compile".into(),
                at: model.file.clone(),
                message: "the model arrives quantized: its own scales are used, and no samples are needed".into(),
            });
        }
        if quantized && wants_integers && (self.bits != Bits::default() || self.activation_bits != 8) {
            out.remarks.push(Remark {
                by: "options".into(),
                at: model.file.clone(),
                message: "the model arrives quantized: what it rounds keeps its own widths, and the asked ones hold for the rest".into(),
            });
        }
        if self.stop_after == Stage::Imported {
            return Ok(out);
        }
        self.run(&fold_pipeline(), Stage::Folded, &mut Cx::default(), &mut out)?;
        if self.recovery.equalize {
            self.run(&equalize_pipeline(), Stage::Folded, &mut Cx::default(), &mut out)?;
        }
        if self.stop_after == Stage::Folded {
            return Ok(out);
        }
        out.folded = Some(out.graph.clone());
        if wants_integers && measured {
            let start = Instant::now();
            out.ranges = calibrate(model, &self.calibration, self.recovery.equalize, &mut out.remarks, progress)?;
            out.timings.push(Timing { name: "calibrate".into(), took: start.elapsed() });
        }
        let options = self.quantize_options(out.ranges.clone());
        let mut cx = Cx::default();
        self.run(&round_pipeline(&options), Stage::Folded, &mut cx, &mut out)?;
        self.recover(model, &mut cx, &mut out, progress)?;
        self.run(&integer_pipeline(&options), Stage::Quantized, &mut cx, &mut out)?;
        if self.stop_after == Stage::Quantized {
            return Ok(out);
        }
        let start = Instant::now();
        let verified = verify(&out.graph, Stage::Quantized).map_err(|faults| {
            Failure(faults.iter().map(|f| Diagnostic::new(Code::Internal, f.message.clone()).at(f.place.clone())).collect())
        })?;
        let lowered =
            quernel_lower::lower(&verified, &quernel_lower::Options::default()).map_err(|all| Failure(all).in_file(&model.file))?;
        out.program = Some(lowered.program);
        out.layers = lowered.layers;
        out.remarks.extend(lowered.remarks);
        out.stage = Stage::Lowered;
        out.timings.push(Timing { name: "lower".into(), took: start.elapsed() });
        Ok(out)
    }

    fn quantize_options(&self, ranges: Option<Arc<Ranges>>) -> QuantizeOptions {
        QuantizeOptions {
            ranges,
            calibrator: self.calibrator,
            activations: self.activations,
            activation_bits: self.activation_bits,
            group: self.group,
            bits: self.bits.clone(),
            bias_correct: self.recovery.bias,
            integer_io: self.integer_io,
        }
    }

    /// Chooses widths, then compiles with them.
    fn within(&self, budget: &Budget, model: &Model, progress: &mut dyn FnMut(Progress)) -> Result<Compiled, Failure> {
        if self.activations != Activations::Static {
            return Err(Diagnostic::new(Code::BadOption, "widths are chosen for activations with scales from samples").into());
        }
        let chosen = search(self, budget, model, progress)?;
        let mut compiled = Self { bits: chosen.bits.clone(), budget: None, ..self.clone() }.compile(model, progress)?;
        compiled.chosen = Some(chosen);
        Ok(compiled)
    }

    /// The graph with its values and weights rounded to nearest, the float graph it was made from, and what the passes know.
    pub(crate) fn rounded(&self, model: &Model, progress: &mut dyn FnMut(Progress)) -> Result<(Graph, Graph, Cx), Failure> {
        let (mut graph, mut cx) = (model.imported.graph.clone(), Cx::default());
        fold_pipeline().run(&mut graph, &mut cx, &mut |_, _| ())?;
        if self.recovery.equalize {
            equalize_pipeline().run(&mut graph, &mut cx, &mut |_, _| ())?;
        }
        let float = graph.clone();
        let ranges = calibrate(model, &self.calibration, self.recovery.equalize, &mut Vec::new(), progress)?;
        round_pipeline(&self.quantize_options(ranges)).run(&mut graph, &mut cx, &mut |_, _| ())?;
        Ok((graph, float, cx))
    }

    /// What makes a part of a rounded graph fit for lowering.
    pub(crate) fn pieces(&self) -> Pipeline {
        integer_pipeline(&QuantizeOptions { bias_correct: false, ..QuantizeOptions::default() })
    }

    /// Whether there is something to take ranges of activations from.
    pub(crate) fn check_ranges(&self, model: &Model) -> Result<(), Failure> {
        let wants_integers = self.bits != Bits::uniform(Width::Float);
        let measured = self.activations == Activations::Static;
        if wants_integers && measured && !arrives_quantized(&model.imported.graph) && matches!(self.calibration, Calibration::None) {
            return Err(Diagnostic::new(Code::NoSamples, "integer activations need ranges, and nothing was given to measure them on")
                .in_file(&model.file)
                .help("pass `--calibrate samples.npz`, `--calibrate batch-norm` or, to try the speed, `random`; or `--bits float`")
                .into());
        }
        if self.recovery.equalize && measured && self.calibration.is_of_the_model() {
            return Err(Diagnostic::new(Code::BadOption, "`equalize` changes values between layers, whose ranges must then be measured")
                .in_file(&model.file)
                .help("pass samples to `--calibrate`, or drop `equalize`")
                .into());
        }
        Ok(())
    }

    fn run(&self, pipeline: &Pipeline, stage: Stage, cx: &mut Cx, out: &mut Compiled) -> Result<(), Failure> {
        let prints = &mut out.prints;
        pipeline.run(&mut out.graph, cx, &mut |pass, g| {
            if self.print_after.iter().any(|p| p == pass) {
                prints.push((pass.to_owned(), g.to_string()));
            }
        })?;
        out.stage = stage;
        out.remarks.append(&mut cx.remarks);
        out.timings.extend(cx.timings.drain(..).map(|(name, took)| Timing { name: name.into(), took }));
        Ok(())
    }

    /// Rounds weights again with their operands in view, where some have fewer than 8 bits or the options ask for all.
    fn recover(&self, model: &Model, cx: &mut Cx, out: &mut Compiled, progress: &mut dyn FnMut(Progress)) -> Result<(), Failure> {
        let narrow = cx.widths.values().any(|w| w.bits().is_some_and(|bits| bits < 8));
        let (Some(float), Some(ranges)) = (&out.folded, &out.ranges) else { return Ok(()) };
        if !self.recovery.weights() || !(narrow || self.recovery.all) || cx.float_weights.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let Some(samples) = self.calibration.open(model)? else {
            out.remarks.push(Remark {
                by: "recover".into(),
                at: model.file.clone(),
                message: "weights are rounded to nearest: to look at their operands takes samples, and there are ranges only".into(),
            });
            return Ok(());
        };
        let options = format!("{:?} {:?} {:?}", self.bits, self.calibrator, Recovery { resume: None, ..self.recovery.clone() });
        let first = samples.get(0)?;
        let data: Vec<&[u8]> = first.iter().map(Tensor::bytes).collect();
        let ranges = ranges.to_json();
        let key = Key::of(&[&out.model_hash.to_le_bytes(), options.as_bytes(), ranges.as_bytes(), &data.concat()]);
        let rounding = Rounding { g: &mut out.graph, float, cx, integers: &|| self.pieces() };
        recover(rounding, &samples, &self.recovery, key, progress)?;
        out.timings.push(Timing { name: "recover".into(), took: start.elapsed() });
        Ok(())
    }
}

/// A model that rounds its activations itself has scales for them.
fn arrives_quantized(g: &Graph) -> bool {
    g.order.iter().any(|&n| g.nodes[n].op == Op::Quantize)
}

impl Compiled {
    /// The program; a compilation that stopped earlier has none.
    pub fn program(&self) -> Result<&Program, Failure> {
        self.program.as_ref().ok_or_else(|| {
            Diagnostic::new(Code::BadOption, format!("nothing was lowered: the compilation stopped at stage `{}`", self.stage)).into()
        })
    }
    /// Options of the code generator.
    pub fn codegen_options(&self) -> quernel_codegen::Options {
        quernel_codegen::Options { name: self.name.clone(), level: self.level, model_hash: Some(self.model_hash), steps: false }
    }
    /// The program as code in this process: that of the target's CPU, or of this machine for a target of several
    /// variants.
    pub fn jit(&self) -> Result<Jit, Failure> {
        self.jit_with(&self.codegen_options())
    }
    /// The same for [`Jit::run_timed`].
    pub fn timed_jit(&self) -> Result<Jit, Failure> {
        self.jit_with(&quernel_codegen::Options { steps: true, ..self.codegen_options() })
    }

    fn jit_with(&self, options: &quernel_codegen::Options) -> Result<Jit, Failure> {
        let program = self.program()?;
        Ok(if self.target.is_multi() { Jit::new(program, options)? } else { Jit::for_target(program, &self.target, options)? })
    }
}

/// Runs named passes over a graph in text form: the `opt` command.
pub fn opt(text: &str, passes: &[String], options: &QuantizeOptions) -> Result<(Graph, Vec<Remark>), Failure> {
    let mut graph = quernel_ir::text::parse(text)?;
    let mut cx = Cx::default();
    for name in passes {
        let pass = quernel_passes::by_name(name, options).ok_or_else(|| unknown_pass(name))?;
        pass.run(&mut graph, &mut cx)?;
    }
    verify(&graph, Stage::Imported)
        .map_err(|faults| Failure(faults.iter().map(|f| Diagnostic::new(Code::BadIr, f.message.clone()).at(f.place.clone())).collect()))?;
    Ok((graph, cx.remarks))
}

fn unknown_pass(name: &str) -> Diagnostic {
    let known: Vec<&str> = quernel_passes::PASSES.iter().map(|(name, _)| *name).collect();
    Diagnostic::new(Code::BadOption, format!("no pass `{name}`")).help(format!("the passes are {}", known.join(", ")))
}
