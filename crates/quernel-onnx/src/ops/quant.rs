//! Models that arrive quantized: QuantizeLinear and DequantizeLinear.
//!
//! Stored integers are values of a quantized type. An operator on them is spelled as dequantize, the float operator,
//! quantize; `push-requantize` makes one integer operator of the three. Where an operator reads integers under another
//! scale than they were stored with, or under one that is computed, the arithmetic is spelled out in floats.

use super::small_floats;
use crate::{
    narrow::Narrow,
    node::{Built, NodeCx},
    tensor,
};
use quernel_ir::{
    Binary, Code, Diagnostic, Elem, Graph, Op, Quant, ReduceKind, Scalar, Scheme, Storage, Tensor, TensorTy, Unary, Value, exact,
};

/// Adding and subtracting this rounds an f32 of magnitude up to 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// A scale and a zero point, both constant: of one tensor, or of every slice along an axis.
pub(super) struct Params {
    pub scale: Vec<f32>,
    pub zero: Vec<i64>,
    /// Dimensions of the scale.
    pub dims: Vec<usize>,
    /// Type of the zero point, if there is one.
    pub storage: Option<Storage>,
}

impl Params {
    pub fn one(&self) -> Option<(f32, i64)> {
        if let [scale] = self.scale[..] { Some((scale, self.zero[0])) } else { None }
    }
}

/// Integer storage of a value: that of its quantized type, or of a constant's element type in the file.
pub(super) fn storage(cx: &NodeCx<'_>, v: Value) -> Option<Storage> {
    match &cx.g.ty(v).elem {
        Elem::Quant(q) => Some(q.storage()),
        _ if cx.stored.types.contains_key(&v) => match cx.stored.types.get(&v) {
            Some(Narrow::Integer(storage)) => Some(*storage),
            _ => None,
        },
        Elem::Scalar(Scalar::U8) => Some(Storage::U8),
        Elem::Scalar(Scalar::I8) => Some(Storage::I8),
        Elem::Scalar(Scalar::U16) => Storage::new(16, false),
        Elem::Scalar(Scalar::I16) => Some(Storage::I16),
        Elem::Scalar(Scalar::I32) => Some(Storage::I32),
        Elem::Scalar(_) => None,
    }
}

pub(super) fn is_constant(cx: &NodeCx<'_>, i: usize) -> bool {
    cx.optional(i).is_none_or(|v| cx.g.tensor(v).is_some())
}

/// Operand `si` as a scale, `zi` as its zero point.
pub(super) fn params(cx: &NodeCx<'_>, si: usize, zi: usize) -> Result<Params, Diagnostic> {
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
            let storage = storage(cx, v).ok_or_else(|| {
                cx.err(Code::UnsupportedType, format!("operand {zi}, a zero point, is {}, which nothing is stored in", cx.g.ty(v).elem))
            })?;
            (zero, Some(storage))
        }
    };
    Ok(Params { scale, zero, dims, storage })
}

pub(super) fn per_tensor(cx: &NodeCx<'_>, storage: Storage, (scale, zero): (f32, i64)) -> Result<Elem, Diagnostic> {
    let zero = i32::try_from(zero).map_err(|_| cx.err(Code::BadTensor, format!("the zero point {zero} does not fit 32 bits")))?;
    Quant::per_tensor(storage, scale, zero).map(Elem::from).map_err(|e| cx.err(Code::BadTensor, e))
}

