//! What a user writes for ranges and widths, as values; and which files a compilation reads.

use crate::{Calibration, Failure, Model, read_text};
use quernel_ir::{Code, Diagnostic};
use quernel_quant::{Bits, SampleOptions};
use std::path::{Path, PathBuf};

/// Inputs of noise that `random` stands for.
const RANDOM_SAMPLES: usize = 16;

/// A width, or the path of a bits.toml.
pub fn parse_bits(text: &str) -> Result<Bits, Failure> {
    if let Ok(width) = text.parse() {
        return Ok(Bits::uniform(width));
    }
    let path = Path::new(text);
    if path.extension().is_none_or(|e| e != "toml") {
        return Err(Diagnostic::new(Code::BadOption, format!("{text:?} is not a bit width"))
            .help("8, 7, 6, 5, 4, 3, 2, float, or the path of a bits.toml")
            .into());
    }
    Bits::from_toml(&read_text(path)?).map_err(|d| d.in_file(text).into())
}

/// The same with a scheme for the layers that the file does not list.
pub fn parse_bits_and_scheme(text: &str, scheme: Option<&str>) -> Result<Bits, Failure> {
    let bits = parse_bits(text)?;
    match scheme {
        None => Ok(bits),
        Some(scheme) => bits.with_scheme(scheme).map_err(|e| {
            Diagnostic::new(Code::BadOption, e)
                .help("`--bits 4 --scheme codebook`, for example; `ternary` and `binary` need no width")
                .into()
        }),
    }
}

/// Where ranges come from: sample files, ranges files, `batch-norm` or `random`; several are added up.
pub fn parse_calibration(sources: &[PathBuf], options: &SampleOptions) -> Calibration {
    let one = |path: &PathBuf| match Calibration::samples(path) {
        _ if path.as_os_str() == "batch-norm" => Calibration::BatchNorm,
        _ if path.as_os_str() == "random" => Calibration::Random(RANDOM_SAMPLES),
        Calibration::Samples(path, _) => Calibration::Samples(path, options.clone()),
        other => other,
    };
    match sources {
        [] => Calibration::None,
        [path] => one(path),
        several => Calibration::Several(several.iter().map(one).collect()),
    }
}

impl Model {
    /// Every file the model was read from: itself first, then those that hold its tensors.
    pub fn files(&self) -> Vec<PathBuf> {
        let file = PathBuf::from(&self.file);
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        std::iter::once(file).chain(self.imported.external.iter().map(|name| folder.join(name))).collect()
    }
}

impl Calibration {
    /// Every file that is read for ranges; for a folder of pictures the folder and the files in it, in order of name.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::None | Self::Given { .. } | Self::BatchNorm | Self::Random(_) => Vec::new(),
            Self::Ranges(path) => vec![path.clone()],
            Self::Several(all) => all.iter().flat_map(Self::files).collect(),
            Self::Samples(path, _) => {
                let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
                let mut inside: Vec<PathBuf> = entries.filter(|p| p.is_file()).collect();
                inside.sort();
                std::iter::once(path.clone()).chain(inside).collect()
            }
        }
    }
}
