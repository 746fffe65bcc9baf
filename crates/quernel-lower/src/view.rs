//! Where the elements of a logical tensor lie in memory.
//!
//! A [`View`] gives each logical axis a list of factors, outermost first: an axis of extent 6 may be `2 x 3` with
//! unrelated steps. With that, a transpose, a reshape that splits or merges axes along factors, a slice and a
//! broadcast are all free: only the view changes.

use crate::build::Buf;
use quernel_ir::program::{Image, Strided, Strides};

/// `extent` elements, `step` apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Factor {
    pub extent: usize,
    pub step: isize,
}

/// Factors of one logical axis, outermost first; none for extent 1. Kept merged: no factor of extent 1, no two
/// neighbours that are one.
pub(crate) type Axis = Vec<Factor>;

/// A logical tensor within a buffer; positions are in elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub buf: Buf,
    pub start: usize,
    pub axes: Vec<Axis>,
}

/// Drops factors of extent 1 and merges neighbours that step as one.
pub(crate) fn merge(factors: impl IntoIterator<Item = Factor>) -> Axis {
    let mut out: Axis = Vec::new();
    for f in factors {
        match out.last_mut() {
            _ if f.extent == 1 => {}
            Some(last) if last.step == f.step * f.extent as isize => *last = Factor { extent: last.extent * f.extent, step: f.step },
            _ => out.push(f),
        }
    }
    out
}

