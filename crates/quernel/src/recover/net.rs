//! Runs of nodes as a [`Net`]: what the gradients of a block need.

use super::{Layer, operands::Geometry};
use quernel_interp::eval_node;
use quernel_ir::{Act, Binary, Graph, Node, Op, PoolKind, ReduceKind, Tensor, TensorTy, Unary, Value, Window};
use quernel_quant::tune::{Buffer, Goal, Map, Net, OUTSIDE, Shape, Step};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Products per sample after which a block ends where it can.
const MOST_WORK: usize = 64 << 20;
/// Numbers of operands that are listed per block.
const MOST_LISTED: usize = 64 << 20;

/// A run of the graph's order.
pub struct Block {
    /// The layers that it tunes: their number among all, in the order of the net's.
    pub layers: Vec<usize>,
    /// Values from outside, in the order of the net's inputs.
    pub inputs: Vec<Value>,
    /// Values of the float graph, in the order of the net's goals.
    pub wanted: Vec<Value>,
    /// Steps, inputs and goals; weights of goals are 1 where there are any.
    pub net: Net,
    /// Products per sample.
    pub work: usize,
}

/// The blocks of a graph, in order.
pub fn blocks(g: &Graph, float: &Graph, layers: &[Layer]) -> Vec<Block> {
    let lone = lone(g);
    let by_node: BTreeMap<Node, usize> = layers.iter().enumerate().map(|(i, l)| (l.node, i)).collect();
    let mut all = Vec::new();
    let mut first = 0;
    while first < g.order.len() {
        let mut maker = Maker {
            g,
            layers: &by_node,
            net: Net::default(),
            inputs: Vec::new(),
            numbers: Vec::new(),
            buffers: BTreeMap::new(),
            work: 0,
            listed: 0,
        };
        // The last place where the block may end, with what it then is.
        let (mut end, mut kept) = (first, None);
        while end < g.order.len() && maker.add(g.order[end]).is_some() {
            end += 1;
            if lone[end - 1] && !maker.numbers.is_empty() && end < g.order.len() {
                if maker.work > MOST_WORK {
                    break;
                }
                if maker.work > MOST_WORK / 2 {
                    kept = Some(end);
                }
            }
        }
        if maker.work > MOST_WORK
            && let Some(last) = kept.filter(|last| *last < end)
        {
            end = last;
            maker = maker.again(&g.order[first..end]);
        }
        if end > first && !maker.numbers.is_empty() {
            all.extend(maker.finish(float, first..end));
        }
        first = end.max(first + 1);
    }
    all
}

/// For every place of the order, whether one computed value alone is read behind it.
fn lone(g: &Graph) -> Vec<bool> {
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, &n) in g.order.iter().enumerate() {
        g.nodes[n].args.iter().filter(|a| !constant(g, **a)).for_each(|a| {
            last.insert(*a, i);
        });
    }
    g.outputs.iter().for_each(|(_, v)| {
        last.insert(*v, g.order.len());
    });
    let mut open: BTreeSet<Value> = g.inputs.iter().copied().filter(|v| last.contains_key(v)).collect();
    let mut all = Vec::with_capacity(g.order.len());
    for (i, &n) in g.order.iter().enumerate() {
        open.extend(g.nodes[n].results.iter().copied().filter(|v| !constant(g, *v)));
        open.retain(|v| last.get(v).is_some_and(|l| *l > i));
        all.push(open.len() == 1);
    }
    all
}

/// A constant, or one that is dequantized.
fn constant(g: &Graph, v: Value) -> bool {
    g.tensor(v).is_some() || g.producer(v).is_some_and(|n| g.nodes[n].op == Op::Dequantize && g.tensor(g.nodes[n].args[0]).is_some())
}

struct Maker<'a> {
    g: &'a Graph,
    layers: &'a BTreeMap<Node, usize>,
    net: Net,
    inputs: Vec<Value>,
    numbers: Vec<usize>,
    buffers: BTreeMap<Value, Buffer>,
    work: usize,
    listed: usize,
}

impl<'a> Maker<'a> {
    /// The same for other nodes, which it took before.
    fn again(self, nodes: &[Node]) -> Self {
        let mut fresh =
            Maker { net: Net::default(), inputs: Vec::new(), numbers: Vec::new(), buffers: BTreeMap::new(), work: 0, listed: 0, ..self };
        nodes.iter().for_each(|&n| {
            fresh.add(n);
        });
        fresh
    }

