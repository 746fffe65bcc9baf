//! The binary as a user meets it: what it prints, what it refuses, what it leaves behind.

use quernel_tests::{fixture, root};
use std::{
    path::Path,
    process::{Command, Output},
};

fn quernel(arguments: &[&str]) -> Output {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    Command::new(cargo)
        .args(["run", "-q", "--release", "--offline", "--"])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs the binary")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Fails with exit status 1 and every expected piece of text, and leaves the folder empty.
fn refuses(arguments: &[&str], folder: &Path, expected: &[&str]) {
    let out = quernel(arguments);
    let message = stderr(&out);
    assert_eq!(out.status.code(), Some(1), "{arguments:?}: {message}");
    for piece in expected {
        assert!(message.contains(piece), "{arguments:?}: no {piece:?} in\n{message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    let left: Vec<_> = std::fs::read_dir(folder).expect("readable").map(|e| e.expect("entry").file_name()).collect();
    assert!(left.is_empty(), "{arguments:?} left {left:?}");
}

#[test]
fn the_first_command_of_the_readme() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = folder.path().join("digits.o");
    let out = quernel(&["compile", "fixtures/digits.onnx", "--calibrate", "fixtures/digits_calib.npz", "-o", &text(&object)]);
    assert!(out.status.success(), "{}", stderr(&out));
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    for piece in ["digits.o", "digits.h", "digits.json", "MACs", "arena"] {
        assert!(shown.contains(piece), "no {piece} in\n{shown}");
    }
    for suffix in ["o", "h", "json"] {
        assert!(object.with_extension(suffix).exists(), "no .{suffix}");
    }
    // A model alone means compile.
    let again = folder.path().join("again.o");
    assert!(quernel(&["fixtures/digits.onnx", "--calibrate", "fixtures/digits_calib.npz", "-o", &text(&again)]).status.success());
}

#[test]
fn bad_models_are_refused_with_a_located_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = text(&folder.path().join("m.o"));
    for (file, code, piece) in [
        ("truncated", "QN0001", "truncated.onnx"),
        ("not_onnx", "QN0001", "not_onnx.onnx"),
        ("empty", "QN0001", "empty.onnx"),
        ("unknown_operator", "QN0002", "FusedSparkle"),
        ("unknown_operator", "QN0002", "Wobble"),
        ("missing_initializer", "QN0003", "conv.weight"),
        ("cycle", "QN0004", "/loop/Add"),
        ("shape_mismatch", "QN0005", "/fc/Gemm"),
        ("bad_tensor", "QN0007", "bad_tensor.onnx"),
        ("duplicate_name", "QN0009", "duplicate_name.onnx"),
        ("unique_computed", "QN0012", "/b/Unique"),
        ("suppression_computed", "QN0012", "/boxes/NonMaxSuppression"),
    ] {
        let model = text(&fixture("bad").join(file).with_extension("onnx"));
        refuses(&["compile", &model, "--bits", "float", "-o", &object], folder.path(), &[code, piece, "-->"]);
    }
    refuses(&["compile", "no/such/model.onnx", "-o", &object], folder.path(), &["QN0033", "no/such/model.onnx"]);
    refuses(&["compile", "fixtures", "-o", &object], folder.path(), &["QN0033", "regular file"]);
}

#[test]
fn bad_samples_are_refused_with_a_located_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = text(&folder.path().join("m.o"));
    for (file, code, piece) in [
        ("wrong_name", "QN0021", "image"),
        ("wrong_shape", "QN0022", "image"),
        ("nan", "QN0023", "sample 2"),
        ("truncated", "QN0020", "truncated.npz"),
        ("no_samples", "QN0024", "no_samples.npz"),
    ] {
        let samples = text(&fixture("bad").join(file).with_extension("npz"));
        refuses(&["compile", "fixtures/digits.onnx", "--calibrate", &samples, "-o", &object], folder.path(), &[code, piece, "-->"]);
    }
    refuses(&["compile", "fixtures/digits.onnx", "-o", &object], folder.path(), &["QN0024", "--calibrate"]);
}

