//! Reads a config file's text, bounded, and for library users the whole configuration; the only I/O of
//! this folder.

#![expect(
    clippy::disallowed_methods,
    reason = "reads the config file that is named to it, and the variables that the file names"
)]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::{Config, ConfigError, Overrides, load};

/// A larger config file is a mistaken path, most likely the input itself: 4 MiB holds some
/// ten thousand endpoints.
const CONFIG_FILE_BYTES_MAX: u64 = 4 << 20;

impl Config {
    /// The configuration of a file, JSON, TOML or YAML by its extension, in the schema of the command
    /// line's `-c`; `${NAME}`s are filled in from the environment, and `SSL_CERT_FILE` is heeded. Files of
    /// a job (`input`, `output`, …) that it may name are left out.
    ///
    /// # Errors
    /// The first thing in it that cannot be used, with file, line and field.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let environment = |name: &str| std::env::var(name).ok();
        let (config, notes) = load(
            Some(path.as_ref()),
            None,
            &Overrides::default(),
            &environment,
        )?;
        for note in notes {
            tracing::info!("{note}");
        }
        Ok(config)
    }
}

/// The text of `path`. Fails when it cannot be read, is larger than 4 MiB or is not UTF-8.
/// Keys may stand in it: it is wiped when dropped.
pub fn read_file(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let unreadable = |source: io::Error| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // All at once: a buffer that grows leaves copies behind.
    let room = length.min(CONFIG_FILE_BYTES_MAX) as usize + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(CONFIG_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        let problem = format!("larger than {CONFIG_FILE_BYTES_MAX} bytes; is it a config file?");
        return Err(unreadable(io::Error::new(
            io::ErrorKind::InvalidData,
            problem,
        )));
    }
    let text = String::from_utf8(std::mem::take(&mut bytes)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        *bytes = error.into_bytes();
        let problem = format!("not UTF-8 at byte {at}; save it as UTF-8");
        unreadable(io::Error::new(io::ErrorKind::InvalidData, problem))
    })?;
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_everything_else_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("blaze.json");
        std::fs::write(&path, "{}").expect("written");
        assert_eq!(*read_file(&path).expect("readable"), "{}");

        let check = |path: &Path, expect: &str| {
            let message = read_file(path).expect_err("refused").to_string();
            assert!(message.contains(expect), "{message}");
            assert!(message.contains(&path.display().to_string()), "{message}");
        };
        check(
            &folder.path().join("none.json"),
            "cannot read the config file",
        );
        check(folder.path(), "cannot read the config file");
        std::fs::write(&path, b"{\"a\": \"\xff\"}").expect("written");
        check(&path, "not UTF-8 at byte 7");
        std::fs::write(&path, vec![b' '; CONFIG_FILE_BYTES_MAX as usize + 1]).expect("written");
        check(&path, "larger than");
    }
}