impl View {
    /// Dense, with the logical axes in `order`, outermost first.
    pub fn ordered(buf: Buf, dims: &[usize], order: &[usize]) -> Self {
        let mut axes = vec![Axis::new(); dims.len()];
        let mut step = 1isize;
        for &a in order.iter().rev() {
            axes[a] = merge([Factor { extent: dims[a], step }]);
            step *= dims[a] as isize;
        }
        Self { buf, start: 0, axes }
    }
    /// Dense row-major.
    pub fn row_major(buf: Buf, dims: &[usize]) -> Self {
        Self::ordered(buf, dims, &(0..dims.len()).collect::<Vec<_>>())
    }
    /// Extent of an axis.
    pub fn extent(axis: &[Factor]) -> usize {
        axis.iter().map(|f| f.extent).product()
    }
    /// Extents of all axes.
    pub fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(|a| Self::extent(a)).collect()
    }
    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }
    /// All factors in logical order, merged across axes.
    pub fn factors(&self) -> Axis {
        merge(self.axes.iter().flatten().copied())
    }
    /// Whether the elements lie one after another in logical order.
    pub fn is_row_major(&self) -> bool {
        matches!(self.factors().as_slice(), [] | [Factor { step: 1, .. }])
    }
    /// Whether the elements fill a range of memory, in whatever order.
    pub fn is_dense(&self) -> bool {
        let mut all = self.factors();
        all.sort_by_key(|f| f.step);
        let mut next = 1isize;
        all.iter().all(|f| {
            let fits = f.step == next;
            next = next.saturating_mul(f.extent as isize);
            fits
        })
    }
    /// Logical axes by decreasing step: the order a dense copy of this view keeps.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.axes.len()).collect();
        let step = |a: usize| self.axes[a].iter().map(|f| f.step.unsigned_abs()).max().unwrap_or(0);
        // An axis of extent 1 has no step of its own: it stays beside its logical predecessor, which a stable sort
        // by (step of the nearest real axis before it) gives.
        let keys: Vec<usize> = (0..self.axes.len())
            .scan(usize::MAX, |last, a| {
                if !self.axes[a].is_empty() {
                    *last = step(a);
                }
                Some(*last)
            })
            .collect();
        order.sort_by_key(|&a| std::cmp::Reverse(keys[a]));
        order
    }
    /// Result axis `i` is axis `perm[i]`.
    pub fn transpose(&self, perm: &[usize]) -> Self {
        Self { buf: self.buf, start: self.start, axes: perm.iter().map(|&p| self.axes[p].clone()).collect() }
    }
    /// The operand of a transpose whose result is this view.
    pub fn transpose_back(&self, perm: &[usize]) -> Self {
        let mut axes = vec![Axis::new(); perm.len()];
        for (i, &p) in perm.iter().enumerate() {
            axes[p] = self.axes[i].clone();
        }
        Self { buf: self.buf, start: self.start, axes }
    }
    /// The same elements under other dimensions, where the factors allow.
    pub fn reshape(&self, dims: &[usize]) -> Option<Self> {
        let factors = self.factors();
        let mut rest = factors.into_iter();
        let mut current: Option<Factor> = None;
        let mut axes = Vec::with_capacity(dims.len());
        for &d in dims {
            let mut need = d;
            let mut axis = Axis::new();
            while need > 1 {
                let f = current.take().or_else(|| rest.next())?;
                if f.extent <= need {
                    if !need.is_multiple_of(f.extent) {
                        return None;
                    }
                    axis.push(f);
                    need /= f.extent;
                } else {
                    if !f.extent.is_multiple_of(need) {
                        return None;
                    }
                    let inner = f.extent / need;
                    axis.push(Factor { extent: need, step: f.step * inner as isize });
                    current = Some(Factor { extent: inner, step: f.step });
                    need = 1;
                }
            }
            axes.push(merge(axis));
        }
        Some(Self { buf: self.buf, start: self.start, axes })
    }
    /// `len` elements from `start`, `step` apart, along every axis; `None` when that cuts an axis of several factors.
    pub fn slice(&self, start: &[usize], step: &[isize], len: &[usize]) -> Option<Self> {
        let mut out = self.clone();
        for (i, axis) in self.axes.iter().enumerate() {
            let whole = start[i] == 0 && len[i] == Self::extent(axis) && (step[i] == 1 || len[i] == 1);
            if whole {
                continue;
            }
            let [f] = axis.as_slice() else { return None };
            out.start = (out.start as isize + f.step * start[i] as isize) as usize;
            out.axes[i] = merge([Factor { extent: len[i], step: f.step * step[i] }]);
        }
        Some(out)
    }
    /// Broadcast to `dims`, axes aligned at the end.
    pub fn expand(&self, dims: &[usize]) -> Self {
        let missing = dims.len() - self.axes.len();
        let axes = dims
            .iter()
            .enumerate()
            .map(|(i, &d)| match i.checked_sub(missing).map(|j| &self.axes[j]) {
                Some(axis) if !axis.is_empty() => axis.clone(),
                _ => merge([Factor { extent: d, step: 0 }]),
            })
            .collect();
        Self { buf: self.buf, start: self.start, axes }
    }
    /// As an image, for a view with axes N, H, W, C: every axis steps evenly and forward, channels are neighbours.
    pub fn image(&self) -> Option<Image> {
        let [n, h, w, c] = self.axes.as_slice() else { return None };
        let even = |a: &Axis| match a.as_slice() {
            [] => Some((1, None)),
            [f] => Some((f.extent, Some(usize::try_from(f.step).ok()?))),
            _ => None,
        };
        let ((n, batch), (h, row), (w, pixel), (c, channel)) = (even(n)?, even(h)?, even(w)?, even(c)?);
        if channel.is_some_and(|s| s != 1) || [batch, row, pixel].contains(&Some(0)) {
            return None;
        }
        let pixel = pixel.unwrap_or(c);
        let row = row.unwrap_or(w * pixel);
        let batch = batch.unwrap_or(h * row);
        Some(Image { n, h, w, c, start: self.start, batch, row, pixel })
    }
    /// A view with axes N, H, W, C.
    pub fn of_image(buf: Buf, image: &Image) -> Self {
        let axis = |extent: usize, step: usize| merge([Factor { extent, step: step as isize }]);
        Self {
            buf,
            start: image.start,
            axes: vec![axis(image.n, image.batch), axis(image.h, image.row), axis(image.w, image.pixel), axis(image.c, 1)],
        }
    }
}

