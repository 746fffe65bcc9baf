//! The CPUs that tests run compiled code on: this one at each of its levels, and emulated ones.

use quernel_codegen::{Jit, Level, Options, Target};
use quernel_ir::{diag::Diagnostic, program::Program};

/// A CPU and a level of it.
pub struct Machine {
    pub target: Target,
    pub level: Level,
    /// Whether this machine lacks some of its instructions.
    pub emulated: bool,
}

/// CPUs whose code differs from one another's, with the level: AVX-512 with and without byte permutations, the two
/// encodings of 256-bit dot products, 128-bit dot products beside AVX-512.
#[cfg(target_arch = "x86_64")]
const NAMED: [(&str, Level); 6] = [
    ("icelake-server", Level::V512Dot),
    ("cascadelake", Level::V512Dot),
    ("alderlake", Level::V256Dot),
    ("cascadelake", Level::V256Dot),
    ("alderlake", Level::V128Dot),
    ("icelake-server", Level::V128Dot),
];
#[cfg(not(target_arch = "x86_64"))]
const NAMED: [(&str, Level); 0] = [];

/// This machine at every level it has, then the named CPUs.
pub fn machines() -> Vec<Machine> {
    let host = Target::host().unwrap();
    let mut all: Vec<Machine> = Level::host().into_iter().map(|level| Machine { target: host.clone(), level, emulated: false }).collect();
    for (cpu, level) in NAMED {
        let target = Target::parse(None, Some(cpu)).unwrap();
        let emulated = !target.extensions().iter().all(|e| host.has(e));
        all.push(Machine { target, level, emulated });
    }
    all
}

/// The machines for case `number` of a test with many: all levels that run natively, one of the named CPUs.
pub fn some(number: u64) -> Vec<Machine> {
    let (mut all, natively) = (machines(), Level::host().len());
    if all.len() > natively {
        let named = all.drain(natively..).nth(number as usize % NAMED.len());
        all.extend(named);
    }
    all
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}{}", self.target.cpu(), self.level.name(), if self.emulated { ", emulated" } else { "" })
    }
}

impl Machine {
    /// A program compiled for it.
    pub fn compile(&self, p: &Program) -> Result<Jit, Diagnostic> {
        Jit::unchecked(p, &self.target, &Options { level: Some(self.level), ..Options::default() })
    }

    /// Runs compiled code on the bytes of its inputs.
    pub fn run(&self, jit: &mut Jit, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, Diagnostic> {
        #[cfg(target_arch = "x86_64")]
        if self.emulated {
            return jit.run_by(inputs, |entry, arguments| super::emulator::Cpu::new(false).call(entry, &arguments) as i32);
        }
        jit.run(inputs)
    }

    /// Runs compiled code of no ports in an arena.
    ///
    /// # Safety
    /// As for [`Jit::run_at`].
    pub unsafe fn run_in(&self, jit: &Jit, arena: *mut u8) -> i32 {
        let none: [*const u8; 0] = [];
        #[cfg(target_arch = "x86_64")]
        if self.emulated {
            let at = none.as_ptr() as u64;
            return super::emulator::Cpu::new(false).call(jit.entry(), &[at, at, arena as u64]) as i32;
        }
        // SAFETY: the caller's promise.
        unsafe { jit.run_at(none.as_ptr(), none.as_ptr().cast(), arena) }
    }
}
