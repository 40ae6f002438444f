//! The `blaze-uring` binary: a thin shell around [`blaze_uring::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    blaze_uring::cli::main()
}
