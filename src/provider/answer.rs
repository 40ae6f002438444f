//! What an error answer says: message and codes out of every provider's shape. Pure.

use std::borrow::Cow;

use serde_json::Value;

use super::vendor_codes;
use super::verdict::Cause;
use crate::json;

/// Longer bodies are no error objects; parsing them into a tree would only cost memory.
const ERROR_BODY_BYTES_MAX: usize = 1 << 20;

/// How much of a body that has no known shape stands in a message.
const EXCERPT_CHARACTERS: usize = 200;

/// Codes that mean "no money", which no waiting cures: OpenAI's, then those of compatible servers
/// (Moonshot, one-api, Alibaba, Volcengine, Zhipu) and Anthropic's.
const EXHAUSTED_CODES: [&str; 11] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
    "exceeded_current_quota_error",
    "insufficient_user_quota",
    "Arrearage",
    "AccountOverdueError",
    "1113",
    "billing_error",
];

/// What messages that mean the same begin with, of providers that have no code for it: Anthropic (a 400
/// `invalid_request_error`), OpenRouter (a 429 of free models).
const EXHAUSTED_WORDS: [&str; 2] = [
    "your credit balance is too low",
    "rate limit exceeded: free-models-per-day",
];

/// Codes of a model or deployment that there is not.
const UNKNOWN_MODEL_CODES: [&str; 7] = [
    "model_not_found",
    "DeploymentNotFound",
    "model_not_available",
    "invalid_model",
    "unknown_model",
    "model_decommissioned",
    "model_not_supported",
];

/// Codes that say no more than the status does.
const GENERIC_CODES: [&str; 13] = [
    "none",
    "invalid_request_error",
    "error",
    "not_found",
    "not_found_error",
    "notfound",
    "notfounderror",
    "badrequesterror",
    "bad_request",
    "api_error",
    "unknown_url",
    "url_not_found",
    "route_not_found",
];

/// Where codes stand.
const CODE_FIELDS: [&str; 10] = [
    "code",
    "type",
    "status",
    "reason",
    "status_code",
    "statusCode",
    "error_code",
    "errcode",
    "error_type",
    "__type",
];

/// What an error body says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// For people.
    pub message: Option<String>,
    /// For machines: every `code`, `type`, `status` and `reason`, and other spellings of these, as written.
    codes: Vec<String>,
    /// The HTTP status that a vendor's own number amounts to.
    vendor: Option<u16>,
    /// The part of the request that the error is about.
    param: Option<String>,
    /// A Google quota that is counted per day.
    per_day_quota: bool,
}

impl Answer {
    /// Reads a body of any shape; one that is not JSON, nor nearly, has only an excerpt.
    pub(super) fn parse(body: &[u8]) -> Self {
        if body.len() <= ERROR_BODY_BYTES_MAX
            && let Ok(value) = serde_json::from_str::<Value>(&json::mended(body))
        {
            let mut answer = Self::of(&value);
            if answer.message.is_none() {
                answer.message = excerpt(body);
            }
            return answer;
        }
        Self {
            message: excerpt(body),
            ..Self::default()
        }
    }

    /// Reads a JSON error in any known shape.
    pub(super) fn of(value: &Value) -> Self {
        // Google wraps the answer of a stream in an array.
        let value = value.get(0).unwrap_or(value);
        let mut answer = Self::default();
        let choices = value.get("choices").and_then(Value::as_array);
        let in_choices = (choices.into_iter().flatten()).filter_map(|choice| choice.get("error"));
        // Outside `error` stands the object itself (vLLM, Mistral, Cohere), or `type: "error"`; Responses that
        // are parts of an event have it inside.
        let candidates = [
            value.get("error"),
            value.pointer("/errors/0"),
            value.pointer("/response/error"),
            value.get("base_resp"),
            Some(value),
        ];
        for object in candidates.into_iter().flatten().chain(in_choices) {
            answer.read(object);
        }
        answer.vendor = vendor_status(value);
        answer
    }

    /// Takes from `object` what is not known yet.
    fn read(&mut self, object: &Value) {
        let message = [
            "message",
            "detail",
            "error_description",
            "title",
            "msg",
            "Message",
            "status_msg",
            "error_msg",
            "errmsg",
            "error",
        ]
        .into_iter()
        .filter_map(|field| object.get(field))
        .chain(Some(object))
        .find_map(text_of);
        if self.message.is_none() {
            self.message = message;
        }
        if self.param.is_none() {
            let param = object.get("param").and_then(Value::as_str);
            // LiteLLM writes Python's `None`.
            let named = param.filter(|param| !matches!(*param, "" | "None"));
            self.param = named.map(str::to_owned);
        }
        let details = object.get("details").and_then(Value::as_array);
        let details = details.map(Vec::as_slice).unwrap_or_default();
        let inner = [object.get("innererror"), object.get("inner_error")];
        for coded in Some(object)
            .into_iter()
            .chain(inner.into_iter().flatten())
            .chain(details)
        {
            for field in CODE_FIELDS {
                match coded.get(field) {
                    Some(Value::String(code)) => self.codes.push(code.clone()),
                    Some(Value::Number(code)) => self.codes.push(code.to_string()),
                    _ => {}
                }
            }
        }
        self.per_day_quota |= details.iter().any(is_per_day_quota);
    }

