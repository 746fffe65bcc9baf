//! Which elements a step touches: one [`View`] per slot, from the documentation of [`What`].
//!
//! Everything is computed with checks, because a program may come from a file.

use quernel_ir::{
    Storage, WindowDim, codes, exact,
    program::{ByteQuant, Conv, End, Image, PANEL, Places, Strided, WeightLayout, What},
};

/// Largest extent of an axis that indices name.
const MAX_EXTENT: usize = 1 << 40;
/// Largest extent, step or padding of a window: keeps positions far from overflow.
const MAX_WINDOW: usize = 1 << 30;

/// A set of elements of `width` bytes, in elements from the start of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub(crate) width: usize,
    pub(crate) start: usize,
    pub(crate) dims: Vec<usize>,
    pub(crate) steps: Vec<isize>,
}

impl View {
    fn new(width: usize, dims: &[usize], steps: &[usize]) -> Result<Self, String> {
        let steps = steps.iter().map(|&s| isize::try_from(s).map_err(|_| "a stride overflows".to_owned())).collect::<Result<_, _>>()?;
        Ok(Self { width, start: 0, dims: dims.to_vec(), steps })
    }
    fn dense(width: usize, count: usize) -> Self {
        Self { width, start: 0, dims: vec![count], steps: vec![1] }
    }
    fn image(width: usize, i: &Image) -> Result<Self, String> {
        if [i.n, i.h, i.w, i.c].contains(&0) {
            return Err("an image has an extent of 0".into());
        }
        let view = Self { start: i.start, ..Self::new(width, &[i.n, i.h, i.w, i.c], &[i.batch, i.row, i.pixel, 1])? };
        // Without this a small slot could hold an image of any number of elements.
        if view.injective() { Ok(view) } else { Err(format!("elements of {i:?} coincide")) }
    }
    fn strided(width: usize, over: &Strided, operand: usize) -> Result<Self, String> {
        let s = over.operands.get(operand).ok_or_else(|| format!("operand {operand} has no strides"))?;
        if s.steps.len() != over.dims.len() {
            return Err(format!("operand {operand} has {} strides for {} axes", s.steps.len(), over.dims.len()));
        }
        Ok(Self { width, start: s.start, dims: over.dims.clone(), steps: s.steps.clone() })
    }

    /// Number of elements, repeats included.
    pub(crate) fn count(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d))
    }

    /// First byte and one past the last byte; `None` when that leaves the address space. An empty view has `(0, 0)`.
    pub(crate) fn hull(&self) -> Option<(usize, usize)> {
        if self.dims.contains(&0) {
            return Some((0, 0));
        }
        let (mut lo, mut hi) = (self.start as i128, self.start as i128);
        for (&d, &s) in self.dims.iter().zip(&self.steps) {
            let reach = (d as i128 - 1).checked_mul(s as i128)?;
            if reach < 0 { lo = lo.checked_add(reach)? } else { hi = hi.checked_add(reach)? }
        }
        let width = self.width as i128;
        Some((usize::try_from(lo.checked_mul(width)?).ok()?, usize::try_from(hi.checked_add(1)?.checked_mul(width)?).ok()?))
    }

    /// Axes of more than one element as (distance, extent), smallest distance first.
    fn axes(&self) -> Vec<(usize, usize)> {
        let mut axes: Vec<(usize, usize)> =
            self.dims.iter().zip(&self.steps).filter(|(d, _)| **d > 1).map(|(&d, &s)| (s.unsigned_abs(), d)).collect();
        axes.sort_unstable();
        axes
    }

    /// Whether each element is its own: every axis steps over all that the finer axes span. Sufficient, not necessary.
    pub(crate) fn injective(&self) -> bool {
        let mut span = 1usize;
        self.axes().into_iter().all(|(step, extent)| {
            let ok = step >= span;
            span = span.saturating_add(step.saturating_mul(extent - 1));
            ok
        })
    }

    /// The touched bytes as sorted, disjoint intervals, `base` added. The hull must exist.
    pub(crate) fn intervals(&self, base: usize) -> Vec<(usize, usize)> {
        let Some((lo, hi)) = self.hull() else { return vec![] };
        if lo == hi {
            return vec![];
        }
        let mut run = 1usize;
        let mut outer = vec![];
        for (step, extent) in self.axes() {
            if step == 0 {
                continue;
            }
            if outer.is_empty() && step <= run { run += step * (extent - 1) } else { outer.push((step, extent)) }
        }
        let mut starts = vec![lo / self.width];
        for &(step, extent) in outer.iter().rev() {
            starts = starts.into_iter().flat_map(|s| (0..extent).map(move |i| s + i * step)).collect();
        }
        starts.sort_unstable();
        let mut merged: Vec<(usize, usize)> = vec![];
        for s in starts {
            let (from, to) = (base + s * self.width, base + (s + run) * self.width);
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        merged
    }
}

