//! Where a node's logs are, and what opens them.

use std::sync::Arc;

use net::channel::{ChannelName, StorePlace};
use net::logs::{self, LogError};
use net::redex::{EventItem, Log, OpenError, Start};
use net::state::StateDir;

/// A state directory with keys and a mesh.
fn state(place: &std::path::Path) -> StateDir {
    let dir = StateDir::open(place).expect("a directory");
    let lock = dir.lock().expect("free");
    lock.keys_or_new().expect("writable");
    lock.mesh_or_new().expect("writable");
    dir
}

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).expect("a name")
}

#[test]
fn names_of_channels_and_directories_follow_from_each_other() {
    for text in ["a", "quakes/ak", "a/b/c.d:e@f~g-h_i", "$group/billing", ".hidden/x", &"x/".repeat(127)[..253]] {
        let dir = StorePlace::dir_name(&name(text));
        assert!(!dir.contains('/') && dir.len() <= 255);
        assert_eq!(StorePlace::channel_of(&dir), Some(name(text)));
    }
    for dir in ["", "+", "a++b", "+a", "a+", "..", ".", "a b", "a/b", "lost*found"] {
        assert_eq!(StorePlace::channel_of(dir), None, "{dir:?}");
    }
}

#[test]
fn logs_of_a_directory_are_listed_and_open_with_its_keys_alone() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (state(&place.path().join("one")), state(&place.path().join("two")));
    assert_eq!(logs::list(&one).unwrap(), []);
    for channel in ["quakes/ak", "b"] {
        let channel = name(channel);
        let log = Log::open(logs::path(&one, &channel), logs::config(&one, &channel).unwrap()).unwrap();
        let writer = log.writer(Arc::new(net::identity::EntityKey::generate())).unwrap();
        assert!(writer.append(channel.as_str()).unwrap().is_durable());
        drop(writer);
        log.close().unwrap();
    }
    std::fs::write(logs::root(&one).join("notes"), "no log").unwrap();
    std::fs::create_dir(logs::root(&one).join("lost found")).unwrap();
    assert_eq!(logs::list(&one).unwrap(), [name("b"), name("quakes/ak")]);

    let log = logs::open_read_only(&one, &name("quakes/ak")).unwrap();
    let items: Vec<_> = log.events(Start::Earliest).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(matches!(&items[..], [EventItem::Event(event)] if event.payload() == b"quakes/ak"), "{items:?}");

    // Carried to another node, it is a log of another mesh.
    std::fs::create_dir(logs::root(&two)).unwrap();
    std::fs::rename(logs::path(&one, &name("b")), logs::path(&two, &name("b"))).unwrap();
    let other = logs::open_read_only(&two, &name("b"));
    assert!(matches!(other, Err(LogError::Open(OpenError::OtherChannel(_)))), "{other:?}");
    assert!(logs::open_read_only(&one, &name("b")).is_err(), "nothing is made by looking");
    assert_eq!(logs::list(&one).unwrap(), [name("quakes/ak")]);
}
