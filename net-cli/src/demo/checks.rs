//! What a subscriber of the demo checks, event by event and at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use net::channel::Parent;
use net::{Event, Item};
use serde::{Deserialize, Serialize};

use crate::demo::digest::Digests;
use crate::demo::messages::{Origins, Seen};
use crate::demo::quakes::Quake;

/// The header that makes an event an alert; its value is the id of the earthquake.
pub(crate) const ALERT_HEADER: &str = "alert";

/// One promise, and whether it was kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    pub(crate) says: String,
}

/// Everything that should come, and what has come.
pub(crate) struct Checker {
    expected: HashMap<String, Expected>,
    expected_alerts: u64,
    origins: Origins,
    quakes: HashMap<String, Parent>,
    alerts: HashMap<String, Vec<Parent>>,
    alerts_first: u64,
    channels: BTreeSet<String>,
    /// The last place in the data and the last seq, by channel and origin.
    last: BTreeMap<(String, [u8; 32]), (usize, u64)>,
    digests: Digests,
    duplicates: u64,
    gaps: u64,
    faults: BTreeMap<Name, Vec<String>>,
}

struct Expected {
    quake: Quake,
    /// Its line in the data, from 0.
    index: usize,
}

/// The promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Once,
    Sender,
    Content,
    Order,
    Cause,
    Before,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Once => "each event once",
            Self::Sender => "sender verified",
            Self::Content => "content as published",
            Self::Order => "order of each origin",
            Self::Cause => "alert names its quake as cause",
            Self::Before => "no alert before its quake",
        }
    }
}

impl Checker {
    /// Expects the earthquakes for which `wanted` holds, and the alerts that belong to them.
    pub(crate) fn new(origins: Origins, wanted: impl Fn(&Quake) -> bool) -> Self {
        let all = Quake::all().into_iter().enumerate().filter(|(_, quake)| wanted(quake));
        let expected: HashMap<_, _> = all.map(|(index, quake)| (quake.id.clone(), Expected { quake, index })).collect();
        let expected_alerts = expected.values().filter(|e| e.quake.is_strong()).count() as u64;
        Self {
            expected,
            expected_alerts,
            origins,
            quakes: HashMap::new(),
            alerts: HashMap::new(),
            alerts_first: 0,
            channels: BTreeSet::new(),
            last: BTreeMap::new(),
            digests: Digests::default(),
            duplicates: 0,
            gaps: 0,
            faults: BTreeMap::new(),
        }
    }

    /// Events that should come.
    pub(crate) fn expected(&self) -> u64 {
        self.expected.len() as u64 + self.expected_alerts
    }

    /// Takes an item as the application is given it.
    pub(crate) fn take(&mut self, item: &Item) {
        match item {
            Item::Event(event) => self.take_event(event),
            Item::Gap(gap) if gap.before.is_some() => {
                let says = format!("an event came without {} of its causes, which {}", gap.range.len(), gap.why);
                self.fault(Name::Before, says);
            }
            Item::Gap(gap) => self.gaps += gap.range.len(),
            other => self.fault(Name::Once, format!("{other}")),
        }
    }

