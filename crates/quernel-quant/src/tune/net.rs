//! A block of layers as steps over buffers of f32: forward, and backward for the gradients.

use super::product::multiply;

/// A buffer of a sample's values.
pub type Buffer = usize;

/// Outside of the operand: padding.
pub const OUTSIDE: u32 = u32::MAX;

/// One step. Every buffer is written by one step.
#[derive(Clone, Debug)]
pub enum Step {
    /// `y = min(max(w x + b + r, lo), hi)` with the weights of a layer.
    Layer {
        /// Its number.
        layer: usize,
        /// Operand.
        x: Buffer,
        /// Added to the sum.
        residual: Option<Buffer>,
        /// Result.
        y: Buffer,
        /// Where the activation cuts.
        bounds: (f32, f32),
    },
    /// `y = s clamp(round(x / s))`: the gradient passes where nothing is clipped.
    Round {
        /// Operand.
        x: Buffer,
        /// Result.
        y: Buffer,
        /// What an integer stands for.
        scale: f32,
        /// Smallest and largest integer, zero point taken off.
        bounds: (f32, f32),
    },
    /// `y = min(max(x, lo), hi)`.
    Clip {
        /// Operand.
        x: Buffer,
        /// Result.
        y: Buffer,
        /// Where it cuts.
        bounds: (f32, f32),
    },
    /// `y = a + b`.
    Add {
        /// Operands.
        x: [Buffer; 2],
        /// Result.
        y: Buffer,
    },
    /// Elements of `x` that make one of `y`: their largest, or their sum times a factor.
    Gather {
        /// Operand.
        x: Buffer,
        /// Result.
        y: Buffer,
        /// Which.
        map: Map,
    },
}

/// Elements that make another.
#[derive(Clone, Debug)]
pub struct Map {
    /// Elements of the operand.
    pub from: Vec<u32>,
    /// Where those of every result begin, and the end.
    pub starts: Vec<u32>,
    /// Times their sum; `None` for their largest.
    pub factors: Option<Vec<f32>>,
}

/// Extents of a layer and where its operands lie.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Channel groups.
    pub groups: usize,
    /// Output channels of a group.
    pub rows: usize,
    /// Operands of a sum.
    pub depth: usize,
    /// Sums of a row.
    pub columns: usize,
    /// `[groups][depth][columns]`: element of the operand, or [`OUTSIDE`].
    pub operands: Vec<u32>,
    /// `[columns]`, `[groups * rows]`: where a result lies is the sum of both.
    pub results: (Vec<u32>, Vec<u32>),
}

/// Weights and biases of all layers.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// `[groups * rows][depth]` per layer.
    pub w: Vec<Vec<f32>>,
    /// `[groups * rows]` per layer.
    pub b: Vec<Vec<f32>>,
}

impl Weights {
    /// Zeros of the same extents.
    pub fn zeros(&self) -> Self {
        let zeros = |all: &[Vec<f32>]| all.iter().map(|v| vec![0.0; v.len()]).collect();
        Self { w: zeros(&self.w), b: zeros(&self.b) }
    }
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.w, &other.w), (&mut self.b, &other.b)] {
            mine.iter_mut().flatten().zip(theirs.iter().flatten()).for_each(|(a, b)| *a += b);
        }
    }
}

/// What a buffer should hold.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The buffer.
    pub at: Buffer,
    /// Weight of a squared difference.
    pub weight: f32,
    /// Weight of the divergence of the softmax of both, where the buffer holds the scores of classes; else 0.
    pub divergence: f32,
}

/// The softmax of scores.
fn softmax(x: &[f32]) -> Vec<f32> {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f32> = x.iter().map(|x| libm::expf(x - most)).collect();
    let sum: f32 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// The block.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// Elements of every buffer.
    pub sizes: Vec<usize>,
    /// Buffers that come from outside.
    pub inputs: Vec<Buffer>,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Extents of the layers.
    pub layers: Vec<Shape>,
    /// What is compared with the float network.
    pub goals: Vec<Goal>,
}

fn zeros(sizes: &[usize]) -> Vec<Vec<f32>> {
    sizes.iter().map(|n| vec![0.0; *n]).collect()
}

impl Shape {
    /// The operands of a group as a matrix.
    fn columns(&self, group: usize, x: &[f32], to: &mut [f32]) {
        let from = &self.operands[group * self.depth * self.columns..][..self.depth * self.columns];
        for (to, &at) in to.iter_mut().zip(from) {
            *to = if at == OUTSIDE { 0.0 } else { x[at as usize] };
        }
    }
    /// The same with rows and columns exchanged.
    fn turned(&self, group: usize, x: &[f32], to: &mut [f32]) {
        let from = &self.operands[group * self.depth * self.columns..][..self.depth * self.columns];
        for (k, from) in from.chunks_exact(self.columns).enumerate() {
            for (to, &at) in to[k..].iter_mut().step_by(self.depth).zip(from) {
                *to = if at == OUTSIDE { 0.0 } else { x[at as usize] };
            }
        }
    }
    fn result(&self, row: usize, column: usize) -> usize {
        (self.results.0[column] + self.results.1[row]) as usize
    }
}

