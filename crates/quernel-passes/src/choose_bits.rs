//! `choose-bits`: gives every layer its width, uniformly or from a file the user edits.

use crate::{Cx, Pass};
use quernel_ir::{Code, Diagnostic, Graph};
use quernel_quant::Bits;
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
            cx.widths.insert(n, self.bits.width(listed.map_or("", |name| name)));
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
