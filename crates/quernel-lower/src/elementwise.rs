//! Steps that treat elements alike.

use crate::{build::Build, view::View, view::iterate};
use quernel_ir::{
    Binary, Code, Comparison, Diagnostic, Scalar, Unary, Value, exact,
    program::{ByteQuant, Strided, What},
};

impl Build<'_> {
    /// A contiguous step: the result keeps the memory order of the operand.
    fn contiguous(&mut self, x: Value, y: Value, table: Option<[u8; 256]>, what: impl FnOnce(usize) -> What) {
        let from = self.dense_place(x);
        let to = self.result_like(y, &from);
        let mut reads = vec![self.dense_span(&from, self.width(x))];
        if let Some(table) = table {
            reads.push(self.blob("table", table.to_vec()));
        }
        let writes = vec![self.dense_span(&to, self.width(y))];
        self.emit(what(from.count()), reads, writes);
    }

    /// A table over bytes; the identity costs nothing.
    fn lookup(&mut self, x: Value, y: Value, table: [u8; 256]) {
        if table.iter().enumerate().all(|(i, t)| i == usize::from(*t)) {
            let places = self.places(x);
            self.places.insert(y, places);
        } else {
            self.contiguous(x, y, Some(table), |count| What::Lookup { count });
        }
    }

    pub fn quantize(&mut self, x: Value, y: Value) -> Result<(), Diagnostic> {
        let (to, width) = self.stored(&self.g.ty(y).elem)?;
        self.contiguous(x, y, None, |count| What::Quantize { count, to, width });
        Ok(())
    }

    pub fn dequantize(&mut self, x: Value, y: Value) -> Result<(), Diagnostic> {
        let (from, width) = self.stored(&self.g.ty(x).elem)?;
        self.contiguous(x, y, None, |count| What::Dequantize { count, from, width });
        Ok(())
    }

    pub fn unary(&mut self, f: Unary, x: Value, y: Value) -> Result<(), Diagnostic> {
        if self.g.ty(x).elem.is_f32() {
            self.contiguous(x, y, None, |count| What::UnaryFloat { op: f, count });
            return Ok(());
        }
        if self.g.ty(x).elem.quant().is_none() {
            self.contiguous(x, y, None, |count| What::UnaryDouble { op: f, count });
            return Ok(());
        }
        let (from, to) = (self.byte_quant(&self.g.ty(x).elem)?, self.byte_quant(&self.g.ty(y).elem)?);
        self.lookup(x, y, exact::byte_table(from.signed, |q| exact::unary_entry(f, q, pair(&from), pair(&to), to.lo, to.hi)));
        Ok(())
    }

    pub fn requantize(&mut self, x: Value, y: Value) -> Result<(), Diagnostic> {
        if let (Some(from), Some(to)) = (self.g.ty(x).elem.quant(), self.g.ty(y).elem.quant())
            && (from.storage().bytes() == 2 || to.storage().bytes() == 2)
            && let (Some((sx, zx)), Some((sy, zy))) = (from.tensor_params(), to.tensor_params())
            && sx == sy
        {
            if zx == zy && from.min() >= to.min() && from.max() <= to.max() && from.storage() != to.storage() {
                let (from, to) = (from.storage().held(), to.storage().held());
                self.contiguous(x, y, None, |count| What::Cast { from, to, count });
                return Ok(());
            }
            // Under one scale the integers move by the difference of the zero points, which f32 holds.
            let [(from, wide), (to, width)] = [self.stored(&self.g.ty(x).elem)?, self.stored(&self.g.ty(y).elem)?];
            let place = self.dense_place(x);
            let middle = self.buffer(4 * place.count());
            let span = self.whole(middle);
            let reads = vec![self.dense_span(&place, wide)];
            self.emit(What::Dequantize { count: place.count(), from: ByteQuant { scale: 1.0, ..from }, width: wide }, reads, vec![span]);
            let result = self.result_like(y, &place);
            let writes = vec![self.dense_span(&result, width)];
            self.emit(What::Quantize { count: place.count(), to: ByteQuant { scale: 1.0, ..to }, width }, vec![span], writes);
            return Ok(());
        }
        let (from, to) = (self.byte_quant(&self.g.ty(x).elem)?, self.byte_quant(&self.g.ty(y).elem)?);
        self.lookup(x, y, exact::byte_table(from.signed, |q| exact::requantize_entry(q, pair(&from), pair(&to), to.lo, to.hi)));
        Ok(())
    }

    /// The result is the operand's bytes under another type of the same width.
    pub fn same_bytes(&mut self, x: Value, y: Value) {
        let places = self.places(x);
        self.places.insert(y, places);
    }

    pub fn cast(&mut self, x: Value, y: Value) -> Result<(), Diagnostic> {
        let (from, to) = (self.scalar(x)?, self.scalar(y)?);
        let integers = [from, to].into_iter().all(|s| s.is_integer() || s == Scalar::Bool) && to != Scalar::Bool;
        if from == to || integers && from.bytes() == to.bytes() {
            self.same_bytes(x, y);
        } else {
            self.contiguous(x, y, None, |count| What::Cast { from, to, count });
        }
        Ok(())
    }

    /// The plain type of a value.
    fn scalar(&self, v: Value) -> Result<Scalar, Diagnostic> {
        let elem = &self.g.ty(v).elem;
        elem.scalar().ok_or_else(|| self.fault(Code::UnsupportedType, format!("{elem} where plain numbers are needed")))
    }

    /// A batch norm that nothing absorbed: its four operations one after another over the same memory.
    pub fn batch_norm(&mut self, epsilon: f32, args: &[Value], y: Value) -> Result<(), Diagnostic> {
        let parameter = |v: Value| self.g.tensor(v).and_then(|t| t.to_f32());
        let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|i: usize| args.get(i).copied().and_then(parameter));
        let (Some(scale), Some(bias), Some(mean), Some(variance)) = (scale, bias, mean, variance) else {
            return Err(self.fault(Code::UnsupportedForm, "a batch norm whose parameters are computed at run time"));
        };
        let deviation: Vec<f32> = variance.iter().map(|v| (v + epsilon).sqrt()).collect();
        let dims = &self.g.ty(y).dims;
        let x = self.place(args[0]);
        let mut to = self.result(y, &x.order());
        if iterate(&[&x, &to]).is_none() {
            to = self.fresh(y, &x.order());
            self.places.insert(y, vec![to.clone()]);
        }
        let mut from = x;
        for (op, values) in [(Binary::Sub, mean), (Binary::Div, deviation), (Binary::Mul, scale), (Binary::Add, bias)] {
            let constant = self.blob("batch_norm", values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            let mut channels = vec![1; dims.len()];
            channels[1] = values.len();
            let b = View::row_major(constant.buf, &channels).expand(dims);
            let over = iterate(&[&from, &b, &to]).ok_or_else(|| self.fault(Code::Internal, "a batch norm without an iteration space"))?;
            let (reads, writes) = (vec![self.whole(from.buf), constant], vec![self.whole(to.buf)]);
            self.emit(What::BinaryFloat { op, over, lo: f32::NEG_INFINITY, hi: f32::INFINITY }, reads, writes);
            from = to.clone();
        }
        Ok(())
    }

    pub fn binary(&mut self, op: Binary, a: Value, b: Value, y: Value) -> Result<(), Diagnostic> {
        let elem = &self.g.ty(y).elem;
        if elem.quant().is_some() {
            let [a_type, b_type, to] = [a, b, y].map(|v| self.byte_quant(&self.g.ty(v).elem));
            let (a_type, b_type, to) = (a_type?, b_type?, to?);
            return self.strided(&[a, b], y, |over| What::BinaryBytes { op, over, a: a_type, b: b_type, to });
        }
        match self.scalar(y)? {
            Scalar::F32 => self.strided(&[a, b], y, |over| What::BinaryFloat { op, over, lo: f32::NEG_INFINITY, hi: f32::INFINITY }),
            scalar => self.strided(&[a, b], y, |over| What::BinaryPlain { op, scalar, over }),
        }
    }

    pub fn compare(&mut self, op: Comparison, a: Value, b: Value, y: Value) -> Result<(), Diagnostic> {
        let scalar = self.scalar(a)?;
        self.strided(&[a, b], y, |over| What::Compare { op, scalar, over })
    }

    pub fn select(&mut self, args: &[Value], y: Value) -> Result<(), Diagnostic> {
        let width = self.width(y);
        self.strided(args, y, |over| What::Select { width, over })
    }

    /// A step over the elements of the result and of operands that are broadcast to it.
    fn strided(&mut self, args: &[Value], y: Value, what: impl FnOnce(Strided) -> What) -> Result<(), Diagnostic> {
        let g = self.g;
        let dims = &g.ty(y).dims;
        let mut views: Vec<View> = args.iter().map(|&a| self.place(a)).collect();
        // The result keeps the memory order of an operand of its size, the first that is computed.
        let sized: Vec<(Value, &View)> = args.iter().copied().zip(&views).filter(|(v, _)| g.ty(*v).dims == *dims).collect();
        let like = sized.iter().find(|(v, _)| g.tensor(*v).is_none()).or(sized.first());
        let order = like.map_or_else(|| (0..dims.len()).collect(), |(_, v)| v.order());
        let mut to = self.result(y, &order);
        let space = |views: &[View], to: &View| {
            let expanded: Vec<View> = views.iter().map(|v| v.expand(dims)).collect();
            iterate(&expanded.iter().chain([to]).collect::<Vec<&View>>())
        };
        let over = match space(&views, &to) {
            Some(over) => over,
            None => {
                views = args.iter().map(|&a| self.row_major(a)).collect();
                if space(&views, &to).is_none() {
                    to = self.fresh(y, &(0..dims.len()).collect::<Vec<_>>());
                    self.places.insert(y, vec![to.clone()]);
                }
                space(&views, &to).ok_or_else(|| self.fault(Code::Internal, "operands without a common iteration space"))?
            }
        };
        let (reads, writes) = (views.iter().map(|v| self.whole(v.buf)).collect(), vec![self.whole(to.buf)]);
        self.emit(what(over), reads, writes);
        Ok(())
    }
}

/// Scale and zero point.
fn pair(q: &ByteQuant) -> (f32, i32) {
    (q.scale, q.zero)
}
