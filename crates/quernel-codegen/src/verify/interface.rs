//! What an object says of itself, and its header.

use crate::{
    ABI_VERSION,
    header::{comment, hash},
};

use super::{Fault, Faults, Promise, file::File};
use quernel_ir::{program::ALIGN, tensor::fnv1a};
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
        "s390x" => object::Architecture::S390x,
        _ => object::Architecture::Unknown,
    };
    let format = match () {
        () if target.contains("-windows-") => object::BinaryFormat::Coff,
        () if target.contains("-apple-") => object::BinaryFormat::MachO,
        () => object::BinaryFormat::Elf,
    };
    if (architecture, format) != (file.architecture, file.format) {
        fault(format!("says {target}, the file is {:?} for {:?}", file.format, file.architecture));
    }
    let mut ports = ["inputs", "outputs"].into_iter().flat_map(|kind| info[kind].as_array().cloned().unwrap_or_default());
    if ports.any(|p| p["dims"].as_array().is_none_or(|dims| dims.iter().any(|d| d.as_u64().is_none()))) {
        fault("has extents that are no numbers".into());
    }
    if info["abi"] != ABI_VERSION {
        fault(format!("has calls of version {}", info["abi"]));
    }
    if align != ALIGN || arena % align != 0 {
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
    let Some(text) = without_comments(header) else {
        return vec!["has a comment that does not end, a line that goes on in the next, or characters that are no text".into()];
    };
    // What is left is what a compiler sees, and nothing else may be there.
    let mut rest = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        match line.strip_prefix("#define ").and_then(|l| l.split_once(' ')) {
            // Behind the guard of the header, before anything that may not be read.
            Some((key, value)) if rest.len() == 2 => {
                if defined.insert(key, value.trim()).is_some() {
                    faults.push(format!("{key} is defined twice"));
                }
            }
            _ => rest.push(line),
        }
    }
    let [guard, own] = [format!("#ifndef {upper}_H"), format!("#define {upper}_H")];
    let declared = [
        format!("int {name}_run({});", parameters(info)),
        format!("int {name}_run_v(const void *const inputs[], void *const outputs[], void *arena);"),
        format!("const char *{name}_info(void);"),
    ];
    let mut whole = vec![guard.as_str(), &own, "#ifdef __cplusplus", "extern \"C\" {", "#endif"];
    whole.extend(declared.iter().map(String::as_str));
    whole.extend(["#ifdef __cplusplus", "}", "#endif", "#endif"]);
    for line in rest.iter().filter(|l| !whole.contains(l)) {
        faults.push(format!("has a line that no header has: {line}"));
    }
    for line in whole.iter().filter(|l| !rest.contains(l)) {
        faults.push(format!("lacks the line {line}"));
    }
    if faults.is_empty() && rest != whole {
        faults.push("has its lines in another order".into());
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
            let width = u64::from(bits(port["type"].as_str().unwrap_or_default()).div_ceil(8));
            expected.push((format!("{key}_NAME"), format!("\"{}\"", comment(port["name"].as_str().unwrap_or_default()))));
            expected.push((format!("{key}_SIZE"), count.to_string()));
            expected.push((format!("{key}_BYTES"), count.wrapping_mul(width).to_string()));
            expected.push((format!("{key}_RANK"), dims.len().to_string()));
            if let (Some(scale), Some(zero)) = (port["scale"].as_f64(), port["zero"].as_i64()) {
                expected.push((format!("{key}_SCALE"), format!("{:e}f", scale as f32)));
                expected.push((format!("{key}_ZERO_POINT"), format!("({zero})")));
            }
            expected.extend(dims.iter().enumerate().map(|(axis, d)| (format!("{key}_DIM_{axis}"), d.to_string())));
        }
    }
    for (key, value) in expected {
        match defined.remove(key.as_str()) {
            Some(found) if found == value => {}
            Some(found) => faults.push(format!("{key} is {found}, the object has {value}")),
            None => faults.push(format!("{key} is not defined")),
        }
    }
    faults.extend(defined.keys().map(|key| format!("{key} is defined, and no header has it")));
    faults
}

/// A header without its comments; `None` where one does not end, or where a line goes on in the next.
fn without_comments(header: &str) -> Option<String> {
    let header = header.replace("\r\n", "\n");
    let plain = |c: char| c.is_ascii_graphic() || c == ' ' || c == '\n';
    if !header.chars().all(plain) || header.lines().any(|l| l.trim_end().ends_with('\\') || l.contains("??/")) {
        return None;
    }
    let (mut out, mut rest, mut quoted) = (String::new(), header.as_str(), false);
    while let Some(c) = rest.chars().next() {
        if !quoted && let Some(comment) = rest.strip_prefix("/*") {
            rest = &comment[comment.find("*/")? + 2..];
            out.push(' ');
            continue;
        }
        quoted = c != '\n' && quoted != (c == '"');
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The parameters of `NAME_run`.
fn parameters(info: &Value) -> String {
    let mut all = Vec::new();
    for (kind, prefix) in [("input", "const "), ("output", "")] {
        let ports = info[format!("{kind}s")].as_array().cloned().unwrap_or_default();
        for (i, port) in ports.iter().enumerate() {
            let number = if ports.len() == 1 { String::new() } else { i.to_string() };
            all.push(format!("{prefix}{} *{kind}{number}", c_type(port["type"].as_str().unwrap_or_default())));
        }
    }
    all.push("void *arena".into());
    all.join(", ")
}

/// The bits of an element that the text of the object names; a `bool` has a byte.
fn bits(element: &str) -> u32 {
    element.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(8)
}

/// Its type in C.
fn c_type(element: &str) -> &'static str {
    match (element.as_bytes().first(), element.contains('f'), bits(element)) {
        (_, true, 64) => "double",
        (_, true, 32) => "float",
        // 16-bit floats are their bits.
        (_, true, _) => "unsigned short",
        (Some(b'i'), _, 0..=8) => "signed char",
        (Some(b'i'), _, 9..=16) => "short",
        (Some(b'i'), _, 17..=32) => "int",
        (Some(b'i'), ..) => "long long",
        (_, _, 0..=8) => "unsigned char",
        (_, _, 9..=16) => "unsigned short",
        (_, _, 17..=32) => "unsigned int",
        _ => "unsigned long long",
    }
}
