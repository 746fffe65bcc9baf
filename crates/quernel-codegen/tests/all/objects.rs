//! What an object file holds, on every target: symbols, sections, mnemonics, determinism.

use crate::common::{Case, Kind, Rng, conv_program};
use object::{Object as _, ObjectSection, ObjectSymbol, RelocationKind, SectionKind};
use quernel_codegen::{Jit, Level, Options, Target, assembly, clif, header, object, targets};
use quernel_ir::{
    Program,
    diag::Code,
    op::WindowDim,
    program::{Base, End, WeightLayout},
};

fn case(layout: WeightLayout, float: bool) -> Case {
    let dim = |kernel| WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 };
    let groups = if layout == WeightLayout::Depthwise { 19 } else { 1 };
    let kind = if float {
        Kind::Float { lo: 0.0, hi: 6.0 }
    } else {
        let end = End::Requantize { zero: 3, lo: 0, hi: 255, signed: false };
        Kind::Int { words: false, signed: false, zero: 0, residual_signed: false, end, extreme: false }
    };
    Case { n: 1, h: 7, w: 9, i: 19 / groups, o: 19, groups, window: [dim(3), dim(2)], layout, residual: true, gap: 0, kind }
}

fn programs() -> Vec<Program> {
    let panels = |depth| WeightLayout::Panels { contiguous: true, depth };
    [(panels(4), false), (WeightLayout::Depthwise, false), (WeightLayout::Plain, false), (panels(1), true), (WeightLayout::Depthwise, true)]
        .into_iter()
        .map(|(layout, float)| conv_program(&case(layout, float), &mut Rng(5)).0)
        .collect()
}

fn target(triple: &str, cpu: &str) -> Target {
    Target::parse(Some(triple), Some(cpu)).unwrap()
}

#[test]
fn code_in_process_has_functions_of_steps_where_they_are_asked_for() {
    let (program, inputs) = conv_program(&case(WeightLayout::Plain, false), &mut Rng(3));
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let timed = |steps| Jit::new(&program, &Options { steps, ..Options::default() }).and_then(|mut jit| jit.run_timed(&inputs));
    assert_eq!(timed(true).unwrap().len(), program.steps.len());
    assert_eq!(timed(false).unwrap_err().code, Code::Internal);
}

