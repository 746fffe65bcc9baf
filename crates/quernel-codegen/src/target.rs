//! Targets: triples and CPU names, mapped to instruction-set flags by tables of our own.
//!
//! Cranelift's presets are not used: `x86-64-v3` there sets AVX2 without AVX and so keeps SSE encodings, and no preset
//! has VNNI. What a CPU name means is written down here, extension by extension.

use crate::select::VARIANTS;
use cranelift_codegen::{
    isa::{self, OwnedTargetIsa},
    settings::{self, Configurable},
};
use quernel_ir::diag::{Code, Diagnostic};
use target_lexicon::{Architecture, BinaryFormat, Triple};

/// Which family of instruction sequences kernels use. All give the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// No vectors: any CPU of the architecture.
    Scalar,
    /// 128-bit vectors with 16-bit multiplies.
    V128,
    /// The same, and convolutions in 256-bit leaf kernels (x86-64 with AVX2).
    V256,
    /// 128-bit vectors with 8-bit dot products (VNNI, sdot, usdot).
    V128Dot,
    /// The same, and convolutions in 256-bit leaf kernels (x86-64 with AVX-VNNI or AVX-512 VNNI).
    V256Dot,
    /// The same, and whole layers in 512-bit leaf kernels (x86-64 with AVX-512 VNNI).
    V512Dot,
}

impl Level {
    /// Every level, slowest first.
    pub const ALL: [Self; 6] = [Self::Scalar, Self::V128, Self::V256, Self::V128Dot, Self::V256Dot, Self::V512Dot];
    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::V128 => "v128",
            Self::V256 => "v256",
            Self::V128Dot => "v128-dot",
            Self::V256Dot => "v256-dot",
            Self::V512Dot => "v512-dot",
        }
    }
    /// The level called `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.name() == name)
    }
    /// The levels this machine can run, slowest first.
    pub fn host() -> Vec<Self> {
        let best = Target::host().map_or(Self::Scalar, |t| t.level());
        Self::ALL.into_iter().filter(|l| *l <= best).collect()
    }
}

/// A supported triple and the CPU names it accepts, for listings.
#[derive(Clone, Copy, Debug)]
pub struct TargetInfo {
    /// The triple, as `--target` takes it.
    pub triple: &'static str,
    /// CPU names, as `--target-cpu` takes them; the first is the default.
    pub cpus: &'static [Cpu],
}

/// A CPU name and what it has.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// The name.
    pub name: &'static str,
    /// Instruction-set extensions, without the `has_` of Cranelift's flags.
    pub extensions: &'static [&'static str],
}

macro_rules! cpus {
    ($($name:literal : [$($ext:expr),*];)*) => { &[$(Cpu { name: $name, extensions: &[$($ext),*] }),*] };
}

macro_rules! x86 {
    ($($name:literal = $level:ident $(+ $extra:literal)*;)*) => { &[$(Cpu { name: $name, extensions: x86!(@$level $($extra),*) }),*] };
    (@v1 $($extra:literal),*) => { &[$($extra),*] };
    (@ssse3 $($extra:literal),*) => { &["cmpxchg16b", "sse3", "ssse3", $($extra),*] };
    (@v2 $($extra:literal),*) => { &["cmpxchg16b", "sse3", "ssse3", "sse41", "sse42", "popcnt", $($extra),*] };
    (@v3 $($extra:literal),*) => {
        &["cmpxchg16b", "sse3", "ssse3", "sse41", "sse42", "popcnt", "avx", "avx2", "fma", "bmi1", "bmi2", "lzcnt", $($extra),*]
    };
    (@v4 $($extra:literal),*) => {
        &["cmpxchg16b", "sse3", "ssse3", "sse41", "sse42", "popcnt", "avx", "avx2", "fma", "bmi1", "bmi2", "lzcnt", "avx512f", "avx512dq", "avx512vl", "avx512bw", $($extra),*]
    };
}

