//! The keys and names that signed inputs are of, the same in every run.

use net_channel::{BatchBuilder, BatchHash, ChannelHash, ChannelName, Hlc, SealParams, SenderKey};
use net_identity::{EntityId, EntityKey, Signer};
use net_transport::MeshId;

/// Who publishes what, and where.
#[derive(Debug)]
pub struct World {
    /// The mesh.
    pub mesh: MeshId,
    /// The channel's name.
    pub name: ChannelName,
    /// Its hash.
    pub channel: ChannelHash,
    /// The origin's key.
    pub signer: EntityKey,
    /// The origin.
    pub origin: EntityId,
    /// What its batches are sealed with.
    pub sender_key: SenderKey,
}

impl World {
    /// The one there is.
    #[must_use]
    pub fn new() -> Self {
        let mesh = MeshId([0x11; 32]);
        let name = ChannelName::parse("vehicles/fleet-7/telemetry").expect("a good name");
        let signer = EntityKey::from_secret(&[0x22; 32]);
        Self {
            mesh,
            channel: name.hash(&mesh),
            name,
            origin: signer.id(),
            signer,
            sender_key: SenderKey::new([0x33; 32]),
        }
    }

    /// Batches of the origin, one after the other, of one, two and three events in turn.
    #[must_use]
    pub fn chain(&self, count: u8) -> Vec<Vec<u8>> {
        let (mut seq, mut prev) = (1_000, BatchHash::ZERO);
        let batch = |number: u8| {
            let mut builder = BatchBuilder::new();
            let events = 1 + number % 3;
            for event in 0..events {
                builder.push(&[number, event], None, &[], Hlc(1 << 40)).expect("it fits");
            }
            let sealed = builder.seal(&SealParams {
                incarnation: 1_000,
                prev,
                ..SealParams::first(&self.mesh, &self.channel, &self.signer, &self.sender_key, seq, [number; 16])
            });
            let sealed = sealed.expect("a key in memory signs");
            (seq, prev) = (seq + u64::from(events), sealed.hash());
            sealed.frame().to_vec()
        };
        (0..count).map(batch).collect()
    }

    /// The origin's signature of these parts, one after the other.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 64] {
        self.signer.sign(&parts.concat()).expect("a key in memory signs")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes with one bit of `0..bits` changed, which one follows from `choice`; and which one it is.
#[must_use]
pub fn flipped(bytes: &[u8], choice: &[u8], bits: std::ops::Range<usize>) -> (Vec<u8>, usize) {
    let (random, _) =
        blake3::hash(choice).as_bytes().split_first_chunk().map(|(c, r)| (*c, r.len())).expect("32 bytes");
    let bit = bits.start + usize::from(u16::from_le_bytes(random)) % bits.len();
    let mut changed = bytes.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    (changed, bit)
}
