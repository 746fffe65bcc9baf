//! A failing network, made as small as it still fails.

use quernel::ir::{Def, Graph, Tensor, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Attempts, successful or not, before the result so far has to do.
const ATTEMPTS: usize = 2000;

/// Takes away outputs, nodes and inputs, and makes constants zero, as long as `fails` holds of what is left. Nothing is
/// promised but that it fails.
pub fn shrink(g: &Graph, fails: &dyn Fn(&Graph) -> bool) -> Graph {
    let mut best = g.clone();
    let mut left = ATTEMPTS;
    let mut attempt = |candidate: Graph, best: &mut Graph| {
        let smaller = size(&candidate) < size(best);
        if left == 0 || !smaller {
            return false;
        }
        left -= 1;
        let better = fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    loop {
        let before = size(&best);
        // A value in the middle may already be wrong.
        for v in best.order.iter().map(|&n| best.nodes[n].result()).collect::<Vec<_>>() {
            if attempt(part(&best, &[("y".into(), v)], &BTreeMap::new(), &BTreeSet::new()), &mut best) {
                break;
            }
        }
        for output in best.outputs.clone() {
            if attempt(part(&best, &[output], &BTreeMap::new(), &BTreeSet::new()), &mut best) {
                break;
            }
        }
        // From the end, so that ids of what comes before stay; after a success the numbers are new.
        let mut at = best.order.len();
        while at > 0 {
            at -= 1;
            let Some(&n) = best.order.get(at) else { continue };
            let v = best.nodes[n].result();
            let ty = best.ty(v).clone();
            let bypass = best.nodes[n].args.iter().copied().find(|&a| *best.ty(a) == ty);
            let instead = bypass.map(|a| part(&best, &best.outputs, &BTreeMap::from([(v, a)]), &BTreeSet::new()));
            let cut = part(&best, &best.outputs, &BTreeMap::new(), &BTreeSet::from([v]));
            let _ = instead.is_some_and(|g| attempt(g, &mut best)) || attempt(cut, &mut best);
        }
        for c in best.live_consts().into_iter().map(|(_, c)| c).collect::<Vec<_>>() {
            let Some(data) = best.consts.get(c) else { continue };
            let ty = data.tensor.ty.clone();
            let zeros = vec![0; ty.bytes()];
            if let (true, Ok(tensor)) = (data.tensor.bytes().iter().any(|b| *b != 0), Tensor::new(ty, zeros)) {
                let mut candidate = best.clone();
                candidate.consts[c].tensor = tensor;
                attempt(candidate, &mut best);
            }
        }
        if size(&best) >= before {
            return best;
        }
    }
}

/// Nodes, then elements, then bytes of constants that are not zero.
fn size(g: &Graph) -> (usize, usize, usize, usize) {
    let elements = g.order.iter().map(|&n| g.ty(g.nodes[n].result()).count()).sum();
    let set = g.live_consts().iter().map(|(_, c)| g.consts[*c].tensor.bytes().iter().filter(|b| **b != 0).count()).sum();
    (g.order.len(), g.outputs.len(), elements, set)
}

/// The part of a graph that `outputs` need, with values replaced by others and with values that become inputs.
fn part(g: &Graph, outputs: &[(String, Value)], replaced: &BTreeMap<Value, Value>, cut: &BTreeSet<Value>) -> Graph {
    let resolve = |v: Value| replaced.get(&v).copied().unwrap_or(v);
    let mut needed: BTreeSet<Value> = outputs.iter().map(|(_, v)| resolve(*v)).collect();
    for &n in g.order.iter().rev() {
        let data = &g.nodes[n];
        if needed.contains(&data.result()) && !cut.contains(&data.result()) {
            needed.extend(data.args.iter().map(|&a| resolve(a)));
        }
    }
    let mut out = Graph::new(g.name.clone());
    let mut map: BTreeMap<Value, Value> = BTreeMap::new();
    for &v in g.inputs.iter().chain(cut).filter(|v| needed.contains(v)) {
        let name = match g.values[v].def {
            Def::Input(_) => g.values[v].name.clone(),
            _ => format!("cut{}", map.len()),
        };
        map.insert(v, out.input(name, g.ty(v).clone()));
    }
    for &v in &needed {
        if let Some(t) = g.tensor(v) {
            map.insert(v, out.constant(g.values[v].name.clone(), t.clone()));
        }
    }
    for &n in &g.order {
        let data = &g.nodes[n];
        let v = data.result();
        if needed.contains(&v) && !cut.contains(&v) {
            let args: Vec<Value> = data.args.iter().map(|&a| map[&resolve(a)]).collect();
            map.insert(v, out.push(data.op.clone(), &args, g.ty(v).clone(), data.origin.clone()));
        }
    }
    for (name, v) in outputs {
        out.output(name.clone(), map[&resolve(*v)]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use quernel_test::Net;

    #[test]
    fn a_failure_shrinks_to_the_node_it_needs() {
        let with_softmax = |g: &Graph| g.order.iter().any(|&n| g.nodes[n].op.mnemonic() == "softmax");
        let g = (0..).map(|seed| Net::random(seed, 20)).find(|g| with_softmax(g) && g.order.len() > 8).expect("a softmax in a web");
        let small = shrink(&g, &with_softmax);
        assert_eq!(small.order.len(), 1, "{small}");
        assert!(with_softmax(&small));
    }
}
