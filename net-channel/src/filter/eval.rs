//! Evaluation: what it may cost is decided before, and paid step by step.

use std::cmp::Ordering;
use std::rc::Rc;

use crate::Event;
use crate::filter::expr::{Binary, Comprehension, Expr, Fold, Function, Name};
use crate::filter::json::Body;
use crate::filter::value::{Map, Text, Value, field, map};
use crate::filter::{COST_MAX, FilterMiss, Program};

/// What an evaluation may still cost: one unit for each node that is visited, each comparison within lists and maps,
/// and each 16 bytes that are compared, searched or copied.
#[derive(Debug)]
pub(super) struct Meter(usize);

/// Bytes that are read for one unit.
const BYTES_PER_UNIT: usize = 16;

impl Meter {
    pub(super) fn spend(&mut self, units: usize) -> Result<(), FilterMiss> {
        let left = self.0.checked_sub(units);
        // Once it is used up it stays so: whoever goes on after an error gets no further.
        self.0 = left.unwrap_or(0);
        left.map(|_| ()).ok_or(FilterMiss::TooCostly)
    }

    pub(super) fn spend_bytes(&mut self, bytes: usize) -> Result<(), FilterMiss> {
        self.spend(bytes / BYTES_PER_UNIT)
    }
}

type Evaluated<'a> = Result<Value<'a>, FilterMiss>;

/// One evaluation on one event.
struct Evaluation<'a> {
    program: &'a Program,
    event: &'a Event,
    /// Read when the first field is needed.
    body: Option<Result<Body<'a>, FilterMiss>>,
    /// Made when they are first needed: text and maps that are not in the event as they are wanted.
    origin: Option<Text<'a>>,
    headers: Option<Map<'a>>,
    element: Option<Value<'a>>,
    meter: Meter,
}

impl Program {
    /// Whether the event matches.
    pub(super) fn matches(&self, event: &Event) -> Result<bool, FilterMiss> {
        let mut evaluation = Evaluation {
            program: self,
            event,
            body: None,
            origin: None,
            headers: None,
            element: None,
            meter: Meter(COST_MAX),
        };
        evaluation.value(&self.root)?.bool()
    }
}

impl<'a> Evaluation<'a> {
    fn value(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        self.meter.spend(1)?;
        match expr {
            Expr::Literal(literal) => Ok(Value::of(literal)),
            Expr::Name(name) => self.name(*name),
            Expr::Body => self.body()?.whole.clone().ok_or(FilterMiss::Missing),
            Expr::Field(index) => self.body()?.fields[*index].clone().ok_or(FilterMiss::Missing),
            Expr::Element => self.element.clone().ok_or(FilterMiss::Missing),
            Expr::Select(of, name) => match self.value(of)? {
                Value::Map(map) => field(&map, name).cloned().ok_or(FilterMiss::Missing),
                _ => Err(FilterMiss::WrongType),
            },
            Expr::Has(of, name) => match self.value(of)? {
                Value::Map(map) => Ok(Value::Bool(field(&map, name).is_some())),
                _ => Err(FilterMiss::WrongType),
            },
            Expr::HasField(index) => Ok(Value::Bool(self.body()?.fields[*index].is_some())),
            Expr::Index(parts) => self.index(&parts[0], &parts[1]),
            Expr::Not(of) => Ok(Value::Bool(!self.value(of)?.bool()?)),
            Expr::Negate(of) => match self.value(of)? {
                Value::Int(n) => n.checked_neg().map(Value::Int).ok_or(FilterMiss::WrongType),
                Value::Double(n) => Ok(Value::Double(-n)),
                _ => Err(FilterMiss::WrongType),
            },
            Expr::Logic { is_or, sides } => {
                let left = self.truth(&sides[0]);
                self.logic(*is_or, left, &sides[1]).map(Value::Bool)
            }
            Expr::If(parts) => {
                let which = if self.value(&parts[0])?.bool()? { 1 } else { 2 };
                self.value(&parts[which])
            }
            Expr::Binary(binary, sides) => {
                let left = self.value(&sides[0])?;
                let right = self.value(&sides[1])?;
                self.binary(*binary, &left, &right)
            }
            Expr::List(elements) => {
                let values: Result<Vec<_>, _> = elements.iter().map(|element| self.value(element)).collect();
                Ok(Value::List(values?.into()))
            }
            Expr::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| match self.value(key)? {
                    Value::Str(name) => Ok((name, self.value(value)?)),
                    _ => Err(FilterMiss::WrongType),
                });
                let entries = entries.collect::<Result<Vec<_>, _>>()?;
                let (given, made) = (entries.len(), map(entries));
                // CEL has no map in which a name stands twice.
                if made.len() == given { Ok(Value::Map(made)) } else { Err(FilterMiss::WrongType) }
            }
            Expr::Call(function, arguments) => self.call(*function, arguments),
            Expr::Matches(of, pattern) => {
                let text = self.value(of)?;
                let text = text.text()?;
                self.meter.spend(text.len() * pattern.units_per_byte())?;
                Ok(Value::Bool(pattern.is_match(text)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn truth(&mut self, expr: &'a Expr) -> Result<bool, FilterMiss> {
        self.value(expr)?.bool()
    }

    /// `&&` and `||`: a side that decides counts even if the other cannot be computed.
    fn logic(&mut self, is_or: bool, left: Result<bool, FilterMiss>, right: &'a Expr) -> Result<bool, FilterMiss> {
        match left {
            Ok(b) if b == is_or => Ok(is_or),
            Err(FilterMiss::TooCostly) => left,
            left => match self.truth(right) {
                Ok(b) if b == is_or => Ok(is_or),
                Ok(_) => left,
                Err(FilterMiss::TooCostly) => Err(FilterMiss::TooCostly),
                // The first thing that was wrong is told.
                Err(error) => left.and(Err(error)),
            },
        }
    }

    fn body(&mut self) -> Result<&Body<'a>, FilterMiss> {
        let (event, program) = (self.event, self.program);
        self.body.get_or_insert_with(|| Body::read(event.payload(), program)).as_ref().map_err(|miss| *miss)
    }

    fn name(&mut self, name: Name) -> Evaluated<'a> {
        let event = self.event;
        Ok(match name {
            Name::Channel => Value::Str(Text::Borrowed(event.channel().as_str())),
            Name::Origin => {
                let origin = self.origin.get_or_insert_with(|| Text::Made(event.origin().to_string().into()));
                Value::Str(origin.clone())
            }
            Name::Key => {
                self.meter.spend_bytes(event.key().map_or(0, <[u8]>::len))?;
                event.key().map_or(Value::Null, Value::text_or_bytes)
            }
            Name::Headers => Value::Map(self.headers.get_or_insert_with(|| headers(event)).clone()),
            Name::Time => Value::Int(i64::try_from(event.time().unix_ms()).unwrap_or(i64::MAX)),
            Name::Size => Value::Int(i64::try_from(event.payload().len()).unwrap_or(i64::MAX)),
        })
    }

    fn index(&mut self, of: &'a Expr, index: &'a Expr) -> Evaluated<'a> {
        let (of, index) = (self.value(of)?, self.value(index)?);
        let found = match (&of, &index) {
            (Value::Map(map), Value::Str(name)) => {
                self.meter.spend_bytes(name.len())?;
                field(map, name)
            }
            (Value::List(list), index) => list.get(position(index)?),
            _ => return Err(FilterMiss::WrongType),
        };
        found.cloned().ok_or(FilterMiss::Missing)
    }

