//! Depthwise 3x3 over channels-last images, strides 1 and 2: four vertical taps per dword.
//!
//! Two column vectors hold, for 32 channels of one column, the bytes of up to four rows side by side (see [`interleave`]).
//! Stride 1 computes two output rows from four input rows, with the weights of the second row one byte further. All weights
//! of 32 channels stay in registers; they, biases and scales come from a table of the function, in the order of the lanes.
//!
//! With 8 or 16 channels and stride 1 the 32 bytes of a block are four or two pixels side by side, and a column further
//! is that many bytes further.

use super::{
    Leaf,
    asm::{Asm, Emitted, ymm, zmm},
    constant,
    depthwise_tiles::CACHE,
    epilogue::{Epilogue, MAGIC},
    interleave::{interleave, wide_channel, wide_orders},
    proof,
};
use iced_x86::code_asm::*;
use quernel_ir::{
    Program,
    program::{Conv, Step, WeightLayout, What},
};

/// Channels of one block.
const BLOCK: usize = 32;
/// Rows of the table: 12 weight vectors, 2 biases, 2 scales, 2 shifts, 1 store mask.
const ROWS: usize = 19;
const BIAS: usize = 12;
const SCALE: usize = 14;
const SHIFT: usize = 16;
const MASK: usize = 18;

/// Registers.
const WEIGHT: usize = 0;
const COLUMN: usize = 12;
const ACC: usize = 22;
const TEMPORARY: usize = 26;
const WORDS: usize = 27;
const ORDER: usize = 29;
const SUMS: usize = 30;

/// The leaf of a depthwise layer: 3x3, equal strides of 1 or 2, unsigned operand, bytes out, no implicit padding, no
/// residual, one image.
pub fn leaf(program: &Program, step: &Step) -> Option<Leaf> {
    let What::Conv { conv, signed: false, end, .. } = &step.what else { return None };
    let [wy, wx] = conv.window;
    let stride = wy.stride;
    let square =
        wy.kernel == 3 && wx.kernel == 3 && wx.stride == stride && (stride == 1 || stride == 2) && wy.dilation == 1 && wx.dilation == 1;
    if !square || conv.padded() || conv.residual.is_some() || conv.output.n != 1 || conv.input.c != conv.output.c {
        return None;
    }
    let extent = conv.input.extent().max(conv.output.extent());
    if extent >= 1 << 28 {
        return None;
    }
    let bounds = proof::bounds(program, step, conv, false)?;
    let epilogue = Epilogue::new(*end, bounds, conv.output.pixel, None);
    if !epilogue.bytes() {
        return None;
    }
    let [c, pixels] = [conv.input.c, BLOCK / conv.input.c.max(1)];
    let flat = stride == 1 && matches!(c, 8 | 16) && conv.input.pixel == c && conv.output.pixel == c && conv.output.w >= pixels;
    let layer = Layer { conv, stride, flat };
    let table = table(program, step, &layer, &epilogue)?;
    let code = emit(&layer, &epilogue, &table).ok()?;
    let form = if flat { format!("x{pixels}") } else { String::new() };
    // Per 64 results: 21 cycles of two rows together, 33 where rows are skipped.
    let results = conv.output.h * conv.output.w * if flat { c } else { c.next_multiple_of(BLOCK) };
    let cycles = Some((results as f64 / 64.0 * if stride == 1 { 21.4 } else { 33.0 }).round() as u64);
    Some(Leaf { code, kernel: format!("depthwise3x3s{stride}{form}_u8s8__avx512vnni"), frame: 7 * 8, cycles })
}

/// A layer and the form its loops have.
struct Layer<'a> {
    conv: &'a Conv,
    stride: usize,
    /// A block is several pixels of few channels.
    flat: bool,
}

impl Layer<'_> {
    fn blocks(&self) -> usize {
        self.conv.input.c.div_ceil(BLOCK)
    }
    /// Whether the last block is not full.
    fn masked(&self) -> bool {
        !self.flat && !self.conv.input.c.is_multiple_of(BLOCK)
    }
}

