//! `Einsum`: any equation, as transpositions, sums, and products of matrices.

use crate::{
    compose::Made,
    limits,
    node::{Built, NodeCx},
};
use quernel_ir::{Code, Diagnostic, Op, ReduceKind, Value};

/// An axis: a letter, or a place within the ellipsis, counted from its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Label {
    Rest(std::cmp::Reverse<usize>),
    Letter(char),
}

/// A tensor and what its axes are called, each once.
struct Term {
    value: Value,
    labels: Vec<Label>,
}

pub fn einsum(cx: &mut NodeCx<'_>) -> Built {
    cx.arity(1, 1 << 6)?;
    let text = cx.text("equation")?.ok_or_else(|| cx.bad_attribute("attribute `equation` is missing"))?;
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((l, r)) => (l, Some(r)),
        None => (text.as_str(), None),
    };
    let written: Vec<&str> = left.split(',').collect();
    if written.len() != cx.inputs.len() {
        return Err(cx.bad_attribute(format!("the equation {text:?} has {} terms for {} operands", written.len(), cx.inputs.len())));
    }
    let mut terms = Vec::new();
    let mut seen: Vec<Label> = Vec::new();
    for (i, term) in written.iter().enumerate() {
        let value = cx.arg(i)?;
        let labels = labels(cx, term, Some(cx.g.ty(value).rank()))?;
        seen.extend(&labels);
        terms.push(diagonal(cx, Term { value, labels })?);
    }
    let rest = seen.iter().filter_map(|l| if let Label::Rest(n) = l { Some(n.0 + 1) } else { None }).max().unwrap_or(0);
    let wanted = match right {
        Some(r) => labels(cx, r, Some(r.replace("...", "").chars().count() + rest * usize::from(r.contains("..."))))?,
        None => {
            // The ellipsis, and every letter that occurs once, in the order of the alphabet.
            let mut once: Vec<Label> = seen.iter().filter(|l| seen.iter().filter(|m| m == l).count() == 1).copied().collect();
            once.retain(|l| matches!(l, Label::Letter(_)));
            once.extend((0..rest).map(|n| Label::Rest(std::cmp::Reverse(n))));
            once.sort_unstable();
            once
        }
    };
    let repeated = wanted.iter().enumerate().any(|(i, l)| wanted[..i].contains(l));
    if repeated || wanted.iter().any(|l| !seen.contains(l)) {
        return Err(cx.bad_attribute(format!("the result of the equation {text:?} has an axis twice, or one that no operand has")));
    }
    same_extents(cx, &mut terms)?;
    let mut terms = terms.into_iter();
    let mut all = terms.next().ok_or_else(|| cx.bad_attribute("has no terms"))?;
    let mut later: Vec<Term> = terms.collect();
    while !later.is_empty() {
        let next = later.remove(0);
        let needed = |l: &Label| wanted.contains(l) || later.iter().any(|t| t.labels.contains(l));
        all = contract(cx, all, next, &needed)?;
    }
    let all = summed(cx, all, &|l| wanted.contains(l))?;
    let mut perm = Vec::new();
    for l in &wanted {
        perm.push(all.labels.iter().position(|m| m == l).ok_or_else(|| Diagnostic::bug("an axis of the result was lost"))?);
    }
    Ok(vec![cx.transpose(all.value, &perm)?])
}

/// The axes a term names; the ellipsis takes those of `rank` that have no letter.
fn labels(cx: &NodeCx<'_>, term: &str, rank: Option<usize>) -> Result<Vec<Label>, Diagnostic> {
    let bad = || cx.bad_attribute(format!("the term {term:?} of the equation does not fit an operand of {} axes", rank.unwrap_or(0)));
    let (before, after) = match term.split_once("...") {
        Some((b, a)) => (b, Some(a)),
        None => (term, None),
    };
    let letters: Vec<char> = before.chars().chain(after.unwrap_or("").chars()).collect();
    if letters.iter().any(|c| !c.is_ascii_alphabetic()) {
        return Err(bad());
    }
    let rest = rank.unwrap_or(letters.len()).checked_sub(letters.len()).filter(|n| *n == 0 || after.is_some()).ok_or_else(bad)?;
    if rest > limits::RANK {
        return Err(bad());
    }
    let hidden = (0..rest).rev().map(|n| Label::Rest(std::cmp::Reverse(n)));
    Ok(before.chars().map(Label::Letter).chain(hidden).chain(after.unwrap_or("").chars().map(Label::Letter)).collect())
}

/// An axis that a term names twice walks the diagonal.
fn diagonal(cx: &mut NodeCx<'_>, mut t: Term) -> Result<Term, Diagnostic> {
    while let Some((i, j)) = (0..t.labels.len()).find_map(|j| t.labels[..j].iter().position(|l| *l == t.labels[j]).map(|i| (i, j))) {
        let dims = cx.dims(t.value);
        if dims[i] != dims[j] {
            return Err(cx.misfit(format!("one name for axes of {} and {} elements", dims[i], dims[j])));
        }
        let mut perm: Vec<usize> = (0..dims.len()).filter(|a| *a != i && *a != j).collect();
        perm.extend([i, j]);
        let square = cx.transpose(t.value, &perm)?;
        let mut flat: Vec<usize> = perm[..dims.len() - 2].iter().map(|a| dims[*a]).collect();
        flat.push(dims[i] * dims[j]);
        let axis = flat.len() - 1;
        let square = cx.reshape(square, flat)?;
        t.value = cx.strided(square, axis, 0, dims[i] as isize + 1, dims[i])?;
        t.labels = perm[..=axis].iter().map(|a| t.labels[*a]).collect();
    }
    Ok(t)
}

