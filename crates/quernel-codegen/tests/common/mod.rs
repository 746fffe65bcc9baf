//! Programs made by hand, and the one assertion about them: compiled code gives the interpreter's bytes on every level.
#![allow(dead_code)]

#[cfg(target_arch = "x86_64")]
pub mod emulator;
pub mod machines;

use machines::Machine;
use quernel_ir::{
    op::WindowDim,
    program::{Base, Conv, End, Image, Port, Program, Slot, Step, Strided, Strides, WeightDims, WeightLayout, What},
    ty::{Scalar, TensorTy},
};

/// Bytes behind a result that must stay as they are.
const BEHIND: usize = 64;

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
    /// Floats around 0, some of them exact integers and zeros of both signs.
    pub fn floats(&mut self, n: usize) -> Vec<u8> {
        (0..n)
            .flat_map(|_| {
                let v = match self.below(8) {
                    0 => self.range(-4, 4) as f32,
                    1 => -0.0,
                    _ => self.range(-1_000_000, 1_000_000) as f32 / 131_072.0,
                };
                v.to_le_bytes()
            })
            .collect()
    }
    /// Floats of every kind: NaN, infinities, zeros, subnormal and huge numbers, ties, beside ordinary ones.
    pub fn wild(&mut self, n: usize) -> Vec<u8> {
        (0..n)
            .flat_map(|_| {
                let v = match self.below(16) {
                    0 => self.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1.0e-42]),
                    1 => f32::from_bits(self.bits()),
                    2 | 3 => self.range(-600, 600) as f32 / 2.0,
                    4 => self.range(-1000, 1000) as f32 / 8.0,
                    _ => self.range(-1_000_000, 1_000_000) as f32 / 131_072.0,
                };
                v.to_le_bytes()
            })
            .collect()
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
    /// Input channels per group.
    pub i: usize,
    pub o: usize,
    pub groups: usize,
    pub window: [WindowDim; 2],
    pub layout: WeightLayout,
    pub residual: bool,
    /// Extra elements between pixels, rows and images.
    pub gap: usize,
    pub kind: Kind,
}

/// Element types of a case.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Bytes, or words.
    Int {
        words: bool,
        signed: bool,
        zero: i32,
        residual_signed: bool,
        end: End,
        /// Operands, weights and biases as large as possible.
        extreme: bool,
    },
    /// f32 with bounds.
    Float { lo: f32, hi: f32 },
}

/// The number of outputs of a window.
pub fn outputs(d: WindowDim, extent: usize) -> usize {
    (extent + d.before + d.after - d.span()) / d.stride + 1
}

