//! Typed payloads: how a value becomes the payload of an event, and back.

use std::error::Error;

use bytes::Bytes;

/// How values of `T` become payloads. Implement it for a format of your own.
pub trait Codec<T>: Send + Sync + 'static {
    /// Appends the payload of this value.
    ///
    /// # Errors
    /// [`CodecError::Encode`] if the format cannot hold it.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value of this payload.
    ///
    /// # Errors
    /// [`CodecError::Decode`] if the payload is none of this type, or has bytes after it.
    fn decode(payload: &Bytes) -> Result<T, CodecError>;
}

/// Why a value and a payload do not go together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The caller's value cannot be written in this format.
    #[error("the value cannot be encoded")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// The payload, which came from elsewhere, is no such value.
    #[error("the payload is no value of this type")]
    Decode(#[source] Box<dyn Error + Send + Sync>),
}

/// Payloads in [postcard](https://postcard.jamesmunns.com): compact, for types with serde's traits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Postcard {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let buffer = std::mem::take(out);
        *out = postcard::to_extend(value, buffer).map_err(|e| CodecError::Encode(e.into()))?;
        Ok(())
    }

    fn decode(payload: &Bytes) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(payload).map_err(|e| CodecError::Decode(e.into()))?;
        if !rest.is_empty() {
            return Err(CodecError::Decode("bytes after the value".into()));
        }
        Ok(value)
    }
}

/// Payloads in JSON: readable by everything, and by filters on the body.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Json {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(|e| CodecError::Encode(e.into()))
    }

    fn decode(payload: &Bytes) -> Result<T, CodecError> {
        serde_json::from_slice(payload).map_err(|e| CodecError::Decode(e.into()))
    }
}

/// Payloads as [rkyv](https://rkyv.org) archives: read where they lie, without decoding.
#[cfg(feature = "rkyv")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rkyv;

#[cfg(feature = "rkyv")]
mod archive {
    use bytes::Bytes;
    use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
    use rkyv::bytecheck::CheckBytes;
    use rkyv::rancor;
    use rkyv::ser::allocator::ArenaHandle;
    use rkyv::util::AlignedVec;
    use rkyv::{Archive, Deserialize, Portable, Serialize};

    use super::{Codec, CodecError, Rkyv};

    impl<T> Codec<T> for Rkyv
    where
        T: Archive + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
        T::Archived:
            for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<T, HighDeserializer<rancor::Error>>,
    {
        fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
            let bytes = rkyv::to_bytes::<rancor::Error>(value).map_err(|e| CodecError::Encode(e.into()))?;
            out.extend_from_slice(&bytes);
            Ok(())
        }

        fn decode(payload: &Bytes) -> Result<T, CodecError> {
            Self::with_archived::<T::Archived, _>(payload, |archived| {
                rkyv::deserialize::<T, rancor::Error>(archived).map_err(|e| CodecError::Decode(e.into()))
            })?
        }
    }

    impl Rkyv {
        /// Gives the archived value to `read`: in place where the payload lies aligned, as those of events do unless the
        /// type asks for more than 8 bytes; else in a copy.
        ///
        /// # Errors
        /// [`CodecError::Decode`] if the payload is no archive of this type. Every byte of it is checked first.
        pub fn with_archived<A, R>(payload: &[u8], read: impl FnOnce(&A) -> R) -> Result<R, CodecError>
        where
            A: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>,
        {
            let decode = |e: rancor::Error| CodecError::Decode(e.into());
            if payload.as_ptr().addr().is_multiple_of(align_of::<A>()) {
                return Ok(read(rkyv::access::<A, rancor::Error>(payload).map_err(decode)?));
            }
            let mut aligned = AlignedVec::<16>::with_capacity(payload.len());
            aligned.extend_from_slice(payload);
            Ok(read(rkyv::access::<A, rancor::Error>(&aligned).map_err(decode)?))
        }
    }
}
