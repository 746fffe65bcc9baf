//! Random graphs: every operator and type, names of all kinds, dead nodes and constants. They need not be sound.

use proptest::{collection::vec, prelude::*, sample::Index};
use quernel_ir::{
    Act, Binary, Comparison, Def, Elem, Graph, Multiplier, Op, Origin, PoolKind, Quant, ReduceKind, Scalar, Scheme, Storage, Tensor,
    TensorTy, Unary, Value, Window, WindowDim, graph::ConstData,
};

/// Operators the text form knows.
pub const MNEMONICS: usize = 80;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{1,3}", 2 => "[ -~]{0,6}", 1 => "/[a-z]{1,4}(/[A-Z][a-z]{1,3}(_[0-9])?){0,2}", 1 => "[\u{7}\u{2028}\n0-9a-f{}\\\\\"+;]{0,5}", 1 => any::<String>()]
}

/// Any bits: infinities, NaNs of every kind, denormals.
fn float() -> impl Strategy<Value = f32> {
    prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(0.0), Just(-0.0), Just(1.0), Just(0.1), Just(f32::INFINITY), Just(f32::NAN)]
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.5f32), (1u32..0x7f80_0000).prop_map(f32::from_bits)]
}

fn scales(n: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![vec(scale(), n), scale().prop_map(move |s| vec![s; n])]
}

fn storage() -> impl Strategy<Value = Storage> {
    (1u8..=16, any::<bool>()).prop_map(|(bits, signed)| Storage::new(bits, signed).expect("1 to 16 bits"))
}

fn quant() -> impl Strategy<Value = Quant> {
    let range = |s: Storage, a: &Index, b: &Index| {
        let (lo, hi) = s.range();
        let min = lo + a.index((hi - lo) as usize) as i32;
        (min, min + 1 + b.index((hi - min) as usize) as i32)
    };
    let full = |s: Storage| s.range();
    prop_oneof![
        (storage(), scale(), any::<Index>()).prop_map(|(s, scale, z)| {
            let (lo, hi) = s.range();
            Quant::per_tensor(s, scale, lo + z.index((hi - lo + 1) as usize) as i32)
        }),
        (storage(), any::<(Index, Index)>(), any::<u8>(), (0usize..20).prop_flat_map(scales)).prop_map(move |(s, (a, b), axis, scales)| {
            let (min, max) = range(s, &a, &b);
            Quant::new(s, min, max, Scheme::PerAxis { axis, scales: scales.into() })
        }),
        (1u8..=8, 0u8..3, (0usize..20).prop_flat_map(scales), vec(any::<i8>(), 256)).prop_map(move |(bits, axis, scales, table)| {
            let s = Storage::new(bits, false).expect("1 to 8 bits");
            let (min, max) = full(s);
            Quant::new(s, min, max, Scheme::Table { axis, scales: scales.into(), table: table[..1 << bits].into() })
        }),
    ]
    .prop_map(|q| q.expect("legal by construction"))
}

fn elem() -> impl Strategy<Value = Elem> {
    prop_oneof![
        3 => Just(Elem::F32),
        2 => prop::sample::select(&Scalar::ALL[..]).prop_map(Elem::from),
        3 => quant().prop_map(Elem::from),
    ]
}

fn ty() -> impl Strategy<Value = TensorTy> {
    (vec(0usize..5, 0..5), elem()).prop_map(|(dims, elem)| TensorTy::new(dims, elem))
}

/// Data of any legal content; sometimes all equal.
fn tensor() -> impl Strategy<Value = Tensor> {
    ty().prop_flat_map(|ty| {
        let n = ty.count();
        (Just(ty), prop_oneof![vec(any::<u64>(), n), any::<u64>().prop_map(move |x| vec![x; n])])
    })
    .prop_map(|(ty, bits)| {
        let (lo, hi) = match &ty.elem {
            Elem::Scalar(Scalar::Bool) => (0, 1),
            Elem::Scalar(_) => (i64::MIN, i64::MAX),
            Elem::Quant(q) => (i64::from(q.min()), i64::from(q.max())),
        };
        let ints = bits.into_iter().map(|b| (i128::from(lo) + i128::from(b) % (i128::from(hi) - i128::from(lo) + 1)) as i64);
        Tensor::from_ints(ty, ints)
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![Just(Act::None), Just(Act::Relu), (float(), float()).prop_map(|(lo, hi)| Act::Clip { lo, hi })]
}

fn number() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..4, 1 => any::<usize>()]
}

