//! From samples, or a ranges file, to ranges.

use crate::{Failure, Model, read_text};
use quernel_float::FloatModel;
use quernel_ir::{Code, Diagnostic, Tensor, diag::Remark};
use quernel_quant::{Ranges, SampleOptions, Samples};
use std::{
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
    /// Ranges in memory.
    Given(Arc<Ranges>),
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
/// The float engine is tract; a model it cannot run is observed in the reference interpreter instead, with a remark.
pub fn calibrate(
    model: &Model,
    source: &Calibration,
    remarks: &mut Vec<Remark>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Arc<Ranges>>, Failure> {
    let samples = match source {
        Calibration::None => return Ok(None),
        Calibration::Given(ranges) => return Ok(Some(ranges.clone())),
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
                let Some(ranges) = calibrate(model, one, remarks, progress)? else { continue };
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
    observe(model, &samples, remarks, progress).map(|r| Some(Arc::new(r)))
}

fn observe(model: &Model, samples: &Samples, remarks: &mut Vec<Remark>, progress: &mut dyn FnMut(Progress)) -> Result<Ranges, Failure> {
    let mut step = |done, of| progress(Progress { what: "calibrating", done, of });
    let float = FloatModel::load(&model.bytes, &model.dims).and_then(|f| f.calibrate(samples, &mut step));
    let ranges = match float {
        Ok(ranges) => ranges,
        Err(d) if d.code == Code::FloatRunFailed => {
            remarks.push(Remark {
                by: "calibrate".into(),
                at: model.file.clone(),
                message: format!("observed in the reference interpreter, because {}", d.message),
            });
            let graph = &model.imported.graph;
            let mut run = |inputs: &[Tensor], record: &mut quernel_quant::Record<'_>| {
                quernel_interp::run_graph_with(graph, inputs, &mut |v, t| {
                    if let Some(data) = t.to_f32() {
                        record(&graph.values[v].name, &t.ty.dims, &data);
                    }
                })
                .map(drop)
            };
            quernel_quant::calibrate_with(&mut run, samples, &mut step)?
        }
        Err(d) => return Err(d.in_file(&model.file).into()),
    };
    Ok(ranges.with_model_hash(model.hash()))
}
