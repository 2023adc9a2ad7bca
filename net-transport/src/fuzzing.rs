//! Decoders of this crate that only fuzzers reach from outside: compiled with `--cfg fuzzing` and never otherwise.

use crate::MeshId;
use crate::directory::record::{ADDRESSES_MAX, UnverifiedRecord};
use crate::link::control::{Message, parse_path, parse_reason};

/// Reads one message of a control stream, without its length, and what is inside it, as a link does. Tells whether it is
/// a message.
///
/// # Panics
/// If a message is read differently from how it is written: that is a bug.
#[must_use]
pub fn control(bytes: &[u8]) -> bool {
    let Ok(message) = Message::parse(bytes) else { return false };
    let mut written = Vec::new();
    message.encode(&mut written);
    let (len, body) = written.split_first_chunk().expect("a length comes first");
    assert_eq!(usize::from(u16::from_le_bytes(*len)), body.len(), "the length is wrong");
    // Numbers may come longer than they need be; they are written as short as can be.
    assert!(body.len() <= bytes.len(), "a message grows when it is written");
    assert_eq!(Message::parse(body), Ok(message), "a message is read differently from how it was written");
    match message {
        Message::Hello(hello) => {
            if let Some(address) = hello.observed.dialable() {
                assert_ne!(address.port(), 0, "nobody can dial port 0");
            }
        }
        Message::Record { record, .. } => {
            if let Ok(record) = UnverifiedRecord::parse(record)
                && let Ok(record) = record.verify(&MESH, None)
            {
                assert!(record.addresses.len() <= ADDRESSES_MAX, "more addresses than a record has");
            }
        }
        Message::Joined { path, .. } => {
            if let Ok(ids) = parse_path(path) {
                assert_eq!(ids.len() * 8, path.len(), "a part of the path is lost");
            }
        }
        Message::Unjoined { reason, .. } => {
            if let Ok(known) = parse_reason(reason) {
                assert_eq!(known as u8, reason, "a reason is read as another");
            }
        }
        _ => {}
    }
    true
}

/// The mesh of records.
const MESH: MeshId = MeshId([5; 32]);
