//! How much a test with a budget does: a part of it by default, all of it where it is asked for.

/// `full` if `NET_REDEX_BUDGET=full`, as `cargo xtask e2e crash` sets it; else `part`.
pub(crate) fn budget(part: u64, full: u64) -> u64 {
    if std::env::var("NET_REDEX_BUDGET").is_ok_and(|value| value == "full") { full } else { part }
}
