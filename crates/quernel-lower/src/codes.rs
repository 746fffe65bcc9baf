//! Weights as codes: a layer whose weights have few different values stores an index of 4, 2 or 1 bits for each.
//!
//! The values themselves decide, panel by panel, whatever scheme they came from: integers of four bits, a codebook, signs. So
//! one layer may have panels of several widths. A layer of few pixels expands codes as it multiplies, because there its time is
//! that of reading weights. Others have a run of panels expanded into scratch memory before each use, which costs little
//! beside their many products, and keep the kernels for bytes.

use crate::build::{Build, Span};
use quernel_ir::{
    codes::{self, TABLE},
    program::{Conv, End, Image, PANEL, What},
};
use std::{collections::BTreeSet, ops::Range};

/// Most pixels of a layer that expands its codes while it multiplies.
const FEW_PIXELS: usize = 4;
/// Bytes of scratch memory for expanded weights, where four panels fit in it.
const SCRATCH: usize = 1 << 17;
/// Panels that kernels like side by side.
const SIDE_BY_SIDE: usize = 4;
/// Codes that save fewer bytes than this stay bytes.
const LEAST_SAVING: usize = 1 << 10;
/// Fewest channels whose products are worth packing into bits.
const LEAST_BITS: usize = 16;

/// Neighbouring panels that are stored alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub panels: Range<usize>,
    /// The values behind codes, in order; `None` for bytes.
    pub values: Option<Vec<i8>>,
}

impl Run {
    fn bits(&self) -> Option<u8> {
        codes::bits_for(self.values.as_ref()?.len())
    }
    fn table(&self) -> Vec<u8> {
        let mut table: Vec<u8> = self.values.iter().flatten().map(|v| *v as u8).collect();
        table.resize(TABLE, 0);
        table
    }
    fn code(&self, value: u8) -> u8 {
        self.values.as_ref().and_then(|v| v.binary_search(&(value as i8)).ok()).unwrap_or(0) as u8
    }
}

/// The different weights of a panel of `depth` taps side by side. Lanes from `lanes` on are padding and may mean anything.
fn values(panel: &[u8], depth: usize, lanes: usize) -> BTreeSet<i8> {
    let seen = panel.iter().enumerate().fold([false; 256], |mut seen, (i, w)| {
        seen[usize::from(*w)] |= i / depth % PANEL < lanes;
        seen
    });
    (0..=255u8).filter(|w| seen[usize::from(*w)]).map(|w| w as i8).collect()
}

/// Splits the panels of packed weights of `channels` output channels into runs.
pub(crate) fn runs(packed: &[u8], depth: usize, channels: usize) -> Vec<Run> {
    let panels = channels.div_ceil(PANEL);
    let bytes = packed.len() / panels;
    let mut runs: Vec<Run> = Vec::new();
    let mut sets: Vec<BTreeSet<i8>> = Vec::new();
    for (p, panel) in packed.chunks(bytes).enumerate() {
        let own = values(panel, depth, (channels - p * PANEL).min(PANEL));
        let bits = codes::bits_for(own.len());
        if let (Some(run), Some(set)) = (runs.last_mut(), sets.last_mut()) {
            let both: BTreeSet<i8> = set.union(&own).copied().collect();
            if codes::bits_for(set.len()) == bits && codes::bits_for(both.len()) == bits {
                run.panels.end = p + 1;
                *set = both;
                continue;
            }
        }
        runs.push(Run { panels: p..p + 1, values: None });
        sets.push(own);
    }
    let mut merged: Vec<Run> = Vec::new();
    for (mut run, set) in runs.into_iter().zip(sets) {
        let saved = codes::bits_for(set.len()).map_or(0, |bits| run.panels.len() * bytes.saturating_sub(codes::packed_len(bytes, bits)));
        run.values = (saved >= LEAST_SAVING).then(|| entries(&set));
        match merged.last_mut() {
            Some(last) if last.values.is_none() && run.values.is_none() => last.panels.end = run.panels.end,
            _ => merged.push(run),
        }
    }
    merged
}

/// The entries of a table for a set of values: where 4 bits reach, all from the least to the largest, as kernels need not look up
/// a table that counts.
fn entries(set: &BTreeSet<i8>) -> Vec<i8> {
    match (set.first(), set.last()) {
        (Some(&first), Some(&last)) if codes::bits_for(set.len()) == Some(4) && (last as i32 - first as i32) < TABLE as i32 => {
            (first..=last).collect()
        }
        _ => set.iter().copied().collect(),
    }
}

