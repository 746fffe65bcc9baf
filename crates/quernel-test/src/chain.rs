//! Random chains of layers that follow each other over images, as lowering cuts them into strips of rows.

use crate::Net;
use quernel_ir::{Graph, Op, PoolKind, TensorTy, Value, WindowDim};

impl Net {
    /// A chain of two to six layers over an image of up to 40 rows: bytes, words or floats; convolutions over all channels, over
    /// each alone or over none but one pixel, and maxima; residuals from beside the chain and from within.
    pub fn chain(seed: u64) -> Graph {
        Self::new(seed).chained()
    }

    /// The same from the numbers of this net, which is empty.
    pub fn chained(mut self) -> Graph {
        let net = &mut self;
        let dims = [1, 1 + net.rng.below(20), 4 + net.rng.below(37), 2 + net.rng.below(9)];
        let x = net.g.input("x", TensorTy::f32(dims));
        let kind = net.rng.below(4);
        let mut v = net.rounded(x, kind);
        let mut all = vec![v];
        for i in 0..2 + net.rng.below(5) {
            // A result in floats ends what integer layers can do.
            if kind > 0 && net.quant(v).is_none() {
                v = net.rounded(v, kind);
            }
            let next = net.link(v, kind, &all, i);
            all.push(next);
            v = next;
        }
        net.g.output("y", v);
        if net.rng.chance(6) {
            let other = net.rng.pick(&all);
            net.g.output("other", other);
        }
        self.g
    }

    /// A value as what the chain works on: floats, bytes (most often) or words.
    fn rounded(&mut self, x: Value, kind: usize) -> Value {
        match kind {
            0 => x,
            1 => {
                let elem = self.words(0.02);
                self.op(Op::Quantize, &[x], elem)
            }
            _ => self.quantize(x, 0.02),
        }
    }

    /// The next layer.
    fn link(&mut self, x: Value, kind: usize, all: &[Value], number: usize) -> Value {
        let dims = self.dims(x);
        let mut window = self.window(&dims[2..], true);
        let channels = dims[1];
        let draw = self.rng.below(8);
        if draw == 0 && kind != 1 {
            let elem = self.g.ty(x).elem.clone();
            return self.op(Op::Pool { kind: PoolKind::Max, window }, &[x], elem);
        }
        let (outputs, groups) = match draw {
            1..=3 => (channels, channels),
            _ => (1 + self.rng.below(40), 1),
        };
        if self.rng.chance(2) && groups == 1 {
            window.dims.iter_mut().for_each(|d| *d = WindowDim::new(1));
        }
        let out: Vec<usize> = window.dims.iter().zip(&dims[2..]).map(|(d, e)| d.outputs(*e).expect("fits")).collect();
        let shape = [1, outputs, out[0], out[1]];
        let within = all.iter().copied().find(|v| *v != x && self.dims(*v) == shape && self.g.ty(*v).elem.is_f32() == (kind == 0));
        let residual = match self.rng.below(4) {
            0 => Some(self.g.input(format!("r{number}"), TensorTy::f32(shape))).map(|r| self.rounded(r, kind)),
            1 => within,
            _ => None,
        };
        self.conv(x, outputs, groups, window, residual)
    }
}
