//! Every kind of step but convolutions, on every level, against the interpreter: vectors and their tails, strides and
//! gaps, both signednesses, NaN and its kin. Results lie in a slot full of 0x5a, so a stray byte shows.

use crate::common::{Operand, Rng, agree, outputs, step_program};
use quernel_ir::{
    Binary, Comparison, PoolKind, ReduceKind, Scalar, Storage, Unary, exact,
    op::WindowDim,
    plain::{self, Number},
    program::{ByteQuant, Image, Strided, Strides, What},
};

fn quant(rng: &mut Rng) -> ByteQuant {
    stored(rng, 1)
}

fn stored(rng: &mut Rng, width: usize) -> ByteQuant {
    let signed = rng.below(2) == 0;
    let (least, most) = Storage::new(8 * width as u8, signed).unwrap().range();
    let (lo, hi) = if rng.below(3) == 0 { (least + rng.range(0, 20), most - rng.range(0, 100)) } else { (least, most) };
    let scale = rng.pick(&[0.01, 0.5, 1.0, 0.037, 3.0e-5, 12.5]);
    ByteQuant { signed, scale, zero: rng.range(least, most), lo, hi }
}

/// Every tie of a scale and its neighbours: a quotient that is wrong in its last place shows in the integer.
#[test]
fn quantize_at_every_tie() {
    let rng = &mut Rng(99);
    for _ in 0..std::env::var("QUERNEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200) {
        let scale = f32::from_bits(rng.range(0x2f00_0000, 0x4f00_0000) as u32);
        let q = ByteQuant { signed: false, scale, zero: rng.range(0, 255), lo: 0, hi: 255 };
        let ties = (-300..300).flat_map(|k: i32| {
            let tie = ((f64::from(k) + 0.5) * f64::from(scale)) as f32;
            (-4..=4).map(move |ulps| (tie.to_bits() as i32 + ulps).to_le_bytes())
        });
        let x: Vec<u8> = ties.flatten().collect();
        let count = x.len() / 4;
        check(What::Quantize { count, to: q, width: 1 }, vec![Operand::Data(x)], count, false, rng);
    }
}

/// Levels with wide vectors have kernels of their own for these.
#[test]
fn floats_have_leaves() {
    let q = ByteQuant { signed: false, scale: 0.1, zero: 3, lo: 0, hi: 255 };
    let steps = [
        (What::Quantize { count: 77, to: q, width: 1 }, 77, "quantize_u8"),
        (What::SoftmaxFloat { outer: 3, len: 77, inner: 1, log: false }, 3 * 77, "softmax_f32"),
    ];
    for (what, count, name) in steps {
        let (program, _) = step_program(what, vec![Operand::Data(vec![0; 4 * count])], 4 * count, true, true);
        for (cpu, suffix) in [("haswell", "avx2"), ("alderlake", "avx2"), ("znver4", "avx512")] {
            let target = quernel_codegen::Target::parse(Some("x86_64-unknown-linux-gnu"), Some(cpu)).unwrap();
            let made = quernel_codegen::object(&program, &target, &quernel_codegen::Options::default()).unwrap();
            let kernel = format!("{name}__{suffix}");
            assert!(made.functions.iter().any(|f| f.kernel == kernel), "{cpu} has no {kernel}");
        }
    }
}

/// A length that reaches the vector loops, or their tails alone.
fn length(rng: &mut Rng) -> usize {
    if rng.below(3) == 0 { rng.range(1, 20) as usize } else { rng.range(1, 200) as usize }
}

fn check(what: What, operands: Vec<Operand>, result: usize, float: bool, rng: &mut Rng) {
    let told = format!("{what:?}");
    let (program, inputs) = step_program(what, operands, result, float, rng.below(2) == 0);
    agree(&told, &program, &inputs);
}

