//! Models that arrive quantized: roundings, and operators on stored integers.
//!
//! Stored integers are values of a quantized type. An operator on them is spelled as dequantize, the float operator,
//! quantize; `push-requantize` makes one integer operator of the three. Where an operator reads integers under another
//! scale than they were stored with, or under one that is computed, the arithmetic is spelled out in floats.

use super::{convs, elementwise, layout, norms, pools};
use crate::{
    limits,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{Binary, Code, Diagnostic, Elem, Op, Quant, ReduceKind, Scalar, Scheme, Storage, Tensor, TensorTy, Value, exact};

/// Adding and subtracting this rounds an f32 of magnitude up to 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// A scale and a zero point, both constant: of one tensor, or of every slice along an axis.
struct Params {
    scale: Vec<f32>,
    zero: Vec<i64>,
    /// Dimensions of the scale.
    dims: Vec<usize>,
    /// Type of the zero point, if there is one.
    storage: Option<Storage>,
}

impl Params {
    fn one(&self) -> Option<(f32, i64)> {
        if let [scale] = self.scale[..] { Some((scale, self.zero[0])) } else { None }
    }
}

/// Integer storage of a value: that of its quantized type, or of a constant's element type in the file.
fn storage(cx: &NodeCx<'_>, v: Value) -> Option<Storage> {
    match &cx.g.ty(v).elem {
        Elem::Quant(q) => Some(q.storage()),
        _ if cx.stored.types.contains_key(&v) => cx.stored.types.get(&v).copied(),
        Elem::Scalar(Scalar::U8) => Some(Storage::U8),
        Elem::Scalar(Scalar::I8) => Some(Storage::I8),
        Elem::Scalar(Scalar::U16) => Storage::new(16, false),
        Elem::Scalar(Scalar::I16) => Some(Storage::I16),
        Elem::Scalar(Scalar::I32) => Some(Storage::I32),
        Elem::Scalar(_) => None,
    }
}

fn is_constant(cx: &NodeCx<'_>, i: usize) -> bool {
    cx.optional(i).is_none_or(|v| cx.g.tensor(v).is_some())
}

/// Operand `si` as a scale, `zi` as its zero point.
fn params(cx: &NodeCx<'_>, si: usize, zi: usize) -> Result<Params, Diagnostic> {
    if !is_constant(cx, si) || !is_constant(cx, zi) {
        return Err(cx.unsupported("computes its scale or zero point at run time"));
    }
    let scale_value = cx.arg(si)?;
    let scale = cx.g.tensor(scale_value).and_then(Tensor::to_f32);
    let scale = scale.ok_or_else(|| cx.err(Code::UnsupportedType, format!("operand {si}, a scale, has to be float")))?;
    if scale.is_empty() || !scale.iter().all(|s| s.is_finite() && *s >= 0.0) {
        return Err(cx.err(Code::BadTensor, format!("operand {si}, a scale, has an element that is negative or not finite")));
    }
    let dims = cx.dims(scale_value);
    let (zero, storage) = match cx.optional(zi) {
        None => (vec![0; scale.len()], None),
        Some(v) => {
            let ints = cx.g.tensor(v).and_then(Tensor::to_ints);
            let ints =
                ints.ok_or_else(|| cx.err(Code::UnsupportedType, format!("operand {zi}, a zero point, has to be of an integer type")))?;
            let zero = if ints.len() == 1 { vec![ints[0]; scale.len()] } else { ints };
            if zero.len() != scale.len() {
                return Err(cx.err(Code::ShapeMismatch, format!("{} zero points for {} scales", zero.len(), scale.len())));
            }
            (zero, storage(cx, v))
        }
    };
    Ok(Params { scale, zero, dims, storage })
}

fn per_tensor(cx: &NodeCx<'_>, storage: Storage, (scale, zero): (f32, i64)) -> Result<Elem, Diagnostic> {
    let zero = i32::try_from(zero).map_err(|_| cx.err(Code::BadTensor, format!("the zero point {zero} does not fit 32 bits")))?;
    Quant::per_tensor(storage, scale, zero).map(Elem::from).map_err(|e| cx.err(Code::BadTensor, e))
}

fn tensor_params(cx: &NodeCx<'_>, v: Value) -> Option<(Storage, f32, i32)> {
    let q = cx.g.ty(v).elem.quant()?;
    q.tensor_params().map(|(s, z)| (q.storage(), s, z))
}

// ---- between floats and stored integers ------------------------------------------------------------------------------

/// The type the result of a rounding has: that of its zero point, or what `output_dtype` says, or u8.
fn result_storage(cx: &NodeCx<'_>, p: &Params) -> Result<Storage, Diagnostic> {
    let named = match cx.int("output_dtype")?.unwrap_or(0) {
        0 => None,
        t => {
            let t = i32::try_from(t).unwrap_or(0);
            Some(tensor::integer_storage(t).ok_or_else(|| cx.err(Code::UnsupportedType, format!("rounds to {}", tensor::type_name(t))))?)
        }
    };
    match (p.storage, named) {
        (Some(a), Some(b)) if a != b => Err(cx.bad_attribute(format!("`output_dtype` says {b}, the zero point is a {a}"))),
        (a, b) => Ok(a.or(b).unwrap_or(Storage::U8)),
    }
}

/// Rounds floats to integers of one scale.
fn round(cx: &mut NodeCx<'_>, x: Value, elem: Elem) -> Result<Value, Diagnostic> {
    if !cx.g.ty(x).elem.is_f32() {
        return Err(cx.err(Code::UnsupportedType, format!("rounds {}", cx.g.ty(x).elem)));
    }
    if elem.quant().is_some_and(|q| q.storage() == Storage::I32) {
        return Err(cx.err(Code::UnsupportedType, "rounds to 32 bits"));
    }
    cx.push_as(Op::Quantize, &[x], elem)
}

pub fn quantize(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    let x = cx.arg(0)?;
    if !is_constant(cx, 1) || !is_constant(cx, 2) {
        let (scale, zero) = (cx.arg(1)?, cx.optional(2));
        return Ok(vec![quantize_computed(cx, x, scale, zero)?]);
    }
    let p = params(cx, 1, 2)?;
    let storage = result_storage(cx, &p)?;
    if let Some(one) = p.one() {
        let elem = per_tensor(cx, storage, one)?;
        return Ok(vec![round(cx, x, elem)?]);
    }
    let dims = cx.dims(x);
    let axis = cx.axis(cx.int("axis")?.unwrap_or(1), dims.len())?;
    let Some(data) = cx.g.tensor(x).and_then(Tensor::to_f32) else {
        return Err(cx
            .unsupported("rounds computed values under one scale per channel")
            .help("quantize activations with one scale per tensor"));
    };
    if cx.int("block_size")?.unwrap_or(0) != 0 || p.dims.len() != 1 || dims[axis] != p.scale.len() || p.zero.iter().any(|z| *z != 0) {
        return Err(cx.unsupported("rounds constants in blocks, or under zero points per channel"));
    }
    let inner: usize = dims[axis + 1..].iter().product();
    let (lo, hi) = storage.range();
    let codes = data.iter().enumerate().map(|(i, v)| i64::from(exact::quantize(*v, p.scale[i / inner.max(1) % p.scale.len()], 0, lo, hi)));
    let quant = Quant::new(storage, lo, hi, Scheme::PerAxis { axis: axis as u8, scales: p.scale.clone().into() });
    let tensor = Tensor::from_ints(TensorTy::new(dims, quant.map_err(|e| cx.err(Code::BadTensor, e))?), codes);
    let name = cx.g.values[x].name.clone();
    Ok(vec![cx.g.constant(name, tensor)])
}

/// `sat(rne(x / s) + z)` with a computed scale: integers of scale 1.
fn quantize_computed(cx: &mut NodeCx<'_>, x: Value, scale: Value, zero: Option<Value>) -> Result<Value, Diagnostic> {
    let storage = zero.and_then(|z| storage(cx, z)).unwrap_or(Storage::U8);
    let ratio = cx.push(Op::Binary(Binary::Div), &[x, scale])?;
    let sum = match zero {
        None => ratio,
        Some(zero) => {
            let zero = raw(cx, zero)?;
            let (up, down) = (cx.scalar(ROUND), cx.scalar(-ROUND));
            let shifted = cx.push(Op::Binary(Binary::Add), &[ratio, up])?;
            let whole = cx.push(Op::Binary(Binary::Add), &[shifted, down])?;
            cx.push(Op::Binary(Binary::Add), &[whole, zero])?
        }
    };
    let elem = per_tensor(cx, storage, (1.0, 0))?;
    round(cx, sum, elem)
}

pub fn dequantize(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(2, 3)?;
    if let Some(t) = cx.int("output_dtype")?
        && !matches!(t, 0 | 1 | 10 | 16)
    {
        return Err(cx.bad_attribute(format!("`output_dtype` is {t}")));
    }
    let x = cx.arg(0)?;
    if !is_constant(cx, 1) || !is_constant(cx, 2) {
        let (scale, zero) = (cx.arg(1)?, cx.optional(2));
        let mut y = raw(cx, x)?;
        if let Some(zero) = zero {
            let zero = raw(cx, zero)?;
            y = cx.push(Op::Binary(Binary::Sub), &[y, zero])?;
        }
        return Ok(vec![cx.push(Op::Binary(Binary::Mul), &[y, scale])?]);
    }
    let p = params(cx, 1, 2)?;
    let rank = cx.g.ty(x).rank();
    let axis = if p.one().is_some() { 0 } else { cx.axis(cx.int("axis")?.unwrap_or(1), rank)? };
    let block = match cx.int("block_size")?.unwrap_or(0) {
        0 => None,
        b => Some(usize::try_from(b).map_err(|_| cx.bad_attribute(format!("`block_size` is {b}")))?),
    };
    Ok(vec![reals(cx, x, p, axis, block)?])
}

/// The numbers that stored integers mean under `p`.
fn reals(cx: &mut NodeCx<'_>, x: Value, p: Params, axis: usize, block: Option<usize>) -> Result<Value, Diagnostic> {
    if cx.g.ty(x).elem.quant().is_none() {
        return match (p.one(), storage(cx, x).filter(|s| s.bits() < 32)) {
            // Integers that were computed, or came in.
            (Some(one), Some(storage)) if cx.g.tensor(x).is_none() => {
                let elem = per_tensor(cx, storage, one)?;
                let q = cx.push_as(Op::Bitcast, &[x], elem)?;
                cx.push_as(Op::Dequantize, &[q], Elem::F32)
            }
            _ => constant_reals(cx, x, p, axis, block),
        };
    }
    if let (Some((_, scale, zero)), Some((s, z))) = (tensor_params(cx, x), p.one()) {
        if scale.to_bits() == s.to_bits() && i64::from(zero) == z {
            return cx.push_as(Op::Dequantize, &[x], Elem::F32);
        }
        cx.remark(format!("reads integers of scale {scale} and zero point {zero} under scale {s} and zero point {z}: computed in floats"));
        let mut y = raw(cx, x)?;
        if z != 0 {
            let zero = cx.scalar(z as f32);
            y = cx.push(Op::Binary(Binary::Sub), &[y, zero])?;
        }
        let scale = cx.scalar(s);
        return cx.push(Op::Binary(Binary::Mul), &[y, scale]);
    }
    let same = match cx.g.ty(x).elem.quant().map(Quant::scheme) {
        Some(Scheme::PerAxis { axis: own, scales }) => {
            usize::from(*own) == axis && scales[..] == p.scale[..] && p.zero.iter().all(|z| *z == 0)
        }
        _ => false,
    };
    if same {
        cx.push_as(Op::Dequantize, &[x], Elem::F32)
    } else {
        Err(cx.unsupported("reads integers under scales per channel they were not stored with"))
    }
}

/// The numbers a constant of plain integers means under `p`.
fn constant_reals(cx: &mut NodeCx<'_>, x: Value, p: Params, axis: usize, block: Option<usize>) -> Result<Value, Diagnostic> {
    let kind = storage(cx, x);
    let (Some(storage), Some(t)) = (kind, cx.g.tensor(x).cloned()) else {
        return Err(cx.err(Code::UnsupportedType, format!("reads {} as quantized integers", cx.g.ty(x).elem)));
    };
    if p.storage.is_some_and(|z| z != storage) {
        return Err(cx.err(Code::BadGraph, "the zero point has another type than the integers"));
    }
    let name = cx.g.values[x].name.clone();
    if let Some(block) = block.filter(|_| p.scale.len() > 1) {
        return blocks(cx, &name, &t, &p, axis, block);
    }
    let dims = t.ty.dims.clone();
    if p.one().is_none() && (p.dims.len() != 1 || dims[axis] != p.scale.len()) {
        let misfit = format!("{} scales for axis {axis} of {}", p.scale.len(), quernel_ir::infer::show(&dims));
        return Err(cx.err(Code::ShapeMismatch, misfit));
    }
    // A scale of 0 means zeros; another scale means the same with codes of 0.
    let silent = p.scale.contains(&0.0);
    let some = p.scale.iter().copied().fold(0.0, f32::max);
    let scales: Vec<f32> = p.scale.iter().map(|s| if *s > 0.0 { *s } else { f32::max(some, f32::MIN_POSITIVE) }).collect();
    let direct = !silent
        && if p.one().is_some() { storage != Storage::I32 || p.zero[0] == 0 } else { storage.signed() && p.zero.iter().all(|z| *z == 0) };
    let scheme = |zero: i64| match scales[..] {
        [scale] => Scheme::PerTensor { scale, zero_point: zero as i32 },
        _ => Scheme::PerAxis { axis: axis as u8, scales: scales.clone().into() },
    };
    let typed = |cx: &NodeCx<'_>, storage: Storage, zero: i64| {
        let (lo, hi) = storage.range();
        Quant::new(storage, lo, hi, scheme(zero)).map(|q| TensorTy::new(dims.clone(), q)).map_err(|e| cx.err(Code::BadTensor, e))
    };
    let tensor = if direct && storage.bytes() == t.ty.elem.bytes() {
        let zero = if p.one().is_some() { p.zero[0] } else { 0 };
        Tensor::new(typed(cx, storage, zero)?, t.shared()).map_err(Diagnostic::bug)?
    } else {
        let inner: usize = dims.get(axis + 1..).unwrap_or_default().iter().product();
        let slice = |i: usize| if p.scale.len() == 1 { 0 } else { i / inner.max(1) % p.scale.len() };
        let codes: Vec<i64> = t.to_ints().unwrap_or_default();
        let centered: Vec<i64> =
            codes.iter().enumerate().map(|(i, q)| if p.scale[slice(i)] > 0.0 { q - p.zero[slice(i)] } else { 0 }).collect();
        let fits = |s: &Storage| centered.iter().all(|q| (i64::from(s.range().0)..=i64::from(s.range().1)).contains(q));
        let narrow = if storage.bits() < 8 { Storage::new(storage.bits(), true) } else { None };
        let held = [narrow, Some(Storage::I8), Some(Storage::I16), Some(Storage::I32)].into_iter().flatten().find(fits);
        let held = held.ok_or_else(|| cx.unsupported("integers minus their zero point do not fit 32 bits"))?;
        cx.take_bytes(centered.len().saturating_mul(held.bytes()))?;
        Tensor::from_ints(typed(cx, held, 0)?, centered)
    };
    let q = cx.g.constant(name, tensor);
    cx.push_as(Op::Dequantize, &[q], Elem::F32)
}