/// Calibration hands out every value: a call with a parameter per output would take memory and time in their square.
#[test]
fn code_in_process_has_any_number_of_outputs() {
    const OUTPUTS: usize = 3000;
    let (mut program, inputs) = conv_program(&case(WeightLayout::Plain, false), &mut Rng(3));
    let (port, step) = (program.outputs[0].clone(), program.steps.pop().unwrap());
    program.outputs = vec![port; OUTPUTS];
    for i in 0..OUTPUTS as u32 {
        let mut step = step.clone();
        assert_eq!(step.writes[0].base, Base::Output(0));
        step.writes[0].base = Base::Output(i);
        program.steps.push(step);
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let expected = quernel_interp::run_program(&program, &inputs).unwrap();
    assert!(Jit::new(&program, &Options::default()).unwrap().run(&inputs).unwrap() == expected);
}

#[test]
fn objects_define_the_entry_and_need_nothing() {
    for info in targets() {
        for cpu in info.cpus {
            let target = target(info.triple, cpu.name);
            for level in Level::ALL.into_iter().filter(|&l| l <= target.level()) {
                let options = Options { name: "net".into(), level: Some(level), ..Options::default() };
                for program in programs() {
                    let what = format!("{target} {level:?}");
                    let made = object(&program, &target, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
                    let file = object::File::parse(&*made.bytes).unwrap();
                    let mut global = Vec::new();
                    for symbol in file.symbols().filter(|s| s.index().0 != 0) {
                        let name = symbol.name().unwrap();
                        // Some formats name their sections and files with symbols of no section.
                        assert!(!symbol.is_undefined(), "{what}: undefined {name}");
                        if symbol.is_global() {
                            global.push(name.trim_start_matches('_').to_owned());
                        }
                    }
                    global.sort();
                    assert_eq!(global, ["net_info", "net_run", "net_run_v"], "{what}");
                    let mut constants = 0;
                    for section in file.sections().filter(|s| s.size() > 0) {
                        let name = section.name().unwrap();
                        match section.kind() {
                            SectionKind::Text => {
                                let table = |r: &object::Relocation| matches!(r.kind(), RelocationKind::Got | RelocationKind::GotRelative);
                                assert!(!section.relocations().any(|(_, r)| table(&r)), "{what}: addresses from a table");
                            }
                            SectionKind::ReadOnlyData => {
                                assert_eq!(section.relocations().count(), 0, "{what}: pointers in {name}");
                                assert!(section.align() >= 64, "{what}: {name} is aligned to {}", section.align());
                                constants += 1;
                            }
                            SectionKind::Metadata | SectionKind::Other | SectionKind::Linker | SectionKind::OtherString => {}
                            kind => panic!("{what}: section {name} of kind {kind:?}"),
                        }
                    }
                    assert_eq!(constants, 1, "{what}");
                    assert!(made.code_bytes > 0 && made.rodata_bytes > 0 && made.stack_bytes >= 64 && made.stack_bytes < 4096, "{what}");
                }
            }
        }
    }
}

#[test]
fn equal_programs_give_equal_bytes() {
    let target = target("x86_64-unknown-linux-gnu", "znver4");
    for (a, b) in programs().iter().zip(&programs()) {
        let options = Options::default();
        assert_eq!(object(a, &target, &options).unwrap().bytes, object(b, &target, &options).unwrap().bytes);
    }
}

#[test]
fn dot_products_and_multiply_adds_are_single_instructions() {
    let cases = [
        ("x86_64-unknown-linux-gnu", "x86-64", Level::V128, "pmaddwd"),
        ("x86_64-unknown-linux-gnu", "avx2", Level::V128, "vpmaddwd"),
        ("x86_64-unknown-linux-gnu", "alderlake", Level::V128Dot, "vpdpbusd"),
        ("x86_64-unknown-linux-gnu", "znver4", Level::V128Dot, "vpdpbusd"),
        ("aarch64-unknown-linux-gnu", "generic", Level::V128, "smull"),
        ("aarch64-unknown-linux-gnu", "dotprod", Level::V128Dot, "sdot"),
        ("aarch64-unknown-linux-gnu", "i8mm", Level::V128Dot, "usdot usmmla"),
    ];
    for (triple, cpu, level, mnemonic) in cases {
        for program in &programs()[..2] {
            let text =
                assembly(program, &target(triple, cpu), &Options { name: "net".into(), level: Some(level), ..Options::default() }).unwrap();
            let start = text.find("conv:").unwrap();
            let body = &text[start..start + text[start..].find("\n; ").unwrap()];
            assert!(mnemonic.split(' ').any(|m| body.contains(m)), "{triple} {cpu}: no {mnemonic} in\n{body}");
            let calls = |line: &str| matches!(line.split_whitespace().next(), Some("call" | "callq" | "bl" | "blr"));
            assert!(!body.lines().any(calls), "{triple} {cpu}: a call in\n{body}");
        }
    }
}

#[test]
fn listings_name_every_function() {
    let target = target("x86_64-unknown-linux-gnu", "x86-64");
    let (program, options) = (&programs()[0], Options { name: "net".into(), level: None, ..Options::default() });
    let made = object(program, &target, &options).unwrap();
    let (asm, clif) = (assembly(program, &target, &options).unwrap(), clif(program, &target, &options).unwrap());
    for f in &made.functions {
        assert!(asm.contains(&format!("; {}:", f.name)) && clif.contains(&format!("; {}:", f.name)), "{}", f.name);
    }
}

#[test]
fn names_and_levels_are_checked() {
    let baseline = target("x86_64-unknown-linux-gnu", "x86-64");
    for name in ["", "7net", "a-b", "net;", "\u{e9}"] {
        let e = object(&programs()[0], &baseline, &Options { name: name.into(), level: None, ..Options::default() }).unwrap_err();
        assert_eq!(e.code, Code::BadOption, "{name}");
    }
    let e =
        object(&programs()[0], &baseline, &Options { name: "net".into(), level: Some(Level::V128Dot), ..Options::default() }).unwrap_err();
    assert_eq!(e.code, Code::BadOption);
}

/// Compiles a C program against a header and an object, links it in several ways and runs it. Skips without a C
/// compiler.
#[test]
fn c_and_cxx_accept_the_header_and_run_the_object() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let compiler = |name: &str, args: &[&str]| std::process::Command::new(name).args(args).current_dir(dir.path()).output();
    if compiler("cc", &["--version"]).is_err() {
        println!("SKIP: no C compiler");
        return;
    }
    let (mut program, inputs) = conv_program(&case(WeightLayout::Panels { contiguous: true, depth: 4 }, false), &mut Rng(9));
    program.inputs[0].name = "evil */ name \\ \u{1b}".into();
    let borrowed: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let expected = quernel_interp::run_program(&program, &borrowed).unwrap();
    let (target, options) = (Target::host().unwrap(), Options { name: "net".into(), level: None, ..Options::default() });
    let made = object(&program, &target, &options).unwrap();
    std::fs::write(path("net.o"), &made.bytes).unwrap();
    std::fs::write(path("net.h"), header(&program, &target, &options, &made)).unwrap();
    let list = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let main = format!(
        r#"#include "net.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static const unsigned char x[] = {{{}}}, r[] = {{{}}}, want[] = {{{}}};
static unsigned char y[NET_OUTPUT_SIZE];
static unsigned char space[NET_ARENA_SIZE + 2 * NET_ARENA_ALIGN];
#if defined(__x86_64__)
static unsigned csr(void) {{ unsigned v; __asm__ volatile("stmxcsr %0" : "=m"(v)); return v; }}
static void set_csr(unsigned v) {{ __asm__ volatile("ldmxcsr %0" : : "m"(v)); }}
#endif
int main(void) {{
  unsigned char *arena = space;
  const void *in[NET_INPUT_COUNT] = {{x, r}};
  void *out[NET_OUTPUT_COUNT] = {{y}};
  while ((size_t)arena % NET_ARENA_ALIGN) arena++;
  if (sizeof x != NET_INPUT_0_SIZE || sizeof r != NET_INPUT_1_SIZE || sizeof want != NET_OUTPUT_SIZE) return 2;
  if (net_run(x, r, y, arena) != 0 || memcmp(y, want, sizeof y)) return 3;
  memset(y, 0, sizeof y);
  if (net_run_v(in, out, arena) != 0 || memcmp(y, want, sizeof y)) return 4;
  if (net_run(NULL, r, y, arena) != -1 || net_run(x, r, NULL, arena) != -1 || net_run(x, r, y, NULL) != -1) return 5;
  if (net_run_v(NULL, out, arena) != -1 || net_run_v(in, NULL, arena) != -1) return 6;
  if (net_run(x, r, y, arena + 1) != -2) return 7;
#if defined(__x86_64__)
  /* A caller that rounds to zero and flushes denormals gets the same bytes and its own mode back. */
  memset(y, 0, sizeof y);
  set_csr(0xffc0);
  if (net_run(x, r, y, arena) != 0 || csr() != 0xffc0) return 8;
  set_csr(0x1f80);
  if (memcmp(y, want, sizeof y)) return 9;
#endif
  puts("ok");
  return 0;
}}
"#,
        list(&inputs[0]),
        list(&inputs[1]),
        list(&expected[0])
    );
    std::fs::write(path("main.c"), &main).unwrap();
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"];
    for (cc, standard, link) in [
        ("cc", "-std=c99", vec!["-pie", "-fPIE"]),
        ("cc", "-std=c11", vec!["-no-pie"]),
        ("c++", "-std=c++17", vec!["-pie", "-fPIE", "-xc++"]),
    ] {
        let mut args: Vec<&str> = strict.to_vec();
        args.push(standard);
        args.extend(&link);
        args.extend(["main.c", "-xnone", "net.o", "-o", "main", "-Wl,--fatal-warnings"]);
        let Ok(out) = compiler(cc, &args) else { continue };
        assert!(out.status.success(), "{cc} {standard}: {}", String::from_utf8_lossy(&out.stderr));
        let run = std::process::Command::new(path("main")).output().unwrap();
        assert_eq!((run.status.code(), &*run.stdout), (Some(0), &b"ok\n"[..]), "{cc} {standard}");
    }
    let shared = compiler("cc", &["-shared", "net.o", "-o", "libnet.so", "-Wl,--fatal-warnings", "-Wl,-z,defs", "-Wl,-z,text"]).unwrap();
    assert!(shared.status.success(), "{}", String::from_utf8_lossy(&shared.stderr));
}

/// Paints the stack below a call and compares the depth it reached with the header's promise. Skips without a C
/// compiler.
#[test]
fn the_stack_need_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // The second has operands that the kernel for AVX2 widens on the stack, with each of two tiles.
    let small = case(WeightLayout::Panels { contiguous: true, depth: 4 }, false);
    let large = Case { h: 4, w: 14, i: 256, o: 40, ..small };
    for (level, case) in Level::host().into_iter().flat_map(|l| [(l, small), (l, large)]) {
        let (program, _) = conv_program(&case, &mut Rng(9));
        let (target, options) = (Target::host().unwrap(), Options { name: "net".into(), level: Some(level), ..Options::default() });
        let made = object(&program, &target, &options).unwrap();
        std::fs::write(path("net.o"), &made.bytes).unwrap();
        std::fs::write(path("net.h"), header(&program, &target, &options, &made)).unwrap();
        let main = r#"#include "net.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
static unsigned char x[NET_INPUT_0_SIZE], r[NET_INPUT_1_SIZE], y[NET_OUTPUT_SIZE];
static unsigned char space[NET_ARENA_SIZE] __attribute__((aligned(NET_ARENA_ALIGN)));
static unsigned char stack[1 << 16] __attribute__((aligned(64)));
static unsigned char *floor_;
static void *work(void *unused) {
  unsigned char here;
  floor_ = &here;
  net_run(x, r, y, space);
  return unused;
}
int main(void) {
  pthread_t t;
  pthread_attr_t a;
  size_t i = 0;
  memset(stack, 0xa5, sizeof stack);
  pthread_attr_init(&a);
  if (pthread_attr_setstack(&a, stack, sizeof stack) || pthread_create(&t, &a, work, 0) || pthread_join(t, 0)) return 2;
  while (stack[i] == 0xa5) i++;
  printf("%ld %d\n", (long)(floor_ - (stack + i)), NET_STACK_SIZE);
  return 0;
}
"#;
        std::fs::write(path("main.c"), main).unwrap();
        let built =
            std::process::Command::new("cc").args(["-O1", "main.c", "net.o", "-o", "main", "-pthread"]).current_dir(dir.path()).output();
        let Ok(built) = built else {
            println!("SKIP: no C compiler");
            return;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let run = std::process::Command::new(path("main")).output().unwrap();
        let text = String::from_utf8(run.stdout).unwrap();
        let mut numbers = text.split_whitespace().map(|n| n.parse::<i64>().unwrap());
        let (used, promised) = (numbers.next().unwrap(), numbers.next().unwrap());
        // The painted depth includes the rest of the thread function's own frame.
        assert!(used > 0 && used <= promised + 64, "{level:?}: {used} bytes used, {promised} promised");
        assert!(promised <= used + 256, "{level:?}: {used} bytes used, {promised} promised");
    }
}
