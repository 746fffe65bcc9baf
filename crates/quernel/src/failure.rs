//! What a failed call returns: every diagnostic found, at least one.

use quernel_ir::Diagnostic;
use std::fmt;

/// All diagnostics of a failed call.
#[derive(Clone, Debug)]
pub struct Failure(pub Vec<Diagnostic>);

impl Failure {
    /// Names the file in every diagnostic that does not name one yet.
    #[must_use]
    pub fn in_file(self, file: &str) -> Self {
        Self(self.0.into_iter().map(|d| d.in_file(file)).collect())
    }
}

impl From<Diagnostic> for Failure {
    fn from(d: Diagnostic) -> Self {
        Self(vec![d])
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(all: Vec<Diagnostic>) -> Self {
        Self(all)
    }
}

/// A diagnostic as one line of JSON.
pub fn diagnostic_json(d: &Diagnostic) -> String {
    serde_json::json!({
        "code": d.code.to_string(),
        "class": d.code.class().name(),
        "title": d.code.title(),
        "message": d.message,
        "file": d.location.file,
        "place": d.location.place,
        "help": d.help,
    })
    .to_string()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{d}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
