//! Tables on standard output.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::ASCII_MARKDOWN};
use quernel::ir::diag::garbles;

/// A table with a header; columns named in `right` are aligned to the right.
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for &i in right {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A stranger's text, without what moves the cursor or turns the direction of text; escapes are those of JSON.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' {
            out.push_str("\\n")
        } else if garbles(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)))
        } else {
            out.push(c)
        }
    }
    out
}

/// The start of a long name.
pub fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most { name.into() } else { format!("{}..", name.chars().take(most.saturating_sub(2)).collect::<String>()) }
}

/// `12.5 K`, `3.40 M`: thousands with a unit letter.
pub fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, ["", " K", " M", " G", " T"])
}

/// `512 B`, `12.5 KiB`, `3.40 MiB`.
pub fn bytes(n: usize) -> String {
    scaled(n as f64, 1024.0, [" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut x: f64, step: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    while x >= step && unit + 1 < units.len() {
        x /= step;
        unit += 1;
    }
    if unit == 0 { format!("{x}{}", units[0]) } else { format!("{x:.*}{}", if x < 10.0 { 2 } else { 1 }, units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m\u{202e}\u{e9}"), "a\\nb\\u001b[31m\\u202e\u{e9}");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(count(12_501_632), "12.5 M");
    }
}
