//! Products of two computed matrices.

use crate::{
    build::Build,
    view::{Axis, Factor, View, iterate, merge},
};
use quernel_ir::{
    Code, Diagnostic, Multiplier, Op, Value, exact,
    infer::broadcast,
    program::{ByteProduct, ByteQuant, End, PANEL, Strided, Strides, What, panel_set},
};

impl Build<'_> {
    pub fn matmul(&mut self, a: Value, b: Value, y: Value, multiplier: Multiplier) -> Result<(), Diagnostic> {
        if self.g.ty(a).elem.quant().is_some() {
            return self.byte_products(a, b, y, multiplier);
        }
        let (ad, bd) = (self.g.ty(a).dims.clone(), self.g.ty(b).dims.clone());
        let (a_lead, a_mat) = ad.split_at(ad.len().saturating_sub(2));
        let (b_lead, b_mat) = bd.split_at(bd.len().saturating_sub(2));
        let (mut m, k) = if a_mat.len() == 1 { (1, a_mat[0]) } else { (a_mat[0], a_mat[1]) };
        let n = if b_mat.len() == 1 { 1 } else { b_mat[1] };
        let lead = broadcast(a_lead, b_lead).unwrap_or_default();
        let mut batch: usize = lead.iter().product();
        let (a_view, mut a_batch) = self.batched(a, a_lead, a_mat, &lead);
        let (b_view, b_batch) = self.batched(b, b_lead, b_mat, &lead);
        if b_batch == 0 && a_batch != 0 {
            // One right operand: the rows of all batches are one matrix.
            (m, batch, a_batch) = (m * batch, 1, 0);
        }
        let identity: Vec<usize> = (0..self.g.ty(y).rank()).collect();
        let like = View::ordered(a_view.buf, &self.g.ty(y).dims, &identity);
        let to = self.result_like(y, &like);
        let (reads, writes) = (vec![self.dense_span(&a_view, 4), self.dense_span(&b_view, 4)], vec![self.dense_span(&to, 4)]);
        self.emit(What::MatMulFloat { batch, m, k, n, a_batch, b_batch }, reads, writes);
        Ok(())
    }

    /// An operand without gaps whose batches are either all of `lead` or one: its view and the elements between
    /// batches.
    fn batched(&mut self, v: Value, own: &[usize], matrix: &[usize], lead: &[usize]) -> (View, usize) {
        let size: usize = matrix.iter().product();
        let (mine, all): (usize, usize) = (own.iter().product(), lead.iter().product());
        if mine == 1 || mine == all {
            return (self.row_major(v), if mine == 1 { 0 } else { size });
        }
        let dims: Vec<usize> = lead.iter().chain(matrix).copied().collect();
        let from = self.place(v).expand(&dims);
        let buf = self.buffer(all * size * self.width(v));
        let to = View::row_major(buf, &dims);
        self.copy(&from, &to, self.width(v));
        (to, size)
    }

    /// Products of bytes: the right operands are packed as the weights of layers, whose pixels are the rows of the left ones.
    fn byte_products(&mut self, a: Value, b: Value, y: Value, multiplier: Multiplier) -> Result<(), Diagnostic> {
        let (qa, qb) = (self.byte_quant(&self.g.ty(a).elem)?, self.byte_quant(&self.g.ty(b).elem)?);
        let [ad, bd, yd] = [a, b, y].map(|v| self.g.ty(v).dims.clone());
        let (k, n) = (ad[ad.len() - 1], if bd.len() == 1 { 1 } else { bd[bd.len() - 1] });
        let weights = Weights::of(&qb, self.storage_range(b));
        let largest = k as i64 * farthest(&qa, (qa.lo, qa.hi)) * farthest(&qb, self.storage_range(b));
        let largest = u32::try_from(largest).ok().filter(|l| *l <= i32::MAX as u32).ok_or_else(|| {
            self.fault(Code::OverflowUnproven, format!("the 32-bit sums may reach {largest}")).help("keep this product in float")
        })?;
        let (scale, end) = self.product_end(&qa, &qb, y, multiplier)?;
        let (left_vector, right_vector) = (ad.len() == 1, bd.len() == 1);

        let fits = |v: &View| even(&v.axes[v.axes.len() - 1], Some(1)) && even(&v.axes[v.axes.len() - 2], None);
        let (left, right) = (|v: &View| matrix(v, left_vector, false), |v: &View| matrix(v, false, right_vector));
        let identity: Vec<usize> = (0..ad.len()).collect();
        let from = self.place_where(a, |s, v| s.has_slack(v.buf) && fits(&left(v)), |s, _| s.fresh(a, &identity));
        // Either the columns or the rows of the right operand lie without gaps.
        let runs = |v: &View| {
            let [.., rows, columns] = &v.axes[..] else { return false };
            even(rows, None) && even(columns, None) && (even(rows, Some(1)) || even(columns, Some(1)))
        };
        let identity: Vec<usize> = (0..bd.len()).collect();
        let right = right(&self.place_where(b, |s, v| s.has_slack(v.buf) && runs(&right(v)), |s, _| s.fresh(b, &identity)));

        let (segments, n16) = (1 + weights.rest.len(), n.next_multiple_of(PANEL));
        let (set, sets) = (panel_set(k, n, segments), bd.iter().rev().skip(2).product::<usize>());
        let buf = self.buffer(sets * (set + 8 * n16));
        let all = self.whole(buf);
        let what =
            What::PackPanels { over: columns_of(&right), center: weights.center, rest: weights.rest, left: qa.zero, signed: qa.signed };
        let read = self.whole(right.buf);
        self.emit(what, vec![read], vec![all]);

        let lead = broadcast(&ad[..ad.len().saturating_sub(2)], &bd[..bd.len().saturating_sub(2)]).unwrap_or_default();
        let panels = View::row_major(buf, &bd[..bd.len().saturating_sub(2)]).expand(&lead);
        let result = |v: &View| matrix(v, left_vector, right_vector);
        let order = self.order_of_the_reader(y);
        let mut to = self.result(y, &order);
        let mut over = if fits(&result(&to)) { products(&left(&from), &panels, &result(&to), &lead) } else { None };
        let mut from = left(&from);
        if over.is_none() {
            // Row-major batches step as those of the panels.
            let identity: Vec<usize> = (0..ad.len()).collect();
            let dense = self.place_where(a, |s, v| s.has_slack(v.buf) && v.is_row_major(), |s, _| s.fresh(a, &identity));
            from = left(&dense);
            to = self.fresh(y, &(0..yd.len()).collect::<Vec<_>>());
            self.places.insert(y, vec![to.clone()]);
            over = products(&from, &panels, &result(&to), &lead);
        }
        let mut over = over.ok_or_else(|| self.fault(Code::Internal, "batches of a product"))?;
        let (mut rows, to) = ((step(&from, k), step(&result(&to), n)), result(&to));
        let mut m = View::extent(&from.axes[from.axes.len() - 2]);
        // Rows of all products against one right operand are one matrix where they lie that way.
        if sets == 1
            && let (Some(x), Some(y)) = (joined(&from), joined(&to))
        {
            (m, rows) = (x.extent, (x.step as usize, y.step as usize));
            over = Strided { dims: vec![1], operands: [from.start, 0, to.start].map(|start| Strides { start, steps: vec![1] }).to_vec() };
        }
        let product = ByteProduct { m, k, n, segments, rows: [rows.0, rows.1], over };
        let part = |offset: usize, bytes: usize| crate::build::Span { buf, offset, bytes };
        let scale = self.blob("product.scale", std::iter::repeat_n(scale, n16).flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        let reads = vec![self.whole(from.buf), part(0, sets * set), part(sets * set, sets * 8 * n16), scale];
        let writes = vec![self.whole(to.buf)];
        self.emit(What::MatMulBytes { product, signed: qa.signed, end, largest }, reads, writes);
        Ok(())
    }

    /// What bytes of a value can hold.
    fn storage_range(&self, v: Value) -> (i32, i32) {
        self.g.ty(v).elem.quant().map_or((0, 255), |q| q.storage().range())
    }

    /// The multiplier of a product, and how its sums end.
    fn product_end(&self, a: &ByteQuant, b: &ByteQuant, y: Value, order: Multiplier) -> Result<(f32, End), Diagnostic> {
        let ty = &self.g.ty(y).elem;
        if ty.is_f32() {
            let end = End::Float { lo: f32::NEG_INFINITY, hi: f32::INFINITY };
            let scale = exact::accumulator_scale(order, a.scale, b.scale);
            if !scale.is_finite() {
                return Err(self.fault(Code::UnsupportedForm, "the scale of the sums is beyond f32"));
            }
            return Ok((scale, end));
        }
        let y = self.byte_quant(ty)?;
        let m = exact::multiplier(order, a.scale, b.scale, y.scale);
        if m.is_nan() || m >= exact::MAX_MULTIPLIER {
            return Err(self
                .fault(Code::UnsupportedForm, format!("the multiplier {m} is not below {}", exact::MAX_MULTIPLIER))
                .help("the scale of the result is far too small for its operands: recalibrate, or keep this product in float"));
        }
        // Below the minimum every sum rounds to 0.
        let m = if m < exact::MIN_MULTIPLIER { 0.0 } else { m };
        Ok((m, End::Requantize { zero: y.zero, lo: y.lo, hi: y.hi, signed: y.signed }))
    }

    /// The order of axes in which the only reader of a result is row-major: a transposition behind a product is written in place.
    fn order_of_the_reader(&self, y: Value) -> Vec<usize> {
        let rank = self.g.ty(y).rank();
        match self.users.get(&y).map_or(&[][..], Vec::as_slice) {
            &[user] => match &self.g.nodes[user].op {
                Op::Transpose { perm } if perm.last().is_some_and(|p| p + 1 == rank) => perm.clone(),
                _ => (0..rank).collect(),
            },
            _ => (0..rank).collect(),
        }
    }
}