/// What a step does with one slot.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) view: View,
    /// Whether the slot is exactly the view: packed constants.
    pub(crate) exact: bool,
}

/// Views of the reads and of the writes.
pub(crate) struct Accesses {
    pub(crate) reads: Vec<Access>,
    pub(crate) writes: Vec<Access>,
    /// Reads that may be the very elements of the write, because no result depends on elements behind those
    /// already overwritten: each on its own, or a row on itself, which is summed before it is written.
    pub(crate) in_place: Vec<usize>,
}

fn open(view: View) -> Access {
    Access { view, exact: false }
}
fn packed(width: usize, count: usize) -> Access {
    Access { view: View::dense(width, count), exact: true }
}

/// The views of a step. `Err` when extents contradict each other or parameters leave their ranges.
pub(crate) fn accesses(what: &What) -> Result<Accesses, String> {
    let product = |xs: &[usize]| match xs.iter().try_fold(1usize, |a, x| a.checked_mul(*x)) {
        Some(0) => Err("an extent is 0".to_owned()),
        Some(n) => Ok(n),
        None => Err("extents overflow".to_owned()),
    };
    let (reads, writes, in_place) = match what {
        What::Quantize { count, to, width } => {
            quant(to, *width)?;
            (vec![open(View::dense(4, *count))], open(View::dense(*width, *count)), vec![])
        }
        What::Dequantize { count, from, width } => {
            quant(from, *width)?;
            (vec![open(View::dense(*width, *count))], open(View::dense(4, *count)), vec![])
        }
        What::Conv { conv: c, zero, signed, end, .. } | What::ConvWords { conv: c, zero, signed, end, .. } => {
            let width = if matches!(what, What::ConvWords { .. }) { 2 } else { 1 };
            let (weights, o16) = conv(c)?;
            within("zero point", *zero, *signed, width)?;
            let mut reads = vec![open(View::image(width, &c.input)?), packed(1, weights), packed(4, o16), packed(4, o16)];
            if let Some(r) = &c.residual {
                reads.extend([open(View::image(width, r)?), packed(2, o16)]);
            }
            let result = sum_end(end, width)?;
            // Both are equally wide only when the result is no float.
            (reads, open(View::image(result, &c.output)?), if result == width { vec![4] } else { vec![] })
        }
        What::ConvCodes { conv: c, bits, end, .. } => {
            let (weights, o16) = conv(c)?;
            code_bits(*bits)?;
            if !codes::one_run(c.layout, c.weight_dims()) || c.padded() || c.residual.is_some() {
                return Err("codes want panels of depth 4 in one run, no padding and no residual".into());
            }
            let panels = o16 / PANEL;
            let codes = panels * codes::packed_len(weights / panels, *bits);
            let reads = vec![open(View::image(1, &c.input)?), packed(1, codes), packed(4, o16), packed(4, o16), packed(1, codes::TABLE)];
            (reads, open(View::image(sum_end(end, 1)?, &c.output)?), vec![])
        }
        What::ConvBits { conv: c, end } => {
            let (weights, o16) = conv(c)?;
            if !matches!(c.layout, WeightLayout::Panels { depth: 4, .. }) || c.groups != 1 || c.padded() || c.residual.is_some() {
                return Err("bits want panels of depth 4 of one group, no padding and no residual".into());
            }
            let reads = vec![open(View::image(1, &c.input)?), packed(1, weights), packed(4, o16), packed(4, o16)];
            (reads, open(View::image(sum_end(end, 1)?, &c.output)?), vec![])
        }
        What::PackBits { rows, k } => {
            let bytes = product(&[*rows, k.div_ceil(32), 4])?;
            (vec![open(View::dense(1, product(&[*rows, *k])?))], open(View::dense(1, bytes)), vec![])
        }
        What::Expand { count, bits } => {
            code_bits(*bits)?;
            if *count == 0 || !count.is_multiple_of(codes::UNIT) {
                return Err(format!("{count} codes are no whole units"));
            }
            (vec![packed(1, codes::packed_len(*count, *bits)), packed(1, codes::TABLE)], packed(1, *count), vec![])
        }
        What::ExpandFloat { panels, taps, group, bits } => {
            let lanes = product(&[*panels, *taps, PANEL])? / panels;
            if *bits != 8 {
                code_bits(*bits)?;
            }
            let whole = *group > 0 && taps.is_multiple_of(*group) && (group * PANEL).is_multiple_of(codes::per_unit(*bits));
            if group != taps && !whole {
                return Err(format!("groups of {group} of {taps} taps in codes of {bits} bits"));
            }
            let units = product(&[*panels, codes::packed_len(lanes, *bits)])?;
            let mut reads = vec![packed(1, units), packed(4, panels * (taps / group) * PANEL)];
            reads.extend((*bits < 8).then(|| packed(1, codes::TABLE)));
            (reads, packed(4, panels * lanes), vec![])
        }
        What::ConvFloat { conv: c, lo, hi } => {
            let (weights, o16) = conv(c)?;
            bounds(*lo, *hi)?;
            let mut reads = vec![open(View::image(4, &c.input)?), packed(4, weights), packed(4, o16)];
            if let Some(r) = &c.residual {
                reads.push(open(View::image(4, r)?));
            }
            (reads, open(View::image(4, &c.output)?), vec![3])
        }
        What::Pool { input, output, window, from, to, .. } => {
            byte_quant(from)?;
            byte_quant(to)?;
            pool(input, output, window)?;
            (vec![open(View::image(1, input)?)], open(View::image(1, output)?), vec![])
        }
        What::PoolFloat { input, output, window, .. } => {
            pool(input, output, window)?;
            (vec![open(View::image(4, input)?)], open(View::image(4, output)?), vec![])
        }
        What::Lookup { count } => (vec![open(View::dense(1, *count)), packed(1, 256)], open(View::dense(1, *count)), vec![0]),
        What::UnaryFloat { count, .. } => (vec![open(View::dense(4, *count))], open(View::dense(4, *count)), vec![0]),
        What::BinaryBytes { over, a, b, to, .. } => {
            [a, b, to].into_iter().try_for_each(byte_quant)?;
            (vec![open(View::strided(1, over, 0)?), open(View::strided(1, over, 1)?)], open(View::strided(1, over, 2)?), vec![0, 1])
        }
        What::BinaryFloat { over, lo, hi, .. } => {
            bounds(*lo, *hi)?;
            (vec![open(View::strided(4, over, 0)?), open(View::strided(4, over, 1)?)], open(View::strided(4, over, 2)?), vec![0, 1])
        }
        What::UnaryDouble { count, .. } => (vec![open(View::dense(8, *count))], open(View::dense(8, *count)), vec![0]),
        What::BinaryPlain { scalar, over, .. } => {
            let view = |operand| View::strided(scalar.bytes(), over, operand).map(open);
            (vec![view(0)?, view(1)?], view(2)?, vec![0, 1])
        }
        What::Compare { scalar, over, .. } => {
            let view = |operand| View::strided(scalar.bytes(), over, operand).map(open);
            // Elements of more than a byte lie elsewhere than their results.
            let in_place = if scalar.bytes() == 1 { vec![0, 1] } else { vec![] };
            (vec![view(0)?, view(1)?], open(View::strided(1, over, 2)?), in_place)
        }
        What::Select { width, over } => {
            element_width(*width)?;
            let view = |operand| View::strided(*width, over, operand).map(open);
            let in_place = if *width == 1 { vec![0, 1, 2] } else { vec![1, 2] };
            (vec![open(View::strided(1, over, 0)?), view(1)?, view(2)?], view(3)?, in_place)
        }
        What::Cast { from, to, count } => {
            let in_place = if from.bytes() == to.bytes() { vec![0] } else { vec![] };
            (vec![open(View::dense(from.bytes(), *count))], open(View::dense(to.bytes(), *count)), in_place)
        }
        What::MatMulFloat { batch, m, k, n, a_batch, b_batch } => {
            product(&[*batch, *m, *k, *n])?;
            let a = View::new(4, &[*batch, *m, *k], &[*a_batch, *k, 1])?;
            let b = View::new(4, &[*batch, *k, *n], &[*b_batch, *n, 1])?;
            (vec![open(a), open(b)], open(View::dense(4, product(&[*batch, *m, *n])?)), vec![])
        }
        What::PackPanels { over, center, rest, left, signed } => {
            let [sets @ .., k, n] = &over.dims[..] else { return Err("panels of less than a matrix".into()) };
            within("zero point", *left, *signed, 1)?;
            within("center", *center, false, 1)?;
            let sets = product(sets)?;
            let bytes = panels(*k, *n, 1 + rest.len())?;
            let each = bytes.checked_add(n.next_multiple_of(PANEL).checked_mul(8).ok_or("extents overflow")?).ok_or("extents overflow")?;
            (vec![open(View::strided(1, over, 0)?)], packed(1, product(&[sets, each])?), vec![])
        }
        What::MatMulBytes { product: p, end, .. } => {
            let all: Vec<usize> = p.over.dims.iter().copied().chain([p.m, p.k, p.n, p.segments]).collect();
            product(&all)?;
            if p.over.operands.len() != 3 || p.over.operands[1].start != 0 || p.over.operands[1].steps.iter().any(|s| *s < 0) {
                return Err("products want strides of both operands and the result, those of panels from 0 upwards".into());
            }
            let matrix = |operand: usize, width: usize, row: usize, columns: usize| {
                let mut v = View::strided(width, &p.over, operand)?;
                v.dims.extend([p.m, columns]);
                v.steps.extend([isize::try_from(row).map_err(|_| "a stride overflows")?, 1]);
                Ok::<View, String>(v)
            };
            let set = View::strided(1, &p.over, 1)?.hull().ok_or("extents overflow")?.1;
            let (bytes, n16) = (panels(p.k, p.n, p.segments)?, p.n.next_multiple_of(PANEL));
            let reads = vec![
                open(matrix(0, 1, p.rows[0], p.k)?),
                packed(1, product(&[set, bytes])?),
                packed(4, product(&[set, 2, n16])?),
                packed(4, n16),
            ];
            (reads, open(matrix(2, sum_end(end, 1)?, p.rows[1], p.n)?), vec![])
        }
        What::ReduceFloat { outer, len, inner, .. } => {
            (vec![open(View::dense(4, product(&[*outer, *len, *inner])?))], open(View::dense(4, product(&[*outer, *inner])?)), vec![])
        }
        What::SoftmaxFloat { outer, len, inner, .. } => {
            let count = product(&[*outer, *len, *inner])?;
            (vec![open(View::dense(4, count))], open(View::dense(4, count)), vec![])
        }
        What::SoftmaxBytes { outer, len, inner, from, to } => {
            byte_quant(from)?;
            to.iter().try_for_each(byte_quant)?;
            let count = product(&[*outer, *len, *inner])?;
            (vec![open(View::dense(1, count)), packed(4, 256)], open(View::dense(if to.is_some() { 1 } else { 4 }, count)), vec![])
        }
        What::LayerNorm { rows, len, from, to, .. } => {
            [from, to].into_iter().try_for_each(byte_quant)?;
            if *len > exact::MOST_NORM {
                return Err(format!("rows of {len} elements"));
            }
            let count = product(&[*rows, *len])?;
            let parameters = || open(View::dense(4, *len));
            (vec![open(View::dense(1, count)), parameters(), parameters()], open(View::dense(1, count)), vec![0])
        }
        What::Gather { width, places, over } => {
            element_width(*width)?;
            let (x, indices) = (named(*width, over, 0, places)?, indices(over, 1, places)?);
            (vec![open(x), open(indices)], open(View::strided(*width, over, 2)?), vec![])
        }
        What::Scatter { width, places, over, reduce } => {
            element_width(*width)?;
            if reduce.is_some_and(|(_, s)| s.bytes() != *width) {
                return Err(format!("combines elements of {width} bytes as others"));
            }
            // Axes of the indices alone do not move in the result.
            let mut y = named(*width, over, 2, places)?;
            let moving: Vec<usize> = (0..y.dims.len()).filter(|&a| y.steps[a] != 0 || y.dims[a] == 0).collect();
            (y.dims, y.steps) = (moving.iter().map(|&a| y.dims[a]).collect(), moving.iter().map(|&a| y.steps[a]).collect());
            let reads = vec![open(indices(over, 0, places)?), open(View::strided(*width, over, 1)?), open(y.clone())];
            (reads, open(y), vec![2])
        }
        What::Reduce { elem, outer, len, inner, .. } => {
            let x = View::dense(elem.bytes(), product(&[*outer, *len, *inner])?);
            (vec![open(x)], open(View::dense(elem.bytes(), product(&[*outer, *inner])?)), vec![])
        }
        What::Cumulative { elem, outer, len, inner, .. } => {
            let x = View::dense(elem.bytes(), product(&[*outer, *len, *inner])?);
            (vec![open(x.clone())], open(x), vec![])
        }
        What::TopK { elem, outer, len, inner, k, .. } => {
            if !(1..=*len).contains(k) {
                return Err(format!("{k} of {len} elements"));
            }
            let x = View::dense(elem.bytes(), product(&[*outer, *len, *inner])?);
            (vec![open(x)], open(View::dense(8, product(&[*outer, *k, *inner])?)), vec![])
        }
        What::Move { width, over } => {
            element_width(*width)?;
            (vec![open(View::strided(*width, over, 0)?)], open(View::strided(*width, over, 1)?), vec![])
        }
        What::Fill { width, over, .. } => {
            element_width(*width)?;
            (vec![], open(View::strided(*width, over, 0)?), vec![])
        }
    };
    Ok(Accesses { reads, writes: vec![writes], in_place })
}

