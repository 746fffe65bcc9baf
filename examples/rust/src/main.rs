//! Runs three networks that the build script compiled.
//!
//!     quernel-example digits digits_test.csv   classifies handwritten digits
//!     quernel-example several                  two inputs and three outputs; a state that the caller keeps

#![deny(unsafe_code)]

use std::process::ExitCode;

include!(concat!(env!("OUT_DIR"), "/digits.rs"));
include!(concat!(env!("OUT_DIR"), "/detector.rs"));
include!(concat!(env!("OUT_DIR"), "/cell.rs"));

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["digits", file] => digits(file),
        ["several"] => {
            detect();
            remember();
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: quernel-example digits digits_test.csv | several");
            ExitCode::from(2)
        }
    }
}

/// Every line of the file is one 8x8 image, 64 grey values 0..16, and its label.
fn digits(file: &str) -> ExitCode {
    let Ok(text) = std::fs::read_to_string(file) else {
        eprintln!("cannot read {file}");
        return ExitCode::FAILURE;
    };
    // The arena is the network's only memory. It is part of the value; `Digits::boxed()` would put it on the heap.
    let mut network = Digits::new();
    let (mut right, mut total) = (0, 0);
    for line in text.lines() {
        let values: Vec<f32> = line.split(',').filter_map(|word| word.trim().parse().ok()).collect();
        let Some((label, image)) = values.split_last() else { continue };
        let Ok(image) = <&[f32; Digits::INPUT_SIZE]>::try_from(image) else { continue };
        let logits = network.run(image);
        let best = (0..Digits::OUTPUT_SIZE).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        right += usize::from(best.is_some_and(|best| best as f32 == *label));
        total += 1;
    }
    println!("{right} of {total} digits right");
    // Less than 95 % would mean that something is broken.
    if total > 0 && 100 * right >= 95 * total { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Several inputs are parameters by name, several outputs fields by name.
fn detect() {
    let image = std::array::from_fn(|i| (i * 37 % 101) as f32 / 50.0 - 1.0);
    let vector = std::array::from_fn(|i| i as f32 / 4.0 - 0.5);
    let found = Detector::boxed().run(&image, &vector);
    print("classes", &found.classes);
    print("box", &found.box_);
    print("map", &found.map[..8]);
}

/// A network keeps nothing between calls: the caller feeds its state back.
fn remember() {
    let mut network = Cell::new();
    let mut state = [0.0; Cell::INPUT_STATE_SIZE];
    for step in 0..5 {
        let x = std::array::from_fn(|i| ((step * 6 + i) * 29 % 23) as f32 / 11.0 - 1.0);
        let after = network.run(&x, &state);
        state = after.next_state;
        print("y", &after.y);
    }
}

fn print(name: &str, values: &[f32]) {
    let words: Vec<String> = values.iter().map(|v| format!("{v:.6}")).collect();
    println!("{name} {}", words.join(" "));
}
