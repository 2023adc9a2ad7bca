//! Filters: which events an application wants, as a text in CEL.

mod error;
mod eval;
mod expr;
mod json;
mod lex;
mod parse;
mod pattern;
mod value;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use error::{FilterError, FilterErrorKind};

use crate::Event;

/// Which events are wanted: an expression of the [Common Expression Language](https://cel.dev), for example
/// `mag > 4 && place.contains("Alaska")`.
///
/// | name | what it is |
/// |---|---|
/// | `channel`, `origin` | the channel's name and the origin's id, strings |
/// | `key` | the event's key: a string, bytes if it is no text, or null |
/// | `headers` | a map; of headers of one name the first counts |
/// | `time` | when it happened by its origin's clock, in unix milliseconds |
/// | `size` | bytes of the payload |
/// | `body` | the payload's JSON |
/// | any other | that field of the payload's JSON; `x` is `body.x` |
///
/// There are the operators of CEL, its literals, `has`, `size`, `int`, `double`, `contains`, `startsWith`, `endsWith`,
/// `matches`, `all`, `exists`, `exists_one`, `filter` and `map`. Because JSON does not say whether `4` is whole, whole
/// numbers and doubles mix in arithmetic as they do in comparisons. Names in maps are strings.
///
/// A filter is checked when it is parsed, and costs little whatever it is and whatever an event holds: a text has at
/// most 1 KiB and 128 parts, no comprehension stands within another, patterns are written out and are compiled once,
/// and an evaluation that has taken its 2^18 steps ends: 16 bytes of text are a step, and each byte that a pattern looks at
/// is four steps or, for large patterns, more (`[a-z]` is smaller than `\w`, which knows all scripts). A payload of more
/// than 64 KiB is not read as JSON.
///
/// ```
/// use net_channel::Filter;
///
/// let filter: Filter = "mag > 4 && place.contains(\"Alaska\")".parse()?;
/// assert_eq!(filter.text(), "mag > 4 && place.contains(\"Alaska\")");
///
/// let error = Filter::parse("mag > 4 && near(place)").expect_err("there is no such function");
/// assert_eq!(error.pointer(), "mag > 4 && near(place)\n           ^^^^");
/// # Ok::<(), net_channel::FilterError>(())
/// ```
#[derive(Clone)]
pub struct Filter {
    text: Arc<str>,
    program: Arc<Program>,
}

/// A filter as it is evaluated.
#[derive(Debug)]
struct Program {
    root: expr::Expr,
    /// The payload's fields that it names.
    fields: Vec<Box<str>>,
    /// Whether it names the payload as a whole.
    whole_body: bool,
}

/// Why it cannot be said whether an event matches; then it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterMiss {
    /// A field or an element that the filter needs is not there.
    #[error("a field that the filter needs is missing")]
    Missing,
    /// Something has another type than the filter needs, or a result that no number can hold.
    #[error("a value has another type than the filter needs")]
    WrongType,
    /// The payload is not JSON, or larger than 64 KiB.
    #[error("the payload is not JSON of at most {JSON_LEN_MAX} bytes")]
    Unreadable,
    /// The evaluation was ended because it took too long.
    #[error("the filter takes too long on this event")]
    TooCostly,
}

/// The most bytes of a filter's text.
const LEN_MAX: usize = 1 << 10;
/// The most parts of a filter: names, literals, operations.
const NODES_MAX: usize = 128;
/// How deep brackets may be nested.
const NESTING_MAX: usize = 24;
/// The most bytes of a payload that is read as JSON.
const JSON_LEN_MAX: usize = 64 << 10;
/// What one evaluation may cost: on a busy 2-core VM up to 5 ms, with patterns made to be slow up to 20 ms.
const COST_MAX: usize = 1 << 18;
const FUNCTIONS: &str = "has, size, int, double, matches, contains, startsWith, endsWith";
const COMPREHENSIONS: &str = "all, exists, exists_one, filter, map";

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`], which points into the text.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > LEN_MAX {
            return Err(FilterError::new(FilterErrorKind::TooLong(text.len()), text, LEN_MAX..text.len()));
        }
        Ok(Self { program: Arc::new(parse::parse(text)?), text: text.into() })
    }

    /// The text it was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the event matches.
    ///
    /// # Errors
    /// [`FilterMiss`] if that cannot be said; such an event is not one that was asked for.
    pub fn matches(&self, event: &Event) -> Result<bool, FilterMiss> {
        self.program.matches(event)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}
