//! Compiles ONNX models when a Cargo package is built, and makes each a safe Rust type.
//!
//! `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), quernel_build::Error> {
//!     quernel_build::Model::new("model.onnx").calibrate("samples.npz").compile()?;
//!     Ok(())
//! }
//! ```
//!
//! Anywhere in the package:
//!
//! ```ignore
//! include!(concat!(env!("OUT_DIR"), "/model.rs"));
//!
//! let mut model = Model::new();              // owns the arena; `Model::boxed()` keeps it off the stack
//! let output = model.run(&[0.0; Model::INPUT_SIZE]);
//! ```
//!
//! The code is for the target Cargo builds for. The package needs nothing at run time: the module names only `core`
//! (and `std` for `boxed`), and the network is a static library in `OUT_DIR`. The module, a C header and the library
//! are made again when a file they come from changes.
//!
//! **What is absent:** a way to link by hand. The module itself names the library.

mod cargo;
mod module;
mod names;

pub use quernel;

use cargo::Cargo;
use quernel::{
    Compiler, Emit, Failure, ModelOptions, artifacts,
    ir::{Code, Diagnostic},
    quant::SampleOptions,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// A model to compile.
#[derive(Clone, Debug)]
pub struct Model {
    file: PathBuf,
    name: Option<String>,
    calibrate: Vec<PathBuf>,
    samples: SampleOptions,
    bits: String,
    dims: BTreeMap<String, usize>,
    pins: BTreeMap<String, Vec<f64>>,
    cpu: Option<String>,
    std: bool,
}

/// What was written to `OUT_DIR`.
#[derive(Clone, Debug)]
pub struct Built {
    /// The Rust module, to be included.
    pub module: PathBuf,
    /// The static library.
    pub library: PathBuf,
    /// The C header, for C code in the same package. Its names start with `prefix`.
    pub header: PathBuf,
    /// Prefix of every symbol: the package's name and the model's.
    pub prefix: String,
}

impl Model {
    /// A model in a file; its path is relative to the package, as are all others.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            name: None,
            calibrate: Vec::new(),
            samples: SampleOptions::default(),
            bits: "8".into(),
            dims: BTreeMap::new(),
            pins: BTreeMap::new(),
            cpu: None,
            std: true,
        }
    }

    /// Where activation ranges come from: samples (.npz, .npy, a folder of pictures), a ranges.json, `batch-norm` (the
    /// statistics inside the model), or `random`. Several are added up.
    #[must_use]
    pub fn calibrate(mut self, file: impl Into<PathBuf>) -> Self {
        self.calibrate.push(file.into());
        self
    }

    /// How arrays or pictures become inputs.
    #[must_use]
    pub fn sample_options(mut self, options: SampleOptions) -> Self {
        self.samples = options;
        self
    }

    /// Weight width: `8` to `2`, `float`, or the path of a bits.toml.
    #[must_use]
    pub fn bits(mut self, bits: impl ToString) -> Self {
        self.bits = bits.to_string();
        self
    }

    /// Name of the module file (`NAME.rs`) and, in camel case, of the type; made from the model's file name by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Extent of a symbolic dimension.
    #[must_use]
    pub fn dim(mut self, name: impl Into<String>, extent: usize) -> Self {
        self.dims.insert(name.into(), extent);
        self
    }

    /// Makes an input a constant: one number for all its elements, or one for each.
    #[must_use]
    pub fn pin(mut self, input: impl Into<String>, numbers: impl Into<Vec<f64>>) -> Self {
        self.pins.insert(input.into(), numbers.into());
        self
    }

    /// CPU to compile for, as `quernel targets` lists them. By default x86-64 objects choose at run time, and others
    /// use what Cargo's target features promise.
    #[must_use]
    pub fn target_cpu(mut self, cpu: impl Into<String>) -> Self {
        self.cpu = Some(cpu.into());
        self
    }

    /// Leaves out `boxed`, the only function of the module that needs more than `core`.
    #[must_use]
    pub fn no_std(mut self) -> Self {
        self.std = false;
        self
    }

    /// Compiles for Cargo's target and writes module, library and header into `OUT_DIR`. Diagnostics are printed as
    /// Cargo's errors, which fail the build whatever becomes of the result.
    ///
    /// # Errors
    /// Every diagnostic of the compiler; a call outside of a build script.
    pub fn compile(self) -> Result<Built, Error> {
        let mut notes = Vec::new();
        let built = Cargo::from_environment().and_then(|cargo| self.build(&cargo, &mut notes));
        for note in notes {
            println!("cargo::{note}");
        }
        built.map_err(|failure| {
            for line in failure.to_string().lines() {
                println!("cargo::error={line}");
            }
            Error(failure)
        })
    }

    /// [`Model::compile`] with the environment as a value; instructions to Cargo go to `notes`.
    fn build(&self, cargo: &Cargo, notes: &mut Vec<String>) -> Result<Built, Failure> {
        let mut changed = |file: &Path| notes.push(format!("rerun-if-changed={}", file.display()));
        changed(&self.file);
        let calibration = quernel::parse_calibration(&self.calibrate, &self.samples);
        calibration.files().iter().for_each(|f| changed(f));
        if self.bits.ends_with(".toml") {
            changed(Path::new(&self.bits));
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => names::snake(&self.file.file_stem().unwrap_or_default().to_string_lossy()),
        };
        if names::snake(&name) != name {
            let help = format!("`.name(\"{}\")` would do", names::snake(&name));
            return Err(Diagnostic::new(Code::BadOption, format!("{name:?} cannot name a Rust module")).help(help).into());
        }
        let prefix = quernel::symbol_name(&format!("{}_{name}", cargo.package));
        let options =
            ModelOptions { dims: self.dims.clone(), pins: self.pins.clone(), name: Some(prefix.clone()), ..ModelOptions::default() };
        let model = quernel::Model::read(&self.file, &options)?;
        model.files().iter().skip(1).for_each(|f| changed(f));
        let target = cargo.target(self.cpu.as_deref())?;
        let compiler = Compiler { target, calibration, bits: quernel::parse_bits(&self.bits)?, ..Compiler::default() };
        let compiled = compiler.compile(&model, &mut |_| ())?;
        let serious = compiled.remarks.iter().filter(|r| r.by == "calibrate");
        notes.extend(serious.map(|r| format!("warning={}", r.to_string().replace('\n', " "))));

        let link = format!("quernel_{prefix}");
        let library = cargo.out.join(if cargo.msvc() { format!("{link}.lib") } else { format!("lib{link}.a") });
        let (made, report) = artifacts::make(&compiled, &library, &[Emit::Archive, Emit::Header, Emit::Report])?;
        let [archive, header, ..] = &made[..] else { return Err(Diagnostic::bug("an artifact is missing").into()) };
        let source = module::Module {
            name: &name,
            prefix: &prefix,
            link: &link,
            program: compiled.program()?,
            target: &compiled.target,
            stack: report.map_or(0, |r| r.stack_bytes),
            std: self.std,
        };
        let built = Built {
            module: cargo.out.join(format!("{name}.rs")),
            header: cargo.out.join(format!("{name}.h")),
            library,
            prefix: prefix.clone(),
        };
        artifacts::save(&[(&built.module, source.text().as_bytes()), (&built.library, &archive.bytes), (&built.header, &header.bytes)])?;
        notes.push(format!("rustc-link-search=native={}", cargo.out.display()));
        Ok(built)
    }
}

