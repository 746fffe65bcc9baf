//! `cargo xtask figures quantization`: measures what docs/quantization.md says of schemes, budgets and times.
//!
//! Real networks come from `QUERNEL_MODELS`, generated ones from `QUERNEL_NETWORKS` (folders). A table whose networks are
//! absent keeps its old rows, and the command says so. What was measured is remembered in `target/figures`, so that an
//! interrupted run goes on where it stopped; without that folder everything is measured again.

use crate::figures::section;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A network and how its samples are read: folder, model, samples for calibration, samples to measure on.
struct Network {
    name: &'static str,
    folder: &'static str,
    arguments: &'static str,
    /// Rows to calibrate on, and to measure on.
    rows: &'static str,
    test: &'static str,
}

const RESNET8: Network = Network {
    name: "ResNet-8",
    folder: "cifar10_resnet8",
    arguments: "ic_resnet8_fp32.onnx --calibrate cifar10_4000.npz --array input_1=x --channels-last --test cifar10_4000.npz",
    rows: "0..256",
    test: "1000..4000",
};
const MNIST: Network = Network {
    name: "MNIST",
    folder: "mnist",
    arguments: "mnist_cntk_op8.onnx --calibrate mnist_train_20000.npz --array Input3=x --test mnist_test_5000.npz",
    rows: "0..256",
    test: "0..5000",
};
const KEYWORDS: Network = Network {
    name: "DS-CNN",
    folder: "kws_dscnn",
    arguments: "kws_dscnn_float.onnx --calibrate kws_500.npz --array input_1=x --subtract 83 --multiply 0.5847029 --test kws_500.npz",
    rows: "0..100",
    test: "100..500",
};

/// A row: network, what is asked for, options, rows to calibrate on where they differ, and what is aimed at: a drop in
/// points, and a signal to noise in dB.
struct Row(&'static Network, &'static str, &'static str, Option<&'static str>, Option<f64>, Option<f64>);

