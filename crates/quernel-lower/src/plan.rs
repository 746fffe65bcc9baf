//! The arena plan: which buffers may lie over each other.
//!
//! A buffer lives from the first step that touches it to the last. Placement is greedy in some order, each buffer into
//! the tightest gap that no contemporary occupies; a bounded search improves the order. Reads beyond a slot's end may
//! reach into other slots: kernels discard what they find there.

use crate::build::{Buf, BufData, Draft};
use quernel_ir::{
    Arena, Id,
    program::{ALIGN, Strided, What},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Offsets of arena buffers (by buffer index; 0 for others) and the arena's size.
#[derive(Debug)]
pub(crate) struct Plan {
    pub offsets: Vec<usize>,
    pub bytes: usize,
    pub lower_bound: usize,
}

/// A buffer, or several that share one place.
#[derive(Clone, Copy, Debug)]
struct Life {
    buf: usize,
    size: usize,
    first: usize,
    last: usize,
}

/// Above this number of buffers only the order of birth is tried, whose cost grows linearly.
const MANY: usize = 4096;
/// Pairs of buffers the search for a better order may look at, and the most orders it tries.
const EFFORT: usize = 1 << 23;
const MOST_TRIES: usize = 3000;
/// Contemporaries among which a gap is sought in the order of birth.
const SEARCH: usize = 1024;

/// The life of every buffer that has a place of its own, and which buffer's place each has.
fn lives(bufs: &Arena<Buf, BufData>, drafts: &[Draft], in_place: bool) -> (Vec<Life>, Vec<usize>) {
    let mut lives: Vec<Option<Life>> = vec![None; bufs.len()];
    for (step, d) in drafts.iter().enumerate() {
        for s in d.reads.iter().chain(&d.writes) {
            let buf = s.buf.index();
            if bufs[s.buf].base.is_none() {
                let life = lives[buf].get_or_insert(Life { buf, size: bufs[s.buf].bytes.next_multiple_of(ALIGN), first: step, last: step });
                life.last = step;
            }
        }
    }
    let mut host: Vec<usize> = (0..bufs.len()).collect();
    if in_place {
        share(bufs, drafts, &mut lives, &mut host);
    }
    (lives.into_iter().flatten().collect(), host)
}

/// Bytes below which no plan for these steps can stay.
pub(crate) fn bound(bufs: &Arena<Buf, BufData>, drafts: &[Draft], in_place: bool) -> usize {
    lower_bound(&lives(bufs, drafts, in_place).0, drafts.len())
}

pub(crate) fn plan(bufs: &Arena<Buf, BufData>, drafts: &[Draft], in_place: bool) -> Plan {
    let (live, host) = lives(bufs, drafts, in_place);
    let lower_bound = lower_bound(&live, drafts.len());
    let mut best = place_by_birth(&live);
    if live.len() <= MANY {
        let mut by_size = live.clone();
        by_size.sort_by_key(|l| (Reverse(l.size), l.first, l.buf));
        let mut by_area = live.clone();
        by_area.sort_by_key(|l| (Reverse(l.size as u128 * (l.last - l.first + 1) as u128), l.first, l.buf));
        for order in [by_size, by_area] {
            let other = improve(order, lower_bound);
            if other.1 < best.1 {
                best = other;
            }
        }
    }
    let mut offsets = vec![0; bufs.len()];
    for (buf, offset) in best.0 {
        offsets[buf] = offset;
    }
    for buf in 0..bufs.len() {
        offsets[buf] = offsets[root(&host, buf)];
    }
    // Only the reads of the last buffers reach past all of them.
    let reads = drafts.iter().flat_map(|d| d.reads.iter().enumerate().map(|(i, s)| (s.buf, d.what.overread(i))));
    let read = |(b, over): (Buf, usize)| bufs[b].base.is_none().then(|| offsets[b.index()] + bufs[b].bytes + over);
    let end = reads.filter_map(read).fold(best.1, usize::max);
    Plan { offsets, bytes: end.next_multiple_of(ALIGN), lower_bound }
}

/// Lets the result of an element-wise step take the place of an operand that dies there.
fn share(bufs: &Arena<Buf, BufData>, drafts: &[Draft], lives: &mut [Option<Life>], host: &mut [usize]) {
    for (step, d) in drafts.iter().enumerate() {
        let candidates: &[usize] = match &d.what {
            What::Lookup { .. } | What::UnaryFloat { .. } | What::UnaryDouble { .. } => &[0],
            What::Cast { from, to, .. } if from.bytes() == to.bytes() => &[0],
            What::BinaryBytes { .. } | What::BinaryFloat { .. } | What::BinaryPlain { .. } => &[0, 1],
            What::Select { .. } => &[1, 2],
            _ => continue,
        };
        let w = d.writes[0];
        let Some(born) = lives[w.buf.index()].filter(|l| l.first == step) else { continue };
        let chosen = candidates.iter().copied().find(|&i| {
            let r = d.reads[i];
            let h = root(host, r.buf.index());
            let dies = lives[h].is_some_and(|l| l.last == step && l.size >= born.size && h != w.buf.index());
            // Every operand in that buffer must be read exactly where it is overwritten.
            let aligned = candidates.iter().all(|&j| d.reads[j].buf != r.buf || same_elements(d, j));
            dies && aligned && bufs[r.buf].base.is_none()
        });
        if let Some(i) = chosen {
            let h = root(host, d.reads[i].buf.index());
            // Buffers that already share the place must not be operands under another view of the same step.
            let other = candidates.iter().any(|&j| j != i && d.reads[j].buf != d.reads[i].buf && root(host, d.reads[j].buf.index()) == h);
            if other {
                continue;
            }
            host[w.buf.index()] = h;
            if let Some(l) = &mut lives[h] {
                l.last = l.last.max(born.last);
            }
            lives[w.buf.index()] = None;
        }
    }
}

fn root(host: &[usize], mut at: usize) -> usize {
    while host[at] != at {
        at = host[at];
    }
    at
}

/// Whether operand `i` and the result touch the same bytes in the same order.
fn same_elements(d: &Draft, i: usize) -> bool {
    let (r, w) = (d.reads[i], d.writes[0]);
    let strided = |over: &Strided| over.operands[i] == over.operands[over.operands.len() - 1] && r.offset == w.offset;
    match &d.what {
        What::BinaryBytes { over, .. } | What::BinaryFloat { over, .. } | What::BinaryPlain { over, .. } | What::Select { over, .. } => {
            strided(over)
        }
        _ => r.offset == w.offset && r.bytes == w.bytes,
    }
}

/// Places buffers in the given order, each into the tightest gap; returns offsets and the end.
fn place(order: &[Life]) -> (Vec<(usize, usize)>, usize) {
    let mut placed: Vec<(Life, usize)> = Vec::with_capacity(order.len());
    let mut end = 0;
    for l in order {
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(|(o, _)| o.first <= l.last && l.first <= o.last).map(|(o, at)| (*at, at + o.size)).collect();
        taken.sort_unstable();
        let at = tightest_gap(taken.into_iter(), l.size);
        end = end.max(at + l.size);
        placed.push((*l, at));
    }
    (placed.into_iter().map(|(l, at)| (l.buf, at)).collect(), end)
}

/// Looks for a better order: again and again a buffer that ends the arena, or any other, is placed earlier. The
/// search is deterministic, stops at the lower bound, and its effort is bounded whatever the number of buffers.
fn improve(mut order: Vec<Life>, lower_bound: usize) -> (Vec<(usize, usize)>, usize) {
    let mut best = place(&order);
    let tries = EFFORT / (order.len() * order.len()).max(1);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n.max(1) as u64) as usize
    };
    for i in 0..tries.min(MOST_TRIES) {
        if best.1 <= lower_bound {
            break;
        }
        let last: Vec<usize> = (0..order.len()).filter(|&i| best.0[i].1 + order[i].size == best.1).collect();
        let from = if i % 4 == 3 { draw(order.len()) } else { last[draw(last.len())] };
        let to = draw(from + 1);
        let mut other = order.clone();
        other[to..=from].rotate_right(1);
        let plan = place(&other);
        if plan.1 <= best.1 {
            (order, best) = (other, plan);
        }
    }
    best
}

