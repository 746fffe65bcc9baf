//! `cargo xtask hostile [CORPUS] [--fast]`: files that owe an error, compiled in processes of their own.
//!
//! The corpus is that of `quernel-fuzz`, or one that is named: a folder with `expect.json`, or the Python script that writes
//! it; `QUERNEL_HOSTILE` names one that is compiled beside ours. Every case is compiled in several ways (`--fast`: in one of
//! them, and ours only) under a limit of memory and time, and judged by its class: `error` owes a numbered, located diagnostic, `ok` owes an object (or `unsupported`), `either` one of the two. What
//! compiles is linked and runs between pages that may not be touched. No artifact may hold the bytes of the file outside.

mod guarded;
mod process;

use process::{End, Limits};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Instant,
};

/// The package the generator of the corpus needs.
const PACKAGE: &str = "onnx==1.23.2";
/// What the file outside the folders of the models holds, as often as a leak would show it.
const OUTSIDE: f32 = 31337.25;
/// How each case is compiled.
const WAYS: &[&[&str]] = &[&["--bits", "float"], &["--calibrate", "random"], &["--activations", "dynamic"]];

/// What a compiler made of a case, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    Crash,
    Hang,
    Memory,
    Panic,
    Leak,
    /// Compiled code left its memory, or did not end.
    Astray,
    /// Ended with 1, but without a numbered and located diagnostic.
    Unlocated,
    Compiled,
    Unsupported,
    Refused,
}

impl Outcome {
    const ALL: &[(Self, &'static str)] = &[
        (Self::Refused, "refused"),
        (Self::Unsupported, "unsupported"),
        (Self::Compiled, "compiled"),
        (Self::Unlocated, "unlocated"),
        (Self::Astray, "astray"),
        (Self::Leak, "leak"),
        (Self::Panic, "panic"),
        (Self::Memory, "memory"),
        (Self::Hang, "hang"),
        (Self::Crash, "crash"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(o, _)| *o == self).map_or("", |(_, name)| name)
    }

    fn owed(self, class: &str) -> bool {
        match self {
            Self::Refused => class != "ok",
            Self::Unsupported => true,
            Self::Compiled => class != "error",
            _ => false,
        }
    }
}

struct Case {
    name: String,
    path: PathBuf,
    class: String,
    why: String,
}

pub fn run(arguments: &[String]) -> Result<(), String> {
    let value = |key: &str| arguments.iter().position(|a| a == key).and_then(|i| arguments.get(i + 1));
    let filter = value("--filter").cloned().unwrap_or_default();
    let verbose = arguments.iter().any(|a| a == "--all");
    let fast = arguments.iter().any(|a| a == "--fast");
    let home = crate::root().join("target/hostile");
    let corpora = match arguments.first().filter(|a| !a.starts_with("--")) {
        Some(given) => vec![corpus(Path::new(given), &home)?],
        None => {
            let mut all = vec![own(&home)?];
            match std::env::var_os("QUERNEL_HOSTILE").filter(|_| !fast) {
                Some(given) => all.push(corpus(Path::new(&given), &home)?),
                None if fast => {}
                None => eprintln!("SKIPPED: the corpus from elsewhere; QUERNEL_HOSTILE names its folder, or the script that writes it"),
            }
            all
        }
    };
    let mut cases = Vec::new();
    for corpus in &corpora {
        cases.extend(read(corpus)?.into_iter().filter(|c| c.name.contains(&filter)));
    }
    let quernel = match value("--quernel") {
        Some(path) => PathBuf::from(path),
        None => crate::program("quernel")?,
    };
    let start = Instant::now();
    let answers = answers(&quernel, &cases, fast, &home.join("work"))?;
    let mut counts: BTreeMap<(&str, &str), BTreeMap<Outcome, usize>> = BTreeMap::new();
    let (mut wrong, mut slowest, mut guarded) = (0, (0.0, String::new()), 0);
    for Answer { case, way, outcome, text, seconds } in &answers {
        let (case, way) = (&cases[*case], way.join(" "));
        let category = case.name.split('-').next().unwrap_or_default();
        guarded += usize::from(*outcome == Outcome::Compiled);
        if *seconds > slowest.0 {
            slowest = (*seconds, format!("{} {way}", case.name));
        }
        *counts.entry((category, &case.class)).or_default().entry(*outcome).or_default() += 1;
        let line = format!("{} [{}] {way}: {}: {text}\n    ({})", case.name, case.class, outcome.name(), case.why);
        if !outcome.owed(&case.class) {
            eprintln!("{line}");
            wrong += 1;
        } else if verbose {
            println!("{line}");
        }
    }
    table(&counts);
    println!(
        "{} cases compiled {} times in {:.0} s; {guarded} objects ran between forbidden pages; slowest {:.2} s: {}",
        cases.len(),
        answers.len(),
        start.elapsed().as_secs_f64(),
        slowest.0,
        slowest.1
    );
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} answers are not what the corpus expects")) }
}

