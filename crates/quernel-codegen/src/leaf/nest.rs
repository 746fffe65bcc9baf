//! The loops of a layer over packed panels: groups of panels, images, rows, tiles of pixels; inside a tile, kernel rows
//! and blocks of taps. Pixels of a 1x1 layer over dense images form one long row.

use super::{
    ahead::Ahead,
    asm::{Asm, Emitted},
    cost::{self, Tile},
};
use iced_x86::code_asm::*;
use quernel_ir::program::{Conv, PANEL, WeightLayout};

/// Blocks of four taps that one pass of the inner loop handles.
const UNROLL: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes that a tile or a row asks for at most, where a finer occasion is left.
const MOST_AT_ONCE: usize = 64 * LINE;
/// Longest run of blocks without a loop.
const STRAIGHT: usize = 8;

/// What the loops run: one register tile, whatever the vector width.
pub trait Body {
    /// Whether a residual is added.
    fn residual(&self) -> bool;
    /// Bytes of an output element.
    fn width(&self) -> usize;
    /// Bytes of an element of the residual.
    fn residual_width(&self) -> usize {
        if self.scaled() { 1 } else { 4 }
    }
    /// Whether the function has scales (and factors), and operands are bytes; or floats without them.
    fn scaled(&self) -> bool {
        true
    }
    /// Whether a table follows the scales; its address goes to r9.
    fn coded(&self) -> bool {
        false
    }
    /// Most pixels of a tile of so many panels.
    fn most_pixels(&self, panels: usize) -> usize;
    /// Loads what stays in registers; `lanes` is the number of channels of the last panel.
    fn prologue(&self, f: &mut Asm, lanes: usize) -> Emitted<()>;
    /// A tile at rdi (operand), rbx (residual), r8 (result); `masked`: its last panel is the layer's last and not full.
    fn tile(&self, f: &mut Asm, n: &Nest, t: Tile, masked: bool) -> Emitted<()>;
    /// Most pixels of a tile with half a panel at its end, where pairs of pixels share vectors; 0 without such a form.
    fn most_in_pairs(&self, _panels: usize) -> usize {
        0
    }
    /// A tile of that form, of an even number of pixels.
    fn pairs(&self, f: &mut Asm, n: &Nest, t: Tile) -> Emitted<()> {
        self.tile(f, n, t, true)
    }
}

/// Geometry in bytes, the way the emitted loops see it.
#[derive(Clone, Copy, Debug)]
pub struct Nest {
    pub(super) images: usize,
    pub(super) rows: usize,
    pub(super) pixels: usize,
    /// First element of operand, residual and result.
    pub(super) start: [usize; 3],
    /// Bytes between images, rows and pixels of operand, residual and result.
    pub(super) image: [usize; 3],
    pub(super) row: [usize; 3],
    pub pixel: [usize; 3],
    /// Kernel rows (or taps), bytes between them, and blocks of four taps in each.
    pub(super) segments: usize,
    pub(super) segment: usize,
    pub blocks: usize,
    /// Bytes of a block of weights.
    pub(super) block: usize,
    /// Bytes of the weights of one panel.
    pub(super) panel_bytes: usize,
    pub(super) panels: usize,
    /// Channels of the last panel.
    pub lanes: usize,
    /// Weights that the loops ask for before later layers need them.
    pub ahead: Option<Ahead>,
    /// On which occasion, and for how many bytes each time.
    pub(super) asks: Option<(Occasion, usize)>,
}

/// When a layer asks for weights ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Occasion {
    /// In every pass of the inner loop.
    Pass,
    /// In front of every tile.
    Tile,
    /// In front of every row of every group of panels.
    Row,
}

