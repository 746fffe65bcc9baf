//! Convolutions against seven naive loops, and programs against graphs.

mod common;

use common::{Rng, per_tensor, storage};
use quernel_interp::{eval_node, run_program, verify_program};
use quernel_ir::{
    Act, Elem, Multiplier, Op, Program, Quant, Scheme, Tensor, TensorTy, Window, WindowDim, exact,
    graph::Origin,
    program::{Base, Conv, End, Image, PANEL, Port, READ_SLACK, Slot, Step, WeightLayout, What},
};

/// Extents of a random layer.
struct Case {
    n: usize,
    c: usize,
    o: usize,
    groups: usize,
    extent: Vec<usize>,
    out: Vec<usize>,
    window: Window,
}

impl Case {
    fn random(rng: &mut Rng, rank: usize) -> Self {
        loop {
            let groups = rng.pick(&[1, 1, 1, 2, 3, 5]);
            let window = Window {
                dims: (0..rank)
                    .map(|_| WindowDim {
                        kernel: 1 + rng.below(3),
                        stride: 1 + rng.below(3),
                        dilation: 1 + rng.below(2),
                        before: rng.below(4),
                        after: rng.below(4),
                    })
                    .collect(),
            };
            let extent: Vec<usize> = (0..rank).map(|_| 1 + rng.below(6)).collect();
            let out: Option<Vec<usize>> = window.dims.iter().zip(&extent).map(|(d, e)| d.outputs(*e)).collect();
            let inner = rng.pick(&[1, 1, 2, 3, 7]);
            if let Some(out) = out {
                return Self { n: 1 + rng.below(2), c: groups * inner, o: groups * (1 + rng.below(19)), groups, extent, out, window };
            }
        }
    }
    fn x_dims(&self) -> Vec<usize> {
        [&[self.n, self.c], &self.extent[..]].concat()
    }
    fn w_dims(&self) -> Vec<usize> {
        let kernel: Vec<usize> = self.window.dims.iter().map(|d| d.kernel).collect();
        [&[self.o, self.c / self.groups], &kernel[..]].concat()
    }
    fn y_dims(&self) -> Vec<usize> {
        [&[self.n, self.o], &self.out[..]].concat()
    }
    /// Calls `tap(index of x or None outside, index of w)` for every tap of a result, channels innermost.
    fn taps(&self, n: usize, o: usize, at: &[usize], mut tap: impl FnMut(Option<usize>, usize)) {
        let inner = self.c / self.groups;
        let kernel: Vec<usize> = self.window.dims.iter().map(|d| d.kernel).collect();
        for k in indices(&kernel) {
            for i in 0..inner {
                let c = o / (self.o / self.groups) * inner + i;
                let mut x = Some(n * self.c + c);
                let mut w = o * inner + i;
                for (axis, d) in self.window.dims.iter().enumerate() {
                    let p = (at[axis] * d.stride + k[axis] * d.dilation) as isize - d.before as isize;
                    x = x.filter(|_| p >= 0 && p < self.extent[axis] as isize).map(|x| x * self.extent[axis] + p as usize);
                    w = w * kernel[axis] + k[axis];
                }
                tap(x, w);
            }
        }
    }
    /// Results in row-major order of `[n, o, s..]`.
    fn results<T>(&self, mut each: impl FnMut(usize, usize, &[usize], usize) -> T) -> Vec<T> {
        let mut y = vec![];
        for n in 0..self.n {
            for o in 0..self.o {
                for at in indices(&self.out) {
                    y.push(each(n, o, &at, y.len()));
                }
            }
        }
        y
    }
}

fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    dims.iter().fold(vec![vec![]], |all, d| all.iter().flat_map(|i| (0..*d).map(move |x| [&i[..], &[x]].concat())).collect())
}

fn random_weights(rng: &mut Rng, o: usize) -> Quant {
    let scales: std::sync::Arc<[f32]> = (0..o).map(|_| 0.001 * (1 + rng.below(30)) as f32).collect();
    let bits = 1 + rng.below(8) as u8;
    let built = match rng.below(4) {
        0 => {
            let bits = 1 + rng.below(16) as u8;
            let s = storage(bits, rng.coin());
            let (lo, hi) = s.range();
            Quant::per_tensor(s, 0.01, rng.within(lo, hi))
        }
        1 => Quant::new(
            storage(bits, false),
            0,
            (1 << bits) - 1,
            Scheme::Table { axis: 0, scales, table: (0..1 << bits).map(|_| rng.within(-128, 127) as i8).collect() },
        ),
        _ => {
            let s = storage(bits.max(2), true);
            Quant::new(s, s.range().0, s.range().1, Scheme::PerAxis { axis: 0, scales })
        }
    };
    built.expect("legal")
}

