//! `insert-quantize`: rounds activations where integer operators will read them.
//!
//! * Tensors that a move connects (reshape, transpose, concat, slice, pad, gather, max pool) share one scale, so the move
//!   stays a move.
//! * So do the values of an unrolled recurrence that are one value at different steps: its weights then are the same at all
//!   steps, and objects hold them once. What elementwise operators add up over the steps, the cell of an LSTM and the state
//!   of a GRU, stays float; the layers read it rounded.
//! * Which values are rounded is decided from the back: an operator becomes an integer one when something integer reads
//!   its result, or when it can hand out floats itself (layers, means). The last layer so yields floats directly.
//! * A clamp that follows an element-wise operator lends it its own range: saturation is the clamp.
//! * What comes back as an input of the next run is not rounded on the way there.
//! * With more than 8 bits layers and moves are integer operators, and nothing else.
//! * With fewer than 8 bits, what the first and the last layer read keeps 8 where their weights do.
//! * Constants beside integers are rounded, too: to the scale of their move, or to one of their own. A quotient by a
//!   constant becomes a product, because a small divisor would round to 0.

use crate::{
    Cx, Pass, Sweep,
    recurrence::Recurrences,
    rounded::{rounded_constant as constant_behind, rounded_tensor},
};
use quernel_ir::{
    Binary, Diagnostic, Elem, Graph, Id, Node, NodeData, Op, Origin, PoolKind, Quant, ReduceKind, Storage, Tensor, TensorTy, Unary, Value,
    exact,
};
use quernel_quant::{Calibrator, Ranges, Width, affine};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub struct InsertQuantize {
    pub ranges: Option<Arc<Ranges>>,
    pub calibrator: Calibrator,
    /// Bits of what is rounded.
    pub bits: u8,
    /// Outputs are rounded, too.
    pub integer_io: bool,
}

/// How an operator takes part in integer arithmetic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Reads integers, and writes integers or floats as asked.
    Layer,
    /// The same, for a mean that collapses an image.
    Mean,
    /// Reads and writes integers.
    Elementwise,
    /// The same, under one scale.
    Move,
    /// Float only.
    Float,
}

pub(crate) fn form(g: &Graph, n: Node) -> Form {
    let node = &g.nodes[n];
    match &node.op {
        Op::Conv { .. } | Op::Dense { .. } => Form::Layer,
        Op::Reduce { kind: ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min, .. } => Form::Mean,
        Op::Pool { kind: PoolKind::Average { .. }, .. } => Form::Elementwise,
        Op::Unary(f) => match f {
            Unary::Exp | Unary::Log | Unary::Sqrt | Unary::Reciprocal => Form::Float,
            // Steps, periods and poles need more digits of their operand than a byte has.
            Unary::Floor | Unary::Ceil | Unary::Round | Unary::Sign | Unary::Sin | Unary::Cos | Unary::Tan | Unary::Asin => Form::Float,
            Unary::Acos | Unary::Sinh | Unary::Cosh | Unary::Asinh | Unary::Acosh | Unary::Atanh => Form::Float,
            _ => Form::Elementwise,
        },
        Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Min | Binary::Max) => Form::Elementwise,
        Op::Binary(Binary::Div) if g.tensor(node.args[1]).is_some() => Form::Elementwise,
        op if op.moves_only() => Form::Move,
        _ => Form::Float,
    }
}

/// Sets of values under one scale.
struct Classes {
    parent: Vec<usize>,
    /// Union of the ranges of the members.
    range: Vec<Option<(f64, f64)>>,
    /// Storage of a class: that of its widest member.
    storage: Vec<Storage>,
}

impl Classes {
    fn root(&mut self, v: Value) -> usize {
        let mut i = v.index();
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }
    fn join(&mut self, a: Value, b: Value) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.range[b] = match (self.range[a], self.range[b]) {
                (Some((l, h)), Some((m, i))) => Some((l.min(m), h.max(i))),
                (x, y) => x.or(y),
            };
            if self.storage[a].bits() > self.storage[b].bits() {
                self.storage[b] = self.storage[a];
            }
            self.parent[a] = b;
        }
    }
    fn widen(&mut self, v: Value, x: f64) {
        let r = self.root(v);
        if let Some((lo, hi)) = &mut self.range[r]
            && x.is_finite()
        {
            (*lo, *hi) = (lo.min(x), hi.max(x));
        }
    }
    fn words(&mut self, v: Value) -> bool {
        let r = self.root(v);
        self.storage[r].bits() > 8
    }
    fn known(&mut self, v: Value) -> bool {
        let r = self.root(v);
        self.range[r].is_some()
    }
    fn elem(&mut self, v: Value) -> Option<Elem> {
        let r = self.root(v);
        let (lo, hi) = self.range[r]?;
        let storage = self.storage[r];
        let (scale, zero) = affine(lo, hi, storage.range());
        Quant::per_tensor(storage, scale, zero).ok().map(Elem::from)
    }
}

