//! Random networks on other machines.

use crate::{Network, Place, program, run};
use quernel::{
    Compiled,
    codegen::Target,
    interp,
    ir::{Graph, Program, Stage, Tensor, text},
};
use quernel_fuzz::{differential, lowered, shrink, wild_inputs};
use std::path::Path;

/// So many networks that can be compiled, of seeds that follow one another.
pub fn networks(seed: u64, count: u64) -> Vec<Network> {
    let first = seed.wrapping_mul(1 << 32);
    let (mut all, mut tried) = (Vec::new(), 0);
    while all.len() < count as usize && tried < 2 * count {
        let seed = first.wrapping_add(tried);
        all.extend(network(seed, differential::graph(seed).1));
        tried += 1;
    }
    eprintln!("{} random networks of {tried} seeds", all.len());
    all
}

/// A graph with ordinary inputs under an even seed, with every kind of float under an odd one; `None` when it cannot be lowered.
fn network(seed: u64, graph: Graph) -> Option<Network> {
    let [in_place, apart]: [Program; 2] = lowered(&graph).ok()?.try_into().ok()?;
    let program = if seed % 4 < 2 { in_place } else { apart };
    let inputs = if seed.is_multiple_of(2) { quernel_test::inputs(&graph, seed) } else { wild_inputs(&graph, seed) };
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|t: &Tensor| t.bytes().to_vec()).collect();
    let outputs = interp::run_program(&program, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>()).ok()?;
    let want = program::hash(program.outputs.iter().map(|p| &p.ty).zip(outputs.iter().map(Vec::as_slice)));
    let compiled = Compiled {
        name: format!("g{seed}"),
        file: format!("graph-{seed}"),
        model_hash: 0,
        target: Target::default(),
        level: None,
        stage: Stage::Lowered,
        graph,
        folded: None,
        program: Some(program),
        layers: Vec::new(),
        ranges: None,
        chosen: None,
        remarks: Vec::new(),
        timings: Vec::new(),
        prints: Vec::new(),
    };
    Some(Network { label: format!("the random network of seed {seed}"), compiled, inputs, want, graph: Some(seed) })
}

/// Writes a random network that differs at a place, as small as it still does, and says where.
pub fn shrunk(place: &Place, n: &Network) -> String {
    let Some(seed) = n.graph else { return String::new() };
    let differs = |g: &Graph| network(seed, g.clone()).is_some_and(|n| run(place, std::slice::from_ref(&n)).is_ok_and(|h| h != [n.want]));
    let small = shrink(&n.compiled.graph, &differs);
    let path = Path::new("target/fuzz").join(format!("{}-{seed}.qir", place.name));
    let written = std::fs::create_dir_all("target/fuzz").and_then(|()| std::fs::write(&path, text::print_full(&small)));
    written.map_or_else(|e| format!(" ({e})"), |()| format!("; its smallest form is in {}", path.display()))
}
