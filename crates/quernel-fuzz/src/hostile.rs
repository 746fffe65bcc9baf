//! Files that owe an error, and legal ones that look as if they did.
//!
//! Every [`Case`] is a model of a kind that has broken compilers: sizes that overflow or are far larger than the file,
//! depth, repetition, fields that contradict each other, data outside the folder, names that end a comment. `cargo xtask
//! hostile` compiles each in a process of its own; `cargo test` compiles them in one.

mod attributes;
mod bombs;
mod bytes;
mod external;
mod graphs;
mod tensors;
mod write;

use quernel::onnx::proto::{self, ModelProto};
use std::{io, path::Path};

/// What is owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// A diagnostic.
    Error,
    /// A diagnostic, or code that stays in its memory.
    Either,
    /// Code.
    Ok,
}

impl Expect {
    /// The word in `expect.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Either => "either",
            Self::Ok => "ok",
        }
    }
}

/// A file beside a model.
#[derive(Clone, Debug)]
pub enum Beside {
    /// A file with these bytes.
    File(&'static str, Vec<u8>),
    /// A symbolic link to a path.
    Link(&'static str, &'static str),
    /// A named pipe.
    Pipe(&'static str),
    /// A folder.
    Folder(&'static str),
}

/// A model, and the answer it owes.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique; the category before the first dash.
    pub name: String,
    /// What is owed.
    pub expect: Expect,
    /// The file.
    pub bytes: Vec<u8>,
    /// What lies beside it.
    pub beside: Vec<Beside>,
}

/// Collects cases of one category.
struct Cases {
    category: &'static str,
    all: Vec<Case>,
}

impl Cases {
    fn add(&mut self, expect: Expect, name: impl AsRef<str>, model: ModelProto) {
        self.bytes(expect, name, proto::encode(&model));
    }
    fn bytes(&mut self, expect: Expect, name: impl AsRef<str>, bytes: Vec<u8>) {
        self.all.push(Case { name: format!("{}-{}", self.category, name.as_ref()), expect, bytes, beside: Vec::new() });
    }
    fn beside(&mut self, expect: Expect, name: impl AsRef<str>, model: ModelProto, beside: Vec<Beside>) {
        self.add(expect, name, model);
        if let Some(case) = self.all.last_mut() {
            case.beside = beside;
        }
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    type Category = (&'static str, fn(&mut Cases));
    let categories: &[Category] = &[
        ("attr", attributes::add),
        ("bomb", bombs::add),
        ("proto", bytes::add),
        ("ext", external::add),
        ("graph", graphs::add),
        ("init", tensors::add),
    ];
    let mut cases = Cases { category: "", all: Vec::new() };
    for (category, add) in categories {
        cases.category = category;
        add(&mut cases);
    }
    cases.all
}

/// What the file outside of every model's folder holds, four times.
pub const OUTSIDE: f32 = 31337.25;

/// Writes the cases below a folder, with an `expect.json`.
pub fn write(folder: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("outside.bin"), OUTSIDE.to_le_bytes().repeat(4))?;
    let all = cases();
    let mut lines = Vec::new();
    for case in &all {
        let home = folder.join(&case.name);
        std::fs::create_dir_all(&home)?;
        std::fs::write(home.join("model.onnx"), &case.bytes)?;
        for beside in &case.beside {
            match beside {
                Beside::File(name, bytes) => std::fs::write(home.join(name), bytes)?,
                Beside::Folder(name) => std::fs::create_dir_all(home.join(name))?,
                Beside::Link(name, to) => link(to, &home.join(name))?,
                Beside::Pipe(name) => pipe(&home.join(name))?,
            }
        }
        let (name, class) = (&case.name, case.expect.name());
        lines.push(format!("  \"{name}\": {{\"path\": \"{name}/model.onnx\", \"class\": \"{class}\", \"why\": \"its own\"}}"));
    }
    std::fs::write(folder.join("expect.json"), format!("{{\n{}\n}}\n", lines.join(",\n")))?;
    Ok(all.len())
}

#[cfg(unix)]
fn link(to: &str, at: &Path) -> io::Result<()> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> io::Result<()> {
    Ok(())
}

fn pipe(at: &Path) -> io::Result<()> {
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    match std::process::Command::new("mkfifo").arg(at).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(io::Error::other(format!("mkfifo: {other:?}"))),
    }
}
