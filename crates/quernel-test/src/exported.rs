//! Random float graphs with what exporters write and folding takes away, and options to quantize them.

use crate::{Net, ranges};
use quernel_ir::{Binary, Elem, Graph, Multiplier, Op, ReduceKind, Tensor, Unary, Value};
use quernel_passes::{Activations, QuantizeOptions};
use quernel_quant::{Bits, Method, TableScheme, Width};

/// Floats of one sign, away from 0.
fn positive(net: &mut Net, dims: &[usize]) -> Value {
    let data: Vec<f32> = (0..dims.iter().product()).map(|_| net.rng.real(0.3, 2.0)).collect();
    net.g.constant("p", Tensor::f32(dims, &data))
}

/// A step that exporters make and folding takes away; `None` when the draw does not fit.
fn exported(net: &mut Net, pool: &[Value]) -> Option<Value> {
    let x = if net.rng.chance(3) { net.rng.pick(pool) } else { *pool.last()? };
    let dims = net.dims(x);
    let rank = dims.len();
    // A constant per channel of images and of rows, or for all.
    let per_channel: Vec<usize> = match net.rng.below(3) {
        0 => vec![],
        _ if rank > 2 => [&[dims[1]][..], &vec![1; rank - 2]].concat(),
        _ if rank > 0 => vec![dims[rank - 1]],
        _ => vec![],
    };
    Some(match net.rng.below(12) {
        0 | 1 if rank > 1 => {
            let c = dims[1];
            let (scale, offset, mean, variance) = (net.floats(&[c]), net.floats(&[c]), net.floats(&[c]), positive(net, &[c]));
            net.op(Op::BatchNorm { epsilon: 1e-3 }, &[x, scale, offset, mean, variance], Elem::F32)
        }
        2..=4 => {
            let c = positive(net, &per_channel);
            let f = net.rng.pick(&[Binary::Mul, Binary::Add, Binary::Sub, Binary::Div, Binary::Min, Binary::Max]);
            let args = if f != Binary::Div && net.rng.chance(3) { [c, x] } else { [x, c] };
            net.op(Op::Binary(f), &args, Elem::F32)
        }
        5 if rank > 0 && dims[rank - 1] < 200 => {
            let width = 1 + net.rng.below(12);
            let w = net.floats(&[dims[rank - 1], width]);
            // As the transpose of a constant, or as the constant.
            let w = if net.rng.chance(2) {
                let turned = net.op(Op::Transpose { perm: vec![1, 0] }, &[w], Elem::F32);
                net.op(Op::Transpose { perm: vec![1, 0] }, &[turned], Elem::F32)
            } else {
                w
            };
            net.op(Op::MatMul { multiplier: Multiplier::F64 }, &[x, w], Elem::F32)
        }
        6 => net.op(Op::Unary(Unary::Relu), &[x], Elem::F32),
        7 => {
            let (lo, hi) = net.rng.pick(&[(0.0, 6.0), (-1.0, 1.5), (f32::NEG_INFINITY, 2.0), (0.0, f32::INFINITY)]);
            net.op(Op::Unary(Unary::Clip { lo, hi }), &[x], Elem::F32)
        }
        8 | 9 => {
            let same: Vec<Value> = pool.iter().copied().filter(|&v| v != x && net.dims(v) == dims).collect();
            if same.is_empty() {
                return None;
            }
            let other = net.rng.pick(&same);
            net.op(Op::Binary(Binary::Add), &[x, other], Elem::F32)
        }
        10 if rank > 1 => {
            let c = net.floats(&dims);
            let args = if net.rng.chance(2) { [x, c] } else { [c, x] };
            net.op(Op::Concat { axis: 1 }, &args, Elem::F32)
        }
        11 if rank > 2 => {
            let keep = net.rng.chance(2);
            net.op(Op::Reduce { kind: ReduceKind::Mean, axes: (2..rank).collect(), keep }, &[x], Elem::F32)
        }
        _ => return None,
    })
    .filter(|&y| net.g.ty(y).count() <= 8000)
}

impl Net {
    /// A random float graph as a file would say it.
    pub fn imported(seed: u64) -> Graph {
        Self::new(seed).imported_graph()
    }

    /// The same from the numbers of this net, which is empty.
    pub fn imported_graph(mut self) -> Graph {
        let net = &mut self;
        let ops = 3 + net.rng.below(14);
        let mut pool = Vec::new();
        for i in 0..1 + net.rng.below(2) {
            let mut dims = vec![1 + net.rng.below(2), 1 + net.rng.below(6)];
            dims.extend((0..net.rng.below(3)).map(|_| 3 + net.rng.below(5)));
            pool.push(net.g.input(format!("x{i}"), quernel_ir::TensorTy::f32(dims)));
        }
        for _ in 0..20 * ops {
            if pool.len() > ops {
                break;
            }
            let made = if net.rng.chance(2) { net.step(&pool) } else { exported(net, &pool) };
            pool.extend(made.filter(|&v| net.g.ty(v).elem.is_f32()));
        }
        let outputs: Vec<Value> =
            (0..1 + net.rng.below(3)).map(|i| if i == 0 { pool[pool.len() - 1] } else { net.rng.pick(&pool) }).collect();
        for (i, v) in outputs.into_iter().enumerate() {
            net.g.output(format!("y{i}"), v);
        }
        for (i, v) in pool.into_iter().enumerate() {
            if net.g.producer(v).is_some() && !net.rng.chance(40) {
                net.g.values[v].name = format!("v{i}");
            }
        }
        self.g
    }
}

/// Options of quantization, a different mix per seed, with the ranges that the graph shows on random inputs.
pub fn quantize_options(seed: u64, folded: &Graph) -> QuantizeOptions {
    let code = |scheme| Width::Code(scheme, 3);
    let widths = [
        Width::Int(8),
        Width::Int(8),
        Width::Int(4),
        Width::Int(2),
        Width::Int(6),
        Width::Float,
        code(TableScheme::Codebook),
        Width::Code(TableScheme::Ternary, 2),
        code(TableScheme::PowerOfTwo),
        Width::Code(TableScheme::Binary, 1),
        code(TableScheme::Normal),
    ];
    let width = widths[(seed % 11) as usize];
    QuantizeOptions {
        ranges: Some(ranges(folded)),
        calibrator: if seed.is_multiple_of(2) { Method::Mse } else { Method::MinMax }.into(),
        activations: Activations::Static,
        bits: Bits::uniform(width),
        bias_correct: seed % 5 != 1,
        integer_io: seed % 7 == 3,
        ..QuantizeOptions::default()
    }
}
