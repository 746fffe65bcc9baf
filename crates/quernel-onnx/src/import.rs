//! Messages to a graph: names to values, node by node, in the order of the file.

mod scopes;

use crate::{
    Imported, NEWEST_OPSET, OLDEST_OPSET, Options,
    generated::{
        FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
        tensor_shape_proto::dimension::Value as Extent,
    },
    integers, legacy, limits,
    narrow::Narrow,
    node::{NodeCx, Stored},
    ops::{self, Operator},
    precision, tensor,
};
use prost::Message;
use quernel_ir::{Code, Diagnostic, Elem, Graph, Op, Origin, Tensor, TensorTy, Value, diag::Remark, plain::Number};
use std::collections::{BTreeMap, BTreeSet};

/// Imports a model.
///
/// # Errors
/// All faults that were found, each located; at most [`limits::DIAGNOSTICS`].
pub fn import(bytes: &[u8], options: &Options) -> Result<Imported, Vec<Diagnostic>> {
    let model = decode(bytes, &options.limits).map_err(|d| vec![d])?;
    let opset = opset(&model).map_err(|d| vec![d])?;
    let Some(graph) = &model.graph else { return Err(vec![not_onnx("the message holds no graph")]) };
    scopes::functions_once(&model.functions).map_err(|d| vec![d])?;
    let name = options.name.clone().or_else(|| graph.name.clone()).unwrap_or_else(|| "model".into());
    let mut importer = Importer {
        graph: Graph::new(name),
        opset,
        options,
        scope: Scope::default(),
        functions: &model.functions,
        visited: 0,
        names: BTreeMap::new(),
        found: Vec::new(),
        remarks: Vec::new(),
        stored: Stored::default(),
    };
    importer.run(graph);
    if importer.found.is_empty() {
        let producer = model.producer_name.clone().filter(|p| !p.is_empty());
        let producer = producer.map(|p| format!("{p} {}", model.producer_version.as_deref().unwrap_or_default()).trim().to_owned());
        Ok(Imported { graph: importer.graph, opset, producer, external: tensor::external_files(graph), remarks: importer.remarks })
    } else {
        let more = importer.found.len().saturating_sub(limits::DIAGNOSTICS);
        importer.found.truncate(limits::DIAGNOSTICS);
        if more > 0 {
            let last = importer.found.last().map_or(Code::BadGraph, |d| d.code);
            importer.found.push(Diagnostic::new(last, format!("{more} more faults are not shown")));
        }
        Err(importer.found)
    }
}

/// Newest version of the file format that is understood. The fields read here have not changed since the first.
const IR_VERSIONS: i64 = 20;

fn not_onnx(message: &str) -> Diagnostic {
    Diagnostic::new(Code::NotOnnx, message)
}

fn decode(bytes: &[u8], limits: &limits::Limits) -> Result<ModelProto, Diagnostic> {
    if bytes.is_empty() {
        return Err(not_onnx("the file is empty"));
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(not_onnx("the file is a Git LFS pointer, not the model").help("fetch the model itself with `git lfs pull`"));
    }
    let model = ModelProto::decode(bytes).map_err(|e| not_onnx(&format!("the bytes do not decode as an ONNX model: {e}")))?;
    match &model.graph {
        None => Err(not_onnx("the message holds no graph")),
        Some(_) if model.ir_version.is_some_and(|v| !(1..=IR_VERSIONS).contains(&v)) => {
            let version = model.ir_version.unwrap_or_default();
            Err(Diagnostic::new(
                Code::BadGraph,
                format!("the model says that its format has version {version}; 1 to {IR_VERSIONS} are understood"),
            ))
        }
        Some(g) if g.output.len() > limits::PORTS || g.input.len() > limits::PORTS + g.initializer.len() => Err(Diagnostic::new(
            Code::LimitExceeded,
            format!("the graph has {} inputs and {} outputs; the limit is {} each", g.input.len(), g.output.len(), limits::PORTS),
        )),
        Some(g) if g.node.len() > limits.nodes => {
            Err(Diagnostic::new(Code::LimitExceeded, format!("the graph has {} nodes; the limit is {}", g.node.len(), limits.nodes)))
        }
        Some(_) => Ok(model),
    }
}

fn is_default_domain(domain: Option<&str>) -> bool {
    matches!(domain.unwrap_or_default(), "" | "ai.onnx")
}

