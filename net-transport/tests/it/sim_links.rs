//! What links of a simulated network do to datagrams.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net_transport::sim::{self, Faults, LinkConfig, Outcome, SimNet, SimSocket};
use quinn::AsyncUdpSocket as _;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::time::{Instant, timeout};

const MS: Duration = Duration::from_millis(1);

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pair(net: &SimNet) -> (Arc<SimSocket>, Arc<SimSocket>) {
    (net.socket(address("10.0.0.1:1")).unwrap(), net.socket(address("10.0.0.2:1")).unwrap())
}

/// Everything that arrives until nothing has for a minute.
async fn drain(socket: &SimSocket) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Ok(received) = timeout(Duration::from_secs(60), socket.recv_from()).await {
        all.push(received.unwrap().0.to_vec());
    }
    all
}

fn numbered(i: u32) -> [u8; 4] {
    i.to_be_bytes()
}

/// Sends `count` numbered datagrams over a link and gives what arrived and what was done.
fn sent_over(seed: u64, count: u32, config: LinkConfig) -> (Vec<u32>, Faults) {
    sim::run(seed, |net| async move {
        net.set_default(config);
        let (a, b) = pair(&net);
        for i in 0..count {
            a.send_to(&numbered(i), b.address()).unwrap();
            tokio::time::sleep(MS).await;
        }
        let arrived = drain(&b).await.iter().map(|d| u32::from_be_bytes(d[..].try_into().unwrap())).collect();
        assert_all_accounted_for(net.faults());
        (arrived, net.faults())
    })
}

pub(crate) fn assert_all_accounted_for(faults: Faults) {
    assert_eq!(faults.sent + faults.duplicated, faults.delivered + faults.dropped(), "{faults}");
}

#[test]
fn a_perfect_link_delivers_in_order_with_its_sender() {
    let (arrived, faults) = sent_over(1, 100, LinkConfig::default());
    assert_eq!(arrived, (0..100).collect::<Vec<_>>());
    assert_eq!((faults.sent, faults.delivered, faults.dropped(), faults.reordered), (100, 100, 0, 0));
    sim::run(1, |net| async move {
        let (a, b) = pair(&net);
        a.send_to(b"", b.address()).unwrap();
        assert_eq!(b.recv_from().await.unwrap(), (bytes::Bytes::new(), a.address()));
    });
}

#[test]
fn latency_is_what_was_configured_in_each_direction() {
    sim::run(1, |net| async move {
        let (a, b) = pair(&net);
        let (a_ip, b_ip) = (a.address().ip(), b.address().ip());
        net.set_link(a_ip, b_ip, LinkConfig { latency: 30 * MS, ..LinkConfig::default() });
        net.set_link(b_ip, a_ip, LinkConfig { latency: 70 * MS, ..LinkConfig::default() });
        let began = Instant::now();
        a.send_to(b"ping", b.address()).unwrap();
        b.recv_from().await.unwrap();
        assert_eq!(began.elapsed(), 30 * MS);
        b.send_to(b"pong", a.address()).unwrap();
        a.recv_from().await.unwrap();
        assert_eq!(began.elapsed(), 100 * MS);
    });
}

#[test]
fn less_than_a_millisecond_is_rounded_up_never_down() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { latency: Duration::from_micros(1100), ..LinkConfig::default() });
        let (a, b) = pair(&net);
        let began = Instant::now();
        a.send_to(b"ping", b.address()).unwrap();
        b.recv_from().await.unwrap();
        assert_eq!(began.elapsed(), 2 * MS);
    });
}

