//! Follows the code of every function from its first instruction along all branches.

use super::{
    Faults, Promise, a64,
    file::{ENTRIES, File, Function, Kind},
    registers::{self, Convention, Set, one},
    riscv, s390, x64,
};
use object::{Architecture, BinaryFormat};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// Where an instruction goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// To the next one.
    Next,
    /// To an offset of the section, always or sometimes.
    Jump(u64),
    Branch(u64),
    /// To what the relocation at this offset of the section names, and back.
    Call(u64),
    Return,
    /// A trap.
    Stop,
    /// Anywhere: never allowed.
    Indirect,
}

/// What an instruction makes of the stack pointer and the frame pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    /// Neither is set from the other, as far as one knows from `writes`.
    Same,
    /// Grows by so many bytes.
    Grow(i64),
    /// The frame pointer becomes the stack pointer plus so many bytes.
    Frame(i64),
    /// The stack pointer becomes the frame pointer plus so many bytes.
    ToFrame(i64),
}

/// Memory that an instruction reads or writes, at a known distance from the stack pointer or the frame pointer.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Whether from the frame pointer.
    pub frame: bool,
    /// Bytes from what the pointer is before the instruction.
    pub above: i64,
    /// Bytes of memory.
    pub bytes: i64,
    pub store: bool,
    /// Whole registers that go to memory or come from there, and where: bytes from the start of the access.
    pub registers: Vec<(u32, i64)>,
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub length: u64,
    pub flow: Flow,
    pub stack: Stack,
    /// Registers that it changes, in whole or in part, the stack pointer included.
    pub writes: Set,
    /// What it does with the memory of the stack.
    pub access: Option<Access>,
    /// Where its bytes have a relocated distance or low part, as an offset of the section.
    pub relocated: Option<u64>,
    /// An offset of the section that it reads or writes beside itself, without a relocation.
    pub beside: Option<u64>,
    /// Bytes that it stores at the address that is relocated or beside it.
    pub stores: u64,
    /// What is special about it.
    pub special: Special,
}

/// Instructions that only some functions may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Special {
    No,
    /// Saves or sets how floats are rounded: the guard's.
    Rounding,
    /// Asks the CPU what it is: the detector's.
    Detection,
    /// Everything else that reaches beyond registers and memory.
    System,
}

impl Decoded {
    /// An instruction that computes, and changes no register.
    pub fn plain(length: u64) -> Self {
        Self {
            length,
            flow: Flow::Next,
            stack: Stack::Same,
            writes: 0,
            access: None,
            relocated: None,
            beside: None,
            stores: 0,
            special: Special::No,
        }
    }
}

/// What was walked.
#[derive(Default)]
pub struct Walked {
    pub instructions: usize,
    /// The deepest stack of a call of an entry.
    pub stack: usize,
}

/// What a caller has to know of a function.
#[derive(Clone, Copy, Default)]
struct Summary {
    /// The deepest stack of a call of it.
    stack: i64,
    /// Registers that calls keep in general, and that a call of it may change.
    changes: Set,
}

pub fn walk(file: &File, promised: Option<usize>, faults: &mut Faults) -> Walked {
    let convention = registers::convention(file);
    let mut walked = Walked::default();
    let mut used: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); file.sections.len()];
    let mut summaries: Vec<Option<Summary>> = vec![None; file.functions.len()];
    for at in callees_first(file) {
        let function = &file.functions[at];
        let mut one = Walk {
            file,
            function,
            convention: &convention,
            callees: &summaries,
            seen: BTreeMap::new(),
            summary: Summary::default(),
            used: &mut used[function.section],
        };
        one.all(faults);
        walked.instructions += one.seen.len();
        let summary = one.summary;
        summaries[at] = Some(summary);
        let entry = function.name.strip_prefix(&file.name).filter(|rest| ENTRIES.contains(rest));
        let changed = if entry.is_some() { summary.changes } else { summary.changes & !convention.free_inside };
        if changed != 0 {
            let names = registers::names(file.architecture, changed);
            faults.add(
                Promise::Registers,
                function.name.clone(),
                format!("returns with other values in registers that calls keep: {names}"),
            );
        }
        if entry.is_some() {
            walked.stack = walked.stack.max(summary.stack as usize);
            if promised.is_some_and(|p| summary.stack > p as i64) {
                let promised = promised.unwrap_or(0);
                faults.add(
                    Promise::Stack,
                    function.name.clone(),
                    format!("needs {} bytes of stack, {promised} are promised", summary.stack),
                );
            }
        }
    }
    for (section, used) in file.sections.iter().zip(&used) {
        for offset in section.relocations.keys().filter(|o| !used.contains(o)) {
            faults.add(Promise::Relocations, format!("{}+{offset:#x}", section.name), "belongs to no instruction that can be reached");
        }
    }
    walked
}