    fn has(&self, codes: &[&str]) -> bool {
        self.codes
            .iter()
            .any(|code| codes.iter().any(|wanted| code.eq_ignore_ascii_case(wanted)))
    }

    /// The message in lower case, for its beginning: further on it may quote the request.
    fn words(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        message.trim_start().to_ascii_lowercase()
    }

    /// No money, or no quota before tomorrow.
    pub(super) fn means_exhausted(&self) -> bool {
        self.is_coded_exhausted() || self.says_exhausted().is_some()
    }

    /// [`Answer::means_exhausted`] by a code.
    pub(super) fn is_coded_exhausted(&self) -> bool {
        self.has(&EXHAUSTED_CODES) || self.per_day_quota
    }

    /// [`Answer::means_exhausted`] by these words.
    pub(super) fn says_exhausted(&self) -> Option<&'static str> {
        let words = self.words();
        EXHAUSTED_WORDS
            .into_iter()
            .find(|phrase| words.starts_with(phrase))
    }

    /// The words that a verdict of `cause` on an answer of this status rests on, if no code tells.
    pub(super) fn hearsay(&self, cause: Cause, status: u16) -> Option<&'static str> {
        let rests_on_words = matches!(cause, Cause::Exhausted) && status != 402;
        self.says_exhausted()
            .filter(|_| rests_on_words && !self.is_coded_exhausted())
    }

    /// The request alone is larger than the limit, so that no waiting helps: OpenAI's "Request too large
    /// for gpt-4o … on tokens per min (TPM): Limit 30000, Requested 45000", also behind a gateway's
    /// own words. Its usual refusal says "Limit 30000, Used 29000, Requested 1500".
    pub(super) fn means_request_too_large(&self) -> bool {
        let message = self.message.as_deref().unwrap_or_default();
        let message = message.trim_start().to_ascii_lowercase();
        message.starts_with("request too large")
            || message.match_indices("limit ").any(|(at, word)| {
                requested_of(&message[at + word.len()..])
                    .is_some_and(|(limit, requested)| requested > limit)
            })
    }

    /// The key is wrong. Google reports that as a 400.
    pub(super) fn means_bad_key(&self) -> bool {
        self.has(&["API_KEY_INVALID", "invalid_api_key"])
    }

    /// The model or deployment is none that the endpoint has, in an answer of that status.
    pub(super) fn means_unknown_model(&self, status: u16) -> bool {
        if self.has(&UNKNOWN_MODEL_CODES) {
            return true;
        }
        if status == 403 || self.has_telling_code(status) {
            return false;
        }
        // Anthropic's whole message is `model: claude-…`.
        let words = self.words();
        names_unknown_model(&words)
            || self.has(&["not_found_error"]) && words.starts_with("model:")
            || status == 404 && self.param.as_deref() == Some("model")
    }

    /// A 404 about something that the request names, such as a file, a batch or an earlier response.
    pub(super) fn means_missing_object(&self) -> bool {
        let is_one = |code: &String| {
            let code = code.to_ascii_lowercase();
            let names = code.ends_with("_not_found") || code.ends_with("notfound");
            names && !GENERIC_CODES.contains(&code.as_str())
        };
        self.codes.iter().any(is_one)
            || self.param.is_some()
            || ["no such ", "previous response ", "file ", "the file "]
                .iter()
                .any(|beginning| self.words().starts_with(beginning))
    }

    /// Whether a code says more than the status: then no words are needed.
    fn has_telling_code(&self, status: u16) -> bool {
        self.codes.iter().any(|code| {
            let code = code.to_ascii_lowercase();
            let is_number = code.bytes().all(|byte| byte.is_ascii_digit());
            // Prose in the place of a code (xAI), and Google's and AWS' names of a status.
            let is_name = code.contains(' ')
                || matches!(code.as_str(), "invalid_argument" | "validationexception");
            let status_as_code = is_number && code != status.to_string() && code.len() == 3;
            status_as_code || !(is_number || is_name || GENERIC_CODES.contains(&code.as_str()))
        })
    }

    /// The HTTP status that an error amounts to which came without one: inside a 2xx, or in a stream. 500 if
    /// it has no code.
    pub(super) fn status_meant(&self) -> u16 {
        let number = |code: &String| code.parse().ok().filter(|code| (400..=599).contains(code));
        let numbers = || self.codes.iter().find_map(number);
        let exhausted = || (self.has(&EXHAUSTED_CODES) || self.per_day_quota).then_some(429);
        let words = || vendor_codes::of_words(self.codes.iter().map(String::as_str));
        let said = || leading_status(self.message.as_deref()?);
        numbers()
            .or(self.vendor)
            .or_else(exhausted)
            .or_else(words)
            .or_else(said)
            .unwrap_or(500)
    }
}