impl InsertQuantize {
    /// The storage of every value.
    fn storages(&self, g: &Graph, cx: &Cx, steps: &Recurrences) -> Vec<Storage> {
        // Words are signed, as kernels read them.
        let of = |bits: u8| Storage::new(bits, bits > 8).unwrap_or(Storage::U8);
        let storage = of(self.bits);
        let mut storages = vec![storage; g.values.len()];
        let layers: Vec<Node> = g.order.iter().copied().filter(|&n| g.nodes[n].op.epilogue().is_some()).collect();
        // A network of one or two layers would have no others.
        if layers.len() > 2 && self.bits < 8 {
            for n in [layers[0], layers[layers.len() - 1]] {
                if cx.widths.get(&n).is_none_or(|w| *w == Width::Int(8)) {
                    storages[g.nodes[n].args[0].index()] = Storage::U8;
                }
            }
        }
        // What is rounded at every step is rounded finer.
        for v in steps.operands.iter().filter(|_| self.bits == 8) {
            storages[v.index()] = of(16);
        }
        // Of layers that read one value, the one with more bits decides.
        let mut most: BTreeMap<Value, u8> = BTreeMap::new();
        for (n, bits) in &cx.activation_bits {
            if let Some(x) = g.nodes[*n].args.first() {
                let known = most.entry(*x).or_insert(*bits);
                *known = (*known).max(*bits);
            }
        }
        for (x, bits) in most {
            storages[x.index()] = of(bits);
        }
        storages
    }

    fn classes(&self, g: &Graph, cx: &Cx, steps: &Recurrences) -> Classes {
        let storage = self.storages(g, cx, steps);
        let mut c = Classes { parent: (0..g.values.len()).collect(), range: vec![None; g.values.len()], storage };
        let Some(ranges) = &self.ranges else { return c };
        let observed = |v: Value| -> Option<(f64, f64)> {
            let name = &g.values[v].name;
            let storage = c.storage[v.index()];
            let (scale, zero) = ranges.params(name, storage, self.calibrator)?;
            // What is always zero must not widen what it shares a scale with.
            if let Some((0.0, 0.0)) = ranges.extremes(name) {
                return Some((0.0, 0.0));
            }
            let end = |q: i32| f64::from(scale) * f64::from(q - zero);
            Some((end(storage.range().0), end(storage.range().1)))
        };
        let (uses, state) = (g.users(), states(g));
        let mut lent = BTreeSet::new();
        let values = g.inputs.iter().copied().chain(g.order.iter().map(|&n| g.nodes[n].result()));
        let seen: Vec<(Value, Option<(f64, f64)>)> = values.map(|v| (v, observed(v))).collect();
        for (v, range) in seen {
            c.range[v.index()] = range;
        }
        for &n in &g.order {
            let node = &g.nodes[n];
            if let Op::Unary(Unary::Relu | Unary::Clip { .. }) = node.op {
                let x = node.args[0];
                let only = uses.get(&x).is_some_and(|u| u.len() == 1) && !g.is_output(x);
                let elementwise =
                    g.producer(x).is_some_and(|p| matches!(g.nodes[p].op, Op::Binary(_) | Op::Pool { kind: PoolKind::Average { .. }, .. }));
                if only && elementwise && c.range[node.result().index()].is_some() {
                    lent.insert(x);
                }
            }
        }
        for v in &lent {
            c.range[v.index()] = None;
        }
        for &n in &g.order {
            let node = &g.nodes[n];
            let r = node.result();
            if form(g, n) == Form::Move && !state[r.index()] || node.args.first().is_some_and(|x| lent.contains(x)) {
                for a in node.data() {
                    if g.tensor(a).is_none() {
                        c.join(a, r);
                    }
                }
            }
        }
        steps.same.iter().for_each(|&(a, b)| c.join(a, b));
        for &n in &g.order {
            let node = &g.nodes[n];
            if let Op::Pad { value, .. } = node.op {
                c.widen(node.result(), value.into());
            }
            if form(g, n) == Form::Move {
                for x in node.args.iter().filter_map(|&a| g.tensor(a)?.to_f32()).flatten() {
                    c.widen(node.result(), x.into());
                }
            }
        }
        c
    }