/// What became of a case, by its number, in one of the ways.
struct Answer {
    case: usize,
    way: &'static [&'static str],
    outcome: Outcome,
    text: String,
    seconds: f64,
}

/// Compiles all cases, in all ways or (`fast`) in one of them each, as many at a time as there are cores.
fn answers(quernel: &Path, cases: &[Case], fast: bool, work: &Path) -> Result<Vec<Answer>, String> {
    let jobs: Vec<(usize, &'static [&'static str])> = (0..cases.len())
        .flat_map(|i| WAYS.iter().enumerate().filter(move |(k, _)| !fast || i % WAYS.len() == *k).map(move |(_, w)| (i, *w)))
        .collect();
    let next = AtomicUsize::new(0);
    let worker = |number: usize| {
        let own = work.join(number.to_string());
        let mut all = Vec::new();
        while let Some(&(case, way)) = jobs.get(next.fetch_add(1, Relaxed)) {
            let (outcome, text, seconds) =
                attempt(quernel, &cases[case], way, &own, if fast { &Limits::UNTIMED } else { &Limits::COMPILE })?;
            all.push(Answer { case, way, outcome, text, seconds });
        }
        Ok::<_, String>(all)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = std::thread::scope(|scope| {
        let worker = &worker;
        let running: Vec<_> = (0..threads).map(|i| scope.spawn(move || worker(i))).collect();
        let ended = running.into_iter().map(|t| t.join().map_err(|_| "a thread died".to_owned())?);
        Ok::<_, String>(ended.collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect::<Vec<Answer>>())
    })?;
    all.sort_by_key(|a| a.case);
    Ok(all)
}

fn table(counts: &BTreeMap<(&str, &str), BTreeMap<Outcome, usize>>) {
    let heads: String = Outcome::ALL.iter().map(|(_, name)| format!(" {name:>11}")).collect();
    println!("{:<8} {:<6}{heads}", "category", "class");
    let mut totals: BTreeMap<&str, BTreeMap<Outcome, usize>> = BTreeMap::new();
    let row = |category: &str, class: &str, by: &BTreeMap<Outcome, usize>| {
        let cells: String = Outcome::ALL.iter().map(|(o, _)| format!(" {:>11}", by.get(o).unwrap_or(&0))).collect();
        println!("{category:<8} {class:<6}{cells}");
    };
    for ((category, class), by) in counts {
        row(category, class, by);
        for (o, n) in by {
            *totals.entry(class).or_default().entry(*o).or_default() += n;
        }
    }
    for (class, by) in &totals {
        row("all", class, by);
    }
}

/// The corpus of this repository.
fn own(home: &Path) -> Result<PathBuf, String> {
    let out = home.join("own");
    let mut write = crate::command(&crate::program("quernel-fuzz")?.to_string_lossy());
    write.arg("hostile").arg(&out);
    crate::succeed(write, "quernel-fuzz hostile")?;
    Ok(out)
}

