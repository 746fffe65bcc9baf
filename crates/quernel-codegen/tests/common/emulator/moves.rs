//! Moves, shuffles, conversions of width, mask registers.

use super::{
    Cpu, Op, Step, Vector, immediate, k_number, lane, lanes, read,
    scalar::size,
    vector::{floats_compare, integer},
    vector_bytes, vector_number, vector_operands, write,
};
use iced_x86::{OpKind, Register};

pub(super) fn find(name: &str) -> Option<Op> {
    let f = whole(name).or_else(|| parts(name)).or_else(|| shuffles(name)).or_else(|| shifts(name)).or_else(|| masks(name));
    f.or_else(|| scalars(name)).map(Op::Other)
}

type Do = fn(&mut Cpu, &Step);

/// Bytes between the first byte of a lane of sixteen and the next.
const LANE: usize = 16;

fn moved(c: &mut Cpu, s: &Step, w: usize, aligned: bool) {
    let memory = (0..2).any(|n| s.i.op_kind(n) == OpKind::Memory);
    if memory && aligned {
        assert!(c.address(&s.i).is_multiple_of(s.bytes as u64), "{:?} of an address that is not aligned", s.i.code());
    }
    let v = c.source(s, 1, s.bytes, w);
    c.result(s, &v, s.bytes, w);
}

/// Whole registers.
fn whole(name: &str) -> Option<Do> {
    Some(match name {
        "movups" | "movdqu32" => |c, s| moved(c, s, 4, false),
        "movdqu" | "movupd" | "movdqu64" | "lddqu" => |c, s| moved(c, s, 8, false),
        "movdqu8" => |c, s| moved(c, s, 1, false),
        "movdqu16" => |c, s| moved(c, s, 2, false),
        "movaps" | "movdqa32" => |c, s| moved(c, s, 4, true),
        "movdqa" | "movapd" | "movdqa64" => |c, s| moved(c, s, 8, true),
        "zeroupper" | "vzeroupper" => |c, _| c.vectors[..16].iter_mut().for_each(|v| v[16..].fill(0)),
        "pternlogd" | "pternlogq" => |c, s| {
            let w = if format!("{:?}", s.i.mnemonic()).ends_with('d') { 4 } else { 8 };
            let (d, a, b) = (c.source(s, 0, s.bytes, w), c.source(s, 1, s.bytes, w), c.source(s, 2, s.bytes, w));
            let table = immediate(s).unwrap_or(0);
            let bit = |i: usize, v: &Vector| v[i / 8] >> (i % 8) & 1;
            let mut v = [0; 64];
            (0..8 * s.bytes).for_each(|i| v[i / 8] |= (table >> (4 * bit(i, &d) + 2 * bit(i, &a) + bit(i, &b)) & 1) << (i % 8));
            c.result(s, &v, s.bytes, w);
        },
        _ => return None,
    })
}

/// Copies `part` bytes of the last vector operand over all of the destination, `w` bytes a lane.
fn broadcast(c: &mut Cpu, s: &Step, part: usize, w: usize) {
    let from = if s.i.op1_kind() == OpKind::Memory {
        read(c.address(&s.i), part)
    } else if vector_number(s.i.op1_register()).is_some() {
        c.source(s, 1, part, part)
    } else {
        let mut v = [0; 64];
        v[..8].copy_from_slice(&c.get(&s.i, 1).to_le_bytes());
        v
    };
    let bytes = vector_bytes(s.i.op0_register()).unwrap_or(0);
    let mut v = [0; 64];
    (0..bytes).for_each(|at| v[at] = from[at % part]);
    c.result(s, &v, bytes, w);
}

/// Stores the part of the source that the immediate numbers.
fn extract(c: &mut Cpu, s: &Step, part: usize, w: usize) {
    let from = c.source(s, 1, s.bytes, w);
    let at = part * (immediate(s).unwrap_or(0) as usize % (s.bytes / part));
    let mut v = [0; 64];
    v[..part].copy_from_slice(&from[at..at + part]);
    c.result(s, &v, part, w);
}

/// The first source with a part replaced.
fn insert(c: &mut Cpu, s: &Step, part: usize, w: usize) {
    let mut v = c.source(s, 1, s.bytes, w);
    let from = if s.i.op2_kind() == OpKind::Memory { read(c.address(&s.i), part) } else { c.source(s, 2, part, part) };
    let at = part * (immediate(s).unwrap_or(0) as usize % (s.bytes / part));
    v[at..at + part].copy_from_slice(&from[..part]);
    c.result(s, &v, s.bytes, w);
}

/// Lanes of `from` bytes widened to lanes of `to`.
fn widen(c: &mut Cpu, s: &Step, from: usize, to: usize, signed: bool) {
    let bytes = vector_bytes(s.i.op0_register()).unwrap_or(0);
    let part = bytes / to * from;
    let a = if s.i.op1_kind() == OpKind::Memory { read(c.address(&s.i), part) } else { c.source(s, 1, part, from) };
    let unused = 64 - 8 * from as u32;
    let v = lanes(bytes, to, |i| {
        let v = lane(&a, i, from);
        if signed { ((v << unused) as i64 >> unused) as u64 } else { v }
    });
    c.result(s, &v, bytes, to);
}

