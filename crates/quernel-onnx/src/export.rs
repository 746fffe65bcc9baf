//! A graph as an ONNX model, for other runtimes to check and for training to start from.
//!
//! Every operator is written in floats; integers appear as `QuantizeLinear` and `DequantizeLinear` around it, which is how
//! ONNX says that it may be computed in integers. A value of a quantized type exists under up to three names: the float
//! result of its operator, its integers (`.q`), and the numbers they mean (`.dq`).

mod messages;
mod ops;

use crate::generated::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto, tensor_proto::DataType};
use messages::{attribute, element_type, node, port, tensor};
use prost::Message;
use quernel_ir::{Code, Diagnostic, Elem, Graph, Node, Op, Quant, Scheme, Storage, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The operator set of exported models.
pub const EXPORTED_OPSET: i64 = 21;
/// The version of the file format that this operator set came with.
const IR_VERSION: i64 = 10;

/// Writes a graph of any stage. `floats` holds float weights that are written in place of rounded constants, followed by their
/// rounding, by the dequantized value.
///
/// # Errors
/// Operators without a counterpart in ONNX.
pub fn export(g: &Graph, floats: &BTreeMap<Value, Tensor>) -> Result<Vec<u8>, Diagnostic> {
    let mut w =
        Writer { g, floats, out: GraphProto::default(), taken: BTreeSet::new(), names: BTreeMap::new(), reals: BTreeMap::new(), at: None };
    w.taken.extend(g.outputs.iter().map(|(name, _)| name.clone()));
    for &v in &g.inputs {
        let name = g.values[v].name.clone();
        w.taken.insert(name.clone());
        w.out.input.push(w.port(&name, v)?);
        w.names.insert(v, name);
    }
    for &n in &g.order {
        w.at = Some(n);
        w.node(n)?;
    }
    w.at = None;
    for (name, v) in &g.outputs {
        w.output(name, *v)?;
    }
    w.out.name = Some(g.name.clone());
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("quernel".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(w.out),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(EXPORTED_OPSET) }],
        functions: Vec::new(),
    };
    Ok(model.encode_to_vec())
}

struct Writer<'a> {
    g: &'a Graph,
    floats: &'a BTreeMap<Value, Tensor>,
    out: GraphProto,
    taken: BTreeSet<String>,
    /// Tensors that hold a value as it is: numbers, or integers of a quantized type.
    names: BTreeMap<Value, String>,
    /// Tensors that hold the numbers a quantized value means.
    reals: BTreeMap<Value, String>,
    /// The node at hand.
    at: Option<Node>,
}

impl<'a> Writer<'a> {
    fn unsupported(&self, what: impl std::fmt::Display) -> Diagnostic {
        let d = Diagnostic::new(Code::UnsupportedForm, format!("{what} has no counterpart in ONNX operator set {EXPORTED_OPSET}"));
        match self.at {
            Some(n) => d.at(self.g.describe(n)),
            None => d,
        }
    }

    /// A name that nothing has yet.
    fn fresh(&mut self, base: &str) -> String {
        let base = if base.is_empty() { "t" } else { base };
        let mut name = base.to_owned();
        let mut n = 1;
        while !self.taken.insert(name.clone()) {
            name = format!("{base}.{n}");
            n += 1;
        }
        name
    }

    /// The name a value has in the model it came from, else that of its node.
    fn base(&self, v: Value) -> String {
        let name = &self.g.values[v].name;
        match self.g.producer(v) {
            Some(n) if name.is_empty() => self.g.nodes[n].origin.names().last().cloned().unwrap_or_default(),
            _ => name.clone(),
        }
    }

    /// Adds a node with one result called `result`.
    fn push(&mut self, op: &str, inputs: Vec<String>, result: &str, attributes: Vec<crate::generated::AttributeProto>) {
        let mut n: NodeProto = node(op, inputs, result);
        n.attribute = attributes;
        self.out.node.push(n);
    }

    /// Adds a node with a new result.
    fn emit(&mut self, op: &str, inputs: Vec<String>, base: &str, attributes: Vec<crate::generated::AttributeProto>) -> String {
        let result = self.fresh(base);
        self.push(op, inputs, &result, attributes);
        result
    }