    fn buffer(&mut self, v: Value) -> Buffer {
        self.net.sizes.push(self.g.ty(v).count());
        let b = self.net.sizes.len() - 1;
        self.buffers.insert(v, b);
        b
    }

    /// The buffer of an operand; one from outside becomes an input.
    fn operand(&mut self, v: Value) -> Buffer {
        if let Some(&b) = self.buffers.get(&v) {
            return b;
        }
        let source = self.g.producer(v).filter(|&n| self.g.nodes[n].op == Op::Dequantize).map(|n| self.g.nodes[n].args[0]);
        if let Some(&b) = source.and_then(|s| self.buffers.get(&s)) {
            self.buffers.insert(v, b);
            return b;
        }
        let b = self.buffer(v);
        if let Some(source) = source {
            self.buffers.insert(source, b);
        }
        self.net.inputs.push(b);
        self.inputs.push(v);
        b
    }

    /// Takes a node; `None` when its gradient is not known.
    fn add(&mut self, n: Node) -> Option<()> {
        let g = self.g;
        let node = &g.nodes[n];
        if node.results.len() != 1 {
            return None;
        }
        let y = node.result();
        if constant(g, y) {
            return Some(());
        }
        let real = |v: Value| g.ty(v).elem.is_f32() && !constant(g, v);
        match &node.op {
            Op::Dequantize => {
                g.ty(node.args[0]).elem.quant()?.tensor_params()?;
                let b = self.operand(y);
                self.buffers.insert(node.args[0], b);
            }
            Op::Quantize => {
                let quant = g.ty(y).elem.quant()?;
                let (scale, zero) = quant.tensor_params()?;
                let bounds = ((quant.min() - zero) as f32, (quant.max() - zero) as f32);
                let (x, y) = (self.operand(node.args[0]), self.buffer(y));
                self.net.steps.push(Step::Round { x, y, scale, bounds });
            }
            Op::Conv { act, residual, .. } | Op::Dense { act, residual, .. } => self.layer(n, *act, *residual)?,
            Op::Unary(Unary::Relu) => self.clip(node.args[0], y, Act::Relu.bounds()),
            Op::Unary(Unary::Clip { lo, hi }) => self.clip(node.args[0], y, (*lo, *hi)),
            Op::Binary(Binary::Add) if node.args.iter().all(|a| real(*a) && g.ty(*a).dims == g.ty(y).dims) => {
                let x = [self.operand(node.args[0]), self.operand(node.args[1])];
                let y = self.buffer(y);
                self.net.steps.push(Step::Add { x, y });
            }
            Op::Pool { kind, window } if real(node.args[0]) => {
                let map = pool(*kind, window, g.ty(node.args[0]), g.ty(y))?;
                self.gather(node.args[0], y, map);
            }
            Op::Reduce { kind: ReduceKind::Mean, axes, .. } if real(node.args[0]) => {
                let map = mean(axes, &g.ty(node.args[0]).dims);
                self.gather(node.args[0], y, map);
            }
            op @ (Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. }) if real(node.args[0]) => {
                let map = moved(op, g.ty(node.args[0]), g.ty(y))?;
                self.gather(node.args[0], y, map);
            }
            _ => return None,
        }
        Some(())
    }

    fn clip(&mut self, x: Value, y: Value, bounds: (f32, f32)) {
        let (x, y) = (self.operand(x), self.buffer(y));
        self.net.steps.push(Step::Clip { x, y, bounds });
    }

    fn gather(&mut self, x: Value, y: Value, map: Map) {
        let (x, y) = (self.operand(x), self.buffer(y));
        self.net.steps.push(Step::Gather { x, y, map });
    }

    fn layer(&mut self, n: Node, act: Act, residual: bool) -> Option<()> {
        let (g, node) = (self.g, &self.g.nodes[n]);
        let number = *self.layers.get(&n)?;
        let geometry = Geometry::of(&node.op, g.ty(node.args[0]), g.ty(node.args[1]), g.ty(node.result()))?;
        let (groups, rows, depth, columns) = (geometry.groups, geometry.rows, geometry.inputs, geometry.positions);
        self.listed = self.listed.checked_add(groups.checked_mul(depth)?.checked_mul(columns)?)?;
        if self.listed > MOST_LISTED || depth == 0 || columns == 0 {
            return None;
        }
        let mut operands = vec![OUTSIDE; groups * depth * columns];
        for group in 0..groups {
            for column in 0..columns {
                geometry.operands(group, column, |i, at| {
                    operands[(group * depth + i) * columns + column] = at.map_or(OUTSIDE, |at| at as u32);
                });
            }
        }
        let by_column = (0..columns).map(|p| geometry.result(0, 0, p) as u32).collect();
        let by_row = (0..groups * rows).map(|r| geometry.result(r / rows, r % rows, 0) as u32).collect();
        let x = self.operand(node.args[0]);
        let addend = node.args.last().filter(|_| residual).map(|&r| self.operand(r));
        let y = self.buffer(node.result());
        let layer = self.numbers.len();
        self.net.steps.push(Step::Layer { layer, x, residual: addend, y, bounds: act.bounds() });
        self.net.layers.push(Shape { groups, rows, depth, columns, operands, results: (by_column, by_row) });
        self.numbers.push(number);
        self.work += groups * rows * depth * columns;
        Some(())
    }

    /// The block with its goals: values that the float graph knows, where several nodes or other blocks read them.
    fn finish(mut self, float: &Graph, range: Range<usize>) -> Option<Block> {
        let g = self.g;
        let named: BTreeMap<&str, Value> = float
            .order
            .iter()
            .map(|&n| float.nodes[n].result())
            .filter(|v| !float.values[*v].name.is_empty())
            .map(|v| (float.values[v].name.as_str(), v))
            .collect();
        let mut readers: BTreeMap<Buffer, usize> = BTreeMap::new();
        let mut outside: BTreeSet<Buffer> = BTreeSet::new();
        for (at, &n) in g.order.iter().enumerate() {
            // Roundings are read as what they round.
            let passes = matches!(g.nodes[n].op, Op::Quantize | Op::Dequantize);
            for b in g.nodes[n].args.iter().filter_map(|a| self.buffers.get(a)) {
                if range.contains(&at) {
                    *readers.entry(*b).or_default() += usize::from(!passes);
                } else {
                    outside.insert(*b);
                }
            }
        }
        outside.extend(g.outputs.iter().filter_map(|(_, v)| self.buffers.get(v)));
        let mut goals: BTreeMap<Buffer, Value> = BTreeMap::new();
        for &n in &g.order[range] {
            let node = &g.nodes[n];
            let y = node.result();
            // A rounding has the name of what it rounds.
            let name = if node.op == Op::Quantize { node.args[0] } else { y };
            let Some(&b) = self.buffers.get(&y).filter(|b| !self.net.inputs.contains(b)) else { continue };
            let Some(&f) = named.get(g.values[name].name.as_str()) else { continue };
            let wanted = outside.contains(&b) || readers.get(&b).is_some_and(|r| *r > 1);
            if wanted && float.ty(f).elem.is_f32() && float.ty(f).dims == g.ty(y).dims {
                goals.entry(b).or_insert(f);
            }
        }
        // Scores of classes: one row that a softmax reads.
        let scores: BTreeSet<Buffer> = g
            .order
            .iter()
            .filter(|&&n| matches!(g.nodes[n].op, Op::Softmax { axis, .. } if g.ty(g.nodes[n].result()).dims[axis] == g.ty(g.nodes[n].result()).count()))
            .filter_map(|&n| self.buffers.get(&g.nodes[n].args[0]).copied())
            .collect();
        let divergence = |at: Buffer| if scores.contains(&at) { 1.0 } else { 0.0 };
        self.net.goals = goals.keys().map(|&at| Goal { at, weight: 1.0, divergence: divergence(at) }).collect();
        let wanted: Vec<Value> = goals.into_values().collect();
        (!wanted.is_empty()).then_some(Block { layers: self.numbers, inputs: self.inputs, wanted, net: self.net, work: self.work })
    }
}