fn opset(model: &ModelProto) -> Result<i64, Diagnostic> {
    let mut versions = model.opset_import.iter().filter(|o| is_default_domain(o.domain.as_deref())).map(|o| o.version.unwrap_or(0));
    let Some(version) = versions.next() else {
        let uses = |g: &GraphProto| g.node.iter().any(|n| is_default_domain(n.domain.as_deref()));
        if !model.opset_import.is_empty() && model.graph.as_ref().is_some_and(|g| !g.node.is_empty() && !uses(g)) {
            return Ok(NEWEST_OPSET);
        }
        return Err(Diagnostic::new(Code::BadGraph, "the model does not say which version of the operator set it uses")
            .help("export it again, or set `opset_import`"));
    };
    if versions.any(|v| v != version) {
        return Err(Diagnostic::new(Code::BadGraph, "the model names two versions of the default operator set"));
    }
    if !(OLDEST_OPSET..=NEWEST_OPSET).contains(&version) {
        return Err(Diagnostic::new(
            Code::BadGraph,
            format!("the model uses operator set {version}; {OLDEST_OPSET} to {NEWEST_OPSET} are understood"),
        )
        .help("convert it with `onnx.version_converter`, or export it with another `opset_version`"));
    }
    Ok(version)
}

struct Importer<'a> {
    graph: Graph,
    opset: i64,
    options: &'a Options,
    scope: Scope,
    /// Functions the model defines.
    functions: &'a [FunctionProto],
    /// Nodes seen so far, those of unrolled bodies once per round.
    visited: usize,
    /// Names of values inside bodies.
    names: BTreeMap<String, usize>,
    found: Vec<Diagnostic>,
    remarks: Vec<Remark>,
    stored: Stored,
}

/// The names a node may read.
#[derive(Clone, Default)]
struct Scope {
    env: BTreeMap<String, Value>,
    /// Tensors whose definition failed: what reads them is not reported again.
    poisoned: BTreeSet<String>,
    /// Parameters of a function that its caller left out.
    absent: BTreeSet<String>,
    /// How many bodies this one lies in.
    depth: usize,
    /// Put before the names of nodes of a function.
    prefix: String,
}

impl<'a> Importer<'a> {
    fn run(&mut self, proto: &GraphProto) {
        self.constants(proto);
        self.inputs(proto);
        self.nodes(&proto.node);
        self.declared_types(proto);
        self.outputs(proto);
        self.pinned(proto);
    }

    /// A list of nodes in the scope at hand.
    fn nodes(&mut self, nodes: &[NodeProto]) {
        self.visited = self.visited.saturating_add(nodes.len());
        let most = self.options.limits.nodes;
        if self.visited > most {
            self.found.push(Diagnostic::new(Code::LimitExceeded, format!("unrolled, the graph has more than {most} nodes")));
            return;
        }
        self.defined_once(nodes);
        self.unsupported(nodes);
        let produced: BTreeSet<&str> = nodes.iter().flat_map(|n| n.output.iter().map(String::as_str)).filter(|o| !o.is_empty()).collect();
        for (index, node) in nodes.iter().enumerate() {
            self.node(index, node, &produced);
        }
    }

    fn poison(&mut self, node: &NodeProto) {
        self.scope.poisoned.extend(node.output.iter().cloned());
    }

