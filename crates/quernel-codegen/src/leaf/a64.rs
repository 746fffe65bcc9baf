//! A small assembler for AArch64: the instructions that its leaf kernels need. Encodings are those of the Arm Architecture
//! Reference Manual, C6 and C7.

/// A general register `x0` to `x28`, or the stack pointer 31 where an instruction takes that.
pub type X = u32;
/// A vector register `v0` to `v31`.
pub type V = u32;

/// The stack pointer.
pub const SP: X = 31;

/// Instructions of three vectors `(d, n, m)`, as words whose registers are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Vvv {
    /// 2x2 sums of products of eight signed bytes.
    Smmla = 0x4e80_a400,
    /// The same of unsigned bytes of `n` by signed ones of `m`.
    Usmmla = 0x4e80_ac00,
    /// The lower halves, side by side.
    Zip1D = 0x4ec0_3800,
    /// The upper halves, side by side.
    Zip2D = 0x4ec0_7800,
    /// `d += n m` of the lower four 16-bit lanes, in 32 bits.
    Smlal = 0x0e60_8000,
    /// The same of the upper four.
    Smlal2 = 0x4e60_8000,
    /// f32 products.
    Fmul = 0x6e20_dc00,
    /// All ones where `n > m`, in f32.
    Fcmgt = 0x6ea0_e400,
    /// Bits of `n` where `d` has ones, of `m` elsewhere.
    Bsl = 0x6e60_1c00,
    /// Saturating sums of 16 bits.
    SqaddH = 0x4e60_0c00,
    /// The larger signed bytes.
    SmaxB = 0x4e20_6400,
    /// The smaller signed bytes.
    SminB = 0x4e20_6c00,
    /// The larger unsigned bytes.
    UmaxB = 0x6e20_6400,
    /// The smaller unsigned bytes.
    UminB = 0x6e20_6c00,
}

/// Instructions of two vectors `(d, n)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Vv {
    /// The lower eight signed bytes in 16 bits.
    Sxtl = 0x0f08_a400,
    /// The upper eight.
    Sxtl2 = 0x4f08_a400,
    /// The lower eight unsigned bytes in 16 bits.
    Uxtl = 0x2f08_a400,
    /// The upper eight.
    Uxtl2 = 0x6f08_a400,
    /// i32 to f32.
    Scvtf = 0x4e21_d800,
    /// f32 to i32, to nearest, ties to even, saturating.
    Fcvtns = 0x4e21_a800,
    /// i32 to i16, saturating, to the lower half.
    SqxtnH = 0x0e61_4800,
    /// The same to the upper half.
    Sqxtn2H = 0x4e61_4800,
    /// i16 to i8, saturating, to the lower half.
    SqxtnB = 0x0e21_4800,
    /// The same to the upper half.
    Sqxtn2B = 0x4e21_4800,
    /// i16 to u8, saturating, to the lower half.
    SqxtunB = 0x2e21_2800,
    /// The same to the upper half.
    Sqxtun2B = 0x6e21_2800,
}

/// A place in the code that branches go back to.
#[derive(Clone, Copy, Debug)]
pub struct Label(usize);

/// A function that grows.
#[derive(Default)]
pub struct Asm {
    words: Vec<u32>,
}

impl Asm {
    fn word(&mut self, w: u32) {
        self.words.push(w);
    }
    /// The bytes so far.
    pub fn finish(self) -> Vec<u8> {
        self.words.into_iter().flat_map(u32::to_le_bytes).collect()
    }
    /// Here.
    pub fn label(&self) -> Label {
        Label(self.words.len())
    }

    // General registers.