fn random_activation(rng: &mut Rng) -> Quant {
    let s = if rng.coin() { storage(8, rng.coin()) } else { storage(1 + rng.below(16) as u8, rng.coin()) };
    let (lo, hi) = s.range();
    Quant::per_tensor(s, 0.01 * (1 + rng.below(20)) as f32, rng.within(lo, hi)).expect("legal")
}

fn random_act(rng: &mut Rng) -> Act {
    rng.pick(&[Act::None, Act::Relu, Act::Clip { lo: -0.7, hi: 1.3 }])
}

#[test]
fn integer_convolutions_equal_naive_sums() {
    let mut rng = Rng(1);
    for round in 0..600 {
        let case = Case::random(&mut rng, 1 + round % 3);
        let (qx, qw, qr, qy) =
            (random_activation(&mut rng), random_weights(&mut rng, case.o), random_activation(&mut rng), random_activation(&mut rng));
        let ((sx, zx), (sr, zr), (sy, zy)) =
            (qx.tensor_params().expect("x"), qr.tensor_params().expect("r"), qy.tensor_params().expect("y"));
        let (x, w) = (rng.quantized(&case.x_dims(), &qx), rng.quantized(&case.w_dims(), &qw));
        let bias = Tensor::i32([case.o], &(0..case.o).map(|_| rng.within(-5000, 5000)).collect::<Vec<i32>>());
        let r = rng.quantized(&case.y_dims(), &qr);
        let factors: Option<Vec<i32>> = (0..case.o).map(|o| exact::residual_factor(sr, sx, qw.scale_at(o))).collect();
        let residual = rng.coin() && factors.is_some();
        let has_bias = rng.coin();
        let (act, multiplier) = (random_act(&mut rng), rng.pick(&[Multiplier::F64, Multiplier::F32]));
        let to_float = round % 4 == 0;

        let (xs, ws, rs, bs) = (x.to_ints().expect("x"), w.to_ints().expect("w"), r.to_ints().expect("r"), bias.to_ints().expect("b"));
        let sums = case.results(|n, o, at, i| {
            let mut acc = if has_bias { bs[o] } else { 0 };
            case.taps(n, o, at, |x, w| acc += x.map_or(0, |x| xs[x] - i64::from(zx)) * i64::from(qw.centered(ws[w] as i32)));
            if residual {
                acc += (rs[i] - i64::from(zr)) * i64::from(factors.as_ref().expect("checked")[o]);
            }
            (o, acc as i32)
        });
        let mut args = vec![&x, &w];
        args.extend(has_bias.then_some(&bias));
        args.extend(residual.then_some(&r));
        let op = Op::Conv { window: case.window.clone(), groups: case.groups, act, residual, multiplier };
        let (a, b) = act.bounds();
        if to_float {
            let got = eval_node(&op, &args, &TensorTy::f32(case.y_dims())).expect("runs").to_f32().expect("f32");
            let want: Vec<f32> = sums
                .iter()
                .map(|&(o, acc)| exact::scale_to_float(acc, exact::accumulator_scale(multiplier, sx, qw.scale_at(o)), a, b))
                .collect();
            assert_eq!(got, want, "round {round}");
        } else {
            let got = eval_node(&op, &args, &TensorTy::new(case.y_dims(), qy.clone())).expect("runs").to_ints().expect("integers");
            let (lo, hi) = exact::clamp_bounds(a, b, sy, zy, qy.min(), qy.max());
            let scaled = |&(o, acc): &(usize, i32)| {
                i64::from(exact::requantize(acc, exact::multiplier(multiplier, sx, qw.scale_at(o), sy), zy, lo, hi))
            };
            assert_eq!(got, sums.iter().map(scaled).collect::<Vec<i64>>(), "round {round}");
        }
    }
}

