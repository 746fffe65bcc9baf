//! LSTM, GRU and RNN, unrolled over time.
//!
//! The products with the inputs of all steps are one layer; what remains for a step is the product with the state before
//! it and a few element-wise operators. Weights are shared by all steps.

use crate::node::{Built, NodeCx};
use quernel_ir::{Act, Binary, Code, Diagnostic, Id, Multiplier, Op, Tensor, Unary, Value};

/// What one direction computes with.
struct Direction {
    /// `[gates * H, I]` and `[gates * H, H]`.
    w: Value,
    r: Value,
    /// For a GRU that resets before the product, the rows of `r` for z and r, and those for h, with their biases.
    split: Vec<(Value, Option<Value>)>,
    /// Biases of the input and of the recurrent product, `[gates * H]`.
    wb: Option<Value>,
    rb: Option<Value>,
    /// Weights from the cell to the gates i, o, f, each `[H]`.
    peepholes: Option<[Value; 3]>,
    h: Value,
    c: Option<Value>,
    activations: Vec<Activation>,
    backward: bool,
}

/// An activation of a gate: a scaled unary function.
#[derive(Clone, Copy)]
enum Activation {
    Of(Unary),
    /// `alpha x + beta`.
    Affine(f32, f32),
    /// `alpha tanh(beta x)`.
    ScaledTanh(f32, f32),
}

/// The extents of a recurrent layer and what is common to its directions.
struct Shape {
    time: usize,
    batch: usize,
    hidden: usize,
    gates: usize,
    clip: Option<f32>,
}

/// Which of the three cells.
#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm { couple: bool },
}

pub fn rnn(cx: &mut NodeCx<'_>) -> Built {
    layer(cx, Cell::Rnn)
}
pub fn gru(cx: &mut NodeCx<'_>) -> Built {
    let linear_before_reset = cx.flag("linear_before_reset", false)?;
    layer(cx, Cell::Gru { linear_before_reset })
}
pub fn lstm(cx: &mut NodeCx<'_>) -> Built {
    let couple = cx.flag("input_forget", false)?;
    layer(cx, Cell::Lstm { couple })
}

/// Names, with the default alpha and beta of each, of the activations of all directions.
fn activations(cx: &NodeCx<'_>, defaults: &[&str], directions: usize) -> Result<Vec<Activation>, Diagnostic> {
    let names = cx
        .texts("activations")?
        .unwrap_or_else(|| defaults.iter().map(|s| (*s).to_owned()).cycle().take(defaults.len() * directions).collect());
    if names.len() != defaults.len() * directions {
        return Err(cx.bad_attribute(format!(
            "attribute `activations` has {} names instead of {}",
            names.len(),
            defaults.len() * directions
        )));
    }
    let (alphas, betas) = (cx.floats("activation_alpha")?.unwrap_or_default(), cx.floats("activation_beta")?.unwrap_or_default());
    let (mut alphas, mut betas) = (alphas.into_iter(), betas.into_iter());
    let made: Result<Vec<Activation>, Diagnostic> = names
        .iter()
        .map(|name| {
            // Parameters are consumed by the activations that have some, in order.
            let mut alpha = |default: f32| alphas.next().unwrap_or(default);
            let mut beta = |default: f32| betas.next().unwrap_or(default);
            Ok(match name.to_lowercase().as_str() {
                "relu" => Activation::Of(Unary::Relu),
                "tanh" => Activation::Of(Unary::Tanh),
                "sigmoid" => Activation::Of(Unary::Sigmoid),
                "leakyrelu" => Activation::Of(Unary::LeakyRelu { alpha: alpha(0.01) }),
                "hardsigmoid" => Activation::Of(Unary::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) }),
                "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
                "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
                _ => return Err(cx.unsupported(format!("the activation {name:?} is not supported in a recurrent layer"))),
            })
        })
        .collect();
    made
}

