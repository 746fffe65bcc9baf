//! The invariants of a program. All faults are reported, each with its step.
//!
//! * Every slot lies within the arena, its port or its blob; arena slots are aligned to [`ALIGN`] and leave
//!   the step's [`quernel_ir::program::What::overread`] before the end of the arena; other slots are aligned to their elements.
//! * Every step has the slots its operation names; every view lies within its slot; packed constants fill theirs.
//! * Extents fit each other, parameters lie in their ranges.
//! * Nothing writes to an input or a constant; no step writes an element twice.
//! * What a step writes it does not read, except element by element where the result depends on that element alone.
//! * Every byte read from the arena or an output was written by an earlier step, and every byte of an output is
//!   written in the end.

use crate::access::{self, Accesses, View};
use quernel_ir::program::{ALIGN, Base, Program, Slot, Step};
use std::collections::BTreeMap;

/// Largest sum of arena and ports, in bytes.
const MAX_BYTES: usize = 1 << 31;

/// Checks every invariant above; `Err` lists all faults. Never panics and allocates no more than the program's arena
/// and ports do, however wrong the program is.
pub fn verify_program(p: &Program) -> Result<(), Vec<String>> {
    let mut faults = static_faults(p);
    if faults.is_empty() {
        faults = dataflow_faults(p);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Faults that can be seen step by step; without any, executing the program is safe.
pub(crate) fn static_faults(p: &Program) -> Vec<String> {
    let mut faults = vec![];
    if p.arena_bytes > MAX_BYTES || !p.arena_bytes.is_multiple_of(ALIGN) {
        faults.push(format!("the arena of {} bytes is not a multiple of {ALIGN} up to {MAX_BYTES}", p.arena_bytes));
    }
    let ports = (0..p.inputs.len()).map(|i| Base::Input(i as u32)).chain((0..p.outputs.len()).map(|i| Base::Output(i as u32)));
    let mut total = p.arena_bytes;
    for base in ports {
        total = total.saturating_add(base_bytes(p, base).unwrap_or(usize::MAX));
        if total > MAX_BYTES {
            faults.push(format!("arena and ports up to {base:?} have more than {MAX_BYTES} bytes"));
            break;
        }
    }
    for (i, step) in p.steps.iter().enumerate() {
        step_faults(p, step, &mut |message| faults.push(format!("step {i} ({}): {message}", step.what.name())));
    }
    faults
}

/// Bytes of what a slot is part of; `None` when it does not exist or is over the limit.
pub(crate) fn base_bytes(p: &Program, base: Base) -> Option<usize> {
    let port = match base {
        Base::Arena => return Some(p.arena_bytes),
        Base::Blob(b) => return p.blobs.get(b).map(|b| b.bytes.len()),
        Base::Input(i) => p.inputs.get(i as usize)?,
        Base::Output(i) => p.outputs.get(i as usize)?,
    };
    port.ty.dims.iter().try_fold(port.ty.elem.bytes(), |a, d| a.checked_mul(*d)).filter(|n| *n <= MAX_BYTES)
}

fn step_faults(p: &Program, step: &Step, fault: &mut dyn FnMut(String)) {
    let Accesses { reads, writes, in_place } = match access::accesses(&step.what) {
        Ok(a) => a,
        Err(message) => return fault(message),
    };
    if (step.reads.len(), step.writes.len()) != (reads.len(), writes.len()) {
        return fault(format!(
            "{} reads and {} writes instead of {} and {}",
            step.reads.len(),
            step.writes.len(),
            reads.len(),
            writes.len()
        ));
    }
    let mut sound = true;
    let slots = step.reads.iter().zip(&reads).enumerate().map(|(i, x)| ("read", step.what.overread(i), x));
    for (kind, over, (slot, access)) in slots.chain(step.writes.iter().zip(&writes).map(|x| ("write", 0, x))) {
        let mut wrong = |message: String| {
            sound = false;
            fault(format!("{kind} of {slot:?}: {message}"));
        };
        let end = slot.offset.checked_add(slot.bytes);
        match base_bytes(p, slot.base) {
            None => wrong("no such memory".into()),
            Some(len) if end.is_none_or(|e| e > len) => wrong(format!("ends outside of {len} bytes")),
            Some(len) if slot.base == Base::Arena && end.is_none_or(|e| len - e < over) => {
                wrong(format!("leaves no {over} bytes to read past its end"))
            }
            Some(_) => {}
        }
        let align = if slot.base == Base::Arena { ALIGN } else { access.view.width };
        if !slot.offset.is_multiple_of(align) {
            wrong(format!("is not aligned to {align}"));
        }
        match (access.view.hull(), access.view.count()) {
            (Some((_, hi)), Some(_)) if hi <= slot.bytes => {
                if access.exact && hi != slot.bytes {
                    wrong(format!("packed data has {} bytes instead of {hi}", slot.bytes));
                }
            }
            _ => wrong(format!("view {:?} leaves the slot", access.view)),
        }
    }
    for (slot, access) in step.writes.iter().zip(&writes) {
        if matches!(slot.base, Base::Input(_) | Base::Blob(_)) {
            fault(format!("writes to {:?}", slot.base));
        }
        if !access.view.injective() {
            sound = false;
            fault(format!("writes elements of {:?} more than once", access.view));
        }
    }
    if !sound {
        return;
    }
    for (w, write) in step.writes.iter().zip(&writes) {
        for (i, (r, read)) in step.reads.iter().zip(&reads).enumerate() {
            if r.base == w.base
                && overlap((r, &read.view), (w, &write.view))
                && !(in_place.contains(&i) && same((r, &read.view), (w, &write.view)))
            {
                fault(format!("overwrites its operand {i}"));
            }
        }
    }
}

/// Whether two views touch a common byte.
fn overlap((a, va): (&Slot, &View), (b, vb): (&Slot, &View)) -> bool {
    let (Some((alo, ahi)), Some((blo, bhi))) = (va.hull(), vb.hull()) else { return true };
    if a.offset + ahi <= b.offset + blo || b.offset + bhi <= a.offset + alo || alo == ahi || blo == bhi {
        return false;
    }
    let (x, y) = (va.intervals(a.offset), vb.intervals(b.offset));
    let (mut i, mut j) = (0, 0);
    while i < x.len() && j < y.len() {
        if x[i].1 <= y[j].0 {
            i += 1;
        } else if y[j].1 <= x[i].0 {
            j += 1;
        } else {
            return true;
        }
    }
    false
}

/// Whether two views are the same elements in the same order.
fn same((a, va): (&Slot, &View), (b, vb): (&Slot, &View)) -> bool {
    let first = |s: &Slot, v: &View| s.offset + v.start * v.width;
    let walk = |v: &View| v.dims.iter().copied().zip(v.steps.iter().copied()).filter(|(d, _)| *d > 1).collect::<Vec<(usize, isize)>>();
    va.width == vb.width && first(a, va) == first(b, vb) && walk(va) == walk(vb)
}

/// Reads of bytes that no earlier step wrote, and outputs left unwritten.
fn dataflow_faults(p: &Program) -> Vec<String> {
    let mut faults = vec![];
    let mut written: BTreeMap<Base, Vec<bool>> = BTreeMap::new();
    let outputs: Vec<Base> = (0..p.outputs.len()).map(|i| Base::Output(i as u32)).collect();
    for base in outputs.iter().copied().chain([Base::Arena]) {
        written.insert(base, vec![false; base_bytes(p, base).unwrap_or(0)]);
    }
    for (i, step) in p.steps.iter().enumerate() {
        let Ok(Accesses { reads, writes, .. }) = access::accesses(&step.what) else { continue };
        for (k, (slot, read)) in step.reads.iter().zip(&reads).enumerate() {
            let Some(known) = written.get(&slot.base) else { continue };
            let missing = read
                .view
                .intervals(slot.offset)
                .into_iter()
                .find_map(|(from, to)| known[from..to].iter().position(|w| !w).map(|at| from + at));
            if let Some(at) = missing {
                faults.push(format!(
                    "step {i} ({}): operand {k} reads byte {at} of {:?}, which nothing wrote",
                    step.what.name(),
                    slot.base
                ));
            }
        }
        for (slot, write) in step.writes.iter().zip(&writes) {
            if let Some(known) = written.get_mut(&slot.base) {
                write.view.intervals(slot.offset).into_iter().for_each(|(from, to)| known[from..to].fill(true));
            }
        }
    }
    for base in outputs {
        if let Some(at) = written[&base].iter().position(|w| !w) {
            faults.push(format!("byte {at} of {base:?} is never written"));
        }
    }
    faults
}
