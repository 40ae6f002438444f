//! The only place that names a runtime.
pub mod files;
