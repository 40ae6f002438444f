//! Deterministic prose: one word is one token. Pure.

use super::super::random::Dice;
use super::super::request::ApiRequest;
use super::TEXT_EVENTS_MAX;

/// Words of a text without a wish for its length: 12 to 48, about as many bytes as a short answer.
const WORDS_MIN: u64 = 12;
const WORDS_SPAN: u64 = 37;

/// Words that need no escape in JSON. Some are not ASCII, so that every test meets UTF-8.
const WORDS: [&str; 64] = [
    "the", "a", "of", "to", "and", "in", "it", "is", "that", "for", "with", "as", "on", "at", "by",
    "from", "model", "answer", "question", "token", "river", "mountain", "signal", "paper",
    "engine", "garden", "window", "number", "letter", "morning", "evening", "winter", "summer",
    "quiet", "bright", "simple", "careful", "ancient", "narrow", "open", "writes", "reads",
    "moves", "holds", "finds", "keeps", "turns", "sends", "before", "after", "under", "between",
    "almost", "always", "never", "perhaps", "café", "naïve", "Zürich", "東京", "Ωmega", "señal",
    "🙂", "because",
];

/// One generated text.
pub(super) struct Text {
    words: Vec<&'static str>,
    /// The request's token limit ended it.
    pub cut: bool,
}

impl Text {
    /// The text number `index` of a request's answer.
    pub(super) fn generate(
        request: &ApiRequest<'_>,
        index: u64,
        text_bytes: Option<usize>,
    ) -> Self {
        let mut dice = Dice::new(request.identity, index);
        let word = |dice: &mut Dice| WORDS[dice.below(WORDS.len() as u64) as usize];
        if let Some(wanted) = text_bytes {
            let mut words = vec![word(&mut dice)];
            let mut length = words[0].len();
            while length < wanted {
                let next = word(&mut dice);
                length += 1 + next.len();
                words.push(next);
            }
            return Self { words, cut: false };
        }
        let wanted = WORDS_MIN + dice.below(WORDS_SPAN);
        let count = wanted.min(request.tokens_max.unwrap_or(u64::MAX));
        let words = (0..count).map(|_| word(&mut dice)).collect();
        Self {
            words,
            cut: count < wanted,
        }
    }

    pub(super) fn tokens(&self) -> u64 {
        self.words.len() as u64
    }

    pub(super) fn join(&self) -> String {
        self.words.join(" ")
    }

    /// The text in parts for a stream; each with the number of tokens up to and with it.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, String)> + '_ {
        let words_per_part = self.words.len().div_ceil(TEXT_EVENTS_MAX).max(1);
        self.words
            .chunks(words_per_part)
            .enumerate()
            .map(move |(index, words)| {
                let before = index * words_per_part;
                let space = if index == 0 { "" } else { " " };
                (
                    (before + words.len()) as u64,
                    format!("{space}{}", words.join(" ")),
                )
            })
    }
}
