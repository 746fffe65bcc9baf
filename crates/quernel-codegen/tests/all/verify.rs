//! The checker of objects: it accepts every object that is made, on every target, and nothing that was changed. Each
//! change must break the promise that it is about; the hash in the header is made to fit, so that it hides nothing.

use crate::common::{Case, Kind, Operand, Rng, conv_program, step_program};
use crate::elf::{Elf, HEADER, RELOCATION, SYMBOL};
use quernel_codegen::{Fault, Level, Options, Promise, Target, header, object, targets, verify};
use quernel_ir::{
    Program, Unary,
    op::WindowDim,
    program::{End, WeightLayout, What},
    tensor::fnv1a,
};

const X86: &str = "x86_64-unknown-linux-gnu";
const ARM: &str = "aarch64-unknown-linux-gnu";
const RISCV: &str = "riscv64gc-unknown-linux-gnu";
const S390X: &str = "s390x-unknown-linux-gnu";

fn program(layout: WeightLayout, float: bool) -> Program {
    let dim = |kernel| WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 };
    let groups = if layout == WeightLayout::Depthwise { 19 } else { 1 };
    let end = End::Requantize { zero: 3, lo: 0, hi: 255, signed: false };
    let int = Kind::Int { words: false, signed: false, zero: 0, residual_signed: false, end, extreme: false };
    let kind = if float { Kind::Float { lo: 0.0, hi: 6.0 } } else { int };
    let case = Case { n: 1, h: 7, w: 9, i: 19 / groups, o: 19, groups, window: [dim(3), dim(2)], layout, residual: true, gap: 0, kind };
    conv_program(&case, &mut Rng(5)).0
}

/// A layer whose kernel for AVX2 widens operands on the stack.
fn strips() -> Program {
    let dim = WindowDim { kernel: 3, stride: 1, dilation: 1, before: 0, after: 0 };
    let end = End::Requantize { zero: 3, lo: 0, hi: 255, signed: false };
    let kind = Kind::Int { words: false, signed: false, zero: 0, residual_signed: false, end, extreme: false };
    let case = Case { n: 1, h: 4, w: 14, i: 256, o: 24, groups: 1, window: [dim, dim], layout: panels(4), residual: true, gap: 0, kind };
    let on_the_stack = |program: &Program| {
        let made = object(program, &Target::parse(Some(X86), Some("haswell")).unwrap(), &Options::default()).unwrap();
        made.functions.iter().any(|f| f.kernel.ends_with("_widened"))
    };
    (0..20).map(|seed| conv_program(&case, &mut Rng(seed)).0).find(on_the_stack).expect("weights of all sizes")
}

fn panels(depth: usize) -> WeightLayout {
    WeightLayout::Panels { contiguous: true, depth }
}

/// An object with its header.
fn made(triple: &str, cpu: &str, level: Option<Level>, program: &Program) -> (Vec<u8>, String) {
    let target = Target::parse(Some(triple), Some(cpu)).unwrap();
    let options = Options { name: "net".into(), level, model_hash: Some(7), ..Options::default() };
    let made = object(program, &target, &options).unwrap_or_else(|e| panic!("{target}: {e}"));
    let header = header(program, &target, &options, &made);
    (made.bytes, header)
}

#[test]
fn every_object_keeps_its_promises() {
    let programs = [
        program(panels(4), false),
        program(WeightLayout::Depthwise, false),
        program(WeightLayout::Plain, false),
        program(panels(1), true),
        strips(),
    ];
    let (mut count, mut large) = (0, 0);
    for info in targets() {
        let mut cpus: Vec<&str> = info.cpus.iter().map(|c| c.name).collect();
        cpus.dedup_by_key(|name| Target::parse(Some(info.triple), Some(*name)).unwrap().extensions().to_vec());
        for cpu in cpus {
            let best = Target::parse(Some(info.triple), Some(cpu)).unwrap().level();
            let mut levels: Vec<Option<Level>> = vec![None, Some(Level::Scalar), Some(best)];
            levels.dedup();
            for level in levels {
                for program in &programs {
                    let (bytes, header) = made(info.triple, cpu, level, program);
                    let v = verify(&bytes, Some(&header)).unwrap_or_else(|f| panic!("{} {cpu} {level:?}: {f:#?}", info.triple));
                    assert_eq!((v.name.as_str(), v.target.as_str()), ("net", info.triple));
                    assert_eq!(v.writable_bytes, if cpu == "multi" && level.is_none() { 4 } else { 0 });
                    // The promise is kept and not far off.
                    assert!(v.stack_found <= v.stack_promised && v.stack_promised <= v.stack_found + 400, "{} {cpu}: {v:?}", info.triple);
                    assert!(v.instructions > 100 && v.functions >= 6, "{v:?}");
                    count += 1;
                    large += usize::from(v.stack_promised > 16 << 10);
                }
            }
        }
    }
    // AVX2 alone and in objects of several levels.
    assert!(large >= 4, "{large}");
    println!("{count} objects");
}

