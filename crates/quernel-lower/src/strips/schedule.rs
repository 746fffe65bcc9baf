//! Which rows of every layer of a chain are computed when, and where they lie meanwhile.
//!
//! The result of a layer inside a chain lies in a buffer of a few rows. Before a strip its first rows are those that the
//! next layer still reads, so nothing is computed twice; rows of the margin above and below the image are filled when
//! the strip that reads them comes.

use std::ops::Range;

/// How a layer of a chain goes over rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layer {
    /// Rows of its result.
    pub rows: usize,
    /// Rows of its operand that one row of its result reads.
    pub span: usize,
    /// Rows of its operand between those of neighbouring rows of its result; at most `span`.
    pub stride: usize,
    /// Rows of the margin above its operand. 0 in the first layer, whose operand lies outside the chain.
    pub top: usize,
}

/// What one layer does in one strip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub layer: usize,
    /// First row and number of the rows of its buffer that move to the buffer's start before.
    pub keep: Option<(usize, usize)>,
    /// Rows of its buffer that lie outside the image.
    pub outside: Vec<Range<usize>>,
    /// Rows of its result that it computes.
    pub rows: Range<usize>,
    /// Where in its buffer the first of them goes; in the last layer, which has none, the row itself.
    pub at: usize,
}

/// All strips of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Schedule {
    /// In order of execution.
    pub parts: Vec<Part>,
    /// Rows of the buffer of every layer but the last.
    pub heights: Vec<usize>,
}

/// The strips of a chain whose last layer computes `step` rows in each; `None` where rows would move onto themselves.
pub(crate) fn schedule(layers: &[Layer], step: usize) -> Option<Schedule> {
    let last = layers.len().checked_sub(1)?;
    let total = layers[last].rows;
    // Rows of every result that exist. Rows of buffers count from the start of the margin above the image.
    let mut done = vec![0; layers.len()];
    let mut bases = vec![0; last];
    let mut filled = vec![0; last];
    let mut out = Schedule { parts: Vec::new(), heights: vec![0; last] };
    while done[last] < total {
        let mut want = done.clone();
        want[last] = (done[last] + step).min(total);
        // Up to which row of its buffer the reader of every layer reads, where it computes anything.
        let mut needs = vec![None; last];
        for k in (0..last).rev() {
            let reader = layers[k + 1];
            if want[k + 1] > done[k + 1] {
                let need = (want[k + 1] - 1) * reader.stride + reader.span;
                needs[k] = Some(need.max(filled[k]));
                want[k] = need.saturating_sub(reader.top).clamp(done[k], layers[k].rows);
            }
        }
        for k in 0..=last {
            let mut part = Part { layer: k, keep: None, outside: Vec::new(), rows: done[k]..want[k], at: done[k] };
            if let Some(need) = needs.get(k).copied().flatten() {
                let reader = layers[k + 1];
                let base = done[k + 1] * reader.stride;
                let (shift, kept) = (base - bases[k], filled[k].saturating_sub(base));
                if shift > 0 && kept > 0 {
                    if kept > shift {
                        return None;
                    }
                    part.keep = Some((shift, kept));
                }
                let image = reader.top..reader.top + layers[k].rows;
                let outside = [filled[k]..need.min(image.start), filled[k].max(image.end)..need];
                part.outside = outside.into_iter().filter(|r| !r.is_empty()).map(|r| r.start - base..r.end - base).collect();
                part.at = reader.top + done[k] - base.min(reader.top + done[k]);
                out.heights[k] = out.heights[k].max(need - base);
                (bases[k], filled[k]) = (base, need);
            }
            if part.keep.is_some() || !part.outside.is_empty() || !part.rows.is_empty() {
                out.parts.push(part);
            }
        }
        done = want;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(rows: usize, span: usize, stride: usize, top: usize) -> Layer {
        Layer { rows, span, stride, top }
    }

    /// Runs a schedule on buffers that hold numbers of rows (-1: outside the image) and checks every read.
    fn check(layers: &[Layer], step: usize) -> Option<Schedule> {
        let s = schedule(layers, step)?;
        let last = layers.len() - 1;
        let mut buffers: Vec<Vec<Option<i64>>> = s.heights.iter().map(|h| vec![None; *h]).collect();
        let mut next = vec![0; layers.len()];
        for p in &s.parts {
            let k = p.layer;
            assert_eq!(p.rows.start, next[k]);
            if k > 0 && !p.rows.is_empty() {
                let l = layers[k];
                for (i, row) in p.rows.clone().enumerate() {
                    for t in 0..l.span {
                        let want = (row * l.stride + t) as i64 - l.top as i64;
                        let want = if (0..layers[k - 1].rows as i64).contains(&want) { want } else { -1 };
                        assert_eq!(buffers[k - 1][i * l.stride + t], Some(want), "{layers:?} by {step}: row {row} of layer {k}");
                    }
                }
            }
            next[k] = p.rows.end;
            if k == last {
                assert_eq!(p.at, p.rows.start);
                continue;
            }
            let b = &mut buffers[k];
            if let Some((from, count)) = p.keep {
                assert!(count <= from);
                b.copy_within(from..from + count, 0);
            }
            p.outside.iter().for_each(|r| b[r.clone()].fill(Some(-1)));
            p.rows.clone().enumerate().for_each(|(i, row)| b[p.at + i] = Some(row as i64));
        }
        assert_eq!(next[last], layers[last].rows);
        Some(s)
    }

    #[test]
    fn every_row_is_computed_once_and_lies_where_it_is_read() {
        let (mut state, mut checked) = (1u64, 0);
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..4000 {
            let mut rows = 1 + draw(40);
            let mut layers = vec![layer(rows, 1, 1, 0)];
            for _ in 0..1 + draw(4) {
                let span = 1 + draw(5);
                let (stride, top, bottom) = (1 + draw(span.min(3)), draw(span), draw(span));
                if rows + top + bottom < span {
                    break;
                }
                rows = (rows + top + bottom - span) / stride + 1;
                layers.push(layer(rows, span, stride, top));
            }
            if layers.len() > 1 {
                checked += usize::from(check(&layers, 1 + draw(8)).is_some());
            }
        }
        assert!(checked > 2000, "{checked}");
    }

    #[test]
    fn strips_of_a_block_keep_the_rows_between_them() {
        let s = check(&[layer(8, 1, 1, 0), layer(8, 3, 1, 1), layer(8, 1, 1, 0)], 4).unwrap();
        assert_eq!(s.heights, [6, 4]);
        let moves: Vec<_> = s.parts.iter().filter_map(|p| p.keep).collect();
        assert_eq!(moves, [(4, 2)]);
        let rows: Vec<_> = s.parts.iter().map(|p| (p.layer, p.rows.clone())).collect();
        assert_eq!(rows, [(0, 0..5), (1, 0..4), (2, 0..4), (0, 5..8), (1, 4..8), (2, 4..8)]);
    }

    #[test]
    fn rows_that_would_move_onto_themselves_are_refused() {
        assert_eq!(schedule(&[layer(8, 1, 1, 0), layer(8, 3, 1, 1)], 1), None);
        assert!(schedule(&[layer(8, 1, 1, 0), layer(8, 3, 1, 1)], 2).is_some());
    }
}