/// The functions, each behind those it calls: whoever is called has a relocation that names it. In what calls itself somebody
/// comes too early.
fn callees_first(file: &File) -> Vec<usize> {
    let callees: Vec<Vec<usize>> = file
        .functions
        .iter()
        .map(|f| {
            let relocations = file.sections[f.section].relocations.range(f.start..f.end);
            relocations.filter_map(|(_, r)| file.function_at(r.section, r.offset)).collect()
        })
        .collect();
    let mut order = Vec::new();
    let mut found = vec![false; callees.len()];
    for root in 0..callees.len() {
        let mut open = vec![(root, 0)];
        while let Some((at, next)) = open.pop() {
            if next == 0 && std::mem::replace(&mut found[at], true) {
                continue;
            }
            match callees[at].get(next) {
                Some(callee) => open.extend([(at, next + 1), (*callee, 0)]),
                None => order.push(at),
            }
        }
    }
    order
}

/// An instruction is looked at once for each of its bytes at most, on average; in small functions so many times more.
const SPARE_VISITS: u64 = 1000;

/// What is known at an instruction, on every path there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    /// Bytes on the stack, with the address of the return where that is there.
    stack: i64,
    /// The bytes that were on the stack where the frame pointer points, when it does.
    frame: Option<i64>,
    /// Registers of the convention that hold what they held at the entry.
    intact: Set,
    /// Where on the stack each of them was saved, in bytes below the entry's stack pointer.
    saved: Rc<BTreeMap<u32, i64>>,
}

impl State {
    /// What is known when two paths meet; the stacks are equal.
    fn meet(&mut self, other: &Self) {
        self.intact &= other.intact;
        if self.frame != other.frame {
            self.frame = None;
        }
        if self.saved != other.saved {
            Rc::make_mut(&mut self.saved).retain(|register, place| other.saved.get(register) == Some(place));
        }
    }

    /// Forgets what was saved at places that are not wanted any more.
    fn forget(&mut self, lost: impl Fn(u32, i64) -> bool) {
        if self.saved.iter().any(|(register, place)| lost(*register, *place)) {
            Rc::make_mut(&mut self.saved).retain(|register, place| !lost(*register, *place));
        }
    }
}

struct Walk<'a> {
    file: &'a File,
    function: &'a Function,
    convention: &'a Convention,
    callees: &'a [Option<Summary>],
    seen: BTreeMap<u64, (u64, State)>,
    summary: Summary,
    used: &'a mut BTreeSet<u64>,
}

