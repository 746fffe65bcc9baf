//! The `quernel` binary: arguments in, messages out. The only crate that prints or exits.
//!
//! Data goes to standard output, messages to standard error. Exit status: 0 success, 1 diagnostics, 2 wrong usage,
//! 101 a bug in Quernel.

mod args;
mod commands;
mod memory;
mod messages;
mod tables;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: memory::Limited = memory::Limited;

fn main() -> ExitCode {
    let line = args::with_default_command(std::env::args_os().collect());
    let args = args::Args::parse_from(line);
    let messages = messages::Messages::new(args.error_format);
    memory::limit(args.max_memory, messages.out_of_memory(args.command.file(), args.max_memory));
    match commands::run(&args, &messages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => messages.failure(&failure),
    }
}