/// Per block: weights of the first output row for (column, vector), then of the second row, and the rest in order.
fn table(program: &Program, step: &Step, layer: &Layer, epilogue: &Epilogue) -> Option<Vec<u8>> {
    let conv = layer.conv;
    let weights = constant(program, step.reads.get(1)?)?;
    let bias = constant(program, step.reads.get(2)?)?;
    let scale = constant(program, step.reads.get(3)?)?;
    let dims = conv.weight_dims();
    let c = conv.input.c;
    let mut out = Vec::new();
    for block in 0..layer.blocks() {
        let start = out.len();
        out.resize(start + ROWS * 64, 0);
        let rows = &mut out[start..];
        for j in 0..2 {
            for d in 0..16 {
                let lane = block * BLOCK + wide_channel(j, d);
                let channel = if layer.flat { lane % c } else { lane };
                if channel >= c {
                    continue;
                }
                for kx in 0..3 {
                    for ky in 0..3 {
                        let w = weights[WeightLayout::Depthwise.index(dims, channel, ky, kx, 0)];
                        rows[(2 * kx + j) * 64 + 4 * d + ky] = w;
                        rows[(6 + 2 * kx + j) * 64 + 4 * d + ky + 1] = w;
                    }
                }
                let word = |bytes: &[u8]| -> [u8; 4] { bytes[4 * channel..4 * channel + 4].try_into().expect("four bytes") };
                let sum = i32::from_le_bytes(word(bias)).wrapping_add(if epilogue.fused() { MAGIC as i32 } else { 0 });
                let m = f32::from_le_bytes(word(scale));
                let at = |row: usize| (row + j) * 64 + 4 * d;
                rows[at(BIAS)..at(BIAS) + 4].copy_from_slice(&sum.to_le_bytes());
                rows[at(SCALE)..at(SCALE) + 4].copy_from_slice(&m.to_le_bytes());
                rows[at(SHIFT)..at(SHIFT) + 4].copy_from_slice(&(m * -(2f32.powi(23))).to_le_bytes());
            }
        }
        let lanes = if layer.flat { BLOCK } else { (c - block * BLOCK).min(BLOCK) };
        let mask = (1u64 << lanes) - 1;
        rows[MASK * 64..MASK * 64 + 4].copy_from_slice(&(mask as u32).to_le_bytes());
    }
    Some(out)
}

