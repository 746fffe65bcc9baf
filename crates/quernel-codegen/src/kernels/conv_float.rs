//! f32 convolution: taps in order `ky, kx, i`, a multiply and an add each, never contracted.

use super::{
    Kernel,
    conv_plain::{outputs, taps},
};
use crate::emit::{Emitter, Machine};
use cranelift_codegen::ir::InstBuilder;
use quernel_ir::program::{Conv, Step};

/// The kernel of an f32 convolution.
pub fn choose(_: &Conv, _: &Step, _: &Machine) -> Kernel {
    Kernel::Plain
}

/// Emits the body of the function.
pub fn emit(e: &mut Emitter, _: Kernel, conv: &Conv, lo: f32, hi: f32) {
    let (x, w) = (e.read(0), e.read(1));
    let end = e.float_end(lo, hi);
    let zero = e.f32(0.0);
    outputs(e, conv, 4, |e, at| {
        let acc = taps(e, conv, &at, zero, |e, ok, x_index, w_index, acc| {
            let p = e.index(x, x_index, 4);
            let v = e.load_f32(p, 0);
            let v = e.b.ins().select(ok, v, zero);
            let p = e.index(w, w_index, 4);
            let k = e.load_f32(p, 0);
            let product = e.b.ins().fmul(v, k);
            e.b.ins().fadd(acc, product)
        });
        let bias = e.read(2);
        let bias = e.index(bias, at.o, 4);
        let bias = e.load_f32(bias, 0);
        let mut y = e.b.ins().fadd(acc, bias);
        if conv.residual.is_some() {
            let r = e.read(3);
            let r = e.index(r, at.residual, 4);
            let r = e.load_f32(r, 0);
            y = e.b.ins().fadd(y, r);
        }
        let y = e.clip(y, end.lo, end.hi);
        e.store(y, at.to, 0);
    });
}
