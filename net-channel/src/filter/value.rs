//! What a filter computes with. Cloning a value copies no text, no list and no map.

use std::cmp::Ordering;
use std::ops::Deref;
use std::rc::Rc;

use crate::filter::eval::Meter;
use crate::filter::{FilterMiss, expr::Literal};

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Str(Text<'a>),
    Bytes(&'a [u8]),
    List(Rc<[Self]>),
    Map(Map<'a>),
}

/// Names are unique and in order.
pub(super) type Map<'a> = Rc<[(Text<'a>, Value<'a>)]>;

/// Text of the event or of the filter, or made on the way.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// A map of these entries; of those with one name, the last counts.
pub(super) fn map<'a>(mut entries: Vec<(Text<'a>, Value<'a>)>) -> Map<'a> {
    entries.reverse();
    // Stable: of one name, the last given comes first, and stays.
    entries.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    entries.dedup_by(|(a, _), (b, _)| **a == **b);
    entries.into()
}

/// The field of this name.
pub(super) fn field<'v, 'a>(map: &'v [(Text<'a>, Value<'a>)], name: &str) -> Option<&'v Value<'a>> {
    let at = map.binary_search_by(|(n, _)| n.as_bytes().cmp(name.as_bytes())).ok()?;
    Some(&map[at].1)
}

impl<'a> Value<'a> {
    pub(super) fn of(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(b) => Self::Bool(*b),
            Literal::Int(n) => Self::Int(*n),
            Literal::UInt(n) => Self::UInt(*n),
            Literal::Double(n) => Self::Double(*n),
            Literal::Str(text) => Self::Str(Text::Borrowed(text)),
            Literal::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    /// Bytes that are text become a string.
    pub(super) fn text_or_bytes(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Str(Text::Borrowed(text)),
            Err(_) => Self::Bytes(bytes),
        }
    }

    pub(super) fn text(&self) -> Result<&str, FilterMiss> {
        match self {
            Self::Str(text) => Ok(text),
            _ => Err(FilterMiss::WrongType),
        }
    }

    pub(super) fn bool(&self) -> Result<bool, FilterMiss> {
        match self {
            Self::Bool(b) => Ok(*b),
            _ => Err(FilterMiss::WrongType),
        }
    }

    /// Whether they are equal; values of different kinds are not, but numbers are compared as numbers.
    pub(super) fn equals(&self, other: &Self, meter: &mut Meter) -> Result<bool, FilterMiss> {
        meter.spend(1)?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => {
                meter.spend_bytes(a.len().min(b.len()))?;
                **a == **b
            }
            (Self::Bytes(a), Self::Bytes(b)) => {
                meter.spend_bytes(a.len().min(b.len()))?;
                a == b
            }
            (Self::List(a), Self::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(b, meter)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(a), Self::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for ((a_name, a), (b_name, b)) in a.iter().zip(b.iter()) {
                    meter.spend_bytes(a_name.len().min(b_name.len()))?;
                    if **a_name != **b_name || !a.equals(b, meter)? {
                        return Ok(false);
                    }
                }
                true
            }
            _ => matches!(compare_numbers(self, other), Some(Some(Ordering::Equal))),
        })
    }

    /// Which is larger; nothing if one is not a number.
    pub(super) fn compare(&self, other: &Self, meter: &mut Meter) -> Result<Option<Ordering>, FilterMiss> {
        Ok(Some(match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Str(a), Self::Str(b)) => {
                meter.spend_bytes(a.len().min(b.len()))?;
                a.as_bytes().cmp(b.as_bytes())
            }
            (Self::Bytes(a), Self::Bytes(b)) => {
                meter.spend_bytes(a.len().min(b.len()))?;
                a.cmp(b)
            }
            _ => return compare_numbers(self, other).ok_or(FilterMiss::WrongType),
        }))
    }
}

/// Numbers of any kinds, by what they are worth; the inner nothing is for what is not a number.
fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(n) => Some(i128::from(*n)),
        Value::UInt(n) => Some(i128::from(*n)),
        _ => None,
    };
    Some(match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), b) => compare_mixed(*a, whole(b)?),
        (a, Value::Double(b)) => compare_mixed(*b, whole(a)?).map(Ordering::reverse),
        (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
    })
}

/// A double against a whole number of 64 bits, exactly.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is out of range has been answered before, or saturates above"
)]
fn compare_mixed(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    // Casting saturates, and the range of i128 is far beyond that of b.
    let whole = a.trunc() as i128;
    Some(whole.cmp(&b).then(a.fract().partial_cmp(&0.0)?))
}
