//! The program under construction: buffers, steps over them, and where each value lies.

use crate::{
    Options,
    margins::{Halo, Margins},
    plan,
    view::{View, iterate},
};
use quernel_ir::{
    Arena, Code, Def, Diagnostic, Elem, Graph, Node, Op, Origin, Program, Quant, Value,
    diag::Remark,
    program::{ALIGN, Base, Blob, BlobData, ByteQuant, Port, Slot, Step, What},
    tensor::fnv1a,
};
use std::collections::{BTreeMap, BTreeSet};

quernel_ir::ids! {
    /// A range of memory: an arena slot to be placed, a caller's buffer or a constant.
    Buf = "b";
}

/// Bytes beyond which a buffer is refused.
const MAX_BYTES: usize = 1 << 36;
/// How many reshapes and concatenations a producer looks through for the place of its result.
pub(crate) const MAX_LOOK: usize = 32;

/// A range of memory.
#[derive(Clone, Debug)]
pub(crate) struct BufData {
    /// `None`: to be placed in the arena.
    pub base: Option<Base>,
    pub bytes: usize,
    /// The margin around the image it holds.
    pub halo: Option<Halo>,
}

/// Bytes of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub buf: Buf,
    pub offset: usize,
    pub bytes: usize,
}

/// A step over buffers.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub what: What,
    pub reads: Vec<Span>,
    pub writes: Vec<Span>,
    pub origin: Origin,
    /// The layer it is a step of, by number.
    pub layer: usize,
}

/// The program under construction.
pub(crate) struct Build<'a> {
    pub g: &'a Graph,
    pub program: Program,
    pub bufs: Arena<Buf, BufData>,
    pub drafts: Vec<Draft>,
    pub remarks: Vec<Remark>,
    /// Where a value can be read; the first place is where its producer put it.
    pub places: BTreeMap<Value, Vec<View>>,
    /// Results placed before their node, so that operands are written into them.
    pub planned: BTreeMap<Value, View>,
    pub users: BTreeMap<Value, Vec<Node>>,
    /// Numbers of the graph outputs that a value is.
    leaves: BTreeMap<Value, Vec<usize>>,
    /// Margins that padded convolutions want around a value.
    pub margins: BTreeMap<Value, Margins>,
    outputs: Vec<Buf>,
    blob_names: BTreeSet<String>,
    blob_contents: BTreeMap<(u64, usize), Vec<Buf>>,
    /// The node being lowered.
    pub origin: Origin,
    pub at: Option<Node>,
    /// Number of the layer that steps belong to.
    pub layer: usize,
    pub weight_bytes: usize,
    pub largest_sum: Option<i64>,
}

impl<'a> Build<'a> {
    pub fn new(g: &'a Graph) -> Self {
        let mut build = Self {
            g,
            program: Program { name: g.name.clone(), ..Program::default() },
            bufs: Arena::default(),
            drafts: Vec::new(),
            remarks: Vec::new(),
            places: BTreeMap::new(),
            planned: BTreeMap::new(),
            users: g.users(),
            leaves: BTreeMap::new(),
            margins: BTreeMap::new(),
            outputs: Vec::new(),
            blob_names: BTreeSet::new(),
            blob_contents: BTreeMap::new(),
            origin: Origin::default(),
            at: None,
            layer: 0,
            weight_bytes: 0,
            largest_sum: None,
        };
        for (i, &v) in g.inputs.iter().enumerate() {
            let ty = g.ty(v);
            build.program.inputs.push(Port { name: g.values[v].name.clone(), ty: ty.clone() });
            let buf = build.bufs.push(BufData { base: Some(Base::Input(i as u32)), bytes: ty.bytes(), halo: None });
            build.places.insert(v, vec![View::row_major(buf, &ty.dims)]);
        }
        for (i, (name, v)) in g.outputs.iter().enumerate() {
            let ty = g.ty(*v);
            build.leaves.entry(*v).or_default().push(i);
            build.program.outputs.push(Port { name: name.clone(), ty: ty.clone() });
            build.outputs.push(build.bufs.push(BufData { base: Some(Base::Output(i as u32)), bytes: ty.bytes(), halo: None }));
        }
        build
    }

