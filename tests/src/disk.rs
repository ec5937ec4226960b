//! A small disk of one directory's own, which can be full or hang.
//!
//! Needs root: a mount that is refused is said, and is no fault.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Fills the disk and nothing else.
const FILLER: &str = "filler";
const PIECE: [u8; 4096] = [0; 4096];
const SIZE_MIB: u64 = 48;

/// What the disk can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory: can be filled.
    Memory,
    /// A file system in a file, which can be frozen: writers wait until it is thawed.
    Freezing,
}

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    image: Option<PathBuf>,
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    if !done.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

impl Disk {
    /// Mounts one at `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// This system refuses.
    pub fn mount(dir: &Path, kind: Kind) -> Result<Disk> {
        std::fs::create_dir_all(dir)?;
        let mut disk = Disk { dir: dir.to_owned(), image: None };
        match kind {
            Kind::Memory => {
                let size = format!("size={SIZE_MIB}m,mode=700");
                run(
                    "mount",
                    &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "none".as_ref(), dir.as_ref()],
                )?;
            }
            Kind::Freezing => {
                let image = dir.with_extension("image");
                File::create(&image)?.set_len(SIZE_MIB * 1024 * 1024)?;
                disk.image = Some(image.clone());
                run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()])?;
                run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), dir.as_ref()])?;
            }
        }
        Ok(disk)
    }

    /// Not a byte more fits on it.
    ///
    /// # Errors
    /// Anything but a full disk.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.dir.join(FILLER))?;
        for piece in [&PIECE[..], &PIECE[..1]] {
            loop {
                match filler.write_all(piece) {
                    Ok(()) => {}
                    Err(fault) if fault.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(fault) => return Err(fault.into()),
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// It was not filled.
    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.dir.join(FILLER))?)
    }

    /// Writers wait from now on.
    ///
    /// # Errors
    /// The file system cannot be frozen.
    pub fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["--freeze".as_ref(), self.dir.as_ref()])
    }

    /// # Errors
    /// It was not frozen.
    pub fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["--unfreeze".as_ref(), self.dir.as_ref()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A frozen one would hold up whoever still writes. What is not frozen or not mounted says so, and that is all.
        if self.image.is_some() {
            let _ = self.thaw();
        }
        let _ = run("umount", &["--lazy".as_ref(), self.dir.as_ref()]);
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}
