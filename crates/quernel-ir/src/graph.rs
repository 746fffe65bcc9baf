//! The graph: a DAG of operators over typed values, in topological order.

use crate::{
    arena::{Arena, Id},
    op::Op,
    tensor::Tensor,
    ty::TensorTy,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

crate::ids! {
    /// A value: a graph input, a constant or the result of a node.
    Value = "%";
    /// A node.
    Node = "n";
    /// A constant tensor.
    Const = "@";
}

/// The ONNX nodes an IR node came from. Survives every rewrite and ends in diagnostics, reports and symbols.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin(Arc<[String]>);

impl Origin {
    /// One source node.
    pub fn new(name: impl Into<String>) -> Self {
        Self([name.into()].into())
    }
    /// Source nodes of both, in order, each once.
    pub fn union(&self, other: &Self) -> Self {
        let mut names = self.0.to_vec();
        for name in other.0.iter() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Self(names.into())
    }
    /// The names, oldest first.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl FromIterator<String> for Origin {
    fn from_iter<T: IntoIterator<Item = String>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Def {
    /// Graph input number.
    Input(u32),
    /// A constant.
    Const(Const),
    /// Result `slot` of a node.
    Result {
        /// The node.
        node: Node,
        /// Which of its results.
        slot: u32,
    },
}

/// A typed value.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// Its type.
    pub ty: TensorTy,
    /// Its definition.
    pub def: Def,
    /// The ONNX tensor it equals, for calibration and diagnostics; empty for values made by passes.
    pub name: String,
}

/// An operator applied to values.
#[derive(Clone, Debug)]
pub struct NodeData {
    /// What it does.
    pub op: Op,
    /// Operands, in the order [`Op`] documents.
    pub args: Vec<Value>,
    /// Results.
    pub results: Vec<Value>,
    /// Where it came from.
    pub origin: Origin,
}

impl NodeData {
    /// The result of a node with one result.
    pub fn result(&self) -> Value {
        self.results[0]
    }
    /// The operands but for indices.
    pub fn data(&self) -> impl Iterator<Item = Value> {
        self.args.iter().enumerate().filter(|(i, _)| !self.op.is_index(*i)).map(|(_, v)| *v)
    }
}

/// A named constant.
#[derive(Clone, Debug)]
pub struct ConstData {
    /// Unique within the graph.
    pub name: String,
    /// Type and data. The type is also that of the value.
    pub tensor: Tensor,
}

/// A network. Invariants are those of [`crate::verify()`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// All values, dead ones included.
    pub values: Arena<Value, ValueData>,
    /// All nodes, dead ones included; live ones are in `order`.
    pub nodes: Arena<Node, NodeData>,
    /// All constants.
    pub consts: Arena<Const, ConstData>,
    /// Inputs in the order of the file.
    pub inputs: Vec<Value>,
    /// Outputs in the order of the file: name and value.
    pub outputs: Vec<(String, Value)>,
    /// Live nodes in topological order.
    pub order: Vec<Node>,
    /// Names of the first constants, each with the suffix to try when it is asked for again.
    taken: ConstNames,
}

/// Index over the names of constants; it catches up with the table when a name is needed.
#[derive(Clone, Debug, Default)]
struct ConstNames {
    suffix: BTreeMap<String, u32>,
    indexed: usize,
}

impl ConstNames {
    /// `base`, or the first `base.N` that is free.
    fn free(&mut self, consts: &Arena<Const, ConstData>, base: String) -> String {
        for c in (self.indexed..consts.len()).map(Const::new) {
            self.suffix.entry(consts[c].name.clone()).or_insert(1);
        }
        self.indexed = consts.len();
        let Some(&first) = self.suffix.get(&base) else { return base };
        let mut n = first;
        let name = loop {
            let name = format!("{base}.{n}");
            n += 1;
            if !self.suffix.contains_key(&name) {
                break name;
            }
        };
        self.suffix.insert(base, n);
        name
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorTy) -> Value {
        let def = Def::Input(self.inputs.len() as u32);
        let v = self.values.push(ValueData { ty, def, name: name.into() });
        self.inputs.push(v);
        v
    }

    /// Adds an output.
    pub fn output(&mut self, name: impl Into<String>, value: Value) {
        self.outputs.push((name.into(), value));
    }

