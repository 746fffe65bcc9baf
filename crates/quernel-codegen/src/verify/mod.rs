//! Checks an object that was written, without trusting what wrote it: the file is parsed anew and its code decoded from
//! every function's first instruction along all branches.
//!
//! The promises, each a [`Promise`]: no undefined symbol and no global one but the three entries; no writable byte but the
//! word of an object of several variants; relocations of listed kinds, inside the object, each in the instruction that
//! needs it; only direct jumps, inside their function, and only direct calls, to the start of another function, without
//! recursion; no instruction that reaches beyond registers and memory; frames that add up to at most the promised stack;
//! registers that calls keep; constants of the header that are those of the object, and its hash.
//!
//! **What is absent:** the values of addresses that code computes at run time. That a kernel stays in its slots is shown by
//! tests between inaccessible pages.

mod a64;
mod file;
mod interface;
mod layout;
mod library;
mod registers;
mod riscv;
mod s390;
mod walk;
mod x64;

use file::File;
use std::fmt;

/// What an object promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Promise {
    /// It is an object file of a known kind, with the sections it should have.
    Format,
    /// Symbols: none undefined, three global.
    Symbols,
    /// Nothing writable but one word.
    Memory,
    /// Relocations of listed kinds, where they belong.
    Relocations,
    /// Code that decodes.
    Code,
    /// Jumps stay in their function, calls go to functions.
    Control,
    /// No instruction of the system's.
    System,
    /// The stack is balanced and as small as promised.
    Stack,
    /// Functions keep the registers that calls keep.
    Registers,
    /// Header and object belong together.
    Header,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "format",
            Self::Symbols => "symbols",
            Self::Memory => "memory",
            Self::Relocations => "relocations",
            Self::Code => "code",
            Self::Control => "control flow",
            Self::System => "system",
            Self::Stack => "stack",
            Self::Registers => "registers",
            Self::Header => "header",
        })
    }
}

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which one.
    pub promise: Promise,
    /// Function and offset, section, or line.
    pub place: String,
    /// How.
    pub message: String,
}

/// What was checked in an object that keeps its promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Prefix of its symbols.
    pub name: String,
    /// Triple it says it is for.
    pub target: String,
    /// Functions.
    pub functions: usize,
    /// Instructions decoded.
    pub instructions: usize,
    /// Bytes of code, of constants, of writable memory.
    pub code_bytes: usize,
    /// Constants.
    pub constant_bytes: usize,
    /// Writable memory.
    pub writable_bytes: usize,
    /// Relocations resolved.
    pub relocations: usize,
    /// The deepest stack of a call that was found, in bytes.
    pub stack_found: usize,
    /// The stack that is promised, in bytes.
    pub stack_promised: usize,
}

/// Faults as they are found; after so many nobody reads on.
const MOST_FAULTS: usize = 100;

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, promise: Promise, place: impl Into<String>, message: impl Into<String>) {
        let fault = Fault { promise, place: place.into(), message: message.into() };
        // Code is walked again where paths meet that know different things.
        if self.0.len() < MOST_FAULTS && !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }
}

/// Checks an object or the static library that holds it, and its header where there is one.
///
/// # Errors
/// Every broken promise.
pub fn verify(object: &[u8], header: Option<&str>) -> Result<Verified, Vec<Fault>> {
    let mut faults = Faults::default();
    let (object, indices) = library::member(object, &mut faults);
    let Some(file) = File::parse(object, &mut faults) else { return Err(faults.0) };
    for mut names in indices {
        names.sort();
        let expected = file.entries();
        if names.iter().map(|n| file.plain_name(n)).ne(expected.iter()) {
            faults.add(Promise::Symbols, "archive", format!("has an index of {names:?} in place of {expected:?}"));
        }
    }
    let info = interface::check(&file, object, header, &mut faults);
    let walked = walk::walk(&file, info.as_ref().map(|i| i.stack), &mut faults);
    match (info, faults.0.is_empty()) {
        (Some(info), true) => Ok(Verified {
            name: file.name,
            target: info.target,
            functions: file.functions.len(),
            instructions: walked.instructions,
            code_bytes: file.sections.iter().filter(|s| s.code).map(|s| s.data.len()).sum(),
            constant_bytes: file.sections.iter().filter(|s| !s.code && !s.writable).map(|s| s.data.len()).sum(),
            writable_bytes: file.sections.iter().filter(|s| s.writable).map(|s| s.size).sum(),
            relocations: file.sections.iter().map(|s| s.relocations.len()).sum(),
            stack_found: walked.stack,
            stack_promised: info.stack,
        }),
        _ => Err(faults.0),
    }
}
