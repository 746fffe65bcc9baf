//! Passes: each rewrites a graph of one stage into another graph of the same meaning.
//!
//! ```text
//! Imported --fold_pipeline--> Folded --quantize_pipeline--> Quantized
//! ```
//!
//! **One file per pass; pass name = file stem = folder of its tests.** A pass sees the whole graph, sweeps it once in
//! order and leaves a graph that verifies. What it wants a user to know goes to [`Cx::remarks`].
//!
//! Quantization happens in two moves. `insert-quantize` and `quantize-weights` round values where they will be
//! integers, as `dequantize(quantize(x))` around float operators: the graph stays executable and shows exactly what
//! rounding costs. `push-requantize` then turns every float operator between such pairs into its integer form.
//!
//! A model that arrives quantized has such pairs of its own; its weights are dequantized constants from the start, and no
//! ranges are needed.

mod activation_signs;
mod bias_correct;
mod canonicalize;
mod choose_bits;
mod dead_code;
mod dynamic_quantize;
mod equalize;
mod fold_batch_norm;
mod fold_constants;
mod fuse_activation;
mod fuse_residual;
mod insert_quantize;
mod integer_io;
mod integer_layer;
mod normalization;
mod push_requantize;
mod quantize_weights;
mod recognize_activations;
mod recurrence;
mod rounded;
mod sweep;
mod thresholds;
mod wide;

pub use dynamic_quantize::Activations;
pub use sweep::Sweep;

use quernel_ir::{
    Diagnostic, Graph, Node, Stage, Tensor, Value,
    diag::Remark,
    verify::{Fault, verify},
};
use quernel_quant::{Bits, Calibrator, Ranges, Width};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// A rewrite of a graph.
pub trait Pass {
    /// Name on the command line and stem of its file.
    fn name(&self) -> &'static str;
    /// Rewrites the graph in place.
    ///
    /// # Errors
    /// What the user can change: options that do not fit the model. The graph is then unspecified.
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic>;
}

/// What passes tell each other and the user.
#[derive(Debug, Default)]
pub struct Cx {
    /// What the user should know.
    pub remarks: Vec<Remark>,
    /// Wall time per pass.
    pub timings: Vec<(&'static str, Duration)>,
    /// Width of the weights per layer, from `choose-bits`; a layer that is not listed has 8 bits.
    pub widths: BTreeMap<Node, Width>,
    /// Bits of the operand of a layer, from `choose-bits`; a layer that is not listed has those of the options.
    pub activation_bits: BTreeMap<Node, u8>,
    /// The float weights behind every dequantized constant, from `quantize-weights`.
    pub float_weights: BTreeMap<Value, Tensor>,
}

impl Cx {
    /// Adds a remark about a node.
    pub fn remark(&mut self, by: &str, g: &Graph, node: Node, message: impl Into<String>) {
        self.remarks.push(Remark { by: by.into(), at: g.describe(node), message: message.into() });
    }
}

/// What quantization needs to know.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Observed ranges; without them everything stays float.
    pub ranges: Option<Arc<Ranges>>,
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
    /// Whether biases absorb the mean error of the weights.
    pub bias_correct: bool,
    /// Whether inputs and outputs of the network are integers where they can be.
    pub integer_io: bool,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            ranges: None,
            calibrator: Calibrator::default(),
            activations: Activations::default(),
            activation_bits: 8,
            group: None,
            bits: Bits::default(),
            bias_correct: true,
            integer_io: false,
        }
    }
}

/// Every pass in order of travel: name and what it does in one line.
pub const PASSES: &[(&str, &str)] = &[
    ("fold-constants", "evaluates nodes whose operands are all constant"),
    ("canonicalize", "one spelling for each meaning: no-op moves vanish, products with constants become layers"),
    ("recognize-activations", "functions spelled with several nodes become one operator"),
    ("fold-batch-norm", "moves per-channel factors and offsets into the weights before them"),
    ("fuse-residual", "moves the addition of a tensor into the layer before it"),
    ("fuse-activation", "moves clamping activations into the layer before them"),
    ("dead-code", "removes what no output needs"),
    ("equalize", "moves factors between the channels of neighbouring layers"),
    ("choose-bits", "gives every layer its width; a layer whose values drown in the noise of 8 bits reads 16"),
    ("insert-quantize", "rounds activations where integer operators will read them"),
    ("dynamic-quantize", "rounds activations with scales found at run time"),
    ("quantize-weights", "rounds weights per output channel"),
    ("bias-correct", "takes the mean error of rounded weights out of the bias"),
    ("push-requantize", "turns float operators between roundings into integer operators"),
    ("integer-io", "makes inputs and outputs integers where they can be"),
    ("activation-signs", "gives the integers between operators the sign their kernels read"),
];