/// A constant with one scale per block of `size` elements along `axis`: plain floats.
fn blocks(cx: &mut NodeCx<'_>, name: &str, t: &Tensor, p: &Params, axis: usize, size: usize) -> Result<Value, Diagnostic> {
    let dims = t.ty.dims.clone();
    let fits = p.dims.len() == dims.len() && (0..dims.len()).all(|i| p.dims[i] == if i == axis { dims[i].div_ceil(size) } else { dims[i] });
    if size == 0 || !fits {
        let misfit = format!(
            "scales {} for blocks of {size} along axis {axis} of {}",
            quernel_ir::infer::show(&p.dims),
            quernel_ir::infer::show(&dims)
        );
        return Err(cx.err(Code::ShapeMismatch, misfit));
    }
    cx.take_bytes(t.ty.count().saturating_mul(4))?;
    let (inner, extent): (usize, usize) = (dims[axis + 1..].iter().product(), dims[axis]);
    let real = |(i, q): (usize, i64)| {
        let (outer, k) = (i / inner / extent, i / inner % extent);
        let s = (outer * p.dims[axis] + k / size) * inner + i % inner;
        (q - p.zero[s]) as f32 * p.scale[s]
    };
    let data: Vec<f32> = t.to_ints().unwrap_or_default().into_iter().enumerate().map(real).collect();
    Ok(cx.g.constant(name, Tensor::f32(dims, &data)))
}