#[test]
fn quantize_and_dequantize() {
    let rng = &mut Rng(1);
    for round in 0..120 {
        let width = 1 + round % 2;
        let (count, q) = (length(rng), stored(rng, width));
        let mut x = rng.wild(count);
        if rng.below(2) == 0 {
            // Halves of a step and their neighbours: quotients that are ties, or nearly.
            x.chunks_exact_mut(4).for_each(|v| {
                let tie = (rng.range(-200, 200) as f32 * if width == 2 { 160.0 } else { 1.0 } + 0.5) * q.scale;
                v.copy_from_slice(&(tie.to_bits() as i32 + rng.range(-1, 1)).to_le_bytes());
            });
        }
        check(What::Quantize { count, to: q, width }, vec![Operand::Data(x)], width * count, false, rng);
        let x = rng.bytes(width * count);
        check(What::Dequantize { count, from: q, width }, vec![Operand::Data(x)], 4 * count, true, rng);
    }
}

#[test]
fn layer_norms() {
    let rng = &mut Rng(12);
    for round in 0..80 {
        let (from, to) = (quant(rng), quant(rng));
        let rows = rng.range(1, 5) as usize;
        // Lengths around the vectors; and beyond what their sums hold.
        let len = if round == 0 { 70_001 } else { length(rng) };
        let parameters = |rng: &mut Rng| Operand::Constant(rng.floats(len));
        let mut x = rng.bytes(rows * len);
        if round % 8 == 1 {
            // Rows without variance.
            x.iter_mut().for_each(|b| *b = 200);
        }
        let epsilon = rng.pick(&[1e-5, 0.0, 1e-12, 3.0]);
        let what = What::LayerNorm { rows, len, epsilon, rms: rng.below(3) == 0, from, to };
        let operands = vec![Operand::Data(x), parameters(rng), parameters(rng)];
        check(what, operands, rows * len, false, rng);
    }
}

#[test]
fn lookups() {
    let rng = &mut Rng(2);
    for i in 0..60 {
        let count = if i < 40 { length(rng) } else { rng.pick(&[255, 256, 257, 320, 511, 700, 1024]) };
        let operands = vec![Operand::Data(rng.bytes(count)), Operand::Constant(rng.bytes(256))];
        check(What::Lookup { count }, operands, count, false, rng);
    }
    let all: Vec<u8> = (0..=255).collect();
    let table = all.iter().map(|b| b.wrapping_mul(29) ^ 0x5c).collect();
    check(What::Lookup { count: 256 }, vec![Operand::Data(all), Operand::Constant(table)], 256, false, rng);
}

#[test]
fn float_functions() {
    let rng = &mut Rng(3);
    let functions = Unary::ALL.into_iter().map(|f| match f {
        Unary::LeakyRelu { .. } => Unary::LeakyRelu { alpha: 0.1 },
        Unary::Clip { .. } => Unary::Clip { lo: -1.0, hi: 6.0 },
        Unary::HardSigmoid { .. } => Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::Swish { .. } => Unary::Swish { alpha: 1.702 },
        Unary::Elu { .. } => Unary::Elu { alpha: 1.67, beta: 0.5, gamma: 1.05 },
        Unary::ThresholdedRelu { .. } => Unary::ThresholdedRelu { alpha: 0.5 },
        Unary::Shrink { .. } => Unary::Shrink { lambda: 0.5, bias: 0.25 },
        other => other,
    });
    let functions = functions.chain([Unary::Clip { lo: f32::NEG_INFINITY, hi: 6.0 }]);
    for op in functions {
        for count in [1, 3, 4, 7, 997] {
            let x = rng.wild(count);
            check(What::UnaryFloat { op, count }, vec![Operand::Data(x)], 4 * count, true, rng);
        }
        // Every exponent and sign.
        let x: Vec<u8> = (0..4096u32).flat_map(|i| ((i << 20) | (rng.bits() >> 12)).to_le_bytes()).collect();
        check(What::UnaryFloat { op, count: 4096 }, vec![Operand::Data(x)], 4 * 4096, true, rng);
    }
}

