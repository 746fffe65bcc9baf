//! Nodes that hold other nodes: calls of the model's own functions, `If`, `Loop` and `Scan`.
//!
//! All of them disappear at import. A function is copied to where it is called, the branch of a condition that is known
//! takes the place of its `If`, and loops whose rounds are known are unrolled.

use super::{Importer, Scope, is_default_domain};
use crate::{
    generated::{AttributeProto, FunctionProto, GraphProto, NodeProto},
    limits,
    ops::attention,
};
use quernel_ir::{Code, Diagnostic, Op, Origin, Scalar, Tensor, TensorTy, Value, diag::Remark, infer};
use std::collections::BTreeMap;

/// The reason of a failure, or nothing where it was reported already.
type Fault = Option<Diagnostic>;

/// Whether a node runs a body of its own.
pub fn holds_body(node: &NodeProto) -> bool {
    match node.op_type.as_deref() {
        Some("If" | "Loop" | "Scan") => is_default_domain(node.domain.as_deref()),
        Some("FlexAttention") => node.domain.as_deref() == Some("ai.onnx.preview"),
        _ => false,
    }
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|a| a.name.as_deref() == Some(name))
}

fn graph<'n>(label: &str, node: &'n NodeProto, name: &str) -> Result<&'n GraphProto, Fault> {
    let missing = || Diagnostic::new(Code::BadAttribute, format!("attribute `{name}` holds no graph")).at(label);
    attribute(node, name).and_then(|a| a.g.as_ref()).ok_or_else(|| Some(missing()))
}

/// Every function has one definition.
pub fn functions_once(functions: &[FunctionProto]) -> Result<(), Diagnostic> {
    let mut seen = std::collections::BTreeSet::new();
    for f in functions {
        let (domain, name) = (f.domain.as_deref().unwrap_or_default(), f.name.as_deref().unwrap_or_default());
        if !seen.insert((domain, name, f.overload.as_deref().unwrap_or_default())) {
            return Err(Diagnostic::new(Code::BadGraph, "is defined twice").at(format!("function {name:?} of domain {domain:?}")));
        }
    }
    Ok(())
}

/// The node with the attributes of the call in place of references to them.
fn bound(node: &NodeProto, given: &BTreeMap<&str, &AttributeProto>) -> NodeProto {
    let bind = |a: &AttributeProto| -> Option<AttributeProto> {
        let mut a = match a.ref_attr_name.as_deref().filter(|r| !r.is_empty()) {
            // An attribute that the caller leaves out, and that has no default, is left out here, too.
            Some(reference) => AttributeProto { name: a.name.clone(), ..(*given.get(reference)?).clone() },
            None => a.clone(),
        };
        if let Some(g) = &mut a.g {
            g.node = g.node.iter().map(|n| bound(n, given)).collect();
        }
        Some(a)
    };
    NodeProto { attribute: node.attribute.iter().filter_map(bind).collect(), ..node.clone() }
}

impl<'a> Importer<'a> {
    /// The function of the model that a node calls.
    pub(super) fn function(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        let domain = |d: &Option<String>| d.clone().filter(|d| d != "ai.onnx").unwrap_or_default();
        let (name, own, overload) = (node.op_type.as_ref()?, domain(&node.domain), node.overload.clone().unwrap_or_default());
        let matches = |f: &&FunctionProto| {
            f.name.as_ref() == Some(name) && domain(&f.domain) == own && f.overload.clone().unwrap_or_default() == overload
        };
        self.functions.iter().find(matches)
    }

    /// Results of a node that runs a body.
    pub(super) fn body(&mut self, label: &str, node: &NodeProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        if self.scope.depth >= limits::DEPTH {
            let message = format!("lies in more than {} bodies; does a function call itself?", limits::DEPTH);
            return Err(Some(Diagnostic::new(Code::LimitExceeded, message).at(label)));
        }
        if let Some(function) = self.function(node) {
            return self.call(label, node, function, inputs);
        }
        match node.op_type.as_deref() {
            Some("If") => self.condition(label, node, inputs),
            Some("Loop") => self.repeat(label, node, inputs),
            Some("FlexAttention") => self.flex_attention(label, node, inputs),
            _ => self.scan(label, node, inputs),
        }
    }

    /// Runs `fill` in a scope inside this one and restores this one. Faults inside are reported where they are.
    fn inside<T>(&mut self, scope: Scope, fill: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let outer = std::mem::replace(&mut self.scope, scope);
        self.scope.depth = outer.depth + 1;
        let before = self.found.len();
        let result = fill(self);
        self.scope = outer;
        if self.found.len() > before && result.is_ok() { Err(None) } else { result }
    }

