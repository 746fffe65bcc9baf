//! f32 layers and products in 256-bit and 512-bit vectors: a multiply and an add per tap, in the order the step defines,
//! never contracted. The two run on different pipes, so they cost what a fused one would on cores that have both.

use super::{
    Leaf,
    asm::{Asm, Emitted, ymm, zmm},
    cost::{Tile, split},
    nest::{Body, Nest, X, emit, frame, geometry, sum},
};
use iced_x86::code_asm::*;
use quernel_ir::program::{PANEL, Step, What};

/// The leaf of an f32 convolution without implicit padding, over panels, of one group.
pub fn conv(step: &Step, wide: bool) -> Option<Leaf> {
    let What::ConvFloat { conv, lo, hi } = &step.what else { return None };
    let nest = geometry(conv, 1, [4; 3])?;
    let body = Float { wide, lo: *lo, hi: *hi, out_pixel: nest.pixel[2], residual: conv.residual.map(|_| nest.pixel[1]) };
    let width = match (nest.one_pixel(), wide) {
        (true, true) => 8,
        (true, false) => 4,
        (false, true) => 2,
        (false, false) => 1,
    };
    let width = width.min(nest.panels());
    let code = if wide { Asm::new() } else { Asm::vex() }.and_then(|f| emit(f, &nest, &body, width)).ok()?;
    let (pixels, ..) = split(nest.row_pixels(), body.most_pixels(width));
    let kernel = format!("conv_f32_{pixels}x{}__{}", width * PANEL, isa(wide));
    Some(Leaf { code, kernel, frame: frame(), cycles: None })
}

fn isa(wide: bool) -> &'static str {
    if wide { "avx512" } else { "avx2" }
}

struct Float {
    wide: bool,
    lo: f32,
    hi: f32,
    /// Bytes between output pixels, and between residual pixels.
    out_pixel: usize,
    residual: Option<usize>,
}

/// Registers behind the accumulators of a narrow tile: two weights, operand, product.
const NARROW_MOST: usize = 5;
/// Accumulators of a wide tile.
const WIDE_MOST: usize = 26;
/// Registers of products in turn.
const PRODUCTS: usize = 2;

impl Float {
    /// Vectors of a panel.
    fn parts(&self) -> usize {
        if self.wide { 1 } else { 2 }
    }

    /// One tap of every pixel and panel, `u` taps ahead of the pointers.
    fn block(&self, f: &mut Asm, n: &Nest, t: Tile, u: usize) -> Emitted<()> {
        let used = t.pixels * t.panels * self.parts();
        let weight = |j: usize, part: usize| r13 + (64 * u + j * n.panel_bytes() + 32 * part);
        let operand = |m: usize| r12 + (4 * u + m * n.pixel[X]);
        if self.wide {
            let product = |i: usize| zmm(used + if t.pixels > 1 { t.panels } else { 1 } + i % PRODUCTS);
            if t.pixels == 1 {
                f.a.vbroadcastss(zmm(used), dword_ptr(operand(0)))?;
                for j in 0..t.panels {
                    f.a.vmulps(product(j), zmm(used), zmmword_ptr(weight(j, 0)))?;
                    f.a.vaddps(zmm(j), zmm(j), product(j))?;
                }
                return Ok(());
            }
            for j in 0..t.panels {
                f.a.vmovups(zmm(used + j), zmmword_ptr(weight(j, 0)))?;
            }
            for (m, j) in (0..t.pixels).flat_map(|m| (0..t.panels).map(move |j| (m, j))) {
                let (acc, product) = (zmm(m * t.panels + j), product(m * t.panels + j));
                f.a.vmulps(product, zmm(used + j), dword_bcst(operand(m)))?;
                f.a.vaddps(acc, acc, product)?;
            }
            return Ok(());
        }
        let (x, w, product) = (ymm(used), used + 1, ymm(used + 3));
        let held = t.pixels > 1;
        for part in (0..2).filter(|_| held) {
            f.a.vmovups(ymm(w + part), ymmword_ptr(weight(0, part)))?;
        }
        for m in 0..t.pixels {
            f.a.vbroadcastss(x, dword_ptr(operand(m)))?;
            for (j, part) in (0..t.panels).flat_map(|j| [(j, 0), (j, 1)]) {
                let acc = ymm((m * t.panels + j) * 2 + part);
                if held {
                    f.a.vmulps(product, x, ymm(w + part))?
                } else {
                    f.a.vmulps(product, x, ymmword_ptr(weight(j, part)))?
                }
                f.a.vaddps(acc, acc, product)?;
            }
        }
        Ok(())
    }