fn numbers() -> impl Strategy<Value = Vec<usize>> {
    vec(number(), 0..5)
}

fn window() -> impl Strategy<Value = Window> {
    let dim = (number(), number(), number(), number(), number()).prop_map(|(kernel, stride, dilation, before, after)| WindowDim {
        kernel,
        stride,
        dilation,
        before,
        after,
    });
    let usual = (1usize..4).prop_map(WindowDim::new);
    vec(prop_oneof![usual, dim], 0..4).prop_map(|dims| Window { dims })
}

fn multiplier() -> impl Strategy<Value = Multiplier> {
    prop_oneof![Just(Multiplier::F64), Just(Multiplier::F32)]
}

fn unary() -> impl Strategy<Value = Unary> {
    (prop::sample::select(&Unary::ALL[..]), [float(), float(), float()]).prop_map(|(f, [a, b, c])| match f {
        Unary::LeakyRelu { .. } => Unary::LeakyRelu { alpha: a },
        Unary::Swish { .. } => Unary::Swish { alpha: a },
        Unary::Clip { .. } => Unary::Clip { lo: a, hi: b },
        Unary::HardSigmoid { .. } => Unary::HardSigmoid { alpha: a, beta: b },
        Unary::Elu { .. } => Unary::Elu { alpha: a, beta: b, gamma: c },
        Unary::ThresholdedRelu { .. } => Unary::ThresholdedRelu { alpha: a },
        Unary::Shrink { .. } => Unary::Shrink { lambda: a, bias: b },
        other => other,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let pool_kind = prop_oneof![Just(PoolKind::Max), any::<bool>().prop_map(|include_pad| PoolKind::Average { include_pad })];
    let layers = prop_oneof![
        (window(), prop_oneof![Just(1), number()], act(), any::<bool>(), multiplier())
            .prop_map(|(window, groups, act, residual, multiplier)| Op::Conv { window, groups, act, residual, multiplier }),
        (act(), any::<bool>(), multiplier()).prop_map(|(act, residual, multiplier)| Op::Dense { act, residual, multiplier }),
        multiplier().prop_map(|multiplier| Op::MatMul { multiplier }),
        (pool_kind, window()).prop_map(|(kind, window)| Op::Pool { kind, window }),
        prop_oneof![Just(1e-5), float()].prop_map(|epsilon| Op::BatchNorm { epsilon }),
        prop::sample::select(&[Op::Quantize, Op::Dequantize, Op::Requantize, Op::Cast, Op::Bitcast, Op::Select][..]),
    ];
    let moves = prop_oneof![
        numbers().prop_map(|dims| Op::Reshape { dims }),
        numbers().prop_map(|dims| Op::Expand { dims }),
        numbers().prop_map(|perm| Op::Transpose { perm }),
        number().prop_map(|axis| Op::Concat { axis }),
        (numbers(), vec(prop_oneof![-2isize..3, any::<isize>()], 0..5), numbers()).prop_map(|(start, step, len)| Op::Slice {
            start,
            step,
            len
        }),
        (numbers(), numbers(), float()).prop_map(|(before, after, value)| Op::Pad { before, after, value }),
    ];
    prop_oneof![
        layers,
        moves,
        unary().prop_map(Op::Unary),
        prop::sample::select(&Binary::ALL[..]).prop_map(Op::Binary),
        prop::sample::select(&Comparison::ALL[..]).prop_map(Op::Compare),
        (prop::sample::select(&ReduceKind::ALL[..]), numbers(), any::<bool>()).prop_map(|(kind, axes, keep)| Op::Reduce {
            kind,
            axes,
            keep
        }),
        (number(), any::<bool>()).prop_map(|(axis, log)| Op::Softmax { axis, log }),
    ]
}

#[derive(Debug, Clone)]
struct Step {
    op: Op,
    args: Vec<Index>,
    ty: TensorTy,
    name: String,
    origin: Vec<String>,
    /// Whether the operator's own idea of its result, if it has one, replaces `ty`.
    sound: bool,
    dead: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let names = prop_oneof![3 => Just(String::new()), 1 => name()];
    (op(), vec(any::<Index>(), 0..6), ty(), names, vec(name(), 0..3), any::<bool>(), prop::bool::weighted(0.1))
        .prop_map(|(op, args, ty, name, origin, sound, dead)| Step { op, args, ty, name, origin, sound, dead })
}

/// A graph.
pub fn graph() -> impl Strategy<Value = Graph> {
    let consts = vec((name(), tensor(), any::<bool>()), 0..4);
    let outputs = vec((name(), any::<Index>()), 0..3);
    (name(), vec((name(), ty()), 0..3), consts, vec(step(), 0..10), outputs).prop_map(|(name, inputs, consts, steps, outputs)| {
        let mut g = Graph::new(name);
        let mut values: Vec<Value> = inputs.into_iter().map(|(name, ty)| g.input(name, ty)).collect();
        for (name, tensor, renamed) in consts {
            let v = g.constant(name, tensor);
            if renamed {
                g.values[v].name.push('\'');
            }
            values.push(v);
        }
        for Step { op, args, mut ty, name, origin, sound, dead } in steps {
            let args: Vec<Value> = if values.is_empty() { vec![] } else { args.iter().map(|i| *i.get(&values)).collect() };
            let types: Vec<&TensorTy> = args.iter().map(|&a| g.ty(a)).collect();
            if sound && let Ok(dims) = quernel_ir::infer::dims(&op, &types) {
                ty.dims = dims;
                // Beyond the limits of a text.
                if ty.dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1))).is_none_or(|n| n > 1 << 31) {
                    continue;
                }
            }
            let v = g.push(op, &args, ty, origin.into_iter().collect());
            g.values[v].name = name;
            if dead {
                g.order.pop();
            } else {
                values.push(v);
            }
        }
        for (name, i) in outputs {
            if !values.is_empty() {
                g.output(name, *i.get(&values));
            }
        }
        g
    })
}

