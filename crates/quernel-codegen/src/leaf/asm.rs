//! A thin layer over the assembler: numbered registers, one error type, a literal pool at the start of the code.

use iced_x86::{IcedError, code_asm::*};

/// Machine code, or the reason why the assembler refused (a bug of the emitter).
pub type Emitted<T> = Result<T, IcedError>;

/// Register `zmm[i]`.
pub fn zmm(i: usize) -> AsmRegisterZmm {
    [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15, zmm16, zmm17, zmm18, zmm19,
        zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27, zmm28, zmm29, zmm30, zmm31,
    ][i]
}

/// Register `ymm[i]`.
pub fn ymm(i: usize) -> AsmRegisterYmm {
    [
        ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15, ymm16, ymm17, ymm18, ymm19,
        ymm20, ymm21, ymm22, ymm23, ymm24, ymm25, ymm26, ymm27, ymm28, ymm29, ymm30, ymm31,
    ][i]
}

/// Register `xmm[i]`.
pub fn xmm(i: usize) -> AsmRegisterXmm {
    [
        xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15, xmm16, xmm17, xmm18, xmm19,
        xmm20, xmm21, xmm22, xmm23, xmm24, xmm25, xmm26, xmm27, xmm28, xmm29, xmm30, xmm31,
    ][i]
}

/// A code assembler with a literal pool behind the code.
pub struct Asm {
    /// The assembler itself.
    pub a: CodeAssembler,
    pool: Vec<([u8; 64], CodeLabel)>,
    rows: Vec<([u8; 64], CodeLabel)>,
}

impl Asm {
    /// An empty function.
    pub fn new() -> Emitted<Self> {
        let mut a = CodeAssembler::new(64)?;
        // EVEX forms: the VEX form of vpdpbusd is another CPU feature (AVX-VNNI).
        a.set_prefer_vex(false);
        Ok(Self { a, pool: Vec::new(), rows: Vec::new() })
    }

    /// An empty function in VEX encodings, for CPUs without AVX-512.
    pub fn vex() -> Emitted<Self> {
        let mut f = Self::new()?;
        f.a.set_prefer_vex(true);
        Ok(f)
    }

    /// A label of 64 bytes in the literal pool; equal literals share one.
    pub fn literal(&mut self, bytes: [u8; 64]) -> CodeLabel {
        if let Some((_, label)) = self.pool.iter().find(|(b, _)| *b == bytes) {
            return *label;
        }
        let label = self.a.create_label();
        self.pool.push((bytes, label));
        label
    }

    /// A literal that repeats four bytes.
    pub fn splat32(&mut self, bits: u32) -> CodeLabel {
        let mut bytes = [0; 64];
        bytes.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&bits.to_le_bytes()));
        self.literal(bytes)
    }

    /// A literal that repeats two bytes.
    pub fn splat16(&mut self, bits: u16) -> CodeLabel {
        self.splat32(u32::from(bits) * 0x1_0001)
    }

    /// A literal that repeats one byte.
    pub fn splat8(&mut self, byte: u8) -> CodeLabel {
        self.literal([byte; 64])
    }

    /// A literal of sixteen dwords.
    pub fn dwords(&mut self, dwords: [u32; 16]) -> CodeLabel {
        let mut bytes = [0; 64];
        bytes.chunks_exact_mut(4).zip(dwords).for_each(|(c, d)| c.copy_from_slice(&d.to_le_bytes()));
        self.literal(bytes)
    }

    /// Adds a table of whole 64-byte rows to the pool, in order, and returns its address. Rows are not shared.
    pub fn table(&mut self, bytes: &[u8]) -> CodeLabel {
        let first = self.a.create_label();
        for (i, row) in bytes.chunks(64).enumerate() {
            let mut padded = [0; 64];
            padded[..row.len()].copy_from_slice(row);
            let label = if i == 0 { first } else { self.a.create_label() };
            self.rows.push((padded, label));
        }
        first
    }

    /// The function's bytes. They are position independent; the pool is aligned to 64 bytes where the function is.
    pub fn finish(mut self) -> Emitted<Vec<u8>> {
        let pool = 64 * (self.rows.len() + self.pool.len());
        for (bytes, mut label) in self.rows.into_iter().chain(self.pool) {
            self.a.set_label(&mut label)?;
            self.a.db(&bytes)?;
        }
        let code = self.a.assemble(0)?;
        // Vectors that cross a cache line are slow to load: what stands before the pool gets a multiple of its rows.
        let mut bytes = nops((pool > 0) as usize * (code.len() - pool).wrapping_neg() % 64);
        bytes.extend(code);
        Ok(bytes)
    }
}

/// So many bytes that do nothing, in few instructions.
fn nops(mut bytes: usize) -> Vec<u8> {
    const LONGEST: [u8; 9] = [0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
    const OTHERS: [&[u8]; 9] = [
        &[],
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0],
        &[0x0f, 0x1f, 0x44, 0, 0],
        &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    ];
    let mut out = Vec::new();
    while bytes >= LONGEST.len() {
        out.extend(LONGEST);
        bytes -= LONGEST.len();
    }
    out.extend(OTHERS[bytes]);
    out
}
