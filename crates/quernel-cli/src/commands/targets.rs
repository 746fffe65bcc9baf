use super::setup;
use crate::tables::table;
use quernel::{Failure, codegen};

pub fn run() -> Result<(), Failure> {
    let rows =
        codegen::targets().iter().flat_map(|t| t.cpus.iter().map(|cpu| vec![t.triple.to_string(), cpu.name.to_string(), extensions(cpu)]));
    setup::print(&format!("{}\n", table(&["triple", "CPU", "extensions it implies"], &[], rows)))
}

fn extensions(cpu: &codegen::Cpu) -> String {
    if cpu.name == "multi" { format!("selected at run time: {}", codegen::VARIANTS.join(", ")) } else { cpu.extensions.join(" ") }
}
