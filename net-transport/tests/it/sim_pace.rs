//! Who is waited for, and for how long: one that takes frames slowly costs others a tenth of a second, and one that is
//! alone loses nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use net_transport::sim::{self, LinkConfig, SimNet};
use net_transport::{
    Endpoint, EndpointConfig, Event, Header, Inbox, Kind, NodeKeys, OpenAdmission, Pair, Peer, Seed, Sockets,
};

use crate::pair::mesh;

pub(crate) const MS: Duration = Duration::from_millis(1);
const FRAME_LEN: usize = 10_000;
const FAST: u64 = 10_000_000;
/// What one that is slow may cost the others: the tenth of a second, one part in a hundred of the time, and the round
/// trips until a queue has filled again.
fn allowed(alone: Duration) -> Duration {
    alone + 100 * MS + alone / 100 + 25 * MS
}

pub(crate) fn pair(n: u8) -> Pair {
    Pair { channel: [n; 32], origin: [n ^ 0x55; 32] }
}

fn address(node: usize) -> SocketAddr {
    ([10, 0, 0, u8::try_from(node + 1).unwrap()], 4433).into()
}

pub(crate) fn ip(node: usize) -> IpAddr {
    address(node).ip()
}

fn keys(net: &SimNet, node: usize) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new(net.derive(&format!("keys {node}"))))
}

async fn bind(net: &SimNet, node: usize) -> (Endpoint, Inbox) {
    let at = address(node);
    let mut config = EndpointConfig::default();
    config.sockets = Some(Sockets { runtime: net.runtime_of(at.ip()), sockets: vec![net.socket(at).unwrap()] });
    config.seed = Some(net.derive(&format!("endpoint {node}")));
    config.clock = Some(net.time_source());
    config.mdns = false;
    config.limits.queue_bytes = 1 << 20;
    if node != 0 {
        config.known = vec![Peer { binding: *keys(net, 0).binding(), addresses: vec![address(0)] }];
    }
    Endpoint::bind(keys(net, node), mesh(1), Arc::new(OpenAdmission), config).await.unwrap()
}

pub(crate) fn frame(pair: Pair, seq: u64, len: usize) -> Bytes {
    let (channel, origin) = pair.prefix();
    let mut header = Header::new(Kind::Batch);
    header.set_channel(channel);
    header.set_origin(origin);
    header.set_seq(seq);
    header.set_payload_len(u32::try_from(len).unwrap());
    [&header.as_bytes()[..], &vec![7; len]].concat().into()
}

/// A node that has joined, and the seqs that it got.
pub(crate) struct Subscriber {
    pub(crate) endpoint: Endpoint,
    got: Arc<Mutex<Vec<(u64, u64)>>>,
}

/// One origin, and subscribers whose wires from it carry so many bytes a second.
pub(crate) struct World {
    net: SimNet,
    pub(crate) origin: Endpoint,
    _inbox: Inbox,
    pub(crate) subscribers: Vec<Subscriber>,
}

impl World {
    pub(crate) async fn start(net: SimNet, pairs: &[Pair], rates: &[u64]) -> Self {
        for (n, rate) in rates.iter().enumerate() {
            // Nothing is lost on it: a link that finds out how much it may send stands still for longer than is waited.
            let (bytes_per_second, latency, queue_bytes) = (Some(*rate), 5 * MS, 64 << 20);
            let wire = LinkConfig { bytes_per_second, latency, queue_bytes, ..LinkConfig::default() };
            net.set_link(ip(0), ip(n + 1), wire);
        }
        let (origin, inbox) = bind(&net, 0).await;
        pairs.iter().for_each(|pair| origin.serve(*pair));
        let mut world = Self { net, origin, _inbox: inbox, subscribers: Vec::new() };
        for n in 0..rates.len() {
            let subscriber = Subscriber::start(&world, n + 1, pairs).await;
            world.subscribers.push(subscriber);
        }
        world
    }

    /// Publishes so many frames of a pair as fast as it may; gives what was left out.
    async fn publish(&self, pair: Pair, frames: u64) -> u64 {
        let mut skipped = 0;
        for seq in 0..frames {
            self.origin.room(&pair).await;
            skipped += u64::from(self.origin.publish(&pair, frame(pair, seq, FRAME_LEN)).skipped);
        }
        skipped
    }

