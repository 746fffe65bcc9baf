//! `cargo xtask docs`: pages of `docs/` that are made from the code, so that they cannot say anything else.

use std::fs;

/// Path in the repository, contents.
type Page = (&'static str, fn() -> String);

/// `tests/tests/generated_docs.rs` compares the same pages.
const PAGES: &[Page] = &[
    ("docs/errors.md", quernel_ir::diag::errors_markdown),
    ("docs/limits.md", quernel_onnx::limits_markdown),
    ("docs/supported-ops.md", supported_ops),
];

/// The table of operators, with what the last run of `cargo xtask conformance` says of each.
fn supported_ops() -> String {
    let text = fs::read_to_string(crate::root().join("docs/conformance.json")).unwrap_or_default();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let mut tested = quernel_onnx::Tested::new();
    for (op, o) in results["node"]["by_op"].as_object().into_iter().flatten() {
        let text = |key: &str| o[key].as_str().unwrap_or_default().to_owned();
        tested.insert(op.clone(), [text("types"), format!("{} / {}", o["passed"], o["total"]), text("compiled_as"), text("quantized_as")]);
    }
    quernel_onnx::supported_ops_markdown(&tested)
}

pub fn run(arguments: &[String]) -> Result<(), String> {
    let only_check = match arguments {
        [] => false,
        [one] if one == "--check" => true,
        _ => return Err("the only argument is --check".into()),
    };
    let mut stale = Vec::new();
    for (page, contents) in PAGES {
        let path = crate::root().join(page);
        let contents = contents();
        if fs::read_to_string(&path).is_ok_and(|old| old == contents) {
            continue;
        }
        stale.push(*page);
        if !only_check {
            fs::write(&path, contents).map_err(|why| format!("{page} cannot be written: {why}"))?;
            eprintln!("wrote {page}");
        }
    }
    if only_check && !stale.is_empty() {
        return Err(format!("stale: {}; `cargo xtask docs` writes them", stale.join(", ")));
    }
    Ok(())
}
