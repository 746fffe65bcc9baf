//! `choose-bits`: gives every layer its width, uniformly or from a file the user edits.
//!
//! * The first and the last layer with weights keep 8 bits where the others have fewer, unless the file names them: they
//!   are a small part of most networks, and the rest depends on what they lose.
//! * A layer whose values mostly drown in the noise that 8 bits add reads 16, unless the file names it. What spans many
//!   orders of magnitude, such as a spectrum, has a step for its loudest parts, and all else is rounded to nothing. The
//!   noise of rounded weights grows and shrinks with the values, so that it drowns none.

use crate::{Cx, Pass, rounded::rounded_tensor};
use quernel_ir::{Code, Diagnostic, Graph, Node, Storage, Value};
use quernel_quant::{Bits, Calibrator, Ranges, Width};
use std::{collections::BTreeSet, sync::Arc};

/// Bits of the operand of a layer whose values drown.
const DROWNED: u8 = 16;
/// They do when more than this share of those that are not zero ..
const MOST: f64 = 0.5;
/// .. are less than so many deviations of the noise: 6 dB.
const NEAR: f64 = 2.0;

pub struct ChooseBits {
    pub bits: Bits,
    pub ranges: Option<Arc<Ranges>>,
    pub calibrator: Calibrator,
}

impl ChooseBits {
    /// What drowns when the operands of a layer have 8 bits, and the share of its values below the noise. A step `s` adds
    /// errors of deviation `s / sqrt(12)`; they reach a result as the square root of the sum of its squared weights, here
    /// that of an average channel.
    fn drowns(&self, g: &Graph, n: Node) -> Option<(&'static str, f64)> {
        let (ranges, node) = (self.ranges.as_ref()?, &g.nodes[n]);
        if rounded_tensor(g, node.args[0]).is_some() {
            return None;
        }
        let power = |v: Value| -> Option<f64> {
            let (scale, _) = ranges.params(&g.values[v].name, Storage::U8, self.calibrator)?;
            Some(f64::from(scale).powi(2) / 12.0)
        };
        let below = |v: Value, power: f64| ranges.share_below(&g.values[v].name, NEAR * power.sqrt()).filter(|share| *share > MOST);
        let operand = power(node.args[0])?;
        if let Some(share) = below(node.args[0], operand) {
            return Some(("operand", share));
        }
        let weights = g.tensor(node.args[1])?;
        let squares: f64 = weights.to_f32()?.iter().map(|w| f64::from(*w).powi(2)).sum();
        let mut noise = operand * squares / weights.ty.dims.first().map_or(1.0, |channels| *channels as f64);
        if node.op.epilogue().is_some_and(|(_, residual)| residual) {
            noise += node.args.last().and_then(|r| power(*r)).unwrap_or(0.0);
        }
        below(node.result(), noise).map(|share| ("result", share))
    }
}

impl Pass for ChooseBits {
    fn name(&self) -> &'static str {
        "choose-bits"
    }
    fn run(&self, g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
        let mut unknown: BTreeSet<&str> = self.bits.layers.keys().map(String::as_str).collect();
        let mut known = Vec::new();
        let mut unlisted = Vec::new();
        for &n in &g.order {
            let node = &g.nodes[n];
            if node.op.epilogue().is_none() {
                continue;
            }
            let names = node.origin.names();
            let listed = names.iter().find(|name| self.bits.layers.contains_key(*name));
            for name in names {
                unknown.remove(name.as_str());
            }
            known.extend(names.first().cloned());
            let width = listed.map_or(self.bits.default, |name| self.bits.width(name));
            if listed.is_none()
                && width != Width::Float
                && let Some((what, share)) = self.drowns(g, n)
            {
                let over = names.first().map_or(String::new(), |name| format!("; `{name:?} = 8` in a bits.toml keeps 8"));
                let message = format!("reads {DROWNED} bits: {:.0} % of its {what} is less than twice the noise of 8{over}", share * 100.0);
                cx.remark("choose-bits", g, n, message);
                cx.activation_bits.insert(n, DROWNED);
            }
            cx.widths.insert(n, width);
            if let Some(bits) = listed.and_then(|name| self.bits.activations.get(name)) {
                cx.activation_bits.insert(n, *bits);
            }
            unlisted.push((n, listed.is_none() && width.bits().is_some_and(|bits| bits < 8)));
        }
        // A network of one or two layers would have no others.
        if unlisted.len() > 2 {
            for (n, narrow) in [unlisted[0], unlisted[unlisted.len() - 1]] {
                if narrow {
                    cx.widths.insert(n, Width::Int(8));
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = known.iter().take(20).map(|k| format!("{k:?}")).collect();
        let more = if known.len() > 20 { ", .." } else { "" };
        let listed: Vec<String> = unknown.iter().map(|u| format!("{u:?}")).collect();
        Err(Diagnostic::new(Code::BadBits, format!("no layer is called {}", listed.join(", ")))
            .help(format!("the layers are {}{more}", shown.join(", "))))
    }
}
