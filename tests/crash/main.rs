//! What the run folder promises, on the real binary: killed anywhere, interrupted, out of space, cut
//! under its feet, the same command ends in the files of an undisturbed run and pays for nothing
//! twice but what was in flight. `docs/RELIABILITY.md` names the test of each fault.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files, sockets and clocks"
)]
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod image;
mod job;
mod kill;
mod limits;
mod mid_run;
mod points;
mod power;
mod read_only;
mod refused;
mod scene;
mod signals;
mod space;
mod storage;
mod supervise;
mod system;
