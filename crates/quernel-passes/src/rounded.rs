//! Rounded values: what stands behind a dequantized one.

use crate::Sweep;
use quernel_ir::{Diagnostic, Elem, Graph, Op, Origin, Quant, Scheme, Tensor, TensorTy, Value, infer};

/// The quantized value behind a dequantized one.
pub(crate) fn rounded(g: &Graph, v: Value) -> Option<Value> {
    let node = g.producer(v)?;
    matches!(g.nodes[node].op, Op::Dequantize).then(|| g.nodes[node].args[0])
}

/// The quantized constant behind a dequantized value.
pub(crate) fn rounded_constant(g: &Graph, v: Value) -> Option<&Tensor> {
    g.tensor(rounded(g, v)?)
}

/// The quantized value with one scale behind a dequantized one.
pub(crate) fn rounded_tensor(g: &Graph, v: Value) -> Option<Value> {
    rounded(g, v).filter(|q| g.ty(*q).elem.quant().is_some_and(|t| t.tensor_params().is_some()))
}

/// Whether a value comes, through moves alone, from a dequantize.
pub(crate) fn from_rounded(g: &Graph, mut v: Value) -> bool {
    for _ in 0..64 {
        let Some(node) = g.producer(v) else { return false };
        match &g.nodes[node].op {
            Op::Dequantize => return true,
            op if op.moves_only() => v = g.nodes[node].args[0],
            _ => return false,
        }
    }
    false
}

/// `op`, which moves elements, on the integers of a dequantized constant: a dequantized constant again. `None` where
/// the scales would not lie along an axis any more.
pub(crate) fn moved(s: &mut Sweep<'_>, op: &Op, v: Value, origin: Origin) -> Result<Option<Value>, Diagnostic> {
    if !matches!(op, Op::Transpose { .. } | Op::Reshape { .. } | Op::Slice { .. } | Op::Expand { .. }) {
        return Ok(None);
    }
    let Some(q) = rounded(s.g, v) else { return Ok(None) };
    let Some(tensor) = s.g.tensor(q).cloned() else { return Ok(None) };
    let Some(quant) = tensor.ty.elem.quant() else { return Ok(None) };
    let dims = infer::dims(op, &[&tensor.ty]).map_err(Diagnostic::bug)?;
    let Some(scheme) = moved_scheme(op, quant.scheme(), &tensor.ty.dims, &dims) else { return Ok(None) };
    // Moves know nothing of scales along an axis.
    let plain = Elem::from(Quant::per_tensor(quant.storage(), 1.0, 0).map_err(Diagnostic::bug)?);
    let operand = Tensor::new(tensor.ty.with_elem(plain.clone()), tensor.shared()).map_err(Diagnostic::bug)?;
    let result = quernel_interp::eval_node(op, &[&operand], &TensorTy::new(dims.clone(), plain))?;
    let quant = Quant::new(quant.storage(), quant.min(), quant.max(), scheme).map_err(Diagnostic::bug)?;
    let tensor = Tensor::new(TensorTy::new(dims, quant), result.shared()).map_err(Diagnostic::bug)?;
    let name = s.g.values[q].name.clone();
    let q = s.constant(&name, tensor);
    s.push(Op::Dequantize, &[q], Elem::F32, origin).map(Some)
}

fn moved_scheme(op: &Op, scheme: &Scheme, from: &[usize], to: &[usize]) -> Option<Scheme> {
    let axis = match scheme {
        Scheme::PerTensor { .. } => return Some(scheme.clone()),
        Scheme::Grouped { .. } => return None,
        Scheme::PerAxis { axis, .. } | Scheme::Table { axis, .. } => usize::from(*axis),
    };
    let to_axis = match op {
        Op::Transpose { perm } => perm.iter().position(|p| *p == axis)?,
        Op::Reshape { .. } => {
            let before: usize = from[..axis].iter().product();
            (0..to.len()).find(|&i| to[i] == from[axis] && to[..i].iter().product::<usize>() == before)?
        }
        Op::Slice { start, step, .. } if start[axis] == 0 && step[axis] == 1 && to[axis] == from[axis] => axis,
        _ => return None,
    };
    let to_axis = u8::try_from(to_axis).ok()?;
    Some(match scheme.clone() {
        Scheme::PerAxis { scales, .. } => Scheme::PerAxis { axis: to_axis, scales },
        Scheme::Table { scales, table, .. } => Scheme::Table { axis: to_axis, scales, table },
        one => one,
    })
}