#[test]
fn float_convolutions_add_in_tap_order() {
    let mut rng = Rng(2);
    for round in 0..300 {
        let case = Case::random(&mut rng, 1 + round % 3);
        let (x, w, b, r) = (rng.floats(&case.x_dims()), rng.floats(&case.w_dims()), rng.floats(&[case.o]), rng.floats(&case.y_dims()));
        let (act, residual, has_bias) = (random_act(&mut rng), rng.coin(), rng.coin());
        let (xs, ws, bs, rs) = (x.to_f32().expect("x"), w.to_f32().expect("w"), b.to_f32().expect("b"), r.to_f32().expect("r"));
        let want = case.results(|n, o, at, i| {
            let mut acc = 0f32;
            case.taps(n, o, at, |x, w| acc += x.map_or(0.0, |x| xs[x]) * ws[w]);
            let acc = if has_bias { acc + bs[o] } else { acc };
            let acc = if residual { acc + rs[i] } else { acc };
            match act {
                Act::None => acc,
                Act::Relu => acc.max(0.0),
                Act::Clip { lo, hi } => acc.clamp(lo, hi),
            }
        });
        let mut args = vec![&x, &w];
        args.extend(has_bias.then_some(&b));
        args.extend(residual.then_some(&r));
        let op = Op::Conv { window: case.window.clone(), groups: case.groups, act, residual, multiplier: Multiplier::F64 };
        assert_eq!(eval_node(&op, &args, &TensorTy::f32(case.y_dims())).expect("runs").to_f32().expect("f32"), want, "round {round}");
    }
}

#[test]
fn dense_equals_a_convolution_of_single_pixels() {
    let mut rng = Rng(3);
    for round in 0..100 {
        let (rows, k, o) = (1 + rng.below(5), 1 + rng.below(40), 1 + rng.below(20));
        let (qx, qw, qy) = (random_activation(&mut rng), random_weights(&mut rng, o), random_activation(&mut rng));
        let (act, multiplier) = (random_act(&mut rng), Multiplier::F64);
        let (x, w) = (rng.quantized(&[rows, k], &qx), rng.quantized(&[o, k], &qw));
        let bias = Tensor::i32([o], &(0..o).map(|_| rng.within(-500, 500)).collect::<Vec<i32>>());
        let dense = eval_node(&Op::Dense { act, residual: false, multiplier }, &[&x, &w, &bias], &TensorTy::new([rows, o], qy.clone()))
            .expect("runs");
        let as_image = |t: &Tensor, dims: [usize; 3]| Tensor::new(TensorTy::new(dims, t.ty.elem.clone()), t.shared()).expect("same bytes");
        let conv = Op::Conv { window: Window { dims: vec![WindowDim::new(1)] }, groups: 1, act, residual: false, multiplier };
        let args = [&as_image(&x, [rows, k, 1]), &as_image(&w, [o, k, 1]), &bias];
        let conv = eval_node(&conv, &args, &TensorTy::new([rows, o, 1], qy)).expect("runs");
        assert_eq!(dense.bytes(), conv.bytes(), "round {round}");
    }
}

#[test]
fn a_float_residual_is_added_after_scaling() {
    let x = common::u8s(&[1, 2], 0.5, 1, &[3, 5]); // 1, 2
    let w = Tensor::from_ints(TensorTy::new([1, 2], per_tensor(8, true, 0.25, 0)), [2, -4]); // 0.5, -1
    let r = Tensor::f32([1, 1], &[0.75]);
    let op = |act| Op::Dense { act, residual: true, multiplier: Multiplier::F64 };
    let y = |act| eval_node(&op(act), &[&x, &w, &r], &TensorTy::f32([1, 1])).expect("runs").to_f32().expect("f32");
    // -1.5 + 0.75: the activation comes last.
    assert_eq!((y(Act::None), y(Act::Relu)), (vec![-0.75], vec![0.0]));
}

#[test]
fn a_residual_without_a_factor_is_an_error() {
    let x = common::u8s(&[1, 1], 0.5, 0, &[3]);
    let w = Tensor::from_ints(TensorTy::new([1, 1], per_tensor(8, true, 0.25, 0)), [2]);
    let r = common::u8s(&[1, 1], 0.001, 0, &[3]);
    let op = Op::Dense { act: Act::None, residual: true, multiplier: Multiplier::F64 };
    assert!(eval_node(&op, &[&x, &w, &r], &common::u8_ty(&[1, 1], 1.0, 0)).is_err());
}

