//! Graph to text.

use super::{
    attrs::{Context, write_attrs},
    data::write_data,
    lex::{write_name, write_origin, write_quoted},
    types::write_type,
};
use crate::{
    arena::Id,
    graph::{Def, Graph, Value},
};
use std::{collections::BTreeMap, fmt, fmt::Write as _};

/// How much data a print holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Long data is named by its hash.
    Brief,
    /// All of it.
    Full,
}

/// The brief text of a graph: data of more than 16 elements and lists of more than 8 scales show as a content hash,
/// unless all their elements are equal.
pub fn print(g: &Graph) -> String {
    write_graph(g, Mode::Brief)
}

/// The text of a graph with all of its data.
pub fn print_full(g: &Graph) -> String {
    write_graph(g, Mode::Full)
}

impl fmt::Display for Graph {
    /// [`print()`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

/// A graph that breaks invariants prints too, for the person who looks for the reason: what is not defined shows as
/// `%?ID`, which does not parse.
fn write_graph(g: &Graph, mode: Mode) -> String {
    let mut numbers: Vec<Option<usize>> = vec![None; g.values.len()];
    let mut consts = BTreeMap::new();
    let live = g.order.iter().filter_map(|&n| g.nodes.get(n));
    let results = live.clone().flat_map(|d| d.results.iter());
    for (number, v) in g.inputs.iter().chain(results).enumerate() {
        if let Some(slot) = numbers.get_mut(v.index()) {
            slot.get_or_insert(number);
        }
    }
    for v in live.clone().flat_map(|d| d.args.iter()).chain(g.outputs.iter().map(|(_, v)| v)) {
        if let Some(Def::Const(c)) = g.values.get(*v).map(|d| d.def) {
            consts.entry(c).or_insert(*v);
        }
    }
    let value = |out: &mut String, v: Value| {
        let constant = match g.values.get(v).map(|d| d.def) {
            Some(Def::Const(c)) => g.consts.get(c),
            _ => None,
        };
        match (constant, numbers.get(v.index())) {
            (Some(c), _) => {
                out.push('@');
                write_name(out, &c.name);
            }
            (None, Some(Some(number))) => {
                let _ = write!(out, "%{number}");
            }
            _ => {
                let _ = write!(out, "%?{}", v.index());
            }
        }
    };
    let typed = |out: &mut String, v: Value| {
        if let Some(data) = g.values.get(v) {
            write_type(out, &data.ty, mode);
            if !data.name.is_empty() {
                out.push(' ');
                write_quoted(out, &data.name);
            }
        }
    };

    let mut out = String::from("graph ");
    write_name(&mut out, &g.name);
    out.push('(');
    for (i, &v) in g.inputs.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        value(&mut out, v);
        out.push_str(": ");
        typed(&mut out, v);
    }
    out.push_str(") {\n");
    for (c, v) in consts {
        let Some(c) = g.consts.get(c) else { continue };
        out.push_str("  const @");
        write_name(&mut out, &c.name);
        if let Some(data) = g.values.get(v)
            && data.name != c.name
        {
            out.push(' ');
            write_quoted(&mut out, &data.name);
        }
        out.push_str(": ");
        write_type(&mut out, &c.tensor.ty, mode);
        out.push_str(" = ");
        write_data(&mut out, &c.tensor, mode);
        out.push('\n');
    }
    for data in live {
        out.push_str("  ");
        for (i, &r) in data.results.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            value(&mut out, r);
        }
        let _ = write!(out, " = {}", data.op.mnemonic());
        for (i, &a) in data.args.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { " " });
            value(&mut out, a);
        }
        let known = |v: &Value| g.values.get(*v).map(|d| &d.ty);
        // An operand that does not exist ends the list of types, so that no other takes its place.
        let args = data.args.iter().map_while(known).collect();
        write_attrs(&mut out, &data.op, &Context { args, result: data.results.first().and_then(known) });
        out.push_str(" : ");
        for (i, &r) in data.results.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            typed(&mut out, r);
        }
        if !data.origin.names().is_empty() {
            out.push_str("  ; ");
            write_origin(&mut out, data.origin.names());
        }
        out.push('\n');
    }
    out.push_str("  return");
    for (i, (name, v)) in g.outputs.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { " " });
        value(&mut out, *v);
        if !name.is_empty() {
            out.push(' ');
            write_quoted(&mut out, name);
        }
    }
    out.push_str("\n}\n");
    out
}
