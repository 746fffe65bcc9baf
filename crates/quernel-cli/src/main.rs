//! The quernel command line.
fn main() {}
