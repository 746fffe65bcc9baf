//! Observed ranges: what calibration measures, as a file that adds up.

use crate::{
    Samples,
    calibrators::{self, Calibrator, affine},
    histogram::Histogram,
};
use quernel_ir::{Code, Diagnostic, Storage, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Fixed point of channel sums: exact addition, so order and merging do not matter.
const FRACTION_BITS: i32 = 32;
/// Elements of smaller magnitude count as zeros.
const NOTHING: f64 = 1e-30;

/// What was seen of one tensor.
#[derive(Clone, PartialEq, Debug)]
struct Seen {
    min: f32,
    max: f32,
    /// How often it was computed, and the sums of its least and greatest elements in units of `2^-32`.
    runs: u64,
    extremes: [i128; 2],
    histogram: Histogram,
    /// Elements per channel.
    per_channel: u64,
    /// Sum per channel in units of `2^-32`.
    sums: Vec<i128>,
}

impl Seen {
    fn new(channels: usize) -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            runs: 0,
            extremes: [0; 2],
            histogram: Histogram::default(),
            per_channel: 0,
            sums: vec![0; channels],
        }
    }

    fn merge(&mut self, other: &Self) -> Result<(), String> {
        if self.sums.len() != other.sums.len() {
            return Err(format!("{} channels against {}", self.sums.len(), other.sums.len()));
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        // Counts and sums of a file may be anything.
        self.runs = self.runs.saturating_add(other.runs);
        self.extremes.iter_mut().zip(other.extremes).for_each(|(a, b)| *a = a.saturating_add(b));
        self.histogram.merge(&other.histogram);
        self.per_channel = self.per_channel.saturating_add(other.per_channel);
        self.sums.iter_mut().zip(&other.sums).for_each(|(a, b)| *a = a.saturating_add(*b));
        Ok(())
    }
}

/// Gathers observations while a float network runs.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    tensors: BTreeMap<String, Seen>,
    samples: u64,
}

impl Observed {
    /// Counts the elements of a tensor. Channels are axis 1, or the last axis of tensors of rank 1.
    ///
    /// # Errors
    /// `SampleValue` when the float network produced NaN or infinity.
    pub fn record(&mut self, name: &str, dims: &[usize], data: &[f32]) -> Result<(), Diagnostic> {
        let axis = if dims.len() > 1 { 1 } else { 0 };
        let channels = dims.get(axis).copied().unwrap_or(1);
        let inner: usize = dims.get(axis + 1..).unwrap_or_default().iter().product();
        let bad = |message: String| Diagnostic::new(Code::SampleValue, message).at(format!("tensor {name:?}"));
        if channels == 0 || inner == 0 || data.is_empty() {
            return Ok(());
        }
        let seen = self.tensors.entry(name.to_owned()).or_insert_with(|| Seen::new(channels));
        if seen.sums.len() != channels {
            return Err(bad(format!("has {channels} channels in one sample and {} in another", seen.sums.len())));
        }
        if let Some(x) = data.iter().find(|x| !x.is_finite()) {
            return Err(bad(format!("the float network computes {x}"))
                .help("the samples are far outside what the network was trained on, or the network overflows in f32"));
        }
        let (min, max) = data.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        let scale = 2f64.powi(FRACTION_BITS);
        for block in data.chunks(inner * channels) {
            for (sum, run) in seen.sums.iter_mut().zip(block.chunks(inner)) {
                for &x in run {
                    seen.histogram.record(x);
                    *sum += (f64::from(x) * scale) as i64 as i128;
                }
            }
        }
        (seen.min, seen.max) = (seen.min.min(min), seen.max.max(max));
        seen.runs += 1;
        // The largest f32 is beyond an i128 in these units.
        seen.extremes.iter_mut().zip([min, max]).for_each(|(sum, x)| *sum = sum.saturating_add((f64::from(x) * scale) as i128));
        seen.per_channel += (data.len() / channels) as u64;
        Ok(())
    }

    /// Counts a sample.
    pub fn end_sample(&mut self) {
        self.samples += 1;
    }

    /// The finished ranges.
    pub fn finish(self) -> Ranges {
        let means = self.tensors.iter().map(|(name, seen)| (name.clone(), means(seen))).collect();
        Ranges { model: 0, samples: self.samples, tensors: self.tensors, means }
    }
}

fn means(seen: &Seen) -> Vec<f64> {
    let unit = 2f64.powi(-FRACTION_BITS);
    seen.sums.iter().map(|s| *s as f64 * unit / seen.per_channel.max(1) as f64).collect()
}

