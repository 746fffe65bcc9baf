//! The Emitter: what a kernel writes its code with.
//!
//! A kernel is a Rust function `fn(e: &mut Emitter, ...geometry)` that emits the body of ONE machine function. That
//! function receives one pointer per slot of its step, reads first, then writes, and returns nothing. Geometry and
//! quantization parameters are known when the kernel runs and become constants of the code; steps with equal
//! semantics share a function, so a kernel must not depend on anything but its [`What`](quernel_ir::program::What)
//! and the [`Machine`].
//!
//! How to write one (see `kernels/moves.rs` for a complete small example):
//! * `e.read(i)` and `e.write(i)` are the [`Ptr`]s of the step's slots. A `Ptr` is an address value, a constant
//!   displacement and the byte order of what it points to (callers' tensors are native, everything else little-endian;
//!   loads and stores take care of it). `e.at(p, bytes)` displaces by a constant, `e.plus(p, value)` by a computed i64.
//! * Loops: `e.walk(n, &[(ptr, step_bytes), ..], |e, ptrs| ..)` advances pointers, `e.repeat(n, |e, i| ..)` counts an
//!   i64 from 0, and `e.fold(n, &ptrs, &initial, |e, ptrs, carried| -> Vec<Value>)` carries values and returns the final ones.
//!   A count of 1 emits straight-line code, 0 emits nothing; `e.repeat_while` decides at run time. `e.when(cond, |e| ..)` and
//!   `e.choose(cond, |e| -> Vec<Value>, |e| -> Vec<Value>)` branch.
//! * Scalars: bytes load as i32 (`e.load_byte(p, off, signed)`), f32 as f32; `e.store_byte` keeps the low byte.
//! * Vectors exist only when `e.vectors()`: always write the scalar form first; it serves every CPU. `e.load(I8X16, ..)`,
//!   widening with `e.widen_bytes`, partial stores with `e.store_low_bytes`. Vectors imply a little-endian machine.
//! * Arithmetic that must match [`quernel_ir::exact`]: `e.requantize`, `e.quantize`, `e.bound`, `e.round_even` and their
//!   `_v` forms in `emit/arith.rs`. Never use CLIF's `fmin`/`fmax` (long NaN sequences), `nearest`, `ceil`, `floor`,
//!   `trunc`, `fma` (library calls on some levels), or `fcvt_to_*` of an unclamped float.
//! * Anything else: `e.b.ins()` is Cranelift's instruction builder.

mod arith;
mod vector;

pub use arith::{BytesEnd, FloatEnd};

use crate::target::{Level, Target};
use cranelift_codegen::ir::{
    BlockArg, Endianness, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Type, Value,
    condcodes::{FloatCC, IntCC},
    types,
};
use cranelift_frontend::FunctionBuilder;
use target_lexicon::Architecture;

/// How the machine multiplies signed bytes by activations, four to a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dot {
    /// x86-64 `vpdpbusd`: unsigned activations, signed weights.
    Unsigned,
    /// AArch64 `usdot` and `sdot`: either signedness of activations.
    Both,
    /// AArch64 `sdot` alone: signed activations.
    Signed,
}

/// Stored integers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Words of 16 bits; otherwise bytes.
    pub words: bool,
    /// Two's complement.
    pub signed: bool,
}

/// What kernels need to know about the target.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Family of instruction sequences.
    pub level: Level,
    /// Form of the byte dot product on [`Level::V128Dot`].
    pub dot: Dot,
    /// x86-64: 16 vector registers, two-operand byte interleaves.
    pub x86: bool,
    /// Any permutation of bytes is few instructions, never a call.
    pub shuffles: bool,
    /// Byte order of callers' tensors.
    pub big_endian: bool,
}

