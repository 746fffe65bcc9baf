//! Chains of layers in strips of rows: compiled code gives the interpreter's bytes.

use crate::common::differences;
use quernel_ir::{Stage, program::What, verify};
use quernel_lower::{Options, Strips, lower};

/// Number of random chains; `QUERNEL_CASES` asks for more, `QUERNEL_FIRST` starts elsewhere.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn random_chains_in_strips() {
    let (first, count) = (setting("QUERNEL_FIRST", 0), setting("QUERNEL_CASES", 150));
    let (mut wrong, mut steps) = (Vec::new(), 0);
    for seed in first..first + count {
        let g = quernel_test::Net::chain(seed);
        let proof = verify(&g, Stage::Quantized).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
        // The lowest strips, some height, the highest.
        let strips = Some(Strips::forced([0, 2000, 1 << 20][seed as usize % 3]));
        let program = lower(&proof, &Options { strips, ..Options::default() }).unwrap_or_else(|d| panic!("seed {seed}: {d:?}")).program;
        let inputs: Vec<Vec<u8>> = quernel_test::inputs(&g, seed).iter().map(|t| t.bytes().to_vec()).collect();
        steps +=
            program.steps.iter().filter(|s| matches!(s.what, What::Conv { .. } | What::ConvWords { .. } | What::ConvFloat { .. })).count();
        if let Some(difference) = differences(seed, &program, &inputs) {
            wrong.push(format!("seed {seed}: {difference}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(steps as u64 > 10 * count, "{steps} steps are too few to be strips");
}
