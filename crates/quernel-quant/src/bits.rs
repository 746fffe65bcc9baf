//! Bit widths of weights, and what their codes mean: one for all layers, or a file the user edits.

use crate::tables::TableScheme;
use quernel_ir::{Code, Diagnostic};
use serde::{Deserialize, Deserializer, de};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Width of a layer's weights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Width {
    /// The layer computes in f32.
    Float,
    /// Signed integers of 2 to 8 bits.
    Int(u8),
    /// Codes of 1 to 4 bits into a table.
    Code(TableScheme, u8),
    /// So many bits, under the scheme with the least error of the layer.
    Auto(u8),
    /// Signed integers whose width differs between panels of output channels, `least..most`: see [`panel_bits`].
    Panels(u8, u8),
}

impl Width {
    /// The width under a scheme: `linear`, or the name of a [`TableScheme`].
    ///
    /// # Errors
    /// No such scheme, or it has no table of that width.
    pub fn with_scheme(self, scheme: &str) -> Result<Self, String> {
        if scheme == "linear" {
            return match self {
                Self::Code(_, bits) if bits < 2 => Err("integers have 2 to 8 bits".into()),
                Self::Code(_, bits) | Self::Auto(bits) => Ok(Self::Int(bits)),
                other => Ok(other),
            };
        }
        if scheme == "auto" {
            return self.bits().map(Self::Auto).ok_or_else(|| "a float layer has no scheme".into());
        }
        let table: TableScheme = scheme.parse()?;
        let wanted = match self {
            Self::Float => return Err(format!("a float layer has no scheme {scheme}")),
            Self::Panels(..) => return Err(format!("panels of several widths are integers, not {scheme}")),
            Self::Int(bits) | Self::Code(_, bits) | Self::Auto(bits) => bits,
        };
        let most = || format!("no {scheme} table of {wanted} bits: 4, 3 or 2");
        Ok(Self::Code(table, table.bits(wanted).ok_or_else(most)?))
    }
    /// Bits of a code; `None` for floats.
    pub fn bits(self) -> Option<u8> {
        match self {
            Self::Float => None,
            Self::Int(bits) | Self::Code(_, bits) | Self::Auto(bits) | Self::Panels(_, bits) => Some(bits),
        }
    }
}

/// Bits of each panel of `rows` rows of `w`: `most` for the panel with the largest weight, one less for every halving of the
/// largest weight, so that all panels are about equally fine; at least `least`, and rounded up to 2, 4 or 8, which is what a
/// code takes in memory.
pub fn panel_bits(w: &[f32], row: usize, rows: usize, (least, most): (u8, u8)) -> Vec<u8> {
    let ranges: Vec<f32> = w.chunks((row * rows).max(1)).map(|p| p.iter().fold(0f32, |m, x| m.max(x.abs()))).collect();
    let largest = ranges.iter().copied().fold(0f32, f32::max);
    let bits = |range: f32| {
        let (mut bits, mut reach) = (most, largest);
        while bits > least && range <= reach / 2.0 {
            (bits, reach) = (bits - 1, reach / 2.0);
        }
        [2, 4].into_iter().find(|b| bits <= *b).unwrap_or(8).min(most)
    };
    ranges.into_iter().map(bits).collect()
}

impl FromStr for Width {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "float" => Ok(Self::Float),
            _ if s.contains("..") => {
                let ends = s.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                match ends {
                    Some((least @ 2..=8, most @ 2..=8)) if least < most => Ok(Self::Panels(least, most)),
                    _ => Err(format!("{s:?} is not a range of widths such as 2..8")),
                }
            }
            _ => match s.parse() {
                Ok(bits @ 2..=8) => Ok(Self::Int(bits)),
                _ => match s.parse() {
                    Ok(table @ (TableScheme::Ternary | TableScheme::Binary)) => Self::Int(8).with_scheme(table.name()),
                    _ => Err(format!("{s:?} is not a width: 2 to 8, a range such as 2..8, float, ternary or binary")),
                },
            },
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("float"),
            Self::Int(bits) => write!(f, "{bits}"),
            Self::Panels(least, most) => write!(f, "{least}..{most}"),
            Self::Code(table @ (TableScheme::Ternary | TableScheme::Binary), _) => write!(f, "{table}"),
            Self::Code(table, bits) => write!(f, "{bits} {table}"),
            Self::Auto(bits) => write!(f, "{bits} auto"),
        }
    }
}

/// What a file says of a layer: its width, and the bits of what it reads where they are its own.
struct Entry {
    width: Width,
    activations: Option<u8>,
}

impl<'de> Deserialize<'de> for Width {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let entry = Entry::deserialize(d)?;
        match entry.activations {
            None => Ok(entry.width),
            Some(_) => Err(de::Error::custom("bits of activations are those of a layer")),
        }
    }
}

/// Bits of activations, as a number or in quotes like the widths of weights.
struct Activations(u8);