#[test]
fn bad_options_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let object = text(&folder.path().join("m.o"));
    let compile = ["compile", "fixtures/digits.onnx", "--bits", "float"];
    let with = |more: &[&'static str]| -> Vec<&str> {
        compile.iter().copied().chain(more.iter().copied()).chain(["-o", object.as_str()]).collect()
    };
    refuses(&with(&["--target", "pdp11-unknown-none"]), folder.path(), &["QN0031", "pdp11"]);
    refuses(&with(&["--target-cpu", "z80"]), folder.path(), &["QN0031", "z80"]);
    refuses(&with(&["--name", "int main"]), folder.path(), &["QN0032", "int main"]);
    refuses(&with(&["--print-after", "no-such-pass"]), folder.path(), &["QN0032", "no-such-pass"]);
    let nowhere = text(&folder.path().join("no/such/folder/m.o"));
    refuses(&[&compile[..], &["-o", &nowhere]].concat(), folder.path(), &["QN0030", "no/such/folder"]);
    assert_eq!(quernel(&["compile"]).status.code(), Some(2));
    assert_eq!(quernel(&["compile", "m.onnx", "--no-such-option"]).status.code(), Some(2));
}

#[test]
fn outputs_take_no_place_but_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let model = at("m.onnx");
    std::fs::copy(fixture("digits.onnx"), &model).expect("copied");
    std::os::unix::fs::symlink(&model, at("link.o")).expect("linked");
    let socket = std::os::unix::net::UnixListener::bind(at("socket.o")).expect("bound");
    let before = std::fs::read(&model).expect("readable");
    for (output, emit, piece) in [
        ("m.onnx", "obj", "among the files that were read"),
        ("link.o", "obj", "among the files that were read"),
        ("socket.o", "obj", "not a regular file"),
        ("y.h", "obj,header", "two outputs have this name"),
    ] {
        let out = quernel(&["compile", &text(&model), "--bits", "float", "--emit", emit, "-o", &text(&at(output))]);
        assert_eq!(out.status.code(), Some(1), "{output}: {}", stderr(&out));
        assert!(stderr(&out).contains(piece) && stderr(&out).contains("QN0030"), "{output}: {}", stderr(&out));
    }
    // What is written beside the object is an output like any other: all are written, or none.
    for (depfile, piece) in [("y.o", "two outputs"), ("y.h", "two outputs"), ("no/y.d", "no folder"), ("m.onnx", "files that were read")] {
        let (depfile, output) = (text(&at(depfile)), text(&at("y.o")));
        let out = quernel(&["compile", &text(&model), "--bits", "float", "--depfile", &depfile, "-o", &output]);
        assert!(out.status.code() == Some(1) && stderr(&out).contains(piece), "{depfile}: {}", stderr(&out));
    }
    let out = quernel(&["report", &text(&model), "--bits", "float", "--html", &text(&model)]);
    assert!(out.status.code() == Some(1) && stderr(&out).contains("QN0030"), "{}", stderr(&out));
    drop(socket);
    assert_eq!(std::fs::read(&model).expect("readable"), before);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["link.o", "m.onnx", "socket.o"]);
    // What a link names is written, the link stays.
    std::os::unix::fs::symlink(at("real.o"), at("new.o")).expect("linked");
    std::fs::write(at("real.o"), "").expect("written");
    let out = quernel(&["compile", &text(&model), "--bits", "float", "--emit", "obj", "-o", &text(&at("new.o"))]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert!(std::fs::metadata(at("real.o")).expect("there").len() > 0 && at("new.o").is_symlink());
}

