//! Whole random programs: compiled code gives the interpreter's bytes for every kind of step, on every level.

use crate::common::differences;
use quernel_ir::{
    Binary, Scalar, Stage, Unary, plain,
    program::{Program, Strided, Strides, What},
    verify,
};
use quernel_lower::{Options, lower};
use std::collections::{BTreeMap, BTreeSet};

/// Number of random graphs; `QUERNEL_CASES` asks for more, `QUERNEL_FIRST` starts elsewhere.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The program of a random graph, and bytes for its inputs.
fn program(seed: u64, ops: usize) -> (Program, Vec<Vec<u8>>) {
    let g = quernel_test::Net::random(seed, ops);
    let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
    let lowered = lower(&proof, &Options { in_place: !seed.is_multiple_of(3), ..Options::default() })
        .unwrap_or_else(|d| panic!("seed {seed}: {d:?}"));
    let inputs = quernel_test::inputs(&g, seed).iter().map(|t| t.bytes().to_vec()).collect();
    (lowered.program, inputs)
}

#[test]
fn random_programs_of_every_step() {
    let (first, count) = (setting("QUERNEL_FIRST", 0), setting("QUERNEL_CASES", 480));
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for seed in first..first + count {
        let (program, inputs) = program(seed, 8 + seed as usize % 16);
        for step in &program.steps {
            *seen.entry(step.what.name()).or_default() += 1;
            if let What::Conv { conv, .. } | What::ConvFloat { conv, .. } = &step.what
                && conv.residual.is_some()
            {
                *seen.entry("residual").or_default() += 1;
            }
        }
        if let Some(difference) = differences(seed, &program, &inputs) {
            wrong.push(format!("seed {seed}: {difference}"));
            if wrong.len() >= 20 {
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let kinds = [
        "quantize",
        "dequantize",
        "conv",
        "conv_f32",
        "conv_words",
        "pool",
        "pool_f32",
        "lookup",
        "unary_f32",
        "binary",
        "binary_f32",
        "matmul_f32",
        "pack_panels",
        "matmul",
        "reduce_f32",
        "softmax_f32",
        "softmax",
        "gather",
        "scatter",
        "top_k",
        "move",
        "fill",
        "residual",
    ];
    for kind in kinds {
        assert!(count < 480 || seen.get(kind).is_some_and(|n| *n >= 20), "{kind} in {seen:?}");
    }
    println!("{seen:?}");
}

/// Every cast, and every function of plain numbers and of f32.
fn plain_steps() -> Vec<Program> {
    let over = || Strided { dims: vec![5], operands: vec![Strides::dense(&[5]); 3] };
    let mut all: Vec<(What, Vec<usize>, usize)> = Vec::new();
    for from in Scalar::ALL {
        let others = Scalar::ALL.into_iter().filter(|to| *to != from);
        all.extend(others.map(|to| (What::Cast { from, to, count: 5 }, vec![from.bytes()], to.bytes())));
    }
    for s in [Scalar::F64, Scalar::I64, Scalar::U64, Scalar::I32, Scalar::U8] {
        for op in Binary::ALL.into_iter().filter(|op| s != Scalar::F64 || plain::double_has(*op)) {
            all.push((What::BinaryPlain { op, scalar: s, over: over() }, vec![s.bytes(); 2], s.bytes()));
        }
    }
    for op in [Binary::Pow, Binary::Remainder, Binary::Modulo] {
        all.push((What::BinaryFloat { op, over: over(), lo: f32::NEG_INFINITY, hi: f32::INFINITY }, vec![4; 2], 4));
    }
    for op in [Unary::Sqrt, Unary::Neg, Unary::Abs] {
        all.push((What::UnaryDouble { op, count: 5 }, vec![8], 8));
    }
    all.extend(Unary::ALL.into_iter().map(|op| (What::UnaryFloat { op, count: 5 }, vec![4], 4)));
    let program = |(what, reads, write): (What, Vec<usize>, usize)| {
        let operands = reads.iter().map(|width| crate::common::Operand::Data(vec![0; 5 * width])).collect();
        crate::common::step_program(what, operands, 5 * write, false, false).0
    };
    all.into_iter().map(program).collect()
}

/// On every target, at its lowest and highest level: no step of any kind calls a library.
#[test]
fn no_step_needs_a_library() {
    use object::{Object, ObjectSymbol};
    use quernel_codegen::{Level, Target, targets};
    let transposes = [3, 8].map(|rows| {
        let dims = vec![40, rows];
        let from = Strides { start: 0, steps: vec![1, 40] };
        let what = What::Move { width: 1, over: Strided { operands: vec![from, Strides::dense(&dims)], dims } };
        crate::common::step_program(what, vec![crate::common::Operand::Data(vec![0; 40 * rows])], 40 * rows, false, false).0
    });
    // Random programs until every kind of step occurred.
    let mut kinds = BTreeSet::new();
    let mut programs: Vec<Program> =
        (0..100).map(|seed| program(seed, 20).0).filter(|p| p.steps.iter().filter(|s| kinds.insert(s.what.name())).count() > 0).collect();
    assert!(kinds.len() >= 23, "{kinds:?}");
    programs.extend(transposes);
    programs.extend(plain_steps());
    for info in targets() {
        let mut cpus = vec![info.cpus[0].name, info.cpus[info.cpus.len() - 1].name];
        cpus.dedup();
        for cpu in cpus {
            let target = Target::parse(Some(info.triple), Some(cpu)).unwrap();
            let mut levels = vec![Level::Scalar, target.level()];
            levels.dedup();
            for level in levels {
                for (i, program) in programs.iter().enumerate() {
                    let options = quernel_codegen::Options { level: Some(level), ..Default::default() };
                    let made =
                        quernel_codegen::object(program, &target, &options).unwrap_or_else(|e| panic!("{target} {level:?} {i}: {e}"));
                    let file = object::File::parse(&*made.bytes).unwrap();
                    let undefined = file.symbols().find(|s| s.index().0 != 0 && s.is_undefined());
                    assert!(undefined.is_none(), "{target} {level:?} {i}: {:?}", undefined.and_then(|s| s.name().ok().map(str::to_owned)));
                }
            }
        }
    }
}

/// Callers' tensors have nothing behind them that may be read: here an unmapped page follows each.
#[cfg(target_os = "linux")]
#[test]
fn inputs_are_not_read_past_their_ends() {
    use quernel_codegen::{Jit, Level};
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
        fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int;
        fn munmap(address: *mut c_void, length: usize) -> c_int;
    }
    const PAGE: usize = 1 << 14;
    for seed in 0..setting("QUERNEL_CASES", 300) / 3 {
        let (program, inputs) = program(seed, 8);
        let expected = quernel_interp::run_program(&program, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let mut maps = Vec::new();
        let guarded: Vec<&[u8]> = inputs
            .iter()
            .map(|bytes| {
                let length = bytes.len().next_multiple_of(PAGE) + PAGE;
                // SAFETY: fresh private memory (read and write, anonymous); the last page is made inaccessible.
                unsafe {
                    let map = mmap(std::ptr::null_mut(), length, 3, 0x22, -1, 0).cast::<u8>();
                    assert!(map as isize != -1 && mprotect(map.add(length - PAGE).cast(), PAGE, 0) == 0);
                    maps.push((map, length));
                    let start = map.add(length - PAGE - bytes.len().next_multiple_of(8));
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
                    std::slice::from_raw_parts(start, bytes.len())
                }
            })
            .collect();
        for level in Level::host() {
            let options = quernel_codegen::Options { level: Some(level), ..Default::default() };
            let got = Jit::new(&program, &options).and_then(|mut j| j.run(&guarded)).unwrap();
            assert!(got.iter().zip(&expected).all(|(a, b)| a.len() == b.len()), "seed {seed}");
        }
        for (map, length) in maps {
            // SAFETY: mapped above, no longer used.
            unsafe { munmap(map.cast(), length) };
        }
    }
}

/// An object of several variants gives the same bytes whichever runs, and picks the best of this machine by itself.
#[cfg(target_arch = "x86_64")]
#[test]
fn every_variant_of_a_multi_target_program() {
    use quernel_codegen::{Jit, Target};
    let runs_here: [bool; 4] = {
        let has = |names: &[&str]| names.iter().all(|n| Target::host().unwrap().has(n));
        [true, has(&["avx2", "fma"]), has(&["avx_vnni"]), has(&["avx512vnni", "avx512vl", "avx512bw", "avx512vbmi", "avx512bitalg"])]
    };
    let multi = Target::parse(None, Some("multi")).unwrap();
    for seed in 0..setting("QUERNEL_CASES", 300) / 10 {
        let (program, inputs) = program(seed, 16);
        let bytes: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let want = quernel_interp::run_program(&program, &bytes).unwrap();
        let mut jit = Jit::for_target(&program, &multi, &quernel_codegen::Options::default()).unwrap();
        assert!(jit.variant().is_none(), "selected before the first call");
        assert!(jit.run(&bytes).unwrap() == want, "seed {seed}, selected");
        let best = runs_here.iter().rposition(|r| *r).unwrap() as u32;
        assert_eq!(jit.variant(), Some(best));
        for number in 0..4 {
            assert!(jit.force_variant(number));
            let got = if runs_here[number as usize] {
                jit.run(&bytes)
            } else {
                jit.run_by(&bytes, |entry, arguments| crate::common::emulator::Cpu::new(false).call(entry, &arguments) as i32)
            };
            assert!(got.unwrap() == want, "seed {seed}, variant {number}");
        }
        assert!(!jit.force_variant(4));
    }
}