const ROWS: &[Row] = &[
    Row(&RESNET8, "8 bits", "", None, Some(0.2), Some(36.0)),
    Row(&RESNET8, "8 bits, activations 16 bits", "--activations 16", None, None, None),
    Row(&RESNET8, "8 bits, equalized", "--recover bias,feedback,refit,descent,equalize", None, None, None),
    Row(&RESNET8, "8 bits, dynamic range", "--activations dynamic", None, None, None),
    Row(&RESNET8, "8 bits, activations float", "--activations float", None, None, None),
    Row(&RESNET8, "4 bits, nearest", "--bits 4 --recover none", None, None, None),
    Row(&RESNET8, "4 bits, bias", "--bits 4 --recover bias", None, None, None),
    Row(&RESNET8, "4 bits, feedback", "--bits 4 --recover bias,feedback", None, None, None),
    Row(&RESNET8, "4 bits, feedback, refit", "--bits 4 --recover bias,feedback,refit", None, None, None),
    Row(&RESNET8, "4 bits", "--bits 4", None, Some(0.6), Some(26.0)),
    Row(&RESNET8, "4 bits, blocks", "--bits 4 --recover bias,feedback,refit,descent,blocks", None, Some(0.6), Some(26.0)),
    Row(&RESNET8, "4 bits, equalized", "--bits 4 --recover bias,feedback,refit,descent,equalize", None, None, None),
    Row(&RESNET8, "4 bits, activations 16 bits", "--bits 4 --activations 16", None, None, None),
    Row(&RESNET8, "4 bits, normal", "--bits 4 --scheme normal", None, None, None),
    Row(&RESNET8, "4 bits, codebook", "--bits 4 --scheme codebook", None, None, None),
    Row(&RESNET8, "4 bits, power-of-two", "--bits 4 --scheme power-of-two", None, None, None),
    Row(&RESNET8, "4 bits, auto", "--bits 4 --scheme auto", None, None, None),
    Row(&RESNET8, "4 bits, activations float", "--bits 4 --activations float", None, None, None),
    Row(&RESNET8, "4 bits, activations 4 bits", "--bits 4 --activations 4", None, Some(2.2), None),
    Row(
        &RESNET8,
        "4 bits, activations 4 bits, blocks",
        "--bits 4 --activations 4 --recover bias,feedback,refit,descent,blocks",
        None,
        Some(2.2),
        None,
    ),
    Row(&RESNET8, "3 bits", "--bits 3", None, Some(2.0), None),
    Row(&RESNET8, "3 bits, 1000 rows", "--bits 3", Some("0..1000"), Some(1.3), None),
    Row(&RESNET8, "3 bits, auto", "--bits 3 --scheme auto", None, None, None),
    Row(&RESNET8, "2 bits, codebook", "--bits 2 --scheme codebook", None, Some(5.0), None),
    Row(&RESNET8, "2 bits, codebook, 1000 rows", "--bits 2 --scheme codebook", Some("0..1000"), Some(3.5), None),
    Row(
        &RESNET8,
        "2 bits, codebook, 1000 rows, blocks",
        "--bits 2 --scheme codebook --recover bias,feedback,refit,descent,blocks",
        Some("0..1000"),
        Some(3.5),
        None,
    ),
    Row(&RESNET8, "ternary", "--scheme ternary", None, None, None),
    Row(&RESNET8, "binary", "--scheme binary", None, None, None),
    Row(&RESNET8, "binary, activations 1 bit", "--scheme binary --activations 1", None, None, None),
    Row(&RESNET8, "budget size=60%", "--budget size=60%", None, Some(0.5), None),
    Row(&MNIST, "8 bits", "", None, None, None),
    Row(&MNIST, "2 bits, codebook", "--bits 2 --scheme codebook", None, Some(0.3), None),
    Row(&MNIST, "ternary", "--scheme ternary", None, Some(0.4), None),
    Row(&MNIST, "binary", "--scheme binary", None, None, None),
    Row(&KEYWORDS, "8 bits", "", None, None, None),
    Row(&KEYWORDS, "4 bits", "--bits 4", None, Some(2.0), Some(24.0)),
    Row(&KEYWORDS, "4 bits, auto", "--bits 4 --scheme auto", None, None, None),
    Row(&KEYWORDS, "4 bits, activations 4 bits", "--bits 4 --activations 4", None, None, None),
    Row(&KEYWORDS, "budget size=60%", "--budget size=60%", None, Some(1.5), None),
];

/// Generated networks whose sizes are shown, and the schemes.
const SIZED: [&str; 3] = ["resnet50", "vgg16", "alexnet"];
const SCHEMES: [(&str, &str); 5] =
    [("float", "--bits float"), ("8 bits", "--bits 8"), ("4 bits", "--bits 4"), ("2 bits", "--bits 2"), ("1 bit", "--scheme binary")];

pub fn run() -> Result<(), String> {
    let file = crate::root().join("docs/quantization.md");
    let mut page = fs::read_to_string(&file).map_err(|why| format!("docs/quantization.md: {why}"))?;
    // With the features of the workspace, so that no dependency is built for this alone.
    let mut build = crate::command("cargo");
    build.args(["build", "-q", "--release", "--workspace", "--example", "distributions"]);
    crate::succeed(build, "cargo build --example distributions")?;
    let distributions = output(&mut Command::new(crate::root().join("target/release/examples/distributions")))?;
    page = section(&page, "distributions", &distributions)?;
    match std::env::var_os("QUERNEL_MODELS") {
        Some(models) => page = section(&page, "schemes", &schemes(&PathBuf::from(models))?)?,
        None => eprintln!("kept the old accuracies: QUERNEL_MODELS does not name the folder of real models"),
    }
    match std::env::var_os("QUERNEL_NETWORKS") {
        Some(folder) => page = section(&page, "sizes", &sizes(&PathBuf::from(folder))?)?,
        None => eprintln!("kept the old sizes: QUERNEL_NETWORKS does not name the folder of generated networks"),
    }
    fs::write(&file, page).map_err(|why| format!("docs/quantization.md: {why}"))
}

fn quernel() -> Command {
    Command::new(crate::root().join("target/release/quernel"))
}