/// How bytes become weights of 8 signed bits: what is taken from each, and what is added to all.
struct Weights {
    center: i32,
    rest: Vec<i8>,
}

impl Weights {
    fn of(b: &ByteQuant, (lo, hi): (i32, i32)) -> Self {
        let byte = i32::from(i8::MIN)..=i32::from(i8::MAX);
        let center = match b.signed {
            _ if byte.contains(&(lo - b.zero)) && byte.contains(&(hi - b.zero)) => b.zero,
            true => 0,
            false => 128,
        };
        let (mut left, mut rest) = (center - b.zero, Vec::new());
        while left != 0 {
            let part = left.clamp(*byte.start(), *byte.end());
            rest.push(part as i8);
            left -= part;
        }
        Self { center: center & 0xff, rest }
    }
}

/// The largest magnitude of `q - zero` for stored integers in a range.
fn farthest(q: &ByteQuant, (lo, hi): (i32, i32)) -> i64 {
    i64::from((q.zero - lo).abs().max((hi - q.zero).abs()))
}

/// Whether an axis steps evenly and forward, by so much if given; one of extent 1 does.
fn even(axis: &Axis, by: Option<isize>) -> bool {
    match axis.as_slice() {
        [] => true,
        [f] => f.step > 0 && by.is_none_or(|by| f.step == by),
        _ => false,
    }
}

