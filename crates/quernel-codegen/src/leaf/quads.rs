//! Depthwise tiles as quads of taps: which four operand bytes of a channel go side by side, and which outputs they serve.
//!
//! A tile is a few pixels of a few rows of output. Its operand window is cut into quads: four rows of one column where
//! there are three or four rows left, two rows of two columns where there are two, four columns where there is one. A quad
//! is put together once and multiplied once per output that has a tap in it, against that output's weights at those taps
//! (zero elsewhere), so overlapping windows share the work of interleaving.

/// Kernel row and column of each of a quad's bytes, as one output sees them.
pub type Taps = [Option<(usize, usize)>; 4];

/// Output pixels of a tile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Pixels of a row.
    pub pixels: usize,
}

/// Kernel extents and steps between outputs, rows first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Operand rows and columns between outputs.
    pub stride: [usize; 2],
}

/// Four operand bytes of every channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quad {
    /// Operand row and column of each byte; `None` where no output looks.
    pub at: [Option<(usize, usize)>; 4],
    /// Number of the output (row by row) and what the quad is to it.
    pub users: Vec<(usize, Taps)>,
}

/// The quads of a tile, each with at least one user; every tap of every output is in exactly one.
pub fn quads(w: Window, tile: Size) -> Vec<Quad> {
    let [kh, kw] = w.kernel;
    let [sy, sx] = w.stride;
    let (rows, columns) = ((tile.rows - 1) * sy + kh, (tile.pixels - 1) * sx + kw);
    let mut quads = Vec::new();
    for top in (0..rows).step_by(4) {
        let height = (rows - top).min(4);
        let (high, wide) = match height {
            1 => (1, 4),
            2 => (2, 2),
            _ => (4, 1),
        };
        for left in (0..columns).step_by(wide) {
            let place = |i: usize| Some((top + i % high, left + i / high)).filter(|&(y, x)| y < rows && x < columns);
            let places: [Option<(usize, usize)>; 4] = std::array::from_fn(place);
            let mut users = Vec::new();
            for output in 0..tile.rows * tile.pixels {
                let (oy, ox) = (output / tile.pixels * sy, output % tile.pixels * sx);
                let taps = places.map(|p| {
                    let (y, x) = p?;
                    Some((y.checked_sub(oy)?, x.checked_sub(ox)?)).filter(|&(ky, kx)| ky < kh && kx < kw)
                });
                if taps.iter().any(Option::is_some) {
                    users.push((output, taps));
                }
            }
            if !users.is_empty() {
                let used = |i: usize| places[i].filter(|_| users.iter().any(|(_, t)| t[i].is_some()));
                quads.push(Quad { at: std::array::from_fn(used), users });
            }
        }
    }
    quads
}

/// The tile with the lowest cost per image of `extent` (rows, pixels), among those of at most `most` outputs.
pub fn best(w: Window, extent: [usize; 2], most: usize, cost: impl Fn(&[Quad], usize) -> f64) -> Size {
    let mut best = (f64::INFINITY, Size { rows: 1, pixels: 1 });
    for rows in 1..=most.min(3).min(extent[0]) {
        for pixels in 1..=(most / rows).min(extent[1]) {
            let one = |rows: usize, pixels: usize| {
                if rows * pixels == 0 { 0.0 } else { cost(&quads(w, Size { rows, pixels }), rows * pixels) }
            };
            let line = |rows: usize| (extent[1] / pixels) as f64 * one(rows, pixels) + one(rows, extent[1] % pixels);
            let total = (extent[0] / rows) as f64 * line(rows) + line(extent[0] % rows);
            if total < best.0 {
                best = (total, Size { rows, pixels });
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_tap_of_every_output_is_in_one_quad() {
        for (kh, kw) in [(1, 1), (3, 3), (5, 5), (7, 7), (3, 5), (2, 4), (1, 7), (6, 1)] {
            for (sy, sx) in [(1, 1), (2, 2), (1, 4), (3, 2)] {
                for (rows, pixels) in [(1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 2)] {
                    let w = Window { kernel: [kh, kw], stride: [sy, sx] };
                    let mut seen = BTreeSet::new();
                    for q in quads(w, Size { rows, pixels }) {
                        for (output, taps) in &q.users {
                            for (place, tap) in q.at.iter().zip(taps) {
                                let Some((ky, kx)) = *tap else { continue };
                                let at = (output / pixels * sy + ky, output % pixels * sx + kx);
                                assert_eq!(*place, Some(at), "{w:?}");
                                assert!(seen.insert((*output, ky, kx)), "{w:?} {output} {ky} {kx}");
                            }
                        }
                    }
                    assert_eq!(seen.len(), rows * pixels * kh * kw, "{w:?} {rows}x{pixels}");
                }
            }
        }
    }

    #[test]
    fn two_rows_of_3x3_share_their_quads() {
        let q = quads(Window { kernel: [3, 3], stride: [1, 1] }, Size { rows: 2, pixels: 2 });
        assert_eq!(q.len(), 4);
        assert_eq!(q.iter().map(|q| q.users.len()).sum::<usize>(), 12);
    }
}
