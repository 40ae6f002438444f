//! A request's body: what identifies it and what its answer depends on. Pure.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::failure::Failure;
use super::route::Api;

/// Choices per prompt; OpenAI allows 128.
const CHOICES_MAX: u64 = 16;
/// Prompts of one completion, and inputs of one embedding; OpenAI allows 2048 of the latter.
const INPUTS_MAX: usize = 2048;
/// OpenAI's largest embedding has 3072 numbers.
const DIMENSIONS_MAX: u64 = 4096;
/// What text-embedding-3-small gives.
const DIMENSIONS_DEFAULT: u64 = 1536;
/// Numbers in one embeddings answer: about 50 MB of text.
const NUMBERS_MAX: u64 = 4 << 20;
/// Named in an answer when the request names none.
const MODEL_DEFAULT: &str = "mock-1";

/// The fields that a mock looks at, checked.
#[derive(Debug)]
pub(super) struct ApiRequest<'b> {
    /// Of the request and the seed, but not of whether it streams.
    pub identity: u64,
    pub model: String,
    /// Tokens of the prompt: a quarter of its bytes.
    pub prompt_tokens: u64,
    /// Prompts of a completion or inputs of an embedding, as JSON; one otherwise.
    pub inputs: Vec<&'b RawValue>,
    /// Choices per prompt.
    pub choices: u64,
    pub stream: bool,
    pub include_usage: bool,
    /// The most tokens a text may have.
    pub tokens_max: Option<u64>,
    pub dimensions: usize,
    /// Embeddings as base64 of little-endian floats, which OpenAI's SDKs ask for.
    pub base64: bool,
}

/// What a request body is taken for: the seeded hash of its members in order, without white space
/// and without `stream` and `stream_options`, so that a streamed answer says what the plain one
/// says. A body that is no JSON object is hashed as it is.
///
/// The `id` of an answer ends in this number's 16 hexadecimal digits.
pub fn identity(seed: u64, body: &[u8]) -> u64 {
    members(seed, body).map_or_else(
        |_| xxh3_64_with_seed(body, seed),
        |members| members.identity,
    )
}

impl<'b> ApiRequest<'b> {
    /// Reads and checks a body. `deployment` is the model of a body that names none.
    pub(super) fn parse(
        api: Api,
        deployment: Option<&str>,
        seed: u64,
        body: &'b [u8],
    ) -> Result<Self, Failure> {
        let members = members(seed, body).map_err(|error| Failure {
            message: format!(
                "We could not parse the JSON body of your request ({error}). The API expects a JSON object."
            ),
            ..Failure::of_status(400)
        })?;
        let (name, prompt) = match api {
            Api::Chat | Api::Messages => ("messages", members.messages),
            Api::Completions => ("prompt", members.prompt),
            Api::Embeddings | Api::Responses => ("input", members.input),
        };
        let missing = || Failure::field(name, format!("Missing required parameter: '{name}'."));
        let prompt = prompt.ok_or_else(missing)?;
        let is_array = prompt.get().starts_with('[');
        if prompt.get() == "\"\"" || (is_array && prompt.get()[1..].trim_start().starts_with(']')) {
            let what = if is_array { "array" } else { "string" };
            return Err(Failure::field(
                name,
                format!("Invalid '{name}': empty {what}."),
            ));
        }
        if !is_array && (matches!(api, Api::Chat | Api::Messages) || !prompt.get().starts_with('"'))
        {
            return Err(Failure::field(
                name,
                format!("Invalid type for '{name}': expected an array."),
            ));
        }
        let inputs = match api {
            Api::Completions | Api::Embeddings => split_inputs(name, prompt)?,
            Api::Chat | Api::Responses | Api::Messages => vec![prompt],
        };
        let choices = number("n", members.n, 1..=CHOICES_MAX)?.unwrap_or(1);
        let dimensions = number("dimensions", members.dimensions, 1..=DIMENSIONS_MAX)?
            .unwrap_or(DIMENSIONS_DEFAULT);
        if api == Api::Embeddings && dimensions * inputs.len() as u64 > NUMBERS_MAX {
            return Err(Failure::field(
                "input",
                format!("At most {NUMBERS_MAX} numbers per request."),
            ));
        }
        let tokens_max = number("max_tokens", members.tokens_max, 1..=u64::MAX)?;
        if api == Api::Messages && tokens_max.is_none() {
            return Err(Failure::field(
                "max_tokens",
                "max_tokens: Field required".to_owned(),
            ));
        }
        let model: Option<String> = value("model", members.model)?;
        Ok(Self {
            identity: members.identity,
            model: model.unwrap_or_else(|| deployment.unwrap_or(MODEL_DEFAULT).to_owned()),
            prompt_tokens: (prompt.get().len() as u64).div_ceil(4),
            inputs,
            choices: if matches!(api, Api::Responses | Api::Messages) {
                1
            } else {
                choices
            },
            stream: value("stream", members.stream)?.unwrap_or(false),
            include_usage: value::<StreamOptions>("stream_options", members.stream_options)?
                .is_some_and(|options| options.include_usage),
            tokens_max,
            dimensions: dimensions as usize,
            base64: value::<String>("encoding_format", members.encoding_format)?.as_deref()
                == Some("base64"),
        })
    }
}

