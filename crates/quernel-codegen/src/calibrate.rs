//! Fits the cost model of the AVX-512 layers to this machine: every tile of many layers is timed, and the parts that the
//! model says a layer's time consists of get the weights that explain the times best.

use crate::{
    leaf::{conv, cost},
    limit::clock,
    network::bug,
    target::{Level, Target},
};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use quernel_ir::{
    diag::{Code, Diagnostic},
    op::WindowDim,
    program::{Base, Conv, End, Image, Program, Slot, Step, WeightLayout, What},
};
use std::time::Instant;

/// A layer under one tile.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Extents, for people.
    pub layer: String,
    /// Kernel name.
    pub kernel: String,
    /// Fewest cycles of a call.
    pub measured: f64,
    /// What the fitted model says.
    pub fitted: f64,
    /// Whether the model in this build, and the fitted one, choose this tile among those of its layer.
    pub chosen: [bool; 2],
    parts: [f64; cost::PARTS],
}

/// A fitted model.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Every layer under every tile.
    pub samples: Vec<Sample>,
    /// What each part costs, in cycles, by its name.
    pub cycles: Vec<(&'static str, f64)>,
    /// The source text of the table.
    pub table: String,
}

/// Times layers for some seconds and fits the model; `cpu` names the machine in the table.
///
/// # Errors
/// `UnknownTarget` on a machine without AVX-512 VNNI; `Internal` when no executable memory can be had.
pub fn fit(cpu: &str) -> Result<Fit, Diagnostic> {
    if !Level::host().contains(&Level::V512Dot) || !cfg!(target_arch = "x86_64") {
        return Err(Diagnostic::new(Code::UnknownTarget, "the cost model is that of CPUs with AVX-512 VNNI, which this one lacks"));
    }
    let ghz = clock()?.unwrap_or(1.0);
    let mut samples: Vec<Sample> = Vec::new();
    // Side, channels in and out, kernel, residual.
    let (sides, pairs) =
        ([7, 14, 28, 56], [(8, 16), (16, 16), (16, 96), (24, 144), (32, 24), (32, 64), (64, 40), (64, 128), (96, 24), (144, 48)]);
    let pointwise = sides.into_iter().flat_map(|s| pairs.map(|(i, o)| (s, i, o, 1)));
    let others = [(30, 3, 16, 3), (58, 3, 32, 3), (34, 16, 16, 3), (18, 32, 32, 3), (10, 64, 64, 3), (30, 3, 8, 3), (16, 128, 64, 3)];
    for (side, i, o, kernel) in pointwise.chain(others) {
        for residual in [false, true] {
            for relu in [true, false] {
                let first = samples.len();
                for width in 1..=4usize.min(o / 16 + 1) {
                    if samples[first..].iter().any(|s| s.kernel.contains(&format!("x{}__", 16 * width.min(o.div_ceil(16))))) {
                        continue;
                    }
                    if let Some(sample) = sample(side, i, o, kernel, residual, relu, width, ghz)? {
                        samples.push(sample);
                    }
                }
                let best = |of: &[Sample], f: &dyn Fn(&Sample) -> f64| (0..of.len()).min_by(|a, b| f(&of[*a]).total_cmp(&f(&of[*b])));
                let model = |s: &Sample| s.fitted;
                if let Some(at) = best(&samples[first..], &model) {
                    samples[first + at].chosen[0] = true;
                }
            }
        }
    }
    let cycles = least_squares(&samples);
    for s in &mut samples {
        s.fitted = s.parts.iter().zip(&cycles).map(|(n, c)| n * c).sum();
    }
    let layers: Vec<String> = samples.iter().map(|s| s.layer.clone()).collect();
    for at in 0..samples.len() {
        let others = (0..samples.len()).filter(|i| layers[*i] == layers[at]);
        samples[at].chosen[1] = others.min_by(|a, b| samples[*a].fitted.total_cmp(&samples[*b].fitted)) == Some(at);
    }
    let numbers: Vec<String> = cycles.iter().map(|c| format!("{:?}", (c * 100.0).round() / 100.0)).collect();
    let table = format!(
        "//! Written by `cargo xtask costs`; do not edit.\n\nuse super::cost::PARTS;\n\n/// Cycles of each part of a layer's time, fitted to \
         measurements on a core of {cpu}.\npub const CYCLES: [f64; PARTS] = [{}];\n",
        numbers.join(", ")
    );
    Ok(Fit { samples, cycles: cost::PART_NAMES.into_iter().zip(cycles).collect(), table })
}

