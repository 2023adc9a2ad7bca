//! Seeded bugs, for the proof that the tests would find such ones. In a normal build there are none.

/// Whether this bug is switched on: never, but in a build with `--cfg mutants` whose `NET_MUTANT` names it.
macro_rules! mutant {
    ($name:literal) => {
        crate::mutants::is_on($name)
    };
}

pub(crate) use mutant;

#[cfg(not(mutants))]
#[inline(always)]
pub(crate) fn is_on(_: &str) -> bool {
    false
}

#[cfg(mutants)]
pub(crate) fn is_on(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("NET_MUTANT").ok()).as_deref() == Some(name)
}
