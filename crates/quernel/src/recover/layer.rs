//! One layer: its operands from both networks, and what becomes of its weights and bias.

use super::{
    Layer, Recovery,
    operands::{COARSE, Geometry, MOST_WORD, Values, integers},
    staged::Staged,
};
use crate::Failure;
use quernel_ir::{Def, Diagnostic, Graph, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Value};
use quernel_quant::{
    Width,
    recover::{BLOCK, Block, Gram, MOST_F, Rounded, Solver, Steps, add_all, solvers},
    schemes,
    weights::{Levels, legal_scale},
};

/// Positions at which a layer's operands are looked at, over all samples: this many, fewer where their sums would take
/// long, but a few for every operand.
const POSITIONS: usize = 1 << 16;
const WORK: usize = 100_000_000_000;
const PER_OPERAND: usize = 4;
/// Operands beyond which sums of their products would not fit in memory.
pub const MOST_OPERANDS: usize = 6144;

/// What a layer gets.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// One per weight.
    pub(super) codes: Vec<i32>,
    pub(super) scales: Vec<f32>,
    /// The table the codes index, or none for integers.
    pub(super) table: Vec<i8>,
    pub(super) bits: u8,
    /// Absent where it stays.
    pub(super) bias: Option<Vec<f32>>,
}

impl Outcome {
    /// Whether it can be that of weights of these extents.
    pub fn fits(&self, dims: &[usize]) -> bool {
        let (min, max) = match Storage::new(self.bits, self.table.is_empty()) {
            Some(storage) => storage.range(),
            None => return false,
        };
        let rows = dims.first().copied().unwrap_or(0);
        self.codes.len() == dims.iter().product::<usize>()
            && self.codes.iter().all(|c| (min..=max).contains(c))
            && (self.table.is_empty() || self.table.len() == 1 << self.bits)
            && self.scales.len() == rows
            && self.scales.iter().all(|s| s.is_normal() && *s > 0.0)
            && self.bias.as_ref().is_none_or(|b| b.len() == rows && b.iter().all(|x| x.is_finite()))
    }
}

/// A layer whose operands are summed.
pub struct Prepared {
    geometry: Geometry,
    means: Vec<[Vec<f64>; 3]>,
    solvers: Option<Vec<Solver>>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// Codes as they are in the graph.
    stored: Tensor,
    sx: f32,
    sr: Option<f32>,
}

impl Prepared {
    /// Sums the operands over the samples: for `products`, those that rounding weights needs, else for means alone. `None`
    /// for a layer of which they say nothing.
    pub fn new(g: &Graph, float: &Graph, layer: &Layer, rounded: &Staged, real: &Staged, products: bool) -> Result<Option<Self>, Failure> {
        let data = &g.nodes[layer.node];
        let stored = g.tensor(layer.weights).ok_or_else(|| Diagnostic::bug("weights are no constant"))?.clone();
        let Some(geometry) = Geometry::of(&data.op, g.ty(data.args[0]), &stored.ty, g.ty(data.result())) else { return Ok(None) };
        let products = products && geometry.inputs <= MOST_OPERANDS;
        if geometry.positions == 0 || geometry.inputs == 0 {
            return Ok(None);
        }
        let Some(grams) = sums(g, float, layer, &geometry, rounded, real, products)? else { return Ok(None) };
        let means = grams.iter().map(Gram::means).collect();
        let weights = layer.float.to_f32().unwrap_or_default();
        let solvers = if products { solvers(grams, &weights) } else { None };
        let (sx, sr) = (scale(g, layer.x), layer.residual.map(|r| scale(g, r)));
        Ok(Some(Self { geometry, means, solvers, weights, bias: float_bias(g, layer.node), stored, sx, sr }))
    }