    fn constants(&mut self, proto: &GraphProto) {
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().and_then(|v| v.name.as_deref()).unwrap_or_default();
            self.found
                .push(Diagnostic::new(Code::UnsupportedType, "sparse initializers are not supported").at(format!("initializer {name:?}")));
            self.scope.poisoned.insert(name.into());
        }
        for initializer in &proto.initializer {
            let name = initializer.name.as_deref().unwrap_or_default();
            let place = format!("initializer {name:?}");
            if name.is_empty() {
                self.found.push(Diagnostic::new(Code::BadGraph, "an initializer has no name"));
                continue;
            }
            if self.scope.depth == 0 && (self.scope.env.contains_key(name) || self.scope.poisoned.contains(name)) {
                self.found.push(Diagnostic::new(Code::BadGraph, "is defined twice").at(place));
                continue;
            }
            let read = tensor::read(initializer, self.options).and_then(|t| {
                self.stored.given = self.stored.given.saturating_add(t.ty.bytes());
                let most = self.options.limits.constant_bytes;
                if self.stored.given > most {
                    return Err(Diagnostic::new(Code::LimitExceeded, format!("constants take more than {most} bytes")));
                }
                Ok(t)
            });
            match read {
                Ok(t) => {
                    let v = self.graph.constant(name, t);
                    self.scope.env.insert(name.into(), v);
                    if let Some(narrow) = tensor::narrow_type(initializer) {
                        self.stored.types.insert(v, narrow);
                    }
                }
                Err(d) => {
                    self.found.push(d.at(place));
                    self.scope.poisoned.insert(name.into());
                }
            }
        }
    }

    fn inputs(&mut self, proto: &GraphProto) {
        let mut seen = BTreeSet::new();
        let stored = |t: &'_ TensorProto| Some((t.name.clone()?, t.data_type.unwrap_or(0)));
        let stored: BTreeMap<String, i32> = proto.initializer.iter().filter_map(stored).collect();
        for input in &proto.input {
            let name = input.name.as_deref().unwrap_or_default();
            let place = format!("input {name:?}");
            if name.is_empty() || !seen.insert(name) {
                let message = if name.is_empty() { "an input has no name" } else { "is defined twice" };
                self.found.push(Diagnostic::new(Code::BadGraph, message).at(place));
                continue;
            }
            // Before IR version 4 every initializer had to be listed as an input, too.
            if let Some(&v) = self.scope.env.get(name) {
                if let Err(d) = self.declared(input, v, stored.get(name).copied()) {
                    self.found.push(d.at(place));
                }
                continue;
            }
            if self.scope.poisoned.contains(name) {
                continue;
            }
            let made = match self.options.pins.get(name) {
                Some(numbers) => self.pinned_input(input, numbers).map(|t| self.graph.constant(name, t)),
                None => self.input_type(input).map(|ty| self.graph.input(name, ty)),
            };
            // Whatever reads an input without elements reads a constant.
            let made = made.map(|v| match self.graph.ty(v).clone() {
                ty if ty.dims.contains(&0) => self.graph.constant(name, Tensor::new(ty, Vec::new()).expect("no elements, no bytes")),
                _ => v,
            });
            match made {
                Ok(v) => {
                    if let Some(narrow) = declared_narrow(input) {
                        self.stored.types.insert(v, narrow);
                    }
                    self.scope.env.insert(name.into(), v);
                }
                Err(d) => {
                    self.found.push(d.at(place));
                    self.scope.poisoned.insert(name.into());
                }
            }
        }
    }

    /// An input that the user replaces by a constant.
    fn pinned_input(&self, input: &ValueInfoProto, numbers: &[f64]) -> Result<Tensor, Diagnostic> {
        let ty = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let elem = ty.and_then(|t| t.elem_type).unwrap_or(0);
        let scalar = tensor::scalar(elem)
            .ok_or_else(|| Diagnostic::new(Code::UnsupportedType, format!("has elements of type {}", tensor::type_name(elem))))?;
        let dims = self.input_dims(input)?;
        let count = tensor::count(&dims)?;
        let data: Vec<f64> = match numbers {
            [one] if count <= limits::SHAPE_ELEMENTS => vec![*one; count],
            all if all.len() == count => all.to_vec(),
            all => {
                let message = format!("is pinned to {} numbers, and has {count} elements", all.len());
                return Err(Diagnostic::new(Code::BadOption, message));
            }
        };
        if let Some((lo, hi)) = scalar.range()
            && let Some(bad) = data.iter().find(|x| x.fract() != 0.0 || !(lo..=hi).contains(&(**x as i128)))
        {
            return Err(Diagnostic::new(Code::BadOption, format!("is pinned to {bad}, which is no {}", scalar.name())));
        }
        let bytes: Vec<u8> =
            data.iter().flat_map(|x| Number::Real(*x).bits(scalar).to_le_bytes().into_iter().take(scalar.bytes())).collect();
        Tensor::new(TensorTy::new(dims, scalar), bytes).map_err(Diagnostic::bug)
    }

    fn input_type(&self, input: &ValueInfoProto) -> Result<TensorTy, Diagnostic> {
        let ty = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let outside =
            || Diagnostic::new(Code::UnsupportedType, "is not declared as a tensor; sequences, maps and optional values are out of scope");
        let ty = ty.ok_or_else(outside)?;
        let elem = ty.elem_type.unwrap_or(0);
        if elem == DataType::String as i32 {
            return Err(Diagnostic::new(Code::UnsupportedType, "has elements of type string; texts are out of scope"));
        }
        let scalar = tensor::scalar(elem).or_else(|| Narrow::of(elem).map(Narrow::scalar));
        let scalar =
            scalar.ok_or_else(|| Diagnostic::new(Code::UnsupportedType, format!("has elements of type {}", tensor::type_name(elem))))?;
        let dims = self.input_dims(input)?;
        tensor::within(&dims, self.options)?;
        Ok(TensorTy::new(dims, scalar))
    }

    /// The extents of an input, symbolic ones as the user gave them.
    fn input_dims(&self, input: &ValueInfoProto) -> Result<Vec<usize>, Diagnostic> {
        let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
        let shape = shape.ok_or_else(|| {
            Diagnostic::new(Code::DynamicShape, "has no declared shape").help("export the model with a shape for every input")
        })?;
        let mut dims = Vec::new();
        for (axis, dim) in shape.dim.iter().enumerate() {
            dims.push(match &dim.value {
                Some(Extent::DimValue(d)) => *d,
                Some(Extent::DimParam(p)) if self.options.dims.contains_key(p) => i64::try_from(self.options.dims[p]).unwrap_or(i64::MAX),
                // The first axis counts samples, and compiled code takes one at a time.
                _ if axis == 0 && shape.dim.len() > 1 => 1,
                Some(Extent::DimParam(p)) if !p.is_empty() => {
                    return Err(Diagnostic::new(Code::DynamicShape, format!("has the symbolic dimension {p:?} on axis {axis}"))
                        .help(format!("give it a value with `--dim {p}=N`")));
                }
                _ => {
                    return Err(Diagnostic::new(Code::DynamicShape, format!("has no extent on axis {axis}"))
                        .help("export the model with fixed input shapes"));
                }
            });
        }
        tensor::dimensions(&dims)
            .map_err(|d| Diagnostic { code: if d.code == Code::BadTensor { Code::ShapeMismatch } else { d.code }, ..d })
    }

    /// An initializer that is listed as an input has the type and shape it is listed with.
    fn declared(&self, input: &ValueInfoProto, v: Value, stored: Option<i32>) -> Result<(), Diagnostic> {
        let Some(ty) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else { return Ok(()) };
        let own = self.graph.ty(v);
        if let (Some(elem), Some(stored)) = (ty.elem_type.filter(|e| *e != 0), stored)
            && elem != stored
        {
            let message = format!("is declared as {}, and its initializer is {}", tensor::type_name(elem), tensor::type_name(stored));
            return Err(Diagnostic::new(Code::BadGraph, message));
        }
        let Some(shape) = &ty.shape else { return Ok(()) };
        let fits = shape.dim.len() == own.rank()
            && shape.dim.iter().zip(&own.dims).all(|(d, own)| match &d.value {
                Some(Extent::DimValue(d)) => *d == *own as i64,
                _ => true,
            });
        if fits {
            Ok(())
        } else {
            Err(Diagnostic::new(Code::ShapeMismatch, format!("is declared with another shape than its initializer, {:?}", own.dims)))
        }
    }

    /// Every name has one definition.
    fn defined_once(&mut self, nodes: &[NodeProto]) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                let label = label(index, node, self.opset);
                if let Some(&first) = seen.get(output.as_str()) {
                    let other = self::label(first, &nodes[first], self.opset);
                    self.found.push(Diagnostic::new(Code::BadGraph, format!("defines {output:?}, which {other} defines, too")).at(label));
                } else if self.scope.depth == 0 && self.scope.env.contains_key(output.as_str()) {
                    self.found
                        .push(Diagnostic::new(Code::BadGraph, format!("defines {output:?}, which is an input or initializer")).at(label));
                }
                seen.entry(output).or_insert(index);
            }
        }
    }

    /// Lists all operators this version does not know, before anything is built.
    fn unsupported(&mut self, nodes: &[NodeProto]) {
        for (index, node) in nodes.iter().enumerate() {
            if self.function(node).is_some() || scopes::holds_body(node) {
                continue;
            }
            if let Some(operator) = operator(node) {
                if too_new(operator, node, self.opset) {
                    let message = format!("the operator {} exists from opset {} on", operator.name, operator.since());
                    self.found.push(Diagnostic::new(Code::BadGraph, message).at(label(index, node, self.opset)));
                    self.poison(node);
                }
                continue;
            }
            let (op, domain) = (node.op_type.as_deref().unwrap_or_default(), node.domain.as_deref().unwrap_or_default());
            let mut message = if is_default_domain(Some(domain)) {
                format!("the operator {op} is not supported")
            } else {
                format!("the operator {op} of domain {domain:?} is not supported")
            };
            if let Some(why) = ops::out_of_scope(domain, op) {
                message = format!("{message}: {why}");
            }
            self.found.push(Diagnostic::new(Code::UnsupportedOperator, message).at(label(index, node, self.opset)));
            self.poison(node);
        }
    }

    fn node(&mut self, index: usize, node: &NodeProto, produced: &BTreeSet<&str>) {
        let body = self.function(node).is_some() || scopes::holds_body(node);
        let operator = operator(node).filter(|o| !body && !too_new(o, node, self.opset));
        if operator.is_none() && !body {
            return;
        }
        let label = format!("{}{}", self.scope.prefix, label(index, node, self.opset));
        if self.found.len() > limits::DIAGNOSTICS {
            return;
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut sound = true;
        for name in &node.input {
            match self.scope.env.get(name.as_str()) {
                _ if name.is_empty() || self.scope.absent.contains(name) => inputs.push(None),
                Some(v) => inputs.push(Some(*v)),
                None => {
                    sound = false;
                    if self.scope.poisoned.contains(name.as_str()) {
                    } else if produced.contains(name.as_str()) {
                        let message = format!("reads {name:?}, which this node or a later one defines");
                        self.found.push(Diagnostic::new(Code::Cycle, message).at(&label));
                    } else {
                        let message = format!("reads {name:?}, which nothing defines");
                        self.found.push(Diagnostic::new(Code::MissingValue, message).at(&label));
                    }
                }
            }
        }
        // Optional operands that are left out at the end are the same as absent ones.
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        if node.output.iter().all(String::is_empty) {
            self.found.push(Diagnostic::new(Code::BadGraph, "has no result").at(&label));
            sound = false;
        }
        let built = match operator {
            _ if !sound => Err(None),
            Some(operator) => self.build(operator, &label, node, inputs, index),
            None => self.body(&label, node, &inputs),
        };
        match built {
            Ok(values) => {
                for (slot, name) in node.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
                    let Some(&v) = values.get(slot) else {
                        self.found.push(
                            Diagnostic::new(Code::UnsupportedForm, format!("its result {slot} ({name:?}) is not supported")).at(&label),
                        );
                        self.scope.poisoned.insert(name.clone());
                        continue;
                    };
                    if self.graph.values[v].name.is_empty() {
                        // A body gives its names every time it is copied: the first copy as they are.
                        let copies = self.names.entry(name.clone()).or_insert(0);
                        *copies += usize::from(self.scope.depth > 0);
                        let again = self.scope.depth > 0 && *copies > 1;
                        self.graph.values[v].name = if again { format!("{name}@{copies}") } else { name.clone() };
                    }
                    if self.scope.depth > 0 {
                        self.scope.env.insert(name.clone(), v);
                    } else {
                        self.scope.env.entry(name.clone()).or_insert(v);
                    }
                }
            }
            Err(why) => {
                self.found.extend(why);
                self.poison(node);
            }
        }
    }

    /// What a builder sees of a node.
    fn context<'c>(&'c mut self, label: &'c str, node: &'c NodeProto, inputs: Vec<Option<Value>>, index: usize) -> NodeCx<'c> {
        let source = match (node.name.as_deref(), node.output.iter().find(|o| !o.is_empty())) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(output)) => output.clone(),
            _ => format!("{}#{index}", node.op_type.as_deref().unwrap_or("node")),
        };
        NodeCx {
            g: &mut self.graph,
            opset: self.opset,
            label,
            inputs,
            options: self.options,
            remarks: &mut self.remarks,
            stored: &mut self.stored,
            proto: node,
            origin: Origin::new(format!("{}{source}", self.scope.prefix)),
        }
    }

    fn build(
        &mut self,
        operator: &Operator,
        label: &str,
        node: &NodeProto,
        inputs: Vec<Option<Value>>,
        index: usize,
    ) -> Result<Vec<Value>, Option<Diagnostic>> {
        let old = self.opset < legacy::UNDERSTOOD && is_default_domain(node.domain.as_deref());
        let modern = old.then(|| legacy::modern(node, self.opset));
        let mut cx = self.context(label, modern.as_ref().unwrap_or(node), inputs, index);
        let known: Vec<&str> =
            operator.attributes.iter().chain(if old { legacy::attributes(operator.name) } else { &[] }).copied().collect();
        cx.only(&known)?;
        if old {
            legacy::adapt(&mut cx, operator.name)?;
        }
        let narrow = cx.optional(0).and_then(|v| cx.stored.types.get(&v).copied());
        if let Some(s) = (0..cx.inputs.len()).find_map(|i| cx.small(cx.optional(i)?)).filter(|_| !operator.takes_codes()) {
            let message = format!("computes on {}, which is only cast, moved and scaled", s.name());
            return Err(Some(cx.err(Code::UnsupportedType, message)));
        }
        let built = built(&mut cx, operator)?;
        if let Some(narrow) = narrow.filter(|_| operator.moves()) {
            cx.stored.types.extend(built.iter().map(|v| (*v, narrow)));
        }
        Ok(built)
    }

    fn outputs(&mut self, proto: &GraphProto) {
        if proto.output.is_empty() {
            self.found.push(Diagnostic::new(Code::BadGraph, "the graph has no output"));
        }
        let mut seen = BTreeSet::new();
        for output in &proto.output {
            let name = output.name.as_deref().unwrap_or_default();
            let place = format!("output {name:?}");
            if !seen.insert(name) {
                self.found.push(Diagnostic::new(Code::BadGraph, "is listed twice").at(place));
                continue;
            }
            let Some(&v) = self.scope.env.get(name) else {
                if !self.scope.poisoned.contains(name) {
                    self.found.push(Diagnostic::new(Code::MissingValue, "is not defined by any node").at(place));
                }
                continue;
            };
            let v = self.plain_output(name, v);
            let computed = self.graph.ty(v).clone();
            let declared = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.elem_type).unwrap_or(0);
            let supported = match &computed.elem {
                Elem::Scalar(_) => true,
                Elem::Quant(q) => q.storage().bits() == 8 && q.tensor_params().is_some(),
            };
            let narrow = self.stored.types.get(&v).copied();
            let agree = match &computed.elem {
                _ if declared == 0 => true,
                Elem::Scalar(_) if narrow.is_some() => Narrow::of(declared) == narrow,
                Elem::Scalar(s) => tensor::scalar(declared) == Some(*s),
                Elem::Quant(q) => tensor::integer_storage(declared) == Some(q.storage()),
            };
            if !supported || !agree {
                let message = if supported {
                    format!("is declared as {}, computed {}", tensor::type_name(declared), computed.elem)
                } else {
                    format!("has elements of type {}; outputs have to be plain numbers or quantized to 8 bits", computed.elem)
                };
                self.found.push(Diagnostic::new(Code::UnsupportedType, message).at(place));
                continue;
            }
            let declared = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
            let fits = declared.is_none_or(|shape| {
                shape.dim.len() == computed.rank()
                    && shape.dim.iter().zip(&computed.dims).all(|(d, c)| match &d.value {
                        Some(Extent::DimValue(d)) => *d == *c as i64,
                        _ => true,
                    })
            });
            if fits {
                self.graph.output(name, v);
            } else {
                let shown: Vec<String> = declared
                    .into_iter()
                    .flat_map(|s| &s.dim)
                    .map(|d| match &d.value {
                        Some(Extent::DimValue(d)) => d.to_string(),
                        Some(Extent::DimParam(p)) => p.clone(),
                        None => "?".into(),
                    })
                    .collect();
                let message = format!("is declared as {}, computed {}", shown.join("x"), quernel_ir::infer::show(&computed.dims));
                self.found.push(Diagnostic::new(Code::ShapeMismatch, message).at(place));
            }
        }
    }

    /// Stored integers of other than 8 bits as plain ones.
    fn plain_output(&mut self, name: &str, v: Value) -> Value {
        let ty = self.graph.ty(v).clone();
        let Some(storage) = ty.elem.quant().filter(|q| q.tensor_params().is_some()).map(|q| q.storage()) else { return v };
        if storage.bits() == 8 || storage.bits() == 32 {
            return v;
        }
        let y = self.graph.push(Op::Bitcast, &[v], ty.with_elem(storage.held()), Origin::new(name.to_owned()));
        if storage.bits() < 8 {
            self.stored.types.insert(y, Narrow::Integer(storage));
        }
        y
    }

    /// What the file says of the types of tensors in between.
    fn declared_types(&mut self, proto: &GraphProto) {
        for info in &proto.value_info {
            let name = info.name.as_deref().unwrap_or_default();
            let elem = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.elem_type).unwrap_or(0);
            let Some(&v) = self.scope.env.get(name).filter(|_| elem != 0) else { continue };
            if let Elem::Scalar(own) = self.graph.ty(v).elem
                && !self.stored.types.get(&v).is_some_and(|n| Narrow::of(elem) == Some(*n))
                && tensor::scalar(elem).is_none_or(|declared| declared != own)
            {
                let message = format!("is declared as {}, computed {}", tensor::type_name(elem), own.name());
                self.found.push(Diagnostic::new(Code::BadGraph, message).at(format!("tensor {name:?}")));
            }
        }
    }

    /// A `--dim` or `--pin` that names nothing is a typing error worth a word.
    fn pinned(&mut self, proto: &GraphProto) {
        let inputs: Vec<&str> = proto.input.iter().filter_map(|i| i.name.as_deref()).collect();
        for name in self.options.pins.keys().filter(|n| !inputs.contains(&n.as_str())) {
            let help = format!("its inputs are {}", inputs.join(", "));
            self.found.push(Diagnostic::new(Code::BadOption, format!("the model has no input {name:?} to pin")).help(help));
        }
        let dims = proto.input.iter().filter_map(|i| i.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()).flat_map(|s| &s.dim);
        let known: BTreeSet<&str> = dims
            .filter_map(|d| if let Some(Extent::DimParam(p)) = &d.value { Some(p.as_str()) } else { None })
            .filter(|p| !p.is_empty())
            .collect();
        for (name, &extent) in &self.options.dims {
            if !known.contains(name.as_str()) {
                let names: Vec<&str> = known.iter().copied().collect();
                let help = if names.is_empty() { "the model has none".into() } else { format!("it has {}", names.join(", ")) };
                self.found.push(Diagnostic::new(Code::BadOption, format!("no input has a symbolic dimension {name:?}")).help(help));
            } else if extent == 0 {
                self.found.push(Diagnostic::new(Code::BadOption, format!("the dimension {name:?} cannot be 0")));
            }
        }
    }
}

