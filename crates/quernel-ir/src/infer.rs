//! Result dimensions of every operator: the one place shapes are computed.

use crate::{
    op::{Op, Window},
    ty::TensorTy,
};

/// Dimensions of the result of `op` on operands of types `args`. `Err` says in one sentence what does not fit.
pub fn dims(op: &Op, args: &[&TensorTy]) -> Result<Vec<usize>, String> {
    let arity = |least: usize, most: usize| {
        if (least..=most).contains(&args.len()) {
            Ok(())
        } else {
            Err(format!("{} takes {least} to {most} operands, not {}", op.mnemonic(), args.len()))
        }
    };
    match op {
        Op::Conv { window, groups, residual, .. } => {
            let extra = usize::from(*residual);
            arity(2 + extra, 3 + extra)?;
            let (x, w) = (&args[0].dims, &args[1].dims);
            let rank = window.dims.len();
            if !(1..=3).contains(&rank) || x.len() != rank + 2 || w.len() != rank + 2 {
                return Err(format!("a {rank}-D convolution needs operands of rank {}, not {} and {}", rank + 2, x.len(), w.len()));
            }
            let g = *groups;
            if g == 0 || w[0] == 0 || x[1] != w[1].saturating_mul(g) || !w[0].is_multiple_of(g) {
                return Err(format!("weights {} do not fit {} input channels in {g} groups", show(w), x[1]));
            }
            if window.dims.iter().zip(&w[2..]).any(|(d, k)| d.kernel != *k) {
                return Err(format!("weights {} do not have the kernel of the window", show(w)));
            }
            let mut out = vec![x[0], w[0]];
            out.extend(spatial(window, &x[2..])?);
            bias_and_residual(args, 2, w[0], &out, *residual)?;
            Ok(out)
        }
        Op::Dense { residual, .. } => {
            let extra = usize::from(*residual);
            arity(2 + extra, 3 + extra)?;
            let (x, w) = (&args[0].dims, &args[1].dims);
            if x.is_empty() || w.len() != 2 || x.last() != w.get(1) {
                return Err(format!("operand {} does not fit weights {}", show(x), show(w)));
            }
            let mut out = x.clone();
            *out.last_mut().expect("not empty") = w[0];
            bias_and_residual(args, 2, w[0], &out, *residual)?;
            Ok(out)
        }
        Op::MatMul { .. } => {
            arity(2, 2)?;
            let (a, b) = (&args[0].dims, &args[1].dims);
            let misfit = || format!("matrix product of {} and {}", show(a), show(b));
            if a.is_empty() || b.is_empty() {
                return Err(misfit());
            }
            let a2 = if a.len() == 1 { vec![1, a[0]] } else { a.clone() };
            let b2 = if b.len() == 1 { vec![b[0], 1] } else { b.clone() };
            let (ra, rb) = (a2.len(), b2.len());
            if a2[ra - 1] != b2[rb - 2] {
                return Err(misfit());
            }
            let mut out = broadcast(&a2[..ra - 2], &b2[..rb - 2]).ok_or_else(misfit)?;
            if a.len() > 1 {
                out.push(a2[ra - 2]);
            }
            if b.len() > 1 {
                out.push(b2[rb - 1]);
            }
            Ok(out)
        }
        Op::BatchNorm { .. } => {
            arity(5, 5)?;
            let x = &args[0].dims;
            if x.len() < 2 {
                return Err(format!("batch norm of {}", show(x)));
            }
            match args[1..].iter().find(|p| p.dims != [x[1]]) {
                Some(p) => Err(format!("parameter {} does not fit {} channels", show(&p.dims), x[1])),
                None => Ok(x.clone()),
            }
        }
        Op::Unary(_) | Op::Quantize | Op::Dequantize | Op::Requantize | Op::Cast | Op::Bitcast => {
            arity(1, 1)?;
            Ok(args[0].dims.clone())
        }
        Op::Binary(_) | Op::Compare(_) => {
            arity(2, 2)?;
            broadcast(&args[0].dims, &args[1].dims)
                .ok_or_else(|| format!("{} and {} do not broadcast", show(&args[0].dims), show(&args[1].dims)))
        }
        Op::Select => {
            arity(3, 3)?;
            broadcast(&args[0].dims, &args[1].dims)
                .and_then(|d| broadcast(&d, &args[2].dims))
                .ok_or_else(|| format!("{}, {} and {} do not broadcast", show(&args[0].dims), show(&args[1].dims), show(&args[2].dims)))
        }
        Op::Pool { window, .. } => {
            arity(1, 1)?;
            let x = &args[0].dims;
            let rank = window.dims.len();
            if !(1..=3).contains(&rank) || x.len() != rank + 2 {
                return Err(format!("a {rank}-D pooling window over {}", show(x)));
            }
            sound(window)?;
            if let Some(d) = window.dims.iter().find(|d| d.before >= d.span() || d.after >= d.span().saturating_add(d.stride)) {
                return Err(format!("padding {}, {} leaves windows of {} without an element", d.before, d.after, d.span()));
            }
            let mut out = x[..2].to_vec();
            out.extend(spatial(window, &x[2..])?);
            Ok(out)
        }
        Op::Reduce { axes, keep, .. } => {
            arity(1, 1)?;
            let x = &args[0].dims;
            if axes.windows(2).any(|p| p[0] >= p[1]) || axes.last().is_some_and(|a| *a >= x.len()) {
                return Err(format!("axes {axes:?} of {}", show(x)));
            }
            Ok(x.iter().enumerate().filter_map(|(i, d)| if !axes.contains(&i) { Some(*d) } else { keep.then_some(1) }).collect())
        }
        Op::Softmax { axis, .. } | Op::Cumulative { axis, .. } => {
            arity(1, 1)?;
            if *axis >= args[0].rank() { Err(format!("axis {axis} of {}", show(&args[0].dims))) } else { Ok(args[0].dims.clone()) }
        }
        Op::LayerNorm { axis, .. } => {
            arity(2, 3)?;
            match args[0].dims.get(*axis..) {
                Some(own) if args[1..].iter().all(|a| a.dims == own) => Ok(args[0].dims.clone()),
                _ => Err(format!("parameters {} of a norm of {} from axis {axis} on", show(&args[1].dims), show(&args[0].dims))),
            }
        }
        Op::Reshape { dims } => {
            arity(1, 1)?;
            let count = dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d));
            if count == Some(args[0].count()) { Ok(dims.clone()) } else { Err(format!("{} elements as {}", args[0].count(), show(dims))) }
        }
        Op::Transpose { perm } => {
            arity(1, 1)?;
            let x = &args[0].dims;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted.iter().copied().ne(0..x.len()) {
                return Err(format!("permutation {perm:?} of {}", show(x)));
            }
            Ok(perm.iter().map(|&p| x[p]).collect())
        }
        Op::Concat { axis } => {
            arity(1, usize::MAX)?;
            let mut out = args[0].dims.clone();
            if *axis >= out.len() {
                return Err(format!("axis {axis} of {}", show(&out)));
            }
            for a in &args[1..] {
                if a.rank() != out.len() || (0..out.len()).any(|i| i != *axis && a.dims[i] != out[i]) {
                    return Err(format!("{} beside {} along axis {axis}", show(&a.dims), show(&out)));
                }
                out[*axis] = out[*axis].checked_add(a.dims[*axis]).ok_or("concatenation overflows")?;
            }
            Ok(out)
        }
        Op::Slice { start, step, len } => {
            arity(1, 1)?;
            let x = &args[0].dims;
            if start.len() != x.len() || step.len() != x.len() || len.len() != x.len() {
                return Err(format!("slice of {} axes on {}", start.len(), show(x)));
            }
            for i in 0..x.len() {
                let last = start[i] as i128 + (len[i] as i128 - 1) * step[i] as i128;
                if step[i] == 0 || len[i] > 0 && (start[i] >= x[i] || last < 0 || last >= x[i] as i128) {
                    return Err(format!("slice leaves axis {i} of {}", show(x)));
                }
            }
            Ok(len.clone())
        }
        Op::Pad { before, after, .. } => {
            arity(1, 1)?;
            let x = &args[0].dims;
            if before.len() != x.len() || after.len() != x.len() {
                return Err(format!("padding of {} axes on {}", before.len(), show(x)));
            }
            (0..x.len())
                .map(|i| x[i].checked_add(before[i])?.checked_add(after[i]))
                .collect::<Option<_>>()
                .ok_or_else(|| "padding overflows".into())
        }
        Op::Gather { index } => {
            arity(2, 2)?;
            Ok(index.picks(&args[0].dims, &args[1].dims)?.dims)
        }
        Op::Scatter { index, .. } => {
            arity(3, 3)?;
            let (x, picks) = (&args[0].dims, index.picks(&args[0].dims, &args[1].dims)?);
            match picks.dims == args[2].dims {
                true => Ok(x.clone()),
                false => Err(format!("{} elements for {} places", show(&args[2].dims), show(&picks.dims))),
            }
        }
        Op::TopK { axis, k, .. } => {
            arity(1, 1)?;
            let mut out = args[0].dims.clone();
            match out.get_mut(*axis) {
                Some(extent) if (1..=*extent).contains(k) => *extent = *k,
                _ => return Err(format!("{k} elements of axis {axis} of {}", show(&out))),
            }
            Ok(out)
        }
        Op::Expand { dims } => {
            arity(1, 1)?;
            match broadcast(&args[0].dims, dims) {
                Some(d) if d == *dims => Ok(d),
                _ => Err(format!("{} does not expand to {}", show(&args[0].dims), show(dims))),
            }
        }
    }
}

