//! The arena plan: which buffers may lie over each other.
//!
//! A buffer lives from the first step that touches it to the last. Placement is greedy, largest first and in order
//! of birth, each into the tightest gap that no contemporary occupies; the smaller arena wins. Reads beyond a slot's
//! end may reach into other slots: kernels discard what they find there.

use crate::build::{Buf, BufData, Draft};
use quernel_ir::{
    Arena, Id,
    program::{ALIGN, READ_SLACK, Strided, What},
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

/// Above this number of buffers only the fast order is tried.
const MANY: usize = 4096;

pub(crate) fn plan(bufs: &Arena<Buf, BufData>, drafts: &[Draft], in_place: bool) -> Plan {
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
    let live: Vec<Life> = lives.iter().flatten().copied().collect();
    let lower_bound = lower_bound(&live, drafts.len());
    let by_birth = place(&live);
    let mut best = by_birth;
    if live.len() <= MANY {
        let mut by_size = live.clone();
        by_size.sort_by_key(|l| (std::cmp::Reverse(l.size), l.first, l.buf));
        let mut by_area = live.clone();
        by_area.sort_by_key(|l| (std::cmp::Reverse(l.size as u128 * (l.last - l.first + 1) as u128), l.first, l.buf));
        for order in [by_size, by_area] {
            let other = place(&order);
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
    Plan { offsets, bytes: (best.1 + READ_SLACK).next_multiple_of(ALIGN), lower_bound }
}

/// Lets the result of an element-wise step take the place of an operand that dies there.
fn share(bufs: &Arena<Buf, BufData>, drafts: &[Draft], lives: &mut [Option<Life>], host: &mut [usize]) {
    for (step, d) in drafts.iter().enumerate() {
        let candidates: &[usize] = match &d.what {
            What::Lookup { .. } | What::UnaryFloat { .. } => &[0],
            What::BinaryBytes { .. } | What::BinaryFloat { .. } => &[0, 1],
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
        What::BinaryBytes { over, .. } | What::BinaryFloat { over, .. } => strided(over),
        _ => r.offset == w.offset && r.bytes == w.bytes,
    }
}

/// Places buffers one after another; returns offsets and the end.
fn place(order: &[Life]) -> (Vec<(usize, usize)>, usize) {
    let mut placed: Vec<(Life, usize)> = Vec::with_capacity(order.len());
    let mut offsets = Vec::with_capacity(order.len());
    let mut end = 0;
    let in_order_of_birth = order.windows(2).all(|p| p[0].first <= p[1].first);
    for l in order {
        if in_order_of_birth {
            // The dead never meet anyone again.
            placed.retain(|(o, _)| o.last >= l.first);
        }
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(|(o, _)| o.first <= l.last && l.first <= o.last).map(|(o, at)| (*at, at + o.size)).collect();
        taken.sort_unstable();
        let mut best: Option<(usize, usize)> = None;
        let mut free = 0;
        for (from, to) in taken {
            if from >= free + l.size && best.is_none_or(|(gap, _)| from - free < gap) {
                best = Some((from - free, free));
            }
            free = free.max(to);
        }
        let at = best.map_or(free, |(_, at)| at);
        end = end.max(at + l.size);
        placed.push((*l, at));
        offsets.push((l.buf, at));
    }
    (offsets, end)
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
