//! Geometry of layers and products: views of images, and how weights lie.

use super::{PANEL, Strided};
use crate::op::WindowDim;

/// A channels-last view: element `(n, y, x, c)` lies at `start + n * batch + y * row + x * pixel + c`, counted in
/// elements from the start of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Image {
    /// Batch extent.
    pub n: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// First element.
    pub start: usize,
    /// Elements between images.
    pub batch: usize,
    /// Elements between rows.
    pub row: usize,
    /// Elements between pixels.
    pub pixel: usize,
}

impl Image {
    /// A dense view from the start of the slot.
    pub fn dense(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self { n, h, w, c, start: 0, batch: h * w * c, row: w * c, pixel: c }
    }
    /// Position of an element, in elements from the start of the slot.
    pub fn at(&self, n: usize, y: usize, x: usize, c: usize) -> usize {
        self.start + n * self.batch + y * self.row + x * self.pixel + c
    }
    /// Elements from the start of the slot to one past the last element.
    pub fn extent(&self) -> usize {
        self.at(self.n - 1, self.h - 1, self.w - 1, self.c - 1) + 1
    }
    /// Number of elements.
    pub fn count(&self) -> usize {
        self.n * self.h * self.w * self.c
    }
    /// Whether pixels follow each other without gaps over rows and images.
    pub fn flat(&self) -> bool {
        self.row == self.w * self.pixel && (self.n == 1 || self.batch == self.h * self.row)
    }
}

/// Where the weight of output channel `o`, row `ky`, column `kx`, input channel `i` (within its group) lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightLayout {
    /// `[o][ky][kx][i]`.
    Plain,
    /// `[panel][segment][k / depth][16][depth]`: 16 output channels of one group side by side, `depth` consecutive
    /// taps each; a segment is the run of taps contiguous in a channels-last row (all of `kx, i` when
    /// `contiguous`, else `i`), padded with zeros to a multiple of `depth`.
    Panels {
        /// Whether a whole kernel row is contiguous in memory (dilation 1, one group).
        contiguous: bool,
        /// 4 for int8 dot products, 2 for products of words, 1 for f32.
        depth: usize,
    },
    /// Depthwise `[ky][kx][channels padded to 16]`.
    Depthwise,
}

/// Extents of a convolution's weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WeightDims {
    /// Output channels.
    pub o: usize,
    /// Input channels per group.
    pub i: usize,
    /// Kernel rows.
    pub kh: usize,
    /// Kernel columns.
    pub kw: usize,
    /// Groups.
    pub groups: usize,
}

impl WeightLayout {
    /// Taps in one segment (before padding) and number of segments of a panel.
    pub fn segments(contiguous: bool, d: WeightDims) -> (usize, usize) {
        if contiguous { (d.kw * d.i, d.kh) } else { (d.i, d.kh * d.kw) }
    }
    /// Panels of one group.
    pub fn panels_per_group(d: WeightDims) -> usize {
        (d.o / d.groups).div_ceil(PANEL)
    }
    /// Index of a weight, in elements.
    pub fn index(self, d: WeightDims, o: usize, ky: usize, kx: usize, i: usize) -> usize {
        match self {
            Self::Plain => ((o * d.kh + ky) * d.kw + kx) * d.i + i,
            Self::Depthwise => (ky * d.kw + kx) * d.o.next_multiple_of(PANEL) + o,
            Self::Panels { contiguous, depth } => {
                let (len, count) = Self::segments(contiguous, d);
                let blocks = len.div_ceil(depth);
                let (segment, k) = if contiguous { (ky, kx * d.i + i) } else { (ky * d.kw + kx, i) };
                let per_group = d.o / d.groups;
                let panel = (o / per_group) * Self::panels_per_group(d) + (o % per_group) / PANEL;
                let lane = (o % per_group) % PANEL;
                (((panel * count + segment) * blocks + k / depth) * PANEL + lane) * depth + k % depth
            }
        }
    }
    /// Elements of the packed weights.
    pub fn len(self, d: WeightDims) -> usize {
        match self {
            Self::Plain => d.o * d.kh * d.kw * d.i,
            Self::Depthwise => d.kh * d.kw * d.o.next_multiple_of(PANEL),
            Self::Panels { contiguous, depth } => {
                let (len, count) = Self::segments(contiguous, d);
                d.groups * Self::panels_per_group(d) * count * len.div_ceil(depth) * PANEL * depth
            }
        }
    }
}