#[test]
fn jitter_spreads_arrivals_and_keeps_order() {
    let delays: Vec<_> = sim::run(1, |net| async move {
        net.set_default(LinkConfig { latency: 10 * MS, jitter: 20 * MS, ..LinkConfig::default() });
        let (a, b) = pair(&net);
        let mut delays = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            a.send_to(b"ping", b.address()).unwrap();
            b.recv_from().await.unwrap();
            delays.push(began.elapsed());
        }
        delays
    });
    assert!(delays.iter().all(|delay| (10 * MS..=31 * MS).contains(delay)), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay < 14 * MS) && delays.iter().any(|delay| *delay > 26 * MS), "{delays:?}");
    let jittery = LinkConfig { jitter: 20 * MS, ..LinkConfig::default() };
    let (arrived, faults) = sent_over(1, 200, jittery);
    assert_eq!((arrived, faults.reordered), ((0..200).collect(), 0));
}

#[test]
fn loss_is_as_likely_as_configured() {
    for (loss, least, most) in [(0.0, 0, 0), (0.2, 1_800, 2_200), (1.0, 10_000, 10_000)] {
        let (arrived, faults) = sent_over(1, 10_000, LinkConfig { loss, ..LinkConfig::default() });
        assert!((least..=most).contains(&faults.dropped_loss), "{faults}");
        assert_eq!(arrived.len() as u64, 10_000 - faults.dropped_loss);
        assert!(arrived.is_sorted());
    }
}

#[test]
fn reordered_datagrams_arrive_once_and_are_counted() {
    let (arrived, faults) =
        sent_over(1, 10_000, LinkConfig { reorder: 0.1, reorder_delay: 10 * MS, ..LinkConfig::default() });
    let mut highest = 0;
    let mut overtaken = 0;
    for i in &arrived {
        overtaken += u64::from(*i < highest);
        highest = highest.max(*i);
    }
    assert!((700..=1_000).contains(&overtaken), "{overtaken}");
    assert_eq!(faults.reordered, overtaken);
    let mut sorted = arrived;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn duplicates_arrive_twice() {
    let config = LinkConfig { duplicate: 0.1, reorder_delay: 10 * MS, ..LinkConfig::default() };
    let (mut arrived, faults) = sent_over(1, 10_000, config);
    assert!((900..=1_100).contains(&faults.duplicated), "{faults}");
    assert_eq!(arrived.len() as u64, 10_000 + faults.duplicated);
    assert!(!arrived.is_sorted(), "copies come late");
    assert_eq!(faults.reordered, 0, "and do not count as reordered");
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn corruption_flips_one_bit() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { corrupt: 0.5, ..LinkConfig::default() });
        let (a, b) = pair(&net);
        for _ in 0..1_000 {
            a.send_to(&[0x55; 100], b.address()).unwrap();
        }
        let flips =
            drain(&b).await.iter().map(|d| d.iter().map(|byte| (byte ^ 0x55).count_ones()).sum()).collect::<Vec<u32>>();
        assert_eq!(flips.len(), 1_000);
        assert!(flips.iter().all(|flips| *flips <= 1));
        let corrupted = flips.iter().filter(|flips| **flips == 1).count();
        assert_eq!(corrupted as u64, net.faults().corrupted);
        assert!((400..=600).contains(&corrupted), "{corrupted}");
    });
}

#[test]
fn what_exceeds_the_mtu_is_dropped() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig { mtu: 1200, ..LinkConfig::default() });
        let (a, b) = pair(&net);
        a.send_to(&[0; 1201], b.address()).unwrap();
        a.send_to(&[1; 1200], b.address()).unwrap();
        assert_eq!(drain(&b).await, [vec![1; 1200]]);
        assert_eq!(net.faults().dropped_mtu, 1);
    });
}

#[test]
fn bandwidth_is_what_was_configured() {
    sim::run(1, |net| async move {
        net.set_default(LinkConfig {
            latency: 5 * MS,
            bytes_per_second: Some(1_000_000),
            queue_bytes: 10_000_000,
            ..LinkConfig::default()
        });
        let (a, b) = pair(&net);
        let began = Instant::now();
        for _ in 0..2_000 {
            a.send_to(&[0; 1_000], b.address()).unwrap();
        }
        for i in 1..=2_000 {
            b.recv_from().await.unwrap();
            assert_eq!(began.elapsed(), 5 * MS + i * MS, "1,000 bytes take 1 ms of the wire");
        }
    });
}