/// `[n][c][h][w]` bytes as a dense channels-last image.
fn channels_last(bytes: &[u8], width: usize, dims: &[usize]) -> Vec<u8> {
    let [n, c, h, w] = dims else { panic!("four axes") };
    let mut out = vec![];
    for i in indices(&[*n, *h, *w, *c]) {
        let at = ((i[0] * c + i[3]) * h + i[1]) * w + i[2];
        out.extend_from_slice(&bytes[at * width..][..width]);
    }
    out
}

/// A program of one step over dense images that reads port 0 (and port 1 for a residual) and writes the one output.
fn one_step(what: What, inputs: &[&Tensor], output: TensorTy, constants: Vec<Vec<u8>>, residual_at: Option<usize>) -> Program {
    let mut p = Program { name: "one".into(), ..Program::default() };
    let port = |base, ty: &TensorTy| Slot { base, offset: 0, bytes: ty.bytes() };
    let mut reads = vec![port(Base::Input(0), &inputs[0].ty)];
    for (i, c) in constants.into_iter().enumerate() {
        reads.push(p.blob(format!("c{i}"), c));
    }
    if let Some(at) = residual_at {
        reads.insert(at, port(Base::Input(1), &inputs[1].ty));
    }
    let writes = vec![port(Base::Output(0), &output)];
    p.inputs = inputs.iter().enumerate().map(|(i, t)| Port { name: format!("x{i}"), ty: t.ty.clone() }).collect();
    p.outputs = vec![Port { name: "y".into(), ty: output }];
    p.arena_bytes = READ_SLACK;
    p.steps.push(Step { what, how: String::new(), reads, writes, origin: Origin::default() });
    p
}

fn le<T: Copy, const N: usize>(padded: usize, values: &[T], zero: T, bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    (0..padded).flat_map(|i| bytes(values.get(i).copied().unwrap_or(zero))).collect()
}

