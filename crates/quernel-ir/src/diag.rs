//! Diagnostics: numbered, located, all at once.
//!
//! Three classes never mix: an error of the user's files or options, a limit of this compiler, a bug in it.

use crate::tensor::fnv1a;
use std::fmt;

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The file, the samples or the options are wrong.
    User,
    /// The model is fine, this version of Quernel cannot compile it.
    Unsupported,
    /// A documented limit (see `quernel_ir::diag`'s codes) was exceeded.
    Limit,
    /// Quernel is wrong.
    Bug,
}

impl Class {
    /// One lowercase word.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Unsupported => "unsupported",
            Self::Limit => "limit",
            Self::Bug => "bug",
        }
    }
}

macro_rules! codes {
    ($($number:literal $variant:ident $class:ident $title:literal $explain:literal;)*) => {
        /// Every kind of diagnostic. Numbers are stable.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }
        impl Code {
            /// All codes in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The number in `QN0012`.
            pub fn number(self) -> u16 { match self { $(Self::$variant => $number),* } }
            /// Whose turn it is.
            pub fn class(self) -> Class { match self { $(Self::$variant => Class::$class),* } }
            /// One line.
            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title),* } }
            /// The page that `quernel explain` prints.
            pub fn explanation(self) -> &'static str { match self { $(Self::$variant => $explain),* } }
        }
    };
}

codes! {
    1 NotOnnx User "the file is not an ONNX model"
        "The bytes do not decode as an ONNX ModelProto, or the message holds no graph.\nCheck that the path is right, that the download is complete (a Git LFS pointer is a small text file), and that `onnx.checker.check_model` accepts the file.";
    2 UnsupportedOperator Unsupported "an operator is not supported"
        "The graph holds operators, or forms of them, that this version cannot compile. All of them are listed at once.\n`docs/supported-ops.md` lists what is supported. Operators that only run in training, on strings or on sequences are out of scope.";
    3 MissingValue User "a tensor is used but never defined"
        "A node reads a tensor that is neither a graph input, nor an initializer, nor the output of an earlier node.\nThe file is damaged, or external data or an initializer was stripped.";
    4 Cycle User "the graph has a cycle or is not in order"
        "ONNX requires nodes in topological order. A node here depends on its own result.";
    5 ShapeMismatch User "shapes do not fit"
        "The operands of a node do not have the shapes its operator needs, or a declared shape contradicts the computed one.";
    6 BadAttribute User "an attribute is missing or has a bad value"
        "A node lacks a required attribute, or an attribute has the wrong type or a value outside its range.";
    7 BadTensor User "an initializer is damaged"
        "The stored bytes of an initializer do not fit its type and dimensions.";
    8 DynamicShape User "a dimension is not known"
        "Quernel compiles static shapes. Give every symbolic dimension a value with `--dim name=value`.";
    9 BadGraph User "the graph breaks a rule of ONNX"
        "Duplicate names, missing outputs, wrong number of operands, an unknown opset.";
    10 LimitExceeded Limit "a limit was exceeded"
        "Limits on elements, bytes, nodes and depth keep a hostile file from exhausting the machine. `docs/limits.md` lists them; `--limit` and `--max-memory` set some.";
    11 UnsupportedType Unsupported "an element type is not supported here"
        "The operator is supported, but not for this element type.";
    12 UnsupportedForm Unsupported "this form of an operator is not supported"
        "The operator is supported, but not with this combination of attributes or shapes.";
    20 SamplesUnreadable User "the samples cannot be read"
        "The file is missing, is not .npz, .npy or ranges.json, or is damaged.";
    21 SampleName User "the samples lack an input, or have an unknown one"
        "Arrays of a .npz are matched with graph inputs by name. An array that matches no input is ignored only when it is listed as a label.";
    22 SampleShape User "samples have the wrong shape"
        "Axis 0 of an array counts samples; the other axes must match the input of the model (without its batch axis of 1).";
    23 SampleValue User "samples hold numbers that the input cannot take"
        "Calibration and evaluation need finite numbers, and whole numbers within the range of the input's type. The first offending sample is named.";
    24 NoSamples User "samples are needed"
        "Integer activations need ranges, and ranges need sample inputs: pass `--calibrate samples.npz` (or a ranges.json). Quernel does not guess. `--bits float` compiles without samples.";
    25 BadRanges User "the ranges file does not fit the model"
        "ranges.json was made for another model or version, or was edited into an impossible state.";
    26 BadBits User "the bits file is wrong"
        "bits.toml names a layer that does not exist, or a bit width outside 2..8.";
    27 SampleType User "samples have the wrong element type"
        "An input of an integer type takes arrays of integers, a bool one bool or 0 and 1; float inputs take every number.";
    30 OutputNotWritable User "the output cannot be written"
        "The folder does not exist, is not writable, or the disk is full. Nothing is left behind.";
    31 UnknownTarget User "the target is not known"
        "`quernel targets` lists the triples and CPU names.";
    32 BadOption User "an option has a bad value"
        "The value is outside what the option accepts.";
    33 FileNotFound User "a file cannot be read"
        "The path does not exist or is not readable.";
    34 BrokenObject User "an object breaks a promise"
        "`quernel verify` parsed an object anew, decoded its code, and found something that no object of Quernel has: the file is damaged, was changed, or belongs to another header. If Quernel wrote it just so, that is a bug; please report it.";
    40 BadText User "the text IR does not parse"
        "The position names the first character that does not fit. docs/ir.md describes the form.";
    41 BadIr User "the IR breaks an invariant"
        "The verifier lists every fault with its location.";
    50 OverflowUnproven Unsupported "an accumulator may overflow"
        "With these weights and ranges a 32-bit sum might not fit. The layer stays float, with a remark, or the compilation stops when that is not allowed.";
    60 FloatRunFailed Unsupported "the float run failed"
        "The float engine used for calibration could not run the model.";
    99 Internal Bug "a bug in Quernel"
        "An invariant of the compiler does not hold. Please report it with the model, if you can share it.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QN{:04}", self.number())
    }
}

