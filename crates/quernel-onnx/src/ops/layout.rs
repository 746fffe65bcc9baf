//! Operators that move elements without changing them.

use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Code, Diagnostic, Op, Value};

pub fn flatten(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let axis = cx.int("axis")?.unwrap_or(1);
    let axis = if axis == dims.len() as i64 { dims.len() } else { cx.axis(axis, dims.len())? };
    Ok(vec![cx.reshape(x, vec![dims[..axis].iter().product(), dims[axis..].iter().product()])?])
}

pub fn reshape(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let keep_zero = cx.flag("allowzero", false)?;
    let asked = cx.const_ints(1)?.unwrap_or_default();
    if asked.len() > limits::RANK {
        return Err(cx.err(Code::LimitExceeded, format!("a shape of {} axes; the limit is {}", asked.len(), limits::RANK)));
    }
    let misfit = |cx: &NodeCx<'_>| cx.err(Code::ShapeMismatch, format!("cannot give {dims:?} the shape {asked:?}"));
    let mut known = Vec::new();
    let mut open = None;
    for (i, &d) in asked.iter().enumerate() {
        known.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !keep_zero => *dims.get(i).ok_or_else(|| misfit(cx))?,
            d => usize::try_from(d).map_err(|_| misfit(cx))?,
        });
    }
    let rest = tensor::count(&known).map_err(|d| d.at(cx.label))?;
    let count: usize = dims.iter().product();
    if let Some(i) = open {
        if rest == 0 || !count.is_multiple_of(rest) {
            return Err(misfit(cx));
        }
        known[i] = count / rest;
    } else if rest != count {
        return Err(misfit(cx));
    }
    Ok(vec![cx.reshape(x, known)?])
}

pub fn transpose(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let rank = cx.g.ty(x).rank();
    let perm = match cx.ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(p) => {
            let axis = |a: &i64| usize::try_from(*a).ok().filter(|a| *a < rank);
            p.iter().map(axis).collect::<Option<Vec<_>>>().ok_or_else(|| cx.bad_attribute(format!("attribute `perm` is {p:?}")))?
        }
    };
    Ok(vec![cx.push(Op::Transpose { perm }, &[x])?])
}

pub fn concat(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1 << 12)?;
    let mut args = (0..cx.inputs.len()).map(|i| cx.arg(i)).collect::<Result<Vec<_>, _>>()?;
    let axis = cx.int("axis")?.ok_or_else(|| cx.bad_attribute("attribute `axis` is missing"))?;
    let axis = cx.axis(axis, cx.g.ty(args[0]).rank())?;
    // Parts without elements, of which no tensor is made, add nothing.
    if let Some(whole) = args.iter().position(|v| cx.dims(*v).get(axis).is_some_and(|n| *n > 0)) {
        let first = args[whole];
        let (rank, elem) = (cx.g.ty(first).rank(), cx.g.ty(first).elem.clone());
        args.retain(|v| cx.g.ty(*v).rank() != rank || cx.g.ty(*v).elem != elem || cx.dims(*v)[axis] > 0);
    }
    Ok(vec![if let [one] = args[..] { one } else { cx.push(Op::Concat { axis }, &args)? }])
}

/// First index, step and number of elements of a slice of an axis; `None` for step 0.
pub fn slice_axis(start: i64, end: i64, step: i64, extent: usize) -> Option<(usize, isize, usize)> {
    let n = extent as i64;
    let absolute = |x: i64| if x < 0 { x.saturating_add(n) } else { x };
    let (start, end) = (absolute(start), absolute(end));
    let (first, last) = match step.signum() {
        1 => (start.clamp(0, n), end.clamp(0, n)),
        -1 => (start.clamp(-1, n - 1), end.clamp(-1, n - 1)),
        _ => return None,
    };
    let span = if step > 0 { last - first } else { first - last };
    let len = if span <= 0 { 0 } else { (span as u64).div_ceil(step.unsigned_abs()) as usize };
    // Steps longer than the axis reach the first element only.
    Some((first.clamp(0, n.max(1) - 1) as usize, step.clamp(-n.max(1), n.max(1)) as isize, len))
}

