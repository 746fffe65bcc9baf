//! The cores of convolution: channels last, up to three spatial axes, integer or float.
//!
//! Every pixel gathers its taps into one row (order: depth, row, column, channel) and multiplies it with plain
//! loops over contiguous memory; a depthwise layer runs over channels instead.

use quernel_ir::WindowDim;

/// Extents of a convolution. Operand `[n][z][y][x][c]`, result `[n][z][y][x][o]`, weights `[o][z][y][x][c / groups]`,
/// all dense.
pub(crate) struct Shape {
    pub(crate) n: usize,
    /// Spatial extents of the operand.
    pub(crate) extent: [usize; 3],
    pub(crate) c: usize,
    /// Spatial extents of the result.
    pub(crate) out: [usize; 3],
    pub(crate) o: usize,
    pub(crate) groups: usize,
    pub(crate) window: [WindowDim; 3],
}

/// Window and extents of fewer axes with leading axes of 1.
pub(crate) fn three<T: Copy>(axes: &[T], one: T) -> [T; 3] {
    std::array::from_fn(|i| if i + axes.len() >= 3 { axes[i + axes.len() - 3] } else { one })
}

/// Output channels computed side by side in float.
const LANES: usize = 16;

impl Shape {
    fn taps(&self) -> usize {
        self.window.iter().map(|d| d.kernel).product()
    }
    /// Input channels per group.
    fn inner(&self) -> usize {
        self.c / self.groups
    }
    /// Products per result.
    pub(crate) fn depth(&self) -> usize {
        self.taps() * self.inner()
    }
    /// Position on an axis that tap `tap` of result `out` reads; `None` outside the operand.
    fn position(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        let d = self.window[axis];
        (out * d.stride + tap * d.dilation).checked_sub(d.before).filter(|p| *p < self.extent[axis])
    }
    /// Start of a pixel of the operand, in elements.
    fn pixel(&self, n: usize, z: usize, y: usize, x: usize) -> usize {
        (((n * self.extent[0] + z) * self.extent[1] + y) * self.extent[2] + x) * self.c
    }

    /// Fills `row` with the taps of group `g` for one result pixel.
    fn gather<T: Copy>(&self, x: &[T], n: usize, at: [usize; 3], g: usize, outside: T, row: &mut [T]) {
        let (inner, [_, _, dx]) = (self.inner(), self.window);
        let line = dx.kernel * inner;
        let joined = self.groups == 1 && dx.dilation == 1;
        // Columns of a joined line that lie within the operand.
        let first = dx.before.saturating_sub(at[2] * dx.stride).min(dx.kernel);
        let last = (self.extent[2] + dx.before).saturating_sub(at[2] * dx.stride).clamp(first, dx.kernel);
        for kz in 0..self.window[0].kernel {
            for ky in 0..self.window[1].kernel {
                let line = &mut row[(kz * self.window[1].kernel + ky) * line..][..line];
                let (Some(z), Some(y)) = (self.position(0, at[0], kz), self.position(1, at[1], ky)) else {
                    line.fill(outside);
                    continue;
                };
                if joined {
                    line[..first * inner].fill(outside);
                    line[last * inner..].fill(outside);
                    if first < last {
                        let from = self.pixel(n, z, y, at[2] * dx.stride + first - dx.before);
                        line[first * inner..last * inner].copy_from_slice(&x[from..][..(last - first) * inner]);
                    }
                    continue;
                }
                for kx in 0..dx.kernel {
                    let tap = &mut line[kx * inner..][..inner];
                    match self.position(2, at[2], kx) {
                        Some(px) => tap.copy_from_slice(&x[self.pixel(n, z, y, px) + g * inner..][..inner]),
                        None => tap.fill(outside),
                    }
                }
            }
        }
    }

    /// Calls `pixel(index, n, position)` for every result pixel in memory order.
    fn pixels(&self, mut pixel: impl FnMut(usize, usize, [usize; 3])) {
        let mut index = 0;
        for n in 0..self.n {
            for z in 0..self.out[0] {
                for y in 0..self.out[1] {
                    for x in 0..self.out[2] {
                        pixel(index, n, [z, y, x]);
                        index += 1;
                    }
                }
            }
        }
    }

