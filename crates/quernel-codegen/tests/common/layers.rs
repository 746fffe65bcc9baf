//! Random layers in hostile surroundings: every slot of the step alone between inaccessible pages, the caller's rounding
//! mode strange, sums at the edge of every proof, and compiled code against the interpreter byte for byte.

use crate::common::{
    Case, Kind, Operand, Rng, conv_program,
    machines::{Machine, machines},
    outputs, step_program,
};
use quernel_codegen::Level;
use quernel_ir::{
    Storage,
    op::{PoolKind, WindowDim},
    program::{Base, ByteQuant, End, Image, Program, WeightLayout, What},
};
use std::{
    collections::BTreeMap,
    ffi::{c_int, c_void},
    sync::Arc,
};

unsafe extern "C" {
    fn mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
}

/// Pages are at most this long on the machines the tests run on.
const PAGE: usize = 1 << 14;
/// What memory holds where nothing was written.
const UNTOUCHED: u8 = 0x5a;

/// Layers that agreed, by what they were and by the leaf kernels they got.
#[derive(Default, Debug)]
pub struct Tally {
    pub layers: BTreeMap<&'static str, usize>,
    pub kernels: BTreeMap<String, usize>,
    /// Layers whose sums attain a bound at which the code changes form.
    pub edges: usize,
    pub runs: usize,
}

/// Checks layers number `first` up to `first + count` of a seed; the first that differs is an error that names it.
pub fn check(seed: u64, first: u64, count: u64, mut progress: impl FnMut(u64, &Tally)) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for number in first..first + count {
        let rng = &mut Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd129_0d3e_9a52_1b37));
        rng.bits();
        let layer = random(rng);
        tally.edges += usize::from(layer.edge);
        compare(&layer, rng, &mut tally).map_err(|e| format!("layer {number} of seed {seed} ({}): {e}", layer.about))?;
        *tally.layers.entry(layer.kind).or_default() += 1;
        progress(number + 1 - first, &tally);
    }
    Ok(tally)
}

struct Layer {
    kind: &'static str,
    about: String,
    program: Program,
    inputs: Vec<Vec<u8>>,
    edge: bool,
}

fn random(rng: &mut Rng) -> Layer {
    match rng.below(16) {
        0 => pool(rng),
        1 | 2 => conv(rng, "dense"),
        3..=7 => conv(rng, "depthwise"),
        8 => conv(rng, "float"),
        9 => conv(rng, "words"),
        _ => conv(rng, "conv"),
    }
}

/// An extent that is often near a multiple of something.
fn extent(rng: &mut Rng, most: usize) -> usize {
    let near = rng.pick(&[1, 2, 4, 8, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 112, 129]);
    let n = if rng.below(2) == 0 { near } else { 1 + rng.below(most) };
    n.min(most)
}