/// A program with one convolution, and bytes for its inputs. Operands are moved from ports to the arena, the result
/// lies in 0x5a bytes which are an output as a whole: a byte written outside the view shows.
pub fn conv_program(c: &Case, rng: &mut Rng) -> (Program, Vec<Vec<u8>>) {
    let (oh, ow) = (outputs(c.window[0], c.h), outputs(c.window[1], c.w));
    let spread = |h: usize, w: usize, channels: usize, gap: usize| {
        let pixel = channels + gap;
        let row = w * pixel + gap;
        Image { n: c.n, h, w, c: channels, start: gap, batch: h * row + gap, row, pixel }
    };
    let input = spread(c.h, c.w, c.i * c.groups, c.gap);
    let output = spread(oh, ow, c.o, c.gap);
    let residual = c.residual.then(|| spread(oh, ow, c.o, c.gap / 2));
    let conv = Conv { input, output, window: c.window, groups: c.groups, layout: c.layout, residual };
    let o16 = c.o.next_multiple_of(16);
    let mut program = Program { name: "case".into(), ..Program::default() };

    let (operand, weights, bias, scale, factor, element, result, what);
    match c.kind {
        Kind::Int { words, signed, zero, residual_signed, end, extreme } => {
            let sign = if rng.below(2) == 0 { 1 } else { -1 };
            // Weights of at most 64 have kernels of their own.
            let most = rng.pick(&[127, 127, 64, 7]);
            // So have layers where few exceed that.
            let rare = rng.below(5) < 2;
            weights = pack(c.layout, conv.weight_dims(), 1, |_| {
                let most = if rare { if rng.below(96) == 0 { 127 } else { 64 } } else { most };
                // The most negative byte has no counterpart.
                let least = if most == 127 { -128 } else { -most };
                vec![if extreme { sign * most as i8 } else { rng.range(least, most) as i8 } as u8]
            });
            // Biases around 2^23 take sums across the bound up to which f32 holds every integer.
            let heavy = !extreme && rng.below(4) == 0;
            let largest = if extreme { 1 << 28 } else { if heavy { 1 << 24 } else { 3000 } };
            bias = (0..o16).flat_map(|_| rng.range(-largest, largest).to_le_bytes()).collect::<Vec<u8>>();
            let taps = (c.i * c.window[0].kernel * c.window[1].kernel) as f32;
            let step = if extreme {
                2.0e-10
            } else if heavy {
                2.0e-8
            } else {
                1.0 / (60_000.0 * taps.sqrt())
            };
            scale = (0..o16).flat_map(|_| (rng.range(1, 1000) as f32 * step).to_le_bytes()).collect::<Vec<u8>>();
            factor = (0..o16).flat_map(|_| (rng.range(1, if extreme { 32767 } else { 900 }) as i16).to_le_bytes()).collect::<Vec<u8>>();
            element = if words { 2 } else { 1 };
            let largest: &[u8] = match (signed, words) {
                (true, false) => &[0x80],
                (true, true) => &[0x00, 0x80],
                (false, _) => &[0xff],
            };
            let length = input.extent() * element;
            operand = if extreme { largest.iter().copied().cycle().take(length).collect() } else { rng.bytes(length) };
            result = if matches!(end, End::Float { .. }) { 4 } else { element };
            what = match words {
                true => What::ConvWords { conv, zero, signed, residual_signed, end },
                false => What::Conv { conv, zero, signed, residual_signed, end },
            };
        }
        Kind::Float { lo, hi } => {
            weights = pack(c.layout, conv.weight_dims(), 4, |_| rng.floats(1));
            bias = rng.floats(o16);
            (scale, factor) = (Vec::new(), Vec::new());
            operand = rng.floats(input.extent());
            (element, result) = (4, 4);
            what = What::ConvFloat { conv, lo, hi };
        }
    }
    let mut bytes = vec![operand];
    let mut reads = vec![Slot { base: Base::Arena, offset: 0, bytes: bytes[0].len() }];
    let mut top = (bytes[0].len() + 64).next_multiple_of(64);
    reads.push(program.blob("w", weights));
    reads.push(program.blob("b", bias));
    let integer = matches!(c.kind, Kind::Int { .. });
    if integer {
        reads.push(program.blob("s", scale));
    }
    if let Some(r) = residual {
        bytes.push(if integer { rng.bytes(r.extent() * element) } else { rng.floats(r.extent()) });
        reads.push(Slot { base: Base::Arena, offset: top, bytes: r.extent() * element });
        top = (top + r.extent() * element + 64).next_multiple_of(64);
        if integer {
            reads.push(program.blob("f", factor));
        }
    }
    let places: Vec<Slot> = reads.iter().copied().filter(|r| r.base == Base::Arena).collect();
    for (i, &place) in places.iter().enumerate() {
        let ty = TensorTy::new([place.bytes / element], scalar(element));
        program.inputs.push(Port { name: format!("x{i}"), ty });
        let from = Slot { base: Base::Input(i as u32), ..place };
        program.steps.push(copy(element, Slot { offset: 0, ..from }, place));
    }
    let length = output.extent() * result;
    let out = Slot { base: Base::Arena, offset: top, bytes: length };
    let around = Slot { bytes: length + BEHIND, ..out };
    program.arena_bytes = (top + around.bytes + 64).next_multiple_of(64);
    program.outputs.push(Port { name: "y".into(), ty: TensorTy::new([around.bytes / result], scalar(result)) });
    program.steps.push(fill(around));
    program.steps.push(Step { what, how: String::new(), reads, writes: vec![out], origin: Default::default() });
    program.steps.push(copy(result, around, Slot { base: Base::Output(0), offset: 0, bytes: around.bytes }));
    (program, bytes)
}

/// Packed weights of `width` bytes, padding 0.
fn scalar(bytes: usize) -> Scalar {
    match bytes {
        1 => Scalar::U8,
        2 => Scalar::U16,
        _ => Scalar::F32,
    }
}

fn pack(layout: WeightLayout, d: WeightDims, width: usize, mut make: impl FnMut(usize) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![0u8; layout.len(d) * width];
    for o in 0..d.o {
        for ky in 0..d.kh {
            for kx in 0..d.kw {
                for i in 0..d.i {
                    let at = layout.index(d, o, ky, kx, i) * width;
                    bytes[at..at + width].copy_from_slice(&make(at));
                }
            }
        }
    }
    bytes
}

/// Moves a whole slot of elements of `width` bytes.
pub fn copy(width: usize, from: Slot, to: Slot) -> Step {
    let dims = vec![from.bytes / width];
    let over = Strided { operands: vec![Strides::dense(&dims); 2], dims };
    Step { what: What::Move { width, over }, how: String::new(), reads: vec![from], writes: vec![to], origin: Default::default() }
}

/// Fills a slot with 0x5a.
pub fn fill(to: Slot) -> Step {
    let dims = vec![to.bytes];
    let over = Strided { operands: vec![Strides::dense(&dims)], dims };
    Step {
        what: What::Fill { width: 1, over, bits: 0x5a },
        how: String::new(),
        reads: vec![],
        writes: vec![to],
        origin: Default::default(),
    }
}

/// The first difference between compiled code and the interpreter, over the levels of this machine and one CPU that may
/// be emulated, by the number of the case. The bits of a NaN that an operation produced are nobody's promise; that it is
/// one is.
pub fn differences(number: u64, p: &Program, inputs: &[Vec<u8>]) -> Option<String> {
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let expected = match quernel_interp::run_program(p, &inputs) {
        Ok(expected) => expected,
        Err(e) => return Some(format!("interpreter: {e}")),
    };
    machines::some(number).iter().find_map(|m| difference(m, p, &inputs, &expected))
}

