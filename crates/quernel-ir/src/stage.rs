//! The named stages a model passes through.

use std::{fmt, str::FromStr};

/// Each stage is a smaller language than the one before it; [`crate::verify()`] checks membership.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// As the file said it: float operators in ONNX's layouts, static shapes.
    Imported,
    /// Constants folded, batch norms gone, activations and residual additions inside their convolution.
    Folded,
    /// Element types carry the quantization; what stays float does so by decision.
    Quantized,
    /// A [`crate::Program`].
    Lowered,
}

impl Stage {
    /// In order of travel.
    pub const ALL: [Self; 4] = [Self::Imported, Self::Folded, Self::Quantized, Self::Lowered];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::Folded => "folded",
            Self::Quantized => "quantized",
            Self::Lowered => "lowered",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|x| x.name() == s).ok_or_else(|| format!("no stage `{s}` (imported, folded, quantized, lowered)"))
    }
}
