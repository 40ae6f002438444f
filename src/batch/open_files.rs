//! As many requests in flight as the system lets this process have sockets.

use crate::config::Config;
use crate::runtime::process;

/// Descriptors of a shard besides its sockets: segments, journal, ring or poller, wake-ups, and
/// what a turn of its loop opens in passing.
const FILES_PER_SHARD: u64 = 16;
/// Of the process: standard streams, input, lock, name resolution, metrics, certificates.
const FILES_OF_PROCESS: u64 = 64;

/// `config` with no more workers than there can be connections; says so if that is fewer than asked
/// for. A line must not fail for want of a descriptor.
pub fn fit(config: &Config, shards: usize) -> Config {
    let own = FILES_OF_PROCESS + FILES_PER_SHARD * shards as u64;
    let asked = config.request.workers;
    let available = process::raise_open_files(own + connections(config, asked));
    let for_connections = available.saturating_sub(own);
    if connections(config, asked) <= for_connections {
        return config.clone();
    }
    // The most that fit; one is tried whatever the limit.
    let (mut fits, mut too_many) = (1, asked);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        match connections(config, middle) <= for_connections {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    let mut config = config.clone();
    config.request.workers = fits;
    if config.request.search_workers {
        // Nobody asked for that many.
        return config;
    }
    tracing::warn!(
        "--workers {asked} needs {} open files, this process may have {available}; going on with {fits} \
         (raise the limit with `ulimit -n`)",
        own + connections(&config, asked),
    );
    config
}

/// Sockets that so many workers can hold: each endpoint keeps its idle connections while the
/// others are used.
fn connections(config: &Config, workers: usize) -> u64 {
    let of_endpoint = |endpoint: &crate::EndpointConfig| workers.min(endpoint.max_concurrent);
    config.endpoints.iter().map(of_endpoint).sum::<usize>() as u64
}
