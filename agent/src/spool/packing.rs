//! Full segments are packed while nobody takes their payloads: a file a fraction as large takes the place of each.
//!
//! The work is done by [`PackJob::run`] on a thread that may wait; the spool only hands it out and takes the result in. The
//! new file is whole and synced before one rename puts it in the place of the old one, so at every moment a crash leaves
//! either of them; what lies beside them is removed at opening.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Decompress;

use super::block::{self, Block, Packer};
use super::bounds::delete;
use super::ranges::Ranges;
use super::segment::{self, HEADER};
use super::{Durability, Spool};

/// Segments of one job; a job holds one thread for some 100 ms at most.
const SEGMENTS_AT_ONCE: usize = 4;
/// Below this a file takes its room on the disk anyhow.
const SEGMENT_MIN_BYTES: u64 = 4 << 10;
/// What a segment is packed into has this ending until it is whole.
pub const PART: &str = "part";

/// A segment to be packed.
#[derive(Debug)]
pub struct PackJob {
    class: usize,
    segment: u32,
    path: PathBuf,
    bytes: u64,
    blocks: Vec<Block>,
}

/// What became of it.
#[derive(Debug)]
pub struct PackDone {
    class: usize,
    segment: u32,
    part: PathBuf,
    result: io::Result<Written>,
}

#[derive(Debug)]
struct Written {
    blocks: Vec<Block>,
    present: Ranges,
    bytes: u64,
}

impl PackJob {
    #[must_use]
    pub fn run(self) -> PackDone {
        let part = self.path.with_extension(PART);
        let result = self.write(&part);
        if result.is_err() {
            // It may not be there at all.
            let _ = fs::remove_file(&part);
        }
        PackDone { class: self.class, segment: self.segment, part, result }
    }

    fn write(&self, part: &Path) -> io::Result<Written> {
        let plain = File::open(&self.path)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(part)?;
        file.write_all(HEADER)?;
        let mut written = Written { blocks: Vec::new(), present: Ranges::default(), bytes: HEADER.len() as u64 };
        let (mut packer, mut inflate) = (Packer::new(), Decompress::new(false));
        let mut out = Vec::new();
        for block in &self.blocks {
            let raw = segment::read_at(&plain, u64::from(block.offset), block.bytes)?;
            let offset = u32::try_from(written.bytes).map_err(io::Error::other)?;
            out.clear();
            let (packed, header) = packer.pack(&raw, offset, &mut out)?;
            // The plain one goes when this one is in its place: it has to say the same.
            if !block::unpack(&mut inflate, &out).is_some_and(|unpacked| raw.starts_with(&unpacked)) {
                return Err(io::Error::other("a packed block does not say what the plain one does"));
            }
            file.write_all(&out)?;
            written.bytes += u64::from(packed.bytes);
            written.blocks.push(packed);
            header.ranges.iter().for_each(|range| written.present.insert(*range));
            if written.bytes >= self.bytes {
                return Err(io::Error::other("packing saves nothing"));
            }
        }
        file.sync_all()?;
        Ok(written)
    }
}

impl Spool {
    /// Segments that are worth packing: full ones, but for the newest, which is mostly delivered before the next is full.
    pub fn take_packing(&mut self) -> Vec<PackJob> {
        let mut jobs = Vec::new();
        if self.durability != Durability::Disk {
            return jobs;
        }
        for (class, stream) in self.streams.iter_mut().enumerate() {
            let left_alone = 1 + usize::from(stream.active.is_some());
            let full = stream.segments.len().saturating_sub(left_alone);
            for segment in stream.segments.iter_mut().take(full) {
                if segment.packable && segment.bytes >= SEGMENT_MIN_BYTES && jobs.len() < SEGMENTS_AT_ONCE {
                    segment.packable = false;
                    jobs.push(PackJob {
                        class,
                        segment: segment.id,
                        path: segment.path.clone(),
                        bytes: segment.bytes,
                        blocks: segment.blocks.clone(),
                    });
                }
            }
        }
        jobs
    }

    /// Puts packed segments in the place of the plain ones. Where anything is wrong with one, the plain one stays.
    pub fn packed(&mut self, done: Vec<PackDone>) {
        for PackDone { class, segment: id, part, result } in done {
            let written = match result {
                Ok(written) => written,
                Err(error) => {
                    tracing::debug!(%error, part = %part.display(), "a segment stays as it is");
                    continue;
                }
            };
            if let Err(reason) = self.replace(class, id, &part, written) {
                tracing::debug!(%reason, part = %part.display(), "a packed segment is not wanted");
                delete(&part);
            }
        }
    }

    fn replace(&mut self, class: usize, id: u32, part: &Path, written: Written) -> Result<(), String> {
        let new_id = self.take_segment_id();
        let owed = &self.owed[class];
        let Some(segment) = self.streams[class].segments.iter_mut().find(|segment| segment.id == id) else {
            return Err("delivered meanwhile".to_owned());
        };
        // A record that became unreadable is told as lost when it is read, or at the next start; not hidden here.
        if !owed.within(segment.first, segment.last).all(|range| written.present.covers(&range)) {
            return Err("not everything could be read".to_owned());
        }
        fs::rename(part, &segment.path).map_err(|error| error.to_string())?;
        segment.id = new_id;
        segment.bytes = written.bytes;
        segment.blocks = written.blocks;
        self.reader.forget(id);
        Ok(())
    }
}