    /// One input channel per group: runs over channels, tap by tap.
    fn depthwise<T: Copy, A: Copy>(
        &self,
        x: &[T],
        outside: T,
        weights: &[T],
        zero: A,
        add: impl Fn(A, T, T) -> A,
        mut each: impl FnMut(usize, &mut [A]),
    ) {
        let (taps, repeat) = (self.taps(), self.o / self.groups);
        let by_tap: Vec<T> = (0..taps * self.o).map(|i| weights[i % self.o * taps + i / self.o]).collect();
        let border = vec![outside; self.c];
        let mut acc = vec![zero; self.o];
        self.pixels(|index, n, at| {
            acc.fill(zero);
            let mut tap = 0;
            for kz in 0..self.window[0].kernel {
                for ky in 0..self.window[1].kernel {
                    for kx in 0..self.window[2].kernel {
                        let place = [(0, kz), (1, ky), (2, kx)].map(|(axis, k)| self.position(axis, at[axis], k));
                        let values = match place {
                            [Some(z), Some(y), Some(px)] => &x[self.pixel(n, z, y, px)..][..self.c],
                            _ => &border[..],
                        };
                        let w = &by_tap[tap * self.o..][..self.o];
                        if repeat == 1 {
                            for ((a, v), w) in acc.iter_mut().zip(values).zip(w) {
                                *a = add(*a, *v, *w);
                            }
                        } else {
                            for (o, (a, w)) in acc.iter_mut().zip(w).enumerate() {
                                *a = add(*a, values[o / repeat], *w);
                            }
                        }
                        tap += 1;
                    }
                }
            }
            each(index, &mut acc);
        });
    }
}

/// Exact sums of products in wrapping i32. A tap outside the operand reads as `outside`. Calls `each(pixel, sums)` with
/// the sums of all output channels.
pub(crate) fn integer<T: Copy + Default + Into<i32>>(
    s: &Shape,
    x: &[T],
    outside: T,
    weights: &[T],
    mut each: impl FnMut(usize, &mut [i32]),
) {
    if s.inner() == 1 {
        let add = |a: i32, v: T, w: T| a.wrapping_add(v.into().wrapping_mul(w.into()));
        return s.depthwise(x, outside, weights, 0, add, each);
    }
    // Rows are padded with zero weights so that the inner loop has no tail.
    let (depth, padded) = (s.depth(), s.depth().next_multiple_of(16));
    let mut packed = vec![T::default(); padded * s.o];
    for o in 0..s.o {
        packed[o * padded..][..depth].copy_from_slice(&weights[o * depth..][..depth]);
    }
    let per_group = s.o / s.groups;
    let mut row = vec![T::default(); padded];
    let mut acc = vec![0i32; s.o];
    s.pixels(|index, n, at| {
        for g in 0..s.groups {
            s.gather(x, n, at, g, outside, &mut row[..depth]);
            let outputs = g * per_group..(g + 1) * per_group;
            for (o, a) in outputs.clone().zip(&mut acc[outputs]) {
                *a = dot(&row, &packed[o * padded..][..padded]);
            }
        }
        each(index, &mut acc);
    });
}

pub(crate) fn dot<T: Copy + Into<i32>>(a: &[T], b: &[T]) -> i32 {
    a.iter().zip(b).fold(0i32, |acc, (x, y)| acc.wrapping_add((*x).into().wrapping_mul((*y).into())))
}

/// Sums of products in f32 in the order of the taps, from +0. A tap outside the operand reads as 0. Calls
/// `each(pixel, sums)` with the sums of all output channels.
pub(crate) fn float(s: &Shape, x: &[f32], weights: &[f32], mut each: impl FnMut(usize, &mut [f32])) {
    if s.inner() == 1 {
        return s.depthwise(x, 0.0, weights, 0.0, |a, v, w| a + v * w, each);
    }
    let (depth, per_group) = (s.depth(), s.o / s.groups);
    let panels = per_group.div_ceil(LANES);
    let mut packed = vec![[0f32; LANES]; s.groups * panels * depth];
    for o in 0..s.o {
        let (g, lane) = (o / per_group, o % per_group);
        let panel = &mut packed[(g * panels + lane / LANES) * depth..][..depth];
        for (slot, w) in panel.iter_mut().zip(&weights[o * depth..]) {
            slot[lane % LANES] = *w;
        }
    }
    let mut row = vec![0f32; depth];
    let mut acc = vec![0f32; s.o];
    s.pixels(|index, n, at| {
        for g in 0..s.groups {
            s.gather(x, n, at, g, 0.0, &mut row);
            for p in 0..panels {
                let panel = &packed[(g * panels + p) * depth..][..depth];
                let mut lanes = [0f32; LANES];
                for (v, w) in row.iter().zip(panel) {
                    for (a, w) in lanes.iter_mut().zip(w) {
                        *a += v * w;
                    }
                }
                let first = g * per_group + p * LANES;
                let count = LANES.min((g + 1) * per_group - first);
                acc[first..first + count].copy_from_slice(&lanes[..count]);
            }
        }
        each(index, &mut acc);
    });
}

/// `[n][c][plane]` to `[n][plane][c]`.
pub(crate) fn channels_last<T: Copy>(x: &[T], n: usize, c: usize, plane: usize) -> Vec<T> {
    if plane == 1 || c == 1 {
        return x.to_vec();
    }
    let mut out = Vec::with_capacity(x.len());
    for image in 0..n {
        let image = &x[image * c * plane..][..c * plane];
        for p in 0..plane {
            out.extend(image[p..].iter().step_by(plane));
        }
    }
    out
}
