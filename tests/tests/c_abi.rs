//! Objects inside C programs: symbols, sections, linking, guard pages, rounding modes, headers.
#![cfg(target_os = "linux")]

use object::{Object, ObjectSection, ObjectSymbol};
use quernel::{
    Calibration, Compiled, Compiler, Emit, Model, ModelOptions, artifacts,
    codegen::{Level, Target},
    ir::Tensor,
    quant::Samples,
};
use quernel_tests::{cc, fixture, root, succeed};
use std::{path::Path, process::Command};

fn digits(name: &str, level: Option<Level>) -> (Model, Compiled) {
    let model =
        Model::read(&fixture("digits.onnx"), &ModelOptions { name: Some(name.into()), ..ModelOptions::default() }).expect("digits imports");
    // A level is something the CPU has to have.
    let target = if level.is_some() { Target::host().expect("this machine is a target") } else { Target::default() };
    let compiler = Compiler { calibration: Calibration::samples(fixture("digits_calib.npz")), level, target, ..Compiler::default() };
    let compiled = compiler.compile(&model, &mut |_| ()).expect("digits compiles");
    (model, compiled)
}

fn write(compiled: &Compiled, folder: &Path, stem: &str) {
    artifacts::write(compiled, &folder.join(format!("{stem}.o")), &[Emit::Object, Emit::Header]).expect("artifacts are written");
}

fn float_bytes(t: &Tensor) -> &[u8] {
    t.bytes()
}

#[test]
fn guard_pages_and_rounding_modes_at_every_level() {
    let folder = tempfile::tempdir().expect("a folder");
    for level in Level::host() {
        let (model, compiled) = digits("run", Some(level));
        write(&compiled, folder.path(), "run");
        let samples = Samples::open(&fixture("digits_test.npz"), &model.inputs()).expect("test samples");
        let input = samples.get(3).expect("a sample");
        let bin = folder.path().join("input.bin");
        std::fs::write(&bin, float_bytes(&input[0])).expect("written");
        let program = folder.path().join("guarded");
        succeed(
            cc("gnu11")
                .arg(format!("-DHEADER=\"{}\"", folder.path().join("run.h").display()))
                .arg(root().join("tests/c/guarded.c"))
                .arg(folder.path().join("run.o"))
                .args(["-lm", "-o"])
                .arg(&program),
        );
        let out = succeed(Command::new(&program).arg(&bin)).stdout;
        let want = quernel::interp::run_program(compiled.program().expect("lowered"), &[input[0].bytes()]).expect("interprets");
        assert_eq!(out, want[0], "level {}", level.name());
    }
}

/// Undefined symbols, bytes of writable sections, and names of global symbols.
fn promises(object: &Path) -> (Vec<String>, u64, Vec<String>) {
    let bytes = std::fs::read(object).expect("an object");
    let file = object::File::parse(&*bytes).expect("an ELF object");
    let name = |s: &object::Symbol| s.name().unwrap_or("").to_owned();
    let undefined = file.symbols().filter(|s| s.is_undefined()).map(|s| name(&s)).filter(|n| !n.is_empty()).collect();
    let state = |n: &str| n.starts_with(".data") || n.starts_with(".bss") || n.starts_with(".tdata") || n.starts_with(".tbss");
    let writable = file.sections().filter(|s| state(s.name().expect("a name"))).map(|s| s.size()).sum();
    let global = file.symbols().filter(|s| s.is_global() && s.is_definition()).map(|s| name(&s)).collect();
    (undefined, writable, global)
}

#[test]
fn the_object_needs_nothing_and_keeps_no_state() {
    let folder = tempfile::tempdir().expect("a folder");
    // One word that remembers the CPU is all that an object of several variants writes; others write nothing.
    for (cpu, most) in [("multi", 4), ("x86-64", 0), ("native", 0)] {
        let target = if cfg!(target_arch = "x86_64") { Target::parse(None, Some(cpu)) } else { Target::parse(None, None) };
        let (_, compiled) = digits("digits", None);
        let compiled = Compiled { target: target.expect("a target"), ..compiled };
        write(&compiled, folder.path(), "digits");
        let (undefined, writable, global) = promises(&folder.path().join("digits.o"));
        assert!(undefined.is_empty(), "{cpu}: undefined symbols {undefined:?}");
        assert!(writable <= most, "{cpu}: {writable} writable bytes");
        assert!(!global.is_empty() && global.iter().all(|n| n.starts_with("digits_")), "{cpu}: global symbols {global:?}");
    }
}