#[derive(serde::Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A JSON value of the expected type; `null` counts as absent.
fn value<T: serde::de::DeserializeOwned>(
    field: &'static str,
    raw: Option<&RawValue>,
) -> Result<Option<T>, Failure> {
    let Some(raw) = raw else { return Ok(None) };
    serde_json::from_str(raw.get())
        .map_err(|_| Failure::field(field, format!("Invalid type for '{field}'.")))
}

fn number(
    field: &'static str,
    raw: Option<&RawValue>,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Failure> {
    let number = value::<u64>(field, raw)?;
    match number.filter(|number| !allowed.contains(number)) {
        None => Ok(number),
        Some(number) => {
            let (least, most) = (allowed.start(), allowed.end());
            Err(Failure::field(
                field,
                format!("Invalid '{field}': {number} is not between {least} and {most}."),
            ))
        }
    }
}

/// The inputs of a prompt that is a string, an array of strings, of tokens, or of arrays of tokens.
fn split_inputs<'b>(
    field: &'static str,
    prompt: &'b RawValue,
) -> Result<Vec<&'b RawValue>, Failure> {
    if prompt.get().starts_with('"') {
        return Ok(vec![prompt]);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(prompt.get())
        .map_err(|error| Failure::field(field, format!("Invalid '{field}': {error}.")))?;
    if elements[0]
        .get()
        .starts_with(|first: char| first.is_ascii_digit())
    {
        return Ok(vec![prompt]);
    }
    if elements.len() > INPUTS_MAX {
        return Err(Failure::field(
            field,
            format!("Invalid '{field}': at most {INPUTS_MAX} inputs."),
        ));
    }
    Ok(elements)
}

/// The members of a body that matter, as they stand in it.
#[derive(Default)]
struct Members<'b> {
    identity: u64,
    model: Option<&'b RawValue>,
    messages: Option<&'b RawValue>,
    prompt: Option<&'b RawValue>,
    input: Option<&'b RawValue>,
    n: Option<&'b RawValue>,
    stream: Option<&'b RawValue>,
    stream_options: Option<&'b RawValue>,
    tokens_max: Option<&'b RawValue>,
    dimensions: Option<&'b RawValue>,
    encoding_format: Option<&'b RawValue>,
}

fn members(seed: u64, body: &[u8]) -> Result<Members<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let members = deserializer.deserialize_map(MembersVisitor { seed })?;
    deserializer.end()?;
    Ok(members)
}

struct MembersVisitor {
    seed: u64,
}

impl<'b> Visitor<'b> for MembersVisitor {
    type Value = Members<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Members<'b>, A::Error> {
        let mut members = Members {
            identity: self.seed,
            ..Members::default()
        };
        // Keys are compared as written, quotes included: no API needs a key with an escape.
        while let Some(key) = map.next_key::<&RawValue>()? {
            let value: &RawValue = map.next_value()?;
            let slot = match key.get() {
                "\"model\"" => &mut members.model,
                "\"messages\"" => &mut members.messages,
                "\"prompt\"" => &mut members.prompt,
                "\"input\"" => &mut members.input,
                "\"n\"" => &mut members.n,
                "\"stream\"" => &mut members.stream,
                "\"stream_options\"" => &mut members.stream_options,
                "\"max_tokens\"" | "\"max_completion_tokens\"" | "\"max_output_tokens\"" => {
                    &mut members.tokens_max
                }
                "\"dimensions\"" => &mut members.dimensions,
                "\"encoding_format\"" => &mut members.encoding_format,
                _ => &mut None,
            };
            *slot = (value.get() != "null").then_some(value);
            if !matches!(key.get(), "\"stream\"" | "\"stream_options\"") {
                let hash = xxh3_64_with_seed(key.get().as_bytes(), members.identity);
                members.identity = xxh3_64_with_seed(value.get().as_bytes(), hash);
            }
        }
        Ok(members)
    }
}

