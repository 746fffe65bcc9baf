//! Margins around images, so that padded convolutions see no edge.
//!
//! Rows have `left + w + right` pixels; `top` rows lie before the image, `bottom` rows behind it. What lies between the
//! pixels of one row and those of the next is one run.

use crate::{
    build::{Buf, BufData, Build},
    view::View,
};
use quernel_ir::{
    Elem, Node, Op, Value, Window, WindowDim,
    program::{Image, Strided, Strides, What},
};

/// Elements beyond each edge of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Margins {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

/// The margin a buffer keeps around its image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Halo {
    pub image: Image,
    pub margins: Margins,
}

impl Halo {
    /// Whether `image` has exactly the elements of this one; steps along extents of 1 mean nothing.
    pub fn holds(&self, image: &Image) -> bool {
        let (a, b) = (&self.image, image);
        let same = |extent: usize, x: usize, y: usize| extent == 1 || x == y;
        (a.start, a.n, a.h, a.w, a.c) == (b.start, b.n, b.h, b.w, b.c)
            && same(a.n, a.batch, b.batch)
            && same(a.h, a.row, b.row)
            && same(a.w, a.pixel, b.pixel)
    }
}

impl Margins {
    pub fn max(self, o: Self) -> Self {
        Self { top: self.top.max(o.top), bottom: self.bottom.max(o.bottom), left: self.left.max(o.left), right: self.right.max(o.right) }
    }
    pub fn covers(self, o: Self) -> bool {
        self.max(o) == self
    }
    pub fn none(self) -> bool {
        self == Self::default()
    }
    /// What a window over `h` x `w` elements reads beyond the edges; unlike the padding it may leave some out.
    pub fn needed(window: [WindowDim; 2], extents: [usize; 2], outputs: [usize; 2]) -> Self {
        let side = |i: usize| {
            let d: WindowDim = window[i];
            let last = (outputs[i] - 1).saturating_mul(d.stride).saturating_add(d.span());
            (d.before, last.saturating_sub(d.before.saturating_add(extents[i])))
        };
        let ((top, bottom), (left, right)) = (side(0), side(1));
        Self { top, bottom, left, right }
    }
}

/// Rows and columns of a window of one or two axes.
pub(crate) fn plane(window: &Window) -> Option<[WindowDim; 2]> {
    match window.dims.as_slice() {
        [d] => Some([WindowDim::new(1), *d]),
        [a, b] => Some([*a, *b]),
        _ => None,
    }
}

/// N, H, W, C extents of a logical shape `N C (H) W`.
pub(crate) fn extents(dims: &[usize]) -> Option<[usize; 4]> {
    match dims {
        [n, c, w] => Some([*n, 1, *w, *c]),
        [n, c, h, w] => Some([*n, *h, *w, *c]),
        _ => None,
    }
}

/// Logical axes outermost first: batch, spatial, channels.
pub(crate) fn channels_last(rank: usize) -> Vec<usize> {
    if rank < 3 { (0..rank).collect() } else { std::iter::once(0).chain(2..rank).chain([1]).collect() }
}

/// A view with logical axes `N C (H) W` as `N H W C`.
pub(crate) fn to_image_axes(view: &View) -> Option<View> {
    match view.axes.as_slice() {
        [n, c, w] => Some(View { buf: view.buf, start: view.start, axes: vec![n.clone(), vec![], w.clone(), c.clone()] }),
        [_, _, _, _] => Some(view.transpose(&[0, 2, 3, 1])),
        _ => None,
    }
}

/// The inverse of [`to_image_axes`].
pub(crate) fn from_image(buf: Buf, image: &Image, rank: usize) -> View {
    let v = View::of_image(buf, image);
    let [n, h, w, c] = [0, 1, 2, 3].map(|i: usize| v.axes[i].clone());
    let axes = if rank == 3 { vec![n, c, w] } else { vec![n, c, h, w] };
    View { buf, start: v.start, axes }
}

impl Build<'_> {
    /// Notes, for every value that padded convolutions read, the largest margin they want.
    pub fn collect_margins(&mut self, needed: &[Node]) {
        for &n in needed {
            let data = &self.g.nodes[n];
            let Op::Conv { window, .. } = &data.op else { continue };
            let (x, y) = (extents(&self.g.ty(data.args[0]).dims), extents(&self.g.ty(data.result()).dims));
            let (Some(window), Some(x), Some(y)) = (plane(window), x, y) else { continue };
            let want = Margins::needed(window, [x[1], x[2]], [y[1], y[2]]);
            if !want.none() && reasonable(x, want) {
                let all = self.margins.entry(data.args[0]).or_default();
                let both = all.max(want);
                if reasonable(x, both) {
                    *all = both;
                }
            }
        }
    }

    /// A new buffer for `v`, channels last, with margins already filled. `None` when the margins dwarf the image.
    pub fn with_margins(&mut self, v: Value, m: Margins) -> Option<View> {
        let ty = self.g.ty(v);
        let (rank, width) = (ty.rank(), ty.elem.bytes());
        let dims = extents(&ty.dims)?;
        if !reasonable(dims, m) {
            return None;
        }
        let [n, h, w, c] = dims;
        let gap = m.left + m.right;
        let (pixel, row) = (c, (w + gap) * c);
        let batch = (m.top + h + m.bottom) * row;
        let image = Image { n, h, w, c, start: m.top * row + m.left * c, batch, row, pixel };
        let bits = self.zero_bits(&ty.elem);
        let halo = Some(Halo { image, margins: m });
        let buf = self.bufs.push(BufData { base: None, bytes: n * batch * width, halo });
        let fill = |s: &mut Self, repeat: &[(usize, usize)], start, len| s.fill_runs((buf, width, bits), repeat, start, len);
        let behind = image.start + (h - 1) * row + w * c;
        fill(self, &[(n, batch)], 0, image.start);
        if h > 1 {
            fill(self, &[(n, batch), (h - 1, row)], image.start + w * c, gap * c);
        }
        fill(self, &[(n, batch)], behind, batch - behind);
        Some(from_image(buf, &image, rank))
    }

    /// Fills runs of `len` elements, repeated (extent, step).
    pub fn fill_runs(&mut self, (buf, width, bits): (Buf, usize, u64), repeat: &[(usize, usize)], start: usize, len: usize) {
        if len == 0 {
            return;
        }
        let repeat = || repeat.iter().filter(|(extent, _)| *extent > 1);
        let over = Strided {
            dims: repeat().map(|(extent, _)| *extent).chain([len]).collect(),
            operands: vec![Strides { start, steps: repeat().map(|(_, step)| *step as isize).chain([1]).collect() }],
        };
        let whole = self.whole(buf);
        self.emit(What::Fill { width, over, bits }, vec![], vec![whole]);
    }

    /// The stored form of the real number 0.
    pub fn zero_bits(&self, elem: &Elem) -> u64 {
        match elem {
            Elem::Quant(q) => {
                let zero = q.tensor_params().map_or(0, |(_, z)| z);
                if q.storage().bytes() == 1 { u64::from(zero as u8) } else { u64::from(zero as u16) }
            }
            Elem::Scalar(_) => 0,
        }
    }
}

/// Whether an image with margins stays within a small multiple of the image itself.
fn reasonable([n, h, w, c]: [usize; 4], m: Margins) -> bool {
    let add = |a: usize, b: usize, d: usize| a.checked_add(b)?.checked_add(d);
    let total = || n.checked_mul(add(h, m.top, m.bottom)?)?.checked_mul(add(w, m.left, m.right)?)?.checked_mul(c);
    total().is_some_and(|t| t / 16 <= n * h * w * c + (1 << 12))
}
