//! Rust identifiers from names of a model.

/// Strict and reserved words of every edition, and what the generated functions name themselves.
const TAKEN: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum", "extern",
    "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv",
    "pub", "ref", "return", "self", "results", "static", "status", "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe",
    "unsized", "use", "virtual", "where", "while", "yield",
];

/// Lower case with underscores: `NextState:0` is `next_state_0`. Never empty, never a keyword.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut before = '_';
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('_') && !out.is_empty() {
            out.push('_');
        }
        before = c;
    }
    let out = out.trim_end_matches('_');
    match out.chars().next() {
        None => "tensor".into(),
        Some('0'..='9') => format!("t{out}"),
        _ if TAKEN.contains(&out) => format!("{out}_"),
        _ => out.into(),
    }
}

/// Names for several tensors: snake case, with a number behind those that another took.
pub fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let base = snake(name);
        let numbered = (2..).map(|n| format!("{}_{n}", base.trim_end_matches('_')));
        let free = std::iter::once(base.clone()).chain(numbered).find(|n| !all.contains(n));
        all.extend(free);
    }
    all
}

/// `mobilenet_v2` is `MobilenetV2`.
pub fn camel(snake: &str) -> String {
    snake.split('_').flat_map(|word| word.chars().enumerate().map(|(i, c)| if i == 0 { c.to_ascii_uppercase() } else { c })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_identifiers() {
        for (name, want) in [
            ("image", "image"),
            ("NextState:0", "next_state_0"),
            ("/conv/Relu", "conv_relu"),
            ("type", "type_"),
            ("3", "t3"),
            ("\u{e9}", "tensor"),
            ("RGB", "rgb"),
        ] {
            assert_eq!(snake(name), want);
            assert_eq!(snake(want), want, "a result is its own name");
        }
        assert_eq!(distinct(["x", "X", "x_2", "in", "in"].into_iter()), ["x", "x_2", "x_2_2", "in_", "in_2"]);
        assert_eq!(camel("mobilenet_v2"), "MobilenetV2");
    }
}
