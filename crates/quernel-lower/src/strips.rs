//! Chains of layers in strips of rows, so that large tensors between them never exist as a whole.
//!
//! A tensor that one layer writes, row by row, and one other reads needs no more memory at a time than the rows that the
//! reader's window covers. Where it is large, both layers are cut into steps of a few rows each, and the tensor becomes a
//! buffer of that many rows, used again and again: it stays in the cache, and the arena shrinks. Layers follow each other
//! in chains of any length. Every row is computed once, from the same operands as before.
//!
//! The result is an ordinary program with more steps. Steps of the same shape differ in the addresses of their slots only and
//! share their code.
//!
//! **What is absent:** batches, layers whose kernels check for edges, layers of several steps (weights as codes).

mod chains;
mod schedule;

use crate::{
    build::{Buf, Build, Draft, Span},
    plan,
};
use chains::{Link, rows_of, with_rows};
use quernel_ir::program::{ALIGN, Image, Strided, Strides, What};
use schedule::{Layer, Part, Schedule};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Which chains run in strips. The same for every target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strips {
    /// Bytes of a tensor between two layers from which on they run in strips.
    pub least: usize,
    /// Bytes that the buffers of a chain may take together. Chains that need more, as their rows are long, have the
    /// lowest strips.
    pub most: usize,
    /// Cut chains that save nothing as well; for tests.
    pub forced: bool,
}

impl Default for Strips {
    /// Tensors that crowd a second-level cache of 256 KiB, in strips that leave room in it.
    fn default() -> Self {
        Self { least: 3 << 16, most: 1 << 17, forced: false }
    }
}

impl Strips {
    /// Every chain that can be cut, however small, in as many strips as `most` bytes ask for; for tests.
    pub fn forced(most: usize) -> Self {
        Self { least: 0, most, forced: true }
    }
}

/// Multiply-accumulates for each byte of the tensors between layers above which the time of moving those bytes is lost in that
/// of the products: such chains are cut only where the arena shrinks.
const HEAVY: u64 = 128;

/// Most strips of a chain: each is a few calls in the object.
const MOST_STRIPS: usize = 32;
/// Most layers of a chain; longer ones are several.
const MOST_LAYERS: usize = 16;
/// Most chains of a program, those of the largest tensors: each is judged by the whole arena.
const MOST_CHAINS: usize = 64;

/// A chain and how it is run.
struct Chain {
    /// Its layers, as indices of drafts.
    drafts: Vec<usize>,
    schedule: Schedule,
    /// Whether moving the bytes between its layers takes a notable part of its time.
    light: bool,
}

/// What takes the place of a chain: steps where its last layer was.
struct Cut {
    gone: BTreeSet<usize>,
    at: usize,
    steps: Vec<Draft>,
}

