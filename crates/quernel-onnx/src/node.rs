//! What a builder of an operator sees of its node: operands, attributes, and ways to add IR nodes.

use crate::{
    Options, empty,
    generated::{AttributeProto, NodeProto},
    known, limits,
    narrow::{Narrow, Small},
    tensor,
};
use quernel_ir::{Code, Diagnostic, Elem, Graph, Op, Origin, Scalar, Tensor, TensorTy, Value, diag::Remark, infer, plain::Number, verify};
use std::collections::BTreeMap;

/// A node in the course of import.
pub struct NodeCx<'a> {
    /// The graph so far.
    pub g: &'a mut Graph,
    /// Version of the operator set the node belongs to.
    pub opset: i64,
    /// Its place for diagnostics.
    pub label: &'a str,
    /// Operands; `None` where an optional one is left out.
    pub inputs: Vec<Option<Value>>,
    pub options: &'a Options,
    pub remarks: &'a mut Vec<Remark>,
    pub(crate) stored: &'a mut Stored,
    pub(crate) proto: &'a NodeProto,
    pub(crate) origin: Origin,
}

/// What import keeps about integer tensors beside the graph.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// Element types that the IR does not have.
    pub types: BTreeMap<Value, Narrow>,
    /// The f32 behind a float of another width.
    pub wide: BTreeMap<Value, Value>,
    /// Bytes of constants of the file.
    pub given: usize,
    /// Bytes of constants that were made from others.
    pub made: usize,
}

pub type Built = Result<Vec<Value>, Diagnostic>;

