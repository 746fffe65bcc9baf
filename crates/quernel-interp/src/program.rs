//! Executes programs: the meaning of every [`What`].

use crate::{
    conv::{self, Shape, three},
    data, index, layers, matmul,
    pool::{self, Geometry, Layout},
    reduce,
    strided::{self, Side},
    verify,
};
use quernel_ir::{
    Code, Diagnostic, PoolKind, WindowDim, codes, exact, float, plain,
    program::{Base, ByteProduct, ByteQuant, Conv, End, Image, PANEL, Program, Slot, Step, Strided, What},
};

/// What arena and outputs hold before a step writes them: a read of unwritten memory shows.
const POISON: u8 = 0xa5;

/// The bytes of the outputs in order, for the bytes of the inputs in order.
///
/// `Err` when the program breaks a static invariant of [`crate::verify_program`] or an input does not have its size.
pub fn run_program(p: &Program, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, Diagnostic> {
    run_program_with(p, inputs, &mut |_, _| ())
}

/// Like [`run_program`]; calls `observe` with the number of every step and the bytes of its first written slot.
pub fn run_program_with(p: &Program, inputs: &[&[u8]], observe: &mut dyn FnMut(usize, &[u8])) -> Result<Vec<Vec<u8>>, Diagnostic> {
    let faults = verify::static_faults(p);
    if !faults.is_empty() {
        return Err(Diagnostic::bug(format!("the program is not sound: {}", faults.join("; "))));
    }
    if inputs.len() != p.inputs.len() {
        return Err(Diagnostic::new(Code::SampleName, format!("the program has {} inputs, {} are given", p.inputs.len(), inputs.len())));
    }
    for (port, bytes) in p.inputs.iter().zip(inputs) {
        if bytes.len() != port.ty.bytes() {
            return Err(Diagnostic::new(Code::SampleShape, format!("{} bytes for type {}", bytes.len(), port.ty))
                .at(format!("input {:?}", port.name)));
        }
    }
    let outputs = p.outputs.iter().map(|port| vec![POISON; port.ty.bytes()]).collect();
    let mut memory = Memory { p, inputs, arena: vec![POISON; p.arena_bytes], outputs };
    for (i, step) in p.steps.iter().enumerate() {
        memory.run(step);
        if let Some(slot) = step.writes.first() {
            observe(i, memory.read(slot));
        }
    }
    Ok(memory.outputs)
}

struct Memory<'a> {
    p: &'a Program,
    inputs: &'a [&'a [u8]],
    arena: Vec<u8>,
    outputs: Vec<Vec<u8>>,
}

impl Memory<'_> {
    fn read(&self, slot: &Slot) -> &[u8] {
        let base = match slot.base {
            Base::Arena => &self.arena,
            Base::Input(i) => self.inputs[i as usize],
            Base::Output(i) => &self.outputs[i as usize],
            Base::Blob(b) => &self.p.blobs[b].bytes,
        };
        &base[slot.offset..][..slot.bytes]
    }

    /// Runs one step of a program without static faults. Results are computed beside the memory and then stored, so
    /// operands are whole even in place.
    fn run(&mut self, step: &Step) {
        let Some(to) = step.writes.first() else { return };
        let mut out = self.read(to).to_vec();
        let reads: Vec<&[u8]> = step.reads.iter().map(|s| self.read(s)).collect();
        execute(&step.what, &reads, &mut out);
        let base = match to.base {
            Base::Arena => &mut self.arena,
            Base::Output(i) => &mut self.outputs[i as usize],
            Base::Input(_) | Base::Blob(_) => return,
        };
        base[to.offset..][..to.bytes].copy_from_slice(&out);
    }
}

