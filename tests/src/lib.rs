//! What the end-to-end tests share: paths, samples, C compilers.

use quernel::{
    Compiled,
    codegen::{Jit, Level, Options},
    interp,
    ir::Tensor,
};
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

/// Compiled code at every level equals the program's interpreter, which equals the graph's. Returns the outputs.
pub fn agree(compiled: &Compiled, inputs: &[Tensor]) -> Vec<Tensor> {
    let program = compiled.program().expect("lowered");
    let faults = interp::verify_program(program);
    assert!(faults.is_ok(), "{faults:?}");
    let graph = interp::run_graph(&compiled.graph, inputs).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let want = interp::run_program(program, &bytes).unwrap_or_else(|e| panic!("{e}"));
    for (g, w) in graph.iter().zip(&want) {
        assert_eq!(g.bytes(), w, "graph and program differ");
    }
    for level in Level::host() {
        let mut jit = Jit::new(program, &Options { level: Some(level), ..compiled.codegen_options() }).unwrap_or_else(|e| panic!("{e}"));
        let got = jit.run(&bytes).unwrap_or_else(|e| panic!("{e}"));
        assert!(got == want, "level {} differs from the interpreter", level.name());
    }
    graph
}
