//! f32 convolution: taps in order `ky, kx, i`, a multiply and an add each, never contracted. Channels side by side
//! share nothing, so vectors change no result.

use super::{
    Kernel,
    conv_plain::{outputs, taps},
    panels::{BLOCK, Panels, Place, Stride, displace, walk},
};
use crate::emit::{Emitter, FloatEnd, Machine, Ptr};
use crate::target::Level;
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32, F32X4},
};
use quernel_ir::program::{Base, Conv, PANEL, Step, WeightLayout};

/// Most depthwise taps emitted in a straight line.
const MOST_TAPS: usize = 64;

/// The kernel of an f32 convolution.
pub fn choose(conv: &Conv, step: &Step, machine: &Machine) -> Kernel {
    let d = conv.weight_dims();
    let slack = |i: usize| step.reads.get(i).is_none_or(|s| !matches!(s.base, Base::Input(_) | Base::Output(_)));
    if conv.padded() {
        return Kernel::Plain;
    }
    match conv.layout {
        WeightLayout::Panels { depth: 1, contiguous } => {
            let reachable = !contiguous || d.kw == 1 || (conv.input.pixel == d.i && d.groups == 1 && conv.window[1].dilation == 1);
            // Residual vectors may reach past the last channel; operands are read one by one.
            if reachable && (machine.level == Level::Scalar || slack(3)) { Kernel::Panels { flip: false } } else { Kernel::Plain }
        }
        WeightLayout::Depthwise
            if machine.level > Level::Scalar && d.i == 1 && d.groups == d.o && d.kh * d.kw <= MOST_TAPS && slack(0) && slack(3) =>
        {
            Kernel::Depthwise { flip: false }
        }
        _ => Kernel::Plain,
    }
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, kernel: Kernel, conv: &Conv, lo: f32, hi: f32) {
    match kernel {
        Kernel::Panels { .. } => panels(e, conv, lo, hi),
        Kernel::Depthwise { .. } => depthwise(e, conv, lo, hi),
        Kernel::Only | Kernel::Plain => plain(e, conv, lo, hi),
    }
}

fn plain(e: &mut Emitter, conv: &Conv, lo: f32, hi: f32) {
    let (x, w) = (e.read(0), e.read(1));
    let end = e.float_end(lo, hi);
    let zero = e.f32(0.0);
    outputs(e, conv, 4, |e, at| {
        let acc = taps(e, conv, &at, zero, |e, ok, x_index, w_index, acc| {
            let p = e.index(x, x_index, 4);
            let v = e.load_f32(p, 0);
            let v = e.b.ins().select(ok, v, zero);
            let p = e.index(w, w_index, 4);
            let k = e.load_f32(p, 0);
            let product = e.b.ins().fmul(v, k);
            e.b.ins().fadd(acc, product)
        });
        let bias = e.read(2);
        let bias = e.index(bias, at.o, 4);
        let residual = conv.residual.map(|_| {
            let r = e.read(3);
            e.index(r, at.residual, 4)
        });
        finish_one(e, acc, bias, residual, &end, at.to);
    });
}

/// Bias, residual, clip and store of one sum.
fn finish_one(e: &mut Emitter, acc: Value, bias: Ptr, residual: Option<Ptr>, end: &FloatEnd, to: Ptr) {
    let bias = e.load_f32(bias, 0);
    let mut y = e.b.ins().fadd(acc, bias);
    if let Some(r) = residual {
        let r = e.load_f32(r, 0);
        y = e.b.ins().fadd(y, r);
    }
    let y = e.bound(y, end);
    e.store(y, to, 0);
}

/// The same for sixteen sums, of which the first `lanes` exist.
fn finish_sixteen(e: &mut Emitter, acc: &[Value], bias: Ptr, residual: Option<Ptr>, bounds: (f32, f32), to: Ptr, lanes: usize) {
    let end = e.float_end_v(bounds.0, bounds.1);
    let y: Vec<Value> = (0..4)
        .map(|j| {
            let bias = e.load(F32X4, bias, 16 * j as i64);
            let mut y = e.b.ins().fadd(acc[j], bias);
            if let Some(r) = residual {
                let r = e.load(F32X4, r, 16 * j as i64);
                y = e.b.ins().fadd(y, r);
            }
            e.bound_v(y, &end)
        })
        .collect();
    e.store_panel_floats(&y, lanes, to, 0);
}

fn panels(e: &mut Emitter, conv: &Conv, lo: f32, hi: f32) {
    let most = match (e.vectors(), e.machine().x86) {
        (false, _) => 1,
        (true, true) => 2,
        (true, false) => 4,
    };
    let Some(loops) = Panels::new(conv, [4; 3], most) else { return plain(e, conv, lo, hi) };
    let bias = e.read(2);
    let residual = conv.residual.map(|_| (e.read(3), bias));
    let slots = Place { x: e.read(0), w: e.read(1), bias, scale: bias, residual, out: e.write(0) };
    if e.vectors() {
        loops.emit(e, slots, &|e, place, pixels, lanes| vectors(e, &loops, place, pixels, lanes, (lo, hi)));
    } else {
        loops.emit(e, slots, &|e, place, _, lanes| {
            let quad = Stride { w: 16, o: 4, residual: 16, out: 16, ..Stride::default() };
            let full = lanes / 4;
            walk(e, full, place, quad, &|e, place| scalars(e, &loops, place, 4, (lo, hi)));
            if lanes % 4 > 0 {
                let place = displace(e, place, quad, full);
                scalars(e, &loops, place, lanes % 4, (lo, hi));
            }
        });
    }
}

