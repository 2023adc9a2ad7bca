//! `net log`: what people do with logs, and what they get wrong.

mod care;
mod damage;
mod kept;
mod reading;

use std::path::PathBuf;
use std::sync::Arc;

use net::channel::ChannelName;
use net::identity::EntityKey;
use net::logs;
use net::redex::{Log, LogConfig, NewEvent, Writer};
use net::state::StateDir;

use crate::harness::{Node, Place, check};

/// A node that has been used, and the logs that it keeps.
struct Keeper {
    place: Place,
    node: Node,
    state: StateDir,
}

impl Keeper {
    fn new() -> Self {
        let place = Place::new();
        let node = place.node("a");
        let state = used(&node);
        Self { place, node, state }
    }

    fn path(&self, channel: &str) -> PathBuf {
        logs::path(&self.state, &name(channel))
    }

    /// The log of a channel as the node has it open, with segments of 64 KiB.
    fn open(&self, channel: &str) -> Log {
        let config = self.config(channel);
        Log::open(self.path(channel), config).expect("a log")
    }

    fn config(&self, channel: &str) -> LogConfig {
        let config = logs::config(&self.state, &name(channel)).expect("a used directory");
        config.segment_bytes(LogConfig::SEGMENT_BYTES_MIN)
    }

    /// A closed log of events that say `event N`.
    fn fill(&self, channel: &str, events: u32) {
        let log = self.open(channel);
        write(&writer(&log), 0..events);
        log.close().expect("closed");
    }

    /// A closed log of so many batches, each of one event of 30 kB with this key: two a segment.
    fn fill_large(&self, channel: &str, batches: u32, key: impl Fn(u32) -> String) {
        let log = self.open(channel);
        let writer = writer(&log);
        for n in 0..batches {
            let (key, payload) = (key(n), format!("{n:030000}"));
            let event = NewEvent { payload: payload.as_bytes(), key: Some(key.as_bytes()), headers: &[] };
            assert!(writer.append(event).expect("room").is_durable());
        }
        drop(writer);
        log.close().expect("closed");
    }
}

/// A state directory with keys and a mesh.
fn used(node: &Node) -> StateDir {
    let state = StateDir::open(&node.dir).expect("ours");
    let lock = state.lock().expect("nobody else's");
    lock.keys_or_new().expect("made");
    lock.mesh_or_new().expect("made");
    state
}

fn name(channel: &str) -> ChannelName {
    channel.parse().expect("a name")
}

fn signer() -> Arc<EntityKey> {
    Arc::new(EntityKey::from_secret(&[9; 32]))
}

fn writer(log: &Log) -> Writer {
    log.writer(signer()).expect("the only one")
}

/// One batch for each event.
fn write(writer: &Writer, events: std::ops::Range<u32>) {
    for n in events {
        assert!(writer.append(&*format!("event {n}")).expect("room").is_durable());
    }
}

/// Lines of JSON.
fn rows(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
