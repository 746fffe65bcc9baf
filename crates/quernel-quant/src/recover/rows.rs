//! The three steps on the rows of a layer.

use super::{
    Gram, Ladder,
    factor::{LANES, Lane, accumulate, cholesky, solve},
};
use crate::weights::Levels;
use rayon::prelude::*;

/// Damping, as a share of the mean energy of an operand.
const DAMPING: f64 = 0.01;
/// Candidates of a scale, as fractions of `max|t| / max|level|`.
const FRACTIONS: usize = 60;
const FIRST: f64 = 0.15;
const LAST: f64 = 1.1;
/// Scales around the best of these that error feedback tries.
const TRIED: [f64; 7] = [1.0, 0.94, 0.88, 0.8, 1.06, 1.12, 0.72];
/// Rounds of refit and descent, and sweeps over the columns in each.
const ROUNDS: usize = 3;
const SWEEPS: usize = 4;

/// Which steps are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steps {
    /// Error feedback; without it codes are the nearest.
    pub feedback: bool,
    /// Scales are refitted to the codes.
    pub refit: bool,
    /// Single codes move while the error falls.
    pub descent: bool,
}

/// The quadratic form of a layer (of one group of its channels), factored, and the rows it would like to have.
#[derive(Debug)]
pub struct Solver {
    inputs: usize,
    rows: usize,
    /// Operand of every column: columns are sorted by rising energy, and rounded from the last.
    order: Vec<usize>,
    /// `A` in that order.
    form: Vec<f64>,
    /// `L`, lower triangle.
    factor: Vec<f64>,
    /// `[rows][inputs]` in that order.
    target: Vec<f64>,
    /// `t A t'` of every row: the error of rounding everything to zero.
    energy: Vec<f64>,
}

/// Rows of codes with their scales.
#[derive(Clone, PartialEq, Debug)]
pub struct Rounded {
    /// `[rows][inputs]`, operands in the layer's own order.
    pub codes: Vec<i32>,
    /// One per row.
    pub scales: Vec<f32>,
    /// Squared error of every row's sum per position, in the units of the float network.
    pub errors: Vec<f64>,
}

/// The scale nearest to a wish that a row may have.
pub type Legal<'a> = dyn Fn(usize, f64) -> Option<f32> + Sync + 'a;

/// The solvers of all groups of a layer, whose weights follow each other.
pub fn solvers(grams: Vec<Gram>, weights: &[f32]) -> Option<Vec<Solver>> {
    let per = weights.len() / grams.len().max(1);
    grams.into_par_iter().enumerate().map(|(i, g)| Solver::new(g, &weights[i * per..(i + 1) * per])).collect()
}

impl Rounded {
    /// Rounds all groups of a layer; rows are numbered through.
    pub fn of(groups: &[Solver], levels: &Levels, steps: Steps, legal: &Legal<'_>) -> Option<Self> {
        let one = |(i, s): (usize, &Solver)| s.round(levels, steps, &|row, wish| legal(i * s.rows + row, wish));
        let parts: Vec<Self> = groups.par_iter().enumerate().map(one).collect::<Option<_>>()?;
        let mut all = Self { codes: Vec::new(), scales: Vec::new(), errors: Vec::new() };
        for part in parts {
            all.codes.extend(part.codes);
            all.scales.extend(part.scales);
            all.errors.extend(part.errors);
        }
        Some(all)
    }
}

