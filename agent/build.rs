//! Collects the profiles of `firmware-configs/` into one list that is compiled into the agent.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../firmware-configs");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut profiles: Vec<(String, PathBuf)> = Vec::new();
    for vendor in fs::read_dir(&root)?.collect::<Result<Vec<_>, _>>()? {
        if !vendor.path().is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed={}", vendor.path().display());
        for file in fs::read_dir(vendor.path())?.collect::<Result<Vec<_>, _>>()? {
            let path = file.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(".toml") && !name.ends_with(".evidence.toml") {
                let model = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
                println!("cargo::rerun-if-changed={}", path.display());
                profiles.push((format!("{}/{model}", vendor.file_name().to_string_lossy()), path));
            }
        }
    }
    profiles.sort();
    let mut code = String::from("&[\n");
    for (id, path) in profiles {
        let path = fs::canonicalize(path)?;
        writeln!(code, "    ({id:?}, include_str!({:?})),", path.display().to_string()).map_err(io::Error::other)?;
    }
    code.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("profiles.rs"), code)
}