/// A frame of more bytes than an instruction of RISC-V can add at once.
#[test]
fn large_frames_are_understood() {
    let what = What::UnaryFloat { count: 300, op: Unary::Mish };
    let (program, _) = step_program(what, vec![Operand::Data(vec![0; 1200])], 1200, true, false);
    let (bytes, header) = made(RISCV, "rv64gcv", None, &program);
    let v = verify(&bytes, Some(&header)).unwrap_or_else(|f| panic!("{f:#?}"));
    assert!(v.stack_found > 2048, "{v:?}");
}

/// The header with the hash of a changed object, so that only what was changed can be noticed.
fn fitting(header: &str, object: &[u8]) -> String {
    let mut lines: Vec<String> = header.lines().map(str::to_owned).collect();
    for line in lines.iter_mut().filter(|l| l.contains("_OBJECT_HASH")) {
        *line = format!("#define NET_OBJECT_HASH \"{:016x}\"", fnv1a(object));
    }
    lines.join("\n")
}

fn caught(what: &str, promise: Promise, result: Result<quernel_codegen::Verified, Vec<Fault>>) {
    let faults = result.err().unwrap_or_else(|| panic!("{what}: not noticed"));
    assert!(faults.iter().any(|f| f.promise == promise), "{what}: only {faults:#?}");
}

