//! Plain counters and histograms, and their export. Pure: elapsed time comes in as an argument.
//!
//! Each shard counts into its own [`ShardMetrics`]; about ten times a second it sends the
//! difference to the main thread, which adds it to the [`Totals`]. A [`Snapshot`] of those is all
//! that displays, Prometheus and the summary see.

mod counts;
mod failures;
mod figures;
mod latency;
pub mod prometheus;
mod shard;
mod snapshot;
pub mod summary;
pub mod tokens;
mod totals;

pub use counts::{Counts, EndpointCounts, KindCounts};
pub use failures::{Failed, FailureExample, FailureTally, Failures};
pub use figures::{EndpointFigures, Figures};
pub use latency::{LATENCY_BOUNDS_SECONDS, LATENCY_MAX, Latency};
pub use shard::{Delta, ShardMetrics};
pub use snapshot::{Availability, EndpointState, Gauges, GroupFound, Snapshot, Stopping};
pub use totals::{Before, Totals};