/// Strides of one operand over `dims`: some order of the axes, gaps, reversed axes; axes of `repeated` stand still.
fn strides(rng: &mut Rng, dims: &[usize], repeat: bool) -> (Strides, usize) {
    let mut order: Vec<usize> = (0..dims.len()).collect();
    if rng.below(2) == 0 {
        (1..order.len()).for_each(|i| order.swap(i, rng.below(i + 1)));
    }
    let (mut steps, mut step, mut start, mut end) = (vec![0isize; dims.len()], 1usize, rng.pick(&[0, 0, 1, 5]), 0);
    end += start;
    for &axis in order.iter().rev() {
        if repeat && rng.below(4) == 0 {
            continue;
        }
        if rng.below(6) == 0 {
            step += rng.below(4);
        }
        steps[axis] = step as isize;
        let reach = (dims[axis] - 1) * step;
        end += reach;
        if rng.below(6) == 0 {
            steps[axis] = -steps[axis];
            start += reach;
        }
        step += reach;
    }
    (Strides { start, steps }, end + 1)
}

fn space(rng: &mut Rng, reads: usize) -> (Strided, Vec<usize>) {
    let rank = rng.range(0, 4) as usize;
    let dims: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 2, 3, 4, 5, 8, 16, 17, 19, 33, 40])).collect();
    let dims = if dims.iter().product::<usize>() > 20_000 { dims[..rank - 1].to_vec() } else { dims };
    let (operands, extents) = (0..=reads).map(|i| strides(rng, &dims, i < reads && reads >= 2)).unzip();
    (Strided { dims, operands }, extents)
}

const BINARIES: [Binary; 9] =
    [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max, Binary::Pow, Binary::Remainder, Binary::Modulo];

#[test]
fn binary_functions_of_bytes() {
    let rng = &mut Rng(4);
    for i in 0..150 {
        let (over, extents) = space(rng, 2);
        let operands = vec![Operand::Data(rng.bytes(extents[0])), Operand::Data(rng.bytes(extents[1]))];
        let what = What::BinaryBytes { op: BINARIES[i % 9], over, a: quant(rng), b: quant(rng), to: quant(rng) };
        check(what, operands, extents[2], false, rng);
    }
}

#[test]
fn binary_functions_of_floats() {
    let rng = &mut Rng(5);
    for i in 0..120 {
        let (over, extents) = space(rng, 2);
        let operands = vec![Operand::Data(rng.wild(extents[0])), Operand::Data(rng.wild(extents[1]))];
        let (lo, hi) = rng.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (-1.0, 6.0), (f32::NEG_INFINITY, 2.0)]);
        check(What::BinaryFloat { op: BINARIES[i % 9], over, lo, hi }, operands, 4 * extents[2], true, rng);
    }
}

/// Numbers of a plain type: every bit pattern, small ones, and the ends of the range.
fn numbers(rng: &mut Rng, s: Scalar, n: usize) -> Vec<u8> {
    let width = s.bytes();
    let mut bytes = Vec::with_capacity(n * width);
    for _ in 0..n {
        let wild = u64::from(rng.bits()) << 32 | u64::from(rng.bits());
        let near = i64::from(rng.range(-9, 9));
        let bits = match (s, rng.below(4)) {
            (Scalar::Bool, _) => wild & 1,
            (_, 0) => wild,
            (_, 1) => Number::Int(near.into()).bits(s),
            (_, 2) if s.is_float() => Number::Real(rng.range(-100_000, 100_000).into()).bits(s),
            (_, 2) => 1u64.rotate_left(rng.below(64) as u32).wrapping_add(near as u64),
            _ if s.is_float() => {
                // Ends of the ranges of integers and of narrower floats, and their neighbours.
                let end = rng.pick(&[127.5, 255.5, 32_767.5, 65_519.9, 65_520.0, 2_147_483_648.0, 1.8e19, 6e-8, 3e-8, 1e-40]);
                Number::Real(if rng.below(2) == 0 { end } else { -end }).bits(s).wrapping_add(near as u64)
            }
            _ => u64::from(rng.bits()),
        };
        bytes.extend_from_slice(&bits.to_le_bytes()[..width]);
    }
    bytes
}

