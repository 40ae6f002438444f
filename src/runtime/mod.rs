//! The only place that names a runtime.
