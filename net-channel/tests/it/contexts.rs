//! The table of context strings is whole, and no string can be taken for another.

use std::collections::BTreeSet;

/// The context strings of `docs/spec/contexts.md`, the first column of its table, of this crate and those below it.
fn table() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/contexts.md");
    let text = std::fs::read_to_string(path).expect("the table is in the repository");
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(_, rest)| CRATES.iter().any(|name| rest.starts_with(name)))
        .map(|(context, _)| context.replace("\\0", "\0"))
        .collect()
}

const CRATES: [&str; 3] = ["net-transport ", "net-identity ", "net-channel "];

fn code() -> Vec<&'static str> {
    [net_transport::CONTEXTS, net_identity::CONTEXTS, net_channel::CONTEXTS].concat()
}

#[test]
fn the_table_lists_the_contexts_of_all_crates_and_no_others() {
    let (table, code) = (table(), code());
    let listed: BTreeSet<&str> = table.iter().map(String::as_str).collect();
    let used: BTreeSet<&str> = code.iter().copied().collect();
    assert_eq!(listed, used);
    assert_eq!(table.len(), listed.len(), "no row twice");
}

#[test]
fn no_context_equals_or_begins_another() {
    let code = code();
    assert!(code.len() > 20, "the lists of the crates were found");
    for (i, a) in code.iter().enumerate() {
        for (j, b) in code.iter().enumerate() {
            assert!(i == j || !b.starts_with(a), "{a:?} begins {b:?}");
        }
    }
}