    /// Adds a constant. A name that is taken gets a numbered suffix.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Value {
        let name = self.taken.free(&self.consts, name.into());
        let ty = tensor.ty.clone();
        let c = self.consts.push(ConstData { name: name.clone(), tensor });
        self.values.push(ValueData { ty, def: Def::Const(c), name })
    }

    /// Appends a node with one result of type `ty`.
    pub fn push(&mut self, op: Op, args: &[Value], ty: TensorTy, origin: Origin) -> Value {
        let at = self.order.len();
        self.insert(at, op, args, ty, origin)
    }

    /// Inserts a node with one result at position `at` of the order.
    pub fn insert(&mut self, at: usize, op: Op, args: &[Value], ty: TensorTy, origin: Origin) -> Value {
        let node = self.nodes.push(NodeData { op, args: args.to_vec(), results: vec![], origin });
        let v = self.values.push(ValueData { ty, def: Def::Result { node, slot: 0 }, name: String::new() });
        self.nodes[node].results.push(v);
        self.order.insert(at, node);
        v
    }

    /// The type of a value.
    pub fn ty(&self, v: Value) -> &TensorTy {
        &self.values[v].ty
    }

    /// The tensor of a constant value.
    pub fn tensor(&self, v: Value) -> Option<&Tensor> {
        match self.values[v].def {
            Def::Const(c) => Some(&self.consts[c].tensor),
            _ => None,
        }
    }

    /// The node that defines a value.
    pub fn producer(&self, v: Value) -> Option<Node> {
        match self.values[v].def {
            Def::Result { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Live users of every value; graph outputs are not counted here (see [`Graph::is_output`]).
    pub fn users(&self) -> BTreeMap<Value, Vec<Node>> {
        let mut users: BTreeMap<Value, Vec<Node>> = BTreeMap::new();
        for &n in &self.order {
            for &a in &self.nodes[n].args {
                users.entry(a).or_default().push(n);
            }
        }
        users
    }

    /// Whether the value leaves the graph.
    pub fn is_output(&self, v: Value) -> bool {
        self.outputs.iter().any(|&(_, o)| o == v)
    }

    /// Makes every live use of `old` (outputs included) a use of `new`.
    pub fn replace_uses(&mut self, old: Value, new: Value) {
        for &n in &self.order {
            for a in &mut self.nodes[n].args {
                if *a == old {
                    *a = new;
                }
            }
        }
        for (_, o) in &mut self.outputs {
            if *o == old {
                *o = new;
            }
        }
    }

    /// Takes a node out of the order. Its results must be unused.
    pub fn remove(&mut self, node: Node) {
        self.order.retain(|&n| n != node);
    }

    /// Position of a live node in the order.
    pub fn position(&self, node: Node) -> Option<usize> {
        self.order.iter().position(|&n| n == node)
    }

    /// Constants used by a live node or an output, in id order.
    pub fn live_consts(&self) -> Vec<(Value, Const)> {
        let mut live = BTreeSet::new();
        let uses = self.order.iter().flat_map(|&n| self.nodes[n].args.iter().copied()).chain(self.outputs.iter().map(|&(_, v)| v));
        for v in uses {
            if let Def::Const(c) = self.values[v].def {
                live.insert((c, v));
            }
        }
        live.into_iter().map(|(c, v)| (v, c)).collect()
    }

    /// A readable place for diagnostics: the node's ONNX names, or its operator and position.
    pub fn describe(&self, node: Node) -> String {
        let data = &self.nodes[node];
        match data.origin.names() {
            [] => format!("{} #{}", data.op.mnemonic(), self.position(node).unwrap_or(node.index())),
            names => names.join("+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asked: impl IntoIterator<Item = &'static str>) -> Vec<String> {
        let mut g = Graph::new("g");
        for name in asked {
            g.constant(name, Tensor::i32([1], &[0]));
        }
        g.consts.iter().map(|(_, c)| c.name.clone()).collect()
    }

    #[test]
    fn names_of_constants_are_unique() {
        assert_eq!(names(["a", "a", "a.1", "a", "a.1", "b"]), ["a", "a.1", "a.1.1", "a.2", "a.1.2", "b"]);
        assert_eq!(names(["a.1", "a", "a", "a"]), ["a.1", "a", "a.2", "a.3"]);
    }

    #[test]
    fn constants_from_elsewhere_keep_their_names() {
        let mut g = Graph::new("g");
        g.constant("a", Tensor::i32([1], &[0]));
        g.consts.push(ConstData { name: "b".into(), tensor: Tensor::i32([1], &[0]) });
        let v = g.constant("b", Tensor::i32([1], &[0]));
        assert_eq!(g.values[v].name, "b.1");
    }

    /// Quadratic naming would take minutes here.
    #[test]
    fn many_constants_are_named_in_time() {
        let names = names(std::iter::repeat_n("w", 100_000));
        assert_eq!(names[99_999], "w.99999");
    }
}
