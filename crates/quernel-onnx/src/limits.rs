//! Limits that keep a hostile file from exhausting the machine.
//!
//! [`Limits`] may be set by the user; the other constants are part of how import works.

/// Bodies (of functions, conditions, loops) inside one another.
pub const DEPTH: usize = 16;
/// Axes of a tensor.
pub const RANK: usize = 8;
/// Elements of a tensor, whatever the user allows: sizes and offsets stay far from the ends of their types.
pub const ELEMENTS: usize = 1 << 31;
/// Inputs, and outputs, of a graph.
pub const PORTS: usize = 1 << 10;
/// Elements of an integer constant that import computes with, and of an attribute.
pub const SHAPE_ELEMENTS: usize = 1 << 12;
/// Diagnostics of one import.
pub const DIAGNOSTICS: usize = 100;
/// Bytes of constants that may be made for each byte of constants in the file, beside [`Limits::made_bytes`].
pub const MADE_PER_GIVEN: usize = 16;

/// What a file may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Elements of one tensor; at most [`ELEMENTS`].
    pub elements: usize,
    /// Bytes of all constants in the file and beside it.
    pub constant_bytes: usize,
    /// Bytes of constants that import makes from others, in a file without constants.
    pub made_bytes: usize,
    /// Nodes of a graph, those of unrolled bodies once per round; and nodes that they are composed of.
    pub nodes: usize,
    /// Rounds of an unrolled loop, steps of a recurrent operator.
    pub rounds: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { elements: ELEMENTS, constant_bytes: 4 << 30, made_bytes: 1 << 28, nodes: 1 << 16, rounds: 1 << 14 }
    }
}

/// A limit: its name on the command line, what it counts, and where it is kept.
type Row = (&'static str, &'static str, fn(&mut Limits) -> &mut usize);

/// Limits that the user may set.
pub const SETTINGS: &[Row] = &[
    ("elements", "elements of one tensor; at most 2^31", |l| &mut l.elements),
    ("constant-bytes", "bytes of all constants in the file and beside it", |l| &mut l.constant_bytes),
    ("made-bytes", "bytes of constants that are made from others, beside 16 for every byte of constants in the file", |l| {
        &mut l.made_bytes
    }),
    ("nodes", "nodes of a graph, those of unrolled bodies once per round, and of what they are composed of", |l| &mut l.nodes),
    ("rounds", "rounds of an unrolled loop, steps of a recurrent operator", |l| &mut l.rounds),
];

impl Limits {
    /// Sets a limit by its name.
    ///
    /// # Errors
    /// No limit has that name, or it cannot be so high.
    pub fn set(&mut self, name: &str, value: usize) -> Result<(), String> {
        let names = || SETTINGS.iter().map(|(n, ..)| *n).collect::<Vec<_>>().join(", ");
        let row = SETTINGS.iter().find(|(n, ..)| *n == name).ok_or_else(|| format!("no limit {name:?} (one of {})", names()))?;
        if name == "elements" && value > ELEMENTS {
            return Err(format!("a limit of {value} elements; it is at most {ELEMENTS}"));
        }
        *(row.2)(self) = value;
        Ok(())
    }
}

/// The page `docs/limits.md`; `cargo xtask docs` writes it.
pub fn limits_markdown() -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask docs` from crates/quernel-onnx/src/limits.rs; do not edit. -->\n\n# Limits\n\n\
         A file decides how much work its compilation is. These limits end it with QN0010, which names the place. Sizes are\n\
         checked before memory is taken for them.\n\n\
         ## Set by the user\n\n`--limit NAME=NUMBER`, or `Limits` of the library.\n\n| name | default | what |\n| --- | --- | --- |\n",
    );
    let mut defaults = Limits::default();
    for (name, what, field) in SETTINGS {
        page += &format!("| `{name}` | {} | {what} |\n", *field(&mut defaults));
    }
    page += "\n`--max-memory BYTES` (16G) bounds what the process allocates, whatever for; its own code and stacks, some 25 MB, come on top. So\n\
             does a limit of the system. Either ends in the same diagnostic and exit status 1. The library does not bound memory: its host does.\n\n\
             ## Fixed\n\n| limit | what |\n| --- | --- |\n";
    for (value, what) in [
        (DEPTH, "bodies (of functions, conditions, loops) inside one another"),
        (RANK, "axes of a tensor"),
        (PORTS, "inputs of a graph; outputs of a graph"),
        (SHAPE_ELEMENTS, "elements of an integer constant that decides a shape, and of an attribute"),
        (DIAGNOSTICS, "diagnostics shown for one file"),
    ] {
        page += &format!("| {value} | {what} |\n");
    }
    page += "| 100 | messages of the file inside one another |\n\
             | 4 GiB | a model file, a text file |\n\
             | 2^28 bytes | what the shorthands of a text (`splat`, `seed`) stand for |\n\
             | 2^30 bytes | a constant that folding makes |\n\
             | 2^36 bytes | arena and constants of a program |\n\
             | 2^36 | elements of an array of samples |\n\
             | 16384 | nodes of a model that tract runs for calibration; larger ones run in code of our own |\n";
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_name() {
        let mut limits = Limits::default();
        for (i, (name, ..)) in SETTINGS.iter().enumerate() {
            limits.set(name, i).expect("its name");
        }
        assert_eq!(limits, Limits { elements: 0, constant_bytes: 1, made_bytes: 2, nodes: 3, rounds: 4 });
        assert!(limits.set("tensors", 1).is_err());
    }
}
