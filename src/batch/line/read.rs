//! One scan of a line, and what its fields then mean. Pure.

use std::fmt::Display;

use super::{InputForm, InvalidLine, Parsed, Shape, header, string_at};
use crate::json::{self, Kind, Member, Span, Visitor};

/// Files written on Windows begin with it, and concatenated ones have it in their middle.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Longest `url`, in bytes; common servers stop at 8 KiB for the whole request line.
const URL_BYTES_MAX: usize = 4096;

impl InvalidLine {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    pub(super) fn field(name: &str, problem: impl Display) -> Self {
        Self::new(format!("field \"{name}\": {problem}"))
    }
}

impl Parsed {
    /// Fills a value whose lists are empty and whose rest is the default.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<(), InvalidLine> {
        let text = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let skipped = line.len() - text.len();
        let mut reader = Reader {
            line,
            skipped: skipped as u32,
            parsed: self,
            found: Found::default(),
            entered: Entered::Body,
        };
        let kind = json::visit(text, &mut reader).map_err(|mut syntax| {
            syntax.offset += skipped;
            InvalidLine::new(format!("not valid JSON: {syntax}"))
        })?;
        let found = reader.found;
        if kind != Kind::Object {
            return Err(InvalidLine::new(format!(
                "expected a JSON object, found {}",
                noun(kind)
            )));
        }
        let has_input = found.input.last.is_some();
        let own = &found.own;
        let is_bare = own.has_messages || own.has_prompt || has_input && own.model.last.is_some();
        // Beside a prompt, a `body` that cannot be sent is the user's field: the body of an e-mail, say.
        let is_sent = |body: Member| body.kind == Kind::Object || !(is_bare || has_input);
        if let Some(body) = found.body.last.filter(|&body| is_sent(body)) {
            return self.read_body(line, &found, body);
        }
        self.headers.clear();
        self.custom_id = found.custom_id.last.map(|member| member.value);
        if is_bare {
            return self.read_bare(line, &found);
        }
        if let Some(input) = found.input.only("input")? {
            self.shape = Shape::Input;
            self.body = input.value;
            self.input_form = input_form(line, input)?;
            return Ok(());
        }
        Err(InvalidLine::new(
            "not a request: expected {\"custom_id\", \"url\", \"body\"}, {\"body\"}, {\"input\"}, or \
             an API body with \"messages\", \"prompt\", or \"model\" and \"input\"",
        ))
    }

    /// [`Shape::OpenAiBatch`] and [`Shape::Body`].
    fn read_body(&mut self, line: &[u8], found: &Found, body: Member) -> Result<(), InvalidLine> {
        found.body.only("body")?;
        check_kind("body", body, Kind::Object)?;
        self.body = body.value;
        self.take(line, &found.inner)?;
        self.custom_id = found
            .custom_id
            .only("custom_id")?
            .map(|member| member.value);
        if let Some(url) = found.url.only("url")? {
            check_kind("url", url, Kind::String)?;
            check_url(&string_at(line, url.value))?;
            self.url = Some(url.value);
            // Without a `url` the line describes no HTTP request, and `method` is the user's.
            if let Some(method) = found.method.only("method")? {
                check_kind("method", method, Kind::String)?;
                if !string_at(line, method.value).eq_ignore_ascii_case("POST") {
                    return Err(InvalidLine::field("method", "expected \"POST\""));
                }
            }
        }
        if let Some(headers) = found.headers.only("headers")? {
            check_kind("headers", headers, Kind::Object)?;
            header::check(line, &self.headers)?;
        }
        self.shape = match (self.custom_id, self.url) {
            (Some(_), Some(_)) => Shape::OpenAiBatch,
            _ => Shape::Body,
        };
        let has_url = self.url.is_some();
        self.fields.retain(|field| match &*field.name(line) {
            b"body" | b"url" | b"headers" => false,
            b"method" => !has_url,
            _ => true,
        });
        Ok(())
    }

    /// [`Shape::Bare`].
    fn read_bare(&mut self, line: &[u8], found: &Found) -> Result<(), InvalidLine> {
        self.shape = Shape::Bare;
        self.take(line, &found.own)?;
        // The line is an object with nothing but a byte order mark and white space around it, mostly nothing.
        self.body = match line {
            [b'{', .., b'}'] => Span::new(0, line.len()),
            _ => {
                let start = memchr::memchr(b'{', line).unwrap_or(0);
                let end = memchr::memrchr(b'}', line).map_or(line.len(), |last| last + 1);
                Span::new(start, end)
            }
        };
        let metadata = found.metadata.only("metadata")?;
        if let Some(metadata) = metadata {
            let key = metadata.key.start;
            let previous = self.fields.iter().rfind(|field| field.key.start < key);
            let next = self.fields.iter().find(|field| field.key.start > key);
            // From name to name, opening quotes included; the last one goes with the comma before it.
            self.cut = match (previous, next) {
                (_, Some(next)) => Some(Span {
                    start: key - 1,
                    end: next.key.start - 1,
                }),
                (Some(last), None) => Some(Span {
                    start: last.value.end,
                    end: metadata.value.end,
                }),
                // A bare body has its prompt besides.
                (None, None) => None,
            };
        }
        self.fields.clear();
        self.fields.extend(metadata);
        Ok(())
    }

    /// Remembers of a body what the endpoint's rules will ask for.
    fn take(&mut self, line: &[u8], body: &BodyFields) -> Result<(), InvalidLine> {
        self.body_is_empty = body.is_empty;
        self.model = body.model.only("model")?;
        self.stream = body
            .stream
            .only("stream")?
            .is_some_and(|field| field.value.of(line) == b"true");
        self.has_temperature = body.has_temperature;
        self.has_max_tokens = body.has_max_tokens;
        self.completes_prompt = body.has_prompt && !body.has_messages;
        Ok(())
    }
}

