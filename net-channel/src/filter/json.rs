//! The payload's JSON, read as far as a filter needs it.

use std::fmt;
use std::rc::Rc;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::filter::value::{Text, Value, map};
use crate::filter::{FilterMiss, JSON_LEN_MAX, Program};

/// What a filter refers to in a payload.
#[derive(Debug)]
pub(super) struct Body<'a> {
    /// All of it, if the filter needs it whole.
    pub(super) whole: Option<Value<'a>>,
    /// The fields that the filter names, in its order.
    pub(super) fields: Vec<Option<Value<'a>>>,
}

impl<'a> Body<'a> {
    /// Reads a payload; what the filter does not refer to is checked and skipped.
    pub(super) fn read(payload: &'a [u8], program: &Program) -> Result<Self, FilterMiss> {
        if payload.len() > JSON_LEN_MAX {
            return Err(FilterMiss::Unreadable);
        }
        let mut json = serde_json::Deserializer::from_slice(payload);
        let seed = Top { names: &program.fields, whole: program.whole_body };
        let body = seed.deserialize(&mut json).and_then(|body| json.end().map(|()| body));
        body.map_err(|_| FilterMiss::Unreadable)
    }
}

/// The top of the payload.
struct Top<'n> {
    names: &'n [Box<str>],
    whole: bool,
}

impl<'a> DeserializeSeed<'a> for Top<'_> {
    type Value = Body<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Body<'a>, D::Error> {
        if !self.whole {
            return deserializer.deserialize_any(self);
        }
        let whole = Any.deserialize(deserializer)?;
        let fields = match &whole {
            Value::Map(map) => self.names.iter().map(|name| super::value::field(map, name).cloned()).collect(),
            _ => vec![None; self.names.len()],
        };
        Ok(Body { whole: Some(whole), fields })
    }
}

impl<'a> Visitor<'a> for Top<'_> {
    type Value = Body<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut access: A) -> Result<Body<'a>, A::Error> {
        let mut fields = vec![None; self.names.len()];
        while let Some(index) = access.next_key_seed(NameOf(self.names))? {
            match index {
                Some(index) => fields[index] = Some(access.next_value_seed(Any)?),
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Body { whole: None, fields })
    }

    // Whatever else it is, it has no fields.

    fn visit_seq<A: SeqAccess<'a>>(self, mut access: A) -> Result<Body<'a>, A::Error> {
        while access.next_element::<IgnoredAny>()?.is_some() {}
        self.without_fields()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Body<'a>, E> {
        self.without_fields()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Body<'a>, E> {
        self.without_fields()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Body<'a>, E> {
        self.without_fields()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Body<'a>, E> {
        self.without_fields()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Body<'a>, E> {
        self.without_fields()
    }

    fn visit_unit<E: de::Error>(self) -> Result<Body<'a>, E> {
        self.without_fields()
    }
}

impl Top<'_> {
    fn without_fields<'a, E>(self) -> Result<Body<'a>, E> {
        Ok(Body { whole: None, fields: vec![None; self.names.len()] })
    }
}

/// Which of the names a key is.
struct NameOf<'n>(&'n [Box<str>]);

impl<'a> DeserializeSeed<'a> for NameOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|name| **name == *key))
    }
}

/// Any JSON as a value. The depth is bounded by serde_json.
struct Any;

impl<'a> DeserializeSeed<'a> for Any {
    type Value = Value<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Value<'a>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Any {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value<'a>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, b: bool) -> Result<Value<'a>, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Value<'a>, E> {
        Ok(Value::Int(n))
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Value<'a>, E> {
        Ok(i64::try_from(n).map_or(Value::UInt(n), Value::Int))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Value<'a>, E> {
        Ok(Value::Double(n))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'a str) -> Result<Value<'a>, E> {
        Ok(Value::Str(Text::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value<'a>, E> {
        Ok(Value::Str(Text::Made(Rc::from(text))))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut access: A) -> Result<Value<'a>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(Self)? {
            elements.push(element);
        }
        Ok(Value::List(elements.into()))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut access: A) -> Result<Value<'a>, A::Error> {
        let mut entries = Vec::new();
        while let Some(Value::Str(name)) = access.next_key_seed(Self)? {
            entries.push((name, access.next_value_seed(Self)?));
        }
        Ok(Value::Map(map(entries)))
    }
}
