//! The instructions on which the speed of a level hangs, read back from the machine code of an object: their names, widths
//! and encodings. An EVEX form in code for AVX-VNNI, or a narrow form in code for AVX-512, would go unnoticed otherwise.

use crate::common::{Case, Kind, Rng, conv_program, twice};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol};
use quernel_codegen::{Options, Target, object as compile};
use quernel_ir::{
    op::WindowDim,
    program::{End, WeightLayout},
};

/// The kernel of a layer on a CPU, in front of another one, and its instructions. `most`: the weights.
fn instructions(cpu: &str, kernel: usize, depthwise: bool, most: i8) -> (String, Vec<Instruction>) {
    kernel_of(cpu, kernel, depthwise, &|_| most)
}

/// The same with a weight for every place in memory.
fn kernel_of(cpu: &str, kernel: usize, depthwise: bool, weight: &dyn Fn(usize) -> i8) -> (String, Vec<Instruction>) {
    let dim = WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 };
    let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
    let case = Case {
        n: 1,
        h: 12,
        w: 12,
        i: if depthwise { 1 } else { 64 },
        o: 64,
        groups: if depthwise { 64 } else { 1 },
        window: [dim, dim],
        layout: if depthwise { WeightLayout::Depthwise } else { WeightLayout::Panels { contiguous: true, depth: 4 } },
        residual: false,
        gap: 0,
        kind: Kind::Int { words: false, signed: false, zero: 0, residual_signed: false, end, extreme: false },
    };
    let (mut program, _) = conv_program(&case, &mut Rng(3));
    for id in program.blobs.ids().collect::<Vec<_>>() {
        if program.blobs[id].name == "w" {
            program.blobs[id].bytes = (0..program.blobs[id].bytes.len()).map(|at| weight(at) as u8).collect::<Vec<u8>>().into();
        }
    }
    twice(&mut program);
    let target = Target::parse(Some("x86_64-unknown-linux-gnu"), Some(cpu)).unwrap();
    let made = compile(&program, &target, &Options::default()).unwrap();
    let function = made.functions.iter().find(|f| f.kernel.contains("u8s8")).unwrap_or_else(|| panic!("{cpu}: no leaf"));
    let file = object::File::parse(&*made.bytes).unwrap();
    let symbol = file.symbols().find(|s| s.name() == Ok(&function.name)).unwrap();
    let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
    let at = (symbol.address() - section.address()) as usize;
    let code = &section.data().unwrap()[at..at + function.bytes];
    let mut all = Vec::new();
    for instruction in &mut Decoder::new(64, code, DecoderOptions::NONE) {
        let end = instruction.mnemonic() == Mnemonic::Ret;
        all.push(instruction);
        if end {
            break;
        }
    }
    (function.kernel.clone(), all)
}

#[test]
fn products_have_the_width_and_encoding_of_the_level() {
    use Code::*;
    let all = [VEX_Vpdpbusd_ymm_ymm_ymmm256, EVEX_Vpdpbusd_ymm_k1z_ymm_ymmm256b32, EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32]
        .into_iter()
        .chain([VEX_Vpmaddwd_ymm_ymm_ymmm256, VEX_Vpmaddubsw_ymm_ymm_ymmm256, EVEX_Vpdpbusd_xmm_k1z_xmm_xmmm128b32]);
    let all: Vec<Code> = all.collect();
    // CPU, largest weight, the products, and how many at least: a panel of sixteen channels by several pixels.
    let cases: [(&str, i8, &[Code]); 5] = [
        ("haswell", 127, &[VEX_Vpmaddwd_ymm_ymm_ymmm256]),
        ("haswell", 63, &[VEX_Vpmaddubsw_ymm_ymm_ymmm256, VEX_Vpmaddwd_ymm_ymm_ymmm256]),
        ("alderlake", 127, &[VEX_Vpdpbusd_ymm_ymm_ymmm256]),
        ("znver4", 127, &[EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32]),
        ("cascadelake", 127, &[EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32]),
    ];
    for (cpu, most, products) in cases {
        for (kernel, depthwise) in [(1, false), (3, false), (3, true), (5, true)] {
            let (name, code) = instructions(cpu, kernel, depthwise, most);
            for c in &all {
                let count = code.iter().filter(|i| i.code() == *c).count();
                if products.contains(c) {
                    assert!(count >= 12, "{cpu} {name}: {count} of {c:?}");
                } else {
                    assert_eq!(count, 0, "{cpu} {name}: {c:?}");
                }
            }
        }
    }
}