/// The pass of that name.
pub fn by_name(name: &str, options: &QuantizeOptions) -> Option<Box<dyn Pass>> {
    Some(match name {
        "fold-constants" => Box::new(fold_constants::FoldConstants),
        "canonicalize" => Box::new(canonicalize::Canonicalize),
        "recognize-activations" => Box::new(recognize_activations::RecognizeActivations),
        "fold-batch-norm" => Box::new(fold_batch_norm::FoldBatchNorm),
        "fuse-residual" => Box::new(fuse_residual::FuseResidual),
        "fuse-activation" => Box::new(fuse_activation::FuseActivation),
        "dead-code" => Box::new(dead_code::DeadCode),
        "equalize" => Box::new(equalize::Equalize),
        "choose-bits" => {
            let ranges = options.ranges.clone().filter(|_| options.activation_bits <= 8);
            Box::new(choose_bits::ChooseBits { bits: options.bits.clone(), ranges, calibrator: options.calibrator })
        }
        "insert-quantize" => Box::new(insert_quantize::InsertQuantize {
            ranges: options.ranges.clone(),
            calibrator: options.calibrator,
            bits: options.activation_bits,
            integer_io: options.integer_io,
        }),
        "dynamic-quantize" => Box::new(dynamic_quantize::DynamicQuantize { activations: options.activations }),
        "quantize-weights" => {
            let given = options.ranges.is_none() && options.activations == Activations::Static;
            Box::new(quantize_weights::QuantizeWeights { given, activations: options.activations, group: options.group })
        }
        "bias-correct" => Box::new(bias_correct::BiasCorrect { ranges: options.ranges.clone() }),
        "push-requantize" => Box::new(push_requantize::PushRequantize),
        "integer-io" => Box::new(integer_io::IntegerIo),
        "activation-signs" => Box::new(activation_signs::ActivationSigns),
        _ => return None,
    })
}

/// Passes in order, and the stage they lead to.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
    stage: Stage,
}

impl Pipeline {
    fn new(names: &[&str], stage: Stage, options: &QuantizeOptions) -> Self {
        Self { passes: names.iter().filter_map(|n| by_name(n, options)).collect(), stage }
    }

    /// Names of the passes in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.passes.iter().map(|p| p.name()).collect()
    }

    /// Runs all passes. `after` sees the graph after each. The graph is verified after every pass, and at the end
    /// against the stage.
    ///
    /// # Errors
    /// Those of the passes; a graph that does not verify is a bug of the pass and says so.
    pub fn run(&self, g: &mut Graph, cx: &mut Cx, after: &mut dyn FnMut(&str, &Graph)) -> Result<(), Vec<Diagnostic>> {
        for (i, pass) in self.passes.iter().enumerate() {
            let start = Instant::now();
            pass.run(g, cx).map_err(|d| vec![d])?;
            cx.timings.push((pass.name(), start.elapsed()));
            let stage = if i + 1 == self.passes.len() { self.stage } else { Stage::Imported };
            if let Err(faults) = verify(g, stage) {
                let bug = |f: &Fault| Diagnostic::bug(format!("after pass {}: {}", pass.name(), f.message)).at(f.place.clone());
                return Err(faults.iter().map(bug).collect());
            }
            after(pass.name(), g);
        }
        Ok(())
    }
}

/// `Imported` to `Folded`: the float network in as few nodes as possible.
pub fn fold_pipeline() -> Pipeline {
    let names = [
        "dead-code",
        "fold-constants",
        "canonicalize",
        "recognize-activations",
        "dead-code",
        "fold-batch-norm",
        "canonicalize",
        "fuse-residual",
        "fuse-activation",
        "fold-constants",
        "dead-code",
    ];
    Pipeline::new(&names, Stage::Folded, &QuantizeOptions::default())
}

/// `Folded` to a graph that computes the same with other factors between its layers.
pub fn equalize_pipeline() -> Pipeline {
    Pipeline::new(&["equalize", "dead-code"], Stage::Folded, &QuantizeOptions::default())
}

/// `Folded` to a graph whose roundings stand as pairs around float operators.
pub fn round_pipeline(options: &QuantizeOptions) -> Pipeline {
    let names = ["choose-bits", "insert-quantize", "dynamic-quantize", "quantize-weights"];
    Pipeline::new(&names, Stage::Imported, options)
}

/// From there to `Quantized`.
pub fn integer_pipeline(options: &QuantizeOptions) -> Pipeline {
    let mut names = Vec::new();
    if options.bias_correct {
        names.push("bias-correct");
    }
    // Rounded weights of layers that stayed float become plain constants.
    names.extend(["push-requantize", "fold-constants", "dead-code"]);
    if options.integer_io {
        names.extend(["integer-io", "dead-code"]);
    }
    names.push("activation-signs");
    Pipeline::new(&names, Stage::Quantized, options)
}

/// Takes out what nothing needs.
pub fn cleanup_pipeline() -> Pipeline {
    Pipeline::new(&["dead-code"], Stage::Imported, &QuantizeOptions::default())
}

/// `Folded` to `Quantized` without a look at the operands in between.
pub fn quantize_pipeline(options: QuantizeOptions) -> Pipeline {
    let (first, second) = (round_pipeline(&options), integer_pipeline(&options));
    Pipeline { passes: first.passes.into_iter().chain(second.passes).collect(), stage: Stage::Quantized }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_pass_exists_under_its_name() {
        for (name, _) in PASSES {
            let pass = by_name(name, &QuantizeOptions::default()).unwrap_or_else(|| panic!("no pass {name}"));
            assert_eq!(pass.name(), *name);
        }
    }
}