/// Why nothing was built: every diagnostic. `Debug`, which a failing `main` prints, is short, because Cargo has shown
/// the diagnostics by then.
pub struct Error(Failure);

impl Error {
    /// All diagnostics, each with number, place and help.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.0.len();
        write!(f, "the model was not compiled: {count} {}, listed above", if count == 1 { "error" } else { "errors" })
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
    }

    fn cargo(triple: &str, arch: &str, os: &str, env: &str, out: &Path) -> Cargo {
        let owned = str::to_owned;
        let features = Vec::new();
        Cargo {
            triple: owned(triple),
            arch: owned(arch),
            os: owned(os),
            env: owned(env),
            features,
            out: out.into(),
            package: "my-app".into(),
        }
    }

    fn digits() -> Model {
        Model::new(fixture("digits.onnx")).calibrate(fixture("digits_calib.npz"))
    }

    #[test]
    fn files_for_the_target_of_cargo_and_what_they_come_from() {
        let out = tempfile::tempdir().expect("a folder");
        for (triple, arch, os, env, library, magic) in [
            ("aarch64-unknown-linux-gnu", "aarch64", "linux", "gnu", "libquernel_my_app_digits.a", &b"\x7fELF"[..]),
            ("x86_64-pc-windows-msvc", "x86_64", "windows", "msvc", "quernel_my_app_digits.lib", &[0x64, 0x86]),
        ] {
            let mut notes = Vec::new();
            let built = digits().build(&cargo(triple, arch, os, env, out.path()), &mut notes).expect("builds");
            assert_eq!(built.library, out.path().join(library));
            let bytes = std::fs::read(&built.library).expect("a library");
            assert!(bytes.windows(magic.len()).any(|w| w == magic), "{triple}: no object of its format");
            let module = std::fs::read_to_string(&built.module).expect("a module");
            for piece in ["pub struct Digits", "pub fn run(&mut self, input: &[f32; 64]) -> [f32; 10]", "my_app_digits_run", "pub fn boxed"]
            {
                assert!(module.contains(piece), "no {piece} in\n{module}");
            }
            for file in ["digits.onnx", "digits_calib.npz"] {
                let line = format!("rerun-if-changed={}", fixture(file).display());
                assert!(notes.contains(&line), "no {line} in {notes:?}");
            }
            assert!(notes.contains(&format!("rustc-link-search=native={}", out.path().display())), "{notes:?}");
        }
        let bare =
            digits().no_std().build(&cargo("x86_64-unknown-none", "x86_64", "none", "", out.path()), &mut Vec::new()).expect("builds");
        assert!(!std::fs::read_to_string(bare.module).expect("a module").contains("std::"));
    }

    #[test]
    fn faults_are_diagnostics_and_leave_nothing() {
        let out = tempfile::tempdir().expect("a folder");
        let here = cargo("x86_64-unknown-linux-gnu", "x86_64", "linux", "gnu", out.path());
        for (model, code) in [
            (Model::new(fixture("digits.onnx")), Code::NoSamples),
            (Model::new(fixture("bad/unknown_operator.onnx")).bits("float"), Code::UnsupportedOperator),
            (Model::new("no/such.onnx"), Code::FileNotFound),
            (digits().name("not a name"), Code::BadOption),
            (digits().bits(99), Code::BadOption),
            (digits().target_cpu("z80"), Code::UnknownTarget),
        ] {
            let mut notes = Vec::new();
            let failure = model.build(&here, &mut notes).expect_err("is refused");
            assert_eq!(failure.0[0].code, code, "{failure}");
            assert_eq!(std::fs::read_dir(out.path()).expect("readable").count(), 0);
        }
    }

    #[test]
    fn outside_of_a_build_script_it_says_so() {
        let error = digits().compile().expect_err("OUT_DIR is not set for tests");
        assert!(error.to_string().contains("build.rs"), "{error}");
    }
}
