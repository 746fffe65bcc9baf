//! Energy of a run: measured where the machine tells, else a stated model.
//!
//! The model counts operations and bytes and multiplies them with the energies that M. Horowitz gives for a 45 nm process
//! ("Computing's energy problem", ISSCC 2014). Absolute values are those of a chip of that time; ratios between two
//! networks, or two widths of one network, are what it is good for.

use quernel_ir::{
    Program,
    program::{Base, What},
};
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// An 8-bit product (0.2 pJ) and a 32-bit sum (0.1 pJ).
const INTEGER_MAC_PJ: f64 = 0.3;
/// An f32 product (3.7 pJ) and sum (0.9 pJ).
const FLOAT_MAC_PJ: f64 = 4.6;
/// An element of a step without products: a sum of its kind.
const INTEGER_ELEMENT_PJ: f64 = 0.1;
const FLOAT_ELEMENT_PJ: f64 = 0.9;
/// A byte from or to a cache of 32 KiB: 20 pJ for eight.
const NEAR_BYTE_PJ: f64 = 2.5;
/// A byte from a cache of 1 MiB: 100 pJ for eight.
const FAR_BYTE_PJ: f64 = 12.5;
/// A byte from DRAM: 2 nJ for eight, in the middle of what is given.
const DRAM_BYTE_PJ: f64 = 250.0;
/// Constants beyond this size do not stay in a cache from run to run.
const FAR_BYTES: usize = 1 << 20;

/// What a run takes by the model, in microjoules.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Energy {
    /// Products and sums.
    pub arithmetic_uj: f64,
    /// Tensors between layers, read and written.
    pub activations_uj: f64,
    /// Weights and tables.
    pub constants_uj: f64,
}

impl Energy {
    /// The model's figure for a program.
    pub fn modelled(p: &Program) -> Self {
        let (mut arithmetic, mut activations) = (0.0, 0.0);
        let mut constants = BTreeSet::new();
        for step in &p.steps {
            let float = match step.what {
                What::ConvFloat { .. } | What::MatMulFloat { .. } => true,
                What::UnaryFloat { .. } | What::UnaryDouble { .. } | What::BinaryFloat { .. } => true,
                What::BinaryPlain { scalar, .. } => scalar.is_float(),
                _ => false,
            };
            let (mac, element) = if float { (FLOAT_MAC_PJ, FLOAT_ELEMENT_PJ) } else { (INTEGER_MAC_PJ, INTEGER_ELEMENT_PJ) };
            let written: usize = step.writes.iter().map(|s| s.bytes).sum();
            arithmetic += mac * step.what.macs() as f64;
            if step.what.macs() == 0 {
                arithmetic += element * (written / if float { 4 } else { 1 }) as f64;
            }
            let mut bytes = written;
            for slot in &step.reads {
                match slot.base {
                    Base::Blob(b) => drop(constants.insert((b, slot.offset, slot.bytes))),
                    _ => bytes += slot.bytes,
                }
            }
            activations += NEAR_BYTE_PJ * bytes as f64;
        }
        let held: usize = constants.iter().map(|(_, _, bytes)| bytes).sum();
        let each = if held <= FAR_BYTES { FAR_BYTE_PJ } else { DRAM_BYTE_PJ };
        Self { arithmetic_uj: arithmetic * 1e-6, activations_uj: activations * 1e-6, constants_uj: each * held as f64 * 1e-6 }
    }

    /// The sum.
    pub fn total_uj(&self) -> f64 {
        self.arithmetic_uj + self.activations_uj + self.constants_uj
    }
}

/// The energy counters of this machine's processor packages (RAPL), where they can be read.
#[derive(Debug)]
pub struct Counters {
    packages: Vec<(PathBuf, u64, u64)>,
}

impl Counters {
    /// Starts counting; `None` on a machine without readable counters.
    pub fn start() -> Option<Self> {
        let number = |p: PathBuf| fs::read_to_string(p).ok()?.trim().parse::<u64>().ok();
        let mut packages = Vec::new();
        for entry in fs::read_dir("/sys/class/powercap").ok()?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // `intel-rapl:0` is a package (of AMD's, too), `intel-rapl:0:1` a part of it.
            if name.strip_prefix("intel-rapl:").is_some_and(|n| n.parse::<u32>().is_ok()) {
                let folder = entry.path();
                if let (Some(now), Some(most)) = (number(folder.join("energy_uj")), number(folder.join("max_energy_range_uj"))) {
                    packages.push((folder.join("energy_uj"), now, most));
                }
            }
        }
        (!packages.is_empty()).then_some(Self { packages })
    }

    /// Microjoules since the start, of all packages and everything that ran on them.
    pub fn elapsed_uj(&self) -> Option<f64> {
        let mut sum = 0.0;
        for (path, start, most) in &self.packages {
            let now: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            sum += now.checked_sub(*start).unwrap_or_else(|| now + most.saturating_sub(*start)) as f64;
        }
        Some(sum)
    }
}