/// The narrow type an input is declared with.
fn declared_narrow(input: &ValueInfoProto) -> Option<Narrow> {
    Narrow::of(input.r#type.as_ref()?.tensor_type.as_ref()?.elem_type?)
}

/// Results of a node whose attributes were checked.
fn built(cx: &mut NodeCx<'_>, operator: &Operator) -> Result<Vec<Value>, Option<Diagnostic>> {
    if let Some(tensor) = integers::evaluate(cx, operator.name)? {
        let name = cx.proto.output.first().cloned().unwrap_or_default();
        return Ok(vec![cx.g.constant(name, tensor)]);
    }
    // Other operators read stored integers without their scale.
    for i in 0..cx.inputs.len() {
        let stored = cx.inputs[i].and_then(|v| cx.g.ty(v).elem.quant().map(|q| (v, q.storage())));
        if let Some((v, storage)) = stored.filter(|_| !operator.takes_integers()) {
            cx.inputs[i] = Some(cx.push_as(Op::Bitcast, &[v], storage.held().into()).map_err(Some)?);
        }
    }
    precision::build(cx, operator).map_err(Some)
}

/// Whether the operator set of the model does not have the operator yet.
fn too_new(operator: &Operator, node: &NodeProto, opset: i64) -> bool {
    is_default_domain(node.domain.as_deref()) && operator.since() > opset
}

fn operator(node: &NodeProto) -> Option<&'static Operator> {
    ops::find(node.domain.as_deref().unwrap_or_default(), node.op_type.as_deref()?)
}

/// `node "/stem/Conv" (Conv, opset 17)`; nodes without a name are known by number and result.
fn label(index: usize, node: &NodeProto, opset: i64) -> String {
    let op = node.op_type.as_deref().unwrap_or("?");
    match (node.name.as_deref(), node.output.first()) {
        (Some(name), _) if !name.is_empty() => format!("node {name:?} ({op}, opset {opset})"),
        (_, Some(output)) => format!("node {index} that defines {output:?} ({op}, opset {opset})"),
        _ => format!("node {index} ({op}, opset {opset})"),
    }
}