const X86_64: &[Cpu] = x86! {
    "multi" = v1;
    "x86-64" = v1;
    "baseline" = v1;
    "generic" = v1;
    "core2" = ssse3;
    "x86-64-v2" = v2;
    "nehalem" = v2;
    "westmere" = v2;
    "sandybridge" = v2 + "avx";
    "ivybridge" = v2 + "avx";
    "x86-64-v3" = v3;
    "avx2" = v3;
    "haswell" = v3;
    "broadwell" = v3;
    "skylake" = v3;
    "znver1" = v3;
    "znver2" = v3;
    "znver3" = v3;
    "avx-vnni" = v3 + "avx_vnni";
    "alderlake" = v3 + "avx_vnni";
    "raptorlake" = v3 + "avx_vnni";
    "meteorlake" = v3 + "avx_vnni";
    "sierraforest" = v3 + "avx_vnni";
    "x86-64-v4" = v4;
    "skylake-avx512" = v4;
    "avx512-vnni" = v4 + "avx512vnni";
    "cascadelake" = v4 + "avx512vnni";
    "icelake-client" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg";
    "icelake-server" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg";
    "tigerlake" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg";
    "rocketlake" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg";
    "znver4" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg";
    "znver5" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg" + "avx_vnni";
    "sapphirerapids" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg" + "avx_vnni";
    "graniterapids" = v4 + "avx512vnni" + "avx512vbmi" + "avx512bitalg" + "avx_vnni";
};

const AARCH64: &[Cpu] = cpus! {
    "generic": [];
    "baseline": [];
    "cortex-a53": [];
    "cortex-a57": [];
    "cortex-a72": [];
    "cortex-a73": [];
    "dotprod": ["dotprod"];
    "cortex-a55": ["lse", "fp16", "dotprod"];
    "cortex-a75": ["lse", "fp16", "dotprod"];
    "cortex-a76": ["lse", "fp16", "dotprod"];
    "cortex-a77": ["lse", "fp16", "dotprod"];
    "cortex-a78": ["lse", "fp16", "dotprod"];
    "cortex-x1": ["lse", "fp16", "dotprod"];
    "neoverse-n1": ["lse", "fp16", "dotprod"];
    "apple-m1": ["lse", "fp16", "dotprod"];
    "i8mm": ["dotprod", "i8mm"];
    "cortex-a510": ["lse", "fp16", "dotprod", "i8mm"];
    "cortex-a710": ["lse", "fp16", "dotprod", "i8mm"];
    "cortex-x2": ["lse", "fp16", "dotprod", "i8mm"];
    "neoverse-v1": ["lse", "fp16", "dotprod", "i8mm"];
    "neoverse-n2": ["lse", "fp16", "dotprod", "i8mm"];
    "neoverse-v2": ["lse", "fp16", "dotprod", "i8mm"];
    "apple-m2": ["lse", "fp16", "dotprod", "i8mm"];
    "apple-m3": ["lse", "fp16", "dotprod", "i8mm"];
    "apple-m4": ["lse", "fp16", "dotprod", "i8mm"];
};

const RISCV64: &[Cpu] = cpus! {
    "generic": [];
    "baseline": [];
    "rv64gcv": ["v", "zvl32b", "zvl64b", "zvl128b"];
};

const S390X: &[Cpu] = cpus! {
    "generic": [];
    "baseline": [];
    "z14": [];
};

