//! The 64-byte header.

use net_transport::{HEADER_LEN, Header, Kind, PAYLOAD_LEN_MAX, Priority, ShortId, Visibility};

/// Parses the input; an accepted header comes back byte by byte from its fields.
pub fn run(data: &[u8]) -> bool {
    let Ok(header) = Header::parse(data) else {
        return false;
    };
    assert!(data.len() >= HEADER_LEN, "accepted a header that is not there");
    assert!(header.payload_len() <= PAYLOAD_LEN_MAX, "accepted a payload over the limit");
    assert_eq!(header.as_bytes()[..], data[..HEADER_LEN], "a parsed header differs from its bytes");

    let mut again = Header::new(header.kind());
    again.set_flags(header.flags());
    again.set_scope(header.visibility(), header.priority());
    again.set_ttl(header.ttl());
    again.set_payload_len(u32::try_from(header.payload_len()).expect("below the limit"));
    again.set_channel(header.channel());
    again.set_origin(header.origin());
    again.set_dest(header.dest());
    again.set_seq(header.seq());
    again.set_events(header.events());
    again.set_subnet(header.subnet());
    again.set_incarnation(header.incarnation());
    again.set_cap(header.cap());
    again.set_key_id(header.key_id());
    assert_eq!(again.as_bytes(), header.as_bytes(), "a field is lost or moved");

    // What is signed does not change with the only byte that a forwarder changes.
    again.set_ttl(header.ttl().wrapping_sub(1));
    assert_eq!(again.to_signed_bytes(), header.to_signed_bytes(), "the ttl is signed");
    true
}

/// One header of each kind, with every field set; the last with the longest payload.
pub fn seeds() -> Vec<Vec<u8>> {
    let kinds = [Kind::Batch, Kind::Tunnel, Kind::Rpc, Kind::Control, Kind::Unicast, Kind::Tick];
    let longest = u32::try_from(PAYLOAD_LEN_MAX).expect("a limit of the format");
    kinds
        .iter()
        .zip(0u8..)
        .map(|(kind, n)| {
            let mut header = Header::new(*kind);
            header.set_flags(if n == 0 { Header::SEALED } else { Header::REALTIME });
            header.set_scope(
                if n % 2 == 0 { Visibility::Local } else { Visibility::Exported },
                if n < 3 { Priority::Highest } else { Priority::Low },
            );
            header.set_ttl(n);
            header.set_payload_len(if n == 5 { longest } else { u32::from(n) });
            header.set_channel(0x0102_0304_0506_0708);
            header.set_origin(ShortId([n; 8]));
            header.set_dest(ShortId([n ^ 0xff; 8]));
            header.set_seq(u64::MAX - u64::from(n));
            header.set_events(u16::from(n));
            header.set_subnet([3, 7, n, 0]);
            header.set_incarnation(1 << 60);
            header.set_cap([n; 4]);
            header.set_key_id([n, 1, 2, 3]);
            header.as_bytes().to_vec()
        })
        .collect()
}