/// Every label gets one extent: axes of one element are repeated.
fn same_extents(cx: &mut NodeCx<'_>, terms: &mut [Term]) -> Result<(), Diagnostic> {
    let mut extents: Vec<(Label, usize)> = Vec::new();
    for t in &*terms {
        for (l, d) in t.labels.iter().zip(cx.dims(t.value)) {
            match extents.iter_mut().find(|e| e.0 == *l) {
                Some(e) if e.1 == d || d == 1 => {}
                Some(e) if e.1 == 1 => e.1 = d,
                Some(e) => return Err(cx.misfit(format!("one name for axes of {} and {d} elements", e.1))),
                None => extents.push((*l, d)),
            }
        }
    }
    for t in terms {
        let dims = t.labels.iter().map(|l| extents.iter().find(|e| e.0 == *l).map_or(1, |e| e.1)).collect();
        t.value = cx.expand(t.value, dims)?;
    }
    Ok(())
}

/// The sum over all axes that nothing needs.
fn summed(cx: &mut NodeCx<'_>, t: Term, needed: &dyn Fn(&Label) -> bool) -> Result<Term, Diagnostic> {
    let axes: Vec<usize> = (0..t.labels.len()).filter(|&i| !needed(&t.labels[i])).collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let value = cx.push(Op::Reduce { kind: ReduceKind::Sum, axes, keep: false }, &[t.value])?;
    Ok(Term { value, labels: t.labels.into_iter().filter(needed).collect() })
}

/// The sum over the products of two terms; only needed axes stay.
fn contract(cx: &mut NodeCx<'_>, a: Term, b: Term, needed: &dyn Fn(&Label) -> bool) -> Result<Term, Diagnostic> {
    let (in_a, in_b) = (a.labels.clone(), b.labels.clone());
    let a = summed(cx, a, &|l| needed(l) || in_b.contains(l))?;
    let b = summed(cx, b, &|l| needed(l) || in_a.contains(l))?;
    let pick = |of: &Term, f: &dyn Fn(&Label) -> bool| of.labels.iter().copied().filter(|l| f(l)).collect::<Vec<Label>>();
    let batch = pick(&a, &|l| in_b.contains(l) && needed(l));
    let inner = pick(&a, &|l| in_b.contains(l) && !needed(l));
    let (rows, columns) = (pick(&a, &|l| !in_b.contains(l)), pick(&b, &|l| !in_a.contains(l)));
    let extents = |cx: &NodeCx<'_>, of: &Term, labels: &[Label]| -> Vec<usize> {
        let dims = cx.dims(of.value);
        labels.iter().filter_map(|l| of.labels.iter().position(|m| m == l)).map(|i| dims[i]).collect()
    };
    let mut dims = extents(cx, &a, &batch);
    dims.extend(extents(cx, &a, &rows));
    dims.extend(extents(cx, &b, &columns));
    let count = |cx: &NodeCx<'_>, of: &Term, l: &[Label]| extents(cx, of, l).iter().product::<usize>();
    let (n, m, k, o) = (count(cx, &a, &batch), count(cx, &a, &rows), count(cx, &a, &inner), count(cx, &b, &columns));
    let arranged = |cx: &mut NodeCx<'_>, of: &Term, order: [&[Label]; 3], shape: [usize; 3]| -> Made {
        let perm: Vec<usize> = order.concat().iter().filter_map(|l| of.labels.iter().position(|m| m == l)).collect();
        let x = cx.transpose(of.value, &perm)?;
        cx.reshape(x, if batch.is_empty() { shape[1..].to_vec() } else { shape.to_vec() })
    };
    let floats = cx.g.ty(a.value).elem.is_f32();
    let product = if floats && !inner.is_empty() {
        let left = arranged(cx, &a, [&batch, &rows, &inner], [n, m, k])?;
        let right = arranged(cx, &b, [&batch, &inner, &columns], [n, k, o])?;
        cx.matmul(left, right)?
    } else {
        // Other types have no product of matrices: every pair of elements, then the sum.
        let (left, right) =
            (arranged(cx, &a, [&batch, &rows, &inner], [n, m, k])?, arranged(cx, &b, [&batch, &columns, &inner], [n, o, k])?);
        let lead: &[usize] = if batch.is_empty() { &[] } else { &[n] };
        let left = cx.reshape(left, [lead, &[m, 1, k]].concat())?;
        let right = cx.reshape(right, [lead, &[1, o, k]].concat())?;
        let pairs = cx.mul(left, right)?;
        let axis = lead.len() + 2;
        if k == 1 { pairs } else { cx.push(Op::Reduce { kind: ReduceKind::Sum, axes: vec![axis], keep: false }, &[pairs])? }
    };
    if dims.len() > limits::RANK {
        return Err(cx.err(Code::LimitExceeded, format!("a partial result has {} axes; the limit is {}", dims.len(), limits::RANK)));
    }
    let value = cx.reshape(product, dims)?;
    Ok(Term { value, labels: [batch, rows, columns].concat() })
}