fn apply(cx: &mut NodeCx<'_>, f: Activation, x: Value) -> Result<Value, Diagnostic> {
    match f {
        Activation::Of(f) => cx.push(Op::Unary(f), &[x]),
        Activation::Affine(alpha, beta) => {
            let (alpha, beta) = (cx.scalar(alpha), cx.scalar(beta));
            let y = binary(cx, Binary::Mul, x, alpha)?;
            binary(cx, Binary::Add, y, beta)
        }
        Activation::ScaledTanh(alpha, beta) => {
            let (alpha, beta) = (cx.scalar(alpha), cx.scalar(beta));
            let y = binary(cx, Binary::Mul, x, beta)?;
            let y = cx.push(Op::Unary(Unary::Tanh), &[y])?;
            binary(cx, Binary::Mul, y, alpha)
        }
    }
}

fn binary(cx: &mut NodeCx<'_>, f: Binary, a: Value, b: Value) -> Result<Value, Diagnostic> {
    cx.push(Op::Binary(f), &[a, b])
}

/// `x w' + bias` over the last axis.
fn dense(cx: &mut NodeCx<'_>, x: Value, w: Value, bias: Option<Value>) -> Result<Value, Diagnostic> {
    let op = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let args: Vec<Value> = [x, w].into_iter().chain(bias).collect();
    cx.push(op, &args)
}

/// `len` elements from `start` along an axis.
fn part(cx: &mut NodeCx<'_>, x: Value, axis: usize, first: usize, n: usize) -> Result<Value, Diagnostic> {
    let mut len = cx.dims(x);
    if len[axis] == n {
        return Ok(x);
    }
    let (mut start, step) = (vec![0; len.len()], vec![1; len.len()]);
    (start[axis], len[axis]) = (first, n);
    cx.push(Op::Slice { start, step, len }, &[x])
}

/// Row `d` of a tensor whose first axis counts directions, without that axis.
fn row(cx: &mut NodeCx<'_>, x: Value, d: usize) -> Result<Value, Diagnostic> {
    let dims = cx.dims(x);
    let one = part(cx, x, 0, d, 1)?;
    cx.reshape(one, dims[1..].to_vec())
}

fn layer(cx: &mut NodeCx<'_>, cell: Cell) -> Built {
    let first = cx.g.values.len();
    let results = build(cx, cell)?;
    // Values with names are observed by calibration, and so can become integers.
    let base = cx.proto.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
    for (n, v) in (first..cx.g.values.len()).map(Value::new).enumerate() {
        if cx.g.values[v].name.is_empty() && !results.contains(&v) {
            cx.g.values[v].name = format!("{base}.{n}");
        }
    }
    Ok(results)
}

