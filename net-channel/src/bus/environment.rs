//! Wall clock and randomness, handed in so that a simulation can decide them.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock and the randomness of a bus.
#[derive(Clone)]
pub struct Environment {
    unix_ns: Arc<UnixNs>,
    fill: Arc<Fill>,
}

type UnixNs = dyn Fn() -> u64 + Send + Sync;
type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Environment {
    /// An environment of the caller's making. `fill` must be cryptographically random outside of tests.
    pub fn new(
        unix_ns: impl Fn() -> u64 + Send + Sync + 'static,
        fill: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self { unix_ns: Arc::new(unix_ns), fill: Arc::new(fill) }
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn unix_ns(&self) -> u64 {
        (self.unix_ns)()
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.unix_ns() / 1_000_000
    }

    /// Random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.fill)(&mut bytes);
        bytes
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new(
            || {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
            },
            |bytes| getrandom::fill(bytes).expect("the operating system gives random bytes"),
        )
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(..)")
    }
}
