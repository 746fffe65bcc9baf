//! Shape arithmetic: what exporters compute on integers before a Reshape, a Slice or a Resize.
//!
//! The types of later operators depend on these numbers, so they are evaluated while the graph is built. Only constant
//! integers take part, and only few of them.

use crate::{limits, node::NodeCx, tensor};
use quernel_ir::{
    Binary, Code, Diagnostic, Scalar, Tensor, TensorTy, infer,
    plain::{self, Number},
};

/// A small integer tensor.
#[derive(Clone)]
struct Ints {
    dims: Vec<usize>,
    data: Vec<i64>,
    scalar: Scalar,
}

impl Ints {
    fn of(self, scalar: Scalar) -> Self {
        Self { scalar, ..self }
    }
    fn tensor(self) -> Tensor {
        Tensor::from_ints(TensorTy::new(self.dims, self.scalar), self.data)
    }
    fn like(&self, dims: Vec<usize>, data: Vec<i64>) -> Self {
        Self { dims, data, scalar: self.scalar }
    }
}

/// The result of a node on constant integers, `None` when it is none or another kind of node.
pub fn evaluate(cx: &NodeCx<'_>, op: &str) -> Result<Option<Tensor>, Diagnostic> {
    if op == "Shape" || op == "Size" {
        cx.arity(1, 1)?;
        let dims = cx.dims(cx.arg(0)?);
        let all: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        return Ok(Some(if op == "Size" { Tensor::i64([], &[dims.iter().product::<usize>() as i64]) } else { shape(cx, &all)? }));
    }
    let small = |i: usize| -> Option<Ints> {
        let v = cx.optional(i)?;
        let t = cx.g.tensor(v).filter(|_| cx.small(v).is_none())?;
        let scalar = t.ty.elem.scalar().filter(|s| !s.is_float())?;
        (t.ty.count() <= limits::SHAPE_ELEMENTS).then_some(())?;
        Some(Ints { dims: t.ty.dims.clone(), data: t.to_ints()?, scalar })
    };
    let Some(args) = (0..cx.inputs.len()).map(small).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let Some(x) = args.first() else { return Ok(None) };
    let misfit = || cx.err(Code::ShapeMismatch, "integer operands do not broadcast");
    if let Some(f) = function(cx, op)? {
        let [a, b] = &args[..] else { return Ok(None) };
        if matches!(f, Binary::Div | Binary::Remainder | Binary::Modulo) && b.data.contains(&0) {
            return Err(by_zero(cx));
        }
        let result = zip(a, b, |x, y| plain::integer(f, a.scalar, x.into(), y.into()) as i64).ok_or_else(misfit)?;
        return Ok(Some(result.tensor()));
    }
    let relation = |f: fn(i64, i64) -> bool| -> Result<Ints, Diagnostic> {
        cx.arity(2, 2)?;
        Ok(zip(x, &args[1], |a, b| f(a, b).into()).ok_or_else(misfit)?.of(Scalar::Bool))
    };
    let each = |f: &dyn Fn(i64) -> i64| x.like(x.dims.clone(), x.data.iter().map(|d| f(*d)).collect());
    let result = match op {
        "Equal" => relation(|a, b| a == b)?,
        "Less" => relation(|a, b| a < b)?,
        "LessOrEqual" => relation(|a, b| a <= b)?,
        "Greater" => relation(|a, b| a > b)?,
        "GreaterOrEqual" => relation(|a, b| a >= b)?,
        "Not" => each(&|d| 1 - (d & 1)),
        "Where" => {
            cx.arity(3, 3)?;
            let chosen = zip(x, &args[1], |c, a| if c != 0 { a } else { 0 });
            let other = zip(x, &args[2], |c, b| if c != 0 { 0 } else { b });
            let all = chosen.zip(other).and_then(|(a, b)| zip(&a, &b, |a, b| a | b));
            all.ok_or_else(misfit)?.of(args[1].scalar)
        }
        "Reshape" => reshape(cx, x, args.get(1))?,
        "Identity" => x.clone(),
        "Neg" => each(&i64::wrapping_neg),
        "Abs" => each(&i64::wrapping_abs),
        "Cast" => match tensor::scalar(i32::try_from(cx.int("to")?.unwrap_or(0)).unwrap_or(0)) {
            Some(to) if !to.is_float() => {
                let read = |d: i64| plain::wrap(to, Number::Int(d.into()).bits(to).into()) as i64;
                each(&read).of(to)
            }
            _ => return Ok(None),
        },
        "Gather" if x.dims.len() == 1 => gather(cx, x, args.get(1))?,
        "Concat" => {
            let rank = x.dims.len();
            if args.iter().any(|a| a.dims.len() != 1) || rank != 1 {
                return Ok(None);
            }
            let data: Vec<i64> = args.iter().flat_map(|a| a.data.iter().copied()).collect();
            x.like(vec![data.len()], data)
        }
        "Squeeze" if x.data.len() == 1 => x.like(vec![], x.data.clone()),
        "Unsqueeze" if x.dims.is_empty() => x.like(vec![1], x.data.clone()),
        "Slice" if x.dims.len() == 1 => slice(cx, x, &args)?,
        "ConstantOfShape" => return Ok(None),
        _ => return Ok(None),
    };
    if result.data.len() > limits::SHAPE_ELEMENTS {
        return Err(cx.err(Code::LimitExceeded, format!("shape arithmetic on {} elements", result.data.len())));
    }
    Ok(Some(result.tensor()))
}