impl Nest {
    /// Panels of the layer.
    pub fn panels(&self) -> usize {
        self.panels
    }
    /// Pixels of a run that tiles do not cross.
    pub fn row_pixels(&self) -> usize {
        self.pixels
    }
    /// Whether the layer has one pixel only.
    pub fn one_pixel(&self) -> bool {
        self.images * self.rows * self.pixels == 1
    }
    /// Cycles of the layer, given those of a pixel and panel.
    pub fn cycles(&self, each: f64) -> u64 {
        ((self.images * self.rows * self.pixels * self.panels) as f64 * each).round() as u64
    }
    /// Kernel rows (or taps) of a sum.
    pub fn segments(&self) -> usize {
        self.segments
    }
    /// Bytes between them.
    pub fn segment(&self) -> usize {
        self.segment
    }
    /// Rows of all images.
    pub fn all_rows(&self) -> usize {
        self.images * self.rows
    }
    /// The same layer whose kernel rows are so many bytes apart.
    pub fn with_segment(self, segment: usize) -> Self {
        Self { segment, ..self }
    }
    /// The same layer whose panels have weights of so many bytes.
    pub fn with_panel_bytes(self, panel_bytes: usize) -> Self {
        Self { panel_bytes, ..self }
    }
    /// Bytes of the weights of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }
    /// The same layer, which asks for later weights.
    pub fn with_ahead(self, ahead: Option<Ahead>) -> Self {
        // What is asked for is a 32-bit displacement away.
        Self { ahead: ahead.filter(|a| a.from.saturating_add(a.bytes) < 1 << 30), ..self }
    }
    /// Passes of the inner loop over one tile.
    fn passes(&self) -> usize {
        self.segments * if self.blocks <= STRAIGHT { 1 } else { self.blocks / UNROLL }
    }
}

pub const X: usize = 0;
pub const R: usize = 1;
pub const Y: usize = 2;

/// The geometry of a layer over panels of `depth` taps, its operand, residual and result of so many bytes per element.
pub fn geometry(conv: &Conv, depth: usize, [wide_x, wide_r, scale]: [usize; 3]) -> Option<Nest> {
    let dims = conv.weight_dims();
    let WeightLayout::Panels { contiguous, depth: packed } = conv.layout else { return None };
    if packed != depth {
        return None;
    }
    let (x, y) = (conv.input, conv.output);
    let [wy, wx] = conv.window;
    if dims.groups != 1 || conv.padded() {
        return None;
    }
    // One tap per kernel row is contiguous whatever the packing says; more need it.
    let row = contiguous && x.pixel == x.c;
    if dims.kw != 1 && !row {
        return None;
    }
    let r = conv.residual.unwrap_or(y);
    let (len, segments) = WeightLayout::segments(contiguous, dims);
    // Words meet weights of a byte.
    let block = if depth == 2 { 32 } else { 64 };
    let mut n = Nest {
        images: y.n,
        rows: y.h,
        pixels: y.w,
        start: [x.start * wide_x, r.start * wide_r, y.start * scale],
        image: [x.batch * wide_x, r.batch * wide_r, y.batch * scale],
        row: [x.row * wy.stride * wide_x, r.row * wide_r, y.row * scale],
        pixel: [x.pixel * wx.stride * wide_x, r.pixel * wide_r, y.pixel * scale],
        segments,
        segment: x.row * wy.dilation * wide_x,
        blocks: len.div_ceil(depth),
        block,
        panel_bytes: segments * len.div_ceil(depth) * block,
        panels: y.c.div_ceil(PANEL),
        lanes: (y.c - 1) % PANEL + 1,
        ahead: None,
        asks: None,
    };
    let dense =
        dims.kh == 1 && dims.kw == 1 && wy.stride == 1 && wx.stride == 1 && x.flat() && y.flat() && (conv.residual.is_none() || r.flat());
    if dense {
        n.pixels = y.n * y.h * y.w;
        (n.images, n.rows) = (1, 1);
    }
    // Offsets are 32-bit displacements and immediates.
    let far = [x.extent() * wide_x, r.extent() * wide_r, y.extent() * scale, n.panels * n.segments * n.blocks * 64];
    // An axis of one element may have any stride.
    let strides = n.image.iter().chain(&n.row).chain(&n.pixel).chain([&n.segment]);
    far.iter().chain(strides).all(|b| *b < 1 << 30).then_some(n)
}

