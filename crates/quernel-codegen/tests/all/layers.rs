//! A thousand random layers; `cargo xtask layers` checks as many as one likes.

#[test]
fn a_thousand_layers() {
    let tally = crate::drawn::check(1, 0, 1000, |_, _| ()).unwrap_or_else(|e| panic!("{e}"));
    println!("{tally:#?}");
    for kind in ["conv", "dense", "depthwise", "float", "pool"] {
        assert!(tally.layers.get(kind).is_some_and(|n| *n >= 40), "{kind}: {:?}", tally.layers);
    }
    assert!(tally.edges >= 100, "{}", tally.edges);
    if cfg!(target_arch = "x86_64") {
        assert!(tally.kernels.len() >= 150, "{:?}", tally.kernels);
    }
    // Layers of AVX2, which are not emulated, by what their weights allow.
    if quernel_codegen::Level::host().contains(&quernel_codegen::Level::V256) {
        for dot in ["__avx2", "__avx2_sums", "__avx2_widened", "__avx2_mixed"] {
            let count: usize = tally.kernels.iter().filter(|(k, _)| k.starts_with("conv_u8s8") && k.ends_with(dot)).map(|(_, n)| n).sum();
            assert!(count >= 20, "{dot}: {:?}", tally.kernels);
        }
    }
}
