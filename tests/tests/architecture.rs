//! The rules of the workspace as tests: which crate may depend on which, who names a dependency, file sizes.

use serde_json::Value;
use std::{collections::BTreeMap, path::Path, process::Command};

/// The arrows: a crate may depend on these crates of ours and no others.
const ARROWS: &[(&str, &[&str])] = &[
    ("quernel-ir", &[]),
    ("quernel-onnx", &["quernel-ir"]),
    ("quernel-interp", &["quernel-ir"]),
    ("quernel-quant", &["quernel-ir"]),
    ("quernel-float", &["quernel-ir", "quernel-quant"]),
    ("quernel-passes", &["quernel-ir", "quernel-interp", "quernel-quant"]),
    ("quernel-kernels", &["quernel-ir"]),
    ("quernel-lower", &["quernel-ir", "quernel-kernels"]),
    ("quernel-codegen", &["quernel-ir", "quernel-kernels"]),
    ("quernel-test", &["quernel-ir", "quernel-interp", "quernel-passes", "quernel-quant"]),
    (
        "quernel",
        &[
            "quernel-ir",
            "quernel-onnx",
            "quernel-interp",
            "quernel-quant",
            "quernel-float",
            "quernel-passes",
            "quernel-kernels",
            "quernel-lower",
            "quernel-codegen",
        ],
    ),
    ("quernel-build", &["quernel"]),
    ("quernel-cli", &["quernel"]),
    ("quernel-fuzz", &["quernel", "quernel-test"]),
    ("quernel-tests", &["quernel", "quernel-fuzz", "quernel-test"]),
    // Not `quernel`: a chore must start before, and even if, the whole compiler builds.
    ("xtask", &["quernel-ir", "quernel-onnx"]),
];

/// Dependencies that several crates may name: derive macros and test tools say nothing about architecture.
const SHARED: &[&str] = &["serde", "serde_json", "libm", "tempfile"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above tests/")
}

/// `(package, dependency, is a normal dependency)` of every workspace member.
fn dependencies() -> Vec<(String, String, bool)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            all.push((text(&package["name"]), text(&dependency["name"]), dependency["kind"].is_null()));
        }
    }
    assert!(all.len() > 20, "metadata lists the dependencies");
    all
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for (package, dependency, normal) in dependencies() {
        let ours = dependency.starts_with("quernel");
        if !normal || !ours {
            continue;
        }
        let allowed = ARROWS.iter().find(|(p, _)| *p == package).unwrap_or_else(|| panic!("crate {package} has no row in ARROWS")).1;
        if !allowed.contains(&dependency.as_str()) {
            wrong.push(format!("{package} -> {dependency}"));
        }
    }
    assert!(wrong.is_empty(), "arrows against the architecture: {wrong:?}");
}

#[test]
fn each_dependency_is_named_by_one_crate() {
    let mut by_dependency: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (package, dependency, normal) in dependencies() {
        if normal && !dependency.starts_with("quernel") && !SHARED.contains(&dependency.as_str()) {
            by_dependency.entry(dependency).or_default().push(package);
        }
    }
    by_dependency.retain(|_, users| users.len() > 1);
    assert!(by_dependency.is_empty(), "dependencies named by several crates: {by_dependency:?}");
}

#[test]
fn source_files_stay_small() {
    fn walk(dir: &Path, long: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir).expect("readable folder").map(|e| e.expect("entry").path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, long);
            } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "generated.rs") {
                let lines = std::fs::read_to_string(&path).expect("UTF-8 source").lines().count();
                if lines > 800 {
                    long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    let mut long = Vec::new();
    for folder in ["crates", "tests", "xtask"] {
        walk(&root().join(folder), &mut long);
    }
    assert!(long.is_empty(), "look for the seam in: {long:#?}");
}
