//! What the demo and its processes say to each other: JSON lines on standard input and output.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::demo::attack::Attack;
use crate::demo::checks::Check;
use crate::demo::tamper::Tampering;
use crate::demo::weather::Storm;

/// The first line to a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) role: RoleName,
    /// Its state directory.
    pub(crate) dir: PathBuf,
    /// Of the processes that it links to; the first decides the mesh.
    pub(crate) tickets: Vec<String>,
    pub(crate) origins: Origins,
    /// Of its weather.
    pub(crate) seed: u64,
}

/// What a process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum RoleName {
    /// Publishes every `of`th earthquake, beginning with `index`.
    Producer { index: usize, of: usize, attack: Option<Attack> },
    /// That producer again, in the directory of the process that was killed: opens its channels and publishes nothing.
    Returned { index: usize, of: usize },
    /// Publishes an alert for each strong earthquake.
    Alerter,
    /// Subscribes to everything and checks it.
    Consumer { tampering: Option<Tampering> },
    /// Subscribes to the channel of one network when all is over, and checks it.
    Late { network: String },
}

/// The keys of those who publish.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Origins {
    pub(crate) producers: Vec<String>,
    pub(crate) alerter: Option<String>,
}

/// Further lines to a process. The end of its input ends it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Publish.
    Go,
    /// Everything has been published: what does not come soon does not come.
    Finish,
    /// All is over: tell what the weather was.
    Tell,
}

/// Lines from a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// Linked to everybody it was told of, and subscribed if it subscribes.
    Ready {
        origin: String,
        ticket: String,
    },
    Published(Published),
    Alerted {
        alerts: u64,
    },
    Seen(Seen),
    Storm(Storm),
    Failed {
        message: String,
    },
}

/// What a producer did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) events: u64,
    pub(crate) channels: u64,
    /// Events that were acknowledged as being on the disk.
    pub(crate) durable: u64,
    /// Channels on which not every subscriber acknowledged the last event in time.
    pub(crate) unacknowledged: u64,
    /// From the first call of `publish` until the last event was sealed and in the queues of the links.
    pub(crate) publishing_us: u64,
    /// Until all subscribers had acknowledged it.
    pub(crate) acknowledged_us: u64,
}

/// What a subscriber got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) quakes: u64,
    pub(crate) alerts: u64,
    pub(crate) channels: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    /// Events that subscriptions said could not be had.
    pub(crate) gaps: u64,
    /// Batches refused because their signature is not their origin's.
    pub(crate) unverified: u64,
    /// Alerts that were delivered before their earthquake, which another origin published.
    pub(crate) alerts_first: u64,
    pub(crate) checks: Vec<Check>,
    /// A hash of everything that came, by channel.
    pub(crate) digests: BTreeMap<String, String>,
    /// From the first event to the last.
    pub(crate) receiving_us: u64,
}
