//! The operands of a layer in integers, for `push-requantize`.

use crate::{
    Cx, Sweep,
    rounded::{rounded, rounded_tensor},
    thresholds::{self, Rounding},
    wide::{self, is_wide},
};
use quernel_ir::{Diagnostic, Multiplier, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Value, exact};
use quernel_quant::Width;

/// Integer operands of a layer.
pub(crate) struct IntegerLayer {
    pub args: Vec<Value>,
    /// Whether the rounding of its result is part of it.
    pub rounded: bool,
    /// Whether operands are words and the result is rounded to bytes.
    pub wide: bool,
}

/// Weights as the integers that multiply, one row per output channel.
pub(crate) struct Weights {
    pub value: Value,
    pub quant: Quant,
    pub tensor: Tensor,
    pub centered: Vec<i64>,
    pub rows: usize,
}

const PASS: &str = "push-requantize";

/// The operands of layer `n`, if it has an integer form; `result` is what its result is rounded to.
pub(crate) fn operands(s: &mut Sweep<'_>, n: Node, result: Option<Value>, cx: &mut Cx) -> Result<Option<IntegerLayer>, Diagnostic> {
    let node = s.g.nodes[n].clone();
    let Some((act, residual)) = node.op.epilogue() else { return Ok(None) };
    let Some(mut w) = weights(s, node.args[1]) else { return Ok(None) };
    if cx.widths.get(&n) == Some(&Width::Float) {
        return Ok(None);
    }
    let stays = |cx: &mut Cx, s: &Sweep<'_>, why: String| {
        cx.remark(PASS, s.g, n, format!("stays float: {why}"));
        Ok(None)
    };
    let Some(x) = rounded_tensor(s.g, node.args[0]) else { return stays(cx, s, "its operand is not rounded to one scale".into()) };
    if !matches!(w.quant.axis(), None | Some(0)) {
        return stays(cx, s, "the scales of its weights are not those of output channels".into());
    }
    let Some((tx, (sx, zx))) = s.g.ty(x).elem.quant().and_then(|t| Some((t.clone(), t.tensor_params()?))) else { return Ok(None) };
    let has_bias = node.args.len() > 2 + usize::from(residual);
    let bias = match has_bias {
        true => match Bias::of(s, node.args[2]) {
            Some(bias) => bias,
            None => return stays(cx, s, "its bias is computed".into()),
        },
        false => Bias::None,
    };
    let addend = match (residual, node.args.last()) {
        (true, Some(&r)) => match rounded_tensor(s.g, r) {
            Some(v) => Some(v),
            _ => return Ok(None),
        },
        _ => None,
    };
    // A residual counts in whole units of the sum; where it does not, it is added to the scaled sum in floats.
    let apart = addend.is_some_and(|r| {
        let sr = s.g.ty(r).elem.quant().map_or(0.0, |q| f64::from(q.scale_at(0)));
        (0..w.rows).any(|o| {
            let units = sr / (f64::from(sx) * f64::from(w.quant.scale_at(o)));
            (units - units.round_ties_even()).abs() > 1e-6 * units
        })
    });
    if apart {
        cx.remark(PASS, s.g, n, "its residual is added in floats: it is no whole number of units of the sum");
    }
    let (addend, result) = if apart { (None, None) } else { (addend, result) };
    let addend_type = addend.and_then(|v| s.g.ty(v).elem.quant()?.tensor_params().map(|p| (p, s.g.ty(v).elem.quant().cloned())));
    let order = multiplier(&node.op);
    let mut finer = None;
    // A unit of the sum is far below a step of words.
    let words = [Some(x), addend, result].into_iter().flatten().any(|v| is_wide(&s.g.ty(v).elem));
    if let (Bias::Float(b), None, Multiplier::F32, false) = (&bias, addend, order, words)
        && b.len() == w.rows
        && b.iter().enumerate().any(|(o, b)| !is_whole(*b, sx, w.quant.scale_at(o)))
    {
        let to = result.and_then(|q| s.g.ty(q).elem.quant().cloned()).filter(|q| q.tensor_params().is_some());
        let range = (i64::from((tx.min() - zx).min(0)), i64::from((tx.max() - zx).max(0)));
        let steps = match &to {
            Some(result) => thresholds::steps(&w, b, &Rounding { sx, range, result, act, order }),
            None => thresholds::finest(&w, b, sx),
        };
        if let Some(steps) = steps
            && let Some(tensor) = thresholds::scaled(&w, steps.factor, &steps.scales)
        {
            if steps.inexact > 0 {
                let message = format!("{} of {} channels may round to a neighbouring number", steps.inexact, w.rows);
                cx.remark(PASS, s.g, n, message);
            }
            let name = s.g.values[w.value].name.clone();
            let value = s.constant(&name, tensor.clone());
            w = weights_of(value, tensor).ok_or_else(|| Diagnostic::bug("weights without a type"))?;
            finer = Some(steps.bias);
        }
    }
    let row = w.centered.len() / w.rows.max(1);
    let mut integers = Vec::with_capacity(w.rows);
    for o in 0..w.rows {
        let sw = w.quant.scale_at(o);
        if !exact::accumulator_scale(order, sx, sw).is_finite() {
            return stays(cx, s, format!("the scale of the sum of channel {o} is beyond f32"));
        }
        let factor = match &addend_type {
            None => Some(0),
            Some(((sr, _), _)) => exact::residual_factor(*sr, sx, sw),
        };
        let own = finer.as_ref().map_or_else(|| bias.integer(o, sx, sw), |b: &Vec<i32>| Some(b[o]));
        let (Some(b), Some(factor)) = (own, factor) else {
            return stays(cx, s, format!("the bias or residual of channel {o} does not fit the units of the sum"));
        };
        let sums = sums(&w.centered[o * row..(o + 1) * row], &tx, zx);
        let added = match &addend_type {
            Some(((_, zero), Some(t))) => [t.min(), t.max()].map(|r| i64::from(factor) * i64::from(r - zero)),
            _ => [0, 0],
        };
        let [lo, hi] = [0, 1].map(|i| sums[i].saturating_add(i64::from(b)).saturating_add(added[i]));
        if lo < i64::from(i32::MIN) || hi > i64::from(i32::MAX) {
            return stays(cx, s, format!("the sum of channel {o} is not proven to fit 32 bits"));
        }
        integers.push(b);
    }
    let Some((x, weights)) = bytes(s, &node.op, x, &w)? else {
        return stays(cx, s, "its weights take more than 9 bits".into());
    };
    let mut args = vec![x, weights];
    if has_bias {
        let name = s.g.values[rounded(s.g, node.args[2]).unwrap_or(node.args[2])].name.clone();
        args.push(s.constant(&name, Tensor::i32([w.rows], &integers)));
    }
    args.extend(if apart { node.args.last().copied() } else { addend });
    let rounded = result.is_some_and(|q| representable(s, n, &w, sx, q, cx));
    if words {
        let narrow = args[0];
        args[0] = wide::word(s, narrow, node.origin.clone())?;
        let word = args[0];
        if let (Some(r), Some(last)) = (addend, args.last_mut()) {
            *last = if r == narrow { word } else { wide::word(s, r, node.origin)? };
        }
    }
    let wide = words && rounded && result.is_some_and(|q| !is_wide(&s.g.ty(q).elem));
    Ok(Some(IntegerLayer { args, rounded, wide }))
}