/// Everything that indices may name in an operand.
fn named(width: usize, over: &Strided, operand: usize, places: &Places) -> Result<View, String> {
    let mut view = View::strided(width, over, operand)?;
    if places.axes.is_empty() || places.axes.iter().any(|(extent, _)| *extent == 0 || *extent > MAX_EXTENT) {
        return Err("indices name no axis, or one without elements".into());
    }
    view.dims.extend(places.axes.iter().map(|a| a.0));
    view.steps.extend(places.axes.iter().map(|a| a.1));
    Ok(view)
}

/// The indices themselves, with all coordinates.
fn indices(over: &Strided, operand: usize, places: &Places) -> Result<View, String> {
    let mut view = View::strided(if places.wide { 8 } else { 4 }, over, operand)?;
    view.dims.push(places.axes.len());
    view.steps.push(places.apart);
    Ok(view)
}

fn code_bits(bits: u8) -> Result<(), String> {
    if matches!(bits, 1 | 2 | 4) { Ok(()) } else { Err(format!("codes of {bits} bits")) }
}

/// Bytes of a result.
fn sum_end(end: &End, width: usize) -> Result<usize, String> {
    match end {
        End::Requantize { zero, lo, hi, signed } => {
            for (name, v) in [("zero point", zero), ("lower bound", lo), ("upper bound", hi)] {
                within(name, *v, *signed, width)?;
            }
            if lo > hi { Err("the bounds of the result are reversed".into()) } else { Ok(width) }
        }
        End::Float { lo, hi } => bounds(*lo, *hi).map(|()| 4),
    }
}