/// The elements an operator moves: what it does with their numbers.
fn moved(op: &Op, x: &TensorTy, y: &TensorTy) -> Option<Map> {
    // Numbers beyond are no f32.
    let count = Some(x.count()).filter(|n| *n < 1 << 24)?;
    let numbers: Vec<f32> = (0..count).map(|i| i as f32).collect();
    let out = eval_node(op, &[&Tensor::f32(x.dims.clone(), &numbers)], &TensorTy::f32(y.dims.clone())).ok()?.to_f32()?;
    Some(Map::each(out.into_iter().map(|i| i as u32).collect()))
}

/// Means over axes.
fn mean(axes: &[usize], dims: &[usize]) -> Map {
    let mut to = 0..dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d).product::<usize>();
    let per: usize = axes.iter().map(|a| dims[*a]).product();
    let mut parts: Vec<Vec<u32>> = to.by_ref().map(|_| Vec::with_capacity(per)).collect();
    for i in 0..dims.iter().product::<usize>() {
        let (mut rest, mut at, mut stride) = (i, 0, 1);
        for axis in (0..dims.len()).rev() {
            if !axes.contains(&axis) {
                at += rest % dims[axis] * stride;
                stride *= dims[axis];
            }
            rest /= dims[axis];
        }
        parts[at].push(i as u32);
    }
    let factors = vec![1.0 / per.max(1) as f32; parts.len()];
    joined(parts, Some(factors))
}