/// Places buffers in order of birth, among those still alive; returns offsets and the end.
fn place_by_birth(live: &[Life]) -> (Vec<(usize, usize)>, usize) {
    let mut order: Vec<&Life> = live.iter().collect();
    order.sort_by_key(|l| (l.first, Reverse(l.size), l.buf));
    let mut alive: BTreeMap<usize, usize> = BTreeMap::new();
    let mut deaths = BinaryHeap::new();
    let mut offsets = Vec::with_capacity(order.len());
    let mut end = 0;
    for l in order {
        while let Some(&Reverse((last, at))) = deaths.peek()
            && last < l.first
        {
            deaths.pop();
            alive.remove(&at);
        }
        let at = if alive.len() > SEARCH { end } else { tightest_gap(alive.iter().map(|(from, to)| (*from, *to)), l.size) };
        end = end.max(at + l.size);
        alive.insert(at, at + l.size);
        deaths.push(Reverse((l.last, at)));
        offsets.push((l.buf, at));
    }
    (offsets, end)
}

/// Start of the tightest gap of at least `size` between taken ranges in order, or their end.
fn tightest_gap(taken: impl Iterator<Item = (usize, usize)>, size: usize) -> usize {
    let mut best: Option<(usize, usize)> = None;
    let mut free = 0;
    for (from, to) in taken {
        if from >= free + size && best.is_none_or(|(gap, _)| from - free < gap) {
            best = Some((from - free, free));
        }
        free = free.max(to);
    }
    best.map_or(free, |(_, at)| at)
}

