//! One file per command.

mod bench;
mod calibrate;
mod compare;
mod compile;
mod eval;
mod explain;
mod export;
mod inspect;
mod opt;
mod report;
mod run;
mod setup;
mod targets;
mod verify;

use crate::{
    args::{Args, Command},
    messages::Messages,
};
use quernel::Failure;

/// Carries out the command line.
pub fn run(args: &Args, messages: &Messages) -> Result<(), Failure> {
    match &args.command {
        Command::Compile(a) => compile::run(a, messages),
        Command::Export(a) => export::run(a, messages),
        Command::Calibrate(a) => calibrate::run(a, messages),
        Command::Inspect(a) => inspect::run(a, messages),
        Command::Opt(a) => opt::run(a, messages),
        Command::Run(a) => run::run(a, messages),
        Command::Eval(a) => eval::run(a, messages),
        Command::Compare(a) => compare::run(a, messages),
        Command::Report(a) => report::run(a, messages),
        Command::Bench(a) => bench::run(a, messages),
        Command::Verify(a) => verify::run(a),
        Command::Targets => targets::run(),
        Command::Explain { code } => explain::run(code.as_deref()),
    }
}