fn execute(what: &What, reads: &[&[u8]], out: &mut [u8]) {
    match what {
        What::Quantize { count, to, width } => {
            for (y, x) in out.chunks_exact_mut(*width).zip(data::f32s(&reads[0][..count * 4])) {
                data::store(y, exact::quantize(x, to.scale, to.zero, to.lo, to.hi));
            }
        }
        What::Dequantize { count, from, width: 2 } => {
            let words = reads[0][..2 * count].chunks_exact(2).map(|w| data::word(from.signed, w));
            put(out, words.map(|q| exact::dequantize(q, from.scale, from.zero)));
        }
        What::Dequantize { count, from, .. } => {
            let table = reals(from);
            put(out, reads[0][..*count].iter().map(|b| table[*b as usize]));
        }
        What::Conv { conv, zero, signed, residual_signed, end } => {
            integer_conv(conv, (*zero, *signed), *residual_signed, *end, reads[1], reads, out);
        }
        What::ConvWords { conv, zero, signed, residual_signed, end } => {
            word_conv(conv, (*zero, *signed), *residual_signed, *end, reads, out);
        }
        What::ConvCodes { conv, bits, signed, end } => {
            let panels = conv.output.c.div_ceil(PANEL);
            let taps = conv.layout.len(conv.weight_dims()) / panels;
            let panel = |codes| (0..taps).map(move |i| reads[4][usize::from(codes::code(codes, *bits, i))]);
            let weights: Vec<u8> = reads[1].chunks(reads[1].len() / panels).flat_map(panel).collect();
            integer_conv(conv, (0, *signed), false, *end, &weights, reads, out);
        }
        What::ConvBits { conv, end } => bit_conv(conv, *end, reads, out),
        What::PackBits { rows, k } => {
            let run = 4 * k.div_ceil(32);
            out[..rows * run].fill(0);
            for (i, x) in reads[0][..rows * k].iter().enumerate() {
                out[i / k * run + i % k / 8] |= (x & 1) << (i % k % 8);
            }
        }
        What::Expand { count, bits } => {
            for (i, y) in out.iter_mut().enumerate().take(*count) {
                *y = reads[1][usize::from(codes::code(reads[0], *bits, i))];
            }
        }
        What::ExpandFloat { panels, taps, group, bits } => {
            let run = reads[0].len() / panels;
            let scales = data::f32s(reads[1]);
            for (i, y) in out.as_chunks_mut::<4>().0.iter_mut().enumerate().take(panels * taps * PANEL) {
                let (panel, within) = (i / (taps * PANEL), i % (taps * PANEL));
                let code = codes::code(&reads[0][panel * run..], *bits, within);
                let value = if *bits == 8 { code } else { reads[2][usize::from(code)] };
                let scale = scales[(panel * (taps / group) + within / PANEL / group) * PANEL + within % PANEL];
                *y = exact::dequantize(i32::from(value as i8), scale, 0).to_le_bytes();
            }
        }
        What::ConvFloat { conv, lo, hi } => float_conv(conv, *lo, *hi, reads, out),
        What::Pool { kind, input, output, window, from, to } => {
            let g = geometry(input, output, window);
            let x: Vec<i32> = reads[0].iter().map(|b| data::byte(from.signed, *b)).collect();
            let include_pad = *kind == PoolKind::Average { include_pad: true };
            pool::windows(&g, &x, include_pad, |at, values, divisor| {
                let y = match kind {
                    PoolKind::Max => values.iter().copied().max().unwrap_or(from.lo),
                    PoolKind::Average { .. } => {
                        exact::average(pool::centered_sum(values, from.zero), divisor, from.scale, to.scale, to.zero, to.lo, to.hi)
                    }
                };
                out[at] = y as u8;
            });
        }
        What::PoolFloat { kind, input, output, window } => {
            let include_pad = *kind == PoolKind::Average { include_pad: true };
            pool::windows(&geometry(input, output, window), &data::f32s(reads[0]), include_pad, |at, values, divisor| {
                put_at(out, at, pool::float(*kind, values, divisor));
            });
        }
        What::Lookup { count } => {
            for (y, x) in out.iter_mut().zip(&reads[0][..*count]) {
                *y = reads[1][*x as usize];
            }
        }
        What::UnaryFloat { op, count } => put(out, data::f32s(&reads[0][..count * 4]).into_iter().map(|x| float::unary(*op, x))),
        What::BinaryBytes { op, over, a, b, to } => {
            let value = |q: &ByteQuant, b: u8| (data::byte(q.signed, b), (q.scale, q.zero));
            triples(over, |i, j, k| {
                let y = exact::binary_quantized(*op, value(a, reads[0][i]), value(b, reads[1][j]), (to.scale, to.zero), to.lo, to.hi);
                out[k] = y as u8;
            });
        }
        What::BinaryFloat { op, over, lo, hi } => {
            let (a, b) = (data::f32s(reads[0]), data::f32s(reads[1]));
            triples(over, |i, j, k| put_at(out, k, float::bound(exact::binary(*op, a[i], b[j]), *lo, *hi)));
        }
        What::UnaryDouble { op, count } => {
            for (y, x) in out.as_chunks_mut::<8>().0.iter_mut().zip(data::f64s(&reads[0][..count * 8])) {
                *y = plain::double_unary(*op, x).to_le_bytes();
            }
        }
        What::BinaryPlain { op, scalar, over } => {
            let width = scalar.bytes();
            triples(over, |i, j, k| {
                let y = plain::binary(*op, *scalar, &reads[0][i * width..], &reads[1][j * width..]);
                out[k * width..][..width].copy_from_slice(&y.to_le_bytes()[..width]);
            });
        }
        What::Compare { op, scalar, over } => {
            let width = scalar.bytes();
            triples(over, |i, j, k| out[k] = plain::compare(*op, *scalar, &reads[0][i * width..], &reads[1][j * width..]).into());
        }
        What::Select { width, over } => {
            let starts: [isize; 4] = std::array::from_fn(|i| over.operands[i].start as isize);
            let steps: [&[isize]; 4] = std::array::from_fn(|i| &over.operands[i].steps[..]);
            strided::rows(&over.dims, starts, steps, |at, step, len| {
                for t in 0..len as isize {
                    let [c, a, b, y]: [usize; 4] = std::array::from_fn(|i| (at[i] + t * step[i]) as usize);
                    let from = if reads[0][c] != 0 { &reads[1][a * width..] } else { &reads[2][b * width..] };
                    out[y * width..][..*width].copy_from_slice(&from[..*width]);
                }
            });
        }
        What::Cast { from, to, count } => {
            out[..count * to.bytes()].copy_from_slice(&plain::cast(*from, *to, &reads[0][..count * from.bytes()]));
        }
        What::MatMulFloat { batch, m, k, n, a_batch, b_batch } => {
            let (a, b) = (data::f32s(reads[0]), data::f32s(reads[1]));
            let mut y = vec![0f32; m * n];
            for i in 0..*batch {
                matmul::product(*m, *k, *n, &a[i * a_batch..], &b[i * b_batch..], &mut y);
                put(&mut out[i * m * n * 4..], y.iter().copied());
            }
        }
        What::PackPanels { over, center, rest, left, signed } => {
            matmul::pack(over, *center, rest, [*left, left + if *signed { 128 } else { -128 }], reads[0], out)
        }
        What::MatMulBytes { product, signed, end, .. } => byte_products(product, *signed, *end, reads, out),
        What::ReduceFloat { kind, outer, len, inner } => {
            let mut x = data::f32s(&reads[0][..outer * len * inner * 4]);
            let mut y = Vec::with_capacity(outer * inner);
            reduce::along(&mut x, (*outer, *len, *inner), |run| y.push(reduce::float(*kind, run)));
            put(out, y);
        }
        What::SoftmaxFloat { outer, len, inner, log } => {
            let mut x = data::f32s(&reads[0][..outer * len * inner * 4]);
            reduce::along(&mut x, (*outer, *len, *inner), |run| reduce::softmax_float(run, *log));
            put(out, x);
        }
        What::LayerNorm { rows, len, epsilon, rms, from, to } => {
            let (g, h) = (data::f32s(&reads[1][..4 * len]), data::f32s(&reads[2][..4 * len]));
            for (y, x) in out.chunks_exact_mut(*len).zip(reads[0].chunks_exact(*len)).take(*rows) {
                let c: Vec<i32> = x.iter().map(|b| data::byte(from.signed, *b) - from.zero).collect();
                for (i, q) in reduce::norm(&c, (from.scale, *epsilon, *rms), &g, &h, (to.zero, to.lo, to.hi)).enumerate() {
                    y[i] = q as u8;
                }
            }
        }
        What::SoftmaxBytes { outer, len, inner, from, to } => softmax_bytes((*outer, *len, *inner), from, to.as_ref(), reads, out),
        What::Gather { width, places, over } => index::gather_step(*width, places, over, [reads[0], reads[1]], out),
        What::Scatter { width, places, over, reduce } => {
            index::scatter_step(*width, places, over, *reduce, [reads[0], reads[1]], out);
        }
        What::Reduce { kind, elem, outer, len, inner } => {
            let width = elem.bytes();
            let mut x = data::bits(width, &reads[0][..outer * len * inner * width]);
            let mut y = Vec::with_capacity(outer * inner);
            reduce::along(&mut x, (*outer, *len, *inner), |run| y.push(reduce::plain(*kind, *elem, run)));
            out[..y.len() * width].copy_from_slice(&data::of_bits(width, &y));
        }
        What::Cumulative { op, elem, outer, len, inner, exclusive, reverse } => {
            let width = elem.bytes();
            let mut x = data::bits(width, &reads[0][..outer * len * inner * width]);
            reduce::along(&mut x, (*outer, *len, *inner), |run| reduce::running(*op, *elem, *exclusive, *reverse, run));
            out[..x.len() * width].copy_from_slice(&data::of_bits(width, &x));
        }
        What::TopK { elem, outer, len, inner, k, smallest, last } => {
            index::top_k_step(*elem, (*outer, *len, *inner), *k, (*smallest, *last), reads[0], out);
        }
        What::Move { width, over } => {
            let [from, to] = [&over.operands[0], &over.operands[1]];
            let to = Side { bytes: out, start: to.start, steps: to.steps.clone() };
            strided::copy(*width, &over.dims, to, Side { bytes: reads[0], start: from.start, steps: from.steps.clone() });
        }
        What::Fill { width, over, bits } => {
            let to = &over.operands[0];
            strided::fill(&over.dims, Side { bytes: out, start: to.start, steps: to.steps.clone() }, &bits.to_le_bytes()[..*width]);
        }
    }
}