impl<'de> Deserialize<'de> for Activations {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(i64),
            Text(String),
        }
        let found = Either::deserialize(d).map_err(|_| de::Error::custom("activations: a number of bits"))?;
        let text = match found {
            Either::Number(bits) => bits.to_string(),
            Either::Text(text) => text,
        };
        let bits = text.parse().ok().filter(|bits| ACTIVATION_BITS.contains(bits));
        bits.map(Self).ok_or_else(|| de::Error::custom(format!("activations of {text} bits: they have 16, 8, 4, 2 or 1")))
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a width: 2 to 8, \"float\", \"ternary\", \"binary\", or { bits = .., scheme = \"..\", activations = .. }")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let (mut bits, mut scheme, mut activations) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "bits" => bits = Some(map.next_value::<Width>()?),
                        "scheme" => scheme = Some(map.next_value::<String>()?),
                        "activations" => activations = Some(map.next_value::<Activations>()?.0),
                        _ => return Err(de::Error::unknown_field(&key, &["bits", "scheme", "activations"])),
                    }
                }
                let width = match (bits, scheme) {
                    (Some(width), None) => width,
                    (None, scheme) => Width::Int(8).with_scheme(scheme.as_deref().unwrap_or("linear")).map_err(de::Error::custom)?,
                    (Some(width), Some(scheme)) => {
                        let found = width.with_scheme(&scheme).map_err(de::Error::custom)?;
                        // Some schemes have bits of their own.
                        if found.bits() != width.bits() {
                            return Err(de::Error::custom(format!("no {scheme} table of {width} bits")));
                        }
                        found
                    }
                };
                Ok(Entry { width, activations })
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Entry, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Entry, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Entry, E> {
                Ok(Entry { width: v.parse().map_err(E::custom)?, activations: None })
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Widths per layer. Layers are named by their ONNX node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bits {
    /// Width of every layer that is not listed.
    pub default: Width,
    /// Listed layers.
    pub layers: BTreeMap<String, Width>,
    /// Bits of what a layer reads, where they differ from those of the others.
    pub activations: BTreeMap<String, u8>,
}

/// Bits that activations can have.
pub const ACTIVATION_BITS: [u8; 5] = [16, 8, 4, 2, 1];

impl Default for Bits {
    fn default() -> Self {
        Self::uniform(Width::Int(8))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "eight")]
    default: Width,
    scheme: Option<String>,
    #[serde(default)]
    layers: BTreeMap<String, Entry>,
}

fn eight() -> Width {
    Width::Int(8)
}

impl Bits {
    /// One width for all layers.
    pub fn uniform(width: Width) -> Self {
        Self { default: width, layers: BTreeMap::new(), activations: BTreeMap::new() }
    }

    /// The same widths under another scheme: the one all layers have that are not listed.
    ///
    /// # Errors
    /// No such scheme, or it has no table of the default width.
    pub fn with_scheme(mut self, scheme: &str) -> Result<Self, String> {
        self.default = self.default.with_scheme(scheme)?;
        Ok(self)
    }

    /// The width of a layer.
    pub fn width(&self, layer: &str) -> Width {
        self.layers.get(layer).copied().unwrap_or(self.default)
    }

    /// Reads a bits.toml.
    pub fn from_toml(text: &str) -> Result<Self, Diagnostic> {
        let file: File = toml::from_str(text).map_err(|e| {
            let place = e.span().map(|s| format!("line {}", text[..s.start.min(text.len())].matches('\n').count() + 1));
            let d = Diagnostic::new(Code::BadBits, e.message().to_owned());
            match place {
                Some(place) => d.at(place),
                None => d,
            }
        })?;
        let default = match file.scheme {
            Some(scheme) => file.default.with_scheme(&scheme).map_err(|e| Diagnostic::new(Code::BadBits, e).at("scheme"))?,
            None => file.default,
        };
        let activations = file.layers.iter().filter_map(|(layer, e)| Some((layer.clone(), e.activations?))).collect();
        Ok(Self { default, layers: file.layers.into_iter().map(|(layer, e)| (layer, e.width)).collect(), activations })
    }

    /// Writes a bits.toml.
    pub fn to_toml(&self) -> String {
        let shown = |w: &Width| match w {
            Width::Float => "\"float\"".to_owned(),
            Width::Int(bits) => bits.to_string(),
            Width::Panels(..) | Width::Code(TableScheme::Ternary | TableScheme::Binary, _) => format!("\"{w}\""),
            Width::Code(table, 1) => format!("{{ bits = \"binary\", scheme = \"{table}\" }}"),
            Width::Code(table, bits) => format!("{{ bits = {bits}, scheme = \"{table}\" }}"),
            Width::Auto(bits) => format!("{{ bits = {bits}, scheme = \"auto\" }}"),
        };
        let mut text = format!("default = {}\n\n[layers]\n", shown(&self.default));
        for (layer, width) in &self.layers {
            let line = match (shown(width), self.activations.get(layer)) {
                (width, None) => width,
                (width, Some(bits)) => match width.strip_suffix(" }") {
                    Some(map) => format!("{map}, activations = {bits} }}"),
                    None => format!("{{ bits = {width}, activations = {bits} }}"),
                },
            };
            text.push_str(&format!("{} = {line}\n", key(layer)));
        }
        text
    }
}

