//! Seeded bugs: with `--cfg mutants`, the one that the environment's `NET_MUTANT` names is active.

/// Whether this seeded bug is active. A constant `false` in every build that is not made to test the tests.
#[cfg(not(mutants))]
#[inline(always)]
pub(crate) const fn mutant(_: &str) -> bool {
    false
}

/// Whether this seeded bug is active.
#[cfg(mutants)]
pub(crate) fn mutant(name: &str) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ACTIVE.get_or_init(|| std::env::var("NET_MUTANT").ok()).as_deref() == Some(name)
}