/// Lanes of `from` bytes narrowed to lanes of `to`, by `f`.
fn narrow(c: &mut Cpu, s: &Step, from: usize, to: usize, f: fn(u64) -> u64) {
    let a = c.source(s, 1, s.bytes, from);
    let v = lanes(s.bytes / from * to, to, |i| f(lane(&a, i, from)));
    c.result(s, &v, s.bytes / from * to, to);
    if s.i.op0_kind() == OpKind::Register && s.i.op_mask() == Register::None {
        let register = vector_number(s.i.op0_register()).unwrap_or(0);
        c.vectors[register][s.bytes / from * to..].fill(0);
    }
}

fn parts(name: &str) -> Option<Do> {
    Some(match name {
        "pbroadcastb" => |c, s| broadcast(c, s, 1, 1),
        "pbroadcastw" => |c, s| broadcast(c, s, 2, 2),
        "pbroadcastd" | "broadcastss" => |c, s| broadcast(c, s, 4, 4),
        "pbroadcastq" | "broadcastsd" => |c, s| broadcast(c, s, 8, 8),
        "broadcasti128" | "broadcastf128" | "broadcasti32x4" | "broadcastf32x4" => |c, s| broadcast(c, s, 16, 4),
        "broadcasti64x2" | "broadcastf64x2" => |c, s| broadcast(c, s, 16, 8),
        "broadcasti32x8" | "broadcastf32x8" => |c, s| broadcast(c, s, 32, 4),
        "broadcasti64x4" | "broadcastf64x4" => |c, s| broadcast(c, s, 32, 8),
        "extracti128" | "extractf128" | "extracti32x4" | "extractf32x4" => |c, s| extract(c, s, 16, 4),
        "extracti64x2" | "extractf64x2" => |c, s| extract(c, s, 16, 8),
        "extracti32x8" | "extractf32x8" => |c, s| extract(c, s, 32, 4),
        "extracti64x4" | "extractf64x4" => |c, s| extract(c, s, 32, 8),
        "inserti128" | "insertf128" | "inserti32x4" | "insertf32x4" => |c, s| insert(c, s, 16, 4),
        "inserti64x2" | "insertf64x2" => |c, s| insert(c, s, 16, 8),
        "inserti32x8" | "insertf32x8" => |c, s| insert(c, s, 32, 4),
        "inserti64x4" | "insertf64x4" => |c, s| insert(c, s, 32, 8),
        "pmovzxbw" => |c, s| widen(c, s, 1, 2, false),
        "pmovzxbd" => |c, s| widen(c, s, 1, 4, false),
        "pmovzxbq" => |c, s| widen(c, s, 1, 8, false),
        "pmovzxwd" => |c, s| widen(c, s, 2, 4, false),
        "pmovzxwq" => |c, s| widen(c, s, 2, 8, false),
        "pmovzxdq" => |c, s| widen(c, s, 4, 8, false),
        "pmovsxbw" => |c, s| widen(c, s, 1, 2, true),
        "pmovsxbd" => |c, s| widen(c, s, 1, 4, true),
        "pmovsxbq" => |c, s| widen(c, s, 1, 8, true),
        "pmovsxwd" => |c, s| widen(c, s, 2, 4, true),
        "pmovsxwq" => |c, s| widen(c, s, 2, 8, true),
        "pmovsxdq" => |c, s| widen(c, s, 4, 8, true),
        "pmovdb" => |c, s| narrow(c, s, 4, 1, |v| v),
        "pmovdw" => |c, s| narrow(c, s, 4, 2, |v| v),
        "pmovwb" => |c, s| narrow(c, s, 2, 1, |v| v),
        "pmovqd" => |c, s| narrow(c, s, 8, 4, |v| v),
        "pmovsdb" => |c, s| narrow(c, s, 4, 1, |v| (v as i32).clamp(-128, 127) as u64),
        "pmovusdb" => |c, s| narrow(c, s, 4, 1, |v| v.min(255)),
        "pmovswb" => |c, s| narrow(c, s, 2, 1, |v| (v as i16).clamp(-128, 127) as u64),
        "pmovuswb" => |c, s| narrow(c, s, 2, 1, |v| v.min(255)),
        "pmovsdw" => |c, s| narrow(c, s, 4, 2, |v| (v as i32).clamp(-32768, 32767) as u64),
        _ => return None,
    })
}

/// A vector whose lanes of `w` bytes are lanes of two others: `pick` says for each which lane of which one.
fn pick(c: &mut Cpu, s: &Step, w: usize, pick: impl Fn(usize) -> (bool, usize)) {
    let [a, b] = c.two(s, s.bytes, w);
    let v = lanes(s.bytes, w, |i| {
        let (second, from) = pick(i);
        lane(if second { &b } else { &a }, from, w)
    });
    c.result(s, &v, s.bytes, w);
}