/// A name as the key of a line: not every quoted string may be one.
fn key(name: &str) -> String {
    let line = toml::to_string(&BTreeMap::from([(name, 0)])).unwrap_or_default();
    line.strip_suffix(" = 0\n").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trips() {
        let names = "\"/stem/Conv\" = \"float\"\n\"a\\\"b\" = 4\n\"\\\"'''\\n = 0\\n\" = 2\n\"\" = 3\n";
        let bits = Bits::from_toml(&format!("default = 8\n[layers]\n{names}")).expect("valid");
        assert_eq!((bits.width("/stem/Conv"), bits.width("a\"b"), bits.width("other")), (Width::Float, Width::Int(4), Width::Int(8)));
        assert_eq!(Bits::from_toml(&bits.to_toml()).expect("own output"), bits);
    }

    #[test]
    fn a_layer_may_name_a_scheme() {
        let text = "default = 4\nscheme = \"codebook\"\n[layers]\na = \"ternary\"\nb = { bits = 3, scheme = \"normal\" }\nc = { scheme = \"binary\" }\nd = 4\n";
        let bits = Bits::from_toml(text).expect("valid");
        let code = |table, bits| Width::Code(table, bits);
        assert_eq!(bits.default, code(TableScheme::Codebook, 4));
        let widths = ["a", "b", "c", "d"].map(|layer| bits.width(layer));
        let want = [code(TableScheme::Ternary, 2), code(TableScheme::Normal, 3), code(TableScheme::Binary, 1), Width::Int(4)];
        assert_eq!(widths, want);
        assert_eq!(Bits::from_toml(&bits.to_toml()).expect("own output"), bits);
        let text = "default = \"binary\"\n[layers]\na = { bits = \"ternary\", activations = 4 }\nb = { bits = \"binary\", scheme = \"codebook\" }\n";
        let bits = Bits::from_toml(text).expect("valid");
        let widths = ["a", "b", "c"].map(|layer| bits.width(layer));
        assert_eq!(widths, [code(TableScheme::Ternary, 2), code(TableScheme::Codebook, 1), code(TableScheme::Binary, 1)]);
        assert_eq!(Bits::from_toml(&bits.to_toml()).expect("own output"), bits);
        assert_eq!(Bits::uniform(Width::Int(4)).with_scheme("power-of-two").expect("4 bits").default, code(TableScheme::PowerOfTwo, 4));
        for bad in [
            "scheme = \"codebook\"",
            "scheme = \"cubic\"",
            "[layers]\na = { scheme = \"normal\" }",
            "[layers]\na = { bit = 4 }",
            "[layers]\na = { bits = 8, scheme = \"ternary\" }",
        ] {
            assert_eq!(Bits::from_toml(bad).expect_err(bad).code, Code::BadBits);
        }
    }

    #[test]
    fn a_layer_may_read_other_bits() {
        let text = "[layers]\na = { activations = 16 }\nb = { bits = 4, scheme = \"normal\", activations = 4 }\nc = 4\nd = { bits = \"2..8\", activations = \"16\" }\n";
        let bits = Bits::from_toml(text).expect("valid");
        assert_eq!(bits.activations, [("a", 16), ("b", 4), ("d", 16)].map(|(l, b)| (l.to_owned(), b)).into());
        assert_eq!(bits.width("a"), Width::Int(8));
        assert_eq!(Bits::from_toml(&bits.to_toml()).expect("own output"), bits);
        for bad in ["default = { activations = 16 }", "[layers]\na = { activations = 12 }"] {
            assert_eq!(Bits::from_toml(bad).expect_err(bad).code, Code::BadBits);
        }
    }

    #[test]
    fn panels_are_about_equally_fine() {
        assert_eq!("2..8".parse(), Ok(Width::Panels(2, 8)));
        assert_eq!(Bits::from_toml("default = \"4..8\"").map(|b| Bits::from_toml(&b.to_toml()) == Ok(b)), Ok(true));
        for bad in ["8..2", "1..4", "4..9", "..", "4..4"] {
            assert!(bad.parse::<Width>().is_err(), "{bad}");
        }
        // Panels of two rows of two weights.
        let w = [8.0, -1.0, 0.5, 0.25, 1.0, -2.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 4.1, 0.0, 0.0, 1.0];
        assert_eq!(panel_bits(&w, 2, 2, (2, 8)), [8, 8, 2, 8]);
        assert_eq!(panel_bits(&w, 2, 2, (4, 6)), [6, 4, 4, 6]);
        assert_eq!(panel_bits(&[0.0; 8], 2, 2, (2, 8)), [2, 2]);
    }

    #[test]
    fn errors_are_located() {
        for text in ["default = 9", "default = 8\n[layers]\na = 1", "defualt = 8", "default = "] {
            assert_eq!(Bits::from_toml(text).expect_err(text).code, Code::BadBits);
        }
        assert_eq!(Bits::from_toml("default = 8\n[layers]\na = 1").expect_err("one bit").location.place.as_deref(), Some("line 3"));
    }
}
