use super::setup;
use crate::{
    args::Report,
    messages::Messages,
    tables::{bytes, count, shortened, table},
};
use quernel::{
    Emit, Failure, artifacts, compare,
    ir::{Code, Diagnostic},
    quant::{SampleOptions, Samples},
};
use std::{collections::BTreeMap, path::Path};

pub fn run(a: &Report, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    let (_, report) = artifacts::make(&compiled, Path::new("-"), &[Emit::Report])?;
    let mut report = report.ok_or_else(|| Diagnostic::bug("no report was made"))?;
    if let Some(path) = &a.test {
        let all = SampleOptions { rows: None, ..setup::samples(&a.compiling.samples)? };
        let samples = Samples::open_with(path, &model.inputs(), &all).map_err(Failure)?;
        if a.samples == 0 {
            return Err(Diagnostic::new(Code::BadOption, "--samples has to be at least 1").into());
        }
        let errors = compare(&compiled, &samples.slice(0..a.samples.min(samples.len())), &mut |p| messages.progress(p))?;
        let mut by_name: BTreeMap<String, _> = errors.into_iter().map(|e| (e.layer.clone(), e)).collect();
        for layer in &mut report.layers {
            layer.error = by_name.remove(&layer.name);
        }
    }
    if a.json {
        return setup::print(&format!("{}\n", report.to_json()));
    }
    let db = |x: Option<f64>| x.filter(|x| !x.is_nan()).map_or_else(String::new, |x| format!("{x:.1}"));
    let rows = report.layers.iter().map(|l| {
        vec![
            shortened(&l.name, 40),
            l.kind.clone(),
            if l.integer { l.weight_bits.map_or_else(|| "int".into(), |b| b.to_string()) } else { "float".into() },
            l.kernel.clone(),
            count(l.macs),
            bytes(l.weight_bytes),
            db(l.error.as_ref().map(|e| e.local_db)),
            db(l.error.as_ref().map(|e| e.accumulated_db)),
        ]
    });
    let header = ["layer", "operator", "bits", "kernel", "MACs", "weights", "local dB", "total dB"];
    let mut text = format!("{}\n", table(&header, &[2, 4, 5, 6, 7], rows));
    text += &format!(
        "{} MACs, code {}, constants {}, arena {} (at least {}), stack {}, for {}\n",
        count(report.macs),
        bytes(report.code_bytes),
        bytes(report.constant_bytes),
        bytes(report.arena_bytes),
        bytes(report.arena_lower_bound),
        bytes(report.stack_bytes),
        report.target,
    );
    for remark in &report.remarks {
        text += &format!("{remark}\n");
    }
    setup::print(&text)
}
