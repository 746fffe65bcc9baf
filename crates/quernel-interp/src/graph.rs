//! Executes graphs.

use crate::{data, elementwise, index, layers, layers::Layer, matmul, moves, pool, reduce};
use quernel_ir::{Code, Def, Diagnostic, Graph, Id, Op, Tensor, TensorTy, Value, Window, infer, verify};

/// Largest number of elements of a result; a graph that asks for more is refused before memory is taken.
const MAX_ELEMENTS: usize = 1 << 28;
/// Largest extent, step or padding of a window.
const MAX_WINDOW: usize = 1 << 30;

/// The outputs of `g` in order, for inputs in order.
///
/// `Err` when an input does not have its type, an operator is malformed, or a result exceeds the limits above.
pub fn run_graph(g: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, Diagnostic> {
    run_graph_with(g, inputs, &mut |_, _| ())
}

/// Like [`run_graph`]; calls `observe` with every input and every live node result as soon as it exists. A result is
/// dropped after its last use.
pub fn run_graph_with(g: &Graph, inputs: &[Tensor], observe: &mut dyn FnMut(Value, &Tensor)) -> Result<Vec<Tensor>, Diagnostic> {
    if inputs.len() != g.inputs.len() {
        return Err(Diagnostic::new(Code::SampleName, format!("the graph has {} inputs, {} are given", g.inputs.len(), inputs.len())));
    }
    let mut held: Vec<Option<Tensor>> = vec![None; g.values.len()];
    let unknown = |v: Value| Diagnostic::new(Code::BadIr, format!("{v} is used before it is defined"));
    for (&v, x) in g.inputs.iter().zip(inputs) {
        let data = g.values.get(v).ok_or_else(|| unknown(v))?;
        if x.ty != data.ty {
            return Err(Diagnostic::new(Code::SampleShape, format!("the input has type {}, the graph wants {}", x.ty, data.ty))
                .at(format!("input {:?}", data.name)));
        }
        data::check_codes(x)?;
        observe(v, x);
        held[v.index()] = Some(x.clone());
    }
    // The position after which a value is not needed; outputs are needed to the end.
    let mut last = vec![0usize; g.values.len()];
    for (i, &n) in g.order.iter().enumerate() {
        for &a in g.nodes.get(n).map_or(&[][..], |d| &d.args) {
            if let Some(slot) = last.get_mut(a.index()) {
                *slot = i;
            }
        }
    }
    for &(_, v) in &g.outputs {
        if let Some(slot) = last.get_mut(v.index()) {
            *slot = usize::MAX;
        }
    }
    let find = |held: &[Option<Tensor>], v: Value| -> Result<Tensor, Diagnostic> {
        match g.values.get(v).ok_or_else(|| unknown(v))?.def {
            Def::Const(c) => g.consts.get(c).map(|c| c.tensor.clone()).ok_or_else(|| unknown(v)),
            _ => held[v.index()].clone().ok_or_else(|| unknown(v)),
        }
    };
    for (i, &n) in g.order.iter().enumerate() {
        let node = g.nodes.get(n).ok_or_else(|| Diagnostic::new(Code::BadIr, format!("{n} does not exist")))?;
        let place = |d: Diagnostic| d.at(format!("{} ({})", g.describe(n), node.op.mnemonic()));
        let args = node.args.iter().map(|&a| find(&held, a)).collect::<Result<Vec<Tensor>, Diagnostic>>().map_err(place)?;
        let &[result] = &node.results[..] else {
            return Err(place(Diagnostic::new(Code::BadIr, format!("{} results instead of 1", node.results.len()))));
        };
        let ty = &g.values.get(result).ok_or_else(|| unknown(result))?.ty;
        let y = eval_node(&node.op, &args.iter().collect::<Vec<&Tensor>>(), ty).map_err(place)?;
        observe(result, &y);
        held[result.index()] = Some(y);
        for &a in &node.args {
            if last[a.index()] == i {
                held[a.index()] = None;
            }
        }
        if last[result.index()] <= i {
            held[result.index()] = None;
        }
    }
    g.outputs.iter().map(|&(_, v)| find(&held, v)).collect()
}

/// The result of one operator.
///
/// `Err` when the operands do not fit the operator or the result type.
pub fn eval_node(op: &Op, args: &[&Tensor], result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let misfit = |message: String| Diagnostic::new(Code::BadIr, message);
    if let Op::Conv { window, .. } | Op::Pool { window, .. } = op {
        check_window(window)?;
    }
    let types: Vec<&TensorTy> = args.iter().map(|a| &a.ty).collect();
    let dims = infer::dims(op, &types).map_err(misfit)?;
    if dims != result.dims {
        return Err(misfit(format!("result is {}, computed {}", infer::show(&result.dims), infer::show(&dims))));
    }
    if dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).is_none_or(|n| n > MAX_ELEMENTS) {
        return Err(Diagnostic::new(
            Code::LimitExceeded,
            format!("a tensor of {} has more than {MAX_ELEMENTS} elements", infer::show(&dims)),
        ));
    }
    verify::elements(op, &types, result).map_err(misfit)?;
    args.iter().try_for_each(|a| data::check_codes(a))?;
    if dims.contains(&0) {
        return data::tensor(result, vec![]);
    }
    match op {
        Op::Conv { window, groups, act, residual, multiplier } => {
            Layer::new(args, *act, *residual, *multiplier, result).conv(window, *groups)
        }
        Op::Dense { act, residual, multiplier } => Layer::new(args, *act, *residual, *multiplier, result).dense(),
        Op::MatMul { multiplier } => matmul::matmul(args[0], args[1], *multiplier, result),
        Op::BatchNorm { epsilon } => layers::batch_norm(args, *epsilon, result),
        Op::Unary(f) => elementwise::unary(*f, args[0], result),
        Op::Binary(f) => elementwise::binary(*f, args[0], args[1], result),
        Op::Pool { kind, window } => pool::pool(*kind, window, args[0], result),
        Op::Reduce { kind, axes, .. } => reduce::reduce(*kind, axes, args[0], result),
        Op::Softmax { axis, log } => reduce::softmax(*axis, *log, args[0], result),
        Op::LayerNorm { axis, epsilon, rms } => reduce::layer_norm(args, *axis, (*epsilon, *rms), result),
        Op::Reshape { .. } => moves::reshape(args[0], result),
        Op::Transpose { perm } => moves::transpose(args[0], perm, result),
        Op::Concat { axis } => moves::concat(args, *axis, result),
        Op::Slice { start, step, .. } => moves::slice(args[0], start, step, result),
        Op::Pad { before, value, .. } => moves::pad(args[0], before, *value, result),
        Op::Expand { .. } => moves::expand(args[0], result),
        Op::Gather { index } => index::gather(*index, args[0], args[1], result),
        Op::Scatter { index, reduce } => index::scatter(*index, *reduce, [args[0], args[1], args[2]], result),
        Op::Cumulative { op, axis, exclusive, reverse } => reduce::cumulative(*op, *axis, *exclusive, *reverse, args[0], result),
        Op::TopK { axis, k, smallest, last } => index::top_k(*axis, *k, *smallest, *last, args[0], result),
        Op::Quantize => elementwise::quantize(args[0], result),
        Op::Dequantize => data::float_tensor(result, &elementwise::reals(args[0])?),
        Op::Requantize => elementwise::requantize(args[0], result),
        Op::Cast => elementwise::cast(args[0], result),
        Op::Bitcast => moves::reshape(args[0], result),
        Op::Compare(f) => elementwise::compare(*f, args[0], args[1], result),
        Op::Select => elementwise::select(args, result),
    }
}

fn check_window(window: &Window) -> Result<(), Diagnostic> {
    let fits = |n: usize| n <= MAX_WINDOW;
    match window.dims.iter().all(|d| [d.kernel, d.stride, d.dilation, d.before, d.after].into_iter().all(fits)) {
        true => Ok(()),
        false => Err(Diagnostic::new(Code::LimitExceeded, format!("a window has an extent, step or padding over {MAX_WINDOW}"))),
    }
}
