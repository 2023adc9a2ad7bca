//! A filter as it is evaluated: a tree of at most [`crate::filter::NODES_MAX`] nodes.

use crate::filter::pattern::Pattern;

/// A part of a filter.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Literal(Literal),
    Name(Name),
    /// The payload's JSON.
    Body,
    /// A field of the payload's JSON object: an index into the names of [`crate::filter::Program`].
    Field(usize),
    /// The element that the comprehension around it is at.
    Element,
    Select(Box<Self>, Box<str>),
    /// Whether the object has the field.
    Has(Box<Self>, Box<str>),
    HasField(usize),
    Index(Box<[Self; 2]>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Logic {
        is_or: bool,
        sides: Box<[Self; 2]>,
    },
    If(Box<[Self; 3]>),
    Binary(Binary, Box<[Self; 2]>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Call(Function, Vec<Self>),
    Matches(Box<Self>, Pattern),
    Comprehension(Box<Comprehension>),
}

/// A value that is written out.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Str(Box<str>),
    Bytes(Box<[u8]>),
}

/// What every event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Channel,
    Origin,
    Key,
    Headers,
    Time,
    Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Double,
}

/// `range.all(x, body)` and its like.
#[derive(Clone, Debug)]
pub(super) struct Comprehension {
    pub(super) range: Expr,
    pub(super) fold: Fold,
    /// What is asked of each element.
    pub(super) test: Option<Expr>,
    /// What each element becomes, in a map.
    pub(super) to: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    /// `filter` and `map`: a list.
    Collect,
}

impl Expr {
    /// What it is, if it can be nothing that is true or false.
    pub(super) fn not_bool(&self) -> Option<&'static str> {
        use Binary::{Add, Divide, Multiply, Remainder, Subtract};
        Some(match self {
            Self::Literal(Literal::Bool(_)) => return None,
            Self::Literal(Literal::Null) => "null",
            Self::Literal(Literal::Int(_) | Literal::UInt(_) | Literal::Double(_))
            | Self::Name(Name::Time | Name::Size)
            | Self::Negate(_)
            | Self::Call(Function::Size | Function::Int | Function::Double, _)
            | Self::Binary(Subtract | Multiply | Divide | Remainder, _) => "a number",
            Self::Literal(Literal::Str(_) | Literal::Bytes(_))
            | Self::Name(Name::Channel | Name::Origin | Name::Key) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) | Self::Name(Name::Headers) => "a map",
            Self::Binary(Add, _) => "a sum",
            Self::Comprehension(comprehension) if comprehension.fold == Fold::Collect => "a list",
            _ => return None,
        })
    }
}