/// The same integers under scale 1.
fn unit(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, Diagnostic> {
    let Some((storage, scale, zero)) = tensor_params(cx, x) else {
        return Err(cx.err(Code::UnsupportedType, format!("reads {} as integers", cx.g.ty(x).elem)));
    };
    if scale == 1.0 {
        return Ok(x);
    }
    let rounding = cx.g.producer(x).filter(|n| cx.g.nodes[*n].op == Op::Quantize);
    // `(q - z) s / s` is within a rounding of q - z, so rounding gives q again.
    let real = match rounding {
        Some(n) => cx.g.nodes[n].args[0],
        None => cx.push_as(Op::Dequantize, &[x], Elem::F32)?,
    };
    let scale = cx.scalar(scale);
    let ratio = cx.push(Op::Binary(Binary::Div), &[real, scale])?;
    let elem = per_tensor(cx, storage, (1.0, i64::from(zero)))?;
    round(cx, ratio, elem)
}

/// Stored integers as floats.
fn raw(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, Diagnostic> {
    if cx.g.ty(x).elem.quant().is_none() {
        let plain = matches!(cx.g.ty(x).elem, Elem::Scalar(s) if s.is_integer());
        return if plain {
            cx.cast(x, Scalar::F32)
        } else {
            Err(cx.err(Code::UnsupportedType, format!("reads {} as integers", cx.g.ty(x).elem)))
        };
    }
    let x = unit(cx, x)?;
    let zero = tensor_params(cx, x).map_or(0, |p| p.2);
    let y = cx.push_as(Op::Dequantize, &[x], Elem::F32)?;
    if zero == 0 {
        return Ok(y);
    }
    let zero = cx.scalar(zero as f32);
    cx.push(Op::Binary(Binary::Add), &[y, zero])
}

/// Scale and zero point by the extremes of the operand, and the operand rounded with them.
pub fn dynamic(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1)?;
    let x = cx.arg(0)?;
    let axes: Vec<usize> = (0..cx.g.ty(x).rank()).collect();
    let extreme = |kind| Op::Reduce { kind, axes: axes.clone(), keep: false };
    let (nothing, levels, byte) = (cx.scalar(0.0), cx.scalar(255.0), per_tensor(cx, Storage::U8, (1.0, 0))?);
    let (low, high) = (cx.push(extreme(ReduceKind::Min), &[x])?, cx.push(extreme(ReduceKind::Max), &[x])?);
    let (low, high) = (cx.push(Op::Binary(Binary::Min), &[low, nothing])?, cx.push(Op::Binary(Binary::Max), &[high, nothing])?);
    let span = cx.push(Op::Binary(Binary::Sub), &[high, low])?;
    let scale = cx.push(Op::Binary(Binary::Div), &[span, levels])?;
    let below = cx.push(Op::Binary(Binary::Div), &[low, scale])?;
    let offset = cx.push(Op::Binary(Binary::Sub), &[nothing, below])?;
    let zero = round(cx, offset, byte)?;
    let y = quantize_computed(cx, x, scale, Some(zero))?;
    Ok(vec![y, scale, zero])
}

// ---- operators on stored integers ------------------------------------------------------------------------------------

/// Operand `i` with scale `i + 1` and zero point `i + 2`, as floats.
fn operand(cx: &mut NodeCx<'_>, i: usize, axis: i64) -> Result<Value, Diagnostic> {
    let x = cx.arg(i)?;
    let p = params(cx, i + 1, i + 2)?;
    let axis = if p.one().is_some() { 0 } else { cx.axis(axis, cx.g.ty(x).rank())? };
    // A row of scales, [1, N], is as good as a list of them.
    let p = Params { dims: if p.dims.last() == Some(&p.scale.len()) { vec![p.scale.len()] } else { p.dims }, ..p };
    reals(cx, x, p, axis, None)
}

/// Rounds a result under scale `i` and zero point `i + 1`.
fn result(cx: &mut NodeCx<'_>, y: Value, (p, storage): (Params, Storage)) -> Built {
    let one = p.one().ok_or_else(|| cx.unsupported("has one scale per channel for its result"))?;
    let elem = per_tensor(cx, storage, one)?;
    Ok(vec![round(cx, y, elem)?])
}

fn result_params(cx: &NodeCx<'_>, i: usize) -> Result<(Params, Storage), Diagnostic> {
    let p = params(cx, i, i + 1)?;
    let storage = p.storage.unwrap_or(Storage::U8);
    Ok((p, storage))
}

/// A bias of 32-bit integers in units of `x.scale * w.scale`, as floats.
fn bias(cx: &mut NodeCx<'_>, i: usize, x: usize, w: usize) -> Result<Option<Value>, Diagnostic> {
    let Some(b) = cx.optional(i) else { return Ok(None) };
    let (x, w) = (params(cx, x, usize::MAX)?, params(cx, w, usize::MAX)?);
    let (sx, _) = x.one().ok_or_else(|| cx.unsupported("has one scale per channel for its operand"))?;
    let scale: Vec<f32> = w.scale.iter().map(|sw| sx * sw).collect();
    let n = scale.len();
    constant_reals(cx, b, Params { zero: vec![0; n], dims: vec![n], scale, storage: None }, 0, None).map(Some)
}

/// Runs the builder of a float operator on other operands.
fn float(cx: &mut NodeCx<'_>, inputs: Vec<Option<Value>>, build: fn(&mut NodeCx<'_>) -> Built) -> Result<Value, Diagnostic> {
    let own = std::mem::replace(&mut cx.inputs, inputs);
    let built = build(cx);
    cx.inputs = own;
    built?.first().copied().ok_or_else(|| Diagnostic::bug("an operator without a result"))
}