/// Windows over `[N, C, spatial..]`.
fn pool(kind: PoolKind, window: &Window, x: &TensorTy, y: &TensorTy) -> Option<Map> {
    let (extents, outputs) = (x.dims.get(2..)?, y.dims.get(2..)?);
    let (plane, spots): (usize, usize) = (extents.iter().product(), outputs.iter().product());
    let taps: usize = window.dims.iter().map(|d| d.kernel).product();
    let (mut parts, mut factors) = (Vec::with_capacity(y.count()), Vec::new());
    for i in 0..y.count() {
        let (channel, mut spot) = (i / spots, i % spots);
        let mut at = vec![0usize; outputs.len()];
        for axis in (0..outputs.len()).rev() {
            at[axis] = spot % outputs[axis];
            spot /= outputs[axis];
        }
        let element = |tap: usize| {
            let (mut offset, mut stride, mut rest) = (0, 1, tap);
            for axis in (0..extents.len()).rev() {
                let d = window.dims[axis];
                let from = (at[axis] * d.stride + rest % d.kernel * d.dilation).checked_sub(d.before).filter(|f| *f < extents[axis])?;
                rest /= d.kernel;
                offset += stride * from;
                stride *= extents[axis];
            }
            Some((channel * plane + offset) as u32)
        };
        let part: Vec<u32> = (0..taps).filter_map(element).collect();
        let over = if kind == (PoolKind::Average { include_pad: true }) { taps } else { part.len() };
        factors.push(1.0 / over.max(1) as f32);
        parts.push(part);
    }
    Some(joined(parts, (kind != PoolKind::Max).then_some(factors)))
}

fn joined(parts: Vec<Vec<u32>>, factors: Option<Vec<f32>>) -> Map {
    let mut starts = vec![0u32];
    for part in &parts {
        starts.push(starts[starts.len() - 1] + part.len() as u32);
    }
    Map { from: parts.concat(), starts, factors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::WindowDim;

    /// Maps give what the operators give.
    #[test]
    fn maps_are_the_operators() {
        let dim = |kernel, stride, dilation, before, after| WindowDim { kernel, stride, dilation, before, after };
        let window = Window { dims: vec![dim(3, 2, 1, 1, 0), dim(2, 1, 2, 0, 1)] };
        let x = TensorTy::f32([2, 3, 5, 6]);
        let numbers: Vec<f32> = (0..x.count()).map(|i| ((i * 37) % 41) as f32 - 20.0).collect();
        let ops = [
            Op::Pool { kind: PoolKind::Max, window: window.clone() },
            Op::Pool { kind: PoolKind::Average { include_pad: false }, window: window.clone() },
            Op::Pool { kind: PoolKind::Average { include_pad: true }, window },
            Op::Reduce { kind: ReduceKind::Mean, axes: vec![1, 3], keep: false },
            Op::Transpose { perm: vec![2, 0, 3, 1] },
            Op::Reshape { dims: vec![6, 30] },
        ];
        for op in ops {
            let y = TensorTy::f32(quernel_ir::infer::dims(&op, &[&x]).expect("fits"));
            let want = eval_node(&op, &[&Tensor::f32(x.dims.clone(), &numbers)], &y).expect("runs").to_f32().expect("floats");
            let map = match &op {
                Op::Pool { kind, window } => pool(*kind, window, &x, &y).expect("a map"),
                Op::Reduce { axes, .. } => mean(axes, &x.dims),
                op => moved(op, &x, &y).expect("a map"),
            };
            let net =
                Net { sizes: vec![x.count(), y.count()], inputs: vec![0], steps: vec![Step::Gather { x: 0, y: 1, map }], ..Net::default() };
            let have = net.forward(std::slice::from_ref(&numbers), &Default::default()).remove(1);
            assert!(have.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "{op:?}: {have:?} {want:?}");
        }
    }
}
