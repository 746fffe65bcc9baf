//! Codes of few bits to bytes: lookups in tables of sixteen entries.

use super::unsupported;
use crate::emit::{Emitter, Ptr};
use cranelift_codegen::ir::{
    InstBuilder, Value,
    types::{F32, F32X4, I8, I8X16, I16X8, I64},
};
use quernel_ir::{
    codes::{UNIT, nibbles, packed_len, per_unit},
    diag::Diagnostic,
    program::{PANEL, What},
};

/// Bytes of a vector.
const VECTOR: usize = 16;

/// Emits the body of a step's function.
pub fn emit(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::Expand { count, bits } = *what else { return Err(unsupported(what)) };
    let (codes, table, to) = (e.read(0), e.read(1), e.write(0));
    let lookup = Lookup::new(e, bits, table);
    let parts = per_unit(bits) / UNIT;
    let (full, rest) = (count / per_unit(bits), count % per_unit(bits) / UNIT);
    e.walk(full, &[(codes, UNIT as i64), (to, per_unit(bits) as i64)], |e, p| lookup.unit(e, p[0], p[1], parts));
    if rest > 0 {
        let (codes, to) = (e.at(codes, (full * UNIT) as i64), e.at(to, (full * per_unit(bits)) as i64));
        lookup.unit(e, codes, to, rest);
    }
    Ok(())
}

/// Emits the body of an expansion to floats.
pub fn emit_float(e: &mut Emitter, what: &What) -> Result<(), Diagnostic> {
    let What::ExpandFloat { panels, taps, group, bits } = *what else { return Err(unsupported(what)) };
    let (codes, scales, to) = (e.read(0), e.read(1), e.write(0));
    let lookup = if bits < 8 {
        let table = e.read(2);
        Some(Lookup::new(e, bits, table))
    } else {
        None
    };
    let f = Floats { bits, lookup };
    let of_unit = per_unit(bits) / PANEL;
    let bytes = |taps: usize| (4 * PANEL * taps) as i64;
    let run = packed_len(taps * PANEL, bits) as i64;
    let line = (4 * PANEL) as i64;
    e.walk(panels, &[(codes, run), (scales, (taps / group) as i64 * line), (to, bytes(taps))], |e, p| {
        let units = (group / of_unit * UNIT) as i64;
        e.walk(taps / group, &[(p[0], units), (p[1], line), (p[2], bytes(group))], |e, p| {
            let scale = f.scales(e, p[1]);
            let (full, rest) = (group / of_unit, group % of_unit);
            e.walk(full, &[(p[0], UNIT as i64), (p[2], bytes(of_unit))], |e, q| f.unit(e, q[0], (p[1], &scale), q[1], of_unit));
            if rest > 0 {
                let (codes, to) = (e.at(p[0], (full * UNIT) as i64), e.at(p[2], bytes(full * of_unit)));
                f.unit(e, codes, (p[1], &scale), to, rest);
            }
        });
    });
    Ok(())
}

/// Codes that become floats.
struct Floats {
    bits: u8,
    /// What codes mean; nothing for signed bytes.
    lookup: Option<Lookup>,
}

impl Floats {
    fn in_vectors(&self, e: &Emitter) -> bool {
        e.vectors() && self.lookup.as_ref().is_none_or(|l| !l.nibbles.is_empty())
    }

    /// The sixteen scales of a group, where they are kept in vectors.
    fn scales(&self, e: &mut Emitter, at: Ptr) -> Vec<Value> {
        if self.in_vectors(e) { (0..4).map(|j| e.load(F32X4, at, 16 * j)).collect() } else { Vec::new() }
    }