    /// Starts a node; returns the index of its first step.
    pub fn begin(&mut self, node: Node) -> usize {
        let data = &self.g.nodes[node];
        self.origin = data.origin.clone();
        self.at = Some(node);
        (self.weight_bytes, self.largest_sum) = (0, None);
        self.drafts.len()
    }

    /// Gives the result of a node that failed a place, so that the rest of the graph is still checked.
    pub fn stand_in(&mut self, node: Node) {
        let v = self.g.nodes[node].result();
        if !self.places.contains_key(&v) {
            let view = self.fresh(v, &(0..self.g.ty(v).rank()).collect::<Vec<_>>());
            self.places.insert(v, vec![view]);
        }
    }

    /// Refuses absurdly large tensors, and those without elements but for inputs and outputs of the graph, where nothing is read
    /// or written.
    pub fn check_sizes(&self, needed: &[Node]) -> Vec<Diagnostic> {
        let mut faults = Vec::new();
        let mut check = |v: Value, place: String, inside: bool| {
            let ty = self.g.ty(v);
            let bytes = ty.dims.iter().try_fold(ty.elem.bytes(), |a, d| a.checked_mul(*d));
            if ty.dims.contains(&0) {
                if inside {
                    faults.push(Diagnostic::new(Code::UnsupportedForm, format!("a tensor of type {ty} has no elements")).at(place));
                }
            } else if bytes.is_none_or(|b| b > MAX_BYTES) {
                faults.push(Diagnostic::new(Code::LimitExceeded, format!("a tensor of type {ty} is too large")).at(place));
            }
        };
        for &v in &self.g.inputs {
            check(v, format!("input {:?}", self.g.values[v].name), false);
        }
        for (name, v) in &self.g.outputs {
            check(*v, format!("output {name:?}"), false);
        }
        for &n in needed {
            let data = &self.g.nodes[n];
            for &v in data.args.iter().chain(&data.results) {
                check(v, format!("node {:?} ({})", self.g.describe(n), data.op.mnemonic()), true);
            }
        }
        faults.dedup();
        faults
    }

    /// A diagnostic at the current node.
    pub fn fault(&self, code: Code, message: impl Into<String>) -> Diagnostic {
        let fault = Diagnostic::new(code, message);
        match self.at {
            Some(node) => fault.at(format!("node {:?} ({})", self.g.describe(node), self.g.nodes[node].op.mnemonic())),
            None => fault,
        }
    }

    /// A remark at the current node.
    pub fn remark(&mut self, message: impl Into<String>) {
        let at = self.at.map(|node| self.g.describe(node)).unwrap_or_default();
        self.remarks.push(Remark { by: "lower".into(), at, message: message.into() });
    }

    /// Lowers one node.
    pub fn node(&mut self, node: Node) -> Result<(), Diagnostic> {
        let data = &self.g.nodes[node];
        let (x, y) = (data.args.first().copied(), data.result());
        let x = x.ok_or_else(|| self.fault(Code::Internal, "a node without operands"))?;
        match &data.op {
            Op::Conv { .. } => self.conv(data),
            Op::Dense { .. } => self.dense(data),
            Op::MatMul { multiplier } => self.matmul(x, data.args[1], y, *multiplier),
            Op::BatchNorm { epsilon } => self.batch_norm(*epsilon, &data.args, y),
            Op::Unary(f) => self.unary(*f, x, y),
            Op::Binary(f) => self.binary(*f, x, data.args[1], y),
            Op::Pool { kind, window } => self.pool(*kind, window, x, y),
            Op::Reduce { kind, axes, .. } => self.reduce(*kind, axes, x, y),
            Op::Softmax { axis, log } => self.softmax(*axis, *log, x, y),
            Op::LayerNorm { axis, epsilon, rms } => self.layer_norm(*axis, (*epsilon, *rms), &data.args, y),
            Op::Reshape { dims } => self.reshape(dims, x, y),
            Op::Transpose { perm } => self.transpose(perm, x, y),
            Op::Concat { axis } => self.concat(node, *axis, y),
            Op::Slice { start, step, len } => self.slice(start, step, len, x, y),
            Op::Pad { before, after, value } => self.pad(node, before, after, *value, y),
            Op::Expand { dims } => self.expand(dims, x, y),
            Op::Gather { index } => self.gather(*index, x, data.args[1], y),
            Op::Scatter { index, reduce } => self.scatter(*index, *reduce, &data.args, y),
            Op::Cumulative { op, axis, exclusive, reverse } => self.cumulative(*op, *axis, (*exclusive, *reverse), x, y),
            Op::TopK { axis, k, smallest, last } => self.top_k(*axis, *k, *smallest, *last, x, y),
            Op::Quantize => self.quantize(x, y),
            Op::Dequantize => self.dequantize(x, y),
            Op::Requantize => self.requantize(x, y),
            Op::Cast => self.cast(x, y),
            Op::Bitcast => {
                self.same_bytes(x, y);
                Ok(())
            }
            Op::Compare(f) => self.compare(*f, x, data.args[1], y),
            Op::Select => self.select(&data.args, y),
        }
    }

