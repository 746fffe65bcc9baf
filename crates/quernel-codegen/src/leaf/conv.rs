//! Convolutions and matrix products over packed panels: a sum over kernel rows of matrix products, straight from
//! channels-last memory.

use super::{
    Leaf,
    ahead::Ahead,
    asm::{Asm, Emitted},
    cost::{self, Shape, Tile},
    epilogue::{Epilogue, Pointers},
    mixed::Kinds,
    narrow::{Dot, Narrow, PANELS_OF_ONE_PIXEL},
    nest::{Body, Nest, R, X, Y, emit, frame, geometry, sum},
    paired,
    proof::{self, Bounds},
    widened::Widened,
};
use iced_x86::code_asm::*;
use quernel_ir::{
    Program,
    program::{PANEL, Step, What},
};

/// The leaf of a convolution, if it is inside the contract: unsigned operand, one group, no implicit padding, taps of
/// a kernel row contiguous (or one tap per row), panels of depth four.
pub fn leaf(program: &Program, step: &Step, ahead: Option<Ahead>) -> Option<Leaf> {
    within(step, bounds(program, step)?, None, ahead).map(|(leaf, ..)| leaf)
}

/// Bounds of the sums of a layer from its constants.
pub fn bounds(program: &Program, step: &Step) -> Option<Bounds> {
    let What::Conv { conv, residual_signed, .. } = &step.what else { return None };
    proof::bounds(program, step, conv, *residual_signed)
}

/// The same with so many panels side by side, the model's choice when absent; also what decided.
pub fn with_width(program: &Program, step: &Step, width: Option<usize>) -> Option<(Leaf, Shape, usize)> {
    within(step, bounds(program, step)?, width, None)
}

/// The same for sums within `bounds`, whatever the weights, that asks for bytes `ahead`.
pub fn within(step: &Step, bounds: Bounds, width: Option<usize>, ahead: Option<Ahead>) -> Option<(Leaf, Shape, usize)> {
    let What::Conv { conv, signed: false, residual_signed, end, .. } = &step.what else { return None };
    let nest = geometry(conv, 4, [1, 1, if matches!(end, quernel_ir::program::End::Float { .. }) { 4 } else { 1 }])?;
    let nest = nest.with_ahead(ahead);
    let epilogue = Epilogue::new(*end, bounds, nest.pixel[Y], conv.residual.map(|_| (nest.pixel[R], *residual_signed)));
    let shape = Shape {
        rows: nest.images * nest.rows,
        row_pixels: nest.pixels,
        panels: nest.panels,
        blocks: nest.segments * nest.blocks,
        residual: conv.residual.is_some(),
        long_end: !epilogue.fused(),
        half: nest.lanes <= cost::HALF && epilogue.width() == 1,
    };
    let width = width.map_or_else(|| cost::choose(shape), |w| w.min(shape.panels));
    let pixels = shape.pixels(width.min(shape.panels));
    let code = Asm::new().and_then(|f| emit(f, &nest, &epilogue, width)).ok()?;
    let kernel = format!("conv_u8s8_{pixels}x{}__avx512vnni", width * PANEL);
    let cycles = Some(cost::cycles(shape, width).round() as u64);
    Some((Leaf { code, kernel, frame: frame(), cycles }, shape, width))
}

/// The same in 256-bit vectors.
pub fn narrow(step: &Step, bounds: Bounds, dot: Dot, ahead: Option<Ahead>) -> Option<Leaf> {
    let (nest, body) = tile(step, bounds, dot)?;
    let nest = nest.with_ahead(ahead);
    let width = if nest.one_pixel() { PANELS_OF_ONE_PIXEL.min(nest.panels()) } else { 1 };
    let (pixels, cycles) = narrow_cycles(&nest, &body, dot, width);
    let f = if dot == (Dot::Bytes { vex: false }) { Asm::new() } else { Asm::vex() };
    let code = f.and_then(|f| emit(f, &nest, &body, width)).ok()?;
    let kernel = format!("conv_u8s8_{pixels}x{}__{}", width * PANEL, dot.name());
    Some(Leaf { code, kernel, frame: frame(), cycles: Some(cycles) })
}

/// Pixels of a tile, and cycles of a layer that takes it.
fn narrow_cycles(nest: &Nest, body: &Narrow, dot: Dot, width: usize) -> (usize, u64) {
    let (pixels, ..) = cost::split(nest.row_pixels(), body.most_pixels(width));
    (pixels, nest.cycles(dot.cycles(nest.segments() * nest.blocks, pixels, body.residual())))
}

