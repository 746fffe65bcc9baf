//! Python environments of their own, with pinned packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The interpreter of an environment in `home/venv` that has these packages; made when it is not there.
///
/// # Errors
/// There is no Python, or no package index.
pub fn environment(home: &Path, packages: &[&str]) -> Result<PathBuf, String> {
    let (venv, stamp, wanted) = (home.join("venv"), home.join("packages"), packages.join(" "));
    let python = venv.join("bin/python");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) && python.exists() {
        return Ok(python);
    }
    fs::create_dir_all(home).map_err(|e| e.to_string())?;
    step(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])?;
    step(&python, &[&["-m", "pip", "install", "-q", "--retries", "1", "--timeout", "20"][..], packages].concat())?;
    fs::write(stamp, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}

/// Runs a program without its output.
pub fn step(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PYTHONWARNINGS", "ignore").stdout(Stdio::null());
    crate::succeed(command, &format!("{} {}", program.display(), arguments.join(" ")))
}
