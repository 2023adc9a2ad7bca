//! The context strings of this crate are in the table of all, and none can be taken for another.

/// The rows of `docs/spec/contexts.md`: a context and its crate.
fn table() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/contexts.md");
    let text = std::fs::read_to_string(path).expect("the table is in the repository");
    let row = |line: &str| {
        let (context, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((context.replace("\\0", "\0"), rest.split_once(" | ")?.0.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_table_lists_the_contexts_of_this_crate_and_no_context_begins_another() {
    let table = table();
    let ours: Vec<&str> = table.iter().filter(|(_, name)| name == "net").map(|(c, _)| c.as_str()).collect();
    assert_eq!(ours, net::CONTEXTS);
    assert!(table.len() > 20, "the rows of the other crates were found");
    for (i, (a, _)) in table.iter().enumerate() {
        assert!(table.iter().enumerate().all(|(j, (b, _))| i == j || !b.starts_with(a)), "{a:?} begins another");
    }
}