impl Build<'_> {
    /// Replaces chains over large tensors by strips, where that saves time or memory and the arena does not grow.
    pub fn strips(&mut self, options: Strips, in_place: bool) {
        let links = chains::links(&self.bufs, &self.drafts, options.least);
        let follow = chains::follow(&links, MOST_LAYERS);
        let mut follow: Vec<(Reverse<usize>, Vec<usize>)> =
            follow.into_iter().map(|c| (Reverse(c.iter().filter_map(|d| Some(self.bufs[links.get(d)?.buf].bytes)).sum()), c)).collect();
        follow.sort();
        follow.truncate(MOST_CHAINS);
        let mut chains: Vec<Chain> = follow.into_iter().filter_map(|(_, c)| self.scheduled(c, &links, options)).collect();
        chains.sort_by_key(|c| c.drafts[0]);
        let mut drafts = std::mem::take(&mut self.drafts);
        let mut bound = plan::bound(&self.bufs, &drafts, in_place);
        let mut cuts = Vec::new();
        for chain in chains {
            cuts.push(self.cut(&chain, &links, &drafts));
            let other = replaced(&drafts, &cuts);
            let with = plan::bound(&self.bufs, &other, in_place);
            if options.forced || with < bound || (with == bound && chain.light) {
                bound = with;
            } else {
                cuts.pop();
            }
        }
        if !cuts.is_empty() {
            drafts = replaced(&drafts, &cuts);
        }
        self.drafts = drafts;
    }

    /// The strips of a chain; `None` where they would need more than half the memory of what they replace.
    fn scheduled(&self, drafts: Vec<usize>, links: &BTreeMap<usize, Link>, options: Strips) -> Option<Chain> {
        let (_, inner) = drafts.split_last()?;
        if !self.waits(&drafts) {
            return None;
        }
        let layers: Vec<Layer> = (drafts.iter().enumerate())
            .map(|(i, d)| {
                let rows = rows_of(&self.drafts[*d].what)?;
                let top = if i == 0 { 0 } else { links[&drafts[i - 1]].top };
                Some(Layer { rows: rows.output.h, span: rows.window.span(), stride: rows.window.stride, top })
            })
            .collect::<Option<_>>()?;
        let bytes = |s: &Schedule| s.heights.iter().zip(inner).map(|(h, d)| h * links[d].row * links[d].width).sum::<usize>();
        let replaces: usize = inner.iter().map(|d| self.bufs[links[d].buf].bytes).sum();
        let total = layers.last()?.rows;
        // Strips of equal heights, the highest first.
        let mut steps: Vec<usize> = (2..=MOST_STRIPS).map(|n| total.div_ceil(n)).collect();
        steps.dedup();
        let fits: Vec<(usize, Schedule)> = (steps.into_iter())
            .filter_map(|step| Some((step, schedule::schedule(&layers, step)?)))
            .filter(|(_, s)| options.forced || bytes(s) <= replaces / 2)
            .collect();
        let small: Vec<&(usize, Schedule)> = fits.iter().filter(|(_, s)| bytes(s) <= options.most).collect();
        let highest = small.first().map(|(step, _)| *step);
        // Among heights above half of the highest: the fewest different steps.
        let best = (small.into_iter())
            .filter(|(step, _)| highest.is_some_and(|h| 2 * step > h))
            .min_by_key(|(step, _)| self.variants(&drafts, &layers, *step));
        let schedule = best.or(fits.last())?.1.clone();
        let macs: u64 = drafts.iter().map(|d| self.drafts[*d].what.macs()).sum();
        Some(Chain { schedule, light: macs <= HEAVY * replaces as u64, drafts })
    }

    /// Whether the layers of a chain may wait until the last one's turn: nothing writes to what they read until then.
    fn waits(&self, drafts: &[usize]) -> bool {
        let (Some(first), Some(last)) = (drafts.first(), drafts.last()) else { return false };
        let mut written = BTreeSet::new();
        (*first..*last).rev().all(|i| {
            if drafts.binary_search(&i).is_ok() {
                return self.drafts[i].reads.iter().all(|r| !written.contains(&r.buf));
            }
            written.extend(self.drafts[i].writes.iter().map(|w| w.buf));
            true
        })
    }

    /// About how many functions strips of so many rows need: one more each for a last strip that is lower, and as many as
    /// there are places between two aligned addresses where operands and results outside the chain start.
    fn variants(&self, drafts: &[usize], layers: &[Layer], step: usize) -> usize {
        let last = layers.len() - 1;
        let mut count = if layers[last].rows.is_multiple_of(step) { 0 } else { layers.len() };
        // Distances between strips count modulo the alignment: their products know no bound.
        let places = |rows: usize, image: &Image, width: usize| ALIGN / gcd(ALIGN, rows * (image.row % ALIGN) * width);
        let mut advance = step % ALIGN;
        for k in (0..=last).rev() {
            let Some(rows) = rows_of(&self.drafts[drafts[k]].what) else { continue };
            let residual = rows.residual.map(|(i, width)| places(advance, &i, width));
            let result = (k == last).then(|| places(advance, &rows.output, rows.result));
            advance = advance * (layers[k].stride % ALIGN) % ALIGN;
            let operand = (k == 0).then(|| places(advance, &rows.input, rows.operand));
            count += [residual, result, operand].into_iter().flatten().max().unwrap_or(1);
        }
        count
    }

    /// The steps of a chain's strips. Its buffers come into being here.
    fn cut(&mut self, chain: &Chain, links: &BTreeMap<usize, Link>, old: &[Draft]) -> Cut {
        let Chain { drafts, schedule, .. } = chain;
        let at = drafts[drafts.len() - 1];
        let inner: Vec<&Link> = drafts[..drafts.len() - 1].iter().map(|d| &links[d]).collect();
        let rings: Vec<Ring> = (inner.iter().zip(&schedule.heights))
            .map(|(link, &height)| Ring { buf: self.buffer(height * link.row * link.width), height, link })
            .collect();
        for (ring, d) in rings.iter().zip(drafts) {
            self.as_part_of(&old[*d]);
            self.fill_columns(ring, rows_of(&old[*d].what).map_or(0, |r| r.output.w * r.output.c));
        }
        for part in &schedule.parts {
            let draft = &old[drafts[part.layer]];
            self.as_part_of(draft);
            if let Some(ring) = rings.get(part.layer) {
                self.prepare(ring, part);
            }
            let from = part.layer.checked_sub(1).map(|k| &rings[k]);
            self.strip(draft, part, from, rings.get(part.layer));
        }
        let gone = inner.iter().flat_map(|l| l.fills.iter().copied()).chain(drafts.iter().copied()).collect();
        Cut { gone, at, steps: std::mem::take(&mut self.drafts) }
    }

    /// What is emitted from here on belongs to the layer of a step.
    fn as_part_of(&mut self, draft: &Draft) {
        (self.origin, self.layer) = (draft.origin.clone(), draft.layer);
    }

    /// Fills the margins before and behind the `len` elements of all rows, once: layers write between them.
    fn fill_columns(&mut self, ring: &Ring<'_>, len: usize) {
        let (Some(bits), row) = (ring.link.bits, ring.link.row) else { return };
        let (to, left, behind) = ((ring.buf, ring.link.width, bits), ring.link.left, ring.link.left + len);
        self.fill_runs(to, &[], 0, left);
        if ring.height > 1 {
            self.fill_runs(to, &[(ring.height - 1, row)], behind, row - len);
        }
        self.fill_runs(to, &[], (ring.height - 1) * row + behind, row - behind);
    }

    /// Moves the rows that stay to the start of a buffer, and fills those outside the image.
    fn prepare(&mut self, ring: &Ring<'_>, part: &Part) {
        let Link { row, width, bits, .. } = *ring.link;
        if let Some((first, rows)) = part.keep {
            let dims = vec![rows * row];
            let (read, from) = span(ring.buf, 0, first * row, rows * row, width);
            let (write, to) = span(ring.buf, 0, 0, rows * row, width);
            let operands = [from, to].map(|start| Strides { start, steps: vec![1] }).to_vec();
            self.emit(What::Move { width, over: Strided { dims, operands } }, vec![read], vec![write]);
        }
        for Range { start, end } in part.outside.iter().cloned() {
            self.fill_runs((ring.buf, width, bits.unwrap_or(0)), &[], start * row, (end - start) * row);
        }
    }

    /// The rows of a layer in one strip, from a buffer of the chain or what was there, into one or what was there.
    fn strip(&mut self, draft: &Draft, part: &Part, from: Option<&Ring<'_>>, to: Option<&Ring<'_>>) {
        let Some(rows) = rows_of(&draft.what).filter(|_| !part.rows.is_empty()) else { return };
        let count = part.rows.len();
        let h = (count - 1) * rows.window.stride + rows.window.span();
        let operand = match from {
            Some(ring) => Image { h, start: ring.link.skipped, ..rows.input },
            None => Image { h, start: rows.input.start + part.rows.start * rows.window.stride * rows.input.row, ..rows.input },
        };
        let result = match to {
            Some(ring) => Image { h: count, start: part.at * ring.link.row + ring.link.left, ..rows.output },
            None => Image { h: count, start: rows.output.start + part.at * rows.output.row, ..rows.output },
        };
        let mut reads = draft.reads.clone();
        let place = |old: Span, ring: Option<&Ring<'_>>, image: &Image, width: usize| {
            let (buf, offset) = ring.map_or((old.buf, old.offset), |r| (r.buf, 0));
            let (span, start) = span(buf, offset, image.start, image.extent() - image.start, width);
            (span, Image { start, ..*image })
        };
        let (read, operand) = place(reads[0], from, &operand, rows.operand);
        let (write, result) = place(draft.writes[0], to, &result, rows.result);
        reads[0] = read;
        let residual = rows.residual.map(|(image, width)| {
            let slot = if matches!(draft.what, What::ConvFloat { .. }) { 3 } else { 4 };
            let part = Image { h: count, start: image.start + part.rows.start * image.row, ..image };
            let (read, image) = place(reads[slot], None, &part, width);
            reads[slot] = read;
            image
        });
        self.emit(with_rows(&draft.what, operand, result, residual), reads, vec![write]);
    }
}

/// A buffer for some rows of a tensor.
struct Ring<'l> {
    buf: Buf,
    height: usize,
    link: &'l Link,
}

/// Elements of a buffer from `first` on: as a span that starts at an aligned address, and the element it starts with there.
fn span(buf: Buf, offset: usize, first: usize, len: usize, width: usize) -> (Span, usize) {
    let start = offset + first * width;
    let aligned = start / ALIGN * ALIGN;
    (Span { buf, offset: aligned, bytes: start - aligned + len * width }, (start - aligned) / width)
}

/// Steps with those of cuts in the place of what they replace.
fn replaced(drafts: &[Draft], cuts: &[Cut]) -> Vec<Draft> {
    let gone: BTreeSet<usize> = cuts.iter().flat_map(|c| c.gone.iter().copied()).collect();
    let new: BTreeMap<usize, &Vec<Draft>> = cuts.iter().map(|c| (c.at, &c.steps)).collect();
    let one = |(i, draft): (usize, &Draft)| match new.get(&i) {
        Some(steps) => steps.to_vec(),
        None if gone.contains(&i) => vec![],
        None => vec![draft.clone()],
    };
    drafts.iter().enumerate().flat_map(one).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
