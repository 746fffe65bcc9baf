//! Single kernels on every level of this machine: `cargo bench -p quernel-codegen [-- FILTER]`. Items are
//! multiply-accumulates for layers, so Gitem/s are GMAC/s.

#[path = "../../tests/common/mod.rs"]
mod common;
mod steps;

use common::{Case, Kind, Operand, Rng, conv_program, step_program};
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use quernel_codegen::{Jit, Level, Options};
use quernel_ir::{
    op::WindowDim,
    program::{Base, End, Program, WeightLayout},
};

fn main() {
    divan::main();
}

/// A benchmark's name and level.
struct Run {
    name: &'static str,
    level: Level,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.name, self.level.name())
    }
}

fn on_all_levels(names: impl Iterator<Item = &'static str>, least: Level) -> Vec<Run> {
    let levels = || Level::host().into_iter().filter(move |l| *l >= least);
    names.flat_map(|name| levels().map(move |level| Run { name, level })).collect()
}

/// Name, side, channels in and out, kernel, stride, residual, depthwise.
type Shape = (&'static str, usize, usize, usize, usize, usize, bool, bool);

const LAYERS: &[Shape] = &[
    ("1x1 56x56 64>256", 56, 64, 256, 1, 1, false, false),
    ("1x1 28x28 128>512 residual", 28, 128, 512, 1, 1, true, false),
    ("1x1 14x14 1024>256", 14, 1024, 256, 1, 1, false, false),
    ("1x1 14x14 96>576", 14, 96, 576, 1, 1, false, false),
    ("1x1 56x56 24>144", 56, 24, 144, 1, 1, false, false),
    ("1x1 56x56 96>24", 56, 96, 24, 1, 1, false, false),
    ("1x1 112x112 16>96", 112, 16, 96, 1, 1, false, false),
    ("3x3 56x56 64>64", 58, 64, 64, 3, 1, false, false),
    ("3x3 14x14 256>256", 16, 256, 256, 3, 1, false, false),
    ("7x7 s2 224 3>64", 230, 3, 64, 7, 2, false, false),
    ("3x3 s2 96 3>8", 97, 3, 8, 3, 2, false, false),
    ("fc 2048>1000", 1, 2048, 1000, 1, 1, false, false),
    ("dw 3x3 28x28 192", 30, 192, 192, 3, 1, false, true),
    ("dw 3x3 s2 56x56 144", 57, 144, 144, 3, 2, false, true),
    ("dw 3x3 48x48 8", 50, 8, 8, 3, 1, false, true),
    ("dw 5x5 28x28 120", 32, 120, 120, 5, 1, false, true),
    ("dw 5x5 s2 28x28 240", 31, 240, 240, 5, 2, false, true),
];

fn layer(shape: &Shape, float: bool) -> (Program, Vec<Vec<u8>>) {
    let &(_, side, i, o, kernel, stride, residual, depthwise) = shape;
    let dim = WindowDim { kernel, stride, dilation: 1, before: 0, after: 0 };
    let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let int = Kind::Int { words: false, signed: false, zero: 0, residual_signed: false, end, extreme: false };
    let case = Case {
        n: 1,
        h: side,
        w: side,
        i: if depthwise { 1 } else { i },
        o,
        groups: if depthwise { o } else { 1 },
        window: [dim, dim],
        layout: match depthwise {
            true => WeightLayout::Depthwise,
            false => WeightLayout::Panels { contiguous: true, depth: if float { 1 } else { 4 } },
        },
        residual,
        gap: 0,
        kind: if float { Kind::Float { lo: 0.0, hi: f32::INFINITY } } else { int },
    };
    conv_program(&case, &mut Rng(7))
}

/// A cache line.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Bytes(#[allow(dead_code)] [u8; 64]);

/// Times the last step but one of a program, its operands in the arena.
fn time(bencher: Bencher, (program, inputs): (Program, Vec<Vec<u8>>), level: Level, bytes: Option<usize>) {
    let step = program.steps[program.steps.len() - 2].clone();
    let macs = step.what.macs();
    let mut arena = vec![Bytes([0; 64]); program.arena_bytes / 64 + 2];
    for (slot, input) in step.reads.iter().filter(|s| s.base == Base::Arena).zip(&inputs) {
        // SAFETY: the slot lies inside the arena and has the input's length.
        unsafe { std::ptr::copy_nonoverlapping(input.as_ptr(), arena.as_mut_ptr().cast::<u8>().add(slot.offset), input.len()) };
    }
    let program = Program { name: "step".into(), steps: vec![step], inputs: Vec::new(), outputs: Vec::new(), ..program };
    let options = Options { level: Some(level), ..Options::default() };
    let Ok(jit) = Jit::new(&program, &options) else { return };
    let arena = arena.as_mut_ptr().cast::<u8>();
    // SAFETY: no ports, and the arena has the program's length and alignment.
    let run = || unsafe { jit.run_at([].as_ptr(), [].as_ptr(), arena) };
    match bytes {
        Some(bytes) => bencher.counter(BytesCount::new(bytes)).bench_local(run),
        None => bencher.counter(ItemsCount::new(macs as usize)).bench_local(run),
    }
}

#[divan::bench(args = on_all_levels(LAYERS.iter().map(|l| l.0), Level::V128), max_time = 0.1)]
fn layers(bencher: Bencher, run: &Run) {
    let Some(shape) = LAYERS.iter().find(|l| l.0 == run.name) else { return };
    time(bencher, layer(shape, false), run.level, None);
}

/// Levels differ in integers only.
fn once(run: &Run) -> bool {
    run.level == Level::V128
}

#[divan::bench(args = on_all_levels(LAYERS.iter().map(|l| l.0), Level::V128).into_iter().filter(once), max_time = 0.1)]
fn float_layers(bencher: Bencher, run: &Run) {
    let Some(shape) = LAYERS.iter().find(|l| l.0 == run.name) else { return };
    time(bencher, layer(shape, true), run.level, None);
}

#[divan::bench(args = on_all_levels(steps::lines(&mut Rng(3)).into_iter().map(|l| l.name), Level::V128), max_time = 0.1)]
fn other_steps(bencher: Bencher, run: &Run) {
    let Some(line) = steps::lines(&mut Rng(3)).into_iter().find(|l| l.name == run.name) else { return };
    let data = |o: &Operand| if let Operand::Data(d) = o { d.len() } else { 0 };
    let bytes = line.result + line.operands.iter().map(data).sum::<usize>();
    time(bencher, step_program(line.what, line.operands, line.result, line.float, false), run.level, Some(bytes));
}
