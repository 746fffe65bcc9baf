//! ONNX models for fuzzing: those of `fixtures/`, damaged where it counts.
//!
//! Damage works on the message, not on its bytes: most results still decode, and reach what lies behind the decoder.
//! An operator with a fixture needs nothing here.

use crate::messages::{Part, walk};
use quernel::onnx::{
    MICROSOFT, SUPPORTED,
    proto::{self, ModelProto, NodeProto},
};
use quernel_test::Rng;
use std::{path::Path, sync::OnceLock};

/// Larger models are left out: they cost time and hold no other forms.
const MAX_BYTES: usize = 64 << 10;

/// Extents, indices and other integers at which something changes.
const INTS: &[i64] = &[
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    17,
    255,
    256,
    -2,
    -128,
    1 << 12,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
];
/// Numbers at which something changes.
const FLOATS: &[f32] =
    &[0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-40, 1e-20, 1e20, 3.4e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 2.147_483_6e9];
/// Values of attributes that are words, and of names.
const WORDS: &[&str] = &[
    "",
    "x",
    "SAME_UPPER",
    "SAME_LOWER",
    "VALID",
    "NOTSET",
    "constant",
    "reflect",
    "edge",
    "wrap",
    "nearest",
    "linear",
    "cubic",
    "asymmetric",
    "align_corners",
    "half_pixel",
    "pytorch_half_pixel",
    "tf_crop_and_resize",
    "floor",
    "ceil",
    "DCR",
    "CRD",
    "forward",
    "reverse",
    "bidirectional",
    "Relu",
    "Tanh",
    "*/ \"\\",
    "\u{0}",
    "../../x",
    "com.microsoft",
    "ai.onnx",
];

/// The small models of `fixtures/`, by name.
pub fn fixtures() -> &'static [(String, ModelProto)] {
    static ALL: OnceLock<Vec<(String, ModelProto)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let mut paths = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            for path in entries.filter_map(|e| Some(e.ok()?.path())) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "onnx") {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let bytes = std::fs::read(path).ok().filter(|b| b.len() <= MAX_BYTES)?;
            let name = path.strip_prefix(&root).unwrap_or(path).display().to_string();
            Some((name, proto::decode(&bytes)?))
        };
        let all: Vec<_> = paths.iter().filter_map(read).collect();
        assert!(all.len() > 100, "{} models in {}", all.len(), root.display());
        all
    })
}

/// A model, sound or not.
pub fn model(rng: &mut Rng) -> ModelProto {
    let all = fixtures();
    let mut model = rng.pick(all).1;
    if rng.chance(4) {
        graft(&mut model, &rng.pick(all).1, rng);
    }
    for _ in 0..rng.below(4) {
        damage(&mut model, rng);
    }
    model
}

/// Appends the nodes of `other` under new names, fed by a value of `model`.
fn graft(model: &mut ModelProto, other: &ModelProto, rng: &mut Rng) {
    let (Some(g), Some(other)) = (&mut model.graph, &other.graph) else { return };
    let known: Vec<String> = g.node.iter().flat_map(|n| n.output.clone()).chain(g.input.iter().filter_map(|i| i.name.clone())).collect();
    if known.is_empty() {
        return;
    }
    let held: Vec<&str> = other.initializer.iter().filter_map(|i| i.name.as_deref()).collect();
    let free: Vec<&str> = other.input.iter().filter_map(|i| i.name.as_deref()).filter(|n| !held.contains(n)).collect();
    let bound: Vec<(&str, String)> = free.iter().map(|n| (*n, rng.pick(&known))).collect();
    let renamed = |name: &String| match bound.iter().find(|(n, _)| n == name) {
        _ if name.is_empty() => String::new(),
        Some((_, value)) => value.clone(),
        None => format!("other/{name}"),
    };
    g.initializer.extend(other.initializer.iter().cloned().map(|mut t| {
        t.name = t.name.as_ref().map(renamed);
        t
    }));
    g.node.extend(other.node.iter().cloned().map(|n| NodeProto {
        input: n.input.iter().map(renamed).collect(),
        output: n.output.iter().map(renamed).collect(),
        ..n
    }));
    g.output.extend(other.output.iter().cloned().map(|mut o| {
        o.name = o.name.as_ref().map(renamed);
        o
    }));
}

/// Changes one part.
fn damage(model: &mut ModelProto, rng: &mut Rng) {
    let (mut parts, mut words) = (0, WORDS.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    walk(model, &mut |part| {
        parts += 1;
        match part {
            Part::Text(t) => words.push(t.clone()),
            Part::Names(names) => words.extend(names.iter().cloned()),
            _ => {}
        }
    });
    words.extend(SUPPORTED.iter().chain(MICROSOFT).map(|o| o.name.to_owned()));
    let chosen = rng.below(parts.max(1));
    let mut at = 0;
    walk(model, &mut |part| {
        if at == chosen {
            change(part, &words, rng);
        }
        at += 1;
    });
}

fn change(part: Part<'_>, words: &[String], rng: &mut Rng) {
    match part {
        Part::Int(i) => *i = int(*i, rng),
        Part::Kind(k) => *k = if rng.chance(8) { rng.range(-2, 40) as i32 } else { rng.range(0, 23) as i32 },
        Part::Float(f) => *f = rng.pick(FLOATS),
        Part::Text(t) => *t = rng.pick(words),
        Part::Bytes(b) if rng.chance(2) => *b = rng.pick(words).into_bytes(),
        Part::Bytes(b) => list(b, rng, |rng| rng.below(256) as u8),
        Part::Ints(i) => list(i, rng, |rng| rng.pick(INTS)),
        Part::Floats(f) => list(f, rng, |rng| rng.pick(FLOATS)),
        Part::Names(n) => list(n, rng, |rng| rng.pick(words)),
        Part::Nodes(n) => list(n, rng, |_| NodeProto::default()),
        Part::Attributes(a) => list(a, rng, |_| proto::AttributeProto::default()),
        Part::Tensors(t) => list(t, rng, |_| proto::TensorProto::default()),
        Part::Values(v) => list(v, rng, |_| proto::ValueInfoProto::default()),
    }
}

fn int(old: i64, rng: &mut Rng) -> i64 {
    match rng.below(6) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old.wrapping_neg(),
        3 => old.wrapping_mul(2),
        _ => rng.pick(INTS),
    }
}

/// Adds, takes, moves or changes an element.
fn list<T: Clone>(all: &mut Vec<T>, rng: &mut Rng, new: impl Fn(&mut Rng) -> T) {
    let n = all.len();
    match rng.below(7) {
        0 if n > 0 => drop(all.remove(rng.below(n))),
        1 if n > 0 => {
            let copy = all[rng.below(n)].clone();
            all.insert(rng.below(n + 1), copy);
        }
        2 if n > 1 => all.swap(rng.below(n), rng.below(n)),
        3 if n > 0 => {
            let at = rng.below(n);
            all[at] = new(rng);
        }
        4 => all.clear(),
        5 if n > 0 => all.truncate(rng.below(n)),
        _ => all.insert(rng.below(n + 1), new(rng)),
    }
}