fn conv(rng: &mut Rng, kind: &'static str) -> Layer {
    let depthwise = kind == "depthwise" || kind == "float" && rng.below(3) == 0;
    let dense = kind == "dense";
    let square = rng.below(4) > 0;
    let side = |rng: &mut Rng| if depthwise { rng.pick(&[1, 2, 3, 3, 4, 5, 5, 7]) } else { rng.pick(&[1, 1, 1, 2, 3, 3, 4, 5, 7]) };
    let (kh, kw) = if dense { (1, 1) } else { (side(rng), side(rng)) };
    let (kh, kw) = if square { (kh, kh) } else { (kh, kw) };
    let step = |rng: &mut Rng| if dense { 1 } else { rng.pick(&[1, 1, 1, 2, 2, 3]) };
    let (sy, sx) = (step(rng), step(rng));
    let (sy, sx) = if square { (sy, sy) } else { (sy, sx) };
    let dilation = |rng: &mut Rng| if rng.below(12) == 0 { 2 } else { 1 };
    let padded = !dense && rng.below(12) == 0;
    let pad = |rng: &mut Rng, kernel: usize| if padded { rng.below(kernel) } else { 0 };
    let mut dim = |kernel: usize, stride: usize| {
        let dilation = dilation(rng);
        WindowDim { kernel, stride, dilation, before: pad(rng, kernel), after: pad(rng, kernel) }
    };
    let mut window = [dim(kh, sy), dim(kw, sx)];
    let taps = kh * kw;
    let groups = if depthwise { extent(rng, 150) } else { rng.pick(&[1, 1, 1, 1, 1, 1, 1, 2]) };
    let i = if depthwise { 1 } else { extent(rng, (600 / taps).clamp(4, 200)) };
    let o = if depthwise { groups } else { extent(rng, 150) * groups };
    let contiguous = groups == 1 && rng.below(4) > 0;
    if contiguous {
        window[1].dilation = 1;
    }
    let plain = !depthwise && rng.below(24) == 0;
    let (float, words) = (kind == "float", kind == "words");
    let depth = if float { 1 } else { if words { 2 } else { 4 } };
    let layout = match (plain, depthwise) {
        (true, _) => WeightLayout::Plain,
        (_, true) => WeightLayout::Depthwise,
        _ => WeightLayout::Panels { contiguous, depth },
    };
    // Rows long enough for whole tiles, layers small enough for the interpreter.
    let budget = (400_000 / (taps * i * o)).max(1);
    let w = 1 + rng.below(budget.min(40));
    let h = if dense { 1 } else { 1 + rng.below((budget / w).clamp(1, 9)) };
    let spread = |d: WindowDim, n: usize| ((n - 1) * d.stride + d.span()).saturating_sub(d.before + d.after).max(1);
    let (h, w) = (spread(window[0], h), spread(window[1], w));
    let n = if rng.below(6) == 0 { 2 } else { 1 };
    let bounds = rng.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 6.0)]);
    // Words are signed where it matters.
    let often = |rng: &mut Rng, n: usize| (rng.below(n) == 0) != words;
    let range = |signed: bool| Storage::new(if words { 16 } else { 8 }, signed).unwrap().range();
    let out_signed = often(rng, 4);
    let (lo, hi) = range(out_signed);
    let end = match rng.below(8) {
        0 if !depthwise || rng.below(4) == 0 => End::Float { lo: bounds.0, hi: bounds.1 },
        1 => End::Requantize { zero: rng.range(lo, hi), lo: lo + 3, hi: hi - 40, signed: out_signed },
        2 => End::Requantize { zero: lo, lo, hi: hi - 40, signed: out_signed },
        3 | 4 => End::Requantize { zero: rng.range(lo, hi), lo, hi, signed: out_signed },
        _ => End::Requantize { zero: 0, lo: lo.max(0), hi, signed: out_signed },
    };
    let signed = often(rng, 12);
    let zero = rng.range(range(signed).0, range(signed).1);
    let int = Kind::Int { words, signed, zero, residual_signed: often(rng, 2), end, extreme: rng.below(16) == 0 };
    let case = Case {
        n,
        h,
        w,
        i,
        o,
        groups,
        window,
        layout,
        residual: if depthwise { rng.below(12) == 0 } else { rng.below(3) == 0 },
        gap: if contiguous && kw > 1 && !depthwise { 0 } else { rng.pick(&[0, 0, 0, 0, 3, 16]) },
        kind: if float { Kind::Float { lo: bounds.0, hi: bounds.1 } } else { int },
    };
    let (mut program, mut inputs) = conv_program(&case, rng);
    let edge = !float && !words && !signed && rng.below(4) == 0;
    if edge {
        at_the_edge(&mut program, &mut inputs, rng);
    }
    Layer { kind, about: format!("{case:?}"), program, inputs, edge }
}

