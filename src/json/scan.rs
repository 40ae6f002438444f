//! The scanner: one pass over a text, no recursion beyond the two levels it reports. Pure.

use super::string::special;
use super::{Kind, MAX_DEPTH, Member, Span, Syntax, TEXT_BYTES_MAX, Visitor};

/// Checks that the whole text is one JSON value, white space allowed around it, and reports what it
/// meets to `visitor`.
pub fn visit(text: &[u8], visitor: &mut impl Visitor) -> Result<Kind, Syntax> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Syntax {
            offset: TEXT_BYTES_MAX,
            expected: "a text of less than 4 GiB",
        });
    }
    if simdutf8::basic::from_utf8(text).is_err() {
        // The fast check doesn't say where; the slow one finds the same fault.
        let offset = std::str::from_utf8(text)
            .err()
            .map_or(0, |error| error.valid_up_to());
        return Err(Syntax {
            offset,
            expected: "valid UTF-8",
        });
    }
    let mut scanner = Scanner {
        text,
        at: 0,
        visitor,
        expected: "",
    };
    scanner.text().map_err(|Fault| Syntax {
        offset: scanner.at,
        expected: scanner.expected,
    })
}

/// The text is not JSON: the scanner has stopped at the fault and knows what it expected there. An error of
/// no size leaves results in registers.
struct Fault;

struct Scanner<'t, 'v, V> {
    text: &'t [u8],
    /// The next byte to look at.
    at: usize,
    visitor: &'v mut V,
    /// What would have been right at a fault.
    expected: &'static str,
}

impl<V: Visitor> Scanner<'_, '_, V> {
    fn text(&mut self) -> Result<Kind, Fault> {
        self.skip_white_space();
        let kind = match self.peek() {
            b'{' => self.object(1)?,
            b'[' => self.array()?,
            first => self.scalar(first)?,
        };
        self.skip_white_space();
        if self.at < self.text.len() {
            return Err(self.expected("the end of the text"));
        }
        Ok(kind)
    }