impl Net {
    /// All buffers of a sample.
    pub fn forward(&self, inputs: &[Vec<f32>], weights: &Weights) -> Vec<Vec<f32>> {
        let mut v = zeros(&self.sizes);
        for (&at, input) in self.inputs.iter().zip(inputs) {
            v[at].copy_from_slice(input);
        }
        for step in &self.steps {
            match step {
                Step::Layer { layer, x, residual, y, bounds } => {
                    let mut out = self.layer(*layer, &v[*x], weights);
                    if let Some(r) = residual {
                        out.iter_mut().zip(&v[*r]).for_each(|(y, r)| *y += r);
                    }
                    out.iter_mut().for_each(|y| *y = y.max(bounds.0).min(bounds.1));
                    v[*y] = out;
                }
                Step::Round { x, y, scale, bounds } => {
                    v[*y] = v[*x].iter().map(|x| (x / scale).round_ties_even().max(bounds.0).min(bounds.1) * scale).collect();
                }
                Step::Clip { x, y, bounds } => v[*y] = v[*x].iter().map(|x| x.max(bounds.0).min(bounds.1)).collect(),
                Step::Add { x: [a, b], y } => v[*y] = v[*a].iter().zip(&v[*b]).map(|(a, b)| a + b).collect(),
                Step::Gather { x, y, map } => v[*y] = map.forward(&v[*x]),
            }
        }
        v
    }

    fn layer(&self, layer: usize, x: &[f32], weights: &Weights) -> Vec<f32> {
        let (shape, w, b) = (&self.layers[layer], &weights.w[layer], &weights.b[layer]);
        let mut out = vec![0f32; shape.groups * shape.rows * shape.columns];
        let mut columns = vec![0f32; shape.depth * shape.columns];
        let mut sums = vec![0f32; shape.rows * shape.columns];
        for group in 0..shape.groups {
            shape.columns(group, x, &mut columns);
            for (row, sums) in sums.chunks_exact_mut(shape.columns).enumerate() {
                sums.fill(b[group * shape.rows + row]);
            }
            multiply(&mut sums, &w[group * shape.rows * shape.depth..][..shape.rows * shape.depth], &columns, shape.depth, shape.columns);
            for (i, sum) in sums.iter().enumerate() {
                out[shape.result(group * shape.rows + i / shape.columns, i % shape.columns)] = *sum;
            }
        }
        out
    }

    /// The loss of a sample: weighted squared differences at the goals.
    pub fn loss(&self, v: &[Vec<f32>], wanted: &[Vec<f32>]) -> f64 {
        let one = |(goal, t): (&Goal, &Vec<f32>)| {
            let squares = f64::from(goal.weight) * v[goal.at].iter().zip(t).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
            if goal.divergence == 0.0 {
                return squares;
            }
            let term = |(p, q): (f32, f32)| if p > 0.0 { p * libm::logf(p / q.max(f32::MIN_POSITIVE)) } else { 0.0 };
            let divergence: f32 = softmax(t).into_iter().zip(softmax(&v[goal.at])).map(term).sum();
            squares + f64::from(goal.divergence * divergence)
        };
        self.goals.iter().zip(wanted).map(one).sum()
    }

