//! From text to tokens, as the language definition of CEL has them.

use std::ops::Range;

use crate::filter::error::{FilterError, FilterErrorKind as Kind};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// The magnitude: a minus is an operator.
    Int(u64),
    UInt(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
    Word(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

impl Token {
    /// As a person would call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Int(_) | Self::UInt(_) | Self::Double(_) => "a number".to_owned(),
            Self::Str(_) | Self::Bytes(_) => "a string".to_owned(),
            Self::Word(word) => format!("`{word}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longer ones first: the first that fits is taken.
const SIGNS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")", "[", "]",
];
const BRACES: [&str; 2] = ["{", "}"];

/// Takes tokens from the front of a text.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// The next token and where it stands.
    pub(super) fn next(&mut self) -> Result<(Token, Range<usize>), FilterError> {
        self.skip_blank();
        let start = self.at;
        let token = self.token()?;
        Ok((token, start..self.at))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, kind: Kind, start: usize) -> FilterError {
        FilterError::new(kind, self.text, start..self.at.max(start))
    }

    fn skip_blank(&mut self) {
        loop {
            self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().lines().next().map_or(0, str::len);
        }
    }

    fn token(&mut self) -> Result<Token, FilterError> {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else { return Ok(Token::End) };
        let digit_next = chars.next().is_some_and(|c| c.is_ascii_digit());
        if first.is_ascii_digit() || first == '.' && digit_next {
            return self.number();
        }
        if let Some((prefix, bytes, raw)) = string_prefix(rest) {
            let start = self.at;
            self.at += prefix;
            return self.string(start, bytes, raw);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
            return Ok(Token::Word(word.to_owned()));
        }
        if let Some(sign) = SIGNS.iter().chain(&BRACES).find(|sign| rest.starts_with(**sign)) {
            self.at += sign.len();
            return Ok(Token::Sign(sign));
        }
        let start = self.at;
        self.at += first.len_utf8();
        Err(self.error(Kind::Character(first), start))
    }

    fn take_while(&mut self, mut of: impl FnMut(char) -> bool) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c| !of(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn number(&mut self) -> Result<Token, FilterError> {
        let start = self.at;
        let hex = self.rest().strip_prefix("0x").or_else(|| self.rest().strip_prefix("0X")).is_some();
        let mut before = '0';
        let text = self.take_while(|c| {
            let exponent_sign = !hex && matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
            before = c;
            exponent_sign || c == '.' && !hex || c.is_ascii_alphanumeric() || c == '_'
        });
        let (digits, unsigned) = match text.strip_suffix(['u', 'U']) {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let whole = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => plain(hex).and_then(|hex| u64::from_str_radix(hex, 16).ok()),
            None => plain(digits).and_then(|digits| digits.parse().ok()),
        };
        let token = match whole {
            Some(n) if unsigned => Some(Token::UInt(n)),
            Some(n) => Some(Token::Int(n)),
            None if is_double(text) => text.parse().ok().filter(|n: &f64| n.is_finite()).map(Token::Double),
            None => None,
        };
        token.ok_or_else(|| self.error(Kind::Number, start))
    }

    fn string(&mut self, start: usize, bytes: bool, raw: bool) -> Result<Token, FilterError> {
        let quote = &self.rest()[..1];
        let triple = quote.repeat(3);
        let end = if self.rest().starts_with(&triple) { triple.as_str() } else { quote };
        self.at += end.len();
        let mut out = Vec::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(end) {
                self.at += end.len();
                break;
            }
            match rest.chars().next() {
                Some('\\') if !raw => {
                    let at = self.at;
                    let Some(len) = escape(&rest[1..], bytes, &mut out) else {
                        self.at = (at + 2).min(self.text.len());
                        return Err(self.error(Kind::Escape, at));
                    };
                    self.at += 1 + len;
                }
                // Only a string in three quotes goes over lines.
                Some('\n' | '\r') if end.len() == 1 => return Err(self.error(Kind::UnclosedString, start)),
                Some(c) => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at += c.len_utf8();
                }
                None => return Err(self.error(Kind::UnclosedString, start)),
            }
        }
        if bytes {
            return Ok(Token::Bytes(out));
        }
        Ok(Token::Str(String::from_utf8(out).expect("characters were put in, encoded")))
    }
}

/// Length of what stands before the quote, and whether bytes are meant, and whether it is raw; if it is a string.
fn string_prefix(text: &str) -> Option<(usize, bool, bool)> {
    let len = text.find(['"', '\'']).filter(|len| *len <= 2)?;
    let (bytes, raw) = match &*text[..len].to_ascii_lowercase() {
        "" => (false, false),
        "r" => (false, true),
        "b" => (true, false),
        "br" | "rb" => (true, true),
        _ => return None,
    };
    Some((len, bytes, raw))
}

/// These are digits and nothing else: `from_str` would take a plus.
fn plain(digits: &str) -> Option<&str> {
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(digits)
}

/// `digits . digits e ± digits`, with a fraction, an exponent or both: `parse` would take `inf`, `1.` and more.
fn is_double(text: &str) -> bool {
    if !text.contains(['.', 'e', 'E']) {
        return false;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa_is_good = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole.is_empty() || digits(whole)) && digits(fraction),
        None => digits(mantissa),
    };
    mantissa_is_good && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// Appends what the escape that follows a backslash stands for, and returns its length.
fn escape(text: &str, bytes: bool, out: &mut Vec<u8>) -> Option<usize> {
    let first = text.chars().next()?;
    let one = |byte: u8, out: &mut Vec<u8>| {
        out.push(byte);
        Some(1)
    };
    let (digits, radix, skip) = match first {
        'a' => return one(0x07, out),
        'b' => return one(0x08, out),
        'f' => return one(0x0c, out),
        'n' => return one(b'\n', out),
        'r' => return one(b'\r', out),
        't' => return one(b'\t', out),
        'v' => return one(0x0b, out),
        '\\' => return one(b'\\', out),
        '\'' => return one(b'\'', out),
        '"' => return one(b'"', out),
        '`' => return one(b'`', out),
        '?' => return one(b'?', out),
        'x' | 'X' => (2, 16, 1),
        'u' if !bytes => (4, 16, 1),
        'U' if !bytes => (8, 16, 1),
        '0'..='3' => (3, 8, 0),
        _ => return None,
    };
    let digits = text.get(skip..skip + digits)?;
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let code = u32::from_str_radix(digits, radix).ok()?;
    if bytes {
        out.push(u8::try_from(code).ok()?);
    } else {
        out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(skip + digits.len())
}