/// Slots of the frame.
const X_BASE: i32 = 0;
const Y_BASE: i32 = 8;
const R_BASE: i32 = 16;
const GROUPS: i32 = 24;
const ROWS: i32 = 32;
const IMAGES: i32 = 40;
const X_IMAGE: i32 = 48;
const Y_IMAGE: i32 = 56;
const R_IMAGE: i32 = 64;
const BIAS: i32 = 72;
const AHEAD: i32 = 80;
pub const FRAME: i32 = 88;
/// Registers saved on entry, in bytes, and the return address.
const SAVED: i32 = 6 * 8 + 8;
/// Bytes by which systems grow a stack.
const PAGE: i32 = 4096;

/// Stack bytes of a call.
pub fn frame() -> usize {
    called(FRAME)
}

/// Stack bytes of a call with a frame of `size`.
pub fn called(size: i32) -> usize {
    (size + SAVED) as usize
}

/// Saves registers, takes a frame of `size` bytes, and puts where operand, residual and result start into it. Arguments: x,
/// weights, bias, scale, (residual, factors), y; the seventh lies on the stack. Weights, bias, scale and factors stay in
/// rsi, rdx, rcx and r9.
pub fn enter(f: &mut Asm, n: &Nest, e: &dyn Body, size: i32) -> Emitted<()> {
    for r in [rbx, rbp, r12, r13, r14, r15] {
        f.a.push(r)?;
    }
    // Systems grow a stack by the page that is touched.
    for _ in 0..size / PAGE {
        f.a.sub(rsp, PAGE)?;
        f.a.mov(qword_ptr(rsp), 0)?;
    }
    if size % PAGE > 0 {
        f.a.sub(rsp, size % PAGE)?;
    }
    let frame = |slot: i32| qword_ptr(rsp + slot);
    if !e.scaled() {
        // No scales: residual and result are one earlier each, and there are no factors.
        if e.residual() {
            f.a.mov(r10, r8)?;
        }
        f.a.mov(r8, rcx)?;
    }
    if e.coded() {
        f.a.xchg(r8, r9)?;
    }
    if n.start[X] > 0 {
        f.a.add(rdi, n.start[X] as i32)?;
    }
    f.a.mov(frame(X_BASE), rdi)?;
    if e.residual() {
        if n.start[R] > 0 {
            f.a.add(r8, n.start[R] as i32)?;
        }
        f.a.mov(frame(R_BASE), r8)?;
        if e.scaled() { f.a.mov(r8, qword_ptr(rsp + (size + SAVED)))? } else { f.a.mov(r8, r10)? }
    }
    if n.start[Y] > 0 {
        f.a.add(r8, n.start[Y] as i32)?;
    }
    f.a.mov(frame(Y_BASE), r8)
}

/// Gives frame and registers back, and returns.
pub fn leave(f: &mut Asm, size: i32) -> Emitted<()> {
    f.a.add(rsp, size)?;
    for r in [r15, r14, r13, r12, rbp, rbx] {
        f.a.pop(r)?;
    }
    f.a.vzeroupper()?;
    f.a.ret()
}

/// The function: loops around the tiles of `e`, `width` panels side by side.
pub fn emit(mut f: Asm, n: &Nest, e: &dyn Body, width: usize) -> Emitted<Vec<u8>> {
    let frame = |slot: i32| qword_ptr(rsp + slot);
    enter(&mut f, n, e, FRAME)?;
    e.prologue(&mut f, n.lanes)?;
    let n = &Nest { asks: n.ahead.map(|a| asks(n, e, width, a.bytes)), ..*n };
    if let Some(ahead) = n.ahead {
        f.a.lea(rax, qword_ptr(rsi + ahead.from))?;
        f.a.mov(frame(AHEAD), rax)?;
    }
    // Groups of `width` panels, all full; then what is left, the last panel perhaps with a mask.
    let masked = n.lanes < PANEL;
    let mut full = n.panels / width;
    let mut rest = n.panels % width;
    if masked && rest == 0 {
        full -= 1;
        rest = width;
    }
    if full > 0 {
        let mut top = f.a.create_label();
        if full > 1 {
            f.a.mov(rax, full as u64)?;
            f.a.mov(frame(GROUPS), rax)?;
            f.a.set_label(&mut top)?;
        }
        group(&mut f, n, e, width, false)?;
        if full > 1 || rest > 0 {
            let channels = (PANEL * width) as i32;
            f.a.add(rsi, (n.panel_bytes * width) as i32)?;
            f.a.add(rdx, 4 * channels)?;
            f.a.add(rcx, 4 * channels)?;
            f.a.add(frame(Y_BASE), channels * e.width() as i32)?;
            if e.residual() {
                f.a.add(r9, 2 * channels)?;
                f.a.add(frame(R_BASE), channels * e.residual_width() as i32)?;
            }
        }
        if full > 1 {
            f.a.dec(frame(GROUPS))?;
            f.a.jnz(top)?;
        }
    }
    if rest > 0 {
        group(&mut f, n, e, rest, masked)?;
    }
    leave(&mut f, FRAME)?;
    f.finish()
}