#[allow(clippy::too_many_arguments)]
fn sample(
    side: usize,
    i: usize,
    o: usize,
    kernel: usize,
    residual: bool,
    relu: bool,
    width: usize,
    ghz: f64,
) -> Result<Option<Sample>, Diagnostic> {
    let out = side - kernel + 1;
    let dim = WindowDim { kernel, stride: 1, dilation: 1, before: 0, after: 0 };
    let (input, output) = (Image::dense(1, side, side, i), Image::dense(1, out, out, o));
    let layout = WeightLayout::Panels { contiguous: true, depth: 4 };
    let conv = Conv { input, output, window: [dim; 2], groups: 1, layout, residual: residual.then_some(output) };
    let (lo, zero) = (0, if relu { 0 } else { 100 });
    let end = End::Requantize { zero, lo, hi: 255, signed: false };
    let mut program = Program::default();
    let weights: Vec<u8> = (0..layout.len(conv.weight_dims())).map(|n| (n * 37 % 127) as u8).collect();
    let channels = o.next_multiple_of(16);
    let arena = |bytes: usize| Slot { base: Base::Arena, offset: 0, bytes };
    let mut reads = vec![arena(input.extent()), program.blob("w", weights.clone()), program.blob("b", vec![0u8; 4 * channels])];
    let scales: Vec<u8> = (0..channels).flat_map(|_| 1.0e-5f32.to_le_bytes()).collect();
    reads.push(program.blob("s", scales.clone()));
    let factors: Vec<u8> = (0..channels).flat_map(|_| 300i16.to_le_bytes()).collect();
    if residual {
        reads.extend([arena(output.extent()), program.blob("f", factors.clone())]);
    }
    let what = What::Conv { conv, zero: 0, signed: false, residual_signed: false, end };
    let step = Step { what, how: String::new(), reads, writes: vec![arena(output.extent())], origin: Default::default() };
    let Some((leaf, shape, width)) = conv::with_width(&program, &step, Some(width)) else { return Ok(None) };

    let mut module = JITModule::new(JITBuilder::with_isa(Target::host()?.isa(true, false)?, default_libcall_names()));
    let signature = module.make_signature();
    let id = module.declare_function("layer", Linkage::Local, &signature).map_err(bug)?;
    module.define_function_bytes(id, 64, &leaf.code, &[]).map_err(bug)?;
    module.finalize_definitions().map_err(bug)?;
    type Layer = unsafe extern "sysv64" fn(*const u8, *const u8, *const u8, *const u8, *const u8, *const u8, *mut u8);
    type Plain = unsafe extern "sysv64" fn(*const u8, *const u8, *const u8, *const u8, *mut u8);
    let address = module.get_finalized_function(id);
    // SAFETY: a leaf takes the addresses of its step's slots: with a residual seven, otherwise five.
    let (layer, plain) = unsafe { (std::mem::transmute::<*const u8, Layer>(address), std::mem::transmute::<*const u8, Plain>(address)) };
    let (x, w, b, s) = (aligned(&vec![9; input.extent()]), aligned(&weights), aligned(&vec![0; 4 * channels]), aligned(&scales));
    let (r, f, mut y) = (aligned(&vec![7; output.extent()]), aligned(&factors), aligned(&vec![0; output.extent()]));
    let p = |v: &Vec<Line>| v.as_ptr().cast::<u8>();
    let to = y.as_mut_ptr().cast::<u8>();
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_millis() < 4 {
        let one = Instant::now();
        const CALLS: usize = 4;
        for _ in 0..CALLS {
            // SAFETY: slots of the lengths the step names, with room behind them.
            unsafe { if residual { layer(p(&x), p(&w), p(&b), p(&s), p(&r), p(&f), to) } else { plain(p(&x), p(&w), p(&b), p(&s), to) } }
        }
        best = best.min(one.elapsed().as_nanos() as f64 / CALLS as f64);
    }
    // SAFETY: the code is not called again.
    unsafe { module.free_memory() };
    let parts = cost::parts(shape, width);
    let layer = format!("{side}x{side} {i}>{o} {kernel}x{kernel}{}{}", if residual { " +r" } else { "" }, if relu { "" } else { " zero" });
    let fitted = cost::cycles(shape, width);
    Ok(Some(Sample { layer, kernel: leaf.kernel, measured: best * ghz, fitted, chosen: [false; 2], parts }))
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// Bytes and room behind them.
fn aligned(bytes: &[u8]) -> Vec<Line> {
    let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64) + 2];
    for (line, bytes) in lines.iter_mut().zip(bytes.chunks(64)) {
        line.0[..bytes.len()].copy_from_slice(bytes);
    }
    lines
}

/// Weights of the parts that minimize the relative error, none below zero: normal equations by elimination, parts that come
/// out negative left out.
fn least_squares(samples: &[Sample]) -> [f64; cost::PARTS] {
    let mut used = [true; cost::PARTS];
    loop {
        let mut rows = [[0.0f64; cost::PARTS + 1]; cost::PARTS];
        for s in samples {
            let mut row = [1.0; cost::PARTS + 1];
            for (r, part) in row.iter_mut().zip(s.parts) {
                *r = part / s.measured;
            }
            for i in 0..cost::PARTS {
                for j in 0..=cost::PARTS {
                    rows[i][j] += row[i] * row[j];
                }
            }
        }
        for i in (0..cost::PARTS).filter(|i| !used[*i]) {
            rows[i] = [0.0; cost::PARTS + 1];
            rows[i][i] = 1.0;
        }
        for i in 0..cost::PARTS {
            rows[i][i] += 1e-12;
            for k in 0..cost::PARTS {
                let factor = rows[k][i] / rows[i][i];
                if k != i {
                    let pivot = rows[i];
                    for (a, b) in rows[k].iter_mut().zip(pivot) {
                        *a -= factor * b;
                    }
                }
            }
        }
        let x: [f64; cost::PARTS] = std::array::from_fn(|i| rows[i][cost::PARTS] / rows[i][i]);
        match (0..cost::PARTS).filter(|i| used[*i]).min_by(|a, b| x[*a].total_cmp(&x[*b])) {
            Some(worst) if x[worst] < -1e-9 => used[worst] = false,
            _ => return x.map(|c| c.max(0.0)),
        }
    }
}
