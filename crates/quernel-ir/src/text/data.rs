//! The data of constants: `dense [..]`, `splat X`, `seed N`, `#HASH`.

use super::{
    lex::{Cursor, Read, real},
    print::Mode,
    types::{BRIEF_SCALES, scale_bytes, unresolved},
};
use crate::{
    graph::{Def, Graph, Value},
    plain::Number,
    tensor::{Tensor, fnv1a},
    ty::{Elem, Scalar, Scheme, TensorTy},
};
use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

/// Elements listed in a brief print.
const BRIEF_ELEMENTS: usize = 16;

/// Bytes by content: what the `#HASH` of a brief print stands for.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    by_content: BTreeMap<(u64, usize), Arc<[u8]>>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }
    /// The data of every live constant and every list of scales of a graph. Constants are shared, not copied.
    pub fn of(g: &Graph) -> Self {
        let mut pool = Self::new();
        let args = g.order.iter().filter_map(|&n| g.nodes.get(n)).flat_map(|d| d.args.iter().chain(&d.results).copied());
        let values: std::collections::BTreeSet<Value> =
            args.chain(g.inputs.iter().copied()).chain(g.outputs.iter().map(|&(_, v)| v)).collect();
        for data in values.into_iter().filter_map(|v| g.values.get(v)) {
            let mut elem = &data.ty.elem;
            if let Def::Const(c) = data.def
                && let Some(c) = g.consts.get(c)
            {
                elem = &c.tensor.ty.elem;
                pool.insert(c.tensor.shared());
            }
            if let Some(Scheme::PerAxis { scales, .. } | Scheme::Table { scales, .. } | Scheme::Grouped { scales, .. }) =
                elem.quant().map(|q| q.scheme())
                && scales.len() > BRIEF_SCALES
            {
                pool.insert(scale_bytes(scales));
            }
        }
        pool
    }
    /// Adds contents and returns their hash, [`fnv1a`].
    pub fn insert(&mut self, bytes: impl Into<Arc<[u8]>>) -> u64 {
        let bytes = bytes.into();
        let hash = fnv1a(&bytes);
        self.by_content.entry((hash, bytes.len())).or_insert(bytes);
        hash
    }
    /// The contents of `len` bytes with this hash.
    pub fn get(&self, hash: u64, len: usize) -> Option<&Arc<[u8]>> {
        self.by_content.get(&(hash, len))
    }
}

pub(super) fn write_data(out: &mut String, tensor: &Tensor, mode: Mode) {
    let width = tensor.ty.elem.bytes();
    let bytes = tensor.bytes();
    let count = bytes.len() / width;
    if count > 1 && bytes[width..] == bytes[..bytes.len() - width] {
        out.push_str("splat ");
        write_element(out, &tensor.ty.elem, &bytes[..width]);
    } else if mode == Mode::Brief && count > BRIEF_ELEMENTS {
        let _ = write!(out, "#{:016x}", tensor.hash());
    } else {
        out.push_str("dense [");
        for (i, element) in bytes.chunks_exact(width).enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            write_element(out, &tensor.ty.elem, element);
        }
        out.push(']');
    }
}

fn write_element(out: &mut String, elem: &Elem, bytes: &[u8]) {
    match elem.scalar().filter(|s| s.is_float()) {
        Some(s) => real(out, s, raw(bytes)),
        None => {
            let _ = write!(out, "{}", int(elem, bytes));
        }
    }
}

fn raw(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
}

fn int(elem: &Elem, bytes: &[u8]) -> i128 {
    let signed = match elem {
        Elem::Scalar(s) => s.is_signed(),
        Elem::Quant(q) => q.storage().signed(),
    };
    let unused = 64 - 8 * bytes.len() as u32;
    if signed { i128::from(((raw(bytes) << unused) as i64) >> unused) } else { i128::from(raw(bytes)) }
}

/// The integers an element may hold; `None` for floats.
fn bounds(elem: &Elem) -> Option<(i128, i128)> {
    match elem {
        Elem::Scalar(s) => s.range(),
        Elem::Quant(q) => Some((q.min().into(), q.max().into())),
    }
}

pub(super) fn read_data(c: &mut Cursor<'_>, ty: TensorTy, pool: &Pool) -> Read<Tensor> {
    let start = c.here();
    let width = ty.elem.bytes();
    let size = ty.bytes();
    let bytes: Arc<[u8]> = if c.peek() == Some('#') {
        let hash = c.hash()?;
        let Some(bytes) = pool.get(hash, size) else { return Err(unresolved(start, hash, "data")) };
        if let Some((lo, hi)) = bounds(&ty.elem)
            && bytes.chunks_exact(width).any(|b| !(lo..=hi).contains(&int(&ty.elem, b)))
        {
            return Cursor::bad_at(start, format!("the data #{hash:016x} has elements outside [{lo}:{hi}]"));
        }
        bytes.clone()
    } else {
        match c.word() {
            "dense" => {
                let mut bytes = Vec::new();
                c.list('[', ']', |c| {
                    let at = c.here();
                    let (element, width) = read_element(c, &ty.elem)?;
                    if bytes.len() == size {
                        return Cursor::bad_at(at, format!("more than the {} elements of the type", ty.count()));
                    }
                    bytes.extend_from_slice(&element[..width]);
                    Ok(())
                })?;
                if bytes.len() != size {
                    return Cursor::bad_at(start, format!("{} elements for a type with {}", bytes.len() / width, ty.count()));
                }
                bytes.into()
            }
            "splat" => {
                let (element, width) = read_element(c, &ty.elem)?;
                c.expand(start, size)?;
                element[..width].repeat(ty.count()).into()
            }
            "seed" => {
                let seed = c.int()?;
                c.expand(start, size)?;
                seeded(&ty, seed)
            }
            _ => return Cursor::bad_at(start, "expected `dense [..]`, `splat X`, `seed N` or `#HASH`"),
        }
    };
    Tensor::new(ty, bytes).or_else(|message| Cursor::bad_at(start, message))
}

