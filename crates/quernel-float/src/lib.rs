//! The float oracle: runs a model through tract and observes it.
//!
//! The one crate that names tract. It reads the original ONNX bytes, so it shares no code with our importer. The typed
//! model is run without decluttering, because only there every ONNX tensor can still be found by name.
//!
//! tract may panic on unusual models; every call is caught and becomes a `FloatRunFailed`.

use quernel_ir::{Code, Diagnostic, Scalar, Tensor};
use quernel_quant::{Bound, Ranges, Record, Samples, calibrate_with};
use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};
use tract_onnx::{
    prelude::{
        Datum, DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, OutletId, RunnableModel, TValue,
        Tensor as TractTensor, TypedFact, TypedModel, TypedOp, tvec,
    },
    tract_hir::{infer::Factoid, ops::konst::Const},
};

type Plan = Arc<RunnableModel<TypedFact, Box<dyn TypedOp>>>;

/// Element types of inputs, here and there.
const SCALARS: [(DatumType, Scalar); 12] = [
    (DatumType::F64, Scalar::F64),
    (DatumType::F32, Scalar::F32),
    (DatumType::F16, Scalar::F16),
    (DatumType::I64, Scalar::I64),
    (DatumType::I32, Scalar::I32),
    (DatumType::I16, Scalar::I16),
    (DatumType::I8, Scalar::I8),
    (DatumType::U64, Scalar::U64),
    (DatumType::U32, Scalar::U32),
    (DatumType::U16, Scalar::U16),
    (DatumType::U8, Scalar::U8),
    (DatumType::Bool, Scalar::Bool),
];

/// A model in the float engine.
pub struct FloatModel {
    inputs: Vec<Bound>,
    /// Outputs only.
    plain: Plan,
    /// All observable tensors.
    observing: Plan,
    /// Their names, in the order of the plan's outputs.
    names: Vec<String>,
}

fn failed(what: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new(Code::FloatRunFailed, what.to_string())
}

/// Runs `f` with panics turned into errors.
fn guarded<T>(f: impl FnOnce() -> Result<T, Diagnostic>) -> Result<T, Diagnostic> {
    let result = quiet::catch(AssertUnwindSafe(f));
    result.unwrap_or_else(|message| Err(failed(format!("the float engine (tract) failed on this model: {message}"))))
}

mod quiet {
    //! Catching panics without printing them.

    use std::{
        cell::Cell,
        panic::{UnwindSafe, catch_unwind, set_hook, take_hook},
        sync::Once,
    };

    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }

    /// The result of `f`, or the message of its panic.
    pub fn catch<T>(f: impl FnOnce() -> T + UnwindSafe) -> Result<T, String> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = take_hook();
            set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    before(info);
                }
            }));
        });
        let before = QUIET.replace(true);
        let result = catch_unwind(f);
        QUIET.set(before);
        result.map_err(|payload| {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
            text.unwrap_or_else(|| "it panicked".into())
        })
    }
}

impl FloatModel {
    /// Loads ONNX bytes with static input shapes. `dims` gives extents of symbolic dimensions; an unnamed or unlisted
    /// first dimension is 1. `pins` makes inputs constant: one number for all elements, or one for each.
    ///
    /// # Errors
    /// `FloatRunFailed` when tract cannot read or type the model.
    pub fn load(bytes: &[u8], dims: &BTreeMap<String, usize>, pins: &BTreeMap<String, Vec<f64>>) -> Result<Self, Diagnostic> {
        guarded(|| Self::try_load(bytes, dims, pins).map_err(|e| failed(format!("the float engine (tract) cannot load the model: {e:#}"))))
    }

