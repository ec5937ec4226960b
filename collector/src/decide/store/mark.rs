//! How far the decide database was acknowledged, in a file of its own.
//!
//! A database that lost its last commits looks whole: its log ends earlier, its vote is an older one. The mark says how many
//! commits were acknowledged, so that such a database is refused. Invariant: it is on disk before a commit is acknowledged, and
//! never ahead of what was committed. Two places are written in turn, so a torn write leaves the one before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Places lie on pages of their own.
const PLACES: [u64; 2] = [0, 4_096];
const LENGTH: usize = 12;

#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("decide.mark")
}

fn encoded(commits: u64) -> [u8; LENGTH] {
    let mut place = [0; LENGTH];
    place[..8].copy_from_slice(&commits.to_le_bytes());
    place[8..].copy_from_slice(&crc32c::crc32c(&commits.to_le_bytes()).to_le_bytes());
    place
}

fn decoded(place: [u8; LENGTH]) -> Option<u64> {
    let commits = u64::from_le_bytes(place[..8].try_into().ok()?);
    (encoded(commits) == place).then_some(commits)
}

impl Mark {
    /// Opens or creates it. With the number of commits that it knows of; none where it is new or cannot be read.
    pub(super) fn open(dir: &Path) -> std::io::Result<(Mark, Option<u64>)> {
        let path = path(dir);
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let read = |at: u64| {
            let mut place = [0; LENGTH];
            file.read_exact_at(&mut place, at).ok().and_then(|()| decoded(place))
        };
        let known = PLACES.into_iter().filter_map(read).max();
        let mark = Mark { file };
        if is_new {
            std::fs::File::open(dir)?.sync_all()?;
        }
        Ok((mark, known))
    }

    /// Both places tell of so many commits, and have their room on the disk.
    pub(super) fn begin(&self, commits: u64) -> std::io::Result<()> {
        self.set(commits)?;
        self.file.write_all_at(&encoded(commits), PLACES[usize::from(commits.is_multiple_of(2))])?;
        self.file.sync_all()
    }

    /// So many commits are on disk. Itself on disk when this returns.
    pub(super) fn set(&self, commits: u64) -> std::io::Result<()> {
        let at = PLACES[usize::from(!commits.is_multiple_of(2))];
        self.file.write_all_at(&encoded(commits), at)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_place_leaves_the_one_before() {
        let dir = std::env::temp_dir().join(format!("bcp-mark-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir).unwrap();
        let (mark, known) = Mark::open(&dir).unwrap();
        assert_eq!(known, None);
        for commits in 1..=7 {
            mark.set(commits).unwrap();
        }
        assert_eq!(Mark::open(&dir).unwrap().1, Some(7));
        mark.file.write_all_at(&[9, 0, 0], PLACES[1]).unwrap();
        assert_eq!(Mark::open(&dir).unwrap().1, Some(6));
        mark.file.set_len(0).unwrap();
        assert_eq!(Mark::open(&dir).unwrap().1, None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
