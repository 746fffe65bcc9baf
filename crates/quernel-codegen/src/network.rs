//! A program as functions of a module: one per distinct step, a body that calls them in order, the guarded entry.
//!
//! Call chain: `NAME_run(inputs.., outputs.., arena)` gathers its arguments into two arrays and calls `NAME_run_v`, the
//! entry guard, which calls the body; the body checks its arguments and calls the steps with the addresses of their slots.

use crate::{
    Options,
    emit::{Emitter, Machine},
    guard, info, kernels,
    kernels::{Argument, Calls, Kernel, Plan},
    leaf::{self, Leaf},
    select,
    target::{Level, Target},
};
use cranelift_codegen::{
    Context,
    binemit::Reloc,
    ir::{
        AbiParam, BlockArg, Endianness, FuncRef, Function, GlobalValue, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind,
        UserFuncName, Value,
        condcodes::IntCC,
        types::{I32, I64},
    },
    isa::{CallConv, OwnedTargetIsa},
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleReloc, ModuleRelocTarget};
use quernel_ir::{
    arena::Id,
    diag::{Code, Diagnostic},
    program::{ALIGN, Base, Blob, Program, READ_SLACK, Slot, Step, What},
};
use std::collections::BTreeSet;
use target_lexicon::Architecture;

/// `NAME_run`'s code for a NULL pointer.
pub const ERROR_NULL: i64 = -1;
/// `NAME_run`'s code for an arena that is not aligned.
pub const ERROR_ALIGNMENT: i64 = -2;

/// A function that was defined.
#[derive(Clone, Debug)]
pub struct Record {
    /// The function.
    pub id: FuncId,
    /// Symbol.
    pub name: String,
    /// First step that uses it.
    pub step: Option<usize>,
    /// Kernel, by its contract; empty for glue.
    pub kernel: String,
    /// Cycles that the cost model predicts for a call, where there is a model.
    pub cycles: Option<u64>,
    /// Code bytes.
    pub bytes: usize,
    /// Stack bytes of a call, return address included.
    pub frame: usize,
    /// CLIF text, when asked for.
    pub clif: String,
    /// Disassembly, when asked for.
    pub assembly: String,
}

/// Texts to keep of each function.
#[derive(Clone, Copy, Default, Debug)]
pub struct Keep {
    /// CLIF.
    pub clif: bool,
    /// Disassembly.
    pub assembly: bool,
}

/// A program in a module.
pub struct Network {
    /// In order of definition.
    pub functions: Vec<Record>,
    /// For every step the function that computes it, as an index into `functions`; of the fastest variant.
    pub step_functions: Vec<usize>,
    /// `NAME_run_v`.
    pub run_v: FuncId,
    /// The word that remembers which variant runs; `None` in an object of one variant.
    pub selected: Option<DataId>,
    /// One function per step with the signature of the body, of the fastest variant; where [`Options::steps`] asks for them.
    pub step_calls: Vec<FuncId>,
    /// Bytes of the constant section.
    pub rodata_bytes: usize,
    /// Stack bytes of a call of `NAME_run`.
    pub stack_bytes: usize,
}

/// Checks that a program's steps have the slots their kinds need and that slots lie inside their bases.
fn check(p: &Program) -> Result<(), Diagnostic> {
    for (index, step) in p.steps.iter().enumerate() {
        let bad = |why: &str| Err(Diagnostic::bug(format!("step {index} ({}): {why}", step.what.name())));
        if (step.reads.len(), step.writes.len()) != kernels::arity(&step.what) {
            return bad("wrong number of slots");
        }
        for slot in step.reads.iter().chain(&step.writes) {
            let size = match slot.base {
                Base::Arena => Some(p.arena_bytes),
                Base::Input(i) => p.inputs.get(i as usize).map(|q| port_bytes(&q.ty)),
                Base::Output(i) => p.outputs.get(i as usize).map(|q| port_bytes(&q.ty)),
                Base::Blob(b) => p.blobs.get(b).map(|b| b.bytes.len()),
            };
            let inside = |size| slot.offset.checked_add(slot.bytes).is_some_and(|end| end <= size);
            if size.is_none_or(|size| !inside(size)) {
                return bad("a slot lies outside its base");
            }
        }
        // Panels are packed for kernels that read behind the ends of rows.
        if matches!(step.what, What::MatMulBytes { .. } | What::PackPanels { .. })
            && matches!(step.reads[0].base, Base::Input(_) | Base::Output(_))
        {
            return bad("reads rows from a caller's buffer");
        }
    }
    Ok(())
}

