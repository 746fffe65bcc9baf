use super::setup;
use crate::{
    args::Compile,
    messages::Messages,
    tables::{bytes, count, shortened, table},
};
use quernel::{
    Chosen, Compiled, Emit, Failure, Report, artifacts,
    ir::{Code, Diagnostic, Stage},
};
use std::path::{Path, PathBuf};

pub fn run(a: &Compile, messages: &Messages) -> Result<(), Failure> {
    let mut compiler = setup::compiler(&a.compiling)?;
    compiler.print_after.clone_from(&a.print_after);
    if let Some(stage) = &a.stop_after {
        compiler.stop_after = stage.parse().map_err(|e: String| Diagnostic::new(Code::BadOption, e))?;
    }
    let model = setup::model(&a.compiling)?;
    let read = setup::read(&a.compiling, &model, &compiler);
    // What can be told before the work.
    let unnamed = a.output.as_ref().map_or(a.stop_after.is_some(), |o| o.as_os_str() == "-");
    if a.depfile.is_some() && unnamed {
        return Err(Diagnostic::new(Code::BadOption, "`--depfile` says what a file is made of, and none is written")
            .help("name a file with `-o`")
            .into());
    }
    if a.stop_after.is_some() && !a.emit.is_empty() {
        return Err(Diagnostic::new(Code::BadOption, "a graph is all there is to write before the last stage")
            .help("leave out `--emit`")
            .into());
    }
    let mut outputs: Vec<PathBuf> = a.depfile.iter().cloned().collect();
    if let Some(out) = a.output.as_ref().filter(|o| o.as_os_str() != "-") {
        if a.stop_after.is_some() {
            outputs.push(out.clone());
        } else {
            outputs.extend(kinds(a, out).into_iter().map(|kind| artifacts::path(kind, out)));
        }
    }
    outputs.iter().try_for_each(|o| artifacts::possible(o).map(|_| ()))?;
    artifacts::apart(outputs.iter().map(PathBuf::as_path), &read)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    for (pass, text) in &compiled.prints {
        setup::print(&format!("; after {pass}\n{text}\n"))?;
    }
    if a.timings {
        for t in &compiled.timings {
            messages.note(&format!("{:>9.1} ms  {}", t.took.as_secs_f64() * 1e3, t.name));
        }
    }
    messages.remarks(&compiled.remarks, a.remarks);
    if compiled.stage < Stage::Lowered { graph(a, &compiled, &read) } else { write(a, &compiled, &read) }
}

/// The graph of an earlier stage.
fn graph(a: &Compile, compiled: &Compiled, read: &[PathBuf]) -> Result<(), Failure> {
    let depfile = a.depfile.as_deref().zip(a.output.as_deref()).map(|(path, out)| (path, rule(out, read)));
    setup::graph(&compiled.graph, a.output.as_deref(), depfile)
}

/// What is made.
fn kinds(a: &Compile, out: &Path) -> Vec<Emit> {
    if a.emit.is_empty() { Emit::default_for(out).to_vec() } else { a.emit.clone() }
}

/// `output: files..` as make and ninja read it.
fn rule(output: &Path, files: &[PathBuf]) -> String {
    let escaped = |path: &Path| path.display().to_string().replace('$', "$$").replace('#', "\\#").replace(' ', "\\ ");
    let files: Vec<String> = files.iter().map(|f| escaped(f)).collect();
    format!("{}: {}\n", escaped(output), files.join(" \\\n  "))
}

fn write(a: &Compile, compiled: &Compiled, read: &[PathBuf]) -> Result<(), Failure> {
    let out = a.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.o", compiled.name)));
    let kinds = kinds(a, &out);
    if out.as_os_str() == "-" {
        let [kind] = kinds[..] else {
            return Err(Diagnostic::new(Code::BadOption, "standard output takes one file")
                .help("add `--emit obj`, or another single kind")
                .into());
        };
        let (files, _) = artifacts::make(compiled, Path::new("-"), &[kind])?;
        return setup::print_bytes(&files[0].bytes);
    }
    let (files, report) = artifacts::make(compiled, &out, &kinds)?;
    let mut beside: Vec<(PathBuf, String)> = Vec::new();
    if let (Some(depfile), Some(first)) = (&a.depfile, files.first()) {
        beside.push((depfile.clone(), rule(&first.path, read)));
    }
    let mut bits = String::new();
    if let Some(c) = &compiled.chosen {
        let path = out.with_extension("bits.toml");
        bits = chosen(c, &path);
        beside.push((path, c.bits.to_toml()));
    }
    let all = files.iter().map(|f| (f.path.as_path(), f.bytes.as_slice()));
    let all: Vec<_> = all.chain(beside.iter().map(|(p, t)| (p.as_path(), t.as_bytes()))).collect();
    artifacts::apart(all.iter().map(|(path, _)| *path), read)?;
    artifacts::save(&all)?;
    let mut text = report.as_ref().map(|r| summary(r, a.compiling.model.as_path())).unwrap_or_default();
    for f in &files {
        text.push_str(&format!("wrote {} ({})\n", f.path.display(), bytes(f.bytes.len())));
    }
    text.push_str(&bits);
    setup::print(&text)
}

/// The widths that were chosen under a budget, and what they cost.
fn chosen(c: &Chosen, path: &Path) -> String {
    let rows =
        c.layers.iter().map(|l| vec![shortened(&l.layer, 44), l.width.clone(), bytes(l.bytes as usize), format!("{:.6}", l.loss_alone)]);
    let mut text = format!("{}\n", table(&["layer", "width", "weights", "loss alone"], &[2, 3], rows));
    let share = 100.0 * c.bytes.0 as f64 / c.bytes.1.max(1) as f64;
    text.push_str(&format!(
        "weights {} ({share:.0} % of 8 bits), loss {:.6}, drop {:.2} on the samples of the choice; {} assignments were judged\n",
        bytes(c.bytes.0 as usize),
        c.loss,
        c.drop,
        c.tried
    ));
    if let Some(ns) = c.predicted_ns {
        text.push_str(&format!("a run is predicted to take {:.1} us on this machine\n", ns / 1e3));
    }
    text.push_str(&format!("wrote {}; `--bits {}` compiles with it\n", path.display(), path.display()));
    text
}

fn summary(r: &Report, model: &Path) -> String {
    let integer: u64 = r.layers.iter().filter(|l| l.integer).map(|l| l.macs).sum();
    let share = if r.macs == 0 { 100.0 } else { 100.0 * integer as f64 / r.macs as f64 };
    let mut text = format!(
        "{}: {} MACs, {share:.0} % of them in integers, for {}\n  code {}, weights {}, arena {} (at least {}), stack {}\n",
        model.display(),
        count(r.macs),
        r.target,
        bytes(r.code_bytes),
        bytes(r.constant_bytes),
        bytes(r.arena_bytes),
        bytes(r.arena_lower_bound),
        bytes(r.stack_bytes),
    );
    const SHOWN: usize = 24;
    let rows = r
        .layers
        .iter()
        .filter(|l| l.macs > 0)
        .take(SHOWN)
        .map(|l| vec![shortened(&l.name, 44), l.kind.clone(), l.kernel.clone(), count(l.macs), bytes(l.weight_bytes)]);
    text.push_str(&table(&["layer", "operator", "kernel", "MACs", "weights"], &[3, 4], rows).to_string());
    text.push('\n');
    let hidden = r.layers.iter().filter(|l| l.macs > 0).count().saturating_sub(SHOWN);
    if hidden > 0 {
        text.push_str(&format!("and {hidden} more layers in the report\n"));
    }
    text
}
