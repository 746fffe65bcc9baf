//! Graph to program.
//!
//! * Layout is lazy: every value has a `View`, so transposes, reshapes, slices and broadcasts cost nothing
//!   until a kernel needs its operand in another shape, and then cost one move.
//! * Convolutions and pools work channels-last. A value that a padded convolution reads is allocated with a margin
//!   holding its zero point, so that the convolution sees no edge.
//! * What a concatenation, a padding or a graph output will hold is written in place by its producer where possible.
//! * Zero points fold into biases; every 32-bit sum is proven to fit, per output channel, with the real weights.
//! * Layers that follow each other over large tensors run in strips of rows, so that those tensors never exist as a whole.
//! * The arena is planned from the lifetimes of buffers.
//!
//! Lowering is deterministic and makes no choice that depends on the target.
//!
//! **What is absent:** anything about instructions; three-dimensional windows; element-wise functions of 16-bit integers.

mod build;
mod codes;
mod constants;
mod convs;
mod elementwise;
mod indices;
mod margins;
mod matmul;
mod moves;
mod plan;
mod pools;
mod proof;
mod rows;
mod strips;
mod view;

use build::Build;
use quernel_ir::{Def, Diagnostic, Program, Verified, diag::Remark};
pub use strips::Strips;

/// Choices of lowering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Let element-wise steps overwrite an operand that dies there.
    pub in_place: bool,
    /// Let chains of layers over large tensors run in strips of rows.
    pub strips: Option<Strips>,
}

impl Default for Options {
    fn default() -> Self {
        Self { in_place: true, strips: Some(Strips::default()) }
    }
}

/// A program and what is worth knowing about it.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The program.
    pub program: Program,
    /// Facts that stopped nothing.
    pub remarks: Vec<Remark>,
    /// Graph nodes that became steps, in the order of the graph. Every step belongs to one of them.
    pub layers: Vec<Layer>,
}

/// A graph node and the steps it became.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The ONNX nodes it came from, or the operator and its position.
    pub name: String,
    /// The operator's mnemonic; `output` for the copies that fill the caller's outputs.
    pub kind: &'static str,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Bytes the weights need at their bit width, without padding or biases.
    pub weight_bytes: usize,
    /// Its steps, in order of execution. Layers in strips take turns.
    pub steps: Vec<usize>,
    /// Whether it reads quantized values.
    pub integer: bool,
    /// The largest magnitude its 32-bit sums can reach, from the proof that they fit; `None` where there is none.
    pub largest_sum: Option<i64>,
}

impl Layer {
    /// Unused bits above the largest possible sum in a signed 32-bit accumulator.
    pub fn headroom_bits(&self) -> Option<u32> {
        self.largest_sum.map(|s| 31u32.saturating_sub(64 - s.unsigned_abs().leading_zeros()))
    }
}

/// Lowers a verified graph. `Err` lists every node that cannot be lowered, with its place.
pub fn lower(g: &Verified<'_>, options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
    let mut build = Build::new(g);
    let needed = build.needed();
    let mut faults = build.check_sizes(&needed);
    if !faults.is_empty() {
        return Err(faults);
    }
    build.collect_margins(&needed);
    let mut layers = Vec::new();
    for &node in &needed {
        let first = build.begin(node);
        if let Err(fault) = build.node(node) {
            faults.push(fault);
            build.stand_in(node);
        }
        if build.drafts.len() > first {
            let data = &g.nodes[node];
            layers.push(Layer {
                name: g.describe(node),
                kind: data.op.mnemonic(),
                macs: 0,
                weight_bytes: build.weight_bytes,
                steps: vec![],
                integer: data.args.iter().any(|&a| g.ty(a).elem.quant().is_some()),
                largest_sum: build.largest_sum,
            });
            build.layer += 1;
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let first = build.drafts.len();
    build.outputs();
    if build.drafts.len() > first {
        layers.push(Layer {
            name: "outputs".into(),
            kind: "output",
            macs: 0,
            weight_bytes: 0,
            steps: vec![],
            integer: false,
            largest_sum: None,
        });
    }
    if let Some(strips) = options.strips {
        build.strips(strips, options.in_place);
    }
    for (i, draft) in build.drafts.iter().enumerate() {
        let layer = &mut layers[draft.layer];
        layer.steps.push(i);
        layer.macs += draft.what.macs();
    }
    let (program, remarks) = build.finish(options).map_err(|fault| vec![fault])?;
    Ok(Lowered { program, remarks, layers })
}

impl Build<'_> {
    /// Live nodes that an output needs, in order.
    fn needed(&self) -> Vec<quernel_ir::Node> {
        let mut wanted: std::collections::BTreeSet<_> = self.g.outputs.iter().map(|&(_, v)| v).collect();
        let mut nodes: Vec<_> = (self.g.order.iter().rev())
            .filter(|&&n| {
                let data = &self.g.nodes[n];
                let used = data.results.iter().any(|r| wanted.contains(r));
                if used {
                    wanted.extend(data.args.iter().copied());
                }
                used
            })
            .copied()
            .collect();
        nodes.reverse();
        nodes
    }

    /// Copies to outputs that their producers did not write directly.
    fn outputs(&mut self) {
        self.origin = Default::default();
        for (i, &(_, v)) in self.g.outputs.iter().enumerate() {
            if self.g.ty(v).dims.contains(&0) {
                continue;
            }
            let to = self.output_view(i);
            if self.places.get(&v).is_some_and(|p| p[0].buf == to.buf) {
                continue;
            }
            if let Def::Result { node, .. } = self.g.values[v].def {
                self.origin = self.g.nodes[node].origin.clone();
            }
            let from = self.place(v);
            self.copy(&from, &to, self.width(v));
        }
    }
}