/// Bytes of a caller's tensor.
pub fn port_bytes(ty: &quernel_ir::ty::TensorTy) -> usize {
    ty.bytes()
}

/// Defines a program in `module`; `in_process` for execution here, without `NAME_run`: calibration hands out every value as an
/// output, and the work on a function grows with the square of its parameters.
pub fn define<M: Module>(
    module: &mut M,
    p: &Program,
    target: &Target,
    options: &Options,
    keep: Keep,
    in_process: bool,
) -> Result<Network, Diagnostic> {
    check(p)?;
    let variants = target.variants(options.level)?;
    let prefix = &options.name;
    let mut letters = prefix.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Diagnostic::new(Code::BadOption, format!("the name {prefix:?} is not an identifier of C"))
            .help("use letters, digits and underscores"));
    }
    let mut derived = Vec::new();
    let choices: Vec<Choice> = variants.iter().map(|(t, level)| Choice::new(p, t, *level, &mut derived)).collect();
    let plans = choices.iter().flat_map(|c| &c.plans).flat_map(|plan| &plan.arguments);
    let used: BTreeSet<Blob> =
        plans.filter_map(|a| if let Argument::Slot(Slot { base: Base::Blob(b), .. }) = a { Some(*b) } else { None }).collect();
    let (blob_at, derived_at, constants) = constants(p, &used, &derived);
    let rodata_bytes = constants.len();
    let rodata = module.declare_data(&format!("{prefix}_constants"), Linkage::Local, false, false).map_err(bug)?;
    let mut data = DataDescription::new();
    data.define(constants.into_boxed_slice());
    data.set_align(ALIGN as u64);
    module.define_data(rodata, &data).map_err(bug)?;

    let mut c = Compiler {
        isa: target.isa(true, !in_process)?,
        as_written: target.isa(false, !in_process)?,
        setup: match target.lexicon().architecture {
            // The frame has the area where callees save registers.
            Architecture::S390x => 0,
            _ => 16,
        },
        module,
        ctx: Context::new(),
        fctx: FunctionBuilderContext::new(),
        records: Vec::new(),
        keep,
    };

    let mut leaves: Vec<(&Leaf, FuncId)> = Vec::new();
    let mut bodies = Vec::new();
    let mut step_calls = Vec::new();
    let mut step_functions = Vec::new();
    let mut stack_bytes = 0;
    for (number, choice) in choices.iter().enumerate() {
        let suffix = if choices.len() == 1 { String::new() } else { format!("__{}", variants[number].0.cpu().replace('-', "_")) };
        (c.isa, c.as_written) = (variants[number].0.isa(true, !in_process)?, variants[number].0.isa(false, !in_process)?);
        let calls = c.steps(p, prefix, &suffix, choice, &mut leaves)?;
        let deepest = c.records.iter().map(|r| r.frame).max().unwrap_or(0);
        step_functions = calls.iter().map(|call| c.records.iter().position(|r| r.id == call.id).unwrap_or(0)).collect();
        let addresses = Addresses { p, plans: &choice.plans, blob_at: &blob_at, derived_at: &derived_at, rodata };
        bodies.push(c.body(&format!("{prefix}_body{suffix}"), &addresses, &calls, choices.len() == 1)?);
        stack_bytes = stack_bytes.max(deepest + c.records.last().map_or(0, |r| r.frame));
        if in_process && options.steps && number + 1 == choices.len() {
            let one = |(i, call): (usize, &Call)| c.body(&format!("{prefix}_step{i}"), &addresses, std::slice::from_ref(call), false);
            step_calls = calls.iter().enumerate().map(one).collect::<Result<_, _>>()?;
        }
    }
    (c.isa, c.as_written) = (target.isa(true, !in_process)?, target.isa(false, !in_process)?);
    let mut selected = None;
    let body = match bodies[..] {
        [one] => one,
        _ => {
            let word = module_word(c.module, &format!("{prefix}_variant"))?;
            selected = Some(word);
            let body = c.selector(prefix, p, &bodies, word)?;
            stack_bytes += c.records.last().map_or(0, |r| r.frame);
            body
        }
    };

    let run_v = c.guard(&format!("{prefix}_run_v"), target, body, &mut stack_bytes)?;
    if !in_process {
        c.entry(&format!("{prefix}_run"), p, run_v)?;
        stack_bytes += c.records.last().map_or(0, |r| r.frame);
    }
    stack_bytes = stack_bytes.next_multiple_of(16);
    if !in_process {
        c.info(prefix, &info::info(p, target, options, stack_bytes))?;
    }
    Ok(Network { functions: c.records, step_functions, run_v, selected, step_calls, rodata_bytes, stack_bytes })
}