/// A sample file whose checksum is wrong, and labels that none can count.
#[test]
fn damaged_samples_and_labels() {
    let folder = tempfile::tempdir().expect("a folder");
    let damaged = folder.path().join("damaged.npz");
    let mut bytes = std::fs::read(fixture("digits_calib.npz")).expect("readable");
    bytes[3000] ^= 4;
    std::fs::write(&damaged, bytes).expect("written");
    let other = tempfile::tempdir().expect("a folder");
    let output = text(&other.path().join("x.o"));
    refuses(&["compile", "fixtures/digits.onnx", "--calibrate", &text(&damaged), "-o", &output], other.path(), &["QN0020", "image"]);
    let samples = ["eval", "fixtures/digits.onnx", "--calibrate", "fixtures/digits_calib.npz", "--test", "fixtures/digits_test.npz"];
    let out = quernel(&[&samples[..], &["--labels", "image"]].concat());
    assert!(out.status.code() == Some(1) && stderr(&out).contains("for the labels"), "{}", stderr(&out));
}

#[test]
fn errors_as_json() {
    let out = quernel(&["--error-format", "json", "compile", "fixtures/bad/unknown_operator.onnx", "--bits", "float"]);
    let message = stderr(&out);
    assert_eq!(out.status.code(), Some(1));
    let lines: Vec<serde_json::Value> = message.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    assert!(lines.len() >= 2, "one line per diagnostic: {message}");
    assert!(lines.iter().all(|l| l["code"].as_str().is_some_and(|c| c.starts_with("QN")) && l["message"].is_string()));
}

#[test]
fn explain_inspect_targets_and_opt_print() {
    for (arguments, piece) in [
        (&["explain", "QN0008"][..], "--dim"),
        (&["explain", "8"], "--dim"),
        (&["explain"], "QN0001"),
        (&["targets"], "x86_64-unknown-linux-gnu"),
        (&["inspect", "fixtures/digits.onnx"], "conv"),
        (&["opt", "--list", "-"], "fold-batch-norm"),
        (&["compile", "fixtures/digits.onnx", "--stop-after", "folded"], "graph digits"),
    ] {
        let out = quernel(arguments);
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && shown.contains(piece), "{arguments:?}: no {piece} in\n{shown}{}", stderr(&out));
    }
    assert_eq!(quernel(&["explain", "QN9999"]).status.code(), Some(1));
}

/// A graph is written with its data, and read back.
#[test]
fn stages_are_files_that_passes_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, depfile) = (text(&folder.path().join("folded.qir")), text(&folder.path().join("folded.d")));
    let stop = ["compile", "fixtures/digits.onnx", "--stop-after", "folded"];
    let written = quernel(&[&stop[..], &["-o", &out, "--depfile", &depfile]].concat());
    assert!(written.status.success(), "{}", stderr(&written));
    let graph = std::fs::read_to_string(&out).expect("a graph");
    let again = quernel(&["opt", &out, "-o", "-"]);
    assert!(again.status.success(), "{}", stderr(&again));
    assert!(again.stdout == graph.as_bytes(), "another graph");
    assert_eq!(quernel(&["opt", &out, "-o", &out]).status.code(), Some(1), "the graph that is read");
    assert_eq!(quernel(&[&stop[..], &["-o", "-"]].concat()).stdout, graph.as_bytes());
    assert!(std::fs::read_to_string(&depfile).expect("a rule").contains("folded.qir: fixtures/digits.onnx"));
    for refused in [&["--depfile", &depfile][..], &["--depfile", &depfile, "-o", "-"], &["--emit", "obj"], &["-o", "fixtures/digits.onnx"]]
    {
        let said = quernel(&[&stop[..], refused].concat());
        assert_eq!(said.status.code(), Some(1), "{refused:?}: {}", stderr(&said));
    }
    let whole = text(&folder.path().join("whole.o"));
    let made = quernel(&["compile", "fixtures/digits.onnx", "--bits", "float", "--emit", "qir", "-o", &whole]);
    assert!(made.status.success(), "{}", stderr(&made));
    let again = quernel(&["opt", &text(&folder.path().join("whole.qir"))]);
    assert!(again.status.success(), "{}", stderr(&again));
}