/// Images and rows: operand, residual and result in rdi, rbx, r8 where `row` starts; rax, r11, r10 keep its start, and `row`
/// leaves them as they are.
pub fn rows(f: &mut Asm, n: &Nest, with_residual: bool, row: &dyn Fn(&mut Asm) -> Emitted<()>) -> Emitted<()> {
    let frame = |slot: i32| qword_ptr(rsp + slot);
    f.a.mov(rax, frame(X_BASE))?;
    f.a.mov(r10, frame(Y_BASE))?;
    if with_residual {
        f.a.mov(r11, frame(R_BASE))?;
    }
    let mut images = f.a.create_label();
    if n.images > 1 {
        f.a.mov(rbp, n.images as u64)?;
        f.a.mov(frame(IMAGES), rbp)?;
        f.a.set_label(&mut images)?;
        f.a.mov(frame(X_IMAGE), rax)?;
        f.a.mov(frame(Y_IMAGE), r10)?;
        f.a.mov(frame(R_IMAGE), r11)?;
    }
    let mut rows = f.a.create_label();
    if n.rows > 1 {
        f.a.mov(rbp, n.rows as u64)?;
        f.a.mov(frame(ROWS), rbp)?;
        f.a.set_label(&mut rows)?;
    }
    f.a.mov(rdi, rax)?;
    f.a.mov(r8, r10)?;
    if with_residual {
        f.a.mov(rbx, r11)?;
    }
    row(f)?;
    if n.rows > 1 {
        f.a.add(rax, n.row[X] as i32)?;
        f.a.add(r10, n.row[Y] as i32)?;
        if with_residual {
            f.a.add(r11, n.row[R] as i32)?;
        }
        f.a.dec(frame(ROWS))?;
        f.a.jnz(rows)?;
    }
    if n.images > 1 {
        f.a.mov(rax, frame(X_IMAGE))?;
        f.a.mov(r10, frame(Y_IMAGE))?;
        f.a.mov(r11, frame(R_IMAGE))?;
        f.a.add(rax, n.image[X] as i32)?;
        f.a.add(r10, n.image[Y] as i32)?;
        f.a.add(r11, n.image[R] as i32)?;
        f.a.dec(frame(IMAGES))?;
        f.a.jnz(images)?;
    }
    Ok(())
}

/// Runs of tiles of a row: pixels of a tile, how many, and whether pairs of pixels share vectors.
fn runs(n: &Nest, e: &dyn Body, panels: usize, masked: bool) -> Vec<(usize, usize, bool)> {
    let paired = masked && n.lanes <= cost::HALF && n.pixels > 1 && e.most_in_pairs(panels) > 0;
    let mut runs = if paired {
        let (len, count, tail) = cost::split(n.pixels / 2, e.most_in_pairs(panels) / 2);
        vec![(2 * len, count, true), (2 * tail, 1, true), (n.pixels % 2, 1, false)]
    } else {
        let (len, count, tail) = cost::split(n.pixels, e.most_pixels(panels));
        vec![(len, count, false), (tail, 1, false)]
    };
    runs.retain(|r| r.0 > 0);
    runs
}

