//! Weights in codes: expansion, and products that expand as they go, at every tail of depth, columns and rows.

use crate::common::{Operand, Rng, agree, machines::machines, step_program};
use quernel_codegen::Level;
use quernel_ir::{
    codes::{self, UNIT},
    op::WindowDim,
    program::{Conv, End, Image, PANEL, Program, WeightLayout, What},
};

/// A table whose pairs of entries fit 16 bits, small enough that many products do, or not at all small.
fn table(rng: &mut Rng, bits: u8) -> Vec<u8> {
    let most = rng.pick(&[1, 1, 2, 8, 8, 64, 64, 127]);
    let mut table: Vec<u8> = (0..1 << bits).map(|_| rng.range(-most, most) as u8).collect();
    if rng.below(4) == 0 {
        table.iter_mut().enumerate().for_each(|(i, t)| *t = if i % 2 == 0 { -most } else { most } as u8);
    }
    table.resize(codes::TABLE, 0x55);
    table
}

#[test]
fn expansions_of_any_length() {
    let rng = &mut Rng(7);
    for bits in [1, 2, 4] {
        for blocks in (1..=20).chain([31, 32, 33, 64, 129]) {
            let count = blocks * UNIT;
            let packed = rng.bytes(codes::packed_len(count, bits));
            let operands = vec![Operand::Constant(packed), Operand::Constant(table(rng, bits))];
            let (program, inputs) = step_program(What::Expand { count, bits }, operands, count, false, false);
            agree(&("expand", bits, blocks), &program, &inputs);
        }
    }
}

#[derive(Debug)]
#[allow(dead_code)]
struct Case {
    bits: u8,
    rows: usize,
    k: usize,
    n: usize,
    /// Further channels between the rows of the result.
    gap: usize,
    signed: bool,
    end: End,
    /// Whether the operand is the caller's memory.
    direct: bool,
    /// The first entry of a table that counts up by one, and the last code that is used.
    counted: Option<(i8, u8)>,
}

fn product(case: &Case, rng: &mut Rng) -> (Program, Vec<Vec<u8>>) {
    let &Case { bits, rows, k, n, gap, signed, end, direct, counted } = case;
    let input = Image::dense(1, 1, rows, k);
    let output = Image { c: n, start: gap, ..Image::dense(1, 1, rows, n + gap) };
    let conv = Conv {
        input,
        output,
        window: [WindowDim::new(1); 2],
        groups: 1,
        layout: WeightLayout::Panels { contiguous: rng.below(2) == 0, depth: 4 },
        residual: None,
    };
    let channels = n.next_multiple_of(PANEL);
    let mut table = table(rng, bits);
    let panel = k.div_ceil(4) * UNIT;
    let mut packed = Vec::new();
    let (mut none, mut last) = (0, (1 << bits) - 1);
    if let Some((first, used)) = counted {
        (0..=used).for_each(|c| table[usize::from(c)] = (i32::from(first) + i32::from(c)) as u8);
        (none, last) = (u8::try_from(-i32::from(first)).unwrap_or(0), used);
    }
    if k % 4 > 0 {
        // Taps behind the last one read what lies behind the operand: they mean 0.
        assert!(none <= last);
        table[usize::from(none)] = 0;
    }
    for _ in 0..channels / PANEL {
        let tap = |i: usize| i / UNIT * 4 + i % 4;
        let code = |i: usize, rng: &mut Rng| if tap(i) < k { rng.below(usize::from(last) + 1) as u8 } else { none };
        let all: Vec<u8> = (0..panel).map(|i| code(i, rng)).collect();
        packed.extend(codes::pack(&all, bits));
    }
    let bias = (0..channels).flat_map(|_| rng.range(-3000, 3000).to_le_bytes()).collect();
    let step = 1.0 / (20_000.0 * (k as f32).sqrt());
    let scale = (0..channels).flat_map(|_| (rng.range(1, 1000) as f32 * step).to_le_bytes()).collect();
    let x = if rng.below(3) == 0 { vec![0xff; input.extent()] } else { rng.bytes(input.extent()) };
    let constants = [packed, bias, scale, table].map(Operand::Constant);
    let operands = std::iter::once(Operand::Data(x)).chain(constants).collect();
    let float = matches!(end, End::Float { .. });
    let bytes = output.extent() * if float { 4 } else { 1 };
    let (program, inputs) = step_program(What::ConvCodes { conv, bits, signed, end }, operands, bytes, float, direct);
    agree(case, &program, &inputs);
    (program, inputs)
}

fn end(rng: &mut Rng) -> End {
    match rng.below(5) {
        0 => End::Float { lo: f32::NEG_INFINITY, hi: f32::INFINITY },
        1 => End::Float { lo: 0.0, hi: 6.0 },
        2 => End::Requantize { zero: rng.range(-128, 127), lo: -128, hi: 100, signed: true },
        3 => End::Requantize { zero: rng.range(0, 255), lo: 3, hi: 255, signed: false },
        _ => End::Requantize { zero: 0, lo: 0, hi: 255, signed: false },
    }
}

#[test]
fn expansions_to_floats() {
    let rng = &mut Rng(9);
    for bits in [1, 2, 4, 8] {
        let unit = codes::per_unit(bits) / PANEL;
        for (panels, taps, group) in
            [(1, 1, 1), (1, 7, 7), (2, 9, 9), (3, 45, 45), (2, 4 * unit, unit), (1, 64, 64), (3, 128, 32), (2, 70, 70)]
        {
            let what = What::ExpandFloat { panels, taps, group, bits };
            let packed = rng.bytes(panels * codes::packed_len(taps * PANEL, bits));
            let mut operands = vec![Operand::Constant(packed), Operand::Constant(rng.floats(panels * taps / group * PANEL))];
            operands.extend((bits < 8).then(|| Operand::Constant(table(rng, bits))));
            let (program, inputs) = step_program(what.clone(), operands, 4 * panels * taps * PANEL, true, false);
            agree(&what, &program, &inputs);
        }
    }
}

