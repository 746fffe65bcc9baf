//! Layers whose weights have few different values: a program over codes, or bits, computes the bytes of its graph.

use quernel_interp::{run_graph, run_program, verify_program};
use quernel_ir::{
    Act, Elem, Graph, Multiplier, Op, Quant, Scheme, Stage, Storage, Tensor, TensorTy, Value, Window, WindowDim,
    program::{Program, What},
    verify,
};
use quernel_lower::{Options, lower};
use quernel_test::{Net, inputs};

/// Values that weights draw from.
const TABLES: [&[i8]; 5] =
    [&[-1, 1], &[-1, 0, 1], &[-64, -9, 20, 64], &[-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7], &[-100, 90]];

fn weights(net: &mut Net, dims: &[usize], tables: &[&[i8]]) -> Value {
    let scales = (0..dims[0]).map(|_| net.rng.real(0.002, 0.01)).collect::<Vec<f32>>().into();
    let quant = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales }).expect("legal");
    let row: usize = dims[1..].iter().product();
    // A table for every panel of sixteen rows.
    let data: Vec<i64> = (0..dims[0] * row).map(|i| i64::from(net.rng.pick(tables[i / row / 16 % tables.len()]))).collect();
    net.g.constant("w", Tensor::from_ints(TensorTy::new(dims, quant), data))
}

/// `x` in so many bits.
fn rounded(net: &mut Net, x: Value, bits: u8, zero: i32) -> Value {
    let storage = Storage::new(bits, false).expect("a width");
    let scale = 3.0 / storage.range().1 as f32;
    net.op(Op::Quantize, &[x], Quant::per_tensor(storage, scale, zero).expect("legal").into())
}

fn check(about: &str, g: &Graph, seed: u64) -> Program {
    let proof = verify(g, Stage::Quantized).unwrap_or_else(|f| panic!("{about}: {f:?}"));
    let inputs = inputs(g, seed);
    let want = run_graph(g, &inputs).unwrap_or_else(|d| panic!("{about}: {d:?}"));
    let program = lower(&proof, &Options::default()).unwrap_or_else(|d| panic!("{about}: {d:?}")).program;
    verify_program(&program).unwrap_or_else(|f| panic!("{about}: {f:?}\n{program}"));
    let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.bytes()).collect();
    let got = run_program(&program, &bytes).unwrap_or_else(|d| panic!("{about}: {d:?}"));
    assert!(want.iter().map(Tensor::bytes).eq(got.iter().map(Vec::as_slice)), "{about}\n{program}");
    assert!(want.iter().all(|t| t.bytes().chunks(4).any(|c| c != &t.bytes()[..c.len()])), "{about}: every result is alike");
    program
}

fn names(p: &Program) -> Vec<&'static str> {
    p.steps.iter().map(|s| s.what.name()).collect()
}

/// A layer on an operand of `bits`.
fn layer(seed: u64, dims: &[usize], outputs: usize, kernel: usize, bits: u8, tables: &[&[i8]]) -> Graph {
    let mut net = Net::new(seed);
    let x = net.g.input("x", TensorTy::f32(dims));
    let zero = if bits == 1 { net.rng.below(2) as i32 } else { net.rng.below(1 << bits) as i32 };
    let q = rounded(&mut net, x, bits, zero);
    let conv = dims.len() == 4;
    let pad = kernel / 2;
    let window = Window { dims: vec![WindowDim { kernel, stride: 1, dilation: 1, before: pad, after: pad }; 2] };
    let mut wdims = vec![outputs, if conv { dims[1] } else { dims[dims.len() - 1] }];
    wdims.extend(if conv { vec![kernel; 2] } else { vec![] });
    let mut args = vec![q, weights(&mut net, &wdims, tables)];
    let biases: Vec<i32> = (0..outputs).map(|_| net.rng.range(-60, 60) as i32).collect();
    args.push(net.g.constant("b", Tensor::i32([outputs], &biases)));
    let residual = false;
    let (act, multiplier) = (Act::None, Multiplier::F64);
    let op = if conv { Op::Conv { window, groups: 1, act, residual, multiplier } } else { Op::Dense { act, residual, multiplier } };
    let elem = if seed.is_multiple_of(2) { Elem::F32 } else { Quant::per_tensor(Storage::U8, 0.05, 128).expect("legal").into() };
    let y = net.op(op, &args, elem);
    net.g.output("y", y);
    net.g
}