/// Stores f32 numbers one after another.
fn put(out: &mut [u8], values: impl IntoIterator<Item = f32>) {
    for (y, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *y = v.to_le_bytes();
    }
}

fn put_at(out: &mut [u8], at: usize, v: f32) {
    out[at * 4..][..4].copy_from_slice(&v.to_le_bytes());
}

/// The real number of every byte.
fn reals(q: &ByteQuant) -> [f32; 256] {
    std::array::from_fn(|b| exact::dequantize(data::byte(q.signed, b as u8), q.scale, q.zero))
}

/// Calls `each` with the positions of three operands.
fn triples(over: &Strided, mut each: impl FnMut(usize, usize, usize)) {
    let [a, b, y] = [&over.operands[0], &over.operands[1], &over.operands[2]];
    let starts = [a.start as isize, b.start as isize, y.start as isize];
    strided::rows(&over.dims, starts, [&a.steps, &b.steps, &y.steps], |[i, j, k], [di, dj, dk], len| {
        for t in 0..len as isize {
            each((i + t * di) as usize, (j + t * dj) as usize, (k + t * dk) as usize);
        }
    });
}

fn geometry(input: &Image, output: &Image, window: &[WindowDim; 2]) -> Geometry {
    let layout = |i: &Image| Layout { start: i.start, batch: i.batch, channel: 1, axes: [0, i.row, i.pixel] };
    Geometry {
        n: output.n,
        c: output.c,
        extent: [1, input.h, input.w],
        out: [1, output.h, output.w],
        window: three(window, WindowDim::new(1)),
        from: layout(input),
        to: layout(output),
    }
}

