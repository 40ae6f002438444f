//! The input of a simulated run: lines that carry their number, what their end must be, and what the
//! servers answer to each.

use serde_json::{Value, json};

use crate::error::ErrorKind;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"input": …}`
    Input,
    /// `{"body": …}`
    Body,
    /// `{"custom_id", "method", "url", "body"}`
    Batch,
    /// A bare API body with `metadata`.
    Bare,
}

/// How a line ends, whatever else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// Every endpoint refuses it: 400.
    Refused,
    /// Every endpoint fails on it: 500.
    Fails,
    /// Every endpoint answers 200 with what is not JSON.
    NotJson,
    /// It is not JSON itself and never sent.
    Invalid,
}

/// One line of the input.
#[derive(Clone, Debug)]
pub struct Line {
    /// From 0, in the order of the file.
    pub id: usize,
    /// Physical number, from 1.
    pub number: u64,
    pub shape: Shape,
    pub fate: Fate,
    pub streams: bool,
    /// Bytes of filler in the request and in its answer.
    pub padding: usize,
    pub answer_padding: usize,
}

impl Line {
    /// The same line, once the servers have come to their senses.
    pub fn if_mended(mut self, is_mended: bool) -> Self {
        if is_mended && matches!(self.fate, Fate::Fails | Fate::NotJson) {
            self.fate = Fate::Answered;
        }
        self
    }

    /// What requests and answers of this line carry.
    pub fn mark(&self) -> String {
        format!("line-{}#", self.id)
    }

    /// The content of its answer.
    pub fn content(&self) -> String {
        format!(
            "answer to {} {}",
            self.mark(),
            "y\u{e9}\"\\".repeat(self.answer_padding / 4)
        )
    }

    /// As it stands in the input.
    pub fn text(&self) -> String {
        let content = format!("{} {}", self.mark(), "x".repeat(self.padding));
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": content}]});
        if self.streams {
            body["stream"] = true.into();
        }
        let line = match self.shape {
            Shape::Input => json!({"input": content, "tag": self.id}),
            Shape::Body => json!({"body": body, "tag": self.id, "metadata": {"n": self.id}}),
            Shape::Batch => json!({
                "custom_id": format!("c{}", self.id), "method": "POST",
                "url": "/v1/chat/completions", "body": body,
            }),
            Shape::Bare => {
                body["metadata"] = json!({"n": self.id});
                body
            }
        };
        match self.fate {
            Fate::Invalid => format!("{{broken {content}"),
            _ => line.to_string(),
        }
    }

    /// The JSON that its request is answered with, if it is not streamed.
    pub fn answer(&self) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.id), "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": self.content()},
            }],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        })
    }

    /// The same as an event stream.
    pub fn stream(&self) -> String {
        let chunk = |delta: Value, finish: Value| {
            let chunk = json!({
                "id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk",
                "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            });
            format!("data: {chunk}\n\n")
        };
        let content = self.content();
        let mut middle = content.len() / 2;
        while !content.is_char_boundary(middle) {
            middle += 1;
        }
        let (first, second) = content.split_at(middle);
        [
            chunk(json!({"role": "assistant", "content": first}), Value::Null),
            chunk(json!({"content": second}), Value::Null),
            chunk(json!({}), "stop".into()),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat()
    }

    /// What is wrong with a record that claims to be this line's success.
    pub fn check_success(&self, record: &Value, attempts_max: u32) -> Result<(), String> {
        let expect = |what: &str, is_so: bool| match is_so {
            true => Ok(()),
            false => Err(format!("{what} of {}: {record}", self.mark())),
        };
        expect("a success record", self.fate == Fate::Answered)?;
        let response = match self.shape {
            Shape::Batch => {
                let status = &record["response"]["status_code"];
                expect("custom_id", record["custom_id"] == format!("c{}", self.id))?;
                expect("status", *status == 200 && record["error"].is_null())?;
                &record["response"]["body"]
            }
            _ => {
                let metadata = &record["metadata"];
                let attempts = metadata["attempts"].as_u64().unwrap_or(0);
                expect("line number", metadata["line_number"] == self.number)?;
                expect("status", metadata["status_code"] == 200)?;
                expect(
                    "attempts",
                    (1..=u64::from(attempts_max)).contains(&attempts),
                )?;
                expect("fields", self.fields_came_back(record))?;
                &record["response"]
            }
        };
        match self.streams {
            true => expect(
                "response",
                response["choices"][0]["message"]["content"] == self.content(),
            ),
            false => expect("response", *response == self.answer()),
        }
    }

    /// What is wrong with a record that claims to be this line's failure. `decided`: nothing but the
    /// line itself can have made it fail.
    pub fn check_failure(
        &self,
        record: &Value,
        attempts_max: u32,
        decided: bool,
    ) -> Result<(), String> {
        let expect = |what: &str, is_so: bool| match is_so {
            true => Ok(()),
            false => Err(format!("{what} of {}: {record}", self.mark())),
        };
        if decided {
            expect("a failure record", self.fate != Fate::Answered)?;
        }
        let is_batch = self.shape == Shape::Batch && self.fate != Fate::Invalid;
        let kind = match is_batch {
            true => &record["error"]["code"],
            false => &record["error_kind"],
        };
        let kind = kind.as_str().unwrap_or_default();
        expect("kind", kind != ErrorKind::Cancelled.as_str())?;
        match self.fate {
            Fate::Invalid => expect("kind", kind == ErrorKind::InvalidInput.as_str())?,
            // It may have met other faults on its last attempt.
            Fate::Refused if decided => expect("kind", kind == ErrorKind::BadRequest.as_str())?,
            _ => expect("kind", kind != ErrorKind::InvalidInput.as_str())?,
        }
        if is_batch {
            return expect("custom_id", record["custom_id"] == format!("c{}", self.id));
        }
        let attempts = record["attempts"].as_u64();
        expect("line number", record["line_number"] == self.number)?;
        match self.fate {
            Fate::Invalid => {
                expect("attempts", attempts == Some(0))?;
                expect("text", record["raw"] == self.text())
            }
            Fate::Fails | Fate::NotJson if decided => {
                let most = u64::from(attempts_max);
                // What cannot be read for the same reason twice is not paid for a third time.
                let least = if self.fate == Fate::NotJson {
                    most.min(2)
                } else {
                    most
                };
                expect(
                    "attempts",
                    attempts.is_some_and(|spent| (least..=most).contains(&spent)),
                )?;
                expect("fields", self.fields_came_back(record))
            }
            _ => expect("fields", self.fields_came_back(record)),
        }
    }

    fn fields_came_back(&self, record: &Value) -> bool {
        let content = format!("{} {}", self.mark(), "x".repeat(self.padding));
        match self.shape {
            Shape::Input => record["input"] == content && record["tag"] == self.id,
            Shape::Body => record["tag"] == self.id && record["request_metadata"]["n"] == self.id,
            Shape::Bare => record["request_metadata"]["n"] == self.id,
            Shape::Batch => true,
        }
    }
}

/// The id of the line that these bytes speak of.
pub fn marked(bytes: &[u8]) -> Option<usize> {
    let start = memchr::memmem::find(bytes, b"line-")? + b"line-".len();
    let length = memchr::memchr(b'#', &bytes[start..])?;
    std::str::from_utf8(&bytes[start..start + length])
        .ok()?
        .parse()
        .ok()
}
