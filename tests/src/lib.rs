//! What the end-to-end tests share: paths, samples, C compilers.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The workspace folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above tests/").to_path_buf()
}

/// A file below `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("fixtures").join(name)
}

/// A file below the folder of real models, which is not part of the repository. Says loudly when it is absent.
pub fn real_model(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("QUERNEL_MODELS").map(|folder| PathBuf::from(folder).join(name)).filter(|p| p.exists());
    if path.is_none() {
        eprintln!("SKIPPED: {name} is not there; set QUERNEL_MODELS to the folder of real models");
    }
    path
}

/// Runs a command and panics with its output unless it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The C compiler with the strictest warnings as errors.
pub fn cc(standard: &str) -> Command {
    let mut command = Command::new(if standard.starts_with("c++") { "c++" } else { "cc" });
    command.args([&format!("-std={standard}"), "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    command
}