/// Machine code in the place of a function's first instructions, and the promise it breaks.
fn code(triple: &str) -> Vec<(&'static str, &'static [u8], Promise)> {
    use Promise::{Code, Control, Memory, Stack, System};
    match triple {
        X86 => vec![
            ("syscall", &[0x0f, 0x05], System),
            ("sysenter", &[0x0f, 0x34], System),
            ("int 0x80", &[0xcd, 0x80], System),
            ("int3", &[0xcc], System),
            ("hlt", &[0xf4], System),
            ("cli", &[0xfa], System),
            ("in", &[0xec], System),
            ("out", &[0xee], System),
            ("cpuid", &[0x0f, 0xa2], System),
            ("xgetbv", &[0x0f, 0x01, 0xd0], System),
            ("rdtsc", &[0x0f, 0x31], System),
            ("rdrand", &[0x0f, 0xc7, 0xf0], System),
            ("rdmsr", &[0x0f, 0x32], System),
            ("wrmsr", &[0x0f, 0x30], System),
            ("ldmxcsr", &[0x0f, 0xae, 0x54, 0x24, 0x08], System),
            ("mov cr0", &[0x0f, 0x22, 0xc0], System),
            ("mov ds", &[0x8e, 0xd8], System),
            ("push fs", &[0x0f, 0xa0], System),
            ("fld", &[0xd9, 0xe8], System),
            ("emms", &[0x0f, 0x77], System),
            ("xsave", &[0x0f, 0xae, 0x27], System),
            ("maskmovdqu", &[0x66, 0x0f, 0xf7, 0xc1], System),
            ("fs:", &[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], Code),
            ("lock add", &[0xf0, 0x48, 0x01, 0x07], Code),
            ("rep movsb", &[0xf3, 0xa4], Code),
            ("no opcode", &[0x0f, 0x04], Code),
            ("jmp rax", &[0xff, 0xe0], Control),
            ("call rax", &[0xff, 0xd0], Control),
            ("jmp [rip]", &[0xff, 0x25, 0, 0, 0, 0], Control),
            ("call [rdi]", &[0xff, 0x17], Control),
            ("ret 8", &[0xc2, 8, 0], Control),
            ("iretq", &[0x48, 0xcf], System),
            ("jmp out", &[0xe9, 0, 0, 0x10, 0], Control),
            ("jz back out", &[0x0f, 0x84, 0, 0, 0xf0, 0xff], Control),
            ("jmp into itself", &[0xeb, 0xff, 0xc0], Code),
            ("loop", &[0xe2, 0x02], Control),
            ("call without relocation", &[0xe8, 0, 0, 0, 0], Control),
            ("sub rsp, 1 MiB", &[0x48, 0x81, 0xec, 0, 0, 0x10, 0, 0x48, 0x81, 0xc4, 0, 0, 0x10, 0, 0xc3], Stack),
            ("push", &[0x50, 0xc3], Stack),
            ("pop", &[0x58, 0xc3], Stack),
            ("pop rsp", &[0x5c], Stack),
            ("mov rsp, rax", &[0x48, 0x89, 0xc4], Stack),
            ("xchg rsp, rax", &[0x48, 0x94], Stack),
            ("and rsp", &[0x48, 0x83, 0xe4, 0xf0], Stack),
            ("sub rsp, rax", &[0x48, 0x29, 0xc4], Stack),
            ("mov rsp, rbp", &[0x48, 0x89, 0xec], Stack),
            ("push in a loop", &[0x50, 0xeb, 0xfd], Stack),
            ("store below the stack", &[0x48, 0x89, 0x44, 0x24, 0xf0], Stack),
            ("store above the frame", &[0x48, 0x89, 0x44, 0x24, 0x40], Stack),
            ("store beside the code", &[0x48, 0x89, 0x05, 0, 0, 0, 0], Memory),
            ("load from elsewhere", &[0x48, 0x8b, 0x05, 0, 0, 0x10, 0], Memory),
        ],
        ARM => vec![
            ("address of the return from a register", &[0xfe, 0x03, 0x00, 0xaa], Control),
            ("address of the return from memory", &[0x1e, 0x00, 0x40, 0xf9], Control),
            ("two registers from memory", &[0x1d, 0x78, 0x40, 0xa9], Control),
            ("svc", &[0x01, 0, 0, 0xd4], System),
            ("hvc", &[0x02, 0, 0, 0xd4], System),
            ("brk", &[0, 0, 0x20, 0xd4], System),
            ("msr daif", &[0x20, 0x42, 0x1b, 0xd5], System),
            ("mrs tpidr", &[0x40, 0xd0, 0x3b, 0xd5], System),
            ("mrs fpcr", &[0x00, 0x44, 0x3b, 0xd5], System),
            ("dc zva", &[0x20, 0x74, 0x0b, 0xd5], System),
            ("dmb", &[0xbf, 0x3b, 0x03, 0xd5], System),
            ("wfi", &[0x7f, 0x20, 0x03, 0xd5], System),
            ("ldxr", &[0x20, 0x7c, 0x5f, 0xc8], System),
            ("ldadd", &[0x41, 0, 0x20, 0xf8], System),
            ("add z0.b", &[0, 0, 0x20, 0x04], Code),
            ("reserved", &[0, 0, 0, 0x02], Code),
            ("br x0", &[0, 0, 0x1f, 0xd6], Control),
            ("blr x0", &[0, 0, 0x3f, 0xd6], Control),
            ("ret x1", &[0x20, 0, 0x5f, 0xd6], Control),
            ("b out", &[0, 0, 0x40, 0x14], Control),
            ("cbz out", &[0, 0, 0x80, 0xb4], Control),
            ("bl without relocation", &[0, 0, 0, 0x94], Control),
            ("sub sp, 1 MiB", &[0xff, 0x03, 0x44, 0xd1, 0xff, 0x03, 0x44, 0x91, 0xc0, 0x03, 0x5f, 0xd6], Stack),
            ("sub sp and ret", &[0xff, 0x43, 0, 0xd1, 0xc0, 0x03, 0x5f, 0xd6], Stack),
            ("mov sp, x0", &[0x1f, 0, 0, 0x91], Stack),
            ("adrp without relocation", &[0, 0, 0, 0x90], Memory),
            ("ldr from elsewhere", &[0, 0, 0x40, 0x58], Memory),
        ],
        RISCV => vec![
            ("address of the return from a register", &[0x93, 0x00, 0x05, 0x00], Control),
            ("address of the return from memory", &[0x83, 0x30, 0x05, 0x00], Control),
            ("stack from a float", &[0x53, 0x01, 0x05, 0xe2], Stack),
            ("ecall", &[0x73, 0, 0, 0], System),
            ("ebreak", &[0x73, 0, 0x10, 0], System),
            ("rdcycle", &[0x73, 0x25, 0, 0xc0], System),
            ("frrm", &[0x73, 0x25, 0x20, 0], System),
            ("fence", &[0x0f, 0, 0xf0, 0x0f], System),
            ("amoadd", &[0x2f, 0x25, 0xb5, 0], System),
            ("compressed", &[0x01, 0, 0x01, 0], Code),
            ("jalr", &[0x67, 0x80, 0x05, 0], Control),
            ("jal ra", &[0xef, 0, 0x40, 0], Control),
            ("j out", &[0x6f, 0xf0, 0xff, 0x7f], Control),
            ("addi sp and ret", &[0x13, 0x01, 0x01, 0xff, 0x67, 0x80, 0, 0], Stack),
            ("mv sp, a0", &[0x13, 0x01, 0x05, 0], Stack),
            ("auipc without relocation", &[0x17, 0x05, 0x10, 0], Memory),
        ],
        _ => vec![
            ("svc", &[0x0a, 1], System),
            ("stck", &[0xb2, 0x05, 0x20, 0], System),
            ("lpsw", &[0x82, 0, 0x20, 0], System),
            ("sfpc", &[0xb3, 0x84, 0, 0], System),
            ("cs", &[0xba, 0x12, 0x20, 0], System),
            ("br %r1", &[0x07, 0xf1], Control),
            ("basr", &[0x0d, 0xe1], Control),
            ("ex", &[0x44, 0x10, 0x20, 0], Control),
            ("j out", &[0xa7, 0xf4, 0x7f, 0xff], Control),
            ("aghi and br", &[0xa7, 0xfb, 0xff, 0xf0, 0x07, 0xfe], Stack),
            ("lgr %r15, %r1", &[0xb9, 0x04, 0, 0xf1], Stack),
            ("larl elsewhere", &[0xc0, 0x10, 0x7f, 0xff, 0xff, 0xff], Memory),
        ],
    }
}

