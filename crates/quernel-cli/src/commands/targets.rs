use super::setup;
use crate::tables::table;
use quernel::{Failure, codegen};

pub fn run() -> Result<(), Failure> {
    let rows = codegen::targets()
        .iter()
        .flat_map(|t| t.cpus.iter().map(|cpu| vec![t.triple.to_string(), cpu.name.to_string(), cpu.extensions.join(" ")]));
    setup::print(&format!("{}\n", table(&["triple", "CPU", "extensions it implies"], &[], rows)))
}