/// On which occasion a layer of groups of `width` panels asks for its share of `bytes`, and how many these are: the finest that
/// asks for a quarter of a line or more, unless a coarser one would ask for too much at once. What is asked for twice costs little.
fn asks(n: &Nest, e: &dyn Body, width: usize, bytes: usize) -> (Occasion, usize) {
    let (groups, tiles) = (n.panels.div_ceil(width), |panels, masked| runs(n, e, panels, masked).iter().map(|r| r.1).sum::<usize>());
    let last = n.panels - (groups - 1) * width;
    let rows = groups * n.all_rows();
    let tiles = n.all_rows() * ((groups - 1) * tiles(width, false) + tiles(last, n.lanes < PANEL));
    let occasions = [(Occasion::Pass, tiles * n.passes()), (Occasion::Tile, tiles), (Occasion::Row, rows)];
    let shares = occasions.map(|(at, times)| (at, bytes.div_ceil(times)));
    let enough = (0..2).find(|i| shares[*i].1 >= LINE / 4 || shares[i + 1].1 > MOST_AT_ONCE);
    shares[enough.unwrap_or(2)]
}

/// Asks for `each` bytes from where the address in the frame says.
fn ask(f: &mut Asm, each: usize) -> Emitted<()> {
    let at = qword_ptr(rsp + AHEAD);
    f.a.mov(rbp, at)?;
    lines(f, rbp, each)?;
    f.a.add(at, each as i32)
}

/// Asks for the lines of `each` bytes at an address.
fn lines(f: &mut Asm, at: AsmRegister64, each: usize) -> Emitted<()> {
    (0..each.div_ceil(LINE)).try_for_each(|line| f.a.prefetcht1(byte_ptr(at + LINE * line)))
}

/// All rows of a group of panels.
fn group(f: &mut Asm, n: &Nest, e: &dyn Body, panels: usize, masked: bool) -> Emitted<()> {
    let runs = runs(n, e, panels, masked);
    rows(f, n, e.residual(), &|f| {
        if let Some((Occasion::Row, each)) = n.asks {
            ask(f, each)?;
        }
        for &(pixels, count, paired) in &runs {
            let tile = Tile { pixels, panels, half: false };
            run(f, n, e.residual(), (pixels, count), &|f| if paired { e.pairs(f, n, tile) } else { e.tile(f, n, tile, masked) })?;
        }
        Ok(())
    })
}

/// `count` tiles of so many pixels one behind the other, counted in r15.
pub fn run(
    f: &mut Asm,
    n: &Nest,
    with_residual: bool,
    (pixels, count): (usize, usize),
    tile: &dyn Fn(&mut Asm) -> Emitted<()>,
) -> Emitted<()> {
    let mut tiles = f.a.create_label();
    if count > 1 {
        f.a.mov(r15, count as u64)?;
        f.a.set_label(&mut tiles)?;
    }
    tile(f)?;
    f.a.add(rdi, (pixels * n.pixel[X]) as i32)?;
    f.a.add(r8, (pixels * n.pixel[Y]) as i32)?;
    if with_residual {
        f.a.add(rbx, (pixels * n.pixel[R]) as i32)?;
    }
    if count > 1 {
        f.a.dec(r15)?;
        f.a.jnz(tiles)?;
    }
    Ok(())
}

