//! Waiting for the user to stop the trial endpoint.

use std::io;

/// Catches SIGINT and SIGTERM from now on; the returned function waits for the first.
#[cfg(unix)]
pub(super) fn catch() -> io::Result<impl FnOnce() -> io::Result<()>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    Ok(move || {
        signals.forever().next();
        Ok(())
    })
}

/// Catches Ctrl-C; the returned function waits for it.
#[cfg(not(unix))]
pub(super) fn catch() -> io::Result<impl FnOnce() -> io::Result<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(move || runtime.block_on(tokio::signal::ctrl_c()))
}
