//! Graph-level convolution, dense layer and batch norm.

use crate::{
    conv::{self, Shape, channels_last, three},
    data, elementwise,
};
use quernel_ir::{Act, Code, Diagnostic, Multiplier, Quant, Tensor, TensorTy, Window, WindowDim, exact, float};

/// The operands of a layer and how it ends.
pub(crate) struct Layer<'a> {
    pub(crate) x: &'a Tensor,
    pub(crate) w: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) residual: Option<&'a Tensor>,
    pub(crate) act: Act,
    pub(crate) multiplier: Multiplier,
    pub(crate) result: &'a TensorTy,
}

impl<'a> Layer<'a> {
    /// Takes the operands apart: `x, w, (b), (r)`.
    pub(crate) fn new(args: &[&'a Tensor], act: Act, residual: bool, multiplier: Multiplier, result: &'a TensorTy) -> Self {
        let bias = (args.len() > 2 + usize::from(residual)).then(|| args[2]);
        let residual = if residual { args.last().copied() } else { None };
        Self { x: args[0], w: args[1], bias, residual, act, multiplier, result }
    }

    /// `[N, C, s..]` with weights `[O, C/groups, k..]`.
    pub(crate) fn conv(&self, window: &Window, groups: usize) -> Result<Tensor, Diagnostic> {
        let (x, out) = (&self.x.ty.dims, &self.result.dims);
        self.run(&Shape {
            n: x[0],
            extent: three(&x[2..], 1),
            c: x[1],
            out: three(&out[2..], 1),
            o: out[1],
            groups,
            window: three(&window.dims, WindowDim::new(1)),
        })
    }

    /// `[.., K]` with weights `[N, K]`: every row is an image of one pixel.
    pub(crate) fn dense(&self) -> Result<Tensor, Diagnostic> {
        let (x, w) = (&self.x.ty.dims, &self.w.ty.dims);
        let rows = x[..x.len() - 1].iter().product();
        self.run(&Shape { n: rows, extent: [1; 3], c: w[1], out: [1; 3], o: w[0], groups: 1, window: [WindowDim::new(1); 3] })
    }

    fn run(&self, s: &Shape) -> Result<Tensor, Diagnostic> {
        if self.x.ty.elem.is_f32() {
            return self.run_float(s);
        }
        let (qx, qw) = (data::quant(&self.x.ty)?, data::quant(&self.w.ty)?);
        let bounds = |q: &Quant| match q.tensor_params() {
            Some((_, zero)) => (q.storage().range().0 - zero, q.storage().range().1 - zero),
            None => q.storage().range(),
        };
        let narrow = |(lo, hi): (i32, i32)| lo >= i32::from(i16::MIN) && hi <= i32::from(i16::MAX);
        if narrow(bounds(qx)) && narrow(bounds(qw)) {
            self.run_integer(s, qx, qw, |v| v as i16)
        } else {
            self.run_integer(s, qx, qw, |v| v)
        }
    }

    fn run_integer<T: Copy + Default + Into<i32>>(
        &self,
        s: &Shape,
        qx: &Quant,
        qw: &Quant,
        narrow: impl Fn(i32) -> T,
    ) -> Result<Tensor, Diagnostic> {
        let centered = |t: &Tensor, q: &Quant| -> Vec<T> { data::stored(t, q).into_iter().map(|v| narrow(q.centered(v))).collect() };
        let x = channels_last(&centered(self.x, qx), s.n, s.c, s.extent.iter().product());
        let w = channels_last(&centered(self.w, qw), s.o, s.c / s.groups, s.window.iter().map(|d| d.kernel).product());
        let (sx, _) = data::params(qx)?;
        let bias = self.bias.map(|b| data::i32s(b.bytes()));
        let (integer_residual, float_residual) = match self.residual {
            Some(r) if r.ty.elem.is_f32() => (None, Some(data::floats(r)?)),
            Some(r) => {
                let q = data::quant(&r.ty)?;
                let factors = (0..s.o).map(|o| factor(data::params(q)?.0, sx, qw.scale_at(o))).collect::<Result<Vec<i32>, Diagnostic>>()?;
                (Some((data::stored(r, q).into_iter().map(|v| q.centered(v)).collect::<Vec<i32>>(), factors)), None)
            }
            None => (None, None),
        };
        let plane: usize = s.out.iter().product();
        let at = |pixel: usize, o: usize| (pixel / plane * s.o + o) * plane + pixel % plane;
        let finish = |pixel: usize, o: usize, acc: i32| {
            let acc = bias.as_ref().map_or(acc, |b| acc.wrapping_add(b[o]));
            integer_residual.as_ref().map_or(acc, |(r, factors)| acc.wrapping_add(r[at(pixel, o)].wrapping_mul(factors[o])))
        };
        let (lo, hi) = self.act.bounds();
        if self.result.elem.is_f32() {
            let scales: Vec<f32> = (0..s.o).map(|o| exact::accumulator_scale(self.multiplier, sx, qw.scale_at(o))).collect();
            let mut y = vec![0f32; self.result.count()];
            conv::integer(s, &x, T::default(), &w, |pixel, acc| {
                for (o, &a) in acc.iter().enumerate() {
                    let (a, i) = (finish(pixel, o, a), at(pixel, o));
                    y[i] = match &float_residual {
                        Some(r) => float::bound(exact::scale_to_float(a, scales[o], f32::NEG_INFINITY, f32::INFINITY) + r[i], lo, hi),
                        None => exact::scale_to_float(a, scales[o], lo, hi),
                    };
                }
            });
            return data::float_tensor(self.result, &y);
        }
        let qy = data::quant(self.result)?;
        let (sy, zy) = data::params(qy)?;
        let (lo, hi) = exact::clamp_bounds(lo, hi, sy, zy, qy.min(), qy.max());
        let multipliers: Vec<f32> = (0..s.o).map(|o| exact::multiplier(self.multiplier, sx, qw.scale_at(o), sy)).collect();
        let mut y = vec![0i32; self.result.count()];
        conv::integer(s, &x, T::default(), &w, |pixel, acc| {
            for (o, &a) in acc.iter().enumerate() {
                y[at(pixel, o)] = exact::requantize(finish(pixel, o, a), multipliers[o], zy, lo, hi);
            }
        });
        data::stored_tensor(self.result, y)
    }

    fn run_float(&self, s: &Shape) -> Result<Tensor, Diagnostic> {
        let x = channels_last(&data::floats(self.x)?, s.n, s.c, s.extent.iter().product());
        let w = channels_last(&elementwise::numbers(self.w)?, s.o, s.c / s.groups, s.window.iter().map(|d| d.kernel).product());
        let bias = self.bias.map(data::floats).transpose()?;
        let residual = self.residual.map(data::floats).transpose()?;
        let (lo, hi) = self.act.bounds();
        let plane: usize = s.out.iter().product();
        let mut y = vec![0f32; self.result.count()];
        conv::float(s, &x, &w, |pixel, acc| {
            for (o, &a) in acc.iter().enumerate() {
                let i = (pixel / plane * s.o + o) * plane + pixel % plane;
                y[i] = finish_float(a, bias.as_ref().map(|b| b[o]), residual.as_ref().map(|r| r[i]), lo, hi);
            }
        });
        data::float_tensor(self.result, &y)
    }
}

/// The end of a float layer: bias, residual, activation, each step rounded.
pub(crate) fn finish_float(sum: f32, bias: Option<f32>, residual: Option<f32>, lo: f32, hi: f32) -> f32 {
    let sum = bias.map_or(sum, |b| sum + b);
    let sum = residual.map_or(sum, |r| sum + r);
    float::bound(sum, lo, hi)
}

fn factor(sr: f32, sx: f32, sw: f32) -> Result<i32, Diagnostic> {
    exact::residual_factor(sr, sx, sw).ok_or_else(|| {
        Diagnostic::new(Code::BadIr, format!("a residual of scale {sr:?} has no 16-bit factor against scales {sx:?} and {sw:?}"))
            .help("choose the weight scale so that the quotient is an integer from 1 to 32767, or add separately")
    })
}

/// `((x - mean) / sqrt(var + epsilon)) * scale + bias`.
pub(crate) fn batch_norm(args: &[&Tensor], epsilon: f32, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let dims = &args[0].ty.dims;
    let plane: usize = dims[2..].iter().product();
    let mut y = data::floats(args[0])?;
    let (scale, bias, mean, var) = (data::floats(args[1])?, data::floats(args[2])?, data::floats(args[3])?, data::floats(args[4])?);
    for (i, values) in y.chunks_exact_mut(plane).enumerate() {
        let c = i % dims[1];
        let deviation = (var[c] + epsilon).sqrt();
        for v in values {
            *v = ((*v - mean[c]) / deviation) * scale[c] + bias[c];
        }
    }
    data::float_tensor(result, &y)
}
