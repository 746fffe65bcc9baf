use super::setup;
use crate::{args::Opt, messages::Messages, tables::table};
use quernel::{
    Failure, artifacts, inspect_ranges,
    passes::{PASSES, QuantizeOptions},
    read_text,
};
use std::{path::PathBuf, sync::Arc};

pub fn run(a: &Opt, messages: &Messages) -> Result<(), Failure> {
    if a.list {
        let rows = PASSES.iter().map(|(name, what)| vec![(*name).to_owned(), (*what).to_owned()]);
        return setup::print(&format!("{}\n", table(&["pass", "what it does"], &[], rows)));
    }
    let ranges = a.ranges.as_deref().map(inspect_ranges).transpose()?.map(Arc::new);
    let options = QuantizeOptions { ranges, ..QuantizeOptions::default() };
    if let Some(out) = a.output.as_deref().filter(|o| o.as_os_str() != "-") {
        artifacts::possible(out)?;
        let read: Vec<PathBuf> = std::iter::once(&a.file).chain(&a.ranges).cloned().collect();
        artifacts::apart([out], &read)?;
    }
    let text = read_text(&a.file)?;
    let (graph, remarks) = quernel::opt(&text, &a.passes, &options).map_err(|f| f.in_file(&a.file.display().to_string()))?;
    messages.remarks(&remarks, true);
    setup::graph(&graph, a.output.as_deref(), None)
}
