//! OpenAI embeddings: unit vectors, each derived from its input alone. Pure.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xxhash_rust::xxh3::xxh3_64;

use super::super::random::Dice;
use super::super::request::ApiRequest;
use super::{Answer, quoted};

pub(super) fn answer(request: &ApiRequest<'_>) -> Answer {
    let mut body = String::from(r#"{"object":"list","data":["#);
    for (index, input) in request.inputs.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let vector = unit_vector(xxh3_64(input.get().as_bytes()), request.dimensions);
        // Writing to a string does not fail.
        let _ = write!(
            body,
            r#"{comma}{{"object":"embedding","index":{index},"embedding":"#
        );
        if request.base64 {
            let bytes: Vec<u8> = vector
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            let _ = write!(body, "\"{}\"}}", STANDARD.encode(&bytes));
        } else {
            for (place, number) in vector.iter().enumerate() {
                let _ = write!(body, "{}{number}", if place == 0 { '[' } else { ',' });
            }
            body += "]}";
        }
    }
    let tokens = request.prompt_tokens;
    let _ = write!(
        body,
        r#"],"model":{},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#,
        quoted(&request.model)
    );
    // Nothing is generated, so there is no pace to keep.
    Answer::Whole { body, tokens: 0 }
}

fn unit_vector(seed: u64, dimensions: usize) -> Vec<f32> {
    let mut dice = Dice::new(seed, 0);
    let numbers: Vec<f64> = (0..dimensions).map(|_| dice.unit() * 2.0 - 1.0).collect();
    let norm = numbers
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt();
    numbers
        .iter()
        .map(|number| (number / norm) as f32)
        .collect()
}