#[test]
fn links_into_static_pie_and_shared_programs_and_beside_other_models() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["one", "two", "three"] {
        write(&digits(name, None).1, folder.path(), name);
    }
    let object = |name: &str| folder.path().join(format!("{name}.o"));
    for flags in [&["-static"][..], &["-pie", "-fPIE"], &["-no-pie"]] {
        let program = folder.path().join("three");
        succeed(
            cc("c11")
                .args(flags)
                .arg("-I")
                .arg(folder.path())
                .arg(root().join("tests/c/three.c"))
                .args([object("one"), object("two"), object("three")])
                .arg("-o")
                .arg(&program),
        );
        succeed(&mut Command::new(&program));
    }
    let shared = folder.path().join("libone.so");
    succeed(cc("c11").args(["-shared", "-Wl,-z,text", "-Wl,--no-undefined"]).arg(object("one")).arg("-o").arg(&shared));
}

#[test]
fn headers_compile_as_c99_and_cpp17() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&digits("digits", None).1, folder.path(), "digits");
    for (standard, suffix) in [("c99", "c"), ("c11", "c"), ("c++17", "cpp")] {
        let source = folder.path().join(format!("use.{suffix}"));
        std::fs::write(&source, "#include \"digits.h\"\n#include \"digits.h\"\nint sizes[DIGITS_OUTPUT_SIZE];\n").expect("written");
        succeed(cc(standard).arg("-c").arg(&source).arg("-o").arg(folder.path().join("use.o")));
    }
}

#[test]
fn two_compilations_give_identical_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let read = |suffix: &str| std::fs::read(folder.path().join("digits").with_extension(suffix)).expect("an artifact");
    let mut seen: Option<Vec<Vec<u8>>> = None;
    for _ in 0..2 {
        let (_, compiled) = digits("digits", None);
        let out = folder.path().join("digits.o");
        artifacts::write(&compiled, &out, &Emit::default_for(&out)).expect("artifacts");
        let now = vec![read("o"), read("h"), read("json")];
        assert!(seen.as_ref().is_none_or(|before| *before == now), "artifacts differ between two runs");
        seen = Some(now);
    }
}

/// Members of an archive, whether it is of the COFF kind, and whether it has an index of symbols.
fn members(bytes: &[u8]) -> (Vec<String>, bool, bool) {
    let archive = object::read::archive::ArchiveFile::parse(bytes).expect("an archive");
    let names = archive.members().map(|m| String::from_utf8_lossy(m.expect("a member").name()).into_owned()).collect();
    let index = archive.symbols().expect("a readable index").is_some_and(|mut symbols| symbols.next().is_some());
    (names, archive.kind() == object::read::archive::ArchiveKind::Coff, index)
}

#[test]
fn static_libraries_for_every_object_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, compiled) = digits("digits", None);
    for (triple, file, member, coff) in [
        ("x86_64-unknown-linux-gnu", "digits.a", "digits.o", false),
        ("aarch64-unknown-linux-gnu", "digits.a", "digits.o", false),
        ("aarch64-apple-darwin", "digits.a", "digits.o", false),
        ("x86_64-pc-windows-msvc", "digits.lib", "digits.obj", true),
        ("x86_64-pc-windows-gnu", "digits.lib", "digits.obj", true),
    ] {
        let compiled = Compiled { target: Target::parse(Some(triple), None).expect("a target"), ..compiled.clone() };
        let out = folder.path().join(file);
        let mut seen = None;
        for _ in 0..2 {
            artifacts::write(&compiled, &out, &Emit::default_for(&out)).expect("artifacts are written");
            let bytes = std::fs::read(&out).expect("an archive");
            assert_eq!(members(&bytes), (vec![member.to_owned()], coff, true), "{triple}");
            assert!(seen.as_ref().is_none_or(|before| *before == bytes), "{triple}: archives differ between two runs");
            seen = Some(bytes);
        }
    }
}

