//! Lines that the database refused for good, in a file an operator can read, mend and send by hand.
//!
//! `# TIME REASON` stands before each. Two files, so that the newest are always there: `quarantine.lines`, and the one before
//! it with `.old`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A file above this becomes the old one.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
}

impl Quarantine {
    pub fn in_dir(dir: &Path) -> Quarantine {
        Quarantine { path: dir.join("quarantine.lines") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps lines, each ended by its newline. Blocks.
    pub fn keep(&self, lines: &[u8], reason: &str) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= MAX_BYTES) {
            std::fs::rename(&self.path, self.path.with_extension("lines.old"))?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut text = format!("# {now} {reason}\n").into_bytes();
        text.extend_from_slice(lines);
        file.write_all(&text)?;
        file.sync_data()
    }
}