fn shape(c: &Conv) -> Shape {
    Shape {
        n: c.output.n,
        extent: [1, c.input.h, c.input.w],
        c: c.input.c,
        out: [1, c.output.h, c.output.w],
        o: c.output.c,
        groups: c.groups,
        window: three(&c.window, WindowDim::new(1)),
    }
}

/// The elements of a view, dense; `decode` turns the bytes of a run of elements into numbers.
fn dense<T>(bytes: &[u8], width: usize, i: &Image, decode: impl Fn(&[u8], &mut Vec<T>)) -> Vec<T> {
    let mut out = Vec::with_capacity(i.count());
    for n in 0..i.n {
        for y in 0..i.h {
            for x in 0..i.w {
                decode(&bytes[i.at(n, y, x, 0) * width..][..i.c * width], &mut out);
            }
        }
    }
    out
}

/// Weights in the plain order `[o][ky][kx][i]`.
fn unpack<T>(c: &Conv, at: impl Fn(usize) -> T) -> Vec<T> {
    let d = c.weight_dims();
    let mut out = Vec::with_capacity(d.o * d.kh * d.kw * d.i);
    for o in 0..d.o {
        for ky in 0..d.kh {
            for kx in 0..d.kw {
                out.extend((0..d.i).map(|i| at(c.layout.index(d, o, ky, kx, i))));
            }
        }
    }
    out
}

