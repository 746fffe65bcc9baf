//! The invariants of a graph. All faults are reported, each with its place.
//!
//! * Every live node reads inputs, constants or results of earlier live nodes; each value is defined once.
//! * The result type of every node has the dimensions [`crate::infer`] computes.
//! * Element types fit the operator ([`elements`] is the table).
//! * Outputs are defined.
//! * From `Folded` on: no `batch_norm` whose operand a convolution or product could absorb remains a separate
//!   node with constant operands only; nothing else is lost here, so the check is on types alone.
//! * Dequantized constants are the weights of a model that arrived quantized; from `Quantized` on there are none.
//! * From `Quantized` on: weights of a node with quantized operand are quantized and its bias is i32. A node with a float
//!   operand may have quantized weights, too: their real numbers multiply.
//!
//! A fault is always a bug of a pass (or of a hand-written `.qir`), never of a user's model.

use crate::{
    graph::{Def, Graph, Node, NodeData},
    infer,
    op::{Binary, Comparison, Op, PoolKind, ReduceKind},
    plain,
    stage::Stage,
    ty::{Elem, Scalar, Scheme, Storage, TensorTy},
};
use std::{collections::BTreeSet, fmt, ops::Deref};

/// One broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The guilty node.
    pub node: Option<Node>,
    /// Its place, readable.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A graph that passed [`verify`] at a stage. Lowering takes only this.
#[derive(Debug)]
pub struct Verified<'a> {
    graph: &'a Graph,
    stage: Stage,
}

impl Verified<'_> {
    /// The stage it was verified at.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

impl Deref for Verified<'_> {
    type Target = Graph;
    fn deref(&self) -> &Graph {
        self.graph
    }
}

/// Checks every invariant of `stage` and returns the proof, or all faults.
pub fn verify(g: &Graph, stage: Stage) -> Result<Verified<'_>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut defined = BTreeSet::new();
    for (i, &v) in g.inputs.iter().enumerate() {
        if g.values.get(v).is_none_or(|d| d.def != Def::Input(i as u32)) {
            faults.push(Fault { node: None, place: format!("input {i}"), message: "is not an input value".into() });
        }
        if !defined.insert(v) {
            faults.push(Fault { node: None, place: format!("input {i}"), message: "is listed twice".into() });
        }
    }
    for &n in &g.order {
        let Some(data) = g.nodes.get(n) else {
            faults.push(Fault { node: Some(n), place: n.to_string(), message: "does not exist".into() });
            continue;
        };
        let mut fault =
            |message: String| faults.push(Fault { node: Some(n), place: format!("{} ({})", g.describe(n), data.op.mnemonic()), message });
        let mut sound = true;
        for (i, &a) in data.args.iter().enumerate() {
            let known = g.values.get(a).is_some_and(|d| matches!(d.def, Def::Const(_)) || defined.contains(&a));
            if !known {
                fault(format!("operand {i} is used before it is defined"));
                sound = false;
            }
        }
        for (slot, &r) in data.results.iter().enumerate() {
            if g.values.get(r).is_none_or(|d| d.def != Def::Result { node: n, slot: slot as u32 }) || !defined.insert(r) {
                fault(format!("result {slot} is not defined by this node alone"));
                sound = false;
            }
        }
        if data.results.len() != 1 {
            fault(format!("has {} results instead of 1", data.results.len()));
            sound = false;
        }
        if !sound {
            continue;
        }
        let args: Vec<&TensorTy> = data.args.iter().map(|&a| g.ty(a)).collect();
        let result = g.ty(data.result());
        match infer::dims(&data.op, &args) {
            Ok(dims) if dims == result.dims => {
                if let Err(message) = elements(&data.op, &args, result) {
                    fault(message);
                } else if stage >= Stage::Folded
                    && !(stage == Stage::Folded && data.op == Op::Dequantize)
                    && let Err(message) = folded(g, data)
                {
                    fault(message);
                }
            }
            Ok(dims) => fault(format!("result is {}, computed {}", infer::show(&result.dims), infer::show(&dims))),
            Err(message) => fault(message),
        }
    }
    for (name, v) in &g.outputs {
        let known = g.values.get(*v).is_some_and(|d| matches!(d.def, Def::Const(_)) || defined.contains(v));
        if !known {
            faults.push(Fault { node: None, place: format!("output {name:?}"), message: "is not defined".into() });
        }
    }
    if faults.is_empty() { Ok(Verified { graph: g, stage }) } else { Err(faults) }
}