const TARGETS: &[TargetInfo] = &[
    TargetInfo { triple: "x86_64-unknown-linux-gnu", cpus: X86_64 },
    TargetInfo { triple: "x86_64-unknown-linux-musl", cpus: X86_64 },
    TargetInfo { triple: "x86_64-apple-darwin", cpus: X86_64 },
    TargetInfo { triple: "x86_64-pc-windows-msvc", cpus: X86_64 },
    TargetInfo { triple: "x86_64-pc-windows-gnu", cpus: X86_64 },
    TargetInfo { triple: "x86_64-unknown-freebsd", cpus: X86_64 },
    TargetInfo { triple: "x86_64-unknown-none", cpus: X86_64 },
    TargetInfo { triple: "aarch64-unknown-linux-gnu", cpus: AARCH64 },
    TargetInfo { triple: "aarch64-unknown-linux-musl", cpus: AARCH64 },
    TargetInfo { triple: "aarch64-apple-darwin", cpus: AARCH64 },
    TargetInfo { triple: "aarch64-apple-ios", cpus: AARCH64 },
    TargetInfo { triple: "aarch64-linux-android", cpus: AARCH64 },
    TargetInfo { triple: "aarch64-unknown-none", cpus: AARCH64 },
    TargetInfo { triple: "riscv64gc-unknown-linux-gnu", cpus: RISCV64 },
    TargetInfo { triple: "s390x-unknown-linux-gnu", cpus: S390X },
];

/// The CPU name of an object that carries several variants and selects one at run time.
const MULTI: &str = "multi";

/// Extensions that only leaf kernels use; Cranelift has no flag for them.
const LEAF_ONLY: &[&str] = &["avx512bw"];

/// What the code is compiled for.
#[derive(Clone, Debug)]
pub struct Target {
    triple: Triple,
    text: String,
    cpu: String,
    extensions: Vec<&'static str>,
}

/// The triples and CPU names that [`Target::parse`] accepts.
pub fn targets() -> &'static [TargetInfo] {
    TARGETS
}

impl Default for Target {
    /// The baseline CPU of the first target in the table that this machine can stand for.
    fn default() -> Self {
        Self::parse(None, None).unwrap_or_else(|_| Self {
            triple: Triple::unknown(),
            text: "unknown".into(),
            cpu: "generic".into(),
            extensions: Vec::new(),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.text, self.cpu)
    }
}

impl Target {
    /// A target from its triple (the host's when absent) and CPU name (the baseline when absent; `native` on the host).
    ///
    /// # Errors
    /// `UnknownTarget`, with near matches in the help line.
    pub fn parse(triple: Option<&str>, cpu: Option<&str>) -> Result<Self, Diagnostic> {
        let host = Triple::host();
        let text = match triple {
            Some(t) => t.to_owned(),
            // The host's exact vendor or libc does not matter to the code: take the listed triple of its family.
            None => host_triple(&host),
        };
        let Some(info) = TARGETS.iter().find(|t| t.triple == text) else {
            return Err(Diagnostic::new(Code::UnknownTarget, format!("the target {text:?} is not known")).help(near(
                "targets are",
                &text,
                TARGETS.iter().map(|t| t.triple),
            )));
        };
        let mut parsed: Triple = text.parse().map_err(|e| Diagnostic::bug(format!("the listed target {text} does not parse: {e}")))?;
        // Without an operating system there is no object format to infer; firmware is linked from ELF.
        if parsed.binary_format == BinaryFormat::Unknown {
            parsed.binary_format = BinaryFormat::Elf;
        }
        let cpu = cpu.unwrap_or(info.cpus[0].name);
        let extensions = if cpu == "native" {
            if parsed.architecture != host.architecture {
                return Err(Diagnostic::new(Code::UnknownTarget, format!("`native` is a CPU of this host, not of {text}"))
                    .help("name the CPU of the target"));
            }
            native_extensions()
        } else {
            let Some(found) = info.cpus.iter().find(|c| c.name == cpu) else {
                return Err(Diagnostic::new(Code::UnknownTarget, format!("the CPU {cpu:?} is not known for {text}")).help(near(
                    "CPUs are",
                    cpu,
                    info.cpus.iter().map(|c| c.name).chain(["native"]),
                )));
            };
            found.extensions.to_vec()
        };
        Ok(Self { triple: parsed, text, cpu: cpu.to_owned(), extensions })
    }

    /// This machine, with everything it has.
    ///
    /// # Errors
    /// `UnknownTarget` on a machine that is not in the table.
    pub fn host() -> Result<Self, Diagnostic> {
        Self::parse(None, Some("native"))
    }