/// Bytes of the panels of a matrix.
fn panels(k: usize, n: usize, segments: usize) -> Result<usize, String> {
    // An upper bound: `panel_set` multiplies without checks.
    let most = [n.checked_add(PANEL), k.checked_add(4), Some(segments)];
    let bound = most.into_iter().try_fold(1usize, |a, x| a.checked_mul(x?));
    bound.map(|_| quernel_ir::program::panel_set(k, n, segments)).ok_or_else(|| "panels overflow".to_owned())
}

fn element_width(width: usize) -> Result<(), String> {
    if [1, 2, 4, 8].contains(&width) { Ok(()) } else { Err(format!("elements of {width} bytes")) }
}

fn within(name: &str, v: i32, signed: bool, width: usize) -> Result<(), String> {
    let bits = 8 * width as u8;
    let range = Storage::new(bits, signed).ok_or_else(|| format!("integers of {bits} bits"))?.range();
    if (range.0..=range.1).contains(&v) { Ok(()) } else { Err(format!("{name} {v} does not fit {bits} bits")) }
}

fn byte_quant(q: &ByteQuant) -> Result<(), String> {
    quant(q, 1)
}

fn quant(q: &ByteQuant, width: usize) -> Result<(), String> {
    if !matches!(width, 1 | 2) {
        return Err(format!("integers of {width} bytes"));
    }
    for (name, v) in [("zero point", q.zero), ("lower bound", q.lo), ("upper bound", q.hi)] {
        within(name, v, q.signed, width)?;
    }
    match q.lo <= q.hi && q.scale.is_finite() && q.scale > 0.0 {
        true => Ok(()),
        false => Err(format!("scale {:?} or range [{}:{}] is not valid", q.scale, q.lo, q.hi)),
    }
}