/// The view with an axis for the one row or the one column of a vector.
fn matrix(v: &View, row: bool, column: bool) -> View {
    let mut v = v.clone();
    if column {
        v.axes.push(Axis::new());
    }
    if row {
        v.axes.insert(v.axes.len() - 1, Axis::new());
    }
    v
}

/// Elements between the rows of a matrix; `dense` where there is one.
fn step(v: &View, dense: usize) -> usize {
    v.axes[v.axes.len() - 2].first().map_or(dense, |f| f.step as usize)
}

/// All rows of all matrices as one axis; those of one matrix at least.
fn joined(v: &View) -> Option<Factor> {
    match merge(v.axes[..v.axes.len() - 1].iter().flatten().copied())[..] {
        [] => Some(Factor { extent: 1, step: View::extent(&v.axes[v.axes.len() - 1]) as isize }),
        [f] if f.step > 0 => Some(f),
        _ => None,
    }
}

/// The space of the matrices of a right operand, their rows and their columns.
fn columns_of(v: &View) -> Strided {
    let (lead, last) = v.axes.split_at(v.axes.len() - 2);
    let [rows, columns] = [&last[0], &last[1]].map(|a| a.first().copied());
    let extent = |f: Option<Factor>| f.map_or(1, |f| f.extent);
    // An axis of extent 1 steps as if the other one had no gaps.
    let rows = rows.unwrap_or(Factor { extent: 1, step: extent(columns) as isize });
    let columns = columns.unwrap_or(Factor { extent: 1, step: if rows.step == 1 { rows.extent as isize } else { 1 } });
    let space: Vec<Factor> = lead.iter().flatten().copied().chain([rows, columns]).collect();
    let steps = space.iter().map(|f| f.step).collect();
    Strided { dims: space.iter().map(|f| f.extent).collect(), operands: vec![Strides { start: v.start, steps }] }
}

/// The space of all products over the left operand, sets of panels and the result.
fn products(a: &View, panels: &View, y: &View, lead: &[usize]) -> Option<Strided> {
    let outer = |v: &View| View { axes: v.axes[..v.axes.len() - 2].to_vec(), ..v.clone() };
    if lead.is_empty() {
        let starts = [a.start, 0, y.start];
        return Some(Strided { dims: vec![1], operands: starts.map(|start| Strides { start, steps: vec![1] }).to_vec() });
    }
    iterate(&[&outer(a).expand(lead), panels, &outer(y)])
}