pub fn conv(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(8, 9)?;
    let to = result_params(cx, 6)?;
    let (x, w) = (operand(cx, 0, 1)?, operand(cx, 3, 0)?);
    let b = bias(cx, 8, 1, 4)?;
    let y = float(cx, vec![Some(x), Some(w), b], convs::conv)?;
    result(cx, y, to)
}

pub fn matmul(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(8, 8)?;
    let to = result_params(cx, 6)?;
    let (a, b) = (operand(cx, 0, -2)?, operand(cx, 3, -1)?);
    let y = float(cx, vec![Some(a), Some(b)], convs::matmul)?;
    result(cx, y, to)
}

pub fn gemm(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(6, 9)?;
    let transposed = cx.flag("transB", false)?;
    let to = if cx.optional(7).is_some() { Some(result_params(cx, 7)?) } else { None };
    let (a, b) = (operand(cx, 0, 1)?, operand(cx, 3, if transposed { 0 } else { 1 })?);
    let alpha = cx.float("alpha", 1.0)?;
    let c = match bias(cx, 6, 1, 4)? {
        Some(c) if alpha != 1.0 => {
            let alpha = cx.scalar(alpha);
            Some(cx.push(Op::Binary(Binary::Mul), &[c, alpha])?)
        }
        c => c,
    };
    let y = float(cx, vec![Some(a), Some(b), c], convs::gemm)?;
    match to {
        Some(to) => result(cx, y, to),
        None => Ok(vec![y]),
    }
}

