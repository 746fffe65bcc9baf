//! Loop nests over strided iteration spaces.

use crate::emit::{Emitter, Ptr};
use quernel_ir::program::Strided;

/// An iteration space whose neighbouring axes are joined wherever every operand allows, unit axes gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Space {
    /// Extents, outermost first; at least one.
    pub dims: Vec<usize>,
    /// Per operand, elements between neighbours along each axis.
    pub steps: Vec<Vec<isize>>,
    /// Per operand, the first element.
    pub starts: Vec<usize>,
}

impl Space {
    /// The simplest equal space.
    pub fn new(over: &Strided) -> Self {
        let mut s = Self {
            dims: Vec::new(),
            steps: vec![Vec::new(); over.operands.len()],
            starts: over.operands.iter().map(|o| o.start).collect(),
        };
        for (axis, &n) in over.dims.iter().enumerate() {
            if n == 1 {
                continue;
            }
            let joins = !s.dims.is_empty()
                && over
                    .operands
                    .iter()
                    .zip(&s.steps)
                    .all(|(o, done)| done.last().is_some_and(|outer| *outer == o.steps[axis] * n as isize));
            if joins {
                if let Some(last) = s.dims.last_mut() {
                    *last *= n;
                }
            } else {
                s.dims.push(n);
            }
            for (o, done) in over.operands.iter().zip(&mut s.steps) {
                if joins {
                    done.pop();
                }
                done.push(o.steps[axis]);
            }
        }
        if s.dims.is_empty() {
            s.dims.push(1);
            s.steps.iter_mut().for_each(|steps| steps.push(0));
        }
        s
    }

    /// Extent of the innermost axis and every operand's step along it.
    pub fn inner(&self) -> (usize, Vec<isize>) {
        let last = self.dims.len() - 1;
        (self.dims[last], self.steps.iter().map(|s| s[last]).collect())
    }

    /// Emits loops over all axes but the innermost `keep`; `body` gets the operands' pointers. `widths` are bytes per
    /// element of each operand.
    pub fn nest(&self, e: &mut Emitter, operands: &[Ptr], widths: &[i64], keep: usize, body: &mut dyn FnMut(&mut Emitter, &[Ptr])) {
        let starts: Vec<Ptr> =
            operands.iter().zip(&self.starts).zip(widths).map(|((&p, &start), width)| e.at(p, start as i64 * width)).collect();
        self.axis(e, 0, self.dims.len() - keep, &starts, widths, body);
    }

    fn axis(&self, e: &mut Emitter, axis: usize, end: usize, ptrs: &[Ptr], widths: &[i64], body: &mut dyn FnMut(&mut Emitter, &[Ptr])) {
        if axis == end {
            return body(e, ptrs);
        }
        let moving: Vec<(Ptr, i64)> = ptrs.iter().enumerate().map(|(i, &p)| (p, self.steps[i][axis] as i64 * widths[i])).collect();
        e.walk(self.dims[axis], &moving, |e, p| self.axis(e, axis + 1, end, p, widths, body));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_ir::program::Strides;

    #[test]
    fn dense_axes_join_and_unit_axes_vanish() {
        let dims = vec![2, 1, 3, 4];
        let dense = Strides::dense(&dims);
        let s = Space::new(&Strided { dims: dims.clone(), operands: vec![dense.clone(), dense.clone()] });
        assert_eq!((s.dims, s.steps), (vec![24], vec![vec![1], vec![1]]));
        let transposed = Strides { start: 5, steps: vec![12, 0, 1, 3] };
        let s = Space::new(&Strided { dims, operands: vec![dense, transposed] });
        assert_eq!((s.dims, s.steps, s.starts), (vec![2, 3, 4], vec![vec![12, 4, 1], vec![12, 1, 3]], vec![0, 5]));
        let one = Space::new(&Strided { dims: vec![], operands: vec![Strides { start: 7, steps: vec![] }] });
        assert_eq!((one.dims, one.starts), (vec![1], vec![7]));
    }
}