#[test]
fn calibration_is_a_file_that_adds_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| text(&folder.path().join(name));
    let calibrate = |arguments: &[&str]| {
        let out = quernel(&[&["calibrate", "fixtures/digits.onnx"], arguments].concat());
        assert!(out.status.success(), "{}", stderr(&out));
    };
    calibrate(&["fixtures/digits_calib.npz", "-o", &path("all.json")]);
    for i in 0..3 {
        calibrate(&["fixtures/digits_calib.npz", "--shard", &format!("{i}/3"), "-o", &path(&format!("{i}.json"))]);
    }
    calibrate(&["--merge", &path("2.json"), &path("0.json"), &path("1.json"), "-o", &path("merged.json")]);
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a ranges file");
    assert!(read("all.json") == read("merged.json"), "parts add up to the whole, in any order");
    // Another model's ranges are refused.
    let object = path("m.o");
    let out = quernel(&["compile", "fixtures/features/conv_relu.onnx", "--calibrate", &path("all.json"), "-o", &object]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("QN0025"), "{}", stderr(&out));
}

#[test]
fn a_library_by_its_suffix_and_a_rule_of_what_was_read() {
    let folder = tempfile::tempdir().expect("a folder");
    // Names that make would read otherwise.
    let (model, samples) = (folder.path().join("my model#1.onnx"), folder.path().join("a$b.npz"));
    std::fs::copy(fixture("digits.onnx"), &model).expect("copied");
    std::fs::copy(fixture("digits_calib.npz"), &samples).expect("copied");
    let (out, rule) = (folder.path().join("m.a"), folder.path().join("m.d"));
    let words = ["compile", &text(&model), "--calibrate", &text(&samples), "--depfile", &text(&rule), "-o", &text(&out)];
    let ran = quernel(&words);
    assert!(ran.status.success(), "{}", stderr(&ran));
    assert!(std::fs::read(&out).expect("a library").starts_with(b"!<arch>\n"));
    assert!(out.with_extension("h").exists() && out.with_extension("json").exists() && !out.with_extension("o").exists());
    // make agrees: all is new; a newer sample file makes the library old.
    let makefile = folder.path().join("Makefile");
    std::fs::write(&makefile, format!("{}:\n\t@echo stale\ninclude m.d\n", text(&out))).expect("written");
    let make = || Command::new("make").args(["-s", "-C"]).arg(folder.path()).arg(text(&out)).output().expect("make runs");
    assert!(!String::from_utf8_lossy(&make().stdout).contains("stale"), "{}", stderr(&make()));
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    for file in [&model, &samples] {
        std::fs::File::options().write(true).open(file).expect("a file").set_modified(later).expect("a new date");
        assert!(String::from_utf8_lossy(&make().stdout).contains("stale"), "{} is not in the rule: {}", file.display(), stderr(&make()));
        std::fs::File::options()
            .write(true)
            .open(file)
            .expect("a file")
            .set_modified(later - std::time::Duration::from_secs(3600))
            .expect("an old date");
    }
}

#[test]
fn compare_names_the_layer_to_blame() {
    let base = ["compare", "fixtures/digits.onnx", "--calibrate", "fixtures/digits_calib.npz", "--test", "fixtures/digits_test.npz"];
    let out = quernel(&[&base[..], &["--bits", "3"]].concat());
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", stderr(&out));
    for piece in ["local dB", "total dB", "alone dB", "clipped %", "rectified", "most to blame: "] {
        assert!(shown.contains(piece), "no {piece} in\n{shown}");
    }
    let out = quernel(&[&base[..], &["--quick", "--json"]].concat());
    let json = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(json.starts_with('[') && json.contains("\"cosine\"") && !json.contains("alone_db"), "{json}");
    let out = quernel(&[&base[..], &["--bits", "float"]].concat());
    assert!(String::from_utf8_lossy(&out.stdout).contains("nothing to compare"));
}

#[test]
fn pareto_marks_the_front() {
    let out = quernel(&[
        "report",
        "fixtures/digits.onnx",
        "--calibrate",
        "fixtures/digits_calib.npz",
        "--test",
        "fixtures/digits_test.npz",
        "--test-rows",
        "0..60",
        "--pareto=float,8,2",
        "--json",
    ]);
    let json = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(json.matches("\"bits\"").count(), 3, "{json}");
    assert!(json.contains("\"on_front\":true"), "{json}");
}
