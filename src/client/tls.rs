//! TLS over a connection's halves: rustls without I/O of its own, driven across the seam.
//!
//! Both halves share the session and borrow it only between awaits, so reading and writing at the
//! same time is safe. What the session wants to send on its own account (a key update's answer)
//! goes out before the next request, as RFC 8446 section 4.6.3 asks.

#![expect(
    clippy::disallowed_methods,
    reason = "reads the certificates that are named to it"
)]

use std::cell::RefCell;
use std::io::{self, BufRead, Write as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::runtime::{Read, Write, buffers};
use crate::tls::{ExtraRoots, HTTP2, TrustError, client_config};

/// Least and most room for a read of encrypted bytes. A TLS record holds up to 16 KiB.
const CIPHER_READ: (usize, usize) = (4 * 1024, 17 * 1024);
/// Encrypted bytes of one write: usual requests go out in one, a huge one is not held twice.
const CIPHER_WRITE: usize = 256 * 1024;

/// Trust that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file of certificates cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// Its contents cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The configuration for [`super::PoolSettings`]: trusts the built-in roots, `--ca-file`, and the
/// file that `SSL_CERT_FILE` names, which `lookup` reads from the environment.
pub fn load_tls(
    ca_file: Option<&Path>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let from_environment = lookup("SSL_CERT_FILE").filter(|path| !path.is_empty());
    let paths = ca_file
        .map(Path::to_owned)
        .into_iter()
        .chain(from_environment.map(PathBuf::from));
    let mut files = Vec::new();
    for path in paths {
        match std::fs::read(&path) {
            Ok(pem) => files.push((path.display().to_string(), pem)),
            Err(reason) => return Err(TlsSetupError::Read { path, reason }),
        }
    }
    let extra: Vec<_> = files
        .iter()
        .map(|(source, pem)| ExtraRoots { source, pem })
        .collect();
    Ok(client_config(&extra)?)
}

type Session = Rc<RefCell<ClientConnection>>;

/// The receiving half.
pub(super) struct TlsReader<R> {
    inner: R,
    session: Session,
    /// Encrypted bytes; the first `taken` are in the session.
    cipher: Vec<u8>,
    taken: usize,
    /// An error behind plaintext that has to be delivered first.
    broken: Option<io::Error>,
}

/// The sending half.
pub(super) struct TlsWriter<W> {
    inner: W,
    session: Session,
    cipher: Vec<u8>,
}

/// Performs the handshake. The last flight may still wait in the session: it leaves together with
/// the first request, which saves a packet.
///
/// # Errors
/// I/O errors as they are; TLS errors wrapped, as [`io::ErrorKind::InvalidData`].
pub(super) async fn handshake<R: Read, W: Write>(
    reader: R,
    writer: W,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<(TlsReader<R>, TlsWriter<W>)> {
    let session = ClientConnection::new(config, name).map_err(wrap)?;
    let session = Rc::new(RefCell::new(session));
    let mut writer = TlsWriter {
        inner: writer,
        session: Rc::clone(&session),
        cipher: Vec::new(),
    };
    let mut reader = TlsReader {
        inner: reader,
        session,
        cipher: Vec::new(),
        taken: 0,
        broken: None,
    };
    loop {
        writer.flush().await?;
        if !reader.receive(CIPHER_READ.0).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = reader.process() {
            // The alert that tells the server why; it may have gone already.
            let _ = writer.flush().await;
            return Err(error);
        }
        if !reader.session.borrow().is_handshaking() {
            return Ok((reader, writer));
        }
    }
}

impl<R: Read> Read for TlsReader<R> {
    async fn ready(&mut self) {
        if self.cipher.is_empty() && self.broken.is_none() && !self.holds_plaintext() {
            self.inner.ready().await;
        }
    }

    async fn read(&mut self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let filled = buffer.len();
        loop {
            match self.decrypt(&mut buffer) {
                Ok(true) => return (Ok(buffer.len() - filled), buffer),
                Ok(false) => {}
                Err(error) => return (Err(error), buffer),
            }
            if let Err(error) = self.receive(buffer.capacity() - filled).await {
                return (Err(error), buffer);
            }
        }
    }
}

impl<R> TlsReader<R> {
    /// Whether the handshake chose HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        self.session.borrow().alpn_protocol() == Some(HTTP2)
    }
}

impl<R: Read> TlsReader<R> {
    /// Appends what plaintext there is, up to the buffer's capacity. True: bytes came, or the
    /// stream has ended properly; false: more encrypted bytes are needed. An error counts when all
    /// that came before it has been delivered, also in the same read: it may complete an answer.
    fn decrypt(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let filled = buffer.len();
        loop {
            let step = take_plaintext(&mut self.session.borrow_mut(), buffer);
            let has_bytes = buffer.len() > filled;
            match (self.broken.take(), step) {
                (Some(error), _) | (None, Err(error)) => {
                    if has_bytes {
                        self.broken = Some(error);
                        return Ok(true);
                    }
                    return Err(error);
                }
                (None, Ok(true)) => return Ok(true),
                (None, Ok(false)) if self.taken < self.cipher.len() => {}
                (None, Ok(false)) => return Ok(has_bytes),
            }
            if let Err(error) = self.feed() {
                self.broken = Some(error);
            }
        }
    }

    /// Reads encrypted bytes; false at the end of the stream, which the session is told.
    async fn receive(&mut self, room: usize) -> io::Result<bool> {
        self.give_back();
        self.inner.ready().await;
        let room = room.clamp(CIPHER_READ.0, CIPHER_READ.1);
        let cipher = buffers::with_room(Vec::new(), room);
        let (outcome, cipher) = self.inner.read(cipher).await;
        self.cipher = cipher;
        if outcome? > 0 {
            return Ok(true);
        }
        self.session.borrow_mut().read_tls(&mut io::empty())?;
        Ok(false)
    }

    /// All encrypted bytes are in the session: a connection that waits holds no buffer.
    fn give_back(&mut self) {
        buffers::give_back(mem::take(&mut self.cipher));
        self.taken = 0;
    }

    /// Whether the session has something that a read would give, the end of the stream included.
    fn holds_plaintext(&self) -> bool {
        !matches!(self.session.borrow_mut().reader().fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Hands the session as many encrypted bytes as it takes at once.
    fn feed(&mut self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        self.taken += session.read_tls(&mut &self.cipher[self.taken..])?;
        session.process_new_packets().map_err(wrap)?;
        drop(session);
        if self.taken == self.cipher.len() {
            self.give_back();
        }
        Ok(())
    }

    /// During the handshake: hands over everything that was received.
    fn process(&mut self) -> io::Result<()> {
        while self.taken < self.cipher.len() && self.session.borrow().wants_read() {
            self.feed()?;
        }
        Ok(())
    }
}

/// True: the buffer is full, or the stream has ended; false: the session has no more.
fn take_plaintext(session: &mut ClientConnection, buffer: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let spare = buffer.capacity() - buffer.len();
        if spare == 0 {
            return Ok(true);
        }
        let mut reader = session.reader();
        match reader.fill_buf() {
            Ok([]) => return Ok(true),
            Ok(chunk) => {
                let count = chunk.len().min(spare);
                buffer.extend_from_slice(&chunk[..count]);
                reader.consume(count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

impl<W: Write> Write for TlsWriter<W> {
    async fn write_all(&mut self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut taken = 0;
        loop {
            match self.encrypt(&buffer[taken..]) {
                Ok(0) if self.cipher.is_empty() => return (Ok(()), buffer),
                Ok(count) => taken += count,
                Err(error) => return (Err(error), buffer),
            }
            if let Err(error) = self.send_cipher().await {
                return (Err(error), buffer);
            }
        }
    }

    async fn send(&mut self, buffer: Vec<u8>) -> io::Result<()> {
        let mut taken = 0;
        loop {
            taken += self.encrypt(&buffer[taken..])?;
            if taken == buffer.len() {
                buffers::give_back(buffer);
                return self.inner.send(mem::take(&mut self.cipher)).await;
            }
            self.send_cipher().await?;
        }
    }
}

impl<W: Write> TlsWriter<W> {
    /// Encrypts as much of `plain` as one write takes, behind what the session has to say itself.
    fn encrypt(&mut self, plain: &[u8]) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        let mut taken = 0;
        loop {
            while session.wants_write() {
                if self.cipher.capacity() == 0 {
                    let room = plain.len().min(CIPHER_WRITE);
                    self.cipher = buffers::with_room(Vec::new(), room);
                }
                session.write_tls(&mut self.cipher)?;
            }
            if taken == plain.len() || self.cipher.len() >= CIPHER_WRITE {
                return Ok(taken);
            }
            match session.writer().write(&plain[taken..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => taken += count,
            }
        }
    }

    /// Sends what is encrypted.
    async fn send_cipher(&mut self) -> io::Result<()> {
        let (outcome, cipher) = self.inner.write_all(mem::take(&mut self.cipher)).await;
        buffers::give_back(cipher);
        outcome
    }

    /// Sends what the session has to say itself.
    async fn flush(&mut self) -> io::Result<()> {
        self.encrypt(&[])?;
        if self.cipher.is_empty() {
            Ok(())
        } else {
            self.send_cipher().await
        }
    }
}

/// Carries a TLS error through the seam's I/O errors; [`super::Failure`] unpacks it.
fn wrap(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
