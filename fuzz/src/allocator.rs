//! No input may make the library ask for much more memory than the input is long.

use std::alloc::{GlobalAlloc, Layout, System};

/// Most that a single allocation may take, bytes.
const MOST: usize = 64 << 20;

/// The system's allocator, less what is above the bound.
struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Ends the process, a crash in libFuzzer's eyes, where the allocation is asked for.
#[expect(clippy::print_stderr, reason = "the last word before the end")]
fn check(size: usize) {
    if size > MOST {
        eprintln!("{size} bytes at once, {MOST} are allowed");
        std::process::abort();
    }
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(old, layout) }
    }
}
