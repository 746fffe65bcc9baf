//! How far outputs are from those of the float network, as one number.

use crate::{Compiled, Failure, encode_for, outputs};
use quernel_ir::{Diagnostic, Tensor};
use quernel_quant::{Samples, metrics};

/// The measure, and what it measures against.
#[derive(Clone, Debug)]
pub struct Loss {
    want: Vec<Vec<f32>>,
    measure: Measure,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Measure {
    /// Mean divergence of the softmax of both.
    Logits,
    /// Mean divergence of distributions.
    Probabilities,
    /// Noise over signal.
    Noise,
}

/// More classes than any classifier has.
const MOST_CLASSES: usize = 1 << 17;

impl Loss {
    /// The measure that suits the float network's first outputs: a divergence where they are one row of scores or
    /// probabilities, else the share of noise.
    pub fn new(want: Vec<Tensor>) -> Result<Self, Failure> {
        let classes = want.first().map_or(&[][..], |t| &t.ty.dims);
        let row = classes.len() == 2 && classes[0] == 1 && (2..=MOST_CLASSES).contains(&classes[1]);
        let want: Vec<Vec<f32>> = want.iter().map(floats).collect::<Result<_, _>>()?;
        let distribution = |x: &Vec<f32>| x.iter().all(|p| *p >= 0.0) && (x.iter().sum::<f32>() - 1.0).abs() < 1e-3;
        let measure = match row {
            true if want.iter().all(distribution) => Measure::Probabilities,
            true => Measure::Logits,
            false => Measure::Noise,
        };
        Ok(Self { want, measure })
    }

    /// The loss of as many outputs as are given, those of the first samples.
    pub fn of(&self, got: &[Tensor]) -> Result<f64, Failure> {
        let got: Vec<Vec<f32>> = got.iter().map(floats).collect::<Result<_, _>>()?;
        let pairs = self.want.iter().zip(&got);
        let count = got.len().max(1) as f64;
        Ok(match self.measure {
            Measure::Logits => pairs.map(|(w, g)| metrics::kl(w, g)).sum::<f64>() / count,
            Measure::Probabilities => pairs.map(|(w, g)| divergence(w, g)).sum::<f64>() / count,
            Measure::Noise => {
                let (mut signal, mut noise) = (0f64, 0f64);
                for (w, g) in pairs.flat_map(|(w, g)| w.iter().zip(g)) {
                    signal += f64::from(*w) * f64::from(*w);
                    noise += (f64::from(*w) - f64::from(*g)).powi(2);
                }
                noise / signal.max(f64::MIN_POSITIVE)
            }
        })
    }

    /// Percent of samples whose largest output is another one; with labels, points of accuracy lost.
    pub fn drop(&self, got: &[Tensor], labels: Option<&[i64]>) -> Result<f64, Failure> {
        let got: Vec<Vec<f32>> = got.iter().map(floats).collect::<Result<_, _>>()?;
        let count = got.len().max(1) as f64;
        let answers = |all: &[Vec<f32>]| -> Vec<i64> { all.iter().map(|x| metrics::argmax(x) as i64).collect() };
        let (want, have) = (answers(&self.want[..got.len().min(self.want.len())]), answers(&got));
        Ok(100.0 / count
            * match labels {
                None => want.iter().zip(&have).filter(|(w, h)| w != h).count() as f64,
                Some(labels) => {
                    let right = |a: &[i64]| a.iter().zip(labels).filter(|(a, l)| a == l).count() as f64;
                    right(&want) - right(&have)
                }
            })
    }
}

/// Divergence of two distributions in nats; what is missing in the second counts as very rare.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let term = |(p, q): (&f32, &f32)| {
        let (p, q) = (f64::from(*p), f64::from(*q).max(1e-7));
        if p > 0.0 { p * libm::log(p / q) } else { 0.0 }
    };
    p.iter().zip(q).map(term).sum()
}

fn floats(t: &Tensor) -> Result<Vec<f32>, Failure> {
    if t.ty.elem.quant().is_some() {
        let ty = quernel_ir::TensorTy::f32(t.ty.dims.clone());
        return floats(&quernel_interp::eval_node(&quernel_ir::Op::Dequantize, &[t], &ty)?);
    }
    t.to_f32().ok_or_else(|| Diagnostic::new(quernel_ir::Code::UnsupportedType, "a loss needs a first output of real numbers").into())
}

/// First outputs of compiled code on all samples.
pub fn first_outputs(compiled: &Compiled, samples: &Samples) -> Result<Vec<Tensor>, Failure> {
    let program = compiled.program()?;
    let mut jit = compiled.jit()?;
    let mut all = Vec::with_capacity(samples.len());
    for i in 0..samples.len() {
        let inputs = encode_for(program, &samples.get(i)?)?;
        let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
        all.extend(outputs(program, jit.run(&bytes)?)?.into_iter().next().map(|(_, t)| t));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(all: &[[f32; 3]]) -> Vec<Tensor> {
        all.iter().map(|r| Tensor::f32([1, 3], r)).collect()
    }

    #[test]
    fn the_measure_follows_the_outputs() {
        let scores = rows(&[[4.0, -1.0, 0.0], [0.0, 2.0, 1.0]]);
        let l = Loss::new(scores.clone()).expect("floats");
        assert_eq!((l.measure, l.of(&scores).expect("floats")), (Measure::Logits, 0.0));
        let other = rows(&[[4.0, 5.0, 0.0], [0.0, 2.0, 1.0]]);
        assert!(l.of(&other).expect("floats") > 0.1);
        assert_eq!(l.drop(&other, None).expect("floats"), 50.0);
        assert_eq!(l.drop(&other, Some(&[1, 1])).expect("floats"), -50.0);
        let l = Loss::new(rows(&[[0.5, 0.25, 0.25]])).expect("floats");
        assert_eq!(l.measure, Measure::Probabilities);
        assert!((l.of(&rows(&[[0.25, 0.5, 0.25]])).expect("floats") - 0.25 * 2f64.ln()).abs() < 1e-9);
        let image = vec![Tensor::f32([1, 1, 1, 3], &[1.0, 2.0, 2.0])];
        let l = Loss::new(image).expect("floats");
        assert!((l.of(&[Tensor::f32([1, 1, 1, 3], &[1.0, 2.0, 1.0])]).expect("floats") - 1.0 / 9.0).abs() < 1e-12);
    }
}
