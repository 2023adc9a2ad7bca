//! The oracle at work: what each subscription is handed is checked at once, and at the end whether it was all.

use std::time::Duration;

use net_channel::SeqRange;
use net_channel::core::Delivery;
use net_transport::{NodeId, Pair};

use super::World;
use crate::oracle::Facts;

impl World {
    /// Checks what is delivered.
    pub(super) fn witness(&mut self, id: NodeId, sub: u64, delivery: &Delivery) {
        let Some(app) = self.node(&id).apps.get_mut(&sub) else { return };
        let mut witness = std::mem::take(&mut app.witness);
        let facts = FactsOf { world: self, node: id };
        let result = witness.take(&self.ledger, &facts, delivery);
        let (at, place) = (self.now, self.order.iter().position(|n| *n == id).expect("a node"));
        self.node(&id).apps.get_mut(&sub).expect("looked up above").witness = witness;
        if let Err(error) = result {
            self.failure.get_or_insert_with(|| format!("node {place} at {at:?}: {error}"));
        }
    }

    /// Everything must have come to this subscription, or been named.
    pub fn complete(&self, node: usize, sub: u64) -> Result<(), String> {
        let id = self.order[node];
        let facts = FactsOf { world: self, node: id };
        let witness = &self.nodes[&id].apps[&sub].witness;
        // A contradiction of which no living node has seen both sides cannot be told.
        let proved = |pair: &Pair| self.nodes.values().any(|node| !node.subscriptions.proofs(pair).is_empty());
        let pairs = self.ledger.events.keys().filter(|pair| !self.ledger.disputed.contains_key(*pair) || proved(pair));
        pairs.into_iter().try_for_each(|pair| {
            let place = self.order.iter().position(|n| n.as_bytes() == &pair.origin).expect("a node");
            witness
                .complete(&self.ledger, &facts, pair)
                .map_err(|error| format!("node {node}, origin {place}: {error}"))
        })
    }
}

/// What the world can say about one node's subscriptions.
struct FactsOf<'a> {
    world: &'a World,
    node: NodeId,
}

impl Facts for FactsOf<'_> {
    fn knows(&self, pair: &Pair) -> bool {
        self.world.nodes[&self.node].known.contains(pair)
    }

    fn start(&self, pair: &Pair) -> Option<u64> {
        self.world.nodes[&self.node].starts.get(pair).copied()
    }

    fn has(&self, pair: &Pair, range: SeqRange) -> bool {
        let owner = &self.world.nodes[&NodeId::from_bytes(pair.origin)];
        owner.producers.get(pair).is_some_and(|producer| producer.publisher.has(range))
    }

    fn reachable(&self, pair: &Pair) -> Duration {
        let (a, b) = (self.node, NodeId::from_bytes(pair.origin));
        let begin = self.world.now.saturating_sub(Duration::from_secs(5));
        let (mut longest, mut since) = (Duration::ZERO, begin);
        for (from, to) in self.world.apart.get(&(a.min(b), a.max(b))).into_iter().flatten() {
            if *from > since {
                longest = longest.max(*from - since);
            }
            since = since.max(to.unwrap_or(self.world.now));
        }
        longest.max(self.world.now.saturating_sub(since))
    }
}
