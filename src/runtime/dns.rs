//! Name resolution off the shards: `getaddrinfo` blocks, so it runs on threads of its own.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mailbox;

/// How long an answer is used again. Failures are never kept.
const CACHE_TIME: Duration = Duration::from_secs(30);
/// Names kept at most; the names of a run come from its endpoints, far fewer than this.
const CACHE_NAMES_MAX: usize = 1024;
/// Lookups at the same time: one slow name server must not hold up the other names.
const THREADS: usize = 4;

/// Resolves names for every shard; clones share threads and cache. The threads end when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Resolver {
    jobs: crossbeam_channel::Sender<Job>,
    cache: Arc<Cache>,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveError {
    host: String,
    reason: String,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve {}: {}", self.host, self.reason)
    }
}

impl std::error::Error for ResolveError {}

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

struct Job {
    host: String,
    answer: mailbox::Sender<Result<Vec<IpAddr>, ResolveError>>,
}

impl Resolver {
    /// Starts the resolver threads. Fails when the system gives no thread.
    pub fn start() -> io::Result<Self> {
        Self::with_lookup(Arc::new(system_lookup))
    }

    fn with_lookup(lookup: Arc<Lookup>) -> io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded();
        let cache = Arc::new(Cache::default());
        // A simulated world has addresses only.
        let threads = super::simulated::current().map_or(THREADS, |_| 0);
        for number in 0..threads {
            let (queue, cache, lookup) = (queue.clone(), Arc::clone(&cache), Arc::clone(&lookup));
            std::thread::Builder::new()
                .name(format!("resolver-{number}"))
                .spawn(move || serve(&queue, &cache, lookup.as_ref()))?;
        }
        Ok(Self { jobs, cache })
    }

    /// Every address of `host`, in the system's order of preference with the families interleaved,
    /// so that a dead IPv6 route costs one attempt and not all of them. An IP literal (IPv6 with or
    /// without brackets) is its own answer.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let addresses = if let Ok(address) = bare.parse() {
            vec![address]
        } else if let Some(known) = self.cache.get(host, super::now()) {
            known
        } else {
            self.ask(host).await?
        };
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }

    async fn ask(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let (answer, mailbox) = mailbox::channel();
        let gone = || ResolveError {
            host: host.to_owned(),
            reason: "the resolver has stopped".to_owned(),
        };
        self.jobs
            .send(Job {
                host: host.to_owned(),
                answer,
            })
            .map_err(|_| gone())?;
        mailbox.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

/// One resolver thread: answers jobs until the last [`Resolver`] is gone.
fn serve(queue: &crossbeam_channel::Receiver<Job>, cache: &Cache, lookup: &Lookup) {
    for job in queue {
        // Another thread may have answered the same name while this job waited.
        let answer = match cache.get(&job.host, super::now()) {
            Some(known) => Ok(known),
            None => look_up(&job.host, lookup)
                .inspect(|addresses| cache.put(&job.host, addresses, super::now())),
        };
        // The shard may have given up waiting.
        let _ = job.answer.send(answer);
    }
}

fn look_up(host: &str, lookup: &Lookup) -> Result<Vec<IpAddr>, ResolveError> {
    let failed = |reason: String| ResolveError {
        host: host.to_owned(),
        reason,
    };
    let addresses = lookup(host).map_err(|error| {
        let text = error.to_string();
        let prefix = "failed to lookup address information: ";
        failed(text.strip_prefix(prefix).unwrap_or(&text).to_owned())
    })?;
    if addresses.is_empty() {
        return Err(failed("the name has no address".to_owned()));
    }
    Ok(interleave(&addresses))
}

fn system_lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    // Port 0: the standard library resolves name and port together, the answer is per name.
    let mut addresses: Vec<IpAddr> = (host, 0)
        .to_socket_addrs()?
        .map(|found| found.ip())
        .collect();
    addresses.dedup();
    Ok(addresses)
}

/// Alternates the families, starting with the system's first choice; the order within each stays.
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let mut preferred = addresses
        .iter()
        .filter(|address| address.is_ipv6() == first_is_v6);
    let mut other = addresses
        .iter()
        .filter(|address| address.is_ipv6() != first_is_v6);
    let mut mixed = Vec::with_capacity(addresses.len());
    while mixed.len() < addresses.len() {
        mixed.extend(preferred.next());
        mixed.extend(other.next());
    }
    mixed
}

/// Answers by name, with the time they were given.
#[derive(Default)]
struct Cache(Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>);

impl Cache {
    fn get(&self, host: &str, now: Instant) -> Option<Vec<IpAddr>> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, addresses) = names.get(host)?;
        (now.saturating_duration_since(*since) < CACHE_TIME).then(|| addresses.clone())
    }

    fn put(&self, host: &str, addresses: &[IpAddr], now: Instant) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= CACHE_NAMES_MAX {
            names.clear();
        }
        names.insert(host.to_owned(), (now, addresses.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::runtime::Runtime;
    use crate::runtime::tokio::Tokio;

    fn resolve(resolver: &Resolver, host: &str) -> Result<Vec<String>, String> {
        Tokio::run(resolver.resolve(host, 443))
            .expect("the tokio runtime starts")
            .map(|found| found.iter().map(ToString::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn literals_need_no_lookup() {
        let resolver = Resolver::with_lookup(Arc::new(|_: &str| {
            panic!("a literal must not be looked up");
        }))
        .expect("threads start");
        for (host, expect) in [
            ("127.0.0.1", "127.0.0.1:443"),
            ("::1", "[::1]:443"),
            ("[::1]", "[::1]:443"),
        ] {
            assert_eq!(resolve(&resolver, host), Ok(vec![expect.to_owned()]));
        }
    }

    #[test]
    fn answers_are_kept_failures_are_not_and_families_alternate() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let resolver = Resolver::with_lookup(Arc::new(move |host: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            match host {
                "both.test" => Ok(["::1", "::2", "::3", "10.0.0.1"]
                    .map(|text| text.parse().expect("a literal address"))
                    .to_vec()),
                "empty.test" => Ok(Vec::new()),
                _ => Err(io::Error::other(
                    "failed to lookup address information: no such name",
                )),
            }
        }))
        .expect("threads start");

        let expect = ["[::1]:443", "10.0.0.1:443", "[::2]:443", "[::3]:443"];
        for _ in 0..3 {
            assert_eq!(resolve(&resolver, "both.test").expect("an answer"), expect);
        }
        assert_eq!(
            calls.load(Ordering::SeqCst),
            1,
            "the cache answers the second time"
        );

        for attempt in 1..=2 {
            let error = resolve(&resolver, "bad.test").expect_err("no such name");
            assert_eq!(error, "cannot resolve bad.test: no such name");
            assert_eq!(
                calls.load(Ordering::SeqCst),
                1 + attempt,
                "failures are asked again"
            );
        }
        assert_eq!(
            resolve(&resolver, "empty.test").expect_err("no address"),
            "cannot resolve empty.test: the name has no address"
        );
    }

    #[test]
    fn answers_expire() {
        let cache = Cache::default();
        let start = crate::runtime::now();
        let address = [IpAddr::from([10, 0, 0, 1])];
        cache.put("a.test", &address, start);
        assert_eq!(
            cache.get("a.test", start + CACHE_TIME / 2),
            Some(address.to_vec())
        );
        assert_eq!(cache.get("a.test", start + CACHE_TIME), None);
    }
}