    fn take_event(&mut self, event: &Event) {
        self.digests.take(event);
        let channel = event.channel().to_string();
        self.channels.insert(channel.clone());
        let alert = event.headers().value(ALERT_HEADER).map(<[u8]>::to_vec);
        let is_alert = alert.is_some();
        let id = match alert {
            Some(id) => String::from_utf8(id).ok(),
            None => crate::demo::quakes::read(event.payload()).map(|(id, _)| id),
        };
        let Some(expected) = id.as_ref().and_then(|id| self.expected.get(id)) else {
            self.fault(Name::Content, format!("an event on {channel} that nobody published: {id:?}"));
            return;
        };
        let (index, quake) = (expected.index, expected.quake.clone());
        if is_alert {
            if self.alerts.insert(quake.id.clone(), event.parents().to_vec()).is_some() {
                self.duplicates += 1;
                return;
            }
            if !self.quakes.contains_key(&quake.id) {
                self.alerts_first += 1;
            }
        } else {
            if self.quakes.insert(quake.id.clone(), event.as_parent()).is_some() {
                self.duplicates += 1;
                return;
            }
            if event.payload() != quake.line.as_bytes() {
                self.fault(Name::Content, format!("{} was changed on its way", quake.id));
            }
        }
        if channel != quake.channel() {
            self.fault(Name::Content, format!("{} came on {channel}", quake.id));
        }
        let sender = if is_alert {
            self.origins.alerter.as_ref()
        } else {
            self.origins.producers.get(index % self.origins.producers.len().max(1))
        };
        if sender.is_none_or(|sender| *sender != event.origin().to_string()) {
            self.fault(Name::Sender, format!("{} came from {}", quake.id, event.origin()));
        }
        let place = (channel, *event.origin().as_bytes());
        let here = (index, event.seq());
        if let Some((last_index, last_seq)) = self.last.insert(place, here)
            && (event.seq() <= last_seq || !is_alert && index <= last_index)
        {
            self.fault(Name::Order, format!("{} came after one that was published later", quake.id));
        }
    }

    fn fault(&mut self, name: Name, says: String) {
        self.faults.entry(name).or_default().push(says);
    }

    /// What came, and which promises were kept. `unverified` batches were refused below.
    pub(crate) fn finish(mut self, unverified: u64, receiving_us: u64) -> Seen {
        let (quakes, alerts) = (self.quakes.len() as u64, self.alerts.len() as u64);
        let missing = self.expected() - quakes - alerts;
        if missing > 0 {
            let gaps = self.gaps;
            self.fault(Name::Once, format!("{missing} are missing, {gaps} of them reported as a gap"));
        }
        if self.duplicates > 0 {
            let duplicates = self.duplicates;
            self.fault(Name::Once, format!("{duplicates} came twice"));
        }
        if unverified > 0 {
            self.fault(
                Name::Sender,
                format!("{unverified} batches were refused: their signature is not their origin's"),
            );
        }
        if self.alerts_first > 0 {
            let first = self.alerts_first;
            self.fault(Name::Before, format!("{first} alerts were delivered before their earthquake"));
        }
        for (id, parents) in std::mem::take(&mut self.alerts) {
            match self.quakes.get(&id) {
                Some(quake) if parents.contains(quake) => {}
                Some(_) => self.fault(Name::Cause, format!("the alert of {id} has other causes")),
                None => self.fault(Name::Cause, format!("there is an alert of {id} and no such earthquake")),
            }
        }
        let kept = |name: Name| match name {
            Name::Once => format!("{quakes} earthquakes and {alerts} alerts, none missing, none twice"),
            Name::Sender => format!("{} known origins, no batch refused", self.origins.producers.len() + 1),
            Name::Content => "every byte as in the data".to_owned(),
            Name::Order => format!("{} channels, {} pairs of origin and channel", self.channels.len(), self.last.len()),
            Name::Cause => format!("{alerts} alerts"),
            Name::Before => format!("{alerts} alerts, of another origin than their earthquakes"),
        };
        let names = [Name::Once, Name::Sender, Name::Content, Name::Order, Name::Cause, Name::Before];
        let checks = names.map(|name| {
            let faults = self.faults.get(&name);
            let says = match faults.and_then(|faults| Some((faults.first()?, faults.len() - 1))) {
                None => kept(name),
                Some((first, 0)) => first.clone(),
                Some((first, more)) => format!("{first}, and {more} more"),
            };
            Check { name: name.text().to_owned(), ok: faults.is_none(), says }
        });
        Seen {
            quakes,
            alerts,
            channels: self.channels.len() as u64,
            missing,
            duplicates: self.duplicates,
            gaps: self.gaps,
            unverified,
            alerts_first: self.alerts_first,
            checks: checks.into(),
            digests: self.digests.finish(),
            receiving_us,
        }
    }
}
