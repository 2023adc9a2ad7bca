//! Bounds of a node's subscriptions.

/// Bounds of this node's subscriptions. What is beyond them is not lost: it is asked for again when its turn comes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that wait for one subscription's application.
    pub queue_bytes_max: usize,
    /// Batches of one origin that wait for what is missing before them.
    pub held_batches_max: usize,
    /// Bytes of one origin's batches that wait so.
    pub held_bytes_max: usize,
    /// Batches of all origins of a channel that wait so, for one subscription.
    pub channel_batches_max: usize,
    /// Bytes of them.
    pub channel_bytes_max: usize,
    /// (Channel, origin) pairs that this node follows.
    pub feeds_max: usize,
    /// Adverts of other nodes that this node remembers.
    pub adverts_max: usize,
    /// Pairs of which this node keeps proofs of equivocation.
    pub proofs_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 8 << 20,
            held_batches_max: 512,
            held_bytes_max: 2 << 20,
            channel_batches_max: 4_096,
            channel_bytes_max: 16 << 20,
            feeds_max: 65_536,
            adverts_max: 131_072,
            proofs_max: 4_096,
        }
    }
}