    fn binary(&mut self, binary: Binary, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
        let is = |of: fn(Ordering) -> bool, ordering: Option<Ordering>| Ok(Value::Bool(ordering.is_some_and(of)));
        let meter = &mut self.meter;
        match binary {
            Binary::Equal => left.equals(right, meter).map(Value::Bool),
            Binary::NotEqual => left.equals(right, meter).map(|equal| Value::Bool(!equal)),
            Binary::Less => is(Ordering::is_lt, left.compare(right, meter)?),
            Binary::LessEqual => is(Ordering::is_le, left.compare(right, meter)?),
            Binary::Greater => is(Ordering::is_gt, left.compare(right, meter)?),
            Binary::GreaterEqual => is(Ordering::is_ge, left.compare(right, meter)?),
            Binary::In => match (right, left) {
                (Value::List(list), _) => {
                    for element in list.iter() {
                        if element.equals(left, meter)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                (Value::Map(map), Value::Str(name)) => {
                    meter.spend_bytes(name.len())?;
                    Ok(Value::Bool(field(map, name).is_some()))
                }
                _ => Err(FilterMiss::WrongType),
            },
            Binary::Add => self.add(left, right),
            _ => number(binary, left, right),
        }
    }

    fn add(&mut self, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
        match (left, right) {
            (Value::Str(a), Value::Str(b)) => {
                self.meter.spend_bytes(a.len() + b.len())?;
                Ok(Value::Str(Text::Made([&**a, &**b].concat().into())))
            }
            (Value::List(a), Value::List(b)) => {
                self.meter.spend(a.len() + b.len())?;
                Ok(Value::List(a.iter().chain(b.iter()).cloned().collect()))
            }
            _ => number(Binary::Add, left, right),
        }
    }

    fn call(&mut self, function: Function, arguments: &'a [Expr]) -> Evaluated<'a> {
        let first = self.value(&arguments[0])?;
        match function {
            Function::Size => {
                let size = match &first {
                    Value::Str(text) => {
                        self.meter.spend_bytes(text.len())?;
                        text.chars().count()
                    }
                    Value::Bytes(bytes) => bytes.len(),
                    Value::List(list) => list.len(),
                    Value::Map(map) => map.len(),
                    _ => return Err(FilterMiss::WrongType),
                };
                Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
            }
            Function::Contains | Function::StartsWith | Function::EndsWith => {
                let second = self.value(&arguments[1])?;
                let (text, part) = (first.text()?, second.text()?);
                self.meter.spend_bytes(text.len() + part.len())?;
                Ok(Value::Bool(match function {
                    Function::Contains => text.contains(part),
                    Function::StartsWith => text.starts_with(part),
                    _ => text.ends_with(part),
                }))
            }
            Function::Int => int(&first),
            Function::Double => match &first {
                Value::Str(text) => text.parse().map(Value::Double).map_err(|_| FilterMiss::WrongType),
                value => double(value).map(Value::Double).ok_or(FilterMiss::WrongType),
            },
        }
    }

    fn comprehension(&mut self, comprehension: &'a Comprehension) -> Evaluated<'a> {
        let elements: Rc<[Value<'a>]> = match self.value(&comprehension.range)? {
            Value::List(list) => list,
            Value::Map(map) => map.iter().map(|(name, _)| Value::Str(name.clone())).collect(),
            _ => return Err(FilterMiss::WrongType),
        };
        self.meter.spend(elements.len())?;
        let folded = self.fold(comprehension, &elements);
        self.element = None;
        folded
    }

    fn fold(&mut self, comprehension: &'a Comprehension, elements: &[Value<'a>]) -> Evaluated<'a> {
        let Comprehension { fold, test, to, .. } = comprehension;
        let mut collected = Vec::new();
        let mut so_far = Ok(*fold == Fold::All);
        let mut found = 0_u32;
        for element in elements {
            self.element = Some(element.clone());
            match (fold, test) {
                (Fold::All | Fold::Exists, Some(test)) => {
                    let is_or = *fold == Fold::Exists;
                    so_far = self.logic(is_or, so_far, test);
                    if so_far == Ok(is_or) || so_far == Err(FilterMiss::TooCostly) {
                        break;
                    }
                }
                (Fold::ExistsOne, Some(test)) => found += u32::from(self.truth(test)?),
                (_, Some(test)) if !self.truth(test)? => {}
                _ => collected.push(match to {
                    Some(to) => self.value(to)?,
                    None => element.clone(),
                }),
            }
        }
        match fold {
            Fold::All | Fold::Exists => so_far.map(Value::Bool),
            Fold::ExistsOne => Ok(Value::Bool(found == 1)),
            Fold::Collect => Ok(Value::List(collected.into())),
        }
    }
}

/// Of headers of one name the first counts, as everywhere.
fn headers(event: &Event) -> Map<'_> {
    let header = |(name, value)| (Text::Borrowed(name), Value::text_or_bytes(value));
    let mut headers: Vec<_> = event.headers().iter().map(header).collect();
    headers.reverse();
    map(headers)
}

/// A place in a list. JSON does not say whether a number is whole, so a double that is one will do.
fn position(index: &Value<'_>) -> Result<usize, FilterMiss> {
    match int(index)? {
        Value::Int(n) if !matches!(index, Value::Str(_)) && double(index) == double(&Value::Int(n)) => {
            usize::try_from(n).map_err(|_| FilterMiss::Missing)
        }
        _ => Err(FilterMiss::WrongType),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn int<'a>(value: &Value<'_>) -> Evaluated<'a> {
    let n = match value {
        Value::Int(n) => Some(*n),
        Value::UInt(n) => i64::try_from(*n).ok(),
        // 2^63 itself is the first that is too large, and is a double.
        Value::Double(n) if *n > i64::MIN as f64 && *n < i64::MAX as f64 => Some(*n as i64),
        Value::Str(text) => text.parse().ok(),
        _ => None,
    };
    n.map(Value::Int).ok_or(FilterMiss::WrongType)
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(n) => Some(*n),
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(*n as f64),
        _ => None,
    }
}