/// The page `docs/errors.md`: every code with its class, title and explanation. `cargo xtask docs` writes it.
pub fn errors_markdown() -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask docs` from crates/quernel-ir/src/diag.rs; do not edit. -->\n\n# Diagnostics\n\n\
         Every diagnostic has a number that never changes its meaning; `quernel explain QN0002` prints the same text as\n\
         this page. The class says whose turn it is:\n\n",
    );
    for class in [Class::User, Class::Unsupported, Class::Limit, Class::Bug] {
        let meaning = match class {
            Class::User => "the file, the samples or the options are wrong",
            Class::Unsupported => "the model is fine, this version of Quernel cannot compile it",
            Class::Limit => "a documented limit was exceeded",
            Class::Bug => "Quernel is wrong",
        };
        page += &format!("* **{}**: {meaning}.\n", class.name());
    }
    for code in Code::ALL {
        page += &format!("\n## {code}: {}\n\n*{}.* {}\n", code.title(), code.class().name(), code.explanation());
    }
    page
}

/// Where a diagnostic points.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Location {
    /// A file, as the user named it.
    pub file: Option<String>,
    /// A place in it: `node "/stem/Conv" (Conv, opset 17)`, `line 3, column 7`, `array "x"`.
    pub place: Option<String>,
}

/// One error, limit or bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Which kind.
    pub code: Code,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where.
    pub location: Location,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic without a location.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), location: Location::default(), help: None }
    }
    /// A bug in the compiler.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }
    /// Adds the place.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.location.place = Some(place.into());
        self
    }
    /// Adds the file, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.location.file.get_or_insert(file.into());
        self
    }
    /// Adds a help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `error[QN0012]: message`, then location and help on lines of their own. Control characters from hostile
    /// names are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, printable(&self.message))?;
        match (&self.location.file, &self.location.place) {
            (Some(file), Some(place)) => write!(f, "\n  --> {}: {}", printable(file), printable(place))?,
            (Some(one), None) | (None, Some(one)) => write!(f, "\n  --> {}", printable(one))?,
            (None, None) => {}
        }
        match &self.help {
            Some(help) => write!(f, "\n  = help: {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Escapes control characters and shortens very long text, so that no file can garble a terminal.
pub fn printable(text: &str) -> String {
    const LIMIT: usize = 4000;
    let mut out = String::with_capacity(text.len().min(LIMIT));
    for (i, c) in text.chars().enumerate() {
        if i == LIMIT {
            out.push_str(&format!("... (#{:016x})", fnv1a(text.as_bytes())));
            break;
        }
        if garbles(c) && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Whether a character changes how a terminal shows others: control characters, and those that turn the direction of text.
pub fn garbles(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Something the user should know that stops nothing: an optimization not taken, a layer left float.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// The pass or stage that says it.
    pub by: String,
    /// The layer, by its ONNX names.
    pub at: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remark[{}]: {}: {}", self.by, printable(&self.at), printable(&self.message))
    }
}
