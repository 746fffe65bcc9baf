//! Compiled code in this process: the same functions as in an object, in executable memory.

use crate::{
    Options,
    network::{self, Keep, bug, port_bytes},
    select::VARIANTS,
    target::Target,
};
use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use quernel_ir::{
    diag::{Code, Diagnostic},
    program::{ALIGN, Program, What},
};
use std::time::Instant;

/// More than the code of a kernel takes.
const KERNEL_BYTES: usize = 256 << 10;
/// More than a call of a kernel and the check of a port take, here and in a function of the step's own.
const CALL_BYTES: usize = 2 << 10;

type Run = unsafe extern "C" fn(*const *const u8, *const *mut u8, *mut u8) -> i32;

/// A compiled program with its arena.
pub struct Jit {
    module: Option<JITModule>,
    /// The word that remembers the variant.
    selected: Option<*mut u32>,
    run: Run,
    steps: Vec<Run>,
    kernels: Vec<String>,
    cycles: Vec<Option<u64>>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    arena: Aligned,
    results: Vec<Aligned>,
}

/// Bytes aligned to [`ALIGN`].
struct Aligned {
    blocks: Vec<Block>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block([u8; ALIGN]);

impl Aligned {
    fn new(bytes: usize) -> Self {
        Self { blocks: vec![Block([0; ALIGN]); bytes.div_ceil(ALIGN).max(1)] }
    }
    fn pointer(&mut self) -> *mut u8 {
        self.blocks.as_mut_ptr().cast()
    }
    fn copy(&self, bytes: usize) -> Vec<u8> {
        self.blocks.iter().flat_map(|b| b.0).take(bytes).collect()
    }
}

impl Jit {
    /// Compiles a program for this machine, at `options.level` or its fastest level.
    ///
    /// # Errors
    /// Those of [`crate::object`]; `LimitExceeded` when memory for the code is not to be had.
    pub fn new(p: &Program, options: &Options) -> Result<Self, Diagnostic> {
        Self::for_target(p, &Target::host()?, options)
    }

    /// Compiles a program for a CPU of this architecture. The caller sees to it that this machine has what it needs.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn for_target(p: &Program, target: &Target, options: &Options) -> Result<Self, Diagnostic> {
        if target.lexicon().architecture != target_lexicon::Triple::host().architecture {
            return Err(Diagnostic::new(Code::UnknownTarget, format!("{} code does not run on this machine", target.triple())));
        }
        let host = Target::host()?;
        if let Some(lacking) = target.extensions().iter().find(|e| !host.has(e)) {
            let message = format!("code for {} does not run on this machine, which has no {lacking}", target.cpu());
            return Err(Diagnostic::new(Code::UnknownTarget, message).help("`--target-cpu native` names this machine"));
        }
        Self::unchecked(p, target, options)
    }

    /// Compiles a program for a CPU of this architecture that this machine may be unable to stand for: for an emulator.
    ///
    /// # Errors
    /// Those of [`crate::object`]; `LimitExceeded` when memory for the code is not to be had.
    pub fn unchecked(p: &Program, target: &Target, options: &Options) -> Result<Self, Diagnostic> {
        let mut builder = JITBuilder::with_isa(target.isa(true, false)?, cranelift_module::default_libcall_names());
        // Code and constants in one reservation, so that 32-bit displacements reach.
        let mut distinct: Vec<&What> = Vec::new();
        for step in &p.steps {
            if !distinct.contains(&&step.what) {
                distinct.push(&step.what);
            }
        }
        let reserve = 3 * p.constant_bytes() + (distinct.len() + 64) * KERNEL_BYTES + (p.steps.len() + p.outputs.len()) * CALL_BYTES;
        let memory = ArenaMemoryProvider::new_with_size(reserve)
            .map_err(|e| Diagnostic::new(Code::LimitExceeded, format!("no executable memory: {e}")))?;
        builder.memory_provider(Box::new(memory));
        let mut module = JITModule::new(builder);
        let network = network::define(&mut module, p, target, options, Keep::default(), true)?;
        module.finalize_definitions().map_err(bug)?;
        // SAFETY: the functions were defined with exactly this signature and live as long as the module.
        let function = |id| unsafe { std::mem::transmute::<*const u8, Run>(module.get_finalized_function(id)) };
        let selected = network.selected.map(|id| module.get_finalized_data(id).0.cast_mut().cast());
        Ok(Self {
            selected,
            run: function(network.run_v),
            steps: network.step_calls.iter().map(|&id| function(id)).collect(),
            kernels: network.step_functions.iter().map(|&f| network.functions[f].kernel.clone()).collect(),
            cycles: network.step_functions.iter().map(|&f| network.functions[f].cycles).collect(),
            inputs: p.inputs.iter().map(|q| port_bytes(&q.ty)).collect(),
            outputs: p.outputs.iter().map(|q| port_bytes(&q.ty)).collect(),
            arena: Aligned::new(p.arena_bytes),
            results: p.outputs.iter().map(|q| Aligned::new(port_bytes(&q.ty))).collect(),
            module: Some(module),
        })
    }

