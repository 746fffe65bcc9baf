//! Windows over three spatial axes, on kernels over two: a convolution takes the taps along the depth as channels, a pool
//! goes over the plane first and along the depth after it.

use crate::{compose::Made, node::NodeCx};
use quernel_ir::{Act, Multiplier, Op, PoolKind, Value, Window, WindowDim};

/// A convolution of one to three spatial axes; `args` are operand, weights and perhaps a bias.
pub fn conv(cx: &mut NodeCx<'_>, args: &[Value], window: Window, groups: usize) -> Made {
    let layer = |window, groups| Op::Conv { window, groups, act: Act::None, residual: false, multiplier: Multiplier::F64 };
    let &[depth, height, width] = &window.dims[..] else { return cx.push(layer(window, groups), args) };
    let (xd, wd) = (cx.dims(args[0]), cx.dims(args[1]));
    let slices = cx.padded(args[0], 2, (depth.before, depth.after), 0.0)?;
    let padded = WindowDim { before: 0, after: 0, ..depth };
    let extent = cx.dims(slices)[2];
    let outputs = padded.outputs(extent).ok_or_else(|| cx.misfit(format!("a window spanning {} of {extent} slices", padded.span())))?;
    let mut taps = Vec::with_capacity(depth.kernel);
    for tap in 0..depth.kernel {
        let part = cx.strided(slices, 2, tap * depth.dilation, depth.stride as isize, outputs)?;
        taps.push(cx.reshape(part, vec![xd[0], xd[1], 1, outputs, xd[3], xd[4]])?);
    }
    let taps = cx.concat(&taps, 2)?;
    let planes = cx.transpose(taps, &[0, 3, 1, 2, 4, 5])?;
    let planes = cx.reshape(planes, vec![xd[0] * outputs, xd[1] * depth.kernel, xd[3], xd[4]])?;
    let weights = cx.reshape(args[1], vec![wd[0], wd[1] * wd[2], wd[3], wd[4]])?;
    let mut flat = args.to_vec();
    (flat[0], flat[1]) = (planes, weights);
    let y = cx.push(layer(Window { dims: vec![height, width] }, groups), &flat)?;
    let yd = cx.dims(y);
    let y = cx.reshape(y, vec![xd[0], outputs, yd[1], yd[2], yd[3]])?;
    cx.transpose(y, &[0, 2, 1, 3, 4])
}

/// A pool of one to three spatial axes. An average of averages is the average, because the number of valid elements is a
/// product over the axes.
pub fn pool(cx: &mut NodeCx<'_>, x: Value, kind: PoolKind, window: Window) -> Made {
    let &[depth, height, width] = &window.dims[..] else { return cx.push(Op::Pool { kind, window }, &[x]) };
    let d = cx.dims(x);
    let planes = cx.reshape(x, vec![d[0], d[1] * d[2], d[3], d[4]])?;
    let planes = cx.push(Op::Pool { kind, window: Window { dims: vec![height, width] } }, &[planes])?;
    let p = cx.dims(planes);
    let columns = cx.reshape(planes, vec![d[0], d[1], d[2], p[2] * p[3]])?;
    let y = cx.push(Op::Pool { kind, window: Window { dims: vec![depth, WindowDim::new(1)] } }, &[columns])?;
    let outputs = cx.dims(y)[2];
    cx.reshape(y, vec![d[0], d[1], outputs, p[2], p[3]])
}

/// More axes than there are kernels for.
pub fn at_most_three(cx: &NodeCx<'_>, what: &str, axes: usize) -> Result<(), quernel_ir::Diagnostic> {
    if axes <= 3 { Ok(()) } else { Err(cx.unsupported(format!("{what} over {axes} spatial axes"))) }
}