/// Weights of one sign, an operand of mostly 255, and biases that take each channel's sum to a bound at which kernels
/// change form or wrap: 2^23 where f32 stops holding halves, the pair of 16-bit sums, the ends of i32.
fn at_the_edge(program: &mut Program, inputs: &mut [Vec<u8>], rng: &mut Rng) {
    let index = program.steps.len() - 2;
    let step = program.steps[index].clone();
    let What::Conv { conv, .. } = &step.what else { return };
    let Base::Blob(weights) = step.reads[1].base else { return };
    let Base::Blob(bias) = step.reads[2].base else { return };
    let Base::Blob(scale) = step.reads[3].base else { return };
    let dims = conv.weight_dims();
    let sign = if rng.below(2) == 0 { 1 } else { -1 };
    let style = rng.below(4);
    let mut w = vec![0u8; program.blobs[weights].bytes.len()];
    let mut sums = vec![0i64; dims.o];
    for (o, sum) in sums.iter_mut().enumerate() {
        for (ky, kx, i) in (0..dims.kh).flat_map(|ky| (0..dims.kw).flat_map(move |kx| (0..dims.i).map(move |i| (ky, kx, i)))) {
            let at = conv.layout.index(dims, o, ky, kx, i);
            let magnitude = match style {
                // Pairs of 64 and 64 or 127 and 1 still fit 16 bits; 127 and 2 do not.
                0 => 64,
                1 => [127, 1][at % 2],
                2 => [127, rng.pick(&[1, 1, 1, 2])][at % 2],
                _ => rng.range(0, 127),
            };
            w[at] = (sign * magnitude) as i8 as u8;
            *sum += i64::from(sign * magnitude);
        }
    }
    let bound = rng.pick(&[1i64 << 23, 1 << 23, 1 << 23, 1 << 24, 1 << 22, (1 << 31) - 1]);
    let factor = match (conv.residual, step.reads.get(5)) {
        (Some(_), Some(slot)) => match slot.base {
            Base::Blob(f) => Some(program.blobs[f].bytes.clone()),
            _ => None,
        },
        _ => None,
    };
    let mut biases = program.blobs[bias].bytes.to_vec();
    for (o, sum) in sums.iter().enumerate() {
        let r = factor.as_ref().map_or(0, |f| i64::from(i16::from_le_bytes([f[2 * o], f[2 * o + 1]])) * 255);
        let target = i64::from(sign) * (bound + i64::from(rng.range(-2, 1)));
        let b = target - 255 * sum - if sign > 0 { r } else { 0 };
        let b = b.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        biases[4 * o..4 * o + 4].copy_from_slice(&b.to_le_bytes());
    }
    // Scaled, sums about the bound lie on both sides of a half, or at the end of what converts to i32.
    let half = rng.pick(&[-1.5, -0.5, 0.5, 1.5]);
    let to = rng.pick(&[100.5, 37.5, 2.5, 254.5, 2f64.powi(31), 2f64.powi(31) * 0.999_999_9]);
    let m = (to / (bound as f64 + half)) as f32;
    let scales = (0..program.blobs[scale].bytes.len() / 4).flat_map(|_| m.to_le_bytes()).collect::<Vec<u8>>();
    program.blobs[weights].bytes = Arc::from(w);
    program.blobs[bias].bytes = Arc::from(biases);
    program.blobs[scale].bytes = Arc::from(scales);
    for (i, input) in inputs.iter_mut().enumerate() {
        let most = if i == 0 { 0xff } else { *rng.pick(&[&0xff, &0x7f]) };
        let noisy = rng.below(2) == 0;
        input.iter_mut().for_each(|b| *b = if noisy && rng.below(64) == 0 { rng.bits() as u8 } else { most });
    }
}