/// A slice of one axis or several; the others stay whole.
pub(super) fn push_slice(cx: &mut NodeCx<'_>, x: Value, parts: &[(usize, usize, isize, usize)]) -> Result<Value, Diagnostic> {
    let dims = cx.dims(x);
    let (mut start, mut step, mut len) = (vec![0; dims.len()], vec![1; dims.len()], dims.clone());
    for &(axis, first, by, n) in parts {
        (start[axis], step[axis], len[axis]) = (first, by, n);
    }
    if len == dims && step.iter().all(|s| *s == 1) {
        return Ok(x);
    }
    cx.push(Op::Slice { start, step, len }, &[x])
}

pub fn slice(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 5)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let bound = |i: usize, name: &str| -> Result<Option<Vec<i64>>, Diagnostic> {
        match cx.const_ints(i)? {
            Some(v) => Ok(Some(v)),
            None => cx.ints(name),
        }
    };
    let missing = |name: &str| cx.err(Code::BadGraph, format!("has no {name}"));
    let starts = bound(1, "starts")?.ok_or_else(|| missing("starts"))?;
    let ends = bound(2, "ends")?.ok_or_else(|| missing("ends"))?;
    let axes = bound(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = cx.const_ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(cx.err(Code::ShapeMismatch, "starts, ends, axes and steps differ in length"));
    }
    cx.axes(&axes, dims.len())?;
    let mut parts = Vec::new();
    for i in 0..starts.len() {
        let axis = cx.axis(axes[i], dims.len())?;
        let (first, step, len) = slice_axis(starts[i], ends[i], steps[i], dims[axis]).ok_or_else(|| cx.bad_attribute("a step is 0"))?;
        parts.push((axis, first, step, len));
    }
    Ok(vec![push_slice(cx, x, &parts)?])
}

pub fn split(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(0), dims.len())?;
    let extent = dims[axis];
    let given = match cx.const_ints(1)? {
        Some(v) => Some(v),
        None => cx.ints("split")?,
    };
    let outputs = cx.proto.output.len();
    let parts: Vec<usize> = match given {
        Some(parts) => {
            let parts: Option<Vec<usize>> = parts.iter().map(|p| usize::try_from(*p).ok()).collect();
            parts.ok_or_else(|| cx.bad_attribute("a part has a negative extent"))?
        }
        None => {
            let n = match cx.int("num_outputs")? {
                Some(n) => usize::try_from(n)
                    .ok()
                    .filter(|n| *n > 0 && *n <= extent)
                    .ok_or_else(|| cx.bad_attribute(format!("cannot make {n} parts of {extent}")))?,
                None => outputs.max(1),
            };
            let each = extent.div_ceil(n);
            if cx.int("num_outputs")?.is_none() && !extent.is_multiple_of(n) || each * (n - 1) >= extent {
                return Err(cx.err(Code::ShapeMismatch, format!("{extent} elements do not split into {n} parts")));
            }
            (0..n).map(|i| each.min(extent - i * each)).collect()
        }
    };
    if parts.len() != outputs || parts.iter().try_fold(0usize, |a, p| a.checked_add(*p)) != Some(extent) {
        return Err(cx.err(Code::ShapeMismatch, format!("parts {parts:?} do not make {outputs} results of {extent} elements")));
    }
    let mut at = 0;
    let mut values = Vec::new();
    for len in parts {
        values.push(push_slice(cx, x, &[(axis, at, 1, len)])?);
        at += len;
    }
    Ok(values)
}

fn listed_axes(cx: &NodeCx<'_>) -> Result<Option<Vec<i64>>, Diagnostic> {
    match cx.const_ints(1)? {
        Some(axes) => Ok(Some(axes)),
        None => cx.ints("axes"),
    }
}

pub fn squeeze(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let dims = cx.dims(x);
    let axes = match listed_axes(cx)? {
        Some(axes) => cx.axes(&axes, dims.len())?,
        None => (0..dims.len()).filter(|&a| dims[a] == 1).collect(),
    };
    if let Some(a) = axes.iter().find(|&&a| dims[a] != 1) {
        return Err(cx.err(Code::ShapeMismatch, format!("axis {a} of {dims:?} has more than one element")));
    }
    let kept = dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d).collect();
    Ok(vec![cx.reshape(x, kept)?])
}

