//! Few-bit layers with a bias between two units of the sum, for `push-requantize`.
//!
//! Models trained with few bits end a layer in a batch norm and a rounding: a staircase over the integer sum, with steps at
//! integers that the normalization decides. `rne((sum + bias) m)` with an integer bias has its steps on a grid of whole units,
//! which is too coarse where a unit is a good part of a step. With every weight times a factor of up to 64 the grid is finer,
//! at no cost: codes of few bits are indices into a table. For every channel a bias and a multiplier are searched whose
//! staircase has the wanted steps, ALL of them: rounding is monotone, so equal steps are equal functions.

use crate::integer_layer::Weights;
use quernel_ir::{Act, Multiplier, Quant, Scheme, Storage, Tensor, TensorTy, exact};

/// Factors that are tried, in order of preference.
const FACTORS: [i32; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// Largest weight with its factor: a pair of products with bytes then fits 16 bits.
const LARGEST: i64 = 64;

/// What the sums of a layer are rounded to.
pub(crate) struct Rounding<'a> {
    /// Scale of the operand.
    pub sx: f32,
    /// Bounds of the operand minus its zero point, zero included.
    pub range: (i64, i64),
    /// Type of the result.
    pub result: &'a Quant,
    pub act: Act,
    pub order: Multiplier,
}

/// The factor of all weights, and one scale and bias per channel.
pub(crate) struct Steps {
    pub factor: i32,
    pub scales: Vec<f32>,
    pub bias: Vec<i32>,
    /// Channels in which a result may be a step off.
    pub inexact: usize,
}

/// One channel: `rne((sum scale + bias) / sy)` over sums in `low..=high`.
struct Channel {
    scale: f64,
    bias: f64,
    low: i64,
    high: i64,
}

/// A step of a staircase: the smallest sum whose result is at least `level`.
struct Step {
    level: i32,
    at: i64,
}

/// Scales and biases that give exactly the steps of `bias`, in real numbers; `None` where the weights are too large for a
/// factor to help.
pub(crate) fn steps(w: &Weights, bias: &[f32], r: &Rounding<'_>) -> Option<Steps> {
    let largest = w.centered.iter().map(|q| q.abs()).max().unwrap_or(0).max(1);
    if largest * 2 > LARGEST {
        return None;
    }
    let row = w.centered.len() / w.rows.max(1);
    let channels: Vec<Channel> = (0..w.rows)
        .map(|o| {
            let (mut low, mut high) = (0, 0);
            for q in &w.centered[o * row..(o + 1) * row] {
                low += (q * r.range.0).min(q * r.range.1);
                high += (q * r.range.0).max(q * r.range.1);
            }
            Channel { scale: f64::from(r.sx) * f64::from(w.quant.scale_at(o)), bias: bias[o].into(), low, high }
        })
        .collect();
    let mut best: Option<Steps> = None;
    for factor in FACTORS.into_iter().filter(|f| largest * i64::from(*f) <= LARGEST) {
        let mut found = Steps { factor, scales: Vec::with_capacity(w.rows), bias: Vec::with_capacity(w.rows), inexact: 0 };
        for (o, channel) in channels.iter().enumerate() {
            let (scale, bias, exact) = match fit(channel, factor, r) {
                Some((scale, bias)) => (scale, bias, true),
                None => {
                    let unit = channel.scale / f64::from(factor);
                    (w.quant.scale_at(o) / factor as f32, (channel.bias / unit).round_ties_even(), false)
                }
            };
            if bias.abs() > f64::from(1 << 29) || !(scale.is_finite() && scale > 0.0) {
                return best;
            }
            found.scales.push(scale);
            found.bias.push(bias as i32);
            found.inexact += usize::from(!exact);
        }
        if best.as_ref().is_none_or(|b| found.inexact < b.inexact) {
            let done = found.inexact == 0;
            best = Some(found);
            if done {
                break;
            }
        }
    }
    best
}

/// The finest unit for a layer that hands out floats.
pub(crate) fn finest(w: &Weights, bias: &[f32], sx: f32) -> Option<Steps> {
    let largest = w.centered.iter().map(|q| q.abs()).max().unwrap_or(0).max(1);
    let factor = FACTORS.into_iter().rev().find(|f| largest * i64::from(*f) <= LARGEST).filter(|f| *f > 1)?;
    let scales: Vec<f32> = (0..w.rows).map(|o| w.quant.scale_at(o) / factor as f32).collect();
    let bias = bias.iter().zip(&scales).map(|(b, sw)| exact::quantize_bias(*b, sx, *sw)).collect::<Option<Vec<i32>>>()?;
    Some(Steps { factor, scales, bias, inexact: 0 })
}

