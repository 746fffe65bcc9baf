//! Convolutions, and products against constant weights as convolutions whose pixels are rows.

use crate::{
    build::{Buf, Build},
    codes,
    constants::{Packing, Product},
    margins::{Margins, channels_last, extents, from_image, plane, to_image_axes},
    view::{Factor, View, iterate, merge},
};
use quernel_ir::{
    Binary, Code, Diagnostic, NodeData, Op, Value, WindowDim,
    program::{Conv, Image, WeightDims, WeightLayout, What},
};

/// The geometry of a layer before its constants are known.
struct Shape {
    x: (Buf, Image),
    y: (Buf, Image),
    residual: Option<(Buf, Image)>,
    window: [WindowDim; 2],
    groups: usize,
}

impl Build<'_> {
    /// A convolution of one or two spatial axes.
    pub fn conv(&mut self, data: &NodeData) -> Result<(), Diagnostic> {
        let (Op::Conv { window, groups, .. }, Some(p)) = (&data.op, Product::of(data)) else {
            return Err(self.fault(Code::Internal, "not a convolution"));
        };
        let rank = self.g.ty(p.x).rank();
        let window = plane(window).ok_or_else(|| self.fault(Code::UnsupportedForm, "a convolution over three spatial axes"))?;
        let (xd, yd) = (extents(&self.g.ty(p.x).dims), extents(&self.g.ty(p.y).dims));
        let (Some(xd), Some(yd)) = (xd, yd) else { return Err(self.fault(Code::Internal, "a convolution of rank other than 3 and 4")) };
        let need = Margins::needed(window, [xd[1], xd[2]], [yd[1], yd[2]]);
        let (buf, mut image, covered) = self.image_operand(p.x, need)?;
        let mut geometry = window;
        for d in &mut geometry {
            d.after = 0;
        }
        if covered && !need.none() {
            image.start -= need.top * image.row + need.left * image.pixel;
            image.h = (yd[1] - 1) * window[0].stride + window[0].span();
            image.w = (yd[2] - 1) * window[1].stride + window[1].span();
        }
        if covered {
            for d in &mut geometry {
                d.before = 0;
            }
        } else {
            geometry = window;
        }
        let residual = match p.residual {
            Some(r) => Some(self.image_plain(r, true)?),
            None => None,
        };
        let order = channels_last(rank);
        let result = self.image_result(p.y, &order)?;
        let shape = Shape { x: (buf, image), y: result, residual, window: geometry, groups: *groups };
        let (kh, kw) = (window[0].kernel, window[1].kernel);
        let per_group = xd[3] / groups;
        self.layer(&p, shape, !need.none(), &|o, ky, kx, i| ((o * per_group + i) * kh + ky) * kw + kx)
    }

    /// A product against constant weights: a 1x1 convolution over rows.
    pub fn dense(&mut self, data: &NodeData) -> Result<(), Diagnostic> {
        let p = Product::of(data).ok_or_else(|| self.fault(Code::Internal, "not a product"))?;
        let ty = self.g.ty(p.x);
        let (rank, depth) = (ty.rank(), ty.dims[ty.rank() - 1]);
        let outputs = self.g.ty(p.w).dims[0];
        // Integer sums have no order, so the weights can follow the memory order of the operand's columns; float
        // sums keep the logical order.
        let any_order = ty.elem.quant().is_some();
        let place = self.place_where(p.x, |s, v| s.rows_of(v, any_order).is_some(), |s, _| s.fresh(p.x, &(0..rank).collect::<Vec<_>>()));
        let (image, columns) = self.rows_of(&place, any_order).ok_or_else(|| self.fault(Code::Internal, "rows of a row-major operand"))?;
        let split = [image.n, image.h, image.w, outputs];
        let identity: Vec<usize> = (0..rank).collect();
        let residual = match p.residual {
            Some(r) => {
                let fits = |s: &Self, v: &View| s.has_slack(v.buf) && v.reshape(&split).and_then(|v| v.image()).is_some();
                let view = self.place_where(r, fits, |s, _| s.fresh(r, &identity));
                let image = view.reshape(&split).and_then(|v| v.image()).ok_or_else(|| self.fault(Code::Internal, "rows of a residual"))?;
                Some((view.buf, image))
            }
            None => None,
        };
        let mut result = self.result(p.y, &identity);
        if result.reshape(&split).and_then(|v| v.image()).is_none() {
            result = self.fresh(p.y, &identity);
            self.places.insert(p.y, vec![result.clone()]);
        }
        let output = result.reshape(&split).and_then(|v| v.image()).ok_or_else(|| self.fault(Code::Internal, "rows of a result"))?;
        let shape = Shape { x: (place.buf, image), y: (result.buf, output), residual, window: [WindowDim::new(1); 2], groups: 1 };
        self.layer(&p, shape, false, &|o, _, _, i| o * depth + columns[i])
    }

    /// The rows of an operand as pixels, and which logical column each memory column is.
    fn rows_of(&self, v: &View, any_order: bool) -> Option<(Image, Vec<usize>)> {
        if !self.has_slack(v.buf) && any_order {
            return None;
        }
        let (last, leading) = v.axes.split_last()?;
        let rows = merge(leading.iter().flatten().copied());
        if rows.len() > 3 {
            return None;
        }
        let depth = View::extent(last);
        let columns = memory_order(last)?;
        if !any_order && columns.windows(2).any(|p| p[0] > p[1]) {
            return None;
        }
        let mut axes = vec![vec![]; 3 - rows.len()];
        axes.extend(rows.iter().map(|f| vec![*f]));
        axes.push(merge([Factor { extent: depth, step: 1 }]));
        Some((View { buf: v.buf, start: v.start, axes }.image()?, columns))
    }

    /// Emits the step of a layer.
    fn layer(
        &mut self,
        p: &Product,
        shape: Shape,
        padded: bool,
        at: &dyn Fn(usize, usize, usize, usize) -> usize,
    ) -> Result<(), Diagnostic> {
        let Shape { x: (x, input), y: (y, output), residual, window, groups } = shape;
        let dims = WeightDims { o: output.c, i: input.c / groups, kh: window[0].kernel, kw: window[1].kernel, groups };
        let integer = self.g.ty(p.x).elem.quant().is_some();
        let width = self.width(p.x);
        let contiguous = window[1].dilation == 1 && input.pixel == input.c;
        let layout = quernel_kernels::packing(dims, width, contiguous);
        let pack = Packing { dims, layout, at, padded };
        if layout == WeightLayout::Plain {
            self.remark(format!("{} output channels per group are too few for a vector kernel", dims.o / dims.groups));
        }
        let mut conv = Conv { input, output, window, groups, layout, residual: residual.map(|(_, image)| image) };
        if !integer {
            let bias = self.float_bias(p, dims.o)?;
            if let Some(codes) = self.float_codes(p, &pack)? {
                self.float_layer(&codes::FloatLayer {
                    name: &codes.name,
                    conv: &conv,
                    packed: &codes.packed,
                    scales: &codes.scales,
                    group: codes.group,
                    bounds: p.act.bounds(),
                    x: self.whole(x),
                    y: self.whole(y),
                    bias,
                    residual: residual.map(|(r, _)| self.whole(r)),
                });
                return Ok(());
            }
            let weights = self.float_weights(p, &pack)?;
            let mut reads = vec![self.whole(x), weights, bias];
            reads.extend(residual.map(|(r, _)| self.whole(r)));
            let (lo, hi) = p.act.bounds();
            let writes = vec![self.whole(y)];
            self.emit(What::ConvFloat { conv, lo, hi }, reads, writes);
            return Ok(());
        }
        let bits = self.g.ty(p.w).elem.quant().map_or(8, |q| q.storage().bits());
        if bits < 8 && (groups > 1 || layout == WeightLayout::Plain || width == 2) {
            self.remark(format!("its weights of {bits} bits lie in the object as bytes: its kernels read no codes"));
        } else if (5..8).contains(&bits) {
            self.remark(format!("its weights of {bits} bits lie in the object as bytes: codes have 4, 2 or 1"));
        }
        let parts = self.integer_parts(p, &pack)?;
        let (quant, _) = self.stored(&self.g.ty(p.x).elem)?;
        let (zero, signed) = (quant.zero, quant.signed);
        // A float residual of an integer sum: scaled first, then added, then clipped.
        let late = residual.filter(|_| parts.factors.is_none());
        if late.is_some() {
            conv.residual = None;
        }
        let mut residual_signed = false;
        if let (Some(_), Some(v)) = (parts.factors, p.residual) {
            residual_signed = self.stored(&self.g.ty(v).elem)?.0.signed;
        }
        self.integer_layer(&codes::Layer {
            name: &parts.name,
            conv: &conv,
            packed: &parts.packed,
            words: width == 2,
            zero,
            signed,
            residual_signed,
            end: parts.end,
            x: self.whole(x),
            y: self.whole(y),
            bias: parts.bias,
            biases: &parts.biases,
            scale: parts.scale,
            binary: !signed && quant.lo >= 0 && quant.hi <= 1,
            residual: residual.zip(parts.factors).map(|((r, _), f)| (self.whole(r), f)),
        });
        if let Some((r, image)) = late {
            let (a, r_view) = (View::of_image(y, &output), View::of_image(r, &image));
            let over = iterate(&[&a, &r_view, &a]).ok_or_else(|| self.fault(Code::Internal, "a residual's shape"))?;
            let (lo, hi) = p.act.bounds();
            let reads = vec![self.whole(y), self.whole(r)];
            self.emit(What::BinaryFloat { op: Binary::Add, over, lo, hi }, reads, vec![self.whole(y)]);
        }
        Ok(())
    }

    /// An operand as an image with at least the margin `need`; the flag says whether it has that margin. It lacks
    /// it only where the padding dwarfs the image.
    pub fn image_operand(&mut self, v: Value, need: Margins) -> Result<(Buf, Image, bool), Diagnostic> {
        if need.none() {
            let (buf, image) = self.image_plain(v, true)?;
            return Ok((buf, image, true));
        }
        let places = self.places(v);
        for p in &places {
            if let (Some(image), Some(halo)) = (to_image_axes(p).and_then(|p| p.image()), &self.bufs[p.buf].halo)
                && halo.holds(&image)
                && halo.margins.covers(need)
            {
                return Ok((p.buf, halo.image, true));
            }
        }
        let wish = self.margins.get(&v).copied().unwrap_or_default().max(need);
        let to = match self.with_margins(v, wish) {
            Some(to) => Some(to),
            None => self.with_margins(v, need),
        };
        let Some(to) = to else {
            self.remark("its padding dwarfs its operand, so the kernel checks every tap");
            let (buf, image) = self.image_plain(v, true)?;
            return Ok((buf, image, false));
        };
        self.copy(&places[0], &to, self.width(v));
        let buf = to.buf;
        let halo = self.bufs[buf].halo.as_ref();
        let image = halo.map(|h| h.image).ok_or_else(|| self.fault(Code::Internal, "an image with margins"))?;
        self.places.entry(v).or_default().push(to);
        Ok((buf, image, true))
    }

    /// A value as a channels-last image. `slack`: where kernels may read a little past its end.
    pub fn image_plain(&mut self, v: Value, slack: bool) -> Result<(Buf, Image), Diagnostic> {
        let order = channels_last(self.g.ty(v).rank());
        let fits = |s: &Self, p: &View| (!slack || s.has_slack(p.buf)) && to_image_axes(p).is_some_and(|p| p.image().is_some());
        // A copy has the margins other readers want, so that they need none of their own.
        let view = self.place_where(v, fits, |s, _| s.allot(v, &order));
        let image =
            to_image_axes(&view).and_then(|p| p.image()).ok_or_else(|| self.fault(Code::Internal, "an operand that is no image"))?;
        Ok((view.buf, image))
    }

    /// Where a result goes that is written as an image.
    pub fn image_result(&mut self, v: Value, order: &[usize]) -> Result<(Buf, Image), Diagnostic> {
        let wanted = self.result(v, order);
        if let Some(image) = to_image_axes(&wanted).and_then(|p| p.image()) {
            return Ok((wanted.buf, image));
        }
        let own = self.allot(v, order);
        let image = to_image_axes(&own).and_then(|p| p.image()).ok_or_else(|| self.fault(Code::Internal, "a result that is no image"))?;
        let rank = self.g.ty(v).rank();
        self.places.insert(v, vec![from_image(own.buf, &image, rank)]);
        Ok((own.buf, image))
    }
}

/// For an axis that fills a range of memory: the logical index at each memory position.
fn memory_order(axis: &[Factor]) -> Option<Vec<usize>> {
    let dense = View { buf: quernel_ir::Id::new(0), start: 0, axes: vec![axis.to_vec()] }.is_dense();
    if !dense {
        return None;
    }
    let extent = View::extent(axis);
    let mut order = vec![0; extent];
    for logical in 0..extent {
        let mut rest = logical;
        let mut at = 0;
        for f in axis.iter().rev() {
            at += (rest % f.extent) * f.step.unsigned_abs();
            rest /= f.extent;
        }
        order[at] = logical;
    }
    Some(order)
}