/// Ranges of every tensor of a model. Histograms are kept, so files add up and another calibrator needs no new run.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranges {
    model: u64,
    samples: u64,
    tensors: BTreeMap<String, Seen>,
    means: BTreeMap<String, Vec<f64>>,
}

/// Version of the file format.
const FORMAT: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    model: String,
    samples: u64,
    tensors: BTreeMap<String, FileTensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTensor {
    min: f32,
    max: f32,
    runs: u64,
    /// Sums of the extremes of the runs, like `sums`.
    extremes: [String; 2],
    per_channel: u64,
    /// Sums in units of 2^-32, as decimal text: they exceed what JSON numbers hold.
    sums: Vec<String>,
    histogram: Vec<(i32, u64)>,
}

impl Ranges {
    /// Reads a ranges.json.
    pub fn from_json(text: &str) -> Result<Self, Diagnostic> {
        let bad = |message: String| Diagnostic::new(Code::BadRanges, message);
        let file: File = serde_json::from_str(text).map_err(|e| bad(format!("not a ranges file: {e}")))?;
        if file.format != FORMAT {
            return Err(bad(format!("has format {}; this version reads {FORMAT}", file.format)).help("calibrate again"));
        }
        let model = u64::from_str_radix(&file.model, 16).map_err(|_| bad(format!("{:?} is not a hash", file.model)))?;
        let mut tensors = BTreeMap::new();
        for (name, t) in file.tensors {
            let place = |message: &str| bad(message.into()).at(format!("tensor {name:?}"));
            if !(t.min.is_finite() && t.max.is_finite() && t.min <= t.max) {
                return Err(place("its extremes are not finite numbers in order"));
            }
            let integer = |s: &String| s.parse::<i128>().map_err(|_| place("a sum is not an integer"));
            let sums = t.sums.iter().map(integer).collect::<Result<_, _>>()?;
            let extremes = [integer(&t.extremes[0])?, integer(&t.extremes[1])?];
            let histogram = Histogram::from_pairs(&t.histogram).ok_or_else(|| place("its histogram has an impossible bucket"))?;
            // Every run adds its least and its greatest element.
            let units = |x: f32| (f64::from(x) * 4_294_967_296.0) as i128;
            let between = |sum: i128| {
                let runs = i128::from(t.runs);
                sum >= units(t.min).saturating_mul(runs) && sum <= units(t.max).saturating_mul(runs)
            };
            if t.runs == 0 || histogram.to_pairs().is_empty() {
                return Err(place("it was never observed"));
            }
            if extremes[0] > extremes[1] || !extremes.iter().all(|s| between(*s)) {
                return Err(place("the sums of its extremes are not between its extremes"));
            }
            tensors.insert(name, Seen { min: t.min, max: t.max, runs: t.runs, extremes, histogram, per_channel: t.per_channel, sums });
        }
        let means = tensors.iter().map(|(name, seen)| (name.clone(), means(seen))).collect();
        Ok(Self { model, samples: file.samples, tensors, means })
    }