#[test]
fn casts() {
    let rng = &mut Rng(20);
    for from in Scalar::ALL {
        for to in Scalar::ALL.into_iter().filter(|to| *to != from) {
            let count = 600;
            let x = numbers(rng, from, count);
            check(What::Cast { from, to, count }, vec![Operand::Data(x)], count * to.bytes(), false, rng);
        }
    }
    // All halves, and every f32 that is a tie between two of them.
    for from in [Scalar::F16, Scalar::BF16] {
        let x: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for to in [Scalar::F32, Scalar::F64, Scalar::I16] {
            check(What::Cast { from, to, count: 65_536 }, vec![Operand::Data(x.clone())], 65_536 * to.bytes(), false, rng);
        }
        let ties: Vec<u8> = (0..u16::MAX)
            .flat_map(|i| {
                let [a, b] = [i, i + 1].map(|h| Number::read(from, &h.to_le_bytes()).real());
                ((a + b) / 2.0).to_le_bytes()
            })
            .collect();
        let what = What::Cast { from: Scalar::F64, to: from, count: 65_535 };
        check(what, vec![Operand::Data(ties.clone())], 65_535 * 2, false, rng);
        let ties = plain::cast(Scalar::F64, Scalar::F32, &ties);
        check(What::Cast { from: Scalar::F32, to: from, count: 65_535 }, vec![Operand::Data(ties)], 65_535 * 2, false, rng);
    }
}

#[test]
fn functions_of_plain_numbers() {
    let rng = &mut Rng(21);
    for s in Scalar::ALL.into_iter().filter(|s| !matches!(s, Scalar::F32 | Scalar::F16 | Scalar::BF16)) {
        for op in Binary::ALL {
            let has = match s {
                Scalar::F64 => plain::double_has(op),
                Scalar::Bool => matches!(op, Binary::And | Binary::Or | Binary::Xor),
                _ => true,
            };
            for _ in 0..if has { 6 } else { 0 } {
                let (over, extents) = space(rng, 2);
                let operands = vec![Operand::Data(numbers(rng, s, extents[0])), Operand::Data(numbers(rng, s, extents[1]))];
                check(What::BinaryPlain { op, scalar: s, over }, operands, s.bytes() * extents[2], false, rng);
            }
        }
    }
    for op in [Unary::Sqrt, Unary::Neg, Unary::Abs] {
        let x = numbers(rng, Scalar::F64, 300);
        check(What::UnaryDouble { op, count: 300 }, vec![Operand::Data(x)], 2400, false, rng);
    }
}

#[test]
fn relations_and_choices() {
    let rng = &mut Rng(22);
    for s in Scalar::ALL.into_iter().filter(|s| !matches!(s, Scalar::F16 | Scalar::BF16)) {
        for op in Comparison::ALL {
            for _ in 0..6 {
                let (over, extents) = space(rng, 2);
                let operands = vec![Operand::Data(numbers(rng, s, extents[0])), Operand::Data(numbers(rng, s, extents[1]))];
                check(What::Compare { op, scalar: s, over }, operands, extents[2], false, rng);
            }
        }
    }
    for i in 0..60 {
        let width = [1, 2, 4, 8][i % 4];
        let (over, extents) = space(rng, 3);
        let c: Vec<u8> = (0..extents[0]).map(|_| rng.pick(&[0, 0, 1, 1, 2, 128])).collect();
        let operands = vec![Operand::Data(c), Operand::Data(rng.bytes(width * extents[1])), Operand::Data(rng.bytes(width * extents[2]))];
        check(What::Select { width, over }, operands, width * extents[3], false, rng);
    }
}

#[test]
fn moves_and_fills() {
    let rng = &mut Rng(6);
    for i in 0..200 {
        let width = [1, 2, 4, 8][i % 4];
        let (over, extents) = space(rng, 1);
        let x = rng.bytes(width * extents[0]);
        check(What::Move { width, over }, vec![Operand::Data(x)], width * extents[1], false, rng);
        let (over, extents) = space(rng, 0);
        let bits = u64::from(rng.bits()) << 32 | u64::from(rng.bits());
        check(What::Fill { width, over, bits }, vec![], width * extents[0], false, rng);
    }
}

