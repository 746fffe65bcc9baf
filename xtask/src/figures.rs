//! `cargo xtask figures [quantization]`: measures what the README claims and writes its tables; with an argument, those of
//! docs/quantization.md.
//!
//! Accuracy needs real models (`QUERNEL_MODELS`, a folder); speed needs the driver that runs Quernel beside its peers
//! (`QUERNEL_PEERS`, a Python script with the verb `run`). Whatever is absent keeps its old rows, and the command says
//! so.

use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

/// Accuracy: name, folder of the models (`None`: the repository), model, calibration, test, further arguments.
struct Case {
    name: &'static str,
    folder: Option<&'static str>,
    arguments: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "digits (in the repository)",
        folder: None,
        arguments: &["digits.onnx", "--calibrate", "digits_calib.npz", "--test", "digits_test.npz", "--check", "500"],
    },
    Case {
        name: "MNIST, CNTK",
        folder: Some("mnist"),
        arguments: &[
            "mnist_cntk_op8.onnx",
            "--calibrate",
            "mnist_train_20000.npz",
            "--rows",
            "0..256",
            "--array",
            "Input3=x",
            "--test",
            "mnist_test_5000.npz",
            "--check",
            "1000",
        ],
    },
    Case {
        name: "CIFAR-10, ResNet-8",
        folder: Some("cifar10_resnet8"),
        arguments: &[
            "ic_resnet8_fp32.onnx",
            "--calibrate",
            "cifar10_4000.npz",
            "--rows",
            "0..256",
            "--array",
            "input_1=x",
            "--channels-last",
            "--test",
            "cifar10_4000.npz",
            "--test-rows",
            "1000..4000",
            "--check",
            "100",
        ],
    },
    Case {
        name: "keywords, DS-CNN",
        folder: Some("kws_dscnn"),
        arguments: &[
            "kws_dscnn_float.onnx",
            "--calibrate",
            "kws_500.npz",
            "--rows",
            "0..100",
            "--array",
            "input_1=x",
            "--subtract",
            "83",
            "--multiply",
            "0.5847029",
            "--test",
            "kws_500.npz",
            "--test-rows",
            "100..500",
            "--check",
            "100",
        ],
    },
];

pub fn run(arguments: &[String]) -> Result<(), String> {
    let mut build = crate::command("cargo");
    // With the features of the workspace, as the tests build it.
    build.args(["build", "-q", "--release", "--workspace"]);
    crate::succeed(build, "cargo build --release --workspace")?;
    if arguments == ["quantization"] {
        return crate::quantization::run();
    }
    crate::no_arguments(arguments)?;
    let readme = crate::root().join("README.md");
    let mut page = fs::read_to_string(&readme).map_err(|why| format!("README.md: {why}"))?;
    page = section(&page, "accuracy", &accuracy()?)?;
    match speed()? {
        Some(table) => page = section(&page, if dot_products() { "speed" } else { "speed-avx2" }, &table)?,
        None => eprintln!("kept the old speeds: QUERNEL_PEERS does not name the driver of the comparison"),
    }
    fs::write(&readme, page).map_err(|why| format!("README.md: {why}"))
}

/// Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`.
pub fn section(page: &str, name: &str, table: &str) -> Result<String, String> {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = page.find(&open).ok_or(format!("the page has no {open:?}"))? + open.len();
    let end = page.find(&close).filter(|e| *e >= start).ok_or(format!("the page has no {close:?}"))?;
    Ok(format!("{}{table}{}", &page[..start], &page[end..]))
}