#[test]
fn packed_bits() {
    let rng = &mut Rng(19);
    for k in (1..=70).chain([96, 100, 1024]) {
        for rows in [1, 3] {
            let what = What::PackBits { rows, k };
            let (program, inputs) =
                step_program(what, vec![Operand::Data(rng.bytes(rows * k))], rows * 4 * k.div_ceil(32), false, k % 2 == 0);
            agree(&("bits", rows, k), &program, &inputs);
        }
    }
}

#[test]
fn products_of_bits() {
    let rng = &mut Rng(23);
    // Rows, columns, kernel, words of a pixel, output channels.
    let mut cases = vec![(1, 1, 1, 32, 1024), (1, 64, 1, 32, 64), (5, 7, 3, 4, 40), (4, 5, 3, 1, 16), (1, 3, 1, 130, 20)];
    cases.extend((1..=70).map(|words| (1, 1 + words % 4, 1, words, 1 + words * 7 % 40)));
    for (h, w, kernel, words, n) in cases {
        let contiguous = rng.below(2) == 0;
        let window = [WindowDim::new(kernel); 2];
        let input = Image::dense(1, h + kernel - 1, w + kernel - 1, 4 * words);
        let gap = rng.pick(&[0, 0, 3]);
        let output = Image { c: n, start: gap, ..Image::dense(1, h, w, n + gap) };
        let conv = Conv { input, output, window, groups: 1, layout: WeightLayout::Panels { contiguous, depth: 4 }, residual: None };
        let channels = n.next_multiple_of(PANEL);
        let weights = rng.bytes(conv.layout.len(conv.weight_dims()));
        let taps = (32 * words * kernel * kernel) as i32;
        let bias = (0..channels).flat_map(|_| (taps / 2 + rng.range(-40, 40)).to_le_bytes()).collect();
        let scale = (0..channels).flat_map(|_| (rng.range(1, 1000) as f32 / (20.0 * (taps as f32).sqrt())).to_le_bytes()).collect();
        let end = match rng.below(3) {
            0 => End::Requantize { zero: 0, lo: 0, hi: 1, signed: false },
            _ => end(rng),
        };
        let float = matches!(end, End::Float { .. });
        let bytes = output.extent() * if float { 4 } else { 1 };
        let operands = vec![Operand::Data(rng.bytes(input.extent()))];
        let operands = operands.into_iter().chain([weights, bias, scale].map(Operand::Constant)).collect();
        let what = What::ConvBits { conv, end };
        let (program, inputs) = step_program(what.clone(), operands, bytes, float, rng.below(4) == 0);
        agree(&what, &program, &inputs);
    }
}

#[test]
fn every_tail_of_depth() {
    let rng = &mut Rng(11);
    for bits in [1, 2, 4] {
        for k in 1..=72 {
            let case = Case { bits, rows: 1, k, n: 16, gap: 0, signed: k % 8 == 3, end: end(rng), direct: k % 3 == 0, counted: None };
            product(&case, rng);
        }
    }
}

#[test]
fn every_tail_of_columns_and_rows() {
    let rng = &mut Rng(13);
    for bits in [1, 2, 4] {
        for n in 1..=35 {
            for rows in [1, 1 + n % 5] {
                product(&Case { bits, rows, k: 64, n, gap: n % 2 * 3, signed: false, end: end(rng), direct: false, counted: None }, rng);
            }
        }
    }
}

#[test]
fn large_products() {
    let rng = &mut Rng(17);
    for bits in [1, 2, 4] {
        for (rows, k, n) in [(1, 640, 128), (1, 516, 200), (3, 260, 160), (2, 1024, 48), (5, 130, 33)] {
            for signed in [false, true] {
                product(&Case { bits, rows, k, n, gap: 0, signed, end: end(rng), direct: false, counted: None }, rng);
            }
        }
    }
}

/// Tables that count up by one: with every entry, with unused ones behind them, and with entries that no shift by 8 reaches.
#[test]
fn products_without_a_table() {
    let rng = &mut Rng(29);
    let tables = [(-8, 15), (-7, 14), (-15, 15), (0, 15), (-3, 5), (-128, 15), (100, 15), (112, 15), (119, 8), (120, 7), (127, 0)];
    for (first, last) in tables {
        for (k, n) in [(1, 16), (4, 1), (8, 35), (12, 130), (60, 128), (64, 16), (130, 200), (516, 144), (640, 128), (1030, 17)] {
            let none = i32::from(first) <= 0 && -i32::from(first) <= i32::from(last);
            let k = if none { k } else { k * 4 };
            let case =
                Case { bits: 4, rows: 1, k, n, gap: n % 3, signed: false, end: end(rng), direct: false, counted: Some((first, last)) };
            let (program, inputs) = product(&case, rng);
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let wanted = quernel_interp::run_program(&program, &inputs).unwrap();
            for machine in machines().iter().filter(|m| m.level == Level::V512Dot) {
                let mut jit = machine.compile(&program).unwrap();
                let counted = jit.kernels().iter().any(|k| k.starts_with("conv_codes4") && k.ends_with("_counted"));
                assert_eq!(counted, first <= 119, "{first} {last}: {:?}", jit.kernels());
                assert!(machine.run(&mut jit, &inputs).unwrap() == wanted, "{case:?} on {machine}");
            }
        }
    }
}