impl Machine {
    /// The machine of a target at a level it supports.
    pub fn new(target: &Target, level: Level) -> Self {
        let x86 = target.lexicon().architecture == Architecture::X86_64;
        Self {
            // Leaf kernels are beside this emitter, which knows 128-bit vectors only.
            level: match level {
                Level::V256 => Level::V128,
                Level::V256Dot | Level::V512Dot => Level::V128Dot,
                other => other,
            },
            dot: match (x86, target.has("i8mm"), target.has("dotprod")) {
                (true, ..) => Dot::Unsigned,
                (_, true, true) => Dot::Both,
                (_, true, false) => Dot::Unsigned,
                _ => Dot::Signed,
            },
            x86,
            shuffles: !x86 || target.has("ssse3"),
            big_endian: target.lexicon().endianness() == Ok(target_lexicon::Endianness::Big),
        }
    }
}

/// An address with a constant displacement and the byte order of what lies there.
#[derive(Clone, Copy, Debug)]
pub struct Ptr {
    /// The address, an i64.
    pub base: Value,
    /// Bytes to add.
    pub offset: i32,
    /// Byte order of elements.
    pub order: Endianness,
}

/// Writes the body of one function.
pub struct Emitter<'f> {
    /// Cranelift's builder.
    pub b: FunctionBuilder<'f>,
    machine: Machine,
    reads: Vec<Ptr>,
    writes: Vec<Ptr>,
}

impl<'f> Emitter<'f> {
    /// An emitter positioned in the entry block of a function whose parameters are the slots' addresses. `orders`
    /// has one entry per slot, `reads` says how many of them are read.
    pub(crate) fn new(mut b: FunctionBuilder<'f>, machine: Machine, reads: usize, orders: &[Endianness]) -> Self {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let slots: Vec<Ptr> = b.block_params(entry).iter().zip(orders).map(|(&base, &order)| Ptr { base, offset: 0, order }).collect();
        Self { b, machine, reads: slots[..reads].to_vec(), writes: slots[reads..].to_vec() }
    }

    /// The target.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
    /// Family of instruction sequences.
    pub fn level(&self) -> Level {
        self.machine.level
    }
    /// Whether 128-bit vectors may be used.
    pub fn vectors(&self) -> bool {
        self.machine.level > Level::Scalar
    }
    /// Whether byte dot products are one instruction.
    pub fn dots(&self) -> bool {
        self.machine.level >= Level::V128Dot
    }

    /// Pointer to the start of read slot `i`.
    pub fn read(&self, i: usize) -> Ptr {
        self.reads[i]
    }
    /// Pointer to the start of write slot `i`.
    pub fn write(&self, i: usize) -> Ptr {
        self.writes[i]
    }
    /// `p` displaced by a constant number of bytes.
    pub fn at(&mut self, p: Ptr, bytes: i64) -> Ptr {
        match i32::try_from(i64::from(p.offset) + bytes) {
            Ok(offset) => Ptr { offset, ..p },
            Err(_) => Ptr { base: self.b.ins().iadd_imm_s(p.base, i64::from(p.offset) + bytes), offset: 0, ..p },
        }
    }
    /// `p` displaced by a computed i64 number of bytes.
    pub fn plus(&mut self, p: Ptr, bytes: Value) -> Ptr {
        Ptr { base: self.b.ins().iadd(p.base, bytes), ..p }
    }
    /// `p` displaced by `index * step` bytes.
    pub fn index(&mut self, p: Ptr, index: Value, step: i64) -> Ptr {
        let bytes = if step == 1 { index } else { self.b.ins().imul_imm_s(index, step) };
        self.plus(p, bytes)
    }
    /// The address of `p` as one value.
    pub fn address(&mut self, p: Ptr) -> Value {
        if p.offset == 0 { p.base } else { self.b.ins().iadd_imm_s(p.base, i64::from(p.offset)) }
    }

    // Constants.

    /// An i32.
    pub fn i32(&mut self, v: i32) -> Value {
        self.b.ins().iconst(types::I32, i64::from(v as u32))
    }
    /// An i64.
    pub fn i64(&mut self, v: i64) -> Value {
        self.b.ins().iconst(types::I64, v)
    }
    /// An f32.
    pub fn f32(&mut self, v: f32) -> Value {
        self.b.ins().f32const(v)
    }