    /// Bytes per element of a value.
    pub fn width(&self, v: Value) -> usize {
        self.g.ty(v).elem.bytes()
    }

    /// A new arena buffer.
    pub fn buffer(&mut self, bytes: usize) -> Buf {
        self.bufs.push(BufData { base: None, bytes, halo: None })
    }

    /// A dense view of a new arena buffer with the type of `v`.
    pub fn fresh(&mut self, v: Value, order: &[usize]) -> View {
        let ty = self.g.ty(v);
        let buf = self.buffer(ty.bytes());
        View::ordered(buf, &ty.dims, order)
    }

    /// A constant blob; equal contents share one.
    pub fn blob(&mut self, name: &str, bytes: impl Into<std::sync::Arc<[u8]>>) -> Span {
        let bytes = bytes.into();
        let key = (fnv1a(&bytes), bytes.len());
        let same = |b: &&Buf| matches!(self.bufs[**b].base, Some(Base::Blob(id)) if self.program.blobs[id].bytes == bytes);
        if let Some(&buf) = self.blob_contents.get(&key).and_then(|all| all.iter().find(same)) {
            return self.whole(buf);
        }
        let mut unique = name.to_string();
        let mut i = 1;
        while !self.blob_names.insert(unique.clone()) {
            unique = format!("{name}.{i}");
            i += 1;
        }
        let len = bytes.len();
        let id: Blob = self.program.blobs.push(BlobData { name: unique, bytes });
        let buf = self.bufs.push(BufData { base: Some(Base::Blob(id)), bytes: len, halo: None });
        self.blob_contents.entry(key).or_default().push(buf);
        self.whole(buf)
    }

    /// All of a buffer.
    pub fn whole(&self, buf: Buf) -> Span {
        Span { buf, offset: 0, bytes: self.bufs[buf].bytes }
    }

    /// The bytes of a dense view.
    pub fn dense_span(&self, view: &View, width: usize) -> Span {
        Span { buf: view.buf, offset: view.start * width, bytes: view.count() * width }
    }

    /// Appends a step.
    pub fn emit(&mut self, what: What, reads: Vec<Span>, writes: Vec<Span>) {
        self.drafts.push(Draft { what, reads, writes, origin: self.origin.clone(), layer: self.layer });
    }

    /// Where a value lies; constants come into being here.
    pub fn place(&mut self, v: Value) -> View {
        self.places(v).swap_remove(0)
    }

    /// All places of a value.
    pub fn places(&mut self, v: Value) -> Vec<View> {
        if let (None, Def::Const(c)) = (self.places.get(&v), self.g.values[v].def) {
            let data = &self.g.consts[c];
            let span = self.blob(&data.name, data.tensor.shared());
            self.places.insert(v, vec![View::row_major(span.buf, &data.tensor.ty.dims)]);
        }
        self.places.get(&v).cloned().unwrap_or_default()
    }

    /// The place of a value that satisfies `fits`, else a copy that `make` allots.
    pub fn place_where(&mut self, v: Value, fits: impl Fn(&Self, &View) -> bool, make: impl FnOnce(&mut Self, &View) -> View) -> View {
        let places = self.places(v);
        if let Some(found) = places.iter().find(|p| fits(self, p)) {
            return found.clone();
        }
        let to = make(self, &places[0]);
        self.copy(&places[0], &to, self.width(v));
        self.places.entry(v).or_default().push(to.clone());
        to
    }

