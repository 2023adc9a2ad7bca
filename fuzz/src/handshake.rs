//! The handshake of a link: two sessions talk, and one of the four messages is cut, changed or replaced.

use std::sync::Arc;

use net_transport::crypto::{
    CREDENTIAL_LEN_MAX, Entropy, LinkIdentity, PeerIdentity, client_config, server_config, version,
};
use net_transport::{Mesh, MeshId, NodeKeys, OpenAdmission, Psk, Seed};
use quinn_proto::crypto::Session;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{Side, TransportError};

const INITIATOR: [u8; 32] = [1; 32];
const RESPONDER: [u8; 32] = [2; 32];
const GENERATION: u8 = 1;

/// What becomes of a message.
enum Deed<'a> {
    /// It comes in pieces of these lengths.
    Cut(&'a [u8]),
    /// Bytes of it are changed: place (16 bits) and what is added to it without carry, again and again.
    Change(&'a [u8]),
    /// Something else comes in its place.
    Replace(&'a [u8]),
    /// Nothing; the initiator shows this credential.
    Credential(&'a [u8]),
}

/// `which message ‖ what becomes of it ‖ with what`. Accepted if the handshake is completed.
pub fn run(data: &[u8]) -> bool {
    let [message, deed, rest @ ..] = data else { return false };
    let touched = usize::from(message % 4);
    let deed = match deed % 4 {
        0 => Deed::Cut(rest),
        1 => Deed::Change(rest),
        2 => Deed::Replace(rest),
        _ => Deed::Credential(&rest[..rest.len().min(CREDENTIAL_LEN_MAX)]),
    };
    let credential = if let Deed::Credential(credential) = deed { credential } else { &[] };
    let (mut initiator, mut responder) = sessions(credential);
    let mut written = write(&mut *initiator);
    // M1, M2 and the responder's authentication, the initiator's.
    for message in 0..4 {
        let honest = if written.is_empty() { return false } else { written.remove(0) };
        let reader = if message % 3 == 0 { &mut *responder } else { &mut *initiator };
        let delivered =
            if message == touched { deliver(reader, &honest, &deed) } else { Ok((read(reader, &honest), true)) };
        let (result, is_honest) = match delivered {
            Ok(delivered) => delivered,
            Err(Unchanged) => return false,
        };
        let out = if result.is_ok() { write(reader) } else { Vec::new() };
        let knows = message != 3 || reader.peer_identity().is_some();
        // M2 moves its reader without anything to write; that its keys were given shows in what follows.
        let moved = match message {
            1 => true,
            3 => !reader.is_handshaking(),
            _ => !out.is_empty(),
        };
        if is_honest {
            assert!(result.is_ok() && moved && knows, "honest message {message} is refused");
        } else {
            if result.is_err() {
                assert!(read(reader, &honest).is_err(), "a session that has failed goes on");
                assert!(write(reader).is_empty(), "a session that has failed speaks");
            }
            assert!(reader.is_handshaking(), "message {message} was taken although it is another's");
            assert!(out.is_empty(), "message {message} was answered although it is another's");
            return false;
        }
        written.extend(out);
    }
    assert!(!initiator.is_handshaking() && !responder.is_handshaking());
    let met = peer(&*responder);
    assert_eq!((met.node, &met.credential[..]), (NodeKeys::from_seed(&Seed::new(INITIATOR)).id(), credential));
    assert_eq!(peer(&*initiator).node, NodeKeys::from_seed(&Seed::new(RESPONDER)).id());
    assert!(read(&mut *initiator, data).is_err() && read(&mut *responder, data).is_err(), "read after the end");
    true
}

/// There is nothing to deliver.
struct Unchanged;

/// Delivers what becomes of the message, and tells what came of it and whether it is still the honest one.
fn deliver(
    reader: &mut dyn Session,
    honest: &[u8],
    deed: &Deed<'_>,
) -> Result<(Result<(), TransportError>, bool), Unchanged> {
    Ok(match deed {
        Deed::Credential(_) => (read(reader, honest), true),
        Deed::Cut(lengths) => {
            let mut rest = honest;
            let mut result = Ok(());
            for len in *lengths {
                let (piece, after) = rest.split_at(usize::from(*len).min(rest.len().saturating_sub(1)));
                result = result.and_then(|()| read(reader, piece));
                rest = after;
            }
            (result.and_then(|()| read(reader, rest)), true)
        }
        Deed::Change(changes) => {
            let mut changed = honest.to_vec();
            let (changes, _) = changes.as_chunks::<3>();
            for [low, high, by] in changes {
                let at = usize::from(u16::from_le_bytes([*low, *high])) % changed.len();
                changed[at] ^= by;
            }
            (read(reader, &changed), changed == honest)
        }
        Deed::Replace([]) => return Err(Unchanged),
        Deed::Replace(bytes) => (read(reader, bytes), *bytes == honest),
    })
}

fn read(session: &mut dyn Session, bytes: &[u8]) -> Result<(), TransportError> {
    session.read_handshake(bytes).map(drop)
}

/// All that a session has to say, message by message.
fn write(session: &mut dyn Session) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    loop {
        let mut out = Vec::new();
        let keys = session.write_handshake(&mut out);
        if out.is_empty() && keys.is_none() {
            return written;
        }
        if !out.is_empty() {
            written.push(out);
        }
    }
}

fn peer(session: &dyn Session) -> PeerIdentity {
    let peer = session.peer_identity().expect("the handshake is over");
    *peer.downcast().expect("a link knows its peer")
}

fn sessions(credential: &[u8]) -> (Box<dyn Session>, Box<dyn Session>) {
    let identity = |seed| {
        let mesh = Mesh::new(MeshId([7; 32]), GENERATION, Psk::new([8; 32]));
        Arc::new(LinkIdentity::new(NodeKeys::from_seed(&Seed::new(seed)), mesh))
    };
    let (initiator, responder) = (identity(INITIATOR), identity(RESPONDER));
    initiator.set_credential(credential.to_vec().into()).expect("it was cut to the limit");
    let remote = *responder.keys().binding();
    let params = TransportParameters::read(Side::Client, &mut &PARAMETERS[..]).expect("a connection id");
    let dialler = client_config(initiator, remote, Entropy::seeded(INITIATOR));
    let listener = server_config(responder, Arc::new(OpenAdmission), Entropy::seeded(RESPONDER));
    let dialled = dialler.start_session(version(GENERATION), "", &params).expect("a node that can be dialled");
    (dialled, listener.start_session(version(GENERATION), &params))
}

/// Transport parameters that hold a connection id and nothing else.
const PARAMETERS: [u8; 10] = [0x0f, 8, 1, 2, 3, 4, 5, 6, 7, 8];

/// Every message in pieces, changed into itself, and repeated; and a credential.
pub fn seeds() -> Vec<Vec<u8>> {
    let honest = honest();
    let mut seeds: Vec<Vec<u8>> = (0..4).map(|message| vec![message, 0, 1, 2, 0, 60, 200]).collect();
    seeds.extend((0..4).map(|message| vec![message, 1, 40, 0, 3, 40, 0, 3]));
    seeds.extend((0u8..).zip(&honest).map(|(message, bytes)| [&[message, 2], &bytes[..]].concat()));
    seeds.push([&[3, 3][..], b"a capability"].concat());
    seeds
}

/// The four messages of a handshake that nobody touches; entropy is seeded, so they are always the same.
fn honest() -> Vec<Vec<u8>> {
    let (mut initiator, mut responder) = sessions(&[]);
    let mut all = Vec::new();
    let mut written = write(&mut *initiator);
    for message in 0..4 {
        let bytes = written.remove(0);
        let reader = if message % 3 == 0 { &mut *responder } else { &mut *initiator };
        read(reader, &bytes).expect("an honest message");
        written.extend(write(reader));
        all.push(bytes);
    }
    all
}
