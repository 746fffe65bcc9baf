//! Integer convolution over weight panels, of bytes or words.

use super::{
    conv::{BIAS, FACTOR, Layer, RESIDUAL, SCALE, W, X, finish_panel, finish_scalar, scalar_end, vector_end},
    panels::{BLOCK, Panels, Place, Stride, displace, walk},
};
use crate::{
    emit::{Emitter, Ptr},
    target::Level,
};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8X16, I16X8, I32, I32X4},
};

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, layer: &Layer, flip: bool) {
    // Sums, weights and words of a tile have to fit 16 (x86-64) or 32 vector registers.
    let most = match (e.level(), e.machine().x86) {
        (Level::Scalar, _) => 1,
        (Level::V128, true) => 2,
        (_, true) => 3,
        (Level::V128, false) => 4,
        (_, false) => 6,
    };
    let widths = [layer.width(), layer.width(), layer.out_bytes() as usize];
    let Some(loops) = Panels::new(layer.conv, widths, most) else { return super::conv_plain::emit(e, layer) };
    let residual = layer.conv.residual.map(|_| (e.read(RESIDUAL), e.read(FACTOR)));
    let slots = Place { x: e.read(X), w: e.read(W), bias: e.read(BIAS), scale: e.read(SCALE), residual, out: e.write(0) };
    let t = Tile { layer, flip, loops: &loops };
    if e.vectors() {
        loops.emit(e, slots, &|e, place, pixels, lanes| t.vectors(e, place, pixels, lanes));
    } else {
        loops.emit(e, slots, &|e, place, _, lanes| t.scalars(e, place, lanes));
    }
}

struct Tile<'a> {
    layer: &'a Layer<'a>,
    /// Invert the top bit of operand bytes.
    flip: bool,
    loops: &'a Panels<'a>,
}

impl Tile<'_> {
    /// `pixels` by sixteen sums in vectors.
    fn vectors(&self, e: &mut Emitter, place: Place, pixels: usize, lanes: usize) {
        // One pixel alone would wait for its own sums: alternate between two sets of them.
        let sets = if pixels == 1 && self.loops.total() > 1 { 2 } else { 1 };
        let bias: Vec<Value> = (0..4).map(|j| e.load(I32X4, place.bias, 16 * j)).collect();
        let mut acc: Vec<Value> = (0..pixels).flat_map(|_| bias.iter().copied()).collect();
        if sets == 2 {
            let zero = e.splat_i32(0);
            acc.extend([zero; 4]);
        }
        let step = self.loops.pixel;
        let acc = self.loops.sum(e, place.x, place.w, acc, &|e, x, w, block, acc| {
            let words: Vec<Value> = (0..pixels)
                .map(|p| {
                    let word = e.load(I32, x, (p * step.x + 4 * block) as i64);
                    e.splat_word(word)
                })
                .collect();
            let passed: Vec<Value> = acc.into_iter().chain(words).collect();
            let mut passed = e.cut(&passed);
            let words = passed.split_off(4 * pixels * sets);
            let first = if sets == 2 { 4 * (block % 2) } else { 0 };
            if self.layer.words {
                multiply_words(e, self.flip, &words, (w, (self.loops.block * block) as i64), &mut passed[first..]);
                return passed;
            }
            let weights = |e: &mut Emitter, j: usize| e.load_constant(I8X16, w, (BLOCK * block + 16 * j) as i64);
            multiply(e, (self.layer.signed, self.flip), &words, &weights, &mut passed, first);
            passed
        });
        for p in 0..pixels {
            let sums: [Value; 4] = std::array::from_fn(|j| if sets == 2 { e.b.ins().iadd(acc[j], acc[4 + j]) } else { acc[4 * p + j] });
            let residual = place.residual.map(|(r, f)| {
                let r = e.at(r, (p * step.residual) as i64);
                (r, self.layer.residual(), f)
            });
            let to = e.at(place.out, (p * step.out) as i64);
            // Constants of the end are loaded here, not kept: the tile needs every register.
            let ends = vector_end(e, self.layer);
            finish_panel(e, sums, place.scale, residual, &ends, to, lanes);
        }
    }

    /// One pixel, four channels at a time, without vectors.
    fn scalars(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let depth = 4 / self.layer.width();
        let quad =
            Stride { w: 4 * depth, o: 4, residual: 4 * self.layer.width(), out: 4 * self.layer.out_bytes() as usize, ..Stride::default() };
        let full = lanes / 4;
        walk(e, full, place, quad, &|e, place| self.quad(e, place, 4));
        if !lanes.is_multiple_of(4) {
            let place = displace(e, place, quad, full);
            self.quad(e, place, lanes % 4);
        }
    }

    fn quad(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let acc: Vec<Value> = (0..lanes).map(|l| e.load_i32(place.bias, 4 * l as i64)).collect();
        let (width, depth) = (self.layer.width(), 4 / self.layer.width());
        let acc = self.loops.sum(e, place.x, place.w, acc, &|e, x, w, block, mut acc| {
            for tap in 0..depth {
                let v = e.load_stored(x, (4 * block + width * tap) as i64, self.layer.operand());
                for (lane, a) in acc.iter_mut().enumerate() {
                    let k = e.load_byte(w, (self.loops.block * block + depth * lane + tap) as i64, true);
                    let product = e.b.ins().imul(v, k);
                    *a = e.b.ins().iadd(*a, product);
                }
            }
            acc
        });
        let ends = scalar_end(e, self.layer);
        for (lane, &a) in acc.iter().enumerate() {
            let scale = e.load_f32(place.scale, 4 * lane as i64);
            let residual = place.residual.map(|(r, f)| {
                let factor = e.load_i16(f, 2 * lane as i64);
                let r = e.at(r, (lane * width) as i64);
                (r, self.layer.residual(), factor)
            });
            let to = e.at(place.out, lane as i64 * self.layer.out_bytes());
            finish_scalar(e, a, scale, residual, &ends, to);
        }
    }
}