    /// A value in logical order without gaps.
    pub fn row_major(&mut self, v: Value) -> View {
        let order: Vec<usize> = (0..self.g.ty(v).rank()).collect();
        let width = self.width(v);
        self.place_where(v, |s, p| p.is_row_major() && s.aligned(p, width), |s, _| s.fresh(v, &order))
    }

    /// A value without gaps, in whatever order.
    pub fn dense_place(&mut self, v: Value) -> View {
        let width = self.width(v);
        self.place_where(v, |s, p| p.is_dense() && s.aligned(p, width), |s, p| s.fresh(v, &p.order()))
    }

    /// Whether the start of a view may be the start of a slot.
    pub fn aligned(&self, view: &View, width: usize) -> bool {
        self.bufs[view.buf].base.is_some() || (view.start * width).is_multiple_of(ALIGN)
    }

    /// Moves elements between views of the same dimensions.
    pub fn copy(&mut self, from: &View, to: &View, width: usize) {
        if from == to {
            return;
        }
        if let Some(over) = iterate(&[from, to]) {
            let (reads, writes) = (vec![self.whole(from.buf)], vec![self.whole(to.buf)]);
            return self.emit(What::Move { width, over }, reads, writes);
        }
        // Axes whose factors do not divide each other meet in an evenly stepping copy.
        let buf = self.buffer(from.count() * width);
        let middle = View::row_major(buf, &from.dims());
        self.copy(from, &middle, width);
        self.copy(&middle, to, width);
    }

    /// Whether kernels may read past the end of the buffer.
    pub fn has_slack(&self, buf: Buf) -> bool {
        matches!(self.bufs[buf].base, None | Some(Base::Blob(_)))
    }

    /// The caller's output, as a view.
    pub fn output_view(&self, i: usize) -> View {
        View::row_major(self.outputs[i], &self.g.ty(self.g.outputs[i].1).dims)
    }

    /// Where a strided writer puts a result: where its only user wants it, else a new buffer with the margin its
    /// convolutions want, else a dense one in `order`.
    pub fn result(&mut self, v: Value, order: &[usize]) -> View {
        let view = match self.wanted(v, order, MAX_LOOK) {
            Some(view) => view,
            None => self.allot(v, order),
        };
        self.places.insert(v, vec![view.clone()]);
        view
    }

    /// Where a contiguous writer puts a result that has the memory order of `like`, which is dense.
    pub fn result_like(&mut self, v: Value, like: &View) -> View {
        let view = match self.wanted(v, &like.order(), MAX_LOOK) {
            Some(view) if view.axes == like.axes && self.aligned(&view, self.width(v)) => view,
            _ => View { buf: self.buffer(self.g.ty(v).bytes()), start: 0, axes: like.axes.clone() },
        };
        self.places.insert(v, vec![view.clone()]);
        view
    }

    /// A new buffer for a strided writer.
    pub fn allot(&mut self, v: Value, order: &[usize]) -> View {
        match self.margins.get(&v).copied() {
            Some(margins) => self.with_margins(v, margins).unwrap_or_else(|| self.fresh(v, order)),
            None => self.fresh(v, order),
        }
    }

