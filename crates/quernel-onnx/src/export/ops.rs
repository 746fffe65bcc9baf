//! One ONNX operator, or a few, per graph operator; operands and result in floats.

use super::{
    Writer,
    messages::{attribute, float_attribute, ints_attribute, text_attribute},
};
use crate::generated::AttributeProto;
use quernel_ir::{
    Act, Binary, Diagnostic, Elem, Node, NodeData, Op, PoolKind, Quant, ReduceKind, Scheme, Storage, Unary, Value, Window, exact,
};

fn window(w: &Window) -> Vec<AttributeProto> {
    let all = |f: fn(&quernel_ir::WindowDim) -> usize| w.dims.iter().map(f).collect::<Vec<usize>>();
    vec![
        ints_attribute("kernel_shape", all(|d| d.kernel)),
        ints_attribute("strides", all(|d| d.stride)),
        ints_attribute("dilations", all(|d| d.dilation)),
        ints_attribute("pads", [all(|d| d.before), all(|d| d.after)].concat()),
    ]
}

impl Writer<'_> {
    /// Writes the operator of node `n` and returns the tensor of its numbers, before any rounding.
    pub(super) fn operator(&mut self, n: Node, base: &str) -> Result<String, Diagnostic> {
        let g = self.g;
        let data = &g.nodes[n];
        let result = g.ty(data.result());
        if let Op::Conv { .. } | Op::Dense { .. } = data.op {
            return self.layer(data, base);
        }
        let inputs = data.args.iter().map(|&a| self.real(a)).collect::<Result<Vec<String>, _>>()?;
        let x = &g.ty(data.args[0]).dims;
        let plain = |w: &mut Self, op: &str, attributes: Vec<AttributeProto>| w.emit(op, inputs.clone(), base, attributes);
        Ok(match &data.op {
            Op::MatMul { .. } => plain(self, "MatMul", Vec::new()),
            Op::BatchNorm { epsilon } => plain(self, "BatchNormalization", vec![float_attribute("epsilon", *epsilon)]),
            Op::Unary(f) => return self.unary(*f, inputs[0].clone(), base),
            Op::Binary(f) => {
                let op = match f {
                    Binary::Add => "Add",
                    Binary::Sub => "Sub",
                    Binary::Mul => "Mul",
                    Binary::Div => "Div",
                    Binary::Min => "Min",
                    Binary::Max => "Max",
                    Binary::Pow => "Pow",
                    other => return Err(self.unsupported(format_args!("`{}`", other.name()))),
                };
                plain(self, op, Vec::new())
            }
            Op::Pool { kind: PoolKind::Max, window: w } => plain(self, "MaxPool", window(w)),
            Op::Pool { kind: PoolKind::Average { include_pad }, window: w } => {
                let counted = attribute("count_include_pad", i64::from(*include_pad));
                plain(self, "AveragePool", [window(w), vec![counted]].concat())
            }
            Op::Reduce { kind, axes, keep } => {
                let op = match kind {
                    ReduceKind::Mean => "ReduceMean",
                    ReduceKind::Sum => "ReduceSum",
                    ReduceKind::Max => "ReduceMax",
                    ReduceKind::Min => "ReduceMin",
                    ReduceKind::Prod => "ReduceProd",
                };
                let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
                let axes = self.int_constant(&format!("{base}.axes"), &axes);
                self.emit(op, vec![inputs[0].clone(), axes], base, vec![attribute("keepdims", i64::from(*keep))])
            }
            Op::Softmax { axis, log } => plain(self, if *log { "LogSoftmax" } else { "Softmax" }, vec![attribute("axis", *axis as i64)]),
            Op::Reshape { dims } => {
                let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
                let shape = self.int_constant(&format!("{base}.shape"), &dims);
                self.emit("Reshape", vec![inputs[0].clone(), shape], base, Vec::new())
            }
            Op::Transpose { perm } => plain(self, "Transpose", vec![ints_attribute("perm", perm.iter().copied())]),
            Op::Concat { axis } => plain(self, "Concat", vec![attribute("axis", *axis as i64)]),
            Op::Slice { start, step, len } => {
                let first: Vec<i64> = start.iter().map(|s| *s as i64).collect();
                let steps: Vec<i64> = step.iter().map(|s| *s as i64).collect();
                // A walk down to the first element ends before it, which no index says.
                let end = |i: usize| match first[i] + steps[i] * len[i] as i64 {
                    e if e < 0 => i64::MIN,
                    e => e.min(x[i] as i64),
                };
                let ends: Vec<i64> = (0..len.len()).map(end).collect();
                let axes: Vec<i64> = (0..len.len() as i64).collect();
                let mut inputs = vec![inputs[0].clone()];
                for (name, data) in [("starts", first), ("ends", ends), ("axes", axes), ("steps", steps)] {
                    inputs.push(self.int_constant(&format!("{base}.{name}"), &data));
                }
                self.emit("Slice", inputs, base, Vec::new())
            }
            Op::Pad { before, after, value } => {
                let pads: Vec<i64> = before.iter().chain(after).map(|p| *p as i64).collect();
                let pads = self.int_constant(&format!("{base}.pads"), &pads);
                let value = self.float_constant(&format!("{base}.value"), &[], &[*value]);
                self.emit("Pad", vec![inputs[0].clone(), pads, value], base, vec![text_attribute("mode", "constant")])
            }
            Op::Expand { dims } => {
                let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
                let shape = self.int_constant(&format!("{base}.shape"), &dims);
                self.emit("Expand", vec![inputs[0].clone(), shape], base, Vec::new())
            }
            Op::Cast => {
                let Elem::Scalar(to) = result.elem else { return Err(self.unsupported(format_args!("a cast to {}", result.elem))) };
                plain(self, "Cast", vec![attribute("to", super::messages::scalar_type(to) as i64)])
            }
            other => return Err(self.unsupported(format_args!("`{}`", other.mnemonic()))),
        })
    }

    fn unary(&mut self, f: Unary, x: String, base: &str) -> Result<String, Diagnostic> {
        let (op, attributes) = match f {
            Unary::Relu => ("Relu", Vec::new()),
            Unary::LeakyRelu { alpha } => ("LeakyRelu", vec![float_attribute("alpha", alpha)]),
            Unary::Clip { lo, hi } => return Ok(self.clip(x, lo, hi, base)),
            Unary::Sigmoid => ("Sigmoid", Vec::new()),
            Unary::Tanh => ("Tanh", Vec::new()),
            Unary::HardSigmoid { alpha, beta } => ("HardSigmoid", vec![float_attribute("alpha", alpha), float_attribute("beta", beta)]),
            Unary::HardSwish => ("HardSwish", Vec::new()),
            Unary::Swish { alpha } => {
                let mut inner = x.clone();
                if alpha != 1.0 {
                    let alpha = self.float_constant(&format!("{base}.alpha"), &[], &[alpha]);
                    inner = self.emit("Mul", vec![inner, alpha], &format!("{base}.scaled"), Vec::new());
                }
                let gate = self.emit("Sigmoid", vec![inner], &format!("{base}.gate"), Vec::new());
                return Ok(self.emit("Mul", vec![x, gate], base, Vec::new()));
            }
            Unary::Gelu => ("Gelu", vec![text_attribute("approximate", "none")]),
            Unary::GeluTanh => ("Gelu", vec![text_attribute("approximate", "tanh")]),
            Unary::Erf => ("Erf", Vec::new()),
            Unary::Exp => ("Exp", Vec::new()),
            Unary::Log => ("Log", Vec::new()),
            Unary::Sqrt => ("Sqrt", Vec::new()),
            Unary::Reciprocal => ("Reciprocal", Vec::new()),
            Unary::Neg => ("Neg", Vec::new()),
            Unary::Abs => ("Abs", Vec::new()),
            // The rest without parameters is called in ONNX as it is here.
            Unary::Floor
            | Unary::Ceil
            | Unary::Round
            | Unary::Sign
            | Unary::Sin
            | Unary::Cos
            | Unary::Tan
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Sinh
            | Unary::Cosh
            | Unary::Asinh
            | Unary::Acosh
            | Unary::Atanh
            | Unary::Softplus
            | Unary::Softsign
            | Unary::Mish => {
                let name = Op::Unary(f).mnemonic();
                let op = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
                return Ok(self.emit(&op, vec![x], base, Vec::new()));
            }
            other => return Err(self.unsupported(format_args!("`{}`", Op::Unary(other).mnemonic()))),
        };
        Ok(self.emit(op, vec![x], base, attributes))
    }

    /// A convolution or product with its end: bias, residual, activation.
    fn layer(&mut self, data: &NodeData, base: &str) -> Result<String, Diagnostic> {
        let g = self.g;
        let (act, residual) = data.op.epilogue().ok_or_else(|| Diagnostic::bug("a layer without an end"))?;
        let (x, w) = (self.real(data.args[0])?, self.real(data.args[1])?);
        let bias = match data.args.get(2).filter(|_| data.args.len() > 2 + usize::from(residual)) {
            Some(&b) if g.ty(b).elem == Elem::I32 => Some(self.integer_bias(data, b)?),
            Some(&b) => Some(self.real(b)?),
            None => None,
        };
        // The last operator has the name of the result.
        let inner = |part: &str, last: bool| if last { base.to_owned() } else { format!("{base}.{part}") };
        let ends = act == Act::None;
        let mut y = match &data.op {
            Op::Conv { window: w2, groups, .. } => {
                let attributes = [window(w2), vec![attribute("group", *groups as i64)]].concat();
                self.emit("Conv", [vec![x, w], bias.into_iter().collect()].concat(), &inner("sum", ends && !residual), attributes)
            }
            _ if g.ty(data.args[0]).rank() == 2 => {
                let inputs = [vec![x, w], bias.into_iter().collect()].concat();
                self.emit("Gemm", inputs, &inner("sum", ends && !residual), vec![attribute("transB", 1)])
            }
            _ => {
                let w = self.emit("Transpose", vec![w], &format!("{base}.weights"), vec![ints_attribute("perm", [1, 0])]);
                let y = self.emit("MatMul", vec![x, w], &inner("sum", ends && !residual && bias.is_none()), Vec::new());
                match bias {
                    Some(b) => self.emit("Add", vec![y, b], &inner("biased", ends && !residual), Vec::new()),
                    None => y,
                }
            }
        };
        if let Some(&r) = data.args.last().filter(|_| residual) {
            let r = self.real(r)?;
            y = self.emit("Add", vec![y, r], &inner("added", ends), Vec::new());
        }
        let (lo, hi) = act.bounds();
        Ok(if ends { y } else { self.clip(y, lo, hi, base) })
    }

    /// A bias in units of the sum: integers of 32 bits under the product of both scales.
    fn integer_bias(&mut self, data: &NodeData, b: Value) -> Result<String, Diagnostic> {
        let g = self.g;
        let missing = || Diagnostic::bug("an integer layer without types");
        let (x, w) = (g.ty(data.args[0]).elem.quant().ok_or_else(missing)?, g.ty(data.args[1]).elem.quant().ok_or_else(missing)?);
        let order = match data.op {
            Op::Conv { multiplier, .. } | Op::Dense { multiplier, .. } => multiplier,
            _ => return Err(missing()),
        };
        let (sx, _) = x.tensor_params().ok_or_else(missing)?;
        let channels = g.ty(b).count();
        let scales: Vec<f32> = (0..channels).map(|o| exact::accumulator_scale(order, sx, w.scale_at(o))).collect();
        // A unit too small for an f32 leaves nothing of any bias.
        let scales: Vec<f32> = scales.into_iter().map(|s| s.max(f32::MIN_POSITIVE)).collect();
        let (lo, hi) = Storage::I32.range();
        let quant = Quant::new(Storage::I32, lo, hi, Scheme::PerAxis { axis: 0, scales: scales.into() }).map_err(Diagnostic::bug)?;
        let stored = self.plain(b)?;
        let base = format!("{}.dq", g.values[b].name);
        self.dequantize(stored, &base, &quant, Storage::I32)
    }
}