/// Registers of the loops: rsi table, rdi and r8 operand and result of the block, r9 and r10 those of the row, r11 and
/// rax those of the pixel, rcx rows left, rdx pixels left, [rsp-8] blocks left.
fn emit(layer: &Layer, e: &Epilogue, table: &[u8]) -> Emitted<Vec<u8>> {
    let mut f = Asm::new()?;
    let Layer { conv, stride, .. } = *layer;
    let blocks = layer.blocks();
    let per_step = if stride == 1 { 2 } else { 1 };
    // Few rows: weights stay while the rows pass. Many: blocks of one row pair pass while its rows are in cache.
    let block_outside = conv.output.w <= 16 || blocks == 1;
    f.a.push(rbx)?;
    f.a.push(r12)?;
    f.a.push(r13)?;
    if conv.input.start > 0 {
        f.a.add(rdi, conv.input.start as i32)?;
    }
    if conv.output.start > 0 {
        f.a.add(r8, conv.output.start as i32)?;
    }
    wide_orders(&mut f, WORDS, ORDER)?;
    let table = f.table(table);
    f.a.lea(rbx, qword_ptr(table))?;
    let (steps, odd) = (conv.output.h / per_step, conv.output.h % per_step);
    let row_x = (conv.input.row * stride * per_step) as i32;
    let row_y = (conv.output.row * per_step) as i32;
    if block_outside {
        f.a.mov(rsi, rbx)?;
        f.a.mov(r13, blocks as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        constants(&mut f, layer)?;
        f.a.mov(r9, rdi)?;
        f.a.mov(r10, r8)?;
        if steps > 0 {
            f.a.mov(rcx, steps as u64)?;
            let mut rows = f.a.create_label();
            f.a.set_label(&mut rows)?;
            row(&mut f, layer, per_step, conv.output.w, e)?;
            f.a.add(r9, row_x)?;
            f.a.add(r10, row_y)?;
            f.a.dec(rcx)?;
            f.a.jnz(rows)?;
        }
        if odd > 0 {
            row(&mut f, layer, 1, conv.output.w, e)?;
        }
        f.a.add(rdi, BLOCK as i32)?;
        f.a.add(r8, BLOCK as i32)?;
        f.a.add(rsi, (ROWS * 64) as i32)?;
        f.a.dec(r13)?;
        f.a.jnz(top)?;
    } else {
        let pass = |f: &mut Asm, rows: usize, width: usize| -> Emitted<()> {
            f.a.mov(rsi, rbx)?;
            f.a.mov(r9, rdi)?;
            f.a.mov(r10, r8)?;
            f.a.mov(r13, blocks as u64)?;
            let mut top = f.a.create_label();
            f.a.set_label(&mut top)?;
            constants(f, layer)?;
            row(f, layer, rows, width, e)?;
            f.a.add(r9, BLOCK as i32)?;
            f.a.add(r10, BLOCK as i32)?;
            f.a.add(rsi, (ROWS * 64) as i32)?;
            f.a.dec(r13)?;
            f.a.jnz(top)
        };
        // A row in runs of pixels, so that what its blocks touch stays in the first-level cache.
        let bytes = (2 + 2 / stride) * stride * conv.input.pixel + per_step * conv.output.pixel;
        let most = (CACHE / bytes.max(1)).max(2) / 2 * 2;
        let width = conv.output.w;
        let run = width.div_ceil(width.div_ceil(most)).next_multiple_of(2);
        let (whole, left) = (width / run, width % run);
        let line = |f: &mut Asm, rows: usize| -> Emitted<()> {
            if whole == 1 && left == 0 {
                return pass(f, rows, run);
            }
            f.a.push(rdi)?;
            f.a.push(r8)?;
            f.a.push(rcx)?;
            if whole > 0 {
                f.a.mov(rcx, whole as u64)?;
                let mut top = f.a.create_label();
                f.a.set_label(&mut top)?;
                pass(f, rows, run)?;
                f.a.add(rdi, (run * stride * conv.input.pixel) as i32)?;
                f.a.add(r8, (run * conv.output.pixel) as i32)?;
                f.a.dec(rcx)?;
                f.a.jnz(top)?;
            }
            if left > 0 {
                pass(f, rows, left)?;
            }
            f.a.pop(rcx)?;
            f.a.pop(r8)?;
            f.a.pop(rdi)
        };
        if steps > 0 {
            f.a.mov(rcx, steps as u64)?;
            let mut rows = f.a.create_label();
            f.a.set_label(&mut rows)?;
            line(&mut f, per_step)?;
            f.a.add(rdi, row_x)?;
            f.a.add(r8, row_y)?;
            f.a.dec(rcx)?;
            f.a.jnz(rows)?;
        }
        if odd > 0 {
            line(&mut f, 1)?;
        }
    }
    f.a.pop(r13)?;
    f.a.pop(r12)?;
    f.a.pop(rbx)?;
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}

/// Loads what the block at rsi keeps in registers.
fn constants(f: &mut Asm, layer: &Layer) -> Emitted<()> {
    for i in 0..12 {
        f.a.vmovdqu32(zmm(WEIGHT + i), zmmword_ptr(rsi + 64 * i))?;
    }
    for j in 0..2 {
        f.a.vmovdqu32(zmm(SUMS + j), zmmword_ptr(rsi + 64 * (BIAS + j)))?;
    }
    if layer.masked() {
        f.a.kmovd(k1, dword_ptr(rsi + 64 * MASK))?;
    }
    Ok(())
}

/// Column `x` of the row at r11 into vectors `2 slot` and `2 slot + 1`; `rows` input rows are read.
fn column(f: &mut Asm, conv: &Conv, x: usize, slot: usize, rows: usize) -> Emitted<()> {
    let at = |r: usize| r11 + (x * conv.input.pixel + r * conv.input.row);
    let vectors = [COLUMN + 2 * slot, COLUMN + 2 * slot + 1, TEMPORARY];
    interleave(f, vectors, WORDS, [at(0), at(1)], [Some(at(2)), (rows == 4).then(|| at(3))])
}

/// `width` pixels of one or two output rows of the block, from r9 to r10.
fn row(f: &mut Asm, layer: &Layer, rows: usize, width: usize, e: &Epilogue) -> Emitted<()> {
    let Layer { conv, stride, flat } = *layer;
    f.a.mov(r11, r9)?;
    f.a.mov(rax, r10)?;
    if flat {
        let pixels = BLOCK / conv.input.c;
        let reads = if rows == 2 { 4 } else { 3 };
        let second = if rows == 2 { conv.output.row } else { 0 };
        let step = |f: &mut Asm| -> Emitted<()> {
            for x in 0..3 {
                column(f, conv, x, x, reads)?;
            }
            for r in 0..rows {
                sums(f, 2 * r, 6 * r, 0)?;
            }
            end(f, layer, e, rows, second)
        };
        f.a.mov(rdx, (width / pixels) as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        step(f)?;
        f.a.add(r11, BLOCK as i32)?;
        f.a.add(rax, BLOCK as i32)?;
        f.a.dec(rdx)?;
        f.a.jnz(top)?;
        if !width.is_multiple_of(pixels) {
            // The last pixels of the row once more, so that nothing is written behind it.
            let back = ((pixels - width % pixels) * conv.input.c) as i32;
            f.a.sub(r11, back)?;
            f.a.sub(rax, back)?;
            step(f)?;
        }
        return Ok(());
    }
    if stride == 1 {
        let reads = if rows == 2 { 4 } else { 3 };
        column(f, conv, 0, 0, reads)?;
        column(f, conv, 1, 1, reads)?;
        f.a.mov(rdx, width as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        column(f, conv, 2, 2, reads)?;
        for r in 0..rows {
            sums(f, 2 * r, 6 * r, 0)?;
        }
        let second = if rows == 2 { conv.output.row } else { 0 };
        end(f, layer, e, rows, second)?;
        for i in 0..4 {
            f.a.vmovdqa32(zmm(COLUMN + i), zmm(COLUMN + 2 + i))?;
        }
        f.a.add(r11, conv.input.pixel as i32)?;
        f.a.add(rax, conv.output.pixel as i32)?;
        f.a.dec(rdx)?;
        return f.a.jnz(top);
    }
    column(f, conv, 0, 0, 3)?;
    if width > 1 {
        f.a.mov(rdx, (width / 2) as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        for x in 1..5 {
            column(f, conv, x, x, 3)?;
        }
        sums(f, 0, 0, 0)?;
        sums(f, 2, 0, 2)?;
        end(f, layer, e, 2, conv.output.pixel)?;
        for i in 0..2 {
            f.a.vmovdqa32(zmm(COLUMN + i), zmm(COLUMN + 8 + i))?;
        }
        f.a.add(r11, 4 * conv.input.pixel as i32)?;
        f.a.add(rax, 2 * conv.output.pixel as i32)?;
        f.a.dec(rdx)?;
        f.a.jnz(top)?;
    }
    if width % 2 == 1 {
        for x in 1..3 {
            column(f, conv, x, x, 3)?;
        }
        sums(f, 0, 0, 0)?;
        end(f, layer, e, 1, 0)?;
    }
    Ok(())
}

/// Sums of both vectors from three columns starting at `column`, with the weights starting at `weight`.
fn sums(f: &mut Asm, acc: usize, weight: usize, column: usize) -> Emitted<()> {
    for j in 0..2 {
        f.a.vmovdqa32(zmm(ACC + acc + j), zmm(SUMS + j))?;
    }
    for kx in 0..3 {
        for j in 0..2 {
            f.a.vpdpbusd(zmm(ACC + acc + j), zmm(COLUMN + 2 * (column + kx) + j), zmm(WEIGHT + weight + 2 * kx + j))?;
        }
    }
    Ok(())
}

/// Rounds, packs and stores one or two results of 32 channels, the second `second` bytes behind the first.
fn end(f: &mut Asm, layer: &Layer, e: &Epilogue, results: usize, second: usize) -> Emitted<()> {
    for r in 0..results {
        for j in 0..2 {
            if e.fused() {
                f.a.vmovdqu32(zmm(TEMPORARY), zmmword_ptr(rsi + 64 * (SHIFT + j)))?;
            }
            e.round(f, zmm(ACC + 2 * r + j), zmmword_ptr(rsi + 64 * (SCALE + j)), zmm(TEMPORARY))?;
        }
    }
    let last = 2 * (results - 1);
    e.pack(f, [ACC, ACC + 1, ACC + last, ACC + last + 1], TEMPORARY)?;
    f.a.vpermd(zmm(ACC), zmm(ORDER), zmm(ACC))?;
    let masked = layer.masked();
    let to = ymmword_ptr(rax);
    if masked {
        f.a.vmovdqu8(to.k1(), ymm(ACC))?
    } else {
        f.a.vmovdqu32(to, ymm(ACC))?
    }
    if results == 2 {
        let to = ymmword_ptr(rax + second);
        if masked {
            f.a.vextracti64x4(ymm(TEMPORARY), zmm(ACC), 1)?;
            f.a.vmovdqu8(to.k1(), ymm(TEMPORARY))?;
        } else {
            f.a.vextracti64x4(to, zmm(ACC), 1)?;
        }
    }
    Ok(())
}
