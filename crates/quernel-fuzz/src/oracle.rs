//! What must hold of every answer.

use quernel::{
    codegen::{Jit, Level},
    interp,
    ir::{Class, Code, Diagnostic, Graph, Op, Program, Stage, Tensor, text, verify},
    lower,
};
use quernel_test::Rng;

/// Work, in multiply-accumulates and elements, above which a network is not executed.
pub const MOST_WORK: f64 = 2e7;

/// Panics unless the diagnostics are what a user is owed: at least one, none of them a bug, each with a place.
pub fn refused(all: &[Diagnostic]) {
    assert!(!all.is_empty(), "refused without a reason");
    for d in all {
        assert!(d.code != Code::Internal, "an internal error: {d}");
        assert!(d.location.file.is_some() || d.location.place.is_some(), "no place: {d}");
        assert!(!d.message.is_empty(), "no message: {}", d.code);
    }
}

/// A graph that an importer or a pass made: it is sound at its stage, and its text is read back as it was written.
pub fn sound(g: &Graph, stage: Stage) {
    if let Err(faults) = verify(g, stage) {
        panic!("unsound at {stage:?}: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    let constants: usize = g.live_consts().iter().map(|(_, c)| g.consts[*c].tensor.bytes().len()).sum();
    if constants < 1 << 16 && g.order.len() < 200 {
        reads_back(g);
    }
}

/// The text of a graph parses to the same text.
pub fn reads_back(g: &Graph) {
    let whole = text::print_full(g);
    let read = text::parse(&whole).unwrap_or_else(|d| panic!("{d}\n{whole}"));
    assert!(text::print_full(&read) == whole, "reads back as another graph\n{whole}");
}

/// About how much there is to compute.
pub fn work(g: &Graph) -> f64 {
    let count = |v| g.ty(v).dims.iter().map(|d| *d as f64).product::<f64>();
    let node = |&n| {
        let data = &g.nodes[n];
        let result = count(data.result());
        let taps = match &data.op {
            Op::Conv { .. } | Op::Dense { .. } => count(data.args[1]) / g.ty(data.args[1]).dims.first().map_or(1.0, |d| (*d).max(1) as f64),
            Op::MatMul { .. } => g.ty(data.args[0]).dims.last().map_or(1.0, |d| *d as f64),
            Op::Pool { window, .. } => window.dims.iter().map(|d| d.kernel as f64).product(),
            _ => 1.0,
        };
        result * taps + data.args.iter().map(|&v| count(v)).sum::<f64>()
    };
    g.order.iter().map(node).sum()
}

/// Whether two results are equal: byte for byte, but for the bits of a NaN that an operation made, which are nobody's
/// promise. Returns where they differ.
pub fn difference(float: bool, a: &[u8], b: &[u8]) -> Option<usize> {
    let nan = |x: &[u8], i: usize| {
        let at = i / 4 * 4;
        x.get(at..at + 4).is_some_and(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]).is_nan())
    };
    if a.len() != b.len() {
        return Some(a.len().min(b.len()));
    }
    (0..a.len()).find(|&i| a[i] != b[i] && !(float && nan(a, i) && nan(b, i)))
}

/// Inputs with what floats can be: infinities, no number, subnormal, huge, halves, among ordinary ones. Integers and
/// bytes are anything their type holds.
pub fn wild_inputs(g: &Graph, seed: u64) -> Vec<Tensor> {
    let rng = &mut Rng::new(!seed);
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-42];
    let mut float = || match rng.below(12) {
        0 => rng.pick(&special),
        1 => f32::from_bits(rng.next() as u32),
        2 | 3 => rng.range(-600, 600) as f32 / 2.0,
        _ => rng.real(-3.0, 3.0),
    };
    let ordinary = quernel_test::inputs(g, seed);
    let one = |t: Tensor| match t.ty.elem.is_f32() {
        true => Tensor::f32(t.ty.dims.clone(), &(0..t.ty.count()).map(|_| float()).collect::<Vec<f32>>()),
        false => t,
    };
    ordinary.into_iter().map(one).collect()
}

/// Why executions of a network are not the same.
#[derive(Debug)]
pub enum Fault {
    /// What differs, or which execution failed.
    Differs(String),
    /// There is no code for a form of an operator.
    NoCode(Code),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Differs(why)
    }
}

/// The interpreters of the graph and of its program give the same bytes, which are returned for each set of inputs.
pub fn interpreters_agree(g: &Graph, program: &Program, all: &[Vec<Tensor>]) -> Result<Vec<Vec<Vec<u8>>>, String> {
    interp::verify_program(program).map_err(|f| format!("the program is unsound: {f:?}"))?;
    let mut want = Vec::new();
    for inputs in all {
        let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
        let graph = interp::run_graph(g, inputs).map_err(|d| format!("the graph: {d}"))?;
        let lowered = interp::run_program(program, &bytes).map_err(|d| format!("the program: {d}"))?;
        let graph: Vec<Vec<u8>> = graph.iter().map(|t| t.bytes().to_vec()).collect();
        same(program, &graph, &lowered).map_err(|d| format!("graph and program: {d}"))?;
        want.push(lowered);
    }
    Ok(want)
}

/// Every way to execute a lowered network gives the bytes of its graph.
pub fn executions_agree(g: &Graph, program: &Program, all: &[Vec<Tensor>]) -> Result<(), Fault> {
    let want = interpreters_agree(g, program, all)?;
    for level in Level::host() {
        let options = quernel::codegen::Options { level: Some(level), ..Default::default() };
        let mut jit = match Jit::new(program, &options) {
            Ok(jit) => jit,
            Err(d) if d.code.class() == Class::Unsupported => return Err(Fault::NoCode(d.code)),
            Err(d) => return Err(Fault::Differs(format!("level {}: {d}", level.name()))),
        };
        for (inputs, want) in all.iter().zip(&want) {
            let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
            let got = jit.run(&bytes).map_err(|d| format!("level {}: {d}", level.name()))?;
            same(program, want, &got).map_err(|d| format!("interpreter and level {}: {d}", level.name()))?;
        }
    }
    Ok(())
}

fn same(program: &Program, a: &[Vec<u8>], b: &[Vec<u8>]) -> Result<(), String> {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        if let Some(at) = difference(program.outputs[i].ty.elem.is_f32(), a, b) {
            return Err(format!("output {i} differs in byte {at}: {:?} and {:?}", a.get(at), b.get(at)));
        }
    }
    Ok(())
}

/// Lowers a graph at stage `Quantized` both ways.
pub fn lowered(g: &Graph) -> Result<Vec<Program>, Vec<Diagnostic>> {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("unsound: {f:?}\n{g}"));
    // The second in strips wherever that is possible: random networks are too small for it to pay.
    let options = [lower::Options::default(), lower::Options { in_place: false, strips: Some(lower::Strips::forced(0)) }];
    options.iter().map(|options| Ok(lower::lower(&proof, options)?.program)).collect()
}
