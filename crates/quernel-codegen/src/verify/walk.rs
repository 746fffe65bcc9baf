//! Follows the code of every function from its first instruction along all branches.

use super::{
    Faults, Promise, a64,
    file::{File, Function, Kind},
    riscv, s390, x64,
};
use object::Architecture;
use std::collections::{BTreeMap, BTreeSet};

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

/// What an instruction does to the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    Same,
    /// Grows by so many bytes.
    Grow(i64),
    /// The frame pointer becomes the stack pointer plus so many bytes; or loses what it was.
    Frame(i64),
    NoFrame,
    /// The stack pointer becomes the frame pointer plus so many bytes.
    ToFrame(i64),
    /// The stack pointer becomes what it was at the entry.
    Restore,
    /// The stack pointer becomes anything: never allowed.
    Unknown,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    pub length: u64,
    pub flow: Flow,
    pub stack: Stack,
    /// Where its bytes have a relocated distance or low part, as an offset of the section.
    pub relocated: Option<u64>,
    /// An offset of the section that it reads or writes beside itself, without a relocation.
    pub beside: Option<u64>,
    /// Whether it stores to the address that is relocated or beside it.
    pub stores: bool,
    /// A store at so many bytes above the stack pointer.
    pub stack_store: Option<i64>,
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
    /// An instruction that computes.
    pub fn plain(length: u64) -> Self {
        Self {
            length,
            flow: Flow::Next,
            stack: Stack::Same,
            relocated: None,
            beside: None,
            stores: false,
            stack_store: None,
            special: Special::No,
        }
    }
}

/// What was walked.
#[derive(Default)]
pub struct Walked {
    pub instructions: usize,
    /// The deepest stack of a call of `NAME_run`.
    pub stack: usize,
}

/// One function's calls: who, and how deep the stack is there; and the deepest stack of its own.
#[derive(Default)]
struct Summary {
    calls: Vec<(usize, i64)>,
    deepest: i64,
}

pub fn walk(file: &File, promised: Option<usize>, faults: &mut Faults) -> Walked {
    // The return address is on the stack on x86-64 only.
    let first = if file.architecture == Architecture::X86_64 { 8 } else { 0 };
    let mut walked = Walked::default();
    let mut used: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); file.sections.len()];
    let mut summaries = Vec::new();
    for function in &file.functions {
        let mut one = Walk { file, function, first, seen: BTreeMap::new(), summary: Summary::default(), used: &mut used[function.section] };
        one.all(faults);
        walked.instructions += one.seen.len();
        summaries.push(one.summary);
    }
    for (section, used) in file.sections.iter().zip(&used) {
        for offset in section.relocations.keys().filter(|o| !used.contains(o)) {
            faults.add(Promise::Relocations, format!("{}+{offset:#x}", section.name), "belongs to no instruction that can be reached");
        }
    }
    let mut depths = vec![None; summaries.len()];
    for (i, function) in file.functions.iter().enumerate() {
        let depth = depth(i, &summaries, &mut depths, &mut vec![false; summaries.len()]);
        match depth {
            None => faults.add(Promise::Control, function.name.clone(), "calls itself, directly or through others"),
            Some(depth) if function.name == format!("{}_run", file.name) => {
                walked.stack = depth as usize;
                if promised.is_some_and(|p| depth > p as i64) {
                    faults.add(
                        Promise::Stack,
                        function.name.clone(),
                        format!("needs {depth} bytes of stack, {} are promised", promised.unwrap_or(0)),
                    );
                }
            }
            Some(_) => {}
        }
    }
    walked
}

/// The deepest stack of a function and all it calls; `None` when it calls itself.
fn depth(i: usize, all: &[Summary], known: &mut [Option<i64>], open: &mut [bool]) -> Option<i64> {
    if known[i].is_some() {
        return known[i];
    }
    if std::mem::replace(&mut open[i], true) {
        return None;
    }
    let mut deepest = all[i].deepest;
    for (callee, at) in &all[i].calls {
        deepest = deepest.max(at + depth(*callee, all, known, open)?);
    }
    open[i] = false;
    known[i] = Some(deepest);
    known[i]
}

/// Stack bytes at an instruction, and those where the frame pointer points, when it does.
type State = (i64, Option<i64>);

struct Walk<'a> {
    file: &'a File,
    function: &'a Function,
    first: i64,
    seen: BTreeMap<u64, (u64, State)>,
    summary: Summary,
    used: &'a mut BTreeSet<u64>,
}

