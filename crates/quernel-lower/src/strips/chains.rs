//! Which layers follow each other over a tensor that nothing else touches.

use crate::build::{Buf, BufData, Draft};
use quernel_ir::{
    Arena, Id, PoolKind, WindowDim,
    program::{End, Image, What},
};
use std::collections::{BTreeMap, BTreeSet};

/// A step that computes rows of an image from rows of another, its window inside the operand everywhere.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Rows {
    pub input: Image,
    pub output: Image,
    pub window: WindowDim,
    /// An operand with the extents of the result, and the bytes of its elements.
    pub residual: Option<(Image, usize)>,
    /// Bytes of an element of the operand.
    pub operand: usize,
    /// Bytes of an element of the result.
    pub result: usize,
}

/// A step as work on rows; `None` where it is something else.
pub(crate) fn rows_of(what: &What) -> Option<Rows> {
    let width = |end: &End, own: usize| if matches!(end, End::Float { .. }) { 4 } else { own };
    let (conv, operand, result) = match what {
        What::Conv { conv, end, .. } => (conv, 1, width(end, 1)),
        What::ConvWords { conv, end, .. } => (conv, 2, width(end, 2)),
        What::ConvFloat { conv, .. } => (conv, 4, 4),
        // Averages may count what lies outside of the operand.
        What::Pool { kind: PoolKind::Max, input, output, window, .. } => return pool(input, output, window, 1),
        What::PoolFloat { kind: PoolKind::Max, input, output, window } => return pool(input, output, window, 4),
        _ => return None,
    };
    let residual = conv.residual.map(|image| (image, operand));
    let rows = Rows { input: conv.input, output: conv.output, window: conv.window[0], residual, operand, result };
    (!conv.padded() && rows.simple()).then_some(rows)
}

fn pool(input: &Image, output: &Image, window: &[WindowDim; 2], width: usize) -> Option<Rows> {
    let inside = |d: &WindowDim, extent: usize, outputs: usize| d.before == 0 && (outputs - 1) * d.stride + d.span() <= extent;
    let rows = Rows { input: *input, output: *output, window: window[0], residual: None, operand: width, result: width };
    (inside(&window[0], input.h, output.h) && inside(&window[1], input.w, output.w) && rows.simple()).then_some(rows)
}

impl Rows {
    /// One image, whose rows are read without gaps between windows.
    fn simple(&self) -> bool {
        self.output.n == 1 && self.output.h > 1 && self.window.stride <= self.window.span()
    }
}

/// The same computation on other images.
pub(crate) fn with_rows(what: &What, from: Image, to: Image, other: Option<Image>) -> What {
    let mut what = what.clone();
    match &mut what {
        What::Conv { conv, .. } | What::ConvWords { conv, .. } | What::ConvFloat { conv, .. } => {
            (conv.input, conv.output, conv.residual) = (from, to, other);
        }
        What::Pool { input, output, .. } | What::PoolFloat { input, output, .. } => (*input, *output) = (from, to),
        _ => {}
    }
    what
}

/// A tensor between two layers that nothing else touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Where it lies.
    pub buf: Buf,
    /// The step that reads it.
    pub reader: usize,
    /// Steps that fill its margin.
    pub fills: Vec<usize>,
    /// With what.
    pub bits: Option<u64>,
    /// Bytes of an element.
    pub width: usize,
    /// Elements of a row, margin included.
    pub row: usize,
    /// Rows of margin above the image that the reader reads.
    pub top: usize,
    /// Elements of margin before the image in each row.
    pub left: usize,
    /// Elements of a row before the first that the reader reads.
    pub skipped: usize,
}

/// A margin takes a few steps to fill; more who write are no margin.
const MOST_WRITERS: usize = 16;

/// The tensors of at least so many bytes between two layers, by the step that writes them.
pub(crate) fn links(bufs: &Arena<Buf, BufData>, drafts: &[Draft], least: usize) -> BTreeMap<usize, Link> {
    // Steps that read and that write each buffer, with the number of the slot.
    let mut readers: Vec<Vec<(usize, usize)>> = vec![Vec::new(); bufs.len()];
    let mut writers: Vec<Vec<usize>> = vec![Vec::new(); bufs.len()];
    for (i, d) in drafts.iter().enumerate() {
        d.reads.iter().enumerate().for_each(|(slot, s)| readers[s.buf.index()].push((i, slot)));
        d.writes.iter().for_each(|s| writers[s.buf.index()].push(i));
    }
    let link = |(i, d): (usize, &Draft)| {
        let writer = rows_of(&d.what)?;
        let &[w] = &d.writes[..] else { return None };
        let buf = &bufs[w.buf];
        let &[(reader, 0)] = &readers[w.buf.index()][..] else { return None };
        if buf.base.is_some() || buf.bytes < least || reader < i || w.offset != 0 || drafts[reader].reads[0].offset != 0 {
            return None;
        }
        if writers[w.buf.index()].len() > MOST_WRITERS {
            return None;
        }
        let fills: Vec<usize> = writers[w.buf.index()].iter().copied().filter(|f| *f != i).collect();
        let bits = |f: &usize| if let What::Fill { bits, .. } = drafts[*f].what { Some(bits) } else { None };
        let bits: Vec<u64> = fills.iter().map(bits).collect::<Option<_>>()?;
        if fills.iter().any(|f| *f > i) || bits.windows(2).any(|b| b[0] != b[1]) {
            return None;
        }
        let next = rows_of(&drafts[reader].what)?;
        let (o, x, row) = (writer.output, next.input, writer.output.row);
        let same = (x.row, x.pixel, x.c, o.pixel, next.operand) == (row, o.pixel, o.c, o.c, writer.result);
        if !same || row < o.w * o.c {
            return None;
        }
        let (top, left, skipped) = ((o.start / row).checked_sub(x.start / row)?, o.start % row, x.start % row);
        // What is read lies within rows, and there is something to fill the margin with.
        let within = left + o.w * o.c <= row && skipped + x.w * x.c <= row;
        let margin = top > 0 || x.h > top + o.h || skipped < left || skipped + x.w * x.c > left + o.w * o.c;
        (within && (!margin || !bits.is_empty())).then(|| Link {
            buf: w.buf,
            reader,
            bits: bits.first().copied(),
            fills,
            width: writer.result,
            row,
            top,
            left,
            skipped,
        })
    };
    drafts.iter().enumerate().filter_map(|(i, d)| Some((i, link((i, d))?))).collect()
}

/// The longest chains of up to so many steps, each as its steps in order.
pub(crate) fn follow(links: &BTreeMap<usize, Link>, most: usize) -> Vec<Vec<usize>> {
    let inner: BTreeSet<usize> = links.values().map(|l| l.reader).collect();
    let heads = links.keys().filter(|i| !inner.contains(i));
    let chain = |head: &usize| std::iter::successors(Some(*head), |i| links.get(i).map(|l| l.reader)).collect::<Vec<_>>();
    let parts = |c: Vec<usize>| c.chunks(most).filter(|c| c.len() > 1).map(<[usize]>::to_vec).collect::<Vec<_>>();
    heads.map(chain).flat_map(parts).collect()
}