fn pool(rng: &mut Rng) -> Layer {
    let window: [WindowDim; 2] = std::array::from_fn(|_| {
        let d = WindowDim { kernel: rng.pick(&[1, 2, 2, 3, 3, 7]), stride: rng.range(1, 3) as usize, dilation: 1, before: 0, after: 0 };
        let pad = |rng: &mut Rng| if rng.below(2) == 0 { rng.below(d.kernel) } else { 0 };
        WindowDim { before: pad(rng), after: pad(rng), ..d }
    });
    let c = extent(rng, 130);
    let [h, w] = window.map(|d| d.span().saturating_sub(d.before + d.after).max(1) + rng.below(9));
    let (oh, ow) = (outputs(window[0], h), outputs(window[1], w));
    let gap = rng.pick(&[0, 0, 1, 4]);
    let image = |h: usize, w: usize| {
        let row = w * (c + gap) + gap;
        Image { n: 1, h, w, c, start: gap, batch: h * row + gap, row, pixel: c + gap }
    };
    let (input, output) = (image(h, w), image(oh, ow));
    let kind = rng.pick(&[PoolKind::Max, PoolKind::Average { include_pad: false }, PoolKind::Average { include_pad: true }]);
    let quant = |rng: &mut Rng, signed: bool| {
        let (lo, hi) = if signed { (-128, 127) } else { (0, 255) };
        ByteQuant { signed, scale: rng.range(1, 1000) as f32 / 5000.0, zero: rng.range(lo, hi), lo, hi }
    };
    let signed = rng.below(2) == 0;
    let from = quant(rng, signed);
    let to = if kind == PoolKind::Max { from } else { quant(rng, signed) };
    let what = What::Pool { kind, input, output, window, from, to };
    let about = format!("{what:?}");
    let (program, inputs) = step_program(what, vec![Operand::Data(rng.bytes(input.extent()))], output.extent(), false, false);
    Layer { kind: "pool", about, program, inputs, edge: false }
}

/// A slot of its own: pages with nothing accessible before and behind.
struct Guarded {
    map: *mut u8,
    length: usize,
    /// Where the slot starts.
    slot: usize,
}

/// One mapping with a range of pages per slot. `slots`: bytes, and bytes behind them that may be read.
fn guard(slots: &[(usize, usize)], rng: &mut Rng) -> Vec<Guarded> {
    slots
        .iter()
        .map(|&(bytes, overread)| {
            let room = (bytes + overread).next_multiple_of(64);
            let pages = room.next_multiple_of(PAGE);
            let length = pages + 2 * PAGE;
            // SAFETY: fresh private memory (read and write, anonymous), whose first and last pages are made inaccessible.
            unsafe {
                let map = mmap(std::ptr::null_mut(), length, 3, 0x22, -1, 0).cast::<u8>();
                assert!(map as isize != -1);
                assert!(mprotect(map.cast(), PAGE, 0) == 0 && mprotect(map.add(PAGE + pages).cast(), PAGE, 0) == 0);
                // At the end of its pages, so that the first byte it must not read is not there; or at their start.
                let slot = if rng.below(4) > 0 { PAGE + pages - room } else { PAGE };
                map.add(PAGE).write_bytes(UNTOUCHED, pages);
                Guarded { map, length, slot }
            }
        })
        .collect()
}

impl Guarded {
    #[allow(clippy::mut_from_ref)]
    fn inside(&self) -> &mut [u8] {
        // SAFETY: the accessible pages of the mapping, which nothing else refers to while the slice is used.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(PAGE), self.length - 2 * PAGE) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `guard`, no longer used.
        unsafe { munmap(self.map.cast(), self.length) };
    }
}

/// Runs `f` with a rounding mode and flushing that arithmetic must not depend on.
fn strangely<T>(rng: &mut Rng, f: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        let strange: u32 = rng.pick(&[0x1f80, 0x3f80, 0x5f80, 0x7f80, 0xffc0]);
        let mut kept = 0u32;
        // SAFETY: changes and restores the control register of vector arithmetic; `f` computes nothing in floats but compiled code.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut kept);
            std::arch::asm!("ldmxcsr [{}]", in(reg) &strange);
        }
        let result = f();
        // SAFETY: as above.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &kept) };
        result
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = rng;
        f()
    }
}

