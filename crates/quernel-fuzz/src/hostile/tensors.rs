//! Initializers whose fields do not agree.

use super::{Cases, Expect, write::*};
use quernel::onnx::proto::{TensorProto, tensor_proto::Segment};

pub fn add(cases: &mut Cases) {
    let of = |t: TensorProto| net(&[1, 4], vec![node("Add", &["x", "w"], &["y"], vec![])], vec![t]);
    let sound = halves("w", &[4]);
    cases.add(Expect::Ok, "sound", of(sound.clone()));
    for n in [0, 1, 15, 17, 32] {
        cases.add(Expect::Error, format!("bytes-{n}"), of(raw("w", FLOAT, &[4], vec![0; n])));
    }
    for (name, count) in [("none", 0), ("few", 3), ("many", 5)] {
        cases.add(
            Expect::Error,
            format!("numbers-{name}"),
            of(TensorProto { raw_data: None, float_data: vec![0.5; count], ..sound.clone() }),
        );
    }
    cases.add(Expect::Error, "two-fields", of(TensorProto { float_data: vec![0.5; 4], ..sound.clone() }));
    cases.add(Expect::Error, "another-field", of(TensorProto { raw_data: None, int64_data: vec![1; 4], ..sound.clone() }));
    cases.add(Expect::Error, "strings", of(TensorProto { raw_data: None, string_data: vec![vec![1]; 4], ..sound.clone() }));
    cases.add(Expect::Error, "segment", of(TensorProto { segment: Some(Segment { begin: Some(0), end: Some(4) }), ..sound.clone() }));
    cases.add(Expect::Error, "no-name", of(TensorProto { name: None, ..sound.clone() }));
    for location in [2, -1, 99] {
        cases.add(Expect::Error, format!("location-{location}"), of(TensorProto { data_location: Some(location), ..sound.clone() }));
    }
    for elem in [0, 8, 14, 29, -1, i32::MAX] {
        cases.add(Expect::Error, format!("type-{elem}"), of(TensorProto { data_type: Some(elem), ..sound.clone() }));
    }
    for (i, dims) in [&[-4][..], &[-2, -2], &[4, -1], &[i64::MIN], &[0], &[1 << 32, 1 << 32, 0], &[1; 70]].iter().enumerate() {
        cases.add(Expect::Error, format!("dims-{i}"), of(TensorProto { dims: dims.to_vec(), ..sound.clone() }));
    }
    let mut twice = of(sound.clone());
    if let Some(g) = &mut twice.graph {
        g.initializer.push(sound.clone());
    }
    cases.add(Expect::Error, "twice", twice);
    let narrow = |elem, numbers: Vec<i32>| TensorProto { raw_data: None, int32_data: numbers, data_type: Some(elem), ..sound.clone() };
    for (name, elem, number) in [("int8", INT8, 128), ("uint8", UINT8, -1), ("bool", 9, 2), ("half", 10, 1 << 16)] {
        cases.add(Expect::Error, format!("beyond-{name}"), of(narrow(elem, vec![number; 4])));
    }
    cases.add(Expect::Error, "bool-of-2", of(raw("w", 9, &[4], vec![2; 4])));
    let mut shadowed = of(sound);
    if let Some(g) = &mut shadowed.graph {
        g.input.push(typed("w", &[5], FLOAT));
    }
    cases.add(Expect::Error, "declared-otherwise", shadowed);
}
