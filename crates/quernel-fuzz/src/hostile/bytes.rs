//! Bytes that are no message, or hardly one.

use super::{Cases, Expect, write::*};
use quernel::onnx::proto;

pub fn add(cases: &mut Cases) {
    let sound = proto::encode(&net(&[1, 8], vec![node("Relu", &["x"], &["y"], vec![])], vec![]));
    cases.bytes(Expect::Ok, "sound", sound.clone());
    cases.bytes(Expect::Error, "empty", vec![]);
    for at in 1..sound.len() {
        // A cut between two fields leaves a message, which may lack nothing that counts.
        cases.bytes(Expect::Either, format!("cut-{at}"), sound[..at].to_vec());
    }
    cases.bytes(Expect::Either, "twice", sound.repeat(2));
    cases.bytes(Expect::Error, "zeros", vec![0; 1000]);
    cases.bytes(Expect::Error, "ones", vec![0xff; 1000]);
    cases.bytes(Expect::Error, "text", b"<!DOCTYPE html><html><body>404 Not Found</body></html>".to_vec());
    cases.bytes(Expect::Error, "lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n".to_vec());
    let behind = |tail: &[u8]| [&sound[..], tail].concat();
    cases.bytes(Expect::Error, "length-beyond-the-end", behind(&[0x3a, 0x7f, 0]));
    cases.bytes(Expect::Error, "length-of-2-63", behind(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]));
    cases.bytes(Expect::Error, "number-of-11-bytes", behind(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]));
    cases.bytes(Expect::Error, "field-0", behind(&[0x00, 0x00]));
    cases.bytes(Expect::Error, "wire-type-7", behind(&[0x3f, 0x00]));
    cases.bytes(Expect::Error, "graph-as-a-number", behind(&[0x38, 0x01]));
    cases.bytes(Expect::Either, "unknown-field", behind(&[0xfa, 0x3e, 0x01, 0x00]));
    cases.bytes(Expect::Error, "group-without-end", behind(&[0xa3, 0x06]));
    // Messages inside one another, by attributes that hold graphs that hold nodes: each level is four fields.
    for depth in [5, 20, 40, 1000, 20_000] {
        let mut inner = Vec::new();
        let wrap = |tag: u8, inner: Vec<u8>| {
            let mut out = vec![tag << 3 | 2];
            let mut n = inner.len();
            while n >= 0x80 {
                out.push(n as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
            out.extend(inner);
            out
        };
        for _ in 0..depth {
            inner = wrap(1, wrap(5, wrap(6, inner)));
        }
        cases.bytes(Expect::Error, format!("depth-{depth}"), wrap(7, inner));
    }
    // Empty messages take two bytes each in the file and hundreds in memory.
    for (name, field) in [("nodes", 1u8), ("initializers", 5), ("inputs", 11)] {
        let count = 200_000;
        let mut all = Vec::with_capacity(2 * count);
        (0..count).for_each(|_| all.extend([field << 3 | 2, 0]));
        let mut file =
            vec![0x08, 0x08, 0x3a, ((2 * count) & 0x7f) as u8 | 0x80, (((2 * count) >> 7) & 0x7f) as u8 | 0x80, ((2 * count) >> 14) as u8];
        file.extend(all);
        cases.bytes(Expect::Error, format!("empty-{name}"), file);
    }
    let mut strange = net(&[1, 8], vec![node("Relu", &["x"], &["y"], vec![])], vec![]);
    for (name, version) in [("0", 0), ("-1", -1), ("max", i64::MAX)] {
        strange.ir_version = Some(version);
        cases.add(Expect::Error, format!("version-{name}"), strange.clone());
        strange.ir_version = Some(8);
        let kept = strange.opset_import[0].version.replace(version);
        cases.add(Expect::Error, format!("opset-{name}"), strange.clone());
        strange.opset_import[0].version = kept;
    }
}