fn compare(layer: &Layer, rng: &mut Rng, tally: &mut Tally) -> Result<(), String> {
    let bytes: Vec<&[u8]> = layer.inputs.iter().map(Vec::as_slice).collect();
    let expected = quernel_interp::run_program(&layer.program, &bytes).map_err(|e| e.to_string())?.swap_remove(0);
    // The step alone, its slots at distances that leave room for pages between them.
    let mut step = layer.program.steps[layer.program.steps.len() - 2].clone();
    let mut slots = Vec::new();
    for i in 0..step.reads.len() {
        if step.reads[i].base == Base::Arena {
            slots.push((step.reads[i].bytes, step.what.overread(i)));
        }
    }
    slots.push((step.writes[0].bytes, 0));
    let places = guard(&slots, rng);
    // The kernel adds offsets to one pointer: the lowest place is the arena.
    let address = |g: &Guarded| g.map as usize + g.slot;
    let arena = places.iter().map(address).min().unwrap_or(0) / 64 * 64;
    let mut next = places.iter();
    for slot in step.reads.iter_mut().chain(&mut step.writes).filter(|s| s.base == Base::Arena) {
        let place = next.next().ok_or("more slots than places")?;
        slot.offset = address(place) - arena;
    }
    // Addresses of different mappings may be too far apart for one displacement.
    let top = step.reads.iter().chain(&step.writes).filter(|s| s.base == Base::Arena).map(|s| s.offset + s.bytes).max().unwrap_or(0);
    if top >= 1 << 30 {
        return Err(format!("mappings lie {top} bytes apart"));
    }
    let float = matches!(
        step.what,
        What::ConvFloat { .. } | What::Conv { end: End::Float { .. }, .. } | What::ConvWords { end: End::Float { .. }, .. }
    );
    let program = Program {
        name: "layer".into(),
        blobs: layer.program.blobs.clone(),
        steps: vec![step],
        arena_bytes: (top + 64).next_multiple_of(64),
        ..Program::default()
    };
    let (result, reads) = places.split_last().ok_or("no slots")?;
    let mut machines = machines();
    // Of the levels without leaves one at random: they share their kernels' code.
    let portable = |m: &Machine| matches!(m.level, Level::Scalar | Level::V128 | Level::V128Dot);
    let kept = rng.below(machines.iter().filter(|m| portable(m)).count());
    let mut passed = 0;
    machines.retain(|m| {
        passed += usize::from(portable(m));
        !portable(m) || passed == kept + 1
    });
    for machine in machines {
        for (place, input) in reads.iter().zip(&layer.inputs) {
            place.inside()[place.slot - PAGE..][..input.len()].copy_from_slice(input);
        }
        result.inside().fill(UNTOUCHED);
        let jit = machine.compile(&program).map_err(|e| format!("{machine}: {e}"))?;
        if let Some(kernel) = jit.kernels().first().filter(|k| !k.is_empty()) {
            *tally.kernels.entry(kernel.clone()).or_default() += 1;
        }
        tally.runs += 1;
        // SAFETY: no ports; the arena exists where slots and their overreads are, which is what is promised.
        let code = strangely(rng, || unsafe { machine.run_in(&jit, arena as *mut u8) });
        if code != 0 {
            return Err(format!("{machine}: code {code}"));
        }
        let length = slots[slots.len() - 1].0;
        let (before, rest) = result.inside().split_at(result.slot - PAGE);
        let (got, behind) = rest.split_at(length);
        if before.iter().chain(behind).any(|b| *b != UNTOUCHED) {
            return Err(format!("{machine}: wrote outside the result"));
        }
        let nan = |b: &[u8], at: usize| f32::from_le_bytes(std::array::from_fn(|k| b[at / 4 * 4 + k])).is_nan();
        if let Some(i) = (0..length).find(|&i| got[i] != expected[i] && !(float && nan(got, i) && nan(&expected, i))) {
            return Err(format!("{machine}: byte {i} is {} instead of {}", got[i], expected[i]));
        }
        for (place, input) in reads.iter().zip(&layer.inputs) {
            if place.inside()[place.slot - PAGE..][..input.len()] != **input {
                return Err(format!("{machine}: an operand changed"));
            }
        }
    }
    Ok(())
}