fn bias_and_residual(args: &[&TensorTy], bias: usize, channels: usize, out: &[usize], residual: bool) -> Result<(), String> {
    let has_bias = args.len() > bias + usize::from(residual);
    if has_bias && args[bias].dims != [channels] {
        return Err(format!("bias {} does not fit {channels} output channels", show(&args[bias].dims)));
    }
    match args.last() {
        Some(r) if residual && r.dims != out => Err(format!("residual {} does not fit result {}", show(&r.dims), show(out))),
        _ => Ok(()),
    }
}

/// Whether the span of the window can be computed.
fn sound(window: &Window) -> Result<(), String> {
    for d in &window.dims {
        if d.kernel == 0 || d.stride == 0 || d.dilation == 0 {
            return Err("kernel, stride and dilation are at least 1".into());
        }
        if d.kernel.checked_mul(d.dilation).is_none() {
            return Err("window overflows".into());
        }
    }
    Ok(())
}

fn spatial(window: &Window, extents: &[usize]) -> Result<Vec<usize>, String> {
    sound(window)?;
    let mut out = Vec::with_capacity(extents.len());
    for (d, &extent) in window.dims.iter().zip(extents) {
        out.push(
            d.outputs(extent).ok_or_else(|| {
                format!("a window spanning {} does not fit extent {extent} padded by {}, {}", d.span(), d.before, d.after)
            })?,
        );
    }
    Ok(out)
}

/// Numpy broadcasting of two shapes.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let get = |d: &[usize], i: usize| if i + d.len() >= rank { d[i + d.len() - rank] } else { 1 };
    (0..rank)
        .map(|i| match (get(a, i), get(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Dimensions as `2x3x4`; `scalar` for none.
pub fn show(dims: &[usize]) -> String {
    if dims.is_empty() { "scalar".into() } else { dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x") }
}