    /// The seqs of a pair that a subscriber has got.
    pub(crate) fn seqs(&self, subscriber: usize, pair: Pair) -> Vec<u64> {
        let got = self.subscribers[subscriber].got.lock().unwrap();
        got.iter().filter(|(channel, _)| *channel == pair.prefix().0).map(|(_, seq)| *seq).collect()
    }

    fn count(&self, subscriber: usize) -> usize {
        self.subscribers[subscriber].got.lock().unwrap().len()
    }

    /// Waits until a subscriber has got so many frames.
    async fn got(&self, subscriber: usize, frames: usize) {
        let began = self.net.elapsed();
        while self.count(subscriber) < frames {
            assert!(self.net.elapsed() - began < 60_000 * MS, "{} of {frames} frames", self.count(subscriber));
            tokio::time::sleep(MS).await;
        }
    }
}

impl Subscriber {
    async fn start(world: &World, node: usize, pairs: &[Pair]) -> Self {
        let (endpoint, Inbox { mut frames, mut events }) = bind(&world.net, node).await;
        pairs.iter().for_each(|pair| endpoint.join(*pair, world.origin.id()));
        for _ in pairs {
            while !matches!(events.recv().await.unwrap(), Event::Joined { .. }) {}
        }
        let got = Arc::new(Mutex::new(Vec::new()));
        let seen = got.clone();
        world.net.spawn_on(ip(node), async move {
            loop {
                tokio::select! {
                    biased;
                    frame = frames.recv() => match frame {
                        Some(frame) => {
                            let header = frame.header();
                            seen.lock().unwrap().push((header.channel(), header.seq()));
                        }
                        None => return,
                    },
                    event = events.recv() => if event.is_none() { return },
                }
            }
        });
        Self { endpoint, got }
    }
}

/// How long `frames` frames take to the first subscriber, beside others with these rates; and what the others missed.
fn takes(frames: u64, others: &[u64], pause_second: bool) -> (Duration, u64) {
    let rates = [&[FAST], others].concat();
    sim::run(1, |net| async move {
        let world = World::start(net.clone(), &[pair(1)], &rates).await;
        if pause_second {
            net.pause(ip(2));
        }
        let began = net.elapsed();
        let skipped = world.publish(pair(1), frames).await;
        world.got(0, usize::try_from(frames).unwrap()).await;
        let took = net.elapsed() - began;
        let mut seqs: Vec<u64> = world.subscribers[0].got.lock().unwrap().iter().map(|(_, seq)| *seq).collect();
        seqs.dedup();
        assert_eq!(seqs, (0..frames).collect::<Vec<_>>(), "who keeps up misses nothing");
        assert_eq!(
            world.origin.metrics().frames_skipped_slow + world.origin.metrics().frames_skipped_queue_full,
            skipped
        );
        (took, skipped)
    })
}

#[test]
fn subscriber_of_a_tenth_of_the_speed_costs_others_a_tenth_of_a_second() {
    let (alone, _) = takes(6000, &[], false);
    let (beside, skipped) = takes(6000, &[FAST / 10], false);
    println!("alone {alone:?}, beside a slow one {beside:?}, which missed {skipped}");
    assert!(beside <= allowed(alone), "{beside:?} instead of {alone:?}");
    assert!(skipped > 3000, "it could not keep up: {skipped}");
}

#[test]
fn subscriber_of_half_the_speed_costs_others_a_tenth_of_a_second() {
    let (alone, _) = takes(6000, &[], false);
    let (beside, skipped) = takes(6000, &[FAST / 2], false);
    println!("alone {alone:?}, beside one of half the speed {beside:?}, which missed {skipped}");
    assert!(beside <= allowed(alone), "{beside:?} instead of {alone:?}");
    assert!(skipped > 1000, "it could not keep up: {skipped}");
}

#[test]
fn subscriber_that_stands_still_costs_others_a_tenth_of_a_second() {
    let (alone, _) = takes(6000, &[], false);
    let (beside, skipped) = takes(6000, &[FAST], true);
    println!("alone {alone:?}, beside one that stands still {beside:?}, which missed {skipped}");
    assert!(beside <= allowed(alone), "{beside:?} instead of {alone:?}");
    assert!(skipped > 3000, "{skipped}");
}