fn build(cx: &mut NodeCx<'_>, cell: Cell) -> Built {
    let (gates, defaults, most): (usize, &[&str], usize) = match cell {
        Cell::Rnn => (1, &["Tanh"], 6),
        Cell::Gru { .. } => (3, &["Sigmoid", "Tanh"], 6),
        Cell::Lstm { .. } => (4, &["Sigmoid", "Tanh", "Tanh"], 8),
    };
    cx.arity(3, most)?;
    let direction = cx.text("direction")?.unwrap_or_else(|| "forward".into());
    let backward: &[bool] = match direction.as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(cx.bad_attribute(format!("attribute `direction` is {other:?}"))),
    };
    let n = backward.len();
    let activations = activations(cx, defaults, n)?;
    let clip = if cx.has("clip") { Some(cx.float("clip", 0.0)?) } else { None };
    if clip.is_some_and(|c| c < 0.0) {
        return Err(cx.bad_attribute("attribute `clip` is negative"));
    }
    let batch_first = cx.flag("layout", false)?;
    let mut x = cx.arg(0)?;
    let (w, r) = (cx.arg(1)?, cx.arg(2)?);
    let swap = |cx: &mut NodeCx<'_>, v: Value| cx.push(Op::Transpose { perm: vec![1, 0, 2] }, &[v]);
    let rank3 = |cx: &NodeCx<'_>, v: Value, what: &str| match cx.dims(v)[..] {
        [a, b, c] => Ok([a, b, c]),
        _ => Err(cx.err(Code::ShapeMismatch, format!("{what} has rank {} instead of 3", cx.dims(v).len()))),
    };
    rank3(cx, x, "its input")?;
    if batch_first {
        x = swap(cx, x)?;
    }
    let [time, batch, input] = rank3(cx, x, "its input")?;
    let [_, _, hidden] = rank3(cx, r, "its recurrence weight")?;
    let expect = |cx: &NodeCx<'_>, v: Value, dims: &[usize], what: &str| -> Result<(), Diagnostic> {
        let own = cx.dims(v);
        if own == dims { Ok(()) } else { Err(cx.err(Code::ShapeMismatch, format!("{what} has dimensions {own:?} instead of {dims:?}"))) }
    };
    expect(cx, w, &[n, gates * hidden, input], "its weight")?;
    expect(cx, r, &[n, gates * hidden, hidden], "its recurrence weight")?;
    if cx.int("hidden_size")?.is_some_and(|h| usize::try_from(h) != Ok(hidden)) {
        return Err(cx.bad_attribute("attribute `hidden_size` does not fit the weights"));
    }
    let most = cx.options.limits.rounds;
    if time == 0 || time > most {
        return Err(cx.err(Code::LimitExceeded, format!("runs over {time} steps; 1 to {most} are supported")));
    }
    if let Some(lengths) = cx.optional(4) {
        let known = cx.g.tensor(lengths).and_then(Tensor::to_ints);
        if known.is_none_or(|l| l.iter().any(|l| *l != time as i64)) {
            return Err(cx.unsupported("has sequences of different lengths; only the whole length is supported"));
        }
    }
    let shape = Shape { time, batch, hidden, gates, clip };
    let zero = cx.g.constant("zero_state", Tensor::f32([batch, hidden], &vec![0.0; batch * hidden]));
    let mut all = Vec::new();
    for (d, &backward) in backward.iter().enumerate() {
        let (wb, rb) = match cx.optional(3) {
            None => (None, None),
            Some(b) => {
                expect(cx, b, &[n, 2 * gates * hidden], "its bias")?;
                let b = row(cx, b, d)?;
                (Some(part(cx, b, 0, 0, gates * hidden)?), Some(part(cx, b, 0, gates * hidden, gates * hidden)?))
            }
        };
        let state = |cx: &mut NodeCx<'_>, i: usize| -> Result<Value, Diagnostic> {
            let Some(mut s) = cx.optional(i) else { return Ok(zero) };
            if batch_first {
                rank3(cx, s, "its state")?;
                s = swap(cx, s)?;
            }
            expect(cx, s, &[n, batch, hidden], "its state")?;
            row(cx, s, d)
        };
        let h = state(cx, 5)?;
        let lstm = matches!(cell, Cell::Lstm { .. });
        let c = if lstm { Some(state(cx, 6)?) } else { None };
        let peepholes = match cx.optional(7).filter(|_| lstm) {
            None => None,
            Some(p) => {
                expect(cx, p, &[n, 3 * hidden], "its peephole weight")?;
                let p = row(cx, p, d)?;
                Some([part(cx, p, 0, 0, hidden)?, part(cx, p, 0, hidden, hidden)?, part(cx, p, 0, 2 * hidden, hidden)?])
            }
        };
        let (w, r) = (row(cx, w, d)?, row(cx, r, d)?);
        let mut split = Vec::new();
        if cell == (Cell::Gru { linear_before_reset: false }) {
            for (first, rows) in [(0, 2 * hidden), (2 * hidden, hidden)] {
                let bias = match rb {
                    Some(b) => Some(part(cx, b, 0, first, rows)?),
                    None => None,
                };
                split.push((part(cx, r, 0, first, rows)?, bias));
            }
        }
        let own = activations[d * defaults.len()..][..defaults.len()].to_vec();
        all.push(unroll(cx, cell, &shape, x, Direction { w, r, split, wb, rb, peepholes, h, c, activations: own, backward })?);
    }
    // Y [T, D, B, H], Y_h and Y_c [D, B, H]; batch first: [B, T, D, H] and [B, D, H].
    let stack = |cx: &mut NodeCx<'_>, values: &[Value], axis: usize| -> Result<Value, Diagnostic> {
        let mut parts = Vec::new();
        for &v in values {
            let mut dims = cx.dims(v);
            dims.insert(axis, 1);
            parts.push(cx.reshape(v, dims)?);
        }
        if let [one] = parts[..] { Ok(one) } else { cx.push(Op::Concat { axis }, &parts) }
    };
    let sequences: Vec<Value> = all.iter().map(|(y, _, _)| *y).collect();
    let mut y = stack(cx, &sequences, 1)?;
    if batch_first {
        y = cx.push(Op::Transpose { perm: vec![2, 0, 1, 3] }, &[y])?;
    }
    let mut results = vec![y];
    let hidden: Vec<Value> = all.iter().map(|(_, h, _)| *h).collect();
    let cells: Vec<Value> = all.iter().filter_map(|(_, _, c)| *c).collect();
    for last in [hidden, cells] {
        if !last.is_empty() {
            let mut v = stack(cx, &last, 0)?;
            if batch_first {
                v = swap(cx, v)?;
            }
            results.push(v);
        }
    }
    Ok(results)
}