/// Smallest and largest sum of products of a row of weights with operands of type `t`; padding is the zero point.
fn sums(weights: &[i64], t: &Quant, zero: i32) -> [i64; 2] {
    let (lo, hi) = (i64::from((t.min() - zero).min(0)), i64::from((t.max() - zero).max(0)));
    let part = |sign: i64| weights.iter().map(|w| (w * sign).max(0)).sum::<i64>();
    let (positive, negative) = (part(1), part(-1));
    [positive * lo - negative * hi, positive * hi - negative * lo]
}

fn weights(s: &Sweep<'_>, v: Value) -> Option<Weights> {
    let value = rounded(s.g, v)?;
    weights_of(value, s.g.tensor(value)?.clone())
}

fn weights_of(value: Value, tensor: Tensor) -> Option<Weights> {
    let quant = by_rows(tensor.ty.elem.quant()?, *tensor.ty.dims.first()?);
    let centered = tensor.to_ints()?.into_iter().map(|q| i64::from(quant.centered(q as i32))).collect();
    let rows = *tensor.ty.dims.first()?;
    let tensor = Tensor::new(tensor.ty.with_elem(quant.clone()), tensor.shared()).ok()?;
    Some(Weights { value, quant, tensor, centered, rows })
}

/// Equal scales along another axis are as good along that of output channels.
fn by_rows(quant: &Quant, rows: usize) -> Quant {
    let equal = |scales: &[f32]| scales.first().filter(|s| scales.iter().all(|x| x == *s)).map(|s| vec![*s; rows].into());
    let scheme = match quant.scheme() {
        Scheme::PerAxis { axis, scales } if *axis != 0 => equal(scales).map(|scales| Scheme::PerAxis { axis: 0, scales }),
        Scheme::Table { axis, scales, table } if *axis != 0 => {
            equal(scales).map(|scales| Scheme::Table { axis: 0, scales, table: table.clone() })
        }
        _ => None,
    };
    scheme.and_then(|scheme| Quant::new(quant.storage(), quant.min(), quant.max(), scheme).ok()).unwrap_or_else(|| quant.clone())
}