    /// Codes, scales and bias under a width: rounded again where there are products, else as stored. `None` where no scale
    /// is legal.
    pub fn outcome(&self, width: Option<Width>, steps: Steps, bias: bool) -> Option<Outcome> {
        let quant = self.stored.ty.elem.quant()?;
        let rows = self.geometry.rows * self.geometry.groups;
        let own = match quant.scheme() {
            Scheme::Table { table, .. } => Levels::Table(table.to_vec()),
            _ => Levels::Linear { min: quant.min(), max: quant.max() },
        };
        // Panels of several widths stay as they were rounded.
        let solvers = self.solvers.as_ref().filter(|_| !matches!(width, Some(Width::Panels(..))));
        let (bits, levels, codes, scales) = match solvers {
            Some(solvers) => {
                let target: Vec<f32> = solvers.iter().flat_map(Solver::target).collect();
                let legal = |row: usize, wish: f64| legal_scale(wish, self.bias.get(row).copied().unwrap_or(0.0), self.sx, self.sr);
                let candidates = match width {
                    Some(Width::Int(bits)) => vec![(bits, Levels::signed(bits))],
                    Some(Width::Code(table, bits)) => vec![(bits, table.levels(bits, &target, rows))],
                    Some(Width::Auto(bits)) => schemes(bits, &target, rows),
                    Some(Width::Float | Width::Panels(..)) | None => vec![(quant.storage().bits(), own)],
                };
                let rounded = candidates.into_iter().filter_map(|(bits, levels)| {
                    let found = Rounded::of(solvers, &levels, steps, &legal)?;
                    Some((found.errors.iter().sum::<f64>(), bits, levels, found))
                });
                let (_, bits, levels, found) = rounded.min_by(|a, b| a.0.total_cmp(&b.0))?;
                (bits, levels, found.codes, found.scales)
            }
            None => {
                let codes = self.stored.to_ints()?.into_iter().map(|q| q as i32).collect();
                (quant.storage().bits(), own, codes, (0..rows).map(|o| quant.scale_at(o)).collect())
            }
        };
        let table = match levels {
            Levels::Table(table) => table,
            Levels::Linear { .. } => Vec::new(),
        };
        let mut outcome = Outcome { codes, scales, table, bits, bias: None };
        if bias {
            outcome.bias = Some(corrected(&self.geometry, &self.means, &self.weights, &self.bias, &outcome));
        }
        Some(outcome)
    }
}

/// Whether a layer's weights are rounded again.
pub fn rounds(options: &Recovery, bits: u8) -> bool {
    options.weights() && (options.all || bits < 8)
}

/// The bias that makes the mean of every output that of the float network.
fn corrected(geometry: &Geometry, means: &[[Vec<f64>; 3]], weights: &[f32], bias: &[f32], result: &Outcome) -> Vec<f32> {
    let real = |code: i32| if result.table.is_empty() { f64::from(code) } else { f64::from(result.table[code as usize]) };
    let channel = |o: usize| {
        let [x, f, r] = &means[o / geometry.rows];
        let row = o * geometry.inputs..(o + 1) * geometry.inputs;
        let want: f64 = weights[row.clone()].iter().zip(f).map(|(w, f)| f64::from(*w) * f).sum();
        let have: f64 = result.codes[row].iter().zip(x).map(|(c, x)| real(*c) * f64::from(result.scales[o]) * x).sum();
        let lack = r.get(o % geometry.rows).copied().unwrap_or(0.0);
        (f64::from(bias.get(o).copied().unwrap_or(0.0)) + want - have + lack) as f32
    };
    (0..geometry.rows * geometry.groups).map(channel).collect()
}

pub fn scale(g: &Graph, v: Value) -> f32 {
    g.ty(v).elem.quant().and_then(Quant::tensor_params).map_or(1.0, |p| p.0)
}

