//! Convolutions on every level against the interpreter: tails of every extent, strides, dilations, groups, padding,
//! both signednesses, residuals, extreme sums, views with gaps.

use crate::common::{Case, Kind, Rng, agree, conv_program, twice};
use quernel_codegen::{Options, Target, object};
use quernel_ir::{
    op::WindowDim,
    program::{End, Program, WeightLayout},
};
use std::collections::BTreeSet;

#[derive(Clone, Copy)]
enum Packing {
    Plain,
    Panels,
    Depthwise,
}

/// What is convolved.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Bytes,
    Words,
    Floats,
}

fn random(rng: &mut Rng, packing: Packing, of: Of) -> Case {
    let (words, float) = (of == Of::Words, of == Of::Floats);
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
    let range = |signed: bool| match (signed, words) {
        (true, false) => (-128, 127),
        (false, false) => (0, 255),
        (true, true) => (-32768, 32767),
        (false, true) => (0, 65535),
    };
    let (lo, hi) = range(out_signed);
    let end = match rng.below(3) {
        0 => End::Float { lo: bounds.0, hi: bounds.1 },
        1 => End::Requantize { zero: rng.range(lo, hi), lo, hi, signed: out_signed },
        _ => End::Requantize { zero: lo, lo, hi: hi - 40, signed: out_signed },
    };
    let signed = rng.below(3) == 0;
    let zero = rng.range(range(signed).0, range(signed).1);
    let int = Kind::Int { words, signed, zero, residual_signed: rng.below(2) == 0, end, extreme: rng.below(8) == 0 };
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
            Packing::Panels => WeightLayout::Panels { contiguous, depth: if float { 1 } else { if words { 2 } else { 4 } } },
            Packing::Depthwise => WeightLayout::Depthwise,
        },
        residual: rng.below(3) == 0,
        gap: if contiguous { 0 } else { rng.pick(&[0, 0, 3, 5]) },
        kind: if float { Kind::Float { lo: bounds.0, hi: bounds.1 } } else { int },
    }
}

fn many(packing: Packing, of: Of, cases: usize) {
    let mut rng = Rng(cases as u64);
    for number in 0..cases {
        let case = random(&mut rng, packing, of);
        let (mut program, inputs) = conv_program(&case, &mut rng);
        if number % 4 == 0 {
            twice(&mut program);
        }
        agree(&case, &program, &inputs);
    }
}

/// Layers of real networks and their neighbours: channel counts around whole vectors and panels, every kernel and
/// stride in use, residuals, both ends.
fn layer(rng: &mut Rng) -> Case {
    let channels = [1, 3, 4, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 128, 130, 144, 192, 256, 320];
    let depthwise = rng.below(4) == 0;
    let (kernel, stride) = rng.pick(&[(1, 1), (1, 1), (1, 2), (3, 1), (3, 1), (3, 2), (5, 2), (7, 2)]);
    let (kernel, stride) = if depthwise { (rng.pick(&[3, 5]), rng.range(1, 2) as usize) } else { (kernel, stride) };
    let pad = if rng.below(6) == 0 { kernel / 2 } else { 0 };
    let dim = WindowDim { kernel, stride, dilation: 1, before: pad, after: pad };
    // Few channels have a form of their own.
    let o = if depthwise && rng.below(2) == 0 { rng.pick(&[8, 16]) } else { rng.pick(&channels) };
    let i = if depthwise {
        1
    } else {
        let most = if kernel > 3 { 8 } else { channels.len() };
        rng.pick(&channels[..most])
    };
    let most = if i * o * kernel * kernel > 100_000 { 3 } else { 17 };
    let spatial = |rng: &mut Rng| kernel + stride * rng.below(most);
    let (h, w) = if kernel == 1 && rng.below(3) == 0 { (1, 1) } else { (spatial(rng), spatial(rng)) };
    let out_signed = rng.below(4) == 0;
    let (lo, hi) = if out_signed { (-128, 127) } else { (0, 255) };
    let end = match rng.below(8) {
        0 | 1 => {
            let (lo, hi) = rng.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 6.0)]);
            End::Float { lo, hi }
        }
        2 => End::Requantize { zero: rng.range(lo, hi), lo: lo + 3, hi: hi - 40, signed: out_signed },
        3 | 4 => End::Requantize { zero: rng.range(lo, hi), lo, hi, signed: out_signed },
        _ => End::Requantize { zero: 0, lo: 0, hi: 255, signed: false },
    };
    let signed = rng.below(8) == 0;
    let zero = if signed { rng.range(-128, 127) } else { rng.range(0, 255) };
    let contiguous = kernel > 1 || rng.below(2) == 0;
    Case {
        n: if rng.below(4) == 0 { 2 } else { 1 },
        h,
        w,
        i,
        o,
        groups: if depthwise { o } else { 1 },
        window: [dim, dim],
        layout: if depthwise { WeightLayout::Depthwise } else { WeightLayout::Panels { contiguous, depth: 4 } },
        residual: !depthwise && rng.below(3) == 0,
        gap: if contiguous && kernel > 1 && !depthwise { 0 } else { rng.pick(&[0, 0, 0, 16, 7]) },
        kind: Kind::Int { words: false, signed, zero, residual_signed: rng.below(2) == 0, end, extreme: rng.below(10) == 0 },
    }
}

