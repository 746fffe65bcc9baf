//! From samples, or a ranges file, to ranges.

use crate::{Failure, Model, read_text};
use quernel_codegen::Jit;
use quernel_float::FloatModel;
use quernel_ir::{Code, Diagnostic, Graph, Stage, Tensor, Value, diag::Remark, verify};
use quernel_passes::{Cx, equalize_pipeline, fold_pipeline};
use quernel_quant::{Ranges, SampleOptions, Samples};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where activation ranges come from.
#[derive(Clone, Debug, Default)]
pub enum Calibration {
    /// Nowhere: only float code can be made.
    #[default]
    None,
    /// Sample inputs in a .npz or .npy file, or pictures in a folder.
    Samples(PathBuf, SampleOptions),
    /// A ranges.json that an earlier calibration wrote.
    Ranges(PathBuf),
    /// Ranges in memory, and where they came from.
    Given {
        /// The ranges.
        ranges: Arc<Ranges>,
        /// Samples may be asked of it again.
        source: Box<Calibration>,
    },
    /// Several of these, added up.
    Several(Vec<Calibration>),
    /// The statistics in the model's own batch norms, no data.
    BatchNorm,
    /// That many inputs of standard normal noise: the result runs, its accuracy means nothing.
    Random(usize),
}

impl Calibration {
    /// Samples, or ranges when the name ends in `.json`.
    pub fn samples(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            Self::Ranges(path)
        } else {
            Self::Samples(path, SampleOptions::default())
        }
    }

    /// The samples behind it, the first file's where there are several; `None` where there are none.
    pub fn open(&self, model: &Model) -> Result<Option<Samples>, Failure> {
        Ok(match self {
            Self::Samples(path, options) => Some(Samples::open_with(path, &model.inputs(), options).map_err(Failure)?),
            Self::Random(count) => Some(Samples::random(&model.inputs(), *count)),
            Self::Several(all) => {
                for one in all {
                    if let Some(samples) = one.open(model)? {
                        return Ok(Some(samples));
                    }
                }
                None
            }
            Self::Given { source, .. } => source.open(model)?,
            Self::None | Self::Ranges(_) | Self::BatchNorm => None,
        })
    }
}

impl Calibration {
    /// Whether some ranges were measured before, on the model as it is.
    pub(crate) fn is_of_the_model(&self) -> bool {
        match self {
            Self::Ranges(_) | Self::BatchNorm => true,
            Self::Several(all) => all.iter().any(Self::is_of_the_model),
            Self::None | Self::Given { .. } | Self::Random(_) | Self::Samples(..) => false,
        }
    }
}

/// A step of long work, for progress bars.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done.
    pub what: &'static str,
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
}

/// Reads a ranges file without asking which model it belongs to.
pub fn inspect_ranges(path: &Path) -> Result<Ranges, Failure> {
    Ranges::from_json(&read_text(path)?).map_err(|d| d.in_file(path.display().to_string()).into())
}

