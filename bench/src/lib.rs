//! What every comparison needs: quartiles, a core of one's own, and what was compared.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fmt;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The median of some runs and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// A quarter of the runs are below.
    pub low: f64,
    /// Half of the runs are below.
    pub median: f64,
    /// Three quarters of the runs are below.
    pub high: f64,
}

impl Quartiles {
    /// Of these runs, interpolated between neighbours.
    ///
    /// # Panics
    /// If there is no run.
    pub fn of(runs: &[f64]) -> Self {
        assert!(!runs.is_empty(), "there is nothing to take a median of");
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    /// As a JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "q1": self.low, "median": self.median, "q3": self.high })
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}

/// Keeps this thread, and those it starts, on the `nth` of the cores that it may use. Tells whether there are as many.
///
/// # Errors
/// If the kernel refuses.
pub fn pin(nth: usize) -> std::io::Result<bool> {
    let allowed = sched_getaffinity(None)?;
    let Some(core) = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).nth(nth) else { return Ok(false) };
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one)?;
    Ok(true)
}

/// How long this process has been on a core so far. Others that want the same core do not count, so this tells more than
/// the wall clock on a machine that is not quiet.
#[must_use]
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Which version of a package this was built with, from the lock file.
pub fn version_of(package: &str) -> &'static str {
    include_str!("../Cargo.lock")
        .split("[[package]]")
        .find_map(|entry| {
            let rest = entry
                .trim_start()
                .strip_prefix("name = \"")?
                .strip_prefix(package)?
                .strip_prefix("\"\nversion = \"")?;
            rest.split('"').next()
        })
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated_and_order_does_not_matter() {
        let expect = Quartiles { low: 2.0, median: 3.0, high: 4.0 };
        assert_eq!(Quartiles::of(&[5.0, 1.0, 3.0, 2.0, 4.0]), expect);
        assert_eq!(Quartiles::of(&[1.0, 2.0]), Quartiles { low: 1.25, median: 1.5, high: 1.75 });
        assert_eq!(Quartiles::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(version_of("quinn").starts_with("0.11."), "{}", version_of("quinn"));
        assert_eq!(version_of("no-such-package"), "unknown");
    }
}
