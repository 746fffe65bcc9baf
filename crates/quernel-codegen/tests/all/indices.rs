//! Steps over computed indices, orders and folds, on every level, against the interpreter: every type, indices far outside
//! their axes, ties, and every kind of float.

use crate::common::{Operand, Rng, agree, copy, fill, step_program};
use quernel_ir::{
    Binary, ReduceKind, Scalar,
    plain::Number,
    program::{Base, Places, Port, Program, Slot, Step, Strided, Strides, What},
    ty::TensorTy,
};

fn check(what: What, operands: Vec<Operand>, result: usize, rng: &mut Rng) {
    let told = format!("{what:?}");
    let (program, inputs) = step_program(what, operands, result, false, rng.below(2) == 0);
    agree(&told, &program, &inputs);
}

/// Indices around an axis, some of them far away.
fn indices(rng: &mut Rng, wide: bool, n: usize, extent: usize) -> Vec<u8> {
    let reach = extent as i32 + 2;
    (0..n)
        .flat_map(|_| {
            let near = i64::from(rng.range(-reach, reach));
            let far = rng.pick(&[i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX), 1 << 31, -(1 << 31)]);
            let i = if rng.below(8) == 0 { far } else { near };
            if wide { i.to_le_bytes().to_vec() } else { (i as i32).to_le_bytes().to_vec() }
        })
        .collect()
}

/// `[outer][extent][inner]` at `n` places: whole slices by one index, or every element by its own.
#[test]
fn gathers_of_slices_and_elements() {
    let rng = &mut Rng(11);
    for i in 0..160 {
        let (width, wide) = ([1, 2, 4, 8][i % 4], rng.below(2) == 0);
        let (outer, extent, n) = (rng.range(1, 3) as usize, rng.range(1, 9) as usize, rng.range(1, 7) as usize);
        let inner = rng.pick(&[1, 2, 3, 7, 16, 17, 40]);
        let own = rng.below(2) == 0;
        let index = if own { vec![(n * inner) as isize, inner as isize, 1] } else { vec![0, 1, 0] };
        let x = Strides { start: 0, steps: vec![(extent * inner) as isize, 0, 1] };
        let y = if rng.below(2) == 0 {
            Strides::dense(&[outer, n, inner])
        } else {
            Strides { start: 1, steps: vec![1, outer as isize, (n * outer) as isize] }
        };
        let over = Strided { dims: vec![outer, n, inner], operands: vec![x, Strides { start: 0, steps: index }, y] };
        let places = Places { wide, apart: 1, axes: vec![(extent, inner as isize)] };
        let at = indices(rng, wide, if own { outer * n * inner } else { n }, extent);
        let operands = vec![Operand::Data(rng.bytes(outer * extent * inner * width)), Operand::Data(at)];
        check(What::Gather { width, places, over }, operands, (outer * n * inner + 1) * width, rng);
    }
}

/// Two coordinates, apart from each other, into `[a][b][inner]`.
#[test]
fn gathers_of_coordinates() {
    let rng = &mut Rng(12);
    for i in 0..80 {
        let (width, wide) = ([1, 2, 4, 8][i % 4], rng.below(2) == 0);
        let (a, b, n, inner) = (rng.range(1, 5) as usize, rng.range(1, 5) as usize, rng.range(1, 8) as usize, rng.pick(&[1, 3, 19]));
        let together = rng.below(2) == 0;
        let (step, apart) = if together { (2, 1) } else { (1, n as isize) };
        let steps = |s: [isize; 2]| Strides { start: 0, steps: s.to_vec() };
        let over = Strided { dims: vec![n, inner], operands: vec![steps([0, 1]), steps([step, 0]), steps([inner as isize, 1])] };
        let places = Places { wide, apart, axes: vec![(a, (b * inner) as isize), (b, inner as isize)] };
        let at = indices(rng, wide, 2 * n, a.max(b));
        let operands = vec![Operand::Data(rng.bytes(a * b * inner * width)), Operand::Data(at)];
        check(What::Gather { width, places, over }, operands, n * inner * width, rng);
    }
}

#[test]
fn the_largest_elements() {
    let rng = &mut Rng(13);
    for elem in Scalar::ALL {
        for i in 0..40 {
            let (outer, inner) = (rng.range(1, 3) as usize, rng.pick(&[1, 1, 2, 5]));
            let len = if i % 4 == 0 { rng.range(100, 300) } else { rng.range(1, 20) } as usize;
            let k = if rng.below(3) == 0 { 1 } else { 1 + rng.below(len) };
            let count = outer * len * inner;
            let x = match elem.bytes() {
                4 if rng.below(2) == 0 => rng.wild(count),
                // Few different elements: many ties.
                n if rng.below(2) == 0 => (0..count).flat_map(|_| vec![rng.pick(&[0u8, 1, 0x7f, 0x80, 0xff]); n]).collect(),
                n => rng.bytes(count * n),
            };
            let what = What::TopK { elem, outer, len, inner, k, smallest: rng.below(2) == 0, last: rng.below(2) == 0 };
            check(what, vec![Operand::Data(x)], 8 * outer * k * inner, rng);
        }
    }
}

/// Elements of a type: any bits of integers, small numbers of floats.
fn elements(rng: &mut Rng, s: Scalar, n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|_| {
            let number = if s.is_float() { Number::Real(f64::from(rng.range(-40, 40)) / 8.0) } else { Number::Int(i128::from(rng.bits())) };
            let bits = if s == Scalar::Bool { u64::from(rng.bits() & 1) } else { number.bits(s) };
            bits.to_le_bytes()[..s.bytes()].to_vec()
        })
        .collect()
}

