//! Integer products of two computed matrices: compiled code gives the interpreter's bytes on every level, for odd sizes, batches,
//! transposed operands, and zero points and bytes at the ends of their ranges.

use crate::common::{Rng, differences};
use quernel_ir::{
    Elem, Graph, Multiplier, Op, Origin, Quant, Stage, Storage, Tensor, TensorTy, Value, infer,
    program::{Program, What},
    verify,
};
use quernel_lower::{Options, lower};

struct Product {
    a: Vec<usize>,
    b: Vec<usize>,
    /// The right operand arrives with its last two axes exchanged, or the left one.
    turned: [bool; 2],
    types: [Elem; 2],
    result: Elem,
    /// The result's axes are exchanged: what reads it wants another order.
    after: Option<Vec<usize>>,
}

fn byte(rng: &mut Rng, scale: f32) -> Elem {
    let storage = rng.pick(&[Storage::U8, Storage::I8]);
    let (lo, hi) = storage.range();
    let middle = (lo + hi + 1) / 2;
    let any = rng.range(lo, hi);
    let zero = rng.pick(&[lo, hi, middle, middle, middle - 1, middle + 1, any]);
    Quant::per_tensor(storage, scale, zero).unwrap().into()
}

impl Product {
    fn random(rng: &mut Rng) -> Self {
        let (m, k, n) = (1 + rng.below(20), 1 + rng.below(70), 1 + rng.below(40));
        let (mut a, mut b) = (vec![m, k], vec![k, n]);
        match rng.below(8) {
            0 => a = vec![k],
            1 => b = vec![k],
            2 => {}
            _ => {
                let lead: Vec<usize> = (0..1 + rng.below(2)).map(|_| 1 + rng.below(3)).collect();
                let part = |rng: &mut Rng| -> Vec<usize> {
                    let from = rng.pick(&[0, 0, 0, lead.len(), lead.len() - 1]);
                    lead[from..].iter().map(|d| if rng.below(4) == 0 { 1 } else { *d }).collect()
                };
                let (left, right) = (part(rng), part(rng));
                a.splice(0..0, left);
                b.splice(0..0, right);
            }
        }
        let turned = [a.len() > 1 && rng.below(4) == 0, b.len() > 1 && rng.below(2) == 0];
        let types = [byte(rng, 0.02), byte(rng, 0.03)];
        let result = match rng.below(4) {
            0 => Elem::F32,
            // The form of ReLU.
            1 => Quant::per_tensor(Storage::U8, 0.002 * k as f32, 0).unwrap().into(),
            _ => byte(rng, 0.005 * k as f32),
        };
        let after = rng.below(3) == 0;
        let mut p = Self { a, b, turned, types, result, after: None };
        let rank = p.dims().len();
        if after && rank > 1 {
            let mut perm: Vec<usize> = (0..rank).collect();
            let (i, j) = (rng.below(rank), rng.below(rank));
            perm.swap(i, j);
            p.after = Some(perm);
        }
        p
    }

    fn dims(&self) -> Vec<usize> {
        let [a, b] = [&self.a, &self.b].map(|d| TensorTy::f32(d.clone()));
        infer::dims(&Op::MatMul { multiplier: Multiplier::F32 }, &[&a, &b]).unwrap()
    }

