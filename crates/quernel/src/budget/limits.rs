//! What a user allows.

use std::{fmt, str::FromStr};

/// An amount of bytes, or a share of what 8-bit weights take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// Percent of the weights at 8 bits.
    Percent(f64),
}

/// Limits, each absent or kept.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Budget {
    /// Weights, at the width they are stored with.
    pub size: Option<Size>,
    /// One run, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// Bytes of the arena.
    pub arena: Option<u64>,
    /// Points of accuracy below the float network; without labels, percent of answers that differ.
    pub drop: Option<f64>,
}

impl Size {
    /// Bytes, where 8-bit weights take `whole`.
    pub fn bytes(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(p) => (whole as f64 * p / 100.0) as u64,
        }
    }
}

/// A number with one of these units, each with its factor.
fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic() || c == '%').unwrap_or(text.len());
    let number: f64 = text[..at].parse().ok()?;
    let factor = units.iter().find(|(u, _)| u.eq_ignore_ascii_case(&text[at..]))?.1;
    (number > 0.0 && number.is_finite()).then_some(number * factor)
}

const BYTES: &[(&str, f64)] = &[("", 1.0), ("k", 1024.0), ("m", 1_048_576.0), ("g", 1_073_741_824.0)];
const TIMES: &[(&str, f64)] = &[("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];

impl FromStr for Budget {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut b = Self::default();
        for part in s.split(',') {
            let bad = |what: &str| format!("{part:?}: expected {what}");
            let (name, value) = part.split_once('=').ok_or_else(|| bad("LIMIT=VALUE"))?;
            match name {
                "size" => {
                    b.size = Some(match quantity(value, &[("%", 1.0)]) {
                        Some(percent) => Size::Percent(percent),
                        None => Size::Bytes(quantity(value, BYTES).ok_or_else(|| bad("size=400k, size=2M or size=60%"))? as u64),
                    });
                }
                "latency" => b.latency_ns = Some(quantity(value, TIMES).ok_or_else(|| bad("latency=2ms, with ns, us, ms or s"))? as u64),
                "arena" => b.arena = Some(quantity(value, BYTES).ok_or_else(|| bad("arena=64k"))? as u64),
                "drop" => b.drop = Some(quantity(value, &[("", 1.0), ("%", 1.0)]).ok_or_else(|| bad("drop=1%"))?),
                _ => return Err(format!("{name:?} is no limit: size, latency, arena, drop")),
            }
        }
        Ok(b)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.map(|s| match s {
            Size::Bytes(b) => format!("size={b}"),
            Size::Percent(p) => format!("size={p}%"),
        });
        let parts = [
            size,
            self.latency_ns.map(|ns| format!("latency={ns}ns")),
            self.arena.map(|b| format!("arena={b}")),
            self.drop.map(|d| format!("drop={d}%")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_any_combination() {
        let b: Budget = "size=400k,latency=2.5ms,arena=64k,drop=0.5%".parse().expect("valid");
        let want = Budget { size: Some(Size::Bytes(409_600)), latency_ns: Some(2_500_000), arena: Some(65_536), drop: Some(0.5) };
        assert_eq!(b, want);
        assert_eq!(b.to_string().parse(), Ok(want));
        assert_eq!("size=60%".parse::<Budget>().map(|b| b.size.map(|s| s.bytes(1000))), Ok(Some(600)));
        for bad in ["", "size", "size=", "size=0", "size=4x", "latency=2", "speed=1", "drop=-1", "arena=1e400"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
    }
}
