//! Tests that are files: add one, and it runs.
//!
//! * `text/*.qir` parses, verifies (at the stage of its first line, `; stage: NAME`, or imported) and prints as itself.
//! * `text/short/*.qir` parses and prints as what follows its line `; prints as`.
//! * `text/bad/*.qir` does not parse: the error is on the line that ends with `; error: PART OF THE MESSAGE`.
//! * `verify/*.qir` has exactly the faults that its lines end with. Faults of outputs belong to the line `return`.

use quernel_ir::{Diagnostic, Graph, Stage, text, verify};

const ERROR: &str = "; error: ";

fn parsed(text: &str) -> Result<Graph, String> {
    text::parse(text).map_err(|d| d.to_string())
}

fn equal(what: &str, actual: &str, expected: &str) -> datatest_stable::Result<()> {
    if actual == expected { Ok(()) } else { Err(format!("{what}\n--- actual\n{actual}--- expected\n{expected}").into()) }
}

/// Every way out and back gives the same graph.
fn survives(g: &Graph) -> datatest_stable::Result<()> {
    let full = text::print_full(g);
    equal("full text", &text::print_full(&parsed(&full)?), &full)?;
    let brief = text::print(g);
    let back = text::parse_with(&brief, &text::Pool::of(g)).map_err(|d| d.to_string())?;
    equal("brief text", &text::print(&back), &brief)?;
    equal("brief text with its pool", &text::print_full(&back), &full)
}

fn stage(text: &str) -> Result<Stage, String> {
    text.lines().next().and_then(|l| l.strip_prefix("; stage: ")).map_or(Ok(Stage::Imported), str::parse)
}

fn prints_as_itself(_: &std::path::Path, text: String) -> datatest_stable::Result<()> {
    let g = parsed(&text)?;
    if let Err(faults) = verify(&g, stage(&text)?) {
        return Err(format!("{faults:#?}").into());
    }
    let bare: String = text.lines().filter(|l| !l.trim_start().starts_with(';')).map(|l| format!("{l}\n")).collect();
    equal("text", &g.to_string(), &bare)?;
    survives(&g)
}

fn prints_in_long_form(_: &std::path::Path, text: String) -> datatest_stable::Result<()> {
    let (short, long) = text.split_once("; prints as\n").ok_or("there is no line `; prints as`")?;
    let g = parsed(short)?;
    equal("text", &g.to_string(), long)?;
    survives(&g)
}

fn does_not_parse(_: &std::path::Path, text: String) -> datatest_stable::Result<()> {
    let guilty: Vec<(usize, &str)> =
        text.lines().enumerate().filter_map(|(i, l)| l.split_once(ERROR).map(|(_, message)| (i + 1, message))).collect();
    let [(line, message)] = guilty[..] else { return Err("one line is guilty".into()) };
    let bare: Vec<&str> = text.lines().map(|l| l.split_once(ERROR).map_or(l, |(statement, _)| statement.trim_end())).collect();
    let Err(Diagnostic { message: actual, location, .. }) = text::parse(&bare.join("\n")) else { return Err("it parses".into()) };
    let place = location.place.ok_or("the error has no place")?;
    let wanted = format!("line {line}, ");
    if place.starts_with(&wanted) && actual.contains(message) { Ok(()) } else { Err(format!("{place}: {actual}").into()) }
}

fn has_faults(_: &std::path::Path, text: String) -> datatest_stable::Result<()> {
    let g = parsed(&text)?;
    let faults = verify(&g, stage(&text)?).err().unwrap_or_default();
    let mut actual: Vec<(usize, String)> = faults
        .into_iter()
        .map(|f| {
            // One node per line, in order.
            let position = f.node.and_then(|n| g.position(n));
            let mut lines =
                text.lines().enumerate().filter(|(_, l)| l.trim_start().starts_with(if position.is_some() { "%" } else { "return" }));
            lines.nth(position.unwrap_or(0)).map(|(i, _)| (i + 1, f.message)).ok_or("the fault is nowhere")
        })
        .collect::<Result<_, _>>()?;
    let mut missing = Vec::new();
    for (i, l) in text.lines().enumerate() {
        let Some((_, message)) = l.split_once(ERROR) else { continue };
        match actual.iter().position(|(line, m)| *line == i + 1 && m.contains(message)) {
            Some(found) => drop(actual.remove(found)),
            None => missing.push((i + 1, message)),
        }
    }
    if actual.is_empty() && missing.is_empty() {
        Ok(())
    } else {
        Err(format!("(line, fault) found, not expected: {actual:#?}\nexpected, not found: {missing:#?}").into())
    }
}

datatest_stable::harness! {
    { test = prints_as_itself, root = "tests/text", pattern = r"^[^/]+\.qir$" },
    { test = prints_in_long_form, root = "tests/text/short", pattern = r"\.qir$" },
    { test = does_not_parse, root = "tests/text/bad", pattern = r"\.qir$" },
    { test = has_faults, root = "tests/verify", pattern = r"\.qir$" },
}
