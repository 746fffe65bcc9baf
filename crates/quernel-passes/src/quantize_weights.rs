//! `quantize-weights`: rounds the weights of layers with rounded operands, per output channel.
//!
//! The scale of a channel minimises the squared error over a grid. Where the layer adds a residual, the scale is then
//! snapped so that the residual's factor is an integer (`exact::residual_factor`); a channel whose bias would not fit
//! 32 bits in units of the accumulator gets a larger scale.

use crate::{Activations, Cx, Pass, Sweep, rounded::rounded};
use quernel_ir::{Act, Binary, Diagnostic, Elem, Graph, Node, Op, Quant, Scheme, Storage, Tensor, TensorTy, Unary, Value, program::PANEL};
use quernel_quant::{
    Width, panel_bits,
    weights::{Levels, legal_scale, mse_scales, quantize_rows, squared_error},
};

pub struct QuantizeWeights {
    /// Whether operands are rounded because the model says so.
    pub given: bool,
    /// Where scales of activations come from: with none, weights of float layers are rounded.
    pub activations: Activations,
    /// Weights under one scale in float layers; `None` for a whole output channel.
    pub group: Option<u32>,
}

fn tensor_scale(g: &Graph, v: Value) -> Option<f32> {
    g.ty(rounded(g, v)?).elem.quant()?.tensor_params().map(|p| p.0)
}

impl Pass for QuantizeWeights {
    fn name(&self) -> &'static str {
        "quantize-weights"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        Sweep::run(g, |s, n| {
            if self.activations == Activations::Float {
                return self.alone(s, n, cx);
            }
            let Some(plan) = plan(s, n, cx) else {
                s.keep(n);
                return Ok(());
            };
            let mut node = s.g.nodes[n].clone();
            if self.given {
                let bits = plan.storage.bits();
                cx.remark(self.name(), s.g, n, format!("its weights are floats in the model; they are rounded to {bits} bits"));
            }
            let snapped = plan.snapped.as_ref();
            let rounded = round(s, n, &plan, snapped.unwrap_or(&plan.scales))?;
            if let Some(float) = s.g.tensor(node.args[1]).cloned() {
                cx.float_weights.insert(rounded, float);
            }
            node.args[1] = rounded;
            if plan.snapped.is_some() {
                s.rewrite(n, node.op, node.args);
                return Ok(());
            }
            cx.remark(self.name(), s.g, n, "its residual is added apart: its scale is too small beside that of the products");
            unfuse(s, n, node.args, cx)
        })
    }
}

impl QuantizeWeights {
    /// Rounds the weights of a layer whose operand stays f32. They are the layer's operand as they are: its product multiplies
    /// their real numbers.
    fn alone(&self, s: &mut Sweep<'_>, n: Node, cx: &mut Cx) -> Result<(), Diagnostic> {
        let mut node = s.g.nodes[n].clone();
        let width = cx.widths.get(&n).copied().unwrap_or(Width::Int(8));
        let grouped = matches!(node.op, Op::Conv { groups, .. } if groups > 1);
        let weights = s.floats(*node.args.get(1).unwrap_or(&node.args[0]));
        let (Some(_), Some(bits), Some(weights)) = (node.op.epilogue(), width.bits(), weights) else {
            s.keep(n);
            return Ok(());
        };
        if weights.is_empty() || grouped || !s.g.ty(node.args[0]).elem.is_f32() || !weights.iter().all(|w| w.is_finite()) {
            if grouped {
                cx.remark(self.name(), s.g, n, "its weights stay floats: layers of several groups have few of them");
            }
            s.keep(n);
            return Ok(());
        }
        let dims = s.g.ty(node.args[1]).dims.clone();
        let (rows, row) = (dims[0], weights.len() / dims[0]);
        let panels = Panels::new(width, &weights, rows);
        let levels = panels.widest();
        let linear = matches!(levels, Levels::Linear { .. }) && dims[2..].iter().all(|d| *d == 1);
        let group = self.group.map(|g| g as usize).filter(|g| *g < row);
        let fits = group.filter(|g| linear && row.is_multiple_of(*g) && g.is_multiple_of(8));
        if let (Some(group), None) = (group, fits) {
            cx.remark(self.name(), s.g, n, format!("its weights have one scale per output channel: groups of {group} do not fit them"));
        }
        let under = fits.unwrap_or(row);
        let scales = panels.scales(&weights, row, under);
        let codes = panels.codes(&weights, row, under, &scales);
        let storage = Storage::new(bits, matches!(levels, Levels::Linear { .. })).ok_or_else(|| Diagnostic::bug("no such width"))?;
        let (min, max) = match levels {
            Levels::Linear { min, max } => (min, max),
            Levels::Table(_) => storage.range(),
        };
        let scheme = match levels {
            Levels::Table(table) => Scheme::Table { axis: 0, scales: scales.into(), table: table.into() },
            Levels::Linear { .. } if under < row => Scheme::Grouped { group: under as u32, scales: scales.into() },
            Levels::Linear { .. } => Scheme::PerAxis { axis: 0, scales: scales.into() },
        };
        let quant = Quant::new(storage, min, max, scheme).map_err(Diagnostic::bug)?;
        let name = s.g.values[node.args[1]].name.clone();
        node.args[1] = s.constant(&name, Tensor::from_ints(TensorTy::new(dims, quant), codes.into_iter().map(i64::from)));
        s.rewrite(n, node.op, node.args);
        Ok(())
    }
}