fn bounds(lo: f32, hi: f32) -> Result<(), String> {
    if lo <= hi { Ok(()) } else { Err(format!("bounds {lo:?} and {hi:?} are not an interval")) }
}

fn window(dims: &[WindowDim; 2], input: &Image, output: &Image) -> Result<(), String> {
    for (d, (extent, outputs)) in dims.iter().zip([(input.h, output.h), (input.w, output.w)]) {
        let numbers = [d.kernel, d.stride, d.dilation, d.before, d.after, extent, outputs];
        if numbers.into_iter().any(|n| n > MAX_WINDOW) || [d.kernel, d.stride, d.dilation].contains(&0) {
            return Err("a window has an extent, step or padding out of range".into());
        }
        if d.outputs(extent).is_none_or(|n| outputs > n) {
            return Err(format!("{outputs} results of a window spanning {} over {extent} padded by {}, {}", d.span(), d.before, d.after));
        }
    }
    if input.n == output.n { Ok(()) } else { Err(format!("{} images in, {} out", input.n, output.n)) }
}

fn pool(input: &Image, output: &Image, dims: &[WindowDim; 2]) -> Result<(), String> {
    window(dims, input, output)?;
    if input.c == output.c { Ok(()) } else { Err(format!("{} channels in, {} out", input.c, output.c)) }
}