/// Two taps of each pixel (broadcast pairs of words) against 32 bytes of weights. `flip`: their top bits are to be inverted.
fn multiply_words(e: &mut Emitter, flip: bool, pairs: &[Value], (w, at): (Ptr, i64), acc: &mut [Value]) {
    let mut pairs = pairs.to_vec();
    for pair in &mut pairs {
        *pair = e.cast(I16X8, *pair);
        if flip {
            let top = e.splat_i16(i16::MIN);
            *pair = e.b.ins().bxor(*pair, top);
        }
    }
    for half in 0..2 {
        let weights = e.load_constant(I8X16, w, at + 16 * half as i64);
        for (quarter, weights) in e.widen_bytes(weights, true).into_iter().enumerate() {
            for (p, &pair) in pairs.iter().enumerate() {
                let sums = e.multiply_pairs(pair, weights);
                let a = &mut acc[4 * p + 2 * half + quarter];
                *a = e.b.ins().iadd(*a, sums);
            }
        }
    }
}

/// Four taps of each pixel (broadcast words) against four weight vectors. `signed`: the operand is, and its top bit is to be
/// inverted.
pub fn multiply(
    e: &mut Emitter,
    (signed, flip): (bool, bool),
    words: &[Value],
    weights: &dyn Fn(&mut Emitter, usize) -> Value,
    acc: &mut [Value],
    first: usize,
) {
    let mut words = words.to_vec();
    for word in words.iter_mut().filter(|_| flip) {
        let top = e.splat_i8(0x80);
        *word = e.b.ins().bxor(*word, top);
    }
    let signed = signed != flip;
    if e.dots() {
        for j in 0..4 {
            let weights = weights(e, j);
            for (p, &word) in words.iter().enumerate() {
                let a = &mut acc[first + 4 * p + j];
                *a = e.dot(*a, word, signed, weights);
            }
        }
        return;
    }
    let split: Vec<[Value; 2]> = words.iter().map(|&word| e.split_bytes(word, signed)).collect();
    for j in 0..4 {
        let weights = weights(e, j);
        let weights = e.split_bytes(weights, true);
        for (p, word) in split.iter().enumerate() {
            for half in 0..2 {
                let pairs = e.multiply_pairs(word[half], weights[half]);
                let a = &mut acc[first + 4 * p + j];
                *a = e.b.ins().iadd(*a, pairs);
            }
        }
    }
}
