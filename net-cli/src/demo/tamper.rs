//! Changes what the consumer is handed, to see whether its checks notice.

use std::collections::{HashMap, VecDeque};

use net::{Event, Item};
use serde::{Deserialize, Serialize};

/// What is done, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Tampering {
    Lose,
    Twice,
    Swap,
}

/// Stands between the subscription and the checks.
pub(crate) struct Tamper {
    how: Option<Tampering>,
    passed: u64,
    /// The event of each channel and origin that is held until the next of them has gone before it.
    held: HashMap<(String, EventOrigin), Event>,
}

type EventOrigin = [u8; 32];

/// The tampering begins behind so many events.
const AFTER: u64 = 500;

impl Tamper {
    pub(crate) fn new(how: Option<Tampering>) -> Self {
        Self { how, passed: 0, held: HashMap::new() }
    }

    /// What becomes of an item.
    pub(crate) fn pass(&mut self, item: Item) -> VecDeque<Item> {
        let Item::Event(event) = item else { return VecDeque::from([item]) };
        self.passed += 1;
        if self.passed < AFTER {
            return VecDeque::from([Item::Event(event)]);
        }
        match self.how {
            None => VecDeque::from([Item::Event(event)]),
            Some(Tampering::Lose) => {
                self.how = None;
                VecDeque::new()
            }
            Some(Tampering::Twice) => {
                self.how = None;
                VecDeque::from([Item::Event(event.clone()), Item::Event(event)])
            }
            // One of each origin is held, and the first whose successor comes is handed out behind it.
            Some(Tampering::Swap) => {
                let place = (event.channel().to_string(), *event.origin().as_bytes());
                match self.held.remove(&place) {
                    None => {
                        self.held.insert(place, event);
                        VecDeque::new()
                    }
                    Some(earlier) => {
                        self.how = None;
                        let others = self.held.drain().map(|(_, event)| Item::Event(event));
                        [Item::Event(event), Item::Event(earlier)].into_iter().chain(others).collect()
                    }
                }
            }
        }
    }
}