    /// The triple as given.
    pub fn triple(&self) -> &str {
        &self.text
    }
    /// The CPU name as given.
    pub fn cpu(&self) -> &str {
        &self.cpu
    }
    /// Instruction-set extensions.
    pub fn extensions(&self) -> &[&'static str] {
        &self.extensions
    }
    /// Whether an extension may be used.
    pub fn has(&self, extension: &str) -> bool {
        self.extensions.contains(&extension)
    }
    /// The fastest level of this target.
    pub fn level(&self) -> Level {
        match self.triple.architecture {
            Architecture::X86_64 if ["avx512vnni", "avx512f", "avx512vl", "avx512bw"].iter().all(|e| self.has(e)) => Level::V512Dot,
            Architecture::X86_64 if self.has("avx_vnni") => Level::V256Dot,
            Architecture::X86_64 if self.has("avx512vnni") => Level::V128Dot,
            Architecture::X86_64 if self.has("avx2") && self.has("fma") => Level::V256,
            Architecture::Aarch64(_) if self.has("dotprod") || self.has("i8mm") => Level::V128Dot,
            Architecture::X86_64 | Architecture::Aarch64(_) => Level::V128,
            Architecture::Riscv64(_) if self.has("v") => Level::V128,
            _ => Level::Scalar,
        }
    }
    /// What one object carries code for, slowest first, each with its level: this target, or for `multi` every variant
    /// of [`crate::select`]. A forced level leaves the one variant that has it.
    ///
    /// # Errors
    /// `BadOption` for a level the CPU does not have.
    pub(crate) fn variants(&self, forced: Option<Level>) -> Result<Vec<(Self, Level)>, Diagnostic> {
        let names: &[&str] = if self.cpu == MULTI { &VARIANTS } else { &[&self.cpu] };
        let all = names.iter().map(|cpu| if *cpu == self.cpu { Ok(self.clone()) } else { Self::parse(Some(&self.text), Some(cpu)) });
        let all: Vec<(Self, Level)> = all.map(|t| t.map(|t| (t.clone(), t.level()))).collect::<Result<_, _>>()?;
        let Some(level) = forced else { return Ok(all) };
        match all.into_iter().rfind(|(_, best)| level <= *best) {
            Some((target, _)) => Ok(vec![(target, level)]),
            None => Err(Diagnostic::new(Code::BadOption, format!("{} does not have the level {}", self.cpu, level.name()))),
        }
    }
    /// Whether an object carries several variants and selects one at run time.
    pub fn is_multi(&self) -> bool {
        self.cpu == MULTI
    }
    /// Suffix of object files.
    pub fn object_suffix(&self) -> &'static str {
        if self.text.contains("windows") { "obj" } else { "o" }
    }

    pub(crate) fn lexicon(&self) -> &Triple {
        &self.triple
    }

    /// The code generator for this target; `schedule` lets it reorder and share computations,
    /// `pic` makes code for any address.
    pub(crate) fn isa(&self, schedule: bool, pic: bool) -> Result<OwnedTargetIsa, Diagnostic> {
        let bug = |e: &dyn std::fmt::Display| Diagnostic::bug(format!("code generator settings for {}: {e}", self.text));
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", if schedule { "speed" } else { "none" }),
            ("is_pic", if pic { "true" } else { "false" }),
            // Frames are small (leaves, whose frames may not be, touch theirs), and a probe would be an undefined symbol.
            ("enable_probestack", "false"),
            ("enable_verifier", "true"),
        ] {
            flags.set(name, value).map_err(|e| bug(&e))?;
        }
        let mut builder = isa::lookup(self.triple.clone()).map_err(|e| bug(&e))?;
        for extension in self.extensions.iter().filter(|e| !LEAF_ONLY.contains(e)) {
            builder.enable(&format!("has_{extension}")).map_err(|e| bug(&e))?;
        }
        builder.finish(settings::Flags::new(flags)).map_err(|e| bug(&e))
    }
}

