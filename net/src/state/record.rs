//! How a small file says what it is: `magic 7 ‖ version 1 ‖ postcard ‖ checksum 8`.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;

/// What a file's first 8 bytes say, and what is lost if it is.
pub(super) struct Format {
    pub(super) magic: [u8; 7],
    pub(super) version: u8,
    pub(super) loss: &'static str,
}

const HEAD_LEN: usize = 8;
const CHECKSUM_LEN: usize = 8;

impl Format {
    pub(super) fn encode(&self, value: &impl Serialize) -> Vec<u8> {
        let mut head = self.magic.to_vec();
        head.push(self.version);
        let mut bytes = postcard::to_extend(value, head).expect("a Vec grows and these types serialise");
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, path: &Path, bytes: &[u8]) -> Result<T, StateError> {
        let damaged = || StateError::Damaged { path: path.to_owned(), loss: self.loss };
        let body_end = bytes.len().checked_sub(CHECKSUM_LEN).filter(|end| *end >= HEAD_LEN).ok_or_else(damaged)?;
        let (body, sum) = bytes.split_at(body_end);
        if body[..7] != self.magic || sum != checksum(body) {
            return Err(damaged());
        }
        if body[7] != self.version {
            return Err(StateError::Version(path.to_owned()));
        }
        match postcard::take_from_bytes(&body[HEAD_LEN..]) {
            Ok((value, [])) => Ok(value),
            _ => Err(damaged()),
        }
    }
}

/// Against accidents, not against people: whoever can write the file can write its checksum.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}