pub fn unsqueeze(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 2)?;
    let x = cx.arg(0)?;
    let mut dims = cx.dims(x);
    let axes = listed_axes(cx)?.ok_or_else(|| cx.bad_attribute("has no axes"))?;
    for axis in cx.axes(&axes, dims.len() + axes.len())? {
        dims.insert(axis, 1);
    }
    if dims.len() > limits::RANK {
        return Err(cx.err(Code::LimitExceeded, format!("the result has {} axes; the limit is {}", dims.len(), limits::RANK)));
    }
    Ok(vec![cx.reshape(x, dims)?])
}

pub fn expand(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 2)?;
    let x = cx.arg(0)?;
    let asked = cx.const_ints(1)?.unwrap_or_default();
    let asked = tensor::dimensions(&asked).map_err(|d| Diagnostic { code: Code::ShapeMismatch, ..d }.at(cx.label))?;
    let dims = quernel_ir::infer::broadcast(&cx.dims(x), &asked)
        .ok_or_else(|| cx.err(Code::ShapeMismatch, format!("cannot expand {:?} to {asked:?}", cx.dims(x))))?;
    Ok(vec![if cx.dims(x) == dims { x } else { cx.push(Op::Expand { dims }, &[x])? }])
}

/// An attribute that names an axis.
pub(super) fn tensor_axis(cx: &NodeCx<'_>, name: &str, default: i64, rank: usize) -> Result<usize, Diagnostic> {
    cx.axis(cx.int(name)?.unwrap_or(default), rank)
}

fn block(cx: &NodeCx<'_>, x: Value) -> Result<(Vec<usize>, usize), Diagnostic> {
    let dims = cx.dims(x);
    let block = cx.int("blocksize")?.and_then(|b| usize::try_from(b).ok()).filter(|b| (1..1 << 16).contains(b));
    let block = block.ok_or_else(|| cx.bad_attribute("attribute `blocksize` has to be at least 1"))?;
    if dims.len() == 4 {
        Ok((dims, block))
    } else {
        Err(cx.err(Code::ShapeMismatch, format!("operand of rank {} instead of 4", dims.len())))
    }
}

pub fn depth_to_space(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let (d, b) = block(cx, x)?;
    if !d[1].is_multiple_of(b * b) {
        return Err(cx.err(Code::ShapeMismatch, format!("{} channels do not hold blocks of {b}x{b}", d[1])));
    }
    let c = d[1] / (b * b);
    let (split, perm) = match cx.text("mode")?.as_deref() {
        None | Some("DCR") => (vec![d[0], b, b, c, d[2], d[3]], vec![0, 3, 4, 1, 5, 2]),
        Some("CRD") => (vec![d[0], c, b, b, d[2], d[3]], vec![0, 1, 4, 2, 5, 3]),
        Some(mode) => return Err(cx.bad_attribute(format!("attribute `mode` is {mode:?}"))),
    };
    let y = cx.reshape(x, split)?;
    let y = cx.push(Op::Transpose { perm }, &[y])?;
    Ok(vec![cx.reshape(y, vec![d[0], c, d[2] * b, d[3] * b])?])
}

pub fn space_to_depth(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let (d, b) = block(cx, x)?;
    if !d[2].is_multiple_of(b) || !d[3].is_multiple_of(b) {
        return Err(cx.err(Code::ShapeMismatch, format!("{}x{} does not divide into blocks of {b}x{b}", d[2], d[3])));
    }
    let y = cx.reshape(x, vec![d[0], d[1], d[2] / b, b, d[3] / b, b])?;
    let perm = match cx.text("mode")?.as_deref() {
        None | Some("DCR") => vec![0, 3, 5, 1, 2, 4],
        Some("CRD") => vec![0, 1, 3, 5, 2, 4],
        Some(mode) => return Err(cx.bad_attribute(format!("attribute `mode` is {mode:?}"))),
    };
    let y = cx.push(Op::Transpose { perm }, &[y])?;
    Ok(vec![cx.reshape(y, vec![d[0], d[1] * b * b, d[2] / b, d[3] / b])?])
}
