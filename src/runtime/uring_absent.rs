//! Stands where a build has no io_uring backend.

/// Never chosen, because [`uring_available`] refuses; the name exists so that callers need no `cfg`.
pub type Uring = super::tokio::Tokio;

/// Why io_uring cannot be used here.
pub fn uring_available() -> Result<(), String> {
    Err("this build has no io_uring backend (Linux with the feature `uring` only)".to_owned())
}