/// Integers minus a zero point as floats: operand `i` with zero point `z`. The second value is what remains to be
/// subtracted, where the zero point is computed.
fn centered(cx: &mut NodeCx<'_>, i: usize, z: usize, axis: i64) -> Result<(Value, Option<Value>), Diagnostic> {
    let x = cx.arg(i)?;
    let zero = cx.optional(z);
    if cx.g.ty(x).elem.quant().is_none() {
        if !is_constant(cx, z) {
            return Err(cx.unsupported(format!("computes the zero point of operand {i}, a constant, at run time")));
        }
        let (zero, storage) = match zero {
            Some(v) => (cx.const_ints(z)?.unwrap_or_default(), storage(cx, v)),
            None => (vec![0], None),
        };
        let n = zero.len();
        let axis = if n == 1 { 0 } else { cx.axis(axis, cx.g.ty(x).rank())? };
        return Ok((constant_reals(cx, x, Params { scale: vec![1.0; n], zero, dims: vec![n], storage }, axis, None)?, None));
    }
    let x = unit(cx, x)?;
    let own = tensor_params(cx, x).map_or(0, |p| p.2);
    let y = cx.push_as(Op::Dequantize, &[x], Elem::F32)?;
    if !is_constant(cx, z) {
        let rest = raw(cx, cx.arg(z)?)?;
        if own == 0 {
            return Ok((y, Some(rest)));
        }
        let own = cx.scalar(own as f32);
        return Ok((y, Some(cx.push(Op::Binary(Binary::Sub), &[rest, own])?)));
    }
    let zero = match zero {
        Some(_) => cx.const_ints(z)?.unwrap_or_default(),
        None => vec![0],
    };
    match zero[..] {
        [z] if z == i64::from(own) => Ok((y, None)),
        [z] => {
            let rest = cx.scalar(z as f32 - own as f32);
            Ok((y, Some(rest)))
        }
        _ => Err(cx.unsupported(format!("has one zero point per row for operand {i}"))),
    }
}