    /// Writes a ranges.json. Equal ranges give equal bytes.
    pub fn to_json(&self) -> String {
        let tensor = |s: &Seen| FileTensor {
            min: s.min,
            max: s.max,
            runs: s.runs,
            extremes: s.extremes.map(|x| x.to_string()),
            per_channel: s.per_channel,
            sums: s.sums.iter().map(i128::to_string).collect(),
            histogram: s.histogram.to_pairs(),
        };
        let file = File {
            format: FORMAT,
            model: format!("{:016x}", self.model),
            samples: self.samples,
            tensors: self.tensors.iter().map(|(n, s)| (n.clone(), tensor(s))).collect(),
        };
        // A struct of numbers, strings and maps with string keys always serialises.
        let mut text = serde_json::to_string(&file).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Adds what was seen on other samples of the same model.
    pub fn merge(mut self, other: &Self) -> Result<Self, Diagnostic> {
        let bad = |message: String| Diagnostic::new(Code::BadRanges, message);
        if self.model != other.model {
            return Err(bad(format!("ranges of model {:016x} do not add to those of {:016x}", other.model, self.model)));
        }
        for (name, seen) in &other.tensors {
            match self.tensors.get_mut(name) {
                None => {
                    self.tensors.insert(name.clone(), seen.clone());
                }
                Some(mine) => mine.merge(seen).map_err(|e| bad(e).at(format!("tensor {name:?}")))?,
            }
        }
        self.samples = self.samples.saturating_add(other.samples);
        self.means = self.tensors.iter().map(|(name, seen)| (name.clone(), means(seen))).collect();
        Ok(self)
    }

    /// Notes the hash of the model file.
    #[must_use]
    pub fn with_model_hash(mut self, hash: u64) -> Self {
        self.model = hash;
        self
    }
    /// Hash of the model file the ranges belong to.
    pub fn model_hash(&self) -> u64 {
        self.model
    }
    /// Samples seen.
    pub fn samples(&self) -> u64 {
        self.samples
    }
    /// Names of the tensors seen, sorted.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
    /// Smallest and largest element of a tensor.
    pub fn extremes(&self, tensor: &str) -> Option<(f32, f32)> {
        self.tensors.get(tensor).map(|s| (s.min, s.max))
    }
    /// Mean of every channel (axis 1) of a tensor.
    pub fn channel_means(&self, tensor: &str) -> Option<&[f64]> {
        self.means.get(tensor).map(Vec::as_slice)
    }

    /// Share of the elements of a tensor that are less than `magnitude`, of those that are not zero; within a bucket of the
    /// histogram all are like its middle.
    pub fn share_below(&self, tensor: &str, magnitude: f64) -> Option<f64> {
        let buckets = self.tensors.get(tensor)?.histogram.buckets();
        let count = |most: f64| -> f64 { buckets.iter().filter(|b| (NOTHING..most).contains(&b.center.abs())).map(|b| b.count).sum() };
        let all = count(f64::INFINITY);
        (all > 0.0).then(|| count(magnitude) / all)
    }

    /// Scale and zero point of a tensor over the whole range of a storage. Zero is represented exactly.
    pub fn params(&self, tensor: &str, storage: Storage, calibrator: Calibrator) -> Option<(f32, i32)> {
        let seen = self.tensors.get(tensor)?;
        let levels = storage.range();
        let unit = 2f64.powi(-FRACTION_BITS) / seen.runs.max(1) as f64;
        let [low, high] = seen.extremes.map(|sum| sum as f64 * unit);
        let seen = calibrators::Seen {
            histogram: &seen.histogram,
            extremes: (f64::from(seen.min).min(0.0), f64::from(seen.max).max(0.0)),
            means: (low.min(0.0), high.max(0.0)),
        };
        let (lo, hi) = calibrator.range(seen, levels);
        Some(affine(lo, hi, levels))
    }
}

/// What a float network calls with name, dimensions and elements of every tensor.
pub type Record<'a> = dyn FnMut(&str, &[usize], &[f32]) + 'a;

/// A float network: runs on inputs and records what it computes.
pub type Observe<'a> = dyn FnMut(&[Tensor], &mut Record<'_>) -> Result<(), Diagnostic> + 'a;

