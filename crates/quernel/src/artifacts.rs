//! Files: all of them appear, or none.

use crate::{Compiled, Failure, Report};
use quernel_ir::{Code, Diagnostic, text};
use std::{
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
};
use tempfile::NamedTempFile;

/// A kind of file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Emit {
    /// Relocatable object.
    Object,
    /// Static library that holds the object.
    Archive,
    /// C header.
    Header,
    /// Disassembly.
    Assembly,
    /// Cranelift IR.
    Clif,
    /// The graph as text.
    Qir,
    /// The program as text.
    Program,
    /// JSON report.
    Report,
}

impl Emit {
    /// Every kind, with its name on the command line and its suffix.
    pub const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Object, "obj", "o"),
        (Self::Archive, "lib", "a"),
        (Self::Header, "header", "h"),
        (Self::Assembly, "asm", "s"),
        (Self::Clif, "clif", "clif"),
        (Self::Qir, "qir", "qir"),
        (Self::Program, "program", "program"),
        (Self::Report, "report", "json"),
    ];
    /// What `compile` writes unless told otherwise: by the suffix of `out` an object or a static library, and what
    /// belongs beside it.
    pub fn default_for(out: &Path) -> [Self; 3] {
        [if is_library(out) { Self::Archive } else { Self::Object }, Self::Header, Self::Report]
    }

    fn suffix(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., suffix)| suffix)
    }
}

impl FromStr for Emit {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let known: Vec<&str> = Self::ALL.iter().map(|(_, name, _)| *name).collect();
        Self::ALL
            .iter()
            .find(|(_, name, _)| *name == s)
            .map(|(kind, ..)| *kind)
            .ok_or_else(|| format!("no output `{s}` (one of {})", known.join(", ")))
    }
}

/// A file that was made in memory.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What it is.
    pub kind: Emit,
    /// Where it belongs.
    pub path: PathBuf,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Whether a name is that of a static library.
fn is_library(out: &Path) -> bool {
    out.extension().is_some_and(|e| e.eq_ignore_ascii_case("a") || e.eq_ignore_ascii_case("lib"))
}

/// Where a file of `kind` goes when the main output is `out`: the object or library itself, the others beside it with
/// the same stem.
pub fn path(kind: Emit, out: &Path) -> PathBuf {
    let main = if is_library(out) { Emit::Archive } else { Emit::Object };
    if kind == main { out.to_path_buf() } else { out.with_extension(kind.suffix()) }
}

/// Makes the files in memory.
pub fn make(compiled: &Compiled, out: &Path, kinds: &[Emit]) -> Result<(Vec<Artifact>, Option<Report>), Failure> {
    let needs_object = kinds.iter().any(|k| matches!(k, Emit::Object | Emit::Archive | Emit::Header | Emit::Report));
    let options = compiled.codegen_options();
    let object = if needs_object { Some(quernel_codegen::object(compiled.program()?, &compiled.target, &options)?) } else { None };
    let report = object.as_ref().map(|object| Report::new(compiled, object)).transpose()?;
    let mut files = Vec::new();
    for &kind in kinds {
        let bytes = match (kind, &object, &report) {
            (Emit::Object, Some(object), _) => object.bytes.clone(),
            (Emit::Archive, Some(object), _) => quernel_codegen::archive(&object.bytes, &compiled.target, &compiled.name)?,
            (Emit::Header, Some(object), _) => {
                quernel_codegen::header(compiled.program()?, &compiled.target, &options, object).into_bytes()
            }
            (Emit::Report, _, Some(report)) => {
                let mut text =
                    serde_json::to_string_pretty(report).map_err(|e| Diagnostic::bug(format!("the report does not serialise: {e}")))?;
                text.push('\n');
                text.into_bytes()
            }
            (Emit::Assembly, ..) => quernel_codegen::assembly(compiled.program()?, &compiled.target, &options)?.into_bytes(),
            (Emit::Clif, ..) => quernel_codegen::clif(compiled.program()?, &compiled.target, &options)?.into_bytes(),
            (Emit::Qir, ..) => text::print_full(&compiled.graph).into_bytes(),
            (Emit::Program, ..) => compiled.program()?.to_string().into_bytes(),
            (Emit::Object | Emit::Archive | Emit::Header | Emit::Report, ..) => {
                return Err(Diagnostic::bug("the object was not made").into());
            }
        };
        files.push(Artifact { kind, path: path(kind, out), bytes });
    }
    Ok((files, report))
}

