//! What the producers of the world do, the honest ones and the others.

use std::time::Duration;

use bytes::Bytes;
use net_channel::core::Cached;
use net_channel::{BatchHash, ChannelHash, Class, Equivocation, Parent, SealedBatch, SenderKey, SeqRange};
use net_identity::EntityId;
use net_transport::{NodeId, NodeKeys, Pair, Seed};

use super::{Craft, Happening, LATENCY_US, World};
use crate::oracle::Published;

impl World {
    /// Publishes one batch of these payloads.
    pub fn publish(&mut self, node: usize, channel: &str, payloads: &[&[u8]]) {
        self.publish_batch(node, channel, payloads, &[]);
    }

    /// Publishes one batch that names these causes, whether they exist or not.
    pub fn publish_after(&mut self, node: usize, channel: &str, payload: &[u8], after: &[Parent]) {
        self.publish_batch(node, channel, &[payload], after);
    }

    fn publish_batch(&mut self, node: usize, channel: &str, payloads: &[&[u8]], after: &[Parent]) {
        let Some(batch) = self.seal(node, channel, payloads, after) else { return };
        let id = self.order[node];
        self.publish_to(id, &self.pair(node, channel), batch.frame(), |_| true);
    }

    /// Signs two batches for one place. Half of the nodes get the one and half the other; the first of them gets both.
    pub fn equivocate(&mut self, node: usize, channel: &str) {
        let (pair, id) = (self.pair(node, channel), self.order[node]);
        if !self.nodes[&id].producers.contains_key(&pair) {
            return;
        }
        let craft = self.next_batch(node, channel);
        self.ledger.disputed.insert(pair, SeqRange { from: craft.seq, to: craft.incarnation + (1 << 40) });
        self.totals.equivocations += 1;
        let other = craft.seal(&[b"other"]);
        let Some(one) = self.seal(node, channel, &[b"one"], &[]) else { return };
        let nodes: Vec<NodeId> = self.order.iter().copied().filter(|n| *n != id).collect();
        let (evens, first) = (nodes.iter().copied().step_by(2).collect::<Vec<_>>(), nodes[0]);
        self.publish_to(id, &pair, one.frame(), |to| evens.contains(to));
        self.publish_to(id, &pair, other.frame(), |to| !evens.contains(to));
        for batch in [one, other] {
            self.arrive(first, batch.frame().to_vec());
        }
    }

    /// A neighbour sends a node a batch that claims to be another's last or next one, signed by the neighbour.
    pub fn forge(&mut self, victim: usize, channel: &str, to: usize) {
        let (pair, id) = (self.pair(victim, channel), self.order[victim]);
        if !self.nodes[&id].producers.contains_key(&pair) {
            return;
        }
        let mut craft = self.next_batch(victim, channel);
        craft.signer = NodeKeys::from_seed(&Seed::new(self.rng.bytes()));
        craft.seq -= u64::from(craft.seq > craft.incarnation);
        let mut frame = craft.frame(b"forged");
        frame[16..24].copy_from_slice(&EntityId::from_bytes(pair.origin).short().0);
        self.totals.forged += 1;
        self.arrive(self.order[to], frame);
    }

    /// Proof that a node signed two batches for one place in an incarnation of its making.
    pub fn prove(&mut self, node: usize, channel: &str, incarnation: u64) -> Vec<u8> {
        let prev = BatchHash::ZERO;
        let craft = Craft { seq: incarnation, incarnation, prev, ..self.next_batch(node, channel) };
        let (one, two) = (craft.seal(&[b"one"]), craft.seal(&[b"two"]));
        let proof = Equivocation::between(&self.mesh, one.seal(), two.seal());
        proof.expect("they contradict each other").to_bytes()
    }

    /// The producer seals with a new key, and nobody is told: the grants are lost on their way.
    pub fn rotate_silently(&mut self, node: usize, channel: &str) {
        let (pair, id, now) = (self.pair(node, channel), self.order[node], self.instant());
        let key = SenderKey::new(self.rng.bytes());
        let owner = self.node(&id);
        let keys = owner.keys.clone();
        let publisher = &mut owner.producers.get_mut(&pair).expect("opened before").publisher;
        publisher.rotate(key, now, 0, &keys).expect("keys sign");
    }

    /// What the next batch of a producer says, without parents.
    pub fn next_batch(&mut self, node: usize, channel: &str) -> Craft {
        let (pair, id) = (self.pair(node, channel), self.order[node]);
        let salt = self.rng.bytes();
        let unix_ms = u64::try_from(self.now.as_millis()).expect("short runs");
        let owner = &self.nodes[&id];
        let producer = owner.producers.get(&pair).expect("opened before");
        let publisher = &producer.publisher;
        Craft {
            mesh: self.mesh,
            channel: ChannelHash(pair.channel),
            signer: owner.keys.clone(),
            key: publisher.key().clone(),
            seq: publisher.next(),
            incarnation: publisher.incarnation(),
            prev: publisher.head(),
            parents: vec![],
            realtime: producer.class == Class::Realtime,
            salt,
            unix_ms,
        }
    }

    /// The next batch of a producer, in its cache and in the ledger.
    fn seal(&mut self, node: usize, channel: &str, payloads: &[&[u8]], after: &[Parent]) -> Option<SealedBatch> {
        let (pair, id, now) = (self.pair(node, channel), self.order[node], self.instant());
        if !self.nodes[&id].alive {
            return None;
        }
        let mut craft = self.next_batch(node, channel);
        if !craft.realtime {
            let origin = EntityId::from_bytes(pair.origin);
            craft.parents = self.nodes[&id].given.take_parents(&pair.channel, &origin, 255).0;
            craft.parents.retain(|parent| after.iter().all(|after| after.origin != parent.origin));
            craft.parents.extend(after);
        }
        let sealed = craft.seal(payloads);
        // The first event of the batch has what the applications took since the one before it as its causes.
        let mut causes = self.node(&id).clocks.remove(&pair.channel).unwrap_or_default();
        for (seq, payload) in (craft.seq..).zip(payloads) {
            let event = Published { payload: payload.to_vec(), causes: std::mem::take(&mut causes) };
            self.ledger.publish(pair, seq, event);
        }
        let range = SeqRange { from: craft.seq, to: sealed.seal().next_seq() };
        let publisher = &mut self.node(&id).producers.get_mut(&pair).expect("opened before").publisher;
        let cached = Cached { range, sealed_at: now, unix_ms: craft.unix_ms, frame: sealed.frame().clone() };
        publisher.sealed(cached, sealed.hash());
        if let Some(at) = publisher.poll_tick() {
            let boot = self.nodes[&id].boot;
            self.at(at - now, Happening::Tick { node: id, pair, boot });
        }
        Some(sealed)
    }

    pub(super) fn publish_to(
        &mut self,
        from: NodeId,
        pair: &Pair,
        frame: &Bytes,
        mut whom: impl FnMut(&NodeId) -> bool,
    ) {
        for to in self.joined.get(pair).cloned().unwrap_or_default() {
            if whom(&to) {
                self.carry(from, to, frame.clone());
            }
        }
    }

    /// A frame of anybody's making reaches a node.
    pub fn inject(&mut self, to: usize, frame: Vec<u8>) {
        self.arrive(self.order[to], frame);
    }

    fn arrive(&mut self, to: NodeId, frame: Vec<u8>) {
        let boot = self.nodes[&to].boot;
        self.at(Duration::from_micros(LATENCY_US), Happening::Frame { to, boot, frame: frame.into() });
    }
}
