//! `cargo xtask check`: everything a change must pass, cheapest first.

use std::time::Instant;

/// The one list; continuous integration runs this command. Leading `NAME=value` words set the environment.
const STEPS: &[&[&str]] = &[
    &["cargo", "fmt", "--all", "--check"],
    &["cargo", "clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["cargo", "test", "--release", "--workspace"],
    &["cargo", "run", "-q", "--release", "-p", "xtask", "--", "conformance", "--check"],
    &["cargo", "run", "-q", "--release", "-p", "xtask", "--", "targets", "--fast"],
    &["cargo", "run", "-q", "--release", "-p", "xtask", "--", "hostile", "--fast"],
    &["cargo", "run", "-q", "--release", "-p", "xtask", "--", "ort", "--check"],
    &["make", "-C", "examples", "check"],
    &["RUSTDOCFLAGS=-D warnings", "cargo", "doc", "--release", "--no-deps", "--workspace"],
];

pub fn run(arguments: &[String]) -> Result<(), String> {
    crate::no_arguments(arguments)?;
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for words in STEPS {
        let line = words.join(" ");
        eprintln!("\n== {line}");
        let start = Instant::now();
        outcome = step(words, &line);
        times.push((start.elapsed(), line));
        if outcome.is_err() {
            break;
        }
    }
    eprintln!();
    for (i, (time, line)) in times.iter().enumerate() {
        let word = if outcome.is_err() && i + 1 == times.len() { "FAILED" } else { "passed" };
        eprintln!("{word} {:>7.1} s  {line}", time.as_secs_f64());
    }
    outcome
}

fn step(words: &[&str], line: &str) -> Result<(), String> {
    let variables = words.iter().take_while(|w| w.contains('=')).count();
    let mut command = crate::command(words[variables]);
    command.envs(words[..variables].iter().filter_map(|w| w.split_once('='))).args(&words[variables + 1..]);
    crate::succeed(command, line)
}