    fn initializer(&mut self, base: &str, kind: DataType, dims: &[usize], bytes: Vec<u8>) -> String {
        let name = self.fresh(base);
        self.out.initializer.push(tensor(&name, kind, dims, bytes));
        name
    }
    fn float_constant(&mut self, base: &str, dims: &[usize], data: &[f32]) -> String {
        self.initializer(base, DataType::Float, dims, data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }
    fn int_constant(&mut self, base: &str, data: &[i64]) -> String {
        self.initializer(base, DataType::Int64, &[data.len()], data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn port(&self, name: &str, v: Value) -> Result<ValueInfoProto, Diagnostic> {
        let ty = self.g.ty(v);
        let kind = match &ty.elem {
            Elem::Scalar(s) => Some(messages::scalar_type(*s)),
            Elem::Quant(q) => element_type(q.storage()),
        };
        kind.map(|kind| port(name, kind, &ty.dims)).ok_or_else(|| self.unsupported(format_args!("a port of type {}", ty.elem)))
    }

    /// The tensor that holds `v` as it is. Constants are written when they are first read.
    fn plain(&mut self, v: Value) -> Result<String, Diagnostic> {
        if let Some(name) = self.names.get(&v) {
            return Ok(name.clone());
        }
        let g = self.g;
        let t = g.tensor(v).ok_or_else(|| Diagnostic::bug(format!("{v} is read before it is written")))?;
        let base = g.values[v].name.clone();
        let name = match &t.ty.elem {
            Elem::Scalar(s) => self.initializer(&base, messages::scalar_type(*s), &t.ty.dims, t.bytes().to_vec()),
            Elem::Quant(q) => {
                let (storage, codes) = stored(q, t);
                let kind = element_type(storage).ok_or_else(|| self.unsupported(format_args!("a constant of type {}", t.ty.elem)))?;
                self.initializer(&base, kind, &t.ty.dims, messages::packed(storage, &codes))
            }
        };
        self.names.insert(v, name.clone());
        Ok(name)
    }

    /// The tensor that holds the numbers `v` means.
    fn real(&mut self, v: Value) -> Result<String, Diagnostic> {
        let g = self.g;
        let Some(q) = g.ty(v).elem.quant() else { return self.plain(v) };
        if let Some(name) = self.reals.get(&v) {
            return Ok(name.clone());
        }
        let stored = self.plain(v)?;
        let base = format!("{}.dq", self.base(v));
        let storage = constant_storage(q, g.tensor(v));
        let name = self.dequantize(stored, &base, q, storage)?;
        self.reals.insert(v, name.clone());
        Ok(name)
    }

    /// Scale and zero point of a quantized type as operands, and the axis of several scales.
    fn parameters(&mut self, base: &str, q: &Quant, storage: Storage) -> Result<(Vec<String>, Option<usize>), Diagnostic> {
        let kind = element_type(storage).ok_or_else(|| self.unsupported(format_args!("a type of {} bits", storage.bits())))?;
        let (scales, zero, axis) = match q.scheme() {
            Scheme::PerTensor { scale, zero_point } => (vec![*scale], *zero_point, None),
            Scheme::PerAxis { axis, scales } | Scheme::Table { axis, scales, .. } => (scales.to_vec(), 0, Some(usize::from(*axis))),
            Scheme::Grouped { .. } => {
                return Err(self.unsupported("weights with several scales in a row").help("export without `--group`"));
            }
        };
        let dims: Vec<usize> = axis.map(|_| scales.len()).into_iter().collect();
        let scale = self.float_constant(&format!("{base}.scale"), &dims, &scales);
        let mut operands = vec![scale];
        // A bias of 32 bits has none.
        if storage.bits() <= 16 {
            let zeros = vec![i64::from(zero); scales.len()];
            operands.push(self.initializer(&format!("{base}.zero"), kind, &dims, messages::packed(storage, &zeros)));
        }
        Ok((operands, axis))
    }

    fn dequantize(&mut self, stored: String, base: &str, q: &Quant, storage: Storage) -> Result<String, Diagnostic> {
        let (parameters, axis) = self.parameters(base, q, storage)?;
        let attributes = axis.map(|a| attribute("axis", a as i64)).into_iter().collect();
        Ok(self.emit("DequantizeLinear", [vec![stored], parameters].concat(), base, attributes))
    }

    /// Rounds the numbers called `x`: first to the range of the type, where that of its elements in ONNX is wider.
    fn quantize(&mut self, x: String, result: &str, q: &Quant) -> Result<(), Diagnostic> {
        let (scale, zero) = q.tensor_params().ok_or_else(|| self.unsupported("an activation with one scale per channel"))?;
        let storage = q.storage();
        let mut x = x;
        let kept = element_type(storage).map(messages::range_of);
        if kept.is_some_and(|(lo, hi)| i64::from(q.min()) > lo || i64::from(q.max()) < hi) {
            let (lo, hi) = ((q.min() - zero) as f32 * scale, (q.max() - zero) as f32 * scale);
            x = self.clip(x, lo, hi, &format!("{result}.clip"));
        }
        let (parameters, _) = self.parameters(result, q, storage)?;
        self.push("QuantizeLinear", [vec![x], parameters].concat(), result, Vec::new());
        Ok(())
    }

    /// `min(max(x, lo), hi)`; infinite bounds are left out.
    fn clip(&mut self, x: String, lo: f32, hi: f32, base: &str) -> String {
        if lo == 0.0 && hi == f32::INFINITY {
            return self.emit("Relu", vec![x], base, Vec::new());
        }
        let mut bound =
            |b: f32, name: &str| if b.is_finite() { self.float_constant(&format!("{base}.{name}"), &[], &[b]) } else { String::new() };
        let (lo, hi) = (bound(lo, "low"), bound(hi, "high"));
        let inputs = if hi.is_empty() { vec![x, lo] } else { vec![x, lo, hi] };
        self.emit("Clip", inputs, base, Vec::new())
    }

    fn node(&mut self, n: Node) -> Result<(), Diagnostic> {
        let g = self.g;
        let data = &g.nodes[n];
        let r = data.result();
        let base = self.base(r);
        if data.op == Op::Dequantize {
            let name = match self.floats.get(&r) {
                Some(float) => self.rounded_weights(data.args[0], &float.clone(), &base)?,
                None => self.real(data.args[0])?,
            };
            self.names.insert(r, name);
            return Ok(());
        }
        let real = match data.op {
            Op::Quantize | Op::Requantize => self.real(data.args[0])?,
            _ => self.operator(n, &base)?,
        };
        let Some(q) = g.ty(r).elem.quant() else {
            self.names.insert(r, real);
            return Ok(());
        };
        let stored = self.fresh(&format!("{base}.q"));
        self.quantize(real, &stored, q)?;
        self.names.insert(r, stored);
        Ok(())
    }

    /// Float weights and their rounding to the type of the constant `q`.
    fn rounded_weights(&mut self, q: Value, float: &Tensor, base: &str) -> Result<String, Diagnostic> {
        let g = self.g;
        let quant = g.ty(q).elem.quant().ok_or_else(|| Diagnostic::bug("rounded weights without a type"))?;
        if matches!(quant.scheme(), Scheme::Table { .. }) {
            return Err(self.unsupported("a rounding to a table of weights").help("a fake-quantized model has linear weights"));
        }
        let data = float.to_f32().ok_or_else(|| Diagnostic::bug("float weights that are none"))?;
        let mut x = self.float_constant(&g.values[q].name.clone(), &float.ty.dims, &data);
        let storage = quant.storage();
        let kind = element_type(storage).ok_or_else(|| self.unsupported(format_args!("weights of {} bits", storage.bits())))?;
        let (lo, hi) = messages::range_of(kind);
        // One bound per channel, where the elements of the ONNX type reach further than the weights.
        if i64::from(quant.min()) > lo || i64::from(quant.max()) < hi {
            let axis = quant.axis().unwrap_or(0);
            let mut dims = vec![1; float.ty.rank()];
            dims[axis] = if quant.axis().is_some() { float.ty.dims[axis] } else { 1 };
            for (op, level) in [("Max", quant.min()), ("Min", quant.max())] {
                let bounds: Vec<f32> = (0..dims[axis]).map(|c| quant.scale_at(c) * quant.centered(level) as f32).collect();
                let bound = self.float_constant(&format!("{base}.{}", op.to_lowercase()), &dims, &bounds);
                x = self.emit(op, vec![x, bound], base, Vec::new());
            }
        }
        let (parameters, axis) = self.parameters(base, quant, storage)?;
        let attributes: Vec<_> = axis.map(|a| attribute("axis", a as i64)).into_iter().collect();
        let stored = self.emit("QuantizeLinear", [vec![x], parameters.clone()].concat(), &format!("{base}.q"), attributes.clone());
        Ok(self.emit("DequantizeLinear", [vec![stored], parameters].concat(), &format!("{base}.dq"), attributes))
    }

    /// An output has a name that is given; a value may be several outputs.
    fn output(&mut self, name: &str, v: Value) -> Result<(), Diagnostic> {
        let own = self.plain(v)?;
        if own != name {
            self.push("Identity", vec![own], name, Vec::new());
        }
        let port = self.port(name, v)?;
        self.out.output.push(port);
        Ok(())
    }
}

/// The integers a constant is written as: table entries in place of codes, in the narrowest type that ONNX has.
fn stored(q: &Quant, t: &Tensor) -> (Storage, Vec<i64>) {
    let codes = t.to_ints().unwrap_or_default();
    match q.scheme() {
        Scheme::Table { .. } => (constant_storage(q, Some(t)), codes.iter().map(|c| i64::from(q.centered(*c as i32))).collect()),
        _ => (q.storage(), codes),
    }
}

fn constant_storage(q: &Quant, t: Option<&Tensor>) -> Storage {
    match (q.scheme(), t) {
        (Scheme::Table { table, .. }, Some(_)) => {
            let bits = if table.iter().all(|w| (-8..8).contains(w)) { 4 } else { 8 };
            Storage::new(bits, true).unwrap_or(Storage::I8)
        }
        _ => q.storage(),
    }
}
