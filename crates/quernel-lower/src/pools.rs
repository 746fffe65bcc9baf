//! Pools, and averages over whole axes as pools.

use crate::{
    build::Build,
    margins::{channels_last, plane},
    view::{Factor, View, merge},
};
use quernel_ir::{
    Code, Diagnostic, Elem, PoolKind, Scalar, Value, Window, WindowDim,
    program::{ByteQuant, Image, What},
};

impl Build<'_> {
    /// Parameters of bytes that are only compared.
    fn comparable(&self, elem: &Elem) -> Result<ByteQuant, Diagnostic> {
        match elem {
            Elem::Scalar(Scalar::U8) => Ok(ByteQuant { signed: false, scale: 1.0, zero: 0, lo: 0, hi: 255 }),
            Elem::Scalar(Scalar::I8) => Ok(ByteQuant { signed: true, scale: 1.0, zero: 0, lo: -128, hi: 127 }),
            _ => self.byte_quant(elem),
        }
    }

    /// Refuses averages whose sum of bytes may leave 32 bits.
    fn sum_fits(&self, kind: PoolKind, h: usize, w: usize) -> Result<(), Diagnostic> {
        let fits = h.checked_mul(w).is_some_and(|n| n <= i32::MAX as usize / 255);
        if fits || kind == PoolKind::Max {
            return Ok(());
        }
        Err(self
            .fault(Code::OverflowUnproven, format!("the 32-bit sum of a window of {h}x{w} bytes may overflow"))
            .help("keep this operator in float"))
    }

    pub fn pool(&mut self, kind: PoolKind, window: &Window, x: Value, y: Value) -> Result<(), Diagnostic> {
        let g = self.g;
        let window = plane(window).ok_or_else(|| self.fault(Code::UnsupportedForm, "pooling over three spatial axes"))?;
        let quants = match &g.ty(x).elem {
            e if e.is_f32() => None,
            e => Some((self.comparable(e)?, self.comparable(&g.ty(y).elem)?)),
        };
        if quants.is_some() {
            self.sum_fits(kind, window[0].kernel, window[1].kernel)?;
        }
        let (from, input) = self.image_plain(x, false)?;
        let (to, output) = self.image_result(y, &channels_last(g.ty(y).rank()))?;
        let what = match quants {
            None => What::PoolFloat { kind, input, output, window },
            Some((from, to)) => What::Pool { kind, input, output, window, from, to },
        };
        let (reads, writes) = (vec![self.whole(from)], vec![self.whole(to)]);
        self.emit(what, reads, writes);
        Ok(())
    }

    /// A reduction of bytes: one window over all reduced elements.
    pub fn reduce_bytes(&mut self, kind: PoolKind, axes: &[usize], x: Value, y: Value) -> Result<(), Diagnostic> {
        let g = self.g;
        let (from, to) = (self.byte_quant(&g.ty(x).elem)?, self.byte_quant(&g.ty(y).elem)?);
        let places = self.places(x);
        let found = places.iter().find_map(|p| reduction_image(p, axes).map(|i| (p.buf, i)));
        let (buf, (input, kept)) = match found {
            Some(found) => found,
            None => {
                // Reduced elements last: rows of them, one channel.
                let rank = g.ty(x).rank();
                let order: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).chain(axes.iter().copied()).collect();
                let copy = self.fresh(x, &order);
                self.copy(&places[0], &copy, 1);
                let image = reduction_image(&copy, axes).ok_or_else(|| self.fault(Code::Internal, "a reduction without an image"))?;
                (copy.buf, image)
            }
        };
        self.sum_fits(kind, input.h, input.w)?;
        // Results in the memory order of the kept elements: batch outside, channels inside.
        let out = View { buf, start: 0, axes: kept };
        let logical = out.reshape(&g.ty(y).dims).ok_or_else(|| self.fault(Code::Internal, "the shape of a reduction"))?;
        let to_view = self.result_like(y, &logical);
        let output = Image { start: to_view.start, ..Image::dense(input.n, 1, 1, input.c) };
        let window = [WindowDim::new(input.h), WindowDim::new(input.w)];
        let (reads, writes) = (vec![self.whole(buf)], vec![self.whole(to_view.buf)]);
        self.emit(What::Pool { kind, input, output, window, from, to }, reads, writes);
        Ok(())
    }
}

/// A view as an image whose rows and columns are the reduced elements, with the axes of the kept elements in a dense
/// result of shape `[n][c]`.
fn reduction_image(v: &View, axes: &[usize]) -> Option<(Image, Vec<Vec<Factor>>)> {
    let reduced = merge(axes.iter().flat_map(|&a| v.axes[a].iter().copied()));
    let mut kept: Vec<(usize, Factor)> =
        (0..v.axes.len()).filter(|a| !axes.contains(a)).flat_map(|a| v.axes[a].iter().map(move |f| (a, *f))).collect();
    if reduced.len() > 2 || kept.iter().any(|(_, f)| f.step <= 0) {
        return None;
    }
    kept.sort_by_key(|(_, f)| std::cmp::Reverse(f.step));
    // Trailing kept factors that fill a range of memory are channels.
    let mut channels = 1usize;
    let mut split = kept.len();
    while split > 0 && kept[split - 1].1.step == channels as isize {
        channels *= kept[split - 1].1.extent;
        split -= 1;
    }
    let batch = merge(kept[..split].iter().map(|(_, f)| *f));
    if batch.len() > 1 {
        return None;
    }
    let mut image_axes = vec![batch];
    image_axes.extend(std::iter::repeat_n(vec![], 2 - reduced.len()));
    image_axes.extend(reduced.iter().map(|f| vec![*f]));
    image_axes.push(merge([Factor { extent: channels, step: 1 }]));
    let image = View { buf: v.buf, start: v.start, axes: image_axes }.image()?;
    let mut result = vec![vec![]; v.axes.len()];
    let mut step = 1isize;
    for (a, f) in kept.iter().rev() {
        let axis: &mut Vec<Factor> = &mut result[*a];
        axis.push(Factor { extent: f.extent, step });
        step *= f.extent as isize;
    }
    // Logical order within an axis: as the operand has its factors.
    for (a, axis) in result.iter_mut().enumerate() {
        let operand = &v.axes[a];
        let mut sorted: Vec<Factor> = operand.clone();
        sorted.sort_by_key(|f| f.step);
        let positions: Vec<usize> = operand.iter().filter_map(|f| sorted.iter().position(|s| s == f)).collect();
        if !axis.is_empty() {
            *axis = merge(positions.into_iter().map(|p| axis[p]));
        }
    }
    Some((image, result))
}
