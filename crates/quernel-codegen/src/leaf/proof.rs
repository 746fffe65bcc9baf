//! What is known of a layer's sums at compile time: exact bounds from the real weights.

use super::constant;
use quernel_ir::{
    Program, codes,
    program::{Conv, PANEL, Step, WeightLayout},
};

/// Bounds over all output channels of the sums of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// Smallest sum.
    pub lo: i64,
    /// Largest sum.
    pub hi: i64,
    /// Largest `max(|lo|, |hi|) * scale` of a channel.
    pub scaled: f64,
}

/// Bounds for operands anywhere in 0..=255, the residual included. `None` when a constant is missing.
pub fn bounds(program: &Program, step: &Step, conv: &Conv, residual_signed: bool) -> Option<Bounds> {
    let weights = codes::weights(program, step)?;
    let bias = words(constant(program, step.reads.get(2)?)?);
    let scale = constant(program, step.reads.get(3)?)?;
    let factors = if conv.residual.is_some() { Some(constant(program, step.reads.get(5)?)?) } else { None };
    let dims = conv.weight_dims();
    let (mut positive, mut negative) = (vec![0i64; dims.o], vec![0i64; dims.o]);
    match conv.layout {
        WeightLayout::Panels { contiguous, depth: 4 } => {
            let (len, count) = WeightLayout::segments(contiguous, dims);
            let panel_bytes = count * len.div_ceil(4) * PANEL * 4;
            let per_group = dims.o / dims.groups;
            let panels = WeightLayout::panels_per_group(dims);
            for o in 0..dims.o {
                let panel = o / per_group * panels + o % per_group / PANEL;
                let lane = o % per_group % PANEL;
                for block in weights.get(panel * panel_bytes..(panel + 1) * panel_bytes)?.chunks_exact(PANEL * 4) {
                    for &w in &block[lane * 4..lane * 4 + 4] {
                        let w = i64::from(w as i8);
                        positive[o] += w.max(0);
                        negative[o] += w.min(0);
                    }
                }
            }
        }
        layout => {
            for o in 0..dims.o {
                for ky in 0..dims.kh {
                    for kx in 0..dims.kw {
                        for i in 0..dims.i {
                            let w = i64::from(*weights.get(layout.index(dims, o, ky, kx, i))? as i8);
                            positive[o] += w.max(0);
                            negative[o] += w.min(0);
                        }
                    }
                }
            }
        }
    }
    let mut all = Bounds { lo: i64::MAX, hi: i64::MIN, scaled: 0.0 };
    for o in 0..dims.o {
        let b = i64::from(*bias.get(o)?);
        let s = f32::from_le_bytes(scale.get(o * 4..o * 4 + 4)?.try_into().ok()?);
        let r = match factors {
            Some(f) => i64::from(i16::from_le_bytes(f.get(o * 2..o * 2 + 2)?.try_into().ok()?)),
            None => 0,
        };
        let (r_lo, r_hi) = if residual_signed { (-128, 127) } else { (0, 255) };
        let lo = b + 255 * negative[o] + (r * r_lo).min(r * r_hi);
        let hi = b + 255 * positive[o] + (r * r_lo).max(r * r_hi);
        all.lo = all.lo.min(lo);
        all.hi = all.hi.max(hi);
        all.scaled = all.scaled.max(lo.unsigned_abs().max(hi.unsigned_abs()) as f64 * f64::from(s));
    }
    Some(all)
}

fn words(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
