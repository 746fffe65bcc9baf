//! How codes of few bits lie in memory, and what they mean.
//!
//! Codes come in units of [`UNIT`] bytes. Byte `i` of a unit holds the codes of its elements `i`, `i + 64`, and so on, the first in
//! the lowest bits: one shift and one table lookup of a whole unit give 64 consecutive elements.

use crate::program::{Base, PANEL, Program, Slot, Step, WeightLayout, What};
use std::borrow::Cow;

/// Bytes of a unit; elements that one table lookup of it gives.
pub const UNIT: usize = 64;
/// Entries of a table in memory; codes of fewer than four bits use the first ones.
pub const TABLE: usize = 16;

/// Elements of a unit; `bits` is 1, 2, 4 or 8.
pub fn per_unit(bits: u8) -> usize {
    UNIT * 8 / usize::from(bits)
}

/// Bytes of `count` codes, in whole units.
pub fn packed_len(count: usize, bits: u8) -> usize {
    count.div_ceil(per_unit(bits)) * UNIT
}

/// Packs codes; what fills the last unit is code 0.
pub fn pack(codes: &[u8], bits: u8) -> Vec<u8> {
    let mut packed = vec![0; packed_len(codes.len(), bits)];
    for (i, &code) in codes.iter().enumerate() {
        let (unit, within) = (i / per_unit(bits), i % per_unit(bits));
        packed[unit * UNIT + within % UNIT] |= code << (within / UNIT * usize::from(bits));
    }
    packed
}

/// Code number `i`.
pub fn code(packed: &[u8], bits: u8, i: usize) -> u8 {
    let (unit, within) = (i / per_unit(bits), i % per_unit(bits));
    let byte = packed[unit * UNIT + within % UNIT] >> (within / UNIT * usize::from(bits));
    byte & (0xff >> (8 - bits))
}

/// The bits of a code with which `values` different values can be told apart; `None` when that takes more than four.
pub fn bits_for(values: usize) -> Option<u8> {
    [1, 2, 4].into_iter().find(|bits| values <= 1 << bits)
}

/// For each of the `4 / bits` codes in four bits, where in the table the meaning of each of the sixteen patterns stands.
pub fn nibbles(bits: u8) -> Vec<[u8; 16]> {
    (0..4 / bits).map(|j| std::array::from_fn(|n| n as u8 >> (j * bits) & ((1 << bits) - 1))).collect()
}

/// The weights of a layer as bytes in the order of its layout, wherever they are: constants, constants behind a step that
/// expands them, or codes. `None` when they are computed.
pub fn weights<'p>(p: &'p Program, step: &Step) -> Option<Cow<'p, [u8]>> {
    let slot = step.reads.get(1)?;
    match &step.what {
        What::ConvCodes { conv, bits, .. } => {
            let (codes, table) = (constant(p, slot)?, constant(p, step.reads.get(4)?)?);
            let panels = conv.output.c.div_ceil(PANEL);
            let bytes = conv.layout.len(conv.weight_dims()) / panels;
            let run = packed_len(bytes, *bits);
            let panel = |panel: usize| Some((codes.get(panel * run..(panel + 1) * run)?, bytes));
            let decoded: Option<Vec<_>> = (0..panels).map(panel).collect();
            Some(decoded?.into_iter().flat_map(|(codes, n)| (0..n).map(|i| table[usize::from(code(codes, *bits, i))])).collect())
        }
        _ if slot.base == Base::Arena => {
            let at = p.steps.iter().position(|s| std::ptr::eq(s, step))?;
            let writes = |s: &&Step| {
                s.writes.iter().any(|w| w.base == Base::Arena && w.offset < slot.offset + slot.bytes && slot.offset < w.offset + w.bytes)
            };
            let made = p.steps[..at].iter().rev().find(writes)?;
            let What::Expand { count, bits } = made.what else { return None };
            let (codes, table) = (constant(p, made.reads.first()?)?, constant(p, made.reads.get(1)?)?);
            (made.writes[0] == *slot && codes.len() == packed_len(count, bits) && table.len() == TABLE)
                .then(|| (0..count).map(|i| table[usize::from(code(codes, bits, i))]).collect())
        }
        _ => constant(p, slot).map(Cow::Borrowed),
    }
}

/// Whether weights of this layout can be codes inside a layer: one run of taps per panel.
pub fn one_run(layout: WeightLayout, d: crate::program::WeightDims) -> bool {
    matches!(layout, WeightLayout::Panels { contiguous, depth: 4 } if d.groups == 1 && WeightLayout::segments(contiguous, d).1 == 1)
}

fn constant<'p>(p: &'p Program, slot: &Slot) -> Option<&'p [u8]> {
    let Base::Blob(blob) = slot.base else { return None };
    p.blobs.get(blob)?.bytes.get(slot.offset..slot.offset.checked_add(slot.bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back() {
        for bits in [1, 2, 4, 8] {
            for count in [1, 63, 64, 65, 128, 511, 512, 513, 1000] {
                let codes: Vec<u8> = (0..count).map(|i| (i * 37 % 251) as u8 & (0xff >> (8 - bits))).collect();
                let packed = pack(&codes, bits);
                assert_eq!(packed.len(), packed_len(count, bits));
                assert!((0..count).all(|i| code(&packed, bits, i) == codes[i]), "{bits} {count}");
            }
        }
        assert_eq!([1, 2, 3, 4, 5, 16, 17].map(bits_for), [Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), None]);
    }

    #[test]
    fn a_nibble_holds_its_codes() {
        for bits in [1u8, 2, 4] {
            let codes: Vec<u8> = (0..per_unit(bits)).map(|i| (i * 7 % 13) as u8 & ((1 << bits) - 1)).collect();
            let packed = pack(&codes, bits);
            for part in 0..8 / bits {
                let nibble = |byte: u8| usize::from(byte >> (part * bits / 4 * 4) & 15);
                let table = nibbles(bits)[usize::from(part % (4 / bits))];
                assert!((0..UNIT).all(|i| table[nibble(packed[i])] == codes[usize::from(part) * UNIT + i]), "{bits} {part}");
            }
        }
    }
}