/// All steps of a direction: the outputs `[T, B, H]`, and the last state and cell `[B, H]`.
fn unroll(cx: &mut NodeCx<'_>, cell: Cell, s: &Shape, x: Value, d: Direction) -> Result<(Value, Value, Option<Value>), Diagnostic> {
    let inputs = dense(cx, x, d.w, d.wb)?;
    let (mut h, mut c) = (d.h, d.c);
    let mut outputs = vec![h; s.time];
    for step in 0..s.time {
        let t = if d.backward { s.time - 1 - step } else { step };
        let now = part(cx, inputs, 0, t, 1)?;
        let now = cx.reshape(now, vec![s.batch, s.gates * s.hidden])?;
        match cell {
            Cell::Rnn => {
                let before = dense(cx, h, d.r, d.rb)?;
                let sum = binary(cx, Binary::Add, now, before)?;
                let sum = clipped(cx, s, sum)?;
                h = apply(cx, d.activations[0], sum)?;
            }
            Cell::Gru { linear_before_reset } => h = gru_step(cx, s, &d, now, h, linear_before_reset)?,
            Cell::Lstm { couple } => {
                let before = c.ok_or_else(|| cx.err(Code::Internal, "an LSTM has a cell"))?;
                let (next, cell) = lstm_step(cx, s, &d, now, (h, before), couple)?;
                (h, c) = (next, Some(cell));
            }
        }
        outputs[t] = h;
    }
    let mut rows = Vec::with_capacity(s.time);
    for v in outputs {
        rows.push(cx.reshape(v, vec![1, s.batch, s.hidden])?);
    }
    let y = if let [one] = rows[..] { one } else { cx.push(Op::Concat { axis: 0 }, &rows)? };
    Ok((y, h, c))
}

/// The limits before an activation.
fn clipped(cx: &mut NodeCx<'_>, s: &Shape, x: Value) -> Result<Value, Diagnostic> {
    match s.clip {
        Some(c) => cx.push(Op::Unary(Unary::Clip { lo: -c, hi: c }), &[x]),
        None => Ok(x),
    }
}