    /// The first taps of a unit.
    fn unit(&self, e: &mut Emitter, codes: Ptr, (at, scales): (Ptr, &[Value]), to: Ptr, taps: usize) {
        if scales.is_empty() {
            let steps = [(codes, 1), (at, 4), (to, 4)];
            return e.walk(PANEL, &steps, |e, p| {
                let scale = e.load_f32(p[1], 0);
                for tap in 0..taps {
                    let off = (tap % 4 * PANEL) as i64;
                    let value = match &self.lookup {
                        Some(lookup) => lookup.scalar(e, p[0], off, tap / 4),
                        None => e.load_byte(p[0], off, true),
                    };
                    let value = e.b.ins().fcvt_from_sint(F32, value);
                    let value = e.b.ins().fmul(value, scale);
                    e.store(value, p[2], (4 * PANEL * tap) as i64);
                }
            });
        }
        debug_assert!(taps * PANEL <= per_unit(self.bits));
        for tap in 0..taps {
            let packed = e.load_constant(I8X16, codes, (tap % 4 * PANEL) as i64);
            let values = match &self.lookup {
                Some(lookup) => lookup.vector(e, packed, tap / 4),
                None => packed,
            };
            for (j, value) in e.widen_bytes_i32(values, true).into_iter().enumerate() {
                let value = e.b.ins().fcvt_from_sint(F32X4, value);
                let value = e.b.ins().fmul(value, scales[j]);
                e.store(value, to, (4 * PANEL * tap + 16 * j) as i64);
            }
        }
    }
}

/// What codes mean.
pub struct Lookup {
    bits: u8,
    table: Ptr,
    /// Entries of the patterns of four bits, for each code in them; empty without vectors.
    nibbles: Vec<Value>,
}

impl Lookup {
    /// Whether codes are looked up in vectors.
    pub fn in_vectors(e: &Emitter) -> bool {
        e.vectors() && e.machine().shuffles
    }

    /// The table of sixteen bytes at `table`, as the machine takes it.
    pub fn new(e: &mut Emitter, bits: u8, table: Ptr) -> Self {
        let mut nibble_tables = Vec::new();
        if Self::in_vectors(e) {
            let entries = e.load(I8X16, table, 0);
            for order in nibbles(bits) {
                let order = e.vconst(I8X16, order);
                nibble_tables.push(permute(e, entries, order));
            }
        }
        Self { bits, table, nibbles: nibble_tables }
    }

    /// Code number `part` of each of sixteen bytes.
    pub fn vector(&self, e: &mut Emitter, codes: Value, part: usize) -> Value {
        let first = part * usize::from(self.bits);
        let mask = e.splat_i8(15);
        let mut nibble = codes;
        if first >= 4 {
            let words = e.cast(I16X8, nibble);
            let words = e.b.ins().ushr_imm_u(words, 4);
            nibble = e.cast(I8X16, words);
        }
        let nibble = e.b.ins().band(nibble, mask);
        permute(e, self.nibbles[first % 4 / usize::from(self.bits)], nibble)
    }

    /// Code number `part` of the byte at `codes`, as an i32.
    pub fn scalar(&self, e: &mut Emitter, codes: Ptr, off: i64, part: usize) -> Value {
        let byte = e.load_byte(codes, off, false);
        let byte = e.b.ins().ushr_imm_u(byte, (part * usize::from(self.bits)) as i64);
        let code = e.b.ins().band_imm_u(byte, (1 << self.bits) - 1);
        let code = e.b.ins().uextend(I64, code);
        let entry = e.plus(self.table, code);
        e.load_byte(entry, 0, true)
    }

    /// The first `parts` codes of each byte of a unit.
    fn unit(&self, e: &mut Emitter, codes: Ptr, to: Ptr, parts: usize) {
        if self.nibbles.is_empty() {
            return e.walk(UNIT, &[(codes, 1), (to, 1)], |e, p| {
                for part in 0..parts {
                    let entry = self.scalar(e, p[0], 0, part);
                    e.store_byte(entry, p[1], (part * UNIT) as i64);
                }
            });
        }
        for at in (0..UNIT).step_by(VECTOR) {
            let packed = e.load_constant(I8X16, codes, at as i64);
            for part in 0..parts {
                let entries = self.vector(e, packed, part);
                e.store(entries, to, (part * UNIT + at) as i64);
            }
        }
    }
}

/// `table[index]` per byte; indices are below sixteen.
fn permute(e: &mut Emitter, table: Value, index: Value) -> Value {
    debug_assert_eq!(e.b.func.dfg.value_type(index).lane_type(), I8);
    if e.machine().x86 { e.b.ins().x86_pshufb(table, index) } else { e.b.ins().swizzle(table, index) }
}
