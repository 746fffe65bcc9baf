//! Sample inputs: arrays of a file matched with the inputs of a model.

use crate::{
    arrays::{self, Array, Data},
    images::{Folder, ImageOptions},
};
use quernel_ir::{
    Code, Diagnostic, Scalar, Tensor, TensorTy, infer,
    plain::{Number, cast},
};
use std::{collections::BTreeMap, ops::Range, path::Path};

/// An input of a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// ONNX name.
    pub name: String,
    /// Extents, batch axis included.
    pub dims: Vec<usize>,
    /// Type of the elements.
    pub scalar: Scalar,
}

/// Memory order of the sample arrays, where it is not the model's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Channels are the last axis of the array and the second of the input.
    ChannelsLast,
}

/// What happens to every element of a float input: `(x - subtract) * multiply`. Other inputs take what is in the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Transform {
    /// Subtracted first.
    pub subtract: f32,
    /// Factor.
    pub multiply: f32,
    /// Order of the array's axes.
    pub layout: Option<Layout>,
}

impl Default for Transform {
    fn default() -> Self {
        Self { subtract: 0.0, multiply: 1.0, layout: None }
    }
}

/// How arrays become samples.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SampleOptions {
    /// Array that feeds an input: input name to array name.
    pub rename: BTreeMap<String, String>,
    /// Array that holds the labels, when it has none of the usual names.
    pub labels: Option<String>,
    /// Rows of the arrays to use; all by default.
    pub rows: Option<Range<usize>>,
    /// Applied to every input from arrays.
    pub transform: Transform,
    /// How pictures become inputs.
    pub images: ImageOptions,
}

/// Sample inputs of a model, converted one by one.
#[derive(Clone, Debug)]
pub struct Samples {
    file: String,
    inputs: Vec<Bound>,
    source: Source,
    labels: Option<Vec<i64>>,
    /// Why an array that should hold labels does not.
    label_fault: Option<Diagnostic>,
    /// Whether the user named that array.
    named: bool,
    rows: Range<usize>,
    transform: Transform,
}

#[derive(Clone, Debug)]
enum Source {
    /// One array per input.
    Arrays(Vec<Array>),
    /// Pictures for the one input.
    Pictures(Folder),
}

/// Names under which labels are found.
const LABELS: [&str; 6] = ["label", "labels", "y", "target", "targets", "class"];

impl Samples {
    /// Reads a .npz keyed by input names, a .npy for a model with one input, or a folder of pictures.
    pub fn open(path: &Path, inputs: &[Bound]) -> Result<Self, Vec<Diagnostic>> {
        Self::open_with(path, inputs, &SampleOptions::default())
    }

