//! Which of the events that come a subscription hands out, and how many it did not.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Event;
#[cfg(feature = "filter")]
use crate::{Filter, FilterMiss};

/// What became of the events that a subscription's filter was asked about. Without a filter all are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterCounters {
    /// Events that match; they were handed out.
    pub matched: u64,
    /// Events that do not match.
    pub unmatched: u64,
    /// Events without a field that the filter needs.
    pub missing: u64,
    /// Events in which a value has another type than the filter needs.
    pub wrong_type: u64,
    /// Events whose payload is not JSON, or too large to be read as JSON.
    pub unreadable: u64,
    /// Events on which the filter would have taken too long.
    pub too_costly: u64,
}

/// The filter of a subscription, if it has one.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    #[cfg(feature = "filter")]
    filter: Option<Filter>,
    matched: AtomicU64,
    unmatched: AtomicU64,
    missing: AtomicU64,
    wrong_type: AtomicU64,
    unreadable: AtomicU64,
    too_costly: AtomicU64,
}

impl Selection {
    /// With the feature, of the events that match.
    #[cfg(feature = "filter")]
    pub(crate) fn new(filter: Option<Filter>) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether the event is handed out.
    #[cfg(feature = "filter")]
    pub(crate) fn wants(&self, event: &Event) -> bool {
        let Some(filter) = &self.filter else { return true };
        let matches = filter.matches(event);
        let counter = match matches {
            Ok(true) => &self.matched,
            Ok(false) => &self.unmatched,
            Err(FilterMiss::Missing) => &self.missing,
            Err(FilterMiss::WrongType) => &self.wrong_type,
            Err(FilterMiss::Unreadable) => &self.unreadable,
            Err(FilterMiss::TooCostly) => &self.too_costly,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        matches == Ok(true)
    }

    /// Without the feature every event is.
    #[cfg(not(feature = "filter"))]
    #[expect(clippy::unused_self, reason = "with the feature it depends on the filter")]
    pub(crate) fn wants(&self, _: &Event) -> bool {
        true
    }

    /// The filter's text.
    pub(crate) fn text(&self) -> Option<String> {
        #[cfg(feature = "filter")]
        return self.filter.as_ref().map(ToString::to_string);
        #[cfg(not(feature = "filter"))]
        None
    }

    pub(crate) fn counters(&self) -> FilterCounters {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FilterCounters {
            matched: value(&self.matched),
            unmatched: value(&self.unmatched),
            missing: value(&self.missing),
            wrong_type: value(&self.wrong_type),
            unreadable: value(&self.unreadable),
            too_costly: value(&self.too_costly),
        }
    }
}