    /// Bias, residual, bounds and store of a pixel and panel in 512 bits.
    fn wide_end(&self, f: &mut Asm, t: Tile, m: usize, j: usize, masked: bool) -> Emitted<()> {
        let r = zmm(m * t.panels + j);
        f.a.vaddps(r, r, zmmword_ptr(rdx + 64 * j))?;
        if let Some(stride) = self.residual {
            let from = zmmword_ptr(rbx + (m * stride + 64 * j));
            if masked { f.a.vaddps(r.k1(), r, from)? } else { f.a.vaddps(r, r, from)? }
        }
        // A NaN becomes the lower bound, and passes where that is infinite.
        if self.lo > f32::NEG_INFINITY {
            let lo = f.splat32(self.lo.to_bits());
            f.a.vmaxps(r, r, zmmword_ptr(lo))?;
        }
        if self.hi < f32::INFINITY {
            let hi = f.splat32(self.hi.to_bits());
            f.a.vminps(r, r, zmmword_ptr(hi))?;
        }
        let to = zmmword_ptr(r8 + (m * self.out_pixel + 64 * j));
        if masked { f.a.vmovups(to.k1(), r) } else { f.a.vmovups(to, r) }
    }

    /// The same in 256 bits; `lanes` channels of the panel exist.
    fn narrow_end(&self, f: &mut Asm, t: Tile, m: usize, j: usize, lanes: usize) -> Emitted<()> {
        let free = t.pixels * t.panels * 2;
        let (mask, temporary) = (ymm(free), ymm(free + 1));
        for part in 0..2 {
            let here = lanes.saturating_sub(8 * part).min(8);
            if here == 0 {
                break;
            }
            if here < 8 {
                let lanes = f.dwords(std::array::from_fn(|i| if i < here { u32::MAX } else { 0 }));
                f.a.vmovups(mask, ymmword_ptr(lanes))?;
            }
            let r = ymm((m * t.panels + j) * 2 + part);
            f.a.vaddps(r, r, ymmword_ptr(rdx + (64 * j + 32 * part)))?;
            if let Some(stride) = self.residual {
                let from = ymmword_ptr(rbx + (m * stride + 64 * j + 32 * part));
                if here < 8 {
                    f.a.vmaskmovps(temporary, mask, from)?;
                    f.a.vaddps(r, r, temporary)?;
                } else {
                    f.a.vaddps(r, r, from)?;
                }
            }
            if self.lo > f32::NEG_INFINITY {
                let lo = f.splat32(self.lo.to_bits());
                f.a.vmaxps(r, r, ymmword_ptr(lo))?;
            }
            if self.hi < f32::INFINITY {
                let hi = f.splat32(self.hi.to_bits());
                f.a.vminps(r, r, ymmword_ptr(hi))?;
            }
            let to = ymmword_ptr(r8 + (m * self.out_pixel + 64 * j + 32 * part));
            if here < 8 { f.a.vmaskmovps(to, mask, r)? } else { f.a.vmovups(to, r)? }
        }
        Ok(())
    }
}

impl Body for Float {
    fn residual(&self) -> bool {
        self.residual.is_some()
    }
    fn width(&self) -> usize {
        4
    }
    fn scaled(&self) -> bool {
        false
    }
    fn most_pixels(&self, panels: usize) -> usize {
        if self.wide { (WIDE_MOST / panels).min(14) } else { (NARROW_MOST / panels).max(1) }
    }
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        if self.wide && lanes < PANEL {
            f.a.mov(eax, (1 << lanes) - 1)?;
            f.a.kmovd(k1, eax)?;
        }
        Ok(())
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        for i in 0..t.pixels * t.panels * self.parts() {
            if self.wide { f.a.vpxord(zmm(i), zmm(i), zmm(i))? } else { f.a.vxorps(ymm(i), ymm(i), ymm(i))? }
        }
        sum(f, n, &|f, u| self.block(f, n, t, u))?;
        for (m, j) in (0..t.pixels).flat_map(|m| (0..t.panels).map(move |j| (m, j))) {
            let last = masked && j + 1 == t.panels;
            if self.wide { self.wide_end(f, t, m, j, last)? } else { self.narrow_end(f, t, m, j, if last { n.lanes } else { PANEL })? }
        }
        Ok(())
    }
}

