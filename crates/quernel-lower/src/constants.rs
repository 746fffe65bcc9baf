//! Constants of convolutions and products: packed weights, folded biases, multipliers, residual factors.

use crate::{
    build::{Build, Span},
    proof::Sums,
};
use quernel_ir::{
    Act, Code, Diagnostic, Elem, Graph, Multiplier, NodeData, Op, Quant, Scheme, Tensor, Value, codes, exact,
    program::{ByteQuant, End, PANEL, WeightDims, WeightLayout},
};

/// Operands and attributes that convolutions and products share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub x: Value,
    pub w: Value,
    pub bias: Option<Value>,
    pub residual: Option<Value>,
    pub y: Value,
    pub act: Act,
    pub multiplier: Multiplier,
}

impl Product {
    pub fn of(data: &NodeData) -> Option<Self> {
        let (act, residual, multiplier) = match data.op {
            Op::Conv { act, residual, multiplier, .. } | Op::Dense { act, residual, multiplier } => (act, residual, multiplier),
            _ => return None,
        };
        let args = &data.args;
        let last = residual.then(|| args[args.len() - 1]);
        let bias = (args.len() > 2 + usize::from(residual)).then(|| args[2]);
        Some(Self { x: args[0], w: args[1], bias, residual: last, y: data.result(), act, multiplier })
    }
}

/// Constant operands of an integer step and how its sums end.
pub(crate) struct IntegerParts {
    pub name: String,
    /// Weights in the order of the layout.
    pub packed: Vec<u8>,
    pub bias: Span,
    /// The numbers behind `bias`.
    pub biases: Vec<i32>,
    pub scale: Span,
    pub factors: Option<Span>,
    pub end: End,
}

/// Weights of a float layer that are stored as codes.
pub(crate) struct FloatCodes {
    pub name: String,
    pub packed: Vec<u8>,
    pub scales: Vec<f32>,
    pub group: usize,
}

/// Geometry the constants are made for.
pub(crate) struct Packing<'p> {
    pub dims: WeightDims,
    pub layout: WeightLayout,
    /// Index of a weight in the constant tensor.
    pub at: &'p dyn Fn(usize, usize, usize, usize) -> usize,
    /// Whether some taps read padding, that is the zero point.
    pub padded: bool,
}

fn le<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