fn accuracy() -> Result<String, String> {
    let mut table = String::from(
        "| network | samples | float | int8 | same answer | output SQNR | bytes equal to the interpreter |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for case in CASES {
        let folder = match case.folder {
            None => crate::root().join("fixtures"),
            Some(name) => match std::env::var_os("QUERNEL_MODELS") {
                Some(models) => PathBuf::from(models).join(name),
                None => return Err("QUERNEL_MODELS does not name the folder of real models".into()),
            },
        };
        eprintln!("measuring {}", case.name);
        let out = Command::new(crate::root().join("target/release/quernel"))
            .args(["eval", "--json"])
            .args(case.arguments)
            .current_dir(folder)
            .output()
            .map_err(|why| why.to_string())?;
        if !out.status.success() {
            return Err(format!("{}: {}", case.name, String::from_utf8_lossy(&out.stderr)));
        }
        let e: Value = serde_json::from_slice(&out.stdout).map_err(|why| format!("{}: {why}", case.name))?;
        let number = |key: &str| e[key].as_f64().unwrap_or(f64::NAN);
        table += &format!(
            "| {} | {} | {:.2} % | {:.2} % | {:.2} % | {:.1} dB | {} |\n",
            case.name,
            e["samples"],
            number("float_top1"),
            number("compiled_top1"),
            number("agreement"),
            number("sqnr_db"),
            e["equal_to_interpreter"]
        );
    }
    Ok(table)
}

/// Peers in the order of the table's columns, and the networks in the order of its rows.
const PEERS: &[(&str, &str)] = &[
    ("ort_fp32", "ONNX Runtime fp32"),
    ("ort_int8", "ONNX Runtime int8"),
    ("ov_qdq", "OpenVINO"),
    ("ov_nncf", "OpenVINO NNCF"),
    ("litert_int8", "LiteRT"),
];
const NETWORKS: &[&str] = &["autoenc", "dscnn", "resnet8", "vww", "mobilenetv2", "minilm", "resnet50"];

/// Whether this machine has AVX-512 with byte dot products: those without have a table of their own.
fn dot_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Times of the peers as multiples of ours, all levels of ours in runs of their own.
fn speed() -> Result<Option<String>, String> {
    let Some(driver) = std::env::var_os("QUERNEL_PEERS") else { return Ok(None) };
    let measure = |flags: &str, peers: &[&str]| -> Result<Value, String> {
        let file = crate::root().join("target/figures.json");
        let mut command = crate::command("python3");
        command.arg(&driver).arg("run").arg("--models").args(NETWORKS).arg("--peers").args(peers).arg("--json").arg(&file);
        if !flags.is_empty() {
            command.arg(format!("--flags={flags}"));
        }
        crate::succeed(command, "the comparison with peers")?;
        serde_json::from_slice(&fs::read(file).map_err(|why| why.to_string())?).map_err(|why| why.to_string())
    };
    let names: Vec<&str> = PEERS.iter().map(|p| p.0).chain(["quernel"]).collect();
    let best = measure("", &names)?;
    let level = if dot_products() { "--level v128-dot" } else { "--level v128" };
    let narrow = measure(level, &["ort_fp32", "quernel"])?;
    let time = |run: &Value, network: &str, who: &str| run[network]["peers"][who]["med_ms"].as_f64();
    let mut table = String::from("| network | Quernel, ms |");
    table.extend(PEERS.iter().map(|p| format!(" {} |", p.1)));
    table += " 128-bit code: ONNX Runtime fp32 |\n| --- | --- |";
    table += &" --- |".repeat(PEERS.len() + 1);
    table.push('\n');
    for network in NETWORKS {
        let Some(own) = time(&best, network, "quernel") else { return Err(format!("{network} was not measured")) };
        table += &format!("| {network} | {own:.3} |");
        let ratio = |t: Option<f64>, own: Option<f64>| match (t, own) {
            (Some(t), Some(own)) => format!(" {:.2}x |", t / own),
            _ => " - |".into(),
        };
        table.extend(PEERS.iter().map(|p| ratio(time(&best, network, p.0), Some(own))));
        table += &ratio(time(&narrow, network, "ort_fp32"), time(&narrow, network, "quernel"));
        table.push('\n');
    }
    Ok(Some(table))
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_section_is_replaced_between_its_marks() {
        let page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n";
        assert_eq!(section(page, "t", "new\n").unwrap(), "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n");
        assert!(section(page, "u", "").is_err());
    }
}
