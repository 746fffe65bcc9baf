//! Graphs for tests: helpers that add one layer each, and random graphs.

use crate::Rng;
use quernel_ir::{
    Act, Binary, Comparison, Elem, Graph, Index, Multiplier, Op, Origin, PoolKind, Quant, ReduceKind, Scalar, Scheme, Storage, Tensor,
    TensorTy, Unary, Value, Window, WindowDim, infer, plain::Number,
};

/// A graph that grows, and the numbers its generator draws.
pub struct Net {
    /// The graph so far.
    pub g: Graph,
    /// Where decisions come from.
    pub rng: Rng,
    /// Whether parameters lie at the ends of what the types allow, so that some graphs cannot be lowered.
    pub extreme: bool,
    made: usize,
}

impl Net {
    /// Without inputs or nodes.
    pub fn new(seed: u64) -> Self {
        Self::with(Rng::new(seed))
    }
    /// The same with numbers from elsewhere.
    pub fn with(rng: Rng) -> Self {
        Self { g: Graph::new("net"), rng, extreme: false, made: 0 }
    }
    /// Extents of a value.
    pub fn dims(&self, v: Value) -> Vec<usize> {
        self.g.ty(v).dims.clone()
    }
    /// How a value is quantized, if it is.
    pub fn quant(&self, v: Value) -> Option<Quant> {
        self.g.ty(v).elem.quant().cloned()
    }
    /// Appends `op`; the shape follows.
    pub fn op(&mut self, op: Op, args: &[Value], elem: Elem) -> Value {
        let dims = infer::dims(&op, &args.iter().map(|&a| self.g.ty(a)).collect::<Vec<_>>()).expect("shapes fit");
        self.made += 1;
        let origin = Origin::new(format!("/{}_{}", op.mnemonic(), self.made));
        self.g.push(op, args, TensorTy::new(dims, elem), origin)
    }
    /// A move: the operand's type.
    pub fn shape_op(&mut self, op: Op, x: Value) -> Value {
        let elem = self.g.ty(x).elem.clone();
        self.op(op, &[x], elem)
    }
    /// A random activation type.
    pub fn activation(&mut self, scale: f32) -> Elem {
        let storage = if self.rng.chance(3) { Storage::I8 } else { Storage::U8 };
        let (lo, hi) = storage.range();
        let mut zero = self.rng.range(i64::from(lo), i64::from(hi)) as i32;
        let mut scale = scale;
        if self.extreme && self.rng.chance(3) {
            zero = self.rng.pick(&[lo, hi]);
            scale *= self.rng.pick(&[1.0, 1.0 / 256.0, 16.0, 1.0 / 65536.0, 4096.0]);
        }
        Quant::per_tensor(storage, scale, zero).expect("legal").into()
    }
    /// A random type of words whose range is that of [`Self::activation`].
    pub fn words(&mut self, scale: f32) -> Elem {
        let storage = if self.rng.chance(2) { Storage::I16 } else { Storage::new(16, false).expect("16 bits") };
        let (lo, hi) = storage.range();
        let zero = if self.rng.chance(3) { self.rng.pick(&[lo, hi, 0]) } else { self.rng.range(i64::from(lo), i64::from(hi)) as i32 };
        Quant::per_tensor(storage, scale / 256.0, zero).expect("legal").into()
    }
    /// Quantizes to a random type of this scale.
    pub fn quantize(&mut self, x: Value, scale: f32) -> Value {
        let elem = self.activation(scale);
        self.op(Op::Quantize, &[x], elem)
    }
    /// Random weights, one scale per output channel.
    pub fn weights(&mut self, dims: &[usize], scales: Vec<f32>) -> Value {
        let count: usize = dims.iter().product();
        let kind = self.rng.below(4);
        let scales = scales.into();
        let (q, lo, hi) = match kind {
            0 => (Quant::new(Storage::new(4, true).unwrap(), -8, 7, Scheme::PerAxis { axis: 0, scales }), -8, 7),
            1 => {
                let table = [-64i8, -8, 1, 127].into();
                (Quant::new(Storage::new(2, false).unwrap(), 0, 3, Scheme::Table { axis: 0, scales, table }), 0, 3)
            }
            _ => (Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales }), -127, 127),
        };
        let ends = self.extreme && self.rng.chance(4);
        let data: Vec<i64> = (0..count).map(|_| if ends { self.rng.pick(&[lo, hi, hi]) } else { self.rng.range(lo, hi) }).collect();
        self.g.constant("w", Tensor::from_ints(TensorTy::new(dims, q.expect("legal")), data))
    }
    /// A random constant.
    pub fn floats(&mut self, dims: &[usize]) -> Value {
        let data: Vec<f32> = (0..dims.iter().product()).map(|_| self.rng.real(-1.0, 1.0)).collect();
        self.g.constant("c", Tensor::f32(dims, &data))
    }
    /// Indices, most of them within small axes.
    pub fn indices(&mut self, dims: &[usize]) -> Value {
        let ty = TensorTy::new(dims, if self.rng.chance(2) { Scalar::I32 } else { Scalar::I64 });
        let data: Vec<i64> = (0..ty.count()).map(|_| self.rng.range(-6, 6)).collect();
        self.g.constant("i", Tensor::from_ints(ty, data))
    }
    fn act(&mut self) -> Act {
        match self.rng.below(4) {
            0 => Act::None,
            1 => Act::Clip { lo: -0.7, hi: 2.5 },
            _ => Act::Relu,
        }
    }
    fn layer(&mut self, x: Value, wdims: &[usize], residual: Option<Value>, op: impl FnOnce(Act, bool, Multiplier) -> Op) -> Value {
        let act = self.act();
        let multiplier = if self.rng.chance(2) { Multiplier::F64 } else { Multiplier::F32 };
        let taps: usize = wdims[1..].iter().product();
        let outputs = wdims[0];
        let op = op(act, residual.is_some(), multiplier);
        let mut args = vec![x];
        let Some(xq) = self.quant(x) else {
            args.push(self.floats(wdims));
            if self.rng.chance(2) || residual.is_some() {
                args.push(self.floats(&[outputs]));
            }
            args.extend(residual);
            return self.op(op, &args, Elem::F32);
        };
        let sx = xq.scale_at(0);
        let mut scales: Vec<f32> = (0..outputs).map(|_| self.rng.real(0.002, 0.01)).collect();
        if let Some(rq) = residual.and_then(|r| self.quant(r)) {
            for s in &mut scales {
                *s = (f64::from(rq.scale_at(0)) / (f64::from(sx) * self.rng.range(1, 3000) as f64)) as f32;
            }
        }
        let largest = scales.iter().copied().fold(0f32, f32::max);
        args.push(self.weights(wdims, scales));
        if self.rng.chance(2) {
            let largest = if self.extreme { self.rng.pick(&[4000, 1 << 24, 1 << 30]) } else { 4000 };
            let data: Vec<i32> = (0..outputs).map(|_| self.rng.range(-largest, largest) as i32).collect();
            args.push(self.g.constant("b", Tensor::i32([outputs], &data)));
        }
        args.extend(residual);
        let float_result = self.rng.chance(6) || residual.is_some_and(|r| self.g.ty(r).elem.is_f32());
        let range = sx * largest * (taps as f32).sqrt() * 40.0 + 1e-4;
        let elem = match xq.storage().bytes() {
            _ if float_result => Elem::F32,
            2 => self.words(256.0 * range),
            _ => self.activation(range),
        };
        self.op(op, &args, elem)
    }
    /// A layer over words between roundings: nothing but layers and moves takes words.
    fn over_words(&mut self, x: Value) -> Option<Value> {
        let word = |s: &mut Self, v: Value| {
            let real = if s.quant(v).is_some() { s.op(Op::Dequantize, &[v], Elem::F32) } else { v };
            let elem = s.words(0.02);
            s.g.ty(real).elem.is_f32().then(|| s.op(Op::Quantize, &[real], elem))
        };
        let (dims, bytes) = (self.dims(x), self.quant(x).is_some());
        let w = word(self, x)?;
        let own = self.rng.chance(3);
        let y = if matches!(dims.len(), 3 | 4) {
            let c = dims[1];
            let same = own.then(|| word(self, x)).flatten();
            let window = if own { Window { dims: vec![WindowDim::new(1); dims.len() - 2] } } else { self.window(&dims[2..], true) };
            let (outputs, groups) = match self.rng.below(4) {
                _ if own => (c, 1),
                0 | 1 => (c, c),
                _ => (1 + self.rng.below(20), 1),
            };
            self.conv(w, outputs, groups, window, same)
        } else {
            let outputs = 1 + self.rng.below(20);
            self.dense(w, outputs, None)
        };
        let y = if self.quant(y).is_some() { self.op(Op::Dequantize, &[y], Elem::F32) } else { y };
        Some(if bytes { self.quantize(y, 0.02) } else { y })
    }
    /// A convolution; `groups` divides both channel counts.
    pub fn conv(&mut self, x: Value, outputs: usize, groups: usize, window: Window, residual: Option<Value>) -> Value {
        let mut wdims = vec![outputs, self.dims(x)[1] / groups];
        wdims.extend(window.dims.iter().map(|d| d.kernel));
        self.layer(x, &wdims, residual, |act, residual, multiplier| Op::Conv { window, groups, act, residual, multiplier })
    }
    /// A product with random weights.
    pub fn dense(&mut self, x: Value, outputs: usize, residual: Option<Value>) -> Value {
        let depth = *self.dims(x).last().expect("a rank");
        self.layer(x, &[outputs, depth], residual, |act, residual, multiplier| Op::Dense { act, residual, multiplier })
    }
    /// A random window that fits the spatial extents.
    pub fn window(&mut self, extents: &[usize], dilate: bool) -> Window {
        let dims = extents.iter().map(|&e| {
            let kernel = 1 + self.rng.below(3);
            let dilation = if dilate && self.rng.chance(4) { 2 } else { 1 };
            let d = WindowDim { kernel, stride: 1 + self.rng.below(2), dilation, before: 0, after: 0 };
            let before = if self.rng.chance(2) { self.rng.below(d.span()) } else { 0 };
            let after = if self.rng.chance(2) { self.rng.below(d.span()) } else { 0 };
            let d = WindowDim { before, after, ..d };
            if d.outputs(e).is_some() { d } else { WindowDim::new(1) }
        });
        Window { dims: dims.collect() }
    }

    /// A random function; those that leave the real numbers only where parameters are extreme.
    fn unary(&mut self) -> Unary {
        let tame = [Unary::Relu, Unary::Sigmoid, Unary::HardSwish, Unary::LeakyRelu { alpha: 0.1 }, Unary::Abs, Unary::Neg];
        if !self.extreme || self.rng.chance(4) {
            return self.rng.pick(&tame);
        }
        match self.rng.pick(&Unary::ALL) {
            Unary::Clip { .. } => Unary::Clip { lo: -0.5, hi: 1.25 },
            Unary::LeakyRelu { .. } => Unary::LeakyRelu { alpha: -0.3 },
            Unary::HardSigmoid { .. } => Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
            Unary::Swish { .. } => Unary::Swish { alpha: 1.5 },
            Unary::Elu { .. } => Unary::Elu { alpha: 1.5, beta: 0.75, gamma: 1.25 },
            Unary::ThresholdedRelu { .. } => Unary::ThresholdedRelu { alpha: 0.5 },
            Unary::Shrink { .. } => Unary::Shrink { lambda: 0.5, bias: 0.25 },
            other => other,
        }
    }

    /// A random operator on random values of `pool`; `None` when the draw does not fit.
    pub fn step(&mut self, pool: &[Value]) -> Option<Value> {
        let x = if self.rng.chance(2) { *pool.last()? } else { self.rng.pick(pool) };
        let dims = self.dims(x);
        let rank = dims.len();
        let xq = self.quant(x);
        let image = rank == 3 || rank == 4;
        let limit = 4000;
        // There are many functions of one element, most of them for extreme graphs.
        match self.rng.below(if self.extreme { 38 } else { 32 }) {
            31 if rank > 0 && xq.is_some() => {
                let axis = self.rng.below(rank);
                let rms = self.rng.chance(3);
                let own = dims[axis..].to_vec();
                let mut args = vec![x, self.floats(&own)];
                if !rms || self.rng.chance(2) {
                    args.push(self.floats(&own));
                }
                let epsilon = self.rng.pick(&[1e-5, 1e-3, 0.0]);
                let elem = self.activation(0.01);
                Some(self.op(Op::LayerNorm { axis, epsilon, rms }, &args, elem))
            }
            30 if rank > 1 && dims[rank - 1] <= 200 => self.over_words(x),
            0..=4 if image => {
                let window = self.window(&dims[2..], true);
                let c = dims[1];
                let (outputs, groups) = match self.rng.below(4) {
                    0 => (c, c),
                    1 if c.is_multiple_of(2) => (2 * (1 + self.rng.below(12)), 2),
                    _ => (1 + self.rng.below(20), 1),
                };
                let out: Vec<usize> = window.dims.iter().zip(&dims[2..]).map(|(d, e)| d.outputs(*e).expect("fits")).collect();
                let fits = |s: &Self, v: Value| {
                    let d = s.dims(v);
                    let float = s.g.ty(v).elem.is_f32();
                    d.len() == rank && d[0] == dims[0] && d[2..] == out[..] && d[1].is_multiple_of(groups) && (xq.is_some() || float)
                };
                let residual = pool.iter().copied().rfind(|&v| fits(self, v)).filter(|_| self.rng.chance(2));
                let outputs = residual.map_or(outputs, |r| self.dims(r)[1]);
                (outputs.is_multiple_of(groups)).then(|| self.conv(x, outputs, groups, window, residual))
            }
            5 | 6 if rank > 0 && dims[rank - 1] <= 400 => {
                let fits = |s: &Self, v: Value| {
                    let d = s.dims(v);
                    d.len() == rank && d[..rank - 1] == dims[..rank - 1] && d[rank - 1] < 50 && (xq.is_some() || s.g.ty(v).elem.is_f32())
                };
                let residual = pool.iter().copied().rfind(|&v| fits(self, v)).filter(|_| self.rng.chance(2));
                let drawn = 1 + self.rng.below(20);
                let outputs = residual.map_or(drawn, |r| self.dims(r)[rank - 1]);
                Some(self.dense(x, outputs, residual))
            }
            7 | 8 if image => {
                let window = self.window(&dims[2..], false);
                let max = self.rng.chance(2);
                let kind = if max { PoolKind::Max } else { PoolKind::Average { include_pad: self.rng.chance(2) } };
                let same = self.g.ty(x).elem.clone();
                let elem = if max || xq.is_none() || self.rng.chance(2) { same } else { self.activation(0.04) };
                Some(self.op(Op::Pool { kind, window }, &[x], elem))
            }
            9 | 28 | 32.. => {
                let f = self.unary();
                let elem = if xq.is_some() { self.activation(0.02) } else { Elem::F32 };
                Some(self.op(Op::Unary(f), &[x], elem))
            }
            10 | 11 => {
                let fits = |s: &Self, v: Value| {
                    infer::broadcast(&s.dims(v), &dims).is_some_and(|d| d.iter().product::<usize>() <= limit)
                        && s.quant(v).is_some() == xq.is_some()
                };
                let others: Vec<Value> = pool.iter().copied().filter(|&v| fits(self, v)).collect();
                if others.is_empty() {
                    return None;
                }
                let other = match self.rng.below(3) {
                    0 if xq.is_none() => {
                        let c = dims.get(1).copied().unwrap_or(1);
                        self.floats(&if image { vec![c, 1, 1][..rank - 1].to_vec() } else { vec![1] })
                    }
                    _ => self.rng.pick(&others),
                };
                infer::broadcast(&self.dims(other), &dims)?;
                let f = if self.extreme {
                    // Real numbers have no bits: those functions are left to integers.
                    let real = [Binary::Div, Binary::Pow, Binary::Remainder, Binary::Modulo, Binary::Add, Binary::Sub, Binary::Mul];
                    self.rng.pick(&real)
                } else {
                    self.rng.pick(&[Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min])
                };
                let elem = if xq.is_some() { self.activation(0.05) } else { Elem::F32 };
                let args = if self.rng.chance(2) { [x, other] } else { [other, x] };
                Some(self.op(Op::Binary(f), &args, elem))
            }
            12 if rank > 0 => {
                let axes: Vec<usize> = (0..rank).filter(|_| self.rng.chance(2)).collect();
                let kind = self.rng.pick(&[ReduceKind::Mean, ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min]);
                let keep = self.rng.chance(2);
                let same = self.g.ty(x).elem.clone();
                let other = if self.rng.chance(3) { Elem::F32 } else { self.activation(0.04) };
                let elem = if xq.is_none() || self.rng.chance(3) { same } else { other };
                Some(self.op(Op::Reduce { kind, axes, keep }, &[x], elem))
            }
            13 if rank > 0 => {
                let axis = self.rng.below(rank);
                let elem = if xq.is_some() && !self.rng.chance(4) {
                    Quant::per_tensor(Storage::U8, 1.0 / 256.0, 0).unwrap().into()
                } else {
                    Elem::F32
                };
                let log = self.rng.chance(3);
                Some(self.op(Op::Softmax { axis, log }, &[x], elem))
            }
            14 | 15 => {
                let count: usize = dims.iter().product();
                let mut out = match self.rng.below(3) {
                    0 if rank > 1 => vec![dims[0], count / dims[0]],
                    1 if rank == 2 && count.is_multiple_of(4) => vec![1, 4, 1, count / 4],
                    _ => dims.iter().rev().copied().collect(),
                };
                if self.rng.chance(4) {
                    out.insert(0, 1);
                }
                (out.len() <= 4).then(|| self.shape_op(Op::Reshape { dims: out }, x))
            }
            16 if rank > 1 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for i in (1..rank).rev() {
                    perm.swap(i, self.rng.below(i + 1));
                }
                Some(self.shape_op(Op::Transpose { perm }, x))
            }
            17 | 18 if rank > 0 => {
                let axis = if rank > 1 { 1 } else { 0 };
                let fits = |s: &Self, v: Value| {
                    let d = s.dims(v);
                    d.len() == rank && s.g.ty(v).elem == s.g.ty(x).elem && (0..rank).all(|i| i == axis || d[i] == dims[i])
                };
                let others: Vec<Value> = pool.iter().copied().filter(|&v| fits(self, v)).collect();
                let other = if self.rng.chance(2) {
                    self.shape_op(Op::Pad { before: vec![0; rank], after: vec![0; rank], value: 0.0 }, x)
                } else {
                    self.rng.pick(&others)
                };
                let elem = self.g.ty(x).elem.clone();
                Some(self.op(Op::Concat { axis }, &[x, other], elem))
            }
            19 => {
                let mut op = (vec![], vec![], vec![]);
                for &d in &dims {
                    let len = 1 + self.rng.below(d);
                    let step = if len > 1 && self.rng.chance(4) { -1 } else { 1 };
                    let room = d - len;
                    let first = self.rng.below(room + 1);
                    op.0.push(if step < 0 { first + len - 1 } else { first });
                    op.1.push(step);
                    op.2.push(len);
                }
                Some(self.shape_op(Op::Slice { start: op.0, step: op.1, len: op.2 }, x))
            }
            20 => {
                let mut side = || dims.iter().map(|_| self.rng.below(3) / 2).collect::<Vec<_>>();
                let (before, after) = (side(), side());
                Some(self.shape_op(Op::Pad { before, after, value: 0.3 }, x))
            }
            21 => {
                let target: Vec<usize> = dims.iter().map(|&d| if d == 1 && self.rng.chance(2) { 3 } else { d }).collect();
                Some(self.shape_op(Op::Expand { dims: target }, x))
            }
            22 if xq.is_some() => {
                if self.rng.chance(2) {
                    let elem = self.activation(0.03);
                    Some(self.op(Op::Requantize, &[x], elem))
                } else {
                    Some(self.op(Op::Dequantize, &[x], Elem::F32))
                }
            }
            22 if xq.is_none() => Some(self.quantize(x, 0.03)),
            23 if rank > 1 && xq.as_ref().is_none_or(|q| q.storage().bits() <= 8) => {
                let float = xq.is_none() || self.rng.chance(6);
                let x = if xq.is_some() && float { self.op(Op::Dequantize, &[x], Elem::F32) } else { x };
                let (m, k, n) = (dims[rank - 2], dims[rank - 1], 1 + self.rng.below(20));
                let lead = if self.rng.chance(2) { vec![] } else { dims[..rank - 2].to_vec() };
                let ones: Vec<usize> = lead.iter().copied().chain([k, n]).collect();
                let count = ones.iter().product::<usize>();
                if count.max(m * dims[..rank - 1].iter().product::<usize>()) > limit {
                    return None;
                }
                let y = if self.rng.chance(3) {
                    // By its own transpose.
                    let perm = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                    self.shape_op(Op::Transpose { perm }, x)
                } else if !float {
                    let elem = self.activation(0.02);
                    let (lo, hi) = elem.quant().map_or((0, 0), |q| q.storage().range());
                    let codes: Vec<i64> = (0..count).map(|_| self.rng.range(lo.into(), hi.into())).collect();
                    self.g.constant("m", Tensor::from_ints(TensorTy::new(ones, elem), codes))
                } else {
                    self.floats(&ones)
                };
                let multiplier = self.rng.pick(&[Multiplier::F64, Multiplier::F32]);
                let elem = if !float && self.rng.chance(2) { self.activation(0.1) } else { Elem::F32 };
                Some(self.op(Op::MatMul { multiplier }, &[x, y], elem))
            }
            24 if rank > 0 => {
                let axis = self.rng.below(rank);
                let k = 1 + self.rng.below(dims[axis]);
                let (smallest, last) = (self.rng.chance(2), self.rng.chance(2));
                let at = self.op(Op::TopK { axis, k, smallest, last }, &[x], Elem::I64);
                let elem = self.g.ty(x).elem.clone();
                Some(self.op(Op::Gather { index: Index::Elements { axis } }, &[x, at], elem))
            }
            25 if rank > 0 => {
                let axis = self.rng.below(rank);
                let index = if self.rng.chance(2) { Index::Slices { axis } } else { Index::Coordinates { batch: 0 } };
                let shape = match index {
                    Index::Slices { .. } => (0..self.rng.below(3)).map(|_| 1 + self.rng.below(3)).collect(),
                    _ => vec![1 + self.rng.below(6), 1 + self.rng.below(rank)],
                };
                let at = self.indices(&shape);
                let elem = self.g.ty(x).elem.clone();
                index.picks(&dims, &shape).is_ok_and(|p| p.dims.len() <= 4).then(|| self.op(Op::Gather { index }, &[x, at], elem))
            }
            26 | 27 if rank > 0 => {
                let axis = self.rng.below(rank);
                let len: Vec<usize> = dims.iter().map(|&d| 1 + self.rng.below(d)).collect();
                let (start, step) = (vec![0; rank], vec![1; rank]);
                let part = self.shape_op(Op::Slice { start, step, len: len.clone() }, x);
                let at = self.indices(&len);
                let elem = self.g.ty(x).elem.clone();
                Some(self.op(Op::Scatter { index: Index::Elements { axis }, reduce: None }, &[x, at, part], elem))
            }
            29 if xq.is_none() => Some(self.plain(x, pool)),
            _ => None,
        }
        .filter(|&y| self.g.ty(y).count() <= limit * 4)
    }

    /// Casts, a function, a relation and a choice in some plain type, and back to f32.
    fn plain(&mut self, x: Value, pool: &[Value]) -> Value {
        let s = self.rng.pick(&Scalar::ALL);
        let dims = self.dims(x);
        let other = pool.iter().copied().rfind(|&v| v != x && self.dims(v) == dims && self.quant(v).is_none());
        let ten = self.g.constant("ten", Tensor::f32([], &[10.0]));
        let wide = self.op(Op::Binary(Binary::Mul), &[x, ten], Elem::F32);
        let a = self.op(Op::Cast, &[wide], s.into());
        let b = match other {
            Some(v) => self.op(Op::Cast, &[v], s.into()),
            None => {
                let x = Number::Int(self.rng.range(0, 9).into()).bits(s).to_le_bytes();
                let one = Tensor::new(TensorTy::new([1], s), x[..s.bytes()].to_vec()).expect("one element");
                self.g.constant("k", one)
            }
        };
        let takes = |op: &Op, args: &[Value], s: &Self, elem: Elem| {
            let types: Vec<&TensorTy> = args.iter().map(|&v| s.g.ty(v)).collect();
            quernel_ir::verify::elements(op, &types, &TensorTy::new(dims.clone(), elem)).is_ok()
        };
        let f = Op::Binary(self.rng.pick(&Binary::ALL));
        let y = if takes(&f, &[a, b], self, s.into()) { self.op(f, &[a, b], s.into()) } else { a };
        let relation = Op::Compare(self.rng.pick(&Comparison::ALL));
        let z = if takes(&relation, &[y, b], self, Elem::BOOL) {
            let c = self.op(relation, &[y, b], Elem::BOOL);
            self.op(Op::Select, &[c, y, b], s.into())
        } else {
            y
        };
        self.op(Op::Cast, &[z], Elem::F32)
    }

    /// A random graph of about `ops` operators.
    pub fn random(seed: u64, ops: usize) -> Graph {
        Self::new(seed).grown(ops)
    }

    /// The same from the numbers of this net, which is empty.
    pub fn grown(mut self, ops: usize) -> Graph {
        let net = &mut self;
        let mut pool = Vec::new();
        for i in 0..1 + net.rng.below(2) {
            let spatial = 1 + net.rng.below(2);
            let mut dims = vec![if net.rng.chance(3) { 2 } else { 1 }, 1 + net.rng.below(6)];
            dims.extend((0..spatial).map(|_| 3 + net.rng.below(7)));
            let x = net.g.input(format!("x{i}"), TensorTy::f32(dims));
            pool.push(x);
            let q = net.quantize(x, 0.02);
            pool.push(q);
        }
        let mut tries = 0;
        while pool.len() < ops && tries < 20 * ops {
            tries += 1;
            pool.extend(net.step(&pool));
        }
        let last = *pool.last().expect("inputs");
        net.g.output("last", last);
        for i in 0..net.rng.below(3) {
            let v = net.rng.pick(&pool);
            net.g.output(format!("y{i}"), v);
        }
        self.g
    }
}
