//! Programs made by hand and a direct reference of convolutions.
#![allow(dead_code)]

use quernel_ir::{
    exact,
    op::WindowDim,
    program::{Base, Blob, Conv, End, Image, Port, Program, Slot, Step, WeightLayout, What},
    ty::{Scalar, TensorTy},
};

/// A small generator of reproducible numbers.
pub struct Rng(pub u64);

impl Rng {
    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 29);
        (x.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }
    /// A number in `lo..=hi`.
    pub fn range(&mut self, lo: i32, hi: i32) -> i32 {
        lo + self.below((hi - lo + 1) as usize) as i32
    }
    /// Bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits() as u8).collect()
    }
    /// One of a few.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// What a convolution test varies.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub i: usize,
    pub o: usize,
    pub groups: usize,
    pub window: [WindowDim; 2],
    pub layout: WeightLayout,
    pub signed: bool,
    pub zero: i32,
    pub residual: Option<bool>,
    pub end: End,
    /// Extra elements between pixels of input and output.
    pub gap: usize,
    /// Every operand byte and weight as large as possible.
    pub extreme: bool,
}

/// The number of outputs of a window.
pub fn outputs(d: WindowDim, extent: usize) -> usize {
    (extent + d.before + d.after - d.span()) / d.stride + 1
}

/// A program of one integer convolution between byte ports: input [x], output [y]; a move in and out gives the
/// kernel arena slots when `arena`.
pub struct ConvProgram {
    pub program: Program,
    pub inputs: Vec<Vec<u8>>,
    pub expected: Vec<u8>,
    pub untouched: usize,
}