/// Layers with byte dot products ask for later weights, this one in 512-bit vectors in its inner loop; others ask for nothing.
#[test]
fn weights_are_asked_for() {
    for (cpu, some) in [("znver4", true), ("cascadelake", true), ("alderlake", true), ("haswell", false)] {
        for (kernel, depthwise) in [(3, false), (3, true)] {
            let (name, code) = instructions(cpu, kernel, depthwise, 127);
            let asked: Vec<u64> = code.iter().filter(|i| i.mnemonic() == Mnemonic::Prefetcht1).map(|i| i.ip()).collect();
            assert_eq!(!asked.is_empty(), some && !depthwise, "{cpu} {name}");
            for at in asked.into_iter().filter(|_| name.ends_with("__avx512vnni")) {
                let back = |i: &&Instruction| i.is_jcc_short_or_near() && i.near_branch_target() <= at && at < i.ip();
                let around = code.iter().filter(back).map(|i| (i.near_branch_target(), i.ip())).min_by_key(|(from, to)| to - from).unwrap();
                let inside = code.iter().filter(|i| (around.0..around.1).contains(&i.ip()));
                assert!(inside.clone().any(|i| i.mnemonic() == Mnemonic::Vpdpbusd), "{cpu} {name}");
                assert!(inside.clone().all(|i| i.mnemonic() != Mnemonic::Vcvtps2dq), "{cpu} {name}");
            }
        }
    }
}

/// Operands of AVX2 widen in one loop per size of strip, not with every product; where most blocks allow it, bytes multiply.
#[test]
fn operands_widen_once() {
    let count = |code: &[Instruction], m: Mnemonic| code.iter().filter(|i| i.mnemonic() == m).count();
    for kernel in [1, 3] {
        let (name, code) = instructions("haswell", kernel, false, 127);
        assert!(name.ends_with("__avx2_widened"), "{name}");
        assert!(count(&code, Mnemonic::Vpand) <= 4 && count(&code, Mnemonic::Vpmaddwd) >= 80, "{name}");
    }
    // Every sixteenth block of four taps and sixteen channels has weights that leave 16 bits.
    let (name, code) = kernel_of("haswell", 3, false, &|at| if at / 64 % 16 == 5 { 127 } else { 31 });
    assert!(name.ends_with("__avx2_mixed"), "{name}");
    assert!(count(&code, Mnemonic::Vpmaddubsw) >= 10 && count(&code, Mnemonic::Vpand) <= 4, "{name}");
}

/// Sums stay in registers, and CPUs without AVX-512 get none of it.
#[test]
fn no_spills_and_no_evex_before_avx512() {
    for cpu in ["haswell", "alderlake", "znver4"] {
        for (kernel, depthwise) in [(1, false), (3, false), (3, true), (5, true)] {
            let (name, code) = instructions(cpu, kernel, depthwise, 127);
            for i in &code {
                let text = format!("{:?}", i.code());
                assert!(cpu == "znver4" || !text.starts_with("EVEX"), "{cpu} {name}: {text}");
                let vector = ["xmm", "ymm", "zmm"].iter().any(|r| text.contains(r));
                assert!(!(vector && i.memory_base() == iced_x86::Register::RSP), "{cpu} {name}: a spill, {text}");
            }
        }
    }
}