/// A tensor in the arena whose elements are combined with others, and the program around the step.
fn scattered(what: What, indices: Vec<u8>, updates: Vec<u8>, x: Vec<u8>, s: Scalar) -> (Program, Vec<Vec<u8>>) {
    let mut program = Program { name: "step".into(), ..Program::default() };
    let inputs = vec![indices, updates, x];
    let slots: Vec<Slot> = (0..3).map(|i| Slot { base: Base::Input(i), offset: 0, bytes: inputs[i as usize].len() }).collect();
    for (i, data) in inputs.iter().enumerate() {
        program.inputs.push(Port { name: format!("x{i}"), ty: TensorTy::new([data.len()], Scalar::U8) });
    }
    let bytes = slots[2].bytes;
    let (place, around) = (Slot { base: Base::Arena, offset: 64, bytes }, Slot { base: Base::Arena, offset: 0, bytes: bytes + 128 });
    program.arena_bytes = (around.bytes + 64).next_multiple_of(64);
    program.outputs.push(Port { name: "y".into(), ty: TensorTy::new([around.bytes / s.bytes()], s) });
    program.steps.push(fill(around));
    program.steps.push(copy(s.bytes(), slots[2], place));
    let reads = vec![slots[0], slots[1], place];
    program.steps.push(Step { what, how: String::new(), reads, writes: vec![place], origin: Default::default() });
    program.steps.push(copy(s.bytes(), around, Slot { base: Base::Output(0), offset: 0, bytes: around.bytes }));
    (program, inputs)
}

#[test]
fn scatters_of_every_type() {
    let rng = &mut Rng(14);
    for s in Scalar::ALL {
        let functions = [None, Some(Binary::Add), Some(Binary::Mul), Some(Binary::Min), Some(Binary::Max)];
        for reduce in functions.into_iter().filter(|f| f.is_none() || s != Scalar::Bool) {
            for _ in 0..4 {
                let (outer, extent, n) = (rng.range(1, 3) as usize, rng.range(1, 5) as usize, rng.range(1, 9) as usize);
                let (inner, own, wide) = (rng.pick(&[1, 3, 16, 19]), rng.below(2) == 0, rng.below(2) == 0);
                let index = if own { vec![(n * inner) as isize, inner as isize, 1] } else { vec![0, 1, 0] };
                let y = Strides { start: 0, steps: vec![(extent * inner) as isize, 0, 1] };
                let operands = vec![Strides { start: 0, steps: index }, Strides::dense(&[outer, n, inner]), y];
                let over = Strided { dims: vec![outer, n, inner], operands };
                let places = Places { wide, apart: 1, axes: vec![(extent, inner as isize)] };
                let at = indices(rng, wide, if own { outer * n * inner } else { n }, extent);
                let (u, x) = (elements(rng, s, outer * n * inner), elements(rng, s, outer * extent * inner));
                let what = What::Scatter { width: s.bytes(), places, over, reduce: reduce.map(|f| (f, s)) };
                let told = format!("{what:?}");
                let (program, inputs) = scattered(what, at, u, x, s);
                assert_eq!(quernel_interp::verify_program(&program), Ok(()), "{told}");
                agree(&told, &program, &inputs);
            }
        }
    }
}

#[test]
fn folds_and_running_totals_of_every_type() {
    let rng = &mut Rng(15);
    for elem in Scalar::ALL.into_iter().filter(|s| !matches!(s, Scalar::F16 | Scalar::BF16)) {
        for _ in 0..30 {
            let (outer, inner) = (rng.range(1, 3) as usize, rng.pick(&[1, 2, 5]));
            let len = if rng.below(3) == 0 { rng.range(16, 70) } else { rng.range(1, 20) } as usize;
            let x = elements(rng, elem, outer * len * inner);
            let float = elem == Scalar::F32;
            if elem != Scalar::F32 {
                let kind = match elem {
                    Scalar::Bool => rng.pick(&[ReduceKind::Min, ReduceKind::Max]),
                    Scalar::F64 => rng.pick(&ReduceKind::ALL),
                    _ => rng.pick(&[ReduceKind::Sum, ReduceKind::Prod, ReduceKind::Min, ReduceKind::Max]),
                };
                let what = What::Reduce { kind, elem, outer, len, inner };
                check(what, vec![Operand::Data(x.clone())], outer * inner * elem.bytes(), rng);
            }
            if elem != Scalar::Bool {
                let (op, exclusive, reverse) = (rng.pick(&[Binary::Add, Binary::Mul]), rng.below(2) == 0, rng.below(2) == 0);
                let what = What::Cumulative { op, elem, outer, len, inner, exclusive, reverse };
                let told = format!("{what:?}");
                let (program, inputs) = step_program(what, vec![Operand::Data(x)], outer * len * inner * elem.bytes(), float, true);
                agree(&told, &program, &inputs);
            }
        }
    }
}

#[test]
fn products_of_floats() {
    let rng = &mut Rng(16);
    for (outer, len, inner) in [(1, 1, 1), (2, 15, 1), (1, 16, 1), (3, 37, 1), (2, 5, 3), (1, 33, 9)] {
        let x: Vec<u8> = (0..outer * len * inner).flat_map(|_| (rng.range(-300, 300) as f32 / 200.0).to_le_bytes()).collect();
        let what = What::ReduceFloat { kind: ReduceKind::Prod, outer, len, inner };
        let (program, inputs) = step_program(what, vec![Operand::Data(x)], 4 * outer * inner, true, false);
        agree(&(outer, len, inner), &program, &inputs);
    }
}
