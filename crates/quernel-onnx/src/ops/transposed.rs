//! Transposed convolution: zeros between the operand's elements, then a convolution with the mirrored weights.

use super::volumes;
use crate::{
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Elem, Op, Quant, Scheme, Tensor, TensorTy, Value, Window, WindowDim};

pub fn conv_transpose(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (x, w) = (cx.arg(0)?, cx.arg(1)?);
    let (xd, wd) = (cx.dims(x), cx.dims(w));
    if xd.len() < 3 || xd.len() != wd.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("operand of rank {} and weights of rank {}", xd.len(), wd.len())));
    }
    volumes::at_most_three(cx, "a transposed convolution", xd.len() - 2)?;
    let kernel = wd[2..].to_vec();
    if let Some(shape) = cx.ints("kernel_shape")?
        && !shape.iter().copied().eq(kernel.iter().map(|k| *k as i64))
    {
        return Err(cx.err(Code::ShapeMismatch, format!("attribute `kernel_shape` is {shape:?}, the weights have {kernel:?}")));
    }
    let groups = cx.int("group")?.unwrap_or(1);
    let groups = usize::try_from(groups).ok().filter(|g| *g > 0 && xd[1].is_multiple_of(*g) && wd[0] == xd[1]);
    let groups = groups.ok_or_else(|| cx.err(Code::ShapeMismatch, format!("weights {wd:?} do not fit {} channels", xd[1])))?;
    let dims = window(cx, &xd[2..], &kernel)?;
    let weights = mirrored(cx, w, &wd, groups)?;
    let mut y = x;
    for (i, d) in dims.iter().enumerate() {
        y = spread(cx, y, 2 + i, d.stride)?;
    }
    let window = Window { dims: dims.iter().map(|d| WindowDim { stride: 1, ..*d }).collect() };
    let args: Vec<Value> = [Some(y), Some(weights), cx.optional(2)].into_iter().flatten().collect();
    Ok(vec![volumes::conv(cx, &args, window, groups)?])
}

/// The window of the convolution over the spread operand; `stride` is how far the operand is spread.
fn window(cx: &NodeCx<'_>, extents: &[usize], kernel: &[usize]) -> Result<Vec<WindowDim>, Diagnostic> {
    let rank = kernel.len();
    let list = |name: &str, default: i64, n: usize| -> Result<Vec<i64>, Diagnostic> {
        let values = cx.ints(name)?.unwrap_or_else(|| vec![default; n]);
        if values.len() != n || values.iter().any(|v| !(0..=1 << 20).contains(v)) {
            return Err(cx.bad_attribute(format!("attribute `{name}` is {values:?}")));
        }
        Ok(values)
    };
    let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
    let (pads, extra) = (list("pads", 0, 2 * rank)?, list("output_padding", 0, rank)?);
    let shape = cx.ints("output_shape")?;
    let auto = cx.text("auto_pad")?.unwrap_or_else(|| "NOTSET".into());
    if !["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"].contains(&auto.as_str()) {
        return Err(cx.bad_attribute(format!("attribute `auto_pad` is {auto:?}")));
    }
    if extents.contains(&0) {
        return Err(cx.misfit(format!("a window over {extents:?}")));
    }
    if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
        return Err(cx.bad_attribute("kernel, strides and dilations have to be at least 1"));
    }
    let mut dims = Vec::new();
    for i in 0..rank {
        let (n, stride) = (extents[i] as i64, strides[i]);
        let reach = (kernel[i] as i64 - 1).checked_mul(dilations[i]).filter(|r| *r < 1 << 30);
        let reach = reach.ok_or_else(|| cx.err(Code::LimitExceeded, "a window is too large"))?;
        let full = stride.checked_mul(n - 1).and_then(|s| s.checked_add(reach + 1 + extra[i]));
        let full = full.filter(|f| *f <= limits::ELEMENTS as i64).ok_or_else(|| cx.err(Code::LimitExceeded, "the result is too large"))?;
        let wanted = match (&shape, auto.as_str()) {
            (Some(s), _) if s.len() == rank => Some(s[i]),
            (Some(s), _) => return Err(cx.bad_attribute(format!("attribute `output_shape` is {s:?}"))),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(n * stride),
            _ => None,
        };
        let (before, after) = match wanted {
            Some(wanted) => {
                // More than the kernel reaches is added as `output_padding` would be.
                let total = full.checked_sub(wanted).filter(|t| (-stride..=full).contains(t));
                let total = total.ok_or_else(|| cx.unsupported(format!("extends axis {i} to {wanted} elements")))?;
                let (small, large) = (total / 2, total - total / 2);
                if auto == "SAME_LOWER" { (large, small) } else { (small, large) }
            }
            None if auto == "VALID" => (0, 0),
            None => (pads[i], pads[i + rank]),
        };
        let side =
            |pad: i64, more: i64| usize::try_from(reach - pad + more).map_err(|_| cx.unsupported("cuts more than its kernel reaches"));
        dims.push(WindowDim {
            kernel: kernel[i],
            stride: stride as usize,
            dilation: dilations[i] as usize,
            before: side(before, 0)?,
            after: side(after, extra[i])?,
        });
    }
    Ok(dims)
}