/// First element of a result pixel, by its number.
fn place(i: &Image, pixel: usize) -> usize {
    i.at(pixel / (i.h * i.w), pixel / i.w % i.h, pixel % i.w, 0)
}

fn integer_conv(c: &Conv, (zero, signed): (i32, bool), residual_signed: bool, end: End, weights: &[u8], reads: &[&[u8]], out: &mut [u8]) {
    let x = dense(reads[0], 1, &c.input, |b, out: &mut Vec<i16>| out.extend(b.iter().map(|b| data::byte(signed, *b) as i16)));
    let w = unpack(c, |at| i16::from(weights[at] as i8));
    let (bias, scale) = (data::i32s(reads[2]), data::f32s(reads[3]));
    let residual = c.residual.as_ref().map(|r| (r, reads[4], data::i16s(reads[5])));
    conv::integer(&shape(c), &x, zero as i16, &w, |pixel, acc| {
        let y = place(&c.output, pixel);
        for (a, b) in acc.iter_mut().zip(&bias) {
            *a = a.wrapping_add(*b);
        }
        if let Some((image, bytes, factors)) = &residual {
            let r = &bytes[place(image, pixel)..][..image.c];
            for ((a, r), f) in acc.iter_mut().zip(r).zip(factors) {
                *a = a.wrapping_add(data::byte(residual_signed, *r).wrapping_mul(i32::from(*f)));
            }
        }
        finish(end, acc.iter().copied(), &scale, y, out);
    });
}

/// Ends the sums of a pixel or row and stores them from element `at` on.
fn finish(end: End, sums: impl Iterator<Item = i32>, scale: &[f32], at: usize, out: &mut [u8]) {
    match end {
        End::Requantize { zero, lo, hi, .. } => {
            for ((y, a), m) in out[at..].iter_mut().zip(sums).zip(scale) {
                *y = exact::requantize(a, *m, zero, lo, hi) as u8;
            }
        }
        End::Float { lo, hi } => put(&mut out[at * 4..], sums.zip(scale).map(|(a, s)| exact::scale_to_float(a, *s, lo, hi))),
    }
}

fn byte_products(p: &ByteProduct, signed: bool, end: End, reads: &[&[u8]], out: &mut [u8]) {
    let c = p.layer();
    let (set, n16) = (p.set_bytes(), p.n.next_multiple_of(PANEL));
    let (bias, scale) = (data::i32s(reads[2]), data::f32s(reads[3]));
    let weights: Vec<Vec<i16>> = reads[1].chunks(set).map(|w| unpack(&c, |at| i16::from(w[at] as i8))).collect();
    triples(&p.over, |a, b, y| {
        for i in 0..p.m {
            let row: Vec<i16> = reads[0][a + i * p.rows[0]..][..p.k].iter().map(|x| data::byte(signed, *x) as i16).collect();
            let sums = (0..p.n).map(|j| {
                let parts = weights[b][j * p.segments * p.k..][..p.segments * p.k].chunks(p.k);
                parts.fold(bias[2 * b * n16 + j], |acc, part| acc.wrapping_add(conv::dot(&row, part)))
            });
            finish(end, sums, &scale, y + i * p.rows[1], out);
        }
    });
}

