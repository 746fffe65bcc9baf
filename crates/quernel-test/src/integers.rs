//! Integer operators against the float operators they stand for.

use quernel_interp::{eval_node, run_graph_with};
use quernel_ir::{Act, Elem, Graph, Op, Quant, Scalar, Tensor, TensorTy, Value};
use std::collections::BTreeMap;

/// Runs the graph and compares every operator on quantized operands with the same operator on the numbers they mean:
/// the integer result is that number within one step of its type, saturated; a float result equals it up to rounding
/// in f32. Holds at any depth, because every operator is judged on the operands it got. Returns how many were compared.
pub fn check_integers(g: &Graph, inputs: &[Tensor]) -> usize {
    let mut values: BTreeMap<Value, Tensor> = BTreeMap::new();
    run_graph_with(g, inputs, &mut |v, t| {
        values.insert(v, t.clone());
    })
    .unwrap_or_else(|d| panic!("{d}\n{g}"));
    let mut compared = 0;
    for &n in &g.order {
        let node = &g.nodes[n];
        // Stored integers mean no numbers.
        if matches!(node.op, Op::Quantize | Op::Dequantize | Op::Bitcast) {
            continue;
        }
        let args: Vec<&Tensor> = node.args.iter().map(|&v| g.tensor(v).unwrap_or_else(|| &values[&v])).collect();
        if args.iter().all(|a| a.ty.elem.quant().is_none()) {
            continue;
        }
        compared += 1;
        let number = |(i, a): (usize, &&Tensor)| if node.op.is_index(i) { (*a).clone() } else { meaning(a, &args, i) };
        let real: Vec<Tensor> = args.iter().enumerate().map(number).collect();
        let result = &values[&node.result()];
        let want = match &result.ty.elem {
            _ if node.op == Op::Requantize => real[0].clone(),
            Elem::Scalar(_) => meaning(&typed(&node.op, &real.iter().collect::<Vec<_>>(), &result.ty), &[], 0),
            Elem::Quant(_) => evaluate(&node.op, &real.iter().collect::<Vec<_>>(), &result.ty.dims),
        };
        let place = || format!("{} ({})\n{g}", g.describe(n), node.op.mnemonic());
        let sums = match node.op {
            Op::Conv { .. } | Op::Dense { .. } => magnitudes(&node.op, &real, &result.ty.dims),
            _ => want.to_f32().unwrap_or_default().iter().map(|x| x.abs()).collect(),
        };
        let got = meaning(result, &[], 0).to_f32().unwrap_or_default();
        for (i, (want, got)) in want.to_f32().unwrap_or_default().into_iter().zip(got).enumerate() {
            let (want, step) = match result.ty.elem.quant() {
                Some(q) => saturated(want, q),
                None => (want, 0.0),
            };
            let bound = 1.001 * step + 1e-5 * sums[i].min(1e30) + 1e-6;
            let same = want == got || want.is_nan() && got.is_nan();
            assert!(same || (want - got).abs() <= bound, "element {i} is {got} instead of {want}: {}", place());
        }
    }
    compared
}

/// The number within the range of the type, and one step of the type there. What is no number is the lower bound.
fn saturated(x: f32, q: &Quant) -> (f32, f32) {
    let Some((scale, zero)) = q.tensor_params() else { return (x, 0.0) };
    let (lo, hi) = ((q.min() - zero) as f32 * scale, (q.max() - zero) as f32 * scale);
    (if x.is_nan() { lo } else { x.clamp(lo, hi) }, scale)
}

/// What a tensor means: quantized numbers by their type, a 32-bit bias (operand 2 of a layer) in units of the sum.
fn meaning(t: &Tensor, args: &[&Tensor], i: usize) -> Tensor {
    if t.ty.elem.is_f32() {
        return t.clone();
    }
    if t.ty.elem.quant().is_some() {
        return evaluate(&Op::Dequantize, &[t], &t.ty.dims);
    }
    let ints = t.to_ints().unwrap_or_default();
    let scales = match (args.first().and_then(|x| x.ty.elem.quant()), args.get(1).and_then(|w| w.ty.elem.quant())) {
        (Some(x), Some(w)) if i == 2 && t.ty.elem == Elem::Scalar(Scalar::I32) => {
            (0..ints.len()).map(|o| f64::from(x.scale_at(0)) * f64::from(w.scale_at(o))).collect()
        }
        _ => vec![1.0; ints.len()],
    };
    let reals: Vec<f32> = ints.iter().zip(scales).map(|(q, s)| (*q as f64 * s) as f32).collect();
    Tensor::f32(t.ty.dims.clone(), &reals)
}

fn evaluate(op: &Op, args: &[&Tensor], dims: &[usize]) -> Tensor {
    typed(op, args, &TensorTy::f32(dims))
}

fn typed(op: &Op, args: &[&Tensor], ty: &TensorTy) -> Tensor {
    eval_node(op, args, ty).unwrap_or_else(|d| panic!("{d}"))
}

/// The sums of the magnitudes of a layer's products: what the rounding of its float form is relative to.
fn magnitudes(op: &Op, args: &[Tensor], dims: &[usize]) -> Vec<f32> {
    let mut op = op.clone();
    if let Op::Conv { act, .. } | Op::Dense { act, .. } = &mut op {
        *act = Act::None;
    }
    let magnitude = |t: &Tensor| {
        let data: Vec<f32> = t.to_f32().unwrap_or_default().iter().map(|x| x.abs()).collect();
        Tensor::f32(t.ty.dims.clone(), &data)
    };
    let args: Vec<Tensor> = args.iter().map(magnitude).collect();
    evaluate(&op, &args.iter().collect::<Vec<_>>(), dims).to_f32().unwrap_or_default()
}
