//! Element and tensor types: `16x3x3x3xq<i8[-127:127], axis=0 {16 x 0.1}>`.

use super::{
    Pool,
    lex::{Cursor, Read, float},
    print::Mode,
};
use crate::ty::{Elem, Quant, Scalar, Scheme, Storage, TensorTy};
use std::{fmt, fmt::Write as _, sync::Arc};

/// Elements of one tensor.
pub(super) const MAX_ELEMENTS: usize = 1 << 31;
/// Axes of one tensor.
pub(super) const MAX_RANK: usize = 64;
/// Scales listed in a brief print.
pub(super) const BRIEF_SCALES: usize = 8;

pub(super) fn write_type(out: &mut String, ty: &TensorTy, mode: Mode) {
    for d in &ty.dims {
        let _ = write!(out, "{d}x");
    }
    write_elem(out, &ty.elem, mode);
}

fn write_elem(out: &mut String, elem: &Elem, mode: Mode) {
    match elem {
        Elem::Scalar(s) => out.push_str(s.name()),
        Elem::Quant(q) => write_quant(out, q, mode),
    }
}

fn write_quant(out: &mut String, q: &Quant, mode: Mode) {
    let _ = write!(out, "q<{}", q.storage());
    if (q.min(), q.max()) != q.storage().range() {
        let _ = write!(out, "[{}:{}]", q.min(), q.max());
    }
    out.push_str(", ");
    match q.scheme() {
        Scheme::PerTensor { scale, zero_point } => {
            float(out, *scale);
            let _ = write!(out, ":{zero_point}");
        }
        Scheme::PerAxis { axis, scales } => {
            let _ = write!(out, "axis={axis} ");
            write_scales(out, scales, mode);
        }
        Scheme::Grouped { group, scales } => {
            let _ = write!(out, "group={group} ");
            write_scales(out, scales, mode);
        }
        Scheme::Table { axis, scales, table } => {
            let _ = write!(out, "axis={axis} ");
            write_scales(out, scales, mode);
            let _ = write!(out, ", table {table:?}");
        }
    }
    out.push('>');
}

fn write_scales(out: &mut String, scales: &[f32], mode: Mode) {
    out.push('{');
    match scales {
        [first, _, ..] if scales.iter().all(|s| s == first) => {
            let _ = write!(out, "{} x ", scales.len());
            float(out, *first);
        }
        _ if mode == Mode::Brief && scales.len() > BRIEF_SCALES => {
            let _ = write!(out, "n={}, #{:016x}", scales.len(), crate::tensor::fnv1a(&scale_bytes(scales)));
        }
        _ => {
            for (i, s) in scales.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                float(out, *s);
            }
        }
    }
    out.push('}');
}

/// The content that the hash of a list of scales names.
pub(super) fn scale_bytes(scales: &[f32]) -> Vec<u8> {
    scales.iter().flat_map(|s| s.to_le_bytes()).collect()
}

/// A tensor type whose number of elements is within limits.
pub(super) fn read_type(c: &mut Cursor<'_>, pool: &Pool) -> Read<TensorTy> {
    let start = c.here();
    let mut dims: Vec<usize> = Vec::new();
    while c.peek().is_some_and(|ch| ch.is_ascii_digit()) {
        dims.push(c.int()?);
        c.expect('x')?;
        if dims.len() > MAX_RANK {
            return Cursor::bad_at(start, format!("a tensor has at most {MAX_RANK} axes"));
        }
    }
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)));
    if count.is_none_or(|n| n > MAX_ELEMENTS) {
        return Cursor::bad_at(start, format!("a tensor has at most {MAX_ELEMENTS} elements"));
    }
    Ok(TensorTy { dims, elem: read_elem(c, pool)? })
}

fn read_elem(c: &mut Cursor<'_>, pool: &Pool) -> Read<Elem> {
    let start = c.here();
    let word = c.word();
    if word == "q" {
        return read_quant(c, pool, start);
    }
    match Scalar::ALL.into_iter().find(|s| s.name() == word) {
        Some(s) => Ok(Elem::Scalar(s)),
        None => {
            let known: Vec<&str> = Scalar::ALL.into_iter().map(Scalar::name).collect();
            Cursor::bad_at(start, format!("expected an element type: {} or q<..>", known.join(", ")))
        }
    }
}

