//! Attributes of operators. [`fields`] is the one table: printing, parsing and filling in defaults all walk it, so
//! they cannot diverge.

use super::lex::{Bad, Cursor, Read, float};
use crate::{
    index::Index,
    op::{Act, Binary, Comparison, Multiplier, Op, PoolKind, ReduceKind, Unary, Window, WindowDim},
    ty::TensorTy,
};
use std::fmt::{self, Write as _};

/// One operator per mnemonic, attributes empty. [`fields`] describes what each holds.
fn prototypes() -> impl Iterator<Item = Op> {
    let window = || Window { dims: vec![] };
    let other = [
        Op::Conv { window: window(), groups: 0, act: Act::None, residual: false, multiplier: Multiplier::F64 },
        Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 },
        Op::MatMul { multiplier: Multiplier::F64 },
        Op::BatchNorm { epsilon: 0.0 },
        Op::Pool { kind: PoolKind::Max, window: window() },
        Op::Pool { kind: PoolKind::Average { include_pad: false }, window: window() },
        Op::Softmax { axis: 0, log: false },
        Op::Softmax { axis: 0, log: true },
        Op::LayerNorm { axis: 0, epsilon: 0.0, rms: false },
        Op::LayerNorm { axis: 0, epsilon: 0.0, rms: true },
        Op::Reshape { dims: vec![] },
        Op::Transpose { perm: vec![] },
        Op::Concat { axis: 0 },
        Op::Slice { start: vec![], step: vec![], len: vec![] },
        Op::Pad { before: vec![], after: vec![], value: 0.0 },
        Op::Expand { dims: vec![] },
        Op::TopK { axis: 0, k: 0, smallest: false, last: false },
        Op::Cumulative { op: Binary::Add, axis: 0, exclusive: false, reverse: false },
        Op::Cumulative { op: Binary::Mul, axis: 0, exclusive: false, reverse: false },
        Op::Quantize,
        Op::Dequantize,
        Op::Requantize,
        Op::Cast,
        Op::Bitcast,
        Op::Select,
    ];
    let indices = [Index::Slices { axis: 0 }, Index::Elements { axis: 0 }, Index::Coordinates { batch: 0 }];
    let indexed = indices.into_iter().flat_map(|index| [Op::Gather { index }, Op::Scatter { index, reduce: None }]);
    let reduce = ReduceKind::ALL.into_iter().map(|kind| Op::Reduce { kind, axes: vec![], keep: false });
    other
        .into_iter()
        .chain(indexed)
        .chain(Unary::ALL.into_iter().map(Op::Unary))
        .chain(Binary::ALL.into_iter().map(Op::Binary))
        .chain(Comparison::ALL.into_iter().map(Op::Compare))
        .chain(reduce)
}

/// What defaults may depend on: the types of the operands, and of the result once it is known.
#[derive(Default)]
pub(super) struct Context<'a> {
    pub args: Vec<&'a TensorTy>,
    pub result: Option<&'a TensorTy>,
}

