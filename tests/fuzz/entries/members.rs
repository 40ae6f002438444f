//! JSON as serde_json sees it, so that nothing of ours judges itself.

use std::fmt;

use blaze_uring::json;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object in order: names decoded, values as written.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// `None` where a name is no text (a lone surrogate).
    pub fn of(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The last one called `name`.
    pub fn last(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rfind(|(own, _)| own == name);
        found.map(|(_, value)| value.get())
    }
}

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Ours accepts `text` exactly if serde_json does, up to our bound on depth; whether it does.
pub fn assert_same_verdict(text: &[u8]) -> bool {
    let ours = json::validate(text);
    // Reads without a tree and without a bound of its own.
    let theirs = serde_json::from_slice::<&RawValue>(text);
    let shown = || text.escape_ascii().to_string();
    match &ours {
        Ok(_) => {
            assert!(theirs.is_ok(), "not JSON: {}", shown());
            assert!(depth(text) <= json::MAX_DEPTH, "too deep");
        }
        Err(error) => assert!(
            theirs.is_err() || depth(text) > json::MAX_DEPTH,
            "refused ({error}): {}",
            shown()
        ),
    }
    ours.is_ok()
}

/// Levels of brackets in a valid text.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
