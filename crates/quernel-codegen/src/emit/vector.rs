//! 128-bit vectors: constants, widening, narrowing, dot products, partial stores.
//!
//! Only for machines where [`Emitter::vectors`] holds; those are little-endian.

use super::{Dot, Emitter, Ptr};
use cranelift_codegen::ir::{
    ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value,
    condcodes::FloatCC,
    types::{F32X4, I8, I8X16, I16X8, I32, I32X4, I64, I64X2},
};
use quernel_ir::program::PANEL;

impl Emitter<'_> {
    /// A vector constant, loaded from memory beside the code.
    pub fn vconst(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let constant = self.b.func.dfg.constants.insert(ConstantData::from(&bytes[..]));
        self.b.ins().vconst(ty, constant)
    }
    /// Four equal f32.
    pub fn splat_f32(&mut self, v: f32) -> Value {
        self.vconst(F32X4, repeat4(v.to_le_bytes()))
    }
    /// Four equal i32.
    pub fn splat_i32(&mut self, v: i32) -> Value {
        self.vconst(I32X4, repeat4(v.to_le_bytes()))
    }
    /// Eight equal i16.
    pub fn splat_i16(&mut self, v: i16) -> Value {
        let [a, b] = v.to_le_bytes();
        self.vconst(I16X8, repeat4([a, b, a, b]))
    }
    /// Sixteen equal bytes.
    pub fn splat_i8(&mut self, v: u8) -> Value {
        self.vconst(I8X16, [v; 16])
    }
    /// The same bits as another 128-bit type.
    pub fn cast(&mut self, ty: Type, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == ty {
            return v;
        }
        self.b.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), v)
    }
    /// A fixed permutation of the 32 bytes of `a` and `b`. Interleaves, and lane permutations of one operand, are one
    /// instruction everywhere; other patterns cost more without SSSE3.
    pub fn shuffle(&mut self, a: Value, b: Value, lanes: [u8; 16]) -> Value {
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&lanes[..]));
        self.b.ins().shuffle(a, b, mask)
    }
    /// Interleaves the low halves (or the high ones) of two byte vectors in units of `width` bytes (1, 2, 4 or 8).
    pub fn interleave(&mut self, a: Value, b: Value, width: usize, high: bool) -> Value {
        let lanes = std::array::from_fn(|i| {
            let (unit, byte) = (i / width, i % width);
            let source = unit / 2 * width + byte + if high { 8 } else { 0 };
            (source + if unit % 2 == 1 { 16 } else { 0 }) as u8
        });
        self.shuffle(a, b, lanes)
    }

    /// `a < b ? a : b` per f32 lane: [`quernel_ir::exact::min_first`].
    pub fn min_first_v(&mut self, a: Value, b: Value) -> Value {
        let c = self.b.ins().fcmp(FloatCC::LessThan, a, b);
        let c = self.cast_mask(c);
        self.b.ins().bitselect(c, a, b)
    }
    /// `a > b ? a : b` per f32 lane: [`quernel_ir::exact::max_first`].
    pub fn max_first_v(&mut self, a: Value, b: Value) -> Value {
        let c = self.b.ins().fcmp(FloatCC::LessThan, b, a);
        let c = self.cast_mask(c);
        self.b.ins().bitselect(c, a, b)
    }
    fn cast_mask(&mut self, c: Value) -> Value {
        self.b.ins().bitcast(F32X4, MemFlagsData::new().with_endianness(Endianness::Little), c)
    }

    /// Bytes 0..8 and 8..16 as i16x8.
    pub fn widen_bytes(&mut self, v: Value, signed: bool) -> [Value; 2] {
        if signed {
            [self.b.ins().swiden_low(v), self.b.ins().swiden_high(v)]
        } else {
            [self.b.ins().uwiden_low(v), self.b.ins().uwiden_high(v)]
        }
    }
    /// Words 0..4 and 4..8 as i32x4.
    pub fn widen_words(&mut self, v: Value, signed: bool) -> [Value; 2] {
        if signed {
            [self.b.ins().swiden_low(v), self.b.ins().swiden_high(v)]
        } else {
            [self.b.ins().uwiden_low(v), self.b.ins().uwiden_high(v)]
        }
    }
    /// Four i32x4 of word results as sixteen words; unsigned ones come 2^15 lower than they are.
    pub fn narrow_words(&mut self, v: [Value; 4], signed: bool) -> [Value; 2] {
        [0, 2].map(|i| {
            let words = self.b.ins().snarrow(v[i], v[i + 1]);
            if signed {
                return words;
            }
            let top = self.splat_i16(i16::MIN);
            self.b.ins().bxor(words, top)
        })
    }
    /// Sixteen bytes as four i32x4.
    pub fn widen_bytes_i32(&mut self, v: Value, signed: bool) -> [Value; 4] {
        let [lo, hi] = self.widen_bytes(v, signed);
        [self.b.ins().swiden_low(lo), self.b.ins().swiden_high(lo), self.b.ins().swiden_low(hi), self.b.ins().swiden_high(hi)]
    }
    /// Four i32x4 of byte results as sixteen bytes, saturating.
    pub fn narrow_bytes(&mut self, v: [Value; 4], signed: bool) -> Value {
        let a = self.b.ins().snarrow(v[0], v[1]);
        let b = self.b.ins().snarrow(v[2], v[3]);
        if signed { self.b.ins().snarrow(a, b) } else { self.b.ins().unarrow(a, b) }
    }
    /// Stores the first `n` (1..=16) bytes of a vector, touching no other byte.
    pub fn store_low_bytes(&mut self, v: Value, n: usize, p: Ptr, off: i64) {
        if n == 16 {
            self.store(v, p, off);
            return;
        }
        let mut done = 0;
        for (width, ty, vector) in [(8, I64, I64X2), (4, I32, I32X4)] {
            if n - done >= width {
                let lanes = self.cast(vector, v);
                let lane = self.b.ins().extractlane(lanes, (done / width) as u8);
                debug_assert_eq!(self.b.func.dfg.value_type(lane), ty);
                self.store(lane, p, off + done as i64);
                done += width;
            }
        }
        // The last one to three bytes come out of one 32-bit lane.
        if done < n {
            let lanes = self.cast(I32X4, v);
            let mut word = self.b.ins().extractlane(lanes, (done / 4) as u8);
            for i in done..n {
                self.store_byte(word, p, off + i as i64);
                if i + 1 < n {
                    word = self.b.ins().ushr_imm_u(word, 8);
                }
            }
        }
    }
    /// Stores the first `n` (1..=4) lanes of an f32x4.
    pub fn store_low_floats(&mut self, v: Value, n: usize, p: Ptr, off: i64) {
        if n == 4 {
            self.store(v, p, off);
            return;
        }
        for i in 0..n {
            let lane = self.b.ins().extractlane(v, i as u8);
            self.store(lane, p, off + 4 * i as i64);
        }
    }
    /// An i32 (four bytes) in every 32-bit lane, as bytes.
    pub fn splat_word(&mut self, word: Value) -> Value {
        let v = self.b.ins().splat(I32X4, word);
        self.cast(I8X16, v)
    }

    /// `acc + dot of four bytes per i32 lane`: one instruction on [`Level::V128Dot`](crate::Level). `x` are activations as the
    /// machine takes them (see [`Dot`]; `x_signed` says which they are here), `w` signed weights.
    ///
    /// Operand order decides whether instruction selection sees the dot product: weights first on x86-64, activations
    /// first on AArch64.
    pub fn dot(&mut self, acc: Value, x: Value, x_signed: bool, w: Value) -> Value {
        let [xl, xh] = self.widen_bytes(x, x_signed);
        let [wl, wh] = self.widen_bytes(w, true);
        let (lo, hi) = if self.machine.x86 {
            (self.b.ins().imul(wl, xl), self.b.ins().imul(wh, xh))
        } else {
            (self.b.ins().imul(xl, wl), self.b.ins().imul(xh, wh))
        };
        let (a, b) = (self.b.ins().swiden_low(lo), self.b.ins().swiden_high(lo));
        let (c, d) = (self.b.ins().swiden_low(hi), self.b.ins().swiden_high(hi));
        let ab = self.b.ins().iadd_pairwise(a, b);
        let cd = self.b.ins().iadd_pairwise(c, d);
        let sum = self.b.ins().iadd_pairwise(ab, cd);
        self.b.ins().iadd(sum, acc)
    }
    /// Products of i16x8 lanes, neighbours added: `pmaddwd`.
    pub fn multiply_pairs(&mut self, x: Value, y: Value) -> Value {
        let (xl, yl) = (self.b.ins().swiden_low(x), self.b.ins().swiden_low(y));
        let (xh, yh) = (self.b.ins().swiden_high(x), self.b.ins().swiden_high(y));
        let lo = self.b.ins().imul(xl, yl);
        let hi = self.b.ins().imul(xh, yh);
        self.b.ins().iadd_pairwise(lo, hi)
    }
    /// The even and odd bytes of each 16-bit unit as i16 lanes.
    pub fn split_bytes(&mut self, v: Value, signed: bool) -> [Value; 2] {
        let v = self.cast(I16X8, v);
        if signed {
            let up = self.b.ins().ishl_imm_u(v, 8);
            [self.b.ins().sshr_imm_u(up, 8), self.b.ins().sshr_imm_u(v, 8)]
        } else {
            let mask = self.splat_i16(0xff);
            [self.b.ins().band(v, mask), self.b.ins().ushr_imm_u(v, 8)]
        }
    }
    /// Whether the machine's dot product takes activations of this signedness as they are; otherwise kernels flip
    /// their top bit and the bias is corrected (see `kernels::plan`).
    pub fn dot_flips(&self, signed: bool) -> bool {
        match self.machine.dot {
            Dot::Unsigned => signed,
            Dot::Signed => !signed,
            Dot::Both => false,
        }
    }
    /// Sixteen f32 results of a panel, of which the first `n` exist.
    pub fn store_panel_floats(&mut self, v: &[Value], n: usize, p: Ptr, off: i64) {
        debug_assert!(n <= PANEL);
        for (j, &v) in v.iter().enumerate() {
            let lanes = n.saturating_sub(4 * j).min(4);
            if lanes > 0 {
                self.store_low_floats(v, lanes, p, off + 16 * j as i64);
            }
        }
    }
    /// Loads one byte vector with 8-bit lanes all equal to the byte at `p`.
    pub fn splat_byte_at(&mut self, p: Ptr, off: i64) -> Value {
        let byte = self.load(I8, p, off);
        self.b.ins().splat(I8X16, byte)
    }
}

fn repeat4(word: [u8; 4]) -> [u8; 16] {
    std::array::from_fn(|i| word[i % 4])
}
