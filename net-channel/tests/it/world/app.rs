//! The applications of the nodes: what they take, and what they have seen.

use std::time::Duration;

use net_channel::Item;
use net_channel::core::Delivery;
use net_transport::{NodeId, Pair};

use super::{Happening, Totals, World};
use crate::oracle::Seen;

impl World {
    /// The application of a subscription stops taking, or goes on.
    pub fn sleep(&mut self, node: usize, sub: u64, asleep: bool) {
        let id = self.order[node];
        let boot = self.nodes[&id].boot;
        self.node(&id).apps.get_mut(&sub).expect("a subscription").asleep = asleep;
        if !asleep {
            self.at(Duration::ZERO, Happening::Take { node: id, sub, boot });
        }
    }

    pub(super) fn take(&mut self, id: NodeId, sub: u64) {
        let now = self.instant();
        let node = self.node(&id);
        let Some(app) = node.apps.get_mut(&sub) else { return };
        if app.asleep {
            return;
        }
        let deliveries: Vec<Delivery> = app.queue.drain(..).collect();
        let mut cost = 0;
        let mut sums = Totals::default();
        for delivery in deliveries {
            cost += delivery.cost();
            match delivery {
                Delivery::Batch { source, batch, skip, late, .. } => {
                    let (pair, seal) = (source.pair, batch.open().seal());
                    let seen = app.seen.entry(pair).or_default();
                    for event in batch.events().skip(usize::from(skip)) {
                        let (seq, payload) = (event.seq(), event.payload().to_vec());
                        let is_late = late.iter().any(|range| (range.from..range.to).contains(&seq));
                        sums.late += u64::from(is_late);
                        sums.delivered += 1;
                        let item = if is_late { Seen::Late(seq, payload) } else { Seen::Event(seq, payload) };
                        app.log.push((pair, item.clone()));
                        seen.push(item);
                    }
                    if app.positions.next(&pair).is_none_or(|next| next < seal.next_seq()) {
                        app.positions.set(pair, seal.next_seq());
                    }
                    if !seal.is_realtime() {
                        let head = node.given.head(pair.channel, source.origin);
                        head.begin(seal, seal.seq() + u64::from(skip));
                        head.advance(seal.last_seq());
                        let clock = node.clocks.entry(pair.channel).or_default().entry(pair).or_default();
                        *clock = (*clock).max(seal.last_seq());
                    }
                }
                Delivery::Item(item) => {
                    let (pair, seen) = match item {
                        Item::Gap(gap) => {
                            sums.gaps += 1;
                            if gap.before.is_none() {
                                app.positions.set(gap.source.pair, gap.range.to);
                            }
                            (gap.source.pair, Seen::Gap(gap.range))
                        }
                        Item::Restart(restart) => {
                            sums.restarts += 1;
                            app.positions.set(restart.source.pair, restart.incarnation);
                            let (last_seen, incarnation) = (restart.last_seen, restart.incarnation);
                            (restart.source.pair, Seen::Restart { last_seen, incarnation })
                        }
                        Item::Trimmed(trimmed) => {
                            sums.trimmed += 1;
                            app.positions.set(trimmed.source.pair, trimmed.first);
                            let (asked, first) = (trimmed.asked, trimmed.first);
                            (trimmed.source.pair, Seen::Trimmed { asked, first })
                        }
                        Item::Sealed(sealed) => (sealed.source.pair, Seen::Sealed(sealed.range)),
                        Item::Equivocation(fork) => {
                            (fork.source.pair, Seen::Equivocation { seq: fork.seq, proved: fork.proof.is_some() })
                        }
                        other => panic!("unexpected {other:?}"),
                    };
                    app.log.push((pair, seen.clone()));
                    app.seen.entry(pair).or_default().push(seen);
                }
                other => panic!("for a keeper: {other:?}"),
            }
        }
        self.totals.gaps += sums.gaps;
        self.totals.restarts += sums.restarts;
        self.totals.trimmed += sums.trimmed;
        self.totals.late += sums.late;
        self.totals.delivered += sums.delivered;
        self.node(&id).subscriptions.handle_taken(now, sub, cost);
        self.act(id);
    }

    pub fn seen(&self, node: usize, sub: u64, pair: &Pair) -> Vec<Seen> {
        self.nodes[&self.order[node]].apps[&sub].seen.get(pair).cloned().unwrap_or_default()
    }

    /// What the application was handed, of all origins: the number of the origin's node, and the item.
    pub fn log(&self, node: usize, sub: u64) -> Vec<(usize, Seen)> {
        let place = |pair: &Pair| self.order.iter().position(|n| *n.as_bytes() == pair.origin).expect("a node");
        self.nodes[&self.order[node]].apps[&sub].log.iter().map(|(pair, seen)| (place(pair), seen.clone())).collect()
    }

    /// Payloads of the events that the application was handed, in order.
    pub fn payloads(&self, node: usize, sub: u64) -> Vec<String> {
        let payload = |(_, seen)| match seen {
            Seen::Event(_, payload) | Seen::Late(_, payload) => Some(String::from_utf8(payload).expect("text")),
            _ => None,
        };
        self.log(node, sub).into_iter().filter_map(payload).collect()
    }
}
