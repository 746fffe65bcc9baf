//! The characters of the text form: a cursor for reading, and the spelling of names and floats for both directions.
//!
//! A statement ends with its line, but inside brackets line ends and comments are white space. Nothing here
//! recurses, and nothing grows faster than the text.

use crate::{plain::Number, ty::Scalar};
use std::fmt::Write as _;

/// What does not fit, and the byte where it starts.
#[derive(Debug)]
pub(super) struct Bad {
    pub at: usize,
    pub message: String,
    pub help: Option<&'static str>,
}

pub(super) type Read<T> = Result<T, Bad>;

/// A place in the text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Open brackets.
    depth: usize,
    /// Bytes that shorthands stood for so far.
    expanded: usize,
}

/// Bytes that all `splat`, `seed` and `{N x SCALE}` of a text may stand for: a short text must not fill the memory.
pub(super) const MAX_EXPANDED: usize = 1 << 28;

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, expanded: 0 }
    }

    /// The place of the next character that counts.
    pub fn here(&mut self) -> usize {
        self.space();
        self.at
    }

    /// An error at the next character that counts.
    pub fn bad<T>(&mut self, message: impl Into<String>) -> Read<T> {
        let at = self.here();
        Self::bad_at(at, message)
    }

    pub fn bad_at<T>(at: usize, message: impl Into<String>) -> Read<T> {
        Err(Bad { at, message: message.into(), help: None })
    }

    /// The error "`wanted` expected, found ..".
    pub fn expected<T>(&mut self, wanted: &str) -> Read<T> {
        let rest = &self.text[self.here()..];
        let found = match rest.chars().next() {
            None => "the end of the text".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(c) => {
                let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).collect();
                if word.is_empty() { format!("`{}`", c.escape_debug()) } else { format!("`{word}`") }
            }
        };
        self.bad(format!("expected {wanted}, found {found}"))
    }

    /// Accounts for `bytes` that a shorthand at `at` stands for.
    pub fn expand(&mut self, at: usize, bytes: usize) -> Read<()> {
        self.expanded = self.expanded.saturating_add(bytes);
        if self.expanded <= MAX_EXPANDED {
            return Ok(());
        }
        Self::bad_at(at, format!("the shorthands of a text stand for at most {MAX_EXPANDED} bytes"))
    }

    fn space(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(b) = bytes.get(self.at) {
            match b {
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\n' if self.depth > 0 => self.at += 1,
                b';' if self.depth > 0 => self.comment(),
                _ => break,
            }
        }
    }

    fn comment(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.find('\n').unwrap_or(rest.len());
    }

    /// Skips empty lines and lines of comment.
    pub fn lines(&mut self) {
        loop {
            self.space();
            match self.text.as_bytes().get(self.at) {
                Some(b'\n') => self.at += 1,
                Some(b';') => self.comment(),
                _ => return,
            }
        }
    }

    /// The end of a statement; its comment, if it has one.
    pub fn end(&mut self) -> Read<Option<&'a str>> {
        let start = self.here();
        if self.text[start..].starts_with(';') {
            self.comment();
            return Ok(Some(self.text[start + 1..self.at].trim()));
        }
        if start == self.text.len() || self.text[start..].starts_with('\n') { Ok(None) } else { self.expected("the end of the line") }
    }

    /// Whether nothing is left but comments.
    pub fn done(&mut self) -> bool {
        self.lines();
        self.at == self.text.len()
    }

    pub fn peek(&mut self) -> Option<char> {
        self.space();
        self.text[self.at..].chars().next()
    }

    pub fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    pub fn expect(&mut self, c: char) -> Read<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    /// The next characters, as far as they satisfy `ok`, without white space before them.
    pub fn run(&mut self, ok: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let len = rest.find(|c| !ok(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// A lowercase word such as a keyword or mnemonic; empty when there is none.
    pub fn word(&mut self) -> &'a str {
        self.space();
        self.run(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }

    /// Takes the word `word` if it is next.
    pub fn keyword(&mut self, word: &str) -> bool {
        let start = self.here();
        let found = self.word() == word;
        if !found {
            self.at = start;
        }
        found
    }

    /// An integer within the range of `T`.
    pub fn int<T: std::str::FromStr>(&mut self) -> Read<T> {
        let start = self.here();
        let digits = self.run(|c| c.is_ascii_digit() || c == '-');
        match digits.parse() {
            Ok(n) => Ok(n),
            Err(_) if digits.is_empty() => self.expected("an integer"),
            Err(_) => Self::bad_at(start, format!("`{}` is not an integer in range here", shorten(digits))),
        }
    }

    /// A float as [`float`] writes it, or an integer.
    pub fn float(&mut self) -> Read<f32> {
        let start = self.here();
        let token = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        let value = match token {
            "" => return self.expected("a number"),
            "inf" => Some(f32::INFINITY),
            "-inf" => Some(f32::NEG_INFINITY),
            "NaN" => Some(f32::NAN),
            _ => match token.strip_prefix("nan.") {
                Some(bits) => u32::from_str_radix(bits, 16).ok().map(f32::from_bits).filter(|x| x.is_nan()),
                None if token.starts_with(|c: char| c.is_ascii_digit() || c == '-') => token.parse().ok().filter(|x: &f32| x.is_finite()),
                None => None,
            },
        };
        match value {
            Some(x) => Ok(x),
            None => Self::bad_at(start, format!("`{}` is not a binary32 number", shorten(token))),
        }
    }

    /// The bits of a floating-point number of type `s`.
    pub fn real(&mut self, s: Scalar) -> Read<u64> {
        if s == Scalar::F32 {
            return self.float().map(|x| x.to_bits().into());
        }
        let start = self.here();
        let token = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        let bits = match token {
            "" => return self.expected("a number"),
            "inf" => Some(Number::Real(f64::INFINITY).bits(s)),
            "-inf" => Some(Number::Real(f64::NEG_INFINITY).bits(s)),
            "NaN" => Some(Number::Real(f64::NAN).bits(s)),
            _ => match token.strip_prefix("nan.") {
                Some(bits) => u64::from_str_radix(bits, 16).ok().filter(|b| is_nan(s, *b) && b >> (8 * s.bytes() - 1) <= 1),
                None if token.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                    token.parse().ok().map(|x| Number::Real(x).bits(s)).filter(|b| Number::read(s, &b.to_le_bytes()).real().is_finite())
                }
                None => None,
            },
        };
        match bits {
            Some(bits) => Ok(bits),
            None => Self::bad_at(start, format!("`{}` is not a number of type {s}", shorten(token))),
        }
    }

    /// `#` and the 16 digits of a content hash.
    pub fn hash(&mut self) -> Read<u64> {
        let start = self.here();
        self.expect('#')?;
        let digits = self.run(|c| c.is_ascii_hexdigit());
        match u64::from_str_radix(digits, 16) {
            Ok(hash) if digits.len() == 16 => Ok(hash),
            _ => Self::bad_at(start, "a content hash has 16 hexadecimal digits"),
        }
    }

    /// A bare or quoted name.
    pub fn name(&mut self) -> Read<String> {
        self.space();
        self.name_of(bare_name)
    }

    fn name_of(&mut self, bare: impl Fn(char) -> bool) -> Read<String> {
        if self.text[self.at..].starts_with('"') {
            return self.quoted();
        }
        match self.run(bare) {
            "" => self.expected("a name"),
            name => Ok(name.to_owned()),
        }
    }

    /// A name in double quotes.
    pub fn quoted(&mut self) -> Read<String> {
        self.expect('"')?;
        let mut out = String::new();
        loop {
            out.push_str(self.run(|c| !matches!(c, '"' | '\\' | '\n')));
            let at = self.at;
            match self.text[at..].chars().next() {
                Some('"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some('\\') => {
                    self.at += 1;
                    let escape = self.text[self.at..].chars().next();
                    self.at += escape.map_or(0, char::len_utf8);
                    out.push(match escape {
                        Some(c @ ('"' | '\\')) => c,
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('u') => {
                            let digits = if self.run(|c| c == '{') == "{" { self.run(|c| c.is_ascii_hexdigit()) } else { "" };
                            match u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) {
                                Some(c) if self.text[self.at..].starts_with('}') => {
                                    self.at += 1;
                                    c
                                }
                                _ => return Self::bad_at(at, "`\\u{..}` does not name a character"),
                            }
                        }
                        _ => return Self::bad_at(at, "unknown escape; there are \\\" \\\\ \\n \\t \\u{..}"),
                    });
                }
                _ => return Self::bad_at(at, "a quoted name ends on its line"),
            }
        }
    }

    /// `open item, item, .. close`, possibly empty.
    pub fn list(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.expect(open)?;
        self.depth += 1;
        if self.peek() != Some(close) {
            loop {
                item(self)?;
                if !self.eat(',') {
                    break;
                }
            }
        }
        if self.peek() != Some(close) {
            return self.expected(&format!("`,` or `{close}`"));
        }
        self.depth -= 1;
        self.at += close.len_utf8();
        Ok(())
    }
}

