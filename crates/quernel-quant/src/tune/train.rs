//! Gradient steps on codes, scales and biases of a block.

use super::net::{Net, Step, Weights};
use crate::{recover::Ladder, weights::Levels};
use rayon::prelude::*;

/// Samples of a step, and parts of them that are summed apart.
const BATCH: usize = 16;
const PARTS: usize = 4;
/// One sample of so many is not learned from: on these the result is judged.
const JUDGED: usize = 8;
/// Decay of the means of gradients and of their squares (Adam: Kingma and Ba 2015).
const MOMENTUM: f32 = 0.9;
const ENERGY: f32 = 0.99;
/// Largest move in a step: of a code in distances of levels, of a scale relative to it, of a bias in the layer's mean magnitude.
const CODE: f32 = 0.004;
const SCALE: f32 = 0.002;
const BIAS: f32 = 0.002;

/// What a layer of the block may change.
#[derive(Clone, PartialEq, Debug)]
pub struct Tuned {
    /// What codes mean.
    pub levels: Levels,
    /// One per weight.
    pub codes: Vec<i32>,
    /// One per output channel.
    pub scales: Vec<f32>,
    /// One per output channel.
    pub bias: Vec<f32>,
    /// Whether codes and scales move; the bias always does.
    pub moves: bool,
}

/// Inputs of a sample, and what is wanted at the goals.
pub type Sample = (Vec<Vec<f32>>, Vec<Vec<f32>>);

/// The scale nearest to a wish that a row of a layer may have with a bias: layer, row, wish, bias.
pub type LegalIn<'a> = dyn Fn(usize, usize, f64, f32) -> Option<f32> + Sync + 'a;

/// A sample by its number.
pub type SampleOf<'a> = dyn Fn(usize) -> Option<Sample> + Sync + 'a;

/// A vector of numbers that gradients move.
struct Moving {
    value: Vec<f32>,
    mean: Vec<f32>,
    energy: Vec<f32>,
    rate: f32,
}

impl Moving {
    fn new(value: Vec<f32>, rate: f32) -> Self {
        let n = value.len();
        Self { value, mean: vec![0.0; n], energy: vec![0.0; n], rate }
    }
    /// A step against the gradient; `unbias` makes up for the start of both means at zero.
    fn step(&mut self, gradient: impl Iterator<Item = f32>, unbias: (f32, f32), share: f32) {
        for (i, g) in gradient.enumerate() {
            self.mean[i] = MOMENTUM * self.mean[i] + (1.0 - MOMENTUM) * g;
            self.energy[i] = ENERGY * self.energy[i] + (1.0 - ENERGY) * g * g;
            let size = (self.energy[i] * unbias.1).sqrt();
            if size > 0.0 {
                self.value[i] -= share * self.rate * self.mean[i] * unbias.0 / size;
            }
        }
    }
}

/// A layer while it is tuned: codes as real numbers between levels, scales as shares of their first value.
struct Course {
    ladder: Ladder,
    depth: usize,
    levels: Moving,
    scale: Moving,
    bias: Moving,
    first: Vec<f32>,
    /// The legal scales nearest to the wishes.
    scales: Vec<f32>,
    moves: bool,
}

impl Course {
    fn new(layer: &Tuned, magnitude: f32, codes: bool) -> Option<Self> {
        let ladder = Ladder::new(&layer.levels);
        let value = |code: i32| match &layer.levels {
            Levels::Linear { .. } => Some(code as f32),
            Levels::Table(t) => t.get(code as usize).map(|v| f32::from(*v)),
        };
        let values: Vec<f32> = layer.codes.iter().map(|c| value(*c)).collect::<Option<_>>()?;
        let rows = layer.scales.len();
        Some(Self {
            depth: values.len() / rows.max(1),
            levels: Moving::new(values, if codes { CODE * ladder.gap() as f32 } else { 0.0 }),
            scale: Moving::new(vec![0.0; rows], SCALE),
            bias: Moving::new(layer.bias.clone(), BIAS * magnitude),
            first: layer.scales.clone(),
            scales: layer.scales.clone(),
            ladder,
            moves: layer.moves,
        })
    }

    /// The weights as codes and scales stand for them.
    fn weights(&self) -> Vec<f32> {
        let level = |v: f32| self.ladder.value(self.ladder.nearest(f64::from(v))) as f32;
        self.levels.value.iter().enumerate().map(|(i, v)| level(*v) * self.scales[i / self.depth.max(1)]).collect()
    }

    fn advance(&mut self, w: &[f32], b: &[f32], unbias: (f32, f32), share: f32, legal: &dyn Fn(usize, f64, f32) -> Option<f32>) {
        self.bias.step(b.iter().copied(), unbias, share);
        if !self.moves {
            return;
        }
        let depth = self.depth.max(1);
        let level = |v: f32| self.ladder.value(self.ladder.nearest(f64::from(v))) as f32;
        let of_scale: Vec<f32> = w
            .chunks_exact(depth)
            .zip(self.levels.value.chunks_exact(depth))
            .zip(&self.first)
            .map(|((g, v), s)| g.iter().zip(v).map(|(g, v)| g * level(*v)).sum::<f32>() * s)
            .collect();
        let scales = &self.scales;
        self.levels.step(w.iter().enumerate().map(|(i, g)| g * scales[i / depth]), unbias, share);
        let (least, most) = self.ladder.ends();
        self.levels.value.iter_mut().for_each(|v| *v = v.max(least as f32).min(most as f32));
        self.scale.step(of_scale.into_iter(), unbias, share);
        for (row, scale) in self.scales.iter_mut().enumerate() {
            let wish = f64::from(self.first[row]) * f64::from(1.0 + self.scale.value[row]);
            *scale = legal(row, wish, self.bias.value[row]).unwrap_or(*scale);
        }
    }

