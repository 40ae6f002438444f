//! Config files.

use std::path::Path;

use blaze_uring::Config;
use blaze_uring::config::{Overrides, load};

/// What `${KEY}` stands for.
const SECRET: &str = "sk-very-secret";

/// A config file: a valid configuration or a message with the file's name, and no secret in either.
/// Byte 0: JSON, TOML, YAML.
pub fn config(data: &[u8]) {
    let Some((&format, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let name = ["blaze.json", "blaze.toml", "blaze.yaml"][usize::from(format) % 3];
    let env = |name: &str| (name == "KEY").then(|| SECRET.to_owned());
    match load(
        Some(Path::new(name)),
        Some(text.to_owned()),
        &Overrides::default(),
        &env,
    ) {
        Ok((config, _)) => {
            blaze_uring::config::validate(&config).expect("what is loaded is valid");
            let shown = format!("{config:?}");
            assert!(
                !shown.contains(SECRET) || is_no_secret(&config),
                "a secret shows: {shown}"
            );
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty());
            assert!(
                !message
                    .chars()
                    .any(|letter| letter.is_control() && letter != '\n'),
                "{message:?}"
            );
        }
    }
}

/// It was put where names stand, which are there to be shown.
fn is_no_secret(config: &Config) -> bool {
    let mut config = config.clone();
    for endpoint in &mut config.endpoints {
        endpoint.api_key = None;
        endpoint
            .headers
            .retain(|name, value| name.contains(SECRET) || !value.expose().contains(SECRET));
        if let Some((_, rest)) = endpoint.url.split_once('@') {
            endpoint.url = format!("http://{rest}");
        }
        if let Some((path, _)) = endpoint.url.split_once('?') {
            endpoint.url = path.to_owned();
        }
    }
    format!("{config:?}").contains(SECRET)
}