/// Collects a line's members during the scan, before its shape is known.
struct Reader<'l, 'p> {
    line: &'l [u8],
    /// Bytes of the line in front of the text that is scanned.
    skipped: u32,
    parsed: &'p mut Parsed,
    found: Found,
    entered: Entered,
}

#[derive(Clone, Copy)]
enum Entered {
    Body,
    Headers,
}

#[derive(Default)]
struct Found {
    custom_id: Slot,
    url: Slot,
    method: Slot,
    headers: Slot,
    body: Slot,
    input: Slot,
    metadata: Slot,
    /// The line's own members, should it be a bare body.
    own: BodyFields,
    /// Those of its `body`.
    inner: BodyFields,
}

/// Members of a body that rules or readers ask for.
struct BodyFields {
    is_empty: bool,
    model: Slot,
    stream: Slot,
    has_temperature: bool,
    has_max_tokens: bool,
    has_messages: bool,
    has_prompt: bool,
}

impl Default for BodyFields {
    fn default() -> Self {
        Self {
            is_empty: true,
            model: Slot::default(),
            stream: Slot::default(),
            has_temperature: false,
            has_max_tokens: false,
            has_messages: false,
            has_prompt: false,
        }
    }
}

impl BodyFields {
    fn put(&mut self, name: &[u8], member: Member) {
        self.is_empty = false;
        match name {
            b"model" => self.model.put(member),
            b"stream" => self.stream.put(member),
            b"temperature" => self.has_temperature = true,
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => {
                self.has_max_tokens = true;
            }
            b"messages" => self.has_messages = true,
            b"prompt" => self.has_prompt = true,
            _ => {}
        }
    }
}

/// A member that may be there once.
#[derive(Clone, Copy, Default)]
struct Slot {
    last: Option<Member>,
    is_repeated: bool,
}

impl Slot {
    fn put(&mut self, member: Member) {
        self.is_repeated |= self.last.replace(member).is_some();
    }

    /// The member, for one who acts on it.
    fn only(&self, name: &str) -> Result<Option<Member>, InvalidLine> {
        if self.is_repeated {
            return Err(InvalidLine::field(name, "expected once, found again"));
        }
        Ok(self.last)
    }
}

impl Visitor for Reader<'_, '_> {
    fn member(&mut self, member: Member) {
        let member = member.shifted(self.skipped);
        let name = member.name(self.line);
        match &*name {
            b"custom_id" => self.found.custom_id.put(member),
            b"url" => self.found.url.put(member),
            b"method" => self.found.method.put(member),
            b"headers" => self.found.headers.put(member),
            b"body" => self.found.body.put(member),
            b"input" => self.found.input.put(member),
            b"metadata" => self.found.metadata.put(member),
            _ => {}
        }
        self.found.own.put(&name, member);
        self.parsed.fields.push(member);
    }