    /// Values that are rounded, and operators that will compute in integers.
    fn wanted(&self, g: &Graph, c: &mut Classes, cx: &mut Cx, steps: &Recurrences) -> (Vec<bool>, Vec<bool>) {
        let mut wanted = vec![false; g.values.len()];
        let mut integers = vec![false; g.nodes.len()];
        let mut state = states(g);
        state.iter_mut().zip(&steps.state).for_each(|(state, adds)| *state |= adds);
        for &(n, count) in &steps.sums {
            cx.remark("insert-quantize", g, n, format!("adds up over {count} steps and stays float: 8 bits would add up their errors"));
        }
        for &(_, v) in g.outputs.iter().filter(|_| self.integer_io) {
            wanted[v.index()] = g.producer(v).is_some() && g.ty(v).elem.is_f32() && c.known(v) && rounded_tensor(g, v).is_none();
        }
        for &n in g.order.iter().rev() {
            let node = &g.nodes[n];
            let r = node.result();
            let operands: Vec<Value> = match form(g, n) {
                Form::Layer => {
                    let mut operands = vec![node.args[0]];
                    if node.op.epilogue().is_some_and(|(_, residual)| residual) {
                        operands.extend(node.args.last());
                    }
                    operands
                }
                _ => node.data().filter(|&a| g.tensor(a).is_none()).collect(),
            };
            // What computed indices pick from a constant is rounded with it.
            let table = matches!(node.op, Op::Gather { .. }) && operands.is_empty();
            // What arrived rounded stays as it is.
            let given = |a: Value| rounded_tensor(g, a).is_some();
            let fits = |a: &Value| g.ty(*a).elem.is_f32() && g.tensor(*a).is_none();
            let readable = (table || !operands.is_empty()) && operands.iter().all(|&a| fits(&a) && (given(a) || c.known(a)));
            let integer = match form(g, n) {
                Form::Layer => {
                    cx.widths.get(&n) != Some(&Width::Float)
                        && (g.tensor(node.args[1]).is_some() || constant_behind(g, node.args[1]).is_some())
                }
                Form::Mean => wanted[r.index()] || g.producer(node.args[0]).is_some() && spatial(&node.op, g.ty(node.args[0]).rank()),
                Form::Elementwise | Form::Move if state[r.index()] => false,
                Form::Elementwise | Form::Move => wanted[r.index()] && constants_round(g, node),
                Form::Float => false,
            };
            // Words have kernels of layers, and are moved.
            let words = operands.iter().chain([&r]).any(|v| c.words(*v));
            let moved = form(g, n) == Form::Move && !matches!(node.op, Op::Pool { .. });
            let integer = integer && (!words || form(g, n) == Form::Layer || moved);
            if integer && readable {
                integers[n.index()] = true;
                for a in operands.into_iter().filter(|&a| !given(a)) {
                    wanted[a.index()] = true;
                }
            } else if integer && form(g, n) == Form::Layer {
                cx.remark("insert-quantize", g, n, "stays float: no range of an operand was observed");
            }
        }
        (wanted, integers)
    }
}

/// Values that come back as inputs of the next run: outputs with the type of an input, in a network that has other inputs
/// and outputs, as far as moves reach from both. Rounding errors would add up from run to run, so the element-wise
/// operators that compute them stay float; and as a state often holds several tensors of different ranges in one, their
/// parts get scales of their own.
fn states(g: &Graph) -> Vec<bool> {
    let mut state = vec![false; g.values.len()];
    if g.inputs.len() < 2 || g.outputs.len() < 2 {
        return state;
    }
    for &(_, v) in &g.outputs {
        state[v.index()] = g.producer(v).is_some() && g.inputs.iter().any(|&i| g.ty(i) == g.ty(v));
    }
    // Roundings that are there already change no range.
    let passes_on = |op: &Op| op.moves_only() || matches!(op, Op::Quantize | Op::Dequantize);
    for &n in g.order.iter().rev() {
        if state[g.nodes[n].result().index()] && passes_on(&g.nodes[n].op) {
            g.nodes[n].data().for_each(|a| state[a.index()] = true);
        }
    }
    for &i in &g.inputs {
        state[i.index()] = g.outputs.iter().any(|&(_, v)| g.ty(i) == g.ty(v));
    }
    for &n in &g.order {
        let node = &g.nodes[n];
        if passes_on(&node.op) && node.data().all(|a| state[a.index()]) {
            state[node.result().index()] = true;
        }
    }
    state
}

/// Whether the constants among the operands have a place on a scale; divisors, their reciprocals.
fn constants_round(g: &Graph, node: &NodeData) -> bool {
    let divides = node.op == Op::Binary(Binary::Div);
    let fits = |x: &f32| if divides { x.recip().is_finite() } else { x.is_finite() };
    node.data().filter_map(|a| g.tensor(a)).all(|t| t.to_f32().is_some_and(|data| data.iter().all(fits)))
}

/// Whether a reduction collapses all axes behind the channels.
fn spatial(op: &Op, rank: usize) -> bool {
    matches!(op, Op::Reduce { axes, .. } if rank > 2 && axes.iter().copied().eq(2..rank))
}