    fn program(&self) -> Program {
        let mut g = Graph::new("product");
        let operand = |g: &mut Graph, name: &str, dims: &[usize], turned: bool, elem: &Elem| -> Value {
            let mut perm: Vec<usize> = (0..dims.len()).collect();
            if turned {
                perm.swap(dims.len() - 2, dims.len() - 1);
            }
            let own: Vec<usize> = perm.iter().map(|i| dims[*i]).collect();
            let x = g.input(name, TensorTy::new(own, elem.clone()));
            if turned { g.push(Op::Transpose { perm }, &[x], TensorTy::new(dims.to_vec(), elem.clone()), Origin::default()) } else { x }
        };
        let a = operand(&mut g, "a", &self.a, self.turned[0], &self.types[0]);
        let b = operand(&mut g, "b", &self.b, self.turned[1], &self.types[1]);
        let dims = self.dims();
        let mut y = g.push(
            Op::MatMul { multiplier: Multiplier::F32 },
            &[a, b],
            TensorTy::new(dims.clone(), self.result.clone()),
            Origin::default(),
        );
        if let Some(perm) = &self.after {
            let ty = TensorTy::new(perm.iter().map(|i| dims[*i]).collect::<Vec<usize>>(), self.result.clone());
            y = g.push(Op::Transpose { perm: perm.clone() }, &[y], ty, Origin::default());
        }
        g.output("y", y);
        let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("{f:?}"));
        lower(&proof, &Options::default()).unwrap_or_else(|d| panic!("{d:?}")).program
    }

    fn inputs(&self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let one = |rng: &mut Rng, dims: &[usize]| {
            let n = dims.iter().product();
            match rng.below(4) {
                // Both ends of bytes of either sign.
                0 => (0..n).map(|_| rng.pick(&[0, 255, 127, 128])).collect(),
                1 => vec![rng.pick(&[0, 255, 127, 128]); n],
                _ => rng.bytes(n),
            }
        };
        vec![one(rng, &self.a), one(rng, &self.b)]
    }
}

#[test]
fn products_of_any_size_agree_on_every_level() {
    let cases = std::env::var("QUERNEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let (mut segments, mut batched, mut wrong) = ([0; 4], 0, Vec::new());
    for seed in 0..cases {
        let rng = &mut Rng(seed * 7919 + 5);
        rng.bits();
        let p = Product::random(rng);
        let (program, inputs) = (p.program(), p.inputs(rng));
        for step in &program.steps {
            if let What::MatMulBytes { product, .. } = &step.what {
                segments[product.segments] += 1;
                batched += usize::from(product.over.dims.iter().product::<usize>() > 1);
            }
        }
        let g =
            format!("seed {seed}: {:?} {:?} turned {:?} types {:?} result {} after {:?}", p.a, p.b, p.turned, p.types, p.result, p.after);
        wrong.extend(differences(seed, &program, &inputs).map(|d| format!("{g}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(segments[1..].iter().all(|n| *n > cases / 30) && batched > cases as usize / 5, "{segments:?} {batched}");
}

/// Rows of several strips, with one, two and three passes over the operand.
#[test]
fn products_of_many_rows() {
    let u8 = |scale, zero| Elem::from(Quant::per_tensor(Storage::U8, scale, zero).unwrap());
    for (i, zero) in [128, 140, 0].into_iter().enumerate() {
        for (k, n) in [(64, 40), (256, 17)] {
            let p = Product {
                a: vec![128, k],
                b: vec![k, n],
                turned: [false, false],
                types: [u8(0.02, 3), u8(0.03, zero)],
                result: if i == 0 { Elem::F32 } else { u8(0.003 * k as f32, 100) },
                after: None,
            };
            let (program, inputs) = (p.program(), p.inputs(&mut Rng(11 + i as u64)));
            assert_eq!(differences(i as u64, &program, &inputs), None, "{k} {n} {zero}");
        }
    }
}

/// The program computes what the graph means, and a batch of any size is two steps.
#[test]
fn hundreds_of_products_are_two_steps() {
    let u8 = |scale, zero| Elem::from(Quant::per_tensor(Storage::U8, scale, zero).unwrap());
    let p = Product {
        a: vec![3, 100, 2, 7],
        b: vec![3, 100, 7, 5],
        turned: [false, false],
        types: [u8(0.02, 3), u8(0.03, 140)],
        result: Elem::F32,
        after: None,
    };
    let program = p.program();
    let names: Vec<&str> = program.steps.iter().map(|s| s.what.name()).collect();
    assert_eq!(names, ["move", "move", "pack_panels", "matmul"]);
    let rng = &mut Rng(1);
    let inputs = p.inputs(rng);
    assert_eq!(differences(1, &program, &inputs), None);
    let run = quernel_interp::run_program(&program, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let [a, b] = [(&p.a, 0), (&p.b, 1)].map(|(d, i)| Tensor::new(TensorTy::new(d.clone(), p.types[i].clone()), inputs[i].clone()).unwrap());
    let want = quernel_interp::eval_node(&Op::MatMul { multiplier: Multiplier::F32 }, &[&a, &b], &TensorTy::f32(p.dims())).unwrap();
    assert_eq!(want.bytes(), run[0]);
}