    fn enter(&mut self, key: Span, key_escaped: bool) -> bool {
        self.entered = match &*json::name(self.line, key.shifted(self.skipped), key_escaped) {
            b"body" => Entered::Body,
            b"headers" => Entered::Headers,
            _ => return false,
        };
        true
    }

    fn inner_member(&mut self, member: Member) {
        let member = member.shifted(self.skipped);
        match self.entered {
            Entered::Body => self.found.inner.put(&member.name(self.line), member),
            // One more than allowed tells that there are too many.
            Entered::Headers if self.parsed.headers.len() <= header::HEADERS_MAX => {
                self.parsed.headers.push(member);
            }
            Entered::Headers => {}
        }
    }
}

/// What an `input` is in a chat; an error if there would be nothing to send.
fn input_form(line: &[u8], input: Member) -> Result<InputForm, InvalidLine> {
    let value = input.value.of(line);
    let nothing = |found| {
        Err(InvalidLine::field(
            "input",
            format!("expected a prompt, found {found}"),
        ))
    };
    match input.kind {
        Kind::Null => nothing("null"),
        Kind::String if value == b"\"\"" => nothing("an empty string"),
        Kind::Object if is_empty(value) => nothing("an empty object"),
        Kind::Array if is_empty(value) => nothing("an empty array"),
        Kind::String => Ok(InputForm::Content),
        Kind::Number | Kind::Bool => Ok(InputForm::Json),
        Kind::Object if has_role_and_type(value).0 => Ok(InputForm::Message),
        Kind::Object => Ok(InputForm::Json),
        Kind::Array => {
            let (mut all_have_role, mut all_have_type) = (true, true);
            // The scan of the line has found the value valid, so this one does too.
            let _ = json::elements(value, |element, _| {
                let (has_role, has_type) = has_role_and_type(element.of(value));
                all_have_role &= has_role;
                all_have_type &= has_type;
            });
            match (all_have_role, all_have_type) {
                (true, _) => Ok(InputForm::Messages),
                (false, true) => Ok(InputForm::Content),
                (false, false) => Ok(InputForm::Json),
            }
        }
    }
}

/// Whether nothing stands between a valid value's brackets.
fn is_empty(value: &[u8]) -> bool {
    json::trim(&value[1..value.len() - 1]).is_empty()
}

/// Whether a valid value is an object with a `role`, and one with a `type`.
fn has_role_and_type(value: &[u8]) -> (bool, bool) {
    let (mut has_role, mut has_type) = (false, false);
    let _ = json::members(value, |member| match &*member.name(value) {
        b"role" => has_role = true,
        b"type" => has_type = true,
        _ => {}
    });
    (has_role, has_type)
}

/// A path only: with a host in it, the endpoint's key would go to whom the input file names. Two slashes
/// or a backslash begin a host for some URL parsers.
fn check_url(url: &str) -> Result<(), InvalidLine> {
    let fault = |problem: &str| Err(InvalidLine::field("url", problem));
    let mut bytes = url.bytes();
    if bytes.next() != Some(b'/') {
        return fault(
            "expected a path such as \"/v1/chat/completions\"; hosts belong in the config",
        );
    }
    if bytes.next() == Some(b'/') {
        return fault("expected a path that begins with one '/'; hosts belong in the config");
    }
    if !url
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#'))
    {
        return fault("expected visible ASCII without '\\' and '#'; write others as %XX");
    }
    if url.len() > URL_BYTES_MAX {
        return fault(&format!(
            "expected at most {URL_BYTES_MAX} bytes, found {}",
            url.len()
        ));
    }
    Ok(())
}

fn check_kind(name: &str, member: Member, expected: Kind) -> Result<(), InvalidLine> {
    if member.kind == expected {
        return Ok(());
    }
    let problem = format!("expected {}, found {}", noun(expected), noun(member.kind));
    Err(InvalidLine::field(name, problem))
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Object => "an object",
        Kind::Array => "an array",
        Kind::String => "a string",
        Kind::Number => "a number",
        Kind::Bool => "a boolean",
        Kind::Null => "null",
    }
}
