//! Reductions of floats along one axis.

use super::{float_unary::Math, unsupported};
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Type, Value,
    types::{F32, F32X4},
};
use quernel_ir::{Binary, ReduceKind, diag::Diagnostic, program::What};

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::ReduceFloat { kind, outer, len, inner } = what else { return Err(unsupported(what)) };
    let (kind, len, inner) = (*kind, *len, *inner);
    let (x, y) = (e.read(0), e.write(0));
    e.walk(*outer, &[(x, 4 * (len * inner) as i64), (y, 4 * inner as i64)], |e, p| {
        let wide = if e.vectors() { inner / 4 } else { 0 };
        e.walk(wide, &[(p[0], 16), (p[1], 16)], |e, p| {
            let v = one(e, kind, p[0], len, inner, F32X4);
            e.store(v, p[1], 0);
        });
        let (x, y) = (e.at(p[0], 16 * wide as i64), e.at(p[1], 16 * wide as i64));
        e.walk(inner - 4 * wide, &[(x, 4), (y, 4)], |e, p| {
            let v = one(e, kind, p[0], len, inner, F32);
            e.store(v, p[1], 0);
        });
    });
    Ok(())
}

fn one(e: &mut Emitter, kind: ReduceKind, x: Ptr, len: usize, inner: usize, ty: Type) -> Value {
    let stride = 4 * inner as i64;
    match kind {
        ReduceKind::Sum => sum16(e, x, len, stride, ty),
        ReduceKind::Prod => fold16(e, Binary::Mul, x, len, stride, ty),
        ReduceKind::Mean => {
            let sum = sum16(e, x, len, stride, ty);
            let math = Math::of(e, sum);
            let n = math.k(e, len as f32);
            e.b.ins().fdiv(sum, n)
        }
        ReduceKind::Max | ReduceKind::Min => extreme(e, kind == ReduceKind::Max, x, len, stride, ty),
    }
}

/// The largest or smallest element along a stride: `max_first(element, best)` from -infinity, which skips NaN.
pub fn extreme(e: &mut Emitter, largest: bool, x: Ptr, len: usize, stride: i64, ty: Type) -> Value {
    let start = if largest { f32::NEG_INFINITY } else { f32::INFINITY };
    let start = if ty == F32 { e.f32(start) } else { e.splat_f32(start) };
    let math = Math::of(e, start);
    e.fold(len, &[(x, stride)], &[start], |e, p, best| {
        let v = e.load(ty, p[0], 0);
        vec![if largest { math.max_first(e, v, best[0]) } else { math.min_first(e, v, best[0]) }]
    })[0]
}

/// [`quernel_ir::float::sum16`] of `len` elements a stride apart, one sum per lane of `ty`.
pub fn sum16(e: &mut Emitter, x: Ptr, len: usize, stride: i64, ty: Type) -> Value {
    fold16(e, Binary::Add, x, len, stride, ty)
}

/// The sum, or the product.
fn fold16(e: &mut Emitter, f: Binary, x: Ptr, len: usize, stride: i64, ty: Type) -> Value {
    if ty == F32 && stride == 4 && e.vectors() {
        return fold16_contiguous(e, f, x, len);
    }
    let start = if f == Binary::Add { 0.0 } else { 1.0 };
    let start = if ty == F32 { e.f32(start) } else { e.splat_f32(start) };
    let mut lanes = e.fold(len / 16, &[(x, 16 * stride)], &[start; 16], |e, p, lanes| {
        lanes
            .iter()
            .enumerate()
            .map(|(i, &lane)| {
                let v = e.load(ty, p[0], i as i64 * stride);
                join(e, f, lane, v)
            })
            .collect()
    });
    let rest = e.at(x, (len / 16 * 16) as i64 * stride);
    for (i, lane) in lanes.iter_mut().enumerate().take(len % 16) {
        let v = e.load(ty, rest, i as i64 * stride);
        *lane = join(e, f, *lane, v);
    }
    tree(e, f, lanes)
}

/// The same of contiguous elements, sixteen lanes in four vectors.
fn fold16_contiguous(e: &mut Emitter, f: Binary, x: Ptr, len: usize) -> Value {
    let start = e.splat_f32(if f == Binary::Add { 0.0 } else { 1.0 });
    let vectors = e.fold(len / 16, &[(x, 64)], &[start; 4], |e, p, lanes| {
        lanes
            .iter()
            .enumerate()
            .map(|(i, &lane)| {
                let v = e.load(F32X4, p[0], 16 * i as i64);
                join(e, f, lane, v)
            })
            .collect()
    });
    let mut lanes = Vec::with_capacity(16);
    for v in vectors {
        for i in 0..4 {
            lanes.push(e.b.ins().extractlane(v, i));
        }
    }
    let rest = e.at(x, 4 * (len / 16 * 16) as i64);
    for (i, lane) in lanes.iter_mut().enumerate().take(len % 16) {
        let v = e.load_f32(rest, 4 * i as i64);
        *lane = join(e, f, *lane, v);
    }
    tree(e, f, lanes)
}

fn join(e: &mut Emitter, f: Binary, a: Value, b: Value) -> Value {
    if f == Binary::Add { e.b.ins().fadd(a, b) } else { e.b.ins().fmul(a, b) }
}

fn tree(e: &mut Emitter, f: Binary, mut lanes: Vec<Value>) -> Value {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = join(e, f, lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}
