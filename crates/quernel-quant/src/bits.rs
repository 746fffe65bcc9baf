//! Bit widths of weights: one for all layers, or a file the user edits.

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
}

impl FromStr for Width {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "float" => Ok(Self::Float),
            _ => match s.parse() {
                Ok(bits @ 2..=8) => Ok(Self::Int(bits)),
                _ => Err(format!("{s:?} is not a width: 2 to 8, or float")),
            },
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("float"),
            Self::Int(bits) => write!(f, "{bits}"),
        }
    }
}

impl<'de> Deserialize<'de> for Width {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Width;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a width: 2 to 8, or \"float\"")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Width, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Width, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Width, E> {
                v.parse().map_err(E::custom)
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
}

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
    #[serde(default)]
    layers: BTreeMap<String, Width>,
}

fn eight() -> Width {
    Width::Int(8)
}

impl Bits {
    /// One width for all layers.
    pub fn uniform(width: Width) -> Self {
        Self { default: width, layers: BTreeMap::new() }
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
        Ok(Self { default: file.default, layers: file.layers })
    }

    /// Writes a bits.toml.
    pub fn to_toml(&self) -> String {
        let shown = |w: &Width| match w {
            Width::Float => "\"float\"".to_owned(),
            Width::Int(bits) => bits.to_string(),
        };
        let mut text = format!("default = {}\n\n[layers]\n", shown(&self.default));
        for (layer, width) in &self.layers {
            text.push_str(&format!("{} = {}\n", toml::Value::String(layer.clone()), shown(width)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trips() {
        let bits = Bits::from_toml("default = 8\n[layers]\n\"/stem/Conv\" = \"float\"\n\"a\\\"b\" = 4\n").expect("valid");
        assert_eq!((bits.width("/stem/Conv"), bits.width("a\"b"), bits.width("other")), (Width::Float, Width::Int(4), Width::Int(8)));
        assert_eq!(Bits::from_toml(&bits.to_toml()).expect("own output"), bits);
    }

    #[test]
    fn errors_are_located() {
        for text in ["default = 9", "default = 8\n[layers]\na = 1", "defualt = 8", "default = "] {
            assert_eq!(Bits::from_toml(text).expect_err(text).code, Code::BadBits);
        }
        assert_eq!(Bits::from_toml("default = 8\n[layers]\na = 1").expect_err("one bit").location.place.as_deref(), Some("line 3"));
    }
}