/// Scale and bias of one channel whose steps are those wanted.
fn fit(c: &Channel, factor: i32, r: &Rounding<'_>) -> Option<(f32, f64)> {
    let (sy, zero) = r.result.tensor_params()?;
    let (a, b) = r.act.bounds();
    let (lo, hi) = exact::clamp_bounds(a, b, sy, zero, r.result.min(), r.result.max());
    let wanted = wanted(c, (sy, zero), (lo, hi));
    let unit = c.scale / f64::from(factor);
    let nominal = unit / f64::from(sy);
    let centre = (c.bias / unit).round_ties_even();
    for offset in [0.0, 1.0, -1.0] {
        let bias = centre + offset;
        let (mut least, mut most) = (0.0f64, f64::INFINITY);
        for step in &wanted {
            let edge = f64::from(step.level - zero) - 0.5;
            let (up, down) = ((step.at * i64::from(factor)) as f64 + bias, ((step.at - 1) * i64::from(factor)) as f64 + bias);
            // `up m >= edge` and `down m <= edge`; which end an edge belongs to is checked on the result.
            if step.at <= c.high {
                bound(up, edge, &mut least, &mut most);
            }
            if step.at > c.low {
                bound(-down, -edge, &mut least, &mut most);
            }
        }
        if least > most {
            continue;
        }
        let middle = if most.is_finite() { (least + most) / 2.0 } else { least.max(nominal) * 2.0 };
        let inside = nominal > least && nominal < most;
        for m in [inside.then_some(nominal), Some(middle)].into_iter().flatten() {
            let scale = (m * f64::from(sy) / f64::from(r.sx)) as f32;
            let m = exact::multiplier(r.order, r.sx, scale, sy);
            let valid = m.is_finite() && (exact::MIN_MULTIPLIER..exact::MAX_MULTIPLIER).contains(&m);
            if valid && scale > 0.0 && bias.abs() < f64::from(1 << 29) && matches(&wanted, c, (factor, bias as i64), m, zero, (lo, hi)) {
                return Some((scale, bias));
            }
        }
    }
    None
}

/// Narrows the multipliers `m > 0` for which `sum m >= edge`.
fn bound(sum: f64, edge: f64, least: &mut f64, most: &mut f64) {
    if sum > 0.0 {
        *least = least.max(edge / sum);
    } else if edge > 0.0 {
        *most = -1.0;
    } else if sum < 0.0 {
        *most = most.min(edge / sum);
    }
}

/// The steps of the real function above level `lo`.
fn wanted(c: &Channel, (sy, zero): (f32, i32), (lo, hi): (i32, i32)) -> Vec<Step> {
    let value = |sum: i64| ((sum as f64 * c.scale + c.bias) / f64::from(sy)).round_ties_even() + f64::from(zero);
    let one = |level: i32| {
        let reaches = |sum: i64| value(sum) >= f64::from(level);
        let guess = ((f64::from(level - zero) - 0.5) * f64::from(sy) - c.bias) / c.scale;
        let mut at = (guess.clamp(c.low as f64 - 1.0, c.high as f64 + 1.0)) as i64;
        while at > c.low && reaches(at - 1) {
            at -= 1;
        }
        while at <= c.high && !reaches(at) {
            at += 1;
        }
        Step { level, at }
    };
    (lo + 1..=hi).map(one).collect()
}

/// Whether requantization has its steps at the same sums.
fn matches(wanted: &[Step], c: &Channel, (factor, bias): (i32, i64), m: f32, zero: i32, (lo, hi): (i32, i32)) -> bool {
    let result = |sum: i64| {
        let acc = i32::try_from(sum * i64::from(factor) + bias).ok()?;
        Some(exact::requantize(acc, m, zero, lo, hi))
    };
    wanted.iter().all(|s| {
        let above = s.at > c.high || result(s.at).is_some_and(|q| q >= s.level);
        let below = s.at <= c.low || result(s.at - 1).is_some_and(|q| q < s.level);
        above && below
    })
}