/// A convolution or, with 1x1 extents, a matrix product against constant weights (rows are pixels).
#[derive(Clone, PartialEq, Debug)]
pub struct Conv {
    /// Operand view.
    pub input: Image,
    /// Result view.
    pub output: Image,
    /// Rows, then columns. Positions outside the operand read as the zero point (integer) or 0 (float).
    pub window: [WindowDim; 2],
    /// Groups.
    pub groups: usize,
    /// Packing of the weights.
    pub layout: WeightLayout,
    /// Residual operand view, with the extents of `output`.
    pub residual: Option<Image>,
}

impl Conv {
    /// Extents of the weights.
    pub fn weight_dims(&self) -> WeightDims {
        WeightDims {
            o: self.output.c,
            i: self.input.c / self.groups,
            kh: self.window[0].kernel,
            kw: self.window[1].kernel,
            groups: self.groups,
        }
    }
    /// Whether some tap falls outside the operand.
    pub fn padded(&self) -> bool {
        let outside = |d: WindowDim, extent: usize, outputs: usize| d.before > 0 || (outputs - 1) * d.stride + d.span() > extent + d.before;
        outside(self.window[0], self.input.h, self.output.h) || outside(self.window[1], self.input.w, self.output.w)
    }
    /// Whether every sum is a whole number of blocks of a panel, all of them inside the operand.
    pub(super) fn reads_whole_blocks(&self) -> bool {
        let WeightLayout::Panels { contiguous, depth } = self.layout else { return false };
        WeightLayout::segments(contiguous, self.weight_dims()).0.is_multiple_of(depth) && !self.padded()
    }
    /// Multiply-accumulates of one run.
    pub fn macs(&self) -> u64 {
        let d = self.weight_dims();
        self.output.count() as u64 * (d.i * d.kh * d.kw) as u64
    }
}

/// Products `[m][k] x [k][n]` of bytes whose right operands are packed at run time ([`super::What::PackPanels`]): each is a 1x1
/// layer whose pixels are the rows of a, over weights in `Panels` of depth 4 with one segment per part of them, all of which
/// multiply the same row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ByteProduct {
    /// Rows.
    pub m: usize,
    /// Depth.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Parts of which weights are the sum.
    pub segments: usize,
    /// Elements between rows of a and of the result.
    pub rows: [usize; 2],
    /// The products, and the strides of a, of sets of panels (counted in sets), and of the result.
    pub over: Strided,
}

impl ByteProduct {
    /// One product as a layer. Rows of the window lie over each other.
    pub fn layer(&self) -> Conv {
        let row = |row: usize, h: usize, c: usize| Image { n: 1, h, w: self.m, c, start: 0, batch: 0, row: 0, pixel: row };
        Conv {
            input: row(self.rows[0], self.segments, self.k),
            output: row(self.rows[1], 1, self.n),
            window: [WindowDim::new(self.segments), WindowDim::new(1)],
            groups: 1,
            layout: WeightLayout::Panels { contiguous: false, depth: 4 },
            residual: None,
        }
    }
    /// Bytes of the panels of a product.
    pub fn set_bytes(&self) -> usize {
        panel_set(self.k, self.n, self.segments)
    }
    /// Different right operands.
    pub fn sets(&self) -> usize {
        let last = |(d, s): (&usize, &isize)| (d - 1) * s.unsigned_abs();
        1 + self.over.dims.iter().zip(&self.over.operands[1].steps).map(last).sum::<usize>()
    }
}

/// Bytes of the panels of a `[k][n]` matrix in so many segments.
pub fn panel_set(k: usize, n: usize, segments: usize) -> usize {
    n.div_ceil(PANEL) * segments * k.div_ceil(4) * 4 * PANEL
}
