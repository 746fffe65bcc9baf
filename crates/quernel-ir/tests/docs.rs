//! The examples of `docs/ir.md` are graphs, and sound ones.

use quernel_ir::{Stage, text, verify};

#[test]
fn examples_of_the_reference_are_sound() {
    let page = include_str!("../../../docs/ir.md");
    let blocks: Vec<&str> = page.split("```qir\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 2, "docs/ir.md has examples");
    for block in blocks {
        let g = text::parse(block).unwrap_or_else(|d| panic!("{d}\n{block}"));
        verify(&g, Stage::Quantized).unwrap_or_else(|faults| panic!("{faults:#?}\n{block}"));
        let full = text::print_full(&g);
        assert_eq!(text::parse(&full).map(|g| text::print_full(&g)), Ok(full));
    }
}