#[test]
fn subscribers_of_equal_speed_miss_nothing_however_fast_the_producer_is() {
    let (_, skipped) = takes(3000, &[FAST, FAST, FAST], false);
    assert_eq!(skipped, 0);
}

#[test]
fn subscriber_that_is_alone_loses_nothing_to_speed() {
    sim::run(1, |net| async move {
        let world = World::start(net, &[pair(1)], &[FAST / 100]).await;
        assert_eq!(world.publish(pair(1), 500).await, 0);
        world.got(0, 500).await;
    });
}

#[test]
fn many_producers_wait_for_the_one_link_they_share() {
    sim::run(1, |net| async move {
        let pairs: Vec<Pair> = (0..40).map(pair).collect();
        let world = Arc::new(World::start(net, &pairs, &[FAST / 10]).await);
        let producers: Vec<_> = pairs
            .into_iter()
            .map(|pair| {
                tokio::spawn({
                    let world = world.clone();
                    async move { world.publish(pair, 30).await }
                })
            })
            .collect();
        for producer in producers {
            assert_eq!(producer.await.unwrap(), 0, "nothing is left out");
        }
        world.got(0, 40 * 30).await;
    });
}

#[test]
fn what_a_slow_subscriber_misses_is_in_few_pieces_and_it_is_served_again() {
    sim::run(1, |net| async move {
        let world = World::start(net.clone(), &[pair(1)], &[FAST, FAST / 4]).await;
        let skipped = world.publish(pair(1), 3000).await;
        assert!(skipped > 0);
        world.got(1, usize::try_from(3000 - skipped).unwrap()).await;
        let seqs: Vec<u64> = world.subscribers[1].got.lock().unwrap().iter().map(|(_, seq)| *seq).collect();
        let gaps = seqs.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        println!("{skipped} of 3000 missed in {gaps} gaps");
        assert!(gaps < 60, "{gaps} gaps for {skipped} frames");
        // All is drained: whatever comes now arrives at both.
        let before = (world.count(0), world.count(1));
        assert_eq!(world.publish(pair(1), 20).await, 0);
        world.got(0, before.0 + 20).await;
        world.got(1, before.1 + 20).await;
    });
}

#[test]
fn subscriber_that_says_it_is_full_again_and_again_costs_others_a_tenth_of_a_second() {
    let run = |flaps: bool| {
        sim::run(1, |net| async move {
            let world = World::start(net.clone(), &[pair(1)], &[FAST, FAST]).await;
            let second = world.subscribers[1].endpoint.clone();
            let flapping = flaps.then(|| {
                tokio::spawn(async move {
                    loop {
                        second.set_full(&pair(1), true);
                        tokio::time::sleep(90 * MS).await;
                        second.set_full(&pair(1), false);
                        tokio::time::sleep(5 * MS).await;
                    }
                })
            });
            let began = net.elapsed();
            world.publish(pair(1), 4000).await;
            world.got(0, 4000).await;
            flapping.inspect(tokio::task::JoinHandle::abort);
            net.elapsed() - began
        })
    };
    let (steady, beside) = (run(false), run(true));
    println!("steady {steady:?}, beside one that flaps {beside:?}");
    assert!(beside <= allowed(steady), "{beside:?} instead of {steady:?}");
}

#[test]
fn own_subscriber_that_is_alone_loses_nothing_to_speed() {
    sim::run(1, |net| async move {
        let (origin, inbox) = bind(&net, 0).await;
        let Inbox { mut frames, events } = inbox;
        origin.join(pair(1), origin.id());
        origin.serve(pair(1));
        let publisher = tokio::spawn({
            let origin = origin.clone();
            async move {
                for seq in 0..2000 {
                    origin.room(&pair(1)).await;
                    assert_eq!(origin.publish(&pair(1), frame(pair(1), seq, FRAME_LEN)).skipped, 0, "frame {seq}");
                }
            }
        });
        for seq in 0..2000 {
            // A reader that takes its time: the producer is far ahead of it.
            tokio::task::yield_now().await;
            assert_eq!(frames.recv().await.unwrap().header().seq(), seq);
        }
        publisher.await.unwrap();
        drop(events);
    });
}