    fn finish(self, levels: Levels) -> Tuned {
        let codes = self.levels.value.iter().map(|v| self.ladder.code(self.ladder.nearest(f64::from(*v)))).collect();
        Tuned { levels, codes, scales: self.scales, bias: self.bias.value, moves: self.moves }
    }
}

/// Tunes the layers of a block in `steps` steps, a third of them on scales and biases alone, which learn from few samples; then
/// codes move, too. `progress` hears of each step. What does not bring the samples that are not learned from nearer to what is
/// wanted is not kept; `None` where nothing is.
pub fn tune(
    net: &Net,
    layers: &[Tuned],
    count: usize,
    sample: &SampleOf<'_>,
    legal: &LegalIn<'_>,
    steps: usize,
    progress: &mut dyn FnMut(usize),
) -> Option<Vec<Tuned>> {
    let (judged, learned): (Vec<usize>, Vec<usize>) = (0..count).partition(|i| i % JUDGED == JUDGED - 1);
    if judged.is_empty() || learned.len() < BATCH {
        return None;
    }
    let (inputs, _) = sample(learned[0])?;
    let start = weights(layers)?;
    let values = net.forward(&inputs, &start);
    let mut magnitudes = vec![1.0; layers.len()];
    for step in &net.steps {
        if let Step::Layer { layer, y, .. } = step {
            let sum: f32 = values[*y].iter().map(|v| v.abs()).sum();
            magnitudes[*layer] = sum / values[*y].len().max(1) as f32;
        }
    }
    let mut least = loss(net, &start, &judged, sample)?;
    let mut best: Option<Vec<Tuned>> = None;
    let mut order = Order::new(learned);
    let first = steps / 3;
    for (codes, from, steps) in [(false, 0, first), (true, first, steps - first)] {
        let layers = best.as_deref().unwrap_or(layers);
        let courses = layers.iter().zip(&magnitudes).map(|(l, m)| Course::new(l, *m, codes)).collect::<Option<_>>()?;
        let courses = descend(net, courses, &mut order, sample, legal, steps, &mut |k| progress(from + k))?;
        let lost = loss(net, &of(&courses), &judged, sample)?;
        if lost < least {
            best = Some(courses.into_iter().zip(layers).map(|(c, l)| c.finish(l.levels.clone())).collect());
            least = lost;
        }
    }
    best
}

/// Gradient steps, each on a batch of samples; their size falls to nothing.
fn descend(
    net: &Net,
    mut courses: Vec<Course>,
    order: &mut Order,
    sample: &SampleOf<'_>,
    legal: &LegalIn<'_>,
    steps: usize,
    progress: &mut dyn FnMut(usize),
) -> Option<Vec<Course>> {
    let (mut first, mut second) = (1f64, 1f64);
    for k in 0..steps {
        progress(k);
        let weights = of(&courses);
        let turned = net.turned(&weights);
        let batch: Vec<usize> = (0..BATCH).map(|_| order.next()).collect();
        let part = |numbers: &[usize]| {
            let mut sums = weights.zeros();
            for &i in numbers {
                let (inputs, wanted) = sample(i)?;
                net.backward(&net.forward(&inputs, &weights), &wanted, &turned, &mut sums);
            }
            Some(sums)
        };
        let parts: Vec<Option<Weights>> = batch.par_chunks(BATCH / PARTS).map(part).collect();
        let mut sums = weights.zeros();
        for part in parts {
            sums.add(&part?);
        }
        first *= f64::from(MOMENTUM);
        second *= f64::from(ENERGY);
        let unbias = ((1.0 / (1.0 - first)) as f32, (1.0 / (1.0 - second)) as f32);
        let share = (0.5 * (1.0 + libm::cos(std::f64::consts::PI * k as f64 / steps as f64))) as f32;
        for (l, course) in courses.iter_mut().enumerate() {
            course.advance(&sums.w[l], &sums.b[l], unbias, share, &|row, wish, bias| legal(l, row, wish, bias));
        }
    }
    Some(courses)
}

/// The weights that layers stand for.
fn weights(layers: &[Tuned]) -> Option<Weights> {
    Some(of(&layers.iter().map(|l| Course::new(l, 1.0, false)).collect::<Option<Vec<_>>>()?))
}

fn of(courses: &[Course]) -> Weights {
    Weights { w: courses.iter().map(Course::weights).collect(), b: courses.iter().map(|c| c.bias.value.clone()).collect() }
}