fn multiplier(op: &Op) -> Multiplier {
    match op {
        Op::Conv { multiplier, .. } | Op::Dense { multiplier, .. } => *multiplier,
        _ => Multiplier::F64,
    }
}

/// Whether a bias is, but for the rounding of floats, a whole number of units of the sum.
fn is_whole(b: f32, sx: f32, sw: f32) -> bool {
    let units = f64::from(b) / (f64::from(sx) * f64::from(sw));
    (units - units.round_ties_even()).abs() <= 1e-6 * units.abs().max(1.0)
}

/// Whether the multiplier of every channel is one the rounding of sums can have.
fn representable(s: &Sweep<'_>, n: Node, w: &Weights, sx: f32, result: Value, cx: &mut Cx) -> bool {
    let Some((sy, _)) = s.g.ty(result).elem.quant().and_then(Quant::tensor_params) else { return false };
    let order = multiplier(&s.g.nodes[n].op);
    let fits = (0..w.rows).all(|o| exact::multiplier(order, sx, w.quant.scale_at(o), sy) < exact::MAX_MULTIPLIER);
    if !fits {
        cx.remark(PASS, s.g, n, "its result is rounded apart: its scale is far below that of the operands");
    }
    fits
}

/// A bias: absent, float, or stored integers of some scale.
enum Bias {
    None,
    Float(Vec<f32>),
    Stored(Quant, Vec<i64>),
}

impl Bias {
    fn of(s: &Sweep<'_>, v: Value) -> Option<Self> {
        if let Some(floats) = s.floats(v) {
            return Some(Self::Float(floats));
        }
        let tensor = s.g.tensor(rounded(s.g, v)?)?;
        let quant = tensor.ty.elem.quant()?;
        matches!(quant.axis(), None | Some(0)).then(|| Some(Self::Stored(quant.clone(), tensor.to_ints()?)))?
    }

    /// The bias of channel `o` in units of `sx sw`. Stored integers in these units are taken as they are.
    fn integer(&self, o: usize, sx: f32, sw: f32) -> Option<i32> {
        match self {
            Self::None => Some(0),
            Self::Float(b) => exact::quantize_bias(b[o], sx, sw),
            Self::Stored(quant, codes) => {
                let q = quant.centered(i32::try_from(codes[o]).ok()?);
                let (own, unit) = (quant.scale_at(o), sx * sw);
                let same = (own - unit).abs() <= 2.0 * f32::EPSILON * unit;
                if same { Some(q) } else { exact::quantize_bias(q as f32 * own, sx, sw) }
            }
        }
    }
}

