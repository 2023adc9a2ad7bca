//! `net pub`: publishes a text or lines.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use net::channel::ChannelName;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::access::{Access, NodeOptions};
use crate::cli::Global;
use crate::command::input::Input;
use crate::command::unexpected;
use crate::control::client::{Answers, Feeds};
use crate::control::protocol::{Blob, Delivered, Feed, Publication, Reply, Request};
use crate::failure::{Failure, chain};
use crate::host::interrupted;
use crate::output::Output;

/// Publish a text, or each line of a file or of the standard input
///
/// It ends when the subscribers have acknowledged the last event, or the time to linger is over.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net pub greetings hello\n  net pub quakes @week.jsonl --channel-field net --key-field id\n  tail -f log | net pub logs/web -"
)]
pub(crate) struct Publish {
    /// The channel, for example vehicles/fleet-7/telemetry
    channel: String,
    /// What to publish: TEXT, @FILE (one event a line), - for the standard input (also if left out)
    #[arg(value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    input: Option<String>,
    /// Take the key of each event from this field of its JSON
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// Publish each event on CHANNEL/VALUE, with the value of this field of its JSON
    #[arg(long, value_name = "FIELD")]
    channel_field: Option<String>,
    /// Publish at most so many events a second
    #[arg(long, value_name = "EVENTS")]
    rate: Option<NonZeroU32>,
    /// How long to wait for subscribers to acknowledge
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    linger: Duration,
}

