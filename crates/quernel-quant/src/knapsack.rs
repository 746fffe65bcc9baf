//! The multiple-choice knapsack: one option per item, least total loss, costs within limits. Exact dynamic programming
//! over costs in whole units.

/// What one option of an item costs and loses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    /// Loss; infinite for an option that cannot be taken.
    pub loss: f64,
    /// Costs of every kind.
    pub costs: [u64; 2],
}

/// Cells of the table: levels of the first cost times levels of the second.
const CELLS: u64 = 1 << 20;
/// Levels of one cost where both are limited.
const LEVELS: u64 = 1 << 10;

/// The options of least total loss whose costs stay within the limits, one per item; `None` when there are none. A cost
/// without a limit counts nothing. Costs are rounded up to a share of `1 / 2^20` of their limit (`1 / 2^10` where both are
/// limited), so an answer always holds, and a better one may be missed by that little.
pub fn choose(items: &[Vec<Choice>], limits: [Option<u64>; 2]) -> Option<Vec<usize>> {
    let both = limits.iter().all(Option::is_some);
    let unit = |limit: u64| (limit / if both { LEVELS } else { CELLS - 1 }).max(1);
    let units = limits.map(|l| l.map_or(1, unit));
    let levels: [usize; 2] = std::array::from_fn(|k| limits[k].map_or(0, |l| (l / units[k]) as usize) + 1);
    let cost = |c: &Choice, k: usize| -> usize {
        if limits[k].is_none() { 0 } else { usize::try_from(c.costs[k].div_ceil(units[k])).unwrap_or(usize::MAX) }
    };
    let cells = levels[0] * levels[1];
    // best[a][b]: least loss of the items so far at costs of at most a and b.
    let mut best = vec![0f64; cells];
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(items.len());
    for item in items {
        let mut next = vec![f64::INFINITY; cells];
        let mut pick = vec![u8::MAX; cells];
        for (option, choice) in item.iter().enumerate().take(usize::from(u8::MAX)) {
            let (a, b) = (cost(choice, 0), cost(choice, 1));
            if !choice.loss.is_finite() || a >= levels[0] || b >= levels[1] {
                continue;
            }
            for i in a..levels[0] {
                let (to, from) = (i * levels[1] + b, (i - a) * levels[1]);
                for j in 0..levels[1] - b {
                    let loss = best[from + j] + choice.loss;
                    if loss < next[to + j] {
                        (next[to + j], pick[to + j]) = (loss, option as u8);
                    }
                }
            }
        }
        best = next;
        taken.push(pick);
    }
    let (mut i, mut j) = (levels[0] - 1, levels[1] - 1);
    if !best[i * levels[1] + j].is_finite() {
        return None;
    }
    let mut options = vec![0; items.len()];
    for (at, pick) in taken.iter().enumerate().rev() {
        let option = usize::from(pick[i * levels[1] + j]);
        options[at] = option;
        i -= cost(&items[at][option], 0);
        j -= cost(&items[at][option], 1);
    }
    Some(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut s = seed;
        let mut next = |n: u64| {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (s >> 33) % n
        };
        let mut choice = || Choice { loss: next(1000) as f64, costs: [next(50), next(40)] };
        (0..count).map(|_| (0..options).map(|_| choice()).collect()).collect()
    }

    /// Every assignment.
    fn exhaustive(items: &[Vec<Choice>], limits: [Option<u64>; 2]) -> Option<f64> {
        let count: usize = items.iter().map(Vec::len).product();
        let total = |mut n: usize| {
            let mut sum = (0.0, [0u64; 2]);
            for item in items {
                let c = item[n % item.len()];
                n /= item.len();
                sum = (sum.0 + c.loss, [sum.1[0] + c.costs[0], sum.1[1] + c.costs[1]]);
            }
            sum
        };
        let fits = |costs: [u64; 2]| (0..2).all(|k| limits[k].is_none_or(|l| costs[k] <= l));
        (0..count).map(total).filter(|(_, c)| fits(*c)).map(|(loss, _)| loss).min_by(f64::total_cmp)
    }

    #[test]
    fn the_best_of_all_assignments_is_found() {
        for seed in 0..60 {
            let items = items(5, 3, seed);
            let limits = [[Some(90), None], [None, Some(70)], [Some(120), Some(80)], [None, None]][seed as usize % 4];
            let found = choose(&items, limits);
            let loss = found.as_ref().map(|f| f.iter().zip(&items).map(|(&o, i)| i[o].loss).sum::<f64>());
            assert_eq!(loss, exhaustive(&items, limits), "seed {seed}");
            if let Some(f) = found {
                let cost = |k: usize| f.iter().zip(&items).map(|(&o, i)| i[o].costs[k]).sum::<u64>();
                assert!((0..2).all(|k| limits[k].is_none_or(|l| cost(k) <= l)));
            }
        }
    }

    #[test]
    fn large_costs_never_exceed_their_limits() {
        let mut items = items(30, 4, 3);
        items.iter_mut().flatten().for_each(|c| c.costs = c.costs.map(|x| x * 1_000_003 + 17));
        let limits = [Some(500_000_000), Some(400_000_000)];
        let found = choose(&items, limits).expect("feasible");
        for (k, limit) in limits.into_iter().enumerate() {
            let cost: u64 = found.iter().zip(&items).map(|(&o, i)| i[o].costs[k]).sum();
            assert!(cost <= limit.expect("set"));
        }
    }

    #[test]
    fn what_cannot_be_is_none() {
        let never = Choice { loss: f64::INFINITY, costs: [0; 2] };
        assert_eq!(choose(&[vec![never]], [None; 2]), None);
        assert_eq!(choose(&[vec![Choice { loss: 0.0, costs: [5, 0] }]], [Some(4), None]), None);
        assert_eq!(choose(&[], [Some(0), None]), Some(vec![]));
    }
}
