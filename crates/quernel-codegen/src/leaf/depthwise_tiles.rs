//! Depthwise layers of any small kernel by tiles of quads (see [`super::quads`]), in 256-bit and in 512-bit vectors.
//!
//! In 256-bit vectors two interleavings of bytes and one of words put a quad together: of 32 channels loaded, the lower
//! eight of each half, in two vectors whose packing restores the natural order; the other sixteen are the same code eight
//! bytes further. In 512-bit vectors an interleaving of bytes and a permutation of words do it for 32 channels at once. Weights, biases and scales come
//! from a table of the function, in the order of the lanes.
//!
//! With few channels and stride 1 the 32 bytes of a block are several pixels side by side.

use super::{
    Leaf,
    asm::{Asm, Emitted, xmm, ymm, zmm},
    constant,
    epilogue::{Epilogue, MAGIC},
    interleave::{interleave, wide_channel, wide_orders},
    narrow::{Dot, clamp, sums_fit},
    proof,
    quads::{Quad, Size, Taps, Window, best, quads},
};
use iced_x86::code_asm::*;
use quernel_ir::{
    Program,
    program::{Conv, End, Step, WeightDims, WeightLayout, What},
};

/// Bytes of a block.
const BLOCK: usize = 32;
/// Bytes of operand and result that the passes over a run of tiles may touch.
pub const CACHE: usize = 20 << 10;
/// Longest side of a kernel.
const MOST_KERNEL: usize = 7;

/// How quads are put together and multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// 256-bit vectors.
    Narrow(Dot),
    /// 512-bit vectors with byte dot products.
    Wide,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Narrow(dot) => dot.name(),
            Self::Wide => "avx512vnni",
        }
    }
    /// Channels of one vector.
    fn lanes(self) -> usize {
        if self == Self::Wide { 16 } else { 8 }
    }
    /// Most outputs of a tile; each takes two accumulators.
    fn most(self) -> usize {
        if self == Self::Wide { 10 } else { 6 }
    }
    /// Channel of lane `d` of vector `j`, within a block; `half` as in [`Self::halves`].
    fn channel(self, half: usize, j: usize, d: usize) -> usize {
        match self {
            Self::Narrow(_) => 16 * (d / 4) + 8 * half + 4 * j + d % 4,
            Self::Wide => wide_channel(j, d),
        }
    }
    /// Passes over a block.
    fn halves(self) -> usize {
        if self == Self::Wide { 1 } else { 2 }
    }
    /// Passes over so many channels.
    fn passes(self, channels: usize) -> usize {
        let tail = channels % BLOCK;
        let halves = match self {
            Self::Wide => usize::from(tail > 0),
            Self::Narrow(_) => tail.min(16).div_ceil(8),
        };
        channels / BLOCK * self.halves() + halves
    }
    /// Bytes of the weights of one use of a quad.
    fn entry(self) -> usize {
        let vectors = 8 * self.lanes();
        if self == Self::Narrow(Dot::Pairs) { 2 * vectors } else { vectors }
    }
    /// Cycles of a tile on a core with two vector multiplies and two shuffles per cycle of 256 bits.
    fn cost(self, quads: &[Quad], outputs: usize) -> f64 {
        let (uses, quads) = (quads.iter().map(|q| q.users.len()).sum::<usize>() as f64, quads.len() as f64);
        let outputs = outputs as f64;
        match self {
            Self::Wide => 4.0 * quads + 2.0 * uses + 5.5 * outputs + 4.0,
            Self::Narrow(Dot::Bytes { .. }) => 2.0 * quads + uses + 4.0 * outputs + 4.0,
            Self::Narrow(Dot::Sums) => 2.0 * quads + 2.0 * uses + 4.0 * outputs + 4.0,
            Self::Narrow(Dot::Pairs) => 3.0 * quads + 2.5 * uses + 4.0 * outputs + 4.0,
        }
    }
}

