//! HTTP/1.1 message vocabulary and framing: pure, no I/O.
