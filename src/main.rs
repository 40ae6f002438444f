//! The `blaze-uring` binary: a thin shell around [`blaze_uring::cli`].

use std::ffi::c_long;
use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the allocator keeps freed memory before the system has it back, `mi_option_purge_delay`, which the
/// bindings lack.
const PURGE_DELAY: mi_option_t = 15;
/// Milliseconds. Of 15 000 answers that come at once, the first are written before the last are read; their
/// memory would still be there. In steady state almost nothing is given back.
const PURGE_DELAY_MS: c_long = 1;

fn main() -> ExitCode {
    // SAFETY: sets a number that is read now and then. What the environment says (MIMALLOC_PURGE_DELAY) stays.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    blaze_uring::cli::main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::{mi_option_get, mi_option_use_numa_nodes};

    #[test]
    fn the_option_is_the_delay() {
        assert_eq!(PURGE_DELAY, mi_option_use_numa_nodes - 1, "the one before");
        // SAFETY: reads a number.
        assert_eq!(
            unsafe { mi_option_get(PURGE_DELAY) },
            1000,
            "its own default"
        );
    }
}