/// The bytes of one element, and how many of them count.
fn read_element(c: &mut Cursor<'_>, elem: &Elem) -> Read<([u8; 8], usize)> {
    let start = c.here();
    if let Some(s) = elem.scalar().filter(|s| s.is_float()) {
        return Ok((c.real(s)?.to_le_bytes(), s.bytes()));
    }
    let n: i128 = c.int()?;
    let (lo, hi) = bounds(elem).unwrap_or_default();
    if (lo..=hi).contains(&n) {
        Ok(((n as u64).to_le_bytes(), elem.bytes()))
    } else {
        Cursor::bad_at(start, format!("element {n} is outside [{lo}:{hi}]"))
    }
}

/// The data `seed N` stands for. Element `i` comes from the 64 bits `r = mix(N + (i + 1) * 0x9e3779b97f4a7c15)`,
/// where `mix` is the finalizer of SplitMix64: a float is `(r >> 40) / 2^23 - 1`, in `[-1, 1)`; an integer is `lo + (r *
/// (hi - lo + 1) >> 64)` with the range of a quantized type, +-1000 for i32 and i64, 0 to 2000 for u32 and u64, and
/// everything for narrower ones.
fn seeded(ty: &TensorTy, seed: u64) -> Arc<[u8]> {
    let bounds = match ty.elem {
        Elem::Scalar(Scalar::I32 | Scalar::I64) => Some((-1000, 1000)),
        Elem::Scalar(Scalar::U32 | Scalar::U64) => Some((0, 2000)),
        _ => bounds(&ty.elem),
    };
    let width = ty.elem.bytes();
    let mut bytes = Vec::with_capacity(ty.bytes());
    let mut state = seed;
    for _ in 0..ty.count() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let r = mix(state);
        let bits = match (bounds, ty.elem.scalar()) {
            (None, Some(s)) => Number::Real((r >> 40) as f64 / 8_388_608.0 - 1.0).bits(s),
            (range, _) => {
                let (lo, hi) = range.unwrap_or_default();
                (lo + ((u128::from(r) * (hi - lo + 1) as u128) >> 64) as i128) as u64
            }
        };
        bytes.extend_from_slice(&bits.to_le_bytes()[..width]);
    }
    bytes.into()
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ty::{Quant, Storage};

    #[test]
    fn seeds_stay_in_range_and_fill_it() {
        let narrow = Quant::new(Storage::I8, -127, 127, Scheme::PerTensor { scale: 0.1, zero_point: 0 }).expect("legal");
        let cases: [(Elem, i64, i64); 6] = [
            (Elem::I32, -1000, 1000),
            (Elem::I64, -1000, 1000),
            (Scalar::U8.into(), 0, 255),
            (Scalar::I8.into(), -128, 127),
            (Scalar::Bool.into(), 0, 1),
            (narrow.into(), -127, 127),
        ];
        for (elem, lo, hi) in cases {
            let ty = TensorTy::new([200, 200], elem);
            let ints = Tensor::new(ty.clone(), seeded(&ty, 7)).expect("fills").to_ints().expect("integers");
            assert_eq!((ints.iter().min(), ints.iter().max()), (Some(&lo), Some(&hi)), "{ty}");
        }
        let ty = TensorTy::f32([200, 200]);
        let x = Tensor::new(ty.clone(), seeded(&ty, 7)).expect("fills").to_f32().expect("floats");
        assert!(x.iter().all(|x| (-1.0..1.0).contains(x)) && x.iter().any(|x| *x > 0.99) && x.iter().any(|x| *x < -0.99));
    }

    /// The first values, so that the data of tests never moves.
    #[test]
    fn seeds_are_stable() {
        let ty = TensorTy::new([6], Scalar::U8);
        // The reference sequence of SplitMix64 from state 0 begins e220a8397b1dcdaf 6e789e6aa1b965f4 06c45d188009454f.
        assert_eq!(seeded(&ty, 0)[..3], [0xe2, 0x6e, 0x06]);
        assert_ne!(seeded(&ty, 0), seeded(&ty, 1));
    }

    #[test]
    fn pools_tell_lengths_apart() {
        let mut pool = Pool::new();
        let hash = pool.insert(vec![1u8, 2]);
        assert!(pool.get(hash, 2).is_some() && pool.get(hash, 3).is_none() && pool.get(hash ^ 1, 2).is_none());
    }
}