/// `[C, M / groups, k..]` as `[M, C / groups, k..]` with every kernel axis reversed.
fn mirrored(cx: &mut NodeCx<'_>, w: Value, dims: &[usize], groups: usize) -> Result<Value, Diagnostic> {
    let (c, m, taps) = (dims[0] / groups, dims[1], dims[2..].iter().product::<usize>());
    let mut order = Vec::with_capacity(dims.iter().product());
    for g in 0..groups {
        for o in 0..m {
            for i in 0..c {
                let at = ((g * c + i) * m + o) * taps;
                order.extend((at..at + taps).rev());
            }
        }
    }
    let mut shape = vec![groups * m, c];
    shape.extend(&dims[2..]);
    if let Some(data) = cx.g.tensor(w).and_then(Tensor::to_f32) {
        let mirrored: Vec<f32> = order.into_iter().map(|i| data[i]).collect();
        let name = cx.g.values[w].name.clone();
        return Ok(cx.g.constant(name, Tensor::f32(shape, &mirrored)));
    }
    // Weights that arrive quantized stay so; their scales are those of result channels.
    let stored = cx.g.producer(w).map(|n| &cx.g.nodes[n]).filter(|n| n.op == Op::Dequantize).map(|n| n.args[0]);
    let held = stored.and_then(|q| Some((q, cx.g.ty(q).elem.quant()?.clone(), cx.g.tensor(q)?.to_ints()?)));
    let Some((q, quant, codes)) = held else { return Err(cx.unsupported("computes its weights at run time")) };
    let scheme = match quant.scheme() {
        Scheme::PerAxis { axis: 1, scales } => Scheme::PerAxis { axis: 0, scales: scales.repeat(groups).into() },
        one @ Scheme::PerTensor { .. } => one.clone(),
        _ => return Err(cx.unsupported("has weights with one scale per operand channel")),
    };
    let quant = Quant::new(quant.storage(), quant.min(), quant.max(), scheme).map_err(Diagnostic::bug)?;
    let tensor = Tensor::from_ints(TensorTy::new(shape, quant), order.into_iter().map(|i| codes[i]));
    let name = cx.g.values[q].name.clone();
    let q = cx.g.constant(name, tensor);
    cx.push_as(Op::Dequantize, &[q], Elem::F32)
}

/// `stride - 1` zeros between neighbours along an axis.
pub fn spread(cx: &mut NodeCx<'_>, x: Value, axis: usize, stride: usize) -> Result<Value, Diagnostic> {
    let mut dims = cx.dims(x);
    let extent = dims[axis];
    if stride == 1 || extent == 1 {
        return Ok(x);
    }
    dims.insert(axis + 1, 1);
    let split = cx.push(Op::Reshape { dims: dims.clone() }, &[x])?;
    let (before, mut after) = (vec![0; dims.len()], vec![0; dims.len()]);
    after[axis + 1] = stride - 1;
    let padded = cx.push(Op::Pad { before, after, value: 0.0 }, &[split])?;
    dims.remove(axis + 1);
    dims[axis] = extent * stride;
    let joined = cx.push(Op::Reshape { dims: dims.clone() }, &[padded])?;
    dims[axis] -= stride - 1;
    let rank = dims.len();
    cx.push(Op::Slice { start: vec![0; rank], step: vec![1; rank], len: dims }, &[joined])
}