/// The same for one vector, by the immediate: `pick` gets it and the lane.
fn pick_one(c: &mut Cpu, s: &Step, w: usize, pick: impl Fn(usize, usize) -> usize) {
    let a = c.source(s, 1, s.bytes, w);
    let immediate = immediate(s).unwrap_or(0) as usize;
    let v = lanes(s.bytes, w, |i| lane(&a, pick(immediate, i), w));
    c.result(s, &v, s.bytes, w);
}

/// Alternate lanes of both sources, from the lower or upper half of every sixteen bytes.
fn unpack(c: &mut Cpu, s: &Step, w: usize, upper: bool) {
    let n = LANE / w;
    pick(c, s, w, |i| (i % 2 == 1, i / n * n + i % n / 2 + if upper { n / 2 } else { 0 }));
}

/// Lanes of `w` bytes of both sources saturated to half of that, by sixteen bytes.
fn pack(c: &mut Cpu, s: &Step, w: usize, lo: i64, hi: i64) {
    let [a, b] = c.two(s, s.bytes, w);
    let (n, unused) = (LANE / w, 64 - 8 * w as u32);
    let v = lanes(s.bytes, w / 2, |i| {
        let from = i / (2 * n) * n + i % n;
        let v = lane(if i % (2 * n) < n { &a } else { &b }, from, w);
        ((v << unused) as i64 >> unused).clamp(lo, hi) as u64
    });
    c.result(s, &v, s.bytes, w / 2);
}

/// Lanes anywhere in a table of one or two registers, by indices.
fn permute(c: &mut Cpu, s: &Step, w: usize, index: u32, tables: [u32; 2], both: bool) {
    let (index, a, b) = (c.source(s, index, s.bytes, w), c.source(s, tables[0], s.bytes, w), c.source(s, tables[1], s.bytes, w));
    let n = s.bytes / w;
    let v = lanes(s.bytes, w, |i| {
        let at = lane(&index, i, w) as usize % if both { 2 * n } else { n };
        lane(if at < n { &a } else { &b }, at % n, w)
    });
    c.result(s, &v, s.bytes, w);
}

/// Sums of neighbours, of the first source and then of the second, by sixteen bytes.
fn neighbours(c: &mut Cpu, s: &Step, w: usize, f: fn(u64, u64) -> u64) {
    let [a, b] = c.two(s, s.bytes, w);
    let n = LANE / w;
    let v = lanes(s.bytes, w, |i| {
        let (from, of) = (i / n * n + 2 * i % n, if i % n < n / 2 { &a } else { &b });
        f(lane(of, from, w), lane(of, from + 1, w))
    });
    c.result(s, &v, s.bytes, w);
}

/// Lanes of the second source where the highest bits of the mask operand are set.
fn blend(c: &mut Cpu, s: &Step, w: usize) {
    let three = vector_operands(&s.i) == 4;
    let first = if three { 1 } else { 0 };
    let (a, b) = (c.source(s, first, s.bytes, w), c.source(s, first + 1, s.bytes, w));
    let mask = if three { c.source(s, 3, s.bytes, w) } else { c.vectors[0] };
    let v = lanes(s.bytes, w, |i| lane(if mask[i * w + w - 1] >> 7 == 1 { &b } else { &a }, i, w));
    c.result(s, &v, s.bytes, w);
}

