//! Pages of `docs/` that are made from the code are as the code would make them now.

use std::{collections::BTreeMap, fs, path::Path};

/// What a generated page starts with; `cargo xtask docs` writes these pages.
const MARK: &str = "<!-- Written by `cargo xtask docs`";

#[test]
fn generated_pages_are_fresh() {
    let results = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.json")).expect("results");
    let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
    let by_op = results["node"]["by_op"].as_object().expect("results per operator");
    let row = |o: &serde_json::Value| {
        let text = |key: &str| o[key].as_str().unwrap_or_default().to_owned();
        [text("types"), format!("{} / {}", o["passed"], o["total"]), text("compiled_as"), text("quantized_as")]
    };
    let tested = by_op.iter().map(|(op, o)| (op.clone(), row(o))).collect();
    let pages = BTreeMap::from([
        ("errors.md", quernel::ir::diag::errors_markdown()),
        ("limits.md", quernel::onnx::limits_markdown()),
        ("supported-ops.md", quernel::onnx::supported_ops_markdown(&tested)),
    ]);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (name, contents) in &pages {
        assert!(contents.starts_with(MARK), "docs/{name} does not say where it comes from");
        let committed = fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(committed == *contents, "docs/{name} is stale: run `cargo xtask docs`");
    }
    for entry in fs::read_dir(&docs).expect("docs/ is readable") {
        let path = entry.expect("an entry of docs/").path();
        if path.is_file() && fs::read_to_string(&path).is_ok_and(|text| text.starts_with(MARK)) {
            let name = path.file_name().and_then(|n| n.to_str()).expect("a UTF-8 name");
            assert!(pages.contains_key(name), "docs/{name} says it is generated, but nothing generates it");
        }
    }
}
