//! Where each kind of line would go: what `--dry-run` says of the requests of a file. Pure.

use std::collections::BTreeMap;

use crate::batch::line::{Parsed, Shape};
use crate::provider::Endpoint;

/// Kinds of lines told apart; a file with more distinct `url`s than this has the rest counted.
const KINDS_MAX: usize = 16;
/// Models named for a kind of line.
const MODELS_MAX: usize = 3;

/// The kinds of lines in a file, with what decides where they go.
#[derive(Default)]
pub struct LineKinds {
    kinds: BTreeMap<Kind, Seen>,
    /// Lines of kinds that found no place.
    others: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    shape: &'static str,
    url: Option<String>,
    completes_prompt: bool,
}

/// What the lines of one kind have been.
struct Seen {
    lines: u64,
    first_line: u64,
    /// The models that they name themselves, `None` for none; one more than is shown tells that there are more.
    models: Vec<Option<String>>,
}

impl LineKinds {
    /// Takes in a valid line.
    pub fn note(&mut self, number: u64, line: &[u8], parsed: &Parsed) {
        let kind = Kind {
            shape: match parsed.shape() {
                Shape::OpenAiBatch => r#"{"custom_id", "url", "body"}"#,
                Shape::Body => r#"{"body"}"#,
                Shape::Input => r#"{"input"}"#,
                Shape::Bare => "an API body",
            },
            url: parsed.url(line).map(|url| url.into_owned()),
            completes_prompt: parsed.completes_prompt(),
        };
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.others += 1;
            return;
        }
        let seen = self.kinds.entry(kind).or_insert_with(|| Seen {
            lines: 0,
            first_line: number,
            models: Vec::new(),
        });
        seen.lines += 1;
        if seen.models.len() <= MODELS_MAX {
            let model = parsed.model(line);
            if !seen
                .models
                .iter()
                .any(|known| known.as_deref() == model.as_deref())
            {
                seen.models.push(model.map(|model| model.into_owned()));
            }
        }
    }

    /// A line of text for each kind, and below it one for each of `endpoints`.
    pub fn describe(&self, endpoints: &[Endpoint]) -> Vec<String> {
        let mut told = Vec::new();
        for (kind, seen) in &self.kinds {
            told.push(format!(
                "  requests  {} of {}{}, the first in line {}",
                counted(seen.lines),
                kind.shape,
                (kind.url.as_ref()).map_or_else(String::new, |url| format!(" for {url}")),
                seen.first_line,
            ));
            for endpoint in endpoints {
                let own = seen.models.first().and_then(Option::as_deref);
                let route = endpoint.route(kind.url.as_deref(), own, kind.completes_prompt);
                let url = endpoint.shown_url(&route);
                told.push(format!(
                    "            {}: POST {url}, {}",
                    endpoint.name,
                    models(seen, endpoint)
                ));
            }
        }
        if self.others > 0 {
            told.push(format!(
                "  requests  {} of other kinds",
                counted(self.others)
            ));
        }
        told
    }
}

/// The models that `endpoint` would be asked for.
fn models(seen: &Seen, endpoint: &Endpoint) -> String {
    let mut asked: Vec<String> = Vec::new();
    for own in seen.models.iter().take(MODELS_MAX) {
        let model = endpoint.billed_model(own.as_deref().map(Into::into));
        let model = model.map_or_else(|| "no model".to_owned(), |model| format!("model {model}"));
        if !asked.contains(&model) {
            asked.push(model);
        }
    }
    if seen.models.len() > MODELS_MAX && asked.len() > 1 {
        asked.push("others".to_owned());
    }
    asked.join(", ").escape_debug().to_string()
}

fn counted(lines: u64) -> String {
    match lines {
        1 => "1 line".to_owned(),
        lines => format!("{lines} lines"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointConfig;

    #[test]
    fn each_kind_of_line_is_told_with_its_url_path_and_model() {
        let mut kinds = LineKinds::default();
        let mut parsed = Parsed::default();
        for (number, line) in [
            (1, r#"{"input": "a"}"#),
            (2, r#"{"input": "b"}"#),
            (4, r#"{"model": "mine", "prompt": "Once"}"#),
            (
                5,
                r#"{"custom_id": "r", "url": "/v1/embeddings", "body": {"model": "e", "input": "x"}}"#,
            ),
            (6, r#"{"body": {"messages": [], "model": "m1"}}"#),
            (7, r#"{"body": {"messages": [], "model": "m2"}}"#),
        ] {
            parsed.parse(line.as_bytes()).expect("a request");
            kinds.note(number, line.as_bytes(), &parsed);
        }
        let endpoint = |config: EndpointConfig| Endpoint::resolve(&config).expect("an endpoint");
        let endpoints = [
            endpoint(EndpointConfig {
                url: "https://h/v1?key=hunter2".into(),
                model: Some("configured".into()),
                ..Default::default()
            }),
            endpoint(EndpointConfig {
                name: Some("full".into()),
                url: "http://u:hunter2@h:81/v1/chat/completions".into(),
                ..Default::default()
            }),
        ];
        assert_eq!(
            kinds.describe(&endpoints),
            [
                "  requests  1 line of an API body, the first in line 4",
                "            h: POST https://h/v1/completions?key=***, model mine",
                "            full: POST http://h:81/v1/chat/completions, model mine",
                "  requests  2 lines of {\"body\"}, the first in line 6",
                "            h: POST https://h/v1/chat/completions?key=***, model m1, model m2",
                "            full: POST http://h:81/v1/chat/completions, model m1, model m2",
                "  requests  1 line of {\"custom_id\", \"url\", \"body\"} for /v1/embeddings, the first in line 5",
                "            h: POST https://h/v1/embeddings?key=***, model e",
                "            full: POST http://h:81/v1/embeddings, model e",
                "  requests  2 lines of {\"input\"}, the first in line 1",
                "            h: POST https://h/v1/chat/completions?key=***, model configured",
                "            full: POST http://h:81/v1/chat/completions, no model",
            ]
        );
        for number in 0..KINDS_MAX as u64 + 2 {
            let line = format!(r#"{{"url": "/v1/{number}", "body": {{}}}}"#);
            parsed.parse(line.as_bytes()).expect("a request");
            kinds.note(number, line.as_bytes(), &parsed);
        }
        let told = kinds.describe(&endpoints);
        assert_eq!(
            told.last().map(String::as_str),
            Some("  requests  6 lines of other kinds")
        );
    }
}