/// Runs a float network over all samples and observes its tensors. `run` calls its second argument for every tensor;
/// `progress` gets samples done and samples in all.
pub fn calibrate_with(run: &mut Observe<'_>, samples: &Samples, progress: &mut dyn FnMut(usize, usize)) -> Result<Ranges, Diagnostic> {
    let mut observed = Observed::default();
    for i in 0..samples.len() {
        let inputs = samples.get(i)?;
        let mut first_error = Ok(());
        run(&inputs, &mut |name, dims, data| {
            if first_error.is_ok() {
                first_error = observed.record(name, dims, data);
            }
        })?;
        first_error.map_err(|d| Diagnostic { message: format!("{} on sample {i}", d.message), ..d }.in_file(samples.file()))?;
        observed.end_sample();
        progress(i + 1, samples.len());
    }
    Ok(observed.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrators::Method;

    const MINMAX: Calibrator = Calibrator { method: Method::MinMax, symmetric: false };

    fn observe(values: &[f32]) -> Ranges {
        let mut o = Observed::default();
        o.record("t", &[1, 2, values.len() / 2], values).expect("finite");
        o.end_sample();
        o.finish()
    }

    /// Deterministic, roughly normal.
    fn normal(n: usize) -> Vec<f32> {
        let mut s = 12345u32;
        let mut uniform = move || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn impossible_states_are_refused() {
        let text = observe(&[-1.0, 2.0, 0.5, 3.0]).to_json();
        assert!(Ranges::from_json(&text).is_ok());
        let least = (-(1i64 << 32)).to_string();
        assert!(text.contains(&least) && text.contains("\"runs\":1"), "{text}");
        for (from, to) in
            [("\"runs\":1", "\"runs\":0"), (&least, "99999999999999"), (&least, "-99999999999999"), ("\"max\":3.0", "\"max\":2.5")]
        {
            let changed = text.replacen(from, to, 1);
            assert!(changed != text, "{from}");
            assert_eq!(Ranges::from_json(&changed).map_err(|d| d.code).err(), Some(Code::BadRanges), "{from} {to}");
        }
    }

    #[test]
    fn zeros_are_not_small_values() {
        let r = observe(&[0.0, 0.0, -1e-3, 1e-3, 2.0, -4.0]);
        let share = |magnitude| r.share_below("t", magnitude).expect("observed");
        assert_eq!([1e-4, 1.0, -1.0, 3.0, 5.0].map(share), [0.0, 0.5, 0.0, 0.75, 1.0]);
        assert_eq!(observe(&[0.0; 4]).share_below("t", 1.0), None);
    }

    #[test]
    fn parts_add_up_to_the_whole_in_any_order() {
        let v = normal(600);
        let whole = {
            let mut o = Observed::default();
            for part in v.chunks(200) {
                o.record("t", &[1, 2, 100], part).expect("finite");
                o.end_sample();
            }
            o.finish()
        };
        let parts: Vec<Ranges> = v.chunks(200).map(observe).collect();
        let forward = parts[0].clone().merge(&parts[1]).expect("same model").merge(&parts[2]).expect("same model");
        let backward = parts[2].clone().merge(&parts[0]).expect("same model").merge(&parts[1]).expect("same model");
        assert_eq!(forward, whole);
        assert_eq!(backward, whole);
        assert_eq!(Ranges::from_json(&whole.to_json()).expect("own output"), whole);
    }

    #[test]
    fn zero_is_exact_and_one_sided_tensors_use_the_whole_range() {
        let relu: Vec<f32> = normal(4000).into_iter().map(|x| x.max(0.0)).collect();
        for calibrator in [MINMAX, Calibrator::default()] {
            let (scale, zero) = observe(&relu).params("t", Storage::U8, calibrator).expect("seen");
            assert_eq!(zero, 0);
            assert!(scale * 255.0 <= 1.001 * relu.iter().copied().fold(0.0, f32::max));
        }
        let (_, zero) = observe(&[5.0, 6.0]).params("t", Storage::U8, MINMAX).expect("seen");
        assert_eq!(zero, 0);
        assert_eq!(observe(&[0.0, 0.0]).params("t", Storage::U8, Calibrator::default()), Some((1.0, 0)));
    }

    #[test]
    fn outliers_are_clipped_when_that_costs_less() {
        let mut v = normal(20_000);
        v[7] = 60.0;
        let r = observe(&v);
        let (clipped, _) = r.params("t", Storage::new(4, false).expect("4 bits"), Calibrator::default()).expect("seen");
        let (whole, _) = r.params("t", Storage::new(4, false).expect("4 bits"), MINMAX).expect("seen");
        assert!(clipped < 0.3 * whole, "{clipped} {whole}");
    }

    #[test]
    fn channel_means_are_exact() {
        let r = observe(&[1.0, 2.0, 3.0, -1.0, -2.0, -6.0]);
        assert_eq!(r.channel_means("t"), Some(&[2.0, -3.0][..]));
        assert_eq!(r.channel_means("u"), None);
    }

    #[test]
    fn the_mean_of_extremes_is_that_of_the_samples() {
        let parts = [observe(&[-1.0, 4.0]), observe(&[-3.0, 2.0]), observe(&[0.5, 0.75])];
        let [a, b, c] = parts;
        let all = a.merge(&b).and_then(|r| r.merge(&c)).expect("same model");
        let (scale, zero) = all.params("t", Storage::U8, Method::Mean.into()).expect("seen");
        let want = affine((-1.0 - 3.0 + 0.5) / 3.0, (4.0 + 2.0 + 0.75) / 3.0, (0, 255));
        assert_eq!((scale, zero), want);
    }

    #[test]
    fn broken_files_are_errors() {
        for text in ["", "{}", "{\"format\":1,\"model\":\"0\",\"samples\":1,\"tensors\":{}}"] {
            assert_eq!(Ranges::from_json(text).expect_err(text).code, Code::BadRanges);
        }
        let mut o = Observed::default();
        assert_eq!(o.record("t", &[1], &[f32::NAN]).expect_err("NaN").code, Code::SampleValue);
    }
}
