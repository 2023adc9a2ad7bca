use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use net_identity::secret_file::{self, SecretFileError};
use net_identity::{EntityKey, Keystore, KeystoreError, Passphrase};

fn store() -> (tempfile::TempDir, Keystore) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Keystore::open(dir.path().join("keys")).expect("a keystore opens");
    (dir, store)
}

#[test]
fn a_created_key_loads_again_and_is_listed() {
    let (_dir, store) = store();
    let bob = store.create("bob", None).expect("bob is new");
    let alice = store.create("alice-2_x", None).expect("alice is new");
    assert_eq!(store.load("bob", None).expect("bob is there").id(), bob.id());
    let listed: Vec<_> = store.list().expect("a list").into_iter().map(|e| (e.name, e.id, e.sealed)).collect();
    assert_eq!(listed, [("alice-2_x".to_owned(), alice.id(), false), ("bob".to_owned(), bob.id(), false)]);
}

#[test]
fn a_sealed_key_needs_its_passphrase() {
    let (_dir, store) = store();
    let passphrase = Passphrase::new("four words are better".into());
    let key = store.create("carol", Some(&passphrase)).expect("carol is new");
    assert_eq!(store.load("carol", Some(&passphrase)).expect("it opens").id(), key.id());
    assert!(matches!(store.load("carol", None), Err(KeystoreError::PassphraseNeeded { .. })));
    let wrong = Passphrase::new("four words are bitter".into());
    assert!(matches!(store.load("carol", Some(&wrong)), Err(KeystoreError::WrongPassphrase { .. })));
    let entry = store.list().expect("a list without the passphrase").remove(0);
    assert_eq!((entry.id, entry.sealed), (key.id(), true));
}

#[test]
fn files_and_directory_are_for_their_owner_alone() {
    let (_dir, store) = store();
    store.create("dave", None).expect("dave is new");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    assert_eq!(mode(store.directory()), 0o700);
    assert_eq!(mode(&store.directory().join("dave.key")), 0o600);
}

#[test]
fn a_wider_mode_is_refused_and_the_error_says_how_to_mend_it() {
    let (_dir, store) = store();
    store.create("erin", None).expect("erin is new");
    let path = store.directory().join("erin.key");
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let error = store.load("erin", None).expect_err("others may use it");
        assert!(matches!(error, KeystoreError::File(SecretFileError::Mode { mode: m, .. }) if m == mode));
        assert!(error.to_string().ends_with(&format!("run `chmod 600 {}`", path.display())), "{error}");
        assert!(store.list().is_err(), "a list does not step over it");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        assert!(store.load("erin", None).is_ok());
    }
}

#[test]
fn an_existing_key_is_never_overwritten() {
    let (_dir, store) = store();
    let first = store.create("frank", None).expect("frank is new");
    let error = store.import("frank", &EntityKey::generate(), None).expect_err("there is one");
    assert!(matches!(error, KeystoreError::File(SecretFileError::Exists(_))));
    assert_eq!(store.load("frank", None).expect("the first stays").id(), first.id());
    assert_eq!(fs::read_dir(store.directory()).expect("a directory").count(), 1, "nothing temporary stays behind");
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let (_dir, store) = store();
    for name in ["", "../x", "a/b", ".hidden", "a.b", "ü", "a b", "\0", &"a".repeat(65)] {
        assert!(matches!(store.create(name, None), Err(KeystoreError::Name { .. })), "{name:?}");
        assert!(matches!(store.load(name, None), Err(KeystoreError::Name { .. })), "{name:?}");
        assert!(matches!(store.remove(name), Err(KeystoreError::Name { .. })), "{name:?}");
    }
    assert!(store.create(&"a".repeat(64), None).is_ok());
}

#[test]
fn damage_and_absence_are_told_apart() {
    let (_dir, store) = store();
    assert!(matches!(store.load("gone", None), Err(KeystoreError::File(SecretFileError::Missing(_)))));
    secret_file::create(&store.directory().join("bad.key"), b"not a key").expect("a new file");
    assert!(matches!(store.load("bad", None), Err(KeystoreError::Damaged(_))));
    assert!(matches!(store.list(), Err(KeystoreError::Damaged(_))));
    store.remove("bad").expect("it was there");
    assert!(store.list().expect("now it is empty").is_empty());
}

#[test]
fn a_secret_file_is_replaced_whole_and_bounded() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("seed");
    secret_file::replace(&path, b"one").expect("it need not be there before");
    secret_file::replace(&path, b"two").expect("nor be absent");
    assert_eq!(*secret_file::read(&path).expect("it is 0600"), b"two");
    secret_file::replace(&path, &vec![1; secret_file::SECRET_LEN_MAX]).expect("at the limit");
    assert_eq!(secret_file::read(&path).expect("at the limit").len(), secret_file::SECRET_LEN_MAX);
    secret_file::replace(&path, &vec![1; secret_file::SECRET_LEN_MAX + 1]).expect("writing does not ask");
    assert!(matches!(secret_file::read(&path), Err(SecretFileError::TooLarge(_))));
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing temporary stays behind");
}

#[test]
fn secrets_do_not_show_in_debug() {
    let text = format!("{:?} {:?}", EntityKey::from_secret(&[0xab; 32]), Passphrase::new("open sesame".into()));
    assert!(!text.contains("171") && !text.contains("abab") && !text.contains("sesame"), "{text}");
}