    /// The top-level object (level 1), or one entered in it (level 2): members are reported.
    fn object(&mut self, level: usize) -> Result<Kind, Fault> {
        self.at += 1;
        self.skip_white_space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(Kind::Object);
        }
        loop {
            let (key, key_escaped) = self.name()?;
            let start = self.at;
            let enter = level == 1 && self.peek() == b'{' && self.visitor.enter(key, key_escaped);
            let kind = if enter {
                self.object(2)?
            } else {
                self.value(level)?
            };
            let member = Member {
                key,
                key_escaped,
                value: Span::new(start, self.at),
                kind,
            };
            match level {
                1 => self.visitor.member(member),
                _ => self.visitor.inner_member(member),
            }
            self.skip_white_space();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(self.expected("',' or '}'")),
            }
            self.skip_white_space();
        }
        self.at += 1;
        Ok(Kind::Object)
    }

    /// The top-level array: elements are reported.
    fn array(&mut self) -> Result<Kind, Fault> {
        self.at += 1;
        self.skip_white_space();
        if self.peek() == b']' {
            self.at += 1;
            return Ok(Kind::Array);
        }
        loop {
            let start = self.at;
            let kind = self.value(1)?;
            self.visitor.element(Span::new(start, self.at), kind);
            self.skip_white_space();
            match self.peek() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.expected("',' or ']'")),
            }
            self.skip_white_space();
        }
        self.at += 1;
        Ok(Kind::Array)
    }

    /// Any value below `depth` open arrays and objects; nothing inside it is reported.
    #[inline]
    fn value(&mut self, depth: usize) -> Result<Kind, Fault> {
        match self.peek() {
            b'{' => self.nested(depth).map(|()| Kind::Object),
            b'[' => self.nested(depth).map(|()| Kind::Array),
            first => self.scalar(first),
        }
    }

    /// An array or object with everything in it, without recursion.
    fn nested(&mut self, outer: usize) -> Result<(), Fault> {
        let mut nesting = Nesting {
            depth: outer,
            objects: [0; MAX_DEPTH / 64],
        };
        'value: loop {
            match self.peek() {
                first @ (b'{' | b'[') => {
                    let is_object = first == b'{';
                    if !nesting.open(is_object) {
                        return Err(self.expected("at most 512 nested levels"));
                    }
                    self.at += 1;
                    self.skip_white_space();
                    match (is_object, self.peek()) {
                        // Empty: closed below.
                        (true, b'}') | (false, b']') => {}
                        (true, _) => {
                            self.nested_name()?;
                            continue 'value;
                        }
                        (false, _) => continue 'value,
                    }
                }
                first => {
                    self.scalar(first)?;
                }
            }
            // A value has ended: close what ends with it, up to the next comma.
            loop {
                self.skip_white_space();
                match (nesting.innermost_is_object(), self.peek()) {
                    (true, b'}') | (false, b']') => {
                        self.at += 1;
                        nesting.depth -= 1;
                        if nesting.depth == outer {
                            return Ok(());
                        }
                    }
                    (true, b',') => {
                        self.at += 1;
                        self.skip_white_space();
                        self.nested_name()?;
                        continue 'value;
                    }
                    (false, b',') => {
                        self.at += 1;
                        self.skip_white_space();
                        continue 'value;
                    }
                    (true, _) => return Err(self.expected("',' or '}'")),
                    (false, _) => return Err(self.expected("',' or ']'")),
                }
            }
        }
    }

    /// The name of a member somewhere below.
    #[inline(always)]
    fn nested_name(&mut self) -> Result<(), Fault> {
        let (key, _) = self.name()?;
        self.visitor.nested_member(key, self.at);
        Ok(())
    }

    /// A member's name, its colon, and the white space up to its value. To call it costs a quarter of what it
    /// does.
    #[inline(always)]
    fn name(&mut self) -> Result<(Span, bool), Fault> {
        if self.peek() != b'"' {
            return Err(self.expected("a member's name in double quotes"));
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let key = Span::new(start, self.at - 1);
        self.skip_white_space();
        if self.peek() != b':' {
            return Err(self.expected("':'"));
        }
        self.at += 1;
        self.skip_white_space();
        Ok((key, escaped))
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Result<Kind, Fault> {
        match first {
            b'"' => self.string().map(|_| Kind::String),
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            b't' => self.literal("true").map(|()| Kind::Bool),
            b'f' => self.literal("false").map(|()| Kind::Bool),
            b'n' => self.literal("null").map(|()| Kind::Null),
            _ => Err(self.expected("a value")),
        }
    }

    /// A string from its opening quote past its closing one; says whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        self.at = special(self.text, self.at + 1);
        if self.peek() == b'"' {
            self.at += 1;
            return Ok(false);
        }
        self.string_with_escapes().map(|()| true)
    }

    /// A string from its first backslash, or a fault, past its closing quote.
    #[inline(never)]
    fn string_with_escapes(&mut self) -> Result<(), Fault> {
        loop {
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => {
                    return Err(self.expected("control characters in strings as \\u escapes"));
                }
                None => return Err(self.expected("'\"' to end the string")),
            }
            self.at = special(self.text, self.at);
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<(), Fault> {
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_ascii_hexdigit() {
                        return Err(self.expected("four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.expected("one of \"\\/bfnrtu to complete the escape")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    #[inline]
    fn digits(&mut self) -> Result<(), Fault> {
        if !self.peek().is_ascii_digit() {
            return Err(self.expected("a digit"));
        }
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|byte| !byte.is_ascii_digit());
        self.at += end.unwrap_or(rest.len());
        Ok(())
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.expected(literal));
        }
        self.at += literal.len();
        Ok(())
    }

    #[inline]
    fn skip_white_space(&mut self) {
        // Above a space there is none: the usual case costs one comparison.
        if self.peek() <= b' ' {
            self.skip_gap();
        }
    }

    #[inline(never)]
    fn skip_gap(&mut self) {
        let start = self.at;
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        if self.at > start {
            self.visitor.white_space(start..self.at);
        }
    }

    /// The next byte, or NUL at the end: no JSON token begins with or holds one, so both fail alike.
    #[inline]
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    #[cold]
    fn expected(&mut self, expected: &'static str) -> Fault {
        self.expected = expected;
        Fault
    }
}

/// Which of the open containers are objects, one bit each.
struct Nesting {
    depth: usize,
    objects: [u64; MAX_DEPTH / 64],
}

impl Nesting {
    /// False if that is one too many.
    #[inline]
    fn open(&mut self, is_object: bool) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        let (word, bit) = (self.depth / 64, self.depth % 64);
        self.objects[word] = self.objects[word] & !(1 << bit) | u64::from(is_object) << bit;
        self.depth += 1;
        true
    }

    /// Only called with one open.
    #[inline]
    fn innermost_is_object(&self) -> bool {
        let index = self.depth - 1;
        self.objects[index / 64] >> (index % 64) & 1 == 1
    }
}
