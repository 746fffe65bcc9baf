//! `cargo xtask bless`: takes the present behaviour as the expected one. The diff is part of the review.

use std::{fs, path::Path};

pub fn run(arguments: &[String]) -> Result<(), String> {
    if arguments.len() > 1 || arguments.iter().any(|a| a.starts_with('-')) {
        return Err("takes at most one argument, a part of the names of tests".into());
    }
    let packages = with_snapshots(crate::root()).map_err(|why| format!("the workspace is not readable: {why}"))?;
    let mut tests = crate::command("cargo");
    tests.args(["test", "--release", "--no-fail-fast"]);
    for package in &packages {
        tests.args(["--package", package]);
    }
    // A snapshot that differs is rewritten; any other failure of a test still fails, which no bless can mend.
    tests.args(arguments).envs([("INSTA_UPDATE", "always"), ("INSTA_FORCE_PASS", "0")]);
    let outcome = crate::succeed(tests, "cargo test");
    let mut status = crate::command("git");
    status.args(["status", "--short", "--", "crates", "tests"]);
    crate::succeed(status, "git status")?;
    outcome
}

/// The members whose manifest names `insta`, or the snapshot helper that wraps it. A member lies in a folder of its
/// package's name, except `tests`.
fn with_snapshots(root: &Path) -> std::io::Result<Vec<String>> {
    let mut folders = vec![root.join("tests")];
    for entry in fs::read_dir(root.join("crates"))? {
        folders.push(entry?.path());
    }
    let mut packages = Vec::new();
    for folder in folders {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        let word = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
        if manifest.lines().any(|line| ["insta", "quernel-test"].contains(&word(line).as_str())) {
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default();
            packages.push(name.trim_matches('"').to_owned());
        }
    }
    packages.sort();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_members_with_snapshots() {
        let found = super::with_snapshots(crate::root()).unwrap();
        assert!(found.contains(&"quernel-test".to_owned()) && found.contains(&"quernel-tests".to_owned()), "{found:?}");
        assert!(!found.contains(&"quernel-ir".to_owned()), "{found:?}");
    }
}