/// What a vendor's number amounts to, by where it stands.
fn vendor_status(value: &Value) -> Option<u16> {
    let number = |path: &str| match value.pointer(path)? {
        Value::String(code) => code.parse().ok(),
        code => code.as_i64(),
    };
    let minimax = number("/base_resp/status_code").and_then(vendor_codes::minimax);
    let qianfan = || number("/error_code").and_then(vendor_codes::qianfan);
    let zhipu = || number("/error/code").and_then(vendor_codes::zhipu);
    minimax.or_else(qianfan).or_else(zhipu)
}

/// A status that a message begins with: `Error code: 429 - {…}`, `HTTP 503: …`, `502 Bad Gateway`.
fn leading_status(message: &str) -> Option<u16> {
    let message = message.trim_start().to_ascii_lowercase();
    let words = ["http", "error", "status", "code"];
    let separators = [' ', ':', '=', '/'];
    let mut rest = message.as_str();
    while let Some(after) = words.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = after.trim_start_matches(separators);
    }
    let (number, after) = rest.split_at_checked(3)?;
    let status: u16 = number
        .parse()
        .ok()
        .filter(|code| (400..=599).contains(code))?;
    // Without a word for it in front, it must look like one: `400 tokens` are none.
    let is_named = rest.len() < message.len();
    let reason = http::StatusCode::from_u16(status).ok()?.canonical_reason();
    let has_reason = || {
        let after = after.trim_start();
        let reason = reason.map(str::to_ascii_lowercase);
        after.starts_with([':', '-']) || reason.is_some_and(|reason| after.starts_with(&reason))
    };
    let ends = !after.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '.');
    (ends && (is_named || after.is_empty() || has_reason())).then_some(status)
}

/// Reads `30000, Requested 45000`, perhaps with `Used 7,` in between, in lower case: both numbers.
fn requested_of(text: &str) -> Option<(u64, u64)> {
    let number = |text: &str| -> Option<(u64, usize)> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        Some((text[..digits].parse().ok()?, digits))
    };
    let (limit, length) = number(text)?;
    let mut rest = text[length..].strip_prefix(", ")?;
    if let Some(used) = rest.strip_prefix("used ") {
        let (_, length) = number(used)?;
        rest = used[length..].strip_prefix(", ")?;
    }
    let (requested, _) = number(rest.strip_prefix("requested ")?)?;
    Some((limit, requested))
}

/// Whether a message begins by saying that there is no such model; `words` are in lower case.
fn names_unknown_model(words: &str) -> bool {
    const BEGINNINGS: [&str; 9] = [
        "model not found",
        "model not exist",
        "invalid model:",
        "invalid model '",
        "invalid model name",
        "unknown model",
        "unsupported model",
        "unable to access model",
        "the provided model identifier is invalid",
    ];
    const DENIALS: [&str; 8] = [
        "does not exist",
        "not found",
        "is not found",
        "was not found",
        "not exist",
        "is not available",
        "has been decommissioned",
        "is not a valid model",
    ];
    if BEGINNINGS.iter().any(|begin| words.starts_with(begin)) {
        return true;
    }
    // `The model `x` does not exist`, `model "x" not found`, `models/x is not found`, and
    // `x is not a valid model ID`: a name, then the denial at once.
    let rest = words.strip_prefix("the ").unwrap_or(words);
    let rest = ["requested ", "publisher ", "specified "]
        .iter()
        .find_map(|which| rest.strip_prefix(which))
        .unwrap_or(rest);
    let named = ["model ", "models/"]
        .iter()
        .find_map(|noun| rest.strip_prefix(noun));
    let (_, denial) = past_name(named.unwrap_or(words)).unwrap_or_default();
    match named {
        Some(_) => DENIALS.iter().any(|begin| denial.starts_with(begin)),
        None => denial.starts_with("is not a valid model id"),
    }
}

/// Splits a name, which may be quoted and then hold spaces, from what follows behind a space.
fn past_name(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|first| "'\"`".contains(*first));
    match quote {
        Some(quote) => {
            let (name, rest) = text[1..].split_once(quote)?;
            Some((name, rest.strip_prefix(' ')?))
        }
        None => text.split_once(' '),
    }
}

