//! The emulator against the real CPU: the same code run natively and emulated, instruction by instruction, gives the same
//! bytes. What it adds to this CPU, AVX-512 and AVX-VNNI, is checked by the interpreter's results everywhere else.

use crate::common::{
    Case, Kind, Rng, conv_program,
    emulator::{Answers, Cpu},
    machines::machines,
    outputs,
};
use quernel_codegen::{Jit, Level, Options, Target};
use quernel_ir::{
    op::WindowDim,
    program::{End, WeightLayout},
};

/// A random convolution of bytes.
fn case(rng: &mut Rng) -> Case {
    let depthwise = rng.below(2) == 0;
    let kernel = rng.pick(&[1, 3, 3, 5]);
    let dim = WindowDim { kernel, stride: rng.range(1, 2) as usize, dilation: 1, before: 0, after: 0 };
    let groups = if depthwise { rng.range(1, 70) as usize } else { 1 };
    let end = match rng.below(4) {
        0 => End::Float { lo: f32::NEG_INFINITY, hi: 6.0 },
        _ => End::Requantize { zero: rng.range(0, 9), lo: 0, hi: 250, signed: false },
    };
    let case = Case {
        n: 1,
        h: kernel + rng.below(6),
        w: kernel + rng.below(20),
        i: if depthwise { 1 } else { rng.range(1, 40) as usize },
        o: if depthwise { groups } else { rng.range(1, 70) as usize },
        groups,
        window: [dim, dim],
        layout: if depthwise { WeightLayout::Depthwise } else { WeightLayout::Panels { contiguous: true, depth: 4 } },
        residual: !depthwise && rng.below(2) == 0,
        gap: 0,
        kind: Kind::Int { words: false, signed: false, zero: 3, residual_signed: rng.below(2) == 0, end, extreme: rng.below(8) == 0 },
    };
    assert!(outputs(case.window[0], case.h) > 0);
    case
}

#[test]
fn code_for_this_cpu_gives_the_same_bytes_emulated() {
    let rng = &mut Rng(21);
    let (mut instructions, mut leaves) = (0, 0);
    for number in 0..60 {
        let (program, inputs) = conv_program(&case(rng), rng);
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        for level in Level::host() {
            let mut jit = Jit::new(&program, &Options { level: Some(level), ..Options::default() }).unwrap();
            leaves += jit.kernels().iter().filter(|k| !k.is_empty()).count();
            let native = jit.run(&inputs).unwrap();
            let mut cpu = Cpu::new(true);
            let emulated = jit.run_by(&inputs, |entry, arguments| cpu.call(entry, &arguments) as i32).unwrap();
            assert!(native == emulated, "case {number} at {}", level.name());
            assert_eq!(cpu.calls, 0);
            instructions += cpu.count;
        }
    }
    assert!(instructions > 100_000, "{instructions}");
    assert!(leaves >= 40 || !Level::host().contains(&Level::V256), "{leaves}");
    println!("{instructions} instructions, {leaves} leaf kernels");
}

/// Every kernel of CPUs that this machine cannot stand for is emulated where it matters and nowhere else.
#[test]
fn only_what_this_cpu_lacks_is_emulated() {
    let (program, inputs) = conv_program(&case(&mut Rng(4)), &mut Rng(5));
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    for machine in machines().iter().filter(|m| m.emulated) {
        let mut jit = machine.compile(&program).unwrap();
        let mut cpu = Cpu::new(false);
        jit.run_by(&inputs, |entry, arguments| cpu.call(entry, &arguments) as i32).unwrap();
        // The moves around the layer are 128-bit code.
        assert!(cpu.count > 50 && cpu.calls >= 2, "{machine}: {} instructions, {} calls", cpu.count, cpu.calls);
    }
}

#[test]
fn the_variant_follows_what_the_cpu_says_of_itself() {
    let (program, inputs) = conv_program(&case(&mut Rng(4)), &mut Rng(5));
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let want = quernel_interp::run_program(&program, &inputs).unwrap();
    let old = Answers { highest: 4, ..Answers::default() };
    // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT, OSXSAVE, AVX.
    let leaf1_ecx = [0, 9, 12, 13, 19, 20, 23, 27, 28].iter().fold(0, |v, b| v | 1u32 << b);
    let avx2 = Answers { highest: 7, leaf1_ecx, extended_ecx: 1 << 5, leaf7_ebx: 1 << 3 | 1 << 5 | 1 << 8, xcr0: 7, ..Answers::default() };
    let vnni = Answers { leaf7_1_eax: 1 << 4, ..avx2 };
    let avx512 = Answers {
        leaf7_ebx: avx2.leaf7_ebx | 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31,
        leaf7_ecx: 1 << 1 | 1 << 11 | 1 << 12,
        xcr0: 0xe7,
        ..avx2
    };
    let cases = [
        ("before AVX", 0, old),
        ("AVX2", 1, avx2),
        ("AVX2 that the system does not save", 0, Answers { xcr0: 3, ..avx2 }),
        ("AVX2 without FMA", 0, Answers { leaf1_ecx: leaf1_ecx & !(1 << 12), ..avx2 }),
        ("AVX2 without LZCNT", 0, Answers { extended_ecx: 0, ..avx2 }),
        ("AVX-VNNI", 2, vnni),
        ("AVX-512", 3, avx512),
        ("AVX-512 and AVX-VNNI", 3, Answers { leaf7_1_eax: 1 << 4, ..avx512 }),
        ("AVX-512 that the system does not save", 1, Answers { xcr0: 7, ..avx512 }),
        ("AVX-512 without VNNI", 1, Answers { leaf7_ecx: 1 << 1 | 1 << 12, ..avx512 }),
        ("AVX-512 without BW, AVX-VNNI", 2, Answers { leaf7_ebx: avx512.leaf7_ebx & !(1 << 30), ..vnni }),
    ];
    let multi = Target::parse(None, Some("multi")).unwrap();
    for (about, variant, answers) in cases {
        let mut jit = Jit::for_target(&program, &multi, &Options::default()).unwrap();
        let got = jit.run_by(&inputs, |entry, arguments| Cpu::new(false).answering(answers).call(entry, &arguments) as i32).unwrap();
        assert_eq!(jit.variant(), Some(variant), "{about}");
        assert!(got == want, "{about}");
    }
}