pub(super) fn tensor_params(cx: &NodeCx<'_>, v: Value) -> Option<(Storage, f32, i32)> {
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
pub(super) fn round(cx: &mut NodeCx<'_>, x: Value, elem: Elem) -> Result<Value, Diagnostic> {
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
    if let Some(s) = small_floats::result(cx)? {
        return small_floats::quantize(cx, s);
    }
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
    let block = block_size(cx)?;
    let (scale, zeros) = several(cx, &p, axis, block, &dims)?;
    let Some(data) = cx.g.tensor(x).and_then(Tensor::to_f32) else {
        let scale = cx.g.constant("scales", scale);
        let zero = zeros.map(|z| cx.g.constant("zero points", z));
        return Ok(vec![quantize_by(cx, x, scale, zero, storage)?]);
    };
    // As if the file held the integers.
    cx.take_bytes(data.len().saturating_mul(8 + storage.bytes()))?;
    let all = |t: &Tensor| spread(&t.to_f32().unwrap_or_default(), &t.ty.dims, &dims).unwrap_or_default();
    let (scales, zeros) = (all(&scale), zeros.as_ref().map(all));
    let (lo, hi) = storage.range();
    let zero = |i: usize| zeros.as_ref().map_or(0, |z| z[i] as i32);
    let codes: Vec<i64> = data.iter().enumerate().map(|(i, v)| i64::from(exact::quantize(*v, scales[i], zero(i), lo, hi))).collect();
    Ok(vec![stored(cx, x, dims, codes, storage)])
}

/// A constant of plain integers, as the file would hold them.
fn stored(cx: &mut NodeCx<'_>, x: Value, dims: Vec<usize>, codes: Vec<i64>, storage: Storage) -> Value {
    let scalar = match (storage.bits(), storage.signed()) {
        (1..=8, true) => Scalar::I8,
        (1..=8, false) => Scalar::U8,
        (9..=16, true) => Scalar::I16,
        (9..=16, false) => Scalar::U16,
        _ => Scalar::I32,
    };
    let name = cx.g.values[x].name.clone();
    let v = cx.g.constant(name, Tensor::from_ints(TensorTy::new(dims, scalar), codes));
    if storage.bits() < 8 {
        cx.stored.types.insert(v, Narrow::Integer(storage));
    }
    v
}

pub(super) fn block_size(cx: &NodeCx<'_>) -> Result<Option<usize>, Diagnostic> {
    match cx.int("block_size")?.unwrap_or(0) {
        0 => Ok(None),
        b => usize::try_from(b).map(Some).map_err(|_| cx.bad_attribute(format!("`block_size` is {b}"))),
    }
}

/// Scales along `axis` of `dims`, or one per block of it, as a tensor that broadcasts to `dims`; the same of the zero points,
/// unless all are 0.
fn several(
    cx: &mut NodeCx<'_>,
    p: &Params,
    axis: usize,
    block: Option<usize>,
    dims: &[usize],
) -> Result<(Tensor, Option<Tensor>), Diagnostic> {
    let zero: Vec<f32> = p.zero.iter().map(|z| *z as f32).collect();
    let some = p.zero.iter().any(|z| *z != 0);
    let Some(size) = block else {
        if p.dims.len() != 1 || dims[axis] != p.scale.len() {
            return Err(misfit(cx, p, axis, dims));
        }
        let mut own = vec![1; dims.len()];
        own[axis] = p.scale.len();
        return Ok((Tensor::f32(own.clone(), &p.scale), some.then(|| Tensor::f32(own, &zero))));
    };
    fits_blocks(cx, p, axis, size, dims)?;
    let count: usize = dims.iter().product();
    cx.take_bytes(count.saturating_mul(8))?;
    let at: Vec<usize> = (0..count).map(|i| block_index(i, dims, axis, size, p.dims[axis])).collect();
    let all = |x: &[f32]| Tensor::f32(dims, &at.iter().map(|i| x[*i]).collect::<Vec<f32>>());
    Ok((all(&p.scale), some.then(|| all(&zero))))
}

fn misfit(cx: &NodeCx<'_>, p: &Params, axis: usize, dims: &[usize]) -> Diagnostic {
    cx.err(Code::ShapeMismatch, format!("{} scales for axis {axis} of {}", p.scale.len(), quernel_ir::infer::show(dims)))
}

/// Which of the scales of blocks belongs to element `i`.
fn block_index(i: usize, dims: &[usize], axis: usize, size: usize, blocks: usize) -> usize {
    let (inner, extent): (usize, usize) = (dims[axis + 1..].iter().product(), dims[axis]);
    let (outer, k) = (i / inner / extent, i / inner % extent);
    (outer * blocks + k / size) * inner + i % inner
}

fn fits_blocks(cx: &NodeCx<'_>, p: &Params, axis: usize, size: usize, dims: &[usize]) -> Result<(), Diagnostic> {
    let fits = size > 0
        && p.dims.len() == dims.len()
        && (0..dims.len()).all(|i| p.dims[i] == if i == axis { dims[i].div_ceil(size) } else { dims[i] });
    if fits {
        return Ok(());
    }
    let (own, dims) = (quernel_ir::infer::show(&p.dims), quernel_ir::infer::show(dims));
    Err(cx.err(Code::ShapeMismatch, format!("scales {own} for blocks of {size} along axis {axis} of {dims}")))
}

/// Elements of dimensions `from` repeated to `to`, as numpy broadcasts; `None` where they do not fit.
pub(super) fn spread(data: &[f32], from: &[usize], to: &[usize]) -> Option<Vec<f32>> {
    if quernel_ir::infer::broadcast(from, to).as_deref() != Some(to) {
        return None;
    }
    let lead = to.len() - from.len();
    let mut out = Vec::with_capacity(to.iter().product());
    for i in 0..to.iter().product::<usize>() {
        let (mut rest, mut index, mut stride) = (i, 0, 1);
        for (axis, d) in to.iter().enumerate().rev() {
            let here = rest % d;
            rest /= d;
            if let Some(own) = axis.checked_sub(lead).map(|a| from[a]) {
                index += if own == 1 { 0 } else { here * stride };
                stride *= own;
            }
        }
        out.push(*data.get(index)?);
    }
    Some(out)
}

/// The scales of constant operand `i`, each finite and above 0.
pub(super) fn scales(cx: &NodeCx<'_>, i: usize) -> Result<Vec<f32>, Diagnostic> {
    let v = cx.arg(i)?;
    let Some(t) = cx.g.tensor(v) else { return Err(cx.unsupported(format!("computes operand {i}, a scale, at run time"))) };
    let scale = t.to_f32().ok_or_else(|| cx.err(Code::UnsupportedType, format!("operand {i}, a scale, has to be float")))?;
    if scale.is_empty() || !scale.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(cx.err(Code::BadTensor, format!("operand {i}, a scale, has an element that is not above 0 and finite")));
    }
    Ok(scale)
}

