//! `cargo xtask ort` and `cargo xtask qat`: ONNX Runtime beside compiled code, and training on what Quernel exports.
//!
//! The packages come from PyPI into `target/ort`.

use crate::python;

/// What `tools/compare_ort.py` and `tools/qat_digits.py` run under.
const PACKAGES: [&str; 4] = ["numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0", "scikit-learn==1.9.1"];

/// Compares what ONNX Runtime and compiled code make of the same quantized models.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let models = std::env::var("QUERNEL_MODELS").unwrap_or_default();
    script("tools/compare_ort.py", &[&["--suite".to_owned(), "--models".to_owned(), models], arguments].concat())
}

/// Trains the digits network on its exported form.
pub fn qat(arguments: &[String]) -> Result<(), String> {
    script("tools/qat_digits.py", arguments)
}

fn script(path: &str, arguments: &[String]) -> Result<(), String> {
    let check = arguments.iter().any(|a| a == "--check");
    let python = match python::environment(&crate::root().join("target/ort"), &PACKAGES) {
        Ok(python) => python,
        // Without the package index there is nothing to compare with; that is no fault of the change under test.
        Err(why) if check => {
            eprintln!("SKIPPED: {why}");
            return Ok(());
        }
        Err(why) => return Err(why),
    };
    crate::program("quernel")?;
    let mut run = crate::command(&python.to_string_lossy());
    run.arg(path).args(arguments.iter().filter(|a| *a != "--check"));
    crate::succeed(run, path)
}
