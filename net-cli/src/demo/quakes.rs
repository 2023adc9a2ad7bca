//! The data: one week of earthquakes, as the USGS reported them.

use serde::Deserialize;

/// One JSON object a line, in order of time.
const LINES: &str = include_str!("../../data/usgs-earthquakes-2018-week.jsonl");

/// From this magnitude on there is an alert.
const ALERT_MAGNITUDE: f64 = 4.5;

/// One earthquake.
#[derive(Clone, Debug)]
pub(crate) struct Quake {
    /// Its line in the data, which is what is published.
    pub(crate) line: &'static str,
    pub(crate) id: String,
    /// The seismic network that reported it.
    pub(crate) network: String,
    pub(crate) magnitude: f64,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    net: String,
    mag: Option<f64>,
}

impl Quake {
    /// Reads one, as it is published.
    pub(crate) fn parse(line: &'static str) -> Option<Self> {
        let row: Row = serde_json::from_str(line).ok()?;
        Some(Self { line, id: row.id, network: row.net, magnitude: row.mag.unwrap_or(f64::MIN) })
    }

    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        LINES.lines().map(|line| Self::parse(line).expect("the shipped data is whole")).collect()
    }

    pub(crate) fn channel(&self) -> String {
        format!("quakes/{}", self.network)
    }

    pub(crate) fn is_strong(&self) -> bool {
        self.magnitude >= ALERT_MAGNITUDE
    }
}

/// The id and the magnitude of an earthquake that came as an event.
pub(crate) fn read(payload: &[u8]) -> Option<(String, f64)> {
    let row: Row = serde_json::from_slice(payload).ok()?;
    Some((row.id, row.mag.unwrap_or(f64::MIN)))
}

/// Whether this magnitude calls for an alert.
pub(crate) fn is_strong(magnitude: f64) -> bool {
    magnitude >= ALERT_MAGNITUDE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_week_is_what_the_demo_says_it_is() {
        let quakes = Quake::all();
        let channels: std::collections::BTreeSet<_> = quakes.iter().map(Quake::channel).collect();
        let strong = quakes.iter().filter(|quake| quake.is_strong()).count();
        let alaska = quakes.iter().filter(|quake| quake.network == "ak").count();
        assert_eq!((quakes.len(), channels.len(), strong, alaska), (1707, 12, 85, 297));
    }
}