fn vectors(e: &mut Emitter, loops: &Panels, place: Place, pixels: usize, lanes: usize, bounds: (f32, f32)) {
    let zero = e.splat_f32(0.0);
    let step = loops.pixel;
    let acc = loops.sum(e, place.x, place.w, vec![zero; 4 * pixels], &|e, x, w, block, acc| {
        let words: Vec<Value> = (0..pixels)
            .map(|p| {
                let word = e.load(F32, x, (p * step.x + 4 * block) as i64);
                e.b.ins().splat(F32X4, word)
            })
            .collect();
        let passed: Vec<Value> = acc.into_iter().chain(words).collect();
        let mut passed = e.cut(&passed);
        let words = passed.split_off(4 * pixels);
        for j in 0..4 {
            let weights = e.load_constant(F32X4, w, (BLOCK * block + 16 * j) as i64);
            for (p, &word) in words.iter().enumerate() {
                let product = e.b.ins().fmul(word, weights);
                let a = &mut passed[4 * p + j];
                *a = e.b.ins().fadd(*a, product);
            }
        }
        passed
    });
    for p in 0..pixels {
        let residual = place.residual.map(|(r, _)| e.at(r, (p * step.residual) as i64));
        let to = e.at(place.out, (p * step.out) as i64);
        finish_sixteen(e, &acc[4 * p..4 * p + 4], place.bias, residual, bounds, to, lanes);
    }
}

/// One pixel, up to four channels, without vectors.
fn scalars(e: &mut Emitter, loops: &Panels, place: Place, lanes: usize, (lo, hi): (f32, f32)) {
    let zero = e.f32(0.0);
    let acc = loops.sum(e, place.x, place.w, vec![zero; lanes], &|e, x, w, block, mut acc| {
        let v = e.load_f32(x, 4 * block as i64);
        for (lane, a) in acc.iter_mut().enumerate() {
            let k = e.load_f32(w, (BLOCK * block + 4 * lane) as i64);
            let product = e.b.ins().fmul(v, k);
            *a = e.b.ins().fadd(*a, product);
        }
        acc
    });
    let end = e.float_end(lo, hi);
    for (lane, &a) in acc.iter().enumerate() {
        let off = 4 * lane as i64;
        let bias = e.at(place.bias, off);
        let residual = place.residual.map(|(r, _)| e.at(r, off));
        let to = e.at(place.out, off);
        finish_one(e, a, bias, residual, &end, to);
    }
}

/// Sixteen channels of one pixel at a time.
fn depthwise(e: &mut Emitter, conv: &Conv, lo: f32, hi: f32) {
    let (view, out, d) = (conv.input, conv.output, conv.weight_dims());
    let [wy, wx] = conv.window;
    let tap_bytes = 4 * d.o.next_multiple_of(PANEL) as i64;
    let taps: Vec<i64> =
        (0..d.kh * d.kw).map(|t| 4 * ((t / d.kw) * wy.dilation * view.row + (t % d.kw) * wx.dilation * view.pixel) as i64).collect();
    let mut start = vec![e.at(e.read(0), 4 * view.start as i64), e.at(e.write(0), 4 * out.start as i64), e.read(1), e.read(2)];
    if let Some(r) = conv.residual {
        start.push(e.at(e.read(3), 4 * r.start as i64));
    }
    let residual = conv.residual.unwrap_or(out);
    let step = |ptrs: &[Ptr], x: usize, y: usize, channels: usize, r: usize| {
        ptrs.iter().copied().zip([x, y, channels, channels, r].map(|n| 4 * n as i64)).collect::<Vec<_>>()
    };
    let block = |e: &mut Emitter, ptrs: &[Ptr], lanes: usize| {
        e.walk(out.n, &step(ptrs, view.batch, out.batch, 0, residual.batch), |e, ptrs| {
            e.walk(out.h, &step(ptrs, wy.stride * view.row, out.row, 0, residual.row), |e, ptrs| {
                e.walk(out.w, &step(ptrs, wx.stride * view.pixel, out.pixel, 0, residual.pixel), |e, p| {
                    let zero = e.splat_f32(0.0);
                    let mut acc = [zero; 4];
                    for (t, &tap) in taps.iter().enumerate() {
                        for (j, a) in acc.iter_mut().enumerate() {
                            let x = e.load(F32X4, p[0], tap + 16 * j as i64);
                            let w = e.load_constant(F32X4, p[2], t as i64 * tap_bytes + 16 * j as i64);
                            let product = e.b.ins().fmul(x, w);
                            *a = e.b.ins().fadd(*a, product);
                        }
                    }
                    let residual = conv.residual.map(|_| p[4]);
                    finish_sixteen(e, &acc, p[3], residual, (lo, hi), p[1], lanes);
                });
            });
        });
    };
    let full = d.o / PANEL;
    let panels = step(&start, PANEL, PANEL, PANEL, PANEL);
    e.walk(full, &panels, |e, ptrs| block(e, ptrs, PANEL));
    if d.o % PANEL > 0 {
        let last: Vec<Ptr> = panels.iter().map(|&(p, by)| e.at(p, full as i64 * by)).collect();
        block(e, &last, d.o % PANEL);
    }
}
