//! Batches made from the words of `docs/spec/batch.md` alone, so that every field can be wrong while all the others,
//! the signature included, are right.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use net_channel::{BatchError, OpenBatch, OpenError, SealParams, SealedBatch};
use net_identity::Signer;
use net_transport::{Aead, Header, Kind, prf};

use crate::fixture::{Fixture, TIME};

pub(crate) struct ByHand {
    pub(crate) header: Header,
    pub(crate) format: u8,
    pub(crate) flags: u8,
    /// The count in the seal, if it lies.
    pub(crate) parents_count: Option<u8>,
    pub(crate) zero: [u8; 5],
    pub(crate) parents: Vec<u8>,
    pub(crate) padding: u8,
    pub(crate) plaintext: Vec<u8>,
    pub(crate) salt: [u8; 16],
    /// The salt in the seal, if it is not the one that the key was derived with.
    pub(crate) salt_shown: Option<[u8; 16]>,
    pub(crate) key_commit: Option<[u8; 32]>,
    /// The flags in the seal, if they are not those that the body was sealed by.
    pub(crate) flags_shown: Option<u8>,
    /// Added to `len`, which is right with 0.
    pub(crate) len_error: i64,
}

impl ByHand {
    /// The same batch as [`Fixture::small`].
    pub(crate) fn small(fixture: &Fixture) -> Self {
        let mut header = Header::new(Kind::Batch);
        header.set_flags(Header::SEALED);
        header.set_channel(fixture.channel.prefix());
        header.set_origin(fixture.origin.short());
        header.set_seq(1_005);
        header.set_events(1);
        header.set_subnet([3, 7, 2, 0]);
        header.set_incarnation(1_000);
        header.set_key_id(fixture.sender_key.key_id().0);
        Self {
            header,
            format: 1,
            flags: 0,
            parents_count: None,
            zero: [0; 5],
            parents: Vec::new(),
            padding: 0,
            plaintext: plaintext(&[record(b"hello", b"", b"", 0)]),
            salt: [0x55; 16],
            salt_shown: None,
            key_commit: None,
            flags_shown: None,
            len_error: 0,
        }
    }

    pub(crate) fn frame(&self, fixture: &Fixture) -> Vec<u8> {
        let parents_len = self.parents.len();
        let padding = (192 + parents_len).next_multiple_of(16) - 192 - parents_len;
        let body_len = self.plaintext.len() + 16;
        let mut header = self.header;
        let len = i64::try_from(192 + parents_len + padding + body_len).expect("small") + self.len_error;
        header.set_payload_len(u32::try_from(len).expect("small"));

        let count = self.parents_count.unwrap_or_else(|| u8::try_from(parents_len / 24).expect("at most 255"));
        let mut seal = vec![self.format, self.flags_shown.unwrap_or(self.flags), count];
        seal.extend(self.zero);
        seal.extend(TIME.0.to_le_bytes());
        seal.extend([0x44; 32]);

        let seq = self.header.seq().to_le_bytes();
        let key = prf(fixture.sender_key.expose(), "batch", &[&fixture.channel.0, &seq, &self.salt]);
        let commit = self.key_commit.unwrap_or_else(|| blake3::derive_key("net batch key commit v1", &key));
        let salt = self.salt_shown.unwrap_or(self.salt);

        let associated = [&header.to_signed_bytes(), &seal[..], &commit, &salt, &self.parents].concat();
        let mut body = self.plaintext.clone();
        let cipher = if self.flags & 4 == 0 { &CHACHA20_POLY1305 } else { &AES_256_GCM };
        LessSafeKey::new(UnboundKey::new(cipher, &key).expect("32 bytes"))
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&associated), &mut body)
            .expect("small");

        seal.extend(blake3::hash(&body).as_bytes());
        seal.extend(commit);
        seal.extend(salt);
        let hashed = [b"net batch hash v1\0", &header.to_signed_bytes()[..], &seal, &self.parents].concat();
        let hash = blake3::hash(&hashed);
        let signed =
            [b"net batch v1\0", &fixture.mesh.0[..], &fixture.channel.0, fixture.origin.as_bytes(), hash.as_bytes()]
                .concat();
        seal.extend(fixture.signer.sign(&signed).expect("a key in memory signs"));

        let mut frame = header.as_bytes().to_vec();
        frame.extend(&seal);
        frame.extend(&self.parents);
        frame.extend(vec![self.padding; padding]);
        frame.extend(body);
        frame
    }

    pub(crate) fn verify(&self, fixture: &Fixture) -> Result<SealedBatch, BatchError> {
        fixture.verify(&self.frame(fixture))
    }

    /// Both ways to open agree.
    pub(crate) fn open(&self, fixture: &Fixture) -> Result<OpenBatch, OpenError> {
        let batch = self.verify(fixture).expect("the clear part is right");
        let copied = batch.open(&fixture.sender_key);
        let in_place = batch.open_in_place(&fixture.sender_key).map_err(|unopened| unopened.why);
        assert_eq!(copied.as_ref().map(OpenBatch::plaintext), in_place.as_ref().map(OpenBatch::plaintext));
        copied
    }
}

/// One record, with its padding.
pub(crate) fn record(payload: &[u8], key: &[u8], headers: &[u8], flags: u32) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("small").to_le_bytes().to_vec();
    bytes.extend(u16::try_from(key.len()).expect("small").to_le_bytes());
    bytes.extend(u16::try_from(headers.len()).expect("small").to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend([payload, key, headers].concat());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Records and the table of where they start.
pub(crate) fn plaintext(records: &[Vec<u8>]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut bytes = Vec::new();
    for record in records {
        table.extend(u32::try_from(bytes.len()).expect("small").to_le_bytes());
        bytes.extend(record);
    }
    bytes.extend(table);
    bytes
}

#[test]
fn what_is_made_by_hand_is_what_the_builder_makes() {
    let fixture = Fixture::new();
    assert_eq!(ByHand::small(&fixture).frame(&fixture), fixture.small().frame()[..]);
    let params = SealParams { aead: Aead::Aes256Gcm, ..fixture.params() };
    let sealed = crate::fixture::builder(&[b"hello"]).seal(&params).expect("it can be sealed");
    assert_eq!(ByHand { flags: 4, ..ByHand::small(&fixture) }.frame(&fixture), sealed.frame()[..]);
}

#[test]
fn body_opens_under_the_cipher_that_its_seal_names_and_no_other() {
    let fixture = Fixture::new();
    for flags in [0, 4] {
        let open = ByHand { flags, ..ByHand::small(&fixture) }.open(&fixture).expect("it opens");
        assert_eq!(open.event(0).expect("one").payload, b"hello");
        // The same body under the other name: the origin itself would have to sign that, and it does not open.
        let mut other = ByHand { flags, ..ByHand::small(&fixture) };
        other.flags_shown = Some(flags ^ 4);
        assert_eq!(other.open(&fixture).map(|_| ()), Err(OpenError::Body));
    }
}