/// The leaf of a product of two computed matrices.
pub fn matmul(step: &Step, wide: bool) -> Option<Leaf> {
    let What::MatMulFloat { batch, m, k, n, a_batch, b_batch } = step.what else { return None };
    let far = [batch.saturating_mul(a_batch.max(b_batch).max(m * n)), m * k, k * n, m * n];
    if far.into_iter().any(|e| e >= 1 << 27) || batch * m * k * n == 0 {
        return None;
    }
    let p = Product { batch, m, k, n, a_batch, b_batch, wide };
    let code = p.emit().ok()?;
    let kernel = format!("matmul_f32_{}x{}__{}", split(m, p.most_rows()).0, p.columns(), isa(wide));
    Some(Leaf { code, kernel, frame: 6 * 8, cycles: None })
}

#[derive(Clone, Copy)]
struct Product {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    a_batch: usize,
    b_batch: usize,
    wide: bool,
}

/// Vectors of columns side by side.
const VECTORS: usize = 2;
/// Steps along the depth in one turn of the inner loop.
const DEPTH: usize = 4;
/// Narrow only: which columns of the last vector exist.
const COLUMNS: usize = 15;

impl Product {
    fn lanes(self) -> usize {
        if self.wide { 16 } else { 8 }
    }
    fn columns(self) -> usize {
        VECTORS * self.lanes()
    }
    fn most_rows(self) -> usize {
        if self.wide { 12 } else { 5 }
    }

    /// Registers: a, b, y of the batch in rdi, rsi, rdx; of the columns in rbx (b) and r8 (y); rows of a and y in r9 and r10;
    /// along the depth r12 and r13. Left: batches rbp, columns rcx, rows r11, depth rax.
    fn emit(self) -> Emitted<Vec<u8>> {
        let mut f = if self.wide { Asm::new()? } else { Asm::vex()? };
        const KEPT: [AsmRegister64; 4] = [rbx, rbp, r12, r13];
        for r in KEPT {
            f.a.push(r)?;
        }
        let (full, rest) = (self.n / self.columns(), self.n % self.columns());
        let partial = rest % self.lanes();
        if partial > 0 && self.wide {
            f.a.mov(eax, (1 << partial) - 1)?;
            f.a.kmovd(k1, eax)?;
        } else if partial > 0 {
            let mask = f.dwords(std::array::from_fn(|i| if i < partial { u32::MAX } else { 0 }));
            f.a.vmovups(ymm(COLUMNS), ymmword_ptr(mask))?;
        }
        let mut batches = f.a.create_label();
        if self.batch > 1 {
            f.a.mov(rbp, self.batch as u64)?;
            f.a.set_label(&mut batches)?;
        }
        f.a.mov(rbx, rsi)?;
        f.a.mov(r8, rdx)?;
        if full > 0 {
            let mut top = f.a.create_label();
            f.a.mov(rcx, full as u64)?;
            f.a.set_label(&mut top)?;
            self.rows(&mut f, VECTORS, false)?;
            f.a.add(rbx, 4 * self.columns() as i32)?;
            f.a.add(r8, 4 * self.columns() as i32)?;
            f.a.dec(rcx)?;
            f.a.jnz(top)?;
        }
        if rest > 0 {
            self.rows(&mut f, rest.div_ceil(self.lanes()), partial > 0)?;
        }
        if self.batch > 1 {
            f.a.add(rdi, 4 * self.a_batch as i32)?;
            f.a.add(rsi, 4 * self.b_batch as i32)?;
            f.a.add(rdx, (4 * self.m * self.n) as i32)?;
            f.a.dec(rbp)?;
            f.a.jnz(batches)?;
        }
        for r in KEPT.into_iter().rev() {
            f.a.pop(r)?;
        }
        f.a.vzeroupper()?;
        f.a.ret()?;
        f.finish()
    }

