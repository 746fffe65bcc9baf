//! `integer-io`: the caller hands over integers and gets integers.
//!
//! An input that is only read through one rounding becomes an input of that type; an output that is only the float form
//! of integers becomes those integers. Scales and zero points are in the header. Whatever cannot change stays float,
//! with a remark.

use crate::{Cx, Pass, Sweep, rounded::rounded};
use quernel_ir::{Diagnostic, Elem, Graph, Op, Value, diag::Remark};
use std::collections::BTreeMap;

pub struct IntegerIo;

impl Pass for IntegerIo {
    fn name(&self) -> &'static str {
        "integer-io"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        let users = g.users();
        let mut types: BTreeMap<Value, Elem> = BTreeMap::new();
        for &v in g.inputs.iter().filter(|v| g.ty(**v).elem.is_f32()) {
            let nodes = users.get(&v).map_or(&[][..], Vec::as_slice);
            let wanted: Vec<&Elem> =
                nodes.iter().filter(|&&n| g.nodes[n].op == Op::Quantize).map(|&n| &g.ty(g.nodes[n].result()).elem).collect();
            match wanted[..] {
                [first, ..] if wanted.len() == nodes.len() && !g.is_output(v) && wanted.iter().all(|e| *e == first) => {
                    types.insert(v, first.clone());
                }
                _ => cx.remarks.push(Remark {
                    by: self.name().into(),
                    at: g.values[v].name.clone(),
                    message: match nodes {
                        [] => "the input stays float: nothing reads it".into(),
                        _ => "the input stays float: something reads it in floats, or under another scale".into(),
                    },
                }),
            }
        }
        for (v, elem) in &types {
            g.values[*v].ty.elem = elem.clone();
        }
        Sweep::run(g, |s, n| {
            let node = &s.g.nodes[n];
            match node.args.first() {
                Some(&x) if node.op == Op::Quantize && types.contains_key(&x) => s.replace(n, x),
                _ => s.keep(n),
            }
            Ok(())
        })?;
        for i in 0..g.outputs.len() {
            let (name, v) = g.outputs[i].clone();
            if !g.ty(v).elem.is_f32() {
                continue;
            }
            match rounded(g, v).filter(|&q| g.tensor(q).is_none()) {
                Some(q) => g.outputs[i].1 = q,
                None => cx.remarks.push(Remark {
                    by: self.name().into(),
                    at: name,
                    message: "the output stays float: nothing integer computes it".into(),
                }),
            }
        }
        Ok(())
    }
}
