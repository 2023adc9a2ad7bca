//! What the connections of a node have asked it to do for as long as they last.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use net::channel::{ChannelName, Keeper, Pattern};

use crate::control::protocol::{KeepRow, KeptRow};

/// Things that are there as long as their [`Entry`].
#[derive(Debug)]
pub(crate) struct Registry<T>(Mutex<Entries<T>>);

#[derive(Debug)]
struct Entries<T> {
    next: u64,
    values: BTreeMap<u64, Arc<T>>,
}

/// A thing that is registered. Dropping it takes it out.
pub(crate) struct Entry<'a, T> {
    registry: &'a Registry<T>,
    number: u64,
    value: Arc<T>,
}

/// Channels that are kept, and for whom that is asked.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) pattern: Pattern,
    pub(crate) keeper: Keeper,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(Mutex::new(Entries { next: 0, values: BTreeMap::new() }))
    }
}

impl<T> Registry<T> {
    pub(crate) fn enter(&self, value: T) -> Entry<'_, T> {
        let value = Arc::new(value);
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.values.insert(number, value.clone());
        Entry { registry: self, number, value }
    }

    /// Everything that is there now, in the order in which it came.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.lock().values.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Entry<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Entry<'_, T> {
    fn drop(&mut self) {
        self.registry.lock().values.remove(&self.number);
    }
}

impl Registry<Pattern> {
    pub(crate) fn matches(&self, name: &ChannelName) -> bool {
        self.all().iter().any(|pattern| pattern.matches(name))
    }
}

impl Registry<Keep> {
    pub(crate) fn matches(&self, name: &ChannelName) -> bool {
        self.all().iter().any(|keep| keep.pattern.matches(name))
    }

    /// What is kept, in the order of the patterns; a pattern that several ask for is one.
    pub(crate) fn rows(&self) -> Vec<KeepRow> {
        let rows: BTreeMap<String, KeepRow> =
            self.all().iter().map(|keep| (keep.pattern.to_string(), keep.row())).collect();
        rows.into_values().collect()
    }
}

impl Keep {
    pub(crate) fn row(&self) -> KeepRow {
        let channels = self.keeper.channels().into_iter();
        let row = |kept: net::channel::KeptChannel| KeptRow {
            channel: kept.name.to_string(),
            events: kept.events,
            failure: kept.failure,
        };
        KeepRow { keeps: self.pattern.to_string(), channels: channels.map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_there_as_long_as_its_entry() {
        let registry = Registry::<Pattern>::default();
        let name = ChannelName::parse("a/b").expect("a name");
        let first = registry.enter(Pattern::parse("a/*").expect("a pattern"));
        let second = registry.enter(Pattern::parse("a/*").expect("a pattern"));
        drop(first);
        assert!(registry.matches(&name));
        drop(second);
        assert!(!registry.matches(&name) && registry.all().is_empty());
    }
}
