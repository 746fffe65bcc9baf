//! Random inputs, and the ranges a graph shows on them.

use crate::TRIALS;
use quernel_interp::run_graph_with;
use quernel_ir::{Graph, Scalar, Tensor};
use quernel_quant::{Observed, Ranges};
use std::sync::Arc;

/// Pseudo-random inputs; the same seed gives the same. Floats lie in -2..2, integers in the range of their type, plain
/// integers in -9..=9.
pub fn inputs(g: &Graph, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    g.inputs
        .iter()
        .map(|&v| {
            let ty = g.ty(v).clone();
            if ty.elem.is_f32() {
                let data: Vec<f32> = (0..ty.count()).map(|_| 4.0 * uniform() - 2.0).collect();
                return Tensor::f32(ty.dims, &data);
            }
            let (lo, hi) = ty.elem.quant().map_or((-9, 9), |q| (q.min(), q.max()));
            let (lo, hi) = if ty.elem == Scalar::Bool.into() { (0, 1) } else { (lo, hi) };
            let count = ty.count();
            Tensor::from_ints(ty, (0..count).map(|_| i64::from(lo) + (uniform() * (hi - lo + 1) as f32) as i64).collect::<Vec<_>>())
        })
        .collect()
}

/// Ranges of every named value over the random inputs.
pub fn ranges(g: &Graph) -> Arc<Ranges> {
    let mut observed = Observed::default();
    for seed in 0..TRIALS {
        let mut record = |v, t: &Tensor| {
            let name: &str = &g.values[v].name;
            if let (false, Some(data)) = (name.is_empty(), t.to_f32()) {
                // What leaves f32 has no range, and stays float.
                let _ = observed.record(name, &t.ty.dims, &data);
            }
        };
        run_graph_with(g, &inputs(g, seed), &mut record).unwrap_or_else(|d| panic!("{d}"));
        observed.end_sample();
    }
    Arc::new(observed.finish())
}