/// Transposes of byte and word matrices, at the sizes layouts change at.
#[test]
fn transposes() {
    let rng = &mut Rng(7);
    for (rows, columns) in [
        (3, 224),
        (224, 3),
        (16, 16),
        (17, 33),
        (32, 64),
        (64, 49),
        (1, 40),
        (5, 7),
        (20, 15),
        (100, 8),
        (2, 50),
        (3, 50),
        (4, 50),
        (3, 16),
    ] {
        for width in [1, 2, 4, 8] {
            for batch in [1, 2] {
                let dims = vec![batch, columns, rows];
                let from = Strides { start: 0, steps: vec![(rows * columns) as isize, 1, columns as isize] };
                let over = Strided { operands: vec![from, Strides::dense(&dims)], dims };
                let bytes = width * batch * rows * columns;
                let x = rng.bytes(bytes);
                check(What::Move { width, over }, vec![Operand::Data(x)], bytes, false, rng);
            }
        }
    }
}

fn image(rng: &mut Rng, n: usize, h: usize, w: usize, c: usize) -> Image {
    let gap = rng.pick(&[0, 0, 1, 4]);
    let pixel = c + gap;
    let row = w * pixel + gap;
    Image { n, h, w, c, start: gap, batch: h * row + gap, row, pixel }
}

fn pool(rng: &mut Rng, c: usize) -> (Image, Image, [WindowDim; 2], PoolKind) {
    let window: [WindowDim; 2] = std::array::from_fn(|_| {
        let kernel = rng.pick(&[1, 2, 2, 3, 3, 4, 7]);
        let d = WindowDim { kernel, stride: rng.range(1, 3) as usize, dilation: rng.pick(&[1, 1, 1, 2]), before: 0, after: 0 };
        let pad = |rng: &mut Rng| if rng.below(2) == 0 { rng.below(d.span()) } else { 0 };
        WindowDim { before: pad(rng), after: pad(rng), ..d }
    });
    // Small extents with dilation have windows between the elements.
    let [h, w] = window.map(|d| d.span().saturating_sub(d.before + d.after).max(1) + rng.below(6));
    let n = rng.range(1, 2) as usize;
    let (oh, ow) = (outputs(window[0], h), outputs(window[1], w));
    let kind = rng.pick(&[PoolKind::Max, PoolKind::Average { include_pad: false }, PoolKind::Average { include_pad: true }]);
    (image(rng, n, h, w, c), image(rng, n, oh, ow, c), window, kind)
}

#[test]
fn pools_of_bytes() {
    let rng = &mut Rng(8);
    for _ in 0..120 {
        let c = rng.pick(&[1, 3, 4, 15, 16, 17, 35, 64, 70]);
        let (input, output, window, kind) = pool(rng, c);
        let from = quant(rng);
        let mut to = quant(rng);
        if kind == PoolKind::Max || rng.below(2) == 0 {
            to.scale = from.scale;
        }
        let to = if kind == PoolKind::Max { from } else { to };
        let x = rng.bytes(input.extent()).iter().map(|&b| limit(b, from)).collect();
        check(What::Pool { kind, input, output, window, from, to }, vec![Operand::Data(x)], output.extent(), false, rng);
    }
}

/// A byte of a type's range.
fn limit(b: u8, q: ByteQuant) -> u8 {
    if q.signed { i32::from(b as i8).clamp(q.lo, q.hi) as u8 } else { i32::from(b).clamp(q.lo, q.hi) as u8 }
}

/// Averages of whole images: extremes of every sign, and sums that end in ties.
#[test]
fn global_averages() {
    let rng = &mut Rng(9);
    for (h, w, c) in [(7, 7, 64), (8, 8, 17), (4, 4, 100), (14, 14, 33), (1, 1, 5), (2, 2, 16)] {
        for fill in 0..4 {
            let from = quant(rng);
            let mut to = quant(rng);
            if fill % 2 == 0 {
                to.scale = from.scale;
            }
            let window = [h, w].map(|kernel| WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 });
            let (input, output) = (Image::dense(1, h, w, c), Image::dense(1, 1, 1, c));
            let x = match fill {
                0 => vec![0xff; input.extent()],
                1 => vec![0x80; input.extent()],
                _ => rng.bytes(input.extent()),
            };
            let kind = PoolKind::Average { include_pad: false };
            check(What::Pool { kind, input, output, window, from, to }, vec![Operand::Data(x)], c, false, rng);
        }
    }
}