/// Levels of a layer's weights: of all rows, or of each panel of rows.
struct Panels {
    levels: Vec<Levels>,
    /// Rows under one of the levels.
    rows: usize,
}

impl Panels {
    fn new(width: Width, weights: &[f32], rows: usize) -> Self {
        let row = weights.len() / rows.max(1);
        match width {
            Width::Panels(least, most) => {
                let bits = panel_bits(weights, row, PANEL, (least, most));
                Self { levels: bits.into_iter().map(Levels::signed).collect(), rows: PANEL }
            }
            Width::Code(scheme, bits) => Self { levels: vec![scheme.levels(bits, weights, rows)], rows },
            _ => Self { levels: vec![Levels::signed(width.bits().unwrap_or(8))], rows },
        }
    }
    /// The weights of each of the levels.
    fn parts<'w>(&'w self, weights: &'w [f32], row: usize) -> impl Iterator<Item = (&'w [f32], &'w Levels)> {
        weights.chunks((self.rows * row).max(1)).zip(&self.levels)
    }
    /// Scales of slices of `under` weights of rows of `row`.
    fn scales(&self, weights: &[f32], row: usize, under: usize) -> Vec<f32> {
        self.parts(weights, row).flat_map(|(w, levels)| mse_scales(w, w.len() / under.max(1), levels)).collect()
    }
    /// Codes under the scales.
    fn codes(&self, weights: &[f32], row: usize, under: usize, scales: &[f32]) -> Vec<i32> {
        let mut left = scales;
        let mut codes = Vec::with_capacity(weights.len());
        for (w, levels) in self.parts(weights, row) {
            let (own, rest) = left.split_at((w.len() / under.max(1)).min(left.len()));
            codes.extend(quantize_rows(w, own.len(), own, levels));
            left = rest;
        }
        codes
    }
    /// The table, or the ends of all integers.
    fn widest(&self) -> Levels {
        let mut all = (0, 0);
        for levels in &self.levels {
            match levels {
                Levels::Linear { min, max } => all = (all.0.min(*min), all.1.max(*max)),
                Levels::Table(_) => return levels.clone(),
            }
        }
        Levels::Linear { min: all.0, max: all.1 }
    }
}

/// The rounded weights of a layer, dequantized.
fn round(s: &mut Sweep<'_>, n: Node, plan: &Plan, scales: &[f32]) -> Result<Value, Diagnostic> {
    let node = s.g.nodes[n].clone();
    let dims = s.g.ty(node.args[1]).dims.clone();
    let row = plan.weights.len() / dims[0].max(1);
    let codes = plan.levels.codes(&plan.weights, row, row, scales);
    let quant = match &plan.levels.widest() {
        Levels::Linear { min, max } => Quant::new(plan.storage, *min, *max, Scheme::PerAxis { axis: 0, scales: scales.into() }),
        Levels::Table(table) => {
            let (min, max) = plan.storage.range();
            Quant::new(plan.storage, min, max, Scheme::Table { axis: 0, scales: scales.into(), table: table.as_slice().into() })
        }
    };
    let quant = quant.map_err(Diagnostic::bug)?;
    let name = s.g.values[node.args[1]].name.clone();
    let tensor = Tensor::from_ints(TensorTy::new(dims, quant), codes.into_iter().map(i64::from));
    let q = s.constant(&name, tensor);
    s.push(Op::Dequantize, &[q], Elem::F32, node.origin)
}