    // Memory.

    /// Flags of an access to slots: it cannot trap and may be unaligned.
    pub fn flags(&self, p: Ptr) -> MemFlagsData {
        MemFlagsData::new().with_notrap().with_endianness(p.order)
    }
    /// Loads a value of any type from `p + off`.
    pub fn load(&mut self, ty: Type, p: Ptr, off: i64) -> Value {
        let p = self.at(p, off);
        let flags = self.flags(p);
        self.b.ins().load(ty, flags, p.base, p.offset)
    }
    /// Loads from a constant slot at an address aligned to the type: the load may fold into its user.
    pub fn load_constant(&mut self, ty: Type, p: Ptr, off: i64) -> Value {
        let p = self.at(p, off);
        let flags = self.flags(p).with_aligned().with_readonly();
        self.b.ins().load(ty, flags, p.base, p.offset)
    }
    /// Stores a value of any type to `p + off`.
    pub fn store(&mut self, v: Value, p: Ptr, off: i64) {
        let p = self.at(p, off);
        let flags = self.flags(p);
        self.b.ins().store(flags, v, p.base, p.offset);
    }
    /// Loads a byte as an i32.
    pub fn load_byte(&mut self, p: Ptr, off: i64, signed: bool) -> Value {
        let p = self.at(p, off);
        let flags = self.flags(p);
        if signed {
            self.b.ins().sload8(types::I32, flags, p.base, p.offset)
        } else {
            self.b.ins().uload8(types::I32, flags, p.base, p.offset)
        }
    }
    /// Loads a byte or word as an i32.
    pub fn load_stored(&mut self, p: Ptr, off: i64, stored: Stored) -> Value {
        if !stored.words {
            return self.load_byte(p, off, stored.signed);
        }
        let v = self.load(types::I16, p, off);
        if stored.signed { self.b.ins().sextend(types::I32, v) } else { self.b.ins().uextend(types::I32, v) }
    }
    /// Stores the low byte or word of an i32.
    pub fn store_stored(&mut self, v: Value, p: Ptr, off: i64, words: bool) {
        if !words {
            return self.store_byte(v, p, off);
        }
        let v = self.b.ins().ireduce(types::I16, v);
        self.store(v, p, off);
    }
    /// Loads an i16 as an i32.
    pub fn load_i16(&mut self, p: Ptr, off: i64) -> Value {
        let p = self.at(p, off);
        let flags = self.flags(p);
        self.b.ins().sload16(types::I32, flags, p.base, p.offset)
    }
    /// Loads an integer of `width` bytes as an i64.
    pub fn load_wide(&mut self, p: Ptr, off: i64, width: usize, signed: bool) -> Value {
        let ty = match width {
            1 => types::I8,
            2 => types::I16,
            4 => types::I32,
            _ => return self.load(types::I64, p, off),
        };
        let v = self.load(ty, p, off);
        if signed { self.b.ins().sextend(types::I64, v) } else { self.b.ins().uextend(types::I64, v) }
    }
    /// Loads an i32.
    pub fn load_i32(&mut self, p: Ptr, off: i64) -> Value {
        self.load(types::I32, p, off)
    }
    /// Loads an f32.
    pub fn load_f32(&mut self, p: Ptr, off: i64) -> Value {
        self.load(types::F32, p, off)
    }
    /// Stores the low byte of an i32.
    pub fn store_byte(&mut self, v: Value, p: Ptr, off: i64) {
        let p = self.at(p, off);
        let flags = self.flags(p);
        self.b.ins().istore8(flags, v, p.base, p.offset);
    }
    /// Scratch of `bytes` on the stack, 16-byte aligned; keep it small (the stack need is part of the header).
    pub fn scratch(&mut self, bytes: u32) -> Ptr {
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
        let base = self.b.ins().stack_addr(types::I64, slot, 0);
        Ptr { base, offset: 0, order: Endianness::Little }
    }