#[test]
fn a_full_queue_drops_what_comes_last() {
    sim::run(1, |net| async move {
        let slow = LinkConfig { bytes_per_second: Some(100_000), queue_bytes: 10_000, ..LinkConfig::default() };
        net.set_default(slow);
        let (a, b) = pair(&net);
        for i in 0..50 {
            a.send_to(&[i; 1_000], b.address()).unwrap();
        }
        let arrived = drain(&b).await;
        assert_eq!(arrived.iter().map(|d| d[0]).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(net.faults().dropped_queue, 40);
        assert_all_accounted_for(net.faults());

        net.set_default(LinkConfig { queue_bytes: 0, ..slow });
        a.send_to(&[7; 1_000], b.address()).unwrap();
        assert_eq!(drain(&b).await.len(), 1, "an idle wire takes any datagram");
    });
}

#[test]
fn a_receive_buffer_that_is_full_drops_and_recovers() {
    sim::run(1, |net| async move {
        net.set_receive_buffer(10 * (1_000 + 64));
        let (a, b) = pair(&net);
        for round in 0..3u64 {
            for i in 0..15 {
                a.send_to(&[i; 1_000], b.address()).unwrap();
            }
            tokio::time::sleep(10 * MS).await;
            assert_eq!(net.faults().dropped_buffer, 5 * (round + 1));
            assert_eq!(drain(&b).await.len(), 10);
        }
    });
}

#[test]
fn what_is_on_its_way_is_bounded() {
    sim::run(1, |net| async move {
        net.set_in_flight_max(10_000);
        let (a, b) = pair(&net);
        for _ in 0..20 {
            a.send_to(&[0; 1_000], b.address()).unwrap();
        }
        // There has to be room for a copy, even if none is made.
        assert_eq!(drain(&b).await.len(), 9);
        assert_eq!(net.faults().dropped_queue, 11);
        a.send_to(&[0; 1_000], b.address()).unwrap();
        assert_eq!(drain(&b).await.len(), 1, "what has arrived makes room");
    });
}

#[test]
fn segments_are_datagrams_marks_pass_and_small_buffers_cut() {
    sim::run(1, |net| async move {
        let (a, b) = pair(&net);
        let ecn = Some(EcnCodepoint::Ect0);
        let contents: Vec<u8> = (0..25).collect();
        let transmit =
            Transmit { destination: b.address(), ecn, contents: &contents, segment_size: Some(10), src_ip: None };
        a.try_send(&transmit).unwrap();
        tokio::time::sleep(10 * MS).await;
        let (mut first, mut second) = ([0; 7], [0; 20]);
        let mut bufs = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        let mut meta = [RecvMeta::default(); 2];
        let count = std::future::poll_fn(|cx| b.poll_recv(cx, &mut bufs, &mut meta)).await.unwrap();
        assert_eq!(count, 2);
        assert_eq!(meta.map(|m| (m.addr, m.len, m.stride)), [(a.address(), 7, 7), (a.address(), 10, 10)]);
        assert_eq!(meta.map(|m| (m.ecn, m.dst_ip)), [(ecn, Some(b.address().ip())); 2]);
        assert_eq!((&first[..], &second[..10]), (&contents[..7], &contents[10..20]));
        assert_eq!(b.recv_from().await.unwrap().0, contents[20..]);
    });
}

#[test]
fn a_datagram_to_nobody_is_counted() {
    sim::run(1, |net| async move {
        let (a, b) = pair(&net);
        let gone = b.address();
        drop(b);
        a.send_to(b"anybody", gone).unwrap();
        tokio::time::sleep(10 * MS).await;
        assert_eq!(net.faults().dropped_unbound, 1);
        net.socket(gone).expect("the address is free again");
    });
}

#[test]
fn addresses_are_bound_once() {
    sim::run(1, |net| async move {
        let a = net.socket(address("10.0.0.1:0")).unwrap();
        let b = net.socket(address("10.0.0.1:0")).unwrap();
        assert_ne!(a.address(), b.address());
        let error = |text| net.socket(address(text)).unwrap_err().kind();
        assert_eq!(net.socket(a.address()).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(error("0.0.0.0:7"), std::io::ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn faults_of_one_link_do_not_depend_on_traffic_of_another() {
    let lost = |with_other: bool| {
        sim::run(1, |net| async move {
            net.set_default(LinkConfig { loss: 0.5, ..LinkConfig::default() });
            let (a, b) = pair(&net);
            let c = net.socket(address("10.0.0.3:1")).unwrap();
            for i in 0..100 {
                if with_other {
                    a.send_to(b"noise", c.address()).unwrap();
                }
                a.send_to(&[i], b.address()).unwrap();
            }
            drain(&b).await
        })
    };
    assert_eq!(lost(true), lost(false));
}

/// Many datagrams over links with every fault, as one trace.
fn stormy(seed: u64) -> (u64, u64, Faults) {
    sim::run(seed, |net| async move {
        net.keep_trace(10);
        net.set_default(LinkConfig {
            latency: 3 * MS,
            jitter: 7 * MS,
            loss: 0.1,
            reorder: 0.1,
            reorder_delay: 20 * MS,
            duplicate: 0.1,
            corrupt: 0.1,
            mtu: 1_000,
            bytes_per_second: Some(2_000_000),
            queue_bytes: 20_000,
        });
        let sockets: Vec<_> = (1..=4).map(|i| net.socket(address(&format!("10.0.0.{i}:1"))).unwrap()).collect();
        let mut rng = net.rng("scenario");
        for _ in 0..2_000 {
            let [from, to] = [(); 2].map(|()| &sockets[rng.below(4) as usize]);
            let len = rng.below(1_020) as usize;
            from.send_to(&vec![7; len], to.address()).unwrap();
            tokio::time::sleep(rng.up_to(2 * MS)).await;
        }
        tokio::time::sleep(100 * MS).await;
        assert_all_accounted_for(net.faults());
        assert_eq!(net.trace().len(), 10);
        assert!(net.trace().iter().any(|record| record.outcome == Outcome::Delivered));
        (net.trace_hash(), net.trace_shape_hash(), net.faults())
    })
}

#[test]
fn sim_the_seed_decides_the_trace() {
    let mut hashes = std::collections::BTreeSet::new();
    let mut runs = 0;
    for seed in sim::seeds(5) {
        let (first, second) = (stormy(seed), stormy(seed));
        assert_eq!(first, second, "NET_SIM_SEED={seed}");
        let (hash, shape, faults) = first;
        let injected = [faults.dropped_loss, faults.dropped_mtu, faults.duplicated, faults.reordered, faults.corrupted];
        assert!(injected.iter().all(|count| *count > 0), "{faults}; NET_SIM_SEED={seed}");
        println!("seed {seed}: trace {hash:016x}, {faults}");
        hashes.insert(hash);
        hashes.insert(shape);
        runs += 1;
    }
    assert_eq!(hashes.len(), 2 * runs, "every seed has a trace of its own");
}

#[test]
fn a_failing_scenario_names_its_seed() {
    let failed = std::panic::catch_unwind(|| sim::run(4711, |_| async { panic!("lost an event") }));
    let message = *failed.expect_err("it panics").downcast::<String>().unwrap();
    assert_eq!(message, "lost an event; NET_SIM_SEED=4711");
    let stuck = std::panic::catch_unwind(|| sim::run(4712, |_| std::future::pending::<()>()));
    let message = *stuck.expect_err("it panics").downcast::<String>().unwrap();
    assert!(message.ends_with("NET_SIM_SEED=4712"), "{message}");
}
