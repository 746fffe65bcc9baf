//! Weights of few bits with a scale per block, as ONNX Runtime writes them for language models.

use crate::node::{Built, NodeCx};
use quernel_ir::{Act, Binary, Code, Diagnostic, Elem, Multiplier, Op, Scalar, Tensor};

/// `a [.., K], b [N, blocks, bytes], scales [N blocks], (zero points), (g_idx [K]), (bias [N])`: the product of floats with
/// `(code - zero point) scale`, where a row of codes belongs to one output.
pub fn matmul(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(3, 6)?;
    let shape = Shape::of(cx)?;
    let x = cx.arg(0)?;
    if cx.dims(x).last() != Some(&shape.k) {
        let dims = quernel_ir::infer::show(&cx.dims(x));
        return Err(cx.err(Code::ShapeMismatch, format!("operand 0 is {dims}, and `K` is {}", shape.k)));
    }
    let scales = floats(cx, 2, shape.n * shape.blocks)?;
    let zeros = zero_points(cx, &shape)?;
    let codes = constant_bytes(cx, 1, shape.n * shape.blocks * shape.blob)?;
    let block_of = blocks_of(cx, &shape)?;
    cx.take_bytes(shape.n.saturating_mul(shape.k).saturating_mul(4))?;
    let mask = (1u32 << shape.bits) - 1;
    let mut w = Vec::with_capacity(shape.n * shape.k);
    for o in 0..shape.n {
        for k in 0..shape.k {
            let (block, within) = (k / shape.size, k % shape.size);
            let bit = within * shape.bits as usize;
            let byte = codes[(o * shape.blocks + block) * shape.blob + bit / 8];
            let code = u32::from(byte) >> (bit % 8) & mask;
            let at = o * shape.blocks + block_of.as_ref().map_or(block, |g| g[k]);
            w.push((code as f32 - zeros[at]) * scales[at]);
        }
    }
    let w_name = cx.g.values[cx.arg(1)?].name.clone();
    let w = cx.g.constant(w_name, Tensor::f32([shape.n, shape.k], &w));
    let dense = Op::Dense { act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let y = cx.push(dense, &[x, w])?;
    match cx.optional(5) {
        Some(bias) => Ok(vec![cx.push(Op::Binary(Binary::Add), &[y, bias])?]),
        None => Ok(vec![y]),
    }
}

struct Shape {
    n: usize,
    k: usize,
    bits: u32,
    /// Weights of a block.
    size: usize,
    blocks: usize,
    /// Bytes of a block.
    blob: usize,
}

impl Shape {
    fn of(cx: &NodeCx<'_>) -> Result<Self, Diagnostic> {
        let number = |name: &str, default: i64| -> Result<usize, Diagnostic> {
            let x = cx.int(name)?.unwrap_or(default);
            let fits = usize::try_from(x).ok().filter(|x| (1..=1 << 24).contains(x));
            fits.ok_or_else(|| cx.bad_attribute(format!("`{name}` is {x}")))
        };
        let (n, k, bits, size) = (number("N", 0)?, number("K", 0)?, number("bits", 4)?, number("block_size", 0)?);
        if !matches!(bits, 2 | 4 | 8) || !(size * bits).is_multiple_of(8) {
            return Err(cx.unsupported(format!("has weights of {bits} bits in blocks of {size}; 2, 4 and 8 bits are supported")));
        }
        let blocks = k.div_ceil(size);
        crate::tensor::count(&[n, blocks, size]).map_err(|d| d.at(cx.label))?;
        Ok(Self { n, k, bits: bits as u32, size, blocks, blob: size * bits / 8 })
    }
}

fn constant<'a>(cx: &'a NodeCx<'_>, i: usize) -> Result<&'a Tensor, Diagnostic> {
    cx.g.tensor(cx.arg(i)?).ok_or_else(|| cx.unsupported(format!("computes operand {i} at run time")))
}

fn sized<T>(cx: &NodeCx<'_>, i: usize, data: Option<Vec<T>>, want: usize) -> Result<Vec<T>, Diagnostic> {
    match data {
        Some(data) if data.len() == want => Ok(data),
        Some(data) => Err(cx.err(Code::ShapeMismatch, format!("operand {i} has {} elements instead of {want}", data.len()))),
        None => Err(cx.err(Code::UnsupportedType, format!("operand {i} has an element type that does not fit"))),
    }
}

fn constant_bytes(cx: &NodeCx<'_>, i: usize, want: usize) -> Result<Vec<u8>, Diagnostic> {
    let t = constant(cx, i)?;
    sized(cx, i, (t.ty.elem == Elem::from(Scalar::U8)).then(|| t.bytes().to_vec()), want)
}

fn floats(cx: &NodeCx<'_>, i: usize, want: usize) -> Result<Vec<f32>, Diagnostic> {
    sized(cx, i, constant(cx, i)?.to_f32(), want)
}

/// One zero point per block: packed like the weights, floats, or the middle of the codes.
fn zero_points(cx: &NodeCx<'_>, s: &Shape) -> Result<Vec<f32>, Diagnostic> {
    let count = s.n * s.blocks;
    let Some(v) = cx.optional(3) else { return Ok(vec![(1u32 << (s.bits - 1)) as f32; count]) };
    if cx.g.ty(v).elem.is_f32() {
        return floats(cx, 3, count);
    }
    let row = (s.blocks * s.bits as usize).div_ceil(8);
    let packed = constant_bytes(cx, 3, s.n * row)?;
    let mask = (1u32 << s.bits) - 1;
    let one = |at: usize| {
        let bit = at % s.blocks * s.bits as usize;
        (u32::from(packed[at / s.blocks * row + bit / 8]) >> (bit % 8) & mask) as f32
    };
    Ok((0..count).map(one).collect())
}

/// The block whose scale belongs to each input, where it is not the one the input lies in.
fn blocks_of(cx: &NodeCx<'_>, s: &Shape) -> Result<Option<Vec<usize>>, Diagnostic> {
    if cx.optional(4).is_none() {
        return Ok(None);
    }
    let groups = sized(cx, 4, constant(cx, 4)?.to_ints(), s.k)?;
    let block = |g: &i64| usize::try_from(*g).ok().filter(|g| *g < s.blocks);
    let groups: Option<Vec<usize>> = groups.iter().map(block).collect();
    groups.map(Some).ok_or_else(|| cx.err(Code::BadTensor, "operand 4 names a block that does not exist"))
}
