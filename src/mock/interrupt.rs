//! Waiting for the user to stop the trial endpoint.

use std::io;
use std::sync::mpsc;

/// Catches Ctrl-C, SIGTERM and SIGHUP from now on; the returned function waits for the first.
pub(super) fn catch() -> io::Result<impl FnOnce()> {
    let (sender, receiver) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody waits any more: the endpoint is stopping already.
        let _ = sender.send(());
    })
    .map_err(io::Error::other)?;
    Ok(move || {
        // The handler, and with it the sender, lives as long as the process.
        let _ = receiver.recv();
    })
}