/// Nodes that folding must have evaluated.
fn folded(g: &Graph, data: &NodeData) -> Result<(), String> {
    let all_const = !data.args.is_empty() && data.args.iter().all(|&a| g.tensor(a).is_some());
    if all_const { Err("has only constant operands after folding".into()) } else { Ok(()) }
}

/// Which element types an operator takes and gives; `Err` names those that do not fit.
pub fn elements(op: &Op, args: &[&TensorTy], result: &TensorTy) -> Result<(), String> {
    let all_f32 = || args.iter().all(|a| a.elem.is_f32()) && result.elem.is_f32();
    let per_tensor = |t: &TensorTy| t.elem.quant().is_some_and(|q| q.tensor_params().is_some());
    let bad = || {
        let shown: Vec<String> = args.iter().map(|a| a.elem.to_string()).collect();
        Err(format!("element types ({}) -> {} do not fit", shown.join(", "), result.elem))
    };
    let check = |ok: bool| if ok { Ok(()) } else { bad() };
    let wide = |t: &TensorTy| t.elem.quant().is_some_and(|q| q.storage() == Storage::I32);
    if (args.iter().any(|a| wide(a)) || wide(result)) && !op.moves_only() && *op != Op::Dequantize {
        return bad();
    }
    let plain = args.iter().map(|a| a.elem.scalar()).collect::<Option<Vec<Scalar>>>();
    match op {
        Op::Conv { residual, .. } | Op::Dense { residual, .. } => {
            let bias = args.len() > 2 + usize::from(*residual);
            let weights = args[1].elem.quant().is_some_and(|q| match q.scheme() {
                Scheme::PerTensor { .. } => true,
                Scheme::PerAxis { axis, scales } | Scheme::Table { axis, scales, .. } => *axis == 0 && scales.len() == args[1].dims[0],
                Scheme::Grouped { group, scales } => args[0].elem.is_f32() && scales.len() * *group as usize == args[1].count(),
            });
            if args[0].elem.is_f32() {
                let others = args.iter().enumerate().all(|(i, a)| i == 1 || a.elem.is_f32());
                return check(others && (weights || args[1].elem.is_f32()) && result.elem.is_f32());
            }
            let residual_ok = !residual || args.last().is_some_and(|r| per_tensor(r) || (r.elem.is_f32() && result.elem.is_f32()));
            check(
                per_tensor(args[0])
                    && weights
                    && (!bias || args[2].elem == Elem::I32)
                    && residual_ok
                    && (per_tensor(result) || result.elem.is_f32()),
            )
        }
        Op::MatMul { .. } => {
            let bytes = |t: &TensorTy| per_tensor(t) && t.elem.bytes() == 1;
            check(all_f32() || args.iter().all(|a| bytes(a)) && (bytes(result) || result.elem.is_f32()))
        }
        Op::BatchNorm { .. } => check(all_f32()),
        Op::Reduce { kind, .. } if matches!(args[0].elem, Elem::Scalar(s) if s != Scalar::F32) => {
            let fits = match args[0].elem.scalar() {
                Some(Scalar::F16 | Scalar::BF16) => false,
                Some(Scalar::Bool) => matches!(kind, ReduceKind::Min | ReduceKind::Max),
                Some(Scalar::F64) => true,
                _ => *kind != ReduceKind::Mean,
            };
            check(fits && args[0].elem == result.elem)
        }
        Op::Cumulative { op, .. } => {
            let number = args[0].elem.scalar().is_some_and(|s| !matches!(s, Scalar::F16 | Scalar::BF16 | Scalar::Bool));
            check(number && matches!(op, Binary::Add | Binary::Mul) && args[0].elem == result.elem)
        }
        Op::Reduce { .. } | Op::Softmax { .. } => check(all_f32() || per_tensor(args[0]) && (per_tensor(result) || result.elem.is_f32())),
        Op::LayerNorm { .. } => {
            let byte = |t: &TensorTy| per_tensor(t) && t.elem.quant().is_some_and(|q| q.storage().bits() <= 8);
            check(all_f32() || byte(args[0]) && args[1..].iter().all(|a| a.elem.is_f32()) && byte(result))
        }
        Op::Unary(f) => {
            let double = args[0].elem == Elem::Scalar(Scalar::F64) && result.elem == args[0].elem && plain::double_has_unary(*f);
            check(all_f32() || double || per_tensor(args[0]) && per_tensor(result))
        }
        Op::Binary(f) => match (plain.as_deref(), &result.elem) {
            (Some(&[a, b]), Elem::Scalar(s)) => check(a == *s && b == *s && takes(*f, *s)),
            (None, _) => check(args.iter().all(|a| per_tensor(a)) && per_tensor(result) && !f.bitwise()),
            _ => bad(),
        },
        Op::Compare(f) => match plain.as_deref() {
            Some(&[a, b]) => {
                let ordered = a.is_integer() || matches!(a, Scalar::F32 | Scalar::F64) || a == Scalar::Bool && *f == Comparison::Equal;
                check(a == b && ordered && result.elem == Elem::BOOL)
            }
            _ => bad(),
        },
        Op::Select => check(args[0].elem == Elem::BOOL && args[1].elem == args[2].elem && args[1].elem == result.elem && plain.is_some()),
        Op::Pool { kind: PoolKind::Average { .. }, .. } => check(all_f32() || per_tensor(args[0]) && per_tensor(result)),
        Op::Quantize => check(args[0].elem.is_f32() && per_tensor(result)),
        Op::Dequantize => {
            if let Some(Scheme::PerAxis { axis, scales } | Scheme::Table { axis, scales, .. }) = args[0].elem.quant().map(|q| q.scheme())
                && args[0].dims.get(usize::from(*axis)) != Some(&scales.len())
            {
                return Err(format!("{} scales do not fit axis {axis} of {}", scales.len(), infer::show(&args[0].dims)));
            }
            if let Some(Scheme::Grouped { group, scales }) = args[0].elem.quant().map(|q| q.scheme())
                && scales.len() * *group as usize != args[0].count()
            {
                return Err(format!("{} scales of {group} elements do not fit {}", scales.len(), infer::show(&args[0].dims)));
            }
            check(args[0].elem.quant().is_some() && result.elem.is_f32())
        }
        Op::Requantize => check(per_tensor(args[0]) && per_tensor(result)),
        Op::Cast => check(plain.is_some() && result.elem.quant().is_none()),
        // Between plain types, and between a quantized type of one scale and its stored integers; plain bytes may be no integers
        // of fewer bits.
        Op::Bitcast => check(match (&args[0].elem, &result.elem) {
            (Elem::Scalar(a), Elem::Scalar(b)) => a.bytes() == b.bytes(),
            (Elem::Quant(q), Elem::Scalar(s)) => q.tensor_params().is_some() && q.storage().bits() < 32 && q.storage().held() == *s,
            (Elem::Scalar(s), Elem::Quant(q)) => q.tensor_params().is_some() && q.storage().bits() < 32 && q.storage().scalar() == Some(*s),
            _ => false,
        }),
        // Other numbers have no order here yet.
        Op::Pool { kind: PoolKind::Max, .. }
            if matches!(result.elem.scalar(), Some(Scalar::F64 | Scalar::F16 | Scalar::BF16 | Scalar::U64 | Scalar::Bool)) =>
        {
            bad()
        }
        Op::Gather { .. } | Op::Scatter { .. } => {
            let indices = matches!(args[1].elem, Elem::I32 | Elem::I64);
            let data = args.iter().enumerate().filter(|(i, _)| !op.is_index(*i)).all(|(_, a)| a.elem == result.elem);
            let reduce = match op {
                Op::Scatter { reduce: Some(f), .. } => {
                    matches!(f, Binary::Add | Binary::Mul | Binary::Min | Binary::Max) && result.elem.quant().is_none()
                }
                _ => true,
            };
            check(indices && data && reduce && (per_tensor(result) || result.elem.quant().is_none()))
        }
        Op::TopK { .. } => check((per_tensor(args[0]) || args[0].elem.quant().is_none()) && result.elem == Elem::I64),
        _ if op.moves_only() => check(args.iter().all(|a| a.elem == result.elem) && (per_tensor(result) || result.elem.quant().is_none())),
        _ => bad(),
    }
}

/// Whether a function of two elements exists on a plain type.
fn takes(f: Binary, s: Scalar) -> bool {
    match s {
        Scalar::F32 => !f.bitwise(),
        Scalar::F64 => plain::double_has(f),
        Scalar::F16 | Scalar::BF16 => false,
        Scalar::Bool => matches!(f, Binary::And | Binary::Or | Binary::Xor),
        _ => true,
    }
}