fn word_conv(c: &Conv, (zero, signed): (i32, bool), residual_signed: bool, end: End, reads: &[&[u8]], out: &mut [u8]) {
    let words = |b: &[u8], signed: bool, out: &mut Vec<i32>| out.extend(b.chunks_exact(2).map(|w| data::word(signed, w)));
    let x = dense(reads[0], 2, &c.input, |b, out| words(b, signed, out));
    let w = unpack(c, |at| i32::from(reads[1][at] as i8));
    let (bias, scale) = (data::i32s(reads[2]), data::f32s(reads[3]));
    let residual = c.residual.as_ref().map(|r| (dense(reads[4], 2, r, |b, out| words(b, residual_signed, out)), data::i16s(reads[5])));
    conv::integer(&shape(c), &x, zero, &w, |pixel, acc| {
        let (y, o) = (place(&c.output, pixel), acc.len());
        for (i, a) in acc.iter_mut().enumerate() {
            *a = a.wrapping_add(bias[i]);
            if let Some((r, factors)) = &residual {
                *a = a.wrapping_add(r[pixel * o + i].wrapping_mul(i32::from(factors[i])));
            }
        }
        match end {
            End::Requantize { zero, lo, hi, .. } => {
                for ((y, a), m) in out[2 * y..].chunks_exact_mut(2).zip(acc).zip(&scale) {
                    data::store(y, exact::requantize(*a, *m, zero, lo, hi));
                }
            }
            End::Float { lo, hi } => put(&mut out[y * 4..], acc.iter().zip(&scale).map(|(a, s)| exact::scale_to_float(*a, *s, lo, hi))),
        }
    });
}

fn bit_conv(c: &Conv, end: End, reads: &[&[u8]], out: &mut [u8]) {
    let x = dense(reads[0], 1, &c.input, |b, out: &mut Vec<u8>| out.extend(b));
    let w = unpack(c, |at| reads[1][at]);
    let (bias, scale, d) = (data::i32s(reads[2]), data::f32s(reads[3]), c.weight_dims());
    let [wy, wx] = c.window;
    for pixel in 0..c.output.n * c.output.h * c.output.w {
        let (n, py, px) = (pixel / (c.output.h * c.output.w), pixel / c.output.w % c.output.h, pixel % c.output.w);
        let sums = (0..d.o).map(|o| {
            let taps = (0..d.kh * d.kw * d.i).map(|t| {
                let (ky, kx, i) = (t / (d.kw * d.i), t / d.i % d.kw, t % d.i);
                let (y, x0) = (py * wy.stride + ky * wy.dilation, px * wx.stride + kx * wx.dilation);
                let x = x[((n * c.input.h + y) * c.input.w + x0) * c.input.c + i];
                (x ^ w[o * d.kh * d.kw * d.i + t]).count_ones() as i32
            });
            taps.fold(bias[o], i32::wrapping_sub)
        });
        let y = place(&c.output, pixel);
        finish(end, sums, &scale, y, out);
    }
}

fn float_conv(c: &Conv, lo: f32, hi: f32, reads: &[&[u8]], out: &mut [u8]) {
    let floats = |b: &[u8], out: &mut Vec<f32>| out.extend(b.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
    let x = dense(reads[0], 4, &c.input, floats);
    let (w, bias) = (data::f32s(reads[1]), data::f32s(reads[2]));
    let w = unpack(c, |at| w[at]);
    let residual = c.residual.as_ref().map(|r| dense(reads[3], 4, r, floats));
    conv::float(&shape(c), &x, &w, |pixel, acc| {
        let y = place(&c.output, pixel);
        let o = acc.len();
        put(
            &mut out[y * 4..],
            acc.iter()
                .enumerate()
                .map(|(i, a)| layers::finish_float(*a, Some(bias[i]), residual.as_ref().map(|r| r[pixel * o + i]), lo, hi)),
        );
    });
}

fn softmax_bytes(split: (usize, usize, usize), from: &ByteQuant, to: Option<&ByteQuant>, reads: &[&[u8]], out: &mut [u8]) {
    let count = split.0 * split.1 * split.2;
    let mut x: Vec<i32> = reads[0][..count].iter().map(|b| data::byte(from.signed, *b)).collect();
    let table: Vec<u32> = data::i32s(reads[1]).into_iter().map(|e| e as u32).collect();
    reduce::along(&mut x, split, |run| {
        let sum = reduce::softmax_entries(run, &table);
        match to {
            Some(q) => {
                let factor = exact::softmax_factor(sum, q.scale);
                run.iter_mut().for_each(|v| *v = exact::softmax_quantized(*v as u32, factor, q.zero, q.lo, q.hi));
            }
            None => {
                let factor = exact::softmax_factor(sum, 1.0);
                run.iter_mut().for_each(|v| *v = reduce::softmax_real(*v as u32, factor).to_bits() as i32);
            }
        }
    });
    match to {
        Some(_) => out.iter_mut().zip(x).for_each(|(y, v)| *y = v as u8),
        None => put(out, x.into_iter().map(|v| f32::from_bits(v as u32))),
    }
}
