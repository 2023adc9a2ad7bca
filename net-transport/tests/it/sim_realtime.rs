//! Realtime frames on bad wires: most arrive, the newest always wins, and they hold up nobody.

use bytes::Bytes;
use net_transport::Header;
use net_transport::sim::{self, Faults, LinkConfig, SimNet};

use crate::sim_pace::{MS, World, frame, ip, pair};

fn realtime(n: u8, seq: u64, len: usize) -> Bytes {
    let mut bytes = frame(pair(n), seq, len).to_vec();
    bytes[1] = Header::REALTIME;
    bytes.into()
}

async fn in_bad_weather(net: SimNet) -> (u64, Faults, usize) {
    let pairs = [pair(1), pair(2)];
    let world = World::start(net.clone(), &pairs, &[10_000_000]).await;
    let wire = LinkConfig {
        latency: 5 * MS,
        loss: 0.05,
        reorder: 0.05,
        reorder_delay: 20 * MS,
        duplicate: 0.01,
        ..LinkConfig::default()
    };
    net.set_link_both(ip(0), ip(1), wire);
    // A realtime pair and a reliable one on one link.
    let origin = world.origin.clone();
    let reliable = tokio::spawn(async move {
        for seq in 0..1000 {
            origin.room(&pair(2)).await;
            assert_eq!(origin.publish(&pair(2), frame(pair(2), seq, 256)).skipped, 0);
            tokio::time::sleep(2 * MS).await;
        }
    });
    for seq in 0..2000 {
        world.origin.publish(&pair(1), realtime(1, seq, 256));
        tokio::time::sleep(MS).await;
    }
    reliable.await.unwrap();
    tokio::time::sleep(2000 * MS).await;
    let mut fresh = world.seqs(0, pair(1));
    let arrived = fresh.len();
    fresh.sort_unstable();
    fresh.dedup();
    assert_eq!(fresh.len(), arrived, "QUIC gives each datagram once");
    assert_eq!(world.seqs(0, pair(2)), (0..1000).collect::<Vec<_>>(), "what is reliable stays so");
    (net.trace_hash(), net.faults(), arrived)
}

#[test]
fn sim_most_realtime_frames_pass_loss_and_reordering_beside_a_reliable_pair() {
    for seed in sim::seeds(3) {
        let first = sim::run(seed, in_bad_weather);
        let (_, faults, arrived) = &first;
        println!("seed {seed}: {arrived} of 2000 arrived, {faults}");
        assert!(*arrived >= 1800, "NET_SIM_SEED={seed}: {arrived} of 2000");
        assert!(faults.dropped_loss > 0 && faults.reordered > 0 && faults.duplicated > 0, "{faults}");
        assert_eq!(first, sim::run(seed, in_bad_weather), "NET_SIM_SEED={seed}");
    }
}

/// Large frames on a wire that carries a third of them.
#[test]
fn newest_of_large_frames_wins_and_small_ones_of_another_pair_are_not_held_up() {
    sim::run(1, |net| async move {
        let world = World::start(net.clone(), &[pair(1), pair(2)], &[1_000_000]).await;
        let (latency, bytes_per_second, queue_bytes) = (5 * MS, Some(1_000_000), 48 << 10);
        let wire = LinkConfig { latency, bytes_per_second, queue_bytes, ..LinkConfig::default() };
        net.set_link(ip(0), ip(1), wire);
        let mut behind = Vec::new();
        for round in 0..40 {
            world.origin.publish(&pair(1), realtime(1, round, 300_000));
            // Small ones while it is under way.
            for small in 0..10 {
                let seq = round * 10 + small;
                world.origin.publish(&pair(2), realtime(2, seq, 200));
                tokio::time::sleep(10 * MS).await;
                behind.push(seq - world.seqs(0, pair(2)).last().copied().unwrap_or(0));
            }
        }
        tokio::time::sleep(1000 * MS).await;
        let (large, small) = (world.seqs(0, pair(1)), world.seqs(0, pair(2)));
        let (sender, receiver) = (world.origin.metrics(), world.subscribers[0].endpoint.metrics());
        behind.sort_unstable();
        let (median, worst) = (behind[behind.len() / 2], behind[behind.len() - 1]);
        println!(
            "of 40 large ones {} arrived, {} were superseded, {} streams reset; of 400 small ones {} arrived, {median} \
             behind, {worst} at most",
            large.len(),
            sender.realtime_superseded,
            receiver.realtime_superseded,
            small.len()
        );
        assert_eq!(large.last(), Some(&39), "the newest arrives");
        assert!(large.is_sorted(), "{large:?}");
        assert!(large.len() < 30 && large.len() as u64 + sender.realtime_superseded >= 40, "{large:?}");
        assert!(receiver.realtime_superseded > 0, "streams were reset");
        assert!(small.len() >= 320 && median <= 10 && worst <= 60, "each stands for 10 ms");
    });
}

#[test]
fn subscriber_that_stands_still_does_not_hold_up_realtime_frames_of_others() {
    sim::run(1, |net| async move {
        let world = World::start(net.clone(), &[pair(1)], &[10_000_000, 10_000_000]).await;
        net.pause(ip(2));
        for seq in 0..3000 {
            world.origin.room(&pair(1)).await;
            let began = net.elapsed();
            assert_eq!(world.origin.publish(&pair(1), realtime(1, seq, 1000)).links, 2);
            tokio::time::sleep(MS).await;
            assert!(net.elapsed() - began <= 2 * MS);
        }
        tokio::time::sleep(100 * MS).await;
        assert_eq!(world.seqs(0, pair(1)), (0..3000).collect::<Vec<_>>());
        let dropped = world.origin.metrics().realtime_dropped_unsent;
        assert!(dropped > 2000, "the oldest for the other: {dropped}");
    });
}

#[test]
fn flood_of_realtime_frames_leaves_a_part_of_the_link_to_what_is_reliable() {
    sim::run(1, |net| async move {
        let world = World::start(net.clone(), &[pair(1), pair(2)], &[1_000_000]).await;
        let (latency, bytes_per_second, queue_bytes) = (5 * MS, Some(1_000_000), 48 << 10);
        net.set_link(ip(0), ip(1), LinkConfig { latency, bytes_per_second, queue_bytes, ..LinkConfig::default() });
        let origin = world.origin.clone();
        let reliable = tokio::spawn(async move {
            for seq in 0.. {
                origin.room(&pair(2)).await;
                origin.publish(&pair(2), frame(pair(2), seq, 1000));
            }
        });
        // Three times what the wire carries, for five seconds.
        for seq in 0..15_000 {
            world.origin.publish(&pair(1), realtime(1, seq, 1000));
            if seq % 3 == 2 {
                tokio::time::sleep(MS).await;
            }
        }
        reliable.abort();
        let (realtime, reliable) = (world.seqs(0, pair(1)).len(), world.seqs(0, pair(2)).len());
        println!("{realtime} realtime frames and {reliable} reliable ones of 1 kB in five seconds of 1 MB/s");
        assert!(realtime >= 500 && reliable >= 500, "neither starves: {realtime} and {reliable}");
    });
}
