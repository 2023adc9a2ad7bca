use std::os::unix::fs::PermissionsExt;

use super::*;

fn dir() -> (tempfile::TempDir, StateDir) {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = StateDir::open(temporary.path().join("node")).expect("it is made");
    (temporary, dir)
}

fn peer(n: u8) -> Peer {
    let keys = NodeKeys::from_seed(&Seed::new([n; 32]));
    Peer { binding: *keys.binding(), addresses: vec!["127.0.0.1:4711".parse().expect("an address")] }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn everything_is_private() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    lock.keys_or_new().expect("keys");
    lock.mesh_or_new().expect("a mesh");
    lock.set_peers(&[peer(1)]).expect("peers");
    lock.set_port(4711).expect("a port");
    assert_eq!(mode(dir.path()), 0o700);
    for name in ["seed", "mesh", "peers", "port", "LOCK"] {
        assert_eq!(mode(&dir.file(name)), 0o600, "{name}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    let (keys, mesh) = (lock.keys_or_new().expect("keys"), lock.mesh_or_new().expect("a mesh"));
    lock.set_port(4711).expect("a port");
    drop(lock);
    let again = StateDir::open(dir.path()).expect("it is there");
    assert_eq!(again.keys().expect("whole").expect("there").id(), keys.id());
    let read = again.mesh().expect("whole").expect("there");
    assert_eq!((read.id(), read.current()), (mesh.id(), mesh.current()));
    assert_eq!(again.port(), Some(4711));
    assert!(again.peers().expect("none is fine").is_empty());
}

#[test]
fn wider_modes_are_refused_with_the_command_that_mends_them() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    lock.keys_or_new().expect("keys");
    fs::set_permissions(dir.file("seed"), fs::Permissions::from_mode(0o640)).expect("ours");
    let error = dir.keys().expect_err("the group may read it").to_string();
    assert!(error.contains("chmod 600"), "{error}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).expect("ours");
    let error = StateDir::open(dir.path()).expect_err("the group may enter it").to_string();
    assert!(error.contains("chmod 700") && error.contains("0750"), "{error}");
}

#[test]
fn second_opener_hears_who_is_first() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    match dir.lock() {
        Err(StateError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(lock);
    dir.lock().expect("free again");
}

#[test]
fn each_flipped_byte_and_each_shorter_file_is_damaged_or_of_another_version() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    lock.mesh_or_new().expect("a mesh");
    let path = dir.file("mesh");
    let good = fs::read(&path).expect("there");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        secret_file::replace(&path, &bad).expect("written");
        assert!(matches!(dir.mesh(), Err(StateError::Damaged { .. })), "byte {at}");
        secret_file::replace(&path, &good[..at]).expect("written");
        assert!(matches!(dir.mesh(), Err(StateError::Damaged { .. })), "{at} bytes");
    }
    secret_file::replace(&path, &[&good[..], &[0]].concat()).expect("written");
    assert!(dir.mesh().is_err());
    secret_file::replace(&path, &good).expect("written");
    assert!(dir.mesh().is_ok());
}

#[test]
fn file_of_a_later_version_is_not_called_damaged() {
    let (_temporary, dir) = dir();
    let later = record::Format { version: 2, ..PEERS };
    secret_file::create(&dir.file("peers"), &later.encode(&Vec::<Peer>::new())).expect("written");
    assert!(matches!(dir.peers(), Err(StateError::Version(_))));
}

#[test]
fn golden_files_of_version_1_are_read() {
    let (_temporary, dir) = dir();
    let record = MeshRecord { id: MeshId([1; 32]), generation: 2, psk: Psk::new([3; 32]) };
    let golden: &[u8] = include_bytes!("../../tests/data/v1/mesh");
    assert_eq!(MESH.encode(&record), golden);
    secret_file::create(&dir.file("mesh"), golden).expect("written");
    let mesh = dir.mesh().expect("whole").expect("there");
    assert_eq!((mesh.id(), mesh.current().0), (MeshId([1; 32]), 2));
    let golden: &[u8] = include_bytes!("../../tests/data/v1/peers");
    assert_eq!(PEERS.encode(&vec![peer(7)]), golden);
    secret_file::create(&dir.file("peers"), golden).expect("written");
    assert_eq!(dir.peers().expect("whole"), [peer(7)]);
}

#[test]
fn peers_are_bounded_and_the_newer_addresses_count() {
    let (_temporary, dir) = dir();
    let lock = dir.lock().expect("nobody holds it");
    let many: Vec<Peer> = (0..=u8::MAX).map(peer).collect();
    lock.set_peers(&many).expect("cut");
    assert_eq!(dir.peers().expect("whole"), &many[..PEERS_MAX]);
    let moved = Peer { addresses: vec!["127.0.0.1:1".parse().expect("an address"); 40], ..peer(3) };
    lock.add_peers(std::slice::from_ref(&moved)).expect("added");
    let peers = dir.peers().expect("whole");
    assert_eq!((peers.len(), peers[0].node()), (PEERS_MAX, moved.node()));
    assert_eq!(peers[0].addresses.len(), PEER_ADDRESSES_MAX);
    assert_eq!(peers.iter().filter(|p| p.node() == moved.node()).count(), 1);
}

#[test]
fn names_of_meshes_are_names_of_directories_and_nothing_else() {
    for name in ["", ".", "..", ".hidden", "a/b", "a b", "ü", &"x".repeat(65)] {
        assert!(matches!(StateDir::path_of(name), Err(StateError::BadName(_))), "{name}");
    }
    if let Ok(path) = StateDir::path_of("demo-1.2_3") {
        assert!(path.ends_with("net/demo-1.2_3"));
    }
}

#[test]
fn what_is_no_directory_is_said_to_be_none() {
    let (temporary, _dir) = dir();
    let file = temporary.path().join("file");
    fs::write(&file, "x").expect("written");
    assert!(matches!(StateDir::open(&file), Err(StateError::NotADirectory(_))));
    assert!(matches!(StateDir::open(file.join("below")), Err(StateError::Io { .. })));
}