/// The folder of the corpus; a script is run once per change of it.
fn corpus(given: &Path, home: &Path) -> Result<PathBuf, String> {
    if given.is_dir() {
        return Ok(given.to_path_buf());
    }
    let source = fs::read_to_string(given).map_err(|e| format!("{}: {e}", given.display()))?;
    let (venv, out, stamp) = (home.join("venv"), home.join("corpus"), home.join("stamp"));
    let wanted = format!("{PACKAGE}\n{source}");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) && out.is_dir() {
        return Ok(out);
    }
    fs::create_dir_all(home).map_err(|e| e.to_string())?;
    let step = |program: &Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdout(Stdio::null());
        crate::succeed(command, &format!("{} {}", program.display(), arguments.join(" ")))
    };
    let python = match std::env::var_os("QUERNEL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => {
            step(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])?;
            step(&venv.join("bin/python"), &["-m", "pip", "install", "-q", "--retries", "1", "--timeout", "20", PACKAGE])?;
            venv.join("bin/python")
        }
    };
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|e| e.to_string())?;
    }
    step(&python, &[&given.to_string_lossy(), &out.to_string_lossy()])?;
    fs::write(stamp, wanted).map_err(|e| e.to_string())?;
    Ok(out)
}

fn read(corpus: &Path) -> Result<Vec<Case>, String> {
    let path = corpus.join("expect.json");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let all: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let entries = all.as_object().ok_or("expect.json holds no object")?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok(entries
        .iter()
        .map(|(name, e)| Case { name: name.clone(), path: corpus.join(text(&e["path"])), class: text(&e["class"]), why: text(&e["why"]) })
        .collect())
}

/// Compiles one case, and runs what was compiled.
fn attempt(quernel: &Path, case: &Case, way: &[&str], work: &Path, limits: &Limits) -> Result<(Outcome, String, f64), String> {
    if work.exists() {
        fs::remove_dir_all(work).map_err(|e| e.to_string())?;
    }
    fs::create_dir_all(work).map_err(|e| e.to_string())?;
    let model = case.path.to_string_lossy();
    let object = work.join("m.o");
    let out = object.to_string_lossy();
    let line: Vec<&str> =
        [&["--error-format", "json", "compile", &model, "--name", "m", "-o", &out, "--emit", "obj,header,report"], way].concat();
    let ended = process::run(quernel, &line, limits)?;
    let seconds = ended.seconds;
    let last = ended.text.lines().last().unwrap_or_default().chars().take(300).collect::<String>();
    let outcome = match ended.end {
        End::TimedOut => Outcome::Hang,
        End::Signal(_) if process::out_of_memory(&ended.text) => Outcome::Memory,
        End::Signal(signal) => return Ok((Outcome::Crash, format!("signal {signal}: {last}"), seconds)),
        End::Status(0) if leaks(work, &ended.text) => Outcome::Leak,
        End::Status(0) => {
            return Ok(match guarded::run(work) {
                Ok(()) => (Outcome::Compiled, last, seconds),
                Err(why) => (Outcome::Astray, why, seconds),
            });
        }
        End::Status(1) => return Ok((refusal(&ended.text), ended.text.chars().take(300).collect(), seconds)),
        End::Status(101) => return Ok((Outcome::Panic, ended.text.chars().take(600).collect(), seconds)),
        End::Status(_) => Outcome::Unlocated,
    };
    Ok((outcome, last, seconds))
}

/// Whether the diagnostics are numbered and located, and say that the feature is missing.
fn refusal(text: &str) -> Outcome {
    let diagnostics: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let numbered = |d: &Value| d["code"].as_str().is_some_and(|c| c.starts_with("QN")) && d["class"] != "bug";
    let located = |d: &Value| !d["file"].is_null() || !d["place"].is_null();
    match diagnostics.as_slice() {
        [] => Outcome::Unlocated,
        all if !all.iter().all(|d| numbered(d) && located(d)) => Outcome::Unlocated,
        // What computes infinities on samples has no ranges; without samples it compiles.
        all if all.iter().all(|d| d["class"] == "unsupported" || d["code"] == "QN0023") => Outcome::Unsupported,
        _ => Outcome::Refused,
    }
}

/// Whether an artifact or a message holds bytes of the file outside.
fn leaks(work: &Path, text: &str) -> bool {
    let needle = OUTSIDE.to_le_bytes();
    let holds = |bytes: &[u8]| bytes.windows(4).any(|w| w == needle);
    let files = fs::read_dir(work).into_iter().flatten().filter_map(|e| fs::read(e.ok()?.path()).ok());
    text.contains("31337.25") || files.into_iter().any(|bytes| holds(&bytes))
}
