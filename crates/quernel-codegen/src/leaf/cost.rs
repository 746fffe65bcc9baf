//! Which tile: predicted cycles of a layer for every register tile that fits.

use super::paired;

/// Pixels by panels of 16 channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    /// Output pixels.
    pub pixels: usize,
    /// Panels of 16 output channels.
    pub panels: usize,
}

/// The part of a layer's geometry that decides.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Runs of pixels that tiles do not cross.
    pub rows: usize,
    /// Pixels of a run.
    pub row_pixels: usize,
    /// Panels of the layer.
    pub panels: usize,
    /// Blocks of four taps.
    pub blocks: usize,
    /// Whether a residual is added.
    pub residual: bool,
    /// Whether the last panel has [`HALF`] of its channels or fewer and a form for that.
    pub half: bool,
}

/// Channels of half a panel.
pub const HALF: usize = 8;
/// Most panels of a tile whose last one is half a panel.
pub const MOST_PAIRED: usize = 4;

impl Shape {
    /// Pixels of the main tile of a layer under groups of `panels`.
    pub fn pixels(&self, panels: usize) -> usize {
        // A layer of one group is all in pairs.
        if self.paired(panels) && self.panels <= panels {
            return 2 * split(self.row_pixels / 2, paired::most_pixels(panels) / 2).0;
        }
        split(self.row_pixels, most_pixels(panels)).0
    }
    fn paired(&self, panels: usize) -> bool {
        self.half && self.row_pixels > 1 && panels <= MOST_PAIRED
    }
}

/// Accumulators, weights and one broadcast share the 32 registers with two constants.
const REGISTERS: usize = 29;

/// Most pixels of a tile that is `panels` wide.
pub fn most_pixels(panels: usize) -> usize {
    ((REGISTERS - panels) / panels).min(16)
}

/// Splits `n` into runs of at most `most`, as equal as possible: the length of the first ones, how many, and the rest.
pub fn split(n: usize, most: usize) -> (usize, usize, usize) {
    let runs = n.div_ceil(most);
    let len = n.div_ceil(runs);
    (len, n / len, n % len)
}

/// Cycles of one tile: the dot products share two pipes that start one 512-bit operation per cycle, loads start two
/// broadcasts or one vector per cycle; fewer than five accumulators wait for each other. The epilogue's figures were
/// fitted on a Zen 4 core.
fn tile_cycles(t: Tile, blocks: usize, residual: bool) -> f64 {
    let accumulators = (t.pixels * t.panels) as f64;
    let dots = accumulators.max(if t.pixels == 1 { accumulators } else { 4.5 });
    let loads = 0.55 * t.pixels as f64 + 1.07 * t.panels as f64;
    let slots = (accumulators + t.pixels as f64 + t.panels as f64 + 0.5) / 5.0;
    let epilogue = accumulators * if residual { 4.2 } else { 2.6 };
    blocks as f64 * dots.max(loads).max(slots) + epilogue + 12.0
}

/// Cycles of a tile of pairs of pixels.
fn paired_cycles(t: Tile, blocks: usize, residual: bool) -> f64 {
    let pairs = t.pixels / 2;
    let accumulators = (pairs * (2 * t.panels - 1)) as f64;
    let loads = 0.55 * t.pixels as f64 + 1.07 * t.panels as f64;
    let slots = (accumulators + 1.5 * t.pixels as f64 + t.panels as f64 + 0.5) / 5.0;
    let epilogue = accumulators * if residual { 4.4 } else { 2.8 };
    blocks as f64 * (accumulators + 0.25 * pairs as f64).max(4.5).max(loads).max(slots) + epilogue + 12.0
}

/// Predicted cycles of the layer under a tile.
pub fn cycles(shape: Shape, panels: usize) -> f64 {
    let (mut full, mut rest) = (shape.panels / panels, shape.panels % panels);
    let tile = |pixels: usize, panels: usize| match pixels {
        0 => 0.0,
        _ => tile_cycles(Tile { pixels, panels }, shape.blocks, shape.residual),
    };
    let group = |panels: usize| {
        let (len, count, tail) = split(shape.row_pixels, most_pixels(panels));
        shape.rows as f64 * (count as f64 * tile(len, panels) + tile(tail, panels) + 3.0)
    };
    if rest == 0 && shape.half {
        (full, rest) = (full - 1, panels);
    }
    let last = match rest {
        0 => 0.0,
        _ if shape.paired(rest) => {
            let (len, count, tail) = split(shape.row_pixels / 2, paired::most_pixels(rest) / 2);
            let pairs =
                |n: usize| if n == 0 { 0.0 } else { paired_cycles(Tile { pixels: 2 * n, panels: rest }, shape.blocks, shape.residual) };
            shape.rows as f64 * (count as f64 * pairs(len) + pairs(tail) + tile(shape.row_pixels % 2, rest) + 3.0)
        }
        _ => group(rest),
    };
    full as f64 * group(panels) + last
}

/// The best number of panels side by side.
pub fn choose(shape: Shape) -> usize {
    let widths: &[usize] = if shape.rows * shape.row_pixels == 1 { &[8, 4, 2, 1] } else { &[4, 3, 2, 1] };
    let mut best = (f64::INFINITY, 1);
    for &panels in widths {
        let panels = panels.min(shape.panels);
        let c = cycles(shape, panels);
        if c < best.0 {
            best = (c, panels);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_covers_every_pixel_with_equal_runs() {
        for n in 1..200 {
            for most in 1..17 {
                let (len, count, rest) = split(n, most);
                assert!(len <= most && len * count + rest == n && rest < len, "{n} {most}");
            }
        }
    }

    #[test]
    fn tiles_fit_the_registers() {
        for panels in 1..=8 {
            let pixels = most_pixels(panels);
            assert!(pixels * panels + panels <= REGISTERS);
        }
    }
}
