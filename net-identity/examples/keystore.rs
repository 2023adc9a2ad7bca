//! Makes a key under a passphrase, finds it again by the first letters of its id, and signs with it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use net_identity::{Keystore, Passphrase, Signer, resolve_prefix};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("net-identity-example-{}", std::process::id()));
    let store = Keystore::open(&directory)?;
    let passphrase = Passphrase::new("correct horse battery staple".to_owned());
    let key = store.create("alice", Some(&passphrase))?;
    println!("alice is {}", key.id());

    let entries = store.list()?;
    let prefix = &key.id().to_string()[..6];
    let id = resolve_prefix(prefix, entries.iter().map(|entry| entry.id))?;
    println!("{prefix} is {id}");

    let loaded = store.load("alice", Some(&passphrase))?;
    let signature = loaded.sign(b"example v1\0hello")?;
    id.verify(b"example v1\0hello", &signature)?;
    println!("and her signature verifies");
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
