//! Graph-level operators that only move elements.

use crate::{
    data,
    strided::{self, Side},
};
use quernel_ir::{Diagnostic, Elem, Scalar, Tensor, TensorTy, exact, plain};

/// The same elements under other dimensions.
pub(crate) fn reshape(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    Tensor::new(result.clone(), x.shared()).map_err(Diagnostic::bug)
}

/// Reads `x` with the given strides over the result's dimensions.
fn gather(x: &Tensor, start: usize, steps: Vec<isize>, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let mut out = vec![0u8; result.bytes()];
    let to = Side { bytes: &mut out[..], start: 0, steps: strided::dense(&result.dims) };
    strided::copy(result.elem.bytes(), &result.dims, to, Side { bytes: x.bytes(), start, steps });
    data::tensor(result, out)
}

/// Result axis `i` is operand axis `perm[i]`.
pub(crate) fn transpose(x: &Tensor, perm: &[usize], result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let own = strided::dense(&x.ty.dims);
    gather(x, 0, perm.iter().map(|&p| own[p]).collect(), result)
}

/// Repeats axes of extent 1.
pub(crate) fn expand(x: &Tensor, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    gather(x, 0, strided::broadcast(&x.ty.dims, &result.dims), result)
}

/// Every `step`-th element from `start`.
pub(crate) fn slice(x: &Tensor, start: &[usize], step: &[isize], result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let own = strided::dense(&x.ty.dims);
    let first = start.iter().zip(&own).map(|(s, o)| s * *o as usize).sum();
    // The step of an axis with one element is arbitrary, so it may not fit a product.
    gather(x, first, step.iter().zip(&own).map(|(s, o)| s.wrapping_mul(*o)).collect(), result)
}

/// Writes `x` into a result at `start`, dense strides of the result.
fn scatter(x: &Tensor, start: usize, steps: &[isize], out: &mut [u8]) {
    let from = Side { bytes: x.bytes(), start: 0, steps: strided::dense(&x.ty.dims) };
    strided::copy(x.ty.elem.bytes(), &x.ty.dims, Side { bytes: out, start, steps: steps.to_vec() }, from);
}

/// Operands one after another along `axis`.
pub(crate) fn concat(args: &[&Tensor], axis: usize, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let mut out = vec![0u8; result.bytes()];
    let steps = strided::dense(&result.dims);
    let mut at = 0;
    for x in args {
        scatter(x, at * steps[axis] as usize, &steps, &mut out);
        at += x.ty.dims[axis];
    }
    data::tensor(result, out)
}

/// Constant padding with a real value.
pub(crate) fn pad(x: &Tensor, before: &[usize], value: f32, result: &TensorTy) -> Result<Tensor, Diagnostic> {
    let pattern = match &result.elem {
        Elem::Quant(q) => {
            let (scale, zero) = data::params(q)?;
            data::encode(q.storage().bytes(), [exact::quantize(value, scale, zero, q.min(), q.max())])
        }
        Elem::Scalar(s) => plain::cast(Scalar::F32, *s, &value.to_le_bytes()),
    };
    let mut out = pattern.repeat(result.count());
    let steps = strided::dense(&result.dims);
    let start = before.iter().zip(&steps).map(|(b, s)| b * *s as usize).sum();
    scatter(x, start, &steps, &mut out);
    data::tensor(result, out)
}
