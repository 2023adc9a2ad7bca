//! Fixed keys, names and salts, so that every run makes the same bytes.

use net_channel::{BatchBuilder, BatchHash, ChannelHash, ChannelName, Hlc, Parent, SealParams, SealedBatch, SenderKey};
use net_identity::{EntityId, EntityKey};
use net_transport::{MeshId, Priority, ShortId, Visibility};

pub(crate) struct Fixture {
    pub(crate) mesh: MeshId,
    pub(crate) name: ChannelName,
    pub(crate) channel: ChannelHash,
    pub(crate) signer: EntityKey,
    pub(crate) origin: EntityId,
    pub(crate) sender_key: SenderKey,
}

impl Fixture {
    pub(crate) fn new() -> Self {
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

    /// The second batch of an incarnation, without parents.
    pub(crate) fn params(&self) -> SealParams<'_> {
        SealParams {
            mesh: &self.mesh,
            channel: &self.channel,
            signer: &self.signer,
            sender_key: &self.sender_key,
            seq: 1_005,
            incarnation: 1_000,
            prev: BatchHash([0x44; 32]),
            parents: &[],
            parents_cut: false,
            salt: [0x55; 16],
            visibility: Visibility::Global,
            priority: Priority::Normal,
            realtime: false,
            subnet: [3, 7, 2, 0],
            aead: net_transport::Aead::ChaCha20Poly1305,
            cap: [0; 4],
        }
    }

    /// One event, `hello`.
    pub(crate) fn small(&self) -> SealedBatch {
        builder(&[b"hello"]).seal(&self.params()).expect("it can be sealed")
    }

    /// Parses, verifies.
    pub(crate) fn verify(&self, frame: &[u8]) -> Result<SealedBatch, net_channel::BatchError> {
        SealedBatch::verify(frame.to_vec().into(), &self.mesh, &self.channel, &self.origin)
    }
}

pub(crate) const TIME: Hlc = Hlc::new(1_800_000_000_000, 3);

pub(crate) fn builder(payloads: &[&[u8]]) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for (i, payload) in payloads.iter().enumerate() {
        let time = Hlc(TIME.0 + i as u64);
        assert_eq!(builder.push(payload, None, &[], time), Ok(i));
    }
    builder
}

/// `n` parents of other origins, not in the order of the format.
pub(crate) fn parents(n: u8) -> Vec<Parent> {
    (0..n)
        .rev()
        .map(|i| Parent { origin: ShortId([i, 1, 2, 3, 4, 5, 6, 7]), seq: 100 + u64::from(i), hash: [i ^ 0xa5; 8] })
        .collect()
}
