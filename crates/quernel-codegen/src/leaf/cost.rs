//! Which tile: predicted cycles of a layer for every register tile that fits.

use super::{cost_table::CYCLES, paired};

/// Pixels by panels of 16 channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tile {
    /// Output pixels.
    pub pixels: usize,
    /// Panels of 16 output channels.
    pub panels: usize,
    /// Whether no more than the first half of the channels exists. Sums of the others may be anything: they are not stored.
    pub half: bool,
}

impl Tile {
    /// Vectors of eight channels that a panel has.
    pub fn parts(self) -> usize {
        if self.half { 1 } else { 2 }
    }
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
    /// Whether the sums' ends convert, multiply and bound instead of one fused multiply-add.
    pub long_end: bool,
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

/// What a layer's time is a sum of.
pub const PARTS: usize = 10;
/// Names of the parts, for tables.
pub const PART_NAMES: [&str; PARTS] = [
    "products",
    "tiles",
    "ends, 1 panel",
    "ends, 2 panels",
    "ends, 3 panels",
    "ends, 4 panels",
    "ends in pairs",
    "residuals",
    "long ends",
    "rows",
];

/// Cycles of a block of taps of one tile: the dot products share two pipes that start one 512-bit operation per cycle,
/// loads start two broadcasts or one vector per cycle; fewer than five accumulators wait for each other.
fn block_cycles(accumulators: usize, pixels: usize, panels: usize, blends: f64) -> f64 {
    let (accumulators, pixels, panels) = (accumulators as f64, pixels as f64, panels as f64);
    let dots = (accumulators + 0.5 * blends).max(if pixels == 1.0 { 0.0 } else { 4.5 });
    let loads = 0.55 * pixels + 1.07 * panels;
    let slots = (accumulators + pixels + panels + blends + 0.5) / 5.0;
    dots.max(loads).max(slots)
}

/// How much of every part a layer has under a tile.
pub fn parts(shape: Shape, panels: usize) -> [f64; PARTS] {
    let mut parts = [0.0; PARTS];
    let mut add = |tiles: usize, pixels: usize, panels: usize, paired: bool| {
        if tiles * pixels == 0 {
            return;
        }
        let (accumulators, blends) = if paired { (pixels / 2 * (2 * panels - 1), pixels / 2) } else { (pixels * panels, 0) };
        let (tiles, ends) = (tiles as f64, (tiles * accumulators) as f64);
        parts[0] += tiles * shape.blocks as f64 * block_cycles(accumulators, pixels, panels, blends as f64);
        parts[1] += tiles;
        parts[if paired { 6 } else { 1 + panels.min(4) }] += ends;
        parts[7] += if shape.residual { ends } else { 0.0 };
        parts[8] += if shape.long_end { ends } else { 0.0 };
    };
    let mut group = |panels: usize, paired: bool, groups: usize| {
        let runs = groups * shape.rows;
        if paired {
            let (len, count, tail) = split(shape.row_pixels / 2, paired::most_pixels(panels) / 2);
            add(runs * count, 2 * len, panels, true);
            add(runs, 2 * tail, panels, true);
            add(runs, shape.row_pixels % 2, panels, false);
        } else {
            let (len, count, tail) = split(shape.row_pixels, most_pixels(panels));
            add(runs * count, len, panels, false);
            add(runs, tail, panels, false);
        }
        runs
    };
    let (mut full, mut rest) = (shape.panels / panels, shape.panels % panels);
    if rest == 0 && shape.half {
        (full, rest) = (full - 1, panels);
    }
    let mut rows = 0;
    if full > 0 {
        rows += group(panels, false, full);
    }
    if rest > 0 {
        rows += group(rest, shape.paired(rest), 1);
    }
    parts[9] = rows as f64;
    parts
}

/// Predicted cycles of the layer under a tile.
pub fn cycles(shape: Shape, panels: usize) -> f64 {
    parts(shape, panels).iter().zip(CYCLES).map(|(n, c)| n * c).sum()
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
