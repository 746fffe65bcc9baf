//! Products over panels of codes: each unit of codes is expanded in registers, in front of the same multiplications as bytes.

use super::{
    Kernel, Plan,
    conv::{BIAS, Layer, SCALE, W, X, corrected_bias, derive, finish_panel, finish_scalar, flips, scalar_end, vector_end},
    conv_panels::multiply,
    expand::Lookup,
    panels::{Panels, Place, Stride, displace, walk},
};
use crate::{
    emit::{Emitter, Machine, Ptr},
    target::Level,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8X16, I32, I32X4},
};
use quernel_ir::{
    codes::{self, UNIT, packed_len, per_unit},
    program::{Base, Conv, PANEL, Program, Step},
};

/// Table of the codes.
const TABLE: usize = 4;

/// Chooses the kernel and corrects the biases for it.
pub fn plan(program: &Program, step: &Step, conv: &Conv, signed: bool, machine: &Machine, derived: &mut Vec<Vec<u8>>, plan: &mut Plan) {
    plan.kernel = Kernel::Plain;
    let slack = !matches!(step.reads[X].base, Base::Input(_) | Base::Output(_));
    if !(machine.level > Level::Scalar && machine.shuffles && slack) {
        return;
    }
    let flip = flips(machine, signed);
    if flip {
        let bias = super::constant(program, &step.reads[BIAS]);
        let (Some(weights), Some(bias)) = (codes::weights(program, step), bias) else { return };
        let corrected = corrected_bias(conv, &weights, bias, if signed { -128 } else { 128 });
        plan.arguments[BIAS] = derive(derived, corrected);
    }
    plan.kernel = Kernel::Panels { flip };
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, kernel: Kernel, layer: &Layer, bits: u8) {
    let most = match (kernel, e.machine().x86) {
        (Kernel::Panels { .. }, true) => 2,
        (Kernel::Panels { .. }, false) => 4,
        _ => 1,
    };
    let Some(mut loops) = Panels::new(layer.conv, [1, 1, layer.out_bytes() as usize], most) else { return };
    let d = layer.conv.weight_dims();
    let taps = d.i * d.kh * d.kw;
    loops.panel_bytes = packed_len(loops.total() * UNIT, bits);
    let slots = Place { x: e.read(X), w: e.read(W), bias: e.read(BIAS), scale: e.read(SCALE), residual: None, out: e.write(0) };
    let table = e.read(TABLE);
    let lookup = Lookup::new(e, bits, table);
    let t = Tile { layer, lookup, loops: &loops, parts: per_unit(bits) / UNIT, taps };
    match kernel {
        Kernel::Panels { flip } => loops.emit(e, slots, &|e, place, pixels, lanes| t.vectors(e, place, flip, pixels, lanes)),
        _ => loops.emit(e, slots, &|e, place, _, lanes| t.scalars(e, place, lanes)),
    }
}

struct Tile<'a> {
    layer: &'a Layer<'a>,
    lookup: Lookup,
    loops: &'a Panels<'a>,
    /// Blocks of four taps in a unit.
    parts: usize,
    /// Taps of a whole sum.
    taps: usize,
}

impl Tile<'_> {
    /// `pixels` by sixteen sums in vectors.
    fn vectors(&self, e: &mut Emitter, place: Place, flip: bool, pixels: usize, lanes: usize) {
        let bias: Vec<Value> = (0..4).map(|j| e.load(I32X4, place.bias, 16 * j)).collect();
        let acc: Vec<Value> = (0..pixels).flat_map(|_| bias.iter().copied()).collect();
        let acc = self.units(e, place, acc, &|e, w, x, (parts, _), mut acc| {
            for part in 0..parts {
                let words: Vec<Value> = (0..pixels)
                    .map(|p| {
                        let word = e.load(I32, x, (p * self.loops.pixel.x + 4 * part) as i64);
                        e.splat_word(word)
                    })
                    .collect();
                let weights = |e: &mut Emitter, j: usize| {
                    let packed = e.load_constant(I8X16, w, 16 * j as i64);
                    self.lookup.vector(e, packed, part)
                };
                multiply(e, (self.layer.signed, flip), &words, &weights, &mut acc, 0);
            }
            acc
        });
        for p in 0..pixels {
            let to = e.at(place.out, (p * self.loops.pixel.out) as i64);
            let ends = vector_end(e, self.layer);
            finish_panel(e, std::array::from_fn(|j| acc[4 * p + j]), place.scale, None, &ends, to, lanes);
        }
    }

    /// One pixel, four channels at a time, without vectors.
    fn scalars(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let quad = Stride { w: 16, o: 4, out: 4 * self.layer.out_bytes() as usize, ..Stride::default() };
        walk(e, lanes / 4, place, quad, &|e, place| self.quad(e, place, 4));
        if !lanes.is_multiple_of(4) {
            let place = displace(e, place, quad, lanes / 4);
            self.quad(e, place, lanes % 4);
        }
    }

    fn quad(&self, e: &mut Emitter, place: Place, lanes: usize) {
        debug_assert!(lanes <= PANEL);
        let acc: Vec<Value> = (0..lanes).map(|l| e.load_i32(place.bias, 4 * l as i64)).collect();
        // Nothing behind the last tap is read: the operand may be the caller's.
        let acc = self.units(e, place, acc, &|e, w, x, (parts, taps), mut acc| {
            for part in 0..parts {
                for tap in 0..4.min(taps - 4 * part) {
                    let v = e.load_byte(x, (4 * part + tap) as i64, self.layer.signed);
                    for (lane, a) in acc.iter_mut().enumerate() {
                        let k = self.lookup.scalar(e, w, (4 * lane + tap) as i64, part);
                        let product = e.b.ins().imul(v, k);
                        *a = e.b.ins().iadd(*a, product);
                    }
                }
            }
            acc
        });
        let ends = scalar_end(e, self.layer);
        for (lane, &a) in acc.iter().enumerate() {
            let scale = e.load_f32(place.scale, 4 * lane as i64);
            let to = e.at(place.out, lane as i64 * self.layer.out_bytes());
            finish_scalar(e, a, scale, None, &ends, to);
        }
    }

    /// Passes sums through all units; the last one, where it has fewer taps, apart.
    fn units(&self, e: &mut Emitter, place: Place, acc: Vec<Value>, step: &UnitStep) -> Vec<Value> {
        let full = (self.taps / 4) / self.parts;
        let rest = self.loops.total() - full * self.parts;
        let (w, x) = ((place.w, UNIT as i64), (place.x, 4 * self.parts as i64));
        let acc = e.fold(full, &[w, x], &acc, |e, p, acc| step(e, p[0], p[1], (self.parts, 4 * self.parts), acc.to_vec()));
        if rest == 0 {
            return acc;
        }
        let (w, x) = (e.at(w.0, full as i64 * w.1), e.at(x.0, full as i64 * x.1));
        step(e, w, x, (rest, self.taps - 4 * full * self.parts), acc)
    }
}

/// Adds some blocks of a unit to sums: `(e, codes, x, (blocks, taps), sums)`.
type UnitStep<'a> = dyn Fn(&mut Emitter, Ptr, Ptr, (usize, usize), Vec<Value>) -> Vec<Value> + 'a;