/// The attributes of every operator: name, place, default. An attribute without a default is always written.
fn fields<V: Visit>(op: &mut Op, cx: &Context<'_>, v: &mut V) -> Read<()> {
    let rank = cx.args.first().map(|x| x.rank());
    let result = cx.result.map(|r| r.dims.clone());
    match op {
        Op::Conv { window, groups, act, residual, multiplier } => {
            sliding(window, cx.args.get(1).map(|w| w.dims.iter().skip(2).copied().collect()), v)?;
            v.field("groups", groups, Some(1))?;
            v.field("act", act, Some(Act::None))?;
            v.field("residual", residual, Some(false))?;
            v.field("multiplier", multiplier, Some(Multiplier::F64))
        }
        Op::Dense { act, residual, multiplier } => {
            v.field("act", act, Some(Act::None))?;
            v.field("residual", residual, Some(false))?;
            v.field("multiplier", multiplier, Some(Multiplier::F64))
        }
        Op::MatMul { multiplier } => v.field("multiplier", multiplier, Some(Multiplier::F64)),
        Op::BatchNorm { epsilon } => v.field("epsilon", epsilon, Some(1e-5)),
        Op::Unary(unary) => match unary {
            Unary::LeakyRelu { alpha } => v.field("alpha", alpha, None),
            Unary::Clip { lo, hi } => {
                v.field("lo", lo, Some(f32::NEG_INFINITY))?;
                v.field("hi", hi, Some(f32::INFINITY))
            }
            Unary::HardSigmoid { alpha, beta } => {
                v.field("alpha", alpha, None)?;
                v.field("beta", beta, None)
            }
            Unary::Swish { alpha } => v.field("alpha", alpha, Some(1.0)),
            Unary::Elu { alpha, beta, gamma } => {
                v.field("alpha", alpha, Some(1.0))?;
                v.field("beta", beta, Some(1.0))?;
                v.field("gamma", gamma, Some(1.0))
            }
            Unary::ThresholdedRelu { alpha } => v.field("alpha", alpha, None),
            Unary::Shrink { lambda, bias } => {
                v.field("lambda", lambda, None)?;
                v.field("bias", bias, Some(0.0))
            }
            Unary::Relu
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::HardSwish
            | Unary::Gelu
            | Unary::GeluTanh
            | Unary::Erf
            | Unary::Exp
            | Unary::Log
            | Unary::Sqrt
            | Unary::Reciprocal
            | Unary::Neg
            | Unary::Abs
            | Unary::Floor
            | Unary::Ceil
            | Unary::Round
            | Unary::Sign
            | Unary::Sin
            | Unary::Cos
            | Unary::Tan
            | Unary::Asin
            | Unary::Acos
            | Unary::Atan
            | Unary::Sinh
            | Unary::Cosh
            | Unary::Asinh
            | Unary::Acosh
            | Unary::Atanh
            | Unary::Softplus
            | Unary::Softsign
            | Unary::Mish => Ok(()),
        },
        Op::Pool { kind, window } => {
            sliding(window, None, v)?;
            match kind {
                PoolKind::Max => Ok(()),
                PoolKind::Average { include_pad } => v.field("include_pad", include_pad, Some(false)),
            }
        }
        Op::Reduce { kind: _, axes, keep } => {
            v.field("axes", axes, None)?;
            v.field("keep", keep, Some(false))
        }
        Op::Softmax { axis, log: _ } => v.field("axis", axis, None),
        Op::LayerNorm { axis, epsilon, rms: _ } => {
            v.field("axis", axis, None)?;
            v.field("epsilon", epsilon, None)
        }
        Op::Reshape { dims } | Op::Expand { dims } => v.field("dims", dims, result),
        Op::Transpose { perm } => v.field("perm", perm, None),
        Op::Concat { axis } => v.field("axis", axis, None),
        Op::Slice { start, step, len } => {
            v.field("start", start, None)?;
            v.field("step", step, rank.map(|rank| vec![1; rank]))?;
            v.field("len", len, result)
        }
        Op::Pad { before, after, value } => {
            v.field("before", before, rank.map(|rank| vec![0; rank]))?;
            v.field("after", after, rank.map(|rank| vec![0; rank]))?;
            v.field("value", value, Some(0.0))
        }
        Op::Gather { index } => indices(index, v),
        Op::Scatter { index, reduce } => {
            indices(index, v)?;
            v.field("reduce", reduce, Some(None))
        }
        Op::TopK { axis, k, smallest, last } => {
            v.field("axis", axis, None)?;
            v.field("k", k, None)?;
            v.field("smallest", smallest, Some(false))?;
            v.field("last", last, Some(false))
        }
        Op::Cumulative { op: _, axis, exclusive, reverse } => {
            v.field("axis", axis, None)?;
            v.field("exclusive", exclusive, Some(false))?;
            v.field("reverse", reverse, Some(false))
        }
        Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Quantize | Op::Dequantize | Op::Requantize | Op::Cast | Op::Bitcast => Ok(()),
    }
}