/// The largest sum of sizes alive at one step.
fn lower_bound(live: &[Life], steps: usize) -> usize {
    let mut change = vec![(0usize, 0usize); steps + 1];
    for l in live {
        change[l.first].0 += l.size;
        change[l.last + 1].1 += l.size;
    }
    let (mut now, mut most) = (0, 0);
    for (born, died) in change {
        now = now - died + born;
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(buf: usize, size: usize, first: usize, last: usize) -> Life {
        Life { buf, size, first, last }
    }

    /// A chain of buffers where each lives into the next step, with one long-lived among them.
    fn chain(n: usize) -> Vec<Life> {
        let mut all: Vec<Life> = (0..n).map(|i| life(i, 64 * (1 + i * 7 % 5), i, i + 1)).collect();
        all.push(life(n, 128, 1, n));
        all
    }

    fn check(live: &[Life], (offsets, end): &(Vec<(usize, usize)>, usize)) {
        assert_eq!(offsets.len(), live.len());
        let at = |buf: usize| offsets.iter().find(|(b, _)| *b == buf).unwrap().1;
        for a in live {
            assert!(at(a.buf) + a.size <= *end);
            for b in live.iter().filter(|b| b.buf != a.buf && b.first <= a.last && a.first <= b.last) {
                assert!(at(a.buf) + a.size <= at(b.buf) || at(b.buf) + b.size <= at(a.buf), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn contemporaries_never_overlap() {
        let live = chain(200);
        for plan in [place(&live), place_by_birth(&live)] {
            check(&live, &plan);
            assert!(plan.1 < 20 * 64, "{}", plan.1);
        }
    }

    #[test]
    fn a_hundred_thousand_buffers_alive_at_once_take_no_time() {
        let live: Vec<Life> = (0..100_000).map(|i| life(i, 64, i, 100_000)).collect();
        assert_eq!(place_by_birth(&live).1, 6_400_000);
    }

    #[test]
    fn the_bound_is_the_fullest_moment() {
        assert_eq!(lower_bound(&[life(0, 64, 0, 1), life(1, 128, 1, 2), life(2, 256, 3, 3)], 4), 256);
        assert_eq!(lower_bound(&[life(0, 64, 0, 1), life(1, 256, 1, 2), life(2, 256, 3, 3)], 4), 320);
    }
}
