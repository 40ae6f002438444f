//! As many requests in flight as the system lets this process have sockets.

use crate::client::HTTP2_CONNECTIONS_MAX;
use crate::config::{Config, EndpointConfig, Workers};
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
    let available = process::raise_open_files(own + connections(config, asked, shards));
    let for_connections = available.saturating_sub(own);
    if connections(config, asked, shards) <= for_connections {
        return config.clone();
    }
    // The most that fit; one is tried whatever the limit.
    let (mut fits, mut too_many) = (1, asked);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        match connections(config, middle, shards) <= for_connections {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    let mut config = config.clone();
    config.request.workers = fits;
    if asked == Workers::AUTO_MAX {
        // Nobody asked for that many.
        return config;
    }
    tracing::warn!(
        "--workers {asked} needs {} open files, this process may have {available}; going on with {fits} \
         (raise the limit with `ulimit -n`)",
        own + connections(&config, asked, shards),
    );
    config
}

/// Sockets that so many workers can hold: each endpoint keeps its idle connections while the
/// others are used. Where HTTP/2 is certain, requests share them; by ALPN the server may still choose
/// HTTP/1.1.
fn connections(config: &Config, workers: usize, shards: usize) -> u64 {
    let of_endpoint = |endpoint: &EndpointConfig| {
        let in_flight = workers.min(endpoint.max_concurrent);
        match endpoint.http2 == Some(true) && endpoint.url.starts_with("http://") {
            true => in_flight.min(shards * HTTP2_CONNECTIONS_MAX),
            false => in_flight,
        }
    };
    config.endpoints.iter().map(of_endpoint).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certain_http_2_needs_fewer_connections_than_requests() {
        let endpoint = |url: &str, http2, max_concurrent| EndpointConfig {
            url: url.to_owned(),
            http2,
            max_concurrent,
            ..EndpointConfig::default()
        };
        let check = |endpoints: Vec<EndpointConfig>, expect: u64| {
            let config = Config {
                endpoints,
                ..Config::default()
            };
            assert_eq!(connections(&config, 15_000, 2), expect);
        };
        check(vec![endpoint("http://a/v1", None, 20_000)], 15_000);
        check(vec![endpoint("http://a/v1", None, 100)], 100);
        check(vec![endpoint("http://a/v1", Some(true), 20_000)], 512);
        check(vec![endpoint("http://a/v1", Some(true), 7)], 7);
        check(vec![endpoint("https://a/v1", Some(true), 20_000)], 15_000);
        let both = vec![
            endpoint("http://a/v1", None, 20_000),
            endpoint("http://b/v1", None, 100),
        ];
        check(both, 15_100);
    }
}