#[test]
fn packed_programs_equal_graphs() {
    let mut rng = Rng(4);
    for round in 0..400 {
        let case = Case::random(&mut rng, 2);
        let (image, result) =
            (Image::dense(case.n, case.extent[0], case.extent[1], case.c), Image::dense(case.n, case.out[0], case.out[1], case.o));
        let residual = rng.coin();
        let joinable = case.groups == 1 && case.window.dims[1].dilation == 1;
        let layout = match rng.below(3) {
            0 => WeightLayout::Plain,
            1 if case.c == case.groups => WeightLayout::Depthwise,
            _ => WeightLayout::Panels { contiguous: joinable && rng.coin(), depth: rng.pick(&[1, 2, 4]) },
        };
        let window = [case.window.dims[0], case.window.dims[1]];
        let conv = Conv { input: image, output: result, window, groups: case.groups, layout, residual: residual.then_some(result) };
        let d = conv.weight_dims();
        let o16 = case.o.next_multiple_of(PANEL);
        let act = random_act(&mut rng);
        let op = Op::Conv { window: case.window.clone(), groups: case.groups, act, residual, multiplier: Multiplier::F64 };
        let pack = |put: &mut dyn FnMut(usize, usize)| {
            for i in indices(&[d.o, d.i, d.kh, d.kw]) {
                put(layout.index(d, i[0], i[2], i[3], i[1]), ((i[0] * d.i + i[1]) * d.kh + i[2]) * d.kw + i[3]);
            }
        };
        let want_dims = case.y_dims();
        if round % 3 == 0 {
            let (x, w, b, r) = (rng.floats(&case.x_dims()), rng.floats(&case.w_dims()), rng.floats(&[case.o]), rng.floats(&want_dims));
            let mut args = vec![&x, &w, &b];
            args.extend(residual.then_some(&r));
            let want = eval_node(&op, &args, &TensorTy::f32(want_dims.clone())).expect("runs");
            let mut packed = vec![0u8; layout.len(d) * 4];
            pack(&mut |to, from| packed[to * 4..][..4].copy_from_slice(&w.bytes()[from * 4..][..4]));
            let bias = le(o16, &b.to_f32().expect("f32"), 0.0, f32::to_le_bytes);
            let (lo, hi) = act.bounds();
            let inputs = if residual { vec![&x, &r] } else { vec![&x] };
            let p = one_step(What::ConvFloat { conv, lo, hi }, &inputs, want.ty.clone(), vec![packed, bias], residual.then_some(3));
            verify_program(&p).expect("sound");
            let bytes: Vec<Vec<u8>> = inputs.iter().map(|t| channels_last(t.bytes(), 4, &t.ty.dims)).collect();
            let got = run_program(&p, &bytes.iter().map(|b| &b[..]).collect::<Vec<&[u8]>>()).expect("runs");
            assert_eq!(got[0], channels_last(want.bytes(), 4, &want_dims), "round {round}");
            continue;
        }
        let bits = if round % 5 == 4 { 16 } else { 8 };
        let random = |rng: &mut Rng| {
            let signed = rng.coin();
            let (lo, hi) = storage(bits, signed).range();
            per_tensor(bits, signed, 0.05, rng.within(lo, hi))
        };
        let (qx, qr, qy) = (random(&mut rng), random(&mut rng), random(&mut rng));
        let scales: Vec<f32> = (0..case.o).map(|_| 0.0005 * (1 + rng.below(30)) as f32).collect();
        let qw = Quant::new(storage(8, true), -127, 127, Scheme::PerAxis { axis: 0, scales: scales.clone().into() }).expect("legal");
        let ((sx, zx), (sr, zr), (sy, zy)) =
            (qx.tensor_params().expect("x"), qr.tensor_params().expect("r"), qy.tensor_params().expect("y"));
        let (x, w, r) = (rng.quantized(&case.x_dims(), &qx), rng.quantized(&case.w_dims(), &qw), rng.quantized(&want_dims, &qr));
        let b: Vec<i32> = (0..case.o).map(|_| rng.within(-5000, 5000)).collect();
        let bias = Tensor::i32([case.o], &b);
        let mut args = vec![&x, &w, &bias];
        args.extend(residual.then_some(&r));
        let to_float = round % 3 == 1;
        let want_elem = if to_float { Elem::F32 } else { Elem::from(qy.clone()) };
        let want = eval_node(&op, &args, &TensorTy::new(want_dims.clone(), want_elem)).expect("runs");

        // Zero points fold into the bias, as lowering does.
        let ws = w.to_ints().expect("integers");
        let per_output = ws.len() / case.o;
        let factors: Vec<i16> = scales.iter().map(|&sw| exact::residual_factor(sr, sx, sw).expect("fits") as i16).collect();
        let folded: Vec<i32> = (0..case.o)
            .map(|o| {
                let sum: i64 = ws[o * per_output..][..per_output].iter().sum();
                let shift = if residual { i64::from(zr) * i64::from(factors[o]) } else { 0 };
                (i64::from(b[o]) - i64::from(zx) * sum - shift) as i32
            })
            .collect();
        let mut packed = vec![0u8; layout.len(d)];
        pack(&mut |to, from| packed[to] = w.bytes()[from]);
        let (a, z) = act.bounds();
        let (end, m): (End, Vec<f32>) = if to_float {
            (End::Float { lo: a, hi: z }, scales.iter().map(|&sw| exact::accumulator_scale(Multiplier::F64, sx, sw)).collect())
        } else {
            let (lo, hi) = exact::clamp_bounds(a, z, sy, zy, qy.min(), qy.max());
            let signed = qy.storage().signed();
            (
                End::Requantize { zero: zy, lo, hi, signed },
                scales.iter().map(|&sw| exact::multiplier(Multiplier::F64, sx, sw, sy)).collect(),
            )
        };
        let mut constants = vec![packed, le(o16, &folded, 0, i32::to_le_bytes), le(o16, &m, 0.0, f32::to_le_bytes)];
        if residual {
            constants.push(le(o16, &factors, 0, i16::to_le_bytes));
        }
        let (zero, signed, residual_signed) = (zx, qx.storage().signed(), qr.storage().signed());
        let what = match bits {
            16 => What::ConvWords { conv, zero, signed, residual_signed, end },
            _ => What::Conv { conv, zero, signed, residual_signed, end },
        };
        let inputs = if residual { vec![&x, &r] } else { vec![&x] };
        let p = one_step(what, &inputs, want.ty.clone(), constants, residual.then_some(4));
        verify_program(&p).expect("sound");
        let bytes: Vec<Vec<u8>> = inputs.iter().map(|t| channels_last(t.bytes(), t.ty.elem.bytes(), &t.ty.dims)).collect();
        let got = run_program(&p, &bytes.iter().map(|b| &b[..]).collect::<Vec<&[u8]>>()).expect("runs");
        assert_eq!(got[0], channels_last(want.bytes(), want.ty.elem.bytes(), &want_dims), "round {round}");
    }
}
