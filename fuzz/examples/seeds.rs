//! Writes the seeds of every target that are missing in `corpus/`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in net_fuzz::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&dir)?;
        for (at, seed) in (target.seeds)().iter().enumerate() {
            let path = dir.join(format!("seed-{at}"));
            if fs::read(&path).ok().as_ref() != Some(seed) {
                fs::write(&path, seed)?;
                println!("wrote {}", path.display());
            }
        }
    }
    Ok(())
}
