//! Activations of more than 8 bits: computed in floats.
//!
//! Kernels read bytes. A rounding to more bits becomes the clamp it also is; what is lost is a rounding error far below
//! that of 8 bits.

use crate::{Cx, Sweep};
use quernel_ir::{Diagnostic, Elem, Graph, Op, TensorTy, Unary, Value, exact};

fn wide(g: &Graph, v: Value) -> bool {
    g.ty(v).elem.quant().is_some_and(|q| q.storage().bits() > 8)
}

/// Makes every computed value of more than 8 bits a float.
pub(crate) fn widen(g: &mut Graph, cx: &mut Cx) -> Result<(), Diagnostic> {
    if !g.order.iter().any(|&n| wide(g, g.nodes[n].result())) {
        return Ok(());
    }
    Sweep::run(g, |s, n| {
        let node = s.g.nodes[n].clone();
        let r = node.result();
        if node.op == Op::Dequantize && s.g.ty(node.args[0]).elem.is_f32() {
            s.replace(n, node.args[0]);
            return Ok(());
        }
        let params = s.g.ty(r).elem.quant().and_then(|q| q.tensor_params().map(|p| (p, q.min(), q.max(), q.storage())));
        let Some(((scale, zero), min, max, storage)) = params.filter(|_| wide(s.g, r)) else {
            s.keep(n);
            return Ok(());
        };
        let mut args = node.args.clone();
        if node.op == Op::Quantize {
            cx.remark("push-requantize", s.g, n, format!("rounds to {storage}: computed in floats, within the range of the type"));
            let f = Unary::Clip { lo: exact::dequantize(min, scale, zero), hi: exact::dequantize(max, scale, zero) };
            s.g.values[r].ty.elem = Elem::F32;
            s.rewrite(n, Op::Unary(f), args);
            return Ok(());
        }
        if !node.op.moves_only() {
            s.keep(n);
            return Ok(());
        }
        for a in &mut args {
            if let Some(t) = s.g.tensor(*a).filter(|_| wide(s.g, *a)) {
                let real = quernel_interp::eval_node(&Op::Dequantize, &[t], &TensorTy::f32(t.ty.dims.clone()))?;
                let name = s.g.values[*a].name.clone();
                *a = s.constant(&name, real);
            }
        }
        s.g.values[r].ty.elem = Elem::F32;
        s.rewrite(n, node.op, args);
        Ok(())
    })
}
