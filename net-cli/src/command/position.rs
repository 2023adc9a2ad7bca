//! How far a subscription has come, so that it can go on over another node, or tomorrow.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::Cursor;
use net::channel::{ChannelName, CursorFile};
use net::identity::EntityId;
use net::state::StateDir;
use net::transport::{MeshId, Pair};
use tokio::time::Instant;

use crate::control::protocol::ItemRow;
use crate::failure::Failure;
use crate::start::Start;

/// Where a subscription stands.
pub(crate) struct Position {
    mesh: MeshId,
    start: Start,
    cursor: Cursor,
    pairs: HashMap<(String, String), Pair>,
    /// After a change of node: events from before this time are not for this subscription, if their origin is new to
    /// it. A cursor has such origins read from their earliest event.
    not_before_ms: u64,
    known: Cursor,
    began_ms: u64,
}

/// The most names that are kept at hand.
const PAIRS_MAX: usize = 65_536;

impl Position {
    pub(crate) fn new(mesh: MeshId, start: Start) -> Self {
        let cursor = if let Start::Cursor(cursor) = &start { cursor.clone() } else { Cursor::default() };
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_ms = u64::try_from(began.as_millis()).unwrap_or(u64::MAX);
        Self { mesh, start, known: cursor.clone(), cursor, pairs: HashMap::new(), not_before_ms: 0, began_ms }
    }

    /// Where to begin with the first node.
    pub(crate) fn start(&self) -> Start {
        self.start.clone()
    }

    /// Where to go on with another node.
    pub(crate) fn go_on(&mut self) -> Start {
        self.not_before_ms = match self.start {
            Start::Earliest | Start::Cursor(_) => 0,
            Start::Since(ms) => ms,
            Start::Live | Start::Last(_) => self.began_ms,
        };
        self.known = self.cursor.clone();
        Start::Cursor(self.cursor.clone())
    }

    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Moves behind an item; says whether it is for this subscription.
    pub(crate) fn pass(&mut self, item: &ItemRow) -> bool {
        let (channel, origin, next, time_ms) = match item {
            ItemRow::Event(e) if e.late => return true,
            ItemRow::Event(e) => (&e.channel, &e.origin, e.seq.saturating_add(1), e.time_ms),
            // Causes that an event is delivered without may still come.
            ItemRow::Gap { before: Some(_), .. } | ItemRow::Equivocation { .. } => return true,
            ItemRow::Gap { channel, origin, to, .. } | ItemRow::Sealed { channel, origin, to, .. } => {
                (channel, origin, *to, u64::MAX)
            }
            ItemRow::Trimmed { channel, origin, first, .. } => (channel, origin, *first, u64::MAX),
            ItemRow::Restart { channel, origin, incarnation, .. } => (channel, origin, *incarnation, u64::MAX),
        };
        let Some(pair) = self.pair(channel, origin) else { return true };
        self.cursor.set(pair, next);
        time_ms >= self.not_before_ms || self.known.next(&pair).is_some()
    }

    fn pair(&mut self, channel: &str, origin: &str) -> Option<Pair> {
        let names = (channel.to_owned(), origin.to_owned());
        if let Some(pair) = self.pairs.get(&names) {
            return Some(*pair);
        }
        let (name, key): (ChannelName, EntityId) = (channel.parse().ok()?, origin.parse().ok()?);
        let pair = Pair { channel: name.hash(&self.mesh).0, origin: *key.as_bytes() };
        if self.pairs.len() >= PAIRS_MAX {
            self.pairs.clear();
        }
        self.pairs.insert(names, pair);
        Some(pair)
    }
}

/// A position that is kept in the state directory under a name: of what has been printed.
pub(crate) struct Bookmark {
    file: CursorFile,
    looked_at: Instant,
}

/// How often a position that moves is written.
const SAVE_EVERY: Duration = Duration::from_millis(250);

impl Bookmark {
    /// Opens the bookmark of this name, and what it holds.
    pub(crate) fn open(dir: &StateDir, name: &str) -> Result<(Self, Option<Cursor>), Failure> {
        let file = CursorFile::open(dir.path(), name)?;
        let cursor = file.saved().cloned();
        Ok((Self { file, looked_at: Instant::now() }, cursor))
    }

    /// When the position has to be written next, if it has moved.
    pub(crate) fn due(&self, cursor: &Cursor) -> Option<Instant> {
        let is_saved = self.file.saved().map_or_else(|| cursor.is_empty(), |saved| saved == cursor);
        (!is_saved).then(|| self.looked_at + SAVE_EVERY)
    }

    /// Writes the position: what was printed before is not printed again.
    pub(crate) fn save(&mut self, cursor: &Cursor) -> Result<(), Failure> {
        if self.due(cursor).is_some() {
            self.file.save(cursor)?;
        }
        self.looked_at = Instant::now();
        Ok(())
    }
}
