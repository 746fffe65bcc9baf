//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use quernel::{Budget, Recovery, quant::Width};
use std::{
    ffi::OsString,
    ops::Range,
    path::{Path, PathBuf},
};

/// Compiles ONNX models to quantized native code.
#[derive(Parser, Debug)]
#[command(name = "quernel", version, about, max_term_width = 110)]
pub struct Args {
    /// How errors are written.
    #[arg(long, global = true, value_enum, default_value = "human", help_heading = "Global options")]
    pub error_format: ErrorFormat,
    /// Memory this process may use, in bytes or with K, M or G behind the number.
    #[arg(long, global = true, value_name = "BYTES", default_value = "16G", value_parser = size, help_heading = "Global options")]
    pub max_memory: usize,
    #[command(subcommand)]
    pub command: Command,
}

/// Text for people, or one JSON object per line for tools.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ErrorFormat {
    Human,
    Json,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a model to an object file, a C header and a report.
    Compile(Compile),
    /// Write the quantized network as an ONNX model that other runtimes read.
    Export(Export),
    /// Measure activation ranges on samples and write them as ranges.json.
    Calibrate(Calibrate),
    /// Show what a model, a ranges file or a text IR file holds.
    Inspect(Inspect),
    /// Run named passes over text IR: `.qir` in, `.qir` out.
    Opt(Opt),
    /// Compile a model in memory and run it on inputs.
    Run(Run),
    /// Compare the float network and the compiled code on labelled samples.
    Eval(Eval),
    /// Show where quantization loses: the quantized network against the float one, layer by layer.
    Compare(Compare),
    /// Show what every layer became: bits, kernel, size, work, and what its rounding costs.
    Report(Report),
    /// Time compiled code step by step on this machine.
    Bench(Bench),
    /// Check a compiled object anew, without trusting what wrote it.
    Verify(Verify),
    /// List targets and CPU names.
    Targets,
    /// Explain an error number.
    Explain {
        /// Such as QN0012; without one, all are listed.
        code: Option<String>,
    },
}

/// Options of `verify`.
#[derive(ClapArgs, Debug)]
pub struct Verify {
    /// Object file, or the static library that holds it.
    pub object: PathBuf,
    /// Its C header; by default the file beside it with the suffix `h`, when there is one.
    #[arg(long, value_name = "FILE")]
    pub header: Option<PathBuf>,
}

impl Command {
    /// The file it is mainly about.
    pub fn file(&self) -> Option<&Path> {
        Some(match self {
            Self::Compile(a) => &a.compiling.model,
            Self::Export(a) => &a.compiling.model,
            Self::Calibrate(a) => &a.model,
            Self::Inspect(a) => &a.file,
            Self::Opt(a) => &a.file,
            Self::Run(a) => &a.compiling.model,
            Self::Eval(a) => &a.compiling.model,
            Self::Compare(a) => &a.compiling.model,
            Self::Report(a) => &a.compiling.model,
            Self::Bench(a) => &a.compiling.model,
            Self::Verify(a) => &a.object,
            Self::Targets | Self::Explain { .. } => return None,
        })
    }
}

/// Where scales of activations come from, or how many bits they have with scales from samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ActivationsArg {
    /// Ranges observed on samples.
    Static,
    /// Each input at run time, without samples: a scale per row of a product, per tensor of a convolution.
    Dynamic,
    /// Each input at run time, without samples: a scale per tensor.
    DynamicTensor,
    /// None: activations stay f32, and only weights are quantized.
    Float,
    /// Ranges observed on samples, 16 bits.
    #[value(name = "16")]
    Sixteen,
    /// Ranges observed on samples, 4 bits.
    #[value(name = "4")]
    Four,
    /// Ranges observed on samples, 2 bits.
    #[value(name = "2")]
    Two,
    /// Ranges observed on samples, 1 bit.
    #[value(name = "1")]
    One,
}