fn indices<V: Visit>(index: &mut Index, v: &mut V) -> Read<()> {
    match index {
        Index::Slices { axis } | Index::Elements { axis } => v.field("axis", axis, None),
        Index::Coordinates { batch } => v.field("batch", batch, Some(0)),
    }
}

/// A window as four lists: `kernel`, `stride`, `dilation` with one number per axis, `pad` with all numbers before and
/// then all after. The first list decides how many axes there are.
fn sliding<V: Visit>(window: &mut Window, kernel: Option<Vec<usize>>, v: &mut V) -> Read<()> {
    let mut part =
        |name, default: fn(usize) -> Option<Vec<usize>>, kernel: Option<Vec<usize>>, parts: &[fn(&mut WindowDim) -> &mut usize]| {
            let mut list: Vec<usize> = parts.iter().flat_map(|part| window.dims.iter().map(|d| *part(&mut d.clone()))).collect();
            v.field(name, &mut list, kernel.or(default(window.dims.len())))?;
            if window.dims.is_empty() {
                let unset = WindowDim { kernel: 0, stride: 1, dilation: 1, before: 0, after: 0 };
                window.dims = vec![unset; list.len() / parts.len()];
            }
            if list.len() != window.dims.len() * parts.len() {
                return v.bad(format!(
                    "`{name}` has {} numbers, a window of {} axes needs {}",
                    list.len(),
                    window.dims.len(),
                    window.dims.len() * parts.len()
                ));
            }
            for (i, x) in list.into_iter().enumerate() {
                let rank = window.dims.len();
                *parts[i / rank](&mut window.dims[i % rank]) = x;
            }
            Ok(())
        };
    part("kernel", |_| None, kernel, &[|d| &mut d.kernel])?;
    part("stride", |rank| Some(vec![1; rank]), None, &[|d| &mut d.stride])?;
    part("dilation", |rank| Some(vec![1; rank]), None, &[|d| &mut d.dilation])?;
    part("pad", |rank| Some(vec![0; 2 * rank]), None, &[|d| &mut d.before, |d| &mut d.after])
}

/// One walk over the attributes of an operator.
trait Visit {
    fn field<T: Attr>(&mut self, name: &'static str, value: &mut T, default: Option<T>) -> Read<()>;
    fn bad(&mut self, message: String) -> Read<()>;
}

/// Writes what differs from its default.
struct Write<'a> {
    out: &'a mut String,
    first: bool,
}

impl Visit for Write<'_> {
    fn field<T: Attr>(&mut self, name: &'static str, value: &mut T, default: Option<T>) -> Read<()> {
        if default.is_none_or(|d| !d.same(value)) {
            self.out.push_str(if self.first { " {" } else { ", " });
            self.first = false;
            self.out.push_str(name);
            if !T::FLAG {
                self.out.push('=');
                value.write(self.out);
            }
        }
        Ok(())
    }
    fn bad(&mut self, _: String) -> Read<()> {
        Ok(())
    }
}

/// Reads one attribute, the name of which was read already.
struct Set<'c, 'a> {
    c: &'c mut Cursor<'a>,
    name: &'a str,
    at: usize,
    found: Option<&'static str>,
    known: Vec<&'static str>,
}

impl Visit for Set<'_, '_> {
    fn field<T: Attr>(&mut self, name: &'static str, value: &mut T, _: Option<T>) -> Read<()> {
        self.known.push(name);
        if name == self.name {
            self.found = Some(name);
            if !T::FLAG {
                self.c.expect('=')?;
            }
            *value = T::read(self.c)?;
        }
        Ok(())
    }
    fn bad(&mut self, message: String) -> Read<()> {
        Cursor::bad_at(self.at, message)
    }
}

/// Gives the attributes that were not read their defaults.
struct Finish<'a> {
    seen: &'a [&'static str],
    at: usize,
}

impl Visit for Finish<'_> {
    fn field<T: Attr>(&mut self, name: &'static str, value: &mut T, default: Option<T>) -> Read<()> {
        if !self.seen.contains(&name) {
            match default {
                Some(default) => *value = default,
                None => return self.bad(format!("attribute `{name}` is missing")),
            }
        }
        Ok(())
    }
    fn bad(&mut self, message: String) -> Read<()> {
        Cursor::bad_at(self.at, message)
    }
}

