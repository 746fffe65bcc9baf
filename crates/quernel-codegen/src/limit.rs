//! How fast this machine multiplies integers when nothing else is in the way: the measure of a kernel.

use crate::{
    leaf::asm::{Asm, Emitted, xmm, ymm, zmm},
    network::bug,
    target::{Level, Target},
};
use cranelift_codegen::ir::AbiParam;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use iced_x86::code_asm::*;
use quernel_ir::diag::Diagnostic;
use std::time::{Duration, Instant};

/// Independent accumulators: enough to hide every latency.
const ACCUMULATORS: usize = 12;
/// Times the accumulators are walked in one turn of the loop.
const WALKS: usize = 4;

/// Multiply-accumulates per nanosecond of a loop over registers with the multiply instruction of `level`; `None` where
/// the level has none (or this is not x86-64).
///
/// # Errors
/// `Internal` when no executable memory can be had.
pub fn register_limit(level: Level) -> Result<Option<f64>, Diagnostic> {
    if !cfg!(target_arch = "x86_64") || !Level::host().contains(&level) {
        return Ok(None);
    }
    let Some(macs) = macs(level) else { return Ok(None) };
    let vex = level == Level::V256Dot && Target::host()?.has("avx_vnni");
    let code = code(level, vex).map_err(bug)?;
    let mut module = JITModule::new(JITBuilder::with_isa(Target::host()?.isa(true, false)?, default_libcall_names()));
    let mut signature = module.make_signature();
    signature.params = vec![AbiParam::new(cranelift_codegen::ir::types::I64); 2];
    let id = module.declare_function("limit", Linkage::Local, &signature).map_err(bug)?;
    module.define_function_bytes(id, 64, &code, &[]).map_err(bug)?;
    module.finalize_definitions().map_err(bug)?;
    // SAFETY: defined above with this signature; the loop touches registers only and ends when the count is used up.
    let run: unsafe extern "C" fn(u64, u64) = unsafe { std::mem::transmute(module.get_finalized_function(id)) };
    const TURNS: u64 = 20_000;
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(60) {
        let one = Instant::now();
        // SAFETY: as above.
        unsafe { run(TURNS, TURNS) };
        best = best.min(one.elapsed().as_nanos() as f64);
    }
    // SAFETY: `run` is not called again.
    unsafe { module.free_memory() };
    Ok(Some(macs * (ACCUMULATORS * WALKS) as f64 * TURNS as f64 / best.max(1.0)))
}

/// Clock of this core under integer multiplies, in GHz; `None` where the multiplies that start per cycle are not known (two
/// of 256 bits on x86-64 with AVX2).
///
/// # Errors
/// Those of [`register_limit`].
pub fn clock() -> Result<Option<f64>, Diagnostic> {
    Ok(register_limit(Level::V256)?.map(|limit| limit / 32.0))
}

/// Multiply-accumulates of one instruction.
fn macs(level: Level) -> Option<f64> {
    match level {
        Level::V512Dot => Some(64.0),
        Level::V256Dot => Some(32.0),
        Level::V128Dot | Level::V256 => Some(16.0),
        Level::V128 => Some(8.0),
        Level::Scalar => None,
    }
}

/// The count comes in the first register of either calling convention; both are set.
fn code(level: Level, vex: bool) -> Emitted<Vec<u8>> {
    let mut f = if vex || matches!(level, Level::V128 | Level::V256) { Asm::vex()? } else { Asm::new()? };
    f.a.mov(rax, if cfg!(windows) { rcx } else { rdi })?;
    let mut top = f.a.create_label();
    f.a.set_label(&mut top)?;
    for i in (0..ACCUMULATORS * WALKS).map(|i| i % ACCUMULATORS) {
        // Registers of the caller are used up to 5 on Windows only; this is a measurement, so others are not saved there.
        match level {
            Level::V512Dot => f.a.vpdpbusd(zmm(16 + i), zmm(28), zmm(29))?,
            Level::V256Dot if vex => f.a.vpdpbusd(ymm(i), ymm(14), ymm(15))?,
            Level::V256Dot => f.a.vpdpbusd(ymm(16 + i), ymm(28), ymm(29))?,
            Level::V128Dot => f.a.vpdpbusd(xmm(16 + i), xmm(28), xmm(29))?,
            Level::V256 => f.a.vpmaddwd(ymm(i), ymm(14), ymm(15))?,
            _ => f.a.vpmaddwd(xmm(i), xmm(14), xmm(15))?,
        }
    }
    f.a.dec(rax)?;
    f.a.jnz(top)?;
    f.a.vzeroupper()?;
    f.a.ret()?;
    f.finish()
}