/// How many events may be unconfirmed: the most that are sent again if the node ends.
const WINDOW: usize = 1_024;
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Publish {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        check_name(&self.channel)?;
        let mut input = Input::open(self.input.as_deref()).await?;
        if Input::is_typed(self.input.as_deref()) {
            output.note("each line is an event; Ctrl-D ends");
        }
        let mut session = Session::start(global.node()?, output).await?;
        let result = self.feed(&mut input, &mut session).await;
        let delivered = match result {
            Ok(()) => session.finish(self.linger).await,
            Err(failure) => {
                // What was published before is still delivered.
                let published = session.finish(self.linger).await.map_or(0, |d| d.events);
                let message = format!("{} ({published} events were published before)", failure.message);
                Err(Failure { message, ..failure })
            }
        };
        session.close().await;
        self.report(global, &output, delivered?)
    }

    async fn feed(&self, input: &mut Input, session: &mut Session) -> Result<(), Failure> {
        let mut stop = std::pin::pin!(interrupted());
        let (started, mut count) = (Instant::now(), 0u32);
        loop {
            let next = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                next = input.next() => next?,
            };
            let Some((number, payload)) = next else { return Ok(()) };
            let publication = self.publication(number, payload)?;
            if let Some(rate) = self.rate {
                let at = started + Duration::from_secs(1) * count / rate.get();
                tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    () = tokio::time::sleep_until(at) => {}
                }
                count = count.saturating_add(1);
            }
            // A person who types wants each line to go at once.
            session.publish(publication).await?;
        }
    }

    fn publication(&self, number: u64, payload: Vec<u8>) -> Result<Publication, Failure> {
        let mut channel = self.channel.clone();
        let mut key = None;
        if self.channel_field.is_some() || self.key_field.is_some() {
            let value: Value = serde_json::from_slice(&payload).map_err(|error| {
                Failure::new(format!("line {number} is no JSON: {error}"))
                    .next("without --key-field and --channel-field lines may be anything")
            })?;
            if let Some(field) = &self.channel_field {
                channel = format!("{channel}/{}", text_of(&value, field, number)?);
                check_name(&channel).map_err(|failure| Failure {
                    message: format!("line {number}: {}", failure.message),
                    usage: false,
                    ..failure
                })?;
            }
            if let Some(field) = &self.key_field {
                key = Some(Blob::Text(text_of(&value, field, number)?));
            }
        }
        Ok(Publication { channel, payload: Blob::new(&payload), key })
    }

    fn report(&self, global: &Global, output: &Output, delivered: Delivered) -> Result<ExitCode, Failure> {
        let Delivered { events, stored, kept, keepers, subscribers, complete, left } = delivered;
        if output.json() {
            output.record(&serde_json::json!({
                "published": events, "stored": stored, "keepers": keepers,
                "subscribers": subscribers, "delivered": complete, "left": left,
            }))?;
        } else {
            let mut published = format!("published {events} {}", if events == 1 { "event" } else { "events" });
            match stored {
                0 => {}
                all if all == events => published.push_str(", stored here"),
                some => published.push_str(&format!(", {some} of them stored here")),
            }
            let noun = if subscribers == 1 { "subscriber" } else { "subscribers" };
            if subscribers == 0 && left > 0 {
                let noun = if left == 1 { "subscriber" } else { "subscribers" };
                output.line(format!("{published}; {left} {noun} took events and left before acknowledging all"))?;
            } else if subscribers == 0 && stored > 0 {
                output.line(format!("{published}; nobody is subscribed"))?;
            } else if subscribers == 0 && kept {
                output.line(format!(
                    "{published}; nobody is subscribed, and the log of this channel has not stored it"
                ))?;
                output.note(format!("  next: `{} channels` says what is wrong with the log", global.net()));
            } else if subscribers == 0 {
                output.line(format!("{published}; nobody is subscribed, and nothing keeps this channel"))?;
                let pattern = match &self.channel_field {
                    Some(_) => format!("{}/*", self.channel),
                    None => self.channel.clone(),
                };
                output.note(format!(
                    "  next: `{0} sub '{pattern}'` in another terminal, or `{0} up --keep '{pattern}'`; then publish again",
                    global.net()
                ));
            } else if complete == subscribers {
                let stored = match keepers {
                    0 => String::new(),
                    1 => ", stored on 1 other node".to_owned(),
                    n => format!(", stored on {n} other nodes"),
                };
                output.line(format!("{published}, delivered to {subscribers} {noun}{stored}"))?;
            } else {
                let linger = humantime::format_duration(self.linger);
                output.line(format!("{published}, delivered to {complete} of {subscribers} {noun} within {linger}"))?;
                output.note("  next: a longer `--linger`, or `net peers` to see who is reached");
            }
        }
        Ok(if complete == subscribers { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A command's publishing, over whoever is the node, whichever that becomes.
struct Session {
    options: NodeOptions,
    output: Output,
    access: Option<Access>,
    wire: Option<Wire>,
    /// What is not confirmed, in order: sent again if the node ends.
    pending: VecDeque<Publication>,
    /// Confirmed, over nodes that have ended.
    confirmed_before: u64,
    /// Confirmed by the present node.
    confirmed: u64,
    /// Of those, the events that are in the log of the directory.
    stored_before: u64,
    stored: u64,
    /// Whether another process was the node before.
    moved: bool,
    shown: Instant,
}

struct Wire {
    feeds: Feeds,
    replies: mpsc::Receiver<Result<Reply, Failure>>,
}

impl Wire {
    /// Reads answers all the time, so that the node never waits for us while we wait for it.
    fn new(mut answers: Answers, feeds: Feeds) -> Self {
        let (sender, replies) = mpsc::channel(WINDOW);
        tokio::spawn(async move {
            while let Some(reply) = answers.next().await.transpose() {
                let failed = reply.is_err();
                if sender.send(reply).await.is_err() || failed {
                    break;
                }
            }
        });
        Self { feeds, replies }
    }
}

impl Session {
    async fn start(options: NodeOptions, output: Output) -> Result<Self, Failure> {
        let mut session = Self {
            options,
            output,
            access: None,
            wire: None,
            pending: VecDeque::new(),
            confirmed_before: 0,
            confirmed: 0,
            stored_before: 0,
            stored: 0,
            moved: false,
            shown: Instant::now(),
        };
        session.connect().await?;
        Ok(session)
    }

    /// Finds the node and sends it what no node has confirmed.
    async fn connect(&mut self) -> Result<(), Failure> {
        loop {
            self.wire = None;
            if self.access.as_ref().is_some_and(Access::is_host) {
                return Err(Failure::new("the node has stopped").next("the same command again"));
            }
            let access = Access::attach(&self.options).await?;
            let connection = access.open(Request::Publish).await;
            self.access = Some(access);
            let Some(connection) = connection else { continue };
            let (answers, feeds) = connection.split();
            let mut wire = Wire::new(answers, feeds);
            let mut went = true;
            for publication in &self.pending {
                went = went && wire.feeds.put(&Feed::Event(publication.clone())).await;
            }
            if went && wire.feeds.flush().await {
                self.confirmed_before += std::mem::take(&mut self.confirmed);
                self.stored_before += std::mem::take(&mut self.stored);
                self.wire = Some(wire);
                return Ok(());
            }
        }
    }

    async fn reconnect(&mut self) -> Result<(), Failure> {
        // What it confirmed before it ended counts.
        while let Some(Ok(reply)) = match self.wire.as_mut() {
            Some(wire) => wire.replies.recv().await,
            None => None,
        } {
            self.take(reply);
        }
        self.moved = true;
        self.output.warn(match self.pending.len() {
            0 => "the process that was the node has ended: going on without it".to_owned(),
            1 => "the process that was the node has ended: an event that it had not confirmed is sent again".to_owned(),
            n => {
                format!("the process that was the node has ended: {n} events that it had not confirmed are sent again")
            }
        });
        self.connect().await
    }

    async fn publish(&mut self, publication: Publication) -> Result<(), Failure> {
        let feed = Feed::Event(publication.clone());
        self.pending.push_back(publication);
        let went = match &mut self.wire {
            // What stands in the writer's buffer goes when it is full, or at the flush below.
            Some(wire) => wire.feeds.put(&feed).await && wire.feeds.flush().await,
            None => false,
        };
        if !went {
            self.reconnect().await?;
        }
        loop {
            let wire = self.wire.as_mut().ok_or_else(unexpected)?;
            let reply = match wire.replies.try_recv() {
                Ok(reply) => Some(reply),
                Err(mpsc::error::TryRecvError::Empty) if self.pending.len() < WINDOW => return Ok(()),
                Err(_) => wire.replies.recv().await,
            };
            match reply {
                Some(reply) => {
                    self.take(reply?);
                }
                None => self.reconnect().await?,
            }
        }
    }

    fn take(&mut self, reply: Reply) -> Option<Delivered> {
        match reply {
            Reply::Taken { events, stored } => {
                let new = events.saturating_sub(self.confirmed);
                let new = usize::try_from(new).unwrap_or(usize::MAX).min(self.pending.len());
                self.pending.drain(..new);
                (self.confirmed, self.stored) = (events, stored);
                if self.shown.elapsed() >= PROGRESS_EVERY {
                    self.shown = Instant::now();
                    self.output.progress(format!("published {}", self.confirmed_before + self.confirmed));
                }
                None
            }
            Reply::Delivered(delivered) => Some(delivered),
            _ => None,
        }
    }

    /// Says that this was all, and waits for what comes of it.
    async fn finish(&mut self, linger: Duration) -> Result<Delivered, Failure> {
        let linger_ms = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
        'connected: loop {
            let wire = self.wire.as_mut().ok_or_else(unexpected)?;
            if wire.feeds.put(&Feed::Finish { linger_ms, patient: self.moved }).await && wire.feeds.flush().await {
                while let Some(reply) = self.wire.as_mut().ok_or_else(unexpected)?.replies.recv().await {
                    if let Some(delivered) = self.take(reply?) {
                        self.output.progress_done();
                        let events = self.confirmed_before + delivered.events;
                        let stored = self.stored_before + delivered.stored;
                        return Ok(Delivered { events, stored, ..delivered });
                    }
                }
            }
            self.reconnect().await?;
            continue 'connected;
        }
    }

    async fn close(self) {
        drop(self.wire);
        if let Some(access) = self.access {
            access.close().await;
        }
    }
}

/// Checks a name before anything is started.
fn check_name(name: &str) -> Result<(), Failure> {
    match name.parse::<ChannelName>() {
        Ok(_) => Ok(()),
        // `$node` is replaced by whoever opens the channel, so it is not for us to judge.
        Err(_) if name.split('/').any(|segment| segment == "$node") => Ok(()),
        Err(error) => Err(Failure::usage(format!("`{name}` is no channel: {}", chain(&error)))
            .next("names look like `vehicles/fleet-7/telemetry`: `net pub quakes/ak hello`")),
    }
}

/// A field of a JSON object, as text.
fn text_of(value: &Value, field: &str, number: u64) -> Result<String, Failure> {
    match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(_) => Err(Failure::new(format!("line {number}: field `{field}` is neither text nor a number"))
            .next("choose another field")),
        None => {
            let fields: Vec<&str> = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let fields =
                if fields.is_empty() { "it has no fields".to_owned() } else { format!("it has {}", fields.join(", ")) };
            Err(Failure::new(format!("line {number} has no field `{field}`"))
                .next(format!("choose another field: {fields}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_text_or_a_helpful_error() {
        let value = serde_json::json!({ "net": "ak", "mag": 4.2, "felt": null });
        assert_eq!(text_of(&value, "net", 1), Ok("ak".to_owned()));
        assert_eq!(text_of(&value, "mag", 1), Ok("4.2".to_owned()));
        assert!(text_of(&value, "felt", 7).is_err_and(|f| f.message.contains("line 7")));
        assert!(text_of(&value, "nett", 7).is_err_and(|f| f.next.is_some_and(|n| n.contains("net"))));
        assert!(text_of(&Value::Null, "net", 7).is_err());
    }
}
