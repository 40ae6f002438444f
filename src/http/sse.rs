//! Server-sent events out of a byte stream (WHATWG HTML section 9.2.6), in whatever pieces it
//! arrives. Pure.
//!
//! `id` and `retry` serve reconnecting, which would start a paid request again: both are ignored. Servers
//! that are not of the standard are read as well as can be: the last event counts without a line end, a
//! field also behind white space, and a bare JSON object on a line of its own is handed out as such.

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field, `message` if there was none.
    pub event: &'a str,
    /// The `data` fields, joined by line feeds. Invalid UTF-8 is replaced, as the standard has it.
    pub data: &'a str,
    /// The data is a line that begins with `{`, which the standard ignores, and no field.
    pub bare: bool,
}

/// How every line of a stream begins that can be its first.
const STARTS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];

/// Whether a body that begins with `start` is a stream of events, whatever its type is said to be;
/// `None` while that is open. What [`unpadded`] takes away does not count.
pub fn is_stream(start: &[u8]) -> Option<bool> {
    let start = unpadded(start);
    if STARTS.iter().any(|field| start.starts_with(field)) {
        return Some(true);
    }
    let is_open = |whole: &[u8]| whole.starts_with(start);
    match STARTS.into_iter().any(is_open) || is_open(BYTE_ORDER_MARK) {
        true => None,
        false => Some(false),
    }
}

/// `start` without a byte order mark and the white space that may stand before a body.
pub fn unpadded(start: &[u8]) -> &[u8] {
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start);
    start.trim_ascii_start()
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event, or one line, exceeds the cap.
    #[error("server-sent event larger than {limit} bytes")]
    EventTooLarge {
        /// The cap.
        limit: usize,
    },
}

/// Splits a stream into events. Holds at most one unfinished event, bounded by the cap.
#[derive(Clone, Debug)]
pub struct EventReader {
    event_bytes_max: usize,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    data: Vec<u8>,
    /// `data: ` without a value makes an event, no `data` field at all does not.
    has_data: bool,
    event: Vec<u8>,
    /// The last feed ended in a carriage return: a line feed now belongs to it.
    after_carriage_return: bool,
    at_stream_start: bool,
}

