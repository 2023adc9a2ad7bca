use quinn_proto::crypto::{HeaderKey as _, PacketKey as _};

use super::*;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

/// The ChaCha20-Poly1305 short header packet of RFC 9001, appendix A.5.
#[test]
fn the_packet_of_rfc_9001_comes_out() {
    let key = Secret::new(hex("c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8"));
    let hp = Secret::new(hex("25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4"));
    let packet_key = PacketKey::from_parts(&key, hex("e0459b3474bdd0e44a41c144"));
    let header_key = HeaderKey::from_key(&hp);
    let number = 654_360_564;
    let header: [u8; 4] = hex("4200bff4");
    let mut packet = [&header[..], &[0x01], &[0; 16]].concat();

    packet_key.encrypt(number, &mut packet, header.len());
    assert_eq!(packet[4..], hex::<17>("655e5cd55c41f69080575d7999c25a5bfb"));
    header_key.encrypt(1, &mut packet);
    assert_eq!(packet[..], hex::<21>("4cfe4189655e5cd55c41f69080575d7999c25a5bfb"));

    header_key.decrypt(1, &mut packet);
    assert_eq!(packet[..4], header);
    let mut payload = BytesMut::from(&packet[4..]);
    packet_key.decrypt(number, &header, &mut payload).unwrap();
    assert_eq!(payload[..], [0x01]);
    assert!(packet_key.decrypt(number + 1, &header, &mut BytesMut::from(&packet[4..])).is_err());
    assert!(packet_key.decrypt(number, &header[..3], &mut BytesMut::from(&packet[4..])).is_err());
    assert!(packet_key.decrypt(number, &header, &mut BytesMut::from(&packet[4..12])).is_err(), "shorter than a tag");
}

#[test]
fn long_headers_keep_their_upper_four_bits() {
    let header_key = HeaderKey::from_key(&Secret::new([5; 32]));
    for first in 0..=u8::MAX {
        let mut packet: Vec<u8> = (0..40).collect();
        packet[0] = first;
        let clear = packet.clone();
        header_key.encrypt(7, &mut packet);
        assert_eq!(packet[0] & 0xe0, first & 0xe0, "these bits are in the clear in every packet");
        assert!(first & 0x80 == 0 || packet[0] & 0x10 == first & 0x10);
        assert_eq!(packet[11..], clear[11..], "the sample and what follows");
        header_key.decrypt(7, &mut packet);
        assert_eq!(packet, clear);
    }
}
