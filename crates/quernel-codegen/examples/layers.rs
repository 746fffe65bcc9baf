//! Times single convolutions in process: `cargo run --release -p quernel-codegen --example layers [filter]`.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Case, Kind, Rng, conv_program};
use quernel_codegen::{Jit, Level, Options, Target};
use quernel_ir::{
    op::WindowDim,
    program::{End, WeightLayout},
};
use std::time::Instant;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    // Name, extent, channels in and out, kernel, stride, residual, depthwise.
    #[allow(clippy::type_complexity)]
    let shapes: &[(&str, usize, usize, usize, usize, usize, bool, bool)] = &[
        ("1x1 56x56 64>256", 56, 64, 256, 1, 1, false, false),
        ("1x1 28x28 128>512 residual", 28, 128, 512, 1, 1, true, false),
        ("1x1 14x14 1024>256", 14, 1024, 256, 1, 1, false, false),
        ("1x1 14x14 96>576", 14, 96, 576, 1, 1, false, false),
        ("1x1 56x56 24>144", 56, 24, 144, 1, 1, false, false),
        ("3x3 56x56 64>64", 58, 64, 64, 3, 1, false, false),
        ("3x3 14x14 256>256", 16, 256, 256, 3, 1, false, false),
        ("7x7 s2 224 3>64", 230, 3, 64, 7, 2, false, false),
        ("fc 2048>1000", 1, 2048, 1000, 1, 1, false, false),
        ("dw 3x3 28x28 192", 30, 192, 192, 3, 1, false, true),
        ("dw 3x3 s2 56x56 144", 57, 144, 144, 3, 2, false, true),
    ];
    let host = Target::host().expect("a supported host");
    println!("{:<30} {:>10} {:>12} {:>10} {:>10}", "layer", "level", "GMAC/s", "us", "compile ms");
    for &(name, size, i, o, k, stride, residual, depthwise) in shapes {
        if !name.contains(&filter) {
            continue;
        }
        let dim = WindowDim { kernel: k, stride, dilation: 1, before: 0, after: 0 };
        let case = Case {
            n: 1,
            h: size,
            w: size,
            i: if depthwise { 1 } else { i },
            o,
            groups: if depthwise { o } else { 1 },
            window: [dim, dim],
            layout: if depthwise { WeightLayout::Depthwise } else { WeightLayout::Panels { contiguous: true, depth: 4 } },
            residual,
            gap: 0,
            kind: Kind::Int {
                signed: false,
                zero: 0,
                residual_signed: false,
                end: End::Requantize { zero: 0, lo: 0, hi: 255, signed: false },
                extreme: false,
            },
        };
        let (program, bytes) = conv_program(&case, &mut Rng(7));
        let inputs: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let index = program.steps.len() - 2;
        let macs = program.steps[index].what.macs() as f64;
        let expected = quernel_interp::run_program(&program, &inputs).expect("a valid program");
        for level in Level::ALL.into_iter().filter(|&l| l <= host.level()) {
            let options = Options { level: Some(level), ..Options::default() };
            let start = Instant::now();
            let mut jit = Jit::new(&program, &options).expect("compiles");
            let compile = start.elapsed();
            assert!(jit.run(&inputs).expect("runs") == expected, "{name} {level:?}: wrong result");
            let rounds = if level == Level::Scalar { 3 } else { 30 };
            let best = (0..rounds).map(|_| jit.run_timed(&inputs).expect("runs")[index]).min().unwrap_or(1);
            println!(
                "{name:<30} {:>10} {:>12.1} {:>10.1} {:>10.1}",
                level.name(),
                macs / best as f64,
                best as f64 / 1e3,
                compile.as_secs_f64() * 1e3
            );
        }
    }
}