    /// All rows of so many vectors of columns.
    fn rows(self, f: &mut Asm, vectors: usize, masked: bool) -> Emitted<()> {
        f.a.mov(r9, rdi)?;
        f.a.mov(r10, r8)?;
        let (len, count, tail) = split(self.m, self.most_rows());
        for (rows, count) in [(len, count), (tail, 1)].into_iter().filter(|r| r.0 > 0) {
            let mut top = f.a.create_label();
            f.a.mov(r11, count as u64)?;
            f.a.set_label(&mut top)?;
            self.tile(f, rows, vectors, masked)?;
            f.a.add(r9, (4 * rows * self.k) as i32)?;
            f.a.add(r10, (4 * rows * self.n) as i32)?;
            f.a.dec(r11)?;
            f.a.jnz(top)?;
        }
        Ok(())
    }

    fn tile(self, f: &mut Asm, rows: usize, vectors: usize, masked: bool) -> Emitted<()> {
        for i in 0..rows * vectors {
            if self.wide { f.a.vpxord(zmm(i), zmm(i), zmm(i))? } else { f.a.vxorps(ymm(i), ymm(i), ymm(i))? }
        }
        f.a.mov(r12, r9)?;
        f.a.mov(r13, rbx)?;
        let (turns, left) = (self.k / DEPTH, self.k % DEPTH);
        if turns > 0 {
            f.a.mov(rax, turns as u64)?;
            let mut top = f.a.create_label();
            f.a.set_label(&mut top)?;
            for u in 0..DEPTH {
                self.step(f, rows, vectors, masked, u)?;
            }
            f.a.add(r12, 4 * DEPTH as i32)?;
            f.a.add(r13, (4 * DEPTH * self.n) as i32)?;
            f.a.dec(rax)?;
            f.a.jnz(top)?;
        }
        for u in 0..left {
            self.step(f, rows, vectors, masked, u)?;
        }
        for (i, j) in (0..rows).flat_map(|i| (0..vectors).map(move |j| (i, j))) {
            let at = r10 + (4 * i * self.n + 4 * j * self.lanes());
            let (acc, last) = (i * vectors + j, masked && j + 1 == vectors);
            match (self.wide, last) {
                (true, false) => f.a.vmovups(zmmword_ptr(at), zmm(acc))?,
                (true, true) => f.a.vmovups(zmmword_ptr(at).k1(), zmm(acc))?,
                (false, false) => f.a.vmovups(ymmword_ptr(at), ymm(acc))?,
                (false, true) => f.a.vmaskmovps(ymmword_ptr(at), ymm(COLUMNS), ymm(acc))?,
            }
        }
        Ok(())
    }

    /// One product of every element of the tile, `u` steps ahead of the pointers.
    fn step(self, f: &mut Asm, rows: usize, vectors: usize, masked: bool, u: usize) -> Emitted<()> {
        let right = rows * vectors;
        for j in 0..vectors {
            let from = r13 + (4 * u * self.n + 4 * j * self.lanes());
            match (self.wide, masked && j + 1 == vectors) {
                (true, false) => f.a.vmovups(zmm(right + j), zmmword_ptr(from))?,
                (true, true) => f.a.vmovups(zmm(right + j).k1().z(), zmmword_ptr(from))?,
                (false, false) => f.a.vmovups(ymm(right + j), ymmword_ptr(from))?,
                (false, true) => f.a.vmaskmovps(ymm(right + j), ymm(COLUMNS), ymmword_ptr(from))?,
            }
        }
        for i in 0..rows {
            let left = r12 + (4 * u + 4 * i * self.k);
            let free = right + vectors;
            if !self.wide {
                f.a.vbroadcastss(ymm(free), dword_ptr(left))?;
            }
            for j in 0..vectors {
                let acc = i * vectors + j;
                if self.wide {
                    let product = zmm(free + acc % PRODUCTS);
                    f.a.vmulps(product, zmm(right + j), dword_bcst(left))?;
                    f.a.vaddps(zmm(acc), zmm(acc), product)?;
                } else {
                    f.a.vmulps(ymm(free + 1), ymm(free), ymm(right + j))?;
                    f.a.vaddps(ymm(acc), ymm(acc), ymm(free + 1))?;
                }
            }
        }
        Ok(())
    }
}