/// The leaf of a depthwise layer: unsigned operand, bytes out, no implicit padding, no residual, no dilation.
pub fn leaf(program: &Program, step: &Step, form: Form) -> Option<Leaf> {
    let What::Conv { conv, signed: false, end, .. } = &step.what else { return None };
    let [wy, wx] = conv.window;
    let small = wy.kernel.max(wx.kernel) <= MOST_KERNEL && wy.dilation == 1 && wx.dilation == 1;
    let strides = wy.stride.max(wx.stride) <= 4;
    if !small || !strides || conv.padded() || conv.residual.is_some() || conv.input.c != conv.output.c {
        return None;
    }
    let far = conv.input.extent().max(conv.output.extent()).max(conv.input.n.saturating_mul(conv.input.batch.max(conv.output.batch)));
    if far >= 1 << 28 {
        return None;
    }
    let bounds = proof::bounds(program, step, conv, false)?;
    let epilogue = Epilogue::new(*end, bounds, conv.output.pixel, None);
    if !epilogue.bytes() {
        return None;
    }
    let c = conv.input.c;
    let flat = wx.stride == 1
        && c < BLOCK
        && BLOCK.is_multiple_of(c)
        && conv.input.pixel == c
        && conv.output.pixel == c
        && conv.output.w * c >= BLOCK;
    let columns = if flat { BLOCK / c } else { wx.stride };
    let window = Window { kernel: [wy.kernel, wx.kernel], stride: [wy.stride, columns] };
    let width = if flat { conv.output.w * c / BLOCK } else { conv.output.w };
    let size = best(window, [conv.output.h, width], form.most(), |quads, outputs| form.cost(quads, outputs));
    let mut layer = Layer { conv, form, flat, window, size, width, run: 0, entries: Vec::new() };
    layer.run = layer.run();
    // Smaller tiles at the edges use some of the same quads.
    for rows in [size.rows, conv.output.h % size.rows] {
        for pixels in [size.pixels, width % size.pixels, usize::from(flat)] {
            if rows * pixels > 0 {
                layer.enter(Size { rows, pixels });
            }
        }
    }
    let table = layer.table(program, step, &epilogue)?;
    let code = layer.emit(&epilogue, *end, &table).ok()?;
    let pixels = if flat { format!("x{}", BLOCK / c) } else { String::new() };
    let [kh, kw] = window.kernel;
    let kernel = format!("depthwise{kh}x{kw}s{}{pixels}_u8s8_{}x{}__{}", wy.stride.max(wx.stride), size.rows, size.pixels, form.name());
    Some(Leaf { code, kernel, frame: (SAVED.len() + 1 + PUSHED) * 8, cycles: Some(layer.cycles()) })
}

/// A layer and the form its loops have.
struct Layer<'a> {
    conv: &'a Conv,
    form: Form,
    /// A block is several pixels of few channels.
    flat: bool,
    /// In columns of pixels.
    window: Window,
    size: Size,
    /// Outputs of a row: pixels, or whole blocks of them.
    width: usize,
    /// Whole tiles of a run of a row: what its passes touch stays in the first-level cache.
    run: usize,
    /// What quads are to outputs, each once: the order of the table's weights.
    entries: Vec<Taps>,
}

/// Registers that are kept for the caller.
const SAVED: [AsmRegister64; 6] = [rbx, rbp, r12, r13, r14, r15];
/// Registers that are put aside while a row runs.
const PUSHED: usize = 3;
/// Registers of both widths: accumulators from 0; two vectors of a quad.
const QUAD: usize = 12;
const WIDE_QUAD: usize = 20;
/// A product, and whatever else; the odd taps, or ones.
const PRODUCT: usize = 14;
const ODD: usize = 15;
/// Wide only: order of words in a quad, of dwords after packing.
const WORDS: usize = 24;
const ORDER: usize = 26;
const TEMPORARY: usize = 27;