/// All constants that are used in one run of bytes, and where blobs and derived constants lie in it.
fn constants(p: &Program, used: &BTreeSet<Blob>, derived: &[Vec<u8>]) -> (Vec<usize>, Vec<usize>, Vec<u8>) {
    let (blob_at, blob_end) = p.blob_offsets(|b| used.contains(&b));
    let mut bytes = vec![0u8; blob_end.next_multiple_of(ALIGN)];
    for (id, blob) in p.blobs.iter().filter(|(id, _)| used.contains(id)) {
        let at = blob_at[id.index()];
        bytes[at..at + blob.bytes.len()].copy_from_slice(&blob.bytes);
    }
    let mut derived_at = Vec::new();
    for d in derived {
        derived_at.push(bytes.len());
        bytes.extend_from_slice(d);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    }
    if !derived.is_empty() {
        bytes.resize(bytes.len() + READ_SLACK, 0);
    }
    (blob_at, derived_at, bytes)
}

/// An error of the code generator that no program should be able to cause.
pub fn bug(error: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::bug(format!("code generation: {error}"))
}

/// What one variant runs for every step.
struct Choice {
    machine: Machine,
    leaves: Vec<Option<Leaf>>,
    plans: Vec<Plan>,
}

impl Choice {
    fn new(p: &Program, target: &Target, level: Level, derived: &mut Vec<Vec<u8>>) -> Self {
        let machine = Machine::new(target, level);
        let ahead = if matches!(level, Level::V256Dot | Level::V512Dot) { leaf::ahead(p) } else { Vec::new() };
        let leaf = |i: usize, s| match level {
            Level::V512Dot => leaf::avx512_vnni(p, s, target.has("avx512vbmi"), ahead[i]),
            Level::V256Dot => leaf::avx_vnni(p, s, target.has("avx_vnni"), ahead[i]),
            Level::V256 => leaf::avx2(p, s),
            _ => None,
        };
        let matrices = level == Level::V128Dot && target.has("i8mm");
        let (mut leaves, mut plans) = (Vec::new(), Vec::new());
        for (i, s) in p.steps.iter().enumerate() {
            if let Some((leaf, weights)) = matrices.then(|| leaf::matrices(p, s)).flatten() {
                leaves.push(Some(leaf));
                plans.push(Plan { arguments: kernels::with_weights(s, weights, derived), ..Plan::direct(s) });
                continue;
            }
            let twin = (i.saturating_sub(TWINS)..i).rev().find(|t| twins(&p.steps[*t], s));
            let leaf = twin.map_or_else(|| leaf(i, s), |t| leaves[t].clone());
            plans.push(if leaf.is_some() { Plan::direct(s) } else { kernels::plan(p, s, &machine, derived) });
            leaves.push(leaf);
        }
        Self { machine, leaves, plans }
    }
}

/// How many steps back a leaf for another is looked for: strips of a layer are that close.
const TWINS: usize = 64;

/// Whether two layers compute the same from the same weights, elsewhere in memory: strips of one layer, most of which are.
fn twins(a: &Step, b: &Step) -> bool {
    let constant = |s: &Slot| matches!(s.base, Base::Blob(_));
    let slots = || a.reads.iter().chain(&a.writes).zip(b.reads.iter().chain(&b.writes));
    let same = || slots().all(|(a, b)| a.base == b.base && (a == b || !constant(a)));
    a.reads.get(1).is_some_and(constant) && a.what == b.what && a.reads.len() == b.reads.len() && same()
}

/// One zeroed 32-bit word of the object.
fn module_word<M: Module>(module: &mut M, name: &str) -> Result<DataId, Diagnostic> {
    let id = module.declare_data(name, Linkage::Local, true, false).map_err(bug)?;
    let mut data = DataDescription::new();
    data.define_zeroinit(4);
    data.set_align(4);
    module.define_data(id, &data).map_err(bug)?;
    Ok(id)
}

/// The first layer name as the tail of a symbol, so that profilers and debuggers show it.
fn readable(names: &[String]) -> String {
    const MOST: usize = 48;
    let Some(name) = names.first() else { return String::new() };
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    format!("_{}", letters.take(MOST).collect::<String>().trim_matches('_'))
}

