//! Damaged models: every one ends with a typed error or compiles; nothing panics, hangs or asks for memory that the file
//! does not account for. Files are made here from the fixtures, by cutting and by flipping bytes.

use quernel::{
    Compiler, Failure, Model, ModelOptions,
    ir::Code,
    quant::{Bits, Width},
};
use quernel_tests::fixture;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

/// A generator of numbers; the same seed gives the same.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Compiles damaged bytes as far as a program. `Err` is what a user would see.
fn compile(bytes: Vec<u8>) -> Result<(), Failure> {
    let model = Model::from_bytes(bytes, "damaged.onnx", &ModelOptions::default())?;
    let compiler = Compiler { bits: Bits::uniform(Width::Float), ..Compiler::default() };
    compiler.compile(&model, &mut |_| ()).map(drop)
}

/// Panics unless the bytes end as they should. Returns whether they compiled.
fn check(what: &str, bytes: Vec<u8>) -> bool {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| compile(bytes))).unwrap_or_else(|_| panic!("{what}: a panic"));
    assert!(start.elapsed() < Duration::from_secs(20), "{what}: took {:?}", start.elapsed());
    match outcome {
        Ok(()) => true,
        Err(failure) => {
            assert!(!failure.0.is_empty(), "{what}: refused without a reason");
            for d in &failure.0 {
                assert!(d.code != Code::Internal, "{what}: {d}");
                assert!(d.location.file.is_some() || d.location.place.is_some(), "{what}: no location: {d}");
            }
            false
        }
    }
}

fn models() -> Vec<(PathBuf, Vec<u8>)> {
    let names =
        ["digits.onnx", "features/resnet_block.onnx", "features/gemm_alpha_beta.onnx", "operators/split.onnx", "operators/qdq_conv.onnx"];
    names.iter().map(|n| (fixture(n), std::fs::read(fixture(n)).expect("a fixture"))).collect()
}

#[test]
fn cut_files() {
    for (path, bytes) in models() {
        let step = (bytes.len() / 60).max(1);
        for end in (0..bytes.len()).step_by(step) {
            check(&format!("{} cut at {end}", path.display()), bytes[..end].to_vec());
        }
    }
}

#[test]
fn flipped_bytes() {
    let rng = &mut Rng(0x5eed_1e55);
    let (mut compiled, mut refused) = (0, 0);
    for (path, bytes) in models() {
        for round in 0..2000 {
            let mut damaged = bytes.clone();
            // Most of a file is weights; what matters is the text between them.
            for _ in 0..1 + rng.below(3) {
                let at = if rng.below(2) == 0 { rng.below(damaged.len().min(600)) } else { rng.below(damaged.len()) };
                damaged[at] = match rng.below(4) {
                    0 => damaged[at] ^ (1 << rng.below(8)),
                    1 => 0xff,
                    2 => 0,
                    _ => rng.below(256) as u8,
                };
            }
            let outcome = check(&format!("{}, round {round}", path.display()), damaged);
            *if outcome { &mut compiled } else { &mut refused } += 1;
        }
    }
    // Both happen: flips in weights are legal models, flips elsewhere are not.
    assert!(compiled > 1000 && refused > 1000, "{compiled} compiled, {refused} refused");
}

#[test]
fn noise_and_repetition() {
    let rng = &mut Rng(7);
    for length in [1, 10, 1000, 100_000] {
        check("noise", (0..length).map(|_| rng.below(256) as u8).collect());
        check("one byte", vec![b'\n'; length]);
    }
    let digits = std::fs::read(fixture("digits.onnx")).expect("a fixture");
    check("twice in one file", digits.repeat(2));
}
