//! A log in a directory: events are written by several threads, read again, and verified with the public key alone.
//!
//! `cargo run -p net-redex --example log -- DIR`; run it twice, and it goes on where it was.

#![allow(clippy::print_stdout, reason = "an example speaks on its terminal")]

use std::sync::Arc;

use net_identity::{EntityKey, Signer};
use net_redex::{EventItem, Log, LogConfig, Start};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("give the directory of the log")?;
    // A program of its own would keep both secrets in a keystore.
    let signer = Arc::new(EntityKey::from_secret(&[1; 32]));
    let log = Log::open(dir, LogConfig::default().ring_secret([2; 32]))?;
    let before = log.next_offset();

    let writer = log.writer(signer.clone())?;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = writer.clone();
            scope.spawn(move || writer.append(format!("from thread {thread}").as_str()).map(drop));
        }
    });

    for item in log.events(Start::Offset(before))? {
        if let EventItem::Event(event) = item? {
            println!("{}: {}", event.offset(), String::from_utf8_lossy(event.payload()));
        }
    }
    let metrics = log.metrics();
    println!("{} events in {} batches, {} syncs", metrics.events, metrics.batches, metrics.syncs);

    let report = log.verify(&[signer.id()], &[])?;
    println!("{} events verified, {} faults", report.events, report.faults.len());
    Ok(log.close()?)
}
