//! Finished layers on disk, so that an interrupted recovery goes on where it stopped.

use super::Outcome;
use crate::{Failure, artifacts};
use quernel_ir::{Code, Diagnostic, tensor::fnv1a};
use std::path::{Path, PathBuf};

/// What the results depend on: model, samples and options.
#[derive(Clone, Copy, Debug)]
pub struct Key(u64);

impl Key {
    /// The key of these parts.
    pub fn of(parts: &[&[u8]]) -> Self {
        let hashes: Vec<u8> = parts.iter().flat_map(|p| fnv1a(p).to_le_bytes()).collect();
        Self(fnv1a(&hashes))
    }
}

/// A folder of results, or none.
pub struct Store {
    folder: Option<PathBuf>,
    key: Key,
}

impl Store {
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(folder: Option<&Path>, key: Key) -> Result<Self, Failure> {
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|e| {
                Diagnostic::new(Code::OutputNotWritable, format!("cannot make the folder: {e}")).in_file(folder.display().to_string())
            })?;
        }
        Ok(Self { folder: folder.map(Path::to_path_buf), key })
    }

    fn path(&self, layer: usize) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{:016x}-{layer}.json", self.key.0)))
    }

    /// The result of a layer, if it is there and whole. Anything else is computed again.
    pub fn load(&self, layer: usize) -> Option<Outcome> {
        serde_json::from_slice(&std::fs::read(self.path(layer)?).ok()?).ok()
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, layer: usize, result: &Outcome) -> Result<(), Failure> {
        let Some(path) = self.path(layer) else { return Ok(()) };
        let text = serde_json::to_vec(result).map_err(|e| Diagnostic::bug(format!("a layer does not serialise: {e}")))?;
        artifacts::save(&[(&path, &text)])
    }
}