/// Subtracts the operand's zero point after the product: `rest` times the product of ones.
fn without(cx: &mut NodeCx<'_>, y: Value, rest: Value, x: Value, w: Value, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    let dims = cx.dims(x);
    cx.take_bytes(tensor::count(&dims).map_err(|d| d.at(cx.label))?.saturating_mul(4))?;
    let ones = cx.g.constant("ones", Tensor::f32(dims.clone(), &vec![1.0; dims.iter().product()]));
    let sums = float(cx, vec![Some(ones), Some(w)], build)?;
    let scaled = cx.push(Op::Binary(Binary::Mul), &[sums, rest])?;
    Ok(vec![cx.push(Op::Binary(Binary::Sub), &[y, scaled])?])
}

/// The sums of a layer on integers, as floats: exact up to 2^24.
fn sums(cx: &mut NodeCx<'_>, weights_axis: i64, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(2, 4)?;
    let (x, rest) = centered(cx, 0, 2, -2)?;
    let (mut w, weights_rest) = centered(cx, 1, 3, weights_axis)?;
    if let Some(rest) = weights_rest {
        w = cx.push(Op::Binary(Binary::Sub), &[w, rest])?;
    }
    let constant = cx.g.producer(w).is_some_and(|n| cx.g.tensor(cx.g.nodes[n].args[0]).is_some());
    match rest {
        None => Ok(vec![float(cx, vec![Some(x), Some(w)], build)?]),
        Some(rest) if constant => {
            let y = float(cx, vec![Some(x), Some(w)], build)?;
            without(cx, y, rest, x, w, build)
        }
        Some(rest) => {
            let x = cx.push(Op::Binary(Binary::Sub), &[x, rest])?;
            Ok(vec![float(cx, vec![Some(x), Some(w)], build)?])
        }
    }
}

