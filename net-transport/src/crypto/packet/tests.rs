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
    let packet_key = PacketKey::from_parts(Aead::ChaCha20Poly1305, &key, hex("e0459b3474bdd0e44a41c144"));
    let header_key = HeaderKey::from_key(Aead::ChaCha20Poly1305, &hp);
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

/// Test case 14 of the GCM specification (McGrew and Viega), as a packet without header, and the AES-256 block of FIPS 197, C.3,
/// whose first five bytes are the mask (RFC 9001 §5.4.3).
#[test]
fn the_vectors_of_aes_256_come_out() {
    let packet_key = PacketKey::from_parts(Aead::Aes256Gcm, &Secret::new([0; 32]), [0; 12]);
    let mut packet = [0; 32];
    packet_key.encrypt(0, &mut packet, 0);
    assert_eq!(packet, hex::<32>("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"));
    let mut payload = BytesMut::from(&packet[..]);
    packet_key.decrypt(0, &[], &mut payload).unwrap();
    assert_eq!(payload[..], [0; 16]);

    let header_key = HeaderKey::from_key(
        Aead::Aes256Gcm,
        &Secret::new(hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")),
    );
    let packet = [&[0; 5][..], &hex::<16>("00112233445566778899aabbccddeeff")].concat();
    assert_eq!(header_key.mask(1, &packet), hex("8ea2b7ca51"));
}

#[test]
fn long_headers_keep_their_upper_four_bits() {
    for (aead, first) in [Aead::ChaCha20Poly1305, Aead::Aes256Gcm]
        .into_iter()
        .flat_map(|aead| (0..=u8::MAX).map(move |first| (aead, first)))
    {
        let header_key = HeaderKey::from_key(aead, &Secret::new([5; 32]));
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
