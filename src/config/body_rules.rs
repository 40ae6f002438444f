//! What an endpoint adds to the bodies it is sent: made by the provider layer, applied where a line
//! becomes a request. Pure data.

/// How an endpoint wants a body completed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BodyRules<'a> {
    /// How an `{"input": …}` line is wrapped.
    pub input_as: InputShape,
    /// Put into a body that has no `model`.
    pub model: Option<&'a str>,
    /// Put `model` in the place of the body's own, too.
    pub override_model: bool,
    /// Put into a body that has no `temperature`; finite.
    pub temperature: Option<f64>,
    /// Field name and value, put into a body that limits its tokens in no spelling.
    pub max_tokens: Option<(&'static str, u64)>,
}

/// What the value of `input` becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputShape {
    /// `{"messages": [{"role": "user", "content": …}]}`: chat completions and Anthropic messages.
    Messages,
    /// `{"prompt": …}`: completions.
    Prompt,
    /// `{"input": …}`: embeddings and responses.
    Input,
}