/// Makes and writes the files. Nothing is left behind when one of them cannot be written.
pub fn write(compiled: &Compiled, out: &Path, kinds: &[Emit]) -> Result<(Vec<Artifact>, Option<Report>), Failure> {
    let (files, report) = make(compiled, out, kinds)?;
    save(&files.iter().map(|f| (f.path.as_path(), f.bytes.as_slice())).collect::<Vec<_>>())?;
    Ok((files, report))
}

/// Refuses outputs that would take the place of what was read.
///
/// # Errors
/// An output that is one of the files read, by whatever name.
pub fn apart<'a>(outputs: impl IntoIterator<Item = &'a Path>, read: &[PathBuf]) -> Result<(), Failure> {
    let read: Vec<PathBuf> = read.iter().filter_map(|p| std::fs::canonicalize(p).ok()).collect();
    match outputs.into_iter().find(|o| std::fs::canonicalize(o).is_ok_and(|o| read.contains(&o))) {
        None => Ok(()),
        Some(output) => Err(fail(output, &"it is among the files that were read")),
    }
}

fn fail(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Diagnostic::new(Code::OutputNotWritable, format!("cannot write the file: {why}")).in_file(path.display().to_string()).into()
}

/// Whether a file can be where `path` says, as far as that can be told without writing it; the folder it goes to.
///
/// # Errors
/// A folder that is not there, and a path that names anything but a regular file.
pub fn possible(path: &Path) -> Result<&Path, Failure> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(fail(path, &"it is a folder")),
        Ok(found) if !found.is_file() => return Err(fail(path, &"it is not a regular file")),
        _ => {}
    }
    if !folder.is_dir() {
        return Err(fail(path, &format!("there is no folder `{}`", folder.display())));
    }
    Ok(folder)
}

/// Writes files through temporary ones beside them: first all contents, then all names. When a name cannot be given,
/// those given before are taken back, and what was there is there again. What a link points to is replaced, not the link.
///
/// # Errors
/// A path that is twice among them, or names anything but a regular file, and those of the system.
pub fn save(files: &[(&Path, &[u8])]) -> Result<(), Failure> {
    let mut ready: Vec<(PathBuf, NamedTempFile)> = Vec::new();
    for (path, bytes) in files {
        let folder = possible(path)?;
        let mut temporary = NamedTempFile::new_in(folder).map_err(|e| fail(path, &e.kind()))?;
        temporary.write_all(bytes).and_then(|()| temporary.flush()).map_err(|e| fail(path, &e.kind()))?;
        open_up(&temporary).map_err(|e| fail(path, &e.kind()))?;
        // A file that is not there yet has many names, too.
        let new = || Some(std::fs::canonicalize(folder).ok()?.join(path.file_name()?));
        let target = std::fs::canonicalize(path).ok().or_else(new).unwrap_or_else(|| path.to_path_buf());
        if ready.iter().any(|(other, _)| *other == target) {
            return Err(fail(path, &"two outputs have this name"));
        }
        ready.push((target, temporary));
    }
    let mut done: Vec<(PathBuf, Option<Vec<u8>>)> = Vec::new();
    for (path, temporary) in ready {
        let before = std::fs::read(&path).ok();
        if let Err(e) = temporary.persist(&path) {
            for (path, before) in done {
                // The first error is the one to report.
                let _ = before.map_or_else(|| std::fs::remove_file(&path), |bytes| std::fs::write(&path, bytes));
            }
            return Err(fail(&path, &e.error.kind()));
        }
        done.push((path, before));
    }
    Ok(())
}

/// Temporary files are private; outputs get the usual permissions.
#[cfg(unix)]
fn open_up(file: &NamedTempFile) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn open_up(_: &NamedTempFile) -> std::io::Result<()> {
    Ok(())
}
