//! `dead-code`: removes what no output needs.

use crate::{Cx, Pass};
use quernel_ir::{Def, Diagnostic, Graph, Id, Value};

pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead-code"
    }
    fn run(&self, g: &mut Graph, _: &mut Cx) -> Result<(), Diagnostic> {
        let mut needed = vec![false; g.nodes.len()];
        let mut open: Vec<Value> = g.outputs.iter().map(|(_, v)| *v).collect();
        while let Some(v) = open.pop() {
            if let Def::Result { node, .. } = g.values[v].def
                && !needed[node.index()]
            {
                needed[node.index()] = true;
                open.extend(&g.nodes[node].args);
            }
        }
        g.order.retain(|n| needed[n.index()]);
        Ok(())
    }
}
