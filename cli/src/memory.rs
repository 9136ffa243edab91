//! The allocator of the command line: where the system gives no more memory, the command fails in words.
//!
//! Rust aborts a process that cannot allocate, with a message that names neither the cause nor a remedy. A limit on memory
//! (`ulimit -v`) is a failure as any other: one line on standard error, and exit status 1.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

use crate::limits::claim_the_end;

/// The line, ready made: nothing can be allocated for it.
const OUT_OF_MEMORY: &[u8] =
    b"mvsink: the system gives no more memory; raise the limit (ulimit -v), or take fewer workers\n";

/// The system's allocator, which ends the process where that has nothing to give.
#[derive(Debug)]
pub struct OrExit;

// SAFETY: every call goes to the system's allocator unchanged, and so do its results, but for null pointers, of which the
// caller hears nothing any more.
#[allow(unsafe_code, reason = "an allocator cannot be defined without")]
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn or_exit(allocated: *mut u8) -> *mut u8 {
    if allocated.is_null() {
        exit();
    }
    allocated
}

#[cold]
fn exit() -> ! {
    claim_the_end();
    let _ = std::io::stderr().write_all(OUT_OF_MEMORY);
    std::process::exit(1);
}
