use super::setup;
use crate::{
    args::Report,
    messages::Messages,
    tables::{bytes, count, shortened, table},
};
use quernel::{
    Emit, Failure, LayerReport, Point, artifacts, compare,
    ir::{Code, Diagnostic},
    page, pareto,
    quant::{SampleOptions, Samples},
    to_json,
};
use std::{collections::BTreeMap, path::Path, time::Duration};

pub fn run(a: &Report, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    if let Some(path) = &a.html {
        let read = setup::read(&a.compiling, &model, &compiler);
        artifacts::possible(path)?;
        artifacts::apart([path.as_path()], &read.into_iter().chain(a.test.clone()).collect::<Vec<_>>())?;
    }
    let mut points = Vec::new();
    if let (Some(widths), Some(test)) = (&a.pareto, &a.test) {
        let options = SampleOptions { rows: a.test_rows.clone(), ..setup::samples(&a.compiling.samples)? };
        let samples = Samples::open_with(test, &model.inputs(), &options).map_err(Failure)?;
        points = pareto(&compiler, &model, &samples, widths, Duration::from_millis(400), &mut |p| messages.progress(p))?;
        if a.html.is_none() {
            return setup::print(&front(&points, a.json));
        }
    }
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    let (_, report) = artifacts::make(&compiled, Path::new("-"), &[Emit::Report])?;
    let mut report = report.ok_or_else(|| Diagnostic::bug("no report was made"))?;
    if let Some(path) = &a.test {
        let all = SampleOptions { rows: None, ..setup::samples(&a.compiling.samples)? };
        let samples = Samples::open_with(path, &model.inputs(), &all).map_err(Failure)?;
        if a.samples == 0 {
            return Err(Diagnostic::new(Code::BadOption, "--samples has to be at least 1").into());
        }
        let errors = compare(&compiled, &samples.slice(0..a.samples.min(samples.len())), false, &mut |p| messages.progress(p))?;
        let mut by_name: BTreeMap<String, _> = errors.into_iter().map(|e| (e.layer.clone(), e)).collect();
        for layer in &mut report.layers {
            layer.error = by_name.remove(&layer.name);
        }
    }
    if let Some(path) = &a.html {
        artifacts::save(&[(path, page(&report, &points).as_bytes())])?;
        return setup::print(&format!("wrote {}\n", path.display()));
    }
    if a.json {
        return setup::print(&format!("{}\n", report.to_json()));
    }
    let db = |x: Option<f64>| x.filter(|x| !x.is_nan()).map_or_else(String::new, |x| format!("{x:.1}"));
    let rows = report.layers.iter().map(|l| {
        vec![
            shortened(&l.name, 40),
            l.kind.clone(),
            bits(l),
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
    let energy = report.energy_model;
    text += &format!(
        "energy of a run by a model of 45 nm (not measured): {:.2} uJ, of it arithmetic {:.2}, activations {:.2}, constants {:.2}\n",
        energy.total_uj(),
        energy.arithmetic_uj,
        energy.activations_uj,
        energy.constants_uj
    );
    for remark in &report.remarks {
        text += &format!("{remark}\n");
    }
    setup::print(&text)
}

/// Bits of a layer's weights: their width, what codes mean unless they are integers, and what they take in the object where
/// that is something else.
fn bits(l: &LayerReport) -> String {
    let Some(width) = l.weight_bits else { return if l.integer { "int".into() } else { "float".into() } };
    let mut text = width.to_string();
    if let Some(scheme) = l.scheme.as_ref().filter(|s| *s != "linear") {
        text += &format!(" {scheme}");
    }
    if !l.stored_bits.is_empty() && l.stored_bits != [width] {
        let stored: Vec<String> = l.stored_bits.iter().map(u8::to_string).collect();
        text += &format!(" (stored {})", stored.join(", "));
    }
    if l.integer { text } else { format!("{text}, float") }
}

/// The points as a table, or as JSON.
fn front(points: &[Point], json: bool) -> String {
    if json {
        return format!("{}\n", to_json(&points));
    }
    let row = |p: &Point| {
        vec![
            p.bits.clone(),
            bytes(p.weight_bytes),
            bytes(p.object_bytes),
            format!("{:.2}", p.median_ns as f64 / 1000.0),
            format!("{:.2}", p.model_uj),
            p.top1.map_or_else(String::new, |t| format!("{t:.2}")),
            if p.sqnr_db.is_infinite() { String::new() } else { format!("{:.1}", p.sqnr_db) },
            if p.on_front { "*".into() } else { String::new() },
        ]
    };
    let header = ["bits", "weights", "object", "us", "uJ (model)", "top-1 %", "SQNR dB", "front"];
    format!("{}\n", table(&header, &[1, 2, 3, 4, 5, 6], points.iter().map(row)))
}