/// Writes the attributes of `op`: nothing, or ` {name=value, ..}`.
pub(super) fn write_attrs(out: &mut String, op: &Op, cx: &Context<'_>) {
    let mut walk = Write { out, first: true };
    // Nothing in this walk can fail, and nothing is changed.
    let _ = fields(&mut op.clone(), cx, &mut walk);
    if !walk.first {
        out.push('}');
    }
}

/// An operator under construction: its mnemonic is read, then its operands, its attributes, its result type.
pub(super) struct Draft {
    op: Op,
    at: usize,
    seen: Vec<&'static str>,
}

impl Draft {
    /// Reads a mnemonic.
    pub fn read(c: &mut Cursor<'_>) -> Read<Self> {
        let at = c.here();
        let word = c.word();
        match prototypes().find(|op| op.mnemonic() == word) {
            Some(op) => Ok(Self { op, at, seen: vec![] }),
            None if word.is_empty() => c.expected("an operator"),
            None => Cursor::bad_at(at, format!("no operator is called `{word}`")),
        }
    }

    /// Reads `{name=value, ..}`, if there.
    pub fn attrs(&mut self, c: &mut Cursor<'_>) -> Read<()> {
        if c.peek() != Some('{') {
            return Ok(());
        }
        c.list('{', '}', |c| {
            let at = c.here();
            let name = c.word();
            let mut walk = Set { c, name, at, found: None, known: vec![] };
            fields(&mut self.op, &Context::default(), &mut walk)?;
            match walk.found {
                Some(name) if self.seen.contains(&name) => Cursor::bad_at(at, format!("attribute `{name}` is given twice")),
                Some(name) => {
                    self.seen.push(name);
                    Ok(())
                }
                None if name.is_empty() => c.expected("an attribute"),
                None => {
                    let known = if walk.known.is_empty() { "none".to_owned() } else { walk.known.join(", ") };
                    let message = format!("{} has no attribute `{name}`; it has {known}", self.op.mnemonic());
                    Err(Bad { at, message, help: None })
                }
            }
        })
    }

    /// The operator, with defaults for what was not read.
    pub fn finish(mut self, cx: &Context<'_>) -> Read<Op> {
        fields(&mut self.op, cx, &mut Finish { seen: &self.seen, at: self.at })?;
        Ok(self.op)
    }
}

impl fmt::Display for Op {
    /// Mnemonic and attributes, those that usually follow from operands included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.mnemonic().to_owned();
        write_attrs(&mut out, self, &Context::default());
        f.pad(&out)
    }
}

/// The value of an attribute.
trait Attr: Sized {
    /// Present or absent: written without a value.
    const FLAG: bool = false;
    fn same(&self, other: &Self) -> bool;
    fn write(&self, out: &mut String);
    fn read(c: &mut Cursor<'_>) -> Read<Self>;
}

impl Attr for bool {
    const FLAG: bool = true;
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, _: &mut String) {}
    fn read(_: &mut Cursor<'_>) -> Read<Self> {
        Ok(true)
    }
}

impl Attr for f32 {
    fn same(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
    fn write(&self, out: &mut String) {
        float(out, *self);
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        c.float()
    }
}

impl Attr for usize {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        c.int()
    }
}

impl Attr for Vec<usize> {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self:?}");
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        ints(c)
    }
}

impl Attr for Vec<isize> {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self:?}");
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        ints(c)
    }
}

fn ints<T: std::str::FromStr>(c: &mut Cursor<'_>) -> Read<Vec<T>> {
    let mut list = Vec::new();
    c.list('[', ']', |c| {
        list.push(c.int()?);
        Ok(())
    })?;
    Ok(list)
}

impl Attr for Multiplier {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, out: &mut String) {
        out.push_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
        });
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        let at = c.here();
        match c.word() {
            "f64" => Ok(Self::F64),
            "f32" => Ok(Self::F32),
            _ => Cursor::bad_at(at, "expected f64 or f32"),
        }
    }
}