/// Runs the float network over the samples and observes every tensor.
///
/// The float engine is tract; a model of which it cannot show everything is observed in our own code, with a remark. With
/// `equalized`, the channels of values between layers have the factors that pass `equalize` gives them.
pub fn calibrate(
    model: &Model,
    source: &Calibration,
    equalized: bool,
    remarks: &mut Vec<Remark>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Arc<Ranges>>, Failure> {
    let samples = match source {
        Calibration::None => return Ok(None),
        Calibration::Given { ranges, .. } => return Ok(Some(ranges.clone())),
        Calibration::Ranges(path) => {
            let file = path.display().to_string();
            let ranges = inspect_ranges(path)?;
            if ranges.model_hash() != model.hash() {
                let message =
                    format!("was made for a model with hash {:016x}; {} has {:016x}", ranges.model_hash(), model.file, model.hash());
                return Err(Diagnostic::new(Code::BadRanges, message).in_file(&file).help("calibrate this model again").into());
            }
            return Ok(Some(Arc::new(ranges)));
        }
        Calibration::Several(all) => {
            let mut sum: Option<Ranges> = None;
            for one in all {
                let Some(ranges) = calibrate(model, one, equalized, remarks, progress)? else { continue };
                sum = Some(match sum {
                    None => (*ranges).clone(),
                    Some(sum) => sum.merge(&ranges)?,
                });
            }
            return Ok(sum.map(Arc::new));
        }
        Calibration::BatchNorm => {
            let graph = &model.imported.graph;
            let ranges = crate::batch_norm::ranges(graph, &model.inputs(), progress).map_err(|d| d.in_file(&model.file))?;
            remarks.push(Remark {
                by: "calibrate".into(),
                at: model.file.clone(),
                message: "ranges come from the statistics of its batch norms; real samples give better ones".into(),
            });
            return Ok(Some(Arc::new(ranges.with_model_hash(model.hash()))));
        }
        Calibration::Random(count) => {
            remarks.push(Remark {
                by: "calibrate".into(),
                at: model.file.clone(),
                message: "ranges come from random noise: the code runs at its real speed, but its outputs mean nothing".into(),
            });
            Samples::random(&model.inputs(), *count)
        }
        Calibration::Samples(path, options) => Samples::open_with(path, &model.inputs(), options).map_err(Failure)?,
    };
    observe(model, &samples, equalized, remarks, progress).map(|r| Some(Arc::new(r)))
}

/// Nodes of a model that tract loads in time: it compares every name with all others.
const FLOAT_ENGINE_NODES: usize = 1 << 14;

/// Observes the named values of the folded network: in tract where it knows all of them, in our own compiled code
/// otherwise, and in the reference interpreter where there is no code for an operator.
fn observe(
    model: &Model,
    samples: &Samples,
    equalized: bool,
    remarks: &mut Vec<Remark>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Ranges, Failure> {
    let mut step = |done, of| progress(Progress { what: "calibrating", done, of });
    let mut graph = model.imported.graph.clone();
    fold_pipeline().run(&mut graph, &mut Cx::default(), &mut |_, _| ())?;
    if equalized {
        equalize_pipeline().run(&mut graph, &mut Cx::default(), &mut |_, _| ())?;
    }
    let wanted: BTreeSet<&str> = observed_values(&graph).map(|v| graph.values[v].name.as_str()).collect();
    let nodes = model.imported.graph.order.len();
    let engine = match (nodes <= FLOAT_ENGINE_NODES).then(|| FloatModel::load(&model.bytes, &model.dims, &model.pins)) {
        None => Err(format!("the float engine (tract) takes too long over {nodes} nodes")),
        Some(Ok(engine)) => {
            let known: BTreeSet<&str> = engine.tensors().iter().map(String::as_str).collect();
            match wanted.iter().find(|name| !known.contains(*name)) {
                None => Ok(engine),
                Some(missing) => Err(format!("the float engine (tract) does not show {missing:?}")),
            }
        }
        Some(Err(d)) if d.code == Code::FloatRunFailed => Err(d.message),
        Some(Err(d)) => return Err(d.in_file(&model.file).into()),
    };
    let why = match engine.map(|e| e.calibrate(samples, &mut step)) {
        Ok(Ok(ranges)) => return Ok(ranges.with_model_hash(model.hash())),
        Ok(Err(d)) if d.code == Code::FloatRunFailed => d.message,
        Ok(Err(d)) => return Err(d.in_file(&model.file).into()),
        Err(why) => why,
    };
    let (by, ranges) = match own_code(&graph) {
        Ok((mut jit, shown)) => {
            let mut run = |inputs: &[Tensor], record: &mut quernel_quant::Record<'_>| -> Result<(), Diagnostic> {
                let stored = stored_inputs(&graph, inputs)?;
                let bytes: Vec<&[u8]> = stored.iter().map(Tensor::bytes).collect();
                for (t, v) in graph.inputs.iter().zip(inputs) {
                    if let Some(data) = v.to_f32() {
                        record(&graph.values[*t].name, &v.ty.dims, &data);
                    }
                }
                for (&v, bytes) in shown.iter().zip(jit.run(&bytes)?) {
                    let data: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
                    record(&graph.values[v].name, &graph.ty(v).dims, &data);
                }
                Ok(())
            };
            ("compiled float code", quernel_quant::calibrate_with(&mut run, samples, &mut step)?)
        }
        Err(_) => {
            let mut run = |inputs: &[Tensor], record: &mut quernel_quant::Record<'_>| {
                quernel_interp::run_graph_with(&graph, &stored_inputs(&graph, inputs)?, &mut |v, t| {
                    if let Some(data) = t.to_f32().filter(|_| !graph.values[v].name.is_empty()) {
                        record(&graph.values[v].name, &t.ty.dims, &data);
                    }
                })
                .map(drop)
            };
            ("the reference interpreter", quernel_quant::calibrate_with(&mut run, samples, &mut step)?)
        }
    };
    remarks.push(Remark { by: "calibrate".into(), at: model.file.clone(), message: format!("observed in {by}, because {why}") });
    Ok(ranges.with_model_hash(model.hash()))
}

/// Samples as the types of the inputs hold them.
fn stored_inputs(g: &Graph, samples: &[Tensor]) -> Result<Vec<Tensor>, Diagnostic> {
    let types = g.inputs.iter().map(|&v| g.ty(v));
    crate::encode(types, samples)
        .map_err(|Failure(all)| all.into_iter().next().unwrap_or_else(|| Diagnostic::bug("refused without a reason")))
}

/// Float results that have a name: what may become integers.
fn observed_values(g: &Graph) -> impl Iterator<Item = Value> {
    let named = |v: &Value| g.ty(*v).elem.is_f32() && !g.values[*v].name.is_empty();
    g.order.iter().map(|&n| g.nodes[n].result()).filter(named)
}

/// The float network as code that hands out every observed value.
fn own_code(g: &Graph) -> Result<(Jit, Vec<Value>), Failure> {
    let shown: Vec<Value> = observed_values(g).collect();
    let mut g = g.clone();
    g.outputs = shown.iter().enumerate().map(|(i, &v)| (format!("v{i}"), v)).collect();
    let verified = verify(&g, Stage::Folded)
        .map_err(|faults| Failure(faults.iter().map(|f| Diagnostic::bug(f.message.clone()).at(f.place.clone())).collect()))?;
    let lowered = quernel_lower::lower(&verified, &quernel_lower::Options::default()).map_err(Failure)?;
    let jit = Jit::new(&lowered.program, &quernel_codegen::Options::default())?;
    Ok((jit, shown))
}
