//! Memory does not grow with the log.

use std::path::Path;
use std::process::Command;

use net_redex::{EventItem, Found, Log, Start, SyncPolicy};

use crate::support::{Origin, config};

/// Anonymous memory that a replay may use.
const BOUND_BYTES: u64 = 64 << 20;
/// Three times as much.
const LOG_BYTES: u64 = 3 * BOUND_BYTES;
const CHILD: &str = "NET_REDEX_REPLAY_OF";

#[test]
fn replay_of_more_than_the_bound_holds_less_anonymous_memory_than_it() {
    if let Some(dir) = std::env::var_os(CHILD) {
        println!("peak {}", replay(Path::new(&dir)));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().sync(SyncPolicy::None)).expect("a new log");
    let mut origin = Origin::new(1);
    let payload = vec![7; 60_000];
    while log.metrics().bytes < LOG_BYTES {
        let _ack = log.append(&origin.batch(&[&payload])).wait().expect("room");
    }
    log.add_origin(origin.key.id()).expect("written");
    log.close().expect("closed");
    // In a process of its own, where nothing else is.
    let name = "memory::replay_of_more_than_the_bound_holds_less_anonymous_memory_than_it";
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let peak = text.lines().find_map(|line| line.split_once("peak ")?.1.trim().parse::<u64>().ok());
    let peak = peak.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(peak > 0 && peak < BOUND_BYTES, "{peak} bytes");
}

/// Reads everything twice, with checksums and with signatures; gives the most anonymous memory that was seen.
fn replay(dir: &Path) -> u64 {
    let log = Log::open(dir, config()).expect("opens");
    let (mut peak, mut batches) = (0, 0_u64);
    for found in log.read(Start::Earliest).expect("readable") {
        let Found::Batch(batch) = found.expect("readable") else { panic!("the log is sound") };
        assert!(batch.frame().len() > 60_000);
        batches += 1;
        peak = peak.max(anonymous_bytes());
    }
    assert!(batches * 60_000 > LOG_BYTES / 10 * 9, "{batches} batches");
    for item in log.events(Start::Earliest).expect("readable") {
        // Nobody has given this process the key.
        assert!(matches!(item.expect("readable"), EventItem::Sealed { .. }));
        peak = peak.max(anonymous_bytes());
    }
    let verified = log.verify(&[], &[]).expect("readable");
    assert_eq!((verified.batches, verified.faults.len()), (batches, 0));
    peak.max(anonymous_bytes())
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says so since 4.5");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
