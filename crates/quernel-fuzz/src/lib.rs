//! Random and hostile inputs, and what must hold of every answer.
//!
//! A [`Target`] makes an input for one surface of the compiler out of bytes, hands it over, and panics when a promise
//! is broken: a panic inside, an internal error, an error without a place, different bytes from two executions of one
//! network. The same targets run
//!
//! * on seeds and on the committed corpora, in `cargo test`;
//! * in a plain loop, `cargo run --release -p quernel-fuzz -- TARGET --seconds 60`;
//! * under libFuzzer, which chooses bytes by the code they reach: the folder `fuzz/` has one small file per target.
//!
//! Random networks of every operator are compared in [`differential`]; files that owe an error are listed in
//! [`hostile`].

pub mod differential;
pub mod hostile;
mod messages;
mod models;
mod oracle;
mod shrink;
mod targets;

pub use models::fixtures;
pub use oracle::{lowered, wild_inputs};
pub use shrink::shrink;
pub use targets::{TARGETS, Target};

use quernel_test::Rng;

/// Runs the target of that name; panics when there is none, or when a promise is broken.
pub fn target(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target {name}"));
    (target.run)(bytes);
}

/// A file made of others of a corpus: cut, flipped, repeated, spliced. With an empty corpus, noise.
pub fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    if corpus.is_empty() || rng.chance(16) {
        let n = rng.below(64);
        return rng.bytes(n);
    }
    let mut bytes = rng.pick(corpus);
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let n = rng.below(9).min(bytes.len() - at);
        match rng.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + n)),
            2 => {
                let copy = bytes[at..at + n].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let other = rng.pick(corpus);
                let from = rng.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let count = rng.below(5);
                let new = rng.bytes(count);
                bytes.splice(at..at, new);
            }
            _ if at < bytes.len() => {
                bytes[at] = match rng.below(5) {
                    0 => bytes[at] ^ (1 << rng.below(8)),
                    1 => bytes[at].wrapping_add(1),
                    2 => 0xff,
                    3 => 0,
                    _ => rng.below(256) as u8,
                };
            }
            _ => {}
        }
    }
    bytes
}
