//! Products of f32 matrices with a fixed order of every sum: the same bits on every host.

/// `y += w x`: `w` is `[rows][depth]`, `x` is `[depth][columns]`. Four products are added before they join the sum.
pub fn multiply(y: &mut [f32], w: &[f32], x: &[f32], depth: usize, columns: usize) {
    if depth == 0 || columns == 0 {
        return;
    }
    let mut pairs = y.chunks_exact_mut(2 * columns);
    let mut weights = w.chunks_exact(2 * depth);
    for (y, w) in (&mut pairs).zip(&mut weights) {
        let (y0, y1) = y.split_at_mut(columns);
        let (w0, w1) = w.split_at(depth);
        let mut k = 0;
        while k + 4 <= depth {
            let (a, b): ([f32; 4], [f32; 4]) = (std::array::from_fn(|i| w0[k + i]), std::array::from_fn(|i| w1[k + i]));
            let [x0, x1, x2, x3] = four(x, k, columns);
            for p in 0..columns {
                y0[p] += (a[0] * x0[p] + a[1] * x1[p]) + (a[2] * x2[p] + a[3] * x3[p]);
                y1[p] += (b[0] * x0[p] + b[1] * x1[p]) + (b[2] * x2[p] + b[3] * x3[p]);
            }
            k += 4;
        }
        for k in k..depth {
            add_row(y0, w0[k], &x[k * columns..]);
            add_row(y1, w1[k], &x[k * columns..]);
        }
    }
    for (y, w) in pairs.into_remainder().chunks_exact_mut(columns).zip(weights.remainder().chunks_exact(depth)) {
        let mut k = 0;
        while k + 4 <= depth {
            let [x0, x1, x2, x3] = four(x, k, columns);
            for p in 0..columns {
                y[p] += (w[k] * x0[p] + w[k + 1] * x1[p]) + (w[k + 2] * x2[p] + w[k + 3] * x3[p]);
            }
            k += 4;
        }
        for k in k..depth {
            add_row(y, w[k], &x[k * columns..]);
        }
    }
}

/// Four rows from row `k` on.
fn four(x: &[f32], k: usize, columns: usize) -> [&[f32]; 4] {
    std::array::from_fn(|i| &x[(k + i) * columns..][..columns])
}

fn add_row(y: &mut [f32], w: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        let numbers = |n: usize, salt: usize| -> Vec<f32> { (0..n).map(|i| ((i * 37 + salt) % 17) as f32 - 8.0).collect() };
        for (rows, depth, columns) in [(1, 1, 1), (2, 4, 8), (3, 9, 5), (5, 6, 33), (4, 3, 1)] {
            let (w, x) = (numbers(rows * depth, 1), numbers(depth * columns, 5));
            let mut y = vec![1.0; rows * columns];
            multiply(&mut y, &w, &x, depth, columns);
            for (i, y) in y.iter().enumerate() {
                let (r, p) = (i / columns, i % columns);
                let sum: f32 = (0..depth).map(|k| w[r * depth + k] * x[k * columns + p]).sum();
                assert_eq!(*y, 1.0 + sum);
            }
        }
    }
}
