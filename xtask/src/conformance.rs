//! `cargo xtask conformance`: ONNX's own backend test suite against compiled code.
//!
//! The suite comes from PyPI into `target/conformance`; nothing of it is in the repository but the names of the cases
//! that pass. A run that covers everything rewrites `docs/conformance.json`.

use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    ops::Range,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The packages the suite comes from.
const PACKAGES: [&str; 2] = ["onnx==1.23.2", "numpy==2.4.6"];
/// Results, for `docs/supported-ops.md` and for `--check`.
const RESULTS: &str = "docs/conformance.json";
/// The same for people.
const PAGE: &str = "docs/conformance.md";

struct Outcome {
    suite: String,
    name: String,
    op: String,
    /// The form of the model that passed, and how it was compiled.
    passed: Option<(String, String)>,
    /// What it becomes with 8 bits; empty for cases without floats, and where nobody asked.
    quantized: String,
    /// Element types of its inputs and outputs.
    types: BTreeSet<String>,
    why: String,
}

pub fn run(arguments: &[String]) -> Result<(), String> {
    let check = arguments.iter().any(|a| a == "--check");
    let filter = match arguments.iter().position(|a| a == "--filter") {
        Some(i) => Some(arguments.get(i + 1).ok_or("--filter needs a text")?.clone()),
        None => None,
    };
    let home = crate::root().join("target/conformance");
    if let Err(why) = dump(&home) {
        // Without the package index there is no suite; that is no fault of the change under test.
        if check {
            eprintln!("SKIPPED: {why}");
            return Ok(());
        }
        return Err(why);
    }
    crate::program("conformance")?;
    let outcomes = judge(&home, filter.as_deref(), check)?;
    let passed: Vec<&Outcome> = outcomes.iter().filter(|o| o.passed.is_some()).collect();
    if let Some(filter) = filter {
        for o in &outcomes {
            match &o.passed {
                Some((form, how)) => println!("pass {} ({form}, {how}; with 8 bits: {})", o.name, o.quantized),
                None => println!("FAIL {}: {}", o.name, o.why),
            }
        }
        println!("{} of {} cases with {filter:?} pass", passed.len(), outcomes.len());
        return Ok(());
    }
    let path = crate::root().join(RESULTS);
    if check {
        let old: Value = fs::read_to_string(&path).ok().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let names: Vec<String> = passed.iter().map(|o| format!("{}/{}", o.suite, o.name)).collect();
        let listed = old["passed"].as_array().cloned().unwrap_or_default();
        let run = |n: &&str| !LARGE.iter().any(|l| n.ends_with(l));
        let lost: Vec<&str> = listed.iter().filter_map(Value::as_str).filter(run).filter(|n| !names.iter().any(|m| m == n)).collect();
        if !lost.is_empty() {
            return Err(format!("{} cases passed before and do not now: {}", lost.len(), lost.join(", ")));
        }
        println!("{} of {} cases pass, none that passed before fails", passed.len(), outcomes.len());
        return Ok(());
    }
    fs::write(&path, report(&outcomes)).map_err(|e| format!("{RESULTS}: {e}"))?;
    fs::write(crate::root().join(PAGE), page(&outcomes)).map_err(|e| format!("{PAGE}: {e}"))?;
    let all: String = outcomes
        .iter()
        .map(|o| match &o.passed {
            Some((form, how)) => format!("pass\t{}\t{}\t{}\t{form}\t{how}\n", o.suite, o.op, o.name),
            None => format!("FAIL\t{}\t{}\t{}\t{}\n", o.suite, o.op, o.name, o.why),
        })
        .collect();
    fs::write(home.join("results.tsv"), all).map_err(|e| e.to_string())?;
    let node = |o: &&&Outcome| o.suite == "node";
    println!(
        "node: {} of {} pass; all suites: {} of {}; each case in target/conformance/results.tsv",
        passed.iter().filter(node).count(),
        outcomes.iter().filter(|o| o.suite == "node").count(),
        passed.len(),
        outcomes.len()
    );
    Ok(())
}