impl<'a> Build<'a> {
    fn constant_of(&self, v: Value, what: &str) -> Result<&'a Tensor, Diagnostic> {
        let g: &'a Graph = self.g;
        g.tensor(v).ok_or_else(|| {
            self.fault(Code::UnsupportedForm, format!("{what} are computed at run time")).help("weights and biases must be constants")
        })
    }

    fn constant_name(&self, v: Value) -> String {
        match self.g.values[v].def {
            quernel_ir::Def::Const(c) => self.g.consts[c].name.clone(),
            _ => String::new(),
        }
    }

    /// Packs f32 weights: read 1 of a float step.
    pub fn float_weights(&mut self, p: &Product, pack: &Packing<'_>) -> Result<Span, Diagnostic> {
        let tensor = self.constant_of(p.w, "the weights")?;
        let weights = match tensor.ty.elem.quant() {
            Some(q) => self.reals(tensor, q)?,
            None => tensor.to_f32().ok_or_else(|| Diagnostic::bug("a float layer with integer weights"))?,
        };
        let d = pack.dims;
        let mut packed = vec![0f32; pack.layout.len(d)];
        for_each_tap(d, |o, ky, kx, i| packed[pack.layout.index(d, o, ky, kx, i)] = weights[(pack.at)(o, ky, kx, i)]);
        self.weight_bytes += weights.len() * 4;
        let name = self.constant_name(p.w);
        Ok(self.blob(&format!("{name}.packed"), le(packed.into_iter().map(f32::to_le_bytes))))
    }

    /// The biases of a float layer, padded: read 2 of a float step.
    pub fn float_bias(&mut self, p: &Product, channels: usize) -> Result<Span, Diagnostic> {
        let missing = || Diagnostic::bug("a float layer with an integer bias");
        let mut bias = match p.bias {
            Some(b) => self.constant_of(b, "the biases")?.to_f32().ok_or_else(missing)?,
            None => vec![0.0; channels],
        };
        bias.resize(channels.next_multiple_of(PANEL), 0.0);
        let name = self.constant_name(p.w);
        Ok(self.blob(&format!("{name}.bias"), le(bias.into_iter().map(f32::to_le_bytes))))
    }

    /// The real numbers of quantized weights.
    fn reals(&self, tensor: &Tensor, q: &Quant) -> Result<Vec<f32>, Diagnostic> {
        let codes = tensor.to_ints().ok_or_else(|| self.fault(Code::Internal, "quantized weights without integers"))?;
        let under = elements_under_a_scale(tensor, q);
        Ok(codes.iter().enumerate().map(|(i, c)| exact::dequantize(q.centered(*c as i32), q.scale_at(i / under), 0)).collect())
    }

    /// Quantized weights of a float layer as signed bytes in panels, their scales in the order of `What::ExpandFloat`, and the
    /// taps under a scale. `None` where weights have another layout or more than 8 bits: then they are floats in memory, too.
    pub fn float_codes(&mut self, p: &Product, pack: &Packing<'_>) -> Result<Option<FloatCodes>, Diagnostic> {
        let d = pack.dims;
        let tensor = self.constant_of(p.w, "the weights")?;
        let (Some(q), WeightLayout::Panels { depth: 1, .. }) = (tensor.ty.elem.quant(), pack.layout) else { return Ok(None) };
        if q.storage().bytes() != 1 || d.groups != 1 {
            return Ok(None);
        }
        let (codes, under) = (self.code_values(q)?, elements_under_a_scale(tensor, q));
        let row = d.i * d.kh * d.kw;
        // Several scales in a row lie along its taps only where those are in order.
        let group = under.min(row);
        if group < row && (d.kh * d.kw != 1 || !row.is_multiple_of(group) || !(group * PANEL).is_multiple_of(codes::per_unit(8))) {
            return Ok(None);
        }
        let panels = d.o.div_ceil(PANEL);
        let mut packed = vec![0u8; pack.layout.len(d)];
        let mut scales = vec![0f32; panels * (row / group) * PANEL];
        let (bytes, mut ordered, mut fits) = (tensor.bytes(), true, true);
        for_each_tap(d, |o, ky, kx, i| {
            let at = (pack.at)(o, ky, kx, i);
            ordered &= group == row || at == o * row + i;
            match codes[usize::from(bytes[at])] {
                Some(w) => packed[pack.layout.index(d, o, ky, kx, i)] = w as u8,
                None => fits = false,
            }
            let part = if group == row { 0 } else { i / group };
            scales[(o / PANEL * (row / group) + part) * PANEL + o % PANEL] = q.scale_at(at / under);
        });
        if !(ordered && fits) {
            return Ok(None);
        }
        self.weight_bytes += (tensor.ty.count() * usize::from(q.storage().bits())).div_ceil(8);
        Ok(Some(FloatCodes { name: self.constant_name(p.w), packed, scales, group }))
    }

    /// Packs integer weights, folds zero points, forms multipliers and proves that every sum fits.
    pub fn integer_parts(&mut self, p: &Product, pack: &Packing<'_>) -> Result<IntegerParts, Diagnostic> {
        let g = self.g;
        let d = pack.dims;
        let (x, width) = self.stored(&g.ty(p.x).elem)?;
        let wq = g.ty(p.w).elem.quant().ok_or_else(|| self.fault(Code::Internal, "an integer layer with float weights"))?;
        let tensor = self.constant_of(p.w, "the weights")?;
        let codes = self.code_values(wq)?;
        let biases: Vec<i64> = match p.bias {
            Some(b) => self.constant_of(b, "the biases")?.to_ints().ok_or_else(|| self.fault(Code::Internal, "a float bias"))?,
            None => vec![0; d.o],
        };
        // A residual that is still float joins after the sum; see the caller.
        let residual = match p.residual {
            Some(r) if g.ty(r).elem.quant().is_some() => Some(self.like(&g.ty(r).elem, width)?),
            _ => None,
        };
        let range = if pack.padded { (x.lo.min(x.zero), x.hi.max(x.zero)) } else { (x.lo, x.hi) };

        let mut packed = vec![0u8; pack.layout.len(d)];
        let mut bias = vec![0i32; d.o.next_multiple_of(PANEL)];
        let mut factors = vec![0i16; d.o.next_multiple_of(PANEL)];
        let mut positive = vec![0i64; d.o];
        let mut negative = vec![0i64; d.o];
        let mut outside = false;
        let bytes = tensor.bytes();
        for_each_tap(d, |o, ky, kx, i| match codes[usize::from(bytes[(pack.at)(o, ky, kx, i)])] {
            Some(w) => {
                packed[pack.layout.index(d, o, ky, kx, i)] = w as u8;
                if w > 0 { positive[o] += i64::from(w) } else { negative[o] += i64::from(w) }
            }
            None => outside = true,
        });
        if outside {
            return Err(self
                .fault(Code::UnsupportedForm, "weights minus their zero point do not fit 8 signed bits")
                .help("quantize weights symmetrically, or unsigned around 128"));
        }
        let mut largest = 0;
        for o in 0..d.o {
            let mut folded = biases[o] - i64::from(x.zero) * (positive[o] + negative[o]);
            let mut sums = Sums::new(0).weights(positive[o], negative[o], range);
            if let Some(r) = residual {
                let factor = exact::residual_factor(r.scale, x.scale, wq.scale_at(o)).ok_or_else(|| {
                    self.fault(
                        Code::UnsupportedForm,
                        format!("the residual's scale relative to output channel {o} is not a 15-bit integer"),
                    )
                    .help("keep the addition separate")
                })?;
                factors[o] = factor as i16;
                folded -= i64::from(r.zero) * i64::from(factor);
                sums = sums.weights(i64::from(factor), 0, (r.lo, r.hi));
            }
            let sums = Sums { lo: sums.lo + folded, hi: sums.hi + folded };
            if !sums.fits() {
                return Err(self
                    .fault(Code::OverflowUnproven, format!("the 32-bit sum of output channel {o} may reach {}", sums.largest()))
                    .help("keep this layer in float"));
            }
            largest = largest.max(sums.largest());
            bias[o] = folded as i32;
        }
        self.largest_sum = Some(largest);
        self.weight_bytes += (tensor.ty.count() * usize::from(wq.storage().bits())).div_ceil(8);
        let (scale, end) = self.ends(p, wq, d.o)?;
        let silent = scale[..d.o].iter().filter(|s| **s == 0.0).count();
        if silent > 0 {
            self.remark(format!("{silent} of {} output channels are constant: their scales are too small to move the result", d.o));
        }
        let name = self.constant_name(p.w);
        Ok(IntegerParts {
            bias: self.blob(&format!("{name}.bias"), le(bias.iter().map(|b| b.to_le_bytes()))),
            scale: self.blob(&format!("{name}.scale"), le(scale.into_iter().map(f32::to_le_bytes))),
            factors: residual.map(|_| self.blob(&format!("{name}.factors"), le(factors.into_iter().map(i16::to_le_bytes)))),
            end,
            name,
            packed,
            biases: bias,
        })
    }

    /// Parameters of an operand or result beside an operand of `width` bytes an element.
    fn like(&self, elem: &Elem, width: usize) -> Result<ByteQuant, Diagnostic> {
        match self.stored(elem)? {
            (quant, own) if own == width => Ok(quant),
            _ => Err(self.fault(Code::UnsupportedForm, "a layer over bytes and words").help("give its operands and result 8 bits, or 16")),
        }
    }

    /// The weight each stored byte means; `None` for bytes outside the type or values outside 8 signed bits.
    fn code_values(&self, q: &Quant) -> Result<[Option<i8>; 256], Diagnostic> {
        if q.storage().bytes() != 1 {
            return Err(self.fault(Code::UnsupportedType, "weights of more than 8 bits"));
        }
        let (lo, hi) = q.storage().range();
        Ok(std::array::from_fn(|byte| {
            let code = if q.storage().signed() { i32::from(byte as u8 as i8) } else { byte as i32 };
            if (lo..=hi).contains(&code) { i8::try_from(q.centered(code)).ok() } else { None }
        }))
    }

    /// Multipliers per output channel, padded, and how sums end.
    fn ends(&self, p: &Product, wq: &Quant, channels: usize) -> Result<(Vec<f32>, End), Diagnostic> {
        let (x, width) = self.stored(&self.g.ty(p.x).elem)?;
        let y = &self.g.ty(p.y).elem;
        let (lo, hi) = p.act.bounds();
        let mut scale = vec![0f32; channels.next_multiple_of(PANEL)];
        if y.is_f32() {
            for (o, s) in scale[..channels].iter_mut().enumerate() {
                *s = exact::accumulator_scale(p.multiplier, x.scale, wq.scale_at(o));
                if !s.is_finite() {
                    return Err(self.fault(Code::UnsupportedForm, format!("the scale of the sum of output channel {o} is beyond f32")));
                }
            }
            let late = p.residual.is_some_and(|r| self.g.ty(r).elem.is_f32());
            let (lo, hi) = if late { (f32::NEG_INFINITY, f32::INFINITY) } else { (lo, hi) };
            return Ok((scale, End::Float { lo, hi }));
        }
        let y = self.like(y, width)?;
        for (o, s) in scale[..channels].iter_mut().enumerate() {
            let m = exact::multiplier(p.multiplier, x.scale, wq.scale_at(o), y.scale);
            if m.is_nan() || m >= exact::MAX_MULTIPLIER {
                return Err(self
                    .fault(
                        Code::UnsupportedForm,
                        format!("the multiplier {m} of output channel {o} is not below {}", exact::MAX_MULTIPLIER),
                    )
                    .help("the scale of the result is far too small for its operands: recalibrate, or keep this layer in float"));
            }
            // Below the minimum every product rounds to 0, for any sum, so 0 gives the same results without
            // subnormal numbers.
            *s = if m < exact::MIN_MULTIPLIER { 0.0 } else { m };
        }
        let (lo, hi) = exact::clamp_bounds(lo, hi, y.scale, y.zero, y.lo, y.hi);
        Ok((scale, End::Requantize { zero: y.zero, lo, hi, signed: y.signed }))
    }
}

/// Elements of weights, in row-major order, that share a scale; scales lie along axis 0, or in groups.
fn elements_under_a_scale(tensor: &Tensor, q: &Quant) -> usize {
    match q.scheme() {
        Scheme::PerTensor { .. } => tensor.ty.count(),
        Scheme::PerAxis { .. } | Scheme::Table { .. } => tensor.ty.count() / tensor.ty.dims[0],
        Scheme::Grouped { group, .. } => *group as usize,
    }
}

/// Calls `f(o, ky, kx, i)` for every weight.
fn for_each_tap(d: WeightDims, mut f: impl FnMut(usize, usize, usize, usize)) {
    for o in 0..d.o {
        for i in 0..d.i {
            for ky in 0..d.kh {
                for kx in 0..d.kw {
                    f(o, ky, kx, i);
                }
            }
        }
    }
}
