//! What is left in memory of keys and header values once a configuration and what was made of it are
//! dropped: nothing, as far as this process's own memory goes. One test, in a process of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "a test makes its own files and reads its own memory"
)]
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use blaze_uring::Processor;
use blaze_uring::config::{Overrides, load};
use zeroize::Zeroizing;

/// What secrets are masked with while they are looked for, so that the search finds no copy of its own.
const MASK: u8 = 0x5a;
const SECRET_BYTES: usize = 64;
/// A freed block loses its first bytes to the allocator.
const SOUGHT: std::ops::Range<usize> = 24..56;

/// A secret that nobody holds in clear.
struct Masked(Vec<u8>);

impl Masked {
    fn new() -> Self {
        let letters = (0..SECRET_BYTES).map(|_| fastrand::alphanumeric() as u8 ^ MASK);
        Self(letters.collect())
    }

    fn clear(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SECRET_BYTES));
        text.extend(self.0.iter().map(|byte| char::from(byte ^ MASK)));
        text
    }

    /// How often it stands in this process's memory.
    fn count(&self) -> usize {
        let memory = File::open("/proc/self/mem").expect("our own memory");
        let maps = fs::read_to_string("/proc/self/maps").expect("its map");
        let sought = &self.0[SOUGHT];
        let mut chunk = vec![0; 1 << 20];
        let place = chunk.as_ptr() as u64;
        let mut count = 0;
        for map in maps.lines().filter(|map| map.contains(" rw")) {
            let range = map.split(' ').next().expect("a range");
            let (from, to) = range.split_once('-').expect("two addresses");
            let parse = |text| u64::from_str_radix(text, 16).expect("an address");
            let (mut from, to) = (parse(from), parse(to));
            while from < to {
                let length = chunk.len().min((to - from) as usize);
                let read = memory.read_at(&mut chunk[..length], from).unwrap_or(0);
                if read == 0 {
                    break;
                }
                chunk[..read].iter_mut().for_each(|byte| *byte ^= MASK);
                let found = memchr::memmem::find_iter(&chunk[..read], sought);
                // What the search has read a moment ago is no copy.
                let own = place..place + chunk.len() as u64;
                count += found
                    .filter(|at| !own.contains(&(from + *at as u64)))
                    .count();
                // Over the seam of two chunks.
                let overlap = if from + read as u64 == to {
                    0
                } else {
                    sought.len()
                };
                from += (read - overlap.min(read - 1)) as u64;
            }
        }
        chunk.fill(0);
        count
    }
}

#[test]
fn keys_and_header_values_are_wiped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secrets: Vec<Masked> = (0..3).map(|_| Masked::new()).collect();
    let [key, header, variable] = &secrets[..] else {
        unreachable!("there are three");
    };
    let counts = || secrets.iter().map(Masked::count).collect::<Vec<_>>();
    let path = folder.path().join("c.json");
    {
        let parts = [
            r#"{"endpoints": [{"url": "http://h/v1", "api_key": ""#,
            &key.clear(),
            r#"", "headers": {"x-team": ""#,
            &header.clear(),
            r#"", "x-other": "a ${NAME}${NAME} b"}}]}"#,
        ];
        let mut text = Zeroizing::new(String::with_capacity(4 << 10));
        parts.iter().for_each(|part| text.push_str(part));
        fs::write(&path, text.as_bytes()).expect("a file");
    }
    assert_eq!(counts(), [0; 3], "only masked");
    let environment = |name: &str| (name == "NAME").then(|| variable.clear().to_string());
    let (config, _) =
        load(Some(&path), None, &Overrides::default(), &environment).expect("it loads");
    assert!(counts().iter().all(|count| *count > 0), "they are found");
    let mut shown = format!("{config:?}");
    let processor = Processor::new(config).expect("it is valid");
    shown += &format!("{:?}", processor.config());
    for secret in &secrets {
        assert!(!shown.contains(&**secret.clear()), "a secret is shown");
    }
    drop(processor);
    assert_eq!(counts(), [0; 3], "key, header, variable");
}