impl Attr for Option<Binary> {
    fn same(&self, other: &Self) -> bool {
        self == other
    }
    fn write(&self, out: &mut String) {
        out.push_str(self.map_or("none", Binary::name));
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        let at = c.here();
        match c.word() {
            "none" => Ok(None),
            word => match Binary::ALL.into_iter().find(|f| f.name() == word) {
                Some(f) => Ok(Some(f)),
                None => Cursor::bad_at(at, "expected none or a function of two elements"),
            },
        }
    }
}

impl Attr for Act {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) | (Self::Relu, Self::Relu) => true,
            (Self::Clip { lo, hi }, Self::Clip { lo: l, hi: h }) => lo.same(l) && hi.same(h),
            _ => false,
        }
    }
    fn write(&self, out: &mut String) {
        match self {
            Self::None => out.push_str("none"),
            Self::Relu => out.push_str("relu"),
            Self::Clip { lo, hi } => {
                out.push_str("clip(");
                float(out, *lo);
                out.push_str(", ");
                float(out, *hi);
                out.push(')');
            }
        }
    }
    fn read(c: &mut Cursor<'_>) -> Read<Self> {
        let at = c.here();
        match c.word() {
            "none" => Ok(Self::None),
            "relu" => Ok(Self::Relu),
            "clip" => {
                let mut bounds = Vec::new();
                c.list('(', ')', |c| {
                    bounds.push(c.float()?);
                    Ok(())
                })?;
                match bounds[..] {
                    [lo, hi] => Ok(Self::Clip { lo, hi }),
                    _ => Cursor::bad_at(at, "clip has two bounds"),
                }
            }
            _ => Cursor::bad_at(at, "expected none, relu or clip(lo, hi)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn mnemonics_name_one_operator_each() {
        let names: Vec<_> = prototypes().map(|op| op.mnemonic()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(names.len(), 31 + Unary::ALL.len() + Binary::ALL.len() + Comparison::ALL.len() + ReduceKind::ALL.len());
    }

    struct Names(Vec<&'static str>);

    impl Visit for Names {
        fn field<T: Attr>(&mut self, name: &'static str, _: &mut T, _: Option<T>) -> Read<()> {
            self.0.push(name);
            Ok(())
        }
        fn bad(&mut self, _: String) -> Read<()> {
            Ok(())
        }
    }

    #[test]
    fn the_reference_lists_every_operator_and_attribute() {
        let page = include_str!("../../../../docs/ir.md");
        for mut op in prototypes() {
            let row = page
                .lines()
                .find(|l| l.starts_with("| ") && l[1..].split('|').next().is_some_and(|c| c.contains(&format!("`{}`", op.mnemonic()))));
            let row = row.unwrap_or_else(|| panic!("docs/ir.md has no row for {}", op.mnemonic()));
            let mut names = Names(vec![]);
            fields(&mut op, &Context::default(), &mut names).expect("names only");
            for name in &names.0 {
                assert!(row.contains(&format!("`{name}`")), "docs/ir.md: {} lacks `{name}`", op.mnemonic());
            }
            let listed = row.rsplit('|').nth(1).map_or(0, |cell| cell.matches('`').count() / 2);
            assert_eq!(listed, names.0.len(), "docs/ir.md: {row}");
        }
    }

    #[test]
    fn operators_show_their_attributes() {
        let window = Window { dims: vec![WindowDim { before: 1, ..WindowDim::new(3) }, WindowDim { stride: 2, ..WindowDim::new(5) }] };
        let op = Op::Conv { window, groups: 4, act: Act::Clip { lo: 0.0, hi: 6.0 }, residual: true, multiplier: Multiplier::F32 };
        assert_eq!(
            op.to_string(),
            "conv {kernel=[3, 5], stride=[1, 2], pad=[1, 0, 0, 0], groups=4, act=clip(0.0, 6.0), residual, multiplier=f32}"
        );
        assert_eq!(Op::Unary(Unary::Swish { alpha: 1.0 }).to_string(), "swish");
    }
}