/// Gates in the order z, r, h: `h' = (1 - z) n + z h`.
fn gru_step(cx: &mut NodeCx<'_>, s: &Shape, d: &Direction, now: Value, h: Value, linear: bool) -> Result<Value, Diagnostic> {
    let n = s.hidden;
    let gate = |cx: &mut NodeCx<'_>, x: Value, i: usize, count: usize| {
        let axis = cx.dims(x).len() - 1;
        part(cx, x, axis, i * n, count * n)
    };
    let (f, g) = (d.activations[0], d.activations[1]);
    let now_zr = gate(cx, now, 0, 2)?;
    let now_h = gate(cx, now, 2, 1)?;
    let (zr, candidate) = if linear {
        // One product serves all gates, because the reset comes after it.
        let before = dense(cx, h, d.r, d.rb)?;
        (gate(cx, before, 0, 2)?, Some(gate(cx, before, 2, 1)?))
    } else {
        (dense(cx, h, d.split[0].0, d.split[0].1)?, None)
    };
    let sum = binary(cx, Binary::Add, now_zr, zr)?;
    let sum = clipped(cx, s, sum)?;
    let zr = apply(cx, f, sum)?;
    let (z, r) = (gate(cx, zr, 0, 1)?, gate(cx, zr, 1, 1)?);
    let hidden = match candidate {
        Some(candidate) => binary(cx, Binary::Mul, r, candidate)?,
        None => {
            let reset = binary(cx, Binary::Mul, r, h)?;
            dense(cx, reset, d.split[1].0, d.split[1].1)?
        }
    };
    let sum = binary(cx, Binary::Add, now_h, hidden)?;
    let sum = clipped(cx, s, sum)?;
    let new = apply(cx, g, sum)?;
    // (1 - z) n + z h = n + z (h - n), with one product less.
    let difference = binary(cx, Binary::Sub, h, new)?;
    let kept = binary(cx, Binary::Mul, z, difference)?;
    binary(cx, Binary::Add, new, kept)
}

/// Gates in the order i, o, f, c: `c' = f c + i g`, `h' = o tanh(c')`.
fn lstm_step(
    cx: &mut NodeCx<'_>,
    s: &Shape,
    d: &Direction,
    now: Value,
    (h, c): (Value, Value),
    couple: bool,
) -> Result<(Value, Value), Diagnostic> {
    let n = s.hidden;
    let before = dense(cx, h, d.r, d.rb)?;
    let sums = binary(cx, Binary::Add, now, before)?;
    let gate = |cx: &mut NodeCx<'_>, i: usize| part(cx, sums, 1, i * n, n);
    let peep = |cx: &mut NodeCx<'_>, sum: Value, which: usize, cell: Value| -> Result<Value, Diagnostic> {
        let Some(p) = d.peepholes else { return Ok(sum) };
        let weighted = binary(cx, Binary::Mul, cell, p[which])?;
        binary(cx, Binary::Add, sum, weighted)
    };
    let squash = |cx: &mut NodeCx<'_>, which: usize, x: Value| {
        let x = clipped(cx, s, x)?;
        apply(cx, d.activations[which], x)
    };
    let sum = gate(cx, 0)?;
    let sum = peep(cx, sum, 0, c)?;
    let i = squash(cx, 0, sum)?;
    let f = if couple {
        let one = cx.scalar(1.0);
        binary(cx, Binary::Sub, one, i)?
    } else {
        let sum = gate(cx, 2)?;
        let sum = peep(cx, sum, 2, c)?;
        squash(cx, 0, sum)?
    };
    let sum = gate(cx, 3)?;
    let g = squash(cx, 1, sum)?;
    let kept = binary(cx, Binary::Mul, f, c)?;
    let added = binary(cx, Binary::Mul, i, g)?;
    let cell = binary(cx, Binary::Add, kept, added)?;
    let sum = gate(cx, 1)?;
    let sum = peep(cx, sum, 1, cell)?;
    let o = squash(cx, 0, sum)?;
    let shown = apply(cx, d.activations[2], cell)?;
    Ok((binary(cx, Binary::Mul, o, shown)?, cell))
}