/// The weights times a factor under other scales: a table of the products where codes have few bits.
pub(crate) fn scaled(w: &Weights, factor: i32, scales: &[f32]) -> Option<Tensor> {
    let dims = w.tensor.ty.dims.clone();
    let storage = w.quant.storage();
    if storage.bits() > 7 {
        let quant = Quant::new(Storage::I8, -127, 127, Scheme::PerAxis { axis: 0, scales: scales.into() }).ok()?;
        return Some(Tensor::from_ints(TensorTy::new(dims, quant), w.centered.iter().map(|q| q * i64::from(factor))));
    }
    if factor == 1 && !matches!(w.quant.scheme(), Scheme::Table { .. }) {
        let held = Storage::new(storage.bits() + u8::from(!storage.signed()), true)?;
        let (lo, hi) = held.range();
        let fits = w.centered.iter().all(|q| (i64::from(lo)..=i64::from(hi)).contains(q));
        let quant = Quant::new(held, lo, hi, Scheme::PerAxis { axis: 0, scales: scales.into() }).ok().filter(|_| fits)?;
        return Some(Tensor::from_ints(TensorTy::new(dims, quant), w.centered.iter().copied()));
    }
    let codes = Storage::new(storage.bits(), false)?;
    let count = 1usize << storage.bits();
    let (lo, _) = storage.range();
    // Codes count from the lowest integer up.
    let table: Vec<i8> = (0..count as i32).map(|c| (w.quant.centered(lo + c) * factor).clamp(-127, 127) as i8).collect();
    let (min, max) = codes.range();
    let quant = Quant::new(codes, min, max, Scheme::Table { axis: 0, scales: scales.into(), table: table.into() }).ok()?;
    let stored = w.tensor.to_ints()?.into_iter().map(|q| q - i64::from(lo));
    Some(Tensor::from_ints(TensorTy::new(dims, quant), stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(bits: u8, codes: &[i64], rows: usize, scales: &[f32]) -> Weights {
        let storage = Storage::new(bits, true).expect("a width");
        let (lo, hi) = storage.range();
        let quant = Quant::new(storage, lo, hi, Scheme::PerAxis { axis: 0, scales: scales.into() }).expect("a type");
        let tensor = Tensor::from_ints(TensorTy::new([rows, codes.len() / rows], quant.clone()), codes.iter().copied());
        Weights { value: quernel_ir::Id::new(0), quant, tensor, centered: codes.to_vec(), rows }
    }

    #[test]
    fn every_sum_of_a_two_bit_layer_rounds_as_in_real_numbers() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 24) as f32
        };
        let result =
            Quant::new(Storage::new(2, true).expect("a width"), -1, 1, Scheme::PerTensor { scale: 1.0, zero_point: 0 }).expect("a type");
        for _ in 0..50 {
            let codes: Vec<i64> = (0..4 * 64).map(|_| (next() * 3.0) as i64 - 1).collect();
            let scales: Vec<f32> = (0..4).map(|_| 0.01 + 0.2 * next()).collect();
            let bias: Vec<f32> = (0..4).map(|_| 4.0 * next() - 2.0).collect();
            let w = layer(2, &codes, 4, &scales);
            let r = Rounding { sx: 1.0, range: (-1, 1), result: &result, act: Act::None, order: Multiplier::F32 };
            let s = steps(&w, &bias, &r).expect("small weights");
            assert_eq!(s.inexact, 0);
            for o in 0..4 {
                let reach: i64 = codes[o * 64..(o + 1) * 64].iter().map(|q| q.abs()).sum();
                for sum in -reach..=reach {
                    let want = (sum as f64 * f64::from(scales[o]) + f64::from(bias[o])).round_ties_even().clamp(-1.0, 1.0);
                    let m = exact::multiplier(Multiplier::F32, 1.0, s.scales[o], 1.0);
                    let got = exact::requantize(sum as i32 * s.factor + s.bias[o], m, 0, -1, 1);
                    assert_eq!(f64::from(got), want, "channel {o}, sum {sum}, factor {}", s.factor);
                }
            }
        }
    }

    #[test]
    fn weights_too_large_for_a_factor_are_left() {
        let result = Quant::per_tensor(Storage::U8, 1.0, 0).expect("a type");
        let r = Rounding { sx: 1.0, range: (0, 255), result: &result, act: Act::Relu, order: Multiplier::F32 };
        assert!(steps(&layer(8, &[33, 1], 1, &[0.1]), &[0.3], &r).is_none());
    }

    #[test]
    fn a_table_holds_the_products() {
        let w = layer(2, &[-2, -1, 0, 1], 1, &[0.5]);
        let t = scaled(&w, 16, &[0.25]).expect("a table");
        let quant = t.ty.elem.quant().expect("codes").clone();
        let values: Vec<i32> = t.to_ints().expect("codes").iter().map(|q| quant.centered(*q as i32)).collect();
        assert_eq!(values, [-32, -16, 0, 16]);
        assert_eq!(quant.scale_at(0), 0.25);
    }
}
