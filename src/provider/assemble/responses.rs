//! Streams of the Responses API: their last event carries the whole response. Pure.

use super::merge::{Budget, Fields};
use super::{Event, Progress, StreamError};

#[derive(Debug, Default)]
pub(super) struct Response {
    whole: Option<String>,
}

impl Response {
    pub(super) fn feed(
        &mut self,
        event: &Event<'_>,
        data: &str,
        budget: &mut Budget,
    ) -> Result<Progress, StreamError> {
        let kind = event.fields.text("type").unwrap_or(event.name);
        match kind {
            // An incomplete response is a response: without streaming, too, it comes with 200 and
            // says in `incomplete_details` why it stops.
            "response.completed" | "response.incomplete" => {
                let whole = event.fields.get("response").ok_or_else(|| {
                    StreamError::protocol(format!("the event {kind} holds no response"))
                })?;
                budget.spend(whole.get().len())?;
                self.whole = Some(whole.get().to_owned());
                Ok(Progress {
                    token: false,
                    done: true,
                })
            }
            "response.failed" | "response.cancelled" => {
                // The error stands inside the response.
                let response = event
                    .fields
                    .get("response")
                    .map(Fields::of)
                    .unwrap_or_default();
                let error = response.get("error").map_or(data, |error| error.get());
                Err(StreamError::of_server(error))
            }
            kind => Ok(Progress {
                token: kind.ends_with(".delta"),
                done: false,
            }),
        }
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, StreamError> {
        self.whole
            .map(String::into_bytes)
            .ok_or_else(|| StreamError::protocol("the stream held no response"))
    }
}