fn shuffles(name: &str) -> Option<Do> {
    Some(match name {
        "punpcklbw" => |c, s| unpack(c, s, 1, false),
        "punpcklwd" => |c, s| unpack(c, s, 2, false),
        "punpckldq" | "unpcklps" => |c, s| unpack(c, s, 4, false),
        "punpcklqdq" | "unpcklpd" => |c, s| unpack(c, s, 8, false),
        "punpckhbw" => |c, s| unpack(c, s, 1, true),
        "punpckhwd" => |c, s| unpack(c, s, 2, true),
        "punpckhdq" | "unpckhps" => |c, s| unpack(c, s, 4, true),
        "punpckhqdq" | "unpckhpd" => |c, s| unpack(c, s, 8, true),
        "packsswb" => |c, s| pack(c, s, 2, -128, 127),
        "packuswb" => |c, s| pack(c, s, 2, 0, 255),
        "packssdw" => |c, s| pack(c, s, 4, -32768, 32767),
        "packusdw" => |c, s| pack(c, s, 4, 0, 65535),
        "phaddw" => |c, s| neighbours(c, s, 2, u64::wrapping_add),
        "phaddd" => |c, s| neighbours(c, s, 4, u64::wrapping_add),
        "haddps" => |c, s| neighbours(c, s, 4, |a, b| (f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits().into()),
        "pshufd" => |c, s| pick_one(c, s, 4, |imm, i| i / 4 * 4 + (imm >> (2 * (i % 4)) & 3)),
        "pshuflw" => |c, s| pick_one(c, s, 2, |imm, i| if i % 8 < 4 { i / 8 * 8 + (imm >> (2 * (i % 4)) & 3) } else { i }),
        "pshufhw" => |c, s| pick_one(c, s, 2, |imm, i| if i % 8 < 4 { i } else { i / 8 * 8 + 4 + (imm >> (2 * (i % 4)) & 3) }),
        "movsldup" => |c, s| pick_one(c, s, 4, |_, i| i & !1),
        "movshdup" => |c, s| pick_one(c, s, 4, |_, i| i | 1),
        "shufps" => |c, s| {
            let imm = immediate(s).unwrap_or(0) as usize;
            pick(c, s, 4, |i| (i % 4 >= 2, i / 4 * 4 + (imm >> (2 * (i % 4)) & 3)));
        },
        "pshufb" => |c, s| {
            let [a, b] = c.two(s, s.bytes, 1);
            let v = lanes(s.bytes, 1, |i| if b[i] & 0x80 != 0 { 0 } else { a[i / LANE * LANE + (b[i] & 15) as usize].into() });
            c.result(s, &v, s.bytes, 1);
        },
        "palignr" => |c, s| {
            let n = immediate(s).unwrap_or(0) as usize;
            let [a, b] = c.two(s, s.bytes, 1);
            let v = lanes(s.bytes, 1, |i| match i % LANE + n {
                at if at < LANE => b[i / LANE * LANE + at].into(),
                at if at < 2 * LANE => a[i / LANE * LANE + at - LANE].into(),
                _ => 0,
            });
            c.result(s, &v, s.bytes, 1);
        },
        "pblendw" | "pblendd" | "blendps" => |c, s| {
            let (imm, w) = (immediate(s).unwrap_or(0), if format!("{:?}", s.i.mnemonic()).ends_with('w') { 2 } else { 4 });
            pick(c, s, w, |i| (imm >> (i % 8) & 1 == 1, i));
        },
        "pblendvb" => |c, s| blend(c, s, 1),
        "blendvps" => |c, s| blend(c, s, 4),
        "blendvpd" => |c, s| blend(c, s, 8),
        "pblendmb" | "pblendmd" | "blendmps" => |c, s| {
            let w = if format!("{:?}", s.i.mnemonic()).ends_with('b') { 1 } else { 4 };
            let (a, b, chosen) = (c.source(s, 1, s.bytes, w), c.source(s, 2, s.bytes, w), c.chosen(s));
            let v = lanes(s.bytes, w, |i| match chosen >> i & 1 {
                1 => lane(&b, i, w),
                _ if s.i.zeroing_masking() => 0,
                _ => lane(&a, i, w),
            });
            let register = vector_number(s.i.op0_register()).unwrap_or(0);
            c.vectors[register] = v;
        },
        "permb" => |c, s| permute(c, s, 1, 1, [2, 2], false),
        "permw" => |c, s| permute(c, s, 2, 1, [2, 2], false),
        "permd" | "permps" => |c, s| permute(c, s, 4, 1, [2, 2], false),
        "permq" | "permpd" => |c, s| match immediate(s) {
            Some(_) => pick_one(c, s, 8, |imm, i| i / 4 * 4 + (imm >> (2 * (i % 4)) & 3)),
            None => permute(c, s, 8, 1, [2, 2], false),
        },
        "permi2b" => |c, s| permute(c, s, 1, 0, [1, 2], true),
        "permi2w" => |c, s| permute(c, s, 2, 0, [1, 2], true),
        "permi2d" | "permi2ps" => |c, s| permute(c, s, 4, 0, [1, 2], true),
        "permt2b" => |c, s| permute(c, s, 1, 1, [0, 2], true),
        "permt2w" => |c, s| permute(c, s, 2, 1, [0, 2], true),
        "permt2d" | "permt2ps" => |c, s| permute(c, s, 4, 1, [0, 2], true),
        "perm2i128" | "perm2f128" => |c, s| {
            let imm = immediate(s).unwrap_or(0);
            let (a, b) = (c.source(s, 1, 32, 32), c.source(s, 2, 32, 32));
            let mut v = [0; 64];
            for half in 0..2 {
                let what = imm >> (4 * half);
                if what & 8 == 0 {
                    let from = if what & 2 == 0 { &a } else { &b };
                    let at = LANE * (what & 1) as usize;
                    v[LANE * half..][..LANE].copy_from_slice(&from[at..at + LANE]);
                }
            }
            c.result(s, &v, 32, 8);
        },
        "shufi32x4" | "shuff32x4" | "shufi64x2" | "shuff64x2" => |c, s| {
            let (imm, n) = (immediate(s).unwrap_or(0) as usize, s.bytes / LANE);
            let wide = format!("{:?}", s.i.mnemonic()).ends_with("x2");
            let w = if wide { 8 } else { 4 };
            let (a, b) = (c.source(s, 1, s.bytes, w), c.source(s, 2, s.bytes, w));
            let bits = if n == 4 { 2 } else { 1 };
            let mut v = [0; 64];
            for i in 0..n {
                let at = LANE * (imm >> (bits * i) & (n - 1));
                v[LANE * i..][..LANE].copy_from_slice(&(if i < n / 2 { a } else { b })[at..at + LANE]);
            }
            c.result(s, &v, s.bytes, w);
        },
        "permilps" => |c, s| match immediate(s) {
            Some(_) => pick_one(c, s, 4, |imm, i| i / 4 * 4 + (imm >> (2 * (i % 4)) & 3)),
            None => {
                let (a, b) = (c.source(s, 1, s.bytes, 4), c.source(s, 2, s.bytes, 4));
                let v = lanes(s.bytes, 4, |i| lane(&a, i / 4 * 4 + lane(&b, i, 4) as usize % 4, 4));
                c.result(s, &v, s.bytes, 4);
            }
        },
        _ => return None,
    })
}

/// A shift of lanes by one number: an immediate, or the low 64 bits of a register.
fn shift(c: &mut Cpu, s: &Step, w: usize, f: fn(u64, u32, u32) -> u64) {
    let bits = 8 * w as u32;
    let (a, n) = match immediate(s) {
        Some(n) => {
            let at = s.i.op_count() - 2;
            (c.source(s, at, s.bytes, w), u64::from(n))
        }
        None => {
            let first = if vector_operands(&s.i) == 3 { 1 } else { 0 };
            let by = if s.i.op_kind(first + 1) == OpKind::Memory { read(c.address(&s.i), 16) } else { c.source(s, first + 1, 16, 8) };
            (c.source(s, first, s.bytes, w), lane(&by, 0, 8))
        }
    };
    let n = n.min(64) as u32;
    let v = lanes(s.bytes, w, |i| f(lane(&a, i, w), n, bits));
    c.result(s, &v, s.bytes, w);
}

fn left(v: u64, n: u32, bits: u32) -> u64 {
    if n < bits { v << n } else { 0 }
}

fn right(v: u64, n: u32, bits: u32) -> u64 {
    if n < bits { v >> n } else { 0 }
}

fn right_signed(v: u64, n: u32, bits: u32) -> u64 {
    ((v << (64 - bits)) as i64 >> (64 - bits) >> n.min(bits - 1)) as u64
}

/// Bytes moved within every sixteen.
fn slide(c: &mut Cpu, s: &Step, up: bool) {
    let n = immediate(s).unwrap_or(0) as usize;
    let a = c.source(s, s.i.op_count() - 2, s.bytes, 1);
    let v = lanes(s.bytes, 1, |i| {
        let at = if up { (i % LANE).checked_sub(n) } else { Some(i % LANE + n).filter(|at| *at < LANE) };
        at.map_or(0, |at| a[i / LANE * LANE + at].into())
    });
    c.result(s, &v, s.bytes, 1);
}

fn shifts(name: &str) -> Option<Do> {
    Some(match name {
        "psllw" => |c, s| shift(c, s, 2, left),
        "pslld" => |c, s| shift(c, s, 4, left),
        "psllq" => |c, s| shift(c, s, 8, left),
        "psrlw" => |c, s| shift(c, s, 2, right),
        "psrld" => |c, s| shift(c, s, 4, right),
        "psrlq" => |c, s| shift(c, s, 8, right),
        "psraw" => |c, s| shift(c, s, 2, right_signed),
        "psrad" => |c, s| shift(c, s, 4, right_signed),
        "psraq" => |c, s| shift(c, s, 8, right_signed),
        "pslldq" => |c, s| slide(c, s, true),
        "psrldq" => |c, s| slide(c, s, false),
        _ => return None,
    })
}

/// Bits of a mask register by its instruction's last letter.
fn k_bits(s: &Step) -> u64 {
    match format!("{:?}", s.i.mnemonic()).chars().last() {
        Some('b') => 0xff,
        Some('w') => 0xffff,
        Some('d') => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn k_two(c: &mut Cpu, s: &Step, f: fn(u64, u64) -> u64) {
    let v = f(c.k(s.i.op1_register()), c.k(s.i.op2_register())) & k_bits(s);
    c.set_k(s.i.op0_register(), v);
}

/// The highest bits of lanes as a number.
fn signs(v: &Vector, bytes: usize, w: usize) -> u64 {
    (0..bytes / w).fold(0, |k, i| k | u64::from(v[i * w + w - 1] >> 7) << i)
}

/// Loads or stores the lanes whose mask has its highest bit set.
fn masked_move(c: &mut Cpu, s: &Step, w: usize) {
    let mask = c.source(s, 1, s.bytes, w);
    let address = c.address(&s.i);
    let chosen = signs(&mask, s.bytes, w);
    let lanes = (0..s.bytes / w).filter(|i| chosen >> i & 1 == 1);
    if s.i.op0_kind() == OpKind::Memory {
        let v = c.source(s, 2, s.bytes, w);
        lanes.for_each(|i| write(address + (i * w) as u64, &v[i * w..][..w]));
    } else {
        let mut v = [0; 64];
        lanes.for_each(|i| v[i * w..][..w].copy_from_slice(&read(address + (i * w) as u64, w)[..w]));
        c.result(s, &v, s.bytes, w);
    }
}

fn masks(name: &str) -> Option<Do> {
    Some(match name {
        "kmovb" | "kmovw" | "kmovd" | "kmovq" | "vkmovb" => |c, s| {
            let bits = k_bits(s);
            let bytes = bits.count_ones() as usize / 8;
            let v = match s.i.op1_kind() {
                OpKind::Memory => lane(&read(c.address(&s.i), bytes), 0, bytes),
                _ if k_number(s.i.op1_register()).is_some() => c.k(s.i.op1_register()),
                _ => c.get(&s.i, 1),
            } & bits;
            match s.i.op0_kind() {
                OpKind::Memory => write(c.address(&s.i), &v.to_le_bytes()[..bytes]),
                _ if k_number(s.i.op0_register()).is_some() => c.set_k(s.i.op0_register(), v),
                _ => c.put(&s.i, v),
            }
        },
        "kandb" | "kandw" | "kandd" | "kandq" => |c, s| k_two(c, s, |a, b| a & b),
        "kandnb" | "kandnw" | "kandnd" | "kandnq" => |c, s| k_two(c, s, |a, b| !a & b),
        "korb" | "korw" | "kord" | "korq" => |c, s| k_two(c, s, |a, b| a | b),
        "kxorb" | "kxorw" | "kxord" | "kxorq" => |c, s| k_two(c, s, |a, b| a ^ b),
        "kxnorb" | "kxnorw" | "kxnord" | "kxnorq" => |c, s| k_two(c, s, |a, b| !(a ^ b)),
        "knotb" | "knotw" | "knotd" | "knotq" => |c, s| {
            let v = !c.k(s.i.op1_register()) & k_bits(s);
            c.set_k(s.i.op0_register(), v);
        },
        "kshiftlb" | "kshiftlw" | "kshiftld" | "kshiftlq" => |c, s| {
            let v = left(c.k(s.i.op1_register()), immediate(s).unwrap_or(0).into(), 64) & k_bits(s);
            c.set_k(s.i.op0_register(), v);
        },
        "kshiftrb" | "kshiftrw" | "kshiftrd" | "kshiftrq" => |c, s| {
            let v = right(c.k(s.i.op1_register()) & k_bits(s), immediate(s).unwrap_or(0).into(), 64);
            c.set_k(s.i.op0_register(), v);
        },
        "kortestb" | "kortestw" | "kortestd" | "kortestq" => |c, s| {
            let v = (c.k(s.i.op0_register()) | c.k(s.i.op1_register())) & k_bits(s);
            (c.flags.zero, c.flags.carry) = (v == 0, v == k_bits(s));
        },
        "pmovb2m" => |c, s| sign_mask(c, s, 1),
        "pmovw2m" => |c, s| sign_mask(c, s, 2),
        "pmovd2m" => |c, s| sign_mask(c, s, 4),
        "pmovm2b" => |c, s| {
            let (k, bytes) = (c.k(s.i.op1_register()), s.bytes);
            c.result(s, &lanes(bytes, 1, |i| if k >> i & 1 == 1 { u64::MAX } else { 0 }), bytes, 1);
        },
        "pmovm2d" => |c, s| {
            let (k, bytes) = (c.k(s.i.op1_register()), s.bytes);
            c.result(s, &lanes(bytes, 4, |i| if k >> i & 1 == 1 { u64::MAX } else { 0 }), bytes, 4);
        },
        "pmovmskb" => |c, s| {
            let v = signs(&c.source(s, 1, s.bytes, 1), s.bytes, 1);
            c.put(&s.i, v);
        },
        "movmskps" => |c, s| {
            let v = signs(&c.source(s, 1, s.bytes, 4), s.bytes, 4);
            c.put(&s.i, v);
        },
        "maskmovps" | "pmaskmovd" => |c, s| masked_move(c, s, 4),
        "ptest" => |c, s| {
            let (a, b) = (c.source(s, 0, s.bytes, 8), c.source(s, 1, s.bytes, 8));
            let all = |f: fn(u8, u8) -> u8| (0..s.bytes).all(|i| f(a[i], b[i]) == 0);
            (c.flags.zero, c.flags.carry) = (all(|a, b| a & b), all(|a, b| !a & b));
            (c.flags.sign, c.flags.overflow, c.flags.parity) = (false, false, false);
        },
        _ => return None,
    })
}

fn sign_mask(c: &mut Cpu, s: &Step, w: usize) {
    let v = signs(&c.source(s, 1, s.bytes, w), s.bytes, w);
    c.set_k(s.i.op0_register(), v);
}

/// A part between a vector register and memory or a general register. A load clears the rest of the register.
fn scalar_move(c: &mut Cpu, s: &Step, w: usize) {
    let vector = |n: u32| s.i.op_kind(n) == OpKind::Register && vector_number(s.i.op_register(n)).is_some();
    if s.i.op_count() == 3 {
        // The lowest lane of the last, the rest of the second.
        let (mut a, b) = (c.source(s, 1, 16, 16), c.source(s, 2, 16, 16));
        a[..w].copy_from_slice(&b[..w]);
        return c.result(s, &a, 16, 16);
    }
    let mut v = [0; 64];
    if vector(1) {
        v[..w].copy_from_slice(&c.source(s, 1, w, w)[..w]);
    } else if s.i.op1_kind() == OpKind::Memory {
        v = read(c.address(&s.i), w);
    } else {
        v[..8].copy_from_slice(&c.get(&s.i, 1).to_le_bytes());
    }
    match (vector(0), s.i.op0_kind()) {
        (true, _) => c.result(s, &v, 16, 16),
        (_, OpKind::Memory) => write(c.address(&s.i), &v[..w]),
        _ => c.put(&s.i, lane(&v, 0, w)),
    }
}

/// `movss` and `movsd` between registers keep the rest of the destination, in the legacy form.
fn lowest_move(c: &mut Cpu, s: &Step, w: usize) {
    if s.i.op_count() == 2 && (0..2).all(|n| s.i.op_kind(n) == OpKind::Register) {
        let (mut a, b) = (c.source(s, 0, 16, 16), c.source(s, 1, 16, 16));
        a[..w].copy_from_slice(&b[..w]);
        return c.result(s, &a, 16, 16);
    }
    scalar_move(c, s, w);
}

/// A lane to a general register or memory.
fn lane_out(c: &mut Cpu, s: &Step, w: usize) {
    let a = c.source(s, 1, 16, w);
    let v = lane(&a, immediate(s).unwrap_or(0) as usize % (LANE / w), w);
    if s.i.op0_kind() == OpKind::Memory { write(c.address(&s.i), &v.to_le_bytes()[..w]) } else { c.put(&s.i, v) }
}

/// A lane from a general register or memory.
fn lane_in(c: &mut Cpu, s: &Step, w: usize) {
    let first = if s.i.op_count() == 4 { 1 } else { 0 };
    let mut a = c.source(s, first, 16, w);
    let v = if s.i.op_kind(first + 1) == OpKind::Memory { lane(&read(c.address(&s.i), w), 0, w) } else { c.get(&s.i, first + 1) };
    let at = w * (immediate(s).unwrap_or(0) as usize % (LANE / w));
    a[at..at + w].copy_from_slice(&v.to_le_bytes()[..w]);
    c.result(s, &a, 16, 16);
}

/// The lowest lane of the last vector operand, of `w` bytes.
fn last(c: &mut Cpu, s: &Step, w: usize) -> u64 {
    let n = vector_operands(&s.i) - 1;
    let v = if s.i.op_kind(n) == OpKind::Memory { read(c.address(&s.i), w) } else { c.source(s, n, w, w) };
    lane(&v, 0, w)
}

/// The first source with its lowest lane replaced.
fn put_lowest(c: &mut Cpu, s: &Step, v: u64, w: usize) {
    let first = if vector_operands(&s.i) == 3 { 1 } else { 0 };
    let mut a = c.source(s, first, 16, 16);
    a[..w].copy_from_slice(&v.to_le_bytes()[..w]);
    c.result(s, &a, 16, 16);
}

fn round_single(v: u64, mode: u8) -> u64 {
    let v = f32::from_bits(v as u32);
    let rounded = match mode & 7 {
        0 | 4 => v.round_ties_even(),
        1 => v.floor(),
        2 => v.ceil(),
        _ => v.trunc(),
    };
    rounded.to_bits().into()
}

/// An integer of a general register's size from a float; the least where it does not fit.
fn to_integer(c: &mut Cpu, s: &Step, v: f64, truncate: bool) {
    let v = if truncate { v.trunc() } else { v.round_ties_even() };
    let result = if size(&s.i, 0) == 8 {
        if (i64::MIN as f64..-(i64::MIN as f64)).contains(&v) { v as i64 as u64 } else { 1 << 63 }
    } else {
        integer(v)
    };
    c.put(&s.i, result);
}

fn scalars(name: &str) -> Option<Do> {
    Some(match name {
        "movd" => |c, s| scalar_move(c, s, 4),
        "movq" => |c, s| scalar_move(c, s, 8),
        "movss" => |c, s| lowest_move(c, s, 4),
        "movsd" => |c, s| lowest_move(c, s, 8),
        "pextrb" => |c, s| lane_out(c, s, 1),
        "pextrw" => |c, s| lane_out(c, s, 2),
        "pextrd" | "extractps" => |c, s| lane_out(c, s, 4),
        "pextrq" => |c, s| lane_out(c, s, 8),
        "pinsrb" => |c, s| lane_in(c, s, 1),
        "pinsrw" => |c, s| lane_in(c, s, 2),
        "pinsrd" => |c, s| lane_in(c, s, 4),
        "pinsrq" => |c, s| lane_in(c, s, 8),
        "insertps" => |c, s| {
            let (imm, [mut a, b]) = (immediate(s).unwrap_or(0) as usize, c.two(s, 4, 4));
            let from = if (0..s.i.op_count()).any(|n| s.i.op_kind(n) == OpKind::Memory) { 0 } else { imm >> 6 };
            let v = lane(&b, from, 4) as u32;
            a[4 * (imm >> 4 & 3)..][..4].copy_from_slice(&v.to_le_bytes());
            (0..4).filter(|i| imm >> i & 1 == 1).for_each(|i| a[4 * i..][..4].fill(0));
            c.result(s, &a, 16, 16);
        },
        "movlhps" => |c, s| {
            let [mut a, b] = c.two(s, 16, 16);
            a[8..16].copy_from_slice(&b[..8]);
            c.result(s, &a, 16, 16);
        },
        "movhlps" => |c, s| {
            let [mut a, b] = c.two(s, 16, 16);
            a[..8].copy_from_slice(&b[8..16]);
            c.result(s, &a, 16, 16);
        },
        "movhps" | "movhpd" => |c, s| {
            if s.i.op0_kind() == OpKind::Memory {
                let v = c.source(s, 1, 16, 16);
                return write(c.address(&s.i), &v[8..16]);
            }
            let mut a = c.source(s, if s.i.op_count() == 3 { 1 } else { 0 }, 16, 16);
            a[8..16].copy_from_slice(&read(c.address(&s.i), 8)[..8]);
            c.result(s, &a, 16, 16);
        },
        "cvtsi2ss" => |c, s| {
            let n = s.i.op_count() - 1;
            let (v, bytes) = (c.get(&s.i, n), size(&s.i, n));
            let v = if bytes == 8 { v as i64 as f32 } else { v as i32 as f32 };
            let first = if n == 2 { 1 } else { 0 };
            let mut a = c.source(s, first, 16, 16);
            a[..4].copy_from_slice(&v.to_le_bytes());
            c.result(s, &a, 16, 16);
        },
        "cvtsi2sd" => |c, s| {
            let n = s.i.op_count() - 1;
            let (v, bytes) = (c.get(&s.i, n), size(&s.i, n));
            let v = if bytes == 8 { v as i64 as f64 } else { v as i32 as f64 };
            let mut a = c.source(s, if n == 2 { 1 } else { 0 }, 16, 16);
            a[..8].copy_from_slice(&v.to_le_bytes());
            c.result(s, &a, 16, 16);
        },
        "cvttss2si" => |c, s| {
            let v = f32::from_bits(last(c, s, 4) as u32);
            to_integer(c, s, v.into(), true);
        },
        "cvtss2si" => |c, s| {
            let v = f32::from_bits(last(c, s, 4) as u32);
            to_integer(c, s, v.into(), false);
        },
        "cvttsd2si" => |c, s| {
            let v = f64::from_bits(last(c, s, 8));
            to_integer(c, s, v, true);
        },
        "cvtss2sd" => |c, s| {
            let v = f64::from(f32::from_bits(last(c, s, 4) as u32));
            put_lowest(c, s, v.to_bits(), 8);
        },
        "cvtsd2ss" => |c, s| {
            let v = f64::from_bits(last(c, s, 8)) as f32;
            put_lowest(c, s, v.to_bits().into(), 4);
        },
        "ucomiss" | "comiss" => |c, s| {
            let (a, b) = (f32::from_bits(lane(&c.source(s, 0, 4, 4), 0, 4) as u32), f32::from_bits(last(c, s, 4) as u32));
            let unordered = a.is_nan() || b.is_nan();
            (c.flags.zero, c.flags.parity, c.flags.carry) = (unordered || a == b, unordered, unordered || a < b);
            (c.flags.sign, c.flags.overflow) = (false, false);
        },
        "roundss" => |c, s| {
            let v = round_single(last(c, s, 4), immediate(s).unwrap_or(0));
            put_lowest(c, s, v, 4);
        },
        "roundps" => |c, s| {
            let a = c.source(s, 1, s.bytes, 4);
            let mode = immediate(s).unwrap_or(0);
            let v = lanes(s.bytes, 4, |i| round_single(lane(&a, i, 4), mode));
            c.result(s, &v, s.bytes, 4);
        },
        "cvtps2pd" => |c, s| {
            let bytes = vector_bytes(s.i.op0_register()).unwrap_or(0);
            let a = if s.i.op1_kind() == OpKind::Memory { read(c.address(&s.i), bytes / 2) } else { c.source(s, 1, bytes / 2, 4) };
            let v = lanes(bytes, 8, |i| f64::from(f32::from_bits(lane(&a, i, 4) as u32)).to_bits());
            c.result(s, &v, bytes, 8);
        },
        "cvtpd2ps" => |c, s| {
            let a = c.source(s, 1, s.bytes, 8);
            let v = lanes(s.bytes / 2, 4, |i| (f64::from_bits(lane(&a, i, 8)) as f32).to_bits().into());
            let mut whole = [0; 64];
            whole[..s.bytes / 2].copy_from_slice(&v[..s.bytes / 2]);
            c.result(s, &whole, (s.bytes / 2).max(16), 4);
        },
        "cmpss" => |c, s| {
            let first = if vector_operands(&s.i) == 3 { 1 } else { 0 };
            let (a, b) = (f32::from_bits(lane(&c.source(s, first, 4, 4), 0, 4) as u32), f32::from_bits(last(c, s, 4) as u32));
            let holds = floats_compare(a.into(), b.into(), immediate(s).unwrap_or(0));
            put_lowest(c, s, if holds { u64::MAX } else { 0 }, 4);
        },
        _ => return None,
    })
}
