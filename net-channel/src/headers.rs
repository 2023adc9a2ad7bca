//! Named values beside the payload of an event.

use bytes::{BufMut, Bytes};

/// The most bytes of all headers of one event, as encoded: 3 bytes and the name and the value of each.
pub const HEADERS_LEN_MAX: usize = 16 << 10;
/// The most bytes of a header's name.
pub const HEADER_NAME_LEN_MAX: usize = 255;

/// Why headers cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// A name that is empty or too long.
    #[error("a header's name has 1 to {HEADER_NAME_LEN_MAX} bytes, and {name:?} has {}", .name.len())]
    Name {
        /// The name.
        name: String,
    },
    /// Together they are too large.
    #[error("headers of {len} bytes in all; the limit is {HEADERS_LEN_MAX}")]
    TooLarge {
        /// Bytes of all headers, as encoded.
        len: usize,
    },
}

/// Headers, encoded: pairs of a name and a value. The order is kept and names may repeat.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Bytes);

impl Headers {
    /// No headers.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Encodes headers.
    ///
    /// # Errors
    /// [`HeadersError`] if a name is empty or longer than 255 bytes, or all are larger than 16 KiB.
    pub fn new(headers: &[(&str, &[u8])]) -> Result<Self, HeadersError> {
        let mut out = Vec::with_capacity(encoded_len(headers)?);
        encode(headers, &mut out);
        Ok(Self(out.into()))
    }

    /// A view of them.
    #[must_use]
    pub fn as_ref(&self) -> HeadersRef<'_> {
        HeadersRef(&self.0)
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Headers that lie in a batch or in [`Headers`]; reading them allocates nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadersRef<'a>(&'a [u8]);

impl<'a> HeadersRef<'a> {
    /// `None` if these bytes are no headers.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > HEADERS_LEN_MAX {
            return None;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split_first(rest)?;
        }
        Some(Self(bytes))
    }

    /// Headers that have been parsed before.
    pub(crate) fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The pairs, in their order.
    #[must_use]
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }

    /// The value of the first header of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they are encoded.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> IntoIterator for HeadersRef<'a> {
    type Item = Pair<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for HeadersRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.len()))).finish()
    }
}

/// The pairs of [`HeadersRef`], in their order.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a>(&'a [u8]);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (pair, rest) = split_first(self.0)?;
        self.0 = rest;
        Some(pair)
    }
}

/// A name and a value.
type Pair<'a> = (&'a str, &'a [u8]);

/// `name len u8 ‖ value len u16 ‖ name ‖ value`, and what follows.
fn split_first(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (&[name_len, low, high], rest) = bytes.split_first_chunk::<3>()?;
    let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    if name.is_empty() {
        return None;
    }
    Some(((std::str::from_utf8(name).ok()?, value), rest))
}

/// Bytes of these headers once they are encoded.
pub(crate) fn encoded_len(headers: &[(&str, &[u8])]) -> Result<usize, HeadersError> {
    let mut len = 0_usize;
    for (name, value) in headers {
        if name.is_empty() || name.len() > HEADER_NAME_LEN_MAX {
            return Err(HeadersError::Name { name: (*name).to_owned() });
        }
        len = len.saturating_add(3 + name.len() + value.len());
    }
    if len > HEADERS_LEN_MAX {
        return Err(HeadersError::TooLarge { len });
    }
    Ok(len)
}

/// Appends headers whose length has been checked.
pub(crate) fn encode(headers: &[(&str, &[u8])], out: &mut impl BufMut) {
    for (name, value) in headers {
        out.put_u8(u8::try_from(name.len()).expect("checked by encoded_len"));
        let value_len = u16::try_from(value.len()).expect("checked by encoded_len");
        out.put_u16_le(value_len);
        out.put_slice(name.as_bytes());
        out.put_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_in_their_order() {
        let pairs: [(&str, &[u8]); 3] = [("b", b"1"), ("a", b""), ("b", b"two")];
        let headers = Headers::new(&pairs).expect("within the limits");
        assert_eq!(headers.as_ref().iter().collect::<Vec<_>>(), pairs);
        assert_eq!(headers.as_ref().value("b"), Some(&b"1"[..]));
        assert_eq!(headers.as_ref().value("c"), None);
        assert_eq!(HeadersRef::parse(headers.as_ref().as_bytes()), Some(headers.as_ref()));
        assert!(Headers::EMPTY.as_ref().is_empty());
    }

    #[test]
    fn limits_hold() {
        let long = "n".repeat(256);
        assert_eq!(Headers::new(&[("", b"")]), Err(HeadersError::Name { name: String::new() }));
        assert_eq!(Headers::new(&[(&long, b"")]), Err(HeadersError::Name { name: long.clone() }));
        let value = vec![0; HEADERS_LEN_MAX - 4];
        assert!(Headers::new(&[("n", &value)]).is_ok());
        assert_eq!(Headers::new(&[("nn", &value)]), Err(HeadersError::TooLarge { len: HEADERS_LEN_MAX + 1 }));
        assert!(Headers::new(&[("n", &vec![0; 1 << 20])]).is_err());
    }

    #[test]
    fn truncated_headers_and_names_that_are_no_text_are_refused() {
        let headers = Headers::new(&[("name", b"value"), ("n", b"v")]).expect("within the limits");
        let bytes = headers.as_ref().as_bytes();
        for len in 1..bytes.len() {
            assert_eq!(HeadersRef::parse(&bytes[..len]).is_some(), len == 12, "{len} bytes");
        }
        assert_eq!(HeadersRef::parse(&[1, 0, 0, 0xff]), None, "not UTF-8");
        assert_eq!(HeadersRef::parse(&[0, 0, 0]), None, "no name");
    }
}