/// The iteration space over views of equal dimensions: the common refinement of their factors, ordered by the steps
/// of the last view (the result), merged. `None` when the factors of an axis do not divide each other.
pub(crate) fn iterate(views: &[&View]) -> Option<Strided> {
    let rank = views[0].axes.len();
    let mut space: Vec<(usize, Vec<isize>)> = Vec::new();
    for a in 0..rank {
        space.extend(refine(&views.iter().map(|v| v.axes[a].as_slice()).collect::<Vec<_>>())?);
    }
    space.sort_by_key(|(_, steps)| std::cmp::Reverse(steps[steps.len() - 1].unsigned_abs()));
    let mut merged: Vec<(usize, Vec<isize>)> = Vec::new();
    for (extent, steps) in space {
        match merged.last_mut() {
            Some((e, outer)) if outer.iter().zip(&steps).all(|(o, s)| *o == s * extent as isize) => {
                *e *= extent;
                *outer = steps;
            }
            _ => merged.push((extent, steps)),
        }
    }
    if merged.is_empty() {
        merged.push((1, vec![1; views.len()]));
    }
    Some(Strided {
        dims: merged.iter().map(|(e, _)| *e).collect(),
        operands: (views.iter().enumerate())
            .map(|(i, v)| Strides { start: v.start, steps: merged.iter().map(|(_, s)| s[i]).collect() })
            .collect(),
    })
}

/// Splits the factors of one axis, seen by several views, until they agree. Outermost first.
fn refine(axes: &[&[Factor]]) -> Option<Vec<(usize, Vec<isize>)>> {
    let mut rest: Vec<Vec<Factor>> = axes.iter().map(|a| a.to_vec()).collect();
    let mut out = Vec::new();
    while rest.iter().any(|r| !r.is_empty()) {
        let inner: Vec<Factor> = rest.iter().map(|r| r.last().copied()).collect::<Option<_>>()?;
        let m = inner.iter().map(|f| f.extent).min()?;
        if inner.iter().any(|f| !f.extent.is_multiple_of(m)) {
            return None;
        }
        out.push((m, inner.iter().map(|f| f.step).collect()));
        for (r, f) in rest.iter_mut().zip(&inner) {
            r.pop();
            if f.extent > m {
                r.push(Factor { extent: f.extent / m, step: f.step * m as isize });
            }
        }
    }
    out.reverse();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::Id;

    fn buf() -> Buf {
        Buf::new(0)
    }

    #[test]
    fn flatten_of_channels_last_keeps_its_factors_and_comes_back() {
        let v = View::ordered(buf(), &[1, 4, 3, 5], &[0, 2, 3, 1]);
        assert!(v.is_dense() && !v.is_row_major());
        let flat = v.reshape(&[1, 60]).unwrap();
        assert_eq!(flat.axes[1], [Factor { extent: 4, step: 1 }, Factor { extent: 15, step: 4 }]);
        assert_eq!(flat.reshape(&[1, 4, 3, 5]).unwrap(), v);
        assert_eq!(flat.reshape(&[6, 10]), None);
        assert_eq!(flat.reshape(&[2, 30]).unwrap().axes[0], [Factor { extent: 2, step: 2 }]);
    }

    #[test]
    fn order_follows_memory() {
        let v = View::ordered(buf(), &[2, 4, 3, 5], &[0, 2, 3, 1]);
        assert_eq!(v.order(), [0, 2, 3, 1]);
        assert_eq!(View::ordered(buf(), &[1, 4, 1, 5], &[0, 2, 3, 1]).order(), [0, 3, 1, 2]);
        assert_eq!(View::row_major(buf(), &[2, 3]).transpose(&[1, 0]).order(), [1, 0]);
    }

    #[test]
    fn moving_channels_last_iterates_in_result_order() {
        let x = View::row_major(buf(), &[1, 3, 4, 5]);
        let y = View::ordered(buf(), &[1, 3, 4, 5], &[0, 2, 3, 1]);
        let s = iterate(&[&x, &y]).unwrap();
        assert_eq!(s.dims, [20, 3]);
        assert_eq!(s.operands[0].steps, [1, 20]);
        assert_eq!(s.operands[1].steps, [3, 1]);
    }

    #[test]
    fn slices_reverse_and_images_refuse_that() {
        let v = View::row_major(buf(), &[1, 2, 6, 3]);
        let s = v.slice(&[0, 0, 5, 0], &[1, 1, -2, 1], &[1, 2, 3, 3]).unwrap();
        assert_eq!((s.start, s.axes[2].as_slice()), (15, [Factor { extent: 3, step: -6 }].as_slice()));
        assert_eq!(s.image(), None);
        assert_eq!(v.image(), Some(Image::dense(1, 2, 6, 3)));
    }
}