impl NodeCx<'_> {
    /// A diagnostic at this node.
    pub fn err(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(code, message).at(self.label)
    }
    pub fn unsupported(&self, message: impl Into<String>) -> Diagnostic {
        self.err(Code::UnsupportedForm, message)
    }
    pub fn bad_attribute(&self, message: impl Into<String>) -> Diagnostic {
        self.err(Code::BadAttribute, message)
    }
    pub fn remark(&mut self, message: impl Into<String>) {
        self.remarks.push(Remark { by: "import".into(), at: self.label.into(), message: message.into() });
    }

    /// Counts bytes of a constant that is made from another; many nodes may read one initializer.
    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), Diagnostic> {
        self.stored.made = self.stored.made.saturating_add(bytes);
        let most = self.options.limits.made_bytes.saturating_add(limits::MADE_PER_GIVEN.saturating_mul(self.stored.given));
        if self.stored.made <= most {
            return Ok(());
        }
        Err(self.err(Code::LimitExceeded, format!("constants made from others take more than {most} bytes")))
    }
    /// The element type of a tensor attribute, where the IR does not have it.
    pub fn narrow(&self, name: &str) -> Option<Narrow> {
        tensor::narrow_type(self.attribute(name)?.t.as_ref()?)
    }
    /// The type of the floats whose codes the value holds.
    pub fn small(&self, v: Value) -> Option<Small> {
        match self.stored.types.get(&v) {
            Some(Narrow::Float(s)) => Some(*s),
            _ => None,
        }
    }

    /// Checks the number of operands.
    pub fn arity(&self, least: usize, most: usize) -> Result<(), Diagnostic> {
        let n = self.inputs.len();
        if !(least..=most).contains(&n) {
            return Err(self.err(Code::BadGraph, format!("takes {least} to {most} operands, not {n}")));
        }
        match self.inputs[..least].iter().position(Option::is_none) {
            Some(i) => Err(self.err(Code::BadGraph, format!("operand {i} is left out, but required"))),
            None => Ok(()),
        }
    }
    /// Operand `i`, which [`Self::arity`] found present.
    pub fn arg(&self, i: usize) -> Result<Value, Diagnostic> {
        self.optional(i).ok_or_else(|| self.err(Code::BadGraph, format!("operand {i} is left out, but required")))
    }
    pub fn optional(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }
    pub fn dims(&self, v: Value) -> Vec<usize> {
        self.g.ty(v).dims.clone()
    }

    /// The integers of a constant operand; `None` when it is left out.
    pub fn const_ints(&self, i: usize) -> Result<Option<Vec<i64>>, Diagnostic> {
        let Some(v) = self.optional(i) else { return Ok(None) };
        let tensor = self.constant(i, v)?;
        if tensor.ty.rank() > 1 {
            return Err(self.err(Code::ShapeMismatch, format!("operand {i} is a list of integers and has rank {}", tensor.ty.rank())));
        }
        match tensor.to_ints() {
            Some(ints) if ints.len() <= limits::SHAPE_ELEMENTS => Ok(Some(ints)),
            Some(ints) => Err(self.err(Code::LimitExceeded, format!("operand {i} has {} elements", ints.len()))),
            None => Err(self.err(Code::UnsupportedType, format!("operand {i} has to be of an integer type"))),
        }
    }
    /// The one f32 of a constant operand; `None` when it is left out.
    pub fn const_f32(&self, i: usize) -> Result<Option<f32>, Diagnostic> {
        let Some(v) = self.optional(i) else { return Ok(None) };
        match self.constant(i, v)?.to_f32().as_deref() {
            Some(&[x]) => Ok(Some(x)),
            Some(x) => Err(self.err(Code::ShapeMismatch, format!("operand {i} has {} elements instead of 1", x.len()))),
            None => Err(self.err(Code::UnsupportedType, format!("operand {i} has to be float"))),
        }
    }
    fn constant(&self, i: usize, v: Value) -> Result<&Tensor, Diagnostic> {
        self.g.tensor(v).ok_or_else(|| self.unsupported(format!("operand {i} ({:?}) has to be a constant", self.g.values[v].name)))
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.proto.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }
    /// `has` tells whether the field that the accessor reads is filled; `kind` is the number of the type ONNX declares.
    fn typed(&self, name: &str, kind: i32, what: &str) -> Result<Option<&AttributeProto>, Diagnostic> {
        let Some(a) = self.attribute(name) else { return Ok(None) };
        if a.ref_attr_name.as_ref().is_some_and(|r| !r.is_empty()) {
            return Err(self.unsupported(format!("attribute `{name}` refers to an attribute of a function")));
        }
        match a.r#type {
            None | Some(0) => Ok(Some(a)),
            Some(k) if k == kind => Ok(Some(a)),
            Some(_) => Err(self.bad_attribute(format!("attribute `{name}` is not {what}"))),
        }
    }
    pub fn int(&self, name: &str) -> Result<Option<i64>, Diagnostic> {
        let Some(a) = self.typed(name, 2, "an integer")? else { return Ok(None) };
        Ok(Some(a.i.unwrap_or(0)))
    }
    /// An attribute that is 0 or 1.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Diagnostic> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(x) => Err(self.bad_attribute(format!("attribute `{name}` is {x} instead of 0 or 1"))),
        }
    }
    pub fn float(&self, name: &str, default: f32) -> Result<f32, Diagnostic> {
        let x = self.typed(name, 1, "a float")?.map_or(default, |a| a.f.unwrap_or(0.0));
        if x.is_nan() { Err(self.bad_attribute(format!("attribute `{name}` is not a number"))) } else { Ok(x) }
    }
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Diagnostic> {
        let Some(a) = self.typed(name, 7, "a list of integers")? else { return Ok(None) };
        if a.ints.len() > limits::SHAPE_ELEMENTS {
            return Err(self.err(Code::LimitExceeded, format!("attribute `{name}` has {} elements", a.ints.len())));
        }
        Ok(Some(a.ints.clone()))
    }
    pub fn text(&self, name: &str) -> Result<Option<String>, Diagnostic> {
        let Some(a) = self.typed(name, 3, "a string")? else { return Ok(None) };
        let bytes = a.s.clone().unwrap_or_default();
        String::from_utf8(bytes).map(Some).map_err(|_| self.bad_attribute(format!("attribute `{name}` is not UTF-8")))
    }
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, Diagnostic> {
        let Some(a) = self.typed(name, 4, "a tensor")? else { return Ok(None) };
        let proto = a.t.as_ref().ok_or_else(|| self.bad_attribute(format!("attribute `{name}` holds no tensor")))?;
        tensor::read(proto, self.options)
            .map(Some)
            .map_err(|d| Diagnostic { message: format!("attribute `{name}` {}", d.message), ..d }.at(self.label))
    }
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Diagnostic> {
        Ok(self.typed(name, 6, "a list of floats")?.map(|a| a.floats.clone()))
    }
    /// A list of strings.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        let Some(a) = self.typed(name, 8, "a list of strings")? else { return Ok(None) };
        let texts: Result<Vec<String>, _> = a.strings.iter().map(|s| String::from_utf8(s.clone())).collect();
        texts.map(Some).map_err(|_| self.bad_attribute(format!("attribute `{name}` is not UTF-8")))
    }
    pub fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }
    /// Refuses attributes that the operator does not have: their meaning would be lost silently.
    pub fn only(&self, known: &[&str]) -> Result<(), Diagnostic> {
        for (i, a) in self.proto.attribute.iter().enumerate() {
            let name = a.name.as_deref().unwrap_or_default();
            if !known.contains(&name) {
                return Err(self.unsupported(format!("attribute `{name}` is not known")));
            }
            if self.proto.attribute[..i].iter().any(|b| b.name == a.name) {
                return Err(self.bad_attribute(format!("attribute `{name}` is given twice")));
            }
        }
        Ok(())
    }

    /// An axis of `rank` axes; negative ones count from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Diagnostic> {
        let r = rank as i64;
        if (-r..r).contains(&axis) {
            Ok(axis.rem_euclid(r) as usize)
        } else {
            Err(self.bad_attribute(format!("axis {axis} does not exist in a tensor of rank {rank}")))
        }
    }
    /// Sorted, distinct axes.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Diagnostic> {
        let mut found = axes.iter().map(|&a| self.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        if found.windows(2).any(|w| w[0] == w[1]) {
            return Err(self.bad_attribute(format!("axes {axes:?} name one axis twice")));
        }
        Ok(found)
    }

    /// Adds a node whose result has the element type of its first operand.
    pub fn push(&mut self, op: Op, args: &[Value]) -> Result<Value, Diagnostic> {
        let elem = self.g.ty(args[0]).elem.clone();
        self.push_as(op, args, elem)
    }
    /// Adds a node with a result of element type `elem`.
    pub fn push_as(&mut self, op: Op, args: &[Value], elem: Elem) -> Result<Value, Diagnostic> {
        let most = self.options.limits.nodes;
        if self.g.order.len() >= most {
            return Err(self.err(Code::LimitExceeded, format!("the graph needs more than {most} nodes in all")));
        }
        let types: Vec<&TensorTy> = args.iter().map(|&a| self.g.ty(a)).collect();
        let dims = infer::dims(&op, &types).map_err(|e| self.err(Code::ShapeMismatch, e))?;
        if dims.len() > limits::RANK {
            return Err(self.err(Code::LimitExceeded, format!("the result has {} axes; the limit is {}", dims.len(), limits::RANK)));
        }
        tensor::within(&dims, self.options).map_err(|d| d.at(self.label))?;
        let ty = TensorTy::new(dims, elem);
        verify::elements(&op, &types, &ty).map_err(|e| self.err(Code::UnsupportedType, e))?;
        if let Some(made) = empty::evaluate(&op, &types, &ty) {
            self.take_bytes(ty.bytes())?;
            return Ok(self.g.constant("", made));
        }
        let constants: Option<Vec<&Tensor>> = args.iter().map(|&a| self.g.tensor(a)).collect();
        if let Some(made) = constants.and_then(|c| known::moved(&op, &c, &ty)) {
            let name = self.g.values[args[0]].name.clone();
            return Ok(self.g.constant(name, made));
        }
        Ok(self.g.push(op, args, ty, self.origin.clone()))
    }
    /// A scalar constant.
    pub fn scalar(&mut self, x: f32) -> Value {
        self.g.constant("scalar", Tensor::f32([], &[x]))
    }
    /// A scalar constant of an integer type or bool.
    pub fn number(&mut self, x: i128, s: Scalar) -> Value {
        self.element(Number::Int(x), s)
    }
    /// A scalar constant of any plain type.
    pub fn real(&mut self, x: f64, s: Scalar) -> Value {
        self.element(Number::Real(x), s)
    }
    fn element(&mut self, x: Number, s: Scalar) -> Value {
        let bytes = x.bits(s).to_le_bytes()[..s.bytes()].to_vec();
        self.g.constant("scalar", Tensor::new(TensorTy::new([], s), bytes).expect("one element"))
    }
    /// A cast, or the value itself.
    pub fn cast(&mut self, v: Value, to: Scalar) -> Result<Value, Diagnostic> {
        if self.g.ty(v).elem == Elem::Scalar(to) { Ok(v) } else { self.push_as(Op::Cast, &[v], to.into()) }
    }
    pub fn reshape(&mut self, v: Value, dims: Vec<usize>) -> Result<Value, Diagnostic> {
        if self.g.ty(v).dims == dims { Ok(v) } else { self.push(Op::Reshape { dims }, &[v]) }
    }
}
