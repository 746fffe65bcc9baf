//! Unrolled recurrences: which values are one value at different steps, and which of them add up.
//!
//! A layer is recurrent where it reads, by way of others, what it computed itself from the same weights. Its operands are
//! then one value at different steps, and so are its results; from there the equality spreads to what such values are
//! computed from, while the operators are equal, and to what is computed from them. Layers that merely share weights,
//! such as heads over images of several sizes, are none of this.

use quernel_ir::{Graph, Id, Node, Op, Tensor, Value};
use std::collections::BTreeMap;

/// What is known of the recurrences of a graph.
pub(crate) struct Recurrences {
    /// Pairs of values that are one value at different steps; pairs that follow from others are left out.
    pub same: Vec<(Value, Value)>,
    /// By value: whether elementwise operators compute it from what it was a step before, or from such a value.
    pub state: Vec<bool>,
    /// What recurrent layers of more than two steps read: the state they pass on.
    pub operands: Vec<Value>,
    /// Of every value that adds up, the first node that computes it and the number of its steps.
    pub sums: Vec<(Node, usize)>,
}

impl Recurrences {
    pub fn of(g: &Graph) -> Self {
        let mut found = Self { same: Vec::new(), state: vec![false; g.values.len()], operands: Vec::new(), sums: Vec::new() };
        let layers = chained(g, sharing(g).into_iter(), |_| true);
        if layers.is_empty() {
            return found;
        }
        found.operands = layers.iter().filter(|l| l.len() > 2).flatten().map(|&n| g.nodes[n].args[0]).collect();
        let mut s = Steps { g, parent: (0..g.values.len()).collect(), joined: Vec::new() };
        for (layers, first) in layers.iter().zip(layers.iter().map(|l| g.nodes[l[0]].args[1])) {
            layers.iter().for_each(|&n| s.parent[g.nodes[n].args[1].index()] = first.index());
        }
        for pair in layers.iter().flat_map(|l| l.windows(2)) {
            let (a, b) = (&g.nodes[pair[0]], &g.nodes[pair[1]]);
            s.spread(a.args[0], b.args[0]);
            s.spread(a.result(), b.result());
        }
        s.follow();
        let mut alike: BTreeMap<usize, Vec<Node>> = BTreeMap::new();
        for &n in g.order.iter().filter(|&&n| matches!(g.nodes[n].op, Op::Binary(_))) {
            alike.entry(s.root(g.nodes[n].result())).or_default().push(n);
        }
        let elementwise = |op: &Op| matches!(op, Op::Binary(_) | Op::Unary(_));
        for nodes in chained(g, alike.into_values(), elementwise) {
            nodes.iter().for_each(|&n| found.state[g.nodes[n].result().index()] = true);
            found.sums.push((nodes[0], nodes.len()));
        }
        for &n in &g.order {
            let node = &g.nodes[n];
            if elementwise(&node.op) && node.args.iter().any(|a| found.state[a.index()]) {
                found.state[node.result().index()] = true;
            }
        }
        found.same = s.joined;
        found
    }
}

/// Layers with their weights, by dimensions and first bytes of these.
type Alike<'g> = BTreeMap<(&'g [usize], &'g [u8]), Vec<(Node, &'g Tensor)>>;

/// Layers by their constant weights, wherever these are stored: each copy of a body may hold its own.
fn sharing(g: &Graph) -> Vec<Vec<Node>> {
    let mut alike = Alike::new();
    for &n in g.order.iter().filter(|&&n| g.nodes[n].op.epilogue().is_some()) {
        if let Some(w) = g.tensor(g.nodes[n].args[1]) {
            let start = &w.bytes()[..w.bytes().len().min(64)];
            alike.entry((&w.ty.dims, start)).or_default().push((n, w));
        }
    }
    let mut found = Vec::new();
    // Most layers are alone by now, and nobody reads all of their weights.
    for layers in alike.into_values().filter(|layers| layers.len() > 1) {
        let mut same: BTreeMap<u64, Vec<Node>> = BTreeMap::new();
        layers.into_iter().for_each(|(n, w)| same.entry(w.hash()).or_default().push(n));
        found.extend(same.into_values());
    }
    found
}

