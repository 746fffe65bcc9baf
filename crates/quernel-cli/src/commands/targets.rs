use super::setup;
use crate::tables::table;
use quernel::{Failure, codegen};

pub fn run() -> Result<(), Failure> {
    let rows = codegen::targets().iter().map(|t| vec![t.triple.to_string(), t.cpu.to_string(), t.level.name().to_string(), t.note.to_string()]);
    setup::print(&format!("{}\n", table(&["triple", "CPU", "level", "what it implies"], &[], rows)))
}
