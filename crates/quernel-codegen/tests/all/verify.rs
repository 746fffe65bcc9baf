//! The checker of objects: it accepts every object that is made, on every target, and nothing that was changed. Each
//! change must break the promise that it is about; the hash in the header is made to fit, so that it hides nothing.

use crate::common::{Case, Kind, Operand, Rng, conv_program, step_program};
use crate::elf::{Elf, HEADER, RELOCATION, SYMBOL};
use crate::verify_code::{ARM, RISCV, S390X, X86, code};
use quernel_codegen::{Fault, Level, Options, Promise, Target, archive, header, object, targets, verify};
use quernel_ir::{
    Program, Unary,
    op::WindowDim,
    program::{End, WeightLayout, What},
    tensor::fnv1a,
};

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
    // The second saves registers beyond the reach of an instruction, too.
    for count in [300, 33] {
        let what = What::UnaryFloat { count, op: Unary::Mish };
        let (program, _) = step_program(what, vec![Operand::Data(vec![0; 4 * count])], 4 * count, true, false);
        let (bytes, header) = made(RISCV, "rv64gcv", None, &program);
        let v = verify(&bytes, Some(&header)).unwrap_or_else(|f| panic!("{f:#?}"));
        assert!(v.stack_found > 2048, "{v:?}");
    }
}

/// The header with the hash of a changed object, so that only what was changed can be noticed.
fn fitting(header: &str, object: &[u8]) -> String {
    let mut lines: Vec<String> = header.lines().map(str::to_owned).collect();
    for line in lines.iter_mut().filter(|l| l.starts_with("#define NET_OBJECT_HASH ")) {
        *line = format!("#define NET_OBJECT_HASH \"{:016x}\"", fnv1a(object));
    }
    // The hash of all other lines.
    let place = lines.iter().position(|l| l.starts_with("#define NET_HEADER_HASH ")).unwrap();
    lines.remove(place);
    let own = format!("#define NET_HEADER_HASH \"{:016x}\"", fnv1a(lines.join("\n").as_bytes()));
    lines.insert(place, own);
    lines.join("\n")
}