/// Number of cases; `QUERNEL_CASES` asks for more.
fn cases(default: usize) -> usize {
    std::env::var("QUERNEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The leaf kernel that the step of a case gets on the best CPU.
fn leaf(program: &Program) -> String {
    let target = Target::parse(Some("x86_64-unknown-linux-gnu"), Some("znver4")).unwrap();
    let made = object(program, &target, &Options::default()).unwrap();
    made.functions.into_iter().find(|f| !f.kernel.is_empty()).map_or(String::new(), |f| f.kernel)
}

#[test]
fn layers_of_real_sizes() {
    let mut rng = Rng(77);
    let (mut panels, mut depthwise) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..cases(300) {
        let case = layer(&mut rng);
        let (program, inputs) = conv_program(&case, &mut rng);
        agree(&case, &program, &inputs);
        let kernel = leaf(&program);
        if kernel.starts_with("conv") { &mut panels } else { &mut depthwise }.insert(kernel);
    }
    // Tiles of many forms, and depthwise layers inside and outside of the leaves' contracts.
    assert!(panels.len() >= 20 && depthwise.len() >= 5 && depthwise.contains(""), "{panels:?} {depthwise:?}");
    println!("{panels:?} {depthwise:?}");
}

/// Layers whose blocks are of both kinds, in several chunks and kernel rows, the last panel not full.
#[test]
fn layers_with_saturating_blocks() {
    let mut rng = Rng(31);
    for (kernel, i, o) in [(1, 260, 24), (3, 96, 40), (3, 80, 16), (1, 600, 17)] {
        for residual in [false, true] {
            let dim = WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 };
            let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
            let case = Case {
                n: 1,
                h: kernel + 1,
                w: kernel + 4,
                i,
                o,
                groups: 1,
                window: [dim, dim],
                layout: WeightLayout::Panels { contiguous: true, depth: 4 },
                residual,
                gap: 0,
                kind: Kind::Int { words: false, signed: false, zero: 3, residual_signed: false, end, extreme: false },
            };
            let mixed = (0..64).find_map(|_| {
                let (program, inputs) = conv_program(&case, &mut rng);
                let haswell = Target::parse(Some("x86_64-unknown-linux-gnu"), Some("haswell")).unwrap();
                let made = object(&program, &haswell, &Options::default()).unwrap();
                made.functions.iter().any(|f| f.kernel.ends_with("__avx2_mixed")).then_some((program, inputs))
            });
            let (program, inputs) = mixed.expect("weights that are mostly small");
            agree(&case, &program, &inputs);
        }
    }
}

/// Layers whose operands AVX2 widens in several strips, in tiles of fewer pixels, or not at all because they are too large; with
/// blocks of both kinds, a residual, floats, several images.
#[test]
fn strips_of_every_kind() {
    let mut rng = Rng(47);
    let byte = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let other = End::Requantize { zero: 7, lo: -128, hi: 100, signed: true };
    let float = End::Float { lo: 0.0, hi: 6.0 };
    // Kernel, height and width of the result, channels; ends.
    let shapes = [
        ((1, 2), (1, 300), (96, 40), [byte, float]),
        ((1, 1), (17, 20), (96, 24), [byte, other]),
        ((3, 1), (2, 11), (896, 16), [byte, float]),
        ((3, 2), (1, 40), (64, 24), [other, float]),
        ((7, 1), (1, 4), (512, 17), [byte, byte]),
        ((5, 1), (2, 90), (12, 8), [byte, other]),
    ];
    let mut kernels = BTreeSet::new();
    for ((kernel, stride), (h, w), (i, o), ends) in shapes {
        let dim = WindowDim { kernel, stride, dilation: 1, before: 0, after: 0 };
        for (number, end) in ends.into_iter().enumerate() {
            let case = Case {
                n: 1 + number,
                h: (h - 1) * stride + kernel,
                w: (w - 1) * stride + kernel,
                i,
                o,
                groups: 1,
                window: [dim, dim],
                layout: WeightLayout::Panels { contiguous: kernel > 1, depth: 4 },
                residual: number == 0,
                gap: 0,
                kind: Kind::Int { words: false, signed: false, zero: 3, residual_signed: true, end, extreme: false },
            };
            for _ in 0..3 {
                let (program, inputs) = conv_program(&case, &mut rng);
                agree(&case, &program, &inputs);
                let haswell = Target::parse(Some("x86_64-unknown-linux-gnu"), Some("haswell")).unwrap();
                let made = object(&program, &haswell, &Options::default()).unwrap();
                kernels.extend(made.functions.into_iter().map(|f| f.kernel).filter(|k| k.starts_with("conv")));
            }
        }
    }
    for form in ["conv_u8s8_6x16__avx2_widened", "conv_u8s8_4x16__avx2_widened", "conv_u8s8_6x16__avx2_mixed", "__avx2"] {
        assert!(kernels.iter().any(|k| k.ends_with(form)), "{form}: {kernels:?}");
    }
}

/// Depthwise layers over every tail: channels around eights and blocks, widths and heights around tiles, all kernels.
#[test]
fn depthwise_tails() {
    let mut rng = Rng(5);
    let mut kernels = BTreeSet::new();
    for number in 0..cases(260) {
        // The first ones have every form: kernel and stride, and few channels, whose blocks are several pixels.
        let fixed = (number < 12).then(|| ([3, 5][number % 2], [1, 2][number / 2 % 2], [8, 16, 40][number / 4]));
        // The next ones are wide enough that their rows are cut into runs.
        let wide = (12..20).contains(&number);
        let o = if let Some((.., o)) = fixed {
            o
        } else if wide {
            rng.pick(&[144, 200, 208])
        } else if number % 2 == 0 {
            1 + number / 2 % 70
        } else {
            rng.pick(&[1, 2, 4, 8, 16, 32, 64])
        };
        let side = |rng: &mut Rng| rng.pick(&[1, 2, 3, 3, 4, 5, 5, 6, 7]);
        let square = wide || rng.below(2) == 0;
        let (kh, kw) = if square { [(3, 3), (5, 5)][rng.below(2)] } else { (side(&mut rng), side(&mut rng)) };
        let (sy, sx) = if square { [(1, 1), (2, 2)][rng.below(2)] } else { (rng.range(1, 3) as usize, rng.range(1, 3) as usize) };
        let (kh, kw, sy, sx) = fixed.map_or((kh, kw, sy, sx), |(k, s, _)| (k, k, s, s));
        let dim = |kernel, stride| WindowDim { kernel, stride, dilation: 1, before: 0, after: 0 };
        let window = [dim(kh, sy), dim(kw, sx)];
        let (h, w) = (1 + rng.below(9), if fixed.is_some() { 9 } else { 1 + rng.below(14) } + if wide { 50 } else { 0 });
        let end = match rng.below(4) {
            0 => End::Requantize { zero: rng.range(-128, 127), lo: -128, hi: 127, signed: true },
            1 => End::Requantize { zero: rng.range(0, 255), lo: 5, hi: 200, signed: false },
            _ => End::Requantize { zero: 0, lo: 0, hi: 255, signed: false },
        };
        let case = Case {
            n: if fixed.is_some() { 1 } else { 1 + rng.below(2) },
            h: (h - 1) * sy + kh,
            w: (w - 1) * sx + kw,
            i: 1,
            o,
            groups: o,
            window,
            layout: WeightLayout::Depthwise,
            residual: false,
            gap: if fixed.is_some() { 0 } else { rng.pick(&[0, 0, 0, 3]) },
            kind: Kind::Int { words: false, signed: false, zero: 3, residual_signed: false, end, extreme: rng.below(6) == 0 },
        };
        let (program, inputs) = conv_program(&case, &mut rng);
        agree(&case, &program, &inputs);
        for cpu in ["haswell", "alderlake", "znver4"] {
            let target = Target::parse(Some("x86_64-unknown-linux-gnu"), Some(cpu)).unwrap();
            let made = object(&program, &target, &Options::default()).unwrap();
            kernels.extend(made.functions.into_iter().map(|f| f.kernel).filter(|k| k.starts_with("depthwise")));
        }
    }
    for form in ["3x3s1_u8", "3x3s1x2_u8", "3x3s1x4_u8", "3x3s2_u8", "5x5s1_u8", "5x5s1x2_u8", "5x5s1x4_u8", "5x5s2_u8"] {
        assert!(kernels.iter().filter(|k| k.starts_with(&format!("depthwise{form}"))).count() >= 3, "{form}: {kernels:?}");
    }
    // A leaf on every level, with and without the proof that 16-bit sums fit.
    for isa in ["__avx2", "__avx2_sums", "__avxvnni", "__avx512vnni"] {
        assert!(kernels.iter().filter(|k| k.ends_with(isa)).count() >= 40, "{isa}: {kernels:?}");
    }
}

#[test]
fn plain_convolutions() {
    many(Packing::Plain, Of::Bytes, 60);
}

#[test]
fn panel_convolutions() {
    many(Packing::Panels, Of::Bytes, 250);
}

#[test]
fn depthwise_convolutions() {
    many(Packing::Depthwise, Of::Bytes, 150);
}

#[test]
fn convolutions_of_words() {
    many(Packing::Plain, Of::Words, 40);
    many(Packing::Panels, Of::Words, 150);
    many(Packing::Depthwise, Of::Words, 90);
}

#[test]
fn plain_float_convolutions() {
    many(Packing::Plain, Of::Floats, 40);
}

#[test]
fn panel_float_convolutions() {
    many(Packing::Panels, Of::Floats, 120);
}

#[test]
fn depthwise_float_convolutions() {
    many(Packing::Depthwise, Of::Floats, 80);
}