/// What the steps of an integer layer share.
pub(crate) struct Layer<'l> {
    pub name: &'l str,
    pub conv: &'l Conv,
    pub packed: &'l [u8],
    /// Whether operands are words.
    pub words: bool,
    pub zero: i32,
    pub signed: bool,
    pub residual_signed: bool,
    pub end: End,
    pub x: Span,
    pub y: Span,
    pub bias: Span,
    /// The numbers behind `bias`.
    pub biases: &'l [i32],
    pub scale: Span,
    /// Operand and factors.
    pub residual: Option<(Span, Span)>,
    /// Whether operands are 0 and 1 only.
    pub binary: bool,
}

/// What the steps of a float layer over codes share.
pub(crate) struct FloatLayer<'l> {
    pub name: &'l str,
    pub conv: &'l Conv,
    /// Signed bytes `[panels][taps][16]`.
    pub packed: &'l [u8],
    /// `[panels][taps / group][16]`.
    pub scales: &'l [f32],
    pub group: usize,
    pub bounds: (f32, f32),
    pub x: Span,
    pub y: Span,
    pub bias: Span,
    pub residual: Option<Span>,
}

impl Build<'_> {
    /// Emits the steps of an integer layer: one over bytes, or several over runs of output channels.
    pub fn integer_layer(&mut self, l: &Layer<'_>) {
        let dims = l.conv.weight_dims();
        let by_panel = matches!(l.conv.layout, quernel_ir::program::WeightLayout::Panels { depth: 4, .. }) && dims.groups == 1;
        let runs = if by_panel { runs(l.packed, 4, dims.o) } else { vec![] };
        if runs.iter().all(|r| r.values.is_none()) {
            let weights = self.blob(&format!("{}.packed", l.name), l.packed);
            return self.over_bytes(l, weights, 0..dims.o);
        }
        let panel = l.packed.len() / dims.o.div_ceil(PANEL);
        let few = l.conv.output.n * l.conv.output.h * l.conv.output.w <= FEW_PIXELS;
        let mut bits = if l.binary { self.bits_of(l) } else { None };
        let direct = few && codes::one_run(l.conv.layout, dims) && !l.conv.padded() && l.residual.is_none();
        for run in runs {
            let channels = |panels: &Range<usize>| panels.start * PANEL..(panels.end * PANEL).min(dims.o);
            if let (Some(bits), Some([-1, 1])) = (&mut bits, run.values.as_deref()) {
                self.over_bits(l, bits, &run.panels, channels(&run.panels));
                continue;
            }
            let bytes = |panels: &Range<usize>| &l.packed[panels.start * panel..panels.end * panel];
            let Some(bits) = run.bits() else {
                let weights = self.blob(&format!("{}.packed", l.name), bytes(&run.panels));
                self.over_bytes(l, weights, channels(&run.panels));
                continue;
            };
            let table = self.blob(&format!("{}.table", l.name), run.table());
            let pack = |w: &[u8]| codes::pack(&w.iter().map(|w| run.code(*w)).collect::<Vec<u8>>(), bits);
            if direct {
                let packed: Vec<u8> = bytes(&run.panels).chunks(panel).flat_map(pack).collect();
                let packed = self.blob(&format!("{}.codes", l.name), packed);
                let part = self.channels_of(l, channels(&run.panels));
                let reads = vec![l.x, packed, part.bias, part.scale, table];
                self.emit(What::ConvCodes { conv: part.conv, bits, signed: l.signed, end: l.end }, reads, vec![l.y]);
                continue;
            }
            let most = (SCRATCH / panel / SIDE_BY_SIDE * SIDE_BY_SIDE).max(SIDE_BY_SIDE);
            for start in run.panels.clone().step_by(most) {
                let panels = start..(start + most).min(run.panels.end);
                let packed = self.blob(&format!("{}.codes", l.name), pack(bytes(&panels)));
                let count = bytes(&panels).len();
                let scratch = self.buffer(count);
                let weights = self.whole(scratch);
                self.emit(What::Expand { count, bits }, vec![packed, table], vec![weights]);
                self.over_bytes(l, weights, channels(&panels));
            }
        }
    }

    /// Emits the steps of a float layer whose weights are codes: runs of panels are expanded into scratch memory before use.
    pub fn float_layer(&mut self, l: &FloatLayer<'_>) {
        let o = l.conv.output.c;
        let panel = l.packed.len() / o.div_ceil(PANEL);
        let taps = panel / PANEL;
        let groups = taps / l.group;
        for run in runs(l.packed, 1, o) {
            // Signs and the like may have groups that are no whole units of codes.
            let whole = |bits: u8| l.group == taps || (l.group * PANEL).is_multiple_of(codes::per_unit(bits));
            let bits = run.bits().filter(|bits| whole(*bits));
            let table = bits.map(|_| self.blob(&format!("{}.table", l.name), run.table()));
            let most = (SCRATCH / (4 * panel) / SIDE_BY_SIDE * SIDE_BY_SIDE).max(SIDE_BY_SIDE);
            for start in run.panels.clone().step_by(most) {
                let panels = start..(start + most).min(run.panels.end);
                let code = |w: &u8| if bits.is_some() { run.code(*w) } else { *w };
                let pack = |w: &[u8]| codes::pack(&w.iter().map(code).collect::<Vec<u8>>(), bits.unwrap_or(8));
                let packed: Vec<u8> = l.packed[panels.start * panel..panels.end * panel].chunks(panel).flat_map(pack).collect();
                let scales = &l.scales[panels.start * groups * PANEL..panels.end * groups * PANEL];
                let mut reads = vec![self.blob(&format!("{}.codes", l.name), packed)];
                reads.push(self.blob(&format!("{}.scales", l.name), scales.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>()));
                reads.extend(table);
                let scratch = self.buffer(panels.len() * panel * 4);
                let weights = self.whole(scratch);
                let what = What::ExpandFloat { panels: panels.len(), taps, group: l.group, bits: bits.unwrap_or(8) };
                self.emit(what, reads, vec![weights]);
                let channels = panels.start * PANEL..(panels.end * PANEL).min(o);
                let image = |i: Image| Image { c: channels.len(), start: i.start + channels.start, ..i };
                let conv = Conv { output: image(l.conv.output), residual: l.conv.residual.map(image), ..l.conv.clone() };
                let bias = Span { offset: l.bias.offset + 64 * panels.start, bytes: 64 * panels.len(), ..l.bias };
                let mut reads = vec![l.x, weights, bias];
                reads.extend(l.residual);
                self.emit(What::ConvFloat { conv, lo: l.bounds.0, hi: l.bounds.1 }, reads, vec![l.y]);
            }
        }
    }

    /// The step of some output channels over weights in bytes.
    fn over_bytes(&mut self, l: &Layer<'_>, weights: Span, channels: Range<usize>) {
        let part = self.channels_of(l, channels);
        let mut reads = vec![l.x, weights, part.bias, part.scale];
        reads.extend(part.residual.into_iter().flat_map(|(r, f)| [r, f]));
        let (conv, zero, signed, residual_signed, end) = (part.conv, l.zero, l.signed, l.residual_signed, l.end);
        let what = match l.words {
            true => What::ConvWords { conv, zero, signed, residual_signed, end },
            false => What::Conv { conv, zero, signed, residual_signed, end },
        };
        self.emit(what, reads, vec![l.y]);
    }

    /// A layer of operands 0 and 1 as a layer of bits; `None` where its pixels are no runs of whole channels.
    fn bits_of(&self, l: &Layer<'_>) -> Option<Bits> {
        let (x, c) = (l.conv.input, l.conv.input.c);
        let whole = [x.start, x.row, x.batch, l.x.bytes].iter().all(|n| n.is_multiple_of(c));
        if c < LEAST_BITS || x.pixel != c || !whole || l.x.offset != 0 || l.conv.padded() || l.residual.is_some() {
            return None;
        }
        let bytes = 4 * c.div_ceil(32);
        let words = |n: usize| n / c * bytes;
        let input = Image { c: bytes, start: words(x.start), batch: words(x.batch), row: words(x.row), pixel: bytes, ..x };
        let conv = Conv { input, ..l.conv.clone() };
        let (from, to) = (l.conv.weight_dims(), conv.weight_dims());
        let mut weights = vec![0; conv.layout.len(to)];
        let mut ones = vec![0; from.o];
        for (o, ones) in ones.iter_mut().enumerate() {
            for (ky, kx, i) in (0..from.kh).flat_map(|ky| (0..from.kw).flat_map(move |kx| (0..c).map(move |i| (ky, kx, i)))) {
                if l.packed[l.conv.layout.index(from, o, ky, kx, i)] as i8 > 0 {
                    weights[conv.layout.index(to, o, ky, kx, i / 8)] |= 1 << (i % 8);
                    *ones += 1;
                }
            }
        }
        Some(Bits { conv, weights, ones, x: None })
    }

    /// The step of some output channels over bits; the first one of a layer packs its operand.
    fn over_bits(&mut self, l: &Layer<'_>, bits: &mut Bits, panels: &Range<usize>, channels: Range<usize>) {
        let x = match bits.x {
            Some(x) => x,
            None => {
                let k = l.conv.input.c;
                let (rows, run) = (l.x.bytes / k, 4 * k.div_ceil(32));
                let buf = self.buffer(rows * run);
                let x = self.whole(buf);
                self.emit(What::PackBits { rows, k }, vec![l.x], vec![x]);
                *bits.x.insert(x)
            }
        };
        let part = self.channels_of(l, channels.clone());
        let panel = bits.weights.len() / l.conv.output.c.div_ceil(PANEL);
        let weights = self.blob(&format!("{}.bits", l.name), &bits.weights[panels.start * panel..panels.end * panel]);
        let bias: Vec<u8> = (0..part.bias.bytes / 4)
            .flat_map(|i| {
                let o = channels.start + i;
                // Final sums are proven to fit, so the halves may wrap.
                let (b, ones) = (l.biases.get(o).copied().unwrap_or(0), bits.ones.get(o).copied().unwrap_or(0));
                b.wrapping_add(ones).to_le_bytes()
            })
            .collect();
        let bias = self.blob(&format!("{}.bias", l.name), bias);
        let conv = Conv { output: part.conv.output, ..bits.conv.clone() };
        self.emit(What::ConvBits { conv, end: l.end }, vec![x, weights, bias, part.scale], vec![l.y]);
    }

    /// Geometry and constants of some output channels, which start a panel.
    fn channels_of(&self, l: &Layer<'_>, channels: Range<usize>) -> Part {
        let image = |i: Image| Image { c: channels.len(), start: i.start + channels.start, ..i };
        let slice = |s: Span, width: usize| Span {
            offset: s.offset + channels.start * width,
            bytes: channels.len().next_multiple_of(PANEL) * width,
            ..s
        };
        Part {
            conv: Conv { output: image(l.conv.output), residual: l.conv.residual.map(image), ..l.conv.clone() },
            bias: slice(l.bias, 4),
            scale: slice(l.scale, 4),
            residual: l.residual.map(|(r, factors)| (r, slice(factors, 2))),
        }
    }
}