/// Arithmetic. JSON does not say whether `4` is whole or a double without a fraction, so the kinds mix, as they do in
/// comparisons; what does not fit into 64 bits is nothing.
fn number<'a>(binary: Binary, left: &Value<'_>, right: &Value<'_>) -> Evaluated<'a> {
    let value = match (left, right) {
        (Value::Int(a), Value::Int(b)) => match binary {
            Binary::Add => a.checked_add(*b),
            Binary::Subtract => a.checked_sub(*b),
            Binary::Multiply => a.checked_mul(*b),
            Binary::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Value::Int),
        (Value::UInt(a), Value::UInt(b)) => match binary {
            Binary::Add => a.checked_add(*b),
            Binary::Subtract => a.checked_sub(*b),
            Binary::Multiply => a.checked_mul(*b),
            Binary::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Value::UInt),
        (Value::Double(_), _) | (_, Value::Double(_)) => match (double(left), double(right)) {
            (Some(a), Some(b)) => match binary {
                Binary::Add => Some(a + b),
                Binary::Subtract => Some(a - b),
                Binary::Multiply => Some(a * b),
                Binary::Divide => Some(a / b),
                _ => None,
            }
            .map(Value::Double),
            _ => None,
        },
        _ => None,
    };
    value.ok_or(FilterMiss::WrongType)
}