    /// The place the only user of `v` has for it.
    fn wanted(&mut self, v: Value, order: &[usize], look: usize) -> Option<View> {
        if look == 0 {
            return None;
        }
        let outputs = self.leaves.get(&v).map_or(&[][..], Vec::as_slice);
        let users = self.users.get(&v).map_or(&[][..], Vec::as_slice);
        match (outputs, users) {
            (&[i], []) => Some(self.output_view(i)),
            ([], &[user]) => {
                let data = &self.g.nodes[user];
                let y = data.result();
                let identity: Vec<usize> = (0..self.g.ty(y).rank()).collect();
                match &data.op {
                    Op::Reshape { .. } => self.wanted(y, &identity, look - 1)?.reshape(&self.g.ty(v).dims),
                    Op::Transpose { perm } => {
                        let order: Vec<usize> = order.iter().filter_map(|a| perm.iter().position(|p| p == a)).collect();
                        Some(self.wanted(y, &order, look - 1)?.transpose_back(perm))
                    }
                    Op::Concat { axis } => {
                        let whole = self.assembled(y, order, look);
                        let before: usize = data.args.iter().take_while(|&&a| a != v).map(|&a| self.g.ty(a).dims[*axis]).sum();
                        self.part(&whole, v, |i| if i == *axis { before } else { 0 })
                    }
                    Op::Pad { before, after, value } => {
                        let whole = self.padded(user, before, after, *value, order, look);
                        self.part(&whole, v, |i| before[i])
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The part of `whole` that has the dimensions of `v` and starts at `start`.
    pub fn part(&self, whole: &View, v: Value, start: impl Fn(usize) -> usize) -> Option<View> {
        let dims = &self.g.ty(v).dims;
        let start: Vec<usize> = (0..dims.len()).map(start).collect();
        whole.slice(&start, &vec![1; dims.len()], dims)
    }

    /// The result of a concatenation, allotted when its first operand is.
    pub fn assembled(&mut self, y: Value, order: &[usize], look: usize) -> View {
        if let Some(view) = self.planned.get(&y) {
            return view.clone();
        }
        let view = match self.wanted(y, order, look.saturating_sub(1)) {
            Some(view) => view,
            None => self.allot(y, order),
        };
        self.planned.insert(y, view.clone());
        view
    }

    /// Parameters of an 8-bit value.
    pub fn byte_quant(&self, elem: &Elem) -> Result<ByteQuant, Diagnostic> {
        let q = elem.quant().ok_or_else(|| self.fault(Code::UnsupportedType, format!("{elem} where 8-bit values are needed")))?;
        self.byte(q)
    }

    /// Parameters of a quantized type of bytes or words, and the bytes of an element.
    pub fn stored(&self, elem: &Elem) -> Result<(ByteQuant, usize), Diagnostic> {
        match elem.quant().and_then(|q| Some((q, q.tensor_params()?))) {
            Some((q, (scale, zero))) if q.storage().bytes() == 2 => {
                Ok((ByteQuant { signed: q.storage().signed(), scale, zero, lo: q.min(), hi: q.max() }, 2))
            }
            _ => Ok((self.byte_quant(elem)?, 1)),
        }
    }

    /// Parameters of an 8-bit quantized type.
    pub fn byte(&self, q: &Quant) -> Result<ByteQuant, Diagnostic> {
        match q.tensor_params() {
            Some((scale, zero)) if q.storage().bytes() == 1 => {
                Ok(ByteQuant { signed: q.storage().signed(), scale, zero, lo: q.min(), hi: q.max() })
            }
            _ => Err(self
                .fault(Code::UnsupportedType, "activations of more than 8 bits, or with one scale per channel")
                .help("quantize activations to 8 bits with one scale per tensor")),
        }
    }

    /// Places buffers and names kernels.
    pub fn finish(mut self, options: &Options) -> Result<(Program, Vec<Remark>), Diagnostic> {
        let plan = plan::plan(&self.bufs, &self.drafts, options.in_place);
        if plan.bytes > MAX_BYTES {
            return Err(Diagnostic::new(Code::LimitExceeded, format!("the arena would need {} bytes", plan.bytes)));
        }
        self.program.arena_bytes = plan.bytes;
        self.program.arena_lower_bound = plan.lower_bound;
        let slot = |s: &Span| {
            let (base, at) = match self.bufs[s.buf].base {
                Some(base) => (base, 0),
                None => (Base::Arena, plan.offsets[quernel_ir::Id::index(s.buf)]),
            };
            Slot { base, offset: at + s.offset, bytes: s.bytes }
        };
        for d in &self.drafts {
            let how = quernel_kernels::choose(&d.what).name.to_string();
            let step = Step {
                what: d.what.clone(),
                how,
                reads: d.reads.iter().map(slot).collect(),
                writes: d.writes.iter().map(slot).collect(),
                origin: d.origin.clone(),
            };
            self.program.steps.push(step);
        }
        Ok((self.program, self.remarks))
    }
}
