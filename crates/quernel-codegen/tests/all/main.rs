//! Compiled code against the interpreter, and what objects promise. One program, so that the emulator is built once.

#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../common/layers.rs"]
mod drawn;
#[path = "../common/elf.rs"]
mod elf;

mod codes;
mod conv;
#[cfg(target_arch = "x86_64")]
mod emulator;
mod indices;
#[cfg(target_os = "linux")]
mod layers;
mod matmul;
mod mnemonics;
mod objects;
mod random;
mod steps;
mod strips;
mod verify;
mod verify_code;