/// Options of everything that compiles.
#[derive(ClapArgs, Debug)]
pub struct Compiling {
    /// ONNX file.
    pub model: PathBuf,
    /// Where activation ranges come from: samples (.npz, .npy, a folder of pictures), a ranges.json, `batch-norm` (the
    /// statistics inside the model), or `random` (only to try the speed); may be given several times.
    #[arg(long, value_name = "FILE")]
    pub calibrate: Vec<PathBuf>,
    /// Where scales of activations come from, or how many bits they have with scales from samples.
    #[arg(long, value_enum, default_value = "static")]
    pub activations: ActivationsArg,
    /// Weights under one scale with `--activations float`: 32, 64, 128; a whole output channel by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=65536))]
    pub group: Option<u32>,
    #[command(flatten)]
    pub samples: Sampling,
    /// How ranges are chosen from histograms: minmax, mean (of the samples' extremes), percentile, percentile=99.9,
    /// entropy, mse.
    #[arg(long, default_value = "mse", value_name = "NAME")]
    pub calibrator: quernel::quant::Method,
    /// Ranges reach equally far to both sides of zero.
    #[arg(long)]
    pub symmetric: bool,
    /// Weight width: 8 to 2, `float`, or a bits.toml with widths per layer.
    #[arg(long, default_value = "8", value_name = "WIDTH|FILE")]
    pub bits: String,
    /// What codes of few bits mean: linear, codebook, power-of-two, normal (with `--bits` 4 to 2), ternary, binary.
    #[arg(long, value_name = "NAME")]
    pub scheme: Option<String>,
    /// How weights and biases make up for rounding: `equalize` (factors move between the channels of neighbouring layers, so
    /// that one scale suits all; takes samples, not ranges), `bias` (biases absorb the mean error), `feedback` (weights are rounded
    /// one after another, each making up for those before), `refit` (scales to the codes), `descent` (single codes move
    /// while the error falls), `blocks` (layers are tuned together by gradients, the float network as the teacher; takes
    /// minutes), `all` (8-bit weights take part), or `none`.
    #[arg(long, value_name = "PART,..", default_value = "bias,feedback,refit,descent")]
    pub recover: Recovery,
    /// Folder that remembers finished layers of a long recovery: run again, it goes on where it stopped.
    #[arg(long, value_name = "FOLDER")]
    pub resume: Option<PathBuf>,
    /// Limits within which the width of every layer is chosen: `size` (bytes of the weights in the object, or a percentage of
    /// what they take at 8 bits), `latency` (on this machine), `arena`, `drop` (points of accuracy; without labels, percent of
    /// answers).
    #[arg(long, value_name = "size=..,latency=..,arena=..,drop=..", conflicts_with_all = ["bits", "scheme"])]
    pub budget: Option<Budget>,
    /// What callers hand over and get: floats, or integers whose scales and zero points are in the header.
    #[arg(long, value_enum, default_value = "float")]
    pub io: IoArg,
    /// Target triple; this machine's by default.
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<String>,
    /// CPU name (`quernel targets` lists them), or `native`.
    #[arg(long, value_name = "CPU")]
    pub target_cpu: Option<String>,
    /// Kernel level: use less of the CPU than it has.
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// Prefix of every symbol; made from the file name by default.
    #[arg(long, value_name = "SYMBOL")]
    pub name: Option<String>,
    /// What the model may ask for (docs/limits.md lists the names); may be given several times.
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = limit)]
    pub limits: Vec<(String, usize)>,
    /// Extent of a symbolic dimension.
    #[arg(long = "dim", value_name = "NAME=EXTENT", value_parser = dimension)]
    pub dims: Vec<(String, usize)>,
    /// Make an input a constant: one number for all its elements, or one for each.
    #[arg(long = "pin", value_name = "INPUT=NUMBERS", value_parser = pinned)]
    pub pins: Vec<(String, Vec<f64>)>,
}

/// How arrays of a sample file become inputs.
#[derive(ClapArgs, Debug, Clone, Default)]
pub struct Sampling {
    /// Which rows of the sample arrays to use, `FIRST..END`.
    #[arg(long, value_name = "A..B", value_parser = rows)]
    pub rows: Option<Range<usize>>,
    /// Array that feeds an input, when its name differs.
    #[arg(long = "array", value_name = "INPUT=ARRAY", value_parser = renaming)]
    pub arrays: Vec<(String, String)>,
    /// Array that holds the labels, when it is not called `label`, `labels`, `y`, `target`, `targets` or `class`.
    #[arg(long, value_name = "ARRAY")]
    pub labels: Option<String>,
    /// Subtracted from every element.
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true)]
    pub subtract: f32,
    /// Every element is multiplied by this, after subtracting.
    #[arg(long, value_name = "X", default_value = "1", allow_negative_numbers = true)]
    pub multiply: f32,
    /// The sample arrays are channels-last and the input is channels-first.
    #[arg(long)]
    pub channels_last: bool,
    /// Pictures: mean per channel, of values from 0 to 1.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', num_args = 1, default_value = "0", allow_negative_numbers = true)]
    pub mean: Vec<f32>,
    /// Pictures: deviation per channel, of values from 0 to 1.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', num_args = 1, default_value = "1")]
    pub std: Vec<f32>,
    /// Pictures: channels are blue, green, red.
    #[arg(long)]
    pub bgr: bool,
    /// Pictures: change proportions instead of cutting the middle out.
    #[arg(long)]
    pub stretch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum IoArg {
    /// f32 in, f32 out.
    Float,
    /// Bytes in, bytes out.
    Int8,
}