impl Walk<'_> {
    fn all(&mut self, faults: &mut Faults) {
        let mut open = vec![(self.function.start, (self.first, None))];
        while let Some((mut at, mut state)) = open.pop() {
            loop {
                let place = self.place(at);
                if at < self.function.start || at >= self.function.end {
                    faults.add(Promise::Control, place, "is reached from the function but lies outside");
                    break;
                }
                if let Some((_, before)) = self.seen.get(&at) {
                    if before.0 != state.0 {
                        faults.add(Promise::Stack, place, format!("is reached with {} and with {} bytes on the stack", before.0, state.0));
                    }
                    break;
                }
                // Bytes are part of one instruction only.
                if self.seen.range(..at).next_back().is_some_and(|(start, (length, _))| start + length > at) {
                    faults.add(Promise::Code, place, "lies inside another instruction");
                    break;
                }
                let Some(i) = self.decode(at) else {
                    faults.add(Promise::Code, place, "is no instruction that code may have");
                    break;
                };
                if at + i.length > self.function.end || self.seen.range(at + 1..at + i.length).next().is_some() {
                    faults.add(Promise::Code, place, "reaches into another instruction or function");
                    break;
                }
                self.seen.insert(at, (i.length, state));
                self.check(at, &i, state, faults);
                if !self.stack(at, &i, &mut state, faults) {
                    break;
                }
                match i.flow {
                    Flow::Next | Flow::Call(_) => at += i.length,
                    Flow::Branch(to) => {
                        open.push((to, state));
                        at += i.length;
                    }
                    Flow::Jump(to) => at = to,
                    Flow::Return => {
                        if state.0 != self.first {
                            faults.add(Promise::Stack, self.place(at), format!("returns with {} bytes on the stack", state.0 - self.first));
                        }
                        break;
                    }
                    Flow::Stop => break,
                    Flow::Indirect => {
                        faults.add(Promise::Control, self.place(at), "jumps or calls to an address in a register or in memory");
                        break;
                    }
                }
            }
        }
    }

    fn place(&self, at: u64) -> String {
        format!("{}+{:#x}", self.function.name, at.wrapping_sub(self.function.start))
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

    /// Everything about an instruction but the stack.
    fn check(&mut self, at: u64, i: &Decoded, state: State, faults: &mut Faults) {
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
                (Flow::Call(field), _) => field == *offset && relocation.kind != Kind::Low,
                (_, Some(field)) => field == *offset && relocation.kind != Kind::Call,
                _ => false,
            };
            if !expected {
                faults.add(Promise::Relocations, self.place(at), "has a relocation where it has no address");
            }
            self.used.insert(*offset);
        }
        if let Flow::Call(field) = i.flow {
            match relocations.get(&field).map(|r| self.file.function_at(r.section, r.offset)) {
                Some(Some(callee)) => self.summary.calls.push((callee, state.0)),
                Some(None) => faults.add(Promise::Control, self.place(at), "calls what is not the start of a function"),
                None => faults.add(Promise::Control, self.place(at), "calls without a relocation"),
            }
        }
        if let Some(relocation) = i.relocated.and_then(|field| relocations.get(&field)) {
            let target = &self.file.sections[relocation.section];
            if target.code && relocation.kind != Kind::Low {
                faults.add(Promise::Relocations, self.place(at), "takes the address of code");
            }
            if i.stores && !target.writable {
                faults.add(Promise::Memory, self.place(at), format!("stores to {}", target.name));
            }
        }
        if let Some(to) = i.beside
            && (i.stores || to < self.function.start || to >= self.function.end)
        {
            faults.add(Promise::Memory, self.place(at), "reads outside its function, or stores beside its code");
        }
    }

    /// Carries out what an instruction does to the stack; `false` where nothing more can be said.
    fn stack(&mut self, at: u64, i: &Decoded, state: &mut State, faults: &mut Faults) -> bool {
        match i.stack {
            Stack::Same => {}
            Stack::Grow(bytes) => state.0 += bytes,
            Stack::Frame(above) => state.1 = Some(state.0 - above),
            Stack::NoFrame => state.1 = None,
            Stack::Restore => state.0 = self.first,
            Stack::ToFrame(above) => match state.1 {
                Some(frame) => state.0 = frame - above,
                None => {
                    faults.add(Promise::Stack, self.place(at), "takes the stack from a register that does not hold it");
                    return false;
                }
            },
            Stack::Unknown => {
                faults.add(Promise::Stack, self.place(at), "moves the stack by an amount that cannot be told");
                return false;
            }
        }
        if state.0 < self.first && i.flow != Flow::Return {
            faults.add(Promise::Stack, self.place(at), "takes more off the stack than was put there");
            return false;
        }
        // What is stored lies in the frame of this function.
        if i.stack_store.is_some_and(|above| above < 0 || above >= state.0) {
            faults.add(Promise::Stack, self.place(at), "stores outside its frame");
        }
        self.summary.deepest = self.summary.deepest.max(state.0);
        true
    }
}
