//! The trial endpoint.