/// Installs the packages and writes the cases, once per version.
fn dump(home: &Path) -> Result<(), String> {
    let script = crate::root().join("xtask/src/conformance.py");
    let source = fs::read_to_string(&script).map_err(|e| e.to_string())?;
    let (cases, stamp) = (home.join("cases"), home.join("stamp"));
    let wanted = format!("{}\n{source}", PACKAGES.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(());
    }
    let python = crate::python::environment(home, &PACKAGES)?;
    if cases.exists() {
        fs::remove_dir_all(&cases).map_err(|e| e.to_string())?;
    }
    crate::python::step(&python, &[&script.to_string_lossy(), &cases.to_string_lossy()])?;
    fs::write(stamp, wanted).map_err(|e| e.to_string())
}

/// Cases of more than 200 MB of weights, which `--check` leaves out.
const LARGE: [&str; 3] = ["light_bvlc_alexnet", "light_vgg19", "light_zfnet512"];

/// Cases that one process runs.
const CHUNK: usize = 32;

/// Runs the cases in child processes, as many at a time as there are processors; one that dies takes a single case with it.
fn judge(home: &Path, filter: Option<&str>, check: bool) -> Result<Vec<Outcome>, String> {
    let index = fs::read_to_string(home.join("cases/index.txt")).map_err(|e| e.to_string())?;
    let cases: Vec<Vec<&str>> = index.lines().filter(|l| l.starts_with("case ")).map(|l| l.split(' ').collect()).collect();
    let mut chunks: Vec<Range<usize>> = Vec::new();
    for (i, words) in cases.iter().enumerate().filter(|(_, w)| !check || !LARGE.contains(&w[2])) {
        // The large ones come one by one.
        let most = if words[1] == "light" { 1 } else { CHUNK };
        match chunks.last_mut() {
            Some(last) if last.end == i && last.len() < most => last.end = i + 1,
            _ => chunks.push(i..i + 1),
        }
    }
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    // The last cases take the longest.
    let work = || {
        while let Some(chunk) = chunks.iter().rev().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let some = run_chunk(home, filter, check, chunk.clone())?;
            found.lock().map_err(|e| e.to_string())?.extend(some);
        }
        Ok::<(), String>(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|s| -> Result<(), String> {
        let running: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
        running.into_iter().try_for_each(|t| t.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    let mut found = found.into_inner().map_err(|e| e.to_string())?;
    let mut case = None;
    for line in index.lines().skip(1) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["case", ..] => case = Some(case.map_or(0, |c| c + 1)),
            ["in" | "out", kind, ..] => {
                if let Some(o) = case.and_then(|c| found.get_mut(&c)) {
                    o.types.insert(kind.into());
                }
            }
            _ => {}
        }
    }
    Ok(found.into_values().collect())
}

fn run_chunk(home: &Path, filter: Option<&str>, check: bool, cases: Range<usize>) -> Result<BTreeMap<usize, Outcome>, String> {
    let runner = crate::root().join("target/release/conformance");
    let folder = home.join("cases");
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let mut first = cases.start;
    loop {
        let mut command = Command::new(&runner);
        let left = cases.end - first;
        command.arg(&folder).arg(first.to_string()).arg(left.to_string()).arg(if check { "check" } else { "report" }).args(filter);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", runner.display()))?;
        let mut open: Option<usize> = None;
        let lines = child.stdout.take().map(BufReader::new).ok_or("no output of the runner")?;
        for line in lines.lines() {
            let line = line.map_err(|e| e.to_string())?;
            let words: Vec<&str> = line.split('\t').collect();
            let number = words.get(1).and_then(|w| w.parse::<usize>().ok()).ok_or_else(|| format!("unexpected line {line:?}"))?;
            match words[..] {
                ["start", _, suite, name, op] => {
                    let why = "the process died".into();
                    let (suite, name, op) = (suite.into(), name.into(), op.into());
                    let (quantized, types) = (String::new(), BTreeSet::new());
                    outcomes.insert(number, Outcome { suite, name, op, passed: None, quantized, types, why });
                    open = Some(number);
                }
                ["end", _, verdict, form, text, quantized] => {
                    if let Some(o) = outcomes.get_mut(&number) {
                        o.quantized = quantized.into();
                        o.why = text.into();
                        o.passed = (verdict == "pass").then(|| (form.into(), text.into()));
                    }
                    open = None;
                }
                _ => return Err(format!("unexpected line {line:?}")),
            }
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        match open {
            Some(number) if number + 1 < cases.end => first = number + 1,
            Some(_) => return Ok(outcomes),
            None if status.success() => return Ok(outcomes),
            None => return Err(format!("the runner ended with {status}")),
        }
    }
}

/// Numbers per suite and operator, and the names of the cases that pass.
fn report(outcomes: &[Outcome]) -> String {
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for o in outcomes {
        suites.entry(&o.suite).or_default().push(o);
    }
    let mut page = Map::new();
    for (suite, all) in suites {
        let mut by_op: BTreeMap<&str, (usize, usize, BTreeMap<&str, usize>)> = BTreeMap::new();
        let (mut types, mut quantized) = (BTreeMap::<&str, BTreeSet<&str>>::new(), BTreeMap::<&str, BTreeSet<&str>>::new());
        let mut forms: BTreeMap<&str, usize> = BTreeMap::new();
        for o in &all {
            let row = by_op.entry(&o.op).or_default();
            row.1 += 1;
            if let Some((form, how)) = &o.passed {
                row.0 += 1;
                *row.2.entry(how).or_default() += 1;
                types.entry(&o.op).or_default().extend(o.types.iter().map(String::as_str));
                quantized.entry(&o.op).or_default().extend(Some(o.quantized.as_str()).filter(|q| !q.is_empty()));
                *forms.entry(form).or_default() += 1;
            }
        }
        let ops: Map<String, Value> = by_op
            .into_iter()
            .map(|(op, (passed, total, how))| {
                let list = |names: Vec<&str>| names.join(", ");
                let of = |all: &BTreeMap<&str, BTreeSet<&str>>| list(all.get(op).into_iter().flatten().copied().collect());
                let (types, quantized) = (of(&types), of(&quantized));
                let as_is = list(how.keys().copied().collect());
                let row =
                    json!({"passed": passed, "total": total, "how": how, "types": types, "compiled_as": as_is, "quantized_as": quantized});
                (op.into(), row)
            })
            .collect();
        let passed = all.iter().filter(|o| o.passed.is_some()).count();
        page.insert(suite.into(), json!({"passed": passed, "total": all.len(), "by_form": forms, "by_op": ops}));
    }
    let names: Vec<String> = outcomes.iter().filter(|o| o.passed.is_some()).map(|o| format!("{}/{}", o.suite, o.name)).collect();
    page.insert("packages".into(), json!(PACKAGES));
    page.insert("passed".into(), json!(names));
    format!("{:#}\n", Value::Object(page))
}

/// The table per operator, and what is missing, largest group first.
fn page(outcomes: &[Outcome]) -> String {
    let node: Vec<&Outcome> = outcomes.iter().filter(|o| o.suite == "node").collect();
    let passed = |all: &[&Outcome]| all.iter().filter(|o| o.passed.is_some()).count();
    let form = |name: &str| node.iter().filter(|o| o.passed.as_ref().is_some_and(|(f, _)| f == name)).count();
    let mut text = format!(
        "<!-- Written by `cargo xtask conformance`; do not edit. -->\n\n# ONNX's backend test suite\n\n\
         Of {} node tests of {}, {} pass: each model is compiled in float, its code runs, must equal the interpreter bit for\n\
         bit, and must equal the expected outputs within the tolerance of the case. A static compiler needs some operands at compile time:\n\
         {} pass with every input left to run time, {} with integer operands as constants, {} with all operands\n\
         but the first, and {} are evaluated at compile time altogether.\n\n| suite | passed | of |\n| --- | --- | --- |\n",
        node.len(),
        PACKAGES[0],
        passed(&node),
        form("as-is"),
        form("integers"),
        form("operands"),
        form("constant"),
    );
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    let mut by_op: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for o in outcomes {
        suites.entry(&o.suite).or_default().push(o);
    }
    for o in &node {
        by_op.entry(&o.op).or_default().push(o);
    }
    for (suite, all) in &suites {
        text += &format!("| {suite} | {} | {} |\n", passed(all), all.len());
    }
    text += "\n## Operators\n\nThe cases of an operator include those that spell it out in others (`_expanded`).\n\n\
             [supported-ops.md](supported-ops.md) explains the words.\n\n\
             | operator | passed | of | as it is | with 8 bits |\n| --- | --- | --- | --- | --- |\n";
    for (op, all) in &by_op {
        let mut how: Vec<&str> = all.iter().filter_map(|o| o.passed.as_ref().map(|(_, how)| how.as_str())).collect();
        let mut quantized: Vec<&str> = all.iter().filter(|o| o.passed.is_some()).map(|o| o.quantized.as_str()).collect();
        for list in [&mut how, &mut quantized] {
            list.sort_unstable();
            list.dedup();
            list.retain(|kind| !kind.is_empty());
        }
        text += &format!("| {op} | {} | {} | {} | {} |\n", passed(all), all.len(), how.join(", "), quantized.join(", "));
    }
    text += "\n## What is missing\n\n\
             The best ahead-of-time compiler on ONNX's public scoreboard passes 1,873 of its 1,914 cases. What stands between, the largest group\n\
             first:\n\n| cases | reason | operators |\n| --- | --- | --- |\n";
    let failed: Vec<&Outcome> = node.iter().filter(|o| o.passed.is_none()).copied().collect();
    let mut groups: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for o in &failed {
        *groups.entry(reason(o)).or_default().entry(&o.op).or_default() += 1;
    }
    let mut groups: Vec<(usize, &str, String)> = groups
        .into_iter()
        .map(|(why, ops)| {
            let mut counted: Vec<(usize, &str)> = ops.into_iter().map(|(op, n)| (n, op)).collect();
            counted.sort_by_key(|(n, op)| (std::cmp::Reverse(*n), *op));
            let list: Vec<String> = counted.iter().map(|(n, op)| if *n == 1 { (*op).to_owned() } else { format!("{op} ({n})") }).collect();
            (counted.iter().map(|(n, _)| n).sum(), why, list.join(", "))
        })
        .collect();
    groups.sort_by_key(|(n, why, _)| (std::cmp::Reverse(*n), *why));
    for (n, why, ops) in groups {
        text += &format!("| {n} | {why} | {ops} |\n");
    }
    text += "\nEvery case that is not out of scope, of all suites:\n\n| case | what the compiler or the comparison says |\n| --- | --- |\n";
    for o in outcomes.iter().filter(|o| o.passed.is_none() && !o.why.contains(OUTSIDE)) {
        let why: String = o.why.replace('|', "\\|").chars().take(160).collect();
        text += &format!("| {}/{} | {why} |\n", o.suite, o.name);
    }
    text
}

/// What the messages say of cases that no compiler of tensors passes.
const OUTSIDE: &str = "out of scope";

/// Why a case fails, for a person.
fn reason(o: &Outcome) -> &'static str {
    let training = o.why.contains("training mode");
    match o.op.as_str() {
        _ if o.why.contains(OUTSIDE) => "out of scope: sequences, optional values, texts, training, ai.onnx.ml, files of pictures",
        "Bernoulli" | "Multinomial" => "random results, and the standard names no generator",
        "Dropout" if training => "random results, and the standard names no generator",
        // The exact result is 0; what is expected there is the rounding error of another order of operations.
        "DFT" if o.why.starts_with("wrong") && o.why.contains(" is 0, expected ") => {
            "the expected values hold the rounding errors of one 32-bit transform where the exact result is 0"
        }
        _ if o.why.starts_with("wrong") => "differs from the expected values by more than the tolerance",
        _ => "a form that is not supported",
    }
}
