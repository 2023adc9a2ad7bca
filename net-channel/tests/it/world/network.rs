//! The network between the nodes: what it loses, holds back and repeats, and who cannot reach whom.

use std::time::Duration;

use bytes::Bytes;
use net_transport::{NodeId, Pair};

use super::{Happening, LATENCY_US, World};

impl World {
    pub(super) fn carry(&mut self, from: NodeId, to: NodeId, frame: Bytes) {
        self.totals.frames += 1;
        let deaf = self.deaf.contains(&(from, to));
        if deaf || self.is_cut(&from, &to) || from != to && self.rng.chance(self.faults.loss) {
            self.totals.dropped += 1;
            return;
        }
        let boot = self.nodes[&to].boot;
        let mut copies = 1;
        if self.rng.chance(self.faults.duplicate) {
            self.totals.duplicated += 1;
            copies = 2;
        }
        for _ in 0..copies {
            let mut delay = LATENCY_US;
            if self.rng.chance(self.faults.reorder) {
                self.totals.reordered += 1;
                delay += self.rng.below(50_000);
            }
            self.at(Duration::from_micros(delay), Happening::Frame { to, boot, frame: frame.clone() });
        }
    }

    pub(super) fn is_cut(&self, a: &NodeId, b: &NodeId) -> bool {
        self.cut.contains(&(*a, *b)) || self.cut.contains(&(*b, *a))
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        let (a, b) = (self.order[a], self.order[b]);
        if a == b || self.is_cut(&a, &b) {
            return;
        }
        self.totals.partitions += 1;
        self.cut.insert((a, b));
        self.part(a, b);
    }

    pub fn heal(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            self.meet(a, b);
        }
    }

    pub(super) fn note_apart(&mut self, a: NodeId, b: NodeId) {
        let (now, key) = (self.now, (a.min(b), a.max(b)));
        let is_apart = self.is_cut(&a, &b) || !self.nodes[&a].alive || !self.nodes[&b].alive;
        let spans = self.apart.entry(key).or_default();
        match spans.last_mut() {
            Some((_, end @ None)) if !is_apart => *end = Some(now),
            Some((_, None)) => {}
            _ if is_apart => spans.push((now, None)),
            _ => {}
        }
    }

    /// Both ends notice that the link is gone.
    pub(super) fn part(&mut self, a: NodeId, b: NodeId) {
        self.note_apart(a, b);
        let now = self.instant();
        for (x, y) in [(a, b), (b, a)] {
            let pairs: Vec<Pair> = self.nodes[&x].joins.iter().filter(|(_, n)| **n == y).map(|(p, _)| *p).collect();
            for pair in pairs {
                self.joined.entry(pair).or_default().remove(&x);
                if self.nodes[&x].alive {
                    self.node(&x).subscriptions.handle_unjoined(now, pair);
                }
            }
            if self.nodes[&x].alive {
                self.node(&x).subscriptions.handle_peer_lost(now, &y);
                for producer in self.node(&x).producers.values_mut() {
                    producer.publisher.handle_gone(&y);
                }
                self.act(x);
            }
        }
    }

    /// The link is back: adverts are exchanged.
    pub(super) fn meet(&mut self, a: NodeId, b: NodeId) {
        self.note_apart(a, b);
        for (x, y) in [(a, b), (b, a)] {
            if !self.nodes[&x].alive || !self.nodes[&y].alive {
                continue;
            }
            let pairs: Vec<Pair> = self.nodes[&x].producers.keys().copied().collect();
            for pair in pairs {
                self.advertise(x, y, pair);
            }
            self.node(&x).subscriptions.handle_neighbour(y);
            self.act(x);
        }
    }

    /// Live frames from one node to another are lost from now on, or not any more; streams go on.
    pub fn deafen(&mut self, from: usize, to: usize, deaf: bool) {
        let link = (self.order[from], self.order[to]);
        if deaf {
            self.deaf.insert(link);
        } else {
            self.deaf.remove(&link);
        }
    }
}
