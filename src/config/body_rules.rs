//! What an endpoint puts into a request body: the words between dialects and the body splicer.

/// Fields an endpoint adds to a body, and the shape it wraps an `input` line in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BodyRules<'a> {
    /// How an `input` line becomes a body.
    pub input_as: InputShape,
    /// Put into a body that has no `model`.
    pub model: Option<&'a str>,
    /// Replace the body's `model` instead.
    pub override_model: bool,
    /// Put into a body that has none.
    pub temperature: Option<f64>,
    /// Field name and value, put into a body that has none.
    pub max_tokens: Option<(&'static str, u64)>,
}

/// The field of the API that takes a line's `input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputShape {
    /// Chat: `messages`.
    Messages,
    /// Legacy completions: `prompt`.
    Prompt,
    /// Embeddings and responses: `input`.
    Input,
}
