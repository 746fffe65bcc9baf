//! What Cargo tells a build script, and the target it means.

use quernel::{
    Failure,
    codegen::{Target, targets},
    ir::{Code, Diagnostic},
};
use std::path::PathBuf;

/// The part of a build script's environment that matters here.
#[derive(Clone, Debug)]
pub struct Cargo {
    /// `TARGET`.
    pub triple: String,
    /// `CARGO_CFG_TARGET_ARCH`, `.._OS`, `.._ENV`.
    pub arch: String,
    pub os: String,
    pub env: String,
    /// `CARGO_CFG_TARGET_FEATURE`.
    pub features: Vec<String>,
    /// `OUT_DIR`.
    pub out: PathBuf,
    /// `CARGO_PKG_NAME`.
    pub package: String,
}

impl Cargo {
    /// Reads the environment.
    ///
    /// # Errors
    /// `BadOption` where Cargo did not set it.
    pub fn from_environment() -> Result<Self, Failure> {
        let set = |name: &str| {
            std::env::var(name).map_err(|_| {
                Diagnostic::new(Code::BadOption, format!("{name} is not set; Cargo sets it for build scripts"))
                    .help("call this from build.rs")
            })
        };
        let list = |name: &str| std::env::var(name).unwrap_or_default().split(',').map(str::to_owned).collect();
        Ok(Self {
            triple: set("TARGET")?,
            arch: set("CARGO_CFG_TARGET_ARCH")?,
            os: set("CARGO_CFG_TARGET_OS")?,
            env: std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default(),
            features: list("CARGO_CFG_TARGET_FEATURE"),
            out: set("OUT_DIR")?.into(),
            package: set("CARGO_PKG_NAME")?,
        })
    }

    /// Whether Microsoft's linker takes the library.
    pub fn msvc(&self) -> bool {
        self.env == "msvc"
    }

    /// The target of the compiler: Cargo's triple, or the listed one of the same family, whose code is the same.
    ///
    /// # Errors
    /// `UnknownTarget` when there is none, and for a CPU the target does not have.
    pub fn target(&self, cpu: Option<&str>) -> Result<Target, Failure> {
        let known = |triple: &str| targets().iter().any(|t| t.triple == triple);
        let triple = if known(&self.triple) {
            self.triple.clone()
        } else {
            self.family().filter(|t| known(t)).unwrap_or_else(|| self.triple.clone())
        };
        let cpu = cpu.or_else(|| self.cpu());
        Ok(Target::parse(Some(&triple), cpu)?)
    }

    /// The usual triple of this architecture and system.
    fn family(&self) -> Option<String> {
        let arch = if self.arch == "riscv64" { "riscv64gc" } else { &self.arch };
        let rest = match (&*self.os, &*self.env) {
            ("linux", "musl") if arch == "x86_64" || arch == "aarch64" => "unknown-linux-musl",
            ("linux", _) => "unknown-linux-gnu",
            ("macos", _) => "apple-darwin",
            ("ios" | "tvos" | "watchos" | "visionos", _) => "apple-ios",
            ("windows", "msvc") => "pc-windows-msvc",
            ("windows", _) => "pc-windows-gnu",
            ("android", _) => "linux-android",
            ("freebsd" | "netbsd" | "openbsd" | "dragonfly", _) => "unknown-freebsd",
            ("none" | "uefi", _) => "unknown-none",
            _ => return None,
        };
        Some(format!("{arch}-{rest}"))
    }

    /// The CPU that Cargo's target features promise. On x86-64 the default, an object that asks the CPU, is better.
    fn cpu(&self) -> Option<&'static str> {
        let has = |feature: &str| self.features.iter().any(|f| f == feature);
        match &*self.arch {
            "aarch64" if has("i8mm") && has("dotprod") => Some("i8mm"),
            "aarch64" if has("dotprod") => Some("dotprod"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cargo(triple: &str, arch: &str, os: &str, env: &str, features: &str) -> Cargo {
        Cargo {
            triple: triple.into(),
            arch: arch.into(),
            os: os.into(),
            env: env.into(),
            features: features.split(',').map(str::to_owned).collect(),
            out: PathBuf::new(),
            package: "p".into(),
        }
    }

    #[test]
    fn triples_map_to_listed_ones() {
        for (triple, arch, os, env, want) in [
            ("x86_64-unknown-linux-gnu", "x86_64", "linux", "gnu", "x86_64-unknown-linux-gnu"),
            ("x86_64-alpine-linux-musl", "x86_64", "linux", "musl", "x86_64-unknown-linux-musl"),
            ("riscv64gc-unknown-linux-musl", "riscv64", "linux", "musl", "riscv64gc-unknown-linux-gnu"),
            ("aarch64-apple-ios-sim", "aarch64", "ios", "", "aarch64-apple-ios"),
            ("x86_64-pc-windows-gnullvm", "x86_64", "windows", "gnu", "x86_64-pc-windows-gnu"),
            ("aarch64-unknown-none-softfloat", "aarch64", "none", "", "aarch64-unknown-none"),
        ] {
            assert_eq!(cargo(triple, arch, os, env, "").target(None).unwrap().triple(), want);
        }
        let e = cargo("wasm32-unknown-unknown", "wasm32", "unknown", "", "").target(None).unwrap_err();
        assert_eq!(e.0[0].code, Code::UnknownTarget);
        assert!(e.to_string().contains("wasm32-unknown-unknown"), "{e}");
    }

    #[test]
    fn features_pick_the_cpu() {
        let cpu = |features: &str| cargo("aarch64-apple-darwin", "aarch64", "macos", "", features).target(None).unwrap().cpu().to_owned();
        assert_eq!([cpu("neon"), cpu("dotprod,neon"), cpu("dotprod,i8mm")], ["generic", "dotprod", "i8mm"]);
        let x86 = cargo("x86_64-unknown-linux-gnu", "x86_64", "linux", "gnu", "avx2,sse2");
        assert_eq!(x86.target(None).unwrap().cpu(), "multi");
        assert_eq!(x86.target(Some("znver4")).unwrap().cpu(), "znver4");
    }
}
