//! Short names for the operators that compositions are written in. All of them compute on floats or move elements.

use crate::node::NodeCx;
use quernel_ir::{Act, Binary, Code, Comparison, Diagnostic, Multiplier, Op, ReduceKind, Scalar, Tensor, Unary, Value};

pub type Made = Result<Value, Diagnostic>;

impl NodeCx<'_> {
    /// Whether the node names result `slot`.
    pub fn wants(&self, slot: usize) -> bool {
        self.proto.output.get(slot).is_some_and(|o| !o.is_empty())
    }
    /// A positive integer attribute.
    pub fn count(&self, name: &str) -> Result<Option<usize>, Diagnostic> {
        let Some(n) = self.int(name)? else { return Ok(None) };
        let n = usize::try_from(n).ok().filter(|n| (1..=crate::limits::ELEMENTS).contains(n));
        n.map(Some).ok_or_else(|| self.bad_attribute(format!("attribute `{name}` has to be at least 1")))
    }
    /// Like [`Self::count`], for attributes whose 0 means that they are absent.
    pub fn count_or_none(&self, name: &str) -> Result<Option<usize>, Diagnostic> {
        if self.int(name)? == Some(0) { Ok(None) } else { self.count(name) }
    }
    /// A shape error.
    pub fn misfit(&self, message: impl Into<String>) -> Diagnostic {
        self.err(Code::ShapeMismatch, message)
    }

    pub fn unary(&mut self, f: Unary, x: Value) -> Made {
        self.push(Op::Unary(f), &[x])
    }
    pub fn binary(&mut self, f: Binary, a: Value, b: Value) -> Made {
        self.push(Op::Binary(f), &[a, b])
    }
    pub fn add(&mut self, a: Value, b: Value) -> Made {
        self.binary(Binary::Add, a, b)
    }
    pub fn sub(&mut self, a: Value, b: Value) -> Made {
        self.binary(Binary::Sub, a, b)
    }
    pub fn mul(&mut self, a: Value, b: Value) -> Made {
        self.binary(Binary::Mul, a, b)
    }
    pub fn div(&mut self, a: Value, b: Value) -> Made {
        self.binary(Binary::Div, a, b)
    }
    /// With a number on the right.
    pub fn by(&mut self, f: Binary, x: Value, number: f32) -> Made {
        let number = self.scalar(number);
        self.binary(f, x, number)
    }
    /// `factor x`.
    pub fn times(&mut self, x: Value, factor: f32) -> Made {
        if factor == 1.0 { Ok(x) } else { self.by(Binary::Mul, x, factor) }
    }
    /// `x + term`.
    pub fn plus(&mut self, x: Value, term: f32) -> Made {
        if term == 0.0 { Ok(x) } else { self.by(Binary::Add, x, term) }
    }
    /// `min(max(x, lo), hi)`.
    pub fn clamp(&mut self, x: Value, lo: f32, hi: f32) -> Made {
        self.unary(Unary::Clip { lo, hi }, x)
    }
    /// `x^p` for `x >= 0`.
    pub fn power(&mut self, x: Value, p: f32) -> Made {
        if p == 0.5 {
            return self.unary(Unary::Sqrt, x);
        }
        let log = self.unary(Unary::Log, x)?;
        let scaled = self.times(log, p)?;
        self.unary(Unary::Exp, scaled)
    }
    /// Where `a < b`.
    pub fn less(&mut self, a: Value, b: Value) -> Made {
        self.push_as(Op::Compare(Comparison::Less), &[a, b], Scalar::Bool.into())
    }
    /// `a` where the condition holds, else `b`.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Made {
        let elem = self.g.ty(a).elem.clone();
        self.push_as(Op::Select, &[condition, a, b], elem)
    }
    pub fn square(&mut self, x: Value) -> Made {
        self.mul(x, x)
    }
    /// A reduction that keeps the reduced axes with extent 1.
    pub fn reduced(&mut self, kind: ReduceKind, x: Value, axes: &[usize]) -> Made {
        self.push(Op::Reduce { kind, axes: axes.to_vec(), keep: true }, &[x])
    }
    /// Whether a value is known once constants are folded.
    pub fn fixed(&self, v: Value) -> bool {
        let mut open = vec![v];
        for _ in 0..64 {
            let Some(v) = open.pop() else { return true };
            if self.g.tensor(v).is_none() {
                let Some(node) = self.g.producer(v) else { return false };
                open.extend(&self.g.nodes[node].args);
            }
        }
        false
    }
    /// `x w'` with `w [N, K]`; a product of two computed matrices where `w` is computed.
    pub fn dense(&mut self, x: Value, w: Value) -> Made {
        if !self.fixed(w) {
            let w = self.swapped(w)?;
            return self.matmul(x, w);
        }
        self.push(Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 }, &[x, w])
    }
    pub fn matmul(&mut self, a: Value, b: Value) -> Made {
        self.push(Op::MatMul { multiplier: Multiplier::F64 }, &[a, b])
    }
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Made {
        if perm.iter().enumerate().all(|(i, p)| i == *p) { Ok(x) } else { self.push(Op::Transpose { perm: perm.to_vec() }, &[x]) }
    }
    /// The last two axes exchanged.
    pub fn swapped(&mut self, x: Value) -> Made {
        let rank = self.g.ty(x).rank();
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        self.transpose(x, &perm)
    }
    /// `len` elements of an axis from `start` on, `step` apart; the other axes stay whole.
    pub fn strided(&mut self, x: Value, axis: usize, first: usize, by: isize, n: usize) -> Made {
        let mut len = self.dims(x);
        if (first, by, n) == (0, 1, len[axis]) {
            return Ok(x);
        }
        let (mut start, mut step) = (vec![0; len.len()], vec![1; len.len()]);
        (start[axis], step[axis], len[axis]) = (first, by, n);
        self.push(Op::Slice { start, step, len }, &[x])
    }
    pub fn part(&mut self, x: Value, axis: usize, start: usize, len: usize) -> Made {
        self.strided(x, axis, start, 1, len)
    }
    pub fn concat(&mut self, parts: &[Value], axis: usize) -> Made {
        if let [one] = parts { Ok(*one) } else { self.push(Op::Concat { axis }, parts) }
    }
    pub fn expand(&mut self, x: Value, dims: Vec<usize>) -> Made {
        if self.dims(x) == dims { Ok(x) } else { self.push(Op::Expand { dims }, &[x]) }
    }
    /// Padding of one axis.
    pub fn padded(&mut self, x: Value, axis: usize, around: (usize, usize), value: f32) -> Made {
        if around == (0, 0) {
            return Ok(x);
        }
        let rank = self.g.ty(x).rank();
        let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
        (before[axis], after[axis]) = around;
        self.push(Op::Pad { before, after, value }, &[x])
    }
    /// A float constant. Counts its bytes, because sizes come from the file.
    pub fn table(&mut self, name: &str, dims: Vec<usize>, values: &[f32]) -> Made {
        self.take_bytes(values.len() * 4)?;
        Ok(self.g.constant(name, Tensor::f32(dims, values)))
    }
    /// `first, first + 1, ..`
    pub fn ramp(&mut self, dims: Vec<usize>, first: f32) -> Made {
        let n = dims.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| first + i as f32).collect();
        self.table("ramp", dims, &values)
    }
}