/// The names of an origin comment, or `None` for a comment that is not one.
pub(super) fn origin_names(comment: &str) -> Option<Vec<String>> {
    let mut c = Cursor::new(comment);
    let mut names = Vec::new();
    loop {
        names.push(c.name_of(bare_origin).ok()?);
        if c.at == comment.len() {
            return Some(names);
        }
        if c.run(|c| c == '+') != "+" {
            return None;
        }
    }
}

/// Writes the names of an origin comment.
pub(super) fn write_origin(out: &mut String, names: &[String]) {
    for (i, name) in names.iter().enumerate() {
        if i > 0 {
            out.push('+');
        }
        write_name_of(out, name, bare_origin);
    }
}

fn bare_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '$')
}

fn bare_origin(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '+' | '"' | '\\' | ';')
}

/// Writes a name, bare where that can be read back.
pub(super) fn write_name(out: &mut String, name: &str) {
    write_name_of(out, name, bare_name);
}

fn write_name_of(out: &mut String, name: &str, bare: impl Fn(char) -> bool) {
    if !name.is_empty() && name.chars().all(bare) { out.push_str(name) } else { write_quoted(out, name) }
}

/// Writes a name in quotes. What could garble a terminal or end the line is escaped.
pub(super) fn write_quoted(out: &mut String, name: &str) {
    out.push('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Writes a float so that it reads back with the same bits: shortest decimal, `inf`, `-inf`, `NaN`, and `nan.7fc00001`
/// for a NaN that is not the canonical one.
pub(super) fn float(out: &mut String, x: f32) {
    let _ = if x.is_nan() && x.to_bits() != f32::NAN.to_bits() { write!(out, "nan.{:08x}", x.to_bits()) } else { write!(out, "{x:?}") };
}

/// Writes a floating-point number of type `s` from its bits, so that [`Cursor::real`] reads the same bits.
pub(super) fn real(out: &mut String, s: Scalar, bits: u64) {
    if s == Scalar::F32 {
        return float(out, f32::from_bits(bits as u32));
    }
    let x = Number::read(s, &bits.to_le_bytes()).real();
    let _ = if x.is_nan() && bits != Number::Real(x).bits(s) {
        write!(out, "nan.{bits:0width$x}", width = 2 * s.bytes())
    } else {
        write!(out, "{x:?}")
    };
}

fn is_nan(s: Scalar, bits: u64) -> bool {
    Number::read(s, &bits.to_le_bytes()).real().is_nan()
}

/// A token for a message.
fn shorten(token: &str) -> String {
    if token.len() <= 40 { token.to_owned() } else { format!("{}..", token.chars().take(40).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_bits() {
        let odd = [0.0, -0.0, 0.1, 1e-45, f32::MIN_POSITIVE, f32::MAX, -1e16, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for x in odd.into_iter().chain([0x7fc0_0001, 0xffc0_0000, 0x7f80_0001].map(f32::from_bits)) {
            let mut text = String::new();
            float(&mut text, x);
            let back = Cursor::new(&text).float().expect(&text);
            assert_eq!(back.to_bits(), x.to_bits(), "{text}");
        }
    }

    #[test]
    fn floats_of_other_widths_keep_their_bits() {
        let mut cases: Vec<(Scalar, u64)> = (0..=0xffff).flat_map(|b| [(Scalar::F16, b), (Scalar::BF16, b)]).collect();
        let doubles = [0.0, -0.0, 0.1, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(f64::to_bits);
        cases.extend(doubles.into_iter().chain([0x7ff0_0000_0000_0001, u64::MAX]).map(|b| (Scalar::F64, b)));
        for (s, bits) in cases {
            let mut text = String::new();
            real(&mut text, s, bits);
            assert_eq!(Cursor::new(&text).real(s).expect(&text), bits, "{s} {text}");
        }
    }

    #[test]
    fn words_that_are_no_floats() {
        for text in ["1e99", "-1e99", "infinity", "nan", "nan.3f800000", "+1", "1..2", "-", ".5", "--inf", "1e", "NaN2"] {
            assert!(Cursor::new(text).float().is_err(), "{text}");
        }
    }

    #[test]
    fn names_survive() {
        for name in ["", "stem.w", "a b", "a+b", "\"\\", "\u{0}\u{7}\n\r\t", "\u{7}f}", "zwölf", "\u{202e}x", "onnx::Conv_1", "; error: x"]
        {
            let mut text = String::new();
            write_name(&mut text, name);
            assert!(!text.contains(char::is_control), "{text:?}");
            assert_eq!(Cursor::new(&text).name().expect(&text), name);
            let names = vec![name.to_owned(), "tail".to_owned()];
            let mut text = String::new();
            write_origin(&mut text, &names);
            assert_eq!(origin_names(&text), Some(names));
        }
    }

    #[test]
    fn comments_that_are_no_origins() {
        for comment in ["", "two words", "a+", "+a", "a++b", "\"open", "error: x"] {
            assert_eq!(origin_names(comment), None, "{comment}");
        }
    }
}