impl Solver {
    /// The form of `gram` and the target of `weights`, `[rows][inputs]`. `None` without positions or products, and where
    /// numbers are not finite. Operands that are always zero leave the weights as the target.
    pub fn new(gram: Gram, weights: &[f32]) -> Option<Self> {
        let n = gram.inputs();
        if n == 0 || gram.rows() == 0 || gram.xx.is_empty() || !weights.len().is_multiple_of(n) {
            return None;
        }
        let rows = weights.len() / n;
        let [unit_x, unit_f, unit_r] = gram.units;
        let per = 1.0 / gram.rows() as f64;
        let (xx, fx, rx) = (unit_x * unit_x * per, unit_f * unit_x * per, unit_r * unit_x * per);
        let energy = |i: usize| gram.xx[i * n + i];
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&i| energy(i));
        let damping = DAMPING * (0..n).map(|i| energy(i) as f64 * xx).sum::<f64>() / n as f64;
        let damping = if damping > 0.0 { damping } else { 1.0 };
        let mut form = vec![0f64; n * n];
        form.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (j, v) in row.iter_mut().enumerate() {
                let (a, b) = (order[i].max(order[j]), order[i].min(order[j]));
                *v = gram.xx[a * n + b] as f64 * xx + if i == j { damping } else { 0.0 };
            }
        });
        let Gram { fx: cross, rx: residual, xx: square, .. } = gram;
        drop(square);
        let mut factor = form.clone();
        if !cholesky(&mut factor, n) {
            return None;
        }
        let cross: Vec<f64> = cross.into_iter().map(|s| s as f64 * fx).collect();
        let mut target = vec![0f64; rows * n];
        let mut energy = vec![0f64; rows];
        target.par_chunks_mut(LANES * n).zip(energy.par_chunks_mut(LANES)).enumerate().for_each(|(batch, (target, energy))| {
            let first = batch * LANES;
            let lanes = target.len() / n;
            let weight = |l: usize, i: usize| if l < lanes { f64::from(weights[(first + l) * n + i]) } else { 0.0 };
            let mut sums = vec![[0f64; LANES]; n];
            for i in 0..n {
                accumulate(&mut sums, &cross[i * n..(i + 1) * n], &std::array::from_fn(|l| weight(l, i)));
            }
            let wish = |j: usize, l: usize| {
                let lack = residual.get((first + l) * n + j).map_or(0.0, |s| *s as f64 * rx);
                sums[j][l] + damping * weight(l, j) + if l < lanes { lack } else { 0.0 }
            };
            let b: Vec<Lane> = order.iter().map(|&j| std::array::from_fn(|l| wish(j, l))).collect();
            let mut t = b.clone();
            solve(&factor, n, &mut t);
            for l in 0..lanes {
                for i in 0..n {
                    target[l * n + i] = t[i][l];
                    energy[l] += t[i][l] * b[i][l];
                }
            }
        });
        target.iter().all(|t| t.is_finite()).then_some(Self { inputs: n, rows, order, form, factor, target, energy })
    }

    /// The rows the layer would like to have, `[rows][inputs]` in the layer's own order.
    pub fn target(&self) -> Vec<f32> {
        let n = self.inputs;
        let mut own = vec![0f32; self.rows * n];
        for (row, t) in own.chunks_exact_mut(n).zip(self.target.chunks_exact(n)) {
            self.order.iter().zip(t).for_each(|(&at, t)| row[at] = *t as f32);
        }
        own
    }

    /// The squared sums the float network has here, per position: what errors compare with.
    pub fn energy(&self) -> f64 {
        self.energy.iter().sum()
    }

    /// Rounds every row. `legal` gives the scale nearest to a wish that a row may have; `None` leaves the wish's candidate
    /// out. A row for which no scale is legal makes the result `None`.
    pub fn round(&self, levels: &Levels, steps: Steps, legal: &Legal<'_>) -> Option<Rounded> {
        let n = self.inputs;
        let ladder = Ladder::new(levels);
        let mut out = Rounded { codes: vec![0; self.rows * n], scales: vec![0.0; self.rows], errors: vec![0.0; self.rows] };
        let parts = out.codes.par_chunks_mut(LANES * n).zip(out.scales.par_chunks_mut(LANES)).zip(out.errors.par_chunks_mut(LANES));
        let found = parts.enumerate().map(|(batch, ((codes, scales), errors))| {
            let first = batch * LANES;
            let lanes = scales.len();
            let mut best: [Candidate; LANES] = std::array::from_fn(|_| Candidate::default());
            let start: [f64; LANES] = std::array::from_fn(|l| if l < lanes { self.start(&ladder, first + l) } else { 1.0 });
            let tries = if steps.feedback { &TRIED[..] } else { &TRIED[..1] };
            for factor in tries {
                let scale: [Option<f32>; LANES] =
                    std::array::from_fn(|l| if l < lanes { legal(first + l, start[l] * factor) } else { Some(1.0) });
                self.feedback(&ladder, first, lanes, &scale, steps.feedback, &mut best);
            }
            for (l, candidate) in best.iter_mut().take(lanes).enumerate() {
                if candidate.levels.is_empty() {
                    return None;
                }
                self.improve(&ladder, first + l, steps, &|s| legal(first + l, s), candidate);
                scales[l] = candidate.scale;
                errors[l] = candidate.error;
                for (&at, &level) in self.order.iter().zip(&candidate.levels) {
                    codes[l * n + at] = ladder.codes[usize::from(level)];
                }
            }
            Some(())
        });
        let complete = found.collect::<Vec<Option<()>>>().iter().all(Option::is_some);
        complete.then_some(out)
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.target[row * self.inputs..(row + 1) * self.inputs]
    }

    /// The scale of least error when every column rounds alone, columns weighted by their energy.
    fn start(&self, ladder: &Ladder, row: usize) -> f64 {
        let (n, target) = (self.inputs, self.row(row));
        let largest = target.iter().fold(0f64, |m, t| m.max(t.abs()));
        let unit = largest / ladder.largest();
        if !(unit.is_normal() && unit > 1e-30) {
            return 1.0;
        }
        let error = |scale: f64| -> f64 {
            let inverse = 1.0 / scale;
            let one = |(i, t): (usize, &f64)| {
                let d = ladder.values[ladder.nearest(t * inverse)] * scale - t;
                self.form[i * n + i] * d * d
            };
            target.iter().enumerate().map(one).sum()
        };
        let scale = |i: usize| unit * (FIRST + (LAST - FIRST) * i as f64 / (FRACTIONS - 1) as f64);
        let scored = (0..FRACTIONS).rev().map(|i| (error(scale(i)), scale(i)));
        scored.fold((f64::INFINITY, unit), |best, c| if c.0 < best.0 { c } else { best }).1
    }

    /// Rounds a batch of rows under given scales; a row whose error is the least so far is kept.
    fn feedback(
        &self,
        ladder: &Ladder,
        first: usize,
        lanes: usize,
        scale: &[Option<f32>; LANES],
        feedback: bool,
        best: &mut [Candidate; LANES],
    ) {
        let n = self.inputs;
        let real: Lane = scale.map(|s| f64::from(s.unwrap_or(1.0)));
        let mut pending = vec![[0f64; LANES]; n];
        let mut levels = vec![[0u16; LANES]; n];
        let mut error = [0f64; LANES];
        for i in (0..n).rev() {
            let row = &self.factor[i * n..];
            let pivot = row[i];
            let mut e = [0f64; LANES];
            for l in 0..lanes {
                let t = self.target[(first + l) * n + i];
                let aim = if feedback { t - pending[i][l] / pivot } else { t };
                let level = ladder.nearest(aim / real[l]);
                levels[i][l] = level as u16;
                e[l] = real[l] * ladder.values[level] - t;
                let rest = pivot * e[l] + pending[i][l];
                error[l] += rest * rest;
            }
            accumulate(&mut pending[..i], &row[..i], &e);
        }
        for l in 0..lanes {
            if let Some(scale) = scale[l].filter(|_| error[l] < best[l].error) {
                best[l] = Candidate { scale, error: error[l], levels: levels.iter().map(|v| v[l]).collect() };
            }
        }
    }

    /// Refit and descent in turn.
    fn improve(&self, ladder: &Ladder, row: usize, steps: Steps, legal: &dyn Fn(f64) -> Option<f32>, c: &mut Candidate) {
        if !(steps.refit || steps.descent) {
            return;
        }
        let (n, target) = (self.inputs, self.row(row));
        // Products of the form with the levels and with the target.
        let product = |v: &dyn Fn(usize) -> f64| {
            let mut out = vec![0f64; n];
            for i in 0..n {
                let x = v(i);
                if x != 0.0 {
                    self.form[i * n..(i + 1) * n].iter().zip(&mut out).for_each(|(a, o)| *o += a * x);
                }
            }
            out
        };
        let wish = product(&|i| target[i]);
        let mut have = product(&|i| ladder.values[usize::from(c.levels[i])]);
        for _ in 0..ROUNDS {
            let before = c.error;
            let value = |i: usize, levels: &[u16]| ladder.values[usize::from(levels[i])];
            if steps.refit {
                let (mut num, mut den) = (0.0, 0.0);
                for i in 0..n {
                    num += value(i, &c.levels) * wish[i];
                    den += value(i, &c.levels) * have[i];
                }
                let fitted = if den > 0.0 { legal(num / den).filter(|_| num > 0.0) } else { None };
                if let Some(scale) = fitted {
                    let s = f64::from(scale);
                    let error = s * s * den - 2.0 * s * num + self.energy[row];
                    if error < c.error {
                        (c.scale, c.error) = (scale, error);
                    }
                }
            }
            if steps.descent {
                self.descend(ladder, &wish, &mut have, c);
            }
            if c.error >= before * (1.0 - 1e-6) {
                break;
            }
        }
    }

    /// Sweeps over the columns; every code moves to the level that is best for all others as they are.
    fn descend(&self, ladder: &Ladder, wish: &[f64], have: &mut [f64], c: &mut Candidate) {
        let (n, s) = (self.inputs, f64::from(c.scale));
        for _ in 0..SWEEPS {
            let mut moved = false;
            for i in (0..n).rev() {
                let own = self.form[i * n + i];
                let gradient = s * have[i] - wish[i];
                let old = ladder.values[usize::from(c.levels[i])];
                let level = ladder.nearest(old - gradient / (own * s));
                let step = s * (ladder.values[level] - old);
                let change = step * (2.0 * gradient + own * step);
                if step != 0.0 && change < -1e-12 * c.error.abs() {
                    c.levels[i] = level as u16;
                    c.error += change;
                    moved = true;
                    let d = step / s;
                    self.form[i * n..(i + 1) * n].iter().zip(&mut *have).for_each(|(a, h)| *h += a * d);
                }
            }
            if !moved {
                break;
            }
        }
    }
}