/// The axis of `dims` along which scales of type `ty` vary; `None` where they vary along several.
pub(super) fn scale_axis(ty: &TensorTy, dims: &[usize]) -> Option<usize> {
    let lead = dims.len().checked_sub(ty.rank())?;
    let mut axes = (0..ty.rank()).filter(|&i| ty.dims[i] != 1);
    let axis = axes.next()?;
    (axes.next().is_none() && ty.dims[axis] == dims[axis + lead]).then_some(axis + lead)
}

/// The type that holds these integers, of `bits` or the fewest above that; `None` beyond 32. Where the lowest number does not
/// occur, the range is symmetric.
pub(super) fn held(codes: &[i64], bits: u8, scheme: Scheme) -> Option<Quant> {
    let (low, high) = codes.iter().fold((0, 0), |(lo, hi), q| (*q.min(&lo), *q.max(&hi)));
    let fits = |s: &Storage| i64::from(s.range().0) <= low && high <= i64::from(s.range().1);
    let storage = (bits..=16).chain([32]).filter_map(|b| Storage::new(b, true)).find(fits)?;
    let (lo, hi) = storage.range();
    let lo = if low > i64::from(lo) && hi > 0 && storage.bits() < 32 { -hi } else { lo };
    Quant::new(storage, lo, hi, scheme).ok()
}

/// `rne(v)` for magnitudes up to 2^22.
pub(super) fn nearest(cx: &mut NodeCx<'_>, v: Value) -> Result<Value, Diagnostic> {
    let (up, down) = (cx.scalar(ROUND), cx.scalar(-ROUND));
    let shifted = cx.push(Op::Binary(Binary::Add), &[v, up])?;
    cx.push(Op::Binary(Binary::Add), &[shifted, down])
}