fn read_quant(c: &mut Cursor<'_>, pool: &Pool, start: usize) -> Read<Elem> {
    c.expect('<')?;
    let at = c.here();
    let word = c.word();
    let storage = match word.split_at_checked(1) {
        Some((sign @ ("u" | "i"), bits)) => bits.parse().ok().and_then(|bits| Storage::new(bits, sign == "i")),
        _ => None,
    };
    let Some(storage) = storage else { return Cursor::bad_at(at, "expected integer storage: u1 to u16, i1 to i16 or i32") };
    let (mut min, mut max) = storage.range();
    if c.eat('[') {
        min = c.int()?;
        c.expect(':')?;
        max = c.int()?;
        c.expect(']')?;
    }
    c.expect(',')?;
    let scheme = if c.keyword("axis") {
        c.expect('=')?;
        let axis = c.int()?;
        let scales = read_scales(c, pool)?;
        if c.eat(',') {
            if !c.keyword("table") {
                return c.expected("`table`");
            }
            let mut table: Vec<i8> = Vec::new();
            c.list('[', ']', |c| {
                table.push(c.int()?);
                Ok(())
            })?;
            Scheme::Table { axis, scales, table: table.into() }
        } else {
            Scheme::PerAxis { axis, scales }
        }
    } else if c.keyword("group") {
        c.expect('=')?;
        Scheme::Grouped { group: c.int()?, scales: read_scales(c, pool)? }
    } else {
        let scale = c.float()?;
        c.expect(':')?;
        Scheme::PerTensor { scale, zero_point: c.int()? }
    };
    c.expect('>')?;
    match Quant::new(storage, min, max, scheme) {
        Ok(q) => Ok(q.into()),
        Err(message) => Cursor::bad_at(start, message),
    }
}

/// `{0.1, 0.2}`, `{16 x 0.1}` or `{n=16, #45b985a12ee0c9f1}`.
fn read_scales(c: &mut Cursor<'_>, pool: &Pool) -> Read<Arc<[f32]>> {
    let mut scales: Vec<f32> = Vec::new();
    let mut hashed: Option<usize> = None;
    c.list('{', '}', |c| {
        let start = c.here();
        if let (Some(n), []) = (hashed, &scales[..]) {
            let hash = c.hash()?;
            match n.checked_mul(4).and_then(|len| pool.get(hash, len)) {
                Some(bytes) => {
                    c.expand(start, bytes.len())?;
                    scales.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                }
                None => return Err(unresolved(start, hash, "scales")),
            }
        } else if scales.is_empty() && c.keyword("n") {
            c.expect('=')?;
            hashed = Some(c.int()?);
        } else if hashed.is_some() {
            return c.expected("`}`");
        } else {
            let x = c.float()?;
            if c.keyword("x") {
                let count = x as usize;
                if !scales.is_empty() || count as f32 != x || count > 1 << 24 {
                    return Cursor::bad_at(start, "`{N x SCALE}` repeats one scale an integer number of times");
                }
                c.expand(start, 4 * count)?;
                scales = vec![c.float()?; count];
            } else {
                scales.push(x);
            }
        }
        Ok(())
    })?;
    if hashed.is_some_and(|n| n != scales.len()) { c.bad("the hash of the scales is missing") } else { Ok(scales.into()) }
}

/// A hash without its data.
pub(super) fn unresolved(at: usize, hash: u64, what: &str) -> super::lex::Bad {
    super::lex::Bad {
        at,
        message: format!("the {what} #{hash:016x} are not part of the text"),
        help: Some("this text is for reading; `--stop-after STAGE -o FILE` writes a graph with all of its data"),
    }
}

impl fmt::Display for Quant {
    /// The text form, brief.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_quant(&mut out, self, Mode::Brief);
        f.pad(&out)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Elem {
    /// The text form, brief.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_elem(&mut out, self, Mode::Brief);
        f.pad(&out)
    }
}

impl fmt::Display for TensorTy {
    /// The text form, brief.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_type(&mut out, self, Mode::Brief);
        f.pad(&out)
    }
}
