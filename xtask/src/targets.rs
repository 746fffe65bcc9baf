//! `cargo xtask targets`: whole networks as linked programs on every target, their output hashes against the interpreter.
//!
//! Programs for other CPUs run under qemu's user mode, those for Windows under wine. What is missing is installed through
//! apt by root, and named otherwise; a target whose tools are missing is skipped, with a line that says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Programs and files, and the Debian packages that have them.
const TOOLS: &[(&str, &str)] = &[
    ("gcc", "gcc"),
    ("qemu-aarch64", "qemu-user"),
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/include/stdio.h", "libc6-dev-arm64-cross"),
    ("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu"),
    ("/usr/riscv64-linux-gnu/include/stdio.h", "libc6-dev-riscv64-cross"),
    ("s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu"),
    ("/usr/s390x-linux-gnu/include/stdio.h", "libc6-dev-s390x-cross"),
    ("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64"),
    ("wine", "wine"),
];

/// Every so many fixtures belong to the fast subset.
const SPARSE: usize = 12;

pub fn run(arguments: &[String]) -> Result<(), String> {
    let fast = arguments.iter().any(|a| a == "--fast");
    let mut folders = Vec::new();
    let mut passed = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value")).cloned();
        match argument.as_str() {
            "--models" => folders.push(PathBuf::from(value()?)),
            "--target" | "--dim" | "--json" | "--graphs" | "--seed" => passed.extend([argument.clone(), value()?]),
            "--fast" | "--integers" | "--require" => passed.push(argument.clone()),
            other => return Err(format!("no option {other}")),
        }
    }
    install(fast);
    let random = passed.iter().any(|a| a == "--graphs");
    let models = if folders.is_empty() && random {
        Vec::new()
    } else if folders.is_empty() {
        fixtures(fast)?
    } else {
        folders.iter().map(|f| files(f)).collect::<Result<Vec<_>, _>>()?.concat()
    };
    let mut check = crate::command(&crate::program("targets")?.to_string_lossy());
    check.args(passed).args(models);
    crate::succeed(check, "targets")
}

/// Installs what is missing where that can be done; what is as large as wine for the whole run only.
fn install(fast: bool) {
    let absent = |tool: &str| match tool.starts_with('/') {
        true => !Path::new(tool).exists(),
        false => Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err(),
    };
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| absent(tool) && !(fast && *tool == "wine")).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    eprintln!("missing packages: {}", missing.join(" "));
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    if root {
        let apt = |arguments: &[&str]| Command::new("apt-get").args(arguments).stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        apt(&["update", "-q"]);
        // One by one: a package that cannot be had leaves the others.
        for package in missing {
            if !apt(&["install", "-qy", "--no-install-recommends", package]) {
                eprintln!("could not install {package}");
            }
        }
    }
}

fn fixtures(fast: bool) -> Result<Vec<PathBuf>, String> {
    let folder = crate::root().join("fixtures");
    let mut all = vec![folder.join("digits.onnx")];
    for part in ["quantized", "features", "operators"] {
        all.extend(files(&folder.join(part))?.into_iter().step_by(if fast { SPARSE } else { 1 }));
    }
    Ok(all)
}

/// The models below a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    if folder.is_file() {
        return Ok(vec![folder.to_path_buf()]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}