#[derive(ClapArgs, Debug)]
pub struct Compile {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Object file, or static library when the name ends in `.a` or `.lib`; header and report are written beside it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which files to write: obj, lib, header, asm, clif, qir, program, report.
    #[arg(long, value_name = "KIND,..", value_delimiter = ',')]
    pub emit: Vec<quernel::Emit>,
    /// Also write which files were read, as a rule for make and ninja.
    #[arg(long, value_name = "FILE")]
    pub depfile: Option<PathBuf>,
    /// Stop after a stage (imported, folded, quantized) and print the graph; with `-o`, write it with all of its data, as `quernel
    /// opt` reads it.
    #[arg(long, value_name = "STAGE")]
    pub stop_after: Option<String>,
    /// Print the graph after a pass.
    #[arg(long, value_name = "PASS")]
    pub print_after: Vec<String>,
    /// Print how long each pass took.
    #[arg(long)]
    pub timings: bool,
    /// Show every remark instead of counting them.
    #[arg(long)]
    pub remarks: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Export {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Write float weights and their rounding instead of integers: where quantization-aware training starts.
    #[arg(long)]
    pub fake_quant: bool,
    /// ONNX file; `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(ClapArgs, Debug)]
pub struct Calibrate {
    /// ONNX file.
    pub model: PathBuf,
    /// Samples (.npz, .npy); with --merge, ranges files.
    #[arg(required = true)]
    pub samples: Vec<PathBuf>,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Use every n-th part of the samples only: `0/4` is the first of four.
    #[arg(long, value_name = "I/N", value_parser = shard, conflicts_with = "merge")]
    pub shard: Option<(usize, usize)>,
    /// Add up ranges files that were made from parts of the samples.
    #[arg(long)]
    pub merge: bool,
    /// Extent of a symbolic dimension.
    #[arg(long = "dim", value_name = "NAME=EXTENT", value_parser = dimension)]
    pub dims: Vec<(String, usize)>,
    /// Make an input a constant: one number for all its elements, or one for each.
    #[arg(long = "pin", value_name = "INPUT=NUMBERS", value_parser = pinned)]
    pub pins: Vec<(String, Vec<f64>)>,
    /// Ranges file; `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(ClapArgs, Debug)]
pub struct Inspect {
    /// ONNX model, ranges.json, or .qir.
    pub file: PathBuf,
    /// Extent of a symbolic dimension.
    #[arg(long = "dim", value_name = "NAME=EXTENT", value_parser = dimension)]
    pub dims: Vec<(String, usize)>,
    /// Make an input a constant: one number for all its elements, or one for each.
    #[arg(long = "pin", value_name = "INPUT=NUMBERS", value_parser = pinned)]
    pub pins: Vec<(String, Vec<f64>)>,
    /// Print the imported graph as text IR.
    #[arg(long)]
    pub qir: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Opt {
    /// Text IR with all of its data; `-` for standard input.
    pub file: PathBuf,
    /// Write the graph with all of its data; it is printed for reading otherwise.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Passes in order; without any, the file is checked and printed.
    #[arg(long, value_name = "PASS,..", value_delimiter = ',')]
    pub passes: Vec<String>,
    /// Ranges for the passes that need them.
    #[arg(long, value_name = "FILE")]
    pub ranges: Option<PathBuf>,
    /// List the passes.
    #[arg(long)]
    pub list: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Run {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Inputs (.npz, .npy), axis 0 counting samples.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where outputs go, as .npz; without it the first output of every sample is printed.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Run the reference interpreter instead of compiled code.
    #[arg(long)]
    pub interpret: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Eval {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Samples to measure on, with labels.
    #[arg(long, value_name = "FILE")]
    pub test: PathBuf,
    /// Which rows of the test arrays to use, `FIRST..END`.
    #[arg(long, value_name = "A..B", value_parser = rows)]
    pub test_rows: Option<Range<usize>>,
    /// Also compare compiled code with the interpreter, byte for byte, on the first N samples.
    #[arg(long, value_name = "N", default_value = "0")]
    pub check: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Compare {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Samples on which both networks run, in the reference interpreter.
    #[arg(long, value_name = "FILE")]
    pub test: PathBuf,
    /// How many of them.
    #[arg(long, value_name = "N", default_value = "4")]
    pub samples: usize,
    /// Leave out the column `alone`, for which the float network runs once per layer.
    #[arg(long)]
    pub quick: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Report {
    #[command(flatten)]
    pub compiling: Compiling,
    /// Samples on which the quantized network is compared with the float network, layer by layer.
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// How many of them; the reference interpreter runs both networks.
    #[arg(long, value_name = "N", default_value = "4")]
    pub samples: usize,
    /// Compile with each of these widths and show accuracy, size and time of each; those that no other beats are marked.
    #[arg(long, value_name = "BITS,..", value_delimiter = ',', num_args = 0.., require_equals = true, requires = "test",
          default_missing_value = "float,8,6,5,4,3,2")]
    pub pareto: Option<Vec<Width>>,
    /// Also write the report as a page of HTML that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Rows of the test arrays to measure accuracy on, with --pareto.
    #[arg(long, value_name = "A..B", value_parser = rows, requires = "pareto")]
    pub test_rows: Option<Range<usize>>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Bench {
    #[command(flatten)]
    pub compiling: Compiling,
    /// How long to measure, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "2000", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub milliseconds: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `quernel model.onnx ..` means `quernel compile model.onnx ..`.
pub fn with_default_command(mut line: Vec<OsString>) -> Vec<OsString> {
    if line.get(1).is_some_and(|first| PathBuf::from(first).extension().is_some_and(|e| e == "onnx")) {
        line.insert(1, "compile".into());
    }
    line
}

fn pair<'a>(text: &'a str, what: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once('=').filter(|(a, b)| !a.is_empty() && !b.is_empty()).ok_or_else(|| format!("expected {what}"))
}

fn limit(text: &str) -> Result<(String, usize), String> {
    let (name, number) = pair(text, "NAME=NUMBER")?;
    quernel::onnx::Limits::default().set(name, 0)?;
    Ok((name.into(), size(number)?))
}

fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("{text:?} is not a size such as 512M")),
    };
    let size = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|n| *n > 0);
    size.ok_or_else(|| format!("{text:?} is not a size such as 512M"))
}

fn dimension(text: &str) -> Result<(String, usize), String> {
    let (name, extent) = pair(text, "NAME=EXTENT")?;
    let extent = extent.parse().ok().filter(|e| *e > 0).ok_or_else(|| format!("{extent:?} is not a positive number"))?;
    Ok((name.into(), extent))
}

fn pinned(text: &str) -> Result<(String, Vec<f64>), String> {
    let (name, numbers) = pair(text, "INPUT=NUMBERS")?;
    let number = |x: &str| x.trim().parse().map_err(|_| format!("{x:?} is not a number"));
    Ok((name.into(), numbers.split(',').map(number).collect::<Result<_, _>>()?))
}

fn renaming(text: &str) -> Result<(String, String), String> {
    pair(text, "INPUT=ARRAY").map(|(a, b)| (a.into(), b.into()))
}

fn rows(text: &str) -> Result<Range<usize>, String> {
    let bad = || format!("{text:?} is not a range such as 0..256");
    let (a, b) = text.split_once("..").ok_or_else(bad)?;
    let (a, b) = (a.parse().map_err(|_| bad())?, b.parse().map_err(|_| bad())?);
    if a < b { Ok(a..b) } else { Err(bad()) }
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let bad = || format!("{text:?} is not a part such as 0/4");
    let (i, n) = text.split_once('/').ok_or_else(bad)?;
    let (i, n) = (i.parse().map_err(|_| bad())?, n.parse().map_err(|_| bad())?);
    if i < n { Ok((i, n)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!((size("7"), size("512M"), size("2G")), (Ok(7), Ok(512 << 20), Ok(2 << 30)));
        for bad in ["", "M", "0", "1T", "-1", "1MM", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_model_alone_means_compile() {
        let line = |words: &[&str]| with_default_command(words.iter().map(OsString::from).collect());
        assert_eq!(line(&["quernel", "m.onnx", "-o", "m.o"]), line(&["quernel", "compile", "m.onnx", "-o", "m.o"]));
        assert_eq!(line(&["quernel", "inspect", "m.onnx"])[1], "inspect");
    }
}