fn output(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|why| why.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What a run of `quernel` with these arguments prints as JSON, from `target/figures` if it ran before; and the processor
/// time it took in seconds, which other work on the machine changes little.
fn remembered(arguments: &[&str], folder: &Path) -> Result<(Value, Option<f64>), String> {
    // FNV-1a: the arguments themselves are too long for the name of a file.
    let key = arguments.join(" ").bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let file = crate::root().join("target/figures").join(format!("{key:016x}.json"));
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|why| why.to_string());
    if let Ok(known) = fs::read_to_string(&file).map_err(|why| why.to_string()).and_then(|t| parse(&t)) {
        return Ok((known["result"].clone(), known["seconds"].as_f64()));
    }
    let before = children();
    let result = parse(&output(quernel().args(arguments).current_dir(folder))?)?;
    let seconds = before.zip(children()).map(|(before, after)| after - before);
    fs::create_dir_all(file.parent().unwrap_or(&file)).map_err(|why| why.to_string())?;
    fs::write(&file, serde_json::json!({ "result": result, "seconds": seconds }).to_string()).map_err(|why| why.to_string())?;
    Ok((result, seconds))
}

/// Seconds of processor time of all processes this one has started and seen end, where Linux tells.
fn children() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold spaces, the 14th and 15th number, in hundredths.
    let numbers: Vec<f64> = stat.rsplit(')').next()?.split_whitespace().skip(13).take(2).filter_map(|n| n.parse().ok()).collect();
    Some(numbers.iter().sum::<f64>() / 100.0)
}

fn schemes(models: &Path) -> Result<String, String> {
    let mut table = String::from(
        "| network | weights | float | compiled | drop | aim | logits SQNR | aim | KL | CPU s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for Row(network, what, options, rows, drop, sqnr) in ROWS {
        eprintln!("measuring {}, {what}", network.name);
        let mut arguments = vec!["eval", "--json"];
        arguments.extend(network.arguments.split(' '));
        arguments.extend(["--rows", rows.unwrap_or(network.rows), "--test-rows", network.test]);
        arguments.extend(options.split(' ').filter(|o| !o.is_empty()));
        let (e, seconds) =
            remembered(&arguments, &models.join(network.folder)).map_err(|why| format!("{}, {what}: {why}", network.name))?;
        let number = |key: &str| e[key].as_f64().unwrap_or(f64::NAN);
        let aim = |x: &Option<f64>, sign: &str| x.map_or_else(String::new, |x| format!("{sign} {x}"));
        table += &format!(
            "| {} | {what} | {:.2} % | {:.2} % | {:.2} | {} | {:.1} dB | {} | {:.5} | {} |\n",
            network.name,
            number("float_top1"),
            number("compiled_top1"),
            number("float_top1") - number("compiled_top1"),
            aim(drop, "<="),
            e["logits_sqnr_db"].as_f64().unwrap_or(number("sqnr_db")),
            aim(sqnr, ">="),
            number("kl"),
            seconds.map_or_else(String::new, |s| format!("{s:.0}")),
        );
    }
    Ok(table)
}

/// Bytes of the weights in the object.
fn sizes(folder: &Path) -> Result<String, String> {
    let mut table = String::from("| network |");
    table.extend(SCHEMES.iter().map(|s| format!(" {} |", s.0)));
    table += "\n| --- |";
    table += &" --- |".repeat(SCHEMES.len());
    table.push('\n');
    for network in SIZED {
        let file = format!("{network}.onnx");
        if !folder.join(&file).exists() {
            eprintln!("no {file} in QUERNEL_NETWORKS");
            continue;
        }
        table += &format!("| {network} |");
        for (what, options) in SCHEMES {
            eprintln!("measuring {network}, {what}");
            let mut arguments = vec!["report", "--json", "--calibrate", "random", "--recover", "none"];
            arguments.extend(options.split(' '));
            arguments.push(&file);
            let (report, _) = remembered(&arguments, folder)?;
            let layers = report["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
            let bytes: u64 = layers.iter().filter_map(|l| l["weight_bytes"].as_u64()).sum();
            table += &format!(" {:.1} MB |", bytes as f64 / 1e6);
        }
        table.push('\n');
    }
    Ok(table)
}