/// The mean loss of these samples; `None` where one is missing.
fn loss(net: &Net, weights: &Weights, numbers: &[usize], sample: &SampleOf<'_>) -> Option<f64> {
    let one = |&i: &usize| sample(i).map(|(inputs, wanted)| net.loss(&net.forward(&inputs, weights), &wanted));
    let all: Vec<f64> = numbers.par_iter().map(one).collect::<Option<_>>()?;
    Some(all.iter().sum::<f64>() / all.len().max(1) as f64)
}

/// Numbers in an order that looks random, each once before one comes again.
struct Order {
    numbers: Vec<usize>,
    at: usize,
    state: u64,
}

impl Order {
    fn new(numbers: Vec<usize>) -> Self {
        Self { at: numbers.len(), numbers, state: 0x5DEE_CE66_D1CE_4E5B }
    }
    fn next(&mut self) -> usize {
        if self.at >= self.numbers.len() {
            // Fisher and Yates.
            for i in (1..self.numbers.len()).rev() {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                self.numbers.swap(i, (self.state >> 33) as usize % (i + 1));
            }
            self.at = 0;
        }
        self.at += 1;
        self.numbers[self.at - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::net::{Goal, Map, Shape};
    use super::*;

    /// Two layers with a rounding between and a residual, `n` wide.
    fn net(n: usize) -> Net {
        let dense = || Shape {
            groups: 1,
            rows: n,
            depth: n,
            columns: 1,
            operands: (0..n as u32).collect(),
            results: (vec![0], (0..n as u32).collect()),
        };
        let free = (f32::NEG_INFINITY, f32::INFINITY);
        Net {
            sizes: vec![n; 5],
            inputs: vec![0],
            steps: vec![
                Step::Layer { layer: 0, x: 0, residual: None, y: 1, bounds: (0.0, f32::INFINITY) },
                Step::Round { x: 1, y: 2, scale: 0.05, bounds: (0.0, 255.0) },
                Step::Layer { layer: 1, x: 2, residual: Some(0), y: 3, bounds: free },
                Step::Gather { x: 3, y: 4, map: Map::each((0..n as u32).rev().collect()) },
            ],
            layers: vec![dense(), dense()],
            goals: vec![Goal { at: 4, weight: 1.0, divergence: 2.0 }],
        }
    }

    fn noise(n: usize, salt: u64) -> Vec<f32> {
        let mut s = salt;
        let mut next = move || {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (s >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn gradients_are_the_slopes_of_the_loss() {
        let n = 6;
        let mut net = net(n);
        // Without the rounding, whose slope is a convention.
        net.steps[1] = Step::Clip { x: 1, y: 2, bounds: (-10.0, 10.0) };
        let (x, t) = (noise(n, 3), noise(n, 4));
        let mut w = Weights { w: vec![noise(n * n, 1), noise(n * n, 2)], b: vec![noise(n, 5), noise(n, 6)] };
        let mut gradient = w.zeros();
        net.backward(&net.forward(std::slice::from_ref(&x), &w), std::slice::from_ref(&t), &net.turned(&w), &mut gradient);
        for l in 0..2 {
            for i in 0..n * n {
                let old = w.w[l][i];
                let mut at = |d: f32| {
                    w.w[l][i] = old + d;
                    net.loss(&net.forward(std::slice::from_ref(&x), &w), std::slice::from_ref(&t))
                };
                let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                w.w[l][i] = old;
                assert!((slope - f64::from(gradient.w[l][i])).abs() < 2e-3 * (1.0 + slope.abs()), "{l} {i}: {slope} {}", gradient.w[l][i]);
            }
        }
    }

    #[test]
    fn tuning_lowers_the_loss_and_threads_change_nothing() {
        let n = 8;
        let net = net(n);
        let teacher = Weights { w: vec![noise(n * n, 1), noise(n * n, 2)], b: vec![noise(n, 5), noise(n, 6)] };
        let sample = |i: usize| {
            let x = noise(n, 100 + i as u64);
            let wanted = net.forward(std::slice::from_ref(&x), &teacher)[4].clone();
            Some((vec![x], vec![wanted]))
        };
        let layers: Vec<Tuned> = (0..2)
            .map(|l| {
                let levels = Levels::signed(3);
                let codes = teacher.w[l].iter().map(|w| (w * 6.0).round() as i32).collect();
                Tuned { levels, codes, scales: vec![1.0 / 7.0; n], bias: teacher.b[l].clone(), moves: true }
            })
            .collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| tune(&net, &layers, 128, &sample, &|_, _, wish, _| Some(wish as f32), 100, &mut |_| ()))
        };
        let tuned = run(1).expect("better");
        assert_eq!(Some(&tuned), run(3).as_ref());
        let held: Vec<usize> = (200..264).collect();
        let at = |all: &[Tuned]| loss(&net, &weights(all).expect("codes"), &held, &sample);
        let (before, after) = (at(&layers), at(&tuned));
        assert!(after < before.map(|b| 0.7 * b), "{after:?} {before:?}");
        assert_eq!(tune(&net, &layers, 10, &sample, &|_, _, wish, _| Some(wish as f32), 10, &mut |_| ()), None);
    }
}