fn caught(what: &str, promise: Promise, result: Result<quernel_codegen::Verified, Vec<Fault>>) {
    let faults = result.err().unwrap_or_else(|| panic!("{what}: not noticed"));
    assert!(faults.iter().any(|f| f.promise == promise), "{what}: only {faults:#?}");
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
    for added in [1u8, 255, 8] {
        check(&format!("relocations of {added} bytes more"), Format, &|b| {
            b[table + HEADER.size] = b[table + HEADER.size].wrapping_add(added)
        });
    }
    check("relocations of another size", Format, &|b| b[table + HEADER.entries] = 23);
    let symbols = elf.any_section(".symtab");
    check("symbols that are taken for local", Format, &|b| b[symbols + HEADER.link + 4] += 1);
    check("symbols of another table of names", Format, &|b| b[symbols + HEADER.link] ^= 1);
    check("an alignment that is none", Format, &|b| b[text + HEADER.align] = 3);
    check("relocations that are loaded", Format, &|b| b[table + HEADER.flags] |= 2);
    check("code at an address", Format, &|b| b[text + HEADER.address] = 64);
    check("constants at an address", Format, &|b| b[constants + HEADER.address] = 64);
    check("code that is discarded", Format, &|b| b[text + HEADER.flags + 3] |= 0x80);
    check("constants that may be merged", Format, &|b| b[constants + HEADER.flags] |= 0x30);
    check("unique entry", Symbols, &|b| b[run + SYMBOL.info] = 0xa2);
    check("entry of a binding without a name", Symbols, &|b| b[run + SYMBOL.info] = 0x32);
    check("absolute function", Symbols, &|b| b[body + SYMBOL.section..][..2].copy_from_slice(&0xfff1u16.to_le_bytes()));
    check("global file", Symbols, &|b| b[body + SYMBOL.info] = 0x14);
    check("weak section", Symbols, &|b| b[body + SYMBOL.info] = 0x23);
    for (what, at) in [
        ("ABI of another system", 7),
        ("version of it", 8),
        ("version", 20),
        ("entry", 24),
        ("segments", 32),
        ("flags", 48),
        ("segment", 56),
    ] {
        check(&format!("header with another {what}"), Format, &|b| b[at] ^= 3);
    }
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

/// Lines that C reads otherwise than they look, in headers whose hash was made to fit.
#[test]
fn forged_headers_are_noticed() {
    let (bytes, header) = made(X86, "x86-64-v3", None, &program(panels(4), false));
    verify(&bytes, Some(&fitting(&header, &bytes))).unwrap();
    let arena = header.lines().find(|l| l.starts_with("#define NET_ARENA_SIZE ")).unwrap();
    let run = header.lines().find(|l| l.starts_with("int net_run(")).unwrap();
    for (what, from, to) in [
        ("defined anew", arena, format!("{arena}\n#undef NET_ARENA_SIZE\n# define NET_ARENA_SIZE 64")),
        ("defined with a tab", arena, format!("{arena}\n#undef NET_ARENA_SIZE\n#define\tNET_ARENA_SIZE 64")),
        ("defined in two characters", arena, format!("{arena}\n%:define NET_ARENA_SIZE 64")),
        ("in a comment", arena, format!("/*\n{arena}\n*/\n#define  NET_ARENA_SIZE 64")),
        ("behind a comment", arena, format!("/**/ {arena}0 /*\n{arena}\n*/")),
        ("in a comment of one line", arena, format!("// \\\n{arena}")),
        ("in text", arena, format!("\"/*\"\n{arena}\n\"*/\"")),
        ("never read by C", arena, "".into()),
        ("ended by a carriage return", arena, format!("/* *\\\r/\n#undef NET_ARENA_SIZE\n#define NET_ARENA_SIZE 64\n/* */\n{arena}")),
        ("never read", arena, format!("#if 0\n{arena}\n#endif")),
        ("a line that goes on", arena, format!("{arena}\\\n0")),
        ("a line that goes on by three characters", arena, format!("{arena}?\u{3f}/\n0")),
        ("one more constant", arena, format!("{arena}\n#define NET_ARENA 64")),
        ("another word's meaning", arena, format!("{arena}\n#define int long")),
        ("a function replaced", run, format!("{run}\n#define net_run(a, b, c) 0")),
        ("a function of its own", run, format!("{run}\nstatic int f(void) {{ return 0; }}")),
        ("an attribute", run, format!("__attribute__((constructor)) {run}")),
        ("other parameters", run, run.replace("const ", "")),
        ("no function", run, String::new()),
        ("a file of its own", run, format!("#include \"other.h\"\n{run}")),
        ("a comment without an end", "#ifdef __cplusplus\n}", "/*".into()),
        ("another order", run, format!("#ifdef __cplusplus\n#endif\n{run}")),
    ] {
        let mut changed = header.replace(from, &to);
        if what == "never read by C" {
            changed = changed.replace("extern \"C\" {", &format!("extern \"C\" {{\n{from}"));
        }
        assert!(changed != header, "{what}");
        caught(what, Promise::Header, verify(&bytes, Some(&fitting(&changed, &bytes))));
    }
}

/// A relocation of another listed kind would put the bits of one address into an instruction for another.
#[test]
fn relocations_fit_their_instructions() {
    for (triple, kinds) in [(ARM, &[274u32, 275, 277, 283][..]), (RISCV, &[19, 23, 24]), (S390X, &[19, 20])] {
        let (bytes, header) = made(triple, "generic", None, &program(panels(4), false));
        let elf = Elf::new(&bytes);
        let mut tried = 0;
        for at in elf.relocations(".rela.text") {
            // The two halves of a number of 64 bits.
            let field = at + if triple == S390X { RELOCATION.symbol } else { RELOCATION.kind };
            let number = |b: &[u8]| {
                let word: [u8; 4] = b[..4].try_into().unwrap();
                if triple == S390X { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
            };
            let old = number(&bytes[field..]);
            for kind in kinds.iter().filter(|k| **k != old) {
                let mut changed = bytes.clone();
                changed[field..field + 4].copy_from_slice(&if triple == S390X { kind.to_be_bytes() } else { kind.to_le_bytes() });
                assert!(verify(&changed, Some(&fitting(&header, &changed))).is_err(), "{triple}: kind {kind} in place of {old}");
                tried += 1;
            }
        }
        assert!(tried > 10, "{triple}: {tried}");
    }
}

/// What other formats have around their code.
#[test]
fn changed_headers_of_other_formats_are_noticed() {
    let program = program(panels(4), false);
    for (triple, places) in [("x86_64-pc-windows-gnu", &[16usize, 18][..]), ("aarch64-apple-darwin", &[24, 25])] {
        let (bytes, header) = made(triple, "generic", None, &program);
        verify(&bytes, Some(&header)).unwrap();
        for at in places {
            let mut changed = bytes.clone();
            changed[*at] ^= 1;
            caught(&format!("{triple}: {at}"), Promise::Format, verify(&changed, Some(&fitting(&header, &changed))));
        }
    }
}

/// A static library, and one whose index leads elsewhere.
#[test]
fn libraries_are_read_with_their_index() {
    for triple in [X86, "x86_64-pc-windows-gnu", "aarch64-apple-darwin"] {
        let target = Target::parse(Some(triple), Some("generic")).unwrap();
        let (bytes, header) = made(triple, "generic", None, &program(panels(4), false));
        let library = archive(&bytes, &target, "net").unwrap();
        verify(&library, Some(&header)).unwrap_or_else(|f| panic!("{triple}: {f:#?}"));
        let name = b"net_run_v";
        let places = library.windows(name.len()).enumerate().filter(|(_, w)| w == name).map(|(at, _)| at);
        let start = library.windows(8).position(|w| w == &bytes[..8]).unwrap();
        for at in places.filter(|at| *at < start) {
            let mut changed = library.clone();
            changed[at..at + name.len()].copy_from_slice(b"other_run");
            caught(&format!("{triple}: another name at {at}"), Promise::Symbols, verify(&changed, Some(&header)));
        }
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
