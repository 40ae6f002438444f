//! OpenAI embeddings: unit vectors, each derived from its input alone. Pure.

use std::fmt::Write as _;

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
            let _ = write!(body, "\"{}\"}}", base64(&bytes));
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

/// RFC 4648, section 4, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let sextet = (bits >> (18 - 6 * digit)) & 0x3f;
            text.push(if digit <= group.len() {
                ALPHABET[sextet as usize] as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (bytes, expect) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expect);
        }
    }
}