#[test]
fn every_scheme_at_every_tail() {
    let mut seen = std::collections::BTreeSet::new();
    for (t, table) in TABLES.iter().enumerate() {
        for (i, k) in [64, 65, 66, 67, 96, 100, 128].into_iter().enumerate() {
            for rows in [1, 3, 4, 5, 9] {
                let outputs = [33, 64, 48, 97][(i + rows) % 4];
                for bits in [8, 1, 4] {
                    let g = layer((k + rows) as u64, &[rows, k], outputs, 1, bits, &[table]);
                    seen.extend(names(&check(&format!("table {t}, {rows}x{k}x{outputs}, {bits} bits"), &g, 5)));
                }
            }
        }
    }
    for name in ["conv", "conv_codes", "expand", "conv_bits", "pack_bits"] {
        assert!(seen.contains(name), "{name}: {seen:?}");
    }
}

#[test]
fn convolutions_with_padding() {
    let mut seen = std::collections::BTreeSet::new();
    for (t, table) in TABLES.iter().enumerate() {
        for (c, outputs) in [(16, 32), (33, 40), (64, 20)] {
            for kernel in [1, 3] {
                for bits in [8, 1] {
                    let g = layer((c + kernel) as u64, &[1, c, 5, 4], outputs, kernel, bits, &[table]);
                    seen.extend(names(&check(&format!("table {t}, {c} to {outputs}, {kernel}x{kernel}, {bits} bits"), &g, 7)));
                }
            }
        }
    }
    for name in ["conv", "expand", "conv_bits", "pack_bits"] {
        assert!(seen.contains(name), "{name}: {seen:?}");
    }
}

#[test]
fn panels_of_several_widths_in_one_layer() {
    for (rows, how) in [(1, "conv_codes"), (12, "expand")] {
        let g = layer(3, &[rows, 256], 96, 1, 8, &[TABLES[0], TABLES[1], TABLES[3]]);
        let p = check("mixed", &g, 11);
        let widths: Vec<u8> = (p.steps.iter())
            .filter_map(|s| match s.what {
                What::ConvCodes { bits, .. } | What::Expand { bits, .. } => Some(bits),
                _ => None,
            })
            .collect();
        assert_eq!(widths, [1, 2, 4, 1, 2, 4]);
        assert!(names(&p).contains(&how), "{p}");
    }
}

#[test]
fn long_layers_are_expanded_in_parts() {
    let g = layer(2, &[8, 2048], 300, 1, 8, &[TABLES[3]]);
    let p = check("long", &g, 13);
    let expanded: Vec<usize> = (p.steps.iter())
        .filter_map(|s| match s.what {
            What::Expand { count, .. } => Some(count),
            _ => None,
        })
        .collect();
    assert!(expanded.len() == 5 && expanded.iter().all(|n| *n <= 1 << 17), "{expanded:?}");
}

#[test]
fn float_layers_over_codes() {
    let mut seen = std::collections::BTreeSet::new();
    for (i, k) in [64usize, 65, 96, 128, 256].into_iter().enumerate() {
        for kind in 0..4 {
            let mut net = Net::new(i as u64);
            let x = net.g.input("x", TensorTy::f32([1 + i, k]));
            let outputs = [20, 33, 64][i % 3];
            let group = [32, 64, 8][i % 3];
            let grouped = kind == 3 && k % group == 0;
            let scales: Vec<f32> = (0..outputs * if grouped { k / group } else { 1 }).map(|_| net.rng.real(0.01, 0.1)).collect();
            let (lo, hi) = [(-127, 127), (-8, 7), (0, 3), (-8, 7)][kind];
            let storage =
                [Storage::I8, Storage::new(4, true).unwrap(), Storage::new(2, false).unwrap(), Storage::new(4, true).unwrap()][kind];
            let scales = scales.into();
            let scheme = match kind {
                2 => Scheme::Table { axis: 0, scales, table: [-64i8, 0, 22, 64].into() },
                3 if grouped => Scheme::Grouped { group: group as u32, scales },
                _ => Scheme::PerAxis { axis: 0, scales },
            };
            let quant = Quant::new(storage, lo, hi, scheme).expect("legal");
            let data: Vec<i64> = (0..outputs * k).map(|_| net.rng.range(lo.into(), hi.into())).collect();
            let w = net.g.constant("w", Tensor::from_ints(TensorTy::new([outputs, k], quant), data));
            let b = net.floats(&[outputs]);
            let op = Op::Dense { act: Act::Relu, residual: false, multiplier: Multiplier::F64 };
            let y = net.op(op, &[x, w, b], Elem::F32);
            net.g.output("y", y);
            seen.extend(names(&check(&format!("{k} to {outputs}, kind {kind}"), &net.g, 17)));
        }
    }
    assert!(seen.contains("expand_f32"), "{seen:?}");
}
