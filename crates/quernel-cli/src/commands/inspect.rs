use super::setup;
use crate::{
    args::Inspect,
    messages::Messages,
    tables::{bytes, one_line, table},
};
use quernel::{Failure, Model, ModelOptions, inspect_ranges, ir::text, read_text};
use std::collections::BTreeMap;

pub fn run(a: &Inspect, messages: &Messages) -> Result<(), Failure> {
    let suffix = a.file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let file = a.file.display().to_string();
    match suffix.as_str() {
        "json" => {
            let ranges = inspect_ranges(&a.file)?;
            let rows = ranges.tensors().map(|t| {
                let (min, max) = ranges.extremes(t).unwrap_or_default();
                vec![t.to_owned(), format!("{min}"), format!("{max}")]
            });
            setup::print(&format!("{} samples\n{}\n", ranges.samples(), table(&["tensor", "min", "max"], &[1, 2], rows)))
        }
        "qir" => {
            let g = text::parse(&read_text(&a.file)?).map_err(|d| d.in_file(&file))?;
            setup::print(&g.to_string())
        }
        _ => {
            let model = Model::read(
                &a.file,
                &ModelOptions { dims: a.dims.iter().cloned().collect(), pins: a.pins.iter().cloned().collect(), ..ModelOptions::default() },
            )?;
            messages.remarks(&model.imported.remarks, true);
            let g = &model.imported.graph;
            if a.qir {
                return setup::print(&g.to_string());
            }
            let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
            for &n in &g.order {
                *operators.entry(g.nodes[n].op.mnemonic()).or_default() += 1;
            }
            let weights: usize = g.live_consts().iter().map(|&(v, _)| g.ty(v).bytes()).sum();
            let mut text = format!(
                "{file}: opset {}, made by {}, {} operators, {} of constants\n",
                model.imported.opset,
                one_line(model.imported.producer.as_deref().unwrap_or("an unnamed program")),
                g.order.len(),
                bytes(weights)
            );
            for &v in &g.inputs {
                text.push_str(&format!("input  {}: {}\n", one_line(&g.values[v].name), g.ty(v)));
            }
            for (name, v) in &g.outputs {
                text.push_str(&format!("output {}: {}\n", one_line(name), g.ty(*v)));
            }
            let rows = operators.iter().map(|(op, n)| vec![(*op).to_owned(), n.to_string()]);
            text.push_str(&table(&["operator", "count"], &[1], rows).to_string());
            text.push('\n');
            setup::print(&text)
        }
    }
}