struct Call {
    id: FuncId,
    index: usize,
}

/// What addresses of arguments are computed from.
struct Addresses<'a> {
    p: &'a Program,
    plans: &'a [Plan],
    blob_at: &'a [usize],
    derived_at: &'a [usize],
    rodata: DataId,
}

struct Compiler<'m, M: Module> {
    isa: OwnedTargetIsa,
    as_written: OwnedTargetIsa,
    /// Bytes of return address and saved frame pointer.
    setup: usize,
    module: &'m mut M,
    ctx: Context,
    fctx: FunctionBuilderContext,
    records: Vec<Record>,
    keep: Keep,
}

impl<M: Module> Compiler<'_, M> {
    /// One function per distinct step of a variant; leaves are shared among variants.
    fn steps<'a>(
        &mut self,
        p: &Program,
        prefix: &str,
        suffix: &str,
        choice: &'a Choice,
        leaves: &mut Vec<(&'a Leaf, FuncId)>,
    ) -> Result<Vec<Call>, Diagnostic> {
        let machine = &choice.machine;
        let mut distinct: Vec<(Kernel, &What, Vec<Endianness>, FuncId)> = Vec::new();
        let mut calls = Vec::new();
        for (index, (step, plan)) in p.steps.iter().zip(&choice.plans).enumerate() {
            let name = format!("{prefix}_{index:02}_{}{}{suffix}", step.what.name(), readable(step.origin.names()));
            if let Some(leaf) = &choice.leaves[index] {
                let id = match leaves.iter().find(|(known, _)| *known == leaf) {
                    Some((_, id)) => *id,
                    None => {
                        let id = self.leaf(&name, index, leaf, plan.arguments.len())?;
                        leaves.push((leaf, id));
                        id
                    }
                };
                calls.push(Call { id, index });
                continue;
            }
            let native = |s: &Slot| machine.big_endian && matches!(s.base, Base::Input(_) | Base::Output(_));
            let orders: Vec<Endianness> =
                step.reads.iter().chain(&step.writes).map(|s| if native(s) { Endianness::Big } else { Endianness::Little }).collect();
            let known = distinct.iter().find(|(k, w, o, _)| *k == plan.kernel && *w == &step.what && *o == orders);
            let id = match known {
                Some((.., id)) => *id,
                None => {
                    let mut signature = self.module.make_signature();
                    signature.params = vec![AbiParam::new(I64); orders.len()];
                    let id = self.module.declare_function(&name, Linkage::Local, &signature).map_err(bug)?;
                    let reads = step.reads.len();
                    let isa = self.tuning(plan.kernel.scheduled());
                    self.function(id, &name, Some(index), signature, isa, |b, _| {
                        let mut e = Emitter::new(b, machine.clone(), reads, &orders);
                        kernels::emit(&mut e, plan.kernel, &step.what).map_err(|d| d.at(format!("step {index}")))?;
                        e.b.ins().return_(&[]);
                        Ok(e.b)
                    })?;
                    distinct.push((plan.kernel, &step.what, orders, id));
                    id
                }
            };
            calls.push(Call { id, index });
        }
        Ok(calls)
    }

    /// `(inputs, outputs, arena) -> i32`: checks the arguments and calls the body of the variant this CPU runs best.
    fn selector(&mut self, prefix: &str, p: &Program, bodies: &[FuncId], word: DataId) -> Result<FuncId, Diagnostic> {
        let name = format!("{prefix}_detect");
        let mut signature = self.module.make_signature();
        signature.returns = vec![AbiParam::new(I32)];
        let detect = self.module.declare_function(&name, Linkage::Local, &signature).map_err(bug)?;
        let code = select::detector().map_err(bug)?;
        self.module.define_function_bytes(detect, 16, &code, &[]).map_err(bug)?;
        let assembly = if self.keep.assembly { leaf::disassemble(&code) } else { String::new() };
        let (step, kernel, clif) = (None, String::new(), String::new());
        self.records.push(Record { id: detect, name, step, kernel, cycles: None, bytes: code.len(), frame: select::FRAME, clif, assembly });

        let name = format!("{prefix}_body");
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(I64); 3];
        signature.returns = vec![AbiParam::new(I32)];
        let id = self.module.declare_function(&name, Linkage::Local, &signature).map_err(bug)?;
        let isa = self.tuning(false);
        self.function(id, &name, None, signature, isa, |mut b, module| {
            let entry = b.create_block();
            b.append_block_params_for_function_params(entry);
            b.switch_to_block(entry);
            b.seal_block(entry);
            let params = b.block_params(entry).to_vec();
            check_arguments(&mut b, p, &params);
            let word = module.declare_data_in_func(word, b.func);
            let address = b.ins().symbol_value(I64, word);
            let flags = MemFlagsData::new().with_notrap();
            let seen = b.ins().load(I32, flags, address, 0);
            let (ask, go) = (b.create_block(), b.create_block());
            b.append_block_param(go, I32);
            b.set_cold_block(ask);
            b.ins().brif(seen, go, &[seen.into()], ask, &[]);
            b.seal_block(ask);
            b.switch_to_block(ask);
            let detect = module.declare_func_in_func(detect, b.func);
            let call = b.ins().call(detect, &[]);
            let found = b.inst_results(call)[0];
            b.ins().store(flags, found, address, 0);
            b.ins().jump(go, &[found.into()]);
            b.seal_block(go);
            b.switch_to_block(go);
            let number = b.block_params(go)[0];
            // The fastest first; a number beyond the last cannot occur, and would run the fastest.
            for (i, body) in bodies.iter().enumerate().rev() {
                let call = |b: &mut FunctionBuilder, module: &mut M| {
                    let callee = module.declare_func_in_func(*body, b.func);
                    let call = b.ins().call(callee, &params);
                    let result = b.inst_results(call)[0];
                    b.ins().return_(&[result]);
                };
                if i == 0 {
                    call(&mut b, module);
                    break;
                }
                let (hit, next) = (b.create_block(), b.create_block());
                let fits = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, number, i as i64);
                b.ins().brif(fits, hit, &[], next, &[]);
                b.seal_block(hit);
                b.seal_block(next);
                b.switch_to_block(hit);
                call(&mut b, module);
                b.switch_to_block(next);
            }
            Ok(b)
        })?;
        Ok(id)
    }

    fn tuning(&self, scheduled: bool) -> OwnedTargetIsa {
        if scheduled { self.isa.clone() } else { self.as_written.clone() }
    }

    /// Builds, compiles and defines one function.
    fn function(
        &mut self,
        id: FuncId,
        name: &str,
        step: Option<usize>,
        signature: Signature,
        isa: OwnedTargetIsa,
        build: impl for<'f> FnOnce(FunctionBuilder<'f>, &mut M) -> Result<FunctionBuilder<'f>, Diagnostic>,
    ) -> Result<(), Diagnostic> {
        self.ctx.clear();
        self.ctx.func = Function::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
        let builder = FunctionBuilder::new(&mut self.ctx.func, &mut self.fctx);
        let builder = build(builder, self.module)?;
        builder.finalize(isa.frontend_config());
        let clif = if self.keep.clif { self.ctx.func.display().to_string() } else { String::new() };
        self.ctx.set_disasm(self.keep.assembly);
        self.ctx.compile(&*isa, &mut Default::default()).map_err(|e| bug(format!("{name}: {:?}", e.inner)))?;
        let Some(code) = self.ctx.compiled_code() else { return Err(bug(format!("{name}: no code"))) };
        let frame = code.buffer.frame_layout().map_or(0, |l| l.frame_to_fp_offset as usize) + self.setup;
        let relocs: Vec<ModuleReloc> = code.buffer.relocs().iter().map(|r| ModuleReloc::from_mach_reloc(r, &self.ctx.func, id)).collect();
        let mut code_bytes = code.buffer.data().to_vec();
        let relocs: Vec<ModuleReloc> = relocs.into_iter().map(|r| direct(r, &mut code_bytes)).collect();
        let bytes = &*code_bytes;
        let alignment = u64::from(code.buffer.alignment).max(32);
        self.module.define_function_bytes(id, alignment, bytes, &relocs).map_err(bug)?;
        self.records.push(Record {
            id,
            name: name.to_owned(),
            step,
            kernel: String::new(),
            cycles: None,
            bytes: bytes.len(),
            frame,
            clif,
            assembly: code.vcode.clone().unwrap_or_default(),
        });
        Ok(())
    }

    /// `(inputs, outputs, arena) -> i32`: checks the arguments (when `checked`) and calls steps.
    fn body(&mut self, name: &str, addresses: &Addresses, calls: &[Call], checked: bool) -> Result<FuncId, Diagnostic> {
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(I64); 3];
        signature.returns = vec![AbiParam::new(I32)];
        let id = self.module.declare_function(name, Linkage::Local, &signature).map_err(bug)?;
        let isa = self.tuning(false);
        self.function(id, name, None, signature, isa, |mut b, module| {
            let entry = b.create_block();
            b.append_block_params_for_function_params(entry);
            b.switch_to_block(entry);
            b.seal_block(entry);
            let params = b.block_params(entry).to_vec();
            if checked {
                check_arguments(&mut b, addresses.p, &params);
            }
            let rodata = module.declare_data_in_func(addresses.rodata, b.func);
            let mut known: Vec<(FuncId, FuncRef)> = Vec::new();
            for call in calls {
                let callee = match known.iter().find(|(id, _)| *id == call.id) {
                    Some((_, callee)) => *callee,
                    None => {
                        let callee = module.declare_func_in_func(call.id, b.func);
                        known.push((call.id, callee));
                        callee
                    }
                };
                let args: Vec<Value> =
                    addresses.plans[call.index].arguments.iter().map(|a| address(&mut b, addresses, a, &params, rodata)).collect();
                match &addresses.p.steps[call.index].what {
                    What::MatMulBytes { product, end, .. } => {
                        let calls = Calls::of(product, *end);
                        let args: Vec<Value> = args.iter().zip(&calls.starts).map(|(a, by)| displaced(&mut b, *a, *by)).collect();
                        repeated(&mut b, &calls.axes, &args, callee);
                    }
                    _ => {
                        b.ins().call(callee, &args);
                    }
                }
            }
            let ok = b.ins().iconst(I32, 0);
            b.ins().return_(&[ok]);
            Ok(b)
        })?;
        Ok(id)
    }

    /// Defines a leaf kernel. Its calling convention is System V's on every system.
    fn leaf(&mut self, name: &str, step: usize, leaf: &Leaf, arguments: usize) -> Result<FuncId, Diagnostic> {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(I64); arguments];
        let id = self.module.declare_function(name, Linkage::Local, &signature).map_err(bug)?;
        self.module.define_function_bytes(id, leaf::LEAF_ALIGN, &leaf.code, &[]).map_err(bug)?;
        self.records.push(Record {
            id,
            name: name.to_owned(),
            step: Some(step),
            kernel: leaf.kernel.clone(),
            cycles: leaf.cycles,
            bytes: leaf.code.len(),
            frame: leaf.frame,
            clif: String::new(),
            assembly: if self.keep.assembly { self.disassembled(&leaf.code)? } else { String::new() },
        });
        Ok(id)
    }

    /// The text of a leaf.
    fn disassembled(&self, code: &[u8]) -> Result<String, Diagnostic> {
        if self.isa.triple().architecture == Architecture::X86_64 {
            return Ok(leaf::disassemble(code));
        }
        let lines = self.isa.to_capstone().map_err(bug)?;
        let all = lines.disasm_all(code, 0).map_err(bug)?;
        Ok(all.iter().map(|i| format!("  {i}\n")).collect())
    }

    /// `NAME_run_v`, the guard around the body.
    fn guard(&mut self, name: &str, target: &Target, body: FuncId, stack: &mut usize) -> Result<FuncId, Diagnostic> {
        let guard = guard::guard(target)?;
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(I64); 3];
        signature.returns = vec![AbiParam::new(I32)];
        let id = self.module.declare_function(name, Linkage::Export, &signature).map_err(bug)?;
        let reloc =
            ModuleReloc { offset: guard.offset, kind: guard.reloc, name: ModuleRelocTarget::user(0, body.as_u32()), addend: guard.addend };
        self.module.define_function_bytes(id, 32, &guard.bytes, &[reloc]).map_err(bug)?;
        *stack += guard.stack;
        let hex = |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        self.records.push(Record {
            id,
            name: name.to_owned(),
            step: None,
            kernel: String::new(),
            cycles: None,
            bytes: guard.bytes.len(),
            frame: guard.stack,
            clif: String::new(),
            assembly: guard.bytes.chunks(16).map(|c| format!("  .byte {}\n", hex(c))).collect(),
        });
        Ok(id)
    }

    /// `NAME_run`, with one parameter per tensor.
    fn entry(&mut self, name: &str, p: &Program, run_v: FuncId) -> Result<(), Diagnostic> {
        let (inputs, outputs) = (p.inputs.len(), p.outputs.len());
        let mut signature = self.module.make_signature();
        signature.params = vec![AbiParam::new(I64); inputs + outputs + 1];
        signature.returns = vec![AbiParam::new(I32)];
        let id = self.module.declare_function(name, Linkage::Export, &signature).map_err(bug)?;
        let isa = self.tuning(false);
        self.function(id, name, None, signature, isa, |mut b, module| {
            let entry = b.create_block();
            b.append_block_params_for_function_params(entry);
            b.switch_to_block(entry);
            b.seal_block(entry);
            let params = b.block_params(entry).to_vec();
            let arrays: Vec<Value> = [&params[..inputs], &params[inputs..inputs + outputs]]
                .iter()
                .map(|pointers| {
                    let bytes = 8 * pointers.len().max(1) as u32;
                    let slot = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3));
                    for (i, &v) in pointers.iter().enumerate() {
                        b.ins().stack_store(I64, v, slot, 8 * i as i32);
                    }
                    b.ins().stack_addr(I64, slot, 0)
                })
                .collect();
            let callee = near(module, run_v, &mut b);
            let call = b.ins().call(callee, &[arrays[0], arrays[1], params[inputs + outputs]]);
            let result = b.inst_results(call)[0];
            b.ins().return_(&[result]);
            Ok(b)
        })
    }
    /// `NAME_info`: the address of the zero-terminated `text`.
    fn info(&mut self, prefix: &str, text: &str) -> Result<(), Diagnostic> {
        let data = self.module.declare_data(&format!("{prefix}_info_text"), Linkage::Local, false, false).map_err(bug)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let mut description = DataDescription::new();
        description.define(bytes.into_boxed_slice());
        description.set_align(16);
        self.module.define_data(data, &description).map_err(bug)?;
        let name = format!("{prefix}_info");
        let mut signature = self.module.make_signature();
        signature.returns = vec![AbiParam::new(I64)];
        let id = self.module.declare_function(&name, Linkage::Export, &signature).map_err(bug)?;
        let isa = self.tuning(false);
        self.function(id, &name, None, signature, isa, |mut b, module| {
            let entry = b.create_block();
            b.switch_to_block(entry);
            b.seal_block(entry);
            let data = module.declare_data_in_func(data, b.func);
            let address = b.ins().symbol_value(I64, data);
            b.ins().return_(&[address]);
            Ok(b)
        })
    }
}