fn host_triple(host: &Triple) -> String {
    let text = host.to_string();
    if TARGETS.iter().any(|t| t.triple == text) {
        return text;
    }
    let family = |t: &&TargetInfo| {
        t.triple.parse::<Triple>().is_ok_and(|t| t.architecture == host.architecture && t.operating_system == host.operating_system)
    };
    TARGETS.iter().find(family).map_or(text, |t| t.triple.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn native_extensions() -> Vec<&'static str> {
    macro_rules! probe {
        ($($ours:tt $theirs:tt),*) => {
            [$(($ours, std::arch::is_x86_feature_detected!($theirs))),*]
        };
    }
    let found = probe!(
        "cmpxchg16b" "cmpxchg16b", "sse3" "sse3", "ssse3" "ssse3", "sse41" "sse4.1", "sse42" "sse4.2", "popcnt" "popcnt", "avx" "avx",
        "avx2" "avx2", "fma" "fma", "bmi1" "bmi1", "bmi2" "bmi2", "lzcnt" "lzcnt", "avx512f" "avx512f", "avx512dq" "avx512dq",
        "avx512vl" "avx512vl", "avx512bw" "avx512bw", "avx512vbmi" "avx512vbmi", "avx512bitalg" "avx512bitalg", "avx512vnni" "avx512vnni", "avx_vnni" "avxvnni"
    );
    found.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn native_extensions() -> Vec<&'static str> {
    let found = [
        ("lse", std::arch::is_aarch64_feature_detected!("lse")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    found.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn native_extensions() -> Vec<&'static str> {
    Vec::new()
}

/// The names closest to what was asked, nearest first.
fn near<'a>(lead: &str, asked: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut ranked: Vec<_> = names.map(|n| (distance(asked, n), n)).collect();
    ranked.sort();
    let list: Vec<_> = ranked.iter().take(6).map(|(_, n)| *n).collect();
    format!("{lead}, nearest first: {}; `quernel targets` lists all", list.join(", "))
}

fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == y { corner } else { 1 + corner.min(row[j]).min(row[j + 1]) };
            corner = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_target_and_cpu_makes_a_code_generator() {
        for info in targets() {
            for cpu in info.cpus {
                let target = Target::parse(Some(info.triple), Some(cpu.name)).unwrap();
                for schedule in [false, true] {
                    target.isa(schedule, true).unwrap();
                }
            }
        }
    }

    #[test]
    fn unknown_names_are_errors_with_near_matches() {
        let e = Target::parse(Some("x86_64-linux-gnu"), None).unwrap_err();
        assert_eq!(e.code, Code::UnknownTarget);
        assert!(e.help.unwrap().contains("x86_64-unknown-linux-gnu"));
        let e = Target::parse(Some("x86_64-unknown-linux-gnu"), Some("znver")).unwrap_err();
        assert!(e.help.unwrap().contains("znver4"));
    }

    #[test]
    fn cpu_names_pick_the_level() {
        let level = |t, c| Target::parse(Some(t), Some(c)).unwrap().level();
        assert_eq!(level("x86_64-unknown-linux-gnu", "x86-64"), Level::V128);
        assert_eq!(level("x86_64-unknown-linux-gnu", "znver4"), Level::V512Dot);
        assert_eq!(level("x86_64-unknown-linux-gnu", "alderlake"), Level::V256Dot);
        assert_eq!(level("x86_64-unknown-linux-gnu", "haswell"), Level::V256);
        assert_eq!(level("aarch64-apple-darwin", "apple-m1"), Level::V128Dot);
        assert_eq!(level("riscv64gc-unknown-linux-gnu", "generic"), Level::Scalar);
        assert_eq!(level("riscv64gc-unknown-linux-gnu", "rv64gcv"), Level::V128);
        assert!(Target::host().unwrap().has("sse3") || !cfg!(target_arch = "x86_64"));
    }
}
