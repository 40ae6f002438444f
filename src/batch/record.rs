//! What a finished line becomes: one line of valid JSON, whatever the server sent. Pure.
//!
//! The user's bytes and the server's are copied, never re-encoded. docs/RECORDS.md fixes both formats;
//! and beyond what it says:
//!
//! - A failure that belongs to an endpoint names it in `metadata`, with the server's request id.
//! - In the `openai` format an HTTP failure has `response` *and* `error` (`code` is the error kind), and
//!   the user's own fields come back too.
//! - A user's field has the same name in both formats, but for `id`, which only `openai` needs itself.

#[cfg(test)]
mod tests;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::line::{Parsed, Shape};
use crate::config::Format;
use crate::error::ErrorKind;
use crate::journal::Outcome;
use crate::json::{self, Kind, Member, Span, Syntax, Visitor};
use crate::metrics::tokens::{Tokens, Usage};
use crate::provider::no_answer::Glance;

/// Most bytes of a failed response that its record keeps. A JSON body above it is kept as cut text.
pub const RESPONSE_TEXT_BYTES_MAX: usize = 16 << 10;

/// Most bytes of an invalid line that its record keeps; `raw_bytes` then tells how many there were. The
/// input still has them, and a line of 64 MiB in the wrong format must not double the disk it needs.
pub const RAW_BYTES_MAX: usize = 1 << 20;

/// How a record is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFormat {
    /// This project's own.
    Blaze,
    /// OpenAI Batch output.
    OpenAi,
}

/// The format for a line; `None` stands for one that is not a request.
pub fn format_for(config: Format, parsed: Option<&Parsed>) -> RecordFormat {
    match (config, parsed.map(Parsed::shape)) {
        (Format::OpenAi, _) | (Format::Auto, Some(Shape::OpenAiBatch)) => RecordFormat::OpenAi,
        (Format::Blaze | Format::Auto, _) => RecordFormat::Blaze,
    }
}

/// A line that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Success<'a> {
    /// The input line.
    pub line: &'a [u8],
    /// What was read from it.
    pub parsed: &'a Parsed,
    /// The server's body; need not be JSON.
    pub response: &'a [u8],
    /// The endpoint's label, without credentials or query.
    pub endpoint: &'a str,
    /// The last attempt, request to last byte.
    pub latency_ms: u64,
    /// Of a stream: the last attempt, request to first token.
    pub ttft_ms: Option<u64>,
    /// Attempts made, the last included.
    pub attempts: u32,
    /// HTTP status.
    pub status: u16,
    /// Physical line in the input, from 1.
    pub line_number: u64,
    /// The server's own id of the request.
    pub request_id: Option<&'a str>,
}

/// A line that was given up.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The input line.
    pub line: &'a [u8],
    /// What was read from it; `None` if it is not a request: the record has its text instead.
    pub parsed: Option<&'a Parsed>,
    /// Why.
    pub kind: ErrorKind,
    /// Why, in words.
    pub message: &'a str,
    /// HTTP status, if there was a response.
    pub status: Option<u16>,
    /// Attempts made.
    pub attempts: u32,
    /// Physical line in the input, from 1.
    pub line_number: u64,
    /// The server's body.
    pub body: Option<&'a [u8]>,
    /// The server's own id of the request.
    pub request_id: Option<&'a str>,
    /// The label of the endpoint that failed last, without credentials or query.
    pub endpoint: Option<&'a str>,
    /// What the last attempt cost.
    pub billed: Billed,
}

/// What an answer cost; the `blaze` format's metadata says it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Billed {
    /// Tokens, if the answer counts any.
    pub tokens: Option<Tokens>,
    /// US dollars, if the model has a price.
    pub usd: Option<f64>,
}

/// What was seen of a response while it was written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// What it cost.
    pub billed: Billed,
    /// Whether it is plainly an answer.
    pub glance: Glance,
}

/// US dollars for tokens of the model that an answer names, in JSON; `None` without a price.
pub type Pricing<'a> = &'a dyn Fn(Tokens, Option<&[u8]>) -> Option<f64>;

