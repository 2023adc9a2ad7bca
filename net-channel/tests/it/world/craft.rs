//! Batches made by hand: as a producer makes them, or otherwise.

use net_channel::{BatchBuilder, BatchHash, ChannelHash, Hlc, Parent, SealParams, SealedBatch, SenderKey};
use net_transport::{MeshId, NodeKeys};

/// All that a batch of this world says besides its events.
#[derive(Clone)]
pub struct Craft {
    pub mesh: MeshId,
    pub channel: ChannelHash,
    pub signer: NodeKeys,
    pub key: SenderKey,
    pub seq: u64,
    pub incarnation: u64,
    pub prev: BatchHash,
    pub parents: Vec<Parent>,
    pub realtime: bool,
    pub salt: [u8; 16],
    pub unix_ms: u64,
}

impl Craft {
    /// The batch of these payloads.
    pub fn seal(&self, payloads: &[&[u8]]) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for payload in payloads {
            builder.push(payload, None, &[], Hlc::new(self.unix_ms, 0)).expect("small");
        }
        let sealed = builder.seal(&SealParams {
            incarnation: self.incarnation,
            prev: self.prev,
            parents: &self.parents,
            realtime: self.realtime,
            ..SealParams::first(&self.mesh, &self.channel, &self.signer, &self.key, self.seq, self.salt)
        });
        sealed.expect("a key in memory signs")
    }

    /// The bytes of the batch of one payload, as they go over a link.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        self.seal(&[payload]).frame().to_vec()
    }
}