    fn value(&self, label: &str, name: &str) -> Result<Value, Fault> {
        let undefined = || Diagnostic::new(Code::MissingValue, format!("its body does not define its result {name:?}")).at(label);
        match self.scope.env.get(name) {
            Some(&v) => Ok(v),
            None if self.scope.poisoned.contains(name) => Err(None),
            None => Err(Some(undefined())),
        }
    }

    /// A body that sees the names around it, with its inputs bound to `arguments`.
    fn run_body(&mut self, label: &str, body: &GraphProto, arguments: &[Value]) -> Result<Vec<Value>, Fault> {
        if body.input.len() != arguments.len() {
            let message = format!("its body takes {} inputs instead of {}", body.input.len(), arguments.len());
            return Err(Some(Diagnostic::new(Code::BadGraph, message).at(label)));
        }
        let mut scope = self.scope.clone();
        for (input, v) in body.input.iter().zip(arguments) {
            scope.env.insert(input.name.clone().unwrap_or_default(), *v);
        }
        self.inside(scope, |s| {
            s.constants(body);
            s.nodes(&body.node);
            body.output.iter().map(|o| s.value(label, o.name.as_deref().unwrap_or_default())).collect()
        })
    }

    fn call(&mut self, label: &str, node: &NodeProto, function: &FunctionProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        let fault = |code, message: String| Some(Diagnostic::new(code, message).at(label));
        if inputs.len() > function.input.len() {
            return Err(fault(Code::BadGraph, format!("passes {} operands to a function of {}", inputs.len(), function.input.len())));
        }
        let mut given: BTreeMap<&str, &AttributeProto> = BTreeMap::new();
        for a in function.attribute_proto.iter().chain(&node.attribute) {
            given.insert(a.name.as_deref().unwrap_or_default(), a);
        }
        if let Some(missing) = function.attribute.iter().find(|a| !given.contains_key(a.as_str())) {
            // A function may leave the attribute to the defaults of the operators it calls.
            let used = function.node.iter().flat_map(|n| &n.attribute).any(|a| a.ref_attr_name.as_deref() == Some(missing));
            if !used {
                return Err(fault(Code::BadAttribute, format!("does not give attribute `{missing}` of the function it calls")));
            }
        }
        let mut scope = Scope { prefix: format!("{}{}/", self.scope.prefix, call_name(node)), ..Scope::default() };
        for (i, name) in function.input.iter().enumerate() {
            match inputs.get(i).copied().flatten() {
                Some(v) => drop(scope.env.insert(name.clone(), v)),
                None => drop(scope.absent.insert(name.clone())),
            }
        }
        let nodes: Vec<NodeProto> = function.node.iter().map(|n| bound(n, &given)).collect();
        let own = function.opset_import.iter().find(|o| is_default_domain(o.domain.as_deref())).and_then(|o| o.version);
        if own.is_none() && function.node.iter().any(|n| is_default_domain(n.domain.as_deref())) {
            return Err(fault(Code::BadGraph, "calls a function that does not say which version of the operator set it uses".into()));
        }
        let own = own.unwrap_or(self.opset);
        let opset = std::mem::replace(&mut self.opset, own);
        let result = self.inside(scope, |s| {
            s.nodes(&nodes);
            function.output.iter().map(|o| s.value(label, o)).collect()
        });
        self.opset = opset;
        result
    }

    /// The integers of a value that is known at import.
    fn known(&self, v: Value) -> Option<Vec<i64>> {
        self.graph.tensor(v).and_then(Tensor::to_ints)
    }

    fn condition(&mut self, label: &str, node: &NodeProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        let &[Some(v)] = inputs else {
            return Err(Some(Diagnostic::new(Code::BadGraph, "takes one operand, the condition").at(label)));
        };
        let [condition] = self.known(v).unwrap_or_default()[..] else { return self.either(label, node, v) };
        let branch = graph(label, node, if condition != 0 { "then_branch" } else { "else_branch" })?;
        self.run_body(label, branch, &[])
    }