#[test]
fn pools_of_floats() {
    let rng = &mut Rng(10);
    for _ in 0..80 {
        let c = rng.pick(&[1, 3, 4, 7, 16, 18]);
        let (input, output, window, kind) = pool(rng, c);
        let x = if rng.below(2) == 0 { rng.wild(input.extent()) } else { rng.floats(input.extent()) };
        check(What::PoolFloat { kind, input, output, window }, vec![Operand::Data(x)], 4 * output.extent(), true, rng);
    }
}

#[test]
fn products() {
    let rng = &mut Rng(11);
    for _ in 0..60 {
        let (batch, m, k) = (rng.range(1, 3) as usize, rng.range(1, 9) as usize, rng.range(1, 40) as usize);
        let n = rng.range(1, 45) as usize;
        let (a_batch, b_batch) = (rng.pick(&[0, m * k]), rng.pick(&[0, k * n]));
        let (a, b) = ((batch - 1) * a_batch + m * k, (batch - 1) * b_batch + k * n);
        let wild = rng.below(4) == 0;
        let mut make = |n: usize| if wild { rng.wild(n) } else { rng.floats(n) };
        let operands = vec![Operand::Data(make(a)), Operand::Data(make(b))];
        check(What::MatMulFloat { batch, m, k, n, a_batch, b_batch }, operands, 4 * batch * m * n, true, rng);
    }
}

/// Elements before, along and after an axis.
fn split(rng: &mut Rng) -> (usize, usize, usize) {
    (rng.range(1, 4) as usize, length(rng), rng.pick(&[1, 1, 1, 2, 4, 5, 16, 21]))
}

#[test]
fn reductions() {
    let rng = &mut Rng(12);
    for i in 0..120 {
        let (outer, len, inner) = split(rng);
        let kind = [ReduceKind::Mean, ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min][i % 4];
        let count = outer * len * inner;
        let x = if rng.below(3) == 0 { rng.wild(count) } else { rng.floats(count) };
        check(What::ReduceFloat { kind, outer, len, inner }, vec![Operand::Data(x)], 4 * outer * inner, true, rng);
    }
}

#[test]
fn softmax_of_floats() {
    let rng = &mut Rng(13);
    for i in 0..100 {
        let (outer, len, inner) = split(rng);
        let count = outer * len * inner;
        let x = if rng.below(3) == 0 { rng.wild(count) } else { rng.floats(count) };
        check(What::SoftmaxFloat { outer, len, inner, log: i % 2 == 0 }, vec![Operand::Data(x)], 4 * count, true, rng);
    }
}

#[test]
fn softmax_of_bytes() {
    let rng = &mut Rng(14);
    for i in 0..100 {
        let (outer, len, inner) = split(rng);
        let from = quant(rng);
        let to = match i % 3 {
            0 => None,
            1 => Some(ByteQuant { signed: false, scale: 1.0 / 256.0, zero: 0, lo: 0, hi: 255 }),
            _ => Some(ByteQuant { signed: true, scale: 1.0 / 256.0, zero: -128, lo: -128, hi: rng.range(0, 127) }),
        };
        let count = outer * len * inner;
        let table = exact::softmax_table(from.scale).iter().flat_map(|e| e.to_le_bytes()).collect();
        let x = match i % 5 {
            0 => vec![7; count],
            1 => (0..count).map(|j| if j == len / 2 { 0x7f } else { 0 }).collect(),
            _ => rng.bytes(count),
        };
        let operands = vec![Operand::Data(x), Operand::Constant(table)];
        let result = if to.is_some() { count } else { 4 * count };
        check(What::SoftmaxBytes { outer, len, inner, from, to }, operands, result, to.is_none(), rng);
    }
}
