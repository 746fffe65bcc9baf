//! A model file that was read and imported.

use crate::Failure;
use quernel_ir::{Code, Diagnostic, Scalar, tensor::fnv1a};
use quernel_onnx::{Imported, Limits};
use quernel_quant::Bound;
use std::{collections::BTreeMap, io::Read, path::Path};

/// How a file is read.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Extents of symbolic dimensions.
    pub dims: BTreeMap<String, usize>,
    /// Inputs that become constants: one number for all elements, or one for each.
    pub pins: BTreeMap<String, Vec<f64>>,
    /// Prefix of every symbol; by default made from the file name.
    pub name: Option<String>,
    /// What the file may ask for.
    pub limits: Limits,
}

/// An imported model and the bytes it came from (the float engine and the hash need them).
#[derive(Debug)]
pub struct Model {
    /// Prefix of every symbol of the object.
    pub name: String,
    /// The file as the user named it.
    pub file: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Extents of symbolic dimensions.
    pub dims: BTreeMap<String, usize>,
    /// Inputs that became constants.
    pub pins: BTreeMap<String, Vec<f64>>,
    /// The graph and what the importer remarked.
    pub imported: Imported,
}

/// Larger files are refused before they are read.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Reads a file a user named. Only regular files: a pipe or a device could block or never end.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = path.display().to_string();
    let fail = |message: String| Failure::from(Diagnostic::new(Code::FileNotFound, message).in_file(&file));
    let metadata = std::fs::metadata(path).map_err(|e| fail(format!("cannot read the file: {e}")))?;
    if !metadata.is_file() {
        return Err(fail("is not a regular file".into()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Diagnostic::new(Code::LimitExceeded, format!("the file has {} bytes; the limit is {MAX_FILE_BYTES}", metadata.len()))
            .in_file(file)
            .into());
    }
    std::fs::read(path).map_err(|e| fail(format!("cannot read the file: {e}")))
}

/// Reads a text file a user named; `-` is standard input.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let file = path.display().to_string();
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| Diagnostic::new(Code::FileNotFound, format!("cannot read standard input: {e}")))?;
        bytes
    } else {
        read_file(path)?
    };
    String::from_utf8(bytes).map_err(|_| Diagnostic::new(Code::FileNotFound, "the file is not UTF-8 text").in_file(file).into())
}

impl Model {
    /// Reads and imports a file.
    pub fn read(path: &Path, options: &ModelOptions) -> Result<Self, Failure> {
        let bytes = read_file(path)?;
        let file = path.display().to_string();
        let name = match &options.name {
            Some(name) => name.clone(),
            None => symbol_name(&path.file_stem().unwrap_or_default().to_string_lossy()),
        };
        let folder = path.parent().map(Path::to_path_buf);
        Self::import(bytes, file, name, options, folder)
    }

    /// Imports bytes that are already in memory. `file` names them in diagnostics. External data is refused.
    pub fn from_bytes(bytes: Vec<u8>, file: &str, options: &ModelOptions) -> Result<Self, Failure> {
        let name = options.name.clone().unwrap_or_else(|| symbol_name(file));
        Self::import(bytes, file.into(), name, options, None)
    }

    fn import(
        bytes: Vec<u8>,
        file: String,
        name: String,
        options: &ModelOptions,
        folder: Option<std::path::PathBuf>,
    ) -> Result<Self, Failure> {
        if symbol_name(&name) != name {
            return Err(Diagnostic::new(Code::BadOption, format!("{name:?} cannot prefix C symbols"))
                .help("a name holds letters, digits and underscores, and starts with a letter")
                .into());
        }
        let import = quernel_onnx::Options {
            dims: options.dims.clone(),
            pins: options.pins.clone(),
            name: Some(name.clone()),
            external: folder,
            limits: options.limits.clone(),
        };
        let imported = quernel_onnx::import(&bytes, &import).map_err(|all| Failure(all).in_file(&file))?;
        Ok(Self { name, file, bytes, dims: options.dims.clone(), pins: options.pins.clone(), imported })
    }

    /// Hash of the file, kept in ranges files so that they are not used with another model.
    pub fn hash(&self) -> u64 {
        fnv1a(&self.bytes)
    }

    /// Names, dimensions and types of the inputs.
    pub fn inputs(&self) -> Vec<Bound> {
        let g = &self.imported.graph;
        let bound = |&v: &quernel_ir::Value| {
            let ty = g.ty(v);
            // Quantized integers are made of real numbers.
            Bound { name: g.values[v].name.clone(), dims: ty.dims.clone(), scalar: ty.elem.scalar().unwrap_or(Scalar::F32) }
        };
        g.inputs.iter().map(bound).collect()
    }
}

/// A C identifier from any text: other characters become underscores; never empty, never starts with a digit.
pub fn symbol_name(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).take(200).collect();
    match name.chars().next() {
        Some(c) if c.is_ascii_alphabetic() => name,
        _ => format!("m{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::symbol_name;

    #[test]
    fn symbol_names_are_identifiers() {
        for (text, name) in
            [("digits", "digits"), ("ResNet-50.v1", "ResNet_50_v1"), ("8bit", "m8bit"), ("", "m"), ("_x", "m_x"), ("é", "m_")]
        {
            assert_eq!(symbol_name(text), name);
        }
    }
}