    /// The same with renamed arrays, a part of the rows, transformed elements.
    pub fn open_with(path: &Path, inputs: &[Bound], options: &SampleOptions) -> Result<Self, Vec<Diagnostic>> {
        let file = path.display().to_string();
        if path.is_dir() {
            return Self::pictures(path, inputs, options).map_err(|d| vec![d]);
        }
        let mut found = arrays::read(path).map_err(|d| vec![d])?;
        let names: Vec<String> = found.keys().cloned().collect();
        let mut wrong = Vec::new();
        let mut chosen = Vec::new();
        for input in inputs {
            let name = options.rename.get(&input.name).map_or(input.name.as_str(), String::as_str);
            let array = match found.remove(name) {
                None if inputs.len() == 1 => found.remove(""),
                other => other,
            };
            match array {
                None => {
                    let message = format!("no array {name:?} for input {:?}; there are {}", input.name, list(&names));
                    wrong.push(Diagnostic::new(Code::SampleName, message).in_file(&file).help(format!(
                        "arrays are named like the inputs of the model; `--array {}=NAME` feeds it from another one",
                        input.name
                    )));
                }
                Some(array) => match fits(&array.dims, &input.dims, options.transform.layout).and_then(|()| takes(input, array.scalar)) {
                    Err(d) => wrong.push(d.in_file(&file).at(format!("array {name:?}"))),
                    Ok(()) => chosen.push((name.to_owned(), array)),
                },
            }
        }
        for name in options.rename.keys().filter(|n| !inputs.iter().any(|i| i.name == **n)) {
            wrong.push(Diagnostic::new(Code::SampleName, format!("the model has no input {name:?}")).in_file(&file));
        }
        let own = options.labels.as_deref();
        let is_label = |n: &str| LABELS.contains(&n) || own == Some(n);
        let unknown: Vec<&String> = found.keys().filter(|n| !is_label(n) && !n.starts_with("out:")).collect();
        if !unknown.is_empty() && wrong.is_empty() {
            let message = format!("no input takes {}", unknown.iter().map(|n| format!("array {n:?}")).collect::<Vec<_>>().join(", "));
            wrong.push(
                Diagnostic::new(Code::SampleName, message)
                    .in_file(&file)
                    .help("remove it from the file, or name the input it feeds with --array"),
            );
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let count = chosen.first().map_or(0, |(_, a)| a.dims[0]);
        if let Some((name, a)) = chosen.iter().find(|(_, a)| a.dims[0] != count) {
            let message = format!("{} samples, but {count} in array {:?}", a.dims[0], chosen[0].0);
            return Err(vec![Diagnostic::new(Code::SampleShape, message).in_file(&file).at(format!("array {name:?}"))]);
        }
        let rows = options.rows.clone().unwrap_or(0..count);
        if rows.end > count {
            return Err(vec![
                Diagnostic::new(Code::BadOption, format!("rows {}..{} of {count} samples", rows.start, rows.end)).in_file(&file),
            ]);
        }
        if rows.is_empty() {
            return Err(vec![Diagnostic::new(Code::NoSamples, "the file holds no samples").in_file(&file)]);
        }
        for ((name, array), input) in chosen.iter().zip(inputs) {
            if matches!(array.data, Data::Held(_)) {
                for row in rows.clone() {
                    let per = input.dims.iter().product();
                    let checked = array.row(row, per).and_then(|bytes| numbers(&bytes, array.scalar, input, row));
                    checked.map_err(|d| vec![d.in_file(&file).at(format!("array {name:?}"))])?;
                }
            }
        }
        let (mut labels, mut label_fault) = (None, None);
        if let Some(name) = own.filter(|n| !found.contains_key(*n)) {
            // Samples for calibration need no labels.
            let message = format!("no array {name:?} for the labels; there are {}", list(&names));
            label_fault = Some(Diagnostic::new(Code::SampleName, message).in_file(&file));
        } else if let Some((name, a)) = own.into_iter().chain(LABELS).find_map(|l| Some((l, found.get(l)?))) {
            let fault = |code, message: String| Some(Diagnostic::new(code, message).in_file(&file).at(format!("array {name:?}")));
            labels = (0..if a.len() == count { count } else { 0 }).map(|i| a.integer(i)).collect::<Option<Vec<i64>>>();
            // What a regression aims at is called a target, too.
            let other = own.is_none() && ["y", "target", "targets"].contains(&name) && a.scalar.is_float() && a.len() > count;
            if a.len() != count && !other {
                label_fault = fault(Code::SampleShape, format!("{} labels for {count} samples; one whole number each is needed", a.len()));
            } else if labels.is_none() && !other {
                label_fault = fault(Code::SampleType, format!("labels are whole numbers, not {}", a.scalar));
            }
            labels = labels.filter(|_| a.len() == count);
        }
        Ok(Self {
            file,
            inputs: inputs.to_vec(),
            source: Source::Arrays(chosen.into_iter().map(|(_, a)| a).collect()),
            labels,
            label_fault,
            named: own.is_some(),
            rows,
            transform: options.transform.clone(),
        })
    }

    fn pictures(path: &Path, inputs: &[Bound], options: &SampleOptions) -> Result<Self, Diagnostic> {
        let file = path.display().to_string();
        let folder = Folder::open(path, inputs, &options.images)?;
        let rows = options.rows.clone().unwrap_or(0..folder.len());
        if rows.end > folder.len() || rows.is_empty() {
            let message = format!("rows {}..{} of {} pictures", rows.start, rows.end, folder.len());
            return Err(Diagnostic::new(Code::BadOption, message).in_file(file));
        }
        let (labels, transform) = (folder.labels.clone(), Transform::default());
        Ok(Self {
            file,
            inputs: inputs.to_vec(),
            source: Source::Pictures(folder),
            labels,
            label_fault: None,
            named: false,
            rows,
            transform,
        })
    }

    /// `count` samples of noise, always the same: standard normal floats, any bytes, other whole numbers from 0 to 9.
    pub fn random(inputs: &[Bound], count: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut number = |s: Scalar| match s {
            // The sum of twelve uniform numbers is normal enough.
            _ if s.is_float() => Number::Real(((0..12).map(|_| uniform()).sum::<f32>() - 6.0).into()),
            Scalar::Bool => Number::Int((uniform() * 2.0) as i128),
            Scalar::U8 | Scalar::I8 => Number::Int((uniform() * 256.0) as i128),
            _ => Number::Int((uniform() * 10.0) as i128),
        };
        let arrays = inputs
            .iter()
            .map(|i| {
                let per: usize = i.dims.iter().product();
                let element = |_| number(i.scalar).bits(i.scalar).to_le_bytes().into_iter().take(i.scalar.bytes());
                let data = (0..count * per).flat_map(element).collect();
                let dims = [&[count][..], &i.dims].concat();
                Array { dims, scalar: i.scalar, data: Data::Held(data) }
            })
            .collect();
        Self {
            file: "random".into(),
            inputs: inputs.to_vec(),
            source: Source::Arrays(arrays),
            labels: None,
            label_fault: None,
            named: false,
            rows: 0..count,
            transform: Transform::default(),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Whether there is none; [`Self::open`] refuses such files.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// The file the samples came from.
    pub fn file(&self) -> &str {
        &self.file
    }
    /// The samples `range`, counted from the first of these.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let start = self.rows.start;
        let rows = start + range.start.min(self.len())..start + range.end.min(self.len());
        Self { rows, ..self.clone() }
    }
    /// One label per sample, if the file has an integer array `label`, `labels`, `y`, `target`, `targets` or `class`.
    pub fn labels(&self) -> Option<Vec<i64>> {
        self.labels.as_ref().map(|l| l[self.rows.clone()].to_vec())
    }

    /// Why labels cannot be counted although an array looks like them by its name.
    pub fn label_fault(&self) -> Option<&Diagnostic> {
        self.label_fault.as_ref()
    }
    /// Labels, for those who count right answers.
    ///
    /// # Errors
    /// The array that the user named holds none for every sample.
    pub fn whole_labels(&self) -> Result<Option<Vec<i64>>, Diagnostic> {
        self.label_fault.clone().filter(|_| self.named).map_or_else(|| Ok(self.labels()), Err)
    }

    /// The inputs of sample `i`, in the model's order.
    pub fn get(&self, i: usize) -> Result<Vec<Tensor>, Diagnostic> {
        if i >= self.len() {
            return Err(Diagnostic::bug(format!("sample {i} of {}", self.len())));
        }
        let row = self.rows.start + i;
        match &self.source {
            Source::Arrays(arrays) => self.inputs.iter().zip(arrays).map(|(input, array)| self.tensor(input, array, row)).collect(),
            Source::Pictures(folder) => Ok(vec![folder.get(row)?]),
        }
    }

    fn tensor(&self, input: &Bound, array: &Array, row: usize) -> Result<Tensor, Diagnostic> {
        let (per, t, to) = (input.dims.iter().product::<usize>(), &self.transform, input.scalar);
        let mut data = array.row(row, per)?.into_owned();
        if matches!(array.data, Data::Streamed(_)) {
            numbers(&data, array.scalar, input, row).map_err(|d| d.in_file(&self.file))?;
        }
        if to.is_float() && (t.subtract, t.multiply) != (0.0, 1.0) {
            let real = |b: &[u8]| (Number::read(array.scalar, b).real() as f32 - t.subtract) * t.multiply;
            let moved: Vec<u8> = data.chunks_exact(array.scalar.bytes()).flat_map(|b| real(b).to_le_bytes()).collect();
            data = cast(Scalar::F32, to, &moved);
        } else if array.scalar != to {
            data = cast(array.scalar, to, &data);
        }
        if t.layout == Some(Layout::ChannelsLast) && input.dims.len() > 2 {
            let (c, width) = (input.dims[1], to.bytes());
            let plane: usize = input.dims[2..].iter().product();
            let from = |i: usize| width * (i % plane * c + i / plane % c + i / (c * plane) * (c * plane));
            data = (0..per).flat_map(|i| data[from(i)..from(i) + width].iter().copied()).collect();
        }
        Tensor::new(TensorTy::new(input.dims.clone(), to), data).map_err(Diagnostic::bug)
    }
}

/// Whether rows of an array are inputs: `[n, rest..]` where `rest` equals the input's extents, except for axes of 1.
fn fits(array: &[usize], input: &[usize], layout: Option<Layout>) -> Result<(), Diagnostic> {
    let squeeze = |dims: &[usize]| dims.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    let mut wanted = input.to_vec();
    if layout == Some(Layout::ChannelsLast) && wanted.len() > 2 {
        let c = wanted.remove(1);
        wanted.push(c);
    }
    match array.split_first() {
        Some((_, rest)) if squeeze(rest) == squeeze(&wanted) => Ok(()),
        _ => {
            let shown = if input.first() == Some(&1) { &wanted[1..] } else { &wanted[..] };
            let rest = if shown.is_empty() { String::new() } else { format!("x{}", infer::show(shown)) };
            let message = format!("{} does not hold samples of {}; expected Nx.. as N{rest}", infer::show(array), infer::show(input));
            Err(Diagnostic::new(Code::SampleShape, message))
        }
    }
}

/// Whether an array of that type feeds an input: a float one takes every number, a bool one 0 and 1 as well, others
/// integers.
fn takes(input: &Bound, array: Scalar) -> Result<(), Diagnostic> {
    if input.scalar.is_float() || array == input.scalar || array.is_integer() {
        return Ok(());
    }
    let (name, to) = (&input.name, input.scalar);
    let numpy = if to == Scalar::Bool { "bool".into() } else { format!("{}int{}", if to.is_signed() { "" } else { "u" }, 8 * to.bytes()) };
    Err(Diagnostic::new(Code::SampleType, format!("holds {array}, and input {name:?} takes {to}"))
        .help(format!("if its numbers are what the model wants, save x.astype(numpy.{numpy})")))
}

/// Whether every number of a row is one that the input can hold.
fn numbers(bytes: &[u8], scalar: Scalar, input: &Bound, row: usize) -> Result<(), Diagnostic> {
    let to = input.scalar;
    let fits = |x: &Number| match (*x, to.range()) {
        (Number::Int(v), Some((lo, hi))) => (lo..=hi).contains(&v),
        (Number::Real(v), _) if to == Scalar::F64 => v.is_finite(),
        (Number::Real(v), _) if scalar == to || to != Scalar::F16 => (v as f32).is_finite(),
        (x, _) => Number::read(to, &x.bits(to).to_le_bytes()).real().is_finite(),
    };
    let mut all = bytes.chunks_exact(scalar.bytes()).map(|b| Number::read(scalar, b)).enumerate();
    let Some((at, x)) = all.find(|(_, x)| !fits(x)) else { return Ok(()) };
    let shown = match x {
        Number::Int(v) => v.to_string(),
        Number::Real(v) => v.to_string(),
    };
    let message = format!("sample {row} holds {shown} at element {at}, which input {:?} of type {to} cannot take", input.name);
    Err(Diagnostic::new(Code::SampleValue, message))
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        _ => names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "),
    }
}

/// The expected outputs of a fixture: array `out:NAME`, all samples after each other.
pub fn expected_outputs(path: &Path, output: &str) -> Option<Vec<f32>> {
    array(path, &format!("out:{output}"))
}

/// All numbers of an array, as f32; `None` when the file has no such array.
pub fn array(path: &Path, name: &str) -> Option<Vec<f32>> {
    let arrays = arrays::read(path).ok()?;
    let a = arrays.get(name)?;
    let bytes = cast(a.scalar, Scalar::F32, &a.row(0, a.len()).ok()?);
    Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A .npz of inputs or outputs of one type each: one array per name, axis 0 counting samples.
pub fn to_npz(samples: &[Vec<(String, Tensor)>]) -> Result<Vec<u8>, Diagnostic> {
    let mut arrays: Vec<arrays::Named> = Vec::new();
    for outputs in samples {
        for (i, (name, tensor)) in outputs.iter().enumerate() {
            if arrays.len() <= i {
                let scalar = tensor.ty.elem.scalar().ok_or_else(|| Diagnostic::bug("an output of no plain type"))?;
                let dims = if tensor.ty.dims.first() == Some(&1) { tensor.ty.dims[1..].to_vec() } else { tensor.ty.dims.clone() };
                arrays.push((name.clone(), [&[samples.len()][..], &dims].concat(), scalar, Vec::new()));
            }
            arrays[i].3.extend_from_slice(tensor.bytes());
        }
    }
    arrays::write(&arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(name: &str, arrays: &[(&str, &[usize], Vec<f32>)]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("quernel-samples-{}-{name}.npz", std::process::id()));
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect();
        let arrays: Vec<_> = arrays.iter().map(|(n, d, v)| ((*n).to_owned(), d.to_vec(), Scalar::F32, bytes(v))).collect();
        std::fs::write(&path, arrays::write(&arrays).expect("an archive")).expect("written");
        path
    }

    fn bound(name: &str, dims: &[usize]) -> Bound {
        Bound { name: name.into(), dims: dims.into(), scalar: Scalar::F32 }
    }

    #[test]
    fn inputs_have_types() {
        let path = std::env::temp_dir().join(format!("quernel-samples-{}-types.npz", std::process::id()));
        let ints = |scalar, all: [i64; 3]| Tensor::from_ints(TensorTy::new([1, 3], scalar), all);
        let sample = vec![
            ("id".to_owned(), ints(Scalar::I64, [1, -(1 << 60) - 1, 300])),
            ("small".to_owned(), ints(Scalar::I32, [1, 0, 1])),
            ("half".to_owned(), Tensor::new(TensorTy::new([1, 3], Scalar::F16), cast(Scalar::I8, Scalar::F16, &[1, 2, 3])).expect("fits")),
            ("mask".to_owned(), ints(Scalar::Bool, [1, 0, 1])),
        ];
        std::fs::write(&path, to_npz(std::slice::from_ref(&sample)).expect("an archive")).expect("written");
        let of = |scalars: [Scalar; 4]| {
            let one = |((name, _), scalar): (&(String, Tensor), Scalar)| Bound { scalar, ..bound(name, &[1, 3]) };
            let bounds: Vec<Bound> = sample.iter().zip(scalars).map(one).collect();
            Samples::open(&path, &bounds).map(|s| s.get(0).expect("a sample"))
        };
        let same = of([Scalar::I64, Scalar::I32, Scalar::F16, Scalar::Bool]).expect("its own types");
        assert!(same.iter().zip(&sample).all(|(a, (_, b))| a == b), "what was written comes back");
        let other = of([Scalar::F64, Scalar::U8, Scalar::F32, Scalar::Bool]).expect("types that hold the numbers");
        assert_eq!(other[0].ty.elem.scalar(), Some(Scalar::F64));
        assert_eq!(other[1].to_ints().expect("integers"), [1, 0, 1]);
        assert_eq!(other[2].to_f32().expect("f32"), [1.0, 2.0, 3.0]);
        let wrong = |scalars| of(scalars).expect_err("wrong").remove(0);
        let d = wrong([Scalar::U8, Scalar::I32, Scalar::F16, Scalar::Bool]);
        assert!(d.code == Code::SampleValue && d.to_string().contains("-1152921504606846977"), "{d}");
        let d = wrong([Scalar::I64, Scalar::Bool, Scalar::I16, Scalar::U8]);
        assert!(d.code == Code::SampleType && d.to_string().contains("f16") && d.to_string().contains("i16"), "{d}");
    }

    #[test]
    fn noise_has_the_type_of_the_input() {
        let inputs = [Scalar::I64, Scalar::U8, Scalar::Bool, Scalar::F16].map(|scalar| Bound { scalar, ..bound("x", &[1, 50]) });
        let all = Samples::random(&inputs, 1).get(0).expect("a sample");
        let most = |i: usize| *all[i].to_ints().expect("integers").iter().max().expect("elements");
        assert_eq!((most(0), most(2)), (9, 1));
        assert!(most(1) > 200 && all[3].ty == TensorTy::new([1, 50], Scalar::F16));
    }

    #[test]
    fn rows_become_tensors() {
        let path = saved("rows", &[("x", &[3, 2, 2], (0..12).map(|i| i as f32).collect())]);
        let s = Samples::open(&path, &[bound("x", &[1, 1, 2, 2])]).expect("fits");
        assert_eq!(s.len(), 3);
        assert_eq!(s.get(1).expect("a sample")[0].to_f32().expect("f32"), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(s.slice(2..9).len(), 1);
        let options = SampleOptions {
            transform: Transform { subtract: 1.0, multiply: 2.0, layout: None },
            rows: Some(1..2),
            ..SampleOptions::default()
        };
        let s = Samples::open_with(&path, &[bound("x", &[4])], &options);
        assert_eq!(s.expect_err("4 is not 2x2")[0].code, Code::SampleShape);
        let s = Samples::open_with(&path, &[bound("x", &[1, 2, 2])], &options).expect("fits");
        assert_eq!(s.get(0).expect("a sample")[0].to_f32().expect("f32"), [6.0, 8.0, 10.0, 12.0]);
    }

    #[test]
    fn channels_last_rows_are_transposed() {
        let path = saved("layout", &[("x", &[1, 2, 1, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
        let options = SampleOptions {
            transform: Transform { layout: Some(Layout::ChannelsLast), ..Transform::default() },
            ..SampleOptions::default()
        };
        let s = Samples::open_with(&path, &[bound("x", &[1, 3, 2, 1])], &options).expect("fits");
        assert_eq!(s.get(0).expect("a sample")[0].to_f32().expect("f32"), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let path = saved("wrong", &[("x", &[2, 2], vec![0.0, 1.0, f32::NAN, 0.0]), ("z", &[2, 1], vec![0.0; 2])]);
        let code = |inputs: &[Bound]| Samples::open(&path, inputs).expect_err("wrong")[0].clone();
        assert_eq!(code(&[bound("q", &[1, 2])]).code, Code::SampleName);
        assert_eq!(code(&[bound("x", &[1, 2])]).code, Code::SampleName);
        let nan = code(&[bound("x", &[1, 2]), bound("z", &[1, 1])]);
        assert!(nan.code == Code::SampleValue && nan.message.contains("sample 1"), "{nan}");
        assert_eq!(Samples::open("no-such.npz".as_ref(), &[]).expect_err("absent")[0].code, Code::SamplesUnreadable);
    }
}
