//! Plain counters and histograms, and their export.