    fn try_load(bytes: &[u8], dims: &BTreeMap<String, usize>, pins: &BTreeMap<String, Vec<f64>>) -> tract_onnx::prelude::TractResult<Self> {
        let mut model: InferenceModel = tract_onnx::onnx().model_for_read(&mut &*bytes)?;
        let mut inputs = Vec::new();
        let mut pinned = Vec::new();
        for i in 0..model.inputs.len() {
            let outlet = model.inputs[i];
            let name = model.node(outlet.node).name.clone();
            let fact = model.input_fact(i)?.clone();
            let extents: Vec<usize> = fact
                .shape
                .dims()
                .enumerate()
                .map(|(axis, d)| {
                    let d = d.concretize().map(|d| d.to_string()).unwrap_or_default();
                    d.parse::<usize>().ok().or_else(|| dims.get(&d).copied()).filter(|d| *d > 0).or((axis == 0).then_some(1))
                })
                .collect::<Option<_>>()
                .ok_or_else(|| tract_onnx::prelude::TractError::msg(format!("input {name} has a dimension without a value")))?;
            let datum = fact.datum_type.concretize().unwrap_or(DatumType::F32);
            let Some(numbers) = pins.get(&name) else {
                model.set_input_fact(i, InferenceFact::dt_shape(datum, &extents))?;
                let scalar = SCALARS.iter().find(|(d, _)| *d == datum).map_or(Scalar::F32, |(_, s)| *s);
                inputs.push(Bound { name, dims: extents, scalar });
                continue;
            };
            let count = extents.iter().product::<usize>();
            let data: Vec<f64> = (0..count).map(|i| numbers.get(i).or(numbers.first()).copied().unwrap_or(0.0)).collect();
            let tensor = TractTensor::from_shape(&extents, &data)?.cast_to_dt(datum)?.into_owned();
            let tensor = Arc::new(tensor);
            let node = model.node_mut(outlet.node);
            node.outputs[outlet.slot].fact = InferenceFact::from(&TypedFact::try_from(tensor.clone())?);
            node.op = Box::new(Const::new(tensor)?);
            pinned.push(outlet);
        }
        model.inputs.retain(|o| !pinned.contains(o));
        let typed: TypedModel = model.into_typed()?;
        let mut outlets: Vec<OutletId> = Vec::new();
        let mut names = Vec::new();
        for node in typed.nodes() {
            for (slot, output) in node.outputs.iter().enumerate() {
                let id = OutletId::new(node.id, slot);
                if output.fact.konst.is_some() || output.fact.datum_type != f32::datum_type() {
                    continue;
                }
                let name = match typed.outlet_label(id) {
                    Some(label) => label.to_owned(),
                    None if typed.inputs.contains(&id) => node.name.clone(),
                    None => continue,
                };
                outlets.push(id);
                names.push(name);
            }
        }
        let mut observed = typed.clone();
        observed.select_output_outlets(&outlets)?;
        Ok(Self { inputs, plain: typed.into_runnable()?, observing: observed.into_runnable()?, names })
    }

    /// Names, dimensions and types of the inputs.
    pub fn inputs(&self) -> &[Bound] {
        &self.inputs
    }

    /// Names of the tensors that [`Self::observe`] reports.
    pub fn tensors(&self) -> &[String] {
        &self.names
    }

    /// Runs the network. Inputs in the order of the file.
    ///
    /// # Errors
    /// `FloatRunFailed`; `UnsupportedType` for outputs that are not f32.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diagnostic> {
        let outputs = self.evaluate(&self.plain, inputs)?;
        outputs.iter().map(|v| floats(v).map(|data| Tensor::f32(v.shape().to_vec(), data))).collect()
    }

    /// Runs the network and reports every f32 tensor that still has its ONNX name, inputs and outputs included.
    ///
    /// # Errors
    /// `FloatRunFailed`.
    pub fn observe(&self, inputs: &[Tensor], record: &mut Record<'_>) -> Result<(), Diagnostic> {
        let outputs = self.evaluate(&self.observing, inputs)?;
        for (name, v) in self.names.iter().zip(&outputs) {
            record(name, v.shape(), floats(v)?);
        }
        Ok(())
    }

    /// Observes all samples. `progress` gets samples done and samples in all.
    ///
    /// # Errors
    /// Those of [`Self::observe`] and of the samples.
    pub fn calibrate(&self, samples: &Samples, progress: &mut dyn FnMut(usize, usize)) -> Result<Ranges, Diagnostic> {
        calibrate_with(&mut |inputs, record| self.observe(inputs, record), samples, progress)
    }

    fn evaluate(&self, plan: &Plan, inputs: &[Tensor]) -> Result<Vec<TValue>, Diagnostic> {
        guarded(|| {
            let mut values = tvec!();
            for (bound, tensor) in self.inputs.iter().zip(inputs) {
                let wrong = || failed(format!("input {:?} is {} instead of {}", bound.name, tensor.ty.elem, bound.scalar));
                let (datum, _) = SCALARS.iter().find(|(_, s)| tensor.ty.elem == (*s).into() && *s == bound.scalar).ok_or_else(wrong)?;
                let held = match (tensor.to_f32(), tensor.to_ints()) {
                    (Some(floats), _) => TractTensor::from_shape(&bound.dims, &floats),
                    (None, Some(ints)) => TractTensor::from_shape(&bound.dims, &ints),
                    (None, None) => TractTensor::from_shape(&bound.dims, &tensor.to_f64().unwrap_or_default()),
                };
                let held = held.and_then(|t| t.cast_to_dt(*datum).map(|t| t.into_owned())).map_err(|e| failed(format!("{e:#}")))?;
                values.push(TValue::from(held));
            }
            let outputs = plan.run(values).map_err(|e| failed(format!("the float engine (tract) cannot run the model: {e:#}")))?;
            Ok(outputs.into_iter().collect())
        })
    }
}

fn floats(v: &TValue) -> Result<&[f32], Diagnostic> {
    v.try_as_plain_ram()
        .and_then(|r| r.as_slice::<f32>())
        .map_err(|e| Diagnostic::new(Code::UnsupportedType, format!("an output is not f32: {e:#}")))
}
