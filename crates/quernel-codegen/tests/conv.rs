//! Convolutions on every level against the interpreter: tails of every extent, strides, dilations, groups, padding,
//! both signednesses, residuals, extreme sums, views with gaps.

mod common;

use common::{Case, Kind, Rng, agree, conv_program};
use quernel_ir::{
    op::WindowDim,
    program::{End, WeightLayout},
};

#[derive(Clone, Copy)]
enum Packing {
    Plain,
    Panels,
    Depthwise,
}

fn random(rng: &mut Rng, packing: Packing, float: bool) -> Case {
    let pad = rng.below(4) == 0;
    let dim = |rng: &mut Rng, kernel: usize| WindowDim {
        kernel,
        stride: rng.range(1, 2) as usize,
        dilation: rng.range(1, 2) as usize,
        before: if pad { rng.below(2) } else { 0 },
        after: if pad { rng.below(2) } else { 0 },
    };
    let kernels = rng.pick(&[(1, 1), (1, 1), (3, 3), (2, 3), (5, 1), (1, 4)]);
    let mut window = [dim(rng, kernels.0), dim(rng, kernels.1)];
    let groups = if rng.below(4) == 0 { 2 } else { 1 };
    let (i, o) = (rng.range(1, 45) as usize, rng.range(1, 37) as usize * groups);
    let (groups, i, o) = if matches!(packing, Packing::Depthwise) { (o, 1, o) } else { (groups, i, o) };
    let contiguous = groups == 1 && rng.below(2) == 0;
    if contiguous {
        window[1].dilation = 1;
    }
    let bounds = rng.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 6.0)]);
    let out_signed = rng.below(2) == 0;
    let (lo, hi) = if out_signed { (-128, 127) } else { (0, 255) };
    let end = match rng.below(3) {
        0 => End::Float { lo: bounds.0, hi: bounds.1 },
        1 => End::Requantize { zero: rng.range(lo, hi), lo, hi, signed: out_signed },
        _ => End::Requantize { zero: lo, lo, hi: hi - 40, signed: out_signed },
    };
    let signed = rng.below(3) == 0;
    let zero = if signed { rng.range(-128, 127) } else { rng.range(0, 255) };
    let int = Kind::Int { signed, zero, residual_signed: rng.below(2) == 0, end, extreme: rng.below(8) == 0 };
    Case {
        n: rng.range(1, 2) as usize,
        h: window[0].span() + rng.below(5),
        w: window[1].span() + rng.below(10),
        i,
        o,
        groups,
        window,
        layout: match packing {
            Packing::Plain => WeightLayout::Plain,
            Packing::Panels => WeightLayout::Panels { contiguous, depth: if float { 1 } else { 4 } },
            Packing::Depthwise => WeightLayout::Depthwise,
        },
        residual: rng.below(3) == 0,
        gap: if contiguous { 0 } else { rng.pick(&[0, 0, 3, 5]) },
        kind: if float { Kind::Float { lo: bounds.0, hi: bounds.1 } } else { int },
    }
}

fn many(packing: Packing, float: bool, cases: usize) {
    let mut rng = Rng(cases as u64);
    for _ in 0..cases {
        let case = random(&mut rng, packing, float);
        let (program, inputs) = conv_program(&case, &mut rng);
        agree(&case, &program, &inputs);
    }
}

#[test]
fn plain_convolutions() {
    many(Packing::Plain, false, 60);
}

#[test]
fn panel_convolutions() {
    many(Packing::Panels, false, 250);
}

#[test]
fn depthwise_convolutions() {
    many(Packing::Depthwise, false, 150);
}

#[test]
fn plain_float_convolutions() {
    many(Packing::Plain, true, 40);
}

#[test]
fn panel_float_convolutions() {
    many(Packing::Panels, true, 120);
}

#[test]
fn depthwise_float_convolutions() {
    many(Packing::Depthwise, true, 80);
}