impl EventReader {
    /// `event_bytes_max` bounds the bytes of one event: name, data and the line in work.
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: Vec::new(),
            after_carriage_return: false,
            at_stream_start: true,
        }
    }

    /// Takes in the next bytes and hands out every event they complete.
    ///
    /// # Errors
    /// An event exceeds the cap; the reader must not be fed again.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        if self.after_carriage_return && !bytes.is_empty() {
            self.after_carriage_return = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) {
            if self.line.is_empty() {
                self.take_line(&bytes[..end], &mut on_event)?;
            } else {
                self.check_size(self.line.len() + end)?;
                self.line.extend_from_slice(&bytes[..end]);
                let mut line = std::mem::take(&mut self.line);
                self.take_line(&line, &mut on_event)?;
                line.clear();
                self.line = line;
            }
            let rest = &bytes[end + 1..];
            bytes = match (bytes[end], rest.first()) {
                (b'\r', Some(b'\n')) => &rest[1..],
                (b'\r', None) => {
                    self.after_carriage_return = true;
                    rest
                }
                _ => rest,
            };
        }
        self.check_size(self.line.len() + bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// The stream has ended: hands out the event that lacks its line ends. The standard drops it; for
    /// an answer it may be the last word.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn finish(&mut self, mut on_event: impl FnMut(Event<'_>)) -> Result<(), SseError> {
        if !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.take_line(&line, &mut on_event)?;
        }
        self.dispatch(&mut on_event);
        Ok(())
    }

    /// A complete line, without its end.
    fn take_line(
        &mut self,
        line: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        self.check_size(line.len())?;
        let line = if std::mem::take(&mut self.at_stream_start) {
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
        } else {
            line
        };
        if line.is_empty() {
            self.dispatch(on_event);
            return Ok(());
        }
        // Spaces that keep a connection alive may stand before a field.
        let line = line.trim_ascii_start();
        if line.first() == Some(&b'{') {
            self.dispatch(on_event);
            on_event(Event {
                event: "message",
                data: &String::from_utf8_lossy(line),
                bare: true,
            });
            return Ok(());
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            // Comments (no name), `id`, `retry`, and what the standard does not know.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if self.has_data {
            let event = String::from_utf8_lossy(&self.event);
            let event = if event.is_empty() { "message" } else { &*event };
            on_event(Event {
                event,
                data: &String::from_utf8_lossy(&self.data),
                bare: false,
            });
        }
        self.has_data = false;
        self.data.clear();
        self.event.clear();
    }

    fn check_size(&self, line_bytes: usize) -> Result<(), SseError> {
        if self.data.len() + self.event.len() + line_bytes > self.event_bytes_max {
            return Err(SseError::EventTooLarge {
                limit: self.event_bytes_max,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Events as (name, data).
    type Outcome = (Vec<(String, String)>, Result<(), SseError>);

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, event_bytes_max: usize) -> Outcome {
        let mut reader = EventReader::new(event_bytes_max);
        let mut events = Vec::new();
        let mut on_event = |event: Event<'_>| {
            let name = if event.bare { "bare" } else { event.event };
            events.push((name.to_owned(), event.data.to_owned()));
        };
        let mut ended = Ok(());
        for piece in pieces {
            ended = ended.and_then(|()| reader.feed(piece, &mut on_event));
        }
        let ended = ended.and_then(|()| reader.finish(&mut on_event));
        (events, ended)
    }

    /// Reads the stream whole, cut in two at every place, and byte by byte: always the same.
    fn check_capped(stream: &[u8], cap: usize, events: &[(&str, &str)], end: Result<(), SseError>) {
        let owned = |(event, data): &(&str, &str)| ((*event).to_owned(), (*data).to_owned());
        let expect: Outcome = (events.iter().map(owned).collect(), end);
        let shown = stream.escape_ascii();
        for cut in 0..=stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(read([first, second], cap), expect, "{shown} cut at {cut}");
        }
        assert_eq!(read(stream.chunks(1), cap), expect, "{shown} byte by byte");
    }

    fn check(stream: &[u8], events: &[(&str, &str)]) {
        check_capped(stream, 1024, events, Ok(()));
    }

    #[test]
    fn streams_split_into_the_standards_events() {
        check(b"", &[]);
        check(b"data: one\n\n", &[("message", "one")]);
        check(
            b"data:one\r\n\r\ndata:  two\r\n\r\n",
            &[("message", "one"), ("message", " two")],
        );
        check(
            b"data: one\r\rdata: two\r\r",
            &[("message", "one"), ("message", "two")],
        );
        check(
            b"data: one\r\n\ndata: two\n\r\n",
            &[("message", "one"), ("message", "two")],
        );
        check(b"\n\n\r\n\rdata: one\n\n\n\n", &[("message", "one")]);
        // The standard's own examples: several lines, no value, no colon.
        check(
            b"data: YHOO\ndata: +2\ndata: 10\n\n",
            &[("message", "YHOO\n+2\n10")],
        );
        check(
            b"data\n\ndata\ndata\n\ndata:",
            &[("message", ""), ("message", "\n"), ("message", "")],
        );
        check(
            b"data:test\n\ndata: test\n\n",
            &[("message", "test"), ("message", "test")],
        );
        check(b"data: a\r\ndata: b\r\n\r\n", &[("message", "a\nb")]);
        // Names, and what has no data is no event.
        check(b"event: ping\ndata: {}\n\n", &[("ping", "{}")]);
        check(b"event: ping\n\ndata: x\n\n", &[("message", "x")]);
        check(
            b"event: a\nevent: b\ndata: x\n\ndata: y\n\n",
            &[("b", "x"), ("message", "y")],
        );
        // Ignored: comments, id, retry, unknown fields, fields in the wrong case.
        check(
            b": keep-alive\n\n:\n\ndata: x\n: y\nid: 7\nretry: 10\nData: z\n\n",
            &[("message", "x")],
        );
        check(b"data: a: b\n\n", &[("message", "a: b")]);
        check(
            "data: h\u{e9}llo \u{1f600}\n\n".as_bytes(),
            &[("message", "h\u{e9}llo \u{1f600}")],
        );
        check(b"data: \xff!\n\n", &[("message", "\u{fffd}!")]);
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_start() {
        check(b"\xef\xbb\xbfdata: x\n\n", &[("message", "x")]);
        check(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", &[]);
        check(b"\n\xef\xbb\xbfdata: x\n\n", &[]);
    }

    #[test]
    fn the_last_event_counts_without_its_line_ends() {
        let two = &[("message", "x"), ("message", "y")];
        check(b"data: x\n\ndata: y\n", two);
        check(b"data: x\n\ndata: y", two);
        check(b"data: x\r\n\r\ndata: y\r", two);
        check(b"data: x\n", &[("message", "x")]);
        check(b"event: a\ndata: x", &[("a", "x")]);
        check(b"event: x\n", &[]);
        check(b"data: x\n\n: bye\n", &[("message", "x")]);
        check(b"data: x\n\n: by", &[("message", "x")]);
        check(b"data: x\n\nid: 4\n", &[("message", "x")]);
        check(b"data: x\n\ndat", &[("message", "x")]);
    }

    #[test]
    fn what_is_not_of_the_standard_is_read_as_well_as_can_be() {
        // White space that keeps a connection alive.
        check(b" \n\t\n  data: x\n \n\n", &[("message", "x")]);
        check(b"   \r\n\r\n   event: a\r\n data: x", &[("a", "x")]);
        // Bare JSON ends the event before it.
        check(
            b"{\"a\":1}\n{\"b\":2}",
            &[("bare", "{\"a\":1}"), ("bare", "{\"b\":2}")],
        );
        check(
            b"data: x\n{\"error\": 1}\n\ndata: y",
            &[
                ("message", "x"),
                ("bare", "{\"error\": 1}"),
                ("message", "y"),
            ],
        );
    }

    #[test]
    fn the_first_bytes_tell_a_stream_from_a_body() {
        let check = |body: &[u8], expect: Option<bool>| {
            assert_eq!(is_stream(body), expect, "{}", body.escape_ascii());
            // What was decided by fewer bytes stays so.
            for cut in 0..body.len() {
                let early = is_stream(&body[..cut]);
                assert!(
                    early.is_none() || early == expect,
                    "{} at {cut}",
                    body.escape_ascii()
                );
            }
        };
        for stream in [
            "data: x", "data:{}", ": ping\n", ":", "event: a", "id: 7", "retry: 3",
        ] {
            for start in ["", "\n", "  \r\n\t", "\u{feff}", "\u{feff}\n "] {
                check(format!("{start}{stream}").as_bytes(), Some(true));
            }
        }
        for body in [
            "{",
            "[1]",
            "\"data: x\"",
            "7",
            "null",
            "<html>",
            "deploy",
            "data",
            "datax: 1",
            "ida",
        ] {
            for start in ["", " \n", "\u{feff}"] {
                let expect = (body != "data").then_some(false);
                check(format!("{start}{body}").as_bytes(), expect);
            }
        }
        for open in [&b""[..], b" ", b"\xef", b"\xef\xbb\xbf", b"dat", b"retry"] {
            check(open, None);
        }
    }

    #[test]
    fn an_event_is_bounded_and_a_stream_is_not() {
        let too_large = Err(SseError::EventTooLarge { limit: 16 });
        let many = b"data: 0123456789\n\n".repeat(20);
        check_capped(&many, 16, &[("message", "0123456789"); 20], Ok(()));
        check_capped(b"data: 01234567890\n\n", 16, &[], too_large);
        check_capped(
            b"data: a\n\n: a comment without end",
            16,
            &[("message", "a")],
            too_large,
        );
        check_capped(
            b"data: 01234\ndata: 01234\ndata: 01234\n\n",
            16,
            &[],
            too_large,
        );
        check_capped(b"event: 01234567\ndata: 0123\n\n", 16, &[], too_large);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_the_same(
            stream in prop::collection::vec(
                prop_oneof![prop::sample::select(&b"\r\n: data"[..]), any::<u8>()], 0..200),
            piece in 1..20usize,
        ) {
            let whole = read([&stream[..]], 64);
            prop_assert_eq!(read(stream.chunks(piece), 64), whole);
        }

        #[test]
        fn what_was_written_is_read(
            sent in prop::collection::vec(("[a-z]{1,8}", "[ -~\n]{0,40}"), 0..8),
            piece in 1..20usize,
        ) {
            let mut stream = String::new();
            for (event, data) in &sent {
                stream += &format!("event: {event}\n");
                for line in data.split('\n') {
                    stream += &format!("data: {line}\n");
                }
                stream += "\n";
            }
            prop_assert_eq!(read(stream.as_bytes().chunks(piece), 1024), (sent, Ok(())));
        }
    }
}