/// `dequantize(quantize(v))`.
fn round(s: &mut Sweep<'_>, v: Value, elem: Elem, origin: Origin) -> Result<Value, Diagnostic> {
    let q = s.push(Op::Quantize, &[v], elem, origin.clone())?;
    let d = s.push(Op::Dequantize, &[q], Elem::F32, origin)?;
    let name = s.g.values[v].name.clone();
    s.g.values[q].name.clone_from(&name);
    s.g.values[d].name = name;
    Ok(d)
}

impl Pass for InsertQuantize {
    fn name(&self) -> &'static str {
        "insert-quantize"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        if self.ranges.is_none() {
            return Ok(());
        }
        let steps = Recurrences::of(g);
        let mut classes = self.classes(g, cx, &steps);
        let (wanted, integers) = self.wanted(g, &mut classes, cx, &steps);
        let inputs = g.inputs.clone();
        let mut failed = None;
        // What stands for a value where integers read it. A value that exists as floats stays that for float readers.
        let rounded: RefCell<Vec<Option<Value>>> = RefCell::new(vec![None; wanted.len()]);
        let outputs: Vec<Value> = if self.integer_io { g.outputs.iter().map(|(_, v)| *v).collect() } else { Vec::new() };
        let mut types: Vec<Option<Elem>> = (0..wanted.len()).map(|i| if wanted[i] { classes.elem(Value::new(i)) } else { None }).collect();
        let first_types = types.clone();
        let result = Sweep::run_with(
            g,
            |s| {
                for v in inputs {
                    if let Some(elem) = first_types[v.index()].clone() {
                        let origin = Origin::new(s.g.values[v].name.clone());
                        match round(s, v, elem, origin) {
                            Ok(d) if self.integer_io => s.alias(v, d),
                            Ok(d) => rounded.borrow_mut()[v.index()] = Some(d),
                            Err(e) => failed = Some(e),
                        }
                    }
                }
            },
            |s, n| {
                let node = s.g.nodes[n].clone();
                let (mut op, mut args) = (node.op.clone(), node.args.clone());
                if integers[n.index()] {
                    for a in &mut args {
                        *a = rounded.borrow().get(a.index()).copied().flatten().unwrap_or(*a);
                    }
                }
                if integers[n.index()] && (matches!(op, Op::Binary(_)) || op.moves_only()) {
                    let shared = if op.moves_only() { first_types[node.result().index()].clone() } else { None };
                    let divides = op == Op::Binary(Binary::Div);
                    for a in &mut args {
                        if let Some(data) = s.floats(*a) {
                            let data: Vec<f32> = if divides { data.iter().map(|x| x.recip()).collect() } else { data };
                            *a = rounded_constant(s, *a, &data, shared.clone(), node.origin.clone())?;
                        }
                    }
                    if divides {
                        op = Op::Binary(Binary::Mul);
                    }
                }
                s.rewrite(n, op, args);
                if let Some(elem) = types.get_mut(node.result().index()).and_then(Option::take) {
                    let r = node.result();
                    let d = round(s, r, elem, node.origin.clone())?;
                    if integers[n.index()] || outputs.contains(&r) {
                        s.alias(r, d);
                    } else {
                        rounded.borrow_mut()[r.index()] = Some(d);
                    }
                }
                Ok(())
            },
        );
        failed.map_or(result, Err)
    }
}

/// A constant operand of element type `shared`, or under its own scale.
fn rounded_constant(s: &mut Sweep<'_>, v: Value, data: &[f32], shared: Option<Elem>, origin: Origin) -> Result<Value, Diagnostic> {
    let own = || {
        let fold = |f: fn(f32, f32) -> f32| f64::from(data.iter().copied().fold(0.0, f));
        let (scale, zero) = affine(fold(f32::min), fold(f32::max), Storage::U8.range());
        Quant::per_tensor(Storage::U8, scale, zero).map(Elem::from).map_err(Diagnostic::bug)
    };
    let elem = shared.map_or_else(own, Ok)?;
    let params = elem.quant().and_then(|q| q.tensor_params());
    let (scale, zero) = params.ok_or_else(|| Diagnostic::bug("a constant beside integers has no scale of its own"))?;
    let (lo, hi) = elem.quant().map_or((0, 255), |q| (q.min(), q.max()));
    let ints: Vec<i64> = data.iter().map(|x| i64::from(exact::quantize(*x, scale, zero, lo, hi))).collect();
    let (name, dims) = (s.g.values[v].name.clone(), s.g.ty(v).dims.clone());
    let q = s.constant(&name, Tensor::from_ints(TensorTy::new(dims, elem), ints));
    s.push(Op::Dequantize, &[q], Elem::F32, origin)
}
