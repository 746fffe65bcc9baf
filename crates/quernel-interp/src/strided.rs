//! Walks over strided iteration spaces; the one place that moves elements.

/// Calls `row(offsets, len)` for every run along the innermost axis, in row-major order; `steps` holds the strides of
/// each operand along `dims`. Returns the innermost strides, which hold for every row. Adjacent axes that every
/// operand walks without a seam are joined first, so that rows are long.
pub(crate) fn rows<const N: usize>(
    dims: &[usize],
    starts: [isize; N],
    steps: [&[isize]; N],
    mut row: impl FnMut([isize; N], [isize; N], usize),
) {
    let mut axes: Vec<(usize, [isize; N])> = Vec::with_capacity(dims.len());
    for (i, &extent) in dims.iter().enumerate() {
        if extent == 0 {
            return;
        }
        if extent == 1 {
            continue;
        }
        let step: [isize; N] = std::array::from_fn(|k| steps[k][i]);
        match axes.last_mut() {
            Some((outer, s)) if (0..N).all(|k| s[k] == step[k].wrapping_mul(extent as isize)) => {
                *outer *= extent;
                *s = step;
            }
            _ => axes.push((extent, step)),
        }
    }
    let (len, inner) = axes.pop().unwrap_or((1, [0; N]));
    let mut index = vec![0usize; axes.len()];
    let mut at = starts;
    loop {
        row(at, inner, len);
        let mut axis = axes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let (extent, step) = &axes[axis];
            index[axis] += 1;
            if index[axis] < *extent {
                (0..N).for_each(|k| at[k] += step[k]);
                break;
            }
            index[axis] = 0;
            (0..N).for_each(|k| at[k] -= step[k] * (*extent as isize - 1));
        }
    }
}

/// An operand of a move: bytes, the first element and the strides, in elements.
pub(crate) struct Side<B> {
    pub(crate) bytes: B,
    pub(crate) start: usize,
    pub(crate) steps: Vec<isize>,
}

/// Copies elements of `width` bytes (1, 2, 4 or 8) over `dims`.
pub(crate) fn copy(width: usize, dims: &[usize], to: Side<&mut [u8]>, from: Side<&[u8]>) {
    match width {
        1 => copy_wide::<1>(dims, to, from),
        2 => copy_wide::<2>(dims, to, from),
        4 => copy_wide::<4>(dims, to, from),
        _ => copy_wide::<8>(dims, to, from),
    }
}

fn copy_wide<const W: usize>(dims: &[usize], to: Side<&mut [u8]>, from: Side<&[u8]>) {
    let (dst, src) = (to.bytes.as_chunks_mut::<W>().0, from.bytes.as_chunks::<W>().0);
    rows(dims, [to.start as isize, from.start as isize], [&to.steps, &from.steps], |[d, s], [dd, ds], len| {
        if (dd, ds) == (1, 1) {
            dst[d as usize..][..len].copy_from_slice(&src[s as usize..][..len]);
        } else {
            for i in 0..len as isize {
                dst[(d + i * dd) as usize] = src[(s + i * ds) as usize];
            }
        }
    });
}

/// Writes `pattern` (its length is the width) to every element.
pub(crate) fn fill(dims: &[usize], to: Side<&mut [u8]>, pattern: &[u8]) {
    let width = pattern.len();
    rows(dims, [to.start as isize], [&to.steps], |[d], [dd], len| {
        for i in 0..len as isize {
            to.bytes[(d + i * dd) as usize * width..][..width].copy_from_slice(pattern);
        }
    });
}

/// Strides of dense row-major `dims`.
pub(crate) fn dense(dims: &[usize]) -> Vec<isize> {
    let mut steps = vec![1isize; dims.len()];
    for i in (1..dims.len()).rev() {
        // Wrapping: an empty tensor may have extents whose product overflows.
        steps[i - 1] = steps[i].wrapping_mul(dims[i] as isize);
    }
    steps
}

/// Strides with which an operand of `dims` is read when it is broadcast to `result`: 0 along repeated axes.
pub(crate) fn broadcast(dims: &[usize], result: &[usize]) -> Vec<isize> {
    let own = dense(dims);
    let missing = result.len() - dims.len();
    (0..result.len()).map(|i| if i < missing || dims[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_join_axes_without_a_seam() {
        let mut seen = vec![];
        rows(&[2, 3, 4], [0, 5], [&[12, 4, 1], &[12, 4, 1]], |at, inner, len| seen.push((at, inner, len)));
        assert_eq!(seen, [([0, 5], [1, 1], 24)]);
        let mut seen = vec![];
        rows(&[2, 1, 3], [0, 9], [&[3, 3, 1], &[0, 7, -1]], |at, inner, len| seen.push((at, inner, len)));
        assert_eq!(seen, [([0, 9], [1, -1], 3), ([3, 9], [1, -1], 3)]);
        rows(&[2, 0], [0], [&[1, 1]], |_, _, _| panic!("nothing to visit"));
        let mut count = 0;
        rows(&[], [3], [&[]], |at, _, len| {
            assert_eq!((at, len), ([3], 1));
            count += 1;
        });
        assert_eq!(count, 1);
    }

    #[test]
    fn rows_visit_what_nested_loops_visit() {
        let (dims, steps) = ([2usize, 3, 2, 2], [40isize, -3, 2, 1]);
        let mut seen = vec![];
        rows(&dims, [9], [&steps], |[at], [inner], len| seen.extend((0..len as isize).map(|i| at + i * inner)));
        let mut want = vec![];
        for a in 0..2 {
            for b in 0..3 {
                for c in 0..2 {
                    for d in 0..2 {
                        want.push(9 + 40 * a - 3 * b + 2 * c + d);
                    }
                }
            }
        }
        assert_eq!(seen, want);
    }
}
