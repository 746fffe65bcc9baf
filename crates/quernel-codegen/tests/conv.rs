//! Integer convolutions on every level against a direct reference, byte for byte.

mod common;

use common::{Case, Rng, conv_program};
use quernel_codegen::{Jit, Level, Options, Target};
use quernel_ir::{
    op::WindowDim,
    program::{End, WeightLayout},
};

fn levels() -> Vec<Level> {
    let best = Target::host().unwrap().level();
    Level::ALL.into_iter().filter(|&l| l <= best).collect()
}

fn check(case: &Case, rng: &mut Rng) {
    let made = conv_program(case, rng);
    let inputs: Vec<&[u8]> = made.inputs.iter().map(Vec::as_slice).collect();
    for level in levels() {
        let options = Options { level: Some(level), ..Options::default() };
        let mut jit = Jit::new(&made.program, &options).unwrap_or_else(|e| panic!("{level:?} {case:?}: {e}"));
        let got = jit.run(&inputs).unwrap();
        if let Some(i) = (0..made.expected.len()).find(|&i| got[0][i] != made.expected[i]) {
            panic!("{level:?} {case:?}: byte {i} is {} instead of {}", got[0][i], made.expected[i]);
        }
    }
}

fn random(rng: &mut Rng, layout: u32) -> Case {
    let dim = |rng: &mut Rng, kernel: usize, pad: bool| WindowDim {
        kernel,
        stride: rng.range(1, 2) as usize,
        dilation: rng.range(1, 2) as usize,
        before: if pad { rng.below(2) } else { 0 },
        after: if pad { rng.below(2) } else { 0 },
    };
    let pad = rng.below(4) == 0;
    let kernels = rng.pick(&[(1, 1), (1, 1), (3, 3), (2, 3), (5, 1), (1, 4)]);
    let mut window = [dim(rng, kernels.0, pad), dim(rng, kernels.1, pad)];
    let groups = if rng.below(4) == 0 { 2 } else { 1 };
    let (i, o) = (rng.range(1, 21) as usize, rng.range(1, 37) as usize * groups);
    let (groups, i, o) = if layout == 2 { (o, 1, o) } else { (groups, i, o) };
    let contiguous = groups == 1 && rng.below(2) == 0;
    if contiguous {
        window[1].dilation = 1;
    }
    let signed = rng.below(3) == 0;
    let out_signed = rng.below(2) == 0;
    let (lo, hi) = if out_signed { (-128, 127) } else { (0, 255) };
    let end = match rng.below(4) {
        0 => End::Float { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
        1 => End::Float { lo: 0.0, hi: 6.0 },
        2 => End::Requantize { zero: rng.range(lo, hi), lo, hi, signed: out_signed },
        _ => End::Requantize { zero: lo, lo, hi: hi - 40, signed: out_signed },
    };
    Case {
        n: rng.range(1, 2) as usize,
        h: rng.range(window[0].span() as i32, window[0].span() as i32 + 4) as usize,
        w: rng.range(window[1].span() as i32, window[1].span() as i32 + 9) as usize,
        i,
        o,
        groups,
        window,
        layout: match layout {
            0 => WeightLayout::Plain,
            1 => WeightLayout::Panels { contiguous, depth: 4 },
            _ => WeightLayout::Depthwise,
        },
        signed,
        zero: if signed { rng.range(-128, 127) } else { rng.range(0, 255) },
        residual: if rng.below(3) == 0 { Some(rng.below(2) == 0) } else { None },
        end,
        gap: if contiguous { 0 } else { rng.pick(&[0, 0, 3, 5]) },
        extreme: rng.below(8) == 0,
    }
}

fn many(layout: u32, cases: usize, seed: u64) {
    let mut rng = Rng(seed);
    for _ in 0..cases {
        let case = random(&mut rng, layout);
        check(&case, &mut rng);
    }
}

#[test]
fn plain_convolutions() {
    many(0, 60, 1);
}

#[test]
fn panel_convolutions() {
    many(1, 200, 2);
}

#[test]
fn depthwise_convolutions() {
    many(2, 120, 3);
}