pub fn conv_integer(cx: &mut NodeCx<'_>) -> Built {
    sums(cx, 0, convs::conv)
}
pub fn matmul_integer(cx: &mut NodeCx<'_>) -> Built {
    sums(cx, -1, convs::matmul)
}

/// One operand, then its result.
fn one(cx: &mut NodeCx<'_>, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(4, 5)?;
    if cx.flag("channels_last", false)? {
        return Err(cx.unsupported("reads images with channels last"));
    }
    let to = result_params(cx, 3)?;
    let x = operand(cx, 0, 1)?;
    let y = float(cx, vec![Some(x)], build)?;
    result(cx, y, to)
}

pub fn average_pool(cx: &mut NodeCx<'_>) -> Built {
    one(cx, pools::average)
}
pub fn global_average_pool(cx: &mut NodeCx<'_>) -> Built {
    one(cx, pools::global_average)
}
pub fn leaky_relu(cx: &mut NodeCx<'_>) -> Built {
    one(cx, elementwise::leaky_relu)
}
pub fn sigmoid(cx: &mut NodeCx<'_>) -> Built {
    one(cx, elementwise::sigmoid)
}
pub fn softmax(cx: &mut NodeCx<'_>) -> Built {
    cx.opset = cx.int("opset")?.unwrap_or(cx.opset);
    one(cx, norms::softmax)
}

fn two(cx: &mut NodeCx<'_>, build: fn(&mut NodeCx<'_>) -> Built) -> Built {
    cx.arity(7, 8)?;
    let to = result_params(cx, 6)?;
    let (a, b) = (operand(cx, 0, 1)?, operand(cx, 3, 1)?);
    let y = float(cx, vec![Some(a), Some(b)], build)?;
    result(cx, y, to)
}

pub fn add(cx: &mut NodeCx<'_>) -> Built {
    two(cx, elementwise::add)
}
pub fn mul(cx: &mut NodeCx<'_>) -> Built {
    two(cx, elementwise::mul)
}

pub fn concat(cx: &mut NodeCx<'_>) -> Built {
    let n = cx.inputs.len();
    if n < 5 || !(n - 2).is_multiple_of(3) || n > limits::SHAPE_ELEMENTS {
        return Err(cx.err(Code::BadGraph, format!("takes a scale, a zero point and triples of operands, not {n} operands")));
    }
    let to = result_params(cx, 0)?;
    let parts = (2..n).step_by(3).map(|i| operand(cx, i, 1).map(Some)).collect::<Result<Vec<_>, _>>()?;
    let y = float(cx, parts, layout::concat)?;
    result(cx, y, to)
}