/// Packed weights and padded output channels, in elements.
fn conv(c: &Conv) -> Result<(usize, usize), String> {
    window(&c.window, &c.input, &c.output)?;
    let (i, o, g) = (c.input.c, c.output.c, c.groups);
    if g == 0 || i == 0 || o == 0 || !i.is_multiple_of(g) || !o.is_multiple_of(g) {
        return Err(format!("{i} and {o} channels in {g} groups"));
    }
    if let Some(r) = &c.residual
        && [r.n, r.h, r.w, r.c] != [c.output.n, c.output.h, c.output.w, o]
    {
        return Err("the residual does not have the extents of the result".into());
    }
    match c.layout {
        WeightLayout::Plain => {}
        WeightLayout::Depthwise if i == g => {}
        WeightLayout::Panels { contiguous, depth } if (1..=64).contains(&depth) && !(contiguous && (g > 1 || c.window[1].dilation > 1)) => {
        }
        layout => return Err(format!("{layout:?} does not fit {i} input channels in {g} groups, dilation {}", c.window[1].dilation)),
    }
    // An upper bound of every layout: `len` itself multiplies without checks.
    let padded = [c.window[0].kernel, c.window[1].kernel, (i / g).saturating_add(64), o.saturating_add(PANEL), PANEL, 64];
    padded.iter().try_fold(1usize, |a, x| a.checked_mul(*x)).ok_or("weights overflow")?;
    (o / g + PANEL)
        .checked_mul(g)
        .and_then(|n| n.checked_mul(padded[0] * padded[1]))
        .and_then(|n| n.checked_mul(padded[2] * 64))
        .ok_or("weights overflow")?;
    Ok((c.layout.len(c.weight_dims()), o.next_multiple_of(PANEL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_the_touched_bytes() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let rank = next(4) as usize;
            let view = View {
                width: [1, 2, 4, 8][next(4) as usize],
                start: 200 + next(5) as usize,
                dims: (0..rank).map(|_| 1 + next(4) as usize).collect(),
                steps: (0..rank).map(|_| next(21) as isize - 10).collect(),
            };
            let mut elements = vec![view.start as isize];
            for (d, s) in view.dims.iter().zip(&view.steps) {
                elements = elements.iter().flat_map(|e| (0..*d as isize).map(move |i| e + i * s)).collect();
            }
            let mut bytes: Vec<usize> = elements.iter().flat_map(|e| (0..view.width).map(move |b| *e as usize * view.width + b)).collect();
            let total = bytes.len();
            bytes.sort_unstable();
            bytes.dedup();
            let listed: Vec<usize> = view.intervals(3).into_iter().flat_map(|(a, b)| a - 3..b - 3).collect();
            assert_eq!(listed, bytes, "{view:?}");
            assert_eq!(view.hull(), Some((bytes[0], bytes[bytes.len() - 1] + 1)));
            // Sufficient, not necessary: what it calls injective is.
            assert!(!view.injective() || bytes.len() == total, "{view:?}");
        }
    }

    #[test]
    fn hulls_do_not_overflow() {
        let far = View { width: 8, start: usize::MAX, dims: vec![usize::MAX, 2], steps: vec![isize::MAX, isize::MIN] };
        assert_eq!(far.hull(), None);
        let before = View { width: 1, start: 1, dims: vec![3], steps: vec![-1] };
        assert_eq!(before.hull(), None);
    }
}