#[test]
fn changed_code_is_noticed() {
    let mut kinds = 0;
    for triple in [X86, ARM, RISCV, S390X] {
        let (bytes, header) = made(triple, if triple == X86 { "multi" } else { "generic" }, None, &program(panels(4), false));
        // A step, a function that calls, the entry: what is allowed in the guard is not allowed in them.
        let elf = Elf::new(&bytes);
        let functions: Vec<String> =
            elf.functions().into_iter().filter(|n| n.contains("conv") || n.ends_with("_body") || n.ends_with("_run")).collect();
        assert!(functions.len() >= 3, "{functions:?}");
        for (what, patch, promise) in code(triple) {
            kinds += 1;
            for function in &functions {
                let (at, size) = elf.function(function);
                if size < patch.len() {
                    continue;
                }
                let mut changed = bytes.clone();
                changed[at..at + patch.len()].copy_from_slice(patch);
                caught(&format!("{triple}: {what} in {function}"), promise, verify(&changed, Some(&fitting(&header, &changed))));
            }
        }
    }
    assert!(kinds >= 100, "{kinds}");
}

#[test]
fn changed_structure_is_noticed() {
    use Promise::{Control, Format, Memory, Relocations, Stack, Symbols};
    let (bytes, header) = made(X86, "multi", None, &program(panels(4), false));
    let elf = Elf::new(&bytes);
    let check = |what: &str, promise: Promise, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        assert!(changed != bytes, "{what} changes nothing");
        caught(what, promise, verify(&changed, Some(&fitting(&header, &changed))));
    };
    let run = elf.symbol("net_run");
    let body = elf.symbol("net_body");
    check("undefined entry", Symbols, &|b| b[run + SYMBOL.section..][..2].fill(0));
    check("undefined function", Symbols, &|b| b[body + SYMBOL.section..][..2].fill(0));
    check("common symbol", Symbols, &|b| b[body + SYMBOL.section..][..2].copy_from_slice(&0xfff2u16.to_le_bytes()));
    check("weak symbol", Symbols, &|b| b[run + SYMBOL.info] = 0x22);
    check("one more global symbol", Symbols, &|b| b[body + SYMBOL.info] = 0x12);
    check("hidden entry", Symbols, &|b| b[run + SYMBOL.info] = 0x02);
    check("function that is too long", Symbols, &|b| b[body + SYMBOL.size..][..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    check("function outside its section", Symbols, &|b| b[body + SYMBOL.value..][..8].copy_from_slice(&(1u64 << 40).to_le_bytes()));
    check("function that starts too late", Stack, &|b| b[body + SYMBOL.value] += 4);
    let text = elf.section(".text");
    let constants = elf.section(".rodata");
    let word = elf.section(".bss");
    check("writable code", Memory, &|b| b[text + HEADER.flags] |= 1);
    check("constants that can be executed", Relocations, &|b| b[constants + HEADER.flags] |= 4);
    check("writable constants", Memory, &|b| b[constants + HEADER.flags] |= 1);
    check("thread-local word", Memory, &|b| b[word + HEADER.flags + 1] |= 4);
    check("more writable memory", Memory, &|b| b[word + HEADER.size] = 64);
    let stack = elf.any_section(".note.GNU-stack");
    check("executable stack", Format, &|b| b[stack + HEADER.flags] |= 4);
    check("loaded note", Format, &|b| b[stack + HEADER.flags] |= 2);
    let name = |section: usize| -> [u8; 4] { bytes[section..section + 4].try_into().unwrap() };
    check("code in a section of another name", Format, &|b| b[text..text + 4].copy_from_slice(&name(word)));
    check("constants in a section of another name", Format, &|b| b[constants..constants + 4].copy_from_slice(&name(text)));
    check("no word on the stack", Memory, &|b| b[stack..stack + 4].copy_from_slice(&name(constants)));
    for kind in [0u8, 1, 5, 6, 10] {
        check(&format!("entry of type {kind}"), Symbols, &|b| b[run + SYMBOL.info] = 0x10 | kind);
    }
    let table = elf.section(".rela.text");
    check("relocations of another table", Format, &|b| b[table + HEADER.link] ^= 1);
    check("relocations that are loaded", Format, &|b| b[table + HEADER.flags] |= 2);
    check("code at an address", Format, &|b| b[text + HEADER.address] = 64);
    check("constants at an address", Format, &|b| b[constants + HEADER.address] = 64);
    check("code that is discarded", Format, &|b| b[text + HEADER.flags + 3] |= 0x80);
    check("constants that may be merged", Format, &|b| b[constants + HEADER.flags] |= 0x30);
    check("protected entry", Symbols, &|b| b[run + SYMBOL.info + 1] = 3);
    check("no machine", Format, &|b| b[18] = 3);
    check("an executable", Format, &|b| b[16] = 2);
    check("another magic number", Format, &|b| b[0] = 0);
    check("the wrong byte order", Format, &|b| b[5] = 2);
    check("sections beyond the end", Format, &|b| b[0x28 + 6] = 0xff);
    let relocations = elf.relocations(".rela.text");
    assert!(relocations.len() > 10);
    // Every kind of relocation but the two that are listed.
    for (n, at) in relocations.iter().enumerate().take(8) {
        for kind in [0u8, 1, 3, 9, 10, 11, 12, 19, 24, 26, 41, 42] {
            check(&format!("relocation {n} of kind {kind}"), Relocations, &|b| b[at + RELOCATION.kind] = kind);
        }
        for added in [0u8, 1, 0x20, 0xf8] {
            check(&format!("relocation {n} plus {added}"), Relocations, &|b| b[at + RELOCATION.addend] = added);
        }
        check(&format!("relocation {n} elsewhere"), Relocations, &|b| b[at + RELOCATION.offset] ^= 1);
        check(&format!("relocation {n} to nothing"), Relocations, &|b| b[at + RELOCATION.symbol..][..4].fill(0));
    }
    let calls: Vec<usize> = relocations.iter().copied().filter(|at| bytes[at + RELOCATION.kind] == 4).collect();
    let data = elf.symbol_index("net_constants");
    for (n, at) in calls.iter().enumerate().take(8) {
        check(&format!("call {n} of constants"), Control, &|b| b[at + RELOCATION.symbol..][..4].copy_from_slice(&data.to_le_bytes()));
        let itself = elf.symbol_index("net_run");
        check(&format!("call {n} of the entry"), Control, &|b| b[at + RELOCATION.symbol..][..4].copy_from_slice(&itself.to_le_bytes()));
    }
}

#[test]
fn headers_belong_to_their_objects() {
    let (bytes, header) = made(X86, "x86-64-v3", None, &program(panels(4), false));
    verify(&bytes, Some(&header)).unwrap();
    let mut kinds = 0;
    for (i, line) in
        header.lines().enumerate().filter(|(_, l)| l.starts_with("#define NET_") && !l.ends_with("_H") && !l.contains("_NAME "))
    {
        for form in ["", "#define NET_OTHER 1", "digit", "twice"] {
            let lines: Vec<String> = header
                .lines()
                .enumerate()
                .map(|(j, l)| match form {
                    _ if i != j => l.to_owned(),
                    "digit" => format!("{l}1").replace("\"1", "1\""),
                    "twice" => format!("{l}\n{l}"),
                    other => other.to_owned(),
                })
                .collect();
            caught(&format!("{line}: {form:?}"), Promise::Header, verify(&bytes, Some(&lines.join("\n"))));
            kinds += 1;
        }
    }
    assert!(kinds >= 60, "{kinds}");
    // Any other text, comments and prototypes included.
    for at in 0..header.len() {
        let mut changed = header.clone().into_bytes();
        changed[at] ^= 1 << (at % 7);
        if let Ok(changed) = String::from_utf8(changed) {
            assert!(verify(&bytes, Some(&changed)).is_err(), "byte {at}: {changed}");
        }
    }
    assert!(verify(&bytes, Some(&format!("{header}#define net_run(a, b, c) 0\n"))).is_err());
    verify(&bytes, Some(&header.replace('\n', "\r\n"))).unwrap();
    let elf = Elf::new(&bytes);
    for (what, from, to) in [
        ("name", "\"name\":\"net\"", "\"name\":\"nut\""),
        ("stack", "\"stack\":", "\"stacc\":"),
        ("arena", "\"arena\":", "\"arena\":9"),
        ("target", "x86_64-", "aarch64"),
        ("syntax", "{\"quernel\"", "[\"quernel\""),
    ] {
        let at = elf.find(from.as_bytes());
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        caught(what, Promise::Header, verify(&changed, None));
    }
}

/// Single bits anywhere, with the right header: the hash notices all of them. Without a header, and cut short: whatever
/// the answer, there is one.
#[test]
fn any_bit_and_any_length() {
    let rng = &mut Rng(77);
    for triple in [X86, ARM, RISCV, S390X, "x86_64-pc-windows-gnu", "aarch64-apple-darwin"] {
        let (bytes, header) = made(triple, "generic", None, &program(WeightLayout::Depthwise, false));
        for _ in 0..150 {
            let mut changed = bytes.clone();
            changed[rng.below(bytes.len())] ^= 1 << rng.below(8);
            assert!(verify(&changed, Some(&header)).is_err(), "{triple}: a bit");
            drop(verify(&changed, None));
            for _ in 0..rng.below(40) {
                let at = rng.below(bytes.len());
                changed[at] = rng.bits() as u8;
            }
            changed.truncate(rng.below(2 * bytes.len()));
            assert!(verify(&changed, Some(&header)).is_err(), "{triple}: cut");
            drop(verify(&changed, None));
        }
    }
}
