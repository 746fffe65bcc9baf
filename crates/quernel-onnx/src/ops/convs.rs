//! Convolutions and products.

use super::volumes;
use crate::node::{Built, NodeCx};
use quernel_ir::{Act, Binary, Code, Diagnostic, Multiplier, Op, Value, Window, WindowDim};

/// The window of a convolution or pool over `extents`, with ONNX's padding rules.
pub fn window(cx: &NodeCx<'_>, kernel: &[usize], extents: &[usize]) -> Result<Window, Diagnostic> {
    let rank = kernel.len();
    let list = |name: &str, default: i64, n: usize| -> Result<Vec<usize>, Diagnostic> {
        let values = cx.ints(name)?.unwrap_or_else(|| vec![default; n]);
        if values.len() != n {
            return Err(cx.bad_attribute(format!("attribute `{name}` has {} values instead of {n}", values.len())));
        }
        let bounded = |x: &i64| usize::try_from(*x).ok().filter(|x| *x <= 1 << 24);
        values.iter().map(bounded).collect::<Option<_>>().ok_or_else(|| cx.bad_attribute(format!("attribute `{name}` is {values:?}")))
    };
    let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
    if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
        return Err(cx.bad_attribute("kernel, strides and dilations have to be at least 1"));
    }
    let auto = cx.text("auto_pad")?.unwrap_or_else(|| "NOTSET".into());
    let pads = list("pads", 0, 2 * rank)?;
    let dims = (0..rank).map(|i| {
        let mut d = WindowDim { kernel: kernel[i], stride: strides[i], dilation: dilations[i], before: 0, after: 0 };
        if d.kernel.checked_mul(d.dilation).is_none_or(|s| s > 1 << 30) {
            return Err(cx.err(Code::LimitExceeded, format!("a window of {} taps, {} apart", d.kernel, d.dilation)));
        }
        match auto.as_str() {
            "NOTSET" | "" => (d.before, d.after) = (pads[i], pads[i + rank]),
            "VALID" => {}
            "SAME_UPPER" | "SAME_LOWER" => {
                let outputs = extents[i].div_ceil(d.stride);
                let total = ((outputs.max(1) - 1) * d.stride + d.span()).saturating_sub(extents[i]);
                let (small, large) = (total / 2, total - total / 2);
                (d.before, d.after) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            }
            other => return Err(cx.bad_attribute(format!("attribute `auto_pad` is {other:?}"))),
        }
        Ok(d)
    });
    Ok(Window { dims: dims.collect::<Result<_, _>>()? })
}

pub fn conv(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (x, w) = (cx.arg(0)?, cx.arg(1)?);
    let (xd, wd) = (cx.dims(x), cx.dims(w));
    if xd.len() < 3 || xd.len() != wd.len() {
        return Err(cx.err(Code::ShapeMismatch, format!("operand of rank {} and weights of rank {}", xd.len(), wd.len())));
    }
    volumes::at_most_three(cx, "a convolution", xd.len() - 2)?;
    let kernel = &wd[2..];
    if let Some(shape) = cx.ints("kernel_shape")?
        && !shape.iter().copied().eq(kernel.iter().map(|k| *k as i64))
    {
        return Err(cx.err(Code::ShapeMismatch, format!("attribute `kernel_shape` is {shape:?}, the weights have {kernel:?}")));
    }
    let groups = usize::try_from(cx.int("group")?.unwrap_or(1)).ok().filter(|g| *g > 0);
    let groups = groups.ok_or_else(|| cx.bad_attribute("attribute `group` has to be at least 1"))?;
    let window = window(cx, kernel, &xd[2..])?;
    let args: Vec<Value> = [Some(x), Some(w), cx.optional(2)].into_iter().flatten().collect();
    Ok(vec![volumes::conv(cx, &args, window, groups)?])
}

pub fn matmul(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    Ok(vec![cx.push(Op::MatMul { multiplier: Multiplier::F64 }, &[a, b])?])
}

/// `alpha A' B' + beta C`. Factors go to the constant operands, where they cost nothing.
pub fn gemm(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let (mut a, mut b) = (cx.arg(0)?, cx.arg(1)?);
    for v in [a, b] {
        if cx.g.ty(v).rank() != 2 {
            return Err(cx.err(Code::ShapeMismatch, format!("an operand has rank {} instead of 2", cx.g.ty(v).rank())));
        }
        if !cx.g.ty(v).elem.is_f32() {
            return Err(cx.err(Code::UnsupportedType, "operands have to be float"));
        }
    }
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let transpose = || Op::Transpose { perm: vec![1, 0] };
    if cx.flag("transA", false)? {
        a = cx.push(transpose(), &[a])?;
    }
    // Weights of `Dense` are [N, K].
    if !cx.flag("transB", false)? {
        b = cx.push(transpose(), &[b])?;
    }
    let scaled = |cx: &mut NodeCx<'_>, v: Value, factor: f32| -> Result<Value, Diagnostic> {
        if factor == 1.0 {
            return Ok(v);
        }
        let factor = cx.scalar(factor);
        cx.push(Op::Binary(Binary::Mul), &[v, factor])
    };
    b = scaled(cx, b, alpha)?;
    let dense = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let Some(c) = cx.optional(2).filter(|_| beta != 0.0) else { return Ok(vec![cx.push(dense, &[a, b])?]) };
    let c = scaled(cx, c, beta)?;
    let (rows, columns) = (cx.dims(a)[0], cx.dims(b)[0]);
    let dims = cx.dims(c);
    let fits = dims.len() <= 2 && quernel_ir::infer::broadcast(&dims, &[rows, columns]).is_some_and(|d| d == [rows, columns]);
    if !fits {
        return Err(cx.err(Code::ShapeMismatch, format!("operand C of dimensions {dims:?} does not fit a result of {rows}x{columns}")));
    }
    let one_row = dims.len() < 2 || dims[0] == 1;
    if one_row {
        let mut bias = cx.reshape(c, dims.last().map_or(vec![1], |n| vec![*n]))?;
        if cx.dims(bias) != [columns] {
            bias = cx.push(Op::Expand { dims: vec![columns] }, &[bias])?;
        }
        return Ok(vec![cx.push(dense, &[a, b, bias])?]);
    }
    let product = cx.push(dense, &[a, b])?;
    Ok(vec![cx.push(Op::Binary(Binary::Add), &[product, c])?])
}
