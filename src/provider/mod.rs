//! Dialects: how an endpoint is addressed and what its answers mean. Pure.
