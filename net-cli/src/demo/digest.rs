//! What came on a channel, as one hash: so that two replays can be compared byte by byte.

use std::collections::BTreeMap;

use net::Event;

/// Hashes of everything that came, by channel and origin.
///
/// Events of one origin are hashed in the order in which they came. Between origins only causes have an order, so the hash
/// of a channel is that of its origins' hashes, in the order of the origins.
#[derive(Default)]
pub(crate) struct Digests(BTreeMap<String, BTreeMap<[u8; 32], blake3::Hasher>>);

impl Digests {
    pub(crate) fn take(&mut self, event: &Event) {
        let origins = self.0.entry(event.channel().to_string()).or_default();
        let hasher = origins.entry(*event.origin().as_bytes()).or_default();
        hasher.update(&event.seq().to_le_bytes());
        for part in [event.key().unwrap_or_default(), event.payload(), event.headers().as_bytes()] {
            // With their lengths, so that no two events have the same bytes.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        for parent in event.parents().iter() {
            hasher.update(parent.origin.to_string().as_bytes());
            hasher.update(&parent.seq.to_le_bytes()).update(&parent.hash);
        }
    }

    /// The hash of each channel.
    pub(crate) fn finish(&self) -> BTreeMap<String, String> {
        let channel = |origins: &BTreeMap<[u8; 32], blake3::Hasher>| {
            let mut all = blake3::Hasher::new();
            for (origin, hasher) in origins {
                all.update(origin).update(hasher.finalize().as_bytes());
            }
            all.finalize().to_hex().to_string()
        };
        self.0.iter().map(|(name, origins)| (name.clone(), channel(origins))).collect()
    }
}
