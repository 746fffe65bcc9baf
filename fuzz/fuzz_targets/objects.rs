#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quernel_fuzz::target("objects", bytes));