/// Position-independent code of Cranelift loads every symbol's address from a global offset table (on Windows, from a
/// relocated pointer in the constants). All symbols here are of this object: the load becomes an addition.
fn direct(reloc: ModuleReloc, code: &mut [u8]) -> ModuleReloc {
    let at = reloc.offset as usize;
    match reloc.kind {
        // REX, opcode, ModRM, displacement: `mov` becomes `lea`.
        Reloc::X86GOTPCRel4 => match at.checked_sub(2).and_then(|at| code.get_mut(at)) {
            Some(opcode) if *opcode == 0x8b => {
                *opcode = 0x8d;
                ModuleReloc { kind: Reloc::X86PCRel4, ..reloc }
            }
            _ => reloc,
        },
        // `adrp` of the page of a table becomes that of the page of the symbol, `ldr xt, [xn]` becomes `add xt, xn, #low`.
        Reloc::Aarch64AdrGotPage21 => ModuleReloc { kind: Reloc::Aarch64AdrPrelPgHi21, ..reloc },
        Reloc::Aarch64Ld64GotLo12Nc if patch(code, at, |w| (w & 0xffff_fc00 == 0xf940_0000).then_some(0x9100_0000 | w & 0x3ff)) => {
            ModuleReloc { kind: Reloc::Aarch64AddAbsLo12Nc, ..reloc }
        }
        // `auipc` likewise, and `ld` becomes `addi`.
        Reloc::RiscvGotHi20 => ModuleReloc { kind: Reloc::RiscvPCRelHi20, ..reloc },
        Reloc::RiscvPCRelLo12I => {
            patch(code, at, |w| (w & 0x707f == 0x3003).then_some(w & !0x707f | 0x13));
            reloc
        }
        _ => reloc,
    }
}

