//! Linear algebra in f64 with a fixed order of every sum: the same on every host and number of threads.

use rayon::prelude::*;

/// Columns that are factored together.
const PANEL: usize = 64;
/// Vectors that share a pass over a matrix.
pub const LANES: usize = 8;
/// One element of each of these vectors.
pub type Lane = [f64; LANES];

/// `sum a_k b_k` in eight partial sums.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a8, a1) = a.as_chunks::<LANES>();
    let (b8, b1) = b.as_chunks::<LANES>();
    for (x, y) in a8.iter().zip(b8) {
        for l in 0..LANES {
            lanes[l] += x[l] * y[l];
        }
    }
    let tail: f64 = a1.iter().zip(b1).map(|(x, y)| x * y).sum();
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])) + tail
}

/// The lower triangle `L` with `L L' = a`, in place of the lower triangle of `a` (`n` rows of `n`). `false` when `a` is
/// not positive definite; its contents are then of no use.
pub fn cholesky(a: &mut [f64], n: usize) -> bool {
    for first in (0..n).step_by(PANEL) {
        let last = (first + PANEL).min(n);
        for i in first..last {
            for j in first..=i {
                let v = a[i * n + j] - dot(&a[i * n..i * n + j], &a[j * n..j * n + j]);
                if i == j && !(v > 0.0 && v.is_finite()) {
                    return false;
                }
                a[i * n + j] = if i == j { v.sqrt() } else { v / a[j * n + j] };
            }
        }
        let (above, below) = a.split_at_mut(last * n);
        let panel = &above[first * n..];
        below.par_chunks_mut(n).for_each(|row| {
            for j in first..last {
                let of = &panel[(j - first) * n..];
                row[j] = (row[j] - dot(&row[..j], &of[..j])) / of[j];
            }
        });
    }
    true
}

/// `sums += row * factor`, lane by lane.
pub fn accumulate(sums: &mut [Lane], row: &[f64], factor: &Lane) {
    for (sum, x) in sums.iter_mut().zip(row) {
        for l in 0..LANES {
            sum[l] += x * factor[l];
        }
    }
}

/// Solves `L L' w = b` for several right sides at once, in place.
pub fn solve(l: &[f64], n: usize, b: &mut [Lane]) {
    for i in 0..n {
        let row = &l[i * n..];
        let mut sum = [0f64; LANES];
        for (x, y) in row[..i].iter().zip(&b[..i]) {
            for l in 0..LANES {
                sum[l] += x * y[l];
            }
        }
        for l in 0..LANES {
            b[i][l] = (b[i][l] - sum[l]) / row[i];
        }
    }
    for i in (0..n).rev() {
        let row = &l[i * n..];
        let w = b[i].map(|y| y / row[i]);
        b[i] = w;
        accumulate(&mut b[..i], &row[..i], &w.map(|w| -w));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A positive definite matrix without structure.
    fn matrix(n: usize) -> Vec<f64> {
        let at = |i: usize, j: usize| (((i * 31 + j * 17) % 23) as f64 - 11.0) / 11.0;
        let product = |i: usize, j: usize| (0..n).map(|k| at(i, k) * at(j, k)).sum::<f64>() + if i == j { 1.0 } else { 0.0 };
        (0..n * n).map(|x| product(x / n, x % n)).collect()
    }

    #[test]
    fn factors_multiply_to_the_matrix_and_solve_it() {
        for n in [1, 2, 63, 64, 65, 150] {
            let a = matrix(n);
            let mut l = a.clone();
            assert!(cholesky(&mut l, n));
            for i in 0..n {
                for j in 0..=i {
                    let product: f64 = (0..=j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                    assert!((product - a[i * n + j]).abs() < 1e-9 * n as f64, "{n}: {i} {j}");
                }
            }
            let w: Vec<Lane> = (0..n).map(|i| std::array::from_fn(|l| ((i * 5 + l * 3) % 13) as f64 - 6.0)).collect();
            let mut b = vec![[0f64; LANES]; n];
            for (k, w) in w.iter().enumerate() {
                accumulate(&mut b, &a[k * n..(k + 1) * n], w);
            }
            solve(&l, n, &mut b);
            let off = w.iter().flatten().zip(b.iter().flatten()).map(|(w, b)| (w - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-6, "{n}: {off}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        assert!(!cholesky(&mut [1.0, 0.0, 2.0, 1.0], 2));
        assert!(!cholesky(&mut [f64::NAN], 1));
    }
}