/// A row of levels under a scale.
struct Candidate {
    scale: f32,
    error: f64,
    levels: Vec<u16>,
}

impl Default for Candidate {
    fn default() -> Self {
        Self { scale: 1.0, error: f64::INFINITY, levels: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BLOCK, Block},
        *,
    };

    const ALL: Steps = Steps { feedback: true, refit: true, descent: true };
    const NEAREST: Steps = Steps { feedback: false, refit: false, descent: false };

    /// Operands with strong correlations; the quantized network sees them rounded and a little off.
    fn gram(inputs: usize, blocks: usize, residual: usize) -> Gram {
        let mut state = 5u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
        };
        let mut g = Gram::new(inputs, residual, [1.0 / 16.0, 1.0 / 1024.0, 1.0 / 1024.0], true);
        for _ in 0..blocks {
            let mut b = Block { x: vec![0; inputs * BLOCK], f: vec![0; inputs * BLOCK], r: vec![0; residual * BLOCK], len: BLOCK };
            for p in 0..BLOCK {
                let common = 4.0 * noise();
                for i in 0..inputs {
                    let f = common + (1.0 + i as f64 % 3.0) * noise();
                    b.f[i * BLOCK + p] = (f * 1024.0) as i16;
                    b.x[i * BLOCK + p] = ((f * 0.97 + 0.1) * 16.0).round() as i16;
                }
                for o in 0..residual {
                    b.r[o * BLOCK + p] = (common * 50.0) as i16;
                }
            }
            g.add(&b);
        }
        g
    }

    fn weights(rows: usize, inputs: usize) -> Vec<f32> {
        (0..rows * inputs).map(|i| (((i * 7919) % 1009) as f32 / 1009.0 - 0.5) * (1.0 + (i / inputs) as f32)).collect()
    }

    /// The error by its definition, from the form and the target.
    fn error(s: &Solver, levels: &Levels, r: &Rounded, row: usize) -> f64 {
        let n = s.inputs;
        let value = |i: usize| {
            let code = r.codes[row * n + s.order[i]];
            f64::from(r.scales[row])
                * match levels {
                    Levels::Linear { .. } => f64::from(code),
                    Levels::Table(t) => f64::from(t[code as usize]),
                }
        };
        let e: Vec<f64> = (0..n).map(|i| value(i) - s.target[row * n + i]).collect();
        (0..n).map(|i| (0..n).map(|j| e[i] * s.form[i * n + j] * e[j]).sum::<f64>()).sum()
    }

    #[test]
    fn every_step_lowers_the_error_and_the_error_is_the_real_one() {
        let (rows, inputs) = (11, 37);
        let s = Solver::new(gram(inputs, 8, rows), &weights(rows, inputs)).expect("a form");
        let free = |_: usize, s: f64| Some(s as f32).filter(|s| s.is_normal());
        let tables = [Levels::signed(4), Levels::signed(2), Levels::Table(vec![-1, 0, 1, 0]), Levels::Table(vec![-1, 1])];
        for levels in &tables {
            let mut last = f64::INFINITY;
            let steps = [NEAREST, Steps { feedback: true, ..NEAREST }, Steps { feedback: true, refit: true, descent: false }, ALL];
            for steps in steps {
                let r = s.round(levels, steps, &free).expect("legal");
                for row in 0..rows {
                    let real = error(&s, levels, &r, row);
                    assert!((real - r.errors[row]).abs() <= 1e-6 * real.max(1e-9), "{levels:?} {steps:?}: {real} {}", r.errors[row]);
                }
                let sum: f64 = r.errors.iter().sum();
                assert!(sum <= last * 1.000_001, "{levels:?} {steps:?}: {sum} after {last}");
                last = sum;
            }
            let nearest: f64 = s.round(levels, NEAREST, &free).expect("legal").errors.iter().sum();
            assert!(last < 0.75 * nearest, "{levels:?}: {last} {nearest}");
        }
    }

    #[test]
    fn one_thread_and_several_give_the_same_bytes() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let s = Solver::new(gram(70, 4, 0), &weights(33, 70)).expect("a form");
                s.round(&Levels::signed(3), ALL, &|_, s| Some(s as f32)).expect("legal")
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn only_legal_scales_are_chosen() {
        let s = Solver::new(gram(20, 4, 0), &weights(9, 20)).expect("a form");
        let power = |_: usize, s: f64| Some(s.log2().round().exp2() as f32);
        let r = s.round(&Levels::signed(4), ALL, &power).expect("legal");
        assert!(r.scales.iter().all(|s| s.log2() == s.log2().round()));
        assert_eq!(s.round(&Levels::signed(4), ALL, &|row, s| (row != 3).then_some(s as f32)), None);
    }

    #[test]
    fn operands_that_say_nothing_leave_the_weights() {
        assert!(Solver::new(Gram::new(4, 0, [1.0; 3], true), &[1.0; 8]).is_none());
        let mut dead = Gram::new(2, 0, [1.0; 3], true);
        dead.add(&Block { x: vec![0; 2 * BLOCK], f: vec![0; 2 * BLOCK], r: vec![], len: BLOCK });
        let s = Solver::new(dead, &[1.0, -0.5, 0.25, 3.0]).expect("a form");
        assert_eq!(s.target(), [1.0, -0.5, 0.25, 3.0]);
    }
}