/// Makes a case's program, inputs and expected output bytes. Gaps of the output hold 0x5a.
pub fn conv_program(c: &Case, rng: &mut Rng) -> ConvProgram {
    let (oh, ow) = (outputs(c.window[0], c.h), outputs(c.window[1], c.w));
    let spread = |n, h, w, ch: usize, gap: usize| {
        let pixel = ch + gap;
        let row = w * pixel + gap;
        Image { n, h, w, c: ch, start: gap, batch: h * row + gap, row, pixel }
    };
    let input = spread(c.n, c.h, c.w, c.i * c.groups, c.gap);
    let output = spread(c.n, oh, ow, c.o, c.gap);
    let residual = c.residual.map(|_| spread(c.n, oh, ow, c.o, c.gap / 2));
    let conv = Conv { input, output, window: c.window, groups: c.groups, layout: c.layout, residual };
    let d = conv.weight_dims();
    let o16 = c.o.next_multiple_of(16);
    let mut weights = vec![0u8; c.layout.len(d)];
    let (bound, sign) = (127, if rng.below(2) == 0 { 1 } else { -1 });
    for o in 0..d.o {
        for ky in 0..d.kh {
            for kx in 0..d.kw {
                for i in 0..d.i {
                    let v = if c.extreme { sign * bound } else { rng.range(-bound, bound) };
                    weights[c.layout.index(d, o, ky, kx, i)] = v as i8 as u8;
                }
            }
        }
    }
    let bias: Vec<i32> = (0..o16).map(|_| if c.extreme { rng.range(-1 << 28, 1 << 28) } else { rng.range(-3000, 3000) }).collect();
    let taps = (d.i * d.kh * d.kw) as f32;
    let scale: Vec<f32> =
        (0..o16).map(|_| (rng.bits() % 1000 + 1) as f32 / if c.extreme { 4.0e9 } else { 60_000.0 * taps.sqrt() }).collect();
    let factor: Vec<i16> = (0..o16).map(|_| rng.range(1, if c.extreme { 32767 } else { 900 }) as i16).collect();
    let x = if c.extreme { vec![if c.signed { 0x80 } else { 0xff }; input.extent()] } else { rng.bytes(input.extent()) };
    let r = residual.map(|r| if c.extreme { vec![0xff; r.extent()] } else { rng.bytes(r.extent()) });

    let at = |bytes: &[u8], i: usize, signed: bool| if signed { i32::from(bytes[i] as i8) } else { i32::from(bytes[i]) };
    let width = if matches!(c.end, End::Float { .. }) { 4 } else { 1 };
    let mut expected = vec![0x5a; output.extent() * width];
    for n in 0..c.n {
        for y in 0..oh {
            for xx in 0..ow {
                for o in 0..c.o {
                    let mut acc = bias[o];
                    let group = o / (d.o / d.groups);
                    for ky in 0..d.kh {
                        for kx in 0..d.kw {
                            let iy = (y * c.window[0].stride + ky * c.window[0].dilation) as isize - c.window[0].before as isize;
                            let ix = (xx * c.window[1].stride + kx * c.window[1].dilation) as isize - c.window[1].before as isize;
                            let inside = iy >= 0 && ix >= 0 && iy < c.h as isize && ix < c.w as isize;
                            for i in 0..d.i {
                                let v =
                                    if inside { at(&x, input.at(n, iy as usize, ix as usize, group * d.i + i), c.signed) } else { c.zero };
                                let w = i32::from(weights[c.layout.index(d, o, ky, kx, i)] as i8);
                                acc = acc.wrapping_add(v * w);
                            }
                        }
                    }
                    if let (Some(view), Some(r)) = (residual, &r) {
                        let v = at(r, view.at(n, y, xx, o), c.residual == Some(true));
                        acc = acc.wrapping_add(v * i32::from(factor[o]));
                    }
                    let to = output.at(n, y, xx, o);
                    match c.end {
                        End::Requantize { zero, lo, hi, .. } => expected[to] = exact::requantize(acc, scale[o], zero, lo, hi) as u8,
                        End::Float { lo, hi } => {
                            expected[4 * to..4 * to + 4].copy_from_slice(&exact::scale_to_float(acc, scale[o], lo, hi).to_le_bytes());
                        }
                    }
                }
            }
        }
    }

    let mut program = Program { name: "case".into(), ..Program::default() };
    let bytes_of = |v: &[i32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let mut reads = vec![arena(0, x.len())];
    reads.push(program.blob("w", weights));
    reads.push(program.blob("b", bytes_of(&bias)));
    reads.push(program.blob("s", scale.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()));
    let mut top = (x.len() + 64).next_multiple_of(64);
    let mut inputs = vec![x];
    if let Some(r) = r {
        reads.push(arena(top, r.len()));
        reads.push(program.blob("f", factor.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()));
        inputs.push(r);
    }
    for (i, bytes) in inputs.iter().enumerate() {
        program.inputs.push(Port { name: format!("x{i}"), ty: TensorTy::new([bytes.len()], Scalar::U8) });
        let to = reads[if i == 0 { 0 } else { 4 }];
        program.steps.push(copy(port(Base::Input(i as u32), bytes.len()), to));
        top = top.max((to.offset + to.bytes + 64).next_multiple_of(64));
    }
    // The result is prepared with a pattern in the arena, computed there and copied out, gaps included.
    let out = arena(top, expected.len());
    program.steps.push(fill(out, 0x5a));
    let elem = if width == 4 { Scalar::F32 } else { Scalar::U8 };
    program.outputs.push(Port { name: "y".into(), ty: TensorTy::new([expected.len() / width], elem) });
    program.arena_bytes = (top + expected.len() + 64).next_multiple_of(64);
    program.steps.push(Step {
        what: What::Conv { conv, zero: c.zero, signed: c.signed, residual_signed: c.residual == Some(true), end: c.end },
        how: String::new(),
        reads,
        writes: vec![out],
        origin: Default::default(),
    });
    program.steps.push(copy(out, port(Base::Output(0), expected.len())));
    ConvProgram { program, inputs, expected, untouched: 0 }
}

pub fn arena(offset: usize, bytes: usize) -> Slot {
    Slot { base: Base::Arena, offset, bytes }
}

pub fn port(base: Base, bytes: usize) -> Slot {
    Slot { base, offset: 0, bytes }
}

/// A copy of bytes, as a lookup in the identity table would be: a `Move`.
pub fn copy(from: Slot, to: Slot) -> Step {
    use quernel_ir::program::{Strided, Strides};
    let over = Strided { dims: vec![from.bytes], operands: vec![Strides::dense(&[from.bytes]), Strides::dense(&[from.bytes])] };
    Step { what: What::Move { width: 1, over }, how: String::new(), reads: vec![from], writes: vec![to], origin: Default::default() }
}

/// A fill of bytes.
pub fn fill(to: Slot, byte: u8) -> Step {
    use quernel_ir::program::{Strided, Strides};
    let over = Strided { dims: vec![to.bytes], operands: vec![Strides::dense(&[to.bytes])] };
    Step {
        what: What::Fill { width: 1, over, bits: byte.into() },
        how: String::new(),
        reads: vec![],
        writes: vec![to],
        origin: Default::default(),
    }
}

/// The id of no blob in particular, to keep the import used.
pub type AnyBlob = Blob;
