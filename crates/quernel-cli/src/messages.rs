//! Messages on standard error: diagnostics, remarks, progress.

use crate::args::ErrorFormat;
use indicatif::{ProgressBar, ProgressStyle};
use quernel::{
    Failure, Progress,
    ir::{Class, Code, Diagnostic, diag::Remark},
};
use std::{cell::RefCell, io::Write, path::Path, process::ExitCode};

/// Where messages go.
pub struct Messages {
    format: ErrorFormat,
    bar: RefCell<Option<ProgressBar>>,
}

impl Messages {
    pub fn new(format: ErrorFormat) -> Self {
        Self { format, bar: RefCell::new(None) }
    }

    /// Writes all diagnostics and returns the exit status they mean.
    pub fn failure(&self, failure: &Failure) -> ExitCode {
        self.end_progress();
        for d in &failure.0 {
            match self.format {
                ErrorFormat::Human => said(&painted(d)),
                ErrorFormat::Json => said(&json(d)),
            }
        }
        if self.format == ErrorFormat::Human {
            let first = failure.0.first().map(|d| d.code);
            let count = match failure.0.len() {
                1 => "1 error".to_owned(),
                n => format!("{n} errors"),
            };
            if let Some(code) = first {
                said(&format!("{count}; `quernel explain {code}` says more"));
            }
        }
        let bug = failure.0.iter().any(|d| d.code.class() == Class::Bug);
        ExitCode::from(if bug { 101 } else { 1 })
    }

    /// What is said when a file needs more memory than there is, or than it may have.
    pub fn out_of_memory(&self, file: Option<&Path>, most: usize) -> String {
        let d = Diagnostic::new(Code::LimitExceeded, format!("needs more memory than there is, or than the limit of {most} bytes"))
            .in_file(file.map_or_else(|| "this process".into(), |f| f.display().to_string()))
            .help("`--max-memory` sets the limit");
        match self.format {
            ErrorFormat::Human => d.to_string(),
            ErrorFormat::Json => json(&d),
        }
    }

    /// Writes remarks, or how many there are. Those of calibration and of options are always shown: they say what the ranges
    /// are worth, and what was asked for in vain.
    pub fn remarks(&self, remarks: &[Remark], all: bool) {
        self.end_progress();
        let mut hidden = 0;
        for r in remarks {
            if all || matches!(r.by.as_str(), "calibrate" | "options") {
                said(&r.to_string());
            } else {
                hidden += 1;
            }
        }
        if hidden > 0 {
            said(&format!(
                "{hidden} {} in the report; `quernel compile --remarks` shows {}",
                if hidden == 1 { "remark" } else { "remarks" },
                if hidden == 1 { "it" } else { "them" }
            ));
        }
    }

    /// One line that is not data.
    pub fn note(&self, text: &str) {
        self.end_progress();
        said(text);
    }

    /// Moves the progress bar. Nothing is drawn when standard error is not a terminal.
    pub fn progress(&self, p: Progress) {
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(p.of as u64).with_style(style)
        });
        bar.set_length(p.of as u64);
        bar.set_message(p.what);
        bar.set_position(p.done as u64);
    }

    fn end_progress(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.end_progress();
    }
}

/// `error[..]` in red and bold; anstream removes the colours where they do not belong.
fn painted(d: &Diagnostic) -> String {
    let text = d.to_string();
    match text.split_once(": ") {
        Some((head, rest)) => format!("\x1b[1;31m{head}\x1b[0m: {rest}"),
        None => text,
    }
}

fn json(d: &Diagnostic) -> String {
    quernel::diagnostic_json(d)
}

/// A line on standard error. Where nobody reads it, it is lost, and nothing else.
fn said(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}