    /// `d = n`.
    pub fn mov(&mut self, d: X, n: X) {
        self.word(0xaa00_03e0 | n << 16 | d);
    }
    /// `d = value`.
    pub fn constant(&mut self, d: X, value: u64) {
        self.word(0xd280_0000 | ((value & 0xffff) as u32) << 5 | d);
        for part in 1..4 {
            let bits = (value >> (16 * part) & 0xffff) as u32;
            if bits != 0 {
                self.word(0xf280_0000 | part << 21 | bits << 5 | d);
            }
        }
    }
    /// `d = n + bytes`; `temporary` is changed where the distance is far.
    pub fn add(&mut self, d: X, n: X, bytes: i64, temporary: X) {
        let (add, far) = if bytes < 0 { (0xd100_0000, 0xcb00_0000) } else { (0x9100_0000, 0x8b00_0000) };
        let distance = bytes.unsigned_abs();
        if distance < 1 << 12 {
            if distance > 0 || d != n {
                self.word(add | (distance as u32) << 10 | n << 5 | d);
            }
        } else {
            self.constant(temporary, distance);
            self.word(far | temporary << 16 | n << 5 | d);
        }
    }
    /// One less in `x`, and back to `top` unless that is 0.
    pub fn again(&mut self, x: X, top: Label) {
        self.word(0xd100_0400 | x << 5 | x);
        let back = (top.0 as i64 - self.words.len() as i64) as u32;
        self.word(0xb500_0000 | (back & 0x7_ffff) << 5 | x);
    }
    /// Return.
    pub fn ret(&mut self) {
        self.word(0xd65f_03c0);
    }
    /// Stores two general registers at `sp + bytes` (a multiple of 8 below 512), or loads them.
    pub fn pair_at_sp(&mut self, load: bool, first: X, second: X, bytes: u32) {
        self.word(0xa900_0000 | u32::from(load) << 22 | (bytes / 8) << 15 | second << 10 | SP << 5 | first);
    }
    /// The same with the lower halves of two vectors.
    pub fn halves_at_sp(&mut self, load: bool, first: V, second: V, bytes: u32) {
        self.word(0x6d00_0000 | u32::from(load) << 22 | (bytes / 8) << 15 | second << 10 | SP << 5 | first);
    }

    // Memory.

    /// Sixteen bytes at `n`, which moves on by so many (below 256).
    pub fn load_next(&mut self, d: V, n: X, bytes: u32) {
        self.word(0x3cc0_0400 | bytes << 12 | n << 5 | d);
    }
    /// Eight bytes at `n`, which moves on by so many (below 256).
    pub fn load_half_next(&mut self, d: V, n: X, bytes: u32) {
        self.word(0xfc40_0400 | bytes << 12 | n << 5 | d);
    }
    /// Sixteen bytes at `n + bytes` (a multiple of 16 below 2^16).
    pub fn load(&mut self, d: V, n: X, bytes: u32) {
        self.word(0x3dc0_0000 | (bytes / 16) << 10 | n << 5 | d);
    }
    /// Thirty-two bytes at `n`, which moves on by 32.
    pub fn load_pair_next(&mut self, first: V, second: V, n: X) {
        self.word(0xacc1_0000 | second << 10 | n << 5 | first);
    }
    /// Eight bytes at `n` in both halves; `n` moves on by 8.
    pub fn load_twice_next(&mut self, d: V, n: X) {
        self.word(0x4ddf_cc00 | n << 5 | d);
    }
    /// Sixteen bytes to `n`, which moves on by 16.
    pub fn store_next(&mut self, d: V, n: X) {
        self.word(0x3c81_0400 | n << 5 | d);
    }
    /// The first `bytes` (at most 16) of a vector to `n`, which moves on.
    pub fn store_first(&mut self, d: V, n: X, bytes: usize) {
        if bytes >= 16 {
            return self.store_next(d, n);
        }
        let mut at = 0;
        for size in [3, 2, 1, 0] {
            let width = 1 << size;
            if bytes & width != 0 {
                self.store_lane(d, n, size, (at / width) as u32);
                at += width;
            }
        }
    }
    /// Lane `i` of `1 << size` bytes to `n`, which moves on by its bytes.
    fn store_lane(&mut self, d: V, n: X, size: u32, i: u32) {
        // The index is Q, S and both bits of `size`, from above; wider lanes use the lower bits of it for the width.
        let (opcode, index) = match size {
            0 => (0b000, i),
            1 => (0b010, i << 1),
            2 => (0b100, i << 2),
            _ => (0b100, i << 3 | 1),
        };
        let (q, s, low) = (index >> 3, index >> 2 & 1, index & 3);
        self.word(0x0d9f_0000 | q << 30 | opcode << 13 | s << 12 | low << 10 | n << 5 | d);
    }

