//! The memory this process may use.
//!
//! A file decides how much memory its compilation takes, within the limits of the importer. What goes beyond the limit
//! here, or beyond what the system gives, ends the process with a diagnostic and status 1 instead of a signal: the
//! allocator cannot return an error that every caller would handle.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

/// Bytes that are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that may be allocated.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// What is written when they are not enough.
static MESSAGE: OnceLock<String> = OnceLock::new();

/// Sets the limit and what is written at it, which is formatted now: then there is no memory for it.
pub fn limit(bytes: usize, message: String) {
    LIMIT.store(bytes, Relaxed);
    // A second call keeps the message of the first.
    let _ = MESSAGE.set(message);
}

/// The system's allocator with a limit.
pub struct Limited;

// SAFETY: every call is passed to `System` unchanged; counting does not touch the memory.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise.
        there(unsafe { System.alloc(layout) })
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promise.
        there(unsafe { System.alloc_zeroed(layout) })
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        there(unsafe { System.realloc(pointer, layout, size) })
    }
}

fn take(size: usize) {
    let before = LIVE.fetch_add(size, Relaxed);
    if before.saturating_add(size) > LIMIT.load(Relaxed) {
        end();
    }
}

fn there(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        end();
    }
    pointer
}

/// Writes the message and ends the process, without memory. Other threads that get here wait for that.
#[cold]
fn end() -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    while ENDING.swap(true, Relaxed) {
        std::thread::park();
    }
    let text = MESSAGE.get().map_or("error[QN0010]: out of memory", String::as_str);
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.write_all(b"\n"));
    process::exit(1)
}
