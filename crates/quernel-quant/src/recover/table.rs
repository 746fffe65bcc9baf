//! Codebooks that fit the codes.

use super::{
    Ladder, Legal, Rounded, Solver, Steps,
    factor::{LANES, cholesky, solve},
};
use crate::{tables::LARGEST, weights::Levels};
use rayon::prelude::*;

/// Times that codebook and codes are fitted to each other.
const ROUNDS: usize = 4;

/// Matrix and right side.
type Equations = (Vec<f64>, Vec<f64>);

impl Rounded {
    /// Rounds all groups with a codebook that is fitted to the codes (Lloyd's two steps in the layer's own measure): first
    /// with `levels`, then with the codebook of least error for the codes found, as long as the error falls.
    pub fn of_codebook(groups: &[Solver], levels: Levels, steps: Steps, legal: &Legal<'_>) -> Option<(Levels, Self)> {
        let mut best = (levels.clone(), Self::of(groups, &levels, steps, legal)?);
        let error = |r: &Self| r.errors.iter().sum::<f64>();
        for _ in 0..ROUNDS {
            let Some(next) = Self::refitted(groups, &best.0, &best.1, steps, legal) else { break };
            if error(&next.1) >= error(&best.1) * (1.0 - 1e-4) {
                break;
            }
            best = next;
        }
        Some(best)
    }

    /// A codebook fitted to the codes of another, and what becomes of the codes.
    fn refitted(groups: &[Solver], levels: &Levels, rounded: &Self, steps: Steps, legal: &Legal<'_>) -> Option<(Levels, Self)> {
        let (table, code, factor) = fitted(groups, levels, rounded)?;
        let levels = Levels::Table(table);
        let mut all = Self { codes: Vec::new(), scales: Vec::new(), errors: Vec::new() };
        let mut first = 0;
        for solver in groups {
            let rows = first..first + solver.rows;
            let codes: Vec<i32> =
                rounded.codes[rows.start * solver.inputs..rows.end * solver.inputs].iter().map(|c| code[*c as usize]).collect();
            let scales: Vec<f32> = rounded.scales[rows].iter().map(|s| (f64::from(*s) * factor) as f32).collect();
            let part = solver.go_on(&levels, &codes, &scales, steps, &|row, wish| legal(first + row, wish))?;
            all.codes.extend(part.codes);
            all.scales.extend(part.scales);
            all.errors.extend(part.errors);
            first += solver.rows;
        }
        Some((levels, all))
    }
}

