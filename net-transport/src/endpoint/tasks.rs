//! The tasks of an endpoint: timers, accepting, dialling.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::shared::{Shared, unix_ms};
use crate::addresses;
use crate::group::Group;
use crate::link::{CloseCode, establish};
use crate::socket::canonical;
use crate::sync::lock;
use crate::{Event, NodeId, Peer};

/// With more handshakes open than this, others must show that their address is theirs.
const RETRY_FROM: usize = 64;
/// With more handshakes open than this, others must wait.
const HANDSHAKES_MAX: usize = 1024;
/// Within this time a handshake must be complete.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address is tried before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);
/// How often the interfaces of the machine are looked at.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

impl Shared {
    /// Timers of the directory and the dialler.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut look = Instant::now() + ADDRESSES_EVERY;
        loop {
            let due = {
                let state = lock(&self.state);
                let dial = state.dialer.poll_timeout(self.config.links_max);
                dial.into_iter().chain([look, state.directory.poll_timeout()]).min().unwrap_or(look)
            };
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = self.timer.notified() => {}
                () = self.addresses_changed.notified() => look = Instant::now(),
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if now >= look {
                look = now + ADDRESSES_EVERY;
                self.update_addresses(now);
            }
            let dials: Vec<(Peer, u64)> = {
                let mut guard = lock(&self.state);
                let state = &mut *guard;
                let unix_ms = unix_ms(&self.config);
                self.with_directory(state, |directory, out| directory.handle_timeout(now, unix_ms, out));
                std::iter::from_fn(|| state.dialer.poll_dial(now, self.config.links_max)).collect()
            };
            for (peer, number) in dials {
                self.tasks.spawn(self.clone().dial(peer, number));
            }
        }
    }

    /// Where others may dial this node.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let interfaces = if self.bound.iter().any(|bound| bound.ip().is_unspecified()) {
            addresses::interfaces()
        } else {
            Vec::new()
        };
        addresses::candidates(&self.bound, &interfaces, &lock(&self.state).observed)
    }

    pub(super) fn update_addresses(&self, now: Instant) {
        let addresses = self.addresses();
        let unix_ms = unix_ms(&self.config);
        let mut state = lock(&self.state);
        self.with_directory(&mut state, |directory, out| directory.set_addresses(now, unix_ms, addresses, out));
    }

    /// Moves events to the layer above until the endpoint is closed.
    pub(super) async fn pump(self: Arc<Self>, events: mpsc::Sender<Event>) {
        tokio::select! {
            biased;
            () = self.events.pump(events) => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Answers others on one socket.
    pub(super) async fn accept(self: Arc<Self>, endpoint: quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let open = self.handshakes.load(Ordering::Relaxed);
            // An `Incoming` that is merely dropped would be answered.
            if self.closing.is_cancelled() || open >= HANDSHAKES_MAX {
                incoming.ignore();
                continue;
            }
            if open >= RETRY_FROM && !incoming.remote_address_validated() && incoming.may_retry() {
                self.counters.handshakes_retried.one();
                if let Err(refused) = incoming.retry() {
                    refused.into_incoming().ignore();
                }
                continue;
            }
            let address = incoming.remote_address();
            // quinn checks here that the packet is of somebody who knows the psk, and stays silent if not.
            let Ok((connecting, group)) = Group::of_driver(&self.runtime, || incoming.accept()) else {
                self.counters.handshakes_failed.one();
                continue;
            };
            let in_use = self.address_in_use(address);
            let handshake = Handshake::begin(&self.handshakes);
            let shared = self.clone();
            self.tasks.spawn(async move {
                let established = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
                    Ok(Ok(connection)) => establish(&shared, connection, group, None, in_use).await.is_ok(),
                    _ => false,
                };
                if !established {
                    shared.counters.handshakes_failed.one();
                }
                drop(handshake);
            });
        }
    }

    /// Dials a peer on its addresses, one after the other with little time between, until one makes a link.
    pub(super) async fn dial(self: Arc<Self>, peer: Peer, number: u64) {
        self.counters.dials.one();
        let node = peer.node();
        let outcome = tokio::select! {
            biased;
            () = self.closing.cancelled() => Err("the endpoint is closing".to_owned()),
            outcome = self.clone().dial_addresses(&peer, number) => outcome,
        };
        let now = Instant::now();
        let mut state = lock(&self.state);
        match outcome {
            Ok(()) => state.dialer.succeeded(&node),
            Err(error) => {
                self.counters.dials_failed.one();
                tracing::debug!(%node, error, "dial failed");
                state.dialer.failed(now, &node, error, self.random());
            }
        }
        drop(state);
        self.timer.notify_one();
    }

    async fn dial_addresses(self: Arc<Self>, peer: &Peer, number: u64) -> Result<(), String> {
        let mut attempts: JoinSet<Result<(), (SocketAddr, String)>> = JoinSet::new();
        // Only one connection of a dial may say hello.
        let greeting = Arc::new(tokio::sync::Mutex::new(false));
        let mut waiting = peer.addresses.iter().peekable();
        let mut last = "no address to dial".to_owned();
        let mut next = waiting.next();
        loop {
            if let Some(address) = next.take() {
                let (shared, address, greeting) = (self.clone(), *address, greeting.clone());
                let binding = peer.binding;
                attempts.spawn(async move {
                    let node = binding.node();
                    if !lock(&shared.state).dialer.may_try(Instant::now(), &node, address) {
                        shared.counters.dials_held_back.one();
                        return Err((address, "others there have not answered too often, later again".to_owned()));
                    }
                    let (connection, group) =
                        shared.clone().connect(binding, address).await.map_err(|e| (address, e))?;
                    lock(&shared.state).dialer.answered(&node, address);
                    let mut greeted = greeting.lock().await;
                    if *greeted {
                        return Err((address, "another address was faster".to_owned()));
                    }
                    let in_use = shared.address_in_use(address);
                    establish(&shared, connection, group, Some(number), in_use)
                        .await
                        .map(|()| *greeted = true)
                        .map_err(|error| (address, error.to_string()))
                });
            }
            tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => match attempt {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err((address, error))) => {
                        last = format!("{address}: {error}");
                        next = waiting.next();
                    }
                    Err(_) => next = waiting.next(),
                },
                () = sleep(STAGGER), if waiting.peek().is_some() => next = waiting.next(),
            }
            if next.is_none() && attempts.is_empty() {
                return Err(last);
            }
        }
    }

    async fn connect(
        self: Arc<Self>,
        binding: crate::StaticBinding,
        address: SocketAddr,
    ) -> Result<(quinn::Connection, Group), String> {
        let _in_use = self.address_in_use(address);
        let address = canonical(address);
        let endpoint = self.endpoint_for(address).ok_or("no socket of this address family")?;
        let client = self.quic.client_config(binding);
        let connecting = Group::of_driver(&self.runtime, || endpoint.connect_with(client, address, "net"));
        let (connecting, group) = connecting.map_err(|error| error.to_string())?;
        match timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok((connection, group)),
            Ok(Err(error)) => Err(CloseCode::explain(&error)),
            Err(_) => Err("no answer: nobody there, another mesh or another psk".to_owned()),
        }
    }

    /// The socket that reaches an address.
    fn endpoint_for(&self, address: SocketAddr) -> Option<quinn::Endpoint> {
        let fits = |bound: &SocketAddr| {
            let dual = bound.is_ipv6() && bound.ip().is_unspecified();
            let family = bound.is_ipv4() == address.is_ipv4() || dual;
            // From loopback only loopback is reached.
            family && (!bound.ip().is_loopback() || address.ip().is_loopback())
        };
        let exact = |bound: &SocketAddr| fits(bound) && bound.is_ipv4() == address.is_ipv4();
        let position = self.bound.iter().position(exact).or_else(|| self.bound.iter().position(fits))?;
        lock(&self.endpoints).get(position).cloned()
    }

    /// Makes a fresh connection with a neighbour, which then takes over.
    pub(crate) fn renew(self: &Arc<Self>, node: &NodeId, address: SocketAddr) {
        let Some((mut peer, number)) = lock(&self.state).dialer.redial(node) else { return };
        peer.addresses.retain(|other| *other != address);
        peer.addresses.insert(0, address);
        self.tasks.spawn(self.clone().dial(peer, number));
    }
}

/// A handshake that is not complete; over when dropped.
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn begin(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
