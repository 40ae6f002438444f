//! Header compression for HTTP/2 (RFC 7541). Pure.
//!
//! Both directions work on bytes: fields go from the block into whatever the caller makes of them,
//! and a request's head, once it is in the table, goes out as a few bytes that are kept.

mod decoder;
mod encoder;
mod huffman;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;

/// Bytes of the table, in each direction: the protocol's default.
const TABLE_BYTES: usize = 4096;
/// What an entry of the table counts beyond its name and value (section 4.1).
pub(super) const ENTRY_BYTES: usize = 32;

/// Fields that both sides know (appendix A); the first has the number 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The bits in front of a number that say what it is (section 6).
mod mark {
    pub(super) const INDEXED: u8 = 0x80;
    pub(super) const INSERTED: u8 = 0x40;
    pub(super) const TABLE_SIZE: u8 = 0x20;
    pub(super) const NOT_INDEXED: u8 = 0x00;
    /// In front of a string's length.
    pub(super) const HUFFMAN: u8 = 0x80;
}

#[cfg(test)]
mod tests;