/// Replaces a little-endian instruction word; `false` where there is none that `change` knows.
fn patch(code: &mut [u8], at: usize, change: impl FnOnce(u32) -> Option<u32>) -> bool {
    let Some(word) = code.get_mut(at..at + 4) else { return false };
    let Some(changed) = change(u32::from_le_bytes([word[0], word[1], word[2], word[3]])) else { return false };
    word.copy_from_slice(&changed.to_le_bytes());
    true
}

/// A reference to a function of this object, reached without a procedure linkage table even when it is exported.
fn near<M: Module>(module: &mut M, id: FuncId, b: &mut FunctionBuilder) -> FuncRef {
    let callee = module.declare_func_in_func(id, b.func);
    b.func.dfg.ext_funcs[callee].colocated = true;
    callee
}

/// Returns an error code for NULL pointers and a misaligned arena.
fn check_arguments(b: &mut FunctionBuilder, p: &Program, params: &[Value]) {
    let fail_if = |b: &mut FunctionBuilder, bad: Value, code: i64| {
        let (fail, next) = (b.create_block(), b.create_block());
        b.set_cold_block(fail);
        b.ins().brif(bad, fail, &[], next, &[]);
        b.seal_block(fail);
        b.seal_block(next);
        b.switch_to_block(fail);
        let code = b.ins().iconst(I32, i64::from(code as i32 as u32));
        b.ins().return_(&[code]);
        b.switch_to_block(next);
    };
    for (array, ports) in [(params[0], p.inputs.len()), (params[1], p.outputs.len())] {
        if ports == 0 {
            continue;
        }
        let null = b.ins().icmp_imm_u(IntCC::Equal, array, 0);
        fail_if(b, null, ERROR_NULL);
        for i in 0..ports {
            let pointer = b.ins().load(I64, MemFlagsData::new().with_notrap(), array, 8 * i as i32);
            let null = b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
            fail_if(b, null, ERROR_NULL);
        }
    }
    if p.arena_bytes > 0 {
        let null = b.ins().icmp_imm_u(IntCC::Equal, params[2], 0);
        fail_if(b, null, ERROR_NULL);
        let low = b.ins().band_imm_u(params[2], ALIGN as i64 - 1);
        fail_if(b, low, ERROR_ALIGNMENT);
    }
}

