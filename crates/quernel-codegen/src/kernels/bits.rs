//! Products of bits: exclusive or, and the number of ones.

use super::{
    conv::{BIAS, Layer, SCALE, W, X, finish_panel, finish_scalar, scalar_end, vector_end},
    expand::Lookup,
    panels::{BLOCK, Panels, Place, Stride, displace, walk},
    unsupported,
};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{I8, I8X16, I32, I32X4, I64},
};
use quernel_ir::{diag::Diagnostic, program::What};

/// Words whose ones a byte can count: eight of each.
const MOST_WORDS: usize = 31;

/// Emits the body of a layer.
pub fn emit(e: &mut Emitter, layer: &Layer) {
    let most = match (e.vectors(), e.machine().x86) {
        (false, _) => 1,
        (true, true) => 2,
        (true, false) => 4,
    };
    let Some(loops) = Panels::new(layer.conv, [1, 1, layer.out_bytes() as usize], most) else { return };
    let slots = Place { x: e.read(X), w: e.read(W), bias: e.read(BIAS), scale: e.read(SCALE), residual: None, out: e.write(0) };
    let t = Tile { layer, loops: &loops };
    // Ones of bytes are counted by a table of nibbles where nothing counts them.
    if Lookup::in_vectors(e) {
        loops.emit(e, slots, &|e, place, pixels, lanes| t.vectors(e, place, pixels, lanes));
    } else {
        loops.emit(e, slots, &|e, place, pixels, lanes| {
            for p in 0..pixels {
                let pixel = Stride { x: loops.pixel.x, out: loops.pixel.out, ..Stride::default() };
                let place = displace(e, place, pixel, p);
                t.scalars(e, place, lanes);
            }
        });
    }
}

struct Tile<'a> {
    layer: &'a Layer<'a>,
    loops: &'a Panels<'a>,
}

impl Tile<'_> {
    fn vectors(&self, e: &mut Emitter, place: Place, pixels: usize, lanes: usize) {
        let bias: Vec<Value> = (0..4).map(|j| e.load(I32X4, place.bias, 16 * j)).collect();
        let acc: Vec<Value> = (0..pixels).flat_map(|_| bias.iter().copied()).collect();
        let step = self.loops.pixel.x;
        let acc = self.loops.runs(e, place.x, place.w, acc, MOST_WORDS, &|e, x, w, words, acc| {
            let none = e.splat_i8(0);
            let ptrs = [(w, BLOCK as i64), (x, 4)];
            let counts = e.fold(words, &ptrs, &vec![none; 4 * pixels], |e, q, counts| {
                let mut counts = counts.to_vec();
                for p in 0..pixels {
                    let word = e.load(I32, q[1], (p * step) as i64);
                    let word = e.splat_word(word);
                    for j in 0..4 {
                        let weights = e.load_constant(I8X16, q[0], 16 * j as i64);
                        let differ = e.b.ins().bxor(word, weights);
                        let ones = e.b.ins().popcnt(differ);
                        counts[4 * p + j] = e.b.ins().iadd(counts[4 * p + j], ones);
                    }
                }
                counts
            });
            let one = e.splat_i16(1);
            acc.into_iter()
                .zip(counts)
                .map(|(a, c)| {
                    let [even, odd] = e.split_bytes(c, false);
                    let halves = e.b.ins().iadd(even, odd);
                    let ones = e.multiply_pairs(halves, one);
                    e.b.ins().isub(a, ones)
                })
                .collect()
        });
        for p in 0..pixels {
            let to = e.at(place.out, (p * self.loops.pixel.out) as i64);
            let ends = vector_end(e, self.layer);
            finish_panel(e, std::array::from_fn(|j| acc[4 * p + j]), place.scale, None, &ends, to, lanes);
        }
    }

    /// One pixel, channel by channel.
    fn scalars(&self, e: &mut Emitter, place: Place, lanes: usize) {
        let lane = Stride { w: 4, o: 1, out: self.layer.out_bytes() as usize, ..Stride::default() };
        walk(e, lanes, place, lane, &|e, place| {
            let bias = e.load_i32(place.bias, 0);
            let acc = self.loops.runs(e, place.x, place.w, vec![bias], usize::MAX, &|e, x, w, words, acc| {
                e.fold(words, &[(w, BLOCK as i64), (x, 4)], &acc, |e, q, acc| {
                    let (word, weights) = (e.load_i32(q[1], 0), e.load_i32(q[0], 0));
                    let differ = e.b.ins().bxor(word, weights);
                    let ones = e.b.ins().popcnt(differ);
                    vec![e.b.ins().isub(acc[0], ones)]
                })
            });
            let ends = scalar_end(e, self.layer);
            let scale = e.load_f32(place.scale, 0);
            finish_scalar(e, acc[0], scale, None, &ends, place.out);
        });
    }
}

/// Emits the body of a packing.
pub fn emit_pack(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::PackBits { rows, k } = *what else { return Err(unsupported(what)) };
    let run = 4 * k.div_ceil(32);
    let (x, to) = (e.read(0), e.write(0));
    e.walk(rows, &[(x, k as i64), (to, run as i64)], |e, p| {
        e.walk(k / 8, &[(p[0], 8), (p[1], 1)], |e, q| pack(e, q[0], q[1], 8));
        let (x, to) = (e.at(p[0], (k / 8 * 8) as i64), e.at(p[1], (k / 8) as i64));
        if k % 8 > 0 {
            pack(e, x, to, k % 8);
        }
        for behind in k.div_ceil(8)..run {
            let zero = e.i32(0);
            e.store_byte(zero, p[1], behind as i64);
        }
    });
    Ok(())
}

/// The lowest bits of up to eight bytes as one.
fn pack(e: &mut Emitter, x: Ptr, to: Ptr, bytes: usize) {
    if bytes == 8 {
        // Bit 8 i moves to bit 56 + i: no two products meet.
        let word = e.load(I64, x, 0);
        let word = match x.order {
            cranelift_codegen::ir::Endianness::Big => e.b.ins().bswap(word),
            cranelift_codegen::ir::Endianness::Little => word,
        };
        let ones = e.i64(0x0101_0101_0101_0101);
        let bits = e.b.ins().band(word, ones);
        let gather = e.i64(0x0102_0408_1020_4080);
        let product = e.b.ins().imul(bits, gather);
        let byte = e.b.ins().ushr_imm_u(product, 56);
        let byte = e.b.ins().ireduce(I8, byte);
        return e.store(byte, to, 0);
    }
    let mut all = e.i32(0);
    for i in 0..bytes {
        let byte = e.load_byte(x, i as i64, false);
        let bit = e.b.ins().band_imm_u(byte, 1);
        let bit = e.b.ins().ishl_imm_u(bit, i as i64);
        all = e.b.ins().bor(all, bit);
    }
    e.store_byte(all, to, 0);
}