/// All blocks of four taps: r12 walks over the operand, r13 over the weights. `block` gets how many blocks it is ahead
/// of the pointers; it finds no bias in rdx, which may walk over weights ahead.
pub fn sum(f: &mut Asm, n: &Nest, block: &dyn Fn(&mut Asm, usize) -> Emitted<()>) -> Emitted<()> {
    let frame = |slot: i32| qword_ptr(rsp + slot);
    f.a.mov(r12, rdi)?;
    f.a.mov(r13, rsi)?;
    let each = match n.asks {
        Some((Occasion::Pass, each)) => Some(each),
        Some((Occasion::Tile, each)) => {
            ask(f, each)?;
            None
        }
        _ => None,
    };
    if each.is_some() {
        f.a.mov(frame(BIAS), rdx)?;
        f.a.mov(rdx, frame(AHEAD))?;
    }
    let pass = |f: &mut Asm| -> Emitted<()> {
        let Some(each) = each else { return Ok(()) };
        lines(f, rdx, each)?;
        f.a.add(rdx, each as i32)
    };
    let mut segments = f.a.create_label();
    if n.segments > 1 {
        f.a.mov(rbp, n.segments as u64)?;
        f.a.set_label(&mut segments)?;
    }
    let mut walked = 0;
    if n.blocks <= STRAIGHT {
        pass(f)?;
        for u in 0..n.blocks {
            block(f, u)?;
        }
        if n.segments > 1 {
            f.a.add(r13, (n.block * n.blocks) as i32)?;
        }
    } else {
        let (passes, left) = (n.blocks / UNROLL, n.blocks % UNROLL);
        f.a.mov(r14, passes as u64)?;
        let mut top = f.a.create_label();
        f.a.set_label(&mut top)?;
        pass(f)?;
        for u in 0..UNROLL {
            block(f, u)?;
        }
        f.a.add(r12, 4 * UNROLL as i32)?;
        f.a.add(r13, (n.block * UNROLL) as i32)?;
        f.a.dec(r14)?;
        f.a.jnz(top)?;
        for u in 0..left {
            block(f, u)?;
        }
        if n.segments > 1 && left > 0 {
            f.a.add(r13, (n.block * left) as i32)?;
        }
        walked = 4 * UNROLL * passes;
    }
    if n.segments > 1 {
        f.a.add(r12, n.segment as i32 - walked as i32)?;
        f.a.dec(rbp)?;
        f.a.jnz(segments)?;
    }
    if each.is_some() {
        f.a.mov(frame(AHEAD), rdx)?;
        f.a.mov(rdx, frame(BIAS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles of 24 accumulators.
    struct Plain;

    impl Body for Plain {
        fn residual(&self) -> bool {
            false
        }
        fn width(&self) -> usize {
            1
        }
        fn most_pixels(&self, panels: usize) -> usize {
            24 / panels
        }
        fn prologue(&self, _: &mut Asm, _: usize) -> Emitted<()> {
            Ok(())
        }
        fn tile(&self, _: &mut Asm, _: &Nest, _: Tile, _: bool) -> Emitted<()> {
            Ok(())
        }
    }

    #[test]
    fn a_layer_asks_for_all_of_it_and_little_at_once() {
        let mut seen = Vec::new();
        for (rows, pixels) in [(1, 1), (1, 49), (7, 7), (56, 56), (1, 3136), (512, 512), (1, 262_144)] {
            for (segments, blocks) in [(1, 4), (1, 16), (3, 48), (1, 1024), (1, 20_000)] {
                for panels in [1, 4, 9, 64] {
                    for bytes in [1, 300, 5_000, 40_000, 800_000, 2_400_000] {
                        let n = Nest {
                            images: 1,
                            rows,
                            pixels,
                            start: [0; 3],
                            image: [0; 3],
                            row: [0; 3],
                            pixel: [0; 3],
                            segments,
                            segment: 0,
                            blocks,
                            block: 64,
                            panel_bytes: 64 * blocks * segments,
                            panels,
                            lanes: 16,
                            ahead: None,
                            asks: None,
                        };
                        let (at, each) = asks(&n, &Plain, 4, bytes);
                        let width = panels.min(4);
                        let tiles = panels.div_ceil(4) * rows * pixels.div_ceil(24 / width);
                        let times = match at {
                            Occasion::Pass => tiles * n.passes(),
                            Occasion::Tile => tiles,
                            Occasion::Row => panels.div_ceil(4) * rows,
                        };
                        assert!(each * times >= bytes, "{n:?} {bytes}");
                        assert!(each <= MOST_AT_ONCE || at == Occasion::Pass, "{n:?} {bytes}: {each}");
                        seen.push(at);
                    }
                }
            }
        }
        assert!([Occasion::Pass, Occasion::Tile, Occasion::Row].iter().all(|o| seen.contains(o)));
    }
}