/// Whether no element of `v` can be below 0.
pub(super) fn never_negative(g: &Graph, mut v: Value) -> bool {
    for _ in 0..64 {
        let Some(node) = g.producer(v).map(|n| &g.nodes[n]) else { return false };
        match node.op {
            Op::Dequantize => {
                let positive = |q: &Quant| q.tensor_params().is_some_and(|(_, zero)| q.min() >= zero);
                return g.ty(node.args[0]).elem.quant().is_some_and(positive);
            }
            Op::Unary(Unary::Relu) => return true,
            Op::Binary(Binary::Mul) => {
                let factor = g.tensor(node.args[1]).and_then(Tensor::to_f32);
                if !factor.is_some_and(|f| f.iter().all(|x| *x >= 0.0)) {
                    return false;
                }
            }
            Op::Pool { .. } | Op::Reduce { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => {}
            _ => return false,
        }
        v = node.args[0];
    }
    false
}

/// `sat(rne(x / s) + z)` with a computed scale: integers of scale 1.
fn quantize_computed(cx: &mut NodeCx<'_>, x: Value, scale: Value, zero: Option<Value>) -> Result<Value, Diagnostic> {
    let storage = zero.and_then(|z| storage(cx, z)).unwrap_or(Storage::U8);
    let zero = zero.map(|zero| raw(cx, zero)).transpose()?;
    quantize_by(cx, x, scale, zero, storage)
}

/// The same with a zero point in floats.
fn quantize_by(cx: &mut NodeCx<'_>, x: Value, scale: Value, zero: Option<Value>, storage: Storage) -> Result<Value, Diagnostic> {
    let ratio = cx.push(Op::Binary(Binary::Div), &[x, scale])?;
    let sum = match zero {
        None => ratio,
        Some(zero) => {
            let whole = nearest(cx, ratio)?;
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
    if let Some(s) = cx.small(x) {
        return small_floats::dequantize(cx, s);
    }
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
    let block = block_size(cx)?;
    Ok(vec![reals(cx, x, p, axis, block)?])
}

/// Integers and their zero point have one type.
fn same_storage(cx: &NodeCx<'_>, own: Storage, zero: Option<Storage>) -> Result<(), Diagnostic> {
    match zero {
        Some(zero) if zero != own => Err(cx.err(Code::BadGraph, format!("the zero point is a {zero}, and the integers are {own}"))),
        _ => Ok(()),
    }
}

/// The numbers that stored integers mean under `p`.
pub(super) fn reals(cx: &mut NodeCx<'_>, x: Value, p: Params, axis: usize, block: Option<usize>) -> Result<Value, Diagnostic> {
    if cx.g.ty(x).elem.quant().is_none() {
        return match (p.one(), storage(cx, x).filter(|s| s.bits() < 32)) {
            // Integers that were computed, or came in.
            (Some(one), Some(storage)) if cx.g.tensor(x).is_none() => {
                same_storage(cx, storage, p.storage)?;
                let elem = per_tensor(cx, storage, one)?;
                let q = cx.push_as(Op::Bitcast, &[x], elem)?;
                cx.push_as(Op::Dequantize, &[q], Elem::F32)
            }
            _ => constant_reals(cx, x, p, axis, block),
        };
    }
    if let Some((own, ..)) = tensor_params(cx, x) {
        same_storage(cx, own, p.storage)?;
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
    let dims = cx.dims(x);
    let (scale, zero) = several(cx, &p, axis, block, &dims)?;
    let mut y = raw(cx, x)?;
    if let Some(zero) = zero {
        let zero = cx.g.constant("zero points", zero);
        y = cx.push(Op::Binary(Binary::Sub), &[y, zero])?;
    }
    let scale = cx.g.constant("scales", scale);
    cx.push(Op::Binary(Binary::Mul), &[y, scale])
}

/// The numbers a constant of plain integers means under `p`.
pub(super) fn constant_reals(cx: &mut NodeCx<'_>, x: Value, p: Params, axis: usize, block: Option<usize>) -> Result<Value, Diagnostic> {
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
        return Err(misfit(cx, &p, axis, &dims));
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
    fits_blocks(cx, p, axis, size, &dims)?;
    cx.take_bytes(t.ty.count().saturating_mul(4))?;
    let real = |(i, q): (usize, i64)| {
        let s = block_index(i, &dims, axis, size, p.dims[axis]);
        (q - p.zero[s]) as f32 * p.scale[s]
    };
    let data: Vec<f32> = t.to_ints().unwrap_or_default().into_iter().enumerate().map(real).collect();
    Ok(cx.g.constant(name, Tensor::f32(dims.clone(), &data)))
}

/// The same integers under scale 1.
pub(super) fn unit(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, Diagnostic> {
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
pub(super) fn raw(cx: &mut NodeCx<'_>, x: Value) -> Result<Value, Diagnostic> {
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