/// The table of least error for codes and scales: with `e_a` the operands that have level `a` in a row of scale `s`, the sum
/// over rows of `|s sum_a T_a e_a - t|^2` in the form `A` has its least where `sum s^2 e_a A e_b' T_b = sum s e_a A t'`. Zero
/// stays zero. With the table come the new code of every old one, and what scales are multiplied by.
fn fitted(groups: &[Solver], levels: &Levels, rounded: &Rounded) -> Option<(Vec<i8>, Vec<i32>, f64)> {
    let ladder = Ladder::new(levels);
    let entries = ladder.values.len();
    let of_code = |code: i32| ladder.codes.iter().position(|c| *c == code);
    let mut first = 0;
    let mut rows = Vec::new();
    for solver in groups {
        rows.extend((0..solver.rows).map(|row| (solver, row, first + row)));
        first += solver.rows;
    }
    let equations = |&(solver, row, at): &(&Solver, usize, usize)| -> Option<Equations> {
        let n = solver.inputs;
        let codes = &rounded.codes[rounded.codes.len() / rounded.scales.len() * at..];
        let level: Vec<usize> = solver.order.iter().map(|&i| of_code(codes[i])).collect::<Option<_>>()?;
        let mut sums = vec![0f64; entries * n];
        for (i, &a) in level.iter().enumerate() {
            sums[a * n..(a + 1) * n].iter_mut().zip(&solver.form[i * n..(i + 1) * n]).for_each(|(s, f)| *s += f);
        }
        let (s, target) = (f64::from(rounded.scales[at]), &solver.target[row * n..(row + 1) * n]);
        let mut m = vec![0f64; entries * entries];
        let mut v = vec![0f64; entries];
        for (a, sums) in sums.chunks_exact(n).enumerate() {
            for (i, &b) in level.iter().enumerate() {
                m[a * entries + b] += s * s * sums[i];
                v[a] += s * sums[i] * target[i];
            }
        }
        Some((m, v))
    };
    let parts: Vec<Equations> = rows.par_iter().map(equations).collect::<Option<_>>()?;
    // Levels that no code has, and zero, stay.
    let used: Vec<usize> =
        (0..entries).filter(|&a| ladder.values[a] != 0.0 && parts.iter().any(|(m, _)| m[a * entries + a] > 0.0)).collect();
    let n = used.len();
    let sum = |at: &dyn Fn(&Equations) -> f64| parts.iter().map(at).sum::<f64>();
    let mut m: Vec<f64> = (0..n * n).map(|i| sum(&|p| p.0[used[i / n] * entries + used[i % n]])).collect();
    let mut v: Vec<[f64; LANES]> = used.iter().map(|&a| [sum(&|p| p.1[a]); LANES]).collect();
    if n == 0 || !cholesky(&mut m, n) {
        return None;
    }
    solve(&m, n, &mut v);
    let mut values = ladder.values.clone();
    used.iter().zip(&v).for_each(|(&a, v)| values[a] = v[0]);
    let largest = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    if !(largest.is_normal() && values.iter().all(|v| v.is_finite())) {
        return None;
    }
    let Levels::Table(old) = levels else { return None };
    let entry = |v: f64| (v * LARGEST / largest).round_ties_even() as i8;
    let mut table: Vec<i8> = values.iter().map(|v| entry(*v)).collect();
    // Entries that meant the same as another.
    table.resize(old.len(), 0);
    table.sort_unstable();
    // Of equal entries the first is meant.
    let code = |v: i8| {
        let level = ladder.values.iter().position(|l| *l == f64::from(v))?;
        table.iter().position(|t| *t == entry(values[level])).map(|c| c as i32)
    };
    let codes = old.iter().map(|v| code(*v)).collect::<Option<_>>()?;
    Some((table, codes, largest / LARGEST))
}

#[cfg(test)]
mod tests {
    use super::super::{BLOCK, Block, Gram, solvers};
    use super::*;

    #[test]
    fn a_fitted_codebook_has_less_error() {
        let (rows, inputs) = (12, 24);
        let mut state = 3u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
        };
        let mut g = Gram::new(inputs, 0, [1.0 / 16.0, 1.0 / 1024.0, 1.0], true);
        for _ in 0..8 {
            let mut b = Block { x: vec![0; inputs * BLOCK], f: vec![0; inputs * BLOCK], r: vec![], len: BLOCK };
            for p in 0..BLOCK {
                let common = noise();
                for i in 0..inputs {
                    let f = common + noise();
                    b.f[i * BLOCK + p] = (f * 1024.0) as i16;
                    b.x[i * BLOCK + p] = (f * 16.0).round() as i16;
                }
            }
            g.add(&b);
        }
        let w: Vec<f32> = (0..rows * inputs)
            .map(|_| {
                let x = noise() as f32;
                x * x * x
            })
            .collect();
        let groups = solvers(vec![g], &w).expect("forms");
        let steps = Steps { feedback: true, refit: true, descent: true };
        let levels = Levels::Table(vec![-64, 0, 32, 64]);
        let free = |_: usize, s: f64| Some(s as f32);
        let once = Rounded::of(&groups, &levels, steps, &free).expect("legal");
        let (table, fitted) = Rounded::of_codebook(&groups, levels.clone(), steps, &free).expect("legal");
        let error = |r: &Rounded| r.errors.iter().sum::<f64>();
        assert!(error(&fitted) < error(&once) && table != levels, "{} {}", error(&fitted), error(&once));
        // What it says of the error is the error.
        let again = groups[0].go_on(&table, &fitted.codes, &fitted.scales, Steps { feedback: false, refit: true, descent: false }, &free);
        assert!((error(&again.expect("legal")) / error(&fitted) - 1.0).abs() < 1e-6);
        assert!(matches!(&table, Levels::Table(t) if t.len() == 4 && t.contains(&0)));
    }
}
