//! Why a text is no filter, and where.

use std::fmt;
use std::ops::Range;

use crate::filter::{COMPREHENSIONS, FUNCTIONS, LEN_MAX, NESTING_MAX, NODES_MAX};

/// A text that is no filter: what is wrong, and where.
///
/// `Display` is one line; [`FilterError::pointer`] shows the line of the text with a mark under what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    kind: FilterErrorKind,
    span: Range<usize>,
    line: usize,
    column: usize,
    /// The line that is wrong, without characters that a terminal obeys.
    text: String,
    /// How many characters of it are marked.
    marked: usize,
}

/// What is wrong with a text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterErrorKind {
    /// Longer than 1 KiB.
    #[error("a filter has at most {LEN_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// More parts than a filter may have.
    #[error("a filter has at most {NODES_MAX} names, values and operations")]
    TooManyNodes,
    /// Brackets within brackets within brackets.
    #[error("brackets are nested deeper than {NESTING_MAX}")]
    TooDeep,
    /// A character that has no place here.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// Something else is needed here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may stand here.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A string without its end.
    #[error("the string has no end")]
    UnclosedString,
    /// An escape that there is not.
    #[error("unknown escape in a string: for a backslash write \\\\, or r\"…\" for a raw string")]
    Escape,
    /// A number that is too large, or none.
    #[error("not a number of 64 bits")]
    Number,
    /// A word that the language keeps for itself.
    #[error("`{0}` is a reserved word: a field of that name is `body[\"{0}\"]`")]
    Reserved(String),
    /// A function that there is not.
    #[error("unknown function `{0}`: there are {FUNCTIONS}; and x.{COMPREHENSIONS}")]
    UnknownFunction(String),
    /// A function with the wrong number of arguments.
    #[error("`{function}` is written {usage}")]
    Arguments {
        /// Which.
        function: &'static str,
        /// How it is called.
        usage: &'static str,
    },
    /// `has` of something that is no field.
    #[error("has() asks for a field, as in has(body.mag)")]
    Has,
    /// A loop in a loop.
    #[error("`{0}` within another one: a filter that could take long is not taken")]
    NestedComprehension(&'static str),
    /// A pattern that is computed.
    #[error("the pattern of matches() is written out, it cannot be computed")]
    PatternNotLiteral,
    /// A pattern that is none, or too large.
    #[error("not a pattern that can be used: {0}")]
    Pattern(String),
    /// An expression that is neither true nor false.
    #[error("a filter is true or false, and this is {0}")]
    NotBool(&'static str),
}

impl FilterError {
    pub(super) fn new(kind: FilterErrorKind, text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Self {
            kind,
            span: start..end,
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: text[line_start..line_end].chars().map(plain).collect(),
            marked: text[start..end.min(line_end).max(start)].chars().count().max(1),
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &FilterErrorKind {
        &self.kind
    }

    /// Which bytes of the text are wrong; empty where something is missing.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line of the text, 1 first.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Character of the line, 1 first.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// The line that is wrong and, below, a mark under what is wrong in it: two lines without an end.
    ///
    /// Empty if the text was too long to be read.
    #[must_use]
    pub fn pointer(&self) -> String {
        if matches!(self.kind, FilterErrorKind::TooLong(_)) {
            return String::new();
        }
        let mark = "^".repeat(self.marked);
        format!("{}\n{mark:>width$}", self.text, width = self.column - 1 + self.marked)
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.kind {
            FilterErrorKind::TooLong(_) => Ok(()),
            _ if self.line == 1 => write!(f, " (at character {})", self.column),
            _ => write!(f, " (at line {}, character {})", self.line, self.column),
        }
    }
}

impl std::error::Error for FilterError {}