/// Weights of 8 bits, and the operand they multiply. Weights that need 9 bits are the sum of several of 8, which
/// multiply copies of the operand.
fn bytes(s: &mut Sweep<'_>, op: &Op, x: Value, w: &Weights) -> Result<Option<(Value, Value)>, Diagnostic> {
    let symmetric = w.quant.tensor_params().is_none_or(|(_, zero)| zero == 0);
    let direct = w.quant.storage().bits() < 8 || w.quant.storage() == Storage::I8;
    if direct && symmetric || matches!(w.quant.scheme(), Scheme::Table { .. }) {
        let same = s.g.ty(w.value).elem.quant() == Some(&w.quant);
        let name = s.g.values[w.value].name.clone();
        return Ok(Some((x, if same { w.value } else { s.constant(&name, w.tensor.clone()) })));
    }
    if w.centered.iter().any(|q| q.abs() > 255) {
        return Ok(None);
    }
    let mut rest = w.centered.clone();
    let mut parts: Vec<Vec<i64>> = Vec::new();
    while parts.is_empty() || rest.iter().any(|q| *q != 0) {
        let part: Vec<i64> = rest.iter().map(|q| (*q).clamp(-128, 127)).collect();
        for (r, p) in rest.iter_mut().zip(&part) {
            *r -= p;
        }
        parts.push(part);
    }
    let scheme = match w.quant.scheme() {
        Scheme::PerTensor { scale, .. } => Scheme::PerTensor { scale: *scale, zero_point: 0 },
        other => other.clone(),
    };
    let quant = Quant::new(Storage::I8, -128, 127, scheme).map_err(Diagnostic::bug)?;
    let mut dims = w.tensor.ty.dims.clone();
    // Along input channels: the parts of one output channel follow each other.
    let row = w.centered.len() / w.rows.max(1);
    let codes = (0..w.rows).flat_map(|o| parts.iter().flat_map(move |p| p[o * row..(o + 1) * row].iter().copied()));
    dims[1] *= parts.len();
    let name = s.g.values[w.value].name.clone();
    let tensor = Tensor::from_ints(TensorTy::new(dims, quant), codes.collect::<Vec<i64>>());
    let weights = s.constant(&name, tensor);
    if parts.len() == 1 {
        return Ok(Some((x, weights)));
    }
    Ok(Some((copies(s, op, x, parts.len())?, weights)))
}

/// `count` copies of the channels of every group, one after another.
fn copies(s: &mut Sweep<'_>, op: &Op, x: Value, count: usize) -> Result<Value, Diagnostic> {
    let origin = s.g.producer(x).map(|n| s.g.nodes[n].origin.clone()).unwrap_or_default();
    let elem = s.g.ty(x).elem.clone();
    let dims = s.g.ty(x).dims.clone();
    let groups = match op {
        Op::Conv { groups, .. } => *groups,
        _ => {
            let last = dims.len() - 1;
            return s.push(Op::Concat { axis: last }, &vec![x; count], elem, origin);
        }
    };
    if groups == 1 {
        return s.push(Op::Concat { axis: 1 }, &vec![x; count], elem, origin);
    }
    let mut split = vec![dims[0], groups, dims[1] / groups];
    split.extend(&dims[2..]);
    let mut joined = dims;
    joined[1] *= count;
    let apart = s.push(Op::Reshape { dims: split }, &[x], elem.clone(), origin.clone())?;
    let several = s.push(Op::Concat { axis: 2 }, &vec![apart; count], elem.clone(), origin.clone())?;
    s.push(Op::Reshape { dims: joined }, &[several], elem, origin)
}