/// A constant divisor of integers holds 0.
pub fn by_zero(cx: &NodeCx<'_>) -> Diagnostic {
    cx.err(Code::BadGraph, "divides integers by a constant 0")
}

/// The function of two integers an operator is.
fn function(cx: &NodeCx<'_>, op: &str) -> Result<Option<Binary>, Diagnostic> {
    Ok(Some(match op {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "Mod" if cx.flag("fmod", false)? => Binary::Remainder,
        "Mod" => Binary::Modulo,
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        _ => return Ok(None),
    }))
}

fn shape(cx: &NodeCx<'_>, all: &[i64]) -> Result<Tensor, Diagnostic> {
    let rank = all.len() as i64;
    let bound = |x: i64| (if x < 0 { x.saturating_add(rank) } else { x }).clamp(0, rank) as usize;
    let (start, end) = (bound(cx.int("start")?.unwrap_or(0)), bound(cx.int("end")?.unwrap_or(rank)));
    let part = &all[start..end.max(start)];
    Ok(Tensor::i64([part.len()], part))
}

fn zip(a: &Ints, b: &Ints, f: impl Fn(i64, i64) -> i64) -> Option<Ints> {
    let dims = infer::broadcast(&a.dims, &b.dims)?;
    let n: usize = dims.iter().product();
    if n > limits::SHAPE_ELEMENTS {
        return None;
    }
    let at = |x: &Ints, flat: usize| {
        let (mut rest, mut index, mut stride) = (flat, 0, 1);
        for (i, d) in dims.iter().enumerate().rev() {
            let here = rest % d;
            rest /= d;
            if let Some(j) = (i + x.dims.len()).checked_sub(dims.len()) {
                index += if x.dims[j] == 1 { 0 } else { here * stride };
                stride *= x.dims[j];
            }
        }
        x.data[index]
    };
    let data = (0..n).map(|i| f(at(a, i), at(b, i))).collect();
    Some(a.like(dims, data))
}

/// Integers under other dimensions, one of which may be left to be found out.
fn reshape(cx: &NodeCx<'_>, x: &Ints, to: Option<&Ints>) -> Result<Ints, Diagnostic> {
    let to = to.ok_or_else(|| cx.err(Code::BadGraph, "operand 1 is left out, but required"))?;
    let copied = |(i, d): (usize, &i64)| if *d == 0 { x.dims.get(i).map_or(0, |d| *d as i64) } else { *d };
    let wanted: Vec<i64> = to.data.iter().enumerate().map(copied).collect();
    let known: usize = wanted.iter().filter(|d| **d >= 0).map(|d| *d as usize).product();
    let free = x.data.len().checked_div(known).unwrap_or(0);
    let dims: Vec<usize> = wanted.iter().map(|d| usize::try_from(*d).unwrap_or(free)).collect();
    if dims.iter().product::<usize>() != x.data.len() || dims.len() > limits::RANK {
        return Err(cx.err(Code::ShapeMismatch, format!("{} integers do not fill the shape {:?}", x.data.len(), to.data)));
    }
    Ok(x.like(dims, x.data.clone()))
}

fn gather(cx: &NodeCx<'_>, x: &Ints, indices: Option<&Ints>) -> Result<Ints, Diagnostic> {
    let indices = indices.ok_or_else(|| cx.err(Code::BadGraph, "operand 1 is left out, but required"))?;
    cx.axis(cx.int("axis")?.unwrap_or(0), 1)?;
    let n = x.data.len() as i64;
    let pick = |i: &i64| {
        let at = if *i < 0 { i.checked_add(n)? } else { *i };
        x.data.get(usize::try_from(at).ok()?).copied()
    };
    let data: Option<Vec<i64>> = indices.data.iter().map(pick).collect();
    let data = data.ok_or_else(|| cx.err(Code::ShapeMismatch, format!("gathers elements {:?} of {n}", indices.data)))?;
    Ok(x.like(indices.dims.clone(), data))
}

fn slice(cx: &NodeCx<'_>, x: &Ints, args: &[Ints]) -> Result<Ints, Diagnostic> {
    let one = |i: usize, name: &str, default: i64| -> Result<i64, Diagnostic> {
        if let Some(a) = args.get(i) {
            return match a.data.as_slice() {
                &[v] => Ok(v),
                _ => Err(cx.err(Code::ShapeMismatch, format!("operand {i} does not have one element"))),
            };
        }
        Ok(cx.ints(name)?.and_then(|v| v.first().copied()).unwrap_or(default))
    };
    let n = x.data.len() as i64;
    let (start, end, step) = (one(1, "starts", 0)?, one(2, "ends", n)?, one(4, "steps", 1)?);
    let (first, step, len) =
        crate::ops::slice_axis(start, end, step, x.data.len()).ok_or_else(|| cx.bad_attribute("the step of a slice is 0"))?;
    let data: Vec<i64> = (0..len).map(|i| x.data[(first as isize + i as isize * step) as usize]).collect();
    Ok(x.like(vec![data.len()], data))
}
