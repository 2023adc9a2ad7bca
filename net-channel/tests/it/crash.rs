//! A producer that is killed again and again: no (key, seq) is used twice, and subscribers are told of each restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use net_channel::{Bus, BusConfig, Item, OpenGate};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Psk, Seed, Ticket};
use tokio::time::timeout;

use crate::world::Rng;

const KILLS: u64 = 100;
const DEADLINE: Duration = Duration::from_secs(60);
const CHILD_DIR: &str = "NET_TEST_PRODUCER_DIR";
const CHILD_TICKET: &str = "NET_TEST_PRODUCER_TICKET";

fn mesh() -> Mesh {
    Mesh::new(MeshId([3; 32]), 0, Psk::new([4; 32]))
}

async fn node(seed: u8, known: &str, floor: Option<PathBuf>) -> (Endpoint, Bus) {
    let keys = NodeKeys::from_seed(&Seed::new([seed; 32]));
    let gate = Arc::new(OpenGate::new(mesh().id()));
    let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    if let Ok(ticket) = known.parse::<Ticket>() {
        config.known = ticket.peers;
    }
    let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh(), gate, config).await.expect("bind");
    let mut config = BusConfig::new(Arc::new(keys));
    config.floor = floor;
    (endpoint.clone(), Bus::start(endpoint, inbox, config).await.expect("start"))
}

/// Runs in the processes that are killed: publishes until it dies. In the parent, where nothing names a directory, it
/// has nothing to do.
#[tokio::test]
async fn producer_process() {
    let (Ok(dir), Ok(ticket)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_TICKET)) else { return };
    let (_endpoint, bus) = node(2, &ticket, Some(PathBuf::from(dir).join("floor"))).await;
    let channel = bus.channel("crash").open().await.expect("open");
    for i in 0u64.. {
        channel.publish(i.to_le_bytes()).await.expect("publish");
        // A few events to a batch, so that kills fall between, into and behind batches.
        if i % 7 == 0 {
            channel.flush().await;
        }
    }
}

/// A process that goes with the test, however that ends.
struct Life(Child);

impl Drop for Life {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(dir: &std::path::Path, ticket: &str) -> Life {
    let child = Command::new(std::env::current_exe().expect("this test's own program"))
        .args(["--exact", "crash::producer_process", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_TICKET, ticket)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    Life(child)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_producer_never_reuses_a_key_and_seq_and_restarts_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (endpoint, bus) = node(1, "", None).await;
    let ticket = endpoint.ticket().to_string();
    let mut subscription = bus.subscribe("crash").await.expect("subscribe");
    let mut rng = Rng(0x5eed);
    let mut used: BTreeSet<([u8; 4], u64)> = BTreeSet::new();
    let mut incarnations: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut last, mut restarts) = (0, 0);
    for _ in 0..KILLS {
        let child = spawn(dir.path(), &ticket);
        // Killed after a random number of events of this life have been seen; what it sent beyond them is still read.
        let life = 1 + rng.below(300);
        let before = incarnations.keys().last().copied().unwrap_or_default();
        let mut seen = 0;
        while seen < life {
            match timeout(DEADLINE, subscription.next()).await.expect("in time").expect("open").expect("fine") {
                Item::Event(event) => {
                    // What the dead producer had sent may still come after its successor was heard, and says so.
                    assert!(event.late() || event.seq() > last, "seq {} after {last}", event.seq());
                    last = last.max(event.seq());
                    let seal = event.batch().open().seal();
                    assert!(used.insert((seal.key_id().0, event.seq())), "a key and seq came twice");
                    *incarnations.entry(seal.incarnation()).or_default() += 1;
                    seen += u64::from(seal.incarnation() > before);
                }
                Item::Restart(restart) => {
                    assert_eq!(restart.last_seen, last);
                    restarts += 1;
                }
                Item::Gap(_) => {}
                other => panic!("{other:?}"),
            }
        }
        drop(child);
    }
    println!(
        "{KILLS} kills: {} events in {} incarnations, {restarts} restarts told, no key and seq twice",
        used.len(),
        incarnations.len()
    );
    assert!(restarts >= incarnations.len() - 1, "each incarnation after the first was told");
    assert_eq!(incarnations.len() as u64, KILLS);
}