/// Appends the record and its newline, and returns what the response cost and whether it looks like an answer.
/// The response is validated and copied in one pass; if it is not JSON, `out` is as it was.
pub fn write_success(
    format: RecordFormat,
    success: &Success<'_>,
    price: Pricing<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, Syntax> {
    let length_before = out.len();
    let result = match format {
        RecordFormat::Blaze => write_blaze_success(success, price, out),
        RecordFormat::OpenAi => write_openai_success(success, price, out),
    };
    if result.is_err() {
        out.truncate(length_before);
    }
    result
}

/// Appends the record and its newline.
pub fn write_failure(format: RecordFormat, failure: &Failure<'_>, out: &mut Vec<u8>) {
    match format {
        RecordFormat::Blaze => write_blaze_failure(failure, out),
        RecordFormat::OpenAi => write_openai_failure(failure, out),
    }
}

/// Appends how every record of this line and outcome begins: up to the first value that is not the
/// user's. Tells whether a record belongs to a line.
pub fn write_beginning(
    format: RecordFormat,
    outcome: Outcome,
    line: &[u8],
    parsed: Option<&Parsed>,
    line_number: u64,
    out: &mut Vec<u8>,
) {
    if format == RecordFormat::OpenAi {
        return write_openai_head(line, parsed, line_number, out);
    }
    out.push(b'{');
    if let Some(parsed) = parsed {
        write_fields(RecordFormat::Blaze, line, parsed, out);
    }
    literal(
        out,
        match outcome {
            Outcome::Success => "\"response\":",
            Outcome::Failure => "\"error\":",
        },
    );
}

fn write_blaze_success(
    success: &Success<'_>,
    price: Pricing<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, Syntax> {
    out.push(b'{');
    write_fields(RecordFormat::Blaze, success.line, success.parsed, out);
    literal(out, "\"response\":");
    let written = write_response(success.response, price, out)?;
    literal(out, ",\"metadata\":{\"endpoint\":");
    json::write_string(success.endpoint, out);
    literal(out, ",\"latency_ms\":");
    number(out, success.latency_ms);
    literal(out, ",\"attempts\":");
    number(out, success.attempts);
    literal(out, ",\"status_code\":");
    number(out, success.status);
    literal(out, ",\"line_number\":");
    number(out, success.line_number);
    if let Some(ttft_ms) = success.ttft_ms {
        literal(out, ",\"ttft_ms\":");
        number(out, ttft_ms);
    }
    write_billed(written.billed, out);
    literal(out, "}}\n");
    Ok(written)
}

fn write_openai_success(
    success: &Success<'_>,
    price: Pricing<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, Syntax> {
    write_openai_head(success.line, Some(success.parsed), success.line_number, out);
    let parsed = Some(success.parsed);
    let id = openai_id(success.line, parsed, success.line_number);
    write_openai_response_head(success.status, success.request_id, id, out);
    let written = write_response(success.response, price, out)?;
    literal(out, "},\"error\":null}\n");
    Ok(written)
}

/// Members of `metadata`, in the words of the summary.
fn write_billed(billed: Billed, out: &mut Vec<u8>) {
    if let Some(tokens) = billed.tokens {
        literal(out, ",\"tokens\":{\"prompt\":");
        number(out, tokens.prompt);
        literal(out, ",\"completion\":");
        number(out, tokens.completion);
        literal(out, ",\"cached\":");
        number(out, tokens.cached);
        out.push(b'}');
    }
    if let Some(usd) = billed.usd {
        literal(out, &format!(",\"cost_usd\":{usd}"));
    }
}

fn write_blaze_failure(failure: &Failure<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    if let Some(parsed) = failure.parsed {
        write_fields(RecordFormat::Blaze, failure.line, parsed, out);
    }
    literal(out, "\"error\":");
    json::write_string(failure.message, out);
    literal(out, ",\"error_kind\":");
    json::write_string(failure.kind.as_str(), out);
    if let Some(status) = failure.status {
        literal(out, ",\"status_code\":");
        number(out, status);
    }
    literal(out, ",\"line_number\":");
    number(out, failure.line_number);
    literal(out, ",\"attempts\":");
    number(out, failure.attempts);
    if let Some(body) = failure.body.filter(|body| !body.is_empty()) {
        let length_before = out.len();
        literal(out, ",\"response\":");
        if !write_if_json(body, out) {
            out.truncate(length_before);
            literal(out, ",\"response_text\":");
            write_text(body, RESPONSE_TEXT_BYTES_MAX, out);
        }
    }
    if let Some(endpoint) = failure.endpoint {
        literal(out, ",\"metadata\":{\"endpoint\":");
        json::write_string(endpoint, out);
        if let Some(request_id) = failure.request_id {
            literal(out, ",\"request_id\":");
            json::write_string(request_id, out);
        }
        write_billed(failure.billed, out);
        out.push(b'}');
    }
    if failure.parsed.is_none() {
        write_raw(failure.line, out);
    }
    literal(out, "}\n");
}

fn write_openai_failure(failure: &Failure<'_>, out: &mut Vec<u8>) {
    write_openai_head(failure.line, failure.parsed, failure.line_number, out);
    match failure.status {
        None => literal(out, "null"),
        Some(status) => {
            let id = openai_id(failure.line, failure.parsed, failure.line_number);
            write_openai_response_head(status, failure.request_id, id, out);
            match failure.body.filter(|body| !body.is_empty()) {
                None => literal(out, "null"),
                Some(body) if write_if_json(body, out) => {}
                Some(body) => write_text(body, RESPONSE_TEXT_BYTES_MAX, out),
            }
            out.push(b'}');
        }
    }
    literal(out, ",\"error\":{\"code\":");
    json::write_string(failure.kind.as_str(), out);
    literal(out, ",\"message\":");
    json::write_string(failure.message, out);
    out.push(b'}');
    if failure.parsed.is_none() {
        literal(out, ",\"line_number\":");
        number(out, failure.line_number);
        write_raw(failure.line, out);
    }
    literal(out, "}\n");
}

/// An `openai` record up to the value of `response`.
fn write_openai_head(line: &[u8], parsed: Option<&Parsed>, line_number: u64, out: &mut Vec<u8>) {
    let custom_id = parsed.and_then(|parsed| parsed.custom_id(line));
    let id = openai_id(line, parsed, line_number);
    literal(
        out,
        &format!("{{\"id\":\"batch_req_{id:016x}\",\"custom_id\":"),
    );
    match custom_id {
        Some(custom_id) => write_value(custom_id, out),
        None => literal(out, "null"),
    }
    out.push(b',');
    if let Some(parsed) = parsed {
        write_fields(RecordFormat::OpenAi, line, parsed, out);
    }
    literal(out, "\"response\":");
}

/// The same line gets the same id in every run, so a resumed run writes what an undisturbed one does.
fn openai_id(line: &[u8], parsed: Option<&Parsed>, line_number: u64) -> u64 {
    let custom_id = parsed.and_then(|parsed| parsed.custom_id(line));
    xxh3_64_with_seed(custom_id.unwrap_or_default(), line_number)
}

/// The value of `response` up to that of its `body`. A request that the server gave no id has the line's.
fn write_openai_response_head(status: u16, request_id: Option<&str>, id: u64, out: &mut Vec<u8>) {
    literal(out, "{\"status_code\":");
    number(out, status);
    literal(out, ",\"request_id\":");
    match request_id {
        Some(request_id) => json::write_string(request_id, out),
        None => literal(out, &format!("\"req_{id:016x}\"")),
    }
    literal(out, ",\"body\":");
}

/// The user's fields, each with a comma behind it.
fn write_fields(format: RecordFormat, line: &[u8], parsed: &Parsed, out: &mut Vec<u8>) {
    let fields = parsed.fields();
    for field in fields {
        let name = field.name(line);
        if format == RecordFormat::OpenAi && *name == *b"custom_id" {
            continue;
        }
        out.push(b'"');
        if is_renamed(format, &name, line, fields) {
            literal(out, RENAMED_PREFIX);
        }
        out.extend_from_slice(field.key.of(line));
        literal(out, "\":");
        write_value(field.value.of(line), out);
        out.push(b',');
    }
}

const RENAMED_PREFIX: &str = "request_";

/// Whether a user's field makes room: for a name the record needs, or for one that made room itself. With
/// `metadata` and `request_metadata` in a line, both move, and no two fields ever end up with one name.
fn is_renamed(format: RecordFormat, name: &[u8], line: &[u8], fields: &[Member]) -> bool {
    let mut name = name;
    // Ends: every round needs one more field, with a shorter name.
    loop {
        if is_reserved(format, name) {
            return true;
        }
        match name.strip_prefix(RENAMED_PREFIX.as_bytes()) {
            Some(rest) if fields.iter().any(|field| *field.name(line) == *rest) => name = rest,
            _ => return false,
        }
    }
}

fn is_reserved(format: RecordFormat, name: &[u8]) -> bool {
    match name {
        b"response" | b"metadata" | b"error" | b"error_kind" | b"status_code" | b"line_number"
        | b"attempts" | b"response_text" | b"raw" => true,
        b"id" => format == RecordFormat::OpenAi,
        _ => false,
    }
}

/// A value of the line, as it was written. A line may hold a carriage return between two tokens, which
/// some readers take for its end: such a value loses its white space.
fn write_value(value: &[u8], out: &mut Vec<u8>) {
    if memchr::memchr2(b'\n', b'\r', value).is_none() {
        out.extend_from_slice(value);
    } else {
        json::compact(value, out, &mut json::Deaf)
            .expect("the scan of the line has found its values valid");
    }
}

fn write_response(
    response: &[u8],
    price: Pricing<'_>,
    out: &mut Vec<u8>,
) -> Result<Written, Syntax> {
    let mut counts = Counts {
        response,
        usage: Usage::default(),
        model: None,
        glance: Glance::default(),
    };
    json::compact(response, out, &mut counts)?;
    let tokens = counts.usage.tokens();
    let model = counts.model.map(|model| model.of(response));
    Ok(Written {
        billed: Billed {
            tokens,
            usd: tokens.and_then(|tokens| price(tokens, model)),
        },
        glance: counts.glance,
    })
}

/// Reads what a response is billed by, and glances at it, while it is copied. Of two members with the same name
/// the last wins.
struct Counts<'a> {
    response: &'a [u8],
    usage: Usage,
    model: Option<Span>,
    glance: Glance,
}

impl Visitor for Counts<'_> {
    #[inline]
    fn enter(&mut self, key: Span, key_escaped: bool) -> bool {
        let is_usage = *json::name(self.response, key, key_escaped) == *b"usage";
        if is_usage {
            self.usage = Usage::default();
        }
        is_usage
    }

    #[inline]
    fn inner_member(&mut self, member: Member) {
        let value = member.value.of(self.response);
        self.usage.read(&member.name(self.response), value);
    }

    #[inline(always)]
    fn nested_member(&mut self, key: Span, value_at: usize) {
        self.glance.nested_member(key, value_at, self.response);
    }

    #[inline]
    fn member(&mut self, member: Member) {
        match &*member.name(self.response) {
            b"usage" if member.kind != Kind::Object => self.usage = Usage::default(),
            b"model" => self.model = Some(member.value),
            name => self.glance.member(name, member, self.response),
        }
    }
}

/// Appends a failed response if it is JSON and not too long to keep; says whether it did. Half a character in
/// it, which many readers of records refuse, is replaced.
fn write_if_json(body: &[u8], out: &mut Vec<u8>) -> bool {
    if body.len() > RESPONSE_TEXT_BYTES_MAX || json::validate(body).is_err() {
        return false;
    }
    json::compact(json::mended(body).as_bytes(), out, &mut json::Deaf).is_ok()
}

fn write_raw(line: &[u8], out: &mut Vec<u8>) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    literal(out, ",\"raw\":");
    write_text(line, RAW_BYTES_MAX, out);
    if line.len() > RAW_BYTES_MAX {
        literal(out, ",\"raw_bytes\":");
        number(out, line.len());
    }
}

/// Any bytes as a JSON string of at most `bytes_max` bytes before escaping, cut between two characters,
/// invalid UTF-8 replaced.
fn write_text(bytes: &[u8], bytes_max: usize, out: &mut Vec<u8>) {
    /// A character torn by the first cut begins behind the second.
    const CHARACTER_BYTES_MAX: usize = 4;
    let head = &bytes[..bytes.len().min(bytes_max + CHARACTER_BYTES_MAX)];
    let text = String::from_utf8_lossy(head);
    json::write_string(&text[..text.floor_char_boundary(bytes_max)], out);
}

fn literal(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