    /// Runs the network on the bytes of its inputs (in call order, native byte order) and returns those of its outputs.
    ///
    /// # Errors
    /// `Internal` when an input does not have the length of its type.
    pub fn run(&mut self, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, Diagnostic> {
        self.call(inputs, |run, _, i, o, a| {
            // SAFETY: lengths were checked, the arena is aligned, the outputs have their full length.
            unsafe { run(i, o, a) }
        })?;
        Ok(self.results.iter().zip(&self.outputs).map(|(r, &n)| r.copy(n)).collect())
    }

    /// Like [`Self::run`], but `call` calls the address of the code with the addresses of inputs, outputs and arena.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub fn run_by(&mut self, inputs: &[&[u8]], mut call: impl FnMut(usize, [u64; 3]) -> i32) -> Result<Vec<Vec<u8>>, Diagnostic> {
        self.call(inputs, |run, _, i, o, a| call(run as usize, [i as u64, o as u64, a as u64]))?;
        Ok(self.results.iter().zip(&self.outputs).map(|(r, &n)| r.copy(n)).collect())
    }

    /// The address of the code that [`Self::run_at`] calls.
    pub fn entry(&self) -> usize {
        self.run as usize
    }

    /// Runs the network on memory of the caller, like `NAME_run_v` of an object, and returns its code.
    ///
    /// # Safety
    /// `inputs` and `outputs` point to as many pointers as the program has ports, each to the bytes of its port aligned to
    /// its elements; `arena` has the program's `arena_bytes`, aligned to [`ALIGN`]. Parts of the arena that no slot of the
    /// program and no overread of it covers may be missing.
    pub unsafe fn run_at(&self, inputs: *const *const u8, outputs: *const *mut u8, arena: *mut u8) -> i32 {
        // SAFETY: the caller's promise.
        unsafe { (self.run)(inputs, outputs, arena) }
    }

    /// Makes a network of several variants run that one, whatever the CPU is best at; `false` when there is no such
    /// variant. Numbers are from 0, slowest first. The caller vouches that this CPU has its instructions.
    pub fn force_variant(&mut self, number: u32) -> bool {
        match self.selected {
            Some(word) if (number as usize) < VARIANTS.len() => {
                // SAFETY: a 32-bit word of the module's writable data, which lives as long as `self`.
                unsafe { word.write_volatile(number + 1) };
                true
            }
            _ => false,
        }
    }

    /// The variant that a network of several selected, from 0; `None` before the first call and for one variant.
    pub fn variant(&self) -> Option<u32> {
        // SAFETY: as in `force_variant`; the word is read after the code that writes it has returned.
        self.selected.and_then(|word| unsafe { word.read_volatile() }.checked_sub(1))
    }

    /// The leaf kernel of every step, by its contract; empty for code of Cranelift.
    pub fn kernels(&self) -> &[String] {
        &self.kernels
    }

    /// The cycles that the cost model predicts for every step, on the core it was fitted on.
    pub fn predicted_cycles(&self) -> &[Option<u64>] {
        &self.cycles
    }

    /// Runs the network step by step and returns the nanoseconds of each; outputs are discarded. The entry guard is
    /// skipped: this thread runs with the default rounding mode.
    ///
    /// # Errors
    /// Those of [`Self::run`]; `Internal` for code without [`Options::steps`].
    pub fn run_timed(&mut self, inputs: &[&[u8]]) -> Result<Vec<u64>, Diagnostic> {
        if self.steps.len() != self.kernels.len() {
            return Err(Diagnostic::bug("this code has no functions for single steps"));
        }
        let mut times = Vec::with_capacity(self.steps.len());
        self.call(inputs, |_, steps, i, o, a| {
            for step in steps {
                let start = Instant::now();
                // SAFETY: as in `run`; steps run in order.
                let code = unsafe { step(i, o, a) };
                times.push(start.elapsed().as_nanos() as u64);
                if code != 0 {
                    return code;
                }
            }
            0
        })?;
        Ok(times)
    }

    fn call(
        &mut self,
        inputs: &[&[u8]],
        run: impl FnOnce(Run, &[Run], *const *const u8, *const *mut u8, *mut u8) -> i32,
    ) -> Result<(), Diagnostic> {
        let lengths: Vec<usize> = inputs.iter().map(|i| i.len()).collect();
        if lengths != self.inputs {
            return Err(Diagnostic::bug(format!("inputs have {lengths:?} bytes instead of {:?}", self.inputs)));
        }
        // Inputs need their natural alignment; a byte slice promises none.
        let mut copies: Vec<Aligned> = Vec::new();
        let pointers: Vec<*const u8> = inputs
            .iter()
            .map(|i| {
                if i.as_ptr().align_offset(8) == 0 {
                    return i.as_ptr();
                }
                let mut copy = Aligned::new(i.len());
                for (block, bytes) in copy.blocks.iter_mut().zip(i.chunks(ALIGN)) {
                    block.0[..bytes.len()].copy_from_slice(bytes);
                }
                let pointer = copy.pointer().cast_const();
                copies.push(copy);
                pointer
            })
            .collect();
        let results: Vec<*mut u8> = self.results.iter_mut().map(Aligned::pointer).collect();
        match run(self.run, &self.steps, pointers.as_ptr(), results.as_ptr(), self.arena.pointer()) {
            0 => Ok(()),
            code => Err(Diagnostic::bug(format!("compiled code returned {code}"))),
        }
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the function pointers into this memory go with `self`.
            unsafe { module.free_memory() }
        }
    }
}
