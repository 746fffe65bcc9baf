//! `choose-bits`: gives every layer its width, uniformly or from a file the user edits.
//!
//! The first and the last layer with weights keep 8 bits where the others have fewer, unless the file names them: they
//! are a small part of most networks, and the rest depends on what they lose.

use crate::{Cx, Pass};
use quernel_ir::{Code, Diagnostic, Graph};
use quernel_quant::{Bits, Width};
use std::collections::BTreeSet;

pub struct ChooseBits {
    pub bits: Bits,
}

impl Pass for ChooseBits {
    fn name(&self) -> &'static str {
        "choose-bits"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        let mut unknown: BTreeSet<&str> = self.bits.layers.keys().map(String::as_str).collect();
        let mut known = Vec::new();
        let mut unlisted = Vec::new();
        for &n in &g.order {
            let node = &g.nodes[n];
            if node.op.epilogue().is_none() {
                continue;
            }
            let names = node.origin.names();
            let listed = names.iter().find(|name| self.bits.layers.contains_key(*name));
            for name in names {
                unknown.remove(name.as_str());
            }
            known.extend(names.first().cloned());
            let width = listed.map_or(self.bits.default, |name| self.bits.width(name));
            cx.widths.insert(n, width);
            unlisted.push((n, listed.is_none() && width.bits().is_some_and(|bits| bits < 8)));
        }
        // A network of one or two layers would have no others.
        if unlisted.len() > 2 {
            for (n, narrow) in [unlisted[0], unlisted[unlisted.len() - 1]] {
                if narrow {
                    cx.widths.insert(n, Width::Int(8));
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = known.iter().take(20).map(|k| format!("{k:?}")).collect();
        let more = if known.len() > 20 { ", .." } else { "" };
        let listed: Vec<String> = unknown.iter().map(|u| format!("{u:?}")).collect();
        Err(Diagnostic::new(Code::BadBits, format!("no layer is called {}", listed.join(", ")))
            .help(format!("the layers are {}{more}", shown.join(", "))))
    }
}