/// What a reader of a graph can see of a value: its number or the constant, its name and type.
fn seen(g: &Graph, v: Value) -> String {
    let data = &g.values[v];
    let place = match data.def {
        Def::Input(i) => format!("input {i}"),
        Def::Const(c) => {
            let ConstData { name, tensor } = &g.consts[c];
            format!("constant {name:?} {:?} {:?}", tensor.ty, tensor.bytes())
        }
        Def::Result { node, slot } => format!("node {:?}.{slot}", g.position(node)),
    };
    format!("{place} {:?} {:?}", data.name, data.ty)
}

/// Panics unless two graphs are equal up to the numbers of ids and to what is dead.
pub fn same(a: &Graph, b: &Graph) {
    let all = |g: &Graph| {
        let values = |list: &[Value]| list.iter().map(|&v| seen(g, v)).collect::<Vec<_>>();
        let mut lines = vec![format!("{:?} {:?}", g.name, values(&g.inputs))];
        for &n in &g.order {
            let data = &g.nodes[n];
            let names: &Origin = &data.origin;
            lines.push(format!("{:?} {:?} {:?} {:?}", shown(&data.op), values(&data.args), values(&data.results), names.names()));
        }
        lines.extend(g.outputs.iter().map(|(name, v)| format!("{name:?} {}", seen(g, *v))));
        lines
    };
    assert_eq!(all(a), all(b));
}

/// An operator with the bits of its NaNs.
fn shown(op: &Op) -> String {
    let bits = |x: f32| if x.is_nan() { format!(" {:08x}", x.to_bits()) } else { String::new() };
    let floats: Vec<f32> = match op {
        Op::Conv { act: Act::Clip { lo, hi }, .. } | Op::Dense { act: Act::Clip { lo, hi }, .. } | Op::Unary(Unary::Clip { lo, hi }) => {
            vec![*lo, *hi]
        }
        Op::Unary(Unary::HardSigmoid { alpha: x, beta: y } | Unary::Shrink { lambda: x, bias: y }) => vec![*x, *y],
        Op::Unary(Unary::Elu { alpha, beta, gamma }) => vec![*alpha, *beta, *gamma],
        Op::Unary(Unary::LeakyRelu { alpha: x } | Unary::Swish { alpha: x } | Unary::ThresholdedRelu { alpha: x })
        | Op::BatchNorm { epsilon: x }
        | Op::Pad { value: x, .. } => {
            vec![*x]
        }
        _ => vec![],
    };
    format!("{op:?}{}", floats.into_iter().map(bits).collect::<String>())
}
