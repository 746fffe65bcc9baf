//! Computed indices: which elements of a tensor they name.
//!
//! An index counts from the end of its axis if it is negative, and is then clamped into the axis
//! ([`crate::exact::index`]), so that no index, whatever it is, names memory outside the tensor.

use crate::infer::show;

/// How the elements of an integer tensor `i` name elements of a tensor `x`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Index {
    /// Every index names a slice of `axis`: `i [I..]` names `[x[..axis].., I.., x[axis+1..]..]`.
    Slices {
        /// Axis of `x`.
        axis: usize,
    },
    /// `i` has the rank of `x`, and extents within those of `x` on other axes. Every index names the place along `axis`;
    /// the other places are its own.
    Elements {
        /// Axis of `x`.
        axis: usize,
    },
    /// `x [B.., D.., R..], i [B.., I.., K]` names `[B.., I.., R..]`: the last axis of `i` holds coordinates on `K` axes
    /// of `x` behind the first `batch`, which both tensors share.
    Coordinates {
        /// Number of shared axes.
        batch: usize,
    },
}

/// The elements that indices name, as a tensor of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picks {
    /// Its extents.
    pub dims: Vec<usize>,
    /// The axis of `x` that each of its axes walks; `None` for those of the indices alone.
    pub data: Vec<Option<usize>>,
    /// The axis of `i` that each of its axes walks; `None` where one index holds for all.
    pub index: Vec<Option<usize>>,
    /// The axes of `x` on which the coordinates lie.
    pub named: Vec<usize>,
}

impl Index {
    /// The name of the operator that reads (`gather..`), for the text form.
    pub fn gather_name(self) -> &'static str {
        match self {
            Self::Slices { .. } => "gather",
            Self::Elements { .. } => "gather_elements",
            Self::Coordinates { .. } => "gather_nd",
        }
    }
    /// The name of the operator that writes (`scatter..`), for the text form.
    pub fn scatter_name(self) -> &'static str {
        match self {
            Self::Slices { .. } => "scatter",
            Self::Elements { .. } => "scatter_elements",
            Self::Coordinates { .. } => "scatter_nd",
        }
    }

    /// What indices of extents `i` name in a tensor of extents `x`. `Err` says in one sentence what does not fit.
    pub fn picks(self, x: &[usize], i: &[usize]) -> Result<Picks, String> {
        let misfit = || format!("indices {} of {}", show(i), show(x));
        let picks = match self {
            Self::Slices { axis } => {
                if axis >= x.len() {
                    return Err(format!("axis {axis} of {}", show(x)));
                }
                let rest = x.len() - axis - 1;
                let none = |n: usize| std::iter::repeat_n(None, n);
                Picks {
                    dims: x[..axis].iter().chain(i).chain(&x[axis + 1..]).copied().collect(),
                    data: (0..axis).map(Some).chain(none(i.len())).chain((axis + 1..x.len()).map(Some)).collect(),
                    index: none(axis).chain((0..i.len()).map(Some)).chain(none(rest)).collect(),
                    named: vec![axis],
                }
            }
            Self::Elements { axis } => {
                if axis >= x.len() || i.len() != x.len() || (0..x.len()).any(|a| a != axis && i[a] > x[a]) {
                    return Err(misfit());
                }
                Picks {
                    dims: i.to_vec(),
                    data: (0..x.len()).map(|a| (a != axis).then_some(a)).collect(),
                    index: (0..x.len()).map(Some).collect(),
                    named: vec![axis],
                }
            }
            Self::Coordinates { batch } => {
                let (&k, lead) = i.split_last().ok_or_else(misfit)?;
                let end = batch.checked_add(k).ok_or_else(misfit)?;
                if k == 0 || end > x.len() || batch > lead.len() || x[..batch] != lead[..batch] {
                    return Err(misfit());
                }
                Picks {
                    dims: lead.iter().chain(&x[end..]).copied().collect(),
                    data: (0..lead.len()).map(|a| (a < batch).then_some(a)).chain((end..x.len()).map(Some)).collect(),
                    index: (0..lead.len()).map(Some).chain((end..x.len()).map(|_| None)).collect(),
                    named: (batch..end).collect(),
                }
            }
        };
        match picks.named.iter().find(|&&a| x[a] == 0) {
            Some(a) => Err(format!("axis {a} of {} has no elements to index", show(x))),
            None => Ok(picks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_have_the_extents_of_the_standard() {
        let p = Index::Slices { axis: 1 }.picks(&[2, 3, 4], &[5, 6]).unwrap();
        assert_eq!((p.dims, p.named), (vec![2, 5, 6, 4], vec![1]));
        assert_eq!(p.data, [Some(0), None, None, Some(2)]);
        assert_eq!(p.index, [None, Some(0), Some(1), None]);
        let p = Index::Coordinates { batch: 1 }.picks(&[2, 3, 4, 5], &[2, 7, 2]).unwrap();
        assert_eq!((p.dims, p.named), (vec![2, 7, 5], vec![1, 2]));
        assert_eq!(p.data, [Some(0), None, Some(3)]);
        assert_eq!(p.index, [Some(0), Some(1), None]);
        let p = Index::Elements { axis: 0 }.picks(&[3, 4], &[9, 2]).unwrap();
        assert_eq!((p.dims, p.data), (vec![9, 2], vec![None, Some(1)]));
    }

    #[test]
    fn indices_that_do_not_fit_are_refused() {
        assert!(Index::Slices { axis: 2 }.picks(&[2, 3], &[1]).is_err());
        assert!(Index::Slices { axis: 0 }.picks(&[0, 3], &[1]).is_err());
        assert!(Index::Elements { axis: 0 }.picks(&[2, 3], &[2]).is_err());
        assert!(Index::Elements { axis: 0 }.picks(&[2, 3], &[2, 4]).is_err());
        assert!(Index::Coordinates { batch: 0 }.picks(&[2, 3], &[]).is_err());
        assert!(Index::Coordinates { batch: 0 }.picks(&[2, 3], &[4, 3]).is_err());
        assert!(Index::Coordinates { batch: 1 }.picks(&[2, 3], &[4, 1]).is_err());
        assert!(Index::Coordinates { batch: usize::MAX }.picks(&[2, 3], &[2, 1]).is_err());
    }
}