impl Walk<'_> {
    fn all(&mut self, faults: &mut Faults) {
        let entry = State { stack: self.convention.first, frame: None, intact: self.convention.kept, saved: Rc::default() };
        let mut open = vec![(self.function.start, entry)];
        // Paths that meet in ever other states are walked again and again; those of a compiler seldom are.
        let mut left = self.function.end - self.function.start + SPARE_VISITS;
        while let Some((mut at, mut state)) = open.pop() {
            loop {
                if !self.enter(at, &mut state, faults) {
                    break;
                }
                let Some(i) = self.decode(at) else {
                    faults.add(Promise::Code, self.place(at), "is no instruction that code may have");
                    break;
                };
                if at + i.length > self.function.end || self.seen.range(at + 1..at + i.length).next().is_some() {
                    faults.add(Promise::Code, self.place(at), "reaches into another instruction or function");
                    break;
                }
                left -= 1;
                if left == 0 {
                    return faults.add(Promise::Code, self.place(at), "is reached on too many different paths");
                }
                self.seen.insert(at, (i.length, state.clone()));
                self.check(at, &i, faults);
                if i.flow == Flow::Indirect {
                    faults.add(Promise::Control, self.place(at), "jumps or calls to an address in a register or in memory");
                    break;
                }
                if !self.follow(at, &i, &mut state, faults) {
                    break;
                }
                match i.flow {
                    Flow::Next | Flow::Call(_) => at += i.length,
                    Flow::Branch(to) => {
                        open.push((to, state.clone()));
                        at += i.length;
                    }
                    Flow::Jump(to) => at = to,
                    Flow::Return => {
                        self.returns(at, &state, faults);
                        break;
                    }
                    Flow::Stop | Flow::Indirect => break,
                }
            }
        }
    }

    fn place(&self, at: u64) -> String {
        format!("{}+{:#x}", self.function.name, at.wrapping_sub(self.function.start))
    }

    /// Whether there is something to find out at an offset: it was not reached before, or more was known there. The state
    /// becomes what is known on all paths.
    fn enter(&self, at: u64, state: &mut State, faults: &mut Faults) -> bool {
        if at < self.function.start || at >= self.function.end {
            faults.add(Promise::Control, self.place(at), "is reached from the function but lies outside");
            return false;
        }
        if let Some((_, before)) = self.seen.get(&at) {
            if before.stack != state.stack {
                let message = format!("is reached with {} and with {} bytes on the stack", before.stack, state.stack);
                faults.add(Promise::Stack, self.place(at), message);
                return false;
            }
            state.meet(before);
            return state != before;
        }
        // Bytes are part of one instruction only.
        if self.seen.range(..at).next_back().is_some_and(|(start, (length, _))| start + length > at) {
            faults.add(Promise::Code, self.place(at), "lies inside another instruction");
            return false;
        }
        true
    }

    fn decode(&self, at: u64) -> Option<Decoded> {
        let section = &self.file.sections[self.function.section];
        let code = section.data.get(at as usize..self.function.end as usize)?;
        match self.file.architecture {
            Architecture::X86_64 => x64::decode(code, at, &section.relocations),
            Architecture::Aarch64 => a64::decode(code, at, &section.relocations),
            Architecture::Riscv64 => riscv::decode(code, at, &section.relocations),
            _ => s390::decode(code, at, &section.relocations),
        }
    }

    /// What does not depend on how an instruction is reached.
    fn check(&mut self, at: u64, i: &Decoded, faults: &mut Faults) {
        let name = &self.function.name;
        let allowed = match i.special {
            Special::No => true,
            Special::Rounding => *name == format!("{}_run_v", self.file.name),
            Special::Detection => *name == format!("{}_detect", self.file.name),
            Special::System => false,
        };
        if !allowed {
            faults.add(Promise::System, self.place(at), format!("is an instruction that this function may not have ({:?})", i.special));
        }
        let relocations = &self.file.sections[self.function.section].relocations;
        // A relocation inside the instruction must be the one it has a place for.
        for (offset, relocation) in relocations.range(at..at + i.length) {
            let expected = match (i.flow, i.relocated) {
                // COFF has one kind for both.
                (Flow::Call(field), _) => {
                    field == *offset
                        && (relocation.kind == Kind::Call || self.file.format == BinaryFormat::Coff && relocation.kind == Kind::Distance)
                }
                (_, Some(field)) => field == *offset && relocation.kind != Kind::Call,
                _ => false,
            };
            if !expected {
                faults.add(Promise::Relocations, self.place(at), "has a relocation where it has no address");
            }
            self.used.insert(*offset);
        }
        if let Some(relocation) = i.relocated.and_then(|field| relocations.get(&field)) {
            let target = &self.file.sections[relocation.section];
            if target.code && relocation.kind != Kind::Low {
                faults.add(Promise::Relocations, self.place(at), "takes the address of code");
            }
            if i.stores > 0 && (!target.writable || relocation.offset + i.stores > target.size as u64) {
                faults.add(Promise::Memory, self.place(at), format!("stores to {}, or beyond", target.name));
            }
        }
        if let Some(to) = i.beside
            && (i.stores > 0 || to < self.function.start || to >= self.function.end)
        {
            faults.add(Promise::Memory, self.place(at), "reads outside its function, or stores beside its code");
        }
    }

    /// Carries out what an instruction does to the stack and to the registers of the convention; `false` where nothing more
    /// can be said.
    fn follow(&mut self, at: u64, i: &Decoded, state: &mut State, faults: &mut Faults) -> bool {
        let Convention { stack, frame, first, .. } = *self.convention;
        let before = state.clone();
        if let Some(access) = i.access.as_ref().filter(|a| a.store) {
            self.store(at, i, access, state, faults);
        }
        state.intact &= !i.writes;
        if i.writes & one(frame) != 0 {
            state.frame = None;
        }
        let mut known = i.writes & one(stack) == 0;
        match i.stack {
            Stack::Same => {}
            Stack::Grow(bytes) => {
                state.stack += bytes;
                known = true;
            }
            Stack::Frame(above) => state.frame = Some(state.stack - above),
            Stack::ToFrame(above) => match state.frame {
                Some(at) => {
                    state.stack = at - above;
                    known = true;
                }
                None => {
                    faults.add(Promise::Stack, self.place(at), "takes the stack from a register that does not hold it");
                    return false;
                }
            },
        }
        if let Some(access) = i.access.as_ref().filter(|a| !a.store)
            && let Some(place) = self.lies(access, &before)
        {
            for (register, _) in access.registers.iter().filter(|(r, offset)| before.saved.get(r) == Some(&(place - offset))) {
                if *register == stack {
                    state.stack = first;
                    known = true;
                } else {
                    state.intact |= one(*register);
                }
            }
        }
        if !known {
            faults.add(Promise::Stack, self.place(at), "moves the stack by an amount that cannot be told");
            return false;
        }
        if state.stack < first && i.flow != Flow::Return {
            faults.add(Promise::Stack, self.place(at), "takes more off the stack than was put there");
            return false;
        }
        // What lies below the stack is anybody's.
        let top = state.stack;
        state.forget(|_, place| place > top);
        self.summary.stack = self.summary.stack.max(state.stack);
        if let Flow::Call(field) = i.flow {
            self.call(at, field, state, faults);
        }
        true
    }

    /// Where an access starts, in bytes below the stack of the entry; `None` when nobody knows where the frame pointer points.
    fn lies(&self, access: &Access, state: &State) -> Option<i64> {
        Some(if access.frame { state.frame? } else { state.stack } - access.above)
    }

    /// A store to the stack: it lies in the frame, and what was saved there before is lost.
    fn store(&self, at: u64, i: &Decoded, access: &Access, state: &mut State, faults: &mut Faults) {
        let Convention { stack, first, save_area, .. } = *self.convention;
        let Some(place) = self.lies(access, state) else { return };
        let top = match i.stack {
            Stack::Grow(bytes) => state.stack.max(state.stack + bytes),
            _ => state.stack,
        };
        if place > top || place - access.bytes < first - save_area {
            faults.add(Promise::Stack, self.place(at), "stores outside its frame");
        }
        let end = place - access.bytes;
        state.forget(|register, there| there > end && there - self.convention.bytes(register) < place);
        for (register, offset) in &access.registers {
            // The stack pointer is worth keeping while it is that of the entry.
            let kept = state.intact & one(*register) != 0 || *register == stack && state.stack == first;
            if kept && !state.saved.contains_key(register) {
                Rc::make_mut(&mut state.saved).insert(*register, place - offset);
            }
        }
    }

    fn call(&mut self, at: u64, field: u64, state: &mut State, faults: &mut Faults) {
        let Some(relocation) = self.file.sections[self.function.section].relocations.get(&field) else {
            return faults.add(Promise::Control, self.place(at), "calls without a relocation");
        };
        let Some(callee) = self.file.function_at(relocation.section, relocation.offset) else {
            return faults.add(Promise::Control, self.place(at), "calls what is not the start of a function");
        };
        let Some(callee) = self.callees[callee] else {
            return faults.add(Promise::Control, self.place(at), "calls its own function, directly or through others");
        };
        self.summary.stack = self.summary.stack.max(state.stack + callee.stack);
        state.intact &= !callee.changes & !self.convention.link.map_or(0, one);
        let callers = state.stack - self.convention.save_area;
        state.forget(|_, place| place > callers);
        if callee.changes & one(self.convention.frame) != 0 {
            state.frame = None;
        }
    }

    fn returns(&mut self, at: u64, state: &State, faults: &mut Faults) {
        if state.stack != self.convention.first {
            let bytes = state.stack - self.convention.first;
            faults.add(Promise::Stack, self.place(at), format!("returns with {bytes} bytes on the stack"));
        }
        let link = self.convention.link.map_or(0, one);
        if state.intact & link != link {
            faults.add(Promise::Control, self.place(at), "returns to an address that is not its caller's");
        }
        self.summary.changes |= self.convention.kept & !link & !state.intact;
    }
}