struct Plan {
    storage: Storage,
    levels: Panels,
    weights: Vec<f32>,
    scales: Vec<f32>,
    /// Scales for which the residual's factor is an integer (without a residual, any); `None` when there are none close
    /// enough.
    snapped: Option<Vec<f32>>,
}

fn plan(s: &Sweep<'_>, n: Node, cx: &Cx) -> Option<Plan> {
    let node = &s.g.nodes[n];
    let (_, residual) = node.op.epilogue()?;
    let width = cx.widths.get(&n).copied().unwrap_or(Width::Int(8));
    let sx = tensor_scale(s.g, node.args[0])?;
    let weights = s.floats(node.args[1])?;
    let rows = s.g.ty(node.args[1]).dims[0];
    let bias = if node.args.len() > 2 + usize::from(residual) { s.floats(node.args[2])? } else { vec![0.0; rows] };
    if !weights.iter().chain(&bias).all(|x| x.is_finite()) {
        return None;
    }
    let (bits, levels) = match width {
        Width::Float => return None,
        Width::Auto(bits) => best_scheme(bits, &weights, rows).map(|(bits, levels)| (bits, Panels { levels: vec![levels], rows }))?,
        other => (other.bits()?, Panels::new(other, &weights, rows)),
    };
    let storage = Storage::new(bits, matches!(levels.widest(), Levels::Linear { .. }))?;
    let row = weights.len() / rows.max(1);
    let wishes = if row == 0 { vec![1.0; rows] } else { levels.scales(&weights, row, row) };
    let legal = |sr: Option<f32>| -> Option<Vec<f32>> {
        wishes.iter().zip(&bias).map(|(&wish, &bias)| legal_scale(wish.into(), bias, sx, sr)).collect()
    };
    let scales = legal(None)?;
    let snapped = if residual { legal(Some(tensor_scale(s.g, *node.args.last()?)?)) } else { Some(scales.clone()) };
    Some(Plan { storage, levels, weights, scales, snapped })
}

/// The scheme of `bits` bits under which the weights alone have the least squared error.
fn best_scheme(bits: u8, weights: &[f32], rows: usize) -> Option<(u8, Levels)> {
    let scored = quernel_quant::schemes(bits, weights, rows).into_iter().map(|(bits, levels)| {
        let scales = mse_scales(weights, rows, &levels);
        (squared_error(weights, rows, &scales, &levels), (bits, levels))
    });
    scored.min_by(|a, b| a.0.total_cmp(&b.0)).map(|s| s.1)
}

/// The layer without its end, then the sum, then the activation: what stood there before fusion, in floats.
fn unfuse(s: &mut Sweep<'_>, n: Node, mut args: Vec<Value>, cx: &mut Cx) -> Result<(), Diagnostic> {
    let node = s.g.nodes[n].clone();
    let mut op = node.op.clone();
    let activation = node.op.epilogue().map_or(Act::None, |(act, _)| act);
    if let Op::Conv { act, residual, .. } | Op::Dense { act, residual, .. } = &mut op {
        (*act, *residual) = (Act::None, false);
    }
    let addend = args.pop().ok_or_else(|| Diagnostic::bug("a residual layer without operands"))?;
    let layer = s.push(op, &args, Elem::F32, node.origin.clone())?;
    if let (Some(width), Some(apart)) = (cx.widths.get(&n).copied(), s.g.producer(layer)) {
        cx.widths.insert(apart, width);
    }
    let clamp = match activation {
        Act::None => None,
        Act::Relu => Some(Unary::Relu),
        Act::Clip { lo, hi } => Some(Unary::Clip { lo, hi }),
    };
    match clamp {
        None => s.rewrite(n, Op::Binary(Binary::Add), vec![layer, addend]),
        Some(f) => {
            let sum = s.push(Op::Binary(Binary::Add), &[layer, addend], Elem::F32, node.origin.clone())?;
            s.rewrite(n, Op::Unary(f), vec![sum]);
        }
    }
    Ok(())
}