    /// Both branches of a condition that is computed at run time, and of each result the one it names.
    fn either(&mut self, label: &str, node: &NodeProto, condition: Value) -> Result<Vec<Value>, Fault> {
        let a = self.run_body(label, graph(label, node, "then_branch")?, &[])?;
        let b = self.run_body(label, graph(label, node, "else_branch")?, &[])?;
        let plain = |v: &Value| self.graph.ty(*v).elem.scalar().is_some();
        let fits = self.graph.ty(condition).elem == Scalar::Bool.into() && self.graph.ty(condition).count() == 1;
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| self.graph.ty(*a) == self.graph.ty(*b) && plain(a));
        if !fits || !same {
            let message = "its condition is computed at run time, and the results of its branches differ in type or shape";
            let help = "if the condition depends on an input that never changes, fix it with `--pin INPUT=VALUE`";
            return Err(Some(Diagnostic::new(Code::UnsupportedForm, message).at(label).help(help)));
        }
        let message = "both branches run, because the condition is computed at run time".into();
        self.remarks.push(Remark { by: "import".into(), at: label.into(), message });
        let mut cx = self.context(label, node, vec![], 0);
        let condition = cx.reshape(condition, vec![])?;
        a.into_iter().zip(b).map(|(a, b)| if a == b { Ok(a) } else { cx.select(condition, a, b).map_err(Some) }).collect()
    }

    /// `Loop`: trip count and condition, carried values; the body yields a condition, the carried values, and slices of
    /// results that are stacked.
    fn repeat(&mut self, label: &str, node: &NodeProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        let unsupported = |message: &str| Some(Diagnostic::new(Code::UnsupportedForm, message).at(label));
        let body = graph(label, node, "body")?;
        let constant = |s: &Self, i: usize, what: &str| -> Result<Option<i64>, Fault> {
            let Some(v) = inputs.get(i).copied().flatten() else { return Ok(None) };
            match s.known(v).unwrap_or_default()[..] {
                [x] => Ok(Some(x)),
                _ => Err(unsupported(&format!("its {what} is computed at run time"))),
            }
        };
        let (trips, mut going) = (constant(self, 0, "trip count")?, constant(self, 1, "condition")?.is_none_or(|c| c != 0));
        let carried: Option<Vec<Value>> = inputs.iter().skip(2).copied().collect();
        let mut carried = carried.ok_or_else(|| unsupported("leaves a carried value out"))?;
        let scans = body.output.len().checked_sub(1 + carried.len());
        let scans = scans.ok_or_else(|| Some(Diagnostic::new(Code::BadGraph, "its body yields too few results").at(label)))?;
        let mut stacked: Vec<Vec<Value>> = vec![Vec::new(); scans];
        let mut round = 0;
        while going && trips.is_none_or(|t| round < t) {
            if round as usize >= self.options.limits.rounds {
                let message = format!("runs more than {} rounds", self.options.limits.rounds);
                return Err(Some(Diagnostic::new(Code::LimitExceeded, message).at(label)));
            }
            let number = self.graph.constant("", Tensor::i64([], &[round]));
            let on = self.graph.constant("", Tensor::from_ints(TensorTy::new([], Scalar::Bool), [1]));
            let arguments: Vec<Value> = [number, on].into_iter().chain(carried.iter().copied()).collect();
            let results = self.run_body(label, body, &arguments)?;
            going = match self.known(results[0]).unwrap_or_default()[..] {
                [x] => x != 0,
                _ => return Err(unsupported("its condition is computed at run time")),
            };
            let (next, slices) = results[1..].split_at(carried.len());
            carried = next.to_vec();
            for (all, &slice) in stacked.iter_mut().zip(slices) {
                all.push(slice);
            }
            round += 1;
        }
        for slices in stacked {
            if slices.is_empty() {
                return Err(unsupported("stacks no results, because it runs no round"));
            }
            carried.push(self.stack(label, node, &slices, 0)?);
        }
        Ok(carried)
    }

    /// `Scan`: carried values, then tensors that are read slice by slice.
    fn scan(&mut self, label: &str, node: &NodeProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        let fault = |code, message: &str| Some(Diagnostic::new(code, message).at(label));
        let batched = self.opset < 9;
        let inputs = match inputs {
            // The first operand was the lengths of the sequences.
            [Some(_), ..] if batched => return Err(fault(Code::UnsupportedForm, "has sequences of several lengths")),
            [None, others @ ..] if batched => others,
            all => all,
        };
        let inputs: Option<Vec<Value>> = inputs.iter().copied().collect();
        let inputs = inputs.ok_or_else(|| fault(Code::BadGraph, "leaves an operand out"))?;
        if !batched {
            return self.scan_one(label, node, &inputs);
        }
        let extent = |v: &Value| self.graph.ty(*v).dims.first().copied();
        let batch = inputs.first().and_then(extent).filter(|n| (1..=self.options.limits.rounds).contains(n));
        let batch = batch.filter(|n| inputs.iter().all(|v| extent(v) == Some(*n)));
        let batch = batch.ok_or_else(|| fault(Code::ShapeMismatch, "scans batches of different sizes"))?;
        let mut all: Vec<Vec<Value>> = Vec::new();
        for i in 0..batch {
            let part = inputs.iter().map(|&v| self.slice(label, node, v, 0, i)).collect::<Result<Vec<_>, _>>()?;
            for (slot, v) in self.scan_one(label, node, &part)?.into_iter().enumerate() {
                if all.len() <= slot {
                    all.push(Vec::new());
                }
                all[slot].push(v);
            }
        }
        all.iter().map(|parts| self.stack(label, node, parts, 0)).collect()
    }

    /// One sequence.
    fn scan_one(&mut self, label: &str, node: &NodeProto, inputs: &[Value]) -> Result<Vec<Value>, Fault> {
        let fault = |code, message: &str| Some(Diagnostic::new(code, message).at(label));
        let body = graph(label, node, "body")?;
        let scanned = attribute(node, "num_scan_inputs").and_then(|a| a.i).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let states = inputs.len().checked_sub(scanned).filter(|_| scanned > 0);
        let states = states.ok_or_else(|| fault(Code::BadAttribute, "attribute `num_scan_inputs` does not fit its operands"))?;
        let outputs = body.output.len().checked_sub(states).ok_or_else(|| fault(Code::BadGraph, "its body yields too few results"))?;
        let list = |name: &str, n: usize| -> Result<Vec<i64>, Fault> {
            match attribute(node, name) {
                None => Ok(vec![0; n]),
                Some(a) if a.ints.len() == n => Ok(a.ints.clone()),
                Some(a) => Err(fault(Code::BadAttribute, &format!("attribute `{name}` has {} elements instead of {n}", a.ints.len()))),
            }
        };
        let directions = |name: &str, n: usize| -> Result<Vec<i64>, Fault> {
            let all = list(name, n)?;
            match all.iter().find(|d| !(0..=1).contains(*d)) {
                Some(d) => Err(fault(Code::BadAttribute, &format!("attribute `{name}` holds {d} instead of 0 or 1"))),
                None => Ok(all),
            }
        };
        let (axes, backward) =
            (list("scan_input_axes", scanned)?, directions(if self.opset < 9 { "directions" } else { "scan_input_directions" }, scanned)?);
        let (out_axes, out_backward) = (list("scan_output_axes", outputs)?, directions("scan_output_directions", outputs)?);
        let mut at = Vec::new();
        for (&v, &axis) in inputs[states..].iter().zip(&axes) {
            let dims = &self.graph.ty(v).dims;
            let rank = dims.len() as i64;
            if !(-rank..rank).contains(&axis) {
                return Err(fault(Code::BadAttribute, &format!("axis {axis} does not exist in a tensor of rank {rank}")));
            }
            let axis = axis.rem_euclid(rank) as usize;
            at.push((v, axis, dims[axis]));
        }
        let rounds = at[0].2;
        if at.iter().any(|(_, _, n)| *n != rounds) {
            return Err(fault(Code::ShapeMismatch, "scans tensors of different lengths"));
        }
        let most = self.options.limits.rounds;
        if rounds > most || rounds == 0 {
            return Err(fault(Code::LimitExceeded, &format!("runs {rounds} rounds; 1 to {most} are supported")));
        }
        let mut carried = inputs[..states].to_vec();
        let mut stacked: Vec<Vec<Value>> = vec![Vec::new(); outputs];
        for round in 0..rounds {
            let mut arguments = carried.clone();
            for (&(v, axis, n), back) in at.iter().zip(&backward) {
                arguments.push(self.slice(label, node, v, axis, if *back == 0 { round } else { n - 1 - round })?);
            }
            let results = self.run_body(label, body, &arguments)?;
            let (next, slices) = results.split_at(states);
            carried = next.to_vec();
            for (i, &slice) in slices.iter().enumerate() {
                let at = if out_backward[i] != 0 { 0 } else { stacked[i].len() };
                stacked[i].insert(at, slice);
            }
        }
        for (slices, axis) in stacked.iter().zip(out_axes) {
            carried.push(self.stack(label, node, slices, axis)?);
        }
        Ok(carried)
    }

    /// Attention whose scores, and whose weights, may go through bodies.
    fn flex_attention(&mut self, label: &str, node: &NodeProto, inputs: &[Option<Value>]) -> Result<Vec<Value>, Fault> {
        let mut cx = self.context(label, node, inputs.to_vec(), 0);
        cx.only(&["prob_mod", "scale", "score_mod", "softmax_precision"])?;
        // The inside is computed in f32, whatever floats come.
        let own = inputs.iter().flatten().next().and_then(|v| cx.g.ty(*v).elem.scalar()).unwrap_or(Scalar::F32);
        for slot in 0..cx.inputs.len() {
            cx.inputs[slot] = cx.inputs[slot].map(|v| cx.cast(v, Scalar::F32)).transpose()?;
        }
        let inputs = cx.inputs.clone();
        let (shape, scores) = attention::flexible_scores(&mut cx)?;
        let scores = self.altered(label, node, "score_mod", scores)?;
        let axis = self.graph.ty(scores).rank().saturating_sub(1);
        let weights = self.push(label, node, Op::Softmax { axis, log: false }, &[scores])?;
        let weights = self.altered(label, node, "prob_mod", weights)?;
        let mut cx = self.context(label, node, inputs, 0);
        let y = attention::weighted(&mut cx, &shape, weights)?;
        Ok(vec![cx.cast(y, own)?])
    }

    /// A tensor after the body of an attribute, which keeps its type; without the attribute it stays what it is.
    fn altered(&mut self, label: &str, node: &NodeProto, name: &str, x: Value) -> Result<Value, Fault> {
        if attribute(node, name).is_none() {
            return Ok(x);
        }
        let results = self.run_body(label, graph(label, node, name)?, &[x])?;
        match results[..] {
            [y] if self.graph.ty(y) == self.graph.ty(x) => Ok(y),
            _ => Err(Some(Diagnostic::new(Code::BadGraph, format!("the body `{name}` does not keep the type of its operand")).at(label))),
        }
    }

    /// Adds a node of the kind that unrolling needs.
    fn push(&mut self, label: &str, node: &NodeProto, op: Op, args: &[Value]) -> Result<Value, Fault> {
        let types: Vec<&TensorTy> = args.iter().map(|&a| self.graph.ty(a)).collect();
        let dims = infer::dims(&op, &types).map_err(|e| Some(Diagnostic::new(Code::ShapeMismatch, e).at(label)))?;
        let ty = TensorTy::new(dims, types[0].elem.clone());
        Ok(self.graph.push(op, args, ty, Origin::new(format!("{}{}", self.scope.prefix, call_name(node)))))
    }

    /// Element `index` along an axis, without the axis.
    fn slice(&mut self, label: &str, node: &NodeProto, v: Value, axis: usize, index: usize) -> Result<Value, Fault> {
        let mut len = self.graph.ty(v).dims.clone();
        let (mut start, step) = (vec![0; len.len()], vec![1; len.len()]);
        (start[axis], len[axis]) = (index, 1);
        let part = self.push(label, node, Op::Slice { start, step, len: len.clone() }, &[v])?;
        len.remove(axis);
        self.push(label, node, Op::Reshape { dims: len }, &[part])
    }

    /// Values one after another along a new axis.
    fn stack(&mut self, label: &str, node: &NodeProto, slices: &[Value], axis: i64) -> Result<Value, Fault> {
        let dims = self.graph.ty(slices[0]).dims.clone();
        let rank = dims.len() as i64 + 1;
        if !(-rank..rank).contains(&axis) || rank as usize > limits::RANK {
            return Err(Some(
                Diagnostic::new(Code::BadAttribute, format!("axis {axis} does not exist in a tensor of rank {rank}")).at(label),
            ));
        }
        let axis = axis.rem_euclid(rank) as usize;
        let mut parts = Vec::with_capacity(slices.len());
        for &v in slices {
            let mut one = self.graph.ty(v).dims.clone();
            one.insert(axis.min(one.len()), 1);
            parts.push(self.push(label, node, Op::Reshape { dims: one }, &[v])?);
        }
        if let [one] = parts[..] { Ok(one) } else { self.push(label, node, Op::Concat { axis }, &parts) }
    }
}

/// The name of a node, or that of its first result.
fn call_name(node: &NodeProto) -> &str {
    let name = node.name.as_deref().filter(|n| !n.is_empty());
    name.or_else(|| node.output.first().map(String::as_str)).unwrap_or("call")
}
