//! Which weights a layer asks for while it computes, so that later layers find them in the second-level cache.
//!
//! Weights of a network lie one behind the other in the order of its layers, and most networks have more of them than that
//! cache holds. A layer reads its weights once per run, often faster than memory delivers them. Each layer therefore asks
//! for bytes that lie [`LEAD`] ahead of its own; where layers come that need more bytes than memory delivers while they
//! compute (fully connected ones, mostly), those before them run further ahead.
//!
//! Distances are those of a constant section with all blobs; where a variant leaves one out they are off by its size, which costs
//! a little speed and nothing else. Layers that do not ask (depthwise ones, strips) count as bytes that take no time.

use quernel_ir::{
    arena::Id,
    program::{Base, Blob, Program, Slot, WeightLayout, What},
};
use std::collections::HashMap;

/// A run of bytes, in weights of this and later layers, that is brought closer while a layer is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    /// Bytes from the layer's own weights to the first.
    pub from: usize,
    /// How many.
    pub bytes: usize,
}

/// Bytes between the weights that are read and those that are asked for.
const LEAD: usize = 256 << 10;
/// The same at most: what a second-level cache of 1 MiB holds beside the tensors of a layer.
const MOST: usize = 768 << 10;
/// Multiply-accumulates in whose time one byte arrives.
const RATE: u64 = 16;

/// For every step what it asks for. Steps that share their weights (strips of a layer) ask for nothing: they have them.
pub fn plan(p: &Program) -> Vec<Option<Ahead>> {
    let (at, end) = p.blob_offsets(|_| true);
    let mut users: HashMap<Blob, usize> = HashMap::new();
    let weights = |s: &Slot| if let Base::Blob(b) = s.base { Some((b, at[b.index()] + s.offset)) } else { None };
    let mut layers = Vec::new();
    for (i, step) in p.steps.iter().enumerate() {
        let What::Conv { conv, .. } = &step.what else { continue };
        if let (WeightLayout::Panels { .. }, Some((blob, offset))) = (conv.layout, step.reads.get(1).and_then(weights)) {
            *users.entry(blob).or_default() += 1;
            layers.push((i, blob, offset, step.what.macs()));
        }
    }
    layers.retain(|l| users[&l.1] == 1);
    // Whatever lies between the weights of two layers counts as the first one's.
    let next = |n: usize| layers.get(n + 1).map_or(end, |l| l.2);
    let mut lead = vec![0; layers.len() + 1];
    for (n, &(_, _, offset, macs)) in layers.iter().enumerate().rev() {
        let bytes = next(n).saturating_sub(offset) as u64;
        lead[n] = (lead[n + 1] + bytes).saturating_sub(macs / RATE);
    }
    let mut plan = vec![None; p.steps.len()];
    let mut asked = 0;
    for (n, &(i, _, offset, macs)) in layers.iter().enumerate() {
        let (own, rate) = (next(n).saturating_sub(offset), (macs / RATE) as usize);
        // A layer asks for its own weights only where it stays in front of its own reading.
        let from = if asked > offset && rate >= own { asked } else { asked.max(next(n)).max(offset) };
        let wanted = (next(n) + (LEAD + lead[n + 1] as usize).min(MOST)).min(end);
        let bytes = wanted.saturating_sub(from).min(rate);
        asked = from + bytes;
        plan[i] = (bytes > 0).then_some(Ahead { from: from - offset, bytes });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::{
        op::WindowDim,
        program::{Conv, End, Image, Step},
    };

    /// 1x1 layers of so many channels over so many pixels.
    fn program(layers: &[(usize, usize)]) -> (Program, Vec<Slot>) {
        let mut program = Program::default();
        let mut all = Vec::new();
        for &(channels, pixels) in layers {
            let dim = WindowDim { kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };
            let image = Image::dense(1, 1, pixels, channels);
            let layout = WeightLayout::Panels { contiguous: true, depth: 4 };
            let conv = Conv { input: image, output: image, window: [dim; 2], groups: 1, layout, residual: None };
            let end = End::Requantize { zero: 0, lo: 0, hi: 255, signed: false };
            let arena = Slot { base: Base::Arena, offset: 0, bytes: image.extent() };
            let weights = program.blob("w", vec![0u8; channels * channels]);
            all.push(weights);
            let what = What::Conv { conv, zero: 0, signed: false, residual_signed: false, end };
            let step = Step { what, how: String::new(), reads: vec![arena, weights], writes: vec![arena], origin: Default::default() };
            program.steps.push(step);
        }
        (program, all)
    }

    #[test]
    fn every_byte_is_asked_for_once_and_in_time() {
        let (p, _) = program(&[(512, 400); 12]);
        let plan = plan(&p);
        let (at, end) = p.blob_offsets(|_| true);
        let mut asked = at[1];
        for (i, a) in plan.iter().enumerate() {
            let Some(a) = a else { continue };
            assert_eq!(at[i] + a.from, asked, "layer {i}");
            asked = at[i] + a.from + a.bytes;
            let next = at.get(i + 1).copied().unwrap_or(end);
            assert!(asked >= (next + LEAD).min(end) && asked <= end, "layer {i}: {asked} of {end}");
        }
        // Layers in the middle do the same: their code is shared.
        assert_eq!(plan[3], Some(Ahead { from: LEAD, bytes: 512 * 512 }));
        assert_eq!(plan[3], plan[4]);
    }

    #[test]
    fn layers_before_a_large_fully_connected_one_run_further_ahead() {
        let (p, _) = program(&[(512, 400), (512, 400), (512, 400), (512, 400), (1024, 1)]);
        let plan = plan(&p);
        let (at, _) = p.blob_offsets(|_| true);
        let last = plan[3].unwrap();
        assert_eq!(at[3] + last.from + last.bytes, at[4] + MOST);
        // It does not run after its own reading, and nothing comes behind it.
        assert_eq!(plan[4], None);
        let (p, _) = program(&[(1024, 1), (64, 1)]);
        assert_eq!(super::plan(&p)[0], Some(Ahead { from: 1024 * 1024, bytes: p.blob_offsets(|_| true).1 - 1024 * 1024 }));
    }

    #[test]
    fn strips_ask_for_nothing() {
        let (mut p, weights) = program(&[(512, 400); 4]);
        p.steps[1].reads[1] = weights[0];
        let plan = plan(&p);
        assert_eq!(plan[..2], [None, None]);
        assert!(plan[2].is_some());
    }
}