/// The bias of a layer, empty without one.
pub fn float_bias(g: &Graph, n: Node) -> Vec<f32> {
    let node = &g.nodes[n];
    let residual = node.op.epilogue().is_some_and(|(_, r)| r);
    if node.args.len() > 2 + usize::from(residual) {
        g.tensor(node.args[2]).and_then(Tensor::to_f32).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Sums over positions of all samples. `None` where an operand is not finite.
fn sums(
    g: &Graph,
    float: &Graph,
    layer: &Layer,
    geometry: &Geometry,
    rounded: &Staged,
    real: &Staged,
    products: bool,
) -> Result<Option<Vec<Gram>>, Failure> {
    let missing = || Diagnostic::bug("an operand was not computed");
    let (xs, fs) = (rounded.get(g, layer.x).ok_or_else(missing)?, real.get(float, layer.float_x).ok_or_else(missing)?);
    let residual = match (layer.residual, layer.float_residual) {
        (Some(q), Some(f)) => Some((rounded.get(g, q).ok_or_else(missing)?, real.get(float, f).ok_or_else(missing)?)),
        _ => None,
    };
    // What the residual lacks, once, because its largest magnitude sets its unit.
    let lack: Option<Vec<Vec<f32>>> = match residual {
        None => None,
        Some((q, f)) => Some(q.iter().zip(f).map(|(q, f)| difference(q, f)).collect::<Result<_, _>>()?),
    };
    let largest = |all: &mut dyn Iterator<Item = f32>| all.fold(0f32, |m, x| if x.abs() <= m { m } else { x.abs() });
    let words = g.ty(layer.x).elem.bytes() == 2;
    let (most, step) = if words { (MOST_WORD, COARSE) } else { (MOST_F, 1) };
    let unit = |largest: f32| if largest > 0.0 { f64::from(largest) / f64::from(most) } else { 1.0 };
    let floats: Vec<Vec<f32>> = fs.iter().map(|t| t.to_f32().unwrap_or_default()).collect();
    let most_f = largest(&mut floats.iter().flatten().copied());
    let most_r = largest(&mut lack.iter().flatten().flatten().copied());
    if !(most_f.is_finite() && most_r.is_finite()) {
        return Ok(None);
    }
    let (unit_f, unit_r) = (unit(most_f), unit(most_r));
    let mut grams: Vec<Gram> = Vec::new();
    let outputs = if residual.is_some() { geometry.rows } else { 0 };
    for _ in 0..geometry.groups {
        grams.push(Gram::new(geometry.inputs, outputs, [f64::from(scale(g, layer.x)) * f64::from(step), unit_f, unit_r], products));
    }
    let affordable = (WORK / (geometry.inputs * geometry.inputs * geometry.groups).max(1)).max(PER_OPERAND * geometry.inputs);
    let per_sample = POSITIONS.min(affordable).div_ceil(xs.len().max(1)).min(geometry.positions);
    let mut blocks = geometry.blocks(residual.is_some());
    for (s, x) in xs.iter().enumerate() {
        let x = integers(x)?.narrow();
        let f = Values::Real(&floats[s], unit_f).narrow();
        let r = lack.as_ref().map(|all| Values::Real(&all[s], unit_r).narrow());
        let positions: Vec<usize> = chosen(geometry.positions, per_sample, s).collect();
        let mut rest = positions.as_slice();
        while !rest.is_empty() {
            let room = BLOCK - blocks.first().map_or(0, |b| b.len);
            let (now, later) = rest.split_at(room.min(rest.len()));
            geometry.fill(&mut blocks, &x, &f, r.as_deref(), now);
            flush(&mut grams, &mut blocks, false);
            rest = later;
        }
    }
    flush(&mut grams, &mut blocks, true);
    Ok(Some(grams))
}

fn flush(grams: &mut [Gram], blocks: &mut [Block], all: bool) {
    if all || blocks.first().is_some_and(|b| b.len == BLOCK) {
        add_all(grams, blocks);
        Geometry::clear(blocks);
    }
}

/// Float minus quantized.
fn difference(q: &Tensor, f: &Tensor) -> Result<Vec<f32>, Diagnostic> {
    let real = quernel_interp::eval_node(&Op::Dequantize, &[q], &TensorTy::f32(q.ty.dims.clone()))?;
    let (real, f) = (real.to_f32().unwrap_or_default(), f.to_f32().unwrap_or_default());
    Ok(f.iter().zip(&real).map(|(f, q)| f - q).collect())
}

/// `count` of `of` positions, spread evenly, at another offset in every sample.
fn chosen(of: usize, count: usize, sample: usize) -> impl Iterator<Item = usize> {
    // Steps by the golden ratio fall evenly wherever they begin.
    let offset = (sample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize % of.max(1);
    (0..count).map(move |i| (i * of / count + offset) % of)
}

/// Puts the result into the graph.
pub fn apply(g: &mut Graph, layer: &Layer, result: Outcome) -> Result<(), Diagnostic> {
    let Def::Const(c) = g.values[layer.weights].def else { return Err(Diagnostic::bug("weights are no constant")) };
    let dims = g.consts[c].tensor.ty.dims.clone();
    let storage = Storage::new(result.bits, result.table.is_empty()).ok_or_else(|| Diagnostic::bug("no storage of that width"))?;
    let (min, max) = match Levels::signed(result.bits.max(2)) {
        Levels::Linear { min, max } if result.table.is_empty() => (min, max),
        _ => storage.range(),
    };
    let scales = result.scales.as_slice().into();
    let scheme = if result.table.is_empty() {
        Scheme::PerAxis { axis: 0, scales }
    } else {
        Scheme::Table { axis: 0, scales, table: result.table.as_slice().into() }
    };
    let quant = Quant::new(storage, min, max, scheme).map_err(Diagnostic::bug)?;
    let tensor = Tensor::from_ints(TensorTy::new(dims, quant), result.codes.into_iter().map(i64::from));
    g.values[layer.weights].ty = tensor.ty.clone();
    g.consts[c].tensor = tensor;
    let Some(bias) = result.bias else { return Ok(()) };
    let residual = g.nodes[layer.node].op.epilogue().is_some_and(|(_, r)| r);
    let has_bias = g.nodes[layer.node].args.len() > 2 + usize::from(residual);
    let name = if has_bias { g.values[g.nodes[layer.node].args[2]].name.clone() } else { format!("{}.bias", g.describe(layer.node)) };
    let v = g.constant(name, Tensor::f32([bias.len()], &bias));
    let args = &mut g.nodes[layer.node].args;
    if has_bias {
        args[2] = v;
    } else {
        args.insert(2, v);
    }
    Ok(())
}
