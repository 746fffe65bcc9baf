//! Program to object, header, assembly or code in process.
//!
//! [`object`] compiles a [`Program`](quernel_ir::Program) with Cranelift: one function per distinct step (`kernels/`, written with the
//! [`emit`] API), a body that calls them, and an entry that guards the caller's rounding mode. [`Jit`] defines the same functions in executable
//! memory. Results are those of `quernel_ir::exact` bit for bit on every [`Target`] and [`Level`].
//!
//! **What is absent:** decisions. Layouts, fusion and packing are lowering's; this crate picks instructions.

mod archive;
pub mod calibrate;
pub mod emit;
mod guard;
mod header;
mod info;
mod jit;
mod kernels;
mod leaf;
mod limit;
mod network;
mod object;
mod select;
mod target;
mod verify;

pub use archive::archive;
pub use header::{ABI_VERSION, header};
pub use jit::Jit;
pub use limit::{clock, register_limit};
pub use object::{FunctionInfo, Object, assembly, clif, object};
pub use select::VARIANTS;
pub use target::{Cpu, Level, Target, TargetInfo, targets};
pub use verify::{Fault, Promise, Verified, verify};

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Prefix of every symbol: a C identifier.
    pub name: String,
    /// Forces a level; the target's fastest when absent.
    pub level: Option<Level>,
    /// Hash of the model file, for `NAME_info`.
    pub model_hash: Option<u64>,
    /// For code in this process: a function for every step beside that for all, as [`Jit::run_timed`] needs them.
    pub steps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "model".to_owned(), level: None, model_hash: None, steps: false }
    }
}