    /// Adds the gradient of a sample's loss to `into`. `turned` are the weights with rows and operands exchanged.
    pub fn backward(&self, v: &[Vec<f32>], wanted: &[Vec<f32>], turned: &[Vec<f32>], into: &mut Weights) {
        let mut g = zeros(&self.sizes);
        for (goal, t) in self.goals.iter().zip(wanted) {
            for ((g, a), b) in g[goal.at].iter_mut().zip(&v[goal.at]).zip(t) {
                *g += 2.0 * goal.weight * (a - b);
            }
            if goal.divergence > 0.0 {
                for ((g, have), want) in g[goal.at].iter_mut().zip(softmax(&v[goal.at])).zip(softmax(t)) {
                    *g += goal.divergence * (have - want);
                }
            }
        }
        for step in self.steps.iter().rev() {
            match step {
                Step::Layer { layer, x, residual, y, bounds } => {
                    let mut gy = std::mem::take(&mut g[*y]);
                    gy.iter_mut().zip(&v[*y]).filter(|(_, y)| **y <= bounds.0 || **y >= bounds.1).for_each(|(g, _)| *g = 0.0);
                    if let Some(r) = residual {
                        g[*r].iter_mut().zip(&gy).for_each(|(r, g)| *r += g);
                    }
                    let needed = !self.inputs.contains(x);
                    self.layer_back(*layer, &v[*x], &gy, turned, into, needed.then_some(&mut g[*x]));
                }
                Step::Round { x, y, scale, bounds } => {
                    let gy = std::mem::take(&mut g[*y]);
                    let (lo, hi) = ((bounds.0 - 0.5) * scale, (bounds.1 + 0.5) * scale);
                    for ((to, g), x) in g[*x].iter_mut().zip(&gy).zip(&v[*x]) {
                        *to += if *x >= lo && *x <= hi { *g } else { 0.0 };
                    }
                }
                Step::Clip { x, y, bounds } => {
                    let gy = std::mem::take(&mut g[*y]);
                    for ((to, g), x) in g[*x].iter_mut().zip(&gy).zip(&v[*x]) {
                        *to += if *x > bounds.0 && *x < bounds.1 { *g } else { 0.0 };
                    }
                }
                Step::Add { x, y } => {
                    let gy = std::mem::take(&mut g[*y]);
                    for x in x {
                        g[*x].iter_mut().zip(&gy).for_each(|(to, g)| *to += g);
                    }
                }
                Step::Gather { x, y, map } => {
                    let gy = std::mem::take(&mut g[*y]);
                    map.backward(&v[*x], &gy, &mut g[*x]);
                }
            }
        }
    }

    fn layer_back(&self, layer: usize, x: &[f32], gy: &[f32], turned: &[Vec<f32>], into: &mut Weights, gx: Option<&mut Vec<f32>>) {
        let shape = &self.layers[layer];
        let (size, area) = (shape.rows * shape.depth, shape.depth * shape.columns);
        let mut columns = vec![0f32; area];
        let mut sums = vec![0f32; shape.rows * shape.columns];
        let mut gx = gx;
        for group in 0..shape.groups {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = gy[shape.result(group * shape.rows + i / shape.columns, i % shape.columns)];
            }
            for (b, sums) in into.b[layer][group * shape.rows..].iter_mut().zip(sums.chunks_exact(shape.columns)) {
                *b += sums.iter().sum::<f32>();
            }
            shape.turned(group, x, &mut columns);
            multiply(&mut into.w[layer][group * size..][..size], &sums, &columns, shape.columns, shape.depth);
            if let Some(gx) = gx.as_deref_mut() {
                columns.fill(0.0);
                multiply(&mut columns, &turned[layer][group * size..][..size], &sums, shape.rows, shape.columns);
                for (g, &at) in columns.iter().zip(&shape.operands[group * area..]) {
                    if at != OUTSIDE {
                        gx[at as usize] += g;
                    }
                }
            }
        }
    }

    /// The weights of every group with rows and operands exchanged.
    pub fn turned(&self, weights: &Weights) -> Vec<Vec<f32>> {
        let one = |(shape, w): (&Shape, &Vec<f32>)| {
            let size = shape.rows * shape.depth;
            let mut t = vec![0f32; w.len()];
            for (i, x) in w.iter().enumerate() {
                let (group, row, k) = (i / size, i % size / shape.depth, i % shape.depth);
                t[group * size + k * shape.rows + row] = *x;
            }
            t
        };
        self.layers.iter().zip(&weights.w).map(one).collect()
    }
}

impl Map {
    /// Every element by itself.
    pub fn each(from: Vec<u32>) -> Self {
        let n = from.len();
        Self { from, starts: (0..=n as u32).collect(), factors: Some(vec![1.0; n]) }
    }
    fn part(&self, i: usize) -> &[u32] {
        &self.from[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
    fn count(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }
    fn largest(&self, i: usize, x: &[f32]) -> Option<u32> {
        self.part(i).iter().copied().reduce(|a, b| if x[b as usize] > x[a as usize] { b } else { a })
    }
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let one = |i: usize| match &self.factors {
            Some(f) => self.part(i).iter().map(|&at| x[at as usize]).sum::<f32>() * f[i],
            None => self.largest(i, x).map_or(0.0, |at| x[at as usize]),
        };
        (0..self.count()).map(one).collect()
    }
    fn backward(&self, x: &[f32], gy: &[f32], gx: &mut [f32]) {
        for (i, g) in gy.iter().enumerate() {
            match &self.factors {
                Some(f) => self.part(i).iter().for_each(|&at| gx[at as usize] += g * f[i]),
                None => {
                    if let Some(at) = self.largest(i, x) {
                        gx[at as usize] += g;
                    }
                }
            }
        }
    }
}