fn address(b: &mut FunctionBuilder, a: &Addresses, argument: &Argument, params: &[Value], rodata: GlobalValue) -> Value {
    let constant = |b: &mut FunctionBuilder, at: usize| {
        let base = b.ins().symbol_value(I64, rodata);
        displace(b, base, at)
    };
    match argument {
        Argument::Derived(i) => constant(b, a.derived_at[*i]),
        Argument::Slot(slot) => match slot.base {
            Base::Blob(blob) => constant(b, a.blob_at[blob.index()] + slot.offset),
            Base::Arena => displace(b, params[2], slot.offset),
            Base::Input(i) | Base::Output(i) => {
                let array = if matches!(slot.base, Base::Input(_)) { params[0] } else { params[1] };
                let base = b.ins().load(I64, MemFlagsData::new().with_notrap(), array, 8 * i as i32);
                displace(b, base, slot.offset)
            }
        },
    }
}

fn displace(b: &mut FunctionBuilder, base: Value, bytes: usize) -> Value {
    displaced(b, base, bytes as i64)
}

fn displaced(b: &mut FunctionBuilder, base: Value, bytes: i64) -> Value {
    if bytes == 0 { base } else { b.ins().iadd_imm_s(base, bytes) }
}

/// Calls a function over a space of arguments.
fn repeated(b: &mut FunctionBuilder, axes: &[(usize, Vec<i64>)], args: &[Value], callee: FuncRef) {
    let Some(((count, steps), axes)) = axes.split_first() else {
        b.ins().call(callee, args);
        return;
    };
    if *count == 1 {
        return repeated(b, axes, args, callee);
    }
    let (head, exit) = (b.create_block(), b.create_block());
    let left = b.ins().iconst(I64, *count as i64);
    let entering: Vec<BlockArg> = [left].iter().chain(args).map(|v| (*v).into()).collect();
    for _ in &entering {
        b.append_block_param(head, I64);
    }
    b.ins().jump(head, &entering);
    b.switch_to_block(head);
    let now = b.block_params(head).to_vec();
    repeated(b, axes, &now[1..], callee);
    let left = b.ins().iadd_imm_s(now[0], -1);
    let mut again: Vec<BlockArg> = vec![left.into()];
    again.extend(now[1..].iter().zip(steps).map(|(v, by)| BlockArg::from(displaced(b, *v, *by))));
    b.ins().brif(left, head, &again, exit, &[]);
    b.seal_block(head);
    b.seal_block(exit);
    b.switch_to_block(exit);
}
