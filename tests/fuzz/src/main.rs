//! The long form: libFuzzer over the target that `BCP_FUZZ_TARGET` names. With `BCP_FUZZ_SEEDS=DIR` it writes the names,
//! seeds and words of all targets there instead, and ends. `tests/run fuzz` does both.

#![no_main]

use std::path::Path;
use std::process::exit;
use std::sync::OnceLock;

use bcp_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |bytes: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.run)(bytes);
    }
});

fn choose() {
    if let Ok(dir) = std::env::var("BCP_FUZZ_SEEDS") {
        if let Err(error) = write_seeds(Path::new(&dir)) {
            eprintln!("error: the seeds cannot be written to {dir}: {error}");
            exit(1);
        }
        exit(0);
    }
    let name = std::env::var("BCP_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => drop(CHOSEN.set(target)),
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("error: BCP_FUZZ_TARGET is to be one of {}", names.join(", "));
            exit(64);
        }
    }
}

fn write_seeds(dir: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let seeds = dir.join(target.name).join("seeds");
        std::fs::create_dir_all(&seeds)?;
        for (number, seed) in target.seeds().iter().enumerate() {
            std::fs::write(seeds.join(format!("{number:03}")), seed)?;
        }
        let quoted = |word: &str| format!("\"{}\"\n", word.replace('\\', "\\\\").replace('"', "\\\""));
        let words: String = target.words.split_whitespace().map(quoted).collect();
        // libFuzzer refuses a list that is empty.
        std::fs::write(dir.join(target.name).join("words"), format!("# {}\n{words}", target.name))?;
        println!("{}", target.name);
    }
    Ok(())
}
