use super::setup;
use crate::{args::Calibrate, messages::Messages};
use quernel::{
    Calibration, Failure, Model, ModelOptions, artifacts, calibrate,
    ir::{Code, Diagnostic},
    quant::{Ranges, Samples},
};

pub fn run(a: &Calibrate, messages: &Messages) -> Result<(), Failure> {
    let model = Model::read(
        &a.model,
        &ModelOptions { dims: a.dims.iter().cloned().collect(), pins: a.pins.iter().cloned().collect(), ..ModelOptions::default() },
    )?;
    let mut remarks = Vec::new();
    let mut merged: Option<Ranges> = None;
    for path in &a.samples {
        let source = if a.merge {
            Calibration::Ranges(path.clone())
        } else {
            let mut options = setup::samples(&a.sampling)?;
            if let Some((i, n)) = a.shard {
                let all = Samples::open_with(path, &model.inputs(), &options).map_err(Failure)?.len();
                let first = options.rows.as_ref().map_or(0, |r| r.start);
                options.rows = Some(first + all * i / n..first + all * (i + 1) / n);
                if options.rows.as_ref().is_some_and(std::ops::Range::is_empty) {
                    return Err(Diagnostic::new(Code::BadOption, format!("part {i} of {n} of {all} samples is empty"))
                        .in_file(path.display().to_string())
                        .into());
                }
            }
            Calibration::Samples(path.clone(), options)
        };
        let Some(ranges) = calibrate(&model, &source, false, &mut remarks, &mut |p| messages.progress(p))? else { continue };
        merged = Some(match merged {
            None => (*ranges).clone(),
            Some(before) => before.merge(&ranges).map_err(|d| d.in_file(path.display().to_string()))?,
        });
    }
    messages.remarks(&remarks, true);
    let Some(ranges) = merged else {
        return Err(Diagnostic::new(Code::NoSamples, "nothing was given to measure ranges on").into());
    };
    let json = ranges.to_json();
    if a.output.as_os_str() == "-" {
        return setup::print(&json);
    }
    artifacts::apart([a.output.as_path()], &[model.files(), a.samples.clone()].concat())?;
    artifacts::save(&[(&a.output, json.as_bytes())])?;
    setup::print(&format!("wrote {}: {} tensors over {} samples\n", a.output.display(), ranges.tensors().count(), ranges.samples()))
}