    // Control flow.

    /// The general counted loop: `n` rounds; `ptrs` advance by their steps (bytes), `carried` values pass from round
    /// to round; returns the final ones.
    pub fn fold(
        &mut self,
        n: usize,
        ptrs: &[(Ptr, i64)],
        carried: &[Value],
        body: impl FnOnce(&mut Self, &[Ptr], &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        match n {
            0 => return carried.to_vec(),
            1 => {
                let now: Vec<Ptr> = ptrs.iter().map(|p| p.0).collect();
                return body(self, &now, carried);
            }
            _ => {}
        }
        // A pointer that moves doubles as the counter.
        let clock = ptrs.iter().position(|&(_, step)| step != 0);
        let (start, stride, end) = match clock {
            Some(i) => {
                let (p, step) = ptrs[i];
                (p.base, step, self.b.ins().iadd_imm_s(p.base, step * n as i64))
            }
            None => {
                let zero = self.i64(0);
                (zero, 1, self.i64(n as i64))
            }
        };
        let head = self.b.create_block();
        let exit = self.b.create_block();
        let mut args: Vec<BlockArg> = vec![start.into()];
        self.b.append_block_param(head, types::I64);
        for (i, &(p, step)) in ptrs.iter().enumerate() {
            if step != 0 && Some(i) != clock {
                args.push(p.base.into());
                self.b.append_block_param(head, types::I64);
            }
        }
        for &v in carried {
            args.push(v.into());
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(head, ty);
            self.b.append_block_param(exit, ty);
        }
        self.b.ins().jump(head, &args);
        self.b.switch_to_block(head);
        let params = self.b.block_params(head).to_vec();
        let mut next_param = 1;
        let mut moving = vec![(params[0], stride)];
        let now: Vec<Ptr> = ptrs
            .iter()
            .enumerate()
            .map(|(i, &(p, step))| {
                if Some(i) == clock {
                    Ptr { base: params[0], ..p }
                } else if step == 0 {
                    p
                } else {
                    let base = params[next_param];
                    next_param += 1;
                    moving.push((base, step));
                    Ptr { base, ..p }
                }
            })
            .collect();
        let out = body(self, &now, &params[next_param..]);
        debug_assert_eq!(out.len(), carried.len());
        let mut again: Vec<BlockArg> = Vec::with_capacity(args.len());
        for (base, step) in moving {
            again.push(self.b.ins().iadd_imm_s(base, step).into());
        }
        let BlockArg::Value(clock_next) = again[0] else { unreachable!("the first argument is the clock") };
        let more = self.b.ins().icmp(IntCC::NotEqual, clock_next, end);
        let leave: Vec<BlockArg> = out.iter().map(|&v| v.into()).collect();
        again.extend_from_slice(&leave);
        self.b.ins().brif(more, head, &again, exit, &leave);
        self.b.seal_block(head);
        self.b.seal_block(exit);
        self.b.switch_to_block(exit);
        self.b.block_params(exit).to_vec()
    }

    /// `n` rounds; `ptrs` advance by their steps (bytes) after each.
    pub fn walk(&mut self, n: usize, ptrs: &[(Ptr, i64)], body: impl FnOnce(&mut Self, &[Ptr])) {
        self.fold(n, ptrs, &[], |e, ptrs, _| {
            body(e, ptrs);
            Vec::new()
        });
    }

    /// `n` rounds with an i64 counting from 0.
    pub fn repeat(&mut self, n: usize, body: impl FnOnce(&mut Self, Value)) {
        if n == 0 {
            return;
        }
        let zero = self.i64(0);
        self.fold(n, &[], &[zero], |e, _, v| {
            let i = v[0];
            body(e, i);
            vec![e.b.ins().iadd_imm_s(i, 1)]
        });
    }

    /// Like [`Self::fold`] with an i64 counting from 0 beside the carried values.
    pub fn count_fold(&mut self, n: usize, carried: &[Value], body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>) -> Vec<Value> {
        let zero = self.i64(0);
        let initial: Vec<Value> = [zero].into_iter().chain(carried.iter().copied()).collect();
        let mut out = self.fold(n, &[], &initial, |e, _, v| {
            let mut out = body(e, v[0], &v[1..]);
            out.insert(0, e.b.ins().iadd_imm_s(v[0], 1));
            out
        });
        out.remove(0);
        out
    }

    /// Repeats `body` on carried values while `go` (an integer) is not zero for them; returns the last ones.
    pub fn repeat_while(
        &mut self,
        carried: &[Value],
        go: impl FnOnce(&mut Self, &[Value]) -> Value,
        body: impl FnOnce(&mut Self, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let (head, round, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        for &v in carried {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(head, ty);
        }
        let args: Vec<BlockArg> = carried.iter().map(|&v| v.into()).collect();
        self.b.ins().jump(head, &args);
        self.b.switch_to_block(head);
        let now = self.b.block_params(head).to_vec();
        let more = go(self, &now);
        self.b.ins().brif(more, round, &[], exit, &[]);
        self.b.seal_block(round);
        self.b.seal_block(exit);
        self.b.switch_to_block(round);
        let next: Vec<BlockArg> = body(self, &now).into_iter().map(Into::into).collect();
        debug_assert_eq!(next.len(), now.len());
        self.b.ins().jump(head, &next);
        self.b.seal_block(head);
        self.b.switch_to_block(exit);
        now
    }

    /// Runs `body` when `cond` (an integer) is not zero.
    pub fn when(&mut self, cond: Value, body: impl FnOnce(&mut Self)) {
        self.choose(
            cond,
            |e| {
                body(e);
                Vec::new()
            },
            |_| Vec::new(),
        );
    }

    /// Two-way branch; both sides yield values of equal types.
    pub fn choose(
        &mut self,
        cond: Value,
        yes: impl FnOnce(&mut Self) -> Vec<Value>,
        no: impl FnOnce(&mut Self) -> Vec<Value>,
    ) -> Vec<Value> {
        let (then, other, join) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, then, &[], other, &[]);
        self.b.seal_block(then);
        self.b.seal_block(other);
        self.b.switch_to_block(then);
        let a = yes(self);
        for &v in &a {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(join, ty);
        }
        let args: Vec<BlockArg> = a.iter().map(|&v| v.into()).collect();
        self.b.ins().jump(join, &args);
        self.b.switch_to_block(other);
        let c = no(self);
        let args: Vec<BlockArg> = c.iter().map(|&v| v.into()).collect();
        self.b.ins().jump(join, &args);
        self.b.seal_block(join);
        self.b.switch_to_block(join);
        self.b.block_params(join).to_vec()
    }

    /// Cuts the code here: values passed through are opaque to instruction selection on the far side. A load that is
    /// broadcast and then used several times folds into the broadcast only across such a cut.
    pub fn cut(&mut self, values: &[Value]) -> Vec<Value> {
        let next = self.b.create_block();
        let args: Vec<BlockArg> = values.iter().map(|&v| v.into()).collect();
        for &v in values {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(next, ty);
        }
        self.b.ins().jump(next, &args);
        self.b.seal_block(next);
        self.b.switch_to_block(next);
        self.b.block_params(next).to_vec()
    }

    // Comparisons.

    /// `a > b ? a : b` on f32: [`quernel_ir::exact::max_first`].
    pub fn max_first(&mut self, a: Value, b: Value) -> Value {
        // Written as `b < a`, the form every backend folds into one instruction where it has one.
        let c = self.b.ins().fcmp(FloatCC::LessThan, b, a);
        self.b.ins().select(c, a, b)
    }
    /// `a < b ? a : b` on f32: [`quernel_ir::exact::min_first`].
    pub fn min_first(&mut self, a: Value, b: Value) -> Value {
        let c = self.b.ins().fcmp(FloatCC::LessThan, a, b);
        self.b.ins().select(c, a, b)
    }
}
