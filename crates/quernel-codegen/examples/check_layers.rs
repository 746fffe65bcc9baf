//! Checks random layers against the interpreter: `check_layers --count N --seed S [--first F]`. `cargo xtask layers` runs it.

#[cfg(target_os = "linux")]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../tests/common/layers.rs"]
mod layers;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut count, mut seed, mut first) = (1000u64, 1u64, 0u64);
    for pair in arguments.chunks(2) {
        let value = pair.get(1).and_then(|v| v.parse().ok());
        match (pair[0].as_str(), value) {
            ("--count", Some(v)) => count = v,
            ("--seed", Some(v)) => seed = v,
            ("--first", Some(v)) => first = v,
            _ => {
                eprintln!("usage: check_layers [--count N] [--seed S] [--first F]");
                return std::process::ExitCode::from(2);
            }
        }
    }
    let start = std::time::Instant::now();
    let result = layers::check(seed, first, count, |done, tally| {
        if done.is_multiple_of(5000) {
            eprintln!("{done} layers, {} runs, {:.0} s", tally.runs, start.elapsed().as_secs_f64());
        }
    });
    match result {
        Ok(tally) => {
            for (kernel, runs) in &tally.kernels {
                println!("{runs:>8}  {kernel}");
            }
            println!("{count} layers of seed {seed} agree: {:?}, {} at the edge of a proof", tally.layers, tally.edges);
            println!("{} runs of compiled code, {} leaf kernels, {:.0} s", tally.runs, tally.kernels.len(), start.elapsed().as_secs_f64());
            std::process::ExitCode::SUCCESS
        }
        Err(difference) => {
            eprintln!("{difference}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("check_layers: inaccessible pages are made on Linux only");
}
