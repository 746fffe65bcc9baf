//! Random graphs of every operator, sound or not: print, parse, compare. Random damage to their text: no panic.

mod support;

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use quernel_ir::{Graph, Stage, text, verify};
use std::{cell::RefCell, collections::BTreeSet};
use support::{graph, same};

/// What damage puts in: pieces of the language and extremes.
const WORDS: &[&str] = &[
    "",
    " ",
    "\n",
    ";",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    ",",
    ":",
    "=",
    "\"",
    "\\",
    "\\u{",
    "%",
    "%0",
    "@",
    "#",
    "-",
    "0",
    "1x",
    "x",
    "x0x",
    "99999999999999999999",
    "4294967296x",
    "18446744073709551615",
    "-9223372036854775808",
    "1e40",
    "NaN",
    "inf",
    "f32",
    "bool",
    "q<",
    "q<u8, 1:0>",
    "axis=",
    "axis=255 ",
    "{3 x 1}",
    "splat 1",
    "seed 1",
    "dense [",
    "const @a: ",
    "return",
    "return\n}",
    "conv ",
    "residual",
    "é",
    "\u{0}",
];

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Out and back, in full and through a pool.
fn survives(g: &Graph) {
    let full = text::print_full(g);
    let back = text::parse(&full).unwrap_or_else(|d| panic!("{d}\n{full}"));
    same(g, &back);
    assert_eq!(text::print_full(&back), full);
    let brief = text::print(g);
    let back = text::parse_with(&brief, &text::Pool::of(g)).unwrap_or_else(|d| panic!("{d}\n{brief}"));
    same(g, &back);
    assert_eq!(text::print(&back), brief);
}

/// Any stage, any graph: a list of faults or a proof.
fn verifies(g: &Graph) {
    for stage in Stage::ALL {
        let _ = verify(g, stage).map_err(|faults| assert!(!faults.is_empty()));
    }
}

#[test]
fn graphs_survive() {
    let seen = RefCell::new(BTreeSet::new());
    runner(1500)
        .run(&graph(), |g| {
            seen.borrow_mut().extend(g.order.iter().map(|&n| g.nodes[n].op.mnemonic()));
            survives(&g);
            verifies(&g);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    // As many as `attrs` has prototypes.
    assert_eq!(seen.borrow().len(), support::MNEMONICS, "operators seen: {:?}", seen.borrow());
}

#[test]
fn damaged_text_is_an_error_or_a_graph() {
    let cuts = prop::collection::vec((any::<Index>(), 0usize..6, prop::sample::select(WORDS)), 1..6);
    let parsed = RefCell::new(0u32);
    runner(6000)
        .run(&(graph(), cuts), |(g, cuts)| {
            let mut text = text::print_full(&g);
            for (at, len, word) in cuts {
                let places: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
                let from = at.index(places.len());
                let to = (from + len).min(places.len() - 1);
                text.replace_range(places[from]..places[to], word);
            }
            if let Ok(g) = text::parse(&text) {
                *parsed.borrow_mut() += 1;
                survives(&g);
                verifies(&g);
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(*parsed.borrow() > 100, "damage that keeps a graph readable was not rare enough to test: {}", parsed.borrow());
}
