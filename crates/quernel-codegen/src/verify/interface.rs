//! What an object says of itself, and its header.

use crate::header::hash;

use super::{Fault, Faults, Promise, file::File};
use quernel_ir::tensor::fnv1a;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the text behind `NAME_info` says.
pub struct Info {
    /// Triple.
    pub target: String,
    /// Stack bytes of a call of `NAME_run`.
    pub stack: usize,
}

/// Checks the text in the object, and the header against it and against the file.
pub fn check(file: &File, object: &[u8], header: Option<&str>, faults: &mut Faults) -> Option<Info> {
    let mut fault = |message: String| faults.add(Promise::Header, format!("{}_info", file.name), message);
    let Some(text) = text(file) else {
        fault("holds no text".into());
        return None;
    };
    let info: Value = match serde_json::from_slice(text) {
        Ok(info) => info,
        Err(e) => {
            fault(format!("is no JSON: {e}"));
            return None;
        }
    };
    let number = |key: &str| info[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let (Some(stack), Some(arena), Some(align), Some(target)) =
        (number("stack"), number("arena"), number("align"), info["target"].as_str())
    else {
        fault("lacks the stack, the arena or the target".into());
        return None;
    };
    if info["name"] != file.name.as_str() {
        fault(format!("names {}, the symbols {:?}", info["name"], file.name));
    }
    let architecture = match target.split('-').next().unwrap_or_default() {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        "riscv64gc" => object::Architecture::Riscv64,
        _ => object::Architecture::S390x,
    };
    if architecture != file.architecture {
        fault(format!("says {target}, the file is for {:?}", file.architecture));
    }
    if !align.is_power_of_two() || arena % align != 0 && arena != 0 {
        fault(format!("has an arena of {arena} bytes aligned to {align}"));
    }
    if let Some(header) = header {
        for message in header_faults(&file.name, &info, object, header) {
            if faults.0.len() < super::MOST_FAULTS {
                faults.0.push(Fault { promise: Promise::Header, place: "header".into(), message });
            }
        }
    }
    Some(Info { target: target.to_owned(), stack })
}

/// The bytes of `NAME_info_text` up to its zero.
fn text(file: &File) -> Option<&[u8]> {
    let symbol = format!("{}_info_text", file.name);
    let (_, section, offset) = file.data.iter().find(|(name, ..)| *name == symbol)?;
    let rest = file.sections[*section].data.get(*offset as usize..)?;
    Some(&rest[..rest.iter().position(|b| *b == 0)?])
}

/// What a header should define and does not, or defines otherwise.
fn header_faults(name: &str, info: &Value, object: &[u8], header: &str) -> Vec<String> {
    let upper = name.to_uppercase();
    let mut defined: BTreeMap<&str, &str> = BTreeMap::new();
    let mut faults = Vec::new();
    for line in header.lines().filter_map(|l| l.strip_prefix("#define ")) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        if defined.insert(key, value.trim()).is_some() {
            faults.push(format!("{key} is defined twice"));
        }
    }
    let mut expected: Vec<(String, String)> = vec![
        (format!("{upper}_ABI_VERSION"), info["abi"].to_string()),
        (format!("{upper}_ARENA_SIZE"), info["arena"].to_string()),
        (format!("{upper}_ARENA_ALIGN"), info["align"].to_string()),
        (format!("{upper}_STACK_SIZE"), info["stack"].to_string()),
        (format!("{upper}_OBJECT_HASH"), format!("\"{:016x}\"", fnv1a(object))),
        (format!("{upper}_HEADER_HASH"), format!("\"{:016x}\"", hash(name, header))),
    ];
    for kind in ["INPUT", "OUTPUT"] {
        let ports = info[format!("{}s", kind.to_lowercase())].as_array().cloned().unwrap_or_default();
        expected.push((format!("{upper}_{kind}_COUNT"), ports.len().to_string()));
        for (i, port) in ports.iter().enumerate() {
            let key = if ports.len() == 1 { format!("{upper}_{kind}") } else { format!("{upper}_{kind}_{i}") };
            let dims = port["dims"].as_array().cloned().unwrap_or_default();
            let count = dims.iter().filter_map(Value::as_u64).fold(1u64, u64::wrapping_mul);
            let width = match port["type"].as_str().unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_alphabetic()) {
                "64" => 8,
                "32" => 4,
                "16" => 2,
                _ => 1,
            };
            expected.push((format!("{key}_SIZE"), count.to_string()));
            expected.push((format!("{key}_BYTES"), count.wrapping_mul(width).to_string()));
            expected.push((format!("{key}_RANK"), dims.len().to_string()));
            expected.extend(dims.iter().enumerate().map(|(axis, d)| (format!("{key}_DIM_{axis}"), d.to_string())));
        }
    }
    for (key, value) in expected {
        match defined.get(key.as_str()) {
            Some(found) if *found == value => {}
            Some(found) => faults.push(format!("{key} is {found}, the object has {value}")),
            None => faults.push(format!("{key} is not defined")),
        }
    }
    for entry in ["run(", "run_v(", "info("] {
        if !header.contains(&format!("{name}_{entry}")) {
            faults.push(format!("{name}_{entry}) is not declared"));
        }
    }
    faults
}