#[test]
fn links_from_a_static_library_and_says_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, compiled) = digits("digits", None);
    let out = folder.path().join("libdigits.a");
    artifacts::write(&compiled, &out, &[Emit::Archive]).expect("the library is written");
    artifacts::write(&compiled, &folder.path().join("digits.h"), &[Emit::Header]).expect("the header is written");
    let listed = succeed(Command::new("ar").arg("t").arg(&out)).stdout;
    assert_eq!(String::from_utf8_lossy(&listed), "digits.o\n");
    let source = folder.path().join("say.c");
    let text = "#include \"digits.h\"\n#include <stdio.h>\nint main(void) { return puts(digits_info()) < 0; }\n";
    std::fs::write(&source, text).expect("written");
    let program = folder.path().join("say");
    succeed(cc("c99").arg(&source).arg("-L").arg(folder.path()).args(["-ldigits", "-o"]).arg(&program));
    let said: serde_json::Value = serde_json::from_slice(&succeed(&mut Command::new(&program)).stdout).expect("JSON");
    assert_eq!(said["name"], "digits");
    assert_eq!(said["model"], format!("{:016x}", model.hash()));
    assert_eq!(said["inputs"], serde_json::json!([{"name": "image", "type": "f32", "dims": [1, 1, 8, 8]}]));
    assert_eq!(said["outputs"], serde_json::json!([{"name": "logits", "type": "f32", "dims": [1, 10]}]));
    assert_eq!(said["arena"], compiled.program().expect("lowered").arena_bytes);
}

#[test]
fn more_arguments_than_registers() {
    use quernel::{
        codegen,
        ir::{Stage, text, verify},
        lower,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let tensor = "2xf32";
    let inputs: Vec<String> = (0..6).map(|i| format!("%{i}: {tensor} \"in{i}\"")).collect();
    let sums: Vec<String> = (0..5).map(|i| format!("  %{} = add %{i}, %{} : {tensor}\n", 6 + i, i + 1)).collect();
    let results: Vec<String> = (0..5).map(|i| format!("%{} \"out{i}\"", 6 + i)).collect();
    let graph = format!("graph many({}) {{\n{}  return {}\n}}\n", inputs.join(", "), sums.concat(), results.join(", "));
    let graph = text::parse(&graph).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let verified = verify(&graph, Stage::Quantized).expect("verifies");
    let program = lower::lower(&verified, &lower::Options::default()).expect("lowers").program;
    let (target, options) = (Target::default(), codegen::Options { name: "many".into(), ..codegen::Options::default() });
    let object = codegen::object(&program, &target, &options).expect("an object");
    std::fs::write(folder.path().join("many.o"), &object.bytes).expect("written");
    std::fs::write(folder.path().join("many.h"), codegen::header(&program, &target, &options, &object)).expect("written");
    // Input i is {i, 10 i}; output i the sum of inputs i and i + 1. Every pointer is checked, wherever it was passed.
    let source = r#"#include "many.h"
#include <stddef.h>
static float in[6][2], out[5][2];
static unsigned char space[MANY_ARENA_SIZE + 2 * MANY_ARENA_ALIGN];
int main(void) {
  unsigned char *arena = space;
  while ((size_t)arena % MANY_ARENA_ALIGN) arena++;
  for (int i = 0; i < 6; i++) in[i][0] = (float)i, in[i][1] = 10.0f * (float)i;
  if (many_run(in[0], in[1], in[2], in[3], in[4], in[5], out[0], out[1], out[2], out[3], out[4], arena) != 0) return 1;
  for (int i = 0; i < 5; i++)
    if (out[i][0] != (float)(2 * i + 1) || out[i][1] != 10.0f * (float)(2 * i + 1)) return 2;
  if (many_run(in[0], in[1], in[2], in[3], in[4], NULL, out[0], out[1], out[2], out[3], out[4], arena) != -1) return 3;
  if (many_run(in[0], in[1], in[2], in[3], in[4], in[5], out[0], out[1], out[2], out[3], NULL, arena) != -1) return 4;
  return MANY_INPUT_COUNT != 6 || MANY_OUTPUT_COUNT != 5 || MANY_INPUT_5_BYTES != 8;
}
"#;
    std::fs::write(folder.path().join("main.c"), source).expect("written");
    let program = folder.path().join("main");
    succeed(cc("c99").arg(folder.path().join("main.c")).arg(folder.path().join("many.o")).arg("-o").arg(&program));
    succeed(&mut Command::new(&program));
}
