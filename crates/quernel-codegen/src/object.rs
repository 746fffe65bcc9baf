//! The relocatable object: ELF, Mach-O or COFF.

use crate::{
    Options,
    network::{self, Keep, Network, bug},
    target::Target,
};
use cranelift_object::{ObjectBuilder, ObjectModule};
use quernel_ir::{diag::Diagnostic, program::Program};
use std::fmt::Write;

/// A function of an object.
#[derive(Clone, Debug)]
pub struct FunctionInfo {
    /// Symbol.
    pub name: String,
    /// The first step that calls it; `None` for the entry.
    pub step: Option<usize>,
    /// Leaf kernel, by its contract; empty for code of Cranelift.
    pub kernel: String,
    /// Cycles that the cost model predicts for a call on the core it was fitted on, where there is a model.
    pub cycles: Option<u64>,
    /// Code bytes.
    pub bytes: usize,
}

/// An object file and what is known about it.
#[derive(Clone, Debug)]
pub struct Object {
    /// The file.
    pub bytes: Vec<u8>,
    /// Stack a call of `NAME_run` needs.
    pub stack_bytes: usize,
    /// Machine code.
    pub code_bytes: usize,
    /// Constants.
    pub rodata_bytes: usize,
    /// In order of definition.
    pub functions: Vec<FunctionInfo>,
    /// For every step the function that computes it on the best CPU, as an index into `functions`.
    pub step_functions: Vec<usize>,
}

/// Compiles a program to an object file: no undefined symbols, no writable sections
/// (but one word in an object of several variants), constants in one local read-only
/// symbol; `NAME_run`, `NAME_run_v` and `NAME_info` are its only global symbols. Equal programs give equal bytes.
///
/// # Errors
/// `BadOption` for a name that is no C identifier or a level the CPU lacks; `Internal` for a step without code.
pub fn object(p: &Program, target: &Target, options: &Options) -> Result<Object, Diagnostic> {
    let (bytes, network) = define(p, target, options, Keep::default())?;
    Ok(Object {
        bytes,
        stack_bytes: network.stack_bytes,
        code_bytes: network.functions.iter().map(|f| f.bytes).sum(),
        rodata_bytes: network.rodata_bytes,
        step_functions: network.step_functions,
        functions: network
            .functions
            .into_iter()
            .map(|f| FunctionInfo { name: f.name, step: f.step, kernel: f.kernel, cycles: f.cycles, bytes: f.bytes })
            .collect(),
    })
}

/// The machine code of every function as text.
///
/// # Errors
/// Those of [`object()`].
pub fn assembly(p: &Program, target: &Target, options: &Options) -> Result<String, Diagnostic> {
    let (_, network) = define(p, target, options, Keep { assembly: true, clif: false })?;
    Ok(listing(p, network, |f| &f.assembly))
}

/// The Cranelift IR of every function as text.
///
/// # Errors
/// Those of [`object()`].
pub fn clif(p: &Program, target: &Target, options: &Options) -> Result<String, Diagnostic> {
    let (_, network) = define(p, target, options, Keep { assembly: false, clif: true })?;
    Ok(listing(p, network, |f| &f.clif))
}

fn listing(p: &Program, network: Network, text: impl Fn(&network::Record) -> &str) -> String {
    let mut out = String::new();
    for f in &network.functions {
        let origin = f.step.and_then(|s| p.steps.get(s)).map(|s| format!(", step {}", s.what.name())).unwrap_or_default();
        let _ = writeln!(out, "; {}: {} bytes{origin}\n{}", f.name, f.bytes, text(f));
    }
    out
}

fn define(p: &Program, target: &Target, options: &Options, keep: Keep) -> Result<(Vec<u8>, Network), Diagnostic> {
    let builder =
        ObjectBuilder::new(target.isa(true, true)?, options.name.clone(), cranelift_module::default_libcall_names()).map_err(bug)?;
    let mut module = ObjectModule::new(builder);
    let network = network::define(&mut module, p, target, options, keep, false)?;
    let bytes = module.finish().emit().map_err(bug)?;
    Ok((bytes, network))
}