    // Vectors.

    /// An instruction of three vectors.
    pub fn vvv(&mut self, f: Vvv, d: V, n: V, m: V) {
        self.word(f as u32 | m << 16 | n << 5 | d);
    }
    /// An instruction of two vectors.
    pub fn vv(&mut self, f: Vv, d: V, n: V) {
        self.word(f as u32 | n << 5 | d);
    }
    /// `d = n`.
    pub fn copy(&mut self, d: V, n: V) {
        self.word(0x4ea0_1c00 | n << 16 | n << 5 | d);
    }
    /// Every byte of `d` is this one.
    pub fn bytes(&mut self, d: V, byte: u8) {
        let byte = u32::from(byte);
        self.word(0x4f00_e400 | (byte >> 5) << 16 | (byte & 31) << 5 | d);
    }
    /// Every 16-bit lane of `d` is the lower part of `n`.
    pub fn spread_16(&mut self, d: V, n: X) {
        self.word(0x4e02_0c00 | n << 5 | d);
    }
    /// Every 32-bit lane of `d` is the lower part of `n`.
    pub fn spread_32(&mut self, d: V, n: X) {
        self.word(0x4e04_0c00 | n << 5 | d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    /// The text that a disassembler of other makers has for the code.
    fn text(build: impl FnOnce(&mut Asm)) -> Vec<String> {
        let mut a = Asm::default();
        build(&mut a);
        let isa = Target::parse(Some("aarch64-unknown-linux-gnu"), Some("i8mm")).unwrap().isa(false, true).unwrap();
        let lines = isa.to_capstone().unwrap();
        let code = a.finish();
        let all = lines.disasm_all(&code, 0).unwrap();
        assert_eq!(4 * all.len(), code.len());
        all.iter().map(|i| format!("{} {}", i.mnemonic().unwrap(), i.op_str().unwrap()).trim().to_owned()).collect()
    }

    #[test]
    fn general_instructions_are_what_they_are_called() {
        let got = text(|a| {
            let top = a.label();
            a.mov(3, 17);
            a.constant(8, 0x1_0002_0003);
            a.constant(9, 0);
            a.add(1, 2, 4095, 8);
            a.add(1, 2, -16, 8);
            a.add(1, 1, 0, 8);
            a.add(1, 2, 0, 8);
            a.add(1, 2, 4096, 8);
            a.add(SP, SP, -144, 8);
            a.again(15, top);
            a.pair_at_sp(false, 19, 20, 16);
            a.pair_at_sp(true, 27, 28, 504);
            a.halves_at_sp(false, 8, 9, 64);
            a.halves_at_sp(true, 14, 15, 0);
            a.ret();
        });
        let want = [
            "mov x3, x17",
            "mov x8, #3",
            "movk x8, #2, lsl #16",
            "movk x8, #1, lsl #32",
            "mov x9, #0",
            "add x1, x2, #0xfff",
            "sub x1, x2, #0x10",
            "add x1, x2, #0",
            "mov x8, #0x1000",
            "add x1, x2, x8",
            "sub sp, sp, #0x90",
            "sub x15, x15, #1",
            "cbnz x15, #0",
            "stp x19, x20, [sp, #0x10]",
            "ldp x27, x28, [sp, #0x1f8]",
            "stp d8, d9, [sp, #0x40]",
            "ldp d14, d15, [sp]",
            "ret",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn memory_instructions_are_what_they_are_called() {
        let got = text(|a| {
            a.load_next(31, 9, 16);
            a.load_half_next(5, 14, 8);
            a.load(24, 3, 48);
            a.load_pair_next(24, 25, 7);
            a.load_twice_next(2, 8);
            a.store_next(4, 10);
            a.store_first(4, 10, 16);
            a.store_first(4, 10, 15);
            a.store_first(6, 11, 5);
        });
        let want = [
            "ldr q31, [x9], #0x10",
            "ldr d5, [x14], #8",
            "ldr q24, [x3, #0x30]",
            "ldp q24, q25, [x7], #0x20",
            "ld1r {v2.2d}, [x8], #8",
            "str q4, [x10], #0x10",
            "str q4, [x10], #0x10",
            "st1 {v4.d}[0], [x10], #8",
            "st1 {v4.s}[2], [x10], #4",
            "st1 {v4.h}[6], [x10], #2",
            "st1 {v4.b}[0xe], [x10], #1",
            "st1 {v6.s}[0], [x11], #4",
            "st1 {v6.b}[4], [x11], #1",
        ];
        assert_eq!(got.iter().map(|l| l.replace("{ ", "{").replace(" }", "}")).collect::<Vec<_>>(), want);
    }

    #[test]
    fn vector_instructions_are_what_they_are_called() {
        use Vv::*;
        use Vvv::*;
        let got = text(|a| {
            for f in [Smmla, Usmmla, Zip1D, Zip2D, Smlal, Smlal2, Fmul, Fcmgt, Bsl, SqaddH, SmaxB, SminB, UmaxB, UminB] {
                a.vvv(f, 1, 2, 31);
            }
            for f in [Sxtl, Sxtl2, Uxtl, Uxtl2, Scvtf, Fcvtns, SqxtnH, Sqxtn2H, SqxtnB, Sqxtn2B, SqxtunB, Sqxtun2B] {
                a.vv(f, 30, 3);
            }
            a.copy(9, 8);
            a.bytes(26, 0xfa);
            a.spread_16(26, 8);
            a.spread_32(26, 8);
        });
        let want = [
            "smmla v1.4s, v2.16b, v31.16b",
            "usmmla v1.4s, v2.16b, v31.16b",
            "zip1 v1.2d, v2.2d, v31.2d",
            "zip2 v1.2d, v2.2d, v31.2d",
            "smlal v1.4s, v2.4h, v31.4h",
            "smlal2 v1.4s, v2.8h, v31.8h",
            "fmul v1.4s, v2.4s, v31.4s",
            "fcmgt v1.4s, v2.4s, v31.4s",
            "bsl v1.16b, v2.16b, v31.16b",
            "sqadd v1.8h, v2.8h, v31.8h",
            "smax v1.16b, v2.16b, v31.16b",
            "smin v1.16b, v2.16b, v31.16b",
            "umax v1.16b, v2.16b, v31.16b",
            "umin v1.16b, v2.16b, v31.16b",
            "sshll v30.8h, v3.8b, #0",
            "sshll2 v30.8h, v3.16b, #0",
            "ushll v30.8h, v3.8b, #0",
            "ushll2 v30.8h, v3.16b, #0",
            "scvtf v30.4s, v3.4s",
            "fcvtns v30.4s, v3.4s",
            "sqxtn v30.4h, v3.4s",
            "sqxtn2 v30.8h, v3.4s",
            "sqxtn v30.8b, v3.8h",
            "sqxtn2 v30.16b, v3.8h",
            "sqxtun v30.8b, v3.8h",
            "sqxtun2 v30.16b, v3.8h",
            "mov v9.16b, v8.16b",
            "movi v26.16b, #0xfa",
            "dup v26.8h, w8",
            "dup v26.4s, w8",
        ];
        assert_eq!(got, want);
    }
}
