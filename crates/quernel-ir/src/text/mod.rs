//! The text form `.qir`: prints and parses. `docs/ir.md` is its reference.
//!
//! * [`print()`] is brief: long data shows as a content hash, which [`parse_with`] resolves through a [`Pool`].
//! * [`print_full`] holds everything, and [`parse`] gives the same graph back.
//! * Values are numbered by position, so dead nodes and values change nothing.
//! * Programs only print ([`crate::Program`]'s `Display`).
//!
//! **A text is untrusted**: memory and time stay proportional to its length, shorthands such as `splat` are limited
//! ([`parse`] says how), and every error has a line and a column.

mod attrs;
mod data;
mod lex;
mod parse;
mod print;
mod program;
mod types;

pub use data::Pool;
pub use parse::{parse, parse_with};
pub use print::{print, print_full};