/// Those sets of nodes, in the order of the graph, of which one depends on another by way of nodes that `pass`.
fn chained(g: &Graph, sets: impl Iterator<Item = Vec<Node>>, pass: impl Fn(&Op) -> bool) -> Vec<Vec<Node>> {
    let sets: Vec<Vec<Node>> = sets.filter(|nodes| nodes.len() > 1).collect();
    let mut found = Vec::new();
    // What every value depends on, 64 sets at a time.
    for some in sets.chunks(64) {
        let mut own = vec![0u64; g.nodes.len()];
        for (i, nodes) in some.iter().enumerate() {
            nodes.iter().for_each(|n| own[n.index()] |= 1 << i);
        }
        let (mut behind, mut chains) = (vec![0u64; g.values.len()], 0);
        for &n in g.order.iter().filter(|&&n| pass(&g.nodes[n].op)) {
            let node = &g.nodes[n];
            let before = node.args.iter().fold(0, |all, a| all | behind[a.index()]);
            chains |= before & own[n.index()];
            node.results.iter().for_each(|r| behind[r.index()] = before | own[n.index()]);
        }
        found.extend(some.iter().enumerate().filter(|(i, _)| chains & (1 << i) != 0).map(|(_, nodes)| nodes.clone()));
    }
    found
}

/// Sets of values, joined step by step.
struct Steps<'g> {
    g: &'g Graph,
    parent: Vec<usize>,
    joined: Vec<(Value, Value)>,
}

impl Steps<'_> {
    fn root(&mut self, v: Value) -> usize {
        let mut i = v.index();
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, a: Value, b: Value) -> bool {
        let (x, y) = (self.root(a), self.root(b));
        let g = self.g;
        let new = x != y && g.tensor(a).is_none() && g.tensor(b).is_none() && g.ty(a).elem == g.ty(b).elem;
        if new {
            self.parent[x] = y;
            self.joined.push((a, b));
        }
        new
    }

    /// Joins two values and, while the operators are equal, what they are computed from.
    fn spread(&mut self, a: Value, b: Value) {
        let mut pairs = vec![(a, b)];
        while let Some((a, b)) = pairs.pop() {
            if !self.join(a, b) {
                continue;
            }
            let g = self.g;
            let (Some(p), Some(q)) = (g.producer(a), g.producer(b)) else { continue };
            let (p, q) = (&g.nodes[p], &g.nodes[q]);
            let weights = p.op.epilogue().is_none() || self.root(p.args[1]) == self.root(q.args[1]);
            if p.op == q.op && p.args.len() == q.args.len() && weights {
                pairs.extend(p.data().zip(q.data()));
            }
        }
    }

    /// Joins the results of equal operators whose operands are joined.
    fn follow(&mut self) {
        let g = self.g;
        let mut several = vec![false; self.parent.len()];
        for (a, b) in self.joined.clone() {
            for v in [a, b] {
                several[self.root(v)] = true;
            }
        }
        let mut known: BTreeMap<(&str, Vec<usize>), Vec<Node>> = BTreeMap::new();
        for &n in &g.order {
            let node = &g.nodes[n];
            let roots: Vec<usize> = node.args.iter().map(|&a| self.root(a)).collect();
            if !roots.iter().any(|&r| several[r]) {
                continue;
            }
            let alike = known.entry((node.op.mnemonic(), roots)).or_default();
            let Some(&first) = alike.iter().find(|&&m| g.nodes[m].op == node.op) else {
                alike.push(n);
                continue;
            };
            for (&a, &b) in node.results.iter().zip(&g.nodes[first].results) {
                if self.join(a, b) {
                    let root = self.root(a);
                    several[root] = true;
                }
            }
        }
    }
}