fn difference(machine: &Machine, p: &Program, inputs: &[&[u8]], expected: &[Vec<u8>]) -> Option<String> {
    let mut jit = match machine.compile(p) {
        Ok(jit) => jit,
        Err(e) => return Some(format!("{machine}: {e}")),
    };
    // A first run on other data: what it leaves in the arena and the results must not matter.
    let other: Vec<Vec<u8>> = inputs.iter().map(|i| vec![0xff; i.len()]).collect();
    let other: Vec<&[u8]> = other.iter().map(Vec::as_slice).collect();
    let got = match machine.run(&mut jit, &other).and_then(|_| machine.run(&mut jit, inputs)) {
        Ok(got) => got,
        Err(e) => return Some(format!("{machine}: {e}")),
    };
    for (port, (got, expected)) in got.iter().zip(expected).enumerate() {
        let float = p.outputs[port].ty.elem.is_f32();
        let Some(i) = (0..expected.len()).find(|&i| got[i] != expected[i] && !(float && both_nan(got, expected, i))) else { continue };
        let at = if float { i / 4 * 4 } else { i };
        let show = |b: &[u8]| if float { format!("{}", f32_at(b, at)) } else { b[at].to_string() };
        let writer = p.steps.iter().rev().find(|s| s.writes[0].base == Base::Output(port as u32)).map_or("nothing", |s| s.what.name());
        return Some(format!("{machine}: output {port} (by {writer}), byte {at} is {} instead of {}", show(got), show(expected)));
    }
    None
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn both_nan(a: &[u8], b: &[u8], byte: usize) -> bool {
    let at = byte / 4 * 4;
    f32_at(a, at).is_nan() && f32_at(b, at).is_nan()
}

/// Asserts that compiled code gives the interpreter's bytes; see [`differences`] for where.
pub fn agree(what: &dyn std::fmt::Debug, p: &Program, inputs: &[Vec<u8>]) {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    if let Some(difference) = differences(number, p, inputs) {
        panic!("{what:?}: {difference}");
    }
}

/// Computes the layer of a program twice, the second time with weights of its own, which the first asks for ahead.
pub fn twice(program: &mut Program) {
    let Some(at) = program.steps.iter().position(|s| s.what.macs() > 0) else { return };
    let mut again = program.steps[at].clone();
    let Base::Blob(weights) = again.reads[1].base else { return };
    let bytes = program.blobs[weights].bytes.clone();
    again.reads[1] = program.blob("later", bytes);
    program.steps.insert(at + 1, again);
}

/// Bytes of one read slot of a step under test.
pub enum Operand {
    /// A tensor, moved into the arena at run time.
    Data(Vec<u8>),
    /// A constant.
    Constant(Vec<u8>),
}

/// A program of one step, and bytes for its inputs. The result lies in an arena slot of `result` bytes, among 0x5a
/// bytes which are an output as a whole; with `direct` the step reads the caller's tensors themselves.
pub fn step_program(what: What, operands: Vec<Operand>, result: usize, float: bool, direct: bool) -> (Program, Vec<Vec<u8>>) {
    let mut program = Program { name: "step".into(), ..Program::default() };
    let (mut reads, mut inputs, mut top) = (Vec::new(), Vec::new(), 0usize);
    for operand in operands {
        match operand {
            Operand::Constant(bytes) => {
                let name = format!("c{}", program.blobs.len());
                reads.push(program.blob(name, bytes));
            }
            Operand::Data(bytes) => {
                let port = Slot { base: Base::Input(inputs.len() as u32), offset: 0, bytes: bytes.len() };
                program.inputs.push(Port { name: format!("x{}", inputs.len()), ty: TensorTy::new([bytes.len()], Scalar::U8) });
                if direct {
                    reads.push(port);
                } else {
                    let place = Slot { base: Base::Arena, offset: top, bytes: bytes.len() };
                    program.steps.push(copy(1, port, place));
                    reads.push(place);
                    top = (top + bytes.len() + 64).next_multiple_of(64);
                }
                inputs.push(bytes);
            }
        }
    }
    let out = Slot { base: Base::Arena, offset: top, bytes: result };
    let around = Slot { bytes: result + BEHIND, ..out };
    program.arena_bytes = (top + around.bytes + 64).next_multiple_of(64);
    let ty = if float { TensorTy::new([around.bytes / 4], Scalar::F32) } else { TensorTy::new([around.bytes], Scalar::U8) };
    program.outputs.push(Port { name: "y".into(), ty });
    program.steps.push(fill(around));
    program.steps.push(Step { what, how: String::new(), reads, writes: vec![out], origin: Default::default() });
    program.steps.push(copy(1, around, Slot { base: Base::Output(0), offset: 0, bytes: around.bytes }));
    (program, inputs)
}
