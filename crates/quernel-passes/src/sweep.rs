//! Rewriting a graph in one sweep over its nodes, in time linear in their number.

use quernel_ir::{Def, Diagnostic, Elem, Graph, Id, Node, Op, Origin, Tensor, TensorTy, Value, infer};
use std::mem;

/// A graph in the course of a sweep. For every node the pass either keeps it, rewrites it in place, or drops it and
/// names another value for its result.
pub struct Sweep<'a> {
    /// The graph; its order holds the nodes kept so far.
    pub g: &'a mut Graph,
    alias: Vec<Option<Value>>,
    uses: Vec<u32>,
    dead: Vec<bool>,
}

impl<'a> Sweep<'a> {
    /// Calls `f` for every node in order, its operands already replaced.
    pub fn run(g: &'a mut Graph, mut f: impl FnMut(&mut Self, Node) -> Result<(), Diagnostic>) -> Result<(), Diagnostic> {
        Self::run_with(g, |_| (), &mut f)
    }

    /// Like [`Self::run`]; `before` may add nodes in front of all others.
    pub fn run_with(
        g: &'a mut Graph,
        before: impl FnOnce(&mut Self),
        mut f: impl FnMut(&mut Self, Node) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let mut uses = vec![0; g.values.len()];
        for &n in &g.order {
            for a in &g.nodes[n].args {
                uses[a.index()] += 1;
            }
        }
        for (_, v) in &g.outputs {
            uses[v.index()] += 1;
        }
        let pending = mem::take(&mut g.order);
        let mut sweep = Self { g, alias: Vec::new(), uses, dead: Vec::new() };
        before(&mut sweep);
        for n in pending {
            if sweep.is_dead(n) {
                continue;
            }
            for i in 0..sweep.g.nodes[n].args.len() {
                let v = sweep.resolve(sweep.g.nodes[n].args[i]);
                sweep.g.nodes[n].args[i] = v;
            }
            f(&mut sweep, n)?;
        }
        let outputs = mem::take(&mut sweep.g.outputs);
        sweep.g.outputs = outputs.into_iter().map(|(name, v)| (name, sweep.resolve(v))).collect();
        let dead = mem::take(&mut sweep.dead);
        sweep.g.order.retain(|n| !dead.get(n.index()).copied().unwrap_or(false));
        Ok(())
    }

    /// What now stands for `v`.
    pub fn resolve(&self, mut v: Value) -> Value {
        while let Some(Some(next)) = self.alias.get(v.index()) {
            v = *next;
        }
        v
    }
    /// Uses of a value: operands and graph outputs.
    pub fn uses(&self, v: Value) -> usize {
        self.uses.get(v.index()).copied().unwrap_or(0) as usize
    }
    fn is_dead(&self, n: Node) -> bool {
        self.dead.get(n.index()).copied().unwrap_or(false)
    }

    /// Keeps a node as it is.
    pub fn keep(&mut self, n: Node) {
        self.g.order.push(n);
    }
    /// Keeps a node under another operator or with other operands. Its result stays the same value.
    pub fn rewrite(&mut self, n: Node, op: Op, args: Vec<Value>) {
        for a in &args {
            self.count(*a, 1);
        }
        let old = mem::replace(&mut self.g.nodes[n].args, args);
        for a in old {
            self.uncount(a);
        }
        self.g.nodes[n].op = op;
        self.g.order.push(n);
    }
    /// Adds the sources of another node to those of `n`.
    pub fn absorb(&mut self, n: Node, earlier: Node) {
        let origin = self.g.nodes[earlier].origin.union(&self.g.nodes[n].origin);
        self.g.nodes[n].origin = origin;
    }
    /// Takes out a node, now or earlier kept, whose result is not used any more.
    pub fn kill(&mut self, n: Node) {
        if self.dead.len() <= n.index() {
            self.dead.resize(n.index() + 1, false);
        }
        self.dead[n.index()] = true;
        for a in self.g.nodes[n].args.clone() {
            self.uncount(a);
        }
    }
    /// Drops a node: `v` stands for its result.
    pub fn replace(&mut self, n: Node, v: Value) {
        let result = self.g.nodes[n].result();
        let uses = self.uses(result) as u32;
        self.kill(n);
        self.alias(result, v);
        self.count(v, uses);
        // An ONNX name is worth keeping: ranges are found by it.
        if self.g.values[v].name.is_empty() {
            self.g.values[v].name = self.g.values[result].name.clone();
        }
    }
    /// Makes `new` stand for every later use of `old`.
    pub fn alias(&mut self, old: Value, new: Value) {
        if self.alias.len() <= old.index() {
            self.alias.resize(old.index() + 1, None);
        }
        self.alias[old.index()] = Some(new);
    }
    fn count(&mut self, v: Value, uses: u32) {
        if self.uses.len() <= v.index() {
            self.uses.resize(v.index() + 1, 0);
        }
        self.uses[v.index()] += uses;
    }
    fn uncount(&mut self, v: Value) {
        if let Some(n) = self.uses.get_mut(v.index()) {
            *n = n.saturating_sub(1);
        }
    }

    /// Adds a node at the present place.
    pub fn push(&mut self, op: Op, args: &[Value], elem: Elem, origin: Origin) -> Result<Value, Diagnostic> {
        let types: Vec<&TensorTy> = args.iter().map(|&a| self.g.ty(a)).collect();
        let dims = infer::dims(&op, &types).map_err(Diagnostic::bug)?;
        for a in args {
            self.count(*a, 1);
        }
        Ok(self.g.push(op, args, TensorTy::new(dims, elem), origin))
    }
    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        self.g.constant(name, tensor)
    }

    /// The layer (convolution or dense) that computes `v` and nothing else reads, if its end is still open.
    pub fn open_layer(&self, v: Value) -> Option<Node> {
        let Def::Result { node, .. } = self.g.values[v].def else { return None };
        let open = matches!(self.g.nodes[node].op.epilogue(), Some((quernel_ir::Act::None, false)));
        (open && self.uses(v) == 1 && self.g.ty(v).elem.is_f32()).then_some(node)
    }
    /// The elements of a constant f32 value.
    pub fn floats(&self, v: Value) -> Option<Vec<f32>> {
        self.g.tensor(v).and_then(Tensor::to_f32)
    }
}

/// The elements of a constant that varies along axis `axis` of `dims` only, one per index; `None` when it varies
/// elsewhere.
pub fn along_axis(constant: &Tensor, dims: &[usize], axis: usize) -> Option<Vec<f32>> {
    let data = constant.to_f32()?;
    let own = &constant.ty.dims;
    if own.len() > dims.len() {
        return None;
    }
    let shift = dims.len() - own.len();
    for (i, d) in own.iter().enumerate() {
        if *d != 1 && i + shift != axis {
            return None;
        }
    }
    match data.len() {
        1 => Some(vec![data[0]; dims[axis]]),
        n if n == dims[axis] => Some(data),
        _ => None,
    }
}