/// The value at a JSON pointer: a string as it is, anything else as JSON; `None` if there is none.
pub(super) fn text_at(body: &[u8], pointer: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    match body.pointer(pointer)? {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(api: Api, body: &str) -> Result<ApiRequest<'_>, (u16, Option<&'static str>)> {
        ApiRequest::parse(api, None, 1, body.as_bytes())
            .map_err(|failure| (failure.status, failure.field))
    }

    #[test]
    fn fields_are_read() {
        let body = r#"{"model":"m\u0041","messages":[{"role":"user","content":"hi"}],"n":3,"stream":true,
            "stream_options":{"include_usage":true},"max_completion_tokens":7,"temperature":null}"#;
        let request = parse(Api::Chat, body).unwrap();
        assert_eq!(
            (request.model.as_str(), request.choices, request.tokens_max),
            ("mA", 3, Some(7))
        );
        assert!(request.stream && request.include_usage);
        assert_eq!(request.prompt_tokens, 8);
    }

    #[test]
    fn bad_bodies_are_blamed_on_a_field() {
        for (api, body, field) in [
            (Api::Chat, "{", None),
            (Api::Chat, "[]", None),
            (Api::Chat, "{} x", None),
            (Api::Chat, "{\"messages\":[{\"a\":\"\\x\"}]}", None),
            (Api::Chat, "{}", Some("messages")),
            (Api::Chat, r#"{"messages":null}"#, Some("messages")),
            (Api::Chat, r#"{"messages":[ ]}"#, Some("messages")),
            (Api::Chat, r#"{"messages":"hi"}"#, Some("messages")),
            (Api::Chat, r#"{"messages":[1],"n":17}"#, Some("n")),
            (Api::Chat, r#"{"messages":[1],"n":"two"}"#, Some("n")),
            (Api::Chat, r#"{"messages":[1],"model":5}"#, Some("model")),
            (
                Api::Chat,
                r#"{"messages":[1],"max_tokens":0}"#,
                Some("max_tokens"),
            ),
            (Api::Completions, "{}", Some("prompt")),
            (Api::Embeddings, r#"{"input":""}"#, Some("input")),
            (
                Api::Embeddings,
                r#"{"input":"a","dimensions":0}"#,
                Some("dimensions"),
            ),
            (Api::Responses, r#"{"input":{}}"#, Some("input")),
            (Api::Messages, r#"{"messages":[1]}"#, Some("max_tokens")),
        ] {
            assert_eq!(parse(api, body).unwrap_err(), (400, field), "{body}");
        }
    }

    #[test]
    fn inputs_are_counted() {
        for (input, expect) in [
            ("\"a\"", 1),
            ("[\"a\",\"b\"]", 2),
            ("[1,2,3]", 1),
            ("[[1,2],[3]]", 2),
        ] {
            let body = format!("{{\"input\":{input}}}");
            assert_eq!(
                parse(Api::Embeddings, &body).unwrap().inputs.len(),
                expect,
                "{input}"
            );
        }
    }

    #[test]
    fn identity_ignores_streaming_and_white_space_only() {
        let of = |body: &str| identity(1, body.as_bytes());
        let plain = of(r#"{"a":1,"b":[2]}"#);
        assert_eq!(
            plain,
            of(r#"{ "a": 1, "stream":true, "b":[2], "stream_options":{} }"#)
        );
        assert_ne!(plain, of(r#"{"a":1,"b":[3]}"#));
        assert_ne!(plain, of(r#"{"a":1,"c":[2]}"#));
        assert_ne!(plain, identity(2, br#"{"a":1,"b":[2]}"#));
        assert_ne!(of("x"), of("y"));
    }

    #[test]
    fn pointers() {
        let body = br#"{"messages":[{"content":"hi"}],"user":7}"#;
        assert_eq!(text_at(body, "/messages/0/content").as_deref(), Some("hi"));
        assert_eq!(text_at(body, "/user").as_deref(), Some("7"));
        assert_eq!(text_at(body, "/none"), None);
    }
}
