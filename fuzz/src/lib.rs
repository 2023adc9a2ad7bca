//! What the fuzz targets do, as plain functions, so that tests run them over the corpora without a fuzzer.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(not(fuzzing))]
compile_error!("build this with --cfg=fuzzing, as .cargo/config.toml does where RUSTFLAGS is not set");

pub mod advert;
pub mod batch;
pub mod binding;
pub mod control;
pub mod cursor;
pub mod filter;
pub mod grant;
pub mod handshake;
pub mod header;
pub mod index;
pub mod key_ring;
pub mod manifest;
pub mod message;
pub mod record;
pub mod tick;
pub mod ticket;
pub mod world;

/// A target and where its corpus comes from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its program in `targets/` and its folder in `corpus/`.
    pub name: &'static str,
    /// Runs one input; says whether it was accepted. Panics when a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that are accepted, of each shape.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "header", run: header::run, seeds: header::seeds },
    Target { name: "binding", run: binding::run, seeds: binding::seeds },
    Target { name: "ticket", run: ticket::run, seeds: ticket::seeds },
    Target { name: "batch", run: batch::run, seeds: batch::seeds },
    Target { name: "advert", run: advert::run, seeds: advert::seeds },
    Target { name: "grant", run: grant::run, seeds: grant::seeds },
    Target { name: "tick", run: tick::run, seeds: tick::seeds },
    Target { name: "message", run: message::run, seeds: message::seeds },
    Target { name: "control", run: control::run, seeds: control::seeds },
    Target { name: "handshake", run: handshake::run, seeds: handshake::seeds },
    Target { name: "record", run: record::run, seeds: record::seeds },
    Target { name: "manifest", run: manifest::run, seeds: manifest::seeds },
    Target { name: "index", run: index::run, seeds: index::seeds },
    Target { name: "cursor", run: cursor::run, seeds: cursor::seeds },
    Target { name: "key_ring", run: key_ring::run, seeds: key_ring::seeds },
    Target { name: "filter", run: filter::run, seeds: filter::seeds },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn each_corpus_holds_inputs_that_are_accepted() {
        for target in TARGETS {
            let dir = folder("corpus").join(target.name);
            let files =
                fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}: run the example `seeds`", dir.display()));
            let (mut accepted, mut all) = (0, 0);
            for file in files {
                let input = fs::read(file.expect("a readable folder").path()).expect("a readable file");
                all += 1;
                accepted += usize::from((target.run)(&input));
            }
            println!("{}: {accepted} of {all} inputs are accepted", target.name);
            assert!(accepted > 0, "{}: none of {all} inputs in its corpus is accepted", target.name);
        }
    }

    #[test]
    fn every_seed_is_accepted_and_in_the_corpus() {
        for target in TARGETS {
            let corpus: BTreeSet<_> = fs::read_dir(folder("corpus").join(target.name))
                .expect("a corpus")
                .map(|file| fs::read(file.expect("a readable folder").path()).expect("a readable file"))
                .collect();
            for (at, seed) in (target.seeds)().iter().enumerate() {
                assert!((target.run)(seed), "{}: seed {at} is not accepted", target.name);
                assert!(corpus.contains(seed), "{}: seed {at} is missing: run the example `seeds`", target.name);
            }
        }
    }

    #[test]
    fn programs_corpora_and_targets_agree() {
        let names = |dir: &str| -> BTreeSet<String> {
            fs::read_dir(folder(dir))
                .expect("a folder")
                .filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()))
                .filter(|name| name != "self_test")
                .collect()
        };
        let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        assert_eq!(names("targets"), targets);
        assert_eq!(names("corpus"), targets);
        let manifest = fs::read_to_string(folder("Cargo.toml")).expect("the manifest");
        for name in targets {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} has no [[bin]]");
        }
    }
}