/// A message in one of its forms: a string, or FastAPI's list of `{loc, msg}`.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Array(items) => {
            let first = items.first()?;
            let message = first
                .get("msg")
                .or_else(|| first.get("message"))?
                .as_str()?;
            let location = first.get("loc").and_then(Value::as_array).map(|parts| {
                let parts: Vec<Cow<'_, str>> = parts
                    .iter()
                    .map(|part| {
                        part.as_str()
                            .map_or_else(|| part.to_string().into(), Cow::from)
                    })
                    .collect();
                parts.join(".")
            });
            Some(location.map_or_else(|| message.to_owned(), |at| format!("{at}: {message}")))
        }
        _ => None,
    }
}

/// `google.rpc.QuotaFailure` with a quota named `…PerDay…` or `…_per_day`.
fn is_per_day_quota(detail: &Value) -> bool {
    let violations = detail.get("violations").and_then(Value::as_array);
    violations.into_iter().flatten().any(|violation| {
        ["quotaId", "quotaMetric", "subject"]
            .into_iter()
            .any(|field| {
                let name = violation
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                name.replace(['_', '-'], "")
                    .to_ascii_lowercase()
                    .contains("perday")
            })
    })
}

/// The beginning of a text body; a web page says nothing that its status does not.
fn excerpt(body: &[u8]) -> Option<String> {
    // No character takes more than 4 bytes.
    let head = &body[..body.len().min(EXCERPT_CHARACTERS * 4)];
    let text = String::from_utf8_lossy(head);
    let text = text.trim();
    (!text.is_empty() && !text.starts_with('<'))
        .then(|| text.chars().take(EXCERPT_CHARACTERS).collect())
}

/// `text` on one line: white space, control characters and what turns the direction of writing
/// become single spaces; cut to at most `bytes_max` bytes, between characters.
pub(super) fn one_line(text: &str, bytes_max: usize) -> String {
    let is_gap = |letter: char| letter.is_control() || letter.is_whitespace() || turns(letter);
    let mut line = String::with_capacity(text.len().min(bytes_max));
    for word in text.split(is_gap).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > bytes_max {
            break;
        }
    }
    if line.len() > bytes_max {
        const ELLIPSIS: char = '…';
        line.truncate(line.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len_utf8())));
        line.push(ELLIPSIS);
    }
    line
}

/// Whether a terminal would show what follows in another order (Unicode Standard Annex 9, section 2).
fn turns(letter: char) -> bool {
    matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_every_shape() {
        let check = |body: &str, expect: Option<&str>| {
            assert_eq!(
                Answer::parse(body.as_bytes()).message.as_deref(),
                expect,
                "{body}"
            );
        };
        check(
            r#"{"error":{"message":"Rate limit","type":"requests","code":"rate_limit_exceeded"}}"#,
            Some("Rate limit"),
        );
        check(
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            Some("Overloaded"),
        );
        check(
            r#"[{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}]"#,
            Some("Quota"),
        );
        check(
            r#"{"error":"model 'x' not found"}"#,
            Some("model 'x' not found"),
        );
        check(
            r#"{"object":"error","message":"The model does not exist.","code":404}"#,
            Some("The model does not exist."),
        );
        check(r#"{"detail":"Not Found"}"#, Some("Not Found"));
        check(
            r#"{"detail":[{"loc":["body","messages",0],"msg":"field required","type":"missing"}]}"#,
            Some("body.messages.0: field required"),
        );
        check(
            r#"{"statusCode":401,"message":"Access denied"}"#,
            Some("Access denied"),
        );
        check(
            r#"{"errors":[{"code":7003,"message":"No route"}]}"#,
            Some("No route"),
        );
        check(
            r#"{"error":{"message":""},"x":1}"#,
            Some(r#"{"error":{"message":""},"x":1}"#),
        );
        check("upstream connect error", Some("upstream connect error"));
        check("<html><h1>502</h1></html>", None);
        check("  \n", None);
        check(&"é".repeat(300), Some(&"é".repeat(200)));
    }

    #[test]
    fn a_line_is_one_line_and_cut_between_characters() {
        assert_eq!(
            one_line(" a\r\n\tb\u{0}c\u{1b}[31m  d ", 100),
            "a b c [31m d"
        );
        assert_eq!(one_line("a\u{9b}31m\u{202e}b\u{2066}c", 100), "a 31m b c");
        assert_eq!(one_line("ééééé", 10), "ééééé");
        assert_eq!(one_line("ééééé", 9), "ééé…");
        assert_eq!(one_line("aaaa bbbb cccc", 8), "aaaa …");
    }
}
