//! Tensors without elements. They are constants, whatever they come from: no code computes them, and none reads them. What an
//! operator makes of them is known at import, too.

use crate::node::NodeCx;
use quernel_ir::{Diagnostic, Op, ReduceKind, Scalar, Tensor, TensorTy, plain::Number};

/// Operators that are composed of others with extents in their arithmetic, where those of their first two operands have to be
/// positive.
const NEED_ELEMENTS: &[&str] = &[
    "AffineGrid",
    "Attention",
    "BatchNormalization",
    "CausalConvWithState",
    "CenterCropPad",
    "Col2Im",
    "Conv",
    "ConvTranspose",
    "DFT",
    "DeformConv",
    "FlexAttention",
    "GRU",
    "GridSample",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LinearAttention",
    "LpNormalization",
    "MaxRoiPool",
    "MaxUnpool",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "RNN",
    "RoiAlign",
    "RotaryEmbedding",
    "STFT",
];
/// The same of the first operand only: the others may be absent by having no elements.
const NEED_FIRST: &[&str] =
    &["Resize", "Upsample", "AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"];

/// Refuses a tensor without elements where an operator means nothing on it.
pub fn refuse(cx: &NodeCx<'_>, operator: &str) -> Result<(), Diagnostic> {
    let operands = if NEED_ELEMENTS.contains(&operator) { 2 } else { usize::from(NEED_FIRST.contains(&operator)) };
    match cx.inputs.iter().take(operands).flatten().find(|v| cx.g.ty(**v).dims.contains(&0)) {
        Some(&v) => Err(cx.unsupported(format!("reads {:?}, a tensor without elements", cx.g.values[v].name))),
        None => Ok(()),
    }
}

/// The result of a node that has no elements, or whose operands have none; `None` for every other node.
pub fn evaluate(op: &Op, args: &[&TensorTy], result: &TensorTy) -> Option<Tensor> {
    if result.dims.contains(&0) {
        return Tensor::new(result.clone(), Vec::new()).ok();
    }
    args.first().filter(|a| a.dims.contains(&0))?;
    let scalar = result.elem.scalar()?;
    let element = match op {
        Op::Reduce { kind, .. } => nothing(*kind, scalar),
        // A sum of no products.
        Op::MatMul { .. } => Number::Int(0),
        Op::Pad { value, .. } => Number::Real((*value).into()),
        _ => return None,
    };
    let bytes = element.bits(scalar).to_le_bytes();
    Tensor::new(result.clone(), bytes[..scalar.bytes()].repeat(result.count())).ok()
}

/// What a reduction of no elements is: what changes nothing where it is combined with others; of a mean NaN.
fn nothing(kind: ReduceKind, scalar: Scalar) -> Number {
    match (kind, scalar.range()) {
        (ReduceKind::Sum, _) => Number::Int(0),
        (ReduceKind::Prod, _) => Number::Int(1),
        (ReduceKind::Mean, _) => Number::Real(f64::NAN),
        (ReduceKind::Max, Some((least, _))) => Number::Int(least),
        (ReduceKind::Min, Some((_, most))) => Number::Int(most),
        (ReduceKind::Max, None) => Number::Real(f64::NEG_INFINITY),
        (ReduceKind::Min, None) => Number::Real(f64::INFINITY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::Multiplier;

    #[test]
    fn nothing_is_what_changes_nothing() {
        let of = |kind, scalar: Scalar| {
            let op = Op::Reduce { kind, axes: vec![0], keep: false };
            let (x, y) = (TensorTy::new([0, 2], scalar), TensorTy::new([2], scalar));
            evaluate(&op, &[&x], &y).and_then(|t| t.to_f64()).expect("known")
        };
        assert_eq!(of(ReduceKind::Sum, Scalar::F32), [0.0; 2]);
        assert_eq!(of(ReduceKind::Prod, Scalar::I64), [1.0; 2]);
        assert_eq!(of(ReduceKind::Max, Scalar::F32), [f64::NEG_INFINITY; 2]);
        assert_eq!(of(ReduceKind::Min, Scalar::I8), [127.0; 2]);
        let joined = evaluate(&Op::Concat { axis: 0 }, &[&TensorTy::f32([0, 2]); 2], &TensorTy::f32([0, 2]));
        assert_eq!(joined.map(|t| t.ty.count()), Some(0));
        let product = Op::MatMul { multiplier: Multiplier::F64 };
        assert!(evaluate(&product, &[&TensorTy::f32([2, 3]); 2], &TensorTy::f32([2, 2])).is_none());
    }
}