impl Layer<'_> {
    fn run(&self) -> usize {
        let rows = (self.size.rows - 1) * self.window.stride[0] + self.window.kernel[0];
        let columns = self.size.pixels * self.window.stride[1];
        let bytes = rows * columns * self.conv.input.pixel + self.size.rows * self.size.pixels * self.pixel();
        let (tiles, most) = (self.width / self.size.pixels, (CACHE / bytes.max(1)).max(1));
        // Runs of nearly equal length, and no short one.
        if self.flat { tiles } else { tiles.div_ceil(tiles.div_ceil(most)) }
    }

    /// Predicted cycles of the layer.
    fn cycles(&self) -> u64 {
        let tile = |rows: usize, pixels: usize| match rows * pixels {
            0 => 0.0,
            outputs => self.form.cost(&quads(self.window, Size { rows, pixels }), outputs),
        };
        let (h, w, size) = (self.conv.output.h, self.width, self.size);
        let line = |rows: usize| (w / size.pixels) as f64 * tile(rows, size.pixels) + tile(rows, w % size.pixels);
        let pass = (h / size.rows) as f64 * line(size.rows) + line(h % size.rows);
        let passes = if self.flat { self.form.halves() } else { self.form.passes(self.conv.input.c) };
        (pass * (passes * self.conv.output.n) as f64).round() as u64
    }

    fn enter(&mut self, size: Size) {
        for (_, taps) in quads(self.window, size).into_iter().flat_map(|q| q.users) {
            if !self.entries.contains(&taps) {
                self.entries.push(taps);
            }
        }
    }

    /// Bytes of two vectors of dwords.
    fn pair(&self) -> usize {
        8 * self.form.lanes()
    }
    /// Offset of the biases of a pass; scales and shifts follow.
    fn bias(&self) -> usize {
        self.entries.len() * self.form.entry()
    }
    /// Bytes of the table per pass.
    fn rows(&self) -> usize {
        (self.bias() + 3 * self.pair()).next_multiple_of(64)
    }

    /// Per block and pass: weights of every entry, biases, scales, shifts. `None` where the form's proof fails.
    fn table(&self, program: &Program, step: &Step, epilogue: &Epilogue) -> Option<Vec<u8>> {
        let weights = constant(program, step.reads.get(1)?)?;
        let bias = constant(program, step.reads.get(2)?)?;
        let scale = constant(program, step.reads.get(3)?)?;
        let (dims, c) = (self.conv.weight_dims(), self.conv.input.c);
        let blocks = if self.flat { 1 } else { c.div_ceil(BLOCK) };
        let mut out = Vec::new();
        for (block, half) in (0..blocks).flat_map(|b| (0..self.form.halves()).map(move |h| (b, h))) {
            let start = out.len();
            out.resize(start + self.rows(), 0);
            let rows = &mut out[start..];
            for (j, d) in (0..2).flat_map(|j| (0..self.form.lanes()).map(move |d| (j, d))) {
                let lane = block * BLOCK + self.form.channel(half, j, d);
                let channel = if self.flat { lane % c } else { lane };
                if channel >= c {
                    continue;
                }
                let vector = 4 * self.form.lanes();
                for (i, taps) in self.entries.iter().enumerate() {
                    let w = quad(weights, dims, channel, taps);
                    let at = i * self.form.entry();
                    match self.form {
                        Form::Narrow(Dot::Pairs) => {
                            // Even taps of the quad, then odd ones, as words.
                            for (k, w) in w.into_iter().enumerate() {
                                let at = at + (2 * j + k % 2) * vector + 4 * d + k / 2 * 2;
                                rows[at..at + 2].copy_from_slice(&i16::from(w as i8).to_le_bytes());
                            }
                        }
                        Form::Narrow(Dot::Sums) if !sums_fit(&w) => return None,
                        _ => rows[at + j * vector + 4 * d..][..4].copy_from_slice(&w),
                    }
                }
                let word = |bytes: &[u8]| -> Option<[u8; 4]> { bytes.get(4 * channel..4 * channel + 4)?.try_into().ok() };
                let sum = i32::from_le_bytes(word(bias)?).wrapping_add(if epilogue.fused() { MAGIC as i32 } else { 0 });
                let m = f32::from_le_bytes(word(scale)?);
                for (i, bits) in [sum as u32, m.to_bits(), (m * -(2f32.powi(23))).to_bits()].into_iter().enumerate() {
                    rows[self.bias() + i * self.pair() + j * vector + 4 * d..][..4].copy_from_slice(&bits.to_le_bytes());
                }
            }
        }
        Some(out)
    }

    /// Registers of the loops: rbx table, rsi that of the pass; operand and result of the image in rdi and r8, of the row
    /// in r9 and r10, of the pass in r14 and r15, of the pixel in r11 and rax; images, rows, passes, pixels left in r12,
    /// rcx, r13, rdx; rbp the way to the next pass.
    fn emit(&self, e: &Epilogue, end: End, table: &[u8]) -> Emitted<Vec<u8>> {
        let mut f = if matches!(self.form, Form::Wide | Form::Narrow(Dot::Bytes { vex: false })) { Asm::new()? } else { Asm::vex()? };
        let Conv { input, output, .. } = *self.conv;
        for r in SAVED {
            f.a.push(r)?;
        }
        if input.start > 0 {
            f.a.add(rdi, input.start as i32)?;
        }
        if output.start > 0 {
            f.a.add(r8, output.start as i32)?;
        }
        let table = f.table(table);
        f.a.lea(rbx, qword_ptr(table))?;
        self.constants(&mut f)?;
        let mut images = f.a.create_label();
        if output.n > 1 {
            f.a.mov(r12, output.n as u64)?;
            f.a.set_label(&mut images)?;
        }
        f.a.mov(r9, rdi)?;
        f.a.mov(r10, r8)?;
        let (steps, rest) = (output.h / self.size.rows, output.h % self.size.rows);
        let mut rows = f.a.create_label();
        if steps > 1 {
            f.a.mov(rcx, steps as u64)?;
            f.a.set_label(&mut rows)?;
        }
        self.line(&mut f, e, end, self.size.rows)?;
        f.a.add(r9, (self.size.rows * self.window.stride[0] * input.row) as i32)?;
        f.a.add(r10, (self.size.rows * output.row) as i32)?;
        if steps > 1 {
            f.a.dec(rcx)?;
            f.a.jnz(rows)?;
        }
        if rest > 0 {
            self.line(&mut f, e, end, rest)?;
        }
        if output.n > 1 {
            f.a.add(rdi, input.batch as i32)?;
            f.a.add(r8, output.batch as i32)?;
            f.a.dec(r12)?;
            f.a.jnz(images)?;
        }
        for r in SAVED.into_iter().rev() {
            f.a.pop(r)?;
        }
        f.a.vzeroupper()?;
        f.a.ret()?;
        f.finish()
    }

    /// Loads what stays in registers.
    fn constants(&self, f: &mut Asm) -> Emitted<()> {
        match self.form {
            Form::Wide => wide_orders(f, WORDS, ORDER),
            Form::Narrow(Dot::Sums) => {
                let ones = f.splat16(1);
                f.a.vmovdqu(ymm(ODD), ymmword_ptr(ones))
            }
            Form::Narrow(_) => Ok(()),
        }
    }

    /// All channels and pixels of so many output rows, in runs of pixels.
    fn line(&self, f: &mut Asm, e: &Epilogue, end: End, rows: usize) -> Emitted<()> {
        let (tiles, rest) = (self.width / self.size.pixels, self.width % self.size.pixels);
        let (runs, left) = (tiles / self.run, tiles % self.run);
        if runs == 1 && left == 0 {
            return self.passes(f, e, end, rows, tiles, rest);
        }
        let by = [self.run * self.size.pixels * self.window.stride[1] * self.conv.input.pixel, self.run * self.size.pixels * self.pixel()];
        // The last tiles, if they are whole runs, are one more run with what is left of the row.
        let whole = if left == 0 && rest > 0 { runs - 1 } else { runs };
        f.a.push(r9)?;
        f.a.push(r10)?;
        f.a.push(rcx)?;
        if whole > 0 {
            f.a.mov(rcx, whole as u64)?;
            let mut top = f.a.create_label();
            f.a.set_label(&mut top)?;
            self.passes(f, e, end, rows, self.run, 0)?;
            f.a.add(r9, by[0] as i32)?;
            f.a.add(r10, by[1] as i32)?;
            f.a.dec(rcx)?;
            f.a.jnz(top)?;
        }
        if whole * self.run < tiles || rest > 0 {
            self.passes(f, e, end, rows, tiles - whole * self.run, rest)?;
        }
        f.a.pop(rcx)?;
        f.a.pop(r10)?;
        f.a.pop(r9)
    }

    /// All channels of so many output rows, tiles and pixels behind them.
    fn passes(&self, f: &mut Asm, e: &Epilogue, end: End, rows: usize, tiles: usize, rest: usize) -> Emitted<()> {
        let c = self.conv.input.c;
        let halves = self.form.halves();
        let (full, tail) = if self.flat { (1, 0) } else { (c / BLOCK, c % BLOCK) };
        f.a.mov(rsi, rbx)?;
        f.a.mov(r14, r9)?;
        f.a.mov(r15, r10)?;
        if full > 0 {
            if halves == 2 {
                f.a.mov(rbp, 8u64)?;
            }
            f.a.mov(r13, (halves * full) as u64)?;
            let mut top = f.a.create_label();
            f.a.set_label(&mut top)?;
            self.pixels(f, e, end, [rows, tiles, rest], [8, 8])?;
            if halves == 2 {
                // Eight bytes to the second half of a block, 24 to the next block.
                f.a.add(r14, rbp)?;
                f.a.add(r15, rbp)?;
                f.a.xor(rbp, 16)?;
            } else {
                f.a.add(r14, BLOCK as i32)?;
                f.a.add(r15, BLOCK as i32)?;
            }
            f.a.add(rsi, self.rows() as i32)?;
            f.a.dec(r13)?;
            f.a.jnz(top)?;
        }
        if tail > 0 && halves == 1 {
            f.a.mov(ebp, ((1u64 << tail) - 1) as u32)?;
            f.a.kmovd(k1, ebp)?;
            self.pixels(f, e, end, [rows, tiles, rest], [tail, 0])?;
        } else if tail > 0 {
            for half in 0..2 {
                let lanes = [0, 16].map(|low| tail.saturating_sub(8 * half + low).min(8));
                if lanes[0] == 0 {
                    break;
                }
                self.pixels(f, e, end, [rows, tiles, rest], lanes)?;
                f.a.add(r14, 8)?;
                f.a.add(r15, 8)?;
                f.a.add(rsi, self.rows() as i32)?;
            }
        }
        Ok(())
    }

    /// So many tiles of so many rows and the pixels behind them, of the channels of one pass. `lanes`: of the two groups of eight channels, how many
    /// exist (wide: how many of the block, if not all).
    fn pixels(&self, f: &mut Asm, e: &Epilogue, end: End, [rows, full, rest]: [usize; 3], lanes: [usize; 2]) -> Emitted<()> {
        let conv = self.conv;
        f.a.mov(r11, r14)?;
        f.a.mov(rax, r15)?;
        let tile = |f: &mut Asm, pixels: usize| self.tile(f, e, end, Size { rows, pixels }, lanes);
        let by_x = self.size.pixels * self.window.stride[1] * conv.input.pixel;
        let by_y = self.size.pixels * self.pixel();
        let mut top = f.a.create_label();
        if full > 1 {
            f.a.mov(rdx, full as u64)?;
            f.a.set_label(&mut top)?;
        }
        if full > 0 {
            tile(f, self.size.pixels)?;
            f.a.add(r11, by_x as i32)?;
            f.a.add(rax, by_y as i32)?;
        }
        if full > 1 {
            f.a.dec(rdx)?;
            f.a.jnz(top)?;
        }
        if rest > 0 {
            tile(f, rest)?;
        }
        let left = if self.flat { conv.output.w * conv.input.c % BLOCK } else { 0 };
        if left > 0 {
            // The last pixels of the row once more, so that nothing is written behind it.
            let forth = (rest * BLOCK + left) as i32 - BLOCK as i32;
            f.a.add(r11, forth)?;
            f.a.add(rax, forth)?;
            tile(f, 1)?;
        }
        Ok(())
    }

    /// Bytes between outputs of a tile.
    fn pixel(&self) -> usize {
        if self.flat { BLOCK } else { self.conv.output.pixel }
    }

    fn tile(&self, f: &mut Asm, e: &Epilogue, end: End, size: Size, lanes: [usize; 2]) -> Emitted<()> {
        let outputs = size.rows * size.pixels;
        for i in 0..2 * outputs {
            let bias = rsi + (self.bias() + i % 2 * self.pair() / 2);
            match (self.form, i) {
                (_, 2..) if self.form == Form::Wide => f.a.vmovdqa32(zmm(i), zmm(i % 2))?,
                (Form::Wide, _) => f.a.vmovdqu32(zmm(i), zmmword_ptr(bias))?,
                (_, 2..) => f.a.vmovaps(ymm(i), ymm(i % 2))?,
                _ => f.a.vmovups(ymm(i), ymmword_ptr(bias))?,
            }
        }
        for quad in quads(self.window, size) {
            self.gather(f, &quad)?;
            self.multiply(f, &quad)?;
        }
        let place = |i: usize| i / size.pixels * self.conv.output.row + i % size.pixels * self.pixel();
        if self.form == Form::Wide {
            self.wide_end(f, e, outputs, &place, lanes)
        } else {
            self.narrow_end(f, e, end, outputs, &place, lanes)
        }
    }

    /// The quad of 16 (wide: 32) channels into two vectors.
    fn gather(&self, f: &mut Asm, quad: &Quad) -> Emitted<()> {
        let input = self.conv.input;
        let first = quad.at.iter().flatten().next().copied().unwrap_or_default();
        // A byte no output looks at meets zero weights: any operand will do.
        let at = |i: usize| {
            let (y, x) = quad.at[i].unwrap_or(first);
            r11 + (y * input.row + x * input.pixel)
        };
        if self.form == Form::Wide {
            let behind = |i: usize| quad.at[i].map(|_| at(i));
            return interleave(f, [WIDE_QUAD, WIDE_QUAD + 1, TEMPORARY], WORDS, [at(0), at(1)], [behind(2), behind(3)]);
        }
        let (a, b, t) = (ymm(QUAD), ymm(QUAD + 1), ymm(PRODUCT));
        let load = |f: &mut Asm, r, i| f.a.vmovups(r, ymmword_ptr(at(i)));
        load(f, a, 0)?;
        if quad.at[1].is_some() {
            f.a.vpunpcklbw(a, a, ymmword_ptr(at(1)))?
        } else {
            f.a.vpunpcklbw(a, a, a)?
        }
        if quad.at[2].is_none() && quad.at[3].is_none() {
            f.a.vpunpckhwd(b, a, a)?;
            return f.a.vpunpcklwd(a, a, a);
        }
        load(f, t, 2)?;
        if quad.at[3].is_some() {
            f.a.vpunpcklbw(t, t, ymmword_ptr(at(3)))?
        } else {
            f.a.vpunpcklbw(t, t, t)?
        }
        f.a.vpunpckhwd(b, a, t)?;
        f.a.vpunpcklwd(a, a, t)
    }

    /// Adds the quad to the sums of its users.
    fn multiply(&self, f: &mut Asm, quad: &Quad) -> Emitted<()> {
        let entry = |taps: &Taps| self.entries.iter().position(|t| t == taps).unwrap_or(0) * self.form.entry();
        for j in 0..2 {
            let operand = QUAD + j;
            if self.form == Form::Narrow(Dot::Pairs) {
                let low = f.splat16(0xff);
                f.a.vpsrlw(ymm(ODD), ymm(operand), 8)?;
                f.a.vpand(ymm(operand), ymm(operand), ymmword_ptr(low))?;
            }
            for (output, taps) in &quad.users {
                let acc = 2 * output + j;
                let at = rsi + (entry(taps) + j * self.form.entry() / 2);
                let (sum, product) = (ymm(acc), ymm(PRODUCT));
                match self.form {
                    Form::Wide => f.a.vpdpbusd(zmm(acc), zmm(WIDE_QUAD + j), zmmword_ptr(at))?,
                    Form::Narrow(Dot::Bytes { .. }) => f.a.vpdpbusd(sum, ymm(operand), ymmword_ptr(at))?,
                    Form::Narrow(Dot::Sums) => {
                        f.a.vpmaddubsw(product, ymm(operand), ymmword_ptr(at))?;
                        f.a.vpmaddwd(product, product, ymm(ODD))?;
                        f.a.vpaddd(sum, sum, product)?;
                    }
                    Form::Narrow(Dot::Pairs) => {
                        for (i, words) in [operand, ODD].into_iter().enumerate() {
                            if taps[i].is_some() || taps[i + 2].is_some() {
                                f.a.vpmaddwd(product, ymm(words), ymmword_ptr(at + 32 * i))?;
                                f.a.vpaddd(sum, sum, product)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Rounds, packs and stores the outputs of a tile at `place(output)`.
    fn wide_end(&self, f: &mut Asm, e: &Epilogue, outputs: usize, place: &dyn Fn(usize) -> usize, lanes: [usize; 2]) -> Emitted<()> {
        let at = |row: usize, j: usize| zmmword_ptr(rsi + (self.bias() + row * self.pair() + 64 * j));
        let masked = lanes[0] < 8 || lanes[1] == 0;
        if e.fused() {
            for j in 0..2 {
                f.a.vmovdqu32(zmm(WIDE_QUAD + j), at(2, j))?;
            }
        }
        for i in 0..2 * outputs {
            e.round(f, zmm(i), at(1, i % 2), zmm(WIDE_QUAD + i % 2))?;
        }
        for first in (0..outputs).step_by(2) {
            let second = (first + 1).min(outputs - 1);
            e.pack(f, [2 * first, 2 * first + 1, 2 * second, 2 * second + 1], TEMPORARY)?;
            let packed = 2 * first;
            f.a.vpermd(zmm(packed), zmm(ORDER), zmm(packed))?;
            let to = |i: usize| ymmword_ptr(rax + place(i));
            if masked {
                f.a.vmovdqu8(to(first).k1(), ymm(packed))?;
            } else {
                f.a.vmovdqu32(to(first), ymm(packed))?;
            }
            if second == first {
                continue;
            }
            if masked {
                f.a.vextracti64x4(ymm(TEMPORARY), zmm(packed), 1)?;
                f.a.vmovdqu8(to(second).k1(), ymm(TEMPORARY))?;
            } else {
                f.a.vextracti64x4(to(second), zmm(packed), 1)?;
            }
        }
        Ok(())
    }

    /// The same in 256-bit vectors, two groups of eight channels.
    fn narrow_end(
        &self,
        f: &mut Asm,
        e: &Epilogue,
        end: End,
        outputs: usize,
        place: &dyn Fn(usize) -> usize,
        lanes: [usize; 2],
    ) -> Emitted<()> {
        let End::Requantize { zero, signed, .. } = end else { return Ok(()) };
        let at = |row: usize, j: usize| ymmword_ptr(rsi + (self.bias() + row * self.pair() + 32 * j));
        if e.fused() {
            for j in 0..2 {
                f.a.vmovups(ymm(QUAD + j), at(2, j))?;
            }
        }
        for i in 0..2 * outputs {
            let r = ymm(i);
            if e.fused() {
                f.a.vfmadd132ps(r, ymm(QUAD + i % 2), at(1, i % 2))?;
            } else {
                f.a.vcvtdq2ps(r, r)?;
                f.a.vmulps(r, r, at(1, i % 2))?;
                if let Some(bound) = e.upper() {
                    let bound = f.splat32(bound.to_bits());
                    f.a.vminps(r, r, ymmword_ptr(bound))?;
                }
            }
            f.a.vcvtps2dq(r, r)?;
        }
        for i in 0..outputs {
            let (a, b) = (ymm(2 * i), ymm(2 * i + 1));
            f.a.vpackssdw(a, a, b)?;
            if zero != 0 {
                let words = f.splat16(zero as i16 as u16);
                f.a.vpaddsw(a, a, ymmword_ptr(words))?;
            }
        }
        for first in (0..outputs).step_by(2) {
            let second = (first + 1).min(outputs - 1);
            let (a, b) = (ymm(2 * first), ymm(2 * second));
            if signed {
                f.a.vpacksswb(a, a, b)?
            } else {
                f.a.vpackuswb(a, a, b)?
            }
            clamp(f, end, a)?;
            for (group, lanes) in lanes.into_iter().enumerate().filter(|(_, lanes)| *lanes > 0) {
                let mut from = 2 * first;
                if group == 1 {
                    f.a.vextracti128(xmm(2 * second + 1), ymm(2 * first), 1)?;
                    from = 2 * second + 1;
                }
                store(f, from, false, place(first) + 16 * group, lanes)?;
                if second > first {
                    store(f, from, true, place(second) + 16 * group, lanes)?;
                }
            }
        }
        Ok(())
    }
}

/// The weights of a channel at four taps.
fn quad(weights: &[u8], dims: WeightDims, channel: usize, taps: &Taps) -> [u8; 4] {
    let at = |(ky, kx): (usize, usize)| weights.get(WeightLayout::Depthwise.index(dims, channel, ky, kx, 0)).copied().unwrap_or(0);
    taps.map(|tap| tap.map_or(0, at))
}

/// The first `lanes` bytes of the lower or upper half of a 128-bit register, which stays as it is.
fn store(f: &mut Asm, from: usize, upper: bool, offset: usize, lanes: usize) -> Emitted<()> {
    let at = |done: usize| rax + (offset + done);
    match (lanes, upper) {
        (8, false) => return f.a.vmovq(qword_ptr(at(0)), xmm(from)),
        (8, true) => return f.a.vmovhps(qword_ptr(at(0)), xmm(from)),
        _ => {}
    }
    let t = xmm(PRODUCT);
    f.a.vpsrldq(t, xmm(from), if upper { 8 } else { 0 })?;
    let mut done = 0;
    for bytes in [4, 2, 1] {
        if lanes & bytes == 0 {
            continue;
        }
        match bytes {
            4 => f.a.vmovd(dword_ptr(at(done)), t)?,
            2 => f.a.vpextrw(word_ptr(at(done)), t, 0)?,
            _ => f.a.vpextrb(byte_ptr(at(done)), t, 0)?,
        }
        f.a.vpsrldq(t, t, bytes as i32)?;
        done += bytes;
    }
    Ok(())
}
