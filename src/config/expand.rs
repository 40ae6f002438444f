//! `${NAME}` inside a string → the environment variable's text. Pure: the caller brings the lookup.

use zeroize::Zeroizing;

/// Why a string could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExpandError {
    /// The variable has no value.
    Unset(String),
    /// `${` without `}`, or with something that is no variable name.
    Malformed,
}

/// Replaces each `${NAME}` by what `lookup` gives; `$${` is a literal `${`, any other `$` is itself.
/// What a variable holds is plain text: it is neither expanded again nor read as structure.
pub(super) fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ExpandError> {
    let mut expanded = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from_dollar) = rest.split_at(at);
        let after_open = &from_dollar["${".len()..];
        if let Some(before) = before.strip_suffix('$') {
            push(&mut expanded, before);
            push(&mut expanded, "${");
            rest = after_open;
            continue;
        }
        let (name, after) = after_open.split_once('}').ok_or(ExpandError::Malformed)?;
        if !is_variable_name(name) {
            return Err(ExpandError::Malformed);
        }
        push(&mut expanded, before);
        let value = lookup(name).ok_or_else(|| ExpandError::Unset(name.to_owned()))?;
        push(&mut expanded, &Zeroizing::new(value));
        rest = after;
    }
    push(&mut expanded, rest);
    Ok(std::mem::take(&mut expanded))
}

/// Appends; where the text moves to a larger place, the old one, which may hold a key, is wiped.
fn push(text: &mut Zeroizing<String>, more: &str) {
    let needed = text.len() + more.len();
    if needed > text.capacity() {
        let mut larger = Zeroizing::new(String::with_capacity(2 * needed));
        larger.push_str(text);
        *text = larger;
    }
    text.push_str(more);
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, ExpandError>) {
        let lookup = |name: &str| match name {
            "KEY" => Some("sk-1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${KEY}\"}, \"x\": {".to_owned()),
            _ => None,
        };
        assert_eq!(expand(text, &lookup), expect.map(str::to_owned), "{text}");
    }

    #[test]
    fn variables_become_their_text_once() {
        check("", Ok(""));
        check("plain $5 and $$ and }", Ok("plain $5 and $$ and }"));
        check("${KEY}", Ok("sk-1"));
        check("a ${KEY}${KEY} é ${EMPTY}z", Ok("a sk-1sk-1 é z"));
        check("${TRICK}", Ok("${KEY}\"}, \"x\": {"));
        check("$${KEY} ${KEY}", Ok("${KEY} sk-1"));
        check("$$${KEY}", Ok("$${KEY}"));
    }

    #[test]
    fn unset_and_malformed_are_errors() {
        check("x ${NOPE} y", Err(ExpandError::Unset("NOPE".into())));
        for text in [
            "${",
            "${KEY",
            "${}",
            "${1A}",
            "${A-B}",
            "${KEY:-x}",
            "${a b}",
        ] {
            check(text, Err(ExpandError::Malformed));
        }
    }
}