/// The same with AVX2 and any weights, in the fastest of three forms: operands widen in registers, or once for all panels;
/// then, where `weights` are known, sums of products stay in 16 bits in the blocks that allow it.
pub fn exact(step: &Step, bounds: Bounds, weights: Option<&[u8]>) -> Option<Leaf> {
    let (nest, pairs) = tile(step, bounds, Dot::Pairs)?;
    let plain = Widened::new(pairs, &nest, None);
    let mixed = weights.and_then(|w| Widened::new(pairs, &nest, Some(Kinds::new(&nest, w)?)));
    let forms = [(plain, "widened"), (mixed, "mixed")].into_iter().filter_map(|(body, form)| Some((body?, form)));
    let best = forms.min_by_key(|(body, _)| body.cycles(&nest));
    let Some((body, form)) = best.filter(|(body, _)| body.cycles(&nest) < narrow_cycles(&nest, &pairs, Dot::Pairs, 1).1) else {
        return narrow(step, bounds, Dot::Pairs, None);
    };
    let code = Asm::vex().and_then(|f| body.emit(f, &nest)).ok()?;
    let kernel = format!("conv_u8s8_{}x{PANEL}__avx2_{form}", body.pixels());
    Some(Leaf { code, kernel, frame: body.frame(&nest), cycles: Some(body.cycles(&nest)) })
}

/// Geometry and tile of a layer in 256-bit vectors.
fn tile(step: &Step, bounds: Bounds, dot: Dot) -> Option<(Nest, Narrow)> {
    let What::Conv { conv, signed: false, residual_signed, end, .. } = &step.what else { return None };
    let nest = geometry(conv, 4, [1, 1, if matches!(end, quernel_ir::program::End::Float { .. }) { 4 } else { 1 }])?;
    let body = Narrow::new(dot, *end, bounds, nest.pixel[Y], conv.residual.map(|_| (nest.pixel[R], *residual_signed)));
    Some((nest, body))
}

impl Body for Epilogue {
    fn residual(&self) -> bool {
        self.residual.is_some()
    }
    fn width(&self) -> usize {
        self.width()
    }
    fn most_pixels(&self, panels: usize) -> usize {
        cost::most_pixels(panels)
    }
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()> {
        self.prologue(f, lanes)
    }
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()> {
        self.start(f, t, rdx)?;
        let used = t.pixels * t.panels;
        // A single pixel has too few accumulators to hide the latency of the dot product: even and odd blocks sum apart.
        let apart = if t.pixels == 1 && 2 * used + 2 <= 30 && n.blocks > 1 { used } else { 0 };
        for i in 0..apart {
            let r = super::asm::zmm(used + i);
            f.a.vpxord(r, r, r)?;
        }
        sum(f, n, &|f, u| blocks(f, n, t, u, if u % 2 == 1 { apart } else { 0 }, apart))?;
        for i in 0..apart {
            let r = super::asm::zmm(i);
            f.a.vpaddd(r, r, super::asm::zmm(used + i))?;
        }
        self.finish(f, t, &Pointers { out: r8, residual: rbx, scale: rcx, factors: r9 }, masked)
    }
    fn most_in_pairs(&self, panels: usize) -> usize {
        if self.width() == 1 && panels <= cost::MOST_PAIRED { paired::most_pixels(panels) } else { 0 }
    }
    fn pairs(&self, f: &mut Asm, n: &Nest, t: Tile) -> Emitted<()> {
        paired::tile(self, f, n, t, &Pointers { out: r8, residual: rbx, scale: rcx, factors: r9 })
    }
}

/// Four taps of every pixel and panel of the tile, `u` blocks ahead of the pointers.
fn blocks(f: &mut Asm, n: &Nest, t: Tile, u: usize, acc: usize, apart: usize) -> Emitted<()> {
    use super::asm::zmm;
    let used = t.pixels * t.panels + apart;
    let panel_bytes = n.panel_bytes();
    let weight = |j: usize| zmmword_ptr(r13 + (64 * u + j * panel_bytes));
    if t.pixels == 1 {
        f.a.vpbroadcastd(zmm(used + u % 2), dword_ptr(r12 + 4 * u))?;
        for j in 0..t.panels {
            f.a.vpdpbusd(zmm(acc + j), zmm(used + u % 2), weight(j))?;
        }
        return Ok(());
    }
    for j in 0..t.panels {
        f.a.vmovdqu32(zmm(used + j), weight(j))?;
    }
    let operand = used + t.panels;
    for m in 0..t.pixels {
        f.a.vpbroadcastd(zmm(operand), dword_ptr(r12 + (4 * u + m * n.pixel[X])))?;
        for j in 0..t.panels {
            f.a.vpdpbusd(zmm(acc + m * t.panels + j), zmm(operand), zmm(used + j))?;
        }
    }
    Ok(())
}
