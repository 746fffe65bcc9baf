//! Tensors that say they lie in another file.

use super::{Beside, Cases, Expect, write::*};
use quernel::onnx::proto::{ModelProto, TensorProto};

pub fn add(cases: &mut Cases) {
    let of = |tensor: TensorProto| -> ModelProto { net(&[1, 4], vec![node("Add", &["x", "w"], &["y"], vec![])], vec![tensor]) };
    let at = |location: &str| of(external("w", &[4], &[("location", location)]));
    let sixteen = || Beside::File("w.bin", vec![0; 16]);
    cases.beside(Expect::Ok, "sound", at("w.bin"), vec![sixteen()]);
    cases.beside(Expect::Ok, "in-a-folder", at("data/w.bin"), vec![Beside::Folder("data"), Beside::File("data/w.bin", vec![0; 16])]);
    cases.beside(Expect::Either, "link-inside", at("l.bin"), vec![sixteen(), Beside::Link("l.bin", "w.bin")]);
    for (i, location) in [
        "../outside.bin",
        "./../outside.bin",
        "data/../../outside.bin",
        "/etc/hostname",
        "/dev/zero",
        "/proc/self/mem",
        "..\\outside.bin",
        "C:\\outside.bin",
        "file:///etc/hostname",
        "http://localhost/w.bin",
        "",
        ".",
        "..",
        "/",
        "w.bin\0",
        "w.bin/",
        "~/w.bin",
        "$HOME/w.bin",
        "absent.bin",
    ]
    .iter()
    .enumerate()
    {
        cases.beside(Expect::Error, format!("location-{i}"), at(location), vec![Beside::Folder("data")]);
    }
    cases.beside(Expect::Error, "link-outside", at("l.bin"), vec![Beside::Link("l.bin", "../outside.bin")]);
    cases.beside(Expect::Error, "link-of-a-folder", at("l/outside.bin"), vec![Beside::Link("l", "..")]);
    cases.beside(Expect::Error, "link-to-a-device", at("l.bin"), vec![Beside::Link("l.bin", "/dev/zero")]);
    cases.beside(Expect::Error, "link-to-itself", at("l.bin"), vec![Beside::Link("l.bin", "l.bin")]);
    cases.beside(Expect::Error, "pipe", at("p.bin"), vec![Beside::Pipe("p.bin")]);
    cases.beside(Expect::Error, "folder", at("data"), vec![Beside::Folder("data")]);
    for (i, (offset, length)) in [
        ("0", "17"),
        ("1", "16"),
        ("-1", "16"),
        ("0", "-16"),
        ("18446744073709551615", "16"),
        ("18446744073709551600", "16"),
        ("0", "18446744073709551615"),
        ("zero", "16"),
        ("0x0", "16"),
        (" 0", "16"),
        ("1e0", "16"),
        ("99999999999999999999999", "16"),
    ]
    .iter()
    .enumerate()
    {
        let made = of(external("w", &[4], &[("location", "w.bin"), ("offset", offset), ("length", length)]));
        cases.beside(Expect::Error, format!("place-{i}"), made, vec![sixteen()]);
    }
    let twice = of(external("w", &[4], &[("location", "w.bin"), ("location", "../outside.bin")]));
    cases.beside(Expect::Error, "two-locations", twice, vec![sixteen()]);
    cases.beside(Expect::Error, "no-location", of(external("w", &[4], &[("offset", "0")])), vec![sixteen()]);
    cases.beside(Expect::Error, "file-too-short", of(external("w", &[1 << 20], &[("location", "w.bin")])), vec![sixteen()]);
    cases.beside(Expect::Error, "file-far-too-short", of(external("w", &[1 << 30], &[("location", "w.bin")])), vec![sixteen()]);
    let both = TensorProto { raw_data: Some(vec![0; 16]), ..external("w", &[4], &[("location", "w.bin")]) };
    cases.beside(Expect::Error, "also-inside", of(both), vec![sixteen()]);
    let constant = net(
        &[1, 4],
        vec![
            node("Constant", &[], &["c"], vec![held("value", external("", &[4], &[("location", "../outside.bin")]))]),
            node("Add", &["x", "c"], &["y"], vec![]),
        ],
        vec![],
    );
    cases.beside(Expect::Error, "of-an-attribute", constant, vec![]);
}