/// A layer of bits.
struct Bits {
    /// Geometry in bytes of eight bits.
    conv: Conv,
    weights: Vec<u8>,
    /// Ones among the weights of each output channel.
    ones: Vec<i32>,
    /// The packed operand, once there is one.
    x: Option<Span>,
}

struct Part {
    conv: Conv,
    bias: Span,
    scale: Span,
    residual: Option<(Span, Span)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::codes::UNIT;

    /// Two panels per entry of `levels`, each with that many different weights.
    fn packed(levels: &[usize]) -> Vec<u8> {
        let panel = |n: usize| (0..4096).map(move |i| (i % n) as u8);
        levels.iter().flat_map(|&n| panel(n).chain(panel(n))).collect()
    }

    #[test]
    fn values_decide_panel_by_panel() {
        let found: Vec<(Range<usize>, Option<u8>)> =
            runs(&packed(&[16, 11, 2, 200, 100, 4]), 4, 12 * PANEL).iter().map(|r| (r.panels.clone(), r.bits())).collect();
        assert_eq!(found, [(0..4, Some(4)), (4..6, Some(1)), (6..10, None), (10..12, Some(2))]);
    }

    #[test]
    fn padding_lanes_do_not_count() {
        // Signs in the first nine lanes, zeros in the others.
        let w: Vec<u8> = (0..4096).map(|i| if i % UNIT / 4 < 9 { [1, 0xff][i / 7 % 2] } else { 0 }).collect();
        assert_eq!(runs(&w, 4, 9), [Run { panels: 0..1, values: Some(vec![-1, 1]) }]);
        assert_eq!(runs(&w, 4, 10)[0].bits(), Some(2));
    }

    #[test]
    fn what_saves_little_stays_bytes() {
        assert_eq!(runs(&[1; 1024], 4, 16), [Run { panels: 0..1, values: None }]);
    }
}
