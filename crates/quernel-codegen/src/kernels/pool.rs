//! Not written yet.

use super::unsupported;
use crate::emit::Emitter;
use quernel_ir::{diag::Diagnostic, program::What};

/// Emits the body of a step's function.
pub fn emit(_: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    Err(unsupported(what))
}
