//! Runs targets in a plain loop, random networks, and writes the hostile files: `cargo run --release -p quernel-fuzz --`.
//!
//! An input depends on the seed and its number only, so that a process that died tells where it was: run it again with
//! `--first N`.

use quernel_fuzz::{TARGETS, Target, differential, hostile, mutated};
use quernel_test::Rng;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const USAGE: &str = "usage: quernel-fuzz TARGET|all [--seconds N] [--seed S] [--first N] [--corpus FOLDER]
       quernel-fuzz differential [--graphs N] [--seed S] [--threads N] [--save FOLDER]
       quernel-fuzz replay FILE..
       quernel-fuzz hostile FOLDER
       quernel-fuzz seeds FOLDER";

struct Options {
    seconds: u64,
    seed: u64,
    first: u64,
    graphs: u64,
    threads: usize,
    corpus: Option<PathBuf>,
    save: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (command, rest) = arguments.split_first().ok_or(USAGE)?;
    let files = rest.iter().take_while(|a| !a.starts_with("--")).count();
    let options = options(&rest[files..])?;
    match (command.as_str(), &rest[..files]) {
        ("differential", []) => differ(&options),
        ("replay", files) => files.iter().try_for_each(|f| {
            let text = std::fs::read_to_string(f).map_err(|e| format!("{f}: {e}"))?;
            differential::replay(&text).map(|v| println!("{f}: {v:?}")).map_err(|why| format!("{f}: {why}"))
        }),
        ("hostile", [folder]) => {
            let count = hostile::write(Path::new(folder)).map_err(|e| format!("{folder}: {e}"))?;
            println!("{count} cases in {folder}");
            Ok(())
        }
        ("seeds", [folder]) => {
            TARGETS.iter().try_for_each(|t| seeds(t, &Path::new(folder).join(t.name)).map_err(|e| format!("{folder}: {e}")))
        }
        ("all", []) => TARGETS.iter().try_for_each(|t| fuzz(t, &options)),
        (name, []) => fuzz(TARGETS.iter().find(|t| t.name == name).ok_or(USAGE)?, &options),
        _ => Err(USAGE.into()),
    }
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut o = Options { seconds: 60, seed: 1, first: 0, graphs: 1000, threads: 1, corpus: None, save: PathBuf::from("target/fuzz") };
    for pair in arguments.chunks(2) {
        let [key, value] = pair else { return Err(USAGE.into()) };
        let number = || value.parse::<u64>().map_err(|e| format!("{key} {value}: {e}"));
        match key.as_str() {
            "--seconds" => o.seconds = number()?,
            "--seed" => o.seed = number()?,
            "--first" => o.first = number()?,
            "--graphs" => o.graphs = number()?,
            "--threads" => o.threads = number()?.max(1) as usize,
            "--corpus" => o.corpus = Some(value.into()),
            "--save" => o.save = value.into(),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(o)
}

/// Writes the inputs a target starts from.
fn seeds(target: &Target, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (i, bytes) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed{i:03}")), bytes)?;
    }
    Ok(())
}

/// Runs one target for as long as asked.
fn fuzz(target: &Target, options: &Options) -> Result<(), String> {
    let mut corpus = (target.seeds)();
    if let Some(folder) = &options.corpus {
        let entries = std::fs::read_dir(folder.join(target.name)).into_iter().flatten();
        corpus.extend(entries.filter_map(|e| std::fs::read(e.ok()?.path()).ok()));
    }
    let start = Instant::now();
    let (mut done, mut shown) = (options.first, Instant::now());
    while start.elapsed() < Duration::from_secs(options.seconds) {
        let mut rng = Rng::new(options.seed.wrapping_mul(0x9e37_79b9).wrapping_add(done));
        let bytes = mutated(&corpus, &mut rng);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
            std::fs::create_dir_all(&options.save).map_err(|e| e.to_string())?;
            let path = options.save.join(format!("{}-{}-{done}", target.name, options.seed));
            std::fs::write(&path, &bytes).map_err(|e| e.to_string())?;
            return Err(format!("{}: input {done} of seed {} fails; it is in {}", target.name, options.seed, path.display()));
        }
        done += 1;
        if shown.elapsed() > Duration::from_secs(30) {
            shown = Instant::now();
            eprintln!("{}: {done} inputs, {:.0} s", target.name, start.elapsed().as_secs_f64());
        }
    }
    println!(
        "{}: {} inputs of seed {} in {:.0} s, none fails",
        target.name,
        done - options.first,
        options.seed,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Checks networks of seeds that follow one another.
fn differ(options: &Options) -> Result<(), String> {
    std::panic::set_hook(Box::new(|_| ()));
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let (tally, failures) = (Mutex::new(differential::Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut own = differential::Tally::default();
                loop {
                    let i = next.fetch_add(1, Relaxed);
                    if i >= options.graphs {
                        break;
                    }
                    let seed = options.seed.wrapping_mul(1 << 32).wrapping_add(options.first + i);
                    if let Err(failure) = differential::run(seed, &mut own) {
                        eprintln!("seed {seed}: {}", failure.why);
                        let _ = std::fs::create_dir_all(&options.save);
                        let _ = std::fs::write(options.save.join(format!("graph-{seed}.qir")), &failure.qir);
                        failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed);
                    }
                    if i % 1000 == 999 {
                        eprintln!("{} networks, {:.0} s", i + 1, start.elapsed().as_secs_f64());
                    }
                }
                tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&own);
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for ((kind, verdict), n) in &tally.verdicts {
        println!("{n:>8}  {kind:?} {verdict:?}");
    }
    let operators: Vec<String> = tally.operators.iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("operators in {} networks: {}", tally.agreed(), operators.join(", "));
    let failures = failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let line = format!("{} networks of seed {} in {:.0} s", options.graphs, options.seed, start.elapsed().as_secs_f64());
    if failures.is_empty() {
        println!("{line}: every execution gives the same bytes");
        Ok(())
    } else {
        Err(format!("{line}: {} fail; the smallest forms are in {}", failures.len(), options.save.display()))
    }
}
